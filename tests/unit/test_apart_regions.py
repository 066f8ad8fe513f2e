"""Regions that were drawn on what is set apart from a stack are never laid on the stack."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from pydicom.dataset import Dataset

import seg_archive
import test_imported as contours
from jipflow.images.series import read_series_volume
from jipflow.phantom import dicom
from jipflow.reasons import Reason
from jipflow.segment.engines.imported.engine import target_of
from series_factory import series_of, write

SCOUT = dicom.uid("a scout")


def with_scout(archive):
    """The same archive, whose series has a localizer along its slices, where one of them lies."""
    scout = copy.deepcopy(archive.images[2])
    scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = SCOUT
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.PixelSpacing = [7, 7]
    paths = write([scout, *archive.images], archive.folder / "with scout")
    archive.series = series_of(paths)
    archive.target = target_of("case1", archive.series, read_series_volume(archive.series).grid)
    assert archive.target.apart == {SCOUT}
    assert SCOUT not in archive.target.instances
    return archive


def reference(uid):
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid
    return item


def list_scout(dataset):
    contours.referenced_series(dataset).ContourImageSequence.append(reference(SCOUT))


def list_scout_alone(dataset):
    contours.referenced_series(dataset).ContourImageSequence = [reference(SCOUT)]


def drawn(dataset):
    return dataset.ROIContourSequence[0].ContourSequence


def draw_one_on_scout(dataset):
    drawn(dataset)[0].ContourImageSequence = [reference(SCOUT)]


def draw_on_scout(dataset):
    for contour in drawn(dataset):
        contour.ContourImageSequence = [reference(SCOUT)]


def forget_images_of_contours(dataset):
    for contour in drawn(dataset):
        del contour.ContourImageSequence


class TestContours:
    @pytest.fixture
    def archive(self, tmp_path):
        return with_scout(contours.Archive(tmp_path))

    def test_those_that_list_a_localizer_miss_no_slice(self, archive):
        mask, notes = archive.mask(archive.structure({"GTV": contours.TUMOUR}, list_scout))
        np.testing.assert_array_equal(mask, contours.TUMOUR)
        assert "not there" not in notes

    @pytest.mark.parametrize("change", [draw_one_on_scout, draw_on_scout])
    def test_those_on_a_localizer_are_refused(self, archive, change):
        path = archive.structure({"GTV": contours.TUMOUR}, list_scout, change)
        reason, message = archive.refusal(path)
        assert reason is Reason.CONTOUR_GEOMETRY
        assert "were set apart" in message

    @pytest.mark.parametrize("change", [draw_on_scout, forget_images_of_contours])
    def test_a_structure_set_of_a_localizer_fits_nothing(self, archive, change):
        path = archive.structure({"GTV": contours.TUMOUR}, list_scout_alone, change)
        assert archive.refusal(path)[0] is Reason.NO_CONTOURS


class TestSegmentations:
    @pytest.fixture
    def archive(self, tmp_path):
        return with_scout(seg_archive.Archive(tmp_path))

    def seg(self, archive, change):
        pixels = seg_archive.stacked(seg_archive.TUMOUR)
        return archive.write(archive.seg(pixels, labels=("GTV",)), change)

    def test_one_that_lists_a_localizer_fits(self, archive):
        def change(dataset):
            images = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
            images.append(reference(SCOUT))

        regions, _ = archive.regions(self.seg(archive, change))
        np.testing.assert_array_equal(regions["gtv"], seg_archive.TUMOUR)

    def test_frames_on_a_localizer_are_refused(self, archive):
        def change(dataset):
            group = dataset.PerFrameFunctionalGroupsSequence[-1]
            group.DerivationImageSequence[0].SourceImageSequence = [reference(SCOUT)]

        reason, message = archive.refusal(self.seg(archive, change))
        assert reason is Reason.GRID_MISMATCH
        assert "1 of its frames were drawn on images that are no slices" in message

    def test_one_of_a_localizer_fits_nothing(self, archive):
        def change(dataset):
            series = dataset.ReferencedSeriesSequence[0]
            series.ReferencedInstanceSequence = [reference(SCOUT)]

        assert archive.refusal(self.seg(archive, change))[0] is Reason.NO_CONTOURS
