"""A path is what its writer meant: a home folder for ~, and never a folder of that name."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from config_files import PACS, demo_protocol, message, site_of
from jipflow.cli import main
from jipflow.files import local_path
from jipflow.settings.folders import checked_folder, results_folder
from jipflow.settings.hub import Hub
from jipflow.settings.reading import protocol_path
from jipflow.settings.resources import ROOT, ConfigError
from jipflow.settings.run import load_settings
from jipflow.settings.schema import load
from jipflow.settings.site import Site

WRONG = {
    "$HOME/x": "a variable",
    "${DATA}/x": "a variable",
    "/data/$(id)": "a variable",
    "/data/~/x": "~",
    "~nobody-of-this-name/x": "~",
    " /data": "a blank",
    "/data\n": "a blank",
    "C:\\data": "Windows",
    "\\\\server\\share": "Windows",
    "file:///data": "an address",
    "s3://bucket/x": "an address",
    "  ": "is empty",
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.mark.parametrize("text", ["/data", "data/x y", "../x", "/mnt/share$", "a~b", "x:y"])
def test_an_ordinary_path_stays(text):
    assert local_path(text) == text


@pytest.mark.parametrize("text", WRONG)
def test_what_would_become_part_of_a_name_is_refused(text):
    with pytest.raises(ValueError, match=re.escape(WRONG[text])):
        local_path(text)


def paths(content, path=()):
    """The way to every path of a mapping of settings."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from paths(value, (*path, key))
        elif str(value).startswith("~"):
            yield (*path, key)


def put(content, path, value):
    *parents, last = path
    for key in parents:
        content = content[key]
    content[last] = value


def site():
    tls = {name: f"~/{name}" for name in ("ca_file", "cert_file", "key_file")}
    return {
        "site": {"id": "north", "name": "North"},
        "sources": {
            "folder": {"name": "a", "kind": "folder", "path": "~/a"},
            "web": PACS | {"token_file": "~/t", "password_file": "~/p", "ca_file": "~/c"},
            "dimse": {
                "name": "d",
                "kind": "dimse",
                "host": "h",
                "port": 104,
                "called_aet": "A",
                "calling_aet": "B",
                "tls": tls,
            },
        },
        "identity": {"secret_file": "~/i", "signing_key_file": "~/s"},
        "processing": {"totalsegmentator_licence_file": "~/l"},
        "annotation": {"inbox": "~/in"},
        "models": {"registry": "~/m.yaml"},
    }


def read_site(content):
    sources = list(content["sources"].values())
    return load(Site, content | {"sources": sources}, "f").plain()


HUB = {
    "hub": {"id": "h", "name": "H"},
    "protocol": "demo",
    "inbox": "~/inbox",
    "results": "~/results",
    "models": {"registry": "~/m.yaml"},
    "roster": [
        {
            "site": "a",
            "key": f"ed25519:{'0' * 64}",
            "approvers": [{"name": "A", "key": f"ed25519:{'1' * 64}"}],
        }
    ],
}


def test_every_path_of_the_settings_knows_home(home):
    assert len(list(paths(site()))) == 12
    assert "~" not in str(read_site(site()))
    assert str(read_site(site())).count(str(home)) == 12
    assert str(load(Hub, HUB, "f").plain()).count(str(home)) == 3


@pytest.mark.parametrize("path", list(paths(site())), ids=".".join)
def test_every_path_of_the_settings_is_refused_where_it_holds_a_variable(path):
    content = site()
    put(content, path, "$HOME/x")
    with pytest.raises(ConfigError, match=rf"{path[-1]}: '\$HOME/x' holds a variable \(\$\)"):
        read_site(content)


def test_the_hubs_paths_hold_no_variable():
    for key in ("inbox", "results"):
        with pytest.raises(ConfigError, match=f"{key}: .* holds a variable"):
            load(Hub, HUB | {key: "$HOME/x"}, "f")


def test_a_protocol_is_found_at_home(home):
    home.mkdir()
    (home / "p.yaml").write_text("x")
    assert protocol_path("~/p.yaml") == home / "p.yaml"
    with pytest.raises(ConfigError, match=r"/q\.yaml does not exist; did you mean .*/p\.yaml\?"):
        protocol_path("~/q.yaml")
    with pytest.raises(ConfigError, match="is a folder; name the file in it"):
        protocol_path("~/")
    (home / "p.txt").touch()
    with pytest.raises(ConfigError, match=r"end it in \.yaml"):
        protocol_path("~/p.txt")
    with pytest.raises(ConfigError, match=r"protocol: .* holds a variable"):
        protocol_path("$HOME/p.yaml")


def test_radiomics_settings_of_a_protocol_hold_no_variable(home):
    protocol = demo_protocol()
    protocol["radiomics"][0]["settings"] = "$HOME/ct.yaml"
    home.mkdir()
    assert "holds a variable" in message(site_of(home), protocol, home)


@pytest.mark.parametrize(
    ("named", "part"),
    [
        ("", "is empty"),
        (None, "name one folder"),
        (["a"], "name one folder"),
        ("a{b}", "a brace"),
        ("$HOME/x", "a variable"),
        ("file.txt", "is a file, no folder"),
        ("file.txt/below", "is a file, no folder"),
    ],
)
def test_results_are_a_folder(home, named, part):
    Path("file.txt").touch()
    with pytest.raises(ConfigError, match=f"^results: .*{part}"):
        results_folder({"results": named})


def test_results_may_be_at_home_and_are_not_made(home):
    assert results_folder({}) == "results"
    assert results_folder({"results": "~/x/y"}) == f"{home}/x/y"
    assert results_folder({"results": 2024}) == "2024"
    assert os.listdir(home.parent) == []


def test_results_that_cannot_be_written_are_named(home, monkeypatch):
    home.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=f"nothing can be written into {home}; let this user"):
        checked_folder("~/x")


def test_a_typed_path_is_never_a_folder_named_like_home(home, capsys):
    home.mkdir()
    assert main(["keys", "new", "~/a.key"]) == 0
    assert (home / "a.key").is_file()
    with pytest.raises(SystemExit):
        main(["keys", "new", "$HOME/b.key"])
    assert "holds a variable" in capsys.readouterr().err
    assert os.listdir(home.parent) == ["home"]


def test_a_source_that_is_no_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = site_of(tmp_path / "none")
    assert "none does not exist; fix its path or mount it" in message(config)
    (tmp_path / "none").touch()
    assert "none is a file, no folder" in message(config)
    example = (ROOT / "config" / "config.yaml").read_text()
    config["sources"] = yaml.safe_load(example)["sources"]
    (command,) = re.findall(r"jipflow phantom .*", example)
    assert f"`{command}` makes it" in message(config)
    config = site_of(tmp_path / "none")
    config["sources"][0]["path"] = "~nobody-of-this-name"
    with pytest.raises(ConfigError, match="holds ~"):
        load_settings(config)
