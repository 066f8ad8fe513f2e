"""Whole sites of synthetic patients on disk, with the truth beside them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.phantom import anatomy, defects, dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.phantom.vendors import VENDORS, Vendor

ROI_NAME = "GTV_PET"
"""Name of the lesion's contour in the RTSTRUCT."""

SERIES_DEFECTS = {
    "missing_slices": "missing_slices",
    "mixed_orientation": "mixed_orientation",
    "shifted_slice": "gantry_tilt",
    "truncated_pixels": "truncated_pixels",
    "unsupported_units": "unsupported_units",
}
"""Kinds of defective series, one patient each, and the reason code that each must get."""

TORSO_MM = 182.0
"""Extent along z that a CT covers."""


@dataclass(frozen=True)
class Subject:
    """One synthetic patient, drawn but not written.

    Attributes:
        study: identity, study and scanner.
        ct_grid: geometry of the CT.
        hu: Hounsfield units on `ct_grid`.
        labels: label map (`anatomy.LABELS`) on `ct_grid`.
        pt_grid: geometry of the PET.
        suv: SUVbw on `pt_grid`.
        lesion: lesion mask on `pt_grid`.
        uptake: SUVbw of each tissue before blur and noise.
        injection: FDG given.
        pt_start: start of the PET series.
    """

    study: dicom.Study
    ct_grid: PhantomGrid
    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    pt_grid: PhantomGrid
    suv: NDArray[np.float64]
    lesion: NDArray[np.bool_]
    uptake: dict[str, float]
    injection: dicom.Injection
    pt_start: datetime


def make_subject(site: str, index: int, seed: int, vendor: Vendor) -> Subject:
    """Draw patient number `index` of a site; the same arguments give the same patient.

    Anatomy, CT noise, PET noise and header each have a random stream of their own.
    """
    body = anatomy.make_anatomy(_stream(seed, site, index, "anatomy"))
    draw = _stream(seed, site, index, "header")

    slices = round(TORSO_MM / vendor.ct_slice_mm) + int(draw.integers(-1, 2))
    pixel = round(vendor.ct_pixel_mm * float(draw.uniform(0.97, 1.03)), 4)
    ct_grid = _off_centre(
        PhantomGrid.centred(
            (slices, vendor.ct_columns, vendor.ct_columns), (vendor.ct_slice_mm, pixel, pixel)
        ),
        draw,
    )
    pt_slices = round((TORSO_MM - 10) / vendor.pt_slice_mm)
    pt_grid = _off_centre(
        PhantomGrid.centred(
            (pt_slices, vendor.pt_columns, vendor.pt_columns),
            (vendor.pt_slice_mm, vendor.pt_pixel_mm, vendor.pt_pixel_mm),
        ),
        draw,
    )

    start = datetime(2021, 1, 4, 8, 0) + timedelta(
        days=int(draw.integers(0, 700)), minutes=int(draw.integers(0, 480))
    )
    pt_start = start + timedelta(minutes=9, seconds=int(draw.integers(0, 240)))
    study = dicom.Study(
        patient_id=f"{site.upper()}-{index:04d}",
        patient_name=f"Phantom^{site.capitalize()}{index:04d}",
        sex=str(draw.choice(["F", "M"])),
        birth_date=date(1935, 1, 1) + timedelta(days=int(draw.integers(0, 18000))),
        size_m=round(float(draw.uniform(1.55, 1.92)), 2),
        weight_kg=round(float(draw.uniform(52.0, 104.0)), 1),
        start=start,
        description="FDG PET/CT abdomen (phantom)",
        accession=f"PH{int(draw.integers(0, 10**6)):06d}",
        vendor=vendor,
        key=("jipflow phantom", site, index, seed),
    )
    injection = dicom.Injection(
        pt_start - timedelta(minutes=int(draw.integers(55, 75)), seconds=int(draw.integers(0, 60))),
        round(study.weight_kg * float(draw.uniform(3.0e6, 4.2e6)), -4),
    )

    on_ct, on_pt = body.tissues(ct_grid), body.tissues(pt_grid)
    return Subject(
        study=study,
        ct_grid=ct_grid,
        hu=anatomy.ct_image(
            on_ct,
            body.hu,
            _stream(seed, site, index, "ct"),
            blur=vendor.ct_blur,
            noise=vendor.ct_noise,
        ),
        labels=anatomy.labels(on_ct),
        pt_grid=pt_grid,
        suv=anatomy.pet_image(
            on_pt,
            body.suv,
            _stream(seed, site, index, "pt"),
            spacing=pt_grid.spacing,
            fwhm=vendor.pt_fwhm,
            noise=vendor.pt_noise,
        ),
        lesion=anatomy.labels(on_pt) == anatomy.LABELS["lesion"],
        uptake=body.suv,
        injection=injection,
        pt_start=pt_start,
    )


