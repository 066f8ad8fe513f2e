"""Keys that analyses of an outcome have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from jipflow.settings.clinical import ROLE, ClinicalVariable
from jipflow.settings.covariates import Covariate
from jipflow.settings.part import Number, Part, Positive

MOST_COVARIATES = 10
MOST_ROUNDS = 12


class OfOutcome(Part):
    """The keys of a model of an outcome."""

    outcome: Covariate
    """What the models explain."""
    covariates: Annotated[list[Covariate], Field(max_length=MOST_COVARIATES)] = Field(default=[])
    """What each model has beside its variable and an intercept."""
    center: Number = 0
    """What is taken off the variables: coefficients are of (x - center) / scale."""
    scale: Positive = 1
    """What the variables are divided by, such as 10 for a ratio of ten units."""
    rounds: Annotated[int, Field(ge=3, le=MOST_ROUNDS)] = 6
    """Most rounds. Each adds to the equations of a site's values, so that more need more
    patients."""
    missing: Literal["complete"] = "complete"
    """A case counts if it has every variable of the model."""

    def further(self) -> Sequence[Covariate]:
        """Return the covariates and, last, the outcome."""
        return [*self.covariates, self.outcome]

    def outcome_problems(
        self, known: Mapping[str, ClinicalVariable], types: Sequence[str]
    ) -> Iterator[str]:
        """Yield what is wrong with the outcome.

        Args:
            known: the protocol's clinical variables by name.
            types: that it may have; a category must have two values.
        """
        name = f"outcome: {self.outcome.variable!r}"
        if (self.outcome.center, self.outcome.scale) != (0, 1):
            yield f"{name} is taken as it is; remove `center` and `scale`."
        variable = known.get(self.outcome.feature)
        if self.outcome.role != ROLE or variable is None:
            yield f"{name} is no clinical variable."
        elif variable.type not in types:
            yield f"{name} is of the type {variable.type}, not {' or '.join(types)}."
        elif variable.values is not None and len(variable.values) != 2:
            yield f"{name} is a category of {len(variable.values)} values, not two."
