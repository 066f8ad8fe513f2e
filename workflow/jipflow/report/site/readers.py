"""What readers sent back, and how far their outlines agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jipflow.report.site.run import Run, optional_frame
from jipflow.tables import AGREEMENT_VALUES

if TYPE_CHECKING:
    import pandas as pd

MAX_AGREEMENT_ROWS = 1000


@dataclass(frozen=True)
class Group:
    """The readings of a segmentation.

    Attributes:
        title: its id.
        readers: name, files, files that are used, cases accepted unchanged, cases with a proposal.
        pairs: segment, reader, other, cases, mean and least Dice coefficient, mean surface distance
            and 95th percentile of the Hausdorff distance in mm, each the mean over the cases.
        rows: case, segment, reader, other and `AGREEMENT_VALUES`, the least Dice coefficient first;
            those that are shown.
        all: how many there are.
    """

    title: str
    readers: list[tuple[str, int, int, int, int]]
    pairs: list[tuple[Any, ...]]
    rows: list[tuple[Any, ...]]
    all: int


def section(run: Run) -> list[Group]:
    """Sum up the readings by segmentation."""
    return reader_groups(
        optional_frame(run.joined / "features" / "readings.parquet"),
        optional_frame(run.joined / "features" / "agreement.parquet"),
    )


def reader_groups(readings: pd.DataFrame | None, agreement: pd.DataFrame | None) -> list[Group]:
    """Sum up what readers sent back, and how far they agree, by segmentation."""
    if readings is None or agreement is None or readings.empty:
        return []
    groups = []
    columns = ["case_id", "segment", "reader", "other", *AGREEMENT_VALUES]
    for segmentation, files in readings.groupby("segmentation"):
        compared = agreement[agreement["segmentation"] == segmentation]
        ordered = compared.sort_values(["dice", *columns[:4]], na_position="last")
        rows = list(ordered[columns].itertuples(index=False, name=None))
        groups.append(
            Group(
                title=str(segmentation),
                readers=_readers(files),
                pairs=_pairs(compared),
                rows=rows[:MAX_AGREEMENT_ROWS],
                all=len(rows),
            )
        )
    return groups


def _readers(files: pd.DataFrame) -> list[tuple[str, int, int, int, int]]:
    return [
        (
            str(name),
            len(sent),
            int(sent["used"].sum()),
            int(sent["unchanged"].eq(True).sum()),
            int(sent["unchanged"].notna().sum()),
        )
        for name, sent in files.groupby("reader")
    ]


def _pairs(compared: pd.DataFrame) -> list[tuple[Any, ...]]:
    pairs = []
    for (segment, other, reader), rows in compared.groupby(["segment", "other", "reader"]):
        dice, *distances = rows[list(AGREEMENT_VALUES)].mean()
        pairs.append((segment, reader, other, len(rows), dice, rows["dice"].min(), *distances))
    return pairs
