"""Survival, and what its peers find for all rows in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import median_survival_times
from scipy.stats import chi2
from statsmodels.duration.survfunc import survdiff

from exactness_cases import SEXES, Case, Entry, Found, rows_of
from exactness_patients import Patients

GRID = [180, 365, 730, 1095, 1825]


def _raised(rows: pd.DataFrame, edges: list[float]) -> pd.DataFrame:
    """Return times at the next edge, later ones beyond the last, and events up to there."""
    place = np.searchsorted(edges, rows["days"], side="left")
    beyond = place == len(edges)
    times = np.where(beyond, edges[-1] + 1, np.take([*edges, 0], place))
    events = (rows["dead"] == 1) & ~beyond
    return pd.DataFrame({"time": times, "event": events.to_numpy()}, index=rows.index)


def _survival_entry(**more: Any) -> Entry:
    about = {"variables": ["clinical.days"], "event": "clinical.dead", "grid": GRID}
    return lambda patients: {"id": "analysis", "kind": "kaplan_meier", **about, **more}


def _curve(rows: pd.DataFrame, edges: list[float]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the counts and the median of a curve, and its points, by lifelines."""
    if not edges:
        nothing: list[Any] = []
        counts = {"at_risk": nothing, "events": nothing, "censored": nothing}
        return {"n": len(rows), "edges": edges, **counts}, []
    table = _raised(rows, edges)
    fitted = KaplanMeierFitter().fit(table["time"], table["event"])
    at = fitted.event_table.reindex(edges).fillna(0)
    risk, events = at["at_risk"].to_numpy(), at["observed"].to_numpy()
    censored = np.append(risk[:-1] - events[:-1] - risk[1:], risk[-1] - events[-1])
    survival = fitted.survival_function_.loc[edges].to_numpy()[:, 0]
    band = fitted.confidence_interval_.loc[edges].to_numpy()
    # Greenwood's formula.
    se = survival * np.sqrt(np.cumsum(events / (risk * (risk - events))))
    low, high = median_survival_times(fitted.confidence_interval_).to_numpy()[0]
    ends = [None if np.isinf(x) else x for x in (fitted.median_survival_time_, low, high)]
    counts = {"at_risk": list(risk), "events": list(events), "censored": list(censored)}
    medians = dict(zip(("median", "median_low", "median_high"), ends, strict=True))
    points = [
        {
            **{"edge": edge, "at_risk": risk[i], "events": events[i], "censored": censored[i]},
            **{"survival": survival[i], "se": se[i], "low": band[i, 0], "high": band[i, 1]},
        }
        for i, edge in enumerate(edges)
    ]
    return {"n": len(rows), "edges": edges, **counts, **medians}, points


def _curves(patients: Patients, found: Found) -> tuple[list[Any], list[Any]]:
    cells, curves = [], []
    for cell in found["cells"]:
        rows = rows_of(patients, cell, "days", "dead")
        whole, points = _curve(rows, cell["edges"])
        parts = []
        for part in cell["by_site"]:
            of_site, more = _curve(rows[rows["site"] == part["site"]], part["edges"])
            parts.append(of_site)
            points += more
        cells.append(whole | {"by_site": parts})
        curves += points
    return cells, curves


def _log_rank(table: pd.DataFrame, groups: pd.Series) -> dict[str, Any]:
    """Return events of each group, and those that all together would lead to expect."""
    risk = {
        (group, time): (table["time"][groups == group] >= time).sum()
        for group in sorted(set(groups))
        for time in sorted(set(table["time"][table["event"]]))
    }
    events = table["time"][table["event"]].value_counts()
    every = {time: (table["time"] >= time).sum() for time in events.index}
    return {
        "observed": [table["event"][groups == group].sum() for group in sorted(set(groups))],
        "expected": [
            sum(n * risk[group, time] / every[time] for time, n in events.items())
            for group in sorted(set(groups))
        ],
    }


def _survival(patients: Patients, found: Found) -> dict[str, Any]:
    cells, curves = _curves(patients, found)
    (cell,) = found["cells"]
    rows = rows_of(patients, cell, "days", "dead")
    table = _raised(rows, cell["edges"])
    peer = multivariate_logrank_test(table["time"], rows["site"], table["event"])
    test = {"statistic": peer.test_statistic, "df": len(cell["sites"]) - 1, "p": peer.p_value}
    test |= _log_rank(table, rows["site"])
    return {"cells": cells, "curves": curves, "tests": [test]}


def _no_test(found: Found) -> dict[str, Any]:
    nothing = [0] * len(found["cells"])
    unknown = dict.fromkeys(("statistic", "df", "p"))
    return {**unknown, "observed": nothing, "expected": nothing}


def _survival_groups(patients: Patients, found: Found) -> dict[str, Any]:
    """The tests are of all rows between edges that all groups share, and within the sites."""
    cells, curves = _curves(patients, found)
    every = pd.concat(
        [
            rows_of(patients, cell, "days", "dead").assign(group=cell["group"])
            for cell in found["cells"]
        ],
        ignore_index=True,
    )
    edges = sorted(frozenset.intersection(*(frozenset(c["edges"]) for c in found["cells"])))
    tests, pieces = [_no_test(found)], []
    if edges:
        table = _raised(every, edges)
        peer = multivariate_logrank_test(table["time"], every["group"], table["event"])
        tests = [{"statistic": peer.test_statistic, "df": 1, "p": peer.p_value}]
        tests[0] |= _log_rank(table, every["group"])
    for name, rows in every.groupby("site"):
        parts = [p for c in found["cells"] for p in c["by_site"] if p["site"] == name]
        own = sorted(frozenset.intersection(*(frozenset(part["edges"]) for part in parts)))
        if len(parts) > 1 and own:
            pieces.append(_raised(rows, own).join(rows[["group", "site"]]))
    both = pd.concat(pieces)
    statistic, _ = survdiff(both["time"], both["event"], both["group"], strata=both["site"])
    # statsmodels' own p is 1 less the distribution, which is 0 far out in the tail.
    p = chi2.sf(statistic, 1)
    counts = [_log_rank(rows, rows["group"]) for rows in pieces]
    sums = {name: list(np.sum([c[name] for c in counts], axis=0)) for name in counts[0]}
    tests.append({"statistic": statistic, "df": 1, "p": p} | sums)
    return {"cells": cells, "curves": curves, "tests": tests}


CASES = (
    Case(
        "kaplan_meier",
        "curves, and log-rank of sites",
        "lifelines",
        _survival_entry(),
        _survival,
        frozenset({"grid"}),
        moves=False,
    ),
    Case(
        "kaplan_meier",
        "curves by sex, and log-rank",
        "lifelines, statsmodels",
        _survival_entry(by=SEXES),
        _survival_groups,
        frozenset({"grid"}),
        moves=False,
    ),
)
