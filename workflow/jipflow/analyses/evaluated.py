"""What leaves of a generalised linear model in each round, what the hub states, and their page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from jipflow.analyses import sent_scatter
from jipflow.analyses.estimates import INTERCEPT, term_names
from jipflow.analyses.forms import LARGEST, Count, CountedCell, Enough, StatedCell, Value
from jipflow.analyses.likelihoods import Point, Sums
from jipflow.analyses.scatter import Product, ScatterCell, symmetric
from jipflow.analyses.scores import draw_scores, score_rows
from jipflow.analyses.units import with_unit
from jipflow.blocks import Drawing, Row, TableCell, head, numeral
from jipflow.settings.covariates import Covariate
from jipflow.settings.part import AsGiven, NotNegative

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_BETA = 50.0
"""Largest magnitude of a coefficient of one standard deviation that a hub may state."""

Coefficient = Annotated[float, Field(ge=-MOST_BETA, le=MOST_BETA), AsGiven]
Scale = Annotated[float, Field(gt=0, le=LARGEST), AsGiven]


class Scattered(ScatterCell):
    """What the first round asks for: means and centred scatter, of the outcome last."""

    step: Literal["moments"]


class Evaluated(CountedCell):
    """What each later round asks for: score and information at the coefficients stated."""

    step: Literal["newton"]
    beta: Annotated[list[Coefficient], Field(min_length=1)]
    """Intercept and coefficients of (x - center) / scale, as the hub stated them."""
    centers: Annotated[list[Value], Field(min_length=1)]
    """Of each column, likewise."""
    scales: Annotated[list[Scale], Field(min_length=1)]
    """Of each column, likewise."""
    score: Annotated[list[Value], Field(min_length=1)]
    """First derivatives of the logarithm of the likelihood."""
    information: Annotated[list[list[Product]], Field(min_length=1)]
    """Its second derivatives, negative: of each coefficient with those up to itself."""

    @property
    def point(self) -> Point:
        """Where it is evaluated."""
        return Point(tuple(self.beta), tuple(self.centers), tuple(self.scales))

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """The information, shape (terms, terms)."""
        return symmetric(self.information)


class Start(StatedCell):
    """The coefficients of the next round."""

    beta: Annotated[list[Coefficient], Field(min_length=1)]
    """Intercept and coefficients of (x - center) / scale."""
    centers: Annotated[list[Value], Field(min_length=1)]
    """Mean of each column over all sites."""
    scales: Annotated[list[Scale], Field(min_length=1)]
    """Its standard deviation."""
    steps: Annotated[list[NotNegative], Field(min_length=1)]
    """Size of each step so far, as a share of the coefficient or of its standard error."""
    grows: bool
    """Whether the last step led away from 0 by far."""
    n: Enough
    """Patients of all sites."""
    events: Count
    """Sum of their outcomes."""

    @property
    def point(self) -> Point:
        """Where the sites evaluate."""
        return Point(tuple(self.beta), tuple(self.centers), tuple(self.scales))


def evaluated_at(point: Point, found: Sums) -> dict[str, Any]:
    """Return what leaves of a likelihood at a point, as `Evaluated` has it."""
    return {
        "step": "newton",
        "beta": list(point.beta),
        "centers": list(point.centers),
        "scales": list(point.scales),
        "score": found.score.tolist(),
        "information": [row[: i + 1] for i, row in enumerate(found.information.tolist())],
    }


def draw_sent(
    cells: Sequence[Scattered | Evaluated], covariates: Sequence[Covariate], outcome: Covariate
) -> Drawing:
    """Show what leaves of models in the first round, or in a later one."""
    names = term_names(covariates)
    scattered = [cell for cell in cells if isinstance(cell, Scattered)]
    if scattered or not cells:
        lead = (
            "Each model is of n patients who have all of its variables, the last of which is the "
            "outcome."
        )
        return sent_scatter.draw_sent(scattered, [*covariates, outcome], lead)
    groups: dict[str, list[Row]] = defaultdict(list)
    for cell in cells:
        if isinstance(cell, Evaluated):
            about = [TableCell(with_unit(cell.feature), scope="row"), numeral(str(cell.n))]
            groups[cell.key.title] += score_rows(cell, about, [INTERCEPT, cell.feature, *names])
    lead = (
        "Each model is of n patients who have all of its variables. The hub chose the "
        "coefficients, in units of the standard deviation over all sites. Of each leaves by how "
        "much the outcomes differ from what the coefficients let expect (score), and how precisely "
        "they fix it (information). Behind the switch are these numbers as they leave, each "
        "information with the terms up to itself."
    )
    return draw_scores(lead, [head("Model"), head("n", "num"), head("Term")], groups)
