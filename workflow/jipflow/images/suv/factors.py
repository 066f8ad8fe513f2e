"""Standardised uptake values (SUV): what each slice of a PET series is multiplied by.

SUV is the activity concentration over the activity injected per body weight, or per another
measure of the body. See docs/suv.md for what is decided by which source.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.images.suv.bodies import SuvType, body
from jipflow.images.suv.clock import zone_of
from jipflow.images.suv.fields import (
    PHILIPS,
    PHILIPS_ACTIVITY_FACTOR,
    PHILIPS_GROUP,
    PHILIPS_SUV_FACTOR,
    Fields,
    plain,
)
from jipflow.images.suv.frames import acquisitions, check_decay_factor, decay_factor
from jipflow.images.suv.injection import uptake_s
from jipflow.images.suv.nuclides import half_life
from jipflow.images.suv.reference import corrected_to
from jipflow.notes import Notes
from jipflow.reasons import CaseFault, Decision, Reason

PHILIPS_TOLERANCE = 0.05
"""Relative, between Philips' SUV factor and what its activity factor gives."""

LEAST_DOSE_BQ, GREATEST_DOSE_BQ = 4e6, 2e10
"""Radionuclide Total Dose (0018,1074) of a person: below the least that the EANM's paediatric
dosage card gives of F-18 (14 MBq), and what microspheres of Y-90 reach."""

OFF_BY = {"kBq": 1e3, "MBq": 1e6, "mCi": 3.7e7, "GBq": 1e9, "mBq": 1e-3}
"""Units that a dose is found in, and the Bq that each stands for."""

ANNOTATION = re.compile(r"\{SUV([a-zA-Z]+)(?:\((James128|Janma)\))?\}")
"""Type of SUV in a code of PS3.16 CID 85, such as ``g/ml{SUVlbm(Janma)}``; some write it first."""


def real_world_units(header: Dataset) -> str:
    """Return what Units (0054,1001) would say where a header has one Real World Value Mapping.

    Args:
        header: of an image plane; PS3.3 C.7.6.16.2.11.

    Returns:
        ``BQML``, ``GML`` or ``CM2ML``; empty where no mapping or several are there, or where it is
        no linear mapping in units that SUV can be had from (UCUM, PS3.16 CID 84 and 85).
    """
    code = _mapped_units(header)
    if code in {"Bq/ml", "Bq/mL"}:
        return "BQML"
    kind = _annotated(code)
    return kind.units if kind else ""


def _mapped_units(header: Dataset) -> str:
    """Return the code of the units of the only Real World Value Mapping."""
    mappings = header.get("RealWorldValueMappingSequence") or []
    if len(mappings) != 1 or "RealWorldValueSlope" not in mappings[0]:
        return ""
    codes = mappings[0].get("MeasurementUnitsCodeSequence") or []
    if len(codes) != 1 or codes[0].get("CodingSchemeDesignator", "UCUM") != "UCUM":
        return ""
    return str(codes[0].get("CodeValue") or "")


def _annotated(code: str) -> SuvType | None:
    """Return the type of SUV that a code of units names; None where it names none."""
    match = ANNOTATION.search(code)
    if match is None:
        return None
    kind = (match[1] + (match[2] or "")).upper()
    unit = ANNOTATION.sub("", code).lower()
    found = SuvType.__members__.get(kind)
    return found if found and unit == ("cm2/ml" if found is SuvType.BSA else "g/ml") else None


def suv_factors(
    datasets: Sequence[Dataset],
    series: str,
    kind: SuvType,
    notes: Notes,
    scan: Sequence[Dataset] = (),
) -> NDArray[np.float64]:
    """Return what the rescaled values of each slice are multiplied by to give SUV.

    Follows the IBSI recommendations for SUV, the vendor-neutral pseudo-code of the QIBA FDG-PET/CT
    profile (SUV 1.2) and PS3.3 C.8.9.1 and C.8.22, by Units (0054,1001):

    * ``GML`` and ``CM2ML``: SUV of a type, which is turned into the one asked for.
    * ``BQML``: the measure of the body over the activity, decayed from the injection to the time
      that the voxels are corrected to.
    * ``CNTS`` of Philips: its private factors to SUVbw, or to activity and then as ``BQML``.

    Args:
        datasets: the headers of the slices of one PET series.
        series: its name, for messages.
        kind: the type of SUV.
        notes: gets a sentence for each decision.
        scan: the headers of the slices of all volumes of the series, such as the frames of a
            dynamic one, whose decay is corrected to the start of the first; empty where it is one.

    Returns:
        A factor a slice; SUV is in g/ml, or for ``BSA`` in cm²/ml.

    Raises:
        CaseFault: other units, or a field that is needed is missing, implausible or contradicts
            another.
    """
    try:
        return _factors(Fields(series, datasets, scan), kind, notes)
    except (ValueError, NotImplementedError, OverflowError) as error:
        raise CaseFault(
            Reason.MISSING_SUV_FIELD,
            f"{series}: a field that SUV needs cannot be read ({error}); fix it in the archive.",
        ) from error


