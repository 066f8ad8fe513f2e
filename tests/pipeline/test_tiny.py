"""The whole line on the synthetic cohort: what is sound comes through, what is not is named."""

from __future__ import annotations

import json
import os
import re

import highdicom
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import yaml

from harness import seg_errors, snakemake
from jipflow.files import sha256_file
from jipflow.images.volume import Volume
from jipflow.reasons import Reason
from jipflow.settings.resources import PROTOCOLS

STAGES = {"cohort", "prepare", "segment", "encode", "measure", "document", "overlay"}


@pytest.fixture(scope="module")
def truth(phantom_site):
    return json.loads((phantom_site / "truth" / "truth.json").read_text())


def cases_by_series(site):
    table = pd.read_csv(site.out / "cohort" / "cases.tsv", sep="\t", dtype=str)
    return {row.series_uid: (row.case_id, row.role) for row in table.itertuples()}


def test_every_file_is_counted(tiny_run, phantom_site):
    summary = json.loads((tiny_run.results / "catalog" / "summary.json").read_text())
    files = sum(len(names) for _, _, names in os.walk(phantom_site / "dicom"))
    assert summary["files"] == files
    assert summary["not_dicom"] == 1
    assert summary["unreadable"] == 1


def test_every_planted_defect_has_its_reason_and_nothing_else_failed(tiny_run, truth):
    outcomes = tiny_run.table("outcomes.parquet")
    series = cases_by_series(tiny_run)
    failed = outcomes[(outcomes["stage"] == "prepare") & (outcomes["status"] == "failed")]
    found = {(row.case_id, row.item): row.reason for row in failed.itertuples()}
    planted = {
        series[defect["series_uid"]]: defect["reason"]
        for defect in truth["defects"]
        if defect["level"] == "series"
    }
    assert found == planted
    assert len(planted) == 5
    assert set(outcomes["reason"]) - {""} <= {reason.value for reason in Reason}


def test_no_case_vanishes(tiny_run):
    outcomes = tiny_run.table("outcomes.parquet")
    series = cases_by_series(tiny_run)
    entered = {case for case, _ in series.values()}
    assert len(entered) == 10
    for stage in STAGES - {"overlay"}:
        assert set(outcomes[outcomes["stage"] == stage]["case_id"]) == entered, stage
    # Who failed at prepare is reported as blocked later, not forgotten.
    prepared = outcomes[outcomes["stage"] == "prepare"].set_index(["case_id", "item"])["status"]
    segmented = outcomes[outcomes["stage"] == "segment"].set_index(["case_id", "item"])
    for (case, role), status in prepared.items():
        item = {"CT": "organs", "PT": "gtv"}[role]
        assert (segmented.loc[(case, item), "status"] == "ok") == (status == "ok")
        if status != "ok":
            assert segmented.loc[(case, item), "reason"] == "depends_on_failed"
    verdict = json.loads((tiny_run.out / "verdict.json").read_text())
    assert (verdict["cases"], verdict["ok"], verdict["failed"]) == (10, 5, 5)


def mask_on(seg, number, reference):
    geometry = highdicom.VolumeGeometry(
        reference.grid.affine,
        reference.grid.shape,
        coordinate_system="PATIENT",
        frame_of_reference_uid=seg.FrameOfReferenceUID,
    )
    volume = seg.get_volume(segment_numbers=[number], combine_segments=False)
    return volume.match_geometry(geometry, tol=1e-2).array[..., 0] > 0


def test_segmentations_are_the_truth(tiny_run, phantom_site, truth):
    scores = {name: [] for name in truth["labels"] if name != "background"}
    imported = 0
    for path in sorted((tiny_run.out / "seg").rglob("*.dcm")):
        seg = highdicom.seg.segread(path)
        modality = {"organs": "CT", "gtv": "PT"}[path.stem]
        file = phantom_site / "truth" / f"{seg.PatientID}_{modality}.nii.gz"
        reference = Volume.from_image(sitk.ReadImage(str(file)))
        for item in seg.SegmentSequence:
            found = mask_on(seg, item.SegmentNumber, reference)
            if modality == "PT":
                np.testing.assert_array_equal(found, reference.array > 0)
                imported += 1
            else:
                true = reference.array == truth["labels"][item.SegmentLabel]
                scores[item.SegmentLabel].append(
                    2 * (found & true).sum() / (found.sum() + true.sum())
                )
    assert imported == 9
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    print("Dice of the demo model on the tiny cohort:", {k: round(v, 3) for k, v in means.items()})
    assert all(len(values) == 6 for values in scores.values())
    assert np.mean(list(means.values())) >= 0.90


