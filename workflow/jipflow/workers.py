"""A stage's function applied to each case, in processes side by side."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import forkserver, get_context, parent_process, util
from multiprocessing.context import ForkServerContext
from pathlib import Path
from threading import Thread
from typing import TypeVar

from jipflow.cores import core
from jipflow.forked import SERVER, folder_for_sockets
from jipflow.reasons import PlaceError

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def silence_libraries() -> None:
    """Keep this process's libraries from quoting header values in warnings and log lines.

    pydicom and highdicom warn of odd values by printing them, patients' names among them.
    """
    warnings.filterwarnings("ignore")
    logging.getLogger("pydicom").setLevel(logging.ERROR)


def begin_worker() -> None:
    """Prepare a process that works for another one; for its start."""
    silence_libraries()
    end_with_parent()


def end_with_parent() -> None:
    """Have this process end when the one ends that it works for, however that ends.

    A pool's process would wait for work for ever, with all that it holds in memory, and what it has
    begun would be written beside the next try of the same job.
    """
    Thread(target=_end_after_parent, daemon=True).start()


def _end_after_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def begin_forkserver(folder: Path) -> None:
    """Fork the server that forks this process's workers, which then load no library again.

    For a process that has loaded them and in which none has begun to work, so that no lock of a
    library is held. Without it, `multiprocessing` starts a new interpreter for that server, as it
    does when this one has ended.

    Args:
        folder: that no other account can enter; a socket of the server comes there. Who reaches it
            has the server run what it likes (CVE-2022-42919).
    """
    path = folder / str(os.getpid())
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
    except OSError:
        listener.close()
        return
    listener.listen()
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(writing)
        try:
            forkserver.main(listener.fileno(), reading, [])
        finally:
            os._exit(0)
    os.close(reading)
    atexit.register(path.unlink, missing_ok=True)
    vars(forkserver._forkserver).update(
        _forkserver_address=str(path),
        _forkserver_alive_fd=writing,
        _forkserver_pid=process,
    )
    listener.close()


def forkserver_context() -> ForkServerContext:
    """Return the context of processes that a server forks, with its sockets where they can be."""
    named, short = tempfile.gettempdir(), folder_for_sockets()
    if short != named:
        tempfile.tempdir = short
        try:
            # `multiprocessing` makes its folder once a process.
            util.get_temp_dir()
        finally:
            tempfile.tempdir = named
    return get_context("forkserver")


def for_each_case(
    cases: Sequence[Unit], function: Callable[[Unit], list[Result]], threads: int
) -> list[Result]:
    """Apply a stage's function to each case in up to `threads` processes.

    Where other stages of the run work on the same cores, each case waits for one that is free.

    Args:
        cases: the shard's cases, or groups of cases that are worked on together.
        function: a module-level function, or a `functools.partial` of one, so that it can be sent
            to another process; returns the results of the case's items.
        threads: processes; 1 runs in this one.

    Returns:
        All results, in the order of the cases.

    Raises:
        PlaceError: the system does not let processes be started, or ends one.
    """
    if threads <= 1 or len(cases) <= 1:
        batches = [_on_a_core(function, case) for case in cases]
    else:
        futures: list[Future[list[Result]]] = []
        # A fork of a process in which a library has started threads may hang.
        context = forkserver_context()
        # Of no use to a server that is a fork itself.
        context.set_forkserver_preload([_home(function)])
        try:
            with ProcessPoolExecutor(
                min(threads, len(cases)), mp_context=context, initializer=begin_worker
            ) as pool:
                try:
                    for case in cases:
                        futures.append(pool.submit(_on_a_core, function, case))
                    batches = [future.result() for future in futures]
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        except BrokenExecutor:
            # They begin in their order, so that the first ones were worked on.
            whole = {number for number, future in enumerate(futures) if _has_ended(future)}
            others = [case for number, case in enumerate(cases) if number not in whole]
            # Of a case may be several units.
            known = dict.fromkeys(name for case in others[:threads] for name in _case_ids(case))
            names = " or ".join(known)
            raise PlaceError(
                f"a process was ended from outside{names and f' while it worked on case {names}'}, "
                "for want of memory as a rule; use fewer cores or more memory, and run the same "
                "command again. If a case ends it each time, its files crash a library: leave it "
                "out by the protocol's cohort."
            ) from None
        except EOFError:
            # The server that starts processes has ended; what a case raises becomes its outcome.
            raise PlaceError(
                "no further process could be started; use fewer cores, or let the account have "
                "more open files (ulimit -n), processes (ulimit -u) and memory, and run the same "
                "command again."
            ) from None
    return [result for batch in batches for result in batch]


def _on_a_core(function: Callable[[Unit], list[Result]], case: Unit) -> list[Result]:
    with core(os.environ.get(SERVER)):
        return function(case)


def _has_ended(future: Future[list[Result]]) -> bool:
    """Whether the process of a unit has ended it, well or not, before one was ended."""
    return not (future.cancelled() or isinstance(future.exception(), BrokenExecutor))


def _case_ids(unit: object) -> Iterator[str]:
    """Yield the cases that a unit of work is of."""
    if isinstance(unit, list | tuple):
        for part in unit:
            yield from _case_ids(part)
    elif case_id := getattr(unit, "case_id", ""):
        yield case_id


def _home(function: Callable[..., object]) -> str:
    """Return the module of a function."""
    while isinstance(function, partial):
        function = function.func
    return function.__module__
