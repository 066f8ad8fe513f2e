"""What the rules of the workflow call at a site: its stages, from catalog to bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jipflow.cli.command import RUN_A_SITE, Audience

if TYPE_CHECKING:
    from jipflow.outcomes import Outcome

HINT = (
    f"The workflow calls this with the settings that it writes, when a site is run:\n  {RUN_A_SITE}"
)
AUDIENCE = Audience("Called by the workflow at a site", HINT)

SettingsFile = Annotated[Path, "effective settings: settings.json, which a run writes"]
Cases = Annotated[Path, "the shard's cases: cohort/shards/<shard>.parquet"]
AllCases = Annotated[Path, "cohort/cases.tsv"]
Prepared = Annotated[Path, "outcomes of prepare"]
Segmented = Annotated[Sequence[Path], "outcomes of segment and annotate"]
Volumes = Annotated[Path, "folder of <case_id>/<role>.nrrd"]
Masks = Annotated[Path, "folder of <case_id>/<segmentation>/"]
Quality = Annotated[Path, "table of the quality of segments"]
Features = Annotated[Path, "features.parquet"]
Failures = Annotated[Path, "failures.parquet: why features are null"]
Results = Annotated[Path, "results folder of the protocol"]
Outcomes = Annotated[Path, "outcomes, which are written"]
ShardTables = Annotated[Sequence[Path], "tables of the shards of that name", {"nargs": "*"}]
Threads = Annotated[int, "cores"]


@AUDIENCE.command("catalog")
def catalog(
    *, settings: SettingsFile, out: Annotated[Path, "folder of the catalog"], threads: Threads = 1
) -> None:
    """Read the headers of all files of the site's folders."""
    from jipflow.catalog.scan import run
    from jipflow.settings.run import read_settings
    from jipflow.settings.site import Folder

    sources = read_settings(settings).site.sources
    folders = [source for source in sources if isinstance(source, Folder)]
    print(json.dumps(run(sources=folders, out_dir=out, threads=threads)))


@AUDIENCE.command("query")
def query(
    *,
    settings: SettingsFile,
    store: Annotated[Path, "folder that series are retrieved to"],
    out: Annotated[Path, "folder of the catalog"],
) -> None:
    """Ask the PACS for the series of the cohort."""
    from jipflow.pacs.query import run
    from jipflow.settings.run import read_settings

    run(settings=read_settings(settings), store=store.resolve(), out_dir=out)


@AUDIENCE.command("cohort")
def cohort(
    *,
    settings: SettingsFile,
    catalog: Annotated[Sequence[Path], "folders of catalogs"],
    out: Annotated[Path, "folder of the cohort"],
) -> None:
    """Select cases and deal them to shards."""
    from jipflow.catalog.cohort import run
    from jipflow.settings.run import read_settings

    run(settings=read_settings(settings), catalog_dirs=catalog, out_dir=out)


@AUDIENCE.command("retrieve")
def retrieve(*, settings: SettingsFile, cases: Cases, outcomes: Outcomes) -> None:
    """Fetch series from the PACS."""
    from jipflow.pacs.retrieve import run
    from jipflow.settings.run import read_settings

    finish(outcomes, run(shard_file=cases, settings=read_settings(settings)))


