"""A real PACS for tests: Debian's Orthanc with its DICOMweb plugin, shut off from the network."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import requests
from requests.auth import HTTPBasicAuth

from needs import unavailable

PROGRAM = Path("/usr/sbin/Orthanc")
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


@contextmanager
def private_network() -> Iterator[None]:
    """Run the block in a network of its own, which has nothing but a loopback device.

    Debian's Orthanc listens on every address whatever its configuration says; in here nobody
    else can reach it. Threads and processes that the block starts are in the same network. A
    network belongs to a thread: enter it in the thread that starts the others.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/self/task/{threading.get_native_id()}/ns/net", "rb") as outside:
        if libc.unshare(_CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            unavailable(f"no network namespace can be made here ({reason}); run as root")
        try:
            _raise_loopback()
            yield
        finally:
            if libc.setns(outside.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "the thread cannot leave its private network")


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


class Orthanc:
    """An Orthanc with its storage in a folder; start it inside `private_network`.

    Args:
        folder: of the storage, the configuration and the log; kept from one start to the next.
        http_port: of REST and DICOMweb.
        dicom_port: of DIMSE. Two at a time need different ports.
        aet: the application entity title of the PACS, which callers must use.
        modalities: who may speak DIMSE to it and where C-MOVE sends to: the port of each
            application entity title, all on 127.0.0.1.
        users: password of each user of HTTP; without users everyone may.
        certificate: key and certificate (PEM) for 127.0.0.1, signed by itself; DIMSE is then
            encrypted, and a caller has to show the same certificate. (Debian's Orthanc crashes at
            the first request by HTTPS.)
        options: more of Orthanc's configuration.
    """

    def __init__(
        self,
        folder: Path,
        *,
        http_port: int = 8042,
        dicom_port: int = 4242,
        aet: str = "ARCHIVE",
        modalities: Mapping[str, int] | None = None,
        users: Mapping[str, str] | None = None,
        certificate: Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.aet = aet
        self.host = "127.0.0.1"
        self.port = dicom_port
        self.http_port = http_port
        self.base = f"http://127.0.0.1:{self.http_port}"
        self.url = f"{self.base}/dicom-web"
        self.users = dict(users or {})
        self.session = requests.Session()
        self.session.trust_env = False
        for user, password in self.users.items():
            self.session.auth = HTTPBasicAuth(user.encode(), password.encode())
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()
        self.configuration = {
            "Name": "jipflow test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(self.users),
            "RegisteredUsers": self.users,
            "DicomAet": aet,
            "DicomPort": self.port,
            "DicomCheckCalledAet": True,
            "DicomCheckModalityHost": True,
            "DicomModalities": {
                title: {
                    "AET": title,
                    "Host": "127.0.0.1",
                    "Port": port,
                    "UseDicomTls": certificate is not None,
                }
                for title, port in (modalities or {"JIPFLOW": 11112}).items()
            },
            "OverwriteInstances": False,
            "StableAge": 1,
            "Plugins": [str(DICOMWEB)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **({} if certificate is None else _encrypted(str(certificate))),
            **(options or {}),
        }

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        # Its storage is of no use after a test, and a stop in good order takes seconds.
        self.kill()

    def start(self, seconds: float = 20) -> Self:
        """Start it and wait until HTTP and DIMSE answer."""
        with self._lock:
            missing = [str(path) for path in (PROGRAM, DICOMWEB) if not path.exists()]
            if missing:
                unavailable(
                    f"{' and '.join(missing)} missing; install orthanc and orthanc-dicomweb"
                )
            if self._answers():
                raise RuntimeError(f"something else listens at {self.base}; choose other ports")
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.folder / "orthanc.json"
            file.write_text(json.dumps(self.configuration, indent=2))
            with open(self.folder / "orthanc.log", "ab") as log:
                self.process = subprocess.Popen(
                    [str(PROGRAM), str(file)],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    # Without it DCMTK waits 40 ms for an acknowledgement in every file it sends.
                    env={**os.environ, "TCP_NODELAY": "1"},
                )
            deadline = time.monotonic() + seconds
            while not self._answers():
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    log_end = (self.folder / "orthanc.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"Orthanc did not start:\n{log_end}")
                time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            self.get("/system")
            with socket.create_connection((self.host, self.port), timeout=1):
                return True
        except (requests.RequestException, OSError):
            return False

    def kill(self) -> None:
        """End it at once by SIGKILL, as a power cut would."""
        with self._lock:
            if self.process is not None:
                self.process.kill()
                self.process.wait()
                self.process = None

    def stop(self) -> None:
        """End it in good order."""
        with self._lock:
            if self.process is not None:
                self.process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout=20)
                self.kill()

    def erase(self) -> None:
        """Remove the storage of an Orthanc that does not run."""
        assert self.process is None
        shutil.rmtree(self.folder / "storage", ignore_errors=True)

    def upload(self, paths: Iterable[Path]) -> None:
        """Put DICOM files in by the REST interface, which keeps their bytes."""
        for path in paths:
            self.post("/instances", path.read_bytes())

    def count(self) -> int:
        """Return how many instances it holds."""
        return int(self.get("/statistics").json()["CountInstances"])

    def file(self, sop_uid: str) -> bytes:
        """Return the stored file of an instance."""
        found = self.post("/tools/lookup", sop_uid).json()
        (instance,) = [entry["ID"] for entry in found if entry["Type"] == "Instance"]
        return self.get(f"/instances/{instance}/file").content

    def replace(self, sop_uid: str, content: bytes) -> None:
        """Put another file in the place of an instance, under its UIDs."""
        found = self.post("/tools/lookup", sop_uid).json()
        (path,) = [entry["Path"] for entry in found if entry["Type"] == "Instance"]
        self.session.delete(self.base + path, timeout=30).raise_for_status()
        self.post("/instances", content)

    def get(self, path: str) -> requests.Response:
        """Ask its REST interface."""
        response = self.session.get(self.base + path, timeout=30)
        response.raise_for_status()
        return response

    def post(self, path: str, content: str | bytes) -> requests.Response:
        """Post to its REST interface."""
        response = self.session.post(self.base + path, data=content, timeout=30)
        response.raise_for_status()
        return response


def _encrypted(certificate: str) -> dict[str, Any]:
    return {
        "DicomTlsEnabled": True,
        "DicomTlsPrivateKey": certificate,
        "DicomTlsCertificate": certificate,
        "DicomTlsTrustedCertificates": certificate,
    }
