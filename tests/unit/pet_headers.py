"""PET headers whose SUV is known, and changes of them: of one field, in all slices or in some."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pytest
from pydicom.dataset import Dataset

from jipflow.images.suv.bodies import SuvType
from jipflow.images.suv.factors import suv_factors
from jipflow.notes import Notes
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.reasons import CaseFault

HALF_LIFE = 6586.2
DOSE = 368.08e6
WEIGHT_G = 70_000.0
INJECTED = datetime(2025, 1, 1, 10, 0)
START = datetime(2025, 1, 1, 11, 0)
BED_S = 300
VALUES = (0.2, 1.0, 4.0)
"""SUVbw of the voxels of the reference objects of IBSI."""

Change = Callable[[list[Dataset]], object]


def pet(
    units: str = "BQML", *, beds: int = 2, manufacturer: str = "Synthetic", sex: str = "M"
) -> list[Dataset]:
    """A series of four slices of FDG in SUVbw: 70 kg, 368.08 MBq at ten, scanned at eleven.

    Args:
        units: as of the phantom.
        beds: bed positions of five minutes.
        manufacturer: Manufacturer.
        sex: Patient's Sex.
    """
    study = dicom.Study(sex=sex, weight_kg=70.0, size_m=1.75, start=START - timedelta(minutes=12))
    scan = dicom.Scan(
        injection=dicom.Injection(INJECTED, DOSE),
        start=START,
        units=units,
        beds=beds,
        bed_seconds=BED_S,
    )
    suv = np.resize(VALUES, (4, 3, 4))
    grid = PhantomGrid((4, 3, 4), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    datasets = dicom.pt_series(suv, grid, study, scan=scan)
    for dataset in datasets:
        dataset.Manufacturer = manufacturer
        # The phantom has the middle of the frame; the average count rate was a little before.
        early = np.log(2) / HALF_LIFE * BED_S**2 / 24
        dataset.FrameReferenceTime = f"{float(dataset.FrameReferenceTime) - early * 1000:.3f}"
        # Its own tests set it: what changes a time would contradict it.
        del dataset.DecayFactor
    return datasets


def fields(**values: object) -> Change:
    """Set fields in all slices; None takes a field out."""

    def change(datasets: list[Dataset]) -> None:
        for dataset in datasets:
            _set(dataset, values)

    return change


def tracer(**values: object) -> Change:
    """Set fields of the radiopharmaceutical in all slices; None takes a field out."""

    def change(datasets: list[Dataset]) -> None:
        for dataset in datasets:
            _set(dataset.RadiopharmaceuticalInformationSequence[0], values)

    return change


def in_one_slice(change: Change) -> Change:
    """Make a change in the last slice only."""
    return lambda datasets: change(datasets[-1:])


def nuclide(code: str = "", meaning: str = "", name: str = "") -> Change:
    """Name the nuclide in all slices, by code, by its text or by the product."""

    def change(datasets: list[Dataset]) -> None:
        for dataset in datasets:
            item = dataset.RadiopharmaceuticalInformationSequence[0]
            item.Radiopharmaceutical = name
            item.RadiopharmaceuticalCodeSequence = []
            item.RadionuclideCodeSequence = []
            if code or meaning:
                coded = Dataset()
                coded.CodeValue, coded.CodeMeaning = code, meaning
                coded.CodingSchemeDesignator = "SRT"
                item.RadionuclideCodeSequence = [coded]

    return change


def private(group: int, creator: str, element: int, vr: str, value: object) -> Change:
    """Add an element to a maker's private block, which begins at the first free one."""

    def change(datasets: list[Dataset]) -> None:
        for dataset in datasets:
            block = dataset.private_block(group, creator, create=True)
            block.add_new(element, vr, value)

    return change


def acquired(*starts: datetime) -> Change:
    """Set when each slice was acquired."""

    def change(datasets: list[Dataset]) -> None:
        for dataset, start in zip(datasets, starts, strict=True):
            dicom.stamp(dataset, "Acquisition", start)

    return change


def together(*changes: Change) -> Change:
    """Make several changes, one after the other."""

    def change(datasets: list[Dataset]) -> None:
        for single in changes:
            single(datasets)

    return change


def _set(dataset: Dataset, values: dict[str, object]) -> None:
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)


def factors(
    *changes: Change,
    units: str = "BQML",
    kind: SuvType = SuvType.BW,
    notes: Notes | None = None,
    **options: object,
) -> np.ndarray:
    """The factors of the changed series."""
    datasets = pet(units, **options)
    together(*changes)(datasets)
    return suv_factors(datasets, "series 1", kind, notes or Notes())


def per_bq(uptake_s: float = 3600.0, half_life: float = HALF_LIFE, dose: float = DOSE) -> float:
    """SUVbw per Bq/ml of 70 kg."""
    return WEIGHT_G / (dose * 2.0 ** (-uptake_s / half_life))


def suv(*changes: Change, **options: object) -> list[str]:
    """Check that the series keeps its SUVbw, and return the codes of what was decided."""
    notes = Notes()
    found = factors(*changes, notes=notes, **options)
    np.testing.assert_allclose(found, per_bq(), rtol=1e-6)
    assert len(notes.sentences) >= len(notes.decisions)
    return [str(decision) for decision in notes.decisions]


def refused(*changes: Change, **options: object) -> CaseFault:
    """The fault of the changed series."""
    with pytest.raises(CaseFault) as caught:
        factors(*changes, **options)
    assert caught.value.message.startswith("series 1: ")
    return caught.value
