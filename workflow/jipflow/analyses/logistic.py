"""Logistic regression, as if the rows of all sites lay in one place.

Each variable is in a model of its own, beside the covariates and an intercept. See
`jipflow.analyses.generalised` for the rounds.

A cell of the result has ``n``, ``events`` (patients with the outcome), ``terms`` (see
`jipflow.analyses.estimates`; ratios are of odds), and in ``by_site`` the ``n`` of each ``site``;
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
from jipflow.analyses.likelihoods import Binomial
from jipflow.blocks import Drawing
from jipflow.settings.clinical import ClinicalVariable
from jipflow.settings.covariates import Covariate
from jipflow.settings.outcome import OfOutcome
from jipflow.settings.part import Number, Positive
from jipflow.settings.protocol import AnalysisSettings


class Settings(OfOutcome, AnalysisSettings):
    """Logistic regression of an outcome of two values on each variable."""

    kind: Literal["logistic"]

    def clinical_problems(self, known: Mapping[str, ClinicalVariable]) -> Iterator[str]:
        """Yield what is wrong with the outcome."""
        yield from self.outcome_problems(known, ("event", "category"))


Cell = Scattered | Evaluated


class Released(ReleasedAnalysis):
    """What leaves of each model in a round."""

    kind: Literal["logistic"]
    outcome: Covariate
    covariates: list[Covariate]
    center: Number
    scale: Positive
    rounds: int
    cells: list[Cell]


class Stated(StatedAnalysis):
    """The coefficients of each model."""

    kind: Literal["logistic"]
    cells: list[Start]


class Logistic(Generalised):
    """Odds of an outcome by logistic regression."""

    cell = Cell
    released = Released
    stated = Stated
    family = Binomial
    title = "Logistic regression"
    merging = (
        "Means and sums of products, then scores and information matrices of the binomial "
        "likelihood with logit link at coefficients that the hub stated, were added over sites; "
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
            "Logistic regression of the outcome on each feature and the covariates, by maximum "
            "likelihood, with 95 % confidence intervals (CI) of Wald, as if the rows of all sites "
            f"lay in one place. The outcome is {outcome_of(analysis['outcome'])}. "
        )
        units = (analysis["center"], analysis["scale"])
        lead += units_of(analysis["covariates"], units)
        wording = Wording("Coefficient", "z", "Odds ratio", "events")
        return draw_estimates(lead.rstrip(), analysis["cells"], sites, wording)


def outcome_of(outcome: Mapping[str, Any]) -> str:
    """Return in words what an outcome of 1 is, as a heading has it."""
    if "reference" not in outcome:
        return f"{outcome['variable']}"
    (value,) = (each for each in outcome["values"] if each != outcome["reference"])
    return f"{outcome['variable']}, {value} against {outcome['reference']}"
