"""What activity is normalised to: body weight, lean body mass, ideal weight, body surface."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import StrEnum

from jipflow.images.suv.fields import Fields, number
from jipflow.notes import Notes
from jipflow.reasons import Decision


class SuvType(StrEnum):
    """What activity is normalised to, by the terms of SUV Type (0054,1006), PS3.3 C.8.9.1."""

    BW = "BW"
    LBM = "LBM"
    LBMJAMES128 = "LBMJAMES128"
    LBMJANMA = "LBMJANMA"
    IBW = "IBW"
    BSA = "BSA"

    @property
    def units(self) -> str:
        """The term of Units (0054,1001): ``CM2ML`` for body surface, else ``GML``."""
        return "CM2ML" if self is SuvType.BSA else "GML"

    @property
    def written(self) -> str:
        """How people write it, such as ``SUVbw``."""
        return f"SUV{self.value.lower()}"


G_PER_KG = 1000.0
CM_PER_M = 100.0
CM2_PER_M2 = 1e4
KG_PER_POUND = 0.45359237
SIZE_UNITS = {"centimetres": 0.01, "millimetres": 0.001, "inches": 0.0254}
"""Units that a size is found in, and the metres that each stands for."""

WEIGHT_KG = (1.0, 300.0)
"""Least and greatest Patient's Weight (0010,1030): from the preterm to what PET tables carry."""
SIZE_M = (0.3, 2.5)
"""Least and greatest Patient's Size (0010,1020): from the preterm to the tallest person."""
USUAL_BMI = (10.0, 40.0)
"""Body mass index in kg/m² outside of which a note names it: from 40 obesity is of class III (WHO
Technical Report Series 894), and a weight in pounds puts all above it whose own is above 18.1."""
MIDDLE_BMI = 22.0
"""Body mass index in the middle of what is normal (WHO Technical Report Series 894)."""
HUMAN_BMI = (5.0, 100.0)
"""Body mass index that nobody is outside of: weight or size is wrong."""


def _janmahasatian(weight: float, size: float, constant: float, slope: float) -> float:
    return 9270.0 * weight / (constant + slope * weight / size**2)


def _james(weight: float, size: float, slope: float, curve: float) -> float:
    return slope * weight - curve * (weight / (size * CM_PER_M)) ** 2


def _ideal(size: float, at_152_cm: float, per_cm: float) -> float:
    return at_152_cm + per_cm * (size * CM_PER_M - 152.0)


Formula = Callable[[float, float], float]
"""From weight in kg and size in m to a mass in kg."""

MASSES: Mapping[SuvType, Mapping[str, Formula]] = {
    SuvType.LBM: {
        "M": lambda weight, size: _james(weight, size, 1.10, 120.0),
        "F": lambda weight, size: _james(weight, size, 1.07, 148.0),
    },
    SuvType.LBMJAMES128: {
        "M": lambda weight, size: _james(weight, size, 1.10, 128.0),
        "F": lambda weight, size: _james(weight, size, 1.07, 148.0),
    },
    SuvType.LBMJANMA: {
        "M": lambda weight, size: _janmahasatian(weight, size, 6680.0, 216.0),
        "F": lambda weight, size: _janmahasatian(weight, size, 8780.0, 244.0),
    },
    SuvType.IBW: {
        "M": lambda _, size: _ideal(size, 48.0, 1.06),
        "F": lambda _, size: _ideal(size, 45.5, 0.91),
    },
}
"""Mass in kg that activity is normalised to, by sex, as SUV Type (0054,1006) and PS3.16 CID 85
have them: lean body mass of James (in `LBM` with 120 for men, in `LBMJAMES128` with 128) and of
Janmahasatian (2005, doi 10.2165/00003088-200544100-00004), ideal body weight (Sugawara et al. 1999,
Radiology 213:521)."""


def du_bois(weight: float, size: float) -> float:
    """Return the body surface in m² by Du Bois and Du Bois (1916), as PS3.16 CID 85 has it.

    Args:
        weight: in kg.
        size: in m.
    """
    return 0.007184 * weight**0.425 * (size * CM_PER_M) ** 0.725


