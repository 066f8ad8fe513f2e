"""A tilted stack on a right grid: a sphere keeps its volume and its place."""

from __future__ import annotations

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from jipflow.images.contours import rasterise
from jipflow.images.masks import Region, pack
from jipflow.images.series import read_planes, read_series_volume
from jipflow.images.stack import grid_of
from jipflow.objects.seg_writer import build_seg
from jipflow.objects.terms import read_terms
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.reasons import CaseFault, Decision, Reason
from jipflow.segment.engines.imported.engine import import_regions, target_of
from seg_archive import description, on_grid, spec
from series_factory import pt_datasets, series_of, write

RADIUS, DISTANCE, SPACING, SIZE, COUNT = 20.0, 2.5, (0.9, 1.1), (70, 64), 24
ANGLES = [5, -5, 15, -15, 25, -25, 30, -30]
TURNS = {"axial": (0.0, 0.0), "oblique": (20.0, 12.0)}


def directions(turn):
    a, b = np.radians(TURNS[turn])
    row = np.array([np.cos(a), np.sin(a), 0])
    return row, np.array([-np.sin(a) * np.cos(b), np.cos(a) * np.cos(b), np.sin(b)])


class Sphere:
    """A CT of a sphere of 1000 HU in 0 HU, whose slices shift along their columns."""

    def __init__(self, angle, turn="axial", distance=DISTANCE):
        self.row, self.column = directions(turn)
        self.normal = np.cross(self.row, self.column)
        step = distance * (self.normal + np.tan(np.radians(angle)) * self.column)
        self.positions = np.outer(np.arange(COUNT), step)
        middle = self.positions[COUNT // 2]
        self.centre = middle + self.column * SPACING[0] * 35 + self.row * SPACING[1] * 32
        i, j = np.mgrid[: SIZE[0], : SIZE[1]]
        plane = i[..., None] * SPACING[0] * self.column + j[..., None] * SPACING[1] * self.row
        away = np.linalg.norm(self.positions[:, None, None] + plane - self.centre, axis=-1)
        self.hu = np.rint(np.clip((RADIUS - away) / 1.5 + 0.5, 0, 1) * 1000).astype(np.int16)

    def datasets(self):
        grid = PhantomGrid(self.hu.shape, (DISTANCE, *SPACING), (0.0, 0.0, 0.0))
        found = dicom.ct_series(self.hu, grid)
        for dataset, position in zip(found, self.positions, strict=True):
            dataset.ImagePositionPatient = [f"{v:.6f}" for v in position]
            dataset.ImageOrientationPatient = [f"{v:.9f}" for v in (*self.row, *self.column)]
        return found

    def by_simpleitk(self, grid):
        """The sheared stack on a grid, by its affine with a shear."""
        sheared = np.eye(4)
        sheared[:3, 0] = self.positions[1]
        sheared[:3, 1], sheared[:3, 2] = self.column * SPACING[0], self.row * SPACING[1]
        turn = np.linalg.inv(sheared) @ grid.affine
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(turn[:3, :3][::-1, ::-1].ravel().tolist())
        affine.SetTranslation(turn[:3, 3][::-1].tolist())
        reference = sitk.Image(list(grid.shape[::-1]), sitk.sitkFloat64)
        image = sitk.Cast(sitk.GetImageFromArray(self.hu), sitk.sitkFloat64)
        return sitk.GetArrayFromImage(sitk.Resample(image, reference, affine, sitk.sitkLinear, 0.0))


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("angle", ANGLES)
def test_a_sphere_keeps_its_volume_and_centre(angle, turn, tmp_path):
    sphere = Sphere(angle, turn)
    notes, decisions = [], []
    series = series_of(write(sphere.datasets(), tmp_path))
    volume = read_series_volume(series, notes=notes, decisions=decisions)
    inside = volume.array >= 500
    truth = 4 / 3 * np.pi * RADIUS**3
    assert np.count_nonzero(inside) * volume.grid.voxel_volume == pytest.approx(truth, rel=0.01)
    weights = volume.array.astype(float)
    index = [np.average(axis, weights=weights) for axis in np.indices(weights.shape)]
    np.testing.assert_allclose((volume.grid.affine @ [*index, 1])[:3], sphere.centre, atol=0.01)
    np.testing.assert_allclose(volume.array, sphere.by_simpleitk(volume.grid), atol=0.01)
    assert decisions == [Decision.GANTRY_TILT_RESAMPLED]
    assert f"A tilt of {abs(angle)}.00 degrees was corrected" in notes[0]
    assert "have 0." in notes[1]
    axes = volume.grid.affine[:3, :3] / volume.grid.spacing
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert grid_of([plane.header for plane in read_planes(series)], "it").matches(volume.grid)


@pytest.mark.parametrize("angle", [15, -25])
def test_contours_that_were_drawn_on_tilted_slices_lie_right(angle, tmp_path):
    sphere = Sphere(angle, "oblique")
    volume = read_series_volume(series_of(write(sphere.datasets(), tmp_path)))
    contours = []
    for position in sphere.positions:
        depth = (position - sphere.centre) @ sphere.normal
        if abs(depth) < RADIUS:
            turn = np.linspace(0, 2 * np.pi, 90, endpoint=False)[:, None]
            wide = np.sqrt(RADIUS**2 - depth**2)
            round_it = np.cos(turn) * sphere.row + np.sin(turn) * sphere.column
            contours.append(sphere.centre + depth * sphere.normal + wide * round_it)
    mask = rasterise(contours, volume.grid, "case 1")
    differing = np.count_nonzero(mask ^ (volume.array >= 500))
    assert differing < 0.05 * np.count_nonzero(mask)


def test_shifts_of_whole_pixels_change_no_value(tmp_path):
    angle = np.degrees(np.arctan2(2 * SPACING[0], DISTANCE))
    sphere = Sphere(angle)
    notes = []
    volume = read_series_volume(series_of(write(sphere.datasets(), tmp_path)), notes=notes)
    assert volume.array.dtype == np.int16
    assert "by whole pixels" in notes[0]
    for k, plane in enumerate(sphere.hu):
        np.testing.assert_array_equal(volume.array[k, 2 * k : 2 * k + SIZE[0]], plane)


def test_positions_of_one_decimal_are_one_line(tmp_path):
    sphere = Sphere(15)
    sphere.positions = sphere.positions.round(1)
    volume = read_series_volume(series_of(write(sphere.datasets(), tmp_path)))
    inside = np.count_nonzero(volume.array >= 500) * volume.grid.voxel_volume
    assert inside == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.02)


