"""What a DICOM-SEG says of its slices is compared with the image that it is laid on."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.uid import EnhancedCTImageStorage

from jipflow.images.series import read_series_volume
from jipflow.images.volume import Grid
from jipflow.objects.annotation import SourceImages
from jipflow.objects.seg_places import ALIGNMENT_TOLERANCE, Frames, comb, place, same_distance
from jipflow.phantom import dicom
from jipflow.reasons import Reason
from jipflow.segment.engines.imported.engine import target_of
from seg_archive import GAPPED, GRID, NODE, SLAB, TUMOUR, Archive, box, labelled, stacked
from series_factory import enhanced, series_of, write

KINDS = ("BINARY", "LABELMAP")
WHOLE = box((0, 6), (3, 8), (4, 7))


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


def frames(dataset):
    return dataset.PerFrameFunctionalGroupsSequence


def measures(dataset):
    return dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def forget_images(dataset):
    """Name no image, as objects that keep the frame of reference alone."""
    dataset.pop("ReferencedSeriesSequence", None)
    for frame in frames(dataset):
        del frame.DerivationImageSequence


def name_others(dataset):
    """Name images of another series."""
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = dicom.uid("another series")
    for item in dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence:
        item.ReferencedSOPInstanceUID = dicom.uid("another", item.ReferencedSOPInstanceUID)
    for frame in frames(dataset):
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        source.ReferencedSOPInstanceUID = dicom.uid("another", source.ReferencedSOPInstanceUID)


def state(distance=None, thickness=None):
    def change(dataset):
        for name, value in (("SpacingBetweenSlices", distance), ("SliceThickness", thickness)):
            measures(dataset).pop(name, None)
            if value is not None:
                setattr(measures(dataset), name, value)

    return change


def shift(vector, which=slice(None)):
    def change(dataset):
        for frame in list(frames(dataset))[which]:
            plane = frame.PlanePositionSequence[0]
            plane.ImagePositionPatient = [
                f"{float(p) + v:.6f}"
                for p, v in zip(plane.ImagePositionPatient, vector, strict=True)
            ]

    return change


def every(*changes):
    def change(dataset):
        for one in changes:
            one(dataset)

    return change


def of(archive, mask, kind="BINARY", *changes):
    pixels = stacked(mask) if kind == "BINARY" else labelled(mask)
    return archive.write(archive.seg(pixels, kind, ("GTV",)), every(*changes))


def thinner(archive):
    """The same patient in slices that lie half as far apart, on the same frame of reference."""
    grid = replace(GRID, shape=(11, *GRID.shape[1:]), spacing=(1.5, 2.0, 2.0))
    images = dicom.ct_series(np.zeros(grid.shape, np.int16), grid)
    for number, image in enumerate(images):
        image.SeriesInstanceUID = dicom.uid("thinner")
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = dicom.uid(
            "thin", number
        )
    series = series_of(write(images, archive.folder / "thin"))
    return target_of("case1", series, read_series_volume(series).grid)


class TestDistance:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "changes",
        [
            [],
            [forget_images],
            [state(3.0)],
            [state(None, 3.0)],
            [state(None, None)],
            [state(-3.0), forget_images],
        ],
    )
    @pytest.mark.parametrize("mask", [WHOLE, TUMOUR, SLAB, GAPPED])
    def test_slices_of_a_thicker_series_are_no_comb(self, archive, kind, changes, mask):
        path = of(archive, mask, kind, *changes)
        reason, message = archive.refusal(path, thinner(archive))
        assert reason is Reason.GRID_MISMATCH
        assert "slices" in message

    @pytest.mark.parametrize("kind", KINDS)
    def test_slices_of_a_thinner_series_are_refused(self, archive, kind):
        thin = Archive(archive.folder / "other")
        target = thinner(archive)
        path = of(thin, SLAB, kind, state(1.5), forget_images)
        assert archive.refusal(path)[0] is Reason.GRID_MISMATCH
        assert target.grid.spacing[0] == 1.5

    @pytest.mark.parametrize(
        ("distance", "sound"), [(3.119, True), (3.121, False), (2.881, True), (2.879, False)]
    )
    def test_that_is_stated_is_that_of_the_image_but_for_rounding(self, archive, distance, sound):
        path = of(archive, WHOLE, "BINARY", state(distance))
        if sound:
            np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], WHOLE)
            return
        reason, message = archive.refusal(path)
        assert reason is Reason.GRID_MISMATCH
        assert f"slices lie {distance:g} mm apart, and the image's lie 3 mm apart" in message

    @pytest.mark.parametrize(
        ("stated", "distance", "same"),
        [(0.659, 0.55, True), (0.661, 0.55, False), (5.119, 5, True), (5.121, 5, False)],
    )
    def test_rounding_is_a_share_of_thin_slices(self, stated, distance, same):
        assert same_distance(stated, distance) is same
        assert same_distance(-stated, distance) is same

    def test_that_the_images_state_alike_is_no_contradiction(self, tmp_path):
        """Spacing Between Slices of a CT may be a gap, and its object has copied it."""
        archive = Archive(tmp_path)
        for image in archive.images:
            image.SpacingBetweenSlices = "-0.5"
        archive.series = series_of(write(archive.images, tmp_path / "ct"))
        archive.target = target_of("case1", archive.series, archive.grid)
        copied = of(archive, WHOLE, "BINARY", state(0.5))
        np.testing.assert_array_equal(archive.regions(copied)[0]["gtv"], WHOLE)
        other = of(archive, WHOLE, "BINARY", state(0.5), name_others)
        assert archive.refusal(other)[0] is Reason.GRID_MISMATCH

    def test_of_adjacent_frames_needs_no_statement(self, archive):
        path = of(archive, WHOLE, "BINARY", state(), forget_images)
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], WHOLE)

    @pytest.mark.parametrize(("thickness", "sound"), [(3.0, True), (1.5, False), (None, False)])
    def test_of_a_single_frame_is_its_thickness(self, archive, thickness, sound):
        path = of(archive, SLAB, "BINARY", state(None, thickness), forget_images)
        if sound:
            np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], SLAB)
        else:
            reason, message = archive.refusal(path)
            assert reason is Reason.GRID_MISMATCH
            assert "nothing says that the slices it was made on" in message

    def test_of_a_frame_that_is_derived_from_the_image_needs_no_statement(self, archive):
        path = of(archive, SLAB, "BINARY", state())
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], SLAB)

    def test_what_all_frames_are_derived_from_may_stand_once(self, archive):
        """As PS3.3 C.7.6.16.1.1 has it of any functional group."""

        def shared(dataset):
            (frame,) = frames(dataset)
            common = dataset.SharedFunctionalGroupsSequence[0]
            common.DerivationImageSequence = frame.DerivationImageSequence
            del frame.DerivationImageSequence
            del dataset.ReferencedSeriesSequence

        path = of(archive, SLAB, "BINARY", state(), shared)
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], SLAB)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_second_slice_of_the_very_series_is_a_comb(self, archive, kind):
        mask = WHOLE.copy()
        mask[1::2] = False
        reason, message = archive.refusal(of(archive, mask, kind))
        assert reason is Reason.GRID_MISMATCH
        assert "one of 2 slices in turn" in message

    @pytest.mark.parametrize(
        ("planes", "step"),
        [
            ([0, 2, 4], 2),
            ([1, 4, 7, 13], 3),
            ([0, 2, 6, 8], 2),
            ([0, 2], 0),
            ([0, 4, 10], 0),
            ([0, 2, 6], 0),
            ([3, 4, 5], 0),
            ([0, 2, 4, 5], 0),
            ([], 0),
            ([5], 0),
        ],
    )
    def test_a_comb_has_equal_steps(self, planes, step):
        assert comb(np.array(planes, int)) == step


OF_Z_Y_X = [[0, 0, 1.0, 0], [0, 1.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1.0]]
"""Affine of a grid of 3 mm slices and pixels of 1 mm, from (z, y, x) to LPS."""


class TestOwnImage:
    """A frame belongs to the image that it is derived from."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("away", "sound"), [(0.59, True), (0.61, False)])
    def test_is_where_a_frame_is_put(self, archive, kind, away, sound):
        path = of(archive, WHOLE, kind, shift((0, 0, away)))
        if sound:
            np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], WHOLE)
            return
        reason, message = archive.refusal(path)
        assert reason is Reason.GRID_MISMATCH
        assert "0.20 slices away from the image that it is derived from" in message

    @pytest.mark.parametrize(("away", "sound"), [(0.29, True), (0.31, False)])
    @pytest.mark.parametrize("change", [forget_images, name_others])
    def test_is_the_nearest_where_a_frame_names_none(self, archive, change, away, sound):
        path = of(archive, WHOLE, "BINARY", change, state(3.0), shift((0, 0, away)))
        if sound:
            np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], WHOLE)
        else:
            reason, message = archive.refusal(path)
            assert reason is Reason.GRID_MISMATCH
            assert "0.10 voxels off the image's voxels" in message

    @pytest.mark.parametrize("axis", [0, 1])
    @pytest.mark.parametrize(("away", "sound"), [(0.19, True), (0.21, False)])
    def test_pixels_lie_on_its_pixels_but_for_rounding(self, archive, axis, away, sound):
        vector = [0.0, 0.0, 0.0]
        vector[axis] = away
        path = of(archive, TUMOUR, "BINARY", shift(vector))
        if sound:
            np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], TUMOUR)
        else:
            assert archive.refusal(path)[0] is Reason.GRID_MISMATCH

    def test_and_another_place_contradict_each_other(self, archive):
        """Derived from one slice, with the position of its neighbour, as of a list in reverse."""

        def reverse(dataset):
            items = [frame.DerivationImageSequence for frame in frames(dataset)]
            for frame, item in zip(frames(dataset), items[::-1], strict=True):
                frame.DerivationImageSequence = item

        reason, message = archive.refusal(of(archive, WHOLE, "BINARY", reverse))
        assert reason is Reason.GRID_MISMATCH
        assert "frame 1 lies 5.00 slices away from the image that it is derived from" in message

    @pytest.mark.parametrize(("axis", "off"), [(0, 0.25), (1, 0.25), (2, 0.75)])
    def test_far_from_its_slice_does_not_count(self, axis, off):
        """An image a quarter of a voxel off the grid takes no frame along with it."""
        positions = np.array([[0.0, 0.0, 3.0 * z] for z in range(5)])
        positions[2, axis] += off
        found = place(
            Frames(
                positions=positions[2:3],
                orientations=np.array([[1.0, 0, 0, 0, 1, 0]]),
                spacings=np.ones((1, 2)),
                shape=(4, 4),
            ),
            Grid((5, 4, 4), np.array(OF_Z_Y_X)),
            SourceImages(positions, {}, frozenset()),
            [[2]],
        )
        assert found.error == pytest.approx(0.25)
        assert found.error > ALIGNMENT_TOLERANCE

    def test_of_several_is_the_nearest(self, archive):
        def name_all(dataset):
            every_one = [copy.deepcopy(f.DerivationImageSequence[0]) for f in frames(dataset)]
            for frame in frames(dataset):
                frame.DerivationImageSequence = copy.deepcopy(every_one)

        path = of(archive, WHOLE, "BINARY", name_all, shift((0, 0, 0.5)))
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], WHOLE)

    def test_does_not_count_where_locations_are_not_preserved(self, archive):
        def move(dataset):
            for frame in frames(dataset):
                source = frame.DerivationImageSequence[0].SourceImageSequence[0]
                source.SpatialLocationsPreserved = "NO"
                source.ReferencedSOPInstanceUID = archive.slices[0].SOPInstanceUID

        path = of(archive, WHOLE, "BINARY", move, state(3.0))
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], WHOLE)

    @pytest.mark.parametrize("number", [True, False])
    def test_is_a_frame_of_a_multi_frame_image(self, tmp_path, number):
        archive = Archive(tmp_path)
        image = enhanced(copy.deepcopy(archive.images), EnhancedCTImageStorage)
        archive.series = series_of(write([image], tmp_path / "enhanced"))
        archive.target = target_of("case1", archive.series, read_series_volume(archive.series).grid)

        def name_frames(dataset):
            for frame in frames(dataset):
                source = frame.DerivationImageSequence[0].SourceImageSequence[0]
                z = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
                index = [float(i.ImagePositionPatient[2]) for i in archive.images].index(z)
                source.ReferencedSOPInstanceUID = image.SOPInstanceUID
                if number:
                    source.ReferencedFrameNumber = index + 1

        away = 0.5 if number else 0.25
        path = of(archive, WHOLE, "BINARY", name_frames, shift((0, 0, away)))
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], WHOLE)
        if not number:
            path = of(archive, WHOLE, "BINARY", name_frames, shift((0, 0, 0.5)))
            assert archive.refusal(path)[0] is Reason.GRID_MISMATCH

    def test_of_a_single_frame_may_be_named_with_its_number(self):
        images = SourceImages(np.zeros((2, 3)), {("a", 0): 0, ("b", 2): 1}, frozenset())
        assert images.find([("a", 1), ("b", 2), ("b", 1), ("c", 0)]) == [0, 1]
        assert images.find([("a", 0)]) == [0]

    @pytest.mark.parametrize("distance", [0.55, 0.625])
    @pytest.mark.parametrize("change", [lambda dataset: None, forget_images])
    @pytest.mark.parametrize("exact", [False, True])
    def test_with_a_position_of_one_decimal_has_its_mask_voxel_for_voxel(
        self, tmp_path, distance, change, exact
    ):
        archive = Archive(tmp_path)
        for number, image in enumerate(archive.slices):
            z = 5.03 + number * distance
            image.ImagePositionPatient = [-10.0, -12.0, round(z, 1)]
            image.SliceThickness = distance
        folder = tmp_path / "rounded"
        archive.series = series_of(write(archive.images, folder))
        archive.grid = read_series_volume(archive.series).grid
        archive.target = target_of("case1", archive.series, archive.grid)

        def as_it_was(dataset):
            for frame in frames(dataset):
                plane = frame.PlanePositionSequence[0]
                x, y, z = map(float, plane.ImagePositionPatient)
                number = round((z - 5.03) / distance)
                plane.ImagePositionPatient = [x, y, round(5.03 + number * distance, 5)]

        path = of(archive, WHOLE, "BINARY", *([as_it_was] if exact else []), change)
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], WHOLE)


