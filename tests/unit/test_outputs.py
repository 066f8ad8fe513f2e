"""What stages wrote beside their outcomes, and whether it is still there."""

from __future__ import annotations

import pytest

from jipflow.outcomes import Outcome, Status, write_outcomes
from jipflow.outputs import missing_outputs, named, remove_leftovers, unexpected


@pytest.fixture
def results(tmp_path):
    """Results with two finished cases and one that failed."""
    for case in ("a", "b"):
        path = tmp_path / "seg" / case / "organs.dcm"
        path.parent.mkdir(parents=True)
        path.touch()
    write_outcomes(
        tmp_path / "shards" / "s00001" / "encode" / "outcomes.parquet",
        [
            Outcome("a", "encode", "organs", outputs=["seg/a/organs.dcm"], sha256=["0" * 64]),
            Outcome("b", "encode", "organs", outputs=["seg/b/organs.dcm"], sha256=["1" * 64]),
            Outcome("c", "encode", "organs", Status.FAILED, "empty_segment"),
        ],
    )
    return tmp_path


def outcomes_of(results, stage):
    return results / "shards" / "s00001" / stage / "outcomes.parquet"


def test_stages_that_met_an_unexpected_error_are_found(results):
    path = outcomes_of(results, "measure")
    write_outcomes(path, [Outcome("a", "measure", "x", Status.FAILED, "unexpected_error", "bug")])
    assert unexpected(path.parents[1]) == [path]
    write_outcomes(path, [Outcome("a", "measure", "x", message="unexpected_error")])
    assert unexpected(path.parents[1]) == []


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no table at all, but longer than its mark"])
def test_outcomes_that_a_power_cut_damaged_are_made_again(results, content):
    path = outcomes_of(results, "encode")
    path.write_bytes(content)
    assert missing_outputs(path, results) == ["shards/s00001/encode/outcomes.parquet"]
    assert unexpected(path.parents[1]) == [path]


def test_files_that_are_there_are_not_missing(results):
    assert missing_outputs(outcomes_of(results, "encode"), results) == []


@pytest.mark.parametrize("folder", [False, True])
def test_a_file_that_is_gone_is_named(results, folder):
    (results / "seg" / "b" / "organs.dcm").unlink()
    if folder:
        (results / "seg" / "b").rmdir()
    assert missing_outputs(outcomes_of(results, "encode"), results) == ["seg/b/organs.dcm"]


def test_a_stage_that_has_not_run_misses_nothing(results):
    assert missing_outputs(outcomes_of(results, "document"), results) == []


def test_a_disk_that_gives_another_answer_is_an_error_and_no_loss(results):
    outcome = Outcome("a", "encode", "organs", outputs=["seg/" + 300 * "a"], sha256=["0" * 64])
    write_outcomes(outcomes_of(results, "encode"), [outcome])
    with pytest.raises(OSError, match="File name too long"):
        missing_outputs(outcomes_of(results, "encode"), results)


def test_who_waits_has_a_folder_in_the_worklist(results):
    write_outcomes(
        outcomes_of(results, "annotate"),
        [
            Outcome("a", "annotate", "read", Status.WAITING, "awaiting_reader"),
            Outcome("b", "annotate", "read"),
        ],
    )
    instruction = "worklist/read/a/README.txt"
    assert missing_outputs(outcomes_of(results, "annotate"), results) == [instruction]
    (results / instruction).parent.mkdir(parents=True)
    (results / instruction).touch()
    assert missing_outputs(outcomes_of(results, "annotate"), results) == []


def test_few_of_many_files_are_named():
    assert named([f"seg/{n}" for n in "abcde"]) == "seg/a, seg/b, seg/c and 2 more"
    assert named(["seg/a"]) == "seg/a"


def test_objects_of_cases_that_left_or_failed_since_do_not_stay(tmp_path):
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "assignment.tsv").write_text(
        "case_id\tshard\n" + "".join(f"{case}\ts1\n" for case in ("ok", "failed", "left", "odd"))
    )
    files = [
        *("seg/ok/organs.dcm", "seg/ok/older.dcm", "sr/ok/organs.dcm", "overlays/ok/organs.png"),
        *("seg/failed/organs.dcm", "sr/failed/organs.dcm"),
        *("seg/left/organs.dcm", "sr/left/organs.dcm", "overlays/left/organs.png"),
        *(
            "seg/mine/x.dcm",
            "seg/ok/notes.txt",
            "seg/readme.txt",
            "worklist/organs/left/README.txt",
        ),
    ]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    made = {"outputs": ["seg/ok/organs.dcm"], "sha256": ["0"]}
    outcomes = [
        *(Outcome(case, "cohort") for case in ("ok", "failed", "odd")),
        Outcome("ok", "encode", "organs", **made),
        Outcome("failed", "encode", "organs", Status.FAILED, "empty_segment"),
        Outcome("left", "cohort", "", Status.EXCLUDED, "missing_role"),
    ]
    assert remove_leftovers(tmp_path, outcomes) == [
        *("overlays/left/organs.png", "seg/failed/organs.dcm", "seg/left/organs.dcm"),
        *("seg/ok/older.dcm", "sr/left/organs.dcm"),
    ]
    there = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*") if p.suffix != ".tsv"}
    # Of stages whose outcomes are not given nothing is known.
    assert there == {
        *("seg/ok/organs.dcm", "sr/ok/organs.dcm", "overlays/ok/organs.png"),
        *("sr/failed/organs.dcm", "seg/mine/x.dcm", "seg/ok/notes.txt", "seg/readme.txt"),
        "worklist/organs/left/README.txt",
    }
    assert not (tmp_path / "seg" / "left").exists()
    assert remove_leftovers(tmp_path, outcomes) == []
