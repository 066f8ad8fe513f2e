"""Thresholds on volumes whose voxels are known, and a cohort in which some have nothing to find."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

import typed
from jipflow.cases import Case, Series
from jipflow.images.masks import Region, pack, read_segmentation, write_segmentation
from jipflow.images.series import read_series_volume
from jipflow.images.volume import Grid, Volume, volume_path, write_volume
from jipflow.objects import document, encode
from jipflow.outcomes import Status, passed
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.radiomics import measure
from jipflow.reasons import Reason
from jipflow.segment import stage
from jipflow.segment.engines.threshold.engine import (
    cut_components,
    grown,
    largest_components,
    sphere_within,
    without_components,
)
from regions import grid
from series_factory import series_of, write

GRID = grid((8, 12, 12), (5.0, 4.0, 4.0))  # 0.08 ml a voxel
KIDNEY = np.s_[2:5, 2:5, 2:5]
LIVER = np.s_[1:7, 6:11, 6:11]
BONE = np.s_[:, 0:2, :]


def protocol(*segments, **keys):
    """A protocol with organs and a segmentation by threshold, with its defaults."""
    names = ("kidney", "liver", "bone")
    organs = [{"name": n, "match": n, "term": "liver", "required": False} for n in names]
    roles = {"PT": {"where": "true"}}
    content = {
        "protocol": {"id": "p", "version": "1.0.0", "title": "p"},
        "cohort": {"where": "true", "case": {"roles": roles}},
        "segmentations": [
            {"id": "organs", "engine": "imported", "role": "PT", "segments": organs},
            {"id": "burden", "engine": "threshold", "role": "PT", "segments": [*segments], **keys},
        ],
        "radiomics": [{"segmentation": "burden", "role": "PT", "settings": "summary"}],
    }
    return content


def background(level=1.0):
    return np.full(GRID.shape, level, np.float32)


def find(tmp_path, image, segment, organs=(), on=GRID, **keys):
    """Run the stage on one case; its outcome, and the voxels found.

    The organs lie on the grid that `on` is, in the same voxels as far as it has them.
    """
    content = protocol({"name": "lesions", "term": "neoplasm", **segment}, **keys)
    spec = typed.segmentation(content["segmentations"][1])
    write_volume(volume_path(tmp_path / "volumes", "c", "PT"), Volume(image, GRID))
    boxes = {"kidney": KIDNEY, "liver": LIVER, "bone": BONE}
    regions = []
    for name in organs:
        mask = np.zeros(on.shape, bool)
        mask[boxes[name]] = True
        regions.append(Region(name, "liver", mask, "MANUAL", "test"))
    if regions:
        write_segmentation(tmp_path / "masks" / "c" / "organs", pack(regions, on))
    machine = stage.Machine(1, "cpu", tmp_path)
    engine = stage.engine_class("threshold")(spec, machine)
    case = Case("c", "c", "s00001", {"PT": Series("1.2", "PT", ())})
    (item,) = stage.segment(engine, [case], tmp_path / "volumes", tmp_path / "masks")
    if item.outcome.status is not Status.OK:
        return item.outcome, None
    found = read_segmentation(tmp_path / "masks" / "c" / "burden")
    return item.outcome, found.mask(found.segments[0])


def assert_found(found, *places):
    wanted = np.zeros(GRID.shape, bool)
    for place in places:
        wanted[place] = True
    np.testing.assert_array_equal(found, wanted)


def test_a_voxel_at_the_threshold_is_inside(tmp_path):
    image = background()
    image[1, 1, 1:4] = 3.9999, 4.0, 9.0
    _, found = find(tmp_path, image, {"above": 4.0})
    assert_found(found, np.s_[1, 1, 2:4])


def test_a_window_has_both_ends(tmp_path):
    image = background(-1000)
    image[2, 2, 2:6] = -30, -31, -190, -191
    image[3, 3, 3] = np.nan
    _, found = find(tmp_path, image, {"above": -190, "below": -30})
    assert_found(found, np.s_[2, 2, 2:5])


def test_each_lesion_is_cut_at_its_own_maximum(tmp_path):
    image = background()
    image[1, 2, 1:6] = 4.0, 8.0, 20.0, 8.3, 8.1
    image[5, 8, 1:5] = 4.0, 4.2, 10.0, 5.0
    _, found = find(tmp_path, image, {"above": 4.0, "of_maximum": 0.41})
    # 41 % of 20 is 8.2, of 10 it is 4.1.
    assert_found(found, np.s_[1, 2, 3:5], np.s_[5, 8, 2:5])


def test_a_faint_lesion_keeps_the_outline_of_the_fixed_threshold(tmp_path):
    image = background(2.5)
    image[1, 2, 1:4] = 4.0, 5.0, 3.9
    _, found = find(tmp_path, image, {"above": 4.0, "of_maximum": 0.41})
    assert_found(found, np.s_[1, 2, 1:3])


def test_voxels_that_share_a_corner_are_one_lesion(tmp_path):
    image = background()
    image[1, 1, 1] = image[2, 2, 2] = image[6, 9, 9] = 5
    _, found = find(tmp_path, image, {"above": 4.0, "smallest_ml": 0.16})
    assert_found(found, np.s_[1, 1, 1], np.s_[2, 2, 2])


def test_the_largest_are_kept_and_the_first_of_equals(tmp_path):
    image = background()
    image[0, 0, 0] = 5
    image[3, 3, 3:5] = 5
    image[5, 5, 5:7] = 5
    image[7, 9, 0:3] = 5
    _, found = find(tmp_path, image, {"above": 4.0, "largest": 2})
    assert_found(found, np.s_[3, 3, 3:5], np.s_[7, 9, 0:3])


def kidney_with_spill_and_neighbour():
    """Uptake of a kidney that spills over its outline, and a hotter lesion at its other side."""
    image = background()
    image[KIDNEY] = 10
    image[2:5, 2:5, 5] = 5
    image[7, 11, 11] = 6
    return image


def test_voxels_of_an_organ_are_taken_out(tmp_path):
    exclude = [{"segmentation": "organs", "segments": ["kidney"]}]
    image = kidney_with_spill_and_neighbour()
    _, found = find(tmp_path, image, {"above": 4, "exclude": exclude}, ["kidney"])
    assert_found(found, np.s_[2:5, 2:5, 5], np.s_[7, 11, 11])


def test_a_grown_organ_takes_its_spill_with_it(tmp_path):
    exclude = [{"segmentation": "organs", "segments": ["kidney"], "grow_mm": 4}]
    image = kidney_with_spill_and_neighbour()
    _, found = find(tmp_path, image, {"above": 4, "exclude": exclude}, ["kidney"])
    assert_found(found, np.s_[7, 11, 11])


def test_a_component_goes_with_the_organ_that_has_its_maximum(tmp_path):
    exclude = [{"segmentation": "organs", "segments": ["kidney"], "remove": "components"}]
    image = kidney_with_spill_and_neighbour()
    _, found = find(tmp_path, image, {"above": 4, "exclude": exclude}, ["kidney"])
    assert_found(found, np.s_[7, 11, 11])
    image[3, 3, 6] = 11  # now the neighbour is the hotter one
    _, found = find(tmp_path, image, {"above": 4, "exclude": exclude}, ["kidney"])
    assert_found(found, KIDNEY, np.s_[2:5, 2:5, 5], np.s_[3, 3, 6], np.s_[7, 11, 11])


def test_uptake_beyond_the_image_of_the_organs_is_noted(tmp_path):
    image = kidney_with_spill_and_neighbour()
    exclude = [{"segmentation": "organs", "segments": ["kidney"]}]
    short = Grid((4, *GRID.shape[1:]), GRID.affine)
    outcome, found = find(tmp_path, image, {"above": 4, "exclude": exclude}, ["kidney"], short)
    # The kidney's plane 4 and its spill there, and the lesion in plane 7: 13 voxels of 0.08 ml.
    assert_found(found, np.s_[2:5, 2:5, 5], np.s_[4, 2:5, 2:5], np.s_[7, 11, 11])
    assert outcome.message == (
        "lesions: 1.04 ml that reach the threshold lie beyond the image of 'organs', which has no "
        "mask there."
    )
    within = {"segmentation": "organs", "segments": ["kidney"]}
    outcome, found = find(tmp_path, image, {"above": 4, "within": within}, ["kidney"], short)
    assert_found(found, np.s_[2:4, 2:5, 2:5])
    assert "1.04 ml that reach the threshold lie beyond" in outcome.message


@pytest.mark.parametrize("key", ["within", "exclude"])
def test_organs_of_another_place_are_no_organs(tmp_path, key):
    affine = GRID.affine.copy()
    affine[:3, 3] += 500
    place = {"segmentation": "organs", "segments": ["kidney"]}
    segment = {"above": 4, key: [place] if key == "exclude" else place}
    away = Grid(GRID.shape, affine)
    outcome, _ = find(
        tmp_path, kidney_with_spill_and_neighbour(), segment, ["kidney"], away, may_be_empty=True
    )
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.IMAGES_APART)


def test_lesions_of_bone_lie_within_it(tmp_path):
    image = background()
    image[2, 0:4, 5] = 7
    within = {"segmentation": "organs", "segments": ["bone", "kidney"]}
    outcome, found = find(tmp_path, image, {"above": 3, "within": within}, ["bone"])
    assert_found(found, np.s_[2, 0:2, 5])
    assert outcome.message == "organs has no voxel of: kidney."


@pytest.mark.parametrize(
    ("formula", "threshold"),
    [("mean", 3.0), ("percist", 1.5 * 3 + 2 * 1), ("qpsma", 4.30 / 3 * (3 + 1))],
)
def test_the_liver_gives_the_threshold(tmp_path, formula, threshold):
    image = background(0)
    # Half of the voxels each: mean 3, standard deviation 1.
    image[LIVER] = np.where(np.indices((6, 5, 5)).sum(axis=0) % 2, 2, 4)
    image[0, 0, 0:3] = np.array([0.99, 1.01, 2.01]) * threshold
    reference = {"segmentation": "organs", "segment": "liver", "formula": formula}
    outcome, found = find(tmp_path, image, {"reference": reference}, ["liver"])
    np.testing.assert_array_equal(found[0, 0, 0:3], [False, True, True])
    assert outcome.message == (
        f"lesions: from {threshold:.4g} by {formula} of 'liver' of 'organs' "
        "(mean 3, SD 1, 150 voxels)."
    )
    reference["times"] = 2
    _, found = find(tmp_path, image, {"reference": reference}, ["liver"])
    assert_found(found, np.s_[0, 0, 2])


def test_the_higher_of_two_thresholds_counts(tmp_path):
    image = background(2)
    image[0, 0, 0:3] = 2.5, 3.5, 4.5
    reference = {"segmentation": "organs", "segment": "liver", "times": 2}
    _, found = find(tmp_path, image, {"above": 3, "reference": reference}, ["liver"])
    assert_found(found, np.s_[0, 0, 2])
    _, found = find(tmp_path, image, {"above": 4.2, "reference": reference}, ["liver"])
    assert_found(found, np.s_[0, 0, 2])


def test_a_sphere_is_taken_of_the_innermost(tmp_path):
    image = background(0)
    image[LIVER] = 50
    image[3, 8, 8] = 2  # the innermost voxel of the liver, the first of two
    image[0, 0, 0] = 3
    reference = {"segmentation": "organs", "segment": "liver", "sphere_mm": 2}
    segment = {"reference": reference, "below": 40}
    outcome, found = find(tmp_path, image, segment, ["liver"])
    assert_found(found, np.s_[3, 8, 8], np.s_[0, 0, 0])
    assert "(mean 2, SD 0, 1 voxels)" in outcome.message
    reference["sphere_mm"] = 200
    outcome, _ = find(tmp_path, image, {**segment, "below": 51}, ["liver"])
    assert "a sphere of 200 mm does not fit into 'liver' of 'organs'" in outcome.message
    assert "150 voxels" in outcome.message


def test_a_sphere_has_its_volume():
    fine = grid((60, 60, 60), (1.5, 1.0, 1.0))
    mask = np.zeros(fine.shape, bool)
    mask[5:50, 5:55, 8:52] = True
    found, fits = sphere_within(mask, fine, 15)
    assert fits
    assert np.count_nonzero(found) * 1.5 == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.02)
    assert not (found & ~mask).any()


@pytest.mark.parametrize("organs", [["kidney"], ["liver"]])
def test_without_a_reference_there_is_no_threshold(tmp_path, organs):
    reference = {"segmentation": "organs", "segment": "liver"}
    outcome, _ = find(tmp_path, background(0), {"reference": reference}, organs)
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.NO_REFERENCE)
    assert "'liver' of 'organs'" in outcome.message


def test_growing_goes_by_millimetres():
    mask = np.zeros(GRID.shape, bool)
    mask[4, 6, 6] = True
    np.testing.assert_array_equal(
        np.argwhere(grown(mask, GRID, 4.5)), [[4, 5, 6], [4, 6, 5], [4, 6, 6], [4, 6, 7], [4, 7, 6]]
    )
    wide = grown(mask, GRID, 9.0)
    away = np.linalg.norm((np.indices(GRID.shape).T - (4, 6, 6)) * (5.0, 4.0, 4.0), axis=-1).T
    np.testing.assert_array_equal(wide, away <= 9.0)


small = st.tuples(*(st.integers(1, 6) for _ in range(3)))
images = small.flatmap(
    lambda shape: st.tuples(
        arrays(np.int16, shape, elements=st.integers(0, 9)),
        arrays(np.bool_, shape),
        arrays(np.bool_, shape),
    )
)
CORNERS = np.ones((3, 3, 3))


@settings(max_examples=60, deadline=None)
@given(images, st.sampled_from([0.3, 0.41, 0.5, 1.0]), st.integers(1, 4))
def test_components_are_those_of_scipy(drawn, share, number):
    image, mask, place = drawn
    labels, count = ndimage.label(mask, CORNERS)
    cut, left, sizes = np.zeros_like(mask), mask.copy(), []
    for label in range(1, count + 1):
        inside = labels == label
        top = image[inside].max()
        cut |= inside & (image >= share * top)
        if (inside & place & (image == top)).any():
            left &= ~inside
        sizes.append(np.count_nonzero(inside))
    np.testing.assert_array_equal(cut_components(mask, image, share), cut)
    np.testing.assert_array_equal(without_components(mask, image, place), left)
    kept = largest_components(mask, 0, number)
    assert np.count_nonzero(kept) == sum(sorted(sizes, reverse=True)[:number])
    big = largest_components(mask, 3, None)
    assert np.count_nonzero(big) == sum(size for size in sizes if size >= 3)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two patients: one with a lesion in soft tissue and none in bone, one with none at all."""
    folder = tmp_path_factory.mktemp("cohort")
    segments = [
        {"name": "bone", "term": "neoplasm", "above": 50, "below": 60},
        {"name": "soft", "term": "neoplasm", "above": 4},
    ]
    site = {"processing": {"device": "cpu", "shard_size": 50}}
    content = protocol(*segments, may_be_empty=True)
    del content["segmentations"][0]
    made = typed.settings(**content, site_content=site)
    cases = []
    for name, uptake in (("sick", 9.0), ("well", 1.0)):
        suv = np.full((6, 12, 12), 1.0)
        suv[2:4, 3:6, 3:6] = uptake
        images = dicom.pt_series(suv, PhantomGrid.centred(suv.shape, (4.0, 3.0, 3.0)))
        series = series_of(write(images, folder / name))
        write_volume(volume_path(folder / "volumes", name, "PT"), read_series_volume(series))
        cases.append(Case(name, name, "s00001", {"PT": series}))
    prepared = {(case.case_id, "PT") for case in cases}
    found = stage.run(
        cases=cases,
        prepared=prepared,
        settings=made,
        volumes=folder / "volumes",
        masks=folder / "masks",
        threads=1,
    )
    segmented = passed(found.outcomes)
    encoded = encode.run(
        cases=cases,
        segmented=segmented,
        settings=made,
        masks=folder / "masks",
        results=folder,
        threads=1,
    )
    tables = measure.run(
        cases=cases,
        segmented=segmented,
        settings=made,
        volumes=folder / "volumes",
        masks=folder / "masks",
        threads=1,
    )
    for name in ("features", "failures"):
        getattr(tables, name).to_pandas().to_parquet(folder / f"{name}.parquet")
    ready = passed(encoded) & passed(tables.outcomes)
    documented = document.run(
        cases=cases,
        measured=ready,
        settings=made,
        features=folder / "features.parquet",
        failures=folder / "failures.parquet",
        results=folder,
        threads=1,
    )
    outcomes = [*found.outcomes, *encoded, *tables.outcomes, *documented]
    return folder, {(o.case_id, o.stage): o for o in outcomes}


