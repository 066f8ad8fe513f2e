"""The worklist: what a person needs to draw or to correct a segmentation, a folder a case."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from jipflow.annotate.inbox import NOTHING
from jipflow.cases import Case
from jipflow.files import atomic_path
from jipflow.images.masks import Segmentation, read_segmentation
from jipflow.images.series import read_planes
from jipflow.objects.seg_writer import SERIES_NUMBER_OFFSET, write_seg
from jipflow.objects.terms import coded
from jipflow.outcomes import Outcome, Status
from jipflow.place import raise_place_error
from jipflow.reasons import CaseFault
from jipflow.segment.engines.annotated.settings import AnnotatedSegmentation
from jipflow.settings.resources import RESOURCES
from jipflow.settings.run import Settings
from jipflow.workers import for_each_case

PROPOSAL_OFFSET = 500
"""Keeps the proposals' series apart from those of the results, in a viewer's list."""


def worklist_folder(results: Path, segmentation: str, case_id: str) -> Path:
    """Return the folder of a case that waits for a person."""
    return results / "worklist" / segmentation / case_id


def write_worklist(
    *,
    cases: Sequence[Case],
    outcomes: Iterable[Outcome],
    settings: Settings,
    automatic: Path,
    inbox: Path,
    results: Path,
    threads: int,
) -> None:
    """Write the folders of the cases that wait, and remove those of all others.

    A folder holds ``series/``, the DICOM images in the order of their slices; ``proposal.dcm``, a
    DICOM-SEG of what the person corrects, where there is one; and ``README.txt``. Images are
    copied and not linked, so that no program changes the archive through them. The folder in the
    inbox that the result goes into is made, too.

    Args:
        cases: the shard's cases.
        outcomes: of stage `annotate`.
        settings: of the site and the protocol.
        automatic: folder of the proposals' masks, ``<case_id>/<segmentation>/``.
        inbox: folder of ``<segmentation>/<case_id>/<reader>/``.
        results: the protocol's results folder.
        threads: processes.
    """
    waiting = {(o.case_id, o.item): o.message for o in outcomes if o.status is Status.WAITING}
    work = partial(
        _write_case,
        waiting=waiting,
        settings=settings,
        automatic=automatic,
        inbox=inbox,
        results=results,
    )
    for_each_case(cases, work, threads)


def _write_case(
    case: Case,
    waiting: Mapping[tuple[str, str], str],
    settings: Settings,
    automatic: Path,
    inbox: Path,
    results: Path,
) -> list[None]:
    for spec in settings.protocol.segmentations:
        if not isinstance(spec, AnnotatedSegmentation):
            continue
        folder = worklist_folder(results, spec.id, case.case_id)
        message = waiting.get((case.case_id, spec.id))
        if message is None:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        target = inbox / spec.id / case.case_id
        target.mkdir(parents=True, exist_ok=True)
        _copy_series(case, spec, folder / "series")
        proposed = _write_proposal(case, spec, settings, automatic, folder / "proposal.dcm")
        with atomic_path(folder / "README.txt") as part:
            part.write_text(_readme(spec, case, message, proposed, target), encoding="utf-8")
    return []


def _copy_series(case: Case, spec: AnnotatedSegmentation, folder: Path) -> None:
    """Copy the images of the role, in the order of their slices, unless they are there."""
    planes = read_planes(case.roles[spec.role])
    files = list(dict.fromkeys(plane.path for plane in planes))
    wanted = {f"IM{number:04d}.dcm": file for number, file in enumerate(files, start=1)}
    there = {path.name: path.stat() for path in folder.glob("*")}
    same = there.keys() == wanted.keys() and all(
        there[name].st_size == file.stat().st_size
        and there[name].st_mtime_ns == file.stat().st_mtime_ns
        for name, file in wanted.items()
    )
    if same:
        return
    with atomic_path(folder) as part:
        part.mkdir()
        for name, file in wanted.items():
            shutil.copy2(file, part / name)


def _write_proposal(
    case: Case, spec: AnnotatedSegmentation, settings: Settings, automatic: Path, path: Path
) -> str:
    """Write what the person corrects; returns a sentence for the person."""
    path.unlink(missing_ok=True)
    masks = automatic / case.case_id / (spec.proposal or "")
    if spec.proposal is None or not (masks / "segments.json").is_file():
        return "There is no proposal: draw on the images."
    number = settings.protocol.segmentations.index(spec) + 1
    try:
        made = write_seg(
            path,
            case,
            spec,
            _shown(read_segmentation(masks), spec),
            terms=coded(settings.named.terms),
            # Some viewers open no label maps.
            encoding="binary",
            description=f"{settings.protocol_id} {spec.id} proposal",
            series_number=SERIES_NUMBER_OFFSET + PROPOSAL_OFFSET + number,
            identity=(settings.protocol_sha256, spec.id, "proposal"),
        )
    except CaseFault as fault:
        raise_place_error(fault)
        return f"There is no proposal ({fault.message}): draw on the images."
    if not made.paths:
        return f"There is no proposal, as {spec.proposal!r} found none: draw on the images."
    return "proposal.dcm holds what is to be checked and corrected."


def _shown(segmentation: Segmentation, spec: AnnotatedSegmentation) -> Segmentation:
    """Return of a proposal the segments that are asked for, with their terms."""
    terms = {segment.name: segment.term for segment in spec.segments}
    segments = tuple(
        replace(segment, term=terms[segment.name])
        for segment in segmentation.segments
        if segment.name in terms
    )
    return replace(segmentation, segments=segments)


def _readme(
    spec: AnnotatedSegmentation, case: Case, message: str, proposed: str, target: Path
) -> str:
    template = (RESOURCES / "worklist.txt").read_text(encoding="utf-8")
    segments = "\n".join(
        f"  {value}  {segment.name}"
        + ("" if segment.required else " (if there is one)")
        + ("" if segment.match is None else f"  or any name like {segment.returned_as}")
        for value, segment in enumerate(spec.segments, start=1)
    )
    nothing = (
        f"If there is nothing to mark, send an empty file of the name {NOTHING} instead."
        if spec.may_be_empty
        else "A result without any region is not accepted."
    )
    return template.format(
        segmentation=spec.id,
        case_id=case.case_id,
        message=textwrap.fill(message, 78, break_long_words=False, break_on_hyphens=False),
        proposed=proposed,
        segments=segments,
        nothing=nothing,
        inbox=target.resolve(),
    )
