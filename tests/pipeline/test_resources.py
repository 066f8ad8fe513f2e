"""What a job gets of memory and time follows from its shard, its cores and its tries."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace


def test_memory_and_time_grow_with_the_shard_its_cores_and_each_try(
    contours_run, tmp_path, monkeypatch
):
    shutil.copytree(contours_run.results, tmp_path / "results")
    site = replace(contours_run, results=tmp_path / "results")
    cases = site.out / "cohort" / "cases.tsv"
    made, (head, *rows) = cases.stat(), cases.read_text().splitlines()
    cells = next(row for row in rows if "\ts00001\t" in row).split("\t")
    many = ["\t".join([f"{number:016d}", *cells[1:]]) for number in range(120)]
    cases.write_text("\n".join([head, *rows, *many, ""]))
    os.utime(cases, ns=(made.st_atime_ns, made.st_mtime_ns))
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
    assert asked == [(24_000, 146), (48_000, 292)], output[-3000:]
