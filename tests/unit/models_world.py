"""Three sites with features and clinical variables, for kinds whose cells are models."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd

from federation_world import ENERGY, MEAN, hub_settings, protocol, site
from jipflow.analyses.cells import Values
from jipflow.exchange.message import checked
from jipflow.hub.check import Asked, check_contents
from jipflow.hub.merge import advance
from jipflow.release.behind import read_behind
from jipflow.release.candidate import build
from jipflow.release.contents import formats

CLINICAL = [
    {"name": "age", "type": "number", "unit": "years", "range": [0, 120]},
    {"name": "sex", "type": "category", "values": ["F", "M"]},
    {"name": "stage", "type": "category", "values": ["I", "II", "III"]},
    {"name": "dead", "type": "event"},
    {"name": "visits", "type": "number", "range": [0, 1000]},
]
AGE = {"variable": "clinical.age", "center": 60, "scale": 10}
SEX = {"variable": "clinical.sex", "values": ["F", "M"], "reference": "M"}
STAGE = {"variable": "clinical.stage", "values": ["I", "II", "III"], "reference": "I"}
VOLUME = {"variable": "CT.volume_ml", "segmentation": "organs", "segment": "spleen"}
SIZES = (60, 75, 97)


def entry(kind, id="model", **more):
    variables = {"variables": [f"CT.{MEAN}"], "segments": ["liver"]}
    return {"id": id, "kind": kind, **variables, **more}


def clinical_of(made, seed):
    """Return clinical variables of a site's patients, some of which are missing."""
    rng = np.random.default_rng(1000 + seed)
    cases = made.table[["case_id", "patient"]].drop_duplicates().reset_index(drop=True)
    n = len(cases)
    cases["age"] = np.round(rng.normal(58 + 3 * seed, 9, n), 1)
    cases["sex"] = np.where(rng.permutation(n) % 5 < 2, "F", "M")
    cases["stage"] = np.array(["I", "II", "III"], dtype=object)[rng.permutation(n) % 3]
    lean = 0.04 * (cases["age"] - 60) + 0.6 * (cases["sex"] == "F") - 0.3
    cases["dead"] = (rng.random(n) < 1 / (1 + np.exp(-lean))).astype(float)
    cases["visits"] = rng.poisson(np.exp(1.2 + 0.01 * (cases["age"] - 60))).astype(float)
    return cases


def three(tmp_path, *analyses, sizes=SIZES, missing=True):
    """Return sites of several sizes, and the hub's settings.

    Args:
        tmp_path: folder of all files.
        analyses: entries of the protocol.
        sizes: patients of each site.
        missing: whether the first site lacks the age of six patients and the stage of six others.
    """
    content = protocol(analyses=list(analyses), clinical=CLINICAL)
    made = [site(tmp_path, f"site{i}", n, i, content=content) for i, n in enumerate(sizes)]
    for i, one in enumerate(made):
        one.clinical = clinical_of(one, i)
        rng = np.random.default_rng(2000 + i)
        liver = one.table["segment"] == "liver"
        one.table.loc[~liver, "volume_ml"] = rng.lognormal(5, 0.3, (~liver).sum())
        one.table.loc[liver, MEAN] = (
            50 + 0.2 * one.clinical["age"].to_numpy() + rng.normal(0, 4 + i, liver.sum())
        )
        one.table.loc[liver, ENERGY] = rng.lognormal(3, 0.5, liver.sum())
        if missing and i == 0:
            one.clinical.loc[3:8, "age"] = np.nan
            one.clinical.loc[20:25, "stage"] = None
        one.write()
    return made, hub_settings(made, tmp_path / "inbox", content)


def frame(made, feature=MEAN):
    """Return the complete cases of all sites: the liver's feature and all clinical variables."""
    found = []
    for one in made:
        rows = one.table[one.table["segment"] == "liver"].set_index("case_id")[[feature]]
        spleen = one.table[one.table["segment"] == "spleen"].set_index("case_id")["volume_ml"]
        both = rows.join(one.clinical.set_index("case_id")).assign(spleen=spleen, site=one.name)
        found.append(both.dropna())
    return pd.concat(found)


def accepted(made, settings, round_=1, state=None, build_=None):
    """Return what a hub has of the sites' releases of a round, which it has checked."""
    found = []
    for one in made:
        (build_ or type(one).build)(one, round_=round_, state=state)
        models = formats()
        aggregates, disclosure = (
            model.model_validate(json.loads((one.release / f"{name}.json").read_text()))
            for name, model in (
                ("aggregates", models.aggregates),
                ("disclosure", models.disclosure),
            )
        )
        check_contents(aggregates, disclosure, Asked.by(settings.protocol, round_, state))
        found.append(
            SimpleNamespace(
                **dict.fromkeys(("file", "sha256", "approver", "issued"), ""),
                **{"site": one.name, "attempt": 1, "version": "1.0.0"},
                **{"aggregates": aggregates, "disclosure": disclosure},
            )
        )
    return found


def stated(settings, releases, round_=1, state=None):
    """Return what the hub states before the next round; None where it needs none."""
    found = advance(accepted=releases, settings=settings, round_=round_, state=state)
    return None if found is None else checked(formats().state, found, "state.json")


def past_of(made):
    """Return what a site's ledger knows once it has released what it built last."""
    past = read_behind(made.behind).past()
    return SimpleNamespace(past=past, sha256="0" * 64, entry=SimpleNamespace(release=None))


def build_after(made, pasts, **of_round):
    """Build a release of a site beside all that has left it; return its two files."""
    ledger = SimpleNamespace(
        entries=lambda: list(pasts), draws=SimpleNamespace(drawn=lambda *_: {})
    )
    build(
        settings=made.settings,
        **{
            name: made.root / f"{name}.parquet"
            for name in ("features", "outcomes", "failures", "clinical")
        },
        cases=made.root / "cases.tsv",
        verdict=made.root / "verdict.json",
        ledger=ledger,
        behind_dir=made.behind,
        out_dir=made.release,
        **of_round,
    )
    names = ("aggregates", "disclosure")
    return [json.loads((made.release / f"{name}.json").read_text()) for name in names]


def lost(record):
    """Return the rules that withheld each cell, by its analysis."""
    return {
        cell["analysis"]: [rule for rule, found in cell["rules"].items() if found == "withheld"]
        for cell in record["cells"]
        if not cell["released"]
    }


def values(numbers, patients=None):
    """Return a value of each patient, or of each of these."""
    ids = np.array([f"c{i:03d}" for i in range(len(numbers))], dtype=object)
    people = ids if patients is None else np.array(patients, dtype=object)
    return Values(np.asarray(numbers, float), people, ids, frozenset(ids))
