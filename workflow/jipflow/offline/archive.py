"""All that a site without network needs in one signed file: repository, wheels, what is carried.

``<name>.zip`` is a zip whose members are stored, not compressed; its ``manifest.json`` names every
other member with size and SHA-256. ``<name>.zip.sig`` beside it holds the hashes of the zip and of
the manifest and the signature of both, so that nothing of the zip is opened before it is verified.
``envs/install.py`` does that, with Python's standard library alone.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jipflow import archives
from jipflow.exchange.keys import sign
from jipflow.files import atomic_path, json_text, sha256_file, write_json
from jipflow.reasons import StageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT = "jipflow-archive-1"
MANIFEST = "manifest.json"
VERSION = "import sys; sys.path[:0] = ['workflow']; import jipflow; print(jipflow.__version__)"


def build_archive(
    *,
    repository: Path,
    commit: str,
    extras: Sequence[str],
    carried: Sequence[Path],
    key: Ed25519PrivateKey,
    folder: Path,
) -> Path:
    """Write an archive and its signature, and return the archive.

    Wheels are built and downloaded for this Python and this kind of machine, in the versions of the
    commit's constraints.

    Args:
        repository: a clone.
        commit: what of it is taken, in git's words.
        extras: of the package, such as ``nnunet``.
        carried: files that come along, such as ``jipflow models bundle`` and container images.
        key: of who answers for the archive.
        folder: where it is written, ``jipflow-<version>-<commit>.zip``.

    Raises:
        StageError: git has no such commit, pip cannot make the wheels, or two of the files that
            come along have one name.
    """
    names = [path.name for path in carried]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StageError(f"Two files named {twice[0]} cannot come along; rename one.")
    digits = _git(repository, "rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()
    with tempfile.TemporaryDirectory(prefix="jipflow-archive-") as name:
        tree, wheels = Path(name, "repository"), Path(name, "wheels")
        _check_out(repository, digits, tree)
        # Before wheels are made, which leaves folders of its own there.
        members = list(_members("repository", tree))
        _make_wheels(tree, extras, wheels)
        members += [
            *_members("wheels", wheels),
            *((f"carried/{path.name}", path) for path in sorted(carried)),
        ]
        version = _run([sys.executable, "-c", VERSION], tree).decode().strip()
        manifest = {
            "format": FORMAT,
            "version": version,
            "commit": digits,
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "platform": sysconfig.get_platform(),
            "extras": sorted(extras),
            "files": {name: _described(path) for name, path in members},
        }
        return _write(folder / f"jipflow-{version}-{digits[:12]}.zip", manifest, members, key)


def _write(
    path: Path,
    manifest: dict[str, Any],
    members: Sequence[tuple[str, Path]],
    key: Ed25519PrivateKey,
) -> Path:
    stated = json_text(manifest).encode()
    with atomic_path(path) as partial:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            archives.add(archive, MANIFEST, stated)
            for name, file in members:
                archives.add_file(archive, name, file)
        digests = {"sha256": sha256_file(partial), "manifest": hashlib.sha256(stated).hexdigest()}
        signed = f"{FORMAT}\n{digests['sha256']}\n{digests['manifest']}\n".encode()
        signature = {"format": FORMAT, **digests, "signature": sign(key, signed)}
        # The archive is verified by it, so that a zip without its signature is none.
        write_json(path.with_name(f"{path.name}.sig"), signature)
    return path


def _described(path: Path) -> dict[str, Any]:
    found = path.stat()
    entry = {"size": found.st_size, "sha256": sha256_file(path)}
    return {**entry, "executable": True} if found.st_mode & 0o100 else entry


def _members(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise StageError(f"{path.relative_to(folder)} is a link, which no archive takes.")
        if path.is_file():
            yield f"{name}/{path.relative_to(folder).as_posix()}", path


def _check_out(repository: Path, commit: str, folder: Path) -> None:
    data = _git(repository, "-c", "tar.umask=0022", "archive", "--format=tar", commit)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        # Python 3.11.2, which Debian 12 has, knows no filters, which what git packs does not need.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(folder)


def _make_wheels(tree: Path, extras: Sequence[str], wheels: Path) -> None:
    """Make the wheels of all that is installed; the package itself runs from the repository."""
    what = f".[{','.join(sorted(extras))}]" if extras else "."
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    command += ["--no-build-isolation", "--constraint", "envs/constraints.txt"]
    command += ["--wheel-dir", str(wheels), "setuptools", "wheel", what]
    # What lets the setup.py of pyradiomics run; see envs/pyradiomics.
    _run(["env", f"PYTHONPATH={tree / 'envs' / 'pyradiomics'}", *command], tree)
    for own in wheels.glob("jipflow-*.whl"):
        own.unlink()


def _git(repository: Path, *words: str) -> bytes:
    return _run(["git", "-C", str(repository.absolute()), *words], repository)


def _run(command: Sequence[str], folder: Path) -> bytes:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise StageError(f"{error.filename} is not there; install it, or name a folder.") from None
    if done.returncode:
        stated = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        tried = " ".join(word for word in command[:6] if not word.startswith("PYTHONPATH"))
        raise StageError(f"{tried} ... failed: {stated[-1]}")
    return done.stdout
