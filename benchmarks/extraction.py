"""What extraction costs: `jipflow measure` beside pyradiomics and faster extractors."""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
import yaml
from numpy.typing import NDArray
from scipy import ndimage

from jipflow.cases import Series
from jipflow.images.masks import Segment, Segmentation, write_segmentation
from jipflow.images.series import read_series_volume
from jipflow.images.volume import Grid, Volume, volume_path, write_volume
from jipflow.outcomes import Outcome, write_outcomes
from jipflow.settings.reading import shipped_radiomics
from jipflow.settings.resources import ROOT
from jipflow.settings.run import settings_of, write_settings
from jipflow.tables import FEATURE_COLUMNS
from report import SHARED_DATA, Cell, Cost, measure, write_result

TOOLS = Path(sys.executable).parent
ENVIRONMENTS = ROOT / ".venv-peers"
SHAPE = (200, 512, 512)
SPACING = (1.5, 0.8, 0.8)
LESION = 12.0
"""Radius in millimetres."""
ORGAN = 1_200_000
"""Voxels of the organ."""

FLASH = """
import json, logging, sys
logging.disable(logging.CRITICAL)
from flash_radiomics import RadiomicsFeatureExtractor
cases, parameters, out = json.load(open(sys.argv[1])), sys.argv[2], sys.argv[3]
extractor = RadiomicsFeatureExtractor(parameters, backend="cpu")
number = 0
for index, (image, mask, label) in enumerate(cases):
    values = extractor.execute(image, mask, label=label, output_hdf5_path=f"{out}-{index}.h5")
    number = sum(not name.startswith("diagnostics") for name in values)
print(number)
"""

PICTOLOGICS = """
import json, os, sys
os.environ["PICTOLOGICS_DISABLE_WARMUP"] = "1"
import nibabel, numpy
from pictologics.loader import load_image
from pictologics.pipeline import RadiomicsPipeline
pipeline = RadiomicsPipeline(load_standard=False)
families = ["intensity", "morphology", "texture"]
pipeline.add_config("native", [
    {"step": "discretise", "params": {"method": "FBS", "bin_width": 25.0, "min_val": -1000}},
    {"step": "extract_features", "params": {
        "families": families, "include_spatial_intensity": False,
        "include_local_intensity": False}},
])
read, number = {}, 0
for image, mask in json.load(open(sys.argv[1])):
    if image not in read:
        read = {image: load_image(image)}
    values = pipeline.run(read[image], mask, config_names=["native"])
    number = len(values["native"])
print(number)
"""


@dataclass(frozen=True)
class Work:
    """One thing to measure.

    Attributes:
        title: for the table.
        settings: name of the radiomics settings.
        cases: image and label map of each case; every label of the map is a region.
    """

    title: str
    settings: str
    cases: list[tuple[Volume, NDArray[np.uint8]]]

    @property
    def regions(self) -> int:
        """Number of regions in all cases."""
        return sum(int(labels.max()) for _, labels in self.cases)


def grid() -> Grid:
    """The grid of the large CT."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(SPACING)[::-1]
    return Grid(SHAPE, affine)


def large_ct(seed: int = 3) -> Volume:
    """A CT of 512 × 512 × 200 whose noise is as smooth as a soft kernel's."""
    noise = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, (0.7, 1.2, 1.2))
    return Volume(np.rint(40 + smooth * (60 / smooth.std())).astype(np.int16), grid())


def ellipsoid(centre: Sequence[float], radii: Sequence[float], rough: float) -> NDArray[np.bool_]:
    """Voxels of an ellipsoid with an uneven surface.

    Args:
        centre: index (z, y, x).
        radii: along (z, y, x) in millimetres.
        rough: standard deviation of its surface, as a share of its radius.
    """
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    parts = [(a - c) * s / r for a, c, s, r in zip(axes, centre, SPACING, radii, strict=True)]
    box = tuple(slice(*(np.flatnonzero(np.abs(p.ravel()) < 1.4)[[0, -1]] + (0, 1))) for p in parts)
    inside = np.zeros(SHAPE, bool)
    cut = [p[tuple(b if p.shape[i] > 1 else slice(None) for i, b in enumerate(box))] for p in parts]
    waves = sum(np.sin(7 * c + phase) for c, phase in zip(cut, (0.3, 1.1, 2.0), strict=True))
    inside[box] = np.sqrt(sum(c**2 for c in cut)) < 1 + rough * waves
    return inside


