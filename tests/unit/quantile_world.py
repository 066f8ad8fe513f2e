"""Rounds of quantiles over simulated sites, without files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jipflow.analyses.cells import CellKey, Values
from jipflow.analyses.contract import Proposed
from jipflow.analyses.facts import Limits
from jipflow.analyses.quantiles import Asked, Quantiles, Settings, Split
from jipflow.analyses.rules import Passed
from jipflow.settings.protocol import Disclosure

KEY = CellKey("CT", "organs", "liver", "volume_ml")
FIVE = Disclosure(min_patients=5)


def quantiles(id="spread", variable="volume_ml", **changes):
    content = {
        "id": id,
        "kind": "quantiles",
        "variables": [f"CT.{variable}"],
        "quantiles": [0.25, 0.5, 0.75],
        "low": 0,
        "high": 100,
        "bins": 10,
        "rounds": 4,
    }
    return Quantiles(Settings.model_validate(content | changes))


def values_of(numbers, patients=None):
    """Return values, each of a case and a patient of its own unless patients are named."""
    ids = np.array([f"c{i:04d}" for i in range(len(numbers))], dtype=object)
    patients = [f"p{i:04d}" for i in range(len(numbers))] if patients is None else patients
    return Values(
        np.array(numbers, dtype=float), np.array(patients, dtype=object), ids, frozenset(ids)
    )


def proposed(analysis, values, stated=None, feature="volume_ml"):
    content = analysis.compute(values, stated)
    return Proposed(analysis, KEY._replace(feature=feature), values, content)


def cell(analysis, checked, values):
    """Return what leaves of a cell, or None."""
    if not isinstance(checked, Passed):
        return None
    patients = len(set(values.patients))
    return analysis.cell.model_validate({**KEY._asdict(), "n": patients, **checked.numbers})


def sent(analysis, values, stated=None, disclosure=FIVE):
    """Return the cell of a site, as the hub has checked it, or None."""
    patients = len(set(values.patients))
    found = cell(
        analysis, analysis.check(analysis.compute(values, stated), patients, disclosure), values
    )
    if found:
        cases = max(np.unique(values.patients.astype(str), return_counts=True)[1])
        analysis.verify(found, Limits(disclosure.min_patients, int(cases), stated=stated))
    return found


@dataclass
class Ended:
    """What a hub has after the last round: cells by site, the merged one, how many rounds."""

    by_site: dict
    merged: dict
    rounds: int


def federation(analysis, sites, disclosure=FIVE):
    """Carry out all rounds."""
    stated = None
    for round_ in range(1, analysis.rounds + 1):
        if stated is not None:
            analysis.check_stated(stated, round_)
        cells = {name: sent(analysis, values, stated, disclosure) for name, values in sites.items()}
        cells = {name: found for name, found in cells.items() if found}
        merged = analysis.merge(cells, stated)
        following = analysis.advance(round_, cells, stated) if round_ < analysis.rounds else None
        if following is None:
            return Ended(cells, merged, round_)
        stated = following
    raise AssertionError


def asked(*splits):
    """Return what a hub states: leaves by round."""
    rounds = [[Split(level=level, bin=number) for level, number in split] for split in splits]
    return Asked(**KEY._asdict(), splits=rounds)
