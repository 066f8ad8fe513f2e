"""Cox regression stratified by site, as if the rows of all sites lay in one place.

Each variable is the predictor of a model of its own, beside the covariates. Every site is a stratum
with a baseline hazard of its own, so that nobody is compared with a patient of another site and
risk sets stay where they are. In each round a site sends score and information at the coefficients
that the hub states, from 0 on, and the hub adds them up and makes a step of Newton's method, until
steps are below 1e-9. The partial likelihood itself does not leave: at 0 it is a product of how many
were at risk, which gives the order of events and censored.

A cell of the result has ``n``, ``events``, ``terms`` (see `jipflow.analyses.estimates`; ratios are
of hazards), ``wald`` (``statistic``, ``df`` and ``p`` of all terms together), and in ``by_site``
``n`` and ``events`` of each ``site``; without terms ``reason`` says why, and is null where another
round goes on. The analysis has ``estimates``, all terms of all models. They equal those of all rows
in one place to 1e-9.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from jipflow.analyses.cells import Measured
from jipflow.analyses.contract import (
    ALONE,
    Analysis,
    CellBelowMinimum,
    ImpossibleCell,
    Known,
    Proposed,
)
from jipflow.analyses.design import (
    PARAMETERS,
    Design,
    OfColumns,
    design,
)
from jipflow.analyses.estimates import (
    COLLINEAR,
    FEW_SITES,
    NO_CONVERGENCE,
    OUT_OF_RANGE,
    SEPARATION,
    SITE_LEFT,
    Wording,
    draw_estimates,
    estimates,
    rows_of,
    term_names,
    units_of,
)
from jipflow.analyses.facts import TOLERANCE, Column, Implied, Limits
from jipflow.analyses.forms import (
    FLOOR,
    LARGEST,
    CountedCell,
    Enough,
    ReleasedAnalysis,
    StatedAnalysis,
    StatedCell,
    Value,
)
from jipflow.analyses.newton import Step, newton
from jipflow.analyses.rules import Passed, Withheld
from jipflow.analyses.scatter import Product, is_positive, ranges_of, symmetric, units
from jipflow.analyses.scores import draw_scores, score_rows
from jipflow.analyses.stratified import RULES, Content, beside, content_of, fitted, left_of
from jipflow.analyses.units import with_unit
from jipflow.blocks import Drawing, Row, TableCell, head, numeral
from jipflow.exchange.roster import FEWEST_SITES
from jipflow.settings.clinical import ROLE, VARIABLE, ClinicalVariable
from jipflow.settings.covariates import Covariate
from jipflow.settings.part import NotNegative, Positive
from jipflow.settings.protocol import AnalysisSettings, Disclosure
from jipflow.settings.survival import event_problems, time_problems

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_COVARIATES = 10
MOST_ROUNDS = 10

SETTLED = 3
"""Coefficients that still grow by far in this step or a later one are on their way to infinity:
where sites withhold there, a combination of the variables orders the events."""

Clinical = Annotated[str, Field(pattern=rf"^{ROLE}\.{VARIABLE}$")]
Coefficients = Annotated[list[Value], Field(min_length=1)]


class Settings(AnalysisSettings):
    """Cox regression of times to an event, stratified by site."""

    kind: Literal["cox"]
    time: Clinical
    """Clinical variable of the time until the event or the last contact, of the type days or
    number; its `range` begins at 0 or above."""
    event: Clinical
    """Clinical variable of the type event: whether the time is that of the event."""
    covariates: Annotated[list[Covariate], Field(max_length=MOST_COVARIATES)] = Field(default=[])
    """What else each model has beside its variable."""
    scale: Positive = 1
    """What the variables are divided by, such as 10 for the hazard ratio of ten units."""
    rounds: Annotated[int, Field(ge=2, le=MOST_ROUNDS)] = 6
    """Most rounds. Each adds to the equations of a site's values, so that more need more
    patients."""
    missing: Literal["complete"] = "complete"
    """A case counts if it has every variable of the model."""

    def further(self) -> Sequence[Covariate]:
        """Return the covariates, the time and the event."""
        return [*self.covariates, *(Covariate(variable=each) for each in (self.time, self.event))]

    def clinical_problems(self, known: Mapping[str, ClinicalVariable]) -> Iterator[str]:
        """Yield what is wrong with the time and the event."""
        yield from time_problems([self.time], known)
        yield from event_problems(self.event, known)


class Cell(CountedCell):
    """Score and information of a site at some coefficients."""

    events: Enough
    """Patients with the event."""
    beta: Coefficients
    """Coefficients of the variables as they were measured, that the hub stated; 0 in the first
    round."""
    score: Coefficients
    """First derivatives of the logarithm of the partial likelihood."""
    information: Annotated[list[Annotated[list[Product], Field(min_length=1)]], Field(min_length=1)]
    """Its second derivatives, negative: of each variable with those up to itself."""

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """The information, shape (columns, columns)."""
        return symmetric(self.information)


class Released(ReleasedAnalysis):
    """Score and information of each model."""

    kind: Literal["cox"]
    time: Clinical
    event: Clinical
    covariates: list[Covariate]
    scale: Positive
    rounds: int
    cells: list[Cell]


class Point(StatedCell):
    """The coefficients of the next round."""

    beta: Coefficients
    """Of the variables as they were measured."""
    steps: Annotated[list[NotNegative], Field(min_length=1)]
    """Size of each step so far, as a share of the coefficient or of its standard error."""
    grows: bool
    """Whether the last step led away from 0 by far."""
    n: Enough
    """Patients of all sites."""
    events: Enough
    """Of whom so many have the event."""


class Stated(StatedAnalysis):
    """The coefficients of each model."""

    kind: Literal["cox"]
    cells: list[Point]


class Cox(OfColumns, Analysis[Settings, Cell, Released]):
    """Scores and information of strata, and Newton's method."""

    cell = Cell
    released = Released
    stated = Stated
    rules = RULES
    title = "Cox regression"
    merging = (
        "Scores and information matrices of the partial likelihood (Cox 1972), ties by Efron "
        "(1977), of which each site is a stratum, were added at coefficients that the hub stated "
        "from round to round by Newton's method until its steps were below 1e-9."
    )

    @property
    def rounds(self) -> int:
        """As the settings have it."""
        return self.settings.rounds

    @property
    def size(self) -> int:
        """How many columns a model has."""
        return 1 + len(term_names(self.settings.covariates))

    @property
    def most_numbers(self) -> int:
        """Coefficients, scores and a triangle."""
        size = self.size
        return 2 * size + size * (size + 1) // 2

    def propose(self, measured: Measured, given: Mapping[Any, Any] | None = None) -> list[Proposed]:
        """Propose a model of each variable, of the cases that have all of its columns."""
        settings, found = self.settings, []
        for key in self.cells(measured.features, measured.places):
            if given is None or key in given:
                every = design(measured, key, settings.further(), settings.by)
                content = content_of(every, given[key].beta if given else None)
                columns = self._columns(every)
                found.append(Proposed(self, key, columns[0].values, content, columns))
        return found

    def _columns(self, every: Design) -> list[Column]:
        """Return the columns with the equations that all rounds together give of each.

        At 0 the score of a covariate is of its own values, and its information of these and those
        of one other. At other coefficients each number is of all covariates. Of a time nothing but
        its rank enters. Whoever knows the covariates has in the scores at 0 sums over the events,
        beside the number of events; that and the scores of the further covariates are the same in
        the models of all variables.
        """
        size = len(every.keys) - 2
        own = 1 + size + (self.rounds - 1) * (size * (size + 3) // 2)
        time, event = every.keys[-2:]
        values = every.values(size + 1)
        return [
            *(Column(every.keys[i], every.values(i), own) for i in range(size)),
            Column(time, every.values(size), 0),
            Column(event, values, 1),
            Column(event, values, size, tuple(range(1, size + 2))),
        ]

    @classmethod
    def check_all(
        cls,
        cells: Sequence[tuple[Proposed, int]],
        disclosure: Disclosure,
        known: Known = ALONE,
    ) -> list[Passed | Withheld]:
        """Apply the rules to all models, beside all that left of them and of others before."""
        points: dict[str, set[tuple[float, ...]]] = defaultdict(set)
        before = [left_of(model) for model in known.models()] if cells else []
        left = [found for each in before if each is not None for found in [fitted(each)] if found]
        found = []
        for cell, _ in cells:
            model = cell.pieces[0].model
            points[model] |= {
                tuple(earlier.released["beta"])
                for earlier in known.of(cell)
                if earlier.model == model and earlier.number == 0
            }
            most = cell.analysis.rounds
            checked = beside(cell.content, points[model], most, disclosure, left)
            if isinstance(checked, Passed):
                points[model].add(cell.content.beta)
                left += [own for own in [fitted(cell.content)] if own]
            found.append(checked)
        return found

    def check(self, content: Content, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Apply the rules to a model of which nothing left before."""
        return beside(content, set(), self.rounds, disclosure)

    def check_stated(self, cell: Any, round_: int) -> None:
        """Refuse coefficients that are not of the model, and too few patients.

        Which coefficients are too large for the patients of this site, `rest_on_few` looks at.
        """
        if len(cell.beta) != self.size:
            raise ImpossibleCell(
                f"{len(cell.beta)} coefficients of a model of {self.size} variables"
            )
        if len(cell.steps) != round_ - 1:
            raise ImpossibleCell(f"{len(cell.steps)} steps before round {round_}")
        if not FEWEST_SITES * FLOOR <= cell.events <= cell.n:
            raise ImpossibleCell(
                f"{cell.events} events of {cell.n} patients, fewer than of {FEWEST_SITES} sites"
            )

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Refuse other coefficients than were stated, and numbers that no patients give."""
        size = self.size
        stated = limits.stated.beta if isinstance(limits.stated, Point) else [0.0] * size
        lengths = [len(row) for row in cell.information]
        if cell.beta != stated or len(cell.score) != size or lengths != [*range(1, size + 1)]:
            raise ImpossibleCell
        if cell.events > cell.n:
            raise ImpossibleCell
        if cell.events < limits.minimum or 0 < cell.n - cell.events < limits.minimum:
            raise CellBelowMinimum
        if size > PARAMETERS * cell.events:
            raise CellBelowMinimum
        ranges, categories = ranges_of(self.settings.covariates, 1)
        absent = _absent(cell, categories)
        for i, (low, high) in enumerate([(limits.lowest, limits.highest), *ranges]):
            if i in absent:
                continue
            # A mean lies within the range, and a variance is at most a quarter of its square.
            farthest = (high - low) * (1 + TOLERANCE)
            if abs(cell.score[i]) > cell.events * farthest:
                raise ImpossibleCell
            if not 0 < cell.information[i][i] <= cell.events * farthest * farthest / 4:
                raise ImpossibleCell
        kept = [i for i in range(size) if i not in absent]
        if not is_positive(cell.matrix[kept][:, kept]):
            raise ImpossibleCell

    def continues(self, cell: Cell, before: Cell | None) -> bool:
        """Return whether patients and events are as many as before."""
        return before is not None and (cell.n, cell.events) == (before.n, before.events)

    def implies(self, cell: Cell, limits: Limits) -> Implied:
        """Return that each patient has one value."""
        return Implied((limits.lowest, limits.highest), (cell.n, cell.n))

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Add the sites' numbers, and return the coefficients once they are reached."""
        sites = sorted(by_site.items())
        about = {
            **_totals(by_site),
            "by_site": [{"site": s, "n": cell.n, "events": cell.events} for s, cell in sites],
        }
        step = self._step(by_site, given)
        if isinstance(step, str):
            return {**about, "terms": [], "wald": None, "reason": step}
        if not step.is_last:
            over = self._why_over(step, given)
            return {**about, "terms": [], "wald": None, "reason": over}
        return {**about, **self._concluded(step, next(iter(by_site.values())).feature)}

    def advance(self, round_: int, by_site: Mapping[str, Cell], given: Any = None) -> Point | None:
        """Return where the step leads; None where there is none or it was the last."""
        step = self._step(by_site, given)
        if isinstance(step, str) or step.is_last:
            return None
        key = next(iter(by_site.values())).key
        steps = [*(given.steps if given else []), step.size]
        return Point.model_validate(
            {
                **key._asdict(),
                "beta": step.beta.tolist(),
                "steps": steps,
                "grows": step.grows,
                **_totals(by_site),
            }
        )

    def _step(self, by_site: Mapping[str, Cell], given: Point | None) -> Step | str:
        """Return the step that the sites' numbers give together, or why there is none."""
        import numpy as np

        totals = _totals(by_site)
        if given is not None and totals != {"n": given.n, "events": given.events}:
            return _why_left(given)
        if len(by_site) < FEWEST_SITES:
            return FEW_SITES
        cells = [by_site[site] for site in sorted(by_site)]
        with np.errstate(all="ignore"):
            score = np.sum([cell.score for cell in cells], axis=0)
            information = np.sum([cell.matrix for cell in cells], axis=0)
            step = newton(np.array(cells[0].beta), score, information, totals["events"])
        if step is None:
            return COLLINEAR if given is None else SEPARATION
        return step if (np.abs(step.beta) <= LARGEST).all() else OUT_OF_RANGE

    def _why_over(self, step: Step, given: Point | None) -> str | None:
        """Return why the coefficients are not reached; None where another round goes on."""
        if given is None or len(given.steps) + 1 < self.rounds:
            return None
        return SEPARATION if step.grows else NO_CONVERGENCE

    def _concluded(self, step: Step, feature: str) -> dict[str, Any]:
        """Return the terms of a model, in the units of the protocol, and their common test."""
        import numpy as np
        from scipy.stats import chi2

        scales = np.array([float(self.settings.scale), *units(self.settings.covariates)[1]])
        beta, covariance = step.beta * scales, step.covariance * np.outer(scales, scales)
        if not (np.isfinite(beta).all() and np.isfinite(covariance).all()):
            return {"terms": [], "wald": None, "reason": OUT_OF_RANGE}
        names = [feature, *term_names(self.settings.covariates)]
        statistic = float(step.beta @ np.linalg.solve(step.covariance, step.beta))
        df = len(names)
        wald = {"statistic": statistic, "df": df, "p": float(chi2.sf(statistic, df))}
        terms = estimates(names, beta, covariance, ratio=True)
        return {"terms": terms, "wald": wald, "reason": None}

    def unanswered(self, given: Point) -> dict[str, Any]:
        """Return why there are no estimates of a model that all sites have withheld."""
        about = {"n": given.n, "events": given.events, "by_site": []}
        return {**about, "terms": [], "wald": None, "reason": _why_left(given)}

    def conclude(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return all terms of all models."""
        return {"estimates": rows_of(cells)}

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show score and information of every model."""
        groups: dict[str, list[Row]] = defaultdict(list)
        for cell in analysis.cells:
            about = [
                TableCell(with_unit(cell.feature), scope="row"),
                numeral(str(cell.n)),
                numeral(str(cell.events)),
            ]
            names = [cell.feature, *term_names(analysis.covariates)]
            groups[cell.key.title] += score_rows(cell, about, names)
        lead = (
            "Each model is of n patients who have all of its variables, of whom so many have the "
            "event. The hub chose the coefficients, 0 in the first round. Of each variable leaves "
            "by how much those with an event differ in sum from what the coefficients let expect "
            "(score), and how precisely they fix its own one (information). Behind the switch are "
            "these numbers as they leave, each information with the variables up to itself."
        )
        titles = [head("Model"), head("n", "num"), head("Events", "num"), head("Variable")]
        return draw_scores(lead, titles, groups)

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show the hazard ratios of every model."""
        lead = (
            f"Cox regression of {analysis['time']} until {analysis['event']} on each variable and "
            "the covariates, with a baseline hazard of its own for each site, and 95 % confidence "
            "intervals (CI), as if the rows of all sites lay in one place. A hazard ratio above 1 "
            "says that events come sooner. "
        )
        scale = float(analysis["scale"])
        lead += f"Variables are in units of {scale:g}. " if scale != 1 else ""
        lead += units_of(analysis["covariates"])
        wording = Wording("Coefficient", "z", "Hazard ratio", "events")
        return draw_estimates(lead.rstrip(), analysis["cells"], sites, wording)


def _why_left(given: Point) -> str:
    """Return why a site that was in an earlier round is in the later one no more."""
    return SEPARATION if given.grows and len(given.steps) >= SETTLED else SITE_LEFT


def _absent(cell: Cell, categories: Sequence[Sequence[int]]) -> set[int]:
    """Return the positions of the indicators of values of categories that nobody has at a site."""
    numbers = abs(cell.matrix).sum(axis=0) + [abs(score) for score in cell.score]
    found: set[int] = set()
    for columns in categories:
        none = {i for i in columns if numbers[i] == 0}
        # Where all patients have one value no model leaves.
        found |= none if len(none) < len(columns) else set()
    return found


def _totals(by_site: Mapping[str, Cell]) -> dict[str, int]:
    """Return patients and events of all sites."""
    cells = by_site.values()
    return {"n": sum(cell.n for cell in cells), "events": sum(cell.events for cell in cells)}
