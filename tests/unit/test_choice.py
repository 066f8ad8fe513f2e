"""One volume of a series of several: the right one to the voxel, or a reason that names it."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from jipflow.cases import Series, Wanted
from jipflow.images.series import read_planes, read_series_volume
from jipflow.reasons import CaseFault, Decision, Reason
from series_factory import ct_datasets, ct_hu, enhanced, series_of, together, volumes, write

SLICES = 6


def series(datasets, folder, **wanted) -> Series:
    """The data sets, written once to a folder, as the series of a role that wants a volume."""
    plain = series_of(sorted(folder.glob("*.dcm")) or write(datasets, folder))
    return Series(plain.series_uid, plain.modality, plain.paths, Wanted(**wanted))


def read(datasets, folder, **wanted):
    """Read the volume that is wanted; returns the number of the one that came out, and the note."""
    notes: list[str] = []
    decisions: list[Decision] = []
    role = series(datasets, folder, **wanted)
    volume = read_series_volume(role, notes=notes, decisions=decisions)
    assert len(read_planes(role)) == SLICES
    [number] = [n for n in range(12) if np.array_equal(volume.array, ct_hu(seed=n) + 1024)]
    whole = [Decision.VOLUME_CHOSEN] * (len(datasets) > SLICES)
    assert decisions[:1] == whole
    return number, notes[-1]


def refusal(datasets, folder, reason, **wanted) -> str:
    """The message of a series that is refused with this reason."""
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series(datasets, folder, **wanted))
    assert caught.value.reason is reason, caught.value.message
    return caught.value.message


def setter(name, *values):
    """A change that gives the slices of each volume a value."""
    return lambda dataset, number: setattr(dataset, name, values[number])


def clock(seconds: float, day: str = "20250101") -> dict[str, str]:
    """Acquisition date and time so long after nine o'clock."""
    moment = datetime.fromisoformat(day) + timedelta(hours=9, seconds=seconds)
    return {"AcquisitionDate": f"{moment:%Y%m%d}", "AcquisitionTime": f"{moment:%H%M%S.%f}"}


def acquired(*starts, step: float = 0.0):
    """A change that sets when a slice was acquired: its volume's start, and `step` a slice."""

    def change(dataset: Dataset, number: int) -> None:
        place = int(dataset.InstanceNumber) - 1
        for name, value in clock(starts[number] + step * place).items():
            setattr(dataset, name, value)

    return change


TIMES = {
    "temporal positions": setter("TemporalPositionIdentifier", 1, 2, 3),
    "temporal positions from 0": setter("TemporalPositionIdentifier", 0, 1, 2),
    "acquisition numbers": setter("AcquisitionNumber", 4, 7, 9),
    "trigger times": setter("TriggerTime", "0", "12000", "24000"),
    "frame times": setter("FrameReferenceTime", "5000.5", "15000.5", "25000.5"),
    "a time for each pass": acquired(0, 30, 65),
    "a time for each slice, in turn": acquired(0, 30, 65, step=4.5),
    "passes that overlap": together(
        setter("TemporalPositionIdentifier", 1, 2, 3), acquired(0, 5, 10, step=2)
    ),
    "content times": setter("ContentTime", "090000", "090030", "0901"),
}


@pytest.mark.parametrize("change", TIMES.values(), ids=TIMES)
def test_a_time_point_comes_out_to_the_voxel(change, tmp_path):
    datasets = volumes(3, change)[::-1]
    for wanted, number in ((1, 0), (2, 1), ("first", 0), ("last", 2)):
        found, note = read(datasets, tmp_path, time_point=wanted)
        assert found == number
        assert note.startswith(f"Of 18 slices 6 were taken: time point {number + 1}")
        assert " of 3 by " in note


@pytest.mark.parametrize(
    ("seconds", "within", "number"), [(0, 10, 0), (30, 5, 1), (36, 6, 1), (70, 5, 2)]
)
def test_a_time_point_is_found_by_its_seconds(seconds, within, number, tmp_path):
    datasets = volumes(3, acquired(12, 42, 77, step=1))
    found, note = read(datasets, tmp_path, seconds=seconds, within=within)
    assert found == number
    assert ("at 30 s of 3 by AcquisitionTime" in note) == (number == 1)


