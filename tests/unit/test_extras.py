"""A site without nnU-Net and PyTorch: what it can do, and how it hears that it cannot."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import typed
from jipflow.segment import stage
from jipflow.settings import extras
from jipflow.settings.resources import ConfigError

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
WITHOUT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("SNAKEMAKE")},
    "PYTHONPATH": os.pathsep.join(
        [str(ROOT / "tests" / "without_networks"), str(ROOT / "workflow")]
    ),
}
"""The environment of a Python that finds neither nnU-Net nor PyTorch."""

NETWORKS = {
    "jipflow.models.checkpoints",
    "jipflow.models.device",
    "jipflow.segment.engines.nnunet.engine",
    "jipflow.segment.engines.nnunet.inference",
    "jipflow.training.evaluate",
    "jipflow.training.fit",
    "jipflow.training.plan",
}
"""All modules that need nnU-Net or PyTorch to be imported."""

IMPORT_ALL = """
import importlib, pkgutil, jipflow
for found in pkgutil.walk_packages(jipflow.__path__, "jipflow."):
    if not found.name.endswith("__main__"):
        try:
            importlib.import_module(found.name)
        except Exception:
            print(found.name)
"""

ENGINES = {
    "nnunet": {
        "id": "organs",
        "engine": "nnunet",
        "model": "phantom-ct",
        "role": "CT",
        "segments": [{"name": "liver", "label": "liver", "term": "liver"}],
    },
    "total": {
        "id": "total",
        "engine": "totalsegmentator",
        "model": "total-ct",
        "task": "total",
        "role": "CT",
        "segments": [{"name": "liver", "label": "liver"}],
    },
    "threshold": {
        "id": "dense",
        "engine": "threshold",
        "role": "CT",
        "segments": [{"name": "dense", "above": 300, "term": "liver"}],
    },
}


def protocol(*engines):
    """The typed protocol of segmentations by these engines."""
    return typed.settings([ENGINES[name] for name in engines]).protocol


@pytest.fixture
def absent(monkeypatch):
    """Make the distributions of a name look as if they were not installed."""
    real = extras.metadata.version

    def make(*names):
        def version(name):
            if name in names:
                raise extras.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(extras.metadata, "version", version)

    return make


def test_what_is_looked_for_is_what_the_extra_installs():
    assert {name: list(found) for name, found in extras.LIBRARIES.items()} == {
        name: EXTRAS[name] for name in ("nnunet", "totalsegmentator")
    }


def test_the_tests_have_what_every_site_may_install():
    others = {name for extra in EXTRAS if extra != "bench" for name in EXTRAS[extra]}
    assert others <= set(EXTRAS["test"])


def test_all_but_what_runs_networks_is_imported_without_them():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], env=WITHOUT, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == NETWORKS


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_the_command_that_installs_an_extra_can_be_typed_anywhere(extra):
    change, install = extras.install_command(extra).split(" && ")
    program, folder = shlex.split(change)
    assert (program, Path(folder)) == ("cd", ROOT)
    python, *words, editable = shlex.split(install)
    assert python == sys.executable
    assert words == ["-m", "pip", "install", "-c", "envs/constraints.txt", "-e"]
    assert editable == f".[{extra}]"


def test_every_message_has_that_command_of_an_extra_that_is_there():
    named = set()
    for path in (ROOT / "workflow" / "jipflow").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path != Path(extras.__file__):
            assert not re.search(rf"\[({'|'.join(EXTRAS)})\]'", text), path
        named |= set(re.findall(r"install_command\(['\"](\w+)['\"]\)", text))
    assert named == {"exchange", "nnunet", "noise", "omop", "totalsegmentator"}
    assert named <= EXTRAS.keys()


def test_a_segmentation_without_its_libraries_is_refused_in_one_line(absent):
    absent("torch")
    with pytest.raises(ConfigError) as caught:
        extras.check_segmentations(protocol("threshold", "nnunet"))
    message = str(caught.value)
    assert message.startswith("segmentation 'organs' by engine nnunet needs torch, not installed")
    assert message.endswith(extras.install_command("nnunet"))
    assert "\n" not in message


def test_other_engines_need_none_of_them(absent):
    absent("torch", "nnunetv2", "totalsegmentator")
    extras.check_segmentations(protocol("threshold"))
    assert extras.needed_extra(protocol("threshold")) == ""
    assert extras.needed_extra(protocol("threshold", "nnunet")) == "nnunet"
    assert extras.needed_extra(protocol("total", "nnunet")) == "totalsegmentator"


def test_a_job_elsewhere_says_the_same(absent, tmp_path):
    """As one of `--sdm conda`, whose libraries the process that starts it does not know."""
    absent("nnunetv2")
    settings = typed.settings([ENGINES["nnunet"]])
    with pytest.raises(ConfigError, match=r"'organs' by engine nnunet needs nnunetv2"):
        stage.run(
            cases=[],
            prepared=set(),
            settings=settings,
            volumes=tmp_path,
            masks=tmp_path / "masks",
            threads=1,
        )


def snakemake(folder, *words, protocol):
    """Start a run at a site without networks, dry; returns how it ended and its last line."""
    site = ["site={id: a, name: a}", f"sources=[{{name: a, kind: folder, path: {folder}}}]"]
    command = [sys.executable, "-m", "snakemake", *words, "--dry-run", "--config", *site]
    done = subprocess.run(
        [*command, f"protocol={protocol}", f"results={folder}/results"],
        cwd=ROOT,
        env=WITHOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout.strip().splitlines()[-1]


def test_a_run_that_would_need_nnunet_is_refused_at_its_start(tmp_path):
    code, line = snakemake(tmp_path, protocol="demo")
    assert code == 1
    assert line == (
        "segmentation 'organs' by engine nnunet needs nnunetv2 and torch, not installed here; "
        f"say: {extras.install_command('nnunet')}"
    )


def test_a_protocol_that_describes_a_training_runs_and_does_not_train(tmp_path):
    assert snakemake(tmp_path, protocol="sarcoma-pet-train")[0] == 0
    code, line = snakemake(tmp_path, "train", protocol="sarcoma-pet-train")
    assert code == 1
    assert line == (
        "the training of model 'sarcoma-pet' needs nnunetv2 and torch, not installed here; "
        f"say: {extras.install_command('nnunet')}"
    )
