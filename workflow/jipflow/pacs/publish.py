"""Stage `publish`: send the DICOM objects of a shard to a PACS, each of them once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pydicom

from jipflow.files import sha256_file
from jipflow.outcomes import Made, Outcome, Status, attempt, blocked
from jipflow.pacs.archive import Archive, ArchiveDown, Rejected, is_of_object
from jipflow.pacs.connect import open_archive
from jipflow.pacs.limits import sole_mover
from jipflow.privacy.erased import Erased, read_erased
from jipflow.reasons import CaseFault, Reason, StageError
from jipflow.settings.run import Settings

STAGE = "publish"
MAKERS = {"seg": "encode", "sr": "document"}
"""The stage that makes each kind of object, in the order of sending: the report refers to the
segmentation."""
NAMES = {"seg": "the DICOM-SEG", "sr": "the DICOM-SR"}
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
PAUSES = (2.0, 10.0)
"""Seconds before each time that an object is sent again."""
THERE_ALREADY = "was there already"
LISTED_AFTER = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each look whether an acknowledged object is there."""


@dataclass(frozen=True)
class Sent:
    """A line of the receipts: an object that the PACS has acknowledged.

    Attributes:
        sop_instance_uid: of the object.
        sha256: of the file that was sent.
        to: name of the PACS among the site's sources.
        output: the file, relative to the results.
        at: when it was acknowledged, in UTC (ISO 8601).
        note: what the PACS remarked, or that it had the object already.
        series_instance_uid: of its series; empty in receipts that are older than this key.
        study_instance_uid: of its study, likewise.
    """

    sop_instance_uid: str
    sha256: str
    to: str
    output: str
    at: str
    note: str
    series_instance_uid: str = ""
    study_instance_uid: str = ""


class Receipts:
    """The acknowledgements of a shard: a file of JSON lines that is only appended to.

    Args:
        path: the file; a last line that a killed run left half written is dropped.

    Raises:
        StageError: another line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sent: dict[tuple[str, str], Sent] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        content = path.read_bytes()
        whole = content.rpartition(b"\n")[0].splitlines()
        for number, line in enumerate(whole, start=1):
            try:
                sent = Sent(**json.loads(line))
            except (ValueError, TypeError):
                raise StageError(
                    f"{path}: line {number} is damaged; remove it. What it stood for is then "
                    "looked up in the PACS."
                ) from None
            self._sent[sent.to, sent.sop_instance_uid] = sent
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(path, end)

    def find(self, to: str, sop_instance_uid: str) -> Sent | None:
        """Return the latest receipt of an object."""
        return self._sent.get((to, sop_instance_uid))

    def add(self, sent: Sent) -> None:
        """Append a receipt; it is on the disk when this returns."""
        with open(self.path, "ab") as stream:
            stream.write(json.dumps(asdict(sent), sort_keys=True).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._sent[sent.to, sent.sop_instance_uid] = sent


def run(
    *, made: Sequence[Outcome], settings: Settings, results: Path, receipts: Path
) -> list[Outcome]:
    """Send what stages `encode` and `document` made, where the site publishes.

    Args:
        made: the outcomes of both stages for a shard.
        settings: of the site and the protocol; ``site.publish`` names the PACS and the objects.
        results: the protocol's results folder, which the outcomes' outputs are relative to.
        receipts: the shard's file of acknowledgements; what stands there is sent again where the
            PACS no longer lists it.

    Returns:
        An outcome for each case and segmentation.

    Raises:
        StageError: the PACS does not answer.
    """
    publish = settings.site.publish
    assert publish is not None
    erased = read_erased(settings.site.identity, results.parent)
    (source,) = (s for s in settings.site.archives if s.name == publish.to)
    known = Receipts(receipts)
    kinds: list[str] = [kind for kind in MAKERS if kind in publish.objects]
    by_stage = {(o.case_id, o.item, o.stage): o for o in made}
    outcomes = []
    with sole_mover(source), open_archive(source) as archive:
        for case_id, item in sorted({(o.case_id, o.item) for o in made}):
            parts = {
                kind: outcome
                for kind in kinds
                if (outcome := by_stage.get((case_id, item, MAKERS[kind]))) is not None
            }
            work = partial(_publish, archive, parts, results, known, erased)
            outcome = attempt(case_id, STAGE, item, work, results)
            lost = [kind for kind, part in parts.items() if part.status is not Status.OK]
            if lost and outcome.status is Status.OK:
                outcome = blocked(case_id, STAGE, item, NAMES[lost[0]])
            outcomes.append(outcome)
    return outcomes


def _publish(
    archive: Archive,
    parts: dict[str, Outcome],
    results: Path,
    receipts: Receipts,
    erased: Erased,
) -> Made:
    """Send what a case's outcomes name, and note what happened to each object."""
    notes = []
    for part in parts.values():
        for output, sha256 in zip(part.outputs, part.sha256, strict=True):
            note = _send(archive, output, sha256, results, receipts, erased)
            notes.append(f"{output} {note}")
    return Made(note="; ".join(notes) or "nothing to send")


