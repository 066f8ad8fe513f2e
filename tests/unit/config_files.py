"""A site's file and a protocol's as a person writes them, and what is reported of wrong ones."""

from __future__ import annotations

import pytest
import yaml

from jipflow.settings.resources import PROTOCOLS, ConfigError
from jipflow.settings.run import load_settings

PACS = {"name": "pacs", "kind": "dicomweb", "url": "https://pacs.local/dicom-web"}

TRAINING = {
    "model": "mine",
    "segmentation": "organs",
    "licence": "Apache-2.0",
    "intended_use": "Tests.",
    "training_data": "Phantoms.",
}
"""Of a protocol, what it cannot do without."""


def site_of(folder):
    return {
        "site": {"id": "north", "name": "North"},
        "sources": [{"name": "archive", "kind": "folder", "path": str(folder)}],
        "protocol": "sarcoma-ct",
    }


def with_clinical(site, folder):
    """Return a site that has all clinical variables of the shipped protocols in a CSV file."""
    columns = {variable: {"value": variable} for variable in ("sex", "dead")}
    columns |= {"age": {"value": "age", "unit": "a"}, "followed": {"date": "seen"}}
    path = folder / "map.yaml"
    path.write_text(yaml.safe_dump({"patient": "id", "variables": columns}))
    source = {"kind": "csv", "file": str(folder / "patients.csv"), "map": str(path)}
    return {**site, "clinical": source}


def demo_protocol():
    return yaml.safe_load((PROTOCOLS / "demo.yaml").read_text())


def loaded(config, protocol, folder):
    """The settings of a site and a protocol that stands in a file of a folder."""
    path = folder / "protocol.yaml"
    path.write_text(yaml.safe_dump(protocol))
    return load_settings({**config, "protocol": str(path)})


def message(config, protocol=None, folder=None):
    with pytest.raises(ConfigError) as caught:
        load_settings(config) if protocol is None else loaded(config, protocol, folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


def put(protocol, path, value):
    *parents, last = path
    for key in parents:
        protocol = protocol[key]
    protocol[last] = value
