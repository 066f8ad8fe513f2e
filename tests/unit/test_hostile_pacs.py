"""A PACS that redirects, never ends, or sends what nobody asked for."""

from __future__ import annotations

import gzip
import json
import socket
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from hostile_pacs import (
    INSTANCE,
    MULTIPART,
    SERIES,
    STUDY,
    file_of,
    is_silent,
    multipart,
    serving,
    source_of,
)
from jipflow.inflate import is_within
from jipflow.pacs import archive as archives
from jipflow.pacs.archive import ArchiveDown, Rejected
from jipflow.pacs.dicomweb.archive import DicomwebArchive
from jipflow.settings.resources import ConfigError

FIND, FETCH, SEND, DESCRIBE, LIST = "find", "fetch", "send", "describe", "list"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "stored.dcm"
    path.write_bytes(file_of())
    return path


def act(archive: DicomwebArchive, what: str, stored: Path, receive: Any = lambda *_: None) -> Any:
    if what == FIND:
        return archive.find_series({"PatientID": "DOE"})
    if what == LIST:
        return archive.find_instances(STUDY, SERIES)
    if what == DESCRIBE:
        return archive.describe(STUDY, SERIES, INSTANCE)
    if what == FETCH:
        return archive.fetch(STUDY, SERIES, [INSTANCE], receive)
    return archive.send(stored)


def message_of(act: Callable[[], object]) -> str:
    """Return what an action says against the PACS; empty if nothing."""
    try:
        act()
    except (Rejected, ConfigError) as error:
        return str(error)
    return ""


@contextmanager
def elsewhere() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("what", [FIND, FETCH, SEND, DESCRIBE, LIST])
def test_no_redirect_leaves_the_origin(
    what: str, status: int, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "hunter2")
    with elsewhere() as listener:
        there = f"127.0.0.1:{listener.getsockname()[1]}"

        def answer(request: Any) -> None:
            request.start(status, Location=f"http://{there}/DOE?p=DOE", Content_Length=0)

        with serving(answer) as server:
            source = source_of(server.url, token_env="TOKEN")
            with DicomwebArchive(source) as archive, pytest.raises(ConfigError) as error:
                act(archive, what, stored)
        assert is_silent(listener)
    message = str(error.value)
    assert message.startswith("source 'pacs': ")
    assert f"was redirected to http://{there}, which is not followed" in message
    assert f"set its address as url, else let its administrator look at {server.url}" in message
    assert "\n" not in message
    assert "DOE" not in message
    assert "hunter2" not in message
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "target",
    [
        "//127.0.0.1:{port}/x",
        "https://{here}/dicom-web",
        "http://{here}@127.0.0.1:{port}/x",
        "http://127.0.0.1:{port}\\@{here}/x",
        "http://{here}\\@127.0.0.1:{port}/x",
        "http:\\\\127.0.0.1:{port}/x",
        "\\\\127.0.0.1:{port}/x",
        "/\\127.0.0.1:{port}/x",
        "http://127.0.0.1:{port}#@{here}/x",
        "http://127.0.0.1:{port}?@{here}/x",
        "http://localhost:{port}/x",
        "http://2130706433:{port}/x",
        "http://[::ffff:127.0.0.1]:{port}/x",
        "HTTP://127.0.0.1:{port}/x",
        "http:///127.0.0.1:{port}/x",
        "http://127.0.0.1:{port}\t/x",
        "http://127.0.0.1:99999/x",
        "http://[/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1:{port}/x",
        "javascript:alert(1)",
        "http://user:hunter2@{here}/x",
        "http://127.0.0.1/x",
    ],
)
def test_no_spelling_of_another_origin_is_followed(target: str, stored: Path) -> None:
    with elsewhere() as listener:
        port = listener.getsockname()[1]

        def answer(request: Any) -> None:
            if not request.path.startswith("/dicom-web/s"):
                request.whole(b"[]")  # a path within the origin, whatever it looks like
                return
            here = f"127.0.0.1:{server.server_port}"
            location = target.format(port=port, here=here)
            request.start(302, Location=location, Content_Length=0)

        with serving(answer) as server, DicomwebArchive(source_of(server.url)) as archive:
            message = message_of(lambda: act(archive, FIND, stored))
            assert message == "" or "which is not followed" in message
            assert "hunter2" not in message
        assert is_silent(listener)


