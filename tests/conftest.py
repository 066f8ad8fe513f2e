from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]

# Two processes share the cores; threads of one that wait for each other must not spin on them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

GROUPS = (
    ("sarcoma", r"pipeline/test_(pacs_site|sarcoma)\.py"),
    (
        "demo",
        r"pipeline/test_(demo|docs_numbers|docs_snippets|erase_run|messages|resume|tiny)\.py"
        r"|pipeline/test_identifiers\.py::.*(series_fail|tiny_run)",
    ),
    (
        "contours",
        r"pipeline/test_(chaos|clinical_run|deleted|erase_pacs|export|identifiers|module)\.py"
        r"|pipeline/test_(identifiers_of_others|repair|resources|server|slurm|stale|subset_run)\.py",
    ),
    ("rounds", r"pipeline/test_four_rounds\.py"),
    ("maps", r"pipeline/test_adc\.py"),
    ("readers", r"pipeline/test_readers\.py"),
    ("training of a site", r"pipeline/test_train\.py"),
    ("exchange", r"peers/test_exchange\.py"),
    ("exchange of a hub", r"pipeline/test_exchange_hub\.py"),
    ("growth", r"pipeline/test_growth\.py"),
    ("PACS", r"peers/test_pacs\.py"),
    ("PACS and stages", r"peers/test_pacs_stages\.py"),
    ("TotalSegmentator", r"unit/test_totalsegmentator\.py"),
    (
        "containers",
        r"unit/test_(algorithm_check|container)\.py|unit/test_engines\.py::.*\[container",
    ),
    ("engines", r"unit/test_engines\.py"),
    ("nnU-Net", r"unit/test_nnunet\.py"),
    ("training", r"unit/test_training\.py"),
    ("phantom", r"unit/test_(catalog|catalog_headers|phantom)\.py|peers/test_phantom_dciodvfy\.py"),
)
"""Tests that share what is costly to make, and tests that take long, the longest first: by name
what the beginning of their ids must match. One process runs a group; any other file is a group."""


def group(nodeid: str) -> str:
    """Return the group of a test."""
    path = nodeid.removeprefix("tests/")
    names = (name for name, pattern in GROUPS if re.match(pattern, path))
    return next(names, path.split("::")[0])


class Scheduling(LoadScopeScheduling):
    """Keeps what shares costly fixtures in one process."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start what takes longest first, so that no process is left alone with it at the end.

    The demonstration takes the run of a site further that others compare with, so it is last of
    them.
    """
    order = {name: number for number, (name, _) in enumerate(GROUPS)}

    def place(item: pytest.Item) -> tuple[int, bool]:
        goes_on = "demo" in getattr(item, "fixturenames", ())
        return order.get(group(item.nodeid), len(order)), goes_on

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and reference values; tests that need it skip where it is not."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real test data (../shared/data) is not on this machine")
    return folder


@pytest.fixture(scope="session")
def phantom_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sound patients and one for each defect, as the demonstration draws them at its site
    north; to be read only."""
    from jipflow.cli.demo import SEED
    from jipflow.phantom.cohort import write_site

    folder = tmp_path_factory.mktemp("phantom")
    write_site(folder, "north", 5, SEED)
    return folder