@AUDIENCE.command("prepare")
def prepare(
    *,
    cases: Cases,
    retrieved: Annotated[Sequence[Path], "outcomes of retrieve"] = (),
    volumes: Volumes,
    outcomes: Outcomes,
    threads: Threads = 1,
) -> None:
    """Turn series into volumes."""
    from jipflow.cases import read_cases
    from jipflow.images.prepare import run
    from jipflow.outcomes import failed

    made = run(
        cases=read_cases(cases),
        lost=failed(read_all(retrieved)),
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
    volumes: Volumes,
    masks: Masks,
    quality: Quality,
    outcomes: Outcomes,
    threads: Threads = 1,
) -> None:
    """Segment volumes."""
    from jipflow.cases import read_cases
    from jipflow.files import write_parquet
    from jipflow.outcomes import passed, read_outcomes
    from jipflow.segment.quality import quality_table
    from jipflow.segment.stage import run
    from jipflow.settings.run import read_settings

    made = run(
        cases=read_cases(cases),
        prepared=passed(read_outcomes(prepared)),
        settings=read_settings(settings),
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
    threads: Threads = 1,
) -> None:
    """Take over what readers sent back, and write the worklist."""
    from jipflow.annotate.stage import run
    from jipflow.annotate.worklist import write_worklist
    from jipflow.cases import read_cases
    from jipflow.files import write_parquet
    from jipflow.outcomes import passed, read_outcomes
    from jipflow.settings.run import read_settings

    shard, site = read_cases(cases), read_settings(settings)
    inbox = site.inbox(results)
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
    masks: Masks,
    results: Results,
    outcomes: Outcomes,
    threads: Threads = 1,
) -> None:
    """Write DICOM-SEG."""
    from jipflow.cases import read_cases
    from jipflow.objects.encode import run
    from jipflow.outcomes import passed
    from jipflow.settings.run import read_settings

    earlier = read_all(segmented)
    made = run(
        cases=read_cases(cases),
        segmented=passed(earlier),
        settings=read_settings(settings),
        masks=masks,
        results=results,
        threads=threads,
    )
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
    threads: Threads = 1,
) -> None:
    """Extract radiomic features."""
    from jipflow.cases import read_cases
    from jipflow.files import write_parquet
    from jipflow.outcomes import passed
    from jipflow.radiomics.measure import run
    from jipflow.settings.run import read_settings

    earlier = read_all(segmented)
    made = run(
        cases=read_cases(cases),
        segmented=passed(earlier),
        settings=read_settings(settings),
        volumes=volumes,
        masks=masks,
        threads=threads,
    )
    write_parquet(features, made.features)
    write_parquet(failures, made.failures)
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
    threads: Threads = 1,
) -> None:
    """Write DICOM-SR."""
    from jipflow.cases import read_cases
    from jipflow.objects.document import run
    from jipflow.outcomes import passed, read_outcomes
    from jipflow.settings.run import read_settings

    of_encode, of_measure = read_outcomes(encoded), read_outcomes(measured)
    made = run(
        cases=read_cases(cases),
        measured=passed(of_encode) & passed(of_measure),
        settings=read_settings(settings),
        features=features,
        failures=failures,
        results=results,
        threads=threads,
    )
    finish(outcomes, made, [*of_encode, *of_measure])


@AUDIENCE.command("publish")
def publish(
    *,
    settings: SettingsFile,
    made: Annotated[Sequence[Path], "outcomes of encode and document"],
    results: Results,
    receipts: Annotated[Path, "what the PACS acknowledged"],
    outcomes: Outcomes,
) -> None:
    """Send DICOM-SEG and DICOM-SR to the PACS."""
    from jipflow.pacs.publish import run
    from jipflow.settings.run import read_settings

    earlier = read_all(made)
    sent = run(made=earlier, settings=read_settings(settings), results=results, receipts=receipts)
    finish(outcomes, sent, earlier)


@AUDIENCE.command("overlay")
def overlay(
    *,
    settings: SettingsFile,
    cases: Cases,
    volumes: Volumes,
    masks: Masks,
    out: Annotated[Path, "folder of <case_id>/<segmentation>.png"],
    outcomes: Outcomes,
    threads: Threads = 1,
) -> None:
    """Draw segmentations over images."""
    from jipflow.cases import read_cases
    from jipflow.report.overlays import run
    from jipflow.settings.run import read_settings

    made = run(
        cases=read_cases(cases),
        settings=read_settings(settings),
        volumes=volumes,
        masks=masks,
        overlays=out,
        threads=threads,
    )
    finish(outcomes, made)


