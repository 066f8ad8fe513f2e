"""A whole run of jipflow beside scripts that people write today, from DICOM to features and SEGs.

The scripts are benchmarks/scripts. They and jipflow get the same patients, cores, resampling and
bins.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import highdicom
import pandas as pd
import yaml

from end_to_end_cohorts import WORKS, Work, parameters_of, protocol_of, radiomics_of, write_patients
from jipflow.files import read_json
from jipflow.settings.resources import ROOT
from jipflow.tables import FEATURE_COLUMNS
from report import RESULTS, Cell, machine, write_result
from watch import Watch

SCRIPTS = Path(__file__).resolve().parent / "scripts"
DATASET = "Dataset001_PhantomCT"
MODEL = ROOT / "workflow" / "resources" / "models" / "phantom-ct"
PROGRAMS = ("plastimatch", "itkimage2segimage", "pyradiomics")
"""That the shell script calls."""

JIPFLOW = "jipflow"
VOXELS, VOLUME, MEAN = "mask_voxels", "original_shape_MeshVolume", "original_firstorder_Mean"
TOLERANCE = 0.3
"""Of volumes and means, between jipflow and a script: pyradiomics resamples on another grid, and a
mask by nearest neighbours. Of a PET's tumour of 2 cm at 3 mm that is a tenth of the volume, of the
smallest of 200 lesions of the phantom a fifth."""


class Bench:
    """The files of one piece of work.

    Args:
        work: what is measured.
        number: of patients.
        folder: for all files.
        cores: that each way has.
    """

    def __init__(self, work: Work, number: int, folder: Path, cores: int) -> None:
        self.work, self.number, self.folder, self.cores = work, number, folder, cores
        self.dicom = folder / "dicom"
        write_patients(work, number, self.dicom)
        self.parameters = folder / "parameters.yaml"
        plain = parameters_of(radiomics_of(work, alike=True))
        self.parameters.write_text(yaml.safe_dump(plain), encoding="utf-8")
        model = folder / "nnunet" / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
        model.parent.mkdir(parents=True)
        model.symlink_to(MODEL)

    def ways(self) -> dict[str, Callable[[Path], list[str]]]:
        """Return the command of each way, for a folder that it makes, by a name for the table."""
        ways = {
            JIPFLOW: lambda out: self.jipflow(out, alike=False),
            "jipflow, the scripts' features": lambda out: self.jipflow(out, alike=True),
        }
        if not self.work.modality:
            network = "Python: nnUNetv2_predict, highdicom, pyradiomics"
            ways[network] = lambda out: self.script("network.py", out, DATASET, "0")
            ways[f"{network}; 3 + 3 processes"] = lambda out: self.script(
                "network.py", out, DATASET, "3"
            )
            return ways
        if all(map(shutil.which, PROGRAMS)):
            ways["shell: plastimatch, dcmqi, pyradiomics"] = lambda out: self.script(
                "contours.sh", out
            )
        ways["Python: highdicom, pyradiomics"] = lambda out: self.script("contours.py", out)
        return ways

    def script(self, name: str, out: Path, *words: str) -> list[str]:
        """Return the command of a script."""
        start = "/bin/bash" if name.endswith(".sh") else sys.executable
        words = (str(self.dicom), str(self.parameters), str(out), str(self.cores), *words)
        return [start, str(SCRIPTS / name), *words]

    def jipflow(self, out: Path, *, alike: bool) -> list[str]:
        """Return the command of a run; what it reads lies beside what it makes."""
        beside = out.with_name(f"{out.name}-site")
        beside.mkdir()
        (beside / "protocol.yaml").write_text(
            yaml.safe_dump(protocol_of(self.work, alike=alike)), encoding="utf-8"
        )
        secrets = beside / "secrets"
        site = {
            "site": {"id": "benchmark", "name": "Benchmark"},
            "protocol": str(beside / "protocol.yaml"),
            "results": str(out),
            "sources": [{"name": "archive", "kind": "folder", "path": str(self.dicom)}],
            "identity": {
                "secret_file": str(secrets / "identity.key"),
                "signing_key_file": str(secrets / "site.key"),
                "ledger_folder": str(secrets / "ledger"),
                "audit_file": str(secrets / "audit.jsonl"),
            },
            "processing": {"device": "cpu"},
        }
        (beside / "site.yaml").write_text(yaml.safe_dump(site), encoding="utf-8")
        return [
            *(sys.executable, "-m", "snakemake", "--quiet", "--cores", str(self.cores)),
            *("--snakefile", str(ROOT / "Snakefile"), "--directory", str(beside)),
            *("--profile", str(ROOT / "profiles" / "local")),
            *("--workflow-profile", str(ROOT / "profiles" / "default")),
            *("--configfile", str(beside / "site.yaml")),
        ]

    def features(self, out: Path) -> pd.DataFrame:
        """Return what a way has measured, by patient and segment, after a look at its SEGs."""
        if (out / "features.csv").is_file():
            table = pd.read_csv(out / "features.csv", dtype={"ID": str}).copy()
            if "segment" not in table:
                table["segment"] = "gtv"
            segs = list((out / "seg").iterdir())
        else:
            (protocol,) = {path.parents[1] for path in out.glob("*/features/features.parquet")}
            table = pd.read_parquet(protocol / "features" / "features.parquet")
            segs = list(protocol.glob("seg/*/*.dcm"))
            table["ID"] = table["case_id"].map({p.parent.name: read_seg(p)[0] for p in segs})
        table = table.set_index(["ID", "segment"]).sort_index()
        voxels = dict(map(read_seg, segs))
        assert len(voxels) == self.number, f"{out.name}: SEGs of {len(voxels)} patients"
        table[VOXELS] = [voxels[patient][segment] for patient, segment in table.index]
        others = [name for name in table if name in FEATURE_COLUMNS or "diagnostics" in name]
        table = table.drop(columns=[*others, "Image", "Mask"], errors="ignore")
        return table.select_dtypes("number").dropna(axis="columns", how="all")


def read_seg(path: Path) -> tuple[str, dict[str, int]]:
    """Return the patient of a SEG, and how many voxels each segment has."""
    seg = highdicom.seg.segread(path)
    names = {item.SegmentNumber: item.SegmentLabel for item in seg.SegmentSequence}
    voxels = seg.get_volume(combine_segments=False).array.sum(axis=(0, 1, 2), dtype=int)
    return str(seg.PatientID), {names[n]: int(v) for n, v in enumerate(voxels.tolist(), start=1)}


def furthest(table: pd.DataFrame, ours: pd.DataFrame) -> float:
    """Return by how much a volume or a mean differs from jipflow's at most, relatively.

    Raises:
        AssertionError: regions are missing, a mask is another, or it is more than `TOLERANCE`.
    """
    assert list(table.index) == list(ours.index), "other regions"
    other = table[VOXELS] != ours[VOXELS]
    assert not other.any(), f"other masks:\n{table[VOXELS][other]}\n{ours[VOXELS][other]}"
    columns = [VOLUME, MEAN]
    apart = ((table[columns] - ours[columns]) / ours[columns]).abs()
    worst = float(apart.max(axis=None))
    assert worst < TOLERANCE, f"{worst:.3f} apart:\n{apart.sort_values(VOLUME).tail()}"
    return worst


def size_mb(folder: Path) -> float:
    """Return what files take in MiB."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def rows_of(bench: Bench, rounds: int, only: Sequence[str]) -> list[list[Cell]]:
    """Run each way of a piece of work, in turns, and return its rows of the table.

    Args:
        bench: the files.
        rounds: how often; the least counts.
        only: words of which a way has one in its name; none takes all.
    """
    ways = {
        name: command
        for name, command in bench.ways().items()
        if not only or any(word in name for word in only)
    }
    watches = {name: Watch() for name in ways}
    tables: dict[str, pd.DataFrame] = {}
    left: dict[str, float] = {}
    on_cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[: bench.cores]))
    for turn in range(rounds):
        for index, (name, command) in enumerate(ways.items()):
            out = bench.folder / f"out-{index}-{turn}"
            log = out.with_name(f"{out.name}.log")
            words = ["/usr/bin/taskset", "--cpu-list", on_cores, *command(out)]
            try:
                cost = watches[name].run(
                    ["/bin/sh", "-c", 'exec "$@" > "$0" 2>&1', str(log), *words]
                )
            except RuntimeError:
                print(log.read_text(encoding="utf-8"))
                raise
            left[name] = size_mb(out)
            print(
                f"{bench.work.title}, {bench.number} patients, {name}: {cost.seconds:.1f} s, "
                f"{cost.processor_seconds:.1f} CPU s, {watches[name].together_mb:.0f} MiB, "
                f"{cost.written_mb:.1f} MiB written, {left[name]:.1f} MiB left",
                flush=True,
            )
            tables[name] = bench.features(out)
            shutil.rmtree(out)
    ours = next(iter(ways))
    best = {
        name: (
            min(cost.seconds for cost in watch.costs),
            min(cost.processor_seconds for cost in watch.costs),
            watch.together_mb,
        )
        for name, watch in watches.items()
    }
    return [
        [
            *(bench.work.title, name, *best[name]),
            best[name][1] / best[name][0] / bench.cores,
            *(min(cost.written_mb for cost in watches[name].costs), left[name]),
            *(len(tables[name].columns) - 1, *_times(best[name], best[ours])),
            furthest(tables[name], tables[ours]) if name != ours else None,
        ]
        for name in ways
    ]


