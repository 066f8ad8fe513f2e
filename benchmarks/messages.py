"""Time and size of messages at a hub with 3, 50 and 500 sites."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from jipflow import __version__
from jipflow.analyses.contract import analyses_of
from jipflow.exchange import keys, message
from jipflow.exchange.roster import Roster, first_roster
from jipflow.exchange.sealing import seal
from jipflow.files import json_text
from jipflow.hub.accept import Reader, accept
from jipflow.hub.check import Asked
from jipflow.hub.merge import merge
from jipflow.hub.rounds import hub_thread
from jipflow.hub.settings import HubSettings
from jipflow.hub.thread import Event
from jipflow.hub.verify import Open
from jipflow.release.contents import formats
from jipflow.release.gate import all_rules
from jipflow.release.terms import analyses_sha256
from jipflow.settings.bounds import bounds
from jipflow.settings.digests import protocol_parts, protocol_sha256
from jipflow.settings.hub import Hub, Member
from jipflow.settings.reading import read_protocol
from report import Cell, measure, write_result

CASES = ((3, 10_000), (50, 10_000), (500, 10_000))
"""Numbers of sites, and of cells that each sends."""
PATIENTS = 40
ISSUED = "2026-11-03T12:00:00Z"
LAST = "a" * 64


def protocol_content(segments: int) -> dict[str, Any]:
    """A protocol that measures a CT in so many segments."""
    names = [f"part-{i:03d}" for i in range(segments)]
    return {
        "protocol": {"id": "many", "version": "1.0.0", "title": "Many segments"},
        "cohort": {"where": "true", "case": {"by": "patient", "roles": {"CT": {"where": "true"}}}},
        "segmentations": [
            {
                "id": "organs",
                "engine": "imported",
                "from": "SEG",
                "role": "CT",
                "segments": [{"name": n, "match": n, "term": "liver"} for n in names],
            }
        ],
        "radiomics": [{"segmentation": "organs", "role": "CT", "settings": "pyradiomics_ct"}],
        "analyses": [
            {"id": "describe", "kind": "summary", "variables": ["CT.*"]},
        ],
    }


class Federation:
    """A hub, and as many sites as are asked for, of which each sends the same number of cells."""

    def __init__(self, folder: Path, sites: int, cells: int) -> None:
        import yaml

        self.folder = folder
        (folder / "inbox").mkdir(parents=True)
        path = folder / "many.yaml"
        path.write_text(yaml.safe_dump(protocol_content(95)))
        protocol, named = read_protocol(path, None)
        self.hub_key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
        self.machines = [_key(1, i) for i in range(sites)]
        self.people = [_key(2, i) for i in range(sites)]
        self.members = [
            Member(
                site=_name(i),
                key=keys.public_text(self.machines[i]),
                approvers=[{"name": "Ada Roe", "key": keys.public_text(self.people[i])}],
            )
            for i in range(sites)
        ]
        self.settings = HubSettings(
            hub=Hub.model_validate(
                {
                    "hub": {"id": "hub", "name": "The hub"},
                    "protocol": str(path),
                    "inbox": str(folder / "inbox"),
                    "outbox": str(folder / "outbox"),
                    "results": str(folder / "results"),
                    "roster": [member.plain() for member in self.members],
                }
            ),
            protocol=protocol,
            protocol_sha256=protocol_sha256(protocol, named),
            protocol_parts=protocol_parts(protocol, named),
            named=named,
        )
        self.roster: Roster = first_roster("hub", self.members, ISSUED)
        self.asked = Asked.by(protocol)
        (analysis,) = analyses_of(protocol)
        features = sorted(set().union(*self.asked.features.values()))
        found = [k for k in analysis.cells(features, self.asked.places) if self.asked.measures(k)]
        self.cells = found[:cells]

    def release(self, site: int) -> dict[str, bytes]:
        """The files of a site's release; of the cells that the rules would let out all are sent."""
        rng = np.random.default_rng(site)
        cells = []
        for key in self.cells:
            low, high = bounds(key.role, key.feature)
            middle = 50.0 if low == -np.inf else low + 0.3 * (min(high, low + 100.0) - low)
            mean = float(middle * rng.uniform(0.99, 1.01))
            spread = {"mean": mean, "mean_rest": 0.0, "m2": float(abs(middle) * rng.uniform(1, 2))}
            cells.append({**key._asdict(), "n": PATIENTS, "rows": PATIENTS, **spread})
        header = {
            "protocol": self.settings.text.plain(),
            "site": _name(site),
            "recipient": "hub",
            "round": 1,
            "version": __version__,
            "min_patients": self.asked.minimum,
        }
        (analysis,) = analyses_of(self.settings.protocol)
        aggregates = header | {
            "analyses": [
                {"id": "describe", "kind": "summary", "cells": cells, **analysis.heading()}
            ]
        }
        data = json_text(aggregates).encode()
        rules = all_rules()
        own = {"min_patients", "earlier", "difference", "saturation"}
        own |= {rule.code for rule in analysis.rules}
        recorded = {rule.code: "passed" if rule.code in own else "not applied" for rule in rules}
        disclosure = header | {
            "aggregates_sha256": message.describe(data).sha256,
            "verdict": "released",
            "rules": {rule.code: rule.meaning for rule in rules},
            "summary": {
                "cells": len(cells),
                "released": len(cells),
                "withheld": {rule.code: 0 for rule in rules},
            },
            "cells": [
                {
                    "analysis": "describe",
                    "kind": "summary",
                    **key._asdict(),
                    "released": True,
                    "rules": recorded,
                }
                for key in self.cells
            ],
        }
        return {"aggregates.json": data, "disclosure.json": json_text(disclosure).encode()}

    def message(self, site: int) -> bytes:
        """A site's message, before it is sealed."""
        files = self.release(site)
        person = {"name": "Ada Roe", "key": keys.public_text(self.people[site])}
        statement = {
            "format": "jipflow-approval-1",
            "protocol": {k: v for k, v in self.settings.text.plain().items() if k != "parts"},
            "site": _name(site),
            "hub": "hub",
            "version": __version__,
            "round": 1,
            "analyses": {
                name: {"sha256": sha256, "rounds": 1}
                for name, sha256 in analyses_sha256(self.settings.protocol).items()
            },
            "files": {name: message.describe(data).plain() for name, data in files.items()},
            "page": message.describe(b"page").plain(),
            "person": person,
            "issued": ISSUED,
        }
        signature = keys.sign(self.people[site], message.canonical(statement))
        approvals = [{"statement": statement, "signature": signature}]
        content = {"approvals.json": message.canonical(approvals), **files}
        manifest = message.Manifest(
            format=message.FORMAT,
            kind="release",
            protocol=self.settings.text,
            version=__version__,
            round=1,
            attempt=1,
            sender=_name(site),
            recipient="hub",
            previous=LAST,
            roster=self.roster.sha256,
            issued=ISSUED,
            files={name: message.describe(data) for name, data in content.items()},
        )
        return message.pack(manifest, self.machines[site], content)

    def reader(self) -> Reader:
        """What the hub reads the messages with."""
        state = formats().state(protocol=self.settings.text, round=1, analyses=[])
        previous = {member.site: LAST for member in self.members}
        return Reader(self.settings, Open(1, self.roster, state, previous, {}), self.hub_key)


