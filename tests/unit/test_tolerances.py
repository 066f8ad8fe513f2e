"""Each tolerance of geometry has a series just within it, and one just beyond."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from jipflow.images.contours import on_slices, rasterise
from jipflow.images.pixels import Plane, stacked
from jipflow.images.read import check_geometry
from jipflow.images.stack import grid_of, sorted_stack
from jipflow.images.volume import Grid
from jipflow.notes import Notes
from jipflow.reasons import CaseFault, Reason

ORIENTATION_TOLERANCE = 1e-4
POSITION_TOLERANCE = 0.01
SHEAR_TOLERANCE = 1.25e-3
SIDEWAYS_TOLERANCE = 0.09
SPACING_TOLERANCE = 0.01
ROUNDING_TOLERANCE = 0.06
ROUNDING_SHARE = 0.1
COSINE_TOLERANCE = 2e-3
TOLERANCE = 0.02
MOST_STEPS = 20
PLANE_TOLERANCE = 0.1
SAME_PLANE = 0.02
EVEN = 1e-6
LARGEST_PLANE_SPACING = 10.0
STEEPEST = 45.0
"""What the modules have under these names, once more: one that is changed there fails here."""

JUST = 0.02
"""How far, as a share of a tolerance, a series lies within or beyond it."""
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SIDES = pytest.mark.parametrize("sound", [True, False], ids=["within", "beyond"])


def just(tolerance, sound):
    return tolerance * (1 - JUST if sound else 1 + JUST)


def plane(z, *, x=0.0, cosines=AXIAL, number=0, value=None, **values):
    """An axial plane of a CT at a depth."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.{number}"
    header.FrameOfReferenceUID, header.PatientID, header.StudyInstanceUID = "1.1", "p", "1.3"
    header.ImagePositionPatient = [x, 0.0, z]
    header.ImageOrientationPatient = list(cosines)
    header.PixelSpacing, header.Rows, header.Columns = [2.0, 2.0], 3, 4
    header.RescaleSlope, header.RescaleIntercept = 1, 0
    for name, content in values.items():
        setattr(header, name, content)
    stored = np.full((3, 4), number if value is None else value)
    return Plane(Path(f"{number}.dcm"), header, 0, header, stored)


def stack(depths, **values):
    return [plane(float(z), number=number, **values) for number, z in enumerate(depths)]


def outcome(planes):
    """Nothing for a sound stack, else the reason why it is none."""
    try:
        sorted_stack(list(planes), "series 1", [])
    except CaseFault as fault:
        return fault.reason
    return None


@SIDES
@pytest.mark.parametrize("place", range(6))
def test_one_orientation(sound, place):
    planes = stack(range(0, 15, 3))
    cosines = np.array(AXIAL)
    cosines[place] += just(ORIENTATION_TOLERANCE, sound)
    planes[2] = plane(6.0, number=2, cosines=cosines)
    assert outcome(planes) is (None if sound else Reason.MIXED_ORIENTATION)


@SIDES
@pytest.mark.parametrize("step", [0.5, 3.0])
def test_two_slices_at_one_position(sound, step):
    """Within, they are two of one position, which differ; beyond, they are two positions."""
    depths = [0, step, 2 * step, 2 * step + just(POSITION_TOLERANCE, sound), 3 * step]
    expected = Reason.DUPLICATE_SLICES if sound else Reason.IRREGULAR_SPACING
    assert outcome(stack(depths)) is expected


@SIDES
@pytest.mark.parametrize("length", [30.0, 300.0])
def test_no_shear(sound, length):
    """A shift that rounding makes, or a normal that is turned by rounded direction cosines."""
    largest = max(SIDEWAYS_TOLERANCE, SHEAR_TOLERANCE * length)
    planes = [
        plane(z, number=n, x=just(largest, sound) * z / length)
        for n, z in enumerate(np.linspace(0, length, 11).tolist())
    ]
    moved = [p.shift is not None for p in sorted_stack(planes, "series 1", [])]
    assert moved == [not sound] * len(planes)


@SIDES
def test_no_steeper_tilt_than_a_gantry_has(sound):
    slope = np.tan(np.radians(just(STEEPEST, sound)))
    planes = [plane(3.0 * n, number=n, x=3.0 * n * slope) for n in range(11)]
    assert outcome(planes) is (None if sound else Reason.GANTRY_TILT)


@SIDES
def test_a_stack_runs_along_one_line(sound):
    away = just(SIDEWAYS_TOLERANCE, sound)
    # To and fro without a mean or a slope.
    planes = [plane(3.0 * n, number=n, x=away * (1, -1, -1, 1)[n % 4]) for n in range(40)]
    assert outcome(planes) is (None if sound else Reason.GANTRY_TILT)


