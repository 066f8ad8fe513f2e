"""DICOM Segmentations of every kind become masks, voxel for voxel, or the outcome says why not."""

from __future__ import annotations

import copy
import re
import tracemalloc
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from jipflow.images.masks import Region, pack
from jipflow.images.series import read_planes, read_series_volume
from jipflow.images.volume import Grid
from jipflow.objects.seg_writer import build_seg
from jipflow.objects.terms import read_terms
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.reasons import Reason
from jipflow.segment.engines.imported.engine import import_regions, target_of
from seg_archive import (
    ENCODERS,
    GAPPED,
    GRID,
    NODE,
    SLAB,
    TUMOUR,
    Archive,
    labelled,
    on_grid,
    spec,
    stacked,
)
from series_factory import (
    concatenation,
    ct_datasets,
    enhanced,
    mosaic,
    mr_datasets,
    pt_datasets,
    series_of,
    write,
)

PLAIN = re.compile(r"\S+ was taken by the (images|series) that it references\.")
"""The note of an object that names the series or its images there: nothing else was decided."""


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


def frames_in_another_order(dataset):
    """Reverse the frames, which makes segments and slices alternate in an unusual way."""
    pixels = dataset.pixel_array[::-1]
    dataset.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes()
    if len(dataset.PixelData) % 2:
        dataset.PixelData += b"\0"
    groups = dataset.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = list(groups)[::-1]


class TestBinary:
    def test_overlapping_segments_come_back_voxel_for_voxel(self, archive):
        path = archive.write(archive.seg(stacked(TUMOUR, NODE, SLAB)))
        regions, notes = archive.regions(path, gtv="GTV", node="Node", slab="Slab")
        np.testing.assert_array_equal(regions["gtv"], TUMOUR)
        np.testing.assert_array_equal(regions["node"], NODE)
        np.testing.assert_array_equal(regions["slab"], SLAB)
        assert PLAIN.fullmatch(notes)

    @settings(
        max_examples=15,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.integers(0, 2**32 - 1), st.booleans())
    def test_any_voxels_come_back_in_any_order_of_frames(self, archive, seed, reverse):
        random = np.random.default_rng(seed)
        masks = [random.random(GRID.shape) < 0.3 for _ in range(3)]
        change = frames_in_another_order if reverse else lambda dataset: None
        path = archive.write(archive.seg(stacked(*masks)), change)
        regions, _ = archive.regions(path, a="GTV", b="Node", c="Slab")
        for expected, mask in zip(masks, regions.values(), strict=True):
            np.testing.assert_array_equal(mask, expected)

    def test_absent_frames_are_empty(self, archive):
        dataset = archive.seg(stacked(GAPPED))
        assert dataset.NumberOfFrames == 2
        np.testing.assert_array_equal(archive.regions(archive.write(dataset))[0]["gtv"], GAPPED)

    def test_one_frame_is_enough(self, archive):
        dataset = archive.seg(stacked(SLAB))
        assert dataset.NumberOfFrames == 1
        np.testing.assert_array_equal(archive.regions(archive.write(dataset))[0]["gtv"], SLAB)

    def test_segments_of_one_label_are_united(self, archive):
        path = archive.write(archive.seg(stacked(TUMOUR, NODE), labels=("GTV", "GTV")))
        regions, notes = archive.regions(path)
        np.testing.assert_array_equal(regions["gtv"], TUMOUR | NODE)
        assert "'gtv' unites segments 1, 2" in notes

    def test_segment_numbers_may_have_gaps(self, archive):
        def renumber(dataset):
            dataset.SegmentSequence[1].SegmentNumber = 40
            for group in dataset.PerFrameFunctionalGroupsSequence:
                identity = group.SegmentIdentificationSequence[0]
                if identity.ReferencedSegmentNumber == 2:
                    identity.ReferencedSegmentNumber = 40

        path = archive.write(archive.seg(stacked(TUMOUR, NODE)), renumber)
        regions, _ = archive.regions(path, gtv="GTV", node="Node")
        np.testing.assert_array_equal(regions["node"], NODE)

    @pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
    def test_other_transfer_syntaxes_are_read(self, archive, syntax):
        def rewrite(dataset):
            dataset.file_meta.TransferSyntaxUID = syntax

        path = archive.write(archive.seg(stacked(TUMOUR)), rewrite)
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], TUMOUR)


