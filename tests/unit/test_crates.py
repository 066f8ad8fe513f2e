"""The crates of a run and of a release: what they say, and what they never say."""

from __future__ import annotations

import getpass
import io
import json
import os
import platform
import shutil
import zipfile

import pytest
from rocrate.rocrate import ROCrate

from config_files import TRAINING, demo_protocol, loaded, site_of
from crate_graphs import graph, ids
from federation_world import NOW, plain, site
from jipflow.crates.released import release_crate
from jipflow.crates.site import run_crate, training_crate
from jipflow.exchange.message import FILES, FRAME, describe
from jipflow.files import canonical_digest
from jipflow.models.registry import register
from jipflow.provenance import Making, beside
from jipflow.reasons import StageError
from jipflow.release import approval
from jipflow.settings.resources import ROOT

OUTSIDE = ("https://", "arcp://name,north/")
"""What a crate names and does not hold."""


def make(stage, table, inputs, costs=True):
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(f"{stage} {table.parent.parent.name}")
    Making(stage, {}, inputs).finish(beside(table), [table])
    if costs:
        lines = "seconds\tcpu_seconds\tpeak_mb\n12.00\t9.50\t201.00\n"
        table.with_name("cost.tsv").write_text(lines)
    os.utime(beside(table), (1_800_000_000, 1_800_000_000))
    return beside(table)


@pytest.fixture
def settings(tmp_path):
    return loaded(site_of(tmp_path), demo_protocol(), tmp_path)


@pytest.fixture
def results(tmp_path):
    root = tmp_path / "results"
    catalog = make("catalog", root / "catalog" / "series.parquet", [])
    cohort = make("cohort", root / "demo" / "cohort" / "cases.tsv", [catalog])
    cases = root / "demo" / "cohort" / "shards" / "s00001.parquet"
    cases.parent.mkdir()
    cases.write_text("cases")
    measured = [
        make(
            "measure",
            root / "demo" / "shards" / shard / "measure" / "features.parquet",
            [cohort, cases],
            costs=shard == "s00001",
        )
        for shard in ("s00001", "s00002")
    ]
    collected = make("collect", root / "demo" / "features" / "features.parquet", measured)
    make("report", root / "demo" / "report" / "index.html", [collected, cohort])
    return root


def last(results):
    return [results / "demo" / "report" / "provenance.json"]


def test_a_crate_of_a_run_leads_from_the_report_to_the_catalog(settings, results):
    found = graph(run_crate(settings, results, last(results)))
    report = found["#job/demo/report"]
    tables = ids(report["object"])
    assert "arcp://name,north/demo/features/features.parquet" in tables
    measured = found["#job/demo/shards/s00001/measure"]
    assert ids(measured["object"]) == {
        "arcp://name,north/demo/cohort/cases.tsv",
        "arcp://name,north/demo/cohort/shards/s00001.parquet",
    }
    assert ids(found["#job/demo/cohort"]["object"]) == {"arcp://name,north/catalog/series.parquet"}
    page = found["arcp://name,north/demo/report/index.html"]
    assert page["sha256"] == describe(b"report demo").sha256
    assert ids(found["#run"]["result"]) == {page["@id"]}
    controls = ids(found["#orchestration"]["object"])
    assert {found[name]["object"]["@id"] for name in controls} == {
        name for name, each in found.items() if name.startswith("#job/")
    }
    assert len(controls) == 6


def test_every_entity_that_a_crate_names_is_in_it(settings, results):
    found = graph(run_crate(settings, results, last(results)))
    missing = ids(list(found.values())) - found.keys()
    assert all(name.startswith(OUTSIDE[0]) for name in missing), missing


def test_what_a_job_took_stands_where_it_was_measured(settings, results):
    found = graph(run_crate(settings, results, last(results)))
    measured = found["#job/demo/shards/s00001/measure"]
    assert measured["endTime"] == "2027-01-15T08:00:00+00:00"
    assert measured["startTime"] == "2027-01-15T07:59:48+00:00"
    usage = found["#usage/demo/shards/s00001/measure/cpu_seconds"]
    assert (usage["value"], usage["unitCode"]) == ("9.5", "SEC")
    unknown = found["#job/demo/shards/s00002/measure"]
    assert not {"startTime", "resourceUsage"} & unknown.keys()


