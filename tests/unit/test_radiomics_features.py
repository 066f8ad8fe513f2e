"""Regions that defeat a definition: a value, or none with a reason; never a number in its place."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import convolve
from scipy.signal import fftconvolve

from jipflow.images.volume import Volume
from jipflow.radiomics.area import Area, TooManyLevels, discretise
from jipflow.radiomics.classes import CLASSES
from jipflow.radiomics.extract import Part, extract
from jipflow.radiomics.intensities import PEAK_RADIUS, convolved
from jipflow.reasons import Reason
from regions import OWN, PYRADIOMICS, ball, grid, measured, settings, textured

ALL = (*PYRADIOMICS, *OWN)
EVERYTHING = sum(len(kind.names()) for kind in CLASSES.values())


@pytest.fixture(scope="module")
def image():
    return textured()


def voxels(volume, *places):
    mask = np.zeros(volume.array.shape, bool)
    for place in places:
        mask[place] = True
    return mask


def complete(found, expected=EVERYTHING):
    """Every feature has a finite value, or is null with one reason."""
    assert len(found.values) == expected
    nulls = sorted(name for name, value in found.values.items() if value is None)
    assert nulls == sorted(failure.feature for failure in found.failures)
    assert all(math.isfinite(v) for v in found.values.values() if v is not None)
    assert all(failure.message for failure in found.failures)
    return {failure.feature: failure.reason for failure in found.failures}


def test_a_sound_region_has_every_feature(image):
    found = measured(image, ball(image, (8, 20, 22), 10), settings(ALL, setting={"binWidth": 10}))
    assert complete(found) == {}
    assert found.voxels == ball(image, (8, 20, 22), 10).sum()
    assert found.box == "5 8 8 11 32 36"


def test_an_empty_mask(image):
    found = measured(image, np.zeros(image.array.shape, bool), settings(ALL))
    sums = {"original_uptake_MTV": 0, "original_uptake_TLG": 0}
    assert (found.values, found.voxels, found.box) == (sums, 0, "")
    assert [(f.feature, f.reason) for f in found.failures] == [("*", Reason.EMPTY_SEGMENT)]
    assert found.failures[0].message.endswith(f"0 by definition: {', '.join(sums)}.")


@pytest.mark.parametrize(
    "asked",
    [
        settings(PYRADIOMICS),
        settings(("uptake",), imageType={"LoG": {"sigma": [3.0]}}),
    ],
)
def test_an_empty_mask_has_no_sum_that_was_not_asked_for(image, asked):
    found = measured(image, np.zeros(image.array.shape, bool), asked)
    assert found.values == {}
    assert [f.message for f in found.failures] == ["The mask has no voxel."]


def test_one_voxel_has_what_one_voxel_can_have(image):
    found = measured(image, voxels(image, (3, 4, 5)), settings(ALL, setting={"binWidth": 10}))
    reasons = complete(found)
    assert set(reasons.values()) == {Reason.UNDEFINED_FEATURE}
    value = float(image.array[3, 4, 5])
    assert found.values["original_firstorder_Mean"] == value
    assert found.values["original_shape_VoxelVolume"] == pytest.approx(3.0 * 0.8 * 0.7)
    assert found.values["original_uptake_MTV"] == pytest.approx(0.00168)
    for name in (
        *("firstorder_Skewness", "glcm_Contrast", "glcm_Correlation", "shape_Elongation"),
        *("ngtdm_Coarseness", "ivh_Intensity10", "spatial_MoranI", "histogram_MaximumGradient"),
    ):
        assert f"original_{name}" in reasons


@pytest.mark.parametrize(
    "mask",
    [np.s_[8, 12:30, 10:30], np.s_[4:12, 20, 10:30], np.s_[4:12, 12:30, 22], np.s_[8, 20, 10:30]],
    ids=["one slice", "one row plane", "one column plane", "a line"],
)
def test_flat_regions(image, mask):
    found = measured(image, voxels(image, mask), settings(ALL, setting={"binWidth": 10}))
    reasons = complete(found)
    assert set(reasons) <= {
        f"original_shape_{name}" for name in ("VolumeDensityEllipsoid", "AreaDensityEllipsoid")
    }
    assert found.values["original_shape_Flatness"] == 0.0
    assert found.values["original_shape_LeastAxisLength"] == 0.0


def test_one_grey_level(image):
    flat = Volume(np.full(image.array.shape, 7, np.int16), image.grid)
    found = measured(flat, ball(flat, (8, 20, 22), 8), settings(ALL))
    reasons = complete(found)
    assert set(reasons.values()) == {Reason.UNDEFINED_FEATURE}
    assert found.values["original_firstorder_Mean"] == 7
    assert found.values["original_firstorder_Variance"] == 0
    assert found.values["original_glcm_Contrast"] == 0
    for name in ("glcm_Correlation", "glcm_MCC", "firstorder_Kurtosis", "ngtdm_Coarseness"):
        assert found.values[f"original_{name}"] is None
    normalised = settings(ALL, processing={"normalize": {}})
    found = measured(flat, ball(flat, (8, 20, 22), 8), normalised)
    assert [(f.feature, f.reason) for f in found.failures] == [("*", Reason.UNDEFINED_FEATURE)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_voxel_that_is_no_number_leaves_no_feature_silently_wrong(image, value):
    broken = image.array.astype(np.float32)
    broken[8, 20, 22] = value
    mask = ball(image, (8, 20, 22), 6)
    for keys in ({}, {"processing": {"resample": {"spacing": [1, 1, 2]}}}):
        found = measured(Volume(broken, image.grid), mask, settings(ALL, **keys))
        assert found.values == {}
        assert [(f.feature, f.reason) for f in found.failures] == [("*", Reason.NOT_FINITE)]


def test_a_voxel_outside_the_region_that_is_no_number(image):
    broken = image.array.astype(np.float32)
    mask = ball(image, (8, 20, 22), 6)
    broken[8, 20, 33] = np.nan
    assert not mask[8, 20, 33]
    images = {"Original": {}, "LoG": {"sigma": [2.0]}}
    parameters = settings(ALL, setting={"binWidth": 10}, imageType=images)
    found = measured(Volume(broken, image.grid), mask, parameters)
    reasons = {failure.feature: failure.reason for failure in found.failures}
    assert not [name for name in reasons if name.startswith("original")]
    assert all(math.isfinite(v) for v in found.values.values() if v is not None)
    filtered = [name for name in found.values if name.startswith("log-sigma-2-0-mm-3D_")]
    assert filtered
    assert {reasons[name] for name in filtered} == {Reason.NOT_FINITE}


def test_two_voxels_after_resampling_and_none(image):
    mask = voxels(image, np.s_[8:10, 20:22, 22:24])
    coarse = settings(
        ALL, processing={"resample": {"spacing": [1.4, 1.6, 6]}}, setting={"binWidth": 1}
    )
    found = measured(image, mask, coarse)
    complete(found)
    assert 1 <= found.voxels <= 2
    coarser = settings(ALL, processing={"resample": {"spacing": [9, 9, 9]}})
    found = measured(image, mask, coarser)
    assert [(f.feature, f.reason) for f in found.failures] == [("*", Reason.EMPTY_SEGMENT)]
    assert "None of the mask's 8 voxels is left" in found.failures[0].message


def test_several_components_are_one_region(image):
    both = ball(image, (4, 10, 10), 4) | ball(image, (11, 30, 32), 4)
    found = measured(image, both, settings(ALL, setting={"binWidth": 10}))
    assert complete(found) == {}
    inside = image.array[both]
    assert found.values["original_firstorder_Mean"] == pytest.approx(inside.mean())
    assert found.values["original_shape_Maximum3DDiameter"] > 25


def test_a_range_that_leaves_no_voxel(image):
    parameters = settings(ALL, processing={"resegment": {"range": [5000, None]}})
    found = measured(image, ball(image, (8, 20, 22), 8), parameters)
    assert [(f.feature, f.reason) for f in found.failures] == [("*", Reason.EMPTY_SEGMENT)]
    assert "5000" in found.failures[0].message


def test_what_leaves_the_region_counts_for_shape_alone(image):
    mask = ball(image, (8, 20, 22), 8)
    whole = measured(image, mask, settings(ALL)).values
    parameters = settings(ALL, processing={"resegment": {"range": [0, 100], "outliers": 1.5}})
    part = measured(image, mask, parameters)
    kept = image.array[mask & (image.array >= 0) & (image.array <= 100)].astype(float)
    kept = kept[np.abs(kept - kept.mean()) <= 1.5 * kept.std()]
    assert part.voxels == kept.size < mask.sum()
    assert part.values["original_firstorder_Mean"] == pytest.approx(kept.mean())
    assert part.values["original_uptake_MTV"] == pytest.approx(kept.size * 0.00168)
    for name in ("MeshVolume", "Sphericity", "Maximum3DDiameter"):
        column = f"original_shape_{name}"
        assert part.values[column] == whole[column]


@pytest.mark.parametrize("width", [0.01, 1e-9])
def test_a_tiny_bin_width_takes_no_memory(image, width):
    fine = Volume(image.array + np.random.default_rng(1).random(image.array.shape), image.grid)
    mask = ball(fine, (8, 20, 22), 10)
    found = measured(fine, mask, settings(ALL, setting={"binWidth": width}))
    reasons = complete(found)
    textures = [n for n in found.values if n.split("_")[1] in ("glcm", "glszm", "ngtdm", "gldzm")]
    assert {reasons[name] for name in textures} == {Reason.TOO_MANY_GREY_LEVELS}
    assert f"binWidth {width:g} makes" in found.failures[0].message
    assert found.values["original_firstorder_Mean"] is not None or width < 1e-6


@pytest.mark.parametrize(
    ("last", "every", "counted"), [(1023, 1, True), (1024, 1, False), (1024, 4, False)]
)
def test_1024_grey_levels_are_measured_and_no_more(last, every, counted):
    """From 0 to `last`; empty ones between them count, too."""
    volume = textured((4, 40, 40))
    mask = np.ones(volume.array.shape, bool)
    ramp = np.arange(mask.sum()).reshape(mask.shape) % (last + 1) // every * every
    found = measured(
        Volume(ramp.astype(np.int16), volume.grid), mask,
        settings(("glszm", "gldm", "ngtdm"), setting={"binWidth": 1}),
    )  # fmt: skip
    reasons = {failure.reason for failure in found.failures}
    assert reasons == (set() if counted else {Reason.TOO_MANY_GREY_LEVELS})


@pytest.mark.parametrize(("highest", "counted"), [(2**31 - 2, True), (2**31 - 1, False)])
def test_levels_are_counted_up_to_the_largest_number_of_32_bits(highest, counted):
    values = np.array([0.0, highest])
    if counted:
        assert discretise(values, {"binWidth": 1}, None).tolist() == [1, 2**31 - 1]
    else:
        with pytest.raises(TooManyLevels, match="than can be counted"):
            discretise(values, {"binWidth": 1}, None)


def test_a_quotient_of_a_negative_mean_is_one(image):
    """-3 and -1: the standard deviation 1 over the mean -2, and the quartiles' 1 over -4."""
    cold = Volume(np.full_like(image.array, -3), image.grid)
    cold.array[0, 0, 0] = -1
    named = ["CoefficientOfVariation", "QuartileCoefficientOfDispersion"]
    found = measured(
        cold, voxels(cold, (0, 0, 0), (0, 0, 1)), settings((), featureClass={"firstorder": named})
    )
    assert found.values["original_firstorder_CoefficientOfVariation"] == pytest.approx(-0.5)
    assert found.values["original_firstorder_QuartileCoefficientOfDispersion"] == pytest.approx(
        -0.25
    )