def _times(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(one, other, strict=True)]


def write(rows: list[list[Cell]], patients: int, cores: int, rounds: int) -> None:
    """Write the table, with the rows that it has of other work."""
    name = "end_to_end" if patients == 12 else f"end_to_end_{patients}"
    path = RESULTS / f"{name}.json"
    before = read_json(path) if path.exists() else {"rows": [], "measured_on": {}}
    order = [work.title for work in WORKS.values()]
    measured_on = before["measured_on"] | {rows[0][0]: machine()["cpu"]}
    others = [row for row in before["rows"] if row[0] != rows[0][0]]
    rows = rows + others
    notes = [
        f"From DICOM to features and a DICOM-SEG a patient, on {cores} cores without a GPU, whole "
        "processes with start; the least of "
        + (f"{rounds} rounds in which the ways take turns." if rounds > 1 else "one round."),
        "The same resampling, re-segmentation, bins and filters. jipflow as shipped measures more "
        "features than pyradiomics has, and makes what the scripts do not: a catalog of all files, "
        "an SR and an overlay a patient, a record of every job, a report and a crate.",
        "Cores busy: CPU time by wall time and cores, 1 where none was ever idle.",
        "Peak memory: of all processes together, what they share counted once, each second. "
        "Written: to disks, with what was deleted before the end; left: what is there at the end.",
        "Difference: of the volume or the mean of a region, the furthest of all, from jipflow's. "
        "pyradiomics puts the image on another grid and its mask there by nearest neighbours.",
        "The scripts are in benchmarks/scripts: of two processes the shell script's patients, and "
        "pyradiomics' regions; of a pool of two the Python script's patients. nnUNetv2_predict is "
        "called once, without other processes, which is its fastest here, and with its default.",
    ]
    if patients > 12:
        notes.append(
            "Sarcoma: 12 real patients, repeated under other names and UIDs; all phantom patients "
            "differ."
        )
    if any(None in row[6:8] for row in rows):
        notes.append("–: what was written and left was not kept.")
    for cpu in sorted(set(measured_on.values()) - {machine()["cpu"]}):
        titles = [title for title in order if measured_on.get(title) == cpu]
        notes.append(f"On another machine, {cpu}: {'; '.join(titles)}.")
    if version := _plastimatch():
        notes.append(f"{version}.")
    write_result(
        name,
        f"From DICOM to features beside scripts, {patients} patients",
        [
            *("work", "how", "wall s", "CPU s", "peak MiB", "cores busy"),
            *("MiB written", "MiB left", "features"),
            *("wall / jipflow", "CPU / jipflow", "peak / jipflow", "difference"),
        ],
        sorted(rows, key=lambda row: order.index(row[0])),
        packages=["dcmqi", "highdicom", "nnunetv2", "pyradiomics", "simpleitk", "snakemake"],
        notes=notes,
        measured_on=measured_on,
    )


def _plastimatch() -> str:
    if not shutil.which("plastimatch"):
        return ""
    words = ["plastimatch", "--version"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=12)
    parser.add_argument("--works", choices=WORKS, nargs="+", default=list(WORKS))
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="in names of ways")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cores", type=int, default=min(cores, 2))
    asked = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["nnUNet_compile"] = "f"  # noqa: SIM112
    for name in asked.works:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(WORKS[name], asked.patients, Path(folder), asked.cores)
            os.environ["nnUNet_results"] = str(bench.folder / "nnunet")  # noqa: SIM112
            rows = rows_of(bench, asked.rounds, asked.only)
        print(*rows, sep="\n", flush=True)
        if asked.patients >= 12 and not asked.only:
            write(rows, asked.patients, asked.cores, asked.rounds)


if __name__ == "__main__":
    main()
