"""The edges that rounds of quantiles ask for: a range that is halved, or split into more, again.

Places on the line are whole numbers, *positions* on the finest grid that all rounds can reach, so
that the hub and every site have the same edges to the last bit, and no other can be asked for.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

FINEST = 10**5
"""Most parts of the range. An edge that a site leaves out may tell that a value lies beside it,
which is never known more closely than to one part."""


class Leaf(NamedTuple):
    """A bin of the grid that is not split yet.

    Attributes:
        level: how many rounds have asked for its edges and for those of bins that it is in.
        bin: its number among the bins of that level, from 0 at the lower end of the range.
    """

    level: int
    bin: int


@dataclass(frozen=True)
class Grid:
    """Even bins of a range, each of which can be split again.

    Attributes:
        low: lower end of the range.
        high: upper end; a value that is equal to it is in the last bin.
        bins: into how many parts a bin is split.
        rounds: how often that may be done.
    """

    low: float
    high: float
    bins: int
    rounds: int

    @property
    def size(self) -> int:
        """Position of the upper end; that of the lower end is 0."""
        return int(self.bins**self.rounds)

    @property
    def resolves(self) -> bool:
        """Whether the finest edges are numbers that differ."""
        largest = max(abs(self.low), abs(self.high))
        return (self.high - self.low) / self.size > 4 * math.ulp(largest)

    def edge(self, position: float) -> float:
        """Return the value at a position, which may lie between two edges."""
        if position >= self.size:
            return float(self.high)
        return float(self.low + (self.high - self.low) * (position / self.size))

    def cut(self, position: int) -> float:
        """Return the number below which all values are that a lower bin holds."""
        edge = self.edge(position)
        return math.nextafter(edge, math.inf) if position == self.size else edge

    def _width(self, level: int) -> int:
        return int(self.bins ** (self.rounds - level))

    def asked(self, splits: Sequence[Iterable[Leaf]]) -> list[list[int]]:
        """Return the positions that each round asks for, rising.

        The first asks for even edges of the whole range.

        Args:
            splits: the bins that each later round splits.
        """
        rounds = [list(range(0, self.size + 1, self._width(1)))]
        for leaves in splits:
            inner = []
            for level, number in leaves:
                width, start = self._width(level + 1), number * self._width(level)
                inner += [start + i * width for i in range(1, self.bins)]
            rounds.append(sorted(inner))
        return rounds

    def problem(self, splits: Sequence[Sequence[Leaf]], most: int) -> str:
        """Return why no honest hub asks for these splits; nothing where one may.

        Args:
            splits: the bins that each later round splits.
            most: of one round.
        """
        leaves = {Leaf(1, number) for number in range(self.bins)}
        for round_, split in enumerate(splits, 2):
            if not 0 < len(split) <= most:
                return f"round {round_} splits {len(split)} bins, and 1 to {most} are possible"
            if any(a >= b for a, b in itertools.pairwise(split)):
                return (
                    f"the bins that round {round_} splits are not in order, or one is there twice"
                )
            if not leaves.issuperset(split):
                return f"round {round_} splits a bin that no round before it asked for"
            for level, number in split:
                children = range(number * self.bins, (number + 1) * self.bins)
                leaves |= {Leaf(level + 1, child) for child in children}
            leaves -= set(split)
        return ""

    def leaf(self, positions: Sequence[int], place: float) -> Leaf | None:
        """Return the leaf that a place lies in or is the upper edge of; None outside the range.

        Args:
            positions: that were asked for, all rounds together, rising.
            place: a position, which may lie between two edges.
        """
        i = bisect.bisect_left(positions, place)
        if not 0 < i < len(positions):
            return None
        start, stop = positions[i - 1], positions[i]
        level = next(k for k in range(1, self.rounds + 1) if self._width(k) == stop - start)
        return Leaf(level, start // (stop - start))

    def start(self, leaf: Leaf) -> int:
        """Return the position of the lower edge of a leaf."""
        return leaf.bin * self._width(leaf.level)
