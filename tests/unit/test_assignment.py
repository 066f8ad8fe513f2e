"""A case keeps its shard for ever, also where the table that says so was cut off."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jipflow.catalog.assignment import assigned, usual_size
from jipflow.reasons import StageError

CASES = ["aaa", "bbb", "ccc", "ddd", "eee"]


@pytest.fixture
def cohort(tmp_path):
    """A cohort whose cases came in an order of their own; ``eee`` has left it since."""
    path = tmp_path / "cohort" / "assignment.tsv"
    path.parent.mkdir()
    for cases in (["ddd", "eee"], ["aaa", "ddd", "eee"], CASES):
        shards = assigned(path, cases, 2)
    assert shards == {
        **dict.fromkeys(["ddd", "eee"], "s00001"),
        **{"aaa": "s00002", "bbb": "s00003", "ccc": "s00003"},
    }
    (path.parent / "shards").mkdir()
    for shard in set(shards.values()):
        of_it = [case for case in CASES if shards[case] == shard]
        pq.write_table(pa.table({"case_id": of_it}), path.parent / "shards" / f"{shard}.parquet")
    rows = [f"{case}\tx\t{shards[case]}" for case in CASES[:-1]]
    path.with_name("cases.tsv").write_text("\n".join(["case_id\tpatient\tshard", *rows]) + "\n")
    return path, shards


@pytest.mark.parametrize("left", [0, 5, 16, 30, 37, -1, None])
def test_a_table_that_was_cut_off_is_written_again_as_it_was(cohort, left):
    path, shards = cohort
    content = path.read_bytes()
    path.unlink() if left is None else path.write_bytes(content[:left])
    assert assigned(path, CASES[:-1], 2) == {case: shards[case] for case in CASES[:-1]}
    assert path.read_bytes() == content


def test_wherever_a_table_is_cut_off_no_case_moves(cohort):
    """The run that chooses the cohort again has no ``cases.tsv``: Snakemake removes it before."""
    path, shards = cohort
    content = path.read_bytes()
    path.with_name("cases.tsv").unlink()
    for left in range(len(content)):
        path.write_bytes(content[:left])
        found = assigned(path, [*CASES, "new"], 2)
        assert found == {**shards, "new": "s00004"}, left


@pytest.mark.parametrize("block", [8, 20, 40])
def test_a_table_whose_beginning_was_lost_is_written_again_as_it_was(cohort, block):
    path, shards = cohort
    content = path.read_bytes()
    path.write_bytes(bytes(block) + content[block:])
    assert assigned(path, CASES, 2) == shards
    assert path.read_bytes() == content


def test_a_case_that_stands_twice_is_where_it_stood_first(cohort):
    path, shards = cohort
    path.write_text("\ufeff" + path.read_text() + "aaa\ts00001\n")
    assert assigned(path, CASES, 2) == shards


def test_a_number_is_never_given_again(cohort):
    path, shards = cohort
    path.write_bytes(b"")
    path.with_name("cases.tsv").write_bytes(b"")
    (path.parent / "shards" / "s00003.parquet").write_bytes(b"PAR1")
    found = assigned(path, CASES, 2)
    assert {case: found[case] for case in ("aaa", "ddd", "eee")} == {
        case: shards[case] for case in ("aaa", "ddd", "eee")
    }
    assert (found["bbb"], found["ccc"]) == ("s00004", "s00004")


@pytest.mark.parametrize("known", [["bbb", "ccc"], ["bbb"], []])
def test_where_all_that_chose_is_lost_the_cases_are_where_they_were_computed(cohort, known):
    path, shards = cohort
    path.write_bytes(b"")
    path.with_name("cases.tsv").unlink()
    (path.parent / "shards" / "s00003.parquet").unlink()
    made = path.parents[1] / "shards" / "s00003" / "prepare"
    made.mkdir(parents=True)
    pq.write_table(pa.table({"case_id": known}), made / "outcomes.parquet")
    (made.parent / "encode").mkdir()
    (made.parent / "encode" / "outcomes.parquet").write_bytes(b"PAR1")
    found = assigned(path, CASES, 2)
    assert found == {
        case: shards[case] if case in known or case < "b" or case > "d" else "s00004"
        for case in CASES
    }


def test_a_cohort_with_more_shards_than_numbers_is_refused_with_the_size_that_helps(tmp_path):
    path = tmp_path / "cohort" / "assignment.tsv"
    path.parent.mkdir()
    path.write_text("case_id\tshard\nold\ts99997\n")
    content = path.read_bytes()
    with pytest.raises(StageError, match=r"5 new cases need 5 new .*shard_size .* to 3 or more"):
        assigned(path, CASES, 1)
    assert path.read_bytes() == content
    assert assigned(path, CASES, 3)["eee"] == "s99999"
    with pytest.raises(StageError, match=r"and 0 are left of the 99999 .*; name new results\."):
        assigned(path, [*CASES, "new"], 50)


@pytest.mark.parametrize(
    ("cases", "shards", "size"),
    [
        (0, 0, 50),
        (51, 2, 50),
        (35_000, 700, 50),
        (36_414, 714, 51),
        (100_000, 1_191, 84),
        (1_000_000, 11_905, 84),
        (10_000_000, 99_010, 101),
    ],
)
def test_shards_and_their_size_grow_alike_where_no_size_is_set(cases, shards, size):
    assert usual_size(cases) == size
    assert -(-cases // size) == shards
