"""DICOM Structured Reports of radiomic features (PS3.16 TID 1500)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import highdicom
import rfc8785
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

import jipflow
from jipflow.files import canonical_digest
from jipflow.objects.feature_codes import ONE, SCHEME, name_feature
from jipflow.objects.sr_numbers import Form, form, insert_numbers
from jipflow.objects.terms import ANATOMY
from jipflow.settings.radiomics import Radiomics, Setting
from jipflow.tables import FEATURE_COLUMNS
from jipflow.uids import stable_uid

PROCEDURES = {
    "CT": CodedConcept("25045-6", "LN", "CT unspecified body region"),
    "MR": CodedConcept("25056-3", "LN", "MRI unspecified body region"),
    "PT": CodedConcept("44136-0", "LN", "PET unspecified body region"),
}
"""Procedure Reported (CID 100) where the source says no procedure."""

ANY_PROCEDURE = CodedConcept("363679005", "SCT", "Imaging procedure")
"""The same of other images, such as parametric maps."""

VOXELS = CodedConcept("Voxels", SCHEME, "Number of voxels of the segment")
PAIRS = {
    (False, None): "are means over the 13 directions in 3D (IBSI ITBB)",
    (False, "no_weighting"): "are of the merged matrices of the 13 directions in 3D (IBSI IAZD)",
    (True, None): "are means over the 4 directions within slices, slices merged (IBSI JJUI)",
    (True, "no_weighting"): "are of the merged matrices of all slices and directions (IBSI ZW7Z)",
}
"""How matrices of directions are aggregated, by force2D and weightingNorm; no other has a code."""


def sr_path(results: Path, case_id: str, segmentation: str) -> Path:
    """Return where the DICOM-SR of a case's segmentation stands."""
    return results / "sr" / case_id / f"{segmentation}.dcm"


def build_sr(
    rows: Sequence[Mapping[str, Any]],
    seg: Dataset,
    *,
    parameters: Radiomics,
    modality: str,
    suv: str = "BW",
    procedures: Sequence[CodedConcept],
    description: str,
    series_number: int,
) -> Dataset:
    """Build a Comprehensive 3D SR with a measurement group (TID 1411) for each segment.

    UIDs are derived from the DICOM-SEG and the values, and dates are those of the DICOM-SEG, so
    that the same input gives the same bytes.

    Args:
        rows: of ``features.parquet``, one a segment; a feature that is null is left out.
        seg: the DICOM-SEG whose segments were measured; its pixels are not needed.
        parameters: radiomics settings with their defaults.
        modality: of the image that was measured.
        suv: what the SUV of PET is normalised to, as in SUV Type (0054,1006).
        procedures: what was done to the patient (Procedure Reported).
        description: Series Description.
        series_number: Series Number.

    Returns:
        The data set with its file meta information.

    Raises:
        ValueError: a row has no segment, or was measured with other parameters.
    """
    digest = canonical_digest(parameters.plain())
    segments = {str(item.SegmentLabel): item for item in seg.SegmentSequence}
    _check_rows(rows, segments, digest)
    key = (
        str(seg.SOPInstanceUID),
        *(jipflow.__version__, highdicom.__version__, modality, description),
        *(f"{code.scheme_designator}:{code.value}" for code in procedures),
        _values_digest(rows),
    )
    features = sorted({name for row in rows for name in row} - set(FEATURE_COLUMNS))
    forms = {feature: _form(feature, digest, parameters, modality, suv) for feature in features}
    algorithm = _algorithm(parameters, digest, rows[0]["versions"])
    ordered = sorted(rows, key=lambda row: int(segments[row["segment"]].SegmentNumber))
    groups = [_group(segments[row["segment"]], seg, algorithm) for row in ordered]
    dataset = highdicom.sr.Comprehensive3DSR(
        evidence=_evidence(seg),
        content=_report(groups, procedures),
        series_instance_uid=stable_uid("series", "sr", *key),
        series_number=series_number,
        sop_instance_uid=stable_uid("instance", "sr", *key),
        instance_number=1,
        manufacturer="jipflow",
        manufacturer_model_name="jipflow",
        software_versions=jipflow.__version__,
        device_serial_number=jipflow.__version__,
        series_description=description[:64],
        is_complete=True,
        is_final=True,
        is_verified=False,
        # highdicom does not know the empty first value that Japanese headers have.
        specific_character_set=None,
    )
    if "SpecificCharacterSet" in seg:
        dataset.SpecificCharacterSet = seg.SpecificCharacterSet
    # highdicom copies and searches the whole tree, so its many leaves come afterwards.
    containers = [group[0] for group in groups]
    places = [_place(container.ContentSequence) for container in containers]
    numbers = [b"".join(_measurements(row, forms)) for row in ordered]
    insert_numbers(dataset, containers, places, numbers)
    dataset.CodingSchemeIdentificationSequence = [_scheme()]
    _stamp(dataset, str(seg.ContentDate), str(seg.ContentTime))
    return dataset


