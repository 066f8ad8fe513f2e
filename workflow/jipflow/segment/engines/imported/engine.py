"""Engine `imported`: contours and segmentations that are already in the archive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from jipflow import datasets
from jipflow.cases import Series
from jipflow.images.masks import Region
from jipflow.images.read import BROKEN, complete_syntax
from jipflow.images.series import read_planes
from jipflow.images.volume import Grid
from jipflow.notes import Notes
from jipflow.objects.annotation import Annotation, DrawnRegion, Match, Target
from jipflow.objects.registration import MODALITY, with_registrations
from jipflow.objects.rtstruct import StructureSet
from jipflow.objects.seg_reader import DicomSeg
from jipflow.place import place_error, raise_place_error
from jipflow.reasons import CaseFault, Decision, Reason
from jipflow.segment.engine import Engine, Inputs
from jipflow.segment.engines.imported import settings
from jipflow.segment.engines.imported.absence import MAKER, check_absent
from jipflow.segment.engines.imported.damage import DAMAGE, unreadable
from jipflow.segment.engines.imported.preference import note_status, preferred
from jipflow.segment.engines.imported.settings import ImportedSegment
from jipflow.syntaxes import SEGMENTATIONS, STRUCTURE_SETS

READERS: dict[str, tuple[type[Annotation], tuple[UID, ...], tuple[str, ...]]] = {
    "RTSTRUCT": (
        StructureSet,
        STRUCTURE_SETS,
        ("StructureSetROISequence", "ROIContourSequence"),
    ),
    "SEG": (
        DicomSeg,
        SEGMENTATIONS,
        ("SegmentSequence", "SegmentationType", "Rows", "Columns", "BitsAllocated"),
    ),
}
"""Class, SOP classes and attributes without which there is no region, by the protocol's `from`."""
UNDEFINED_LENGTH = 0xFFFFFFFF
"""Of a sequence that ends with a delimiter (PS3.5 section 7.5)."""
DEFERRED = 2**20
"""Bytes from which on an element of a segmentation is left in the file until it is needed."""


class Imported(Engine[settings.Imported]):
    """Turns contours and masks of the archive into masks on the grid of a role."""

    def regions(self, inputs: Inputs, found: Any) -> Iterator[Region]:
        """Give the regions of the one object of the archive that fits the image."""
        spec = self.spec
        series = inputs.case.roles[spec.role]
        target = target_of(inputs.case.case_id, series, inputs.grid)
        paths = [p for s in inputs.case.annotations if s.modality == spec.source for p in s.paths]
        others = [p for s in inputs.case.annotations if s.modality == MODALITY for p in s.paths]
        try:
            yield from import_regions(paths, spec, target, inputs.notes, inputs.decisions)
        except CaseFault as fault:
            if fault.reason is not Reason.OTHER_FRAME_OF_REFERENCE:
                raise
            raise with_registrations(fault, others, target.frame_of_reference_uid) from fault


def target_of(case_id: str, series: Series, grid: Grid) -> Target:
    """Describe the image that a segmentation is wanted for.

    Args:
        case_id: pseudonym of the case.
        series: the image series, which is prepared and so can be read.
        grid: of its volume.
    """
    apart: set[str] = set()
    uids: set[str] = set()
    planes = read_planes(series, apart=apart, there=uids)
    header = planes[0].header
    there = frozenset(uids) - {""} - apart
    own = there
    if series.wanted is not None:
        own = frozenset(str(plane.header.SOPInstanceUID) for plane in planes)
    return Target(
        case_id,
        str(header.get("StudyInstanceUID") or ""),
        str(header.get("StudyDate") or ""),
        series.series_uid,
        str(header.FrameOfReferenceUID),
        own,
        grid,
        series,
        there - own,
        frozenset(apart),
    )


