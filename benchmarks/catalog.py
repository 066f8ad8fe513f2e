"""Files a second and core of the catalog's header reader, against pydicom on the same files."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pydicom

from jipflow.catalog.headers import header_row, read_header
from jipflow.phantom.cohort import write_site
from report import SHARED_DATA, measure, write_result

ROUNDS = 5
SCAN = """
import json, sys
from pathlib import Path
from jipflow.catalog.scan import run
from jipflow.settings.site import Folder
sources = [Folder(name="archive", kind="folder", path=sys.argv[1])]
print(json.dumps(run(sources=sources, out_dir=Path(sys.argv[2]), threads=int(sys.argv[3]))))
"""


def is_dicom(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def bare(path: str) -> object:
    return pydicom.dcmread(path, stop_before_pixels=True)


def same_columns(path: str) -> object:
    return header_row(pydicom.dcmread(path, stop_before_pixels=True))


def rate(files: list[str], read: Callable[[str], object]) -> float:
    """Return files a second of processor time."""
    start = time.process_time()
    for path in files:
        read(path)
    return len(files) / (time.process_time() - start)


def readers(name: str, files: list[str]) -> list[list[str | int | float]]:
    """Return a row per reader: the best of several rounds, in which the readers take turns."""
    peers: dict[str, Callable[[str], object]] = {
        "jipflow": read_header,
        "pydicom, stop_before_pixels, the same columns": same_columns,
        "pydicom, stop_before_pixels, nothing read": bare,
    }
    best = dict.fromkeys(peers, 0.0)
    for _ in range(ROUNDS):
        for peer, read in peers.items():
            best[peer] = max(best[peer], rate(files, read))
    return [
        [name, peer, len(files), files_a_second, best["jipflow"] / files_a_second]
        for peer, files_a_second in best.items()
    ]


def scans(name: str, folder: Path, files: int) -> list[list[str | int | float | None]]:
    """Return files a second of the whole stage: all files new, then none."""
    rows: list[list[str | int | float | None]] = []
    with tempfile.TemporaryDirectory() as out:
        for what in ("all files new", "no file changed"):
            cost = measure([sys.executable, "-c", SCAN, str(folder), out, "1"])
            rows.append(
                [name, f"whole stage, one process, {what}", files, files / cost.seconds, None]
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=6, help="of the synthetic site")
    patients = parser.parse_args().patients
    warnings.simplefilter("ignore")
    rows: list[list[str | int | float | None]] = []
    with tempfile.TemporaryDirectory() as name:
        site = Path(name) / "site"
        write_site(site, "north", patients, 1, defects=False)
        folders = {"synthetic site": site / "dicom"}
        if SHARED_DATA.is_dir():
            folders["real archives"] = SHARED_DATA
        for label, folder in folders.items():
            every = sorted(path for path in folder.rglob("*") if path.is_file())
            rows += readers(label, [str(path) for path in every if is_dicom(path)])
            rows += scans(label, folder, len(every))
        shutil.rmtree(site)
    write_result(
        "catalog",
        "Reading headers for the catalog",
        ["files", "reader", "number", "files a second", "jipflow is faster by"],
        rows,
        packages=["pydicom", "dicomsdl", "pyarrow", "duckdb"],
        notes=[
            "Readers: processor time of one process, files in the page cache, the best of "
            f"{ROUNDS} rounds in which the readers take turns.",
            "Whole stage: wall time of a process of its own, with start, walk, tables and all; one "
            "process reads.",
            "Real archives: the sarcoma, IBSI, dcmqi, highdicom and TotalSegmentator samples.",
        ],
    )


if __name__ == "__main__":
    main()
