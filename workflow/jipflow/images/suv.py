"""Standardised uptake values by body weight (SUVbw)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import DA, DT, TM

from jipflow.reasons import CaseFault, Reason

PHILIPS_SUV_FACTOR = Tag(0x7053, 0x1000)
PHILIPS_ACTIVITY_FACTOR = Tag(0x7053, 0x1009)
LONGEST_UPTAKE = timedelta(hours=24)
"""An injection longer ago than this is a wrong date or time."""


REAL_WORLD_UNITS = {"Bq/ml": "BQML", "g/ml{SUVbw}": "GML"}
"""Codes of UCUM (PS3.16 CID 84 and 85) that say in enhanced PET what Units says in PET."""


def real_world_units(header: Dataset) -> str:
    """Return ``BQML`` or ``GML`` where a header has one Real World Value Mapping in it.

    Args:
        header: of an image plane; PS3.3 C.7.6.16.2.11.

    Returns:
        The units as (0054,1001) names them, empty where no mapping or several are there, or
        where it is no linear mapping in units that SUVbw can be had from.
    """
    mappings = header.get("RealWorldValueMappingSequence") or []
    if len(mappings) != 1 or "RealWorldValueSlope" not in mappings[0]:
        return ""
    codes = mappings[0].get("MeasurementUnitsCodeSequence") or []
    return REAL_WORLD_UNITS.get(str(codes[0].get("CodeValue")), "") if codes else ""


def suv_factors(datasets: Sequence[Dataset], series: str) -> NDArray[np.float64]:
    """Return what the rescaled values of each slice are multiplied by to give SUVbw in g/mL.

    Follows the vendor-neutral pseudo-code of the QIBA FDG-PET/CT profile (SUV 1.2), for the
    units of PS3.3 C.8.9.1 (0054,1001):

    * ``GML`` with SUV Type ``BW`` (or absent): 1.
    * ``BQML`` with attenuation and decay correction: weight in g over the injected dose, decayed to
      the start of the scan where Decay Correction is ``START``, as injected where it is ``ADMIN``.
    * ``CNTS`` of Philips: the private SUV scale factor (7053,1000); or, where that is 0, the
      activity concentration factor (7053,1009) and then as for ``BQML``.

    Args:
        datasets: the slices of one PET series.

    Raises:
        CaseFault: other units, or a field that is needed is missing or absurd.
    """
    try:
        return _factors(datasets, series)
    except (ValueError, TypeError, NotImplementedError, OverflowError, AttributeError) as error:
        raise CaseFault(
            Reason.MISSING_SUV_FIELD,
            f"{series}: a field that SUVbw needs cannot be read ({error}); fix it in the archive.",
        ) from error


def _factors(datasets: Sequence[Dataset], series: str) -> NDArray[np.float64]:
    """Return each slice's factor by the units of the series; see `suv_factors`."""
    first = datasets[0]
    units = {str(d.get("Units") or "") or real_world_units(d) for d in datasets}
    if len(units) != 1:
        raise CaseFault(Reason.UNSUPPORTED_UNITS, f"{series}: mixes the units {sorted(units)}.")
    unit = units.pop()
    if unit == "GML":
        kind = str(first.get("SUVType") or "BW")
        if kind != "BW":
            raise CaseFault(
                Reason.UNSUPPORTED_UNITS, f"{series}: SUV Type {kind} is not by body weight."
            )
        return np.ones(len(datasets))
    if unit == "BQML":
        return np.full(len(datasets), _bqml_factor(datasets, series))
    if unit == "CNTS":
        scales = [_private(d, PHILIPS_SUV_FACTOR) for d in datasets]
        if all(scale > 0 for scale in scales):
            return np.array(scales)
        activities = [_private(d, PHILIPS_ACTIVITY_FACTOR) for d in datasets]
        if all(activity > 0 for activity in activities):
            return np.array(activities) * _bqml_factor(datasets, series)
        raise CaseFault(
            Reason.UNSUPPORTED_UNITS,
            f"{series}: Units CNTS without the Philips scale factors (7053,1000) or (7053,1009); "
            "export the series in BQML.",
        )
    raise CaseFault(
        Reason.UNSUPPORTED_UNITS,
        f"{series}: Units {unit or 'missing'}; SUVbw needs BQML, GML or Philips' CNTS.",
    )


def _private(dataset: Dataset, tag: Any) -> float:
    element = dataset.get(tag)
    if element is None:
        return 0.0
    try:
        return float(element.value)
    except (TypeError, ValueError):
        return 0.0


