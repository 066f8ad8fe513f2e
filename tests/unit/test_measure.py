"""The stage `measure`: tables with a reason for each null, the same however the work is split."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import typed
from jipflow.cases import Case, Series
from jipflow.images.masks import Region, pack, write_segmentation
from jipflow.images.volume import volume_path, write_volume
from jipflow.outcomes import Outcome, Status
from jipflow.radiomics.measure import (
    Measured,
    Rows,
    Tables,
    _joined,
    failure_table,
    feature_table,
    run,
)
from jipflow.reasons import Reason
from jipflow.tables import FEATURE_COLUMNS
from regions import ball, grid, textured

SETTINGS = typed.settings(
    [{"id": "lesions", "engine": "nnunet"}],
    radiomics=[{"segmentation": "lesions", "role": "CT", "settings": "ibsi_config_c"}],
)
FILTERS = {"Original": {}, "Wavelet": {"wavelet": "coif1"}, "LoG": {"sigma": [2.0]}}
FILTERED = typed.settings(
    [{"id": "lesions", "engine": "nnunet"}],
    radiomics=[
        {
            "segmentation": "lesions",
            "role": "CT",
            "settings": {"imageType": FILTERS, "featureClass": {"firstorder": ["Mean"]}},
        }
    ],
)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """Five cases: the third has an empty segment, the fourth a mask elsewhere, the fifth none."""
    folder = tmp_path_factory.mktemp("shard")
    cases = []
    for number in range(5):
        case = Case(f"c{number}", f"p{number}", "s0", {"CT": Series("1", "CT", ())})
        cases.append(case)
        volume = textured(seed=number)
        write_volume(volume_path(folder / "volumes", case.case_id, "CT"), volume)
        masks = [ball(volume, (8, 20, 15), 7), ball(volume, (8, 20, 32), 6)]
        if number == 2:
            masks[1][:] = False
        regions = [
            Region(name, "lesion", mask, "MANUAL", "a person")
            for name, mask in zip(("first", "second"), masks, strict=True)
        ]
        place = volume.grid if number != 3 else grid(volume.array.shape, (3.0, 0.8, 0.9))
        write_segmentation(folder / "masks" / case.case_id / "lesions", pack(regions, place))
    return folder, cases


def measure(shard, cases, threads, settings=SETTINGS):
    folder, _ = shard
    segmented = {(case.case_id, "lesions") for case in cases if case.case_id != "c4"}
    found = run(
        cases=cases,
        segmented=segmented,
        settings=settings,
        volumes=folder / "volumes",
        masks=folder / "masks",
        threads=threads,
    )
    tables = (found.features, found.failures, found.perturbed)
    return Tables(*(table.to_pandas() for table in tables), found.outcomes)


@pytest.fixture(scope="module")
def tables(shard):
    return measure(shard, shard[1], 1)


def test_every_segment_has_a_row_and_every_null_a_reason(tables):
    features, failures, outcomes = tables.features, tables.failures, tables.outcomes
    assert [(o.case_id, o.status, o.reason) for o in outcomes] == [
        ("c0", Status.OK, ""),
        ("c1", Status.OK, ""),
        ("c2", Status.OK, ""),
        ("c3", Status.FAILED, Reason.GRID_MISMATCH),
        ("c4", Status.FAILED, Reason.DEPENDS_ON_FAILED),
    ]
    assert list(features["case_id"] + features["segment"]) == [
        f"c{number}{name}" for number in range(3) for name in ("first", "second")
    ]
    empty = features[features["voxels"] == 0]
    assert empty["measured_voxels"].tolist() == [0]
    assert empty["measured_box"].tolist() == [""]
    columns = features.columns.difference(FEATURE_COLUMNS)
    assert len(columns) > 160
    assert empty[columns].isna().all(axis=None)
    assert features.drop(empty.index)[columns].notna().all(axis=None)
    reasons = failures[["case_id", "segment", "feature", "reason"]].values.tolist()
    assert reasons == [
        ["c2", "second", "*", Reason.EMPTY_SEGMENT],
        ["c3", "*", "*", Reason.GRID_MISMATCH],
    ]
    assert "segment the series that is measured" in failures["message"][1]


def test_rows_say_what_made_them(tables):
    features = tables.features
    assert set(features["settings_sha256"].str.len()) == {64}
    (versions,) = set(features["versions"])
    for package in ("jipflow", "pyradiomics 3.0.1", "numpy", "SimpleITK"):
        assert package in versions
    row = features.iloc[0]
    assert row["volume_ml"] == pytest.approx(row["voxels"] * 3.0 * 0.8 * 0.7 / 1000)
    assert 0 < row["measured_voxels"] < row["voxels"]
    assert len(row["measured_box"].split()) == 6


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_shards_change_no_bit(shard, tables, threads):
    pieces = [shard[1]] if threads != 1 else [[case] for case in shard[1]]
    parts = [measure(shard, piece, threads) for piece in pieces]
    for name in ("features", "failures"):
        together = pd.concat([getattr(part, name) for part in parts], ignore_index=True)
        pd.testing.assert_frame_equal(together, getattr(tables, name), check_exact=True)
    statuses = [o.status for part in parts for o in part.outcomes]
    assert statuses == [o.status for o in tables.outcomes]


@pytest.mark.parametrize("threads", [2, 3])
def test_filtered_regions_are_the_same_on_any_number_of_cores(shard, threads):
    alone, split = (measure(shard, shard[1][:1], number, FILTERED) for number in (1, threads))
    pd.testing.assert_frame_equal(split.features, alone.features, check_exact=True)
    assert len(alone.features) == 2
    assert [o.message for o in split.outcomes] == [o.message for o in alone.outcomes]


@pytest.mark.parametrize("number", [0, 2, 3, 4])
def test_regions_of_a_case_that_cores_share_are_those_that_one_measures(shard, number):
    case = [shard[1][number]]
    alone, split = (measure(shard, case, threads) for threads in (1, 3))
    for name in ("features", "failures"):
        found, expected = getattr(split, name), getattr(alone, name)
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert len(split.outcomes) == 1
    (found,), (expected,) = split.outcomes, alone.outcomes
    assert (found.status, found.reason, found.message) == (
        expected.status,
        expected.reason,
        expected.message,
    )


def test_an_unknown_error_is_not_hidden_by_a_known_one_of_other_regions():
    """It is tried again, and a known one is not."""
    known, unknown = (
        Measured(0, Outcome("c", "measure", "lesions", Status.FAILED, reason.value), Rows())
        for reason in (Reason.GRID_MISMATCH, Reason.UNEXPECTED_ERROR)
    )
    (whole,) = _joined([known, unknown])
    assert whole.outcome.reason == Reason.UNEXPECTED_ERROR.value


def test_tables_have_their_columns_even_when_empty():
    assert feature_table([]).column_names == list(FEATURE_COLUMNS)
    assert len(failure_table([])) == 0
    row = {
        "case_id": "c", "patient": "p", "role": "CT", "segmentation": "s", "segment": "x",
        "voxels": 3, "volume_ml": 0.1, "measured_voxels": 3, "measured_box": "0 0 0 0 0 2",
        "settings_sha256": "0", "versions": "1", "b_feature": None, "a_feature": 1.5,
    }  # fmt: skip
    table = feature_table([row]).to_pandas()
    assert list(table.columns) == [*FEATURE_COLUMNS, "a_feature", "b_feature"]
    assert table["b_feature"].dtype == np.float64
    assert pd.isna(table["b_feature"][0])
