"""A candidate in a few sentences: what leaves, what stays, what is new, and who must approve it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jipflow.analyses.cells import CellKey
from jipflow.analyses.forms import CountedCell
from jipflow.release.approval import Signed, names_of
from jipflow.release.contents import Disclosure, Release
from jipflow.release.gate import all_rules
from jipflow.release.history import EARLIER
from jipflow.release.since import Before, Covered, Review, Seen
from jipflow.report.withheld import disclosure_summary, withheld_parts
from jipflow.words import number_of

NAMED = 4
"""Most analyses or rules that a sentence names, the last for all others."""

PLACES = frozenset(CellKey._fields)


def content_sentences(release: Release, review: Review) -> list[str]:
    """Return what would leave, what stays and what is new, a sentence each.

    They depend on nothing but the candidate. Words between backticks are names.

    Args:
        release: the candidate.
        review: what its build noted for a reader.
    """
    return [
        *_leaving(release),
        *_noise(review),
        *_asked(release, review),
        *_staying(release.disclosure),
        *_parts(release),
        *_before(review.before, release.disclosure),
        *(_covered(review.covered, release.disclosure.round) if review.covered else ()),
    ]


def reach_sentence(review: Review, round_: int, signed: Sequence[Signed]) -> str:
    """Return which later rounds an approval covers, or could cover.

    Args:
        review: of the candidate.
        round_: of the candidate.
        signed: the statements that let it leave; empty where persons must approve it.
    """
    if signed:
        statement = signed[0].statement
        if statement.last_round <= round_:
            return "The approval is of this round only."
        return (
            f"The approval covers {_rounds(round_ + 1, statement.last_round)} as well, until "
            f"{statement.until} (UTC), for the same cells of the same patients."
        )
    takes = {name: rounds for name, rounds in review.rounds.items() if rounds > round_}
    if not takes:
        return "No analysis takes a round after this one."
    last = later_rounds(review, round_)
    names = _listed([f"`{name}` takes {rounds}" for name, rounds in sorted(takes.items())])
    return (
        f"Of the rounds to come, {names}; with `--rounds {last} --until DAY` an approval covers "
        "them, for the same cells of the same patients."
    )


def later_rounds(review: Review, round_: int) -> int:
    """Return the last round that any analysis takes; 0 where none takes one after this."""
    last = max(review.rounds.values(), default=0)
    return last if last > round_ else 0


def _leaving(release: Release) -> Iterator[str]:
    header, analyses = release.aggregates, release.aggregates.analyses
    cells = [cell for sent in analyses for cell in sent.cells]
    if not cells:
        asked = release.disclosure.summary.cells
        why = f"the rules keep {_all(asked)} back" if asked else "the analyses have no cell"
        yield f"No number would leave: {why}."
        return
    numbers = sum(_numbers(cell.plain()) for cell in cells)
    by_analysis = [
        (len(sent.cells), f"of `{sent.id}` ({sent.kind})") for sent in analyses if sent.cells
    ]
    named = _listed(_largest(by_analysis, "of other analyses"))
    yield (
        f"{number_of(numbers, 'number')} in {number_of(len(cells), 'cell')} would leave "
        f"{header.site} for the hub `{header.recipient}` in round {header.round}: {named}."
    )
    counts = [cell.n for cell in cells if isinstance(cell, CountedCell)]
    if not counts:
        return
    least, most = min(counts), max(counts)
    patients = f"{most}" if least == most else f"{least} to {most}"
    exact = "exact " if len(counts) < len(cells) else ""
    each = "It is" if len(cells) == 1 else f"Each {exact}cell is"
    yield f"{each} of {patients} patients; the minimum is {header.min_patients}."


def _noise(review: Review) -> Iterator[str]:
    """Say what the cells with noise take of each patient's budget."""
    noise = review.noise
    if noise is None:
        return
    yield (
        f"Cells with noise take at most {noise.takes:g} of a patient's budget of "
        f"{noise.budget:g} (epsilon, for ever); every patient keeps at least {noise.left:g}."
    )
    if noise.left_out:
        out = number_of(noise.left_out, "patient")
        yield f"{out} had too little left and would be left out of a cell, which does not show."


def _all(cells: int) -> str:
    return "the one cell" if cells == 1 else f"all {cells} cells"


def _numbers(content: Any) -> int:
    """Count the numbers of a cell."""
    if isinstance(content, Mapping):
        return sum(_numbers(value) for key, value in content.items() if key not in PLACES)
    if isinstance(content, list | tuple):
        return sum(map(_numbers, content))
    return int(isinstance(content, int | float) and not isinstance(content, bool))


