"""What the description in a crate says, for tests."""

from __future__ import annotations

import io
import json
import zipfile


def graph(data):
    """The entities of a crate by their ids, after a look at whether each of its files is one."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        described = json.loads(archive.read("ro-crate-metadata.json"))
        assert {each["@id"] for each in described["@graph"]} >= {*archive.namelist()}, (
            "a file that the crate does not describe"
        )
    return {each["@id"]: each for each in described["@graph"]}


def references(value):
    """Every entity that a value names."""
    if isinstance(value, dict):
        if value.keys() == {"@id"}:
            yield value["@id"]
        else:
            for child in value.values():
                yield from references(child)
    elif isinstance(value, list):
        for child in value:
            yield from references(child)


def ids(value):
    """The same, each once."""
    return set(references(value))
