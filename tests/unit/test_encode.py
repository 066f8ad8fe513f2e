"""The DICOM-SEG holds the masks, their codes and their references, and is the same on every run."""

from __future__ import annotations

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    RLELossless,
    SegmentationStorage,
)

from clock import set_clock
from jipflow.images.masks import Region, Segment, Segmentation, pack
from jipflow.images.series import read_planes, read_series_volume
from jipflow.images.volume import Grid
from jipflow.objects.headers import source_header
from jipflow.objects.seg_writer import build_seg, label_map
from jipflow.objects.terms import read_terms
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.reasons import CaseFault, Reason
from series_factory import ct_datasets, enhanced, mr_datasets, pt_datasets, series_of, write

ENCODINGS = ("binary", "labelmap")
LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"


@pytest.fixture
def source(tmp_path):
    return write(ct_datasets(), tmp_path / "ct")


def encode(source, encoding="binary", method="AUTOMATIC", notes=None, **regions):
    series = series_of(source)
    segmentation = pack(
        [Region(n, n.split("_")[0], m, method, "phantom-ct", "abc") for n, m in regions.items()],
        read_series_volume(series).grid,
    )
    return build_seg(
        segmentation,
        read_planes(series),
        read_terms(),
        encoding=encoding,
        description="demo organs",
        series_number=9001,
        identity=("protocol", "organs"),
        notes=[] if notes is None else notes,
    )


def masks(source):
    """A liver, and a lesion of one row beside it."""
    shape = read_series_volume(series_of(source)).array.shape
    liver, lesion = np.zeros((2, *shape), bool)
    liver[1:4, 2:5, 1:6] = True
    lesion[2, 5:6, 3:6] = True
    return {"liver": liver, "lesion": lesion}


def overlapping(source):
    """A liver, and a lesion in it and beyond."""
    regions = masks(source)
    regions["lesion"][2:5, 3:6, 4:7] = True
    return regions


def saved(dataset, folder):
    path = folder / "seg.dcm"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def read_back(path, grid):
    """The segments' voxels on a grid, through highdicom."""
    seg = highdicom.seg.segread(path)
    geometry = highdicom.VolumeGeometry(
        grid.affine,
        grid.shape,
        coordinate_system="PATIENT",
        frame_of_reference_uid=seg.FrameOfReferenceUID,
    )
    volume = seg.get_volume(combine_segments=False).match_geometry(geometry)
    return [volume.array[..., n].astype(bool) for n in range(volume.array.shape[-1])]


