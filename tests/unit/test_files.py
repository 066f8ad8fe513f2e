"""Files that are whole or not there."""

from __future__ import annotations

import pytest

from jipflow.files import stored_text


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
