"""Stage `segment`: each segmentation of the protocol, by its engine, for each case of a shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jipflow.cases import ANNOTATIONS, Case, is_lost
from jipflow.files import scratch_folder
from jipflow.images.masks import Region, absent_note, pack, write_segmentation
from jipflow.outcomes import Made, Outcome, Status, Trial, blocked
from jipflow.reasons import CaseFault, Reason
from jipflow.segment.channels import frames_note
from jipflow.segment.engine import Engine, Inputs, Machine, engine_class
from jipflow.segment.quality import Quality, assess
from jipflow.settings.extras import check_segmentations
from jipflow.settings.protocol import (
    ModelSegmentation,
    SegmentationSettings,
    automatic,
    in_order,
)
from jipflow.settings.run import Settings
from jipflow.workers import for_each_case

STAGE = "segment"


@dataclass
class Segmented:
    """What the stage gives.

    Attributes:
        outcomes: of each segmentation of each case that it concerns.
        quality: of each segment of those that are ok.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    quality: list[Quality] = field(default_factory=list)


@dataclass(frozen=True)
class Item:
    """One segmentation of a case."""

    outcome: Outcome
    quality: Sequence[Quality]


def run(
    *,
    cases: Sequence[Case],
    prepared: set[tuple[str, str]],
    lost: Collection[tuple[str, str]] = (),
    settings: Settings,
    volumes: Path,
    masks: Path,
    threads: int,
) -> Segmented:
    """Segment the cases of a shard.

    A segmentation concerns the cases that have a series for each role that it needs, by way of
    another segmentation too. Those that a person makes are made by stage `annotate`.

    Args:
        cases: the shard's cases.
        prepared: (case_id, role) of the volumes that are there.
        lost: (case_id, item) of what a PACS did not give or not whole.
        settings: of the site and the protocol.
        volumes: folder of ``<case_id>/<role>.nrrd``.
        masks: folder for ``<case_id>/<segmentation>/``.
        threads: processes, or threads of a neural network on the CPU.

    Raises:
        ConfigError: what an engine computes with is not installed.
        StageError: an engine cannot run at all.
    """
    check_segmentations(settings.protocol)
    masks.mkdir(parents=True, exist_ok=True)
    found = Segmented()
    outcomes = found.outcomes
    site = settings.site
    role_of = {spec.id: spec.role for spec in settings.protocol.segmentations}
    for spec in in_order(automatic(settings.protocol.segmentations)):
        roles = spec.input_roles()
        needed = settings.needed_roles(spec.id)
        concerned = [case for case in cases if case.roles.keys() >= needed]
        made = {(o.case_id, o.item) for o in outcomes if o.status is Status.OK}
        modalities = _modalities(spec, settings)
        ready = []
        for case in concerned:
            wrong = _wrong_modality(case, spec, modalities)
            if wrong:
                outcomes.append(wrong)
                continue
            missing = [
                *_not_given(case, spec, lost),
                *(f"the volume of role {r}" for r in roles if (case.case_id, r) not in prepared),
                *(
                    f"the segmentation {s!r}"
                    for s in spec.input_segmentations()
                    if (case.case_id, s) not in made
                ),
            ]
            if missing:
                outcomes.append(blocked(case.case_id, STAGE, spec.id, missing[0]))
            else:
                ready.append(case)
        if ready:
            with scratch_folder(masks) as scratch:
                machine = Machine(
                    threads,
                    site.processing.device,
                    scratch,
                    settings.named.models,
                    site.processing,
                    site.containers,
                )
                engine = engine_class(spec.engine)(spec, machine)
                others = [role_of[other] for other in spec.input_segmentations()]
                items = segment(engine, ready, volumes, masks)
                for case, item in zip(ready, items, strict=True):
                    note = frames_note(case, dict.fromkeys([*roles, *others]))
                    item.outcome.message = f"{item.outcome.message} {note}".strip()
                    outcomes.append(item.outcome)
                    found.quality += item.quality
    return found


