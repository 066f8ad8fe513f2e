"""Which cases a first try is of, and the jobs that it and a later run of all cases have."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from jipflow.collect import Shards, run
from jipflow.files import read_json, write_json, write_parquet
from jipflow.outcomes import Outcome, read_outcomes, write_outcomes
from jipflow.release.candidate import ReleaseError, _check_verdict
from jipflow.settings.protocol import Tolerance
from jipflow.settings.resources import ConfigError
from jipflow.subset import Subset, instances_of, is_current, jobs_of, read_subset, subset_of

SHARDS = {"aaa": "s00001", "bbb": "s00001", "ccc": "s00001", "ddd": "s00002"}


@pytest.fixture
def results(tmp_path):
    """The results of a protocol whose cohort was chosen."""
    lines = ["case_id\tshard\trole", *(f"{c}\t{s}\tCT" for c, s in SHARDS.items())]
    (tmp_path / "cohort" / "apart").mkdir(parents=True)
    (tmp_path / "cohort" / "cases.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def begin(results, name):
    """Let a job of a shard have ended."""
    write_json(results / "shards" / name / "prepare" / "provenance.json", {})


def cases(results, subset=None):
    return {name: sorted(of) for name, of in jobs_of(results, subset).cases.items()}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"case": "bbb"}, Subset(("bbb",))),
        ({"case": "bbb, aaa,bbb"}, Subset(("aaa", "bbb"))),
        ({"case": ["bbb", "aaa"], "shards": 2}, Subset(("aaa", "bbb"), ("s00002",))),
        # Snakemake reads the entry as a text or as a number.
        ({"shards": "0001,0003"}, Subset((), ("s00001", "s00003"))),
        ({"shards": "s00001,1"}, Subset((), ("s00001",))),
        ({"case": 2345672345672345}, Subset(("2345672345672345",))),
    ],
)
def test_a_configuration_names_cases_and_shards(config, expected):
    found = read_subset({**config, "site": {}})
    assert found == expected
    if found:
        assert subset_of(found.words) == found


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"case": "aaa,"}, "case: a name is empty"),
        ({"case": None}, "case: name pseudonyms"),
        ({"case": True}, "case: name pseudonyms"),
        ({"shards": "first"}, "shards: 'first' is no shard; name it by its number, as 0003."),
        ({"shards": 1.5}, "shards: name their numbers"),
    ],
)
def test_what_is_no_name_is_refused(config, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_subset(config)


def test_unknown_names_are_refused_with_those_that_are_like_them():
    with pytest.raises(ConfigError, match="no case 'aab'; did you mean 'aaa'"):
        Subset(("aab",)).chosen(SHARDS)
    with pytest.raises(ConfigError, match="no shard 's00003'; did you mean 's00002'"):
        Subset((), ("s00003",)).chosen(SHARDS)


def test_a_case_of_a_shard_that_was_not_begun_becomes_a_part_of_it(results):
    assert cases(results) == {"s00001": ["aaa", "bbb", "ccc"], "s00002": ["ddd"]}
    assert cases(results, Subset(("bbb",))) == {"s00001-bbb": ["bbb"]}
    assert cases(results, Subset(("ddd",))) == {"s00002": ["ddd"]}
    assert cases(results, Subset(("ddd",), ("s00001",))) == cases(results)


def test_a_part_stays_one_and_a_run_of_all_has_what_is_left(results):
    (results / "cohort" / "apart" / "s00001-bbb.parquet").touch()
    jobs = jobs_of(results)
    left = {"s00001": ["aaa", "ccc"], "s00001-bbb": ["bbb"], "s00002": ["ddd"]}
    assert {name: sorted(of) for name, of in jobs.cases.items()} == left
    files = {name: jobs.instances(results / "cohort", name) for name in left}
    assert {name: path.parent.name for name, path in files.items()} == {
        "s00001": "apart",
        "s00001-bbb": "apart",
        "s00002": "shards",
    }
    assert cases(results, Subset(("aaa",))) == {"s00001-aaa": ["aaa"]}
    # What is left is computed: it is not taken apart further.
    begin(results, "s00001")
    assert cases(results, Subset(("aaa", "bbb"))) == {
        "s00001": ["aaa", "ccc"],
        "s00001-bbb": ["bbb"],
    }
    assert cases(results) == left


def test_a_shard_that_was_begun_is_not_split(results):
    begin(results, "s00001")
    assert cases(results, Subset(("bbb",))) == {"s00001": ["aaa", "bbb", "ccc"]}


def test_the_instances_of_a_part_are_compared_with_the_shard_now(tmp_path):
    shard, part = tmp_path / "s00001.parquet", tmp_path / "s00001-bbb.parquet"
    rows = [{"case_id": case, "path": f"/{case}/{n}"} for case in ("aaa", "bbb") for n in (1, 2)]
    write_parquet(shard, pa.Table.from_pylist(rows))
    write_parquet(part, instances_of(shard, ["bbb"]))
    assert is_current(part, shard, ["bbb"])
    write_parquet(shard, pa.Table.from_pylist(rows[1:]))
    assert is_current(part, shard, ["bbb"])
    write_parquet(shard, pa.Table.from_pylist(rows[:-1]))
    assert not is_current(part, shard, ["bbb"])
    part.write_bytes(b"")
    assert not is_current(part, shard, ["bbb"])


def test_tables_of_a_subset_lie_apart_and_no_release_is_built_of_them(results):
    made = [Outcome(case, "cohort") for case in SHARDS]
    write_outcomes(results / "cohort" / "outcomes.parquet", made)
    write_outcomes(
        results / "shards" / "s00001" / "prepare" / "outcomes.parquet",
        [Outcome(case, "prepare", "CT") for case in ("aaa", "bbb", "ccc")],
    )
    assignment = ["case_id\tshard", *(f"{case}\t{shard}" for case, shard in SHARDS.items())]
    (results / "cohort" / "assignment.tsv").write_text("\n".join(assignment) + "\n")
    (results / "seg" / "ddd").mkdir(parents=True)
    (results / "seg" / "ddd" / "gtv.dcm").touch()
    shards = Shards(outcomes=sorted(results.rglob("outcomes.parquet")))
    out, subset = results / "subset", Subset(("bbb", "aaa"))
    run(shards=shards, tolerance=Tolerance(), results=results, out=out, subset=subset)
    assert {o.case_id for o in read_outcomes(out / "outcomes.parquet")} == {"aaa", "bbb"}
    assert not (results / "outcomes.parquet").exists()
    assert (results / "seg" / "ddd" / "gtv.dcm").exists()
    verdict = read_json(out / "verdict.json")
    assert (verdict["cases"], verdict["subset"]) == (2, {"cases": 2, "of": 4})
    with pytest.raises(ReleaseError, match=r"are of a subset, 2 of 4 cases, of which no release"):
        _check_verdict(verdict)
