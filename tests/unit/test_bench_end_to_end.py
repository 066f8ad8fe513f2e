"""The scripts of benchmarks/end_to_end.py do what jipflow does: patients, masks, values."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "scripts"))
import network

import end_to_end
from end_to_end import MEAN, VOLUME, VOXELS, furthest
from end_to_end_cohorts import (
    PATIENTS,
    WORKS,
    parameters_of,
    protocol_of,
    radiomics_of,
    write_patients,
)
from jipflow.cases import Series
from jipflow.images.series import read_series_volume
from jipflow.phantom.cohort import write_site
from jipflow.radiomics.extract import Part, extract
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.run import settings_of
from jipflow.settings.schema import load
from report import measure

SCRIPTS = ["contours.py", *(["contours.sh"] if shutil.which("plastimatch") else [])]
SITE = {
    "site": {"id": "benchmark", "name": "Benchmark"},
    "sources": [{"name": "archive", "kind": "folder", "path": "."}],
}


def test_pyradiomics_is_given_the_grid_the_range_and_the_bins_of_the_settings():
    ct = parameters_of(radiomics_of(WORKS["ct"], alike=True))
    assert (
        ct["setting"].items()
        >= {
            "resampledPixelSpacing": [1, 1, 1],
            "interpolator": "sitkBSpline",
            "resegmentRange": [-200, 200],
            "binWidth": 10,
        }.items()
    )
    assert parameters_of(radiomics_of(WORKS["pet"], alike=True))["setting"]["resegmentRange"] == [0]
    filters = parameters_of(radiomics_of(WORKS["filters"], alike=True))
    assert list(filters["imageType"]) == ["Original", "LoG", "Wavelet"]
    assert "resampledPixelSpacing" not in filters["setting"]


@pytest.mark.parametrize("name", WORKS)
def test_a_protocol_measures_what_pyradiomics_has_without_stability(name):
    for alike, number in ((True, 107), (False, None)):
        settings = settings_of(SITE, protocol_of(WORKS[name], alike=alike))
        (radiomics,) = settings.plain()["protocol"]["radiomics"]
        assert "stability" not in radiomics
        chosen = radiomics["settings"]["featureClass"]
        assert number in (None, sum(map(len, chosen.values())))


def test_repeated_patients_share_no_name_and_no_uid(shared_data, tmp_path):
    write_patients(WORKS["pet"], 13, tmp_path / "dicom")
    found = {}
    for folder in (PATIENTS[0], f"{PATIENTS[0]}_001"):
        image = [pydicom.dcmread(p) for p in (tmp_path / "dicom" / folder / "image").iterdir()]
        (mask,) = [pydicom.dcmread(p) for p in (tmp_path / "dicom" / folder / "mask").iterdir()]
        series = {slice_.SeriesInstanceUID for slice_ in image}
        uids = {slice_.SOPInstanceUID for slice_ in image}
        assert len(series) == 1
        assert len(uids) == len(image)
        assert {item.PatientID for item in (*image, mask)} == {folder}
        frame = mask.ReferencedFrameOfReferenceSequence[0]
        assert frame.FrameOfReferenceUID == image[0].FrameOfReferenceUID
        study = frame.RTReferencedStudySequence[0]
        assert {item.SeriesInstanceUID for item in study.RTReferencedSeriesSequence} == series
        assert mask.StudyInstanceUID == image[0].StudyInstanceUID
        found[folder] = uids | series | {mask.StudyInstanceUID, mask.SOPInstanceUID}
    assert not set.intersection(*found.values())
    assert len(list((tmp_path / "dicom").iterdir())) == 13


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_has_the_mask_of_the_collection_and_the_values_of_jipflow(
    script, shared_data, tmp_path, monkeypatch
):
    work, patient = WORKS["pet"], "STS_019"
    files = shared_data / "sarcoma" / patient / "PET"
    shutil.copytree(files, tmp_path / "dicom" / patient)
    plain = radiomics_of(work, alike=True)
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text(yaml.safe_dump(parameters_of(plain)))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    out = tmp_path / "out"
    start = "bash" if script.endswith("sh") else sys.executable
    words = [tmp_path / "dicom", parameters, out, "1"]
    subprocess.run([start, end_to_end.SCRIPTS / script, *words], check=True)
    label = sitk.ReadImage(str(shared_data / "sarcoma" / "masks" / patient / "PET.nii.gz"))
    mask = sitk.GetArrayFromImage(label) > 0
    bench = object.__new__(end_to_end.Bench)
    bench.number = 1
    table = bench.features(out)
    volume = read_series_volume(Series("1", "PT", tuple(sorted((files / "image").iterdir()))))
    (found,) = extract(volume, [Part(mask)], load(Radiomics, plain, "settings"))
    ours = pd.DataFrame([found.values | {VOXELS: int(mask.sum())}], index=table.index)
    assert {*ours.columns} == {*table.columns}
    assert len(table.columns) == 108
    assert furthest(table, ours) < 0.05
    (seg,) = (out / "seg").iterdir()
    assert end_to_end.read_seg(seg) == (patient, {"gtv": int(mask.sum())})


def test_other_masks_and_other_values_are_noticed():
    index = pd.MultiIndex.from_tuples([("a", "gtv")], names=["ID", "segment"])
    ours = pd.DataFrame({VOXELS: [10], VOLUME: [100.0], MEAN: [5.0]}, index=index)
    assert furthest(ours.assign(**{MEAN: 5.1}), ours) == pytest.approx(0.02)
    with pytest.raises(AssertionError, match="other masks"):
        furthest(ours.assign(**{VOXELS: 9}), ours)
    with pytest.raises(AssertionError, match="apart"):
        furthest(ours.assign(**{VOLUME: 130.0}), ours)
    with pytest.raises(AssertionError, match="other regions"):
        furthest(ours.iloc[:0], ours)


def test_the_script_of_the_network_chooses_the_series_that_the_protocol_chooses(tmp_path):
    write_site(tmp_path, "north", 2, 1, defects=False)
    files = [path for path in (tmp_path / "dicom").rglob("*") if path.is_file()]
    chosen = {found for found in map(network.read_header, files) if found}
    truth = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert {uid for _, _, uid in chosen} == {
        patient["CT"]["series_uid"] for patient in truth["patients"]
    }


def test_what_a_process_that_outlives_its_parent_costs_is_counted():
    busy = "sum(range(10 ** 7)); open('/dev/null', 'w').write('.' * 2 ** 20)"
    cost = measure(["/bin/sh", "-c", f'("{sys.executable}" -c "{busy}" > /dev/null &)'])
    assert cost.processor_seconds > 0.05
    assert np.isfinite(cost.written_mb)
