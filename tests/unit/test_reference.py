"""The reference pages say what schemas, reason codes and requirements say now."""

from __future__ import annotations

import json
import re
import tomllib

import jsonschema
import pytest
import yaml

from jipflow.absences import Absence
from jipflow.cli.reference import DOCS, pages, schemas, write
from jipflow.reasons import Decision, Flag, Gap, Reason
from jipflow.settings.protocol import Protocol
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.resources import PROTOCOLS, ROOT, SCHEMAS
from jipflow.settings.schema import load
from jipflow.settings.site import Site

GIVEN = {
    "site": {
        "site": {"id": "north", "name": "North"},
        "sources": [{"name": "archive", "kind": "folder", "path": "/data"}],
    },
    "protocol": {
        key: value
        for key, value in yaml.safe_load((PROTOCOLS / "demo.yaml").read_text()).items()
        if key in {"protocol", "cohort", "segmentations"}
    },
    "radiomics": {
        "processing": {"resample": {"spacing": [1, 1, 1]}, "normalize": {}},
        "imageType": {"Wavelet": {}},
        "featureClass": {"glcm": []},
    },
}


@pytest.mark.parametrize("name", sorted(pages()))
def test_page_is_up_to_date(name):
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == pages()[name], "run: python -m jipflow.cli.reference"


@pytest.mark.parametrize("name", sorted(schemas()))
def test_schema_is_up_to_date(name):
    written = (SCHEMAS / name).read_text(encoding="utf-8")
    assert written == schemas()[name], "run: python -m jipflow.cli.reference"
    jsonschema.Draft202012Validator.check_schema(json.loads(written))


def test_pages_and_schemas_are_all_that_is_written(tmp_path):
    write(tmp_path / "docs", tmp_path / "schemas")
    for folder, texts in (("docs", pages()), ("schemas", schemas())):
        written = (tmp_path / folder).iterdir()
        assert {path.name: path.read_text(encoding="utf-8") for path in written} == texts


def rows(page):
    """The tables of a page: cells by the first cell, without its backticks."""
    found = {}
    for line in page.splitlines():
        if line.startswith("| `"):
            first, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            found.setdefault(first.strip("`"), []).append(cells)
    return found


def property_names(node):
    """Every key that a schema knows, whatever stands between."""
    if isinstance(node, dict):
        for name, value in node.get("properties", {}).items():
            if isinstance(value, dict) and set(value) != {"const"}:
                yield name
        for value in node.values():
            yield from property_names(value)
    elif isinstance(node, list):
        for value in node:
            yield from property_names(value)


def elsewhere(name):
    """The definitions in a schema that another page is about."""
    radiomics = json.loads(schemas()["radiomics.schema.json"])
    return {"Radiomics", *radiomics["$defs"]} if name == "protocol" else set()


@pytest.mark.parametrize("name", ["site", "protocol", "radiomics", "models"])
def test_every_key_has_a_row(name):
    schema = json.loads(schemas()[f"{name}.schema.json"])
    # The protocol's page leaves the keys of radiomics settings to theirs.
    kept = {k: v for k, v in schema["$defs"].items() if k not in elsewhere(name)}
    documented = {
        part
        for path in rows(pages()[f"{name}-reference.md"])
        for part in re.split(r"[.\[\]]+", path)
    }
    assert set(property_names({**schema, "$defs": kept})) <= documented


def filled(given, completed, path=""):
    """Path and value of every default that was filled in, down to single values.

    A part that is off where it is absent (null) has a section of its own and no default.
    """
    if isinstance(completed, dict):
        for key, value in completed.items():
            name = "<name>" if path.endswith(".roles") else key
            place = f"{path}.{name}" if path else name
            known = given.get(key, {}) if isinstance(given, dict) else {}
            if isinstance(value, dict | list) and value:
                yield from filled(known, value, place)
            elif value is not None and (not isinstance(given, dict) or key not in given):
                yield place, value
    elif isinstance(completed, list) and isinstance(given, list):
        for before, after in zip(given, completed, strict=True):
            yield from filled(before, after, f"{path}[]")


@pytest.mark.parametrize("name", ["site", "protocol", "radiomics"])
def test_defaults_are_those_that_a_run_fills_in(name):
    table = rows(pages()[f"{name}-reference.md"])
    kind = {"site": Site, "protocol": Protocol, "radiomics": Radiomics}[name]
    defaults = list(filled(GIVEN[name], load(kind, GIVEN[name], name).plain()))
    assert len(defaults) >= 6
    for path, value in defaults:
        text = value if isinstance(value, str) and value else json.dumps(value)
        assert f"`{text}`" in [cells[1] for cells in table[path]], path


def test_every_reason_gap_flag_and_decision_is_explained():
    assert {code: cells for code, (cells,) in rows(pages()["reasons.md"]).items()} == {
        coded.value: [f"{coded.meaning}."] for coded in (*Reason, *Gap, *Absence, *Flag, *Decision)
    }


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return {name.lower() for group in (project["dependencies"], *extras) for name in group}


def debian_packages():
    listed = re.search(r"^for pair in (.*);", (ROOT / ".ci" / "run").read_text(), flags=re.M)
    return {pair.split(":")[1] for pair in listed[1].split()}


def test_every_dependency_has_its_line_and_nothing_else():
    page = (DOCS / "dependencies.md").read_text(encoding="utf-8")
    lines = rows(page)
    assert set(lines) == requirements() | debian_packages()
    assert all(all(cell for cell in cells) for (cells,) in lines.values())


def test_every_dependency_is_pinned():
    constraints = (ROOT / "envs" / "constraints.txt").read_text().lower()
    assert requirements() - set(re.findall(r"^([^=#\s]+)==\d", constraints, flags=re.M)) == set()
