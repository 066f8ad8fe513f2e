"""The page that says what has become of a release, and what a person must do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path

from jipflow.exchange.message import CONTENT, canonical, describe
from jipflow.reasons import StageError
from jipflow.release.approval import NAME, Signed, command, names_of, read_approvals
from jipflow.release.contents import Release, read_release
from jipflow.release.cover import check_not_revoked
from jipflow.release.revocation import NOBODY, Revoked, why_revoked
from jipflow.release.sent import Sent, sent_before
from jipflow.release.since import Review, read_review
from jipflow.release.terms import Terms, read_terms
from jipflow.report.pages import compile_page, write_page
from jipflow.report.review import content_sentences, reach_sentence
from jipflow.settings.resources import ConfigError

PAGE = "index.html"

prepare = partial(compile_page, "release")


class State(StrEnum):
    """What has become of a release."""

    BUILT = "waits for approval"
    HALF = "waits for a second person"
    OUTDATED = "has an approval that does not hold"
    COVERED = "is covered by an earlier approval, not packed"
    APPROVED = "is approved, not packed"
    PACKED = "is packed"


@dataclass(frozen=True)
class Progress:
    """What has become of a release.

    Attributes:
        state: in a word.
        signed: the statements by which it may leave; of one person where a second is missing.
        problem: why an approval does not hold, or empty.
        revoked: who has revoked the approval of an earlier round, when and why; empty if nobody.
        bundle: the bundle of what was approved; None where it is not packed.
    """

    state: State
    signed: tuple[Signed, ...] = ()
    problem: str = ""
    revoked: str = ""
    bundle: Sent | None = None

    @property
    def lets_leave(self) -> bool:
        """Whether nobody must approve it any more."""
        return self.state in {State.COVERED, State.APPROVED, State.PACKED}


@dataclass(frozen=True)
class Standing:
    """A candidate as a person finds it.

    Attributes:
        release: its files.
        terms: of the settings that it was built by.
        review: what its build noted for a reader.
        progress: what has become of it.
        sent: what was packed of its round.
    """

    release: Release
    terms: Terms
    review: Review
    progress: Progress
    sent: Sequence[Sent]

    def sentences(self) -> list[str]:
        """Return the candidate in a few sentences; words between backticks are names."""
        found = content_sentences(self.release, self.review)
        round_ = self.release.disclosure.round
        signed = self.progress.signed if self.progress.lets_leave else ()
        approved = f"{self._over()}{self._approved()}"
        return [*found, approved, reach_sentence(self.review, round_, signed)]

    def _over(self) -> str:
        """Return that an approval covered the candidate when it was built, and does no more."""
        covered = self.review.covered
        if covered is None or covered.why or self._by_earlier:
            return ""
        if self.progress.revoked:
            return f"{self.progress.revoked.rstrip('.')}. "
        return f"That approval ended on {covered.signed[0].statement.until}. "

    @property
    def _by_earlier(self) -> bool:
        """Whether it may leave by an approval of an earlier round."""
        signed = self.progress.signed
        round_ = self.release.disclosure.round
        return bool(signed) and self.progress.lets_leave and signed[0].statement.round < round_

    def _approved(self) -> str:
        """Return who has approved the candidate, and who must still."""
        signed, needed = self.progress.signed, self.terms.approvers
        must = "a person must" if needed == 1 else "two persons must, each with a key of their own"
        if self.progress.state == State.BUILT:
            return f"Nobody has approved it, and {must}."
        if self.progress.state == State.OUTDATED:
            return f"Its approval does not hold, and {must}: {self.progress.problem}"
        if self.progress.state == State.HALF:
            return (
                f"{names_of(signed)} approved it on {signed[0].statement.issued[:10]}; a second "
                "person must approve it with the same terms."
            )
        last = max(each.statement.issued for each in signed)
        if self._by_earlier:
            return "Nobody needs to approve it."
        return f"{names_of(signed)} approved it, {'lastly ' if signed[1:] else ''}on {last[:10]}."


def standing_of(
    folder: Path, bundles: Path, now: datetime | None = None, revoked: Revoked = NOBODY
) -> Standing:
    """Read a candidate with all that a person needs to know of it.

    Args:
        folder: of the release.
        bundles: folder of what was packed.
        now: time, the clock's by default.
        revoked: what persons have taken back.

    Raises:
        ReleaseError: there is no candidate, or its files do not belong together.
    """
    release = read_release(folder)
    header = release.aggregates
    sent = sent_before(bundles, header.protocol.id, header.site, header.round)
    terms, review = read_terms(folder), read_review(folder)
    found = progress(folder, release, terms, review, sent, revoked, now)
    return Standing(release, terms, review, found, sent)


def write_release_page(
    folder: Path, bundles: Path, now: datetime | None = None, revoked: Revoked = NOBODY
) -> Standing:
    """Write ``index.html``: a release in a few sentences, what has become of it and comes next.

    Args:
        folder: of the release.
        bundles: folder of what was packed.
        now: time, the clock's by default.
        revoked: what persons have taken back.

    Raises:
        ReleaseError: there is no candidate, or its files do not belong together.
    """
    found = standing_of(folder, bundles, now, revoked)
    header = found.release.aggregates
    signed = found.progress.signed
    write_page(
        folder / PAGE,
        "release.html.j2",
        aggregates=header,
        summary=found.release.disclosure.summary,
        progress=found.progress,
        states=State,
        sent=found.sent,
        sentences=found.sentences(),
        command=command("", signed[0].statement if signed else None).partition("--key FILE")[2],
    )
    return found


def progress(
    folder: Path,
    release: Release,
    terms: Terms,
    review: Review,
    sent: Sequence[Sent],
    revoked: Revoked,
    now: datetime | None,
) -> Progress:
    """Find out what has become of a release.

    Args:
        folder: of the release.
        release: its files.
        terms: of the settings that it was built by.
        review: what its build noted for a reader.
        sent: what was packed, by attempt.
        revoked: what persons have taken back.
        now: time, the clock's by default.
    """
    moment = now or datetime.now(UTC)
    covered = review.covered
    taken_back = ""
    if covered and not covered.why:
        taken_back = why_revoked(covered.signed, revoked)
        if not taken_back and not any(s.statement.ended(moment) for s in covered.signed):
            return _packed(release, covered.signed, sent, State.COVERED)
    if not (folder / NAME).is_file():
        return Progress(State.BUILT, revoked=taken_back)
    try:
        signed = read_approvals(folder, terms.approvers, moment)
        check_not_revoked(folder, signed, revoked)
    except (StageError, ConfigError) as error:
        half = _of_one(folder, moment) if terms.approvers > 1 else ()
        if half:
            return Progress(State.HALF, half)
        # The page is the same wherever the release lies.
        return Progress(State.OUTDATED, problem=str(error).replace(f"{folder}/", ""))
    return _packed(release, signed, sent, State.APPROVED)


def _of_one(folder: Path, now: datetime) -> tuple[Signed, ...]:
    """Return the statement of the one person who has approved, where it holds."""
    try:
        return tuple(read_approvals(folder, 1, now))
    except (StageError, ConfigError):
        return ()


def _packed(
    release: Release, signed: Sequence[Signed], sent: Sequence[Sent], state: State
) -> Progress:
    """Return what has become of a release that may leave."""
    files: dict[str, object] = {name: describe(release.files[name]).plain() for name in CONTENT}
    files["approvals.json"] = describe(canonical([each.plain() for each in signed])).plain()
    for bundle in sent:
        if bundle.manifest and files.items() <= dict(bundle.manifest["files"]).items():
            return Progress(State.PACKED, tuple(signed), bundle=bundle)
    return Progress(state, tuple(signed))
