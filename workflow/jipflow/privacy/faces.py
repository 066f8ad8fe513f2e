"""How the faces of a case's series are cut away before they leave, or why they stay."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

from pydicom.dataset import Dataset

from jipflow.cases import Series
from jipflow.images.read import frame_headers, read_instance, readable
from jipflow.images.series import read_series_volume
from jipflow.images.volume import Volume
from jipflow.privacy.deface import Shear, find_shear, shows_skull
from jipflow.privacy.heads import decide_head
from jipflow.privacy.pixels import Refusal
from jipflow.reasons import CaseFault, Reason
from jipflow.settings.export import Heads

FINDING = ("CT", "MR")
"""Modalities of images in which a brain is looked for."""

SURFACE = re.compile(
    r"BODY|EXTERN|SKIN|OUTLINE|PATIENT|FACE|HEAD|HAUT|K(OE|Ö)RPER|KONTUR|GESICHT|KOPF|PEAU|CORPS"
)
"""Names of regions whose outline may be that of a face."""


def outlines_face(dataset: Dataset) -> bool:
    """Return whether a structure set or segmentation has a region that may outline a face.

    Args:
        dataset: such an object; any other has none.
    """
    return any(SURFACE.search(label.upper()) for label in _labels(dataset))


def _labels(dataset: Dataset) -> Iterator[str]:
    for sequence, names in (
        ("StructureSetROISequence", ("ROIName", "ROIDescription")),
        ("SegmentSequence", ("SegmentLabel", "SegmentDescription")),
    ):
        for item in dataset.get(sequence) or []:
            yield from (str(item.get(name) or "") for name in names)


def face_cuts(
    series: Iterable[Series], heads: Heads, *, unstated: bool = True
) -> dict[str, Shear | CaseFault | None]:
    """Return how the face of each series is cut away.

    That of a PET is cut as that of a CT or MR in its frame of reference, in which a brain is found.

    Args:
        series: of one case.
        heads: what is done with heads, the stricter of protocol and site.
        unstated: whether images that do not say what they show may be of a head.

    Returns:
        By series UID the planes, the fault for which it stays, or None where it shows no head.
    """
    cuts: dict[str, Shear | CaseFault | None] = {}
    frames: dict[str, Shear] = {}
    for one in sorted(series, key=lambda one: one.modality not in FINDING):
        try:
            cuts[one.series_uid] = _cut(one, _headers(one), heads, frames, unstated)
        except CaseFault as fault:
            cuts[one.series_uid] = fault
    return cuts


def _headers(series: Series) -> list[Dataset]:
    headers = []
    for path in series.paths:
        with readable(path):
            headers += frame_headers(read_instance(path, pixels=False))
    return headers


def _cut(
    series: Series,
    headers: list[Dataset],
    heads: Heads,
    frames: dict[str, Shear],
    unstated: bool,
) -> Shear | None:
    """Return the planes for a series; None where it shows no head.

    Raises:
        CaseFault: it stays.
    """
    name = f"series {series.series_uid}"
    volume: Volume | None = None
    if series.modality == "CT":
        # What is no volume shows no skull that could be found; its headers decide.
        with suppress(CaseFault):
            volume = read_series_volume(series)
    skull = volume is not None and shows_skull(volume)
    found = decide_head(headers, heads, unstated=unstated, skull=skull)
    if found is None:
        return None
    if isinstance(found, Refusal):
        raise CaseFault(found.reason, f"{name}: {found.message}")
    frame = str(headers[0].get("FrameOfReferenceUID") or "")
    if series.modality in FINDING:
        shear = find_shear(volume or read_series_volume(series), series.modality, name)
        frames.setdefault(frame, shear)
        return shear
    if frame not in frames:
        raise CaseFault(
            Reason.FACE_NOT_CUT,
            f"{name}: its face cannot be cut away: no CT or MR of the case in its frame of "
            "reference shows where; leave it out.",
        )
    return frames[frame]
