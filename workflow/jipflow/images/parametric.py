"""Parametric maps: images of a quantity that was calculated, such as a diffusion coefficient.

A map says by a Real World Value Mapping what its stored values are (PS3.3 A.75, C.7.6.16.2.11); it
has no other scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.reasons import CaseFault, Reason

FIRST, LAST = "RealWorldValueFirstValueMapped", "RealWorldValueLastValueMapped"
EXPORT = "export the map again with one linear mapping"


def check_mapping(path: Path, header: Dataset) -> None:
    """Refuse a plane of a map whose stored values have no one meaning.

    Args:
        path: its file.
        header: of the plane.

    Raises:
        CaseFault: there is no mapping, or several, or one that is not linear; or there is a second
            scale beside it.
    """
    mappings = header.get("RealWorldValueMappingSequence") or []
    if len(mappings) != 1:
        raise _unscaled(path, f"has {len(mappings)} Real World Value Mappings, not one")
    scale = [mappings[0].get(name) for name in ("RealWorldValueSlope", "RealWorldValueIntercept")]
    if any(number in (None, "") or not math.isfinite(number) for number in scale) or scale[0] == 0:
        raise _unscaled(path, "has a Real World Value Mapping without slope or intercept")
    slope, intercept = (header.get(name, default) for name, default in RESCALE.items())
    if header.get("ModalityLUTSequence") or (slope, intercept) != tuple(RESCALE.values()):
        raise _unscaled(path, "has a rescale beside its Real World Value Mapping")


RESCALE = {"RescaleSlope": 1, "RescaleIntercept": 0}
"""A rescale that changes nothing."""


def mapped(path: Path, header: Dataset, stored: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the real world values of a plane.

    Args:
        path: its file.
        header: of the plane, as `check_mapping` lets pass.
        stored: stored values, shape (rows, columns).

    Raises:
        CaseFault: values lie outside the range that is mapped, so that they have no meaning.
    """
    mapping = header.RealWorldValueMappingSequence[0]
    values = stored.astype(np.float64)
    first, last = _range(mapping)
    outside = int(np.count_nonzero((values < first) | (values > last)))
    if outside:
        raise _unscaled(
            path, f"has {outside} stored values outside {first:g} to {last:g}, which are mapped"
        )
    return values * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept


def quantity_note(headers: Sequence[Dataset], name: str) -> str:
    """Return what the values of a map are, in words.

    Args:
        headers: of its planes.
        name: the series, for messages.

    Raises:
        CaseFault: its planes are of several quantities or units.
    """
    found = {(unit_of_map(header), *_quantity(header)) for header in headers}
    if len(found) > 1:
        kinds = sorted({f"{meaning or 'an unnamed quantity'} in {u}" for u, _, meaning in found})
        raise CaseFault(
            Reason.MIXED_ACQUISITIONS,
            f"{name}: holds maps of {', '.join(kinds)}; export each as a series of its own.",
        )
    units, _, meaning = found.pop()
    of = f" of {meaning}" if meaning else ""
    return f"The values are those{of} that the map states, in {units or 'no unit'}."


def _range(mapping: Dataset) -> tuple[float, float]:
    """Return the first and the last stored value that are mapped."""
    ends = []
    for name, fallback in ((FIRST, -math.inf), (LAST, math.inf)):
        given = [mapping.get(each) for each in (f"DoubleFloat{name}", name)]
        ends.append(next((float(end) for end in given if end not in (None, "")), fallback))
    return ends[0], ends[1]


def unit_of_map(header: Dataset) -> str:
    """Return the UCUM code of the unit that a plane of a map states; empty where it states none."""
    mappings = header.get("RealWorldValueMappingSequence") or []
    codes = [code for item in mappings for code in item.get("MeasurementUnitsCodeSequence") or []]
    return str(codes[0].get("CodeValue") or "") if len(codes) == 1 else ""


def _quantity(header: Dataset) -> tuple[str, str]:
    """Return code and meaning of the quantity; empty where none is stated (PS3.3 C.7.6.16.2.11)."""
    for item in header.RealWorldValueMappingSequence[0].get("QuantityDefinitionSequence") or []:
        for concept in item.get("ConceptCodeSequence") or []:
            return str(concept.get("CodeValue") or ""), str(concept.get("CodeMeaning") or "")
    return "", ""


def _unscaled(path: Path, why: str) -> CaseFault:
    message = f"{path}: {why}, so its values have no unit; {EXPORT}."
    return CaseFault(Reason.MISSING_RESCALE, message)
