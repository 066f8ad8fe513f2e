"""A site's clinical data and its map, held against what the protocol asks for."""

from __future__ import annotations

import copy

import pytest
import yaml

from config_files import demo_protocol, loaded, message, site_of
from jipflow.settings.clinical import CsvMap

VARIABLES = [
    {"name": "weight", "type": "number", "unit": "kg", "window": {"before": 30, "after": 7}},
    {"name": "sex", "type": "category", "values": ["F", "M"]},
    {"name": "dead", "type": "event"},
]
MAP = {
    "patient": "pid",
    "variables": {
        "weight": {"value": "weight", "date": "seen", "unit": "kg"},
        "sex": {"value": "sex", "codes": {"w": "F"}},
        "dead": {"value": "dead"},
    },
}


@pytest.fixture
def site(tmp_path):
    source = {"kind": "csv", "file": str(tmp_path / "d.csv"), "map": str(tmp_path / "map.yaml")}
    return site_of(tmp_path) | {"clinical": source}


@pytest.fixture
def protocol():
    return demo_protocol() | {"clinical": VARIABLES}


def written(site, mapped):
    with open(site["clinical"]["map"], "w", encoding="utf-8") as stream:
        yaml.safe_dump(mapped, stream)


def test_a_map_that_fits(site, protocol, tmp_path):
    written(site, MAP)
    settings = loaded(site, protocol, tmp_path)
    assert settings.parts("clinical").keys() == {"clinical", "clinical source"}
    other = copy.deepcopy(protocol)
    other["clinical"][0]["window"]["after"] = 8
    before, after = settings.parts("clinical"), loaded(site, other, tmp_path).parts("clinical")
    assert {key for key in before if before[key] != after[key]} == {"clinical"}


def test_a_protocol_without_clinical_variables_needs_no_map(site, tmp_path):
    assert loaded(site, demo_protocol(), tmp_path).site.clinical is not None


def test_a_site_without_clinical_data(protocol, tmp_path):
    text = message(site_of(tmp_path), protocol, tmp_path)
    assert "weight, sex, dead" in text
    assert "docs/clinical.md" in text


def test_a_map_that_is_away(site, protocol, tmp_path):
    assert "map.yaml does not exist" in message(site, protocol, tmp_path)


@pytest.mark.parametrize(
    ("name", "entry", "parts"),
    [
        ("weigth", MAP["variables"]["weight"], ["clinical.weight", "did you mean 'weigth'"]),
        ("weight", {"value": "w", "date": "d"}, ["weight", "unit", "kg"]),
        ("weight", {"value": "w", "unit": "kg"}, ["weight", "date"]),
        ("weight", {"date": "d", "unit": "kg"}, ["weight", "name the column of the value"]),
        ("weight", {"value": "w", "date": "d", "units": {"g": 0}}, ["units.g"]),
        ("weight", {"valeu": "w"}, ["valeu", "value"]),
        ("weight", {"select": "SELECT 1"}, ["select"]),
        ("sex", {"value": "sex", "codes": {"w": "f"}}, ["'w' becomes 'f'", "did you mean 'F'"]),
        ("dead", {"value": "dead", "codes": {"x": "yes"}}, ["'x' becomes 'yes'", "'0' or '1'"]),
    ],
)
def test_a_map_that_does_not_fit(site, protocol, tmp_path, name, entry, parts):
    mapped = copy.deepcopy(MAP)
    if name not in mapped["variables"]:
        del mapped["variables"]["weight"]
    mapped["variables"][name] = entry
    written(site, mapped)
    text = message(site, protocol, tmp_path)
    assert all(part in text for part in ["map.yaml", *parts]), text


@pytest.mark.parametrize("dates", ["%Y", "%m/%Y", "%d.%m.", "%d.%m.%y %Q", "YYYY-MM-DD"])
def test_dates_without_a_day_are_not_filled_in(site, protocol, tmp_path, dates):
    written(site, MAP | {"dates": dates})
    text = message(site, protocol, tmp_path)
    assert all(part in text for part in ("dates", "year, month and day"))


@pytest.mark.parametrize("dates", ["%d.%m.%y", "%d %b %Y %H:%M", "%Y-%m-%dT%H:%M:%S%z", "%Y%j"])
def test_dates_with_a_day_are_read(dates):
    assert CsvMap.model_validate(MAP | {"dates": dates}).dates == dates


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"kind": "excel"}, ["clinical", "excel", "csv"]),
        ({"database": "x"}, ["clinical", "database"]),
        ({"kind": "omop", "database": "x"}, ["clinical", "file", "unknown"]),
    ],
)
def test_a_source_that_is_none(site, protocol, tmp_path, change, parts):
    written(site, MAP)
    site["clinical"] |= change
    text = message(site, protocol, tmp_path)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("database", "part"),
    [
        ("postgresql://reader:hunter2@host/omop", "password_env"),
        ("postgresql://host/omop?user=reader&password=hunter2", "password_env"),
        ("mysql://reader@host/omop", "postgresql://"),
    ],
)
def test_no_password_stands_in_a_file(site, protocol, tmp_path, database, part):
    site["clinical"] = {"kind": "omop", "database": database, "map": site["clinical"]["map"]}
    text = message(site, protocol, tmp_path)
    assert part in text
    assert "hunter2" not in text
