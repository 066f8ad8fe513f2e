"""Attacks on one release: who has its two files and the protocol learns of no patient's value.

Each attack is carried out on a candidate as a site builds it, and is shown to work on numbers that
no gate has seen.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

from federation_world import protocol, site
from jipflow.analyses.cells import Measured, measured_places
from jipflow.analyses.contract import analyses_of
from jipflow.outcomes import Outcome, write_outcomes

VOLUME = "original_shape_MeshVolume"
TRUTH = np.array([1375.771, 1441.599, 1499.03, *np.linspace(1108.43, 1272.59, 10)])
"""Liver volumes in ml of thirteen patients."""
ORGANS = ("organs", "liver")
MINIMUM = 5


def analysis(id, feature, segments=("liver",), **more):
    content = {"id": id, "variables": [f"CT.{feature}"], "segments": list(segments), **more}
    return {"kind": "histogram" if "edges" in more else "summary"} | content


def rows(columns, place=ORGANS, role="CT", lost=()):
    """Return the rows of one place; `columns` has a value of each patient by feature."""
    count = len(next(iter(columns.values())))
    volumes = columns.get(VOLUME, 1000.0 + np.arange(count))
    frame = pd.DataFrame(
        {
            "case_id": [f"case{i:04d}" for i in range(count)],
            "patient": [f"pseudo{i:04d}" for i in range(count)],
            "role": role,
            "segmentation": place[0],
            "segment": place[1],
            "volume_ml": volumes,
        }
        | dict(columns)
    )
    return frame[~frame.index.isin(list(lost))]


def segmentation(id, *segments):
    named = [{"name": s, "label": label, "term": "liver"} for s, label in segments]
    return {"id": id, "engine": "nnunet", "model": "phantom-ct", "role": "CT", "segments": named}


def attacked(tmp_path, tables, analyses, segmentations=None):
    """Return the site of a protocol, and what leaves it: the two files."""
    change = {"analyses": analyses}
    if segmentations:
        measured = [
            {"segmentation": s["id"], "role": "CT", "settings": "pyradiomics_ct"}
            for s in segmentations
        ]
        change |= {"segmentations": segmentations, "radiomics": measured}
    north = site(tmp_path, "north", content=protocol(**change))
    north.table = pd.concat(tables, ignore_index=True)
    north.write()
    pairs = sorted(set(zip(north.table["case_id"], north.table["segmentation"], strict=True)))
    outcomes = [Outcome(case, "measure", item) for case, item in pairs]
    write_outcomes(north.root / "outcomes.parquet", outcomes)
    aggregates, record = north.build()
    return north, aggregates, record


def ungated(north):
    """Return every cell as the analyses compute it: what an attack would have without a gate."""
    table = Measured(north.table, measured_places(north.settings.protocol))
    return [c for a in analyses_of(north.settings.protocol) for c in a.propose(table)]


def cells(aggregates):
    return [(a, c) for a in aggregates["analyses"] for c in a["cells"]]


def occupied(edges, counts):
    """Return the bins that patients are in: withheld, where empty ones are shown."""
    return [
        (low, high)
        for (low, high), n in zip(itertools.pairwise(edges), counts, strict=True)
        if n is None or n > 0
    ]


def steps(cumulated):
    """Return between which edges a few patients lie, by counts below edges."""
    known = sorted(cumulated.items())
    return [
        (low, high) for (low, a), (high, b) in itertools.pairwise(known) if 0 < abs(b - a) < MINIMUM
    ]


def below(aggregates):
    """Return the patients below each edge that can be summed from what is shown."""
    found = {}
    for sent, cell in cells(aggregates):
        bins = [cell["under"], *cell["counts"], cell["over"]]
        for i, edge in enumerate(sent["edges"]):
            left, right = bins[: i + 1], bins[i + 1 :]
            if None not in left:
                found[edge] = sum(left)
            elif None not in right:
                found[edge] = cell["n"] - sum(right)
    return found


def test_narrow_bins_do_not_say_where_patients_lie(tmp_path):
    """Empty bins that are shown beside withheld ones showed it to the width of a bin."""
    edges = np.round(np.arange(1100, 1500, 0.1), 1).tolist()
    truth = np.histogram(TRUTH, edges)[0]
    assert len(occupied(edges, [0 if n == 0 else None for n in truth])) == 13
    narrow = [analysis("narrow", VOLUME, edges=edges)]
    _, aggregates, record = attacked(tmp_path, [rows({VOLUME: TRUTH})], narrow)
    assert cells(aggregates) == []
    assert record["cells"][0]["rules"]["many_bins"] == "withheld"


@pytest.mark.parametrize("bins", [2, 3, 4, 6, 9, 13])
def test_bins_of_any_number_hold_no_small_group(tmp_path, bins):
    edges = np.linspace(1100, 1510, bins + 1).tolist()
    _, aggregates, _ = attacked(
        tmp_path, [rows({VOLUME: TRUTH})], [analysis("h", VOLUME, edges=edges)]
    )
    assert steps(below(aggregates)) == []
    for _, cell in cells(aggregates):
        bins = [cell["under"], *cell["counts"], cell["over"]]
        assert not (None in bins and 0 in bins)


def test_shifted_edges_do_not_find_the_values(tmp_path):
    """3,001 histograms of one variable in one protocol gave three values to 0.25 ml."""
    places = [round(1000 + 0.25 * i, 2) for i in range(3001)]
    ecdf = {edge: int((edge > TRUTH).sum()) for edge in places}
    assert len(steps(ecdf)) == 13
    shifted = [
        analysis(f"h{i:04d}", VOLUME, edges=[0, edge, 5000]) for i, edge in enumerate(places)
    ]
    _, aggregates, _ = attacked(tmp_path, [rows({VOLUME: TRUTH})], shifted)
    assert cells(aggregates) == []


def test_which_of_many_histograms_are_withheld_tells_nothing(tmp_path):
    """Other patients, the same record: the first that is shown would say where the fifth lies."""
    shifted = [analysis(f"h{i}", VOLUME, edges=[0, 1000 + 25 * i, 5000]) for i in range(30)]
    _, _, record = attacked(tmp_path, [rows({VOLUME: TRUTH})], shifted)
    others = rows({VOLUME: TRUTH**1.01 / 1.1})
    _, _, again = attacked(tmp_path / "again", [others], shifted)
    assert record["cells"] == again["cells"]


@pytest.mark.parametrize("count", [2, 5, 11])
def test_a_few_shifted_edges_do_not_either(tmp_path, count):
    edges = np.linspace(1150, 1460, count)
    shifted = [analysis(f"h{i}", VOLUME, edges=[0, edge, 5000]) for i, edge in enumerate(edges)]
    _, aggregates, _ = attacked(tmp_path, [rows({VOLUME: TRUTH})], shifted)
    assert steps(below(aggregates)) == []


def test_like_variables_do_not_take_the_place_of_shifted_edges(tmp_path):
    """Volume in ml and in mm³, by mesh and by voxels, its diameter and its ratio to the surface."""
    likes = {
        VOLUME: 1000 * TRUTH,
        "original_shape_VoxelVolume": 1000 * TRUTH + np.tile([90.0, -90.0], 7)[:13],
        "original_shape_Maximum3DDiameter": TRUTH ** (1 / 3),
        "original_shape_SurfaceVolumeRatio": TRUTH ** (-1 / 3),
    }
    cuts = dict(zip(likes, (1.2e6, 1.21e6, 10.7, 0.0936), strict=True))
    asked = [analysis(f"h{i}", f, edges=[0, cut, 9e9]) for i, (f, cut) in enumerate(cuts.items())]
    _, aggregates, record = attacked(tmp_path, [rows(likes)], asked)
    assert [c["feature"] for _, c in cells(aggregates)] == [VOLUME]
    found = {c["feature"]: c["rules"]["same_bins"] for c in record["cells"]}
    assert found == {VOLUME: "passed"} | dict.fromkeys(list(likes)[1:], "withheld")


def missing_value(one, other):
    """Return the value of the patient whom another mean lacks."""
    return one["n"] * one["mean"] - other["n"] * other["mean"]


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_two_segmentations_of_one_region_do_not_give_the_one_who_lacks(tmp_path, noise):
    """One patient missing in the second gave that patient's volume to 1e-13."""
    again = TRUTH + np.random.default_rng(0).normal(0, noise, 13)
    tables = [rows({VOLUME: TRUTH}), rows({VOLUME: again}, ("second", "hepar"), lost=[4])]
    both = [segmentation("organs", ("liver", "liver")), segmentation("second", ("hepar", "liver"))]
    asked = [analysis("a", VOLUME), analysis("b", VOLUME, ["hepar"])]
    north, aggregates, record = attacked(tmp_path, tables, asked, both)
    first, second = (
        {"n": c.values.numbers.size, "mean": c.content.moments.mean} for c in ungated(north)
    )
    assert missing_value(first, second) == pytest.approx(TRUTH[4], abs=1e-9 + 10 * noise)
    assert [c["segment"] for _, c in cells(aggregates)] == ["liver"]
    assert record["cells"][1]["rules"]["difference"] == "withheld"


