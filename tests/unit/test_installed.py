"""`pip install .` takes the package alone; it says what is missing instead of failing somewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a copy of the repository was installed into, without its libraries."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "workflow" / "jipflow", source / "workflow" / "jipflow")
    target = tmp_path_factory.mktemp("site-packages")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, "--target", str(target), str(source)], check=True)
    shutil.rmtree(source)
    return target


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_command_says_in_one_line_that_it_needs_the_repository(installed):
    result = run(installed, "-m", "jipflow.cli", "phantom", "--out", "x", "--site", "x")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "jipflow runs from its repository" in line
    assert "pip install -e ." in line
    assert not (installed.parent / "x").exists()


def test_help_and_version_need_no_repository(installed):
    for word in ("--help", "--version"):
        result = run(installed, "-m", "jipflow.cli", word)
        assert (result.returncode, result.stderr) == (0, "")
        assert "jipflow" in result.stdout


def test_rules_that_come_without_the_package_say_so(installed):
    """As rules do that Snakemake loads from a web address."""
    rules = installed.parent / "elsewhere"
    shutil.copytree(ROOT / "rules", rules / "rules")
    (rules / "workflow").mkdir()
    for name in ("workflow/Snakefile", "workflow/report"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, rules / name)
    result = run(installed, "-m", "snakemake", "--snakefile", str(rules / "workflow" / "Snakefile"),
                 "--dry-run", "--config", "site={id: a, name: a}", "protocol=demo")  # fmt: skip
    assert result.returncode == 1
    assert "jipflow runs from its repository" in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize("change", [None, "rules/measure.smk"])
def test_rules_of_another_version_are_refused(tmp_path, change):
    """As where a profile names a clone that another version's snakemake runs."""
    other = tmp_path / "other"
    for name in ("rules", "workflow/report", "profiles"):
        shutil.copytree(ROOT / name, other / name)
    for name in ("workflow/Snakefile", "Snakefile"):
        shutil.copy(ROOT / name, other / name)
    if change:
        (other / change).write_text("")
    words = ("--dry-run", "catalog", "--snakefile", str(other / "Snakefile"), "--config")
    site = (
        "site={id: a, name: a}",
        "protocol=demo",
        f"results={tmp_path / 'results'}",
        f"sources=[{{name: a, kind: folder, path: {tmp_path}}}]",
    )
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", *words, *site],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    printed = result.stdout + result.stderr
    assert result.returncode == (1 if change else 0), printed
    line = f"{other / 'rules/measure.smk'} is not of this version of jipflow, which is in {ROOT}"
    assert (line in printed) == bool(change)
    assert "Traceback" not in printed


def test_an_environment_is_set_up_from_any_folder(tmp_path):
    """Snakemake runs a copy of the script where the workflow is used."""
    shutil.copy(ROOT / "envs" / "jipflow.post-deploy.sh", tmp_path)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$PWD: $*"\n')
    python.chmod(0o755)
    result = subprocess.run(
        ["bash", "jipflow.post-deploy.sh"],
        cwd=tmp_path,
        env={
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            "JIPFLOW_REPOSITORY": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    calls = [line for line in result.stdout.splitlines() if "install" in line and ": -m" in line]
    assert len(calls) == 3
    assert all(call.startswith(f"{ROOT}: -m pip") for call in calls)
