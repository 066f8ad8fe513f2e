"""Three sites of simulated patients, made from real ones, and how long they live.

Each real patient of the sarcoma collection gives several simulated ones: the same PET and MR with
another size, another uptake, another gain of the receiver, and noise; contours go with the images.
A maker of MR scanners is a site, so that what differs between makers is real. Sex, age, days of
follow-up and death are drawn; the hazard of death rises with the volume of the tumour, its uptake
and age by factors that are known. Nothing here says anything of sarcoma.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pydicom
import yaml
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

IMAGES = Path(__file__).resolve().parents[2] / "shared" / "data" / "sarcoma"
MAKERS = {
    "ge": ("003", "012", "019", "032", "042"),
    "philips": ("002", "008", "024", "038", "047"),
    "siemens": ("017", "023", "025", "034", "035"),
}
SERIES = ("PET", "MR_T1")
KEPT = "1.2.840.10008."
"""Root of the UIDs of the standard, which name classes and syntaxes."""

LOG_HAZARD = {"log_size": 1.5, "log_uptake": 0.8, "decades": 0.4}
"""Of the logarithm of a patient's size and uptake beside the real patient's, and of age over 60."""
HAZARD = 1 / 2200
"""Deaths a day of a patient at the reference."""
FOLLOWED = (200, 2400)
"""Days after which a patient who lives is seen for the last time."""


@dataclass(frozen=True)
class Sibling:
    """A simulated patient.

    Attributes:
        name: PatientID.
        size: factor of all lengths.
        uptake: factor of the SUV.
        gain: factor of the signal of MR.
        seed: of the noise.
    """

    name: str
    size: float
    uptake: float
    gain: float
    seed: int


def write_sites(out: Path, images: Path, patients: int, protocol: str) -> None:
    """Write the sites' DICOM and clinical data, and ``rehearsal.yaml``.

    Args:
        out: folder for everything.
        images: of the collection, with a folder ``STS_<number>`` a patient.
        patients: simulated patients of each real one.
        protocol: id or path of what is rehearsed.
    """
    sites = {}
    for maker, numbers in MAKERS.items():
        folder = out / maker
        rows = []
        for number in numbers:
            for k in range(patients):
                random = np.random.default_rng([int(number), k])
                sibling = Sibling(
                    name=f"{number}-{k:02d}",
                    size=float(random.lognormal(0, 0.15)),
                    uptake=float(random.lognormal(0, 0.35)),
                    gain=float(random.lognormal(0, 0.1)),
                    seed=int(random.integers(2**31)),
                )
                date = write_sibling(folder / "dicom", images / f"STS_{number}", sibling)
                rows.append(drawn(sibling, date, random))
        with open(folder / "patients.csv", "w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        variables = {
            "age": {"value": "age", "unit": "a"},
            "sex": {"value": "sex"},
            "dead": {"value": "dead"},
            "followed": {"date": "last_seen"},
        }
        (folder / "clinical.yaml").write_text(
            yaml.safe_dump({"patient": "patient", "variables": variables})
        )
        sites[maker] = {
            "sources": [{"name": "archive", "kind": "folder", "path": str(folder / "dicom")}],
            "clinical": {
                "kind": "csv",
                "file": str(folder / "patients.csv"),
                "map": str(folder / "clinical.yaml"),
            },
        }
    content = {"protocol": protocol, "hub": "Hub of the sarcoma rehearsal", "sites": sites}
    (out / "rehearsal.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def write_sibling(folder: Path, real: Path, sibling: Sibling) -> datetime:
    """Write the images and contours of a simulated patient.

    Returns:
        Date of the study.
    """
    random = np.random.default_rng(sibling.seed)
    target = folder / sibling.name
    target.mkdir(parents=True, exist_ok=True)
    date = datetime.min
    paths = [path for name in SERIES for path in sorted((real / name).rglob("*.dcm"))]
    for number, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.PatientID = sibling.name
        dataset.PatientName = f"Simulated^{sibling.name}"
        date = datetime.strptime(dataset.StudyDate, "%Y%m%d")
        _rename(dataset, sibling.name)
        _resize(dataset, sibling.size)
        if "PixelData" in dataset:
            _change_pixels(dataset, sibling, random)
        dataset.save_as(target / f"{number:03d}.dcm")
    return date


def _elements(dataset: Dataset) -> Iterator[pydicom.DataElement]:
    """Yield all elements, those of sequences too."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)
        else:
            yield element


def _rename(dataset: Dataset, name: str) -> None:
    """Give the patient UIDs of their own: the same ones for the same, so that references hold."""
    for element in _elements(dataset):
        if element.VR == "UI" and element.value and not str(element.value).startswith(KEPT):
            element.value = UID(generate_uid(entropy_srcs=[name, str(element.value)]))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def _resize(dataset: Dataset, size: float) -> None:
    """Scale all positions and lengths about the origin."""
    names = {
        *("ImagePositionPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
        *("SliceLocation", "ContourData"),
    }
    for element in _elements(dataset):
        if element.keyword in names and element.value not in (None, ""):
            values = np.atleast_1d(np.asarray(element.value, dtype=float)) * size
            texts = [f"{value:.8g}" for value in values]
            element.value = texts if len(texts) > 1 else texts[0]


def _change_pixels(dataset: Dataset, sibling: Sibling, random: np.random.Generator) -> None:
    """Scale what the pixels stand for, and add noise of 3 % of their values."""
    stored = dataset.pixel_array.astype(float)
    if dataset.Modality == "PT":
        dataset.RescaleSlope = f"{float(dataset.RescaleSlope) * sibling.uptake:.10g}"
    else:
        stored *= sibling.gain
    stored += random.normal(0, 0.03, stored.shape) * stored
    dataset.PixelData = np.clip(np.rint(stored), -32768, 32767).astype("<i2").tobytes()
    for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue"):
        if keyword in dataset:
            del dataset[keyword]


def drawn(sibling: Sibling, date: datetime, random: np.random.Generator) -> dict[str, str]:
    """Draw what is known of a simulated patient beside the images.

    Survival has a constant hazard (Bender et al. 2005, "Generating survival times to simulate Cox
    proportional hazards models", Statistics in Medicine 24:1713-1723).
    """
    age = float(np.clip(random.normal(58, 12), 20, 90))
    risk = {
        "log_size": np.log(sibling.size),
        "log_uptake": np.log(sibling.uptake),
        "decades": (age - 60) / 10,
    }
    hazard = HAZARD * np.exp(sum(LOG_HAZARD[name] * value for name, value in risk.items()))
    lived, followed = random.exponential(1 / hazard), random.uniform(*FOLLOWED)
    seen = date + timedelta(days=int(min(lived, followed)) + 1)
    return {
        "patient": sibling.name,
        "age": f"{age:.1f}",
        "sex": "F" if random.random() < 0.5 else "M",
        "dead": str(int(lived <= followed)),
        "last_seen": f"{seen:%Y-%m-%d}",
    }


def main() -> None:
    """Write the sites."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder of the collection")
    parser.add_argument("--patients", type=int, default=12, help="simulated ones of a real one")
    parser.add_argument("--protocol", default="sarcoma-survival", help="id or path")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_sites(arguments.out.resolve(), arguments.images, arguments.patients, arguments.protocol)


if __name__ == "__main__":
    main()
