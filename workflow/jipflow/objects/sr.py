"""Stage `document`: radiomic features to DICOM Structured Reports (PS3.16 TID 1500)."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import highdicom
import pandas as pd
import pydicom
import rfc8785
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

import jipflow
from jipflow.cases import Case, CaseFault, Made, Outcome, Reason, attempt, blocked, for_each_case
from jipflow.files import atomic_path, canonical_digest
from jipflow.objects.terms import ANATOMY
from jipflow.settings.protocol import RadiomicsEntry
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.resources import RESOURCES, read_yaml
from jipflow.settings.run import Settings
from jipflow.tables import FEATURE_COLUMNS
from jipflow.uids import stable_uid

STAGE = "document"
SERIES_NUMBER_OFFSET = 9500
"""Keeps our series behind the scanner's and behind the segmentations' in a viewer's list."""

SCHEME = "99JIPFLOW"
"""Coding scheme of what no standard names (private, PS3.16 section 8.2)."""

PROCEDURES = {
    "CT": CodedConcept("25045-6", "LN", "CT unspecified body region"),
    "MR": CodedConcept("25056-3", "LN", "MRI unspecified body region"),
    "PT": CodedConcept("44136-0", "LN", "PET unspecified body region"),
}
"""Procedure Reported (CID 100) where the source says no procedure."""

