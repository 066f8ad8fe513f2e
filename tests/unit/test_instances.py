"""Several multi-frame images of one series are one stack, and a part that is missing is noticed."""

from __future__ import annotations

import copy

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from jipflow.images.acquisitions import same_image
from jipflow.images.instances import planes_of
from jipflow.images.pixels import decode
from jipflow.images.series import read_planes, read_series_volume
from jipflow.images.suv.fields import differing_field
from jipflow.phantom import dicom
from jipflow.reasons import CaseFault, Decision, Reason
from series_factory import concatenation, ct_datasets, ct_hu, enhanced, series_of, write
from test_encode import encode, masks, referenced


def test_images_are_decoded_only_where_they_are_of_the_stack(tmp_path, monkeypatch):
    decoded = []

    def counted(path, dataset, frames=None, tally=None):
        decoded.append((path.name, frames))
        return decode(path, dataset, frames, tally)

    parts = concatenation(enhanced(ct_datasets(), EnhancedCTImageStorage), [2, 3, 1])
    again = copy.deepcopy(parts[1])
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    series = series_of(write([*parts, again], tmp_path))
    monkeypatch.setattr("jipflow.images.pixels.decode", counted)
    decisions: list[Decision] = []
    volume = read_series_volume(series, decisions=decisions)
    np.testing.assert_array_equal(volume.array, ct_hu())
    assert decisions == ["multi_frame_images_joined"]
    # A file of one frame at once; the second part and its copy to be compared; the others once.
    assert decoded[0] == ("0002.dcm", None)
    assert sorted(decoded[1:3]) == [("0001.dcm", None), ("0003.dcm", None)]
    assert decoded[3:] == [("0000.dcm", None), ("0003.dcm", None)]


def test_images_of_some_frames_are_decoded_in_part(tmp_path, monkeypatch):
    decoded = []

    def counted(path, dataset, frames=None, tally=None):
        decoded.append((path.name, frames))
        return decode(path, dataset, frames, tally)

    mixed = ct_datasets(), [ct_datasets()[k] for k in (5, 2, 4, 3)]
    images = [enhanced(mixed[0][:4], EnhancedCTImageStorage)]
    images.append(enhanced(mixed[1], EnhancedCTImageStorage))
    images[1].ContentTime = images[0].ContentTime
    images[1].SOPInstanceUID = images[1].file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    series = series_of(write(images, tmp_path))
    monkeypatch.setattr("jipflow.images.pixels.decode", counted)
    notes: list[str] = []
    volume = read_series_volume(series, notes=notes)
    np.testing.assert_array_equal(volume.array, ct_hu())
    assert notes == [
        "Repeated slices, of the same place and pixels, left out: 2.",
        "The slices are frames of 2 multi-frame images.",
    ]
    assert decoded[-2:] == [("0000.dcm", [0, 1]), ("0001.dcm", None)]
    planes = read_planes(series)
    assert [plane.frame for plane in planes] == [0, 1, 1, 3, 2, 0]
    assert [plane.frame_number for plane in planes] == [1, 2, 2, 4, 3, 1]


def test_images_do_not_keep_their_encoded_pixels(tmp_path, monkeypatch):
    parts = concatenation(enhanced(ct_datasets(), EnhancedCTImageStorage), [3, 3])
    seen = []
    monkeypatch.setattr("jipflow.images.series.check_stack", lambda stack, *_: seen.extend(stack))
    volume = read_series_volume(series_of(write(parts, tmp_path)))
    np.testing.assert_array_equal(volume.array, ct_hu())
    assert len(seen) == 6
    assert not any("PixelData" in plane.instance or plane.stored is not None for plane in seen)


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ({0}, "1 of 3 parts of a multi-frame image are missing, the first is part 1;"),
        ({1}, "1 of 3 parts of a multi-frame image are missing, the first is part 2;"),
        ({2}, "1 of 3 parts of a multi-frame image are missing, the first is part 3;"),
        ({0, 1}, "2 of 3 parts of a multi-frame image are missing, the first is part 1;"),
        ({1, 2}, "2 of 3 parts of a multi-frame image are missing, the first is part 2;"),
    ],
)
@pytest.mark.parametrize("total", [True, False])
def test_images_of_which_a_part_is_missing_are_refused(gone, says, total, tmp_path):
    parts = concatenation(enhanced(ct_datasets(), EnhancedCTImageStorage), [2, 2, 2])
    kept = [part for number, part in enumerate(parts) if number not in gone]
    for part in kept:
        if not total:
            del part.InConcatenationTotalNumber
    series = series_of(write(kept, tmp_path))
    if not total and min(gone) == len(kept):
        # Nothing says that there is another part behind the last one.
        assert len(read_planes(series)) == 2 * len(kept)
        return
    with pytest.raises(CaseFault) as caught:
        read_planes(series)
    assert caught.value.reason is Reason.MISSING_SLICES
    assert says in caught.value.message


def test_images_of_two_concatenations_are_two(tmp_path):
    images = [enhanced(ct_datasets()[k : k + 3], EnhancedCTImageStorage) for k in (0, 3)]
    images[1].SOPInstanceUID = dicom.uid("other half")
    parts = [part for image in images for part in concatenation(image, [1, 2])]
    volume = read_series_volume(series_of(write(parts, tmp_path)))
    np.testing.assert_array_equal(volume.array, ct_hu())
    with pytest.raises(CaseFault, match="1 of 2 parts"):
        read_planes(series_of(write(parts[:-1], tmp_path / "less")))


def test_images_with_an_absurd_total_are_refused_at_once(tmp_path):
    parts = concatenation(enhanced(ct_datasets(), EnhancedCTImageStorage), [3, 3])
    parts[0].add_new("InConcatenationTotalNumber", "UL", 4_000_000_000)
    with pytest.raises(CaseFault, match="3999999998 of 4000000000 parts"):
        read_planes(series_of(write(parts, tmp_path)))


