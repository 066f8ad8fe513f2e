"""The jobs of a run on one machine work on no more cases at a time than it has cores."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from jipflow.cores import GIVEN, SOCKET, Cores, core
from jipflow.forked import _ready

NUMBER = 2

HOLD = """
import sys, time
from pathlib import Path
from jipflow.cores import core
Path(f"{sys.argv[2]} asks").touch()
with core(sys.argv[1]):
    Path(sys.argv[2]).touch()
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which so many cores are handed out."""
    cores, ended = Cores(tmp_path, NUMBER), Event()

    def serve() -> None:
        while not ended.is_set():
            cores.answer(_ready([*cores.waited_for()], 20))

    thread = Thread(target=serve)
    thread.start()
    yield tmp_path
    ended.set()
    thread.join()
    cores.close()


def test_no_more_work_at_a_time_than_there_are_cores(folder):
    at_work: list[int] = []
    most: list[int] = []

    def work() -> None:
        with core(str(folder)):
            at_work.append(1)
            most.append(len(at_work))
            time.sleep(0.05)
            at_work.pop()

    threads = [Thread(target=work) for _ in range(10)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(most) == 10
    assert max(most) == NUMBER


def started(folder: Path, name: str, reaches: str) -> subprocess.Popen[bytes]:
    """A process that takes a core, once a file says how far it is."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), str(folder / name)])
    until = time.monotonic() + 60
    while not (folder / reaches).exists():
        assert time.monotonic() < until, f"there is no {reaches}"
        time.sleep(0.02)
    return process


def held(folder: Path, name: str) -> subprocess.Popen[bytes]:
    return started(folder, name, name)


def test_a_core_comes_back_from_who_is_killed(folder):
    first = [held(folder, str(number)) for number in range(NUMBER)]
    got = Event()

    def wait() -> None:
        with core(str(folder)):
            got.set()

    waiting = Thread(target=wait)
    waiting.start()
    assert not got.wait(0.3)
    os.kill(first[0].pid, signal.SIGKILL)
    assert got.wait(10)
    waiting.join()
    for each in first:
        each.kill()
        each.wait()


def test_who_ends_while_waiting_takes_no_core(folder):
    first = [held(folder, str(number)) for number in range(NUMBER)]
    gone = started(folder, "gone", "gone asks")
    time.sleep(0.2)
    gone.kill()
    gone.wait()
    for each in first:
        each.kill()
        each.wait()
    last = [held(folder, f"last {number}") for number in range(NUMBER)]
    assert not (folder / "gone").exists()
    for each in last:
        each.kill()
        each.wait()


@pytest.mark.parametrize("name", [None, "", "nowhere"])
def test_where_none_are_handed_out_work_goes_on(tmp_path, name):
    with core(name and str(tmp_path / name)):
        pass


def test_work_goes_on_where_the_server_ends(tmp_path):
    cores = Cores(tmp_path, 1)
    done = Event()

    def work() -> None:
        with core(str(tmp_path)):
            done.set()

    with core(None):
        thread = Thread(target=work)
        thread.start()
        assert not done.wait(0.2)
        cores.close()
    assert done.wait(10)
    thread.join()


def test_who_asks_waits_where_no_further_file_can_be_opened(tmp_path):
    cores = Cores(tmp_path, NUMBER)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(tmp_path / SOCKET))
        with open(os.devnull) as last:
            resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, before[1]))
            try:
                cores.answer([*cores.waited_for()])
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        cores.answer([*cores.waited_for()])
        assert asking.recv(1) == GIVEN
    cores.close()
