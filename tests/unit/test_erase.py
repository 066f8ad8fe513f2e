"""An erasure leaves nothing that names the patient, goes on where it was killed, and says so."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from federation_world import site as federated
from jipflow.cli import main
from jipflow.erasure.erase import JOURNAL, _released, erase
from jipflow.erasure.marks import Marks, find_marks
from jipflow.files import read_json, write_json, write_parquet
from jipflow.privacy.erased import read_erased
from jipflow.privacy.pseudonyms import known_secret, pseudonym
from jipflow.privacy.search import search
from jipflow.reasons import StageError
from jipflow.release.ledger import LedgerFault
from jipflow.settings.schema import load
from jipflow.settings.site import Site
from test_cohort import World, row

GONE, STAYS = "MRN-77812", "MRN-77813"
SERIES = "1.2.826.0.1.3680043.8.498.11"


class Results:
    """Results of two patients whose cases share a shard."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "results"
        (folder / "world").mkdir()
        world = World(folder / "world")
        world.select(
            [
                row(GONE, "1.2.826.7.1", "CT", 1, SeriesInstanceUID=SERIES),
                row(STAYS, "1.2.826.7.2", "CT", 2, SeriesInstanceUID=f"{SERIES}1"),
            ],
            CT={"where": "Modality = 'CT'"},
        )
        self.out = self.root / "demo"
        self.root.mkdir()
        for name, place in (("catalog", self.root), ("cohort", self.out)):
            place.mkdir(exist_ok=True)
            (world.folder / name).rename(place / name)
        (world.folder / "identity.json").rename(self.root / "identity.json")
        identity = {
            "secret_file": str(folder / "world" / "secret" / "identity.key"),
            "signing_key_file": str(folder / "secrets" / "site.key"),
            "audit_file": str(folder / "secrets" / "audit.jsonl"),
            "ledger_folder": str(folder / "secrets" / "ledger"),
        }
        self.config = {**world.settings.site.plain(), "identity": identity}
        self.site = load(Site, self.config, "site")
        self.secret = known_secret(Path(identity["secret_file"]))
        self.journal = folder / "secrets" / "ledger" / JOURNAL
        self.case = pseudonym(self.secret, "case", GONE, "1.2.826.7.1")
        self.other = pseudonym(self.secret, "case", STAYS, "1.2.826.7.2")
        self._derivatives()

    def _derivatives(self) -> None:
        shard = self.out / "shards" / "s00001" / "measure"
        cases = [self.case, self.other]
        for folder in (shard, self.out / "features"):
            table = pd.DataFrame({"case_id": cases, "volume": [1.5, 2.5]})
            write_parquet(folder / "features.parquet", table)
            write_json(folder / "provenance.json", {})
        person = [pseudonym(self.secret, "patient", each) for each in (GONE, STAYS)]
        values = pd.DataFrame({"patient": person, "v0": [1.5, 2.5]})
        write_parquet(self.out / "behind" / "r01" / "values.parquet", values)
        write_json(self.out / "release" / "r01.provenance.json", {})
        for case in cases:
            for name in (f"overlays/{case}/organs.png", f"worklist/organs/{case}/README.txt"):
                self._write(name, "as it was")
        self._write("report/index.html", f"<p>{self.case}</p>")
        self._write("report/provenance.json", "{}")
        self._write("logs/measure/s00001.log", "".join(f"{c} measure: ok\n" for c in cases))
        lines = [
            {
                "sop_instance_uid": f"2.25.{n}123456789",
                "to": "pacs",
                "output": f"seg/{c}/organs.dcm",
            }
            for n, c in enumerate(cases, start=1)
        ]
        self._write("published/s00001.jsonl", "".join(json.dumps(each) + "\n" for each in lines))
        self._write("train/split.json", json.dumps({"train": cases, "seed": 1}))
        self._write("train/fold-0.pth", "weights")
        self._write("verdict.json", "{}")
        for crate in ("crate", "subset/crate"):
            self._write(f"{crate}/run.zip", "hashes of tables")
            self._write(f"{crate}/provenance.json", "{}")
        self._write("crate/train.zip", "hashes of tables")
        self._write("crate/train.provenance.json", "{}")
        (self.out / "work" / self.case).mkdir(parents=True)
        (self.out / "work" / "empty").mkdir()

    def _write(self, name: str, text: str) -> None:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def erase(self, *patients: str):
        return erase(site=self.site, results=self.root, patients=patients or (GONE,))