class TestLabelMap:
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, *ENCODERS])
    @pytest.mark.parametrize("numbers", [(1, 2), (7, 200), (7, 300)])
    def test_comes_back_voxel_for_voxel(self, archive, syntax, numbers):
        labels = np.zeros(GRID.shape, np.uint16 if max(numbers) > 255 else np.uint8)
        labels[TUMOUR], labels[NODE] = numbers
        dataset = archive.seg(labels, "LABELMAP", ("GTV", "Node"), numbers=numbers)
        assert dataset.BitsAllocated == (16 if max(numbers) > 255 else 8)
        path = archive.write(dataset, syntax=syntax)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
        regions, notes = archive.regions(path, gtv="GTV", node="Node")
        np.testing.assert_array_equal(regions["gtv"], TUMOUR)
        np.testing.assert_array_equal(regions["node"], NODE)
        assert PLAIN.fullmatch(notes)

    def test_absent_frames_are_empty(self, archive):
        dataset = archive.seg(labelled(GAPPED), "LABELMAP", ("GTV",))
        assert dataset.NumberOfFrames == 2
        np.testing.assert_array_equal(archive.regions(archive.write(dataset))[0]["gtv"], GAPPED)

    def test_the_background_is_no_segment(self, archive):
        path = archive.write(archive.seg(labelled(TUMOUR, NODE), "LABELMAP", ("GTV", "Node")))
        described = [s.SegmentLabel for s in pydicom.dcmread(path).SegmentSequence]
        assert described == ["Background", "GTV", "Node"]
        np.testing.assert_array_equal(archive.regions(path, all=".*")[0]["all"], TUMOUR | NODE)

    def test_the_background_is_what_pixel_padding_value_says(self, archive):
        """Label 5 pads, also where no frame is, though a segment of that number is described."""

        def pad(dataset):
            dataset.PixelPaddingValue = 5
            stored = dataset.pixel_array
            stored[stored == 0] = 5
            dataset.PixelData = stored.tobytes()
            extra = copy.deepcopy(dataset.SegmentSequence[1])
            extra.SegmentNumber, extra.SegmentLabel = 5, "Padding"
            dataset.SegmentSequence.append(extra)

        dataset = archive.seg(labelled(GAPPED), "LABELMAP", ("GTV",))
        path = archive.write(dataset, pad)
        np.testing.assert_array_equal(archive.regions(path, all=".*")[0]["all"], GAPPED)

    def test_a_palette_of_colours_does_not_change_the_labels(self, archive):
        def colour(dataset):
            dataset.PhotometricInterpretation = "PALETTE COLOR"
            for name in ("Red", "Green", "Blue"):
                setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 8])
                setattr(dataset, f"{name}PaletteColorLookupTableData", bytes(range(255, -1, -1)))

        dataset = archive.seg(labelled(TUMOUR, NODE), "LABELMAP", ("GTV", "Node"))
        path = archive.write(dataset, colour)
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], TUMOUR)


class TestFractional:
    @pytest.mark.parametrize("kind", ["PROBABILITY", "OCCUPANCY"])
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
    def test_at_least_one_half_counts_as_inside(self, archive, kind, syntax):
        fractions = np.random.default_rng(3).integers(0, 101, GRID.shape)
        dataset = archive.seg(
            fractions / 100,
            "FRACTIONAL",
            ("GTV",),
            fractional_type=kind,
            max_fractional_value=100,
        )
        regions, notes = archive.regions(archive.write(dataset, syntax=syntax))
        np.testing.assert_array_equal(regions["gtv"], fractions >= 50)
        assert f"fractions ({kind}) of at least one half count as inside" in notes

    def test_without_a_maximum_says_nothing(self, archive):
        def forget(dataset):
            del dataset.MaximumFractionalValue

        path = archive.write(archive.seg(TUMOUR.astype(float), "FRACTIONAL", ("GTV",)), forget)
        assert archive.refusal(path)[0] is Reason.UNSUPPORTED_OBJECT


def reordered(grid, axes, flips):
    """The same voxels with other array axes, and how to turn an array likewise."""
    affine = grid.affine[:, [*axes, 3]].copy()
    shape = tuple(grid.shape[axis] for axis in axes)
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
    step = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    return Grid(shape, affine), lambda array: array.transpose(axes)[step]