def _key(kind: int, number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([kind]) + number.to_bytes(31, "big"))


def _name(site: int) -> str:
    return f"site-{site:03d}"


def run_sites(sites: int, cells: int) -> dict[str, float]:
    """Let sites send and the hub accept, merge and answer; return what each step took."""
    with tempfile.TemporaryDirectory() as folder:
        made = Federation(Path(folder), sites, cells)
        public = keys.public_text(made.hub_key)
        inbox = Path(folder, "inbox")
        start = time.process_time()
        size = sealed_size = 0
        for site in range(sites):
            raw = made.message(site)
            sealed = seal(raw, public)
            size, sealed_size = len(raw), len(sealed)
            (inbox / f"{_name(site)}.age").write_bytes(sealed)
        packed = time.process_time() - start
        start = time.process_time()
        accepted, rejected = accept(
            inbox=inbox, received=Path(folder, "received"), reader=made.reader()
        )
        took = time.process_time() - start
        if rejected or len(accepted) != sites:
            raise RuntimeError(f"{len(rejected)} refused, such as {rejected[:1]}")
        start = time.process_time()
        result = merge(accepted=accepted, settings=made.settings)
        merged = time.process_time() - start
        if len(result["analyses"][0]["cells"]) != len(made.cells):
            raise RuntimeError("cells are missing in the result")
        start = time.process_time()
        thread = hub_thread(made.settings)
        content = {"protocol": made.settings.text.plain(), "round": 1, "analyses": []}
        event = Event(
            kind="round",
            round=1,
            version=__version__,
            issued=ISSUED,
            roster=made.roster,
            content=content,
        )
        thread.add(event)
        thread.speak(made.hub_key)
        sent = thread.send(Path(folder, "outbox"))
        answered = time.process_time() - start
        start = time.process_time()
        for path in (Path(folder, "received")).glob("*.zip"):
            json.loads(json_text(json.loads(_member(path, "aggregates.json"))))
            json.loads(_member(path, "disclosure.json"))
        parsed = time.process_time() - start
        return {
            "cells": len(made.cells),
            "bytes": size,
            "sealed": sealed_size,
            "pack": packed / sites,
            "accept": took,
            "merge": merged,
            "answer": answered,
            "answer_bytes": sent[0].stat().st_size,
            "parse": parsed,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def _member(path: Path, name: str) -> bytes:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def main(arguments: Sequence[str]) -> None:
    """Run the benchmark, a process for each number of sites."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", type=int, nargs=2, help="of so many sites and cells, as JSON")
    options = parser.parse_args(arguments)
    if options.of:
        print(json.dumps(run_sites(*options.of)))
        return
    rows: list[list[Cell]] = []
    for sites, cells in CASES:
        cost = measure([sys.executable, __file__, "--of", str(sites), str(cells)])
        found = json.loads(cost.output)
        rows.append(
            [
                sites,
                int(found["cells"]),
                found["bytes"] / 1e6,
                found["sealed"] / 1e6,
                found["pack"],
                found["accept"],
                found["accept"] / found["parse"],
                found["merge"],
                found["answer"],
                found["answer_bytes"] / 1e6,
                found["peak_mb"],
            ]
        )
    write_result(
        "messages",
        "Messages of a round",
        [
            "sites",
            "cells a site",
            "message (MB)",
            "sealed (MB)",
            "packed and sealed (CPU s a site)",
            "all opened and verified (CPU s)",
            "times the standard library's JSON",
            "merged (CPU s)",
            "next round written and sealed (CPU s)",
            "its message (MB)",
            "peak memory (MiB)",
        ],
        rows,
        packages=["cryptography", "pyrage", "pydantic"],
        notes=[
            "Simulated sites of 40 patients; each sends mean and scatter of its cells with the "
            "record of its gate.",
            "The peer reads the two files of each message by the standard library's `json` in the "
            "same process, and checks nothing.",
        ],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
