"""The page that a person reads before approving a release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jipflow.analyses.contract import kinds
from jipflow.analyses.forms import ReleasedAnalysis
from jipflow.analyses.noise import has_noise
from jipflow.analyses.rules import Finding
from jipflow.analyses.units import clinical_units
from jipflow.exchange import message
from jipflow.reasons import StageError
from jipflow.release.approval import FORMAT, ProtocolText, Statement
from jipflow.release.contents import Aggregates, Disclosure, Release
from jipflow.release.limits import NOT_PROTECTED_FROM
from jipflow.release.sent import Change, Sent, changes
from jipflow.release.since import Review
from jipflow.release.terms import Terms
from jipflow.report.basis import Basis
from jipflow.report.pages import compile_page, write_page
from jipflow.report.review import content_sentences, later_rounds, reach_sentence
from jipflow.report.withheld import disclosure_summary, withheld_parts

MAX_CHANGES = 200
"""Most changed cells that the page lists."""

prepare = partial(compile_page, "disclosure")


def write_disclosure_page(
    *,
    release: Release,
    terms: Terms,
    review: Review,
    path: Path,
    basis: Basis,
    secret: bytes,
    sent: Sequence[Sent] = (),
) -> None:
    """Write the page that shows every value that would leave, and what the rules withheld.

    Beside these it shows whom the numbers are of, with small counts: the page stays at the site.
    No case, patient or path of an image is on it.

    Args:
        release: the candidate.
        terms: what else an approval of it is about.
        review: what its build noted for a reader.
        path: the HTML file.
        basis: whom the release is of.
        secret: of the site; without it the hash of the page, which leaves, tells nothing of it.
        sent: the bundles that the site packed before, by attempt.

    Raises:
        StageError: the two files do not speak of the same cells.
    """
    aggregates, disclosure = release.aggregates, release.disclosure
    _check_same_cells(aggregates, disclosure)
    parts = list(withheld_parts(disclosure, aggregates.analyses))
    with clinical_units({each.name: each.unit for each in basis.variables}):
        write_page(
            path,
            "disclosure.html.j2",
            secret=secret,
            aggregates=aggregates,
            noisy=any(has_noise(analysis.kind) for analysis in aggregates.analyses),
            sentences=[
                *content_sentences(release, review),
                reach_sentence(review, aggregates.round, ()),
            ],
            summary=disclosure_summary(disclosure),
            analyses=[_drawn(analysis) for analysis in aggregates.analyses],
            withheld=_withheld(disclosure),
            withheld_parts=parts,
            part_rules=sorted({rule for found in parts for rule in found.rules}),
            meanings=disclosure.rules,
            limits=NOT_PROTECTED_FROM,
            basis=basis,
            before=_before(release, sent),
            statement=statement_rows(release, terms),
            approvers=terms.approvers,
            later=later_rounds(review, aggregates.round),
        )


def statement_rows(release: Release, terms: Terms) -> list[tuple[str, str]]:
    """Return each field of the statement that a person signs, with its value.

    What is known only when it is signed is put into words.

    Args:
        release: the candidate.
        terms: what else an approval of it is about.
    """
    header = release.disclosure
    values: dict[str, str] = {
        "format": FORMAT,
        "site": header.site,
        "hub": header.recipient,
        "version": header.version,
        "round": str(header.round),
        "until": "the last day of your approval (UTC), which you give with --until",
        "page": "the SHA-256 of this very page, which `jipflow release approve` prints",
        "person": "your name, which all sites read in the hub's report, and your public key",
        "issued": "the time of your approval (UTC), to the second",
    }
    rows: list[tuple[str, str]] = []
    for name in Statement.model_fields:
        if name == "protocol":
            rows += _flat(name, ProtocolText.of(header.protocol).plain())
        elif name == "analyses":
            rows += [
                (
                    f"{name}: {analysis}",
                    f"SHA-256 of its settings {sha256}; up to the round that you give with "
                    f"--rounds, else {header.round}",
                )
                for analysis, sha256 in terms.analyses.items()
            ]
        elif name == "files":
            for file, data in release.files.items():
                found = message.describe(data)
                rows.append((f"files: {file}", f"{found.size} bytes, SHA-256 {found.sha256}"))
        else:
            rows.append((name, values[name]))
    return rows


def _flat(name: str, content: Any) -> Iterator[tuple[str, str]]:
    """Yield each value of nested keys under all of them."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(f"{name}: {key}", value)
    else:
        yield name, str(content)


def _before(release: Release, sent: Sequence[Sent]) -> dict[str, Any] | None:
    """Compare with the bundle that was packed last; None where none was."""
    if not sent:
        return None
    last = sent[-1]
    if last.manifest is None or last.aggregates is None:
        return {"bundle": last, "readable": False}
    found = changes(last.aggregates, release.aggregates)
    minimum = release.disclosure.min_patients
    return {
        "bundle": last,
        "readable": True,
        "same_protocol": last.manifest["protocol"]["sha256"] == release.aggregates.protocol.sha256,
        "all": len(found),
        "changes": [_change_row(change, minimum) for change in found[:MAX_CHANGES]],
        "tells": sum(bool(change.tells_of(minimum)) for change in found),
    }


def _change_row(change: Change, minimum: int) -> dict[str, Any]:
    return {"change": change, "tells": change.tells_of(minimum)}


def _drawn(analysis: ReleasedAnalysis) -> dict[str, Any]:
    drawing = kinds()[analysis.kind].draw_release(analysis)
    return {"id": analysis.id, "kind": analysis.kind, "drawing": drawing}


def _check_same_cells(aggregates: Aggregates, disclosure: Disclosure) -> None:
    leaving = {(sent.id, cell.key) for sent in aggregates.analyses for cell in sent.cells}
    released = {(cell.analysis, cell.key) for cell in disclosure.cells if cell.released}
    for analysis, key in sorted(leaving ^ released):
        name = "disclosure.json" if (analysis, key) in leaving else "aggregates.json"
        raise StageError(
            f"{analysis}: {key.words} is not in {name}, but in the other file; build the release "
            "again."
        )


def _withheld(disclosure: Disclosure) -> list[dict[str, Any]]:
    return [
        {
            "analysis": cell.analysis,
            **cell.key._asdict(),
            "why": [r for r, finding in sorted(cell.rules.items()) if finding == Finding.WITHHELD],
        }
        for cell in disclosure.cells
        if not cell.released
    ]
