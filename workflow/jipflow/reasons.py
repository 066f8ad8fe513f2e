"""Why an item of a case fails, is excluded or flagged: stable codes, each with its meaning."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Coded(StrEnum):
    """Codes that are stable, each with a `meaning`: the sentence that people read."""

    meaning: str

    def __new__(cls, code: str, meaning: str = "") -> Self:
        """Make the member whose value is `code`."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class Reason(Coded):
    """Why an item of a case failed or was excluded."""

    MISSING_PATIENT_ID = (
        "missing_patient_id",
        "No PatientID, so the series cannot be given to a case",
    )
    MISSING_ROLE = ("missing_role", "No series for a role that the protocol requires")
    SEVERAL_SERIES_FOR_ROLE = (
        "several_series_for_role",
        "More than one series fits a role and the protocol does not say which to prefer",
    )
    DEPENDS_ON_FAILED = ("depends_on_failed", "An earlier stage failed for the input of this one")
    DEPENDS_ON_WAITING = (
        "depends_on_waiting",
        "An earlier stage waits for a person to make the input of this one",
    )

    WRONG_MODALITY = (
        "wrong_modality",
        "The image is of another modality than the model takes",
    )
    NOT_RETRIEVED = (
        "not_retrieved",
        "The PACS did not give the series, or fewer instances than it lists",
    )

    UNREADABLE = ("unreadable", "A file cannot be read, or ends too early")
    NO_PIXEL_DATA = ("no_pixel_data", "An instance of the series has no pixel data")
    TRUNCATED_PIXELS = ("truncated_pixels", "An instance has fewer pixels than its header says")
    UNDECODABLE_PIXELS = ("undecodable_pixels", "The compressed pixels cannot be decoded")
    PIXEL_FORMAT = (
        "pixel_format",
        "What the header says of the pixels contradicts itself, or is no way to store values",
    )
    UNSUPPORTED_OBJECT = (
        "unsupported_object",
        "Neither CT, MR or PET slices or multi-frame images of them, nor a parametric map, an RT "
        "Structure Set or a segmentation of voxels",
    )
    MISSING_GEOMETRY = ("missing_geometry", "Position, orientation or spacing is missing")
    MIXED_PATIENTS = (
        "mixed_patients",
        "Slices of one series belong to different patients or studies",
    )
    MIXED_ORIENTATION = ("mixed_orientation", "Slices of one series lie in different orientations")
    MIXED_MATRIX = ("mixed_matrix", "Slices of one series differ in rows, columns or pixel spacing")
    MIXED_FRAME_OF_REFERENCE = (
        "mixed_frame_of_reference",
        "Slices of one series differ in frame of reference",
    )
    GANTRY_TILT = (
        "gantry_tilt",
        "Slices lie beside a straight line, or are sheared by more than a gantry tilts",
    )
    MIXED_ACQUISITIONS = (
        "mixed_acquisitions",
        "Several phases, echoes or acquisitions share one series",
    )
    VOLUME_NOT_FOUND = (
        "volume_not_found",
        "The series has no volume such as the protocol's role wants of it, or does not state it",
    )
    DUPLICATE_SLICES = ("duplicate_slices", "Several slices lie at one position")
    MISSING_SLICES = (
        "missing_slices",
        "Slices are missing between others, or images that contours were drawn on",
    )
    IRREGULAR_SPACING = ("irregular_spacing", "The distance between slices varies")
    TOO_FEW_SLICES = ("too_few_slices", "Fewer than two slices make no volume")
    GEOMETRY_REFUSED = ("geometry_refused", "The slices do not make a regular volume")
    MISSING_RESCALE = (
        "missing_rescale",
        "Rescale slope or intercept is missing or 0, or the values of a map have no one meaning",
    )
    UNSUPPORTED_UNITS = ("unsupported_units", "PET units that cannot be turned into SUV")
    MISSING_SUV_FIELD = (
        "missing_suv_field",
        "A header field that SUV needs is missing, unreadable or not above 0",
    )
    IMPLAUSIBLE_SUV_FIELD = (
        "implausible_suv_field",
        "A header field that SUV needs has a value that no scan of a person has",
    )
    CONTRADICTORY_SUV_FIELDS = (
        "contradictory_suv_fields",
        "Header fields that SUV needs contradict each other, or differ between the slices",
    )

    NO_CONTOURS = ("no_contours", "No structure set or segmentation of the patient fits")
    AMBIGUOUS_CONTOURS = (
        "ambiguous_contours",
        "More than one structure set or segmentation fits, or it is not known whose contours or "
        "frames are whose",
    )
    OTHER_FRAME_OF_REFERENCE = (
        "other_frame_of_reference",
        "The regions lie in another frame of reference than the image",
    )
    CONTOUR_GEOMETRY = ("contour_geometry", "A contour cannot be placed on the image's grid")
    IMAGES_APART = (
        "images_apart",
        "The image of a role lies wholly outside the one that is segmented",
    )
    TOO_LARGE = (
        "too_large",
        "The image has more voxels, by its headers, than any machine can hold",
    )
    ALGORITHM_FAILED = ("algorithm_failed", "The algorithm's container ended with an error")
    INVALID_OUTPUT = ("invalid_output", "The algorithm's output does not meet the contract")
    AWAITING_READER = ("awaiting_reader", "A person is to draw or to correct the segmentation")
    EMPTY_SEGMENT = ("empty_segment", "A segment has no voxel")
    EMPTY_SEGMENTATION = ("empty_segmentation", "No segment of the segmentation has a voxel")
    NO_REFERENCE = (
        "no_reference",
        "The region that a threshold is taken from has no uptake on the image",
    )
    GRID_MISMATCH = ("grid_mismatch", "The segmentation does not lie on the image's grid")

    ENCODING_REFUSED = (
        "encoding_refused",
        "The DICOM object cannot be built from the source series",
    )
    OVERLAPPING_SEGMENTS = (
        "overlapping_segments",
        "Segments overlap, which a label map cannot hold",
    )
    PUBLISH_REJECTED = ("publish_rejected", "The PACS refused the object")
    BURNED_IN_TEXT = (
        "burned_in_text",
        "The pixels show text, or are of a kind that often does, and no region of the site's table "
        "covers it",
    )
    RECOGNISABLE_FACE = (
        "recognisable_face",
        "The image shows a head, or may, and nothing says that its face is to be cut away",
    )
    FACE_NOT_CUT = ("face_not_cut", "The face could not be cut away for sure")
    FEATURE_FAILED = ("feature_failed", "The feature's calculation raised an error")
    NOT_FINITE = ("not_finite", "The feature's value is not a finite number")
    UNDEFINED_FEATURE = (
        "undefined_feature",
        "The feature's definition gives no value for this region, such as one of equal "
        "intensities or of voxels without neighbours, or its filter none for this image",
    )
    TOO_MANY_GREY_LEVELS = (
        "too_many_grey_levels",
        "The bins make more grey levels of the region than texture matrices can hold",
    )
    UNEXPECTED_ERROR = ("unexpected_error", "An error that the stage does not know")