@pytest.mark.parametrize(
    ("seconds", "within", "reason"),
    [
        (36.1, 6, Reason.VOLUME_NOT_FOUND),
        (50, 5, Reason.VOLUME_NOT_FOUND),
        (48, 20, Reason.MIXED_ACQUISITIONS),
    ],
)
def test_seconds_that_none_or_several_fit_are_refused(seconds, within, reason, tmp_path):
    datasets = volumes(3, acquired(12, 42, 77))
    message = refusal(datasets, tmp_path, reason, seconds=seconds, within=within)
    assert "at 0, 30, 65 s after the first" in message


@pytest.mark.parametrize(
    "change",
    [
        setter("TriggerTime", "100", "12100", "24100"),
        together(
            setter("TemporalPositionIdentifier", 1, 2, 3), setter("TriggerTime", 0, 12e3, 24e3)
        ),
        setter("FrameReferenceTime", "1000", "13000", "25000"),
        setter("ContentTime", "090000", "090012", "090024"),
    ],
)
def test_seconds_come_from_what_the_header_has(change, tmp_path):
    datasets = volumes(3, change)
    for dataset in datasets:
        for name in ("AcquisitionTime", "AcquisitionDate", "AcquisitionDateTime"):
            dataset.pop(name, None)
    assert read(datasets, tmp_path, seconds=12, within=1)[0] == 1


def test_seconds_without_times_are_refused(tmp_path):
    def change(dataset, number):
        dataset.TemporalPositionIdentifier = number + 1
        for name in ("AcquisitionTime", "AcquisitionDateTime", "ContentTime"):
            dataset.pop(name, None)

    message = refusal(volumes(3, change), tmp_path, Reason.VOLUME_NOT_FOUND, seconds=12, within=1)
    assert "give `time_point`" in message


@pytest.mark.parametrize("dates", [("20250101", "20250102"), ("20250101", "20250101"), ("", "")])
def test_midnight_comes_between(dates, tmp_path):
    def change(dataset, number):
        dataset.AcquisitionDate = dates[number]
        dataset.AcquisitionTime = ("235950", "000010.5")[number]

    found, note = read(volumes(2, change), tmp_path, seconds=20.5, within=0.1)
    assert found == 1
    assert "at 20.5 s" in note


def test_a_time_point_of_the_next_day_keeps_its_distance(tmp_path):
    change = together(
        setter("AcquisitionDate", "20250101", "20250102"),
        setter("AcquisitionTime", "100000", "110000"),
    )
    assert read(volumes(2, change), tmp_path, seconds=25 * 3600, within=1)[0] == 1


def test_clocks_of_which_only_some_have_a_date_say_no_order(tmp_path):
    def change(dataset, number):
        dataset.AcquisitionDate = ("", "20250101")[number]
        dataset.AcquisitionTime = ("090000", "090100")[number]
        dataset.pop("ContentTime", None)

    refusal(volumes(2, change), tmp_path, Reason.MIXED_ACQUISITIONS, time_point=1)


def test_clocks_far_apart_on_one_date_are_not_taken_for_midnight(tmp_path):
    datasets = volumes(2, setter("AcquisitionTime", "080000", "220000"))
    for dataset in datasets:
        del dataset.ContentTime
    refusal(datasets, tmp_path, Reason.MIXED_ACQUISITIONS, time_point=1)


def test_a_time_point_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    datasets = volumes(3, setter("TemporalPositionIdentifier", 1, 2, 4))
    message = refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, time_point=3)
    assert "no time point 3; its time points are 1, 2, 4" in message
    found, note = read(datasets, tmp_path, time_point=4)
    assert found == 2
    assert "by the header 1 more are not there" in note
    change = together(setter("TemporalPositionIdentifier", 2, 3), acquired(30, 60))
    datasets = volumes(2, change)
    for wanted in ({"time_point": "first"}, {"seconds": 0, "within": 1}):
        refusal(datasets, tmp_path / "later", Reason.VOLUME_NOT_FOUND, **wanted)


