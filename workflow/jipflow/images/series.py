"""From the files of one DICOM series to a volume, or to the reason why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from jipflow.cases import Series
from jipflow.images.apart import Found, parted
from jipflow.images.bits import ABOVE, NO_HIGH_BIT, SHIFTED
from jipflow.images.pixels import Plane, check_rescale, decode, stacked
from jipflow.images.read import (
    PIXELS,
    check_geometry,
    check_object,
    complete_uids,
    frame_headers,
    read_instance,
    readable,
)
from jipflow.images.stack import grid_of, sorted_stack
from jipflow.images.suv.bodies import SuvType
from jipflow.images.suv.factors import suv_factors
from jipflow.images.suv.fields import Fields, Notes
from jipflow.images.suv.total import check_total
from jipflow.images.tilt import pad, tilt_note
from jipflow.images.volume import Volume
from jipflow.place import raise_place_error
from jipflow.reasons import CaseFault, Decision, Reason
from jipflow.syntaxes import MODALITIES


def read_planes(
    series: Series, *, notes: list[str] | None = None, apart: set[str] | None = None
) -> list[Plane]:
    """Read the headers of a series' image planes, sorted as the slices of its volume.

    A blank SeriesInstanceUID is replaced by that of `series`, blank SOP Class and Instance UIDs by
    those of the file meta information, and a blank StudyInstanceUID by its stand-in
    (`jipflow.uids`). Of slices that are there twice with the same pixels one is left out.

    Args:
        series: the series and its files.
        notes: gets a sentence for each repaired defect.
        apart: gets the SOPInstanceUIDs of what lies in the series beside its stack.

    Returns:
        The planes, from the first to the last along the normal of the image plane (the cross
        product of row and column direction, PS3.3 C.7.6.2.1.1); frames of a multi-frame instance
        are sorted as single-frame instances are.

    Raises:
        CaseFault: a file cannot be read, or the series is no volume.
    """
    notes = [] if notes is None else notes
    return _load(series, pixels=False, notes=notes, decisions=[], apart=apart)


def read_series_volume(
    series: Series,
    *,
    suv: SuvType = SuvType.BW,
    notes: list[str] | None = None,
    decisions: list[Decision] | None = None,
) -> Volume:
    """Read a series as a volume: HU for CT, SUV for PET, rescaled values for MR.

    Values are stored values after the Modality LUT: Rescale Slope and Intercept of each slice or
    frame, or its Modality LUT Sequence (PS3.3 C.11.1). What serves the display alone changes no
    value: MONOCHROME1, presentation and VOI LUTs, overlays. Pixel Padding Value is kept: it is
    what the scanner wrote outside its circle of reconstruction. Real World Value Mappings are used
    for enhanced PET images only, which have no other units. MR values are the scanner's displayed
    values; the private scale of Philips (2005,100E), by which they become comparable between
    series (Chenevert et al., Transl Oncol 2014, doi 10.1593/tlo.13811), is not applied.

    Args:
        series: the series and its files.
        suv: what the SUV of PET is normalised to; by body surface it is in cm²/ml, else in g/ml.
        notes: gets a sentence for each repaired defect and each decision.
        decisions: gets the code of each decision.

    Returns:
        The volume; its first axis runs along the normal of the image plane. Whole numbers that fit
        are int16, else all values float32.

    Raises:
        CaseFault: the series is no regular volume, or its units are not understood.
    """
    notes = [] if notes is None else notes
    decisions = [] if decisions is None else decisions
    planes = _load(series, pixels=True, notes=notes, decisions=decisions)
    headers = [plane.header for plane in planes]
    name = f"series {series.series_uid}"
    modality = MODALITIES[headers[0].SOPClassUID]
    factors = np.ones(len(planes))
    with readable(name):
        for plane in planes:
            check_rescale(plane, modality)
        if modality == "PT":
            decided = Notes()
            factors = suv_factors(headers, name, suv, decided)
            notes += decided.sentences
            decisions += decided.decisions
        if modality == "CT":
            notes += _unit_notes(headers)
        grid = grid_of(headers, name)
        shifts = [plane.shift for plane in planes if plane.shift is not None]
        rows, columns = planes[0].pixels().shape
        # Each slice's stored values are let go once they are converted.
        planes.reverse()
        volume = Volume(stacked(planes, factors, grid.shape), grid)
        if shifts:
            value, share = pad(volume.array, shifts, (rows, columns))
            notes.append(f"Voxels that no tilted slice reaches ({share:.1%}) have {value:g}.")
        if modality == "PT":
            check_total(volume, suv, Fields(name, headers))
        return volume


def _unit_notes(headers: Sequence[Dataset]) -> list[str]:
    """Return a sentence where a CT says that its values are no HU (PS3.3 C.11.1.1.2)."""
    units = {str(header.get("RescaleType") or "HU") for header in headers} - {"HU", "US"}
    shown = ", ".join(sorted(units))
    return [f"Rescale Type is {shown}, so the values are not HU."] if units else []


BITS = {
    SHIFTED: Decision.VALUES_AT_TOP_OF_BITS,
    ABOVE: Decision.BITS_ABOVE_LEFT_OUT,
    NO_HIGH_BIT: Decision.HIGH_BIT_ASSUMED,
}
"""What was decided on the bits of pixels, by what is noted of it."""


def _load(
    series: Series,
    *,
    pixels: bool,
    notes: list[str],
    decisions: list[Decision],
    apart: set[str] | None = None,
) -> list[Plane]:
    """Read the planes of a series in the order of its slices, with or without their pixels."""
    name = f"series {series.series_uid}"
    found: list[Found] = []
    completed: dict[Path, list[str]] = {}
    tallies: dict[Path, Counter[str]] = {}
    for path in series.paths:
        with readable(path):
            damaged: list[str] = []
            dataset, broken = _read(path, damaged, pixels=pixels)
            tallies[path] = Counter(f"of {{}} images: {text}." for text in damaged)
            completed[path] = complete_uids(dataset, series.series_uid)
            of_it = _found(path, dataset, name, tallies[path], pixels=pixels and broken is None)
            found += [replace(one, fault=one.fault or broken) for one in of_it]
    with readable(name):
        parts = parted(found, name)
    planes = parts.planes
    if parts.note:
        notes.append(parts.note)
        decisions.append(Decision.IMAGES_SET_APART)
    if apart is not None:
        apart |= parts.apart
    files = list(dict.fromkeys(plane.path for plane in planes))
    if len(files) > 1 and len(planes) > len(files):
        raise CaseFault(
            Reason.UNSUPPORTED_OBJECT,
            f"{name}: has {len(files)} instances, some of them multi-frame; export each "
            "multi-frame image as a series of its own.",
        )
    tally = sum((tallies[path] for path in files), Counter[str]())
    notes += [f"{count} {text.format(len(planes))}" for text, count in sorted(tally.items())]
    repaired = {BITS.get(text, Decision.ELEMENT_REPAIRED) for text in tally}
    decisions += [decision for decision in Decision if decision in repaired]
    lacking = list(dict.fromkeys(uid for path in files for uid in completed[path]))
    if lacking:
        notes.append(f"UIDs missing in the files were replaced by stand-ins: {', '.join(lacking)}.")
    with readable(name):
        stack = sorted_stack(planes, name, notes)
    shifts = [plane.shift for plane in stack if plane.shift is not None]
    if shifts:
        notes.append(tilt_note([plane.header for plane in stack], shifts))
        decisions.append(Decision.GANTRY_TILT_RESAMPLED)
    return stack


def _read(path: Path, damaged: list[str], *, pixels: bool) -> tuple[Dataset, CaseFault | None]:
    """Read an instance; its header alone, and why, where it breaks off in its pixels."""
    try:
        with readable(path):
            return read_instance(path, pixels=pixels, damaged=damaged), None
    except CaseFault as fault:
        raise_place_error(fault)
        if not pixels:
            raise
        damaged.clear()
        return read_instance(path, pixels=False, damaged=damaged), fault


def _found(
    path: Path, dataset: Dataset, name: str, tally: Counter[str], *, pixels: bool
) -> list[Found]:
    """Return the planes of an instance, in the order of its frames, or the object without planes.

    What is wrong with it counts only where it is part of the stack.
    """
    try:
        with readable(path):
            check_object(path, dataset, name)
            headers = frame_headers(dataset)
            for header in headers:
                check_geometry(path, header)
    except CaseFault as fault:
        _drop_pixels(dataset)
        return [Found(path, dataset, None, fault)]
    try:
        with readable(path):
            frames = decode(path, dataset, tally=tally) if pixels else [None] * len(headers)
        if len(frames) != len(headers):
            raise CaseFault(
                Reason.TRUNCATED_PIXELS,
                f"{path}: has {len(frames)} frames of pixels where its header describes "
                f"{len(headers)}; copy it again from the archive.",
            )
    except CaseFault as fault:
        raise_place_error(fault)
        _drop_pixels(dataset)
        planes = [Plane(path, dataset, n, header, None) for n, header in enumerate(headers)]
        return [Found(path, dataset, plane, fault) for plane in planes]
    numbered = enumerate(zip(headers, frames, strict=True))
    return [Found(path, dataset, Plane(path, dataset, n, h, stored)) for n, (h, stored) in numbered]


def _drop_pixels(dataset: Dataset) -> None:
    """Let go of the pixels of an instance that gives no slice."""
    for keyword in PIXELS:
        dataset.pop(keyword, None)
