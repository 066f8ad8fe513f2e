"""What names a patient in a site's results: PatientID, pseudonyms, UIDs, paths."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jipflow.files import parquet_batches, parquet_schema, read_tsv
from jipflow.place import raise_place_error
from jipflow.privacy.pseudonyms import one_form, pseudonym
from jipflow.reasons import StageError

WORD = re.compile(r"(?<![0-9])[0-9]+(?:\.[0-9]+)+|(?<![a-z2-7])[a-z2-7]{16}(?![a-z2-7])")
"""UIDs, and pseudonyms as `jipflow.privacy.pseudonyms` makes them."""

SHORTEST = 4
"""Characters of a PatientID from which it is looked for outside the columns that hold it."""

SHORTEST_NUMBER = 6
"""The same of one of digits alone: shorter ones are counts, sizes and years in any file."""

HOLDS_ID = frozenset({"patientid", "patient_id"})
"""Lower case of the columns that hold PatientIDs."""


@dataclass
class Marks:
    """What names patients.

    Attributes:
        patients: PatientIDs.
        met: those of them that a catalog has.
        pseudonyms: of the patients and of their cases and series.
        uids: of their studies, series, instances and of the objects made of them; none that
            another patient has as well.
        paths: of their files.
        unclear: those of the UIDs that a longer UID of another patient begins with, and of the
            PatientIDs that are within another patient's or differ by case alone. They are looked
            for as a whole, in tables and lists, and not among bytes.
        longer: these PatientIDs of other patients.
    """

    patients: set[str] = field(default_factory=set)
    met: set[str] = field(default_factory=set)
    pseudonyms: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    unclear: set[str] = field(default_factory=set)
    longer: set[str] = field(default_factory=set)

    def add(self, other: Marks) -> None:
        """Take over what another one has."""
        for name, values in asdict(other).items():
            getattr(self, name).update(values)

    def plain(self) -> dict[str, list[str]]:
        """Return the same as JSON has it."""
        return {name: sorted(values) for name, values in asdict(self).items()}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Marks:
        """Return what `plain` has made."""
        return cls(**{name: set(values) for name, values in plain.items()})

    def in_text(self, text: str) -> bool:
        """Return whether a text names one of the patients."""
        if text in self.paths:
            return True
        if any(w in self.uids or w in self.pseudonyms for w in WORD.findall(text)):
            return True
        text = one_form(text)
        for other in self.longer:
            text = text.replace(other, " ")
        return any(
            re.search(rf"(?<![^\W_]){re.escape(patient)}(?![^\W_])", text)
            for patient in self.patients
            if patient in text and self._stands_out(patient)
        )

    def in_cell(self, column: str, text: str) -> bool:
        """Return whether a cell of a table names one of the patients."""
        if column.lower() in HOLDS_ID:
            return one_form(text) in self.patients or self.in_text(text)
        return self.in_text(text)

    @staticmethod
    def _stands_out(patient: str) -> bool:
        """Whether a PatientID is met in a text by no chance, as a number or a word is."""
        return len(patient) >= SHORTEST and not patient.isdigit() and not patient.isalpha()

    def vague(self) -> set[str]:
        """Return the PatientIDs that bytes of other patients have by chance."""
        return {
            patient
            for patient in self.patients
            if patient in self.unclear
            or patient.isalpha()
            or len(patient) < (SHORTEST_NUMBER if patient.isdigit() else SHORTEST)
        }

    def words(self) -> dict[str, str]:
        """Return the vague PatientIDs, of which a person says whether a word is the patient.

        They are named likewise; those of letters or digits alone, which stand in what programs
        write, begin with ``common``.
        """
        return {
            f"{'common ' if each.isalpha() or each.isdigit() else ''}word {n}": each
            for n, each in enumerate(sorted(self.vague()), start=1)
        }

    def tokens(self) -> dict[str, str]:
        """Return what a search looks for, by names that say nothing of whom it is."""
        found: dict[str, str] = {}
        for kind, values in (
            ("PatientID", self.patients - self.vague()),
            ("pseudonym", self.pseudonyms),
            ("UID", self.uids - self.unclear),
        ):
            found |= {f"{kind} {n}": value for n, value in enumerate(sorted(values), start=1)}
        return found


def find_marks(results: Path, patients: Iterable[str], secret: bytes) -> Marks:
    """Gather from a site's catalogs and cohorts what names patients.

    Args:
        results: folder for the results of all protocols.
        patients: PatientIDs, as `jipflow.privacy.pseudonyms.one_form` has them.
        secret: of the site.

    Raises:
        StageError: a table is damaged.
        OSError: a table cannot be read.
    """
    marks = Marks(set(patients))
    marks.pseudonyms = {pseudonym(secret, "patient", patient) for patient in marks.patients}
    marks.pseudonyms |= {pseudonym(secret, "case", patient) for patient in marks.patients}
    others: set[str] = set()
    named: set[str] = set()
    tables = [results / "catalog", *sorted(results.glob("*/pacs"))]
    for folder in tables:
        for name in ("headers", "series", "lost"):
            for row in _rows(folder / f"{name}.parquet", "PatientID"):
                uids = {row[k] for k in row if k.endswith("InstanceUID") and row[k]}
                patient = one_form(row["PatientID"] or "")
                if patient not in marks.patients:
                    others |= uids
                    named.add(patient)
                    continue
                marks.met.add(patient)
                marks.uids |= uids
                marks.paths |= {row["path"]} if row.get("path") else set()
                study, series = row.get("StudyInstanceUID") or "", row["SeriesInstanceUID"] or ""
                marks.pseudonyms |= {
                    # The case has PatientID as the header has it.
                    pseudonym(secret, "case", row["PatientID"], study),
                    pseudonym(secret, "case", row["PatientID"]),
                    pseudonym(secret, "patient", row["PatientID"]),
                    pseudonym(secret, "series", series),
                }
    marks.uids -= others
    for folder in tables:
        for row in _rows(folder / "instances.parquet", "SeriesInstanceUID"):
            if row["SeriesInstanceUID"] in marks.uids:
                marks.uids |= {row["SOPInstanceUID"]} - others
                marks.paths.add(row["path"])
            elif row["SOPInstanceUID"] not in marks.uids:
                others.add(row["SOPInstanceUID"])
    _of_cohorts(results, marks)
    for patient in marks.patients:
        longer = {other for other in named if patient.casefold() in other.casefold()}
        marks.longer |= longer
        marks.unclear |= {patient} if longer else set()
    ordered = sorted(others)
    for uid in marks.uids:
        place = bisect_right(ordered, uid)
        if place < len(ordered) and ordered[place].startswith(uid):
            marks.unclear.add(uid)
    return marks


def _of_cohorts(results: Path, marks: Marks) -> None:
    """Add what cohorts and receipts know, also of images that no catalog lists any more."""
    for path in sorted(results.glob("*/cohort/cases.tsv")):
        for row in read_tsv(path):
            if row["patient"] in marks.pseudonyms:
                marks.pseudonyms.add(row["case_id"])
    for path in sorted(results.glob("*/cohort/shards/*.parquet")):
        for row in _rows(path, "case_id"):
            if row["case_id"] in marks.pseudonyms and row["role"]:
                marks.uids |= {row["series_uid"], row["sop_uid"]}
                marks.paths.add(row["path"])
    for path in sorted(results.glob("*/published/*.jsonl")):
        for _, sent in receipts(path):
            if marks.in_text(str(sent.get("output", ""))):
                marks.uids.add(str(sent["sop_instance_uid"]))
    for folder in ("seg", "sr"):
        for case in sorted(marks.pseudonyms):
            for path in sorted(results.glob(f"*/{folder}/{case}/*.dcm")):
                _, series, sop = uids_of(path)
                marks.uids |= {series, sop} - {""}


def receipts(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each receipt of what was sent to a PACS, as its line and as what that says.

    The last line may be half written, of a run that was killed.

    Raises:
        StageError: another line is damaged.
    """
    import json

    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            sent = json.loads(line)
            str(sent["sop_instance_uid"]), str(sent["to"])
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                return
            raise StageError(
                f"{path}: line {number} is damaged; remove it, see by eye to what it stood for in "
                "the PACS, and run the same command again."
            ) from None
        yield line, sent


def uids_of(path: Path) -> tuple[str, str, str]:
    """Return the UIDs of study, series and instance of an object that was made of a case.

    They are empty where it is damaged, or never was DICOM.
    """
    import pydicom

    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    try:
        header = pydicom.dcmread(path, specific_tags=list(names), stop_before_pixels=True)
        study, series, sop = (str(header.get(name) or "") for name in names)
    except Exception as error:  # pydicom raises whatever its parser met
        raise_place_error(error)
        return "", "", ""
    return study, series, sop


def _rows(path: Path, needed: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table with the columns that say of whom they are."""
    if not path.is_file() or path.name.startswith(".partial-"):
        return
    wanted = {
        *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "path"),
        *("case_id", "role", "series_uid", "sop_uid"),
    }
    try:
        names = [name for name in parquet_schema(path).names if name in wanted]
        if needed in names:
            for batch in parquet_batches(path, names):
                yield from batch.to_pylist()
    except ValueError:
        raise StageError(
            f"{path} is damaged, so that it does not say whom it names: remove it, which the next "
            "run makes again, and run the same command again."
        ) from None
