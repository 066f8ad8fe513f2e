"""The DICOM-SR says of each segment what was measured, exactly, and in the standard's words."""

from __future__ import annotations

import csv
import math
import re
import shutil
from collections import Counter

import highdicom
import numpy as np
import pandas as pd
import pydicom
import pytest
import radiomics
from highdicom.sr import CodedConcept
from pydicom.sr import _concepts_dict
from pydicom.sr.codedict import codes

import typed
from clock import set_clock
from jipflow.cases import Case
from jipflow.files import canonical_digest, write_parquet
from jipflow.images.masks import Region, pack, write_segmentation
from jipflow.images.series import read_series_volume
from jipflow.objects import document, encode, sr
from jipflow.objects.feature_codes import SCHEME, name_feature
from jipflow.outcomes import Status
from jipflow.radiomics.classes import CLASSES
from jipflow.radiomics.ibsi import columns_by_tag
from jipflow.radiomics.measure import failure_table, feature_table
from jipflow.reasons import Reason
from jipflow.settings.reading import shipped_radiomics
from jipflow.settings.resources import RESOURCES, read_yaml
from series_factory import ct_datasets, series_of, write

CT = shipped_radiomics("pyradiomics_ct")
TABLE = read_yaml(RESOURCES / "ibsi_codes.yaml")
ENTRIES = {
    f"{group}_{name}": entry
    for group, entries in TABLE["features"].items()
    for name, entry in entries.items()
}
WITHDRAWN = {
    *("glcm_Dissimilarity", "glcm_Homogeneity1", "glcm_Homogeneity2", "glcm_SumVariance"),
    *("gldm_GrayLevelNonUniformityNormalized", "gldm_DependencePercentage"),
}
"""Features of which pyradiomics only says that they equal another one."""

SECOND_TAGS = {"cm_dissimilarity_3D_avg", "cm_sum_var_3D_avg", "ngl_glnu_norm_3D"}
"""IBSI's names of features that equal another one, whose code they are given by."""


def test_every_feature_is_in_the_table():
    known = {f"{g}_{name}" for g, kind in CLASSES.items() for name in kind.names(withdrawn=True)}
    assert set(ENTRIES) == known - WITHDRAWN
    pyradiomics = radiomics.getFeatureClasses()
    for group in ("shape", "firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm"):
        assert set(pyradiomics[group].getFeatureNames()) <= set(
            CLASSES[group].names(withdrawn=True)
        )


def test_no_two_features_have_one_code():
    written = Counter(next(iter(e.get("code") or e["own"])) for e in ENTRIES.values())
    assert [code for code, count in written.items() if count > 1] == []
    for entry in ENTRIES.values():
        assert ("code" in entry) != ("own" in entry)
        value, meaning = entry.get("code") or entry["own"]
        assert isinstance(value, str)
        assert len(value) == 4 if "code" in entry else len(value) <= 16
        assert len(meaning) <= 64


def test_codes_mean_what_they_mean_in_dicom():
    """The concepts that PS3.16 has; it leaves IBSI's intensity statistics to other schemes."""
    dicom = {
        value: meaning
        for entry in _concepts_dict.concepts["IBSI"].values()
        for value, (meaning, _) in entry.items()
    }
    coded = {name: e["code"] for name, e in ENTRIES.items() if "code" in e}
    beyond = {name for name, (value, _) in coded.items() if value not in dicom}
    others = {"localintensity_LocalPeak", "localintensity_GlobalPeak"}
    others |= {"ivh_VolumeFractionDifference", "ivh_IntensityDifference"}
    statistics = {
        f"firstorder_{name}"
        for name, entry in TABLE["features"]["firstorder"].items()
        if str(entry.get("tag")).startswith("stat_")
    }
    assert beyond == statistics | others
    assert {n: m for n, (v, m) in coded.items() if v in dicom} == {
        n: dicom[v] for n, (v, _) in coded.items() if v in dicom
    }


def reference_values(shared_data):
    """Consensus value and tolerance by tag, in the order of the reference manual."""
    with open(shared_data / "ibsi" / "reference" / "ibsi_1_dig_phantom.csv") as stream:
        rows = list(csv.DictReader(stream, delimiter=";"))
    return {
        row["tag"]: (float(row["reference value"] or "nan"), float(row["tolerance"] or 0))
        for row in rows
        if not re.search(r"_(2D|2_5D)(_|$)|3D_comb$", row["tag"])
    }


