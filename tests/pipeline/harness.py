"""Runs the workflow as a user does, and reads what it made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import snakemake_copies
from jipflow.exchange.keys import load_or_create_key, public_text
from jipflow.files import read_json, sha256_file, write_json
from jipflow.hub.rounds import hub_thread, open_first
from jipflow.hub.settings import load_hub_settings
from jipflow.settings.resources import PROTOCOLS

ROOT = Path(__file__).resolve().parents[2]

HUB_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
"""Of the hub that every site under test knows."""

STARTED_WITH = os.environ.get("PYTHONPATH")

ONE_CORE = ("--cores", "1")
"""For a run beside other tests: its jobs start no processes that import it all anew."""


def snakemake(
    *arguments: str,
    profile: str = "demo",
    timeout: float = 900,
    check: bool = True,
    networks: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run snakemake in the repository with a profile; returns its output.

    Without networks it is as where the extras nnunet and totalsegmentator are not installed.
    """
    result = run_snakemake(
        *arguments,
        "--profile",
        f"profiles/{profile}",
        given=environment() if networks else without_networks(),
        timeout=timeout,
    )
    if check and result.returncode:
        raise AssertionError(f"snakemake failed:\n{result.stdout[-6000:]}")
    return result


def run_snakemake(
    *arguments: str,
    folder: Path = ROOT,
    given: dict[str, str] | None = None,
    timeout: float = 900,
) -> subprocess.CompletedProcess[str]:
    """Run what is typed after ``snakemake`` in a folder; return how it ended and what it printed.

    Args:
        given: the environment.
    """
    given = given or environment()
    own = [sys.executable, "-m", "snakemake"]
    if given.get("PYTHONPATH") == STARTED_WITH:
        own = [str(snakemake_copies.program())]
    return subprocess.run(
        [*own, *arguments],
        cwd=folder,
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def command(*arguments: str, profile: str = "demo") -> list[str]:
    return [sys.executable, "-m", "snakemake", *arguments, "--profile", f"profiles/{profile}"]


def copied(*arguments: str) -> list[str]:
    """The same command, carried out by a copy of a process that has loaded what it needs."""
    return [str(snakemake_copies.program()), *arguments, "--profile", "profiles/demo"]


def environment() -> dict[str, str]:
    """The environment without what would tell a nested snakemake of this test's own."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}


def without_networks() -> dict[str, str]:
    """The environment of a site that has installed neither nnU-Net nor PyTorch."""
    found = environment()
    paths = [str(ROOT / "tests" / "without_networks"), found.get("PYTHONPATH", "")]
    return found | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def jipflow(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jipflow", *arguments],
        cwd=ROOT,
        env=os.environ | snakemake_copies.commands(),
        capture_output=True,
        text=True,
        check=True,
    )


@dataclass(frozen=True)
class Site:
    """A site under test: its configuration and where its results go."""

    folder: Path
    name: str
    protocol: str
    results: Path
    protocol_file: Path | None = None

    @property
    def out(self) -> Path:
        """The results of the protocol."""
        return self.results / self.protocol

    @property
    def configfile(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    @property
    def arguments(self) -> list[str]:
        return [
            "--configfile",
            str(self.configfile),
            "--config",
            f"protocol={self.protocol_file or self.protocol}",
            f"results={self.results}",
        ]

    def run(self, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
        return snakemake(*arguments, *self.arguments, **options)

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.out / name)


def make_site(
    folder: Path,
    name: str,
    protocol: str,
    sources: Sequence[Path | Mapping[str, Any]],
    results: Path | None = None,
    **settings,
) -> Site:
    """Write a site's configuration; a source is a folder or an entry of ``sources``."""
    content = {
        "site": {"id": name, "name": f"{name} under test"},
        "sources": [
            dict(source)
            if isinstance(source, Mapping)
            else {"name": f"source-{number}", "kind": "folder", "path": str(source)}
            for number, source in enumerate(sources, 1)
        ],
        "identity": {
            "secret_file": str(folder / f"{name}-secrets" / "identity.key"),
            "signing_key_file": str(folder / f"{name}-secrets" / "site.key"),
            "ledger_folder": str(folder / f"{name}-secrets" / "ledger"),
            "audit_file": str(folder / f"{name}-secrets" / "audit.jsonl"),
        },
        "hub": {"id": "hub", "key": public_text(HUB_KEY)},
        **settings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return Site(folder, name, protocol, results or folder / "results" / name)


@dataclass
class Sarcoma:
    """Fifteen real patients at three sites, each of which has the scanners of one maker.

    The protocols that a site runs share its results, and so its catalog.
    """

    images: Path
    folder: Path
    sites: dict[tuple[str, str], Site] = field(default_factory=dict)

    PATIENTS: ClassVar = {
        "philips": ("002", "008", "024", "038", "047"),
        "siemens": ("017", "023", "025", "034", "035"),
        "ge": ("003", "012", "019", "032", "042"),
    }

    def run(self, protocol: str, *names: str) -> dict[str, Site]:
        """Run a protocol at the named sites that have not run it; return these sites by name."""
        missing = [name for name in names if (name, protocol) not in self.sites]
        made = [self._site(name, protocol) for name in missing]
        # Sites know nothing of each other, and one alone leaves a core idle.
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda site: site.run(*ONE_CORE), made))
        self.sites |= {(site.name, protocol): site for site in made}
        return {name: self.sites[name, protocol] for name in names}

    def _site(self, name: str, protocol: str) -> Site:
        sources = [self.images / f"STS_{number}" for number in self.PATIENTS[name]]
        site = make_site(self.folder, name, protocol, sources)
        content = yaml.safe_load((PROTOCOLS / f"{protocol}.yaml").read_text())
        for entry in content["radiomics"]:
            # One draw is as good as twenty for what is looked at, and takes a tenth of the time.
            if entry.pop("stability", None):
                entry["stability"] = {"contours": 1}
        file = self.folder / f"{protocol}.yaml"
        file.write_text(yaml.safe_dump(content))
        return replace(site, protocol_file=file)


