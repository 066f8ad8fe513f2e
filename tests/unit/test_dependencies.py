"""What is installed: declared once, pinned once, justified once, and nothing else imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

from jipflow.models import upstream

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = [
    line
    for line in (ROOT / "envs" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
EXTRAS = PROJECT["optional-dependencies"]
CALLED = {
    "pyjpegls": "pydicom",
    "pylibjpeg": "pydicom",
    "pylibjpeg-openjpeg": "pydicom",
    "python-gdcm": "pydicom",
}
"""Dependencies that no module of the package imports, and who does or calls them."""

OPTIONAL = {
    "cluster": "To submit jobs",
    "exchange": "To exchange",
    "nnunet": "For nnU-Net",
    "noise": "For analyses",
    "omop": "For clinical data",
    "totalsegmentator": "For the engine",
}
"""Extras that a site may want, and how the heading of each begins."""

APART = {ROOT / "benchmarks" / name for name in ("acro_reference.py", "crate_validator.py")}
"""Each runs in an environment of its own, without jipflow."""

NAMED = {"dicomanonymizer": "dicom-anonymizer"}
"""Distributions of modules that have another name, which a test may run without."""


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


PINS = {normal(line.split("==")[0]): line.split("==")[1] for line in CONSTRAINTS}
DECLARED = {normal(name) for name in PROJECT["dependencies"]}


def rows(*headings: str) -> dict[str, str]:
    """The rows of docs/dependencies.md below headings that start so, by the package's name."""
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    found: list[tuple[str, str]] = []
    for section in page.split("\n## ")[1:]:
        if section.startswith(headings):
            found += re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.M)
    names = [name for name, _ in found]
    assert len(names) == len(set(names)), "a package stands twice"
    return dict(found)


def imported(folder: str) -> dict[str, set[str]]:
    """The distributions that the modules of a folder import, and from which files."""
    known = packages_distributions()
    files = sorted({*(ROOT / folder).rglob("*.py")} - APART)
    ours = {"jipflow"}
    if folder in ("tests", "benchmarks"):
        # They import what lies beside them, and from each other.
        beside = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
        ours |= {path.stem for path in (*files, *beside)}
    found: dict[str, set[str]] = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for top in {name.partition(".")[0] for name in names}:
                if top not in sys.stdlib_module_names and top not in ours:
                    (distribution,) = {
                        normal(name) for name in known.get(top, [NAMED.get(top, top)])
                    }
                    found.setdefault(distribution, set()).add(str(path.relative_to(ROOT)))
    return found


def test_each_package_is_pinned_once_to_one_version():
    for line in CONSTRAINTS:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
    names = [normal(line.split("==")[0]) for line in CONSTRAINTS]
    assert names == sorted(set(names))


@pytest.mark.parametrize("group", ["run", *EXTRAS])
def test_each_direct_dependency_is_pinned_and_justified(group):
    wanted = DECLARED if group == "run" else {normal(name) for name in EXTRAS[group]}
    assert wanted <= PINS.keys()
    headings = {
        "run": "To run",
        "test": ("To test", *OPTIONAL.values()),
        "bench": "To measure",
        **OPTIONAL,
        "totalsegmentator": (OPTIONAL["nnunet"], OPTIONAL["totalsegmentator"]),
    }[group]
    names = rows(*([headings] if isinstance(headings, str) else headings))
    assert {normal(name) for name in names} == wanted
    assert all(re.fullmatch(r"\S.* \| \S.*\.", row) for row in names.values()), names


def test_what_installs_pyradiomics_is_pinned():
    script = (ROOT / "envs" / "jipflow.post-deploy.sh").read_text(encoding="utf-8")
    (tools,) = re.findall(r"^install ([a-z ]+)$", script, re.M)
    assert {*tools.split(), "pyradiomics"} <= PINS.keys()


def test_every_import_of_the_package_is_declared_and_every_dependency_imported():
    found = imported("workflow/jipflow")
    optional = {normal(name) for extra in OPTIONAL for name in EXTRAS[extra]}
    assert {k: v for k, v in found.items() if k not in DECLARED | optional} == {}
    assert DECLARED - found.keys() == CALLED.keys()


@pytest.mark.parametrize(
    ("folder", "extras"), [("tests", ["test"]), ("benchmarks", ["bench", "test"])]
)
def test_every_import_of_tests_and_benchmarks_is_declared(folder, extras):
    """`make bench` installs both."""
    declared = DECLARED | {normal(name) for extra in extras for name in EXTRAS[extra]}
    assert {k: v for k, v in imported(folder).items() if k not in declared} == {}


def test_torch_is_pinned_to_the_version_that_torchvision_needs():
    (needed,) = (r for r in requires("torchvision") or [] if re.match(r"torch\b", r))
    assert re.search(r"==\s*([0-9.]+)", needed)[1] == PINS["torch"]


def test_nnunet_is_pinned_to_the_version_whose_inside_is_used():
    assert PINS[normal(upstream.PACKAGE)] == upstream.VERSION


def test_the_interpreters_that_make_looks_for_are_those_that_pip_accepts():
    versions = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"])
    first, end = int(versions[1]), int(versions[2])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"not (3, {first}) <= sys.version_info < (3, {end})" in makefile
    (looked_for,) = re.findall(r"foreach p,([^,]+),", makefile)
    wanted = [f"python3.{minor}" for minor in range(first, end)]
    assert looked_for.split() == [*wanted, "python3"]


def test_what_the_set_up_names_is_in_git():
    """A folder that .gitignore swallows is in no clone."""
    script = (ROOT / "envs" / "jipflow.post-deploy.sh").read_text(encoding="utf-8")
    for name in re.findall(r"\benvs/[\w./-]+", script):
        assert (ROOT / name).exists(), name
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert not {"build/", "build"} & set(ignored)
