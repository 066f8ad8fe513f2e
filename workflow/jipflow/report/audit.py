"""The audit trail of a site for the person who answers for it: checked, and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jipflow.privacy.audit.events import Event
from jipflow.privacy.audit.lines import Line, TrailFault, check_keys
from jipflow.privacy.audit.trail import check_results, read_trail, signed_lines
from jipflow.release.audited import check_ledger
from jipflow.release.ledger import Ledger
from jipflow.report.pages import write_page

PARTS: Mapping[str, tuple[str, tuple[Event, ...]]] = {
    "Handed on": (
        "Packed for the hub, exported for other systems of the site, or sent to its PACS.",
        (Event.RELEASE_PACKED, Event.DATA_EXPORTED, Event.OBJECTS_PUBLISHED),
    ),
    "Erased": ("How much; of whom is not kept.", (Event.PATIENTS_ERASED,)),
    "Keys and trail": (
        "Secrets, keys and rosters that came into use, and what happened to ledger and trail.",
        (
            Event.SECRET_IN_USE,
            Event.SITE_KEY_CHANGED,
            Event.ROSTER_IN_FORCE,
            Event.LEDGER_RESUMED,
            Event.TRAIL_RESUMED,
            Event.LINE_CUT,
        ),
    ),
    "Read": (
        "From the site's folders, PACS, clinical data and consents. What was read again as it was "
        "has no second entry.",
        (
            Event.SOURCES_CATALOGUED,
            Event.ARCHIVES_QUERIED,
            Event.SERIES_RETRIEVED,
            Event.CLINICAL_READ,
            Event.CONSENT_READ,
        ),
    ),
}
"""The parts of the page, what matters most first: what each is of, and its events."""

NOT_COMPARED = "That entries are missing at the end was not looked for: name {}."
NOT_STOPPED = (
    "Who has the site's key and can write the trail, the results and the ledger can write another "
    "trail: only a copy that is kept elsewhere, or its last hash, shows that."
)


@dataclass(frozen=True)
class Examined:
    """A trail that was checked.

    Attributes:
        path: of it.
        lines: that it has; where it is not whole, all that have a signature.
        fault: what is wrong with it; None where nothing is.
        compared: what it was compared with: results, ledger.
    """

    path: Path
    lines: Sequence[Line]
    fault: TrailFault | None
    compared: Sequence[str]

    def sentences(self) -> list[str]:
        """Return what was found, a sentence each."""
        if self.fault is not None:
            return [
                f"Lines with a signature of the key that they name: {len(self.lines)}, which are "
                "shown here. Their order and number prove nothing."
            ]
        if not self.lines:
            return ["The trail is empty."]
        first, last = self.lines[0].entry, self.lines[-1].entry
        found = [
            f"The trail is whole: entries {first.number} to {last.number}, from {first.time} to "
            f"{last.time} (UTC).",
            f"Hash of the last line: {self.lines[-1].sha256}",
        ]
        for key, held in groupby(self.lines, lambda line: line.entry.key):
            signed = list(held)
            numbers = f"{signed[0].entry.number} to {signed[-1].entry.number}"
            found.append(f"Entries {numbers} are signed by {key}.")
        found += [line.facts.sentence().capitalize() for line in self.lines if line.resumes]
        back = sum(line.entry.clock_set_back for line in self.lines)
        found += [f"The clock was set back before {back} of them."] if back else []
        cut = sum(line.entry.event == Event.LINE_CUT for line in self.lines)
        found += [f"A writer was cut off {cut} times, which the line after it says."] if cut else []
        missing = [name for name in ("--results", "--ledger") if name not in self.compared]
        return [*found, *([NOT_COMPARED.format(" and ".join(missing))] if missing else [])]


def examine(
    path: Path, public: Sequence[str], ledger: Ledger | None = None, results: Path | None = None
) -> Examined:
    """Check a trail as far as can be with what is given.

    Args:
        path: of the trail.
        public: the keys that the site has had, in their order, the present one last.
        ledger: of the site; None where it is not compared with it.
        results: folder for the results of all protocols; None likewise.

    Raises:
        LedgerFault: the ledger is not as it was written.
        OSError: a file cannot be read; the trail is missing.
    """
    given = {"--results": results, "--ledger": ledger}
    compared = [name for name, value in given.items() if value is not None]
    try:
        lines = read_trail(path)
        check_keys(path, lines, public)
        if results is not None:
            check_results(path, lines, results)
        if ledger is not None:
            check_ledger(path, lines, ledger.entries())
    except TrailFault as fault:
        return Examined(path, signed_lines(path), fault, compared)
    path.stat()
    return Examined(path, lines, None, compared)


def write_audit_page(found: Examined, path: Path) -> None:
    """Write a trail as one self-contained page.

    Args:
        found: the trail.
        path: of the page.
    """
    write_page(
        path,
        "audit.html.j2",
        found=found,
        last=found.lines[-1] if found.lines else None,
        parts={
            title: (lead, [line for line in found.lines if line.entry.event in events])
            for title, (lead, events) in PARTS.items()
        },
        sentences=found.sentences(),
        not_stopped=NOT_STOPPED,
    )