@pytest.fixture
def made(tmp_path):
    return Results(tmp_path)


def test_nothing_that_names_the_patient_is_left_and_the_others_stay(made):
    tokens = find_marks(made.root, {GONE}, made.secret).tokens()
    assert len({hit.path for hit in search([made.root], tokens).hits}) > 12
    done = made.erase()
    assert not done.found.hits
    assert not search([made.root], tokens).hits
    assert (done.patients, done.cases, done.protocols) == (1, 1, {"demo"})
    assert list(pd.read_parquet(made.out / "features" / "features.parquet")["volume"]) == [2.5]
    assert set(pd.read_parquet(made.root / "catalog" / "series.parquet")["PatientID"]) == {STAYS}
    assert len(pd.read_parquet(made.root / "catalog" / "instances.parquet")) == 2
    assert (made.out / "overlays" / made.other / "organs.png").read_text() == "as it was"
    assert not (made.out / "overlays" / made.case).exists()
    log = (made.out / "logs" / "measure" / "s00001.log").read_text()
    assert log == f"{made.other} measure: ok\n"
    assert read_json(made.out / "train" / "split.json") == {"train": [made.other], "seed": 1}
    assert GONE in read_erased(made.site.identity, made.root)
    assert not made.journal.exists()
    assert (made.out / "work" / "empty").is_dir()
    assert not (made.out / "work" / made.case).exists()


def test_what_was_changed_is_made_again_by_the_next_run(made):
    made.erase()
    records = {str(path.relative_to(made.out)) for path in made.out.rglob("*provenance.json")}
    assert records == set()
    assert not list(made.out.rglob("crate/*.zip"))
    assert (made.out / "verdict.json").exists()


def test_what_the_steward_must_see_to_is_listed_and_names_nobody(made):
    lines = made.erase().sentences()
    assert "sent to the PACS pacs, have it deleted there: 2.25.1123456789" in lines
    assert any(line.endswith("train/fold-0.pth") for line in lines)
    assert (made.out / "train" / "fold-0.pth").exists()
    assert lines[-1] == "nothing that names the patients is left"
    for name in (GONE, made.case, SERIES):
        assert name not in "\n".join(lines)


def test_a_patient_id_that_no_image_has_is_named(made):
    lines = made.erase(GONE, f"0{STAYS}").sentences()
    assert any(line.startswith("in no catalog: 1 of them") for line in lines)
    assert (made.out / "overlays" / made.other / "organs.png").exists()
    assert not any(line.startswith("in no catalog") for line in made.erase(STAYS).sentences())


def test_an_erasure_that_did_not_end_goes_on(made):
    entry = made.journal.parent / "000001.json"
    entry.parent.mkdir(parents=True)
    entry.write_text("{}")
    entry.chmod(0o600)
    with pytest.raises(LedgerFault, match="000001"):
        made.erase()
    assert made.journal.stat().st_mode & 0o077 == 0
    # The catalog knows nothing of the patient any more, and a file is still there.
    left = made.out / "inbox" / "organs" / "note.txt"
    left.parent.mkdir(parents=True)
    left.write_text(f"of {SERIES}")
    # A table that was half written when the process was killed.
    half = made.out / "cohort" / "shards" / ".partial-here-0-s00001.parquet"
    half.write_bytes(b"PAR1")
    entry.unlink()
    done = made.erase()
    assert left.read_text() == ""
    assert not half.exists()
    assert done.published
    assert not done.found.hits
    assert not made.journal.exists()


def test_an_erasure_that_the_audit_trail_does_not_take_is_noted_by_the_next_try(
    made, tmp_path, capsys
):
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(made.config))
    (tmp_path / "who.txt").write_text(f"{GONE}\n")
    trail = tmp_path / "secrets" / "audit.jsonl"
    trail.parent.mkdir(exist_ok=True)
    trail.write_text("no line\n{}\n")
    command = ["erase", str(tmp_path / "who.txt"), "--configfile", str(tmp_path / "site.yaml")]
    command += ["--results", str(made.root)]
    assert main(command) == 1
    assert "audit resume" in capsys.readouterr().err
    trail.unlink()
    assert main(command) == 0
    noted = json.loads(trail.read_text())["entry"]["facts"]
    assert (noted["patients"], noted["cases"], noted["protocols"]) == (1, 1, ["demo"])


