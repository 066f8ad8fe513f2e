"""The names that the Image Biomarker Standardisation Initiative (IBSI) has for our features."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jipflow.settings.resources import RESOURCES, read_yaml

DIRECTED = ("cm", "rlm")
"""Families whose tags say how the matrices of directions are aggregated."""

TEXTURES = (*DIRECTED, "szm", "dzm", "ngt", "ngl")
"""Families whose tags say whether they are of slices or of the volume."""


@cache
def feature_table() -> dict[str, dict[str, dict[str, Any]]]:
    """Return code, tags and unit of each feature, by class and name."""
    table: dict[str, dict[str, dict[str, Any]]] = read_yaml(RESOURCES / "ibsi_codes.yaml")[
        "features"
    ]
    return table


def tagged_features() -> dict[str, list[str]]:
    """Return the features that IBSI defines, by class: a ``featureClass`` of radiomics settings."""
    return {
        group: [name for name, entry in entries.items() if "tag" in entry]
        for group, entries in feature_table().items()
        if any("tag" in entry for entry in entries.values())
    }


def columns_by_tag(setting: Mapping[str, Any]) -> dict[str, str]:
    """Return the column of the original image that holds each of IBSI's reference values.

    Args:
        setting: of radiomics settings with their defaults.
    """
    return {
        with_aggregation(tag, setting): f"original_{group}_{name}"
        for group, entries in feature_table().items()
        for name, entry in entries.items()
        for tag in _tags(entry)
    }


def with_aggregation(tag: str, setting: Mapping[str, Any]) -> str:
    """Return a tag as the reference values have it: with the way that textures are aggregated."""
    family = tag.split("_")[0]
    if family not in TEXTURES:
        return tag
    space = "2_5D" if setting["force2D"] else "3D"
    if family not in DIRECTED:
        return f"{tag}_{space}"
    return f"{tag}_{space}_{'comb' if setting['weightingNorm'] == 'no_weighting' else 'avg'}"


def _tags(entry: Mapping[str, Any]) -> list[str]:
    tag = entry.get("tag", [])
    return [tag] if isinstance(tag, str) else tag
