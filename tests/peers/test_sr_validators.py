"""dciodvfy, dcmqi and highdicom validate and read the DICOM-SR of real and synthetic patients."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pandas as pd
import pydicom
import pytest

import typed
from jipflow.cases import Case, Series
from jipflow.files import canonical_digest, write_parquet
from jipflow.images import prepare
from jipflow.images.masks import Region, pack, write_segmentation
from jipflow.images.series import read_series_volume
from jipflow.images.suv.bodies import SuvType
from jipflow.objects import document, encode, sr
from jipflow.objects.feature_codes import name_feature
from jipflow.outcomes import Status, passed
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.radiomics import measure
from jipflow.radiomics.extract import Part, extract
from jipflow.segment import stage as segment
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.reading import shipped_radiomics
from jipflow.settings.resources import ROOT, read_yaml
from jipflow.settings.run import load_settings
from jipflow.settings.schema import load
from jipflow.tables import FEATURE_COLUMNS

TOOLS = Path(sys.executable).parent

ALLOWED = (
    # PS3.16 section 8.2 asks for a private scheme where no standard has a concept; dciodvfy knows
    # the registered ones only.
    "Warning - Unrecognized defined term <99JIPFLOW> .* of attribute <Coding Scheme Designator>",
    # The patient's name is the source's own, and another one would be another patient.
    "Warning - Value dubious for this VR - .* PN Patient's Name .* - Retired Person Name form",
)


UNKNOWN_CLASS = (
    "Error - Shall not be present for Referenced SOP Class that is not segmentation"
    " - attribute <ReferencedSegmentNumber>"
)
"""What dciodvfy says of a segment of Label Map Segmentation Storage, which is of the Segmentation
IOD, too (PS3.3 A.51), and so needs the number (PS3.3 C.18.4) by which TID 1411 names a segment."""


def validate(path):
    """The errors and warnings of dciodvfy but the allowed; its exit code says none of them."""
    done = subprocess.run([TOOLS / "dciodvfy", path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert "Comprehensive3DSR" in lines, f"dciodvfy says nothing about {path}"
    messages = [line for line in lines if line.startswith(("Error", "Warning"))]
    return [line for line in messages if not any(re.match(pattern, line) for pattern in ALLOWED)]


def by_dcmqi(path):
    """Per segment number: value by (code, scheme, unit), and finding, as tid1500reader says."""
    out = path.with_suffix(".json")
    subprocess.run(
        [TOOLS / "tid1500reader", "--inputDICOM", path, "--outputMetadata", out],
        check=True,
        capture_output=True,
    )
    return {
        group["ReferencedSegment"]: group for group in json.loads(out.read_text())["Measurements"]
    }


def series_of(paths):
    """The series of these files, as the catalog gives it to a stage."""
    listed = tuple(sorted(paths))
    header = pydicom.dcmread(listed[0], stop_before_pixels=True)
    return Series(str(header.SeriesInstanceUID), str(header.Modality), listed)


def documents(cases, protocol, folder, encoding="binary"):
    """Run the stages from prepare to document in this process.

    Returns:
        The features, and the path of each case's DICOM-SEG and DICOM-SR by segmentation.
    """
    settings = load_settings(
        {
            "site": {"id": "lab", "name": "Laboratory"},
            "sources": [{"name": "archive", "kind": "folder", "path": str(folder)}],
            "protocol": protocol,
        }
    )
    specs = [s.model_copy(update={"encoding": encoding}) for s in settings.protocol.segmentations]
    changed = settings.protocol.model_copy(update={"segmentations": specs})
    settings = settings.model_copy(update={"protocol": changed})
    volumes, masks, results = folder / "volumes", folder / "masks", folder / "results"
    prepared = prepare.run(
        cases=cases,
        lost=set(),
        suv=dict.fromkeys(settings.protocol.roles, SuvType.BW),
        volumes=volumes,
        threads=1,
    )
    segmented = segment.run(
        cases=cases,
        prepared=passed(prepared),
        settings=settings,
        volumes=volumes,
        masks=masks,
        threads=1,
    ).outcomes
    encoded = encode.run(
        cases=cases,
        segmented=passed(segmented),
        settings=settings,
        masks=masks,
        results=results,
        threads=1,
    )
    tables = measure.run(
        cases=cases,
        segmented=passed(segmented),
        settings=settings,
        volumes=volumes,
        masks=masks,
        threads=1,
    )
    features, measured = tables.features.to_pandas(), tables.outcomes
    write_parquet(folder / "features.parquet", tables.features)
    write_parquet(folder / "failures.parquet", tables.failures)
    both = passed(encoded) & passed(measured)
    made = document.run(
        cases=cases,
        measured=both,
        settings=settings,
        features=folder / "features.parquet",
        failures=folder / "failures.parquet",
        results=results,
        threads=1,
    )
    for outcome in [*prepared, *segmented, *encoded, *measured, *made]:
        assert outcome.status is Status.OK, outcome.message
    return features, [
        (o.case_id, o.item, results / "seg" / o.case_id / f"{o.item}.dcm", results / o.outputs[0])
        for o in made
    ]


def check(features, report, modality, parameters, expected=()):
    """Hold what the validator and both readers say against the features."""
    case_id, item, seg_path, path = report
    assert validate(path) == list(expected)
    rows = features[(features["case_id"] == case_id) & (features["segmentation"] == item)]
    segments = {
        str(s.SegmentLabel): s
        for s in pydicom.dcmread(seg_path, stop_before_pixels=True).SegmentSequence
        if int(s.SegmentNumber) > 0  # a label map also describes its background
    }
    read = {
        group.tracking_uid: group
        for group in highdicom.sr.srread(path).content.get_volumetric_roi_measurement_groups()
    }
    dcmqi = by_dcmqi(path)
    assert len(read) == len(dcmqi) == len(rows) == len(segments)
    for row in rows.to_dict("records"):
        part = segments[row["segment"]]
        expected = {("Voxels", "1"): row["voxels"], ("118565006", "ml"): row["volume_ml"]}
        for name in rows.columns.difference(FEATURE_COLUMNS):
            if pd.notna(row[name]):
                named = name_feature(name, parameters, modality)
                expected[named.concept.value, named.unit.value] = row[name]
        assert len(expected) > 100
        ours = {
            (m.name.value, m.unit.value): m.value for m in read[part.TrackingUID].get_measurements()
        }
        assert ours == expected
        group = dcmqi[int(part.SegmentNumber)]
        assert group["TrackingUniqueIdentifier"] == part.TrackingUID
        kind = part.SegmentedPropertyTypeCodeSequence[0]
        assert group["Finding"]["CodeValue"] == kind.CodeValue
        theirs = {
            (m["quantity"]["CodeValue"], m["units"]["CodeValue"]): float(m["value"])
            for m in group["measurementItems"]
        }
        # dcmqi reads the decimal string, which has 16 characters at most.
        assert theirs == pytest.approx(expected, rel=1e-8)


def test_the_validator_can_fail(tmp_path):
    report = pydicom.dcmread(pydicom.data.get_testdata_file("reportsi.dcm"))
    report.SOPClassUID = pydicom.uid.Comprehensive3DSRStorage
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID
    del report.CompletionFlag
    report.save_as(tmp_path / "broken.dcm")
    messages = validate(tmp_path / "broken.dcm")
    assert any(re.search("Error.*CompletionFlag", line) for line in messages)


@pytest.mark.parametrize(
    ("patient", "folder", "role", "protocol", "encoding"),
    [
        ("STS_002", "CT", "CT", "sarcoma-ct", "binary"),
        ("STS_003", "PET", "PT", "sarcoma-pet", "binary"),
        ("STS_019", "MR_T1", "T1", "sarcoma-mr", "labelmap"),
    ],
)
def test_documents_of_real_patients(
    shared_data, tmp_path, patient, folder, role, protocol, encoding
):
    files = shared_data / "sarcoma" / patient / folder
    image = series_of((files / "image").glob("*.dcm"))
    contours = series_of((files / "mask").glob("*.dcm"))
    case = Case(patient.lower(), patient, "s0", {role: image}, (contours,))
    features, made = documents([case], protocol, tmp_path, encoding)
    (report,) = made
    (entry,) = read_yaml(ROOT / "config" / "protocols" / f"{protocol}.yaml")["radiomics"]
    parameters = shipped_radiomics(entry["settings"])
    expected = [UNKNOWN_CLASS] if encoding == "labelmap" else []
    check(features, report, image.modality, parameters, expected)


@pytest.fixture
def phantom(tmp_path):
    """A CT of noise with a rib, a kidney and a cyst, and their DICOM-SEG."""
    grid = PhantomGrid((10, 24, 24), (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    hu = np.random.default_rng(3).normal(40, 20, grid.shape).astype(np.int16)
    series = series_of(dicom.write_series(dicom.ct_series(hu, grid), tmp_path / "ct"))
    volume = read_series_volume(series)
    regions = []
    for term, box in (
        ("rib-1-right", np.s_[1:5, 2:8, 2:8]),
        ("kidney-left", np.s_[3:9, 10:20, 10:20]),
        ("kidney-cyst-left", np.s_[4:8, 11:17, 12:18]),
    ):
        mask = np.zeros(grid.shape, bool)
        mask[box] = True
        regions.append(Region(term, term, mask, "AUTOMATIC", "net", "1"))
    segmentation = pack(regions, volume.grid)
    case = Case("phantom", "p", "s0", {"CT": series})
    write_segmentation(tmp_path / "masks" / "phantom" / "organs", segmentation)
    (made,) = encode.run(
        cases=[case],
        segmented={("phantom", "organs")},
        settings=typed.settings([{"id": "organs", "engine": "nnunet"}]),
        masks=tmp_path / "masks",
        results=tmp_path / "results",
        threads=1,
    )
    assert made.status is Status.OK, made.message
    path = tmp_path / "results" / made.outputs[0]
    return volume, segmentation, pydicom.dcmread(path, stop_before_pixels=True)


def test_documents_of_filtered_images(phantom, tmp_path):
    """Each filter's features are there beside the image's, under their own method."""
    volume, segmentation, source = phantom
    parameters = {
        "imageType": {
            "Original": {},
            "Wavelet": {"binWidth": 5},
            "LoG": {"sigma": [3.0], "binWidth": 2},
            "Gradient": {"binWidth": 2},
        },
        "featureClass": {"firstorder": ["Mean", "Kurtosis"], "ngtdm": []},
        "setting": {"binWidth": 25},
    }
    parameters = load(Radiomics, parameters, "test")
    rows = []
    boxes = list(segmentation.boxes())
    parts = [Part(mask, corner) for _, mask, corner in boxes]
    for (part, mask, _), measured in zip(boxes, extract(volume, parts, parameters), strict=True):
        assert measured.failures == []
        features = measured.values
        row = {"case_id": "phantom", "segment": part.name, "voxels": int(mask.sum())}
        row |= {
            "settings_sha256": canonical_digest(parameters.plain()),
            "versions": "pyradiomics 3.0.1",
        }
        rows.append(row | {"volume_ml": 1.5} | features)
    assert len(features) == 11 * 7
    report = sr.build_sr(
        rows,
        source,
        parameters=parameters,
        modality="CT",
        procedures=[sr.PROCEDURES["CT"]],
        description="filters",
        series_number=9501,
    )
    path = tmp_path / "sr.dcm"
    pydicom.dcmwrite(path, report, enforce_file_format=True)
    assert validate(path) == []
    groups = highdicom.sr.srread(path).content.get_volumetric_roi_measurement_groups()
    for row, group in zip(rows, groups, strict=True):
        ours = {
            (m.name.value, m.method.value if m.method else None): m.value
            for m in group.get_measurements()
        }
        for name, value in row.items():
            if name.count("_") == 2 and name != "settings_sha256":
                named = name_feature(name, parameters, "CT")
                method = named.method.value if named.method else None
                assert ours[named.concept.value, method] == value
    dcmqi = by_dcmqi(path)
    assert [len(group["measurementItems"]) for group in dcmqi.values()] == [2 + 11 * 7] * 3
    rib, kidney, cyst = (dcmqi[number] for number in (1, 2, 3))
    assert rib["Finding"]["CodeMeaning"] == "First rib"
    assert rib["Laterality"]["CodeMeaning"] == "Right"
    assert cyst["Finding"]["CodeMeaning"] == "Cyst"
    assert cyst["FindingSite"] == kidney["FindingSite"]
    assert cyst["Laterality"]["CodeMeaning"] == "Left"
