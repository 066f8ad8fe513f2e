"""How a kind of analysis is asked for, and the rows and numbers that peers start from.

Peers see the rows without what was added to columns (`Patients.offsets`): float64 has these to the
last digit, so that what they find is right although their sums of squares would not be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from exactness_patients import MEAN, STAGES, Patients
from exactness_sites import ROLE

Found = Mapping[str, Any]
Pooled = Callable[[Patients, Found], dict[str, Any]]
"""Returns what the result is to be, with its structure, of patients and the analysis."""
Entry = Callable[[Patients], dict[str, Any]]
VARIABLES = {"variables": [f"{ROLE}.{MEAN}"]}
SEX = {"variable": "clinical.sex", "values": ["F", "M"], "reference": "M"}
STAGE = {"variable": "clinical.stage", "values": STAGES, "reference": "I"}
SEXES = {"of": "clinical.sex", "groups": {"women": "F", "men": "M"}}
AGE, YEARS = 60, 10
"""Center and unit of age in models; where 10⁸ was added, this is the center."""


class Of(NamedTuple):
    """A number that may be near 0, and what its difference is a share of."""

    value: float
    unit: float


@dataclass(frozen=True)
class Case:
    """A kind as it is asked for.

    Attributes:
        kind: of the analysis.
        title: what is asked for.
        peer: who has the pooled answer.
        entry: returns the entry of the protocol.
        pooled: returns what the result is to be, with its structure.
        repeats: names of numbers of the result that repeat others, or that the protocol gave.
        moves: whether it is of variables to which 10⁸ can be added.
    """

    kind: str
    title: str
    peer: str
    entry: Entry
    pooled: Pooled
    repeats: frozenset[str] = frozenset()
    moves: bool = True


def entry_of(kind: str, **more: Any) -> Entry:
    return lambda patients: {"id": "analysis", "kind": kind, **VARIABLES, **more}


def rows_of(patients: Patients, cell: Found, *columns: str) -> pd.DataFrame:
    """Return the rows of the sites of a cell that have all columns, without what was added."""
    near = patients.near
    rows = near[near["site"].isin(cell["sites"])]
    if cell["group"]:
        rows = rows[rows["sex"] == SEXES["groups"][cell["group"]]]
    return rows.dropna(subset=list(columns))


def moments_of(values: pd.Series | np.ndarray, offset: float = 0.0) -> dict[str, Any]:
    described = stats.describe(np.asarray(values))
    return {
        "n": described.nobs,
        "rows": described.nobs,
        "mean": described.mean + offset,
        "variance": described.variance,
        "sd": np.sqrt(described.variance),
    }


def moments_by_site(
    values: pd.Series, sites: pd.Series, offset: float = 0.0
) -> list[dict[str, Any]]:
    return [moments_of(each, offset) for _, each in values.groupby(sites)]


def age_of(patients: Patients) -> dict[str, Any]:
    center = patients.offsets.get("age", float(AGE))
    return {"variable": "clinical.age", "center": center, "scale": YEARS}


def columns_of(patients: Patients, rows: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Return columns in the units of models, without what was added to those that have no center.

    Args:
        patients: of the sites.
        rows: of them.
        names: of the columns, of which categories become indicators.
    """
    found = {}
    for name in names:
        if name == "age":
            center = age_of(patients)["center"] - patients.offsets.get("age", 0.0)
            found[name] = (rows["age"] - center) / YEARS
        elif name == "sex":
            found["sex=F"] = (rows["sex"] == "F") * 1.0
        elif name == "stage":
            found |= {f"stage={s}": (rows["stage"] == s) * 1.0 for s in STAGES[1:]}
        else:
            found[name] = rows[name]
    return pd.DataFrame(found)
