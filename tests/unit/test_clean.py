"""What can be removed of results is named with its size, and all that must stay stays."""

from __future__ import annotations

import pytest

from jipflow.cli import main
from jipflow.files import write_json
from jipflow.repair.clean import ASKED, KINDS, find_removable
from repair_world import SETTINGS, write_cohort, write_shard
from test_standing import a_run

STAYS = (
    *("identity.json", "ledger.json", "audit.json", "erased.json", "catalog/series.parquet"),
    *("exchange/in/message.age", "exchange/out/.partial-x-message.age"),
    *("lung/bundles/lung-north-r01-a1.zip", "lung/bundles/provenance.json"),
    *("lung/release/r01/aggregates.json", "lung/release/r02/approval.json"),
    *("lung/release/r04/.partial-x-approval.json", "lung/behind/r03/cells.json"),
    *("lung/worklist/gtv/aaa/README.txt", "lung/inbox/gtv/aaa/reader/contours.dcm"),
    *("lung/seg/aaa/gtv.dcm", "lung/features/features.parquet", "lung/published/s00009.jsonl"),
    *("lung/rounds/r01/state.json", "lung/work/train/split.json"),
)
"""What no kind finds."""

REMOVABLE = {
    "shards": ("lung/shards/s00009/prepare/outcomes.parquet", "lung/logs/segment/s00009.log"),
    "work": ("lung/work/s00001/volumes/aaa/CT.nrrd",),
    "partial": ("lung/features/.partial-host-1-features.parquet", "catalog/.partial-scratch/a"),
    "subset": ("lung/subset/report/index.html",),
    "candidates": ("lung/release/r03/aggregates.json", "lung/release/r03.provenance.json"),
    "retrieved": ("retrieved/pacs/1.2.3/1.dcm",),
}


@pytest.fixture
def results(tmp_path):
    """Results with a bit of everything; round 4 is open."""
    folder = tmp_path / "lung"
    write_cohort(folder, {"s00001": ["aaa"]})
    write_shard(folder, "s00001", ["aaa"], {})
    for name in (*STAYS, *(name for names in REMOVABLE.values() for name in names)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
    write_json(folder / "rounds" / "standing.json", {"round": 4})
    return tmp_path


def test_every_kind_finds_its_own_and_nothing_that_stays(results):
    for kind, names in REMOVABLE.items():
        found = find_removable(results, [kind], None)
        assert sum(each.bytes for each in found) == 1000 * len(names)
        for name in names:
            place = results / name
            assert any(place.is_relative_to(each.path) for each in found), name
    everything = [each.path for each in find_removable(results, KINDS, None)]
    for name in STAYS:
        assert not any((results / name).is_relative_to(path) for path in everything), name
    assert set(REMOVABLE) == set(KINDS)


def printed(capsys, results, *words):
    code = main(["clean", "--results", str(results), *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_nothing_is_removed_without_apply(results, capsys):
    before = sorted(results.rglob("*"))
    code, text = printed(capsys, results)
    assert code == 0
    assert text.endswith("can be removed: 8.0 kB; --apply removes it\n")
    assert f"     1.0 kB  {results}/lung/work/s00001\n" in text
    assert "retrieved" not in text
    assert sorted(results.rglob("*")) == before


def test_what_was_named_is_removed_and_all_else_is_there(results, capsys):
    before = {path for path in results.rglob("*") if path.is_file()}
    assert printed(capsys, results, "--apply")[1].endswith("removed: 8.0 kB\n")
    gone = {results / name for kind in KINDS.keys() - ASKED for name in REMOVABLE[kind]}
    assert before - set(results.rglob("*")) == gone
    assert printed(capsys, results)[1] == "nothing can be removed\n"
    assert "retrieved: images from a PACS" in printed(capsys, results, "--only", "retrieved")[1]
    assert printed(capsys, results, "--only", "retrieved", "--apply")[0] == 0
    assert list((results / "retrieved").iterdir()) == []


def test_a_run_keeps_its_files(results, capsys):
    before = sorted(results.rglob("*"))
    with a_run(results):
        code, text = printed(capsys, results, "--apply")
        assert (code, "is in use by" in text) == (1, True)
    assert [path for path in before if not path.exists()] == []


def test_masks_that_readers_files_need_again_stay(results):
    spec = {"id": "gtv", "engine": "annotated"}
    settings = {**SETTINGS, "protocol": {"segmentations": [spec]}}
    write_json(results / "lung" / "settings.json", settings)
    assert find_removable(results, ["work"], None) == []


def test_a_cohort_that_is_not_there_says_nothing_about_its_shards(results):
    (results / "lung" / "cohort" / "provenance.json").unlink()
    assert find_removable(results, ["shards"], None) == []


@pytest.mark.parametrize("end", ["", "bbb\t", "bbb"])
def test_a_cohort_whose_cases_were_cut_off_says_nothing_about_its_shards(results, end):
    write_cohort(results / "lung", {"s00001": ["aaa"], "s00002": ["bbb"]})
    write_shard(results / "lung", "s00002", ["bbb"], {})
    assert len(find_removable(results, ["shards"], None)) == len(REMOVABLE["shards"])
    cases = results / "lung" / "cohort" / "cases.tsv"
    whole = cases.read_text()
    cases.write_text(whole.partition("bbb")[0] + end)
    assert find_removable(results, ["shards"], None) == []
    # A disk that lost power may leave the length alone.
    cases.write_text((whole.partition("bbb")[0] + end).ljust(len(whole), "\0"))
    assert find_removable(results, ["shards"], None) == []


def test_the_site_s_own_files_stay_wherever_they_lie(results):
    keys = results / "lung" / "subset" / "keys"
    keys.mkdir()
    (keys / "site.key").touch()
    site = {**SETTINGS["site"], "identity": {"signing_key_file": str(keys / "site.key")}}
    # Images may lie in a folder around the results.
    site["sources"] = [{"kind": "folder", "path": str(results.parent)}]
    write_json(results / "lung" / "settings.json", {**SETTINGS, "site": site})
    assert find_removable(results, ["subset"], None) == []
    assert find_removable(results, ["work"], None) != []


def test_a_link_is_removed_and_not_what_it_leads_to(results, tmp_path_factory, capsys):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "kept").touch()
    (results / "lung" / "shards" / "s00008").symlink_to(elsewhere)
    assert printed(capsys, results, "--only", "shards", "--apply")[0] == 0
    assert not (results / "lung" / "shards" / "s00008").is_symlink()
    assert (elsewhere / "kept").is_file()


def test_an_unknown_kind_is_refused(results, capsys):
    with pytest.raises(SystemExit):
        main(["clean", "--results", str(results), "--only", "shard"])
    assert "there is no kind 'shard'; did you mean 'shards'?" in capsys.readouterr().err