def _check_rows(
    rows: Sequence[Mapping[str, Any]], segments: Mapping[str, Dataset], digest: str
) -> None:
    """Refuse rows that were measured with other parameters, or on segments that are not there."""
    others = sorted({str(row["settings_sha256"]) for row in rows} - {digest})
    if others:
        raise ValueError(
            f"features were measured with settings {others[0][:12]}, the protocol has "
            f"{digest[:12]}; measure again"
        )
    unknown = [str(row["segment"]) for row in rows if row["segment"] not in segments]
    if unknown or not rows:
        raise ValueError(f"no such segment in it: {', '.join(unknown) or 'nothing was measured'}")


def _algorithm(
    parameters: Radiomics, digest: str, versions: str
) -> highdicom.sr.AlgorithmIdentification:
    """Return what measured the features, with all its settings."""
    return highdicom.sr.AlgorithmIdentification(
        name="jipflow radiomics",
        version=jipflow.__version__,
        parameters=[
            f"versions={versions}",
            f"settings_sha256={digest}",
            f"settings={rfc8785.dumps(parameters.plain()).decode()}",
            *_aggregation(parameters.setting),
        ],
    )


def _report(
    groups: Sequence[highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations],
    procedures: Sequence[CodedConcept],
) -> highdicom.sr.MeasurementReport:
    """Return the content of a report (TID 1500)."""
    return highdicom.sr.MeasurementReport(
        observation_context=_observer(),
        procedure_reported=procedures,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=highdicom.sr.LanguageOfContentItemAndDescendants(
            CodedConcept("en", "RFC5646", "English")
        ),
    )


def _aggregation(setting: Setting) -> list[str]:
    """Return how textures are aggregated, where IBSI has a code for it."""
    pairs = PAIRS.get((setting.force_2d, setting.weighting_norm))
    others = "within slices, slices merged (IBSI 62GR)" if setting.force_2d else "in 3D (IBSI KOBO)"
    return [f"GLCM and GLRLM features {pairs}; the other textures are {others}"] if pairs else []


