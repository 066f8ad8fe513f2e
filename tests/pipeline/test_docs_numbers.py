"""The numbers that docs/architecture.md gives of the demonstration are those of a run of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from harness import ROOT, Site

pytestmark = pytest.mark.long

TEXT = " ".join((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split())


@pytest.fixture
def north(tiny_run: Site) -> Site:
    """The demonstration's site north with five sound patients, as the page has it."""
    return tiny_run


def given(pattern: str) -> list[str]:
    """What the page says, by a sentence of it; each ``#`` stands for a number."""
    words = re.escape(pattern).replace(r"\#", r"([\d.,]+)")
    found = re.search(words, TEXT)
    assert found, f"docs/architecture.md has no such sentence any more: {pattern}"
    return [number.rstrip(".,").replace(",", "") for number in found.groups()]


def test_the_catalog(north: Site) -> None:
    summary = json.loads((north.results / "catalog" / "summary.json").read_text())
    read = summary["dicom_files"] - summary["unreadable"]
    files, rows, series = given(
        "header of each of the # files below the source. One is not DICOM, one is unreadable; "
        "`skipped.parquet` names both. The other # are # rows of `series.parquet`"
    )
    assert [int(files), int(rows), int(series)] == [summary["files"], read, summary["series"]]
    assert summary["not_dicom"] == summary["unreadable"] == 1


def test_what_was_collected(north: Site) -> None:
    verdict = json.loads((north.out / "verdict.json").read_text())
    outcomes, rows = given(
        "joins the tables of all shards: # outcomes in `outcomes.parquet`, # rows in "
        "`features/features.parquet`"
    )
    assert int(outcomes) == len(north.table("outcomes.parquet"))
    assert int(rows) == len(north.table("features/features.parquet"))
    ok, failed, share, tolerated = given(
        "`verdict.json`: # cases ok, # with a failed item, which is # % where the protocol "
        "tolerates # %"
    )
    assert [int(ok), int(failed)] == [verdict["ok"], verdict["failed"]]
    assert int(share) == round(100 * verdict["failed_fraction"])
    assert int(tolerated) == round(100 * verdict["max_failed_fraction"])


def test_what_is_released(north: Site) -> None:
    record = json.loads((north.out / "release/r01/disclosure.json").read_text())
    features = north.table("features/features.parquet")
    volumes = features[features["segment"] == "liver"]["original_shape_MeshVolume"] / 1000
    own, patients, mean, everybody = given(
        "Our liver, # mL, is now one of # behind a mean of # mL: four of the # patients"
    )
    assert int(patients) == len(volumes)
    assert int(everybody) == int(patients) + 4
    assert float(mean) == pytest.approx(volumes.mean(), abs=0.05)
    assert any(abs(volumes - float(own)) < 0.05)
    (pet,) = given("our PET is missing from the # behind every cell of PET")
    assert int(pet) == features[features["role"] == "PT"]["patient"].nunique()
    asked, released, kept = given(
        "Of # cells that the protocol asks for, # are in `release/r01/aggregates.json`; # of the "
        "others are kept back by the rule `saturation`"
    )
    assert [int(asked), int(released)] == [
        record["summary"]["cells"],
        record["summary"]["released"],
    ]
    assert int(kept) == record["summary"]["withheld"]["saturation"]


def test_the_case_that_the_page_follows(north: Site) -> None:
    cases = pd.read_csv(north.out / "cohort" / "cases.tsv", sep="\t", dtype=str)
    series = north.table("../catalog/series.parquet")
    chosen = series[series["PatientID"] == "NORTH-0010"]
    (case,) = cases[cases["series_uid"].isin(chosen["SeriesInstanceUID"])]["case_id"].unique()
    ct, pt = given("with # rows of `instances.parquet` for our CT and # for our PET")
    counts = chosen.set_index("Modality")["NumberOfInstances"]
    assert [int(ct), int(pt)] == [counts["CT"], counts["PT"]]
    outcomes = north.table("outcomes.parquet").query("case_id == @case and stage == 'prepare'")
    assert outcomes.set_index("item")["reason"].to_dict() == {"CT": "", "PT": "unsupported_units"}
    seg, sr = (Path(north.out, kind, case, "organs.dcm").stat().st_size for kind in ("seg", "sr"))
    (size,) = given("`seg/7yte7da3jyjl6xt4/organs.dcm`, a DICOM-SEG of # kB")
    assert int(size) == pytest.approx(seg / 1000, rel=0.02)
    (size,) = given("a DICOM-SR of # kB")
    assert int(size) == pytest.approx(sr / 1000, rel=0.02)
