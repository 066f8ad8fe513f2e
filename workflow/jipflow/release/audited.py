"""The site's ledger and its audit trail: each shows what is missing in the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jipflow.privacy.audit.events import Event
from jipflow.privacy.audit.lines import Anchor, Line, check_anchor, fault
from jipflow.privacy.audit.trail import Trail
from jipflow.release.ledger import Kept


def record_ledger(trail: Trail, entries: Sequence[Kept]) -> None:
    """Have the trail know every entry of the ledger, if it is the one that they speak of.

    Args:
        trail: of the site.
        entries: of its ledger.

    Raises:
        TrailFault: the trail is not as it was written.
        OSError: it cannot be written.
    """
    _check_anchors(trail.path, trail.lines(), entries)
    trail.record_all(map(_facts, entries))


def check_ledger(path: Path, lines: Sequence[Line], entries: Sequence[Kept]) -> None:
    """Check that a trail has every line that a ledger speaks of, and knows every entry of it.

    Args:
        path: of the trail.
        lines: of it.
        entries: of the ledger.

    Raises:
        TrailFault: it does not.
    """
    _check_anchors(path, lines, entries)
    known = {line.facts.plain().get("ledger") for line in lines}
    for kept in entries:
        if kept.sha256 not in known:
            raise fault(
                path,
                f"no entry is of entry {kept.entry.number} of the ledger. If a job was killed when "
                "it had packed, snakemake bundle adds it",
            )


def ledger_anchors(entries: Sequence[Kept]) -> dict[str, Anchor]:
    """Return which lines of the trail the entries of a ledger speak of, by who does."""
    return {
        f"entry {kept.entry.number} of the ledger": kept.entry.audit
        for kept in entries
        if kept.entry.audit is not None
    }


def _check_anchors(path: Path, lines: Sequence[Line], entries: Sequence[Kept]) -> None:
    for keeper, anchor in ledger_anchors(entries).items():
        check_anchor(path, lines, anchor, keeper)


def _facts(kept: Kept) -> tuple[Event, dict[str, Any]]:
    """Return what the trail says of an entry of the ledger."""
    entry = kept.entry
    facts: dict[str, Any] = {
        "ledger": kept.sha256,
        "number": entry.number,
        "written": entry.written,
    }
    if entry.resumed is not None:
        person = entry.resumed.resumption.person
        return Event.LEDGER_RESUMED, {**facts, "person": person.name, "key": person.key}
    assert entry.release is not None
    assert kept.past is not None
    manifest = entry.release.manifest
    return Event.RELEASE_PACKED, {
        **facts,
        "protocol": manifest.protocol.id,
        "protocol_version": manifest.protocol.version,
        "protocol_sha256": manifest.protocol.sha256,
        "round": manifest.round,
        "attempt": manifest.attempt,
        "recipient": manifest.recipient,
        "cells": len(kept.past.left),
        "bundle": entry.release.bundle,
        "approvals": [
            {
                "person": each.statement.person.name,
                "key": each.statement.person.key,
                "issued": each.statement.issued,
            }
            for each in entry.release.approvals
        ],
    }
