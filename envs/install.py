#!/usr/bin/env python3
"""Installs an archive of jipflow at a site without network, and switches between versions.

    python3 -I install.py ARCHIVE --key ed25519:... --to /opt/jipflow
    python3 -I install.py --list --to /opt/jipflow
    python3 -I install.py --use NAME --to /opt/jipflow

The archive is one that `jipflow archive` wrote, with its .sig beside it. Nothing of it is opened
before the signature has been verified, with the key that you got from its maker by another way than
the archive. Needs Python's standard library alone, and -I, without which Python would first look
for that library in the folder of this file.
"""

import sys

if __name__ == "__main__" and not sys.flags.isolated:
    sys.exit("install: start it with python3 -I, or a file beside it could run before all checks.")

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sysconfig
import zipfile
from pathlib import Path, PurePosixPath

FORMAT = "jipflow-archive-1"
MANIFEST = "manifest.json"
INSTALLED = "installed.json"
"""The manifest of what a folder was installed from, written when all of it is there."""
PLACES = ("repository", "wheels", "carried")
OWN = (INSTALLED, ".venv", "wheels", "carried")
"""What a version's folder has besides the repository."""
CHUNK = 2**20

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
CURVE = -121665 * pow(121666, -1, PRIME) % PRIME
ROOT_OF_MINUS_ONE = pow(2, (PRIME - 1) // 4, PRIME)


class Refused(Exception):
    """Nothing is installed; the message says why."""


def point(data):
    """Return the point of 32 bytes (RFC 8032, section 5.1.3); None where they are of none."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= PRIME:
        return None
    square = (y * y - 1) * pow(CURVE * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * ROOT_OF_MINUS_ONE % PRIME
    if (x * x - square) % PRIME or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = PRIME - x
    return (x, y, 1, x * y % PRIME)


def plus(p, q):
    """Add two points in extended coordinates (RFC 8032, section 5.1.4)."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0])
    c, d = 2 * p[3] * q[3] * CURVE, 2 * p[2] * q[2]
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % PRIME, g * h % PRIME, f * g % PRIME, e * h % PRIME)


def times(number, p):
    """Add a point to itself a number of times."""
    total = (0, 1, 1, 0)
    while number:
        if number & 1:
            total = plus(total, p)
        p = plus(p, p)
        number >>= 1
    return total


def same(p, q):
    """Return whether two points in extended coordinates are one."""
    return not ((p[0] * q[2] - q[0] * p[2]) % PRIME or (p[1] * q[2] - q[1] * p[2]) % PRIME)


BASE = point((4 * pow(5, -1, PRIME) % PRIME).to_bytes(32, "little"))


def verifies(public, signature, message):
    """Return whether an Ed25519 signature is of a message (RFC 8032, section 5.1.7).

    A key of small order, of which anyone can make signatures, verifies nothing.
    """
    key, r = point(public), point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or key is None or r is None or s >= ORDER:
        return False
    if same(times(8, key), (0, 1, 1, 0)):
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little")
    return same(times(s, BASE), plus(r, times(k % ORDER, key)))


def verified(stream, path, key):
    """Verify an archive by the file beside it, before anything of it is opened.

    Returns:
        The SHA-256 of its manifest.
    """
    if not re.fullmatch("ed25519:[0-9a-f]{64}", key):
        raise Refused("--key is ed25519: and 64 hexadecimal digits, as `jipflow keys show` prints.")
    beside = Path(f"{path}.sig")
    try:
        stated = json.loads(beside.read_text(encoding="ascii"))
        digests = [stated[name] for name in ("sha256", "manifest")]
        signature = bytes.fromhex(stated["signature"])
        known = stated["format"] == FORMAT and all(re.fullmatch("[0-9a-f]{64}", d) for d in digests)
    except FileNotFoundError:
        raise Refused(f"{beside} is missing; carry it in with the archive.") from None
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise Refused(f"{beside} is no signature of an archive.")
    text = "".join(f"{line}\n" for line in (FORMAT, *digests)).encode()
    if not verifies(bytes.fromhex(key[8:]), signature, text):
        raise Refused(f"{beside} was not signed with the key that you gave.")
    found = hashlib.sha256()
    while chunk := stream.read(CHUNK):
        found.update(chunk)
    if found.hexdigest() != digests[0]:
        raise Refused(f"{path} is not the file that was signed: it was changed or cut off.")
    return digests[1]


