"""Evaluation on cases that a model has not seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from jipflow.agreement import overlap
from jipflow.files import read_frame, read_json, write_json, write_parquet
from jipflow.images.volume import Grid, read_volume
from jipflow.outcomes import Outcome, Status, Trial
from jipflow.reasons import Reason
from jipflow.segment.engines.nnunet import inference
from jipflow.segment.engines.nnunet.engine import load_predictor
from jipflow.settings.run import Settings
from jipflow.training.data import label_values
from jipflow.training.folders import model, raw

if TYPE_CHECKING:
    from jipflow.models.upstream import nnUNetPredictor

HELD_OUT = "held_out"
STAGE = "evaluate"
AXES = "LPS"
"""Where x, y and z run in the files that `data.run` wrote."""

MEASURES = ("dice", "hausdorff_95_mm", "reference_ml", "predicted_ml", "difference_ml")


def evaluate(
    *, work: Path, part: str, settings: Settings, device: str, threads: int, out: Path
) -> None:
    """Predict a part of the cases by models that have not seen them, and write a table.

    A row for each case and label: ``case_id, patient, part, label, status, reason, message`` and
    `MEASURES`: the Dice coefficient, the 95th percentile of the surface distances in mm, and the
    volumes in mL with their difference, predicted less reference. A value that is not defined is
    null, with its reason. A case that fails has a row for each label and stops no other.

    Args:
        work: folder in which `fit.fit` has run.
        part: number of a fold, predicted by its own model; or ``held_out``, by all models.
        settings: of the site and the protocol.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: threads on the CPU.
        out: the Parquet file.
    """
    training = settings.protocol.training
    assert training
    chosen = read_json(work / "split.json")
    if part == HELD_OUT:
        cases = chosen["held_out"]
        folds = training.fold_names()
    else:
        cases, folds = chosen["folds"][int(part)], [part]
    predictor = load_predictor(model(work), folds, threads, device, mirroring=False)
    values = label_values(settings.segmentation(training.segmentation))
    rows = []
    for case in cases:
        about = {"case_id": case, "patient": chosen["patients"][case], "part": part}
        rows += [{**about, **row} for row in _case(predictor, work, case, chosen, values)]
    columns = ("case_id", "patient", "part", "label", "status", "reason", "message", *MEASURES)
    table = pd.DataFrame(rows, columns=list(columns))
    write_parquet(out, table.astype(dict.fromkeys(MEASURES, float)))


def _case(
    predictor: nnUNetPredictor,
    work: Path,
    case: str,
    chosen: Mapping[str, Any],
    values: Mapping[str, int],
) -> list[dict[str, Any]]:
    trial = Trial(case, STAGE, "")

    def work_on_case() -> list[dict[str, Any]]:
        files = chosen["files"][case]
        images = [read_volume(raw(work) / name) for name in files["images"]]
        truth = read_volume(raw(work) / files["label"])
        axes = inference.orientation(predictor, AXES)
        ready = inference.preprocess(predictor, images, axes)
        found = inference.where_it_fits(
            partial(inference.predict, predictor, ready),
            inference.device_choices(predictor.device),
            case,
            [],
        )
        predicted = inference.label_map(predictor, found).array_on(truth.grid)
        return [
            {"label": label, **compare(predicted == value, truth.array == value, truth.grid)}
            for label, value in values.items()
        ]

    rows = trial.step(work_on_case)
    if rows is not None:
        return rows
    failed = trial.outcome
    return [
        {
            "label": label,
            "status": failed.status.value,
            "reason": failed.reason,
            "message": failed.message,
        }
        for label in values
    ]


def compare(
    predicted: NDArray[np.bool_], reference: NDArray[np.bool_], grid: Grid
) -> dict[str, Any]:
    """Measure how a predicted mask fits the reference, as in a row of the table.

    Args:
        predicted: shape (z, y, x) of the grid.
        reference: of the same shape.
        grid: where the voxels are.
    """
    ml = grid.voxel_volume / 1000
    found = overlap(predicted, reference, grid.spacing)
    volumes = [int(np.count_nonzero(mask)) * ml for mask in (reference, predicted)]
    empty = [
        name
        for name, mask in (("reference", reference), ("prediction", predicted))
        if not mask.any()
    ]
    return {
        "status": Status.OK.value,
        "reason": Reason.EMPTY_SEGMENT.value if empty else "",
        "message": f"No voxel in the {' and the '.join(empty)}." if empty else "",
        "dice": found.dice,
        "hausdorff_95_mm": found.hausdorff_95,
        "reference_ml": volumes[0],
        "predicted_ml": volumes[1],
        "difference_ml": volumes[1] - volumes[0],
    }


def summarise(
    *,
    work: Path,
    outcomes: Iterable[Outcome],
    tables: Iterable[Path],
    settings: Settings,
    summary: Path,
    evaluation: Path,
) -> None:
    """Join the tables of `evaluate` and write what a person asks first.

    Args:
        work: folder of the training.
        outcomes: of `data.run`, of all shards.
        tables: of `evaluate`.
        settings: of the site and the protocol.
        summary: ``summary.json``: which cases were trained on, held out or could not be used, why,
            and the mean and standard deviation of each measure by label.
        evaluation: the joined table.
    """
    training = settings.protocol.training
    assert training
    table = pd.concat([read_frame(path) for path in tables], ignore_index=True)
    table = table.sort_values(["part", "case_id", "label"], ignore_index=True)
    write_parquet(evaluation, table)
    chosen = read_json(work / "split.json")
    unused = [o for o in outcomes if o.status is not Status.OK]
    write_json(
        summary,
        {
            "model": training.model,
            "cases": {
                "trained": sum(map(len, chosen["folds"])),
                "held_out": len(chosen["held_out"]),
                "not_used": len(unused),
            },
            "patients": len(set(chosen["patients"].values())),
            "not_used": [
                {"case_id": o.case_id, "reason": o.reason, "message": o.message}
                for o in sorted(unused, key=lambda o: o.case_id)
            ],
            "cross_validation": _statistics(table[table["part"] != HELD_OUT]),
            "held_out": _statistics(table[table["part"] == HELD_OUT]),
        },
    )


def _statistics(table: pd.DataFrame) -> dict[str, Any]:
    """Return n, failed cases, and the mean and SD (n - 1) of each measure, by label."""
    found: dict[str, Any] = {}
    for label, rows in table.groupby("label"):
        measures = {}
        for name in MEASURES:
            known = rows[name].dropna()
            measures[name] = {
                "n": len(known),
                "mean": _finite(known.mean()),
                "sd": _finite(known.std(ddof=1)),
            }
        failed = int((rows["status"] != Status.OK.value).sum())
        found[str(label)] = {"cases": len(rows), "failed": failed, **measures}
    return found


def _finite(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
