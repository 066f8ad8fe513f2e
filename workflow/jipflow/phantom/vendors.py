"""Header and acquisition patterns of three made-up scanners, each in the style of a vendor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vendor:
    """How one PET/CT scanner images and writes.

    Attributes:
        key: short name, used on the command line and in `truth.json`.
        manufacturer: Manufacturer (0008,0070) as the vendor writes it.
        model: Manufacturer's Model Name; made up.
        software: Software Versions; made up.
        station: Station Name.
        ct_columns: CT matrix size.
        ct_pixel_mm: CT pixel spacing.
        ct_slice_mm: CT slice thickness, contiguous.
        ct_kernel: Convolution Kernel.
        ct_blur: standard deviation of the in-plane blur in pixels.
        ct_noise: standard deviation of the noise in HU.
        ct_signed: Pixel Representation 1, 16 bits stored; else 0 and 12 bits.
        ct_description: Series Description of the CT.
        ct_algorithm: further CT elements, keyword to value.
        descending: Instance Number 1 is the topmost slice.
        pt_columns: PET matrix size.
        pt_pixel_mm: PET pixel spacing.
        pt_slice_mm: PET slice thickness.
        pt_fwhm: PET point spread in millimetres.
        pt_noise: relative PET noise at SUV 1.
        pt_slope_per_slice: Rescale Slope differs from slice to slice.
        pt_description: Series Description of the PET.
        pt_method: Reconstruction Method of the PET.
        file_name: pattern of a file's name; may use `number`, `modality` and `uid`.
        study_folder: pattern of a study's folder; may use `date`, `patient` and `study`.
        series_folder: pattern of a series' folder; may use `number` and `description`.
    """

    key: str
    manufacturer: str
    model: str
    software: str
    station: str
    ct_columns: int
    ct_pixel_mm: float
    ct_slice_mm: float
    ct_kernel: str
    ct_blur: float
    ct_noise: float
    ct_signed: bool
    ct_description: str
    ct_algorithm: dict[str, object]
    descending: bool
    pt_columns: int
    pt_pixel_mm: float
    pt_slice_mm: float
    pt_fwhm: float
    pt_noise: float
    pt_slope_per_slice: bool
    pt_description: str
    pt_method: str
    file_name: str
    study_folder: str
    series_folder: str


VENDORS = {
    vendor.key: vendor
    for vendor in (
        Vendor(
            key="ge",
            manufacturer="GE MEDICAL SYSTEMS",
            model="Phantom Discovery 7",
            software="phantom.47.1",
            station="CTPT01",
            ct_columns=104,
            ct_pixel_mm=3.7305,
            ct_slice_mm=5.0,
            ct_kernel="STANDARD",
            ct_blur=0.50,
            ct_noise=16.0,
            ct_signed=True,
            ct_description="WB CT AX 5.0 STD",
            ct_algorithm={
                "KVP": 120,
                "XRayTubeCurrent": 210,
                "ExposureTime": 800,
                "Exposure": 168,
                "FilterType": "BODY FILTER",
                "ScanOptions": "HELICAL MODE",
                "RotationDirection": "CW",
            },
            descending=True,
            pt_columns=72,
            pt_pixel_mm=5.4688,
            pt_slice_mm=4.25,
            pt_fwhm=6.0,
            pt_noise=0.12,
            pt_slope_per_slice=True,
            pt_description="WB PET AC 3D MAC",
            pt_method="3D IR",
            file_name="{modality}.{uid}.dcm",
            study_folder="{patient}/{study}",
            series_folder="SER{number:05d}",
        ),
        Vendor(
            key="siemens",
            manufacturer="SIEMENS",
            model="Phantom Biograph 40",
            software="VG00P",
            station="CTAWP00",
            ct_columns=96,
            ct_pixel_mm=4.0690,
            ct_slice_mm=4.0,
            ct_kernel="B31f",
            ct_blur=0.45,
            ct_noise=19.0,
            ct_signed=False,
            ct_description="PET_WB  4.0  B31f",
            ct_algorithm={
                "KVP": 100,
                "XRayTubeCurrent": 156,
                "ExposureTime": 500,
                "Exposure": 78,
                "FilterType": "FLAT",
                "ScanOptions": None,
                "RotationDirection": "CW",
            },
            descending=False,
            pt_columns=96,
            pt_pixel_mm=4.0728,
            pt_slice_mm=5.0,
            pt_fwhm=5.0,
            pt_noise=0.16,
            pt_slope_per_slice=True,
            pt_description="PET WB (AC)",
            pt_method="PSF+TOF 3i21s",
            file_name="{patient}.{modality}.{number:04d}.IMA",
            study_folder="{patient}/{date}",
            series_folder="{description}_{number:04d}",
        ),
        Vendor(
            key="philips",
            manufacturer="Philips",
            model="Phantom Ingenuity TF",
            software="4.0.P",
            station="HOST-7",
            ct_columns=112,
            ct_pixel_mm=3.4821,
            ct_slice_mm=4.5,
            ct_kernel="B",
            ct_blur=0.65,
            ct_noise=13.0,
            ct_signed=False,
            ct_description="Abdomen venous, 4.5 mm",
            ct_algorithm={
                "KVP": 140,
                "XRayTubeCurrent": 180,
                "ExposureTime": 750,
                "Exposure": 135,
                "FilterType": "B",
                "ScanOptions": "HELIX",
                "RotationDirection": None,
            },
            descending=True,
            pt_columns=88,
            pt_pixel_mm=4.4,
            pt_slice_mm=4.0,
            pt_fwhm=7.0,
            pt_noise=0.10,
            pt_slope_per_slice=False,
            pt_description="WB_CTAC_2_FDG",
            pt_method="BLOB-OS-TF",
            file_name="IM_{number:04d}",
            study_folder="{date}_{patient}",
            series_folder="S{number:04d}",
        ),
    )
}
"""The vendor styles by key."""
