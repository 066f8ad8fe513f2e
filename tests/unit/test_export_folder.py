"""The folder of an export is one of its own from the start, and whole at the end or not there."""

from __future__ import annotations

import errno
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from config_files import demo_protocol, loaded, site_of
from jipflow.export.folder import PARTIAL, REPORT, check_folder, whole_folder
from jipflow.files import write_json
from jipflow.reasons import StageError
from jipflow.settings.run import Settings, write_settings
from needs import unavailable
from other_account import bound_python, small_disk

CHECK = """
import sys
from pathlib import Path
from jipflow.export.folder import check_folder
from jipflow.reasons import StageError
from jipflow.settings.run import read_settings
out, results = map(Path, sys.argv[1:])
try:
    check_folder(out, read_settings(results / "settings.json"), results)
except StageError as error:
    print(error)
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results" / "demo"


@pytest.fixture
def settings(tmp_path: Path, results: Path) -> Settings:
    results.mkdir(parents=True)
    (tmp_path / "archive").mkdir()
    made = loaded(site_of(tmp_path / "archive"), demo_protocol(), tmp_path)
    write_settings(results / "settings.json", made)
    return made


def made_before(folder: Path) -> Path:
    """Make a folder as an export leaves it."""
    (folder / "patient").mkdir(parents=True)
    (folder / "patient" / "old.dcm").write_text("old")
    write_json(folder / REPORT, {"jipflow": "0"})
    return folder


def refused(out: Path, settings: Settings, results: Path) -> str:
    with pytest.raises(StageError) as caught:
        check_folder(out, settings, results)
    assert str(caught.value).startswith(f"{out}: ")
    return str(caught.value)


def test_a_new_folder_and_one_of_an_export_before_are_taken(settings, results, tmp_path):
    check_folder(tmp_path / "new" / "out", settings, results)
    check_folder(made_before(tmp_path / "out"), settings, results)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_refused_wherever_it_leads(settings, results, tmp_path, there):
    if there:
        made_before(tmp_path / "real")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    assert "is a link" in refused(tmp_path / "out", settings, results)


@pytest.mark.parametrize("name", ["archive/out", "archive", "results/out", "archive/.."])
def test_a_folder_that_is_reached_by_a_link_above_it_is_where_it_is(
    settings, results, tmp_path, name
):
    (tmp_path / "link").symlink_to(tmp_path)
    assert "folder of its own" in refused(tmp_path / "link" / name, settings, results)
    check_folder(tmp_path / "link" / "out", settings, results)


def test_a_file_in_its_place_or_above_it_is_refused(settings, results, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused(tmp_path / "file", settings, results)
    assert "is a file" in refused(tmp_path / "file" / "out", settings, results)


def test_a_folder_where_a_disk_is_mounted_is_refused(settings, results, tmp_path):
    with small_disk(tmp_path / "a disk", 1):
        assert "is mounted" in refused(tmp_path / "a disk", settings, results)
        check_folder(tmp_path / "a disk" / "out", settings, results)


def test_a_folder_that_is_another_one_mounted_there_is_refused(settings, results, tmp_path):
    (tmp_path / "real").mkdir()
    bound = tmp_path / "bound"
    bound.mkdir()
    command = ["mount", "--bind", str(tmp_path / "real"), str(bound)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        unavailable("a folder can be mounted by root only")
    try:
        assert "is mounted" in refused(bound, settings, results)
    finally:
        subprocess.run(["umount", str(bound)], check=True)


@pytest.mark.parametrize(
    ("locked", "out", "says"),
    [
        ("closed", "closed/out", "nothing can be written into"),
        ("closed", "closed/new/out", "nothing can be written into"),
        ("out/patient", "out", "may not replace"),
        ("out", "out", "may not replace"),
    ],
)
def test_what_this_account_may_not_write_is_refused(settings, results, tmp_path, locked, out, says):
    (tmp_path / "closed").mkdir()
    made_before(tmp_path / "out")
    (tmp_path / locked).chmod(0o500)
    done = bound_python(CHECK, tmp_path / out, results)
    (tmp_path / locked).chmod(0o700)
    assert says in done.stdout, done.stderr


def test_a_folder_is_replaced_when_the_new_one_is_whole(settings, results, tmp_path):
    out = made_before(tmp_path / "out")
    with whole_folder(out, results) as partial:
        (partial / "new.dcm").write_text("new")
        assert (out / "patient" / "old.dcm").read_text() == "old"
    assert [path.name for path in out.iterdir()] == ["new.dcm"]
    assert not list(tmp_path.glob(f"{PARTIAL}*"))


def test_an_export_that_fails_leaves_what_was_there_and_nothing_else(settings, results, tmp_path):
    out = made_before(tmp_path / "out")
    with suppress(OSError), whole_folder(out, results) as partial:
        (partial / "new.dcm").write_text("new")
        raise OSError(errno.ENOSPC, "full")
    assert (out / "patient" / "old.dcm").read_text() == "old"
    assert not list(tmp_path.glob(f"{PARTIAL}*"))


def test_what_a_killed_export_left_is_removed_by_the_same_command_alone(
    settings, results, tmp_path
):
    code = """
import os, signal, sys
from pathlib import Path
from jipflow.export.folder import whole_folder
with whole_folder(Path(sys.argv[1]), Path(sys.argv[2])) as partial:
    (partial / "half.dcm").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    other = tmp_path / "results" / "other"
    for out, of in (("out", results), ("out", other), ("second", results)):
        assert bound_python(code, tmp_path / out, of).returncode == -9
    left = set(tmp_path.glob(f"{PARTIAL}*"))
    assert len(left) == 3
    with whole_folder(tmp_path / "out", results) as partial:
        assert not list(partial.iterdir())
        assert len(left & set(tmp_path.glob(f"{PARTIAL}*"))) == 2
    assert not list((tmp_path / "out").iterdir())


def test_two_exports_of_the_same_results_do_not_meet(settings, results, tmp_path):
    code = """
import sys
from pathlib import Path
from jipflow.export.folder import whole_folder
from jipflow.reasons import StageError
try:
    with whole_folder(Path(sys.argv[1]), Path(sys.argv[2])):
        print("went")
except StageError as error:
    print(error)
"""
    with whole_folder(tmp_path / "out", results) as partial:
        done = bound_python(code, tmp_path / "out", results)
        assert "another export of them is at work" in done.stdout, done.stderr
        assert partial.is_dir()
    assert bound_python(code, tmp_path / "out", results).stdout == "went\n"
