"""Masks of nnU-Net, DICOM-SEGs and features: one call for all images, then a pool of processes.

python network.py DATA PARAMETERS OUT PROCESSES DATASET READERS

DATA holds DICOM files of all kinds; the CTs with slices of at most 5 mm are taken, one a patient.
"""

import json
import subprocess
import sys
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import pandas as pd
import pydicom
import SimpleITK as sitk
from contours import begin, measure, write_seg
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes

SEGMENTS = {
    "liver": (codes.SCT.AnatomicalStructure, codes.SCT.Liver),
    "spleen": (codes.SCT.AnatomicalStructure, codes.SCT.Spleen),
    "kidney": (codes.SCT.AnatomicalStructure, codes.SCT.Kidney),
    "lesion": (codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion),
}


def read_header(path):
    """What chooses series; None of a file that is no image."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, EOFError):
        return None
    if header.get("Modality") != "CT" or "LOCALIZER" in header.get("ImageType", []):
        return None
    if not header.get("SliceThickness") or header.SliceThickness > 5:
        return None
    return str(header.PatientID), str(path.parent), str(header.SeriesInstanceUID)


def convert(out, series):
    """Write a series for nnU-Net."""
    patient, folder, uid = series
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder, uid)
    sitk.WriteImage(sitk.ReadImage(files), str(out / "images" / f"{patient}_0000.nii.gz"))
    return patient, files


def process(parameters, out, item):
    """What is done with the masks of one patient."""
    patient, files = item
    image = sitk.ReadImage(str(out / "images" / f"{patient}_0000.nii.gz"))
    label = sitk.ReadImage(str(out / "masks" / f"{patient}.nii.gz"))
    slices = [pydicom.dcmread(file) for file in files]
    write_seg(slices, label, SEGMENTS, out / "seg" / f"{patient}.dcm")
    return [{"ID": patient, **row} for row in measure(image, label, SEGMENTS, parameters)]


def main():
    data, parameters, out, processes, dataset, readers = sys.argv[1:]
    out = Path(out)
    for name in ("images", "seg"):
        (out / name).mkdir(parents=True)
    files = [path for path in Path(data).rglob("*") if path.is_file()]
    with Pool(int(processes), begin) as pool:
        series = {found for found in pool.imap_unordered(read_header, files, 50) if found}
        patients = pool.map(partial(convert, out), sorted(series), chunksize=1)
    command = ["nnUNetv2_predict", "-i", out / "images", "-o", out / "masks", "-d", dataset]
    command += ["-c", "3d_fullres", "-f", "0", "-device", "cpu", "--disable_tta"]
    command += ["--disable_progress_bar", "-npp", readers, "-nps", readers]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    labels = json.loads((out / "masks" / "dataset.json").read_text())["labels"]
    assert [name for name in labels if labels[name]] == list(SEGMENTS)
    with Pool(int(processes), begin) as pool:
        rows = pool.map(partial(process, Path(parameters), out), patients, chunksize=1)
    table = pd.DataFrame([row for patient in rows for row in patient])
    table.to_csv(out / "features.csv", index=False)


if __name__ == "__main__":
    main()