def _bqml_factor(datasets: Sequence[Dataset], series: str) -> float:
    """Return body weight in g over the dose in Bq at the time the voxels are corrected to."""
    first = datasets[0]
    corrected = {str(value) for value in _values(first.get("CorrectedImage"))}
    for name, code in (("AttenuationCorrected", "ATTN"), ("DecayCorrected", "DECY")):
        if first.get(name) == "YES":
            corrected.add(code)
    if not {"ATTN", "DECY"} <= corrected:
        raise CaseFault(
            Reason.UNSUPPORTED_UNITS,
            f"{series}: Corrected Image is {sorted(corrected)}; SUVbw needs ATTN and DECY.",
        )
    weight = _number(first, "PatientWeight", series)
    doses = first.get("RadiopharmaceuticalInformationSequence") or []
    if len(doses) != 1:
        raise CaseFault(
            Reason.MISSING_SUV_FIELD,
            f"{series}: has {len(doses)} radiopharmaceuticals where one is needed.",
        )
    tracer = doses[0]
    dose = _number(tracer, "RadionuclideTotalDose", series)
    reference = DT(first.get("DecayCorrectionDateTime") or "")
    correction = "START" if reference else str(first.get("DecayCorrection", ""))
    if correction == "ADMIN":
        return 1000.0 * weight / dose
    if correction != "START":
        raise CaseFault(
            Reason.MISSING_SUV_FIELD,
            f"{series}: Decay Correction is {correction or 'missing'}; START or ADMIN is needed.",
        )
    half_life = _number(tracer, "RadionuclideHalfLife", series)
    # The scan's times carry no zone; all are local time of the same scanner.
    scan = reference.replace(tzinfo=None) if reference else _scan_start(datasets, series)
    injected = _injection(tracer, scan, series)
    uptake = scan - injected
    if not timedelta(0) <= uptake <= LONGEST_UPTAKE:
        raise CaseFault(
            Reason.MISSING_SUV_FIELD,
            f"{series}: the scan starts {uptake} after the injection; fix the times.",
        )
    decayed = dose * 2.0 ** (-uptake.total_seconds() / half_life)
    return 1000.0 * weight / decayed


def _values(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _number(dataset: Dataset, name: str, series: str) -> float:
    value = dataset.get(name)
    if value in (None, "") or float(value) <= 0:
        raise CaseFault(
            Reason.MISSING_SUV_FIELD,
            f"{series}: {name} is {value or 'missing'}; SUVbw needs it.",
        )
    return float(value)


def _scan_start(datasets: Sequence[Dataset], series: str) -> datetime:
    """Return the time the voxels are decay-corrected to.

    It is the Series Date and Time, unless those are later than the first acquisition: then the
    series was made or changed after the scan, and the first acquisition is taken.
    """
    acquired = [_date_time(d, "AcquisitionDate", "AcquisitionTime") for d in datasets]
    known = [moment for moment in acquired if moment is not None]
    started = _date_time(datasets[0], "SeriesDate", "SeriesTime")
    if started is not None and (not known or started <= min(known)):
        return started
    if known:
        return min(known)
    raise CaseFault(
        Reason.MISSING_SUV_FIELD, f"{series}: neither series nor acquisition time is there."
    )


def _date_time(dataset: Dataset, date: str, time: str) -> datetime | None:
    """Return the moment of a date and a time; None where either is missing."""
    day, clock = dataset.get(date), dataset.get(time)
    if not day or not clock:
        return None
    parsed_day, parsed_clock = DA(day), TM(clock)
    if parsed_day is None or parsed_clock is None:
        return None
    return datetime.combine(parsed_day, parsed_clock)


def _injection(tracer: Dataset, scan: datetime, series: str) -> datetime:
    """Return the injection's date and time; a time alone is taken on or before the scan's day."""
    full = tracer.get("RadiopharmaceuticalStartDateTime")
    if full:
        stated = DT(full)
        if stated is not None:
            return stated.replace(tzinfo=None)
    clock = tracer.get("RadiopharmaceuticalStartTime")
    parsed = TM(clock) if clock else None
    if parsed is None:
        raise CaseFault(
            Reason.MISSING_SUV_FIELD, f"{series}: RadiopharmaceuticalStartTime is missing."
        )
    moment = datetime.combine(scan.date(), parsed)
    return moment if moment <= scan else moment - timedelta(days=1)
