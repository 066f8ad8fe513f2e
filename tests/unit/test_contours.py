"""Contours to voxels by the pixel-centre rule."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from jipflow.images import contours
from jipflow.images.contours import on_slices, rasterise
from jipflow.images.series import read_series_volume
from jipflow.images.volume import Grid, Volume
from jipflow.notes import Notes
from jipflow.reasons import CaseFault, Reason
from series_factory import series_of

AFFINE = np.array([[0, 0, 2.0, -5], [0, 2.0, 0, -7], [3.0, 0, 0, 10], [0, 0, 0, 1]])
GRID = Grid((8, 12, 14), AFFINE)
ELSEWHERE = {"drawn_here": False}


def turned(degrees, grid=GRID):
    """The same grid about another axis: oblique slices."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:3, :3] = [
        [np.cos(angle), 0, np.sin(angle)],
        [0, 1, 0],
        [-np.sin(angle), 0, np.cos(angle)],
    ]
    return Grid(grid.shape, turn @ grid.affine)


def path(pixels, k=2.0, grid=GRID):
    """A contour through these (row, column) indices on slice k, in LPS mm."""
    return np.array([(grid.affine @ [k, row, column, 1])[:3] for row, column in pixels])


def square(low, high, k=2.0, grid=GRID):
    """A square from pixel index `low` to `high` on slice k, in LPS mm."""
    return path([(low, low), (low, high), (high, high), (high, low)], k, grid)


def draw(*contours, grid=GRID, **options):
    return rasterise(contours, grid, "ROI 3", **options)


def noted(*contours, **options):
    notes = Notes()
    mask = draw(*contours, notes=notes, **options)
    return mask, " ".join(notes.sentences)


def refusal(*contours, **options):
    with pytest.raises(CaseFault) as caught:
        draw(*contours, **options)
    assert caught.value.reason is Reason.CONTOUR_GEOMETRY
    assert "ROI 3" in caught.value.message
    return caught.value.message


def filled(mask):
    """The slices that have a voxel."""
    return np.flatnonzero(mask.any(axis=(1, 2))).tolist()


def belongs(row, column, polygon):
    """The rule in exact arithmetic: on the path, or an odd number of edges to the right."""
    odd = False
    point = (Fraction(row), Fraction(column))
    for (y0, x0), (y1, x1) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        cross = (y1 - y0) * (point[1] - x0) - (x1 - x0) * (point[0] - y0)
        within = min(y0, y1) <= point[0] <= max(y0, y1) and min(x0, x1) <= point[1] <= max(x0, x1)
        if cross == 0 and within:
            return True
        if (y0 <= point[0]) != (y1 <= point[0]):
            odd ^= x0 + (point[0] - y0) * (x1 - x0) / (y1 - y0) > point[1]
    return odd


quarters = st.integers(-8, 60).map(lambda n: Fraction(n, 4))
polygons = st.lists(st.tuples(quarters, quarters), min_size=3, max_size=9)


