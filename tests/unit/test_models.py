"""No model is opened that is not, file by file, the pinned one, wherever its files come from."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import stat
import threading
import warnings
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from jipflow import cli
from jipflow.models import registry, store
from jipflow.models.registry import describe, register, registered_model, verify
from jipflow.reasons import StageError
from jipflow.settings import resources
from jipflow.settings.reading import read_registry
from jipflow.settings.resources import MODELS, OWN_MODELS, ROOT, ConfigError, read_yaml

ABOUT = {
    "name": "Two files",
    "version": "1.0.0",
    "engine": "nnunet",
    "licence": "Apache-2.0",
    "intended_use": "Tests.",
    "training_data": "None.",
    "roles": ["CT"],
    "labels": [{"name": "organ", "value": 1, "term": "liver"}],
}
PLANS = {
    "configurations": {"3d_fullres": {"patch_size": [32, 32, 32], "spacing": [3.0, 1.0, 1.0]}},
    "transpose_forward": [2, 0, 1],
    "transpose_backward": [1, 2, 0],
}
DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}}
FILES = {
    "dataset.json": json.dumps(DATASET).encode(),
    "plans.json": json.dumps(PLANS).encode(),
    "fold_0/checkpoint_final.pth": bytes(range(256)) * 12000,
}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def put(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def content(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder to run in, whose registry has the model ``two`` and whose models have it."""
    (tmp_path / "config").mkdir()
    shipped = tmp_path / "config" / "models.yaml"
    shipped.write_text("models: {}\n")
    monkeypatch.setattr(resources, "MODELS", shipped)
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "models" / "two", FILES)
    register("two", ABOUT, tmp_path / "models" / "two", OWN_MODELS)
    return tmp_path


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``; keeps ``server.asked``; cuts off what ``server.cut`` names."""

    def do_GET(self):
        server = self.server
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        server.asked.append((self.path, start))
        whole = server.files.get(self.path)
        if whole is None:
            self.send_error(404)
            return
        if start >= len(whole):
            self.send_error(416)
            return
        part = whole[start:] if server.ranges else whole
        self.send_response(206 if start and server.ranges else 200)
        self.send_header("Content-Length", str(server.length or len(part)))
        self.end_headers()
        self.wfile.write(part[: server.cut])

    def log_message(self, *_):
        pass


@contextmanager
def serving(files, cut=None, ranges=True, length=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = {f"/{name}": content for name, content in files.items()}
    server.asked, server.cut, server.ranges, server.length = [], cut, ranges, length
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def with_sources(*sources):
    """The model ``two`` without its files, to be fetched from these sources."""
    model = registered_model("two")
    shutil.rmtree(model.folder)
    return sourced(model, sources)


def sourced(model, sources):
    entry = {**model.entry.plain(), "sources": list(sources)}
    return replace(model, entry=type(model.entry).model_validate(entry))


def from_files(address):
    return [{"url": f"{address}/{name}", "file": name} for name in FILES]


def zipped(members):
    """A zip archive; a member's name may be a `zipfile.ZipInfo`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def from_archive(address, archive, **more):
    return {"url": f"{address}/all.zip", "archive_sha256": sha256(archive), **more}


@pytest.fixture
def copy(tmp_path):
    model = registered_model("phantom-ct")
    shutil.copytree(model.folder, tmp_path / "model")
    return replace(model, folder=tmp_path / "model")


def test_the_shipped_models_are_the_pinned_ones_and_small():
    for name in read_registry(MODELS):
        model = registered_model(name)
        verify(model)
        assert sum((model.folder / f).stat().st_size for f in model.files) < 25e6
        assert model.folder.is_relative_to(ROOT)


def test_a_changed_missing_or_extra_file_is_refused(copy):
    verify(copy)
    plans = copy.folder / "plans.json"
    content = plans.read_bytes()
    plans.write_bytes(content + b" ")
    with pytest.raises(StageError, match=r"plans\.json is not the file"):
        verify(copy)
    plans.unlink()
    with pytest.raises(StageError, match=r"plans\.json is missing"):
        verify(copy)
    plans.write_bytes(content)
    (copy.folder / "fold_1").mkdir()
    (copy.folder / "fold_1" / "checkpoint_final.pth").write_bytes(b"")
    with pytest.raises(StageError, match="is not pinned"):
        verify(copy)


