"""Patients, protocols and parameters of benchmarks/end_to_end.py."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
import yaml
from pydicom.uid import generate_uid
from radiomics import featureextractor

from jipflow.phantom.cohort import write_site
from jipflow.settings.reading import shipped_radiomics
from jipflow.settings.resources import PROTOCOLS
from report import SHARED_DATA

PATIENTS = tuple(f"STS_{number:03}" for number in (2, 3, 8, 12, 17, 19, 23, 24, 25, 32, 34, 35))
"""Twelve of the collection's 15."""

SHARED_CLASSES = ("shape", "firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm")
"""Classes of features that pyradiomics has."""

INTERPOLATORS = {"linear": "sitkLinear", "cubic": "sitkBSpline"}


@dataclass(frozen=True)
class Work:
    """A cohort and what is measured of it.

    Attributes:
        title: for the table.
        protocol: the shipped protocol that is run, without its stability.
        settings: name of the radiomics settings.
        modality: folder of each sarcoma patient; none of the phantom's.
    """

    title: str
    protocol: str
    settings: str
    modality: str = ""


WORKS = {
    "ct": Work("sarcoma CT", "sarcoma-ct", "ibsi_ct", "CT"),
    "pet": Work("sarcoma PET", "sarcoma-pet", "ibsi_pet", "PET"),
    "filters": Work("sarcoma CT, filters", "sarcoma-ct", "pyradiomics_ct_filters", "CT"),
    "phantom": Work("phantom, nnU-Net", "demo", "ibsi_config_c"),
}


def write_patients(work: Work, number: int, folder: Path) -> None:
    """Write the DICOM of so many patients.

    Args:
        work: whose patients; the phantom's are all different, the real ones are repeated by others'
            names and UIDs where there are fewer.
        number: of patients.
        folder: for them.
    """
    if not work.modality:
        write_site(folder.parent / "phantom", "north", number, 1, defects=False)
        (folder.parent / "phantom" / "dicom").rename(folder)
        return
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(_write_patient, work.modality, folder), range(number)))


def _write_patient(modality: str, folder: Path, index: int) -> None:
    turn, place = divmod(index, len(PATIENTS))
    source = SHARED_DATA / "sarcoma" / PATIENTS[place] / modality
    target = folder / (PATIENTS[place] + (f"_{turn:03d}" if turn else ""))
    if turn:
        _repeat(source, target)
    else:
        shutil.copytree(source, target)


def _repeat(source: Path, target: Path) -> None:
    """Write the files of a patient as those of another, whose name is the folder's."""

    def rename(dataset: pydicom.Dataset, element: pydicom.DataElement) -> None:
        kind = element.keyword
        if element.VR == "UI" and not kind.endswith("ClassUID") and element.value:
            element.value = generate_uid(entropy_srcs=[str(element.value), target.name])

    for path in source.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.walk(rename)
        dataset.PatientID = dataset.PatientName = target.name
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        copied = target / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(copied)


def radiomics_of(work: Work, *, alike: bool) -> dict[str, Any]:
    """Return the radiomics settings of a protocol.

    Args:
        work: what is measured.
        alike: the features that pyradiomics has, and no other.
    """
    plain = shipped_radiomics(work.settings).plain()
    if alike:
        known = featureextractor.getFeatureClasses()
        plain["featureClass"] = {
            name: sorted(
                feature
                for feature, deprecated in known[name].getFeatureNames().items()
                if not deprecated
            )
            for name in SHARED_CLASSES
        }
    return plain


def protocol_of(work: Work, *, alike: bool) -> dict[str, Any]:
    """Return the shipped protocol with what is measured here, and with what is of CT alone."""
    protocol = yaml.safe_load((PROTOCOLS / f"{work.protocol}.yaml").read_text(encoding="utf-8"))
    protocol = copy.deepcopy(protocol)
    protocol["radiomics"] = protocol["radiomics"][:1]
    protocol["radiomics"][0]["settings"] = radiomics_of(work, alike=alike)
    protocol["radiomics"][0].pop("stability", None)
    if not work.modality:
        protocol["segmentations"] = protocol["segmentations"][:1]
        protocol["cohort"]["case"]["roles"] = {"CT": {"where": "Modality = 'CT'"}}
        analyses = [analysis for analysis in protocol["analyses"] if analysis["kind"] == "summary"]
        for analysis in analyses:
            analysis["variables"] = [v for v in analysis["variables"] if v.startswith("CT.")]
        protocol["analyses"] = analyses
    return protocol


def parameters_of(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return pyradiomics' parameters for radiomics settings."""
    processing, setting = plain["processing"], dict(plain["setting"])
    resample = processing.get("resample")
    if resample:
        setting["resampledPixelSpacing"] = resample["spacing"]
        setting["interpolator"] = INTERPOLATORS[resample["interpolation"]]
    low, high = processing.get("resegment", {}).get("range", (None, None))
    if low is not None:
        setting["resegmentRange"] = [low] if high is None else [low, high]
    return {
        "imageType": plain["imageType"],
        "featureClass": {name: [] for name in SHARED_CLASSES},
        "setting": setting,
    }