class TestOneContour:
    def test_covers_the_pixels_whose_centre_is_inside(self):
        expected = np.zeros(GRID.shape, bool)
        expected[2, 2:6, 2:6] = True
        np.testing.assert_array_equal(draw(square(1.5, 5.5)), expected)

    def test_covers_the_pixels_whose_centre_is_on_its_path(self):
        np.testing.assert_array_equal(draw(square(2, 5)), draw(square(1.5, 5.5)))

    @given(polygons, st.sampled_from([0, 30, 90]))
    def test_agrees_with_exact_arithmetic(self, polygon, degrees):
        """Also where it crosses or touches itself, leaves the image or meets pixel centres."""
        grid = turned(degrees)
        expected = [[belongs(row, column, polygon) for column in range(14)] for row in range(12)]
        mask = draw(path([map(float, vertex) for vertex in polygon], grid=grid), grid=grid)
        np.testing.assert_array_equal(mask[2], expected)
        assert set(filled(mask)) <= {2}

    @given(polygons, st.integers(0, 8), st.booleans())
    def test_may_start_anywhere_and_run_either_way(self, polygon, start, backwards):
        vertices = [tuple(map(float, vertex)) for vertex in polygon]
        other = vertices[start:] + vertices[:start]
        if backwards:
            other.reverse()
        np.testing.assert_array_equal(draw(path(vertices)), draw(path(other)))

    @given(polygons)
    def test_mirrors_with_the_image(self, polygon):
        vertices = np.array([tuple(map(float, vertex)) for vertex in polygon])
        mask = draw(path(vertices))
        np.testing.assert_array_equal(draw(path([11, 0] + vertices * [-1, 1])), mask[:, ::-1])
        np.testing.assert_array_equal(draw(path([0, 13] + vertices * [1, -1])), mask[:, :, ::-1])

    @given(polygons)
    def test_may_repeat_a_point(self, polygon):
        vertices = [tuple(map(float, vertex)) for vertex in polygon]
        repeated = [vertices[0], *vertices, vertices[-1], vertices[0]]
        np.testing.assert_array_equal(draw(path(vertices)), draw(path(repeated)))

    def test_with_a_keyhole_leaves_the_hole_out(self):
        outer = [(0.5, 0.5), (0.5, 9.5), (9.5, 9.5), (9.5, 0.5)]
        inner = [(2.5, 2.5), (7.5, 2.5), (7.5, 7.5), (2.5, 7.5)]
        keyhole = draw(path([*outer, outer[0], inner[0], *inner[1:], inner[0]]))
        np.testing.assert_array_equal(keyhole, draw(square(0.5, 9.5), square(2.5, 7.5)))

    def test_round_no_pixel_centre_is_counted(self):
        mask, notes = noted(square(2.2, 2.8), square(5.5, 7.5))
        assert mask.sum() == 4
        assert "1 of 2 contours enclosed no pixel centre" in notes

    def test_is_cut_off_at_the_border(self):
        mask, notes = noted(square(-3, 3.5))
        assert mask[2].sum() == 16
        assert "1 of 1 contours reach beyond the image's border" in notes

    @pytest.mark.parametrize("far", [1e9, 1e30])
    def test_may_run_absurdly_far(self, far):
        assert draw(square(-far, far))[2].all()
        assert not draw(square(far, 2 * far)).any()
        assert not draw(square(-2 * far, -far)).any()

    def test_beyond_the_border_has_no_voxel(self):
        mask, notes = noted(square(20, 30))
        assert not mask.any()
        assert "1 of 1 contours reach beyond the image's border" in notes


ROUND = [
    (5.3 + 4.1 * np.cos(angle), 5.6 + 3.2 * np.sin(angle)) for angle in np.linspace(0, 6.2, 40)
]


def densely(vertices):
    """The same path with a point amid each edge."""
    after = [*vertices[1:], vertices[0]]
    pairs = zip(vertices, after, strict=True)
    return [p for (r, c), (y, x) in pairs for p in ((r, c), ((r + y) / 2, (c + x) / 2))]


AGAIN = {
    "exactly": lambda vertices: vertices,
    "closed": lambda vertices: [*vertices, vertices[0]],
    "closed twice": lambda vertices: [*vertices, vertices[0], vertices[0]],
    "backwards": lambda vertices: vertices[::-1],
    "from elsewhere": lambda vertices: [*vertices[7:], *vertices[:7]],
    "with a point twice": lambda vertices: [*vertices[:5], *vertices[4:]],
    "with more points": densely,
    "rounded": lambda vertices: [(round(r, 2), round(c, 2)) for r, c in vertices],
    "in 32 bits": lambda vertices: [tuple(map(float, np.float32(v))) for v in vertices],
}


