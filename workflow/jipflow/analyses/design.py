"""Models of several variables: their rows and columns at a site, and what they tell of few.

A model's numbers are sums over its rows, such as those of each column, of the products of two and
of their squares. Whoever has them has those of every linear combination of the columns, and of each
class of a column of two values, so that the rules look at these as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from jipflow.analyses import moments
from jipflow.analyses.cells import CLINICAL, CellKey, Measured, Place, Values, only
from jipflow.analyses.facts import Column, LedgerCell
from jipflow.analyses.forms import LARGEST
from jipflow.analyses.moments import DOMINANCE, FEW_LEVELS, NUMBER_RANGE, ZERO_VARIANCE
from jipflow.analyses.rules import Rule
from jipflow.analyses.spread import dominated
from jipflow.settings.protocol import AnalysisSettings, By, Disclosure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from jipflow.settings.covariates import Covariate

PARAMETERS = 0.33
"""Most parameters of a model for each row, event or patient of the smaller class: what DataSHIELD
allows for each row (dsBase 6, ``nfilter.glm``)."""

INDEPENDENT = 1e-9
"""Least singular value, as a share of the largest, of columns of unit length that counts as one."""

ONE_ROW = Rule(
    "one_row",
    "A model's rows must be of different patients, or else its standard errors are wrong and a "
    "patient with many rows shows in it.",
    because="a patient has several cases",
)
FEW_IN_CLASS = Rule(
    "few_in_class",
    "Sums of products with an indicator are sums over the patients of one class: each class must "
    "have nobody or the minimum, and what any other column has in it must be fit to leave.",
    because="a class of one of its variables tells of few patients",
)
FEW_IN_COMBINATION = Rule(
    "few_in_combination",
    "The sums of all columns give those of each linear combination of them, and the two patients "
    "with the most must not make nearly all of the sum of its squares, or of a sum of products.",
    because="a combination of its variables is nearly that of one or two patients",
)
TOO_MANY_PARAMETERS = Rule(
    "too_many_parameters",
    "A model must have three patients for each of its parameters: of the smaller class where the "
    "outcome has two, and with the event where it is survival.",
    because="too few patients or events for its parameters",
)
RULES = (
    NUMBER_RANGE,
    ONE_ROW,
    ZERO_VARIANCE,
    DOMINANCE,
    FEW_LEVELS,
    FEW_IN_CLASS,
    FEW_IN_COMBINATION,
    TOO_MANY_PARAMETERS,
)


@dataclass(frozen=True, eq=False)
class Design:
    """The rows of a model at a site: cases that have a value of each of its variables.

    Attributes:
        case_ids: pseudonyms, shape (rows,), sorted.
        patients: pseudonym of the patient of each row, shape (rows,).
        keys: what each column is; the first is the variable that the model is a cell of, and of a
            category an indicator is called ``<name>=<value>``.
        of: of which of the further variables each column is, from 0; -1 for the first column.
        raw: numbers as they were measured, indicators 0 or 1; shape (rows, columns).
        centers: of the columns, shape (columns,); 0 of indicators.
        scales: likewise; 1 of indicators.
    """

    case_ids: npt.NDArray[np.object_]
    patients: npt.NDArray[np.object_]
    keys: tuple[CellKey, ...]
    of: tuple[int, ...]
    raw: npt.NDArray[np.float64]
    centers: npt.NDArray[np.float64]
    scales: npt.NDArray[np.float64]

    @property
    def names(self) -> tuple[str, ...]:
        """What readers call the columns."""
        return tuple(key.feature for key in self.keys)

    @property
    def standardised(self) -> npt.NDArray[np.float64]:
        """The columns in the units of their coefficients, shape (rows, columns)."""
        found: npt.NDArray[np.float64] = (self.raw - self.centers) / self.scales
        return found

    def values(self, number: int) -> Values:
        """Return the values of a column as they were measured."""
        cases = frozenset(self.case_ids)
        return Values(self.raw[:, number].copy(), self.patients, self.case_ids, cases)

    def columns(self, equations: int) -> list[Column]:
        """Return the columns for the gate.

        Args:
            equations: as `Column.equations` of each.
        """
        return [Column(key, self.values(i), equations) for i, key in enumerate(self.keys)]

    def scattered(self) -> list[Column]:
        """Return the columns for the gate, of a cell of their means and sums of products.

        Each column has its mean, its square and a product with each other one. Those of the further
        columns among themselves are the same in the cells of all first columns.
        """
        further = range(1, len(self.keys))
        values = [self.values(i) for i in range(len(self.keys))]
        return [
            Column(self.keys[0], values[0], 1 + len(self.keys)),
            *(Column(self.keys[i], values[i], 1) for i in further),
            *(Column(self.keys[i], values[i], len(self.keys), tuple(further)) for i in further),
        ]


class HasSettings(Protocol):
    """An analysis."""

    @property
    def settings(self) -> AnalysisSettings:
        """The entry of the protocol."""


class OfColumns:
    """What analyses whose cells have several columns say of one column, for a class of that kind.

    Mean and scatter of each column follow from their numbers, and all of them or none leave.
    """

    def reads(self: HasSettings) -> Sequence[CellKey]:
        """Return the further variables, each once."""
        return list(dict.fromkeys(key_of(each) for each in self.settings.further()))

    def compute(self, values: Values, stated: Any = None) -> Any:
        """Refuse a column by itself: a cell is proposed with all of them."""
        raise NotImplementedError("a cell of several columns is proposed with all of them")

    def tells_beside(
        self, cell: LedgerCell, earlier: Sequence[LedgerCell], disclosure: Disclosure
    ) -> bool:
        """Return whether a difference from other sums is one that would not leave itself."""
        return moments.tell_beside(cell, earlier, disclosure)

    def tells_of_few(self, values: Values, disclosure: Disclosure) -> bool:
        """Return whether a mean and a variance would tell of few of the patients."""
        return moments.broken(values, disclosure) is not None

    def withholds(self, values: Values, disclosure: Disclosure) -> bool:
        """Return whether a mean and a variance would not leave."""
        return moments.broken(values, disclosure) is not None


def key_of(covariate: Covariate) -> CellKey:
    """Return what a further variable is, of all patients."""
    if covariate.segmentation is None or covariate.segment is None:
        return CellKey(*CLINICAL, covariate.feature)
    place = Place(covariate.role, covariate.segmentation, covariate.segment)
    return CellKey(*place, covariate.feature)


def column_names(feature: str, covariates: Sequence[Covariate]) -> tuple[str, ...]:
    """Return what readers call the columns of a model, as `Design.names`.

    Args:
        feature: of the variable that the model is a cell of.
        covariates: its further variables.
    """
    return (feature, *(name for each in covariates for name in _names(each)))


def _names(covariate: Covariate) -> list[str]:
    if covariate.values is None:
        return [covariate.feature]
    return [f"{covariate.feature}={value}" for value in covariate.compared]


def design(
    measured: Measured,
    key: CellKey,
    covariates: Sequence[Covariate],
    by: By | None = None,
    *,
    center: float = 0.0,
    scale: float = 1.0,
) -> Design:
    """Return the rows of a model at a site; there may be none.

    Args:
        measured: what the site measured.
        key: the variable that the model is a cell of.
        covariates: its further variables, of which a row needs all.
        by: what the group of the cell is of, where it is of one.
        center: of the first column.
        scale: of the first column.
    """
    import numpy as np

    every = [measured.values(key, by), *(measured.values(key_of(each)) for each in covariates)]
    cases = frozenset.intersection(*(values.cases for values in every))
    first, *rest = (_sorted(only(values, cases)) for values in every)
    keys, of, columns = [key], [-1], [first.numbers]
    centers, scales = [center], [scale]
    for number, (covariate, values) in enumerate(zip(covariates, rest, strict=True)):
        place = key_of(covariate)._replace(group=key.group)
        if covariate.values is None:
            found = [values.numbers]
        else:
            # The number of a category is the position of its value in the protocol.
            positions = [covariate.values.index(value) for value in covariate.compared]
            found = [(values.numbers == position) * 1.0 for position in positions]
        columns += found
        # A column is of the patients of the cell, so that groups of one division stay apart.
        keys += [place._replace(feature=name) for name in _names(covariate)]
        of += [number] * len(found)
        centers += [float(covariate.center)] * len(found)
        scales += [float(covariate.scale)] * len(found)
    return Design(
        first.case_ids,
        first.patients,
        tuple(keys),
        tuple(of),
        np.column_stack(columns),
        np.array(centers),
        np.array(scales),
    )


def _sorted(values: Values) -> Values:
    """Return values in the order of their cases."""
    import numpy as np

    order = np.argsort(values.case_ids.astype(str), kind="stable")
    return Values(
        values.numbers[order], values.patients[order], values.case_ids[order], values.cases
    )


def broken(rows: Design, disclosure: Disclosure, parameters: int, of: int) -> Rule | None:
    """Return the first of `RULES` by which sums over the rows of a model would tell of few.

    Args:
        rows: of the model, of the minimum of patients at least.
        disclosure: the limits that hold.
        parameters: of the model, its constant included.
        of: patients that they rest on: all, those with the event, or those of the smaller class.
    """
    import numpy as np

    if not (np.abs(rows.raw) <= LARGEST).all():
        return NUMBER_RANGE
    if len(set(rows.patients)) < rows.patients.size:
        return ONE_ROW
    there = present(rows)
    found = {moments.broken(rows.values(number), disclosure) for number in there}
    for rule in (ZERO_VARIANCE, DOMINANCE, FEW_LEVELS):
        if rule in found:
            return rule
    if any(_few_in(rows, *each, disclosure) for each in _classes(rows)):
        return FEW_IN_CLASS
    if _few_in_combination(rows, disclosure):
        return FEW_IN_COMBINATION
    return TOO_MANY_PARAMETERS if parameters > PARAMETERS * of else None


def present(rows: Design) -> list[int]:
    """Return the columns that are not those of a value of a category that nobody here has.

    Such a column is 0 in everyone, and its sums say no more than that. Where patients have one
    value of a category alone, that would be known of each of them: then all its columns count.
    """
    import numpy as np

    found = []
    for variable in dict.fromkeys(rows.of):
        columns = [i for i, of in enumerate(rows.of) if of == variable]
        inside = rows.raw[:, columns]
        several = len(columns) > 1 and len(np.unique(inside, axis=0)) > 1
        found += [i for i in columns if not several or rows.raw[:, i].any()]
    return found


def _classes(rows: Design) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Yield who is in each class of each variable of two values or of a category.

    Each comes with the number of its variable, as in `Design.of`.
    """
    import numpy as np

    for variable in dict.fromkeys(rows.of):
        columns = rows.raw[:, [number == variable for number in rows.of]]
        if columns.shape[1] == 1 and np.unique(columns).size == 2:
            high: npt.NDArray[np.bool_] = np.equal(columns[:, 0], columns.max())
            yield from ((variable, high), (variable, ~high))
        elif columns.shape[1] > 1:
            yield from ((variable, column == 1) for column in columns.T)
            yield variable, np.logical_not(columns.any(axis=1))