def flipped_without_its_position(dataset):
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def flipped(dataset):
    """The same mask, its columns from the other end."""
    flipped_without_its_position(dataset)
    shift(((GRID.shape[2] - 1) * 2.0, 0, 0))(dataset)
    pixels = dataset.pixel_array.reshape(-1, *GRID.shape[1:])[..., ::-1]
    dataset.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes()
    dataset.PixelData += bytes(len(dataset.PixelData) % 2)


def measures_of_one_frame(dataset):
    other = copy.deepcopy(measures(dataset))
    other.PixelSpacing = [2.0, 1.0]
    frames(dataset)[0].PixelMeasuresSequence = [other]


def spacing(*values):
    def change(dataset):
        measures(dataset).PixelSpacing = list(values)

    return change


def no_position_of_one(dataset):
    del frames(dataset)[1].PlanePositionSequence


def position_that_is_no_number(dataset):
    plane = frames(dataset)[1].PlanePositionSequence[0]
    plane.add_new("ImagePositionPatient", "FD", [float("nan"), 0.0, 0.0])


def orientation_of_no_directions(dataset):
    plane = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]


def one_frame_more_than_described(dataset):
    dataset.NumberOfFrames = len(frames(dataset)) + 1


def two_of_one_place(dataset):
    """Both within what counts as rounding of the same slice."""
    one, two = frames(dataset)[:2]
    two.PlanePositionSequence = copy.deepcopy(one.PlanePositionSequence)
    if "DerivationImageSequence" in one:
        two.DerivationImageSequence = copy.deepcopy(one.DerivationImageSequence)
    plane = two.PlanePositionSequence[0]
    x, y, z = map(float, plane.ImagePositionPatient)
    plane.ImagePositionPatient = [x, y, z + 0.2]


