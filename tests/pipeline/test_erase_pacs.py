"""What a site has published of a patient is deleted in its PACS, and nothing else there is."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
import yaml

from harness import Site
from jipflow.cli import main
from jipflow.erasure import published as deletion
from jipflow.erasure.erase import JOURNAL
from jipflow.outcomes import Outcome, Status, read_outcomes
from jipflow.pacs import publish
from jipflow.settings.run import load_settings
from orthanc import Orthanc, private_network

GONE, STAYS = "Q7", "Äß-4"
REJECT = """
function OnStoredInstance(instance, tags)
  if tags["Modality"] == "KO" then
    local note = ParseJson(RestApiGet("/instances/" .. instance .. "/simplified-tags"))
    assert(note["ConceptNameCodeSequence"][1]["CodeValue"] == "113039")
    for _, study in ipairs(note["CurrentRequestedProcedureEvidenceSequence"]) do
      for _, series in ipairs(study["ReferencedSeriesSequence"]) do
        for _, object in ipairs(series["ReferencedSOPSequence"]) do
          local uid = object["ReferencedSOPInstanceUID"]
          for _, found in ipairs(ParseJson(RestApiPost("/tools/lookup", uid))) do
            RestApiDelete(found["Path"])
          end
        end
      end
    end
  end
end
"""
"""An archive that does what a rejection note asks for."""


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[None]:
    with private_network():
        yield


@pytest.fixture
def pacs(tmp_path: Path, two_patients: Path) -> Callable[..., Orthanc]:
    """Makes a PACS that holds the patients' images, and that may take rejection notes."""

    def make(rejects: bool = False) -> Orthanc:
        script = tmp_path / "reject.lua"
        script.write_text(REJECT)
        options = {"LuaScripts": [str(script)]} if rejects else {}
        return Orthanc(tmp_path / "pacs", modalities={"JIPFLOW": 1}, options=options)

    return make


class World:
    """A copy of a finished run, whose site publishes to a PACS."""

    def __init__(self, run: Site, folder: Path, orthanc: Orthanc, way: str, by: Any) -> None:
        self.orthanc, self.folder, self.results = orthanc, folder, folder / "results"
        shutil.copytree(run.results, self.results)
        shutil.copytree(run.folder / "site-secrets", folder / "secrets")
        content = yaml.safe_load(run.configfile.read_text())
        for key, path in content["identity"].items():
            content["identity"][key] = str(folder / "secrets" / Path(path).name)
        source = {"name": "pacs", "kind": way, "timeout": 5, **({"deletion": by} if by else {})}
        if way == "dicomweb":
            source |= {"url": orthanc.url}
        else:
            source |= {"host": orthanc.host, "port": orthanc.port, "called_aet": orthanc.aet}
            source |= {"calling_aet": "JIPFLOW"}
        content |= {"sources": [*content["sources"], source], "publish": {"to": "pacs"}}
        self.content, self.config = content, folder / "site.yaml"
        self.config.write_text(yaml.safe_dump(content))
        self.out = self.results / run.protocol
        self.settings = load_settings({**content, "protocol": str(run.protocol_file)})
        self.journal = folder / "secrets" / "ledger" / JOURNAL
        (folder / "patients.txt").write_text(GONE)

    def publish(self) -> list[Outcome]:
        """Send what the run made, each shard's."""
        outcomes = []
        for shard in sorted((self.out / "shards").iterdir()):
            made = [
                outcome
                for stage in ("encode", "document")
                for outcome in read_outcomes(shard / stage / "outcomes.parquet")
            ]
            outcomes += publish.run(
                made=made,
                settings=self.settings,
                results=self.out,
                receipts=self.out / "published" / f"{shard.name}.jsonl",
            )
        assert {outcome.status for outcome in outcomes} == {Status.OK}
        return outcomes

    def erase(self) -> int:
        typed = [str(self.folder / "patients.txt"), "--configfile", str(self.config)]
        return main(["erase", *typed, "--results", str(self.results)])

    def held(self) -> dict[str, set[str]]:
        """The SOPInstanceUIDs that the PACS has of each patient."""
        found: dict[str, set[str]] = {}
        for each in self.orthanc.get("/instances?expand").json():
            tags = self.orthanc.get(f"/instances/{each['ID']}/simplified-tags").json()
            if tags["Modality"] != "KO":
                found.setdefault(tags["PatientID"], set()).add(tags["SOPInstanceUID"])
        return found


