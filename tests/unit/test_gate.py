"""The gate releases what is safe and nothing else."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation_world import ENERGY, MEAN
from jipflow.analyses.cells import (
    CellKey,
    Values,
)
from jipflow.analyses.contract import Proposed
from jipflow.analyses.histogram import SMALL_BINS, Histogram
from jipflow.analyses.histogram import Settings as HistogramSettings
from jipflow.analyses.moments import DOMINANCE, NUMBER_RANGE, ZERO_VARIANCE, Moments
from jipflow.analyses.rules import Finding
from jipflow.analyses.sent_moments import Computed
from jipflow.analyses.summary import Settings as SummarySettings
from jipflow.analyses.summary import Summary
from jipflow.release.gate import (
    DIFFERENCE,
    MIN_PATIENTS,
    SATURATION,
    DisclosureError,
    all_rules,
    decide,
    scan,
)
from jipflow.release.saturation import Regions
from jipflow.settings.protocol import Disclosure

NUMBERS = {"rows": 10, "mean": 1.0, "mean_rest": 0.0, "m2": 3.0}


def people(*numbers):
    return frozenset(f"c{i}" for i in numbers)


def summary(id="describe"):
    return Summary(SummarySettings(id=id, kind="summary", variables=["CT.*"]))


def key(feature=MEAN, segment="liver", segmentation="organs", role="CT"):
    return CellKey(role, segmentation, segment, feature)


def values_of(cases, seed=0, numbers=None, patient_of=None):
    """Return a value of each case; by the seed others, which have nothing in common."""
    ids = sorted(cases)
    if numbers is None:
        numbers = np.random.default_rng(seed).normal(60, 10, 1000)[[int(i[1:]) for i in ids]]
    patients = [(patient_of or {}).get(case, f"p-{case}") for case in ids]
    return Values(
        np.asarray(numbers, dtype=float),
        np.array(patients, dtype=object),
        np.array(ids, dtype=object),
        frozenset(cases),
    )


def cell(cases, feature=MEAN, segment="liver", analysis=None, numbers=None, place=None, **changes):
    values = values_of(cases, crc32(f"{feature} {segment}".encode()), numbers)
    content = Computed(Moments(**NUMBERS | changes), values)
    return Proposed(analysis or summary(), place or key(feature, segment), values, content)


def gate(*proposed, minimum=5, patient_of=None):
    cases = frozenset().union(*(c.cases for c in proposed))
    patient_of = patient_of or {case: f"p-{case}" for case in cases}
    decisions = decide(
        proposed, patient_of, Disclosure.model_construct(min_patients=minimum), Regions()
    )
    return {d.proposed.key.feature: d for d in decisions}


def outcome(*proposed, **options):
    """Return the rule that withheld each cell, None where it was released."""
    found = {}
    for feature, decision in gate(*proposed, **options).items():
        rules = [r for r, f in decision.findings.items() if f is Finding.WITHHELD]
        assert len(rules) == (decision.released is None)
        found[feature] = rules[0] if rules else None
    return found


def test_enough_patients_are_released():
    released = gate(cell(people(*range(5))))[MEAN].released
    assert released.plain() == {**key()._asdict(), "n": 5, **NUMBERS}


@pytest.mark.parametrize("count", [0, 1, 4])
def test_too_few_patients_are_withheld(count):
    assert outcome(cell(people(*range(count)))) == {MEAN: MIN_PATIENTS}


def test_patients_count_not_cases():
    cases = people(*range(8))
    same = {case: f"p{int(case[1:]) % 4}" for case in cases}
    assert outcome(cell(cases), patient_of=same) == {MEAN: MIN_PATIENTS}


def test_the_minimum_has_a_floor():
    with pytest.raises(DisclosureError, match="floor"):
        gate(cell(people(*range(9))), minimum=4)


class KruskalSettings(SummarySettings):
    kind: Literal["kruskal"]


class Kruskal(Summary):
    """A kind that no module of `jipflow.analyses` declares."""


@pytest.mark.parametrize("analysis", [Summary, Kruskal])
def test_an_unknown_kind_is_refused(analysis):
    kruskal = analysis(KruskalSettings(id="describe", kind="kruskal", variables=["CT.*"]))
    with pytest.raises(DisclosureError, match="no rules for the kind 'kruskal'"):
        gate(cell(people(*range(9)), analysis=kruskal))


def test_another_class_than_the_kinds_own_is_refused():
    with pytest.raises(DisclosureError, match="no rules for the kind 'summary'"):
        gate(cell(people(*range(9)), analysis=Kruskal(summary().settings)))


@dataclass(frozen=True)
class MomentsAndMaximum(Moments):
    maximum: float = 4.0


def test_an_unknown_number_is_refused():
    values = values_of(people(*range(9)))
    content = Computed(MomentsAndMaximum(**NUMBERS), values)
    with pytest.raises(DisclosureError, match="maximum"):
        gate(Proposed(summary(), key(), values, content))


@dataclass(frozen=True)
class MomentsAndPatients(Moments):
    n: int = 1000


def test_a_kind_cannot_count_the_patients_itself():
    moments = MomentsAndPatients(**NUMBERS)
    values = values_of(people(*range(5)))
    proposed = Proposed(summary(), key(), values, Computed(moments, values))
    with pytest.raises(DisclosureError, match="gives a 'n' of its own"):
        gate(proposed)


@pytest.mark.parametrize(
    "change",
    [{"m2": float("inf")}, {"mean": float("nan")}, {"mean": 1e101}, {"m2": 1e201}, {"m2": -1.0}],
)
def test_numbers_out_of_range_are_withheld(change):
    assert outcome(cell(people(*range(9)), **change)) == {MEAN: NUMBER_RANGE}


def test_constant_values_are_withheld():
    assert outcome(cell(people(*range(9)), numbers=[7.0] * 9)) == {MEAN: ZERO_VARIANCE}


def test_a_few_missing_patients_show_by_subtraction():
    everyone, most = people(*range(20)), people(*range(18))
    assert outcome(cell(everyone), cell(most, ENERGY)) == {MEAN: None, ENERGY: DIFFERENCE}


def test_many_missing_patients_are_fine():
    assert outcome(cell(people(*range(20))), cell(people(*range(15)), ENERGY)) == {
        MEAN: None,
        ENERGY: None,
    }


def test_numbers_of_patients_that_differ_by_one_less_than_the_minimum_are_not_shown():
    """Ten and fourteen of whom five are the same: the numbers alone could be those of a subset."""
    ten = cell(people(*range(10)))
    assert outcome(ten, cell(people(*range(5, 19)), ENERGY)) == {MEAN: DIFFERENCE, ENERGY: None}
    assert outcome(ten, cell(people(*range(5, 20)), ENERGY)) == {MEAN: None, ENERGY: None}


def test_the_limits_of_dominance_are_those_of_protocol_and_site():
    proposed = cell(people(*range(6)), numbers=[50.3, 40.1, 7.7, 12.9, 3.2, 9.4])
    limits = {"min_patients": 5}
    for change, rule in (
        ({}, None),
        ({"largest_two": 0.5}, DOMINANCE),
        ({"p_percent": 100}, DOMINANCE),
    ):
        disclosure = Disclosure(**limits | change)
        patient_of = {case: case for case in proposed.cases}
        (decision,) = decide([proposed], patient_of, disclosure, Regions())
        found = [r for r, f in decision.findings.items() if f is Finding.WITHHELD]
        assert found == ([rule] if rule else [])


def test_the_group_that_serves_most_cells_is_kept():
    most = people(*range(18))
    found = outcome(cell(people(*range(20))), cell(most, "a"), cell(most, "b"))
    assert found == {MEAN: DIFFERENCE, "a": None, "b": None}


def test_another_segmentation_is_checked_by_itself():
    everyone, most = people(*range(20)), people(*range(18))
    other = cell(most, ENERGY, place=key(ENERGY, "gtv", "gtv", "PT"))
    assert outcome(cell(everyone), other) == {MEAN: None, ENERGY: None}


def test_a_missing_second_case_of_one_patient_shows_by_rows():
    cases = people(*range(12))
    patient_of = {case: f"p{min(int(case[1:]), 10)}" for case in cases}
    found = outcome(cell(cases), cell(cases - {"c11"}, ENERGY), patient_of=patient_of)
    assert found == {MEAN: None, ENERGY: DIFFERENCE}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.frozensets(st.integers(0, 14), min_size=4), min_size=1, max_size=8))
def test_no_two_released_cells_differ_by_few(groups):
    decisions = gate(*(cell(people(*g), f"f{i}") for i, g in enumerate(groups)))
    released = [d.proposed.cases for d in decisions.values() if d.released]
    for a, b in itertools.permutations(released, 2):
        assert len(a - b) == 0 or len(a - b) >= 5
        assert len(a) == len(b) or abs(len(a) - len(b)) >= 5


def test_numbers_of_patients_that_differ_by_few_are_not_shown():
    """Seven in common, six and five others: who sees 13 beside 12 alone sees a single patient."""
    thirteen, twelve = people(*range(13)), people(*range(7), *range(20, 25))
    found = outcome(cell(thirteen), cell(thirteen, "a"), cell(twelve, ENERGY))
    assert found == {MEAN: None, "a": None, ENERGY: DIFFERENCE}
    as_many = people(*range(7), *range(20, 26))
    assert outcome(cell(thirteen), cell(as_many, ENERGY)) == {MEAN: None, ENERGY: None}


def test_segments_of_one_segmentation_are_compared():
    """Liver in 20, lesion in 18: the release would tell that two have no lesion."""
    everyone, most = people(*range(20)), people(*range(18))
    found = outcome(cell(everyone), cell(everyone, "a"), cell(most, ENERGY, "lesion"))
    assert found == {MEAN: None, "a": None, ENERGY: DIFFERENCE}


def test_cells_of_two_analyses_are_compared():
    everyone, most = people(*range(20)), people(*range(18))
    found = outcome(cell(everyone), cell(most, ENERGY, analysis=summary("another")))
    assert found == {MEAN: None, ENERGY: DIFFERENCE}


def test_the_cases_of_one_patient_are_one_difference():
    """Five cases that a cell lacks are a few patients if they are of one."""
    cases = people(*range(20))
    patient_of = {case: f"p{max(int(case[1:]), 4)}" for case in cases}
    found = outcome(cell(cases), cell(people(*range(5, 20)), ENERGY), patient_of=patient_of)
    assert found == {MEAN: None, ENERGY: DIFFERENCE}


def test_the_cases_of_one_patient_are_one_group_where_another_case_is_in_both():
    """Both cells are of fifteen patients, and the five cases that one lacks are of one of them."""
    cases = people(*range(20))
    patient_of = {case: f"p{max(int(case[1:]), 5)}" for case in cases}
    found = outcome(cell(cases), cell(people(*range(5, 20)), ENERGY), patient_of=patient_of)
    assert found == {MEAN: None, ENERGY: DIFFERENCE}


def test_a_group_that_was_withheld_withholds_no_other():
    """Of 20, 18 and 13, the 18 fall because of the 20; the 13 are far enough from the 20."""
    twenty, eighteen, thirteen = people(*range(20)), people(*range(18)), people(*range(3, 15), 19)
    found = outcome(cell(twenty), cell(eighteen, "a"), cell(thirteen, "b"))
    assert found == {MEAN: None, "a": DIFFERENCE, "b": None}


NUMBER_OF = dict(enumerate(np.random.default_rng(11).normal(1250, 120, 100)))


def liver(numbers, feature, *place, noise=0.0, scale=1.0):
    """Return a cell of the same liver volumes, in a segmentation or role of its own."""
    cases = people(*numbers)
    rng = np.random.default_rng(len(feature))
    values = [scale * (NUMBER_OF[int(c[1:])] + rng.normal(0, noise)) for c in sorted(cases)]
    return cell(cases, feature, numbers=values, place=key(feature, *place))


@pytest.mark.parametrize(
    "place",
    [("liver", "other", "CT"), ("hepar", "other", "CT"), ("liver", "organs", "CT2")],
)
@pytest.mark.parametrize("change", [{}, {"scale": 1000.0}, {"scale": -1.0}, {"noise": 5.0}])
def test_the_same_values_in_another_segmentation_are_compared(place, change):
    """The means of thirteen and of twelve would give the volume of the one."""
    found = outcome(liver(range(13), "a"), liver(range(12), "b", *place, **change))
    assert found == {"a": None, "b": DIFFERENCE}
    enough = outcome(liver(range(13), "a"), liver(range(8), "b", *place, **change))
    assert enough == {"a": None, "b": None}


def test_other_values_in_another_segmentation_are_not_compared():
    far = liver(range(12), "b", "hepar", "other", noise=120.0)
    assert outcome(liver(range(13), "a"), far) == {"a": None, "b": None}


def test_of_another_segmentation_only_the_like_cells_are_withheld():
    place = ("liver", "other")
    rest = [cell(people(*range(12)), f"f{i}", place=key(f"f{i}", *place)) for i in range(3)]
    found = outcome(liver(range(13), "a"), liver(range(12), "b", *place), *rest)
    assert found == {"a": None, "b": DIFFERENCE, "f0": None, "f1": None, "f2": None}


def test_the_patients_of_most_like_cells_are_kept_whatever_their_segmentation():
    place = ("liver", "other")
    few = [liver(range(12), f"b{i}", *place, scale=i + 2.0) for i in range(2)]
    found = outcome(liver(range(13), "a"), *few)
    assert found == {"a": DIFFERENCE, "b0": None, "b1": None}


def test_no_sum_of_several_sets_leaves_one_patient():
    """A and B, B and C, A and C, and all of them with one more: twice the last less the others."""
    a, b, c = range(5), range(5, 10), range(10, 15)
    sets = {"x": [*a, *b], "y": [*b, *c], "z": [*a, *c], "u": [*a, *b, *c, 15]}
    found = outcome(*(cell(people(*numbers), name) for name, numbers in sets.items()))
    assert found == {"u": None, "x": None, "y": DIFFERENCE, "z": DIFFERENCE}
    sets["u"] = [*a, *b, *c]
    found = outcome(*(cell(people(*numbers), name) for name, numbers in sets.items()))
    assert set(found.values()) == {None}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.frozensets(st.integers(0, 14), min_size=5), min_size=2, max_size=6))
def test_no_combination_of_sums_is_of_few_patients(groups):
    """Every vector of the row space of the released sets has the minimum of patients or none."""
    decisions = gate(*(liver(g, f"f{i}", f"s{i}", f"t{i}") for i, g in enumerate(groups)))
    released = [d.proposed.cases for d in decisions.values() if d.released]
    rows = np.array([[f"c{i}" in cases for i in range(15)] for cases in released], dtype=float)
    for weights in itertools.product((-2, -1, 0, 1, 2), repeat=len(released)):
        of = np.count_nonzero(np.array(weights) @ rows)
        assert of == 0 or of >= 5


def histogram(*bins):
    """Return a histogram of bins of these patients, one case each."""
    edges = list(range(len(bins) - 1))
    settings = HistogramSettings(id="volumes", kind="histogram", variables=["CT.*"], edges=edges)
    bin_of = {patient[2:]: i - 0.5 for i, bin_ in enumerate(bins) for patient in bin_}
    values = values_of(frozenset(bin_of), numbers=[bin_of[case] for case in sorted(bin_of)])
    return Proposed(Histogram(settings), key(), values, values)


def bins_of(*counts):
    """Return bins that hold that many patients, each of whom is in one."""
    ids = iter(range(1000))
    return tuple(frozenset(f"p-c{next(ids)}" for _ in range(c)) for c in counts)


def test_a_histogram_leaves_with_bins_withheld_by_name():
    decision = gate(histogram(*bins_of(0, 3, 20, 6, 9, 0)))[MEAN]
    released = decision.released
    assert [released.under, *released.counts, released.over] == [None, None, 20, None, 9, None]
    assert decision.findings[SMALL_BINS] == "some bins withheld"
    assert decision.parts == {SMALL_BINS: ["under", 0, 2, "over"]}
    assert decision.findings[MIN_PATIENTS] == decision.findings[DIFFERENCE] == Finding.PASSED
    assert decision.findings[NUMBER_RANGE] == Finding.NOT_APPLIED


def test_a_histogram_without_small_bins_leaves_whole():
    decision = gate(histogram(*bins_of(0, 7, 9, 0)))[MEAN]
    assert decision.findings[SMALL_BINS] == Finding.PASSED
    assert decision.parts == {SMALL_BINS: []}


def test_a_histogram_that_cannot_be_hidden_is_withheld():
    assert outcome(histogram(*bins_of(0, 2, 6, 0))) == {MEAN: SMALL_BINS}


def test_the_difference_rule_takes_a_histogram_back_with_its_bins():
    few = histogram(*bins_of(0, 3, 20, 6, 9, 0))
    everyone = people(*range(40))
    found = decide(
        [cell(everyone), cell(everyone, ENERGY), few],
        {case: f"p-{case}" for case in everyone},
        Disclosure(min_patients=5),
        Regions(),
    )
    (histograms,) = [d for d in found if d.proposed.analysis.settings.kind == "histogram"]
    assert histograms.findings[DIFFERENCE] is Finding.WITHHELD
    assert (histograms.released, histograms.parts) == (None, {})


def test_every_rule_has_its_own_code_and_meaning():
    rules = all_rules()
    assert len({rule.code for rule in rules}) == len({rule.meaning for rule in rules}) == len(rules)


def test_a_document_of_the_vocabulary_passes():
    scan(
        {"site": "north", "n": 5, "mean": 1.5, "x": [None, True]},
        {"site", "north", "n", "mean", "x"},
        (),
        (),
    )


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-01",
        "01.03.2024",
        "20240301",
        "1.2.840.113619.2.55.3",
        "/data/dicom",
        "C:\\dicom",
        "Doe^Jane",
        "jane@clinic",
        "MRN0012345",
    ],
)
def test_the_scan_refuses_what_looks_personal_even_if_the_protocol_names_it(text):
    with pytest.raises(DisclosureError, match=r"cells\[1\]\.segment: a text that looks like"):
        scan({"cells": [{}, {"segment": text}]}, {"cells", "segment", text}, (), ())


def test_the_scan_refuses_text_outside_the_vocabulary():
    with pytest.raises(DisclosureError, match=r"cells\[0\]\.note: a text that the protocol"):
        scan({"cells": [{"note": "hello"}]}, {"cells", "note"}, (), ())
    with pytest.raises(DisclosureError, match="a key"):
        scan({"hello": 1}, (), (), ())


def test_the_scan_refuses_pseudonyms_even_inside_a_word():
    with pytest.raises(DisclosureError, match="pseudonym") as caught:
        scan({"site": "north-k7q"}, {"site", "north-k7q"}, (), ["zzz", "k7q"])
    assert "k7q" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1, 2}])
def test_the_scan_refuses_values_it_does_not_know(value):
    with pytest.raises(DisclosureError, match="x"):
        scan({"x": value}, {"x"}, (), ())


@pytest.mark.parametrize(("text", "looks"), [("123456", "a number"), ("x1", "not name")])
def test_the_scan_refuses_short_text_and_six_digits(text, looks):
    with pytest.raises(DisclosureError, match=looks):
        scan({"site": text}, {"site", "123456"}, (), ())


def test_a_cell_that_the_difference_withholds_takes_nothing_from_the_family():
    """Of seven patients one size may leave: the second does where the first did not."""
    sizes = [f"original_shape_{name}" for name in ("Flat", "Sphericity", "SurfaceArea")]
    seven, six = people(*range(7)), people(*range(6))
    cells = [cell(six, sizes[0]), cell(seven, sizes[1]), cell(seven, sizes[2])]
    decisions = gate(*cells)
    assert decisions[sizes[0]].findings[DIFFERENCE] is Finding.WITHHELD
    assert decisions[sizes[0]].findings[SATURATION] is Finding.NOT_APPLIED
    assert [bool(decisions[name].released) for name in sizes] == [False, True, True]


def test_a_group_outside_of_several_sets_is_small_whatever_lies_in_one_of_them():
    """Two tens that are kept first, and one of all twenty and two more."""
    one, two = people(*range(10)), people(*range(10, 20))
    cells = [cell(one, "a"), cell(one, "b"), cell(two, "c"), cell(two, "d")]
    found = outcome(*cells, cell(people(*range(22)), "e"))
    assert found == dict.fromkeys("abcd") | {"e": DIFFERENCE}