class Decision(Coded):
    """What was decided on an image or regions that can be used; the outcome's message says why."""

    VALUES_AT_TOP_OF_BITS = (
        "values_at_top_of_bits",
        "Values were taken from the top of their bits, as High Bit says",
    )
    BITS_ABOVE_LEFT_OUT = (
        "bits_above_left_out",
        "Bits above Bits Stored that no overlay explains are no part of the values",
    )
    HIGH_BIT_ASSUMED = ("high_bit_assumed", "High Bit is missing and was taken as Bits Stored - 1")
    ELEMENT_REPAIRED = (
        "element_repaired",
        "An element with an impossible value representation was read by the dictionary or left out",
    )
    MOSAIC_TAKEN_APART = (
        "mosaic_taken_apart",
        "Slices are the tiles of a Siemens mosaic, placed by its private elements",
    )
    MULTI_FRAME_IMAGES_JOINED = (
        "multi_frame_images_joined",
        "Frames of several multi-frame images of a series were read as one stack",
    )
    VOLUME_CHOSEN = (
        "volume_chosen",
        "One volume of several in a series was taken, as the protocol says",
    )
    ISOTROPIC_TAKEN = (
        "isotropic_taken",
        "Of the images of one b-value that of all directions was taken",
    )
    IMAGES_SET_APART = (
        "images_set_apart",
        "Images or objects of the series that are no slices of its stack were set apart",
    )
    GANTRY_TILT_RESAMPLED = (
        "gantry_tilt_resampled",
        "Slices of a tilted gantry were moved within their planes to a right grid",
    )
    OBJECT_BY_INSTANCES = (
        "object_by_instances",
        "Regions are of the object that references the very images",
    )
    OBJECT_BY_IMAGES = (
        "object_by_images",
        "Regions are of an object that references the images in another series",
    )
    OBJECT_BY_SERIES = ("object_by_series", "Regions are of an object that references the series")
    OBJECT_BY_FRAME_OF_REFERENCE = (
        "object_by_frame_of_reference",
        "Regions are of an object that has no more in common with the image than its space",
    )
    OBJECT_BY_GEOMETRY = (
        "object_by_geometry",
        "Regions are of an object that lies on the planes of the image, within one examination",
    )
    APPROVED_PREFERRED = (
        "approved_preferred",
        "Of several objects that fit the approved one was taken, as the protocol says",
    )
    LATEST_PREFERRED = (
        "latest_preferred",
        "Of several objects that fit the latest one was taken, as the protocol says",
    )
    OBJECT_REJECTED = (
        "object_rejected",
        "The object that regions are of was rejected in its review",
    )
    OBJECT_UNREADABLE = (
        "object_unreadable",
        "Another structure set or segmentation of the patient cannot be read or used",
    )
    OWN_OBJECTS_PASSED_OVER = (
        "own_objects_passed_over",
        "Objects that jipflow itself had made were passed over for another one",
    )
    REGIONS_UNITED = ("regions_united", "Several ROIs or segments that match were united")
    REGION_WITHOUT_CONTOUR = ("region_without_contour", "An ROI that matches has no contours")
    SEGMENT_BLANK = ("segment_blank", "A segment is described and has no pixel")
    SEGMENT_LEFT_OUT = (
        "segment_left_out",
        "A segment that is not required cannot be used and was left out",
    )
    OTHER_FRAME_LEFT_OUT = (
        "other_frame_left_out",
        "ROIs in another frame of reference than the image were left out",
    )
    NAMED_IMAGES_MISSING = (
        "named_images_missing",
        "Images of the series that the structure set names are not there, none of them drawn on",
    )
    METHOD_ASSUMED = (
        "method_assumed",
        "How a region was made is not stated, or in several ways; it was recorded as manual",
    )
    FRACTIONS_FROM_HALF = (
        "fractions_from_half",
        "Fractions of at least one half were taken as inside",
    )
    CONTOURS_OFF_THEIR_IMAGES = (
        "contours_off_their_images",
        "Some contours lie on other slices than the images that they name; their points count",
    )
    CONTOURS_OF_ANOTHER_VOLUME = (
        "contours_of_another_volume",
        "Contours were drawn on images of another volume of the series, such as a time point",
    )
    CONTOURS_LEFT_OUT = (
        "contours_left_out",
        "Contours that enclose nothing by their type or number of points were left out",
    )
    CONTOUR_POINTS_MISCOUNTED = (
        "contour_points_miscounted",
        "Contours have another number of points than they state; those there were taken",
    )
    CONTOUR_TYPES_MIXED = (
        "contour_types_mixed",
        "Some contours are of type CLOSEDPLANAR_XOR and some are not; all were combined so",
    )
    CONTOURS_REPEATED = ("contours_repeated", "Contours that repeat another one count once")
    CONTOURS_CANCELLED = (
        "contours_cancelled",
        "Contours of type CLOSEDPLANAR_XOR that are the same cancel each other",
    )
    CONTOURS_UNITED = ("contours_united", "Contours that cross each other were united")
    HOLE_CLOSE_TO_CONTOUR = (
        "hole_close_to_contour",
        "A hole runs less than half a pixel inside its contour",
    )
    CONTOURS_WITHOUT_PIXEL = (
        "contours_without_pixel",
        "Contours are so small that they enclose no pixel's centre",
    )
    CONTOURS_BETWEEN_SLICES = (
        "contours_between_slices",
        "Contours lie between slices and fill those nearest to them",
    )
    CONTOUR_PLANES_LEFT_OUT = (
        "contour_planes_left_out",
        "Planes of contours are nearest to no slice and were left out",
    )
    CONTOURS_FILL_SEVERAL_SLICES = (
        "contours_fill_several_slices",
        "Contours lie farther apart than the slices, and each fills several",
    )
    CONTOUR_THICKNESS_ASSUMED = (
        "contour_thickness_assumed",
        "Contours of another series do not say how thick they are; one slice was taken",
    )
    SLICES_WITHOUT_CONTOUR = (
        "slices_without_contour",
        "Slices between contoured ones have no contour and stay empty",
    )
    CONTOURS_CUT_AT_BORDER = (
        "contours_cut_at_border",
        "Contours reach beyond the image and are cut off at its border",
    )
    SUV_AS_STORED = ("suv_as_stored", "The PET is stored in the SUV that the protocol asks for")
    SUV_OF_ANOTHER_TYPE = (
        "suv_of_another_type",
        "The PET is stored in an SUV of another type, and was turned into the one asked for",
    )
    SUV_TYPE_ASSUMED = (
        "suv_type_assumed",
        "The PET is stored in SUV without its type, which is taken to be by body weight",
    )
    PHILIPS_SUV_FACTOR = ("philips_suv_factor", "Counts were turned into SUV by Philips' factor")
    PHILIPS_ACTIVITY_FACTOR = (
        "philips_activity_factor",
        "Counts were turned into activity by Philips' factor",
    )
    DECAY_TO_ADMINISTRATION = (
        "decay_to_administration",
        "Decay was corrected to the injection by the scanner",
    )
    DECAY_TO_STATED_TIME = (
        "decay_to_stated_time",
        "Decay is corrected to the time that the header states for it",
    )
    DECAY_TO_PRIVATE_TIME = (
        "decay_to_private_time",
        "Decay is corrected to the time in the maker's private element",
    )
    DECAY_TO_SERIES_TIME = ("decay_to_series_time", "Decay is corrected to the time of the series")
    DECAY_TO_FRAME_TIMES = (
        "decay_to_frame_times",
        "Decay is corrected to the time that acquisition and frame reference times give",
    )
    DECAY_TO_FIRST_ACQUISITION = (
        "decay_to_first_acquisition",
        "Decay is corrected to the first acquisition, as the series was made later",
    )
    DECAY_OF_EACH_SLICE = (
        "decay_of_each_slice",
        "Decay was not corrected by the scanner; each slice's was, from its own acquisition",
    )
    SCAN_DATE_REPLACED = (
        "scan_date_replaced",
        "A date of the scan is missing or another one than its times fit; its clock was used",
    )
    INJECTION_DATE_FROM_SCAN = (
        "injection_date_from_scan",
        "The injection's date is missing or not the scan's; its clock was put on the scan's day",
    )
    INJECTION_CLOCK_FROM_START_TIME = (
        "injection_clock_from_start_time",
        "The injection's date and time lacks its clock or its zone; the start time has it",
    )
    INJECTION_ZONE_ASSUMED = (
        "injection_zone_assumed",
        "The injection has an offset from UTC and the scan none; both are taken as local times",
    )
    UNUSUAL_UPTAKE = (
        "unusual_uptake",
        "The uptake took less than a tenth of a half-life, or more than two",
    )
    NUCLIDE_BY_HALF_LIFE = (
        "nuclide_by_half_life",
        "No radionuclide is named, or several are; the half-life says which it is",
    )
    UNUSUAL_BODY = ("unusual_body", "Weight and size make an unusual body mass index")
    MEAN_OF_SEXES = (
        "mean_of_sexes",
        "Sex is other; the mean of the formulas for men and women was taken",
    )


