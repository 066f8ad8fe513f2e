"""Archives are the same bytes for the same content, and no member's name leads out of a folder."""

from __future__ import annotations

import os
import stat
import zipfile

import pytest

from jipflow import archives


def test_the_same_content_is_the_same_bytes_whenever_and_from_wherever(tmp_path):
    content = b"weights" * 10
    file = tmp_path / "file"
    file.write_bytes(content)
    file.chmod(0o600)
    os.utime(file, (0, 0))
    target = tmp_path / "x.zip"
    with zipfile.ZipFile(target, "w") as archive:
        archives.add(archive, "manifest.json", b"{}")
        archives.add_file(archive, "a/b", file)
    with zipfile.ZipFile(target) as archive:
        assert archive.read("a/b") == content
        (first, second) = archive.infolist()
    for member in (first, second):
        assert member.date_time == (1980, 1, 1, 0, 0, 0)
        assert member.external_attr >> 16 == stat.S_IFREG | 0o644
        assert member.compress_type == zipfile.ZIP_STORED
    assert [i.filename for i in (first, second)] == ["manifest.json", "a/b"]
    members = {"manifest.json": b"{}", "a/b": content}
    assert archives.pack(members) == archives.pack(members)
    assert archives.pack(members) != archives.pack(dict(reversed(members.items())))


@pytest.mark.parametrize(
    "name", ["/x", "../x", "a/../../x", "a/..", "C:x", "c:/x", "..\\x", "a\\x", "\\\\host\\x"]
)
def test_a_name_that_leads_out(name):
    assert archives.climbs(name)


@pytest.mark.parametrize("name", ["x", "a/b/c.json", "a/b:c", "..x", "a/...", "a/"])
def test_a_name_that_stays_inside(name):
    assert not archives.climbs(name)


@pytest.mark.parametrize(
    ("mode", "plain"),
    [
        (0, True),
        (stat.S_IFREG | 0o644, True),
        (stat.S_IFDIR | 0o755, True),
        (stat.S_IFLNK | 0o777, False),
        (stat.S_IFCHR | 0o644, False),
    ],
)
def test_links_and_devices_are_no_plain_files(mode, plain):
    member = zipfile.ZipInfo("x")
    member.external_attr = mode << 16
    assert archives.is_plain_file(member) is plain
