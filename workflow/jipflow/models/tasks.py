"""TotalSegmentator's tasks: what each finds, in which terms, and which weights it needs.

From ``resources/totalsegmentator.yaml``, so that no protocol needs the package to be checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from jipflow.settings.resources import resource


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

    def uncoded(self) -> list[str]:
        """Return the classes without a term."""
        return [label for label, term in self.terms.items() if term is None]


@cache
def read_tasks() -> dict[str, Task]:
    """Read every task, once a process."""
    content = resource("totalsegmentator.yaml")
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


def runnable(files: Iterable[str]) -> list[tuple[str, str]]:
    """Return the tasks and modes whose weights are all among the files of a model."""
    there = {name.rpartition("/")[0] for name in files if name.endswith("/plans.json")}
    return [
        (task.name, mode)
        for task in read_tasks().values()
        for mode, needed in task.modes.items()
        if there >= set(needed.weights)
    ]
