"""A real one-node SLURM cluster on loopback, for as long as a test needs it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
# The executor plugin takes SLURM_* out of the environment, so that only this place is ever read.
CONF = Path("/etc/slurm/slurm.conf")
MUNGE_KEY = Path("/etc/munge/munge.key")


def missing() -> str:
    """Why no cluster can be started here; empty if one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge)"
    if os.geteuid() != 0:
        return "starting a SLURM cluster needs root"
    if CONF.exists() and "ClusterName=jipflow-test" not in CONF.read_text():
        return f"{CONF} belongs to another cluster"
    return ""


def _conf(folder: Path) -> str:
    host = socket.gethostname()
    # Both daemons listen on the loopback address alone. The node claims the size that
    # rules ask for, whatever the machine has.
    return f"""\
ClusterName=jipflow-test
SlurmctldHost={host}(127.0.0.1)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[None]:
    """Start munged, slurmctld and slurmd; stop them by their process ids.

    Raises:
        RuntimeError: the node does not come up within a minute.
    """
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    CONF.parent.mkdir(exist_ok=True)
    CONF.write_text(_conf(folder))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        if not _munge_works():
            _make_munge_key()
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            processes.append(_start(["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups",
                                     "munged", "--foreground"], folder / "munged.log"))  # fmt: skip
            _wait(_munge_works, folder / "munged.log")
        processes.append(_start(["slurmctld", "-D", "-c"], folder / "slurmctld.out"))
        processes.append(_start(["slurmd", "-D", "-c"], folder / "slurmd.out"))
        _wait(_node_is_idle, folder / "slurmctld.log")
        yield
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        CONF.unlink(missing_ok=True)


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with open(log, "wb") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)


def _make_munge_key() -> None:
    if not MUNGE_KEY.is_file():
        MUNGE_KEY.write_bytes(os.urandom(1024))
    shutil.chown(MUNGE_KEY, "munge", "munge")
    MUNGE_KEY.chmod(0o400)


def _munge_works() -> bool:
    made = subprocess.run(["munge", "-n"], capture_output=True, check=False)
    return made.returncode == 0


def _node_is_idle() -> bool:
    state = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False
    )
    return state.stdout.strip() == "idle"


def _wait(condition, log: Path) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"SLURM did not start: {log.read_text()[-2000:]}")
        time.sleep(0.5)
