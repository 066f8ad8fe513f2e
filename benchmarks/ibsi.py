"""Features beside the reference values of the Image Biomarker Standardisation Initiative (IBSI)."""

from __future__ import annotations

import csv
import logging
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from radiomics import featureextractor

from ibsi_reference import (
    CONFIGURATIONS,
    Consensus,
    Measured,
    measured_phantoms,
    phantom,
    values_by_tag,
)
from jipflow.cases import Series
from jipflow.images.series import read_series_volume
from jipflow.images.volume import Volume
from jipflow.radiomics.classes import CLASSES
from jipflow.radiomics.extract import Part, extract
from jipflow.radiomics.ibsi import columns_by_tag
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.reading import shipped_radiomics
from jipflow.settings.schema import load
from report import SHARED_DATA, Cell, write_result

PACKAGES = ["pyradiomics", "numpy", "scipy", "simpleitk", "connected-components-3d"]

NEAREST: dict[str, dict[str, Any]] = {
    "digital": {"binWidth": 1},
    "A": {"binWidth": 25, "resegmentRange": [-500, 400], "force2D": True},
    "B": {
        "binCount": 32, "resegmentRange": [-500, 400], "force2D": True,
        "resampledPixelSpacing": [2, 2, 0], "interpolator": "sitkLinear",
    },
    "C": {
        "binWidth": 25, "resegmentRange": [-1000, 400],
        "resampledPixelSpacing": [2, 2, 2], "interpolator": "sitkLinear",
    },
    "D": {
        "binCount": 32, "resegmentRange": [-3, 3], "resegmentMode": "sigma",
        "resampledPixelSpacing": [2, 2, 2], "interpolator": "sitkLinear",
    },
    "E": {
        "binCount": 32, "resegmentRange": [-1000, 400],
        "resampledPixelSpacing": [2, 2, 2], "interpolator": "sitkBSpline",
    },
}  # fmt: skip
"""pyradiomics' own settings that come nearest to each configuration."""

TEAMS = ("oncoray", "umcg_beukinga", "cardiff", "pyradiomics", "umcg_pfaehler", "mcgill")
"""The teams of IBSI's validation that are shown beside jipflow; their columns in its table."""

AGREEING = 3
"""Teams that must be within half a percent of the median for it to count as a consensus."""

NEAR = 0.005

RESAMPLED = {"resample": {"spacing": [1, 1, 1], "interpolation": "cubic", "round": True}}
LOG = "log-sigma-1-5-mm-3D"
LOG_SCALE = 1.5**2
POWERS = {
    "stat_var": 2,
    "stat_energy": 2,
    "stat_skew": 0,
    "stat_kurt": 0,
    "stat_cov": 0,
    "stat_qcod": 0,
}
"""How a statistic scales with the intensities, where not in proportion."""

MODALITIES = {"CT": ("CT", "ibsi_ct"), "PET": ("PT", "ibsi_pet"), "MR_T1": ("MR", "ibsi_mr")}


def pyradiomics_values(
    image: Volume, mask: NDArray[np.bool_], setting: dict[str, Any]
) -> dict[str, float]:
    """Values of pyradiomics' own pipeline by IBSI's tag, for both ways to treat directions."""
    classes = ("shape", "firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm")
    label = Volume(mask.astype(np.uint8), image.grid).image()
    found: dict[str, float] = {}
    for norm in (None, "no_weighting"):
        extractor = featureextractor.RadiomicsFeatureExtractor(
            {
                "imageType": {"Original": {}},
                "featureClass": {name: [] for name in classes},
                "setting": {**setting, "weightingNorm": norm, "additionalInfo": False},
            }
        )
        values = extractor.execute(image.image(), label)
        tags = columns_by_tag({"force2D": setting.get("force2D", False), "weightingNorm": norm})
        # Its own columns under the tags that ours have only by a corrected feature.
        named = {
            "morph_pca_maj_axis": "original_shape_MajorAxisLength",
            "morph_pca_min_axis": "original_shape_MinorAxisLength",
            "morph_pca_least_axis": "original_shape_LeastAxisLength",
            "stat_kurt": "original_firstorder_Kurtosis",
        }
        for tag, column in (tags | named).items():
            if column in values:
                found[tag] = float(values[column])
    return found


