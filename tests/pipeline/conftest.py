from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness import ONE_CORE, Sarcoma, Site, contours_only, make_site
from identifiers import plant
from jipflow.exchange.keys import load_or_create_key, public_text
from jipflow.phantom.cohort import write_site


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demonstration runs; a person named it."""
    return tmp_path_factory.mktemp("O'Neill's demo")


@pytest.fixture(scope="session")
def tiny_run(phantom_site: Path, demo_folder: Path) -> Site:
    """The demonstration's site north, run by itself, five cases a shard."""
    folder, hub = demo_folder / "sites" / "north", demo_folder / "hub"
    site = make_site(
        folder,
        "site",
        "demo",
        [phantom_site / "dicom"],
        demo_folder / "results" / "north",
        site={"id": "north", "name": "North under test"},
        identity={
            "secret_file": str(folder / "secrets" / "identity.key"),
            "signing_key_file": str(folder / "secrets" / "site.key"),
            "ledger_folder": str(folder / "secrets" / "ledger"),
            "audit_file": str(folder / "secrets" / "audit.jsonl"),
        },
        processing={"shard_size": 5, "device": "cpu"},
        hub={"id": "hub", "key": public_text(load_or_create_key(hub / "secrets" / "hub.key"))},
        exchange={
            "inbox": str(demo_folder / "exchange" / "sites" / "north"),
            "outbox": str(demo_folder / "exchange" / "hub"),
        },
    )
    (folder / "printed.txt").write_text(site.run(*ONE_CORE).stdout)
    return site


@pytest.fixture(scope="session")
def two_patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of two synthetic patients without a defect, whose headers and paths name them."""
    folder = tmp_path_factory.mktemp("phantom")
    write_site(folder, "small", 2, 7, defects=False)
    plant(folder / "dicom", folder / "archive")
    return folder / "archive"


@pytest.fixture(scope="session")
def contours_run(two_patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A finished run of two shards with a case each, in seconds; to be copied.

    It is of a site that has no nnU-Net; those who take it up have it, which runs nothing again.
    """
    folder = tmp_path_factory.mktemp("contours")
    path = folder / "contours.yaml"
    path.write_text(yaml.safe_dump(contours_only()))
    given = {"command": ["sh", "-c", 'cat > "$0"', str(folder / "given.json")]}
    processing = {"shard_size": 1}
    site = make_site(
        folder, "site", "contours", [two_patients], processing=processing, after_run=given
    )
    site = replace(site, protocol_file=path)
    site.run(*ONE_CORE, networks=False)
    return site


@pytest.fixture(scope="session")
def sarcoma(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Sarcoma:
    """The real patients at three sites, whose runs are made when they are asked for."""
    return Sarcoma(shared_data / "sarcoma", tmp_path_factory.mktemp("sarcoma"))
