"""Profiles: what the templates ask a scheduler for, and which of them are called untested."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from snakemake.profiles import ProfileConfigFileParser

from jipflow.settings.command_line import fetch_nothing
from jipflow.settings.resources import ROOT

PROFILES = ROOT / "profiles"
UNTESTED = {"kubernetes", "lsf", "pbs", "sge"}
SCRIPT = "/data/a site/.snakemake/tmp.x/snakejob.measure.3.sh"


def text(name: str) -> str:
    return (PROFILES / name / "config.yaml").read_text(encoding="utf-8")


def options(name: str) -> dict:
    with open(PROFILES / name / "config.yaml", encoding="utf-8") as stream:
        return dict(ProfileConfigFileParser().parse(stream))


def test_what_is_untested_says_so_in_its_head_and_on_the_page() -> None:
    found = {path.parent.name for path in PROFILES.glob("*/config.yaml")}
    assert {name for name in found if text(name).startswith("# UNTESTED")} == UNTESTED
    page = (ROOT / "docs" / "admin-guide.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", page, re.M))
    assert rows.keys() == found - {"default", "demo"}
    assert {name for name, tried in rows.items() if "untested" in tried} == UNTESTED


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def stand_in(folder: Path, name: str, prints: str, code: int = 0) -> Path:
    """A program of a scheduler that notes its arguments, a line each."""
    noted = folder / f"{name}.noted"
    file = folder / name
    file.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" > '{noted}'\ncat <<'END'\n{prints}\nEND\nexit {code}\n"
    )
    file.chmod(0o755)
    return noted


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


def submitted(name: str, queue: str = "default", threads: int = 8) -> str:
    """The command of a profile as the plugin fills it in, with the script behind it."""

    class Resources:
        mem_mb, runtime = 16001, 250

    Resources.queue = queue
    command = options(name)["cluster-generic-submit-cmd"]
    filled = command.format(threads=threads, resources=Resources, rule="measure")
    return f'{filled} "{SCRIPT}"'


@pytest.mark.parametrize(
    ("name", "program", "prints", "number", "asked"),
    [
        (
            "lsf",
            "bsub",
            "Job <4711> is submitted to queue <normal>.",
            "4711",
            "-n 8 -R|span[hosts=1] rusage[mem=16001MB]|-M 16001MB -W 250 -q long"
            " -J jipflow-measure -o /dev/null",
        ),
        (
            "sge",
            "qsub",
            "4711",
            "4711",
            "-terse -S /bin/sh -cwd -pe smp 8 -l h_vmem=2001M,h_rt=15000 -q long"
            " -N jipflow-measure -j y -o /dev/null",
        ),
        (
            "pbs",
            "qsub",
            "4711.head",
            "4711.head",
            "-l select=1:ncpus=8:mem=16001mb -l walltime=4:10:00 -q long"
            " -N jipflow-measure -j oe -o /dev/null",
        ),
    ],
)
def test_a_template_asks_for_cores_memory_time_and_queue(
    name, program, prints, number, asked, bin_folder
):
    noted = stand_in(bin_folder, program, prints)
    done = shell(submitted(name, "long"))
    assert (done.returncode, done.stdout.strip()) == (0, number), done.stderr
    first, *parts = asked.split("|")
    wanted = first.split() + (parts[:1] + parts[1].split() if parts else [])
    assert noted.read_text().splitlines() == [*wanted, SCRIPT]
    shell(submitted(name))
    assert "-q" not in noted.read_text().splitlines()
    stand_in(bin_folder, program, "no such queue", code=1)
    assert shell(submitted(name)).returncode != 0


@pytest.mark.parametrize(
    ("name", "programs", "state"),
    [
        ("lsf", {"bjobs": ("RUN", 0)}, "running"),
        ("lsf", {"bjobs": ("DONE", 0)}, "success"),
        ("lsf", {"bjobs": ("EXIT", 0)}, "failed"),
        ("lsf", {"bjobs": ("", 255)}, "running"),
        ("sge", {"qstat": ("job_number: 4711", 0), "qacct": ("", 1)}, "running"),
        ("sge", {"qstat": ("", 1), "qacct": ("", 1)}, "running"),
        ("sge", {"qstat": ("", 1), "qacct": ("failed       0\nexit_status  0", 0)}, "success"),
        ("sge", {"qstat": ("", 1), "qacct": ("failed       0\nexit_status  137", 0)}, "failed"),
        (
            "sge",
            {"qstat": ("", 1), "qacct": ("failed   37 : qmaster\nexit_status  0", 0)},
            "failed",
        ),
        ("pbs", {"qstat": ("    job_state = R", 0)}, "running"),
        ("pbs", {"qstat": ("    job_state = F\n    Exit_status = 0", 0)}, "success"),
        ("pbs", {"qstat": ("    job_state = F\n    Exit_status = 271", 0)}, "failed"),
        ("pbs", {"qstat": ("", 35)}, "running"),
    ],
)
def test_a_template_knows_how_a_job_stands(name, programs, state, bin_folder):
    for program, (prints, code) in programs.items():
        stand_in(bin_folder, program, prints, code)
    done = shell(f"{options(name)['cluster-generic-status-cmd']} '4711'")
    assert done.stdout == f"{state}\n"


@pytest.mark.parametrize("option", ["--sdm", "--use-conda", "--default-storage-provider=s3"])
def test_where_no_network_is_snakemake_fetches_nothing(option, capsys):
    with pytest.raises(SystemExit):
        fetch_nothing(["--profile", "profiles/airgapped", option])
    assert option.partition("=")[0] in capsys.readouterr().err
    fetch_nothing(["--profile", "profiles/airgapped", "-n"])