def test_a_case_without_the_images_of_the_organs_is_not_concerned(tmp_path):
    organ = {"name": "body", "term": "liver", "above": -300}
    lesions = {"name": "lesions", "term": "neoplasm", "above": 4}
    within = {"segmentation": "organs", "segments": ["body"]}
    content = {
        "protocol": {"id": "p", "version": "1.0.0", "title": "p"},
        "cohort": {
            "where": "true",
            "case": {
                "roles": {"PT": {"where": "true"}, "CT": {"where": "true", "required": False}}
            },
        },
        "segmentations": [
            {"id": "organs", "engine": "threshold", "role": "CT", "segments": [organ]},
            {
                "id": "burden",
                "engine": "threshold",
                "role": "PT",
                "segments": [lesions | {"within": within}],
            },
            {"id": "hot", "engine": "threshold", "role": "PT", "segments": [lesions]},
        ],
        "radiomics": [
            {"segmentation": name, "role": "PT", "settings": "summary"}
            for name in ("burden", "hot")
        ],
    }
    site = {"processing": {"device": "cpu", "shard_size": 50}}
    made = typed.settings(**content, site_content=site)
    assert made.needed_roles("burden") == {"PT", "CT"}
    hot = background()
    hot[3, 3, 3:9] = 9
    one = Series("1", "PT", ())
    cases = [Case("both", "a", "s", {"PT": one, "CT": one}), Case("pet", "b", "s", {"PT": one})]
    for case in cases:
        for role in case.roles:
            write_volume(volume_path(tmp_path / "volumes", case.case_id, role), Volume(hot, GRID))
    prepared = {(case.case_id, role) for case in cases for role in case.roles}
    folders = {"volumes": tmp_path / "volumes", "masks": tmp_path / "masks"}
    common = {"cases": cases, "settings": made, "threads": 1}
    found = stage.run(prepared=prepared, **folders, **common).outcomes
    wanted = {("both", "organs"), ("both", "burden"), ("both", "hot"), ("pet", "hot")}
    assert {(o.case_id, o.item) for o in found} == wanted
    assert {o.status for o in found} == {Status.OK}
    tables = measure.run(segmented=passed(found), **folders, **common)
    measured = wanted - {("both", "organs")}
    assert {(o.case_id, o.item) for o in tables.outcomes} == measured
    assert {o.status for o in tables.outcomes} == {Status.OK}
    encoded = encode.run(segmented=set(), masks=folders["masks"], results=tmp_path, **common)
    assert {(o.case_id, o.item) for o in encoded} == wanted
    documented = document.run(
        measured=set(),
        features=tmp_path / "features.parquet",
        failures=tmp_path / "failures.parquet",
        results=tmp_path,
        **common,
    )
    assert {(o.case_id, o.item) for o in documented} == measured


