"""What a feature class is: pyradiomics' own on arrays that are ready, and those that it lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from jipflow.radiomics.area import Area

Feature = Callable[[Any], float]
Guard = Callable[[Area], None]


class Family:
    """A feature class: what its features share, computed once an area.

    Attributes:
        more: features by name, each a function of the prepared family.
        guards: what must hold for a feature; raises `Undefined` where it does not.
        of_nothing: values of a region that has no voxel; only sums over voxels have one.
    """

    more: ClassVar[Mapping[str, Feature]] = {}
    guards: ClassVar[Mapping[str, Guard]] = {}
    of_nothing: ClassVar[Mapping[str, float]] = {}

    def __init__(self, area: Area) -> None:
        self.area = area
        self.prepare()

    def prepare(self) -> None:
        """Compute what the features share."""

    @classmethod
    def names(cls, *, withdrawn: bool = False) -> list[str]:
        """Return the names of the features, sorted.

        Args:
            withdrawn: with those that pyradiomics computes only where they are named.
        """
        return sorted(cls.more)

    def value(self, name: str) -> float:
        """Compute a feature.

        Raises:
            Undefined: its definition gives no value for the area.
        """
        if name in self.guards:
            self.guards[name](self.area)
        return float(np.squeeze(self._compute(name)))

    def _compute(self, name: str) -> Any:
        return self.more[name](self)


class Pyradiomics(Family):
    """A feature class of pyradiomics, to be inherited from before it.

    Names are pyradiomics'. A feature in `more` is one that pyradiomics has not, or the same one by
    cheaper means.

    Attributes:
        textured: whether it needs matrices of grey levels, of which there may be too many.
    """

    textured: ClassVar[bool] = True

    def __init__(self, area: Area) -> None:
        self.area = area
        # What comes after Family in a subclass's order is pyradiomics' own class.
        super(Family, self).__init__(*area.images, **area.setting)  # type: ignore[call-arg]
        self._initCalculation()  # type: ignore[attr-defined]

    @classmethod
    def names(cls, *, withdrawn: bool = False) -> list[str]:
        """Return pyradiomics' names, those in `more` among them, sorted."""
        own = cls.getFeatureNames()  # type: ignore[attr-defined]
        return sorted({*cls.more, *(n for n, gone in own.items() if withdrawn or not gone)})

    def _compute(self, name: str) -> Any:
        return self.more[name](self) if name in self.more else self.inherited(name)

    def inherited(self, name: str) -> Any:
        """Compute a feature by pyradiomics' own formula."""
        return getattr(self, f"get{name}FeatureValue")()

    def _applyBinning(self, matrix: NDArray[np.float64]) -> NDArray[np.int32]:  # noqa: N802
        """Take the grey levels that the area has, in place of pyradiomics' own discretisation."""
        levels = self.area.textured if self.textured else self.area.levels
        self.coefficients.update(  # type: ignore[attr-defined]
            grayLevels=levels.present, Ng=levels.number
        )
        return levels.array
