"""RT Structure Sets (PS3.3 A.19) as regions on an image's grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.images.contours import PLANE_TOLERANCE, on_slices, rasterise
from jipflow.notes import Notes
from jipflow.objects.annotation import (
    Annotation,
    DrawnRegion,
    Match,
    SourceImages,
    Target,
    common_method,
    fits,
)
from jipflow.place import raise_place_error
from jipflow.reasons import CaseFault, Decision, Reason

CONTOUR_DATA = 0x30060050
XOR = "CLOSEDPLANAR_XOR"
CLOSED = ("CLOSED_PLANAR", XOR)
OTHERS = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
"""Contour Geometric Types (3006,0042) that enclose nothing (PS3.3 C.8.8.6.1)."""
OFF_ITS_IMAGE = 0.5 + PLANE_TOLERANCE
"""Farthest, in slices, that a contour may lie from the image that it names: half-way to the next,
where it was drawn between two."""


class StructureSet(Annotation):
    """An RT Structure Set, whose regions are ROIs."""

    def names(self) -> list[str]:
        """Return the ROI Names."""
        return [str(roi.get("ROIName") or "") for roi in self._rois()]

    def images(self, matches: Sequence[str]) -> set[str]:
        """Return the images that the contours of the wanted ROIs, or their series, reference."""
        found = set()
        for holder in (*self._contours(matches), *self._referenced_series()):
            found |= _referenced(holder)
        return found

    def _check_images(
        self, contours: Sequence[Dataset], target: Target, context: str, notes: Notes
    ) -> None:
        """Refuse a region that was drawn on images of the series that are not there.

        Raises:
            CaseFault: the region would be drawn without them, or on images of the series that are
                no slices.
        """
        listed = {
            uid
            for series in self._referenced_series()
            if str(series.get("SeriesInstanceUID") or "") == target.series_uid
            for uid in _referenced(series)
        }
        other = sum(bool(_referenced(contour) & target.others) for contour in contours)
        if other:
            notes.add(
                Decision.CONTOURS_OF_ANOTHER_VOLUME,
                f"{context}: {other} of {len(contours)} contours were drawn on images of another "
                "volume of the series.",
            )
        beside = sum(
            bool(_referenced(contour) & target.apart)
            and not _referenced(contour) & target.instances
            for contour in contours
        )
        if beside:
            raise CaseFault(
                Reason.CONTOUR_GEOMETRY,
                f"{context}: {beside} of {len(contours)} contours were drawn on images that are no "
                "slices, such as a localizer, and were set apart; draw them on the slices.",
            )
        gone = listed - target.instances - target.others - target.apart
        if not gone or gone == listed:
            return
        share = f"{len(gone)} of {len(listed)} images of the series that the structure set names"
        without = sum(bool(_referenced(contour) & gone) for contour in contours)
        if without:
            raise CaseFault(
                Reason.MISSING_SLICES,
                f"{context}: {without} of {len(contours)} contours lie on images that are not "
                f"there ({share}); retrieve the series again.",
            )
        notes.add(Decision.NAMED_IMAGES_MISSING, f"{share} are not there.")

    def series(self) -> set[str]:
        """Return the series in the RT Referenced Series Sequence."""
        return {str(s.get("SeriesInstanceUID") or "") for s in self._referenced_series()} - {""}

    def frames_of_reference(self, matches: Sequence[str]) -> set[str]:
        """Return the frames of the wanted ROIs that name one."""
        return {self._frame(roi) for roi in self._named(matches)} - {""}

    def _frame(self, roi: Dataset) -> str:
        """Return the frame that an ROI lies in; empty where nothing says which.

        The ROI names it, else the set does. Of several of the set it is the one with the images
        that the contours reference; where that is not one, all of them, joined by a comma.
        """
        own = str(roi.get("ReferencedFrameOfReferenceUID") or "")
        items = self.dataset.get("ReferencedFrameOfReferenceSequence") or []
        listed = {str(item.get("FrameOfReferenceUID") or "") for item in items} - {""}
        if own or len(listed) < 2:
            whole = str(self.dataset.get("FrameOfReferenceUID") or "")
            return own or (listed.pop() if listed else whole)
        images = {uid for contour in self._contours_of(roi) for uid in _referenced(contour)}
        holding = {
            str(item.get("FrameOfReferenceUID") or "")
            for item in items
            if images & {uid for series in _series_of(item) for uid in _referenced(series)}
        }
        return ",".join(sorted(holding if len(holding) == 1 else listed))

    def studies(self) -> set[str]:
        """Return its own study and those in the RT Referenced Study Sequence."""
        found = {str(self.dataset.get("StudyInstanceUID") or "")}
        for study in self._referenced_studies():
            found.add(str(study.get("ReferencedSOPInstanceUID") or ""))
        return found - {""}

    def lies_on(self, target: Target, matches: Sequence[str]) -> bool:
        """Return whether all closed contours of the wanted ROIs lie on slices, inside the image."""
        closed = [c for c in self._contours(matches) if _kind(c) in CLOSED]
        try:
            return on_slices([_points(contour, "") for contour in closed], target.grid)
        except CaseFault:
            return False

    def draw(
        self, wanted: str, pattern: str, target: Target, match: Match, notes: Notes
    ) -> DrawnRegion | None:
        """Rasterise the ROIs whose name matches and that lie in the image's frame of reference."""
        context = f"case {target.case_id}: structure set {self.uid}"
        rois = self._in_frame(wanted, pattern, target, context, notes)
        if not rois:
            return None
        self._check_numbers(rois, target)
        mask = np.zeros(target.grid.shape, bool)
        drawn = []
        for roi in rois:
            region = self._draw_roi(roi, target, match, context, notes)
            if region is not None:
                mask |= region
                drawn.append(str(_number(roi.get("ROINumber"))))
        if len(drawn) > 1:
            notes.add(
                Decision.REGIONS_UNITED, f"{context}: {wanted!r} unites ROIs {', '.join(drawn)}."
            )
        stated = {str(roi.get("ROIGenerationAlgorithm") or "") for roi in rois}
        method = common_method(stated, f"{context}, {wanted!r}", notes)
        unused = "its contours enclose no voxel" if drawn and not mask.any() else ""
        return DrawnRegion(mask, method, *self._producer(), unused=unused)

    def _in_frame(
        self, wanted: str, pattern: str, target: Target, context: str, notes: Notes
    ) -> list[Dataset]:
        """Return the ROIs whose name matches, without those in another frame of reference.

        Raises:
            CaseFault: all of them lie in another one.
        """
        rois = list(self._named((pattern,)))
        frames = [self._frame(roi) for roi in rois]
        here = [
            roi
            for roi, frame in zip(rois, frames, strict=True)
            if frame in ("", target.frame_of_reference_uid)
        ]
        if len(here) == len(rois):
            return here
        others = ", ".join(sorted(set(frames) - {"", target.frame_of_reference_uid}))
        if not here:
            raise CaseFault(
                Reason.OTHER_FRAME_OF_REFERENCE,
                f"{context}: {wanted!r} lies in frame of reference {others}, the image in "
                f"{target.frame_of_reference_uid}; segment the role that it was drawn on.",
            )
        notes.add(
            Decision.OTHER_FRAME_LEFT_OUT,
            f"{context}: {len(rois) - len(here)} of {len(rois)} ROIs of {wanted!r} lie in another "
            f"frame of reference ({others}) and were left out.",
        )
        return here

    def _draw_roi(
        self, roi: Dataset, target: Target, match: Match, context: str, notes: Notes
    ) -> NDArray[np.bool_] | None:
        """Rasterise an ROI; None where it has no contours."""
        number = _number(roi.get("ROINumber"))
        name = f"{context}, {str(roi.get('ROIName') or '').strip()!r}, ROI {number}"
        contours = self._contours_of(roi)
        if not contours:
            notes.add(Decision.REGION_WITHOUT_CONTOUR, f"{name}: it has no contours.")
            return None
        self._check_images(contours, target, name, notes)
        items = [] if number is None else self._items(number)
        return self._rasterise(contours, items, target, match, name, notes)

    def _producer(self) -> tuple[str, str]:
        """Return the name of what made it, and its version."""
        maker = self.dataset.get("ManufacturerModelName") or self.dataset.get("Manufacturer")
        return str(maker or "RTSTRUCT"), str(self.dataset.get("SoftwareVersions") or "")

    def _check_numbers(self, rois: Sequence[Dataset], target: Target) -> None:
        """Refuse regions that share their number, by which contours are known, with another one.

        Raises:
            CaseFault: one does.
        """
        numbers = [_number(roi.get("ROINumber")) for roi in self._rois()]
        for number in (_number(roi.get("ROINumber")) for roi in rois):
            if number is not None and numbers.count(number) > 1:
                raise CaseFault(
                    Reason.AMBIGUOUS_CONTOURS,
                    f"case {target.case_id}: structure set {self.uid}: {numbers.count(number)} "
                    f"ROIs have the number {number}, so that it is not known whose contours are "
                    "whose; export it again from where it was made.",
                )

    def _rasterise(
        self,
        contours: Sequence[Dataset],
        items: Sequence[Dataset],
        target: Target,
        match: Match,
        context: str,
        notes: Notes,
    ) -> NDArray[np.bool_]:
        """Fill the closed contours of a region; what encloses nothing is left out with a note."""
        closed = [c for c in contours if _kind(c) in CLOSED]
        kinds = {_kind(contour) for contour in contours} - set(CLOSED)
        if unknown := sorted(kinds - set(OTHERS)):
            raise CaseFault(
                Reason.CONTOUR_GEOMETRY,
                f"{context}: a contour has the type {unknown[0]!r}, which does not say whether it "
                "encloses anything; export the structure set again from the planning system.",
            )
        if kinds:
            notes.add(
                Decision.CONTOURS_LEFT_OUT,
                f"{context}: {len(contours) - len(closed)} of {len(contours)} contours enclose "
                f"nothing ({', '.join(sorted(kinds))}) and were left out.",
            )
        paths = [_points(contour, context) for contour in closed]
        _note_oddities(closed, paths, context, notes)
        _check_places(closed, paths, target, context, notes)
        areas = [path for path in paths if len(path) > 2]
        if len(areas) < len(paths):
            notes.add(
                Decision.CONTOURS_LEFT_OUT,
                f"{context}: {len(paths) - len(areas)} of {len(contours)} contours have fewer than "
                "three points and were left out.",
            )
        return rasterise(
            areas,
            target.grid,
            context,
            drawn_here=match is not Match.FRAME_OF_REFERENCE,
            plane_spacing=_plane_spacing(items),
            xor=any(_kind(contour) == XOR for contour in closed),
            notes=notes,
        )

    def _rois(self) -> Sequence[Dataset]:
        return self.dataset.get("StructureSetROISequence") or []

    def _named(self, matches: Sequence[str]) -> Iterator[Dataset]:
        """Iterate over the ROIs whose names fit."""
        return (roi for roi in self._rois() if fits(str(roi.get("ROIName") or ""), matches))

    def _items(self, number: int) -> list[Dataset]:
        items = self.dataset.get("ROIContourSequence") or []
        return [item for item in items if _number(item.get("ReferencedROINumber")) == number]

    def _contours_of(self, roi: Dataset) -> list[Dataset]:
        """Return the contours of an ROI."""
        number = _number(roi.get("ROINumber"))
        items = [] if number is None else self._items(number)
        return [contour for item in items for contour in item.get("ContourSequence") or []]

    def _contours(self, matches: Sequence[str]) -> Iterator[Dataset]:
        """Iterate over the contours of the regions whose names fit."""
        for roi in self._named(matches):
            yield from self._contours_of(roi)

    def _referenced_studies(self) -> Iterator[Dataset]:
        for frame in self.dataset.get("ReferencedFrameOfReferenceSequence") or []:
            yield from frame.get("RTReferencedStudySequence") or []

    def _referenced_series(self) -> Iterator[Dataset]:
        for frame in self.dataset.get("ReferencedFrameOfReferenceSequence") or []:
            yield from _series_of(frame)


