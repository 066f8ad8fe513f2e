"""Three sites that follow patients up, and what all their rows in one place give."""

from __future__ import annotations

import numpy as np
import pandas as pd

from federation_world import accept, hub_settings, protocol, site
from jipflow.hub.merge import merge

GRID = [180, 365, 730, 1095, 1825, 3650]
VARIABLES = [
    {"name": "days", "type": "days", "range": [0, 20000]},
    {"name": "dead", "type": "event"},
    {"name": "relapse", "type": "event"},
    {"name": "sex", "type": "category", "values": ["F", "M"]},
    {"name": "age", "type": "number", "unit": "a"},
]
SEXES = {"of": "clinical.sex", "groups": {"women": "F", "men": "M"}}
SITES = {"north": 90, "south": 180, "west": 120}


def curves(id="survival", **more):
    """Return an entry of the protocol."""
    return {
        **{"id": id, "kind": "kaplan_meier", "variables": ["clinical.days"]},
        **{"event": "clinical.dead", "grid": GRID, **more},
    }


def content(*analyses, **changes):
    clinical = changes.pop("clinical", VARIABLES)
    return protocol(analyses=list(analyses or [curves()]), clinical=clinical, **changes)


def followed(table, seed):
    """Return clinical variables of the cases of a table of features; some lack one."""
    cases = table[["case_id", "patient"]].drop_duplicates().reset_index(drop=True)
    random = np.random.default_rng(seed + 100)
    size = len(cases)
    cases["sex"] = np.where(np.arange(size) % 5 < 2, "M", "F")
    death = random.exponential(np.where(cases["sex"] == "M", 700, 1500))
    lost = random.uniform(60, 3000, size)
    cases["days"] = np.ceil(np.minimum(death, lost))
    cases["dead"] = (death <= lost).astype(float)
    cases["relapse"] = (random.random(size) < 0.5).astype(float)
    cases["age"] = random.normal(62, 9, size)
    if size > 50:
        cases.loc[cases.index[3:9], "dead"] = np.nan
    return cases[["case_id", "patient", *(each["name"] for each in VARIABLES)]]


def followed_site(root, name="north", patients=90, seed=0, text=None, **more):
    """Return a site whose patients are followed up."""
    made = site(root, name, patients, seed, content=text or content(), **more)
    made.clinical = followed(made.table, seed)
    return made


def followed_sites(root, text):
    """Return three sites of one protocol."""
    return [
        followed_site(root, name, n, seed, text) for seed, (name, n) in enumerate(SITES.items())
    ]


def round_of(root, text):
    """Let three sites answer a protocol; return them, what the hub accepted and its settings."""
    sites = followed_sites(root, text)
    settings = hub_settings(sites, root / "inbox", text)
    for made in sites:
        made.send(root / "inbox")
    accepted, rejected = accept(inbox=root / "inbox", settings=settings)
    assert rejected == []
    return sites, accepted, settings


def result_of(accepted, settings):
    return merge(accepted=accepted, settings=settings)


def raised(rows, edges):
    """Return times at the next edge, later ones beyond the last, and events up to there."""
    rows = rows.dropna(subset=["days", "dead"])
    place = np.searchsorted(edges, rows["days"], side="left")
    beyond = place == len(edges)
    times = np.where(beyond, edges[-1] + 1, np.take([*edges, 0], place))
    return pd.DataFrame(
        {"time": times, "event": (rows["dead"] == 1) & ~beyond, "sex": rows["sex"].to_numpy()}
    )


def built(made):
    """Return the cells that leave, the rules that withheld each other, and the record."""
    made.write()
    aggregates, record = made.build()
    left = {(a["id"], c["group"]): c for a in aggregates["analyses"] for c in a["cells"]}
    lost = {
        (c["analysis"], c["group"]): [r for r, found in c["rules"].items() if found == "withheld"]
        for c in record["cells"]
        if not c["released"]
    }
    return left, lost, record
