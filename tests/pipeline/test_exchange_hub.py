"""A hub whose inbox and outbox are on a server, run by Snakemake."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from exchange_servers import SECRET, Server, running
from harness import environment, run_snakemake
from jipflow.exchange.keys import load_or_create_key, public_text
from jipflow.exchange.sealing import MAGIC
from jipflow.files import read_json

SITES = ("north", "south", "west")


def key(path: Path) -> str:
    return public_text(load_or_create_key(path))


def write_hub(server: Server, folder: Path) -> Path:
    """Write the configuration of a hub that reaches its sites over a server."""
    roster = [
        {
            "site": site,
            "key": key(folder / f"{site}.key"),
            "approvers": [{"name": f"Steward of {site}", "key": key(folder / f"{site}-s.key")}],
        }
        for site in SITES
    ]
    path = folder / "hub.yaml"
    content = {
        "hub": {"id": "hub", "name": "Hub under test"},
        "protocol": "demo",
        "inbox": server.address("in"),
        "outbox": server.address("out"),
        "identity": {
            "signing_key_file": str(folder / "hub.key"),
            "audit_file": str(folder / "audit.jsonl"),
        },
        "results": str(folder / "hub"),
        "roster": roster,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def run_hub(server: Server, config: Path) -> subprocess.CompletedProcess[str]:
    words = ["hub", "--configfile", str(config), "--profile", "profiles/demo"]
    return run_snakemake(*words, given={**environment(), **server.environment})


@contextmanager
def seen_processes() -> Iterator[set[bytes]]:
    """Collect the command lines of all processes while the block runs."""
    lines: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    lines.add(path.read_bytes())
            time.sleep(0.02)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lines
    finally:
        over.set()
        thread.join()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["wsgidav", "rclone-s3"])
def test_a_hub_fetches_and_sends_what_is_new_and_nothing_twice(kind, tmp_path):
    with running(kind, tmp_path / "served") as server:
        (server.root / "out").mkdir()
        (server.inbox / "bad.age").write_bytes(MAGIC + bytes(1000))
        (server.inbox / "page.age").write_bytes(b"<html>".ljust(1000))
        config = write_hub(server, tmp_path)
        with seen_processes() as processes:
            first = run_hub(server, config)
        assert first.returncode == 0, first.stdout[-3000:]
        results = tmp_path / "hub" / "demo"
        fetched = read_json(results / "exchange" / "fetched.json")
        assert fetched == {
            "files": ["bad.age"],
            "left_out": {"page.age": "it is no sealed message"},
        }
        assert [p.name for p in (results / "exchange" / "in").iterdir()] == ["bad.age"]
        assert {p.parent.name for p in (server.root / "out").glob("*/*")} == set(SITES)
        assert len(read_json(results / "exchange" / "sent.json")["files"]) == len(SITES)

        # The server's own command line holds the secret, as rclone takes it.
        ours = {line for line in processes if b"exchange" in line and b"rclone" not in line}
        assert ours, "no process of the exchange was seen"
        assert not any(SECRET.encode() in line for line in ours)
        written = [p for p in (tmp_path / "hub").rglob("*") if p.is_file()]
        assert not [p for p in written if SECRET.encode() in p.read_bytes()]
        assert SECRET not in first.stdout

        (server.inbox / "page.age").unlink()
        again = run_hub(server, config)
        assert "Nothing to be done" in again.stdout
        (server.inbox / "late.age").write_bytes(MAGIC + bytes(500))
        late = run_hub(server, config)
        assert "hub_accept runs again" in late.stdout
        assert read_json(results / "exchange" / "fetched.json")["files"] == ["late.age"]
        server.stop()
        down = run_hub(server, config)
        assert down.returncode == 1
        assert f"fetch: {server.address()} does not list its files: " in down.stdout
        server.start()
        assert "Nothing to be done" in run_hub(server, config).stdout
