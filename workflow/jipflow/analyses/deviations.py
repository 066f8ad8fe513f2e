"""Distances of values from a centre: what tests of equal variances send, by which rules, and W.

Levene (1960, "Robust tests for equality of variances", in Olkin et al., Contributions to
Probability and Statistics, Stanford University Press, 278-292) compares the means of |x - mean| of
k groups by an analysis of variance; Brown and Forsythe (1974, "Robust tests for the equality of
variances", J. Am. Stat. Assoc. 69:364-367) take the median as the centre. A group needs no more
than the moments of its distances.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from jipflow.analyses import moments as of_moments
from jipflow.analyses.cells import Values
from jipflow.analyses.facts import Implied, LedgerCell, Limits
from jipflow.analyses.moments import EXACT, Moments, MomentsCell, moments
from jipflow.analyses.one_way import one_way
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.analyses.sent_moments import key_of
from jipflow.analyses.spread import dominated
from jipflow.analyses.units import with_unit
from jipflow.blocks import Drawing, Group, Row, Table, TableCell, head, numeral, span
from jipflow.plots import count, number
from jipflow.settings.protocol import Disclosure

FEW_BESIDE = Rule(
    "few_beside",
    "Distances from a centre and the mean give the sum of the values above it and that of those "
    "below: on each side must be the minimum of patients, and none may make most of the sum.",
    because="few patients lie on one side of the centre, or one makes most of the sum",
)
RULES = (
    of_moments.NUMBER_RANGE,
    of_moments.ZERO_VARIANCE,
    of_moments.DOMINANCE,
    of_moments.FEW_LEVELS,
    FEW_BESIDE,
)
EQUATIONS = 3
"""Sum, sum of squares and sum of distances: a kind may send the first two in an earlier round."""


class DistancesCell(MomentsCell):
    """The moments of distances from a centre, or of values in an earlier round."""

    of: Literal["values", "distances"]
    """What the moments are of."""


@dataclass(frozen=True)
class Computed:
    """What a site computes of one cell.

    Attributes:
        of: what the moments are of.
        moments: of it; None where there are no values.
        values: of the cell.
        distances: of the values from the centre; None where the moments are of the values.
        centre: from which they are; it does not leave.
    """

    of: Literal["values", "distances"]
    moments: Moments | None
    values: Values
    distances: Values | None = None
    centre: tuple[float, float] = (0.0, 0.0)


def of_values(values: Values) -> Computed:
    """Compute the moments of values."""
    return Computed("values", moments(values.numbers) if values.numbers.size else None, values)


def from_centre(values: Values, centre: float, rest: float = 0.0) -> Computed:
    """Compute the moments of the distances of values from a centre.

    Args:
        values: of a cell.
        centre: from which.
        rest: what the centre lost in rounding to float64.
    """
    if not values.numbers.size:
        return Computed("distances", None, values)
    distances = replace(values, numbers=abs(_signed(values, centre, rest)))
    found = moments(distances.numbers)
    return Computed("distances", found, values, distances, (centre, rest))


def _signed(values: Values, centre: float, rest: float) -> Any:
    return (values.numbers - centre) - rest


class SendsDistances:
    """What a kind does whose cell is the moments of distances from a centre."""

    rules: ClassVar[tuple[Rule, ...]] = RULES
    equations: ClassVar[int] = EQUATIONS

    def check(self, content: Computed, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Withhold what tells of few patients: by the values, the distances, and either side.

        The squares of distances give those of the values, so that what holds for a mean and a
        variance of values holds here as well. Numbers out of the format's range are withheld, too.
        """
        if content.moments is None or not of_moments.in_range(content.moments):
            return Withheld(of_moments.NUMBER_RANGE)
        found = [of_moments.broken(content.values, disclosure)]
        if content.distances is not None:
            found.append(of_moments.broken(content.distances, disclosure))
            if few_beside(content, disclosure):
                found.append(FEW_BESIDE)
        broken = [rule for rule in RULES if rule in found]
        if broken:
            return Withheld(broken[0])
        if not of_moments.keeps_digits(content.moments):
            return Withheld(of_moments.NUMBER_RANGE)
        return Passed({"of": content.of, **asdict(content.moments)})

    def tells_beside(
        self, cell: LedgerCell, earlier: Sequence[LedgerCell], disclosure: Disclosure
    ) -> bool:
        """Return whether a difference from other sums is one that would not leave itself."""
        return of_moments.tell_beside(cell, earlier, disclosure)

    def tells_of_few(self, values: Values, disclosure: Disclosure) -> bool:
        """Return whether a mean and a variance would tell of few of the patients."""
        return of_moments.broken(values, disclosure) is not None


def few_beside(content: Computed, disclosure: Disclosure) -> bool:
    """Return whether the values above the centre, or those below, tell of few patients.

    The sum of the distances and that of the values give the sum of either side: where one patient
    alone lies above a mean, half of the distances are that patient's.
    """
    assert content.distances is not None
    side = _signed(content.values, *content.centre)
    for chosen in (side > 0, side < 0):
        ids, people = content.values.case_ids[chosen], content.values.patients[chosen]
        if len(set(people)) < disclosure.min_patients:
            return True
        one = Values(content.distances.numbers[chosen], people, ids, frozenset(ids))
        if dominated(one, disclosure.largest_two, disclosure.p_percent):
            return True
    return False


