"""Stage `annotate`: segmentations that persons draw or correct."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import SimpleITK as sitk
from numpy.typing import NDArray

import jipflow
from jipflow.agreement import overlap
from jipflow.annotate.inbox import PROPOSAL, case_folder, returned
from jipflow.annotate.readings import Desk, Reading
from jipflow.cases import Case
from jipflow.images.masks import Region, cropped
from jipflow.outcomes import Made, Outcome, Status, Waiting, attempt, blocked
from jipflow.reasons import Flag, Reason
from jipflow.segment.engine import Inputs
from jipflow.segment.engines.annotated.settings import AnnotatedSegmentation
from jipflow.segment.quality import Quality, quality_table
from jipflow.segment.stage import write_regions
from jipflow.settings.run import Settings
from jipflow.tables import AGREEMENT_COLUMNS, AGREEMENT_VALUES, READING_COLUMNS
from jipflow.workers import for_each_case

STAGE = "annotate"
STAPLE_THRESHOLD = 0.5
"""Least probability of a voxel that belongs to the segment."""


@dataclass(frozen=True)
class ReaderTables:
    """What the stage gives.

    Attributes:
        outcomes: of each annotated segmentation of each case.
        readings: one row a file that came back.
        agreement: one row a segment and pair of readings, or of a reading and the proposal.
        quality: one row a segment of the segmentations that are ok.
    """

    outcomes: list[Outcome]
    readings: pa.Table
    agreement: pa.Table
    quality: pa.Table


@dataclass
class Annotated:
    """The outcome and the rows of one segmentation of a case."""

    outcome: Outcome
    readings: list[dict[str, Any]] = field(default_factory=list)
    agreement: list[dict[str, Any]] = field(default_factory=list)
    quality: list[Quality] = field(default_factory=list)


@dataclass(frozen=True)
class Shard:
    """What the work on a case needs of its shard.

    Attributes:
        specs: the protocol's annotated segmentations.
        prepared: (case_id, role) of the volumes that are there.
        proposed: the outcome of each automatic segmentation by (case_id, segmentation).
        volumes: folder of ``<case_id>/<role>.nrrd``.
        masks: folder of ``<case_id>/<segmentation>/``, the automatic ones among them.
        inbox: folder of ``<segmentation>/<case_id>/<reader>/``.
    """

    specs: Sequence[AnnotatedSegmentation]
    prepared: set[tuple[str, str]]
    proposed: Mapping[tuple[str, str], Outcome]
    volumes: Path
    masks: Path
    inbox: Path


def run(
    *,
    cases: Sequence[Case],
    prepared: set[tuple[str, str]],
    segmented: Iterable[Outcome],
    settings: Settings,
    volumes: Path,
    automatic: Path,
    inbox: Path,
    masks: Path,
    threads: int,
) -> ReaderTables:
    """Take over what readers sent back for the cases of a shard, and tell which cases wait.

    A case waits until each reader that the protocol wants has sent a file that can be used. Where
    the protocol asks for flagged cases only, a proposal without a flag is taken over, unless
    something came back for it.

    Args:
        cases: the shard's cases.
        prepared: (case_id, role) of the volumes that are there.
        segmented: outcomes of stage `segment`.
        settings: of the site and the protocol.
        volumes: folder of ``<case_id>/<role>.nrrd``.
        automatic: folder of the masks of stage `segment`.
        inbox: folder of ``<segmentation>/<case_id>/<reader>/``.
        masks: folder for all masks; those of `automatic` become links.
        threads: processes.
    """
    masks.mkdir(parents=True, exist_ok=True)
    for source in sorted(automatic.glob("*/*/")):
        link = masks / source.parent.name / source.name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(source, link.parent), target_is_directory=True)
    shard = Shard(
        [s for s in settings.protocol.segmentations if isinstance(s, AnnotatedSegmentation)],
        prepared,
        {(o.case_id, o.item): o for o in segmented},
        volumes,
        masks,
        inbox,
    )
    found = for_each_case(cases, partial(_annotate_case, shard=shard), threads)
    return ReaderTables(
        [entry.outcome for entry in found],
        _reading_table([row for entry in found for row in entry.readings]),
        _agreement_table([row for entry in found for row in entry.agreement]),
        quality_table([row for entry in found for row in entry.quality]),
    )


def _annotate_case(case: Case, shard: Shard) -> list[Annotated]:
    entries = []
    for spec in shard.specs:
        role = spec.role
        if role not in case.roles:
            continue
        if (case.case_id, role) not in shard.prepared:
            outcome = blocked(case.case_id, STAGE, spec.id, f"the volume of role {role}")
            entries.append(Annotated(outcome))
            continue
        rows = Annotated(Outcome(case.case_id, STAGE, spec.id))
        work = partial(_annotate, case, spec, shard, rows)
        rows.outcome = attempt(case.case_id, STAGE, spec.id, work, shard.masks)
        entries.append(rows)
    return entries


def _annotate(case: Case, spec: AnnotatedSegmentation, shard: Shard, rows: Annotated) -> Made:
    inputs = Inputs(case, spec, shard.volumes, shard.masks)
    proposal, flags = _proposal(inputs, spec, shard)
    came = returned(case_folder(shard.inbox, spec.id, case.case_id))
    if came.closed:
        raise Waiting(" ".join([f"case {case.case_id}:", *came.closed]))
    readings, strays = _received(inputs, spec, case_folder(shard.inbox, spec.id, case.case_id))
    usable = [_credited(r, proposal) for r in readings if r.fault is None]
    refused = [r for r in readings if r.fault is not None]
    rows.readings += [_reading_row(case, spec, r, proposal) for r in (*usable, *refused)]
    rows.agreement += _agreement_rows(inputs, spec, usable, proposal)
    needs = [*(f"Flag on {_flag(flag)}." for flag in flags), *_lacks(spec, proposal)]
    if spec.when == "flagged" and not (needs or readings or strays):
        inputs.notes.append(f"Taken over as {spec.proposal!r} has it: no segment has a flag.")
        there = proposal or {}
        regions = (there[s.name] for s in spec.segments if s.name in there)
        made, rows.quality = write_regions(regions, inputs)
        return made
    problems = [f"{r.file!r} of {r.reader} cannot be used: {r.fault}" for r in refused]
    names = ", ".join(r.reader for r in usable)
    if len(usable) < spec.readers:
        read = f" (by {names})" if usable else ""
        start = (
            f"case {case.case_id}: {len(usable)} of {spec.readers} readings of {spec.id!r} "
            f"are there{read}; worklist/{spec.id}/{case.case_id}/README.txt says what to do."
        )
        raise Waiting(" ".join([start, *needs, *strays, *problems]))
    inputs.notes.append(f"Read by {names}{_kept(usable, proposal)}.")
    inputs.notes.extend([*(n for r in usable for n in r.notes), *strays, *problems])
    inputs.decisions.extend(dict.fromkeys(d for r in usable for d in r.decisions))
    made, rows.quality = write_regions(combined(usable, spec), inputs, "MANUAL")
    return made


def _received(
    inputs: Inputs, spec: AnnotatedSegmentation, folder: Path
) -> tuple[list[Reading], list[str]]:
    """Read what came back for a case, and say what was not even read."""
    came = returned(folder)
    desk = Desk(inputs, spec)
    readings: list[Reading] = []
    strays = list(came.problems)
    for reader, files in came.files.items():
        found = desk.readings(reader, folder / reader, files)
        readings += found
        if not found:
            strays.append(f"No file of {reader} is a DICOM-SEG, an RTSTRUCT or NIfTI.")
    return readings, strays


def _flag(flag: str) -> str:
    segment, _, code = flag.rpartition(":")
    return f"{segment!r}: {Flag(code).meaning}"


def _lacks(spec: AnnotatedSegmentation, proposal: Mapping[str, Region] | None) -> list[str]:
    """Say why a proposal, where there should be one, cannot be taken as it is."""
    if spec.proposal is None:
        return []
    if proposal is None:
        return [f"There is no proposal by {spec.proposal!r}."]
    if not proposal and not spec.may_be_empty:
        return [f"{spec.proposal!r} has found nothing."]
    missing = (s.name for s in spec.segments if s.required and s.name not in proposal)
    return [f"{spec.proposal!r} has no {name!r}." for name in missing]


def _proposal(
    inputs: Inputs, spec: AnnotatedSegmentation, shard: Shard
) -> tuple[dict[str, Region] | None, list[str]]:
    """Return the regions that the person is shown, by name, and the flags on them.

    None where there is no proposal. One that has found nothing has no region. In both cases the
    person starts from nothing.
    """
    if spec.proposal is None:
        return None, []
    outcome = shard.proposed.get((inputs.case.case_id, spec.proposal))
    if outcome is None or outcome.status is not Status.OK:
        return None, []
    terms = {segment.name: segment.term for segment in spec.segments}
    regions = {
        segment.name: cropped(
            Region(
                segment.name,
                terms[segment.name],
                mask,
                segment.method,
                segment.producer,
                segment.version,
                corner,
                segment.disagreement,
            )
        )
        for segment, mask, corner in inputs.segmentation(spec.proposal).boxes()
        if segment.name in terms and mask.any()
    }
    return regions, [flag for flag in outcome.flags if flag.rpartition(":")[0] in terms]


def _credited(reading: Reading, proposal: Mapping[str, Region] | None) -> Reading:
    """Let regions say how they were made: unchanged ones as the proposal, others by a person."""
    if not proposal:
        return reading
    regions = {}
    for name, region in reading.regions.items():
        if name in proposal and _same(region, proposal[name]):
            region = proposal[name]
        elif region.method == "AUTOMATIC":
            # A viewer leaves the statement of the proposal as it was.
            region = replace(region, method="SEMIAUTOMATIC")
        regions[name] = region
    return replace(reading, regions=regions)


def _same(one: Region, other: Region) -> bool:
    return one.corner == other.corner and np.array_equal(one.mask, other.mask)


def _unchanged(reading: Reading, proposal: Mapping[str, Region] | None) -> bool | None:
    """Return whether a reading is the proposal to the voxel; None where there is no proposal."""
    if proposal is None:
        return None
    return reading.regions.keys() == proposal.keys() and all(
        _same(region, proposal[name]) for name, region in reading.regions.items()
    )


def _kept(readings: Sequence[Reading], proposal: Mapping[str, Region] | None) -> str:
    kept = [r.reader for r in readings if _unchanged(r, proposal)]
    if len(kept) == len(readings):
        return ", who accepted the proposal unchanged"
    return f"; accepted unchanged by {', '.join(kept)}" if kept else ""


def combined(readings: Sequence[Reading], spec: AnnotatedSegmentation) -> Iterator[Region]:
    """Make one segmentation of several readings, segment by segment.

    A single reading is taken as it is. A segment that no more than half of the readings have is
    not there. Of the others, ``majority`` keeps the voxels that more than half of the
    readings have. ``staple`` keeps those whose probability by STAPLE is at least one half
    (Warfield, Zou and Wells 2004, "Simultaneous truth and performance level estimation (STAPLE)",
    IEEE Trans Med Imaging 23:903-921), estimated within the box that holds the segment in all
    readings and one voxel more on each side.

    Args:
        readings: that can be used; a segment that one lacks has no voxel in it.
        spec: the protocol's segmentation.
    """
    for wanted in spec.segments:
        name = wanted.name
        drawn = [r.regions[name] for r in readings if name in r.regions]
        if 2 * len(drawn) <= len(readings):
            continue
        if len(readings) == 1 or (
            len(drawn) == len(readings) and all(_same(drawn[0], other) for other in drawn)
        ):
            yield drawn[0]
            continue
        box, corner = _union(drawn)
        masks = [_placed(r.regions.get(name), box, corner) for r in readings]
        if spec.combine == "staple":
            mask = _staple(masks)
            version = f"SimpleITK {sitk.Version.VersionString()}"
        else:
            mask = np.asarray(2 * np.sum(masks, axis=0, dtype=np.uint8) > len(masks))
            version = jipflow.__version__
        if mask.any():
            by_hand = all(region.method == "MANUAL" for region in drawn)
            yield cropped(
                Region(
                    name,
                    wanted.term,
                    mask,
                    "MANUAL" if by_hand else "SEMIAUTOMATIC",
                    f"{spec.combine} of {len(readings)} readers",
                    version,
                    corner,
                )
            )


def _staple(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    images = [sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8)) for mask in masks]
    probability = sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0))
    return np.asarray(probability[1:-1, 1:-1, 1:-1] >= STAPLE_THRESHOLD)


def _union(regions: Sequence[Region]) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Return the shape and the first index of the box that holds regions."""
    low = np.min([r.corner for r in regions], axis=0)
    high = np.max([np.add(r.corner, r.mask.shape) for r in regions], axis=0)
    z, y, x = low.tolist()
    return tuple((high - low).tolist()), (z, y, x)


