"""Between which edges a value of some rank lies, by what sites count between edges of their own.

A site counts exactly at the edges that it shows. At any other the number of its values below lies
between those at the next ones that it shows; on average it grows evenly between these.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jipflow.analyses.grid import Grid, Leaf

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Counts:
    """The values of a site between edges.

    Attributes:
        cuts: positions of the edges that it shows, rising, at least one.
        counts: values below the first edge, between each two, and from the last one on.
        minimum: fewest patients that it counts.
    """

    cuts: Sequence[int]
    counts: Sequence[int]
    minimum: int

    @property
    def rows(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    @cached_property
    def below(self) -> npt.NDArray[np.int64]:
        """Values below each edge, with none before and all after; two more than edges."""
        import numpy as np

        return np.concatenate([[0], np.cumsum(self.counts)])

    def spread(self, knots: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return how many values are below positions if they lie evenly between the edges.

        Args:
            knots: the positions; the first and the last are the ends of the range.
        """
        import numpy as np

        inside = slice(int(self.cuts[0] == knots[0]), -1 if self.cuts[-1] == knots[-1] else None)
        places = sorted({knots[0], *self.cuts, knots[-1]})
        found: npt.NDArray[np.float64] = np.interp(knots, places, self.below[inside])
        return found

    def splits(self, position: int) -> bool:
        """Return whether the bin that begins at a position, or holds it, may show another edge."""
        import numpy as np

        place = int(np.searchsorted(self.cuts, position, side="right"))
        return self.counts[place] >= 2 * self.minimum


class Ranks:
    """Counts of several sites together.

    Args:
        sites: at least one.
        size: position of the upper end of the range.
    """

    def __init__(self, sites: Sequence[Counts], size: int) -> None:
        self.sites = sites
        self.size = size
        self.rows = sum(site.rows for site in sites)
        self.cuts = sorted({cut for site in sites for cut in site.cuts})

    def rank(self, quantile: float) -> int:
        """Return the rank of the value that is a quantile, from 1.

        It is the inverse of the empirical distribution function, definition 1 of Hyndman and Fan
        (1996, "Sample quantiles in statistical packages", The American Statistician 50:361-365),
        as numpy's ``inverted_cdf``.
        """
        return max(math.ceil(quantile * self.rows), 1)

    def fewest(self, positions: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return how many values are below each position at least."""
        import numpy as np

        below = np.zeros(len(positions), dtype=np.int64)
        for site in self.sites:
            below += site.below[np.searchsorted(site.cuts, positions, side="right")]
        return below

    def most(self, positions: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return how many values are below each position at most."""
        import numpy as np

        below = np.zeros(len(positions), dtype=np.int64)
        for site in self.sites:
            below += site.below[np.searchsorted(site.cuts, positions, side="left") + 1]
        return below

    def interval(self, rank: int) -> tuple[int | None, int | None]:
        """Return the edges between which the value of a rank surely lies; None where there is none.

        It is not below the first and below the second.
        """
        import numpy as np

        lower = int(np.searchsorted(self.most(self.cuts), rank, side="left"))
        upper = int(np.searchsorted(self.fewest(self.cuts), rank, side="left"))
        return (
            self.cuts[lower - 1] if lower else None,
            self.cuts[upper] if upper < len(self.cuts) else None,
        )

    def estimate(self, quantile: float) -> float | None:
        """Return the position of a quantile if the values of each site lie evenly in its bins.

        A site's values below its first edge are spread from the lower end of the range, and those
        from its last edge on up to the upper end. It lies within `interval`. None where the
        quantile is outside the range.
        """
        import numpy as np

        knots = sorted({0, *self.cuts, self.size})
        below = np.sum([site.spread(knots) for site in self.sites], axis=0)
        place = quantile * self.rows
        if not below[0] <= place <= below[-1]:
            return None
        return float(np.interp(place, below, knots))


class Search:
    """Where quantiles are after a round.

    Args:
        grid: that edges are on.
        ranks: of all values.
        splits: the bins that each round after the first has split.
    """

    def __init__(self, grid: Grid, ranks: Ranks, splits: Sequence[Sequence[Leaf]]) -> None:
        self.ranks = ranks
        self._grid = grid
        self._last = len(splits) + 1 == grid.rounds
        self._positions = sorted(itertools.chain.from_iterable(grid.asked(splits)))

    def found(self, quantile: float) -> dict[str, Any]:
        """Return what the result says of a quantile."""
        lower, upper = self.ranks.interval(self.ranks.rank(quantile))
        place = self.ranks.estimate(quantile)
        return {
            "quantile": quantile,
            "lower": None if lower is None else self._grid.edge(lower),
            "upper": None if upper is None else self._grid.edge(upper),
            "estimate": None if place is None else self._grid.edge(place),
            "ended": self._ended(quantile),
        }

    def leaves(self, quantile: float) -> set[Leaf]:
        """Return the bins that another round would split; empty where no site can."""
        return {leaf for leaf in self._around(quantile) if self._splits(leaf)}

    def _ended(self, quantile: float) -> str | None:
        around = self._around(quantile)
        if not around:
            return "outside"
        if not any(map(self._splits, around)):
            return "minimum"
        return "rounds" if self._last else None

    def _splits(self, leaf: Leaf) -> bool:
        return any(site.splits(self._grid.start(leaf)) for site in self.ranks.sites)

    def _around(self, quantile: float) -> set[Leaf]:
        """Return the bins in which a quantile lies at least, at most, and as estimated."""
        import numpy as np

        rank, positions = self.ranks.rank(quantile), self._positions
        places: list[float] = []
        for below in (self.ranks.most(positions), self.ranks.fewest(positions)):
            first = int(np.searchsorted(below, rank, side="left"))
            places += positions[first : first + 1]
        estimate = self.ranks.estimate(quantile)
        places += [] if estimate is None else [max(estimate, 0.5)]
        leaves = (self._grid.leaf(positions, place) for place in places)
        return {leaf for leaf in leaves if leaf}
