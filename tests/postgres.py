"""A real PostgreSQL for tests, on a socket in a folder, by an account that is not root."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from needs import unavailable

PROGRAMS = Path("/usr/lib/postgresql")
ACCOUNT = "postgres"
"""Debian's account; PostgreSQL refuses to be root's."""


class Postgres:
    """A server whose clients come over a socket and need a password.

    Attributes:
        folder: of the socket, the data and the log.
        passwords: by user.
        pid: of the server; None while it is stopped.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.programs = programs
        self.passwords = {user: secrets.token_hex(8) for user in ("owner", "reader")}
        self.pid: int | None = None

    def url(self, user: str) -> str:
        return f"postgresql://{user}@/postgres?host={self.folder}&port=5432"

    def start(self) -> None:
        log = self.folder / "server.log"
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data")]
        command += ["-c", "listen_addresses=", "-k", str(self.folder), "-c", "fsync=off"]
        with open(log, "ab") as stream:
            started = subprocess.Popen(
                command, stdout=stream, stderr=stream, user=_account(), group=_group(), env={}
            )
        self.pid = started.pid
        self._process = started
        for _ in range(200):
            ready = subprocess.run(
                [str(self.programs / "pg_isready"), "-q", "-h", str(self.folder)], check=False
            )
            if ready.returncode == 0:
                return
            if started.poll() is not None:
                break
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(log.read_text())

    def stop(self) -> None:
        """End it at once, as it may be down at a hospital."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGQUIT)
            self._process.wait(20)
            self.pid = None

    def execute(self, *statements: str, user: str = "owner") -> None:
        import psycopg

        with psycopg.connect(
            host=str(self.folder), dbname="postgres", user=user, password=self.passwords[user]
        ) as connection:
            for statement in statements:
                connection.execute(statement)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a server with an owner of all and a reader, who may do nothing yet."""
    found = sorted(PROGRAMS.glob("*/bin/postgres"))
    if not found:
        unavailable(f"no PostgreSQL below {PROGRAMS}; install Debian's postgresql")
    # The path of a socket may have no more than 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = Postgres(folder, found[-1].parent)
    try:
        (folder / "password").write_text(server.passwords["owner"])
        for path in (folder, folder / "password"):
            if _account() is not None:
                shutil.chown(path, ACCOUNT, ACCOUNT)
        subprocess.run(
            [
                *(str(server.programs / "initdb"), "-D", str(folder / "data"), "-U", "owner"),
                *("-A", "scram-sha-256", "--pwfile", str(folder / "password")),
                *("--no-sync", "-E", "UTF8", "--locale", "C"),
            ],
            user=_account(),
            group=_group(),
            check=True,
            capture_output=True,
        )
        server.start()
        server.execute(f"CREATE ROLE reader LOGIN PASSWORD '{server.passwords['reader']}'")
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def _account() -> int | None:
    """The account that the server runs as; None for our own."""
    return pwd.getpwnam(ACCOUNT).pw_uid if os.geteuid() == 0 else None


def _group() -> int | None:
    return pwd.getpwnam(ACCOUNT).pw_gid if os.geteuid() == 0 else None
