"""The page of a training: its cases, its curves and how well each model does on unseen cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from jipflow.curves import Curve, curve_plot
from jipflow.files import read_frame, read_json
from jipflow.outcomes import Status
from jipflow.palette import SEGMENT_COLOURS
from jipflow.plots import Strip, strip_plot
from jipflow.reasons import Reason
from jipflow.report.pages import write_page
from jipflow.settings.run import Settings

CURVES = (
    ("train_loss", "loss"),
    ("validation_loss", "validation loss"),
    ("pseudo_dice", "pseudo-Dice"),
)


def write_training_report(*, folder: Path, work: Path, settings: Settings) -> None:
    """Write ``index.html``.

    Args:
        folder: holds ``summary.json`` and ``evaluation.parquet``, and gets the page.
        work: holds ``progress_<fold>.json``.
        settings: of the site and the protocol.
    """
    table = read_frame(folder / "evaluation.parquet")
    summary = read_json(folder / "summary.json")
    training = settings.protocol.training
    assert training
    write_page(
        folder / "index.html",
        "training.html.j2",
        site=settings.site.site,
        about=settings.protocol.protocol,
        version=settings.version,
        training=training,
        summary=summary,
        unused=[(e["case_id"], Reason(e["reason"])) for e in summary["not_used"]],
        folds=[_fold(work, name) for name in training.fold_names()],
        labels=[_label(str(label), rows) for label, rows in table.groupby("label", sort=False)],
        rows=[{**row, "note": _note(row)} for row in table.to_dict("records")],
    )


def _note(row: Mapping[Any, Any]) -> str:
    """Say what is to be known of a case; messages of failures may hold paths and stay away."""
    return str(row["message"]) if row["status"] == Status.OK else Reason(row["reason"]).meaning


def _fold(work: Path, name: str) -> dict[str, Any]:
    progress = read_json(work / f"progress_{name}.json")
    curves = [
        Curve(label, colour, progress[key])
        for (key, label), colour in zip(CURVES, SEGMENT_COLOURS, strict=False)
    ]
    return {
        "name": name,
        "epochs": len(progress["train_loss"]),
        "seconds": sum(progress["seconds"]),
        "pseudo_dice": progress["pseudo_dice"][-1],
        "plot": curve_plot(f"Curves of fold {name}", curves),
    }


def _label(label: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Draw the Dice coefficients of a label, a strip for each part of the evaluation."""
    strips = [
        Strip(_part(str(part)), colour, list(zip(known["case_id"], known["dice"], strict=True)))
        for (part, known), colour in zip(
            rows.dropna(subset=["dice"]).groupby("part"), SEGMENT_COLOURS * 2, strict=False
        )
    ]
    plot = strip_plot(f"Dice coefficient of {label}", strips) if strips else None
    return {"name": label, "plot": plot}


def _part(part: str) -> str:
    return "held out" if part == "held_out" else f"fold {part}"
