"""An algorithm in a container, made ready and run on cases."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jipflow.images.volume import Volume
from jipflow.reasons import StageError
from jipflow.segment.containers import contract
from jipflow.segment.containers.contract import Parcel
from jipflow.segment.containers.runtimes import Ending, Runtime, Start, choose, execute
from jipflow.segment.engine import Machine


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
        there = Path("/dev/nvidiactl").exists()
        if self.device == "auto":
            self.device = "cuda" if there else "cpu"
        if self.device == "cuda" and not there:
            raise StageError(
                "device cuda: there is no GPU here, as there is no /dev/nvidiactl; say "
                "processing.device: auto or cpu in site.yaml, or run it where there is one."
            )
        self.settings = machine.containers
        self.folder = machine.scratch.resolve()
        if set(str(self.folder)) & set(":,"):
            raise StageError(
                f"{self.folder} has a colon or a comma in its name, which container runtimes take "
                "for the end of it; put the results elsewhere."
            )
        self.runtime: Runtime = choose(self.settings.runtime, image)(image, self.folder / "runtime")
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
            self.settings.memory_gb,
        )
        ending = execute(
            self.runtime,
            start,
            60 * self.settings.minutes,
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
