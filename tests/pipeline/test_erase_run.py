"""A patient of a finished run is erased, and the next run does not bring the patient back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import yaml

from harness import ONE_CORE, jipflow
from jipflow.erasure.marks import find_marks
from jipflow.files import read_json
from jipflow.privacy.pseudonyms import known_secret
from jipflow.privacy.search import search


def test_an_erased_patient_stays_away(tiny_run, tmp_path):
    site = replace(tiny_run, folder=tmp_path, results=tmp_path / "results")
    shutil.copytree(tiny_run.results, site.results)
    shutil.copytree(tiny_run.folder / "secrets", tmp_path / "secrets")
    content = yaml.safe_load(tiny_run.configfile.read_text())
    identity = content["identity"]
    for key, path in identity.items():
        identity[key] = str(tmp_path / "secrets" / Path(path).name)
    site.configfile.write_text(yaml.safe_dump(content))
    series = pd.read_parquet(site.results / "catalog" / "series.parquet")
    cases = pd.read_csv(site.out / "cohort" / "cases.tsv", sep="\t", dtype=str)
    gone = cases[cases["shard"] == "s00002"].iloc[0]
    (patient,) = series[series["SeriesInstanceUID"] == gone["series_uid"]]["PatientID"]
    secret = known_secret(Path(identity["secret_file"]))
    tokens = find_marks(site.results, {patient}, secret).tokens()
    assert len({hit.path for hit in search([site.results], tokens).hits}) > 20
    (tmp_path / "patients.txt").write_text(patient)
    typed = ("erase", str(tmp_path / "patients.txt"), "--configfile", str(site.configfile))
    printed = jipflow(*typed, "--results", str(site.results)).stdout
    assert printed.endswith("nothing that names the patients is left\n")
    assert patient not in printed
    site.run("--until", "cohort", *ONE_CORE)
    assert not search([site.results], tokens).hits
    assert read_json(site.results / "catalog" / "summary.json")["erased"] > 40
    after = pd.read_csv(site.out / "cohort" / "cases.tsv", sep="\t", dtype=str)
    pd.testing.assert_frame_equal(
        after, cases[cases["case_id"] != gone["case_id"]].reset_index(drop=True)
    )
    # The cases that shared no shard with the patient are not computed again.
    assert (site.out / "shards" / "s00001" / "measure" / "provenance.json").is_file()
    assert not (site.out / "shards" / "s00002" / "measure" / "provenance.json").exists()