def referenced(seg):
    """SOP instance and frame that each frame of a SEG is derived from."""
    items = [
        group.DerivationImageSequence[0].SourceImageSequence[0]
        for group in seg.PerFrameFunctionalGroupsSequence
    ]
    return [(item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber")) for item in items]


def oblique_ct(folder):
    grid = PhantomGrid(
        (4, 6, 7), (4.0, 3.5, 3.0), (0.0, 0.0, 0.0), (0.8, 0.6, 0.0), (-0.48, 0.64, 0.6)
    )
    return write(dicom.ct_series(np.zeros(grid.shape, np.int16), grid), folder)


def sagittal_mr(folder):
    grid = PhantomGrid(
        (4, 6, 7), (4.0, 3.5, 3.0), (5.0, -7.0, 9.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)
    )
    return write(dicom.ct_series(np.zeros(grid.shape, np.int16), grid), folder)


def coronal_pixels_of_odd_number(folder):
    """Frames of 63 pixels, which fill no whole number of bytes."""
    hu, grid = dicom.coronal(
        np.zeros((9, 5, 7), np.int16), PhantomGrid((9, 5, 7), (4.0, 3.5, 3.0), (0.0, 0.0, 0.0))
    )
    return write(dicom.ct_series(hu, grid), folder)


def shuffled_enhanced_ct(folder):
    datasets = ct_datasets()
    frames = [datasets[k] for k in (3, 0, 5, 1, 4, 2)]
    return write([enhanced(frames, EnhancedCTImageStorage)], folder)


def enhanced_mr(folder):
    return write([enhanced(mr_datasets()[::-1], EnhancedMRImageStorage)], folder)


def tilted_ct(folder):
    """Slices that a tilted gantry leaves, whose grid has more rows than they have."""

    def tilt(datasets):
        for number, dataset in enumerate(datasets):
            x, y, z = dataset.ImagePositionPatient
            dataset.ImagePositionPatient = [x, float(y) + 1.3 * number, z]

    return write(ct_datasets(), folder, tilt)


def descending_pt(folder):
    return write(pt_datasets()[::-1], folder)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "make",
    [
        oblique_ct,
        sagittal_mr,
        coronal_pixels_of_odd_number,
        shuffled_enhanced_ct,
        enhanced_mr,
        descending_pt,
        tilted_ct,
    ],
)
def test_every_voxel_comes_back_where_it_was(make, encoding, tmp_path):
    source = make(tmp_path / "source")
    grid = read_series_volume(series_of(source)).grid
    drawn = np.random.default_rng(3).integers(0, 5, grid.shape)
    drawn[1] = 0
    regions = {f"lesion_{n}": drawn == n for n in (1, 2, 3)}
    back = read_back(saved(encode(source, encoding, **regions), tmp_path), grid)
    for mask, found in zip(regions.values(), back, strict=True):
        np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_single_segment(source, encoding, tmp_path):
    regions = {"liver": masks(source)["liver"]}
    grid = read_series_volume(series_of(source)).grid
    (back,) = read_back(saved(encode(source, encoding, **regions), tmp_path), grid)
    np.testing.assert_array_equal(back, regions["liver"])


@pytest.mark.parametrize("frames", [7, 8, 9])
def test_frames_that_fill_bytes_or_do_not(frames, tmp_path):
    source = write(ct_datasets((9, 3, 5)), tmp_path / "ct")
    drawn = np.zeros((9, 3, 5), bool)
    drawn[:frames, 1] = True
    grid = read_series_volume(series_of(source)).grid
    seg = encode(source, liver=drawn)
    assert len(seg.PixelData) == 2 * -(-frames * 15 // 16)
    (back,) = read_back(saved(seg, tmp_path), grid)
    np.testing.assert_array_equal(back, drawn)


def test_binary_holds_overlapping_segments(source, tmp_path):
    regions = overlapping(source)
    seg = encode(source, **regions)
    assert seg.SegmentsOverlap == "YES"
    assert encode(source, **masks(source)).SegmentsOverlap == "NO"
    back = read_back(
        saved(seg, tmp_path),
        read_series_volume(series_of(source)).grid,
    )
    for mask, found in zip(regions.values(), back, strict=True):
        np.testing.assert_array_equal(found, mask)


def test_a_label_map_refuses_overlapping_segments_by_name(source):
    regions = overlapping(source)
    with pytest.raises(CaseFault) as fault:
        encode(source, "labelmap", **regions)
    assert fault.value.reason is Reason.OVERLAPPING_SEGMENTS
    voxels = np.sum(regions["liver"] & regions["lesion"])
    assert f"overlap in {voxels} voxels ('liver' and 'lesion')" in fault.value.message
    assert "encoding to binary" in fault.value.message


def test_the_values_of_a_label_map_are_the_segment_numbers(source, tmp_path):
    regions = masks(source)
    seg = pydicom.dcmread(saved(encode(source, "labelmap", **regions), tmp_path))
    assert (seg.SOPClassUID, seg.SegmentationType) == (LABEL_MAP_STORAGE, "LABELMAP")
    assert [item.SegmentNumber for item in seg.SegmentSequence] == [0, 1, 2]
    assert seg.PixelPaddingValue == 0
    assert (seg.BitsAllocated, seg.SegmentsOverlap) == (8, "NO")
    drawn = regions["liver"] + 2 * regions["lesion"]
    np.testing.assert_array_equal(seg.pixel_array, drawn[drawn.any(axis=(1, 2))])


def test_segments_of_several_layers_make_one_label_map_of_16_bits():
    layers = np.zeros((2, 1, 20, 20), np.uint8)
    layers[0].flat[:250] = np.arange(1, 251)
    layers[1].flat[250:300] = np.arange(50, 0, -1)
    segments = [Segment(f"a{n}", 0, n, "liver", "MANUAL", "x") for n in range(1, 251)]
    segments += [Segment(f"b{n}", 1, n, "liver", "MANUAL", "x") for n in range(50, 0, -1)]
    grid = Grid((1, 20, 20), np.eye(4))
    numbers = label_map(Segmentation(tuple(layers), tuple(segments), grid))
    assert numbers.dtype == np.uint16
    np.testing.assert_array_equal(numbers.ravel()[:301], [*range(1, 301), 0])


def test_each_encoding_has_its_class_and_transfer_syntax(source):
    regions = masks(source)
    binary, labels = (encode(source, encoding, **regions) for encoding in ENCODINGS)
    assert binary.SOPClassUID == SegmentationStorage
    assert binary.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert labels.SOPClassUID == LABEL_MAP_STORAGE
    assert labels.file_meta.TransferSyntaxUID == RLELossless
    assert binary.SOPInstanceUID != labels.SOPInstanceUID


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_codes_tracking_and_references(source, encoding):
    seg = encode(source, encoding, **masks(source))
    liver, lesion = seg.SegmentSequence[-2:]
    assert liver.SegmentedPropertyTypeCodeSequence[0] == codes.SCT.Liver
    assert liver.SegmentedPropertyCategoryCodeSequence[0] == codes.CID7150.AnatomicalStructure
    assert lesion.SegmentedPropertyTypeCodeSequence[0] == codes.SCT.Lesion
    assert liver.SegmentAlgorithmType == "AUTOMATIC"
    assert len(liver.RecommendedDisplayCIELabValue) == 3
    algorithm = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("phantom-ct", "abc")
    assert liver.TrackingUID != lesion.TrackingUID
    assert liver.TrackingID == "liver"
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in source]
    (series,) = seg.ReferencedSeriesSequence
    listed = [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence]
    assert sorted(listed) == sorted(header.SOPInstanceUID for header in headers)
    assert series.SeriesInstanceUID == headers[0].SeriesInstanceUID
    assert seg.StudyInstanceUID == headers[0].StudyInstanceUID
    assert seg.FrameOfReferenceUID == headers[0].FrameOfReferenceUID


@pytest.mark.parametrize(
    ("encoding", "slices"), [("binary", [1, 2, 3, 2]), ("labelmap", [1, 2, 3])]
)
def test_each_frame_names_the_instance_it_lies_on(source, encoding, slices):
    planes = read_planes(series_of(source))
    seg = encode(source, encoding, **masks(source))
    assert sorted(referenced(seg)) == sorted(
        (planes[k].header.SOPInstanceUID, None) for k in slices
    )
    for group in seg.PerFrameFunctionalGroupsSequence:
        item = group.DerivationImageSequence[0].SourceImageSequence[0]
        (plane,) = (p for p in planes if p.header.SOPInstanceUID == item.ReferencedSOPInstanceUID)
        assert (
            group.PlanePositionSequence[0].ImagePositionPatient == plane.header.ImagePositionPatient
        )
        assert item.ReferencedSOPClassUID == plane.header.SOPClassUID


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_multi_frame_source_is_named_once_and_its_frames_by_number(encoding, tmp_path):
    source = shuffled_enhanced_ct(tmp_path / "source")
    seg = encode(source, encoding, **{"liver": masks(source)["liver"]})
    uid = pydicom.dcmread(source[0], stop_before_pixels=True).SOPInstanceUID
    (instance,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == uid
    assert instance.ReferencedSOPClassUID == EnhancedCTImageStorage
    # Slices 1, 2 and 3 of the volume are the frames 4, 6 and 1.
    assert sorted(referenced(seg)) == [(uid, 1), (uid, 4), (uid, 6)]


def test_a_manual_segment_names_no_algorithm(source):
    seg = encode(source, method="MANUAL", **masks(source))
    assert "SegmentationAlgorithmIdentificationSequence" not in seg.SegmentSequence[0]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_same_input_gives_the_same_bytes_at_another_time(
    source, encoding, tmp_path, monkeypatch
):
    first = saved(encode(source, encoding, **masks(source)), tmp_path).read_bytes()
    reads = set_clock(monkeypatch, 2031)
    assert saved(encode(source, encoding, **masks(source)), tmp_path).read_bytes() == first
    assert reads


def test_another_mask_is_another_object_of_the_same_lesion(source):
    regions = masks(source)
    one = encode(source, **regions)
    regions["liver"][0, 0, 0] = True
    other = encode(source, **regions)
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert one[name].value != other[name].value
    assert one.SegmentSequence[0].TrackingUID == other.SegmentSequence[0].TrackingUID


def test_masks_of_another_grid_are_refused(source, tmp_path):
    shifted = ct_datasets()
    for dataset in shifted:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, z + 4]
    other = write(shifted, tmp_path / "other")
    segmentation = pack(
        [Region("liver", "liver", masks(source)["liver"], "MANUAL", "x")],
        read_series_volume(series_of(other)).grid,
    )
    with pytest.raises(CaseFault, match=r"up to 4.00 mm off the slices") as fault:
        build_seg(
            segmentation,
            read_planes(series_of(source)),
            read_terms(),
            encoding="binary",
            description="x",
            series_number=1,
            identity=("x",),
            notes=[],
        )
    assert fault.value.reason is Reason.GRID_MISMATCH


def test_a_sparse_header_is_enough(tmp_path):
    """Attributes of type 2 may be empty, but archives also hold images that lack them."""

    def strip(datasets):
        kept = {"SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"}
        kept |= {"Modality", "FrameOfReferenceUID", "RescaleSlope", "RescaleIntercept"}
        kept |= {"ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"}
        for dataset in datasets:
            for element in list(dataset):
                if element.tag.group != 0x0028 and element.keyword not in kept | {"PixelData"}:
                    del dataset[element.tag]

    source = write(ct_datasets(), tmp_path / "ct", strip)
    notes = []
    seg = pydicom.dcmread(saved(encode(source, notes=notes, **masks(source)), tmp_path))
    for keyword in ("PatientID", "PatientName", "StudyDate", "StudyTime", "AccessionNumber"):
        assert seg[keyword].is_empty
    assert seg.ContentDate == "19000101"
    assert "neither the images nor the study have a date" in " ".join(notes)
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == 4.0
    assert "Slice Thickness, missing in the source" in " ".join(notes)


def test_blank_uids_are_stood_in_for(tmp_path):
    def blank(datasets):
        for dataset in datasets:
            dataset.StudyInstanceUID = dataset.SeriesInstanceUID = dataset.SOPInstanceUID = ""

    datasets = ct_datasets()
    uids = {dataset.SOPInstanceUID for dataset in datasets}
    source = write(datasets, tmp_path / "ct", blank)
    seg = encode(source, **masks(source))
    assert seg.StudyInstanceUID.is_valid
    assert seg.StudyInstanceUID
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == series_of(source).series_uid
    assert {i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence} == uids


def test_what_headers_say_of_the_slice_distance_is_not_believed(tmp_path):
    def claim(datasets):
        for dataset in datasets:
            dataset.SpacingBetweenSlices = "-1.25"

    source = write(ct_datasets(), tmp_path / "ct", claim)
    seg = encode(source, **masks(source))
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == 4.0


JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        (JAPANESE, ["", "ISO 2022 IR 87"]),
        (JAPANESE, ["ISO 2022 IR 13", "ISO 2022 IR 87"]),
        ("Hong^Gildong=洪^吉洞=홍^길동", ["", "ISO 2022 IR 149"]),
        ("Wang^XiaoDong=王^小东", "GB18030"),
        ("Äneas^Rüdiger", "ISO_IR 100"),
        ("Люкceмбypг", "ISO_IR 144"),
        (JAPANESE, "ISO_IR 192"),
    ],
)
def test_a_name_keeps_its_character_set(name, terms, tmp_path):
    def call(datasets):
        for dataset in datasets:
            dataset.SpecificCharacterSet = terms
            dataset.PatientName = name

    source = write(ct_datasets(), tmp_path / "ct", call)
    notes = []
    seg = pydicom.dcmread(saved(encode(source, notes=notes, **masks(source)), tmp_path))
    assert (seg.SpecificCharacterSet, str(seg.PatientName)) == (terms, name)
    assert notes == []