def exclude(cell: LedgerCell, other: LedgerCell) -> bool:
    """Return whether distances from two centres would leave of values of the same patients.

    Their difference is of the values that lie between the centres, who may be few.
    """
    return (
        all(each.released.get("of") == "distances" for each in (cell, other))
        and not cell.values.cases.isdisjoint(other.values.cases)
        and (cell.kind, cell.released, cell.values.cases)
        != (other.kind, other.released, other.values.cases)
    )


def verify(cell: MomentsCell, limits: Limits, centre: float | None = None) -> None:
    """Refuse moments that no distances have.

    Args:
        cell: as a site sent it.
        limits: of the values.
        centre: from which the distances are; None where the hub does not know it.

    Raises:
        ImpossibleCell: the moments contradict each other, or the limits.
        CellBelowMinimum: the distances are all equal.
    """
    farthest = limits.highest - limits.lowest
    if centre is not None:
        farthest = max(limits.highest - centre, centre - limits.lowest)
    of_moments.verify_moments(cell, replace(limits, lowest=0.0, highest=farthest))


def implies(limits: Limits, rows: int) -> Implied:
    """Return that the values are as many as the distances."""
    return Implied((limits.lowest, limits.highest), (rows, rows))


def equal_variances(groups: Mapping[str, Moments]) -> dict[str, Any]:
    """Return the test of equal variances of groups.

    W is the F of a one-way analysis of variance of the distances (Levene 1960). If the variances
    are equal it is distributed about as F with k - 1 and N - k degrees of freedom, of k groups with
    N values in all.

    Args:
        groups: moments of the distances by group.

    Returns:
        ``groups``, ``rows``, ``statistic``, ``df`` and ``p``; the last three are null where
        ``reason`` says why.
    """
    found = one_way(groups)
    names = ("groups", "rows", "statistic", "df", "p", "reason")
    return {name: found[name] for name in names if name in found}


def without_test(reason: str) -> dict[str, Any]:
    """Return what stands in place of a test."""
    return {"statistic": None, "df": None, "p": None, "reason": reason}


def draw_release(cells: Sequence[DistancesCell], centre: str) -> Drawing:
    """Show the moments of every cell.

    Args:
        cells: that leave.
        centre: from which the distances are, in words.
    """
    groups: dict[str, list[DistancesCell]] = defaultdict(list)
    for cell in cells:
        groups[cell.key.title].append(cell)
    lead = (
        "Each row of a table is a cell: one feature of one segment, of n patients. Rows counts the "
        f"values. Of distances, the mean says how far values lie from {centre} on average, which "
        "the hub compares between groups; the standard deviation (SD) follows from what is sent. "
        "Behind the switch are two numbers that the hub needs to merge without loss."
    )
    columns = (("Of", ""), ("n", "num"), ("Rows", "num"), ("Mean", "num"), ("SD", "num"))
    titles = [head("Feature"), *(head(*column) for column in columns)]
    titles += [head(name, f"num{EXACT}") for name in ("M2", "Rest")]
    return Drawing(
        lead,
        [
            Group(title, table=Table(f"Cells of {title}", titles, [_sent(cell) for cell in found]))
            for title, found in sorted(groups.items())
        ],
    )


def _sent(cell: DistancesCell) -> Row:
    return [
        TableCell(with_unit(cell.feature), scope="row"),
        TableCell(cell.of),
        numeral(str(cell.n)),
        numeral(str(cell.rows)),
        numeral(number(cell.mean, 7)),
        numeral(number(math.sqrt(cell.moments.variance), 5), "num muted"),
        numeral(number(cell.m2, 7), f"num{EXACT}"),
        numeral(number(cell.mean_rest, 2), f"num{EXACT}"),
    ]


@dataclass(frozen=True)
class Drawn:
    """A test as a page shows it.

    Attributes:
        title: of what, in words.
        feature: name of the feature.
        test: as `equal_variances` returns it.
        parts: mean distance of each group, with its rows.
    """

    title: str
    feature: str
    test: Mapping[str, Any]
    parts: Mapping[str, tuple[float, int]]


def draw_tests(lead: str, tests: Sequence[Drawn]) -> Drawing:
    """Show tests, a row each."""
    titles = [head("Segment"), head("Feature"), *(head(t, "num") for t in ("Rows", "W", "df", "p"))]
    titles.append(head("Mean distance by group"))
    if not tests:
        return Drawing(lead, [])
    return Drawing(
        lead, [Group(table=Table("Tests of equal variances", titles, list(_rows(tests))))]
    )


def _rows(tests: Sequence[Drawn]) -> Iterator[Row]:
    for each in tests:
        test = each.test
        parts = "; ".join(f"{name} {number(mean)} ({n})" for name, (mean, n) in each.parts.items())
        if test["statistic"] is None:
            numbers = [numeral(span(test["reason"], "muted")), numeral("–"), numeral("–")]
        else:
            df = ", ".join(count(n) for n in test["df"])
            numbers = [
                numeral(number(test["statistic"], 5)),
                numeral(df),
                numeral(number(test["p"])),
            ]
        yield [
            TableCell(each.title, scope="row"),
            TableCell(with_unit(each.feature)),
            numeral(count(test["rows"])),
            *numbers,
            TableCell(parts),
        ]


def drawn_by_site(analysis: Mapping[str, Any]) -> list[Drawn]:
    """Return the tests of cells whose groups are the sites."""
    return [
        Drawn(
            key_of(cell).title,
            cell["feature"],
            cell["test"],
            {part["site"]: (part["mean"], part["rows"]) for part in cell["by_site"]},
        )
        for cell in analysis["cells"]
    ]
