"""DICOM Segmentations (PS3.3 A.51) and Label Map Segmentations (A.51) as regions on a grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.ndimage import find_objects

from jipflow.notes import Notes
from jipflow.objects.annotation import (
    Annotation,
    DrawnRegion,
    Match,
    Target,
    common_method,
    fits,
)
from jipflow.objects.seg_groups import FunctionalGroups, lengths, whole
from jipflow.objects.seg_pixels import BITS, decoded, layout_flaw
from jipflow.objects.seg_places import (
    ALIGNMENT_TOLERANCE,
    OWN_IMAGE_TOLERANCE,
    Corner,
    Placement,
    comb,
    extent,
    place,
    same_distance,
    window,
)
from jipflow.place import raise_place_error
from jipflow.reasons import CaseFault, Decision, Reason

BACKGROUND = ("125040", "DCM")
"""Segmented Property Type Code of what is no segment of a label map (PS3.16 CID 7151)."""


@dataclass(frozen=True)
class PlacedLabelMap:
    """A label map on the target's grid.

    Attributes:
        labels: shape of the grid.
        boxes: where each label is, from label 1 on.
        lost: voxels of each label beyond the image.
    """

    labels: NDArray[np.unsignedinteger[Any]]
    boxes: list[tuple[slice, ...] | None]
    lost: NDArray[np.int_]

    def box(self, label: int) -> tuple[slice, ...] | None:
        """Return where a label is, None where it is nowhere."""
        return self.boxes[label - 1] if 0 < label <= len(self.boxes) else None


class DicomSeg(Annotation):
    """A DICOM Segmentation of type BINARY, FRACTIONAL or LABELMAP, whose regions are segments.

    Each frame is put where its own position says, on the image that it is derived from where it
    names one, so that frames may come in any order, be left out where they are empty, cover a part
    of the image or lie along other axes of it. What the object states of its frames, numbers and
    distances is compared with them and with the image.
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
                for group in self._groups.each
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

    def lies_on(self, target: Target, matches: Sequence[str]) -> bool:
        """Return whether all frames lie on planes of the image and inside its extent."""
        del matches
        try:
            placement = self._placement(target)
        except CaseFault as fault:
            raise_place_error(fault)
            return False
        last = placement.origins + placement.down * (self._shape[0] - 1)
        last = last + placement.right * (self._shape[1] - 1)
        corners = np.stack([placement.origins, last])
        inside = (corners >= 0).all() and (corners < np.asarray(target.grid.shape)).all()
        return bool(inside and placement.error <= ALIGNMENT_TOLERANCE)

    def draw(
        self, wanted: str, pattern: str, target: Target, match: Match, notes: Notes
    ) -> DrawnRegion | None:
        """Put the segments whose label matches on the grid, and unite them."""
        chosen = [
            segment
            for segment in self._segments
            if fits(str(segment.get("SegmentLabel") or ""), (pattern,))
        ]
        context = f"case {target.case_id}: segmentation {self.uid}"
        self._check_padding(chosen or self.dataset.SegmentSequence, pattern, context)
        if not chosen:
            return None
        numbers = self._numbers(chosen)
        if len(numbers) > 1:
            listed = ", ".join(str(number) for number in numbers)
            notes.add(Decision.REGIONS_UNITED, f"{context}: {wanted!r} unites segments {listed}.")
        placement = self._placement(target)
        self._check_numbers(target)
        self._check_placement(numbers, placement, target)
        draw = self._from_label_map if self._type == "LABELMAP" else self._from_frames
        mask, corner, unused = draw(numbers, placement, target, notes)
        self._check_comb(mask, placement, target)
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
            unused,
        )

    @cached_property
    def _groups(self) -> FunctionalGroups:
        return FunctionalGroups(self.dataset, self.path)

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

    def _check_padding(self, segments: Sequence[Dataset], pattern: str, context: str) -> None:
        """Refuse a wanted segment whose number is that of pixels which belong to no segment."""
        for segment in segments:
            label = str(segment.get("SegmentLabel") or "")
            pads = self._type == "LABELMAP" and segment.get("SegmentNumber") == self._padding
            if pads and fits(label, (pattern,)):
                raise CaseFault(
                    Reason.AMBIGUOUS_CONTOURS,
                    f"{context}: {label!r} has the number {self._padding} of pixels that belong "
                    "to no segment; export it again from where it was made.",
                )

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
        numbers = [whole(segment.get("SegmentNumber")) for segment in segments]
        known = [number for number in numbers if number is not None]
        if len(known) < len(numbers):
            raise CaseFault(
                Reason.UNREADABLE,
                f"{self.path}: a segment has no Segment Number, so that its frames are not known; "
                "export it again from where it was made.",
            )
        return known

    def _check_numbers(self, target: Target) -> None:
        """Refuse an object whose numbers or layout do not say which pixels are whose.

        Raises:
            CaseFault: two segments share a number, a frame has none that is described, frames are
                not described one by one, or pixels are not laid out as in any segmentation.
        """
        context = f"case {target.case_id}: segmentation {self.uid}:"
        described = Counter(self._numbers(self.dataset.SegmentSequence))
        twice = sorted(number for number, count in described.items() if count > 1)
        if twice:
            raise CaseFault(
                Reason.AMBIGUOUS_CONTOURS,
                f"{context} {described[twice[0]]} segments have the number {twice[0]}, so that it "
                "is not known whose frames are whose; export it again from where it was made.",
            )
        # Numbers begin with 1, but for the background of a label map (PS3.3 C.8.20.2).
        unknown = sorted(set(self._groups.owners.tolist()) - (set(described) - {0}))
        if unknown and self._type != "LABELMAP":
            raise CaseFault(
                Reason.AMBIGUOUS_CONTOURS,
                f"{context} frames belong to segment {unknown[0] or 'without a number'}, which it "
                "does not describe; export it again from where it was made.",
            )
        if self._type not in BITS:
            raise CaseFault(
                Reason.UNSUPPORTED_OBJECT,
                f"{context} has Segmentation Type {self._type!r}, which does not say what is "
                "inside.",
            )
        flaw = layout_flaw(self.dataset)
        if flaw:
            raise CaseFault(Reason.UNSUPPORTED_OBJECT, f"{context} {flaw}; export it again.")

    _placed: tuple[Target, Placement] | None = None

    def _placement(self, target: Target) -> Placement:
        """Place the frames on the slices of an image, once."""
        if self._placed is None or self._placed[0] is not target:
            frames, images = self._groups.frames, target.images
            sources = [images.find(named) for named in self._groups.sources] if images else []
            self._placed = target, place(frames, target.grid, images, sources)
        return self._placed[1]

    def _check_placement(
        self, numbers: Sequence[int], placement: Placement, target: Target
    ) -> None:
        """Compare what the object states of its frames with them and with the image.

        Raises:
            CaseFault: it was not made on the image's grid, or contradicts itself.
        """
        if len(self._groups.owners) != whole(self.dataset.get("NumberOfFrames") or 1):
            raise self._mismatch(target, "its functional groups do not describe each frame once")
        most = 2 ** int(self.dataset.BitsAllocated) - 1
        largest = max(self._numbers(self._segments))
        if self._type == "LABELMAP" and largest > most:
            raise self._mismatch(
                target, f"its pixels reach {most} and so cannot be segment {largest}"
            )
        beside = sum(
            any(uid in target.apart for uid, _ in self._groups.sources[frame])
            for frame in np.flatnonzero(np.isin(self._groups.owners, numbers)).tolist()
            if frame < len(self._groups.sources)
        )
        if beside:
            raise self._mismatch(
                target,
                f"{beside} of its frames were drawn on images that are no slices, such as a "
                "localizer, and were set apart",
            )
        if placement.error > ALIGNMENT_TOLERANCE:
            raise self._mismatch(
                target, f"its pixels lie up to {placement.error:.2f} voxels off the image's voxels"
            )
        far = int(placement.strayed.argmax())
        if placement.strayed[far] > OWN_IMAGE_TOLERANCE:
            raise self._mismatch(
                target,
                f"frame {far + 1} lies {placement.strayed[far]:.2f} slices away from the image "
                "that it is derived from",
            )
        keys = np.column_stack([self._groups.owners, placement.origins])
        if len(np.unique(keys, axis=0)) < len(keys):
            raise self._mismatch(
                target,
                "several frames of a segment lie at one place, as of several points of time",
            )
        of_label_map = self._type == "LABELMAP"
        self._check_distance(
            np.flatnonzero(of_label_map | np.isin(self._groups.owners, numbers)), placement, target
        )

    def _check_distance(
        self, frames: NDArray[np.intp], placement: Placement, target: Target
    ) -> None:
        """Compare the distance of the slices that frames were made on with that of the image's.

        It is stated as Spacing Between Slices. Where it is not, frames that are derived from the
        image's own slices have their distance, and so have frames on adjacent slices; else the
        slices' thickness is taken for it.

        Raises:
            CaseFault: it is another one, or cannot be known.
        """
        if not len(frames):
            return
        images = target.images
        derived = placement.derived[frames].all()
        known = images.distances if images and derived else frozenset()
        measures = self._groups.measures
        across = int(placement.across[frames[0]])
        distance = target.grid.spacing[across]
        spacings = lengths((measures[f] for f in frames), "SpacingBetweenSlices")
        wrong = sorted(s for s in spacings - known if not same_distance(s, distance))
        if wrong:
            raise self._mismatch(
                target,
                f"it says that its slices lie {wrong[0]:g} mm apart, and the image's lie "
                f"{distance:.6g} mm apart",
            )
        planes = np.unique(placement.origins[placement.across == across][:, across])
        if spacings or derived or (np.diff(planes) == 1).any():
            return
        thick = lengths((measures[f] for f in frames), "SliceThickness")
        if not thick or not all(same_distance(t, distance) for t in thick):
            raise self._mismatch(
                target,
                "nothing says that the slices it was made on lie as far apart as the image's, "
                f"{distance:.6g} mm",
            )

    def _check_comb(self, mask: NDArray[np.bool_], placement: Placement, target: Target) -> None:
        """Refuse a region on every n-th slice, as of a series whose slices lie farther apart."""
        for axis in np.unique(placement.across).tolist():
            others = tuple(other for other in range(3) if other != axis)
            step = comb(np.flatnonzero(mask.any(axis=others)))
            if step:
                raise self._mismatch(
                    target, f"a region has voxels on one of {step} slices in turn, as in a comb"
                )

    def _from_frames(
        self, numbers: Sequence[int], placement: Placement, target: Target, notes: Notes
    ) -> tuple[NDArray[np.bool_], Corner, str]:
        """Unite segments that have frames of their own: BINARY or FRACTIONAL."""
        frames = np.flatnonzero(np.isin(self._groups.owners, numbers))
        most = self._most(target)
        corner, shape = extent(placement, frames, self._shape, target.grid.shape)
        mask = np.zeros(shape, bool)
        lost = highest = 0
        for frame, pixels in self._pixels(frames.tolist()):
            highest = max(highest, int(pixels.max()))
            inside = pixels >= most / 2
            part, view = window(placement, frame, inside.shape, mask, corner)
            view |= inside[part]
            lost += int(np.count_nonzero(inside)) - int(np.count_nonzero(inside[part]))
        if highest > most:
            raise CaseFault(
                Reason.UNSUPPORTED_OBJECT,
                f"case {target.case_id}: segmentation {self.uid}: its values reach {highest}, "
                f"beyond the {most} that stand for all; export it again from where it was made.",
            )
        self._check_lost(lost, target)
        self._note_fractions(target, notes)
        unused = ""
        if not mask.any():
            unused = f"its values reach {highest} of {most}, none one half" if highest else ""
            what = f"{len(frames)} frames, all blank" if len(frames) else "no frame"
            if not highest:
                notes.add(Decision.SEGMENT_BLANK, self._empty_note(numbers, target, what))
        return mask, corner, unused

    def _from_label_map(
        self, numbers: Sequence[int], placement: Placement, target: Target, notes: Notes
    ) -> tuple[NDArray[np.bool_], Corner, str]:
        """Unite segments that are labels of one map, which is decoded once for all of them."""
        if self._labels is None:
            self._labels = self._label_map(placement, target)
        self._check_lost(int(self._labels.lost[numbers].sum()), target)
        boxes = [self._labels.box(number) for number in numbers]
        found = [box for box in boxes if box is not None]
        if not found:
            notes.add(Decision.SEGMENT_BLANK, self._empty_note(numbers, target, "no pixel"))
            return np.zeros((0, 0, 0), bool), (0, 0, 0), ""
        box = tuple(
            slice(min(b[axis].start for b in found), max(b[axis].stop for b in found))
            for axis in range(3)
        )
        mask = np.isin(self._labels.labels[box], numbers)
        return mask, (box[0].start, box[1].start, box[2].start), ""

    _labels: PlacedLabelMap | None = None

    def _label_map(self, placement: Placement, target: Target) -> PlacedLabelMap:
        """Decode the label map and put it on the grid.

        Raises:
            CaseFault: a pixel has a label that no segment has.
        """
        kind = np.uint8 if int(self.dataset.BitsAllocated) == 8 else np.uint16
        size = np.iinfo(kind).max + 1
        labels = np.full(target.grid.shape, self._padding, kind)
        lost, found = np.zeros(size, int), np.zeros(size, int)
        for frame, pixels in self._pixels(range(len(placement.origins))):
            part, view = window(placement, frame, pixels.shape, labels, (0, 0, 0))
            view[...] = pixels[part]
            counts = np.bincount(pixels.ravel(), minlength=size)
            found += counts
            if view.size < pixels.size:
                lost += counts - np.bincount(pixels[part].ravel(), minlength=size)
        described = {0, self._padding, *self._numbers(self.dataset.SegmentSequence)}
        strange = sorted(set(np.flatnonzero(found).tolist()) - described)
        if strange:
            raise CaseFault(
                Reason.AMBIGUOUS_CONTOURS,
                f"case {target.case_id}: segmentation {self.uid}: {found[strange[0]]} pixels have "
                f"the label {strange[0]}, which no segment has; export it again from where it was "
                "made.",
            )
        return PlacedLabelMap(labels, find_objects(labels), lost)

    def _most(self, target: Target) -> int:
        """Return the stored value that stands for wholly inside."""
        if self._type == "BINARY":
            return 1
        highest = whole(self.dataset.get("MaximumFractionalValue"))
        if not highest:
            raise CaseFault(
                Reason.UNSUPPORTED_OBJECT,
                f"case {target.case_id}: segmentation {self.uid}: has Segmentation Type "
                f"{self._type!r} and Maximum Fractional Value {highest!r}, which do not say what "
                "is inside.",
            )
        return highest

    def _note_fractions(self, target: Target, notes: Notes) -> None:
        """Say what of fractions counts as inside."""
        if self._type != "FRACTIONAL":
            return
        kind = str(self.dataset.get("SegmentationFractionalType") or "of no type")
        note = (
            f"case {target.case_id}: segmentation {self.uid}: fractions ({kind}) of at least one "
            "half count as inside."
        )
        if note not in notes.sentences:
            notes.add(Decision.FRACTIONS_FROM_HALF, note)

    def _empty_note(self, numbers: Sequence[int], target: Target, what: str) -> str:
        listed = ", ".join(map(str, numbers))
        return (
            f"case {target.case_id}: segmentation {self.uid}: segment {listed} is described and "
            f"has {what}."
        )

    def _pixels(
        self, frames: Sequence[int]
    ) -> Iterator[tuple[int, NDArray[np.unsignedinteger[Any]]]]:
        """Decode frames one by one; yields the number of the frame, from 0, and its pixels."""
        try:
            yield from decoded(self.dataset, frames, self._shape, len(self._groups.each))
        except Exception as error:  # each decoder raises errors of its own
            raise_place_error(error)
            raise CaseFault(
                Reason.UNDECODABLE_PIXELS,
                f"{self.path}: the pixels of the segmentation "
                f"({self.dataset.file_meta.TransferSyntaxUID.name}) cannot be decoded: {error}",
            ) from error

    def _check_lost(self, lost: int, target: Target) -> None:
        """Refuse a region of which voxels lie where the image has none."""
        if lost:
            raise self._mismatch(target, f"{lost} of its voxels lie beyond the image")

    def _mismatch(self, target: Target, why: str) -> CaseFault:
        tilted = target.images is not None and target.images.tilted
        fix = (
            "the images' tilt was corrected, and masks drawn on tilted images have other voxels: "
            "import contours, or masks that were made on a volume without the tilt"
            if tilted
            else "segment the role that it was made on"
        )
        return CaseFault(
            Reason.GRID_MISMATCH,
            f"case {target.case_id}: segmentation {self.uid} does not lie on the grid of series "
            f"{target.series_uid}: {why}; {fix}.",
        )