def _not_given(
    case: Case, spec: SegmentationSettings, lost: Collection[tuple[str, str]]
) -> Iterator[str]:
    """Yield what a PACS has of a case and did not give, of the kinds that a segmentation takes."""
    for series in case.annotations:
        if series.modality in spec.annotations() and is_lost(case, ANNOTATIONS, series, lost):
            yield f"all of the {series.modality} of the archive"


def _modalities(spec: SegmentationSettings, settings: Settings) -> dict[str, str]:
    """Return by role the modality that the segmentation's model takes; nothing without a model."""
    if not isinstance(spec, ModelSegmentation) or spec.model not in settings.named.models:
        return {}  # the engine says what is missing
    return spec.modalities(settings.named.models[spec.model].entry)


def _wrong_modality(
    case: Case, spec: SegmentationSettings, modalities: Mapping[str, str]
) -> Outcome | None:
    """Return the outcome of a case whose image is not of the modality that the model takes.

    A network finds organs in anything; on SUV one that was trained on Hounsfield units finds
    others.
    """
    for role, modality in modalities.items():
        found = case.roles[role].modality
        if found != modality:
            return Outcome(
                case.case_id,
                STAGE,
                spec.id,
                Status.FAILED,
                Reason.WRONG_MODALITY.value,
                f"case {case.case_id}: the series of role {role!r} is {found or 'of no modality'}, "
                f"and the model takes {modality}; let the protocol's role ask for "
                f"Modality = '{modality}', or name another model.",
            )
    return None


