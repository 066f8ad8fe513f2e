from __future__ import annotations

from pathlib import Path

import pytest

from harness import Site, make_site
from jipflow.phantom.cohort import write_site

SITE_SEED = 4


@pytest.fixture(scope="session")
def tiny_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sound synthetic patients and one for each defect."""
    folder = tmp_path_factory.mktemp("phantom")
    write_site(folder, "tiny", 5, SITE_SEED)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the configurations, secrets and results of the tiny site are; a person named it."""
    return tmp_path_factory.mktemp("O'Neill's tiny site")


@pytest.fixture(scope="session")
def tiny_run(tiny_phantom: Path, tiny_folder: Path) -> Site:
    """The demo protocol run on the tiny cohort, four cases a shard."""
    site = make_site(
        tiny_folder,
        "tiny",
        "demo",
        [tiny_phantom / "dicom"],
        processing={"shard_size": 4, "device": "cpu"},
    )
    site.run()
    return site
