"""What each container runtime is given, flag by flag, and which one is taken."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
from pathlib import Path

import pytest

from container_images import layer_of, write_archive
from jipflow.reasons import StageError
from jipflow.segment.containers import runtimes
from jipflow.segment.containers.archive import read_image
from jipflow.segment.containers.runtimes import (
    RUNTIMES,
    Apptainer,
    Charliecloud,
    Docker,
    Podman,
    Start,
)

FOLDERS = Path("/w/in"), Path("/w/out"), Path("/w/tmp")


@pytest.fixture
def image(tmp_path):
    return write_archive(
        tmp_path / "image.tar", [layer_of({"run": b"#!"})], ["/run", "all"], ["A=b"]
    )


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Make programs that write down their arguments, one a line, and nothing else on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name, more=""):
        path = folder / name
        path.write_text(
            "#!/bin/sh\n"
            f'printf "%s\\n" "$@" > {tmp_path}/{name}.arguments\n'
            f"env > {tmp_path}/{name}.environment\n{more}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return tmp_path / f"{name}.arguments"

    return make


def user(monkeypatch, uid):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getegid", lambda: uid)


def pairs(command):
    """Return each option with its value, for options that are words of their own."""
    return list(itertools.pairwise(command))


@pytest.mark.parametrize("uid", [0, 1234])
@pytest.mark.parametrize("kind", [Podman, Docker])
def test_podman_and_docker_take_everything_away(kind, uid, image, programs, monkeypatch):
    programs(kind.program)
    user(monkeypatch, uid)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    runtime = kind(image, Path("/w"))
    runtime.prepare(False)
    command = runtime.command(Start("name", *FOLDERS, threads=3, gpu=False, memory_gb=12))
    assert command[:3] == [kind.program, "run", "--rm"]
    identifier = read_image(image).identifier
    assert command[-1] == identifier
    own = f"{uid or 65534}:{uid or 65534}"
    for pair in [
        ("--pull", "never"),
        ("--name", "name"),
        ("--network", "none"),
        ("--cap-drop", "ALL"),
        ("--security-opt", "no-new-privileges"),
        ("--user", own),
        ("--volume", "/w/in:/input:ro,Z"),
        ("--volume", "/w/out:/output:rw,Z"),
        ("--volume", "/w/tmp:/tmp:rw,Z"),
        ("--memory", "12g"),
    ]:
        assert pair in pairs(command), pair
    assert "--read-only" in command
    assert "--privileged" not in command
    assert "--env=OMP_NUM_THREADS=3" in command
    assert "--env=CUDA_VISIBLE_DEVICES=" in command
    assert not {"--gpus", "--device"} & set(command)
    if kind is Podman:
        assert {"--http-proxy=false", "--read-only-tmpfs=false"} <= set(command)
        assert (("--userns", "keep-id") in pairs(command)) == (uid != 0)
    else:
        assert ("--pids-limit", "4096") in pairs(command)
    command = runtime.command(Start("name", *FOLDERS, threads=3, gpu=True))
    gpu = ("--gpus", "all") if kind is Docker else ("--device", "nvidia.com/gpu=all")
    assert gpu in pairs(command)
    assert "--env=CUDA_VISIBLE_DEVICES=0,1" in command
    assert "--memory" not in command


def test_podman_loads_an_image_only_where_the_store_lacks_it(image, programs):
    arguments = programs("podman")
    Podman(image, Path("/w")).prepare(False)
    identifier = read_image(image).identifier
    assert arguments.read_text().split() == ["image", "inspect", identifier]
    arguments = programs("podman", 'test "$1" = load')
    with pytest.raises(StageError, match="podman image inspect"):
        Podman(image, Path("/w")).prepare(False)


@pytest.mark.parametrize("uid", [0, 1234])
@pytest.mark.parametrize("gpu", [False, True])
def test_spython_runs_apptainer_contained(uid, gpu, programs, tmp_path, monkeypatch):
    arguments = programs("singularity", 'test "$1" = --version || echo from within; exit 3')
    user(monkeypatch, uid)
    for name, value in {
        "SINGULARITY_BIND": "/secret",
        "APPTAINER_ADD_CAPS": "all",
        "APPTAINERENV_TOKEN": "secret",
        "APPTAINER_CACHEDIR": "/cache",
        "CUDA_VISIBLE_DEVICES": "2,3",
    }.items():
        monkeypatch.setenv(name, value)
    sif = tmp_path / "image.sif"
    runtime = Apptainer(sif, tmp_path / "runtime")
    runtime.prepare(gpu)
    source, target, scratch = (tmp_path / name for name in ("in", "out", "tmp"))
    for folder in (source, target, scratch):
        folder.mkdir()
    start = Start("name", source, target, scratch, threads=3, gpu=gpu)
    done = subprocess.run(
        runtime.command(start), env=runtime.environment(), capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "from within" in done.stdout
    given = arguments.read_text().splitlines()
    security = ["--security", "uid:65534", "--security", "gid:65534"] if uid == 0 else []
    assert given == [
        *["run", *(["--nv"] if gpu else [])],
        *["--bind", f"{source}:/input:ro", "--bind", f"{target}:/output:rw"],
        *["--containall", "--cleanenv", "--no-privs", "--net", "--network", "none"],
        *["--workdir", str(scratch), "--home", f"{scratch}/home:/home/algorithm"],
        *["--pwd", "/tmp", *security],
        *["--env", "OMP_NUM_THREADS=3"],
        *["--env", f"CUDA_VISIBLE_DEVICES={'2,3' if gpu else ''}"],
        str(sif),
    ]
    environment = (tmp_path / "singularity.environment").read_text()
    assert "secret" not in environment
    assert "ADD_CAPS" not in environment
    assert "APPTAINER_CACHEDIR=/cache" in environment


def test_spython_builds_from_an_archive(image, programs, tmp_path):
    more = 'case "$1" in build) touch "$2";; esac'
    arguments = programs("singularity", more)
    runtime = Apptainer(image, tmp_path / "runtime")
    runtime.prepare(False)
    sif = tmp_path / "runtime" / "image.sif"
    assert arguments.read_text().split() == ["build", str(sif), f"docker-archive:{image}"]
    assert runtime.sif == sif
    programs("singularity", "exit 1")
    sif.unlink()
    with pytest.raises(StageError, match="cannot build"):
        runtime.prepare(False)


@pytest.mark.parametrize("uid", [0, 1234])
def test_charliecloud_is_closed_in_by_namespaces(uid, image, programs, tmp_path, monkeypatch):
    programs("unshare")
    nvidia = programs("ch-fromhost")
    user(monkeypatch, uid)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    runtime = Charliecloud(image, tmp_path / "runtime")
    runtime.prepare(True)
    root = tmp_path / "runtime" / "image"
    assert nvidia.read_text().split() == ["--nvidia", str(root)]
    command = runtime.command(Start("name", *FOLDERS, threads=3, gpu=True))
    inner = command.index("ch-run")
    outer = command[:inner]
    assert {"--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child"} <= set(outer)
    assert ("--user" in outer) == (uid != 0)
    assert ("setpriv" in outer) == (uid == 0)
    if uid == 0:
        assert {"--reuid=65534", "--regid=65534", "--clear-groups"} <= set(outer)
    place = outer.index(str(root))
    assert outer[place - 1] == "/mnt"
    assert outer[place + 1 : place + 4] == [str(folder) for folder in FOLDERS]
    assert command[inner:] == [
        *["ch-run", "--uid=65534", "--gid=65534", "--cd=/tmp", "--no-passwd"],
        *["--bind=/mnt/input:/input", "--bind=/mnt/output:/output", "--bind=/mnt/tmp:/tmp"],
        *["--unset-env=*", "--env-no-expand"],
        *["--set-env=A=b", "--set-env=HOME=/tmp", "--set-env=OMP_NUM_THREADS=3"],
        *["--set-env=CUDA_VISIBLE_DEVICES=1", "/mnt/image", "--", "/run", "all"],
    ]
    assert set(runtime.environment()) == {"PATH", "USER"}
    # Results may lie where folders are gathered otherwise.
    runtime.folder = Path("/mnt/data/runtime")
    command = runtime.command(Start("name", *FOLDERS, threads=3, gpu=False))
    assert command[command.index(str(root)) - 1] in {"/media", "/srv"}
    assert "/mnt/image" not in command


def test_nobody_reaches_the_image_where_a_site_keeps_its_files_to_itself(image, programs, tmp_path):
    programs("unshare")
    before = os.umask(0o077)
    try:
        runtime = Charliecloud(image, tmp_path / "runtime")
        runtime.prepare(False)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    root = tmp_path / "runtime" / "image"
    places = [root, *root.rglob("*")]
    assert len(places) > 8
    assert [p for p in places if ~p.stat().st_mode & (0o005 if p.is_dir() else 0o004)] == []


def test_the_first_runtime_that_is_installed_and_able_is_taken(programs, monkeypatch):
    found = set()
    monkeypatch.setattr(runtimes.shutil, "which", lambda name: name if name in found else None)
    archive, sif = Path("a.tar"), Path("a.sif")
    with pytest.raises(StageError, match=r"install one of apptainer \(singularity\), podman"):
        runtimes.choose("auto", archive)
    for name in reversed(RUNTIMES):
        found.add(RUNTIMES[name].program)
        assert runtimes.choose("auto", archive) is RUNTIMES[name]
    assert list(RUNTIMES) == ["apptainer", "podman", "charliecloud", "docker"]
    assert runtimes.choose("docker", archive) is Docker
    assert runtimes.choose("auto", sif) is Apptainer
    with pytest.raises(StageError, match="podman runs no such file"):
        runtimes.choose("podman", sif)
    found.clear()
    with pytest.raises(StageError, match="no container runtime"):
        runtimes.choose("charliecloud", archive)
