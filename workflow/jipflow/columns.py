"""The columns of the series catalog: which DICOM attribute each comes from, and its type."""

from __future__ import annotations

from typing import Literal

COLUMNS: dict[str, str] = {
    "SeriesInstanceUID": "VARCHAR",
    "StudyInstanceUID": "VARCHAR",
    "PatientID": "VARCHAR",
    "Modality": "VARCHAR",
    "SOPClassUID": "VARCHAR",
    "FrameOfReferenceUID": "VARCHAR",
    "SeriesNumber": "BIGINT",
    "SeriesDescription": "VARCHAR",
    "StudyDescription": "VARCHAR",
    "ProtocolName": "VARCHAR",
    "BodyPartExamined": "VARCHAR",
    "ImageType": "VARCHAR",
    "StudyDate": "VARCHAR",
    "SeriesDate": "VARCHAR",
    "SeriesTime": "VARCHAR",
    "PatientSex": "VARCHAR",
    "PatientAge": "VARCHAR",
    "Manufacturer": "VARCHAR",
    "ManufacturerModelName": "VARCHAR",
    "SoftwareVersions": "VARCHAR",
    "InstitutionName": "VARCHAR",
    "StationName": "VARCHAR",
    "MagneticFieldStrength": "DOUBLE",
    "KVP": "DOUBLE",
    "ConvolutionKernel": "VARCHAR",
    "ContrastBolusAgent": "VARCHAR",
    "ScanningSequence": "VARCHAR",
    "RepetitionTime": "DOUBLE",
    "EchoTime": "DOUBLE",
    "Units": "VARCHAR",
    "CorrectedImage": "VARCHAR",
    "BurnedInAnnotation": "VARCHAR",
    "SliceThickness": "DOUBLE",
    "SpacingBetweenSlices": "DOUBLE",
    "PixelSpacingRow": "DOUBLE",
    "PixelSpacingColumn": "DOUBLE",
    "Rows": "BIGINT",
    "Columns": "BIGINT",
    "BitsStored": "BIGINT",
    "TransferSyntaxUID": "VARCHAR",
    "NumberOfInstances": "BIGINT",
    "Source": "VARCHAR",
}
"""Name and DuckDB type of each column.

Attributes are of the first instance by path. Multi-valued text is joined by a backslash, as DICOM
writes it. PixelSpacingRow and PixelSpacingColumn are the two values of Pixel Spacing in mm
(PS3.3 section 10.7.1.1: between rows, between columns); NumberOfInstances counts distinct SOP
Instance UIDs; Source is the name of the source in the site's configuration.
"""

ANNOTATIONS = ("RTSTRUCT", "SEG")
"""Modality of the objects that hold regions drawn on images."""
GIVEN = (*ANNOTATIONS, "REG")
"""Modality of the objects that each case of a patient is given: those, and registrations."""
Modality = Literal["CT", "MR", "PT", "NM", "US", "XA", "RF", "MG", "CR", "DX", "OT"]
"""Modality (0008,0060) of the images that a model may take (PS3.3 section C.7.3.1.1.1)."""
IMAGES = f"Modality NOT IN {ANNOTATIONS}"
"""What every series of a role meets, whatever the protocol says."""
