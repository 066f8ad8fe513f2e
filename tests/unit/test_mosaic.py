"""Slices of Siemens mosaics lie where the scanner measured them, or the mosaic is refused."""

from __future__ import annotations

import struct
import time
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedMRImageStorage,
    RLELossless,
)

from jipflow.images import mosaic as module
from jipflow.images.csa import LONGEST
from jipflow.images.pixels import Tile
from jipflow.images.read import read_instance
from jipflow.images.series import read_planes, read_series_volume
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.reasons import CaseFault, Decision, Reason
from jipflow.segment.engines.imported.engine import import_regions, target_of
from seg_archive import on_grid, spec
from series_factory import (
    as_mr,
    csa_header,
    ct_hu,
    in_syntax,
    mosaic,
    mosaic_csa,
    mr_datasets,
    series_of,
    write,
)
from test_encode import encode, masks, referenced

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nibabel.nicom.dicomwrappers import wrapper_from_data

SHAPE = (7, 8, 10)
DIRECTIONS = {
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "feet first": ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "oblique": ((0.8, 0.6, 0.0), (-0.48, 0.64, 0.6)),
}


def grid_along(name, shape=SHAPE):
    return PhantomGrid(shape, (4.0, 3.5, 3.0), (-15.0, -12.0, 30.0), *DIRECTIONS[name])


def slices(name="axial", shape=SHAPE):
    return as_mr(dicom.ct_series(ct_hu(shape), grid_along(name, shape)))


def read(image, folder, notes=None):
    return read_series_volume(series_of(write([image], folder)), notes=notes)


def refusal(image, folder):
    with pytest.raises(CaseFault) as caught:
        read(image, folder)
    assert str(folder) in caught.value.message
    return caught.value.reason, caught.value.message


def with_csa(data, count=None):
    """A mosaic of six slices with another CSA header, and another number in (0019,100A)."""
    image = mosaic(mr_datasets())
    image[0x0029, 0x1010].value = data
    image[0x0019, 0x100A].value = count
    return image


@pytest.mark.parametrize("backward", [False, True], ids=["along", "against"])
@pytest.mark.parametrize("name", DIRECTIONS)
class TestEachVoxel:
    def test_is_where_its_slice_was(self, name, backward, tmp_path):
        datasets = slices(name)
        notes, grid = [], grid_along(name)
        volume = read(mosaic(datasets[::-1] if backward else datasets), tmp_path, notes)
        np.testing.assert_array_equal(volume.array, ct_hu(SHAPE) + 1024)
        for index in [(0, 0, 0), (6, 0, 0), (0, 7, 0), (0, 0, 9), (2, 3, 4)]:
            place = (volume.grid.affine @ [*index, 1.0])[:3]
            np.testing.assert_allclose(place, grid.position(*index), atol=1e-6)
        assert notes == [
            "The 7 slices are the tiles of a Siemens mosaic, in the direction of SliceNormalVector "
            "from its corrected Image Position (Patient)."
        ]

    def test_is_where_nibabel_puts_it(self, name, backward, tmp_path):
        image = mosaic(slices(name)[:: -1 if backward else 1])
        peer = wrapper_from_data(image)
        volume = read(image, tmp_path)
        # nibabel's axes are row, column, slice.
        values = peer.get_data()
        places = np.c_[np.argwhere(values >= 0), np.ones(values.size)] @ peer.affine.T
        found = places @ np.linalg.inv(volume.grid.affine).T
        index = np.rint(found[:, :3]).astype(int)
        assert np.abs(found[:, :3] - index).max() < 1e-6
        np.testing.assert_array_equal(volume.array[tuple(index.T)], values.ravel())


@pytest.mark.parametrize(
    ("count", "side"), [(2, 2), (4, 2), (5, 3), (9, 3), (10, 4), (16, 4), (17, 5)]
)
def test_tiles_lie_in_the_smallest_square(count, side, tmp_path):
    shape = (count, 4, 6)
    volume = read(mosaic(slices(shape=shape)), tmp_path)
    np.testing.assert_array_equal(volume.array, ct_hu(shape) + 1024)
    assert Tile(0, count).side == side