def _send(
    archive: Archive,
    output: str,
    sha256: str,
    results: Path,
    receipts: Receipts,
    erased: Erased,
) -> str:
    """Send an object unless the PACS has it, or its patient was erased; return what happened.

    Raises:
        CaseFault: the PACS refuses it.
        StageError: the file is not what was recorded, or the PACS does not answer.
    """
    path = results / output
    if not path.resolve().is_relative_to(results.resolve()):
        raise StageError(f"{output} lies outside {results}; make it again: --forcerun encode.")
    if not path.is_file():
        raise StageError(f"{output} is gone; the same command makes it again.")
    if sha256_file(path) != sha256:
        raise StageError(
            f"{output} was changed after it was made; make it again: --forcerun encode."
        )
    header = pydicom.dcmread(path, specific_tags=[*UIDS, "PatientID"], stop_before_pixels=True)
    if header.get("PatientID") in erased:
        return "is of a patient who was erased, and is not sent"
    study, series, sop = (str(header.get(name) or "") for name in UIDS)
    sent = receipts.find(archive.name, sop)
    if sent is not None and sent.sha256 != sha256:
        raise CaseFault(
            Reason.PUBLISH_REJECTED,
            f"{output}: {archive.name} has another content under its SOP Instance UID {sop}, sent "
            f"at {sent.at}; delete that there and its line in {receipts.path.name}.",
        )
    try:
        # A PACS that crashes may lose what it has acknowledged.
        if sent is not None and archive.contains(study, series, sop):
            return f"was sent at {sent.at}"
        note = _store(archive, path, (study, series, sop))
    except Rejected as error:
        raise CaseFault(Reason.PUBLISH_REJECTED, f"{output}: {error}") from None
    except ArchiveDown as error:
        raise StageError(f"{output}: {error}") from error
    now = datetime.now(UTC).isoformat(timespec="seconds")
    receipts.add(Sent(sop, sha256, archive.name, output, now, note, series, study))
    if note == THERE_ALREADY:
        return note
    if sent is not None:
        return f"was sent at {sent.at}, was not there any more, and was sent again"
    return "sent" + (f" ({note})" if note else "")


def _store(archive: Archive, path: Path, uids: tuple[str, str, str]) -> str:
    """Send a file of which there is no receipt; return the note for its receipt.

    Raises:
        Rejected: the PACS refuses it, or says each time that it fails, and answers otherwise.
        ArchiveDown: the PACS does not answer.
    """
    down = None
    for pause in (0.0, *PAUSES):
        time.sleep(pause)
        try:
            # An earlier run may have been killed between the acknowledgement and its receipt.
            if archive.contains(*uids):
                return THERE_ALREADY
            note = archive.send(path).note
            _see(archive, uids)
            return note
        except ArchiveDown as error:
            down = error
    assert down is not None
    if not is_of_object(down, archive):
        raise down
    raise Rejected(f"{down} It answers other queries.")


def _see(archive: Archive, uids: tuple[str, str, str]) -> None:
    """Look whether the PACS lists what it acknowledged: some drop by a rule of their own and say
    that all is well.

    Raises:
        Rejected: it does not, or not yet.
    """
    for seconds in LISTED_AFTER:
        time.sleep(seconds)
        if archive.contains(*uids):
            return
    raise Rejected(
        f"source {archive.name!r}: the PACS acknowledged {uids[2]} and does not list it; look for "
        "a rule there that drops it."
    )
