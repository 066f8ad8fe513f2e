"""Contours of others on one volume of a series: whose they are, and which images they lie on."""

from __future__ import annotations

import numpy as np
import pytest

import typed
from jipflow.cases import Series, Wanted
from jipflow.images.series import read_series_volume
from jipflow.phantom import dicom
from jipflow.reasons import CaseFault, Decision, Reason
from jipflow.segment.engines.imported.engine import import_regions, target_of
from series_factory import series_of, write
from test_imported import GRID, SPEC

TUMOUR, OTHER = (np.zeros(GRID.shape, bool) for _ in range(2))
TUMOUR[1:4, 3:8, 4:10] = True
OTHER[2:5, 2:6, 3:7] = True


class Phases:
    """A CT of two contrast phases in one series, and structure sets that are drawn on them."""

    def __init__(self, folder):
        self.folder = folder
        self.images = []
        for phase in (1, 2):
            for dataset in dicom.ct_series(np.full(GRID.shape, phase, np.int16), GRID):
                dataset.AcquisitionNumber = phase
                dataset.SOPInstanceUID = dicom.uid("phase", phase, dataset.InstanceNumber)
                dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
                self.images.append(dataset)
        self.paths = series_of(write(self.images, folder / "ct")).paths

    def series(self, phase):
        uid = str(self.images[0].SeriesInstanceUID)
        return Series(uid, "CT", self.paths, Wanted(time_point=phase))

    def structure(self, phase, mask):
        dataset = dicom.rtstruct({"GTV": mask}, GRID, self.images[(phase - 1) * 6 : phase * 6])
        dataset.SOPInstanceUID = dicom.uid("drawn", phase)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        return write([dataset], self.folder / f"rt{phase}")[0]

    def regions(self, phase, *paths):
        series = self.series(phase)
        grid = read_series_volume(series).grid
        notes: list[str] = []
        decisions: list[Decision] = []
        target = target_of("case1", series, grid)
        found = list(import_regions(paths, typed.segmentation(SPEC), target, notes, decisions))
        return found[0].mask, " ".join(notes), decisions


@pytest.fixture
def phases(tmp_path):
    return Phases(tmp_path)


def test_contours_of_the_volume_itself_are_taken_by_its_images(phases):
    mask, notes, decisions = phases.regions(2, phases.structure(2, TUMOUR))
    np.testing.assert_array_equal(mask, TUMOUR)
    assert "another volume" not in notes
    assert decisions == [Decision.OBJECT_BY_INSTANCES]


def test_contours_of_another_volume_are_laid_on_and_noted(phases):
    mask, notes, decisions = phases.regions(1, phases.structure(2, TUMOUR))
    np.testing.assert_array_equal(mask, TUMOUR)
    assert "3 of 3 contours were drawn on images of another volume of the series" in notes
    assert set(decisions) == {Decision.OBJECT_BY_SERIES, Decision.CONTOURS_OF_ANOTHER_VOLUME}


def test_each_volume_has_the_contours_that_were_drawn_on_it(phases):
    both = phases.structure(1, TUMOUR), phases.structure(2, OTHER)
    np.testing.assert_array_equal(phases.regions(1, *both)[0], TUMOUR)
    np.testing.assert_array_equal(phases.regions(2, *both)[0], OTHER)


def test_contours_on_lost_images_of_the_volume_are_refused(phases):
    drawn = phases.structure(1, TUMOUR)
    phases.paths = tuple(p for p in phases.paths if p.name not in {"0002.dcm", "0008.dcm"})
    with pytest.raises(CaseFault) as caught:
        phases.regions(1, drawn)
    assert caught.value.reason is Reason.MISSING_SLICES