ONE = CodedConcept("1", "UCUM", "no units")
LENGTHS = {
    "1": ONE,
    "mm": CodedConcept("mm", "UCUM", "millimeter"),
    "mm2": CodedConcept("mm2", "UCUM", "square millimeter"),
    "mm3": CodedConcept("mm3", "UCUM", "cubic millimeter"),
    "/mm": CodedConcept("/mm", "UCUM", "per millimeter"),
    "ml": CodedConcept("ml", "UCUM", "milliliter"),
}
HOUNSFIELD = {
    "I": CodedConcept("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "I2": CodedConcept("[hnsf'U]2", "UCUM", "Hounsfield unit squared"),
    "I2.mm3": CodedConcept(
        "[hnsf'U]2.mm3", "UCUM", "Hounsfield unit squared times cubic millimeter"
    ),
    "I.mm3": CodedConcept("[hnsf'U].mm3", "UCUM", "Hounsfield unit times cubic millimeter"),
    "I.ml": CodedConcept("[hnsf'U].ml", "UCUM", "Hounsfield unit times milliliter"),
}
SUV = {
    "I": CodedConcept("{SUVbw}g/ml", "UCUM", "Standardized Uptake Value body weight"),
    "I2": CodedConcept("{SUVbw}g2/ml2", "UCUM", "Standardized Uptake Value body weight squared"),
    "I2.mm3": CodedConcept(
        "{SUV}g2/ml2.mm3", "UCUM", "SUV body weight squared times cubic millimeter"
    ),
    "I.mm3": CodedConcept("{SUVbw}g/ml.mm3", "UCUM", "SUV body weight times cubic millimeter"),
    "I.ml": CodedConcept("{SUVbw}g", "UCUM", "SUV body weight times milliliter"),
}
ARBITRARY = {
    "I": CodedConcept("[arb'U]", "UCUM", "arbitrary unit"),
    "I2": CodedConcept("[arb'U]2", "UCUM", "arbitrary unit squared"),
    "I2.mm3": CodedConcept("[arb'U]2.mm3", "UCUM", "arbitrary unit squared times cubic millimeter"),
    "I.mm3": CodedConcept("[arb'U].mm3", "UCUM", "arbitrary unit times cubic millimeter"),
    "I.ml": CodedConcept("[arb'U].ml", "UCUM", "arbitrary unit times milliliter"),
}
INTENSITIES = {"CT": HOUNSFIELD, "PT": SUV}
"""Units of the intensities in a prepared volume (`jipflow.images.series`) by Modality."""

LINEAR_FILTERS = ("original", "wavelet", "log-sigma", "ibsi-mean")
"""Beginnings of the names of images that keep the unit of the intensities."""

VOXELS = CodedConcept("Voxels", SCHEME, "Number of voxels of the segment")
PAIRS = {
    (False, None): "are means over the 13 directions in 3D (IBSI ITBB)",
    (False, "no_weighting"): "are of the merged matrices of the 13 directions in 3D (IBSI IAZD)",
    (True, None): "are means over the 4 directions within slices, slices merged (IBSI JJUI)",
    (True, "no_weighting"): "are of the merged matrices of all slices and directions (IBSI ZW7Z)",
}
"""How matrices of directions are aggregated, by force2D and weightingNorm; no other has a code."""


@dataclass(frozen=True)
class Name:
    """How a feature stands in a report.

    Attributes:
        concept: what is measured.
        unit: of the value (UCUM).
        method: the filter that the image went through; None for the image itself.
    """

    concept: CodedConcept
    unit: CodedConcept
    method: CodedConcept | None


def sr_path(results: Path, case_id: str, segmentation: str) -> Path:
    """Return where the DICOM-SR of a case's segmentation stands."""
    return results / "sr" / case_id / f"{segmentation}.dcm"


def run(
    *,
    cases: Sequence[Case],
    measured: set[tuple[str, str]],
    settings: Settings,
    features: Path,
    failures: Path,
    results: Path,
    threads: int,
) -> list[Outcome]:
    """Write a DICOM-SR for each measured segmentation of each case.

    Args:
        cases: the shard's cases.
        measured: (case_id, segmentation) that have both features and a DICOM-SEG.
        settings: of the site and the protocol.
        features: the shard's ``features.parquet``.
        failures: the shard's ``failures.parquet``: why features are null.
        results: the protocol's results folder, with ``seg/<case_id>/<segmentation>.dcm``; files go
            to ``sr/<case_id>/<segmentation>.dcm``.
        threads: processes.
    """
    work = partial(
        _document_case,
        measured=measured,
        settings=settings,
        features=features,
        failures=failures,
        results=results,
    )
    return for_each_case(cases, work, threads)


def _document_case(
    case: Case,
    measured: set[tuple[str, str]],
    settings: Settings,
    features: Path,
    failures: Path,
    results: Path,
) -> list[Outcome]:
    # A file of an earlier run must not outlive a case that now fails.
    shutil.rmtree(results / "sr" / case.case_id, ignore_errors=True)
    outcomes = []
    for number, entry in enumerate(settings.protocol["radiomics"], start=1):
        name = entry["segmentation"]
        if not case.roles.keys() >= {entry["role"], *settings.needed_roles(name)}:
            continue
        if (case.case_id, name) not in measured:
            needed = f"the DICOM-SEG or the features of {name!r}"
            outcomes.append(blocked(case.case_id, STAGE, name, needed))
            continue
        work = partial(
            _document,
            case,
            entry,
            number,
            settings=settings,
            features=features,
            failures=failures,
            results=results,
        )
        outcomes.append(attempt(case.case_id, STAGE, name, work, results))
    return outcomes


def _document(
    case: Case,
    entry: RadiomicsEntry,
    number: int,
    settings: Settings,
    features: Path,
    failures: Path,
    results: Path,
) -> Made:
    name, role = entry["segmentation"], entry["role"]
    # A DICOM-SEG holds the segments that have a voxel, and a report refers to these.
    rows = [row for row in _rows(features, case.case_id, name, role) if row["voxels"]]
    if not rows:
        return Made(note="No DICOM-SR, since no segment has a voxel.")
    series = case.roles[role]
    source = pydicom.dcmread(
        series.paths[0], stop_before_pixels=True, specific_tags=["ProcedureCodeSequence"]
    )
    seg = pydicom.dcmread(results / "seg" / case.case_id / f"{name}.dcm", stop_before_pixels=True)
    try:
        dataset = build_sr(
            rows,
            seg,
            parameters=settings.radiomics(entry),
            modality=series.modality,
            procedures=_procedures(source, series.modality),
            description=f"{settings.protocol_id} {name} features",
            series_number=SERIES_NUMBER_OFFSET + number,
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CaseFault(
            Reason.ENCODING_REFUSED,
            f"case {case.case_id}: DICOM-SR of {name!r} cannot be built on its DICOM-SEG "
            f"{seg.SOPInstanceUID}: {error}",
        ) from error
    path = sr_path(results, case.case_id, name)
    with atomic_path(path) as partial_path:
        pydicom.dcmwrite(partial_path, dataset, enforce_file_format=True)
    return Made((path,), absent_note(_rows(failures, case.case_id, name, role)))


def _rows(path: Path, case_id: str, segmentation: str, role: str) -> list[dict[str, Any]]:
    """Read the rows of one segmentation from the features or the failures."""
    wanted = {"case_id": case_id, "segmentation": segmentation, "role": role}
    table = pd.read_parquet(path, filters=[(key, "==", value) for key, value in wanted.items()])
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def absent_note(failures: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence that names the features without a value, and why; empty if none."""
    listed = [
        f"{row['segment']} {'all' if row['feature'] == '*' else row['feature']} ({row['reason']})"
        for row in failures
    ]
    return f"Features without a value are left out: {', '.join(listed)}." if listed else ""


def build_sr(
    rows: Sequence[Mapping[str, Any]],
    seg: Dataset,
    *,
    parameters: Radiomics,
    modality: str,
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
        procedures: what was done to the patient (Procedure Reported).
        description: Series Description.
        series_number: Series Number.

    Returns:
        The data set with its file meta information.

    Raises:
        ValueError: a row has no segment, or was measured with other parameters.
    """
    digest = canonical_digest(parameters.plain())
    others = sorted({str(row["settings_sha256"]) for row in rows} - {digest})
    if others:
        raise ValueError(
            f"features were measured with settings {others[0][:12]}, the protocol has "
            f"{digest[:12]}; measure again"
        )
    key = (
        str(seg.SOPInstanceUID),
        *(jipflow.__version__, highdicom.__version__, modality, description),
        *(f"{code.scheme_designator}:{code.value}" for code in procedures),
        _values_digest(rows),
    )
    segments = {str(item.SegmentLabel): item for item in seg.SegmentSequence}
    unknown = [str(row["segment"]) for row in rows if row["segment"] not in segments]
    if unknown or not rows:
        raise ValueError(f"no such segment in it: {', '.join(unknown) or 'nothing was measured'}")
    algorithm = highdicom.sr.AlgorithmIdentification(
        name="jipflow radiomics",
        version=jipflow.__version__,
        parameters=[
            f"versions={rows[0]['versions']}",
            f"settings_sha256={digest}",
            f"settings={rfc8785.dumps(parameters.plain()).decode()}",
            *_aggregation(parameters["setting"]),
        ],
    )
    features = sorted({name for row in rows for name in row} - set(FEATURE_COLUMNS))
    names = {feature: name_feature(feature, parameters, modality) for feature in features}
    groups = [
        _group(row, names, segments[row["segment"]], seg, algorithm)
        for row in sorted(rows, key=lambda row: int(segments[row["segment"]].SegmentNumber))
    ]
    report = highdicom.sr.MeasurementReport(
        observation_context=_observer(),
        procedure_reported=procedures,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=highdicom.sr.LanguageOfContentItemAndDescendants(
            CodedConcept("en", "RFC5646", "English")
        ),
    )
    dataset = highdicom.sr.Comprehensive3DSR(
        evidence=_evidence(seg),
        content=report,
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
    dataset.CodingSchemeIdentificationSequence = [_scheme()]
    _stamp(dataset, str(seg.ContentDate), str(seg.ContentTime))
    return dataset


def _aggregation(setting: Mapping[str, Any]) -> list[str]:
    """Return how textures are aggregated, where IBSI has a code for it."""
    pairs = PAIRS.get((setting["force2D"], setting["weightingNorm"]))
    others = (
        "within slices, slices merged (IBSI 62GR)" if setting["force2D"] else "in 3D (IBSI KOBO)"
    )
    return [f"GLCM and GLRLM features {pairs}; the other textures are {others}"] if pairs else []


def _group(
    row: Mapping[str, Any],
    names: Mapping[str, Name],
    segment: Dataset,
    seg: Dataset,
    algorithm: highdicom.sr.AlgorithmIdentification,
) -> highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Return the measurement group of a segment."""
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
        measurements=list(_measurements(row, names)),
    )


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


def _measurements(
    row: Mapping[str, Any], names: Mapping[str, Name]
) -> Iterator[highdicom.sr.Measurement]:
    """Yield a segment's voxels, volume and features that have a value."""
    yield highdicom.sr.Measurement(name=VOXELS, value=int(row["voxels"]), unit=ONE)
    yield highdicom.sr.Measurement(
        name=CodedConcept("118565006", "SCT", "Volume"),
        value=float(row["volume_ml"]),
        unit=CodedConcept("ml", "UCUM", "milliliter"),
    )
    for feature, name in names.items():
        value = row.get(feature)
        if value is None or not math.isfinite(value):
            continue
        yield highdicom.sr.Measurement(
            name=name.concept, value=float(value), unit=name.unit, method=name.method
        )


def name_feature(feature: str, parameters: Mapping[str, Any], modality: str) -> Name:
    """Return how a feature stands in a report.

    Args:
        feature: its name, ``<image>_<class>_<feature>``.
        parameters: radiomics settings with their defaults.
        modality: of the image.
    """
    image, group, short = feature.split("_", 2)
    table = _ibsi()
    entry = table["features"].get(group, {}).get(short)
    if entry is None:
        concept, unit = _own(f"{group}_{short}", f"pyradiomics {group} {short}"), ONE
    else:
        concept = _concept(entry, f"{group}_{short}")
        standard = table["standard"]
        needed = standard.get(group, {}) | standard.get(f"{group}_{short}", {})
        setting = parameters["setting"]
        changed = [key for key, values in needed.items() if setting[key] not in values]
        if "code" in entry and changed:
            text = f"{short} of {group}, with {', '.join(changed)} apart from IBSI"
            concept = _own(f"{group}_{short}_{'_'.join(changed)}", text)
        unit = _unit(entry["unit"], group, image, parameters["processing"], modality)
    return Name(concept, unit, None if image == "original" else _own(image, f"Filter {image}"))


def _concept(entry: Mapping[str, Any], name: str) -> CodedConcept:
    if "code" in entry:
        value, meaning = entry["code"]
        return CodedConcept(value, "IBSI", meaning)
    value, meaning = entry["own"]
    return CodedConcept(value, SCHEME, meaning)


def _unit(
    word: str, group: str, image: str, processing: Mapping[str, Any], modality: str
) -> CodedConcept:
    """Return the unit that a word of the table stands for."""
    if word in LENGTHS:
        return LENGTHS[word]
    if group == "ivh" and "count" in processing.get("ivh", {}):
        return ONE
    changed = "normalize" in processing or not image.startswith(LINEAR_FILTERS)
    return (ARBITRARY if changed else INTENSITIES.get(modality, ARBITRARY))[word]


def _own(name: str, meaning: str) -> CodedConcept:
    """Return a code of our scheme; a name too long for a Code Value gives its hash instead."""
    value = name if len(name) <= 16 else hashlib.sha256(name.encode()).hexdigest()[:16].upper()
    return CodedConcept(value, SCHEME, meaning[:64])


@cache
def _ibsi() -> dict[str, Any]:
    table: dict[str, Any] = read_yaml(RESOURCES / "ibsi_codes.yaml")
    return table


def _procedures(source: Dataset, modality: str) -> list[CodedConcept]:
    """Return the procedure codes of the source, or the general one of its modality."""
    stated = [
        _code(item)
        for item in source.get("ProcedureCodeSequence") or []
        if all(item.get(name) for name in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"))
        # Longer than a Code Meaning (LO) or a Coding Scheme Designator (SH) may be.
        and len(item.CodeMeaning) <= 64
        and len(item.CodingSchemeDesignator) <= 16
    ]
    return stated or [PROCEDURES[modality]]


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
