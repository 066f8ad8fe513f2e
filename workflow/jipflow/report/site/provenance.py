"""What made the results: settings, models and software."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

from jipflow.files import canonical_digest
from jipflow.report.site.run import Run
from jipflow.settings.protocol import ModelSegmentation
from jipflow.settings.run import Settings
from jipflow.version import commit

PACKAGES = (
    "PyWavelets",
    "connected-components-3d",
    "duckdb",
    "highdicom",
    "nnunetv2",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "pydicom",
    "pyradiomics",
    "scipy",
    "SimpleITK",
    "snakemake",
    "torch",
)


@dataclass(frozen=True)
class Provenance:
    """What the section shows.

    Attributes:
        commit: of the code that wrote the page; None outside a clone.
        protocol_sha256: hash of the protocol and of what it names.
        site_sha256: hash of the site's settings.
        models: name, file and SHA-256 of each file of each model that the protocol uses.
        python: version of Python.
        packages: name and version of those of `PACKAGES` that are installed.
        segmentations: id, engine, model (empty where it has none), role and segments of each.
    """

    commit: str | None
    protocol_sha256: str
    site_sha256: str
    models: list[tuple[str, str, str]]
    python: str
    packages: list[tuple[str, str]]
    segmentations: list[tuple[str, str, str, str, list[str]]]


def section(run: Run) -> Provenance:
    """Gather the versions and hashes."""
    return Provenance(
        commit=commit(),
        protocol_sha256=run.settings.protocol_sha256,
        site_sha256=canonical_digest(run.settings.site.plain()),
        models=model_files(run.settings),
        python=platform.python_version(),
        packages=_packages(),
        segmentations=_segmentations(run),
    )


def model_files(settings: Settings) -> list[tuple[str, str, str]]:
    """Return name, file and SHA-256 of each file of each model that the protocol uses."""
    return [
        (name, file, sha256)
        for name, model in settings.named.models.items()
        for file, sha256 in model.entry.files.items()
    ]


def _segmentations(run: Run) -> list[tuple[str, str, str, str, list[str]]]:
    return [
        (
            spec.id,
            spec.engine,
            spec.model if isinstance(spec, ModelSegmentation) else "",
            spec.role,
            [segment.name for segment in spec.segments],
        )
        for spec in run.segmentations
    ]


def _packages() -> list[tuple[str, str]]:
    versions = []
    for package in PACKAGES:
        try:
            versions.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return versions