def _few_in(
    rows: Design, variable: int, inside: npt.NDArray[np.bool_], disclosure: Disclosure
) -> bool:
    """Return whether the rows of a class are too few, or another column tells of few of them."""
    if not inside.any():
        return False
    cases = frozenset(rows.case_ids[inside])
    if len(cases) < disclosure.min_patients:
        return True
    others = (i for i in present(rows) if rows.of[i] != variable)
    return any(moments.broken(only(rows.values(i), cases), disclosure) for i in others)


def _few_in_combination(rows: Design, disclosure: Disclosure) -> bool:
    """Return whether two patients make nearly all of a combination's squares, or of a product."""
    import numpy as np

    spread = rows.raw - rows.raw.mean(axis=0)
    everything = np.column_stack([np.ones(len(spread)), spread])
    if pair_dominates(everything, disclosure.largest_two):
        return True
    away = rows.raw - np.median(rows.raw, axis=0)
    for i in range(away.shape[1]):
        for j in range(i):
            product = replace(rows.values(i), numbers=away[:, i] * away[:, j])
            if product.numbers.any() and dominated(
                product, disclosure.largest_two, disclosure.p_percent
            ):
                return True
    return False


def pair_dominates(
    matrix: npt.NDArray[np.float64], limit: float, independent: float = INDEPENDENT
) -> bool:
    """Return whether two rows make more than a share of the sum of squares of a combination.

    Of all linear combinations of the columns, the greatest share of rows i and j is the greater
    eigenvalue of their part of the projection onto the columns (Cook and Weisberg 1982, Residuals
    and Influence in Regression, section 2.1: the leverage, of one row).

    Args:
        matrix: one row a patient, shape (rows, columns).
        limit: the share.
        independent: least singular value that counts, as a share of the largest, of columns of unit
            length.
    """
    import numpy as np

    lengths = np.linalg.norm(matrix, axis=0)
    if not lengths.any():
        return False
    left, singular, _ = np.linalg.svd(matrix[:, lengths > 0] / lengths[lengths > 0], False)
    left = left[:, singular > independent * singular[0]]
    own = np.square(left).sum(axis=1)
    # The share of two rows is no more than the sum of their leverages.
    for high in np.flatnonzero(own > limit / 2):
        shared = np.delete(left @ left[high], high)
        others = np.delete(own, high)
        greatest = (own[high] + others) / 2 + np.hypot((own[high] - others) / 2, shared)
        if float(greatest.max(initial=own[high])) > limit:
            return True
    return False
