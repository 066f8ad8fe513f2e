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