class TestSeveralContours:
    def test_an_inner_one_cuts_a_hole_and_an_island_fills_it(self):
        mask = draw(square(0.5, 9.5), square(2.5, 7.5), square(3.5, 6.5))
        assert mask[2].sum() == 81 - 25 + 9
        assert not mask[2, 3, 3]
        assert mask[2, 5, 5]

    def test_order_does_not_matter(self):
        contours = [square(0.5, 9.5), square(2.5, 7.5), square(3.5, 6.5), square(10.2, 11.4)]
        expected = draw(*contours)
        for turn in range(4):
            np.testing.assert_array_equal(draw(*contours[turn:], *contours[:turn]), expected)

    def test_apart_from_each_other_are_united(self):
        islands = [square(0.5, 2.5), square(4.5, 6.5), square(8.5, 9.5)]
        expected = draw(islands[0]) | draw(islands[1]) | draw(islands[2])
        mask, notes = noted(*islands)
        np.testing.assert_array_equal(mask, expected)
        assert not notes

    def test_that_cross_each_other_are_united(self):
        mask, notes = noted(square(1.5, 5.5), square(3.5, 8.5), square(4.6, 4.9))
        np.testing.assert_array_equal(mask, draw(square(1.5, 5.5)) | draw(square(3.5, 8.5)))
        assert "1 of 3 contours crossed another one" in notes

    def test_that_share_an_edge_through_pixel_centres_lose_nothing(self):
        left = path([(2, 2), (2, 5), (6, 5), (6, 2)])
        right = path([(2, 5), (2, 9), (6, 9), (6, 5)])
        assert draw(left, right)[2].sum() == 5 * 8

    @pytest.mark.parametrize("again", AGAIN.values(), ids=list(AGAIN))
    @pytest.mark.parametrize("copies", [1, 2, 3])
    def test_a_repeated_one_counts_once(self, again, copies):
        contour = path(ROUND)
        copy = path(again(ROUND))
        for drawn in ([contour, *[copy] * copies], [*[copy] * copies, contour]):
            mask, notes = noted(*drawn)
            np.testing.assert_array_equal(mask, draw(contour))
            assert f"{copies} of {copies + 1} contours repeated another one" in notes

    def test_a_repeated_hole_is_one_hole(self):
        expected = draw(square(0.5, 9.5), square(2.5, 7.5))
        for turn in range(4):
            drawn = [square(0.5, 9.5), square(2.5, 7.5), square(2.5, 7.5), square(0.5, 9.5)]
            mask, notes = noted(*drawn[turn:], *drawn[:turn])
            np.testing.assert_array_equal(mask, expected)
            assert "2 of 4 contours repeated another one" in notes

    def test_a_repeated_one_through_pixel_centres_counts_once(self):
        """Its copy, moved by less than counts, leaves the centres on the path out."""
        mask, notes = noted(square(2, 6), square(2.01, 5.99))
        np.testing.assert_array_equal(mask, draw(square(2, 6)))
        assert "repeated another one" in notes

    @pytest.mark.parametrize(("inset", "hole"), [(0.035, False), (0.036, True)])
    def test_a_copy_differs_from_a_hole_by_a_twentieth_of_a_pixel(self, inset, hole):
        """Its corners are farthest, by the root of 2 times the inset."""
        mask, notes = noted(square(2, 6), square(2 + inset, 6 - inset))
        assert mask[2].sum() == (5 * 5 - 3 * 3 if hole else 5 * 5)
        assert ("repeated another one" in notes) == (not hole)
        assert ("run less than half a pixel from the one" in notes) == hole

    @pytest.mark.parametrize(("inset", "noted_so"), [(0.353, True), (0.354, False)])
    def test_a_shell_of_less_than_half_a_pixel_is_noted(self, inset, noted_so):
        _, notes = noted(square(2, 8), square(2 + inset, 8 - inset))
        assert ("1 of 2 contours run less than half a pixel" in notes) == noted_so
        assert "repeated" not in notes

    @pytest.mark.parametrize(("inset", "sound"), [(0.04, False), (0.353, False), (0.354, True)])
    def test_one_drawn_twice_by_hand_or_a_shell_without_pixels_is_refused(self, inset, sound):
        """Both enclose the same pixels: as a hole it would take all of them away."""
        contours = square(1.4, 5.6), square(1.4 + inset, 5.6 - inset)
        if sound:
            assert not draw(*contours).any()
        else:
            assert "1 of 2 contours run less than half a pixel from another one" in refusal(
                *contours
            )

    def test_one_that_shares_half_of_its_path_is_no_repeat(self):
        half = path([(1.5, 1.5), (1.5, 8.5), (4.5, 8.5), (4.5, 1.5)])
        mask, notes = noted(square(1.5, 8.5), half)
        assert mask[2].sum() == 7 * 7 - 3 * 7
        assert notes == ""

    def test_those_of_type_xor_that_cancel_are_noted(self):
        mask, notes = noted(square(1.5, 5.5), square(1.5, 5.5), square(7.5, 9.5), xor=True)
        np.testing.assert_array_equal(mask, draw(square(7.5, 9.5)))
        assert "1 of 3 contours are of type CLOSEDPLANAR_XOR and cancel one" in notes
        assert noted(square(1.5, 5.5), square(3.5, 8.5), xor=True)[1] == ""

    def test_long_ones_are_compared_in_pieces(self, monkeypatch):
        monkeypatch.setattr(contours, "PAIRS", 100)
        assert "1 of 2 contours repeated" in noted(path(ROUND), path(ROUND[::-1]))[1]
        moved = [(row, column + 0.4) for row, column in ROUND]
        assert "1 of 2 contours crossed" in noted(path(ROUND), path(moved))[1]

    def test_a_shell_thinner_than_a_pixel_is_not_filled(self):
        assert not draw(square(1.5, 5.5), square(1.9, 5.1)).any()

    def test_of_type_xor_combine_by_exclusive_disjunction_alone(self):
        one, other = square(1.5, 5.5), square(3.5, 8.5)
        np.testing.assert_array_equal(draw(one, other, xor=True), draw(one) ^ draw(other))
        assert not draw(one, one, xor=True).any()

    @given(st.integers(1, 4), st.integers(5, 6))
    def test_a_ring_has_the_volume_of_the_disc_less_that_of_the_hole(self, hole, disc):
        rings = draw(square(6 - disc - 0.5, 5 + disc + 0.5), square(6 - hole - 0.5, 5 + hole + 0.5))
        assert rings.sum() == (2 * disc) ** 2 - (2 * hole) ** 2


