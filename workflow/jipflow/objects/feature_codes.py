"""How features stand in a report: IBSI's code where there is one, and the unit of the image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from highdicom.sr import CodedConcept

from jipflow.settings.radiomics import Preparation, Radiomics
from jipflow.settings.resources import RESOURCES, read_yaml

SCHEME = "99JIPFLOW"
"""Coding scheme of what no standard names (private, PS3.16 section 8.2)."""

ONE = CodedConcept("1", "UCUM", "no units")
LENGTHS = {
    "1": ONE,
    "mm": CodedConcept("mm", "UCUM", "millimeter"),
    "mm2": CodedConcept("mm2", "UCUM", "square millimeter"),
    "mm3": CodedConcept("mm3", "UCUM", "cubic millimeter"),
    "/mm": CodedConcept("/mm", "UCUM", "per millimeter"),
    "ml": CodedConcept("ml", "UCUM", "milliliter"),
}
HOUNSFIELD = {
    "I": CodedConcept("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "I2": CodedConcept("[hnsf'U]2", "UCUM", "Hounsfield unit squared"),
    "I2.mm3": CodedConcept(
        "[hnsf'U]2.mm3", "UCUM", "Hounsfield unit squared times cubic millimeter"
    ),
    "I.mm3": CodedConcept("[hnsf'U].mm3", "UCUM", "Hounsfield unit times cubic millimeter"),
    "I.ml": CodedConcept("[hnsf'U].ml", "UCUM", "Hounsfield unit times milliliter"),
}
SUV = {
    "I": CodedConcept("{SUVbw}g/ml", "UCUM", "Standardized Uptake Value body weight"),
    "I2": CodedConcept("{SUVbw}g2/ml2", "UCUM", "Standardized Uptake Value body weight squared"),
    "I2.mm3": CodedConcept(
        "{SUV}g2/ml2.mm3", "UCUM", "SUV body weight squared times cubic millimeter"
    ),
    "I.mm3": CodedConcept("{SUVbw}g/ml.mm3", "UCUM", "SUV body weight times cubic millimeter"),
    "I.ml": CodedConcept("{SUVbw}g", "UCUM", "SUV body weight times milliliter"),
}
SUV_ANNOTATIONS = {
    "LBM": "SUVlbm",
    "LBMJAMES128": "SUVlbm(James128)",
    "LBMJANMA": "SUVlbm(Janma)",
    "IBW": "SUVibw",
    "BSA": "SUVbsa",
}
"""What PS3.16 CID 85 writes in braces for a type of SUV (0054,1006) other than by body weight."""
ARBITRARY = {
    "I": CodedConcept("[arb'U]", "UCUM", "arbitrary unit"),
    "I2": CodedConcept("[arb'U]2", "UCUM", "arbitrary unit squared"),
    "I2.mm3": CodedConcept("[arb'U]2.mm3", "UCUM", "arbitrary unit squared times cubic millimeter"),
    "I.mm3": CodedConcept("[arb'U].mm3", "UCUM", "arbitrary unit times cubic millimeter"),
    "I.ml": CodedConcept("[arb'U].ml", "UCUM", "arbitrary unit times milliliter"),
}
INTENSITIES = {"CT": HOUNSFIELD, "PT": SUV}
"""Units of the intensities in a prepared volume (`jipflow.images.series`) by Modality."""

LINEAR_FILTERS = ("original", "wavelet", "log-sigma", "ibsi-mean")
"""Beginnings of the names of images that keep the unit of the intensities."""


@dataclass(frozen=True)
class FeatureName:
    """How a feature stands in a report.

    Attributes:
        concept: what is measured.
        unit: of the value (UCUM).
        method: the filter that the image went through; None for the image itself.
    """

    concept: CodedConcept
    unit: CodedConcept
    method: CodedConcept | None


def name_feature(
    feature: str, parameters: Radiomics, modality: str, suv: str = "BW"
) -> FeatureName:
    """Return how a feature stands in a report.

    Args:
        feature: its name, ``<image>_<class>_<feature>``.
        parameters: radiomics settings.
        modality: of the image.
        suv: what the SUV of PET is normalised to, as in SUV Type (0054,1006).
    """
    image, group, short = feature.split("_", 2)
    table = _ibsi()
    entry = table["features"].get(group, {}).get(short)
    if entry is None:
        concept, unit = _own(f"{group}_{short}", f"pyradiomics {group} {short}"), ONE
    else:
        concept = _concept(entry)
        standard = table["standard"]
        needed = standard.get(group, {}) | standard.get(f"{group}_{short}", {})
        setting = parameters.setting.plain()
        changed = [key for key, values in needed.items() if setting[key] not in values]
        if "code" in entry and changed:
            text = f"{short} of {group}, with {', '.join(changed)} apart from IBSI"
            concept = _own(f"{group}_{short}_{'_'.join(changed)}", text)
        intensities = INTENSITIES.get(modality, ARBITRARY)
        if modality == "PT" and suv != "BW":
            intensities = _other_suv(suv)
        unit = _unit(entry["unit"], group, image, parameters.processing, intensities)
    return FeatureName(
        concept, unit, None if image == "original" else _own(image, f"Filter {image}")
    )


def _concept(entry: Mapping[str, Any]) -> CodedConcept:
    """Return the code of an entry of the table: IBSI's, or our own."""
    if "code" in entry:
        value, meaning = entry["code"]
        return CodedConcept(value, "IBSI", meaning)
    value, meaning = entry["own"]
    return CodedConcept(value, SCHEME, meaning)


def _other_suv(kind: str) -> dict[str, CodedConcept]:
    """Return the units of an SUV that is not by body weight, as `SUV` has those of that one."""
    note = f"{{{SUV_ANNOTATIONS[kind]}}}"
    total, once, squared = ("g", "g/ml", "g2/ml2")
    if kind == "BSA":
        total, once, squared = ("cm2", "cm2/ml", "cm4/ml2")
    text = f"SUV {SUV_ANNOTATIONS[kind].removeprefix('SUV')}"
    return {
        "I": CodedConcept(f"{once}{note}", "UCUM", text),
        "I2": CodedConcept(f"{squared}{note}", "UCUM", f"{text} squared"),
        "I2.mm3": CodedConcept(
            f"{squared}.mm3{note}", "UCUM", f"{text} squared times cubic millimeter"
        ),
        "I.mm3": CodedConcept(f"{once}.mm3{note}", "UCUM", f"{text} times cubic millimeter"),
        "I.ml": CodedConcept(f"{total}{note}", "UCUM", f"{text} times milliliter"),
    }


def _unit(
    word: str,
    group: str,
    image: str,
    processing: Preparation,
    intensities: Mapping[str, CodedConcept],
) -> CodedConcept:
    """Return the unit that a word of the table stands for."""
    if word in LENGTHS:
        return LENGTHS[word]
    if group == "ivh" and processing.ivh is not None and processing.ivh.count is not None:
        return ONE
    changed = processing.normalize is not None or not image.startswith(LINEAR_FILTERS)
    return (ARBITRARY if changed else intensities)[word]


def _own(name: str, meaning: str) -> CodedConcept:
    """Return a code of our scheme; a name too long for a Code Value gives its hash instead."""
    value = name if len(name) <= 16 else hashlib.sha256(name.encode()).hexdigest()[:16].upper()
    return CodedConcept(value, SCHEME, meaning[:64])


@cache
def _ibsi() -> dict[str, Any]:
    """Read the table of IBSI's codes and of what their definitions need."""
    table: dict[str, Any] = read_yaml(RESOURCES / "ibsi_codes.yaml")
    return table