def test_codes_are_those_of_the_reference_values(shared_data):
    """Codes and tags stand in two lists of other projects, both in the order of the manual."""
    text = (shared_data / "ibsi" / "reference" / "ibsi_1_by_code.md").read_text(encoding="utf-8")
    (phantom,) = (part for part in text.split("\n## ") if part.startswith("Digital Phantom"))
    values = re.findall(r"^\| [^|]+ \| (\w+) \| [-\d]", phantom, re.MULTILINE)
    by_tag = dict(zip(reference_values(shared_data), values, strict=True))
    # PS3.16 has 5QRC for the small zone emphasis; no other list has P001.
    assert by_tag["szm_sze_3D"] == "P001"
    by_tag["szm_sze_3D"] = "5QRC"
    # That list has the 10th percentile's code at the 90th, where PS3.16 has OZ0C.
    assert (by_tag["ih_p10"], by_tag["ih_p90"]) == ("1PR", "GPMT")
    by_tag |= {"ih_p10": "GPMT", "ih_p90": "OZ0C"}
    coded = 0
    for tag, column in columns_by_tag(CT.setting.plain()).items():
        entry = ENTRIES[column.removeprefix("original_")]
        if "code" in entry and tag not in SECOND_TAGS:
            assert entry["code"][0] == by_tag[tag], tag
            coded += 1
    assert coded == sum("code" in entry for entry in ENTRIES.values())


@pytest.mark.parametrize(
    ("feature", "modality", "unit"),
    [
        ("original_firstorder_Mean", "CT", "[hnsf'U]"),
        ("original_firstorder_Mean", "PT", "{SUVbw}g/ml"),
        ("original_firstorder_Mean", "MR", "[arb'U]"),
        ("original_firstorder_Variance", "CT", "[hnsf'U]2"),
        ("original_firstorder_TotalEnergy", "PT", "{SUV}g2/ml2.mm3"),
        ("wavelet-LLH_firstorder_Mean", "CT", "[hnsf'U]"),
        ("log-sigma-3-0-mm-3D_firstorder_Mean", "CT", "[hnsf'U]"),
        ("square_firstorder_Mean", "CT", "[arb'U]"),
        ("original_glcm_Contrast", "CT", "1"),
        ("original_firstorder_Entropy", "CT", "1"),
        ("original_shape_MeshVolume", "MR", "mm3"),
        ("original_shape_SurfaceVolumeRatio", "PT", "/mm"),
        ("original_shape2D_PixelSurface", "CT", "1"),
    ],
)
def test_units(feature, modality, unit):
    named = name_feature(feature, CT, modality)
    assert (named.unit.value, named.unit.scheme_designator) == (unit, "UCUM")


@pytest.mark.parametrize(
    ("suv", "feature", "unit"),
    [
        ("BW", "original_firstorder_Mean", "{SUVbw}g/ml"),
        ("LBM", "original_firstorder_Mean", "g/ml{SUVlbm}"),
        ("LBMJAMES128", "original_firstorder_Mean", "g/ml{SUVlbm(James128)}"),
        ("LBMJANMA", "original_firstorder_Variance", "g2/ml2{SUVlbm(Janma)}"),
        ("IBW", "original_uptake_TLG", "g{SUVibw}"),
        ("BSA", "original_firstorder_Mean", "cm2/ml{SUVbsa}"),
        ("BSA", "original_firstorder_Variance", "cm4/ml2{SUVbsa}"),
        ("BSA", "original_uptake_TLG", "cm2{SUVbsa}"),
    ],
)
def test_units_of_other_suvs(suv, feature, unit):
    assert name_feature(feature, CT, "PT", suv).unit.value == unit
    assert name_feature(feature, CT, "CT", suv).unit.value != unit


def test_normalised_intensities_have_no_unit_of_the_scanner():
    parameters = typed.radiomics(**CT.plain() | {"processing": {"normalize": {"scale": 1}}})
    named = name_feature("original_firstorder_Mean", parameters, "CT")
    assert named.unit.value == "[arb'U]"


