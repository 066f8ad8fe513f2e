"""Which pixels of a DICOM-SEG are whose: numbers, bits, bytes and values, or it is refused."""

from __future__ import annotations

import copy

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
    JPEGLSNearLossless,
    RLELossless,
)

from jipflow.notes import Notes
from jipflow.objects.annotation import Match
from jipflow.objects.seg_groups import lengths, whole
from jipflow.objects.seg_pixels import decoded
from jipflow.objects.seg_reader import DicomSeg
from jipflow.reasons import CaseFault, Reason
from seg_archive import ENCODERS, NODE, SLAB, TUMOUR, Archive, labelled, stacked


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


def number_of(dataset, index, number):
    dataset.SegmentSequence[index].SegmentNumber = number


def owner_of(dataset, frame, number):
    identity = dataset.PerFrameFunctionalGroupsSequence[frame].SegmentIdentificationSequence[0]
    if number is None:
        del identity.ReferencedSegmentNumber
    else:
        identity.ReferencedSegmentNumber = number


class TestNumbers:
    @pytest.mark.parametrize("wanted", [{"gtv": "GTV"}, {"node": "Node"}, {"slab": "Slab"}])
    def test_of_two_segments_are_refused_for_each_segment(self, archive, wanted):
        def same(dataset):
            number_of(dataset, 1, 1)
            for frame in range(len(dataset.PerFrameFunctionalGroupsSequence)):
                identity = dataset.PerFrameFunctionalGroupsSequence[frame]
                if identity.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 2:
                    owner_of(dataset, frame, 1)

        path = archive.write(archive.seg(stacked(TUMOUR, NODE, SLAB)), same)
        reason, message = archive.refusal(path, **wanted)
        assert reason is Reason.AMBIGUOUS_CONTOURS
        assert "2 segments have the number 1" in message

    def test_of_two_labels_are_refused(self, archive):
        dataset = archive.seg(labelled(TUMOUR, NODE), "LABELMAP", ("GTV", "Node"))
        path = archive.write(dataset, lambda d: number_of(d, 2, 1))
        assert archive.refusal(path)[0] is Reason.AMBIGUOUS_CONTOURS

    @pytest.mark.parametrize(
        ("number", "shown"),
        [(7, "segment 7,"), (0, "segment without a number"), (None, "segment without a number")],
    )
    def test_of_frames_that_no_segment_has_are_refused(self, archive, number, shown):
        dataset = archive.seg(stacked(TUMOUR, NODE))
        path = archive.write(dataset, lambda d: owner_of(d, 0, number))
        reason, message = archive.refusal(path)
        assert reason is Reason.AMBIGUOUS_CONTOURS
        assert shown in message

    def test_of_labels_that_no_segment_has_are_refused(self, archive):
        def forget(dataset):
            del dataset.SegmentSequence[2]

        dataset = archive.seg(labelled(TUMOUR, NODE), "LABELMAP", ("GTV", "Node"))
        reason, message = archive.refusal(archive.write(dataset, forget))
        assert reason is Reason.AMBIGUOUS_CONTOURS
        assert f"{NODE.sum()} pixels have the label 2" in message

    @pytest.mark.parametrize("number", [[1, 2], -1])
    def test_that_are_none_are_refused(self, archive, number):
        def change(dataset):
            element = pydicom.DataElement(0x00620004, "SS", number)
            dataset.SegmentSequence[0][0x00620004] = element

        path = archive.write(archive.seg(stacked(TUMOUR)), change)
        reason, message = archive.refusal(path)
        assert reason is Reason.UNREADABLE
        assert "has no Segment Number" in message

    def test_of_frames_of_a_label_map_are_no_segments(self, archive):
        """Its background has the number 0, and frames without a number are not of it."""
        dataset = archive.seg(labelled(TUMOUR), "LABELMAP", ("GTV",))
        path = archive.write(dataset, set_to(SegmentationType="BINARY"))
        assert archive.refusal(path)[0] is Reason.AMBIGUOUS_CONTOURS

    @pytest.mark.parametrize("padding", [1, 0])
    def test_of_padding_are_no_segment_that_is_wanted(self, archive, padding):
        def change(dataset):
            if padding:
                dataset.PixelPaddingValue = 1
            else:
                del dataset.SegmentSequence[0]
                number_of(dataset, 0, 0)

        dataset = archive.seg(labelled(TUMOUR, NODE), "LABELMAP", ("GTV", "Node"))
        path = archive.write(dataset, change)
        with pytest.raises(CaseFault) as fault:
            DicomSeg(pydicom.dcmread(path), path).draw(
                "gtv", "GTV", archive.target, Match.INSTANCES, Notes()
            )
        assert fault.value.reason is Reason.AMBIGUOUS_CONTOURS
        assert f"'GTV' has the number {padding} of pixels that belong to no" in fault.value.message


