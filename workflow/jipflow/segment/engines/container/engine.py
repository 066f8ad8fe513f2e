"""Engine `container`: an algorithm of any kind that meets the contract of docs/algorithms.md."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jipflow.files import canonical_digest
from jipflow.images.masks import Region
from jipflow.images.volume import Volume
from jipflow.models.registry import registered_model, verify
from jipflow.reasons import CaseFault, Reason, StageError
from jipflow.segment.containers import contract
from jipflow.segment.containers.contract import Parcel
from jipflow.segment.containers.runtimes import Ending, Runtime, Start, choose, execute
from jipflow.segment.engine import Engine, Inputs, Machine, regions_of_labels
from jipflow.settings.config import input_roles


@dataclass(frozen=True)
class Attempt:
    """A start of an algorithm that is over.

    Attributes:
        ending: how it ended.
        output: the folder that was ``/output``.
        size: how many cases it got.
    """

    ending: Ending
    output: Path
    size: int


class Algorithm:
    """An image that is ready to run.

    Args:
        image: its file, verified.
        machine: where it runs; all that it reads and writes stands below ``machine.scratch``.
        labels: number of each wanted label.
        role: whose grid the segmentation lies on.

    Raises:
        StageError: it cannot be run here.
    """

    def __init__(self, image: Path, machine: Machine, labels: Mapping[str, int], role: str) -> None:
        self.machine = machine
        self.labels = labels
        self.role = role
        self.device = machine.device
        if self.device == "auto":
            self.device = "cuda" if Path("/dev/nvidiactl").exists() else "cpu"
        self.site = machine.site["containers"]
        self.folder = machine.scratch.resolve()
        if set(str(self.folder)) & set(":,"):
            raise StageError(
                f"{self.folder} has a colon or a comma in its name, which container runtimes take "
                "for the end of it; put the results elsewhere."
            )
        self.runtime: Runtime = choose(self.site["runtime"], image)(image, self.folder / "runtime")
        self.runtime.prepare(self.device == "cuda")
        self._cases = self._starts = 0

    def parcel(self, volumes: Mapping[str, Volume], modalities: Mapping[str, str]) -> Parcel:
        """Write the images of a case; see `contract.write_case`."""
        self._cases += 1
        return contract.write_case(
            self.folder / "images", f"{self._cases:04d}", volumes, modalities
        )

    def run(self, parcels: Sequence[Parcel]) -> Attempt:
        """Run the algorithm on cases, and on no others that it could see."""
        self._starts += 1
        place = self.folder / f"start-{self._starts}"
        source, target, scratch = (place / name for name in ("input", "output", "tmp"))
        for folder in (source, target, scratch):
            folder.mkdir(parents=True)
        for parcel in parcels:
            shutil.copytree(
                self.folder / "images" / parcel.folder,
                source / parcel.folder,
                copy_function=os.link,
            )
        contract.write_job(
            source, target, parcels, self.labels, self.role, self.device, self.machine.threads
        )
        start = Start(
            f"jipflow-{uuid.uuid4().hex}",
            source,
            target,
            scratch,
            self.machine.threads,
            self.device == "cuda",
            self.site["memory_gb"],
        )
        ending = execute(
            self.runtime,
            start,
            60 * self.site["minutes"],
            lambda: sum(parcel.finished(target) for parcel in parcels),
        )
        return Attempt(ending, target, len(parcels))

    def clear(self) -> None:
        """Let all folders be removed, whatever modes the algorithm gave to its own."""
        for folder, names, _ in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink():
                    path.chmod(0o700)


class Container(Engine):
    """Runs an algorithm on all cases of a shard, and again on each that was left when it died.

    One start for the shard pays the container's start and the loading of a model once. If it dies,
    finished cases count, and a case that takes the algorithm down does so alone.
    """

    batched = True

    def open(self) -> None:
        """Verify the image and make it ready.

        Raises:
            StageError: the image is not the pinned one, or cannot be run here.
        """
        self.model = registered_model(self.spec["model"])
        verify(self.model)
        entry = self.model.entry
        if entry.get("image") not in self.model.files:
            raise StageError(
                f"model {self.model.name!r}: image must name one of its files: "
                f"{', '.join(self.model.files)}."
            )
        self.values = {label["name"]: int(label["value"]) for label in entry["labels"]}
        wanted = {s["label"]: self.values[s["label"]] for s in self.spec["segments"]}
        image = (self.model.folder / entry["image"]).resolve()
        self.algorithm = Algorithm(image, self.machine, wanted, self.spec["role"])

    def read(self, inputs: Inputs) -> Parcel:
        """Write the volumes of the roles as NIfTI."""
        roles = input_roles(self.spec)
        modalities = {role: inputs.case.roles[role].modality for role in roles}
        return self.algorithm.parcel({role: inputs.volume(role) for role in roles}, modalities)

    def batch(self, ready: Sequence[Parcel]) -> None:
        """Run the algorithm on all cases that could be read."""
        if ready:
            self.together = self._run(ready)

    def predict(self, inputs: Inputs, ready: Parcel) -> NDArray[np.unsignedinteger[Any]]:
        """Read what the algorithm found, or run it on this case alone if it died before.

        Raises:
            CaseFault: it died, says that the case cannot be done, or left no valid segmentation.
        """
        case_id = inputs.case.case_id
        for attempt in self._attempts(ready):
            try:
                return contract.read_result(attempt.output, ready, self.values.values(), case_id)
            except CaseFault as fault:
                if attempt.ending.code == 0 or fault.reason is not Reason.INVALID_OUTPUT:
                    raise
        raise CaseFault(
            Reason.ALGORITHM_FAILED,
            f"case {case_id}: {self.model.name!r} {attempt.ending.words}; the last it printed: "
            f"{contract.one_line(attempt.ending.log[-contract.MESSAGE_LENGTH :]) or 'nothing'}",
        )

    def regions(self, inputs: Inputs, found: NDArray[np.unsignedinteger[Any]]) -> Iterator[Region]:
        """Give the labels that the protocol wants."""
        version = canonical_digest(self.model.files)[:16]
        return regions_of_labels(found, self.values, self.spec, self.model.name, version)

    def close(self) -> None:
        """Make what the algorithm left removable."""
        self.algorithm.clear()

    def _attempts(self, parcel: Parcel) -> Iterator[Attempt]:
        yield self.together
        if self.together.size > 1:
            yield self._run([parcel])

    def _run(self, parcels: Sequence[Parcel]) -> Attempt:
        attempt = self.algorithm.run(parcels)
        log = "".join(c if c.isprintable() or c == "\n" else "?" for c in attempt.ending.log)
        print(f"{self.model.name} {attempt.ending.words}; cases: {len(parcels)}; its log:\n{log}")
        return attempt
