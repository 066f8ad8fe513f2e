"""Changed outlines are what they say, the same each time, and their agreement is an ICC."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from jipflow.agreement import intraclass_correlation
from jipflow.collect import stability
from jipflow.images.volume import Volume
from jipflow.radiomics.extract import Part, extract, extract_perturbed
from jipflow.radiomics.grid import MeasuringGrid
from jipflow.radiomics.perturb import perturbations, reach
from jipflow.settings.protocol import Stability
from regions import ball, settings, textured

ASKED = Stability(translate=[1.5], grow=[-0.2, 0.2], contours=3)
SHAPE = settings(("shape", "firstorder"), setting={"binWidth": 10})


@pytest.fixture(scope="module")
def lesion():
    """A ball in noise that is as strong, and its mask."""
    volume = textured((20, 48, 52))
    mask = ball(volume, (10, 24, 26), 9)
    return Volume((volume.array + 60 * mask).astype(np.int16), volume.grid), mask


def changed(lesion, seed="case lesions x", asked=ASKED):
    """Each changed outline as a mask of the whole image."""
    volume, mask = lesion
    grid = MeasuringGrid.of(volume.grid, (None, None, None))
    box = tuple(slice(int(p.min()), int(p.max()) + 1) for p in np.nonzero(mask))
    wide = grid.widened(box, reach(mask[box], grid, asked))
    image = volume.array[wide].astype(float)
    found = {}
    for name, (outline, place) in perturbations(mask[box], box, grid, image, wide, asked, seed):
        found[name] = np.zeros(mask.shape, bool)
        found[name][place] = outline
    return found


def test_outlines_are_moved_by_whole_voxels(lesion):
    _, mask = lesion
    found = changed(lesion)
    # 1.5 mm are half a slice of 3 mm, which rounds to none, and two voxels of 0.8 and of 0.7 mm.
    moved = [name for name in found if name.startswith("translate")]
    assert moved == [f"translate {axis}{sign}1.5 mm" for axis in "yx" for sign in "-+"]
    np.testing.assert_array_equal(found["translate y-1.5 mm"], np.roll(mask, -2, axis=1))
    np.testing.assert_array_equal(found["translate x+1.5 mm"], np.roll(mask, 2, axis=2))


def test_an_outline_that_leaves_the_image_is_cut():
    volume = textured((6, 20, 20))
    mask = ball(volume, (3, 1, 10), 3)
    found = changed((volume, mask), asked=Stability(translate=[2.4]))
    cut = found["translate y-2.4 mm"]
    assert cut.sum() == mask[:, 3:].sum()
    np.testing.assert_array_equal(cut[:, :-3], mask[:, 3:])


@pytest.mark.parametrize("share", [-0.2, 0.2, 1.0])
def test_regions_grow_and_shrink_by_volume_at_their_surface(lesion, share):
    _, mask = lesion
    asked = Stability(grow=[share])
    (resized,) = changed(lesion, asked=asked).values()
    assert resized.sum() == mask.sum() + round(share * mask.sum())
    larger, smaller = (resized, mask) if share > 0 else (mask, resized)
    assert (larger | smaller).sum() == larger.sum()


def test_contours_are_drawn_anew_near_the_surface(lesion):
    _, mask = lesion
    contours = [m for name, m in changed(lesion).items() if name.startswith("contour")]
    assert len(contours) == 3
    for contour in contours:
        dice = 2 * (contour & mask).sum() / (contour.sum() + mask.sum())
        assert 0.6 < dice < 1
    assert len({contour.tobytes() for contour in contours}) > 1


def test_the_same_seed_gives_the_same_outlines(lesion):
    first, second, other = changed(lesion), changed(lesion), changed(lesion, "another case")
    assert first.keys() == second.keys()
    for name, mask in first.items():
        np.testing.assert_array_equal(second[name], mask)
    assert any((other[name] != first[name]).any() for name in first)


def test_features_of_changed_outlines_are_those_of_such_masks(lesion):
    volume, mask = lesion
    (found,) = extract_perturbed(volume, [Part(mask)], SHAPE, ASKED, ["case lesions x"])
    masks = changed(lesion)
    assert found.keys() == masks.keys()
    for name, outline in masks.items():
        (expected,) = extract(volume, [Part(outline)], SHAPE)
        assert found[name].values == pytest.approx(expected.values)


def test_an_empty_region_has_no_changed_outline(lesion):
    volume, mask = lesion
    assert extract_perturbed(volume, [Part(mask & False)], SHAPE, ASKED, ["x"]) == [{}]


def test_the_correlation_is_that_of_shrout_and_fleiss():
    """Table 2 of the paper: six targets, four raters; ICC(1,1) is 0.17, between -0.13 and 0.72."""
    ratings = [
        [9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7],
    ]  # fmt: skip
    found = intraclass_correlation(np.array(ratings, float))
    assert (found.cases, found.measurements) == (6, 4)
    assert round(found.icc, 2) == 0.17
    assert (round(found.lower, 2), round(found.upper, 2)) == (-0.13, 0.72)


def test_correlations_at_their_limits():
    assert intraclass_correlation(np.array([[1.0, 1.0], [2.0, 2.0]])).icc == 1
    assert intraclass_correlation(np.array([[1.0, 1.0], [1.0, 1.0]])) is None
    assert intraclass_correlation(np.array([[1.0, 2.0]])) is None
    noise = np.random.default_rng(0).normal(size=(500, 4))
    assert abs(intraclass_correlation(noise).icc) < 0.1
    strong = intraclass_correlation(noise + np.arange(500)[:, np.newaxis])
    assert strong.lower < strong.icc < strong.upper
    assert strong.icc > 0.99


def test_stability_is_of_the_cases_that_have_every_measurement():
    key = {"patient": "p", "role": "CT", "segmentation": "s", "segment": "x"}
    values = {"a": [1.0, 1.1, 0.9], "b": [5.0, 5.2, 4.9], "c": [9.0, 9.1, None]}
    features = pd.DataFrame([{"case_id": c, **key, "f": v[0], "g": 1.0} for c, v in values.items()])
    perturbed = pd.DataFrame(
        [
            {"case_id": c, **key, "perturbation": f"grow {n}", "f": v[n], "g": 1.0}
            for c, v in values.items()
            for n in (1, 2)
        ]
    )
    table = stability(features, perturbed)
    assert table["feature"].tolist() == ["f", "g"]
    assert table["cases"].tolist() == [2, 3]
    assert table["measurements"].tolist() == [3, 3]
    expected = intraclass_correlation(np.array([values["a"], values["b"]]))
    assert table["icc"][0] == pytest.approx(expected.icc)
    assert pd.isna(table["icc"][1])
    empty = stability(features, perturbed[:0])
    assert list(empty.columns) == list(table.columns)
    assert len(empty) == 0
