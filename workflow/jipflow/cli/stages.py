"""What the rules of the workflow call at a site: its stages, from catalog to bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from jipflow.cli.audited import (
    check_erased,
    note_catalog,
    note_clinical,
    note_consent,
    note_publication,
    note_query,
    note_retrieval,
    note_secret,
)
from jipflow.cli.command import RUN_A_SITE, Audience
from jipflow.cli.making import (
    Record,
    files_of,
    finish,
    read_all,
    recorded,
    records,
    redacted_messages,
)
from jipflow.cli.redacted import redact

HINT = (
    f"The workflow calls this with the settings that it writes, when a site is run:\n  {RUN_A_SITE}"
)
AUDIENCE = Audience("Called by the workflow at a site", HINT)

SettingsFile = Annotated[Path, "effective settings: settings.json, which a run writes"]
Cases = Annotated[Path, "the shard's cases: cohort/shards/<shard>.parquet"]
AllCases = Annotated[Path, "cohort/cases.tsv"]
Retrieved = Annotated[Sequence[Path], "outcomes of retrieve"]
Prepared = Annotated[Path, "outcomes of prepare"]
Segmented = Annotated[Sequence[Path], "outcomes of segment and annotate"]
Volumes = Annotated[Path, "folder of <case_id>/<role>.nrrd and the headers beside it"]
Masks = Annotated[Path, "folder of <case_id>/<segmentation>/"]
Quality = Annotated[Path, "table of the quality of segments"]
Features = Annotated[Path, "features.parquet"]
Failures = Annotated[Path, "failures.parquet: why features are null"]
Results = Annotated[Path, "results folder of the protocol"]
Outcomes = Annotated[Path, "outcomes, which are written"]
Threads = Annotated[int, "cores"]


@AUDIENCE.command("catalog")
def catalog(
    *,
    settings: SettingsFile,
    out: Annotated[Path, "folder of the catalog"],
    record: Record,
    threads: Threads = 1,
) -> None:
    """Read the headers of all files of the site's folders."""
    from jipflow.catalog.scan import run
    from jipflow.privacy.erased import erased_state, read_erased
    from jipflow.settings.run import read_settings
    from jipflow.settings.site import Folder

    read = read_settings(settings)
    folders = [source for source in read.site.sources if isinstance(source, Folder)]
    tables = [out / f"{name}.parquet" for name in ("series", "instances", "lost")]
    identity, results = read.site.identity, out.absolute().parent
    state = erased_state(identity, results)
    with recorded(record, read, "catalog", outputs=tables, state=state) as others:
        erased = read_erased(identity, results)
        check_erased(read, results, erased)
        summary = run(sources=folders, out_dir=out, threads=threads, erased=erased)
        note_catalog(read, out, summary)
        others += [out / "summary.json"]
        # Not those that a change of times alone changes, which only save work (`catalog.scan`).
        others += [out / "skipped.parquet", out / "mended.parquet"]
        print(json.dumps(summary))


@AUDIENCE.command("query")
def query(
    *,
    settings: SettingsFile,
    store: Annotated[Path, "folder that series are retrieved to"],
    out: Annotated[Path, "folder of the catalog"],
    record: Record,
) -> None:
    """Ask the PACS for the series of the cohort."""
    from jipflow.pacs.query import run
    from jipflow.privacy.erased import erased_state, read_erased
    from jipflow.settings.run import read_settings

    read = read_settings(settings)
    tables = [out / "series.parquet", out / "instances.parquet"]
    identity, results = read.site.identity, out.absolute().parents[1]
    state = erased_state(identity, results)
    with recorded(record, read, "query", outputs=tables, state=state):
        erased = read_erased(identity, results)
        check_erased(read, results, erased)
        run(settings=read, store=store.resolve(), out_dir=out, erased=erased)
        note_query(read, out)