def test_one_grey_level_that_is_not_the_first_is_one_level(image):
    """Values 30 and 31 lie in the second bin from 0: no histogram has a skewness of that."""
    flat = Volume(np.full_like(image.array, 30), image.grid)
    flat.array[0, 0, 0] = 31
    found = measured(
        flat, voxels(flat, (0, 0, 0), (0, 0, 1)),
        settings((), featureClass={"histogram": ["Skewness"], "glcm": ["Correlation", "MCC"]},
                 setting={"binWidth": 25},
                 processing={"resegment": {"range": [0, 100]}}),
    )  # fmt: skip
    assert all(value is None for value in found.values.values())
    assert {failure.message for failure in found.failures} == {"the region has one grey level"}


@pytest.mark.parametrize(("outliers", "highest"), [(None, 70 / math.sqrt(8)), (2, 20)])
def test_an_image_is_normalised_by_the_standard_deviation_of_a_sample(outliers, highest):
    """Of 0 seven times and 8: the mean is 1, the variance 56 / 7 = 8."""
    array = np.zeros((2, 2, 2), np.int16)
    array[1, 1, 1] = 8
    volume = Volume(array, grid((2, 2, 2)))
    normalize = {"scale": 10} | ({} if outliers is None else {"outliers": outliers})
    named = {"firstorder": ["Minimum", "Maximum"]}
    asked = settings((), featureClass=named, processing={"normalize": normalize})
    found = measured(volume, np.ones(array.shape, bool), asked)
    assert found.values["original_firstorder_Minimum"] == pytest.approx(-10 / math.sqrt(8))
    assert found.values["original_firstorder_Maximum"] == pytest.approx(highest)