def _group(
    segment: Dataset, seg: Dataset, algorithm: highdicom.sr.AlgorithmIdentification
) -> highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Return the measurement group of a segment, without its measurements."""
    return highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=highdicom.sr.TrackingIdentifier(
            uid=segment.TrackingUID, identifier=segment.TrackingID
        ),
        referenced_segment=highdicom.sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=int(segment.SegmentNumber),
            source_series=highdicom.sr.SourceSeriesForSegmentation(
                seg.ReferencedSeriesSequence[0].SeriesInstanceUID
            ),
        ),
        finding_category=_code(segment.SegmentedPropertyCategoryCodeSequence[0]),
        finding_type=_code(segment.SegmentedPropertyTypeCodeSequence[0]),
        finding_sites=list(_sites(segment)),
        algorithm_id=algorithm,
    )


def _place(content: highdicom.sr.ContentSequence) -> int:
    """Return where a group has its measurements: before what says which segment was measured."""
    concepts = [CodedConcept.from_dataset(item.ConceptNameCodeSequence[0]) for item in content]
    return concepts.index(codes.DCM.ReferencedSegment)


def _sites(segment: Dataset) -> Iterator[highdicom.sr.FindingSite]:
    """Yield where a segment is: its anatomic region, or its type if that is anatomy."""
    regions = segment.get("AnatomicRegionSequence")
    if regions:
        for region in regions:
            sides = region.get("AnatomicRegionModifierSequence")
            yield _site(region, sides)
    elif _code(segment.SegmentedPropertyCategoryCodeSequence[0]) == ANATOMY:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        yield _site(kind, kind.get("SegmentedPropertyTypeModifierCodeSequence"))


def _site(code: Dataset, sides: Sequence[Dataset] | None) -> highdicom.sr.FindingSite:
    return highdicom.sr.FindingSite(
        anatomic_location=_code(code), laterality=_code(sides[0]) if sides else None
    )


def _code(item: Dataset) -> CodedConcept:
    """Return a code without the sequences inside its item."""
    return CodedConcept(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)


_FORMS: dict[tuple[str, ...], Form] = {}
"""By what decides on them."""


def _form(feature: str, digest: str, parameters: Radiomics, modality: str, suv: str) -> Form:
    """Return the form of a feature, made once for all reports of these parameters."""
    key = (feature, digest, modality, suv)
    if key not in _FORMS:
        name = name_feature(feature, parameters, modality, suv)
        _FORMS[key] = form(name.concept, name.unit, name.method)
    return _FORMS[key]


@cache
def _voxels() -> Form:
    return form(VOXELS, ONE)


@cache
def _volume() -> Form:
    name = CodedConcept("118565006", "SCT", "Volume")
    return form(name, CodedConcept("ml", "UCUM", "milliliter"))


def _measurements(row: Mapping[str, Any], forms: Mapping[str, Form]) -> Iterator[bytes]:
    """Yield a segment's voxels, volume and features that have a value."""
    yield _voxels().of(int(row["voxels"]))
    yield _volume().of(float(row["volume_ml"]))
    for feature, made in forms.items():
        value = row.get(feature)
        if value is not None and math.isfinite(value):
            yield made.of(float(value))


def reported_procedures(source: Dataset, modality: str) -> list[CodedConcept]:
    """Return the procedure codes of the source, or the general one of its modality."""
    stated = [
        _code(item)
        for item in source.get("ProcedureCodeSequence") or []
        if all(item.get(name) for name in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"))
        # Longer than a Code Meaning (LO) or a Coding Scheme Designator (SH) may be.
        and len(item.CodeMeaning) <= 64
        and len(item.CodingSchemeDesignator) <= 16
    ]
    return stated or [PROCEDURES.get(modality, ANY_PROCEDURE)]


def _values_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a hash of the rows that does not depend on their order."""
    content = [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        for row in sorted(rows, key=lambda row: str(row["segment"]))
    ]
    return canonical_digest(content)


def _observer() -> highdicom.sr.ObservationContext:
    """Return that this software, and no person, is the observer (TID 1001, 1004)."""
    device = highdicom.sr.DeviceObserverIdentifyingAttributes(
        uid=stable_uid("device", "jipflow", jipflow.__version__),
        name="jipflow",
        manufacturer_name="jipflow",
        model_name="jipflow",
        serial_number=jipflow.__version__,
    )
    return highdicom.sr.ObservationContext(
        observer_device_context=highdicom.sr.ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        )
    )


def _evidence(seg: Dataset) -> list[Dataset]:
    """Return the DICOM-SEG and, from its references, the instances of its source series."""
    evidence = [seg]
    for series in seg.ReferencedSeriesSequence:
        for item in series.ReferencedInstanceSequence:
            instance = Dataset()
            instance.SOPClassUID = item.ReferencedSOPClassUID
            instance.SOPInstanceUID = item.ReferencedSOPInstanceUID
            instance.SeriesInstanceUID = series.SeriesInstanceUID
            instance.StudyInstanceUID = seg.StudyInstanceUID
            evidence.append(instance)
    return evidence


def _scheme() -> Dataset:
    """Return who is responsible for our coding scheme (PS3.3 C.12.1.1.7)."""
    item = Dataset()
    item.CodingSchemeDesignator = SCHEME
    item.CodingSchemeName = "jipflow: features and filters that no standard names"
    item.CodingSchemeResponsibleOrganization = "jipflow"
    return item


def _stamp(dataset: Dataset, date: str, time: str) -> None:
    """Replace the clock's dates."""
    for prefix in ("Content", "InstanceCreation", "Series"):
        if f"{prefix}Date" in dataset:
            setattr(dataset, f"{prefix}Date", date)
            setattr(dataset, f"{prefix}Time", time)
    for equipment in dataset.get("ContributingEquipmentSequence") or []:
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = date + time
