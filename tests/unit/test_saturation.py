"""Features that are functions of each other leave in numbers that cannot be solved."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jipflow.analyses.cells import CellKey, Measured, Place, Values
from jipflow.analyses.contract import Proposed
from jipflow.analyses.histogram import Histogram
from jipflow.analyses.histogram import Settings as HistogramSettings
from jipflow.analyses.summary import Settings, Summary
from jipflow.radiomics.ibsi import feature_table
from jipflow.release.saturation import FAMILIES, Equations, Regions, family, saturated
from jipflow.settings.resources import PROTOCOLS

LIVER = Place("CT", "organs", "liver")
SIZES = [f"original_shape_{name}" for name in ("MeshVolume", "SurfaceArea", "Sphericity", "Flat")]


FREE = {
    "firstorder": """
        Entropy MeanAbsoluteDeviation MedianAbsoluteDeviation
        RobustMeanAbsoluteDeviation Uniformity
    """,
    "spatial": """
        GearyC MoranI
    """,
    "histogram": """
        MaximumGradient MaximumGradientLevel MeanAbsoluteDeviation
        MedianAbsoluteDeviation MinimumGradient MinimumGradientLevel
        RobustMeanAbsoluteDeviation
    """,
    "glcm": """
        ClusterProminence ClusterShade DifferenceEntropy Id Idm Idmn Idn Imc1
        Imc2 InverseVariance JointEnergy JointEntropy MCC MaximumProbability
        SumEntropy
    """,
    "glrlm": """
        GrayLevelVariance HighGrayLevelRunEmphasis LongRunEmphasis
        LongRunHighGrayLevelEmphasis LongRunLowGrayLevelEmphasis
        LowGrayLevelRunEmphasis RunEntropy RunVariance ShortRunEmphasis
        ShortRunHighGrayLevelEmphasis ShortRunLowGrayLevelEmphasis
    """,
    "glszm": """
        GrayLevelVariance HighGrayLevelZoneEmphasis LargeAreaEmphasis
        LargeAreaHighGrayLevelEmphasis LargeAreaLowGrayLevelEmphasis
        LowGrayLevelZoneEmphasis SmallAreaEmphasis
        SmallAreaHighGrayLevelEmphasis SmallAreaLowGrayLevelEmphasis ZoneEntropy
        ZoneVariance
    """,
    "gldzm": """
        GrayLevelVariance HighGrayLevelZoneEmphasis LargeDistanceEmphasis
        LargeDistanceHighGrayLevelEmphasis LargeDistanceLowGrayLevelEmphasis
        LowGrayLevelZoneEmphasis SmallDistanceEmphasis
        SmallDistanceHighGrayLevelEmphasis SmallDistanceLowGrayLevelEmphasis
        ZoneDistanceEntropy ZoneDistanceVariance
    """,
    "gldm": """
        DependenceEnergy DependenceEntropy DependenceVariance
        LargeDependenceEmphasis LargeDependenceHighGrayLevelEmphasis
        LargeDependenceLowGrayLevelEmphasis LowGrayLevelEmphasis
        SmallDependenceEmphasis SmallDependenceHighGrayLevelEmphasis
        SmallDependenceLowGrayLevelEmphasis
    """,
    "ngtdm": """
        Busyness Coarseness Complexity Contrast Strength
    """,
}
"""Features of no family, by class."""


def cell(feature, patients=13, place=LIVER, analysis=None, seed=0):
    ids = np.array([f"c{i:04d}" for i in range(patients)], dtype=object)
    numbers = np.random.default_rng(seed).normal(0, 1, patients)
    values = Values(numbers, ids, ids, frozenset(ids))
    analysis = analysis or summary("a", "*.*")
    return Proposed(analysis, CellKey(*place, feature), values, values), patients


def summary(id, *variables):
    return Summary(Settings.model_construct(id=id, kind="summary", variables=list(variables)))


def left(*cells, regions=None):
    """Return the features of the cells that leave."""
    patient_of = {case: case for c, _ in cells for case in c.cases}
    withheld = saturated([c for c, _ in cells], patient_of, regions or Regions())
    return [c.key.feature for i, (c, _) in enumerate(cells) if i not in withheld]


@pytest.mark.parametrize(
    ("patients", "most"), [(5, 1), (6, 2), (7, 2), (8, 3), (13, 5), (16, 7), (100, 49)]
)
def test_two_equations_a_feature_are_two_fewer_than_patients(patients, most):
    features = [f"original_shape_F{i:03d}" for i in range(60)]
    assert left(*(cell(f, patients) for f in features)) == features[:most]


def test_the_order_is_that_of_the_variables():
    asked = summary("a", "CT.original_shape_Sphericity", "CT.original_shape_*")
    assert left(*(cell(f, 5, analysis=asked) for f in SIZES)) == ["original_shape_Sphericity"]
    by_name = summary("a", "CT.original_shape_*")
    assert left(*(cell(f, 5, analysis=by_name) for f in SIZES)) == ["original_shape_Flat"]


def test_a_cell_that_no_variable_asks_for_comes_last():
    asked = summary("a", "CT.*_Sphericity")
    assert left(*(cell(f, 5, analysis=asked) for f in SIZES)) == ["original_shape_Sphericity"]


@pytest.mark.parametrize(("name", "role"), [("ct", "CT"), ("mr", "T1"), ("pet", "PT")])
def test_volume_and_mean_leave_five_patients_of_the_shipped_protocols(name, role):
    content = yaml.safe_load((PROTOCOLS / f"sarcoma-{name}.yaml").read_text())
    asked = summary("describe", *content["analyses"][0]["variables"])
    place = Place(role, "gtv", "gtv")
    names = [f"original_{c}_{name}" for c, found in feature_table().items() for name in found]
    found = left(*(cell(name, 5, place, asked) for name in names))
    assert {"original_shape_MeshVolume", "original_firstorder_Mean"} <= set(found)
    groups = [family(name) for name in found if family(name)]
    assert sorted(groups) == sorted(set(groups))


def test_analyses_share_what_may_leave_and_the_same_feature_counts_once():
    first, second = summary("a", "CT.*"), summary("b", "CT.*")
    assert left(*(cell(SIZES[0], 5, analysis=a) for a in (first, second))) == [SIZES[0]] * 2
    cells = [cell(SIZES[0], 6, analysis=a) for a in (first, second)]
    cells += [cell(SIZES[i], 6, analysis=second) for i in (1, 2)]
    assert left(*cells) == [SIZES[0], SIZES[0], SIZES[2]]


def test_families_segments_and_other_features_are_counted_apart():
    spleen = Place("CT", "organs", "spleen")
    cells = [
        cell("original_shape_MeshVolume", 5),
        cell("original_shape_MeshVolume", 5, spleen),
        cell("original_firstorder_Mean", 5),
        cell("original_firstorder_Median", 5),
        cell("wavelet-LLH_firstorder_Mean", 5),
        *(cell(f"original_glcm_{name}", 5) for name in ("JointEntropy", "Imc1", "MCC")),
    ]
    assert len(left(*cells)) == len(cells)


def test_pointwise_filters_are_functions_of_the_images_own_moments():
    cells = [cell("original_firstorder_Mean", 5), cell("square_firstorder_Mean", 5)]
    assert left(*cells) == ["original_firstorder_Mean"]


def test_histograms_have_no_equations():
    settings = HistogramSettings(id="h", kind="histogram", variables=["CT.*"], edges=[0, 1, 2])
    cells = [cell(feature, 5, analysis=Histogram(settings)) for feature in SIZES]
    assert len(left(*cells)) == len(cells)


def test_what_is_of_some_of_the_patients_counts_for_all_of_them():
    """Eight patients have six equations; what is of six of them is one too many, of twenty not."""
    numbers = [8, 8, 8, 6, 20]
    names = [f"original_shape_F{i}" for i in range(len(numbers))]
    cells = [cell(name, n) for name, n in zip(names, numbers, strict=True)]
    assert left(*cells) == [*names[:3], names[4]]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.frozensets(st.integers(0, 10), min_size=3)),
        min_size=1,
        max_size=8,
    )
)
def test_no_patients_have_as_many_equations_as_they_are(asked):
    """Whatever sets of patients the cells of four features are of, and whatever follows of them."""
    people = range(11)
    known = Equations()
    kept = [(f, s) for f, s in asked if known.add(f"f{f}", "f", 2, frozenset(map(str, s)))]
    for among in itertools.product([False, True], repeat=len(people)):
        others = np.flatnonzero(~np.array(among))
        equations = 0
        for feature in range(4):
            rows = np.array([[i in s for i in people] for f, s in kept if f == feature], float)
            if rows.size:
                outside = np.linalg.matrix_rank(rows[:, others]) if others.size else 0
                equations += 2 * (np.linalg.matrix_rank(rows) - outside)
        assert equations == 0 or equations <= sum(among) - 2


def table(**volumes):
    """Return rows of places ``<role>_<segmentation>_<segment>`` with their volumes and means."""
    import pandas as pd

    rows = [
        dict(zip(Place._fields, name.split("_"), strict=True))
        | {
            "case_id": f"c{i:04d}",
            "patient": f"p{i}",
            "volume_ml": v,
            "original_firstorder_Mean": m,
        }
        for name, pairs in volumes.items()
        for i, (v, m) in enumerate(zip(*pairs, strict=True))
    ]
    return Measured(pd.DataFrame(rows), [])


def test_one_region_under_two_names_is_one_region():
    rng = np.random.default_rng(0)
    liver, spleen, hu, pet = (rng.normal(100, 10, 13) for _ in range(4))
    noise = rng.normal(0, 0.5, 13)
    measured = table(
        CT_organs_liver=(liver, hu),
        CT_other_hepar=(liver + noise, hu + 9 * noise),
        CT_organs_spleen=(spleen, rng.normal(0, 1, 13)),
        PT_warped_liver=(liver, pet),
        CT2_again_small=(spleen / 3 + rng.normal(0, 9, 13), hu),
    )
    regions = Regions.of(measured)

    def same(a, b, group):
        places = (Place(*name.split("_")) for name in (a, b))
        return len({regions.region(place, group) for place in places}) == 1

    assert same("CT_organs_liver", "CT_other_hepar", "size")
    assert same("CT_organs_liver", "CT_other_hepar", "moments original")
    assert not same("CT_organs_liver", "CT_organs_spleen", "size")
    assert not same("CT_organs_liver", "CT_organs_spleen", "moments original")
    assert same("CT_organs_liver", "PT_warped_liver", "size")
    assert not same("CT_organs_liver", "PT_warped_liver", "moments original")
    assert not same("CT_organs_liver", "CT2_again_small", "size")
    assert same("CT_organs_liver", "CT2_again_small", "moments original")
    hepar = Place("CT", "other", "hepar")
    cells = [cell(SIZES[0], 5), cell(SIZES[1], 5, hepar)]
    assert left(*cells) == SIZES[:2]
    assert left(*cells, regions=regions) == SIZES[:1]


def test_places_without_volumes_or_means_are_regions_of_their_own():
    measured = table(CT_organs_liver=(np.full(13, np.nan), np.arange(13.0)))
    assert Regions.of(measured).region(LIVER, "size") != Regions().region(Place("x", "y", "z"), "")
    assert Regions().region(LIVER, "size") == LIVER


def test_every_feature_that_is_a_function_of_few_is_in_a_family():
    """By class, what is in none; a new feature has to be decided on."""
    names = [f"original_{c}_{name}" for c, found in feature_table().items() for name in found]
    free: dict[str, set[str]] = {}
    for name in names:
        if family(name) is None:
            _, group, feature = name.split("_")
            free.setdefault(group, set()).add(feature)
    assert free == {group: set(found.split()) for group, found in FREE.items()}
    assert {family(name).split()[0] for name in names if family(name)} == set(FAMILIES)


def test_no_feature_is_of_two_families():
    names = [f"original_{c}_{name}" for c, found in feature_table().items() for name in found]
    for name in [*names, "volume_ml", "voxels", "measured_voxels"]:
        assert sum(bool(re.match(p, name)) for p in FAMILIES.values()) <= 1


class Half(Summary):
    """A kind of which one number leaves."""

    equations = 1


@pytest.mark.parametrize(("patients", "most"), [(5, 2), (6, 3)])
def test_a_feature_counts_by_the_analysis_that_tells_most_of_it(patients, most):
    settings = Settings.model_construct(id="b", kind="summary", variables=["*.*"])
    both = [cell(SIZES[0], patients), cell(SIZES[0], patients, analysis=Half(settings))]
    more = [cell(name, patients, analysis=Half(settings)) for name in SIZES[1:]]
    assert len(set(left(*both, *more))) == most


@pytest.mark.parametrize("image", ["square", "squareroot", "logarithm", "exponential"])
def test_every_pointwise_filter_is_a_function_of_the_image(image):
    assert family(f"{image}_firstorder_Mean") == family("original_firstorder_Mean")
    assert family(f"{image}2_firstorder_Mean") != family("original_firstorder_Mean")
