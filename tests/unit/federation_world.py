"""Three sites with measured patients, and a hub that knows them: made from files, as in a run."""

from __future__ import annotations

import copy
import io
import json
import shutil
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from jipflow.exchange import keys, message
from jipflow.exchange.refusals import Refusal
from jipflow.exchange.roster import Roster, first_roster
from jipflow.exchange.sealing import MAGIC, SUFFIX, seal, unseal
from jipflow.hub import accept as hub_accept
from jipflow.hub.settings import HubSettings
from jipflow.hub.verify import Open
from jipflow.outcomes import Outcome, write_outcomes
from jipflow.privacy.pseudonyms import site_secret
from jipflow.release.approval import approve
from jipflow.release.behind import read_behind
from jipflow.release.candidate import build
from jipflow.release.contents import formats, protocol_text, record_built
from jipflow.release.ledger import site_ledger
from jipflow.release.packing import Folders, bundle
from jipflow.release.rounds import Standing
from jipflow.settings.digests import protocol_parts
from jipflow.settings.hub import Hub, Member
from jipflow.settings.run import Settings, settings_of
from jipflow.tables import FAILURE_COLUMNS, MISSING_COLUMNS

MEAN, ENERGY, VOLUME = "original_firstorder_Mean", "original_firstorder_Energy", "volume_ml"
HUB_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
HERE = {
    "hub": {"id": "hub", "key": keys.public_text(HUB_KEY)},
    "site": {"id": "here", "name": "Here"},
    "sources": [{"name": "archive", "kind": "folder", "path": "/data"}],
}
EDGES = [0, 100, 200, 300, 400]
NOW = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)
ISSUED = "2026-11-01T12:00:00Z"
LAST = "a" * 64
"""Hash of what the hub has sent last, where a test has no thread."""
MEMBERS = (*message.FRAME, *message.FILES["release"])


class AnyRoster(Roster):
    """A roster that is in force whoever is on it, so that tests need no thread for a message."""

    @property
    def sha256(self):
        return "b" * 64


def protocol(minimum=5, **changes):
    content = {
        "protocol": {"id": "demo", "version": "1.0.0", "title": "Organs of the phantom"},
        "cohort": {"where": "Modality = 'CT'", "case": {"roles": {"CT": {"where": "true"}}}},
        "segmentations": [
            {
                "id": "organs",
                "engine": "nnunet",
                "model": "phantom-ct",
                "role": "CT",
                "segments": [
                    {"name": "liver", "label": "liver", "term": "liver"},
                    {"name": "spleen", "label": "spleen", "term": "spleen"},
                ],
            }
        ],
        "radiomics": [{"segmentation": "organs", "role": "CT", "settings": "pyradiomics_ct"}],
        "analyses": [
            {"id": "describe", "kind": "summary", "variables": ["CT.original_firstorder_*"]},
            {
                "id": "volumes",
                "kind": "histogram",
                "variables": ["CT.volume_ml"],
                "segments": ["liver"],
                "edges": EDGES,
            },
        ],
        "disclosure": {"min_patients": minimum},
    }
    return settings_of(HERE, content | changes).protocol.plain()