def test_every_outcome_is_ok_and_says_what_is_not_there(cohort):
    _, outcomes = cohort
    assert {o.status for o in outcomes.values()} == {Status.OK}
    assert len(outcomes) == 8
    assert outcomes["sick", "segment"].message == "No voxel of: bone."
    assert outcomes["well", "segment"].message == "No voxel of: bone, soft."
    for name in ("encode", "document"):
        assert outcomes["well", name].outputs == []
        assert "no segment has a voxel" in outcomes["well", name].message


def test_the_burden_is_0_and_nothing_else_is(cohort):
    folder, _ = cohort
    rows = pd.read_parquet(folder / "features.parquet").set_index(["case_id", "segment"])
    assert rows.index.tolist() == [
        ("sick", "bone"),
        ("sick", "soft"),
        ("well", "bone"),
        ("well", "soft"),
    ]
    assert rows["original_uptake_MTV"].tolist() == [0, pytest.approx(18 * 0.036), 0, 0]
    assert rows["original_uptake_TLG"].tolist() == [0, pytest.approx(162 * 0.036, 1e-3), 0, 0]
    assert rows["volume_ml"].tolist() == rows["original_uptake_MTV"].tolist()
    features = [c for c in rows if c.startswith("original_") and "uptake" not in c]
    assert rows[features].notna().sum(axis=1).tolist() == [0, len(features), 0, 0]
    failures = pd.read_parquet(folder / "failures.parquet")
    assert set(zip(failures["case_id"], failures["segment"], strict=True)) == {
        ("sick", "bone"),
        ("well", "bone"),
        ("well", "soft"),
    }
    assert set(failures["reason"]) == {"empty_segment"}
    assert failures["message"].str.contains("0 by definition: original_uptake_MTV").all()


