"""Clinical data in a run: read again when they have changed, and waited for when they are away."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pandas as pd
import pytest
import yaml

from harness import ONE_CORE, Site, contours_only, planned

VARIABLES = [
    {"name": "weight", "type": "number", "unit": "kg", "window": {"before": 9999, "after": 9999}},
    {"name": "sex", "type": "category", "values": ["F", "M"]},
]
MAP = {
    "patient": "pid",
    "variables": {
        "weight": {"value": "weight", "date": "seen", "unit": "kg"},
        "sex": {"value": "sex", "codes": {"w": "F"}},
    },
}


@pytest.fixture
def site(contours_run: Site, tmp_path) -> Site:
    """A finished run whose protocol now asks for clinical variables."""
    copytree(contours_run.results, tmp_path / "results")
    protocol = contours_only() | {"clinical": VARIABLES}
    protocol["analyses"].append(
        {"id": "weights", "kind": "summary", "variables": ["clinical.weight"]}
    )
    (tmp_path / "contours.yaml").write_text(yaml.safe_dump(protocol))
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(MAP))
    content = yaml.safe_load(contours_run.configfile.read_text())
    source = {"kind": "csv", "file": str(tmp_path / "d.csv"), "map": str(tmp_path / "map.yaml")}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(content | {"clinical": source}))
    return replace(
        contours_run,
        folder=tmp_path,
        results=tmp_path / "results",
        protocol_file=tmp_path / "contours.yaml",
    )


def rows(site: Site) -> list[str]:
    catalog = pd.read_parquet(site.results / "catalog" / "series.parquet")
    return [
        f"{row.PatientID},{70 + number},{row.StudyDate[:4]}-01-01,w"
        for number, row in enumerate(catalog.drop_duplicates("PatientID").itertuples())
    ]


def write(site: Site, lines: list[str]) -> None:
    (site.folder / "d.csv").write_text("\n".join(["pid,weight,seen,sex", *lines]) + "\n")


def read_of(site: Site) -> list[int]:
    """How many clinical values were found each time, by the audit trail."""
    identity = yaml.safe_load((site.folder / "site.yaml").read_text())["identity"]
    trail = Path(identity["audit_file"]).read_bytes()
    entries = [json.loads(line)["entry"] for line in trail.splitlines()]
    return [e["facts"]["values"] for e in entries if e["event"] == "clinical_read"]


@pytest.mark.long
def test_clinical_data_in_a_run(site):
    lines = rows(site)
    write(site, lines)
    site.run(*ONE_CORE)
    table = site.table("clinical/clinical.parquet")
    assert sorted(table["weight"]) == [70.0, 71.0]
    assert list(table["sex"]) == ["F", "F"]
    page = (site.out / "report" / "index.html").read_text()
    assert 'id="clinical"' in page
    release = (site.out / "release" / "r01" / "disclosure.json").read_text()
    assert '"feature": "weight"' in release
    assert planned(site) == {}

    write(site, lines[:1])
    again = planned(site)
    assert again["clinical"] == 1
    assert not again.keys() & {"cohort", "prepare", "measure"}
    assert read_of(site) == [4]
    (site.folder / "d.csv").rename(site.folder / "away.csv")
    failed = site.run(*ONE_CORE, check=False)
    assert failed.returncode
    assert "d.csv" in failed.stdout + (site.out / "logs" / "clinical.log").read_text()
    (site.folder / "away.csv").rename(site.folder / "d.csv")
    site.run(*ONE_CORE)
    assert site.table("clinical/missing.parquet")["reason"].unique().tolist() == ["no_record"]
    page = (site.out / "report" / "index.html").read_text()
    assert "<code>no_record</code>" in page
    assert planned(site) == {}
    assert read_of(site) == [4, 2]
