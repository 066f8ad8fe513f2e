"""Who was erased does not come back, whatever lies in the sources, and is named nowhere."""

from __future__ import annotations

import stat

import pandas as pd
import pytest

from jipflow.catalog import scan
from jipflow.phantom.cohort import write_site
from jipflow.privacy.erased import KEPT, NAME, add_erased, erased_state, read_erased
from jipflow.privacy.pseudonyms import site_secret
from jipflow.privacy.search import search
from jipflow.reasons import StageError
from jipflow.settings.site import Folder, Identity


@pytest.fixture
def identity(tmp_path):
    found = Identity(
        secret_file=str(tmp_path / "secrets" / "identity.key"),
        ledger_folder=str(tmp_path / "secrets" / "ledger"),
    )
    site_secret(tmp_path / "secrets" / "identity.key", tmp_path)
    return found


def test_the_list_has_keyed_hashes_alone(identity, tmp_path):
    assert "ANNA" not in read_erased(identity, tmp_path)
    assert erased_state(identity, tmp_path) == ""
    add_erased(identity, tmp_path, ["ANNA-0001", " BERT "])
    once = erased_state(identity, tmp_path)
    add_erased(identity, tmp_path, ["ANNA-0001"])
    erased = read_erased(identity, tmp_path)
    assert [p in erased for p in ("ANNA-0001 ", "BERT", "CARL", "", None)] == [
        *(True, True, False, False, False)
    ]
    assert len(erased.hashes) == 2
    assert erased_state(identity, tmp_path) == once != ""
    path = tmp_path / "secrets" / "ledger" / NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not search([tmp_path], {"patient": "ANNA-0001", "other": "BERT"}).hits


@pytest.mark.parametrize("damage", ["gone", "shortened", "changed", "kept", "cut", "marked"])
def test_a_list_that_is_lost_lets_nobody_back(identity, tmp_path, damage):
    add_erased(identity, tmp_path, ["A", "B"])
    path = tmp_path / "secrets" / "ledger" / NAME
    lines = path.read_text().splitlines(keepends=True)
    if damage == "gone":
        path.unlink()
    elif damage == "kept":
        (tmp_path / KEPT).write_text("{")
    elif damage in ("cut", "marked"):
        # New results do not know how long the list was.
        (tmp_path / KEPT).unlink()
        path.write_bytes(
            path.read_bytes()[:-3] if damage == "cut" else b"\xef\xbb\xbf" + path.read_bytes()
        )
    else:
        path.write_text(lines[0] if damage == "shortened" else "".join(lines[::-1]))
    with pytest.raises(StageError, match=r"restore it|Restore it"):
        read_erased(identity, tmp_path)
    assert erased_state(identity, tmp_path) == ""


def test_another_secret_does_not_empty_the_list(identity, tmp_path):
    add_erased(identity, tmp_path, ["A"])
    (tmp_path / "secrets" / "identity.key").unlink()
    with pytest.raises(StageError, match="restore it"):
        read_erased(identity, tmp_path)


def test_no_table_of_the_catalog_has_a_patient_who_was_erased(identity, tmp_path):
    write_site(tmp_path / "archive", "north", 2, 7, defects=False, pet=False)
    catalog = tmp_path / "catalog"
    sources = [Folder(name="a", kind="folder", path=str(tmp_path / "archive" / "dicom"))]
    before = scan.run(sources=sources, out_dir=catalog, threads=1)
    series = pd.read_parquet(catalog / "series.parquet")
    gone, stays = sorted(set(series["PatientID"]))
    for patient in (gone, stays):
        for name in (patient, f"CT_{patient} 2020", f"({patient})"):
            folder = tmp_path / "archive" / "dicom" / name
            folder.mkdir(exist_ok=True)
            (folder / "notes.txt").write_text("no image")
        (tmp_path / "archive" / "dicom" / f"{patient}.txt").write_text("no image")
    before = scan.run(sources=sources, out_dir=catalog, threads=1)
    add_erased(identity, tmp_path, [gone])
    after = scan.run(
        sources=sources, out_dir=catalog, threads=1, erased=read_erased(identity, tmp_path)
    )
    assert set(pd.read_parquet(catalog / "series.parquet")["PatientID"]) == {stays}
    assert after["patients"] == 1
    # A file without a header is of whom its folder is named after.
    skipped = pd.read_parquet(catalog / "skipped.parquet")["path"]
    assert sum(stays in path for path in skipped) == 4
    assert not any(gone in path for path in skipped)
    assert before["erased"] == 0
    assert after["erased"] == before["files"] - after["files"] > 0
    tokens = {uid: uid for uid in series[series["PatientID"] == gone]["SeriesInstanceUID"]}
    assert not search([catalog], {"patient": gone, **tokens}).hits
