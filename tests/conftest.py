from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]


TINY = ("messages", "resume", "slurm", "tiny")
"""Tests of the workflow that share a run on the tiny cohort."""


class Scheduling(LoadScopeScheduling):
    """Keeps what shares costly fixtures in one process: a file, or the files of `TINY`."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::")[0]
        return "tiny" if path in {f"tests/pipeline/test_{name}.py" for name in TINY} else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the runs of the workflow first, for they take longest, and most of all `TINY`."""
    tiny = {ROOT / "tests" / "pipeline" / f"test_{name}.py" for name in TINY}
    items.sort(
        key=lambda item: (
            item.path not in tiny,
            ROOT / "tests" / "pipeline" not in item.path.parents,
        )
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and reference values; tests that need it skip where it is not."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real test data (../shared/data) is not on this machine")
    return folder


@pytest.fixture(scope="session")
def phantom_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic site of three sound patients and one patient for each defect."""
    from jipflow.phantom.cohort import write_site

    folder = tmp_path_factory.mktemp("site")
    write_site(folder, "north", 3, 11)
    return folder
