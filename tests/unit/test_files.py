"""Files that are whole or not there."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest

from jipflow.files import (
    atomic_path,
    json_text,
    read_frame,
    read_json,
    read_parquet,
    scratch_folder,
    stored_text,
    write_json,
    write_parquet,
)


def test_a_text_has_a_name_of_its_own_and_is_written_once(tmp_path):
    folder = tmp_path / "store"
    first = stored_text(folder, '{"a": 1}\n')
    assert first.read_text() == '{"a": 1}\n'
    written = first.stat().st_mtime_ns, first.stat().st_ino
    second = stored_text(folder, '{"a": 2}\n')
    assert stored_text(folder, '{"a": 1}\n') == first != second
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == written
    assert sorted(folder.iterdir()) == sorted([first, second])


@pytest.mark.parametrize("left", [b"", b'{"a"', b'{"a": 2}\n'])
def test_what_a_power_cut_left_of_a_text_is_written_again(tmp_path, left):
    path = stored_text(tmp_path, '{"a": 1}\n')
    path.write_bytes(left)
    assert stored_text(tmp_path, '{"a": 1}\n') == path
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == '{"a": 1}\n'


@pytest.mark.parametrize("folder", [False, True])
def test_what_failed_leaves_nothing_and_the_file_before_as_it_was(tmp_path, folder):
    path = tmp_path / "made" / "table.json"
    write_json(path, {"a": 1})

    def fail():
        with atomic_path(path) as partial:
            assert (partial.parent, partial.suffix) == (path.parent, path.suffix)
            if folder:
                partial.mkdir()
            (partial / "part" if folder else partial).write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert list(path.parent.iterdir()) == [path]
    assert read_json(path) == {"a": 1}


def test_a_folder_takes_the_place_of_the_one_before(tmp_path):
    path = tmp_path / "masks"
    for name in ("first", "second"):
        with atomic_path(path) as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [p.name for p in path.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]


def test_two_who_write_at_once_have_names_of_their_own(tmp_path):
    with atomic_path(tmp_path / "a") as one, atomic_path(tmp_path / "a") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["one"]


def test_a_scratch_folder_is_empty_and_does_not_stay(tmp_path):
    (tmp_path / ".partial-scratch").mkdir()
    (tmp_path / ".partial-scratch" / "of a killed run").touch()
    with scratch_folder(tmp_path) as folder:
        assert list(folder.iterdir()) == []
        (folder / "bulk").touch()
    assert list(tmp_path.iterdir()) == []


def test_the_same_content_is_the_same_text():
    assert json_text({"b": 1, "a": [2, {"d": 3, "c": "ü"}]}) == json_text(
        {"a": [2, {"c": "ü", "d": 3}], "b": 1}
    )
    assert json_text({"a": "ü"}) == '{\n  "a": "ü"\n}\n'


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_cannot_hold_are_refused(tmp_path, number):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": number})
    assert list(tmp_path.iterdir()) == []


READS = """
import os, sys
import pandas, pyarrow, pyarrow.parquet
from jipflow.files import read_frame
with open(sys.argv[1], "rb") as file:
    held = pyarrow.BufferReader(file.read())
before = os.listdir("/proc/self/task")
read_frame(held)
assert os.listdir("/proc/self/task") == before
"""


def test_a_table_is_read_without_a_thread_that_outlives_it(tmp_path):
    path = tmp_path / "table.parquet"
    table = pd.DataFrame({"b": range(9), "a": ["x"] * 9, "c": [0.5] * 9})
    write_parquet(path, table)
    subprocess.run([sys.executable, "-c", READS, str(path)], check=True)
    pd.testing.assert_frame_equal(read_frame(path), table)
    pd.testing.assert_frame_equal(read_frame(path, ["a", "b"]), table[["a", "b"]])


def test_a_damaged_table_is_distinguished_from_a_disk_that_fails(tmp_path):
    path = tmp_path / "table.parquet"
    write_parquet(path, pd.DataFrame({"a": ["x" * 100] * 999}))
    data = path.read_bytes()
    column = pq.read_metadata(path).row_group(0).column(0)
    last = column.dictionary_page_offset + column.total_compressed_size - 1
    one_bit = data[:last] + bytes([data[last] ^ 1]) + data[last + 1 :]
    for damaged in (b"", data[:50], data[:4] + bytes(40) + data[44:], one_bit):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"Parquet|damaged"):
            read_parquet(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_parquet(path)
