"""What the rules of the workflow call at a site when its shards are done: collect to bundle."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from jipflow.cli.audited import note_ledger, note_roster
from jipflow.cli.making import MadeOf, Record, check_made, recorded, records
from jipflow.cli.stages import AUDIENCE, AllCases, Failures, Features, Results, SettingsFile

MissingTable = Annotated[
    Sequence[Path],
    "clinical/missing.parquet, where the protocol has clinical variables",
    {"nargs": "*"},
]
BehindFolder = Annotated[Path, "folder of what stands behind the release"]
ClinicalTable = Annotated[
    Sequence[Path],
    "clinical/clinical.parquet, where the protocol has clinical variables",
    {"nargs": "*"},
]


@AUDIENCE.command("apart")
def apart(
    *,
    shard: Annotated[Path, "instances of the shard: cohort/shards/<shard>.parquet"],
    case: Annotated[Sequence[str], "case_ids of its cases that are taken"],
    out: Annotated[Path, "instances of these, which are written"],
) -> None:
    """Set the instances of some cases of a shard apart."""
    from jipflow.cli.attempts import RUN
    from jipflow.files import write_parquet
    from jipflow.lock import at_work
    from jipflow.subset import instances_of

    with at_work(out, os.environ.get(RUN)):
        write_parquet(out, instances_of(shard, case))


@AUDIENCE.command("collect")
def collect(
    *,
    settings: SettingsFile,
    results: Results,
    only: Annotated[Sequence[str], "case_ids and shards of a first try; all by default"] = (),
    record: Record,
) -> None:
    """Join the tables of all shards."""
    from jipflow.collect import Shards, run, written
    from jipflow.provenance import beside
    from jipflow.settings.run import read_settings
    from jipflow.subset import FOLDER, jobs_of, subset_of

    subset = subset_of(only) if only else None
    out = results / FOLDER if subset else results
    read = read_settings(settings)
    shards = Shards.of(results, read.stages, jobs_of(results, subset).cases)
    tables: dict[Path, list[Path]] = {}
    for table in shards.tables:
        tables.setdefault(beside(table), []).append(table)
    check_made(read, tables)
    made = written(shards, out)
    state = subset.state if subset else ""
    tolerance = read.protocol.tolerance
    with recorded(record, read, "collect", inputs=tables, outputs=made, state=state):
        found = run(shards=shards, tolerance=tolerance, results=results, out=out, subset=subset)
        print(json.dumps(found))


@AUDIENCE.command("accept")
def accept(
    *, settings: SettingsFile, verdict: Annotated[Path, "verdict.json"], record: Record
) -> None:
    """Fail if too many cases failed or wait."""
    from jipflow.collect import accept as accept_run
    from jipflow.settings.run import read_settings

    read = read_settings(settings)
    with recorded(record, read, "accept", inputs=[verdict], outputs=[]):
        accept_run(verdict)


@AUDIENCE.command("report")
def report(
    *,
    settings: SettingsFile,
    results: Results,
    features: Features,
    cases: AllCases,
    out: Annotated[Path, "the page"],
    record: Record,
    clinical: ClinicalTable = (),
) -> None:
    """Write the site's report."""
    from jipflow.report.site.page import write_report
    from jipflow.settings.run import read_settings

    read = read_settings(settings)
    tables = [features, cases, *clinical]
    with recorded(record, read, "report", inputs=records(tables), outputs=[out]):
        write_report(results=results, settings=read, path=out, joined=features.parents[1])


@AUDIENCE.command("crate")
def crate(
    *,
    settings: SettingsFile,
    made_of: MadeOf,
    results: Annotated[Path, "results folder of all protocols"],
    out: Annotated[Path, "the crate, a zip"],
    record: Record,
) -> None:
    """Describe a run as a Research Object Crate."""
    from jipflow.crates.site import run_crate
    from jipflow.files import atomic_path
    from jipflow.settings.run import read_settings

    read = read_settings(settings)
    check_made(read, {path: [] for path in made_of})
    with (
        recorded(record, read, "crate", inputs=made_of, outputs=[out]),
        atomic_path(out) as partial,
    ):
        partial.write_bytes(run_crate(read, results, made_of))


@AUDIENCE.command("receive")
def receive(
    *,
    settings: SettingsFile,
    results: Results,
    standing: Annotated[Path, "standing.json: where the site stands in its thread with the hub"],
    record: Record,
) -> None:
    """Take the hub's messages from the inbox."""
    from jipflow.files import write_json
    from jipflow.release.rounds import heard_state, receive_for
    from jipflow.settings.run import read_settings

    read = read_settings(settings)
    found = receive_for(read, results)
    for entry in found.refused:
        print(f"refused {entry.file}: {entry.reason}: {entry.detail}")
    note_ledger(read, results.parent)
    note_roster(read, results, found)
    write_json(standing, found.plain())
    state = heard_state(read, results)
    with recorded(record, read, "receive", outputs=[standing], state=state) as others:
        others += results.glob("rounds/r*/state.json")


