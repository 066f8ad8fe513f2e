"""The SOP classes and transfer syntaxes that are read (PS3.4 B.5, PS3.5 annex A)."""

from __future__ import annotations

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    ParametricMapStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    RTStructureSetStorage,
    SegmentationStorage,
)

MAP = "map"
"""In place of a Modality: a map of any quantity, whose unit it states itself."""

MODALITIES = {
    CTImageStorage: "CT",
    EnhancedCTImageStorage: "CT",
    LegacyConvertedEnhancedCTImageStorage: "CT",
    MRImageStorage: "MR",
    EnhancedMRImageStorage: "MR",
    LegacyConvertedEnhancedMRImageStorage: "MR",
    PositronEmissionTomographyImageStorage: "PT",
    EnhancedPETImageStorage: "PT",
    LegacyConvertedEnhancedPETImageStorage: "PT",
    ParametricMapStorage: MAP,
}
"""The SOP classes of images that are read, and what their values are of."""

LABEL_MAP_SEGMENTATION_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")
STRUCTURE_SETS = (RTStructureSetStorage,)
SEGMENTATIONS = (SegmentationStorage, LABEL_MAP_SEGMENTATION_STORAGE)
"""The SOP classes of regions drawn on images that are read."""

USUAL_CLASSES = (
    CTImageStorage,
    EnhancedCTImageStorage,
    MRImageStorage,
    EnhancedMRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)
"""What C-GET offers to take where the PACS does not state a series' classes: those that archives
hold most of, as many as fit into an association."""

UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
JPEG_2000 = (JPEG2000Lossless, JPEG2000)
HIGH_THROUGHPUT_JPEG_2000 = (HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
TRANSFER_SYNTAXES = (
    *UNCOMPRESSED,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    *JPEG,
    *JPEG_LS,
    *JPEG_2000,
    *HIGH_THROUGHPUT_JPEG_2000,
    RLELossless,
)
"""Every transfer syntax that the stages decode."""
