"""A fault of the place is no fault of a patient: the job fails, and the same command heals."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from snakemake.exceptions import WorkflowError, print_exception
from snakemake.logging import logger

from jipflow.cases import Case
from jipflow.catalog import scan
from jipflow.catalog.headers import read_header
from jipflow.catalog.pool import ReadingPool
from jipflow.files import atomic_path, write_parquet
from jipflow.images.volume import Grid, Volume, read_volume, write_volume
from jipflow.outcomes import Made, Status, attempt
from jipflow.place import InALine, place_error, wait_for_clock
from jipflow.reasons import CaseFault, PlaceError, Reason, StageError
from jipflow.settings.site import Folder
from jipflow.workers import for_each_case
from other_account import bound_python, small_disk
from series_factory import ct_datasets, write

SCAN = """
import sys
from pathlib import Path
from jipflow.cases import Case
from jipflow.catalog import scan
from jipflow.settings.site import Folder
if __name__ == "__main__":
    source = Folder(name="archive", kind="folder", path=sys.argv[1])
    print(scan.run(sources=[source], out_dir=Path(sys.argv[2]), threads=2)["series"])
"""


def raised(error, cause=None, *, silent=False):
    """Return an error as it is after it was raised from another one, or in its handling."""
    try:
        try:
            raise cause or ZeroDivisionError
        except Exception as first:
            raise error from (None if silent else first)
    except Exception as last:
        return last


def fault(text="t"):
    return CaseFault(Reason.UNREADABLE, text)


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, os.strerror(number)) for number in (5, 2, 12, 13, 24, 28, 30, 116, 122)),
        TimeoutError("timed out"),
        ConnectionResetError(),
        MemoryError(),
        BrokenProcessPool("a child process terminated abruptly"),
        subprocess.TimeoutExpired(["x"], 1),
        subprocess.CalledProcessError(-9, ["x"]),
        subprocess.CalledProcessError(137, ["x"]),
        RuntimeError("itk::ERROR: Write: No space left on device"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("can't start new thread"),
        ImportError("libarrow.so: failed to map segment from shared object"),
        duckdb.OutOfMemoryException("Out of Memory Error: Failed to allocate block"),
        duckdb.IOException("IO Error: Could not write file: No space left on device"),
        raised(fault(), OSError(5, "Input/output error")),
        raised(ValueError("of a library"), raised(fault(), MemoryError())),
    ],
    ids=repr,
)
def test_an_error_of_the_place_ends_the_job(error, tmp_path):
    def work():
        raise error

    with pytest.raises((StageError, MemoryError)) as caught:
        attempt("c", "prepare", "CT", work, tmp_path)
    assert "run the same command again" in str(caught.value)
    assert str(caught.value).startswith("case c: prepare of 'CT': ")


@pytest.mark.parametrize(
    "error",
    [
        fault("No space left on device, says a header"),
        raised(fault(), OSError("image file is truncated")),
        raised(fault(), OSError(errno.EINVAL, "Invalid argument")),
        raised(fault(), FileNotFoundError(2, "No such file"), silent=True),
        ValueError("Permission denied is what a value says"),
        EOFError(),
        subprocess.CalledProcessError(1, ["x"]),
    ],
    ids=repr,
)
def test_an_error_of_the_data_is_the_cases_own(error, tmp_path):
    def work():
        raise error

    assert attempt("c", "prepare", "CT", work, tmp_path).status is Status.FAILED
    assert place_error(error) is None


def test_a_source_that_cannot_all_be_read_makes_no_catalog_and_heals(tmp_path):
    archive, out = tmp_path / "archive", tmp_path / "out"
    paths = write(ct_datasets((6, 4, 4)), archive / "series")
    (archive / "note.txt").write_text("no image")
    for path in paths[::2]:
        path.chmod(0o000)
    refused = bound_python(SCAN, archive, out)
    left = sorted(p.name for p in out.iterdir())
    for path in paths:
        path.chmod(0o644)
    healed = bound_python(SCAN, archive, out)
    (archive / "series").chmod(0o000)
    closed = bound_python(SCAN, archive, out)
    (archive / "series").chmod(0o755)
    assert refused.returncode
    assert left == []
    assert (
        f"PlaceError: source 'archive': 3 of 7 files below {archive} cannot be read "
        f"(permission denied), first: {min(map(str, paths[::2]))}. " in refused.stderr
    )
    assert (healed.returncode, healed.stdout) == (0, "1\n")
    assert f"1 of 2 files below {archive} cannot be read" in closed.stderr


def test_an_io_error_is_no_damaged_file(tmp_path):
    """The first page of a process's memory is a file that the system cannot read."""
    row = read_header("/proc/self/mem")
    assert row == {"kind": "place_fault", "reason": "Input/output error"}
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "x.dcm").symlink_to("/proc/self/mem")
    with pytest.raises(
        StageError, match=r"1 of 1 files .* \(input/output error\), first: .*x\.dcm"
    ):
        scan.run(sources=[source(tmp_path / "archive")], out_dir=tmp_path / "out", threads=1)


