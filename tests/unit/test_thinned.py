"""A series of which every second slice is missing lies evenly, and is refused all the same."""

from __future__ import annotations

import pytest

from jipflow.images.series import read_series_volume
from jipflow.reasons import CaseFault, Reason
from series_factory import ct_datasets, pt_datasets, series_of, write


def read(datasets, folder):
    notes = []
    read_series_volume(series_of(write(datasets, folder)), notes=notes)
    return notes


def thinned(step, of=ct_datasets):
    return (ct_datasets((13, 4, 4)) if of is ct_datasets else of())[::step]


def setting(datasets, **values):
    for dataset in datasets:
        for key, value in values.items():
            setattr(dataset, key, value)
    return datasets


@pytest.mark.parametrize("step", [2, 3])
def test_numbers_and_thickness_prove_it(step, tmp_path):
    with pytest.raises(CaseFault) as caught:
        read(thinned(step), tmp_path)
    assert caught.value.reason is Reason.MISSING_SLICES
    assert f"InstanceNumber rises in steps of {step}" in str(caught.value)
    assert f"their distance is {step} times SliceThickness (" in str(caught.value)


def test_a_pet_by_its_number_of_slices(tmp_path):
    """Thicker than the distance, and without numbers: only the two counts are left."""
    datasets = setting(thinned(2, pt_datasets), SliceThickness=9, ImageIndex=None, NumberOfSlices=5)
    for number, dataset in enumerate(datasets):
        dataset.InstanceNumber = 1 + 2 * number
    with pytest.raises(CaseFault, match=r"has 3 slices of about 6: .*NumberOfSlices is 5"):
        read(datasets, tmp_path)


def test_a_spacing_and_a_number_of_slices_without_numbers(tmp_path):
    datasets = setting(thinned(2), InstanceNumber=None, ImagesInAcquisition=13)
    with pytest.raises(CaseFault, match="ImagesInAcquisition is 13"):
        read(datasets, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"InstanceNumber": None}, "their distance is 2 times SliceThickness"),
        ({"SliceThickness": 7.9}, "InstanceNumber rises in steps of 2"),
    ],
)
def test_one_sign_alone_is_noted(change, words, tmp_path):
    notes = read(setting(thinned(2), **change), tmp_path)
    assert len(notes) == 1
    assert notes[0].startswith("Slices may be missing: 7 are there; ")
    assert words in notes[0]


def test_a_series_that_breaks_off_is_noted(tmp_path):
    notes = read(setting(ct_datasets()[:4], ImagesInAcquisition=6), tmp_path)
    assert notes == ["Slices may be missing: 4 are there; ImagesInAcquisition is 6."]


@pytest.mark.parametrize("thickness", [4, 2, 1, 0.4, 5, None])
def test_slices_that_were_acquired_with_gaps_are_as_they_should_be(thickness, tmp_path):
    assert read(setting(ct_datasets(), SliceThickness=thickness), tmp_path) == []


@pytest.mark.parametrize("numbers", [[6, 5, 4, 3, 2, 1], [1, 4, 2, 5, 3, 6], [9, 9, 9, 9, 9, 9]])
def test_numbers_in_another_order_prove_nothing(numbers, tmp_path):
    datasets = ct_datasets()
    for dataset, number in zip(datasets, numbers, strict=True):
        dataset.InstanceNumber = number
    assert read(datasets, tmp_path) == []
