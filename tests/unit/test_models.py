"""No model is opened that is not, file by file, the pinned one."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from jipflow.cases import StageError
from jipflow.config import MODELS, ROOT, read_yaml
from jipflow.segment.models import registered_model, verify


@pytest.fixture
def copy(tmp_path):
    model = registered_model("phantom-ct")
    shutil.copytree(model.folder, tmp_path / "model")
    return replace(model, folder=tmp_path / "model")


def test_the_shipped_models_are_the_pinned_ones_and_small():
    for name in read_yaml(MODELS)["models"]:
        model = registered_model(name)
        verify(model)
        assert sum((model.folder / f).stat().st_size for f in model.files) < 25e6
        assert model.folder.is_relative_to(ROOT)


def test_a_changed_missing_or_extra_file_is_refused(copy):
    verify(copy)
    plans = copy.folder / "plans.json"
    content = plans.read_bytes()
    plans.write_bytes(content + b" ")
    with pytest.raises(StageError, match=r"plans\.json is not the file"):
        verify(copy)
    plans.unlink()
    with pytest.raises(StageError, match=r"plans\.json is missing"):
        verify(copy)
    plans.write_bytes(content)
    (copy.folder / "fold_1").mkdir()
    (copy.folder / "fold_1" / "checkpoint_final.pth").write_bytes(b"")
    with pytest.raises(StageError, match="is not pinned"):
        verify(copy)


def test_an_unknown_model_is_named():
    with pytest.raises(StageError, match="no model 'nowhere'"):
        registered_model("nowhere")