def test_the_protocol_in_a_crate_is_the_one_of_its_hash(settings, results):
    with zipfile.ZipFile(io.BytesIO(run_crate(settings, results, last(results)))) as archive:
        protocol = archive.read("protocol.json")
        main = archive.read("workflow/Snakefile")
    assert canonical_digest(json.loads(protocol)) == settings.protocol_sha256
    assert describe(protocol).sha256 == settings.protocol_sha256
    assert main == (ROOT / "workflow" / "Snakefile").read_bytes()


def test_the_same_run_is_the_same_crate_wherever_it_lies(settings, results, tmp_path):
    first = run_crate(settings, results, last(results))
    copy = shutil.copytree(results, tmp_path / "other" / "copy")
    link = tmp_path / "link"
    link.symlink_to(copy)
    for place in (results, copy, link):
        assert run_crate(settings, place, last(place)) == first


def test_a_crate_of_a_run_says_nothing_of_the_machine(settings, results, tmp_path):
    data = run_crate(settings, results, last(results))
    secret = settings.site.identity.secret_file
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        words = archive.read("ro-crate-metadata.json") + archive.read("protocol.json")
    for word in (
        tmp_path,
        platform.node(),
        secret,
        settings.site.site.name,
        f"/{getpass.getuser()}",
    ):
        assert str(word).encode() not in words


def test_a_file_of_the_site_is_in_a_crate_by_its_hash_alone(settings, results, tmp_path):
    table = tmp_path / "Doe_Jane" / "clinical.csv"
    table.parent.mkdir()
    table.write_text("pid,weight\n")
    make("report", results / "demo" / "report" / "index.html", [table])
    data = run_crate(settings, results, last(results))
    digest = describe(table.read_bytes()).sha256
    found = graph(data)[f"arcp://name,north/.site/{digest}"]
    assert (found["name"], found["sha256"]) == ("a file of the site", digest)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert b"Doe" not in archive.read("ro-crate-metadata.json")


def test_no_job_outside_the_results_is_in_a_crate(settings, results, tmp_path):
    stranger = make("other", tmp_path / "Doe_Jane" / "table.json", [])
    make("report", results / "demo" / "report" / "index.html", [stranger])
    with pytest.raises(StageError, match="outside the results") as caught:
        run_crate(settings, results, last(results))
    assert "Doe" not in str(caught.value)


def test_a_folder_of_the_results_may_be_a_link(settings, results, tmp_path):
    before = run_crate(settings, results, last(results))
    shards = results / "demo" / "shards"
    shards.rename(tmp_path / "scratch")
    shards.symlink_to(tmp_path / "scratch")
    assert run_crate(settings, results, last(results)) == before


@pytest.mark.parametrize("left", ["", "seconds\n", "seconds\tcpu_seconds\n1\n"])
def test_damaged_costs_are_left_out(settings, results, left):
    (results / "demo" / "shards" / "s00001" / "measure" / "cost.tsv").write_text(left)
    found = graph(run_crate(settings, results, last(results)))
    assert "resourceUsage" not in found["#job/demo/shards/s00001/measure"]


@pytest.mark.parametrize(
    "where",
    [
        "SeriesInstanceUID IN ('1.3.6.1.4.1.14519.5.2.1')",
        "PatientID = 'STS_002'",
        "StudyInstanceUID = '2.25.1234'",
        "Modality = 'CT' AND SeriesDescription LIKE '%1.2.840.113619.2.55.3%'",
    ],
)
def test_a_protocol_that_names_patients_is_in_a_crate_by_its_hash(results, tmp_path, where):
    protocol = demo_protocol()
    protocol["cohort"]["where"] = where
    settings = loaded(site_of(tmp_path), protocol, tmp_path)
    data = run_crate(settings, results, last(results))
    found = graph(data)
    assert found["arcp://name,north/protocol.json"]["sha256"] == settings.protocol_sha256
    assert ids(found["#run"]["object"]) == {"arcp://name,north/protocol.json"}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert "protocol.json" not in archive.namelist()
        assert where.split("'")[-2].encode() not in archive.read("ro-crate-metadata.json")


