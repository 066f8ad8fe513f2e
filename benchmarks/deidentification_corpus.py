"""Files of invented patients, and copies of real ones, into which identifiers are planted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
)

from deidentification_items import FILE_NAME, SPARE_BITS, Action, Item, Planted
from deidentification_plant import PEOPLE, Person, Planter, drawn_text
from deidentification_traps import (
    burned,
    everywhere,
    garbled,
    in_numbers,
    only_kept_whole,
    values,
    versions,
)
from jipflow.phantom import dicom
from jipflow.phantom.elements import code_item, reference_item
from jipflow.phantom.grid import PhantomGrid

A = Action
GRID = PhantomGrid((2, 40, 48), (4.0, 3.0, 3.0), (-70.0, -60.0, 100.0))
BURNED = slice(2, 16), slice(4, 100)
"""Rows and columns in which the ultrasound shows its patient's name."""
ULTRASOUND = {
    "manufacturer": "Sonomaker",
    "model": "SM-9",
    "modality": "US",
    "rows": 64,
    "columns": 128,
    "hide": [{"left": 0, "top": 0, "width": 128, "height": 18}],
}
"""What a site has looked up of its device (export.pixel_regions)."""
HIDDEN_ROWS = 18


SHOWING_TEXT = {
    "flag": {"BurnedInAnnotation": "YES"},
    "save": {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    "scout": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "dose": {"SeriesNumber": 999, "ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]},
    "wsd": {"ConversionType": "WSD"},
}
"""CT images that show text by what they say of themselves, each by another attribute."""


def synthetic(folder: Path, people: tuple[Person, ...] = PEOPLE) -> list[Planted]:
    """Write files of each kind of object of each person, with everything planted.

    Args:
        folder: that they are written into, a folder for each person.
        people: whose.
    """
    planted = []
    for person in people:
        for name, dataset in _objects(person):
            path = folder / person.number / f"{person.last}_{name}.dcm"
            file = Planted(path, dataset)
            planter = Planter(file, person)
            _pixels(file, name)
            planter.everything()
            if name not in ("sr", "gsps", "rtstruct"):
                everywhere(planter)
            if name == "ct_values":
                values(planter)
            if name == "ct_numbers":
                in_numbers(planter)
            if name == "mr":
                versions(planter)
            if name in ("ct_garbled", "ct_unstated"):
                file.patches = garbled(planter)
            _content(planter, name)
            file.items.append(Item(A.TEXT_REMOVED, FILE_NAME, person.last))
            planted.append(file)
            _write(file, name)
    return planted


def real(folder: Path, data: Path) -> list[Planted]:
    """Write copies of real files, one of each kind, with everything planted.

    Args:
        folder: that they are written into.
        data: the folder of real images.
    """
    planted = []
    chosen = [
        data / "sarcoma" / "STS_003" / "CT" / "image",
        data / "sarcoma" / "STS_003" / "PET" / "image",
        data / "sarcoma" / "STS_003" / "MR_T1" / "image",
        data / "sarcoma" / "STS_017" / "MR_T1" / "image",
        data / "sarcoma" / "STS_024" / "MR_T1" / "image",
        data / "sarcoma" / "STS_003" / "CT" / "mask",
        data / "highdicom" / "data" / "test_files" / "seg_image_ct_binary.dcm",
        data / "highdicom" / "data" / "test_files" / "sr_document.dcm",
        data / "ibsi" / "ibsi_1_ct_radiomics_phantom" / "dicom",
    ]
    for number, source in enumerate(chosen):
        person = PEOPLE[number % len(PEOPLE)]
        dataset = pydicom.dcmread(min(source.rglob("*.dcm")) if source.is_dir() else source)
        file = Planted(folder / "real" / f"{person.last}_{number}.dcm", dataset)
        _pixels(file, "real")
        Planter(file, person).everything()
        file.items.append(Item(A.TEXT_REMOVED, FILE_NAME, person.last))
        planted.append(file)
        _write(file, "real")
    return planted


def _write(file: Planted, name: str) -> None:
    file.path.parent.mkdir(parents=True, exist_ok=True)
    dataset = file.dataset
    if name == "ct_tail":
        dataset.PixelData += b"%b\0" % file.path.stem.encode("ascii", "replace")
        dataset.PixelData += b"\0" * (len(dataset.PixelData) % 2)
    dataset.save_as(file.path, enforce_file_format=True)
    if file.patches:
        content = file.path.read_bytes()
        for mark, form in file.patches:
            assert content.count(mark) == 1
            content = content.replace(mark, form)
        file.path.write_bytes(content)


def _objects(person: Person) -> Iterator[tuple[str, Dataset]]:
    """Yield each object of a person."""
    study = dicom.Study(
        patient_id=person.number,
        patient_name=person.name,
        accession=person.accession,
        sex="F",
        start=datetime.strptime(person.day, "%Y%m%d").replace(hour=9, minute=10),
        key=("de-identification", person.number),
    )
    rng = np.random.default_rng(int(person.serial))
    hu = rng.integers(-200, 900, GRID.shape)
    series = dicom.ct_series(hu, GRID, study)
    images = copy.deepcopy(series)
    yield "ct", images[0]
    images[1].compress(RLELossless, generate_instance_uid=False)
    yield "ct_rle", images[1]
    yield "pt", dicom.pt_series(hu / 100.0 + 3, GRID, study)[0]
    yield "mr", _mr(series[0], study)
    yield "ct_tail", dicom.ct_series(hu, GRID, study, number=12)[0]
    yield "ct_overlay", _overlaid(dicom.ct_series(hu, GRID, study, number=13)[0], person)
    image = dicom.ct_series(hu, GRID, study, number=10)[0]
    yield "ct_comment", _commented(image, person)
    yield "ct_values", dicom.ct_series(hu, GRID, study, number=11)[0]
    yield "ct_latin", _latin(dicom.ct_series(hu, GRID, study, number=14)[0])
    yield "ct_numbers", dicom.ct_series(hu, GRID, study, number=21)[0]
    yield "ct_garbled", dicom.ct_series(hu, GRID, study, number=22)[0]
    image = dicom.ct_series(hu, GRID, study, number=23)[0]
    image.SpecificCharacterSet = "ISO_IR 100"
    yield "ct_unstated", image
    for number, (name, change) in enumerate(SHOWING_TEXT.items(), 15):
        image = dicom.ct_series(hu, GRID, study, number=number)[0]
        for keyword, value in change.items():
            setattr(image, keyword, value)
        yield name, image
    mask = np.zeros(GRID.shape, bool)
    mask[:, 10:20, 10:20] = True
    yield "rtstruct", dicom.rtstruct({f"GTV {person.last}": mask}, GRID, series, study)
    yield "seg", _seg(series, mask, study, person)
    yield "sr", _sr(series[0], study, person)
    yield "gsps", _presentation(series[0], study, person)
    yield "us", _screen(UltrasoundImageStorage, "US", study, person)
    yield "sc", _screen(SecondaryCaptureImageStorage, "OT", study, person)


def _commented(ds: Dataset, person: Person) -> Dataset:
    """A CT image in JPEG-LS with a comment in its codestream."""
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    stream = next(generate_frames(ds.PixelData, number_of_frames=1))
    comment = f"{person.last} {person.number}".encode()
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    ds.PixelData = encapsulate([stream[:2] + segment + stream[2:]])
    ds["PixelData"].is_undefined_length = True
    return ds


def _overlaid(ds: Dataset, person: Person) -> Dataset:
    """A CT image with an overlay in the highest bit of its pixels (retired from PS3.3 C.9.2)."""
    drawn = drawn_text(person.last, GRID.shape[1], GRID.shape[2]).astype(np.uint16)
    ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") | drawn.ravel() << 15).tobytes()
    ds.add_new((0x6002, 0x0100), "US", 16)
    ds.add_new((0x6002, 0x0102), "US", 15)
    return ds


def _latin(ds: Dataset) -> Dataset:
    """A CT image in implicit VR whose texts are in Latin-1, or in what of Japanese it has."""
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return ds


def _new(study: dicom.Study, sop_class: str, modality: str, number: int) -> Dataset:
    """A data set of a new series of a study, without an image."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.SOPInstanceUID = dicom.uid("instance", *study.key, number)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyInstanceUID = study.study_uid
    ds.SeriesInstanceUID = dicom.uid("series", *study.key, number)
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = modality, number, 1
    ds.StudyTime = ds.SeriesTime = "091000"
    ds.PatientSex, ds.Manufacturer, ds.ManufacturerModelName = "F", "Sonomaker", "SM-9"
    return ds


def _mr(ct: Dataset, study: dicom.Study) -> Dataset:
    """An MR image with the pixels of a CT."""
    ds = copy.deepcopy(ct)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.Modality = "MR"
    ds.SOPInstanceUID = dicom.uid("instance", *study.key, "mr")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.SeriesInstanceUID = dicom.uid("series", *study.key, "mr")
    for keyword in ("KVP", "RescaleType", "RescaleSlope", "RescaleIntercept"):
        del ds[keyword]
    ds.EchoTime, ds.RepetitionTime, ds.FlipAngle, ds.MagneticFieldStrength = 12, 600, 90, 3
    return ds


def _seg(series: list[Dataset], mask: np.ndarray, study: dicom.Study, person: Person) -> Dataset:
    """A segmentation of one segment on a series."""
    ds = _new(study, SegmentationStorage, "SEG", 20)
    ds.FrameOfReferenceUID = study.frame_uid
    ds.ImageType, ds.SegmentationType = ["DERIVED", "PRIMARY"], "BINARY"
    ds.Rows, ds.Columns, ds.NumberOfFrames = *mask.shape[1:], len(mask)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = ds.PixelRepresentation = 0
    ds.PixelData = np.packbits(mask.ravel(), bitorder="little").tobytes()
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentAlgorithmType = 1, "MANUAL"
    segment.SegmentLabel = f"Liver {person.last}"
    segment.SegmentDescription = f"drawn by {person.operator.split('^')[0]}"
    segment.TrackingID, segment.TrackingUID = person.number, dicom.uid("track", person.number)
    segment.SegmentedPropertyCategoryCodeSequence = [code_item("123037004", "Anatomical Structure")]
    segment.SegmentedPropertyTypeCodeSequence = [code_item("10200004", "Liver")]
    ds.SegmentSequence = [segment]
    reference = Dataset()
    reference.SeriesInstanceUID = series[0].SeriesInstanceUID
    reference.ReferencedInstanceSequence = [
        reference_item(image.SOPClassUID, image.SOPInstanceUID) for image in series
    ]
    ds.ReferencedSeriesSequence = [reference]
    ds.PerFrameFunctionalGroupsSequence = []
    for image in series:
        group, plane, derived = Dataset(), Dataset(), Dataset()
        plane.ImagePositionPatient = image.ImagePositionPatient
        group.PlanePositionSequence = [plane]
        derived.SourceImageSequence = [reference_item(image.SOPClassUID, image.SOPInstanceUID)]
        group.DerivationImageSequence = [derived]
        ds.PerFrameFunctionalGroupsSequence.append(group)
    return ds


def _sr(image: Dataset, study: dicom.Study, person: Person) -> Dataset:
    """A structured report with items of each kind that hold identifiers."""
    ds = _new(study, Comprehensive3DSRStorage, "SR", 30)
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ConceptNameCodeSequence = [_concept("126000", "Imaging Measurement Report")]
    volume = _item("NUM", "118565006", "Volume", "SCT")
    measured = Dataset()
    measured.NumericValue = "41.5"
    measured.MeasurementUnitsCodeSequence = [_concept("mm3", "cubic millimeter", "UCUM")]
    volume.MeasuredValueSequence = [measured]
    shown = _item("IMAGE", "121324", "Source image")
    shown.ReferencedSOPSequence = [reference_item(image.SOPClassUID, image.SOPInstanceUID)]
    site = _item("CODE", "363698007", "Finding Site", "SCT")
    site.ConceptCodeSequence = [code_item("10200004", "Liver")]
    group = _item("CONTAINER", "125007", "Measurement Group")
    group.ContinuityOfContent = "SEPARATE"
    group.ContentSequence = [
        _item("TEXT", "112039", "Tracking Identifier", TextValue=f"Lesion {person.last}"),
        _item("UIDREF", "112040", "Tracking Unique Identifier", UID=dicom.uid("t", person.number)),
        volume,
        site,
        shown,
        _item("TEXT", "121106", "Comment", TextValue=f"{person.first} sagt {person.stranger}"),
    ]
    ds.ContentSequence = [
        _item("PNAME", "121008", "Person Observer Name", PersonName=person.doctor),
        _item("TEXT", "121009", "Organization", TextValue=person.hospital),
        _item("DATE", "111060", "Study Date", Date=person.day),
        _item("TEXT", "121029", "Subject Name", TextValue=person.last),
        group,
    ]
    return ds


def _concept(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    item = code_item(value, meaning)
    item.CodingSchemeDesignator = scheme
    return item


def _item(kind: str, value: str, meaning: str, scheme: str = "DCM", **values: str) -> Dataset:
    """A content item (PS3.3 C.17.3)."""
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", kind
    item.ConceptNameCodeSequence = [_concept(value, meaning, scheme)]
    for keyword, text in values.items():
        setattr(item, keyword, text)
    return item


def _presentation(image: Dataset, study: dicom.Study, person: Person) -> Dataset:
    """A presentation state with graphics that a person drew and wrote."""
    ds = _new(study, GrayscaleSoftcopyPresentationStateStorage, "PR", 40)
    ds.ContentLabel = person.last.upper().replace("Ü", "UE")[:16]
    ds.ContentDescription = f"Thorax {person.last}"
    ds.ContentCreatorName = person.operator
    ds.PresentationCreationDate, ds.PresentationCreationTime = person.day, "101010"
    text, notes = Dataset(), Dataset()
    text.UnformattedTextValue = f"{person.last} {person.birth}"
    notes.GraphicLayer, notes.TextObjectSequence = "NOTES", [text]
    ds.GraphicAnnotationSequence = [notes]
    reference = Dataset()
    reference.SeriesInstanceUID = image.SeriesInstanceUID
    reference.ReferencedImageSequence = [reference_item(image.SOPClassUID, image.SOPInstanceUID)]
    ds.ReferencedSeriesSequence = [reference]
    return ds


def _screen(sop_class: str, modality: str, study: dicom.Study, person: Person) -> Dataset:
    """A picture in colours into which a name is burned."""
    ds = _new(study, sop_class, modality, 50 if modality == "US" else 60)
    picture = np.full((64, 128, 3), 40, np.uint8)
    picture[24:, :, 0] = np.arange(128)
    rows, columns = BURNED
    height, width = rows.stop - rows.start, columns.stop - columns.start
    picture[rows, columns] += drawn_text(person.last, height, width)[..., None] * np.uint8(200)
    ds.Rows, ds.Columns = picture.shape[:2]
    ds.SamplesPerPixel, ds.PlanarConfiguration = 3, 0
    ds.PhotometricInterpretation, ds.ImageType = "RGB", ["ORIGINAL", "PRIMARY"]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = picture.tobytes()
    return ds


def _pixels(file: Planted, name: str) -> None:
    """Require what is hidden of the pixels, and that all else stays."""
    if "PixelData" not in file.dataset:
        return
    if name in SHOWING_TEXT:
        area = slice(2, 16), slice(2, 46)
        file.items.append(burned(file.dataset, file.path.stem, area))
        return
    if name in ("us", "sc"):
        file.items.append(Item(A.PIXELS_HIDDEN, ("PixelData",), BURNED))
    if name == "sc":
        return
    values = file.dataset.pixel_array.copy()
    if name == "ct_overlay":
        values &= 0x0FFF
    where = np.ones(values.shape, bool)
    if name == "us":
        where[:HIDDEN_ROWS] = False
    file.items.append(Item(A.PIXELS_RETAINED, ("PixelData",), (where, values)))


def _content(planter: Planter, name: str) -> None:
    """Require what only one kind of object holds."""
    p, ds, require = planter.person, planter.dataset, planter.require
    if name == "sc" or name in SHOWING_TEXT:
        # It shows text that nobody has looked up, and is to stay whole: nothing of it is kept.
        only_kept_whole(planter.file)
    elif name == "ct_overlay":
        drawn = np.frombuffer(ds.PixelData, "<u2") >> 15
        require(A.PIXELS_HIDDEN, SPARE_BITS, drawn)
    elif name == "ct_comment":
        require(A.TEXT_REMOVED, ("PixelData",), f"{p.last} {p.number}")
    elif name == "ct_tail":
        require(A.TEXT_REMOVED, ("PixelData",), planter.file.path.stem.encode("ascii", "replace"))
    elif name == "gsps":
        place = ("GraphicAnnotationSequence", 0, "TextObjectSequence", 0, "UnformattedTextValue")
        require(A.TEXT_REMOVED, place, f"{p.last} {p.birth}")
        if len(p.last) > 3:
            require(A.TEXT_REMOVED, ("ContentLabel",), str(ds.ContentLabel))
        require(A.TEXT_REMOVED, ("ContentDescription",), p.last)
        require(A.TEXT_REMOVED, ("ContentCreatorName",), p.operator)
        require(A.DATE_SHIFTED, ("PresentationCreationDate",), p.day)
        place = ("ReferencedSeriesSequence", 0, "ReferencedImageSequence", 0)
        _refers(planter, (*place, "ReferencedSOPInstanceUID"))
    elif name == "rtstruct":
        roi = ("StructureSetROISequence", 0, "ROIName")
        require(A.TEXT_REMOVED, roi, p.last)
        require(A.TEXT_RETAINED, roi, "GTV")
        planter.put(("RTROIObservationsSequence", 0, "ROIInterpreter"), p.doctor, p.doctor)
        planter.put(("StructureSetLabel",), f"Plan {p.last}", p.last, "Plan")
        planter.put(("StructureSetName",), p.number, p.number)
        require(A.DATE_SHIFTED, ("StructureSetDate",), str(ds.StructureSetDate))
        contour = ("ROIContourSequence", 0, "ContourSequence", 0)
        data = ds.ROIContourSequence[0].ContourSequence[0].ContourData
        require(A.TAG_RETAINED, (*contour, "ContourData"), list(data))
        _refers(planter, (*contour, "ContourImageSequence", 0, "ReferencedSOPInstanceUID"))
        frame = ("StructureSetROISequence", 0, "ReferencedFrameOfReferenceUID")
        _refers(planter, frame)
    elif name == "seg":
        segment = ("SegmentSequence", 0)
        require(A.TEXT_REMOVED, (*segment, "SegmentLabel"), p.last)
        require(A.TEXT_RETAINED, (*segment, "SegmentLabel"), "Liver")
        require(A.TEXT_REMOVED, (*segment, "SegmentDescription"), p.operator.split("^")[0])
        require(A.TEXT_REMOVED, (*segment, "TrackingID"), p.number)
        _refers(planter, (*segment, "TrackingUID"))
        coded = (*segment, "SegmentedPropertyTypeCodeSequence", 0, "CodeValue")
        require(A.TAG_RETAINED, coded, "10200004")
        frame = ("PerFrameFunctionalGroupsSequence", 1, "DerivationImageSequence", 0)
        _refers(planter, (*frame, "SourceImageSequence", 0, "ReferencedSOPInstanceUID"))
        listed = ("ReferencedSeriesSequence", 0)
        _refers(planter, (*listed, "SeriesInstanceUID"))
        _refers(planter, (*listed, "ReferencedInstanceSequence", 1, "ReferencedSOPInstanceUID"))
    elif name == "sr":
        require(A.TEXT_REMOVED, (("121008",), "PersonName"), p.doctor)
        require(A.TEXT_REMOVED, (("121009",), "TextValue"), p.hospital)
        require(A.TEXT_REMOVED, (("121029",), "TextValue"), p.last)
        require(A.TEXT_REMOVED, (("112039",), "TextValue"), p.last)
        require(A.TEXT_REMOVED, (("121106",), "TextValue"), f"{p.first} {p.stranger}")
        require(A.DATE_SHIFTED, (("111060",), "Date"), p.day)
        number = (("118565006",), "MeasuredValueSequence", 0, "NumericValue")
        require(A.TAG_RETAINED, number, 41.5)
        finding = (("363698007",), "ConceptCodeSequence", 0, "CodeValue")
        require(A.TAG_RETAINED, finding, "10200004")
        _refers(planter, (("112040",), "UID"))
        _refers(planter, (("121324",), "ReferencedSOPSequence", 0, "ReferencedSOPInstanceUID"))


def _refers(planter: Planter, place: tuple) -> None:
    """Require that a UID that names another object becomes that object's."""
    found = planter.dataset
    for step in place:
        if isinstance(step, tuple):
            found = next(
                item
                for item in _items(found)
                if item.ConceptNameCodeSequence[0].CodeValue == step[0]
            )
        else:
            found = found[step] if isinstance(step, int) else found[step].value
    planter.require(A.UID_CHANGED, place, str(found))
    planter.require(A.UID_CONSISTENT, place, str(found))


def _items(dataset: Dataset) -> Iterator[Dataset]:
    for item in dataset.get("ContentSequence") or []:
        yield item
        yield from _items(item)


__all__ = ["PEOPLE", "ULTRASOUND", "real", "synthetic"]
