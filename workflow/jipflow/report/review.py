"""What persons have approved and must approve, in words."""

from __future__ import annotations

from collections.abc import Sequence

from jipflow.release.approval import Signed


def terms_lines(signed: Sequence[Signed], needed: int) -> list[str]:
    """Return the terms that persons have signed, a line each, for the person who has just done so.

    Args:
        signed: the statements about a release, at least one.
        needed: how many persons must approve it.
    """
    statement = signed[0].statement
    protocol = statement.protocol
    until = f", until {statement.until} (UTC)" if statement.until else ""
    lines = [
        f"protocol: {protocol.id} {protocol.version}, SHA-256 {protocol.sha256}",
        f"from {statement.site} to the hub {statement.hub}, by jipflow {statement.version}",
        f"round {statement.round}{_later(statement.round, statement.last_round)}{until}",
    ]
    lines += [
        f"analysis {name}: SHA-256 of its settings {analysis.sha256}"
        for name, analysis in sorted(statement.analyses.items())
    ]
    lines += [f"SHA-256 of {name}: {entry.sha256}" for name, entry in statement.read().items()]
    lines += [
        f"signed by {each.statement.person.name} on {each.statement.issued}" for each in signed
    ]
    if len(signed) < needed:
        return [*lines, "a second person must approve it with the same terms"]
    return [*lines, "pack it with: snakemake bundle ..."]


def _later(round_: int, last: int) -> str:
    if last == round_:
        return " only"
    rounds = f"round {last}" if last == round_ + 1 else f"rounds {round_ + 1} to {last}"
    return f", and {rounds} of the same cells of the same patients"
