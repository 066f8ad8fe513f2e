"""How well features agree when outlines change; a part of the section of the features."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jipflow.report.site.run import Run, optional_frame

if TYPE_CHECKING:
    import pandas as pd

BANDS = {"excellent": 0.9, "good": 0.75, "moderate": 0.5, "poor": -math.inf}
"""From which intraclass correlation on a feature is in a band.

They are those of Koo and Li 2016, "A guideline of selecting and reporting intraclass correlation
coefficients for reliability research", J Chiropr Med 15:155-163.
"""


@dataclass(frozen=True)
class Group:
    """The features of a segment.

    Attributes:
        title: segment, role and segmentation.
        measurements: outlines of a case.
        cases: the most that a feature has.
        classes: name, features, and how many of them are in each of `BANDS`.
        rows: feature, cases, icc, lower, upper; the least stable first.
    """

    title: str
    measurements: int
    cases: int
    classes: list[tuple[str, int, list[int]]]
    rows: list[tuple[str, int, float, float, float]]


@dataclass(frozen=True)
class Stability:
    """What the section shows: names of the bands, and the groups."""

    bands: list[str]
    groups: list[Group]


def section(run: Run) -> Stability:
    """Group the table of stability by segment."""
    table = optional_frame(run.joined / "features" / "stability.parquet")
    return Stability(list(BANDS), stability_groups(table))


def stability_groups(table: pd.DataFrame | None) -> list[Group]:
    """Sort the features of each role, segmentation and segment into `BANDS`."""
    if table is None or table.empty:
        return []
    groups = []
    columns = ["feature", "cases", "icc", "lower", "upper"]
    for (role, segmentation, segment), rows in table.groupby(["role", "segmentation", "segment"]):
        ordered = rows.sort_values(["icc", "feature"], na_position="last")
        groups.append(
            Group(
                title=f"{segment} · {role} · {segmentation}",
                measurements=int(rows["measurements"].max()),
                cases=int(rows["cases"].max()),
                classes=_classes(rows),
                rows=list(ordered[columns].itertuples(index=False, name=None)),
            )
        )
    return groups


def _classes(rows: pd.DataFrame) -> list[tuple[str, int, list[int]]]:
    classes: dict[str, Counter[str]] = defaultdict(Counter)
    for feature, icc in zip(rows["feature"], rows["icc"], strict=True):
        image, name, _ = feature.split("_", 2)
        band = next((b for b, low in BANDS.items() if icc >= low), "undefined")
        classes[name if image == "original" else f"{name}, {image}"][band] += 1
    return [
        (name, sum(bands.values()), [bands[b] for b in BANDS])
        for name, bands in sorted(classes.items())
    ]
