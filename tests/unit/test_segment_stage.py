"""How the stage `segment` runs an engine whose cases overlap."""

from __future__ import annotations

import threading
import time
from typing import ClassVar

import numpy as np
import pytest

import typed
from jipflow.cases import Case, Series
from jipflow.images.masks import Region
from jipflow.images.series import read_series_volume
from jipflow.images.volume import Grid, Volume, volume_path, write_volume
from jipflow.outcomes import Status
from jipflow.phantom import dicom
from jipflow.phantom import grid as phantom
from jipflow.reasons import CaseFault, Reason, StageError
from jipflow.segment import stage
from jipflow.segment.channels import frames_note
from jipflow.segment.engine import Engine, Machine
from series_factory import series_of, write

SEGMENT = {"name": "all", "term": "liver", "required": True, "above": -2000}
SPEC = {"id": "all", "engine": "threshold", "role": "CT", "segments": [SEGMENT]}
SMALL = phantom.PhantomGrid((2, 4, 4), (5.0, 2.0, 2.0), (0.0, 0.0, 0.0))


class Held:
    """A case in memory; counts how many there are."""

    lock = threading.Lock()
    now = most = 0

    def __init__(self):
        with Held.lock:
            Held.now += 1
            Held.most = max(Held.most, Held.now)

    def __del__(self):
        with Held.lock:
            Held.now -= 1


class Steps(Engine):
    """Waits a while in each step, or for other cases in others, and can fail in one of them."""

    overlapped = True
    seconds = (0.0, 0.0, 0.0)
    meeting: threading.Barrier | None = None
    meets: ClassVar[set[tuple[str, str]]] = set()
    fails: ClassVar[dict[str, tuple[str, Exception]]] = {}

    def _step(self, number, inputs):
        time.sleep(self.seconds[number])
        name = ("read", "predict", "regions")[number]
        if self.meeting and (inputs.case.case_id, name) in self.meets:
            self.meeting.wait()
        step, error = self.fails.get(inputs.case.case_id, ("", None))
        if step == name:
            raise error

    def read(self, inputs):
        self._step(0, inputs)
        return Held()

    def predict(self, inputs, ready):
        assert threading.current_thread() is threading.main_thread()
        self._step(1, inputs)
        return ready

    def regions(self, inputs, found):
        self._step(2, inputs)
        yield Region("all", "liver", np.ones((2, 2, 2), bool), "AUTOMATIC", "steps")


@pytest.fixture
def run(tmp_path):
    cases = [Case(f"c{n:02d}", "p", "s1", {}) for n in range(12)]
    for case in cases:
        volume = Volume(np.zeros((2, 2, 2), np.int16), Grid((2, 2, 2), np.eye(4)))
        write_volume(volume_path(tmp_path / "volumes", case.case_id, "CT"), volume)

    def run(**settings):
        engine = Steps(typed.segmentation(SPEC), Machine(1, "cpu", tmp_path))
        for name, value in settings.items():
            setattr(engine, name, value)
        Held.now = Held.most = 0
        items = stage.segment(engine, cases, tmp_path / "volumes", tmp_path / "masks")
        return [item.outcome for item in items]

    return run


@pytest.mark.parametrize("seconds", [(0.02, 0, 0), (0, 0.02, 0), (0, 0, 0.02)])
@pytest.mark.parametrize("helpers", [1, 3])
def test_memory_holds_no_more_cases_than_promised_whichever_step_is_slow(run, seconds, helpers):
    outcomes = run(seconds=seconds, helpers=helpers)
    assert [o.case_id for o in outcomes] == [f"c{n:02d}" for n in range(12)]
    assert {o.status for o in outcomes} == {Status.OK}
    assert Held.most <= 2 * helpers + 1
    assert Held.now == 0


def test_the_steps_of_different_cases_run_side_by_side(run):
    meets = {("c04", "regions"), ("c05", "predict"), ("c06", "read")}
    outcomes = run(meeting=threading.Barrier(3, timeout=60), meets=meets)
    assert {o.status for o in outcomes} == {Status.OK}


@pytest.mark.parametrize("step", ["read", "predict", "regions"])
@pytest.mark.parametrize("error", [StageError("the device is gone"), MemoryError("no more")])
def test_what_is_not_the_fault_of_a_case_surfaces_from_every_step(run, step, error):
    threads = threading.active_count()
    with pytest.raises(type(error), match=str(error)):
        run(fails={"c04": (step, error)})
    assert threading.active_count() == threads


