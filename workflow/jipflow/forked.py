"""Commands of a run as copies of one process that has the libraries loaded.

A run on one machine calls ``jipflow`` some twenty times, each time for a job, and each time Python
would load the same libraries for half a second to four seconds. So the run starts a server, which
loads them once. A command hands over to it what was typed, where, in which environment and to which
files it prints; the server forks, the copy does the work, and the command ends as the copy does.
Where there is no server, or one of another installation, the command does the work itself.

Neither outlives the other: a copy ends with its command and with the server, a signal to the
command is passed on, and the server ends with the run that started it, after its last copy.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import jipflow
from jipflow.cores import FULL_S, Cores

SERVER = "JIPFLOW_SERVER"
"""Environment variable that names the folder of the server's socket."""

SOCKET = "socket"
TAKEN, NOT_MINE = b"y", b"n"
"""What a copy answers first: it does the work, or it is of another installation."""

CODE = struct.Struct("i")
"""How the copy ended, as `os.waitstatus_to_exitcode` gives it."""

LENGTH = struct.Struct("Q")
"""Bytes of what is handed over."""

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OF_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Those of them that a terminal gives to all processes of a job."""

KILLED = 128 + signal.SIGKILL
"""Exit code of a command whose copy was killed, as a shell would give it."""

MOST_FILES = 20_000
"""Open files of a server, as far as the account may have them."""

LONGEST_FOLDER = 107 - len("/pymp-abcdefgh/listener-abcdefgh")
"""Bytes of a folder below which `multiprocessing` can have its sockets, as we can ours."""

UNPRINTED = 120
"""Exit code of Python where what was printed last cannot be written."""

_started: list[subprocess.Popen[bytes]] = []
"""The server of this process."""

Run = Callable[[Sequence[str]], int]
Find = Callable[[Sequence[str]], Sequence[str]]


def _installation() -> list[str | int]:
    """Return what tells this installation from others, a container's at the same path too."""
    file = str(jipflow.__file__)
    status = os.stat(file)
    return [sys.prefix, sys.version, file, status.st_dev, status.st_ino]


def ask(words: Sequence[str]) -> int | None:
    """Have the server of this run carry out a command, and wait until it is done.

    Args:
        words: what was typed after ``jipflow``.

    Returns:
        The exit code; None where no server takes it, and nothing was done.
    """
    folder = os.environ.get(SERVER)
    if not folder:
        return None
    request = {
        "of": _installation(),
        "words": list(words),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": _umask(),
    }
    content = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(os.path.join(folder, SOCKET))
            socket.send_fds(connection, [LENGTH.pack(len(content))], [0, 1, 2])
            connection.sendall(content)
            if connection.recv(1) != TAKEN:
                return None
        except OSError:
            return None
        _pass_signals_on(connection)
        with suppress(OSError):
            found = connection.recv(CODE.size, socket.MSG_WAITALL)
            if len(found) == CODE.size:
                return _ended(CODE.unpack(found)[0])
    print("jipflow: the process that did the work was killed.", file=sys.stderr)
    return KILLED


def _umask() -> int:
    """Return this process's mask, which can only be read by setting another."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _pass_signals_on(connection: socket.socket) -> None:
    def pass_on(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            connection.send(bytes([number]))

    for number in PASSED_ON:
        # As of a run in the background, or by nohup.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)


def _ended(code: int) -> int:
    """Return the exit code of the command, and say so where a signal ended its copy."""
    if code >= 0:
        return code
    print(f"jipflow: ended by {signal.Signals(-code).name}.", file=sys.stderr)
    return 128 - code


def folder_for_sockets() -> str:
    """Return the folder for temporary files, or /tmp where names of sockets there are too long.

    A job of a cluster may have a folder of its own, named at length; a name of a socket has 107
    bytes (unix(7)).
    """
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= LONGEST_FOLDER else "/tmp"


def start(command: Sequence[str], *arguments: str) -> None:
    """Start the server of this process's run, unless it has one, and end it with this process.

    Commands can be handed over at once: they wait until it has begun. Where the place lets none be
    started, jobs do without.

    Args:
        command: starts a process that calls `serve` with the socket, the folder and the arguments,
            which are added to it.
        arguments: others.
    """
    if _started:
        return
    with suppress(OSError):
        # Only this account can enter it.
        folder = Path(tempfile.mkdtemp(prefix="jipflow-", dir=folder_for_sockets()))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / SOCKET))
            listener.listen(128)
            server = subprocess.Popen(
                [*command, str(listener.fileno()), str(folder), *arguments],
                # It ends with this process, however that ends, and so does the server.
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        _started.append(server)
        atexit.register(_stop, server)
        os.environ[SERVER] = str(folder)


def tell(*words: str) -> None:
    """Have the server of this process's run load what it finds by these words (`serve`)."""
    for server in _started:
        assert server.stdin
        # A server that has ended loads nothing, and jobs do without.
        with suppress(OSError):
            os.write(server.stdin.fileno(), json.dumps(words).encode() + b"\n")


