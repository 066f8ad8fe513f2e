"""What docs say of how exact analyses over sites are is what was measured, of every kind."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import exactness
from jipflow.analyses.contract import kinds, rules_of_kinds
from jipflow.files import read_json
from jipflow.release.gate import all_rules

RESULT = read_json(Path(exactness.__file__).parent / "results" / "exactness.json")
ROWS = [dict(zip(RESULT["columns"], row, strict=True)) for row in RESULT["rows"]]
SIMULATED = ["3 sites", "10 sites", "50 sites"]
REAL = ["15 tumours, 5 a site", "420 parts of these tumours"]
NOT_EXACT = {"noisy_mean", "missing"}
"""Kinds of which all rows in one place give other numbers: noise is added, or few are left out."""


def difference(cell):
    """Return the largest number of a cell but of p values, and that of these; or None."""
    if not isinstance(cell, str):
        return cell, cell
    found = re.match(r"(\d\.\de-\d+)(?:, p values (\d\.\de-\d+))?(?:; withheld: .*)?$", cell)
    return (float(found[1]), float(found[2] or found[1])) if found else None


def test_every_kind_is_in_the_table():
    assert {row["kind"] for row in ROWS} == set(kinds()) - NOT_EXACT
    assert {(row["kind"], row["what"]) for row in ROWS} == {
        (case.kind, case.title) for case in exactness.CASES
    }
    assert any("noisy_mean" in note for note in RESULT["notes"])


def test_every_kind_equals_its_peer_over_3_10_and_50_sites():
    for row in ROWS:
        assert row["numbers"] >= 15
        for column in SIMULATED:
            assert difference(row[column]) is not None, (row["kind"], column)


def test_no_number_differs_by_more_than_is_claimed():
    above = set()
    for row in ROWS:
        for name in (*SIMULATED, exactness.FAR_COLUMN, *REAL):
            number, tail = difference(row[name]) or (0, 0)
            assert number <= exactness.LIMIT, (row["kind"], name)
            assert tail <= 1e-6
            if tail > exactness.LIMIT:
                above.add(row["kind"])
    assert above <= set(exactness.WORSE)
    for kind, reason in exactness.WORSE.items():
        assert any(kind in note and reason in note for note in RESULT["notes"])


def test_what_is_not_there_is_named():
    codes = {rule.code for rule in (*all_rules(), *rules_of_kinds())}
    for row in ROWS:
        for column in (*SIMULATED, *REAL, exactness.FAR_COLUMN):
            if isinstance(row[column], str) and "withheld" in row[column]:
                named = re.findall(r"(\w+) at \d+", row[column])
                assert named
                assert set(named) <= codes
            elif difference(row[column]) is None:
                moves = [c.moves for c in exactness.CASES if c.kind == row["kind"]]
                assert (row[column], column) == ("no such variable", exactness.FAR_COLUMN)
                assert not any(moves)


EXPECTED = {"cells": [{"n": 3, "terms": [{"estimate": 2.0, "p": 0.5}], "median": None}]}


def result(**changes):
    term = {"term": "age", "estimate": 2.0, "p": 0.5, **changes}
    cell = {"feature": "x", "sites": ["a"], "n": 3, "terms": [term], "median": None}
    return {"kind": "linear", "cells": [cell]}


def test_each_number_is_compared():
    found = list(exactness.differences(result(), EXPECTED))
    assert found == [
        (0.0, ".cells[0].n"),
        (0.0, ".cells[0].terms[0].estimate"),
        (0.0, ".cells[0].terms[0].p"),
    ]
    worst = max(exactness.differences(result(p=0.5 + 1e-6), EXPECTED))
    assert worst == (pytest.approx(2e-6), ".cells[0].terms[0].p")


@pytest.mark.parametrize(
    "wrong",
    [
        {**result(), "test": {"statistic": 1.0}},
        {**result(), "cells": []},
        {**result(), "cells": [{**result()["cells"][0], "median": 4.0}]},
        result(p=None),
        result(low=[1.0]),
    ],
)
def test_a_number_without_a_peer_stops_the_benchmark(wrong):
    with pytest.raises(ValueError, match=r"for|no peer"):
        list(exactness.differences(wrong, EXPECTED))


def test_simulated_patients_are_moved_without_loss():
    near, far = exactness.simulated(3), exactness.simulated(3, far=True)
    assert [len(rows) for rows in far.sites.values()] == [120, 164, 310]
    for column, offset in far.offsets.items():
        moved = far.near[column].dropna()
        assert abs(moved.mean()) < 1e-6
        assert moved.std() == pytest.approx(1, rel=1e-5)
        assert (moved * 2**20 == (moved * 2**20).round()).all()
        assert offset == 1e8
        assert (near.near[column].isna() == far.near[column].isna()).all()
