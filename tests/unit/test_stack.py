"""Slices lie on an even grid but for rounding, each tolerance just within and just beyond."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from jipflow.images.masks import Region, pack
from jipflow.images.series import read_planes, read_series_volume
from jipflow.images.stack import square_directions
from jipflow.images.volume import Grid
from jipflow.objects.seg_writer import build_seg
from jipflow.objects.terms import read_terms
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.reasons import CaseFault, Reason
from jipflow.segment.engines.imported.engine import import_regions, target_of
from seg_archive import on_grid, spec
from series_factory import series_of, write

AXIAL = np.eye(3)
OBLIQUE = np.array([[0.8, -0.48, 0.36], [0.6, 0.64, -0.48], [0.0, 0.6, 0.8]])
"""Direction of row, column and normal, one a column."""


def turned(seed):
    """Directions of row, column and normal at no angle that decimals show exactly."""
    directions, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    directions[:, 2] = np.cross(directions[:, 0], directions[:, 1])
    return directions


TURNED = turned(11)


def series(folder, positions, directions=AXIAL, pixel=1.0):
    """A CT whose slices lie at these positions, with these directions of row and column."""
    shape = (len(positions), 5, 6)
    hu = np.arange(np.prod(shape)).reshape(shape).astype(np.int16)
    images = dicom.ct_series(hu, PhantomGrid(shape, (1.0, pixel, pixel), (0.0, 0.0, 0.0)))
    for image, position in zip(images, positions, strict=True):
        image.ImagePositionPatient = [f"{v:.8f}".rstrip("0") for v in position]
        image.ImageOrientationPatient = [f"{v:.10f}" for v in directions[:, :2].T.ravel()]
        for name in ("SliceThickness", "SliceLocation", "SpacingBetweenSlices"):
            image.pop(name, None)
    return series_of(write(images, folder))


def line(count, distance, directions=AXIAL, start=(0.0, 0.0, 0.0)):
    return np.array(start) + np.outer(np.arange(count) * distance, directions[:, 2])


def read(folder, *args, **options):
    notes = []
    return read_series_volume(series(folder, *args, **options), notes=notes).grid, " ".join(notes)


def refusal(folder, *args, **options):
    with pytest.raises(CaseFault) as fault:
        read(folder, *args, **options)
    return fault.value.reason


class TestDistances:
    def test_steps_that_differ_by_little_are_uneven_where_they_add_up(self, tmp_path):
        """1.0000 mm and then 1.0099 mm: each step is within 1 % of the others."""
        steps = np.repeat([1.0, 1.0099], 40)
        positions = np.outer([0, *np.cumsum(steps)], AXIAL[:, 2])
        assert refusal(tmp_path, positions) is Reason.IRREGULAR_SPACING

    def test_a_drift_of_every_step_is_uneven(self, tmp_path):
        positions = np.outer([0, *np.cumsum(1 + np.arange(60) * 3e-4)], AXIAL[:, 2])
        assert refusal(tmp_path, positions) is Reason.IRREGULAR_SPACING

    @pytest.mark.parametrize(("distance", "most"), [(3.0, 0.06), (0.4, 0.04)])
    def test_slices_lie_off_an_even_grid_by_no_more_than_rounding(self, tmp_path, distance, most):
        """In turn on one side and on the other, so that the grid that fits best lies between."""
        for number, share in enumerate((0.97, 1.03)):
            positions = line(40, distance)
            positions[:, 2] += np.tile([1, -1], 20) * most * share
            folder = tmp_path / str(number)
            if share < 1:
                assert read(folder, positions)[0].spacing[0] == pytest.approx(distance, rel=0.01)
            else:
                assert refusal(folder, positions) is Reason.IRREGULAR_SPACING

    @pytest.mark.parametrize("distance", [0.55, 0.625, 1.25])
    @pytest.mark.parametrize("start", [0.0, 0.03, 0.31])
    def test_positions_of_one_decimal_are_read(self, tmp_path, distance, start):
        positions = line(60, distance, start=(0, 0, start)).round(1)
        grid, notes = read(tmp_path, positions)
        assert grid.spacing[0] == pytest.approx(distance, abs=0.1 / 59)
        assert notes == ""


class TestDirections:
    @pytest.mark.parametrize("length", [1.0002, 1.0004, 0.9996, 1.00099])
    @pytest.mark.parametrize("directions", [AXIAL, OBLIQUE])
    def test_are_brought_to_unit_length_once(self, tmp_path, length, directions):
        grid, notes = read(tmp_path, line(30, 2.0, directions), directions * length)
        np.testing.assert_allclose(grid.spacing, (2.0, 1.0, 1.0), rtol=1e-7)
        assert grid.voxel_volume == pytest.approx(2.0, rel=1e-7)
        assert f"cosines of length {length:.4f} were brought to unit length" in notes

    @pytest.mark.parametrize("length", [1.00005, 1.0])
    def test_a_length_within_rounding_is_not_worth_a_note(self, tmp_path, length):
        assert read(tmp_path, line(5, 2.0), AXIAL * length)[1] == ""

    @pytest.mark.parametrize("length", [1.00101, 0.99899])
    def test_of_another_length_are_refused(self, tmp_path, length):
        assert refusal(tmp_path, line(5, 2.0), AXIAL * length) is Reason.GEOMETRY_REFUSED

    @pytest.mark.parametrize(("skew", "sound"), [(1.95e-3, True), (2.05e-3, False)])
    def test_are_at_a_right_angle_but_for_rounding(self, tmp_path, skew, sound):
        directions = AXIAL.copy()
        directions[:2, 1] = np.sin(skew), np.cos(skew)
        if not sound:
            assert refusal(tmp_path, line(5, 2.0), directions) is Reason.GEOMETRY_REFUSED
            return
        grid, notes = read(tmp_path, line(5, 2.0), directions)
        axes = grid.affine[:3, :3] / grid.spacing
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-8)
        # Each is turned by half of what is amiss.
        np.testing.assert_allclose(axes[:2, 2], [1, -skew / 2], atol=1e-5)
        assert "corrected by up to 0.0010" in notes

    @pytest.mark.parametrize("decimals", [3, 4])
    @pytest.mark.parametrize("seed", range(3))
    def test_that_are_rounded_leave_every_slice_of_a_long_stack_in_its_place(
        self, tmp_path, decimals, seed
    ):
        directions = turned(seed)
        positions = line(60, 15.0, directions)
        grid, _ = read(tmp_path, positions, directions.round(decimals))
        np.testing.assert_allclose(grid.spacing, (15.0, 1.0, 1.0), rtol=2e-6)
        index = np.zeros((4, 60))
        index[0], index[3] = np.arange(60), 1
        away = np.linalg.norm((grid.affine @ index)[:3].T - positions, axis=1).max()
        assert away < 0.2

    def test_exact_ones_stay_as_they_are(self):
        rows, columns = square_directions(np.array([[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1.0]]))
        assert rows.tolist() == [[1, 0, 0], [0, 1, 0]]
        assert columns.tolist() == [[0, 1, 0], [0, 0, -1]]


class TestTilt:
    def tilted(self, count, slope, distance=2.0):
        positions = line(count, distance)
        positions[:, 1] += positions[:, 2] * slope
        return positions

    def test_of_rounded_directions_is_corrected_with_a_note(self, tmp_path):
        grid, notes = read(tmp_path, self.tilted(20, 1.24e-3, 20.0))
        assert "corrected by up to 0.0012 to fit the slices' line" in notes
        last = grid.affine @ [19, 0, 0, 1]
        np.testing.assert_allclose(last[:3], self.tilted(20, 1.24e-3, 20.0)[-1], atol=1e-6)

    def test_beyond_rounding_is_resampled(self, tmp_path):
        grid, notes = read(tmp_path, self.tilted(20, 1.26e-3, 20.0))
        assert "A tilt of 0.07 degrees was corrected" in notes
        last = grid.affine @ [19, 0, 0, 1]
        np.testing.assert_allclose(last[:3], [0, 0, 380], atol=1e-6)

    @pytest.mark.parametrize(("shift", "tilt"), [(0.088, False), (0.092, True)])
    def test_of_a_short_stack_counts_in_millimetres(self, tmp_path, shift, tilt):
        positions = self.tilted(6, shift / 10)
        assert ("A tilt of" in read(tmp_path, positions)[1]) is tilt

    @pytest.mark.parametrize(("jitter", "refused"), [(0.088, False), (0.095, True)])
    def test_slices_that_lie_beside_their_line_are_refused(self, tmp_path, jitter, refused):
        positions = line(40, 2.0)
        positions[:, 0] += np.tile([1, -1, -1, 1], 10) * jitter
        if refused:
            assert refusal(tmp_path, positions) is Reason.GANTRY_TILT
        else:
            assert read(tmp_path, positions)[0].spacing == (2.0, 1.0, 1.0)

    def test_oblique_positions_of_one_decimal_are_no_tilt(self, tmp_path):
        positions = line(40, 2.0, OBLIQUE).round(1)
        grid, _ = read(tmp_path, positions, OBLIQUE)
        assert grid.spacing[0] == pytest.approx(2.0, abs=0.01)


def encoded(there, grid, mask):
    """The DICOM-SEG of a mask."""
    return build_seg(
        pack([Region("liver", "liver", mask, "AUTOMATIC", "a model", "1")], grid),
        read_planes(there),
        read_terms(),
        encoding="binary",
        description="round trip",
        series_number=9001,
        identity=("round trip",),
        notes=[],
    )


ROUND_TRIPS = {
    "0.55 mm and one decimal": (line(40, 0.55, start=(0, 0, 0.03)).round(1), AXIAL),
    "0.625 mm and one decimal": (line(40, 0.625).round(1), AXIAL),
    "length 1.0004": (line(40, 1.0, OBLIQUE), OBLIQUE * 1.0004),
    "three decimals": (line(40, 20.0, TURNED), TURNED.round(3)),
    "tilted by rounding": (TestTilt().tilted(40, 1.2e-3, 20.0), AXIAL),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_our_own_masks_come_back_voxel_for_voxel(tmp_path, name):
    there = series(tmp_path / "ct", *ROUND_TRIPS[name])
    grid = read_series_volume(there).grid
    mask = np.random.default_rng(3).random(grid.shape) < 0.4
    path = tmp_path / "seg.dcm"
    pydicom.dcmwrite(path, encoded(there, grid, mask), enforce_file_format=True)
    notes = []
    target = target_of("case1", there, grid)
    (region,) = import_regions([path], spec(liver="liver"), target, notes)
    np.testing.assert_array_equal(on_grid(region, grid), mask)
    (note,) = notes
    assert note.endswith("was taken by the images that it references.")


@pytest.mark.parametrize(("away", "sound"), [(0.0009, True), (0.0011, False)])
def test_masks_are_encoded_on_the_grid_that_they_were_made_on(tmp_path, away, sound):
    there = series(tmp_path, line(5, 2.0))
    grid = read_series_volume(there).grid
    affine = grid.affine.copy()
    affine[0, 3] += away
    mask = np.ones(grid.shape, bool)
    if sound:
        assert encoded(there, Grid(grid.shape, affine), mask).NumberOfFrames == 5
        return
    with pytest.raises(CaseFault, match=r"up to 0\.00 mm off the slices") as fault:
        encoded(there, Grid(grid.shape, affine), mask)
    assert fault.value.reason is Reason.GRID_MISMATCH