class TestGrids:
    @pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
    def test_frames_may_lie_along_any_axes_of_the_image(self, archive, kind):
        pixels = stacked(TUMOUR) if kind == "BINARY" else labelled(TUMOUR)
        path = archive.write(archive.seg(pixels, kind, ("GTV",)))
        for axes, flips in product(permutations(range(3)), product((False, True), repeat=3)):
            grid, turn = reordered(archive.grid, axes, flips)
            regions, _ = archive.regions(path, replace(archive.target, grid=grid))
            np.testing.assert_array_equal(regions["gtv"], turn(TUMOUR))

    @pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
    def test_a_part_of_the_slices_may_be_segmented(self, archive, kind):
        archive.slices = archive.slices[1:4]
        part = TUMOUR[1:4]
        pixels = part[..., None].astype(np.uint8) if kind == "BINARY" else part.astype(np.uint8)
        path = archive.write(archive.seg(pixels, kind, ("GTV",)))
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], TUMOUR)

    def test_another_label_beyond_the_slices_does_not_matter(self, archive):
        path = archive.write(archive.seg(labelled(NODE, TUMOUR), "LABELMAP", ("GTV", "Node")))
        regions, notes = archive.regions(path, self.cropped(archive, (3, 0, 0)))
        np.testing.assert_array_equal(regions["gtv"], NODE[3:])
        assert PLAIN.fullmatch(notes)

    def cropped(self, archive, start):
        affine = archive.grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        shape = tuple(np.subtract(archive.grid.shape, start).tolist())
        return replace(archive.target, grid=Grid(shape, affine))

    @pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
    def test_what_lies_beyond_the_image_in_plane_is_refused(self, archive, kind):
        pixels = stacked(TUMOUR) if kind == "BINARY" else labelled(TUMOUR)
        path = archive.write(archive.seg(pixels, kind, ("GTV",)))
        regions, _ = archive.regions(path, self.cropped(archive, (0, 3, 0)))
        np.testing.assert_array_equal(regions["gtv"], TUMOUR[:, 3:])
        reason, message = archive.refusal(path, self.cropped(archive, (0, 4, 0)))
        assert reason is Reason.GRID_MISMATCH
        assert f"{TUMOUR[:, :4].sum()} of its voxels lie beyond the image" in message

    @pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
    def test_what_lies_beyond_the_slices_is_refused(self, archive, kind):
        pixels = stacked(TUMOUR) if kind == "BINARY" else labelled(TUMOUR)
        path = archive.write(archive.seg(pixels, kind, ("GTV",)))
        np.testing.assert_array_equal(
            archive.regions(path, self.cropped(archive, (1, 0, 0)))[0]["gtv"], TUMOUR[1:]
        )
        reason, message = archive.refusal(path, self.cropped(archive, (2, 0, 0)))
        assert reason is Reason.GRID_MISMATCH
        assert f"{TUMOUR[:2].sum()} of its voxels lie beyond the image" in message

    @pytest.mark.parametrize(
        "change",
        [
            lambda affine: affine + np.outer([0.7, 0, 0, 0], [0, 0, 0, 1]),
            lambda affine: affine + np.outer([0, 0, 1.0, 0], [0, 0, 0, 1]),
            lambda affine: affine * [1, 1.02, 1, 1],
            lambda affine: affine * [2, 1, 1, 1],
            lambda affine: (
                affine
                @ np.block([[np.eye(3)[[0, 2, 1]], np.zeros((3, 1))], [0, 0, 0, 1]])
                @ np.array([[1, 0, 0, 0], [0, 0.8, -0.6, 0], [0, 0.6, 0.8, 0], [0, 0, 0, 1.0]])
            ),
        ],
        ids=["shifted in plane", "between slices", "other pixels", "other slices", "turned"],
    )
    def test_another_grid_is_refused(self, archive, change):
        path = archive.write(archive.seg(stacked(TUMOUR | NODE)))
        grid = Grid(archive.grid.shape, change(archive.grid.affine))
        reason, message = archive.refusal(path, replace(archive.target, grid=grid))
        assert reason is Reason.GRID_MISMATCH
        assert archive.target.series_uid in message

    def test_rounded_positions_are_no_other_grid(self, archive):
        grid = Grid(archive.grid.shape, archive.grid.affine.copy())
        grid.affine[:3, 3] += [0.01, -0.02, 0.03]
        path = archive.write(archive.seg(stacked(TUMOUR)))
        mask = archive.regions(path, replace(archive.target, grid=grid))[0]["gtv"]
        np.testing.assert_array_equal(mask, TUMOUR)


