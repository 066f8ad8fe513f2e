"""What names a patient is in no message of a job, however it is written."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import yaml
from pydicom.dataelem import DataElement

from jipflow.cli import main
from jipflow.cli.making import finish, redacted_messages
from jipflow.cli.redacted import redact, redacted_output
from jipflow.files import write_json, write_parquet
from jipflow.outcomes import Outcome, Status, read_outcomes
from jipflow.privacy.audit.events import Event
from jipflow.privacy.audit.trail import read_trail
from jipflow.privacy.identifying import identifying_values
from jipflow.privacy.pseudonyms import pseudonym, site_secret
from jipflow.privacy.redaction import Redactor, code_of
from jipflow.reasons import StageError
from series_factory import ct_datasets, write

ARCHIVE = Path("/data/Archiv Süd")
FILES = [ARCHIVE / "O'Donoghue Fión" / "CT 1" / "Müller,1.dcm", ARCHIVE / "Q7" / "IM_0004"]
SECRET = bytes(32)
IDS = ("Q7", "12", "Äß", "PZ-88-0417", "A/B_7", "李4", "PAT 01:2")
VALUES = (
    "Müllerová^Žofie",
    "Иванова^Прасковья",
    "Wang^Xiao=王^小东",
    "ACC 9-5512",
    "19531204",
    "O'Donoghue",
    *("CT", "1"),
)


@pytest.fixture(scope="module")
def redactor():
    return Redactor(IDS, VALUES, [ARCHIVE], FILES, SECRET)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "write", [str, lambda f: repr(str(f)), lambda f: ascii(str(f)), lambda f: json.dumps(str(f))]
)
def test_a_path_below_an_archive_is_gone_and_the_sentence_stays(redactor, file, write):
    text = redactor(f"case x: {write(file)} cannot be read; copy it again from the archive.")
    assert text.startswith("case x: ")
    assert "‹file " in text
    for part in ("Donoghue", "Fi", "ller", "Q7", "IM_0004", "Archiv", "dcm"):
        assert part not in text


def test_what_is_ours_stays(redactor):
    text = (
        "/results/demo/work/s00001/volumes/3ujhkemebw5jrri5/CT.nrrd: No space left on device; "
        "46 of 12 slices, CT and 10^8, m^2, 1.25 mm, "
        "Transfer Syntax 1.2.840.10008.1.2.4.90, highdicom 0.28.2"
    )
    assert redactor(text) == text


@pytest.mark.parametrize(
    "quoted",
    [
        "patient Q7.",
        "'12'",
        "PatientID 12",
        "Äß",
        "[PZ-88-0417]",
        "A/B_7",
        "scan_Q7_old",
        "PAT 01:2",
        "李4",
        "MÜLLEROVÁ",
        "Mu\u0308llerova\u0301",
        "Mullerova",
        repr("Müllerová".encode()),
        ascii("Müllerová"),
        repr("Žofie".encode()),
        "M\u00c3\u00bcllerov\u00c3\u00a1",
        "Иванова",
        "王",
        "Wang^Xiao=王^小东",
        "ACC 9-5512",
        "1953-12-04",
        "04.12.1953",
        "GTV_O'Donoghue_1",
        "Nobody^Known-Here^^Dr.",
        "1.2.276.0.7230010.3.1.4.8323329",
    ],
)
def test_what_names_a_patient_is_gone(redactor, quoted):
    text = redactor(f"Value {quoted} of the header is wrong")
    assert "‹" in text
    assert text.startswith("Value ")
    assert text.endswith(" of the header is wrong")
    assert quoted.strip("'[]. ") not in text


def test_a_code_is_of_the_file_and_of_the_secret(redactor):
    first, second = (redactor(f"{file}: x") for file in FILES)
    assert first != second
    assert redactor(f"{FILES[0]}: y").partition(":")[0] == first.partition(":")[0]
    other = Redactor((), (), [ARCHIVE], FILES, bytes(31) + b"1")
    assert other(f"{FILES[0]}: x") != first
    assert Redactor((), (), [ARCHIVE])(f"{FILES[0]}: x") == "‹file›: x"


def test_what_a_header_says_of_persons(tmp_path):
    dataset = ct_datasets()[0]
    dataset.PatientID = "Q7"
    dataset.PatientName = "Müllerová^Žofie"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.AccessionNumber = "ACC1"
    dataset.OtherPatientIDs = ["X1", "X2"]
    dataset.OperatorsName = "Anna^A"
    (path,) = write([dataset], tmp_path / "series")
    dataset.PatientID = "never looked at"
    (another,) = write([dataset], tmp_path / "another")
    (tmp_path / "broken").write_bytes(b"DICM" * 90)
    (tmp_path / "zeros").write_bytes(bytes(5000))
    damaged = [tmp_path / name for name in ("gone", "zeros", "broken", "zeros", "broken")]
    identifiers, values = identifying_values([[*damaged, path, another], damaged[1:3]])
    assert identifiers == {"Q7", "X1", "X2"}
    assert {"Müllerová^Žofie", "ACC1", "Anna^A"} <= values


def test_a_damaged_value_hides_nobody_behind_it(tmp_path):
    dataset = ct_datasets()[0]
    dataset.PatientID, dataset[0x00080040] = "Q7", DataElement(0x00080040, "US", 1)
    (path,) = write([dataset], tmp_path / "series")
    whole = path.read_bytes()
    damaged = whole.replace(b"\x08\0\x40\0US\x02\0", b"\x08\0\x40\0UL\x02\0")
    assert damaged != whole
    path.write_bytes(damaged)
    assert identifying_values([[path]])[0] == {"Q7"}


JOB = """
import os, subprocess, sys
from jipflow.cli.redacted import redact, redacted_output
with redacted_output(sys.argv[1:]):
    print("out /archive/Q7/1.dcm")
    sys.stderr.write("no end of line /archive/Q7/2.dcm")
    os.write(2, b"\\nfrom C /archive/Q7/3.dcm \\xff\\n")
    subprocess.run(["echo", "of a child 1.2.276.0.7230010.3.1"])
    subprocess.Popen(["sleep", "5"])
    assert "Q7" not in redact("/archive/Q7")
