"""What is measured of each segment, and which flags a protocol's expectations raise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import typed
from jipflow.cases import Case, Series
from jipflow.files import write_parquet
from jipflow.images.masks import Region, components, pack
from jipflow.images.volume import Volume, volume_path, write_volume
from jipflow.outcomes import Status
from jipflow.reasons import Flag
from jipflow.segment import stage
from jipflow.segment.quality import assess, quality_table, unexpected
from jipflow.settings.protocol import Expectation
from jipflow.settings.schema import load
from regions import grid

GRID = grid((6, 10, 10), (5.0, 2.0, 2.0))  # 0.02 ml a voxel


def image():
    """Intensities that rise along x: 0, 10, … 90."""
    return Volume(np.broadcast_to(np.arange(10) * 10, GRID.shape).astype(np.int16), GRID)


def region(name, *places, disagreement=None):
    mask = np.zeros(GRID.shape, bool)
    for place in places:
        mask[place] = True
    return Region(name, "liver", mask, "AUTOMATIC", "test", disagreement=disagreement)


def spec(**expect):
    segments = [
        {"name": n, "term": "liver", "above": 0} | ({"expect": e} if e else {})
        for n, e in expect.items()
    ]
    return typed.segmentation({"id": "organs", "engine": "threshold", "segments": segments})


def expectation(**content):
    return load(Expectation, content, "test")


def test_each_segment_is_measured_on_its_own_voxels():
    """The two overlap, and lie in boxes of each other."""
    segmentation = pack(
        [
            region("a", np.s_[1:3, 2:4, 2:4], np.s_[4, 8, 8], disagreement=0.25),
            region("b", np.s_[0:6, 5, 4]),
            region("c", np.s_[2, 2:9, 2]),
            region("d"),
        ],
        GRID,
    )
    found = assess("case", spec(b={}, a={}, d={}, e={}, c={}), segmentation, image())
    assert [row.segment for row in found] == ["b", "a", "d", "e", "c"]
    assert [row.volume_ml for row in found] == pytest.approx([0.12, 0.18, 0, 0, 0.14])
    assert [row.components for row in found] == [1, 2, 0, 0, 1]
    assert [row.touches_border for row in found] == [True, False, False, False, False]
    assert [row.mean for row in found] == [40, pytest.approx(280 / 9), None, None, 20]
    assert [row.disagreement for row in found] == [None, 0.25, None, None, None]
    assert {row.flags for row in found} == {()}


@pytest.mark.parametrize("place", [np.s_[0, 4, 4], np.s_[3, 9, 4], np.s_[3, 4, 9], np.s_[3, 0, 4]])
def test_each_face_of_the_image_is_a_border(place):
    (row,) = assess("case", spec(a={"border": False}), pack([region("a", place)], GRID), image())
    assert row.touches_border
    assert row.flags == ("touches_border",)


MEASURED = {
    "volume_ml": 10.0,
    "components": 3,
    "touches_border": True,
    "mean": 50.0,
    "disagreement": 0.2,
}


@pytest.mark.parametrize(
    ("expect", "flag"),
    [
        ({"volume_ml": [10.5, 20]}, Flag.IMPLAUSIBLE_VOLUME),
        ({"volume_ml": [0, 9.5]}, Flag.IMPLAUSIBLE_VOLUME),
        ({"intensity": [50.5, 90]}, Flag.IMPLAUSIBLE_INTENSITY),
        ({"intensity": [-10, 49.5]}, Flag.IMPLAUSIBLE_INTENSITY),
        ({"components": 2}, Flag.MANY_COMPONENTS),
        ({"border": False}, Flag.TOUCHES_BORDER),
        ({"disagreement": 0.19}, Flag.FOLDS_DISAGREE),
    ],
)
def test_what_is_not_expected_is_flagged(expect, flag):
    assert list(unexpected(expectation(**expect), MEASURED)) == [flag]


def test_what_lies_at_the_limits_is_expected():
    limits = {"volume_ml": [10, 10], "intensity": [50, 50], "components": 3, "disagreement": 0.2}
    assert list(unexpected(expectation(**limits, border=True), MEASURED)) == []
    assert list(unexpected(None, MEASURED)) == []


def test_a_segment_that_is_not_there_has_no_volume_and_no_intensity():
    segmentation = pack([region("a", np.s_[1, 1, 1])], GRID)
    expect = {"volume_ml": [1, 2], "intensity": [0, 9], "components": 1, "border": False}
    _, row = assess("case", spec(a={}, b=expect), segmentation, image())
    assert row.flags == ("implausible_volume",)
    _, row = assess("case", spec(a={}, b={**expect, "volume_ml": [0, 2]}), segmentation, image())
    assert row.flags == ()


def test_an_intensity_that_is_no_number_is_not_plausible():
    array = image().array.astype(np.float32)
    array[1, 1, 1] = np.nan
    segmentation = pack([region("a", np.s_[1, 1, 1:3])], GRID)
    (row,) = assess("case", spec(a={"intensity": [0, 99]}), segmentation, Volume(array, GRID))
    assert row.mean is None
    assert row.flags == ("implausible_intensity",)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_components_are_counted_in_boxes_of_every_shape(z, y, x, seed):
    """Even of one voxel's width, where cc3d has a fault."""
    from scipy import ndimage

    mask = np.random.default_rng(seed).random((z, y, x)) < 0.5
    labels, number = components(mask)
    expected, count = ndimage.label(mask, np.ones((3, 3, 3)))
    assert number == count
    np.testing.assert_array_equal(labels, expected)


def test_the_stage_hands_on_quality_and_flags_of_every_case(tmp_path):
    """In processes of their own as well as in one."""
    segments = [
        {"name": "low", "term": "liver", "required": True, "above": 10, "below": 20},
        {"name": "high", "term": "liver", "required": False, "above": 1000},
    ]
    for segment in segments:
        segment |= {"exclude": [], "smallest_ml": 0, "expect": {"volume_ml": [5, 6]}}
    segmentation = {"id": "s", "engine": "threshold", "role": "CT", "segments": segments}
    cases = []
    for name in ("a", "b"):
        write_volume(volume_path(tmp_path / "volumes", name, "CT"), image())
        cases.append(Case(name, name, "s00001", {"CT": Series("1.2", "CT", ())}))
    tables = []
    for threads in (1, 2):
        engine = stage.engine_class("threshold")(
            typed.segmentation(segmentation), stage.Machine(threads, "cpu", tmp_path)
        )
        items = stage.segment(engine, cases, tmp_path / "volumes", tmp_path / "masks")
        assert [item.outcome.status for item in items] == [Status.OK] * 2
        flags = ["low:implausible_volume", "high:implausible_volume"]
        assert [item.outcome.flags for item in items] == [flags] * 2
        tables.append(quality_table([row for item in items for row in item.quality]))
    assert tables[0].equals(tables[1])
    rows = tables[0].to_pylist()
    assert [(row["case_id"], row["segment"]) for row in rows] == [
        ("a", "high"),
        ("a", "low"),
        ("b", "high"),
        ("b", "low"),
    ]
    assert rows[1]["volume_ml"] == pytest.approx(2.4)
    assert rows[1]["flags"] == ["implausible_volume"]
    write_parquet(tmp_path / "quality.parquet", quality_table([]))