class TestOtherGrids:
    @pytest.mark.parametrize(
        "change",
        [
            flipped_without_its_position,
            measures_of_one_frame,
            spacing(2.0, 1.99),
            spacing(1.0, 2.0),
            spacing(2.0, -2.0),
            no_position_of_one,
            position_that_is_no_number,
            orientation_of_no_directions,
            one_frame_more_than_described,
            two_of_one_place,
            shift((1.0, 0, 0)),
            shift((0, 0, 1.5)),
            shift((0, 0, 1.5), slice(2, None)),
            shift((0, 0, 300.0)),
            shift((66.0, 0, 0)),
        ],
    )
    def test_are_refused(self, archive, change):
        for others in ([], [forget_images, state(3.0)]):
            path = of(archive, WHOLE | NODE, "BINARY", *others, change)
            assert archive.refusal(path)[0] is Reason.GRID_MISMATCH

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (measures_of_one_frame, "of a frame is another than that of all frames"),
            (spacing(2.0, -2.0), "spacing of a frame is missing or absurd"),
            (no_position_of_one, "spacing of a frame is missing or absurd"),
            (position_that_is_no_number, "spacing of a frame is missing or absurd"),
            (orientation_of_no_directions, "spacing of a frame is missing or absurd"),
        ],
    )
    def test_are_refused_for_what_they_are(self, archive, change, words):
        path = of(archive, WHOLE | NODE, "BINARY", change)
        reason, message = archive.refusal(path)
        assert reason is Reason.GRID_MISMATCH
        assert words in message

    def test_a_flip_with_its_position_is_undone(self, archive):
        path = of(archive, TUMOUR, "BINARY", flipped)
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], TUMOUR)

    @pytest.mark.parametrize(("across", "sound"), [(2.0057, True), (2.0064, False)])
    def test_rounded_pixel_spacing_counts_at_the_far_corner(self, archive, across, sound):
        path = of(archive, TUMOUR, "BINARY", spacing(2.0, across))
        if sound:
            np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], TUMOUR)
        else:
            assert archive.refusal(path)[0] is Reason.GRID_MISMATCH

    def test_directions_of_another_length_are_the_same(self, archive):
        def lengthen(dataset):
            plane = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
            plane.ImageOrientationPatient = [1.0009, 0, 0, 0, 1.0009, 0]

        path = of(archive, TUMOUR, "BINARY", lengthen)
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], TUMOUR)

    def test_directions_of_another_length_count_for_nothing_at_the_far_corner(self):
        """Of 512 pixels, 0.0009 a pixel would be half a voxel."""
        found = place(
            Frames(
                positions=np.zeros((1, 3)),
                orientations=np.array([[1.0009, 0, 0, 0, 1.0009, 0]]),
                spacings=np.ones((1, 2)),
                shape=(512, 512),
            ),
            Grid((5, 512, 512), np.array(OF_Z_Y_X)),
        )
        assert found.error < 1e-9

    def test_a_series_on_the_same_slices_is_taken_with_a_note(self, archive):
        path = of(archive, TUMOUR, "BINARY", name_others)
        regions, notes = archive.regions(path)
        np.testing.assert_array_equal(regions["gtv"], TUMOUR)
        assert "references no image of series" in notes

    def test_a_part_of_the_image_is_put_in_its_place(self, archive):
        def crop(dataset):
            pixels = dataset.pixel_array.reshape(-1, *GRID.shape[1:])[:, 2:30, 3:20]
            dataset.Rows, dataset.Columns = pixels.shape[1:]
            dataset.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes()
            dataset.PixelData += bytes(len(dataset.PixelData) % 2)
            shift((6.0, 4.0, 0))(dataset)

        path = of(archive, TUMOUR, "BINARY", crop)
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], TUMOUR)

    def test_damage_is_no_place(self, archive):
        """The very object is sound: what the others refuse is what was changed."""
        path = of(archive, WHOLE | NODE, "BINARY")
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], WHOLE | NODE)
        assert pydicom.dcmread(path).NumberOfFrames == 6
