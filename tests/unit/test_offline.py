"""An archive for a site without network: made, verified unopened, installed, rolled back."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from jipflow.cli import main
from jipflow.exchange.keys import WEAK, load_key, new_key, public_text, verifies
from jipflow.offline.archive import build_archive
from jipflow.reasons import StageError
from jipflow.settings.resources import ROOT
from needs import unavailable

SCRIPT = ROOT / "envs" / "install.py"
SPEC = importlib.util.spec_from_file_location("install", SCRIPT)
installer = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(installer)

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "jipflow"
dynamic = ["version"]
[project.scripts]
jipflow = "jipflow:main"
[tool.setuptools]
package-dir = { "" = "workflow" }
packages = ["jipflow"]
[tool.setuptools.dynamic]
version = { attr = "jipflow.__version__" }
"""


def commit(repository, version):
    """Have a clone of a package with nothing but a version stand at a commit of it."""
    package = repository / "workflow" / "jipflow"
    package.mkdir(parents=True, exist_ok=True)
    code = f'__version__ = "{version}"\n\n\ndef main():\n    print(__version__)\n'
    (package / "__init__.py").write_text(code)
    (repository / "pyproject.toml").write_text(PROJECT)
    (repository / "envs").mkdir(exist_ok=True)
    pins = (ROOT / "envs" / "constraints.txt").read_text().splitlines()
    kept = [line for line in pins if line.startswith(("setuptools==", "wheel==", "packaging=="))]
    (repository / "envs" / "constraints.txt").write_text("\n".join(kept))
    script = repository / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    (repository / "not-committed").write_text("stays here")
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A", ":!not-committed"], ["commit", "-qm", version]):
        subprocess.run([*git, *words], check=True)


