"""What commands note in the audit trail: counts, names of sources and hashes, each once."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jipflow.cli import audited
from jipflow.erasure.erase import Erasure
from jipflow.files import canonical_digest, sha256_file
from jipflow.outcomes import Outcome, Status
from jipflow.privacy.audit.trail import Trail, site_trail
from jipflow.privacy.erased import add_erased, read_erased
from jipflow.privacy.pseudonyms import site_secret
from jipflow.reasons import Reason, StageError
from jipflow.settings.run import Settings, load_settings, write_settings

PATIENT = "NORTH-0017"
OUTCOMES = [
    Outcome("case1", "publish", "organs"),
    Outcome("case2", "publish", "organs", Status.FAILED, Reason.PUBLISH_REJECTED),
    Outcome("case3", "publish", "organs", Status.FAILED, Reason.DEPENDS_ON_FAILED),
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a site with a folder, a PACS that objects go to, and clinical data in a file."""
    (tmp_path / "dicom").mkdir()
    (tmp_path / "map.yaml").write_text("{patient: pid, variables: {sex: {value: sex}}}")
    (tmp_path / "data.csv").write_text(f"pid,sex\n{PATIENT},F\n")
    files = {"file": str(tmp_path / "data.csv"), "map": str(tmp_path / "map.yaml")}
    keys = tmp_path / "secrets"
    made = load_settings(
        {
            "site": {"id": "north", "name": "North"},
            "sources": [
                {"name": "archive", "kind": "folder", "path": str(tmp_path / "dicom")},
                {"name": "pacs", "kind": "dicomweb", "url": "http://127.0.0.1:1/dicom-web"},
            ],
            "publish": {"to": "pacs"},
            "clinical": {"kind": "csv", **files},
            "identity": {
                "secret_file": str(keys / "identity.key"),
                "signing_key_file": str(keys / "site.key"),
                "ledger_folder": str(keys / "ledger"),
                "audit_file": str(keys / "audit.jsonl"),
            },
            "protocol": "demo",
        }
    )
    site_secret(keys / "identity.key", tmp_path / "results")
    return made


