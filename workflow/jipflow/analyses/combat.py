"""ComBat: features harmonised between sites, by parametric empirical Bayes (Johnson et al. 2007).

The batch is the site, and covariates are preserved. In the first round each site sends means and
centred sums of products of each feature and the covariates. The hub states what follows for all
sites together: the feature's mean at the covariates' means, their slopes, and the variance within
the sites. In the second each site finds the shift and the variance of its own features, by priors
over the features of one segment, harmonises them for itself, and sends their moments beside the
sums of the first round, from which these follow.

A cell of the result has ``step`` (``sums`` or ``harmonised``), ``n``, ``before`` and ``after`` with
``mean``, ``variance`` and ``sd`` over all sites (``after`` is null in the first round), and
``slopes`` of the covariates. ``effect`` has, before and after, how the sites differ beyond what the
covariates explain: ``statistic`` (F), ``df``, ``p``, ``share`` (partial eta², of the variance) and
``variance_ratio`` (the largest variance of a site by the smallest). ``by_site`` has of each
``site`` its ``n``, ``before``, ``after``, ``shift`` (gamma) and ``spread`` (delta). What cannot be
estimated is null, and ``reason`` says why. All equal ComBat on the pooled table to 1e-9.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from jipflow.analyses import before_after
from jipflow.analyses.cells import CellKey, Measured, Place, Values
from jipflow.analyses.combat_cells import (
    CLOSE,
    After,
    Shared,
    Sums,
    first_moments,
    verify_after,
)
from jipflow.analyses.contract import ALONE, Analysis, ImpossibleCell, Known, Proposed
from jipflow.analyses.design import RULES, Design, design
from jipflow.analyses.estimates import FEW_SITES, SITE_LEFT
from jipflow.analyses.facts import TOLERANCE, LedgerCell, Limits
from jipflow.analyses.forms import FLOOR, ReleasedAnalysis, StatedAnalysis, StatedCell
from jipflow.analyses.harmonise import (
    Common,
    Harmonised,
    NotEstimated,
    common,
    harmonise,
    scatter_after,
    site_effect,
    standardised,
)
from jipflow.analyses.moments import (
    NUMBER_RANGE,
    ZERO_VARIANCE,
    Moments,
    in_range,
    keeps_digits,
    least_scatter,
    merge_moments,
)
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.analyses.scatter import (
    Scatter,
    are_same,
    merge_scatters,
    ranges_of,
    scatter,
)
from jipflow.analyses.sent_scatter import SendsScatter
from jipflow.analyses.shrinkage import NoPriors
from jipflow.blocks import Drawing
from jipflow.exchange.roster import FEWEST_SITES
from jipflow.settings.bounds import bounds
from jipflow.settings.clinical import ROLE
from jipflow.settings.covariates import Covariate
from jipflow.settings.protocol import AnalysisSettings, Disclosure

MOST_COVARIATES = 20

SUMS_FIRST = Rule(
    "sums_first",
    "Harmonised features leave only where the sums that they follow from left in the first round, "
    "of the very same values and for every feature in the priors: else they would tell more.",
    because="its sums have not left in the first round, of the very same values",
)
STATED_DIFFERS = Rule(
    "stated_differs",
    "What the hub states of all sites must be possible beside the site's own values: more patients "
    "than its own, and a variance that its own residuals do not exceed.",
    because="what the hub states cannot be of this site's values and others",
)
NO_PRIORS = Rule(
    "no_priors",
    "The priors of ComBat are the moments of a site's features of one segment, of which there must "
    "be two at least that are not all of one variance.",
    because="the features of the segment have no priors",
)


class Settings(AnalysisSettings):
    """Features harmonised between sites (ComBat); the harmonised values stay at each site."""

    kind: Literal["combat"]
    covariates: Annotated[list[Covariate], Field(max_length=MOST_COVARIATES)] = Field(default=[])
    """What is preserved: differences between sites that these explain are left."""
    missing: Literal["complete"] = "complete"
    """A case counts if it has the feature and every covariate."""

    def further(self) -> Sequence[Covariate]:
        """Return the covariates."""
        return self.covariates

    def problems(self) -> Iterator[str]:
        """Yield that neither groups nor clinical variables are harmonised."""
        yield from super().problems()
        if self.by is not None:
            yield (
                "by: ComBat within groups would let them differ by what each is harmonised to; "
                "name what shall be preserved in `covariates`."
            )
        for variable in self.variables:
            if variable.partition(".")[0] == ROLE:
                yield f"variable {variable!r}: clinical variables are no features to harmonise."


Cell = Sums | After


class Released(ReleasedAnalysis):
    """What leaves a site in either round."""

    kind: Literal["combat"]
    cells: list[Cell]
    covariates: list[Covariate]


class Stated(StatedAnalysis):
    """What all sites have in common, of each feature and segment."""

    kind: Literal["combat"]
    cells: list[Shared]


@dataclass(frozen=True)
class Content:
    """What a site needs for a cell.

    Attributes:
        rows: of the feature and the covariates.
        shared: what the hub states of it; None in the first round.
    """

    rows: Design
    shared: Common | None


class Combat(SendsScatter, Analysis[Settings, Any, Released]):
    """Sums of features and covariates, and the moments of the harmonised features."""

    cell = Cell
    released = Released
    stated = Stated
    rules = (*RULES, SUMS_FIRST, STATED_DIFFERS, NO_PRIORS)
    equations = 2
    title = "ComBat"
    merging = (
        "Features were harmonised between sites by ComBat (Johnson, Li and Rabinovic 2007; Fortin "
        "et al. 2018) with parametric empirical Bayes priors over the features of each segment: "
        "mean, covariates' slopes and variance followed from sums of all sites, shift and variance "
        "of each site were found there, and the values stayed there."
    )

    @property
    def rounds(self) -> int:
        """Sums first, then the harmonised features."""
        return 2

    def propose(
        self, measured: Measured, given: Mapping[CellKey, StatedCell] | None = None
    ) -> list[Proposed]:
        """Propose each feature with the covariates, of the cases that have all of them."""
        found = []
        for key in self.cells(measured.features, measured.places):
            if given is None or key in given:
                rows = design(measured, key, self.settings.covariates)
                stated: Any = given[key] if given else None
                content = Content(rows, stated.common if stated else None)
                columns = rows.scattered() if self.names else []
                found.append(Proposed(self, key, rows.values(0), content, columns))
        return found

    def check(self, content: Any, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Withhold sums that tell of few patients, and numbers beyond the format.

        Args:
            content: a `Content`.
            patients: distinct patients in the cell.
            disclosure: the limits that hold.
        """
        found = super().check(content.rows, patients, disclosure)
        return Passed({"step": "sums", **found.numbers}) if isinstance(found, Passed) else found

    @classmethod
    def check_all(
        cls,
        cells: Sequence[tuple[Proposed, int]],
        disclosure: Disclosure,
        known: Known = ALONE,
    ) -> list[Passed | Withheld]:
        """Apply the rules of the sums, and in the second round harmonise what is left by segment.

        Whatever the hub states, moments of harmonised values follow from it and from the sums of
        the features in the priors. So they tell nothing new where these have all left.
        """
        found = super().check_all(cells, disclosure, known)
        segments: dict[tuple[str, Place], list[int]] = defaultdict(list)
        for i, (cell, _) in enumerate(cells):
            if isinstance(found[i], Passed) and cell.content.shared is not None:
                rule = _unfit(cell, known)
                if rule:
                    found[i] = Withheld(rule)
                else:
                    segments[cell.analysis.settings.id, cell.key.place].append(i)
        for members in segments.values():
            results = _harmonised([cells[i][0] for i in members])
            for i, result in zip(members, results, strict=True):
                found[i] = result
        return found

    def check_stated(self, cell: Any, round_: int) -> None:
        """Refuse what no values of the variables have.

        What is impossible beside the values of this site, `STATED_DIFFERS` withholds.
        """
        lowest, highest = bounds(cell.role, cell.feature)
        if not lowest - TOLERANCE <= cell.mean <= highest + TOLERANCE:
            raise ImpossibleCell(f"a mean of {cell.mean:g}, which no values of the feature have")
        if cell.mean + cell.mean_rest != cell.mean:
            raise ImpossibleCell("a mean whose rest is none")
        if len(cell.centers) != len(self.names) or len(cell.slopes) != len(self.names):
            raise ImpossibleCell("other covariates than those of the protocol")
        ranges, _ = ranges_of(self.settings.covariates, 1)
        for center, (low, high) in zip(cell.centers, ranges, strict=True):
            if not low - TOLERANCE <= center <= high + TOLERANCE:
                raise ImpossibleCell(f"a mean of {center:g} of a covariate that cannot have it")
        if cell.rows < FEWEST_SITES * FLOOR:
            raise ImpossibleCell(
                f"a mean of {cell.rows} patients, fewer than of {FEWEST_SITES} sites"
            )

    def verify(self, cell: Any, limits: Limits) -> None:
        """Refuse sums that no rows have, and moments that do not follow from them."""
        if (cell.step == "sums") != (limits.stated is None):
            raise ImpossibleCell
        super().verify(cell, limits)
        if cell.step == "harmonised" and isinstance(limits.stated, Shared):
            verify_after(cell, limits.stated.common)

    def continues(self, cell: Any, before: Any) -> bool:
        """Return whether the sums are those of the first round, but for rounding."""
        return before is not None and are_same(cell.scatter, before.scatter)

    def merge(self, by_site: Mapping[str, Any], given: Any = None) -> dict[str, Any]:
        """Merge sums and moments, and say how far the sites differ."""
        sums = {site: cell.scatter for site, cell in by_site.items()}
        after = {site: cell for site, cell in by_site.items() if given is not None}
        moments = {site: cell.moments for site, cell in after.items()}
        n = sum(cell.n for cell in by_site.values())
        found = {
            "step": "sums" if given is None else "harmonised",
            "n": n,
            "before": _described(first_moments(merge_scatters(sums))),
            "after": _described(merge_moments(moments)) if moments else None,
            "effect": {"before": None, "after": None},
            "slopes": {},
            "reason": None,
            "by_site": [
                {
                    "site": site,
                    "n": cell.n,
                    "before": _described(first_moments(sums[site])),
                    "after": _described(moments[site]) if site in moments else None,
                    "shift": after[site].shift if site in after else None,
                    "spread": after[site].spread if site in after else None,
                }
                for site, cell in sorted(by_site.items())
            ],
        }
        if len(by_site) < FEWEST_SITES:
            return found | {"reason": FEW_SITES}
        if given is not None and given.rows != n:
            return found | {"reason": SITE_LEFT}
        try:
            return found | self._compared(sums, after, given)
        except NotEstimated as error:
            return found | {"reason": str(error)}

    def _compared(
        self, sums: Mapping[str, Scatter], after: Mapping[str, After], given: Shared | None
    ) -> dict[str, Any]:
        """Return the effect of the sites before and after, and the slopes of the covariates."""
        shared = common(sums) if given is None else given.common
        effect = {"before": site_effect(sums), "after": None}
        if given is not None:
            changed = {
                site: scatter_after(sums[site], shared, cell.shift, cell.spread)
                for site, cell in after.items()
            }
            effect["after"] = site_effect(changed)
        slopes = dict(zip(self.names, shared.slopes.tolist(), strict=True))
        return {"effect": effect, "slopes": slopes}

    def advance(self, round_: int, by_site: Mapping[str, Any], given: Any = None) -> Shared | None:
        """Return what all sites have in common; None where `merge` has a reason."""
        sums = {site: cell.scatter for site, cell in by_site.items()}
        try:
            found = common(sums)
            site_effect(sums)
        except NotEstimated:
            return None
        return Shared(
            **next(iter(by_site.values())).key._asdict(),
            rows=found.rows,
            mean=found.mean,
            mean_rest=found.rest,
            centers=found.centers.tolist(),
            slopes=found.slopes.tolist(),
            variance=found.variance,
        )

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show every number that leaves."""
        return before_after.draw_sent(analysis.cells, analysis.covariates)

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show the sites before and after."""
        return before_after.draw_sites(analysis["cells"], sites)


