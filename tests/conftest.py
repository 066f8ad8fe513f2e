from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares costly fixtures in one process: a file, and all runs of the workflow.

    The runs of the workflow take longest, so they start first.
    """
    pipeline = ROOT / "tests" / "pipeline"
    items.sort(key=lambda item: pipeline not in item.path.parents)
    for item in items:
        group = "pipeline" if pipeline in item.path.parents else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


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