class TestPlanes:
    @pytest.mark.parametrize("degrees", [30, 90])
    def test_may_be_oblique_coronal_or_sagittal(self, degrees):
        grid = turned(degrees)
        contours = [square(1.5, 5.5, k, grid) for k in (2, 3)]
        expected = draw(*(square(1.5, 5.5, k) for k in (2, 3)))
        np.testing.assert_array_equal(draw(*contours, grid=grid), expected)

    def test_points_may_leave_their_plane_by_rounding(self):
        contour = np.add(square(1.5, 5.5, 2), np.outer([0.1, -0.1, 0.2, 0], [0, 0, 1]))
        mask, notes = noted(contour)
        np.testing.assert_array_equal(mask, draw(square(1.5, 5.5, 2)))
        assert not notes

    @pytest.mark.parametrize(("off", "sound"), [(0.0995, True), (0.1005, False)])
    def test_points_leave_their_plane_by_a_tenth_of_a_slice_at_most(self, off, sound):
        contour = np.add(square(1.5, 5.5, 2), np.outer([3 * off, -3 * off] * 2, [0, 0, 1]))
        assert on_slices([contour], GRID) == sound
        if sound:
            np.testing.assert_array_equal(draw(contour), draw(square(1.5, 5.5, 2)))
        else:
            assert "lies across" in refusal(contour)

    @pytest.mark.parametrize(("off", "on_it"), [(0.0995, True), (0.1005, False)])
    def test_a_plane_within_a_tenth_of_a_slice_is_on_it(self, off, on_it):
        assert ("between slices" in noted(square(1.5, 5.5, 2 + off))[1]) != on_it

    @pytest.mark.parametrize(("apart", "one_plane"), [(0.0195, True), (0.0205, False)])
    def test_planes_between_slices_are_one_within_a_fiftieth(self, apart, one_plane):
        """Of one plane the inner contour cuts a hole; of two the nearer one fills the slice."""
        others = [square(1.5, 9.5, k) for k in (3.3, 4.3, 5.3)]
        mask = draw(square(1.5, 9.5, 2.3), square(3.5, 6.5, 2.3 + apart), *others)
        assert mask[2].sum() == (8 * 8 - 3 * 3 if one_plane else 8 * 8)

    @pytest.mark.parametrize(("apart", "neighbours"), [(3.33, True), (3.34, False)])
    def test_planes_of_another_series_are_neighbours_up_to_10_mm(self, apart, neighbours):
        """Slices lie 3 mm apart; slabs of 3.33 slices about 1.4 and 4.73 end at -0.27 and 6.40."""
        planes = [square(1.5, 5.5, k) for k in (1.4, 1.4 + apart)]
        mask, notes = noted(*planes, **ELSEWHERE)
        assert ("as thick as one slice" in notes) != neighbours
        assert filled(mask) == ([0, 1, 2, 3, 4, 5, 6] if neighbours else [1, 5])

    def test_across_the_slices_are_refused(self):
        contour = np.add(square(1.5, 5.5, 2), np.outer([0, 0, 6, 6], [0, 0, 1]))
        assert "another orientation" in refusal(contour)

    @pytest.mark.parametrize("k", [-0.6, -1, 7.5, 8])
    def test_beyond_the_slices_are_refused(self, k):
        assert "beyond the image" in refusal(square(1.5, 5.5, 3), square(1.5, 5.5, k))

    @pytest.mark.parametrize("options", [{}, ELSEWHERE])
    @pytest.mark.parametrize("offset", [-0.4, -0.2, 0.3, 0.5])
    def test_between_slices_fill_the_nearest_slice(self, offset, options):
        planes = [square(1.5, size, k + offset) for k, size in ((2, 5.5), (3, 6.5), (4, 7.5))]
        mask, notes = noted(*planes, **options)
        on = [square(1.5, size, k) for k, size in ((2, 5.5), (3, 6.5), (4, 7.5))]
        expected = draw(*on)
        if offset == 0.5:
            expected = np.roll(expected, 1, axis=0)
        np.testing.assert_array_equal(mask, expected)
        assert f"3 of 3 contours lie between slices, up to {abs(offset) * 3:.2f} mm" in notes

    def test_closer_than_slices_give_each_slice_the_nearest_one(self):
        planes = [square(1.5, 3.5 + 2 * k, k) for k in np.arange(2, 4.01, 0.25)]
        mask, notes = noted(*planes, **ELSEWHERE)
        expected = draw(*(square(1.5, 3.5 + 2 * k, k) for k in (2, 3, 4)))
        np.testing.assert_array_equal(mask, expected)
        assert "6 of 9 planes of contours were left out" in notes

    def test_of_thicker_slices_fill_the_slices_nearest_to_them(self):
        mask, notes = noted(square(1.5, 5.5, 1), square(1.5, 7.5, 3), **ELSEWHERE)
        sizes = [int(np.sqrt(plane.sum())) for plane in mask]
        assert sizes == [0, 4, 4, 6, 6, 0, 0, 0]
        assert "farther apart than the image's slices (3.00 mm); each fills up to 2" in notes

    def test_slabs_keep_their_thickness_half_way_between_slices(self):
        planes = [square(1.5, 5.5, k) for k in (0.5, 2.5, 4.5)]
        assert filled(draw(*planes, **ELSEWHERE)) == [0, 1, 2, 3, 4, 5]

    @pytest.mark.parametrize("options", [{}, ELSEWHERE])
    def test_a_stray_plane_does_not_make_the_others_thin(self, options):
        planes = [square(1.5, 5.5, k) for k in (1.3, 2.3, 3.3, 3.4, 4.3, 5.3)]
        mask, notes = noted(*planes, **options)
        assert filled(mask) == [1, 2, 3, 4, 5]
        assert "1 of 6 planes of contours were left out" in notes

    def test_a_slab_that_reaches_no_slice_gives_no_voxel_and_says_so(self):
        mask, notes = noted(square(1.5, 5.5, 2.4), drawn_here=False, plane_spacing=0.5)
        assert not mask.any()
        assert "reach the centre of none" in notes

    def test_a_stated_distance_of_planes_is_believed(self):
        mask = draw(square(1.5, 5.5, 3), drawn_here=False, plane_spacing=9.0)
        assert filled(mask) == [2, 3, 4]

    @pytest.mark.parametrize("options", [{}, ELSEWHERE])
    def test_a_slice_without_contour_between_others_stays_empty(self, options):
        planes = [square(1.5, 5.5, k) for k in (1, 2, 4, 5)]
        mask, notes = noted(*planes, **options)
        assert filled(mask) == [1, 2, 4, 5]
        assert "1 slices between contoured ones have no contour" in notes

    def test_on_each_second_slice_alone_are_refused(self):
        message = refusal(*(square(1.5, 5.5, k) for k in (1, 3, 5, 7)))
        assert "only one in 2 has a contour" in message
        assert "interpolate" in message

    def test_single_planes_of_another_series_are_as_thick_as_a_slice(self):
        mask, notes = noted(square(1.5, 5.5, 1), square(1.5, 5.5, 6), **ELSEWHERE)
        assert filled(mask) == [1, 6]
        assert "as thick as one slice" in notes


