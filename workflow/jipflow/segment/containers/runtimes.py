"""Container runtimes, each made to run an algorithm without root, network or a place to write.

What an algorithm gets, whatever the runtime: its image read-only, ``/input`` read-only, ``/output``
and an empty ``/tmp`` to write to, no network, no capabilities, no way to gain some, no environment
but its image's and what `Start.environment` names, and sight of no process but its own.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jipflow.place import TEXTS
from jipflow.reasons import StageError
from jipflow.segment.containers.archive import OPEN, read_image, unpack

NOBODY = 65534
"""User and group of algorithms where jipflow runs as root."""
SHARED_MEMORY = "4g"
"""Size of /dev/shm, through which the processes of a data loader hand over arrays."""
LIMIT = 16384
"""Most open files, and most processes."""
LOG_BYTES = 2**16
"""How much of the end of an algorithm's log is kept."""
GRACE_SECONDS = 10


@dataclass(frozen=True)
class Start:
    """One start of an algorithm.

    Attributes:
        name: of the container, unique on the machine.
        source: folder that becomes ``/input``.
        target: folder that becomes ``/output``.
        scratch: folder that becomes ``/tmp``.
        threads: cores that it may use.
        gpu: whether it sees the machine's GPUs.
        memory_gb: most memory, or None.
    """

    name: str
    source: Path
    target: Path
    scratch: Path
    threads: int
    gpu: bool
    memory_gb: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the algorithm gets beside those of its image.

        The scheduler says by ``CUDA_VISIBLE_DEVICES`` which GPUs are the job's.
        """
        values = {"HOME": "/tmp", "OMP_NUM_THREADS": str(self.threads)}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if not self.gpu:
            values["CUDA_VISIBLE_DEVICES"] = ""
        elif visible is not None:
            values["CUDA_VISIBLE_DEVICES"] = visible
        return values


@dataclass(frozen=True)
class Ending:
    """How a start of an algorithm ended.

    Attributes:
        code: exit code; None where it ran out of time, 125 where podman or docker itself failed.
        log: the end of what it printed.
    """

    code: int | None
    log: str

    @property
    def of_the_place(self) -> bool:
        """Whether time, memory, the disk or the runtime ended it, and not what it was given."""
        killed = self.code in {None, 137, -signal.SIGKILL, 125}
        return killed or (self.code != 0 and any(text in self.log for text in TEXTS))

    @property
    def words(self) -> str:
        """The clause that completes "the algorithm"."""
        if self.code is None:
            return "took longer than the site allows"
        if self.code in {137, -signal.SIGKILL}:
            return "was killed, as happens where memory runs out"
        return f"ended with exit code {self.code}"


class Runtime(ABC):
    """A way to run an image.

    Attributes:
        program: the command that must be on the path.
        kinds: suffixes of the image files that it runs.

    Args:
        image: the image's file, verified.
        folder: for what `prepare` makes; on a disk with room for the image.
    """

    program: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = (".tar",)

    def __init__(self, image: Path, folder: Path) -> None:
        self.image = image
        self.folder = folder

    @abstractmethod
    def prepare(self, gpu: bool) -> None:
        """Make the image ready to run, once for many starts.

        Raises:
            StageError: it cannot be.
        """

    @abstractmethod
    def command(self, start: Start) -> list[str]:
        """Return the command line of a start."""

    def environment(self) -> dict[str, str]:
        """Return the environment of the command line itself."""
        return dict(os.environ)

    def end(self, start: Start) -> None:  # noqa: B027
        """End what killing the command line leaves behind."""


class Podman(Runtime):
    """podman, with or without root; the image is loaded into the user's store and run by its id."""

    program = "podman"
    gpus: ClassVar[tuple[str, ...]] = ("--device", "nvidia.com/gpu=all")

    def prepare(self, gpu: bool) -> None:
        """Load the image, unless the store has it."""
        self.identifier = read_image(self.image).identifier
        there = [self.program, "image", "inspect", self.identifier]
        if subprocess.run(there, capture_output=True, check=False).returncode:
            _demand([self.program, "load", "--input", str(self.image)], self.environment())
            _demand(there, self.environment())

    def command(self, start: Start) -> list[str]:
        """Return ``podman run`` with everything that can be taken away taken away."""
        uid, gid = unprivileged()
        return [
            *[self.program, "run", "--rm", "--pull", "never", "--name", start.name],
            *["--network", "none", "--read-only", "--cap-drop", "ALL"],
            *["--security-opt", "no-new-privileges", "--user", f"{uid}:{gid}", *self.special()],
            *["--workdir", "/tmp", "--shm-size", SHARED_MEMORY, "--log-driver", "none"],
            *["--volume", f"{start.source}:/input:ro,Z"],
            *["--volume", f"{start.target}:/output:rw,Z"],
            *["--volume", f"{start.scratch}:/tmp:rw,Z"],
            *[f"--env={name}={value}" for name, value in start.environment.items()],
            *(self.gpus if start.gpu else ()),
            *(["--memory", f"{start.memory_gb}g"] if start.memory_gb else []),
            self.identifier,
        ]

    def special(self) -> list[str]:
        """Return the options that docker has not.

        Without root the user must be the same within and without, to write to ``/output``. podman's
        own limits of files and processes are refused where the machine's are lower.
        """
        options = ["--http-proxy=false", "--read-only-tmpfs=false"]
        for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
            hard = resource.getrlimit(kind)[1]
            limit = LIMIT if hard == resource.RLIM_INFINITY else min(hard, LIMIT)
            options += ["--ulimit", f"{name}={limit}:{limit}"]
        return [*options, *(["--userns", "keep-id"] if os.geteuid() else [])]

    def end(self, start: Start) -> None:
        """Remove the container, which does not end with the command that started it."""
        subprocess.run(
            [self.program, "rm", "--force", start.name], capture_output=True, check=False
        )