@SIDES
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("spacing", [0.4, 5.0])
def test_a_position_that_is_rounded(sound, sign, spacing):
    """One slice of many lies off the grid, which then lies amid it and the others."""
    rounding = min(ROUNDING_TOLERANCE, ROUNDING_SHARE * spacing)
    depths = np.arange(41) * spacing
    depths[20] += sign * 2 * just(rounding, sound)
    assert outcome(stack(depths)) is (None if sound else Reason.IRREGULAR_SPACING)


@SIDES
def test_slices_that_are_missing_leave_whole_distances(sound):
    """A gap of three distances, as exactly as the largest tolerance of distances allows."""
    depths = np.arange(9) * 3.0
    depths[5:] += 2 * 3.0 + 3 * 3.0 * just(SPACING_TOLERANCE, sound)
    assert outcome(stack(depths)) is (Reason.MISSING_SLICES if sound else Reason.IRREGULAR_SPACING)


@pytest.mark.parametrize("gone", [1, 2, 57, 118])
def test_one_slice_is_missed_among_many(gone):
    depths = np.delete(np.arange(120) * 3.0, gone)
    says = f"1 of 120 slices are missing, the first after {3 * gone - 3}"
    with pytest.raises(CaseFault, match=says):
        sorted_stack(stack(depths), "series 1", [])


@SIDES
@pytest.mark.parametrize("kind", ["row", "column", "angle"])
def test_directions_of_unit_length_at_a_right_angle(sound, kind):
    off = just(COSINE_TOLERANCE, sound)
    cosines = {
        "row": (np.sqrt(1 + off), 0, 0, 0, 1, 0),
        "column": (1, 0, 0, 0, np.sqrt(1 - off), 0),
        "angle": (1, 0, 0, off, np.sqrt(1 - off**2), 0),
    }[kind]
    header = plane(0.0, cosines=cosines).header
    if sound:
        check_geometry(Path("0.dcm"), header)
    else:
        with pytest.raises(CaseFault, match="not two unit vectors") as caught:
            check_geometry(Path("0.dcm"), header)
        assert caught.value.reason is Reason.GEOMETRY_REFUSED


@pytest.mark.parametrize(
    "values",
    [
        {"cosines": (float("nan"), 0, 0, 0, 1, 0)},
        {"cosines": (1, 0, 0, 0, float("nan"), 0)},
        {"PixelSpacing": [2.0, 0.0]},
        {"PixelSpacing": [0.0, 2.0]},
        {"PixelSpacing": [2.0, -2.0]},
        {"PixelSpacing": [2.0, float("nan")]},
        {"ImagePositionPatient": [0.0, float("nan"), 0.0]},
        {"ImagePositionPatient": [0.0, 0.0, float("inf")]},
        {"ImagePositionPatient": [0.0, 0.0]},
        {"PixelSpacing": [2.0, 2.0, 2.0]},
        {"cosines": (1, 0, 0, 0, 1)},
    ],
    ids=str,
)
def test_geometry_that_is_no_number_is_refused(values):
    with pytest.raises(CaseFault) as caught:
        check_geometry(Path("0.dcm"), plane(0.0, **values).header)
    assert caught.value.reason is Reason.GEOMETRY_REFUSED


def test_the_orientation_of_a_stack_is_the_one_that_most_slices_have():
    """Of slices whose cosines were rounded differently, the grid takes no mean."""
    rounded = (1.0, -0.00005, 0.0, 0.0, 1.0, 0.0)
    planes = [plane(3.0 * n, number=n, cosines=AXIAL if n else rounded) for n in range(5)]
    grid = grid_of([p.header for p in planes], "series 1")
    np.testing.assert_array_equal(grid.affine[:3, 2], [2.0, 0.0, 0.0])


@SIDES
def test_a_distance_that_is_a_multiple_of_the_thickness(sound):
    """Numbers in steps of two prove it together with a distance of twice the thickness."""
    spacing = 6.0 * (1 + just(TOLERANCE, sound))
    planes = [
        plane(spacing * n, number=n, InstanceNumber=1 + 2 * n, SliceThickness=3.0) for n in range(5)
    ]
    assert outcome(planes) is (Reason.MISSING_SLICES if sound else None)


@pytest.mark.parametrize(("steps", "found"), [(MOST_STEPS, True), (MOST_STEPS + 1, False)])
def test_the_largest_multiple_that_is_looked_for(steps, found):
    planes = [
        plane(steps * n, number=n, InstanceNumber=1 + steps * n, SliceThickness=1.0)
        for n in range(5)
    ]
    assert outcome(planes) is (Reason.MISSING_SLICES if found else None)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ((32767, -32767), np.int16),
        ((32768, 0), np.float32),
        ((0, -32769), np.float32),
        ((0.5, 0), np.float32),
        ((65535, -65535), np.float32),
    ],
)
def test_whole_numbers_that_fit_are_small_and_others_are_kept(values, dtype):
    planes = [plane(0.0, number=n, value=value, RescaleType="OD") for n, value in enumerate(values)]
    array = stacked(planes[::-1], np.ones(2), (2, 3, 4))
    assert array.dtype == dtype
    np.testing.assert_array_equal(array[:, 0, 0], values)