def test_time_points_that_the_header_counts_are_not_all_there(tmp_path):
    change = together(
        setter("TemporalPositionIdentifier", 1, 2, 3),
        acquired(0, 30, 60),
        lambda d, _: setattr(d, "NumberOfTemporalPositions", 4),
    )
    datasets = volumes(3, change)
    assert read(datasets, tmp_path, time_point=3)[0] == 2
    message = refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, time_point="last")
    assert "no time point 4" in message
    for dataset in datasets:
        dataset.AcquisitionNumber = dataset.TemporalPositionIdentifier
        del dataset.TemporalPositionIdentifier
    message = refusal(datasets, tmp_path / "ranked", Reason.MISSING_SLICES, time_point=1)
    assert "has 3 of 4 time points" in message
    refusal(datasets, tmp_path / "ranked", Reason.VOLUME_NOT_FOUND, seconds=0, within=1)


def test_a_time_point_that_lacks_slices_is_refused_only_if_it_is_wanted(tmp_path):
    datasets = volumes(3, setter("TemporalPositionIdentifier", 1, 2, 3))
    del datasets[SLICES + 5]
    message = refusal(datasets, tmp_path / "one", Reason.MISSING_SLICES, time_point=2)
    assert "has 5 slices, and lacks 1 where others" in message
    found, note = read(datasets, tmp_path / "two", time_point=3)
    assert found == 2
    assert "time points that lack slices: 2" in note


def test_passes_in_turn_of_which_one_lacks_a_slice_are_not_guessed(tmp_path):
    datasets = volumes(3, acquired(0, 30, 65, step=4.5))
    for dataset in datasets:
        del dataset.ContentTime
    del datasets[SLICES]
    message = refusal(datasets, tmp_path, Reason.MIXED_ACQUISITIONS, time_point=3)
    assert "nothing in the header tells for sure" in message


def test_numbers_against_the_clock_are_refused(tmp_path):
    change = together(setter("TemporalPositionIdentifier", 2, 1), acquired(0, 30))
    refusal(volumes(2, change), tmp_path, Reason.MIXED_ACQUISITIONS, time_point=1)


def test_delays_of_a_trigger_are_no_order_against_the_clock(tmp_path):
    # A dynamic series that waits for the heart: the delay says nothing of the phase.
    change = together(setter("TriggerTime", "512", "498"), acquired(0, 30))
    datasets = volumes(2, change)
    found, note = read(datasets, tmp_path, time_point=1)
    assert found == 0
    assert note.endswith("time point 1 of 2 by AcquisitionTime.")
    assert read(datasets, tmp_path, seconds=30, within=1)[0] == 1


def test_what_nothing_tells_apart_is_refused(tmp_path):
    message = refusal(
        volumes(2, lambda *_: None), tmp_path, Reason.MIXED_ACQUISITIONS, time_point=1
    )
    assert "export each time point as a series of its own" in message


def test_a_series_of_one_time_point_has_the_first_only(tmp_path):
    datasets = volumes(1, lambda *_: None)
    found, note = read(datasets, tmp_path, time_point=1)
    assert found == 0
    assert note == "The series is the one volume that is wanted: time point 1 of 1."
    read(datasets, tmp_path, time_point="last")
    refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, time_point=2)
    refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, seconds=0, within=5)


def test_one_time_point_of_several_has_its_own_number(tmp_path):
    datasets = volumes(1, setter("TemporalPositionIdentifier", 3))
    assert read(datasets, tmp_path, time_point=3)[0] == 0
    refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, time_point=1)
    refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, time_point="first")


ECHOES = together(setter("EchoNumbers", 1, 2, 3), setter("EchoTime", "2.3", "4.6", "6.9"))


def test_an_echo_is_taken_by_its_number_or_time(tmp_path):
    datasets = volumes(3, ECHOES)
    found, note = read(datasets, tmp_path, echo=2)
    assert (found, note) == (1, "Of 18 slices 6 were taken: echo 2 of 1, 2, 3.")
    found, note = read(datasets, tmp_path, echo_time=6.9)
    assert (found, note) == (2, "Of 18 slices 6 were taken: echo time 6.9 ms of 2.3, 4.6, 6.9.")
    assert read(datasets, tmp_path, echo_time=4, within=0.6)[0] == 1
    assert read(datasets, tmp_path, echo_time=2.31)[0] == 0
    message = refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, echo_time=2.32)
    assert "its echo times are 2.3, 4.6, 6.9" in message
    refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, echo_time=4, within=0.59)
    message = refusal(datasets, tmp_path, Reason.MIXED_ACQUISITIONS, echo_time=3, within=2)
    assert "2.3, 4.6 all lie within 2 ms of 3" in message
    message = refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, echo=4)
    assert "no echo 4; its echoes are 1, 2, 3" in message


