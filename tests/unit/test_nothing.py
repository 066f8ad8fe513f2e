"""A run without a case says why: five causes, each with its counts and its fix."""

from __future__ import annotations

import zipfile

import pytest
from pydicom.data import get_testdata_file

from jipflow.catalog.nothing import why_no_case
from jipflow.catalog.scan import run
from jipflow.collect import accept, verdict
from jipflow.files import write_json
from jipflow.outcomes import Outcome, Status, write_outcomes
from jipflow.settings.protocol import Tolerance
from jipflow.settings.site import Folder


def notes(folder):
    for name in "ab":
        (folder / f"{name}.txt").write_text("a note, longer than any preamble " * 10)


def packed(folder):
    for name in "ab":
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr("x.dcm", b"x" * 500)
    (folder / "a.txt").write_text("x" * 500)


def directory(folder):
    with open(get_testdata_file("DICOMDIR"), "rb") as stream:
        (folder / "DICOMDIR").write_bytes(stream.read())


def damaged(folder):
    with open(get_testdata_file("CT_small.dcm"), "rb") as stream:
        (folder / "x.dcm").write_bytes(stream.read(700))


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results" / "study"


def scanned(results, make):
    source = results.parent.parent / "source"
    source.mkdir()
    make(source)
    folders = [Folder(name="a", kind="folder", path=str(source))]
    run(sources=folders, out_dir=results.parent / "catalog", threads=1)
    steps(results, ("found", "Series found", 0))


def steps(results, *rows):
    flow = [{"step": s, "label": label, "series": n, "patients": n} for s, label, n in rows]
    write_json(results / "cohort" / "flow.json", {"steps": flow})


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (notes, ["none of the 2 files", "2 of other kinds"]),
        (packed, ["none of the 3 files", "2 compressed (zip), unpack them; 1 of other kinds"]),
        (directory, ["none of the 1 files", "1 DICOMDIR, copy the folders that it lists"]),
        (damaged, ["none of the 1 files", "1 unreadable"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_sources_without_a_series(results, make, parts):
    scanned(results, make)
    text = why_no_case(results)
    assert all(part in text for part in parts), text


def test_sources_without_a_file(results):
    steps(results, ("found", "Series found", 0))
    write_json(results.parent / "catalog" / "summary.json", {"files": 0})
    text = why_no_case(results)
    assert "there is no file below the folders of the sources" in text
    assert "mount it" in text


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (
            [("found", "Series found", 5), ("images", "Image series", 0), ("where-1", "x", 0)],
            "none of the 5 series is an image",
        ),
        (
            [("found", "", 5), ("images", "", 4), ("where-1", "Modality = 'MR'", 0)],
            "the filter \"Modality = 'MR'\" leaves none of 4 series; fix it",
        ),
        (
            [("found", "", 5), ("images", "", 4), ("where-1", "A", 3), ("where-2", "B", 0)],
            "the filter 'B' leaves none of 3 series",
        ),
    ],
)
def test_a_step_that_leaves_no_series(results, rows, text):
    steps(results, *rows, ("cases", "Cases with every required role", 0))
    assert text in why_no_case(results)


def test_cases_that_were_all_excluded(results):
    rows = [("found", "", 5), ("images", "", 5), ("where-1", "A", 5), ("cases", "", 0)]
    steps(results, *rows)
    reasons = ["missing_role", "missing_role", "missing_patient_id"]
    write_outcomes(
        results / "cohort" / "outcomes.parquet",
        [Outcome(f"x{n}", "cohort", "", Status.EXCLUDED, r, "") for n, r in enumerate(reasons)],
    )
    text = why_no_case(results)
    assert "every case was excluded: 2 for missing_role (No series for a role" in text
    assert "1 for missing_patient_id" in text


def test_a_pacs_without_series(results):
    steps(results, ("found", "", 0))
    write_json(results / "pacs" / "queries.json", {})
    assert f"{results}/pacs/queries.json has what was asked" in why_no_case(results)


def test_the_end_of_the_run_names_cause_and_report(results):
    steps(results, ("found", "", 5), ("images", "", 4), ("where-1", "Modality = 'MR'", 0))
    write_json(results / "verdict.json", verdict([], Tolerance()))
    with pytest.raises(Exception, match="leaves none of 4 series") as caught:
        accept(results / "verdict.json")
    assert str(results / "report" / "index.html") in str(caught.value)