class Docker(Podman):
    """docker, whose daemon runs as root; the algorithm does not."""

    program = "docker"
    gpus = ("--gpus", "all")

    def special(self) -> list[str]:
        """Return the options that podman has not, or not everywhere."""
        return ["--pids-limit", "4096"]


class Apptainer(Runtime):
    """apptainer or singularity, by spython."""

    program = "singularity"
    kinds = (".sif", ".tar")

    def prepare(self, gpu: bool) -> None:
        """Build a ``.sif`` from an archive; one that is there is run as it is."""
        self.sif = self.image
        if self.image.suffix == ".sif":
            return
        from spython.main import Client

        self.sif = self.folder / "image.sif"
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe = f"docker-archive:{self.image}"
        if Client.build(recipe=recipe, image=str(self.sif), sudo=False, quiet=True) is None:
            raise StageError(f"{self.image}: apptainer cannot build from it; its log says why.")

    def command(self, start: Start) -> list[str]:
        """Return the command that calls ``spython.main.Client.run``, see `apptainer`.

        Network ``none`` is the one that needs no root (Apptainer user guide, "Network
        virtualization"). As root the user is changed by ``--security``; others stay who they are.
        """
        home = start.scratch / "home"
        home.mkdir(exist_ok=True)
        uid, gid = unprivileged()
        options = [
            *["--containall", "--cleanenv", "--no-privs", "--net", "--network", "none"],
            *["--workdir", str(start.scratch), "--home", f"{home}:/home/algorithm"],
            *["--pwd", "/tmp"],
            *([] if os.geteuid() else ["--security", f"uid:{uid}", "--security", f"gid:{gid}"]),
        ]
        for name, value in start.environment.items():
            if name != "HOME":
                options += ["--env", f"{name}={value}"]
        arguments = {
            "image": str(self.sif),
            "bind": [f"{start.source}:/input:ro", f"{start.target}:/output:rw"],
            "nv": start.gpu,
            "options": options,
        }
        return [sys.executable, "-m", "jipflow.segment.containers.apptainer", json.dumps(arguments)]

    def environment(self) -> dict[str, str]:
        """Return the environment without what would add mounts, variables or privileges."""
        kept = {"APPTAINER_TMPDIR", "APPTAINER_CACHEDIR"}
        own = ("APPTAINER", "SINGULARITY")
        return {k: v for k, v in os.environ.items() if k in kept or not k.startswith(own)}


