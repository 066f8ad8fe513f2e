"""Whose series the protocol's rule of consent lets into the cohort."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jipflow.privacy.consent import Consents, allows, consent_state, read_consents
from jipflow.provenance import NAME, read_provenance
from jipflow.reasons import StageError
from jipflow.settings.consent import ConsentRule
from jipflow.settings.run import Settings

if TYPE_CHECKING:
    import duckdb


def keep_consented(
    connection: duckdb.DuckDBPyConnection, consents: Consents, rule: ConsentRule, today: date
) -> dict[str, Any]:
    """Let the views ``catalog`` and ``lost`` have only what may be used, and count it.

    Args:
        connection: to the catalogs.
        consents: to the rule's scope.
        rule: the protocol's.
        today: the day on which the cohort is frozen.

    Returns:
        The step of the flow.
    """
    import pyarrow as pa

    from jipflow.catalog.query import count_series

    seen = connection.execute(
        "SELECT DISTINCT PatientID, StudyDate FROM (SELECT PatientID, StudyDate FROM catalog"
        " UNION ALL SELECT PatientID, StudyDate FROM lost)"
    ).fetchall()
    kept = [
        (patient, study)
        for patient, study in seen
        if allows(consents, patient or "", study_date(study or ""), rule, today)
    ]
    columns: Mapping[str, list[str | None]] = {
        "PatientID": [patient for patient, _ in kept],
        "StudyDate": [study for _, study in kept],
    }
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    connection.register("consenting", table)
    connection.execute("CREATE TABLE consented AS SELECT * FROM consenting")
    connection.unregister("consenting")
    for view in ("catalog", "lost"):
        connection.execute(f"ALTER VIEW {view} RENAME TO whole_{view}")
        connection.execute(
            f"CREATE VIEW {view} AS SELECT w.* FROM whole_{view} w WHERE EXISTS (SELECT 1 FROM"
            " consented c WHERE c.PatientID = w.PatientID AND c.StudyDate IS NOT DISTINCT FROM"
            " w.StudyDate)"
        )
    series, patients = count_series(connection, ["TRUE"])
    label = f"Patients who consent to {rule.scope}"
    if rule.studies == "during":
        label += ", studies of its days"
    return {"step": "consent", "label": label, "series": series, "patients": patients}


def cohort_state(settings: Settings) -> str:
    """Return the hash of who consents today; empty where the protocol does not ask."""
    rule, site = settings.protocol.cohort.consent, settings.site.consent
    if rule is None or site is None:
        return ""
    return consent_state(Path(site.file), rule, date.today())


def check_unchanged(settings: Settings, state: str) -> None:
    """Check that the same patients consent as before the cohort was chosen.

    Otherwise the record would name another list than the one that was read, and a later run might
    take the cohort for one of the list as it is by then.

    Args:
        settings: of the run.
        state: of `cohort_state` before.

    Raises:
        StageError: others consent by now.
    """
    if cohort_state(settings) != state:
        assert settings.site.consent is not None
        raise StageError(
            f"{settings.site.consent.file} was changed while it was read, or the day has ended; "
            "run the same command again."
        )


def check_still_consented(settings: Settings, results: Path) -> None:
    """Check that the same patients consent today as when the cohort was chosen.

    For what lets cases of a run that has ended leave.

    Args:
        settings: of the run.
        results: of the protocol.

    Raises:
        StageError: others consent today, nothing says who did then, or the list cannot be used.
        OSError: the list cannot be read.
    """
    rule, site = settings.protocol.cohort.consent, settings.site.consent
    if rule is None:
        return
    if site is not None:
        read_consents(Path(site.file), rule.scope)
    made = read_provenance(results / "cohort" / NAME)
    if site is None or made is None or made.state != cohort_state(settings):
        raise StageError(
            "Others consent today than when the cohort was chosen: a consent was withdrawn, has "
            "ended or was given since. Nothing leaves; run the site's snakemake command, which "
            "chooses the cohort anew, and then this one again."
        )


def study_date(text: str) -> date | None:
    """Return Study Date (0008,0020), of value representation DA (PS3.5 section 6.2)."""
    try:
        return datetime.strptime(text.strip().replace(".", ""), "%Y%m%d").date()
    except ValueError:
        return None