def test_who_alone_has_a_finding_stays_unknown(tmp_path):
    """Lesion load is 0 for all but one: m2 / mean² = n (n - 1), and the mean is a share of it."""
    load = np.zeros(13)
    load[7] = 42.5
    tables = [rows({"original_uptake_TLG": load, "original_shape_Flatness": 5 + load})]
    asked = [analysis("a", "original_*")]
    north, aggregates, _ = attacked(tmp_path, tables, asked)
    offset, alone = (c.content.moments for c in ungated(north))
    assert alone.m2 / alone.mean**2 == pytest.approx(13 * 12)
    assert 13 * alone.mean == pytest.approx(42.5)
    # Beside others who all have the value 5, the two numbers are two equations for one unknown.
    assert math.sqrt(offset.m2 * 13 / 12) == pytest.approx(42.5)
    assert cells(aggregates) == []


@pytest.mark.parametrize("others", [2, 3, 4])
def test_nor_are_the_few_who_have_one(tmp_path, others):
    load = np.zeros(13)
    load[:others] = [10.0, 20.0, 30.0, 40.0][:others]
    _, aggregates, _ = attacked(
        tmp_path, [rows({"original_uptake_TLG": load})], [analysis("a", "original_*")]
    )
    assert cells(aggregates) == []


def test_whole_numbers_are_not_solved(tmp_path):
    """How often a level occurs follows from sum and sum of squares, as of lesions counted."""
    lesions = np.array([0, 0, 1, 1, 2, 3, 5.0])
    tables = [rows({"original_histogram_Mode": lesions, "original_glcm_MCC": lesions / 7})]
    _, aggregates, record = attacked(tmp_path, tables, [analysis("a", "original_*")])
    assert cells(aggregates) == []
    assert {c["rules"]["few_levels"] for c in record["cells"]} == {"withheld"}


