"""Contours to masks, DICOM-SEGs and features, a patient after the other in a pool of processes.

python contours.py DATA PARAMETERS OUT PROCESSES

DATA has a folder for each patient, with the slices in image/ and the RTSTRUCT in mask/.
"""

import sys
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import highdicom as hd
import numpy as np
import pandas as pd
import pydicom
import SimpleITK as sitk
from pydicom.sr.codedict import codes
from radiomics import featureextractor, setVerbosity
from skimage.draw import polygon

TUMOUR = {
    "gtv": (
        codes.SCT.MorphologicallyAbnormalStructure,
        hd.sr.CodedConcept("372087000", "SCT", "Neoplasm, Primary"),
    )
}


def read_series(folder):
    """The image of a folder, and its slices in the same order."""
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return sitk.ReadImage(files), [pydicom.dcmread(file) for file in files]


def read_contours(path, image):
    """The mask of the structure GTV…"""
    structures = pydicom.dcmread(path)
    (number,) = (
        roi.ROINumber for roi in structures.StructureSetROISequence if roi.ROIName.startswith("GTV")
    )
    mask = np.zeros(sitk.GetArrayViewFromImage(image).shape, bool)
    for structure in structures.ROIContourSequence:
        if structure.ReferencedROINumber == number:
            for contour in structure.ContourSequence:
                points = np.reshape(np.array(contour.ContourData, float), (-1, 3))
                index = [image.TransformPhysicalPointToContinuousIndex(p) for p in points.tolist()]
                x, y, z = np.transpose(index)
                # A contour within another is a hole.
                mask[round(z[0])][polygon(y, x, mask.shape[1:])] ^= True
    label = sitk.GetImageFromArray(mask.astype(np.uint8))
    label.CopyInformation(image)
    return label


def write_seg(slices, label, segments, path):
    """Write a label map as DICOM-SEG; `segments` has the codes of labels 1, 2, … by name."""
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, (name, (category, kind)) in enumerate(segments.items(), start=1)
    ]
    seg = hd.seg.Segmentation(
        source_images=slices,
        pixel_array=sitk.GetArrayFromImage(label),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=9001,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Script",
        manufacturer_model_name="Script",
        software_versions="1",
        device_serial_number="1",
    )
    seg.save_as(path)


def measure(image, label, segments, parameters):
    """The features of each label."""
    extractor = featureextractor.RadiomicsFeatureExtractor(str(parameters))
    rows = []
    for number, name in enumerate(segments, start=1):
        values = extractor.execute(image, label, label=number)
        values = {key: value for key, value in values.items() if "diagnostics" not in key}
        rows.append({"segment": name, **values})
    return rows


def process(parameters, out, patient):
    """All that is to be done for one patient."""
    image, slices = read_series(patient / "image")
    label = read_contours(next((patient / "mask").iterdir()), image)
    write_seg(slices, label, TUMOUR, out / "seg" / f"{patient.name}.dcm")
    rows = measure(image, label, TUMOUR, parameters)
    return [{"ID": patient.name, **row} for row in rows]


def begin():
    """Each process of the pool takes one core."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    setVerbosity(50)


def main():
    data, parameters, out, processes = sys.argv[1:]
    patients = sorted(Path(data).iterdir())
    (Path(out) / "seg").mkdir(parents=True)
    with Pool(int(processes), begin) as pool:
        rows = pool.map(partial(process, Path(parameters), Path(out)), patients, chunksize=1)
    table = pd.DataFrame([row for patient in rows for row in patient])
    table.to_csv(Path(out) / "features.csv", index=False)


if __name__ == "__main__":
    main()
