"""No module of the package lets a file run code: nothing is unpickled."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "workflow" / "jipflow"

UNPICKLERS = {
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "joblib.load",
    "marshal.load",
    "marshal.loads",
    "shelve.open",
    "pd.read_pickle",
    "pandas.read_pickle",
}


def unpickled(source: str) -> list[str]:
    """The calls of a module that may unpickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found += [name for a in node.names if (name := f"{node.module}.{a.name}") in UNPICKLERS]
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if (
            function in UNPICKLERS
            or (function == "torch.load" and given.get("weights_only") != "True")
            or given.get("allow_pickle", "False") != "False"
            or given.get("weights_only", "True") != "True"
        ):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pickle.loads(content)",
        "from pickle import load",
        "pd.read_pickle(path)",
    ],
)
def test_an_unpickling_is_seen(source):
    assert unpickled(source)


@pytest.mark.parametrize(
    "source", ["torch.load(path, weights_only=True)", "np.load(path)", "pickle.dumps(content)"]
)
def test_what_unpickles_nothing_is_no_unpickling(source):
    assert not unpickled(source)


def test_nothing_is_unpickled():
    found = {
        str(path.relative_to(PACKAGE)): calls
        for path in sorted(PACKAGE.rglob("*.py"))
        if (calls := unpickled(path.read_text(encoding="utf-8")))
    }
    assert found == {}
