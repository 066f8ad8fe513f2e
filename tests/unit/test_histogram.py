"""Histograms count everyone, and tell of no small group."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jipflow.analyses.bins import SAME_BINS, bin_index, bins_to_hide, hides, tells
from jipflow.analyses.cells import CellKey
from jipflow.analyses.contract import Proposed
from jipflow.analyses.histogram import (
    MANY_BINS,
    ONE_BIN,
    SMALL_BINS,
    Histogram,
    Settings,
)
from jipflow.analyses.rules import Passed
from jipflow.settings.protocol import Disclosure
from quantile_world import values_of

FIVE = Disclosure(min_patients=5)


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


def filled(*counts):
    """Return values of that many patients in each bin of the edges 0, 1, 2, ..."""
    return values_of([i - 0.5 for i, count in enumerate(counts) for _ in range(count)])


def bins(checked):
    """Return what leaves of a histogram, or the rule that withheld it."""
    if not isinstance(checked, Passed):
        return checked.rule
    numbers = checked.numbers
    hidden = [n is None for n in (numbers["under"], *numbers["counts"], numbers["over"])]
    names = ["under", *range(len(numbers["counts"])), "over"]
    assert checked.parts == {SMALL_BINS: [n for n, h in zip(names, hidden, strict=True) if h]}
    return [numbers["under"], *numbers["counts"], numbers["over"]]


def shown(*counts):
    """Return what leaves of bins with that many patients, the minimum being 5."""
    analysis = histogram(list(range(len(counts) - 1)))
    return bins(analysis.check(filled(*counts), sum(counts), FIVE))


def test_full_bins_are_shown_and_empty_ones_that_follow_from_them():
    assert shown(0, 7, 9, 0) == [0, 7, 9, 0]


def test_empty_bins_are_withheld_like_small_ones():
    """Three patients are in one of five bins, and nothing tells in which."""
    assert shown(0, 0, 3, 0, 20, 9, 0) == [None, None, None, None, 20, None, None]
    assert shown(3, 0, 0, 0, 20, 9, 0) == shown(0, 0, 3, 0, 20, 9, 0)


def test_one_small_bin_takes_the_smallest_other_along():
    assert shown(0, 3, 20, 6, 9, 0) == [None, None, 20, None, 9, None]


def test_small_bins_that_sum_to_little_take_another_along():
    assert shown(0, 1, 2, 20, 7) == [None, None, None, 20, None]


def test_of_equals_the_first_goes_along():
    assert shown(0, 1, 20, 7, 7) == [None, None, 20, None, 7]


def test_small_bins_that_hide_each_other_suffice():
    assert shown(0, 4, 4, 20) == [None, None, None, 20]
    assert shown(1, 4, 9, 20) == [None, None, 9, 20]


def test_one_withheld_bin_is_known_by_subtraction():
    """Six with and four without a second case in the small bin: still a bin must go with it."""
    patients = [f"p{i}" for i in (*range(10), *range(10, 14), *range(5))]
    values = values_of([-0.5] * 10 + [0.5] * 4 + [1.5] * 5, patients)
    assert bins(histogram([0, 1, 2]).check(values, 14, FIVE)) == SMALL_BINS


def test_a_histogram_that_cannot_be_hidden_is_withheld():
    assert shown(0, 2, 6, 0) is SMALL_BINS
    assert shown(1, 1, 1, 1, 1, 1) is SMALL_BINS


def test_a_bin_of_everyone_is_withheld():
    assert shown(0, 7, 0, 0) is ONE_BIN
    assert shown(0, 0, 0, 7) is ONE_BIN


def test_no_more_bins_than_patients():
    wide, narrow = [0, *range(10, 16)], [0, *range(10, 17)]
    values = values_of([5.0] * 3 + [20.0] * 3)
    assert bins(histogram(wide).check(values, 6, FIVE)) is SMALL_BINS
    assert bins(histogram(narrow).check(values, 6, FIVE)) is MANY_BINS


def consistent(counts, patients):
    """Return every way to fill the withheld bins, of which any may be empty."""
    hidden = [i for i, c in enumerate(counts) if c is None]
    rest = patients - sum(c for c in counts if c is not None)
    for split in itertools.product(range(rest + 1), repeat=max(len(hidden) - 1, 0)):
        if hidden and sum(split) <= rest:
            yield dict(zip(hidden, (*split, rest - sum(split)), strict=True))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=3, max_size=5), st.integers(5, 7))
def test_no_small_bin_follows_from_the_others(counts, minimum):
    hidden = bins_to_hide(counts, sum(counts), minimum)
    if hidden is None:
        return
    view = [None if i in hidden else c for i, c in enumerate(counts)]
    assert all(c is None or (c == 0 and not hidden) or c >= minimum for c in view)
    assert hides(view, sum(counts), minimum)
    assert tells(view, sum(counts), minimum) == (max(counts) == sum(counts))
    worlds = list(consistent(view, sum(counts)))
    for i in hidden:
        possible = {world[i] for world in worlds}
        assert counts[i] in possible
        assert min(possible) == 0
        assert max(possible) >= minimum


@pytest.mark.parametrize(
    ("counts", "patients"),
    [
        ([0, 4, 8, 0], 12),  # a small bin
        ([None, 8, None, 0], 13),  # an empty one beside withheld ones
        ([None, 8, 5], 13),  # one by subtraction
        ([None, 8, 6], 19),  # the minimum by subtraction, which is no small bin but not withheld
        ([None, 9, None], 13),  # four in two
        ([0, 13, 0], 13),  # everyone in one
        ([None, 5, *[None] * 12], 11),  # more bins than patients
        ([0, 5, 6, 0], 12),  # one in no bin
    ],
)
def test_bins_that_tell_too_much(counts, patients):
    assert tells(counts, patients, 5)


@pytest.mark.parametrize(
    ("counts", "patients"),
    [([0, 5, 8, 0], 13), ([None, 8, None], 13), ([None, 5, *[None] * 10], 11), ([None, None], 7)],
)
def test_bins_that_tell_no_more_than_the_gate_lets_out(counts, patients):
    assert not tells(counts, patients, 5)


def test_a_bin_of_exactly_the_minimum_is_shown():
    assert shown(0, 5, 6, 0) == [0, 5, 6, 0]
    assert shown(0, 4, 6, 0) is SMALL_BINS
    assert shown(0, 3, 5, 20) == [None, None, None, 20]


def test_a_patient_may_be_in_several_bins():
    """Ten patients with two cases each fill two bins of ten, of which each is of everyone."""
    people = [f"p{i}" for i in range(12)]
    values = values_of([0.5] * 11 + [1.5] * 11, [*people[:11], *people[1:]])
    assert bins(histogram([0, 1, 2]).check(values, 12, FIVE)) == [0, 11, 11, 0]
    # Of twelve patients, eleven show in a bin; whoever else is in the others cannot be hidden.
    values = values_of([0.5] * 11 + [1.5] * 2, [*people[:11], *people[10:]])
    assert bins(histogram([0, 1, 2]).check(values, 12, FIVE)) is SMALL_BINS
    values = values_of([0.5] * 10 + [1.5] * 10, people[:10] * 2)
    assert bins(histogram([0, 1, 2]).check(values, 10, FIVE)) is ONE_BIN


def together(*proposed):
    """Return what leaves of histograms that are checked together: edges, values and feature."""
    cells = []
    for i, (edges, values, feature) in enumerate(proposed):
        analysis = Histogram(
            Settings(id=f"h{i}", kind="histogram", variables=["CT.*"], edges=edges)
        )
        cell = Proposed(analysis, CellKey("CT", "organs", "liver", feature), values, values)
        cells.append((cell, len(set(values.patients))))
    return [bins(checked) for checked in Histogram.check_all(cells, FIVE)]


SPACED = values_of(np.arange(20.0))


def test_bins_of_two_histograms_are_shown_where_the_pieces_of_both_are():
    """0 to 10 and 0 to 9 would tell of the one patient at 9."""
    assert together(([0, 10, 20], SPACED, "a")) == [[0, 10, 10, 0]]
    assert together(([0, 9, 20], SPACED, "a")) == [[0, 9, 11, 0]]
    coarse, shifted = together(([0, 10, 20], SPACED, "a"), ([0, 9, 20], SPACED, "a"))
    assert (coarse, shifted) == ([None, None, 10, None], SMALL_BINS)
    # Nested edges with enough patients in each piece leave both histograms whole.
    nested = together(([0, 10, 20], SPACED, "a"), ([0, 5, 10, 20], SPACED, "a"))
    assert nested == [[0, 10, 10, 0], [0, 5, 5, 10, 0]]


def test_a_bin_leaves_where_another_histogram_splits_another_bin():
    found = together(([0, 12, 30], SPACED, "a"), ([0, 1, 6, 12, 30], SPACED, "a"))
    assert found == [[None, None, 8, None], [None, None, None, 6, 8, None]]


def test_edges_that_are_the_last_of_one_histogram_belong_to_its_last_bin():
    """The patient at 10 is in the last bin of the first histogram, and in none below of the other.

    So the two tell of one patient, though the edges are the same.
    """
    found = together(([0, 5, 10], SPACED, "a"), ([0, 5, 10, 20], SPACED, "a"))
    assert found == [SMALL_BINS, [None, None, 5, None, None]]
    values = values_of([4.0] * 5 + [9.0] * 5 + [15.0] * 5)
    found = together(([0, 5, 10], values, "a"), ([0, 5, 10, 20], values, "a"))
    assert found == [[0, 5, 5, 5], [0, 5, 5, 5, 0]]


def test_many_histograms_of_one_variable_are_withheld_by_their_edges_alone():
    proposed = [([0, 5 + i, 30], SPACED, "a") for i in range(18)]
    assert MANY_BINS not in together(*proposed)
    proposed = [([0, 5 + i, 30], SPACED, "a") for i in range(20)]
    assert together(*proposed) == [MANY_BINS] * 20


def test_of_variables_that_rise_together_only_the_first_has_histograms():
    cubes = values_of(np.arange(20.0) ** 3)
    falling = values_of(-np.exp(np.arange(20.0)))
    other = values_of(np.random.default_rng(3).permutation(20.0 * np.arange(20)))
    found = together(
        ([0, 10, 20], SPACED, "a"),
        ([0, 1000, 9000], cubes, "b"),
        ([-1e9, -1000, 0], falling, "c"),
        ([0, 200, 400], other, "d"),
    )
    assert found == [[0, 10, 10, 0], SAME_BINS, SAME_BINS, [0, 10, 10, 0]]


def test_the_first_variable_counts_though_its_histogram_was_withheld():
    """Else the first of many that is not withheld would tell where the patients lie."""
    cubes = values_of(np.arange(20.0) ** 3)
    found = together(([0, 2, 20], SPACED, "a"), ([0, 1000, 9000], cubes, "b"))
    assert found == [SMALL_BINS, SAME_BINS]


@settings(max_examples=150, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 12), min_size=5, max_size=40),
    edges=st.lists(
        st.lists(st.integers(0, 12), min_size=3, max_size=5, unique=True).map(sorted),
        min_size=1,
        max_size=3,
    ),
)
def test_no_combination_of_histograms_tells_of_few(numbers, edges):
    """Each piece of the line that shown bins tell apart holds the minimum, or all are shown."""
    values = values_of(numbers)
    found = together(*((e, values, "a") for e in edges))
    pieces = {}
    for number in numbers:
        place = tuple(
            int(bin_index(np.array([float(number)]), e)[0])
            if isinstance(view, list)
            and view[int(bin_index(np.array([float(number)]), e)[0])] is not None
            else None
            for e, view in zip(edges, found, strict=True)
        )
        pieces[place] = pieces.get(place, 0) + 1
    assert all(count >= 5 for count in pieces.values())