@AUDIENCE.command("cohort")
def cohort(
    *,
    settings: SettingsFile,
    catalog: Annotated[Sequence[Path], "folders of catalogs"],
    out: Annotated[Path, "folder of the cohort"],
    results: Annotated[Path, "folder for the results of all protocols"],
    record: Record,
) -> None:
    """Select cases and deal them to shards."""
    from jipflow.catalog.cohort import run
    from jipflow.catalog.consented import check_unchanged, cohort_state
    from jipflow.privacy.pseudonyms import FINGERPRINT
    from jipflow.provenance import NAME
    from jipflow.settings.run import read_settings

    read = read_settings(settings)
    made = [folder / NAME for folder in catalog]
    tables = [out / "cases.tsv", out / "outcomes.parquet", results / FINGERPRINT]
    state = cohort_state(read)
    with recorded(record, read, "cohort", inputs=made, outputs=tables, state=state) as others:
        run(settings=read, catalog_dirs=catalog, out_dir=out, results=results, redact=redact)
        note_secret(read, results)
        note_consent(read, out)
        others += [out / "flow.json", out / "assignment.tsv", *(out / "shards").glob("*.parquet")]
        check_unchanged(read, state)


@AUDIENCE.command("clinical")
def clinical(
    *,
    settings: SettingsFile,
    cases: AllCases,
    catalog: Annotated[Sequence[Path], "folders of catalogs"],
    out: Annotated[Path, "folder of the clinical variables"],
    record: Record,
) -> None:
    """Read the clinical variables of the cases."""
    from jipflow.clinical.stage import input_files, run
    from jipflow.provenance import NAME, beside
    from jipflow.settings.run import read_settings

    read = read_settings(settings)
    made = [beside(cases), *(folder / NAME for folder in catalog), *input_files(read)]
    tables = [out / "clinical.parquet", out / "missing.parquet"]
    with recorded(record, read, "clinical", inputs=made, outputs=tables):
        missing = run(settings=read, cases=cases, catalog_dirs=catalog, out_dir=out)
        note_clinical(read, out, missing)
        print(json.dumps(missing))


@AUDIENCE.command("retrieve")
def retrieve(*, settings: SettingsFile, cases: Cases, outcomes: Outcomes, record: Record) -> None:
    """Fetch series from the PACS."""
    from jipflow.pacs.retrieve import run
    from jipflow.settings.run import read_settings

    read = read_settings(settings)
    with recorded(record, read, "retrieve", inputs=[cases], outputs=[outcomes]):
        made = run(shard_file=cases, settings=read)
        note_retrieval(read, cases, made)
        finish(outcomes, made)


@AUDIENCE.command("prepare")
def prepare(
    *,
    settings: SettingsFile,
    cases: Cases,
    retrieved: Retrieved = (),
    volumes: Volumes,
    outcomes: Outcomes,
    record: Record,
    threads: Threads = 1,
) -> None:
    """Turn series into volumes."""
    from jipflow.cases import read_cases
    from jipflow.catalog.unchanged import check_unchanged
    from jipflow.images.prepare import run
    from jipflow.images.suv.bodies import SuvType
    from jipflow.outcomes import failed
    from jipflow.settings.run import read_settings

    read, made_of = read_settings(settings), [cases, *records(retrieved)]
    with recorded(record, read, "prepare", inputs=made_of, outputs=[outcomes], passing=[volumes]):
        check_unchanged(cases, threads)
        made = run(
            cases=read_cases(cases, read.wanted),
            lost=failed(read_all(retrieved)),
            suv={role: SuvType(spec.suv_type) for role, spec in read.protocol.roles.items()},
            volumes=volumes,
            threads=threads,
        )
        finish(outcomes, made)


@AUDIENCE.command("segment")
def segment(
    *,
    settings: SettingsFile,
    cases: Cases,
    prepared: Prepared,
    retrieved: Retrieved = (),
    volumes: Volumes,
    masks: Masks,
    quality: Quality,
    outcomes: Outcomes,
    record: Record,
    threads: Threads = 1,
) -> None:
    """Segment volumes."""
    from jipflow.cases import read_cases
    from jipflow.files import write_parquet
    from jipflow.images.kept import with_headers
    from jipflow.outcomes import failed, passed, read_outcomes
    from jipflow.segment.quality import quality_table
    from jipflow.segment.stage import run
    from jipflow.settings.run import read_settings

    read, made_of = read_settings(settings), [cases, *records([prepared, *retrieved])]
    with recorded(
        record, read, "segment", inputs=made_of, outputs=[quality, outcomes], passing=[masks]
    ):
        made = run(
            cases=with_headers(read_cases(cases, read.wanted), volumes),
            prepared=passed(read_outcomes(prepared)),
            lost=failed(read_all(retrieved)),
            settings=read,
            volumes=volumes,
            masks=masks,
            threads=threads,
        )
        write_parquet(quality, quality_table(made.quality))
        finish(outcomes, made.outcomes)


