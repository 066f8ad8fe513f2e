"""The releaser's tables of scores and informations, which models in rounds send."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from jipflow.analyses.moments import EXACT
from jipflow.blocks import Drawing, Group, Row, Table, TableCell, head, numeral
from jipflow.plots import number


class Scored(Protocol):
    """A cell of a model: its coefficients, and score and information at these."""

    beta: list[float]
    score: list[float]
    information: list[list[float]]


def score_rows(cell: Scored, about: Sequence[TableCell], names: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a model, a coefficient each.

    Args:
        cell: of the model.
        about: the cells that say which model it is; they stand in its first row.
        names: of the coefficients.
    """
    for i, name in enumerate(names):
        yield [
            *(about if i == 0 else [TableCell("") for _ in about]),
            TableCell(name),
            numeral(number(cell.beta[i], 7)),
            numeral(number(cell.score[i], 5)),
            numeral(number(cell.information[i][i], 5)),
            numeral(number(cell.score[i], 17), f"num{EXACT}"),
            numeral("; ".join(number(each, 17) for each in cell.information[i]), f"num{EXACT}"),
        ]


def draw_scores(
    lead: str, titles: Sequence[TableCell], groups: Mapping[str, Sequence[Row]]
) -> Drawing:
    """Show models in tables.

    Args:
        lead: what is in them.
        titles: of the columns that say which model a row is of, and which coefficient.
        groups: by the title of a table, the rows of its models.
    """
    numbers = [head(name, "num") for name in ("Coefficient", "Score", "Information")]
    numbers += [head(name, f"num{EXACT}") for name in ("Exact score", "Exact information")]
    return Drawing(
        lead,
        [
            Group(title, table=Table(f"Models of {title}", [*titles, *numbers], list(rows)))
            for title, rows in sorted(groups.items())
        ],
    )