def stop() -> None:
    """End the server of this process's run, to which no command was handed over yet."""
    folder = os.environ.pop(SERVER, "")
    while _started:
        _stop(_started.pop())
        shutil.rmtree(folder, ignore_errors=True)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End a server of which no job is left."""
    server.terminate()
    server.wait()


def serve(
    listener: int,
    folder: Path,
    names: Sequence[str],
    run: Run,
    *,
    more: Find | None = None,
    cores: int = 0,
    alive: int = 0,
) -> None:
    """Carry out commands in copies of this process until the run that started it ends.

    It loads the next of `names` whenever no command waits, and then what the run asks for (`tell`).

    Args:
        listener: descriptor of the socket.
        folder: of the socket; it is removed at the end.
        names: of modules that commands need, and, as ``module:function``, of what they would call
            first; what cannot be loaded or fails is left to the command that needs it.
        run: carries out a command, and gives its exit code.
        more: finds further names by the words that the run tells (`tell`).
        cores: that commands share (`jipflow.cores`); 0 where none are handed out.
        alive: descriptor of a pipe whose other end the run holds.
    """
    server = _Server(listener, names, Cores(folder, cores) if cores else None, alive, more)
    try:
        taken = server.next_command()
    finally:
        if server.is_original:
            shutil.rmtree(folder, ignore_errors=True)
    if taken is not None:
        _end(run, taken)


def _end(run: Run, words: Sequence[str]) -> NoReturn:
    """Carry out a command, and end this process as an interpreter ends.

    All but that it takes no library down, which has no use and takes time.
    """
    code = 1
    try:
        code = run(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exception(error)
    finally:
        for ending in (threading._shutdown, atexit._run_exitfuncs):  # type: ignore[attr-defined]
            with suppress(Exception):
                ending()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            code = code or UNPRINTED
        os._exit(code)


def _ready(descriptors: Sequence[int], timeout: float | None) -> set[int]:
    """Return which are ready to be read, or have ended; `select` takes none above 1,023."""
    polled = select.poll()
    for each in descriptors:
        polled.register(each, select.POLLIN)
    return {descriptor for descriptor, _ in polled.poll(timeout)}


def files_of(soft: int, hard: int) -> int:
    """Return how many files a server may have open, by the limits that it was started with."""
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    return soft if soft == resource.RLIM_INFINITY else max(soft, most)


class _Server:
    """The process that loads what is named and forks, until it is a copy itself."""

    def __init__(
        self,
        listener: int,
        names: Sequence[str],
        cores: Cores | None,
        alive: int,
        more: Find | None,
    ) -> None:
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Each copy has one as long as it works, and each of its processes that waits for a core.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files_of(*self._files), self._files[1]))
        self._names = deque(names)
        self._known = set(names)
        self._more = more
        self._heard = b""
        self._cores = cores
        self._alive = alive
        self._process = os.getpid()
        self._environment = dict(os.environ)
        self._running: dict[int, socket.socket] = {}
        self._listener = socket.socket(fileno=listener)
        # Copies hold the reading end: it closes when this process ends, however that ends.
        self._watched, self._held = os.pipe()
        self._woken, waking = os.pipe()
        os.set_blocking(waking, False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)

    @property
    def is_original(self) -> bool:
        """Whether this process is the server, not a copy."""
        return os.getpid() == self._process

    def next_command(self) -> list[str] | None:
        """Wait for commands; return the words of one in its copy, None at the end."""
        serving = [self._listener.fileno(), self._alive]
        while serving or self._running:
            asking = self._cores.waited_for() if self._cores else {}
            ready = _ready([*serving, self._woken, *asking], 0 if self._names else None)
            if self._cores:
                self._cores.answer(ready)
            if self._woken in ready:
                os.read(self._woken, 1 << 16)
                self._reap()
            if self._alive in ready and not self._hear():
                serving = []
                self._names.clear()
                self._listener.close()
            elif self._listener.fileno() in ready:
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    # The command waits until another ends, and with it one of the open files.
                    time.sleep(FULL_S)
                    continue
                words = self._fork(connection)
                if words is not None:
                    return words
            elif not ready and self._names:
                self._load(self._names.popleft())
        return None

    def _hear(self) -> bool:
        """Take what the run tells; returns whether it still goes on."""
        heard = os.read(self._alive, 1 << 16)
        *lines, self._heard = (self._heard + heard).split(b"\n")
        for line in lines:
            # What is not found is not loaded, and left to the command that needs it.
            with suppress(Exception):
                found = self._more(json.loads(line)) if self._more else ()
                self._names += [name for name in found if name not in self._known]
                self._known.update(found)
        return bool(heard)

    @staticmethod
    def _load(name: str) -> None:
        with suppress(Exception):
            found = pkgutil.resolve_name(name)
            if callable(found):
                found()
        # What is loaded stays, and copies that do not count it share its memory.
        gc.collect()
        gc.freeze()

    def _reap(self) -> None:
        """Tell the commands of copies that have ended how they ended."""
        while self._running:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            connection = self._running.pop(process, None)
            # A library may have started others.
            if connection is not None:
                with connection, suppress(OSError):
                    connection.send(CODE.pack(os.waitstatus_to_exitcode(status)))

    def _fork(self, connection: socket.socket) -> list[str] | None:
        """Fork a copy for a command; return its words in the copy, None in the server."""
        try:
            process = os.fork()
        except OSError:
            # The command does its work itself, as it can.
            with connection, suppress(OSError):
                connection.send(NOT_MINE)
            return None
        if process:
            self._running[process] = connection
            return None
        for each in (self._listener, *self._running.values()):
            each.close()
        if self._cores:
            self._cores.close()
        os.close(self._held)
        # Programs that close all files up to the limit take long where it is high.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, self._files)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return self._take_over(connection)

    def _take_over(self, connection: socket.socket) -> list[str]:
        """Become the process of a command; return what was typed."""
        try:
            head, streams, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
            (length,) = LENGTH.unpack(head)
            request = json.loads(connection.recv(length, socket.MSG_WAITALL))
        except (OSError, ValueError, struct.error):
            # The command has ended before it had handed everything over.
            os._exit(1)
        if request["of"] != _installation():
            connection.send(NOT_MINE)
            os._exit(0)
        self._enter(request["environment"])
        os.setpgid(0, 0)
        os.umask(request["umask"])
        os.chdir(request["folder"])
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        words: list[str] = request["words"]
        sys.argv = ["jipflow", *words]
        try:
            connection.send(TAKEN)
        except OSError:
            # The command has ended since.
            os._exit(1)
        threading.Thread(target=self._end_with_others, args=(connection,), daemon=True).start()
        return words

    def _enter(self, environment: dict[str, str]) -> None:
        """Take a command's environment, with what libraries have added to it when they loaded."""
        before = self._environment
        added = {name: value for name, value in os.environ.items() if before.get(name) != value}
        os.environ.clear()
        os.environ.update({**added, **environment})
        # What was read of the server's when a library loaded is read again.
        tempfile.tempdir = None
        time.tzset()

    def _end_with_others(self, connection: socket.socket) -> None:
        """Receive the signals of the command; end when the command or the server has ended."""
        try:
            while signals := self._signals(connection):
                for number in signals:
                    send = os.killpg if number in OF_TERMINAL else os.kill
                    send(os.getpid(), number)
        finally:
            # A command that is killed before it has read an answer resets the connection.
            os._exit(1)

    def _signals(self, connection: socket.socket) -> bytes:
        ready = _ready([connection.fileno(), self._watched], None)
        return connection.recv(64) if connection.fileno() in ready else b""