@pytest.fixture
def training(results, tmp_path):
    """Settings with a training, its record, and the registry that pins its model."""
    settings = loaded(site_of(tmp_path), demo_protocol() | {"training": TRAINING}, tmp_path)
    out = results / "demo"
    prepared = make("prepare", out / "shards" / "s00001" / "prepare" / "outcomes.parquet", [])
    data = make("train_data", out / "shards" / "s00001" / "train" / "outcomes.parquet", [prepared])
    split = out / "work" / "train" / "split.json"
    split.parent.mkdir(parents=True)
    split.write_text("split")
    plan, fit, registered = (
        out / "train" / f"{name}.provenance.json" for name in ("plan", "fit_0", "register")
    )
    Making("train_plan", {}, [data, beside(out / "cohort" / "cases.tsv")]).finish(plan, [split])
    Making("train_fit", {}, [plan]).finish(fit, [])
    Making("train_register", {}, [fit]).finish(registered, [])
    model, registry = tmp_path / "models" / "mine", tmp_path / "models" / "models.yaml"
    network = {"patch_size": [32, 32, 32], "spacing": [3.0, 1.0, 1.0]}
    plans = {"configurations": {"3d_fullres": network}}
    plans |= {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}}
    for name, text in {
        "dataset.json": json.dumps(dataset),
        "plans.json": json.dumps(plans),
        "fold_0/checkpoint_final.pth": "weights",
    }.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(text)
    about = {key: TRAINING[key] for key in ("licence", "intended_use", "training_data")}
    about |= {"name": "Mine", "version": "1.0.0", "engine": "nnunet", "roles": ["CT"]}
    labels = [{"name": "organ", "value": 1, "term": "liver"}]
    register("mine", about | {"labels": labels}, model, registry)
    return settings, [registered], registry


def test_a_crate_of_a_training_leads_from_the_model_to_the_catalog(training, results):
    settings, records, registry = training
    found = graph(training_crate(settings, results, records, registry))
    model = registry.with_name("mine")
    files = {
        f"arcp://name,north/.model/mine/{path.relative_to(model).as_posix()}": describe(
            path.read_bytes()
        ).sha256
        for path in model.rglob("*")
        if path.is_file()
    }
    assert any(name.endswith("/checkpoint_final.pth") for name in files)
    assert ids(found["#job/demo/train/register"]["result"]) == files.keys()
    assert {name: found[name]["sha256"] for name in files} == files
    assert ids(found["#run"]["result"]) == files.keys()
    assert ids(found["#job/demo/train/plan"]["object"]) == {
        "arcp://name,north/demo/cohort/cases.tsv",
        "arcp://name,north/demo/shards/s00001/train/outcomes.parquet",
    }
    assert "#job/catalog" in found
    assert "#job/demo/report" not in found
    assert found["#tool/train_fit"]["name"] == "jipflow train fit"
    missing = ids(list(found.values())) - found.keys()
    assert all(name.startswith(OUTSIDE[0]) for name in missing), missing
    assert "model mine" in found["./"]["description"]


def test_a_training_whose_model_is_not_registered_has_no_crate(training, results):
    settings, records, registry = training
    registry.write_text("models: {}\n")
    with pytest.raises(StageError, match="there is no model 'mine'"):
        training_crate(settings, results, records, registry)


def test_a_crate_of_nothing_is_refused(settings, results):
    (results / "catalog" / "provenance.json").unlink()
    with pytest.raises(StageError, match=r"catalog/provenance\.json: no record of a job"):
        run_crate(settings, results, last(results))


@pytest.fixture
def message(tmp_path):
    world = site(tmp_path, "north")
    world.write()
    world.build()
    approval.approve(
        release_dir=world.release, name="Ada Roe", key_file=world.approver_key, now=NOW
    )
    return world, plain(world.pack(tmp_path / "out").read_bytes())


def test_a_crate_of_a_release_holds_what_left_and_nothing_else(message):
    world, raw = message
    data = release_crate(raw)
    with zipfile.ZipFile(io.BytesIO(raw)) as sent, zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["ro-crate-metadata.json", *FRAME, *FILES["release"]]
        for name in sent.namelist():
            assert archive.read(name) == sent.read(name)
    found = graph(data)
    assert found["./"]["datePublished"] == "2026-11-03T12:00:00+00:00"
    assert (
        found["aggregates.json"]["sha256"]
        == describe((world.release / "aggregates.json").read_bytes()).sha256
    )
    assert not ids(list(found.values())) - found.keys() - {"https://w3id.org/ro/crate/1.1"}
    for column in ("case_id", "patient"):
        for pseudonym in world.table[column].unique():
            assert pseudonym.encode() not in data


def test_a_message_makes_one_crate_whenever_it_is_made(message):
    _, raw = message
    assert release_crate(raw) == release_crate(raw)


def test_the_library_reads_both_crates(message, settings, results, tmp_path):
    for name, data in (
        ("run.zip", run_crate(settings, results, last(results))),
        ("released.zip", release_crate(message[1])),
    ):
        (tmp_path / name).write_bytes(data)
        crate = ROCrate(tmp_path / name)
        assert crate.root_dataset["name"].startswith("demo ")
