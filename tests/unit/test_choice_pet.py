"""Dynamic and gated PET: the frame that is wanted, in SUV by the start of the first frame."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from pydicom.uid import EnhancedPETImageStorage

from jipflow.cases import Series, Wanted
from jipflow.images.series import read_series_volume
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.reasons import CaseFault, Decision, Reason
from pet_headers import HALF_LIFE, INJECTED, START
from series_factory import enhanced, series_of, write

SHAPE = (4, 3, 4)
FRAME_S = 600


def suv_of(frame: int) -> np.ndarray:
    return np.random.default_rng(frame).uniform(0.5, 5.0, SHAPE)


def dynamic(frames: int = 3, kind: str = "DYNAMIC"):
    """A PET series of frames of ten minutes, whose decay is corrected to the start of the first."""
    grid = PhantomGrid(SHAPE, (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    study = dicom.Study(weight_kg=70.0, size_m=1.75, start=START - timedelta(minutes=12))
    injection = dicom.Injection(INJECTED, 368.08e6)
    scan = dicom.Scan(injection=injection, start=START, beds=1, bed_seconds=FRAME_S)
    series = []
    for frame in range(frames):
        for number, dataset in enumerate(dicom.pt_series(suv_of(frame), grid, study, scan=scan)):
            moment = START + timedelta(seconds=frame * FRAME_S)
            dicom.stamp(dataset, "Acquisition", moment)
            early = np.log(2) / HALF_LIFE * FRAME_S**2 / 24
            middle = (frame + 0.5) * FRAME_S - early
            dataset.FrameReferenceTime = f"{middle * 1000:.3f}"
            dataset.ActualFrameDuration = FRAME_S * 1000
            dataset.DecayFactor = f"{2.0 ** (middle / HALF_LIFE):.6f}"
            dataset.SeriesType = [kind, "IMAGE"]
            dataset.NumberOfSlices = SHAPE[0]
            dataset.NumberOfTimeSlices = frames
            dataset.ImageIndex = frame * SHAPE[0] + number + 1
            dataset.SOPInstanceUID = dicom.uid("frame", frame, number)
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            series.append(dataset)
    return series


def read(datasets, folder, **wanted):
    """Read what is wanted; returns the volume and its notes and decisions."""
    plain = series_of(write(datasets, folder))
    notes: list[str] = []
    decisions: list[Decision] = []
    role = Series(plain.series_uid, "PT", plain.paths, Wanted(**wanted))
    volume = read_series_volume(role, notes=notes, decisions=decisions)
    return volume.array, " ".join(notes), decisions


def refusal(datasets, folder, reason, **wanted) -> str:
    with pytest.raises(CaseFault) as caught:
        read(datasets, folder, **wanted)
    assert caught.value.reason is reason, caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("wanted", "frame"),
    [({"time_point": 1}, 0), ({"time_point": "last"}, 2), ({"seconds": 600, "within": 5}, 1)],
)
@pytest.mark.parametrize("known", ["index", "frame times", "acquisition times"])
def test_a_frame_comes_out_in_suv(wanted, frame, known, tmp_path):
    datasets = dynamic()
    for dataset in datasets:
        if known != "index":
            del dataset.ImageIndex
        if known == "acquisition times":
            del dataset.FrameReferenceTime
    found, notes, decisions = read(datasets, tmp_path, **wanted)
    np.testing.assert_allclose(found, suv_of(frame), rtol=1e-3)
    name = {"index": "ImageIndex", "frame times": "FrameReferenceTime"}.get(known, "Acquisition")
    assert f"time point {frame + 1}" in notes
    assert f"of 3 by {name}" in notes
    assert decisions[0] is Decision.VOLUME_CHOSEN
    assert Decision.DECAY_TO_SERIES_TIME in decisions


@pytest.mark.parametrize("late", [300, 7200])
@pytest.mark.parametrize("times", [True, False])
def test_decay_is_corrected_to_the_first_frame_whichever_is_wanted(late, times, tmp_path):
    # Series Time is that of a later export, so it is no start of the scan, even where it lies
    # before the frame that is wanted.
    datasets = dynamic()
    for dataset in datasets:
        dicom.stamp(dataset, "Series", START + timedelta(seconds=late))
        if not times:
            del dataset.FrameReferenceTime, dataset.DecayFactor
    found, _, decisions = read(datasets, tmp_path, time_point=3)
    np.testing.assert_allclose(found, suv_of(2), rtol=1e-3)
    code = Decision.DECAY_TO_FRAME_TIMES if times else Decision.DECAY_TO_FIRST_ACQUISITION
    assert code in decisions


def test_a_frame_whose_decay_was_not_corrected_is_by_its_own_time(tmp_path):
    datasets = dynamic()
    for dataset in datasets:
        dataset.DecayCorrection = "NONE"
        dataset.CorrectedImage = [word for word in dataset.CorrectedImage if word != "DECY"]
        del dataset.DecayFactor
    found, _, decisions = read(datasets, tmp_path, time_point=2)
    assert Decision.DECAY_OF_EACH_SLICE in decisions
    middle = 1.5 * FRAME_S - np.log(2) / HALF_LIFE * FRAME_S**2 / 24
    np.testing.assert_allclose(found, suv_of(1) * 2.0 ** (middle / HALF_LIFE), rtol=1e-3)


def test_decay_factors_of_another_time_are_refused(tmp_path):
    datasets = dynamic()
    for dataset in datasets:
        # As if each frame were corrected to its own start.
        dataset.DecayFactor = "1.03"
    refusal(datasets, tmp_path, Reason.CONTRADICTORY_SUV_FIELDS, time_point=3)


def test_a_gate_is_a_time_point(tmp_path):
    datasets = dynamic(kind="GATED")
    for dataset in datasets:
        dicom.stamp(dataset, "Acquisition", START)
        del dataset.FrameReferenceTime, dataset.DecayFactor, dataset.NumberOfTimeSlices
        dataset.NumberOfRRIntervals, dataset.NumberOfTimeSlots = 1, 3
    found, notes, _ = read(datasets, tmp_path / "all", time_point=2)
    np.testing.assert_allclose(found, suv_of(1), rtol=1e-3)
    assert "of 3 by ImageIndex" in notes
    for dataset in datasets:
        dataset.NumberOfRRIntervals, dataset.NumberOfTimeSlots = 2, 2
    message = refusal(datasets, tmp_path / "lost", Reason.VOLUME_NOT_FOUND, time_point="last")
    assert "no time point 4" in message


def test_a_lost_frame_is_not_replaced_by_the_next(tmp_path):
    datasets = dynamic()[SHAPE[0] :]
    message = refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, time_point=1)
    assert "its time points are 2, 3" in message
    found, _, _ = read(datasets, tmp_path, time_point=2)
    np.testing.assert_allclose(found, suv_of(1), rtol=1e-3)
    for dataset in datasets:
        del dataset.ImageIndex
    message = refusal(datasets, tmp_path, Reason.MISSING_SLICES, time_point=1)
    assert "has 2 of 3 time points" in message


def test_the_beds_of_a_whole_body_are_one_time_point(tmp_path):
    grid = PhantomGrid(SHAPE, (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    scan = dicom.Scan(injection=dicom.Injection(INJECTED, 3e8), start=START, beds=2)
    datasets = dicom.pt_series(suv_of(0), grid, scan=scan)
    found, notes, decisions = read(datasets, tmp_path, time_point=1)
    np.testing.assert_allclose(found, suv_of(0), rtol=1e-3)
    assert "time point 1 of 1" in notes
    assert Decision.VOLUME_CHOSEN not in decisions
    refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, time_point=2)


def test_beds_that_overlap_are_no_time_points(tmp_path):
    datasets = dynamic(2)
    for number, dataset in enumerate(datasets):
        dataset.SeriesType = ["WHOLE BODY", "IMAGE"]
        del dataset.NumberOfTimeSlices
        x, y, z = dataset.ImagePositionPatient
        if number >= SHAPE[0]:
            dataset.ImagePositionPatient = [x, y, float(z) + 3 * 4.0]
    message = refusal(datasets, tmp_path, Reason.MISSING_SLICES, time_point=1)
    assert "lacks 3 where others" in message


def test_a_frame_of_an_enhanced_pet_comes_out_in_suv(tmp_path):
    image = enhanced(dynamic(), EnhancedPETImageStorage)
    for number, group in enumerate(image.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence[0].TemporalPositionIndex = number // SHAPE[0] + 1
    for name in ("ImageIndex", "DecayFactor", "FrameReferenceTime", "NumberOfTimeSlices"):
        del image[name]
    found, notes, _ = read([image], tmp_path, time_point=2)
    np.testing.assert_allclose(found, suv_of(1), rtol=1e-3)
    assert "by TemporalPositionIndex" in notes


def test_black_slices_of_two_gates_are_not_taken_for_copies(tmp_path):
    datasets = dynamic(2, kind="GATED")
    for dataset in datasets:
        dicom.stamp(dataset, "Acquisition", START)
        dicom.stamp(dataset, "Content", START)
        del dataset.FrameReferenceTime, dataset.DecayFactor
        if dataset.ImageIndex % SHAPE[0] == 1:
            dataset.PixelData, dataset.RescaleSlope = bytes(len(dataset.PixelData)), "1"
    for gate in (1, 2):
        found, notes, _ = read(datasets, tmp_path, time_point=gate)
        np.testing.assert_allclose(found[1:], suv_of(gate - 1)[1:], rtol=1e-3)
        assert not found[0].any()
        assert "left out" not in notes
