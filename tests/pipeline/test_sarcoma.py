"""Fifteen real patients at three sites and the hub: CT and PET; MR at one of them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import highdicom
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from harness import approve_and_send, open_round, seg_errors, snakemake
from jipflow.images.volume import Volume

REFERENCE = {"sarcoma-ct": "CT", "sarcoma-mr": "MR_T1", "sarcoma-pet": "PET"}


@pytest.fixture(
    scope="module",
    params=[
        "sarcoma-ct",
        pytest.param("sarcoma-pet", marks=pytest.mark.long),
    ],
)
def round_of_three(request, sarcoma):
    """Run one protocol at the sites and merge at the hub."""
    protocol, folder = request.param, sarcoma.folder
    sites = sarcoma.run(protocol, *sarcoma.PATIENTS)
    hub = open_round(folder, protocol, list(sites.values()))
    for site in sites.values():
        approve_and_send(site, folder / f"inbox-{protocol}")
    snakemake("hub", "--configfile", str(hub))
    return protocol, sites, folder / "hub" / protocol / "rounds" / "r01"


def test_every_series_has_an_outcome_a_seg_and_features(round_of_three):
    _, sites, _ = round_of_three
    every_stage_is_ok(sites)


def test_the_encoded_masks_are_the_reference_masks(round_of_three, shared_data):
    protocol, sites, _ = round_of_three
    masks_are_the_reference(protocol, sites, shared_data)


@pytest.mark.long
def test_magnetic_resonance_at_a_site(sarcoma, shared_data):
    """Its stages take the longest; what the hub makes of it is what it makes of CT."""
    sites = sarcoma.run("sarcoma-mr", "ge")
    every_stage_is_ok(sites)
    masks_are_the_reference("sarcoma-mr", sites, shared_data)


def every_stage_is_ok(sites):
    segs = []
    for site in sites.values():
        outcomes = site.table("outcomes.parquet")
        assert set(outcomes["status"]) == {"ok"}
        assert outcomes["case_id"].nunique() == 5
        for stage in ("cohort", "prepare", "segment", "encode", "measure", "document", "overlay"):
            assert (outcomes["stage"] == stage).sum() == 5
        features = site.table("features/features.parquet")
        assert len(features) == 5
        assert features.filter(like="original_").shape[1] > 100
        assert features.filter(like="original_").notna().all(axis=None)
        assert site.table("features/failures.parquet").empty
        segs += sorted((site.out / "seg").rglob("*.dcm"))
    assert len(segs) == 5 * len(sites)
    assert seg_errors(segs) == []


def masks_are_the_reference(protocol, sites, shared_data):
    dice = {}
    for site in sites.values():
        for path in (site.out / "seg").rglob("*.dcm"):
            seg = highdicom.seg.segread(path)
            name = f"{REFERENCE[protocol]}.nii.gz"
            file = shared_data / "sarcoma" / "masks" / str(seg.PatientID) / name
            reference = Volume.from_image(sitk.ReadImage(str(file)))
            geometry = highdicom.VolumeGeometry(
                reference.grid.affine,
                reference.grid.shape,
                coordinate_system="PATIENT",
                frame_of_reference_uid=seg.FrameOfReferenceUID,
            )
            mask = seg.get_volume(combine_segments=False).match_geometry(geometry, tol=1e-3)
            one, other = mask.array[..., 0] > 0, reference.array > 0
            dice[str(seg.PatientID)] = 2 * (one & other).sum() / (one.sum() + other.sum())
    print(f"{protocol}: worst Dice against the reference masks {min(dice.values()):.6f}")
    assert len(dice) == 5 * len(sites)
    assert dice == dict.fromkeys(dice, 1.0)


def test_the_hub_gives_what_pooling_the_patients_gives(round_of_three):
    _, sites, hub = round_of_three
    pooled = pd.concat([site.table("features/features.parquet") for site in sites.values()])
    assert len(pooled) == 5 * len(sites)
    assert json.loads((hub / "rejected.json").read_text()) == []
    result = json.loads((hub / "result.json").read_text())
    (cells,) = [a["cells"] for a in result["analyses"] if a["kind"] == "summary"]
    assert len(cells) > 75
    for cell in cells:
        values = pooled[cell["feature"]].to_numpy()
        if cell["n"] != len(pooled):
            values = pd.concat(
                [sites[s].table("features/features.parquet") for s in cell["sites"]]
            )[cell["feature"]].to_numpy()
        assert cell["n"] == len(values)
        assert cell["mean"] == pytest.approx(values.mean(), rel=1e-9, abs=1e-12)
        assert cell["variance"] == pytest.approx(values.var(ddof=1), rel=1e-9, abs=1e-12)
    assert max(cell["n"] for cell in cells) == len(pooled)


def texts_of(path: Path) -> list[str]:
    """What stands in a file, or in each one of an archive, by name too; nothing in a folder."""
    if not zipfile.is_zipfile(path):
        return [path.read_text()] if path.is_file() else []
    with zipfile.ZipFile(path) as archive:
        return [*archive.namelist(), *(archive.read(name).decode() for name in archive.namelist())]


def test_nothing_of_a_patient_is_in_what_leaves(round_of_three, sarcoma):
    _, sites, hub = round_of_three
    for site in sites.values():
        cases = pd.read_csv(site.out / "cohort" / "cases.tsv", sep="\t", dtype=str)
        secret = {*cases["case_id"], *cases["patient"], *cases["series_uid"]}
        secret |= {f"STS_{n}" for n in sarcoma.PATIENTS[site.name]} | {str(site.folder)}
        leaving = [*(site.out / "release").rglob("*"), *hub.glob("*")]
        for path in leaving:
            for text in texts_of(path):
                assert not [word for word in secret if word in text], path
        values = site.table("features/features.parquet")["original_shape_MeshVolume"]
        text = (site.out / "release" / "r01" / "aggregates.json").read_text()
        assert not [v for v in values if repr(float(v)) in text]


def test_images_in_the_report_and_its_size(round_of_three):
    _, sites, _ = round_of_three
    for site in sites.values():
        page = (site.out / "report" / "index.html").read_text()
        assert page.count("data:image/webp;base64,") == 5
        assert "http://" not in page.replace("http://www.w3.org", "")
        assert len(page) < 5_000_000
        assert np.all([case in page for case in site.table("outcomes.parquet")["case_id"]])
