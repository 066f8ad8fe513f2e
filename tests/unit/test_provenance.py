"""Whether a result is up to date follows from the records beside it, and from nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from config_files import demo_protocol, loaded, site_of
from jipflow import provenance
from jipflow.provenance import Making, beside, check_provenance, difference, read_provenance
from jipflow.reasons import StageError
from jipflow.settings.dependence import DEPENDENCE

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"segment": {"segmentations": "a"}, "measure": {"radiomics": "b"}, "collect": {}}


def make(stage, table, inputs, state=""):
    """What a job does: it reads, writes its table, and last its record."""
    making = Making(stage, SETTINGS[stage], inputs, state)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(f"{stage} of {[path.read_text() for path in inputs]}")
    making.finish(beside(table), [table])
    return table


def make_all(results):
    cases = results / "cohort" / "s1.parquet"
    cases.parent.mkdir(parents=True, exist_ok=True)
    cases.write_text("cases")
    segmented = make("segment", results / "shards" / "s1" / "segment" / "t", [cases])
    measured = make(
        "measure", results / "shards" / "s1" / "measure" / "t", [cases, beside(segmented)]
    )
    return make("collect", results / "features" / "t", [beside(measured)])


@pytest.fixture
def results(tmp_path):
    make_all(tmp_path / "r")
    return tmp_path / "r"


def measured(results):
    return results / "shards" / "s1" / "measure" / "provenance.json"


def differs(results, settings=SETTINGS["measure"], **now):
    return difference(measured(results), "measure", settings, **now)


def check(results, settings=SETTINGS):
    table = results / "features" / "t"
    check_provenance({beside(table): [table]}, settings.__getitem__)


def test_what_was_just_made_is_up_to_date(results):
    assert differs(results) == ""
    check(results)


def test_neither_times_nor_the_place_of_files_count(results, tmp_path, monkeypatch):
    for number, path in enumerate(sorted(results.rglob("*"))):
        os.utime(path, (number * 7919 % 1000, number * 7919 % 1000))
    copy = shutil.copytree(results, tmp_path / "other" / "deep" / "copy")
    link = tmp_path / "link"
    link.symlink_to(copy)
    monkeypatch.chdir(tmp_path)
    for spelling in (results, copy, link, Path("r"), Path("./link"), Path("other/../r")):
        assert differs(spelling) == ""
        check(spelling)


def test_other_settings_are_named(results):
    assert differs(results, {"radiomics": "c"}) == "it was computed with other settings (radiomics)"
    assert "(more, radiomics)" in differs(results, {"more": "b"})


def test_another_version_is_named(results, monkeypatch):
    monkeypatch.setattr(provenance, "__version__", "9.9.9")
    assert differs(results).endswith("this is 9.9.9")
    with pytest.raises(StageError, match=r"this is 9\.9\.9; run the same snakemake command again"):
        check(results)


def forget_versions():
    provenance.libraries.cache_clear()
    provenance._version.cache_clear()


def test_another_version_of_a_library_is_named(results, monkeypatch):
    assert json.loads(measured(results).read_text())["libraries"].keys() >= {"numpy", "scipy"}
    real = provenance.metadata.version
    monkeypatch.setattr(
        provenance.metadata, "version", lambda name: "9.9" if name == "scipy" else real(name)
    )
    forget_versions()
    change = f"it was computed with scipy {real('scipy')}, here it is 9.9"
    try:
        assert differs(results) == change
        assert differs(results, here=False) == ""
        with pytest.raises(StageError, match=rf"measure is out of date: {change}; .* --forceall"):
            check(results)
    finally:
        forget_versions()


@pytest.mark.parametrize(
    ("versions", "counts"),
    [((None, "2.13.0"), False), (("2.13.0", None), False), (("2.12.1", "2.13.0"), True)],
    ids=["installed since", "removed since", "another version"],
)
def test_nnunet_that_a_site_installs_later_changes_no_imported_contour(
    tmp_path, monkeypatch, versions, counts
):
    here = {"numpy": "2.4.6", "scipy": "1.17.1"}
    then, now = (here | ({"torch": version} if version else {}) for version in versions)
    record, table = tmp_path / "provenance.json", tmp_path / "outcomes.parquet"
    table.write_text("outcomes")
    monkeypatch.setattr(provenance, "libraries", lambda stage: then)
    provenance.Making("segment", {}, []).finish(record, [table])
    monkeypatch.setattr(provenance, "libraries", lambda stage: now)
    expected = "it was computed with torch 2.12.1, here it is 2.13.0" if counts else ""
    assert provenance.difference(record, "segment", {}) == expected
    monkeypatch.setattr(provenance, "libraries", lambda stage: {**now, "scipy": "9"})
    assert "scipy" in provenance.difference(record, "segment", {})


def test_each_library_that_a_stage_names_is_installed():
    """A name that is misspelt would never be seen to change."""
    for stage in provenance.LIBRARIES:
        assert stage in DEPENDENCE
        assert provenance.libraries(stage).keys() == set(provenance.LIBRARIES[stage])


def test_an_input_that_was_made_again_or_is_gone_counts(results):
    cases = results / "cohort" / "s1.parquet"
    cases.write_text("CASES")
    os.utime(cases, (1, 1))
    assert "s1.parquet has changed" in differs(results)
    cases.write_text("cases")
    assert differs(results) == ""
    cases.unlink()
    assert "s1.parquet has changed" in differs(results)


def test_a_job_of_fewer_inputs_than_there_are_counts(results):
    shard = results / "shards" / "s1"
    inputs = [results / "cohort" / "s1.parquet", shard / "segment" / "provenance.json"]
    assert differs(results, inputs=inputs) == ""
    assert "fewer or other inputs" in differs(results, inputs=inputs[:1])
    assert "fewer or other inputs" in differs(results, inputs=[*inputs, shard / "s2"])


def test_what_people_sent_counts(tmp_path):
    table = make("measure", tmp_path / "t", [], state="one file")
    now = partial(difference, beside(table), "measure", SETTINGS["measure"])
    assert now(state="one file") == ""
    assert "people" in now(state="two files")
    assert "people" in now()


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"stage": "measure"}'])
def test_without_a_record_nothing_is_up_to_date(results, content):
    measured(results).unlink()
    if content is not None:
        measured(results).write_text(content)
    assert differs(results) == "nothing says what it was computed with"
    with pytest.raises(StageError):
        check(results)


def test_the_record_of_another_stage_does_not_count(results):
    shutil.copyfile(results / "shards" / "s1" / "segment" / "provenance.json", measured(results))
    assert differs(results) == "nothing says what it was computed with"


def test_a_stage_far_up_that_is_out_of_date_is_found(results):
    with pytest.raises(StageError, match=r"s1/segment: segment is out of date.*\(segmentations\)"):
        check(results, SETTINGS | {"segment": {"segmentations": "other"}})


def test_a_stage_that_was_made_again_since_is_found(results):
    make("segment", results / "shards" / "s1" / "segment" / "t", [])
    with pytest.raises(StageError, match=r"measure is out of date: its input \.\./segment/prov"):
        check(results)


def test_a_table_that_was_changed_is_found_and_how_to_go_on(results):
    table = results / "shards" / "s1" / "segment" / "t"
    table.write_text("by hand")
    with pytest.raises(
        StageError, match=f"is not what segment wrote there; remove {beside(table)}"
    ):
        check(results)


@pytest.mark.parametrize("left", [b"", b"segm", b"more than measure of ever was in it" * 9])
def test_a_table_of_another_length_is_made_again(results, left):
    (results / "shards" / "s1" / "measure" / "t").write_bytes(left)
    assert differs(results) == "its file t was cut off or changed"


def test_a_table_that_is_gone_is_named_where_it_shall_be_there(results):
    table = measured(results).with_name("t")
    table.unlink()
    assert differs(results) == ""
    assert differs(results, tables=True) == "its file t is gone"


def test_so_is_another_file_of_the_job_and_a_folder_that_waits_for_other_jobs(tmp_path):
    record = tmp_path / "shards" / "s1" / "encode" / "provenance.json"
    seg, masks = tmp_path / "seg" / "case" / "gtv.dcm", tmp_path / "work" / "s1" / "masks"
    for path in (seg, masks / "case" / "layer.nrrd", masks / "case" / "segments.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
    Making("measure", {}, []).finish(record, [], [seg], [masks])
    assert difference(record, "measure", {}) == ""
    os.truncate(seg, 99)
    assert difference(record, "measure", {}) == "its file gtv.dcm was cut off or changed"
    # Whether it is there at all is looked at where its shard is known.
    seg.unlink()
    assert difference(record, "measure", {}) == ""
    os.truncate(masks / "case" / "layer.nrrd", 50)
    gone = "its file case/layer.nrrd is gone, or was cut off or changed"
    assert difference(record, "measure", {}) == gone
    (masks / "case" / "layer.nrrd").unlink()
    assert difference(record, "measure", {}) == gone
    shutil.rmtree(masks)
    assert difference(record, "measure", {}) == ""


def test_a_table_that_no_record_names_is_refused(results):
    stranger = results / "features" / "stranger"
    stranger.touch()
    with pytest.raises(StageError, match="does not name it"):
        check_provenance({beside(stranger): [stranger]}, SETTINGS.__getitem__)


def test_a_record_of_an_unknown_stage_is_refused(results):
    content = json.loads(measured(results).read_text()) | {"stage": "guess"}
    measured(results).write_text(json.dumps(content))
    record = measured(results)
    with pytest.raises(StageError, match="there is no stage 'guess'"):
        check_provenance({record: []}, SETTINGS.__getitem__)


def test_a_job_that_was_cut_off_leaves_no_record(tmp_path):
    making = Making("measure", SETTINGS["measure"], [])
    with pytest.raises(FileNotFoundError):
        making.finish(tmp_path / "provenance.json", [tmp_path / "not there"])
    assert read_provenance(tmp_path / "provenance.json") is None


def test_an_input_that_changes_while_a_job_runs_leaves_it_out_of_date(tmp_path):
    source, table = tmp_path / "source", tmp_path / "t"
    source.write_text("before")
    making = Making("measure", SETTINGS["measure"], [source])
    source.write_text("after")
    table.touch()
    making.finish(beside(table), [table])
    assert "source has changed" in difference(beside(table), "measure", SETTINGS["measure"])


def test_each_rule_that_computes_has_a_record_and_a_stage():
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    blocks = re.split(r"^(?:rule|checkpoint) (\w+):$", text, flags=re.M)[1:]
    rules = dict(zip(blocks[::2], blocks[1::2], strict=True))
    computing = {
        name: block for name, block in rules.items() if 'shell:\n        "jipflow' in block
    }
    assert len(computing) > 20
    # What it writes is compared itself: rows of the shard's file.
    assert "again=apart_again" in computing.pop("apart")
    for name, block in computing.items():
        assert name.startswith("hub_") or name in DEPENDENCE
        assert re.search(rf'again=(once_fetched\(\s*)?stale\(\s*"{name}"', block), name
        assert "--record {output.record:q}" in block, name
        assert "version=" not in block, name
    assert computing.keys() >= DEPENDENCE.keys()


def test_a_part_of_the_settings_changes_the_stages_that_depend_on_it_alone(tmp_path):
    site, protocol = site_of(tmp_path), demo_protocol()

    def parts():
        settings = loaded(site, protocol, tmp_path)
        stages = [stage for stage in DEPENDENCE if not stage.startswith("train_")]
        return {stage: settings.parts(stage) for stage in stages}

    def changed(before):
        after = parts()
        return {stage for stage in after if after[stage] != before[stage]}

    whole = {"report", "crate", "receive", "candidate", "bundle"}
    before = parts()
    protocol["radiomics"][0]["settings"] = "ibsi_mr"
    assert changed(before) == {"measure", "document", *whole}
    before = parts()
    protocol["tolerance"] = {"max_failed_fraction": 0.125}
    assert changed(before) == {"collect", *whole}
    before = parts()
    protocol["cohort"]["where"] = "Modality = 'CT'"
    assert changed(before) == {"cohort", "query", *whole}
    before = parts()
    protocol["cohort"]["case"]["roles"]["PT"]["suv"] = "BW"
    assert changed(before) == {"cohort", "query", *whole}
    protocol["cohort"]["case"]["roles"]["PT"]["suv"] = "LBM"
    assert changed(before) == {"cohort", "query", "prepare", "document", *whole}
    before = parts()
    protocol["cohort"]["case"]["roles"]["PT"]["volume"] = {"time_point": 1}
    assert changed(before) == {"cohort", "query", "prepare", *whole}
    before = parts()
    protocol["cohort"]["case"]["roles"]["PT"]["volume"] = {"time_point": "last"}
    assert changed(before) == {"cohort", "query", "prepare", *whole}
    before = parts()
    site["disclosure"] = {"min_patients": 77}
    assert changed(before) == {"report", "candidate"}
    with pytest.raises(KeyError):
        loaded(site, protocol, tmp_path).parts("guess")