class Flag(Coded):
    """Why a segment that was made should be looked at."""

    IMPLAUSIBLE_VOLUME = (
        "implausible_volume",
        "The volume lies outside the range that the protocol expects",
    )
    IMPLAUSIBLE_INTENSITY = (
        "implausible_intensity",
        "The mean intensity lies outside the range that the protocol expects",
    )
    MANY_COMPONENTS = ("many_components", "More pieces than the protocol expects")
    TOUCHES_BORDER = ("touches_border", "The segment reaches the border of the image")
    FOLDS_DISAGREE = ("folds_disagree", "The folds of the model differ in what they find")


class Gap(Coded):
    """Why a clinical variable of a case has no value."""

    NOT_LINKED = ("not_linked", "The site's table of patients has no identifier for the PatientID")
    NO_RECORD = ("no_record", "The source has no record of the patient")
    ROW_UNREADABLE = (
        "row_unreadable",
        "A row of the patient has more or fewer cells than the file's first line",
    )
    VALUE_MISSING = ("value_missing", "No record of the patient has a value")
    NO_STUDY_DATE = (
        "no_study_date",
        "The case has no study date that can be read, or its series are of several",
    )
    DATE_UNREADABLE = ("date_unreadable", "A record has no date, or none that can be read")
    OUTSIDE_WINDOW = ("outside_window", "No record is within the protocol's days around the study")
    VALUE_UNREADABLE = ("value_unreadable", "The value is no number")
    VALUE_NOT_ALLOWED = ("value_not_allowed", "The value is none of those that the protocol allows")
    UNIT_DIFFERS = (
        "unit_differs",
        "The number is in another unit than the protocol's, and the site's map has no factor",
    )
    OUT_OF_RANGE = ("out_of_range", "The number is outside the range that the protocol believes")
    AMBIGUOUS = ("ambiguous", "Several values differ and none comes first")


class CaseFault(Exception):
    """Raised by a stage when one item of a case cannot go on; becomes an outcome.

    Args:
        reason: the stable code.
        message: a sentence for a person: which file or series, what is wrong, what would fix it.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[CaseFault], tuple[Reason, str]]:
        return CaseFault, (self.reason, self.message)


class StageError(Exception):
    """A stage as a whole cannot run; the message names what is wrong and the fix."""


class PlaceError(StageError):
    """A stage cannot run for what its place does; the same command may go on another time."""
