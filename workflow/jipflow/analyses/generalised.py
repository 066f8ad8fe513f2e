"""Generalised linear models in rounds of Newton's method: what their kinds have in common.

In the first round a site sends means and centred scatter of the columns, as `linear` does. From
these the hub has the model without variables, and the first step from there. In each later round it
states coefficients of the columns, in units of their means and standard deviations over all sites,
and the sites send score and information there, until a step is below 1e-9. The protocol's centers
and scales are applied at the end, so that others ask for the very same numbers.

The likelihood itself does not leave: it would be one more sum over the values of the outcome.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from jipflow.analyses import design
from jipflow.analyses.cells import CellKey, Measured
from jipflow.analyses.contract import (
    ALONE,
    Analysis,
    CellBelowMinimum,
    ImpossibleCell,
    Known,
    Proposed,
    kinds,
)
from jipflow.analyses.design import PARAMETERS, Design, OfColumns, broken
from jipflow.analyses.estimates import (
    COLLINEAR,
    FEW_SITES,
    INTERCEPT,
    NO_CONVERGENCE,
    OUT_OF_RANGE,
    SEPARATION,
    SITE_LEFT,
    estimates,
    rows_of,
    term_names,
)
from jipflow.analyses.evaluated import MOST_BETA, Evaluated, Scattered, Start, evaluated_at
from jipflow.analyses.facts import TOLERANCE, Column, Implied, LedgerCell, Limits
from jipflow.analyses.forms import FLOOR, LARGEST
from jipflow.analyses.likelihoods import (
    Family,
    Fitted,
    Point,
    Sums,
    combine_to_few,
    differ_beside,
    differ_in_few,
    evaluate,
    rest_on_few,
)
from jipflow.analyses.moments import NUMBER_RANGE
from jipflow.analyses.newton import Step, newton
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.analyses.scatter import (
    in_range,
    is_positive,
    merge_scatters,
    ranges_of,
    scatter,
    units,
    verify_indicators,
    verify_scatter,
)
from jipflow.exchange.roster import FEWEST_SITES
from jipflow.settings.protocol import Disclosure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DISTANT = 3.0
"""A coefficient of one standard deviation that still grows beyond this magnitude (a ratio of 20) is
on its way to infinity: where sites withhold there, outcomes are nearly separated."""

OUTCOME = Rule(
    "outcome",
    "The outcome of a logistic model must be 0 or 1, that of a Poisson model a whole number from 0 "
    "on.",
    because="the outcome has values that the model has none of",
)
MANY_POINTS = Rule(
    "many_points",
    "Of one model numbers leave at no more coefficients than the protocol has rounds, whatever the "
    "analysis and the release: each gives equations of the values.",
    because="numbers of the model have left at as many coefficients as the protocol has rounds",
)
RESTS_ON_FEW = Rule(
    "rests_on_few",
    "At the coefficients that the hub chose the weights must be worth the minimum of patients, and "
    "no two may make nearly all of a score, of an information, or of what either changed by since "
    "other coefficients.",
    because="at the hub's coefficients one or two patients make most of a number",
)
RULES = (OUTCOME, *design.RULES, MANY_POINTS, RESTS_ON_FEW)


@dataclass(frozen=True, eq=False)
class Content:
    """A model at a site.

    Attributes:
        rows: of variable, covariates and, last, the outcome.
        point: that was stated; None in the first round.
    """

    rows: Design
    point: Point | None

    @property
    def outcome(self) -> npt.NDArray[np.float64]:
        """The outcome of each row."""
        found: npt.NDArray[np.float64] = self.rows.raw[:, -1]
        return found

    def at(self, family: Family, point: Point) -> Sums | None:
        """Return the likelihood at a point; None where no number has it."""
        return evaluate(family, self.rows.raw[:, :-1], self.outcome, point)

    def fitted(self, family: Family) -> Fitted | None:
        """Return the likelihood at the point that was stated, by patients; None likewise."""
        import numpy as np

        order = np.argsort(self.rows.patients.astype(str), kind="stable")
        raw = self.rows.raw[order]
        found = evaluate(family, raw[:, :-1], raw[:, -1], self.point) if self.point else None
        return Fitted(self.rows.patients[order], raw[:, :-1], found) if found else None


@dataclass(frozen=True, eq=False)
class Reached:
    """Where a step begins and leads to, of all sites together.

    Attributes:
        step: of Newton's method.
        point: where it begins.
        n: patients.
        events: sum of their outcomes.
    """

    step: Step
    point: Point
    n: int
    events: int


class Generalised(OfColumns, Analysis[Any, Any, Any]):
    """Scatter, then scores and information at what the hub states, and Newton's method.

    Attributes:
        family: distribution of the outcome.
    """

    family: ClassVar[Family]
    rules = RULES

    @property
    def rounds(self) -> int:
        """As the settings have it."""
        return int(self.settings.rounds)

    @property
    def terms(self) -> int:
        """Terms of each model, the intercept among them."""
        return 2 + len(term_names(self.settings.covariates))

    @property
    def most_numbers(self) -> int:
        """A point, a score and a triangle, or means, rests and a triangle that is as large."""
        return 4 * self.terms + self.terms * (self.terms + 1) // 2

    def propose(self, measured: Measured, given: Mapping[Any, Any] | None = None) -> list[Proposed]:
        """Propose a model of each variable, of the cases that have all of its columns."""
        settings, found = self.settings, []
        for key in self.cells(measured.features, measured.places):
            if given is None or key in given:
                rows = design.design(measured, key, settings.further(), settings.by)
                columns = self._columns(rows)
                content = Content(rows, given[key].point if given else None)
                found.append(Proposed(self, key, columns[0].values, content, columns))
        return found

    def _columns(self, rows: Design) -> list[Column]:
        """Return the columns with the equations that all rounds together give of each.

        At other coefficients than 0 each score and each information is of all columns, but for the
        outcome, whose sums of products with them are known from the first round.
        """
        size = len(rows.keys)
        later = (self.rounds - 1) * (size * (size + 3) // 2)
        equations = [1 + size + later] * (size - 1) + [1 + size]
        return [Column(key, rows.values(i), equations[i]) for i, key in enumerate(rows.keys)]

    @classmethod
    def check_all(
        cls,
        cells: Sequence[tuple[Proposed, int]],
        disclosure: Disclosure,
        known: Known = ALONE,
    ) -> list[Passed | Withheld]:
        """Apply the rules to all models, beside all that left of them and of others before."""
        points: dict[str, set[Point]] = defaultdict(set)
        left: list[Fitted] = []
        if any(cell.content.point for cell, _ in cells):
            left = [fitted for each in known.models() if (fitted := _fitted(each)) is not None]
        found = []
        for cell, _ in cells:
            model, content = cell.pieces[0].model, cell.content
            points[model] |= {
                _point(earlier.released)
                for earlier in known.of(cell)
                if (earlier.model, earlier.number) == (model, 0) and "beta" in earlier.released
            }
            analysis: Generalised = cell.analysis  # type: ignore[assignment]
            checked = analysis.beside(content, points[model], disclosure, left)
            if isinstance(checked, Passed) and content.point is not None:
                points[model].add(content.point)
                left += [fitted for fitted in [content.fitted(analysis.family)] if fitted]
            found.append(checked)
        return found

    def check(self, content: Content, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Apply the rules to a model of which nothing left before."""
        return self.beside(content, set(), disclosure)

    def beside(
        self,
        content: Content,
        points: set[Point],
        disclosure: Disclosure,
        left: Sequence[Fitted] = (),
    ) -> Passed | Withheld:
        """Withhold numbers that tell of few patients, by themselves or beside others.

        Args:
            content: of the model.
            points: at which numbers of it have left or leave.
            disclosure: the limits that hold.
            left: all models of outcomes that have left or leave.
        """
        rows, point = content.rows, content.point
        if not self.family.fits(content.outcome):
            return Withheld(OUTCOME)
        rule = broken(rows, disclosure, len(rows.keys), self.family.rest_on(content.outcome))
        if rule is not None:
            return Withheld(rule)
        if point is None:
            together = scatter(rows.raw)
            sent = {"step": "moments", **together.sent}
            return Passed(sent) if in_range(together) else Withheld(NUMBER_RANGE)
        if point not in points and len(points) >= self.rounds - 1:
            return Withheld(MANY_POINTS)
        found = content.at(self.family, point)
        if found is None or rest_on_few(found, disclosure):
            return Withheld(RESTS_ON_FEW)
        # The same numbers once more tell nothing new.
        if point not in points and self._beside_others(content, found, points, disclosure, left):
            return Withheld(RESTS_ON_FEW)
        return Passed(evaluated_at(point, found))

    def _beside_others(
        self,
        content: Content,
        found: Sums,
        points: set[Point],
        disclosure: Disclosure,
        left: Sequence[Fitted],
    ) -> bool:
        """Return whether few patients make what numbers are beside all that have left or leave."""
        others = [content.at(self.family, each) for each in sorted(points, key=repr)]
        known = [other for other in others if other is not None]
        if differ_in_few(found, known, content.outcome, disclosure):
            return True
        own = content.fitted(self.family)
        if own is None or any(differ_beside(own, each, disclosure) for each in left):
            return True
        return combine_to_few(own, left, disclosure)

    def check_stated(self, cell: Start, round_: int) -> None:
        """Refuse coefficients that are not of the model, and too few patients.

        Which coefficients are too large for the patients of this site, `rest_on_few` looks at.
        """
        lengths = (len(cell.beta), 1 + len(cell.centers), 1 + len(cell.scales))
        if lengths != (self.terms,) * 3:
            raise ImpossibleCell(f"{len(cell.beta)} coefficients of a model of {self.terms}")
        if len(cell.steps) != round_ - 1:
            raise ImpossibleCell(f"{len(cell.steps)} steps before round {round_}")
        if cell.n < FEWEST_SITES * FLOOR:
            raise ImpossibleCell(f"{cell.n} patients, fewer than of {FEWEST_SITES} sites")

    def verify(self, cell: Scattered | Evaluated, limits: Limits) -> None:
        """Refuse what another round asks for, and numbers that no patients give."""
        stated = limits.stated if isinstance(limits.stated, Start) else None
        if isinstance(cell, Evaluated) != (stated is not None):
            raise ImpossibleCell
        if isinstance(cell, Evaluated):
            assert stated is not None
            self._verify_evaluated(cell, stated)
        else:
            self._verify_scattered(cell, limits)

    def _verify_scattered(self, cell: Scattered, limits: Limits) -> None:
        ranges, categories = ranges_of(self.settings.covariates, 1)
        if self.family.is_indicator:
            categories.append([1 + len(ranges)])
        own = (limits.lowest, limits.highest)
        verify_scatter(cell, [own, *ranges, self.family.range], categories)
        verify_indicators(cell, categories, limits.minimum)
        events = cell.n * (cell.means[-1] + cell.mean_rests[-1])
        if abs(events - round(events)) > TOLERANCE * max(cell.n, events):
            raise ImpossibleCell
        if self.terms > PARAMETERS * self.family.rest_on_at_most(cell.n, round(events)):
            raise CellBelowMinimum

    def _verify_evaluated(self, cell: Evaluated, stated: Start) -> None:
        size = self.terms
        if cell.point != stated.point or len(cell.score) != size:
            raise ImpossibleCell
        if [len(row) for row in cell.information] != [*range(1, size + 1)]:
            raise ImpossibleCell
        matrix = cell.matrix
        if not (matrix.diagonal() > 0).all() or not is_positive(matrix):
            raise ImpossibleCell
        most = self.family.most_weight
        if matrix[0, 0] > cell.n * most * (1 + TOLERANCE) or abs(cell.score[0]) > 4 * cell.n * most:
            raise ImpossibleCell
        if size > PARAMETERS * cell.n:
            raise CellBelowMinimum

    def continues(self, cell: Scattered | Evaluated, before: Any) -> bool:
        """Return whether the patients are as many as before."""
        return before is not None and cell.n == before.n

    def implies(self, cell: Scattered | Evaluated, limits: Limits) -> Implied:
        """Return the mean of the variable where it is sent, and the patients."""
        if isinstance(cell, Scattered):
            return Implied((cell.means[0], cell.means[0]), (cell.n, cell.n))
        return Implied((limits.lowest, limits.highest), (cell.n, cell.n))

    def merge(self, by_site: Mapping[str, Any], given: Start | None = None) -> dict[str, Any]:
        """Add the sites' numbers, and return the terms once the steps have ended."""
        about = {
            "n": sum(cell.n for cell in by_site.values()),
            "events": given.events if given else _events(by_site),
            "by_site": [{"site": site, "n": cell.n} for site, cell in sorted(by_site.items())],
        }
        found = self._reached(by_site, given)
        if isinstance(found, str):
            return {**about, "terms": [], "reason": found}
        if not found.step.is_last:
            return {**about, "terms": [], "reason": self._why_over(found, given)}
        return {**about, **self._concluded(found, next(iter(by_site.values())).feature)}

    def unanswered(self, given: Start) -> dict[str, Any]:
        """Return why there are no estimates of a model that all sites have withheld."""
        about = {"n": given.n, "events": given.events, "by_site": []}
        return {**about, "terms": [], "reason": _why_left(given)}

    def advance(
        self, round_: int, by_site: Mapping[str, Any], given: Start | None = None
    ) -> Start | None:
        """Return where the step leads; None where there is none or it was the last."""
        found = self._reached(by_site, given)
        if isinstance(found, str) or found.step.is_last or self._why_over(found, given):
            return None
        step = found.step
        key: CellKey = next(iter(by_site.values())).key
        return Start(
            **key._asdict(),
            beta=step.beta.tolist(),
            centers=list(found.point.centers),
            scales=list(found.point.scales),
            steps=[*(given.steps if given else []), step.size],
            grows=step.grows,
            n=found.n,
            events=found.events,
        )

    def _reached(self, by_site: Mapping[str, Any], given: Start | None) -> Reached | str:
        """Return the step that the sites' numbers give together, or why there is none."""
        import numpy as np

        if given is not None and sum(cell.n for cell in by_site.values()) != given.n:
            return _why_left(given)
        if len(by_site) < FEWEST_SITES:
            return FEW_SITES
        with np.errstate(all="ignore"):
            found = self._first(by_site) if given is None else _next(by_site, given)
        if isinstance(found, str):
            return found
        finite = np.isfinite(found.step.beta).all() and np.isfinite(found.step.covariance).all()
        return found if finite else OUT_OF_RANGE

    def _first(self, by_site: Mapping[str, Scattered]) -> Reached | str:
        """Return the first step, from the model without variables, whose mean is the outcome's."""
        import numpy as np

        together = merge_scatters({site: cell.scatter for site, cell in by_site.items()})
        n, products = together.rows, together.products
        intercept, variance = self.family.start(float(together.means[-1] + together.rests[-1]))
        scales = np.sqrt(np.diag(products)[:-1] / (n - 1))
        if not np.diag(products)[:-1].all():
            return COLLINEAR
        usable = (scales > 0) & (scales <= LARGEST)
        if not (np.isfinite(products).all() and usable.all() and variance > 0):
            return OUT_OF_RANGE
        size = self.terms
        information = np.zeros((size, size))
        information[0, 0] = n
        information[1:, 1:] = products[:-1, :-1] / np.outer(scales, scales)
        score = np.array([0.0, *(products[:-1, -1] / scales)])
        beta = np.array([intercept, *np.zeros(size - 1)])
        step = newton(beta, score, variance * information, variance * n)
        if step is None:
            return COLLINEAR
        centers = tuple(together.means[:-1].tolist())
        return Reached(
            # It is of the model without variables, and never the last.
            replace(step, size=max(step.size, 1.0)),
            Point(tuple(beta.tolist()), centers, tuple(scales.tolist())),
            n,
            _events(by_site),
        )

    def _why_over(self, found: Reached, given: Start | None) -> str | None:
        """Return why the estimates are not reached; None where another round goes on."""
        if abs(found.step.beta).max() > MOST_BETA:
            return SEPARATION if found.step.grows else NO_CONVERGENCE
        if given is None or len(given.steps) + 1 < self.rounds:
            return None
        return SEPARATION if found.step.grows else NO_CONVERGENCE

    def _concluded(self, found: Reached, feature: str) -> dict[str, Any]:
        """Return the terms of a model, in the units of the protocol."""
        import numpy as np

        settings = self.settings
        centers, scales = (
            np.array([float(own), *others])
            for own, others in zip(
                (settings.center, settings.scale), units(settings.covariates), strict=True
            )
        )
        own_centers, own_scales = np.array(found.point.centers), np.array(found.point.scales)
        units_ = np.diag([1.0, *(scales / own_scales)])
        units_[0, 1:] = (centers - own_centers) / own_scales
        beta = units_ @ found.step.beta
        covariance = units_ @ found.step.covariance @ units_.T
        if not (np.isfinite(beta).all() and np.isfinite(covariance).all()):
            return {"terms": [], "reason": OUT_OF_RANGE}
        names = [INTERCEPT, feature, *term_names(self.settings.covariates)]
        return {"terms": estimates(names, beta, covariance, ratio=True), "reason": None}

    def conclude(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return all terms of all models."""
        return {"estimates": rows_of(cells)}


def _fitted(model: Sequence[LedgerCell]) -> Fitted | None:
    """Return a model that left as its pieces; None of one without a point or of another kind."""
    import numpy as np

    first = model[0]
    kind = kinds().get(first.kind)
    if kind is None or not issubclass(kind, Generalised) or "beta" not in first.released:
        return None
    raw = np.column_stack([piece.values.numbers for piece in model])
    found = evaluate(kind.family, raw[:, :-1], raw[:, -1], _point(first.released))
    return Fitted(first.values.case_ids, raw[:, :-1], found) if found else None


def _point(released: Mapping[str, Any]) -> Point:
    """Return where numbers that left are of."""
    return Point(*(tuple(released[name]) for name in ("beta", "centers", "scales")))


def _events(by_site: Mapping[str, Scattered]) -> int:
    """Return the sum of the outcomes of all sites, which are whole numbers."""
    return sum(round(cell.n * cell.means[-1]) for cell in by_site.values())


def _next(by_site: Mapping[str, Evaluated], given: Start) -> Reached | str:
    """Return the step from the coefficients that were stated."""
    import numpy as np

    cells = [by_site[site] for site in sorted(by_site)]
    score = np.sum([cell.score for cell in cells], axis=0)
    information = np.sum([cell.matrix for cell in cells], axis=0)
    step = newton(np.array(given.beta), score, information, float(information[0, 0]))
    if step is None:
        return SEPARATION
    return Reached(step, given.point, given.n, given.events)


def _why_left(given: Start) -> str:
    """Return why a site that was in an earlier round is in the later one no more."""
    distant = given.grows and max(abs(value) for value in given.beta[1:]) > DISTANT
    return SEPARATION if distant else SITE_LEFT