def contours_only() -> dict[str, Any]:
    """The demo's protocol without its model: it runs in seconds."""
    protocol = yaml.safe_load((PROTOCOLS / "demo.yaml").read_text())
    protocol["protocol"]["id"] = "contours"
    protocol["cohort"]["case"]["roles"] = {"PT": {"where": "Modality = 'PT'"}}
    for key in ("segmentations", "radiomics"):
        protocol[key] = [entry for entry in protocol[key] if entry["role"] == "PT"]
    protocol["analyses"] = [
        {"id": "describe", "kind": "summary", "variables": ["PT.original_firstorder_*"]}
    ]
    return protocol


JOINED = {"collect": 1, "report": 1, "crate": 1, "accept": 1, "candidate": 1}
"""Jobs that follow from any job of a shard."""

ANEW = {"collect": 1, "report": 1, "crate": 1, "accept": 1, "receive": 1}
"""The same where the protocol is another: which round of it is open decides on the candidate."""


def planned_jobs(site: Site, *arguments: str) -> tuple[dict[str, int], str]:
    """The jobs of a dry run by rule, without those that have no command, and all it prints."""
    output = site.run("--dry-run", *arguments, profile="local").stdout
    if "Nothing to be done" in output:
        return {}, output
    # After the checkpoint the plan is made again.
    stats = output.split("Job stats:")[-1].split("\n\n")[0]
    rows = re.findall(r"^(\w+) +(\d+)$", stats, re.M)
    ignored = {"all", "default", "total"}
    return {name: int(count) for name, count in rows if name not in ignored}, output


def planned(site: Site, *arguments: str) -> dict[str, int]:
    """The jobs of a dry run by rule."""
    return planned_jobs(site, *arguments)[0]


@contextmanager
def as_it_was(path: Path) -> Iterator[None]:
    """Keep the time of a file that is written."""
    written = path.stat()
    yield
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))


def settle(site: Site, record: Path, change: Mapping[str, Mapping[str, Any]]) -> None:
    """Change a job's record, and the records of the jobs that read it, as if it had been so."""
    content = read_json(record)
    for key, values in change.items():
        content[key].update(values)
    with as_it_was(record):
        write_json(record, content)
    for other in sorted(site.out.rglob("*provenance.json")):
        for name in read_json(other)["inputs"]:
            if (other.parent / name).resolve() == record.resolve():
                settle(site, other, {"inputs": {name: sha256_file(record)}})


def member(site: Site) -> dict[str, Any]:
    """What a hub's roster says of a site and the one person who approves there."""
    keys = {}
    for whose in ("site", "approver"):
        key = load_or_create_key(site.folder / f"{site.name}-secrets" / f"{whose}.key")
        keys[whose] = public_text(key)
    person = {"name": f"Dr {site.name}", "key": keys["approver"]}
    return {"site": site.name, "key": keys["site"], "approvers": [person]}


def open_round(folder: Path, protocol: str, sites: Sequence[Site]) -> Path:
    """Write a hub's configuration, open its first round, and carry its messages to the sites.

    Returns:
        The configuration.
    """
    inbox = folder / f"inbox-{protocol}"
    inbox.mkdir(parents=True, exist_ok=True)
    key = folder / "hub.key"
    key.write_bytes(HUB_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    content = {
        "hub": {"id": "hub", "name": "Hub under test"},
        "protocol": str(sites[0].protocol_file or protocol),
        "inbox": str(inbox),
        "outbox": str(folder / f"outbox-{protocol}"),
        "identity": {"signing_key_file": str(key), "audit_file": str(folder / "hub.jsonl")},
        "results": str(folder / "hub"),
        "roster": [member(site) for site in sites],
    }
    path = folder / f"hub-{protocol}.yaml"
    path.write_text(yaml.safe_dump(content))
    settings = load_hub_settings(content)
    thread = hub_thread(settings)
    open_first(settings, thread)
    thread.speak(HUB_KEY)
    thread.send(folder / f"outbox-{protocol}")
    for site in sites:
        received = site.results / "exchange" / "in"
        shutil.copytree(folder / f"outbox-{protocol}" / site.name, received, dirs_exist_ok=True)
    return path


def approve_and_send(site: Site, inbox: Path, *options: str) -> None:
    """Approve a site's release as a person would and carry the message to the inbox.

    Args:
        site: that has run, to which the hub has opened the round.
        inbox: folder of the hub.
        options: of ``jipflow release approve``.
    """
    site.run("release", *ONE_CORE)
    key = site.folder / f"{site.name}-secrets" / "approver.key"
    signer = ("--name", f"Dr {site.name}", "--key", str(key))
    jipflow("release", "approve", str(site.out / "release" / "r01"), *signer, *options)
    site.run("bundle", *ONE_CORE)
    (sealed,) = (site.results / "exchange" / "out").glob(f"{site.protocol}-*.age")
    shutil.copy(sealed, inbox)


def seg_errors(paths: Sequence[Path]) -> list[str]:
    """The error lines of dciodvfy about these files."""
    errors = []
    for path in paths:
        result = subprocess.run(
            [str(Path(sys.executable).parent / "dciodvfy"), str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = (result.stdout + result.stderr).splitlines()
        assert any(line.strip() == "Segmentation" for line in lines), lines[:5]
        errors += [f"{path}: {line}" for line in lines if line.startswith("Error")]
    return errors
