"""What `prepare` keeps of headers serves as the headers do, of each kind of image."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRBigEndian, ImplicitVRLittleEndian

from jipflow.cases import Case, Wanted
from jipflow.images.kept import headers_path, with_headers
from jipflow.images.masks import Region, pack, read_segmentation, write_segmentation
from jipflow.images.series import read_planes, read_series_volume
from jipflow.images.volume import read_volume, write_volume
from jipflow.objects.headers import source_header
from jipflow.objects.seg_writer import build_seg
from jipflow.objects.terms import read_terms
from jipflow.outcomes import Trial
from jipflow.reasons import CaseFault, PlaceError, StageError
from jipflow.segment.engines.imported.engine import target_of
from series_factory import ct_datasets, enhanced, mosaic, mr_datasets, pt_datasets, series_of, write
from test_apart import localizer
from test_tilt import Sphere
from test_together import three_phases


def defective(datasets):
    """Defects of which one is noted, one changes a UID, and one is no number."""
    for dataset in datasets:
        dataset.StudyInstanceUID = ""
        dataset.PositionReferenceIndicator = "Brustbein Höhe"
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionRatio = ["12.50", "3"]
        dataset.LossyImageCompressionMethod = ["ISO_10918_1", "ISO_15444_1"]
        dataset.ContentDate = "yesterday"
    return datasets


def in_encoding(datasets, syntax):
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = syntax
        if not syntax.is_little_endian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    return datasets


KINDS = {
    "CT": ct_datasets,
    "PET": lambda: pt_datasets()[::-1],
    "with defects": lambda: defective(ct_datasets()),
    "implicit": lambda: in_encoding(ct_datasets(), ImplicitVRLittleEndian),
    "big endian": lambda: in_encoding(ct_datasets(), ExplicitVRBigEndian),
    "tilted": lambda: Sphere(-15).datasets(),
    "a localizer beside it": lambda: [localizer(1), *ct_datasets()],
    "frames": lambda: [enhanced(mr_datasets()[::-1], EnhancedMRImageStorage)],
    "a mosaic": lambda: [mosaic(mr_datasets())],
    "the second of three phases": three_phases,
}


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_the_same_by_what_was_kept(kind, tmp_path):
    series = series_of(write(KINDS[kind](), tmp_path / "images"))
    if "phases" in kind:
        series = replace(series, wanted=Wanted(time_point=2))
    kept = tmp_path / "PT.json"
    grid = read_series_volume(series, kept=kept).grid
    mask = np.zeros(grid.shape, bool)
    mask[1:3, 2:4, 1:5] = True
    masks = pack([Region("liver", "liver", mask, "AUTOMATIC", "a model", "1")], grid)
    made = []
    for given in (series, replace(series, headers=kept)):
        notes, seg = [], io.BytesIO()
        dataset = build_seg(
            masks,
            read_planes(given, notes=notes),
            read_terms(),
            encoding="binary",
            description="a region",
            series_number=9001,
            identity=("protocol", "region"),
            notes=notes,
        )
        pydicom.dcmwrite(seg, dataset, enforce_file_format=True)
        target = target_of("case1", given, grid)
        known = target.images
        images = (known.positions.tolist(), known.numbers, known.distances, known.tilted)
        made.append((seg.getvalue(), notes, replace(target, series=None), images))
    assert made[0] == made[1]


def test_a_value_that_is_no_number_is_none_with_what_was_kept_as_well(tmp_path):
    paths = write(ct_datasets(), tmp_path / "images")
    for path in paths:
        data = path.read_bytes()
        tag = b"\x18\x00\x50\x00DS"
        start = data.index(tag) + 8
        path.write_bytes(data[:start] + b"a" + data[start + 1 :])
    series = series_of(paths)
    read_series_volume(series, kept=tmp_path / "CT.json")
    for given in (series, replace(series, headers=tmp_path / "CT.json")):
        assert read_planes(given)[0].header.get("SliceThickness") == "a"


ODD = {
    "a sequence": ("SQ", DicomSequence([Dataset()])),
    "three bytes of whole numbers": ("OB", b"abc"),
    "bytes": ("OB", b"ab"),
    "a name": ("PN", "Höhe^Mitte"),
    "several values": ("LO", ["a", "b"]),
    "nothing": ("LO", None),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_element_that_no_number_needs_stops_nothing(kind, tmp_path):
    vr, value = ODD[kind]
    datasets = ct_datasets()
    for dataset in datasets:
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.add_new("PositionReferenceIndicator", vr, value)
    paths = write(datasets, tmp_path / "images")
    if kind.startswith("three"):
        for path in paths:
            data = path.read_bytes()
            path.write_bytes(data.replace(b"\x20\x00\x40\x10OB", b"\x20\x00\x40\x10US", 1))
    series = series_of(paths)
    kept = tmp_path / "CT.json"
    read_series_volume(series, kept=kept)
    found = [read_planes(each)[0].header for each in (series, replace(series, headers=kept))]
    if vr == "SQ":
        assert not found[1].get("PositionReferenceIndicator")
    elif not kind.startswith("three"):
        there, here = (header.get("PositionReferenceIndicator") for header in found)
        assert str(there or "") == str(here or "")


def test_zeros_and_blanks_stay_apart(tmp_path):
    datasets = ct_datasets()
    for number, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [0, -0.0, 5 * number]
        dataset.SliceThickness = 0 if number else None
    series = series_of(write(datasets, tmp_path / "images"))
    read_series_volume(series, kept=tmp_path / "CT.json")
    plain, kept = (
        sorted(read_planes(each), key=lambda plane: plane.header.SOPInstanceUID)
        for each in (series, replace(series, headers=tmp_path / "CT.json"))
    )
    for one, other in zip(plain, kept, strict=True):
        for name in ("ImagePositionPatient", "SliceThickness", "PixelSpacing", "Rows"):
            assert str(one.header.get(name)) == str(other.header.get(name)), name


def test_an_element_that_was_not_kept_does_not_seem_absent(tmp_path):
    series = series_of(write(ct_datasets(), tmp_path / "images"))
    read_series_volume(series, kept=tmp_path / "CT.json")
    header = read_planes(replace(series, headers=tmp_path / "CT.json"))[0].header
    for ask in (
        lambda: header.get("PatientID"),
        lambda: header.PatientID,
        lambda: "PatientID" in header,
        lambda: hasattr(header, "PatientID"),
    ):
        with pytest.raises(LookupError, match="PatientID is not kept"):
            ask()
    assert header.get("SpacingBetweenSlices") is None


def test_headers_that_are_not_beside_their_volume_are_made_anew(tmp_path):
    series = series_of(write(ct_datasets(), tmp_path / "images"))
    known = replace(series, headers=tmp_path / "CT.json")
    with pytest.raises(FileNotFoundError):
        read_planes(known)
    write_volume(tmp_path / "CT.nrrd", read_series_volume(series))
    with pytest.raises(PlaceError, match=r"it is not beside its volume.* shard's folder below"):
        read_planes(known)


def test_no_object_names_the_patient_of_another_image(tmp_path):
    series = series_of(write(ct_datasets(), tmp_path / "images"))
    read_series_volume(series, kept=tmp_path / "CT.json")
    known = replace(series, headers=tmp_path / "CT.json")
    planes = read_planes(known)
    first = str(planes[0].header.SOPInstanceUID)
    assert source_header(planes[0].path, [], first).PatientID
    other = pydicom.dcmread(planes[0].path)
    other.SOPInstanceUID, other.PatientID = "1.2.3", "another"
    other.save_as(planes[0].path)
    with pytest.raises(StageError, match=r"holds another image than when .* --forcerun catalog"):
        source_header(planes[0].path, [], first)


def test_no_image_is_read_again(tmp_path):
    series = series_of(write(ct_datasets(), tmp_path / "images"))
    case = Case("abc", "p1", "s00001", {"CT": series})
    grid = read_series_volume(series, kept=headers_path(tmp_path, "abc", "CT")).grid
    for path in series.paths:
        path.unlink()
    (known,) = with_headers([case], tmp_path)
    assert len(target_of("abc", known.roles["CT"], grid).instances) == len(series.paths)


def test_a_series_that_is_no_volume_leaves_nothing(tmp_path):
    series = series_of(write(ct_datasets()[:1], tmp_path / "images"))
    with pytest.raises(CaseFault):
        read_series_volume(series, kept=tmp_path / "CT.json")
    assert not (tmp_path / "CT.json").exists()


def test_what_an_earlier_stage_wrote_and_is_damaged_is_no_fault_of_the_patient(tmp_path):
    series = series_of(write(ct_datasets(), tmp_path / "images"))
    kept, masks = tmp_path / "CT.json", tmp_path / "masks"
    volume = read_series_volume(series, kept=kept)
    liver = Region("liver", "liver", volume.array > 0, "AUTOMATIC", "a model", "1")
    write_segmentation(masks, pack([liver], volume.grid))
    image = tmp_path / "CT.nrrd"
    write_volume(image, volume)
    for file, read in {
        kept: lambda: read_planes(replace(series, headers=kept)),
        masks / "segments.json": lambda: read_segmentation(masks),
        masks / "layer-0.nrrd": lambda: read_segmentation(masks),
        image: lambda: read_volume(image),
    }.items():
        read()
        content = file.read_bytes()
        for damage in (content[: len(content) // 2], bytes(len(content))):
            file.write_bytes(damage)
            with pytest.raises(PlaceError, match=f"{file.name} is damaged .* made anew when the"):
                Trial("abc", "encode", "liver").step(read)
        file.write_bytes(content)
