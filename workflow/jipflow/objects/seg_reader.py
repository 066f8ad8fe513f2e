"""DICOM Segmentations (PS3.3 A.51) and Label Map Segmentations (A.51) as regions on a grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from scipy.ndimage import find_objects

from jipflow.images.pixels import DECODERS
from jipflow.images.volume import Grid
from jipflow.objects.annotation import Annotation, DrawnRegion, Match, Target, common_method, fits
from jipflow.place import raise_place_error
from jipflow.reasons import CaseFault, Reason

ALIGNMENT_TOLERANCE = 0.05
"""Farthest, in voxels, that a pixel of a frame may lie from the voxel it is put on."""
BACKGROUND = ("125040", "DCM")
"""Segmented Property Type Code of what is no segment of a label map (PS3.16 CID 7151)."""
MALFORMED = (ValueError, TypeError, AttributeError, KeyError)

Corner = tuple[int, int, int]


@dataclass(frozen=True)
class Placement:
    """Where the frames of a segmentation lie on a grid.

    Attributes:
        origins: index (z, y, x) of each frame's first pixel, shape (frames, 3).
        down: step of the index from one row to the next, shape (frames, 3).
        right: step of the index from one column to the next, shape (frames, 3).
        error: farthest distance of a pixel from its voxel, in voxels.
    """

    origins: NDArray[np.intp]
    down: NDArray[np.intp]
    right: NDArray[np.intp]
    error: float


@dataclass(frozen=True)
class PlacedLabelMap:
    """A label map on the target's grid.

    Attributes:
        labels: shape of the grid.
        boxes: where each label is, from label 1 on.
        lost: voxels of each label beyond the border in plane, and beyond the planes.
    """

    labels: NDArray[np.unsignedinteger[Any]]
    boxes: list[tuple[slice, ...] | None]
    lost: NDArray[np.int_]

    def box(self, label: int) -> tuple[slice, ...] | None:
        """Return where a label is, None where it is nowhere."""
        return self.boxes[label - 1] if 0 < label <= len(self.boxes) else None


class DicomSeg(Annotation):
    """A DICOM Segmentation of type BINARY, FRACTIONAL or LABELMAP, whose regions are segments.

    Each frame is put where its own position says, so that frames may come in any order, be left
    out where they are empty, cover a part of the image or lie along other axes of it.
    """

    def names(self) -> list[str]:
        """Return the Segment Labels, without a label map's background."""
        return [str(segment.get("SegmentLabel") or "") for segment in self._segments]

    def images(self, matches: Sequence[str]) -> set[str]:
        """Return the images in the Referenced Series Sequence, or else those of the frames."""
        del matches
        items = [
            image
            for series in self.dataset.get("ReferencedSeriesSequence") or []
            for image in series.get("ReferencedInstanceSequence") or []
        ]
        if not items:
            items = [
                image
                for group in self._groups()
                for derivation in group.get("DerivationImageSequence") or []
                for image in derivation.get("SourceImageSequence") or []
            ]
        return {str(item.get("ReferencedSOPInstanceUID") or "") for item in items} - {""}

    def series(self) -> set[str]:
        """Return the series in the Referenced Series Sequence."""
        items = self.dataset.get("ReferencedSeriesSequence") or []
        return {str(item.get("SeriesInstanceUID") or "") for item in items} - {""}

    def frames_of_reference(self, matches: Sequence[str]) -> set[str]:
        """Return the Frame of Reference UID, which all segments share."""
        del matches
        return {str(self.dataset.get("FrameOfReferenceUID") or "")} - {""}

    def studies(self) -> set[str]:
        """Return its own study."""
        return {str(self.dataset.get("StudyInstanceUID") or "")} - {""}

    def lies_on(self, grid: Grid, matches: Sequence[str]) -> bool:
        """Return whether all frames lie on planes of the grid and inside its extent."""
        del matches
        try:
            placement = self._placement(grid)
        except CaseFault as fault:
            raise_place_error(fault)
            return False
        last = placement.origins + placement.down * (self._shape[0] - 1)
        last = last + placement.right * (self._shape[1] - 1)
        corners = np.stack([placement.origins, last])
        inside = (corners >= 0).all() and (corners < np.asarray(grid.shape)).all()
        return bool(inside and placement.error <= ALIGNMENT_TOLERANCE)

    def draw(
        self, wanted: str, pattern: str, target: Target, match: Match, notes: list[str]
    ) -> DrawnRegion | None:
        """Put the segments whose label matches on the grid, and unite them."""
        chosen = [
            segment
            for segment in self._segments
            if fits(str(segment.get("SegmentLabel") or ""), (pattern,))
        ]
        if not chosen:
            return None
        context = f"case {target.case_id}: segmentation {self.uid}"
        numbers = self._numbers(chosen)
        if len(numbers) > 1:
            listed = ", ".join(str(number) for number in numbers)
            notes.append(f"{context}: {wanted!r} unites segments {listed}.")
        placement = self._placement(target.grid)
        if self._flaw:
            raise self._mismatch(target, self._flaw)
        if placement.error > ALIGNMENT_TOLERANCE:
            raise self._mismatch(
                target, f"its pixels lie up to {placement.error:.2f} voxels off the image's voxels"
            )
        if self._type == "LABELMAP":
            mask, corner = self._from_label_map(numbers, placement, target, notes)
        else:
            mask, corner = self._from_frames(numbers, placement, target, notes)
        stated = {str(segment.get("SegmentAlgorithmType") or "") for segment in chosen}
        return DrawnRegion(
            mask,
            common_method(stated, f"{context}, {wanted!r}", notes),
            str(
                chosen[0].get("SegmentAlgorithmName")
                or self.dataset.get("ManufacturerModelName")
                or self.dataset.get("Manufacturer")
                or "SEG"
            ),
            str(self.dataset.get("SoftwareVersions") or ""),
            corner,
        )

    @property
    def _type(self) -> str:
        return str(self.dataset.get("SegmentationType") or "")

    @property
    def _shape(self) -> tuple[int, int]:
        return int(self.dataset.Rows), int(self.dataset.Columns)

    @property
    def _padding(self) -> int:
        """The value of a label map's pixels that belong to no segment (PS3.3 C.8.20.2)."""
        return int(self.dataset.get("PixelPaddingValue") or 0)

    @cached_property
    def _segments(self) -> list[Dataset]:
        """The segments, without a label map's background."""
        segments = list(self.dataset.get("SegmentSequence") or [])
        if self._type != "LABELMAP":
            return segments
        return [segment for segment in segments if not self._is_background(segment)]

    def _is_background(self, segment: Dataset) -> bool:
        """Return whether a segment of a label map stands for what is no segment."""
        number = segment.get("SegmentNumber")
        if "PixelPaddingValue" in self.dataset and number == self._padding:
            return True
        codes = segment.get("SegmentedPropertyTypeCodeSequence") or []
        return any(
            (code.get("CodeValue"), code.get("CodingSchemeDesignator")) == BACKGROUND
            for code in codes
        )

    def _numbers(self, segments: Sequence[Dataset]) -> list[int]:
        """Return the Segment Numbers of segments.

        Raises:
            CaseFault: one has none.
        """
        numbers = [segment.get("SegmentNumber") for segment in segments]
        if None in numbers:
            raise CaseFault(
                Reason.UNREADABLE,
                f"{self.path}: a segment has no Segment Number, so that its frames are not known; "
                "export it again from where it was made.",
            )
        return [int(number) for number in numbers]

    def _groups(self) -> list[Dataset]:
        """Return each frame's functional groups, the shared ones not among them."""
        return list(self.dataset.get("PerFrameFunctionalGroupsSequence") or [Dataset()])

    def _macro(self, keyword: str) -> list[Dataset]:
        """Return a functional group of each frame, its own or the one that all share."""
        shared = self.dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
        common = shared[0].get(keyword)
        found = [group.get(keyword) or common for group in self._groups()]
        return [items[0] if items else Dataset() for items in found]

    @cached_property
    def _planes(self) -> tuple[NDArray[np.float64], ...]:
        """Position (frames, 3), orientation (frames, 6) and spacing (frames, 2) of each frame."""
        try:
            planes = tuple(
                np.array([[float(v) for v in macro[name].value] for macro in self._macro(sequence)])
                for sequence, name in (
                    ("PlanePositionSequence", "ImagePositionPatient"),
                    ("PlaneOrientationSequence", "ImageOrientationPatient"),
                    ("PixelMeasuresSequence", "PixelSpacing"),
                )
            )
            if tuple(plane.shape[1:] for plane in planes) == ((3,), (6,), (2,)):
                return planes
        except MALFORMED as error:
            raise_place_error(error)
        slide = "TotalPixelMatrixColumns" in self.dataset
        raise CaseFault(
            Reason.GRID_MISMATCH,
            f"{self.path}: "
            + (
                "segments a microscope slide and not a volume of a patient."
                if slide
                else "position, orientation or spacing of a frame is missing or no number."
            ),
        )

    @cached_property
    def _owners(self) -> NDArray[np.intp]:
        """Segment number of each frame; 0 where frames hold label maps."""
        if self._type == "LABELMAP":
            return np.zeros(len(self._groups()), np.intp)
        macros = self._macro("SegmentIdentificationSequence")
        return np.array([int(macro.get("ReferencedSegmentNumber") or 0) for macro in macros])

    @cached_property
    def _flaw(self) -> str:
        """What keeps the frames from making one mask a segment; empty where nothing does."""
        if len(self._owners) != int(self.dataset.get("NumberOfFrames") or 1):
            return "its functional groups do not describe each frame once"
        keys = np.column_stack([self._owners, np.rint(self._planes[0] * 1000)])
        if len(np.unique(keys, axis=0)) < len(keys):
            return "several frames of a segment lie at one place, as of several points of time"
        numbers = self._numbers(self._segments)
        most = 2 ** int(self.dataset.BitsAllocated) - 1
        if self._type == "LABELMAP" and max(numbers, default=0) > most:
            return f"its pixels reach {most} and so cannot be segment {max(numbers)}"
        return ""

    def _placement(self, grid: Grid) -> Placement:
        """Place each frame by the image plane's equation (PS3.3 C.7.6.2.1.1)."""
        positions, orientations, spacings = self._planes
        rows, columns = self._shape
        turn = np.linalg.inv(grid.affine)
        origins = positions @ turn[:3, :3].T + turn[:3, 3]
        down = (orientations[:, 3:] * spacings[:, :1]) @ turn[:3, :3].T
        right = (orientations[:, :3] * spacings[:, 1:]) @ turn[:3, :3].T
        whole = [np.rint(steps).astype(int) for steps in (origins, down, right)]
        corners = [
            np.abs(
                (origins - whole[0])
                + (down - whole[1]) * (row * (rows - 1))
                + (right - whole[2]) * (column * (columns - 1))
            ).max()
            for row in (0, 1)
            for column in (0, 1)
        ]
        along_axes = (
            all((np.abs(steps).sum(axis=1) == 1).all() for steps in (whole[1], whole[2]))
            and not (whole[1] * whole[2]).any()
        )
        error = float(max(corners)) if along_axes else np.inf
        return Placement(whole[0], whole[1], whole[2], error)

    def _from_frames(
        self, numbers: Sequence[int], placement: Placement, target: Target, notes: list[str]
    ) -> tuple[NDArray[np.bool_], Corner]:
        """Unite segments that have frames of their own: BINARY or FRACTIONAL."""
        frames = np.flatnonzero(np.isin(self._owners, numbers))
        threshold = self._threshold(target, notes)
        corner, shape = _extent(placement, frames, self._shape, target.grid.shape)
        mask = np.zeros(shape, bool)
        lost = np.zeros(2, int)
        for frame, pixels in self._pixels(frames.tolist()):
            inside = pixels >= threshold
            part, view = _window(placement, frame, inside.shape, mask, corner)
            view |= inside[part]
            if view.size < inside.size:
                cut = np.count_nonzero(inside) - np.count_nonzero(inside[part])
                lost[0 if view.size else 1] += cut
        self._check_lost(int(lost[0]), int(lost[1]), target, notes)
        return mask, corner

    def _from_label_map(
        self, numbers: Sequence[int], placement: Placement, target: Target, notes: list[str]
    ) -> tuple[NDArray[np.bool_], Corner]:
        """Unite segments that are labels of one map, which is decoded once for all of them."""
        if self._labels is None:
            kind = np.uint8 if int(self.dataset.BitsAllocated) == 8 else np.uint16
            size = np.iinfo(kind).max + 1
            labels = np.full(target.grid.shape, self._padding, kind)
            lost = np.zeros((2, size), int)
            for frame, pixels in self._pixels(range(len(placement.origins))):
                part, view = _window(placement, frame, pixels.shape, labels, (0, 0, 0))
                view[...] = pixels[part]
                if view.size < pixels.size:
                    cut = np.bincount(pixels.ravel(), minlength=size)
                    cut -= np.bincount(pixels[part].ravel(), minlength=size)
                    lost[0 if view.size else 1] += cut
            self._labels = PlacedLabelMap(labels, find_objects(labels), lost)
        in_plane, beyond = self._labels.lost[:, numbers].sum(axis=1).tolist()
        self._check_lost(in_plane, beyond, target, notes)
        boxes = [self._labels.box(number) for number in numbers]
        found = [box for box in boxes if box is not None]
        if not found:
            return np.zeros((0, 0, 0), bool), (0, 0, 0)
        box = tuple(
            slice(min(b[axis].start for b in found), max(b[axis].stop for b in found))
            for axis in range(3)
        )
        mask = np.isin(self._labels.labels[box], numbers)
        return mask, (box[0].start, box[1].start, box[2].start)

    _labels: PlacedLabelMap | None = None

    def _threshold(self, target: Target, notes: list[str]) -> float:
        """Return the least stored value that counts as inside."""
        if self._type == "BINARY":
            return 1
        highest = self.dataset.get("MaximumFractionalValue")
        if self._type != "FRACTIONAL" or not highest:
            raise CaseFault(
                Reason.UNSUPPORTED_OBJECT,
                f"case {target.case_id}: segmentation {self.uid}: has Segmentation Type "
                f"{self._type!r} and Maximum Fractional Value {highest!r}, which do not say what "
                "is inside.",
            )
        kind = str(self.dataset.get("SegmentationFractionalType") or "of no type")
        note = (
            f"case {target.case_id}: segmentation {self.uid}: fractions ({kind}) of at least one "
            "half count as inside."
        )
        if note not in notes:
            notes.append(note)
        return int(highest) / 2

    def _pixels(
        self, frames: Sequence[int]
    ) -> Iterator[tuple[int, NDArray[np.unsignedinteger[Any]]]]:
        """Decode frames one by one; yields the number of the frame, from 0, and its pixels."""
        syntax = self.dataset.file_meta.TransferSyntaxUID
        rows, columns = self._shape
        try:
            if not syntax.is_encapsulated:
                self._check_length()
            if int(self.dataset.BitsAllocated) == 1 and not syntax.is_encapsulated:
                data = self.dataset.PixelData
                for frame in frames:
                    yield frame, _bits(data, frame, rows * columns).reshape(rows, columns)
                return
            decoded = get_decoder(syntax).iter_array(
                self.dataset,
                indices=frames,
                raw=True,
                decoding_plugin=DECODERS.get(syntax, ""),
            )
            for frame, (pixels, _) in zip(frames, decoded, strict=True):
                yield frame, pixels.reshape(rows, columns)
        except Exception as error:  # each decoder raises errors of its own
            raise_place_error(error)
            raise CaseFault(
                Reason.UNDECODABLE_PIXELS,
                f"{self.path}: the pixels of the segmentation ({syntax.name}) cannot be decoded: "
                f"{error}",
            ) from error

    def _check_length(self) -> None:
        """Check that there are as many bytes as pixels need: others belong to another shape.

        Raises:
            ValueError: there are not.
        """
        rows, columns = self._shape
        bits = len(self._groups()) * rows * columns * int(self.dataset.BitsAllocated)
        found, needed = len(self.dataset.PixelData), (bits + 7) // 8
        # Pixel Data has an even number of bytes (PS3.5 section 8.1.1).
        if found != needed and found != needed + needed % 2:
            raise ValueError(
                f"it has {found} bytes of pixels where its frames, rows and columns take {needed}"
            )

    def _check_lost(self, in_plane: int, beyond: int, target: Target, notes: list[str]) -> None:
        """Refuse voxels lost on planes that the image lacks, note those cut off at its border."""
        if beyond:
            raise self._mismatch(
                target, f"{beyond} of its voxels lie on planes that the image does not have"
            )
        if in_plane:
            notes.append(
                f"case {target.case_id}: segmentation {self.uid}: {in_plane} voxels lie beyond "
                "the image's border and are cut off there."
            )

    def _mismatch(self, target: Target, why: str) -> CaseFault:
        return CaseFault(
            Reason.GRID_MISMATCH,
            f"case {target.case_id}: segmentation {self.uid} does not lie on the grid of series "
            f"{target.series_uid}: {why}; segment the role that it was made on.",
        )