def shapes(volumes, seed=0):
    """Return features of bodies of these volumes, of which each follows from volume and surface."""
    surfaces = 5.2 * volumes ** (2 / 3) * np.random.default_rng(seed).uniform(1, 1.5, volumes.size)
    return of_bodies(volumes, surfaces)


def of_bodies(volumes, surface):
    return {
        VOLUME: volumes,
        "original_shape_SurfaceArea": surface,
        "original_shape_SurfaceVolumeRatio": surface / volumes,
        "original_shape_Sphericity": (36 * np.pi * volumes**2) ** (1 / 3) / surface,
        "original_shape_Asphericity": surface / (36 * np.pi * volumes**2) ** (1 / 3) - 1,
    }


def solved(known, patients, seed):
    """Return volumes of patients whose features have the means and variances that are known.

    Args:
        known: mean and sample variance by feature.
        patients: how many.
        seed: of where the search starts.
    """
    first = np.random.default_rng(seed).normal(1, 0.02, 2 * patients)

    def misfit(x):
        volumes, surfaces = 1300 * x[:patients], 650 * x[patients:]
        found = of_bodies(volumes, surfaces)
        pairs = [
            (found[f].mean() / m - 1, found[f].std(ddof=1) / v**0.5 - 1)
            for f, (m, v) in known.items()
        ]
        return np.ravel(pairs)

    best = least_squares(misfit, first, xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=20000)
    return np.sort(1300 * best.x[:patients]), float(np.abs(best.fun).max())