def test_an_unknown_model_is_named():
    with pytest.raises(StageError, match="no model 'nowhere'"):
        registered_model("nowhere")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("path", "../elsewhere", "does not match"),
        ("path", "/etc", "does not match"),
        ("files", {"../climbs": "0" * 64}, "does not match"),
        ("files", {"a/../../climbs": "0" * 64}, "does not match"),
        ("files", {"plans.json": "short"}, "does not match"),
        ("files", {}, "non-empty"),
        ("engine", "magic", "must be one of"),
        ("licence", None, "licence"),
        ("colour", "red", "unknown key 'colour'"),
    ],
)
def test_a_registry_with_a_wrong_key_is_refused(tmp_path, monkeypatch, key, value, message):
    content = read_yaml(MODELS)
    content["models"]["phantom-ct"][key] = value
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(resources, "MODELS", tmp_path / "models.yaml")
    with pytest.raises(ConfigError, match=message):
        registered_model("phantom-ct")


def test_register_pins_what_stands_in_the_folder_with_codes(site):
    model = registered_model("two")
    assert model.files == {name: sha256(data) for name, data in FILES.items()}
    assert model.folder == site / "models" / "two"
    (label,) = model.entry.labels
    assert label.type.plain() == {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}
    verify(model)


@pytest.mark.parametrize("page", ["models.md", "nnunet.md"])
def test_the_description_in_the_docs_is_a_valid_one(page, tmp_path):
    text = (ROOT / "docs" / page).read_text()
    block = re.search(r"```yaml\n(# about\.yaml\n.*?)```", text, re.DOTALL)[1]
    about = yaml.safe_load(block.replace("5c0e...", "a" * 64))
    labels = {label["name"]: label["value"] for label in about["labels"]}
    channels = {str(number): name for number, name in enumerate(about["roles"])}
    dataset = {"channel_names": channels, "labels": {"background": 0, **labels}}
    put(tmp_path, {**FILES, "dataset.json": json.dumps(dataset).encode()})
    entry = describe("lesion", about, tmp_path, "models/lesion")
    assert all(label["type"]["scheme"] == "SCT" for label in entry["labels"])


def changed(base, **keys):
    """JSON of a mapping with other values; None drops a key."""
    return json.dumps({k: v for k, v in (base | keys).items() if v is not None}).encode()


