"""nnU-Net's inside: used by one module, of one version."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from jipflow.models import upstream
from jipflow.reasons import StageError

PACKAGE = Path(upstream.__file__).parents[1]


def test_another_version_is_refused_with_the_fix(monkeypatch):
    monkeypatch.setattr(upstream, "version", lambda name: "2.9.0")
    with pytest.raises(StageError, match=r"here: 2\.9\.0\. .* pip install -c envs/constraints.txt"):
        upstream.check_version()


def test_no_nnunet_is_refused_with_the_fix(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(upstream, "version", absent)
    with pytest.raises(StageError, match=r"here: none\. .* pip install -c envs/constraints.txt"):
        upstream.check_version()


@pytest.mark.parametrize("name", upstream.HOMES)
def test_each_name_is_where_the_table_says(name):
    assert getattr(upstream, name).__name__ == name


def test_another_name_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'nnUNetDataset'"):
        _ = upstream.nnUNetDataset


def test_type_checkers_see_the_names_of_the_table():
    tree = ast.parse(Path(upstream.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module.removeprefix("nnunetv2.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == upstream.HOMES


def test_nothing_of_nnunet_is_loaded_before_it_is_asked_for():
    code = (
        "import sys; from jipflow.models import upstream\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('nnunetv2', 'torch')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_other_module_reaches_into_nnunet():
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == Path(upstream.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_internal"), f"{path}: {node.attr}"
                continue
            else:
                continue
            inside = {"nnunetv2", "acvl_utils", "dynamic_network_architectures"}
            assert not inside & {name.partition(".")[0] for name in names}, path