def test_features_that_follow_from_each_other_are_not_solved(tmp_path):
    """Means and variances of five such features give all five volumes; of what leaves, many do."""
    asked = [analysis("a", VOLUME), analysis("b", "original_shape_*")]
    truth = TRUTH[3:8] + np.array([0.31, 3.17, -2.23, 4.71, 1.39])
    north, aggregates, _ = attacked(tmp_path, [rows(shapes(truth))], asked)
    computed = {
        c.key.feature: (c.content.moments.mean, c.content.moments.variance) for c in ungated(north)
    }
    tries = (solved(computed, 5, seed) for seed in reversed(range(6)))
    found = (volumes for volumes, misfit in tries if misfit < 1e-9)
    assert any(np.abs(volumes - truth).max() < 0.01 for volumes in found)
    sent = {c["feature"]: (c["mean"], c["m2"] / (c["n"] - 1)) for _, c in cells(aggregates)}
    assert list(sent) == [VOLUME]
    first, second = (solved(sent, 5, seed) for seed in (0, 1))
    assert max(first[1], second[1]) < 1e-9
    assert np.abs(first[0] - second[0]).max() > 5


@pytest.mark.parametrize("patients", [5, 6, 13])
def test_as_many_functions_leave_as_have_two_equations_fewer_than_patients(tmp_path, patients):
    _, aggregates, _ = attacked(
        tmp_path, [rows(shapes(TRUTH[:patients]))], [analysis("a", "original_shape_*")]
    )
    assert len(cells(aggregates)) == (patients - 2) // 2


def test_nor_by_two_segmentations_that_share_them(tmp_path):
    """Half of the features of the liver under one name, the other half under another."""
    columns = shapes(TRUTH[:7])
    names = sorted(columns)
    tables = [rows(columns), rows(columns, ("second", "hepar"))]
    both = [segmentation("organs", ("liver", "liver")), segmentation("second", ("hepar", "liver"))]
    asked = [analysis(f"a{i}", n) for i, n in enumerate(names[:2])]
    asked += [analysis(f"b{i}", n, ["hepar"]) for i, n in enumerate(names[2:])]
    _, aggregates, _ = attacked(tmp_path, tables, asked, both)
    assert len(cells(aggregates)) == 2


def test_a_bin_of_everyone_tells_everyones_value(tmp_path):
    values = np.linspace(1200.0, 1200.9, 13)
    asked = [analysis("h", VOLUME, edges=[0, 1200, 1201, 5000])]
    _, aggregates, record = attacked(tmp_path, [rows({VOLUME: values})], asked)
    assert cells(aggregates) == []
    assert record["cells"][0]["rules"]["one_bin"] == "withheld"


def test_a_histogram_beside_a_mean_does_not_give_the_rest(tmp_path):
    """n, mean and the bins: whoever is in none of the shown bins is the minimum or more."""
    values = np.array([*np.linspace(1000, 1010, 8), 1100.0, 1200, 1300, 1400, 1500])
    asked = [analysis("h", VOLUME, edges=[0, 1020, 1450, 5000]), analysis("m", VOLUME)]
    _, aggregates, _ = attacked(tmp_path, [rows({VOLUME: values})], asked)
    (_, bins), (_, mean) = cells(aggregates)
    shown = [n for n in (bins["under"], *bins["counts"], bins["over"]) if n]
    assert mean["n"] == bins["n"] == 13
    assert 13 - sum(shown) >= MINIMUM