def weight_kg(fields: Fields, notes: Notes) -> float:
    """Return Patient's Weight in kg.

    Raises:
        CaseFault: it is missing, or no person's in kg.
    """
    weight = fields.positive("PatientWeight")
    least, greatest = WEIGHT_KG
    if not least <= weight <= greatest:
        looks = ""
        if least <= weight / 1000 <= greatest:
            looks = "; it looks like grams"
        elif least <= weight * 1000 <= greatest:
            looks = "; it looks like tonnes"
        fields.implausible(
            f"PatientWeight is {weight:g} kg{looks}; a person weighs {least:g} to {greatest:g} kg. "
            "Fix it."
        )
    _check_index(fields, notes, weight)
    return weight


def _check_index(fields: Fields, notes: Notes, weight: float) -> None:
    """Hold the weight against the size, in metres or in the unit that it looks like."""
    sizes = _sizes(fields)
    indices = {unit: weight / size**2 for unit, size in sizes.items()}
    if not indices or any(USUAL_BMI[0] <= index <= USUAL_BMI[1] for index in indices.values()):
        return
    # Of several units of a size the one that makes a body least far from a usual one.
    unit = min(indices, key=lambda name: abs(math.log(indices[name] / MIDDLE_BMI)))
    index, size = indices[unit], sizes[unit]
    stated = f"{size:g} m" if unit == "m" else f"a size that looks like {size:.2f} m in {unit}"
    text = f"{weight:g} kg and {stated} make a body mass index of {index:.1f} kg/m²"
    pounds = "; the weight may be in pounds" if index > USUAL_BMI[1] else ""
    british = unit == "inches" and USUAL_BMI[0] <= index * KG_PER_POUND <= USUAL_BMI[1]
    if british or (unit == "m" and not HUMAN_BMI[0] <= index <= HUMAN_BMI[1]):
        fields.implausible(f"PatientWeight and PatientSize, {text}{pounds}; fix them.")
    notes.add(Decision.UNUSUAL_BODY, f"PatientWeight and PatientSize, {text}{pounds}.")


def _sizes(fields: Fields) -> dict[str, float]:
    """Return Patient's Size in m by the unit that it may be in; none where it is no person's."""
    try:
        value = number(fields.value("PatientSize") or 0, "PatientSize")
    except ValueError:
        return {}
    metres = (
        {"m": value}
        if SIZE_M[0] <= value <= SIZE_M[1]
        else {unit: value * factor for unit, factor in SIZE_UNITS.items()}
    )
    return {unit: size for unit, size in metres.items() if SIZE_M[0] <= size <= SIZE_M[1]}


def size_m(fields: Fields) -> float:
    """Return Patient's Size in m.

    Raises:
        CaseFault: it is missing, or no person's in m.
    """
    size = fields.positive("PatientSize")
    least, greatest = SIZE_M
    if not least <= size <= greatest:
        looks = ""
        if least <= size / 100 <= greatest:
            looks = "; it looks like centimetres"
        elif least <= size / 1000 <= greatest:
            looks = "; it looks like millimetres"
        fields.implausible(
            f"PatientSize is {size:g} m{looks}; a person measures {least:g} to {greatest:g} m. "
            "Fix it."
        )
    return size


def body(kind: SuvType, fields: Fields, notes: Notes) -> float:
    """Return what a type of SUV multiplies activity by: a mass in g, or for ``BSA`` cm².

    Args:
        kind: of SUV.
        fields: of the series.
        notes: gets a sentence where sex is other, or the body unusual.

    Raises:
        CaseFault: weight, size or sex are missing or no person's.
    """
    weight = weight_kg(fields, notes)
    if kind is SuvType.BW:
        return weight * G_PER_KG
    size = size_m(fields)
    if kind is SuvType.BSA:
        return du_bois(weight, size) * CM2_PER_M2
    mass = _mass(kind, weight, size, fields, notes)
    if mass <= 0:
        fields.implausible(
            f"{kind} of {weight:g} kg and {size:g} m is {mass:.1f} kg, as its formula holds for "
            "other bodies; ask for another SUV."
        )
    return mass * G_PER_KG


def _mass(kind: SuvType, weight: float, size: float, fields: Fields, notes: Notes) -> float:
    """Return lean body mass or ideal weight in kg."""
    formulas, sex = MASSES[kind], fields.text("PatientSex")
    if sex == "O":
        notes.add(
            Decision.MEAN_OF_SEXES,
            f"PatientSex is O, so {kind} is the mean of its formulas for men and women.",
        )
        return (formulas["M"](weight, size) + formulas["F"](weight, size)) / 2
    if sex not in formulas:
        fields.missing(f"PatientSex is {sex or 'missing'}; {kind} needs M, F or O.")
    return formulas[sex](weight, size)
