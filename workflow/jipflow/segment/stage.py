"""Stage `segment`: each segmentation of the protocol, by its engine, for each case of a shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from jipflow.cases import (
    Case,
    CaseFault,
    Made,
    Outcome,
    Reason,
    Status,
    Trial,
    blocked,
    for_each_case,
)
from jipflow.config import Settings, in_order, input_roles, input_segmentations
from jipflow.files import scratch_folder
from jipflow.images.masks import Region, absent_note, pack, write_segmentation
from jipflow.segment.engine import Engine, Inputs, Machine, engine_class

STAGE = "segment"


def run(
    cases: Sequence[Case],
    prepared: set[tuple[str, str]],
    settings: Settings,
    volumes: Path,
    masks: Path,
    threads: int,
) -> list[Outcome]:
    """Segment the cases of a shard.

    A segmentation concerns the cases that have a series for each role that it needs.

    Args:
        cases: the shard's cases.
        prepared: (case_id, role) of the volumes that are there.
        settings: of the site and the protocol.
        volumes: folder of ``<case_id>/<role>.nrrd``.
        masks: folder for ``<case_id>/<segmentation>/``.
        threads: processes, or threads of a neural network on the CPU.

    Raises:
        StageError: an engine cannot run at all.
    """
    masks.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    device = settings.site["processing"]["device"]
    for spec in in_order(settings.protocol["segmentations"]):
        roles = input_roles(spec)
        concerned = [case for case in cases if case.roles.keys() >= set(roles)]
        made = {(o.case_id, o.item) for o in outcomes if o.status is Status.OK}
        ready = []
        for case in concerned:
            missing = [
                *(f"the volume of role {r}" for r in roles if (case.case_id, r) not in prepared),
                *(
                    f"the segmentation {s!r}"
                    for s in input_segmentations(spec)
                    if (case.case_id, s) not in made
                ),
            ]
            if missing:
                outcomes.append(blocked(case.case_id, STAGE, spec["id"], missing[0]))
            else:
                ready.append(case)
        if ready:
            with scratch_folder(masks) as scratch:
                machine = Machine(threads, device, scratch, settings.site)
                engine = engine_class(spec["engine"])(spec, machine)
                outcomes += segment(engine, ready, volumes, masks)
    return outcomes


def segment(engine: Engine, cases: Sequence[Case], volumes: Path, masks: Path) -> list[Outcome]:
    """Run an engine over cases whose inputs are there.

    Args:
        engine: not yet opened.
        cases: cases whose inputs are there.
        volumes: folder of ``<case_id>/<role>.nrrd``.
        masks: folder for ``<case_id>/<segmentation>/``.

    Returns:
        One outcome a case, in the order of the cases.

    Raises:
        StageError: the engine cannot run at all.
    """
    engine.open()
    try:
        inputs = [Inputs(case, engine.spec, volumes, masks) for case in cases]
        if engine.batched:
            return list(_batched(engine, inputs))
        if engine.overlapped:
            return list(_overlapped(engine, inputs))
        work = partial(_whole_case, engine=engine, volumes=volumes, masks=masks)
        return for_each_case(cases, work, engine.machine.threads)
    finally:
        engine.close()


def _whole_case(case: Case, engine: Engine, volumes: Path, masks: Path) -> list[Outcome]:
    inputs = Inputs(case, engine.spec, volumes, masks)
    trial = _trial(inputs)

    def work() -> Made:
        return _write(engine, inputs, engine.predict(inputs, engine.read(inputs)))

    return [trial.finish(trial.step(work), masks)]


def _batched(engine: Engine, items: Sequence[Inputs]) -> Iterator[Outcome]:
    """Read all cases, let the engine work on them at once, and write them one by one."""
    trials = [_trial(inputs) for inputs in items]
    read = [
        trial.step(partial(engine.read, inputs))
        for trial, inputs in zip(trials, items, strict=True)
    ]
    engine.batch([r for trial, r in zip(trials, read, strict=True) if trial.going])
    for trial, inputs, ready in zip(trials, items, read, strict=True):
        found = trial.step(partial(engine.predict, inputs, ready))
        made = trial.step(partial(_write, engine, inputs, found))
        yield trial.finish(made, inputs.masks)


def _overlapped(engine: Engine, items: Iterable[Inputs]) -> Iterator[Outcome]:
    """Read the next case and write the last one while this one is predicted.

    At most one case waits at each side, so that memory holds no more than four.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:

        def read(inputs: Inputs) -> tuple[Trial, Any]:
            trial = _trial(inputs)
            return trial, trial.step(partial(engine.read, inputs))

        def write(trial: Trial, inputs: Inputs, found: Any) -> Outcome:
            made = trial.step(partial(_write, engine, inputs, found))
            return trial.finish(made, inputs.masks)

        queue = list(items)
        coming = [reader.submit(read, inputs) for inputs in queue[:2]]
        going: Future[Outcome] | None = None
        for number, inputs in enumerate(queue):
            trial, ready = coming.pop(0).result()
            found = trial.step(partial(engine.predict, inputs, ready))
            del ready
            if number + 2 < len(queue):
                coming.append(reader.submit(read, queue[number + 2]))
            if going is not None:
                yield going.result()
            going = writer.submit(write, trial, inputs, found)
            del found
        if going is not None:
            yield going.result()


def _trial(inputs: Inputs) -> Trial:
    return Trial(inputs.case.case_id, STAGE, inputs.spec["id"])


def _write(engine: Engine, inputs: Inputs, found: Any) -> Made:
    """Write the regions of a case, after a look at which are missing."""
    case, spec = inputs.case, inputs.spec
    segmentation = pack(_complete(engine.regions(inputs, found), case, spec), inputs.grid)
    write_segmentation(inputs.masks / case.case_id / spec["id"], segmentation)
    absent = absent_note(spec, segmentation.segments)
    return Made(note=" ".join([*inputs.notes, *([absent] if absent else [])]))


def _complete(regions: Iterable[Region], case: Case, spec: Mapping[str, Any]) -> Iterator[Region]:
    """Pass regions on, and raise where one that the protocol requires is missing."""
    present = set()
    for region in regions:
        present.add(region.name)
        yield region
    missing = [s["name"] for s in spec["segments"] if s["required"] and s["name"] not in present]
    if missing:
        raise CaseFault(
            Reason.EMPTY_SEGMENT,
            f"case {case.case_id}: {spec['id']!r} has no voxel of {missing[0]!r}.",
        )
    if not present:
        raise CaseFault(
            Reason.EMPTY_SEGMENTATION,
            f"case {case.case_id}: no segment of {spec['id']!r} has a voxel.",
        )