def features(site, patients, seed):
    """Return a row for each patient and segment; livers' volumes fill two bins evenly."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(patients):
        for segment in ("liver", "spleen"):
            rows.append(
                {
                    "case_id": f"case{site}{i:04d}",
                    "patient": f"pseudo{site}{i:04d}",
                    "role": "CT",
                    "segmentation": "organs",
                    "segment": segment,
                    "voxels": 1000 + i,
                    "volume_ml": {
                        "liver": 110.0 + 100 * (i % 2) + i,
                        "spleen": 50.0 + 7 * i % 19,
                    }[segment],
                    "settings_sha256": "0" * 64,
                    MEAN: rng.normal(60, 10),
                    ENERGY: rng.lognormal(20, 1),
                }
            )
    return pd.DataFrame(rows)


@dataclass
class Site:
    name: str
    root: Path
    table: pd.DataFrame
    settings: Settings
    approver_key: Path
    scanners: dict = field(default_factory=dict)
    """Manufacturer, model and Protocol Name by case, as far as they are known."""
    clinical: pd.DataFrame | None = None
    """Clinical variables, a row a case, where the protocol has any."""
    gaps: dict = field(default_factory=dict)
    """Why a clinical variable of a case has no value; `no_record` of others."""
    failures: list = field(default_factory=list)
    """Why features have none: case, segment, feature and reason."""
    absent: dict = field(default_factory=dict)
    """Cases that have no row of features, with the reason of their outcome."""
    path: Path | None = None
    """Of the message that was sent last."""

    @property
    def release(self):
        return self.root / "release"

    def write(self, failed=()):
        self.root.mkdir(parents=True, exist_ok=True)
        self.table.to_parquet(self.root / "features.parquet", index=False)
        cases = self.table[["case_id", "patient"]].drop_duplicates()
        for case in self.absent:
            cases.loc[len(self.table) + len(cases)] = (case, f"pseudo{case}")
        cases["role"] = "CT"
        headers = ("manufacturer", "model", "protocol_name")
        for place, header in enumerate(headers):
            texts = [(*self.scanners.get(case, ()), "", "", "") for case in cases["case_id"]]
            cases[header] = [text[place] for text in texts]
        cases.to_csv(self.root / "cases.tsv", sep="\t", index=False)
        if self.clinical is not None:
            self.clinical.to_parquet(self.root / "clinical.parquet", index=False)
            gaps = [
                (row["case_id"], name, self.gaps.get((row["case_id"], name), "no_record"), "")
                for row in self.clinical.to_dict("records")
                for name in row.keys() - {"case_id", "patient"}
                if pd.isna(row[name])
            ]
            table = pd.DataFrame(gaps, columns=MISSING_COLUMNS, dtype=object)
            table.to_parquet(self.root / "missing.parquet", index=False)
        rows = [(case, "CT", "organs", *of, "") for case, *of in self.failures]
        table = pd.DataFrame(rows, columns=FAILURE_COLUMNS, dtype=object)
        table.to_parquet(self.root / "failures.parquet", index=False)
        reasons = dict.fromkeys(failed, "x") | self.absent
        outcomes = [
            Outcome(
                case, "measure", "organs", *(("failed", reasons[case]) if case in reasons else ())
            )
            for case in cases["case_id"]
        ]
        write_outcomes(self.root / "outcomes.parquet", outcomes)
        verdict = {"cases": 10, "failed": 0, "max_failed_fraction": 0.1, "acceptable": True}
        (self.root / "verdict.json").write_text(json.dumps(verdict))

    @property
    def behind(self):
        return self.root / "behind"

    @property
    def bundles(self):
        return self.root / "results" / "demo" / "bundles"

    @property
    def ledger(self):
        return site_ledger(self.settings, self.root / "results")

    def build(self, **of_round):
        entries = build(
            settings=self.settings,
            features=self.root / "features.parquet",
            cases=self.root / "cases.tsv",
            outcomes=self.root / "outcomes.parquet",
            verdict=self.root / "verdict.json",
            ledger=self.ledger,
            behind_dir=self.behind,
            out_dir=self.release,
            failures=self.root / "failures.parquet",
            clinical=None if self.clinical is None else self.root / "clinical.parquet",
            missing=None if self.clinical is None else self.root / "missing.parquet",
            **of_round,
        )
        show(self.release, self.behind, entries)
        return [json.loads((self.release / name).read_text()) for name in message.CONTENT]

    @property
    def key(self):
        return keys.load_or_create_key(Path(self.settings.site.identity.signing_key_file))

    def standing(self, **changes):
        """Return where the site stands: a hub whose roster is this site has opened round 1."""
        given = {"previous": LAST, "roster": any_roster(members([self]))} | changes
        return Standing(hub="hub", protocol=protocol_text(self.settings), **given)

    def send(self, inbox, attempt=1, name="Ada Roe", **standing):
        """Build, approve and pack a release, and return the sealed message in the inbox."""
        self.write()
        self.build()
        # A site that has lost what it packed may send one attempt twice.
        (self.release / "approval.json").unlink(missing_ok=True)
        approve(release_dir=self.release, name=name, key_file=self.approver_key, now=NOW)
        # Nor does it have what it sent.
        shutil.rmtree(self.root / "outbox", ignore_errors=True)
        raw = plain(self.pack(self.root / "outbox", **standing).read_bytes())
        sent = unpack(raw)
        if json.loads(sent["manifest.json"])["attempt"] != attempt:
            raw = zipped(remanifest(sent, self, attempt=attempt))
        path = inbox / f"{self.settings.protocol_id}-{self.name}-r01-a{attempt}{SUFFIX}"
        return sealed(path, raw)

    def pack(self, outbox, now=NOW, **standing):
        """Pack what was approved; return the sealed message."""
        path = bundle(
            settings=self.settings,
            standing=self.standing(**standing),
            ledger=self.ledger,
            folders=Folders(self.release, self.behind, self.bundles, outbox),
            now=now,
        )
        return outbox / path.with_suffix(SUFFIX).name


def show(release, behind, entries=()):
    """Write a page that shows no more than it must, and note what was built."""
    hashes = [message.describe((release / name).read_bytes()).sha256 for name in message.CONTENT]
    (release / message.PAGE).write_text("\n".join(hashes))
    record_built(release, read_behind(behind), entries)


def site(root, name, patients=12, seed=0, minimum=5, content=None):
    content = content or protocol()
    settings = settings_of(
        HERE
        | {
            "site": {"id": name, "name": f"Hospital {name}"},
            "identity": {
                "secret_file": str(root / name / "keys" / "identity.key"),
                "signing_key_file": str(root / name / "keys" / "site.key"),
                "ledger_folder": str(root / name / "keys" / "ledger"),
                "audit_file": str(root / name / "keys" / "audit.jsonl"),
            },
            "disclosure": {"min_patients": minimum},
        },
        content,
    )
    approver = root / name / "keys" / "approver.key"
    keys.new_key(approver)
    site_secret(root / name / "keys" / "identity.key", root / name / "results")
    return Site(name, root / name, features(name, patients, seed), settings, approver)


def members(sites):
    """Return what a roster says of sites."""
    return [
        {
            "site": s.name,
            "key": keys.public_text(s.key),
            "approvers": [{"name": "Ada Roe", "key": public(s.approver_key)}],
        }
        for s in sites
    ]


def any_roster(of):
    """Return a roster of members that fits every message of this file's sites."""
    known = [Member.model_validate(member) for member in of]
    return AnyRoster(**first_roster("hub", known, ISSUED).model_dump())