MOUNTS = """
umask 022
mount -t tmpfs -o mode=755 tmpfs "$1"
cd "$1"
mkdir image input output tmp dev dev/shm dev/pts
mount --bind "$2" image
mount --bind "$3" input
mount -o remount,bind,ro input
mount --bind "$4" output
mount --bind "$5" tmp
for device in $6; do
    if [ -d "/dev/$device" ]; then mkdir "dev/$device"; else touch "dev/$device"; fi
    mount --bind "/dev/$device" "dev/$device"
done
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount --rbind dev /dev
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs /sys
shift 6
"$@" || exit $?
"""
"""Gathers what ch-run mounts: its input read-only, and others than the machine's /dev and /sys. It
is run in a mount namespace of its own by who is root there. The shell stays, as process 1, which no
signal of the algorithm's own can end, as it should the algorithm."""
PLACES = (Path("/mnt"), Path("/media"), Path("/srv"))
"""Folders of every machine (Filesystem Hierarchy Standard 3.0, section 3.2), open to all, one of
which the folders are gathered in; what it holds is out of sight there."""
DEVICES = ("null", "zero", "full", "random", "urandom")


class Charliecloud(Runtime):
    """charliecloud, in namespaces that it does not make itself.

    ch-run gives a file system of its own and nothing else: it shares the network, the processes
    and /dev, and binds folders for writing. So it is started by util-linux's ``unshare`` in
    namespaces of network, processes and mounts in which those are closed. As root it would keep
    root's right to root's files: there ``setpriv`` makes it nobody first.
    """

    program = "ch-run"

    def prepare(self, gpu: bool) -> None:
        """Unpack the image, and with a GPU put the machine's driver libraries into it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _demand([*self._enclosed(gpu, *[self.folder] * 4), "true"], self.environment())
        self.root = self.folder / "image"
        self.configuration = unpack(self.image, self.root)
        for name in ("dev", "proc", "sys", "tmp", "input", "output", "etc"):
            place = self._place(name)
            if not place.is_dir():
                place.mkdir()
                place.chmod(OPEN)
        for name in ("passwd", "group", "hosts", "resolv.conf"):
            place = self._place(f"etc/{name}")
            place.unlink(missing_ok=True)
            place.touch()
            place.chmod(0o644)
        place = self.root / "etc" / "passwd"
        place.write_text(f"algorithm:x:{NOBODY}:{NOBODY}::/tmp:/bin/sh\n")
        if gpu:
            _demand(["ch-fromhost", "--nvidia", str(self.root)], self.environment())

    def command(self, start: Start) -> list[str]:
        """Return ``ch-run`` within ``unshare``."""
        privileged = os.geteuid() == 0
        values = self.configuration.environment | start.environment
        return [
            *self._enclosed(start.gpu, self.root, start.source, start.target, start.scratch),
            *(
                ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
                if privileged
                else []
            ),
            *["ch-run", f"--uid={NOBODY}", f"--gid={NOBODY}", "--cd=/tmp", "--no-passwd"],
            *[f"--bind={self._gathered}/{name}:/{name}" for name in ("input", "output", "tmp")],
            *["--unset-env=*", "--env-no-expand"],
            *[f"--set-env={name}={value}" for name, value in values.items()],
            *[f"{self._gathered}/image", "--", *self.configuration.entry],
        ]

    def environment(self) -> dict[str, str]:
        """Return what the wrapper needs; ch-run does not start without a ``USER``."""
        return {"PATH": os.environ["PATH"], "USER": "algorithm"}

    @property
    def _gathered(self) -> Path:
        folder = self.folder.resolve()
        free = (place for place in PLACES if place.is_dir() and not folder.is_relative_to(place))
        return next(free, PLACES[0])

    def _enclosed(self, gpu: bool, *folders: Path) -> list[str]:
        """Return what starts a command, which is to follow, among the mounts of `MOUNTS`."""
        devices = [*DEVICES, *(path.name for path in Path("/dev").glob("nvidia*") if gpu)]
        return [
            *["unshare", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork"],
            *["--kill-child", "--mount-proc"],
            *(["--user", "--map-root-user"] if os.geteuid() else []),
            *["sh", "-euc", MOUNTS, "sh"],
            *[str(self._gathered), *map(str, folders), " ".join(devices)],
        ]

    def _place(self, name: str) -> Path:
        """Return a path of the image that is to be mounted over, which no link may lead away."""
        place = self.root / name
        if place.is_symlink():
            raise StageError(f"{self.image}: /{name} is a link; make it a folder or file.")
        return place


RUNTIMES: dict[str, type[Runtime]] = {
    "apptainer": Apptainer,
    "podman": Podman,
    "charliecloud": Charliecloud,
    "docker": Docker,
}
"""By the names of ``containers.runtime``, in the order in which ``auto`` looks for them."""


def choose(setting: str, image: Path) -> type[Runtime]:
    """Return the runtime that a site runs an image by.

    Args:
        setting: ``auto`` or a name of `RUNTIMES`.
        image: file of the image.

    Raises:
        StageError: it is not installed, or none is, or it does not run such files.
    """
    names = list(RUNTIMES) if setting == "auto" else [setting]
    able = [name for name in names if image.suffix in RUNTIMES[name].kinds]
    if not able:
        raise StageError(
            f"{image}: {' or '.join(names)} runs no such file; give an image archive (.tar), or a "
            ".sif for apptainer."
        )
    for name in able:
        if shutil.which(RUNTIMES[name].program):
            return RUNTIMES[name]
    programs = ", ".join(f"{name} ({RUNTIMES[name].program})" for name in able)
    raise StageError(
        f"{image}: no container runtime is here that could run it: install one of {programs}, or "
        "name another in containers.runtime of the site configuration."
    )


def unprivileged() -> tuple[int, int]:
    """Return the user and group of algorithms: one's own, or nobody's where one is root."""
    if os.geteuid() == 0:
        return NOBODY, NOBODY
    return os.geteuid(), os.getegid()


def execute(runtime: Runtime, start: Start, seconds: float, finished: Callable[[], int]) -> Ending:
    """Run an algorithm to its end, or until it finishes nothing any more.

    Args:
        runtime: prepared.
        start: its folders must be there.
        seconds: without a finished case after which it is killed.
        finished: counts the cases that are.
    """
    command = runtime.command(start)
    if os.geteuid() == 0:
        for folder in (start.target, start.scratch):
            for place in (folder, *folder.rglob("*")):
                os.chown(place, NOBODY, NOBODY)
    tail = bytearray()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=runtime.environment(),
        start_new_session=True,
    ) as process:

        def keep() -> None:
            assert process.stdout is not None
            while chunk := os.read(process.stdout.fileno(), LOG_BYTES):
                tail.extend(chunk)
                del tail[:-LOG_BYTES]

        reader = threading.Thread(target=keep, daemon=True)
        reader.start()
        try:
            with _interruptible():
                code = _wait(process, seconds, finished)
        finally:
            # Also after the end, for processes that it left running.
            _kill(process)
            runtime.end(start)
        reader.join(GRACE_SECONDS)
    return Ending(code, tail.decode(errors="replace"))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, by which schedulers end jobs, raise in the block, so that what it started ends.

    Raises:
        SystemExit: there was one.
    """

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(
    process: subprocess.Popen[bytes], seconds: float, finished: Callable[[], int]
) -> int | None:
    """Return the exit code, or None after `seconds` in which `finished` did not grow."""
    done, since = finished(), time.monotonic()
    while True:
        try:
            return process.wait(min(seconds, 1))
        except subprocess.TimeoutExpired:
            if (now := finished()) > done:
                done, since = now, time.monotonic()
            elif time.monotonic() - since > seconds:
                return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all of its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _demand(command: Sequence[str], environment: dict[str, str]) -> None:
    """Run a command that has to succeed.

    Raises:
        StageError: it does not.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except FileNotFoundError:
        raise StageError(f"{command[0]} is not installed; containers need it here.") from None
    if done.returncode:
        raise StageError(
            f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}; fix the container runtime "
            "of this machine, or name another in containers.runtime of the site configuration."
        )
