"""What the person calls who brings a model or an algorithm to a site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from jipflow.cli.command import REPEATED, Audience

AUDIENCE = Audience("To bring in a model or an algorithm")


@AUDIENCE.command("models add")
def models_add(
    name: Annotated[str, "the model's name in protocols"],
    *,
    folder: Annotated[Path, "its files"],
    about: Annotated[Path, "YAML file: licence, intended use, labels, ..."],
    registry: Annotated[Path | None, "the site's own; models/models.yaml by default"] = None,
    replace: Annotated[bool, "replace an entry of that name"] = False,
) -> None:
    """Pin the files of a folder as a new model."""
    from jipflow.models.store import add

    model = add(name, folder=folder, about=about, registry=registry, replace=replace)
    print(f"{name}: {len(model.files)} files of {model.folder} pinned in {model.registry}")


@AUDIENCE.command("algorithm check")
def algorithm_check(
    image: Annotated[Path, "image archive (.tar), or .sif for apptainer"],
    *,
    label: Annotated[
        Sequence[str],
        "the number of a label, such as liver=1; once for each",
        {**REPEATED, "metavar": "NAME=NUMBER"},
    ],
    role: Annotated[
        Sequence[str] | None,
        "an image that it takes, such as PET=PT; the segmented one first (default: CT)",
        {**REPEATED, "metavar": "NAME[=MODALITY]"},
    ] = None,
    runtime: Annotated[str, "as in containers of site.yaml"] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], "what it computes on"] = "auto",
    minutes: Annotated[float, "without a finished case, after which it is ended"] = 10,
    threads: Annotated[int, "cores that it may use"] = 1,
) -> None:
    """Try whether an algorithm's image meets the contract."""
    from jipflow.reasons import StageError
    from jipflow.segment.containers.check import check

    findings = check(
        image=image,
        labels=dict(_labels(label)),
        roles=dict(_roles(role or ["CT"])),
        runtime=runtime,
        device=device,
        threads=threads,
        minutes=minutes,
    )
    failed = 0
    for finding in findings:
        print(finding, flush=True)
        failed += bool(finding.problem)
    if failed:
        raise StageError(f"{image}: {failed} checks failed; docs/algorithms.md helps.")


def _labels(texts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of each ``name=number``."""
    from jipflow.reasons import StageError

    for text in texts:
        name, _, number = text.partition("=")
        if not number.isdecimal() or int(number) < 1:
            raise StageError("--label is a name and a number from 1, such as --label liver=1.")
        yield name, int(number)


def _roles(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the DICOM Modality of each ``name`` or ``name=modality``."""
    for text in texts:
        name, _, modality = text.partition("=")
        yield name, modality or name