def test_what_is_left_is_named_and_the_command_fails(made, tmp_path, capsys, monkeypatch):
    left = made.out / "bundles" / "demo.txt"
    left.parent.mkdir()
    left.write_text(f"by mistake {made.case}")
    config = tmp_path / "site.yaml"
    config.write_text(yaml.safe_dump(made.config))
    typed = ["erase", "-", "--configfile", str(config), "--results", str(made.root)]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{GONE}\n\n"))
    assert main(typed) == 1
    printed = capsys.readouterr()
    assert f"left: {left}" in printed.out
    assert "1 places still name the patients" in printed.err
    assert made.journal.exists()
    left.unlink()
    patients = tmp_path / "patients.txt"
    patients.write_text(GONE)
    assert main(["erase", str(patients), *typed[2:]]) == 0
    trail = (tmp_path / "secrets" / "audit.jsonl").read_text()
    assert len(set(re.findall(r'"erasure":"([0-9a-f]{64})"', trail))) == 1
    assert GONE not in trail


def test_a_table_that_is_damaged_is_not_taken_for_clean(made):
    path = made.out / "cohort" / "shards" / "s00001.parquet"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(StageError, match="is damaged"):
        made.erase()
    path.unlink()
    assert not made.erase().found.hits


def test_what_is_linked_is_searched_as_well(made, tmp_path):
    disk, whole = tmp_path / "disk", tmp_path / "whole"
    (made.out / "overlays").rename(disk)
    (made.out / "overlays").symlink_to(disk)
    made.root.rename(whole)
    made.root.symlink_to(whole)
    with pytest.raises(StageError, match="--also"):
        made.erase()
    assert (disk / made.case).exists()
    done = erase(site=made.site, results=made.root, patients=[GONE], also=[disk])
    assert not (disk / made.case).exists()
    assert (disk / made.other).exists()
    assert done.found.files > 12
    assert not done.found.hits


def test_the_sites_own_images_and_lists_stay_where_they_lie_in_the_results(made):
    archive, consent = made.root / "example" / "archive", made.root / "consent.csv"
    (archive / GONE).mkdir(parents=True)
    (archive / GONE / "1.dcm").write_bytes(GONE.encode())
    consent.write_text(f"PatientID,scope,from,until\n{GONE},research,2020-01-01,2026-01-01\n")
    source = {"name": "a", "kind": "folder", "path": str(archive)}
    content = {**made.config, "sources": [source], "consent": {"file": str(consent)}}
    made.site = load(Site, content, "site")
    assert not made.erase().found.hits
    assert (archive / GONE / "1.dcm").exists()
    assert GONE in consent.read_text()
    assert not (made.out / "overlays" / made.case).exists()