@pytest.mark.parametrize(
    ("resegment", "voxels"),
    [
        ({"range": [-1, 3]}, 8),
        ({"range": [-1, 2]}, 7),
        ({"range": [0, 3]}, 4),
        ({"outliers": 1}, 7),
        ({"range": [-1, 2], "outliers": 1}, 4),
        ({"range": [-1, 2], "outliers": 1.1}, 4),
        ({"range": [-1, 2], "outliers": 1.2}, 7),
    ],
)
def test_bounds_belong_to_a_region(resegment, voxels):
    """Of -1 four times, 1 three times and 3: mean 1/4, standard deviation 1.39.

    Without the 3, the mean is -1/7 and the standard deviation 0.9897: -1 lies 0.866 of it away, 1
    lies 1.155 of it away.
    """
    array = np.array([-1, -1, -1, -1, 1, 1, 1, 3], np.int16).reshape(2, 2, 2)
    volume = Volume(array, grid((2, 2, 2)))
    asked = settings(("firstorder",), processing={"resegment": resegment})
    assert measured(volume, np.ones(array.shape, bool), asked).voxels == voxels


def test_a_voxel_at_the_bound_of_outliers_stays():
    """Of -1 and 1 as often, the mean is 0 and the standard deviation 1."""
    array = np.array([-1, 1] * 4, np.int16).reshape(2, 2, 2)
    asked = settings(("firstorder",), processing={"resegment": {"outliers": 1}})
    found = measured(Volume(array, grid((2, 2, 2))), np.ones(array.shape, bool), asked)
    assert found.voxels == 8


