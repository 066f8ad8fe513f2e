"""Files of readers in forms that are read otherwise, or not at all: none is passed over."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
from pydicom.uid import SurfaceSegmentationStorage

from jipflow.annotate.readings import OTHER_SUFFIXES
from jipflow.outcomes import Status
from test_annotated import LIVER, OPTIONAL, SPLEEN, Site, box


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def surface(dataset):
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SurfaceSegmentationStorage


def other_kind(site, name):
    if name == "surface":
        return site.seg({"liver": box(LIVER)}, name="surface.dcm", change=surface)
    path = site.to() / name
    path.write_bytes(b"regions in another form")
    return path


KINDS = ["lesions.seg.nrrd", "labels.MHA", "a.tar.gz", "surface"]


@pytest.mark.parametrize("name", KINDS)
def test_nothing_does_not_count_beside_a_file_that_is_not_read(site, name):
    """It may hold what was marked."""
    site.nothing()
    path = other_kind(site, name)
    outcome = site.read(segments=OPTIONAL, may_be_empty=True)
    assert outcome.status is Status.WAITING
    assert {row["reason"] for row in site.readings} == {"ambiguous_contours", "unsupported_object"}
    assert path.name in outcome.message


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_is_not_read_is_named_beside_one_that_is(site, name):
    site.seg({"liver": box(LIVER), "spleen": box(SPLEEN)})
    path = other_kind(site, name)
    outcome = site.read()
    assert outcome.status is Status.OK
    assert f"'{path.name}' of ada cannot be used: it is of a kind that is not read" in (
        outcome.message
    )


@pytest.mark.parametrize("name", ["readme.txt", "report.pdf", "picture.png"])
def test_what_holds_no_regions_changes_nothing(site, name):
    site.nothing()
    other_kind(site, name)
    assert site.read(segments=OPTIONAL, may_be_empty=True).status is Status.OK


def test_suffixes_are_compared_in_small_letters():
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in OTHER_SUFFIXES)


def test_an_object_without_preamble_is_read_as_images_are(site):
    path = site.seg({"liver": box(LIVER)})
    path.write_bytes(path.read_bytes()[132:])
    outcome = site.read(segments=OPTIONAL)
    assert outcome.status is Status.OK
    np.testing.assert_array_equal(site.result()["liver"][0], box(LIVER))


def test_decisions_on_what_a_reader_drew_are_counted(site):
    site.seg({"liver": box(LIVER), "Liver 2": box(SPLEEN)})
    outcome = site.read(segments=OPTIONAL)
    assert outcome.status is Status.OK
    assert "regions_united" in outcome.decisions


def changed(path, change):
    """Change the bytes of a compressed NIfTI file, its sum left as it was."""
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def cut_sum(data):
    del data[-4:]


def wrong_sum(data):
    data[-6] ^= 1


def followed(data):
    data += b"garbage"


def long(data):
    content = gzip.decompress(data) + bytes(2**24 + 1)
    data[:] = gzip.compress(content, mtime=0)


@pytest.mark.parametrize("damage", [cut_sum, wrong_sum, followed, long])
def test_a_compressed_file_is_read_up_to_its_sum(site, damage):
    changed(site.nifti(box(LIVER)), damage)
    outcome = site.read(segments=OPTIONAL)
    assert outcome.status is Status.WAITING
    assert site.readings[0]["reason"] == "unreadable"


@pytest.mark.parametrize(
    ("unit", "scale", "good"),
    [
        ("mm", 1, True),
        ("unknown", 1, True),
        ("micron", 1000, True),
        ("meter", 0.001, True),
        ("micron", 1, False),
        ("meter", 1, False),
        ("mm", 1000, False),
    ],
)
def test_a_header_is_read_in_its_units_of_space(site, unit, scale, good):
    path = site.nifti(box(LIVER))
    image = nibabel.load(path)
    affine = np.diag([scale, scale, scale, 1.0]) @ image.affine
    labels = nibabel.Nifti1Image(np.asanyarray(image.dataobj), affine)
    labels.header.set_xyzt_units(unit)
    nibabel.save(labels, path)
    outcome = site.read(segments=OPTIONAL)
    assert (outcome.status is Status.OK) == good
    if good:
        np.testing.assert_array_equal(site.result()["liver"][0], box(LIVER))
    else:
        assert site.readings[0]["reason"] == "grid_mismatch"
