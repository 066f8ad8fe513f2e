"""The unit of a feature, by its name, for readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from markupsafe import Markup

from jipflow.blocks import feature as named
from jipflow.blocks import span
from jipflow.radiomics.ibsi import feature_table

WORDS = {
    "1": "",
    "mm": "mm",
    "mm2": "mm²",
    "mm3": "mm³",
    "/mm": "1/mm",
    "ml": "mL",
    "I": "intensity",
    "I2": "intensity²",
    "I2.mm3": "intensity²·mm³",
    "I.mm3": "intensity·mm³",
    "I.ml": "intensity·mL",
}
"""What people read, by the unit of the table of features; ratios have none."""

OWN = {"volume_ml": "mL"}
"""Units of the columns that are of no feature class."""

ORIGINAL = "original"

_CLINICAL: ContextVar[Mapping[str, str]] = ContextVar("units of clinical variables")


@contextmanager
def clinical_units(units: Mapping[str, str]) -> Iterator[None]:
    """Let names of clinical variables have a unit in the block, in which a page is drawn.

    The unit of a feature follows from its name, that of a variable from the protocol alone, which
    an analysis that draws its cells does not have.

    Args:
        units: by the variable's name, empty where it has none; no feature has such a name.
    """
    token = _CLINICAL.set(units)
    try:
        yield
    finally:
        _CLINICAL.reset(token)


@cache
def unit_of(feature: str) -> str:
    """Return the unit of a feature as people write it; empty where it has none, or none is known.

    *Intensity* is the unit of the image: HU of CT, SUV of PET, none that is fixed of MR. That of a
    filtered image depends on the filter, so none is known.

    Args:
        feature: name of a column of ``features.parquet``.
    """
    if feature in OWN:
        return OWN[feature]
    image, _, rest = feature.partition("_")
    group, _, name = rest.partition("_")
    entry = feature_table().get(group, {}).get(name)
    if entry is None:
        return ""
    unit = str(entry["unit"])
    return "" if unit.startswith("I") and image != ORIGINAL else WORDS[unit]


def with_unit(feature: str) -> Markup:
    """Return the name of a feature or clinical variable and its unit, as pages show them."""
    known = _CLINICAL.get({})
    unit = known[feature] if feature in known else unit_of(feature)
    if not unit:
        return named(feature)
    return Markup("<span>{} {}</span>").format(named(feature), span(unit, "muted small"))