def read_manifest(archive, digest):
    """Return the manifest of an archive whose members are the ones that it names."""
    try:
        text = archive.read(MANIFEST)
    except KeyError:
        raise Refused(f"The archive has no {MANIFEST}.") from None
    if hashlib.sha256(text).hexdigest() != digest:
        raise Refused(f"{MANIFEST} is not the one that was signed.")
    manifest = json.loads(text)
    names = [member.filename for member in archive.infolist()]
    if sorted(names) != sorted([MANIFEST, *manifest["files"]]):
        raise Refused("The archive has other files than its manifest names.")
    for name in manifest["files"]:
        parts = PurePosixPath(name).parts
        if len(parts) < 2 or parts[0] not in PLACES or ".." in parts or name != "/".join(parts):
            raise Refused(f"{name!r} would lie outside the folder.")
        if parts[0] == "repository" and parts[1] in OWN:
            raise Refused(f"{name!r} would lie in the place of what the installation makes.")
    for word in (manifest["version"], manifest["commit"]):
        if not re.fullmatch("[0-9A-Za-z.+-]{1,64}", word) or word.startswith("."):
            raise Refused("The manifest's version or commit is none.")
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if (manifest["python"], manifest["platform"]) != (python, sysconfig.get_platform()):
        raise Refused(
            f"The archive is for Python {manifest['python']} on {manifest['platform']}, this is "
            f"Python {python} on {sysconfig.get_platform()}; run it with that Python, or have "
            "another archive made."
        )
    return manifest


