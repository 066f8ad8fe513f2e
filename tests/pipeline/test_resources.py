"""What a job gets of memory and time follows from its shard, its cores and its tries."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace

import pytest

from harness import ROOT, as_it_was, make_site, settle, snakemake
from jipflow.files import sha256_file
from jipflow.provenance import beside


def test_memory_and_time_grow_with_the_shard_and_memory_with_its_cores_and_tries(
    contours_run, tmp_path, monkeypatch
):
    shutil.copytree(contours_run.results, tmp_path / "results")
    site = replace(contours_run, results=tmp_path / "results")
    cases = site.out / "cohort" / "cases.tsv"
    head, *rows = cases.read_text().splitlines()
    cells = next(row for row in rows if "\ts00001\t" in row).split("\t")
    many = ["\t".join([f"{number:016d}", *cells[1:]]) for number in range(120)]
    with as_it_was(cases):
        cases.write_text("\n".join([head, *rows, *many, ""]))
    found = {
        "sizes": {cases.name: cases.stat().st_size},
        "outputs": {cases.name: sha256_file(cases)},
    }
    settle(site, beside(cases), found)
    program = tmp_path / "bin" / "jipflow"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    words = ("--forcerun", "prepare", "--until", "prepare", "--cores", "32", "--keep-going")
    output = site.run(*words, check=False, profile="local").stdout
    jobs = re.findall(r"^localrule prepare:\n(?:    .*\n)+", output, re.M)
    asked = [
        tuple(int(re.search(rf" {name}=(\d+)", job)[1]) for name in ("mem_mb", "runtime"))
        for job in jobs
        if "shard=s00001" in job
    ]
    # 121 cases on half of the cores, where 50 on 4 have 6,000 MB and 60 minutes; then once more.
    assert asked == [(24_000, 146), (48_000, 146)], output[-3000:]


@pytest.mark.parametrize(("mode", "cores"), [("default", 32), ("remote", 4)])
def test_a_stage_on_a_node_starts_no_more_processes_than_its_job_asked_for(mode, cores, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    site = make_site(tmp_path, "site", "demo", [images])
    cohort = site.out / "cohort"
    cohort.mkdir(parents=True)
    rows = [f"{number:016d}\ts00001" for number in range(40)]
    (cohort / "cases.tsv").write_text("\n".join(["case_id\tshard", *rows, ""]))
    (cohort / "cases.tsv").chmod(0o600)
    (tmp_path / "Snakefile").write_text(
        f"include: {str(ROOT / 'workflow' / 'Snakefile')!r}\n"
        "from types import SimpleNamespace\n"
        "shard = SimpleNamespace(shard='s00001')\n"
        "print('THREADS', shard_threads(shard))\n"
        "print('WORKERS', *(stage_workers(shard, []).split() or [stage_threads(shard)])[-1:])\n"
    )
    words = (
        "-s",
        str(tmp_path / "Snakefile"),
        "--dry-run",
        "--mode",
        mode,
        "--cores",
        "32",
        "--attempt",
        "2",
    )
    output = snakemake("catalog", *words, *site.arguments, profile="local", check=False).stdout
    assert f"THREADS {cores}\n" in output, output[-3000:]
    assert f"WORKERS {cores}\n" in output
    # A second try of a job of 2,000 MB and 120 minutes.
    asked = re.search(r"^(?:local)?rule catalog:\n(?:    .*\n)+", output, re.M)[0]
    assert " mem_mb=4000," in asked
    assert re.search(r" runtime=840\b", asked)
