"""The hub's result for spreadsheets, and how its page says that the numbers came about."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fake_results as fake
from jipflow.analyses.contract import kinds
from jipflow.analyses.units import WORDS, unit_of
from jipflow.hub.tables import TABLES, table_names, write_tables
from jipflow.radiomics.ibsi import feature_table
from jipflow.report.hub import write_hub_report

KEY = ["role", "segmentation", "segment", "feature", "group"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The result of a round, and the folder of its page."""
    folder = tmp_path_factory.mktemp("hub")
    result, accepted, rejected = fake.round_of(folder / "round")
    write_hub_report(
        result=result,
        accepted=accepted,
        rejected=rejected,
        outlook=fake.OUTLOOK,
        settings=fake.hub(folder),
        path=folder / "report.html",
    )
    return json.loads(json.dumps(result)), folder


def test_an_analysis_without_cells_is_a_table_without_rows(tmp_path: Path) -> None:
    analysis = {"id": "x", "kind": "summary", "cells": []}
    write_tables({"sites": [], "analyses": [analysis]}, tmp_path / TABLES)
    assert list(read(tmp_path, "x.csv").columns) == KEY


def test_what_a_row_is_about_comes_first(tmp_path: Path) -> None:
    """Files of a result have their keys in alphabetical order."""
    curve = {"at_risk": 9, "edge": 730.0, "feature": "days", "role": "clinical", "site": ""}
    analysis = {"id": "lived", "kind": "kaplan_meier", "cells": [], "curves": [curve]}
    write_tables({"sites": [], "analyses": [analysis]}, tmp_path / "tables")
    heading, row = (tmp_path / "tables" / "lived.curves.csv").read_text().splitlines()
    assert heading == "role,feature,at_risk,edge,site"
    assert row == "clinical,days,9,730.0,"


def test_no_text_is_a_formula(tmp_path: Path) -> None:
    result = {"sites": [{"id": "north", "approver": "=HYPERLINK(A1)"}], "analyses": []}
    write_tables(result, tmp_path / TABLES)
    assert read(tmp_path, "accepted_sites.csv")["approver"][0] == "'=HYPERLINK(A1)"


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / TABLES / name)


def test_each_merged_cell_is_a_row_with_all_digits(written: Any) -> None:
    result, folder = written
    for analysis in result["analyses"]:
        table = read(folder, f"{analysis['id']}.csv")
        assert len(table) == len(analysis["cells"])
        for row, cell in zip(table.to_dict("records"), analysis["cells"], strict=True):
            assert row["sites"] == " ".join(cell["sites"])
            for name in ("n", "mean", "sd"):
                if name in cell:
                    assert row[name] == cell[name]


def test_each_cell_of_a_site_is_a_row(written: Any) -> None:
    result, folder = written
    for analysis in result["analyses"]:
        table = read(folder, f"{analysis['id']}.by_site.csv")
        rows = [(cell, part) for cell in analysis["cells"] for part in cell["by_site"]]
        assert list(table["n"]) == [part["n"] for _, part in rows]
        assert list(table["site"]) == [part["site"] for _, part in rows]
        assert list(table["feature"]) == [cell["feature"] for cell, _ in rows]


def test_bins_have_a_column_each_and_one_that_is_withheld_is_empty(written: Any) -> None:
    result, folder = written
    histogram = next(each for each in result["analyses"] if each["kind"] == "histogram")
    table = read(folder, f"{histogram['id']}.csv")
    cell = histogram["cells"][0]
    shown = table[[f"counts.{i + 1}" for i in range(len(cell["counts"]))]].iloc[0]
    assert [None if pd.isna(number) else number for number in shown] == cell["counts"]
    assert None in cell["counts"]


def test_what_follows_of_all_cells_is_a_table_of_its_own() -> None:
    test = {"role": "CT", "groups": ["ge", "siemens"], "p": 0.25}
    analysis = {"id": "spread", "cells": [{"n": 3, "sites": ["a"]}], "tests": [test]}
    assert table_names({"analyses": [analysis]}) == {"spread": ["spread.csv", "spread.tests.csv"]}


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href") or ""
        if tag == "a" and target.startswith(TABLES):
            self.found.append(target)


def test_the_page_links_to_every_table_but_that_of_the_sites(written: Any) -> None:
    _, folder = written
    links = Links()
    links.feed((folder / "report.html").read_text(encoding="utf-8"))
    there = {f"{TABLES}/{path.name}" for path in (folder / TABLES).iterdir()}
    assert set(links.found) - {f"{TABLES}/"} == there - {f"{TABLES}/accepted_sites.csv"}


def test_the_page_says_how_the_numbers_came_about(written: Any) -> None:
    result, folder = written
    page = (folder / "report.html").read_text(encoding="utf-8")
    protocol = fake.settings().protocol
    assert protocol.radiomics
    for entry in protocol.radiomics:
        assert entry.segmentation in page
    for kind in {analysis["kind"] for analysis in result["analyses"]}:
        assert kinds()[kind].merging.split(";")[0] in page
    assert f"at least {protocol.disclosure.min_patients} patients" in page
    assert "Coordinating centre" in page


def test_units_are_those_of_the_table_of_features() -> None:
    units = {entry["unit"] for group in feature_table().values() for entry in group.values()}
    assert set(map(str, units)) <= WORDS.keys()
    assert unit_of("original_shape_MeshVolume") == "mm³"
    assert unit_of("volume_ml") == "mL"
    assert unit_of("original_firstorder_Mean") == "intensity"
    assert unit_of("wavelet-LLH_firstorder_Mean") == ""
    assert unit_of("original_shape_Sphericity") == ""
    assert unit_of("no_such_Feature") == ""
