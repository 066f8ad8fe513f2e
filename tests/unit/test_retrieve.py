"""What a PACS sends is of the patient of whom it listed the series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hostile_pacs import INSTANCE, MULTIPART, SERIES, STUDY, file_of, multipart, serving
from jipflow.catalog.cohort import SHARD_SCHEMA
from jipflow.outcomes import Outcome, Status
from jipflow.pacs.retrieve import run
from jipflow.privacy.pseudonyms import pseudonym, site_secret
from jipflow.reasons import StageError
from jipflow.settings.run import Settings, load_settings


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no slice of the patient is asked for again, at once."""
    monkeypatch.setattr("jipflow.pacs.retrieve.PAUSES", (0.0, 0.0))


def settings_at(url: str, folder: Path) -> Settings:
    return load_settings(
        {
            "site": {"id": "north", "name": "North"},
            "sources": [{"name": "pacs", "kind": "dicomweb", "url": url, "timeout": 5}],
            "identity": {"secret_file": str(folder / "secret" / "identity.key")},
            "protocol": "sarcoma-ct",
        }
    )


def retrieved(folder: Path, file: bytes, listed: str = "DOE", secret: bool = True) -> Outcome:
    """Retrieve an instance that the PACS listed for a patient, and send a file for it."""

    def answer(request: Any) -> None:
        request.whole(multipart(file), MULTIPART)

    key = folder / "secret" / "identity.key"
    patient = pseudonym(site_secret(key, folder), "patient", listed)
    path = folder / "store" / "pacs" / SERIES / f"{INSTANCE}.dcm"
    row = dict.fromkeys(SHARD_SCHEMA.names, "") | {
        "case_id": "case1",
        "patient": patient,
        "role": "CT",
        "series_uid": SERIES,
        "study_uid": STUDY,
        "source": "pacs",
        "sop_uid": INSTANCE,
        "path": str(path),
    }
    pd.DataFrame([row]).to_parquet(folder / "shard.parquet")
    if not secret:
        key.unlink()
    with serving(answer) as server:
        settings = settings_at(server.url, folder)
        (outcome,) = run(shard_file=folder / "shard.parquet", settings=settings)
    assert path.is_file() == (outcome.status is Status.OK)
    return outcome


@pytest.mark.parametrize(
    ("listed", "sent"),
    [("DOE", "DOE"), ("DOE", "DOE "), ("DOE", ""), ("DOE", None), ("MÜLLER", "MU\u0308LLER")],
)
def test_a_file_of_the_patient_or_of_none_is_kept(
    tmp_path: Path, listed: str, sent: str | None
) -> None:
    outcome = retrieved(
        tmp_path, file_of(SpecificCharacterSet="ISO_IR 192", PatientID=sent), listed
    )
    assert outcome.status is Status.OK, outcome.message


@pytest.mark.parametrize("sent", ["ROE", "DOE1", "doe", " ROE"])
def test_a_file_of_another_patient_is_not(tmp_path: Path, sent: str) -> None:
    """It would have been measured, and written into a DICOM-SEG of the other's name."""
    outcome = retrieved(tmp_path, file_of(PatientID=sent))
    assert (outcome.status, outcome.reason) == (Status.FAILED, "not_retrieved")
    assert "it is of another patient than the PACS listed it for" in outcome.message
    assert sent.strip() not in outcome.message


def test_without_the_secret_nobody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"identity\.key is missing: restore it"):
        retrieved(tmp_path, file_of(), secret=False)