def count(values: dict[str, Any], expected: dict[str, Consensus]) -> tuple[int, int]:
    """Number of values that pass, and that have a consensus."""
    compared = [tag for tag in expected if values.get(tag) is not None]
    return sum(expected[tag].holds(values[tag]) for tag in compared), len(compared)


def phantoms(data: Path) -> None:
    """The digital phantom and configurations A to E."""
    measured = measured_phantoms(data)
    rows: list[list[Cell]] = []
    for name, (values, expected) in measured.items():
        folder = "ibsi_1_digital_phantom" if name == "digital" else "ibsi_1_ct_radiomics_phantom"
        image, mask = phantom(data, folder)
        theirs = pyradiomics_values(image, mask, NEAREST[name])
        ours, compared = count(values, expected)
        passed, known = count(theirs, expected)
        whole = [tag for tag in expected if "_2D" not in tag and _is_feature(tag)]
        rows.append([name, len(whole), compared, ours, known, passed])
        print(rows[-1], flush=True)
    write_result(
        "ibsi_1",
        "IBSI-1: features within the tolerance of the consensus",
        [
            *("phantom or configuration", "IBSI has", "jipflow has", "jipflow passes"),
            *("pyradiomics has", "pyradiomics passes"),
        ],
        rows,
        packages=PACKAGES,
        notes=[
            "IBSI has: features with a consensus, textures per way of aggregation, but for those "
            "averaged over slices, which neither computes. What jipflow lacks of them is the share "
            "of voxels that have a dependence, 1 by definition.",
            "pyradiomics: its own pipeline with its nearest settings. What fails is its resampling "
            "grid, the start of its bins, kurtosis and the lengths of axes.",
            "The values are in [ibsi.md](ibsi.md).",
        ],
    )
    write_values(measured)


def _is_feature(tag: str) -> bool:
    return tag.split("_")[0] in (
        *("morph", "loc", "stat", "ih", "ivh", "cm", "rlm", "szm", "dzm", "ngt", "ngl"),
    ) and not tag.startswith("morph_mask")


def write_values(measured: dict[str, Measured]) -> None:
    """Every value with its consensus: the page of the reference values."""
    tags: dict[str, None] = {}
    for _, expected in measured.values():
        tags |= dict.fromkeys(tag for tag in expected if _is_feature(tag) and "_2D" not in tag)
    columns = _all_columns()
    rows: list[list[Cell]] = []
    for tag in tags:
        cells: list[Cell] = [tag, columns.get(tag, "not computed")]
        for values, expected in measured.values():
            cells.append(_cell(values.get(tag), expected.get(tag)))
        rows.append(cells)
    write_result(
        "ibsi_1_values",
        "IBSI-1: every value beside its consensus",
        ["IBSI's tag", "column", "digital phantom", *(f"CT, {n.upper()}" for n in CONFIGURATIONS)],
        rows,
        packages=PACKAGES,
        notes=[
            "A cell has our value, and in brackets the consensus and its tolerance; ✓ within it, "
            "✗ not. An empty cell: IBSI has no consensus there, or aggregates that way elsewhere.",
            "Textures end in 3D or 2_5D (within slices, slices merged), and in avg (features "
            "averaged over directions: `weightingNorm: null`) or comb (matrices merged: "
            "`weightingNorm: no_weighting`).",
        ],
        page="ibsi",
    )


def _all_columns() -> dict[str, str]:
    found: dict[str, str] = {}
    for slices in (True, False):
        for norm in (None, "no_weighting"):
            found |= columns_by_tag({"force2D": slices, "weightingNorm": norm})
    return {tag: column.removeprefix("original_") for tag, column in found.items()}


def _cell(value: float | None, expected: Consensus | None) -> Cell:
    if expected is None or value is None:
        return ""
    sign = "✓" if expected.holds(value) else "✗"
    tolerance = f" ± {expected.tolerance:.2g}" if expected.tolerance else ""
    return f"{value:.4g} ({expected.value:.4g}{tolerance}) {sign}"


