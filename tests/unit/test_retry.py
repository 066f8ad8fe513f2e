"""What failed is tried again: which outcomes are meant, what runs, and what is removed."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from jipflow.cli import main
from jipflow.files import sha256_file, write_json, write_parquet
from jipflow.outcomes import Outcome
from jipflow.reasons import StageError
from jipflow.repair.retry import Choice, find_again
from repair_world import SETTINGS, STAGES, write_cohort, write_shard, write_stage
from test_standing import a_run

FAILED = {"bbb": ("segment", "no_contours"), "ddd": ("prepare", "missing_slices")}


@pytest.fixture
def results(tmp_path):
    """Two shards that are done, in each of which a case failed."""
    folder = tmp_path / "lung"
    shards = {"s00001": ["aaa", "bbb", "ccc"], "s00002": ["ddd", "eee"]}
    write_cohort(folder, shards, ["xxx"])
    for shard, cases in shards.items():
        write_shard(folder, shard, cases, FAILED)
    return tmp_path


def meant(results, **choice):
    return [(each.stage, each.job) for each in find_again(results / "lung", Choice(**choice))]


def test_all_that_failed_is_meant_or_what_is_named(results):
    both = [("segment", "s00001"), ("prepare", "s00002")]
    assert meant(results) == both
    assert meant(results, stages=["segment"]) == both[:1]
    assert meant(results, reasons=["missing_slices"]) == both[1:]
    assert meant(results, cases=["bbb"]) == both[:1]
    assert meant(results, cases=["bbb"], stages=["prepare"]) == []
    assert meant(results, excluded=True) == [("cohort", ""), *both]
    assert meant(results, excluded=True, reasons=["missing_role"]) == [("cohort", "")]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"stages": ["mesure"]}, "no outcome has the stage 'mesure'; did you mean 'measure'"),
        ({"reasons": ["no_contour"]}, "has the reason 'no_contour'; did you mean 'no_contours'"),
        ({"cases": ["aab"]}, "no outcome has the case 'aab'; did you mean 'aaa'"),
        ({"reasons": ["missing_role"]}, "'missing_role' is of cases that the cohort left out; add"),
        ({"cases": ["xxx"]}, "'xxx' is of cases that the cohort left out; add --excluded"),
    ],
)
def test_names_of_nothing_are_refused(results, choice, message):
    with pytest.raises(StageError, match=message):
        meant(results, **choice)


def test_what_runs_is_what_leads_back_to_it_and_what_makes_its_volumes_again(results):
    def runs(**choice):
        (again,) = find_again(results / "lung", Choice(**choice))
        return again.follows

    # Volumes and masks of a shard that is done are gone.
    assert runs(cases=["bbb"]) == STAGES
    assert runs(cases=["ddd"]) == STAGES
    for name in ("volumes", "masks"):
        (results / "lung" / "work" / "s00001" / name).mkdir(parents=True)
    assert runs(cases=["bbb"]) == STAGES[1:]


def printed(capsys, results, *words):
    code = main(["retry", "--results", str(results), *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_nothing_is_removed_without_apply(results, capsys):
    before = {path: sha256_file(path) for path in results.rglob("*.*") if path.is_file()}
    assert printed(capsys, results) == (
        0,
        "segment of s00001: 1 item of 1 case (no_contours 1); runs: prepare, segment, encode, "
        "measure, document, overlay; 2 other cases with the same result\n"
        "prepare of s00002: 1 item of 1 case (missing_slices 1); runs: prepare, segment, encode, "
        "measure, document, overlay; 1 other case with the same result\n"
        "nothing was removed; --apply lets the next run try these again\n",
    )
    assert {path: sha256_file(path) for path in before} == before


def test_the_outcomes_of_just_these_jobs_are_removed(results, capsys):
    before = {path for path in results.rglob("*") if path.is_file()}
    code, text = printed(capsys, results, "--reason", "no_contours", "--apply")
    assert code == 0
    assert text.endswith("2 files removed; the same snakemake command runs these\n")
    gone = before - set(results.rglob("*"))
    place = results / "lung" / "shards" / "s00001" / "segment"
    assert gone == {place / "outcomes.parquet", place / "provenance.json"}
    assert printed(capsys, results, "--stage", "overlay") == (
        0,
        "nothing that failed is meant: nothing would run\n",
    )


@pytest.fixture
def fetched(results):
    """The same from a PACS, with a series of bbb that ddd of another shard has, too."""
    series = {"aaa": ["1.1"], "bbb": ["1.2", "1.3"], "ccc": ["1.4"], "ddd": ["1.3"], "eee": ["1.5"]}
    folder = results / "lung"
    for shard, cases in (("s00001", "abc"), ("s00002", "de")):
        rows = [
            (letter * 3, uid, results / "retrieved" / "pacs" / uid / "1.9.dcm")
            for letter in cases
            for uid in series[letter * 3]
        ]
        for *_, path in rows:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        write_images(folder / "cohort" / "shards" / f"{shard}.parquet", rows)
        outcomes = [
            Outcome(case, "retrieve", "CT") for case in dict.fromkeys(row[0] for row in rows)
        ]
        write_stage(folder, shard, "retrieve", outcomes)
    sources = [{"name": "pacs", "kind": "dicomweb"}, {"name": "disk", "kind": "folder"}]
    write_json(folder / "settings.json", {**SETTINGS, "site": {"sources": sources}})
    return results


def write_images(table, rows, source="pacs"):
    table.parent.mkdir(parents=True, exist_ok=True)
    columns = ["case_id", "source", "series_uid", "sop_uid", "path"]
    filled = [(case, source, uid, "1.9", str(path)) for case, uid, path in rows]
    write_parquet(table, pd.DataFrame(filled, columns=columns))


def images(results):
    return sorted(path.parent.name for path in (results / "retrieved").rglob("*.dcm"))


def test_what_was_corrected_in_a_pacs_is_fetched_again(fetched, capsys):
    code, text = printed(capsys, fetched, "--case", "aaa", "--fetch")
    assert text.startswith("retrieve of s00001: 1 item of 1 case (ok 1); runs: retrieve")
    assert "; 2 other cases with the same result; 1 image of a PACS fetched again\n" in text
    assert images(fetched) == ["1.1", "1.2", "1.3", "1.4", "1.5"]
    code, text = printed(capsys, fetched, "--case", "aaa", "--fetch", "--apply")
    assert (code, images(fetched)) == (0, ["1.2", "1.3", "1.4", "1.5"])
    assert not (fetched / "lung" / "shards" / "s00001" / "retrieve" / "provenance.json").exists()
    assert (fetched / "lung" / "shards" / "s00002" / "retrieve" / "provenance.json").exists()


def test_of_what_failed_the_images_are_fetched_again_in_each_shard_that_has_them(fetched, capsys):
    code, text = printed(capsys, fetched, "--reason", "no_contours", "--fetch", "--apply")
    assert (code, images(fetched)) == (0, ["1.1", "1.4", "1.5"])
    starts = [line.partition(":")[0] for line in text.splitlines()[:3]]
    # What the cases are found by goes last, so that a command that is killed is given again.
    assert starts == ["retrieve of s00001", "retrieve of s00002", "segment of s00001"]
    for shard in ("s00001", "s00002"):
        assert not (fetched / "lung" / "shards" / shard / "retrieve" / "provenance.json").exists()


@pytest.mark.parametrize("source", ["disk", "pacs"])
def test_images_of_a_folder_are_never_removed(fetched, tmp_path, capsys, source):
    """Neither those of a folder in the results, nor any elsewhere."""
    inside = fetched / "retrieved" / "disk" / "1.1" / "1.9.dcm"
    elsewhere = tmp_path / "archive" / "1.9.dcm"
    climbing = fetched / "retrieved" / "pacs" / ".." / "pacs" / "1.1" / "1.9.dcm"
    for path in (inside, elsewhere):
        path.parent.mkdir(parents=True)
        path.touch()
    table = fetched / "lung" / "cohort" / "shards" / "s00001.parquet"
    write_images(table, [("aaa", "1.1", p) for p in (inside, elsewhere, climbing)], source)
    before = images(fetched)
    code, text = printed(capsys, fetched, "--case", "aaa", "--fetch", "--apply")
    assert code == 1
    messages = {"disk": "no image of these cases was fetched", "pacs": "to another folder than"}
    assert messages[source] in text
    assert images(fetched) == before
    assert elsewhere.is_file()


def test_results_may_have_been_reached_by_another_path(fetched, tmp_path, capsys):
    (tmp_path / "link").symlink_to(fetched)
    code, _ = printed(capsys, tmp_path / "link", "--case", "aaa", "--fetch", "--apply")
    assert (code, images(fetched)) == (0, ["1.2", "1.3", "1.4", "1.5"])


def test_what_is_left_of_a_shard_that_was_tried_needs_no_table(fetched, capsys):
    table = fetched / "lung" / "cohort" / "shards" / "s00002.parquet"
    table.unlink()
    assert printed(capsys, fetched, "--case", "aaa", "--fetch")[0] == 0


def test_another_protocol_with_the_same_images_is_named(fetched, capsys):
    shutil.copytree(fetched / "lung", fetched / "liver")
    words = ("--protocol", "lung", "--case", "aaa", "--fetch")
    printed_line = "protocol liver has some of these images, too: --case aaa --fetch\n"
    assert printed_line in printed(capsys, fetched, *words)[1]
    assert "liver" not in printed(capsys, fetched, "--protocol", "lung")[1]
    (fetched / "liver" / "cohort" / "shards" / "s00001.parquet").write_bytes(b"PAR1")
    assert "protocol liver may have some of these images" in printed(capsys, fetched, *words)[1]


def test_a_run_keeps_them_and_a_look_is_free(results, capsys):
    before = sorted(results.rglob("*"))
    with a_run(results) as run:
        code, text = printed(capsys, results, "--apply")
        assert code == 1
        assert f"is in use by the run of process {run.pid}" in text
        assert printed(capsys, results)[0] == 0
    assert [path for path in before if not path.exists()] == []


def test_of_several_protocols_one_is_named(results, capsys):
    write_cohort_of_another(results)
    with pytest.raises(SystemExit):
        main(["retry", "--results", str(results)])
    assert "name one by --protocol: liver, lung" in capsys.readouterr().err
    assert printed(capsys, results, "--protocol", "lung")[0] == 0
    assert printed(capsys, results / "none")[1].startswith("jipflow: There are no results in ")


def write_cohort_of_another(results):
    (results / "liver").mkdir()
    write_cohort(results / "liver", {"s00001": ["aaa"]})
