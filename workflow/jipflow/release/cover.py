"""Whether the statements about an earlier round let a later one leave without a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jipflow.analyses.cells import CellKey
from jipflow.exchange.message import PAGE
from jipflow.files import canonical_digest
from jipflow.release.approval import (
    NAME,
    Signed,
    Statement,
    command,
    names_of,
    read_approvals,
    together,
)
from jipflow.release.contents import Header, ReleaseError, read_release
from jipflow.release.history import Past
from jipflow.release.ledger import Kept, Packed
from jipflow.release.revocation import Revoked, why_revoked
from jipflow.release.terms import Terms

Cells = Mapping[tuple[str, CellKey], str]
"""Fingerprint of the patients behind each cell, by its analysis and key."""


@dataclass(frozen=True)
class Later:
    """What would leave in a later round.

    Attributes:
        header: of the candidate.
        terms: of the settings as they are.
        cells: that would leave.
        before: those that left in the round before, by the site's ledger.
    """

    header: Header
    terms: Terms
    cells: Cells
    before: Cells


def cells_of(past: Past) -> dict[tuple[str, CellKey], str]:
    """Return the fingerprint of the patients behind each cell of a release."""
    sets = {cell.values.cases for cell in past.whole}
    prints = {patients: canonical_digest(sorted(patients)) for patients in sets}
    return {(cell.analysis, cell.key): prints[cell.values.cases] for cell in past.whole}


def covers(signed: Sequence[Signed], later: Later, now: datetime) -> list[str]:
    """Return why statements about an earlier round do not reach a later one.

    A person has approved the analyses, not the numbers of a round that was not there yet. So a
    round leaves without one only where all that the person relied on is as it was: the text of the
    protocol and of each analysis, the place, the program, the cells, and the patients behind them.

    Args:
        signed: the statements by which the round before left.
        later: what would leave now.
        now: time.

    Returns:
        A sentence for each reason; none where the round may leave.
    """
    if not signed:
        return ["Nobody has approved an earlier round."]
    if not all(each.verified for each in signed):
        return ["A statement about the earlier round is not signed by the person it names."]
    problem = together(signed)
    if problem:
        return [f"Of the statements about the earlier round, {problem}."]
    statement = signed[0].statement
    found = [*_persons(signed, later.terms.approvers), *_differing(statement, later.header)]
    if statement.ended(now):
        found.append(f"The approval ended on {statement.until}.")
    return [*found, *_analyses(statement, later), *_cells(later)]


def _persons(signed: Sequence[Signed], needed: int) -> list[str]:
    if len(signed) >= needed:
        return []
    (only,) = signed
    return [
        f"{only.statement.person.name} alone approved the earlier round, and the site wants two "
        "persons now (disclosure.approvers of site.yaml)."
    ]


def _differing(statement: Statement, header: Header) -> list[str]:
    """Return what a statement is about that the later round is not."""
    protocol = statement.protocol
    found = []
    if (protocol.id, protocol.sha256) != (header.protocol.id, header.protocol.sha256):
        found.append(
            f"Approved was another text of the protocol: {protocol.id} {protocol.version}, now it "
            f"is {header.protocol.id} {header.protocol.version}."
        )
    pairs = {
        "site": (statement.site, header.site),
        "hub": (statement.hub, header.recipient),
        "version of jipflow": (statement.version, header.version),
    }
    found += [
        f"Approved was another {what}: {approved}, now it is {now}."
        for what, (approved, now) in pairs.items()
        if approved != now
    ]
    if statement.round >= header.round:
        found.append(
            f"Approved was round {statement.round}, which is not before round {header.round}."
        )
    return found


def _analyses(statement: Statement, later: Later) -> list[str]:
    """Return what is wrong with the analyses of which cells would leave."""
    found = []
    for name in sorted({analysis for analysis, _ in later.cells}):
        approved = statement.analyses.get(name)
        if approved is None:
            found.append(f"The analysis {name} was not approved.")
        elif approved.sha256 != later.terms.analyses.get(name):
            found.append(f"The settings of the analysis {name} are not those that were approved.")
        elif approved.rounds < later.header.round:
            found.append(
                f"The analysis {name} was approved up to round {approved.rounds}, this is round "
                f"{later.header.round}."
            )
    return found


def _cells(later: Later) -> list[str]:
    """Return which cells are new, or of other patients than in the round before."""
    if not later.cells:
        return ["No cell would leave; a person states so with --empty."]
    before = later.header.round - 1
    new = sorted(later.cells.keys() - later.before.keys())
    other = sorted(
        cell
        for cell in later.cells.keys() & later.before.keys()
        if later.cells[cell] != later.before[cell]
    )
    found = []
    if new:
        found.append(f"{_number(new)} did not leave in round {before}, such as {_words(new[0])}.")
    if other:
        verb = "is" if len(other) == 1 else "are"
        found.append(
            f"{_number(other)} {verb} of other patients than in round {before}, such as "
            f"{_words(other[0])}."
        )
    return found


def _number(cells: Sequence[tuple[str, CellKey]]) -> str:
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"


def _words(cell: tuple[str, CellKey]) -> str:
    analysis, key = cell
    return f"{analysis}: {key.words}"


def left_before(entries: Sequence[Kept], header: Header) -> tuple[Packed, Past] | None:
    """Return what left last in the round before a candidate's, None where nothing did.

    Args:
        entries: of the site's ledger.
        header: of the candidate.
    """
    for kept in reversed(entries):
        packed = kept.entry.release
        if packed is not None and kept.past is not None:
            manifest = packed.manifest
            found = (manifest.protocol.sha256, manifest.recipient, manifest.round)
            if found == (header.protocol.sha256, header.recipient, header.round - 1):
                return packed, kept.past
    return None


def covering(
    header: Header,
    terms: Terms,
    candidate: Past,
    entries: Sequence[Kept],
    now: datetime,
    revoked: Revoked,
) -> tuple[list[Signed], list[str]]:
    """Return the statements of the round before a candidate's, and why they do not reach it.

    Args:
        header: of the candidate.
        terms: of the settings as they are.
        candidate: what stands behind it.
        entries: of the site's ledger.
        now: time.
        revoked: what persons have taken back.
    """
    found = left_before(entries, header)
    if found is None:
        return [], [f"Nothing left in round {header.round - 1}."]
    packed, past = found
    taken_back = why_revoked(packed.approvals, revoked)
    if taken_back:
        return packed.approvals, [taken_back]
    later = Later(header, terms, cells_of(candidate), cells_of(past))
    return packed.approvals, covers(packed.approvals, later, now)


def check_not_revoked(release_dir: Path, signed: Sequence[Signed], revoked: Revoked) -> None:
    """Check that no person has taken back one of the statements by which a release may leave.

    Args:
        release_dir: folder of the release.
        signed: the statements.
        revoked: what persons have taken back.

    Raises:
        ReleaseError: one has.
    """
    taken_back = why_revoked(signed, revoked)
    if taken_back:
        raise ReleaseError(
            f"{taken_back.rstrip('.')}. Remove {release_dir / NAME} if it is there; if the release "
            f"shall leave all the same, read {release_dir / PAGE}, then: {command(release_dir)}"
        )


def approvals_for(
    *,
    release_dir: Path,
    terms: Terms,
    candidate: Past,
    entries: Sequence[Kept],
    revoked: Revoked,
    now: datetime | None = None,
) -> list[Signed]:
    """Return the statements by which a candidate may leave: its own, or those of an earlier round.

    Args:
        release_dir: folder of the candidate.
        terms: of the settings as they are.
        candidate: what stands behind it.
        entries: of the site's ledger.
        revoked: what persons have taken back.
        now: time, the clock's by default.

    Raises:
        ReleaseError: a person must approve it, and why.
    """
    moment = now or datetime.now(UTC)
    header: Header = read_release(release_dir).disclosure
    signed, why = covering(header, terms, candidate, entries, moment, revoked)
    try:
        # Persons who have read this round may have approved less than those before.
        own = read_approvals(release_dir, terms.approvers, moment)
        check_not_revoked(release_dir, own, revoked)
        return own
    except ReleaseError as error:
        if header.round > 1 and not why:
            return signed
        if header.round == 1 or (release_dir / NAME).is_file():
            raise
        by = f"by {names_of(signed)} " if signed else ""
        raise ReleaseError(
            f"Round {header.round} is not covered by the approval {by}of an earlier round: "
            f"{' '.join(why)} Read {release_dir / PAGE}, then: {command(release_dir)}"
        ) from error