@AUDIENCE.command("collect")
def collect(
    *,
    settings: SettingsFile,
    results: Results,
    outcomes: Annotated[Sequence[Path], "outcomes of cohort and shards", {"nargs": "*"}],
    quality: ShardTables,
    features: ShardTables,
    failures: ShardTables,
    perturbed: ShardTables,
    readings: ShardTables = (),
    agreement: ShardTables = (),
) -> None:
    """Join the tables of all shards."""
    from jipflow.collect import Shards, run
    from jipflow.settings.run import read_settings

    verdict = run(
        shards=Shards(
            outcomes=outcomes,
            features=features,
            failures=failures,
            perturbed=perturbed,
            readings=readings,
            agreement=agreement,
            quality=quality,
        ),
        tolerance=read_settings(settings).protocol.tolerance,
        results=results,
    )
    print(json.dumps(verdict))


@AUDIENCE.command("accept")
def accept(*, verdict: Annotated[Path, "verdict.json"]) -> None:
    """Fail if too many cases failed or wait."""
    from jipflow.collect import accept as accept_run

    accept_run(verdict)


@AUDIENCE.command("report")
def report(*, settings: SettingsFile, results: Results, out: Annotated[Path, "the page"]) -> None:
    """Write the site's report."""
    from jipflow.report.site.page import write_report
    from jipflow.settings.run import read_settings

    write_report(results=results, settings=read_settings(settings), path=out)


@AUDIENCE.command("release build")
def release_build(
    *,
    settings: SettingsFile,
    features: Features,
    cases: AllCases,
    outcomes: Annotated[Path, "outcomes.parquet of the run"],
    verdict: Annotated[Path, "verdict.json"],
    out: Annotated[Path, "folder of the release"],
    bundles: Annotated[Path, "folder of what was packed before"],
) -> None:
    """Write a candidate release."""
    from jipflow.exchange.message import PAGE
    from jipflow.release.candidate import build
    from jipflow.release.contents import read_release, record_built
    from jipflow.release.sent import sent_before
    from jipflow.report.basis import basis
    from jipflow.report.disclosure import write_disclosure_page
    from jipflow.report.release import write_release_page
    from jipflow.settings.run import read_settings

    known = read_settings(settings)
    build(
        settings=known,
        features=features,
        cases=cases,
        outcomes=outcomes,
        verdict=verdict,
        out_dir=out,
    )
    release = read_release(out)
    header = release.aggregates
    write_disclosure_page(
        release=release,
        path=out / PAGE,
        basis=basis(settings=known, features=features, cases=cases, outcomes=outcomes),
        sent=sent_before(bundles, header.protocol.id, header.site, header.round),
    )
    record_built(out)
    write_release_page(out, bundles)


@AUDIENCE.command("release bundle")
def release_bundle(
    *,
    settings: SettingsFile,
    release: Annotated[Path, "folder of the release"],
    out: Annotated[Path, "folder for the bundle"],
) -> None:
    """Sign and pack an approved release."""
    from jipflow.release.approval import bundle
    from jipflow.report.release import write_release_page
    from jipflow.settings.run import read_settings

    print(bundle(settings=read_settings(settings), release_dir=release, out_dir=out))
    write_release_page(release, out)


def read_all(paths: Sequence[Path]) -> list[Outcome]:
    """Read the outcomes of several files."""
    from jipflow.outcomes import read_outcomes

    return [outcome for path in paths for outcome in read_outcomes(path)]


def finish(path: Path, outcomes: Sequence[Outcome], earlier: Sequence[Outcome] = ()) -> None:
    """Write a stage's outcomes and print a line for each.

    Args:
        path: the file.
        outcomes: of the stage.
        earlier: of the stages before it, for whose waiting items it waits, too.
    """
    from jipflow.outcomes import waiting_with, write_outcomes

    outcomes = waiting_with(outcomes, earlier)
    for outcome in outcomes:
        reason = f" {outcome.reason}: {outcome.message}" if outcome.reason else ""
        print(f"{outcome.case_id} {outcome.stage} {outcome.item}: {outcome.status.value}{reason}")
    write_outcomes(path, outcomes)
