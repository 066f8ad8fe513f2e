"""Image archives become trees of files, and none gets out of its tree."""

from __future__ import annotations

import json
import os
import stat
import tarfile

import pytest

from container_images import layer_of, write_archive
from jipflow.reasons import StageError
from jipflow.segment.containers.archive import read_image, unpack


def member(name, kind, target="", mode=0o755):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, target, mode
    return found


def link(name, target):
    return member(name, tarfile.SYMTYPE, target)


def hard(name, target):
    return member(name, tarfile.LNKTYPE, target)


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_layers_lie_over_each_other(tmp_path):
    low = layer_of(
        {
            "etc/a": b"1",
            "etc/b": b"1",
            "old/x": b"1",
            "old/deep/y": b"1",
            "kind/z": b"1",
            "f": b"1",
        },
        [link("mtab", "/proc/mounts"), link("var/run", "/run")],
    )
    middle = layer_of(
        {"etc/b": b"2", "etc/.wh.a": b"", "old/new": b"2", "old/.wh..wh..opq": b"", "mtab": b"2"},
        [hard("etc/c", "etc/b"), link("kind/z", "/etc/passwd"), member("f", tarfile.DIRTYPE)],
    )
    high = layer_of({"kind/.wh.z": b"", "f/g": b"3"}, [member("dev/sda", tarfile.BLKTYPE)])
    path = write_archive(tmp_path / "i.tar", [low, middle, high], ["/run", "-x"], ["A=b=c", "D="])
    image = unpack(path, tmp_path / "root")
    assert tree(tmp_path / "root") == {
        **{"etc/b": "2", "etc/c": "2", "old/new": "2", "mtab": "2", "f/g": "3"},
    }
    assert (tmp_path / "root/var/run").is_symlink()
    assert image == read_image(path)
    assert image.entry == ("/run", "-x")
    assert image.environment == {"A": "b=c", "D": ""}


def test_modes_lose_what_makes_a_user_another_one(tmp_path):
    layer = layer_of({"su": b"x"}, [member("shut", tarfile.DIRTYPE, mode=0)], mode=0o6777)
    unpack(write_archive(tmp_path / "i.tar", [layer]), tmp_path / "root")
    assert (tmp_path / "root/su").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "root/shut").stat().st_mode & 0o7777 == 0o700


def escapes(host):
    """Return layers that try to leave the tree, by what they try."""
    aside = layer_of({}, [link("host", host)])
    return {
        "upwards": [layer_of({"../out": b"x"})],
        "up and down": [layer_of({"a/../../out": b"x"})],
        "a relative link": [layer_of({}, [link("up", "..")]), layer_of({"up/out": b"x"})],
        "an absolute link": [aside, layer_of({"host/out": b"x"})],
        "a whiteout beyond a link": [aside, layer_of({"host/.wh.precious": b""})],
        "an opaque one beyond a link": [aside, layer_of({"host/.wh..wh..opq": b""})],
        "a whiteout of the parent": [layer_of({"a/b": b""}), layer_of({"a/.wh...": b""})],
        "a whiteout of the folder": [layer_of({"a/b": b""}), layer_of({"a/.wh..": b""})],
        "a hard link": [layer_of({}, [hard("mine", "../precious")])],
        "a hard link beyond a link": [aside, layer_of({}, [hard("mine", "host/precious")])],
    }


@pytest.mark.parametrize("way", escapes("/"))
def test_no_layer_reaches_out_of_the_tree(tmp_path, way):
    precious = tmp_path / "precious"
    precious.write_text("keep")
    path = write_archive(tmp_path / "i.tar", escapes(str(tmp_path))[way])
    with pytest.raises(StageError, match=r"i\.tar cannot be used as an image archive"):
        unpack(path, tmp_path / "root")
    assert precious.read_text() == "keep"
    assert precious.stat().st_nlink == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.tar", "precious", "root"]


def test_the_tree_itself_cannot_be_replaced(tmp_path):
    layers = [layer_of({}, [link(".", str(tmp_path))]), layer_of({"out": b"x"})]
    unpack(write_archive(tmp_path / "i.tar", layers), tmp_path / "root")
    assert not (tmp_path / "root").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.tar", "root"]


def test_what_is_no_image_archive_is_named(tmp_path):
    path = tmp_path / "i.tar"
    path.write_bytes(b"no archive")
    with pytest.raises(StageError, match="docker save"):
        read_image(path)
    path.write_bytes(layer_of({"bin/sh": b"x"}))
    with pytest.raises(StageError, match=r"manifest\.json"):
        read_image(path)
    path.write_bytes(layer_of({"manifest.json": json.dumps([{}, {}]).encode()}))
    with pytest.raises(StageError, match="has 2 images"):
        read_image(path)
    write_archive(path, [], [])
    with pytest.raises(StageError, match="starts no program"):
        read_image(path)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.tar")


def test_whatever_the_umask_of_a_run_any_account_reads_an_image(tmp_path):
    layer = layer_of({"usr/bin/says": b"x"}, [hard("opt/own/says", "usr/bin/says")])
    before = os.umask(0o077)
    try:
        unpack(write_archive(tmp_path / "i.tar", [layer]), tmp_path / "root")
    finally:
        os.umask(before)
    paths = [tmp_path / "root", *(tmp_path / "root").rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o755}