def import_regions(
    paths: Iterable[Path],
    spec: settings.Imported,
    target: Target,
    notes: list[str],
    decisions: list[Decision] | None = None,
) -> Iterator[Region]:
    """Find the one object that fits an image and yield its regions on the image's grid.

    Args:
        paths: RTSTRUCT or SEG files of the patient.
        spec: the protocol's segmentation.
        target: the image.
        notes: gets a sentence for each thing that a reader of the masks should know.
        decisions: gets the code of each decision.

    Yields:
        The regions one by one, in the protocol's order, so that memory holds one.

    Raises:
        CaseFault: no object fits, several fit, or no segment has a voxel where one must have.
    """
    objects, faults = _read_all(sorted(set(paths)), spec.source)
    noted = Notes(notes, [] if decisions is None else decisions)
    source, match = choose(objects, faults, spec, target, noted)
    missing = []
    for wanted in spec.segments:
        drawing = _draw(source, wanted, target, match, noted, may_be_empty=spec.may_be_empty)
        if drawing is None:
            missing.append(wanted)
        else:
            yield Region(
                wanted.name,
                wanted.term,
                drawing.mask,
                drawing.method,
                drawing.producer,
                drawing.version,
                drawing.corner,
            )
    if missing and spec.may_be_empty:
        check_absent(missing, source, match, objects, faults, spec, target)
    elif len(missing) == len(spec.segments):
        raise CaseFault(
            Reason.EMPTY_SEGMENTATION,
            " ".join([f"case {target.case_id}: no segment of {spec.id!r} has a voxel.", *notes]),
        )


def _draw(
    source: Annotation,
    wanted: ImportedSegment,
    target: Target,
    match: Match,
    notes: Notes,
    *,
    may_be_empty: bool,
) -> DrawnRegion | None:
    """Return the region of a segment, or None where the protocol can do without it.

    Where absence is a finding, what is there and cannot be used is a fault: it is no absence.
    """
    before = len(notes.sentences)
    needed = wanted.required or may_be_empty
    try:
        drawing = source.draw(wanted.name, wanted.match, target, match, notes)
    except DAMAGE as error:
        raise unreadable(source.path, error) from error
    except CaseFault as fault:
        if needed or place_error(fault):
            raise
        notes.add(Decision.SEGMENT_LEFT_OUT, f"{wanted.name!r} was left out: {fault.message}")
        return None
    if drawing is not None and drawing.mask.any():
        return drawing
    unused = drawing.unused if drawing is not None else ""
    empty = (
        f"case {target.case_id}: {wanted.name!r} of {source.uid} has no voxel on the image's grid"
        f"{': ' + unused if unused else ''}."
    )
    if wanted.required or (needed and unused):
        raise CaseFault(Reason.EMPTY_SEGMENT, " ".join([empty, *notes.sentences[before:]]))
    if unused:
        notes.add(Decision.SEGMENT_LEFT_OUT, empty)
    return None


def choose(
    objects: Sequence[Annotation],
    faults: list[CaseFault],
    spec: settings.Imported,
    target: Target,
    notes: Notes,
) -> tuple[Annotation, Match]:
    """Find the one object that fits an image, and by what it does.

    An object fits when it names each required segment, or, where none is required, any; and
    references, from the strongest evidence to the weakest, images of the series; the series; its
    frame of reference; or, within one examination, lies on its planes. Only the objects with the
    strongest evidence count, and objects that jipflow itself made only where no other fits: they
    may come back from the PACS that they were published to.

    Args:
        objects: of the patient.
        faults: of the files that cannot be read; gets those of objects that cannot after all.
        spec: the protocol's segmentation.
        target: the image.
        notes: gets a sentence where a file cannot be used, and what the choice went by.

    Raises:
        CaseFault: none fits, or several do.
    """
    required = [s.match for s in spec.segments if s.required]
    matches = required or [s.match for s in spec.segments]
    enough = all if required else any
    named = [o for o in objects if enough(o.has(match) for match in matches)]
    own = [o for o in named if o.dataset.get("Manufacturer") == MAKER]
    fitting = _by_evidence([o for o in named if o not in own], matches, target, faults)
    if fitting and own:
        notes.add(
            Decision.OWN_OBJECTS_PASSED_OVER,
            f"{len(own)} {spec.source} objects that jipflow made were passed over.",
        )
    fitting = fitting or _by_evidence(own, matches, target, faults)
    for fault in faults:
        notes.add(Decision.OBJECT_UNREADABLE, fault.message)
    if not fitting:
        raise _none_fits(objects, named, faults, matches, spec, target)
    best = min(fitting)
    chosen = preferred(fitting[best], spec.prefer or (), notes)
    if len(chosen) > 1:
        raise _ambiguous(chosen, best, spec, target)
    notes.add(_DECISIONS[best], _ground(chosen[0], best, target))
    note_status(chosen[0], notes)
    return chosen[0], best