def _placed(
    region: Region | None, shape: tuple[int, ...], corner: tuple[int, int, int]
) -> NDArray[np.bool_]:
    """Return a region's voxels in a box that holds it."""
    mask = np.zeros(shape, bool)
    if region is not None:
        start = np.subtract(region.corner, corner)
        mask[tuple(map(slice, start, start + region.mask.shape))] = region.mask
    return mask


def _reading_row(
    case: Case, spec: AnnotatedSegmentation, reading: Reading, proposal: Mapping[str, Region] | None
) -> dict[str, Any]:
    fault = reading.fault
    return {
        "case_id": case.case_id,
        "segmentation": spec.id,
        "reader": reading.reader,
        "file": reading.file,
        **reading.provenance,
        "used": fault is None,
        "unchanged": _unchanged(reading, proposal) if fault is None else None,
        "reason": fault.reason.value if fault else "",
        "message": fault.message if fault else " ".join(reading.notes),
    }


def _agreement_rows(
    inputs: Inputs,
    spec: AnnotatedSegmentation,
    readings: Sequence[Reading],
    proposal: Mapping[str, Region] | None,
) -> Iterator[dict[str, Any]]:
    """Compare each reading with the others and with the proposal, segment by segment."""
    named = [(r.reader, r.regions) for r in readings]
    pairs = list(combinations(named, 2))
    if proposal is not None:
        pairs += [(one, (PROPOSAL, proposal)) for one in named]
    for (reader, one), (other, two) in pairs:
        for segment in spec.segments:
            name = segment.name
            regions = [side[name] for side in (one, two) if name in side]
            shape, corner = _union(regions) if regions else ((0, 0, 0), (0, 0, 0))
            masks = [_placed(side.get(name), shape, corner) for side in (one, two)]
            found = overlap(masks[0], masks[1], inputs.grid.spacing)
            yield {
                "case_id": inputs.case.case_id,
                "segmentation": spec.id,
                "segment": name,
                "reader": reader,
                "other": other,
                "dice": found.dice,
                "mean_surface_distance_mm": found.mean_surface_distance,
                "hausdorff95_mm": found.hausdorff_95,
                "reason": "" if len(regions) == 2 else Reason.EMPTY_SEGMENT.value,
            }


def _reading_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    types = {"used": pa.bool_(), "unchanged": pa.bool_()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in READING_COLUMNS])
    ordered = sorted(rows, key=lambda row: [row[name] for name in READING_COLUMNS[:4]])
    blank = dict.fromkeys(READING_COLUMNS, "")
    return pa.Table.from_pylist([{**blank, **row} for row in ordered], schema=schema)


def _agreement_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    types = dict.fromkeys(AGREEMENT_VALUES, pa.float64())
    schema = pa.schema([(name, types.get(name, pa.string())) for name in AGREEMENT_COLUMNS])
    ordered = sorted(rows, key=lambda row: [row[name] for name in AGREEMENT_COLUMNS[:5]])
    return pa.Table.from_pylist([dict(row) for row in ordered], schema=schema)