@AUDIENCE.command("release build")
def release_build(
    *,
    settings: SettingsFile,
    features: Features,
    failures: Failures,
    cases: AllCases,
    outcomes: Annotated[Path, "outcomes.parquet of the run"],
    verdict: Annotated[Path, "verdict.json"],
    state: Annotated[Path, "state.json: what the hub asks for in the round"],
    out: Annotated[Path, "folder of the release"],
    bundles: Annotated[Path, "folder of what was packed before"],
    behind: BehindFolder,
    results: Results,
    record: Record,
    clinical: ClinicalTable = (),
    missing: MissingTable = (),
) -> None:
    """Write a candidate release."""
    from jipflow.exchange.message import CONTENT, PAGE
    from jipflow.privacy.pseudonyms import known_secret
    from jipflow.provenance import beside
    from jipflow.release.behind import read_behind
    from jipflow.release.candidate import build
    from jipflow.release.contents import BUILT, REVIEW, TERMS, read_release, record_built
    from jipflow.release.ledger import site_ledger
    from jipflow.release.revocation import revoked_in
    from jipflow.release.rounds import read_state
    from jipflow.release.sent import sent_before
    from jipflow.release.since import read_review
    from jipflow.release.staying import STAYING
    from jipflow.release.terms import Terms
    from jipflow.report.basis import basis
    from jipflow.report.disclosure import write_disclosure_page
    from jipflow.report.release import write_release_page
    from jipflow.settings.run import read_settings

    read = read_settings(settings)
    tables = {beside(features): [features, failures, outcomes, verdict], beside(cases): [cases]}
    for table in (*clinical, *missing):
        tables.setdefault(beside(table), []).append(table)
    check_made(read, tables)
    files = [out / name for name in CONTENT]
    asked = read_state(state)
    with recorded(record, read, "candidate", inputs=[*tables, state], outputs=files) as others:
        staying = results / STAYING / f"r{asked.round:02d}"
        entries = build(
            settings=read,
            features=features,
            cases=cases,
            outcomes=outcomes,
            verdict=verdict,
            ledger=site_ledger(read, results.parent),
            behind_dir=behind,
            out_dir=out,
            failures=failures,
            clinical=next(iter(clinical), None),
            missing=next(iter(missing), None),
            staying_dir=staying,
            round_=asked.round,
            state=asked,
        )
        files += sorted(staying.glob("*.parquet"))
        release = read_release(out)
        header = release.aggregates
        write_disclosure_page(
            release=release,
            terms=Terms.of(read),
            review=read_review(out, built=False),
            path=out / PAGE,
            basis=basis(
                settings=read,
                features=features,
                cases=cases,
                outcomes=outcomes,
                clinical=next(iter(clinical), None),
            ),
            secret=known_secret(Path(read.site.identity.secret_file)),
            sent=sent_before(bundles, header.protocol.id, header.site, header.round),
        )
        record_built(out, read_behind(behind), entries)
        others += [out / name for name in (PAGE, TERMS, REVIEW, BUILT)]
        write_release_page(out, bundles, revoked=revoked_in(Path(read.site.identity.audit_file)))


@AUDIENCE.command("release bundle")
def release_bundle(
    *,
    settings: SettingsFile,
    standing: Annotated[Path, "standing.json: where the site stands in its thread with the hub"],
    made: Annotated[Path, "what the release was computed with: release/r<NN>.provenance.json"],
    results: Results,
    record: Record,
) -> None:
    """Pack an approved release, and seal it to the hub."""
    from jipflow.crates.released import release_crate
    from jipflow.exchange.message import CONTENT
    from jipflow.files import atomic_path
    from jipflow.release.ledger import site_ledger
    from jipflow.release.packing import Folders, bundle, packed_state
    from jipflow.release.revocation import revoked_in
    from jipflow.release.rounds import read_standing
    from jipflow.report.release import write_release_page
    from jipflow.settings.run import read_settings

    read = read_settings(settings)
    now = read_standing(standing)
    folders = Folders.of(read, results, now.round)
    check_made(read, {made: [folders.release / name for name in CONTENT]})
    ledger = site_ledger(read, results.parent)
    path = bundle(settings=read, standing=now, ledger=ledger, folders=folders)
    print(path)
    crate = results / "crate" / path.name
    with atomic_path(crate) as partial:
        partial.write_bytes(release_crate(path.read_bytes()))
    state = packed_state(read, results)
    with recorded(record, read, "bundle", inputs=[made], outputs=[path, crate], state=state):
        revoked = revoked_in(Path(read.site.identity.audit_file))
        write_release_page(folders.release, folders.bundles, revoked=revoked)