def test_planes_are_like_those_of_single_slices(tmp_path):
    single = read_planes(series_of(write(mr_datasets(), tmp_path / "single")))
    image = mosaic(mr_datasets()[::-1])
    image.ImagesInAcquisition = 120
    planes = read_planes(series_of(write([image], tmp_path / "mosaic")))
    assert [plane.frame for plane in planes] == [5, 4, 3, 2, 1, 0]
    for plane, other in zip(planes, single, strict=True):
        for name in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
            assert plane.header[name].value == other.header[name].value
        np.testing.assert_allclose(
            plane.header.ImagePositionPatient, other.header.ImagePositionPatient, atol=1e-7
        )
        assert all(len(str(x)) <= 16 for x in plane.header.ImagePositionPatient)
        assert plane.digest() == other.digest()
        assert plane.header.SOPInstanceUID == image.SOPInstanceUID
        assert plane.header.AcquisitionTime == image.AcquisitionTime
        assert "ImagesInAcquisition" not in plane.header
        assert "PixelData" not in plane.header
        assert plane.frame_number == 0
        assert plane.instance.Rows == 24


def test_the_decision_has_its_code(tmp_path):
    decisions: list[Decision] = []
    read_series_volume(series_of(write([mosaic(mr_datasets())], tmp_path)), decisions=decisions)
    assert decisions == ["mosaic_taken_apart"]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_encodings_are_read(syntax, tmp_path):
    image = in_syntax(mosaic(mr_datasets()), syntax, tmp_path)
    np.testing.assert_array_equal(read(image, tmp_path).array, ct_hu() + 1024)


def test_a_rescale_is_that_of_the_mosaic(tmp_path):
    image = mosaic(mr_datasets())
    image.RescaleSlope, image.RescaleIntercept = "2", "-5"
    np.testing.assert_array_equal(read(image, tmp_path).array, 2 * (ct_hu() + 1024) - 5)


def test_places_behind_the_last_slice_may_have_any_one_value(tmp_path):
    image = mosaic(slices())
    pixels = image.pixel_array.copy()
    for number in (7, 8):
        Tile(number, 7).cut(pixels)[...] = 4095
    image.PixelData = pixels.tobytes()
    np.testing.assert_array_equal(read(image, tmp_path / "a").array, ct_hu(SHAPE) + 1024)
    Tile(8, 7).cut(pixels)[7, 9] = 4094
    image.PixelData = pixels.tobytes()
    reason, message = refusal(image, tmp_path / "b")
    assert reason is Reason.GEOMETRY_REFUSED
    assert "a tile behind these is not blank" in message


def test_blank_tiles_of_another_value_each_are_slices_that_were_not_counted(tmp_path):
    image = mosaic(slices())
    pixels = image.pixel_array.copy()
    Tile(8, 7).cut(pixels)[...] = 1
    image.PixelData = pixels.tobytes()
    assert refusal(image, tmp_path)[0] is Reason.GEOMETRY_REFUSED


def test_a_blank_slice_is_a_slice(tmp_path):
    datasets = slices()
    datasets[-1].PixelData = bytes(len(datasets[-1].PixelData))
    volume = read(mosaic(datasets), tmp_path)
    assert volume.array.shape == SHAPE
    assert not volume.array[-1].any()


@pytest.mark.parametrize("word", ["MOSAIC", "NORM"])
def test_a_number_of_one_is_a_single_slice(word, tmp_path):
    datasets = mr_datasets()
    for dataset in datasets:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", word]
        dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 1)
    notes: list[str] = []
    volume = read_series_volume(series_of(write(datasets, tmp_path)), notes=notes)
    np.testing.assert_array_equal(volume.array, ct_hu() + 1024)
    assert notes == []


def test_a_converted_mosaic_is_known_by_its_image_type_alone(tmp_path):
    image = mosaic(mr_datasets())
    image.SOPClassUID = LegacyConvertedEnhancedMRImageStorage
    image.remove_private_tags()
    with pytest.raises(CaseFault, match="frames are Siemens mosaics that were converted"):
        module.split(tmp_path, image)


def test_slices_that_differ_by_the_least_of_32_bits_are_two(tmp_path):
    datasets = [*mr_datasets(), mr_datasets()[0]]
    for number, dataset in enumerate(datasets):
        dataset.BitsAllocated = dataset.BitsStored = 32
        dataset.HighBit = 31
        values = np.full((8, 10), 2**30 + (number == 6), np.uint32)
        dataset.PixelData = values.tobytes()
    datasets[6].SOPInstanceUID = datasets[6].file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    with pytest.raises(CaseFault) as caught:
        read_planes(series_of(write(datasets, tmp_path)))
    assert caught.value.reason is Reason.DUPLICATE_SLICES


