"""Algorithms in containers: what they cannot do, and what becomes of the cases when they fail."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
import traceback
import uuid
from pathlib import Path

import numpy as np
import pytest

import typed
from container_images import (
    PROGRAM,
    debian_layer,
    layer_of,
    program_image,
    write_archive,
    write_registry,
)
from jipflow.cases import Case, Series
from jipflow.images.masks import read_segmentation
from jipflow.images.volume import Grid, Volume, volume_path, write_volume
from jipflow.outcomes import Status
from jipflow.reasons import CaseFault, Reason, StageError
from jipflow.segment import stage
from jipflow.segment.containers.algorithm import Algorithm
from jipflow.segment.containers.archive import read_image
from jipflow.segment.containers.contract import read_result, write_nifti
from jipflow.segment.engine import Machine
from needs import unavailable

pytestmark = pytest.mark.long

GRID = Grid((4, 5, 6), np.array([[0, 0, 2.0, -9], [0, 3.0, 0, 8], [4.0, 0, 0, 7], [0, 0, 0, 1]]))
LABELS = {"liver": 1, "spleen": 3}
USER = 23456
DEVICES = """
    console core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero
"""


def site(runtime="charliecloud", minutes=1.0):
    return {
        "processing": {"device": "cpu"},
        "containers": {"runtime": runtime, "minutes": minutes, "memory_gb": None},
    }


def machine_at(scratch, *runtime):
    return Machine(1, "cpu", scratch, containers=typed.site(**site(*runtime)).containers)


def volume(value=0):
    return Volume(np.full(GRID.shape, value, np.int16), GRID)


def save(path, image):
    """Write a volume as compressed NIfTI."""
    plain = path.with_suffix("")
    write_nifti(plain, image)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


def invalid(output, parcel):
    """Return the message about an output that is not valid."""
    with pytest.raises(CaseFault) as caught:
        read_result(output, parcel, LABELS.values(), "x")
    assert caught.value.reason is Reason.INVALID_OUTPUT
    return caught.value.message


@contextlib.contextmanager
def listeners(marker):
    """Listen on a port of this machine and on an abstract name; give both sockets."""
    with (
        socket.socket(socket.AF_INET) as port,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as name,
    ):
        port.bind(("127.0.0.1", 0))
        name.bind("\0" + marker)
        for server in (port, name):
            server.listen()
            server.setblocking(False)
        yield port, name


def lingering(marker):
    """Return the command lines of this machine's processes that name the marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            found += [words] if marker.encode() in words else []
    return found


def as_user(work):
    """Run a function as an ordinary user in a process of its own; True where it went well."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize(
    ("runtime", "ordinary"),
    [("charliecloud", False), ("charliecloud", True), ("podman", False), ("docker", False)],
    ids=["charliecloud", "charliecloud-without-root", "podman", "docker"],
)
def test_a_hostile_algorithm_gets_nowhere(runtime, ordinary, monkeypatch):
    if ordinary and os.geteuid():
        pytest.skip("this user is an ordinary one, as whom the other tests run")
    if runtime in {"podman", "docker"} and (
        not shutil.which(runtime)
        or subprocess.run([runtime, "info"], capture_output=True, check=False).returncode
    ):
        # CI has no daemon of docker.
        (pytest.skip if runtime == "docker" else unavailable)(
            f"{runtime} is not installed, or does not run"
        )
    monkeypatch.setenv("JIPFLOW_SECRET", "of the caller")
    marker = f"jipflow-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as name, listeners(marker) as (port, abstract):
        folder = Path(name)
        folder.chmod(0o755)
        secret, scratch = folder / "secret", folder / "scratch"
        secret.write_text("of the host")
        secret.chmod(0o666)
        planted = folder / "planted"
        planted.mkdir()
        save(planted / "segmentation.nii.gz", volume(1))
        scratch.mkdir()
        if ordinary:
            os.chown(scratch, USER, USER)
        host = {
            "paths": [str(secret), str(Path(__file__).resolve())],
            "links": [str(planted / "segmentation.nii.gz"), str(secret), "/input/job.json"],
            "planted": str(planted),
            "port": port.getsockname()[1],
            "marker": marker,
            "pid": os.getpid(),
        }
        program = Path(__file__).with_name("hostile.py").read_text()
        program = program.replace("@HOST@", json.dumps(host))
        everyones = tarfile.TarInfo("open")
        everyones.type, everyones.mode = tarfile.DIRTYPE, 0o777
        with tarfile.open(fileobj=io.BytesIO(debian_layer())) as layer:
            python = layer.extractfile("./usr/bin/python3.11").read()
        image = write_archive(
            folder / "hostile.tar",
            [
                debian_layer(),
                layer_of({"suid/python3.11": python}, mode=0o4755),
                layer_of({PROGRAM: program.encode()}, [everyones]),
            ],
        )
        images = [volume(value) for value in range(4)]

        def work():
            machine = machine_at(scratch, runtime)
            algorithm = Algorithm(image, machine, LABELS, "CT")
            parcels = [algorithm.parcel({"CT": one}, {"CT": "CT"}) for one in images]
            attempt = algorithm.run(parcels)
            assert attempt.ending.code == 0, attempt.ending.log
            problems = [invalid(attempt.output, parcel) for parcel in parcels]
            assert all("refused" in problem for problem in problems), problems
            algorithm.clear()
            shutil.copy(attempt.output / "report.json", scratch / "report.json")
            shutil.rmtree(attempt.output)
            for parcel, one in zip(parcels, images, strict=True):
                again = algorithm.parcel({"CT": one}, {"CT": "CT"})
                pairs = zip(
                    parcel.entry["images"].values(), again.entry["images"].values(), strict=True
                )
                for old, new in pairs:
                    before, after = (scratch / "images" / i["file"] for i in (old, new))
                    assert before.read_bytes() == after.read_bytes()

        if ordinary:
            assert as_user(work)
        else:
            work()
        if runtime != "charliecloud":
            subprocess.run([runtime, "rmi", "--force", read_image(image).identifier], check=True)
        report = json.loads((scratch / "report.json").read_text())
        owner = (scratch / "report.json").stat().st_uid
        assert secret.read_text() == "of the host"
        for server in (port, abstract):
            with pytest.raises(BlockingIOError):
                server.accept()
    assert {k: v for k, v in report["refused"].items() if v.startswith("done")} == {}
    assert len(report["refused"]) > 25
    assert report["tmp"].startswith("done")
    assert report["uid"] != 0
    assert owner == (USER if ordinary else os.geteuid())
    assert report["capabilities"] == ["0" * 16]
    assert report["interfaces"] == ["lo"]
    assert report["processes"][0] == 1
    assert report["processes"][-1] < 100
    assert not any(report["sees"].values())
    assert set(report["devices"]) <= set(DEVICES.split())
    assert report["environment"]["PATH"] == "/usr/bin:/bin"
    assert not {"JIPFLOW_SECRET", "PYTHONPATH", "VIRTUAL_ENV"} & report["environment"].keys()
    assert lingering(marker) == []
    assert not Path("/dev/shm", marker).exists()


BEHAVIOUR = """
import json, os, signal, time
from pathlib import Path
import nibabel, numpy as np