def test_echoes_without_numbers_are_counted_by_their_times(tmp_path):
    datasets = volumes(3, setter("EchoTime", "6.9", "2.3", "4.6"))
    assert read(datasets, tmp_path, echo=1)[0] == 1
    for dataset in datasets:
        dataset.EchoNumbers = 1
    message = refusal(datasets, tmp_path / "one", Reason.VOLUME_NOT_FOUND, echo=2)
    assert "its echoes are 1, and its echo times in ms are 2.3, 4.6, 6.9" in message
    refusal(datasets, tmp_path / "one", Reason.MIXED_ACQUISITIONS, echo=1)


@pytest.mark.parametrize("wanted", [{"echo": 1}, {"echo_time": 2.3}])
def test_a_volume_is_not_shorter_for_a_slice_that_states_no_echo(wanted, tmp_path):
    def change(dataset, number):
        if dataset.InstanceNumber < 6:
            dataset.EchoNumbers, dataset.EchoTime = 1, "2.3"
        else:
            dataset.pop("EchoTime", None)

    message = refusal(volumes(1, change), tmp_path, Reason.MISSING_SLICES, **wanted)
    assert "has 5 slices, and lacks 1" in message


def test_echoes_between_one_another_do_not_lack_the_slices_of_the_others(tmp_path):
    def change(dataset, number):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, float(z) + 2.0 * number]
        dataset.EchoNumbers = number + 1

    assert read(volumes(2, change), tmp_path, echo=2)[0] == 1


def image_type(*words):
    return lambda d, n: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", words[n]])


def test_a_type_of_image_is_taken(tmp_path):
    datasets = volumes(3, image_type("W", "F", "IP"))
    found, note = read(datasets, tmp_path, image_types=("WATER", "w"))
    assert found == 0
    assert "those of type WATER or w of ORIGINAL\\PRIMARY\\F, ORIGINAL" in note
    message = refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, image_types=("FAT",))
    assert "no image has the type FAT; the types are ORIGINAL\\PRIMARY\\F, ORIGINAL" in message
    message = refusal(datasets, tmp_path, Reason.MIXED_ACQUISITIONS, image_types=("W", "F"))
    assert "`volume: {image_type: …}`" in message


def test_a_type_and_a_time_point_are_taken_together(tmp_path):
    change = together(
        image_type("W", "F", "W", "F"), setter("TemporalPositionIdentifier", 1, 1, 2, 2)
    )
    datasets = volumes(4, change)
    found, note = read(datasets, tmp_path, image_types=("W",), time_point=2)
    assert found == 2
    assert note.startswith("Of 24 slices 6 were taken: those of type W of ")
    message = refusal(datasets, tmp_path, Reason.MIXED_ACQUISITIONS, time_point=2)
    assert "several types of image" in message


KINDS = {
    "EchoTime": ("1.5", "3"),
    "InversionTime": ("100", "900"),
    "FlipAngle": ("5", "20"),
    "KVP": ("80", "140"),
    "ConvolutionKernel": ("B30f", "B70f"),
    "DiffusionBValue": (0.0, 800.0),
    "StackID": ("1", "2"),
}


def test_what_states_nothing_is_another_kind(tmp_path):
    def change(dataset, number):
        dataset.AcquisitionNumber = number + 1
        if number:
            dataset.EchoTime = "1.5"
        else:
            dataset.pop("EchoTime", None)

    message = refusal(volumes(2, change), tmp_path, Reason.MIXED_ACQUISITIONS, time_point=1)
    assert "differ in EchoTime (1.5, nothing)" in message


@pytest.mark.parametrize("name", KINDS)
def test_other_kinds_of_image_are_no_time_points(name, tmp_path):
    datasets = volumes(2, together(setter(name, *KINDS[name]), acquired(0, 30)))
    message = refusal(datasets, tmp_path, Reason.MIXED_ACQUISITIONS, time_point=1)
    assert f"they differ in {name}" in message


def test_numbers_written_in_two_ways_are_one_kind(tmp_path):
    change = together(setter("EchoTime", "1.50", "1.5"), acquired(0, 30))
    assert read(volumes(2, change), tmp_path, time_point=2)[0] == 1


