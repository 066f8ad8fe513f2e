"""The training set: images and label maps of a shard's cases, as nnU-Net reads them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jipflow.cases import Case
from jipflow.files import atomic_path
from jipflow.images.masks import Segmentation, read_segmentation
from jipflow.images.volume import Volume, write_volume
from jipflow.outcomes import Made, Outcome, attempt, blocked
from jipflow.reasons import CaseFault, Reason
from jipflow.segment.channels import frames_note, read_channel
from jipflow.settings.protocol import SegmentationSettings
from jipflow.settings.run import Settings
from jipflow.workers import for_each_case

STAGE = "train"


def run(
    *,
    cases: Sequence[Case],
    prepared: set[tuple[str, str]],
    segmented: set[tuple[str, str]],
    settings: Settings,
    volumes: Path,
    masks: Path,
    out: Path,
    threads: int,
) -> list[Outcome]:
    """Write the images and the label map of each case that has a mask.

    The voxels stand in the order that engine ``nnunet`` shows them to the network: axes towards
    superior, posterior and left.

    Args:
        cases: the shard's cases.
        prepared: (case_id, role) of the volumes that are there.
        segmented: (case_id, segmentation) of the masks that are there.
        settings: of the site and a protocol with a section ``training``.
        volumes: folder of ``<case_id>/<role>.nrrd``.
        masks: folder of ``<case_id>/<segmentation>/``.
        out: folder for ``<case_id>_<channel>.nrrd`` and ``<case_id>.nrrd``, made anew.
        threads: processes.

    Returns:
        One outcome a case: one that lacks a volume or its mask failed and is not trained on.
    """
    training = settings.protocol.training
    assert training
    spec = settings.segmentation(training.segmentation)
    roles = settings.protocol.training_roles()
    with atomic_path(out) as partial_folder:
        partial_folder.mkdir()
        work = partial(
            _case,
            prepared=prepared,
            segmented=segmented,
            spec=spec,
            roles=roles,
            volumes=volumes,
            masks=masks,
            out=partial_folder,
        )
        return for_each_case(cases, work, threads)


def _case(
    case: Case,
    prepared: set[tuple[str, str]],
    segmented: set[tuple[str, str]],
    spec: SegmentationSettings,
    roles: Sequence[str],
    volumes: Path,
    masks: Path,
    out: Path,
) -> list[Outcome]:
    missing = [f"the volume of role {r}" for r in roles if (case.case_id, r) not in prepared]
    if (case.case_id, spec.id) not in segmented:
        missing.append(f"the segmentation {spec.id!r}")
    if missing:
        return [blocked(case.case_id, STAGE, spec.id, missing[0])]

    def work() -> Made:
        segmentation = read_segmentation(masks / case.case_id / spec.id)
        labels = Volume(label_map(segmentation, spec, case.case_id), segmentation.grid)
        upright = labels.canonical()
        paths, notes = [], []
        for channel, role in enumerate(roles):
            volume, note = read_channel(volumes, case.case_id, role, spec.role, labels.grid)
            notes.extend([note] if note else [])
            paths.append(out / f"{case.case_id}_{channel:04d}.nrrd")
            write_volume(paths[-1], Volume(volume.array_on(upright.grid), upright.grid))
        paths.append(out / f"{case.case_id}.nrrd")
        write_volume(paths[-1], upright, compress=True)
        notes.append(frames_note(case, dict.fromkeys([spec.role, *roles])))
        return Made(tuple(paths), note=" ".join(notes).strip())

    return [attempt(case.case_id, STAGE, spec.id, work, out)]


def label_values(spec: SegmentationSettings) -> dict[str, int]:
    """Return the number of each segment in the label maps, by its name: 1 and on."""
    return {segment.name: value for value, segment in enumerate(spec.segments, 1)}


def label_map(
    segmentation: Segmentation, spec: SegmentationSettings, case_id: str
) -> NDArray[np.uint8]:
    """Return one map of all segments, 0 outside, numbered as by `label_values`.

    Raises:
        CaseFault: segments overlap.
    """
    values = label_values(spec)
    labels = np.zeros(segmentation.grid.shape, np.uint8)
    for segment, mask, corner in segmentation.boxes():
        box = tuple(slice(a, a + n) for a, n in zip(corner, mask.shape, strict=True))
        if labels[box][mask].any():
            raise CaseFault(
                Reason.OVERLAPPING_SEGMENTS,
                f"case {case_id}: {segment.name!r} overlaps another segment of {spec.id!r}; "
                "train on segments that do not.",
            )
        labels[box][mask] = values[segment.name]
    return labels
