"""IBSI's phantoms and consensus values, and what jipflow makes of them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from jipflow.images.volume import Volume
from jipflow.radiomics.extract import Part, extract
from jipflow.radiomics.ibsi import columns_by_tag, tagged_features
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.reading import shipped_radiomics
from jipflow.settings.schema import load

CONFIGURATIONS = ("a", "b", "c", "d", "e")
DIGITS = 3
"""Significant digits of IBSI's values."""


@dataclass(frozen=True)
class Consensus:
    """A reference value and its tolerance."""

    value: float
    tolerance: float

    def holds(self, value: float) -> bool:
        """Whether a value is within the tolerance, to the digits that the consensus is given in."""
        size = math.floor(math.log10(abs(self.value))) if self.value else 0
        last = 0.5 * 10.0 ** (size - DIGITS + 1)
        rounded = float(f"{value:.{DIGITS}g}")
        near = abs(value - self.value) <= max(self.tolerance, last) * (1 + 1e-9)
        return near or abs(rounded - self.value) <= self.tolerance + 1e-12


def consensus(data: Path, name: str) -> dict[str, Consensus]:
    """Read the reference values that IBSI has consensus on, by tag."""
    with open(data / "ibsi" / "reference" / name, encoding="utf-8") as stream:
        return {
            row["tag"]: Consensus(float(row["reference value"]), float(row["tolerance"] or 0))
            for row in csv.DictReader(stream, delimiter=";")
            if row["reference value"]
        }


def phantom(data: Path, name: str) -> tuple[Volume, NDArray[np.bool_]]:
    """Read a phantom's image, in whole numbers, and its mask."""
    folder = data / "ibsi" / name / "nifti"
    image, mask = (
        Volume.from_image(sitk.ReadImage(str(next((folder / part).glob("*.nii*")))))
        for part in ("image", "mask")
    )
    return Volume(np.rint(image.array.astype(float)), image.grid), mask.array > 0.5


def digital_settings() -> Radiomics:
    """Settings of the digital phantom: as it is, each intensity a grey level."""
    content = shipped_radiomics("ibsi_config_c").plain()
    content |= {"processing": {}, "setting": content["setting"] | {"binWidth": 1}}
    return load(Radiomics, content, "digital phantom")


def values_by_tag(
    image: Volume,
    mask: NDArray[np.bool_],
    parameters: Radiomics,
    spaces: Iterable[bool],
    norms: Iterable[str | None] = (None, "no_weighting"),
) -> dict[str, float | None]:
    """Measure all features that IBSI defines.

    Args:
        image: of the phantom.
        mask: its region.
        parameters: radiomics settings.
        spaces: whether textures are of slices; each is measured.
        norms: how directions are aggregated; each is measured.

    Returns:
        Values by IBSI's tag; None where there is none.
    """
    found: dict[str, float | None] = {}
    for slices, norm in product(spaces, norms):
        setting = parameters.setting.plain() | {"force2D": slices, "weightingNorm": norm}
        content = parameters.plain() | {"featureClass": tagged_features(), "setting": setting}
        (extraction,) = extract(image, [Part(mask)], load(Radiomics, content, "phantom"))
        for tag, column in columns_by_tag(setting).items():
            found[tag] = extraction.values.get(column)
    return found


Measured = tuple[dict[str, float | None], dict[str, Consensus]]


def measured_phantoms(data: Path) -> dict[str, Measured]:
    """Return our values and IBSI's for the digital phantom and each configuration of the CT."""
    results = {}
    image, mask = phantom(data, "ibsi_1_digital_phantom")
    results["digital"] = (
        values_by_tag(image, mask, digital_settings(), (True, False)),
        consensus(data, "ibsi_1_dig_phantom.csv"),
    )
    image, mask = phantom(data, "ibsi_1_ct_radiomics_phantom")
    for name in CONFIGURATIONS:
        parameters = shipped_radiomics(f"ibsi_config_{name}")
        results[name.upper()] = (
            values_by_tag(image, mask, parameters, (parameters.setting.force_2d,)),
            consensus(data, f"ibsi_1_chest_config_{name}.csv"),
        )
    return results
