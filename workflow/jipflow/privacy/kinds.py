"""What may stand in an element that leaves, by its value representation and its name."""

from __future__ import annotations

import re

TEXT = frozenset(("LO", "LT", "SH", "ST", "UC", "UT"))
"""Value representations of free text (PS3.5 6.2)."""

NUMBERS = frozenset(("AT", "FD", "FL", "OD", "OF", "OL", "OV", "SL", "SS", "SV", "UL", "US", "UV"))
"""Value representations of binary numbers and tags, which hold no text that anyone reads."""

PIXELS = frozenset(("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
"""Attributes of pixels, which are decided on elsewhere."""

BINARY = frozenset(
    (
        *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "LUTData"),
        *("RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData"),
        *("BluePaletteColorLookupTableData", "AlphaPaletteColorLookupTableData"),
        *("SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData"),
        *("SegmentedBluePaletteColorLookupTableData", "TrianglePointIndexList"),
        *("EdgePointIndexList", "VertexPointIndexList", "PrimitivePointIndexList"),
    )
)
"""Attributes of bytes and words that stay: lookup tables, indices of surfaces."""

DEVICE = frozenset(
    (
        *("Manufacturer", "ManufacturerModelName", "ManufacturerRelatedModelGroup"),
        *("SoftwareVersions", "DeviceID", "GridID", "DetectorManufacturerName"),
        *("DetectorManufacturerModelName", "DetectorDescription", "DetectorMode"),
        *("ConvolutionKernel", "FilterType", "CollimatorGridName", "ReceiveCoilName"),
        *("ReceiveCoilManufacturerName", "TransmitCoilName", "TransmitCoilManufacturerName"),
        *("MultiCoilElementName", "MultiCoilConfiguration", "ImagedNucleus", "SequenceName"),
        *("PulseSequenceName", "ImageFilter", "AcquisitionMode", "DoseModeName"),
        *("ApplicableSafetyStandardDescription", "ApplicationName", "ApplicationVersion"),
        *("ApplicationManufacturer", "TriggerSourceOrType", "CardiacFramingType"),
        *("TypeOfFilters", "PVCRejection", "AttenuationCorrectionMethod", "ReconstructionMethod"),
        *("ScatterCorrectionMethod", "DetectorLinesOfResponseUsed", "EnergyWindowName"),
        *("PositionReferenceIndicator", "StackID", "RescaleType", "ModalityLUTType"),
        *("SegmentAlgorithmName", "AlgorithmName", "AlgorithmVersion", "ManufacturerModelVersion"),
        *("DimensionDescriptionLabel", "LUTLabel"),
    )
)
"""Texts outside Table E.1-1 that a machine writes; identifiers and dates are taken out of them."""

VERSIONS = frozenset(
    (
        *("SoftwareVersions", "ApplicationVersion", "AlgorithmVersion", "ManufacturerModelVersion"),
        "CodingSchemeVersion",
    )
)
"""Texts of machines that are versions, whose numbers look like dates."""

DESCRIPTIONS = frozenset(
    (
        *("Radiopharmaceutical", "Radionuclide", "RadiopharmaceuticalRoute"),
        *("ContrastBolusRoute", "InterventionDrugName", "ReconstructionDescription"),
        *("AcquisitionProtocolName", "SegmentLabel", "SegmentDescription", "TrackingID"),
        *("ContentDescription", "LUTExplanation", "WindowCenterWidthExplanation"),
        *("FrameOfInterestDescription", "FieldOfViewDescription", "ViewName", "TargetLabel"),
        *("RTImageLabel", "FrameOfReferenceTransformationComment", "TextValue", "FrameLabel"),
        *("MeasurementPrecisionDescriptionTrial", "CompletionFlagDescription"),
        *("PatientSpeciesDescription",),
    )
)
"""Texts outside Table E.1-1 that a person may have typed; of their words those of imaging stay."""

NARRATIVES = frozenset(("LT", "ST", "UT"))
"""Value representations of prose. What is left of it without unknown words says little."""
PROSE = frozenset(
    (
        *("SegmentDescription", "DerivationDescription", "ContributionDescription"),
        *("ROIDescription", "StructureSetDescription", "TextValue", "TrackingID"),
        *("ROIObservationDescription", "UniqueDeviceIdentifier", "DetectorDescription"),
        *("DetectorMode", "PatientSpeciesDescription", "LongDeviceDescription"),
        "AcquisitionProtocolDescription",
    )
)
"""Attributes of these that stay, cleaned."""

CODES = frozenset(("CodeValue", "LongCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion"))
"""Attributes of codes (PS3.3 8.8) beside their meaning."""

DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
WHOLE = re.compile(r"[+-]?\d{1,12}")
CODING_SCHEMES = frozenset(
    (
        *("99JIPFLOW", "99PMSBLSCR", "99QIICR", "99SDM", "ACR", "ASTM-SIGPURPOSE", "BARI", "BI"),
        *("BRANDED", "C4", "C5", "CADSR", "CD2", "CDCREC", "CDT", "CPM", "CPT4", "CPT5", "CSAO"),
        *("CTV3", "CVX", "DC", "DCM", "DCMUID", "E", "E5", "E6", "E7", "FMA", "HCPT", "HGNC"),
        *("HL7", "HPC", "HPO", "I10", "I10C", "I10P", "I11", "I9", "I9C", "I9P", "IBSI", "ICDO3"),
        *("IEEE10101", "ISO3166_1", "ISO639_1", "ISO639_2", "ISO_OID", "ITIS_TSN", "JC8", "JJ1017"),
        *("LB", "LN", "MA", "MDC", "MDDX", "MGI", "MMWR", "MSH", "MVX", "NCIt", "NDA", "NDC"),
        *("NEU", "NICIP", "NICIP_SCT", "NIRS", "NPI", "NYUMCCG", "OBX", "OCD", "PATHLEX"),
        *("POS", "PUBCHEM_CID", "RADELEMENT", "RADLEX", "RFC3066", "RFC5646", "RO", "RXNORM"),
        *("SCPECG", "SCT", "SNM3", "SRT", "UBERON", "UCUM", "UMLS", "UNS", "UPC", "UUID"),
    )
)
"""Coding scheme designators of PS3.16 chapter 8, and private ones that are of no site."""
LOCAL_SCHEME = "99LOCAL"
"""Stands for other private schemes, whose designators may name a site."""

_NUMBER = rb"[+-]?(?:[0-9]{1,12}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?"
PLAIN_NUMBERS = re.compile(rb" *%b[ \0]*(?:\\ *%b[ \0]*)*" % (_NUMBER, _NUMBER))
"""The bytes of numbers as text, several with backslashes between them."""
CODE_STRING = re.compile(r"[A-Za-z0-9 _.+/*-]{0,32}")
"""A CS, and what makers write as one, in lower case or with signs and longer than PS3.5 6.2 has."""

TERMS = frozenset(
    (
        *("CT", "MR", "PT", "NM", "SEG", "SR", "RTSTRUCT", "REG", "YES", "NO", "PATIENT"),
        *("ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "MONOCHROME1", "MONOCHROME2"),
        *("HFS", "HFP", "FFS", "FFP", "BINARY", "FRACTIONAL", "LABELMAP", "MANUAL", "AUTOMATIC"),
        *("SEMIAUTOMATIC", "CONTAINER", "TEXT", "CODE", "NUM", "IMAGE", "COMPOSITE", "UIDREF"),
        *("DATE", "TIME", "DATETIME", "PNAME", "CONTAINS", "SEPARATE", "CONTINUOUS"),
        *("HAS PROPERTIES", "HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD"),
        *("INFERRED FROM", "SELECTED FROM", "CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "POINT"),
    )
)
"""Values of CS without which an object is none, whatever a patient's name is."""