def source(folder: Path, name: str = "archive") -> Folder:
    return Folder(name=name, kind="folder", path=str(folder))


def test_a_disk_that_is_away_empties_no_catalog(tmp_path):
    """The folder that a disk was mounted on stays, and is empty."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    write(ct_datasets((2, 4, 4)), archive / "here")
    write(ct_datasets((3, 4, 4)), archive / "disk" / "series")
    scan.run(sources=[source(archive)], out_dir=out, threads=1)
    before = (out / "instances.parquet").read_bytes()
    (archive / "disk").rename(tmp_path / "away")
    (archive / "disk").mkdir()
    with pytest.raises(
        StageError, match="disk is empty or leads to nothing, where the last catalog knew 3 DICOM"
    ):
        scan.run(sources=[source(archive)], out_dir=out, threads=1)
    (archive / "disk").rmdir()
    (tmp_path / "away").rename(archive / "disk")
    scan.run(sources=[source(archive)], out_dir=out, threads=1)
    assert (out / "instances.parquet").read_bytes() == before
    shutil.rmtree(archive / "disk")
    scan.run(sources=[source(archive)], out_dir=out, threads=1)
    assert len(pd.read_parquet(out / "instances.parquet")) == 2


@pytest.mark.parametrize("linked", ["away", "away/0001.dcm"], ids=["folder", "file"])
def test_a_link_whose_disk_is_away_empties_no_catalog(linked, tmp_path):
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    write(ct_datasets((3, 4, 4)), tmp_path / "away")
    (archive / "link").symlink_to(tmp_path / linked)
    scan.run(sources=[source(archive)], out_dir=out, threads=1)
    (tmp_path / "away").rename(tmp_path / "gone")
    with pytest.raises(StageError, match="link is empty or leads to nothing, where the last"):
        scan.run(sources=[source(archive)], out_dir=out, threads=1)


def test_a_source_that_is_empty_is_refused(tmp_path):
    full, empty = tmp_path / "full", tmp_path / "empty"
    write(ct_datasets((2, 4, 4)), full)
    empty.mkdir()
    with pytest.raises(StageError, match=r"source 'b': the folder .*empty is empty; mount"):
        scan.run(
            sources=[source(full, "a"), source(empty, "b")], out_dir=tmp_path / "out", threads=1
        )


def ended_from_outside(path):
    os.kill(os.getpid(), signal.SIGKILL)


def ended_again(path):
    os.kill(os.getpid(), signal.SIGKILL)


def never(path):
    raise AssertionError(path)


def test_a_reader_that_the_system_kills_leaves_no_damaged_file(tmp_path):
    with (
        ReadingPool(ended_from_outside, ended_again, never, processes=1) as pool,
        pytest.raises(StageError, match=r"x\.dcm: the process that read it was ended from outside"),
    ):
        pool.rows(["x.dcm"], pool.submit(["x.dcm"]))


def full_volume(folder):
    array = np.random.default_rng(0).integers(0, 2**15, (32, 128, 128), np.int16)
    write_volume(folder / "x.nrrd", Volume(array, Grid(array.shape, np.eye(4))))
    return Made((folder / "x.nrrd",))


def full_label_map(folder):
    array = np.random.default_rng(0).integers(0, 255, (64, 128, 128), np.uint8)
    write_volume(folder / "x.nrrd", Volume(array, Grid(array.shape, np.eye(4))), compress=True)
    return Made((folder / "x.nrrd",))


def full_dicom(folder):
    (dataset,) = ct_datasets((2, 4, 4))[:1]
    dataset.PixelData = bytes(2**21)
    with atomic_path(folder / "x.dcm") as path:
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return Made((folder / "x.dcm",))


def full_table(folder):
    numbers = np.random.default_rng(0).random(2**18)
    write_parquet(folder / "x.parquet", pd.DataFrame({"x": numbers}))
    return Made((folder / "x.parquet",))


def full_picture(folder):
    pixels = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    with atomic_path(folder / "x.png") as path:
        Image.fromarray(pixels).save(path)
    return Made((folder / "x.png",))


@pytest.mark.parametrize(
    "work", [full_volume, full_label_map, full_dicom, full_table, full_picture]
)
def test_a_full_disk_ends_the_job_leaves_nothing_and_heals(work, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, 1):
        with pytest.raises(StageError, match=r"(?i)(no space left|MB (are )?free)"):
            attempt("c", "prepare", "CT", lambda: work(disk), disk)
        assert list(disk.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        assert attempt("c", "prepare", "CT", lambda: work(disk), disk).status is Status.OK


def test_a_disk_that_is_taken_away_is_no_missing_volume(tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, 4):
        full_volume(disk)
        assert attempt("c", "segment", "x", lambda: read(disk), disk).status is Status.OK
    with pytest.raises(StageError, match="No such file or directory; see whether its disk"):
        attempt("c", "segment", "x", lambda: read(disk), disk)


def read(folder):
    read_volume(folder / "x.nrrd")
    return Made()


def killed_half_way(case, mark):
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [case.case_id]


def test_a_worker_that_is_killed_ends_the_job_and_heals(tmp_path):
    cases = [Case(name, name, "s00001", {}) for name in "abc"]
    work = partial(killed_half_way, mark=tmp_path / "mark")
    with pytest.raises(
        PlaceError, match=r"on case [ab]( or [bc])?, for want of memory as a rule; use"
    ):
        for_each_case(cases, work, 2)
    assert for_each_case(cases, work, 2) == ["a", "b", "c"]


FEW_FILES = """
import resource
from jipflow.cases import Case
from jipflow.reasons import PlaceError
from jipflow.workers import for_each_case
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    try:
        for_each_case([Case(n, n, "s00001", {}) for n in "ab"], list, 2)
    except PlaceError as error:
        print(error)
