"""Features are pyradiomics' own; what has none is null with a reason."""

from __future__ import annotations

import ast
import csv

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from jipflow.cases import Reason
from jipflow.config import radiomics_settings
from jipflow.images.volume import Grid, Volume
from jipflow.radiomics.measure import extract, failure_table, feature_table
from jipflow.tables import FEATURE_COLUMNS

GRID = Grid((6, 10, 12), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
CT = radiomics_settings("ct", "test")


@pytest.fixture
def volume():
    return Volume(np.random.default_rng(5).integers(-50, 150, GRID.shape).astype(np.int16), GRID)


def ball(radius=2.2):
    z, y, x = np.indices(GRID.shape)
    return (z - 3) ** 2 + (y - 5) ** 2 + (x - 6) ** 2 <= radius**2


def test_first_order_values_are_numpys(volume):
    mask = ball()
    features, failures = extract(volume, mask, CT)
    inside = volume.array[mask].astype(float)
    assert failures == []
    assert features["original_firstorder_Mean"] == pytest.approx(inside.mean(), rel=1e-12)
    assert features["original_firstorder_Variance"] == pytest.approx(inside.var(), rel=1e-12)
    assert features["original_shape_VoxelVolume"] == pytest.approx(mask.sum())
    assert len(features) > 100


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros(GRID.shape, bool), Reason.EMPTY_SEGMENT),
        (
            np.eye(1, np.prod(GRID.shape), 400).reshape(GRID.shape).astype(bool),
            Reason.MASK_TOO_SMALL,
        ),
    ],
    ids=["empty", "one voxel"],
)
def test_a_region_too_small_gives_no_value_and_a_reason(volume, mask, reason):
    features, failures = extract(volume, mask, CT)
    assert features == {}
    assert [(f.feature, f.reason) for f in failures] == [("*", reason)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_voxel_that_is_no_number_leaves_no_feature_silently_wrong(volume, value):
    broken = volume.array.astype(np.float32)
    broken[3, 5, 6] = value
    features, failures = extract(Volume(broken, GRID), ball(), CT)
    assert features == {}
    assert [(f.feature, f.reason) for f in failures] == [("*", Reason.NOT_FINITE)]
    broken[3, 5, 6], broken[0, 0, 0] = 1.0, value
    features, failures = extract(Volume(broken, GRID), ball(), CT)
    assert features
    assert failures == []


def test_tables_have_their_columns_even_when_empty():
    assert list(feature_table([]).columns) == list(FEATURE_COLUMNS)
    assert len(failure_table([])) == 0
    row = {
        "case_id": "c", "patient": "p", "role": "CT", "segmentation": "s", "segment": "x",
        "voxels": 3, "volume_ml": 0.1, "settings_sha256": "0", "b_feature": None, "a_feature": 1.5,
    }  # fmt: skip
    table = feature_table([row])
    assert list(table.columns) == [*FEATURE_COLUMNS, "a_feature", "b_feature"]
    assert table["b_feature"].dtype == np.float64
    assert pd.isna(table["b_feature"][0])


def test_values_are_the_published_baseline_of_pyradiomics(shared_data):
    folder = shared_data / "pyradiomics"
    image = sitk.ReadImage(str(folder / "brain1_image.nrrd"))
    label = sitk.ReadImage(str(folder / "brain1_label.nrrd"))
    volume, mask = Volume.from_image(image), Volume.from_image(label)
    compared = 0
    for group in ("firstorder", "shape", "glcm", "glrlm", "glszm", "gldm", "ngtdm"):
        with open(folder / "baseline" / f"baseline_{group}.csv") as stream:
            baseline = {row["featureName"]: row["brain1"] for row in csv.DictReader(stream)}
        setting = ast.literal_eval(baseline["diagnostics_Configuration_Settings"])
        parameters = {
            "imageType": {"Original": {}},
            "featureClass": {group: []},
            "setting": {**setting, "additionalInfo": False},
        }
        features, failures = extract(volume, mask.array == 1, parameters)
        assert failures == []
        for name, value in features.items():
            if name in baseline:
                assert value == pytest.approx(float(baseline[name]), rel=1e-3), name
                compared += 1
    assert compared > 90
