"""Parametric maps as a role: the values that a map states, or the reason why it states none."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom.dataset import Dataset
from pydicom.uid import ParametricMapStorage

from jipflow.cases import Wanted
from jipflow.images.masks import Region, pack
from jipflow.images.series import read_planes, read_series_volume
from jipflow.objects.seg_writer import build_seg
from jipflow.objects.terms import read_terms
from jipflow.phantom import dicom
from jipflow.reasons import CaseFault, Reason
from series_factory import CT_SHAPE, mr_datasets, series_of, write

ADC = highdicom.sr.CodedConcept("113041", "DCM", "Apparent Diffusion Coefficient")
UNIT = highdicom.sr.CodedConcept("um2/s", "UCUM", "um2/s")


def mapping(
    slope: float = 1.0, intercept: float = 0.0, ends: tuple[float, float] = (0, 4095)
) -> Any:
    return RealWorldValueMapping(
        lut_label="1",
        lut_explanation="diffusion",
        unit=UNIT,
        value_range=ends,
        slope=slope,
        intercept=intercept,
        quantity_definition=ADC,
    )


def adc_map(values: np.ndarray, **scale: Any) -> Dataset:
    """A map of the shape of `CT_SHAPE` as highdicom writes it, its frames in any order."""
    return ParametricMap(
        source_images=mr_datasets(),
        pixel_array=values,
        series_instance_uid=dicom.uid("map"),
        series_number=7,
        sop_instance_uid=dicom.uid("map", 1),
        instance_number=1,
        manufacturer="Maker",
        manufacturer_model_name="Model",
        software_versions="1",
        device_serial_number="1",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping(**scale)],
        voi_lut_transformations=[VOILUTTransformation(window_center=1000, window_width=1000)],
    )


def read(dataset: Dataset, folder: Any) -> tuple[Any, list[str]]:
    notes: list[str] = []
    volume = read_series_volume(series_of(write([dataset], folder)), notes=notes)
    return volume, notes


def reason(dataset: Dataset, folder: Any) -> str:
    with pytest.raises(CaseFault) as caught:
        read(dataset, folder)
    assert caught.value.reason is Reason.MISSING_RESCALE, caught.value.message
    return caught.value.message


@pytest.fixture
def numbers() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 4096, CT_SHAPE).astype(np.uint16)


def test_whole_numbers_are_scaled_by_the_mapping(numbers: Any, tmp_path: Any) -> None:
    volume, notes = read(adc_map(numbers, slope=0.5, intercept=10), tmp_path)
    np.testing.assert_allclose(volume.array, numbers * 0.5 + 10, rtol=1e-6)
    assert notes[-1] == (
        "The values are those of Apparent Diffusion Coefficient that the map states, in um2/s."
    )
    source = read_series_volume(series_of(write(mr_datasets(), tmp_path / "source")))
    np.testing.assert_allclose(volume.grid.affine, source.grid.affine, atol=1e-4)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floating_point_numbers_are_taken_as_they_are(
    numbers: Any, kind: Any, tmp_path: Any
) -> None:
    values = (numbers / 7).astype(kind)
    volume, _ = read(adc_map(values, ends=(0.0, 4095.0)), tmp_path)
    np.testing.assert_allclose(volume.array, values, rtol=1e-6)


def test_values_outside_the_range_that_is_mapped_are_refused(numbers: Any, tmp_path: Any) -> None:
    numbers[2, 3, 4] = 4000
    numbers[numbers > 4000] = 4000
    found = reason(adc_map(numbers, ends=(0, 3999)), tmp_path)
    assert "outside 0 to 3999, which are mapped" in found


def test_a_map_of_no_mapping_or_of_two_is_refused(numbers: Any, tmp_path: Any) -> None:
    for many in (0, 2):
        dataset = adc_map(numbers)
        [shared] = dataset.SharedFunctionalGroupsSequence
        holder = shared if "RealWorldValueMappingSequence" in shared else None
        groups = [holder] if holder else list(dataset.PerFrameFunctionalGroupsSequence)
        for group in groups:
            group.RealWorldValueMappingSequence = list(group.RealWorldValueMappingSequence) * many
        found = reason(dataset, tmp_path / str(many))
        assert f"has {many} Real World Value Mappings, not one" in found


def test_a_map_in_another_unit_than_the_protocol_wants_is_refused(
    numbers: Any, tmp_path: Any
) -> None:
    series = series_of(write([adc_map(numbers)], tmp_path))
    read_series_volume(replace(series, wanted=Wanted(unit="um2/s")))
    for unit in ("mm2/s", "um2/S", "10*-6.mm2/s"):
        with pytest.raises(
            CaseFault, match=r"no image is a map in .*; they are in um2/s"
        ) as caught:
            read_series_volume(replace(series, wanted=Wanted(unit=unit)))
        assert caught.value.reason is Reason.VOLUME_NOT_FOUND
    plain = series_of(write(mr_datasets(), tmp_path / "mr"))
    with pytest.raises(CaseFault, match="none states a unit"):
        read_series_volume(replace(plain, wanted=Wanted(unit="um2/s")))


def test_a_rescale_beside_the_mapping_is_refused(numbers: Any, tmp_path: Any) -> None:
    dataset = adc_map(numbers)
    [shared] = dataset.SharedFunctionalGroupsSequence
    shared.PixelValueTransformationSequence[0].RescaleSlope = 2
    assert "has a rescale beside its Real World Value Mapping" in reason(dataset, tmp_path)


def test_maps_of_two_quantities_in_one_series_are_refused(numbers: Any, tmp_path: Any) -> None:
    dataset = adc_map(numbers)
    [shared] = dataset.SharedFunctionalGroupsSequence
    mappings = shared.RealWorldValueMappingSequence
    del shared.RealWorldValueMappingSequence
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.RealWorldValueMappingSequence = copy.deepcopy(mappings)
        [units] = group.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence
        units.CodeValue = "mm2/s" if number == 1 else "um2/s"
    with pytest.raises(CaseFault, match="holds maps of Apparent Diffusion") as caught:
        read(dataset, tmp_path)
    assert caught.value.reason is Reason.MIXED_ACQUISITIONS


def test_regions_of_a_map_are_written_and_name_its_frames(numbers: Any, tmp_path: Any) -> None:
    paths = write([adc_map(numbers)], tmp_path)
    series = series_of(paths)
    mask = np.zeros(CT_SHAPE, bool)
    mask[1, 2:5, 1:6] = True
    grid = read_series_volume(series).grid
    seg = build_seg(
        pack([Region("liver", "liver", mask, "AUTOMATIC", "threshold", "abc")], grid),
        read_planes(series),
        read_terms(),
        encoding="binary",
        description="a region of a map",
        series_number=9001,
        identity=("protocol", "regions"),
        notes=[],
    )
    [part] = seg.ReferencedSeriesSequence
    [instance] = part.ReferencedInstanceSequence
    assert instance.ReferencedSOPClassUID == ParametricMapStorage
    path = tmp_path / "seg.dcm"
    pydicom.dcmwrite(path, seg, enforce_file_format=True)
    there = highdicom.seg.segread(path).get_volume(combine_segments=False)
    expected = highdicom.VolumeGeometry(
        grid.affine,
        grid.shape,
        coordinate_system="PATIENT",
        frame_of_reference_uid=seg.FrameOfReferenceUID,
    )
    np.testing.assert_array_equal(there.match_geometry(expected).array[..., 0], mask)
