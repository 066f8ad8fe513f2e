"""pyradiomics on whole images validates what is measured on parts of them."""

from __future__ import annotations

import ast
import csv
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from radiomics import featureextractor

from jipflow.images.series import read_series_volume
from jipflow.images.volume import Volume
from jipflow.radiomics.extract import Part, extract
from jipflow.reasons import Reason
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.schema import load

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from regions import PYRADIOMICS as CLASSES
from regions import ball, textured
from series_factory import series_of

IMAGES = {
    "Original": {},
    "LoG": {"sigma": [1.0, 2.5]},
    "Wavelet": {"binWidth": 20},
    "Square": {},
    "SquareRoot": {},
    "Logarithm": {},
    "Exponential": {"binWidth": 1},
    "Gradient": {"binWidth": 2},
}
CONVENTIONS = {
    "Correlation": 1.0, "Imc1": 0.0, "MCC": 1.0, "Coarseness": 1e6, "Contrast": 0.0,
    "Busyness": 0.0, "Strength": 0.0, "Skewness": 0.0, "Kurtosis": 0.0,
}  # fmt: skip
"""What pyradiomics gives where a definition divides by 0."""


def theirs(volume, mask, images, setting):
    logging.getLogger("radiomics").setLevel(logging.CRITICAL)
    extractor = featureextractor.RadiomicsFeatureExtractor(
        {
            "imageType": images,
            "featureClass": {name: [] for name in CLASSES},
            "setting": {**setting, "additionalInfo": False},
        }
    )
    label = Volume(mask.astype(np.uint8), volume.grid).image()
    return {name: float(v) for name, v in extractor.execute(volume.image(), label).items()}


def compare(volume, masks, images, setting, processing=None, tolerance=1e-6, **peer):
    """Hold every feature of pyradiomics against ours; return how many were equal."""
    classes = {name: [] for name in CLASSES}
    content = {"imageType": images, "featureClass": classes, "setting": setting}
    parameters = load(
        Radiomics, content | ({"processing": processing} if processing else {}), "test"
    )
    equal = 0
    for mask, found in zip(
        masks, extract(volume, [Part(mask) for mask in masks], parameters), strict=True
    ):
        reasons = {failure.feature: failure.reason for failure in found.failures}
        for name, value in theirs(volume, mask, images, {**setting, **peer}).items():
            ours = found.values[name]
            if ours is None:
                assert reasons[name] == Reason.UNDEFINED_FEATURE
                assert CONVENTIONS[name.split("_")[-1]] == pytest.approx(value), name
            else:
                assert ours == pytest.approx(value, rel=tolerance, abs=1e-12), name
                equal += 1
    return equal


@pytest.fixture
def image():
    return textured((20, 48, 52))


def test_every_filter_equals_pyradiomics_on_the_whole_image(image):
    masks = [ball(image, centre, radius) for centre, radius in
             (((9, 22, 22), 8), ((10, 28, 26), 6), ((12, 10, 40), 6))]  # fmt: skip
    assert compare(image, masks, IMAGES, {"binWidth": 5}) > 3 * 1400


@pytest.mark.parametrize("corner", [(0, 0, 0), (18, 46, 50)])
def test_a_region_at_the_corner_of_an_odd_image_too(corner):
    odd = textured((19, 47, 51))
    assert compare(odd, [ball(odd, corner, 9)], IMAGES, {"binWidth": 5}) > 1400


@pytest.mark.parametrize(
    "setting",
    [
        {"binCount": 16},
        {"binWidth": 5, "force2D": True},
        {"binWidth": 5, "weightingNorm": "no_weighting"},
        {"binWidth": 5, "weightingNorm": "euclidean"},
        {"binWidth": 5, "distances": [1, 2]},
        {"binWidth": 5, "symmetricalGLCM": False, "gldm_a": 2, "voxelArrayShift": 100},
    ],
    ids=str,
)
def test_every_setting_equals_pyradiomics(image, setting):
    wavelet = {"wavelet": "db2", "level": 2, "start_level": 1}
    if "binWidth" in setting:
        wavelet["binWidth"] = 60
    images = {"Original": {}, "Wavelet": wavelet}
    assert compare(image, [ball(image, (9, 22, 22), 8)], images, setting) > 700


def test_a_normalised_image_equals_pyradiomics(image):
    mask = ball(image, (9, 22, 22), 8)
    peer = {"normalize": True, "normalizeScale": 100, "removeOutliers": 2.0}
    processing = {"normalize": {"scale": 100, "outliers": 2.0}}
    assert compare(image, [mask], {"Original": {}}, {"binWidth": 10}, processing, **peer) > 100


def test_one_grey_level_has_reasons_where_pyradiomics_has_conventions(image):
    mask = ball(image, (9, 22, 22), 8)
    assert compare(image, [mask], {"Original": {}}, {"binWidth": 10000}) > 90


def test_an_oblique_image_equals_pyradiomics(image):
    turned = image.image()
    turned.SetDirection((0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 1))
    volume = Volume.from_image(turned)
    images = {"Original": {}, "LoG": {"sigma": [2.0]}, "Wavelet": {}}
    assert compare(volume, [ball(volume, (9, 22, 22), 8)], images, {"binWidth": 5}) > 900


@pytest.mark.parametrize(
    ("patient", "modality", "width"),
    [("STS_003", "CT", 25), ("STS_019", "PET", 0.25), ("STS_008", "MR_T1", 20)],
)
def test_real_patients_equal_pyradiomics(shared_data, patient, modality, width):
    files = (shared_data / "sarcoma" / patient / modality / "image").glob("*.dcm")
    volume = read_series_volume(series_of(files))
    label = sitk.ReadImage(str(shared_data / "sarcoma" / "masks" / patient / f"{modality}.nii.gz"))
    mask = sitk.GetArrayFromImage(label) > 0
    images = {"Original": {}, "LoG": {"sigma": [2.0, 4.0]}, "Wavelet": {}}
    assert compare(volume, [mask], images, {"binWidth": width}) > 1000


def test_values_are_the_published_baseline_of_pyradiomics(shared_data):
    folder = shared_data / "pyradiomics"
    image = sitk.ReadImage(str(folder / "brain1_image.nrrd"))
    label = sitk.ReadImage(str(folder / "brain1_label.nrrd"))
    volume, mask = Volume.from_image(image), Volume.from_image(label).array == 1
    known = load(Radiomics, {"featureClass": {"glcm": []}}, "test").setting.plain()
    compared = 0
    for group in CLASSES:
        with open(folder / "baseline" / f"baseline_{group}.csv") as stream:
            baseline = {row["featureName"]: row["brain1"] for row in csv.DictReader(stream)}
        setting = ast.literal_eval(baseline["diagnostics_Configuration_Settings"])
        kept = {key: value for key, value in setting.items() if key in known}
        parameters = load(Radiomics, {"featureClass": {group: []}, "setting": kept}, "baseline")
        (found,) = extract(volume, [Part(mask)], parameters)
        assert found.failures == []
        for name, value in found.values.items():
            if name in baseline:
                assert value == pytest.approx(float(baseline[name]), rel=1e-3), name
                compared += 1
    assert compared > 90