def ten_lesions() -> NDArray[np.uint8]:
    """Ten lesions apart from each other, each a label."""
    labels = np.zeros(SHAPE, np.uint8)
    for number in range(10):
        centre = (30 + 15 * number, 110 + 31 * (number * 7 % 10), 130 + 27 * (number * 3 % 10))
        labels[ellipsoid(centre, (LESION,) * 3, 0.04)] = number + 1
    return labels


def organ() -> NDArray[np.uint8]:
    """One organ of about 1.2 million voxels."""
    radius = (ORGAN * math.prod(SPACING) * 3 / (4 * math.pi * 0.75 * 1.0 * 1.3)) ** (1 / 3)
    radii = (0.75 * radius, radius, 1.3 * radius)
    return ellipsoid((100, 256, 256), radii, 0.03).astype(np.uint8)


def sarcoma() -> list[tuple[Volume, NDArray[np.uint8]]]:
    """The CT of the 15 patients and their lesions."""
    cases = []
    for folder in sorted((SHARED_DATA / "sarcoma").glob("STS_*")):
        files = tuple(sorted((folder / "CT" / "image").glob("*.dcm")))
        volume = read_series_volume(Series("1", "CT", files))
        label = sitk.ReadImage(str(SHARED_DATA / "sarcoma" / "masks" / folder.name / "CT.nii.gz"))
        cases.append((volume, (sitk.GetArrayFromImage(label) > 0).astype(np.uint8)))
    return cases


SITE = {
    "site": {"id": "benchmark", "name": "Benchmark"},
    "sources": [{"name": "archive", "kind": "folder", "path": "."}],
}