def write_site(
    out_dir: Path,
    site: str,
    patients: int,
    seed: int,
    *,
    defects: bool = True,
    pet: bool = True,
    organs: bool = False,
    vendors: Sequence[str] = tuple(VENDORS),
) -> None:
    """Write a site's DICOM folder and its truth.

    `out_dir/dicom` holds what an archive would; `out_dir/truth` holds, for each patient, the
    label map on the CT grid (`<PatientID>_CT.nii.gz`), the lesion mask on the PET grid
    (`<PatientID>_PT.nii.gz`), and `truth.json` with volumes in mL, SUVbw, geometry and every
    planted defect. The same arguments give the same bytes.

    Args:
        out_dir: folder to make; its `dicom` and `truth` must not exist.
        site: short name of letters, digits, `-` or `_`; starts the Patient IDs.
        patients: number of sound patients.
        seed: seed of everything drawn.
        defects: add a patient for each of `SERIES_DEFECTS`, and to the sound patients a localizer
            series, a file that is not DICOM and a file cut within its header.
        pet: write the PET and its RTSTRUCT as well as the CT.
        organs: write an RTSTRUCT of all labels on the CT, to train on.
        vendors: keys of `vendors.VENDORS`, taken in turn.

    Raises:
        ValueError: the site's name, the number of patients or a vendor is not valid.
        FileExistsError: the folder already holds a site.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", site):
        raise ValueError(
            f"site {site!r} is no valid name: use up to 32 letters, digits, '-' and '_'"
        )
    if patients < 1:
        raise ValueError(f"a site needs at least one patient, not {patients}")
    if not vendors or not set(vendors) <= set(VENDORS):
        raise ValueError(f"vendors must be among {', '.join(VENDORS)}, not {', '.join(vendors)}")
    for part in ("dicom", "truth"):
        (out_dir / part).mkdir(parents=True, exist_ok=False)

    planted: list[str | None] = [None] * patients
    if defects:
        planted += [kind for kind in SERIES_DEFECTS if pet or kind != "unsupported_units"]
    truth_patients, truth_defects = [], []
    for index, kind in enumerate(planted, 1):
        subject = make_subject(site, index, seed, VENDORS[vendors[(index - 1) % len(vendors)]])
        patient, found = _write_subject(out_dir, subject, kind, pet, organs)
        truth_patients.append(patient)
        truth_defects += found
        if defects and index == 1:
            truth_defects += _write_strays(out_dir, subject)
    truth = {
        "site": site,
        "seed": seed,
        "labels": anatomy.LABELS,
        "patients": truth_patients,
        "defects": truth_defects,
    }
    text = json.dumps(truth, indent=1, ensure_ascii=False) + "\n"
    (out_dir / "truth" / "truth.json").write_text(text, encoding="utf-8")


def write_nifti(array: NDArray[Any], grid: PhantomGrid, path: Path) -> None:
    """Write an array, axes (slice, row, column), as NIfTI with the grid's geometry."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(np.column_stack([grid.row, grid.column, grid.normal]).ravel().tolist())
    SimpleITK.WriteImage(image, str(path), useCompression=path.suffix == ".gz")


