"""Conda's environments, the recipe of a container and the pins: one list of versions for all."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from jipflow.segment.engine import engine_class
from jipflow.settings.extras import LIBRARIES
from test_dependencies import PINS, normal

ROOT = Path(__file__).resolve().parents[2]
ENVS = ROOT / "envs"
RECIPE = (ENVS / "jipflow.def").read_text(encoding="utf-8")
REQUIRES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "requires-python"
]
SCRIPT = "envs/jipflow.post-deploy.sh"
PYTHON_OF_DEBIAN = {"bookworm": "3.11", "trixie": "3.13"}


def section(name: str) -> list[str]:
    """The lines of a section of the recipe, without those that are empty."""
    (found,) = (part for part in re.split("^%", RECIPE, flags=re.M) if part.startswith(f"{name}\n"))
    return [line.strip() for line in found.splitlines()[1:] if line.strip()]


def needs(path: Path) -> dict[str, str]:
    """What an environment of conda names, each with its version."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["channels"] == ["conda-forge"]
    pattern = re.compile(r"(\S+)(?: =(\S+))?")
    return dict(pattern.fullmatch(need).groups() for need in content["dependencies"])


def test_no_file_beside_the_pins_has_a_version_of_a_package_but_theirs():
    """Of what is named elsewhere, as in a page or a recipe."""
    named = re.compile(r"(?<![\w.-])([A-Za-z][\w.-]*)==([0-9][\w.]*)")
    files = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "pyproject.toml"]
    files += [path for path in ENVS.glob("*") if path.is_file() and path.name != "constraints.txt"]
    found = {
        (path.name, name, version)
        for path in files
        for name, version in named.findall(path.read_text(encoding="utf-8"))
        if normal(name) in PINS
    }
    assert found
    assert {(file, name, PINS[normal(name)]) for file, name, _ in found} == found


@pytest.mark.parametrize("name", ["jipflow", *LIBRARIES])
def test_conda_brings_python_and_a_compiler_and_pip_the_rest(name):
    assert needs(ENVS / f"{name}.yaml") == needs(ENVS / "jipflow.yaml")
    assert needs(ENVS / "jipflow.yaml").keys() == {"python", "pip", "gcc"}
    script = (ENVS / f"{name}.post-deploy.sh").read_text(encoding="utf-8")
    if name != "jipflow":
        (call,) = (line for line in script.splitlines() if not line.startswith("#"))
        assert call == f'exec bash "$JIPFLOW_REPOSITORY/{SCRIPT}" {name}'


def test_the_script_of_an_extra_installs_it(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$PWD: $*"\n')
    python.chmod(0o755)
    for name in LIBRARIES:
        copy = tmp_path / f"{name}.post-deploy.sh"
        copy.write_bytes((ENVS / copy.name).read_bytes())
        done = subprocess.run(
            ["bash", copy.name],
            cwd=tmp_path,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "JIPFLOW_REPOSITORY": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        (last,) = (line for line in done.stdout.splitlines() if "--editable" in line)
        assert last.startswith(f"{ROOT}: -m pip")
        assert last.endswith(f"--editable .[{name}]")


def test_a_newer_python_has_what_the_setup_of_pyradiomics_calls(tmp_path):
    """Python 3.12 has neither of both names; see envs/pyradiomics."""
    (tmp_path / "setup.cfg").write_text("[versioneer]\nVCS = git\n")
    code = (
        "import configparser; vars(configparser).pop('SafeConfigParser', None)\n"
        "import runpy; runpy.run_path(__import__('sys').argv[1])\n"
        "parser = configparser.SafeConfigParser()\n"
        "with open('setup.cfg') as file: parser.readfp(file)\n"
        "print(parser.get('versioneer', 'VCS'))\n"
    )
    compatible = ENVS / "pyradiomics" / "sitecustomize.py"
    done = subprocess.run(
        [sys.executable, "-c", code, str(compatible)], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("git\n", "")


def test_jobs_that_run_networks_have_an_environment_with_them():
    segment = (ROOT / "rules" / "segment.smk").read_text(encoding="utf-8")
    assert 'f"../envs/{NETWORKS}.yaml"' in segment
    for rules in (ROOT / "rules").glob("*.smk"):
        for rule in re.split(r"^ *(?:rule|checkpoint) ", rules.read_text("utf-8"), flags=re.M)[1:]:
            trains = re.match(r"train_(plan|fit|evaluate|report|register):", rule)
            others = rule.startswith("segment:")
            if "conda:" in rule and not others:
                assert f"envs/{'nnunet' if trains else 'jipflow'}.yaml" in rule, rule[:30]


def test_python_of_conda_and_of_the_recipe_is_one_that_is_tested():
    (release,) = re.findall(r"^From: debian:(\w+)-slim$", RECIPE, re.MULTILINE)
    python = needs(ENVS / "jipflow.yaml")["python"]
    assert PYTHON_OF_DEBIAN[release] == python
    first, end = (int(minor) for minor in re.findall(r"3\.(\d+)", REQUIRES))
    assert first <= int(python.split(".")[1]) < end
    assert sys.version_info[:2] >= (3, first)


def test_the_recipe_installs_by_the_script_of_the_others():
    assert f"PATH=/opt/jipflow/.venv/bin:$PATH {SCRIPT} {{{{ EXTRAS }}}}" in section("post")
    assert not [line for line in section("post") if re.search(r"\bpip\b", line)]
    assert section("arguments") == ["EXTRAS="]
    (install,) = (line for line in section("post") if "apt-get install" in line)
    compiler = {"gcc", "libc6-dev", "python3-dev"}
    assert {"python3-venv", "ca-certificates", *compiler} == set(install.split()[4:])
    (purge,) = (line for line in section("post") if "apt-get purge" in line)
    assert set(purge.split()[4:]) == compiler


def test_the_recipe_has_the_files_that_jipflow_runs_from():
    taken = dict(line.split() for line in section("files"))
    assert set(taken.values()) == {f"/opt/jipflow/{name}" for name in taken}
    tracked = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    apart = {"docs", "tests", "benchmarks", "Makefile", "CHANGELOG.md", "CITATION.cff"}
    apart |= {"CONTRIBUTING.md"}
    assert taken.keys() == {n for n in tracked if not n.startswith(".")} - apart


@pytest.mark.parametrize("extra", LIBRARIES)
def test_each_engine_that_needs_an_extra_is_named_after_it(extra):
    assert engine_class(extra).__module__ == f"jipflow.segment.engines.{extra}.engine"