class Bench:
    """The files of one piece of work, for every extractor.

    Args:
        work: what is measured.
        folder: for the files.
    """

    def __init__(self, work: Work, folder: Path) -> None:
        self.work, self.folder = work, folder
        protocol = {
            "protocol": {"id": "benchmark", "version": "1.0.0", "title": "Benchmark"},
            "cohort": {"where": "true", "case": {"roles": {"CT": {"where": "true"}}}},
            "segmentations": [
                {
                    **{"id": "lesions", "engine": "threshold", "role": "CT"},
                    "segments": [{"name": "lesion", "term": "lesion", "above": 0}],
                }
            ],
            "radiomics": [{"segmentation": "lesions", "role": "CT", "settings": work.settings}],
        }
        write_settings(folder / "settings.json", settings_of(SITE, protocol))
        rows, outcomes, self.labelled, self.single = [], [], [], []
        for number, (volume, labels) in enumerate(work.cases):
            case = f"c{number:02}"
            write_volume(volume_path(folder / "volumes", case, "CT"), volume)
            segments = tuple(
                Segment(f"r{label:02}", 0, label, "lesion", "MANUAL", "benchmark")
                for label in range(1, int(labels.max()) + 1)
            )
            segmentation = Segmentation((labels,), segments, volume.grid)
            write_segmentation(folder / "masks" / case / "lesions", segmentation)
            rows.append(
                {
                    "case_id": case, "patient": case, "shard": "s0", "role": "CT",
                    "series_uid": case, "modality": "CT", "path": f"{case}.dcm", "bytes": 0,
                    "modified_ns": 0,
                }
            )  # fmt: skip
            outcomes.append(Outcome(case, "segment", "lesions"))
            image, mask = folder / f"{case}.nrrd", folder / f"{case}-mask.nrrd"
            write_volume(image, volume)
            write_volume(mask, Volume(labels, volume.grid))
            sitk.WriteImage(volume.image(), str(folder / f"{case}.nii"))
            for label in range(1, int(labels.max()) + 1):
                self.labelled.append((str(image), str(mask), label))
                single = folder / f"{case}-{label}.nii"
                one = Volume((labels == label).astype(np.uint8), volume.grid).image()
                sitk.WriteImage(one, str(single))
                self.single.append((str(folder / f"{case}.nii"), str(single)))
        pd.DataFrame(rows).to_parquet(folder / "cases.parquet")
        write_outcomes(folder / "segmented.parquet", outcomes)
        parameters = shipped_radiomics(work.settings).plain()
        content = {key: parameters[key] for key in ("imageType", "featureClass", "setting")}
        (folder / "parameters.yaml").write_text(yaml.safe_dump(content))
        with open(folder / "batch.csv", "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("ID", "Image", "Mask", "Label"))
            for number, (image, mask, label) in enumerate(self.labelled):
                writer.writerow((number, image, mask, label))
        (folder / "labelled.json").write_text(json.dumps(self.labelled))
        (folder / "single.json").write_text(json.dumps(self.single))

    def jipflow(self) -> Cost:
        """Run the stage as the workflow does."""
        f = self.folder
        return on_one_core(
            TOOLS / "jipflow", "measure", "--settings", f / "settings.json", "--cases",
            f / "cases.parquet", "--segmented", f / "segmented.parquet", "--volumes",
            f / "volumes", "--masks", f / "masks", "--features", f / "features.parquet",
            "--failures", f / "failures.parquet", "--outcomes", f / "outcomes.parquet",
            "--perturbed", f / "perturbed.parquet",
            "--threads", "1",
        )  # fmt: skip

    def pyradiomics(self) -> Cost:
        """Run pyradiomics' command line in its batch mode, with its defaults."""
        out = self.folder / "pyradiomics.csv"
        out.unlink(missing_ok=True)
        return on_one_core(
            TOOLS / "pyradiomics", self.folder / "batch.csv", "--param",
            self.folder / "parameters.yaml", "--out", out, "--format", "csv", "--jobs", "1",
            "--verbosity", "1",
        )  # fmt: skip

    def flash(self, python: Path) -> Cost:
        """Run flash-radiomics in one process."""
        return on_one_core(
            python, "-c", FLASH, self.folder / "labelled.json", self.folder / "parameters.yaml",
            self.folder / "flash",
        )  # fmt: skip

    def pictologics(self, python: Path) -> Cost:
        """Run pictologics in one process; what it compiles is there before."""
        return on_one_core(python, "-c", PICTOLOGICS, self.folder / "single.json")

    def features(self) -> tuple[int, float, str]:
        """Compare the features of jipflow with pyradiomics'.

        Returns:
            How many were compared, the largest relative difference, and the column that has it.
        """
        ours = pd.read_parquet(self.folder / "features.parquet")
        ours = ours.sort_values(["case_id", "segment"]).reset_index(drop=True)
        theirs = pd.read_csv(self.folder / "pyradiomics.csv")
        shared = [n for n in theirs.columns if n in ours.columns and n not in FEATURE_COLUMNS]
        assert len(ours) == len(theirs) == self.work.regions
        a, b = ours[shared].to_numpy(float), theirs[shared].to_numpy(float)
        difference = np.abs(a - b) / np.maximum(np.abs(b), 1e-300)
        known = np.isfinite(difference)
        worst = np.unravel_index(np.where(known, difference, 0).argmax(), difference.shape)
        return int(known.sum()), float(difference[worst]), shared[worst[1]]


def on_one_core(*command: object) -> Cost:
    """Run a command on the first processor."""
    core = str(min(os.sched_getaffinity(0)))
    return measure(["/usr/bin/taskset", "--cpu-list", core, *map(str, command)])


def environment(name: str, python: str | None, packages: Sequence[str]) -> Path | None:
    """Return the interpreter of a peer's own environment, made on its first use.

    Args:
        name: of the environment.
        python: an interpreter; None where there is none that the peer can use.
        packages: to install.

    Returns:
        None where it cannot be made; the reason is printed.
    """
    if python is None:
        print(f"{name}: no suitable Python is installed")
        return None
    folder = ENVIRONMENTS / name
    done = folder / ".installed"
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        try:
            subprocess.run([python, "-m", "venv", folder], check=True)
            pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages]
            subprocess.run(pip, check=True)
        except subprocess.CalledProcessError as error:
            print(f"{name}: {error}")
            return None
        done.touch()
    return folder / "bin" / "python"