@pytest.mark.parametrize("offset", [2, 4])
def test_images_with_an_offset_that_is_not_the_frames_before_are_refused(offset, tmp_path):
    parts = concatenation(enhanced(ct_datasets(), EnhancedCTImageStorage), [3, 3])
    parts[1].ConcatenationFrameOffsetNumber = offset
    with pytest.raises(CaseFault, match=f"begins after {offset} frames, and the .* have 3"):
        read_planes(series_of(write(parts, tmp_path)))


def test_images_of_one_frame_each_are_no_more_than_single_slices(tmp_path):
    images = [enhanced([d], EnhancedCTImageStorage) for d in ct_datasets()]
    notes: list[str] = []
    volume = read_series_volume(series_of(write(images, tmp_path)), notes=notes)
    np.testing.assert_array_equal(volume.array, ct_hu())
    assert notes == []


def test_images_without_an_offset_are_read(tmp_path):
    parts = concatenation(enhanced(ct_datasets(), EnhancedCTImageStorage), [3, 3])
    parts[0].ConcatenationFrameOffsetNumber = None
    del parts[1].ConcatenationFrameOffsetNumber
    volume = read_series_volume(series_of(write(parts, tmp_path)))
    np.testing.assert_array_equal(volume.array, ct_hu())


def test_a_seg_names_each_part_of_a_multi_frame_image_with_its_frames(tmp_path):
    image = enhanced(ct_datasets(), EnhancedCTImageStorage)
    source = write(concatenation(image, [2, 3, 1]), tmp_path)
    seg = encode(source, **{"liver": masks(source)["liver"]})
    uids = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in source]
    # Slices 1, 2 and 3 of the volume.
    assert referenced(seg) == [(uids[0], 2), (uids[1], 1), (uids[1], 2)]
    instances = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert [item.ReferencedSOPInstanceUID for item in instances] == uids
    image = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    assert image.SourceImageSequence[0].SpatialLocationsPreserved == "YES"


@pytest.mark.parametrize(
    ("name", "value", "differs"),
    [
        ("PatientWeight", "70.1", False),
        ("PatientWeight", "77", True),
        ("SeriesTime", "090000.000", False),
        ("SeriesTime", "090001", True),
        ("Units", "bqml", False),
        ("Units", "GML", True),
        ("PatientSize", None, False),
        ("RadionuclideTotalDose", "350000001", False),
        ("RadionuclideTotalDose", "360000000", True),
        ("RadiopharmaceuticalStartTime", "0800", True),
    ],
)
def test_fields_that_give_another_suv_are_named(name, value, differs):
    headers = []
    for number in range(2):
        header, tracer = Dataset(), Dataset()
        header.PatientWeight, header.PatientSize = "70", "1.8"
        header.SeriesTime, header.Units = "090000", "BQML"
        tracer.RadionuclideTotalDose, tracer.RadiopharmaceuticalStartTime = "350000000", "0755"
        header.RadiopharmaceuticalInformationSequence = [tracer]
        if number and value is not None:
            setattr(tracer if name.startswith("Radi") else header, name, value)
        elif number:
            delattr(header, name)
        headers.append(header)
    assert differing_field(*headers).startswith(name) == differs
    assert differing_field(*headers[::-1]).startswith(name) == differs


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("20200101080000.00+0100", "20200101080000.00+0000", False),
        ("20200101080000+0100", "20200101080000.00+0100", True),
        ("20200101080000", "20200101080000.00+0100", True),
        ("202001010800", "20200101080000.5", True),
        ("20200101080000", "20200101080001", False),
        ("20200101", "20200102", False),
    ],
)
def test_moments_are_compared_to_the_second(one, other, same):
    headers = []
    for moment in (one, other):
        header, tracer = Dataset(), Dataset()
        tracer.RadiopharmaceuticalStartDateTime = moment
        header.RadiopharmaceuticalInformationSequence = [tracer]
        headers.append(header)
    assert (differing_field(*headers) == "") == same


@pytest.mark.parametrize("other", ["075500", "07:55:00", "07:55", "0755.00", "075500.999"])
def test_times_are_the_same_however_they_are_written(other):
    headers = []
    for time in ("0755", other):
        header, tracer = Dataset(), Dataset()
        tracer.add_new("RadiopharmaceuticalStartTime", "LO", time)
        header.RadiopharmaceuticalInformationSequence = [tracer]
        headers.append(header)
    assert differing_field(*headers) == ""


def test_philips_factors_are_compared_as_numbers():
    headers = []
    for factor in ("0.000123", "0.000456"):
        header = Dataset()
        block = header.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(0x00, "DS", factor)
        headers.append(header)
    assert differing_field(*headers) == "(7053,xx00) (0.000123, 0.000456)"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda d: setattr(d, "SOPInstanceUID", "2.25.1"), True),
        (lambda d: setattr(d, "PixelData", d.PixelData[::-1]), False),
        (lambda d: setattr(d, "RescaleIntercept", "-1000"), False),
        (lambda d: setattr(d, "AcquisitionTime", "235959"), False),
        (lambda d: setattr(d, "ModalityLUTSequence", [Dataset()]), False),
    ],
    ids=["UID", "pixels", "rescale", "time", "table"],
)
def test_a_copy_has_the_same_pixels_and_what_says_what_they_are(change, same, tmp_path):
    one, other = ct_datasets()[0], ct_datasets()[0]
    change(other)
    paths = write([one, other], tmp_path)
    (first,), (second,) = (planes_of(path, pydicom.dcmread(path)) for path in paths)
    assert same_image(first, second) is same