def _factors(fields: Fields, kind: SuvType, notes: Notes) -> NDArray[np.float64]:
    """Return each slice's factor by the units of the series; see `suv_factors`."""
    units = {str(plain(d.get("Units"))) or real_world_units(d) for d in fields.slices}
    if len(units) != 1:
        fields.unsupported(f"mixes the units {sorted(units)}.")
    unit = units.pop()
    _check_source(fields)
    _check_attenuation(fields, stated=unit in {"GML", "CM2ML"})
    if unit in {"GML", "CM2ML"}:
        _check_stored_decay(fields)
        stored = _stored_type(fields, unit, notes)
        return np.full(len(fields.slices), _of_stored(stored, kind, fields, notes))
    if unit == "BQML":
        return _of_activity(fields, kind, notes)
    if unit == "CNTS":
        return _of_counts(fields, kind, notes)
    fields.unsupported(f"Units {unit or 'missing'}; SUV needs BQML, GML, CM2ML or Philips' CNTS.")


def _check_attenuation(fields: Fields, *, stated: bool) -> None:
    """Refuse a series whose attenuation was not corrected.

    Args:
        fields: of the series.
        stated: that SUV which is stored may leave Corrected Image (0028,0051) out.
    """
    corrected = fields.words("CorrectedImage")
    if fields.text("AttenuationCorrected") == "YES":
        corrected |= {"ATTN"}
    if "ATTN" in corrected or (stated and not corrected):
        return
    fields.unsupported(f"Corrected Image is {sorted(corrected)}; SUV needs ATTN.")


def _check_source(fields: Fields) -> None:
    """Refuse what is no image of activity (PS3.3 C.8.9.1 and C.8.9.1.1.1)."""
    source = fields.text("CountsSource")
    if source not in {"", "EMISSION"}:
        fields.unsupported(f"Counts Source is {source}, so its values are no activity.")
    if "REPROJECTION" in fields.words("SeriesType"):
        fields.unsupported("Series Type is REPROJECTION: its slices are projections of a volume.")


def _check_stored_decay(fields: Fields) -> None:
    """Refuse SUV that is stored without correction of decay: to what time it is, nothing says."""
    corrected = fields.words("CorrectedImage")
    if fields.text("DecayCorrection") == "NONE" or fields.text("DecayCorrected") == "NO":
        fields.unsupported("it is stored in SUV whose decay is not corrected; export it in BQML.")
    if corrected and "DECY" not in corrected and fields.text("DecayCorrected") != "YES":
        fields.unsupported(
            f"it is stored in SUV, and Corrected Image is {sorted(corrected)} without DECY; export "
            "it in BQML."
        )


def _stored_type(fields: Fields, unit: str, notes: Notes) -> SuvType:
    """Return the type of the SUV that the series is stored in."""
    stated = fields.text("SUVType")
    mapped = fields.one("the units' code", [_annotated(_mapped_units(d)) for d in fields.slices])
    if not stated and mapped:
        return SuvType(mapped)
    if not stated and unit == "CM2ML":
        return SuvType.BSA
    if not stated:
        notes.add(
            Decision.SUV_TYPE_ASSUMED,
            "Units are GML without SUVType, which are taken to be SUV by body weight.",
        )
        return SuvType.BW
    if stated not in SuvType.__members__ or SuvType(stated).units != unit:
        fields.unsupported(f"SUV Type {stated} with Units {unit} is none that is known.")
    return SuvType(stated)


def _of_stored(stored: SuvType, kind: SuvType, fields: Fields, notes: Notes) -> float:
    """Return the factor from the SUV that the series is stored in to the one asked for."""
    if stored is kind:
        notes.add(Decision.SUV_AS_STORED, f"The series is stored in {kind.written}.")
        return 1.0
    factor = _between(stored, kind, fields, notes)
    notes.add(
        Decision.SUV_OF_ANOTHER_TYPE,
        f"The series is stored in {stored.written}; {kind.written} is that times {factor:.6g}.",
    )
    return factor


def _between(stored: SuvType, kind: SuvType, fields: Fields, notes: Notes) -> float:
    """Return the factor from one type of SUV to another."""
    return body(kind, fields, notes) / body(stored, fields, Notes())


def _of_activity(fields: Fields, kind: SuvType, notes: Notes) -> NDArray[np.float64]:
    """Return what Bq/ml are multiplied by in each slice."""
    measure = body(kind, fields, notes)
    dose = _dose_bq(fields)
    if fields.text("DecayCorrection") == "ADMIN":
        decays = _to_administration(fields, notes)
    else:
        life, zone = half_life(fields, notes), zone_of(fields)
        moments = corrected_to(fields, life, zone, notes)
        seconds = np.asarray(uptake_s(fields, moments, life, zone, notes))
        decays = 2.0 ** (-seconds / life)
    factors = measure / (dose * decays)
    shown = " to ".join(f"{value:.6g}" for value in sorted({factors.min(), factors.max()}))
    notes.sentences.append(f"{kind.written} is Bq/ml times {shown}.")
    return factors