def _write_subject(
    out_dir: Path, subject: Subject, kind: str | None, pet: bool, organs: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write one patient; return its entry in the truth and those of its defects."""
    study, patient_id = subject.study, subject.study.patient_id
    ct = dicom.ct_series(subject.hu, subject.ct_grid, study)
    entry: dict[str, Any] = {
        "patient_id": patient_id,
        "vendor": study.vendor.key,
        "manufacturer": study.vendor.manufacturer,
        "model": study.vendor.model,
        "study_uid": study.study_uid,
        "frame_of_reference_uid": study.frame_uid,
        "defect": kind,
        "CT": {
            "series_uid": str(ct[0].SeriesInstanceUID),
            **_geometry(subject.ct_grid),
            "volumes_ml": {
                name: int((subject.labels == value).sum()) * subject.ct_grid.voxel_ml
                for name, value in anatomy.LABELS.items()
            },
            "truth": f"{patient_id}_CT.nii.gz",
        },
    }
    found = []
    sound = ct
    if kind == "missing_slices":
        ct = defects.missing_slice(ct)
    elif kind == "mixed_orientation":
        ct = defects.mixed_orientation(ct, subject.hu, subject.ct_grid, study)
    elif kind == "shifted_slice":
        ct = defects.shifted_slice(ct)
    paths = _write_series(out_dir, ct, study)
    if kind == "truncated_pixels":
        broken = len(ct) // 3
        paths[broken].write_bytes(defects.truncated_pixels(ct[broken]))
        found.append(_defect(out_dir, kind, ct[0], "series", [paths[broken]]))
    elif kind is not None and kind != "unsupported_units":
        found.append(_defect(out_dir, kind, ct[0], "series", []))
    write_nifti(subject.labels, subject.ct_grid, out_dir / "truth" / f"{patient_id}_CT.nii.gz")
    if organs:
        masks = {name: subject.labels == value for name, value in anatomy.LABELS.items()}
        drawn = dicom.rtstruct(masks, subject.ct_grid, sound, study, number=10, label="Organs")
        _write_series(out_dir, [drawn], study)
    if not pet:
        return entry, found

    units = "CNTS" if kind == "unsupported_units" else "BQML"
    pt = dicom.pt_series(
        subject.suv,
        subject.pt_grid,
        study,
        dicom.Scan(subject.injection, subject.pt_start, units),
    )
    contours = dicom.rtstruct({ROI_NAME: subject.lesion}, subject.pt_grid, pt, study)
    _write_series(out_dir, pt, study)
    _write_series(out_dir, [contours], study)
    if units != "BQML":
        found.append(_defect(out_dir, "unsupported_units", pt[0], "series", []))
    in_lesion = subject.suv[subject.lesion]
    entry["PT"] = {
        "series_uid": str(pt[0].SeriesInstanceUID),
        **_geometry(subject.pt_grid),
        "units": units,
        "volumes_ml": {"lesion": int(subject.lesion.sum()) * subject.pt_grid.voxel_ml},
        "suv": {
            "liver_true": subject.uptake["liver"],
            "lesion_true": subject.uptake["lesion"],
            "lesion_mean": float(in_lesion.mean()),
            "lesion_max": float(in_lesion.max()),
        },
        "bqml_per_suv": 1.0 / dicom.suv_factor(study, subject.injection, subject.pt_start),
        "truth": f"{patient_id}_PT.nii.gz",
    }
    entry["RTSTRUCT"] = {
        "series_uid": str(contours.SeriesInstanceUID),
        "roi": ROI_NAME,
        "references": "PT",
    }
    write_nifti(
        subject.lesion.astype(np.uint8),
        subject.pt_grid,
        out_dir / "truth" / f"{patient_id}_PT.nii.gz",
    )
    return entry, found


def _write_strays(out_dir: Path, subject: Subject) -> list[dict[str, Any]]:
    """Beside a sound patient: a localizer series, a text file and a file cut in its header."""
    study = subject.study
    scout = dicom.localizer(subject.hu, subject.ct_grid, study)
    scout_path = _write_series(out_dir, [scout], study)[0]
    note = scout_path.parent.parent / "note.txt"
    note.write_bytes(defects.NOT_DICOM)
    cut = scout_path.parent / "partial.dcm"
    cut.write_bytes(defects.truncated_header(scout))
    return [
        _defect(out_dir, "localizer", scout, "filtered", [scout_path]),
        _defect(out_dir, "not_dicom", None, "file", [note]),
        _defect(out_dir, "unreadable", None, "file", [cut]),
    ]


def _defect(
    out_dir: Path, kind: str, ds: Dataset | None, level: str, files: Sequence[Path]
) -> dict[str, Any]:
    """One planted defect of the truth.

    `level` says where it must show: `series` as the outcome of a case, `filtered` as a series
    that the cohort leaves out, `file` as a file that the catalog counts but does not take in.
    """
    return {
        "kind": kind,
        "reason": SERIES_DEFECTS.get(kind, kind),
        "level": level,
        "patient_id": None if ds is None else str(ds.PatientID),
        "modality": None if ds is None else str(ds.Modality),
        "series_uid": None if ds is None else str(ds.SeriesInstanceUID),
        "files": [path.relative_to(out_dir / "dicom").as_posix() for path in files],
    }


def _write_series(out_dir: Path, series: Sequence[Dataset], study: dicom.Study) -> list[Path]:
    """Write a series where its vendor would put it."""
    vendor, first = study.vendor, series[-1]
    folder = vendor.study_folder.format(
        date=study.start.strftime("%Y%m%d"), patient=study.patient_id, study=study.accession
    )
    name = vendor.series_folder.format(
        number=int(first.SeriesNumber),
        description=re.sub(r"[^A-Za-z0-9.-]+", "_", str(first.SeriesDescription)).strip("_"),
    )
    return dicom.write_series(series, out_dir / "dicom" / folder / name, vendor.file_name)


def _geometry(grid: PhantomGrid) -> dict[str, list[float]]:
    """Size, spacing and origin in the order x, y, z."""
    return {
        "size_xyz": list(grid.shape[::-1]),
        "spacing_xyz_mm": list(grid.spacing[::-1]),
        "origin_xyz_mm": list(grid.origin),
    }


def _off_centre(grid: PhantomGrid, draw: np.random.Generator) -> PhantomGrid:
    """The grid shifted by a few millimetres, as table heights and landmarks differ."""
    x, y, z = (
        round(value + float(draw.uniform(-far, far)), 4)
        for value, far in zip(grid.origin, (4.0, 4.0, 3.0), strict=True)
    )
    return PhantomGrid(grid.shape, grid.spacing, (x, y, z))


def _stream(seed: int, site: str, index: int, purpose: str) -> np.random.Generator:
    """A random stream of its own for each patient and purpose."""
    words = hashlib.sha256(f"{seed}|{site}|{index}|{purpose}".encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(words, "big")))
