"""The 58 digital reference objects of the IBSI recommendations for SUV, by their description.

Each says in one line what it is (https://github.com/oncoray/suv_computation, docs/DRO_list.csv,
CC BY 4.0); its SUVbw are 0.2, 1 and 4, or it is to be refused. The first release had 17 of them.
The objects here are made by the phantom after these lines. One is refused here that IBSI reads: a
dose in MBq.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest
from pydicom.uid import EnhancedPETImageStorage

from jipflow.images.series import read_series_volume
from jipflow.reasons import CaseFault, Reason
from pet_headers import (
    BED_S,
    DOSE,
    HALF_LIFE,
    START,
    VALUES,
    WEIGHT_G,
    acquired,
    fields,
    nuclide,
    pet,
    private,
    together,
    tracer,
)
from series_factory import enhanced, series_of, write

DECAY = np.log(2) / HALF_LIFE
AVERAGE_S = BED_S / 2 - DECAY * BED_S**2 / 24
"""When a frame of five minutes has its average count rate, to third order."""
LATE = fields(SeriesTime="113000")
GE, SIEMENS, PHILIPS = "GE MEDICAL SYSTEMS", "SIEMENS", "Philips Medical Systems"
FIELD = (0x7053, "Philips PET Private Group")


def scaled(*ratios):
    """Multiply what each slice holds, by one ratio or by each slice's own."""

    def change(datasets):
        for k, dataset in enumerate(datasets):
            slope = float(dataset.RescaleSlope) * ratios[k % len(ratios)]
            dataset.RescaleSlope = f"{slope:.10g}"

    return change


def uneven(datasets):
    """Rescale slopes that differ, and stored values that make up for it."""
    for number, dataset in enumerate(datasets, start=1):
        stored_values = dataset.pixel_array // number
        dataset.PixelData = stored_values.astype(dataset.pixel_array.dtype).tobytes()
        dataset.RescaleSlope = f"{float(dataset.RescaleSlope) * number:.10g}"


def beds(frame_start_s, *, average=AVERAGE_S):
    """Two beds, five and ten minutes after the reference."""

    def change(datasets):
        for dataset, start in zip(datasets, frame_start_s, strict=True):
            dataset.FrameReferenceTime = f"{(start + average) * 1000:.3f}"

    starts = [START + timedelta(seconds=s) for s in frame_start_s]
    return together(acquired(*starts), change)


LATER = (300, 300, 600, 600)


def stored(kind, ratio, **values):
    """SUV of another type, which is SUVbw times a ratio."""
    return together(
        fields(SUVType=kind, Units="CM2ML" if kind == "BSA" else "GML", **values), scaled(ratio)
    )


def mass(kind, sex):
    """Lean body mass or ideal weight of 70 kg and 1.75 m, over the weight."""
    men = {
        "LBMJAMES128": 1.10 * 70 - 128 * 0.16,
        "LBMJANMA": 9270 * 70 / (6680 + 216 * 70 / 1.75**2),
        "IBW": 48.0 + 1.06 * 23,
    }
    women = {
        "LBMJAMES128": 1.07 * 70 - 148 * 0.16,
        "LBMJANMA": 9270 * 70 / (8780 + 244 * 70 / 1.75**2),
        "IBW": 45.5 + 0.91 * 23,
    }
    both = {"M": men[kind], "F": women[kind], "O": (men[kind] + women[kind]) / 2}
    return both[sex] / 70


def not_corrected():
    """Decay that was not corrected: each slice is as it was at its average count rate."""
    decayed = [2 ** (-(start + AVERAGE_S) / HALF_LIFE) for start in LATER]
    return together(
        fields(DecayCorrection="NONE", CorrectedImage=["ATTN", "SCAT"]),
        beds(LATER),
        scaled(*decayed),
    )


def to_admin():
    return together(fields(DecayCorrection="ADMIN"), scaled(2 ** (3600 / HALF_LIFE)))


def injection(stamp=None, clock=None):
    return tracer(RadiopharmaceuticalStartDateTime=stamp, RadiopharmaceuticalStartTime=clock)


def at(moment, injected=None, clock=None):
    """A scan at another time."""
    return together(
        acquired(*[moment] * 4),
        fields(SeriesDate=moment.strftime("%Y%m%d"), SeriesTime=moment.strftime("%H%M%S")),
        injection(injected, clock),
    )