@pytest.mark.parametrize("start", ["https://", "http://user:hunter2@"])
def test_no_redirect_changes_the_scheme_or_brings_credentials(start: str, stored: Path) -> None:
    def answer(request: Any) -> None:
        location = f"{start}127.0.0.1:{server.server_port}/x"
        request.start(302, Location=location, Content_Length=0)

    with serving(answer) as server, DicomwebArchive(source_of(server.url)) as archive:
        there = f"{start.partition(':')[0]}://127.0.0.1:{server.server_port}"
        with pytest.raises(ConfigError, match=f"redirected to {there}, which is not followed"):
            act(archive, FIND, stored)
    assert len(server.asked) == 1


def test_a_redirect_of_https_to_http_is_not_followed() -> None:
    archive = DicomwebArchive(source_of("https://pacs.example/dicom-web"))
    session = archive._session
    for target in (
        "http://pacs.example/x",
        "https://pacs.example:444/x",
        "https://pacs.example./x",
    ):
        with pytest.raises(OSError, match=r"https?://pacs"):
            session._within("https://pacs.example/dicom-web/", target)  # type: ignore[attr-defined]
    for target in ("../x#a", "https://PACS.example:443/x"):
        found = session._within("https://pacs.example/dicom-web/", target)  # type: ignore[attr-defined]
        assert found.lower() in {"https://pacs.example/x", "https://pacs.example:443/x"}


def test_a_query_is_redirected_within_the_origin_a_few_times(stored: Path) -> None:
    def answer(request: Any) -> None:
        assert request.server is server
        step = int(request.path.rpartition("=")[2]) if "?step=" in request.path else 0
        if step == 4:
            request.whole(json.dumps([result()]).encode())
        else:
            request.start(302, Location=f"/moved?step={step + 1}", Content_Length=0)

    with serving(answer) as server, DicomwebArchive(source_of(server.url)) as archive:
        assert [row["SeriesInstanceUID"] for row in act(archive, FIND, stored)] == [SERIES]
        # The page behind it is asked for as well.
        assert len(server.asked) == 10


def test_a_redirect_without_end_ends(stored: Path) -> None:
    def answer(request: Any) -> None:
        request.start(307, Location=f"{request.path}&again=1", Content_Length=0)

    with serving(answer) as server, DicomwebArchive(source_of(server.url)) as archive:
        for what in (FIND, SEND):
            server.asked.clear()
            with pytest.raises(ConfigError, match="one path after another"):
                act(archive, what, stored)
            assert len(server.asked) == 6


def test_what_is_stored_is_redirected_with_its_body_or_not_at_all(stored: Path) -> None:
    bodies = []

    def answer(request: Any) -> None:
        bodies.append(request.rest)
        if request.path == "/there":
            answer = {"00081199": {"Value": [{"00081155": {"Value": [INSTANCE]}}]}}
            request.whole(json.dumps(answer).encode())
        else:
            request.start(status, Location="/there", Content_Length=0)

    with serving(answer) as server, DicomwebArchive(source_of(server.url)) as archive:
        for status in (307, 308):  # noqa: B007
            bodies.clear()
            assert act(archive, SEND, stored).sop_instance_uid == INSTANCE
            assert stored.read_bytes() in bodies[0]
            assert bodies[0] == bodies[1]
        for status in (301, 302, 303):  # noqa: B007
            bodies.clear()
            with pytest.raises(ConfigError, match="a status that loses what is stored"):
                act(archive, SEND, stored)
            assert len(bodies) == 1
    assert {method for method, _, _ in server.asked} == {"POST"}