class TestAcquisitionMatrix:
    @pytest.mark.parametrize(
        ("matrix", "is_slice"),
        [
            ([30, 0, 0, 24], True),
            ([0, 24, 30, 0], True),
            ([29, 0, 0, 29], False),
            ([0, 0, 0, 0], False),
            (None, False),
        ],
    )
    def test_says_that_an_image_is_one_slice(self, matrix, is_slice, tmp_path):
        image = mosaic(mr_datasets())
        image.AcquisitionMatrix = matrix
        planes = len(module.split(tmp_path, image))
        assert planes == (0 if is_slice else 6)


def two_mosaics(folder, shift, change):
    """Two mosaics, the second one moved along the normal and changed."""
    images = [mosaic(mr_datasets()[::-1]) for _ in range(2)]
    x, y, z = images[1].ImagePositionPatient
    images[1].ImagePositionPatient = [x, y, float(z) + shift]
    images[1].SOPInstanceUID = images[1].file_meta.MediaStorageSOPInstanceUID = dicom.uid("two")
    change(images[1])
    return series_of(write(images, folder))


class TestTwoMosaics:
    @pytest.mark.parametrize("shift", [2.0, 24.0], ids=["between one another", "behind"])
    def test_that_make_an_even_stack_are_two_volumes(self, shift, tmp_path):
        for read_them in (read_planes, read_series_volume):
            with pytest.raises(CaseFault) as caught:
                read_them(two_mosaics(tmp_path, shift, len))
            assert caught.value.reason is Reason.MIXED_ACQUISITIONS
            assert "its slices are of 2 mosaics" in caught.value.message

    def test_that_lie_a_little_apart_are_none(self, tmp_path):
        with pytest.raises(CaseFault) as caught:
            read_series_volume(two_mosaics(tmp_path, 0.3, len))
        assert caught.value.reason is Reason.IRREGULAR_SPACING

    def test_that_are_the_same_count_once(self, tmp_path):
        notes: list[str] = []
        series = two_mosaics(tmp_path, 0.0, lambda image: in_syntax(image, RLELossless, tmp_path))
        volume = read_series_volume(series, notes=notes)
        np.testing.assert_array_equal(volume.array, ct_hu() + 1024)
        assert notes[0] == "Repeated slices, of the same place and pixels, left out: 6."
        assert notes[1].startswith("The 6 slices are the tiles of a Siemens mosaic, in the ")

    def test_of_many_points_of_time_are_compared_at_once(self, tmp_path, monkeypatch):
        """Two hundred with 36 slices each took minutes, slice with slice."""
        images = []
        for number in range(60):
            image = mosaic(mr_datasets())
            image.AcquisitionTime = f"{90000 + number:06d}"
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"2.25.{number + 1}"
            images.append(image)
        series, compared = series_of(write(images, tmp_path)), []
        monkeypatch.setattr("jipflow.images.stack.same_image", lambda *pair: compared.append(pair))
        with pytest.raises(CaseFault) as caught:
            read_planes(series)
        assert caught.value.reason is Reason.MIXED_ACQUISITIONS
        assert compared == []

    def test_that_nothing_distinguishes_are_read_once_each(self, tmp_path, monkeypatch):
        """And not once for each pair of their slices."""
        reads = []

        def counted(path, **options):
            reads.append(path.name)
            return read_instance(path, **options)

        monkeypatch.setattr("jipflow.images.pixels.read_instance", counted)
        changed = (mosaic(mr_datasets()).pixel_array * 2).tobytes()
        series = two_mosaics(tmp_path, 0.0, lambda image: setattr(image, "PixelData", changed))
        compared = []
        monkeypatch.setattr("jipflow.images.stack.same_image", lambda *pair: compared.append(pair))
        with pytest.raises(CaseFault) as caught:
            read_series_volume(series)
        assert caught.value.reason is Reason.DUPLICATE_SLICES
        assert sorted(reads) == ["0000.dcm", "0001.dcm"]
        assert compared == []


