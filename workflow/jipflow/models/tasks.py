"""TotalSegmentator's tasks: what each finds, in which terms, and which weights it needs.

From ``resources/totalsegmentator.yaml``, so that no protocol needs the package to be checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jipflow.settings.config import RESOURCES, ConfigError, read_yaml


@dataclass(frozen=True)
class Mode:
    """One resolution of a task.

    Attributes:
        weights: folders of the nnU-Net models that run, those that find its crop included.
        download: names by which ``totalseg_download_weights`` fetches them.
    """

    weights: tuple[str, ...]
    download: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A task of TotalSegmentator.

    Attributes:
        name: its name there.
        modality: of the images that it is made for, ``CT`` or ``MR``.
        needs_licence: whether it asks for a licence number.
        modes: ``default``, and ``fast`` and ``fastest`` where it has them.
        labels: number in its label map by class name.
        terms: key of the term by class name; None where the class has no code.
    """

    name: str
    modality: str
    needs_licence: bool
    modes: Mapping[str, Mode]
    labels: Mapping[str, int]
    terms: Mapping[str, str | None]


def read_tasks() -> dict[str, Task]:
    """Read every task."""
    content = read_yaml(RESOURCES / "totalsegmentator.yaml")
    return {
        name: Task(
            name,
            entry["modality"],
            entry["licence"] == "number",
            {
                mode: Mode(tuple(needed["weights"]), tuple(needed["download"]))
                for mode, needed in entry["modes"].items()
            },
            {label: number for number, label in enumerate(entry["labels"], start=1)},
            {label: content["terms"].get(label) for label in entry["labels"]},
        )
        for name, entry in content["tasks"].items()
    }


def complete_segments(spec: dict[str, Any], where: str) -> None:
    """Fill in the segments of a segmentation by TotalSegmentator from the classes of its task.

    A segment that gives only a class gets the class's name in small letters and its term; ``all``
    becomes one segment for each class.

    Args:
        spec: the protocol's segmentation; changed in place.
        where: what it is, for the message.

    Raises:
        ConfigError: there is no such task, mode or class, or a class has no code and the protocol
            gives no term.
    """
    tasks = read_tasks()
    if spec["task"] not in tasks:
        raise ConfigError(
            f"{where}: there is no task {spec['task']!r}; there are: {', '.join(tasks)}."
        )
    task = tasks[spec["task"]]
    if spec["mode"] not in task.modes:
        raise ConfigError(
            f"{where}: task {task.name!r} has no mode {spec['mode']!r}; it has: "
            f"{', '.join(task.modes)}."
        )
    if spec["segments"] == "all":
        spec["segments"] = [{"label": label, "required": False} for label in task.labels]
    for segment in spec["segments"]:
        label = segment["label"]
        if label not in task.labels:
            raise ConfigError(
                f"{where}: task {task.name!r} has no class {label!r}; it has: "
                f"{', '.join(task.labels)}."
            )
        segment.setdefault("name", label.lower())
        if "term" not in segment:
            term = task.terms[label]
            if term is None:
                raise ConfigError(
                    f"{where}: class {label!r} has no term; add one with reviewed codes to "
                    "workflow/resources/terms.yaml and name it as the segment's term, or leave "
                    f"the class out. Without a term are: {', '.join(_uncoded(task))}."
                )
            segment["term"] = term


def runnable(files: Iterable[str]) -> list[tuple[str, str]]:
    """Return the tasks and modes whose weights are all among the files of a model."""
    there = {name.rpartition("/")[0] for name in files if name.endswith("/plans.json")}
    return [
        (task.name, mode)
        for task in read_tasks().values()
        for mode, needed in task.modes.items()
        if there >= set(needed.weights)
    ]


def _uncoded(task: Task) -> list[str]:
    return [label for label, term in task.terms.items() if term is None]