def _asked(release: Release, review: Review) -> Iterator[str]:
    if review.asked is not None:
        cells = sum(review.asked.values())
        counts = [(count, f"of `{name}`") for name, count in sorted(review.asked.items()) if count]
        named = f": {_listed(_largest(counts, 'of other analyses'))}" if counts else ""
        yield f"The hub asks in this round for {number_of(cells, 'cell')}{named}."


def _staying(disclosure: Disclosure) -> Iterator[str]:
    summary = disclosure_summary(disclosure)
    if not summary["withheld"]:
        yield "No cell stays at the site."
        return
    counts = [(rule["cells"], _because(rule["rule"])) for rule in summary["rules"]]
    verb = "stays" if summary["withheld"] == 1 else "stay"
    whole = summary["withheld"] + summary["kept"]
    yield (
        f"{summary['withheld']} of {number_of(whole, 'cell')} {verb} at the site: "
        f"{_listed(_largest(counts, 'for other reasons'))}."
    )


def _because(code: str) -> str:
    """Return why a rule withholds, in plain words and with its code."""
    known = {rule.code: rule.because for rule in all_rules()}
    return f"because {known[code]} (`{code}`)" if known.get(code) else f"by the rule `{code}`"


def _parts(release: Release) -> Iterator[str]:
    counts: dict[tuple[str, str], int] = {}
    for found in withheld_parts(release.disclosure, release.aggregates.analyses):
        for rule in found.rules:
            counts[found.parts, rule] = counts.get((found.parts, rule), 0) + len(found.names)
    for (parts, rule), count in sorted(counts.items()):
        word = parts.removesuffix("s") if count == 1 else parts
        verb = "stays" if count == 1 else "stay"
        yield f"Of the cells that leave, {count} {word} {verb} as well, {_because(rule)}."


def _before(before: Before, disclosure: Disclosure) -> Iterator[str]:
    if not before.releases:
        yield "Nothing has left the site before, by its ledger."
        return
    left = f"{number_of(before.releases, 'release')} left the site before"
    last = f", the last on {before.last[:10]}" if before.last else ""
    known = {each: count for each, count in before.cells.items() if count}
    if known.keys() == {Seen.SAME}:
        what = "every cell that would leave left with the very same numbers, so nothing new shows"
    elif known:
        what = "of the cells that would leave, " + _listed(
            [
                _seen(seen, known[seen], before.examples.get(seen, []))
                for seen in Seen
                if seen in known
            ]
        )
    else:
        what = "no cell would leave"
    kept = disclosure.summary.withheld.get(EARLIER.code, 0)
    stays = f"{number_of(kept, 'cell')} {_stays(kept)} because of what left (`earlier`)"
    yield f"{left}{last}: {what}{f'; {stays}' if kept else ''}."


def _stays(count: int) -> str:
    return "stays" if count == 1 else "stay"


def _seen(seen: Seen, count: int, examples: Sequence[str]) -> str:
    verb = "is" if count == 1 else "are"
    such = f" (such as `{examples[0]}`)" if examples else ""
    if seen == Seen.SAME:
        return f"{count} left with the very same numbers"
    if seen == Seen.PATIENTS:
        return f"{count} {verb} of the very same patients with other numbers{such}"
    if seen == Seen.OTHERS:
        return f"{count} left of other patients{such}"
    return f"{count} {verb} new{such}"


def _covered(covered: Covered, round_: int) -> Iterator[str]:
    if not covered.signed:
        yield f"No earlier approval covers this round: {' '.join(covered.why)}"
        return
    statement = covered.signed[0].statement
    until = f" until {statement.until} (UTC)" if statement.until else ""
    last = f"up to round {statement.last_round}"
    approved = f"{names_of(covered.signed)} approved round {statement.round} {last}{until}"
    if covered.why:
        yield f"{approved}, which does not cover this round: {' '.join(covered.why)}"
    else:
        yield f"{approved}, which covers this round: its cells left before, of the same patients."


def _rounds(first: int, last: int) -> str:
    return f"round {first}" if first == last else f"rounds {first} to {last}"


def _largest(counts: Sequence[tuple[int, str]], others: str) -> list[str]:
    """Return the counts with what they are of, the largest first, the least ones together."""
    ranked = sorted(counts, key=lambda entry: -entry[0])
    if len(ranked) > NAMED:
        rest = sum(count for count, _ in ranked[NAMED - 1 :])
        ranked = [*ranked[: NAMED - 1], (rest, others)]
    return [f"{count} {what}" for count, what in ranked]


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


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
    return f", and {_rounds(round_ + 1, last)} of the same cells of the same patients"
