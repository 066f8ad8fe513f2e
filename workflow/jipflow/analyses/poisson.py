"""Poisson regression of counts, as if the rows of all sites lay in one place.

Each variable is in a model of its own, beside the covariates and an intercept. See
`jipflow.analyses.generalised` for the rounds.

A cell of the result has ``n``, ``events`` (the sum of the counts), ``terms`` (see
`jipflow.analyses.estimates`; ratios are of rates), and in ``by_site`` the ``n`` of each ``site``;
without terms ``reason`` says why, and is null where another round goes on. The analysis has
``estimates``, all terms of all models. They equal those of all rows in one place to 1e-9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from jipflow.analyses.estimates import Wording, draw_estimates, units_of
from jipflow.analyses.evaluated import Evaluated, Scattered, Start, draw_sent
from jipflow.analyses.forms import ReleasedAnalysis, StatedAnalysis
from jipflow.analyses.generalised import Generalised
from jipflow.analyses.likelihoods import Poisson
from jipflow.blocks import Drawing
from jipflow.settings.clinical import ClinicalVariable
from jipflow.settings.covariates import Covariate
from jipflow.settings.outcome import OfOutcome
from jipflow.settings.part import Number, Positive
from jipflow.settings.protocol import AnalysisSettings


class Settings(OfOutcome, AnalysisSettings):
    """Poisson regression of counts on each variable."""

    kind: Literal["poisson"]

    def clinical_problems(self, known: Mapping[str, ClinicalVariable]) -> Iterator[str]:
        """Yield what is wrong with the outcome."""
        yield from self.outcome_problems(known, ("number", "days"))


Cell = Scattered | Evaluated


class Released(ReleasedAnalysis):
    """What leaves of each model in a round."""

    kind: Literal["poisson"]
    outcome: Covariate
    covariates: list[Covariate]
    center: Number
    scale: Positive
    rounds: int
    cells: list[Cell]


class Stated(StatedAnalysis):
    """The coefficients of each model."""

    kind: Literal["poisson"]
    cells: list[Start]


class PoissonRegression(Generalised):
    """Rates of counts by Poisson regression."""

    cell = Cell
    released = Released
    stated = Stated
    family = Poisson
    title = "Poisson regression"
    merging = (
        "Means and sums of products, then scores and information matrices of the Poisson "
        "likelihood with log link at coefficients that the hub stated, were added over sites; "
        "Newton's method from round to round ended when its steps were below 1e-9."
    )

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show what leaves of every model."""
        return draw_sent(analysis.cells, analysis.covariates, analysis.outcome)

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show the ratios of every model."""
        lead = (
            "Poisson regression of the count on each feature and the covariates, by maximum "
            "likelihood, with 95 % confidence intervals (CI) of Wald, as if the rows of all sites "
            f"lay in one place. The count is {analysis['outcome']['variable']}. "
        )
        units = (analysis["center"], analysis["scale"])
        lead += units_of(analysis["covariates"], units)
        wording = Wording("Coefficient", "z", "Rate ratio", "events")
        return draw_estimates(lead.rstrip(), analysis["cells"], sites, wording)