@AUDIENCE.command("annotate")
def annotate(
    *,
    settings: SettingsFile,
    cases: Cases,
    prepared: Prepared,
    segmented: Annotated[Path, "outcomes of segment"],
    volumes: Volumes,
    automatic: Annotated[Path, "masks of segment"],
    results: Results,
    masks: Masks,
    readings: Annotated[Path, "table of what readers sent back"],
    agreement: Annotated[Path, "table of how far readings agree"],
    quality: Quality,
    outcomes: Outcomes,
    record: Record,
    threads: Threads = 1,
) -> None:
    """Take over what readers sent back, and write the worklist."""
    from jipflow.annotate.inbox import check_inbox, inbox_state, open_inbox
    from jipflow.annotate.stage import run
    from jipflow.annotate.worklist import write_worklist
    from jipflow.cases import read_cases
    from jipflow.catalog.unchanged import check_unchanged
    from jipflow.files import write_parquet
    from jipflow.images.kept import with_headers
    from jipflow.outcomes import passed, read_outcomes
    from jipflow.settings.protocol import annotated
    from jipflow.settings.run import read_settings

    site = read_settings(settings)
    shard = with_headers(read_cases(cases, site.wanted), volumes)
    inbox = site.inbox(results)
    open_inbox(inbox, results)
    persons = [spec.id for spec in annotated(site.protocol.segmentations)]
    with recorded(
        record,
        site,
        "annotate",
        inputs=[cases, *records([prepared, segmented])],
        outputs=[readings, agreement, quality, outcomes],
        passing=[masks],
        state=inbox_state(inbox, persons, sorted(case.case_id for case in shard)),
    ):
        # Volumes wait for readers for weeks, and the worklist has copies of the images.
        check_unchanged(cases, threads)
        made = run(
            cases=shard,
            prepared=passed(read_outcomes(prepared)),
            segmented=read_outcomes(segmented),
            settings=site,
            volumes=volumes,
            automatic=automatic,
            inbox=inbox,
            masks=masks,
            threads=threads,
        )
        # It may have gone while it was looked into.
        check_inbox(inbox, results)
        write_worklist(
            cases=shard,
            outcomes=made.outcomes,
            settings=site,
            automatic=automatic,
            inbox=inbox,
            results=results,
            threads=threads,
        )
        write_parquet(readings, made.readings)
        write_parquet(agreement, made.agreement)
        write_parquet(quality, made.quality)
        finish(outcomes, made.outcomes)


@AUDIENCE.command("encode")
def encode(
    *,
    settings: SettingsFile,
    cases: Cases,
    segmented: Segmented,
    volumes: Volumes,
    masks: Masks,
    results: Results,
    outcomes: Outcomes,
    record: Record,
    threads: Threads = 1,
) -> None:
    """Write DICOM-SEG."""
    from jipflow.cases import read_cases
    from jipflow.images.kept import with_headers
    from jipflow.objects.encode import run
    from jipflow.outcomes import passed
    from jipflow.settings.run import read_settings

    read, made_of = read_settings(settings), [cases, *records(segmented)]
    with recorded(record, read, "encode", inputs=made_of, outputs=[outcomes]) as others:
        earlier = read_all(segmented)
        made = run(
            cases=with_headers(read_cases(cases, read.wanted), volumes),
            segmented=passed(earlier),
            settings=read,
            masks=masks,
            results=results,
            threads=threads,
        )
        others += files_of(made, results)
        finish(outcomes, made, earlier)