def _unfit(cell: Proposed, known: Known) -> Rule | None:
    """Return why a feature is not harmonised, if it is not."""
    import numpy as np

    if not any(_are_sums(each, cell) for each in known.of(cell)):
        return SUMS_FIRST
    rows, shared = cell.content.rows.raw, cell.content.shared
    with np.errstate(all="ignore"):
        z, _ = standardised(rows, shared)
        # The residuals of all sites have the stated variance: those of one are no more.
        exceeds = not z.var() * z.size <= shared.rows * (1 + CLOSE)
    return STATED_DIFFERS if exceeds or shared.rows <= z.size else None


def _are_sums(known: LedgerCell, cell: Proposed) -> bool:
    """Return whether what left is the sums of a cell of the very same values."""
    return (
        known.kind == cell.analysis.settings.kind
        and known.released.get("step") == "sums"
        and (known.model, known.number) == (cell.pieces[0].model, 0)
    )


def _harmonised(cells: Sequence[Proposed]) -> list[Passed | Withheld]:
    """Return what leaves of the features of one segment once they are harmonised."""
    contents = [cell.content for cell in cells]
    try:
        found = harmonise([(content.rows.raw, content.shared) for content in contents])
    except NoPriors:
        return [Withheld(NO_PRIORS) for _ in cells]
    return [_passed(cell, each) for cell, each in zip(cells, found, strict=True)]


def _passed(cell: Proposed, found: Harmonised) -> Passed | Withheld:
    after = asdict(found.moments)
    rows = after.pop("rows")
    if not in_range(found.moments) or rows != cell.values.numbers.size:
        return Withheld(NUMBER_RANGE)
    if found.moments.m2 <= least_scatter(found.moments.mean):
        return Withheld(ZERO_VARIANCE)
    if not keeps_digits(found.moments):
        return Withheld(NUMBER_RANGE)
    values = cell.values
    numbers = {
        "step": "harmonised",
        **scatter(cell.content.rows.raw).sent,
        "shift": found.shift,
        "spread": found.spread,
        **after,
    }
    stays = Values(found.values, values.patients, values.case_ids, values.cases)
    return Passed(numbers, stays=stays)


def _described(found: Moments) -> dict[str, float]:
    return {"mean": found.mean, "variance": found.variance, "sd": found.variance**0.5}
