"""Whether a region that an archive's object does not hold is a finding, or only not found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jipflow.objects.annotation import Annotation, Match, Target, fits
from jipflow.reasons import CaseFault, Reason
from jipflow.segment.engines.imported import settings
from jipflow.segment.engines.imported.settings import ImportedSegment

MAKER = "jipflow"
"""Manufacturer (0008,0070) of objects that jipflow itself made."""


def check_absent(
    missing: Sequence[ImportedSegment],
    source: Annotation,
    objects: Sequence[Annotation],
    faults: Sequence[CaseFault],
    spec: settings.Imported,
    target: Target,
) -> None:
    """Refuse to take a missing segment for a finding where it may be there after all.

    Args:
        missing: segments of the protocol of which no voxel was found.
        source: the object that was taken.
        objects: all of the patient that can be read.
        faults: of those that cannot.
        spec: the protocol's segmentation.
        target: the image.

    Raises:
        CaseFault: an object cannot be read, a name fits nothing, or another object has the segment.
    """
    doubts = [
        *(fault.message for fault in faults),
        *_strange_names(missing, source, objects, spec, target),
        *_elsewhere(missing, source, objects, target),
    ]
    if doubts:
        listed = ", ".join(repr(segment.name) for segment in missing)
        raise CaseFault(
            faults[0].reason if faults else Reason.NO_CONTOURS,
            f"case {target.case_id}: that {listed} is missing from {source.uid} is no finding: "
            f"{' '.join(doubts)}",
        )


def _strange_names(
    missing: Sequence[ImportedSegment],
    source: Annotation,
    objects: Sequence[Annotation],
    spec: settings.Imported,
    target: Target,
) -> Iterator[str]:
    """Yield names of regions on the image that neither a segment nor `ignore` matches."""
    if all(source.has(segment.match) for segment in missing):
        return
    known = [*(segment.match for segment in spec.segments), *([spec.ignore] if spec.ignore else [])]
    for item in objects:
        strange = sorted({name for name in item.names() if not fits(name, known)})
        if strange and (item is source or _is_of_image(item, target)):
            yield (
                f"{item.uid} has {', '.join(map(repr, strange))}, which nothing matches; correct "
                "a `match` of the protocol, or name it in `ignore`."
            )


def _elsewhere(
    missing: Sequence[ImportedSegment],
    source: Annotation,
    objects: Sequence[Annotation],
    target: Target,
) -> Iterator[str]:
    """Yield the objects that were not taken and have a missing segment."""
    for item in objects:
        if item is source or item.dataset.get("Manufacturer") == MAKER:
            continue
        for segment in missing:
            if item.has(segment.match) and item.fit(target, [segment.match]) is not None:
                yield f"{item.uid} has {segment.name!r}, too; keep one of the two in the sources."


def _is_of_image(item: Annotation, target: Target) -> bool:
    if item.dataset.get("Manufacturer") == MAKER:
        return False
    return item.fit(target, [".*"]) in (Match.INSTANCES, Match.SERIES)
