"""Radionuclides of PET, their half-lives, and which one a series names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NoReturn

from pydicom.dataset import Dataset
from pydicom.sr import _snomed_dict
from pydicom.sr.codedict import codes

from jipflow.images.suv.fields import Fields, plain
from jipflow.notes import Notes
from jipflow.reasons import Decision

MINUTE_S, HOUR_S, DAY_S, YEAR_S = 60.0, 3600.0, 86400.0, 31556926.0

HALF_LIFE_S = {
    "C-11": 20.364 * MINUTE_S,
    "N-13": 9.965 * MINUTE_S,
    "O-14": 70.606,
    "O-15": 122.24,
    "F-18": 109.77 * MINUTE_S,
    "Na-22": 2.6018 * YEAR_S,
    "K-38": 7.651 * MINUTE_S,
    "Sc-43": 3.891 * HOUR_S,
    "Sc-44": 4.042 * HOUR_S,
    "Ti-45": 184.8 * MINUTE_S,
    "Mn-51": 46.2 * MINUTE_S,
    "Fe-52": 8.275 * HOUR_S,
    "Mn-52": 5.591 * DAY_S,
    "Mn-52m": 21.1 * MINUTE_S,
    "Cu-60": 23.7 * MINUTE_S,
    "Cu-61": 3.336 * HOUR_S,
    "Cu-62": 9.67 * MINUTE_S,
    "Zn-62": 9.193 * HOUR_S,
    "Cu-64": 12.7006 * HOUR_S,
    "Ga-66": 9.49 * HOUR_S,
    "Ga-68": 67.71 * MINUTE_S,
    "Ge-68": 270.95 * DAY_S,
    "As-70": 52.6 * MINUTE_S,
    "As-72": 26.0 * HOUR_S,
    "Se-73": 7.15 * HOUR_S,
    "Br-75": 96.7 * MINUTE_S,
    "Br-76": 16.2 * HOUR_S,
    "Br-77": 57.04 * HOUR_S,
    "Rb-82": 1.2575 * MINUTE_S,
    "Y-86": 14.74 * HOUR_S,
    "Zr-89": 78.41 * HOUR_S,
    "Nb-90": 14.60 * HOUR_S,
    "Y-90": 64.05 * HOUR_S,
    "Tc-94m": 52.0 * MINUTE_S,
    "I-124": 4.176 * DAY_S,
    "Tb-152": 17.5 * HOUR_S,
}
"""Half-life in seconds of the nuclides of PS3.16 CID 4020 "PET Radionuclide", after the Evaluated
Nuclear Structure Data File (ENSDF) of the National Nuclear Data Center. Those of N-13, O-15 and
F-18 are also those of the European Pharmacopoeia, 5.7, which has 20.385 min for C-11."""

HALF_LIFE_TOLERANCE = 0.02
"""Relative: headers round, and evaluations of one nuclide differ: ENSDF, ICRP Publication 107
and NUBASE2020 (doi 10.1088/1674-1137/abddae) by up to 2 % (Ga-66: 9.49 or 9.304 h; Sc-44: 4.042 or
3.97 h; Rb-82: 75.45 or 76.38 s), and all of theirs are taken. Nuclides of PET that are this close
are never taken for one another where one is named."""

OFF_BY = {"minutes": MINUTE_S, "hours": HOUR_S, "days": DAY_S, "milliseconds": 1e-3}
"""Units that a half-life is found in, and the seconds that each stands for."""

ELEMENTS = {
    **{"CARBON": "C", "NITROGEN": "N", "OXYGEN": "O", "FLUORINE": "F", "FLUOR": "F"},
    **{"SODIUM": "Na", "POTASSIUM": "K", "SCANDIUM": "Sc", "TITANIUM": "Ti", "MANGANESE": "Mn"},
    **{"IRON": "Fe", "COPPER": "Cu", "ZINC": "Zn", "GALLIUM": "Ga", "GERMANIUM": "Ge"},
    **{"ARSENIC": "As", "SELENIUM": "Se", "BROMINE": "Br", "RUBIDIUM": "Rb", "YTTRIUM": "Y"},
    **{"ZIRCONIUM": "Zr", "NIOBIUM": "Nb", "TECHNETIUM": "Tc", "IODINE": "I", "TERBIUM": "Tb"},
}
"""Symbols of the elements by their names, and of names that headers have beside these."""

SYMBOLS = {symbol.upper(): symbol for symbol in ELEMENTS.values()}

NAMED = (
    re.compile(r"(?<![0-9A-Z])(?P<mass>\d{2,3})\^?[- ]?(?P<element>[A-Z]+)"),
    re.compile(r"(?<![0-9A-Z])(?P<mass>\d{2,3}M)\^?[- ]?(?P<element>[A-Z]+)"),
    re.compile(r"(?<![A-Z])(?P<element>[A-Z]+)[- ]?\^?(?P<mass>\d{2,3}M?)(?![0-9A-Z])"),
)
"""``^18^Fluorine``, ``18F`` and ``68Ga-PSMA``; ``^94m^Technetium``; ``F-18``, ``Fluorine 18`` and
``Fluorodeoxyglucose F^18^``."""

FDG = re.compile(r"\bFDG\b|FLUORO-?DE(S?)OXY-?GLUCOSE|FLUDEOXYGLUCOSE")
"""Fluorodeoxyglucose, whose nuclide names often leave out."""


def nuclides_in(text: str) -> set[str]:
    """Return the nuclides of `HALF_LIFE_S` that a text names."""
    upper = text.upper()
    found = set()
    for pattern in NAMED:
        for match in pattern.finditer(upper):
            element = match["element"]
            symbol = ELEMENTS.get(element) or SYMBOLS.get(element)
            found.add(f"{symbol}-{match['mass'].lower()}")
    return found & HALF_LIFE_S.keys()


@cache
def _by_code() -> dict[str, str]:
    """Return the nuclides by their codes of PS3.16 CID 4020, in SNOMED CT, SNOMED RT and DCM."""
    by_code = {}
    for code in codes.cid4020.concepts.values():
        [nuclide] = nuclides_in(code.meaning)
        by_code[code.value] = nuclide
    older = _snomed_dict.mapping["SRT"]
    return by_code | {srt: by_code[sct] for srt, sct in older.items() if sct in by_code}


def _named(item: Dataset) -> tuple[str, ...]:
    """Return the nuclides that a radiopharmaceutical names by code, by the code's text or by its
    own name."""
    nuclides = item.get("RadionuclideCodeSequence") or []
    products = item.get("RadiopharmaceuticalCodeSequence") or []
    texts = [str(code.get("CodeMeaning") or "") for code in (*nuclides, *products)]
    texts.append(str(item.get("Radiopharmaceutical") or ""))
    found = {_by_code().get(str(plain(code.get("CodeValue")))) for code in nuclides}
    found |= {nuclide for text in texts for nuclide in nuclides_in(text)}
    if any(FDG.search(text.upper()) for text in texts):
        found.add("F-18")
    return tuple(sorted(nuclide for nuclide in found if nuclide))


def half_life(fields: Fields, notes: Notes) -> float:
    """Return the half-life in seconds, which is that of the nuclide.

    Args:
        fields: of the series.
        notes: gets a sentence where the series names no nuclide, or several.

    Raises:
        CaseFault: it is missing, or not that of a nuclide that the series names, or of any.
    """
    value = fields.positive("RadionuclideHalfLife", tracer=True)
    named = fields.one("the radionuclide", [_named(item) for item in fields.tracers()])
    fitting = [nuclide for nuclide in named or HALF_LIFE_S if _is_of(value, nuclide)]
    if not fitting:
        _refuse(fields, value, named)
    if len(named) != 1:
        text = f"{' and '.join(named)} are named as" if named else "Nothing is named as"
        notes.add(
            Decision.NUCLIDE_BY_HALF_LIFE,
            f"{text} the radionuclide; the half-life of {value:g} s is that of {fitting[0]}.",
        )
    return value


def _refuse(fields: Fields, value: float, named: tuple[str, ...]) -> NoReturn:
    """Refuse a half-life in seconds that is not that of what is named, and say what it may be."""
    own = " and ".join(f"that of {name} is {HALF_LIFE_S[name]:g} s" for name in named)
    looks = _looks_like(value, named or tuple(HALF_LIFE_S))
    others = [other for other in HALF_LIFE_S if _is_of(value, other)]
    if not looks and others:
        looks = f"; it is that of {others[0]}"
    fields.implausible(
        f"RadionuclideHalfLife is {value:g} s, but {own or 'no radionuclide of PET has that'}"
        f"{looks}; fix what is wrong."
    )


def _is_of(value: float, nuclide: str) -> bool:
    """Whether a half-life in seconds is that of a nuclide."""
    return abs(value / HALF_LIFE_S[nuclide] - 1) <= HALF_LIFE_TOLERANCE


def _looks_like(value: float, nuclides: Iterable[str]) -> str:
    """Say of a half-life in which unit it would be that of one of the nuclides."""
    for unit, seconds in OFF_BY.items():
        for nuclide in nuclides:
            if _is_of(value * seconds, nuclide):
                return f"; it looks like that of {nuclide} in {unit}"
    return ""
