"""Messages over real servers of WebDAV and S3, through a real proxy, and from one that lies."""

from __future__ import annotations

import datetime
import gzip
import ipaddress
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import snakemake_copies
from exchange_servers import (
    CREDENTIALS,
    KINDS,
    SECRET,
    USER,
    Liar,
    Lies,
    Server,
    lying,
    need_plugins,
    proxy,
    running,
)
from jipflow.exchange.places import open_place
from jipflow.exchange.sealing import MAGIC
from jipflow.exchange.transport import Limits, Report, fetch
from jipflow.reasons import PlaceError
from jipflow.settings.addresses import parse_address
from jipflow.settings.resources import ConfigError

# tests/unit/test_transport.py has the same lies in memory, for `make test`.
pytestmark = pytest.mark.long

SMALL = MAGIC + os.urandom(10_000)
LARGE = MAGIC + os.urandom(20_000_000)


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with running(request.param, tmp_path / "served") as found:
        yield found


def carry(
    word: str, address: str, folder: Path, environment: Mapping[str, str], *, copied: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command as the rules do: a copy of the server of a run, or by itself."""
    process = begun(word, address, folder, environment, copied=copied)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def begun(
    word: str, address: str, folder: Path, environment: Mapping[str, str], *, copied: bool = True
) -> subprocess.Popen[str]:
    ends = (address, str(folder)) if word == "fetch" else (str(folder), address)
    beside = folder.parent
    words = [sys.executable, "-m", "jipflow", "exchange", word, "--from", ends[0], "--to", ends[1]]
    words += ["--memory", str(beside / f"{word}.list"), "--report", str(beside / f"{word}.json")]
    server = snakemake_copies.commands() if copied else {}
    return subprocess.Popen(
        words,
        env={**clean(), **server, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def clean() -> dict[str, str]:
    """The environment without what a developer's machine may say about proxies and S3."""
    ours = ("AWS_", "SNAKEMAKE_STORAGE_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ours) and not name.lower().endswith("_proxy")
    } | {"AWS_EC2_METADATA_DISABLED": "true"}


def write(folder: Path, **files: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.age").write_bytes(content)


def test_messages_go_there_and_come_back_whole_and_once(server, tmp_path):
    write(tmp_path / "x" / "out", small=SMALL, large=LARGE)
    write(tmp_path / "x" / "out" / "north", small=SMALL)
    for lines in (["large.age", "north/small.age", "small.age"], []):
        done = carry("send", server.address(), tmp_path / "x" / "out", server.environment)
        assert (done.returncode, done.stdout.split(), done.stderr) == (0, lines, "")
    assert (server.inbox / "large.age").read_bytes() == LARGE
    there = {str(p.relative_to(server.inbox)) for p in server.inbox.rglob("*") if p.is_file()}
    assert there == {"large.age", "north/small.age", "small.age"}
    for lines in (["large.age", "small.age"], []):
        done = carry("fetch", server.address(), tmp_path / "y" / "in", server.environment)
        assert (done.returncode, done.stdout.split(), done.stderr) == (0, lines, "")
    assert (tmp_path / "y" / "in" / "large.age").read_bytes() == LARGE
    done = carry("fetch", server.address("in/north"), tmp_path / "z" / "in", server.environment)
    assert (tmp_path / "z" / "in" / "small.age").read_bytes() == SMALL


def test_what_is_replaced_there_comes_again(server, tmp_path):
    write(tmp_path / "x" / "out", a=SMALL)
    carry("send", server.address(), tmp_path / "x" / "out", server.environment)
    carry("fetch", server.address(), tmp_path / "y" / "in", server.environment)
    write(tmp_path / "x" / "out", a=SMALL + b"again")
    carry("send", server.address(), tmp_path / "x" / "out", server.environment)
    done = carry("fetch", server.address(), tmp_path / "y" / "in", server.environment)
    assert done.stdout.split() == ["a.age"]
    assert (tmp_path / "y" / "in" / "a.age").read_bytes() == SMALL + b"again"


@pytest.mark.parametrize("kind", ["wsgidav", "rclone-s3"])
def test_what_is_not_allowed_or_not_there_is_named_without_the_secret(kind, tmp_path):
    with running(kind, tmp_path / "served") as server:
        wrong = dict.fromkeys(CREDENTIALS, "wrong")
        done = carry("fetch", server.address(), tmp_path / "in", server.environment | wrong)
        assert done.returncode == 1
        assert "access is denied (HTTP status 40" in done.stderr
        missing = "s3://none/in" if kind == "rclone-s3" else server.address("none")
        done = carry("fetch", missing, tmp_path / "in", server.environment)
        assert f"{missing}: there is no such folder or bucket; make it." in done.stderr
        write(tmp_path / "out", a=SMALL)
        done = carry("send", missing, tmp_path / "out", server.environment)
        assert done.returncode == 1
        assert "a.age: " in done.stderr
    done = carry("fetch", server.address(), tmp_path / "in", server.environment)
    assert done.returncode == 1
    assert "does not list its files: " in done.stderr
    assert SECRET not in done.stderr
    assert not list((tmp_path / "in").glob("*"))


@pytest.mark.parametrize("kind", ["rclone-webdav", "rclone-s3"])
@pytest.mark.parametrize("word", ["fetch", "send"])
def test_a_server_that_dies_half_way_leaves_no_half_and_the_same_command_heals(
    kind, word, tmp_path
):
    ours = tmp_path / "x" / "folder"
    with running(kind, tmp_path / "served", "--bwlimit", "4M") as server:
        source, target = (server.inbox, ours) if word == "fetch" else (ours, server.inbox)
        write(source, large=LARGE)
        begin = server.carried(word)
        process = begun(word, server.address(), ours, server.environment)
        while server.carried(word) < begin + len(LARGE) // 5:
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        server.stop()
        _, err = process.communicate(timeout=100)
        assert process.returncode == 1
        assert "large.age: " in err
        assert "run the same command again" in err
        assert not list(target.glob("*.age")) if target.is_dir() else True
        server.options = ()
        server.start()
        done = carry(word, server.address(), ours, server.environment)
        assert (done.returncode, done.stdout.split()) == (0, ["large.age"])
        # What else lies at a server that was killed is its own.
        assert [p.name for p in target.glob("*.age")] == ["large.age"]
        assert (target / "large.age").read_bytes() == LARGE


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of loopback that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "c.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "k.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "c.pem", folder / "k.pem"


@pytest.mark.parametrize("kind", ["rclone-webdav", "rclone-s3"])
def test_a_proxy_is_used_where_one_is_set_and_certificates_are_checked(kind, certificate, tmp_path):
    with (
        running(kind, tmp_path / "served", secure=certificate) as server,
        proxy(tmp_path) as (url, log),
    ):
        write(server.inbox, a=SMALL)
        by_proxy = {**server.environment, "HTTPS_PROXY": url}
        done = carry("fetch", server.address(), tmp_path / "x" / "in", by_proxy)
        assert done.returncode == 1, "an unknown certificate was taken"
        trusted = {n: str(certificate[0]) for n in ("SSL_CERT_FILE", "AWS_CA_BUNDLE")}
        log.write_text("")
        direct = {**by_proxy, **trusted, "NO_PROXY": "127.0.0.1"}
        done = carry("fetch", server.address(), tmp_path / "x" / "in", direct)
        assert (done.returncode, done.stdout, done.stderr) == (0, "a.age\n", "")
        assert "CONNECT" not in log.read_text()
        done = carry("fetch", server.address(), tmp_path / "y" / "in", {**by_proxy, **trusted})
        assert (done.returncode, done.stdout, done.stderr) == (0, "a.age\n", "")
        assert f"CONNECT 127.0.0.1:{server.port}" in log.read_text()
        write(tmp_path / "z" / "out", b=SMALL)
        done = carry("send", server.address(), tmp_path / "z" / "out", {**by_proxy, **trusted})
        assert (done.returncode, done.stdout, done.stderr) == (0, "b.age\n", "")
        assert (server.inbox / "b.age").read_bytes() == SMALL
    dead = {**by_proxy, **trusted}
    done = carry("fetch", server.address(), tmp_path / "y" / "in", dead)
    assert done.returncode == 1
    assert "does not list its files: " in done.stderr


LIMITS = Limits(largest=1_000_000, most=50, patience=3, reserve=0)


@pytest.fixture(params=["webdav", "s3"])
def from_a_liar(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Lies], Report]:
    """Fetch from a server that lies; gives what the run did."""
    need_plugins()
    for name in set(os.environ) - set(clean()):
        monkeypatch.delenv(name)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    prefix = "/jip/in/" if request.param == "webdav" else "in/"

    def run(lies: Lies) -> Report:
        lies.listed = {prefix + name: size for name, size in lies.listed.items()}
        with lying(lies) as port:
            address = f"dav://127.0.0.1:{port}/jip/in"
            if request.param == "s3":
                monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", f"http://127.0.0.1:{port}")
                address = "s3://jip/in"
            place, memory = open_place(parse_address(address)), tmp_path / "fetched.list"
            # The port differs each time, the place does not.
            return fetch(place, "dav://liar/in", tmp_path / "in", memory, LIMITS)

    return run


def whole(liar: Liar) -> None:
    liar.give(SMALL)


def cut(liar: Liar) -> None:
    liar.give(SMALL[:5000], headers={"Content-Length": str(len(SMALL))})
    liar.close_connection = True


def hang(liar: Liar) -> None:
    liar.give(SMALL[:5000], headers={"Content-Length": str(len(SMALL))})
    time.sleep(8)
    liar.close_connection = True


def drip(liar: Liar) -> None:
    """A byte now and then, so that no silence ends it."""
    liar.give(b"", headers={"Content-Length": str(len(SMALL))})
    with suppress(OSError):
        for number in range(40):
            liar.wfile.write(SMALL[number : number + 1])
            time.sleep(0.2)
    liar.close_connection = True


def endless(liar: Liar) -> None:
    liar.send_response(200)
    liar.send_header("Transfer-Encoding", "chunked")
    liar.end_headers()
    with suppress(OSError):
        while True:
            liar.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def page(liar: Liar) -> None:
    liar.give(
        b"<html>Please log in</html>".ljust(len(SMALL)), headers={"Content-Type": "text/html"}
    )


def echo(liar: Liar) -> None:
    """The credentials in everything that a client might show."""
    liar.send_response(500, f"{liar.headers['Authorization']} {SECRET}")
    body = f"<Error><Code>{SECRET}</Code><Message>{SECRET}</Message></Error>".encode()
    liar.send_header("Content-Length", str(len(body)))
    liar.end_headers()
    liar.wfile.write(body)


BOMB = gzip.compress(bytes(50_000_000))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (page, "it is no sealed message"),
        (lambda liar: liar.give(b"<html>no</html>"), r"it has 15 bytes, and \d+ are listed"),
        (lambda liar: liar.give(SMALL + b"more"), "it has more than the"),
        (endless, "it has more than the"),
        (lambda liar: liar.give(b"", 404), "it is not given"),
        (
            lambda liar: liar.give(BOMB, headers={"Content-Encoding": "gzip"}),
            "it has more than the",
        ),
    ],
    ids=["page", "short", "longer", "endless", "gone", "bomb"],
)
def test_a_lie_is_left_out_with_its_reason(answer, reason, from_a_liar, tmp_path):
    sizes = {"a.age": len(SMALL), "b.age": len(SMALL)}
    report = from_a_liar(Lies(dict(sizes), {"a.age": answer, "b.age": whole}))
    assert report.files == ["b.age"]
    assert [*report.left_out] == ["a.age"]
    assert re.match(reason, report.left_out["a.age"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fetched.list", "in"]
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["b.age"]
    assert from_a_liar(Lies(dict(sizes), {"a.age": whole, "b.age": whole})).files == ["a.age"]


@pytest.mark.parametrize(
    "answer",
    [
        cut,
        hang,
        drip,
        echo,
        lambda liar: liar.give(b"", 503),
        lambda liar: liar.give(b"", 200, {"Content-Length": "x"}),
        lambda liar: setattr(liar, "close_connection", True),
    ],
    ids=["cut", "hangs", "drips", "echo", "503", "no-length", "nothing"],
)
def test_what_stops_half_way_fails_after_the_others_and_heals(answer, from_a_liar, tmp_path):
    sizes = {"a.age": len(SMALL), "b.age": len(SMALL)}
    began = time.monotonic()
    with pytest.raises(PlaceError, match=r"a\.age: .*run the same command again") as caught:
        from_a_liar(Lies(dict(sizes), {"a.age": answer, "b.age": whole}))
    assert time.monotonic() - began < 15
    assert SECRET not in str(caught.value)
    assert USER not in str(caught.value)
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["b.age"]
    assert from_a_liar(Lies(dict(sizes), {"a.age": whole, "b.age": whole})).files == ["a.age"]


def test_no_name_leads_out_of_the_folder(from_a_liar, tmp_path):
    names = ["../a.age", "%2e%2e%2fa.age", "..%2Fa.age", "b/../../../c.age", ".hidden.age"]
    lies = Lies({name: len(SMALL) for name in (*names, "ok.age")}, {"ok.age": whole})
    report = from_a_liar(lies)
    assert report.files == ["ok.age"]
    assert len(lies.asked) == 1
    assert set(report.left_out.values()) == {"its name is no plain one"}
    assert sorted(p.name for p in tmp_path.rglob("*.age")) == ["ok.age"]


def test_a_redirection_is_not_followed(from_a_liar):
    other = Lies({}, {"a.age": whole})
    with lying(other) as port:
        location = {"Location": f"http://127.0.0.1:{port}/elsewhere/a.age"}
        with pytest.raises(PlaceError, match=r"a\.age: "):
            from_a_liar(
                Lies({"a.age": len(SMALL)}, {"a.age": lambda liar: liar.give(b"", 302, location)})
            )
    assert other.asked == []


EXPANDING = (
    '<!DOCTYPE x [<!ENTITY a "'
    + "x" * 1000
    + '">'
    + "".join(f'<!ENTITY {n} "{f"&{m};" * 100}">' for m, n in zip("abcde", "bcdef", strict=True))
    + "]><D:multistatus xmlns:D='DAV:'>&f;</D:multistatus>"
).encode()


@pytest.mark.parametrize(
    "to_list",
    [
        page,
        echo,
        hang,
        lambda liar: liar.give(EXPANDING, 207),
        lambda liar: liar.give(b"<D:multistatus", 207),
        lambda liar: liar.give(b"", 503),
        lambda liar: liar.give(b"", 401),
    ],
    ids=["page", "echo", "hangs", "entities", "half", "503", "401"],
)
def test_a_list_that_is_none_fails_in_a_line(to_list, from_a_liar):
    began = time.monotonic()
    with pytest.raises(PlaceError, match=r"in does not list its files: [^\n]+\.$") as caught:
        from_a_liar(Lies(to_list=to_list))
    assert time.monotonic() - began < 15
    assert SECRET not in str(caught.value)
    assert USER not in str(caught.value)


@pytest.mark.parametrize("kind", ["webdav", "s3"])
def test_a_list_without_end_takes_no_more_than_the_memory_that_is_given(kind, tmp_path):
    need_plugins()
    with lying(Lies(to_list=endless)) as port:
        address = "s3://jip/in" if kind == "s3" else f"dav://127.0.0.1:{port}/in"
        endpoint = {"SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        done = carry("fetch", address, tmp_path / "in", CREDENTIALS | endpoint)
    assert done.returncode == 1
    assert "in does not list its files: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


@contextmanager
def only(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name in set(os.environ) - set(clean()):
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def test_secrets_may_be_in_files_that_are_their_owners_alone(tmp_path, monkeypatch):
    with running("wsgidav", tmp_path / "served") as server:
        write(server.inbox, a=SMALL)
        (tmp_path / "secret").write_text(f"{SECRET}\n")
        variables = {
            "SNAKEMAKE_STORAGE_WEBDAV_USERNAME": USER,
            "SNAKEMAKE_STORAGE_WEBDAV_PASSWORD_FILE": str(tmp_path / "secret"),
        }
        (tmp_path / "secret").chmod(0o644)
        done = carry("fetch", server.address(), tmp_path / "x" / "in", variables, copied=False)
        assert done.returncode == 1
        assert f"{tmp_path}/secret can be read by others; run: chmod 600" in done.stderr
        (tmp_path / "secret").chmod(0o600)
        done = carry("fetch", server.address(), tmp_path / "x" / "in", variables, copied=False)
        assert (done.returncode, done.stdout) == (0, "a.age\n")
    with (
        only(monkeypatch, SNAKEMAKE_STORAGE_WEBDAV_USERNAME=USER),
        pytest.raises(ConfigError, match="variable SNAKEMAKE_STORAGE_WEBDAV_PASSWORD"),
    ):
        open_place(parse_address(server.address()))
    amazon = tmp_path / "credentials"
    amazon.write_text(f"[default]\naws_access_key_id={USER}\naws_secret_access_key={SECRET}\n")
    amazon.chmod(0o640)
    with (
        only(monkeypatch, AWS_SHARED_CREDENTIALS_FILE=str(amazon)),
        pytest.raises(ConfigError, match="credentials can be read by others"),
    ):
        open_place(parse_address("s3://jip/in"))
    amazon.chmod(0o600)
    with running("rclone-s3", tmp_path / "other") as server:
        write(server.inbox, a=SMALL)
        variables = {
            "AWS_SHARED_CREDENTIALS_FILE": str(amazon),
            "AWS_ENDPOINT_URL": server.environment["SNAKEMAKE_STORAGE_S3_ENDPOINT_URL"],
        }
        done = carry("fetch", server.address(), tmp_path / "y" / "in", variables, copied=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "a.age\n", "")