FOREIGN = {
    "network_class_name": "torch.hub.load",
    "arch_kwargs": {"conv_op": "os.system"},
    "_kw_requires_import": ["conv_op"],
}
OWN_NETWORK = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet"
}
UNUSABLE = {
    "no dataset.json": ({"dataset.json": None}, "dataset.json is missing"),
    "no plans.json": ({"plans.json": None}, "plans.json is missing"),
    "no fold": ({"fold_0/checkpoint_final.pth": None}, "has no fold_0 to fold_4 or fold_all"),
    "other weights": (
        {"fold_0/checkpoint_final.pth": None, "fold_0/checkpoint_best.pth": b"x"},
        "name another file as checkpoint",
    ),
    "cut plans": ({"plans.json": FILES["plans.json"][:40]}, "plans.json is not JSON"),
    "binary plans": ({"plans.json": bytes(range(256))}, "plans.json is not JSON"),
    "deep plans": ({"plans.json": b"[" * 100_000}, "plans.json is not JSON"),
    "a list": ({"plans.json": b"[]"}, "is not as nnU-Net writes it"),
    "no configuration": ({"plans.json": changed(PLANS, configurations={})}, "configurations"),
    "axes lost": ({"plans.json": changed(PLANS, transpose_forward=None)}, "transpose_forward"),
    "axes twice": ({"plans.json": changed(PLANS, transpose_forward=[0, 0, 1])}, "does not undo"),
    "axes astray": ({"plans.json": changed(PLANS, transpose_backward=[2, 0, 1])}, "does not undo"),
    "no spacing": (
        {"plans.json": changed(PLANS, configurations={"3d": {"spacing": [0, 1, 1]}})},
        "configurations.3d.spacing.0",
    ),
    "huge patch": (
        {"plans.json": changed(PLANS, configurations={"3d": {"patch_size": [10**9, 1, 1]}})},
        "configurations.3d.patch_size.0",
    ),
    "a foreign network": (
        {"plans.json": changed(PLANS, configurations={"3d": {"architecture": FOREIGN}})},
        "configurations.3d.architecture.network_class_name",
    ),
    "a foreign layer": (
        {
            "plans.json": changed(
                PLANS, configurations={"3d": {"architecture": FOREIGN | OWN_NETWORK}}
            )
        },
        "conv_op is os.system, and no layer of PyTorch",
    ),
    "a foreign function": (
        {
            "plans.json": changed(
                PLANS, configurations={"3d": {"normalization_schemes": ["os.system"]}}
            )
        },
        "configurations.3d.normalization_schemes.0",
    ),
    "its own ancestor": (
        {
            "plans.json": changed(
                PLANS, configurations={"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}
            )
        },
        "a inherits from a, which is not there or inherits from it",
    ),
    "no ancestor": (
        {"plans.json": changed(PLANS, configurations={"a": {"inherits_from": "b"}})},
        "a inherits from b, which is not there",
    ),
    "one label twice": (
        {"dataset.json": FILES["dataset.json"].replace(b'"organ"', b'"organ": 2, "organ"')},
        "has the key 'organ' twice",
    ),
    "channels out of order": (
        {"dataset.json": changed(DATASET, channel_names={"1": "PET", "0": "CT"})},
        "channels are not numbered 0, 1, .. in order",
    ),
    "no labels": ({"dataset.json": changed(DATASET, labels=None)}, "labels"),
    "text label": (
        {"dataset.json": changed(DATASET, labels={"background": 0, "organ": "1"})},
        "labels.organ",
    ),
    "huge label": (
        {"dataset.json": changed(DATASET, labels={"background": 0, "organ": 2**40})},
        "labels.organ",
    ),
    "one value twice": (
        {"dataset.json": changed(DATASET, labels={"background": 0, "organ": 1, "other": 1})},
        "two labels have one value",
    ),
    "another value": (
        {"dataset.json": changed(DATASET, labels={"background": 0, "organ": 2})},
        "its label 'organ' has the value 1, but 2 in dataset.json",
    ),
    "no channels": ({"dataset.json": changed(DATASET, channel_names=None)}, "channel_names"),
    "two channels": (
        {"dataset.json": changed(DATASET, channel_names={"0": "CT", "1": "PET"})},
        "its roles are CT, but the channels of dataset.json are CT, PET",
    ),
    "no CT": (
        {"dataset.json": changed(DATASET, channel_names={"0": "SUV"})},
        "nnU-Net scales Hounsfield units where a channel is CT",
    ),
}


@pytest.mark.parametrize("labels", [None, "liver", ["liver"], {"liver": 1}, [["name", "liver"]]])
def test_labels_that_are_no_list_of_mappings_are_refused(labels, tmp_path):
    put(tmp_path, FILES)
    with pytest.raises(ConfigError, match="labels must be a list of mappings"):
        describe("given", {**ABOUT, "labels": labels}, tmp_path, "models/given")


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_model_that_could_not_run_is_not_pinned(name, site, tmp_path_factory):
    files, words = UNUSABLE[name]
    folder = tmp_path_factory.mktemp("given")
    put(folder, {k: v for k, v in (FILES | files).items() if v is not None})
    about = folder.parent / "about.yaml"
    about.write_text(yaml.safe_dump(ABOUT))
    with pytest.raises((StageError, ConfigError)) as refused:
        store.add("given", folder=folder, about=about)
    assert words in str(refused.value)
    assert "given" not in read_registry(OWN_MODELS)
    assert not (site / "models" / "given").exists()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([("organ", 1), ("organ", 2)], "two labels have the name 'organ'"),
        ([("organ", 1), ("other", 1)], "two labels have the value '1'"),
        ([("organ", 2**40)], "65535"),
        ([("organ", 65536)], "65535"),
        ([("organ", 0)], "1"),
    ],
)
def test_labels_differ_by_name_and_value(labels, words, site):
    given = [{"name": name, "value": value, "term": "liver"} for name, value in labels]
    with pytest.raises(ConfigError, match=words):
        register("two", {**ABOUT, "labels": given}, site / "models" / "two", OWN_MODELS)