def table(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_parquet(path)
    return path


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def catalog(settings: Settings, results: Path) -> dict[str, Any]:
    series = table(results / "catalog" / "series.parquet", PatientID=[PATIENT])
    counts = {"files": 9, "dicom_files": 7, "patients": 1}
    audited.note_catalog(settings, series.parent, {"series": 1, "sources": {"archive": counts}})
    read = {"archive": {"files": 9, "dicom_files": 7}}
    return {"sources": read, "series": 1, "sha256": sha256_file(series)}


def query(settings: Settings, results: Path) -> dict[str, Any]:
    series = table(results / "demo" / "pacs" / "series.parquet", PatientID=[PATIENT] * 2)
    table(results / "demo" / "pacs" / "instances.parquet", bytes=[1, 2, 3])
    audited.note_query(settings, series.parent)
    hashed = {"sha256": sha256_file(series)}
    return {"protocol": "demo", "sources": ["pacs"], "series": 2, "instances": 3, **hashed}


def the_secret(settings: Settings, results: Path) -> dict[str, Any]:
    audited.note_secret(settings, results)
    return {"fingerprint": pd.read_json(results / "identity.json", typ="series")["secret"]}


def clinical(settings: Settings, results: Path) -> dict[str, Any]:
    audited.note_clinical(settings, results / "demo" / "clinical", {"cases": 5})
    source = settings.site.clinical
    files = [sha256_file(Path(source.map)), sha256_file(Path(source.file))]
    counts = {"cases": 5, "variables": 0, "values": 0}
    return {"protocol": "demo", "kind": "csv", **counts, "files": files}


def retrieval(settings: Settings, results: Path) -> dict[str, Any]:
    shard = table(
        results / "demo" / "cohort" / "shards" / "s00001.parquet",
        source=["pacs", "pacs", "archive"],
        series_uid=["1.2", "1.2", "1.3"],
        patient=[PATIENT] * 3,
    )
    audited.note_retrieval(settings, shard, OUTCOMES)
    counts = {"series": 1, "failed": 2, "sha256": sha256_file(shard)}
    return {"protocol": "demo", "shard": "s00001", "sources": ["pacs"], **counts}


def publication(settings: Settings, results: Path) -> dict[str, Any]:
    receipts = written(results / "demo" / "published" / "s00002.jsonl", "{}\n{}\n")
    audited.note_publication(settings, results / "demo", receipts, OUTCOMES)
    counts = {"objects": 2, "failed": 1, "sha256": sha256_file(receipts)}
    return {"protocol": "demo", "shard": "s00002", "to": "pacs", **counts}


def export(settings: Settings, results: Path) -> dict[str, Any]:
    write_settings(results / "demo" / "settings.json", settings)
    files = [written(results.parent / "out" / name, PATIENT) for name in ("a.csv", "b.csv")]
    audited.note_export(results / "demo", "omop", files, files=2, items=12)
    hashed = canonical_digest({path.name: sha256_file(path) for path in files})
    counts = {"files": 2, "items": 12, "patients": None, "sha256": hashed}
    return {"protocol": "demo", "format": "omop", **counts}


NOTES = [catalog, query, the_secret, clinical, retrieval, publication, export]


@pytest.mark.parametrize("note", NOTES, ids=lambda note: note.__name__)
def test_a_command_notes_counts_and_hashes_and_nothing_twice(
    note: Callable[[Settings, Path], dict[str, Any]], settings: Settings, tmp_path: Path
) -> None:
    facts = note(settings, tmp_path / "results")
    note(settings, tmp_path / "results")
    trail: Trail = site_trail(settings, tmp_path / "results")
    (line,) = trail.lines()
    assert line.facts.plain() == facts
    assert PATIENT.encode() not in trail.path.read_bytes()


def test_a_shard_of_which_nothing_lies_in_a_pacs_is_not_noted(
    settings: Settings, tmp_path: Path
) -> None:
    shard = table(
        tmp_path / "results" / "demo" / "cohort" / "shards" / "s00001.parquet",
        source=["archive"],
        series_uid=["1.2"],
    )
    audited.note_retrieval(settings, shard, [])
    assert site_trail(settings, tmp_path / "results").lines() == []


def erased(settings, results, *patients):
    """Erase patients from a site's list, and note it, as `jipflow erase` does."""
    token = secrets.token_hex(32)
    add_erased(settings.site.identity, results, patients)
    audited.note_erasure(settings.site, results, Erasure(token, patients=len(patients)))


def listed(settings, *edits):
    """Return the list after edits, as new results read it."""
    path = Path(settings.site.identity.ledger_folder) / "erased.txt"
    lines = path.read_text().split()
    for edit in edits:
        lines = edit(lines)
    path.write_text("".join(f"{line}\n" for line in lines))
    return read_erased(settings.site.identity, path.parent / "new")


def test_new_results_do_not_let_back_whom_any_erasure_was_of(settings, tmp_path):
    results = tmp_path / "results"
    for patients in (("P1", "P2", "P3"), ("P4",), ("P2", "P5")):
        erased(settings, results, *patients)
    known = listed(settings)
    audited.check_erased(settings, results, known)
    # One who is put on the list before the job that erases has noted it.
    audited.check_erased(settings, results, replace(known, lines=(*known.lines, "a" * 16)))


@pytest.mark.parametrize("left", [0, 1, 3, 4])
def test_lines_that_are_missing_at_the_end_are_found_after_several_erasures(
    settings, tmp_path, left
):
    results = tmp_path / "results"
    for patients in (("P1", "P2", "P3"), ("P4",), ("P5",)):
        erased(settings, results, *patients)
    short = listed(settings, lambda lines: lines[:left])
    with pytest.raises(StageError, match="Restore it from the backup"):
        audited.check_erased(settings, results, short)


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize(
    "edit",
    [
        lambda lines, place: [*lines[:place], *lines[place + 1 :]],
        lambda lines, place: [*lines[:place], "b" * 16, *lines[place + 1 :]],
        lambda lines, place: [*lines[:place], *lines[place + 1 :], "b" * 16],
        lambda lines, place: [*lines[:place], "b" * 16, *lines[place:]],
    ],
    ids=["removed", "replaced", "removed and another added", "put in"],
)
def test_any_edit_of_the_list_is_found_after_several_erasures(settings, tmp_path, place, edit):
    results = tmp_path / "results"
    for patients in (("P1", "P2", "P3"), ("P4",), ("P5",)):
        erased(settings, results, *patients)
    changed = listed(settings, lambda lines: edit(lines, place))
    with pytest.raises(StageError, match="Restore it from the backup"):
        audited.check_erased(settings, results, changed)
