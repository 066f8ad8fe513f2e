"""Messages from and to a place that may lie, stop or hang: whole files, once, within bounds."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from exchange_servers import CREDENTIALS, free_port, need_plugins
from jipflow.exchange.sealing import MAGIC
from jipflow.exchange.transport import (
    Limits,
    Listed,
    NotThere,
    Report,
    fetch,
    look,
    send,
    unsent,
)
from jipflow.reasons import PlaceError
from jipflow.settings.addresses import ExchangePlace, parse_address, way

HERE = "davs://example.org/in"
SMALL = Limits(largest=1000, most=10, patience=0.3, slowest=1_000_000, reserve=0)
SOUND = MAGIC + b"x" * 100


@dataclass
class Shelf:
    """A place in memory. `given` may be bytes, an error, or a function that makes the chunks."""

    given: dict[str, bytes | Exception | Callable[[], Iterator[bytes]]] = field(
        default_factory=dict
    )
    listed: list[Listed] | None = None
    asked: list[str] = field(default_factory=list)
    got: dict[str, bytes] = field(default_factory=dict)

    def entries(self) -> Iterator[Listed]:
        if self.listed is not None:
            yield from self.listed
            return
        for name, body in self.given.items():
            yield Listed(name, len(body if isinstance(body, bytes) else SOUND), str(hash(name)))

    def chunks(self, name: str) -> Iterator[bytes]:
        self.asked.append(name)
        body = self.given[name]
        if isinstance(body, Exception):
            raise body
        if isinstance(body, bytes):
            yield body[:7]
            yield body[7:]
        else:
            yield from body()

    def put(self, path: Path, name: str, folder: str | None) -> None:
        self.asked.append(name)
        if isinstance(error := self.given.get(name), Exception):
            raise error
        self.got[f"{folder}/{name}" if folder else name] = path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "exchange" / "in"


def fetched(place: Shelf, folder: Path, limits: Limits = SMALL, address: str = HERE) -> Report:
    return fetch(place, address, folder, folder.parent / "fetched.list", limits)


def names(folder: Path) -> list[str]:
    """What lies in a folder, and beside it but the memory."""
    beside = [p.name for p in folder.parent.iterdir() if p.name not in {"fetched.list", "in"}]
    return sorted([*(p.name for p in folder.iterdir()), *beside])


def test_what_is_there_comes_whole_and_once(folder):
    place = Shelf({"b.age": SOUND, "a.age": SOUND + b"y"})
    assert fetched(place, folder).plain() == {"files": ["a.age", "b.age"], "left_out": {}}
    assert (folder / "a.age").read_bytes() == SOUND + b"y"
    assert names(folder) == ["a.age", "b.age"]
    assert fetched(place, folder).files == []
    assert place.asked == ["a.age", "b.age"]


def test_what_was_replaced_or_is_gone_here_comes_again(folder):
    place = Shelf({"a.age": SOUND, "b.age": SOUND, "c.age": SOUND})
    fetched(place, folder)
    (folder / "a.age").unlink()
    place.given["b.age"] = SOUND + b"new"
    assert fetched(place, folder).files == ["a.age", "b.age"]
    assert (folder / "b.age").read_bytes() == SOUND + b"new"


def test_what_came_from_another_place_is_not_that_of_this_one(folder):
    fetched(Shelf({"a.age": SOUND}), folder)
    other = Shelf({"a.age": MAGIC + b"z" * 100})
    assert fetched(other, folder, address="s3://other").files == ["a.age"]
    assert (folder / "a.age").read_bytes() == MAGIC + b"z" * 100


@pytest.mark.parametrize(
    "name",
    [
        "../a.age",
        "/etc/a.age",
        "b/a.age",
        "..\\a.age",
        "b/../../a.age",
        "%2e%2e%2fa.age",
        ".a.age",
        ".partial-x-a.age",
        "-rf.age",
        "a b.age",
        "a\n.age",
        "a\0.age",
        "é.age",
        "{x}.age",
        "~.age",
        "a" * 252 + ".age",
    ],
)
def test_no_name_but_a_plain_one_is_asked_for(name, folder):
    place = Shelf({name: SOUND, "good.age": SOUND})
    report = fetched(place, folder)
    assert place.asked == ["good.age"]
    assert names(folder) == ["good.age"]
    ((shown, reason),) = report.left_out.items()
    assert reason == "its name is no plain one"
    assert shown.isascii()
    assert shown.isprintable()


def test_other_files_of_a_place_are_none_of_ours(folder):
    report = fetched(Shelf({"readme.txt": SOUND, "a.age.part": SOUND, ".age": SOUND}), folder)
    assert report.plain() == {"files": [], "left_out": {".age": "its name is no plain one"}}


@pytest.mark.parametrize("size", [-1, 0, 21, 1001, 10**30])
def test_a_size_out_of_bounds_is_not_asked_for(size, folder):
    place = Shelf(listed=[Listed("a.age", size)])
    assert fetched(place, folder).left_out == {"a.age": f"it is listed with {size} bytes"}
    assert place.asked == []


def test_a_name_that_is_listed_twice_is_neither(folder):
    place = Shelf({"a.age": SOUND}, listed=[Listed("a.age", n) for n in (121, 122, 123)])
    assert fetched(place, folder).left_out == {"a.age": "it is listed twice"}
    assert place.asked == []


def drip() -> Iterator[bytes]:
    """Bytes without end."""
    yield MAGIC
    yield from itertools.repeat(b"more")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda: iter([SOUND[:50]]), "it has 50 bytes, and 122 are listed"),
        (lambda: iter([SOUND, b"1"]), "it has more than the 122 bytes that are listed"),
        (drip, "it has more than the 122 bytes that are listed"),
        (lambda: iter([b"<html>".ljust(122)]), "it is no sealed message"),
        (NotThere(), "it is not given"),
    ],
    ids=["fewer", "more", "endless", "page", "gone"],
)
def test_what_is_not_as_listed_is_left_out_and_heals(body, reason, folder):
    place = Shelf({"a.age": body, "b.age": SOUND})
    report = fetched(place, folder)
    assert report.plain() == {"files": ["b.age"], "left_out": {"a.age": reason}}
    assert names(folder) == ["b.age"]
    place.given["a.age"] = SOUND
    assert fetched(place, folder).plain() == {"files": ["a.age"], "left_out": {}}


def half(end: Callable[[], None]) -> Callable[[], Iterator[bytes]]:
    """A body of which half comes."""

    def body() -> Iterator[bytes]:
        yield SOUND[:50]
        end()

    return body


def cut() -> None:
    raise PlaceError("ReadError")


@pytest.mark.parametrize(
    ("end", "message"),
    [(cut, "ReadError"), (lambda: time.sleep(20), "no end within 0 s")],
    ids=["cut", "hangs"],
)
def test_half_a_file_fails_the_job_after_the_others_and_heals(end, message, folder):
    place = Shelf({"a.age": half(end), "b.age": SOUND})
    began = time.monotonic()
    with pytest.raises(PlaceError, match=rf"^{HERE}: a\.age: {message}.*run the same command"):
        fetched(place, folder)
    assert time.monotonic() - began < 10
    assert names(folder) == ["b.age"]
    place.given["a.age"] = SOUND
    assert fetched(place, folder).files == ["a.age"]
    assert place.asked == ["a.age", "b.age", "a.age"]


def test_a_library_that_takes_the_deadline_for_its_own_error_does_not_go_on(folder):
    def stubborn() -> Iterator[bytes]:
        while True:
            try:
                time.sleep(20)
            except Exception:
                continue
            yield b""

    with pytest.raises(PlaceError, match="no end within"):
        fetched(Shelf({"a.age": stubborn}), folder)


def test_a_dead_place_is_not_asked_for_every_file(folder):
    place = Shelf({f"{n}.age": PlaceError("ConnectError") for n in range(9)})
    with pytest.raises(PlaceError):
        fetched(place, folder)
    assert place.asked == ["0.age", "1.age", "2.age"]


def test_faults_now_and_then_do_not_keep_the_others(folder):
    given = {f"{n}.age": PlaceError("503") if n % 2 else SOUND for n in range(9)}
    with pytest.raises(PlaceError):
        fetched(Shelf(given), folder)
    assert names(folder) == [f"{n}.age" for n in (0, 2, 4, 6, 8)]


def test_a_list_without_end_is_refused(folder):
    class Endless(Shelf):
        def entries(self) -> Iterator[Listed]:
            return (Listed(f"{n}.age", 200) for n in itertools.count())

    with pytest.raises(PlaceError, match=r"holds more than 10 files; clear old ones there\.$"):
        fetched(Endless(), folder)


def test_a_list_that_hangs_is_given_up(folder):
    class Silent(Shelf):
        def entries(self) -> Iterator[Listed]:
            time.sleep(20)
            yield Listed("a.age", 200)

    with pytest.raises(PlaceError, match=r"does not list its files: no end within 0 s\.$"):
        fetched(Silent(), folder)


def test_the_disk_is_not_filled(folder):
    limits = Limits(largest=1000, reserve=1 << 60)
    with pytest.raises(OSError, match="No space left"):
        fetched(Shelf({"a.age": SOUND}), folder, limits)
    assert names(folder) == []


def test_what_a_killed_run_left_is_removed(folder):
    scratch = folder.parent / ".partial-scratch"
    scratch.mkdir(parents=True)
    (scratch / "message").write_bytes(b"half")
    fetched(Shelf({"a.age": SOUND}), folder)
    assert names(folder) == ["a.age"]


def test_a_look_fetches_nothing(folder):
    place = Shelf({"a.age": SOUND, "b c.age": SOUND})
    wanted, left_out = look(place, HERE, folder, folder.parent / "fetched.list", SMALL)
    assert [item.name for item in wanted] == ["a.age"]
    assert left_out == {"b c.age": "its name is no plain one"}
    assert place.asked == []
    assert not folder.exists()


def sent(place: Shelf, folder: Path) -> Report:
    return send(place, HERE, folder, folder.parent / "sent.list", SMALL)


def test_what_lies_here_goes_there_once_each_site_into_its_folder(folder):
    (folder / "north").mkdir(parents=True)
    (folder / "north" / "a.age").write_bytes(SOUND)
    (folder / "b.age").write_bytes(SOUND)
    place = Shelf()
    assert sent(place, folder).files == ["b.age", "north/a.age"]
    assert place.got == {"b.age": SOUND, "north/a.age": SOUND}
    assert unsent(folder, folder.parent / "sent.list", HERE) == []
    assert sent(place, folder).files == []
    (folder / "b.age").write_bytes(SOUND + b"again")
    assert sent(place, folder).files == ["b.age"]
    assert unsent(folder, folder.parent / "sent.list", "s3://other") != []


def test_nothing_but_messages_goes(folder, tmp_path):
    (folder / "North").mkdir(parents=True)
    (folder / "deep" / "er").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    for name in (".partial-x-a.age", "a.zip", "North/a.age", "deep/er/a.age", "key"):
        (folder / name).write_bytes(SOUND)
    (folder / "link.age").symlink_to(tmp_path / "secret")
    (folder / "away").symlink_to(tmp_path)
    (folder / "folder.age").mkdir()
    assert unsent(folder, folder.parent / "sent.list", HERE) == []
    assert unsent(folder / "none", folder.parent / "sent.list", HERE) == []


def test_what_a_place_does_not_take_is_sent_by_the_same_command(folder):
    folder.mkdir(parents=True)
    for name in ("a.age", "b.age"):
        (folder / name).write_bytes(SOUND)
    place = Shelf({"a.age": PlaceError("HTTP status 503")})
    with pytest.raises(PlaceError, match=r"a\.age: HTTP status 503\. What came through is kept"):
        sent(place, folder)
    place.given.clear()
    assert sent(place, folder).files == ["a.age"]
    assert place.asked == ["a.age", "b.age", "a.age"]


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket", "s3://bucket"),
        (
            "davs://cloud.example.org:8443/remote.php/x",
            "davs://cloud.example.org:8443/remote.php/x",
        ),
        ("dav://127.0.0.1:8080/in", "dav://127.0.0.1:8080/in"),
        ("dav://[::1]/in", "dav://[::1]/in"),
        ("dav://localhost/in", "dav://localhost/in"),
    ],
)
def test_an_address_is_spelled_one_way(text, url):
    assert parse_address(text).url == url
    assert TypeAdapter(ExchangePlace).validate_python(text) == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("davs://ada:hunter2@example.org/x", "the address holds a name or password"),
        ("s3://key:hunter2@bucket/x", "holds a name or password"),
        ("dav://example.org/x", "would send its password unencrypted; use davs://"),
        ("dav://localhost.example.org/x", "would send its password unencrypted"),
        ("https://example.org/x", "begins with s3://, davs:// or dav://"),
        ("sftp://example.org/x", "begins with s3://, davs:// or dav://"),
        ("davs://example.org/a/../b", "plain path"),
        ("davs://example.org/a//b", "plain path"),
        ("davs:///a", "must be a host or bucket"),
        ("davs://example.org:x/a", "host or port"),
        ("davs://example.org/a?b=hunter2", "holds a blank or one of"),
        ("s3://bucket/{site}", "holds a blank or one of"),
        ("s3://bucket:9000/x", "names no bucket"),
        ("s3://Bucket/x", "names no bucket"),
    ],
)
def test_no_other_address_is_taken_and_no_secret_repeated(text, message):
    with pytest.raises(ValidationError, match=message) as caught:
        TypeAdapter(ExchangePlace).validate_python(text)
    (error,) = caught.value.errors()
    assert "hunter2" not in error["msg"]


def test_a_folder_is_its_own_way(tmp_path):
    assert way("/mnt/stick", tmp_path).folder == Path("/mnt/stick")
    assert way("/mnt/stick", tmp_path).address is None
    assert way(None, tmp_path).folder == tmp_path
    assert way("s3://bucket/x", tmp_path).folder == tmp_path
    assert way("s3://bucket/x", tmp_path).address == "s3://bucket/x"


def test_the_libraries_of_a_run_count_for_none_of_the_memory_that_a_list_may_take(tmp_path):
    """A job is a copy of a process that holds much; a list without end fails in test_exchange."""
    need_plugins()
    begin = "import mmap, sys; held = mmap.mmap(-1, 3 << 30); from jipflow.cli import main; "
    words = ["--from", f"dav://127.0.0.1:{free_port()}/in", "--to", str(tmp_path / "in")]
    words += ["--memory", str(tmp_path / "list")]
    done = subprocess.run(
        [sys.executable, "-c", f"{begin}sys.exit(main())", "exchange", "look", *words],
        env=os.environ | CREDENTIALS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "in does not list its files: " in done.stderr
