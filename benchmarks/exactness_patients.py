"""Patients of sites: simulated ones, and those with sarcoma, whose features are measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from jipflow.cases import Series
from jipflow.images.series import read_series_volume
from jipflow.radiomics.extract import Part, extract
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.schema import load

MEAN, VOLUME = "original_firstorder_Mean", "volume_ml"
TEXTURES = (
    MEAN,
    "original_firstorder_Kurtosis",
    "original_firstorder_Skewness",
    "original_glcm_Correlation",
    "original_glcm_JointEntropy",
    "original_firstorder_Entropy",
)
FEATURES = (*TEXTURES, VOLUME)
STAGES = ["I", "II", "III"]
SIZES = (120, 164, 310, 138, 223, 126, 250)
"""Patients of simulated sites, again from the first after the last."""
LACKING = 6
"""Patients of a site who lack each of four variables."""
FAR = 1e8
DIGITS = 20
"""Binary digits behind the point of values to which `FAR` is added, so that the sum is exact."""

MAKERS = {
    "ge": ("003", "012", "019", "032", "042"),
    "philips": ("002", "008", "024", "038", "047"),
    "siemens": ("017", "023", "025", "034", "035"),
}
"""Patients by the maker of the scanner of their MR."""
PARTS = {"ge": 24, "philips": 28, "siemens": 32}
"""Parts that each tumour of a maker is cut into."""
MEASURED = {
    "featureClass": {
        "firstorder": ["Mean", "Kurtosis", "Skewness", "Entropy"],
        "glcm": ["Correlation", "JointEntropy"],
    },
    "processing": {"normalize": {"scale": 100}},
    "setting": {"binWidth": 10},
}
"""As the shipped ``pyradiomics_mr`` has them."""
SMALLEST = 500
"""Voxels of a part."""


@dataclass
class Patients:
    """Patients of sites.

    Attributes:
        sites: by id a row a patient: features, clinical variables, and ``maker`` of the scanner.
        offsets: what was added to columns, so that their mean is many of their standard deviations;
            all values less this are exact.
    """

    sites: dict[str, pd.DataFrame]
    offsets: Mapping[str, float] = field(default_factory=dict)

    @property
    def near(self) -> pd.DataFrame:
        """All rows in one place without what was added, the ``site`` beside them."""
        rows = pd.concat(
            [rows.assign(site=name) for name, rows in self.sites.items()], ignore_index=True
        )
        for column, offset in self.offsets.items():
            rows[column] = rows[column] - offset
        return rows


def simulated(sites: int, *, far: bool = False) -> Patients:
    """Draw patients of sites of unequal sizes, of whom some lack one variable or another.

    Args:
        sites: how many.
        far: whether features and ages are drawn to a standard deviation of 1, and 10⁸ is added.
    """
    rng = np.random.default_rng(sites)
    found = {}
    for number, size in enumerate(np.resize(SIZES, sites).tolist()):
        lean = rng.normal(0, 1, size)
        rows = pd.DataFrame({MEAN: 51 + (3 + number % 4) * lean})
        for g, name in enumerate(TEXTURES[1:], 1):
            noise = (rng.gamma(9, 1 / 3, size) - 3) * (1 + 0.15 * (number % 5) + 0.1 * g)
            rows[name] = 6.0 + 0.3 * noise + 0.4 * ((number + g) % 3) + 0.1 * lean
        rows[VOLUME] = rng.lognormal(5, 0.3, size)
        rows["maker"] = "simulated"
        found[f"site{number:02d}"] = _lacking(rng, _followed(rng, rows, lean))
    return _moved(found) if far else Patients(found)


def _moved(sites: dict[str, pd.DataFrame]) -> Patients:
    """Return patients of whom features and ages have a mean of 10⁸ standard deviations."""
    columns = (*FEATURES, "age")
    every = pd.concat(sites.values())
    for rows in sites.values():
        for column in columns:
            unit = (rows[column] - every[column].mean()) / every[column].std()
            rows[column] = np.round(unit * 2**DIGITS) / 2**DIGITS + FAR
    return Patients(sites, dict.fromkeys(columns, FAR))


def _followed(
    rng: np.random.Generator, rows: pd.DataFrame, lean: NDArray[np.float64]
) -> pd.DataFrame:
    """Add clinical variables, on some of which age, sex and `lean` have an effect."""
    size = len(rows)
    age = np.round(rng.normal(60 + lean, 9), 1)
    sex = np.where(rng.permutation(size) % 5 < 2, "F", "M")
    risk = 0.04 * (age - 60) + 0.5 * lean + 0.4 * (sex == "F")
    death, end = rng.exponential(1200 / np.exp(risk)), rng.uniform(60, 3000, size)
    return rows.assign(
        age=age,
        sex=sex,
        stage=rng.choice(np.array(STAGES, dtype=object), size, p=[0.4, 0.35, 0.25]),
        dead=(death <= end).astype(float),
        days=np.ceil(np.minimum(death, end)),
        visits=rng.poisson(np.exp(1.2 + 0.1 * lean)).astype(float),
    )


def _lacking(rng: np.random.Generator, rows: pd.DataFrame) -> pd.DataFrame:
    order = rng.permutation(len(rows))
    for i, name in enumerate((MEAN, "age", "stage", "dead")):
        rows.loc[order[LACKING * i : LACKING * (i + 1)], name] = None
    return rows


def sarcoma(data: Path, *, parts: bool = False) -> Patients:
    """Measure tumours in T1-weighted MR; the makers of the scanners are the sites.

    What is clinical is drawn, for the collection's is not in the data.

    Args:
        data: the folder ``sarcoma``.
        parts: whether a patient is a part of a tumour, beyond a plane that is drawn, so that there
            are more; of these, some lack a variable.
    """
    rng = np.random.default_rng(7)
    measured = {
        maker: [
            values
            for number in numbers
            for values in _tumours(data, f"STS_{number}", PARTS[maker] if parts else 0, rng)
        ]
        for maker, numbers in MAKERS.items()
    }
    every = np.array([values[MEAN] for found in measured.values() for values in found])
    sites = {}
    for maker, found in measured.items():
        rows = pd.DataFrame(found).assign(maker=maker)
        lean = (rows[MEAN].to_numpy() - every.mean()) / every.std()
        rows = _followed(rng, rows, lean)
        sites[maker] = _lacking(rng, rows) if parts else rows
    return Patients(sites)


def _tumours(
    data: Path, patient: str, parts: int, rng: np.random.Generator
) -> list[dict[str, float]]:
    """Return features of a tumour, or of its parts."""
    files = tuple(sorted((data / patient / "MR_T1" / "image").glob("*.dcm")))
    volume = read_series_volume(Series("1", "MR", files))
    label = sitk.ReadImage(str(data / "masks" / patient / "MR_T1.nii.gz"))
    mask = sitk.GetArrayFromImage(label) > 0
    masks = [_beyond(mask, rng) for _ in range(parts)] or [mask]
    measured = extract(volume, [Part(each) for each in masks], load(Radiomics, MEASURED, "here"))
    size = volume.grid.voxel_volume / 1000
    return [
        {name: found.values[name] for name in TEXTURES} | {VOLUME: float(each.sum()) * size}
        for each, found in zip(masks, measured, strict=True)
    ]


def _beyond(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return the part of a mask beyond a plane."""
    places = np.argwhere(mask)
    way = rng.normal(size=3)
    along = (places - places.mean(axis=0)) @ (way / np.linalg.norm(way))
    kept = max(SMALLEST, int(rng.uniform(0.2, 0.8) * len(places)))
    part = np.zeros_like(mask)
    part[tuple(places[np.argsort(along)[-kept:]].T)] = True
    return part
