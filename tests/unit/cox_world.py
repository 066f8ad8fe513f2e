"""Sites with patients who are followed up, and a hub that asks them for Cox models in rounds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from federation_world import MEAN, hub_settings, protocol, site
from jipflow.analyses.cells import CLINICAL, CellKey, Measured, Place, Places
from jipflow.analyses.cox import Cox, Settings
from jipflow.analyses.facts import Limits
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
        merged = analysis.merge(sent, stated) if sent else analysis.unanswered(stated)
        following = None
        if round_ < analysis.rounds and len(sent) >= 3:
            following = analysis.advance(round_, sent, stated)
        if following is None:
            return Ended(sent, merged, round_)
        assert merged["reason"] is None
        stated = following
    raise AssertionError


CLINICAL_VARIABLES = [
    {"name": "age", "type": "number", "unit": "a", "range": [0, 120]},
    {"name": "sex", "type": "category", "values": ["F", "M"]},
    {"name": "days", "type": "days", "range": [0, 20000]},
    {"name": "dead", "type": "event"},
    {"name": "relapse", "type": "event"},
    {"name": "score", "type": "number", "range": [-5, 5]},
]


def entry(id="survival", **more):
    """Return an entry of the protocol."""
    about = {"id": id, "kind": "cox", "variables": [f"CT.{MEAN}"], "segments": ["liver"]}
    return {**about, "time": "clinical.days", "event": "clinical.dead", **more}


def followed(root, *analyses, sizes=(90, 110, 140)):
    """Return three sites of a protocol whose patients are followed up, and the hub's settings."""
    content = protocol(analyses=list(analyses), clinical=CLINICAL_VARIABLES)
    made = [site(root, f"site{i}", n, i, content=content) for i, n in enumerate(sizes)]
    for i, one in enumerate(made):
        rows = patients(i, sizes[i])
        one.table.loc[one.table["segment"] == "liver", MEAN] = 60 + 10 * rows[FEATURE].to_numpy()
        cases = one.table[["case_id", "patient"]].drop_duplicates().reset_index(drop=True)
        rows["sex"] = np.where(rows["sex"] == 0, "F", "M")
        one.clinical = cases.join(rows[["age", "sex", "days", "dead"]])
        one.clinical[["relapse", "score"]] = np.nan
        if i == 1:
            one.clinical.loc[:23, "age"] = np.nan
        one.write()
    return made, hub_settings(made, root / "inbox", content)


def complete(made, *covariates):
    """Return cases of sites that have all of some variables, in the units of `AGE` and `SEX`."""
    found = []
    for one in made:
        liver = one.table[one.table["segment"] == "liver"].set_index("case_id")[[MEAN]]
        rows = liver.join(one.clinical.set_index("case_id")).assign(site=one.name)
        rows["age"] = (rows["age"] - 60) / 10
        rows["sex"] = (rows["sex"] == "F") * 1.0
        found.append(rows[[MEAN, *covariates, "days", "dead", "site"]].dropna())
    return pd.concat(found)
