"""Every feature of IBSI that is computed has IBSI's reference value, in every configuration."""

from __future__ import annotations

import sys

import pytest

from jipflow.settings.resources import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from ibsi_reference import Consensus, measured_phantoms

PER_SLICE = "_2D"
CONSTANT = "ngl_dc_perc"
"""Is 1 by definition where every voxel counts."""


@pytest.fixture(scope="module")
def phantoms(shared_data):
    return measured_phantoms(shared_data)


@pytest.mark.parametrize(
    ("name", "number"),
    [("digital", 344), ("A", 209), ("B", 209), ("C", 209), ("D", 209), ("E", 209)],
)
def test_every_value_is_within_ibsis_tolerance(phantoms, name, number):
    values, expected = phantoms[name]
    compared = values.keys() & expected.keys()
    wrong = {
        tag: (values[tag], expected[tag])
        for tag in compared
        if values[tag] is None or not expected[tag].holds(values[tag])
    }
    assert wrong == {}
    assert len(compared) == number


def test_what_is_missing_is_known(phantoms):
    values, expected = phantoms["digital"]
    missing = {tag for tag in expected.keys() - values.keys() if PER_SLICE not in tag}
    assert missing == {f"{CONSTANT}_3D", f"{CONSTANT}_2_5D"}
    assert sum(PER_SLICE in tag for tag in expected.keys() - values.keys()) == 136


@pytest.mark.parametrize(
    ("value", "consensus", "holds"),
    [
        (559.9, Consensus(556, 4), True),
        (561.1, Consensus(556, 4), False),
        (2.1486, Consensus(2.15, 0), True),
        (2.1436, Consensus(2.15, 0), False),
        (0.0, Consensus(0, 0), True),
        (0.01, Consensus(0, 0), False),
        (-0.3549, Consensus(-0.355, 0), True),
    ],
)
def test_tolerance(value, consensus, holds):
    assert consensus.holds(value) is holds
