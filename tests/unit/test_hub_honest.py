"""What the gate of a site lets out, whatever its patients have, the hub believes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from jipflow.analyses import histogram, summary
from jipflow.analyses.cells import CellKey, Values
from jipflow.analyses.contract import ImpossibleCell
from jipflow.analyses.facts import Implied, Limits
from jipflow.analyses.moments import largest_scatter, least_scatter, moments
from jipflow.analyses.rules import Passed
from jipflow.analyses.spread import SPREAD
from jipflow.settings.bounds import bounds
from jipflow.settings.protocol import Disclosure

MINIMUM = 5
FEATURES = ("volume_ml", "original_shape_Sphericity", "original_firstorder_Mean")


def spread(kind, low, high, rows, rng):
    """Values between bounds, some of the kinds that come close to them."""
    width = 1 if math.isinf(high) else high - low
    start = 0 if math.isinf(low) else low
    values = {
        "even": start + width * rng.random(rows),
        "two": np.where(rng.random(rows) < 0.5, start, start + width),
        "near": start + width * (1 - 1e-6 * rng.random(rows)),
        "wide": start + width * rng.random(rows) ** 8,
        "equal but rounding": np.full(rows, start + width / 3) + 1e-16 * rng.random(rows),
    }[kind]
    return np.clip(values, low, high)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    feature=st.sampled_from(FEATURES),
    kind=st.sampled_from(["even", "two", "near", "wide", "equal but rounding"]),
    scale=st.sampled_from([1.0, 1e-9, 1e-3, 1e6, 1e12]),
    offset=st.sampled_from([0.0, 1.0, 1e8]),
    patients=st.integers(MINIMUM, 60),
    studies=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_the_gate_lets_out_is_believed(feature, kind, scale, offset, patients, studies, seed):
    rng = np.random.default_rng(seed)
    low, high = bounds("CT", feature)
    rows = 2 * patients if studies else patients
    numbers = spread(kind, low, high, rows, rng)
    if math.isinf(high):
        numbers = numbers * scale + offset
    names = np.array([f"p{i % patients}" for i in range(rows)], dtype=object)
    case_ids = np.array([f"c{i}" for i in range(rows)], dtype=object)
    values = Values(numbers, names, case_ids, frozenset(case_ids))
    edges = sorted({float(x) for x in np.quantile(numbers, [0, 0.3, 0.6, 1])})
    assume(len(edges) >= 3)
    limits = Limits(MINIMUM, 1000 if studies else 1, low, high)
    implied = []
    for module, own in ((summary, {"kind": "summary"}), (histogram, {"edges": edges})):
        chosen = {"id": "a", "kind": "histogram", "variables": ["CT.*"]} | own
        analysis = (module.Summary if module is summary else module.Histogram)(
            module.Settings(**chosen)
        )
        checked = analysis.check(analysis.compute(values), patients, Disclosure(min_patients=5))
        if isinstance(checked, Passed):
            key = CellKey("CT", "organs", "liver", feature)
            cell = module.Cell(**key._asdict(), n=patients, **checked.numbers)
            analysis.verify(cell, limits)
            implied.append(analysis.implies(cell, limits))
            parts = {rule: list(names) for rule, names in checked.parts.items() if names}
            assert {rule: names for rule, names in analysis.parts(cell).items() if names} == parts
    assert not implied or Implied.agree(implied)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0, 0, 0, 1], 0, 1),
        ([0, 0, 0, 0, 12], 0, math.inf),
        ([0, 1, 1, 1], 0, 1),
        ([-3, 4, 4], -math.inf, 4),
    ],
)
def test_the_largest_scatter_is_reached(values, low, high):
    found = moments(np.array(values, float))
    most = largest_scatter(found.rows, found.mean - low, high - found.mean)
    assert found.m2 == pytest.approx(most, rel=1e-6)
    assert found.m2 <= most
    assert largest_scatter(found.rows, math.inf, math.inf) == math.inf


def test_moments_beyond_the_bounds_are_not_believed():
    analysis = summary.Summary(summary.Settings(id="a", kind="summary", variables=["CT.*"]))
    key = CellKey("CT", "organs", "liver", "original_shape_Sphericity")

    def verify(**numbers):
        given = {"n": 10, "rows": 10, "mean": 0.5, "mean_rest": 0.0, "m2": 1.0} | numbers
        analysis.verify(summary.Cell(**key._asdict(), **given), Limits(5, 1, 0, 1))

    verify()
    verify(m2=2.5)
    verify(mean=1 - 1e-3, m2=8e-5)
    for numbers in ({"m2": 2.6}, {"mean": 1.1}, {"mean": -0.1}, {"mean": 1 - 1e-3, "m2": 1e-4}):
        with pytest.raises(ImpossibleCell):
            verify(**numbers)


@pytest.mark.parametrize(
    ("mean", "rows", "agree"),
    [
        ((0.0, 0.0), (10, 10), True),
        ((-1.0, 0.0), (10, 10), True),
        ((1e-6, 2.0), (10, 10), False),
        ((-math.inf, math.inf), (11, math.inf), False),
        ((-math.inf, math.inf), (5, 9), False),
        ((-math.inf, math.inf), (5, 10), True),
    ],
)
def test_what_two_cells_imply_may_be_of_the_same_values(mean, rows, agree):
    assert Implied.agree([Implied((0.0, 0.0), (10, 10)), Implied(mean, rows)]) == agree


def test_rounding_is_no_contradiction():
    low = 0.1 + 0.2
    assert low > 0.3
    found = [Implied((0.3, 0.3), (9, 9)), Implied((low, 1.0), (9, 9))]
    assert Implied.agree(found)
    assert not Implied.agree([found[0], Implied((0.3 + 1e-8, 1.0), (9, 9))])


@pytest.mark.parametrize("mean", [1e10, -1e10, 1e-3])
def test_values_that_are_just_not_equal_are_believed(mean):
    """Two values that differ by a little more, and less, than those that count as equal."""
    for share, believed in ((1.05, True), (0.95, False)):
        found = moments(np.array([mean, mean + share * SPREAD * abs(mean)]))
        assert (found.m2 > least_scatter(found.mean)) == believed


def test_a_value_at_its_bound_may_lie_in_the_bin_above():
    """A bin holds its lower edge: a sphericity of 1 is in the bin from 1 to 2."""
    chosen = {"id": "a", "kind": "histogram", "variables": ["CT.*"], "edges": [0, 0.5, 1, 2]}
    analysis = histogram.Histogram(histogram.Settings(**chosen))
    key = CellKey("CT", "organs", "liver", "original_shape_Sphericity")
    counts = {"n": 16, "under": 0, "counts": [8, 0, 8], "over": 0}
    cell = histogram.Cell(**key._asdict(), **counts)
    analysis.verify(cell, Limits(5, 1, 0, 1))
    assert analysis.implies(cell, Limits(5, 1, 0, 1)).mean == (0.5, 0.75)
    with pytest.raises(ImpossibleCell):
        analysis.verify(cell, Limits(5, 1, 0, 0.9))


def test_no_value_lies_below_its_bound():
    """A bin does not hold its upper edge: no volume from 0 on is in the bin up to 0."""
    chosen = {"id": "a", "kind": "histogram", "variables": ["CT.*"], "edges": [-1, 0, 5]}
    analysis = histogram.Histogram(histogram.Settings(**chosen))
    key = CellKey("CT", "organs", "liver", "volume_ml")
    counts = {"n": 16, "under": 0, "counts": [8, 8], "over": 0}
    cell = histogram.Cell(**key._asdict(), **counts)
    analysis.verify(cell, Limits(5, 1, -0.1, 5))
    with pytest.raises(ImpossibleCell):
        analysis.verify(cell, Limits(5, 1, 0, 5))


@pytest.mark.parametrize(("more", "sound"), [(0, True), (1, False)])
def test_patients_are_in_no_more_bins_than_they_have_cases(more, sound):
    chosen = {"id": "a", "kind": "histogram", "variables": ["CT.*"], "edges": [0, 1, 2, 3]}
    analysis = histogram.Histogram(histogram.Settings(**chosen))
    key = CellKey("CT", "organs", "liver", "volume_ml")
    counts = {"n": 16, "under": 0, "counts": [11, 11, 10 + more], "over": 0}
    cell = histogram.Cell(**key._asdict(), **counts)
    if sound:
        analysis.verify(cell, Limits(5, 2, 0, 9))
    else:
        with pytest.raises(ImpossibleCell):
            analysis.verify(cell, Limits(5, 2, 0, 9))