def hub_content(sites, inbox):
    """Return what a hub.yaml says, its roster filled with the sites' keys."""
    roster = members(sites)
    return {
        "hub": {"id": "hub", "name": "The hub"},
        "protocol": "demo",
        "inbox": str(inbox),
        "roster": roster,
    }


def hub_settings(sites, inbox, content=None, hub=None):
    """Return the hub's effective settings; `hub` is what its hub.yaml says."""
    content = content or protocol()
    here = settings_of(HERE, content)
    return HubSettings(
        hub=Hub.model_validate(hub or hub_content(sites, inbox)),
        protocol=here.protocol,
        protocol_sha256=here.protocol_sha256,
        protocol_parts=protocol_parts(here.protocol, here.named),
        named=here.named,
    )


def opened(settings):
    """Return round 1 as a hub has it that has sent `LAST` to the sites of its settings."""
    roster = any_roster(member.plain() for member in settings.hub.roster)
    state = formats().state(protocol=settings.text, round=1, analyses=[])
    return Open(1, roster, state, dict.fromkeys(roster.sites, LAST), {})


def accept(*, inbox, settings):
    """Let a hub verify an inbox; its memory lies beside."""
    received = Path(inbox).parent / "messages" / settings.protocol_sha256
    reader = hub_accept.Reader(settings, opened(settings), HUB_KEY)
    return hub_accept.accept(inbox=inbox, received=received, reader=reader)


