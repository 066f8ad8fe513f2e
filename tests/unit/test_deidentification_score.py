"""The score of de-identification counts what it says, and jipflow misses nothing planted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import deidentification
from deidentification_corpus import PEOPLE, synthetic
from deidentification_items import REMOVING, Action, Planted
from deidentification_tools import jipflow, nothing


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> list[Planted]:
    return synthetic(tmp_path_factory.mktemp("planted"), PEOPLE[:2])


def test_files_as_they_are_have_all_and_hide_nothing(
    planted: list[Planted], tmp_path: Path
) -> None:
    scores, _, _ = deidentification.scored(planted, nothing, tmp_path / "out")
    for action, (right, due) in scores.items():
        kept = action not in REMOVING | {Action.UID_CONSISTENT, Action.PATID_CONSISTENT}
        assert right == (due if kept else 0), action
        assert due > 0, action


def test_files_that_are_not_written_hide_all_and_keep_nothing(
    planted: list[Planted], tmp_path: Path
) -> None:
    none = dict.fromkeys([file.path for file in planted])
    scores, _, unwritten = deidentification.scored(planted, lambda *_: none, tmp_path / "out")
    assert unwritten == len(planted)
    for action, (right, due) in scores.items():
        assert right == (due if action in REMOVING else 0), action


def test_jipflow_misses_nothing(planted: list[Planted], tmp_path: Path) -> None:
    scores, missed, unwritten = deidentification.scored(planted, jipflow, tmp_path / "out")
    assert missed == []
    assert all(right == due for right, due in scores.values())
    # What may show text that nobody has looked up.
    assert unwritten == 6 * len({file.path.parent for file in planted})
