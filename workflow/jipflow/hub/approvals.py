"""What persons at a site have stated about a message, checked by the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from jipflow.exchange.message import FileEntry, ProtocolVersion
from jipflow.exchange.refusals import Refusal, Refused
from jipflow.release.approval import ProtocolText, Signed, Statement, together
from jipflow.settings.hub import Member


def check_approvals(
    approvals: Sequence[Signed],
    *,
    protocol: ProtocolVersion,
    site: str,
    recipient: str,
    round_: int,
    issued: str,
    files: Mapping[str, FileEntry],
    analyses: Mapping[str, str],
    member: Member,
) -> None:
    """Check that persons of a site's roster let a message leave.

    They have read its very files, or those of an earlier round by a statement that reaches this
    one. How many persons a site wants is its own rule, which the hub does not know; whether the
    cells of a later round are of the patients of the earlier one, the site alone can tell.

    Args:
        approvals: the statements in the message.
        protocol: of the message, which is the hub's.
        site: who sends it.
        recipient: the hub.
        round_: of the message.
        issued: time of the message (UTC).
        files: size and hash of its aggregates and its record, by name.
        analyses: hash of the hub's settings of each analysis of which cells are in it.
        member: the site on the roster.

    Raises:
        Refused: a statement is missing, is not of a person on the roster, or does not reach so far.
    """
    if not approvals:
        raise Refused(Refusal.APPROVAL_MISSING)
    for each in approvals:
        person = each.statement.person
        if person not in member.approvers:
            raise Refused(Refusal.UNKNOWN_APPROVER, person.name)
        if not each.verified:
            raise Refused(Refusal.APPROVAL_SIGNATURE, person.name)
    problem = together(approvals)
    if problem:
        raise Refused(Refusal.APPROVAL_MISMATCH, problem)
    statement = approvals[0].statement
    _check_about(statement, protocol, site, recipient)
    if statement.ended(datetime.fromisoformat(issued)):
        detail = f"until {statement.until}, the message is of {issued}"
        raise Refused(Refusal.APPROVAL_EXPIRED, detail)
    _check_reach(statement, round_, files)
    for name, sha256 in sorted(analyses.items()):
        _check_analysis(statement, name, sha256, round_)


def _check_about(
    statement: Statement, protocol: ProtocolVersion, site: str, recipient: str
) -> None:
    """Check what a statement is about."""
    about = {
        "protocol": (statement.protocol, ProtocolText.of(protocol)),
        "site": (statement.site, site),
        "hub": (statement.hub, recipient),
    }
    for what, (approved, sent) in about.items():
        if approved != sent:
            raise Refused(Refusal.APPROVAL_MISMATCH, f"approved for another {what}")


def _check_reach(statement: Statement, round_: int, files: Mapping[str, FileEntry]) -> None:
    """Check that a statement is about these files, or about those of an earlier round."""
    if statement.round > round_:
        detail = f"of round {statement.round}, the message is of {round_}"
        raise Refused(Refusal.APPROVAL_MISMATCH, detail)
    if statement.round == round_:
        for name, entry in statement.files.items():
            if files.get(name) != entry:
                raise Refused(Refusal.APPROVAL_MISMATCH, f"approved was another {name}")
    elif round_ > statement.last_round:
        detail = f"up to round {statement.last_round}, the message is of {round_}"
        raise Refused(Refusal.APPROVAL_EXCEEDED, detail)


def _check_analysis(statement: Statement, name: str, sha256: str, round_: int) -> None:
    """Check that a statement lets cells of an analysis leave."""
    approved = statement.analyses.get(name)
    if approved is None:
        raise Refused(Refusal.APPROVAL_EXCEEDED, f"analysis {name} was not approved")
    if approved.sha256 != sha256:
        raise Refused(Refusal.APPROVAL_MISMATCH, f"analysis {name} was approved as another text")
    if round_ > approved.rounds:
        detail = f"analysis {name} up to round {approved.rounds}, the message is of {round_}"
        raise Refused(Refusal.APPROVAL_EXCEEDED, detail)