def test_no_cookie_is_kept(stored: Path) -> None:
    def answer(request: Any) -> None:
        request.whole(b"[]", Set_Cookie="session=1; Path=/")

    with serving(answer) as server, DicomwebArchive(source_of(server.url)) as archive:
        act(archive, FIND, stored)
        act(archive, FIND, stored)
    assert not any("Cookie" in headers for _, _, headers in server.asked)


def result(**values: str) -> dict[str, Any]:
    return {
        "0020000D": {"vr": "UI", "Value": [values.get("study", STUDY)]},
        "0020000E": {"vr": "UI", "Value": [values.get("series", SERIES)]},
        "00080018": {"vr": "UI", "Value": [values.get("instance", INSTANCE)]},
        "00100020": {"vr": "LO", "Value": [values.get("patient", "DOE")]},
    }


def peak_of(act: Callable[[], object]) -> float:
    """Return the MiB that an action holds at most, of all threads."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def endless_json(request: Any) -> None:
    request.start(200, Content_Type="application/dicom+json")
    request.wfile.write(b"[")
    request.without_end(b" " * 65536)


def endless_chunks(request: Any) -> None:
    request.start(200, Content_Type="application/dicom+json", Transfer_Encoding="chunked")
    request.without_end(b"10000\r\n" + b" " * 65536 + b"\r\n")


@cache
def bombs() -> dict[str, bytes]:
    """Return what is small and becomes large: JSON, parts, and a file that is deflated itself."""
    text = b"[" + b" " * (64 << 20)
    file = file_of(syntax=DeflatedExplicitVRLittleEndian, PixelData=bytes(64 << 20))
    return {
        "gzip": gzip.compress(text),
        "twice": zlib.compress(zlib.compress(text)),
        "parts": gzip.compress(multipart(bytes(64 << 20))),
        "file": file,
    }


def json_bomb(request: Any) -> None:
    request.whole(bombs()["gzip"], Content_Encoding="gzip")


def deflated_json_bomb(request: Any) -> None:
    request.whole(bombs()["twice"], Content_Encoding="deflate, deflate")


def endless_redirect(request: Any) -> None:
    request.start(302, Location="/dicom-web/next")
    request.without_end(b" " * 65536)


def endless_error(request: Any) -> None:
    request.start(400, Content_Type="text/plain")
    request.without_end(b" " * 65536)


@pytest.mark.parametrize("what", [FIND, LIST, DESCRIBE, SEND])
@pytest.mark.parametrize(
    "answer",
    [endless_json, endless_chunks, json_bomb, deflated_json_bomb, endless_redirect, endless_error],
)
def test_no_answer_is_held_beyond_its_limit(
    answer: Callable[[Any], None], what: str, stored: Path
) -> None:
    bombs()
    with serving(answer) as server:
        source = source_of(server.url, bytes_per_answer=1 << 20)
        with DicomwebArchive(source) as archive:

            def ask() -> None:
                with pytest.raises((Rejected, ConfigError)) as error:
                    act(archive, what, stored)
                if answer not in (endless_redirect, endless_error):
                    assert "is larger than bytes_per_answer: 1048576; if that" in str(error.value)

            assert peak_of(ask) < 8


def endless_part(request: Any) -> None:
    request.start(200, Content_Type=MULTIPART)
    request.wfile.write(b"--B\r\nContent-Type: application/dicom\r\nContent-Length: 10\r\n\r\n")
    request.without_end(b"x" * 65536)


def endless_preamble(request: Any) -> None:
    request.start(200, Content_Type=MULTIPART, Transfer_Encoding="chunked")
    request.without_end(b"10000\r\n" + b"\n" * 65536 + b"\r\n")


def endless_part_header(request: Any) -> None:
    request.start(200, Content_Type=MULTIPART)
    request.wfile.write(b"--B\r\n")
    request.without_end(b"X-Y: z\r\n" * 8192)


def endless_file(request: Any) -> None:
    request.start(200, Content_Type="application/dicom")
    request.without_end(b"x" * 65536)


def part_bomb(request: Any) -> None:
    request.whole(bombs()["parts"], MULTIPART, Content_Encoding="gzip")


def file_bomb(request: Any) -> None:
    request.whole(multipart(bombs()["file"]), MULTIPART)


@pytest.mark.parametrize(
    "answer",
    [endless_part, endless_preamble, endless_part_header, endless_file, part_bomb, file_bomb],
)
def test_no_instance_is_held_beyond_its_limit(answer: Any, stored: Path) -> None:
    received: list[str] = []
    assert max(map(len, bombs().values())) < 1 << 18
    with serving(answer) as server:
        source = source_of(server.url, bytes_per_instance=1 << 20)
        with DicomwebArchive(source) as archive:

            def ask() -> None:
                with pytest.raises(Rejected, match="larger than bytes_per_instance: 1048576"):
                    act(archive, FETCH, stored, lambda uid, _: received.append(uid))

            assert peak_of(ask) < 8
    assert received == []


def test_a_deflated_file_is_inflated_no_further_than_its_limit() -> None:
    bomb, within = bombs()["file"], []
    assert peak_of(lambda: within.append(is_within(bomb, 1 << 20))) < 6
    assert within == [False]
    small = file_of(syntax=DeflatedExplicitVRLittleEndian, PixelData=bytes(1000))
    assert is_within(small, 2000)
    assert not is_within(small, 900)
    assert is_within(file_of(PixelData=bytes(5000)), 1000)
    assert is_within(b"", 1)
    assert is_within(small[:-20], 1 << 20)


def test_what_comes_behind_the_last_part_is_not_held(stored: Path) -> None:
    files: list[bytes] = []

    def answer(request: Any) -> None:
        request.start(200, Content_Type=MULTIPART)
        request.wfile.write(multipart(file_of()))
        request.without_end(b"x" * 65536)

    with serving(answer) as server:
        source = source_of(server.url, bytes_per_instance=1 << 20)
        with DicomwebArchive(source) as archive:

            def ask() -> None:
                act(archive, FETCH, stored, lambda _, content: files.append(content))

            assert peak_of(ask) < 8
    assert files == [file_of()]


def series_of(*files: bytes, count: int = 2) -> Callable[[Any], None]:
    """Return a server of one series, whose instances come at once or not at all."""

    def answer(request: Any) -> None:
        if "/instances/" in request.path:
            request.start(404, Content_Length=0)
        elif "/series/" in request.path:
            request.start(200, Content_Type=MULTIPART)
            for each in files:
                request.wfile.write(multipart(each)[: -len(b"--B--\r\n")])
            request.without_end(multipart(file_of(instance="1.9"))[: -len(b"--B--\r\n")])
        else:
            item = {"00201209": {"Value": [str(count)]}}
            request.whole(json.dumps([item]).encode())

    return answer


def test_parts_that_nobody_asked_for_have_an_end() -> None:
    wanted = [f"1.2.1.1.{n}" for n in range(1, 4)]
    received = []
    files = [file_of(instance=uid) for uid in (wanted[0], "1.7", wanted[0], wanted[1])]
    with serving(series_of(*files, count=3)) as server:
        archive = DicomwebArchive(source_of(server.url))
        with archive, pytest.raises(Rejected, match="HTTP status 404"):
            archive.fetch(STUDY, SERIES, wanted, lambda uid, _: received.append(uid))
    assert received == wanted[:2]


def test_another_instance_than_asked_for_is_refused(stored: Path) -> None:
    received: list[str] = []

    def answer(request: Any) -> None:
        request.whole(multipart(*files), MULTIPART)

    with serving(answer) as server, DicomwebArchive(source_of(server.url)) as archive:
        for files in ([file_of(instance="1.9")], [file_of(), file_of()], [b""], [], [b"DICM"]):  # noqa: B007
            with pytest.raises((Rejected, ArchiveDown)):
                act(archive, FETCH, stored, lambda uid, _: received.append(uid))
    assert received == []


@pytest.mark.parametrize("key", ["study", "series", "instance"])
def test_the_header_of_another_instance_is_refused(key: str, stored: Path) -> None:
    def answer(request: Any) -> None:
        request.whole(json.dumps([result(**{key: "1.9"})]).encode())

    with serving(answer) as server, DicomwebArchive(source_of(server.url)) as archive:
        with pytest.raises(Rejected, match=r"sent one of another .*InstanceUID"):
            act(archive, DESCRIBE, stored)
        if key == "series":
            with pytest.raises(Rejected, match="listed those of another series"):
                act(archive, LIST, stored)


def test_results_without_end_have_one(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jipflow.pacs.dicomweb.archive.MOST_RESULTS", 50)

    def answer(request: Any) -> None:
        offset = len(server.asked)
        row = result(series=f"1.2.{offset}", instance=f"1.2.{offset}", patient="x" * length)
        row["0020000E"] = {"Value": [f"1.2.{offset}" if what == FIND else SERIES]}
        request.whole(json.dumps([row]).encode())

    with serving(answer) as server:
        for what, length, most in ((FIND, 1, 52), (LIST, 1, 52), (FIND, 1 << 16, 18)):  # noqa: B007
            server.asked.clear()
            source = source_of(server.url, bytes_per_answer=1 << 20)
            with DicomwebArchive(source) as archive, pytest.raises(Rejected, match="more than"):
                act(archive, what, stored)
            assert len(server.asked) <= most
    assert archives.MOST_RESULTS == 1_000_000


@pytest.mark.parametrize("what", [FIND, LIST, DESCRIBE, SEND])
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" + b"9" * 100_000 + b"]",
        b"[[]]",
        b"[1]",
        b'["DOE"]',
        b'[{"DOE": 5}]',
        b'[{"0020000D": "DOE"}]',
        b'[{"0020000D": {"Value": 7}, "0020000E": {"Value": [{"DOE": []}]}}]',
        b'[{"00080018": {"vr": "SQ", "Value": ["DOE"]}}]',
        b'[{"00280010": {"vr": "US", "Value": ["DOE"]}}]',
        b'[{"00081140": {"vr": "SQ", "Value": ' + b'[{"00081140": {"vr": "SQ", "Value": ' * 900,
        b'{"DOE": 1}',
        b'"DOE"',
        b"DOE",
        b"\xff\xfe",
        b"",
    ],
)
def test_what_is_no_dicom_json_ends_in_a_message(
    content: bytes, what: str, stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: Any) -> None:
        request.whole(content, Warning="299 x: DOE")

    with serving(answer) as server, DicomwebArchive(source_of(server.url)) as archive:
        assert "DOE" not in message_of(lambda: act(archive, what, stored))
    assert "DOE" not in caplog.text


def test_half_a_character_is_no_fault_of_a_table(stored: Path) -> None:
    def answer(request: Any) -> None:
        request.whole(json.dumps([result(patient="\ud800DOE")]).encode())

    with serving(answer) as server, DicomwebArchive(source_of(server.url)) as archive:
        (row,) = act(archive, FIND, stored)
    assert row["PatientID"] == "?DOE"


@pytest.mark.parametrize("header", ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Type: app"])
@pytest.mark.parametrize("what", [FIND, LIST, DESCRIBE, SEND])
def test_an_answer_cut_in_its_header_is_not_an_empty_one(
    header: str, what: str, stored: Path
) -> None:
    def answer(request: Any) -> None:
        request.wfile.write(header.encode())
        request.close_connection = True

    with (
        serving(answer) as server,
        DicomwebArchive(source_of(server.url)) as archive,
        pytest.raises(ArchiveDown, match="was cut off"),
    ):
        act(archive, what, stored)


@pytest.mark.parametrize("status", [200, 204])
def test_an_answer_that_says_so_is_empty(status: int, stored: Path) -> None:
    def answer(request: Any) -> None:
        request.start(status, Content_Length=0)

    with serving(answer) as server, DicomwebArchive(source_of(server.url)) as archive:
        assert act(archive, FIND, stored) == []


def slow_header(request: Any) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
    request.without_end(b"a", 0.05)


def slow_body(request: Any) -> None:
    request.start(200, Content_Type=MULTIPART, Content_Length=1 << 20)
    request.without_end(b" ", 0.05)


def slow_body_without_length(request: Any) -> None:
    request.start(200, Content_Type=MULTIPART, Connection="close")
    request.without_end(b" ", 0.05)


def slow_chunks(request: Any) -> None:
    request.start(200, Content_Type=MULTIPART, Transfer_Encoding="chunked")
    request.without_end(b"1\r\n \r\n", 0.05)


def slow_chunk_size(request: Any) -> None:
    request.start(200, Content_Type=MULTIPART, Transfer_Encoding="chunked")
    request.wfile.write(b"1;")
    request.without_end(b"a", 0.05)


def slow_trailers(request: Any) -> None:
    request.start(200, Content_Type=MULTIPART, Transfer_Encoding="chunked")
    request.wfile.write(b"0\r\n")
    request.without_end(b"X: y\r\n", 0.01)


def slow_parts(request: Any) -> None:
    request.start(200, Content_Type=MULTIPART)
    request.without_end(b"\r\n", 0.05)


def provisional(request: Any) -> None:
    request.without_end(b"HTTP/1.1 100 Continue\r\n\r\n", 0.001)


SLOW = [slow_header, slow_body, slow_body_without_length, slow_chunks, slow_chunk_size]
SLOW += [slow_trailers, provisional]


@pytest.mark.parametrize(
    ("what", "answer"), [*product([FIND, FETCH, SEND], SLOW), (FETCH, slow_parts)]
)
def test_an_answer_that_only_drips_ends(answer: Any, what: str, stored: Path) -> None:
    with (
        serving(answer) as server,
        DicomwebArchive(source_of(server.url, timeout=0.2)) as archive,
    ):
        start = time.monotonic()
        with pytest.raises(ArchiveDown, match=r"source 'pacs': .*(too slowly|no answer within)"):
            act(archive, what, stored)
        seconds = time.monotonic() - start
    # A query is sent twice where the header of its answer does not come.
    assert seconds < 20


def test_an_answer_that_comes_at_a_rate_has_its_time(stored: Path) -> None:
    content = json.dumps([result()]).encode() + b" " * 40_000

    def answer(request: Any) -> None:
        request.start(200, Content_Type="application/dicom+json", Transfer_Encoding="chunked")
        for start in range(0, len(content), 1000):
            piece = content[start : start + 1000]
            request.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            time.sleep(0.06)
        request.wfile.write(b"0\r\n\r\n")

    with (
        serving(answer) as server,
        DicomwebArchive(source_of(server.url, timeout=0.4)) as archive,
    ):
        assert len(act(archive, FIND, stored)) == 1


def fast_chunk_size(request: Any) -> None:
    request.start(200, Content_Type="application/dicom+json", Transfer_Encoding="chunked")
    request.wfile.write(b"1;")
    request.without_end(b"a" * 65536)


def fast_header(request: Any) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
    request.without_end(b"a" * 65536)


def fast_headers(request: Any) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    request.without_end(b"X-A: b\r\n" * 1000)


def fast_status(request: Any) -> None:
    request.without_end(b"a" * 65536)


@pytest.mark.parametrize("answer", [fast_chunk_size, fast_header, fast_headers, fast_status])
def test_no_line_of_the_protocol_is_held_beyond_its_limit(answer: Any, stored: Path) -> None:
    with serving(answer) as server, DicomwebArchive(source_of(server.url)) as archive:

        def ask() -> None:
            with pytest.raises((ArchiveDown, Rejected)):
                act(archive, FIND, stored)

        start = time.monotonic()
        assert peak_of(ask) < 4
        assert time.monotonic() - start < 20
