"""Segments may overlap, and come back from their files as they went in."""

from __future__ import annotations

import numpy as np

from jipflow.files import sha256_file
from jipflow.images.masks import (
    Region,
    absent_note,
    bounding_box,
    pack,
    read_segmentation,
    write_segmentation,
)
from jipflow.images.volume import Grid

GRID = Grid((3, 4, 5), np.diag([2.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])


def region(name, selection):
    mask = np.zeros(GRID.shape, bool)
    mask[selection] = True
    return Region(name, "liver", mask, "MANUAL", "a person")


def test_overlapping_segments_keep_every_voxel(tmp_path):
    regions = [
        region("a", np.s_[0:2, :, :]),
        region("b", np.s_[1:3, 0:2, :]),
        region("c", np.s_[2, 3, :]),
    ]
    segmentation = pack(regions, GRID)
    assert len(segmentation.layers) == 2
    write_segmentation(tmp_path / "organs", segmentation)
    again = read_segmentation(tmp_path / "organs")
    assert again.segments == segmentation.segments
    assert again.grid.matches(GRID)
    for wanted, (segment, mask, (z, y, x)) in zip(regions, again.boxes(), strict=True):
        assert segment.name == wanted.name
        whole = np.zeros(wanted.mask.shape, bool)
        whole[z : z + mask.shape[0], y : y + mask.shape[1], x : x + mask.shape[2]] = mask
        np.testing.assert_array_equal(whole, wanted.mask)
        np.testing.assert_array_equal(again.mask(segment), wanted.mask)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["organs"]


def test_more_segments_than_a_byte_can_count(tmp_path):
    """Layers made before the 256th segment, and after, hold them all."""
    regions = []
    for number in range(600):
        mask = np.zeros((10, 8, 8), bool)
        mask.reshape(-1)[number : number + 2] = True
        regions.append(Region(f"s{number}", "liver", mask, "MANUAL", "a person"))
    grid = Grid((10, 8, 8), GRID.affine)
    write_segmentation(tmp_path / "many", pack(regions, grid))
    again = read_segmentation(tmp_path / "many")
    assert len(again.layers) == 2
    assert {layer.dtype for layer in again.layers} == {np.dtype(np.uint16)}
    for wanted, (segment, mask, (z, y, x)) in zip(regions, again.boxes(), strict=True):
        assert segment.name == wanted.name
        whole = np.zeros(wanted.mask.shape, bool)
        whole[z : z + mask.shape[0], y : y + mask.shape[1], x : x + mask.shape[2]] = mask
        np.testing.assert_array_equal(whole, wanted.mask)
        np.testing.assert_array_equal(again.mask(segment), wanted.mask)


def test_few_segments_take_a_byte_a_voxel():
    assert pack([region("a", np.s_[0])], GRID).layers[0].dtype == np.uint8


def test_regions_are_taken_one_by_one(tmp_path):
    """An iterator gives the same files as a list, and no region is asked for before its turn."""
    regions = [region("a", np.s_[0]), region("b", np.s_[0:2])]
    asked = []

    def one_by_one():
        for number, each in enumerate(regions):
            asked.append(number)
            yield each

    write_segmentation(tmp_path / "list", pack(regions, GRID))
    write_segmentation(tmp_path / "iterator", pack(one_by_one(), GRID))
    assert asked == [0, 1]
    for name in ("layer-0.nrrd", "layer-1.nrrd", "segments.json"):
        assert sha256_file(tmp_path / "list" / name) == sha256_file(tmp_path / "iterator" / name)


def test_an_empty_region_takes_no_room():
    segmentation = pack([region("a", np.s_[0]), region("b", np.s_[0:0])], GRID)
    assert len(segmentation.layers) == 1
    assert not segmentation.mask(segmentation.segments[1]).any()
    (_, full, _), (_, empty, corner) = segmentation.boxes()
    assert full.all()
    assert (empty.size, corner) == (0, (0, 0, 0))


def test_a_bounding_box_holds_all_voxels_and_no_more():
    mask = np.zeros(GRID.shape, bool)
    assert mask[bounding_box(mask)].size == 0
    mask[1, 2, 1] = mask[2, 0, 4] = True
    assert bounding_box(mask) == (slice(1, 3), slice(0, 3), slice(1, 5))


def test_absent_segments_are_named():
    assert absent_note(["a", "b", "c"], {"b"}) == "No voxel of: a, c."
    assert absent_note(["b"], {"b"}) == ""
