"""Survival from counts between fixed edges: the Kaplan–Meier estimate and the log-rank test.

An interval holds its upper edge and not its lower one, and all that happens in it counts at its
upper edge, first events and then ends without one. So every number equals that of all rows in one
place whose times were raised to the next edge. Whoever is observed beyond the last edge is at risk
up to there, as is who leaves in the interval that ends there: they are counted together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution, of intervals of 95 %."""

ONE_GROUP = "one_group"
NO_COMMON_EDGE = "no_common_edge"
NO_VARIANCE = "no_variance"

RANK = 1e-10
"""Eigenvalues of a covariance below this share of the greatest count as none."""


@dataclass(frozen=True)
class Counts:
    """Patients between edges.

    Attributes:
        edges: upper edges of the intervals, rising; the first interval begins at 0.
        n: patients.
        events: patients who had the event, by interval.
        censored: patients whose observation ended without it, by interval; in the last one all
            others, those who are observed beyond it as well.
    """

    edges: tuple[float, ...]
    n: int
    events: tuple[int, ...]
    censored: tuple[int, ...]

    @property
    def at_risk(self) -> tuple[int, ...]:
        """Patients at risk in each interval."""
        left, found = self.n, []
        for events, censored in zip(self.events, self.censored, strict=True):
            found.append(left)
            left -= events + censored
        return tuple(found)

    def on(self, edges: Sequence[float]) -> Counts:
        """Return the same on some of its edges, which may be none."""
        events, censored = [0] * len(edges), [0] * len(edges)
        place = 0
        for edge, had, had_not in zip(self.edges, self.events, self.censored, strict=True):
            if place < len(edges):
                events[place] += had
                censored[place] += had_not
                place += edge == edges[place]
        if edges:
            censored[-1] = self.n - sum(events) - sum(censored[:-1])
        return Counts(tuple(edges), self.n, tuple(events), tuple(censored))


def common_edges(counts: Iterable[Counts]) -> list[float]:
    """Return the edges that all have, rising."""
    return sorted(frozenset.intersection(*(frozenset(each.edges) for each in counts)))


def together(counts: Sequence[Counts]) -> Counts:
    """Add counts of distinct patients, on the edges that all have."""
    edges = common_edges(counts)
    parts = [each.on(edges) for each in counts]
    return Counts(
        tuple(edges),
        sum(each.n for each in parts),
        tuple(map(sum, zip(*(each.events for each in parts), strict=True))),
        tuple(map(sum, zip(*(each.censored for each in parts), strict=True))),
    )


@dataclass(frozen=True)
class Point:
    """A curve at an edge.

    Attributes:
        edge: upper edge of the interval.
        at_risk: patients at risk in the interval.
        events: patients who had the event in it.
        censored: patients whose observation ended in it without one; at the last edge all others.
        survival: share of patients who have not had the event by the edge.
        se: its standard error; None where the estimate is 0.
        low: lower end of its interval of 95 %; None where the estimate is 1 or 0.
        high: upper end, likewise.
    """

    edge: float
    at_risk: int
    events: int
    censored: int
    survival: float
    se: float | None
    low: float | None
    high: float | None


def curve(counts: Counts) -> list[Point]:
    """Return the Kaplan–Meier estimate at each edge.

    With d events of n at risk, S is the product of 1 - d/n (Kaplan and Meier 1958, "Nonparametric
    estimation from incomplete observations", J. Am. Stat. Assoc. 53:457-481); its variance is S²
    times the sum of d / (n (n - d)) (Greenwood 1926, "The natural duration of cancer"), and its
    interval is that of log(-log S) (Kalbfleisch and Prentice, The Statistical Analysis of Failure
    Time Data, Wiley 2002, section 1.4.1).
    """
    points, survival, spread = [], 1.0, 0.0
    rows = zip(counts.edges, counts.at_risk, counts.events, counts.censored, strict=True)
    for edge, n, events, censored in rows:
        if events:
            survival *= (n - events) / n
            spread += events / (n * (n - events)) if n > events else math.inf
        se = survival * math.sqrt(spread) if survival > 0 else None
        low = high = None
        if 0 < survival < 1:
            log = math.log(survival)
            reach = Z * math.sqrt(spread) / -log
            low, high = survival ** math.exp(reach), survival ** math.exp(-reach)
        points.append(Point(edge, n, events, censored, survival, se, low, high))
    return points


