"""The verdict counts cases, and an unacceptable run says so."""

from __future__ import annotations

import pandas as pd
import pytest

from jipflow.collect import Shards, accept, run, verdict
from jipflow.files import write_json, write_parquet
from jipflow.outcomes import Outcome, Status, write_outcomes
from jipflow.radiomics.measure import failure_table, feature_table
from jipflow.reasons import StageError
from jipflow.segment.quality import Quality, quality_table
from jipflow.settings.protocol import Tolerance
from jipflow.tables import AGREEMENT_COLUMNS, READING_COLUMNS

TOLERANCE = Tolerance()


def outcomes(ok, failed, excluded):
    rows = []
    for number in range(ok + failed):
        case = f"c{number}"
        rows += [Outcome(case, "cohort"), Outcome(case, "prepare", "CT")]
        status = Status.OK if number < ok else Status.FAILED
        rows.append(Outcome(case, "segment", "organs", status))
    rows += [Outcome(f"x{n}", "cohort", "", Status.EXCLUDED) for n in range(excluded)]
    return rows


@pytest.mark.parametrize(
    ("ok", "failed", "tolerated", "acceptable"),
    [(9, 1, 0.1, True), (8, 2, 0.1, False), (1, 0, 0.0, True), (0, 0, 1.0, False)],
)
def test_the_share_of_failed_cases_decides(ok, failed, tolerated, acceptable):
    result = verdict(outcomes(ok, failed, 3), Tolerance(max_failed_fraction=tolerated))
    assert (result["ok"], result["failed"], result["excluded"]) == (ok, failed, 3)
    assert result["cases"] == ok + failed
    assert result["acceptable"] is acceptable


def test_no_run_is_accepted_with_an_unexpected_error(tmp_path):
    found = outcomes(19, 1, 0)
    found[-1].reason = "unexpected_error"
    result = verdict(found, Tolerance(max_failed_fraction=1.0, max_waiting_fraction=1.0))
    assert (result["failed"], result["unexpected"], result["acceptable"]) == (1, 1, False)
    write_json(tmp_path / "verdict.json", result)
    with pytest.raises(
        StageError, match=r"1 of 20 cases met an error .* command tries these again"
    ):
        accept(tmp_path / "verdict.json")


def test_collect_joins_and_accept_checks(tmp_path):
    write_outcomes(tmp_path / "a.parquet", outcomes(1, 1, 0))
    row = {
        "patient": "p", "role": "CT", "segmentation": "s", "segment": "x",
        "voxels": 3, "volume_ml": 0.1, "measured_voxels": 3, "measured_box": "0 0 0 1 1 1",
        "settings_sha256": "0", "versions": "1",
    }  # fmt: skip
    write_parquet(
        tmp_path / "f1.parquet", feature_table([{**row, "case_id": "b", "original_x": 2.0}])
    )
    write_parquet(
        tmp_path / "f2.parquet", feature_table([{**row, "case_id": "a", "original_y": 1.0}])
    )
    write_parquet(tmp_path / "f3.parquet", feature_table([]))
    write_parquet(tmp_path / "n.parquet", failure_table([]))
    files = [tmp_path / f"f{n}.parquet" for n in (1, 2, 3)]
    looked = [tmp_path / f"q{n}.parquet" for n in (1, 2, 3)]
    for path, cases in zip(looked, ("b", "", "a"), strict=True):
        rows = [
            Quality(c, "s", "x", 0.1, 1, False, None, None, ("many_components",)) for c in cases
        ]
        write_parquet(path, quality_table(rows))
    shards = Shards(
        outcomes=[tmp_path / "a.parquet"],
        features=files,
        failures=[tmp_path / "n.parquet"],
        quality=looked,
    )
    run(shards=shards, tolerance=TOLERANCE, results=tmp_path)
    table = pd.read_parquet(tmp_path / "features" / "features.parquet")
    assert list(table["case_id"]) == ["a", "b"]
    assert list(table.columns[-2:]) == ["original_x", "original_y"]
    assert table["original_x"].isna().tolist() == [True, False]
    assert pd.read_parquet(tmp_path / "features" / "failures.parquet").empty
    quality = pd.read_parquet(tmp_path / "features" / "quality.parquet")
    assert list(quality["case_id"]) == ["a", "b"]
    assert [list(flags) for flags in quality["flags"]] == [["many_components"]] * 2
    with pytest.raises(StageError, match=r"1 of 2 cases failed \(50%\)"):
        accept(tmp_path / "verdict.json")