FILTERS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "1.A": ("none, in slices", {}, {"Original": {}}, "original"),
    "1.B": ("none", RESAMPLED, {"Original": {}}, "original"),
    "2.B": ("mean of 5 × 5 × 5", RESAMPLED, {"IBSIMean": {"support": 5}}, "ibsi-mean-5"),
    "3.B": ("LoG of 1.5 mm", RESAMPLED, {"IBSILoG": {"sigma": [1.5]}}, "ibsi-log-sigma-1-5-mm"),
    "3.B by pyradiomics' filter": ("LoG of 1.5 mm", RESAMPLED, {"LoG": {"sigma": [1.5]}}, LOG),
}
"""IBSI-2's configurations whose filter there is: settings, and the image's name."""


def filters(data: Path) -> None:
    """The configurations of IBSI-2 whose filter exists."""
    with open(data / "ibsi" / "reference" / "ibsi_2_filters.csv", encoding="utf-8") as stream:
        reference = list(csv.DictReader(stream, delimiter=";"))
    image, mask = phantom(data, "ibsi_1_ct_radiomics_phantom")
    tags = {
        tag: column.removeprefix("original_")
        for tag, column in _columns_by_tag().items()
        if tag.startswith("stat_")
    }
    rows: list[list[Cell]] = []
    for name, (title, resample, images, prefix) in FILTERS.items():
        content = {
            "processing": {**resample, "resegment": {"range": [-1000, 400]}},
            "imageType": images,
            "featureClass": {"firstorder": [c.split("_")[1] for c in tags.values()]},
        }
        (found,) = extract(image, [Part(mask)], load(Radiomics, content, name))
        for row in reference:
            if row["filter_id"] == name[:3]:
                value = found.values[f"{prefix}_{tags[row['feature_tag']]}"]
                assert value is not None
                corrected = value
                if prefix == LOG:
                    corrected /= LOG_SCALE ** POWERS.get(row["feature_tag"], 1)
                expected = Consensus(float(row["consensus_value"]), float(row["tolerance"]))
                sign = "✓" if expected.holds(corrected) else "✗"
                rows.append(
                    [
                        f"{name}: {title}",
                        row["feature_tag"],
                        f"{value:.4g}",
                        f"{corrected:.4g}",
                        f"{expected.value:.4g} ± {expected.tolerance:.2g}",
                        sign,
                    ]
                )
    print(Counter((row[0], row[-1]) for row in rows))
    write_result(
        "ibsi_2",
        "IBSI-2: filters",
        ["configuration", "IBSI's tag", "value", "in IBSI's scale", "consensus", ""],
        rows,
        packages=PACKAGES,
        notes=[
            "pyradiomics' Laplacian of Gaussian is multiplied by sigma squared, in mm, so that "
            "filters of different sigma compare; IBSI's is not. In IBSI's scale it is divided by "
            "that, and its squares (variance, energy) by the square. It is recursive, which shows "
            "at the maximum.",
            "Not there: Laws, Gabor, Simoncelli and Riesz filters (4, 5, 8, 9), filters within "
            "slices (A), and wavelets averaged over rotations (6, 7); pyradiomics' wavelets are "
            "single bands, with the periodic boundary of PyWavelets.",
        ],
        page="ibsi",
    )


def _columns_by_tag() -> dict[str, str]:
    return columns_by_tag({"force2D": False, "weightingNorm": None})


