"""Three sites and a hub, each in a network and a file system that has nothing of the others but a
folder for sealed messages."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml

from harness import ONE_CORE, ROOT, contours_only, environment
from jipflow.exchange.keys import load_or_create_key, public_text
from jipflow.forked import SERVER
from jipflow.phantom import dicom
from jipflow.phantom.cohort import ROI_NAME, Subject, make_subject
from jipflow.phantom.vendors import VENDORS
from jipflow.settings.resources import RESOURCES
from snakemake_copies import SNAKEMAKE, begun

SITES = ("north", "south", "west")
HUB = "hub"
PATIENTS = 24
PROTOCOL = "contours"
MEASURED = {
    "segmentation": "gtv",
    "role": "PT",
    "settings": {
        **yaml.safe_load((RESOURCES / "radiomics" / "ibsi_pet.yaml").read_text()),
        "featureClass": {"firstorder": ["Mean"], "glcm": []},
    },
}
"""Radiomics of the demonstration, of which rounds need the mean and a family for ComBat."""


@dataclass(frozen=True)
class Federation:
    """Where everything of it lies: a folder for each party, and ``exchange`` between them."""

    base: Path

    @property
    def exchange(self) -> Path:
        return self.base / "exchange"

    def folder(self, party: str) -> Path:
        return self.base / party

    def results(self, party: str) -> Path:
        """The results of the protocol."""
        return self.folder(party) / "results" / PROTOCOL

    def key(self, party: str, whose: str = "machine") -> Path:
        return self.folder(party) / "secrets" / f"{whose}.key"

    def inbox(self, party: str) -> Path:
        return self.exchange / (HUB if party == HUB else f"sites/{party}")

    def apart(self, party: str, words: Sequence[str], timeout: float = 600) -> str:
        """Run a command in a copy of the process of a party, see `_apart`; return its output."""
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=environment() | {SERVER: str(self._server(party))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{shlex.join(words)} failed at {party}:\n{done.stdout[-4000:]}")
        return done.stdout

    def _server(self, party: str) -> Path:
        return _apart(party, *(self.folder(other) for other in (*SITES, HUB) if other != party))

    def snakemake(self, party: str, *targets: str) -> str:
        settings = ["--configfile", str(self.folder(party) / f"{party}.yaml")]
        if party != HUB:
            results = self.results(party).parent
            protocol = self.folder(party) / "protocol" / "contours.yaml"
            settings += ["--config", f"protocol={protocol}", f"results={results}"]
        program = self._server(party) / "bin" / SNAKEMAKE
        words = [*(targets or (["hub"] if party == HUB else [])), *settings, *ONE_CORE]
        return self.apart(party, [str(program), *words, "--profile", "profiles/demo"])

    def jipflow(self, party: str, *arguments: str) -> str:
        return self.apart(party, [sys.executable, "-m", "jipflow", *arguments])

    def sealed(self, party: str) -> list[Path]:
        """The messages in a party's inbox."""
        return sorted(self.inbox(party).glob("*.age"))

    def roster(self, **people: Sequence[str]) -> list[dict[str, Any]]:
        """What hub.yaml says of the sites; of people the names of the files of their keys."""
        return [
            {
                "site": site,
                "key": self.public(site),
                "approvers": [
                    {"name": name, "key": self.public(site, name.split()[0].lower())}
                    for name in people.get(site, ("Ada Roe",))
                ],
            }
            for site in SITES
        ]

    def public(self, party: str, whose: str = "machine") -> str:
        return public_text(load_or_create_key(self.key(party, whose)))

    def write_hub(self, roster: list[dict[str, Any]]) -> None:
        content = {
            "hub": {"id": HUB, "name": "The hub"},
            "protocol": str(self.folder(HUB) / "protocol" / "contours.yaml"),
            "inbox": str(self.inbox(HUB)),
            "outbox": str(self.exchange / "sites"),
            "results": str(self.folder(HUB) / "results"),
            "identity": {
                "signing_key_file": str(self.key(HUB)),
                "audit_file": str(self.key(HUB).with_name("audit.jsonl")),
            },
            "roster": roster,
        }
        (self.folder(HUB) / f"{HUB}.yaml").write_text(yaml.safe_dump(content))

    def write_site(self, party: str, patients: int, seed: int) -> None:
        folder = self.folder(party)
        for number, vendor in zip(range(1, patients + 1), cycle(VENDORS.values()), strict=False):
            write_pet(folder / "archive" / str(number), make_subject(party, number, seed, vendor))
        content = {
            "site": {"id": party, "name": f"Hospital {party}"},
            "sources": [{"name": "a", "kind": "folder", "path": str(folder / "archive")}],
            "identity": {
                "secret_file": str(folder / "secrets" / "identity.key"),
                "signing_key_file": str(self.key(party)),
                "ledger_folder": str(folder / "secrets" / "ledger"),
                "audit_file": str(folder / "secrets" / "audit.jsonl"),
            },
            "hub": {"id": HUB, "key": self.public(HUB)},
            "exchange": {"inbox": str(self.inbox(party)), "outbox": str(self.inbox(HUB))},
        }
        (folder / f"{party}.yaml").write_text(yaml.safe_dump(content))


def write_pet(folder: Path, subject: Subject) -> None:
    """Write the PET of a synthetic patient and its contours, all that the protocol looks at."""
    study, scan = subject.study, dicom.Scan(subject.injection, subject.pt_start, "BQML")
    pet = dicom.pt_series(subject.suv, subject.pt_grid, study, scan)
    contours = dicom.rtstruct({ROI_NAME: subject.lesion}, subject.pt_grid, pet, study)
    dicom.write_series([*pet, contours], folder, "{modality}-{number}.dcm")


def federation(base: Path, analyses: list[dict[str, Any]]) -> Federation:
    """Write three sites of synthetic patients and a hub, with a protocol of these analyses."""
    made = Federation(base)
    protocol = contours_only() | {"analyses": analyses, "radiomics": [MEASURED]}
    for party in (*SITES, HUB):
        (made.folder(party) / "protocol").mkdir(parents=True)
        made.inbox(party).mkdir(parents=True, exist_ok=True)
        path = made.folder(party) / "protocol" / "contours.yaml"
        path.write_text(yaml.safe_dump(protocol))
    for seed, site in enumerate(SITES, 11):
        made.write_site(site, PATIENTS + seed - 11, seed)
    made.write_hub(made.roster())
    return made


@cache
def _apart(party: str, *hidden: Path) -> Path:
    """Start what a party's commands are copies of: without a network, and without these folders."""
    hiding = " && ".join(f"mount -t tmpfs none {shlex.quote(str(path))}" for path in hidden)
    inner = f'{hiding} && exec "$@"'
    namespaces = ["unshare", "--map-root-user", "--net", "--mount"]
    return begun([*namespaces, "sh", "-c", inner, party])