def test_no_contour_gives_no_voxel():
    assert not draw().any()


def test_contours_lie_on_a_grid_or_not():
    assert on_slices([square(1.5, 5.5, 2), square(1.5, 5.5, 7)], GRID)
    assert not on_slices([square(1.5, 5.5, 2.3)], GRID)
    assert not on_slices([square(1.5, 5.5, 8)], GRID)
    assert not on_slices([square(-2, 5.5, 2)], GRID)
    assert not on_slices([square(1.5, 5.5, 2)], turned(30))
    assert not on_slices([], GRID)


def test_two_hundred_large_contours_take_seconds_and_no_minutes():
    """Slices of 512 × 512 with 2,000 points a contour, in seconds of this process."""
    grid = Grid((200, 512, 512), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
    angles = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    disc = np.column_stack([256 + 200 * np.sin(angles), 256 + 200 * np.cos(angles)])
    contours = [np.column_stack([disc[:, ::-1], np.full(2000, k)]) for k in range(200)]
    start = time.process_time()
    mask = draw(*contours, grid=grid)
    assert time.process_time() - start < 5
    assert mask.sum() == pytest.approx(200 * np.pi * 200**2, rel=1e-3)


def reference_difference(images, structure, reference):
    """Voxels that differ from a reference mask, and the notes."""
    grid = read_series_volume(series_of(images.glob("*.dcm"))).grid
    dataset = pydicom.dcmread(structure)
    contours = [
        np.array(contour.ContourData, float).reshape(-1, 3)
        for contour in dataset.ROIContourSequence[0].ContourSequence
    ]
    expected = Volume.from_image(sitk.ReadImage(str(reference))).with_axes_of(grid)
    assert expected.grid.matches(grid, 0.01)
    assert expected.array.any()
    counts = []
    for here in (True, False):
        mask = rasterise(contours, grid, "reference", drawn_here=here)
        counts.append(int((mask != (expected.array > 0)).sum()))
    return counts


def test_identical_to_the_reference_masks_of_real_patients(shared_data):
    sarcoma = shared_data / "sarcoma"
    patients = sorted(sarcoma.glob("STS_*"))
    assert len(patients) == 15
    differences = {
        (patient.name, name): reference_difference(
            patient / name / "image",
            next((patient / name / "mask").glob("*.dcm")),
            sarcoma / "masks" / patient.name / f"{name}.nii.gz",
        )
        for patient in patients
        for name in ("CT", "MR_T1", "PET")
    }
    assert differences == {key: [0, 0] for key in differences}


def test_identical_to_the_reference_mask_of_the_ibsi_phantom(shared_data):
    phantom = shared_data / "ibsi" / "ibsi_1_ct_radiomics_phantom"
    difference = reference_difference(
        phantom / "dicom" / "image",
        next((phantom / "dicom" / "mask").glob("*.dcm")),
        next((phantom / "nifti" / "mask").glob("*.nii*")),
    )
    assert difference == [0, 0]