def test_an_image_too_small_for_a_filter():
    volume = textured((3, 40, 40))
    parameters = settings(
        ("firstorder",), imageType={"Original": {}, "LoG": {"sigma": [2.0]}, "Wavelet": {}}
    )
    found = measured(volume, ball(volume, (1, 20, 20), 6), parameters)
    assert found.values["original_firstorder_Mean"] is not None
    assert found.values["wavelet-LLL_firstorder_Mean"] is not None
    log = [f for f in found.failures if f.feature.startswith("log-sigma-2-0-mm-3D")]
    assert {f.reason for f in log} == {Reason.UNDEFINED_FEATURE}
    assert "too small" in log[0].message


def test_regions_measured_together_are_measured_as_alone(image):
    masks = [ball(image, centre, 6) for centre in ((5, 10, 10), (7, 14, 12), (11, 30, 33))]
    images = {"Original": {}, "Wavelet": {}, "Square": {}, "Gradient": {}}
    images |= {"IBSILoG": {"sigma": [1.5]}, "IBSIMean": {"support": 5}}
    parameters = settings(ALL, imageType=images, setting={"binWidth": 10})
    together = extract(image, [Part(mask) for mask in masks], parameters)
    for mask, found in zip(masks, together, strict=True):
        alone = measured(image, mask, parameters)
        assert (found.voxels, found.box) == (alone.voxels, alone.box)
        assert found.values.keys() == alone.values.keys()
        for name, value in alone.values.items():
            assert found.values[name] == (None if value is None else pytest.approx(value, rel=1e-9))


def test_only_the_features_that_are_named(image):
    parameters = settings((), featureClass={"shape": ["MeshVolume"], "uptake": ["TLG"]})
    found = measured(image, ball(image, (8, 20, 22), 8), parameters)
    assert sorted(found.values) == ["original_shape_MeshVolume", "original_uptake_TLG"]


@pytest.mark.parametrize(
    ("values", "setting", "lowest", "expected"),
    [
        ([0, 24, 25, 49.9, 50], {"binWidth": 25}, None, [1, 1, 2, 2, 3]),
        ([-30, -26, 24], {"binWidth": 25}, None, [1, 1, 3]),
        ([-30, -26, 24], {"binWidth": 25}, -1000, [39, 39, 41]),
        ([0, 1, 2, 3, 4], {"binWidth": 25, "binCount": 4}, None, [1, 2, 3, 4, 4]),
        ([5, 5], {"binWidth": 25, "binCount": 4}, None, [1, 1]),
    ],
)
def test_grey_levels(values, setting, lowest, expected):
    levels = discretise(np.array(values, float), setting, lowest)
    assert levels.tolist() == expected


def test_grey_levels_agree_where_edges_are_too_many():
    values = np.random.default_rng(2).uniform(-300, 900, 5000)
    fine = discretise(values, {"binWidth": 0.25}, None)
    start = values.min() - values.min() % 0.25
    np.testing.assert_array_equal(fine, np.digitize(values, start + 0.25 * np.arange(6000)))
    with pytest.raises(TooManyLevels):
        discretise(values, {"binWidth": 1e-9}, None)


