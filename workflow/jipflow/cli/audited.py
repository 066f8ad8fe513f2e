"""What commands of the workflow note in the site's audit trail: one function a command.

Each is called when the work is done and before its record is written, so that a job that is killed
in between runs again and notes it then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jipflow.erasure.account import Erasure
    from jipflow.outcomes import Outcome
    from jipflow.privacy.audit.events import Event
    from jipflow.privacy.erased import Erased
    from jipflow.release.rounds import Standing
    from jipflow.settings.run import Settings
    from jipflow.settings.site import Site


def note_catalog(settings: Settings, out: Path, summary: Mapping[str, Any]) -> None:
    """Note that the site's folders were read.

    Args:
        settings: of the run.
        out: folder of the catalog, in that for the results of all protocols.
        summary: what `jipflow.catalog.scan.run` returns.
    """
    from jipflow.files import sha256_file
    from jipflow.privacy.audit.events import Event

    counts = ("files", "dicom_files")
    facts = {
        "sources": {
            name: {key: source[key] for key in counts}
            for name, source in summary["sources"].items()
        },
        "series": summary["series"],
        "sha256": sha256_file(out / "series.parquet"),
    }
    if facts["sources"]:
        _note(settings, out.absolute().parent, Event.SOURCES_CATALOGUED, facts)


def note_query(settings: Settings, out: Path) -> None:
    """Note that the site's PACS were asked.

    Args:
        settings: of the run.
        out: folder of the catalog of a protocol.
    """
    from pyarrow.parquet import read_metadata

    from jipflow.files import sha256_file
    from jipflow.privacy.audit.events import Event

    facts = {
        "protocol": settings.protocol_id,
        "sources": sorted(source.name for source in settings.site.archives),
        "series": read_metadata(out / "series.parquet").num_rows,
        "instances": read_metadata(out / "instances.parquet").num_rows,
        "sha256": sha256_file(out / "series.parquet"),
    }
    _note(settings, out.absolute().parents[1], Event.ARCHIVES_QUERIED, facts)


def note_secret(settings: Settings, results: Path) -> None:
    """Note which secret makes the pseudonyms.

    Args:
        settings: of the run.
        results: folder for the results of all protocols.
    """
    from jipflow.privacy.audit.events import Event
    from jipflow.privacy.pseudonyms import fingerprint, known_secret

    secret = known_secret(Path(settings.site.identity.secret_file))
    _note(settings, results, Event.SECRET_IN_USE, {"fingerprint": fingerprint(secret)})


def note_consent(settings: Settings, out: Path) -> None:
    """Note that the list of consents was read, where the protocol asks for it.

    Args:
        settings: of the run.
        out: folder of the cohort of a protocol.
    """
    from jipflow.files import read_json, sha256_file
    from jipflow.privacy.audit.events import Event
    from jipflow.privacy.consent import read_consents

    rule, site = settings.protocol.cohort.consent, settings.site.consent
    if rule is None or site is None:
        return
    found, consented = read_json(out / "flow.json")["steps"][:2]
    facts = {
        "protocol": settings.protocol_id,
        "sha256": sha256_file(Path(site.file)),
        "patients": len(read_consents(Path(site.file), rule.scope)),
        "left_out": found["patients"] - consented["patients"],
    }
    _note(settings, out.absolute().parents[1], Event.CONSENT_READ, facts)


def note_clinical(settings: Settings, out: Path, missing: Mapping[str, int]) -> None:
    """Note that clinical data were read.

    Args:
        settings: of the run.
        out: folder of a protocol's clinical variables.
        missing: what `jipflow.clinical.stage.run` returns.
    """
    from jipflow.clinical.stage import input_files
    from jipflow.files import sha256_file
    from jipflow.privacy.audit.events import Event

    assert settings.site.clinical is not None
    names = [variable.name for variable in settings.protocol.clinical_variables]
    facts = {
        "protocol": settings.protocol_id,
        "kind": settings.site.clinical.kind,
        "cases": missing["cases"],
        "variables": len(names),
        "values": sum(missing["cases"] - missing[name] for name in names),
        "files": [sha256_file(path) for path in input_files(settings)],
    }
    _note(settings, out.absolute().parents[1], Event.CLINICAL_READ, facts)


def note_retrieval(settings: Settings, cases: Path, outcomes: Sequence[Outcome]) -> None:
    """Note that series of a shard were retrieved, where any of it lie in a PACS.

    Args:
        settings: of the run.
        cases: the instances of a shard or of a part of one, named after it.
        outcomes: of the stage.
    """

    from jipflow.files import read_frame, sha256_file
    from jipflow.outcomes import Status
    from jipflow.privacy.audit.events import Event
    from jipflow.subset import whole_of

    table = read_frame(cases, ["source", "series_uid"])
    table = table[table["source"].isin([source.name for source in settings.site.archives])]
    facts = {
        "protocol": settings.protocol_id,
        "shard": whole_of(cases.stem),
        "sources": sorted(set(table["source"])),
        "series": int(table["series_uid"].nunique()),
        "failed": sum(outcome.status is not Status.OK for outcome in outcomes),
        "sha256": sha256_file(cases),
    }
    if len(table):
        _note(settings, cases.absolute().parents[3], Event.SERIES_RETRIEVED, facts)


def note_publication(
    settings: Settings, results: Path, receipts: Path, outcomes: Sequence[Outcome]
) -> None:
    """Note that DICOM objects of a shard were sent to a PACS.

    Args:
        settings: of the run.
        results: of the protocol.
        receipts: what the PACS acknowledged, a line an object.
        outcomes: of the stage.
    """
    from jipflow.files import sha256_file
    from jipflow.outcomes import Status
    from jipflow.privacy.audit.events import Event
    from jipflow.subset import whole_of

    assert settings.site.publish is not None
    facts = {
        "protocol": settings.protocol_id,
        "shard": whole_of(receipts.stem),
        "to": settings.site.publish.to,
        "objects": len(receipts.read_bytes().splitlines()),
        "failed": sum(o.status is Status.FAILED and not o.follows for o in outcomes),
        "sha256": sha256_file(receipts),
    }
    _note(settings, results.absolute().parent, Event.OBJECTS_PUBLISHED, facts)


def note_roster(settings: Settings, results: Path, standing: Standing) -> None:
    """Note which roster of the hub is in force, once there is one.

    Args:
        settings: of the run.
        results: of the protocol.
        standing: what was received.
    """
    from jipflow.privacy.audit.events import Event

    roster = standing.roster
    if roster is None:
        return
    facts = {
        "protocol": settings.protocol_id,
        "hub": standing.hub,
        "number": roster.number,
        "sites": len(roster.members),
        "sha256": roster.sha256,
    }
    _note(settings, results.absolute().parent, Event.ROSTER_IN_FORCE, facts)


def note_export(
    results: Path,
    form: str,
    listed: Sequence[Path],
    *,
    files: int,
    items: int,
    patients: int | None = None,
) -> None:
    """Note that data of a protocol were written for another system of the site.

    Args:
        results: of the protocol; the effective settings lie there.
        form: what was written, such as ``omop``.
        listed: the files that were written, or the report that names them, each with another name.
        files: how many were written.
        items: rows of tables, or images.
        patients: of whom there are any; None where that is not counted.
    """
    from jipflow.files import canonical_digest, sha256_file
    from jipflow.privacy.audit.events import Event
    from jipflow.settings.run import read_settings

    settings = read_settings(results / "settings.json")
    facts = {
        "protocol": settings.protocol_id,
        "format": form,
        "files": files,
        "items": items,
        "patients": patients,
        "sha256": canonical_digest({path.name: sha256_file(path) for path in listed}),
    }
    _note(settings, results.absolute().parent, Event.DATA_EXPORTED, facts)


def note_ledger(settings: Settings, results: Path) -> None:
    """Note what the site's ledger holds and the trail does not, such as its resumption.

    Args:
        settings: of the run.
        results: folder for the results of all protocols.
    """
    from jipflow.privacy.audit.trail import site_trail
    from jipflow.release.audited import record_ledger
    from jipflow.release.ledger import site_ledger

    record_ledger(site_trail(settings, results), site_ledger(settings, results).entries())


def check_erased(settings: Settings, results: Path, erased: Erased) -> None:
    """Check that the list of who was erased begins with what each erasure of the trail has left.

    Results that are new do not know what it was.

    Args:
        settings: of the run.
        results: folder for the results of all protocols.
        erased: the list.

    Raises:
        StageError: patients were erased of whom the list does not know, or the trail is not whole.
    """
    from jipflow.privacy.audit.events import PatientsErased
    from jipflow.privacy.audit.trail import site_trail
    from jipflow.reasons import StageError

    facts = [line.facts for line in site_trail(settings, results).lines()]
    noted = [fact for fact in facts if isinstance(fact, PatientsErased)]
    if not all(erased.begins_with(fact.listed, fact.list_sha256) for fact in noted):
        identity = settings.site.identity
        raise StageError(
            f"erased.txt in {identity.ledger_folder} is not what an erasure has left, of which the "
            f"audit trail {identity.audit_file} speaks. Restore it from the backup, lest they come "
            "back."
        )


def note_erasure(site: Site, results: Path, made: Erasure) -> None:
    """Note that patients were erased, and not whom.

    Args:
        site: its settings.
        results: folder for the results of all protocols.
        made: what was erased.
    """
    from jipflow.privacy.audit.events import Event
    from jipflow.privacy.audit.trail import Trail, record
    from jipflow.privacy.erased import read_erased

    identity = site.identity
    listed, sha256 = read_erased(identity, results).state()
    facts = {
        "listed": listed,
        "list_sha256": sha256,
        "erasure": made.token,
        "protocols": sorted(made.protocols),
        "patients": made.patients,
        "cases": made.cases,
        "files": len(made.changed()),
    }
    trail = Trail(Path(identity.audit_file), Path(identity.signing_key_file), results)
    record(trail, Event.PATIENTS_ERASED, facts)


def note_whois(site: Site, results: Path, found: Mapping[str, Sequence[object]]) -> None:
    """Note that somebody asked who is behind pseudonyms and codes.

    What was typed and is none of them may be a patient's name, and is counted alone.

    Args:
        site: its settings.
        results: folder for the results of all protocols.
        found: what stands behind each code that was typed.
    """
    import secrets

    from jipflow.privacy.audit.events import Event
    from jipflow.privacy.audit.trail import Trail, record

    identity = site.identity
    known = sorted(code for code, traced in found.items() if traced)
    facts = {"use": secrets.token_hex(32), "codes": known, "unknown": len(found) - len(known)}
    trail = Trail(Path(identity.audit_file), Path(identity.signing_key_file), results)
    record(trail, Event.PSEUDONYM_RESOLVED, facts)


def _note(settings: Settings, results: Path, event: Event, facts: Mapping[str, Any]) -> None:
    from jipflow.privacy.audit.trail import record, site_trail

    record(site_trail(settings, results), event, facts)
