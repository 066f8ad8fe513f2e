"""What the functional groups of a DICOM-SEG (PS3.3 C.7.6.16, A.51.5) say of each frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.images.read import COSINE_TOLERANCE
from jipflow.objects.annotation import Source
from jipflow.objects.seg_places import Frames
from jipflow.place import raise_place_error
from jipflow.reasons import CaseFault, Reason

MALFORMED = (ValueError, TypeError, AttributeError, KeyError)


class FunctionalGroups:
    """The functional groups of a segmentation's frames.

    Args:
        dataset: the segmentation.
        path: its file, for messages.
    """

    def __init__(self, dataset: Dataset, path: Path) -> None:
        self.dataset = dataset
        self.path = path

    @cached_property
    def each(self) -> list[Dataset]:
        """Each frame's functional groups, the shared ones not among them."""
        return list(self.dataset.get("PerFrameFunctionalGroupsSequence") or [Dataset()])

    def macro(self, keyword: str) -> list[Dataset]:
        """Return a functional group of each frame, its own or the one that all share.

        Raises:
            CaseFault: a frame has another one than all share (PS3.3 C.7.6.16.1.1 forbids both).
        """
        shared = self.dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
        common = shared[0].get(keyword)
        found = []
        for group in self.each:
            own = group.get(keyword)
            if own and common and own[0] != common[0]:
                raise CaseFault(
                    Reason.GRID_MISMATCH,
                    f"{self.path}: {keyword} of a frame is another than that of all frames; export "
                    "it again from where it was made.",
                )
            items = own or common
            found.append(items[0] if items else Dataset())
        return found

    @cached_property
    def measures(self) -> list[Dataset]:
        """The Pixel Measures of each frame."""
        return self.macro("PixelMeasuresSequence")

    @cached_property
    def frames(self) -> Frames:
        """Where the frames lie in the patient.

        Raises:
            CaseFault: they do not say.
        """
        try:
            planes = tuple(
                np.array([[float(v) for v in macro[name].value] for macro in self.macro(sequence)])
                for sequence, name in (
                    ("PlanePositionSequence", "ImagePositionPatient"),
                    ("PlaneOrientationSequence", "ImageOrientationPatient"),
                    ("PixelMeasuresSequence", "PixelSpacing"),
                )
            )
            shapes = tuple(plane.shape[1:] for plane in planes)
            sound = shapes == ((3,), (6,), (2,)) and all(np.isfinite(p).all() for p in planes)
            if sound and (planes[2] > 0).all() and _are_square(planes[1]):
                shape = int(self.dataset.Rows), int(self.dataset.Columns)
                return Frames(planes[0], planes[1], planes[2], shape)
        except MALFORMED as error:
            raise_place_error(error)
        slide = "TotalPixelMatrixColumns" in self.dataset
        raise CaseFault(
            Reason.GRID_MISMATCH,
            f"{self.path}: "
            + (
                "segments a microscope slide and not a volume of a patient."
                if slide
                else "position, orientation or spacing of a frame is missing or absurd."
            ),
        )

    @cached_property
    def owners(self) -> NDArray[np.intp]:
        """Segment number of each frame; 0 where it has none, as frames of label maps."""
        if self.dataset.get("SegmentationType") == "LABELMAP":
            return np.zeros(len(self.each), np.intp)
        macros = self.macro("SegmentIdentificationSequence")
        return np.array([whole(macro.get("ReferencedSegmentNumber")) or 0 for macro in macros])

    @cached_property
    def sources(self) -> list[list[Source]]:
        """The images that each frame is derived from, where it keeps their place."""
        found = []
        for macro in self._derivations():
            images = (i for d in macro for i in d.get("SourceImageSequence") or [])
            found.append([s for image in images for s in _references(image)])
        return found

    def _derivations(self) -> Iterator[Sequence[Dataset]]:
        shared = self.dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
        common = shared[0].get("DerivationImageSequence") or []
        for group in self.each:
            yield group.get("DerivationImageSequence") or common


def whole(value: Any) -> int | None:
    """Return a whole number from 0 on; None where a value is none."""
    try:
        return int(value) if int(value) >= 0 else None
    except (TypeError, ValueError):
        return None


def _references(image: Dataset) -> list[Source]:
    """Return the image, or the frames of it, that an item of a Source Image Sequence names."""
    uid = str(image.get("ReferencedSOPInstanceUID") or "")
    if image.get("SpatialLocationsPreserved") == "NO":
        return []
    frames = image.get("ReferencedFrameNumber")
    numbers = [frames] if not frames or isinstance(frames, int | str) else list(frames)
    return [(uid, whole(number) or 0) for number in numbers]


def lengths(measures: Iterable[Dataset], keyword: str) -> set[float]:
    """Return what Pixel Measures state as a length in mm, without signs and zeros.

    What is no number is infinitely long, so that no other length is the same.
    """
    return {_length(m[keyword].value) for m in measures if m.get(keyword)} - {0.0}


def _length(value: Any) -> float:
    try:
        length = abs(float(value))
    except (TypeError, ValueError):
        return np.inf
    return length if np.isfinite(length) else np.inf


def _are_square(orientations: NDArray[np.float64]) -> bool:
    """Return whether direction cosines are those of unit vectors at right angles."""
    rows, columns = orientations[:, :3], orientations[:, 3:]
    skew = [(rows * rows).sum(axis=1) - 1, (columns * columns).sum(axis=1) - 1]
    return bool(np.abs([*skew, (rows * columns).sum(axis=1)]).max() <= COSINE_TOLERANCE)
