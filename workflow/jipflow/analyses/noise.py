"""What kinds with noise have in common: differential privacy for each patient, by OpenDP.

A cell is a few whole numbers, each a sum over patients of what each adds. Discrete Laplace noise of
a scale that the protocol alone decides is added to each (Dwork, McSherry, Nissim and Smith 2006,
"Calibrating noise to sensitivity in private data analysis"; on integers Ghosh, Roughgarden and
Sundararajan 2009), by the exact sampler of Canonne, Kamath and Steinke (2020, "The discrete
Gaussian for differential privacy", algorithm 2). Sums of floating-point numbers would not do: their
last digits tell of the values (Mironov 2012). The generator is that of the operating system; it has
no seed.

What leaves of a patient's data is then as likely, but for a factor of e^epsilon, as it would be
without that patient.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from jipflow.analyses.contract import kinds
from jipflow.analyses.rules import Rule
from jipflow.settings.extras import install_command
from jipflow.settings.resources import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BEYOND = 40
"""No noise is more than so many scales: it would be with a probability of e^-40."""

NO_BUDGET = Rule(
    "noise_budget",
    "A cell with noise leaves only where the site's file has a budget for each patient "
    "(disclosure.noise), which is no less than the epsilon of the cell.",
    because="the site gives patients no budget for noise, or a smaller one than the cell takes",
)


@dataclass(frozen=True)
class Parts:
    """What patients add to the numbers of a cell.

    Attributes:
        patients: pseudonyms, sorted.
        numbers: whole numbers, shape (patients, numbers of the cell).
    """

    patients: Sequence[str]
    numbers: npt.NDArray[np.int64]


class WithNoise(ABC):
    """A kind whose numbers leave with noise, whose `compute` returns `Parts`."""

    @property
    @abstractmethod
    def epsilon(self) -> float:
        """What a cell takes of the budget of each patient in it."""

    @property
    @abstractmethod
    def scales(self) -> Mapping[str, float]:
        """Scale of the noise of each number of a cell, by its name, in their order.

        With these, a patient more or less changes the probability of all numbers together by a
        factor of e^epsilon at most.
        """


def has_noise(kind: str) -> bool:
    """Return whether the numbers of a kind of analysis have noise."""
    return issubclass(kinds()[kind], WithNoise)


def with_noise(total: int, scale: float) -> int:
    """Return a sum with noise, which is another one at each call.

    Args:
        total: the sum.
        scale: of the noise.

    Raises:
        ConfigError: OpenDP is not installed.
    """
    return int(_laplace(scale)(total))


@cache
def _laplace(scale: float) -> Callable[[int], int]:
    """Return OpenDP's discrete Laplace mechanism of a scale."""
    try:
        import opendp.prelude as dp
    except ImportError:
        raise ConfigError(
            f"analyses with noise need opendp, not installed here; say: {install_command('noise')}"
        ) from None
    dp.enable_features("contrib")
    space = dp.atom_domain(T="i64"), dp.absolute_distance(T="i64")
    mechanism: Callable[[int], int] = dp.m.make_laplace(*space, scale=scale)
    return mechanism


def variance(scale: float) -> float:
    """Return the variance of discrete Laplace noise, 2 q / (1 - q)² of q = e^(-1 / scale)."""
    return 0.5 / math.sinh(0.5 / scale) ** 2