class TestBigEndian:
    """Words of a big endian data set have their bytes swapped (PS3.5 7.3, 8.1.1, A.3)."""

    def swapped(self, dataset, size, vr):
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        data = dataset.PixelData + bytes(len(dataset.PixelData) % 2)
        if vr == "OW" or size == 2:
            data = np.frombuffer(data, "<u2").astype(">u2").tobytes()
        dataset.PixelData = data
        dataset["PixelData"].VR = vr

    def write(self, archive, dataset, size=1, vr="OW"):
        plain = pydicom.Dataset(dataset)
        plain.file_meta = copy.deepcopy(dataset.file_meta)
        self.swapped(plain, size, vr)
        path = archive.folder / "seg.dcm"
        pydicom.dcmwrite(
            path, plain, enforce_file_format=True, implicit_vr=False, little_endian=False
        )
        assert vr == pydicom.dcmread(path)["PixelData"].VR
        return path

    @pytest.mark.parametrize("vr", ["OW", "OB"])
    @pytest.mark.parametrize("masks", [(TUMOUR,), (TUMOUR, NODE, SLAB)])
    def test_bits_come_back_voxel_for_voxel(self, archive, vr, masks):
        path = self.write(archive, archive.seg(stacked(*masks)), vr=vr)
        names = ("GTV", "Node", "Slab")[: len(masks)]
        regions, _ = archive.regions(path, **{name.lower(): name for name in names})
        for mask, region in zip(masks, regions.values(), strict=True):
            np.testing.assert_array_equal(region, mask)

    @pytest.mark.parametrize("vr", ["OW", "OB"])
    def test_bytes_come_back_voxel_for_voxel(self, archive, vr):
        dataset = archive.seg(labelled(TUMOUR, NODE), "LABELMAP", ("GTV", "Node"))
        regions, _ = archive.regions(self.write(archive, dataset, vr=vr), gtv="GTV", node="Node")
        np.testing.assert_array_equal(regions["gtv"], TUMOUR)
        np.testing.assert_array_equal(regions["node"], NODE)

    def test_words_come_back_voxel_for_voxel(self, archive):
        labels = labelled(TUMOUR, NODE).astype(np.uint16)
        labels[NODE] = 300
        dataset = archive.seg(labels, "LABELMAP", ("GTV", "Node"), numbers=(1, 300))
        path = self.write(archive, dataset, size=2)
        regions, _ = archive.regions(path, gtv="GTV", node="Node")
        np.testing.assert_array_equal(regions["gtv"], TUMOUR)
        np.testing.assert_array_equal(regions["node"], NODE)

    @pytest.mark.parametrize(("vr", "size"), [("UN", 2), ("OW", 3)])
    def test_bytes_of_unknown_order_are_refused(self, vr, size):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dataset.BitsAllocated = 1
        dataset.add_new("PixelData", vr, bytes(size))
        with pytest.raises(ValueError, match="have no known order"):
            list(decoded(dataset, [0], (2, 8), 1))


def eight_bits(highest):
    """As BINARY segmentations of older software, a byte a pixel."""

    def change(dataset):
        pixels = dataset.pixel_array.astype(np.uint8) * highest
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.PixelData = pixels.tobytes() + bytes(pixels.size % 2)

    return change


