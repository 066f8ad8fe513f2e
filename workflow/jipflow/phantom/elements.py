"""Elements of DICOM objects that depend on no patient: values as text, items, fixed modules."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.phantom.grid import PhantomGrid
from jipflow.phantom.vendors import Vendor


def check_shape(array: NDArray[Any], grid: PhantomGrid) -> None:
    """Refuse an array that does not fill its grid.

    Raises:
        ValueError: their shapes differ.
    """
    if array.shape != grid.shape:
        raise ValueError(f"the array has the shape {array.shape}, its grid {grid.shape}")


def instance_order(grid: PhantomGrid, vendor: Vendor) -> list[int]:
    """Slice indices in the order of the vendor's Instance Numbers."""
    order = list(range(grid.shape[0]))
    return order[::-1] if vendor.descending else order


def add_pixels(ds: Dataset, stored: NDArray[Any], bits: int) -> None:
    """Image pixel module of a single monochrome frame."""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated = 16
    ds.BitsStored = bits
    ds.HighBit = bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.PixelData = stored.tobytes()


def stored_unit(suv: NDArray[np.floating], units: str, factor: float) -> NDArray[np.float64]:
    """SUVbw in the unit that is stored; `factor` is SUVbw per Bq/mL."""
    if units == "BQML":
        return np.asarray(suv, np.float64) / factor
    if units == "CNTS":
        return np.asarray(suv, np.float64) * 431.7
    if units == "GML":
        return np.asarray(suv, np.float64)
    raise ValueError(f"PET units must be BQML, CNTS or GML, not {units!r}")


def add_reconstruction(ds: Dataset, vendor: Vendor) -> None:
    """Corrections and reconstruction of a PET image (PS3.3 C.8.9.1)."""
    ds.ConvolutionKernel = f"XYZ GAUSS {vendor.pt_fwhm:.2f}"
    ds.CollimatorType = "NONE"
    ds.CountsSource = "EMISSION"
    ds.SeriesType = ["WHOLE BODY", "IMAGE"]
    ds.CorrectedImage = ["NORM", "DTIM", "ATTN", "SCAT", "DECY", "RAN"]
    ds.RandomsCorrectionMethod = "DLYD"
    ds.AttenuationCorrectionMethod = "measured,CT"
    ds.ScatterCorrectionMethod = "Model-based"
    ds.ReconstructionMethod = vendor.pt_method
    ds.DoseCalibrationFactor = "1"


def add_patient_position(ds: Dataset) -> None:
    """Supine, head first (PS3.3 C.8.9.1)."""
    supine = code_item("40199007", "supine")
    ds.PatientOrientationCodeSequence = [code_item("102538003", "recumbent")]
    ds.PatientOrientationCodeSequence[0].PatientOrientationModifierCodeSequence = [supine]
    ds.PatientGantryRelationshipCodeSequence = [code_item("102540008", "headfirst")]


def code_item(value: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 section 8.8), of SNOMED CT."""
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = "SCT"
    item.CodeMeaning = meaning
    return item


def reference_item(sop_class: str, sop_instance: str) -> Dataset:
    """An item that references an instance (PS3.3 section 10.8)."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = sop_instance
    return item


def stamp(ds: Dataset, what: str, moment: datetime) -> None:
    """Write the date and the time of a thing: `what` is `Study`, `Series` and the like."""
    setattr(ds, f"{what}Date", date_text(moment))
    setattr(ds, f"{what}Time", time_text(moment))


def date_text(moment: datetime) -> str:
    """A date (VR DA)."""
    return moment.strftime("%Y%m%d")


def time_text(moment: datetime) -> str:
    """A time of day to the second (VR TM)."""
    return moment.strftime("%H%M%S")


def decimal_text(value: float) -> str:
    """A decimal string (VR DS): at most 16 characters, 10 significant digits."""
    return format(value, ".10g")