def forged(folder, key, members, names=None, **keys):
    """Write an archive that its maker has signed, with members as they are given."""
    files = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in members.items()
    }
    manifest = {
        **{"format": installer.FORMAT, "version": "1.0.0", "commit": "a" * 40, "extras": []},
        **{"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "files": names or files},
        **{"platform": sysconfig.get_platform(), **keys},
    }
    path = folder / f"jipflow-{manifest['version'].replace('/', '')}-{manifest['commit'][:12]}.zip"
    text = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", text)
        for name, data in members.items():
            archive.writestr(name, data)
    digests = [hashlib.sha256(data).hexdigest() for data in (path.read_bytes(), text)]
    signed = f"{installer.FORMAT}\n{digests[0]}\n{digests[1]}\n".encode()
    stated = {"format": installer.FORMAT, "sha256": digests[0], "manifest": digests[1]}
    stated["signature"] = key.sign(signed).hex()
    Path(f"{path}.sig").write_text(json.dumps(stated))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Archives of two versions, the key that signed them, and its public half."""
    folder = tmp_path_factory.mktemp("made")
    public = new_key(folder / "maker.key")
    key = load_key(folder / "maker.key")
    (folder / "models.zip").write_text("weights")
    commit(folder / "clone", "1.0.0")
    try:
        path = build_archive(
            repository=folder / "clone",
            commit="HEAD",
            extras=[],
            carried=[folder / "models.zip"],
            key=key,
            folder=folder,
        )
    except StageError as error:
        unavailable(f"no index of packages gives setuptools and wheel: {error}")
    return [path, forged(folder, key, newer(path), version="1.1.0")], key, public


def newer(path):
    """The members of an archive of the next version."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    del members["manifest.json"]
    code = "repository/workflow/jipflow/__init__.py"
    return {**members, code: members[code].replace(b"1.0.0", b"1.1.0")}


def without_network(*words, folder):
    """Run the installer in a network namespace that holds nothing, where one can be made."""
    apart = ["unshare", "--map-root-user", "--net"]
    tried = subprocess.run([*apart, "true"], capture_output=True, check=False)
    command = [*(apart if tried.returncode == 0 else []), sys.executable, "-I", str(SCRIPT), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def home(made, tmp_path_factory):
    """A site that has installed both, one after the other; what was printed is beside them."""
    paths, _, public = made
    folder = tmp_path_factory.mktemp("site")
    for path in paths:
        done = without_network(str(path), "--key", public, "--to", "opt", folder=folder)
        assert done.returncode == 0, done.stderr
        with (folder / "printed.txt").open("a") as printed:
            printed.write(done.stdout)
    return folder / "opt"


def answers(home):
    command = [str(home / "current" / ".venv" / "bin" / "jipflow")]
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_archive_holds_the_commit_its_wheels_and_what_comes_along(made):
    paths, _, _ = made
    with zipfile.ZipFile(paths[0]) as archive:
        names = archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
        assert archive.read("carried/models.zip") == b"weights"
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
    assert {name.split("/")[0] for name in names} == {
        "manifest.json",
        "repository",
        "wheels",
        "carried",
    }
    tree = {name.removeprefix("repository/") for name in names if name.startswith("repository/")}
    assert tree == {
        *("pyproject.toml", "run.sh", "envs/constraints.txt", "workflow/jipflow/__init__.py")
    }
    wheels = {name.split("/")[1].split("-")[0] for name in names if name.startswith("wheels/")}
    assert {"setuptools", "wheel"} <= wheels
    assert "jipflow" not in wheels
    assert manifest["version"] == "1.0.0"
    assert manifest["files"]["repository/run.sh"]["executable"] is True


def test_a_site_installs_without_network_and_switches_back_and_forth(made, home):
    printed = (home.parent / "printed.txt").read_text()
    assert printed.index("is signed with the key") < printed.index("unpacking")
    names = sorted(path.name for path in (home / "versions").iterdir())
    assert [name.split("-")[0] for name in names] == ["1.0.0", "1.1.0"]
    assert answers(home) == "1.1.0"
    assert (home / "current" / "carried" / "models.zip").read_text() == "weights"
    assert os.access(home / "versions" / names[0] / "run.sh", os.X_OK)
    assert not (home / "current" / "wheels").exists()
    for name, version in zip(names, ("1.0.0", "1.1.0"), strict=True):
        assert installer.main(["--to", str(home), "--use", name]) == 0
        assert answers(home) == version
        assert os.readlink(home / "current") == f"versions/{name}"


def test_an_older_archive_installs_nothing_twice_and_is_not_switched_to(made, home, capsys):
    paths, _, public = made
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*.py")}
    for path, last in zip(
        paths, ("stays current, for it is newer", "current is 1.1.0"), strict=True
    ):
        assert installer.main([str(path), "--key", public, "--to", str(home)]) == 0
        printed = capsys.readouterr().out
        assert "is installed already" in printed
        assert last in printed
        assert answers(home) == "1.1.0"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    installer.main(["--to", str(home), "--list"])
    assert "1.0.0" in capsys.readouterr().out.splitlines()[0]


def test_a_version_that_is_not_there_as_a_whole_is_none_to_switch_to(home, capsys):
    (home / "versions" / "1.2.0-cut").mkdir()
    before = os.readlink(home / "current")
    assert installer.main(["--to", str(home), "--use", "1.2.0-cut"]) == 1
    assert "'1.2.0-cut' is not installed; there are: 1.0.0-" in capsys.readouterr().err
    assert os.readlink(home / "current") == before
    (home / "versions" / "1.2.0-cut").rmdir()


def test_a_file_beside_the_installer_does_not_run(tmp_path):
    shutil.copyfile(SCRIPT, tmp_path / "install.py")
    for name in ("argparse.py", "__future__.py"):
        (tmp_path / name).write_text("print('ran')")
    words = ["install.py", "--list", "--to", str(tmp_path)]
    for options, code in (([], 1), (["-I"], 0)):
        done = subprocess.run(
            [sys.executable, *options, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (code, ""), done.stderr


def test_an_archive_under_the_name_of_another_is_refused(copy, tmp_path, capsys):
    path, _, public = copy
    other = path.with_name("jipflow-1.1.0-ba9876543210.zip")
    path.rename(other)
    Path(f"{path}.sig").rename(f"{other}.sig")
    stated = refused([other, "--key", public, "--to", tmp_path / "opt"], capsys)
    assert "is the archive of 1.0.0-" in stated
    assert not (tmp_path / "opt" / "versions").exists()


def test_a_version_that_does_not_start_is_none_to_switch_to(home, capsys):
    before = os.readlink(home / "current")
    (name,) = (each for each in installer.installed(home) if f"versions/{each}" != before)
    program = home / "versions" / name / ".venv" / "bin" / "jipflow"
    program.rename(program.with_name("away"))
    assert installer.main(["--to", str(home), "--use", name]) == 1
    program.with_name("away").rename(program)
    assert os.readlink(home / "current") == before
    (home / "versions" / name / "installed.json").rename(home / "kept")
    (home / "versions" / name / "installed.json").write_text("")
    assert name not in installer.installed(home)
    (home / "kept").rename(home / "versions" / name / "installed.json")


def refused(words, capsys):
    """The message of an installer that ends with 1."""
    assert installer.main([str(word) for word in words]) == 1
    return capsys.readouterr().err


@pytest.fixture
def copy(made, tmp_path):
    paths, key, public = made
    for name in (paths[0].name, f"{paths[0].name}.sig"):
        shutil.copyfile(paths[0].with_name(name), tmp_path / name)
    return tmp_path / paths[0].name, key, public


@pytest.mark.parametrize("place", [0, 200, -30])
def test_a_changed_byte_is_refused_before_anything_is_opened(copy, tmp_path, capsys, place):
    path, _, public = copy
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    stated = refused([path, "--key", public, "--to", tmp_path / "opt"], capsys)
    assert "is not the file that was signed" in stated
    assert not (tmp_path / "opt" / "versions").exists()


def test_another_key_no_signature_and_a_damaged_one_are_refused(copy, tmp_path, capsys):
    path, _, public = copy
    to = ["--to", tmp_path / "opt"]
    other = public_text(Ed25519PrivateKey.generate())
    assert "was not signed with the key" in refused([path, "--key", other, *to], capsys)
    assert "64 hexadecimal digits" in refused([path, "--key", "ed25519:12", *to], capsys)
    beside = path.with_name(f"{path.name}.sig")
    stated = json.loads(beside.read_text())
    for key, value in (("manifest", "0" * 64), ("signature", "0" * 128), ("format", "other")):
        beside.write_text(json.dumps({**stated, key: value}))
        assert "signature" in refused([path, "--key", public, *to], capsys) or key == "manifest"
    beside.write_text("[]")
    assert "is no signature of an archive" in refused([path, "--key", public, *to], capsys)
    beside.unlink()
    assert "is missing" in refused([path, "--key", public, *to], capsys)
    assert not (tmp_path / "opt" / "versions").exists()


@pytest.mark.parametrize(
    ("members", "keys", "message"),
    [
        ({"repository/../../x": b""}, {}, "would lie outside the folder"),
        ({"/etc/x": b""}, {}, "would lie outside the folder"),
        ({"elsewhere/x": b""}, {}, "would lie outside the folder"),
        ({"repository//x": b""}, {}, "would lie outside the folder"),
        ({"repository/installed.json": b"{}"}, {}, "of what the installation makes"),
        ({"repository/.venv/bin/jipflow": b""}, {}, "of what the installation makes"),
        ({"repository/x": b""}, {"names": {}}, "other files than its manifest names"),
        ({}, {"names": {"repository/x": {}}}, "other files than its manifest names"),
        (
            {"repository/x": b"12"},
            {"names": {"repository/x": {"size": 1, "sha256": "0" * 64}}},
            "is larger than the manifest says",
        ),
        (
            {"repository/x": b"1"},
            {"names": {"repository/x": {"size": 1, "sha256": "0" * 64}}},
            "is not what the manifest says",
        ),
        ({"repository/x": b""}, {"version": "../.."}, "version or commit is none"),
        ({"repository/x": b""}, {"python": "2.7"}, "is for Python 2.7"),
    ],
)
def test_what_a_maker_signed_by_mistake_is_refused_too(
    made, tmp_path, capsys, members, keys, message
):
    _, key, public = made
    if keys.get("names") == {}:
        keys = {**keys, "names": {"repository/y": {}}}
    path = forged(tmp_path, key, members, **keys)
    assert message in refused([path, "--key", public, "--to", tmp_path / "opt"], capsys)
    assert installer.installed(tmp_path / "opt") == []
    assert not (tmp_path / "opt" / "current").is_symlink()
    assert not (tmp_path / "x").exists()


def test_wheels_that_are_not_there_leave_the_site_as_it_was(made, tmp_path, capsys):
    _, key, public = made
    path = forged(tmp_path, key, {"repository/envs/constraints.txt": b""})
    stated = refused([path, "--key", public, "--to", tmp_path / "opt"], capsys)
    assert "failed" in stated
    assert installer.installed(tmp_path / "opt") == []
    assert not (tmp_path / "opt" / "current").exists()


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.9.0-abc", "1.10.0-abc"),
        ("1.0.0.dev0-def", "1.0.0-abc"),
        ("1.0.0rc1-def", "1.0-abc"),
        ("1.0.0-abc", "1.0.1.dev0-abc"),
    ],
)
def test_which_version_is_older(older, newer):
    assert installer.rank(older) < installer.rank(newer)
    assert installer.rank("1.0-b") == installer.rank("1.0.0-a") == installer.rank("1.0.0+x-a")


def test_the_installer_verifies_as_the_library_does():
    """Of made signatures, of such with a bit changed, and of keys of which anyone can sign."""
    chance = random.Random(7)
    for _ in range(8):
        key = Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))
        message = chance.randbytes(chance.randrange(80))
        public, signature = key.public_key().public_bytes_raw(), key.sign(message)
        assert installer.verifies(public, signature, message)
        place = chance.randrange(64 * 8)
        changed = bytearray(signature)
        changed[place // 8] ^= 1 << place % 8
        assert not installer.verifies(public, bytes(changed), message)
        assert not installer.verifies(public, signature, message + b".")
        more = int.from_bytes(signature[32:], "little") + installer.ORDER
        lengthened = signature[:32] + more.to_bytes(32, "little")
        assert not installer.verifies(public, lengthened, message)
        text = f"ed25519:{public.hex()}"
        assert not verifies(text, lengthened.hex(), message)
    for weak in WEAK:
        for signature in (bytes(64), weak + bytes(32), b"\1" + bytes(63)):
            assert not installer.verifies(weak, signature, b"")


def test_what_cannot_be_packed_is_named(made, tmp_path):
    paths, key, _ = made
    given = {"repository": paths[0].parent / "clone", "extras": [], "key": key, "folder": tmp_path}
    with pytest.raises(StageError, match=r"git .* failed: fatal"):
        build_archive(commit="no-such-tag", carried=[], **given)
    twice = [tmp_path / "a" / "m.zip", tmp_path / "b" / "m.zip"]
    with pytest.raises(StageError, match=r"Two files named m\.zip"):
        build_archive(commit="HEAD", carried=twice, **given)
    assert list(tmp_path.iterdir()) == []


def test_the_command_wants_a_key_that_is_there(tmp_path, capsys):
    assert main(["archive", "--key", str(tmp_path / "no.key"), "--out", str(tmp_path)]) == 1
    assert "make a key with: jipflow keys new" in capsys.readouterr().err