def set_to(**values):
    def change(dataset):
        for name, value in values.items():
            setattr(dataset, name, value)

    return change


class TestValues:
    def test_of_a_byte_a_pixel_are_read_as_bits(self, archive):
        path = archive.write(archive.seg(stacked(TUMOUR)), eight_bits(1))
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], TUMOUR)

    @pytest.mark.parametrize("highest", [2, 255])
    def test_of_a_binary_object_beyond_1_are_refused(self, archive, highest):
        path = archive.write(archive.seg(stacked(TUMOUR)), eight_bits(highest))
        reason, message = archive.refusal(path)
        assert reason is Reason.UNSUPPORTED_OBJECT
        assert f"its values reach {highest}, beyond the 1 that stand for all" in message

    @pytest.mark.parametrize(("most", "sound"), [(100, True), (99, False), (1, False)])
    def test_of_fractions_beyond_their_maximum_are_refused(self, archive, most, sound):
        fractions = np.where(TUMOUR, 1.0, 0.0)
        dataset = archive.seg(
            fractions, "FRACTIONAL", ("GTV",), fractional_type="PROBABILITY",
            max_fractional_value=100,
        )  # fmt: skip
        path = archive.write(dataset, set_to(MaximumFractionalValue=most))
        if sound:
            np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], TUMOUR)
        else:
            reason, message = archive.refusal(path)
            assert reason is Reason.UNSUPPORTED_OBJECT
            assert f"its values reach 100, beyond the {most}" in message

    def test_of_fractions_below_one_half_are_no_region_and_no_absence(self, archive):
        """Bytes 0 and 1 of a maximum of 255, as of a mask that was not scaled."""
        dataset = archive.seg(
            np.where(TUMOUR, 1 / 255, 0.0), "FRACTIONAL", ("GTV",), fractional_type="PROBABILITY"
        )
        reason, message = archive.refusal(archive.write(dataset))
        assert reason is Reason.EMPTY_SEGMENT
        assert "its values reach 1 of 255, none one half" in message

    @pytest.mark.parametrize(
        "change",
        [
            set_to(BitsStored=12),
            set_to(HighBit=0),
            set_to(HighBit=6),
            set_to(BitsStored=6, HighBit=5),
            set_to(PixelRepresentation=1),
            set_to(SamplesPerPixel=3),
            set_to(PhotometricInterpretation="MONOCHROME1"),
            set_to(PhotometricInterpretation="RGB"),
            set_to(BitsAllocated=32, BitsStored=32, HighBit=31),
            set_to(BitsAllocated=1, BitsStored=1, HighBit=0),
        ],
    )
    def test_of_another_layout_are_refused(self, archive, change):
        path = archive.write(archive.seg(labelled(TUMOUR), "LABELMAP", ("GTV",)), change)
        assert archive.refusal(path)[0] is Reason.UNSUPPORTED_OBJECT

    @pytest.mark.parametrize("bits", [1, 16])
    def test_of_fractions_are_bytes(self, archive, bits):
        dataset = archive.seg(
            np.where(TUMOUR, 1.0, 0.0), "FRACTIONAL", ("GTV",), fractional_type="PROBABILITY"
        )
        change = set_to(BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1)
        reason, message = archive.refusal(archive.write(dataset, change))
        assert reason is Reason.UNSUPPORTED_OBJECT
        assert "a FRACTIONAL segmentation has 8 bits a pixel" in message

    def test_of_an_unknown_type_are_refused(self, archive):
        path = archive.write(archive.seg(stacked(TUMOUR)), set_to(SegmentationType="SURFACE"))
        assert archive.refusal(path)[0] is Reason.UNSUPPORTED_OBJECT


