"""The hub's inbox, a folder in which others may do what they like."""

from __future__ import annotations

import gc
import json
import os
import socket
import stat
import weakref
from pathlib import Path

import pytest

from federation_world import (
    accept,
    edited,
    hub_content,
    hub_settings,
    put,
    refusal,
    sent,
    zipped,
)
from jipflow.exchange.inbox import inbox_state
from jipflow.hub.accept import Sound
from jipflow.hub.merge import merge
from other_account import bound_python

ACCEPT = """
import sys
from pathlib import Path
from jipflow.exchange.inbox import inbox_digest, messages
for ask in (messages, inbox_digest):
    try:
        print(len(ask(Path(sys.argv[1]))))
    except OSError as error:
        print(type(error).__name__)
"""


def test_an_inbox_that_cannot_be_read_is_no_empty_one(sites, inbox):
    """A listing that leaves out what it may not read gave a result without any site."""
    sites[0].send(inbox)
    assert bound_python(ACCEPT, inbox).stdout.split() == ["1", "64"]
    inbox.chmod(0)
    try:
        found = bound_python(ACCEPT, inbox)
    finally:
        inbox.chmod(0o755)
    assert found.stdout.split() == ["PermissionError"] * 2, found.stderr


CLOSED = """
import os, sys
from pathlib import Path
from jipflow.exchange import inbox
from jipflow.exchange.inbox import inbox_state
path = Path(sys.argv[1])
print([entry["readable"] for entry in inbox_state(path.parent)])
for account in (path.stat().st_uid, path.stat().st_uid + 1):
    os.geteuid = lambda: account
    try:
        inbox.read_message(path, 1000)
    except inbox.Refused as refused:
        print(refused.refusal.value)
    except OSError as error:
        print(type(error).__name__)
"""


def test_a_file_that_a_member_keeps_closed_stops_nobody(inbox):
    """One of the hub's own account that it may not read is a fault of the place."""
    path = inbox / "a.age"
    path.write_bytes(b"x")
    path.chmod(0)
    found = bound_python(CLOSED, path)
    assert found.stdout.splitlines() == ["[False]", "PermissionError", "closed_file"], found.stderr
    path.chmod(0o644)
    assert bound_python(CLOSED, path).stdout == "[True]\n"


SETTINGS = """
import json, sys
from jipflow.hub.settings import load_hub_settings
from jipflow.settings.resources import ConfigError
try:
    load_hub_settings(json.loads(sys.argv[1]))
except ConfigError as error:
    print(error)
"""


def test_the_start_says_that_an_inbox_cannot_be_read(sites, inbox):
    content = json.dumps(hub_content(sites, inbox))
    inbox.chmod(0)
    try:
        found = bound_python(SETTINGS, content)
    finally:
        inbox.chmod(0o755)
    assert f"this account may not read the inbox {inbox}" in found.stdout, found.stderr


@pytest.mark.parametrize("becomes", ["pipe", "link", "socket", "folder", "nothing"])
def test_what_takes_the_place_of_a_bundle_while_it_is_read(sites, inbox, monkeypatch, becomes):
    """A member that swaps its file for a pipe would have made the hub wait for ever."""
    for s in sites:
        s.send(inbox)
    settings = hub_settings(sites, inbox)
    north, looks = inbox / "demo-north-r01-a1.age", Path.lstat
    content = north.read_bytes()

    def look(path):
        found = looks(path)
        if path == north and stat.S_ISREG(found.st_mode):
            north.unlink()
            if becomes == "pipe":
                os.mkfifo(north)
            elif becomes == "link":
                (inbox / "elsewhere").write_bytes(content)
                north.symlink_to(inbox / "elsewhere")
            elif becomes == "socket":
                monkeypatch.chdir(inbox)
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind(north.name)
            elif becomes == "folder":
                north.mkdir()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Path, "lstat", look)
        accepted, rejected = accept(inbox=inbox, settings=settings)
    assert [a.site for a in accepted] == ["south", "west"]
    assert [r.reason for r in rejected] == ([] if becomes == "nothing" else ["not_a_file"])


def test_many_attempts_of_a_member_are_not_held_at_once(sites, inbox, monkeypatch):
    """999 attempts of 16 MiB each would have ended the run for everyone."""
    for s in sites[:2]:
        s.send(inbox)
    sizes = range(2, 8)
    for attempt in sizes:
        sites[0].send(inbox, attempt=attempt)
    settings = hub_settings(sites[:2], inbox)
    whole, held = Sound.of, []

    def of(cls, message, raw):
        held.append(weakref.ref(message))
        gc.collect()
        assert sum(ref() is not None for ref in held) <= 4
        return whole(message, raw)

    monkeypatch.setattr(Sound, "of", classmethod(of))
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert [(a.site, a.attempt) for a in accepted] == [("north", 1), ("south", sizes[-1])]
    assert {r.reason for r in rejected} == {"superseded"}
    assert len(rejected) == len(sizes)


def test_the_order_in_which_a_member_names_its_cells_shows_nowhere(sites, inbox):
    north = sent(sites[1], inbox)
    settings = hub_settings([north], inbox)
    accepted, _ = accept(inbox=inbox, settings=settings)
    first = merge(accepted=accepted, settings=settings)
    raw = edited(north, aggregates=lambda c: c["analyses"][0]["cells"].reverse())
    put(north, raw)
    again, rejected = accept(inbox=inbox, settings=settings)
    assert [r.reason for r in rejected] == ["attempt_conflict"]
    other = inbox.parent / "other" / "inbox"
    other.mkdir(parents=True)
    put(north, raw).rename(other / "b.age")
    again, _ = accept(inbox=other, settings=settings)
    assert merge(accepted=again, settings=settings)["analyses"] == first["analyses"]


def test_signatures_have_one_form(sites, inbox):
    north = sent(sites[1], inbox)
    spaced = json.dumps(json.loads(north.members["signature.json"]), indent=1).encode()
    raw = zipped(north.members | {"signature.json": spaced})
    assert refusal(raw, north, inbox) == "signature_invalid"


def test_a_bundle_of_another_length_and_the_same_time_is_another(tmp_path):
    states = []
    for content in (b"one", b"other"):
        (tmp_path / "a.age").write_bytes(content)
        os.utime(tmp_path / "a.age", ns=(5, 5))
        states.append(inbox_state(tmp_path))
    assert states[0] != states[1]