def test_dicom_objects_hold_the_segments_that_are_there(cohort):
    folder, outcomes = cohort
    assert outcomes["sick", "encode"].outputs == ["seg/sick/burden.dcm"]
    held = pydicom.dcmread(folder / "seg" / "sick" / "burden.dcm").SegmentSequence
    assert [item.SegmentLabel for item in held] == ["soft"]
    assert outcomes["sick", "document"].outputs == ["sr/sick/burden.dcm"]


def test_without_may_be_empty_nothing_found_is_a_failure(tmp_path):
    outcome, _ = find(tmp_path, background(), {"above": 4})
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.EMPTY_SEGMENTATION)
    outcome, found = find(tmp_path, background(), {"above": 4}, may_be_empty=True)
    assert outcome.status is Status.OK
    assert not found.any()
    outcome, _ = find(tmp_path, background(), {"above": 4, "required": True}, may_be_empty=True)
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.EMPTY_SEGMENT)


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ({"above": 50}, ["no voxel has an intensity from 50 to inf", "the image has 1 to 9."]),
        (
            {"above": 4, "smallest_ml": 648},
            ["the largest of 1 components has 2.16 ml, less than smallest_ml, which is 648."],
        ),
        (
            {"above": 4, "within": {"segmentation": "organs", "segments": ["kidney"]}},
            ["2.16 ml have an intensity from 4 to inf", "where within and exclude leave it"],
        ),
    ],
)
def test_a_segment_without_a_voxel_says_what_was_there(tmp_path, key, parts):
    away = np.zeros(GRID.shape, bool)
    away[0, 0, 0] = True
    organs = pack([Region("kidney", "kidney", away, "MANUAL", "test")], GRID)
    write_segmentation(tmp_path / "masks" / "c" / "organs", organs)
    image = background()
    image[2:5, 2:5, 2:5] = 9
    for more, reason in (({}, "empty_segmentation"), ({"required": True}, "empty_segment")):
        outcome, _ = find(tmp_path, image, key | more)
        assert outcome.reason == reason
        assert all(part in outcome.message for part in parts), outcome.message


def test_an_oblique_organ_is_brought_onto_the_image(tmp_path):
    """The organ's voxels stand on a grid of their own, turned by a quarter about z."""
    image = kidney_with_spill_and_neighbour()
    mask = np.zeros(GRID.shape, bool)
    mask[KIDNEY] = True
    quarter = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    turned = Volume(mask.astype(np.uint8), GRID).with_axes_of(
        Grid(GRID.shape, quarter @ GRID.affine)
    )
    assert turned.grid.shape == (8, 12, 12)
    assert not np.array_equal(turned.array, mask)
    organs = pack([Region("kidney", "kidney", turned.array > 0, "MANUAL", "test")], turned.grid)
    write_segmentation(tmp_path / "masks" / "c" / "organs", organs)
    exclude = [{"segmentation": "organs", "segments": ["kidney"]}]
    _, found = find(tmp_path, image, {"above": 4, "exclude": exclude})
    assert_found(found, np.s_[2:5, 2:5, 5], np.s_[7, 11, 11])
