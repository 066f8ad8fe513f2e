"""Files that are whole or not there."""

from __future__ import annotations

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
