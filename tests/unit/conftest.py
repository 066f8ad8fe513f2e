"""The federation that tests of the hub share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from federation_world import Site


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An empty inbox of a hub."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def sites(tmp_path: Path) -> list[Site]:
    """Three sites of unequal size, not in the order of their names."""
    from federation_world import site

    sizes = {"south": 11, "north": 12, "west": 30}
    return [site(tmp_path, name, size, seed) for seed, (name, size) in enumerate(sizes.items())]


@pytest.fixture(scope="module")
def sent_once(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with the bundle that it has sent, made once for the tests of a file."""
    from federation_world import sent, site

    folder = tmp_path_factory.mktemp("once")
    north: Site = sent(site(folder, "north"), folder)
    return north
