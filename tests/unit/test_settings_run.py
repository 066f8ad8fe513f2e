"""The effective settings of a run, to their file and back."""

from __future__ import annotations

import pytest

from config_files import site_of
from jipflow.settings.run import load_settings, read_settings, write_settings


@pytest.fixture
def site(tmp_path):
    return site_of(tmp_path)


def test_settings_come_back_from_their_file(site, tmp_path):
    settings = load_settings(site)
    write_settings(tmp_path / "settings.json", settings)
    assert read_settings(tmp_path / "settings.json") == settings


def test_a_relative_source_is_of_the_folder_that_the_run_starts_in(site, tmp_path, monkeypatch):
    settings = {}
    for name in ("a", "b"):
        (tmp_path / name / "images").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        for path in ("images", "./images/", str(tmp_path / name / "images")):
            source = {**site["sources"][0], "path": path}
            loaded = load_settings({**site, "sources": [source]})
            assert loaded.site.sources[0].path == str(tmp_path / name / "images")
            settings.setdefault(name, []).append(loaded.parts("catalog"))
    assert all(parts == settings["a"][0] for parts in settings["a"])
    assert settings["a"][0] != settings["b"][0]