def test_no_value_is_made_outside_what_was_scanned(tmp_path):
    def change(datasets):
        for number, dataset in enumerate(datasets):
            x, y, z = dataset.ImagePositionPatient
            dataset.ImagePositionPatient = [float(x) - 1.3 * number, float(y) + 0.7 * number, z]

    volume = read_series_volume(series_of(write(pt_datasets(), tmp_path, change)))
    assert volume.array.shape == (5, 7, 9)
    assert volume.array.min() == pytest.approx(2.5, rel=1e-4)
    assert volume.array.max() == pytest.approx(5, rel=1e-4)


@pytest.mark.parametrize(
    ("first", "after", "reason"),
    [
        (23, (0, 2, 0), Reason.GANTRY_TILT),
        (12, (0, -3, 0), Reason.GANTRY_TILT),
        (12, (0, 0, 1), Reason.GANTRY_TILT),
        (12, (0, DISTANCE * np.tan(np.radians(20)), DISTANCE), Reason.MISSING_SLICES),
    ],
    ids=["one slice beside", "two stacks", "uneven", "a gap"],
)
def test_what_is_no_tilt_is_refused(first, after, reason, tmp_path):
    sphere = Sphere(20)
    sphere.positions[first:] += after
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(write(sphere.datasets(), tmp_path)))
    assert caught.value.reason is reason, caught.value.message


class TestSegmentations:
    def of_others(self, sphere, folder):
        """A DICOM-SEG of the sphere on the tilted images, as highdicom makes it."""
        return highdicom.seg.Segmentation(
            source_images=sphere.datasets(),
            pixel_array=(sphere.hu >= 500).astype(np.uint8),
            segmentation_type="BINARY",
            segment_descriptions=[description(1, "GTV")],
            series_instance_uid=dicom.uid("seg series"),
            series_number=5,
            sop_instance_uid=dicom.uid("seg"),
            instance_number=1,
            manufacturer="a maker",
            manufacturer_model_name="a model",
            software_versions="1.0",
            device_serial_number="1",
            omit_empty_frames=True,
        )

    def imported(self, dataset, series, grid, folder):
        path = folder / "seg.dcm"
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        (region,) = import_regions([path], spec(gtv="GTV"), target_of("case1", series, grid), [])
        return on_grid(region, grid)

    @pytest.mark.parametrize("encoding", ["binary", "labelmap"])
    @pytest.mark.parametrize("turn", TURNS)
    def test_ours_lies_on_the_right_grid_and_comes_back(self, encoding, turn, tmp_path):
        sphere = Sphere(-15, turn)
        series = series_of(write(sphere.datasets(), tmp_path / "ct"))
        volume = read_series_volume(series)
        mask = volume.array >= 500
        dataset = build_seg(
            pack([Region("GTV", "lesion", mask, "MANUAL", "me", "1")], volume.grid),
            read_planes(series),
            read_terms(),
            encoding=encoding,
            description="a sphere",
            series_number=9001,
            identity=("protocol", "sphere"),
            notes=[],
        )
        assert (dataset.Rows, dataset.Columns) == volume.grid.shape[1:]
        uids = [str(d.SOPInstanceUID) for d in sphere.datasets()]
        for item in dataset.PerFrameFunctionalGroupsSequence:
            source = item.DerivationImageSequence[0].SourceImageSequence[0]
            number = uids.index(source.ReferencedSOPInstanceUID)
            corner = (volume.grid.affine @ [number, 0, 0, 1])[:3]
            place = item.PlanePositionSequence[0].ImagePositionPatient
            np.testing.assert_allclose([float(v) for v in place], corner, atol=1e-4)
            assert source.SpatialLocationsPreserved == "NO"
        again = self.imported(dataset, series, volume.grid, tmp_path)
        np.testing.assert_array_equal(again, mask)

    def test_that_of_others_is_refused_and_says_why(self, tmp_path):
        sphere = Sphere(20)
        series = series_of(write(sphere.datasets(), tmp_path / "ct"))
        grid = read_series_volume(series).grid
        with pytest.raises(CaseFault, match="tilt was corrected") as caught:
            self.imported(self.of_others(sphere, tmp_path), series, grid, tmp_path)
        assert caught.value.reason is Reason.GRID_MISMATCH

    def test_that_of_others_fits_where_slices_shift_by_whole_pixels(self, tmp_path):
        sphere = Sphere(np.degrees(np.arctan2(2 * SPACING[0], DISTANCE)))
        series = series_of(write(sphere.datasets(), tmp_path / "ct"))
        volume = read_series_volume(series)
        mask = self.imported(self.of_others(sphere, tmp_path), series, volume.grid, tmp_path)
        np.testing.assert_array_equal(mask, volume.array >= 500)
