"""From the files of one DICOM series to a volume, or to the reason why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from jipflow.cases import Series
from jipflow.files import atomic_path
from jipflow.images.apart import Found, parted
from jipflow.images.bits import ABOVE, NO_HIGH_BIT, SHIFTED
from jipflow.images.choice import chosen
from jipflow.images.instances import (
    check_instances,
    check_stack,
    completed,
    drop_pixels,
    planes_of,
    with_pixels,
)
from jipflow.images.kept import Headers, headers_text, read_headers
from jipflow.images.parametric import quantity_note
from jipflow.images.pixels import Plane, check_rescale, stacked
from jipflow.images.read import check_object, complete_uids, read_instance, readable
from jipflow.images.stack import check_one_examination, grid_of, sorted_stack
from jipflow.images.suv.bodies import SuvType
from jipflow.images.suv.factors import suv_factors
from jipflow.images.suv.fields import Fields
from jipflow.images.suv.total import check_total
from jipflow.images.tilt import pad, tilt_note
from jipflow.images.volume import Volume
from jipflow.notes import Notes
from jipflow.place import raise_place_error
from jipflow.reasons import CaseFault, Decision
from jipflow.syntaxes import MAP, MODALITIES


def read_planes(
    series: Series,
    *,
    notes: list[str] | None = None,
    apart: set[str] | None = None,
    there: set[str] | None = None,
) -> list[Plane]:
    """Read the headers of a series' image planes, sorted as the slices of its volume.

    A blank SeriesInstanceUID is replaced by that of `series`, blank SOP Class and Instance UIDs by
    those of the file meta information, and a blank StudyInstanceUID by its stand-in
    (`jipflow.uids`). Of slices that are there twice with the same pixels one is left out.

    Args:
        series: the series and its files; where its headers were kept, these are not read.
        notes: gets a sentence for each repaired defect.
        apart: gets the SOPInstanceUIDs of what lies in the series beside its stack.
        there: gets those of all its files.

    Returns:
        The planes, from the first to the last along the normal of the image plane (the cross
        product of row and column direction, PS3.3 C.7.6.2.1.1); frames of multi-frame instances
        and tiles of mosaics are sorted as single-frame instances are. Of kept headers they have
        the elements that `jipflow.images.kept` names.

    Raises:
        CaseFault: a file cannot be read, or the series is no volume.
        PlaceError: the kept headers are damaged.
        OSError: they cannot be read.
    """
    if series.headers is not None:
        headers = read_headers(series.headers, series.paths)
    else:
        headers, _ = _load(series, pixels=False, notes=[], decisions=[])
    if notes is not None:
        notes += headers.notes
    if apart is not None:
        apart |= headers.apart
    if there is not None:
        there |= headers.there
    return headers.planes


def read_series_volume(
    series: Series,
    *,
    suv: SuvType = SuvType.BW,
    notes: list[str] | None = None,
    decisions: list[Decision] | None = None,
    kept: Path | None = None,
) -> Volume:
    """Read a series as a volume: HU for CT, SUV for PET, rescaled values for MR, those of a map.

    Values are stored values after the Modality LUT: Rescale Slope and Intercept of each slice or
    frame, or its Modality LUT Sequence (PS3.3 C.11.1). What serves the display alone changes no
    value: MONOCHROME1, presentation and VOI LUTs, overlays. Pixel Padding Value is kept: it is
    what the scanner wrote outside its circle of reconstruction. Real World Value Mappings are used
    for enhanced PET images and parametric maps only, which have no other units. MR values are the
    scanner's displayed values; the private scale of Philips (2005,100E), by which they become
    comparable between series (Chenevert et al., Transl Oncol 2014, doi 10.1593/tlo.13811), is not
    applied.

    Args:
        series: the series and its files.
        suv: what the SUV of PET is normalised to; by body surface it is in cm²/ml, else in g/ml.
        notes: gets a sentence for each repaired defect and each decision.
        decisions: gets the code of each decision.
        kept: file for what later stages need of the headers (`jipflow.images.kept`).

    Returns:
        The volume; its first axis runs along the normal of the image plane. Whole numbers that fit
        are int16, else all values float32.

    Raises:
        CaseFault: the series is no regular volume, or its units are not understood.
    """
    notes = [] if notes is None else notes
    decisions = [] if decisions is None else decisions
    loaded, scan = _load(series, pixels=True, notes=notes, decisions=decisions)
    planes = loaded.planes
    headers = [plane.header for plane in planes]
    name = f"series {series.series_uid}"
    modality = MODALITIES[headers[0].SOPClassUID]
    factors = np.ones(len(planes))
    with readable(name):
        for plane in planes:
            check_rescale(plane, modality)
        if modality == "PT":
            decided = Notes()
            factors = suv_factors(headers, name, suv, decided, scan)
            notes += decided.sentences
            decisions += decided.decisions
        if modality == "CT":
            notes += _unit_notes(headers)
        if modality == MAP:
            notes.append(quantity_note(headers, name))
        grid = grid_of(headers, name)
        shifts = [plane.shift for plane in planes if plane.shift is not None]
        sizes = [plane.stored.shape for plane in planes if plane.stored is not None]
        text = "" if kept is None else headers_text(loaded, series.paths)
        # Each slice's stored values are let go once they are converted.
        planes.reverse()
        volume = Volume(stacked(planes, factors, grid.shape), grid)
        if shifts:
            value, share = pad(volume.array, shifts, (sizes[0][0], sizes[0][1]))
            notes.append(f"Voxels that no tilted slice reaches ({share:.1%}) have {value:g}.")
        if modality == "PT":
            check_total(volume, suv, Fields(name, headers))
    if kept is not None:
        with atomic_path(kept) as part:
            part.write_text(text, encoding="ascii")
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
    series: Series, *, pixels: bool, notes: list[str], decisions: list[Decision]
) -> tuple[Headers, list[Dataset]]:
    """Read the planes of a series in the order of its slices, with or without their pixels.

    Args:
        series: the series and its files.
        pixels: read the pixels, too.
        notes: gets a sentence for each repaired defect and each decision, of the pixels, too.
        decisions: gets the code of each decision.

    Returns:
        The planes of the volume that is wanted, and the headers of all planes of the series where
        one of several is.
    """
    name = f"series {series.series_uid}"
    # Of several volumes only the one that is wanted is worth its memory.
    at_once = pixels and series.wanted is None
    found: list[Found] = []
    lacking: dict[Path, list[str]] = {}
    tallies: dict[Path, Counter[str]] = {}
    decoded: dict[Path, Counter[str]] = {}
    headers = Headers()
    for path in series.paths:
        with readable(path):
            damaged: list[str] = []
            dataset, broken = _read(path, damaged, pixels=at_once)
            tallies[path] = Counter(f"of {{}} images: {text}." for text in damaged)
            lacking[path] = complete_uids(dataset, series.series_uid)
            headers.there.add(str(dataset.SOPInstanceUID or ""))
            sound = at_once and broken is None
            alone = len(series.paths) == 1
            decoded[path] = Counter()
            held = _found(path, dataset, name, decoded[path], pixels=sound, several=alone)
            found += [replace(one, fault=one.fault or broken) for one in held]
    with readable(name):
        parts = parted(found, name)
        planes = parts.planes
        if parts.note:
            headers.notes.append(parts.note)
            decisions.append(Decision.IMAGES_SET_APART)
        headers.apart |= parts.apart
        check_instances(planes, name)
        scan: list[Dataset] = []
        stack = planes
        if series.wanted is not None:
            scan = [plane.header for plane in planes]
            check_one_examination(scan, name)
            stack = chosen(planes, series.wanted, name, headers.notes, decisions)
        stack = sorted_stack(stack, name, headers.notes)
        check_stack(stack, name, headers.notes, decisions)
    read = planes if series.wanted is None else stack
    files = list(dict.fromkeys(plane.path for plane in read))
    tally = sum((tallies[path] for path in files), Counter[str]())
    of_pixels = sum((decoded[path] for path in files), Counter[str]())
    if pixels:
        stack = completed(stack, of_pixels)
    headers.planes = stack
    shifts = [plane.shift for plane in stack if plane.shift is not None]
    if shifts:
        headers.notes.append(tilt_note([plane.header for plane in stack], shifts))
        decisions.append(Decision.GANTRY_TILT_RESAMPLED)
    repaired = {BITS.get(text, Decision.ELEMENT_REPAIRED) for text in tally + of_pixels}
    decisions += [decision for decision in Decision if decision in repaired]
    absent = list(dict.fromkeys(uid for path in files for uid in lacking[path]))
    ending = []
    if absent:
        uids = ", ".join(absent)
        ending = [f"UIDs missing in the files were replaced by stand-ins: {uids}."]
    notes += [*headers.notes, *_counted(tally + of_pixels, len(read)), *ending]
    headers.notes += [*_counted(tally, len(read)), *ending]
    return headers, scan


def _counted(tally: Counter[str], images: int) -> list[str]:
    return [f"{count} {text.format(images)}" for text, count in sorted(tally.items())]


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
    path: Path, dataset: Dataset, name: str, tally: Counter[str], *, pixels: bool, several: bool
) -> list[Found]:
    """Return the planes of an instance, in the order of its frames, or the object without planes.

    What is wrong with it counts only where it is part of the stack.

    Args:
        path: its file.
        dataset: the instance, which loses its pixels.
        name: the series, for messages.
        tally: counts what a reader of the values should know.
        pixels: decode those of a single plane.
        several: decode those of several planes, too. Else they wait until it is known which of them
            are of the stack.
    """
    try:
        with readable(path):
            check_object(path, dataset, name)
            planes = planes_of(path, dataset)
    except CaseFault as refused:
        raise_place_error(refused)
        drop_pixels(dataset)
        return [Found(path, dataset, None, refused)]
    fault: CaseFault | None = None
    if pixels and (several or len(planes) == 1):
        try:
            with readable(path):
                planes = with_pixels(planes, dataset, tally)
        except CaseFault as error:
            raise_place_error(error)
            fault = error
    drop_pixels(dataset)
    return [Found(path, dataset, plane, fault) for plane in planes]
