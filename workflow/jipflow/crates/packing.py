"""A Research Object Crate: files and the JSON-LD that describes them, in one zip.

RO-Crate 1.1 (https://w3id.org/ro/crate/1.1); the library `rocrate` writes the description. What
the library would make up, a time of its own, is always given: the same content is the same file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jipflow import archives
from jipflow.exchange.message import describe
from jipflow.files import json_text

if TYPE_CHECKING:
    from rocrate.rocrate import ROCrate

DESCRIPTION = "ro-crate-metadata.json"
"""The description, which is what makes a folder or a zip a crate."""

PROCESS = ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate", "0.5")
"""A profile: its address, name and version."""

WRROC = "https://w3id.org/ro/terms/workflow-run"
TERMS = {name: f"{WRROC}#{name}" for name in ("resourceUsage", "sha256")}
"""Names that RO-Crate 1.1 does not have and the profiles of runs do. They are in the crate itself,
so that who reads it fetches no more than the names of RO-Crate."""

MEDIA_TYPES = {".json": "application/json", ".parquet": "application/vnd.apache.parquet"}
MEDIA_TYPES |= {".html": "text/html", ".tsv": "text/tab-separated-values", ".smk": "text/plain"}
MEDIA_TYPES |= {".csv": "text/csv", ".zip": "application/zip", ".pth": "application/octet-stream"}
MEDIA_TYPES |= {".workflow/Snakefile": "text/plain"}

Reference = dict[str, str]


def ref(identifier: str) -> Reference:
    """Return how one entity of a crate names another."""
    return {"@id": identifier}


def entity(crate: ROCrate, called: str, kind: str | list[str], /, **properties: Any) -> Reference:
    """Add something that is no file of the crate, such as a job, and return how it is named."""
    from rocrate.model.contextentity import ContextEntity

    crate.add(ContextEntity(crate, called, {"@type": kind, **properties}))
    return ref(called)


def new_crate(
    *, name: str, description: str, moment: str, rights: str, profiles: Sequence[tuple[str, ...]]
) -> ROCrate:
    """Begin a crate.

    Args:
        name: a line.
        description: what is in it.
        moment: when its content was made, in ISO 8601.
        rights: who may use it.
        profiles: address, name and version of each profile that it follows.
    """
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms.update(TERMS)
    root = crate.root_dataset
    root["name"] = name
    root["description"] = description
    root["datePublished"] = moment
    root["license"] = entity(crate, "#rights", "CreativeWork", name="Rights", description=rights)
    root["conformsTo"] = [
        entity(crate, address, "CreativeWork", name=title, version=version)
        for address, title, version in profiles
    ]
    return crate


def add_file(
    crate: ROCrate, name: str, content: bytes, kinds: Sequence[str] = (), **properties: Any
) -> Reference:
    """Describe a file that is in the zip under this name."""
    from rocrate.model.file import File

    found = describe(content)
    given: dict[str, Any] = {"name": name, "contentSize": str(found.size), "sha256": found.sha256}
    if media := media_type(name):
        given["encodingFormat"] = media
    if kinds:
        given["@type"] = ["File", *kinds]
    crate.add(File(crate, dest_path=name, properties=given | properties))
    return ref(name)


def media_type(name: str) -> str:
    """Return the media type of a file by the end of its name; empty where none is known."""
    return MEDIA_TYPES.get(f".{name.rpartition('.')[2]}", "")


def moment_text(seconds: float) -> str:
    """Return a time in seconds since 1970 in ISO 8601, in UTC and to the second."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()


def zipped(crate: ROCrate, files: Mapping[str, bytes]) -> bytes:
    """Return the zip of a crate.

    Args:
        crate: the description.
        files: content of each file that it describes, by name.
    """
    described = crate.metadata.generate()
    described["@graph"] = [_compact(each) for each in described["@graph"]]
    return archives.pack({DESCRIPTION: json_text(described).encode(), **files})


def _compact(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entity with what is one in place of a list of one, as RO-Crate recommends."""
    return {
        key: value[0] if isinstance(value, list) and len(value) == 1 else value
        for key, value in described.items()
        if value != []
    }
