"""Mean of a feature between bounds, with noise: differential privacy for each patient.

A value beyond a bound counts as the bound; a patient with several cases counts once, with their
mean. Of a cell leave the number of patients and the sum of their distances from the middle between
the bounds, in steps of a 2²⁰th of the range, each with discrete Laplace noise and with half of
`epsilon`. A patient changes the first by 1 and the second by half the range at most, so the noise
depends on the protocol alone. No other rule of the gate is applied, since which cells leave must
not depend on values; the site's budget for each patient decides, see
[release.md](release.md#noise).

A cell of the result has ``noisy_n``, ``mean``, and in ``n_error`` and ``mean_error`` how far noise
carries them (its standard deviation; values that differ from patient to patient come on top); in
``by_site`` the same of each ``site``. Where the noise may make most of the number of patients, the
mean is null and ``no_mean`` says why.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from jipflow.analyses.cells import CellKey, Values, by_patient
from jipflow.analyses.contract import Analysis, ImpossibleCell
from jipflow.analyses.facts import Limits
from jipflow.analyses.forms import ReleasedAnalysis, ReleasedCell
from jipflow.analyses.noise import BEYOND, NO_BUDGET, Parts, WithNoise, variance
from jipflow.analyses.rules import Passed, Withheld
from jipflow.analyses.units import with_unit
from jipflow.blocks import Drawing, Group, Row, Table, TableCell, bold, head, numeral, span
from jipflow.plots import count, number
from jipflow.settings.part import AsGiven
from jipflow.settings.protocol import AnalysisSettings, Disclosure, Range

HALF = 2**19
"""Steps from the middle of the range to a bound."""

LEAST = 3
"""A mean is given from a number of patients that is so many times its error at least."""

FEW = "the number of patients is lost in the noise"
"""Why there is no mean."""

Epsilon = Annotated[float, Field(ge=0.01, le=10), AsGiven]


class Settings(AnalysisSettings):
    """Mean of bounded values with noise: differential privacy for each patient."""

    kind: Literal["noisy_mean"]
    bounds: Range
    """Least and greatest value, of which any beyond counts as the nearest; chosen without the data.
    Noise is as wide as they are."""
    epsilon: Epsilon
    """What each cell takes of the budget of a patient in it: the smaller, the more noise."""

    def problems(self) -> Iterator[str]:
        """Yield what types cannot say is wrong with the settings, one sentence each."""
        yield from super().problems()
        if not _quarter(*self.bounds) > 0:
            yield "bounds: both are the same, or as good as; give the least and the greatest value."


class Cell(ReleasedCell):
    """Number of patients and sum, with noise, of one feature of one segment."""

    noisy_n: Annotated[int, Field(ge=-(10**6), le=10**9 + 10**6)]
    """Patients, with noise; it may be negative."""
    noisy_sum: Annotated[int, Field(ge=-(10**15), le=10**15)]
    """Sum over patients of the distance from the middle of the bounds, in 2²⁰ths of their range,
    with noise."""


class Released(ReleasedAnalysis):
    """Noisy numbers of each feature and segment."""

    kind: Literal["noisy_mean"]
    bounds: Range
    epsilon: Epsilon
    cells: list[Cell]


class NoisyMean(WithNoise, Analysis[Settings, Cell, Released]):
    """Mean of bounded values of each feature in each segment, with noise."""

    cell = Cell
    released = Released
    merging = (
        "Numbers of patients and sums of their values, clamped to the bounds of the protocol, were "
        "added over sites, each with discrete Laplace noise by OpenDP that makes the release of a "
        "site epsilon-differentially private for each patient in a cell; errors are the standard "
        "deviation of the noise, that of a mean to first order."
    )
    rules = (NO_BUDGET,)

    @property
    def epsilon(self) -> float:
        """What a cell takes of the budget of each patient in it."""
        return self.settings.epsilon

    @property
    def scales(self) -> Mapping[str, float]:
        """Scale of the noise of each number; each takes half of epsilon."""
        return _scales(self.settings.epsilon)

    def compute(self, values: Values, stated: Any = None) -> Parts:
        """Return what each patient adds to number and sum.

        Args:
            values: of the cell; there may be none.
            stated: none.
        """
        import numpy as np

        low, high = self.settings.bounds
        numbers = np.clip(values.numbers, low, high)
        # Halves first: the range of the largest floats is none, nor is the sum of a patient's.
        steps = (numbers / 2 - (low / 4 + high / 4)) / _quarter(low, high) * HALF
        each = by_patient(Values(steps, values.patients, values.case_ids, values.cases))
        steps = np.clip(np.rint(each.numbers), -HALF, HALF).astype(np.int64)
        return Parts(list(each.case_ids), np.column_stack([np.ones_like(steps), steps]))

    def check(self, content: Parts, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Withhold it: of exact numbers nothing leaves, see `jipflow.release.noise`."""
        return Withheld(NO_BUDGET)

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Refuse numbers that no noise makes."""
        scales = self.scales
        most = cell.noisy_n + BEYOND * scales["noisy_n"]
        if most < 0 or abs(cell.noisy_sum) > HALF * most + BEYOND * scales["noisy_sum"]:
            raise ImpossibleCell

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Add the numbers of the sites, whose patients are distinct; variances add as well."""
        bounds, epsilon = self.settings.bounds, self.settings.epsilon
        return {
            **_estimate(list(by_site.values()), bounds, epsilon),
            "by_site": [
                {"site": site, **_estimate([cell], bounds, epsilon)}
                for site, cell in sorted(by_site.items())
            ],
        }

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show the numbers of every cell, and what follows of them."""
        groups: dict[str, list[Cell]] = defaultdict(list)
        for cell in analysis.cells:
            groups[cell.key.title].append(cell)
        low, high = analysis.bounds
        lead = (
            f"Each row is a cell with noise: a number of patients and a sum of their values, which "
            f"count as {low:g} or {high:g} where they are beyond. Neither is exact: behind ± is "
            f"the standard deviation of the noise. Each cell takes {analysis.epsilon:g} of the "
            "budget (epsilon) of every patient in it."
        )
        columns = [head(name, "num") for name in ("Patients", "Mean", "Sum in steps")]
        return Drawing(
            lead,
            [
                Group(
                    title,
                    table=Table(
                        f"Cells of {title}",
                        [head("Feature"), *columns],
                        [_sent(cell, analysis) for cell in cells],
                    ),
                )
                for title, cells in sorted(groups.items())
            ],
        )

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show patients and mean of all sites together and of each, with their errors."""
        groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for cell in analysis["cells"]:
            key = CellKey(*(cell[name] for name in CellKey._fields))
            groups[key.title].append(cell)
        low, high = analysis["bounds"]
        columns = [head("Patients", "num"), head("Mean", "num")]
        return Drawing(
            f"Means of values between {low:g} and {high:g} with noise that protects each patient "
            f"(epsilon {analysis['epsilon']:g} a cell), and behind ± the standard deviation of "
            "that noise: twice as much is not unusual. How patients differ comes on top.",
            [
                Group(
                    title,
                    table=Table(
                        f"Means with noise of {title}",
                        [head("Feature"), *columns, *(head(site, "num") for site in sites)],
                        [_of_sites(cell, sites) for cell in cells],
                    ),
                )
                for title, cells in groups.items()
            ],
        )


