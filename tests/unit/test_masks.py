"""Segments may overlap, and come back from their files as they went in."""

from __future__ import annotations

import numpy as np

from jipflow.images.masks import Region, pack, read_segmentation, write_segmentation
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
    for wanted, (segment, mask) in zip(regions, again.masks(), strict=True):
        assert segment.name == wanted.name
        np.testing.assert_array_equal(mask, wanted.mask)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["organs"]