def patients(data: Path) -> None:
    """The 15 patients of IBSI's validation, in three modalities, beside the teams' own values."""
    with open(data / "ibsi" / "reference" / "ibsi_1_validation_sarcoma.csv") as stream:
        reference = list(csv.DictReader(stream))
    by_image = defaultdict(list)
    for row in reference:
        by_image[row["modality"], row["id"]].append(row)
    near: Counter[tuple[str, str]] = Counter()
    compared: Counter[tuple[str, str]] = Counter()
    missed: dict[str, Counter[str]] = defaultdict(Counter)
    for (modality, patient), rows in by_image.items():
        volume, mask = _patient(data, patient, modality)
        parameters = shipped_radiomics(MODALITIES[modality][1])
        norms = (parameters.setting.weighting_norm,)
        ours = values_by_tag(volume, mask, parameters, (False,), norms)
        for row in rows:
            tag, median = row["tag"], float(row["median"])
            if tag not in ours or int(row["n_within_0.5pct_of_median"]) < AGREEING:
                continue
            values = {"jipflow": ours[tag]} | {t: float(row[t]) for t in TEAMS if row[t]}
            for team, value in values.items():
                compared[modality, team] += 1
                good = value is not None and abs(value - median) <= NEAR * abs(median) + 1e-12
                near[modality, team] += good
                if not good and team == "jipflow":
                    missed[modality][patient] += 1
        print(modality, patient, near[modality, "jipflow"], compared[modality, "jipflow"])
    table: list[list[Cell]] = []
    for modality in MODALITIES:
        for team in ("jipflow", *TEAMS):
            key = modality, team
            share = 100 * near[key] / compared[key]
            table.append([modality, team, compared[key], near[key], f"{share:.1f}"])
    write_result(
        "ibsi_1_patients",
        "IBSI-1 validation: 15 patients with sarcoma",
        ["modality", "team", "values", "within 0.5 % of the median", "%"],
        table,
        packages=PACKAGES,
        notes=[
            f"Values of features that jipflow has, where at least {AGREEING} of up to nine teams "
            "are within half a percent of the teams' median; a team's own values are part of it, "
            "jipflow's are not. The teams' values are those of the published table.",
            "What jipflow misses: "
            + "; ".join(
                f"{modality}: "
                + ", ".join(f"{n} of {patient}" for patient, n in missed[modality].most_common(4))
                for modality in MODALITIES
            )
            + ". The tumours of STS_034 and STS_038 reach the last slice of their images, where "
            "the teams end the mask differently: their interpolated CT masks of STS_034 have "
            "529,035 to 540,904 voxels, jipflow's and three teams' 539,437.",
            "Settings: ibsi_ct, ibsi_pet and ibsi_mr, found from the diagnostic values that the "
            "teams gave.",
        ],
    )


def _patient(data: Path, patient: str, modality: str) -> tuple[Volume, NDArray[np.bool_]]:
    files = sorted((data / "sarcoma" / patient / modality / "image").glob("*.dcm"))
    volume = read_series_volume(Series("1", MODALITIES[modality][0], tuple(files)))
    label = sitk.ReadImage(str(data / "sarcoma" / "masks" / patient / f"{modality}.nii.gz"))
    return volume, sitk.GetArrayFromImage(label) > 0


def costs(data: Path) -> None:
    """What each class of features costs, on a lesion and on a large tumour."""
    regions = {p: _patient(data, p, "CT") for p in ("STS_002", "STS_017")}
    counts = {name: int(mask.sum()) for name, (_, mask) in regions.items()}
    rows: list[list[Cell]] = []
    for name in CLASSES:
        content = {"featureClass": {name: []}, "setting": {"binWidth": 10}}
        parameters = load(Radiomics, content, "cost")
        cells: list[Cell] = [name, len(CLASSES[name].names())]
        for volume, mask in regions.values():
            best = float("inf")
            for _ in range(3):
                start = time.process_time()
                extract(volume, [Part(mask)], parameters)
                best = min(best, time.process_time() - start)
            cells.append(1000 * best)
        rows.append(cells)
        print(cells, flush=True)
    write_result(
        "radiomics_classes",
        "What each class of features costs",
        ["class", "features", *(f"ms, {n:,} voxels" for n in counts.values())],
        rows,
        packages=PACKAGES,
        notes=[
            "Processor time, the least of 3 rounds, on the CT of STS_002 and STS_017 without "
            "resampling; each with the crop and the statistics that all classes share.",
            "localintensity, spatial, uptake, ivh, histogram and gldzm are not in pyradiomics, nor "
            "are 12 of the features of shape, 4 of firstorder and 1 of gldm.",
        ],
    )


def main() -> None:
    if not SHARED_DATA.is_dir():
        sys.exit(f"{SHARED_DATA} is not there: the reference values are read from it")
    for name in ("radiomics", "jipflow.radiomics"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    phantoms(SHARED_DATA)
    filters(SHARED_DATA)
    patients(SHARED_DATA)
    costs(SHARED_DATA)


if __name__ == "__main__":
    main()
