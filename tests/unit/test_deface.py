"""Heads: which series are taken for one, and whether the face goes and the brain stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from head_phantom import FACE, GRID, HU, T1, as_volume, head, tissues
from jipflow.images.volume import Grid, Volume
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.privacy.deface import Shear, deface, find_shear, reaches_face, shows_skull
from jipflow.privacy.faces import face_cuts, outlines_face
from jipflow.privacy.heads import Deface, decide_head
from jipflow.privacy.pixels import Refusal
from jipflow.reasons import CaseFault, Reason
from series_factory import ct_datasets, ct_grid, enhanced, series_of, write

PATH = Path("image.dcm")


@pytest.mark.parametrize("part", ["CHEST", "ABDOMEN", "EXTREMITY", "LSPINE", "L_SPINE", "PELVIS"])
@pytest.mark.parametrize("heads", ["refuse", "deface"])
def test_a_region_without_a_face_leaves(part: str, heads: Any) -> None:
    series = ct_datasets()
    for dataset in series:
        dataset.BodyPartExamined = part
    assert decide_head(series, heads) is None
    assert decide_head(series, heads, unstated=False) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("BodyPartExamined", part) for part in ("HEAD", "BRAIN", "HEADNECK", "CSPINE", "NECK")),
        ("SeriesDescription", "AX T1 Brain"),
        ("SeriesDescription", "CT cervical spine"),
        ("SeriesDescription", "c-spine lateral"),
        ("StudyDescription", "MRT Schädel nativ"),
        ("ProtocolName", "02_Routine_Head"),
        ("RecognizableVisualFeatures", "YES"),
    ],
)
def test_a_head_stays_or_loses_its_face(name: str, value: str) -> None:
    series = ct_datasets()
    setattr(series[3], name, value)
    for unstated in (True, False):
        found = decide_head(series, "refuse", unstated=unstated)
        assert isinstance(found, Refusal)
        assert found.reason == Reason.RECOGNISABLE_FACE
        assert value not in found.message
    assert decide_head(series, "deface") == Deface()
    assert decide_head(series, "deface", unstated=False) == Deface()


@pytest.mark.parametrize("part", [None, "", "WHOLEBODY", "PARTIALBODY", "BODY"])
def test_a_series_that_does_not_say_what_it_shows_stays_unless_a_person_does(part: Any) -> None:
    series = ct_datasets()
    for dataset in series:
        dataset.BodyPartExamined = part
    assert isinstance(decide_head(series, "refuse"), Refusal)
    assert decide_head(series, "deface") == Deface()
    for heads, shown in (("refuse", Refusal), ("deface", Deface)):
        assert decide_head(series, heads, unstated=False) is None  # type: ignore[arg-type]
        found = decide_head(series, heads, unstated=False, skull=True)  # type: ignore[arg-type]
        assert isinstance(found, shown)


@pytest.mark.parametrize(
    "text",
    [
        *("MR Pelvis cervical cancer", "THORACIC SPINE", "PET neuroendocrine", "femoral head"),
        *("accidental finding", "fracture of femoral neck", "head of pancreas"),
    ],
)
def test_other_heads_and_necks_are_none(text: str) -> None:
    series = ct_datasets()
    series[0].SeriesDescription = text
    assert decide_head(series, "refuse") is None


def test_a_long_scan_of_the_trunk_may_reach_the_face() -> None:
    series = ct_datasets()
    series[-1].ImagePositionPatient[2] = series[0].ImagePositionPatient[2] + 900
    assert isinstance(decide_head(series, "refuse"), Refusal)


def test_objects_without_planes_show_no_head() -> None:
    assert decide_head([Dataset()], "refuse") is None


@pytest.mark.parametrize(("values", "modality"), [(HU, "CT"), (T1, "MR")])
def test_all_of_the_face_goes_and_no_brain(values: dict[str, int], modality: str) -> None:
    shear = find_shear(as_volume(head(values)), modality, "series")
    z, y, _ = GRID.axes()
    removed = np.broadcast_to(shear.removes(y, z), GRID.shape)
    where = tissues()
    assert not removed[where["brain"]].any()
    for part in FACE:
        assert removed[where[part]].mean() > (0.9 if "eye" in part else 0.999), part


def test_what_is_removed_has_the_lowest_value_in_the_instance_and_no_other_pixel_changes() -> None:
    volume = head(HU)
    series = dicom.ct_series(volume, GRID)
    before = np.stack([dataset.pixel_array for dataset in series])
    shear = find_shear(as_volume(volume), "CT", "series")
    z, y, _ = GRID.axes()
    removed = np.broadcast_to(shear.removes(y, z), GRID.shape)
    assert 0.1 < removed.mean() < 0.6
    for dataset, stored, gone in zip(series[::10], before[::10], removed[::10], strict=True):
        deface(PATH, dataset, shear)
        assert dataset.RecognizableVisualFeatures == "NO"
        np.testing.assert_array_equal(dataset.pixel_array, np.where(gone, stored.min(), stored))


def test_each_frame_of_a_multi_frame_image_is_cut_where_it_lies() -> None:
    series = ct_datasets()
    image = enhanced(series, pydicom.uid.EnhancedCTImageStorage)
    before = image.pixel_array
    z = np.array([float(d.ImagePositionPatient[2]) for d in series])
    deface(PATH, image, Shear(((0.0, float(z[2]) + 1),), -1000.0))
    lowest = before.min()
    gone = (z <= z[2])[:, None, None]
    np.testing.assert_array_equal(image.pixel_array, np.where(gone, lowest, before))


def test_without_a_brain_nothing_is_cut_and_the_series_stays() -> None:
    trunk = np.full((12, 40, 40), 40, np.int16)
    trunk[:, :4] = 0
    for modality in ("CT", "MR", "PT"):
        with pytest.raises(CaseFault) as caught:
            find_shear(Volume(trunk, Grid(trunk.shape, np.diag([4.0, 4, 4, 1]))), modality, "name")
        assert caught.value.reason == Reason.FACE_NOT_CUT


def test_a_face_that_the_brain_runs_into_stays() -> None:
    run = T1 | {"skull": 600, "soft": 550, "eye": 500}
    with pytest.raises(CaseFault):
        find_shear(as_volume(head(run)), "MR", "series")


def test_a_skull_shows_in_ct() -> None:
    assert shows_skull(as_volume(head(HU)))


def test_a_skull_with_gaps_is_one_and_its_face_goes() -> None:
    """As of a patient, whose skull was open in most slices: a sinus, thin bone, an operation."""
    volume = head(HU)
    where = tissues()
    z, y, x = GRID.axes()
    slit = (abs(x - 36) < 8) & (y < 0)
    burr = (abs(x + 50) < 8) & (y > 0) & (z > 0)
    sinus = (abs(x) < 12) & (y < -70) & (abs(z + 10) < 25)
    gaps = where["skull"] & ~where["brain"] & (slit | burr | sinus)
    volume[gaps] = HU["soft"]
    opened = as_volume(volume)
    assert shows_skull(opened)
    shear = find_shear(opened, "CT", "series")
    removed = np.broadcast_to(shear.removes(y, z), GRID.shape)
    assert not removed[where["brain"]].any()
    for part in FACE:
        assert removed[where[part]].mean() > (0.9 if "eye" in part else 0.999), part


def test_an_instance_that_does_not_say_where_it_lies_stays() -> None:
    dataset = ct_datasets()[0]
    del dataset.PixelSpacing
    with pytest.raises(CaseFault):
        deface(PATH, dataset, Shear(((0.0, 0.0),), -1000.0))


@pytest.mark.parametrize("name", ["brain1", "brain2"])
def test_the_face_of_a_real_head_goes(name: str, shared_data: Path) -> None:
    image = sitk.ReadImage(str(shared_data / "pyradiomics" / f"{name}_image.nrrd"))
    volume = Volume.from_image(image)
    shear = find_shear(volume, "MR", name)
    tumour = sitk.GetArrayFromImage(
        sitk.ReadImage(str(shared_data / "pyradiomics" / f"{name}_label.nrrd"))
    )
    zyx = np.argwhere(tumour > 0)
    places = np.column_stack([zyx, np.ones(len(zyx))]) @ volume.grid.affine[:3].T
    assert not shear.removes(places[:, 1], places[:, 2]).any()
    # The lowest slice is at the height of the mouth's roof, its front half the face.
    corner = volume.grid.affine @ [0, 0, 0, 1]
    far = volume.grid.affine @ [0, volume.grid.shape[1] - 1, 0, 1]
    front = np.linspace(min(corner[1], far[1]), (corner[1] + far[1]) / 2, 20)
    assert shear.removes(front, np.full(20, corner[2])).all()


def test_a_thorax_shows_no_skull(shared_data: Path) -> None:
    image = sitk.ReadImage(str(shared_data / "totalsegmentator" / "example_ct.nii.gz"))
    assert not shows_skull(Volume.from_image(image))


def test_a_head_whose_top_lies_beyond_the_image_stays() -> None:
    volume = as_volume(head(T1))
    low = Volume(volume.array[:46], Grid((46, *GRID.shape[1:]), volume.grid.affine))
    with pytest.raises(CaseFault):
        find_shear(low, "MR", "series")


def test_a_pet_is_cut_as_the_ct_in_its_space(tmp_path: Path) -> None:
    study = dicom.Study(body_part="HEAD")
    ct = series_of(write(dicom.ct_series(head(HU), GRID, study), tmp_path / "ct"))
    low = PhantomGrid((3, 8, 8), (40.0, 25.0, 25.0), GRID.origin)
    pt = series_of(write(dicom.pt_series(np.ones(low.shape), low, study), tmp_path / "pt"))
    assert ct.modality == "CT"
    cuts = face_cuts([pt, ct], "deface")
    assert isinstance(cuts[ct.series_uid], Shear)
    assert cuts[pt.series_uid] == cuts[ct.series_uid]
    alone = face_cuts([pt], "deface")[pt.series_uid]
    assert isinstance(alone, CaseFault)
    assert alone.reason == Reason.FACE_NOT_CUT
    stays = face_cuts([pt], "refuse")[pt.series_uid]
    assert isinstance(stays, CaseFault)
    assert stays.reason == Reason.RECOGNISABLE_FACE


def test_a_skull_counts_whatever_the_header_says_and_a_trunk_leaves(tmp_path: Path) -> None:
    chest = dicom.Study(body_part="CHEST")
    shown = series_of(write(dicom.ct_series(head(HU), GRID, chest), tmp_path / "head"))
    stays = face_cuts([shown], "refuse", unstated=False)[shown.series_uid]
    assert isinstance(stays, CaseFault)
    trunk = series_of(write(ct_datasets(), tmp_path / "trunk"))
    assert face_cuts([trunk], "refuse") == {trunk.series_uid: None}


def test_regions_that_may_outline_a_face_are_found_by_name() -> None:
    for name, found in (("BODY", True), ("External_1", True), ("Haut", True), ("GTV_Mass", False)):
        roi, segment = Dataset(), Dataset()
        roi.ROIName, segment.SegmentLabel = name, name
        drawn, coded = Dataset(), Dataset()
        drawn.StructureSetROISequence, coded.SegmentSequence = [roi], [segment]
        assert [outlines_face(drawn), outlines_face(coded)] == [found, found]
    assert not outlines_face(Dataset())


def test_contours_and_segments_of_a_face_are_found() -> None:
    images = ct_datasets()
    shape = (6, 8, 10)
    mask = np.zeros(shape, bool)
    mask[2:4, 3:5, 3:6] = True
    contours = dicom.rtstruct({"GTV": mask}, ct_grid(), images)
    segments = Dataset()
    segments.update(enhanced(ct_datasets(), pydicom.uid.EnhancedCTImageStorage))
    segments.file_meta = images[0].file_meta
    segments.SegmentSequence = [Dataset()]
    segments.PixelData = mask.astype("<u2").tobytes()
    z = float(images[2].ImagePositionPatient[2])
    for where, found in ((z - 1, False), (z + 1, True)):
        shear = Shear(((0.0, where),), -1000.0)
        assert reaches_face(PATH, contours, shear) is found
        assert reaches_face(PATH, segments, shear) is found
    assert not reaches_face(PATH, Dataset(), Shear(((0.0, z + 1),), -1000.0))
