"""Stage `measure`: radiomic features of each segment, by pyradiomics."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from radiomics import featureextractor

from jipflow.cases import Case, Made, Outcome, Reason, Status, attempt, blocked, for_each_case
from jipflow.config import Settings, radiomics_settings
from jipflow.files import canonical_digest
from jipflow.images.masks import read_segmentation
from jipflow.images.prepare import volume_path
from jipflow.images.volume import Volume, read_volume
from jipflow.tables import FAILURE_COLUMNS, FEATURE_COLUMNS, FEATURE_KEYS

STAGE = "measure"


@dataclass(frozen=True)
class Failure:
    """Why a feature is null; `feature` is ``*`` when none could be computed."""

    feature: str
    reason: Reason
    message: str


def run(
    cases: Sequence[Case],
    segmented: set[tuple[str, str]],
    settings: Settings,
    volumes: Path,
    masks: Path,
    threads: int,
) -> tuple[pd.DataFrame, pd.DataFrame, list[Outcome]]:
    """Measure each segment that the protocol asks for.

    Args:
        cases: the shard's cases.
        segmented: (case_id, segmentation) of the masks that are there.
        settings: of the site and the protocol.
        volumes: folder of ``<case_id>/<role>.nrrd``.
        masks: folder of ``<case_id>/<segmentation>/``.
        threads: processes.

    Returns:
        Features (one row per case, role and segment, a float64 column per feature, null where it
        failed), failures (why each null is null), and the outcomes.
    """
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    work = partial(
        _measure_case, segmented=segmented, settings=settings, volumes=volumes, masks=masks
    )
    outcomes = []
    for result in for_each_case(cases, work, threads):
        outcomes.append(result.outcome)
        rows += result.rows
        failures += result.failures
    return feature_table(rows), failure_table(failures), outcomes


@dataclass
class Measured:
    """The rows, failures and outcome of one segmentation of a case."""

    outcome: Outcome
    rows: list[dict[str, Any]]
    failures: list[dict[str, Any]]


def feature_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as the features table, sorted, with columns in a fixed order."""
    features = sorted({name for row in rows for name in row} - set(FEATURE_COLUMNS))
    table = pd.DataFrame(list(rows), columns=[*FEATURE_COLUMNS, *features])
    types = dict.fromkeys(("volume_ml", *features), "float64") | {"voxels": "int64"}
    table = table.astype(types | dict.fromkeys((*FEATURE_KEYS, "settings_sha256"), "str"))
    return table.sort_values(list(FEATURE_KEYS)).reset_index(drop=True)


def failure_table(failures: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return failures as a table, sorted."""
    table = pd.DataFrame(list(failures), columns=list(FAILURE_COLUMNS)).astype("str")
    return table.sort_values(list(FAILURE_COLUMNS)).reset_index(drop=True)


def _measure_case(
    case: Case,
    segmented: set[tuple[str, str]],
    settings: Settings,
    volumes: Path,
    masks: Path,
) -> list[Measured]:
    measured = []
    for entry in settings.protocol["radiomics"]:
        segmentation, role = entry["segmentation"], entry["role"]
        if role not in case.roles:
            continue
        rows: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        if (case.case_id, segmentation) in segmented:
            work = partial(_measure, case, entry, volumes, masks, rows, failures)
            outcome = attempt(case.case_id, STAGE, segmentation, work, masks)
            if outcome.status is not Status.OK:
                rows.clear()
                failures[:] = [
                    {
                        "case_id": case.case_id,
                        "role": role,
                        "segmentation": segmentation,
                        "segment": "*",
                        "feature": "*",
                        "reason": outcome.reason,
                        "message": outcome.message,
                    }
                ]
        else:
            outcome = blocked(case.case_id, STAGE, segmentation, f"the mask {segmentation!r}")
        measured.append(Measured(outcome, rows, failures))
    return measured


def _measure(
    case: Case,
    entry: dict[str, Any],
    volumes: Path,
    masks: Path,
    rows: list[dict[str, Any]],
    failures: list[dict[str, Any]],
) -> Made:
    role, name = entry["role"], entry["segmentation"]
    volume = read_volume(volume_path(volumes, case.case_id, role))
    segmentation = read_segmentation(masks / case.case_id / name)
    parameters = radiomics_settings(entry["settings"], f"radiomics of {name!r}")
    digest = canonical_digest(parameters)
    failed = 0
    for segment, mask in segmentation.masks():
        features, problems = extract(volume, mask, parameters)
        key = {"case_id": case.case_id, "role": role, "segmentation": name, "segment": segment.name}
        voxels = int(mask.sum())
        rows.append(
            {
                **key,
                "patient": case.patient,
                "voxels": voxels,
                "volume_ml": voxels * volume.grid.voxel_volume / 1000.0,
                "settings_sha256": digest,
                **features,
            }
        )
        failures += [
            {**key, **asdict(problem), "reason": problem.reason.value} for problem in problems
        ]
        failed += len(problems)
    return Made(note=f"{failed} features are null, see features/failures.parquet" if failed else "")


def extract(
    volume: Volume, mask: NDArray[np.bool_], parameters: Mapping[str, Any]
) -> tuple[dict[str, float | None], list[Failure]]:
    """Compute the features of one region.

    Args:
        volume: the image.
        mask: voxels of the region, shape of the volume.
        parameters: pyradiomics' parameter file as a mapping (imageType, featureClass, setting).

    Returns:
        Values by pyradiomics' names, None where a feature has none, and why.
    """
    odd = int((~np.isfinite(volume.array[mask])).sum()) if mask.any() else 0
    if odd:
        # pyradiomics would leave such voxels out of some features and not of others.
        return {}, [Failure("*", Reason.NOT_FINITE, f"{odd} voxels of the region are no number")]
    logging.getLogger("radiomics").setLevel(logging.ERROR)
    extractor = featureextractor.RadiomicsFeatureExtractor(dict(parameters), additionalInfo=False)
    image = volume.image()
    label = Volume(mask.astype(np.uint8), volume.grid).image()
    try:
        raw = extractor.execute(image, label, label=1)
    except ValueError as error:
        if not mask.any():
            reason = Reason.EMPTY_SEGMENT
        elif mask.sum() == 1 or "dimension" in str(error):
            reason = Reason.MASK_TOO_SMALL
        else:
            reason = Reason.FEATURE_FAILED
        return {}, [Failure("*", reason, str(error))]
    values: dict[str, float | None] = {}
    failures = []
    for name, value in raw.items():
        number = float(value)
        values[name] = number if math.isfinite(number) else None
        if values[name] is None:
            failures.append(Failure(name, Reason.NOT_FINITE, f"pyradiomics gave {number}"))
    return values, failures