def test_dicom_seg_is_valid(tiny_run):
    paths = sorted((tiny_run.out / "seg").rglob("*.dcm"))
    assert len(paths) == 15
    assert seg_errors(paths) == []


def test_outcomes_list_their_files_with_hashes(tiny_run):
    outcomes = tiny_run.table("outcomes.parquet")
    listed = {}
    for row in outcomes.itertuples():
        listed |= dict(zip(row.outputs, row.sha256, strict=True))
    made = {
        str(path.relative_to(tiny_run.out))
        for folder in ("seg", "sr", "overlays")
        for path in (tiny_run.out / folder).rglob("*.*")
    }
    assert set(listed) == made
    assert all(sha256_file(tiny_run.out / name) == digest for name, digest in listed.items())


def test_features_are_there_and_volumes_are_true(tiny_run, truth):
    features = tiny_run.table("features/features.parquet")
    assert set(features["segment"]) == {"liver", "spleen", "kidney", "lesion", "gtv"}
    assert (features[features["segment"] == "liver"]["volume_ml"] > 500).all()
    null = 0
    for _, rows in features.groupby("segmentation"):
        # What its settings do not ask for, a whole segmentation has not.
        asked = rows.filter(like="original_").dropna(axis=1, how="all")
        assert asked.shape[1] > 160
        null += int(asked.isna().sum().sum())
    failures = tiny_run.table("features/failures.parquet")
    named = failures[failures["feature"] != "*"]
    assert null == len(named)


def test_intermediates_are_gone_and_nothing_partial_is_left(tiny_run):
    assert not list((tiny_run.out / "work").rglob("*.nrrd"))
    assert not list(tiny_run.results.rglob(".partial-*"))


def test_logs_hold_no_patient_name_but_in_the_path_of_a_file(tiny_run, phantom_site, truth):
    names = {patient["patient_id"] for patient in truth["patients"]} | {"Phantom^"}
    logs = [*(tiny_run.out / "logs").rglob("*.log"), tiny_run.results / "catalog" / "catalog.log"]
    assert len(logs) > 10
    for path in logs:
        # This archive's folders are named after patients, and a message names its file.
        text = re.sub(rf"{re.escape(str(phantom_site / 'dicom'))}\S*", "", path.read_text())
        assert not [name for name in names if name in text], path


def test_a_second_run_does_nothing(tiny_run):
    result = tiny_run.run("--dry-run")
    assert "Nothing to be done" in result.stdout


def test_a_catalog_of_which_a_file_is_cut_off_is_made_again(tiny_run):
    """A file whose length is recorded is; `hashes` and `headers` only save the next one work."""
    folder = tiny_run.results / "catalog"
    record = json.loads((folder / "provenance.json").read_text())
    own = {"catalog.log", "cost.tsv", "provenance.json", "hashes.parquet", "headers.parquet"}
    assert {*record["sizes"], *own} == {path.name for path in folder.iterdir()}


def planned_rules(arguments):
    stats = snakemake("--dry-run", *arguments).stdout.split("Job stats:")[1].split("\n\n")[0]
    return {line.split()[0] for line in stats.splitlines()[3:]}


def test_stages_side_by_side_count_for_half_of_the_cores_each(tiny_run):
    asked = ("--dry-run", "--cores", "16", "--forcerun", "prepare")
    planned = tiny_run.run(*asked, profile="local").stdout
    jobs = [job for job in re.split(r"^\[", planned, flags=re.M) if "rule measure:" in job]
    assert len(jobs) == 2
    assert {re.search(r"threads: (\d+)", job)[1] for job in jobs} == {"8"}


def test_another_protocol_uses_the_same_catalog(tiny_run):
    arguments = [a.replace("protocol=demo", "protocol=sarcoma-pet") for a in tiny_run.arguments]
    rules = planned_rules(arguments)
    assert "cohort" in rules
    assert "catalog" not in rules


def test_a_change_of_radiomics_reruns_just_what_depends_on_it(tiny_run, tmp_path):
    protocol = yaml.safe_load((PROTOCOLS / "demo.yaml").read_text())
    protocol["radiomics"][0]["settings"] = "ibsi_ct"
    path = tmp_path / "demo.yaml"
    path.write_text(yaml.safe_dump(protocol))
    arguments = [a.replace("protocol=demo", f"protocol={path}") for a in tiny_run.arguments]
    rules = planned_rules(arguments)
    assert "measure" in rules
    assert not rules & {"catalog", "cohort"}