def python_312() -> str | None:
    """Return an interpreter of Python 3.12 or newer that starts."""
    found = [shutil.which(name) for name in ("python3.12", "python3.13", "python3")]
    found += [
        str(p) for p in sorted((Path.home() / ".pyenv/versions").glob("3.1[2-9]*/bin/python"))
    ]
    for path in filter(None, found):
        code = "import sys; sys.exit(sys.version_info < (3, 12))"
        if subprocess.run([path, "-c", code], capture_output=True).returncode == 0:
            return path
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list("abcd"), nargs="*", default=list("abcd"))
    only = parser.parse_args().only
    flash = environment(
        "flash", sys.executable,
        ["flash-radiomics==1.0.0", "numpy", "h5py", "SimpleITK", "pykwalify", "PyWavelets", "scipy",
         "scikit-image", "scikit-learn", "trimesh", "six"],
    )  # fmt: skip
    pictologics = environment("pictologics", python_312(), ["pictologics==0.9.0"])
    ct = large_ct() if set(only) & set("bcd") else None
    rows: list[list[Cell]] = []
    for letter in only:
        if letter == "a":
            if not SHARED_DATA.is_dir():
                continue
            work = Work("(a) 15 CT lesions, original", "pyradiomics_ct", sarcoma())
        elif letter == "b":
            work = Work("(b) 10 lesions in a CT, original", "pyradiomics_ct", [(ct, ten_lesions())])
        elif letter == "c":
            lesions = ten_lesions()
            work = Work("(c) 10 lesions, LoG, wavelet", "pyradiomics_ct_filters", [(ct, lesions)])
        else:
            work = Work("(d) organ of 1.2 M voxels", "pyradiomics_ct", [(ct, organ())])
        with tempfile.TemporaryDirectory() as name:
            rows += run(work, Path(name), flash, pictologics)
    if sorted(only) == list("abcd"):
        write(rows)


def run(work: Work, folder: Path, flash: Path | None, pictologics: Path | None) -> list[list[Cell]]:
    """Measure one piece of work with every extractor."""
    bench = Bench(work, folder)
    ours = min((bench.jipflow() for _ in range(3)), key=lambda cost: cost.seconds)
    theirs = bench.pyradiomics()
    compared, worst, column = bench.features()
    print(f"{work.title}: {compared} features compared, at most {worst:.1e} apart ({column})")
    rows: list[list[Cell]] = [
        [work.title, "jipflow", *_cells(ours), theirs.seconds / ours.seconds, f"{worst:.0e}"],
        [work.title, "pyradiomics", *_cells(theirs), 1.0, "–"],
    ]
    if flash is not None:
        cost = bench.flash(flash)
        rows.append(
            [work.title, "flash-radiomics", *_cells(cost), theirs.seconds / cost.seconds, None]
        )
    if pictologics is not None and "filters" not in work.settings:
        bench.pictologics(pictologics)
        cost = bench.pictologics(pictologics)
        ratio = theirs.seconds / cost.seconds
        rows.append([work.title, "pictologics", *_cells(cost), ratio, None])
    for row in rows:
        print(row, flush=True)
    return rows


def _cells(cost: Cost) -> list[Cell]:
    return [cost.seconds, cost.processor_seconds, cost.peak_mb]


def write(rows: list[list[Cell]]) -> None:
    """Write the table."""
    write_result(
        "extraction",
        "Extraction of features",
        [
            *("work", "extractor", "wall s", "processor s", "peak MiB"),
            *("times as fast as pyradiomics", "largest relative difference from pyradiomics"),
        ],
        rows,
        packages=["pyradiomics", "numpy", "scipy", "simpleitk", "connected-components-3d"],
        notes=[
            "Whole processes on one core, with start, reading and writing. jipflow: the stage as "
            "the workflow runs it, the best of 3. pyradiomics: its command line in batch mode with "
            "its defaults, once.",
            f"(b) to (d): a CT of {SHAPE[2]} × {SHAPE[1]} × {SHAPE[0]} voxels of "
            f"{SPACING[2]} × {SPACING[1]} × {SPACING[0]} mm; lesions of {2 * LESION:g} mm. (c): "
            "sigma of 1, 2 and 3 mm, eight wavelet bands, and the original.",
            "All compute pyradiomics' seven classes; jipflow also what IBSI adds to them. "
            "flash-radiomics 1.0.0 on the processor; pictologics 0.9.0 in Python 3.12 or newer, "
            "its intensity, morphology and texture families, after a run that compiles them; it "
            "has no filters of pyradiomics.",
        ],
    )


if __name__ == "__main__":
    main()
