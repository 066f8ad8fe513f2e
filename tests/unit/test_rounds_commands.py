"""The commands by which people look at the rounds of a federation, change its roster and end it."""

from __future__ import annotations

import os

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from federation_world import HUB_KEY
from jipflow.cli import main
from jipflow.exchange.keys import new_key
from jipflow.files import json_text, write_json
from jipflow.hub.decisions import write_accepted
from jipflow.release.rounds import Standing
from thread_world import TEXT, Federation


@pytest.fixture
def hub(tmp_path):
    """A hub with an open round, as its files are: hub.yaml, its key, its results."""
    made = Federation(tmp_path)
    key = tmp_path / "hub.key"
    key.write_bytes(HUB_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(made.content))
    made.hub |= {
        "protocol": str(tmp_path / "demo.yaml"),
        "identity": {"signing_key_file": str(key), "audit_file": str(tmp_path / "audit.jsonl")},
    }
    made.results = tmp_path / "hub" / "demo"
    write(made)
    return made


def write(hub):
    (hub.folder / "hub.yaml").write_text(yaml.safe_dump(hub.hub))
    hub.results.mkdir(parents=True, exist_ok=True)
    (hub.results / "settings.json").write_text(json_text(hub.settings.plain()))


def called(capsys, *words):
    """Return what a command printed, and how it ended."""
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    return printed.out + printed.err, code


def test_who_is_missing_is_shown(hub, capsys):
    hub.send("north")
    hub.accept()
    write_accepted(hub.results / "rounds" / "r01" / "accepted.json", hub.accepted)
    text, code = called(capsys, "rounds", "show", hub.results)
    assert code == 0
    assert "round:     1 of at most 2 is open" in text
    assert "missing:   south, west" in text
    assert "message 1: round 1 was opened" in text


def test_a_new_roster_is_put_into_force_and_sent(hub, capsys, tmp_path):
    before = {path.name for path in (tmp_path / "out" / "north").iterdir()}
    command = ("rounds", "roster", tmp_path / "hub.yaml", "--because", "North has a new machine.")
    text, code = called(capsys, *command)
    assert code == 1
    assert "which is in force" in text
    hub.hub["roster"][0]["key"] = new_key(tmp_path / "new.key")
    write(hub)
    text, code = called(capsys, *command)
    assert code == 0
    assert "roster 2 is in force: north, south, west" in text
    assert {path.name for path in (tmp_path / "out" / "north").iterdir()} - before
    text, _ = called(capsys, "rounds", "show", hub.results)
    assert "roster:    2 (North has a new machine.): north, south, west" in text


def test_rounds_are_ended_in_writing(hub, capsys, tmp_path):
    text, code = called(capsys, "rounds", "end", tmp_path / "hub.yaml", "--because", "wrong")
    assert code == 1
    assert "because" in text
    command = ("rounds", "end", tmp_path / "hub.yaml", "--because", "The edges were wrong.")
    before = os.umask(0o022)
    try:
        assert called(capsys, *command)[1] == 0
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert (hub.results.parent / "audit.json").stat().st_mode & 0o077 == 0
    text, _ = called(capsys, "rounds", "show", hub.results)
    assert "ended in round 1: The edges were wrong." in text
    text, code = called(capsys, *command)
    assert code == 1
    assert "ended before: The edges were wrong." in text


def test_a_site_shows_where_it_stands(tmp_path, capsys):
    path = tmp_path / "rounds" / "standing.json"
    write_json(path, Standing(hub="hub", protocol=TEXT).plain())
    text, code = called(capsys, "rounds", "show", tmp_path)
    assert code == 0
    assert "no message of the hub 'hub' has come yet" in text
    text, code = called(capsys, "rounds", "show", tmp_path / "rounds")
    assert code == 1
    assert "is not the results folder of a protocol" in text
