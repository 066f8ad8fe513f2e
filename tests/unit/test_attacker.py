"""The attacker of benchmarks/attacker.py, with a few of its requests: what it got, and gets."""

from __future__ import annotations

import sys
from dataclasses import astuple
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import attacker
import attacks
from jipflow.files import read_json

CLOSED = (
    attacks.one_left_out,
    attacks.growing,
    attacks.parts,
    attacks.parts_of_two_segmentations,
    attacks.other_names,
    attacks.remeasured,
    attacks.remeasured_a_little_in_all,
    attacks.only_one_has,
    attacks.narrow_bins,
)


@pytest.mark.parametrize("attack", CLOSED, ids=lambda attack: attack.__name__)
def test_an_attack_that_gave_a_value_gives_none(attack, tmp_path):
    row = attacker.run(attack, 30, 5, tmp_path)
    assert (row.before, row.now) in {("exact", "nothing"), ("0.004 SD", "nothing")}
    written = [tuple(each) for each in read_json(attacker.RESULTS / "attacker.json")["rows"]]
    assert astuple(row) in written


def test_cohorts_that_share_one_or_two_patients_are_not_solved(tmp_path):
    """Sixty cohorts of five gave as many equations as patients."""
    found = {}
    for mode in ("minimum", "now"):
        folder = tmp_path / mode
        folder.mkdir()
        target = attacker.Target.at(folder, 30, 5, mode=mode)
        found[mode] = attacks.small_overlaps(target).words()
    assert found == {"minimum": "exact", "now": "nothing"}


@pytest.mark.parametrize("attack", [attacks.which_bins_are_withheld, attacks.which_limits_withhold])
def test_what_is_withheld_is_no_oracle(attack, tmp_path):
    """The edge, or the limit, may be asked for once; one answer halves the range at most."""
    row = attacker.run(attack, 30, 5, tmp_path)
    assert row.forgetful == "exact"
    assert row.requests <= 3
    assert row.now == "nothing" or float(row.now.split()[0]) > 1


def test_the_page_shows_what_was_found_last():
    page = (attacker.DOCS / "release.md").read_text()
    assert attacker.block() in page


def test_noise_protects_from_who_knows_all_others(tmp_path):
    row = attacker.run(attacks.known_others_with_noise, 30, 5, tmp_path)
    assert (row.before, row.now) == ("exact", "nothing")
    assert row.forgetful == "3.6 SD"
    written = [tuple(each) for each in read_json(attacker.RESULTS / "attacker.json")["rows"]]
    assert astuple(row) in written


def test_who_knows_all_others_of_a_cohort_knows_the_last(tmp_path):
    """No rule keeps this: docs/release.md says so."""
    row = attacker.run(attacks.known_others, 30, 5, tmp_path)
    assert (row.before, row.now) == ("exact", "exact")
    assert attacker.run(attacks.known_half_of_everyone, 30, 5, tmp_path).now == "nothing"