"""


def test_a_process_that_cannot_be_started_ends_the_job_in_a_line(tmp_path):
    script = tmp_path / "few_files.py"
    script.write_text(FEW_FILES)
    ended = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.stdout.startswith("no further process could be started; use fewer cores, or let ")


LONG_WORK = """
import os
import re
import sys
import time
from functools import partial
from pathlib import Path
from jipflow.cases import Case
from jipflow.catalog.pool import ReadingPool
from jipflow.workers import for_each_case

def work(case, folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)
    return []

def read(path):
    return work(None, path)

if __name__ == "__main__":
    if sys.argv[2] == "cases":
        for_each_case([Case(n, n, "s1", {}) for n in "ab"], partial(work, folder=sys.argv[1]), 2)
    else:
        with ReadingPool(read, read, read, 2) as pool:
            futures = [pool.submit([sys.argv[1]]) for _ in range(2)]
            futures[0].result()
"""


@pytest.mark.parametrize("pool", ["cases", "files"])
def test_the_workers_of_a_job_that_is_killed_end_with_it(pool, tmp_path):
    (tmp_path / "script").mkdir()
    (tmp_path / "begun").mkdir()
    script = tmp_path / "script" / "long_work.py"
    script.write_text(LONG_WORK)
    paths = os.pathsep.join([str(script.parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "begun"), pool],
        env={**os.environ, "PYTHONPATH": paths},
    ) as job:
        begun = within(30, lambda: len(list((tmp_path / "begun").iterdir())) == 2)
        job.kill()
    workers = [int(path.name) for path in (tmp_path / "begun").iterdir()]
    try:
        assert begun
        assert within(10, lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    finally:
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def within(seconds, true):
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


@pytest.fixture
def of_snakemake(caplog):
    """What Snakemake prints of an error that ends it, with its traceback as a rule."""
    line = InALine(lambda: "The results are away.")
    logger.addFilter(line)
    logger.addHandler(caplog.handler)

    def printed(error):
        caplog.clear()
        try:
            raise error
        except Exception as caught:
            print_exception(caught)
        return caplog.messages[-1]

    yield printed
    logger.removeHandler(caplog.handler)
    logger.removeFilter(line)


def test_an_error_of_the_place_that_ends_snakemake_is_a_line(of_snakemake):
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), "/data/results/standing.json")
    assert of_snakemake(error) == (
        "/data/results/standing.json: Read-only file system; see why the disk is read-only, and "
        "run the same command again."
    )
    missing = "Missing files after 5 seconds. This might be due to filesystem latency: cases.tsv"
    assert of_snakemake(WorkflowError(missing)) == "The results are away."
    full = WorkflowError("Error recording metadata ([Errno 28] No space left on device).")
    last = of_snakemake(full).splitlines()[-1]
    assert last == "To go on: make room, and run the same command again."
    assert "Traceback" in of_snakemake(ValueError("a mistake"))
    assert of_snakemake(WorkflowError("no such rule")).startswith("WorkflowError:\nno such rule")


def test_a_job_waits_for_a_clock_that_was_set_back_and_not_for_long(tmp_path):
    results = tmp_path / "it's made"
    results.mkdir()
    read = results / "provenance.json"
    read.write_text("")
    ahead = read.stat().st_mtime + 1.5
    os.utime(read, (ahead, ahead))
    wait_for_clock(tmp_path, [read, results], results)
    assert time.time() > ahead
    os.utime(read, (ahead + 4000, ahead + 4000))
    with pytest.raises(PlaceError, match=r"of a time that is \d{4} s ahead: the clock ") as caught:
        wait_for_clock(tmp_path, [read], results)
    subprocess.run(re.search(r"\((find .*)\)", str(caught.value))[1], shell=True, check=True)
    wait_for_clock(tmp_path, [read], results)
    wait_for_clock(tmp_path, [], results)
    wait_for_clock(tmp_path / "to" / "make", [read], results)