class TestReferences:
    def test_our_own_objects_count_only_where_no_other_fits(self, archive):
        """What was published comes back with the next query of the PACS."""

        def ours(dataset):
            dataset.Manufacturer = "jipflow"
            dataset.SOPInstanceUID = dicom.uid("ours")

        made = archive.write(archive.seg(stacked(NODE)), ours)
        np.testing.assert_array_equal(archive.regions(made)[0]["gtv"], NODE)
        made = made.rename(archive.folder / "ours.dcm")
        original = archive.write(archive.seg(stacked(TUMOUR)), self.forget)
        notes = []
        (region,) = import_regions([made, original], spec(gtv="GTV"), archive.target, notes)
        np.testing.assert_array_equal(on_grid(region, archive.grid), TUMOUR)
        assert "1 SEG objects that jipflow made were passed over" in " ".join(notes)

    def test_the_images_that_frames_derive_from_are_references_too(self, archive):
        def forget_series(dataset):
            del dataset.ReferencedSeriesSequence

        path = archive.write(archive.seg(stacked(TUMOUR)), forget_series)
        regions, notes = archive.regions(path)
        np.testing.assert_array_equal(regions["gtv"], TUMOUR)
        assert PLAIN.fullmatch(notes)

    def forget(self, dataset):
        del dataset.ReferencedSeriesSequence
        for group in dataset.PerFrameFunctionalGroupsSequence:
            del group.DerivationImageSequence

    def test_the_frame_of_reference_serves_where_no_image_is_referenced(self, archive):
        path = archive.write(archive.seg(stacked(TUMOUR)), self.forget)
        regions, notes = archive.regions(path)
        np.testing.assert_array_equal(regions["gtv"], TUMOUR)
        assert "by its frame of reference" in notes

    def test_geometry_serves_where_no_uid_fits(self, archive):
        def change(dataset):
            self.forget(dataset)
            dataset.FrameOfReferenceUID = ""

        path = archive.write(archive.seg(stacked(TUMOUR)), change)
        regions, notes = archive.regions(path)
        np.testing.assert_array_equal(regions["gtv"], TUMOUR)
        assert "by its geometry" in notes
        shifted = Grid(archive.grid.shape, archive.grid.affine.copy())
        shifted.affine[0, 3] += 1.0
        reason, _ = archive.refusal(path, replace(archive.target, grid=shifted))
        assert reason is Reason.NO_CONTOURS

    def test_another_frame_of_reference_is_refused_whatever_else_fits(self, archive):
        def change(dataset):
            dataset.FrameOfReferenceUID = dicom.uid("elsewhere")

        reason, message = archive.refusal(archive.write(archive.seg(stacked(TUMOUR)), change))
        assert reason is Reason.OTHER_FRAME_OF_REFERENCE
        assert dicom.uid("elsewhere") in message


def no_positions(dataset):
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence


def one_frame_too_many(dataset):
    dataset.NumberOfFrames += 1


def one_place_twice(dataset):
    first, second = dataset.PerFrameFunctionalGroupsSequence[:2]
    second.PlanePositionSequence = first.PlanePositionSequence


def pixels_cut_off(dataset):
    dataset.PixelData = dataset.PixelData[:20]


def fewer_rows(dataset):
    dataset.Rows -= 2


def no_number(dataset):
    del dataset.SegmentSequence[-1].SegmentNumber


def no_pixels(dataset):
    del dataset.PixelData


def surfaces(dataset):
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.5"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID


def no_segments(dataset):
    del dataset.SegmentSequence


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (no_positions, Reason.GRID_MISMATCH),
        (one_frame_too_many, Reason.GRID_MISMATCH),
        (one_place_twice, Reason.GRID_MISMATCH),
        (pixels_cut_off, Reason.UNDECODABLE_PIXELS),
        (no_pixels, Reason.UNDECODABLE_PIXELS),
        (fewer_rows, Reason.UNDECODABLE_PIXELS),
        (no_number, Reason.UNREADABLE),
        (surfaces, Reason.UNSUPPORTED_OBJECT),
        (no_segments, Reason.UNREADABLE),
    ],
)
def test_damaged_objects_are_recorded(archive, damage, reason):
    path = archive.write(archive.seg(stacked(TUMOUR)), damage)
    found, message = archive.refusal(path)
    assert found is reason
    assert "seg.dcm" in message or dicom.uid("seg") in message


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(fewer_rows, Reason.UNDECODABLE_PIXELS), (no_number, Reason.UNREADABLE)],
)
def test_damaged_label_maps_are_recorded(archive, damage, reason):
    path = archive.write(archive.seg(labelled(TUMOUR), "LABELMAP", ("GTV",)), damage)
    assert archive.refusal(path)[0] is reason


