"""The crates of a site: of a run, and of a training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jipflow.crates.run import Other, Run, described
from jipflow.reasons import StageError
from jipflow.settings.reading import read_registry
from jipflow.settings.run import Settings

MODEL = ".model/"
"""Stands for the folder of the site's models, whose files are no results."""


def run_crate(settings: Settings, results: Path, records: Iterable[Path]) -> bytes:
    """Return the crate of a run at a site, a zip.

    Args:
        settings: of the run.
        results: folder of the results of all protocols.
        records: of its last jobs, which lead to all others.

    Raises:
        StageError: a record is missing or leads out of the results.
    """
    return described(_run(settings, "A run of jipflow"), results, records)


def training_crate(
    settings: Settings, results: Path, records: Iterable[Path], registry: Path
) -> bytes:
    """Return the crate of a training at a site, a zip.

    Args:
        settings: of the run; its protocol has a training.
        results: folder of the results of all protocols.
        records: of the last jobs of the training, which lead to all others.
        registry: file that pins the model.

    Raises:
        StageError: a record is missing or leads out of the results, or the registry has no such
            model.
        ConfigError: the registry is not valid.
    """
    assert settings.protocol.training
    model = settings.protocol.training.model
    known = read_registry(registry)
    if model not in known:
        raise StageError(
            f"{registry}: there is no model {model!r}; remove the record "
            "train/register.provenance.json of the results, and run snakemake train again."
        )
    files = [
        Other(f"{MODEL}{model}/{path}", f"{model}/{path}", sha256)
        for path, sha256 in sorted(known[model].entry.files.items())
    ]
    run = _run(settings, f"The training of the model {model} by jipflow", files)
    return described(run, results, records)


def _run(settings: Settings, what: str, model: Iterable[Other] = ()) -> Run:
    """Return what a crate states of a run at a site.

    Args:
        settings: of the run.
        what: it was, the beginning of a sentence.
        model: files of a model that was registered.
    """
    protocol = settings.protocol.protocol
    site = settings.site.site.id
    return Run(
        at=site,
        owner="site",
        name=f"{protocol.id} {protocol.version} at {site}",
        description=f"{what}: {protocol.title}.",
        protocol=settings.protocol,
        named=settings.named,
        writes={"train_register": list(model)},
    )