def public(path):
    return keys.public_text(keys.load_or_create_key(path))


def plain(raw):
    """Return the bytes of a message to the hub, sealed or not, before they were sealed."""
    return unseal(raw, HUB_KEY) if raw.startswith(MAGIC) else raw


def sealed(path, raw):
    """Write bytes sealed to the hub; return the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(seal(raw, keys.public_text(HUB_KEY)))
    return path


def put(world, raw):
    """Seal bytes to the hub, and put them in place of what a site has sent; return the file."""
    return sealed(world.path, raw)


def zipped(members):
    """Return the zip of a release's members."""
    return message.zipped("release", members)


def unpack(raw):
    with zipfile.ZipFile(io.BytesIO(plain(raw))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def resign(members, of):
    """Sign the manifest of changed members again, with the key that the site really has."""
    signed = members["manifest.json"]
    signature = {"signature": keys.sign(of.key, signed)}
    return members | {"signature.json": message.canonical(signature)}


def remanifest(members, of, **changes):
    """Return members whose manifest is changed, names their files, and is signed again."""
    manifest = json.loads(members["manifest.json"]) | changes
    manifest["files"] = {n: message.describe(members[n]).plain() for n in message.FILES["release"]}
    return resign(members | {"manifest.json": message.canonical(manifest)}, of)


def restated(members, of, approver=None, **changes):
    """Return members whose statement is changed and signed again, with a key of the person."""
    approvals = json.loads(members["approvals.json"])
    person = keys.load_key(approver or of.approver_key)
    for each in approvals:
        each["statement"] |= changes
        each["signature"] = keys.sign(person, message.canonical(each["statement"]))
    return members | {"approvals.json": message.canonical(approvals)}


def reseal(members, of, approver=None, **changes):
    """Let a site seal changed files properly: hashes, manifest and signatures all fit."""
    record = json.loads(members["disclosure.json"])
    record["aggregates_sha256"] = message.describe(members["aggregates.json"]).sha256
    members = members | {"disclosure.json": json.dumps(record).encode()}
    files = {n: message.describe(members[n]).plain() for n in message.CONTENT}
    return remanifest(restated(members, of, approver, files=files), of, **changes)


def refusal(raw, world, inbox, settings=None):
    """Put bytes into the inbox in place of the site's bundle; return the reason of the refusal."""
    put(world, raw)
    accepted, rejected = accept(inbox=inbox, settings=settings or hub_settings([world], inbox))
    assert accepted == []
    (entry,) = rejected
    assert entry.meaning == Refusal(entry.reason).meaning
    return entry.reason


def edited(north, **edits):
    """Return the bundle of a site that changes its files and seals them again.

    Args:
        north: has the members of the bundle.
        edits: a function of the content by the name of the file, ``aggregates`` or ``disclosure``.
    """
    changed = {}
    for name, edit in edits.items():
        content = json.loads(north.members[f"{name}.json"])
        edit(content)
        changed[f"{name}.json"] = json.dumps(content).encode()
    return zipped(reseal(north.members | changed, north))


def sent(world, inbox):
    """Return a site with the bundle that it has sent: its path and its members."""
    world.path = world.send(inbox)
    world.members = unpack(world.path.read_bytes())
    return world


def sent_again(world, inbox):
    """Return a site that has sent another one's bundle into another inbox; its files are shared."""
    again = copy.copy(world)
    again.path = inbox / world.path.name
    again.path.write_bytes(world.path.read_bytes())
    return again
