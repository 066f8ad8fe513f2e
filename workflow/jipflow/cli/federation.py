"""A whole federation on one machine: each site and the hub run as real ones, approvals played."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jipflow.cli.rights import rights_of
from jipflow.exchange.keys import load_or_create_key, public_text
from jipflow.files import atomic_path, read_json
from jipflow.hub.rounds import hub_thread
from jipflow.hub.settings import load_hub_settings
from jipflow.reasons import StageError
from jipflow.release.approval import approve, read_approvals
from jipflow.settings.resources import ROOT

ROUNDS, UNTIL = 12, "2099-12-31"
"""What the persons who are played approve: the release and what follows from it."""


class Progress:
    """Says on one line each what is done.

    Args:
        word: that each line begins with.
        steps: how many there are.
    """

    def __init__(self, word: str, steps: int) -> None:
        self._word, self._steps, self._step = word, steps, 0
        self._started = time.monotonic()

    def begin(self, text: str) -> None:
        """Say that the next step begins."""
        self._step += 1
        self.go_on(text)

    def go_on(self, text: str) -> None:
        """Say what is done within a step."""
        print(f"[{self._word} {self._step}/{self._steps}] {text}", flush=True)

    def end(self) -> None:
        """Say how long all took, as the last step."""
        self.begin(f"done in {time.monotonic() - self._started:.0f} s")


@dataclass(frozen=True)
class Federation:
    """Sites and a hub that exchange messages by folders of one machine.

    Attributes:
        out: folder for everything, absolute.
        protocol: id of a shipped protocol, or the path of a file.
        protocol_id: its id.
        sites: by id what a site's file says of its own: ``site``, ``sources``, ``clinical`` and so
            on.
        hub: name of the hub.
        progress: says what is done.
        cores: to use; all where it is None.
    """

    out: Path
    protocol: str
    protocol_id: str
    sites: Mapping[str, Mapping[str, Any]]
    hub: str
    progress: Progress
    cores: int | None = None

    STEPS = 2
    """Of a run beside one a site: the hub opens the first round, and the hub merges."""

    @property
    def round(self) -> int:
        """The round that the hub has opened last."""
        content = yaml.safe_load(self._hub_file.read_text(encoding="utf-8"))
        return hub_thread(load_hub_settings(content)).round

    @property
    def round_folder(self) -> Path:
        """Results of the hub for that round."""
        return self.hub_results / "rounds" / f"r{self.round:02d}"

    @property
    def hub_results(self) -> Path:
        """Results of the hub for the protocol."""
        return self.out / "hub" / "results" / self.protocol_id

    def results(self, site: str) -> Path:
        """Return the results of a site for the protocol."""
        return self.out / "results" / site / self.protocol_id

    def run(self) -> None:
        """Run all rounds; what an earlier run made is used again.

        Raises:
            StageError: a run failed; the message names its log.
        """
        for site in self.sites:
            self._write_site(site)
        self._write_hub()
        hub = ["hub", "--configfile", str(self._hub_file)]
        self.progress.begin("hub: open the first round")
        self._snakemake("hub", *hub)
        for site in self.sites:
            self.progress.begin(f"site {site}: from DICOM to a release")
            self._release(site)
        self.progress.begin("hub: verify, merge, report")
        self._snakemake("hub", *hub)
        while (round_ := self.round) > 1 and not self._is_over():
            for site in self.sites:
                self.progress.go_on(
                    f"site {site}: round {round_}, which its person has approved with the first"
                )
                self._pack(site)
            self.progress.go_on(f"hub: round {round_}")
            self._snakemake("hub", *hub)

    def _is_over(self) -> bool:
        """Return whether the hub has run in the round that is open, and opened none after it."""
        return (self.round_folder / "outlook.json").is_file()

    @property
    def _hub_file(self) -> Path:
        return self.out / "hub" / "hub.yaml"

    @property
    def _hub_key(self) -> Path:
        return self.out / "hub" / "secrets" / "hub.key"

    def _site_file(self, site: str) -> Path:
        return self.out / "sites" / site / "site.yaml"

    def _write_site(self, site: str) -> None:
        secrets = self.out / "sites" / site / "secrets"
        own = {
            "identity": {
                "secret_file": str(secrets / "identity.key"),
                "signing_key_file": str(secrets / "site.key"),
                "ledger_folder": str(secrets / "ledger"),
                "audit_file": str(secrets / "audit.jsonl"),
            },
            "hub": {"id": "hub", "key": public_text(load_or_create_key(self._hub_key))},
            "exchange": {
                "inbox": str(self.out / "exchange" / "sites" / site),
                "outbox": str(self.out / "exchange" / "hub"),
            },
        }
        _write_yaml(self._site_file(site), {**self.sites[site], **own})

    def _write_hub(self) -> None:
        """Write the hub's configuration with the public keys of the sites and their approvers."""
        roster = []
        for site in self.sites:
            secrets = self.out / "sites" / site / "secrets"
            key = public_text(load_or_create_key(secrets / "approver.key"))
            roster.append(
                {
                    "site": site,
                    "key": public_text(load_or_create_key(secrets / "site.key")),
                    "approvers": [{"name": _approver(site), "key": key}],
                }
            )
        (self.out / "exchange" / "hub").mkdir(parents=True, exist_ok=True)
        _write_yaml(
            self._hub_file,
            {
                "hub": {"id": "hub", "name": self.hub},
                "protocol": self.protocol,
                "inbox": str(self.out / "exchange" / "hub"),
                "outbox": str(self.out / "exchange" / "sites"),
                "identity": {
                    "signing_key_file": str(self._hub_key),
                    "audit_file": str(self._hub_key.with_name("audit.jsonl")),
                },
                "results": str(self.out / "hub" / "results"),
                "roster": roster,
            },
        )

    def _release(self, site: str) -> None:
        """Run a site, play the person who approves its release, and pack it."""
        self._snakemake(site, *self._arguments(site))
        release = self.results(site) / "release" / "r01"
        key = self.out / "sites" / site / "secrets" / "approver.key"
        try:
            read_approvals(release, 1)
        except StageError:
            with rights_of(self.results(site)):
                approve(
                    release_dir=release,
                    name=_approver(site),
                    key_file=key,
                    rounds=ROUNDS,
                    until=UNTIL,
                )
        self._pack(site)

    def _pack(self, site: str) -> None:
        """Run a site as far as the message of the round that is open, which was approved."""
        self._snakemake(f"{site}-bundle", "bundle", *self._arguments(site))

    def _arguments(self, site: str) -> list[str]:
        return [
            "--configfile",
            str(self._site_file(site)),
            "--config",
            f"protocol={self.protocol}",
            f"results={self.out / 'results' / site}",
        ]

    def _snakemake(self, name: str, *arguments: str) -> None:
        """Run the workflow, showing its progress on one line; its output goes to a log."""
        log = self.out / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "snakemake", *arguments, "--profile", "profiles/demo"]
        command += ["--cores", str(self.cores)] if self.cores else []
        progress = ""
        with open(log, "w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert process.stdout is not None
            for line in process.stdout:
                stream.write(line)
                found = re.search(r"(\d+) of (\d+) steps", line)
                if found:
                    progress = f"    {found[1]} of {found[2]} jobs"
                    if sys.stdout.isatty():
                        print(f"\r{progress}", end="", flush=True)
            code = process.wait()
        if progress:
            print("\r" + progress if sys.stdout.isatty() else progress, flush=True)
        if code:
            tail = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-25:])
            raise StageError(f"the run of {name} failed; the end of {log}:\n{tail}")

    def summary(self) -> list[str]:
        """Say in a line each what became of the sites, and of their releases at the hub."""
        lines = []
        for site in self.sites:
            folder = self.results(site)
            verdict = read_json(folder / "verdict.json")
            lines.append(
                f"{site}: {verdict['cases']} cases, {verdict['ok']} ok, {verdict['failed']} with a "
                f"failed item and its reason; report {folder / 'report' / 'index.html'}"
            )
        accepted, refused = (
            len(read_json(self.round_folder / f"{name}.json")) for name in ("accepted", "rejected")
        )
        result = read_json(self.round_folder / "result.json")
        cells = sum(len(analysis["cells"]) for analysis in result["analyses"])
        lines.append(f"hub: {accepted} releases accepted, {refused} refused, {cells} merged cells")
        return lines


def _approver(site: str) -> str:
    return f"Data steward of {site}"


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as partial:
        partial.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
