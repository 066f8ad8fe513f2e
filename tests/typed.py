"""Typed settings of little: what a test does not say is filled in, and references go unchecked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jipflow.settings.complete import complete_types
from jipflow.settings.protocol import ModelSegmentation, Protocol, SegmentationSettings
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.reading import (
    TERMS,
    Named,
    read_registries,
    registry_paths,
    shipped_radiomics,
)
from jipflow.settings.resources import resource
from jipflow.settings.run import Settings
from jipflow.settings.schema import load, plain_data
from jipflow.settings.site import Site
from jipflow.settings.terms import TermSettings

LABELLED = {"nnunet", "container", "totalsegmentator"}


def segmentation(content: Mapping[str, Any]) -> SegmentationSettings:
    """A segmentation of a protocol."""
    return settings([content]).protocol.segmentations[0]


def radiomics(**content: Any) -> Radiomics:
    """Radiomics settings with their defaults."""
    return load(Radiomics, content, "test")


def site(**content: Any) -> Site:
    """The settings of a site."""
    basis = {
        "site": {"id": "site", "name": "Site"},
        "sources": [{"name": "archive", "kind": "folder", "path": "/data/dicom"}],
    }
    return load(Site, basis | content, "site")


def settings(
    segmentations: Iterable[Mapping[str, Any]],
    site_content: Mapping[str, Any] = {},
    registries: Iterable[Path] = (),
    protocol_sha256: str = "0" * 64,
    **content: Any,
) -> Settings:
    """The settings of a run; other keys are the protocol's."""
    complete_types()
    specs = [_completed(plain_data(spec)) for spec in segmentations]
    roles = sorted(
        {spec["role"] for spec in specs} | {r for s in specs for r in s.get("inputs", ())}
    )
    basis = {
        "protocol": {"id": "demo", "version": "1.0.0", "title": "Demo"},
        "cohort": {"where": "true", "case": {"roles": {r: {"where": "true"} for r in roles}}},
    }
    protocol = load(Protocol, basis | content | {"segmentations": specs}, "protocol")
    known = read_registries(registries or registry_paths())
    models = {s.model for s in protocol.segmentations if isinstance(s, ModelSegmentation)}
    named = Named(
        models={name: known[name] for name in sorted(models & known.keys())},
        terms={name: load(TermSettings, term, name) for name, term in resource(TERMS).items()},
        parameters={
            entry.settings: shipped_radiomics(entry.settings)
            for entry in protocol.radiomics
            if isinstance(entry.settings, str)
        },
    )
    return Settings(
        site=site(**site_content), protocol=protocol, named=named, protocol_sha256=protocol_sha256
    )


def _completed(spec: dict[str, Any]) -> dict[str, Any]:
    spec = {"role": "CT", "segments": [{"name": "liver", "term": "liver"}]} | spec
    if spec["engine"] in LABELLED:
        spec = {"model": "phantom-ct"} | spec
        spec["segments"] = [{"label": s["name"]} | s for s in spec["segments"]]
    return spec
