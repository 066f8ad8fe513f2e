"""What each segment is like, and whether that is what the protocol expects of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jipflow.images.masks import Segmentation, components
from jipflow.images.volume import Volume
from jipflow.reasons import Flag
from jipflow.settings.protocol import Expectation, SegmentationSettings
from jipflow.tables import QUALITY_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Quality:
    """One segment of one case: a row of ``quality.parquet``.

    Attributes:
        case_id: pseudonym of the case.
        segmentation: the protocol's segmentation.
        segment: the protocol's name for it.
        volume_ml: of its voxels; 0 where it has none.
        components: connected ones, whose voxels share a face, an edge or a corner.
        touches_border: whether it has a voxel at the border of the image.
        mean: intensity in HU for CT, SUVbw in g/mL for PET; None where it has no voxel, or one that
            is no number.
        disagreement: as in `jipflow.images.masks.Segment`.
        flags: codes of `Flag`: where it is not what the protocol expects.
    """

    case_id: str
    segmentation: str
    segment: str
    volume_ml: float
    components: int
    touches_border: bool
    mean: float | None
    disagreement: float | None
    flags: tuple[str, ...] = ()


def assess(
    case_id: str,
    spec: SegmentationSettings,
    segmentation: Segmentation,
    volume: Volume,
    disagreement: Mapping[str, float] | None = None,
) -> list[Quality]:
    """Look at each segment that the protocol names.

    Args:
        case_id: pseudonym of the case.
        spec: the protocol's segmentation.
        segmentation: what was found.
        volume: the image that was segmented, on the same grid.
        disagreement: of segments that are not in the segmentation, by name: what one member of an
            ensemble finds, their mean may not.

    Returns:
        One entry a segment, in the protocol's order; one without a voxel has 0 ml.
    """
    boxes = {segment.name: (segment, mask, at) for segment, mask, at in segmentation.boxes()}
    found = []
    for wanted in spec.segments:
        measured: dict[str, Any] = {
            "volume_ml": 0.0,
            "components": 0,
            "touches_border": False,
            "mean": None,
            "disagreement": (disagreement or {}).get(wanted.name),
        }
        if wanted.name in boxes:
            segment, mask, corner = boxes[wanted.name]
            measured["disagreement"] = segment.disagreement
            if mask.size:
                part = tuple(slice(a, a + n) for a, n in zip(corner, mask.shape, strict=True))
                voxels = int(np.count_nonzero(mask))
                mean = float(volume.array[part][mask].mean(dtype=np.float64))
                measured["volume_ml"] = voxels * volume.grid.voxel_volume / 1000
                measured["components"] = components(mask)[1]
                measured["touches_border"] = any(
                    p.start == 0 or p.stop == n
                    for p, n in zip(part, volume.grid.shape, strict=True)
                )
                measured["mean"] = mean if math.isfinite(mean) else None
        flags = tuple(flag.value for flag in unexpected(wanted.expect, measured))
        found.append(Quality(case_id, spec.id, wanted.name, **measured, flags=flags))
    return found


def unexpected(expect: Expectation | None, measured: Mapping[str, Any]) -> Iterator[Flag]:
    """Yield a flag for each expectation that a segment does not meet.

    An intensity that is not known is outside every range; a disagreement that is not known is none.

    Args:
        expect: of the protocol's segment; None where it expects nothing.
        measured: the fields of `Quality` by name.
    """
    if expect is None:
        return
    if expect.volume_ml is not None and not _within(measured["volume_ml"], expect.volume_ml):
        yield Flag.IMPLAUSIBLE_VOLUME
    if (
        expect.intensity is not None
        and measured["volume_ml"] > 0
        and not _within(measured["mean"], expect.intensity)
    ):
        yield Flag.IMPLAUSIBLE_INTENSITY
    if expect.components is not None and measured["components"] > expect.components:
        yield Flag.MANY_COMPONENTS
    if expect.border is False and measured["touches_border"]:
        yield Flag.TOUCHES_BORDER
    if expect.disagreement is not None and (measured["disagreement"] or 0.0) > expect.disagreement:
        yield Flag.FOLDS_DISAGREE


def _within(value: float | None, limits: Sequence[float]) -> bool:
    low, high = limits
    return value is not None and low <= value <= high


def quality_table(rows: Sequence[Quality]) -> pa.Table:
    """Return entries as a table, sorted by case, segmentation and segment."""
    import pyarrow as pa

    types = {"volume_ml": pa.float64(), "components": pa.int64(), "touches_border": pa.bool_()}
    types |= {"mean": pa.float64(), "disagreement": pa.float64(), "flags": pa.list_(pa.string())}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in QUALITY_COLUMNS])
    ordered = sorted(rows, key=lambda row: (row.case_id, row.segmentation, row.segment))
    return pa.Table.from_pylist([asdict(row) for row in ordered], schema=schema)
