"""Damaged files of each kind that a site or a hub accepts end as a result or as a refusal."""

from __future__ import annotations

import random

import pytest

from federation_world import plain
from fuzzing import World, mutated

ROUNDS = 40
FOUND = [
    ("rtstruct", 198),
    ("seg", 195),
    ("seg", 313),
    ("checkpoint", 21),
    ("checkpoint", 43),
    ("checkpoint", 300),
    ("nifti", 739),
]
"""Kinds and numbers of damaged files that did not end well."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("fuzzed"))


def hold_out(target, sound, kind):
    """Give a target a sound file, and damaged ones of which each ends well."""
    target(sound)
    for number in range(ROUNDS):
        content = mutated(sound, random.Random(f"{kind}{number}"))
        try:
            target(content)
        except Exception as error:
            raise AssertionError(f"{kind} {number}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize(
    "kind",
    [
        "header",
        "image",
        "rtstruct",
        "seg",
        "nifti",
        "gzip",
        "table",
        "protocol",
        "checkpoint",
        "site",
        "hub",
        "consent",
    ],
)
def test_damaged_files_end_as_a_result_or_a_refusal(world, kind):
    sound, target = world.seeds[kind]
    hold_out(target, sound, kind)


def test_damaged_messages_end_as_a_refusal(world, sent_once):
    hold_out(world.message, plain(sent_once.path.read_bytes()), "message")


@pytest.mark.parametrize(("kind", "number"), FOUND)
def test_what_did_not_end_well_does(world, kind, number):
    sound, target = world.seeds[kind]
    target(mutated(sound, random.Random(f"{kind}{number}")))
