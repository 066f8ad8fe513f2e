"""Peak memory of the catalog as an archive grows: it must not grow with it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.uid import ExplicitVRLittleEndian

from jipflow.phantom.dicom import to_bytes
from jipflow.phantom.grid import PhantomGrid
from report import measure, write_result

SCAN = """
import json, sys
from pathlib import Path
from jipflow.catalog.scan import run
from jipflow.settings.site import Folder
sources = [Folder(name="archive", kind="folder", path=sys.argv[1])]
print(json.dumps(run(sources=sources, out_dir=Path(sys.argv[2]), threads=1)))
"""
INSTANCES = 100
"""Files of a series, each in a folder of its own series."""


def template() -> bytes:
    """Return a CT image of one pixel, whose UIDs end in digits to be replaced."""
    import numpy as np

    from jipflow.phantom.dicom import ct_series

    grid = PhantomGrid((2, 1, 1), (5.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    dataset = ct_series(np.zeros((2, 1, 1), np.int16), grid)[0]
    assert isinstance(dataset, pydicom.Dataset)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.1000000000"
    dataset.SeriesInstanceUID = "1.2.3.2000000000"
    dataset.StudyInstanceUID = "1.2.3.3000000000"
    dataset.PatientID = "P4000000000"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return to_bytes(dataset)


def grow(folder: Path, start: int, stop: int) -> None:
    """Add files: a new series every hundred, a new patient every four hundred."""
    image = template()
    for number in range(start, stop):
        series, patient = number // INSTANCES, number // (4 * INSTANCES)
        content = (
            image.replace(b"1.2.3.1000000000", b"1.2.3.1%09d" % number)
            .replace(b"1.2.3.2000000000", b"1.2.3.2%09d" % series)
            .replace(b"1.2.3.3000000000", b"1.2.3.3%09d" % patient)
            .replace(b"P4000000000", b"P4%09d" % patient)
        )
        path = folder / f"{patient:06d}" / f"{series:06d}" / f"{number:08d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def run(sizes: Sequence[int]) -> list[list[str | int | float | None]]:
    rows: list[list[str | int | float | None]] = []
    with tempfile.TemporaryDirectory() as name:
        archive, out = Path(name) / "archive", Path(name) / "out"
        before = 0
        for size in sorted(sizes):
            grow(archive, before, size)
            before = size
            for path in out.glob("*"):
                path.unlink()
            for what in ("all files new", "no file changed"):
                cost = measure([sys.executable, "-c", SCAN, str(archive), str(out)])
                rows.append(
                    [
                        size,
                        size // INSTANCES,
                        what,
                        cost.seconds,
                        cost.processor_seconds,
                        cost.peak_mb,
                    ]
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 50_000, 200_000])
    write_result(
        "catalog_memory",
        "The catalog as an archive grows",
        ["files", "series", "scan", "process s", "peak MiB"],
        run(parser.parse_args().sizes),
        packages=["pydicom", "dicomsdl", "pyarrow", "duckdb"],
        notes=[
            "The whole stage in a process of its own, one process reading: wall time with start, "
            "and the resident memory of the largest of its processes.",
            "Synthetic CT images of one pixel, a hundred to a series.",
        ],
    )


if __name__ == "__main__":
    main()