def test_what_is_joined_is_what_the_stages_of_the_shards_write(tmp_path):
    """The rule names none of these files: the command's length would go by the shards."""
    stages = ("prepare", "segment", "encode", "measure", "document", "overlay")
    shards = Shards.of(tmp_path, stages, ["s00002", "s00001"])
    names = [str(path.relative_to(tmp_path)) for path in shards.tables]
    assert names[:2] == ["cohort/outcomes.parquet", "shards/s00001/prepare/outcomes.parquet"]
    assert len(names) == len(set(names)) == 1 + 2 * 10
    assert (shards.readings, shards.agreement) == ([], [])
    more = Shards.of(tmp_path, (*stages, "retrieve", "annotate", "publish"), ["s00001"])
    assert len(more.tables) == 1 + 10 + 3 + len(["quality", "readings", "agreement"])


def test_an_empty_cohort_is_not_acceptable(tmp_path):
    write_outcomes(tmp_path / "a.parquet", [])
    run(shards=Shards(outcomes=[tmp_path / "a.parquet"]), tolerance=TOLERANCE, results=tmp_path)
    with pytest.raises(StageError, match="no case"):
        accept(tmp_path / "verdict.json")


def waiting(number, others):
    rows = [Outcome(f"w{n}", "annotate", "gtv", Status.WAITING, "awaiting_reader", "Draw.")
            for n in range(number)]  # fmt: skip
    rows += [Outcome(f"w{n}", "encode", "gtv", Status.WAITING, "depends_on_waiting", "Waits.")
             for n in range(number)]  # fmt: skip
    return [*rows, *outcomes(others, 0, 0)]


@pytest.mark.parametrize(("tolerated", "acceptable"), [(0.0, False), (0.39, False), (0.4, True)])
def test_a_case_that_waits_is_neither_ok_nor_failed(tolerated, acceptable):
    result = verdict(waiting(2, 3), Tolerance(max_waiting_fraction=tolerated))
    assert (result["cases"], result["ok"], result["failed"], result["waiting"]) == (5, 3, 0, 2)
    assert result["waiting_fraction"] == 0.4
    assert result["acceptable"] is acceptable


def test_a_case_that_waits_and_failed_has_failed():
    rows = [*waiting(1, 0), Outcome("w0", "segment", "organs", Status.FAILED, "no_contours")]
    result = verdict(rows, TOLERANCE)
    assert (result["ok"], result["failed"], result["waiting"]) == (0, 1, 0)


def test_who_waits_is_listed_and_keeps_the_run_from_being_accepted(tmp_path):
    write_outcomes(tmp_path / "a.parquet", waiting(2, 3))
    rows = pd.DataFrame(columns=list(READING_COLUMNS)), pd.DataFrame(columns=AGREEMENT_COLUMNS)
    for name, table in zip(("r", "g"), rows, strict=True):
        write_parquet(tmp_path / f"{name}.parquet", table)
    tables = {"readings": [tmp_path / "r.parquet"], "agreement": [tmp_path / "g.parquet"]}
    run(
        shards=Shards(outcomes=[tmp_path / "a.parquet"], **tables),
        tolerance=TOLERANCE,
        results=tmp_path,
    )
    listed = pd.read_csv(tmp_path / "worklist" / "worklist.tsv", sep="\t")
    assert list(listed["folder"]) == ["worklist/gtv/w0", "worklist/gtv/w1"]
    with pytest.raises(StageError, match=r"2 of 5 cases wait for a person \(40%\).*worklist.tsv"):
        accept(tmp_path / "verdict.json")