@pytest.mark.parametrize("step", ["read", "predict", "regions"])
def test_a_fault_of_a_case_is_its_own(run, step):
    fault = CaseFault(Reason.UNREADABLE, "half a file")
    outcomes = run(fails={"c04": (step, fault), "c11": (step, ValueError("odd"))})
    failed = {o.case_id: o.reason for o in outcomes if o.status is not Status.OK}
    assert failed == {"c04": Reason.UNREADABLE, "c11": Reason.UNEXPECTED_ERROR}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda dataset: None, False),
        (lambda dataset: setattr(dataset, "FrameOfReferenceUID", "1.2.3"), True),
        (lambda dataset: delattr(dataset, "FrameOfReferenceUID"), True),
        (None, True),
    ],
)
def test_images_of_other_frames_of_reference_are_named(tmp_path, change, named):
    paths = {}
    for role in ("CT", "PT", "MR"):
        images = dicom.ct_series(np.zeros(SMALL.shape, np.int16), SMALL)
        if role == "PT" and change:
            change(images[0])
        paths[role] = tuple(write(images, tmp_path / role))
    if change is None:
        paths["PT"][0].write_bytes(b"no DICOM")
    series = {role: Series(role, "CT", files) for role, files in paths.items()}
    case = Case("c", "p", "s1", {**series, "later": Series("1", "CT", ())})
    assert (
        "roles CT, PT do not name one frame of reference" in frames_note(case, ["CT", "PT"])
    ) == named
    for roles in (["CT", "MR"], ["PT"], ["PT", "later"]):
        assert frames_note(case, roles) == ""


def test_the_outcome_says_so_where_organs_of_another_image_are_taken(tmp_path):
    series = {}
    for role in ("CT", "PT"):
        images = dicom.ct_series(np.zeros(SMALL.shape, np.int16), SMALL)
        for image in images:
            image.FrameOfReferenceUID = dicom.uid("frame", role)
        series[role] = series_of(write(images, tmp_path / role))
        volume = read_series_volume(series[role])
        write_volume(volume_path(tmp_path / "volumes", "c", role), volume)
    organs = {**SPEC, "id": "organs"}
    place = {"segmentation": "organs", "segments": ["all"], "grow_mm": 0}
    lesions = {**organs, "id": "lesions", "role": "PT", "segments": [{**SEGMENT, "within": place}]}
    found = stage.run(
        cases=[Case("c", "p", "s1", series)],
        prepared={("c", "CT"), ("c", "PT")},
        settings=typed.settings([organs, lesions], {"processing": {"device": "cpu"}}),
        volumes=tmp_path / "volumes",
        masks=tmp_path / "masks",
        threads=1,
    )
    by_item = {outcome.item: (outcome.status, outcome.message) for outcome in found.outcomes}
    assert by_item["organs"] == (Status.OK, "")
    assert by_item["lesions"][0] is Status.OK
    assert "roles PT, CT do not name one frame of reference" in by_item["lesions"][1]


@pytest.mark.parametrize("modality", ["PT", "MR", ""])
def test_a_model_of_one_modality_sees_no_other(tmp_path, modality):
    """The filter of a role may let any modality in; a network finds a liver in all of them."""
    found = stage.run(
        cases=[Case("c", "p", "s1", {"CT": Series("1", modality, ())})],
        prepared={("c", "CT")},
        settings=typed.settings([{"id": "organs", "engine": "nnunet"}]),
        volumes=tmp_path / "volumes",
        masks=tmp_path / "masks",
        threads=1,
    )
    (outcome,) = found.outcomes
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.WRONG_MODALITY)
    assert f"is {modality or 'of no modality'}, and the model takes CT" in outcome.message


GTV = {
    "id": "gtv",
    "engine": "imported",
    "from": "RTSTRUCT",
    "role": "CT",
    "segments": [{"name": "gtv", "match": "GTV", "term": "lesion"}],
}


@pytest.fixture
def contoured(tmp_path):
    """Runs the stage on a case whose structure set a PACS has and did not give, a SEG beside it."""
    images = dicom.ct_series(np.zeros(SMALL.shape, np.int16), SMALL)
    series = series_of(write(images, tmp_path / "CT"))
    volume = read_series_volume(series)
    write_volume(volume_path(tmp_path / "volumes", "c", "CT"), volume)
    drawn = Series("1.2", "RTSTRUCT", (tmp_path / "retrieved" / "1.dcm",))
    case = Case("c", "p", "s1", {"CT": series}, (drawn,))

    def run(spec, lost):
        return stage.run(
            cases=[case],
            prepared={("c", "CT")},
            lost=lost,
            settings=typed.settings([spec]),
            volumes=tmp_path / "volumes",
            masks=tmp_path / "masks",
            threads=1,
        ).outcomes

    return run


def test_contours_that_a_pacs_did_not_give_are_no_fault_of_the_place(contoured):
    (outcome,) = contoured(GTV, {("c", "annotations")})
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.DEPENDS_ON_FAILED)
    assert "all of the RTSTRUCT of the archive is not there" in outcome.message


def test_contours_that_are_gone_from_a_disk_are_one_of_the_place(contoured):
    with pytest.raises(StageError, match=r"1\.dcm: No such file.*is mounted"):
        contoured(GTV, set())


def test_what_needs_no_contours_does_not_wait_for_them(contoured):
    (outcome,) = contoured(SPEC, {("c", "annotations")})
    assert outcome.status is Status.OK
