"""What the DICOM standard asks of each attribute of an image that leaves, as tables.

The tables are Table E.1-1 (attributes), Table E.3.4-1 (content items of structured reports) and
Table E.3.10-1 (private attributes known to be safe) of DICOM PS3.15, edition 2026d.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from jipflow.files import read_tsv
from jipflow.settings.resources import RESOURCES

TABLES = RESOURCES / "confidentiality"
EDITION = "2026d"

Options = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Rule:
    """What is done with an attribute or a content item.

    Attributes:
        profile: action of the Basic Application Level Confidentiality Profile: X remove, Z empty,
            D replace by a dummy, U replace the UID, or several of them by the attribute's type.
        options: action (K keep, C clean) of those options that the export takes.
    """

    profile: str
    options: Options

    def option(self, name: str) -> str:
        """Return the action of an option; empty where it says nothing."""
        return dict(self.options).get(name, "")

    @property
    def basic(self) -> str:
        """The one action of the profile that keeps an object valid whatever the attribute's type.

        An attribute of type 3 may be empty as one of type 2 may; so where X, Z and D depend on the
        type, Z serves. X/D distinguishes type 1 from type 3, for which D serves.
        """
        actions = self.profile.split("/")
        return next(action for action in ("U*", "U", "Z", "D", "X") if action in actions).strip("*")


@dataclass(frozen=True)
class SafePrivate:
    """A private attribute that is known to be safe, and how it is read."""

    vr: str


def _rule(row: dict[str, str]) -> Rule:
    options = [entry.partition(":") for entry in row["options"].split()]
    return Rule(row["profile"], tuple((name, action) for name, _, action in options))


@cache
def attribute_rules() -> dict[int, Rule]:
    """Return the rules of Table E.1-1 by tag, without the repeating groups."""
    rows = read_tsv(TABLES / "attributes.tsv")
    return {int(row["tag"], 16): _rule(row) for row in rows if "x" not in row["tag"]}


@cache
def content_rules() -> dict[tuple[str, str], Rule]:
    """Return the rules of Table E.3.4-1 by coding scheme designator and code value.

    A concept that stands there for several value types has one rule, the first; they differ in
    what is done with references alone, whose UIDs are all replaced.
    """
    rules: dict[tuple[str, str], Rule] = {}
    for row in read_tsv(TABLES / "content_items.tsv"):
        rules.setdefault((row["scheme"], row["code"]), _rule(row))
    return rules


@cache
def safe_private() -> dict[tuple[str, int, int], SafePrivate]:
    """Return the safe private attributes by creator in lower case, group and last two digits."""
    return {
        (row["creator"].casefold(), int(row["group"], 16), int(row["element"], 16)): SafePrivate(
            row["vr"]
        )
        for row in read_tsv(TABLES / "private.tsv")
    }


@cache
def vocabulary() -> frozenset[str]:
    """Return the words of imaging that a description may keep, folded as `jipflow.privacy.text`.

    They are the words of the names of attributes (PS3.6) and of the meanings of codes (PS3.16),
    without breeds and without most of those that are names of people too, those of jipflow's terms,
    and abbreviations that technologists type.
    """
    return frozenset((TABLES / "words.txt").read_text(encoding="utf-8").split())
