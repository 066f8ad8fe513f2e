"""Sites with patients who are followed up, and a hub that asks them for Cox models in rounds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from jipflow.analyses.cells import CLINICAL, CellKey, Measured, Place, Places
from jipflow.analyses.contract import Limits
from jipflow.analyses.cox import Cox, Settings
from jipflow.release.gate import decide
from jipflow.release.history import Candidate, History, Past
from jipflow.release.saturation import Regions
from jipflow.settings.protocol import Disclosure

GTV = Place("PT", "gtv", "tumour")
FEATURE = "original_glcm_Idn"
KEY = CellKey(*GTV, FEATURE)
FIVE = Disclosure(min_patients=5)
AGE = {"variable": "clinical.age", "center": 60, "scale": 10}
SEX = {"variable": "clinical.sex", "values": ["F", "M"], "reference": "M"}
SIZES = (60, 85, 120)


def patients(seed, rows, name="s", middle=0.0, effect=0.6):
    """Return patients of a site: a feature, age, sex, days and whether they died.

    Args:
        seed: of the random numbers.
        rows: how many.
        name: what their pseudonyms begin with.
        middle: mean of the feature, whose standard deviation is 1.
        effect: logarithm of the hazard ratio of the feature.
    """
    random = np.random.default_rng(seed)
    ids = [f"{name}{seed}{i:04d}" for i in range(rows)]
    feature, age = random.normal(size=rows), np.round(random.normal(62, 9, rows), 1)
    women = random.permutation(rows) % 2 == 0
    hazard = np.exp(effect * feature + 0.03 * (age - 62) - 0.4 * women) * (1 + seed % 5 / 5) / 900
    death, end = random.exponential(1 / hazard), random.uniform(100, 2500, rows)
    return pd.DataFrame(
        {
            "case_id": ids,
            "patient": [f"p{each}" for each in ids],
            FEATURE: middle + feature,
            "age": age,
            "sex": np.where(women, 0.0, 1.0),
            "days": np.ceil(np.minimum(death, end) / 30) * 30,
            "dead": (death <= end) * 1.0,
        }
    )


def measured(frame):
    """Return patients as a site has measured them."""
    keys, who = list(Place._fields), ["case_id", "patient"]
    image = frame[[*who, FEATURE]].assign(**dict(zip(keys, GTV, strict=True)))
    clinical = frame.drop(columns=FEATURE).assign(**dict(zip(keys, CLINICAL, strict=True)))
    names = [name for name in clinical if name not in {*who, *keys}]
    both = pd.concat([image, clinical], ignore_index=True)
    return Measured(both, Places.of([GTV], names))


def cox(id="survival", **changes):
    content = {"variables": [f"PT.{FEATURE}"], "time": "clinical.days", "event": "clinical.dead"}
    return Cox(Settings.model_validate({"id": id, "kind": "cox", **content, **changes}))


@dataclass
class Site:
    """A site with its gate and its ledger."""

    frame: pd.DataFrame
    pasts: list = field(default_factory=list)
    disclosure: Disclosure = FIVE

    def asked(self, *analyses, stated=None):
        """Return what leaves of the model of each analysis by its id, or the rule's code.

        Args:
            analyses: that are asked for in one release.
            stated: what the hub states of the model, by the analysis' id; None in round 1.
        """
        of_patients = measured(self.frame)
        cells = []
        for each in analyses:
            given = None if stated is None else {KEY: stated[each.settings.id]}
            cells += each.propose(of_patients, given)
        people = dict(zip(self.frame["case_id"], self.frame["patient"], strict=True))
        found = decide(cells, people, self.disclosure, Regions(), History(self.pasts))
        self.pasts.append(
            Past(
                [
                    Candidate(piece, decision.released).cell
                    for decision in found
                    if decision.released
                    for piece in decision.proposed.pieces
                ]
            )
        )
        return {
            d.proposed.analysis.settings.id: d.released
            or next(rule.code for rule, what in d.findings.items() if what == "withheld")
            for d in found
        }


@dataclass
class Ended:
    """What a hub has after the last round: cells by site, the merged one, how many rounds."""

    by_site: dict
    merged: dict
    rounds: int


def federation(analysis, frames, disclosure=FIVE):
    """Carry out all rounds; return what the hub has in the end, which it has verified."""
    sites = {f"site{i}": Site(frame, [], disclosure) for i, frame in enumerate(frames)}
    stated, id = None, analysis.settings.id
    for round_ in range(1, analysis.rounds + 1):
        if stated is not None:
            analysis.check_stated(stated, round_)
        given = None if stated is None else {id: stated}
        sent = {name: one.asked(analysis, stated=given)[id] for name, one in sites.items()}
        sent = {name: cell for name, cell in sent.items() if not isinstance(cell, str)}
        for cell in sent.values():
            analysis.verify(cell, Limits(disclosure.min_patients, 1, stated=stated))
        merged = analysis.merge(sent, stated)
        following = None
        if round_ < analysis.rounds and len(sent) >= 3:
            following = analysis.advance(round_, sent, stated)
        if following is None:
            return Ended(sent, merged, round_)
        assert merged["reason"] is None
        stated = following
    raise AssertionError
