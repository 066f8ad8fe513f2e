"""A training's keys: what is wrong is named, and a preset gives the rest."""

from __future__ import annotations

import pytest

from config_files import TRAINING, demo_protocol, loaded, message, site_of


@pytest.fixture
def site(tmp_path):
    return site_of(tmp_path)


@pytest.fixture
def protocol():
    return demo_protocol()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"segmentation": "organ"}, ["no segmentation 'organ'", "organs"]),
        ({"inputs": ["CT", "MR"]}, ["inputs", "'MR'", "CT, PT"]),
        ({"folds": 1}, ["held_out", "folds at least 2"]),
        ({"preset": "tiny"}, ["training.preset", "'tiny'", "small"]),
        ({"patch": [32, 32]}, ["training.patch"]),
        ({"epoch": 5}, ["unknown key 'epoch'", "'epochs'"]),
    ],
)
def test_a_wrong_training_is_explained(site, protocol, tmp_path, change, parts):
    protocol["training"] = {**TRAINING, **change}
    text = message(site, protocol, tmp_path)
    for part in parts:
        assert part in text


def test_a_preset_gives_what_the_protocol_leaves_open(site, protocol, tmp_path):
    found = {}
    for preset in ("small", "full"):
        protocol["training"] = {**TRAINING, "preset": preset, "epochs": 7}
        found[preset] = loaded(site, protocol, tmp_path).protocol.training.plain()
    assert found["small"]["epochs"] == found["full"]["epochs"] == 7
    assert (found["small"]["iterations"], found["full"]["iterations"]) == (25, 250)
    assert found["small"]["features"] == [16, 32, 64, 128]
    assert not found["full"].keys() & {"features", "patch", "batch", "spacing"}