def unpack(archive, manifest, folder):
    """Write the members to a folder, each checked by its hash."""
    for name, entry in manifest["files"].items():
        place, _, rest = name.partition("/")
        target = Path(folder, rest if place == "repository" else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        found, size = hashlib.sha256(), 0
        with archive.open(name) as source, open(target, "xb") as written:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if size > entry["size"]:
                    raise Refused(f"{name} is larger than the manifest says.")
                found.update(chunk)
                written.write(chunk)
        if (size, found.hexdigest()) != (entry["size"], entry["sha256"]):
            raise Refused(f"{name} is not what the manifest says.")
        target.chmod(0o755 if entry.get("executable") else 0o644)


def set_up(folder, manifest):
    """Make the environment of a version from its wheels alone."""
    python = str(folder / ".venv" / "bin" / "python")
    pip = [python, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet"]
    pip += ["--no-index", "--find-links", "wheels", "--constraint", "envs/constraints.txt"]
    extras = ",".join(manifest["extras"])
    run([sys.executable, "-m", "venv", str(folder / ".venv")], folder)
    run([*pip, "setuptools", "wheel"], folder)
    run([*pip, "--no-build-isolation", "--editable", f".[{extras}]" if extras else "."], folder)
    run([str(folder / ".venv" / "bin" / "jipflow"), "--version"], folder)
    shutil.rmtree(folder / "wheels", ignore_errors=True)


def run(command, folder):
    """Run a command of the set-up, which hears nothing of this shell's Python."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    # Neither an index nor a folder of the machine's own pip.conf.
    kept["PIP_CONFIG_FILE"] = os.devnull
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise Refused(f"{' '.join(command[:4])} ... failed: {lines[-1]}")


def install(path, key, home):
    """Install an archive beside the versions that are there, and return its name."""
    with open(path, "rb") as stream:
        digest = verified(stream, path, key)
        print(f"[1/4] {path} is signed with the key that you gave")
        with zipfile.ZipFile(stream) as archive:
            manifest = read_manifest(archive, digest)
            name = f"{manifest['version']}-{manifest['commit'][:12]}"
            if path.name != f"jipflow-{name}.zip":
                raise Refused(f"{path} is the archive of {name}; give it that name again.")
            folder = home / "versions" / name
            if there := manifest_of(folder):
                if there == manifest:
                    print(f"[2/4] {name} is installed already")
                    return name
                raise Refused(
                    f"{folder} was installed from another archive of that commit; remove it first."
                )
            if folder.exists():
                # What was cut off; nobody was switched to it.
                shutil.rmtree(folder)
            print(f"[2/4] unpacking {len(manifest['files'])} files to {folder}")
            unpack(archive, manifest, folder)
    print("[3/4] setting up its Python")
    set_up(folder, manifest)
    partial = folder / f".{INSTALLED}"
    partial.write_text(json.dumps(manifest))
    # So that no power cut leaves a version whose files are not all there.
    os.sync()
    os.replace(partial, folder / INSTALLED)
    return name


def manifest_of(folder):
    """Return the manifest that a folder was installed from; None where it is not all there."""
    try:
        return json.loads((folder / INSTALLED).read_text())
    except (FileNotFoundError, ValueError):
        return None


def installed(home):
    """Return the names of the versions that are there as a whole."""
    folders = (path.parent for path in (home / "versions").glob(f"*/{INSTALLED}"))
    return sorted(folder.name for folder in folders if manifest_of(folder))


def rank(name):
    """Return what versions are compared by: their numbers, and what comes before a release is less.

    As far as PEP 440 has it without the order of what comes before one release.
    """
    digits, rest = re.match(r"([0-9.]*)(.*)", name).groups()
    numbers = [int(part) for part in digits.split(".") if part]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers, not re.match("dev|a|b|rc", rest)


def switch_after(home, name):
    """Switch to what was installed, unless it is older than what is in use."""
    if (home / "current").is_symlink():
        now = Path(os.readlink(home / "current")).name
        if rank(name) < rank(now):
            print(f"[4/4] {now} stays current, for it is newer; to go back, give --use {name}")
            return
    use(home, name)


def use(home, name):
    """Have `current` be another version, in one step."""
    if name not in installed(home):
        raise Refused(f"{name!r} is not installed; there are: {', '.join(installed(home))}")
    folder = home / "versions" / name
    # A Python that was upgraded or removed since takes its environments with it.
    run([str(folder / ".venv" / "bin" / "jipflow"), "--version"], folder)
    partial = home / ".current"
    partial.unlink(missing_ok=True)
    partial.symlink_to(Path("versions", name))
    os.replace(partial, home / "current")
    print(f"[4/4] {home / 'current'} is {name}; its commands are in {home / 'current/.venv/bin'}")


def main(words=None):
    """Do what was typed; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("--key", help="public key of the archive's maker")
    parser.add_argument("--to", required=True, type=Path, help="folder of all versions")
    parser.add_argument("--use", metavar="NAME", help="a version that is installed")
    parser.add_argument("--list", action="store_true", help="the versions that are installed")
    given = parser.parse_args(words)
    asked = [bool(given.archive), bool(given.use), given.list]
    if sum(asked) != 1 or bool(given.archive) != bool(given.key):
        parser.error("name an archive and its --key, or --use NAME, or --list")
    home = given.to.absolute()
    # The account that runs jipflow is seldom the one that installs it.
    os.umask(0o022)
    try:
        if given.list:
            current = os.readlink(home / "current") if (home / "current").is_symlink() else ""
            for name in installed(home):
                print(f"{name}{' (current)' if current == f'versions/{name}' else ''}")
            return 0
        home.mkdir(parents=True, exist_ok=True)
        with open(home / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if given.archive:
                switch_after(home, install(given.archive, given.key, home))
            else:
                use(home, given.use)
    except BlockingIOError:
        print(f"install: another one is at work in {home}; wait for it.", file=sys.stderr)
        return 1
    except (Refused, OSError, zipfile.BadZipFile) as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