def test_the_peak_is_the_mean_of_one_cubic_centimetre(image):
    mask = ball(image, (8, 20, 22), 9)
    found = measured(image, mask, settings(("localintensity",)))
    reach = [int(PEAK_RADIUS // step) for step in image.grid.spacing]
    axes = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
    steps = zip(axes, image.grid.spacing, strict=True)
    sphere = (sum((a * s) ** 2 for a, s in steps) <= PEAK_RADIUS**2).astype(float)
    inside = convolve(np.ones(mask.shape), sphere, mode="constant")
    means = convolve(image.array.astype(float), sphere, mode="constant") / inside
    assert found.values["original_localintensity_GlobalPeak"] == pytest.approx(means[mask].max())
    hottest = mask & (image.array == image.array[mask].max())
    assert found.values["original_localintensity_LocalPeak"] == pytest.approx(means[hottest].max())


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [
        ((7, 9, 11), (3, 3, 3)),
        ((16, 5, 8), (31, 9, 15)),
        ((1, 4, 6), (1, 7, 5)),
        ((3, 2, 1), (15, 5, 9)),
    ],
)
def test_scipy_convolves_alike(shape, kernel):
    rng = np.random.default_rng(8)
    one, other, weights = (rng.normal(size=size) for size in (shape, shape, kernel))
    middle = tuple(slice(k // 2, k // 2 + n) for k, n in zip(kernel, shape, strict=True))
    for values, found in zip((one, other), convolved(weights, one, other), strict=True):
        whole = fftconvolve(values, weights, mode="full")
        np.testing.assert_allclose(found, whole[middle], rtol=0, atol=1e-12)


def test_likeness_is_the_sum_over_all_pairs():
    volume = textured((4, 6, 5))
    mask = np.random.default_rng(4).random(volume.array.shape) < 0.5
    found = measured(volume, mask, settings(("spatial",))).values
    x = volume.array[mask].astype(float)
    places = np.argwhere(mask) * np.array(volume.grid.spacing)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    w = np.divide(1, distance, out=np.zeros_like(distance), where=distance > 0)
    d = x - x.mean()
    moran = len(x) / w.sum() * (w * np.outer(d, d)).sum() / (d**2).sum()
    geary = (len(x) - 1) / (2 * w.sum()) * (w * np.subtract.outer(x, x) ** 2).sum() / (d**2).sum()
    assert found["original_spatial_MoranI"] == pytest.approx(moran)
    assert found["original_spatial_GearyC"] == pytest.approx(geary)


def test_zones_of_pyradiomics_kernel_are_ours(image):
    """The kernel's matrix, less its empty columns, is the one made of connected components."""
    from radiomics import cMatrices

    mask = ball(image, (8, 20, 22), 10)
    setting = settings(setting={"binWidth": 10}).setting.plain()
    part = Area(image.array.astype(float), mask, mask, image.grid.spacing, setting)
    for flat in (False, True):
        area = replace(part, setting={**part.setting, "force2D": flat})
        family = CLASSES["glszm"](area)
        theirs = cMatrices.calculate_glszm(
            area.levels.array, mask, area.levels.number, int(mask.sum()), flat, 0
        )
        rows = area.levels.present - 1
        np.testing.assert_array_equal(family.P_glszm, theirs[:, rows][:, :, family.columns - 1])
        assert family.P_glszm.sum() == theirs.sum()


def test_a_grid_that_is_turned_changes_nothing(image):
    turned = image.grid.affine.copy()
    turned[:3, :3] = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]) @ turned[:3, :3]
    other = Volume(image.array, replace(grid(image.array.shape), affine=turned))
    mask = ball(image, (8, 20, 22), 8)
    parameters = settings(ALL, setting={"binWidth": 10})
    upright, oblique = (measured(v, mask, parameters).values for v in (image, other))
    assert oblique == pytest.approx(upright, rel=1e-9)


def test_filters_of_ibsi_are_what_they_are_called(image):
    from scipy.ndimage import uniform_filter

    mask = ball(image, (8, 20, 22), 8)
    images = {"IBSIMean": {"support": 3}, "IBSILoG": {"sigma": [2.0]}, "LoG": {"sigma": [2.0]}}
    found = measured(image, mask, settings(("firstorder",), imageType=images)).values
    means = uniform_filter(image.array.astype(float), 3, mode="reflect")
    assert found["ibsi-mean-3_firstorder_Mean"] == pytest.approx(means[mask].mean())
    ours, theirs = (
        found[f"{name}_firstorder_Variance"]
        for name in ("ibsi-log-sigma-2-0-mm", "log-sigma-2-0-mm-3D")
    )
    assert 16 * ours == pytest.approx(theirs, rel=0.05)