def test_the_greatest_label_is_taken(site):
    place = site / "models" / "two"
    (place / "dataset.json").write_bytes(changed(DATASET, labels={"background": 0, "organ": 65535}))
    labels = [{"name": "organ", "value": 65535, "term": "liver"}]
    register("two", {**ABOUT, "labels": labels}, place, OWN_MODELS)


def test_what_is_no_modality_is_refused(site):
    with pytest.raises(ConfigError, match="T1"):
        register("two", {**ABOUT, "roles": ["T1"]}, site / "models" / "two", OWN_MODELS)


def test_a_pipe_among_the_files_is_named(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    put(folder, FILES)
    os.mkfifo(folder / "pipe")
    about = folder.parent / "about.yaml"
    about.write_text(yaml.safe_dump(ABOUT))
    with pytest.raises(StageError, match="pipe is neither a file nor a folder"):
        store.add("given", folder=folder, about=about)


@pytest.mark.parametrize(
    "name",
    [
        "fold_0/validation/4711.nii.gz",
        "fold_0/validation/summary.json",
        "crossval_results_folds_0_1/plans.json",
        "fold_0/training_log_2026_11_30.txt",
        "example/PAT4711.mha",
        "labels/PAT4711.TIF",
        "predicted_next_stage/3d_cascade_fullres/PAT4711.npz",
        "dataset.json",
    ],
)
def test_what_a_training_leaves_of_its_cases_is_no_part_of_a_model(
    site, tmp_path_factory, capsys, name
):
    folder = tmp_path_factory.mktemp("given")
    listed = json.dumps({**DATASET, "dataset": {"PAT4711": {"label": "PAT4711.nii.gz"}}})
    put(folder, {**FILES, name: listed.encode()})
    about = folder.parent / "about-it.yaml"
    about.write_text(yaml.safe_dump(ABOUT))
    before = OWN_MODELS.read_bytes()
    assert cli.main(["models", "add", "given", "--folder", str(folder), "--about", str(about)]) == 1
    assert "the cases that it was trained or tried on" in capsys.readouterr().err
    assert OWN_MODELS.read_bytes() == before
    assert not (OWN_MODELS.parent / "given").exists()


def test_an_image_of_another_engine_may_be_its_template(tmp_path):
    put(tmp_path, {"image.sif": b"1", "template.nii.gz": b"1"})
    files = sorted(tmp_path.iterdir())
    assert registry.names_cases(files, tmp_path, "container") == ""
    assert registry.names_cases(files, tmp_path, "nnunet") == str(tmp_path / "template.nii.gz")


def test_a_model_that_names_cases_goes_into_no_bundle(site, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "names_cases", lambda *given: "")
    folder = OWN_MODELS.parent / "leaky"
    put(folder, {**FILES, "fold_0/validation/PAT4711.nii.gz": b"1"})
    register("leaky", ABOUT, folder, OWN_MODELS)
    with pytest.raises(
        StageError, match=r"PAT4711\.nii\.gz names the cases that it was trained on"
    ):
        store.write_bundle(tmp_path / "bundle.zip", [registered_model("leaky")])
    assert not (tmp_path / "bundle.zip").exists()


def test_a_folder_of_everything_is_no_model(site, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(registry, "MOST_FILES", 3)
    folder = tmp_path_factory.mktemp("given")
    put(folder, FILES)
    with pytest.raises(StageError, match="holds more than 3 files"):
        describe("given", ABOUT, folder, "models/given")


def test_register_refuses_what_does_not_fit(site, tmp_path_factory):
    place = site / "models" / "two"
    before = OWN_MODELS.read_bytes()
    labels = [*ABOUT["labels"], {"name": "tumour", "value": 2, "term": "lesion"}]
    with pytest.raises(StageError, match=r"labels are organ, tumour, but those of dataset\.json"):
        register("two", {**ABOUT, "labels": labels}, place, OWN_MODELS)
    labels = [{"name": "organ", "value": 1, "term": "nowhere"}]
    with pytest.raises(ConfigError, match="no term 'nowhere'"):
        register("two", {**ABOUT, "labels": labels}, place, OWN_MODELS)
    with pytest.raises(ConfigError, match="'licence' is missing"):
        register("two", {k: v for k, v in ABOUT.items() if k != "licence"}, place, OWN_MODELS)
    with pytest.raises(StageError, match="either which file"):
        register(
            "two", {**ABOUT, "sources": [{"url": "https://a.test/x"}]}, place, resources.MODELS
        )
    with pytest.raises(StageError, match=r"the image 'x\.sif' is not in"):
        register("two", {**ABOUT, "engine": "container", "image": "x.sif"}, place, OWN_MODELS)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere, FILES)
    with pytest.raises(StageError, match="is not below"):
        register("two", ABOUT, elsewhere, OWN_MODELS)
    (place / "link.json").symlink_to(elsewhere / "dataset.json")
    with pytest.raises(StageError, match=r"link\.json is a link"):
        register("two", ABOUT, place, OWN_MODELS)
    assert OWN_MODELS.read_bytes() == before


def test_files_are_fetched_one_by_one_and_those_that_are_right_are_kept(site):
    with serving(FILES) as (server, address):
        model = with_sources(*from_files(address))
        assert store.fetch(model) == list(FILES)
        assert content(model.folder) == FILES
        verify(model)
        (model.folder / "dataset.json").write_bytes(b"changed")
        del server.asked[:]
        assert store.fetch(model) == ["dataset.json"]
        assert server.asked == [("/dataset.json", 0)]
        assert store.fetch(model) == []
    verify(model)
    assert sorted(os.listdir(site / "models")) == ["models.yaml", "two"]


def test_another_file_than_the_pinned_one_is_thrown_away(site):
    with serving({**FILES, "dataset.json": b"{}"}) as (_, address):
        model = with_sources(*from_files(address))
        with pytest.raises(StageError, match="another file than the pinned one"):
            store.fetch(model)
    assert not model.folder.exists()
    assert [p.name for p in (site / "models").rglob("*") if p.is_file()] == ["models.yaml"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_truncated_download_is_no_file_and_goes_on(site, ranges):
    with serving(FILES, cut=2_000_000) as (_, address):
        model = with_sources(*from_files(address))
        with pytest.raises(StageError, match="was cut off"):
            store.fetch(model)
    small = {name: FILES[name] for name in ("dataset.json", "plans.json")}
    assert content(model.folder) == small
    with serving(FILES, ranges=ranges) as (server, address):
        model = sourced(model, from_files(address))
        store.fetch(model)
    assert server.asked == [("/fold_0/checkpoint_final.pth", 1024**2)]
    assert content(model.folder) == FILES


def test_a_killed_fetch_goes_on(site):
    """What a kill may leave: all bytes but no rename, or bytes of another file."""
    model = with_sources()
    staging = site / "models" / ".partial-two"
    staging.mkdir()
    checkpoint = FILES["fold_0/checkpoint_final.pth"]
    (staging / sha256(checkpoint)).write_bytes(checkpoint)
    with serving(FILES) as (_, address):
        model = sourced(model, from_files(address))
        store.fetch(model)
        assert content(model.folder) == FILES
        shutil.rmtree(model.folder)
        staging.mkdir()
        (staging / sha256(checkpoint)).write_bytes(b"rubbish")
        with pytest.raises(StageError, match="another file"):
            store.fetch(model)
        store.fetch(model)
    assert content(model.folder) == FILES


def test_a_server_that_fails_or_gives_too_much_is_named(site, monkeypatch):
    with serving({}) as (_, address):
        model = with_sources(*from_files(address))
        with pytest.raises(StageError, match=r"dataset\.json: the server answers 404"):
            store.fetch(model)
    with pytest.raises(StageError, match="was cut off"):
        store.fetch(model)
    monkeypatch.setattr(store, "MOST_BYTES", 100)
    with serving(FILES) as (_, address):
        model = sourced(model, from_files(address))
        with pytest.raises(StageError, match="larger than 100 bytes"):
            store.fetch(model)
    assert content(model.folder) == {"dataset.json": FILES["dataset.json"]}


def test_no_source_is_named_with_the_fix(site):
    with pytest.raises(StageError, match=r"no source .* gives dataset\.json.*--from BUNDLE"):
        store.fetch(with_sources())


def test_an_archive_is_unpacked_and_what_is_not_pinned_stays_in_it(site):
    archive = zipped([*((f"top/{n}", d) for n, d in FILES.items()), ("top/readme", b"hello")])
    wanted = {name: sha256(data) for name, data in FILES.items()}
    model = with_sources()
    with serving({"all.zip": archive}) as (_, address):
        source = from_archive(address, archive, folder="sub")
        files = {f"sub/top/{name}": digest for name, digest in wanted.items()}
        entry = {**model.entry.plain(), "files": files, "sources": [source]}
        model = replace(model, entry=type(model.entry).model_validate(entry))
        store.fetch(model)
    assert content(model.folder / "sub" / "top") == FILES
    assert sorted(os.listdir(site / "models")) == ["models.yaml", "two"]


def link(name):
    member = zipfile.ZipInfo(name)
    member.create_system = 3
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("../climbs", b""), "does not lie below"),
        (("/absolute", b""), "does not lie below"),
        (("a/../../climbs", b""), "does not lie below"),
        (("c:/windows", b""), "does not lie below"),
        ((link("fold_1"), b"/etc"), "is no regular file"),
        (("dataset.json", b"{}"), "is there twice"),
    ],
)
def test_an_archive_with_an_unsafe_member_is_refused_whole(site, extra, message):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate name")
        archive = zipped([*FILES.items(), extra])
    model = with_sources()
    with serving({"all.zip": archive}) as (_, address):
        sources = [from_archive(address, archive)]
        model = sourced(model, sources)
        with pytest.raises(StageError, match=message):
            store.fetch(model)
    assert not model.folder.exists()
    assert not (site / "climbs").exists()


