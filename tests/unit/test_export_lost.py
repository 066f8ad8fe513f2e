"""What a PACS lists and does not give keeps back what hangs on it, and no export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from config_files import demo_protocol, loaded, site_of
from jipflow.export.stage import OUTCOMES, export
from jipflow.outcomes import Outcome, Status, read_outcomes, write_outcomes
from jipflow.phantom import dicom
from jipflow.phantom import grid as phantom
from jipflow.privacy.pseudonyms import pseudonym, site_secret
from jipflow.reasons import Reason, StageError
from jipflow.settings.run import write_settings
from series_factory import write

GRID = phantom.PhantomGrid((2, 4, 4), (5.0, 2.0, 2.0), (0.0, 0.0, 0.0))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of two cases of a PACS: of each a CT and a structure set."""
    results = tmp_path / "results" / "demo"
    (tmp_path / "archive").mkdir()
    settings = loaded(site_of(tmp_path / "archive"), demo_protocol(), tmp_path)
    secret = site_secret(Path(settings.site.identity.secret_file), results.parent)
    write_settings(results / "settings.json", settings)
    rows = []
    for case in ("a", "b"):
        images = list(dicom.ct_series(np.zeros(GRID.shape, np.int16), GRID))
        for image in images:
            image.PatientID, image.BodyPartExamined = case, "ABDOMEN"
            image.BurnedInAnnotation = "NO"
            image.SeriesInstanceUID += f".{ord(case)}"
        person = pseudonym(secret, "patient", case)
        uid = images[0].SeriesInstanceUID
        known = {"case_id": case, "patient": person, "shard": "s00001"}
        for path in write(images, tmp_path / "retrieved" / case):
            rows.append({**known, "role": "CT", "series_uid": uid, "modality": "CT", "path": path})
        drawn = tmp_path / "retrieved" / case / "drawn.dcm"
        more = {"series_uid": f"1.2.{ord(case)}", "modality": "RTSTRUCT", "path": drawn}
        rows.append({**known, "role": "", **more})
    shard = results / "cohort" / "shards" / "s00001.parquet"
    shard.parent.mkdir(parents=True)
    pd.DataFrame(rows).astype({"path": str}).to_parquet(shard)
    return results


def lose(results: Path, *items: tuple[str, str]) -> None:
    lost = [Outcome(c, "retrieve", i, Status.FAILED, Reason.NOT_RETRIEVED.value) for c, i in items]
    write_outcomes(results / "shards" / "s00001" / "retrieve" / "outcomes.parquet", lost)


def exported(results: Path) -> dict[tuple[str, str], str]:
    export(results=results, out=results.parents[1] / "given")
    found = read_outcomes(results / OUTCOMES)
    return {(each.case_id, each.item.split()[0]): each.reason for each in found}


def test_the_other_items_leave(results):
    (results.parents[1] / "retrieved" / "b" / "0000.dcm").unlink()
    lose(results, ("a", "annotations"), ("b", "annotations"), ("b", "CT"))
    reasons = exported(results)
    assert reasons == {
        ("a", "CT"): "",
        ("a", "RTSTRUCT"): "depends_on_failed",
        ("b", "CT"): "depends_on_failed",
        ("b", "RTSTRUCT"): "depends_on_failed",
    }
    left = [pydicom.dcmread(path) for path in (results.parents[1] / "given").rglob("*.dcm")]
    assert len(left) == GRID.shape[0]


def test_what_was_given_and_is_gone_is_a_fault_of_the_place(results):
    lose(results, ("b", "annotations"))
    with pytest.raises(StageError, match=r"a/drawn\.dcm: No such file"):
        exported(results)


def test_regions_that_may_outline_a_face_stay_where_an_image_was_not_given(results):
    retrieved = results.parents[1] / "retrieved"
    mask = np.zeros(GRID.shape, bool)
    mask[:, 1:3, 1:3] = True
    for case, name in (("a", "GTV"), ("b", "Face")):
        images = [pydicom.dcmread(path) for path in sorted((retrieved / case).glob("*.dcm"))]
        drawn = dicom.rtstruct({name: mask}, GRID, images)
        drawn.PatientID, drawn.SeriesInstanceUID = case, f"1.2.{ord(case)}"
        (retrieved / case / "drawn.dcm").write_bytes(dicom.to_bytes(drawn))
        (retrieved / case / "0001.dcm").unlink()
    lose(results, ("a", "CT"), ("b", "CT"))
    reasons = exported(results)
    assert reasons["a", "RTSTRUCT"] == ""
    assert reasons["b", "RTSTRUCT"] == "recognisable_face"
