"""The picture of README shows the report as it is, of the demonstration as it is."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fake_results as fake
from jipflow.cli.newcomers import demo
from jipflow.phantom.cohort import SERIES_DEFECTS
from jipflow.report.site.page import write_report

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
AGAIN = "make demo, then .venv/bin/python docs/images/report.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("report_picture", IMAGES / "report.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kept(script: Any) -> dict[str, Any]:
    """What the picture says that it shows."""
    with Image.open(IMAGES / "report.png") as picture:
        return json.loads(picture.text[script.KEY])  # type: ignore[attr-defined]


def test_the_picture_is_of_the_page_as_it_is_written_now(
    script: Any, kept: dict[str, Any], tmp_path: Path
) -> None:
    results = fake.build(tmp_path / "results" / "demo", pictures=False)
    write_report(results=results, settings=fake.settings(), path=tmp_path / "index.html")
    now = script.shown((tmp_path / "index.html").read_text(encoding="utf-8"))
    for part in ("contents", "title", "headings"):
        assert kept[part] == now[part], AGAIN
    assert list(kept["tiles"]) == list(now["tiles"]), AGAIN


def test_the_picture_is_of_the_demonstration_as_it_is_now(kept: dict[str, Any]) -> None:
    sound = inspect.signature(demo).parameters["patients"].default
    assert kept["tiles"] == {"Ok": sound, "Failed": len(SERIES_DEFECTS), "Excluded": 0}, AGAIN
