"""Which time decay is corrected to, and when was injected: each order, each boundary."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest

from jipflow.images.suv.clock import offset_of, stamp_of, time_of
from jipflow.images.suv.fields import Fields
from jipflow.images.suv.frames import average_count_s, tolerance
from jipflow.images.suv.injection import uptake_s
from jipflow.notes import Notes
from jipflow.phantom import dicom
from jipflow.reasons import CaseFault, Decision, Reason
from pet_headers import (
    BED_S,
    HALF_LIFE,
    INJECTED,
    START,
    acquired,
    factors,
    fields,
    in_one_slice,
    nuclide,
    per_bq,
    pet,
    private,
    refused,
    suv,
    together,
    tracer,
)

GE = {"manufacturer": "GE MEDICAL SYSTEMS"}
SIEMENS = {"manufacturer": "SIEMENS"}
LATE_SERIES = fields(SeriesTime="113000")
GE_TIME = (0x0009, "GEMS_PETD_01", 0x0D, "DT")
SIEMENS_TIME = (0x0071, "SIEMENS MED PT", 0x22, "DT")
SECOND = timedelta(seconds=1)


def minutes(count):
    return timedelta(minutes=count)


def test_the_series_time_is_the_first_acquisition():
    assert suv() == ["decay_to_series_time"]


def test_it_is_the_first_of_several_beds_in_whatever_order():
    last_first = acquired(*[START + minutes(m) for m in (5, 5, 0, 0)])
    swapped = [fields(FrameReferenceTime=ms) for ms in ("450000", "150000")]

    def frames(datasets):
        swapped[0](datasets[:2])
        swapped[1](datasets[2:])

    assert suv(last_first, frames) == ["decay_to_series_time"]


def test_of_the_last_bed_alone_the_frame_times_tell_the_start():
    frame = f"{(300 + average_count_s(BED_S, HALF_LIFE)) * 1000:.3f}"
    last = together(acquired(*[START + minutes(5)] * 4), fields(FrameReferenceTime=frame))
    assert suv(last, LATE_SERIES) == ["decay_to_frame_times"]


def test_a_series_before_the_acquisition_is_the_reference():
    # Both beds are five minutes later, and their frame times count from the series' time.
    later = acquired(*[START + minutes(m) for m in (5, 5, 10, 10)])

    def frames(datasets):
        for dataset, ms in zip(datasets, (450e3, 450e3, 750e3, 750e3), strict=True):
            dataset.FrameReferenceTime = str(ms)

    assert suv(later, frames) == ["decay_to_series_time"]
    assert suv(later, fields(FrameReferenceTime=None)) == ["decay_to_series_time"]


@pytest.mark.parametrize(("seconds", "good"), [(94.0, True), (95.5, False)])
def test_series_and_frame_times_agree_within_one_percent_of_decay(seconds, good):
    # ln(1.01) of a half-life over ln(2) is 94.55 s for F-18.
    acquisition = acquired(*[START + minutes(5)] * 4)
    average = average_count_s(BED_S, HALF_LIFE)
    frame = fields(FrameReferenceTime=f"{(300 + average - seconds) * 1000:.3f}")
    if good:
        suv(acquisition, frame)
    else:
        fault = refused(acquisition, frame)
        assert fault.reason is Reason.CONTRADICTORY_SUV_FIELDS
        assert "SeriesTime is 2025-01-01 11:00:00" in fault.message


def test_the_tolerance_is_two_seconds_where_half_lives_are_short():
    assert tolerance(76.0) == timedelta(seconds=2)
    assert tolerance(HALF_LIFE).total_seconds() == pytest.approx(94.547, abs=0.001)


def test_a_series_within_a_second_of_the_acquisition_is_at_it():
    odd = fields(FrameReferenceTime="0", SeriesTime="110000.9")
    found = factors(odd)
    np.testing.assert_allclose(found, per_bq(3600.9), rtol=1e-9)
    # A second later the series is after the acquisition, and the frame times are no help.
    assert refused(fields(FrameReferenceTime="0", SeriesTime="110001.1")).reason is (
        Reason.CONTRADICTORY_SUV_FIELDS
    )


@pytest.mark.parametrize("maker", ["SIEMENS", "Philips Medical Systems", "Synthetic", "CPS"])
def test_a_series_made_after_the_scan_goes_by_the_frame_times(maker):
    acquisition = acquired(*[START + minutes(m) for m in (5, 5, 10, 10)])
    average = average_count_s(BED_S, HALF_LIFE)

    def frames(datasets):
        for dataset, start in zip(datasets, (300, 300, 600, 600), strict=True):
            dataset.FrameReferenceTime = f"{(start + average) * 1000:.3f}"

    assert suv(acquisition, frames, LATE_SERIES, manufacturer=maker) == ["decay_to_frame_times"]


@pytest.mark.parametrize("maker", ["GE MEDICAL SYSTEMS", "GE HEALTHCARE", "GEMS"])
def test_frame_times_of_ge_count_to_the_frames_start(maker):
    acquisition = acquired(*[START + minutes(m) for m in (5, 5, 10, 10)])

    def frames(datasets):
        for dataset, start in zip(datasets, (300, 300, 600, 600), strict=True):
            dataset.FrameReferenceTime = str(start * 1000)

    decided = suv(
        acquisition, frames, LATE_SERIES, fields(ActualFrameDuration=None), manufacturer=maker
    )
    assert decided == ["decay_to_frame_times"]


def test_the_average_count_rate_is_a_little_before_the_middle_of_the_frame():
    # ln(x / (1 - e^-x)) / λ is T/2 − λT²/24 to third order.
    decay = np.log(2) / HALF_LIFE
    assert average_count_s(60.0, HALF_LIFE) == pytest.approx(30 - decay * 3600 / 24, abs=1e-6)
    assert average_count_s(6000.0, HALF_LIFE) == pytest.approx(2842.658, abs=0.001)


@pytest.mark.parametrize(
    "change",
    [
        fields(ActualFrameDuration=None),
        fields(ActualFrameDuration="0"),
        in_one_slice(fields(FrameReferenceTime=None)),
        # Of two beds, the frames of one begin at another time than those of the other.
        fields(FrameReferenceTime="150000"),
    ],
    ids=["no duration", "no length", "one slice", "beds differ"],
)
def test_frame_times_that_give_no_start_are_refused(change):
    assert refused(LATE_SERIES, change).reason is Reason.CONTRADICTORY_SUV_FIELDS


@pytest.mark.parametrize(("seconds", "good"), [(94.0, True), (95.5, False)])
def test_beds_agree_on_the_start_within_the_tolerance(seconds, good):
    average = average_count_s(BED_S, HALF_LIFE)

    def frames(datasets):
        for dataset, start in zip(datasets, (0, 0, 300 + seconds, 300), strict=True):
            dataset.FrameReferenceTime = f"{(start + average) * 1000:.3f}"

    if good:
        suv(LATE_SERIES, frames)
    else:
        refused(LATE_SERIES, frames)


@pytest.mark.parametrize(("seconds", "good"), [(94.0, True), (95.5, False)])
def test_frame_times_give_no_start_after_the_acquisition(seconds, good):
    frame = fields(FrameReferenceTime=f"{(average_count_s(BED_S, HALF_LIFE) - seconds) * 1000:.3f}")
    if good:
        np.testing.assert_allclose(factors(frame, LATE_SERIES, beds=1), per_bq(3600 + seconds))
    else:
        refused(frame, LATE_SERIES, beds=1)


def test_without_frame_times_the_first_acquisition_is_taken_and_noted():
    notes = Notes()
    found = factors(LATE_SERIES, fields(FrameReferenceTime=None), notes=notes)
    np.testing.assert_allclose(found, per_bq())
    assert notes.decisions == [Decision.DECAY_TO_FIRST_ACQUISITION]
    assert "11:00:00, by the first acquisition, as SeriesTime is after" in notes.sentences[0]


def test_the_first_acquisition_need_not_be_that_of_the_first_slice():
    last_first = acquired(*[START + minutes(m) for m in (5, 5, 0, 0)])
    decided = suv(last_first, LATE_SERIES, fields(FrameReferenceTime=None))
    assert decided == ["decay_to_first_acquisition"]


@pytest.mark.parametrize(("seconds", "standard"), [(1.9, True), (2.1, False)])
def test_frame_times_of_ge_that_lead_to_the_first_acquisition_are_the_standards(seconds, standard):
    # Both beds count to when the average count rate was reached, nearly.
    average = average_count_s(BED_S, HALF_LIFE)

    def frames(datasets):
        for dataset, start in zip(datasets, (0, 0, 300, 300), strict=True):
            dataset.FrameReferenceTime = f"{(start + average + seconds) * 1000:.3f}"

    found = factors(LATE_SERIES, frames, **GE)
    before = seconds if standard else average + seconds
    np.testing.assert_allclose(found, per_bq(3600 - before), rtol=1e-8)


@pytest.mark.parametrize(
    "stated",
    [
        fields(FrameReferenceDateTime="20250101110230+0100"),
        fields(AcquisitionDateTime="20250101110000+0100"),
        fields(DecayCorrectionDateTime="20250101110000+0100"),
    ],
    ids=["frame", "acquisition", "decay"],
)
def test_a_date_and_time_of_the_scan_has_the_scanners_zone(stated):
    decided = suv(stated, given("20250101090000+0000"))
    assert "injection_zone_assumed" not in decided


def test_without_an_acquisition_time_the_series_time_is_taken_and_noted():
    notes = Notes()
    found = factors(fields(AcquisitionTime=None), notes=notes)
    np.testing.assert_allclose(found, per_bq())
    assert "no acquisition time" in notes.sentences[0]
    none = refused(fields(AcquisitionTime=None, SeriesTime=None))
    assert none.reason is Reason.MISSING_SUV_FIELD


def test_an_acquisition_time_in_some_slices_only_is_refused():
    fault = refused(in_one_slice(fields(AcquisitionTime=None)))
    assert fault.reason is Reason.CONTRADICTORY_SUV_FIELDS


@pytest.mark.parametrize(
    ("element", "maker"), [(GE_TIME, GE), (SIEMENS_TIME, SIEMENS)], ids=["GE", "Siemens"]
)
def test_the_makers_private_time_is_the_reference(element, maker):
    late = together(acquired(*[START + minutes(5)] * 4), LATE_SERIES)
    decided = suv(late, private(*element, "20250101110000.00"), **maker)
    assert decided == ["decay_to_private_time"]


def test_a_private_time_of_another_maker_is_none():
    late = together(acquired(*[START + minutes(5)] * 4), LATE_SERIES)
    frame = fields(FrameReferenceTime=f"{(300 + average_count_s(BED_S, HALF_LIFE)) * 1000:.3f}")
    decided = suv(late, frame, private(*GE_TIME, "20250101103000"), **SIEMENS)
    assert decided == ["decay_to_frame_times"]


@pytest.mark.parametrize("element", [GE_TIME, SIEMENS_TIME])
def test_a_private_block_tells_the_maker_whose_name_was_taken_out(element):
    late = together(acquired(*[START + minutes(5)] * 4), LATE_SERIES)
    decided = suv(late, private(*element, "20250101110000.00"), manufacturer="")
    assert decided == ["decay_to_private_time"]


def test_frame_times_of_ge_whose_name_was_taken_out_run_to_the_frames_start():
    late = together(acquired(*[START + minutes(5)] * 4), LATE_SERIES)
    other = private(0x0009, "GEMS_PETD_01", 0x01, "LO", "x")
    decided = suv(late, other, fields(FrameReferenceTime="300000"), manufacturer="")
    assert decided == ["decay_to_frame_times"]


def test_a_private_block_is_found_by_its_creator():
    late = together(acquired(*[START + minutes(5)] * 4), LATE_SERIES)
    other = private(0x0009, "SOMETHING ELSE", 0x0D, "DT", "20250101090000")
    suv(late, other, private(*GE_TIME, "20250101110000"), **GE)


def test_a_private_time_that_was_left_as_bytes_is_read():
    late = together(acquired(*[START + minutes(5)] * 4), LATE_SERIES)
    suv(late, private(*GE_TIME[:3], "UN", b"20250101110000\0"), **GE)


def test_a_private_time_that_no_anonymisation_has_moved_keeps_its_clock():
    late = together(acquired(*[START + minutes(5)] * 4), LATE_SERIES)
    assert suv(late, private(*GE_TIME, "20190715110000"), **GE) == [
        "scan_date_replaced",
        "decay_to_private_time",
    ]


def test_a_private_time_with_another_date_crosses_midnight():
    night = datetime(2025, 1, 2, 0, 2)
    change = together(
        acquired(*[night] * 4),
        fields(SeriesDate="20250102", SeriesTime="003000"),
        tracer(RadiopharmaceuticalStartTime="225500", RadiopharmaceuticalStartDateTime=None),
        private(*GE_TIME, "20190715235500"),
    )
    suv(change, **GE)


@pytest.mark.parametrize(("seconds", "good"), [(94, True), (96, False)])
def test_a_private_time_is_not_after_the_first_acquisition(seconds, good):
    moved = private(*SIEMENS_TIME, (START + seconds * SECOND).strftime("%Y%m%d%H%M%S"))
    if good:
        np.testing.assert_allclose(factors(moved, **SIEMENS), per_bq(3600 + seconds))
    else:
        assert refused(moved, **SIEMENS).reason is Reason.CONTRADICTORY_SUV_FIELDS


@pytest.mark.parametrize(("seconds", "good"), [(-94, True), (-96, False)])
def test_a_private_time_agrees_with_the_public_ones(seconds, good):
    moved = private(*SIEMENS_TIME, (START + seconds * SECOND).strftime("%Y%m%d%H%M%S"))
    if good:
        np.testing.assert_allclose(factors(moved, **SIEMENS), per_bq(3600 + seconds))
    else:
        fault = refused(moved, **SIEMENS)
        assert fault.reason is Reason.CONTRADICTORY_SUV_FIELDS
        assert "SeriesTime 2025-01-01 11:00:00" in fault.message


@pytest.mark.parametrize("average", [0.0, average_count_s(BED_S, HALF_LIFE)])
def test_of_a_later_frame_the_frame_times_are_on_the_side_of_the_private_time(average):
    # The series is one frame of several, and its time is that of the frame.
    later = acquired(*[START + minutes(20)] * 4)
    frame = fields(FrameReferenceTime=f"{(1200 + average) * 1000:.3f}", SeriesTime="112000")
    element = private(*GE_TIME, "20250101110000")
    assert suv(later, frame, element, **GE) == ["decay_to_private_time"]
    element = private(*SIEMENS_TIME, "20250101110000")
    if average:
        assert suv(later, frame, element, **SIEMENS) == ["decay_to_private_time"]
    else:
        assert refused(later, frame, element, **SIEMENS)


@pytest.mark.parametrize("maker", ["IMAGE SYSTEMS", "Acme CTIO", "Georgia Scanners"])
def test_a_makers_name_is_a_word(maker):
    late = together(acquired(*[START + minutes(5)] * 4), LATE_SERIES)
    frame = fields(FrameReferenceTime=f"{(300 + average_count_s(BED_S, HALF_LIFE)) * 1000:.3f}")
    elements = private(*GE_TIME, "20250101103000"), private(*SIEMENS_TIME, "20250101103000")
    assert suv(late, frame, *elements, manufacturer=maker) == ["decay_to_frame_times"]


@pytest.mark.parametrize("maker", ["CPS", "CTI PET Systems", "Siemens Healthineers"])
def test_siemens_has_many_names(maker):
    late = together(acquired(*[START + minutes(5)] * 4), LATE_SERIES)
    element = private(*SIEMENS_TIME, "20250101110000")
    assert suv(late, element, manufacturer=maker) == ["decay_to_private_time"]


@pytest.mark.parametrize(("seconds", "good"), [(94, True), (96, False)])
def test_a_series_made_later_leaves_the_private_time_no_later_than_the_acquisition(seconds, good):
    element = private(*SIEMENS_TIME, (START + seconds * SECOND).strftime("%Y%m%d%H%M%S"))
    if good:
        np.testing.assert_allclose(factors(element, LATE_SERIES, **SIEMENS), per_bq(3600 + seconds))
    else:
        fault = refused(element, LATE_SERIES, **SIEMENS)
        assert "after the first acquisition" in fault.message


def test_private_times_that_differ_between_slices_are_refused():
    change = together(
        private(*SIEMENS_TIME, "20250101110000"),
        in_one_slice(private(*SIEMENS_TIME, "20250101110500")),
    )
    assert refused(change, **SIEMENS).reason is Reason.CONTRADICTORY_SUV_FIELDS


@pytest.mark.parametrize(("hours", "used"), [(11.9, True), (12.1, False)])
def test_a_series_time_of_another_half_day_is_not_used(hours, used):
    moment = START - timedelta(hours=hours)
    change = fields(
        SeriesDate=moment.strftime("%Y%m%d"),
        SeriesTime=moment.strftime("%H%M%S"),
        FrameReferenceTime=None,
    )
    if used:
        assert refused(change).reason is Reason.IMPLAUSIBLE_SUV_FIELD
    else:
        assert suv(change) == ["scan_date_replaced", "decay_to_first_acquisition"]


def test_the_series_date_may_be_anonymised_apart():
    assert suv(fields(SeriesDate="19000101")) == ["scan_date_replaced", "decay_to_frame_times"]


def test_without_any_date_of_the_scan_clocks_are_enough():
    gone = fields(
        SeriesDate=None,
        AcquisitionDate=None,
        StudyDate=None,
        ContentDate=None,
        AcquisitionDateTime="",
    )
    decided = suv(gone)
    assert "scan_date_replaced" in decided
    assert "injection_date_from_scan" in decided


def test_a_missing_acquisition_date_is_that_of_the_series():
    assert suv(fields(AcquisitionDate="")) == ["scan_date_replaced", "decay_to_series_time"]


def test_an_acquisition_date_and_time_in_one_is_read():
    change = fields(
        AcquisitionTime=None, AcquisitionDate=None, AcquisitionDateTime="20250101110000"
    )
    assert suv(change) == ["decay_to_series_time"]


def test_times_may_be_in_the_old_form():
    suv(fields(SeriesTime="11:00:00", AcquisitionTime="11:00"))


@pytest.mark.parametrize("keyword", ["SeriesTime", "AcquisitionTime"])
def test_a_time_to_the_hour_is_refused(keyword):
    fault = refused(fields(**{keyword: "11"}))
    assert fault.reason is Reason.MISSING_SUV_FIELD
    assert "to the hour only" in fault.message


def test_a_time_to_the_minute_is_enough():
    suv(fields(SeriesTime="1100", AcquisitionTime="1100"))


@pytest.mark.parametrize("value", ["2561", "noon", "11000"])
def test_a_time_that_cannot_be_read_is_refused(value):
    assert refused(fields(SeriesTime=value)).reason is Reason.MISSING_SUV_FIELD


def test_series_times_that_differ_between_slices_are_refused():
    fault = refused(in_one_slice(fields(SeriesTime="110100")))
    assert fault.reason is Reason.CONTRADICTORY_SUV_FIELDS
    assert "SeriesTime (110000, 110100)" in fault.message


def test_to_the_injection_there_is_no_decay():
    notes = Notes()
    found = factors(fields(DecayCorrection="ADMIN", SeriesTime="235900"), notes=notes)
    np.testing.assert_allclose(found, per_bq(0.0))
    assert notes.decisions == [Decision.DECAY_TO_ADMINISTRATION]


@pytest.mark.parametrize(("factor", "good"), [("1.47", True), ("1", True), ("1.02", False)])
def test_to_the_injection_the_decay_factor_counts_the_uptake(factor, good):
    # An hour and half a frame make 1.484, or 1.461 without what is within the frame.
    change = fields(DecayCorrection="ADMIN", DecayFactor=factor)
    if good:
        np.testing.assert_allclose(factors(change, beds=1), per_bq(0.0))
    else:
        assert refused(change, beds=1).reason is Reason.CONTRADICTORY_SUV_FIELDS


@pytest.mark.parametrize(
    "change",
    [
        fields(AcquisitionTime=None),
        tracer(RadionuclideHalfLife=None),
        tracer(RadiopharmaceuticalStartTime=None, RadiopharmaceuticalStartDateTime=None),
    ],
    ids=["acquisition", "half-life", "injection"],
)
def test_to_the_injection_the_decay_factor_is_not_held_against_nothing(change):
    factors(change, fields(DecayCorrection="ADMIN", DecayFactor="1.02"), beds=1)


def test_to_the_injection_the_half_life_is_not_needed():
    change = tracer(RadionuclideHalfLife=None, RadiopharmaceuticalStartDateTime=None)
    np.testing.assert_allclose(factors(change, fields(DecayCorrection="ADMIN")), per_bq(0.0))


def test_without_correction_each_slice_has_its_own_decay():
    change = fields(DecayCorrection="NONE", CorrectedImage=["ATTN"])
    found = factors(change)
    average = average_count_s(BED_S, HALF_LIFE)
    # Slices are from the bottom up: those of the second bed were acquired five minutes later.
    expected = [per_bq(3600 + start + average) for start in (0, 0, 300, 300)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert expected[3] / expected[0] == pytest.approx(1.032, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (fields(DecayCorrection="NONE"), Reason.CONTRADICTORY_SUV_FIELDS),
        (fields(CorrectedImage=["ATTN"]), Reason.UNSUPPORTED_UNITS),
        (
            fields(DecayCorrection="ADMIN", CorrectedImage=["ATTN"]),
            Reason.CONTRADICTORY_SUV_FIELDS,
        ),
        (fields(DecayCorrection=None), Reason.MISSING_SUV_FIELD),
        (fields(DecayCorrection="SCAN"), Reason.MISSING_SUV_FIELD),
        (
            fields(DecayCorrection="ADMIN", DecayCorrectionDateTime="20250101110000"),
            Reason.CONTRADICTORY_SUV_FIELDS,
        ),
        (
            fields(
                DecayCorrection="NONE",
                CorrectedImage=["ATTN"],
                DecayCorrectionDateTime="20250101110000",
            ),
            Reason.CONTRADICTORY_SUV_FIELDS,
        ),
        (
            fields(DecayCorrection="NONE", CorrectedImage=["ATTN"], ActualFrameDuration=None),
            Reason.MISSING_SUV_FIELD,
        ),
        (
            fields(DecayCorrection="NONE", CorrectedImage=["ATTN"], AcquisitionTime=None),
            Reason.MISSING_SUV_FIELD,
        ),
        (fields(DecayCorrectionDateTime="20250101"), Reason.MISSING_SUV_FIELD),
    ],
)
def test_corrections_that_do_not_go_together_are_refused(change, reason):
    assert refused(change).reason is reason


@pytest.mark.parametrize(
    ("factor", "good"), [(1.04, True), (0.96, True), (1.06, False), (0.94, False)]
)
def test_where_decay_is_not_corrected_its_factor_is_one(factor, good):
    change = fields(DecayCorrection="NONE", CorrectedImage=["ATTN"], DecayFactor=str(factor))
    if good:
        factors(change)
    else:
        assert refused(change).reason is Reason.CONTRADICTORY_SUV_FIELDS


@pytest.mark.parametrize(
    ("factor", "good"),
    [(1.0, True), (0.951, True), (0.949, False), (1.066, True), (1.068, False), (1.46, False)],
)
def test_the_scanners_decay_factor_is_that_of_the_times(factor, good):
    # One bed: the decay within its frame makes 1.0158 of it, or 1 where that is left out.
    change = fields(DecayFactor=str(factor))
    if good:
        suv(change, beds=1)
    else:
        fault = refused(change, beds=1)
        assert fault.reason is Reason.CONTRADICTORY_SUV_FIELDS
        assert f"DecayFactor is {factor:g}" in fault.message


def test_the_decay_factor_of_a_later_bed_counts_the_wait():
    def write(datasets):
        for dataset, start in zip(datasets, (0, 0, 3600, 3600), strict=True):
            dataset.DecayFactor = f"{2 ** ((start + BED_S / 2) / HALF_LIFE):.6f}"

    hours = acquired(*[START + timedelta(hours=h) for h in (0, 0, 1, 1)])
    suv(hours, write)
    # One stands for none that was written.
    suv(hours, fields(DecayFactor="1"))
    assert refused(hours, write, in_one_slice(fields(DecayFactor="1.02"))).reason is (
        Reason.CONTRADICTORY_SUV_FIELDS
    )


def test_a_table_that_moves_on_and_on_has_one_acquisition_time():
    def move(datasets):
        for dataset, wait in zip(datasets, (150, 450, 750, 1050), strict=True):
            dataset.FrameReferenceTime = str(wait * 1000)
            dataset.DecayFactor = f"{2 ** (wait / HALF_LIFE):.6f}"

    assert suv(acquired(*[START] * 4), move) == ["decay_to_series_time"]
    refused(acquired(*[START] * 4), move, fields(FrameReferenceTime="150000"))


def test_a_stated_time_comes_before_all_others():
    change = fields(DecayCorrectionDateTime="20250101110000", SeriesTime="105000")
    assert suv(change) == ["decay_to_stated_time"]


def given(stamp=None, clock=None):
    return tracer(RadiopharmaceuticalStartDateTime=stamp, RadiopharmaceuticalStartTime=clock)


@pytest.mark.parametrize(
    ("stamp", "clock", "zone", "decisions"),
    [
        ("20250101100000", None, None, []),
        ("20250101100000", "100000", None, []),
        ("20250101100000", "1000", "+0100", []),
        (None, "100000", None, ["injection_date_from_scan"]),
        ("20250101", "100000", None, ["injection_clock_from_start_time"]),
        ("2025010110", "100000", None, ["injection_clock_from_start_time"]),
        ("202501", "100000", None, ["injection_date_from_scan"]),
        ("20250101000000", "100000", None, ["injection_clock_from_start_time"]),
        # Nine o'clock in Greenwich is ten at a scanner an hour ahead.
        ("20250101090000+0000", "100000", "+0100", []),
        ("20250101090000+0000", None, "+0100", []),
        ("20250101150000+0000", None, "-0500", []),
        ("20250101090000+0000", "100000", None, ["injection_clock_from_start_time"]),
        ("20250101153000+0530", "100000", None, ["injection_clock_from_start_time"]),
        ("20250101100000+0100", None, None, ["injection_zone_assumed"]),
        ("20250101100000+0100", "100000", None, []),
        # Dates that anonymisation has moved.
        ("19000101100000", None, None, ["injection_date_from_scan"]),
        ("20600101100000", "100000", None, ["injection_date_from_scan"]),
    ],
)
def test_the_injection_is_at_ten(stamp, clock, zone, decisions):
    change = together(given(stamp, clock), fields(TimezoneOffsetFromUTC=zone))
    assert suv(change)[1:] == decisions


@pytest.mark.parametrize(
    ("stamp", "clock", "zone", "reason"),
    [
        (None, None, None, Reason.MISSING_SUV_FIELD),
        ("20250101", None, None, Reason.MISSING_SUV_FIELD),
        ("2025010110", None, None, Reason.MISSING_SUV_FIELD),
        ("2025010109", "100000", None, Reason.CONTRADICTORY_SUV_FIELDS),
        ("20250101093000", "100000", None, Reason.CONTRADICTORY_SUV_FIELDS),
        ("20250101100000+0000", "100000", "+0100", Reason.CONTRADICTORY_SUV_FIELDS),
        ("20250101090700+0000", "100000", None, Reason.CONTRADICTORY_SUV_FIELDS),
        ("20250101100000+0000", None, None, Reason.MISSING_SUV_FIELD),
        (None, "10", None, Reason.MISSING_SUV_FIELD),
        ("soon", "100000", None, Reason.MISSING_SUV_FIELD),
        ("20250101100000", None, "an hour", Reason.MISSING_SUV_FIELD),
        # Clocks that drift: the injection five minutes after the scan, or a day before.
        (None, "110500", None, Reason.IMPLAUSIBLE_SUV_FIELD),
        ("20250101110500", "110500", None, Reason.IMPLAUSIBLE_SUV_FIELD),
        ("20241231100000", None, None, Reason.IMPLAUSIBLE_SUV_FIELD),
        ("20250102100000", None, None, Reason.IMPLAUSIBLE_SUV_FIELD),
    ],
)
def test_an_injection_whose_time_is_not_sure_is_refused(stamp, clock, zone, reason):
    change = together(given(stamp, clock), fields(TimezoneOffsetFromUTC=zone))
    assert refused(change).reason is reason


@pytest.mark.parametrize(("seconds", "good"), [(94, True), (96, False)])
def test_the_two_times_of_the_injection_agree_within_one_percent_of_decay(seconds, good):
    clock = (INJECTED + seconds * SECOND).strftime("%H%M%S")
    if good:
        suv(given("20250101100000", clock))
    else:
        assert refused(given("20250101100000", clock)).reason is Reason.CONTRADICTORY_SUV_FIELDS


def dynamic(injected, *, start=START, kind="DYNAMIC", stamped=True, measured=20):
    """A frame of a scan from `start` on, so many minutes after, and when the tracer was given."""
    acquisition = start + minutes(measured)
    wait = measured * 60 + average_count_s(BED_S, HALF_LIFE)

    def change(datasets):
        for dataset in datasets:
            dicom.stamp(dataset, "Series", start)
            dicom.stamp(dataset, "Acquisition", acquisition)
            dataset.FrameReferenceTime = f"{wait * 1000:.3f}"
            dataset.SeriesType = [kind, "IMAGE"]
        tracer(
            RadiopharmaceuticalStartDateTime=f"{injected:%Y%m%d%H%M%S}" if stamped else None,
            RadiopharmaceuticalStartTime=f"{injected:%H%M%S}",
        )(datasets)

    return change


@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize("start", [START, datetime(2025, 1, 1, 23, 59, 50)])
@pytest.mark.parametrize("late_s", [0, 30, 1199, 1200])
def test_an_injection_within_a_dynamic_scan_is_taken(late_s, start, stamped):
    """The decay is corrected to a time before it, when there would have been more of the dose."""
    notes = Notes()
    injected = start + timedelta(seconds=late_s)
    found = factors(dynamic(injected, start=start, stamped=stamped), notes=notes)
    np.testing.assert_allclose(found, per_bq(uptake_s=-late_s), rtol=1e-6)
    assert Decision.UNUSUAL_UPTAKE in notes.decisions


@pytest.mark.parametrize(
    "change",
    [
        dynamic(START + timedelta(seconds=1201)),
        dynamic(START + timedelta(seconds=30), kind="STATIC"),
        dynamic(START + timedelta(seconds=3601), measured=90),
    ],
)
def test_an_injection_after_what_is_measured_is_refused(change):
    assert refused(change).reason is Reason.IMPLAUSIBLE_SUV_FIELD


def test_an_injection_before_midnight_is_of_the_day_before():
    night = datetime(2025, 1, 2, 0, 30)
    scanned = together(
        acquired(*[night] * 2, *[night + minutes(5)] * 2),
        fields(SeriesDate="20250102", SeriesTime="003000"),
    )
    for stamp in (None, "20250101233000"):
        suv(scanned, given(stamp, "233000"))


def test_a_scan_over_midnight_starts_the_day_before():
    night = datetime(2025, 1, 1, 23, 57)
    scanned = together(
        acquired(*[night] * 2, *[night + minutes(5)] * 2),
        fields(SeriesDate="20250101", SeriesTime="235700"),
    )
    assert suv(scanned, given("20250101225700")) == ["decay_to_series_time"]


def test_clocks_are_put_forward_between_injection_and_scan():
    # At two o'clock of 30 March 2025 Central Europe goes from +0100 to +0200.
    spring = datetime(2025, 3, 30, 3, 30)
    change = together(
        acquired(*[spring] * 2, *[spring + minutes(5)] * 2),
        fields(SeriesDate="20250330", SeriesTime="033000", TimezoneOffsetFromUTC="+0200"),
        given("20250330013000+0100"),
    )
    assert suv(change) == ["decay_to_series_time"]


def test_a_day_begins_earlier_in_the_east():
    morning = datetime(2025, 1, 2, 10, 0)
    change = together(
        acquired(*[morning] * 2, *[morning + minutes(5)] * 2),
        fields(SeriesDate="20250102", SeriesTime="100000", TimezoneOffsetFromUTC="+1000"),
        given("20250101230000+0000", "090000"),
    )
    assert suv(change) == ["decay_to_series_time"]


def uptake(seconds, half_life, stamp=None, clock=None):
    change = given(stamp, clock)
    datasets = pet()
    change(datasets)
    notes = Notes()
    start = INJECTED + timedelta(seconds=seconds)
    [found] = set(uptake_s(Fields("series 1", datasets), [start] * 4, half_life, None, notes))
    return found, notes.decisions


@pytest.mark.parametrize(
    ("seconds", "noted"),
    [(0.0, True), (99.9, True), (100.0, False), (2000.0, False), (2000.1, True), (4000.0, True)],
)
def test_an_uptake_up_to_four_half_lives_is_taken_and_from_two_noted(seconds, noted):
    found, decisions = uptake(seconds, 1000.0, "20250101100000")
    assert found == pytest.approx(seconds)
    assert decisions == [Decision.UNUSUAL_UPTAKE] * noted


@pytest.mark.parametrize("seconds", [-1.0, 4000.1])
def test_an_uptake_beyond_is_refused(seconds):
    with pytest.raises(CaseFault) as caught:
        uptake(seconds, 1000.0, "20250101100000")
    assert caught.value.reason is Reason.IMPLAUSIBLE_SUV_FIELD
    assert ("before" if seconds < 0 else "after") in caught.value.message


@pytest.mark.parametrize("seconds", [(3000, 3000, 3000, 4001), (3000, 3000, -1, 3000)])
def test_of_each_slice_the_uptake_is_possible(seconds):
    datasets = pet()
    moments = [INJECTED + timedelta(seconds=s) for s in seconds]
    with pytest.raises(CaseFault):
        uptake_s(Fields("series 1", datasets), moments, 1000.0, None, Notes())


@pytest.mark.parametrize(("half_life", "good"), [(41399.0, True), (41400.0, False)])
def test_a_clock_without_a_date_is_enough_for_short_half_lives(half_life, good):
    if good:
        assert uptake(3600.0, half_life, None, "100000")[0] == 3600.0
    else:
        with pytest.raises(CaseFault) as caught:
            uptake(3600.0, half_life, None, "100000")
        assert caught.value.reason is Reason.MISSING_SUV_FIELD


@pytest.mark.parametrize(("days", "rebuilt"), [(1.99, False), (2.0, True)])
def test_dates_two_days_apart_were_moved(days, rebuilt):
    seconds = 86400.0 * days
    if rebuilt:
        found, decisions = uptake(seconds, HALF_LIFE, "20250101100000")
        assert found == 0.0
        assert decisions[0] is Decision.INJECTION_DATE_FROM_SCAN
    else:
        with pytest.raises(CaseFault):
            uptake(seconds, HALF_LIFE, "20250101100000")


def test_a_clock_that_shows_the_scans_very_time_is_of_its_day():
    assert uptake(0.0, HALF_LIFE, None, "100000")[0] == 0.0


def test_a_long_lived_nuclide_is_scanned_days_later():
    zirconium = together(
        nuclide("C-168A4", "^89^Zirconium"),
        tracer(RadionuclideHalfLife="282240"),
        acquired(*[START + timedelta(days=3)] * 4),
        fields(SeriesDate="20250104"),
    )
    found = factors(zirconium)
    np.testing.assert_allclose(found, per_bq(3 * 86400 + 3600, 282240.0), rtol=1e-9)
    for change in (given(None, "100000"), given("19000101100000", "100000")):
        assert refused(zirconium, change).reason is Reason.MISSING_SUV_FIELD


@pytest.mark.parametrize(
    ("text", "offset"), [("+0100", 60), ("-0330", -210), ("+0000", 0), ("+1400", 840)]
)
def test_offsets_are_read(text, offset):
    assert offset_of(text) == minutes(offset)


def test_offsets_that_are_none_are_refused():
    assert offset_of("") is None
    for text in ("0100", "+25", "+2400", "CET"):
        with pytest.raises(ValueError, match=r"offset|range"):
            offset_of(text)


def test_a_stamp_says_what_was_written():
    assert stamp_of("") is None
    assert stamp_of("202501011030").clock.minute == 30
    assert stamp_of("2025010110").clock is None
    assert stamp_of("2025010110").hour == 10
    assert stamp_of("20250101").hour is None
    assert stamp_of("202501").day is None
    assert stamp_of("20250101103000.5+0100").offset == minutes(60)
    assert stamp_of("20250101103000+0100").local(minutes(-60)).hour == 8


def test_fractions_of_a_second_are_read():
    assert time_of("110000.250000", "SeriesTime", Fields("series 1", [])).microsecond == 250_000
