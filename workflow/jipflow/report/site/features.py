"""The measured features: how they are distributed, their summaries, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jipflow import plots
from jipflow.report.site.run import Run, meaning, optional_frame
from jipflow.tables import FEATURE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

MAX_SUMMARIES = 40
MAX_MISSING_ROWS = 100

# Title, unit and column of the features that are drawn.
DISTRIBUTIONS: tuple[tuple[str, str, str], ...] = (
    ("Volume", "ml", "volume_ml"),
    ("Mean intensity", "intensity", "original_firstorder_Mean"),
    ("Entropy", "bits", "original_firstorder_Entropy"),
    ("Sphericity", "", "original_shape_Sphericity"),
    ("GLCM contrast", "", "original_glcm_Contrast"),
    ("90th percentile", "intensity", "original_firstorder_90Percentile"),
)


@dataclass(frozen=True)
class Panel:
    """The plot of one feature, as SVG."""

    title: str
    unit: str
    column: str
    plot: str


@dataclass(frozen=True)
class Distributions:
    """The plots of a role and segmentation."""

    role: str
    segmentation: str
    panels: list[Panel]


@dataclass(frozen=True)
class Summary:
    """The features of a segment.

    Attributes:
        title: segment, role and segmentation.
        rows: feature, n, missing, mean, standard deviation with n - 1, median.
    """

    title: str
    rows: list[tuple[str, int, int, float, float, float]]


@dataclass(frozen=True)
class Features:
    """What the section shows.

    Attributes:
        distributions: groups of plots.
        summaries: one a role, segmentation and segment.
        left_out: how many of these are not shown.
        missing: the missing values that are shown: role, segmentation, segment, feature, reason,
            its meaning, cases.
        all_missing: how many kinds of missing values there are.
    """

    distributions: list[Distributions]
    summaries: list[Summary]
    left_out: int
    missing: list[dict[str, Any]]
    all_missing: int


def section(run: Run) -> Features:
    """Draw and sum up the features."""
    missing = missing_values(optional_frame(run.joined / "features" / "failures.parquet"))
    features = run.features
    if features is None or features.empty:
        return Features([], [], 0, missing[:MAX_MISSING_ROWS], len(missing))
    summaries = feature_summaries(features)
    return Features(
        distributions=distributions(features, run),
        summaries=summaries[:MAX_SUMMARIES],
        left_out=len(summaries[MAX_SUMMARIES:]),
        missing=missing[:MAX_MISSING_ROWS],
        all_missing=len(missing),
    )


def distributions(features: pd.DataFrame, run: Run) -> list[Distributions]:
    """Draw a handful of features, a group of plots a role and segmentation."""
    groups = []
    for key, rows in features.groupby(["role", "segmentation"], sort=True):
        role, segmentation = (str(part) for part in key)
        colours = {name: c for (owner, name), c in run.colours.items() if owner == segmentation}
        intensity = run.intensity_unit(role) or "arbitrary units"
        panels = []
        for title, unit, column in DISTRIBUTIONS:
            strips = _strips(rows, column, colours) if column in rows else []
            if strips:
                name = f"{title} of each segment of {segmentation} in {role}"
                plot = plots.strip_plot(name, strips)
                panels.append(
                    Panel(title, intensity if unit == "intensity" else unit, column, plot)
                )
        groups.append(Distributions(role, segmentation, panels))
    return groups


def _strips(rows: pd.DataFrame, column: str, colours: Mapping[str, str]) -> list[plots.Strip]:
    strips = []
    for segment, colour in colours.items():
        values = rows.loc[rows["segment"] == segment, ["case_id", column]].dropna()
        points = [(str(case), float(value)) for case, value in values.itertuples(index=False)]
        if points:
            strips.append(plots.Strip(segment, colour, points))
    return strips


def feature_summaries(features: pd.DataFrame) -> list[Summary]:
    """Summarise every feature of every segment.

    A feature that no segment of a segmentation has was not asked for there and has no row.
    """
    asked: dict[Any, list[str]] = {
        segmentation: [c for c in feature_columns(features) if rows[c].notna().any()]
        for segmentation, rows in features.groupby("segmentation")
    }
    summaries = []
    grouped = features.groupby(["role", "segmentation", "segment"], sort=True)
    for (role, segmentation, segment), rows in grouped:
        columns = asked[segmentation]
        values = rows[columns].astype(float)
        n, mean, sd, median = values.count(), values.mean(), values.std(ddof=1), values.median()
        summaries.append(
            Summary(
                f"{segment} · {role} · {segmentation}",
                [(c, int(n[c]), len(rows) - int(n[c]), mean[c], sd[c], median[c]) for c in columns],
            )
        )
    return summaries


def feature_columns(features: pd.DataFrame) -> list[str]:
    """Return the columns that hold features: the volume and what follows the fixed columns."""
    fixed = set(FEATURE_COLUMNS) - {"volume_ml"}
    return [column for column in features.columns if column not in fixed]


def missing_values(failures: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Count missing values by segment, feature and reason, the most frequent first."""
    if failures is None or failures.empty:
        return []
    keys = ["role", "segmentation", "segment", "feature", "reason"]
    tally = failures.groupby(keys)["case_id"].nunique().reset_index(name="cases")
    tally = tally.sort_values(["cases", *keys], ascending=[False] + [True] * len(keys))
    tally["meaning"] = tally["reason"].map(meaning)
    return [{str(k): value for k, value in row.items()} for row in tally.to_dict("records")]
