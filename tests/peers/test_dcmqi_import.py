"""What dcmqi and highdicom wrote is imported as they meant it, voxel for voxel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from jipflow.cases import Series
from jipflow.images.masks import Region, pack, write_segmentation
from jipflow.images.series import read_series_volume
from jipflow.images.volume import Grid, Volume
from jipflow.objects.annotation import Target
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.reasons import CaseFault, Reason
from jipflow.segment.engines.imported.engine import import_regions, target_of
from jipflow.segment.engines.imported.settings import Imported
from jipflow.settings.schema import load

ITKIMAGE2SEGIMAGE = Path(sys.executable).parent / "itkimage2segimage"
UNREMARKABLE = re.compile(r"\S+ was taken by the images that it references\.")
LIVER = {"liver": "Liver"}
COLOURS = {
    "green": "GREEN",
    "orange": "ORANGE",
    "purple": "PURPLE",
    "light-blue": "LIGHT_BLUE",
    "dark-blue": "DARK_BLUE",
}
LAYERS = ("partial_overlaps-1.nrrd", "partial_overlaps-2.nrrd", "partial_overlaps-3.nrrd")
DCMQI = [
    ("liver.dcm", "ct-3slice", {"liver": ("liver_seg.nrrd", 1)}, LIVER),
    (
        "partial_overlaps.dcm",
        "ct-3slice",
        {
            "green": (LAYERS[0], 1),
            "orange": (LAYERS[1], 2),
            "purple": (LAYERS[2], 3),
            "light-blue": (LAYERS[0], 4),
            "dark-blue": (LAYERS[0], 5),
        },
        COLOURS,
    ),
    ("23x38x3/seg/label.seg", "23x38x3/image", {"liver": ("23x38x3/nrrd/label.nrrd", 1)}, LIVER),
    ("24x38x3/seg/label.seg", "24x38x3/image", {"liver": ("24x38x3/nrrd/label.nrrd", 1)}, LIVER),
    (
        "sparse-labelmap-noppv.dcm",
        "24x38x3/image",
        {"liver": ("sparse_labelmap_noppv_seg.nrrd", 1)},
        LIVER,
    ),
    (
        "sparse-labelmap-ppv5.dcm",
        "24x38x3/image",
        {"liver": ("sparse_labelmap_ppv5_seg.nrrd", 1)},
        LIVER,
    ),
]


def on_grid(region, grid):
    """The voxels of a region on the whole grid."""
    mask = np.zeros(grid.shape, bool)
    box = (slice(c, c + n) for c, n in zip(region.corner, region.mask.shape, strict=True))
    mask[tuple(box)] = region.mask
    return mask


def imported(path, target, matches):
    spec = {
        "id": "organs",
        "engine": "imported",
        "from": "SEG",
        "role": "CT",
        "segments": [
            {"name": name, "match": match, "term": "liver", "required": True}
            for name, match in matches.items()
        ],
    }
    notes = []
    regions = list(import_regions([path], load(Imported, spec, "test"), target, notes))
    return {region.name: on_grid(region, target.grid) for region in regions}, " ".join(notes)


def target_in(folder):
    paths = tuple(sorted(folder.glob("*.dcm")))
    header = pydicom.dcmread(paths[0], stop_before_pixels=True)
    series = Series(str(header.SeriesInstanceUID), "CT", paths)
    return target_of("case1", series, read_series_volume(series).grid)


@pytest.mark.parametrize(("name", "images", "truth", "matches"), DCMQI, ids=lambda v: str(v)[:20])
def test_the_files_of_dcmqi_are_what_their_nrrd_says(shared_data, name, images, truth, matches):
    folder = shared_data / "dcmqi" / "data" / "segmentations"
    target = target_in(folder / images)
    masks, notes = imported(folder / name, target, matches)
    assert UNREMARKABLE.fullmatch(notes)
    assert set(masks) == set(truth)
    for segment, (nrrd, label) in truth.items():
        reference = Volume.from_image(sitk.ReadImage(str(folder / nrrd)))
        assert reference.grid.matches(target.grid, 1e-3)
        assert (reference.array == label).any()
        np.testing.assert_array_equal(masks[segment], reference.array == label)


@pytest.mark.parametrize("name", ["23x38x3", "24x38x3"])
def test_a_multi_frame_image_is_a_target_like_its_single_frames(shared_data, name):
    folder = shared_data / "dcmqi" / "data" / "segmentations" / name
    target = target_in(folder / "multiframe")
    masks, notes = imported(folder / "seg" / "label.seg", target, LIVER)
    reference = Volume.from_image(sitk.ReadImage(str(folder / "nrrd" / "label.nrrd")))
    assert reference.grid.matches(target.grid, 1e-3)
    np.testing.assert_array_equal(masks["liver"], reference.array == 1)
    assert "by its frame of reference" in notes or UNREMARKABLE.fullmatch(notes)


HIGHDICOM = {
    "seg_image_ct_binary.dcm": {"first": "first segment"},
    "seg_image_ct_binary_overlap.dcm": {"first": "first segment", "second": "second segment"},
    "seg_image_ct_binary_fractional.dcm": {"first": "first segment"},
    "seg_image_ct_true_fractional.dcm": {"first": "first segment"},
    "seg_image_ct_binary_single_frame.dcm": {"first": "first segment"},
}


@pytest.mark.parametrize(("name", "matches"), HIGHDICOM.items())
def test_the_files_of_highdicom_are_what_highdicom_reads(shared_data, name, matches):
    path = shared_data / "highdicom" / "data" / "test_files" / name
    peer = highdicom.seg.segread(path)
    volume = peer.get_volume(combine_segments=False, rescale_fractional=True)
    grid = Grid(volume.array.shape[:3], np.asarray(volume.affine))
    target = Target("case1", "", "", "1.2.3", str(peer.FrameOfReferenceUID), frozenset(), grid)
    masks, _ = imported(path, target, matches)
    for number, mask in enumerate(masks.values()):
        expected = volume.array[..., number] >= 0.5
        assert expected.any()
        np.testing.assert_array_equal(mask, expected)


SLIDES = ["control", "control_labelmap", "control_labelmap_palette_color", "dots_tiled_full"]


@pytest.mark.parametrize("name", SLIDES)
def test_a_segmentation_of_a_slide_is_recorded(shared_data, name):
    path = shared_data / "highdicom" / "data" / "test_files" / f"seg_image_sm_{name}.dcm"
    header = pydicom.dcmread(path, stop_before_pixels=True)
    grid = Grid((3, 10, 10), np.eye(4))
    frame = str(header.FrameOfReferenceUID)
    with pytest.raises(CaseFault) as caught:
        imported(path, Target("case1", "", "", "1.2", frame, frozenset(), grid), {"any": "RGB.*"})
    assert caught.value.reason is Reason.GRID_MISMATCH
    assert "slide" in caught.value.message
    with pytest.raises(CaseFault) as caught:
        imported(path, Target("case1", "", "", "1.2", "1.3", frozenset(), grid), {"any": "RGB.*"})
    assert caught.value.reason is Reason.OTHER_FRAME_OF_REFERENCE


def described(label, name):
    code = {"CodeValue": "123037004", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Anatomy"}
    return {
        "labelID": label,
        "SegmentLabel": name,
        "SegmentDescription": name,
        "SegmentAlgorithmType": "AUTOMATIC",
        "SegmentAlgorithmName": "a model",
        "SegmentedPropertyCategoryCodeSequence": code,
        "SegmentedPropertyTypeCodeSequence": {
            "CodeValue": "10200004",
            "CodingSchemeDesignator": "SCT",
            "CodeMeaning": "Liver",
        },
    }


GRID = PhantomGrid((7, 37, 35), (3.0, 2.0, 2.0), (-10.0, -12.0, 5.0))


def overlapping():
    """Four regions of random voxels, one on two slices only, of which the last overlap others."""
    random = np.random.default_rng(5)
    labels = random.integers(0, 4, GRID.shape)
    masks = [labels == 1, (labels == 2) & (np.arange(7) % 6 == 0)[:, None, None], labels == 3]
    return [*masks, random.random(GRID.shape) < 0.4]


@pytest.mark.parametrize(
    ("options", "numbers", "count"),
    [
        ([], (1, 2, 3, 4), 4),
        (["--skip", "0"], (1, 2, 3, 4), 4),
        (["--compress", "deflate"], (1, 2, 3, 4), 4),
        (["--segmentationType", "labelmap"], (1, 2, 3), 3),
        (["--segmentationType", "labelmap", "--skip", "0"], (1, 2, 3), 3),
        (["--segmentationType", "labelmap", "--compress", "deflate"], (1, 2, 3), 3),
        (
            ["--segmentationType", "labelmap", "--useLabelIDAsSegmentNumber"],
            (4, 90, 250),
            3,
        ),
    ],
    ids=lambda v: "-".join(map(str, v)).replace("--", "") if isinstance(v, list) else "",
)
def test_our_masks_come_back_through_dcmqi(tmp_path, options, numbers, count):
    images = dicom.ct_series(np.zeros(GRID.shape, np.int16), GRID)
    paths = dicom.write_series(images, tmp_path / "ct")
    target = target_in(tmp_path / "ct")
    masks = overlapping()[:count]
    names = [f"organ {number}" for number in numbers]
    regions = [
        Region(name, "liver", mask, "AUTOMATIC", "a model")
        for name, mask in zip(names, masks, strict=True)
    ]
    segmentation = pack(regions, target.grid)
    write_segmentation(tmp_path / "masks", segmentation)
    files, attributes = [], []
    for layer in range(len(segmentation.layers)):
        volume = sitk.ReadImage(str(tmp_path / "masks" / f"layer-{layer}.nrrd"))
        here = [n for n, s in enumerate(segmentation.segments) if s.layer == layer]
        renumbered = np.zeros(GRID.shape, np.int16)
        for n in here:
            renumbered[segmentation.mask(segmentation.segments[n])] = numbers[n]
        image = sitk.GetImageFromArray(renumbered)
        image.CopyInformation(volume)
        files.append(tmp_path / f"layer-{layer}.nrrd")
        sitk.WriteImage(image, str(files[-1]))
        attributes.append([described(numbers[n], names[n]) for n in here])
    metadata = tmp_path / "meta.json"
    series = {"SeriesDescription": "round trip", "SeriesNumber": "9", "InstanceNumber": "1"}
    metadata.write_text(json.dumps({**series, "segmentAttributes": attributes}))
    path = tmp_path / "seg.dcm"
    subprocess.run(
        [
            ITKIMAGE2SEGIMAGE,
            *options,
            "--inputImageList",
            ",".join(map(str, files)),
            "--inputDICOMList",
            ",".join(map(str, paths)),
            "--inputMetadata",
            metadata,
            "--outputDICOM",
            path,
        ],
        check=True,
        capture_output=True,
    )
    returned, notes = imported(path, target, dict(zip("abcd", names, strict=False)))
    assert UNREMARKABLE.fullmatch(notes)
    for expected, mask in zip(masks, returned.values(), strict=True):
        np.testing.assert_array_equal(mask, expected)
