"""Whether a region that an archive's object does not hold is a finding, or only not found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jipflow.objects.annotation import Annotation, Match, Target, fits
from jipflow.reasons import CaseFault, Reason
from jipflow.segment.engines.imported import settings
from jipflow.segment.engines.imported.damage import DAMAGE, unreadable
from jipflow.segment.engines.imported.settings import ImportedSegment

MAKER = "jipflow"
"""Manufacturer (0008,0070) of objects that jipflow itself made."""


def check_absent(
    missing: Sequence[ImportedSegment],
    source: Annotation,
    match: Match,
    objects: Sequence[Annotation],
    faults: Sequence[CaseFault],
    spec: settings.Imported,
    target: Target,
) -> None:
    """Refuse to take a missing segment for a finding where it may be there after all.

    Args:
        missing: segments of the protocol of which no voxel was found.
        source: the object that was taken.
        match: by what it fits the image.
        objects: all of the patient that can be read.
        faults: of those that cannot.
        spec: the protocol's segmentation.
        target: the image.

    Raises:
        CaseFault: an object cannot be read, a name fits nothing, or another object has the segment.
    """
    others = [
        (item, evidence)
        for item in objects
        if item is not source and item.dataset.get("Manufacturer") != MAKER
        # What the protocol's wish set aside is known, and not wanted.
        if (evidence := _evidence(item, spec, target)) is not None
        and not (spec.prefer and evidence is match)
    ]
    of_image = [item for item, evidence in others if evidence <= Match.SERIES]
    doubts = [
        *(fault.message for fault in faults),
        *_strange_names(missing, [source, *of_image], spec),
        *_elsewhere(missing, [item for item, _ in others]),
    ]
    if doubts:
        listed = ", ".join(repr(segment.name) for segment in missing)
        raise CaseFault(
            faults[0].reason if faults else Reason.NO_CONTOURS,
            f"case {target.case_id}: that {listed} is missing from {source.uid} is no finding: "
            f"{' '.join(doubts)}",
        )


def _evidence(item: Annotation, spec: settings.Imported, target: Target) -> Match | None:
    """Return by what the wanted regions of an object fit an image, or all where none is wanted."""
    wanted = [segment.match for segment in spec.segments]
    try:
        return item.fit(target, wanted if any(map(item.has, wanted)) else [".*"])
    except DAMAGE as error:
        raise unreadable(item.path, error) from error


def _strange_names(
    missing: Sequence[ImportedSegment], objects: Sequence[Annotation], spec: settings.Imported
) -> Iterator[str]:
    """Yield names of regions on the image that neither a segment nor `ignore` matches.

    They do not matter where the object that was taken, the first, names each missing segment.
    """
    if all(objects[0].has(segment.match) for segment in missing):
        return
    known = [*(segment.match for segment in spec.segments), *([spec.ignore] if spec.ignore else [])]
    for item in objects:
        strange = sorted({name for name in item.names() if not fits(name, known)})
        if strange:
            yield (
                f"{item.uid} has {', '.join(map(repr, strange))}, which nothing matches; correct "
                "a `match` of the protocol, or name it in `ignore`."
            )


def _elsewhere(missing: Sequence[ImportedSegment], others: Sequence[Annotation]) -> Iterator[str]:
    """Yield the objects that were not taken and have a missing segment."""
    for item in others:
        for segment in missing:
            if item.has(segment.match):
                yield f"{item.uid} has {segment.name!r}, too; keep one of the two in the sources."