MIDNIGHT = datetime(2025, 1, 2, 0, 30)
ZIRCONIUM = together(
    nuclide("C-168A4", "^89^Zirconium"),
    tracer(RadionuclideHalfLife="282276"),
    scaled(2 ** (3600 / HALF_LIFE) * 2 ** (-3 * 86400 / 282276)),
)
THREE_DAYS = datetime(2025, 1, 4, 10, 0)
ONE_BED = {"beds": 1}

VALID = {
    "DRO_0_0": (fields(), ONE_BED),
    "DRO_1_0": (uneven, {}),
    "DRO_2_0": (stored("BW", 1.0), {"units": "GML"}),
    **{
        f"DRO_2_{group}_{number}": (stored(kind, mass(kind, sex)), {"units": "GML", "sex": sex})
        for group, kind in ((1, "LBMJAMES128"), (2, "IBW"), (6, "LBMJANMA"))
        for number, sex in enumerate("MFO")
    },
    "DRO_2_3": (stored("BSA", 0.007184 * 70**0.425 * 175**0.725 * 1e4 / 70e3), {"units": "GML"}),
    "DRO_2_4": (
        together(
            fields(Units="CNTS"),
            scaled(1 / 4e-4 * WEIGHT_G / (DOSE * 2 ** (-3600 / HALF_LIFE))),
            private(*FIELD, 0x00, "DS", "0.0004"),
        ),
        {"manufacturer": PHILIPS},
    ),
    "DRO_2_5": (
        together(fields(Units="CNTS"), scaled(1 / 3.5), private(*FIELD, 0x09, "DS", "3.5")),
        {"manufacturer": PHILIPS},
    ),
    "DRO_3_1": (to_admin(), {}),
    "DRO_3_2_0": (together(LATE, beds(LATER)), {"manufacturer": SIEMENS}),
    "DRO_3_2_1": (together(LATE, beds(LATER, average=0)), {"manufacturer": GE}),
    "DRO_3_2_2": (together(LATE, beds(LATER)), {"manufacturer": PHILIPS}),
    "DRO_3_2_3": (together(LATE, beds(LATER)), {"manufacturer": "SYNTHETIC"}),
    "DRO_3_3_0": (
        together(
            LATE, beds(LATER), private(0x0071, "SIEMENS MED PT", 0x22, "DT", "20250101110000")
        ),
        {"manufacturer": SIEMENS},
    ),
    "DRO_3_3_1": (
        together(LATE, beds(LATER), private(0x0009, "GEMS_PETD_01", 0x0D, "DT", "20250101110000")),
        {"manufacturer": GE},
    ),
    "DRO_3_4_0": (not_corrected(), {"manufacturer": SIEMENS}),
    "DRO_3_4_1": (not_corrected(), {"manufacturer": GE}),
    "DRO_3_4_2": (
        together(
            not_corrected(),
            fields(Units="CNTS"),
            scaled(1 / 3.5),
            private(*FIELD, 0x09, "DS", "3.5"),
        ),
        {"manufacturer": PHILIPS},
    ),
    "DRO_3_4_3": (not_corrected(), {"manufacturer": "SYNTHETIC"}),
    **{
        f"DRO_3_5_{number}": (fields(), {"manufacturer": maker, "beds": 1})
        for number, maker in enumerate((SIEMENS, GE, PHILIPS, "SYNTHETIC"))
    },
    "DRO_4_0": (injection("20250101100000"), {}),
    "DRO_4_1": (injection(None, "100000"), {}),
    "DRO_4_2": (at(MIDNIGHT, None, "233000"), ONE_BED),
    "DRO_4_3": (at(MIDNIGHT, "20250101233000", "233000"), ONE_BED),
    "DRO_4_4": (at(datetime(1960, 1, 1, 0, 30), "20250101233000", "233000"), ONE_BED),
    "DRO_4_5": (together(ZIRCONIUM, at(THREE_DAYS, "20250101100000")), ONE_BED),
    "DRO_5_0": (
        together(
            nuclide("C-131A3", "^68^Gallium"),
            tracer(RadionuclideHalfLife="4062.6"),
            scaled(2 ** (3600 / HALF_LIFE) * 2 ** (-3600 / 4062.6)),
        ),
        ONE_BED,
    ),
}