def test_a_run_and_an_erasure_keep_off_each_other(made):
    code = (
        "import sys; from pathlib import Path; from jipflow.lock import hold;"
        "hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(made.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout.readline() == "held\n"
        with pytest.raises(StageError, match="is in use by"):
            made.erase()
        run.stdin.close()
    assert (made.out / "overlays" / made.case).exists()


def test_uids_of_two_patients_and_numbers_that_meet_by_chance_erase_nobody_else(made, tmp_path):
    assert not Marks({"77"}).in_text("77 of 77")
    assert not Marks({"1234567"}).in_text("volume 1234567")
    assert Marks({"1234567"}).in_cell("patient_id", " 1234567 ")
    assert not Marks(uids={SERIES}).in_text(f"series {SERIES}1.")
    assert Marks(uids={SERIES}).in_text(f"series {SERIES}.")
    with pytest.raises(StageError, match="no PatientID"):
        made.erase(" ")


@pytest.mark.parametrize(
    ("gone", "stays"),
    [
        ("PAT-12", "PAT-123"),
        ("SUBJ-1", "SUBJ-1-02"),
        ("pat-000012", "PAT-000012"),
        ("1000", "1001"),
        ("HEAD", "MRN-2"),
    ],
)
def test_a_patient_id_that_files_of_others_have_as_well_erases_nobody_else(
    tmp_path, monkeypatch, gone, stays
):
    monkeypatch.setattr("test_erase.GONE", gone)
    monkeypatch.setattr("test_erase.STAYS", stays)
    made = Results(tmp_path)
    (made.out / "inbox").mkdir()
    images = [made.out / "inbox" / name for name in ("own.dcm", "other.dcm")]
    for path, patient in zip(images, (gone, stays), strict=True):
        image = Dataset()
        image.PatientID = patient
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
        image.save_as(path, enforce_file_format=True)
    made._write(f"overlays/{made.other}/note.html", f"{stays}: HEAD, 1000 voxels")
    made._write("settings.json", '{"memory": 1000, "part": "HEAD"}')
    done = made.erase()
    assert not done.found.hits
    assert [path.exists() for path in images] == [False, True]
    assert (made.out / "overlays" / made.other / "note.html").exists()
    assert set(pd.read_parquet(made.root / "catalog" / "series.parquet")["PatientID"]) == {stays}
    assert "PatientID that others' files have by chance: 1;" in "\n".join(done.sentences())


@pytest.mark.parametrize(
    ("gone", "stays", "of_a_program"),
    [
        ("PAT-12", "PAT-123", True),
        ("Q7", "Q71", True),
        ("1000", "1001", False),
        ("HEAD", "M", False),
    ],
)
def test_a_text_with_a_word_that_is_such_an_id_is_for_a_person_to_look_at(
    tmp_path, monkeypatch, gone, stays, of_a_program
):
    monkeypatch.setattr("test_erase.GONE", gone)
    monkeypatch.setattr("test_erase.STAYS", stays)
    made = Results(tmp_path)
    page = made.out / "overlays" / made.other / "note.html"
    page.write_text(f"<p>beside {gone}, and {stays}</p>")
    made._write("inbox/organs/reader.md", f"{gone}: drawn twice")
    made._write("inbox/organs/other.md", f"{stays} and {stays}{gone}9")
    archive = made.out / "inbox" / "organs" / "notes.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("note", f"see {gone.lower()}")
    for number in range(30):
        made._write(f"inbox/organs/z{number:02d}.md", f"({gone})")
    done = made.erase()
    first = [archive, made.out / "inbox" / "organs" / "reader.md"]
    assert done.look_at[:2] == first
    assert (page in done.look_at) == of_a_program
    assert len(done.look_at) == 32 + of_a_program
    lines = done.sentences()
    assert f"look at {archive}: it has a word that is such a PatientID" in lines
    assert f"look at {12 + of_a_program} more files that have one" in lines
    assert lines[-1].startswith("nothing that names the patients is left, but look at 3")
    assert all(path.exists() for path in first)
    # It is no part of the erasure, which has ended: a person says whether the word is the patient.
    assert not made.journal.exists()


def test_one_patient_id_is_the_same_however_it_is_composed_and_padded(tmp_path, monkeypatch):
    monkeypatch.setattr("test_erase.GONE", unicodedata.normalize("NFD", "M\u00fcller-7\u00fc "))
    made = Results(tmp_path)
    done = made.erase("\u00a0M\u00fcller-7\u00fc\0")
    assert (done.unknown, done.found.hits) == (0, [])
    assert set(pd.read_parquet(made.root / "catalog" / "series.parquet")["PatientID"]) == {STAYS}
    erased = read_erased(made.site.identity, made.root)
    assert [
        unicodedata.normalize(form, "M\u00fcller-7\u00fc") in erased for form in ("NFC", "NFD")
    ] == [
        True,
        True,
    ]


def test_results_that_are_not_there_are_no_results_without_the_patient(made):
    with pytest.raises(StageError, match="no results in"):
        erase(site=made.site, results=made.root.with_name("reslts"), patients=[GONE])
    assert GONE not in read_erased(made.site.identity, made.root)


def test_releases_stay_in_the_ledger_and_are_listed(tmp_path):
    north = federated(tmp_path, "north", patients=20)
    north.send(tmp_path / "outbox", 1)
    cells = next(iter(north.ledger.entries())).past.left
    patient = sorted(cells[0].values.cases)[0]
    behind = sum(patient in cell.values.cases for cell in cells)
    (line,) = _released(north.ledger, Marks(pseudonyms={patient}))
    assert f"of these cells {behind} have the patients behind them" in line
    assert _released(north.ledger, Marks(pseudonyms={"another"})) == []