def _ambiguous(
    chosen: Sequence[Annotation], match: Match, spec: settings.Imported, target: Target
) -> CaseFault:
    """Name the objects that fit an image equally."""
    listed = ", ".join(
        f"{o.uid} at {o.path} ({o.dataset.get('ApprovalStatus') or 'no approval status'}, of "
        f"{o.dataset.get('StructureSetDate') or o.dataset.get('ContentDate') or 'no date'})"
        for o in chosen
    )
    if spec.prefer:
        fix = f"`prefer` ({', '.join(spec.prefer)}) does not distinguish them: narrow"
    else:
        fix = "say which one in the protocol by `prefer: [approved, latest]`, or narrow"
    return CaseFault(
        Reason.AMBIGUOUS_CONTOURS,
        f"case {target.case_id}: {len(chosen)} {spec.source} objects fit series "
        f"{target.series_uid} equally, {_BY[match]}: {listed}; {fix} its `match` to names that one "
        "of them has, or keep the others out of the sources.",
    )


def _ground(source: Annotation, match: Match, target: Target) -> str:
    """Say by what an object was taken."""
    if match is Match.IMAGES:
        listed = ", ".join(sorted(source.series()))
        return (
            f"{source.uid} was taken by the images that it references, though it names them in "
            f"series {listed} and not in {target.series_uid}."
        )
    if match in (Match.FRAME_OF_REFERENCE, Match.GEOMETRY):
        return (
            f"{source.uid} references no image of series {target.series_uid} and was taken "
            f"{_BY[match]}."
        )
    return f"{source.uid} was taken {_BY[match]}."


_DECISIONS = {
    Match.INSTANCES: Decision.OBJECT_BY_INSTANCES,
    Match.IMAGES: Decision.OBJECT_BY_IMAGES,
    Match.SERIES: Decision.OBJECT_BY_SERIES,
    Match.FRAME_OF_REFERENCE: Decision.OBJECT_BY_FRAME_OF_REFERENCE,
    Match.GEOMETRY: Decision.OBJECT_BY_GEOMETRY,
}


def _by_evidence(
    objects: Sequence[Annotation],
    matches: Sequence[str],
    target: Target,
    faults: list[CaseFault],
) -> dict[Match, list[Annotation]]:
    """Group the objects that fit by what they fit by; `faults` gets those that cannot be read."""
    fitting: dict[Match, list[Annotation]] = {}
    for candidate in objects:
        try:
            match = candidate.fit(target, matches)
        except DAMAGE as error:
            raise_place_error(error)
            faults.append(unreadable(candidate.path, error))
            continue
        if match is not None:
            fitting.setdefault(match, []).append(candidate)
    return fitting


_BY = {
    Match.INSTANCES: "by the images that it references",
    Match.IMAGES: "by the images that it references, in another series",
    Match.SERIES: "by the series that it references",
    Match.FRAME_OF_REFERENCE: "by its frame of reference",
    Match.GEOMETRY: "by its geometry: it lies on the image's planes, within one examination",
}


