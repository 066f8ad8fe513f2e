"""Stage `export`: a protocol's cohort as de-identified DICOM, for whom a person gives it to.

Images of the cases' roles, the patients' structure sets, segmentations and registrations, and the
SEG and SR that the run made. No rule calls it: a person does, when no run is at work.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

import jipflow
from jipflow import datasets
from jipflow.cases import ANNOTATIONS, Case, Series, is_lost, read_cases
from jipflow.export.folder import REPORT, check_folder, whole_folder
from jipflow.files import canonical_digest, write_json
from jipflow.images.read import complete_uids, read_instance, readable
from jipflow.objects.seg_writer import seg_path
from jipflow.objects.sr import sr_path
from jipflow.outcomes import (
    Made,
    Outcome,
    Status,
    attempt,
    blocked,
    failed,
    read_outcomes,
    write_outcomes,
)
from jipflow.privacy.deface import Shear, deface, reaches_face
from jipflow.privacy.deidentify import METHODS, deidentify
from jipflow.privacy.elements import Tally
from jipflow.privacy.erased import Erased, read_erased
from jipflow.privacy.faces import face_cuts, outlines_face
from jipflow.privacy.hide import hide
from jipflow.privacy.identifiers import identifiers_of, identifiers_of_place, lost_identity
from jipflow.privacy.pixels import Hide, Refusal, decide_pixels
from jipflow.privacy.profile import EDITION
from jipflow.privacy.pseudonyms import check_secret, known_secret, pseudonym
from jipflow.privacy.text import Identifiers
from jipflow.reasons import CaseFault, Reason, StageError
from jipflow.settings.export import Export
from jipflow.settings.run import Settings, read_settings
from jipflow.workers import for_each_case

STAGE = "export"
OUTCOMES = Path(STAGE, "outcomes.parquet")
"""The outcome of each item, below the results: why it did not leave may name its file."""
PIXELS_CLEANED = "113101"
FACE_CUT = "113102"


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        patients: with at least one file.
        files: written.
        written: items of cases, such as the series of a role.
        refused: items by reason.
    """

    patients: int
    files: int
    written: int
    refused: Mapping[str, int]


@dataclass(frozen=True)
class Work:
    """What every patient's export needs.

    Attributes:
        settings: of the run.
        secret: of the site.
        results: the protocol's results folder.
        out: folder that the patients' folders are written into.
        words: of the protocol, which descriptions may keep.
        erased: patients of whom nothing leaves, even where results came back from a backup.
        lost: (case_id, item) of what a PACS did not give or not whole.
    """

    settings: Settings
    secret: bytes
    results: Path
    out: Path
    words: frozenset[str]
    erased: Erased
    lost: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Patient:
    """The outcomes of a patient, and what was done with elements."""

    outcomes: list[Outcome]
    done: Tally


def export(*, results: Path, out: Path, threads: int = 1) -> Exported:
    """Write a protocol's cohort as de-identified DICOM.

    The files of a patient are ``<patient>/<study>/<series>/<instance>.dcm`` in pseudonyms. Whether
    each series went, and if not, why, is written to ``export/outcomes.parquet`` of the results,
    which stays at the site. The same results and secret give the same bytes.

    Args:
        results: the protocol's results folder, of a run that has ended.
        out: folder for the files; it is made as a whole or not at all. One that an export made
            before is replaced, and what one left that was killed is removed.
        threads: processes.

    Raises:
        StageError: the folder is one that it may not be, or the results do not belong to each
            other.
    """
    settings = read_settings(results / "settings.json")
    check_folder(out, settings, results)
    secret_file = Path(settings.site.identity.secret_file)
    check_secret(secret_file, results.parent)
    secret = known_secret(secret_file)
    erased = read_erased(settings.site.identity, results.parent)
    by_patient: dict[str, list[Case]] = defaultdict(list)
    for case in _cases(results, settings):
        by_patient[case.patient].append(case)
    with whole_folder(out, results) as partial_out:
        words = words_of(settings)
        work = Work(settings, secret, results, partial_out, words, erased, _lost(results))
        groups = [by_patient[patient] for patient in sorted(by_patient)]
        patients = for_each_case(groups, partial(_each, work=work), threads)
        outcomes = [outcome for patient in patients for outcome in patient.outcomes]
        done = sum((patient.done for patient in patients), Counter())
        made = _counted(outcomes)
        write_json(partial_out / REPORT, _report(settings, made, done, outcomes))
    write_outcomes(results / OUTCOMES, outcomes)
    return made


