"""Images for tests of containers, made of Debian packages and Python programs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

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
PROGRAM = "algorithm/main.py"


def debian_layer(folder: Path) -> Path:
    """Return an archive of Debian's Python with numpy and nibabel, 86 MB in 2,500 files."""
    if not all(shutil.which(program) for program in ("apt-get", "dpkg", "ch-run")):
        if os.environ.get("CI") == "true":
            pytest.fail("CI must run the tests of containers: install charliecloud")
        pytest.skip("containers are tested on Debian with charliecloud")
    packages, root = folder / "packages", folder / "root"
    packages.mkdir()
    subprocess.run(["apt-get", "download", "-qq", *PACKAGES.split()], cwd=packages, check=True)
    for package in sorted(packages.iterdir()):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    layer = folder / "debian.tar"
    with tarfile.open(layer, "w") as archive:
        archive.add(root, ".")
    shutil.rmtree(root)
    shutil.rmtree(packages)
    return layer


def layer_of(files: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    """Return an uncompressed layer of files, or of members as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o755
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write_archive(
    path: Path,
    layers: Sequence[Path | bytes],
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
    contents = [layer if isinstance(layer, bytes) else layer.read_bytes() for layer in layers]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
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
        **{f"{digest}.tar": content for digest, content in zip(digests, contents, strict=True)},
        "manifest.json": json.dumps(manifest).encode(),
    }
    path.write_bytes(layer_of(members))
    return path


def program_image(path: Path, base: Path, program: str) -> Path:
    """Write the archive of an image that runs a Python program on Debian's Python."""
    return write_archive(path, [base, layer_of({PROGRAM: program.encode()})])
