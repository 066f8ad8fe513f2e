"""Histograms count everyone, and tell of no small group."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jipflow.analyses.contract import Passed
from jipflow.analyses.histogram import Histogram, Settings, bin_index, bins_to_hide, hides


def histogram(edges):
    return Histogram(
        Settings(id="volumes", kind="histogram", variables=["CT.volume_ml"], edges=edges)
    )


@pytest.mark.parametrize("edges", [[0, 1, 1], [0, 2, 1]])
def test_edges_that_do_not_rise_are_named(edges):
    assert list(histogram([0, 1, 2]).settings.problems()) == []
    assert list(histogram(edges).settings.problems()) == ["edges must rise strictly."]


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-50, 50) | st.integers(-5, 5).map(float), min_size=1, max_size=200),
    edges=st.lists(st.integers(-5, 5), min_size=2, max_size=8, unique=True).map(sorted),
)
def test_bins_are_those_of_numpy_and_nothing_vanishes(values, edges):
    values = np.array(values)
    counts = np.bincount(bin_index(values, edges), minlength=len(edges) + 1)
    inside = values[(values >= edges[0]) & (values <= edges[-1])]
    assert counts[1:-1].tolist() == np.histogram(inside, edges)[0].tolist()
    assert counts[0] == (values < edges[0]).sum()
    assert counts[-1] == (values > edges[-1]).sum()


def test_edges_belong_to_the_upper_bin_save_the_last():
    assert bin_index(np.array([0.0, 1.0, 2.0, 2.1, -0.1]), [0, 1, 2]).tolist() == [1, 2, 2, 3, 0]


def shown(*counts):
    """Return what leaves of bins with that many patients, the minimum being 5."""
    ids = iter(range(1000))
    bins = [frozenset(next(ids) for _ in range(c)) for c in counts]
    checked = histogram(list(range(len(bins) - 1))).check(bins, sum(counts), 5)
    if not isinstance(checked, Passed):
        return None
    numbers = checked.numbers
    return [numbers["under"], *numbers["counts"], numbers["over"]]


def test_full_and_empty_bins_are_shown():
    assert shown(0, 7, 9, 0) == [0, 7, 9, 0]


def test_one_small_bin_takes_the_smallest_other_along():
    assert shown(0, 3, 20, 6, 9, 0) == [0, None, 20, None, 9, 0]


def test_small_bins_that_sum_to_little_take_another_along():
    assert shown(0, 1, 2, 20, 7) == [0, None, None, 20, None]


def test_small_bins_that_hide_each_other_suffice():
    assert shown(0, 4, 4, 20) == [0, None, None, 20]


def test_many_bins_of_one_patient_each_take_another_along():
    """Six bins share six patients: each must hold exactly one."""
    assert shown(1, 1, 1, 1, 1, 1, 20, 30) == [None] * 7 + [30]


def test_a_histogram_that_cannot_be_hidden_is_withheld():
    assert shown(0, 2, 6, 0) is None


def consistent(counts, patients):
    """Return every way to fill the withheld bins, at least one in each."""
    hidden = [i for i, c in enumerate(counts) if c is None]
    rest = patients - sum(c for c in counts if c is not None)
    if not hidden:
        return
    for split in itertools.product(range(1, rest + 1), repeat=len(hidden) - 1):
        if sum(split) < rest:
            yield dict(zip(hidden, (*split, rest - sum(split)), strict=True))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=3, max_size=6), st.integers(5, 7))
def test_no_small_bin_follows_from_the_others(counts, minimum):
    hidden = bins_to_hide(counts, sum(counts), minimum)
    if hidden is None:
        return
    view = [None if i in hidden else c for i, c in enumerate(counts)]
    assert all(c is None or c == 0 or c >= minimum for c in view)
    assert hides(view, sum(counts), minimum)
    worlds = list(consistent(view, sum(counts)))
    for i in hidden:
        possible = {world[i] for world in worlds}
        assert counts[i] in possible
        assert min(possible) < minimum <= max(possible)
        assert len(possible) >= minimum


def test_a_bin_of_exactly_the_minimum_is_shown():
    assert shown(0, 5, 6, 0) == [0, 5, 6, 0]
    assert shown(0, 4, 6, 0) is None
    assert shown(0, 3, 5, 20) == [0, None, None, 20]


def test_a_patient_may_be_in_several_bins():
    """Ten patients with two cases each fill two bins of ten; nothing is to be hidden."""
    everyone = frozenset(range(10))
    checked = histogram([0, 1, 2]).check([frozenset(), everyone, everyone, frozenset()], 10, 5)
    assert checked.numbers["counts"] == [10, 10]
    # Of twelve patients, eleven show in a bin; whoever else is in the others cannot be hidden.
    more = frozenset(range(11))
    bins = [frozenset(), more, frozenset({10, 11}), frozenset()]
    assert not isinstance(histogram([0, 1, 2]).check(bins, 12, 5), Passed)
