"""What a page is made of where it does not know what it shows: tables, panels and their groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True)
class TableCell:
    """One cell of a table.

    Attributes:
        text: what stands in it; escaped unless it is `Markup`.
        css: its classes, such as ``num`` for numbers.
        scope: ``row`` or ``col`` where it is the heading of one, else empty.
    """

    text: str | Markup
    css: str = ""
    scope: str = ""


Row = Sequence[TableCell]


@dataclass(frozen=True)
class Table:
    """A table with a heading row.

    Attributes:
        label: its name for screen readers.
        head: the heading row.
        rows: the others.
        caption: a sentence on it, escaped unless `Markup`, or empty.
        summary: what stands beside its triangle where it is folded away; it stands open without.
    """

    label: str
    head: Row
    rows: Sequence[Row]
    caption: str | Markup = ""
    summary: str = ""


@dataclass(frozen=True)
class Panel:
    """One plot of several that stand side by side.

    Attributes:
        heading: left and right half of the heading; escaped unless `Markup`.
        plot: the plot as SVG.
        note: a sentence below it, or empty.
        table: a table that is folded away below it.
    """

    heading: tuple[Markup, Markup]
    plot: Markup | None
    note: str = ""
    table: Table | None = None


@dataclass(frozen=True)
class Group:
    """Panels, and a table of all that they are chosen from.

    Attributes:
        title: what the group is about, or empty where it is the only one.
        panels: None where there is nothing to plot; empty where there is nothing to show.
        table: its table.
    """

    title: str = ""
    panels: Sequence[Panel] | None = None
    table: Table | None = None


@dataclass(frozen=True)
class Drawing:
    """Everything that a page shows of one analysis.

    Attributes:
        lead: what a reader must know to read it.
        groups: in the order of the page.
    """

    lead: str
    groups: Sequence[Group] = field(default_factory=tuple)


def head(text: str | Markup, css: str = "") -> TableCell:
    """Return the heading of a column."""
    return TableCell(text, css, "col")


def numeral(text: str | Markup, css: str = "num") -> TableCell:
    """Return a cell whose text is a number."""
    return TableCell(text, css)


def code(text: str) -> Markup:
    """Return a name of the data or of the format, as pages show it."""
    return Markup("<code>{}</code>").format(text)


def feature(name: str) -> Markup:
    """Return the name of a feature, which may break after each ``_`` where room is scarce."""
    parts = Markup("_<wbr>").join(name.split("_"))
    return Markup('<code class="feature">{}</code>').format(parts)


def span(text: str, css: str = "") -> Markup:
    """Return text of its own style, such as ``muted`` for what steps back."""
    return Markup("<span{}>{}</span>").format(class_of(css), text)


def class_of(css: str) -> Markup:
    """Return the attribute ``class`` of an element; nothing where it has none."""
    return Markup(' class="{}"').format(css) if css else Markup("")


def bold(text: str) -> Markup:
    """Return text that stands out."""
    return Markup("<b>{}</b>").format(text)