def _quarter(low: float, high: float) -> float:
    """Return half the distance from the middle to a bound, of halves."""
    return high / 4 - low / 4


def _scales(epsilon: float) -> dict[str, float]:
    return {"noisy_n": 2 / epsilon, "noisy_sum": 2 * HALF / epsilon}


def _estimate(cells: Sequence[Cell], bounds: Sequence[float], epsilon: float) -> dict[str, Any]:
    """Return number and mean of cells together, with the standard deviation of their noise."""
    scales = _scales(epsilon)
    n, total = sum(cell.noisy_n for cell in cells), sum(cell.noisy_sum for cell in cells)
    of_n, of_sum = (len(cells) * variance(scales[name]) for name in ("noisy_n", "noisy_sum"))
    found: dict[str, Any] = {"noisy_n": n, "n_error": math.sqrt(of_n)}
    if n < LEAST * found["n_error"]:
        return {**found, "mean": None, "mean_error": None, "no_mean": FEW}
    # Of a quotient, by its first derivatives.
    middle, step = (bounds[0] / 2 + bounds[1] / 2), (bounds[1] / 2 - bounds[0] / 2) / HALF
    apart = total / n
    error = math.sqrt(of_sum + apart**2 * of_n) / n
    return {**found, "mean": middle + step * apart, "mean_error": step * error, "no_mean": ""}


def _sent(cell: Cell, analysis: Released) -> Row:
    """Return the row of a cell on the releaser's page."""
    found = _estimate([cell], analysis.bounds, analysis.epsilon)
    return [
        TableCell(with_unit(cell.feature), scope="row"),
        numeral(_patients(found)),
        numeral(_mean(found)),
        numeral(count(cell.noisy_sum), "num muted"),
    ]


def _of_sites(cell: Mapping[str, Any], sites: Sequence[str]) -> Row:
    parts = {part["site"]: part for part in cell["by_site"]}
    return [
        TableCell(with_unit(cell["feature"]), scope="row"),
        numeral(_patients(cell)),
        numeral(bold(_mean(cell))),
        *(
            numeral(_mean(parts[site]) + span(f" n {_patients(parts[site])}", "muted small"))
            if site in parts
            else numeral(span("withheld", "muted"))
            for site in sites
        ),
    ]


def _patients(found: Mapping[str, Any]) -> str:
    return f"{count(found['noisy_n'])} ± {number(found['n_error'], 2)}"


def _mean(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "lost in the noise"
    return f"{number(found['mean'], 5)} ± {number(found['mean_error'], 2)}"