@pytest.mark.parametrize("count", [None, 0, -6, 6.5, "six"])
def test_a_number_that_is_none_is_not_there(count, tmp_path):
    data = mosaic_csa(count, [0, 0, 1]).replace(b"US\0\0", b"LO\0\0")
    reason, message = refusal(with_csa(data), tmp_path)
    assert reason is Reason.MISSING_GEOMETRY
    assert "and NumberOfImagesInMosaic (0019,xx0A) is missing" in message


@pytest.mark.parametrize(
    "normal", [[], [0, 0], [0, 0, 1, 0], ["x", "y", "z"]], ids=["none", "two", "four", "words"]
)
def test_a_normal_that_is_none_is_not_there(normal, tmp_path):
    data = mosaic_csa(6, normal).replace(b"FD\0\0", b"LO\0\0")
    reason, message = refusal(with_csa(data, 6), tmp_path)
    assert reason is Reason.MISSING_GEOMETRY
    assert "and SliceNormalVector in the CSA header (0029,xx10) is missing" in message


@pytest.mark.parametrize("normal", [[0, 0, 0], ["nan", 0, 1], ["inf", 0, 1]])
def test_a_normal_without_a_direction_is_refused(normal, tmp_path):
    assert refusal(with_csa(mosaic_csa(6, normal), 6), tmp_path)[0] is Reason.GEOMETRY_REFUSED


@pytest.mark.parametrize("sign", [1, -1])
def test_a_normal_may_be_off_by_rounding_and_no_more(sign, tmp_path):
    for degrees, passes in ((0.8, True), (0.82, False)):
        angle = np.radians(degrees)
        normal = [0, sign * np.sin(angle), sign * np.cos(angle)]
        image = with_csa(mosaic_csa(6, normal), 6)
        if passes:
            steps = [tile.ImagePositionPatient[2] for _, tile in module.split(tmp_path, image)]
            np.testing.assert_allclose(np.diff(steps), sign * 4.0)
        else:
            assert refusal(image, tmp_path)[0] is Reason.GEOMETRY_REFUSED


@pytest.mark.parametrize(("stated", "other"), [(5, 6), (6, 5)])
def test_two_numbers_that_differ_are_refused(stated, other, tmp_path):
    reason, message = refusal(with_csa(mosaic_csa(other, [0, 0, 1]), stated), tmp_path)
    assert reason is Reason.GEOMETRY_REFUSED
    assert f"is {stated} in (0019,xx0A) and {other} in the CSA header" in message


def test_a_normal_may_have_another_length(tmp_path):
    volume = read(with_csa(mosaic_csa(6, [0, 0, 0.5]), 6), tmp_path)
    assert volume.grid.spacing[0] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("stated", "reads"),
    [("4.04", True), ("4.05", False), ("3.97", True), ("3.95", False), ("0", True), ("-1", True)],
)
def test_two_distances_agree_within_a_hundredth(stated, reads, tmp_path):
    data = mosaic_csa(6, [0, 0, 1], SpacingBetweenSlices=("DS", [stated]))
    image = with_csa(data, 6)
    if reads:
        assert read(image, tmp_path).grid.spacing[0] == pytest.approx(4.0)
    else:
        reason, message = refusal(image, tmp_path)
        assert reason is Reason.GEOMETRY_REFUSED
        assert f"Spacing Between Slices is 4 mm, and {stated} mm in the CSA header" in message


@pytest.mark.parametrize("distance", ["0", "-4"])
def test_a_distance_that_is_none_is_refused(distance, tmp_path):
    image = mosaic(mr_datasets())
    image.SpacingBetweenSlices = distance
    assert refusal(image, tmp_path)[0] is Reason.GEOMETRY_REFUSED


def test_slice_thickness_is_no_distance(tmp_path):
    image = mosaic(mr_datasets())
    del image.SpacingBetweenSlices
    assert image.SliceThickness
    assert refusal(image, tmp_path)[0] is Reason.MISSING_GEOMETRY


def test_what_is_missing_is_named_with_what_to_do(tmp_path):
    image = mosaic(mr_datasets())
    image.remove_private_tags()
    del image.SpacingBetweenSlices
    _, message = refusal(image, tmp_path)
    assert message == (
        f"{tmp_path}/0000.dcm: is a Siemens mosaic, and NumberOfImagesInMosaic (0019,xx0A), "
        "SliceNormalVector in the CSA header (0029,xx10), Spacing Between Slices (0018,0088) is "
        "missing, so that its slices have no place; de-identification removes these private "
        "elements: export the series again with them, or as single slices or an enhanced image."
    )