def _to_administration(fields: Fields, notes: Notes) -> NDArray[np.float64]:
    """Return the decay of the dose where voxels are corrected to the injection: none."""
    if "DECY" not in fields.words("CorrectedImage"):
        fields.contradictory("DecayCorrection is ADMIN, but CorrectedImage has no DECY; fix it.")
    if fields.value("DecayCorrectionDateTime") != "":
        fields.contradictory(
            "DecayCorrection is ADMIN, but DecayCorrectionDateTime is there; fix what is wrong."
        )
    _check_administration(fields)
    notes.add(Decision.DECAY_TO_ADMINISTRATION, "Decay is corrected to the injection (ADMIN).")
    return np.ones(len(fields.slices))


def _check_administration(fields: Fields) -> None:
    """Hold the scanner's decay factors against a correction to the injection, if its time is there.

    Raises:
        CaseFault: they are those of another time, such as the start of the scan.
    """
    if not any(decay_factor(dataset) for dataset in fields.slices):
        return
    try:
        life, zone = half_life(fields, Notes()), zone_of(fields)
        starts = acquisitions(fields, zone, Notes())
        if starts is None:
            return
        seconds = uptake_s(fields, starts, life, zone, Notes())
    except CaseFault:
        return
    check_decay_factor(fields, life, zone, starts[0] - timedelta(seconds=seconds[0]))


def _dose_bq(fields: Fields) -> float:
    """Return the activity that was injected, in Bq.

    Raises:
        CaseFault: it is missing, or none that a person is given in Bq.
    """
    dose = fields.positive("RadionuclideTotalDose", tracer=True)
    if LEAST_DOSE_BQ <= dose <= GREATEST_DOSE_BQ:
        return dose
    # A usual dose, of 20 MBq to 4 GBq, says best which unit was meant.
    units = [unit for unit, bq in OFF_BY.items() if 2e7 <= dose * bq <= 4e9]
    looks = f"; it looks like {' or '.join(units)}" if units else ""
    fields.implausible(
        f"RadionuclideTotalDose is {dose:g} Bq{looks}; a person is given {LEAST_DOSE_BQ:g} to "
        f"{GREATEST_DOSE_BQ:g} Bq. Fix it."
    )


def _of_counts(fields: Fields, kind: SuvType, notes: Notes) -> NDArray[np.float64]:
    """Return what the counts of a Philips scanner are multiplied by in each slice."""
    suv, activity = (
        _philips(fields, element) for element in (PHILIPS_SUV_FACTOR, PHILIPS_ACTIVITY_FACTOR)
    )
    if not suv and not activity:
        fields.unsupported(
            "Units CNTS without the Philips scale factors (7053,xx00) or (7053,xx09); export the "
            "series in BQML."
        )
    if fields.maker != "Philips":
        fields.unsupported("Units CNTS of another maker than Philips; export the series in BQML.")
    if not suv:
        notes.add(
            Decision.PHILIPS_ACTIVITY_FACTOR,
            f"Activity in Bq/ml is counts times {activity:g}, by (7053,xx09).",
        )
        return activity * _of_activity(fields, kind, notes)
    if "DECY" not in fields.words("CorrectedImage"):
        fields.unsupported("Units CNTS with a factor to SUV, but CorrectedImage has no DECY.")
    if activity:
        _check_philips(fields, suv, activity)
    notes.add(Decision.PHILIPS_SUV_FACTOR, f"SUVbw is counts times {suv:g}, by (7053,xx00).")
    if kind is not SuvType.BW:
        suv *= _between(SuvType.BW, kind, fields, notes)
        notes.sentences.append(f"{kind.written} is counts times {suv:.6g}.")
    return np.full(len(fields.slices), suv)


def _philips(fields: Fields, element: int) -> float:
    """Return a factor of Philips, which all slices share; 0 where it is not there.

    Raises:
        CaseFault: it is below 0, or the slices differ.
    """
    value = float(fields.private(PHILIPS_GROUP, PHILIPS, element) or 0)
    if not 0 <= value < np.inf:
        fields.missing(f"the Philips scale factor (7053,xx{element:02X}) is {value:g}.")
    return value


def _check_philips(fields: Fields, suv: float, activity: float) -> None:
    """Hold Philips' two factors against each other, where the fields for both are there."""
    try:
        other = activity * _of_activity(fields, SuvType.BW, Notes())[0]
    except CaseFault as fault:
        if fault.reason is not Reason.MISSING_SUV_FIELD:
            raise
        return
    if abs(other / suv - 1) > PHILIPS_TOLERANCE:
        fields.contradictory(
            f"the Philips factor to SUV is {suv:g}, but by that to activity, weight, dose and "
            f"times it is {other:.6g}; fix what is wrong, or export the series in BQML."
        )
