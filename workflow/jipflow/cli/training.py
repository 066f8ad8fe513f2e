"""What the rules of the workflow call to train a model on a site's cohort."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from jipflow.cli.command import Audience
from jipflow.cli.making import MadeOf, Record, check_made, finish, read_all, recorded, records
from jipflow.cli.stages import (
    HINT,
    AllCases,
    Cases,
    Masks,
    Outcomes,
    Prepared,
    Segmented,
    SettingsFile,
    Threads,
    Volumes,
)

AUDIENCE = Audience("Called by the workflow to train a model", HINT)

Work = Annotated[Path, "folder of the training: work/train"]
OutcomesOfAll = Annotated[Sequence[Path], "outcomes of the shards"]


@AUDIENCE.command("train data")
def train_data(
    *,
    settings: SettingsFile,
    cases: Cases,
    prepared: Prepared,
    segmented: Segmented,
    volumes: Volumes,
    masks: Masks,
    out: Annotated[Path, "folder for images and label maps"],
    outcomes: Outcomes,
    record: Record,
    threads: Threads = 1,
) -> None:
    """Write the images and label maps of a shard."""
    from jipflow.cases import read_cases
    from jipflow.outcomes import passed, read_outcomes
    from jipflow.settings.run import read_settings
    from jipflow.training.data import run

    read, made_of = read_settings(settings), [cases, *records([prepared, *segmented])]
    with recorded(record, read, "train_data", inputs=made_of, outputs=[outcomes]):
        earlier = read_all(segmented)
        made = run(
            cases=read_cases(cases, read.wanted),
            prepared=passed(read_outcomes(prepared)),
            segmented=passed(earlier),
            settings=read,
            volumes=volumes,
            masks=masks,
            out=out,
            threads=threads,
        )
        finish(outcomes, made, earlier)


@AUDIENCE.command("train plan")
def train_plan(
    *,
    settings: SettingsFile,
    work: Work,
    cases: AllCases,
    outcomes: OutcomesOfAll,
    record: Record,
    threads: Threads = 1,
) -> None:
    """Split, plan and preprocess."""
    from jipflow.settings.run import read_settings
    from jipflow.training.plan import plan

    read, made_of = read_settings(settings), records([cases, *outcomes])
    with recorded(record, read, "train_plan", inputs=made_of, outputs=[work / "split.json"]):
        plan(
            work=work,
            cases=cases,
            outcomes=read_all(outcomes),
            settings=read,
            threads=threads,
        )


@AUDIENCE.command("train fit")
def train_fit(
    *,
    settings: SettingsFile,
    work: Work,
    fold: Annotated[str, "its number, or all"],
    made_of: MadeOf,
    record: Record,
    threads: Threads = 1,
) -> None:
    """Train the model of a fold, or go on training."""
    from jipflow.settings.run import read_settings
    from jipflow.training.fit import fit

    read = read_settings(settings)
    assert read.protocol.training
    progress = work / f"progress_{fold}.json"
    with recorded(record, read, "train_fit", inputs=made_of, outputs=[progress]):
        fit(
            work=work,
            fold=fold,
            training=read.protocol.training,
            device=read.site.processing.device,
            threads=threads,
        )


@AUDIENCE.command("train evaluate")
def train_evaluate(
    *,
    settings: SettingsFile,
    work: Work,
    part: Annotated[str, "number of a fold, or held_out"],
    out: Annotated[Path, "table of the evaluation"],
    made_of: MadeOf,
    record: Record,
    threads: Threads = 1,
) -> None:
    """Predict cases that were not seen."""
    from jipflow.settings.run import read_settings
    from jipflow.training.evaluate import evaluate

    read = read_settings(settings)
    device = read.site.processing.device
    with recorded(record, read, "train_evaluate", inputs=made_of, outputs=[out]):
        evaluate(work=work, part=part, settings=read, device=device, threads=threads, out=out)


@AUDIENCE.command("train report")
def train_report(
    *,
    settings: SettingsFile,
    work: Work,
    outcomes: OutcomesOfAll,
    evaluations: Annotated[Sequence[Path], "tables of the evaluations"],
    out: Annotated[Path, "folder of the report"],
    made_of: MadeOf,
    record: Record,
) -> None:
    """Join the evaluations and draw the curves."""
    from jipflow.report.training import write_training_report
    from jipflow.settings.run import read_settings
    from jipflow.training.evaluate import summarise

    read = read_settings(settings)
    summary = out / "summary.json"
    with recorded(record, read, "train_report", inputs=made_of, outputs=[summary]):
        summarise(
            work=work,
            outcomes=read_all(outcomes),
            tables=evaluations,
            settings=read,
            summary=summary,
            evaluation=out / "evaluation.parquet",
        )
        write_training_report(folder=out, work=work, settings=read)


@AUDIENCE.command("train register")
def train_register(
    *,
    settings: SettingsFile,
    work: Work,
    summary: Annotated[Path, "summary.json of the report"],
    model: Annotated[Path, "folder for the model"],
    registry: Annotated[Path, "models.yaml"],
    made_of: MadeOf,
    record: Record,
) -> None:
    """Copy the model and pin its files."""
    from jipflow.settings.run import read_settings
    from jipflow.training.export import export

    read = read_settings(settings)
    check_made(read, dict.fromkeys(made_of, ()))
    with recorded(record, read, "train_register", inputs=made_of, outputs=[]):
        export(
            work=work,
            settings=read,
            summary=summary,
            folder=model,
            registry=registry,
        )


@AUDIENCE.command("train crate")
def train_crate(
    *,
    settings: SettingsFile,
    made_of: MadeOf,
    results: Annotated[Path, "results folder of all protocols"],
    registry: Annotated[Path, "models.yaml"],
    out: Annotated[Path, "the crate, a zip"],
    record: Record,
) -> None:
    """Describe a training as a Research Object Crate."""
    from jipflow.crates.site import training_crate
    from jipflow.files import atomic_path
    from jipflow.settings.run import read_settings

    read = read_settings(settings)
    check_made(read, dict.fromkeys(made_of, ()))
    with (
        recorded(record, read, "train_crate", inputs=made_of, outputs=[out]),
        atomic_path(out) as partial,
    ):
        partial.write_bytes(training_crate(read, results, made_of, registry))