def test_more_tiles_than_any_mosaic_has_are_refused(tmp_path):
    image = mosaic(slices(shape=(6, 1, 1)))
    image.Rows = image.Columns = 66
    image.PixelData = bytes(2 * 66 * 66)
    for count, reads in ((1024, False), (4356, False)):
        image[0x0019, 0x100A].value = count
        image[0x0029, 0x1010].value = mosaic_csa(None, [0, 0, 1])
        assert (refusal(image, tmp_path)[0] is Reason.GEOMETRY_REFUSED) is not reads
    image.Rows = image.Columns = 64
    image.PixelData = bytes(2 * 64 * 64)
    image[0x0019, 0x100A].value = 1024
    assert len(module.split(tmp_path, image)) == 1024


class TestHostileCsa:
    def test_is_contained_whatever_is_changed(self, tmp_path):
        sound = mosaic_csa(6, [0, 0, 1])
        random = np.random.default_rng(5)
        outcomes = []
        for trial in range(400):
            data = bytearray(sound)
            if trial % 4 == 0:
                del data[random.integers(len(data)) :]
            for place in random.integers(0, max(len(data), 1), 6):
                data[place : place + 1] = random.bytes(1)
            image = with_csa(bytes(data), 6)
            try:
                tiles = module.split(tmp_path, image)
                outcomes.append(len(tiles))
            except CaseFault as fault:
                outcomes.append(fault.reason)
        assert set(outcomes) <= {6, Reason.MISSING_GEOMETRY, Reason.GEOMETRY_REFUSED}
        assert outcomes.count(6) > 50
        assert outcomes.count(Reason.MISSING_GEOMETRY) > 50

    @pytest.mark.parametrize("length", [-1, -(1 << 18) - 48])
    def test_that_leads_back_is_not_followed(self, length, tmp_path):
        """nibabel would read the same bytes a million times."""
        size = 1 << 18
        tag = struct.pack("<64si4s3i", b"x", 1000, b"LO\0\0", 0, 1000, 77)
        there = struct.pack("<4i", size, size, 77, size) + b"x" * size
        back = struct.pack("<4i", 0, length, 77, 0)
        data = b"SV10\4\3\2\1" + struct.pack("<2I", 1000, 77) + tag + there + back
        begin = time.monotonic()
        reason, message = refusal(with_csa(data, 6), tmp_path)
        assert time.monotonic() - begin < 5
        assert reason is Reason.MISSING_GEOMETRY
        assert f"cannot be read (an item has {length} bytes)" in message

    def test_that_is_longer_than_any_is_not_parsed(self, tmp_path):
        data = mosaic_csa(6, [0, 0, 1])
        allowed = data.ljust(LONGEST, b"\0")
        assert len(module.split(tmp_path, with_csa(allowed, 6))) == 6
        reason, message = refusal(with_csa(allowed + b"\0\0", 6), tmp_path)
        assert reason is Reason.MISSING_GEOMETRY
        assert f"it has {LONGEST + 2} bytes" in message

    def test_is_not_looked_at_where_the_image_is_no_mosaic(self, tmp_path):
        datasets = mr_datasets()
        for dataset in datasets:
            block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
            block.add_new(0x10, "OB", b"SV10garbage.")
        volume = read_series_volume(series_of(write(datasets, tmp_path)))
        np.testing.assert_array_equal(volume.array, ct_hu() + 1024)

    def test_of_blanks_is_none(self, tmp_path):
        reason, message = refusal(with_csa(bytes(64), 6), tmp_path)
        assert reason is Reason.MISSING_GEOMETRY
        assert "SliceNormalVector in the CSA header (0029,xx10) is missing" in message

    def test_a_lack_of_memory_is_no_fault_of_the_patient(self, tmp_path, monkeypatch):
        from nibabel.nicom import csareader

        def fail(data):
            raise MemoryError

        monkeypatch.setattr(csareader, "read", fail)
        with pytest.raises(MemoryError):
            module.split(tmp_path, mosaic(mr_datasets()))


