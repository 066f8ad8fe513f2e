"""An algorithm that tries to get out of its container, and writes down how far it came.

Run as the only program of an image; what it knows of the host is filled in by the test.
"""

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

HOST = json.loads("""@HOST@""")
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
MS_REMOUNT, MS_BIND = 32, 4096


def tried(function, *arguments):
    try:
        return f"done: {function(*arguments)}"
    except (OSError, subprocess.CalledProcessError) as error:
        return type(error).__name__


def write(path):
    with open(path, "a") as stream:
        stream.write("hostile")


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(3)
        connection.connect(address)


def send(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.sendto(b"hostile", address)


def remount():
    if LIBC.mount(b"none", b"/input", None, MS_REMOUNT | MS_BIND, None):
        raise OSError(ctypes.get_errno(), "mount")


def remount_as_own_root():
    child = os.fork()
    if not child:
        LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNS)
        try:
            remount()
            write("/input/remounted")
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise OSError("refused")


def rooted_by_setuid():
    command = ["/suid/python3.11", "-c", "import os; os.setuid(0); print(os.geteuid())"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def linger():
    """Leave a process behind that outlives this one."""
    if not os.fork():
        os.setsid()
        os.execv(
            "/usr/bin/python3.11", ["python", "-c", "import time; time.sleep(60)", HOST["marker"]]
        )


def main():
    job = json.loads(Path("/input/job.json").read_text())
    report = {
        "uid": os.getuid(),
        "capabilities": [
            line.split()[1]
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("CapEff")
        ],
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()),
        "devices": sorted(os.listdir("/dev")),
        "environment": dict(os.environ),
        "sees": {path: os.path.exists(path) for path in HOST["paths"]},
        "tmp": tried(write, "/tmp/mine"),
        "refused": {
            **{path: tried(write, path) for path in HOST["paths"]},
            **{f"proc {path}": tried(write, f"/proc/1/root{path}") for path in HOST["paths"]},
            "memory": tried(write, "/proc/1/mem"),
            **{
                path: tried(write, path)
                for path in (
                    "/input/job.json",
                    "/input/new",
                    "/input/cases/0001/CT.nii",
                    "/etc/new",
                    "/etc/passwd",
                    "/new",
                    "/usr/bin/new",
                    "/open/new",
                    "/root/new",
                    "/home/new",
                    "/algorithm/main.py",
                    "/sys/kernel/profiling",
                    "/proc/sys/kernel/core_pattern",
                    "/proc/sysrq-trigger",
                    "/mnt/new",
                    "/run/new",
                    "/var/tmp/new",
                )
            },
            "unlink input": tried(os.unlink, "/input/job.json"),
            "chmod input": tried(os.chmod, "/input/job.json", 0o777),
            "internet": tried(connect, socket.AF_INET, ("1.1.1.1", 53)),
            "datagram": tried(send, ("1.1.1.1", 53)),
            "host": tried(connect, socket.AF_INET, ("127.0.0.1", HOST["port"])),
            "abstract": tried(connect, socket.AF_UNIX, "\0" + HOST["marker"]),
            "remount": tried(remount),
            "remount as own root": tried(remount_as_own_root),
            "setuid": tried(os.setuid, 0),
            "setuid program": tried(rooted_by_setuid),
            "device": tried(os.mknod, "/output/disk", 0o60666, os.makedev(8, 0)),
            "kill": tried(os.kill, HOST["pid"], 0),
        },
    }
    tried(write, f"/dev/shm/{HOST['marker']}")
    Path("/output/report.json").write_text(json.dumps(report))
    for case, escape in zip(job["cases"], HOST["links"], strict=False):
        os.symlink(escape, "/output/" + case["segmentation"])
    last = Path("/output") / Path(job["cases"][-1]["segmentation"]).parent
    last.rmdir()
    last.symlink_to(HOST["planted"])
    Path("/output/shut").mkdir(mode=0)
    linger()


main()
sys.exit(0)
