"""What is decided on contours has a code, and contours that contradict themselves are refused."""

from __future__ import annotations

import copy
import unicodedata
from dataclasses import replace

import numpy as np
import pytest

import typed
from jipflow.objects.annotation import fits
from jipflow.phantom import dicom
from jipflow.reasons import Decision, Reason
from jipflow.segment.engines.imported.engine import import_regions
from series_factory import write
from test_imported import GRID, NODE, SPEC, TUMOUR, Archive, forget_series, without


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


def contours(dataset, roi=0):
    return dataset.ROIContourSequence[roi].ContourSequence


def placed(change):
    """Change the points of the first ROI, shape (n, 3)."""

    def change_all(dataset):
        for contour in contours(dataset):
            points = change(np.array(contour.ContourData, float).reshape(-1, 3))
            contour.ContourData = [f"{value:.4f}" for value in points.ravel()]

    return change_all


def lifted(slices):
    return placed(lambda points: points + np.array([0, 0, slices * GRID.spacing[0]]))


def stating(**values):
    def change(dataset):
        for contour in contours(dataset):
            for keyword, value in values.items():
                setattr(contour, keyword, value)

    return change


def images_reversed(dataset):
    items = [contour.ContourImageSequence for contour in contours(dataset)]
    for contour, item in zip(contours(dataset), reversed(items), strict=True):
        contour.ContourImageSequence = item


def images_of_the_first(dataset):
    for contour in contours(dataset):
        contour.ContourImageSequence = contours(dataset)[0].ContourImageSequence


def one_image_wrong(dataset):
    contours(dataset)[0].ContourImageSequence = contours(dataset)[2].ContourImageSequence


@pytest.mark.parametrize("change", [lifted(1), lifted(-1), lifted(0.61), images_reversed])
def test_contours_on_other_slices_than_their_images_are_refused(archive, change):
    """Nobody knows whether the points or the images are right."""
    reason, message = archive.refusal(archive.structure({"GTV": TUMOUR}, change))
    assert reason is Reason.CONTOUR_GEOMETRY
    assert "ROI 1: " in message
    assert "of 3 contours lie on other slices than the images that they name" in message


@pytest.mark.parametrize("change", [len, lifted(0.59), lifted(-0.49), forget_series])
def test_contours_on_the_slices_of_their_images_are_not(archive, change):
    _, notes = archive.mask(archive.structure({"GTV": TUMOUR}, change))
    assert "that they name" not in notes


@pytest.mark.parametrize("change", [images_of_the_first, one_image_wrong])
def test_images_that_stand_for_others_are_noted(archive, change):
    path = archive.structure({"GTV": TUMOUR}, change)
    mask, notes = archive.mask(path)
    np.testing.assert_array_equal(mask, TUMOUR)
    assert "contours lie on other slices than the images that they name, up to 2.0" in notes
    assert "; their points count." in notes
    assert Decision.CONTOURS_OFF_THEIR_IMAGES in decided(archive, path)


@pytest.mark.parametrize("kind", ["", "CLOSED PLANAR", "POLYGON"])
def test_a_type_of_contours_that_nobody_knows_is_refused(archive, kind):
    """Left out, one of them would make the region smaller than it is."""

    def change(dataset):
        contours(dataset)[0].ContourGeometricType = kind

    reason, message = archive.refusal(archive.structure({"GTV": TUMOUR}, change))
    assert reason is Reason.CONTOUR_GEOMETRY
    assert f"a contour has the type {kind!r}" in message


def test_a_type_in_small_letters_is_the_same(archive):
    mask, _ = archive.mask(
        archive.structure({"GTV": TUMOUR}, stating(ContourGeometricType="closed_planar"))
    )
    np.testing.assert_array_equal(mask, TUMOUR)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_letter_is_one_however_it_is_composed(archive, form):
    spec = copy.deepcopy(SPEC)
    spec["segments"][0]["match"] = unicodedata.normalize("NFC", "GTV Läsion")

    def name(dataset):
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.StructureSetROISequence[0].ROIName = unicodedata.normalize(form, "GTV\u00a0Läsion")

    mask, _ = archive.mask(archive.structure({"GTV": TUMOUR}, name), spec=spec)
    np.testing.assert_array_equal(mask, TUMOUR)
    assert fits(unicodedata.normalize("NFC", "Ä"), [unicodedata.normalize("NFD", "Ä")])


def decided(archive, path, spec=SPEC):
    """The decisions on an object's regions, without those on its choice and its method."""
    notes, decisions = [], []
    list(import_regions([path], typed.segmentation(spec), archive.target, notes, decisions))
    assert len(notes) >= len(decisions) == len(set(decisions))
    chosen = {code for code in decisions if code.startswith("object_by_")}
    assert len(chosen) == 1
    return set(decisions) - chosen


def again(dataset):
    contours(dataset).extend(copy.deepcopy(list(contours(dataset))))


def as_xor(dataset):
    again(dataset)
    contours(dataset).extend(copy.deepcopy(list(contours(dataset))[:3]))
    for contour in contours(dataset):
        contour.ContourGeometricType = "CLOSEDPLANAR_XOR"