def test_a_segment_that_the_pixels_cannot_name_is_refused(archive):
    def number(dataset):
        dataset.SegmentSequence[-1].SegmentNumber = 300

    path = archive.write(archive.seg(labelled(TUMOUR), "LABELMAP", ("GTV",)), number)
    reason, message = archive.refusal(path)
    assert reason is Reason.GRID_MISMATCH
    assert "its pixels reach 255 and so cannot be segment 300" in message


@pytest.mark.parametrize("syntax", ENCODERS)
def test_damaged_frames_are_recorded(archive, syntax):
    def cut(dataset):
        dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]

    path = archive.write(archive.seg(labelled(TUMOUR), "LABELMAP", ("GTV",)), cut, syntax)
    assert archive.refusal(path)[0] is Reason.UNDECODABLE_PIXELS


def test_memory_holds_one_region_and_not_all(tmp_path):
    shape = (24, 96, 96)
    grid = PhantomGrid(shape, (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    archive = Archive.__new__(Archive)
    images = dicom.ct_series(np.zeros(shape, np.int16), grid)
    archive.folder, archive.images = tmp_path, images
    archive.series = series_of(write(images, tmp_path / "ct"))
    archive.grid = read_series_volume(archive.series).grid
    archive.target = target_of("case1", archive.series, archive.grid)
    archive.slices = sorted(images, key=lambda d: float(d.ImagePositionPatient[2]))
    labels = np.random.default_rng(1).integers(1, 61, shape).astype(np.uint8)
    names = [f"organ {number}" for number in range(1, 61)]
    path = archive.write(archive.seg(labels, "LABELMAP", names))
    wanted = spec(**{f"organ-{n}": f"organ {n}" for n in range(1, 61)})
    voxels = 0
    tracemalloc.start()
    for region in import_regions([path], wanted, archive.target, []):
        voxels += int(region.mask.sum())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert voxels == labels.size
    assert peak < 20 * labels.size


SOURCES = {
    "CT": ct_datasets,
    "CT backwards": lambda: ct_datasets()[::-1],
    "MR": mr_datasets,
    "PT": pt_datasets,
    "multi-frame CT": lambda: [enhanced(ct_datasets()[::-1], EnhancedCTImageStorage)],
    "split multi-frame CT": lambda: concatenation(
        enhanced(ct_datasets()[::-1], EnhancedCTImageStorage), [1, 3, 2]
    ),
    "mosaic": lambda: [mosaic(mr_datasets())],
    "mosaic backwards": lambda: [mosaic(mr_datasets()[::-1])],
}


@pytest.mark.parametrize("encoding", ["binary", "labelmap"])
@pytest.mark.parametrize("source", SOURCES)
def test_our_own_objects_come_back_voxel_for_voxel(tmp_path, source, encoding):
    series = series_of(write(SOURCES[source](), tmp_path / "images"))
    grid = read_series_volume(series).grid
    random = np.random.default_rng(7)
    labels = random.integers(0, 4, grid.shape)
    names = ("liver", "spleen", "lesion")
    masks = {name: labels == number for number, name in enumerate(names, start=1)}
    if encoding == "binary":
        masks["lesion"] = random.random(grid.shape) < 0.5
    dataset = build_seg(
        pack([Region(n, n, m, "AUTOMATIC", "a model", "1") for n, m in masks.items()], grid),
        read_planes(series),
        read_terms(),
        encoding=encoding,
        description="round trip",
        series_number=9001,
        identity=("round trip",),
        notes=[],
    )
    path = tmp_path / "seg.dcm"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    notes = []
    wanted = spec(**{name: name for name in names})
    regions = list(import_regions([path], wanted, target_of("case1", series, grid), notes))
    assert [region.name for region in regions] == list(names)
    assert PLAIN.fullmatch(" ".join(notes))
    for region in regions:
        np.testing.assert_array_equal(on_grid(region, grid), masks[region.name])
