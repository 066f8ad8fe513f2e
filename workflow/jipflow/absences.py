"""Why patients have no value, coarsely: what of the reason codes may leave a site, as counts.

A reason code of a patient tells of that patient, and there are too many of them for counts of any
size. So they are put together to a few, which never change their order: the later one is, the
closer was the case to a value.
"""

from __future__ import annotations

from collections.abc import Mapping

from jipflow.reasons import Coded, Gap, Reason


class Absence(Coded):
    """Why a patient of the cohort has no value of a variable."""

    OTHER = ("other", "A reason of none of these sorts")

    NOT_RECORDED = ("not_recorded", "The clinical data have no record of the patient")
    NO_ENTRY = ("no_entry", "No record of the patient has a value")
    NO_DATE = ("no_date", "No record is within the protocol's days around the study, or is dated")
    NOT_ALLOWED = ("not_allowed", "What is recorded is no value that the protocol allows")

    NO_IMAGE = ("no_image", "There is no series of the role, or it was not retrieved")
    IMAGE_REFUSED = ("image_refused", "The image is not whole, or nothing that can be measured")
    NOT_SEGMENTED = ("not_segmented", "The region was not segmented, or not so that it can be used")
    NO_REGION = ("no_region", "The segmentation has no such region, or it has no voxel")
    UNDEFINED = ("undefined", "The feature has no value for the region")


OF_CLINICAL = (Absence.NOT_RECORDED, Absence.NO_ENTRY, Absence.NO_DATE, Absence.NOT_ALLOWED)
"""Why a clinical variable has no value."""

OF_FEATURES = (
    *(Absence.NO_IMAGE, Absence.IMAGE_REFUSED, Absence.NOT_SEGMENTED, Absence.NO_REGION),
    *(Absence.UNDEFINED, Absence.OTHER),
)
"""Why a feature has no value."""

_OF_GAPS: Mapping[Absence, tuple[Gap, ...]] = {
    Absence.NOT_RECORDED: (Gap.NOT_LINKED, Gap.NO_RECORD, Gap.ROW_UNREADABLE),
    Absence.NO_ENTRY: (Gap.VALUE_MISSING,),
    Absence.NO_DATE: (Gap.NO_STUDY_DATE, Gap.DATE_UNREADABLE, Gap.OUTSIDE_WINDOW),
    Absence.NOT_ALLOWED: (
        *(Gap.VALUE_UNREADABLE, Gap.VALUE_NOT_ALLOWED, Gap.UNIT_DIFFERS, Gap.OUT_OF_RANGE),
        Gap.AMBIGUOUS,
    ),
}

_OF_REASONS: Mapping[Absence, tuple[Reason, ...]] = {
    Absence.OTHER: (
        *(Reason.DEPENDS_ON_FAILED, Reason.DEPENDS_ON_WAITING, Reason.PUBLISH_REJECTED),
        Reason.UNEXPECTED_ERROR,
    ),
    Absence.NO_IMAGE: (
        *(Reason.MISSING_PATIENT_ID, Reason.MISSING_ROLE, Reason.SEVERAL_SERIES_FOR_ROLE),
        Reason.NOT_RETRIEVED,
    ),
    Absence.IMAGE_REFUSED: (
        *(Reason.WRONG_MODALITY, Reason.UNREADABLE, Reason.NO_PIXEL_DATA),
        *(Reason.TRUNCATED_PIXELS, Reason.UNDECODABLE_PIXELS, Reason.PIXEL_FORMAT),
        *(Reason.UNSUPPORTED_OBJECT, Reason.MISSING_GEOMETRY, Reason.MIXED_PATIENTS),
        *(Reason.MIXED_ORIENTATION, Reason.MIXED_MATRIX, Reason.MIXED_FRAME_OF_REFERENCE),
        *(Reason.GANTRY_TILT, Reason.MIXED_ACQUISITIONS, Reason.VOLUME_NOT_FOUND),
        *(Reason.DUPLICATE_SLICES, Reason.MISSING_SLICES, Reason.IRREGULAR_SPACING),
        *(Reason.TOO_FEW_SLICES, Reason.GEOMETRY_REFUSED, Reason.MISSING_RESCALE),
        *(Reason.UNSUPPORTED_UNITS, Reason.MISSING_SUV_FIELD, Reason.IMPLAUSIBLE_SUV_FIELD),
        *(Reason.CONTRADICTORY_SUV_FIELDS, Reason.TOO_LARGE, Reason.BURNED_IN_TEXT),
        *(Reason.RECOGNISABLE_FACE, Reason.FACE_NOT_CUT),
    ),
    Absence.NOT_SEGMENTED: (
        *(Reason.NO_CONTOURS, Reason.AMBIGUOUS_CONTOURS, Reason.OTHER_FRAME_OF_REFERENCE),
        *(Reason.CONTOUR_GEOMETRY, Reason.IMAGES_APART, Reason.ALGORITHM_FAILED),
        *(Reason.INVALID_OUTPUT, Reason.AWAITING_READER, Reason.NO_REFERENCE),
        *(Reason.GRID_MISMATCH, Reason.ENCODING_REFUSED, Reason.OVERLAPPING_SEGMENTS),
    ),
    Absence.NO_REGION: (Reason.EMPTY_SEGMENT, Reason.EMPTY_SEGMENTATION),
    Absence.UNDEFINED: (
        *(Reason.FEATURE_FAILED, Reason.NOT_FINITE, Reason.UNDEFINED_FEATURE),
        Reason.TOO_MANY_GREY_LEVELS,
    ),
}

OF_CODE: Mapping[str, Absence] = {
    code.value: absence
    for codes in (_OF_GAPS, _OF_REASONS)
    for absence, of in codes.items()
    for code in of
}
"""What each code of `Gap` and of `Reason` counts as."""