def _bits(data: bytes, frame: int, count: int) -> NDArray[np.uint8]:
    """Return a frame of 1-bit pixels, which need not start at a byte (PS3.5 section 8.1.1)."""
    start = frame * count
    chunk = np.frombuffer(data, np.uint8)[start // 8 : (start + count + 7) // 8]
    bits = np.unpackbits(chunk, bitorder="little")[start % 8 : start % 8 + count]
    if len(bits) < count:
        raise ValueError(f"there are too few pixels for frame {frame + 1}")
    return bits


def _extent(
    placement: Placement,
    frames: NDArray[np.intp],
    shape: tuple[int, int],
    grid_shape: tuple[int, int, int],
) -> tuple[Corner, tuple[int, ...]]:
    """Return the first voxel and the shape of the box on a grid that frames cover."""
    first = placement.origins[frames]
    last = (
        first + placement.down[frames] * (shape[0] - 1) + placement.right[frames] * (shape[1] - 1)
    )
    ends = np.concatenate([first, last])
    if not len(ends):
        return (0, 0, 0), (0, 0, 0)
    low = np.clip(ends.min(axis=0), 0, grid_shape)
    high = np.clip(ends.max(axis=0) + 1, low, grid_shape)
    return (int(low[0]), int(low[1]), int(low[2])), tuple((high - low).tolist())


def _window(
    placement: Placement,
    frame: int,
    shape: tuple[int, ...],
    volume: NDArray[Any],
    corner: Corner,
) -> tuple[tuple[slice, slice], NDArray[Any]]:
    """Return the part of a frame that lies in a box of a grid, and a view of its voxels there.

    Args:
        placement: of the frames on the grid.
        frame: number of the frame.
        shape: rows and columns of the frame.
        volume: the voxels of the box.
        corner: index of the box's first voxel on the grid.
    """
    origin = placement.origins[frame] - corner
    steps = (placement.down[frame], placement.right[frame])
    axes = [int(np.flatnonzero(step)[0]) for step in steps]
    across = 3 - sum(axes)
    voxels: list[Any] = [None, None, None]
    voxels[across] = int(origin[across])
    part = []
    beyond = not 0 <= origin[across] < volume.shape[across]
    for axis, step, length in zip(axes, steps, shape, strict=True):
        sign, size = int(step[axis]), volume.shape[axis]
        first = int(origin[axis])
        low, high = (-first, size - first) if sign > 0 else (first - size + 1, first + 1)
        low, high = max(low, 0), min(high, length)
        if beyond or high <= low:
            return (slice(0, 0), slice(0, 0)), volume[:0, :0, 0]
        part.append(slice(low, high))
        stop = first + sign * high
        voxels[axis] = slice(first + sign * low, stop if stop >= 0 else None, sign)
    view = volume[tuple(voxels)]
    return (part[0], part[1]), view if axes[0] < axes[1] else view.T
