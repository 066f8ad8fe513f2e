"""What jipflow sent to a PACS of a patient, and its deletion there.

Nothing is deleted but an object of which the site's own receipts or files say that jipflow made it,
and of which the PACS says so, too. An object counts as deleted once the PACS lists it no more.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from jipflow.erasure.marks import Marks, receipts, uids_of
from jipflow.files import scratch_folder
from jipflow.pacs.archive import Archive, ArchiveDown, Rejected
from jipflow.pacs.connect import open_archive
from jipflow.pacs.dicomweb.delete import Deleter
from jipflow.pacs.limits import sole_mover
from jipflow.pacs.narrow import exactly
from jipflow.pacs.publish import LISTED_AFTER, MAKERS
from jipflow.privacy.pseudonyms import one_form
from jipflow.settings.resources import ConfigError
from jipflow.settings.site import DicomWeb, Dimse, Site
from jipflow.syntaxes import SEGMENTATIONS
from jipflow.uids import ROOT

CLASSES = frozenset({*SEGMENTATIONS, Comprehensive3DSRStorage})
"""SOP classes of what `jipflow.pacs.publish` sends."""
MODALITIES = ("SEG", "SR")


@dataclass(frozen=True, order=True)
class Published:
    """An object that was sent to a PACS, or may have been; the same one by its first two names.

    Attributes:
        to: name of the PACS among the site's sources.
        sop_uid: SOPInstanceUID.
        study_uid: StudyInstanceUID; empty where no receipt and no file says it any more.
        series_uid: SeriesInstanceUID, likewise.
        acknowledged: whether there was a receipt. A run that is killed may have sent an object and
            not have noted it.
    """

    to: str
    sop_uid: str
    study_uid: str = field(default="", compare=False)
    series_uid: str = field(default="", compare=False)
    acknowledged: bool = field(default=True, compare=False)

    def plain(self) -> dict[str, Any]:
        """Return the same as JSON has it."""
        return asdict(self)


def find_published(results: Path, marks: Marks, site: Site) -> list[Published]:
    """Return what was sent of patients to a PACS, and what may have been, of all protocols.

    Args:
        results: folder for the results of all protocols.
        marks: what names the patients.
        site: its settings.
    """
    found: dict[tuple[str, str], Published] = {}
    for path in sorted(results.glob("*/published/*.jsonl")):
        for line, sent in receipts(path):
            if not marks.in_text(line):
                continue
            to, sop = str(sent["to"]), str(sent["sop_instance_uid"])
            uids = str(sent.get("study_instance_uid", "")), str(sent.get("series_instance_uid", ""))
            if not all(uids):
                uids = _uids_of_file(path.parents[1] / str(sent.get("output", "")), sop)
            found[to, sop] = Published(to, sop, *uids)
    to = site.publish.to if site.publish else ""
    for case in sorted(marks.pseudonyms) if to else []:
        for kind in MAKERS:
            for path in sorted(results.glob(f"*/{kind}/{case}/*.dcm")):
                study, series, sop = uids_of(path)
                if study and series and sop:
                    found.setdefault((to, sop), Published(to, sop, study, series, False))
    return sorted(found.values())


def _uids_of_file(path: Path, sop_uid: str) -> tuple[str, str]:
    if not path.is_file():
        return "", ""
    study, series, sop = uids_of(path)
    return (study, series) if sop == sop_uid else ("", "")


def delete(
    site: Site,
    objects: Sequence[Published],
    patients: Iterable[str],
    private: Path,
    done: Callable[[Published, str], object],
) -> None:
    """Delete objects in the PACS that they were sent to, as far as their sources say how.

    Args:
        site: its settings.
        objects: what was sent.
        patients: PatientIDs of whom they are.
        private: folder that its owner alone can read, for a rejection note on its way.
        done: gets each object that a source has a `deletion` for, and why it is still there; empty
            where the PACS lists it no more. An object that cannot be found any more is left out.
    """
    for source in site.archives:
        mine = [each for each in objects if each.to == source.name]
        if mine and source.deletion is not None:
            with sole_mover(source):
                _delete_in(source, mine, sorted(patients), private, done)


def _delete_in(
    source: DicomWeb | Dimse,
    objects: Sequence[Published],
    patients: Sequence[str],
    private: Path,
    done: Callable[[Published, str], object],
) -> None:
    waiting = list(objects)
    try:
        with open_archive(source) as archive, ExitStack() as stack:
            ask = _asking(source, archive, private, stack)
            for each in _located(archive, objects, patients):
                waiting.remove(each)
                try:
                    done(each, _gone(archive, each, ask))
                except Rejected as error:
                    done(each, str(error))
                except (ArchiveDown, ConfigError):
                    waiting.append(each)
                    raise
    except (ArchiveDown, ConfigError, Rejected) as error:
        for each in waiting:
            done(each, str(error))


def _asking(
    source: DicomWeb | Dimse, archive: Archive, private: Path, stack: ExitStack
) -> Callable[[str, str, str], None]:
    """Return the function that asks a PACS to delete an object."""
    assert source.deletion is not None
    if source.deletion.by != "rejection_note":
        deleter = stack.enter_context(Deleter(source))

        def delete_object(*uids: str) -> None:
            _check_ours(archive.describe(*uids), source.name, uids)
            deleter.delete(*uids)

        return delete_object
    title = source.deletion.title

    def reject(*uids: str) -> None:
        from pydicom import dcmread

        from jipflow.objects.rejection import rejection_note

        files: list[bytes] = []
        archive.fetch(uids[0], uids[1], [uids[2]], lambda _, content: files.append(content))
        header = dcmread(io.BytesIO(files[0]), stop_before_pixels=True)
        _check_ours(header, source.name, uids)
        with scratch_folder(private) as folder:
            path = folder / "rejection.dcm"
            rejection_note(header, title).save_as(path, enforce_file_format=True)
            archive.send(path)

    return reject


def _check_ours(header: Dataset, name: str, uids: Sequence[str]) -> None:
    """Check that an object of a PACS is one that jipflow makes; the hospital's own are never lost.

    Raises:
        Rejected: it is not, or the PACS does not say so.
    """
    ours = header.get("SOPClassUID") in CLASSES and header.get("Manufacturer") == "jipflow"
    if not ours or not all(uid.startswith(ROOT) for uid in uids[1:]):
        raise Rejected(
            f"source {name!r}: the PACS does not say of {uids[2]} that jipflow made it, so that it "
            "was not touched; look at it there."
        )


def _gone(archive: Archive, published: Published, ask: Callable[[str, str, str], None]) -> str:
    """Have an object deleted; return why it is still there, empty where it is not.

    Raises:
        ArchiveDown, ConfigError, Rejected: as by `Archive`.
    """
    uids = published.study_uid, published.series_uid, published.sop_uid
    if not archive.contains(*uids):
        return ""
    ask(*uids)
    for seconds in LISTED_AFTER:
        time.sleep(seconds)
        if not archive.contains(*uids):
            return ""
    return (
        f"source {archive.name!r}: the PACS took the deletion of {uids[2]} and lists it still; it "
        "may delete later, or not at all."
    )


def _located(
    archive: Archive, objects: Sequence[Published], patients: Sequence[str]
) -> list[Published]:
    """Return the objects with study and series, as far as a receipt, a file or the PACS knows.

    Where nothing here says it, or the PACS does not list it there, it is asked for what it has of
    the patients: studies are merged, and series moved.
    """

    def is_there(each: Published) -> bool:
        return bool(each.study_uid) and archive.contains(
            each.study_uid, each.series_uid, each.sop_uid
        )

    known = [each for each in objects if is_there(each)]
    missing = {each.sop_uid: each for each in objects if each not in known}
    for patient in patients if missing else ():
        for modality in MODALITIES:
            keys = {"PatientID": exactly("PatientID", patient), "Modality": modality}
            if not keys["PatientID"]:
                continue
            for row in archive.find_series(keys):
                if one_form(row.get("PatientID", "")) != patient:
                    continue
                study, series = row["StudyInstanceUID"], row["SeriesInstanceUID"]
                for sop in archive.find_instances(study, series):
                    if sop in missing:
                        each = missing.pop(sop)
                        known.append(Published(each.to, sop, study, series, each.acknowledged))
    return sorted([*known, *(each for each in missing.values() if each.study_uid)])