def test_without_a_choice_several_are_refused_with_the_key_to_use(tmp_path):
    for number, (change, text) in enumerate(
        [
            (setter("TemporalPositionIdentifier", 1, 2), "(1, 2); choose one by `volume: {time_p"),
            (setter("EchoTime", "10", "2"), "EchoTime (2, 10); choose one by `volume: {echo_time"),
            (setter("DiffusionBValue", 0, 1000), "(0, 1000); choose one by `volume: {b_value"),
            (setter("KVP", "80", "140"), "KVP (80, 140); export each as a series of its own."),
        ]
    ):
        plain = series_of(write(volumes(2, change), tmp_path / str(number)))
        with pytest.raises(CaseFault) as caught:
            read_series_volume(plain)
        assert caught.value.reason is Reason.MIXED_ACQUISITIONS
        assert text in caught.value.message


def test_repeated_slices_are_left_out_before_the_choice(tmp_path):
    datasets = volumes(2, acquired(0, 30, step=2))
    copy = ct_datasets()[0]
    again = volumes(2, acquired(0, 30, step=2))[3]
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    notes: list[str] = []
    role = series([*datasets, again], tmp_path, time_point=1)
    volume = read_series_volume(role, notes=notes)
    np.testing.assert_array_equal(volume.array, ct_hu() + 1024)
    assert "Repeated slices, of the same place and pixels, left out: 1." in notes


def test_a_file_of_another_patient_is_refused_in_any_time_point(tmp_path):
    datasets = volumes(2, acquired(0, 30))
    datasets[-1].PatientID = "another"
    refusal(datasets, tmp_path, Reason.MIXED_PATIENTS, time_point=1)


def in_one_object(count, change):
    """An enhanced MR image of several volumes; `change` gets each functional group."""
    image = enhanced(volumes(count, lambda *_: None), EnhancedMRImageStorage)
    for number, group in enumerate(image.PerFrameFunctionalGroupsSequence):
        change(group, number // SLICES)
    return [image]


def macro(name, attribute, *values):
    def change(group, number):
        items = getattr(group, name, None) or [Dataset()]
        setattr(items[0], attribute, values[number])
        setattr(group, name, items)

    return change


ENHANCED = {
    "temporal positions": (
        macro("FrameContentSequence", "TemporalPositionIndex", 1, 2),
        {"time_point": 2},
    ),
    "frame times": (
        macro(
            "FrameContentSequence", "FrameAcquisitionDateTime", "20250101090000", "20250101090030"
        ),
        {"seconds": 30, "within": 1},
    ),
    "frame times in zones": (
        macro(
            "FrameContentSequence",
            "FrameAcquisitionDateTime",
            "20250101090000+0100",
            "20250101080030.0+0000",
        ),
        {"seconds": 30, "within": 1},
    ),
    "offsets of temporal positions": (
        macro("TemporalPositionSequence", "TemporalPositionTimeOffset", 0.0, 30.0),
        {"seconds": 30, "within": 1},
    ),
    "phases of the heart": (
        macro("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", 0.0, 450.0),
        {"time_point": 2},
    ),
    "echo times": (macro("MREchoSequence", "EffectiveEchoTime", 2.3, 4.6), {"echo_time": 4.6}),
    "echoes": (macro("MREchoSequence", "EffectiveEchoTime", 2.3, 4.6), {"echo": 2}),
    "b-values": (macro("MRDiffusionSequence", "DiffusionBValue", 0.0, 800.0), {"b_value": 800}),
    "frame types": (
        macro(
            "MRImageFrameTypeSequence",
            "FrameType",
            ["ORIGINAL", "PRIMARY", "FAT", "NONE"],
            ["ORIGINAL", "PRIMARY", "WATER", "NONE"],
        ),
        {"image_types": ("WATER",)},
    ),
}


@pytest.mark.parametrize(("change", "wanted"), ENHANCED.values(), ids=ENHANCED)
def test_a_volume_of_an_enhanced_image_comes_out_to_the_voxel(change, wanted, tmp_path):
    role = series(in_one_object(2, change), tmp_path, **wanted)
    decisions: list[Decision] = []
    volume = read_series_volume(role, decisions=decisions)
    np.testing.assert_array_equal(volume.array, ct_hu(seed=1) + 1024)
    assert decisions == [Decision.VOLUME_CHOSEN]
    assert [plane.frame for plane in read_planes(role)] == list(range(SLICES, 2 * SLICES))
