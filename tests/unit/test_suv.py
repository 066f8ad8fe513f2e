"""A PET series becomes SUV by its header, or is refused; never a guess. From files to voxels."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.tag import Tag

from jipflow.cases import Case
from jipflow.images import prepare
from jipflow.images.series import read_series_volume
from jipflow.images.suv.bodies import SuvType
from jipflow.images.volume import read_volume, volume_path
from jipflow.outcomes import Status, read_outcomes, write_outcomes
from jipflow.reasons import CaseFault, Decision, Reason
from pet_headers import fields, nuclide, together, tracer
from series_factory import pt_datasets, series_of, write

GALLIUM = together(nuclide("C-131A3", "^68^Gallium"), tracer(RadionuclideHalfLife="4062.6"))
NITROGEN = together(nuclide("C-107A1", "^13^Nitrogen"), tracer(RadionuclideHalfLife="600"))


def injected(clock, dose):
    return tracer(
        RadiopharmaceuticalStartTime=clock,
        RadiopharmaceuticalStartDateTime=None,
        RadionuclideTotalDose=dose,
    )


def scanned(date, clock):
    return fields(
        SeriesDate=date,
        AcquisitionDate=date,
        SeriesTime=clock,
        AcquisitionTime=clock,
        RescaleSlope="1",
    )


@pytest.mark.parametrize("units", ["BQML", "GML"])
def test_suv_is_what_was_injected(tmp_path, units):
    volume = read_series_volume(series_of(write(pt_datasets(units), tmp_path)))
    assert volume.array[2, 3, 3] == pytest.approx(2.5, rel=1e-4)
    assert volume.array[0, 0, 0] == pytest.approx(5.0, rel=1e-4)


def test_decay_over_the_uptake_time_counts(tmp_path):
    datasets = pt_datasets()
    stored = datasets[0].pixel_array.astype(float)
    position = float(datasets[0].ImagePositionPatient[2])
    change = together(
        GALLIUM,
        injected("080000", "280000000"),
        # Two half-lives of 67.71 min.
        scanned("20210301", "101525.2"),
        fields(PatientWeight="70", DecayFactor=None),
    )
    volume = read_series_volume(series_of(write(datasets, tmp_path, change)))
    k = round((position - volume.grid.affine[2, 3]) / 4.0)
    # A quarter of 280 MBq is left, 70 kg are 70,000 g.
    np.testing.assert_allclose(volume.array[k], stored * 70000 / 70e6, rtol=1e-6)


def test_a_dose_given_before_midnight_is_of_the_day_before(tmp_path):
    datasets = pt_datasets()
    stored = np.stack([d.pixel_array for d in datasets]).max().astype(float)
    change = together(
        NITROGEN,
        injected("235000", "800000000"),
        scanned("20210302", "001000"),
        fields(PatientWeight="70", DecayFactor=None),
    )
    volume = read_series_volume(series_of(write(datasets, tmp_path, change)))
    # Twenty minutes are two half-lives.
    assert volume.array.max() == pytest.approx(stored * 70000 / 200e6)


def test_philips_counts_use_the_private_factor(tmp_path):
    def add_factor(datasets):
        for dataset in datasets:
            dataset.Manufacturer = "Philips Medical Systems"
            dataset.add_new(Tag(0x7053, 0x0010), "LO", "Philips PET Private Group")
            dataset.add_new(Tag(0x7053, 0x1000), "DS", "0.002")
            dataset.RescaleSlope = "2"

    datasets = pt_datasets("CNTS")
    stored = np.stack([d.pixel_array for d in datasets]).max().astype(float)
    volume = read_series_volume(series_of(write(datasets, tmp_path, add_factor)))
    assert volume.array.max() == pytest.approx(stored * 2 * 0.002)


def test_suv_of_another_type_is_asked_for(tmp_path):
    notes, decisions = [], []
    series = series_of(write(pt_datasets(), tmp_path, fields(PatientSex="F")))
    volume = read_series_volume(series, suv=SuvType.LBMJANMA, notes=notes, decisions=decisions)
    # 75 kg and 1.75 m, a body mass index of 24.49.
    lean = 9270 * 75 / (8780 + 244 * 75 / 1.75**2)
    assert volume.array[2, 3, 3] == pytest.approx(2.5 * lean / 75, rel=1e-4)
    assert decisions == [Decision.DECAY_TO_SERIES_TIME]
    assert len(notes) == 3
    assert "SUVlbmjanma is Bq/ml times" in notes[-1]


@pytest.mark.parametrize(("ratio", "good"), [(1.99, True), (2.01, False)])
@pytest.mark.parametrize("units", ["BQML", "GML"])
def test_an_image_holds_no_more_activity_than_was_injected(tmp_path, units, ratio, good):
    # SUVbw summed over all millilitres is the weight of 75 kg, and twice that is too much.
    datasets = pt_datasets(units)
    voxel_ml = 4.0 * 5.0 * 5.0 / 1000
    total = 2.5 * (5 * 6 * 7 + 1) * voxel_ml

    def swell(datasets):
        for dataset in datasets:
            slope = float(dataset.RescaleSlope) * ratio * 75_000 / total
            dataset.RescaleSlope = f"{slope:.10g}"

    series = series_of(write(datasets, tmp_path, swell))
    if good:
        read_series_volume(series)
    else:
        with pytest.raises(CaseFault) as caught:
            read_series_volume(series)
        assert caught.value.reason is Reason.IMPLAUSIBLE_SUV_FIELD
        assert "holds 2.01 times the activity" in caught.value.message


@pytest.mark.parametrize(
    ("kind", "greatest", "good"),
    [
        (SuvType.BW, 0.101, True),
        (SuvType.BW, 0.099, False),
        (SuvType.BSA, 0.0263, True),
        (SuvType.BSA, 0.0257, False),
    ],
)
def test_an_image_without_uptake_is_in_another_unit(tmp_path, kind, greatest, good):
    def stored(datasets):
        for dataset in datasets:
            dataset.Units, dataset.SUVType = kind.units, kind.value
            dataset.RescaleSlope = f"{float(dataset.RescaleSlope) * greatest / 5:.10g}"

    series = series_of(write(pt_datasets("GML"), tmp_path, stored))
    if good:
        assert read_series_volume(series, suv=kind).array.max() == pytest.approx(greatest, rel=1e-3)
    else:
        with pytest.raises(CaseFault) as caught:
            read_series_volume(series, suv=kind)
        assert caught.value.reason is Reason.IMPLAUSIBLE_SUV_FIELD
        assert "kBq/ml" in caught.value.message


def test_without_a_weight_the_activity_is_not_compared(tmp_path):
    def swell(datasets):
        fields(PatientWeight=None, RescaleSlope="1e6")(datasets)

    read_series_volume(series_of(write(pt_datasets("GML"), tmp_path, swell)))


def test_each_slice_keeps_its_own_rescale(tmp_path):
    def halve(datasets):
        for dataset in datasets[::2]:
            dataset.RescaleSlope = str(float(dataset.RescaleSlope) / 2)

    volume = read_series_volume(series_of(write(pt_datasets(), tmp_path, halve)))
    assert sorted({round(float(v), 3) for v in volume.array[:, 3, 3]}) == [1.25, 2.5]


def test_an_outcome_has_its_decisions_and_their_ground(tmp_path):
    series = series_of(write(pt_datasets(), tmp_path / "pt"))
    [outcome] = prepare.run(
        cases=[Case("case1", "p1", "s00001", {"PT": series})],
        lost=set(),
        suv={"PT": SuvType.BSA},
        volumes=tmp_path / "volumes",
        threads=1,
    )
    assert (outcome.status, outcome.decisions) == (Status.OK, ["decay_to_series_time"])
    assert "SUVbsa is Bq/ml times" in outcome.message
    write_outcomes(tmp_path / "outcomes.parquet", [outcome])
    assert read_outcomes(tmp_path / "outcomes.parquet") == [outcome]
    volume = read_volume(volume_path(tmp_path / "volumes", "case1", "PT"))
    surface = 0.007184 * 75**0.425 * 175**0.725 * 1e4
    assert volume.array[2, 3, 3] == pytest.approx(2.5 * surface / 75e3, rel=1e-4)


@pytest.mark.parametrize(
    ("units", "change", "reason"),
    [
        ("CNTS", fields(), Reason.UNSUPPORTED_UNITS),
        ("BQML", fields(Units="PROPCPS"), Reason.UNSUPPORTED_UNITS),
        ("BQML", fields(Units=""), Reason.UNSUPPORTED_UNITS),
        ("GML", fields(SUVType="BSA"), Reason.UNSUPPORTED_UNITS),
        ("BQML", fields(CorrectedImage=["ATTN"]), Reason.UNSUPPORTED_UNITS),
        ("BQML", fields(PatientWeight=""), Reason.MISSING_SUV_FIELD),
        ("BQML", fields(DecayCorrection="NONE"), Reason.CONTRADICTORY_SUV_FIELDS),
        ("BQML", tracer(RadionuclideTotalDose="280"), Reason.IMPLAUSIBLE_SUV_FIELD),
        ("BQML", tracer(RadionuclideHalfLife=None), Reason.MISSING_SUV_FIELD),
    ],
)
def test_what_cannot_be_converted_is_refused(tmp_path, units, change, reason):
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(write(pt_datasets(units), tmp_path, change)))
    assert caught.value.reason is reason
    assert "series 2.25." in caught.value.message
