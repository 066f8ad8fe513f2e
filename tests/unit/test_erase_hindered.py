"""An erasure that is killed, has no room, may not write or meets what is damaged or linked."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from jipflow.erasure.erase import erase
from jipflow.reasons import StageError
from jipflow.settings.schema import load
from jipflow.settings.site import Site
from other_account import bound_python, small_disk
from test_erase import GONE, Results


@pytest.fixture
def made(tmp_path):
    return Results(tmp_path)


def test_a_file_that_is_linked_is_not_taken_for_clean(made, tmp_path):
    note, link = tmp_path / "elsewhere" / "note.txt", made.out / "inbox" / "organs" / "note.txt"
    for path in (note, link):
        path.parent.mkdir(parents=True)
    note.write_text(f"of {GONE}")
    link.symlink_to(note)
    with pytest.raises(StageError, match="Name its folder by --also"):
        made.erase()
    assert not made.journal.exists()
    erase(site=made.site, results=made.root, patients=[GONE], also=[note.parent])
    assert note.read_text() == ""
    # What is the site's own stays anyway, and what is linked may be gone.
    source = {"name": "a", "kind": "folder", "path": str(tmp_path / "archive")}
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "1.dcm").write_bytes(GONE.encode())
    made.site = load(Site, {**made.config, "sources": [source]}, "site")
    link.with_name("1.dcm").symlink_to(tmp_path / "archive" / "1.dcm")
    note.unlink()
    assert not made.erase().found.hits
    assert (tmp_path / "archive" / "1.dcm").exists()


@pytest.mark.parametrize("content", [b"", b"no DICOM", bytes(128) + b"DICM" + b"\xff" * 20])
def test_an_object_that_is_damaged_is_removed_like_any(made, content):
    path = made.out / "seg" / made.case / "organs.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    done = made.erase()
    assert not path.exists()
    assert [each.sop_uid for each in done.published] == ["2.25.1123456789"]


def test_a_damaged_file_of_a_reader_does_not_stop_the_erasure_of_a_common_id(tmp_path, monkeypatch):
    monkeypatch.setattr("test_erase.GONE", "1000")
    made = Results(tmp_path)
    # The length of the file meta information, in two bytes and not in four.
    damaged = bytes(128) + b"DICM\x02\x00\x00\x00UL\x02\x00\x01\x00"
    made._write("inbox/organs/note.txt", "a note")
    path = made.out / "inbox" / "organs" / "1.dcm"
    path.write_bytes(damaged)
    assert not made.erase("1000").found.hits
    assert path.read_bytes() == damaged


def test_a_receipt_that_is_damaged_stops_the_erasure_but_half_a_line_at_the_end(made):
    path = made.out / "published" / "s00001.jsonl"
    whole = path.read_text()
    path.write_text(f'{{"to": "pacs"}}\n{whole}')
    with pytest.raises(StageError, match=r"s00001\.jsonl: line 1 is damaged"):
        made.erase()
    path.write_text(f'{whole}{{"output": "seg/{made.case}/org')
    done = made.erase()
    assert len(done.published) == 1
    assert not done.found.hits


def test_what_an_erasure_has_noted_for_its_next_try_is_not_passed_over_where_it_is_damaged(made):
    made.journal.parent.mkdir(parents=True)
    for content in ("{", '{"token": "a", "published": [["pacs", "2.25.1"]]}', "[]"):
        made.journal.write_text(content)
        with pytest.raises(StageError, match=r"erasing\.json is damaged, or of another version"):
            made.erase()
    assert (made.out / "overlays" / made.case).exists()


def test_an_erasure_on_a_full_disk_names_it_and_goes_on_once_there_is_room(tmp_path):
    with small_disk(tmp_path / "disk", 2):
        made = Results(tmp_path / "disk")
        full = made.root.with_name("full")
        with suppress(OSError), open(full, "wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass
        with pytest.raises(OSError, match="No space left") as caught:
            made.erase()
        assert Path(caught.value.filename).is_relative_to(made.root)
        full.unlink()
        assert not made.erase().found.hits


def test_a_folder_that_may_not_be_written_is_named_and_the_erasure_goes_on(made, tmp_path):
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(made.config))
    (tmp_path / "who.txt").write_text(GONE)
    folder = made.out / "overlays" / made.case
    folder.chmod(0o500)
    typed = ["erase", tmp_path / "who.txt", "--configfile", tmp_path / "site.yaml"]
    ended = bound_python(
        "import sys; from jipflow.cli import main; sys.exit(main(sys.argv[1:]))",
        *(*typed, "--results", made.root),
    )
    assert ended.returncode == 1
    assert f"{folder}/organs.png: Permission denied" in ended.stderr
    assert made.journal.exists()
    folder.chmod(0o700)
    assert not made.erase().found.hits
    assert not folder.exists()


@pytest.mark.long
def test_an_erasure_that_is_killed_at_any_change_of_a_file_ends_as_if_it_were_not(made, tmp_path):
    def state():
        paths = [path for path in made.root.rglob("*") if path.name != ".lock"]
        return {path: path.is_file() and path.read_bytes() for path in paths}

    copy = tmp_path / "copy"
    shutil.copytree(made.root, copy)
    whole, step = made.erase(), 0
    expected = state()
    while True:
        for folder in (made.root, made.journal.parent):
            shutil.rmtree(folder)
        shutil.copytree(copy, made.root)
        step += 1
        child = os.fork()
        if not child:
            _erase_and_die(made, step)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        again = made.erase()
        assert state() == expected, step
        assert again.published == whole.published
        assert (again.models, again.cases) == (whole.models, whole.cases)
        other = again.changed() ^ whole.changed()
        assert all(path.name.startswith(".partial-") for path in other), step
        assert again.protocols == whole.protocols
        assert not made.journal.exists()
    assert step > 25


def _erase_and_die(made, steps):
    """Erase in a process of its own, which ends without a word before it changes a file."""
    left = [steps]

    def counted(real):
        def change(*arguments, **named):
            left[0] -= 1
            if not left[0]:
                os._exit(9)
            return real(*arguments, **named)

        return change

    for name in ("replace", "rename", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    try:
        made.erase()
    finally:
        os._exit(0 if left[0] > 0 else 1)
