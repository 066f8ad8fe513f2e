"""A series in which several things come together: a localizer, several volumes, a tilt, damage."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from pydicom.uid import EnhancedMRImageStorage

from jipflow.cases import Series, Wanted
from jipflow.images import instances
from jipflow.images import series as reading
from jipflow.images.series import read_planes, read_series_volume
from jipflow.place import place_error
from jipflow.reasons import CaseFault, Decision, Reason
from series_factory import (
    as_mr,
    ct_datasets,
    ct_hu,
    enhanced,
    mosaic,
    mr_datasets,
    series_of,
    volumes,
    write,
)
from test_apart import localizer
from test_choice_pet import dynamic, suv_of

SECOND = Wanted(time_point=2)


def three_phases(*more):
    """Three volumes of the same slices, then other images of the series."""
    change = lambda dataset, number: setattr(dataset, "TemporalPositionIdentifier", number + 1)  # noqa: E731
    return [*volumes(3, change), *more]


def in_series(dataset, like):
    """Let an image be of another one's series."""
    for name in ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "FrameOfReferenceUID"):
        setattr(dataset, name, getattr(like, name))
    return dataset


def wanting(paths, wanted):
    plain = series_of(paths)
    return Series(plain.series_uid, plain.modality, plain.paths, wanted)


def read(paths, wanted=None):
    notes, decisions = [], []
    volume = read_series_volume(wanting(paths, wanted), notes=notes, decisions=decisions)
    return volume, notes, decisions


def scout(number=1):
    image = as_mr([localizer(number)])[0]
    image.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    return image


def test_a_localizer_among_phases(tmp_path):
    paths = write(three_phases(scout(), scout(2)), tmp_path)
    volume, notes, decisions = read(paths, SECOND)
    np.testing.assert_array_equal(volume.array, ct_hu(seed=1) + 1024)
    assert decisions[:2] == [Decision.IMAGES_SET_APART, Decision.VOLUME_CHOSEN]
    assert "2 localizers" in notes[0]


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_a_damaged_localizer_among_phases(tmp_path):
    paths = write(three_phases(scout()), tmp_path)
    cut(paths[-1])
    volume, _, _ = read(paths, SECOND)
    np.testing.assert_array_equal(volume.array, ct_hu(seed=1) + 1024)


def test_a_damaged_slice_of_another_phase_costs_nothing(tmp_path):
    paths = write(three_phases(), tmp_path)
    cut(paths[0])
    volume, _, _ = read(paths, SECOND)
    np.testing.assert_array_equal(volume.array, ct_hu(seed=1) + 1024)
    with pytest.raises(CaseFault) as caught:
        read(paths, Wanted(time_point=1))
    assert caught.value.reason in {Reason.TRUNCATED_PIXELS, Reason.UNREADABLE}
    assert str(paths[0]) in caught.value.message


def test_what_is_repaired_in_another_phase_is_not_of_the_one_that_is_wanted(tmp_path):
    datasets = three_phases()
    for dataset in datasets[:6]:
        del dataset.SeriesInstanceUID
    paths = write(datasets, tmp_path)
    plain = series_of(paths[6:])
    for wanted, repaired in ((1, True), (2, False)):
        notes: list[str] = []
        role = Series(plain.series_uid, "MR", tuple(paths), Wanted(time_point=wanted))
        read_series_volume(role, notes=notes)
        assert ("stand-ins" in " ".join(notes)) is repaired


def test_a_localizer_among_frames_of_pet(tmp_path):
    paths = write(dynamic(), tmp_path)
    header = read_planes(wanting(paths, SECOND))[0].header
    more = write([in_series(scout(), header)], tmp_path / "scout")
    volume, _, decisions = read([*paths, *more], SECOND)
    np.testing.assert_allclose(volume.array, suv_of(1), rtol=1e-3)
    assert Decision.IMAGES_SET_APART in decisions


def test_a_localizer_beside_a_mosaic_and_a_multi_frame_image(tmp_path):
    for name, image in {
        "mosaic": mosaic(as_mr(ct_datasets())),
        "enhanced": enhanced(mr_datasets(), EnhancedMRImageStorage),
    }.items():
        paths = write([image], tmp_path / name)
        alone, _, _ = read(paths)
        header = read_planes(wanting(paths, None))[0].header
        more = write([in_series(scout(), header)], tmp_path / f"{name}-scout")
        volume, _, decisions = read([*paths, *more])
        np.testing.assert_array_equal(volume.array, alone.array)
        assert volume.grid.matches(alone.grid)
        assert Decision.IMAGES_SET_APART in decisions


def test_phases_of_a_tilted_gantry(tmp_path):
    def tilt(datasets):
        for dataset in datasets:
            x, y, z = map(float, dataset.ImagePositionPatient)
            dataset.ImagePositionPatient = [x, y + 0.4 * z, z]

    paths = write(three_phases(), tmp_path, tilt)
    plain = write(volumes(1, lambda *_: None), tmp_path / "plain", tilt)
    volume, _, decisions = read(paths, Wanted(time_point=1))
    alone, _, _ = read(plain)
    np.testing.assert_array_equal(volume.array, alone.array)
    assert {Decision.VOLUME_CHOSEN, Decision.GANTRY_TILT_RESAMPLED} <= set(decisions)


def test_a_disk_that_goes_away_between_two_looks_is_no_fault_of_the_series(tmp_path, monkeypatch):
    paths = write(three_phases(), tmp_path)

    def gone(path, **options):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(instances, "read_instance", gone)
    with pytest.raises(CaseFault) as caught:
        read(paths, SECOND)
    assert place_error(caught.value).errno == errno.EIO


def test_a_disk_that_goes_away_at_a_localizer_is_no_reason_to_set_it_apart(tmp_path, monkeypatch):
    paths = write(three_phases(scout()), tmp_path)

    def gone(path, dataset):
        if path == paths[-1]:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return instances.planes_of(path, dataset)

    monkeypatch.setattr(reading, "planes_of", gone)
    with pytest.raises(CaseFault) as caught:
        read(paths, SECOND)
    assert place_error(caught.value).errno == errno.EIO


def test_only_the_volume_that_is_wanted_is_held(tmp_path, monkeypatch):
    paths = write(three_phases(), tmp_path)
    read_pixels = []
    read_instance = instances.read_instance

    def counted(path, **options):
        read_pixels.append(path)
        return read_instance(path, **options)

    monkeypatch.setattr(instances, "read_instance", counted)
    read(paths, SECOND)
    assert len(read_pixels) == len(paths) // 3
