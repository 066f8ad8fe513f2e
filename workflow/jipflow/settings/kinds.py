"""Which file of jipflow a content is of, for one that is named in the place of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEYS = {
    "Site": {"site", "sources", "publish", "identity", "processing", "annotation", "containers"},
    "Hub": {"roster", "inbox"},
    "Protocol": {"cohort", "segmentations", "radiomics", "analyses", "tolerance", "training"},
    "Radiomics": {"featureClass", "imageType", "setting"},
    "Settings": {"named", "protocol_sha256"},
    "Profile": {"cores", "jobs", "executor", "set-threads", "set-resources", "default-resources"},
}
"""Keys at the top level that one kind of file has and no other."""

_NAMES = {
    "Site": "a site's configuration (site.yaml)",
    "Hub": "a hub's configuration (hub.yaml)",
    "Protocol": "a protocol",
    "Radiomics": "a file of radiomics settings",
    "Registry": "a registry of models",
    "Terms": "a file of terms",
    "Settings": "what a run wrote of its settings",
    "Profile": "a profile of Snakemake",
}
_PLACES = {
    "Site": "name it by --configfile",
    "Hub": "name it by --configfile, with the target hub",
    "Protocol": "name it by --config protocol=PATH",
    "Radiomics": "name it below radiomics[].settings of a protocol",
    "Registry": "name it below models.registry of the site or hub",
    "Terms": "put it beside the protocol as terms.yaml",
    "Settings": "name the file that the run was started with",
    "Profile": "name its folder by --profile",
}


def kind_of(content: Mapping[str, Any]) -> str | None:
    """Return the name of the type that a content is of, by its keys; None where they do not say."""
    counts = {name: len(keys & content.keys()) for name, keys in _KEYS.items()}
    best = max(counts, key=lambda name: counts[name])
    if counts[best]:
        return best
    values = list(content.values())
    if content.keys() == {"models"} and isinstance(values[0], Mapping):
        entries = list(values[0].values())
        if any(isinstance(entry, Mapping) and "files" in entry for entry in entries):
            return "Registry"
    if values and all(isinstance(v, Mapping) and {"category", "type"} <= v.keys() for v in values):
        return "Terms"
    return None


def wrong_file(wanted: str, content: Mapping[str, Any]) -> str | None:
    """Return what to say of a content that is of another file than the wanted one.

    Args:
        wanted: the name of the type that was looked for, such as ``Site``.
        content: at its top level.

    Returns:
        A sentence that goes on from the name of the file; None where it is the wanted one, or no
        other that is known.
    """
    if wanted not in _NAMES:
        return None
    found = kind_of(content)
    if found is None or found == wanted or _KEYS.get(wanted, set()) & content.keys():
        return None
    return f"is {_NAMES[found]}, not {_NAMES[wanted]}; {_PLACES[found]}."


def is_hub(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is a hub's and no site's."""
    own = {"roster", "inbox"} & config.keys()
    return bool(own) or ("hub" in config and not _KEYS["Site"] & config.keys())
