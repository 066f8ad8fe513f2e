"""A real one-node SLURM cluster on loopback, for as long as a test needs it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
# The executor plugin takes SLURM_* out of the environment, so that only this place is ever read.
CONF = Path("/etc/slurm/slurm.conf")
MUNGE_KEY = Path("/etc/munge/munge.key")
HOST = socket.gethostname()
CGROUPS = Path("/sys/fs/cgroup")

OPEN = "PENDING,CONFIGURING,RUNNING,COMPLETING,SUSPENDED"
"""States of a job that has not ended."""


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


def no_memory_limit() -> str:
    """Why SLURM cannot hold its jobs to their memory here; empty if it can."""
    if not (CGROUPS / "memory").is_dir() or not (CGROUPS / "freezer").is_dir():
        return f"no memory and freezer of cgroup v1 below {CGROUPS}"
    for name in ("memory", "freezer"):
        if not os.access(CGROUPS / name, os.W_OK):
            return f"{CGROUPS / name} cannot be written"
    return ""


def say(*command: str) -> str:
    """What one of SLURM's programs prints, its errors, too."""
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    ).stdout


def job_steps() -> list[int]:
    """The daemons of SLURM that have a job's processes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(b"slurmstepd: "):
                found.append(int(folder.name))
    return found


def below(process: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *below(child)]
    return found


def processes_below(process: int) -> str:
    """What the processes below one do."""
    numbers = ",".join(map(str, [process, *below(process)]))
    return say("ps", "--forest", "-o", "pid,stat,wchan:20,etime,time,args:150", "-p", numbers)


@dataclass
class Cluster:
    """A cluster of this machine alone.

    Attributes:
        folder: of its state, its logs and its device files.
        gpus: how many GPUs the node claims, which are files.
        limits: whether jobs are held to their memory by cgroups.
        extra: further lines of slurm.conf.
    """

    folder: Path
    gpus: int = 0
    limits: bool = False
    extra: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def conf(self) -> str:
        """The text of slurm.conf."""
        # Both daemons listen on the loopback address alone. The node claims the size that
        # rules ask for, whatever the machine has.
        tracked, confined = ("cgroup", "cgroup") if self.limits else ("linuxproc", "none")
        gres = f" Gres=gpu:{self.gpus}" if self.gpus else ""
        return f"""\
ClusterName=jipflow-test
SlurmctldHost={HOST}(127.0.0.1)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/{tracked}
TaskPlugin=task/{confined}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
ReturnToService=2
{"GresTypes=gpu" if self.gpus else ""}
{self.extra}
NodeName={HOST} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000{gres} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

    def write_conf(self) -> None:
        """Write the files of /etc/slurm."""
        CONF.write_text(self.conf())
        CONF.with_name("cgroup.conf").write_text(
            "CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\nConstrainSwapSpace=no\n"
        )
        devices = [self.folder / f"gpu{number}" for number in range(self.gpus)]
        for device in devices:
            device.touch()
        lines = [f"NodeName={HOST} Name=gpu File={device}\n" for device in devices]
        CONF.with_name("gres.conf").write_text("".join(lines))

    def start(self, daemon: str, *options: str) -> None:
        """Start slurmctld or slurmd, with the state of before unless ``-c`` is given."""
        with open(self.folder / f"{daemon}.out", "ab") as stream:
            self.processes[daemon] = subprocess.Popen(
                [daemon, "-D", *options], stdout=stream, stderr=subprocess.STDOUT
            )

    def end(self, daemon: str, number: int = signal.SIGTERM) -> None:
        """End a daemon by a signal."""
        process = self.processes.pop(daemon)
        process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait_until_idle(self) -> None:
        """Wait until the node takes jobs.

        Raises:
            RuntimeError: it does not within a minute.
        """
        _wait(lambda: say("sinfo", "--noheader", "--format=%T").strip() == "idle", self.folder)

    def open_jobs(self) -> list[str]:
        """The numbers of the jobs that have not ended."""
        printed = say("squeue", "--noheader", "--format=%i", f"--states={OPEN}")
        return re.findall(r"^\d+$", printed, re.M)

    def standing(self, *logs: Path) -> str:
        """Where the jobs stand: what SLURM says, the processes, the ends of logs in folders."""
        parts = [
            say("sinfo", "--long"),
            say("squeue", "--states=all", "--format=%.6i %.12T %.8M %.20r %k"),
            *(processes_below(step) for step in job_steps()),
        ]
        paths = [path for folder in (self.folder, *logs) for path in folder.rglob("*.log")]
        latest = sorted(paths, key=lambda path: path.stat().st_mtime)[-12:]
        parts += [f"{path}:\n{path.read_text(errors='replace')[-1500:]}" for path in latest]
        return "\n".join(parts)


@contextmanager
def slurm_cluster(folder: Path, **options) -> Iterator[Cluster]:
    """Start munged, slurmctld and slurmd; stop them, and what jobs they have, by their ids.

    Args:
        folder: of the cluster.
        options: attributes of `Cluster`.

    Raises:
        RuntimeError: the node does not come up within a minute.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cluster = Cluster(folder, **options)
    CONF.parent.mkdir(exist_ok=True)
    # The files of /etc/slurm are one cluster's, so that another one waits.
    lock = os.open(CONF.with_name("jipflow-test.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    cluster.write_conf()
    try:
        if not _munge_works():
            _make_munge_key()
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            cluster.processes["munged"] = _start_munged(folder / "munged.log")
            _wait(_munge_works, folder)
        cluster.start("slurmctld", "-c")
        cluster.start("slurmd", "-c")
        cluster.wait_until_idle()
        yield cluster
    finally:
        if {"slurmctld", "slurmd"} <= cluster.processes.keys():
            # A job outlives both daemons.
            say("scancel", "--quiet", *cluster.open_jobs())
            with suppress(RuntimeError):
                _wait(lambda: not cluster.open_jobs(), folder, 40)
        for name in ("slurmd", "slurmctld", "munged"):
            if name in cluster.processes:
                cluster.end(name)
        for name in ("slurm.conf", "cgroup.conf", "gres.conf"):
            CONF.with_name(name).unlink(missing_ok=True)
        os.close(lock)


def _start_munged(log: Path) -> subprocess.Popen[bytes]:
    as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
    with open(log, "wb") as stream:
        return subprocess.Popen(
            [*as_munge, "munged", "--foreground"], stdout=stream, stderr=subprocess.STDOUT
        )


def _make_munge_key() -> None:
    if not MUNGE_KEY.is_file():
        MUNGE_KEY.write_bytes(os.urandom(1024))
    shutil.chown(MUNGE_KEY, "munge", "munge")
    MUNGE_KEY.chmod(0o400)


def _munge_works() -> bool:
    made = subprocess.run(["munge", "-n"], capture_output=True, check=False)
    return made.returncode == 0


def _wait(condition: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = [path.read_text()[-2000:] for path in sorted(folder.glob("*.log"))]
            raise RuntimeError("SLURM did not get so far: " + "\n".join(logs))
        time.sleep(0.5)