for case in json.loads(Path("/input/job.json").read_text())["cases"]:
    image = nibabel.load("/input/" + case["images"]["CT"]["file"])
    kind = int(image.dataobj[0, 0, 0])
    target = Path("/output/" + case["segmentation"])
    if kind == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == 5:
        raise ValueError("one slice")
    if kind == 6:
        raise OSError(28, os.strerror(28))
    if kind == 2:
        time.sleep(60)
    if kind == 3:
        Path("/output/" + case["error"]).write_text("no \\x1b[31mbrain\\n in the image" + 500 * "!")
        continue
    labels = np.full(image.shape, 7 if kind == 4 else 3, np.uint8)
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), target)
    print("did", case["name"])
"""
KINDS = {"a-good": 0, "b-says-no": 3, "c-wrong": 4, "d-dies": 5, "f-good": 0}
SPEC = {
    "id": "organs",
    "engine": "container",
    "model": "behaviour",
    "role": "CT",
    "inputs": [],
    "segments": [{"name": "s", "label": "spleen", "term": "spleen", "required": True}],
}


def run_stage(tmp_path, kinds):
    (tmp_path / "model").mkdir()
    image = program_image(tmp_path / "model" / "behaviour.tar", BEHAVIOUR)
    registry = write_registry(tmp_path, "behaviour", image, LABELS)
    cases = [Case(name, name, "s00001", {"CT": Series("1.2", "CT", ())}) for name in kinds]
    for name, kind in kinds.items():
        write_volume(volume_path(tmp_path / "volumes", name, "CT"), volume(kind))
    return stage.run(
        cases=cases,
        prepared={(name, "CT") for name in kinds},
        settings=typed.settings([SPEC], site(minutes=0.1), [registry]),
        volumes=tmp_path / "volumes",
        masks=tmp_path / "masks",
        threads=1,
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [(1, "was killed"), (2, "took longer"), (6, "exit code 1.*No space left on device")],
    ids=["killed", "hangs", "disk full"],
)
def test_what_the_place_does_to_an_algorithm_ends_the_job(kind, words, tmp_path):
    with pytest.raises(StageError, match=f"case b: 'behaviour' .*{words}"):
        run_stage(tmp_path, {"a": 0, "b": kind})


def test_a_case_that_takes_the_algorithm_down_fails_alone(tmp_path, capsys):
    done = run_stage(tmp_path, KINDS)
    outcomes = {outcome.case_id: outcome for outcome in done.outcomes}
    assert list(outcomes) == list(KINDS)
    for name in ("a-good", "f-good"):
        assert outcomes[name].status is Status.OK, outcomes[name].message
        found = read_segmentation(tmp_path / "masks" / name / "organs")
        assert found.mask(found.segments[0]).all()
    assert {name: o.reason for name, o in outcomes.items() if o.reason} == {
        "b-says-no": Reason.ALGORITHM_FAILED,
        "c-wrong": Reason.INVALID_OUTPUT,
        "d-dies": Reason.ALGORITHM_FAILED,
    }
    assert "says: no [31mbrain in the image!!!" in outcomes["b-says-no"].message
    assert len(outcomes["b-says-no"].message) < 300
    assert "label" in outcomes["c-wrong"].message
    assert "exit code 1" in outcomes["d-dies"].message
    assert not list((tmp_path / "masks").glob(".*"))
    # The shard; then, as it died, each that had no valid result.
    printed = capsys.readouterr().out
    assert [line.split("cases: ")[1][0] for line in printed.splitlines() if "cases: " in line] == [
        *"5111"
    ]


def test_a_run_that_is_cancelled_leaves_no_container_running(tmp_path):
    marker = f"jipflow-{uuid.uuid4().hex}"
    sleep = ["python3.11", "-c", "import time; time.sleep(60)", marker]
    image = write_archive(tmp_path / "sleep.tar", [debian_layer()], sleep)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            (tmp_path / "scratch").mkdir()
            algorithm = Algorithm(image, machine_at(tmp_path / "scratch"), LABELS, "CT")
            algorithm.run([])
        os._exit(0)
    try:
        assert within(30, lambda: len(lingering(marker)) > 1)
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
    assert within(10, lambda: not lingering(marker))


def within(seconds, condition):
    """Return whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()