def _series_of(frame: Dataset) -> Iterator[Dataset]:
    """Iterate over the series of an item of the Referenced Frame of Reference Sequence."""
    for study in frame.get("RTReferencedStudySequence") or []:
        yield from study.get("RTReferencedSeriesSequence") or []


def _referenced(holder: Dataset) -> set[str]:
    """Return the images in the Contour Image Sequence of a contour or of a referenced series."""
    images = holder.get("ContourImageSequence") or []
    return {str(image.get("ReferencedSOPInstanceUID") or "") for image in images} - {""}


def _number(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _kind(contour: Dataset) -> str:
    """Return the Contour Geometric Type in capitals, as it should be; empty where it has none."""
    return str(contour.get("ContourGeometricType") or "").strip().upper()


def _images(target: Target) -> SourceImages | None:
    """Return the images that a volume is of; None where they make more than one stack."""
    try:
        return target.images
    except CaseFault as fault:
        raise_place_error(fault)
        return None


def _check_places(
    contours: Sequence[Dataset],
    paths: Sequence[NDArray[np.float64]],
    target: Target,
    context: str,
    notes: Notes,
) -> None:
    """Compare the slices that contours lie on with the images that they name.

    Raises:
        CaseFault: most of them lie on others, so that it is not known which of the two is right.
    """
    named = [_referenced(contour) & target.instances for contour in contours]
    images = _images(target) if any(named) else None
    if images is None:
        return
    turn = np.linalg.inv(target.grid.affine)[0]
    depths = images.positions @ turn[:3] + turn[3]
    away = []
    for uids, path in zip(named, paths, strict=True):
        places = images.find([(uid, 0) for uid in sorted(uids)])
        if places and len(path):
            depth = (path @ turn[:3] + turn[3]).mean()
            away.append(float(np.abs(depths[places] - depth).min()))
    strayed = sum(distance > OFF_ITS_IMAGE for distance in away)
    if not strayed:
        return
    text = (
        f"{context}: {strayed} of {len(contours)} contours lie on other slices than the images "
        f"that they name, up to {max(away):.1f} slices away"
    )
    # Where all name one image it is a stand-in, and their points are all that says where they lie.
    if 2 * strayed > len(away) and len(set.union(*named)) > 1:
        raise CaseFault(
            Reason.CONTOUR_GEOMETRY,
            f"{text}; export the structure set again from the planning system.",
        )
    notes.add(Decision.CONTOURS_OFF_THEIR_IMAGES, f"{text}; their points count.")


def _note_oddities(
    contours: Sequence[Dataset],
    paths: Sequence[NDArray[np.float64]],
    context: str,
    notes: Notes,
) -> None:
    """Note each kind of contour that says two things of itself.

    Raises:
        CaseFault: contours are to be moved by an offset (Contour Offset Vector, retired), of which
            nobody knows whether their points have it already.
    """
    moved = [c for c in contours if any(float(v) for v in c.get("ContourOffsetVector") or ())]
    if moved:
        raise CaseFault(
            Reason.CONTOUR_GEOMETRY,
            f"{context}: {len(moved)} contours have a Contour Offset Vector, which is retired; "
            "export the structure set again without it.",
        )
    counts = [_number(contour.get("NumberOfContourPoints")) for contour in contours]
    other = sum(
        count is not None and count != len(path) for count, path in zip(counts, paths, strict=True)
    )
    if other:
        notes.add(
            Decision.CONTOUR_POINTS_MISCOUNTED,
            f"{context}: {other} of {len(contours)} contours have another number of points than "
            "they state; those that are there were taken.",
        )
    if len({_kind(contour) for contour in contours}) > 1:
        notes.add(
            Decision.CONTOUR_TYPES_MIXED,
            f"{context}: some of its contours are of type {XOR} and some are not, where all must "
            "be (PS3.3 C.8.8.6.3); all were combined so.",
        )


def _plane_spacing(items: Sequence[Dataset]) -> float | None:
    """Return the distance in mm of the planes that an ROI was drawn on, where it says so.

    Spacing Between Slices of the Source Pixel Planes Characteristics Sequence (PS3.3 C.8.8.6.4).
    """
    for item in items:
        for planes in item.get("SourcePixelPlanesCharacteristicsSequence") or []:
            spacing = planes.get("SpacingBetweenSlices")
            if spacing:
                return abs(float(spacing))
    return None


def _points(contour: Dataset, context: str) -> NDArray[np.float64]:
    """Return Contour Data (3006,0050) as points of shape (n, 3) in LPS mm.

    The text is parsed at once: one object for each of a hundred thousand numbers costs ten times
    as much.
    """
    element = contour.get_item(CONTOUR_DATA)
    value = None if element is None else element.value
    try:
        if isinstance(value, bytes):
            text = value.strip(b" \0")
            numbers = np.array(text.split(b"\\") if text else [], "S").astype(float)
        else:
            numbers = np.array([] if value is None else value, dtype=float).ravel()
        sound = bool(np.isfinite(numbers).all()) and numbers.size % 3 == 0
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise CaseFault(
            Reason.CONTOUR_GEOMETRY,
            f"{context}: the data of a contour are no triplets of numbers; export the structure "
            "set again from the planning system.",
        )
    return numbers.reshape(-1, 3)