def test_names_of_different_filters_never_collide():
    images = ["original", "squareroot", "gradient", "lbp-3D-k"]
    images += [f"wavelet-{a}{b}{c}" for a in "HL" for b in "HL" for c in "HL"]
    images += [f"log-sigma-{n}-{m}-mm-3D" for n in range(1, 6) for m in (0, 5)]
    features = [f"{image}_{name}" for image in images for name in ENTRIES]
    features += ["original_shape2D_PixelSurface", "original_shape2D_MeshSurface"]
    seen = set()
    for feature in features:
        named = name_feature(feature, CT, "CT")
        for code in (named.concept, named.method):
            assert code is None or len(code.value) <= 16
        method = named.method.value if named.method else None
        seen.add((named.concept.value, named.concept.scheme_designator, method))
    assert len(seen) == len(features)
    assert name_feature("wavelet-HHL_glcm_Id", CT, "CT").method == CodedConcept(
        "wavelet-HHL", SCHEME, "Filter wavelet-HHL"
    )


@pytest.mark.parametrize(
    ("feature", "setting"),
    [
        ("glcm_Id", {"symmetricalGLCM": False}),
        ("glrlm_RunEntropy", {"weightingNorm": "euclidean"}),
        ("firstorder_Energy", {"voxelArrayShift": 1000}),
    ],
)
def test_a_setting_apart_from_the_standard_loses_the_code(feature, setting):
    plain = name_feature(f"original_{feature}", CT, "CT")
    plain_settings = CT.plain()
    other = typed.radiomics(**plain_settings | {"setting": plain_settings["setting"] | setting})
    apart = name_feature(f"original_{feature}", other, "CT")
    assert plain.concept.scheme_designator == "IBSI"
    assert apart.concept.scheme_designator == SCHEME
    assert next(iter(setting)) in apart.concept.meaning
    assert name_feature("original_firstorder_Mean", other, "CT") == (
        name_feature("original_firstorder_Mean", CT, "CT")
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A case with a DICOM-SEG of a left kidney with a cyst and a lesion, and its features."""
    folder = tmp_path_factory.mktemp("world")
    series = series_of(write(ct_datasets(), folder / "ct"))
    grid = read_series_volume(series).grid
    shape = np.zeros(grid.shape, bool)
    regions = []
    for name, term, box in (
        ("kidney", "kidney-left", np.s_[1:4, 2:6, 1:8]),
        ("cyst", "kidney-cyst-left", np.s_[2:4, 3:5, 2:5]),
        ("tumour", "neoplasm", np.s_[4:6, 1:4, 1:4]),
    ):
        mask = shape.copy()
        mask[box] = True
        regions.append(Region(name, term, mask, "AUTOMATIC", "net", "1"))
    segmentation = pack(regions, grid)
    case = Case("case", "patient", "s0", {"CT": series})
    settings = typed.settings(
        [{"id": "organs", "engine": "nnunet"}],
        radiomics=[{"segmentation": "organs", "role": "CT", "settings": "pyradiomics_ct"}],
    )
    write_segmentation(folder / "masks" / "case" / "organs", segmentation)
    (made,) = encode.run(
        cases=[case],
        segmented={("case", "organs")},
        settings=settings,
        masks=folder / "masks",
        results=folder / "results",
        threads=1,
    )
    assert made.status is Status.OK, made.message
    values = [1 / 3, 1e-300, -2.5e22, 123456789.123456789, 0.0, 5.0]
    rows = []
    for number, (name, _, mask) in enumerate((r.name, r.term, r.mask) for r in regions):
        row = {
            "case_id": "case", "patient": "patient", "role": "CT", "segmentation": "organs",
            "segment": name, "voxels": int(mask.sum()),
            "volume_ml": float(mask.sum() * grid.voxel_volume / 1000),
            "measured_voxels": int(mask.sum()), "measured_box": "0 0 0 1 1 1",
            "settings_sha256": canonical_digest(CT.plain()), "versions": "pyradiomics 3.0.1",
        }  # fmt: skip
        for place, feature in enumerate(sorted(ENTRIES)):
            row[f"original_{feature}"] = values[(place + number) % len(values)]
            if feature.startswith("ngtdm"):
                row[f"wavelet-HHL_{feature}"] = place + 0.1 * number
        rows.append(row)
    return folder, case, settings, rows


def build(world, rows=None, **changes):
    folder, _, _, all_rows = world
    seg = pydicom.dcmread(folder / "results" / "seg" / "case" / "organs.dcm")
    arguments = {
        "parameters": CT,
        "modality": "CT",
        "procedures": [sr.PROCEDURES["CT"]],
        "description": "demo organs features",
        "series_number": 9501,
    } | changes
    return seg, sr.build_sr(all_rows if rows is None else rows, seg, **arguments)


@pytest.fixture(scope="module")
def built(world):
    """The DICOM-SEG, and the DICOM-SR on it."""
    return build(world)


def groups(dataset):
    report = highdicom.sr.Comprehensive3DSR.from_dataset(dataset)
    return report.content.get_volumetric_roi_measurement_groups()


def read_back(group):
    return {
        (m.name.value, m.name.scheme_designator, m.method.value if m.method else None): m.value
        for m in group.get_measurements()
    }


def test_every_value_comes_back_exactly(world, built, tmp_path):
    _, dataset = built
    pydicom.dcmwrite(tmp_path / "sr.dcm", dataset, enforce_file_format=True)
    found = groups(pydicom.dcmread(tmp_path / "sr.dcm"))
    assert len(found) == 3
    for row, group in zip(world[3], found, strict=True):
        values = read_back(group)
        assert values.pop(("Voxels", SCHEME, None)) == row["voxels"]
        assert values.pop(("118565006", "SCT", None)) == row["volume_ml"]
        expected = {}
        for feature, value in row.items():
            if feature.startswith(("original_", "wavelet")):
                n = name_feature(feature, CT, "CT")
                method = n.method.value if n.method else None
                expected[n.concept.value, n.concept.scheme_designator, method] = value
        assert len(expected) == len(ENTRIES) + 5
        assert values == expected


def test_a_group_is_of_its_segment(built):
    seg, dataset = built
    kidney, cyst, tumour = groups(dataset)
    for item, group in zip(seg.SegmentSequence, (kidney, cyst, tumour), strict=True):
        assert group.tracking_uid == item.TrackingUID
        assert group.tracking_identifier == item.TrackingID
        reference = group.referenced_segment
        assert reference.referenced_sop_class_uid == seg.SOPClassUID
        assert reference.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert list(reference.referenced_segment_numbers) == [item.SegmentNumber]
        source = seg.ReferencedSeriesSequence[0].SeriesInstanceUID
        assert reference.source_series_for_segmentation.value == source
    assert kidney.finding_type == codes.SCT.Kidney
    assert kidney.finding_category == codes.CID7150.AnatomicalStructure
    assert kidney.finding_sites[0].value == codes.SCT.Kidney
    assert kidney.finding_sites[0].laterality == codes.CID244.Left
    assert cyst.finding_type == codes.SCT.Cyst
    assert cyst.finding_category == codes.CID7150.MorphologicallyAbnormalStructure
    assert cyst.finding_sites[0].value == codes.SCT.Kidney
    assert cyst.finding_sites[0].laterality == codes.CID244.Left
    assert tumour.finding_type == codes.SCT.Neoplasm
    assert tumour.finding_sites == []


def test_the_document_names_its_evidence_and_its_author(world, built):
    _, case, _, _ = world
    seg, dataset = built
    assert dataset.CompletionFlag == "COMPLETE"
    assert dataset.VerificationFlag == "UNVERIFIED"
    assert dataset.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    evidence = {
        instance.ReferencedSOPInstanceUID
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in dataset.get(name, [])
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    sources = {
        pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID
        for path in case.roles["CT"].paths
    }
    assert evidence == sources | {seg.SOPInstanceUID}
    text = dataset.to_json()
    for part in (
        "pyradiomics",
        "3.0.1",
        canonical_digest(CT.plain()),
        r"\"binWidth\":25",
        "jipflow",
    ):
        assert part in text
    assert dataset.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == SCHEME
    assert dataset.StudyInstanceUID == seg.StudyInstanceUID
    assert dataset.ContentDate == seg.ContentDate


def test_a_feature_without_a_value_is_left_out(world):
    rows = [dict(row) for row in world[3]]
    rows[0]["original_firstorder_Mean"] = None
    rows[1] = {k: v for k, v in rows[1].items() if not k.startswith(("original", "wavelet"))}
    rows[2]["original_firstorder_Mean"] = math.nan
    kidney, cyst, tumour = (read_back(group) for group in groups(build(world, rows)[1]))
    assert len(kidney) == len(tumour) == len(ENTRIES) + 5 + 1
    assert not any(name == "Q4LE" and not filtered for name, _, filtered in (*kidney, *tumour))
    assert {name for name, _, _ in cyst} == {"Voxels", "118565006"}


def test_the_same_input_gives_the_same_bytes_at_another_time(world, built, tmp_path, monkeypatch):
    paths = [tmp_path / "1.dcm", tmp_path / "2.dcm"]
    reads = set_clock(monkeypatch, 2031)
    for path, dataset in zip(paths, (built[1], build(world, world[3][::-1])[1]), strict=True):
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert reads


def test_another_value_is_another_document(world, built):
    rows = [dict(row) for row in world[3]]
    rows[0]["original_firstorder_Mean"] = 17.25
    assert built[1].SOPInstanceUID != build(world, rows)[1].SOPInstanceUID


@pytest.mark.parametrize(
    ("change", "message"),
    [({"settings_sha256": "f" * 64}, "measure again"), ({"segment": "spleen"}, "spleen")],
)
def test_rows_that_do_not_fit_are_refused(world, change, message):
    with pytest.raises(ValueError, match=message):
        build(world, [world[3][0] | change])


def stage(world, tmp_path, measured, failures=()):
    folder, case, settings, rows = world
    shutil.copytree(folder / "results", tmp_path / "results", dirs_exist_ok=True)
    write_parquet(tmp_path / "features.parquet", feature_table(rows))
    write_parquet(tmp_path / "failures.parquet", failure_table(failures))
    return document.run(
        cases=[case],
        measured=measured,
        settings=settings,
        features=tmp_path / "features.parquet",
        failures=tmp_path / "failures.parquet",
        results=tmp_path / "results",
        threads=1,
    )


def test_the_stage_writes_a_document_and_says_what_it_lacks(world, tmp_path):
    row = {"case_id": "case", "role": "CT", "segmentation": "organs", "message": "m"}
    failures = [
        {**row, "segment": "cyst", "feature": "*", "reason": Reason.EMPTY_SEGMENT.value},
        {
            **row,
            "segment": "kidney",
            "feature": "original_glcm_MCC",
            "reason": Reason.NOT_FINITE.value,
        },
        {
            **row,
            "case_id": "other",
            "segment": "x",
            "feature": "y",
            "reason": Reason.NOT_FINITE.value,
        },
    ]
    (outcome,) = stage(world, tmp_path, {("case", "organs")}, failures)
    assert outcome.status is Status.OK, outcome.message
    assert (outcome.stage, outcome.item) == ("document", "organs")
    assert outcome.outputs == ["sr/case/organs.dcm"]
    assert "cyst all (empty_segment), kidney original_glcm_MCC (not_finite)" in outcome.message
    assert "other" not in outcome.message
    report = highdicom.sr.srread(tmp_path / "results" / "sr" / "case" / "organs.dcm")
    assert len(report.content.get_volumetric_roi_measurement_groups()) == 3


def test_no_document_outlives_what_it_is_about(world, tmp_path):
    stage(world, tmp_path, {("case", "organs")})
    assert (tmp_path / "results" / "sr" / "case" / "organs.dcm").is_file()
    (outcome,) = stage(world, tmp_path, set())
    assert outcome.reason == Reason.DEPENDS_ON_FAILED
    assert not (tmp_path / "results" / "sr" / "case").exists()


def test_rows_in_parquet_keep_every_bit(world, tmp_path):
    stage(world, tmp_path, {("case", "organs")})
    table = pd.read_parquet(tmp_path / "features.parquet")
    assert table["original_firstorder_Mean"].tolist() == [
        row["original_firstorder_Mean"] for row in sorted(world[3], key=lambda r: r["segment"])
    ]
    report = highdicom.sr.srread(tmp_path / "results" / "sr" / "case" / "organs.dcm")
    found = report.content.get_volumetric_roi_measurement_groups()
    means = [read_back(group)["Q4LE", "IBSI", None] for group in found]
    assert means == [row["original_firstorder_Mean"] for row in world[3]]


def test_the_procedure_is_the_sources_where_it_says_one(world, tmp_path):
    folder, case, settings, rows = world
    headers = ct_datasets()
    stated = CodedConcept("CTABD", "99HOSPITAL", "CT abdomen")
    blank = CodedConcept("CTX", "99HOSPITAL", "x")
    blank.CodeMeaning = ""
    headers[0].ProcedureCodeSequence = [blank, stated]
    other = Case("case", "patient", "s0", {"CT": series_of(write(headers, tmp_path / "ct"))})
    for patient, expected in ((case, sr.PROCEDURES["CT"]), (other, stated)):
        stage((folder, patient, settings, rows), tmp_path, {("case", "organs")})
        path = tmp_path / "results" / "sr" / "case" / "organs.dcm"
        reported = [
            item.ConceptCodeSequence[0]
            for item in pydicom.dcmread(path).ContentSequence
            if item.ConceptNameCodeSequence[0].CodeValue == "121058"
        ]
        assert [code.CodeValue for code in reported] == [expected.value]
