"""The gate releases what is safe and nothing else."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation_world import ENERGY, MEAN, features, protocol, site
from jipflow.release.gate import (
    Candidate,
    DisclosureError,
    Finding,
    Rule,
    all_equal,
    bins_to_hide,
    decide,
    hides,
    scan,
)
from jipflow.release.release import ReleaseError

NUMBERS = {"rows": 10, "mean": 1.0, "mean_rest": 0.0, "m2": 3.0}


def people(*numbers):
    return frozenset(f"c{i}" for i in numbers)


def cell(cases, feature=MEAN, **changes):
    base = {"kind": "summary", "numbers": NUMBERS} | changes
    return Candidate("describe", base.pop("kind"), "CT", "organs", "liver", feature, cases, **base)


def gate(*candidates, minimum=5, patient_of=None):
    cases = frozenset().union(*(c.cases for c in candidates))
    patient_of = patient_of or {case: f"p-{case}" for case in cases}
    return {d.candidate.feature: d for d in decide(candidates, patient_of, minimum)}


def outcome(*candidates, **options):
    """Return the rule that withheld each cell, None where it was released."""
    found = {}
    for feature, decision in gate(*candidates, **options).items():
        rules = [r for r, f in decision.findings.items() if f is Finding.WITHHELD]
        assert len(rules) == (decision.released is None)
        found[feature] = rules[0] if rules else None
    return found


def test_enough_patients_are_released():
    assert gate(cell(people(*range(5))))[MEAN].released == {"n": 5, **NUMBERS}


@pytest.mark.parametrize("count", [0, 1, 4])
def test_too_few_patients_are_withheld(count):
    assert outcome(cell(people(*range(count)))) == {MEAN: Rule.MIN_PATIENTS}


def test_patients_count_not_cases():
    cases = people(*range(8))
    same = {case: f"p{int(case[1:]) % 4}" for case in cases}
    assert outcome(cell(cases), patient_of=same) == {MEAN: Rule.MIN_PATIENTS}


def test_the_minimum_has_a_floor():
    with pytest.raises(DisclosureError, match="floor"):
        gate(cell(people(*range(9))), minimum=4)


def test_an_unknown_kind_is_refused():
    with pytest.raises(DisclosureError, match="no rules for the kind 'levene'"):
        gate(cell(people(*range(9)), kind="levene"))


def test_an_unknown_number_is_refused():
    with pytest.raises(DisclosureError, match="maximum"):
        gate(cell(people(*range(9)), numbers=NUMBERS | {"maximum": 4.0}))


@pytest.mark.parametrize(
    "change",
    [{"m2": float("inf")}, {"mean": float("nan")}, {"mean": 1e101}, {"m2": 1e201}, {"m2": -1.0}],
)
def test_numbers_out_of_range_are_withheld(change):
    assert outcome(cell(people(*range(9)), numbers=NUMBERS | change)) == {MEAN: Rule.NUMBER_RANGE}


def test_constant_values_are_withheld():
    assert outcome(cell(people(*range(9)), constant=True)) == {MEAN: Rule.ZERO_VARIANCE}


@pytest.mark.parametrize(
    ("low", "high", "equal"),
    [(3.0, 3.0, True), (0.0, 0.0, True), (1.0, 1.0 + 1e-12, True), (1.0, 1.001, False)],
)
def test_all_equal(low, high, equal):
    assert all_equal(low, high) is equal


def test_a_few_missing_patients_show_by_subtraction():
    everyone, most = people(*range(20)), people(*range(18))
    assert outcome(cell(everyone), cell(most, ENERGY)) == {MEAN: None, ENERGY: Rule.DIFFERENCE}


def test_many_missing_patients_are_fine():
    assert outcome(cell(people(*range(20))), cell(people(*range(15)), ENERGY)) == {
        MEAN: None,
        ENERGY: None,
    }


def test_the_group_that_serves_most_cells_is_kept():
    most = people(*range(18))
    found = outcome(cell(people(*range(20))), cell(most, "a"), cell(most, "b"))
    assert found == {MEAN: Rule.DIFFERENCE, "a": None, "b": None}


def test_another_segmentation_is_judged_by_itself():
    everyone, most = people(*range(20)), people(*range(18))
    other = Candidate("describe", "summary", "PT", "gtv", "gtv", ENERGY, most, NUMBERS)
    assert outcome(cell(everyone), other) == {MEAN: None, ENERGY: None}


def test_a_missing_second_case_of_one_patient_shows_by_rows():
    cases = people(*range(12))
    patient_of = {case: f"p{min(int(case[1:]), 10)}" for case in cases}
    found = outcome(cell(cases), cell(cases - {"c11"}, ENERGY), patient_of=patient_of)
    assert found == {MEAN: None, ENERGY: Rule.DIFFERENCE}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.frozensets(st.integers(0, 14), min_size=4), min_size=1, max_size=8))
def test_no_two_released_cells_differ_by_few(groups):
    decisions = gate(*(cell(people(*g), f"f{i}") for i, g in enumerate(groups)))
    released = [d.candidate.cases for d in decisions.values() if d.released]
    for a, b in itertools.permutations(released, 2):
        assert len(a - b) == 0 or len(a - b) >= 5


def histogram(*counts):
    """Return a candidate whose bins hold that many patients, one case each."""
    ids = iter(range(1000))
    bins = tuple(frozenset(f"p-c{next(ids)}" for _ in range(c)) for c in counts)
    cases = frozenset(p[2:] for p in frozenset().union(*bins))
    return cell(cases, kind="histogram", numbers={}, bins=bins)


def shown(*counts):
    released = gate(histogram(*counts))[MEAN].released
    return released and [released["under"], *released["counts"], released["over"]]


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
    assert outcome(histogram(0, 2, 6, 0)) == {MEAN: Rule.SMALL_BINS}


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


def test_release_of_a_site(tmp_path):
    north = site(tmp_path, "north", patients=12)
    north.write()
    aggregates, record = north.build()
    first = {
        name: (north.release / name).read_bytes() for name in ("aggregates.json", "disclosure.json")
    }
    assert [a["id"] for a in aggregates["analyses"]] == ["describe", "volumes"]
    liver = north.table[north.table["segment"] == "liver"][MEAN]
    sent = next(
        c
        for c in aggregates["analyses"][0]["cells"]
        if (c["segment"], c["feature"]) == ("liver", MEAN)
    )
    assert (sent["n"], sent["rows"]) == (12, 12)
    assert sent["mean"] == pytest.approx(liver.mean(), rel=1e-12)
    assert sent["m2"] / 11 == pytest.approx(liver.var(), rel=1e-12)
    assert aggregates["analyses"][1]["cells"][0]["counts"] == [0, 6, 6, 0]
    assert record["summary"] == {
        "cells": 5,
        "released": 5,
        "withheld": dict.fromkeys(map(str, Rule), 0),
    }
    north.table = north.table.sample(frac=1, random_state=3)
    north.write()
    north.build()
    assert first == {name: (north.release / name).read_bytes() for name in first}


def test_the_record_holds_no_small_count(tmp_path):
    north = site(tmp_path, "north", patients=12)
    north.table.loc[north.table.index[:-6:2], ENERGY] = float("nan")
    north.table.loc[north.table["segment"] == "spleen", MEAN] = 7.0
    north.write()
    aggregates, record = north.build()
    by_cell = {(c["segment"], c["feature"]): c for c in record["cells"] if c["kind"] == "summary"}
    assert by_cell["liver", ENERGY]["rules"]["min_patients"] == "withheld"
    assert by_cell["spleen", MEAN]["rules"]["zero_variance"] == "withheld"
    sent = {(c["segment"], c["feature"]) for c in aggregates["analyses"][0]["cells"]}
    assert sent == {("liver", MEAN), ("spleen", ENERGY)}
    assert record["summary"]["withheld"]["min_patients"] == 1
    for entry in record["cells"]:
        numbers = [v for v in entry.values() if isinstance(v, int) and not isinstance(v, bool)]
        assert numbers == []


def test_a_segment_that_nobody_has_is_withheld_like_a_rare_one(tmp_path):
    north = site(tmp_path, "north")
    north.table = north.table[north.table["segment"] == "liver"]
    north.write()
    _, record = north.build()
    spleen = [c for c in record["cells"] if c["segment"] == "spleen"]
    assert len(spleen) == 2
    assert all(c["rules"]["min_patients"] == "withheld" for c in spleen)


def test_the_stricter_minimum_applies(tmp_path):
    north = site(tmp_path, "north", patients=12, minimum=13)
    north.write()
    aggregates, record = north.build()
    assert record["min_patients"] == 13
    assert all(a["cells"] == [] for a in aggregates["analyses"])


def test_a_case_whose_measurement_failed_does_not_count(tmp_path):
    north = site(tmp_path, "north", patients=12)
    north.write(failed={"casenorth0003"})
    aggregates, _ = north.build()
    assert {c["n"] for a in aggregates["analyses"] for c in a["cells"]} == {11}


def test_an_unacceptable_run_releases_nothing(tmp_path):
    north = site(tmp_path, "north")
    north.write()
    verdict = {"cases": 10, "failed": 6, "max_failed_fraction": 0.1, "acceptable": False}
    (north.root / "verdict.json").write_text(json.dumps(verdict))
    with pytest.raises(ReleaseError, match="6 of 10 cases failed"):
        north.build()
    assert not north.release.exists()


def test_tables_that_contradict_each_other_release_nothing(tmp_path):
    north = site(tmp_path, "north")
    north.write()
    cases = (north.root / "cases.tsv").read_text().splitlines(keepends=True)
    (north.root / "cases.tsv").write_text("".join(cases[:-1]))
    with pytest.raises(ReleaseError, match="not in the cohort"):
        north.build()
    (north.root / "cases.tsv").write_text("".join(cases).replace("pseudonorth0004", "other"))
    with pytest.raises(ReleaseError, match="another patient"):
        north.build()
    (north.root / "cases.tsv").write_text("".join(cases) + "casenorth0004\tother\tCT\n")
    with pytest.raises(ReleaseError, match="two patients"):
        north.build()
    north.table = features("north", 6, 0)
    north.table.loc[1, "segment"] = "liver"
    north.write()
    with pytest.raises(ReleaseError, match="measured twice"):
        north.build()


def test_a_variable_that_matches_nothing_is_named(tmp_path):
    wrong = [{"id": "describe", "kind": "summary", "variables": ["CT.orignal_*"]}]
    north = site(tmp_path, "north", content=protocol(analyses=wrong))
    north.write()
    with pytest.raises(ReleaseError, match=r"CT\.orignal_\*"):
        north.build()


def test_a_pseudonym_in_the_protocol_stops_the_release(tmp_path):
    north = site(tmp_path, "north")
    north.table["case_id"] = north.table["case_id"].replace("casenorth0000", "liver")
    north.write()
    with pytest.raises(DisclosureError, match="Nothing is released"):
        north.build()
    assert not north.release.exists()