print("after /archive/Q7")
"""


@pytest.mark.parametrize("merged", [True, False])
def test_whatever_a_job_prints_goes_through(tmp_path, merged):
    site = {
        "identity": {"secret_file": "none"},
        "sources": [{"kind": "folder", "path": "/archive"}],
    }
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"site": site}))
    logs = [tmp_path / "out", tmp_path / ("out" if merged else "err")]
    with logs[0].open("ab") as out, logs[1].open("ab") as err:
        words = ["prepare", "--settings", str(settings)]
        command = [sys.executable, "-c", JOB, *words]
        subprocess.run(command, stdout=out, stderr=out if merged else err, check=True, timeout=20)
    written = "".join(path.read_text() for path in dict.fromkeys(logs))
    assert sorted(written.splitlines()) == sorted(
        [
            "out ‹file›",
            "no end of line ‹file›",
            "from C ‹file› \\xff",
            "of a child ‹UID›",
            "after /archive/Q7",
        ]
    )


def test_without_settings_every_path_is_taken_out(capfd):
    with redacted_output(["prepare", "--settings", "/missing.json"]):
        subprocess.run(["echo", "cannot read /data/Doe/1.dcm"], check=True)
    assert capfd.readouterr().out == "cannot read ‹path›\n"


def asking(tmp_path, secret, **settings):
    """The options of whois at a site."""
    (tmp_path / "dicom").mkdir(exist_ok=True)
    content = {
        "site": {"id": "north", "name": "North"},
        "sources": [{"name": "a", "kind": "folder", "path": str(tmp_path / "dicom")}],
        "identity": {
            "secret_file": str(secret),
            "signing_key_file": str(tmp_path / "keys" / "site.key"),
            "audit_file": str(tmp_path / "keys" / "audit.jsonl"),
        },
        "results": str(tmp_path / "results"),
        **settings,
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(content))
    return "--configfile", str(tmp_path / "site.yaml")


def test_whoever_has_the_secret_and_the_catalog_finds_the_patient_again(tmp_path, capsys):
    key, results = tmp_path / "keys" / "k", tmp_path / "results"
    secret = site_secret(key, results)
    rows = [
        ("Q7", "1.2.1", "1.2.1.1", "CT"),
        ("Q7", "1.2.1", "1.2.1.2", "PT"),
        ("P2", "1.3", "1.3.1", "CT"),
    ]
    names = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"]
    series = pd.DataFrame(rows, columns=names)
    write_parquet(results / "catalog" / "series.parquet", series.assign(StudyDate="20200102"))
    instances = [(f"{row[2]}", f"{row[2]}.9", f"/data/{row[0]}/{row[2]}.dcm") for row in rows]
    columns = ["SeriesInstanceUID", "SOPInstanceUID", "path"]
    table = pd.DataFrame(instances, columns=columns)
    write_parquet(results / "catalog" / "instances.parquet", table)
    files = [Path(row[2]) for row in instances]
    message = Redactor((), (), [Path("/data")], files, secret)(
        "/data/Q7/1.2.1.2.dcm: of 1.2.826.0.1.3680043: no"
    )
    file = message.split("›")[0].removeprefix("‹file ")
    case, patient = pseudonym(secret, "case", "Q7", "1.2.1"), pseudonym(secret, "patient", "P2")
    options = asking(tmp_path, key)
    assert main(["whois", case, patient, file, *options]) == 0
    assert capsys.readouterr().out.splitlines() == [
        case,
        "  case  Q7  1.2.1  1.2.1.1  CT of 20200102",
        "  case  Q7  1.2.1  1.2.1.2  PT of 20200102",
        patient,
        "  patient  P2  1.3  1.3.1  CT of 20200102",
        file,
        "  file  Q7  1.2.1  1.2.1.2  /data/Q7/1.2.1.2.dcm",
    ]
    assert main(["whois", "aaaaaaaa", *options]) == 1
    site_secret(tmp_path / "other" / "k", tmp_path / "elsewhere")
    assert main(["whois", case, *asking(tmp_path, tmp_path / "other" / "k")]) == 1
    assert "another secret" in capsys.readouterr().err


def lines_of(tmp_path):
    return read_trail(tmp_path / "keys" / "audit.jsonl")


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_that_a_reader_sent_is_found_again(tmp_path, capsys, shared):
    key, results = tmp_path / "keys" / "k", tmp_path / "results"
    secret = site_secret(key, results)
    inbox = tmp_path / "shared" / "demo" if shared else results / "demo" / "inbox"
    sent = inbox / "read" / "case1" / "ada" / "Doe" / "cut.dcm"
    sent.parent.mkdir(parents=True)
    sent.write_bytes(b"")
    own = {"annotation": {"inbox": str(tmp_path / "shared")}} if shared else {}
    options = asking(tmp_path, key, **own)
    for name in ("cut.dcm", "Doe/cut.dcm"):
        assert main(["whois", code_of(secret, "file", name), *options]) == 0
        assert str(sent) in capsys.readouterr().out


def test_a_file_of_an_archive_that_is_in_no_catalog_is_found_again(tmp_path, capsys):
    key = tmp_path / "keys" / "k"
    secret = site_secret(key, tmp_path / "results")
    options = asking(tmp_path, key)
    path = tmp_path / "dicom" / "Doe" / "notes.txt"
    path.parent.mkdir(parents=True)
    path.write_text("no DICOM")
    redact = Redactor((), (), [tmp_path / "dicom"], [], secret)
    for text in (f"{path}: no DICOM", f"{path.parent} cannot be read"):
        code = redact(text).split("›")[0].removeprefix("‹file ")
        assert main(["whois", code, *options]) == 0
        assert str(path.parent) in capsys.readouterr().out


def test_each_use_leaves_a_line_of_who_asked_what_and_no_name(tmp_path, capsys):
    key, results = tmp_path / "keys" / "k", tmp_path / "results"
    secret = site_secret(key, results)
    series = {"PatientID": ["Q7"], "StudyInstanceUID": ["1.2"], "SeriesInstanceUID": ["1.2.1"]}
    table = pd.DataFrame(series | {"Modality": ["CT"], "StudyDate": ["20200102"]})
    write_parquet(results / "catalog" / "series.parquet", table)
    columns = ["SeriesInstanceUID", "SOPInstanceUID", "path"]
    write_parquet(results / "catalog" / "instances.parquet", pd.DataFrame(columns=columns))
    patient, options = pseudonym(secret, "patient", "Q7"), asking(tmp_path, key)
    before = os.umask(0o022)
    try:
        assert main(["whois", patient, *options]) == 0
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert (results / "audit.json").stat().st_mode & 0o077 == 0
    assert main(["whois", patient, "schneider", *options]) == 1
    first, second = lines_of(tmp_path)
    assert first.entry.event == Event.PSEUDONYM_RESOLVED
    assert first.entry.actor == pwd.getpwuid(os.geteuid()).pw_name
    assert first.facts.plain()["codes"] == second.facts.plain()["codes"] == [patient]
    assert second.facts.plain()["unknown"] == 1
    trail = (tmp_path / "keys" / "audit.jsonl").read_bytes()
    assert b"schneider" not in trail
    assert b"Q7" not in trail
    capsys.readouterr()
    (tmp_path / "keys" / "audit.jsonl").write_bytes(trail.replace(b"unknown", b"unknewn"))
    assert main(["whois", patient, *options]) == 1
    printed = capsys.readouterr()
    assert "Q7" not in printed.out + printed.err
    assert "line 1 is not as it was written" in printed.err


@pytest.fixture
def job(tmp_path):
    """What is typed for a job of a shard whose one patient is in a header and in a catalog."""
    dataset = ct_datasets()[0]
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Müllerová^Žofie"
    (path,) = write([dataset], tmp_path / "archive")
    results = tmp_path / "results"
    shard = results / "demo" / "cohort" / "shards" / "s00001.parquet"
    write_parquet(shard, shard_of({"1.2": (path, "CT")}))
    write_parquet(results / "catalog" / "series.parquet", pd.DataFrame({"PatientID": ["Q7"]}))
    site_secret(tmp_path / "keys" / "k", results)
    site = {
        "identity": {"secret_file": str(tmp_path / "keys" / "k")},
        "sources": [{"kind": "folder", "path": str(tmp_path / "archive")}],
    }
    write_json(tmp_path / "settings.json", {"site": site})
    return ["prepare", "--settings", str(tmp_path / "settings.json"), "--cases", str(shard)]


def shard_of(series):
    rows = [(uid, str(path), role) for uid, (path, role) in series.items()]
    return pd.DataFrame(rows, columns=["series_uid", "path", "role"])


@pytest.mark.parametrize(("command", "written"), [("segment", "‹patient›"), ("encode", "Ömer")])
def test_whom_contours_name_is_looked_up_by_the_jobs_that_open_them(
    tmp_path, job, command, written
):
    dataset = ct_datasets()[1]
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.OperatorsName = "Ömer^Ada"
    (contours,) = write([dataset], tmp_path / "archive" / "rs")
    image = tmp_path / "archive" / "0000.dcm"
    write_parquet(Path(job[-1]), shard_of({"1.2": (image, "CT"), "1.3": (contours, "")}))
    with redacted_output([command, *job[1:]]):
        assert redact("Müllerová, Ömer") == f"‹patient›, {written}"


def test_the_tables_that_a_job_writes_name_nobody(tmp_path, job):
    message = f"{tmp_path}/archive/0000.dcm: Müllerová is no Q7; see {tmp_path}/results/x"
    outcome = Outcome("a" * 16, "prepare", "CT", Status.FAILED, "unreadable", message)
    table = pa.table({"message": [message, None], "feature": ["Müllerová", ""]})
    with redacted_output(job):
        finish(tmp_path / "o.parquet", [outcome])
        table = redacted_messages(table)
    (written,) = read_outcomes(tmp_path / "o.parquet")
    assert re.fullmatch(
        rf"‹file [a-z2-7]{{8}}›: ‹patient› is no ‹patient›; see {tmp_path}/results/x",
        written.message,
    )
    assert table["message"].to_pylist() == [written.message, None]


def test_what_is_kept_of_an_error_for_the_next_try_names_nobody(tmp_path, job, monkeypatch):
    monkeypatch.setenv("JIPFLOW_RUN", str(tmp_path / "run"))
    Path(job[-1]).write_text(f"no table of {tmp_path}/archive/Q7")
    command = [*job, "--volumes", "v", "--outcomes", "o", "--record", str(tmp_path / "r.json")]
    monkeypatch.setattr("jipflow.settings.run.read_settings", fails(f"{tmp_path}/archive/Q7: bad"))
    assert main(command) == 1
    (kept,) = (tmp_path / "run").iterdir()
    assert "Q7" not in kept.read_text()
    assert kept.read_text().endswith("›: bad")


def fails(message):
    def function(*_):
        raise StageError(message)

    return function
