"""The gate's rules of the minimum and of dominance, beside what acro finds for the same values.

acro.json is written by benchmarks/acro_reference.py, in an environment that has acro.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jipflow.analyses.cells import CellKey, Values
from jipflow.analyses.contract import Proposed
from jipflow.analyses.moments import DOMINANCE, NUMBER_RANGE, ZERO_VARIANCE
from jipflow.analyses.rules import Finding
from jipflow.analyses.spread import dominated
from jipflow.analyses.summary import Settings, Summary
from jipflow.release.gate import MIN_PATIENTS, decide
from jipflow.release.saturation import Regions
from jipflow.settings.protocol import Disclosure

REFERENCE = json.loads((Path(__file__).parent / "acro.json").read_text())
SETTINGS = REFERENCE["settings"]
CELLS = [(np.array(cell["values"]), set(cell["fails"])) for cell in REFERENCE["cells"]]
LIMITS = Disclosure(
    min_patients=SETTINGS["safe_threshold"],
    largest_two=SETTINGS["safe_nk_k"],
    p_percent=100 * SETTINGS["safe_pratio_p"],
)
SUMMARY = Summary(Settings(id="a", kind="summary", variables=["CT.volume_ml"]))


def values_of(numbers):
    names = np.array([f"p{i:02d}" for i in range(numbers.size)], dtype=object)
    return Values(numbers, names, names, frozenset(names))


def decided(numbers):
    """Return what each rule of the gate finds for a mean of values, a patient each."""
    values = values_of(numbers)
    cell = Proposed(
        SUMMARY, CellKey("CT", "a", "liver", "volume_ml"), values, SUMMARY.compute(values)
    )
    (decision,) = decide([cell], {name: name for name in values.cases}, LIMITS, Regions())
    return decision.findings


def shares(numbers):
    """Return the share of the first two, and what all others add in shares of the first."""
    ranked = np.sort(numbers)[::-1]
    total = ranked.sum()
    return (ranked[:2].sum() / total if total else np.nan), (
        ranked[2:].sum() / ranked[0] if total else np.nan
    )


def test_the_reference_has_cells_of_every_finding():
    assert SETTINGS["safe_nk_n"] == 2
    found = [fails for _, fails in CELLS]
    assert sum(not fails for fails in found) > 30
    for name in ("few", "nk", "p_percent"):
        assert sum(name in fails and "few" not in fails - {name} for fails in found) > 5


def test_a_minimum_withholds_the_same_cells():
    for numbers, fails in CELLS:
        few = decided(numbers)[MIN_PATIENTS] == Finding.WITHHELD
        assert few == ("few" in fails), numbers


def test_every_cell_that_acro_finds_dominated_is_withheld():
    """By dominance; or before it, where all values but a few are one and the same.

    Where the share of two is the limit itself, acro fails the cell, and the gate's limit is the
    largest share that may leave.
    """
    for numbers, fails in CELLS:
        if "few" in fails or not fails & {"nk", "p_percent"}:
            continue
        share, _ = shares(numbers)
        if fails == {"nk"} and share == pytest.approx(LIMITS.largest_two, rel=1e-12):
            continue
        found = decided(numbers)
        withheld = [rule for rule, f in found.items() if f == Finding.WITHHELD]
        assert withheld in ([DOMINANCE], [ZERO_VARIANCE], [NUMBER_RANGE]), numbers
        if numbers.any():
            assert dominated(values_of(numbers), LIMITS.largest_two, LIMITS.p_percent)


def test_what_only_the_gate_finds_dominated_is_by_distances_from_the_median():
    """acro sums the values themselves; the gate looks at their distances as well."""
    more = 0
    for numbers, fails in CELLS:
        if "few" in fails or fails & {"nk", "p_percent"}:
            continue
        if dominated(values_of(numbers), LIMITS.largest_two, LIMITS.p_percent):
            _, rest = shares(np.abs(numbers - np.median(numbers)))
            assert rest < LIMITS.p_percent / 100, numbers
            more += 1
    assert more


def test_zeros_alone_are_no_amount():
    """acro calls a sum of 0 dominated by nobody; the gate withholds it, for all values are one."""
    zeros = np.zeros(12)
    assert decided(zeros)[ZERO_VARIANCE] == Finding.WITHHELD