def one_xor(dataset):
    contours(dataset)[0].ContourGeometricType = "CLOSEDPLANAR_XOR"


def second(shift, shrink=1.0):
    """Add to each contour another one, moved by mm and shrunk about its middle."""

    def change(dataset):
        for contour in copy.deepcopy(list(contours(dataset))):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            middle = points.mean(axis=0)
            points = middle + (points - middle) * shrink + np.array(shift)
            contour.ContourData = [f"{value:.4f}" for value in points.ravel()]
            contours(dataset).append(contour)

    return change


def a_point(dataset):
    contour = copy.deepcopy(contours(dataset)[0])
    contour.ContourGeometricType = "POINT"
    contour.ContourData = contour.ContourData[:3]
    contours(dataset).append(contour)


def without_second(dataset):
    del contours(dataset)[1]


def another_roi(dataset):
    dataset.StructureSetROISequence[1].ROIName = "GTV 2"


def without_contours(dataset):
    another_roi(dataset)
    dataset.ROIContourSequence[1].ContourSequence = []


def in_another_frame(dataset):
    another_roi(dataset)
    dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = dicom.uid("elsewhere")


def on_another_series(*changes):
    def change(dataset):
        forget_series(dataset)
        for single in changes:
            single(dataset)

    return change


def only_first(dataset):
    del contours(dataset)[1:]


def spread(dataset):
    """Contours twice as far apart as slices, from the first on."""
    first = float(contours(dataset)[0].ContourData[2])
    placed(lambda points: points * [1, 1, 2] - [0, 0, first])(dataset)


def on_its_pixels(dataset):
    """Contours through the centres of their outer pixels, each with a hole close inside."""
    middle = np.array(contours(dataset)[0].ContourData, float).reshape(-1, 3).mean(axis=0)
    size = np.ptp(np.array(contours(dataset)[0].ContourData, float).reshape(-1, 3), axis=0)[:2]
    inner = [*((size - 2) / size), 1]
    placed(lambda p: np.where([True, True, False], middle + (p - middle) * inner, p))(dataset)
    second((0, 0, 0), 0.97)(dataset)


KINDS = {
    Decision.CONTOURS_REPEATED: again,
    Decision.CONTOURS_CANCELLED: as_xor,
    Decision.CONTOUR_TYPES_MIXED: one_xor,
    Decision.CONTOURS_UNITED: second((3, 3, 0)),
    Decision.HOLE_CLOSE_TO_CONTOUR: on_its_pixels,
    Decision.CONTOURS_WITHOUT_PIXEL: second((1, 1, 0), 0.01),
    Decision.CONTOURS_LEFT_OUT: a_point,
    Decision.CONTOUR_POINTS_MISCOUNTED: stating(NumberOfContourPoints=3),
    Decision.CONTOURS_BETWEEN_SLICES: lifted(0.3),
    Decision.CONTOURS_CUT_AT_BORDER: placed(lambda points: points - [16, 0, 0]),
    Decision.SLICES_WITHOUT_CONTOUR: without_second,
    Decision.REGIONS_UNITED: another_roi,
    Decision.REGION_WITHOUT_CONTOUR: without_contours,
    Decision.OTHER_FRAME_LEFT_OUT: in_another_frame,
    Decision.CONTOURS_FILL_SEVERAL_SLICES: on_another_series(spread),
    Decision.CONTOUR_THICKNESS_ASSUMED: on_another_series(only_first),
    Decision.OBJECT_REJECTED: lambda dataset: setattr(dataset, "ApprovalStatus", "REJECTED"),
}


@pytest.mark.parametrize("code", KINDS)
def test_a_decision_on_contours_has_its_code(archive, code):
    path = archive.structure({"GTV": TUMOUR, "Node": NODE}, KINDS[code])
    assert code in decided(archive, path)


def test_contours_without_anything_odd_are_no_decision(archive):
    assert not decided(archive, archive.structure({"GTV": TUMOUR, "Node": NODE}))


def test_images_that_are_not_there_are_a_decision(archive):
    path = archive.structure({"GTV": TUMOUR})
    without(archive, 0)
    assert decided(archive, path) == {Decision.NAMED_IMAGES_MISSING}


def test_images_of_several_stacks_do_not_keep_contours_from_being_drawn(archive):
    """A second phase lies on each slice: which are the volume's is known elsewhere."""
    path = archive.structure({"GTV": TUMOUR})
    phase = dicom.ct_series(np.ones(GRID.shape, np.int16), GRID)
    for number, dataset in enumerate(phase):
        dataset.SOPInstanceUID = dicom.uid("second phase", number)
        dataset.AcquisitionNumber = 2
    paths = write(phase, archive.folder / "phase")
    whole = replace(archive.series, paths=(*archive.series.paths, *paths))
    archive.target = replace(archive.target, series=whole)
    mask, _ = archive.mask(path)
    np.testing.assert_array_equal(mask, TUMOUR)
