"""A hub whose inbox others can write into, run as its steward runs it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
import zipfile

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import snakemake_copies
from crate_graphs import graph, ids
from federation_world import HUB_KEY
from jipflow.exchange.message import describe
from jipflow.settings.resources import ROOT
from thread_world import Federation

ODD = ("{x}.age", "<results>.age", "{}.age", "*.age", "$HOME.age", "-rf.age", "new\nline.age")
"""Names that a shell, a format or Snakemake could take for more than a name."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with the message of the site north; another waits outside of the inbox."""
    folder = tmp_path_factory.mktemp("hub")
    made = Federation(folder)
    _, south = made.send("north", "south")
    (folder / "demo.yaml").write_text(yaml.safe_dump(made.content))
    key = folder / "hub.key"
    key.write_bytes(HUB_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    content = made.hub | {
        "protocol": str(folder / "demo.yaml"),
        "identity": {"signing_key_file": str(key), "audit_file": str(folder / "audit.jsonl")},
    }
    (folder / "hub.yaml").write_text(yaml.safe_dump(content))
    south.rename(folder / "later.age")
    return folder


def run(folder):
    """Run the hub in a folder of its own, so that it waits for no other test's run."""
    program = str(snakemake_copies.program())
    command = [program, "hub", "--configfile", str(folder / "hub.yaml")]
    command += ["--snakefile", str(ROOT / "workflow" / "Snakefile"), "--directory", str(folder)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SNAKEMAKE")}
    options = {"env": environment, "umask": 0o022}
    subprocess.run([*command, "--cores", "1"], check=True, capture_output=True, **options)


def counting(folder):
    accepted, rejected = (
        json.loads((folder / "hub" / "demo" / "rounds" / "r01" / f"{name}.json").read_text())
        for name in ("accepted", "rejected")
    )
    return [entry["site"] for entry in accepted], [entry["reason"] for entry in rejected]


def test_no_name_of_a_file_keeps_other_bundles_from_being_merged(hub):
    run(hub)
    assert counting(hub) == (["north"], [])
    for name in ODD:
        (hub / "inbox" / name).write_text("no bundle")
    (hub / "inbox" / os.fsdecode(b"\xff.age")).write_text("no bundle")
    os.mkfifo(hub / "inbox" / "pipe.age")
    (hub / "later.age").rename(hub / "inbox" / "south.age")
    run(hub)
    sites, reasons = counting(hub)
    assert sites == ["north", "south"]
    assert sorted(reasons) == ["not_a_file"] + ["not_sealed"] * (len(ODD) + 1)
    result = json.loads((hub / "hub" / "demo" / "rounds" / "r01" / "result.json").read_text())
    assert [entry["id"] for entry in result["sites"]] == ["north", "south"]
    written = (hub / "hub" / "demo" / "rounds").rglob("*")
    assert {path for path in written if path.stat().st_mode & 0o077} == set()
    for path in (hub / "inbox").iterdir():
        path.unlink()
    run(hub)
    assert counting(hub) == (["north", "south"], [])
    assert (
        json.loads((hub / "hub" / "demo" / "rounds" / "r01" / "result.json").read_text()) == result
    )


def test_a_round_has_a_crate_of_its_jobs_and_of_whose_messages_they_took(hub):
    folder = hub / "hub" / "demo" / "rounds" / "r01"
    # Whoever removes it finds it made again.
    (folder / "crate.zip").unlink(missing_ok=True)
    run(hub)
    accepted = json.loads((folder / "accepted.json").read_text())
    data = (folder / "crate.zip").read_bytes()
    found = graph(data)
    missing = ids(list(found.values())) - found.keys()
    assert all(name.startswith("https://") for name in missing), missing
    jobs = {name for name in found if name.startswith("#job/")}
    assert jobs == {
        f"#job/demo/rounds/r01/hub_{job}" for job in ("open", "accept", "merge", "report")
    }
    assert all(found[name]["resourceUsage"] for name in jobs)
    place = "arcp://name,hub/demo"
    read = ids(found["#job/demo/rounds/r01/hub_accept"]["object"])
    messages = {name: found[name] for name in read if "/in/r01/" in name}
    for entry in accepted:
        (name,) = (name for name in messages if entry["sha256"] in name)
        assert (hub / "hub" / name.removeprefix("arcp://name,hub/")).is_file()
        assert messages[name]["sha256"] == entry["sha256"]
        assert messages[name]["author"] == {"@id": f"#site/{entry['site']}"}
    assert ids(found["./"]["contributor"]) == {f"#site/{entry['site']}" for entry in accepted}
    assert len(messages) == len(accepted) > 0
    (opening,) = (hub / "hub" / "demo" / "messages").glob("*/events/0001-*.json")
    (written,) = ids(found["#job/demo/rounds/r01/hub_open"]["result"])
    assert written.endswith(f"/events/{opening.name}")
    assert found[written]["sha256"] == describe(opening.read_bytes()).sha256
    assert written in read
    for name in ("result.json", "report.html", "tables/accepted_sites.csv"):
        file = found[f"{place}/rounds/r01/{name}"]
        assert file["sha256"] == describe((folder / name).read_bytes()).sha256
    with zipfile.ZipFile(folder / "crate.zip") as archive:
        words = archive.read("ro-crate-metadata.json")
        protocol = describe(archive.read("protocol.json")).sha256
    settings = json.loads((hub / "hub" / "demo" / "settings.json").read_text())
    assert protocol == settings["protocol_sha256"]
    approver = accepted[0]["approvals"][0]["person"]
    for word in (hub, platform.node(), f"/{getpass.getuser()}", approver):
        assert str(word).encode() not in words
