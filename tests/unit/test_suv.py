"""SUVbw from the header, or a refusal; never a guess."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.tag import Tag

from jipflow.images.series import read_series_volume
from jipflow.reasons import CaseFault, Reason
from series_factory import pt_datasets, series_of, write


@pytest.mark.parametrize("units", ["BQML", "GML"])
def test_suv_is_what_was_injected(tmp_path, units):
    volume = read_series_volume(series_of(write(pt_datasets(units), tmp_path)))
    assert volume.array[2, 3, 3] == pytest.approx(2.5, rel=1e-4)
    assert volume.array[0, 0, 0] == pytest.approx(5.0, rel=1e-4)


def test_decay_over_the_uptake_time_counts(tmp_path):
    def inject_a_half_life_earlier(datasets):
        for dataset in datasets:
            tracer = dataset.RadiopharmaceuticalInformationSequence[0]
            tracer.RadionuclideHalfLife = "3600"
            tracer.RadiopharmaceuticalStartTime = "080000"
            if "RadiopharmaceuticalStartDateTime" in tracer:
                del tracer.RadiopharmaceuticalStartDateTime
            dataset.SeriesTime = "100000"
            dataset.AcquisitionTime = "100000"
            dataset.SeriesDate = dataset.AcquisitionDate = "20210301"
            dataset.PatientWeight = "70"
            tracer.RadionuclideTotalDose = "280000000"
            dataset.RescaleSlope = "1"

    datasets = pt_datasets()
    stored = datasets[0].pixel_array.astype(float)
    position = float(datasets[0].ImagePositionPatient[2])
    volume = read_series_volume(series_of(write(datasets, tmp_path, inject_a_half_life_earlier)))
    k = round((position - volume.grid.affine[2, 3]) / 4.0)
    # Two half-lives: a quarter of 280 MBq is left, 70 kg are 70,000 g.
    np.testing.assert_allclose(volume.array[k], stored * 70000 / 70e6, rtol=1e-6)


def test_a_dose_given_before_midnight_is_of_the_day_before(tmp_path):
    def cross_midnight(datasets):
        for dataset in datasets:
            tracer = dataset.RadiopharmaceuticalInformationSequence[0]
            tracer.RadiopharmaceuticalStartTime = "235000"
            if "RadiopharmaceuticalStartDateTime" in tracer:
                del tracer.RadiopharmaceuticalStartDateTime
            tracer.RadionuclideHalfLife = "1200"
            tracer.RadionuclideTotalDose = "8000000"
            dataset.PatientWeight = "1"
            dataset.SeriesDate = dataset.AcquisitionDate = "20210302"
            dataset.SeriesTime = dataset.AcquisitionTime = "001000"
            dataset.RescaleSlope = "1"

    datasets = pt_datasets()
    stored = np.stack([d.pixel_array for d in datasets]).max().astype(float)
    volume = read_series_volume(series_of(write(datasets, tmp_path, cross_midnight)))
    assert volume.array.max() == pytest.approx(stored * 1000 / 4e6)


def test_philips_counts_use_the_private_factor(tmp_path):
    def add_factor(datasets):
        for dataset in datasets:
            dataset.add_new(Tag(0x7053, 0x0010), "LO", "Philips PET Private Group")
            dataset.add_new(Tag(0x7053, 0x1000), "DS", "0.002")
            dataset.RescaleSlope = "2"

    datasets = pt_datasets("CNTS")
    stored = np.stack([d.pixel_array for d in datasets]).max().astype(float)
    volume = read_series_volume(series_of(write(datasets, tmp_path, add_factor)))
    assert volume.array.max() == pytest.approx(stored * 2 * 0.002)


def set_all(**values):
    def change(datasets):
        for dataset in datasets:
            for name, value in values.items():
                setattr(dataset, name, value)

    return change


def tracer(**values):
    def change(datasets):
        for dataset in datasets:
            for name, value in values.items():
                setattr(dataset.RadiopharmaceuticalInformationSequence[0], name, value)

    return change


@pytest.mark.parametrize(
    ("units", "change", "reason"),
    [
        ("CNTS", set_all(), Reason.UNSUPPORTED_UNITS),
        ("BQML", set_all(Units="PROPCPS"), Reason.UNSUPPORTED_UNITS),
        ("BQML", set_all(Units=""), Reason.UNSUPPORTED_UNITS),
        ("GML", set_all(SUVType="LBM"), Reason.UNSUPPORTED_UNITS),
        ("BQML", set_all(CorrectedImage=["ATTN"]), Reason.UNSUPPORTED_UNITS),
        ("BQML", set_all(PatientWeight=None), Reason.MISSING_SUV_FIELD),
        ("BQML", set_all(PatientWeight="0"), Reason.MISSING_SUV_FIELD),
        ("BQML", set_all(DecayCorrection="NONE"), Reason.MISSING_SUV_FIELD),
        ("BQML", set_all(RadiopharmaceuticalInformationSequence=[]), Reason.MISSING_SUV_FIELD),
        ("BQML", tracer(RadionuclideTotalDose=None), Reason.MISSING_SUV_FIELD),
        ("BQML", tracer(RadionuclideHalfLife=None), Reason.MISSING_SUV_FIELD),
        (
            "BQML",
            tracer(RadiopharmaceuticalStartDateTime="20300101120000"),
            Reason.MISSING_SUV_FIELD,
        ),
    ],
)
def test_what_cannot_be_converted_is_refused(tmp_path, units, change, reason):
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(write(pt_datasets(units), tmp_path, change)))
    assert caught.value.reason is reason
    assert "series 2.25." in caught.value.message