def median(points: Sequence[Point]) -> dict[str, float | None]:
    """Return the first edge by which half have had the event, with its interval of 95 %.

    The interval has the edges at which those of the curve reach one half (Brookmeyer and Crowley
    1982, "A confidence interval for the median survival time", Biometrics 38:29-41). What is not
    reached is None.
    """

    def first(values: Iterable[tuple[float, float | None]]) -> float | None:
        return next((edge for edge, value in values if value is not None and value <= 0.5), None)

    return {
        "median": first((point.edge, point.survival) for point in points),
        "median_low": first((point.edge, point.low) for point in points),
        "median_high": first((point.edge, point.high) for point in points),
    }


def log_rank(strata: Sequence[Mapping[str, Counts]]) -> dict[str, Any]:
    """Compare the survival of groups, within strata.

    At each edge, of d events among n at risk a group with n_i of them expects n_i d / n, with the
    covariance of a hypergeometric distribution (Mantel 1966, "Evaluation of survival data and two
    new rank order statistics", Cancer Chemother. Rep. 50:163-170); differences and covariances are
    added over edges and strata.

    Args:
        strata: counts by group; one mapping for a test without strata. Those of one group or
            without a common edge count nothing.

    Returns:
        ``groups``, ``observed``, ``expected``, ``statistic`` (chi-squared), ``df`` and ``p``; the
        last three are null where ``reason`` says why.
    """
    import numpy as np
    from scipy.stats import chi2

    names = sorted(frozenset().union(*strata))
    several = [groups for groups in strata if len(groups) > 1]
    used = [groups for groups in several if common_edges(groups.values())]
    observed, expected = np.zeros(len(names)), np.zeros(len(names))
    covariance = np.zeros((len(names), len(names)))
    for groups in used:
        edges = common_edges(groups.values())
        for name, counts in sorted(groups.items()):
            observed[names.index(name)] += sum(counts.on(edges).events)
        share, scatter = _expected([groups[n].on(edges) if n in groups else None for n in names])
        expected += share
        covariance += scatter
    found: dict[str, Any] = {
        "groups": names,
        "observed": observed.astype(int).tolist(),
        "expected": expected.tolist(),
    }
    values, vectors = np.linalg.eigh(covariance)
    there = values > RANK * max(float(values.max(initial=0.0)), 1.0)
    if not there.any():
        reason = NO_VARIANCE if used else NO_COMMON_EDGE if several else ONE_GROUP
        return found | {"statistic": None, "df": None, "p": None, "reason": reason}
    along = vectors[:, there].T @ (observed - expected)
    statistic, df = float((along**2 / values[there]).sum()), int(there.sum())
    return found | {"statistic": statistic, "df": df, "p": float(chi2.sf(statistic, df))}


def _expected(groups: Sequence[Counts | None]) -> tuple[Any, Any]:
    """Return the expected events of groups and their covariance, summed over edges.

    Args:
        groups: on the same edges; None of one that has no patients here.
    """
    import numpy as np

    edges = max(len(each.edges) for each in groups if each)
    at_risk = np.array([each.at_risk if each else [0] * edges for each in groups], dtype=float)
    events = np.array([each.events if each else [0] * edges for each in groups]).sum(axis=0)
    n = at_risk.sum(axis=0)
    there = n > 0
    share = at_risk[:, there] / n[there]
    d, n = events[there], n[there]
    scale = d * (n - d) / np.maximum(n - 1, 1)
    covariance = np.diag((share * scale).sum(axis=1)) - (share * scale) @ share.T
    return (share * d).sum(axis=1), covariance
