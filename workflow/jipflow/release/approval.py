"""Persons approve a candidate release: what each of them states, and whether it still holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from jipflow import __version__
from jipflow.exchange import keys, message
from jipflow.exchange.message import (
    CONTENT,
    PAGE,
    ContentName,
    FileEntry,
    ProtocolVersion,
    Round,
    Sha256,
    Time,
    Version,
    checked,
)
from jipflow.files import read_json, write_json
from jipflow.release.contents import Header, Release, ReleaseError, read_page, read_release
from jipflow.release.terms import read_terms
from jipflow.settings.hub import Approver
from jipflow.settings.part import Id, Maybe, Part
from jipflow.settings.resources import ConfigError

NAME = "approval.json"
"""The file beside those that it approves: a list of one or two `Signed`."""

MOST_PERSONS = 2
"""Most persons whose statements one release has."""

Format = Literal["jipflow-approval-1"]
(FORMAT,) = get_args(Format)


def _is_date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise PydanticCustomError("date", "{text} is no date", {"text": text}) from None
    return text


Day = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_is_date)]


class ProtocolText(Part):
    """Which text of a protocol was approved."""

    id: Id
    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
    sha256: Sha256

    @classmethod
    def of(cls, protocol: ProtocolVersion) -> ProtocolText:
        """Return the text that a header or a manifest names."""
        return cls(id=protocol.id, version=protocol.version, sha256=protocol.sha256)


class ApprovedAnalysis(Part):
    """An analysis as a person approved it."""

    sha256: Sha256
    """Hash of its settings: variables, segments and parameters."""
    rounds: Round
    """The last round in which it may leave."""


class Statement(Part):
    """What a person states by a signature: that this may leave the site, and for how long."""

    format: Format = FORMAT
    protocol: ProtocolText
    site: Id
    hub: Id
    version: Version
    """jipflow's version at the site."""
    round: Round
    """The round whose numbers the person has read."""
    analyses: dict[Id, ApprovedAnalysis]
    """Every analysis of the protocol, by its id."""
    until: Maybe[Day] = None
    """The last day (UTC) on which anything may leave by this statement."""
    files: Annotated[dict[ContentName, FileEntry], Field(min_length=len(CONTENT))]
    """The numbers and the record of the gate that the person has read."""
    page: FileEntry
    """The page on which the person has read them, `PAGE`; it stays at the site."""
    person: Approver
    issued: Time
    """Time of the signature (UTC)."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if any(analysis.rounds < self.round for analysis in self.analyses.values()):
            raise PydanticCustomError("rounds", "the rounds end before the one that was read")
        if self.until is None and self.last_round > self.round:
            raise PydanticCustomError("until", "later rounds are approved until a day only")
        return self

    @property
    def last_round(self) -> int:
        """The last round that the statement reaches."""
        return max((analysis.rounds for analysis in self.analyses.values()), default=self.round)

    def ended(self, now: datetime) -> bool:
        """Return whether the last day of the statement is over."""
        return self.until is not None and now.astimezone(UTC).date() > date.fromisoformat(
            self.until
        )

    def read(self) -> dict[str, FileEntry]:
        """Return size and hash of every file that the person has read, the page included."""
        return {**{str(name): entry for name, entry in self.files.items()}, PAGE: self.page}

    def terms(self) -> dict[str, Any]:
        """Return all but who states it and when."""
        return self.model_dump(exclude={"person", "issued"})


class Signed(Part):
    """A statement with its signature."""

    statement: Statement
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    """By the person's key, of the statement's canonical JSON (RFC 8785)."""

    @property
    def verified(self) -> bool:
        """Whether the key that the statement names has signed it."""
        signed = message.canonical(self.statement.plain())
        return keys.verifies(self.statement.person.key, self.signature, signed)


def approve(
    *,
    release_dir: Path,
    name: str,
    key_file: Path,
    rounds: int | None = None,
    until: str | None = None,
    empty: bool = False,
    now: datetime | None = None,
) -> list[Signed]:
    """Add a person's statement about a candidate release to its ``approval.json``.

    The same person with the same terms changes nothing. A second person states the same terms.
    Statements about other files, or whose last day is over, are replaced.

    Args:
        release_dir: folder of the candidate.
        name: the person's name, as the hub's roster has it; it leaves the site.
        key_file: the person's private key.
        rounds: the last round that the approval is to reach; the candidate's own by default.
        until: the last day (UTC) of the approval, such as ``2027-01-31``; later rounds need one.
        empty: approve it although no cell leaves.
        now: time of the approval, the clock's by default.

    Returns:
        The statements that hold, in the order in which they were made.

    Raises:
        ReleaseError: there is no candidate, its files or its page do not belong together, no cell
            leaves, or others approved other terms.
        KeyFault: the key is missing or open to others.
        ConfigError: the name, the rounds or the day is none.
    """
    release = read_release(release_dir)
    page = read_page(release_dir, release)
    if not release.disclosure.summary.released and not empty:
        raise ReleaseError(
            f"No cell would leave; {release_dir / PAGE} says why. To state so to the hub, approve "
            "it with --empty."
        )
    key = keys.load_key(key_file)
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    person = {"name": name, "key": keys.public_text(key)}
    content = _content(release_dir, release, page, rounds, until)
    content |= {"person": person, "issued": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}
    statement = checked(Statement, content, "approval")
    if statement.ended(moment):
        raise ConfigError(f"approval: until: {until} is over; give a later day.")
    earlier = _earlier(release_dir, statement, moment)
    if any(_same_person(each.statement, statement, release_dir) for each in earlier):
        return earlier
    if len(earlier) >= MOST_PERSONS:
        raise ReleaseError(
            f"{names_of(earlier)} have approved {release_dir}; no third person is needed."
        )
    signature = keys.sign(key, message.canonical(statement.plain()))
    signed = [*earlier, Signed(statement=statement, signature=signature)]
    write_json(release_dir / NAME, [each.plain() for each in signed])
    return signed


def _content(
    release_dir: Path, release: Release, page: FileEntry, rounds: int | None, until: str | None
) -> dict[str, Any]:
    """Return the terms of a statement about a candidate as plain data."""
    header: Header = release.disclosure
    last = header.round if rounds is None else rounds
    if last > header.round and until is None:
        raise ConfigError(
            f"approval: rounds: an approval up to round {last} needs its last day; add --until "
            "YEAR-MONTH-DAY."
        )
    if last < header.round:
        raise ConfigError(
            f"approval: rounds: this is round {header.round}; give that or a later one."
        )
    analyses = read_terms(release_dir).analyses
    return {
        "format": FORMAT,
        "protocol": ProtocolText.of(header.protocol).plain(),
        "site": header.site,
        "hub": header.recipient,
        "version": header.version,
        "round": header.round,
        "analyses": {id_: {"sha256": sha256, "rounds": last} for id_, sha256 in analyses.items()},
        "files": {file: message.describe(data).plain() for file, data in release.files.items()},
        "page": page.plain(),
        **({} if until is None else {"until": until}),
    }


def _earlier(release_dir: Path, statement: Statement, now: datetime) -> list[Signed]:
    """Return the statements that are there about what a new one is about, and still hold."""
    try:
        found = signed_list(read_json(release_dir / NAME), NAME)
    except (FileNotFoundError, ValueError, ConfigError):
        return []
    about = ("protocol", "site", "hub", "version", "round", "files", "page")
    return [
        each
        for each in found
        if each.verified
        and not each.statement.ended(now)
        and all(getattr(each.statement, key) == getattr(statement, key) for key in about)
    ]


def _same_person(earlier: Statement, new: Statement, release_dir: Path) -> bool:
    """Return whether a statement is of the person of an earlier one; its terms must be the same."""
    differing = difference([earlier, new])
    if differing:
        last = max(each.rounds for each in earlier.analyses.values())
        until = f" --until {earlier.until}" if earlier.until else ""
        options = f"--rounds {last}{until}"
        raise ReleaseError(
            f"{earlier.person.name} approved {release_dir} on {earlier.issued} with other terms: "
            f"{differing}. State the same ({options}), or remove {release_dir / NAME} and approve "
            "it anew."
        )
    same = (earlier.person.name == new.person.name, earlier.person.key == new.person.key)
    if any(same) and not all(same):
        what = "the name with another key" if same[0] else "the key under another name"
        raise ReleaseError(
            f"{earlier.person.name} has approved {release_dir} already; this is {what}. Each "
            "person has one name and one key."
        )
    return all(same)


def difference(statements: Sequence[Statement]) -> str:
    """Return what the terms of statements differ in, each with its values; empty where in nothing.

    Args:
        statements: of persons about one release.
    """
    first, *others = [_in_words(statement) for statement in statements]
    found = {
        f"{what} {first[what]} and {other[what]}"
        for other in others
        for what in first
        if other[what] != first[what]
    }
    return ", ".join(sorted(found))


def _in_words(statement: Statement) -> dict[str, str]:
    """Return each term of a statement by what readers call it."""
    terms = statement.terms()
    terms.pop("analyses")
    named: dict[str, Any] = {"last round": statement.last_round, "last day": terms.pop("until", "")}
    named["analyses"] = ", ".join(
        f"{name} {analysis.sha256[:8]} up to round {analysis.rounds}"
        for name, analysis in sorted(statement.analyses.items())
    )
    named |= {name: entry.sha256[:8] for name, entry in statement.read().items()}
    named["protocol"] = f"{statement.protocol.version} ({statement.protocol.sha256[:8]})"
    rest = ("format", "site", "hub", "version", "round")
    named |= {name: terms[name] for name in rest}
    return {name: str(value) or "none" for name, value in named.items()}


def signed_list(content: Any, source: str) -> list[Signed]:
    """Return the statements of an ``approval.json``.

    Args:
        content: plain data.
        source: what it was read from, for messages.

    Raises:
        ConfigError: it is no list of one or two statements.
    """
    if not isinstance(content, list) or not 1 <= len(content) <= MOST_PERSONS:
        raise ConfigError(f"{source}: it is no list of the statements of one or two persons")
    return [checked(Signed, each, source) for each in content]


def names_of(signed: Sequence[Signed]) -> str:
    """Return the names of the persons who made statements, such as ``Ada Roe and Bea Coe``."""
    return " and ".join(each.statement.person.name for each in signed)


def together(signed: Sequence[Signed]) -> str:
    """Return why statements cannot stand together, empty where they can.

    Args:
        signed: the statements of a release.
    """
    statements = [each.statement for each in signed]
    for what in ("name", "key"):
        if len({getattr(statement.person, what) for statement in statements}) < len(statements):
            return f"two statements have one {what}"
    differing = difference(statements)
    return f"the persons state other terms: {differing}" if differing else ""


def read_approvals(release_dir: Path, needed: int, now: datetime | None = None) -> list[Signed]:
    """Read the statements about a candidate, if they hold for its files and page as they are.

    Args:
        release_dir: folder of the candidate.
        needed: how many persons must have approved.
        now: time, the clock's by default.

    Raises:
        ReleaseError: somebody is missing, something was changed since, the last day is over, or a
            signature is wrong.
    """
    return read_approved(release_dir, needed, now)[1]


def read_approved(
    release_dir: Path, needed: int, now: datetime | None = None
) -> tuple[Release, list[Signed]]:
    """Return the very release that `read_approvals` checked, with the statements about it."""
    release = read_release(release_dir)
    signed = _read_signed(release_dir)
    _check_unchanged(release_dir, release, signed)
    path, anew = release_dir / NAME, "approve again."
    moment = now or datetime.now(UTC)
    for each in signed:
        if not each.verified:
            raise ReleaseError(f"{path} was changed after it was signed; {anew}")
        if each.statement.ended(moment):
            raise ReleaseError(
                f"The approval of {release_dir} ended on {each.statement.until}; {anew}"
            )
    problem = together(signed)
    if problem:
        raise ReleaseError(f"{path}: {problem}; remove it and {anew}")
    if len(signed) < needed:
        (only,) = signed
        raise ReleaseError(
            f"{only.statement.person.name} has approved {release_dir} on {only.statement.issued}; "
            f"a second person is missing, by disclosure.approvers: {needed} of site.yaml. Let them "
            f"read {release_dir / PAGE}, then: {command(release_dir, only.statement)}"
        )
    return release, signed


def command(release_dir: Path | str, statement: Statement | None = None) -> str:
    """Return the command by which a person approves a release.

    Args:
        release_dir: folder of the candidate.
        statement: of the first person, whose terms the second must state.
    """
    given = f"jipflow release approve {release_dir} --name NAME --key FILE"
    if statement is not None and statement.last_round > statement.round:
        given += f" --rounds {statement.last_round}"
    if statement is not None and statement.until is not None:
        given += f" --until {statement.until}"
    return given


def _read_signed(release_dir: Path) -> list[Signed]:
    path = release_dir / NAME
    if not path.is_file():
        raise ReleaseError(
            f"Nobody has approved this release. Read {release_dir / PAGE}, then: "
            f"{command(release_dir)}"
        )
    try:
        content = read_json(path)
    except ValueError:
        raise ReleaseError(f"{path} is not JSON any more; approve again.") from None
    try:
        return signed_list(content, str(path))
    except ConfigError as error:
        first = str(error).removeprefix(f"{path}: ").partition("\n")[0]
        raise ReleaseError(
            f"{path} has another form than jipflow {__version__} writes ({first}); approve again: "
            f"remove it, read {release_dir / PAGE}, then: {command(release_dir)}"
        ) from None


def _check_unchanged(release_dir: Path, release: Release, signed: Sequence[Signed]) -> None:
    """Check that statements are about the files and the page as they are."""
    page = release_dir / PAGE
    shown = page.read_bytes() if page.is_file() else b""
    found: Mapping[str, FileEntry] = {
        name: message.describe(data) for name, data in (*release.files.items(), (PAGE, shown))
    }
    for each in signed:
        for name, entry in each.statement.read().items():
            if entry != found[name]:
                raise ReleaseError(
                    f"{release_dir / name} was changed after {each.statement.person.name} approved "
                    "it; look at it again and approve again."
                )