def _none_fits(
    objects: Sequence[Annotation],
    named: Sequence[Annotation],
    faults: Sequence[CaseFault],
    matches: Sequence[str],
    spec: settings.Imported,
    target: Target,
) -> CaseFault:
    """Say why no object fits."""
    if faults and not objects:
        return CaseFault(
            faults[0].reason,
            " ".join([f"case {target.case_id}:", *(fault.message for fault in faults)]),
        )
    wanted = ", ".join(matches)
    apart = {o.uid: o.elsewhere(target, matches) for o in named}
    if named and all(apart.values()):
        listed = "; ".join(f"{uid} in {', '.join(sorted(apart[uid]))}" for uid in sorted(apart))
        return CaseFault(
            Reason.OTHER_FRAME_OF_REFERENCE,
            f"case {target.case_id}: all {spec.source} objects of the patient that name {wanted} "
            f"lie in another frame of reference ({listed}) than series {target.series_uid} "
            f"({target.frame_of_reference_uid}); segment the role that they were drawn on, or "
            "export them for this series from the system that registered the two.",
        )
    names = ", ".join(sorted({name for o in objects for name in o.names()})) or "none"
    if named:
        why = (
            f"{len(named)} of {len(objects)} {spec.source} objects of the patient name {wanted}, "
            f"but none references series {target.series_uid} or its frame of reference, or lies "
            "on its planes within the same examination"
        )
    else:
        why = f"none of {len(objects)} {spec.source} objects of the patient has {wanted}"
    broken = " ".join(fault.message for fault in faults)
    return CaseFault(
        Reason.NO_CONTOURS,
        f"case {target.case_id}: {why}; names there: {names}. {broken}".rstrip(),
    )


def _read_all(paths: Sequence[Path], kind: str) -> tuple[list[Annotation], list[CaseFault]]:
    """Read objects; what cannot be used, and why, comes back beside them."""
    objects: list[Annotation] = []
    faults = []
    for path in paths:
        try:
            item = read_object(path, kind)
        except CaseFault as fault:
            raise_place_error(fault)
            faults.append(fault)
            continue
        if not any(_is_copy(item, other) for other in objects):
            objects.append(item)
    return objects, faults


def _is_copy(one: Annotation, other: Annotation) -> bool:
    """Return whether two files hold one object: what was drawn anew may have kept its UID."""
    if one.uid != other.uid:
        return False
    return one.path.read_bytes() == other.path.read_bytes() or one.dataset == other.dataset


def read_object(path: Path, kind: str) -> Annotation:
    """Read an RTSTRUCT or SEG, its pixels only when they are asked for.

    Args:
        path: of the file.
        kind: ``RTSTRUCT`` or ``SEG``.

    Raises:
        CaseFault: it cannot be read, or is of another kind.
    """
    reader, classes, needed = READERS[kind]
    try:
        dataset = _dataset(path, kind)
        if _is_cut(dataset, path.stat().st_size):
            raise EOFError("the file ends within an element")
        absent = [name for name in needed if not dataset.get(name)]
        item = reader(dataset, path)
        item.names()
    except BROKEN as error:
        raise unreadable(path, error) from error
    sop_class = str(dataset.get("SOPClassUID") or "")
    if sop_class and sop_class not in classes:
        raise CaseFault(
            Reason.UNSUPPORTED_OBJECT,
            f"{path}: is {UID(sop_class).name} and holds no {kind} regions.",
        )
    if absent or not sop_class:
        raise CaseFault(
            Reason.UNREADABLE,
            f"{path}: has no {', '.join(absent or ['SOPClassUID'])}, so it holds no region or is "
            "cut off; copy it again from the archive.",
        )
    return item


def _dataset(path: Path, kind: str) -> Dataset:
    """Read an object, the pixels of a segmentation only when they are asked for."""
    if kind != "SEG":
        return datasets.read(path).dataset
    dataset = datasets.read(path, defer=DEFERRED).dataset
    complete_syntax(dataset)
    if dataset.file_meta.TransferSyntaxUID.is_deflated:
        # pydicom cannot go back to a place in a deflated file.
        return datasets.read(path).dataset
    return dataset


def _is_cut(dataset: Dataset, size: int) -> bool:
    """Return whether an element has fewer bytes than its length, of which pydicom says nothing."""
    for element in dataset.values():
        if not isinstance(element, RawDataElement) or element.length == UNDEFINED_LENGTH:
            continue
        if element.value is None:
            if element.value_tell + element.length > size:
                return True
        elif len(element.value) < element.length:
            return True
    return False