def segment(
    engine: Engine[SegmentationSettings], cases: Sequence[Case], volumes: Path, masks: Path
) -> list[Item]:
    """Run an engine over cases whose inputs are there.

    Args:
        engine: not yet opened.
        cases: cases whose inputs are there.
        volumes: folder of ``<case_id>/<role>.nrrd``.
        masks: folder for ``<case_id>/<segmentation>/``.

    Returns:
        One item a case, in the order of the cases.

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


def _whole_case(
    case: Case, engine: Engine[SegmentationSettings], volumes: Path, masks: Path
) -> list[Item]:
    inputs = Inputs(case, engine.spec, volumes, masks)
    trial = _trial(inputs)

    def work() -> tuple[Made, list[Quality]]:
        return _write(engine, inputs, engine.predict(inputs, engine.read(inputs)))

    return [_item(trial, trial.step(work), masks)]


def _batched(engine: Engine[SegmentationSettings], items: Sequence[Inputs]) -> Iterator[Item]:
    """Read all cases, let the engine work on them at once, and write them one by one."""
    trials = [_trial(inputs) for inputs in items]
    read = [
        trial.step(partial(engine.read, inputs))
        for trial, inputs in zip(trials, items, strict=True)
    ]
    engine.batch([r for trial, r in zip(trials, read, strict=True) if trial.going])
    for trial, inputs, ready in zip(trials, items, read, strict=True):
        found = trial.step(partial(engine.predict, inputs, ready))
        written = trial.step(partial(_write, engine, inputs, found))
        yield _item(trial, written, inputs.masks)


def _overlapped(engine: Engine[SegmentationSettings], items: Iterable[Inputs]) -> Iterator[Item]:
    """Read the next cases and write the last ones while this one is predicted.

    Threads do, for what costs time in reading and writing is done by libraries that let other
    threads run. Of n helpers at each side, n cases at most are read or wait to be predicted, and
    n + 1 are predicted or wait to be written, so that memory holds no more than 2 n + 1.
    """
    with (
        ThreadPoolExecutor(engine.helpers) as readers,
        ThreadPoolExecutor(engine.helpers) as writers,
    ):

        def read(inputs: Inputs) -> tuple[Trial, Inputs, Any]:
            trial = _trial(inputs)
            return trial, inputs, trial.step(partial(engine.read, inputs))

        def write(trial: Trial, inputs: Inputs, found: Any) -> Item:
            written = trial.step(partial(_write, engine, inputs, found))
            return _item(trial, written, inputs.masks)

        queue = iter(items)
        coming = deque(readers.submit(read, inputs) for inputs in islice(queue, engine.helpers))
        going: deque[Future[Item]] = deque()
        while coming:
            trial, inputs, ready = coming.popleft().result()
            coming.extend(readers.submit(read, later) for later in islice(queue, 1))
            found = trial.step(partial(engine.predict, inputs, ready))
            del ready
            if len(going) == engine.helpers:
                yield going.popleft().result()
            going.append(writers.submit(write, trial, inputs, found))
            del found
        while going:
            yield going.popleft().result()


def _trial(inputs: Inputs) -> Trial:
    return Trial(inputs.case.case_id, STAGE, inputs.spec.id)


def _item(trial: Trial, written: tuple[Made, list[Quality]] | None, masks: Path) -> Item:
    made, quality = written or (None, [])
    return Item(trial.finish(made, masks), quality)


def _write(
    engine: Engine[SegmentationSettings], inputs: Inputs, found: Any
) -> tuple[Made, list[Quality]]:
    return write_regions(engine.regions(inputs, found), inputs)


def write_regions(
    regions: Iterable[Region], inputs: Inputs, method: str = "AUTOMATIC"
) -> tuple[Made, list[Quality]]:
    """Write the regions of a case, after a look at which are missing and what they are like.

    Args:
        regions: as an engine gives them.
        inputs: whose notes become the outcome's.
        method: Segment Algorithm Type (0062,0008) of those that are missing and may be so.

    Raises:
        CaseFault: a required one or all are missing.
    """
    case, spec = inputs.case, inputs.spec
    segmentation = pack(_complete(regions, inputs, method), inputs.grid)
    volume = inputs.volume(spec.role)
    quality = assess(case.case_id, spec, segmentation, volume, inputs.disagreement)
    write_segmentation(inputs.masks / case.case_id / spec.id, segmentation)
    there = {row.segment for row in quality if row.volume_ml}
    absent = absent_note((segment.name for segment in spec.segments), there)
    note = " ".join([*inputs.notes, *([absent] if absent else [])])
    flags = tuple(f"{row.segment}:{flag}" for row in quality for flag in row.flags)
    return Made(note=note, flags=flags, decisions=tuple(inputs.decisions)), quality


def _complete(regions: Iterable[Region], inputs: Inputs, method: str) -> Iterator[Region]:
    """Pass regions on, and raise where one that the protocol requires is missing.

    Where the protocol takes absence for a finding, the missing ones follow without a voxel.

    Raises:
        CaseFault: after the last one, where a required one or all are missing.
    """
    case_id, spec = inputs.case.case_id, inputs.spec
    present = set()
    for region in regions:
        present.add(region.name)
        yield region
    missing = [segment for segment in spec.segments if segment.name not in present]
    required = [segment.name for segment in missing if segment.required]
    seen = [s.name for s in missing if inputs.disagreement.get(s.name)]
    alone = f" Some members of the model find {', '.join(seen)}, their mean does not." * bool(seen)
    alone += "".join(f" {inputs.empty[s.name]}" for s in missing if s.name in inputs.empty)
    if required:
        raise CaseFault(
            Reason.EMPTY_SEGMENT,
            f"case {case_id}: {spec.id!r} has no voxel of {required[0]!r}.{alone}",
        )
    if spec.may_be_empty:
        for segment in missing:
            nothing = np.zeros((0, 0, 0), bool)
            yield Region(
                segment.name,
                segment.term,
                nothing,
                method,
                spec.engine,
                disagreement=inputs.disagreement.get(segment.name),
            )
    elif not present:
        raise CaseFault(
            Reason.EMPTY_SEGMENTATION,
            f"case {case_id}: no segment of {spec.id!r} has a voxel.{alone}",
        )
