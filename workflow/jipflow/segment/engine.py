"""What an engine is: volumes by role in, labelled regions on the grid of a role out.

To add one: make a folder in `jipflow.segment.engines` with a class that derives from `Engine` in
``engine.py`` and one for its keys of the protocol in ``settings.py``, which are found by their
names, and let the conformance suite (``tests/unit/test_engines.py``) run it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from jipflow.cases import Case
from jipflow.images.masks import Region, Segmentation, read_segmentation
from jipflow.images.volume import Grid, Volume, read_grid, read_volume, volume_path
from jipflow.reasons import Decision
from jipflow.settings.plugins import ENGINES
from jipflow.settings.protocol import ModelSegmentation, SegmentationSettings
from jipflow.settings.registry import PinnedModel
from jipflow.settings.site import Containers, Processing

Spec = TypeVar("Spec", bound=SegmentationSettings)


@dataclass(frozen=True)
class Machine:
    """Where an engine runs.

    Attributes:
        threads: cores that it may use.
        device: ``auto``, ``cpu`` or ``cuda``.
        scratch: folder for what it needs while it runs; emptied by the stage.
        models: that the protocol names; none where an algorithm runs without a registry.
        processing: how the site processes cases.
        containers: how the site runs algorithms in containers.
    """

    threads: int
    device: str
    scratch: Path
    models: Mapping[str, PinnedModel] = field(default_factory=dict)
    processing: Processing = field(default_factory=Processing)
    containers: Containers = field(default_factory=Containers)


@dataclass(frozen=True)
class Inputs:
    """What an engine gets of one case, each part read when it is asked for.

    Attributes:
        case: the case; its series are there where an engine reads DICOM.
        spec: the protocol's segmentation.
        volumes: folder of ``<case_id>/<role>.nrrd``.
        masks: folder of ``<case_id>/<segmentation>/``.
        notes: gets a sentence for each thing that a reader of the masks should know.
        decisions: gets the code of each decision.
        empty: gets a sentence for a segment without a voxel, by its name: what was there instead.
        disagreement: gets how far the members of an ensemble disagree, by segment, whether or not
            it has a voxel in the end; see `jipflow.images.masks.Segment`.
    """

    case: Case
    spec: SegmentationSettings
    volumes: Path
    masks: Path
    notes: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    empty: dict[str, str] = field(default_factory=dict)
    disagreement: dict[str, float] = field(default_factory=dict)

    def volume(self, role: str) -> Volume:
        """Return the prepared volume of a role: HU for CT, SUV for PET."""
        return read_volume(volume_path(self.volumes, self.case.case_id, role))

    def segmentation(self, identifier: str) -> Segmentation:
        """Return a segmentation of the case that the spec names as an input."""
        return read_segmentation(self.masks / self.case.case_id / identifier)

    @cached_property
    def grid(self) -> Grid:
        """The grid of the segmentation's role, which every region lies on."""
        return read_grid(volume_path(self.volumes, self.case.case_id, self.spec.role))


class Engine(ABC, Generic[Spec]):
    """One way to segment, by its own class of a protocol's segmentation.

    A case goes through `read`, `predict` and `regions`. Each may raise a `CaseFault`, which ends
    the case and no other. Where `overlapped` is True one process runs the three side by side for
    successive cases, `predict` in the thread that called `open`, the others in `helpers` threads
    each. Where `batched` is True one process reads all cases, calls `batch`, and goes on case by
    case. Else each case runs in a process of its own, to which the engine is sent by pickle.

    Attributes:
        overlapped: whether cases share what `open` loads.
        batched: whether the device works on all cases of the shard at once.
        helpers: how many cases are read, and how many written, at a time, where overlapped.

    Args:
        spec: the protocol's segmentation.
        machine: where it runs.
    """

    overlapped: ClassVar[bool] = False
    batched: ClassVar[bool] = False
    helpers: int = 1

    def __init__(self, spec: Spec, machine: Machine) -> None:
        self.spec = spec
        self.machine = machine

    def open(self) -> None:
        """Load what all cases share, once a shard.

        Raises:
            StageError: the engine cannot run at all.
        """

    def read(self, inputs: Inputs) -> Any:
        """Read and preprocess a case; what it returns goes to `predict`."""
        return inputs

    def batch(self, ready: Sequence[Any]) -> None:
        """Work on what `read` returned of all cases that could be read; where `batched` is True."""

    def predict(self, inputs: Inputs, ready: Any) -> Any:
        """Do the part that needs the device; what it returns goes to `regions`."""
        return ready

    @abstractmethod
    def regions(self, inputs: Inputs, found: Any) -> Iterable[Region]:
        """Give the regions that were found, in the order of the protocol's segments.

        A segment of which there is no voxel is left out; the stage knows whether the protocol can
        do without it, or takes its absence for a finding.
        """

    def close(self) -> None:
        """Give back what `open` took."""


def engine_class(name: str) -> type[Engine[SegmentationSettings]]:
    """Return the class of an engine: the one that its module ``engine`` defines."""
    module = import_module(f"{ENGINES}.{name}.engine")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Engine)
        and value.__module__ == module.__name__
    )
    return found


def regions_of_labels(
    labels: NDArray[np.integer[Any]],
    values: Mapping[str, int | Sequence[int]],
    spec: ModelSegmentation,
    producer: str,
    version: str,
    disagreement: Mapping[str, float] | None = None,
) -> Iterator[Region]:
    """Yield the segments of a label map one by one, each in the box that holds it.

    Args:
        labels: label map on the grid of the segmentation's role, shape (z, y, x).
        values: number in the map by label; several where a label is a region of them.
        spec: the protocol's segmentation, whose segments name the labels.
        producer: what made the map.
        version: its version or hash.
        disagreement: between the members of an ensemble, by label.
    """
    from scipy.ndimage import find_objects

    boxes = find_objects(labels)
    for wanted in spec.segments:
        numbers = np.atleast_1d(values[wanted.label])
        found = [boxes[n - 1] for n in numbers if n <= len(boxes) and boxes[n - 1] is not None]
        if not found:
            continue
        box = tuple(
            slice(min(part.start for part in parts), max(part.stop for part in parts))
            for parts in zip(*found, strict=True)
        )
        z, y, x = (part.start for part in box)
        several = len(numbers) > 1
        yield Region(
            wanted.name,
            wanted.term,
            np.isin(labels[box], numbers) if several else np.asarray(labels[box] == numbers[0]),
            "AUTOMATIC",
            producer,
            version,
            (z, y, x),
            (disagreement or {}).get(wanted.label),
        )
