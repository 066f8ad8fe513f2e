"""Sites and a hub that carry out a protocol, from a table of patients to the hub's result.

Nothing is left out but images and Snakemake: each site builds its release behind its gate, a person
approves it, it is packed, sealed, and kept in the site's ledger; the hub opens and verifies every
message, merges, and sends what the next round needs, until no analysis needs another.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))

from exactness_patients import FEATURES, Patients
from federation_world import (
    HERE,
    HUB_KEY,
    ISSUED,
    NOW,
    Site,
    hub_content,
    hub_settings,
    protocol,
    site,
)
from jipflow.files import read_json
from jipflow.hub.accept import accept
from jipflow.hub.merge import merge
from jipflow.hub.rounds import close, hub_thread, open_first, reader, state_of
from jipflow.outcomes import Outcome, write_outcomes
from jipflow.release.approval import approve
from jipflow.release.contents import protocol_text
from jipflow.release.packing import Folders, bundle
from jipflow.release.rounds import Site as Receiver
from jipflow.release.rounds import receive

ROLE, SEGMENTATION, SEGMENT = "MR", "tumours", "gtv"
CLINICAL = [
    {"name": "age", "type": "number", "unit": "a"},
    {"name": "sex", "type": "category", "values": ["F", "M"]},
    {"name": "stage", "type": "category", "values": ["I", "II", "III"]},
    {"name": "dead", "type": "event"},
    {"name": "days", "type": "days", "range": [0, 20000]},
    {"name": "visits", "type": "number", "range": [0, 1000]},
]
COLUMNS = [each["name"] for each in CLINICAL]


@dataclass(frozen=True)
class Ended:
    """What a protocol of one analysis ended with.

    Attributes:
        analysis: of the hub's last result.
        rounds: how many there were.
        withheld: at how many sites each rule kept back a cell.
    """

    analysis: Mapping[str, Any]
    rounds: int
    withheld: Mapping[str, int]


def text_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a protocol of one analysis of tumours and clinical data."""
    return protocol(
        cohort={"where": "Modality = 'MR'", "case": {"roles": {ROLE: {"where": "true"}}}},
        segmentations=[
            {
                "id": SEGMENTATION,
                "engine": "imported",
                "from": "RTSTRUCT",
                "role": ROLE,
                "segments": [{"name": SEGMENT, "match": "GTV.*", "term": "gross-tumour-volume"}],
            }
        ],
        radiomics=[{"segmentation": SEGMENTATION, "role": ROLE, "settings": "pyradiomics_mr"}],
        clinical=CLINICAL,
        analyses=[entry],
    )


def write_site(made: Site, rows: pd.DataFrame) -> None:
    """Write the files that the stages of a site would have left of its patients."""
    made.root.mkdir(parents=True, exist_ok=True)
    cases = pd.DataFrame({"case_id": [f"case{made.name}{i:04d}" for i in range(len(rows))]})
    cases["patient"] = [f"pseudo{made.name}{i:04d}" for i in range(len(rows))]
    rows = rows.reset_index(drop=True)
    about = {"role": ROLE, "segmentation": SEGMENTATION, "segment": SEGMENT, "voxels": 1000}
    features = cases.assign(**about, settings_sha256="0" * 64).join(rows[list(FEATURES)])
    features.to_parquet(made.root / "features.parquet", index=False)
    cases.join(rows[COLUMNS]).to_parquet(made.root / "clinical.parquet", index=False)
    made.clinical = cases.join(rows[COLUMNS])
    cases.assign(role=ROLE, manufacturer=rows["maker"], model="").to_csv(
        made.root / "cases.tsv", sep="\t", index=False
    )
    outcomes = [Outcome(case, "measure", SEGMENTATION) for case in cases["case_id"]]
    write_outcomes(made.root / "outcomes.parquet", outcomes)
    verdict = {"cases": len(rows), "failed": 0, "max_failed_fraction": 0.1, "acceptable": True}
    (made.root / "verdict.json").write_text(pd.Series(verdict).to_json())


class Federation:
    """Sites and their hub, who meet in two folders.

    Args:
        folder: for everything.
        patients: of the sites.
        entry: the only analysis of the protocol.
    """

    def __init__(self, folder: Path, patients: Patients, entry: Mapping[str, Any]) -> None:
        text = text_of(entry)
        self.inbox, self.out = folder / "inbox", folder / "out"
        self.inbox.mkdir(parents=True)
        self.sites = {
            name: site(folder, name, len(rows), content=text)
            for name, rows in patients.sites.items()
        }
        for name, rows in patients.sites.items():
            write_site(self.sites[name], rows)
        content = hub_content(self.sites.values(), self.inbox)
        content |= {"results": str(folder / "hub"), "outbox": str(self.out)}
        self.settings = hub_settings((), self.inbox, text, content)
        self.thread = hub_thread(self.settings)
        open_first(self.settings, self.thread, ISSUED)
        self.withheld: dict[str, set[str]] = defaultdict(set)

    def answer(self, made: Site) -> None:
        """Let a site answer what the hub has sent, with the whole of what it lets out."""
        standing, state = receive(
            inbox=self.out / made.name,
            folder=made.root / "thread",
            site=Receiver(
                made.name,
                "hub",
                HERE["hub"]["key"],
                made.key,
                protocol_text(made.settings),
                range(1, self.thread.round),
            ),
        )
        made.build(round_=standing.round, state=state)
        for cell in read_json(made.release / "disclosure.json")["cells"]:
            for rule, what in cell["rules"].items():
                if what == "withheld":
                    self.withheld[rule].add(made.name)
        (made.release / "approval.json").unlink(missing_ok=True)
        approve(
            release_dir=made.release,
            name="Ada Roe",
            key_file=made.approver_key,
            empty=True,
            now=NOW,
        )
        folders = Folders(made.release, made.behind, made.bundles, self.inbox)
        bundle(
            settings=made.settings,
            standing=standing,
            ledger=made.ledger,
            folders=folders,
            now=NOW,
        )

    def run(self) -> Ended:
        """Carry out all rounds.

        Raises:
            RuntimeError: the hub refuses a message.
        """
        while True:
            self.thread.speak(HUB_KEY)
            self.thread.send(self.out)
            round_ = self.thread.round
            for made in self.sites.values():
                self.answer(made)
            accepted, rejected = accept(
                inbox=self.inbox,
                received=self.thread.received(round_),
                reader=reader(self.settings, self.thread, HUB_KEY),
            )
            if rejected or len(accepted) < len(self.sites):
                raise RuntimeError(f"round {round_}: the hub refuses {rejected}")
            state = state_of(self.thread, round_)
            result = merge(accepted=accepted, settings=self.settings, round_=round_, state=state)
            if not close(self.settings, self.thread, accepted, round_):
                (analysis,) = result["analyses"]
                withheld = {rule: len(sites) for rule, sites in sorted(self.withheld.items())}
                return Ended(analysis, round_, withheld)