@AUDIENCE.command("measure")
def measure(
    *,
    settings: SettingsFile,
    cases: Cases,
    segmented: Segmented,
    volumes: Volumes,
    masks: Masks,
    features: Features,
    failures: Failures,
    perturbed: Annotated[Path, "features of changed outlines"],
    outcomes: Outcomes,
    record: Record,
    threads: Threads = 1,
) -> None:
    """Extract radiomic features."""
    from jipflow.cases import read_cases
    from jipflow.files import write_parquet
    from jipflow.outcomes import passed
    from jipflow.radiomics.measure import run
    from jipflow.settings.run import read_settings

    read, made_of = read_settings(settings), [cases, *records(segmented)]
    tables = [features, failures, perturbed, outcomes]
    with recorded(record, read, "measure", inputs=made_of, outputs=tables):
        earlier = read_all(segmented)
        made = run(
            cases=read_cases(cases, read.wanted),
            segmented=passed(earlier),
            settings=read,
            volumes=volumes,
            masks=masks,
            threads=threads,
        )
        write_parquet(features, made.features)
        write_parquet(failures, redacted_messages(made.failures))
        write_parquet(perturbed, made.perturbed)
        finish(outcomes, made.outcomes, earlier)


@AUDIENCE.command("document")
def document(
    *,
    settings: SettingsFile,
    cases: Cases,
    encoded: Annotated[Path, "outcomes of encode"],
    measured: Annotated[Path, "outcomes of measure"],
    features: Features,
    failures: Failures,
    results: Results,
    outcomes: Outcomes,
    record: Record,
    threads: Threads = 1,
) -> None:
    """Write DICOM-SR."""
    from jipflow.cases import read_cases
    from jipflow.objects.document import run
    from jipflow.outcomes import passed, read_outcomes
    from jipflow.settings.run import read_settings

    read, made_of = read_settings(settings), [cases, *records([encoded, measured])]
    with recorded(record, read, "document", inputs=made_of, outputs=[outcomes]) as others:
        of_encode, of_measure = read_outcomes(encoded), read_outcomes(measured)
        made = run(
            cases=read_cases(cases, read.wanted),
            measured=passed(of_encode) & passed(of_measure),
            settings=read,
            features=features,
            failures=failures,
            results=results,
            threads=threads,
        )
        others += files_of(made, results)
        finish(outcomes, made, [*of_encode, *of_measure])


@AUDIENCE.command("publish")
def publish(
    *,
    settings: SettingsFile,
    made: Annotated[Sequence[Path], "outcomes of encode and document"],
    results: Results,
    receipts: Annotated[Path, "what the PACS acknowledged"],
    outcomes: Outcomes,
    record: Record,
) -> None:
    """Send DICOM-SEG and DICOM-SR to the PACS."""
    from jipflow.pacs.publish import run
    from jipflow.settings.run import read_settings

    read = read_settings(settings)
    with recorded(record, read, "publish", inputs=records(made), outputs=[outcomes]):
        earlier = read_all(made)
        sent = run(made=earlier, settings=read, results=results, receipts=receipts)
        note_publication(read, results, receipts, sent)
        finish(outcomes, sent, earlier)


@AUDIENCE.command("overlay")
def overlay(
    *,
    settings: SettingsFile,
    cases: Cases,
    segmented: Segmented,
    volumes: Volumes,
    masks: Masks,
    out: Annotated[Path, "folder of <case_id>/<segmentation>.png"],
    outcomes: Outcomes,
    record: Record,
    threads: Threads = 1,
) -> None:
    """Draw segmentations over images."""
    from jipflow.cases import read_cases
    from jipflow.report.overlays import run
    from jipflow.settings.run import read_settings

    read, made_of = read_settings(settings), [cases, *records(segmented)]
    with recorded(record, read, "overlay", inputs=made_of, outputs=[outcomes]) as others:
        made = run(
            cases=read_cases(cases, read.wanted),
            settings=read,
            volumes=volumes,
            masks=masks,
            overlays=out,
            threads=threads,
        )
        others += files_of(made, out.parent)
        finish(outcomes, made)
