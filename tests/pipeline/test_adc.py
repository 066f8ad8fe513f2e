"""The variance of ADC between sites before and after they have harmonised, of known variances."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import highdicom
import numpy as np
import pandas as pd
import pydicom
import pytest
from highdicom.pm import ParametricMap, RealWorldValueMapping
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from scipy import stats

from harness import ONE_CORE, Site, approve_and_send, make_site, open_round, snakemake
from jipflow.files import read_json
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid

PROTOCOL = "adc-variance"
PATIENTS = {"north": 16, "south": 18, "west": 20}
SPREADS = {"before": {"north": 160, "south": 40, "west": 80}, "after": dict.fromkeys(PATIENTS, 60)}
"""Standard deviation in µm²/s of what patients are drawn from."""
CENTRE = 1200
SLOPE = 0.5
"""Values are whole steps of it, so that means of regions are exact."""
GRID = PhantomGrid((6, 16, 16), (4.0, 3.0, 3.0), (-20.0, -20.0, 0.0))
UNIT = highdicom.sr.CodedConcept("um2/s", "UCUM", "um2/s")
ADC = highdicom.sr.CodedConcept("113041", "DCM", "Apparent Diffusion Coefficient")

pytestmark = pytest.mark.long


def drawn(site: str, phase: str) -> NDArray[np.float64]:
    """The ADC of each patient of a site in µm²/s."""
    seed = [sorted(PATIENTS).index(site), sorted(SPREADS).index(phase)]
    values = np.random.default_rng(seed).normal(CENTRE, SPREADS[phase][site], PATIENTS[site])
    return np.rint(values / SLOPE) * SLOPE


def write_map(path: Path, site: str, patient: int, phase: str, value: float) -> None:
    """Write a map of one block of tissue in fluid of 3,000 µm²/s."""
    stored = np.full(GRID.shape, 3000 / SLOPE, np.uint16)
    stored[1:5, 4:12, 4:12] = value / SLOPE
    key = (site, patient, phase)
    study = dicom.Study(patient_id=f"{site}-{patient}", patient_name="Phantom^Adc", key=key)
    images = dicom.ct_series(np.zeros(GRID.shape, np.int16), GRID, study)
    for image in images:
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = MRImageStorage
        image.Modality = "MR"
    ends = (0, 2**16 - 1)
    made = ParametricMap(
        source_images=images,
        pixel_array=stored,
        series_instance_uid=dicom.uid("map", *key),
        series_number=7,
        sop_instance_uid=dicom.uid("map", *key, 1),
        instance_number=1,
        manufacturer="Maker",
        manufacturer_model_name="Model",
        software_versions="1",
        device_serial_number="1",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping("1", "ADC", UNIT, ends, SLOPE, 0.0, quantity_definition=ADC)
        ],
        voi_lut_transformations=[
            highdicom.VOILUTTransformation(window_center=1000, window_width=1000)
        ],
    )
    made.SeriesDescription = f"ADC {phase}"
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, made, enforce_file_format=True)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Site]:
    folder = tmp_path_factory.mktemp("adc")
    made = []
    for name in PATIENTS:
        for phase in SPREADS:
            for patient, value in enumerate(drawn(name, phase)):
                path = folder / "dicom" / name / f"{patient:02d}-{phase}.dcm"
                write_map(path, name, patient, phase, value)
        made.append(make_site(folder, name, PROTOCOL, [folder / "dicom" / name]))
    return made


def test_the_sites_differ_before_and_not_after(sites: list[Site]) -> None:
    folder = sites[0].folder
    hub = open_round(folder, PROTOCOL, sites)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda site: approve_and_send(site, folder / f"inbox-{PROTOCOL}"), sites))
    snakemake("hub", "--configfile", str(hub), *ONE_CORE)
    result = read_json(folder / "hub" / PROTOCOL / "rounds" / "r01" / "result.json")
    spread, test = ({c["role"]: c for c in each["cells"]} for each in result["analyses"])
    for phase in SPREADS:
        values = {name: drawn(name, phase) for name in PATIENTS}
        of_sites = {part["site"]: part for part in spread[phase.upper()]["by_site"]}
        for name, known in values.items():
            assert of_sites[name]["n"] == PATIENTS[name]
            assert of_sites[name]["mean"] == pytest.approx(known.mean(), rel=1e-12)
            assert of_sites[name]["variance"] == pytest.approx(known.var(ddof=1), rel=1e-9)
        expected = stats.levene(*values.values(), center="mean")
        found = test[phase.upper()]["test"]
        assert found["statistic"] == pytest.approx(expected.statistic, rel=1e-9)
        assert found["p"] == pytest.approx(expected.pvalue, rel=1e-9)
        assert (found["p"] < 0.01) == (phase == "before")


def test_maps_have_no_units_of_the_modality_that_they_come_from(sites: list[Site]) -> None:
    site = sites[0]
    assert set(pd.read_csv(site.out / "cohort" / "cases.tsv", sep="\t")["modality"]) == {"map"}
    report = next((site.out / "sr").rglob("*.dcm"))
    units = {
        item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue
        for item in walked(pydicom.dcmread(report))
        if "MeasuredValueSequence" in item
    }
    assert "[arb'U]" in units
    assert not units & {"[hnsf'U]", "g/ml{SUVbw}"}


def walked(item: Dataset) -> Iterator[Dataset]:
    yield item
    for inner in item.get("ContentSequence") or []:
        yield from walked(inner)