def test_an_archive_of_other_files_is_refused(site):
    archive = zipped([("dataset.json", b"{}"), *list(FILES.items())[1:]])
    model = with_sources()
    with serving({"all.zip": archive}) as (_, address):
        sources = [from_archive(address, archive)]
        model = sourced(model, sources)
        with pytest.raises(StageError, match=r"dataset\.json is not the pinned file"):
            store.fetch(model)
        sources = [{**sources[0], "archive_sha256": "0" * 64}]
        with pytest.raises(StageError, match="another file than the pinned one"):
            store.fetch(sourced(model, sources))


def test_a_bundle_is_the_same_bytes_twice_and_fills_another_site(site, capsys):
    model = registered_model("two")
    first, second = site / "first.zip", site / "second.zip"
    assert cli.main(["models", "bundle", str(first), "two"]) == 0
    for path in model.folder.rglob("*"):
        os.utime(path, (0, 0))
    assert cli.main(["models", "bundle", str(second)]) == 0
    assert first.read_bytes() == second.read_bytes()
    assert capsys.readouterr().out.split()[0] == sha256(first.read_bytes())

    shutil.rmtree(model.folder)
    assert cli.main(["models", "verify"]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("two: ") == 3
    assert "is missing; fetch the model again: jipflow models fetch two" in printed.out
    assert cli.main(["models", "fetch", "--all", "--from", str(first)]) == 0
    assert "two: 3 files fetched" in capsys.readouterr().out
    assert cli.main(["models", "verify", "two"]) == 0
    assert capsys.readouterr().out == "two: ok\n"
    assert content(model.folder) == FILES


def test_a_tampered_bundle_is_refused(site):
    model = registered_model("two")
    bundle = site / "bundle.zip"
    store.write_bundle(bundle, [model])
    with zipfile.ZipFile(bundle) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    shutil.rmtree(model.folder)

    def tampered(**changed):
        kept = {**members, **changed}
        bundle.write_bytes(zipped([(n, d) for n, d in kept.items() if d is not None]))
        store.fetch_from_bundle(bundle)

    with pytest.raises(StageError, match=r"two/dataset\.json is not the pinned file"):
        tampered(**{"two/dataset.json": b"{}"})
    with pytest.raises(StageError, match=r"has no member 'two/dataset\.json'"):
        tampered(**{"two/dataset.json": None})
    pinned, other = (sha256(data).encode() for data in (FILES["dataset.json"], b"{}"))
    manifest = members["manifest.json"].replace(pinned, other)
    with pytest.raises(StageError, match="its files of 'two' are not those"):
        tampered(**{"manifest.json": manifest, "two/dataset.json": b"{}"})
    with pytest.raises(StageError, match="not JSON"):
        tampered(**{"manifest.json": b"{"})
    with pytest.raises(StageError, match="not of the format"):
        tampered(**{"manifest.json": b"{}"})
    with pytest.raises(StageError, match="does not lie below"):
        tampered(**{"../climbs": b""})
    with pytest.raises(StageError, match="no bundle of models"):
        tampered(**{"manifest.json": None})
    bundle.write_bytes(b"PK no archive")
    with pytest.raises(StageError, match="not a readable zip"):
        store.fetch_from_bundle(bundle)
    assert [p.name for p in (site / "models").rglob("*") if p.is_file()] == ["models.yaml"]


def test_a_bundle_is_made_of_right_files_only_and_of_known_models(site):
    model = registered_model("two")
    bundle = site / "bundle.zip"
    store.write_bundle(bundle, [model])
    with pytest.raises(StageError, match="has no model 'three'"):
        store.fetch_from_bundle(bundle, ["three"])
    OWN_MODELS.write_text("models: {}\n")
    with pytest.raises(StageError, match="has the model 'two', which"):
        store.fetch_from_bundle(bundle)
    (model.folder / "dataset.json").write_bytes(b"{}")
    with pytest.raises(StageError, match="is not the file"):
        store.write_bundle(site / "other.zip", [model])
    assert not (site / "other.zip").exists()


def test_a_site_adds_a_model_by_command(site, tmp_path, capsys):
    put(tmp_path / "reviewed", FILES)
    about = tmp_path / "about.yaml"
    about.write_text(yaml.safe_dump(ABOUT))
    line = ["models", "add", "three", "--folder", str(tmp_path / "reviewed"), "--about", str(about)]
    assert cli.main(line) == 0
    assert (
        capsys.readouterr().out
        == f"three: 3 files of {site}/models/three pinned in models/models.yaml\n"
    )
    assert content(site / "models" / "three") == FILES
    verify(registered_model("three"))
    verify(registered_model("two"))
    assert cli.main(line) == 1
    assert "has a model 'three'" in capsys.readouterr().err
    put(tmp_path / "reviewed", {"notes.txt": b"second look"})
    assert cli.main([*line, "--replace"]) == 0
    assert "notes.txt" in registered_model("three").files
    assert cli.main(["models", "add", "../four", *line[3:]]) == 1
    assert cli.main([*line[:3], "--folder", str(tmp_path / "nowhere"), *line[5:], "--replace"]) == 1


def test_a_wrong_description_costs_no_model_and_leaves_no_folder(site, tmp_path, capsys):
    put(tmp_path / "reviewed", {**FILES, "notes.txt": b"second look"})
    about = tmp_path / "about.yaml"
    about.write_text(yaml.safe_dump({k: v for k, v in ABOUT.items() if k != "licence"}))
    before = content(site)
    rest = ["--folder", str(tmp_path / "reviewed"), "--about", str(about)]
    assert cli.main(["models", "add", "two", *rest, "--replace"]) == 1
    assert cli.main(["models", "add", "four", *rest]) == 1
    assert capsys.readouterr().err.count("'licence' is missing") == 2
    assert content(site) == before
    assert sorted(os.listdir(site / "models")) == ["models.yaml", "two"]


def test_the_folder_of_models_may_be_a_link_to_another_disk(site, tmp_path_factory, capsys):
    disk = tmp_path_factory.mktemp("disk")
    (site / "models").rename(disk / "models")
    (site / "models").symlink_to(disk / "models")
    verify(registered_model("two"))
    about = disk / "about.yaml"
    about.write_text(yaml.safe_dump(ABOUT))
    put(disk / "reviewed", FILES)
    line = ["models", "add", "three", "--folder", str(disk / "reviewed"), "--about", str(about)]
    assert cli.main(line) == 0
    assert content(disk / "models" / "three") == FILES
    assert registered_model("three").entry.path == "three"
    verify(registered_model("three"))
    in_place = ["models", "add", "two", "--folder", str(site / "models" / "two"), *line[5:]]
    assert cli.main([*in_place, "--replace"]) == 0
    assert content(disk / "models" / "two") == FILES


def test_fetch_needs_names_or_all(site, capsys):
    with pytest.raises(SystemExit):
        cli.main(["models", "fetch"])
    assert cli.main(["models", "fetch", "two"]) == 0
    assert "two: 0 files fetched" in capsys.readouterr().out
