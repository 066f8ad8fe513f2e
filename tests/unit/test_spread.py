"""A mean and a variance that would tell of few patients are found by the values' spread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jipflow.analyses.cells import Values
from jipflow.analyses.spread import dominated, few_differ, few_levels


def values_of(numbers, patients=None):
    ids = np.array([f"c{i:04d}" for i in range(len(numbers))], dtype=object)
    patients = ids if patients is None else np.array(patients, dtype=object)
    return Values(np.array(numbers, dtype=float), patients, ids, frozenset(ids))


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([3.0] * 6, True),
        ([0.0] * 6, True),
        ([0.1, *[0.1 + 1e-12] * 5], True),
        ([1e-300, *[0.0] * 5], True),
        ([0.0] * 9 + [1.0, 2.0, 3.0, 4.0], True),
        ([0.0] * 9 + [1.0, 2.0, 3.0, 4.0, 5.0], False),
        ([7.0] * 9 + [-1.0, -2.0, -3.0, 4.0], True),
        ([0.0] * 5 + [1.0], True),
        ([0.0] * 4 + [1.0, 2.0, 3.0], False),
        ([0.0] * 4 + [1.0], False),  # dominated
        (list(range(13)), False),
        ([1.0, 1.001, 1.002, 1.003, 1.004], False),
    ],
)
def test_all_but_few_have_one_value(numbers, found):
    assert few_differ(values_of(numbers), 5) is found


def test_of_patients_with_several_cases_those_count_who_have_another_value_too():
    numbers = [0.0] * 10 + [1.0] * 5
    people = [f"p{i}" for i in range(10)]
    assert not few_differ(values_of(numbers, [*people, *people[:5]]), 5)
    assert few_differ(values_of(numbers, [*people, *people[:4], "p0"]), 5)


def test_the_commonest_value_is_that_of_most_and_not_the_lowest():
    assert few_differ(values_of([0, 0, 1, 2, 3, 3, 3, 3, 3, 3]), 5)


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([0.0] * 12 + [8.0], True),  # one with a finding
        ([0.0] * 11 + [8.0, 7.0], True),  # two
        ([5.0] * 12 + [8.0], True),  # one beside all others at one value
        ([5.0] * 11 + [8.0, 2.0], True),
        ([-5.0] * 12 + [-8.0], True),
        ([1.0] * 12 + [1000.0], True),  # 11 others add 1.1 %
        ([10.0, 9.0, 0.5, 0.3, 0.2, 0.1], True),  # 95 % by two, 11 % by the others
        ([10.0, 7.0, 1.0, 1.0, 0.1], False),
        ([10.0, 0.4, 0.3, 0.2, 0.1], True),
        ([1100.0, 1200.0, 1300.0, 1400.0, 1500.0], False),
        ([-3.0, -1.0, 0.5, 2.0, 3.0], False),
    ],
)
def test_few_make_the_mean_or_the_scatter(numbers, found):
    assert dominated(values_of(numbers), 0.9, 10) is found


def test_each_threshold_holds_exactly():
    at_share = values_of([50.0, 40.0, 4.0, 3.0, 2.0, 1.0])
    assert not dominated(at_share, 0.9, 10)
    assert dominated(at_share, 0.899, 10)
    by_magnitude = values_of([100.0, 60.0, 5.0, -5.0, -5.0])
    assert not dominated(by_magnitude, 1, 14.9)
    assert dominated(by_magnitude, 1, 16)
    at_p = values_of([100.0, -100.0, 5.0, -5.0, 0.0, 3.0, -2.0])
    assert not dominated(at_p, 1, 15)
    assert dominated(at_p, 1, 15.1)
    distances = values_of([0.0, 0.0, 0.0, 100.0, 90.0, 10.0, -10.0, 0.0, 0.0])
    assert not dominated(distances, 1, 20)
    assert dominated(distances, 1, 20.1)


def test_the_cases_of_one_patient_are_one_contribution():
    numbers = [30.0, 30.0, 30.0, 20.0, 4.0, 3.0, 2.0, 1.0]
    assert not dominated(values_of(numbers), 0.9, 10)
    people = ["a", "a", "a", *"bcdef"]
    assert dominated(values_of(numbers, people), 0.9, 10)


def test_a_sum_that_is_all_ones_dominated_by_none():
    assert not dominated(values_of(np.random.default_rng(0).normal(50, 10, 13)), 0.9, 10)


def multisets(numbers):
    """Return every multiset of whole numbers that has the sums of these and of their squares."""
    k, total, squares = len(numbers), sum(numbers), sum(n * n for n in numbers)
    found = []

    def fill(chosen, least, left, left_squares):
        if len(chosen) == k:
            found.extend([tuple(chosen)] if left == left_squares == 0 else [])
            return
        for n in range(least, left + 1):
            if n * n > left_squares:
                return
            fill([*chosen, n], n, left - n, left_squares - n * n)

    fill([], 0, total, squares)
    return found


@pytest.mark.parametrize(
    "numbers", [[0, 0, 1, 2, 3], [0, 1, 1, 1, 2, 2, 4], [1] * 12 + [2], [0, 1, 2, 3, 9]]
)
def test_small_whole_numbers_follow_from_their_mean_and_variance(numbers):
    """The attack: all multisets with these sums are these numbers, or a handful more."""
    assert len(multisets(numbers)) <= 3
    assert few_levels(values_of(numbers), 5)
    assert few_levels(values_of([0.25 * n + 7 for n in numbers]), 5)


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([0] * 6 + [1] * 7, False),  # enough on each level
        ([0] * 5 + [1] * 8, False),
        ([0, 13, 37, 71, 100], True),
        ([1e20 * n for n in (1, 2, 3, 5, 8)], True),
        ([0] * 6 + [1] * 4 + [2] * 6, True),
        ([0] * 900 + [1] * 96 + [2] * 4, True),
        (list(np.random.default_rng(1).normal(0, 1, 13)), False),
        (list(np.random.default_rng(1).integers(0, 200, 13)), False),
        (list(np.random.default_rng(1).integers(0, 10**6, 5)), False),
        ([1e6 + n for n in (0, 0, 1, 2, 3)], True),
        ([1e300, 2e300, 3e300, 5e300, 7e300], True),
    ],
)
def test_levels(numbers, found):
    assert few_levels(values_of(numbers), 5) is found


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=20))
def test_any_values_have_an_answer(numbers):
    values = values_of(numbers)
    assert few_differ(values, 5) in (True, False)
    assert dominated(values, 0.9, 10) in (True, False)
    assert few_levels(values, 5) in (True, False)
