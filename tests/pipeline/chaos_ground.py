"""Sites that rounds begin with: synthetic patients, and results finished up to some point."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness import ROOT, contours_only, environment, make_site
from jipflow.phantom.cohort import write_site
from jipflow.version import full_version

GROUNDS = {"shards": 1, "pair": 2}
"""How many of the two patients a shard has: two shards, or one whose cases have a process each."""

CLOCK = "clock.so"
"""Name of the library that moves a process's time of day, in the folder above the grounds."""

STARTS = ("new", "cohort", "volumes", "stages", "finished")
"""Points up to which results are made, each beginning with the one before."""

FINISHED = re.compile(r"^Finished jobid: ", re.M)


@dataclass(frozen=True)
class Ground:
    """A site, and copies of it at several points of its run.

    Attributes:
        folder: that it is in.
        jobs: how many jobs an undisturbed run has from each of `STARTS`.
        bytes: about by how much the results grow in it, in whole blocks.
    """

    folder: Path
    jobs: dict[str, int]
    bytes: dict[str, int]

    @property
    def root(self) -> Path:
        """Where a round sees the site, whatever its number: paths are part of results."""
        return self.folder / "root"

    def start(self, name: str) -> Path:
        """Return the copy of a point."""
        return self.folder / "starts" / name


def snakemake(root: Path, clone: str = "clone") -> list[str]:
    """Return the command of the site in a folder, which is started in its folder `clone`."""
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--profile", str(ROOT / "profiles" / "demo"), "--cores", "2"),
        *("--configfile", str(root / "site.yaml")),
        *("--config", f"protocol={root / 'contours.yaml'}", f"results={root / 'results'}"),
    ]


def prepare(folder: Path, name: str) -> Ground:
    """Make a site and its points, unless it is there and of this version, which pages name."""
    about = folder / "ground.json"
    if not about.is_file() or json.loads(about.read_text())["version"] != full_version():
        shutil.rmtree(folder, ignore_errors=True)
        _make(folder, GROUNDS[name])
    return read_ground(folder)


def read_ground(folder: Path) -> Ground:
    """Read what `prepare` made."""
    found = json.loads((folder / "ground.json").read_text())
    return Ground(folder, found["jobs"], found["bytes"])


def _make(folder: Path, shard_size: int) -> None:
    root, starts = folder / "root", folder / "starts"
    write_site(root, "small", 2, 7, defects=False)
    (root / "dicom").rename(root / "archive")
    for made in ("dicom", "results", "store", "clone", "other", "tmp", "site-secrets"):
        (root / made).mkdir()
    (root / "site-secrets").chmod(0o700)
    (root / "contours.yaml").write_text(yaml.safe_dump(contours_only()))
    make_site(root, "site", "contours", [root / "dicom"], processing={"shard_size": shard_size})
    key = root / "site-secrets" / "identity.key"
    key.write_text("5a" * 32)
    key.chmod(0o600)
    (root / "dicom").rmdir()
    (root / "archive").rename(root / "dicom")
    (root / "archive").mkdir()
    shards = [root / "results" / "contours" / "shards" / f"s0000{n}" for n in (1, 2)]
    steps = {
        "cohort": ["--until", "cohort"],
        "volumes": ["--notemp", str(shards[0] / "segment" / "outcomes.parquet")],
        "stages": [
            str(shard / stage / "outcomes.parquet")
            for shard in shards[: 2 // shard_size]
            for stage in ("document", "overlay")
        ],
        "finished": [],
    }
    shutil.copytree(root, starts / "new", symlinks=True)
    sizes, counts = [blocks(root / "results")], []
    for name, words in steps.items():
        counts.append(_run(root, words))
        sizes.append(blocks(root / "results"))
        shutil.copytree(root, starts / name, symlinks=True)
    shutil.rmtree(root)
    shutil.copytree(starts / "new", root, symlinks=True)
    whole = _run(root, [])
    shutil.copytree(root, folder / "reference", symlinks=True)
    for place in root.iterdir():
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    jobs = {name: whole - sum(counts[:n]) for n, name in enumerate(STARTS)}
    grown = {
        name: max(sizes) - size + sizes[-1] // 4 for name, size in zip(STARTS, sizes, strict=True)
    }
    about = {"version": full_version(), "jobs": jobs | {"finished": 0}, "bytes": grown}
    (folder / "ground.json").write_text(json.dumps(about))


def _run(root: Path, words: list[str]) -> int:
    """Run the site undisturbed; returns the number of its jobs."""
    printed = subprocess.run(
        [*snakemake(root)[:3], *words, *snakemake(root)[3:]],
        cwd=root / "clone",
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if printed.returncode:
        raise SystemExit(printed.stdout)
    return len(FINISHED.findall(printed.stdout))


def blocks(folder: Path) -> int:
    """Return the bytes of the blocks that files and folders take on a tmpfs."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            total += -(-os.lstat(os.path.join(place, name)).st_size // page) * page
    return total