@contextmanager
def world(
    run: Site, images: Path, folder: Path, orthanc: Orthanc, way: str, by: Any = None
) -> Iterator[World]:
    """A PACS with the patients' images and what was published of them."""
    with orthanc:
        orthanc.upload(sorted(images.rglob("*.dcm")))
        made = World(run, folder, orthanc, way, by)
        before = made.held()
        made.publish()
        assert {patient: len(uids - before[patient]) for patient, uids in made.held().items()} == {
            GONE: 2,
            STAYS: 2,
        }
        yield made


class Deleting(BaseHTTPRequestHandler):
    """DICOMweb services that delete, as Debian's Orthanc does not, before one that keeps."""

    protocol_version = "HTTP/1.1"
    pacs: Orthanc
    asked: list[str]

    def do_DELETE(self) -> None:
        self.asked.append(self.path)
        pattern = r"/dicom-web/studies/[0-9.]+/series/[0-9.]+/instances/([0-9.]+)"
        uid = re.fullmatch(pattern, self.path)
        found = self.pacs.post("/tools/lookup", uid[1]).json() if uid else []
        for each in found:
            requests.delete(self.pacs.base + each["Path"], timeout=10).raise_for_status()
        self.send_response(204 if found else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def deleting(orthanc: Orthanc) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Deleting,), {"pacs": orthanc, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/dicom-web", asked
        server.shutdown()


@pytest.mark.parametrize("way", ["dicomweb", "dimse"])
@pytest.mark.parametrize("by", ["orthanc", "rejection_note", "dicomweb"])
def test_what_was_published_of_the_patient_is_deleted_and_nothing_else(
    way, by, contours_run, two_patients, pacs, tmp_path, capsys
):
    orthanc = pacs(rejects=by == "rejection_note")
    with deleting(orthanc) as (url, asked):
        where = {"orthanc": {"url": orthanc.base}, "dicomweb": {"url": url}}
        how = {"by": by, **where.get(by, {})}
        with world(contours_run, two_patients, tmp_path, orthanc, way, how) as made:
            before = made.held()
            saved = tmp_path / "saved"
            shutil.copytree(made.results, saved)
            assert made.erase() == 0
            printed = capsys.readouterr()
            assert "deleted in the PACS pacs, which lists none of them: 2 objects" in printed.out
            assert printed.out.endswith("nothing that names the patients is left\n")
            assert printed.err == ""
            after = made.held()
            assert after[STAYS] == before[STAYS]
            images = {
                str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
                for path in two_patients.rglob("*.dcm")
            }
            assert after[GONE] == before[GONE] & images
            assert len(asked) == (2 if by == "dicomweb" else 0)
            assert not made.journal.exists()

            # Whoever brings the results back from a backup does not publish the patient.
            shutil.rmtree(made.results)
            saved.rename(made.results)
            shutil.rmtree(made.out / "published")
            assert sum("who was erased" in each.message for each in made.publish()) == 1
            assert made.held() == after


def test_a_pacs_that_deletes_nothing_is_no_end_of_the_erasure(
    contours_run, two_patients, pacs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(deletion, "LISTED_AFTER", (0, 0.1))
    # Debian's Orthanc knows no DELETE by DICOMweb.
    orthanc = pacs()
    with world(
        contours_run, two_patients, tmp_path, orthanc, "dicomweb", {"by": "dicomweb"}
    ) as made:
        before = made.held()
        assert made.erase() == 1
        printed = capsys.readouterr()
        (line, _) = [line for line in printed.out.splitlines() if line.startswith("still in")]
        assert line.endswith("the deletion of an object failed: HTTP status 405.")
        assert "still in a PACS: 2 objects of the patients" in printed.err
        assert "nothing that names" not in printed.out
        assert made.held() == before
        assert made.journal.stat().st_mode & 0o077 == 0
        assert not list((made.out / "seg").rglob("*.dcm"))[1:]

        # It takes a rejection note as any object and does not do what it says.
        made.content["sources"][-1]["deletion"] = {"by": "rejection_note"}
        made.config.write_text(yaml.safe_dump(made.content))
        assert made.erase() == 1
        assert "took the deletion" in capsys.readouterr().out
        assert made.held() == before

        # The PACS is down, and then it is there, and its administrator has deleted one by hand.
        made.content["sources"][-1]["deletion"] = {"by": "orthanc", "url": orthanc.base}
        made.config.write_text(yaml.safe_dump(made.content))
        orthanc.stop()
        assert made.erase() == 1
        assert "still in the PACS pacs" in capsys.readouterr().out
        orthanc.start()
        uid = line.split(": ")[1]
        (found,) = [e for e in orthanc.post("/tools/lookup", uid).json() if e["Type"] == "Instance"]
        orthanc.session.delete(orthanc.base + found["Path"]).raise_for_status()
        assert made.erase() == 0
        assert "which lists none of them: 2 objects" in capsys.readouterr().out
        assert len(before[GONE] - made.held()[GONE]) == 2
        assert not made.journal.exists()


def test_without_a_way_to_delete_the_steward_gets_a_list(
    contours_run, two_patients, pacs, tmp_path, capsys
):
    with world(contours_run, two_patients, tmp_path, pacs(), "dicomweb") as made:
        before = made.held()
        assert made.erase() == 0
        printed = capsys.readouterr().out
        assert printed.count("sent to the PACS pacs, have it deleted there: 2.25.") == 2
        assert made.held() == before


@pytest.mark.parametrize("way", ["dicomweb", "dimse"])
def test_an_image_of_the_hospital_is_never_deleted_whatever_receipts_say(
    way, contours_run, two_patients, pacs, tmp_path, capsys
):
    orthanc = pacs()
    how = {"by": "orthanc", "url": orthanc.base}
    with world(contours_run, two_patients, tmp_path, orthanc, way, how) as made:
        before = made.held()
        (receipts,) = (
            path
            for path in (made.out / "published").glob("*.jsonl")
            if all(line["sop_instance_uid"] in before[GONE] for line in lines_of(path))
        )
        image = next(
            header
            for path in sorted(two_patients.rglob("*.dcm"))
            for header in [pydicom.dcmread(path, stop_before_pixels=True)]
            if header.PatientID == GONE and header.Modality == "PT"
        )
        forged = lines_of(receipts)[0] | {
            "sop_instance_uid": str(image.SOPInstanceUID),
            "series_instance_uid": str(image.SeriesInstanceUID),
        }
        with open(receipts, "a") as stream:
            stream.write(json.dumps(forged) + "\n")
        assert made.erase() == 1
        assert "the PACS does not say of" in capsys.readouterr().out
        assert image.SOPInstanceUID in made.held()[GONE]
        assert len(before[GONE] - made.held()[GONE]) == 2


@pytest.mark.parametrize("study", ["", "1.2.3"])
def test_an_object_whose_receipt_was_lost_or_says_little_is_found(
    study, contours_run, two_patients, pacs, tmp_path, capsys
):
    orthanc = pacs()
    how = {"by": "orthanc", "url": orthanc.base}
    with world(contours_run, two_patients, tmp_path, orthanc, "dimse", how) as made:
        before = made.held()
        for path in sorted((made.out / "published").glob("*.jsonl")):
            # An old receipt, without the study, or from before it was merged with another; and
            # none of the SR, which a killed run did not write.
            (seg, *_) = lines_of(path)
            path.write_text(json.dumps({**seg, "study_instance_uid": study}) + "\n")
            if seg["sop_instance_uid"] in before[GONE]:
                (made.out / seg["output"]).unlink()
        assert made.erase() == 0
        assert "which lists none of them: 2 objects" in capsys.readouterr().out
        assert len(before[GONE] - made.held()[GONE]) == 2
        assert made.held()[STAYS] == before[STAYS]


def test_a_deletion_that_was_killed_goes_on(
    contours_run, two_patients, pacs, tmp_path, capsys, monkeypatch
):
    orthanc = pacs()
    how = {"by": "orthanc", "url": orthanc.base}
    with world(contours_run, two_patients, tmp_path, orthanc, "dicomweb", how) as made:
        before = made.held()
        delete = deletion.Deleter.delete

        def killed(self, *uids):
            delete(self, *uids)
            raise KeyboardInterrupt

        monkeypatch.setattr(deletion.Deleter, "delete", killed)
        assert made.erase() != 0
        monkeypatch.undo()
        assert len(before[GONE] - made.held()[GONE]) == 1
        assert made.journal.exists()
        capsys.readouterr()
        assert made.erase() == 0
        assert "which lists none of them: 2 objects" in capsys.readouterr().out
        assert len(before[GONE] - made.held()[GONE]) == 2


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
