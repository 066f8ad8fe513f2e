"""An import of the package only ever points down, by the list in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "workflow" / "jipflow"
ARCHITECTURE = ROOT / "docs" / "architecture.md"

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@cache
def rooms() -> list[str]:
    """The rooms of the first table of the page, from top to bottom."""
    page = ARCHITECTURE.read_text(encoding="utf-8")
    table = page.split("\n\n")[2]
    return [
        name.rstrip("/").replace("/", ".") for name in re.findall(r"^\| `([^`]+)` \|", table, re.M)
    ]


def room_of(module: str) -> str:
    """The room of a module: the longest name of the list that holds it."""
    inside = module.removeprefix("jipflow.")
    held = [room for room in rooms() if f"{inside}.".startswith(f"{room}.")]
    assert held, f"{module} is in no room of {ARCHITECTURE.name}"
    return max(held, key=len)


def imported(path: Path, module: str) -> set[str]:
    """The modules of the package that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            name = node.module or ""
            found |= {
                full if (full := f"{name}.{alias.name}") in MODULES else name
                for alias in node.names
            }
    return {name for name in found if name in MODULES} - {"jipflow", module}


IMPORTS = {
    module: imported(path, module) for module, path in MODULES.items() if module != "jipflow"
}


def test_every_room_of_the_list_is_there():
    assert len(rooms()) > 20
    assert len(set(rooms())) == len(rooms())
    assert {room_of(module) for module in IMPORTS} == set(rooms())


@pytest.mark.parametrize("module", IMPORTS)
def test_an_import_points_down(module):
    floor = rooms().index(room_of(module))
    up = {name for name in IMPORTS[module] if rooms().index(room_of(name)) < floor}
    assert not up, f"{module} is in the room {rooms()[floor]!r}, below what it imports"


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1][::-1]))


def test_the_phantom_imports_nothing_of_the_pipeline():
    for module, names in IMPORTS.items():
        if module.startswith("jipflow.phantom"):
            assert all(name.startswith("jipflow.phantom") for name in names), module
