"""Three sites whose livers differ, of two makers of scanners."""

from __future__ import annotations

import re

import numpy as np

from federation_world import MEAN, hub_settings, protocol, site

MAKERS = {"of": "manufacturer", "groups": {"ge": "GE.*", "siemens": "SIEMENS"}}
MANY = (40, 50, 61)


def spread(made, seed, shift=0.0, sd=10.0):
    """Give the livers of a site values of its own spread."""
    rng = np.random.default_rng(seed)
    liver = made.table["segment"] == "liver"
    made.table.loc[liver, MEAN] = (rng.gamma(4.0, 1.0, liver.sum()) - 4.0) * sd / 2 + 60 + shift


def three(tmp_path, *analyses, sizes=(24, 30, 37)):
    content = protocol(analyses=list(analyses))
    made = [site(tmp_path, f"site{i}", n, i, content=content) for i, n in enumerate(sizes)]
    for i, one in enumerate(made):
        spread(one, i, shift=0.3 * i, sd=8.0 + 2 * i)
        cases = one.table["case_id"].unique()
        one.scanners = {c: ("SIEMENS" if j % 5 < 3 else "GE 1", "") for j, c in enumerate(cases)}
        one.write()
    return made, hub_settings(made, tmp_path / "inbox", content)


def livers(made, maker=None):
    rows = made.table[made.table["segment"] == "liver"]
    if maker:
        rows = rows[rows["case_id"].map(lambda case: made.scanners[case][0]) == maker]
    return rows[MEAN].to_numpy()


def leaves(made, **of_round):
    """Return the ids of the analyses whose cell leaves, and the rules that withheld the others."""
    made.write()
    aggregates, record = made.build(**of_round)
    lost = {
        c["analysis"]: [rule for rule, found in c["rules"].items() if found == "withheld"]
        for c in record["cells"]
        if not c["released"]
    }
    return [a["id"] for a in aggregates["analyses"] if a["cells"]], lost


def words(drawing_or_page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", drawing_or_page))
