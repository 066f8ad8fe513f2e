"""Each row of the tables in docs/suv.md is a header here: what it is, and what happens to it."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from jipflow.images import suv
from jipflow.images.suv.nuclides import HALF_LIFE_S
from jipflow.notes import Notes
from jipflow.reasons import CaseFault, Decision
from pet_headers import (
    BED_S,
    HALF_LIFE,
    START,
    acquired,
    factors,
    fields,
    in_one_slice,
    nuclide,
    per_bq,
    private,
    together,
    tracer,
)

ROOM = Path(suv.__file__).parent
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "suv.md").read_text(encoding="utf-8")

LATE = fields(SeriesTime="113000")
NEXT_BED = acquired(*[START + timedelta(minutes=5)] * 4)
AVERAGE_S = BED_S / 2 - np.log(2) / HALF_LIFE * BED_S**2 / 24
FRAME = fields(FrameReferenceTime=f"{(300 + AVERAGE_S) * 1000:.3f}")
FRAME_OF_GE = fields(FrameReferenceTime="300000")
DYNAMIC = fields(SeriesType=["DYNAMIC", "IMAGE"])
GE = {"manufacturer": "GE MEDICAL SYSTEMS"}
PHILIPS = {"manufacturer": "Philips Medical Systems", "units": "CNTS"}
GE_TIME = private(0x0009, "GEMS_PETD_01", 0x0D, "DT", "20250101110000")
SIEMENS_TIME = private(0x0071, "SIEMENS MED PT", 0x22, "DT", "20250101110000")
NOT_CORRECTED = fields(DecayCorrection="NONE", CorrectedImage=["ATTN"])


def philips(element, value):
    return private(0x7053, "Philips PET Private Group", element, "DS", value)


def injection(stamp=None, clock=None):
    return tracer(RadiopharmaceuticalStartDateTime=stamp, RadiopharmaceuticalStartTime=clock)


def twice(datasets):
    for dataset in datasets:
        [item] = dataset.RadiopharmaceuticalInformationSequence
        dataset.RadiopharmaceuticalInformationSequence = [item, item]


READ, MISSING, IMPLAUSIBLE, CONTRADICTORY, UNITS = (
    "read",
    "missing_suv_field",
    "implausible_suv_field",
    "contradictory_suv_fields",
    "unsupported_units",
)

KINDS = {
    "Series Time is that of the first acquisition": (READ, fields(), {}),
    "Series Time is before the first acquisition": (READ, together(NEXT_BED, FRAME), {}),
    "Series Time and frame times differ by more than 1 % of decay": (
        CONTRADICTORY,
        NEXT_BED,
        {"beds": 1},
    ),
    "Series Time is after the acquisition, GE's private scan time is there": (
        READ,
        together(NEXT_BED, LATE, GE_TIME),
        GE,
    ),
    "Series Time is after the acquisition, Siemens' private time is there": (
        READ,
        together(NEXT_BED, LATE, SIEMENS_TIME),
        {"manufacturer": "SIEMENS"},
    ),
    "Series Time is after the acquisition, frame times are there": (
        READ,
        together(NEXT_BED, LATE, FRAME),
        {},
    ),
    "Series Time is after the acquisition, GE, frame times are there": (
        READ,
        together(NEXT_BED, LATE, FRAME_OF_GE),
        GE,
    ),
    "Series Time is after the acquisition, frame times are incomplete": (
        CONTRADICTORY,
        together(NEXT_BED, LATE, FRAME, fields(ActualFrameDuration=None)),
        {},
    ),
    "Series Time is after the acquisition, no frame times": (
        READ,
        together(LATE, fields(FrameReferenceTime=None)),
        {},
    ),
    "Manufacturer is empty, a maker's private block is there": (
        READ,
        together(NEXT_BED, LATE, GE_TIME),
        {"manufacturer": ""},
    ),
    "Private scan time after the first acquisition": (
        CONTRADICTORY,
        together(acquired(*[START - timedelta(minutes=5)] * 4), GE_TIME),
        GE,
    ),
    "Series Date and Acquisition Date are years apart": (READ, fields(SeriesDate="19000101"), {}),
    "All dates of the scan are taken out": (
        READ,
        fields(SeriesDate="", AcquisitionDate="", StudyDate="", ContentDate=""),
        {},
    ),
    "Neither series nor acquisition time": (
        MISSING,
        fields(SeriesTime=None, AcquisitionTime=None),
        {},
    ),
    "A time to the hour only": (MISSING, fields(AcquisitionTime="11"), {}),
    "Decay Factor does not fit the times": (CONTRADICTORY, fields(DecayFactor="1.46"), {}),
    "Decay Correction ADMIN": (READ, fields(DecayCorrection="ADMIN"), {}),
    "Decay Correction NONE": (READ, NOT_CORRECTED, {}),
    "Decay Correction NONE, but Corrected Image has DECY": (
        CONTRADICTORY,
        fields(DecayCorrection="NONE"),
        {},
    ),
    "Decay Correction is missing": (MISSING, fields(DecayCorrection=None), {}),
    "Attenuation or decay is not corrected": (UNITS, fields(CorrectedImage=["DECY"]), {}),
    "Date and time of the injection with an offset from UTC": (
        READ,
        together(injection("20250101090000+0000"), fields(TimezoneOffsetFromUTC="+0100")),
        {},
    ),
    "The same in UTC, and the scanner's offset is not known": (
        MISSING,
        injection("20250101090000+0000"),
        {},
    ),
    "Date and time of the injection is a date only": (READ, injection("20250101", "100000"), {}),
    "Date and time of the injection and its start time differ": (
        CONTRADICTORY,
        injection("20250101093000", "100000"),
        {},
    ),
    "Start time alone": (READ, injection(None, "100000"), {}),
    "Date of the injection is years from the scan's": (READ, injection("19000101100000"), {}),
    "The same, or the start time alone, and a half-life from 11.5 h": (
        MISSING,
        together(
            nuclide("C-168A4"),
            tracer(RadionuclideHalfLife="282276"),
            injection("19000101100000"),
        ),
        {},
    ),
    "Injection after the scan": (IMPLAUSIBLE, injection("20250101110500"), {}),
    "Injection within a dynamic scan, before the frames that are measured": (
        READ,
        together(
            NEXT_BED, FRAME, fields(SeriesType=["DYNAMIC", "IMAGE"]), injection("202501011101")
        ),
        {"beds": 1},
    ),
    "Injection more than four half-lives before": (IMPLAUSIBLE, injection("20250101030000"), {}),
    "No time of the injection": (MISSING, injection(), {}),
    "Half-life is not that of the nuclide": (
        IMPLAUSIBLE,
        tracer(RadionuclideHalfLife="109.77"),
        {},
    ),
    "No nuclide is named": (READ, nuclide(), {}),
    "Dose in MBq, kBq or GBq": (IMPLAUSIBLE, tracer(RadionuclideTotalDose="368.08"), {}),
    "Dose is 0, negative or missing": (MISSING, tracer(RadionuclideTotalDose="-1"), {}),
    "Several radiopharmaceuticals": (MISSING, twice, {}),
    "Weight in grams": (IMPLAUSIBLE, fields(PatientWeight="70000"), {}),
    "Weight in pounds": (READ, fields(PatientWeight="154.3"), {}),
    "Weight in pounds, and size in inches": (
        IMPLAUSIBLE,
        fields(PatientWeight="154.3", PatientSize="69"),
        {},
    ),
    "Weight and size make a body mass index below 5 or above 100": (
        IMPLAUSIBLE,
        fields(PatientSize="0.7"),
        {},
    ),
    "Slices differ in weight, dose, times, units or another field": (
        CONTRADICTORY,
        in_one_slice(fields(PatientWeight="71")),
        {},
    ),
    "Units GML, SUV by lean body mass, ideal weight or surface": (
        READ,
        fields(SUVType="LBMJANMA"),
        {"units": "GML"},
    ),
    "Units GML without SUV Type": (READ, fields(SUVType=None), {"units": "GML"}),
    "Units GML, decay is not corrected": (UNITS, NOT_CORRECTED, {"units": "GML"}),
    "Sex is other, and the SUV needs it": (
        READ,
        fields(SUVType="IBW"),
        {"units": "GML", "sex": "O"},
    ),
    "Size or sex is missing, and the SUV needs it": (
        MISSING,
        fields(SUVType="IBW", PatientSize=None),
        {"units": "GML"},
    ),
    "Size in centimetres, and the SUV needs it": (
        IMPLAUSIBLE,
        fields(SUVType="IBW", PatientSize="175"),
        {"units": "GML"},
    ),
    "Units CNTS, Philips' factor to SUV": (READ, philips(0x00, "0.0005"), PHILIPS),
    "Units CNTS, Philips' factor to activity": (READ, philips(0x09, "2"), PHILIPS),
    "Units CNTS, Philips' two factors differ": (
        CONTRADICTORY,
        together(philips(0x00, "0.0005"), philips(0x09, "7")),
        PHILIPS,
    ),
    "Units CNTS without the factors, or of another maker": (
        UNITS,
        philips(0x00, "0.0005"),
        {"units": "CNTS"},
    ),
    "Counts Source is TRANSMISSION, or Series Type REPROJECTION": (
        UNITS,
        fields(SeriesType=["STATIC", "REPROJECTION"]),
        {},
    ),
    "A field that is one number has several": (MISSING, fields(PatientWeight=["70", "70"]), {}),
    "Units are missing or others": (UNITS, fields(Units="PROPCPS"), {}),
}
"""What is odd about a header: what happens, the change of the header, and the series."""


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_page_says_happens(kind):
    outcome, change, options = KINDS[kind]
    notes = Notes()
    if outcome != READ:
        with pytest.raises(CaseFault) as caught:
            factors(change, **options)
        assert caught.value.reason == outcome
        return
    found = factors(change, notes=notes, **options)
    assert notes.decisions
    usual = not any(word in kind for word in ("Decay Correction", "Weight", "dynamic"))
    if usual and options.get("units", "BQML") == "BQML":
        np.testing.assert_allclose(found, per_bq(), rtol=1e-4)


def rows(section):
    part = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_lists_what_is_tested():
    listed = {
        cells[0]: cells[1].removeprefix("refused: ").strip("`")
        for cells in rows("What happens to which header")
    }
    assert listed == {kind: outcome for kind, (outcome, _, _) in KINDS.items()}


def test_the_page_has_the_half_lives():
    listed = {cells[0]: cells[1] for cells in rows("Half-lives")}
    assert listed == {name: f"{seconds:.6g}" for name, seconds in HALF_LIFE_S.items()}


def test_the_page_names_every_decision():
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOM.glob("*.py"))
    taken = {Decision[name].value for name in re.findall(r"Decision\.([A-Z_]+)", sources)}
    assert len(taken) > 15
    assert taken <= set(re.findall(r"`([a-z_]+)`", PAGE))