class TestCompressed:
    @pytest.mark.parametrize("syntax", [JPEG2000, JPEGLSNearLossless, JPEGBaseline8Bit])
    def test_with_loss_are_refused(self, archive, syntax):
        """A label that is off by one is another organ."""

        def lossy(dataset):
            dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"] * dataset.NumberOfFrames)
            dataset["PixelData"].VR = "OB"
            dataset.file_meta.TransferSyntaxUID = syntax

        path = archive.write(archive.seg(labelled(TUMOUR), "LABELMAP", ("GTV",)), lossy)
        reason, message = archive.refusal(path)
        assert reason is Reason.UNSUPPORTED_OBJECT
        assert "may have changed its values" in message

    @pytest.mark.parametrize("syntax", ENCODERS)
    @pytest.mark.parametrize("more", [-1, 1])
    @pytest.mark.parametrize("table", ["basic", "extended", "none"])
    def test_frames_in_another_number_are_refused(self, archive, syntax, more, table):
        def recount(dataset):
            frames = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=3))
            frames = frames[:more] if more < 0 else [*frames, frames[0]]
            dataset.PixelData = encapsulate(frames, has_bot=table == "basic")
            if table == "extended":
                found = encapsulate_extended(frames)
                (dataset.PixelData, dataset.ExtendedOffsetTable) = found[:2]
                dataset.ExtendedOffsetTableLengths = found[2]

        dataset = archive.seg(labelled(TUMOUR), "LABELMAP", ("GTV",))
        path = archive.write(dataset, recount, syntax)
        assert archive.refusal(path)[0] is Reason.UNDECODABLE_PIXELS

    def test_bits_are_read_or_refused(self, archive):
        def compress(dataset):
            eight_bits(1)(dataset)
            dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)

        path = archive.write(archive.seg(stacked(TUMOUR)), compress)
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], TUMOUR)


@pytest.mark.parametrize("bytes_more", [-2, 1, 2, 3])
def test_another_number_of_bytes_is_refused(archive, bytes_more):
    """4 frames of 35 × 33 bits take 577.5 bytes, and so 578."""

    def change(dataset):
        data = dataset.PixelData
        dataset.PixelData = data[:bytes_more] if bytes_more < 0 else data + bytes(bytes_more)

    dataset = archive.seg(stacked(TUMOUR | NODE))
    assert len(dataset.PixelData) % 2 == 0
    reason, _ = archive.refusal(archive.write(dataset, change))
    assert reason is Reason.UNDECODABLE_PIXELS


def test_an_object_without_a_transfer_syntax_is_read_as_it_shows(archive):
    path = archive.write(archive.seg(stacked(TUMOUR)))
    dataset = pydicom.dcmread(path)
    del dataset.file_meta.TransferSyntaxUID
    dataset.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], TUMOUR)


@pytest.mark.parametrize(
    ("value", "number"), [(3, 3), (0, 0), ("4", 4), (-1, None), (None, None), ([1], None)]
)
def test_whole_numbers(value, number):
    assert whole(value) == number


@pytest.mark.parametrize(
    ("value", "found"),
    [("-3", {3.0}), ("0", set()), (None, set()), ("abc", {np.inf}), (["3", "3"], {np.inf})],
)
def test_lengths_that_are_no_numbers_are_like_no_other(value, found):
    measures = pydicom.Dataset()
    measures.add_new("SpacingBetweenSlices", "LO", value)
    assert lengths([measures, pydicom.Dataset()], "SpacingBetweenSlices") == found


@pytest.mark.parametrize("bit", [0, 1, 2, 7, 8])
def test_bits_beyond_the_last_pixel_are_refused(archive, bit):
    """6 frames of 35 × 33 bits end with the second bit of byte 867, and one byte is added."""

    def change(dataset):
        data = bytearray(dataset.PixelData)
        assert len(data) == 868
        data[866 + bit // 8] |= 1 << bit % 8
        dataset.PixelData = bytes(data)

    whole = np.ones_like(TUMOUR)
    path = archive.write(archive.seg(stacked(whole)), change)
    if bit < 2 or bit > 7:
        np.testing.assert_array_equal(archive.regions(path)[0]["gtv"], whole)
    else:
        reason, message = archive.refusal(path)
        assert reason is Reason.UNDECODABLE_PIXELS
        assert "bits beyond its last pixel" in message
