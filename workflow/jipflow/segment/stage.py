"""Stage `segment`: each segmentation of the protocol, by its engine, for each case of a shard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jipflow.cases import Case, Outcome, blocked
from jipflow.config import Settings

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
    for spec in settings.protocol["segmentations"]:
        concerned = [case for case in cases if spec["role"] in case.roles]
        ready = [case for case in concerned if (case.case_id, spec["role"]) in prepared]
        if spec["engine"] == "imported":
            from jipflow.segment import imported

            outcomes += imported.segment(ready, spec, volumes, masks, threads)
        else:
            from jipflow.segment import nnunet

            device = settings.site["processing"]["device"]
            outcomes += nnunet.segment(ready, spec, volumes, masks, threads, device)
        outcomes += [
            blocked(case.case_id, STAGE, spec["id"], f"the volume of role {spec['role']}")
            for case in concerned
            if case not in ready
        ]
    return outcomes
