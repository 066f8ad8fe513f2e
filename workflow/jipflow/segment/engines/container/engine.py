"""Engine `container`: an algorithm of any kind that meets the contract of docs/algorithms.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jipflow.files import canonical_digest
from jipflow.images.masks import Region
from jipflow.models.registry import registered_model, verify
from jipflow.reasons import CaseFault, Reason, StageError
from jipflow.segment.containers import contract
from jipflow.segment.containers.algorithm import Algorithm, Attempt
from jipflow.segment.containers.contract import Parcel
from jipflow.segment.engine import Engine, Inputs, regions_of_labels
from jipflow.segment.engines.container.settings import ContainerModel, ContainerSegmentation


class Container(Engine[ContainerSegmentation]):
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
        self.model = registered_model(self.spec.model, self.machine.models)
        verify(self.model)
        entry = self.model.entry
        assert isinstance(entry, ContainerModel)
        if entry.image not in self.model.files:
            raise StageError(
                f"model {self.model.name!r}: image must name one of its files: "
                f"{', '.join(self.model.files)}."
            )
        self.values = {label.name: label.value for label in entry.labels}
        wanted = {s.label: self.values[s.label] for s in self.spec.segments}
        image = (self.model.folder / entry.image).resolve()
        self.algorithm = Algorithm(image, self.machine, wanted, self.spec.role)

    def read(self, inputs: Inputs) -> Parcel:
        """Write the volumes of the roles as NIfTI."""
        roles = self.spec.input_roles()
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
            StageError: time, memory or the disk ended it.
        """
        case_id = inputs.case.case_id
        for attempt in self._attempts(ready):
            try:
                return contract.read_result(attempt.output, ready, self.values.values(), case_id)
            except CaseFault as fault:
                if attempt.ending.code == 0 or fault.reason is not Reason.INVALID_OUTPUT:
                    raise
        last = contract.one_line(attempt.ending.log[-contract.MESSAGE_LENGTH :]) or "nothing"
        what = f"{self.model.name!r} {attempt.ending.words}; the last it printed: {last}"
        if attempt.ending.of_the_place:
            raise StageError(
                f"case {case_id}: {what}. Give it more time, memory or room (containers.minutes, "
                "containers.memory_gb, the disk of the results), and run the same command again; "
                "or leave the case out by the protocol's cohort."
            )
        raise CaseFault(Reason.ALGORITHM_FAILED, f"case {case_id}: {what}")

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
