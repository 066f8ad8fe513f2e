"""The audit trail of a site or hub for who answers for it: checked, and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jipflow.hub.audited import check_hub
from jipflow.hub.settings import HubSettings
from jipflow.privacy.audit.events import AT_HUB, Event
from jipflow.privacy.audit.lines import Line, TrailFault, check_keys
from jipflow.privacy.audit.trail import check_results, read_trail, signed_lines
from jipflow.release.audited import check_ledger
from jipflow.release.ledger import Ledger
from jipflow.report.pages import write_page

Parts = Mapping[str, tuple[str, tuple[Event, ...]]]
"""The parts of a page, what matters most first: what each is of, and its events."""

SITE_PARTS: Parts = {
    "Handed on": (
        "Packed for the hub, exported for other systems of the site, or sent to its PACS; and "
        "approvals that were revoked.",
        (
            Event.RELEASE_PACKED,
            Event.APPROVAL_REVOKED,
            Event.DATA_EXPORTED,
            Event.OBJECTS_PUBLISHED,
        ),
    ),
    "Named": (
        "Who asked which patient or file is behind a pseudonym or a code, by the account.",
        (Event.PSEUDONYM_RESOLVED,),
    ),
    "Erased": ("How much; of whom is not kept.", (Event.PATIENTS_ERASED,)),
    "Keys and trail": (
        "Secrets, keys and rosters that came into use, and what happened to ledger and trail.",
        (
            Event.SECRET_IN_USE,
            Event.KEY_CHANGED,
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

HUB_PARTS: Parts = {
    "Accepted and merged": (
        "Messages of sites that count, and results that were made of them. What counts again as it "
        "did has no second entry.",
        (Event.RELEASE_ACCEPTED, Event.ROUND_MERGED),
    ),
    "Refused": (
        "Files of the inbox that do not count. rejected.json of the round has their names.",
        (Event.MESSAGE_REFUSED,),
    ),
    "Sent to sites": (
        "Rounds that were opened or ended, and the messages that say so.",
        (Event.ROUND_OPENED, Event.ROUNDS_ENDED, Event.MESSAGE_WRITTEN),
    ),
    "Keys and trail": (
        "Rosters and keys that came into use, and what happened to the trail.",
        (Event.ROSTER_CHANGED, Event.KEY_CHANGED, Event.TRAIL_RESUMED, Event.LINE_CUT),
    ),
}

NOT_COMPARED = "That entries are missing at the end was not looked for: name {}."
NOT_STOPPED = (
    "Who has the key that signs and can write the trail, the results and what else is compared can "
    "write another trail: only a copy that is kept elsewhere, or its last hash, shows that."
)


@dataclass(frozen=True)
class Examined:
    """A trail that was checked.

    Attributes:
        path: of it.
        lines: that it has; where it is not whole, all that have a signature.
        fault: what is wrong with it; None where nothing is.
        compared: what it was compared with: results and ledger of a site, the settings of a hub.
    """

    path: Path
    lines: Sequence[Line]
    fault: TrailFault | None
    compared: Sequence[str]

    @property
    def of_hub(self) -> bool:
        """Whether it is a hub's."""
        return any(line.entry.event in AT_HUB for line in self.lines)

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
        wanted = ["--hub"] if self.of_hub else ["--results", "--ledger"]
        missing = [name for name in wanted if name not in self.compared]
        return [*found, *([NOT_COMPARED.format(" and ".join(missing))] if missing else [])]


def examine(
    path: Path,
    public: Sequence[str],
    ledger: Ledger | None = None,
    results: Path | None = None,
    hub: HubSettings | None = None,
) -> Examined:
    """Check a trail as far as can be with what is given.

    Args:
        path: of the trail.
        public: the keys that the site or hub has had, in their order, the present one last.
        ledger: of the site; None where it is not compared with it.
        results: folder for the results of all protocols; None likewise.
        hub: settings of the hub, of a hub's trail.

    Raises:
        LedgerFault: the ledger is not as it was written.
        ThreadFault: what a hub has sent is not as it was written.
        MemoryFault: what a hub has accepted is not as it was left.
        OSError: a file cannot be read; the trail is missing.
    """
    given = {"--results": results, "--ledger": ledger, "--hub": hub}
    compared = [name for name, value in given.items() if value is not None]
    try:
        lines = read_trail(path)
        check_keys(path, lines, public)
        if results is not None:
            check_results(path, lines, results)
        if ledger is not None:
            check_ledger(path, lines, ledger.entries())
        if hub is not None:
            check_results(path, lines, Path(hub.hub.results))
            check_hub(path, lines, hub)
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
            for title, (lead, events) in (HUB_PARTS if found.of_hub else SITE_PARTS).items()
        },
        sentences=found.sentences(),
        not_stopped=NOT_STOPPED,
    )