def words_of(settings: Settings) -> frozenset[str]:
    """Return the words that the protocol uses of its roles and segmentations."""
    found: set[str] = set()
    for text in _strings([spec.plain() for spec in settings.protocol.segmentations]):
        found |= set(re.findall(r"[^\W\d_]+", text))
    return frozenset(found | set(settings.protocol.roles))


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _strings(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _strings(value)


def _cases(results: Path, settings: Settings) -> list[Case]:
    shards = sorted((results / "cohort" / "shards").glob("*.parquet"))
    if not shards:
        raise StageError(f"{results}: its cohort has no case; run the workflow first.")
    cases = [case for shard in shards for case in read_cases(shard, settings.wanted)]
    return sorted(cases, key=lambda case: case.case_id)


def _lost(results: Path) -> frozenset[tuple[str, str]]:
    found = (results / "shards").glob("*/retrieve/outcomes.parquet")
    return frozenset(lost for path in found for lost in failed(read_outcomes(path)))


def _each(cases: Sequence[Case], work: Work) -> list[Patient]:
    """Export the cases of one patient."""
    done: Tally = Counter()
    if work.erased.hashes and _is_erased(cases, work):
        return [Patient([], done)]
    run = _Run(cases, work, _known(cases, work), done)
    return [Patient([outcome for case in cases for outcome in run.case(case)], done)]


def _is_erased(cases: Sequence[Case], work: Work) -> bool:
    """Return whether the patient of cases was erased, by a header of each series."""
    for path in (series.paths[0] for case in cases for series in _series(case)):
        if path.is_file():
            with suppress(CaseFault), readable(path):
                header = datasets.read(path, stop=datasets.at_pixels).dataset
                if header.get("PatientID") in work.erased:
                    return True
    return False


def _known(cases: Sequence[Case], work: Work) -> Identifiers:
    """Return what identifies a patient by all headers.

    A file that cannot be read says nothing here, and is not exported either.
    """
    known = identifiers_of_place(work.settings.site.site.name)
    paths = {path for case in cases for series in _series(case) for path in series.paths}
    for path in sorted(path for path in paths if path.is_file()):
        with suppress(CaseFault), readable(path):
            known |= identifiers_of([datasets.read(path, stop=datasets.at_pixels).dataset])
    return known


def _series(case: Case) -> Iterator[Series]:
    yield from case.roles.values()
    yield from case.annotations


class _Run:
    """The export of one patient, whose series are written once however many cases share them."""

    def __init__(self, cases: Sequence[Case], work: Work, known: Identifiers, done: Tally) -> None:
        self.cases, self.work, self.known, self.done = cases, work, known, done
        self.written: dict[str, Outcome] = {}
        self.cuts: dict[str, dict[str, Shear | CaseFault | None]] = {}

    def case(self, case: Case) -> list[Outcome]:
        """Return the outcomes of a case's series and of what the run made of them."""
        outcomes = [self.series(case, role, one) for role, one in sorted(case.roles.items())]
        roles = {outcome.item for outcome in outcomes if outcome.status is Status.OK}
        for one in case.annotations:
            if one.series_uid not in self.written:
                item = pseudonym(self.work.secret, "series", one.series_uid)
                outcomes.append(self.series(case, f"{one.modality} {item}", one))
        for spec in self.work.settings.protocol.segmentations:
            needed = self.work.settings.needed_roles(spec.id)
            for kind, path_of in (("SEG", seg_path), ("SR", sr_path)):
                path = path_of(self.work.results, case.case_id, spec.id)
                item = f"{kind} {spec.id}"
                if not path.is_file():
                    continue
                if needed <= roles:
                    outcomes.append(self._item(case, item, [path], None))
                else:
                    what = f"the image of {' and '.join(sorted(needed - roles))}"
                    outcomes.append(blocked(case.case_id, STAGE, item, what))
        return outcomes

    def series(self, case: Case, item: str, series: Series) -> Outcome:
        """Return the outcome of a series, which an earlier case may have written."""
        before = self.written.get(series.series_uid)
        if before is not None:
            return replace(before, case_id=case.case_id, item=item, seconds=0.0)
        if is_lost(case, item if item in case.roles else ANNOTATIONS, series, self.work.lost):
            what = f"all of the {series.modality} of the archive"
            outcome = blocked(case.case_id, STAGE, item, what)
        else:
            outcome = self._item(case, item, series.paths, series.series_uid)
        self.written[series.series_uid] = outcome
        return outcome

    def _item(
        self, case: Case, item: str, paths: Sequence[Path], series_uid: str | None
    ) -> Outcome:
        made: list[Path] = []
        done: Tally = Counter()
        work = partial(self._files, case, paths, series_uid, made, done)
        outcome = attempt(case.case_id, STAGE, item, work, self.work.out)
        if outcome.status is Status.OK:
            self.done.update(done)
        else:
            # Of a series that is refused nothing leaves.
            for path in made:
                path.unlink(missing_ok=True)
                _remove_empty(path.parent, self.work.out)
        return outcome

    def _files(
        self,
        case: Case,
        paths: Sequence[Path],
        series_uid: str | None,
        made: list[Path],
        done: Tally,
    ) -> Made:
        """Write the files of a series or an object.

        Raises:
            CaseFault: one may not leave, or cannot be read.
        """
        cut = self._face_cut(case, series_uid)
        for path in paths:
            damaged: list[str] = []
            with readable(path):
                dataset = read_instance(path, pixels=True, damaged=damaged)
                if series_uid is not None:
                    complete_uids(dataset, series_uid)
            _check_named(path, dataset, damaged)
            self._check_whose(case, path, dataset, series_uid)
            self._check_regions(path, dataset)
            cleaned = clean_pixels(path, dataset, self.work.settings.site.export)
            if cut is not None:
                deface(path, dataset, cut)
                cleaned = (*cleaned, FACE_CUT)
            clean = deidentify(
                dataset,
                self.work.secret,
                patient=case.patient,
                known=self.known,
                words=self.work.words,
                pixels=cleaned,
                done=done,
            )
            uids = (clean.StudyInstanceUID, clean.SeriesInstanceUID, clean.SOPInstanceUID)
            target = self.work.out.joinpath(case.patient, *uids[:2], f"{uids[2]}.dcm")
            if target.exists():
                raise CaseFault(
                    Reason.DUPLICATE_SLICES,
                    f"{path}: another file has the same SOP Instance UID; remove one of them.",
                )
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.append(target)
            with open(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "wb") as stream:
                clean.save_as(stream, enforce_file_format=True)
        return Made(tuple(made))

    def _face_cut(self, case: Case, series_uid: str | None) -> Shear | None:
        """Return how the face of a role's series is cut away; None where it shows no head.

        Raises:
            CaseFault: it shows a head, or may, and stays.
        """
        if series_uid not in {series.series_uid for series in case.roles.values()}:
            return None
        cut = self._cuts(case)[str(series_uid)]
        if isinstance(cut, CaseFault):
            raise cut
        return cut

    def _cuts(self, case: Case) -> dict[str, Shear | CaseFault | None]:
        if case.case_id not in self.cuts:
            settings, lost = self.work.settings, self.work.lost
            unseen = [s for role, s in case.roles.items() if is_lost(case, role, s, lost)]
            unknown = CaseFault(
                Reason.DEPENDS_ON_FAILED, f"case {case.case_id}: an image may show a head."
            )
            cuts: dict[str, Shear | CaseFault | None] = {s.series_uid: unknown for s in unseen}
            self.cuts[case.case_id] = cuts | face_cuts(
                [series for series in case.roles.values() if series not in unseen],
                settings.heads,
                unstated=settings.site.export.unstated_heads,
            )
        return self.cuts[case.case_id]

    def _check_regions(self, path: Path, dataset: Dataset) -> None:
        """Refuse regions that may outline a face, where an image of the patient shows a head.

        Raises:
            CaseFault: they do.
        """
        cuts = [cut for case in self.cases for cut in self._cuts(case).values() if cut is not None]
        named = bool(cuts) and outlines_face(dataset)
        if named or any(isinstance(c, Shear) and reaches_face(path, dataset, c) for c in cuts):
            raise CaseFault(
                Reason.RECOGNISABLE_FACE,
                f"{path}: has a region that by its name or place may outline a face, and an image "
                "of the patient shows a head, or may; leave it out.",
            )

    def _check_whose(
        self, case: Case, path: Path, dataset: Dataset, series_uid: str | None
    ) -> None:
        """Refuse a file of another patient or series than the catalog read there.

        Raises:
            CaseFault: it is.
        """
        identifier = str(dataset.get("PatientID") or "")
        same = pseudonym(self.work.secret, "patient", identifier) == case.patient
        if not same or series_uid not in (None, dataset.SeriesInstanceUID):
            raise CaseFault(
                Reason.MIXED_PATIENTS,
                f"{path}: is of another patient or series than when the catalog was made; run the "
                "workflow again with --forcerun catalog.",
            )


def _check_named(path: Path, dataset: Dataset, damaged: Sequence[str]) -> None:
    """Refuse an object without the UIDs that its file is named by, or without one of who it is of.

    What cannot be read of the patient cannot be looked for in texts.

    Args:
        path: the file.
        dataset: that it holds.
        damaged: what of it could not be read.

    Raises:
        CaseFault: one is missing.
    """
    lost = lost_identity(damaged)
    if lost is not None:
        raise CaseFault(
            Reason.UNREADABLE,
            f"{path}: {lost}, so that nobody knows whom its texts may name; fix it in the archive.",
        )
    names = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    missing = [name for name in names if not dataset.get(name)]
    if missing:
        raise CaseFault(
            Reason.UNREADABLE, f"{path}: has no {' and no '.join(missing)}; fix it in the archive."
        )


def clean_pixels(path: Path, dataset: Dataset, settings: Export) -> tuple[str, ...]:
    """Overwrite where an instance shows text, as the site says.

    Args:
        path: its file, for messages.
        dataset: the instance, whose pixels may be changed.
        settings: of the site.

    Returns:
        The codes of what was done with the pixels.

    Raises:
        CaseFault: it may show text, and nothing says where.
    """
    found = decide_pixels(dataset, settings)
    if isinstance(found, Refusal):
        raise CaseFault(found.reason, f"{path}: {found.message}")
    if not isinstance(found, Hide):
        return ()
    hide(path, dataset, found.regions)
    return (PIXELS_CLEANED,) if found.regions else ()


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder and those above it up to the root, as far as they are empty."""
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _counted(outcomes: Sequence[Outcome]) -> Exported:
    written = [outcome for outcome in outcomes if outcome.status is Status.OK]
    files = {output for outcome in written for output in outcome.outputs}
    refused = Counter(outcome.reason for outcome in outcomes if outcome.status is not Status.OK)
    patients = {output.partition("/")[0] for output in files}
    return Exported(len(patients), len(files), len(written), dict(sorted(refused.items())))


def _report(
    settings: Settings, made: Exported, done: Tally, outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """Return what is written beside the files: what was done in numbers, and one hash of them."""
    hashes = {
        output: digest
        for outcome in outcomes
        for output, digest in zip(outcome.outputs, outcome.sha256, strict=True)
    }
    elements: dict[str, dict[str, int]] = defaultdict(dict)
    for (name, what), count in sorted(done.items()):
        if count:
            elements[what.value][name] = count
    return {
        "jipflow": jipflow.__version__,
        "protocol": settings.protocol_id,
        "profile": f"DICOM PS3.15 {EDITION} annex E",
        "methods": METHODS,
        "patients": made.patients,
        "files": made.files,
        "sha256": canonical_digest(hashes),
        "items": made.written,
        "refused": made.refused,
        "elements": elements,
    }
