"""What is compared with what left before: in turn, by few patients in common, and as it was asked.

Each test of an attack has a site that answers; what the answer would have given is in the text.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from attacked_site import BAIT, LOAD, VOLUME, Target, bins_of, mean_of
from jipflow.analyses.cells import Values
from jipflow.release.linked import Variable, groups_of, linked, solved
from jipflow.settings.run import settings_of


@pytest.fixture
def site(tmp_path):
    return Target.at(tmp_path, 30, 5, mode="now")


def variable(numbers, people, family="size", volumes=None):
    def values(of):
        names = np.array([f"p{i:03d}" for i in people], dtype=object)
        return Values(np.asarray(of, float), names, names, frozenset(names))

    return Variable(values(numbers), family, None if volumes is None else values(volumes))


def sets(*members):
    return [frozenset(map(str, each)) for each in members]


def test_groups_are_what_sets_distinguish():
    assert set(groups_of(sets("abcd", "cde"))) == set(sets("ab", "cd", "e"))
    assert groups_of([]) == []


@pytest.mark.parametrize(
    ("known", "found"),
    [
        (("abc",), ["abc"]),
        (("abcd", "ab"), ["ab", "cd"]),
        (("abcdefg", "abc", "def"), ["abc", "def", "g"]),
        (("abcd", "cdef"), []),
        (("ab", "bc", "ac"), ["a", "b", "c"]),
        ((), []),
    ],
)
def test_groups_whose_sums_follow(known, found):
    known = sets(*known)
    assert set(solved(known, groups_of(known))) == set(sets(*found))


@given(st.lists(st.frozensets(st.integers(0, 9), min_size=1), min_size=1, max_size=6))
def test_a_sum_that_follows_is_the_same_for_all_values_that_have_the_known_sums(known):
    known = [frozenset(map(str, each)) for each in known]
    groups = groups_of(known)
    table = np.array([[g <= s for g in groups] for s in known], float)
    _, sizes, rows = np.linalg.svd(table)
    open_ = rows[int((sizes > 1e-9).sum()) :]
    fixed = {
        g for g, column in zip(groups, open_.T, strict=True) if np.abs(column).max(initial=0) < 1e-9
    }
    assert set(solved(known, groups)) == fixed


@pytest.mark.parametrize(
    ("volumes", "family", "expected"),
    [
        ([10, 11, 12, 13], "size", [[0]]),
        ([10, 11, 30, 31], "size", [[]]),
        ([10, 11, 12, 13], "moments", [[]]),
        (None, "size", [[0]]),
    ],
)
def test_two_patients_in_common_link_what_is_of_one_region(volumes, family, expected):
    """A brain that shares two patients with a liver is another region, whatever its features."""
    known = variable([1, 2, 3, 4], range(4), volumes=[10, 11, 12, 13])
    others = None if volumes is None else [volumes[2], volumes[3], 11, 12]
    new = variable([7, 5, 6, 8], range(2, 6), family, others)
    assert linked([new], [known]) == expected


def test_another_study_that_shares_two_patients_leaves(site):
    assert site.ask(site.rows(range(12)), mean_of("a")).cells
    brains = 1000 + site.values[VOLUME] * 0.2
    answer = site.ask(
        site.rows(range(10, 24), ("heads", "brain"), **{VOLUME: brains[::-1] - 900}),
        mean_of("b", segment="brain"),
    )
    assert answer.cells


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_cohort_and_its_parts_in_any_order(site, last):
    """The sum of one patient followed from the three."""
    cohorts = [range(30), range(1, 15), range(15, 30)]
    cohorts.append(cohorts.pop(last))
    left = [bool(site.ask(site.rows(c), mean_of("a")).cells) for c in cohorts]
    assert left == [True, True, False]


def test_parts_that_leave_enough_patients_of_whom_one_is_most(site):
    volumes = site.values[VOLUME].copy()
    volumes[0] = 20000.0
    cohorts = [range(30), range(6, 18), range(18, 30)]
    left = [bool(site.ask(site.rows(c, **{VOLUME: volumes}), mean_of("a")).cells) for c in cohorts]
    assert left == [True, True, False]


def test_a_part_for_each_year_leaves(site):
    """Years that have no patient in common, then all of them."""
    cohorts = [range(8), range(8, 19), range(19, 30), range(30), range(8)]
    assert all(site.ask(site.rows(c), mean_of("a")).cells for c in cohorts)


def test_a_cell_that_its_values_withheld_has_answered(site):
    """Four have a load, so that their mean is withheld; that five leave would tell of the fifth."""
    load = np.where(np.arange(30) < 5, np.linspace(10, 20, 30), 0.0)
    asked = mean_of("bait", BAIT), mean_of("a", LOAD)
    some = np.arange(1, 30)
    answer = site.ask(site.rows(some, **{LOAD: load}), *asked)
    assert answer.found("a")["zero_variance"] == "withheld"
    again = site.ask(site.rows(**{LOAD: load}), mean_of("a", LOAD))
    assert not again.cells


def test_the_same_question_has_the_same_answer(site):
    asked = bins_of("h", [0, 1400.5, 9000]), bins_of("g", [0, 1400.5, 1700.0, 9000]), mean_of("a")
    first = site.ask(site.rows(), *asked)
    again = site.ask(site.rows(), *asked)
    assert first.cells == again.cells
    assert first("g")
    assert again.rules == first.rules


def test_one_of_two_histograms_that_were_asked_for_together(site):
    """Many at once are withheld; each by itself would then say where a patient lies."""
    edges = [[0, edge, 9000] for edge in np.linspace(1200, 1800, 40)]
    many = [bins_of(f"h{i}", each) for i, each in enumerate(edges)]
    answer = site.ask(site.rows(), mean_of("bait", BAIT), *many)
    assert answer.found("h0")["many_bins"] == "withheld"
    for each in many[:3]:
        assert set(site.ask(site.rows(), mean_of("bait", BAIT), each).cells) == {
            ("bait", "liver", BAIT)
        }


def test_other_edges_of_a_like_variable(site):
    """What rises with the volume has its bins."""
    site.ask(site.rows(), bins_of("h", [0, 1500, 9000]))
    mesh = {"original_shape_MeshVolume": 1000 * site.values[VOLUME]}
    asked = bins_of("h", [0, 1.6e6, 9e6], "original_shape_MeshVolume")
    assert not site.ask(site.rows(**mesh), asked).cells


def test_a_site_that_tightens_its_own_limits_answers_on(site):
    """Only what a protocol chooses is a question."""
    first = site.ask(site.rows(), mean_of("a"))
    plain = site.world.settings.site.plain()
    plain["disclosure"] = plain["disclosure"] | {"p_percent": 20}
    site.world.settings = settings_of(plain, site.world.settings.protocol.plain())
    assert site.ask(site.rows(), mean_of("a")).cells == first.cells
    assert not site.ask(site.rows(), mean_of("a"), p_percent=30).cells


def test_a_difference_that_few_make_almost_alone(site):
    """All values differ a little, and three of them by a half."""
    rng = np.random.default_rng(0)
    again = site.values[VOLUME] * (1 + 1e-4 * rng.normal(size=30))
    again[:3] *= 0.5
    answer = site.ask(
        [site.rows(), site.rows(None, ("again", "hepar"), **{VOLUME: again})],
        mean_of("a"),
        mean_of("b", segment="hepar"),
    )
    assert set(answer.cells) == {("a", "liver", VOLUME)}


def test_a_difference_that_all_make_leaves(site):
    again = site.values[VOLUME] * (1 + 0.05 * np.random.default_rng(0).normal(size=30))
    answer = site.ask(
        [site.rows(), site.rows(None, ("again", "hepar"), **{VOLUME: again})],
        mean_of("a"),
        mean_of("b", segment="hepar"),
    )
    assert len(answer.cells) == 2