@pytest.mark.parametrize(
    ("stated", "encoded", "read_as"),
    [
        ("", "Müller^Jörg".encode(), "UTF-8"),
        ("", "Müller^Jörg".encode("latin-1"), "Latin-1"),
        ("ISO_IR 6", "Müller^Jörg".encode("latin-1"), "Latin-1"),
        ("ISO_IR 192", "Müller^Jörg".encode("latin-1"), "Latin-1"),
        ("ISO_IR_100", "Müller^Jörg".encode("latin-1"), "none of DICOM"),
    ],
)
def test_a_wrong_character_set_is_repaired(stated, encoded, read_as, tmp_path):
    datasets = ct_datasets()
    for dataset in datasets:
        dataset.SpecificCharacterSet = stated
        dataset.PatientName = dataset.StudyDescription = "@" * len(encoded)
    source = write(datasets, tmp_path / "ct")
    for path in source:
        path.write_bytes(path.read_bytes().replace(b"@" * len(encoded), encoded))
    notes = []
    seg = pydicom.dcmread(saved(encode(source, notes=notes, **masks(source)), tmp_path))
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    assert str(seg.PatientName) == seg.StudyDescription == "Müller^Jörg"
    assert read_as in " ".join(notes)


def test_text_too_long_for_its_representation_is_shortened(tmp_path):
    def lengthen(datasets):
        datasets[0].StudyID = "a study id of far more than sixteen letters"
        datasets[0].StudyDescription = "d" * 70

    with pydicom.config.disable_value_validation():
        source = write(ct_datasets(), tmp_path / "ct", lengthen)
    notes = []
    header = source_header(source[0], notes)
    assert header.StudyID == "a study id of fa"
    assert header.StudyDescription == "d" * 64
    assert notes == ["Shortened to the length that DICOM allows: StudyDescription, StudyID."]


def test_a_patient_id_is_never_shortened(tmp_path):
    def lengthen(datasets):
        for dataset in datasets:
            dataset.PatientID = "P" * 70

    with pydicom.config.disable_value_validation():
        source = write(ct_datasets(), tmp_path / "ct", lengthen)
    notes = []
    assert encode(source, notes=notes, **masks(source)).PatientID == "P" * 70
    assert notes == ["PatientID is kept, though longer than the 64 letters that DICOM allows."]


def test_values_that_no_validator_takes_are_emptied(tmp_path):
    def spoil(datasets):
        for dataset in datasets:
            dataset.PatientSex = "X"
            dataset.PatientBirthDate = "12.03.1960"
            dataset.PatientAge = "60"
            dataset.StudyTime = "noon"

    with pydicom.config.disable_value_validation():
        source = write(ct_datasets(), tmp_path / "ct", spoil)
    notes = []
    seg = pydicom.dcmread(saved(encode(source, notes=notes, **masks(source)), tmp_path))
    for keyword in ("PatientSex", "PatientBirthDate", "PatientAge", "StudyTime"):
        assert seg[keyword].is_empty
        assert keyword in " ".join(notes)
    assert seg.PatientID == "PHANTOM-0001"