def test_a_csa_header_of_the_first_kind_is_read(tmp_path):
    """It has no SV10, and each length is stated with the number of a tag's items added to it."""
    header = struct.pack("<2I", 3, 77)
    header += struct.pack("<64si4s3i", b"EchoLinePosition", 0, b"IS\0\0", 6, 0, 77)
    for name, vr, values in (
        (b"NumberOfImagesInMosaic", b"US\0\0", ["6"]),
        (b"SliceNormalVector", b"FD\0\0", ["0.0", "0.0", "-1.0"]),
    ):
        header += struct.pack("<64si4s3i", name, len(values), vr, 0, 6, 77)
        for value in [*values, *[""] * (6 - len(values))]:
            item = value.encode() + b"\0" if value else b""
            header += struct.pack("<4i", len(item) + 6, 0, 77, 0)
            header += item + bytes(-len(item) % 4)
    volume = read(with_csa(header), tmp_path)
    np.testing.assert_array_equal(volume.array, (ct_hu() + 1024)[::-1])
    assert volume.grid.affine[2, 3] == pytest.approx(30.0 - 5 * 4.0)


class TestObjects:
    @pytest.mark.parametrize("encoding", ["binary", "labelmap"])
    def test_a_seg_names_the_mosaic_and_no_frame_of_it(self, encoding, tmp_path):
        source = write([mosaic(mr_datasets()[::-1])], tmp_path)
        seg = encode(source, encoding, **masks(source))
        uid = pydicom.dcmread(source[0], stop_before_pixels=True).SOPInstanceUID
        assert set(referenced(seg)) == {(uid, None)}
        (instance,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        assert instance.ReferencedSOPInstanceUID == uid
        heights = set()
        for group in seg.PerFrameFunctionalGroupsSequence:
            image = group.DerivationImageSequence[0].SourceImageSequence[0]
            assert image.SpatialLocationsPreserved == "NO"
            heights.add(float(group.PlanePositionSequence[0].ImagePositionPatient[2]))
        assert heights == {34.0, 38.0, 42.0}

    @pytest.mark.parametrize("number", [None, 1, 3])
    def test_a_seg_that_names_the_mosaic_lies_where_its_positions_say(self, number, tmp_path):
        source = write([mosaic(mr_datasets()[::-1])], tmp_path / "mosaic")
        drawn = masks(source)
        seg = encode(source, **drawn)
        for group in seg.PerFrameFunctionalGroupsSequence:
            image = group.DerivationImageSequence[0].SourceImageSequence[0]
            # As another program writes it, which knows no mosaics.
            image.SpatialLocationsPreserved = "YES"
            if number:
                image.ReferencedFrameNumber = number
        path = tmp_path / "seg.dcm"
        pydicom.dcmwrite(path, seg, enforce_file_format=True)
        series = series_of(source)
        target = target_of("case1", series, read_series_volume(series).grid)
        assert target.images.numbers == {}
        wanted = spec(**{name: name for name in drawn})
        for region in import_regions([path], wanted, target, []):
            np.testing.assert_array_equal(on_grid(region, target.grid), drawn[region.name])

    @pytest.mark.parametrize("backward", [False, True])
    def test_contours_that_name_the_mosaic_lie_where_their_points_say(self, backward, tmp_path):
        datasets = mr_datasets()
        grid = PhantomGrid((6, 8, 10), (4.0, 3.5, 3.0), (-15.0, -12.0, 30.0))
        image = mosaic(datasets[::-1] if backward else datasets)
        series = series_of(write([image], tmp_path / "mosaic"))
        mask = np.zeros(grid.shape, bool)
        mask[1:3, 2:6, 3:8] = True
        structure = dicom.rtstruct({"GTV": mask}, grid, datasets)
        for _, element in ((e.tag, e) for e in structure.iterall()):
            if element.keyword == "ReferencedSOPInstanceUID":
                element.value = image.SOPInstanceUID
        path = tmp_path / "rt.dcm"
        path.write_bytes(dicom.to_bytes(structure))
        wanted = spec(gtv="GTV").model_copy(update={"source": "RTSTRUCT"})
        target = target_of("case1", series, read_series_volume(series).grid)
        (region,) = import_regions([path], wanted, target, [])
        np.testing.assert_array_equal(on_grid(region, target.grid), mask)


def test_csa_headers_are_as_nibabel_reads_them():
    from nibabel.nicom import csareader

    tags = csareader.read(csa_header(A=("LO", ["abc"]), B=("FD", [1.5, -2]), C=("IS", [])))["tags"]
    assert [tags[name]["items"] for name in "ABC"] == [["abc"], [1.5, -2.0], []]
