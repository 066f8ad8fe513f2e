"""Which tests one process runs, and in which order."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def order():
    """The module that orders the tests; other folders have one of its name."""
    spec = importlib.util.spec_from_file_location("order_of_tests", TESTS / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_file_that_a_group_names_is_there(order):
    named = [
        f"{folder}/test_{name}.py"
        for _, pattern in order.GROUPS
        for folder, names in re.findall(r"(\w+)/test_\(?([\w|]+)\)?\\\.py", pattern)
        for name in names.split("|")
    ]
    assert len(named) > 25
    assert [name for name in named if not (TESTS / name).is_file()] == []


def test_the_demonstration_comes_after_what_its_site_is_compared_with(order):
    wanted = [
        ("pipeline/test_sarcoma.py::test_a[sarcoma-ct]", ("sarcoma",)),
        ("pipeline/test_resume.py::test_b", ("tiny_run", "resumed")),
        ("pipeline/test_tiny.py::test_c", ("tiny_run",)),
        ("pipeline/test_demo.py::test_d", ("tiny_run", "demo")),
        ("pipeline/test_clinical_run.py::test_e", ("contours_run",)),
        ("unit/test_engines.py::test_f[container-upright]", ()),
        ("unit/test_engines.py::test_f[nnunet-upright]", ()),
        ("unit/test_hub.py::test_g", ()),
    ]
    items = [SimpleNamespace(nodeid=f"tests/{name}", fixturenames=f) for name, f in wanted]
    given = [items[number] for number in (7, 3, 6, 1, 4, 0, 5, 2)]
    order.pytest_collection_modifyitems(given)
    assert [item.nodeid for item in given] == [item.nodeid for item in items]
    groups = [order.group(item.nodeid) for item in items]
    assert groups[1:4] == ["demo"] * 3
    assert groups[-3:] == ["containers", "engines", "unit/test_hub.py"]
