"""Images for tests of containers, made of Debian packages and Python programs."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jipflow.models.registry import register
from needs import unavailable

PACKAGES = """
    libblas3 libbz2-1.0 libc6 libexpat1 libffi8 libgcc-s1 libgfortran5 liblapack3 liblzma5
    libpython3.11-minimal libpython3.11-stdlib libquadmath0 libstdc++6 python3-minimal
    python3-nibabel python3-numpy python3-packaging python3-pkg-resources python3.11-minimal
    zlib1g
"""
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
ENVIRONMENT = (
    "PATH=/usr/bin:/bin",
    # Packages are unpacked, not installed: nothing has linked the libraries to choose from.
    f"LD_LIBRARY_PATH={LIBRARIES}/blas:{LIBRARIES}/lapack",
)
UNUSED = re.compile(r"/(share|tests?|f2py|gconv)/").search
PROGRAM = "algorithm/main.py"


@cache
def debian_layer() -> bytes:
    """Return a layer with Debian's Python, numpy and nibabel; fetched once a process."""
    release = Path("/etc/os-release")
    bookworm = release.is_file() and "VERSION_CODENAME=bookworm" in release.read_text()
    if not bookworm or not shutil.which("ch-run"):
        unavailable("containers are tested on Debian 12 with charliecloud")
    with tempfile.TemporaryDirectory() as name:
        packages, root = Path(name, "packages"), Path(name, "root")
        packages.mkdir()
        fetch = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root"]
        subprocess.run([*fetch, *PACKAGES.split()], cwd=packages, check=True)
        for package in sorted(packages.iterdir()):
            subprocess.run(["dpkg", "-x", package, root], check=True)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(root, ".", filter=lambda member: None if UNUSED(member.name) else member)
        return buffer.getvalue()


def layer_of(
    files: Mapping[str, bytes], links: Sequence[tarfile.TarInfo] = (), mode: int = 0o755
) -> bytes:
    """Return a layer of files, and of members that have no content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
        for member in links:
            archive.addfile(member)
    return buffer.getvalue()


def write_archive(
    path: Path,
    layers: Sequence[bytes],
    entry: Sequence[str] = ("python3.11", f"/{PROGRAM}"),
    environment: Sequence[str] = ENVIRONMENT,
) -> Path:
    """Write an image archive as ``docker save`` does.

    Args:
        path: of the archive.
        layers: archives of the layers, the lowest first.
        entry: the image's ENTRYPOINT.
        environment: its ENV.
    """
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    configuration = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": list(entry), "Env": list(environment)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        }
    ).encode()
    identifier = hashlib.sha256(configuration).hexdigest()
    manifest = [{"Config": f"{identifier}.json", "Layers": [f"{d}.tar" for d in digests]}]
    members = {
        f"{identifier}.json": configuration,
        **{f"{digest}.tar": content for digest, content in zip(digests, layers, strict=True)},
        "manifest.json": json.dumps(manifest).encode(),
    }
    path.write_bytes(layer_of(members))
    return path


def program_image(path: Path, program: str) -> Path:
    """Write the archive of an image that runs a Python program on Debian's Python."""
    return write_archive(path, [debian_layer(), layer_of({PROGRAM: program.encode()})])


def write_registry(root: Path, name: str, image: Path, labels: Mapping[str, int]) -> Path:
    """Write a registry of models that has the one image.

    Args:
        root: folder that it is put into.
        name: of the model.
        image: alone in its folder, below the root.
        labels: number of each label.
    """
    entry = {
        "name": name,
        "version": "1.0.0",
        "engine": "container",
        "licence": "Apache-2.0",
        "intended_use": "Tests.",
        "training_data": "None.",
        "roles": ["CT"],
        "image": image.name,
        "labels": [
            {"name": label, "value": value, "term": "liver"} for label, value in labels.items()
        ],
    }
    path = root / "models.yaml"
    register(name, entry, image.parent, path)
    return path
