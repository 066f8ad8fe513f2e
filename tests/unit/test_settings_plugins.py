"""An engine is a folder, an analysis a file; the settings find both, light as they are."""

from __future__ import annotations

import subprocess
import sys

from jipflow.settings.plugins import analysis_settings, engine_names, engine_settings
from jipflow.settings.protocol import AnalysisSettings, SegmentationSettings
from jipflow.settings.registry import RegisteredModel

ENGINE_SETTINGS = """
from typing import Annotated, Literal
from pydantic import Field
from jipflow.settings.protocol import SegmentationSettings, SegmentSettings
from jipflow.settings.registry import RegisteredModel

class Toy(SegmentationSettings):
    engine: Literal["toy"]
    colour: Literal["red", "blue"] = "red"
    segments: Annotated[list[SegmentSettings], Field(min_length=1)]

    def problems(self, protocol, known):
        if self.colour == "blue":
            yield "blue toys break; take a red one."

class ToyModel(RegisteredModel):
    engine: Literal["toy"]
"""
ENGINE = """
from jipflow.segment.engine import Engine

class Toy(Engine):
    def regions(self, inputs, found):
        return []
"""
ANALYSIS = """
from typing import Literal
from jipflow.settings.protocol import AnalysisSettings

class Settings(AnalysisSettings):
    kind: Literal["toys"]
    number: int = 3
"""
USE = """
import sys
import jipflow.analyses, jipflow.segment.engines
jipflow.segment.engines.__path__.append(sys.argv[1] + "/engines")
jipflow.analyses.__path__.append(sys.argv[1] + "/analyses")
from jipflow.cli.reference import pages, schemas
from jipflow.segment.engine import engine_class
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import settings_of

site = {"site": {"id": "a", "name": "A"}, "sources": [{"name": "a", "kind": "folder", "path": "/"}]}
toy = {"id": "a", "engine": "toy", "role": "CT", "segments": [{"name": "a", "term": "liver"}]}
protocol = {
    "protocol": {"id": "p", "version": "1.0.0", "title": "P"},
    "cohort": {"where": "true", "case": {"roles": {"CT": {"where": "true"}}}},
    "segmentations": [toy],
    "radiomics": [{"segmentation": "a", "role": "CT", "settings": "summary"}],
    "analyses": [{"id": "t", "kind": "toys", "variables": ["CT.volume_ml"]}],
}
made = settings_of(site, protocol).protocol
assert made.segmentations[0].colour == "red"
assert made.analyses[0].number == 3
assert engine_class("toy").__name__ == "Toy"
assert "### segmentations with engine `toy`" in pages()["protocol-reference.md"]
assert "ToyModel" in schemas()["models.schema.json"]
for wrong, message in (
    (toy | {"engine": "tou"}, "threshold, totalsegmentator, toy; did you mean 'toy'?"),
    (toy | {"color": "red"}, "did you mean 'colour'?"),
    (toy | {"colour": "blue"}, "segmentation 'a': blue toys break; take a red one."),
):
    try:
        settings_of(site, protocol | {"segmentations": [wrong]})
    except ConfigError as error:
        assert message in str(error), error
    else:
        raise AssertionError(wrong)
"""
LIGHT = """
import sys
from jipflow.settings.complete import complete_types
complete_types()
heavy = {"numpy", "pandas", "pyarrow", "torch", "scipy", "pydicom", "SimpleITK", "duckdb"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def python(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_each_engine_declares_its_segmentation_and_its_models():
    kinds = [kind.model_fields["engine"].annotation.__args__ for kind in specs()]
    assert sorted(kinds) == [(name,) for name in engine_names()]
    models = engine_settings(RegisteredModel)
    assert {kind.__module__.split(".")[-2] for kind in models} <= set(engine_names())
    assert all("segments" in kind.model_fields for kind in specs())


def specs():
    return engine_settings(SegmentationSettings)


def test_each_analysis_declares_its_settings():
    kinds = {kind.__module__.split(".")[-1] for kind in analysis_settings(AnalysisSettings)}
    assert {"summary", "histogram"} <= kinds


def test_another_engine_and_another_analysis_are_found_by_their_names(tmp_path):
    (tmp_path / "engines" / "toy").mkdir(parents=True)
    (tmp_path / "analyses").mkdir()
    (tmp_path / "engines" / "toy" / "__init__.py").touch()
    (tmp_path / "engines" / "toy" / "settings.py").write_text(ENGINE_SETTINGS)
    (tmp_path / "engines" / "toy" / "engine.py").write_text(ENGINE)
    (tmp_path / "analyses" / "toys.py").write_text(ANALYSIS)
    python(USE, tmp_path)


def test_what_settings_import_is_light():
    python(LIGHT)