GRID = Grid((9, 12, 14), np.array([[0, 0, 2.0, 0], [0, 2.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1.0]]))


def square(k, lift=0.0):
    """A square on slice k, one corner of which lies higher."""
    corners = [(2.5, 2.5), (2.5, 7.5), (7.5, 7.5), (7.5, 2.5)]
    depths = [k, k, k, k + lift]
    return np.array([(GRID.affine @ [d, *c, 1])[:3] for d, c in zip(depths, corners, strict=True)])


def filled(*depths, **options):
    notes = Notes()
    mask = rasterise([square(k) for k in depths], GRID, "ROI 1", notes=notes, **options)
    return np.flatnonzero(mask.any(axis=(1, 2))).tolist(), " ".join(notes.sentences)


@SIDES
def test_a_contour_in_one_plane(sound):
    """Its plane is at the mean of its points, of which one lies off."""
    lift = just(PLANE_TOLERANCE, sound) * 4 / 3
    if sound:
        rasterise([square(2, lift)], GRID, "ROI 1")
    else:
        with pytest.raises(CaseFault, match="lies across the image's slices"):
            rasterise([square(2, lift)], GRID, "ROI 1")


@SIDES
@pytest.mark.parametrize("sign", [1, -1])
def test_a_contour_on_a_slice(sound, sign):
    depth = 2 + sign * just(PLANE_TOLERANCE, sound)
    assert ("lie between slices" in filled(depth)[1]) == (not sound)
    assert on_slices([square(depth)], GRID) == sound


@SIDES
def test_contours_in_one_plane_between_slices(sound):
    """Two in one plane are a repeat; two planes are too thin to reach a slice."""
    _, notes = filled(2.3, 2.3 + just(SAME_PLANE, sound))
    assert ("repeated another one" in notes) == sound
    assert ("reach the centre of none" in notes) == (not sound)


@pytest.mark.parametrize(
    ("depth", "sound"), [(-0.5, True), (-0.501, False), (8.49, True), (8.5, False)]
)
def test_a_contour_beyond_the_slices(depth, sound):
    if sound:
        rasterise([square(depth)], GRID, "ROI 1")
    else:
        with pytest.raises(CaseFault, match="1 of 1 contours lie beyond the image"):
            rasterise([square(depth)], GRID, "ROI 1")


@pytest.mark.parametrize(
    ("depths", "slices"),
    [
        ((2.5,), [3]),
        ((2.5 - EVEN / 2,), [3]),
        ((2.5 + 2 * EVEN,), [3]),
        ((2.5 - 2 * EVEN,), [2]),
        ((1, 2.5, 4), [1, 2, 3, 4]),
    ],
)
def test_a_plane_half_way_belongs_to_the_slice_above(depths, slices):
    assert filled(*depths)[0] == slices


@pytest.mark.parametrize(("gap", "refused"), [(1.49, False), (1.51, True)])
def test_contours_on_every_second_slice_that_they_were_drawn_on(gap, refused):
    depths = [0.3, 0.3 + gap, 0.3 + 2 * gap]
    if refused:
        with pytest.raises(CaseFault, match="only one in 2 has a contour"):
            filled(*depths)
    else:
        filled(*depths)


def test_contours_with_gaps_of_their_own_are_no_thinned_ones():
    assert filled(1, 3, 5.3)[0]
    with pytest.raises(CaseFault, match="only one in 2 has a contour"):
        filled(1, 3, 5.1)


def test_two_contours_alone_tell_no_thinning():
    assert filled(1, 3)[0] == [1, 3]


@pytest.mark.parametrize(
    ("depths", "slices"),
    [((0, 2, 6), [0, 1, 2, 3, 6, 7]), ((0, 2, 4, 8), [0, 1, 2, 3, 4, 5, 8])],
)
def test_the_usual_distance_of_planes_is_the_lower_median(depths, slices):
    assert filled(*depths, drawn_here=False)[0] == slices


@pytest.mark.parametrize(
    ("spacing", "thick"),
    [(LARGEST_PLANE_SPACING - 0.01, True), (LARGEST_PLANE_SPACING + 0.01, False)],
)
def test_planes_too_far_apart_to_be_neighbours(spacing, thick):
    slices, notes = filled(1, 1 + spacing / 3, drawn_here=False)
    assert (len(slices) > 2) == thick
    assert ("which would tell how thick they are" in notes) == (not thick)


@pytest.mark.parametrize(("gap", "slices"), [(2.99, [1, 2, 3, 4, 5]), (3.01, [1, 2, 4, 5])])
def test_a_gap_of_more_than_a_plane_and_a_half_stays_empty(gap, slices):
    assert filled(1.3, 1.3 + gap, drawn_here=False, plane_spacing=6.0)[0] == slices