NO_SIZE = stored("IBW", 1.0, PatientSize=None)
ERRORS = {
    "DRO_3_0": (tracer(RadionuclideTotalDose="368.08"), {}, Reason.IMPLAUSIBLE_SUV_FIELD),
    "DRO_error_2_0": (fields(PatientWeight=None), {}, Reason.MISSING_SUV_FIELD),
    "DRO_error_2_1": (fields(PatientWeight="0"), {}, Reason.MISSING_SUV_FIELD),
    "DRO_error_2_2": (stored("IBW", 1.0, PatientSex=None), {}, Reason.MISSING_SUV_FIELD),
    "DRO_error_2_3": (stored("IBW", 1.0, PatientSex="X"), {}, Reason.MISSING_SUV_FIELD),
    "DRO_error_2_4": (NO_SIZE, {}, Reason.MISSING_SUV_FIELD),
    "DRO_error_2_5": (stored("IBW", 1.0, PatientSize="0"), {}, Reason.MISSING_SUV_FIELD),
    "DRO_error_2_6": (fields(Units="CNTS"), {"manufacturer": PHILIPS}, Reason.UNSUPPORTED_UNITS),
    "DRO_error_2_7": (fields(Units="PROPCNTS"), {}, Reason.UNSUPPORTED_UNITS),
    "DRO_error_3_0": (tracer(RadionuclideTotalDose=None), {}, Reason.MISSING_SUV_FIELD),
    "DRO_error_3_1": (tracer(RadionuclideTotalDose="-368080000"), {}, Reason.MISSING_SUV_FIELD),
    "DRO_error_3_2": (
        together(LATE, beds(LATER), fields(ActualFrameDuration=None)),
        {},
        Reason.CONTRADICTORY_SUV_FIELDS,
    ),
    "DRO_error_4_0": (injection(), {}, Reason.MISSING_SUV_FIELD),
    "DRO_error_4_1": (
        together(ZIRCONIUM, at(THREE_DAYS, None, "100000")),
        ONE_BED,
        Reason.MISSING_SUV_FIELD,
    ),
    "DRO_error_4_2": (
        together(ZIRCONIUM, at(THREE_DAYS, "19600101100000", "100000")),
        ONE_BED,
        Reason.MISSING_SUV_FIELD,
    ),
    "DRO_error_5_0": (tracer(RadionuclideHalfLife=None), {}, Reason.MISSING_SUV_FIELD),
}


def frames(datasets, change=None, units="Bq/ml"):
    """One enhanced PET image of the series."""
    image = enhanced(datasets, EnhancedPETImageStorage)
    for group in image.PerFrameFunctionalGroupsSequence:
        code = group.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0]
        code.CodeValue = units
    if change:
        change(image)
    return [image]


def reference_later(image):
    image.SeriesTime = "113000"


def reference_of_each_frame(image):
    """Decay that was not corrected, with the time of each frame's average count rate."""
    image.DecayCorrected = "NO"
    del image.DecayCorrectionDateTime
    for group, start in zip(image.PerFrameFunctionalGroupsSequence, LATER, strict=True):
        moment = START + timedelta(seconds=start + AVERAGE_S)
        group.FrameContentSequence[0].FrameReferenceDateTime = moment.strftime("%Y%m%d%H%M%S.%f")
        mapping = group.RealWorldValueMappingSequence[0]
        mapping.RealWorldValueSlope *= 2 ** (-(start + AVERAGE_S) / HALF_LIFE)


ENHANCED = {
    "DRO_7_0_0": lambda: frames(pet()),
    "DRO_7_1_0": lambda: frames(_changed(pet(), uneven)),
    "DRO_7_2_0": lambda: frames(pet("GML"), units="g/ml{SUVbw}"),
    "DRO_7_3_0": lambda: frames(pet(), reference_later),
    "DRO_7_3_1": lambda: frames(pet(), reference_of_each_frame),
}


def _changed(datasets, change):
    change(datasets)
    return datasets


def values(datasets, folder):
    array = read_series_volume(series_of(write(datasets, folder))).array
    return array.min(), np.median(array), array.max()


@pytest.mark.parametrize("name", sorted(VALID))
def test_reference_object(tmp_path, name):
    change, options = VALID[name]
    datasets = pet(**options)
    change(datasets)
    assert values(datasets, tmp_path) == pytest.approx(VALUES, abs=1e-3)


@pytest.mark.parametrize("name", sorted(ENHANCED))
def test_enhanced_reference_object(tmp_path, name):
    assert values(ENHANCED[name](), tmp_path) == pytest.approx(VALUES, abs=1e-3)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_reference_object_that_is_refused(tmp_path, name):
    change, options, reason = ERRORS[name]
    datasets = pet(**options)
    change(datasets)
    with pytest.raises(CaseFault) as caught:
        values(datasets, tmp_path)
    assert caught.value.reason is reason


def test_all_reference_objects_are_here():
    assert len(VALID) + len(ENHANCED) + len(ERRORS) == 58