def test_a_release_of_nothing_says_so(tmp_path):
    tables = [rows({VOLUME: TRUTH[:4]})]
    _, aggregates, record = attacked(tmp_path, tables, [analysis("a", VOLUME)])
    assert (cells(aggregates), record["verdict"]) == ([], "nothing released")
    _, aggregates, record = attacked(
        tmp_path / "more", [rows({VOLUME: TRUTH})], [analysis("a", VOLUME)]
    )
    assert (len(cells(aggregates)), record["verdict"]) == (1, "released")


def thresholds(count):
    """Return segmentations side by side, of which each lacks the patients below its threshold."""
    maxima = np.sort(np.random.default_rng(3).uniform(2.0, 9.0, 13))
    places = [(f"t{i}", f"focus{i}") for i in range(count)]
    tables = []
    for i, place in enumerate(places):
        lost = np.flatnonzero(maxima < 2.5 + 0.4 * i)
        texture = np.random.default_rng(i).normal(5, 1, 13)
        columns = {VOLUME: TRUTH * 0.97**i, "original_glcm_MCC": texture}
        tables.append(rows(columns, place, lost=lost))
    return tables, places


def test_how_many_have_anything_above_a_threshold_does_not_tell_the_maximum_of_one(tmp_path):
    """Each number alone is that of a segmentation; two of them are a bin with one patient."""
    tables, places = thresholds(6)
    assert {len(a) - len(b) for a, b in itertools.pairwise(tables)} & {1, 2}
    asked = [
        analysis(f"a{i}", (VOLUME, "original_glcm_MCC")[i % 2], [segment])
        for i, (_, segment) in enumerate(places)
    ]
    both = [segmentation(id, (segment, "liver")) for id, segment in places]
    _, aggregates, _ = attacked(tmp_path, tables, asked, both)
    numbers = sorted({cell["n"] for _, cell in cells(aggregates)})
    assert numbers
    assert all(b - a >= MINIMUM for a, b in itertools.pairwise(numbers))


@pytest.mark.parametrize("other", [3.0, 1250.0, 0.0])
def test_two_segmentations_that_differ_in_one_patient_do_not_give_the_difference(tmp_path, other):
    again = TRUTH.copy()
    again[4] = other
    tables = [rows({VOLUME: TRUTH}), rows({VOLUME: again}, ("second", "hepar"))]
    both = [segmentation("organs", ("liver", "liver")), segmentation("second", ("hepar", "liver"))]
    asked = [analysis("a", VOLUME), analysis("b", VOLUME, ["hepar"])]
    north, aggregates, record = attacked(tmp_path, tables, asked, both)
    first, second = (c.content.moments.mean for c in ungated(north))
    assert 13 * (first - second) == pytest.approx(TRUTH[4] - other)
    assert [c["segment"] for _, c in cells(aggregates)] == ["liver"]
    assert record["cells"][1]["rules"]["difference"] == "withheld"


@pytest.mark.parametrize(("changed", "leave"), [(0, 2), (1, 1), (4, 1), (5, 2), (13, 2)])
@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_nor_do_two_volumes_of_one_segmentation(tmp_path, changed, leave, unit):
    """One counts the voxels whose intensity is out of a range, the other does not."""
    within = TRUTH.copy()
    within[:changed] -= np.linspace(100.0, 300.0, changed)
    columns = {VOLUME: unit * TRUTH, "original_shape_VoxelVolume": within}
    _, aggregates, _ = attacked(tmp_path, [rows(columns)], [analysis("a", "original_shape_*")])
    assert len(cells(aggregates)) == leave


def test_the_cases_of_one_patient_in_whom_two_cells_differ_are_few(tmp_path):
    """Ten cases differ, and all are of one patient."""
    volumes = np.concatenate([TRUTH, TRUTH[:9] * 1.07])
    within = volumes.copy()
    within[12:] -= 50.0
    columns = {VOLUME: volumes, "original_shape_VoxelVolume": within}
    table = rows(columns)
    table.loc[12:, "patient"] = "pseudo0012"
    _, aggregates, record = attacked(tmp_path, [table], [analysis("a", "original_shape_*")])
    withheld = [c["rules"] for c in record["cells"] if not c["released"]]
    assert len(cells(aggregates)) == 1
    assert withheld[0]["difference"] == "withheld"
