"""b-values of every maker, and which image of several directions is taken."""

from __future__ import annotations

import struct

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, ImplicitVRLittleEndian

from jipflow.cases import Series, Wanted
from jipflow.images.diffusion import b_value, is_isotropic
from jipflow.images.series import read_series_volume
from jipflow.reasons import CaseFault, Decision, Reason
from series_factory import csa, ct_hu, enhanced, series_of, together, volumes, write

SIEMENS = (0x0019, "SIEMENS MR HEADER")
GE = (0x0043, "GEMS_PARM_01")
PHILIPS = (0x2001, "Philips Imaging DD 001")
UNITED_IMAGING = (0x0065, "Image Private Header")
CSA = (0x0029, "SIEMENS CSA HEADER")


def private(maker, element, vr, *values):
    """A change that gives each volume a value of a maker's private element; None for none."""

    def change(dataset: Dataset, number: int) -> None:
        if values[number] is not None:
            block = dataset.private_block(*maker, create=True)
            block.add_new(element, vr, values[number])

    return change


def read(datasets, folder, b=None, within=None, **more):
    """Read the volume of a b-value; returns its number, the last note and the decisions."""
    paths = sorted(folder.glob("*.dcm")) or write(datasets, folder)
    plain = series_of(paths)
    role = Series(plain.series_uid, "MR", plain.paths, Wanted(b_value=b, within=within, **more))
    notes: list[str] = []
    decisions: list[Decision] = []
    volume = read_series_volume(role, notes=notes, decisions=decisions)
    [number] = [n for n in range(12) if np.array_equal(volume.array, ct_hu(seed=n) + 1024)]
    return number, notes[-1], decisions


def refusal(datasets, folder, reason, b, **more) -> str:
    with pytest.raises(CaseFault) as caught:
        read(datasets, folder, b, **more)
    assert caught.value.reason is reason, caught.value.message
    return caught.value.message


def setter(name, *values):
    def change(dataset, number):
        if values[number] is not None:
            setattr(dataset, name, values[number])

    return change


def nested(dataset, number):
    dataset.MRDiffusionSequence = [Dataset()]
    dataset.MRDiffusionSequence[0].DiffusionBValue = (0.0, 400.0, 800.0)[number]


B_VALUES = {
    "public": setter("DiffusionBValue", 0.0, 400.0, 800.0),
    "public, with noise": setter("DiffusionBValue", 0.2, 399.9996, 800.4),
    "in the diffusion sequence": nested,
    "Siemens": private(SIEMENS, 0x0C, "IS", 0, 400, 800),
    "Siemens, as bytes": private(SIEMENS, 0x0C, "UN", b"0 ", b"400 ", b"800 "),
    "Siemens, written in two ways": private(SIEMENS, 0x0C, "DS", "0", "400", "800.0"),
    "Siemens' CSA header": private(
        CSA,
        0x10,
        "OB",
        *(csa(SliceMeasurementDuration=["1.5"], B_value=[b]) for b in ("0", "400", "800")),
    ),
    "GE": private(GE, 0x39, "IS", [0, 8, 0, 0], [400, 8, 0, 0], [800, 8, 0, 0]),
    "GE, with its bias": private(
        GE, 0x39, "IS", *([1000000000 + b, 8, 0, 0] for b in (0, 400, 800))
    ),
    "GE, as bytes": private(
        GE, 0x39, "UN", b"0\\8\\0\\0 ", b"1000000400\\8\\0\\0", b"800\\8\\0\\0 "
    ),
    "Philips": private(PHILIPS, 0x03, "FL", 0.0, 400.0, 800.0),
    "Philips, as doubles": private(PHILIPS, 0x03, "FD", 0.0, 400.0, 800.0),
    "Philips, as bytes": private(
        PHILIPS, 0x03, "UN", *(struct.pack("<f", b) for b in (0, 400, 800))
    ),
    "Philips, as bytes of doubles": private(
        PHILIPS, 0x03, "UN", *(struct.pack("<d", b) for b in (0, 400, 800))
    ),
    "United Imaging": private(UNITED_IMAGING, 0x09, "FD", 0.0, 400.0, 800.0),
    "United Imaging, as bytes": private(
        UNITED_IMAGING, 0x09, "UN", *(struct.pack("<d", b) for b in (0, 400, 800))
    ),
}


@pytest.mark.parametrize("change", B_VALUES.values(), ids=B_VALUES)
def test_the_volume_of_a_b_value_comes_out_to_the_voxel(change, tmp_path):
    datasets = volumes(3, change)
    for number, b in enumerate((0, 400, 800)):
        found, note, decisions = read(datasets, tmp_path, b)
        assert (found, decisions) == (number, [Decision.VOLUME_CHOSEN])
        assert note == f"Of 18 slices 6 were taken: b-value {b} of 0, 400, 800."


def test_a_b_value_is_near_enough_or_refused_with_those_that_are_there(tmp_path):
    datasets = volumes(3, B_VALUES["public"])
    assert read(datasets, tmp_path, 750, within=50)[0] == 2
    message = refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, 1000)
    assert "no image states a b-value of 1000 s/mm²; its b-values are 0, 400, 800. " in message
    message = refusal(datasets, tmp_path, Reason.MIXED_ACQUISITIONS, 600, within=200)
    assert "the b-values 400, 800 all lie within 200 of 600" in message
    refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, 600, within=199)


def in_block(number: int):
    """Move private blocks of all files to another number, as anonymisation does."""

    def change(dataset):
        moved = Dataset()
        for element in [e for e in dataset if e.tag.is_private]:
            del dataset[element.tag]
            low = element.tag.elem
            low = number if low < 0x100 else number << 8 | low & 0xFF
            moved.add_new((element.tag.group, low), element.VR, element.value)
        dataset.update(moved)

    return change


@pytest.mark.parametrize(
    "name", ["Siemens", "Siemens' CSA header", "GE", "Philips", "United Imaging"]
)
def test_private_elements_are_found_by_their_creator(name, tmp_path):
    datasets = volumes(3, B_VALUES[name])
    for dataset in datasets:
        in_block(0x2B)(dataset)
    assert read(datasets, tmp_path / "moved", 800)[0] == 2
    for dataset in datasets:
        for creator in [e for e in dataset if e.tag.is_private and e.tag.elem < 0x100]:
            creator.value = creator.value.upper() + " "
    assert read(datasets, tmp_path / "capitals", 400)[0] == 1
    for dataset in datasets:
        for creator in [e for e in dataset if e.tag.is_private and e.tag.elem < 0x100]:
            creator.value = "SOMEBODY ELSE"
    message = refusal(datasets, tmp_path / "other", Reason.VOLUME_NOT_FOUND, 800)
    assert "no image states a b-value, neither in DiffusionBValue (0018,9087) nor in" in message


@pytest.mark.parametrize("name", ["Siemens", "GE", "Philips", "United Imaging"])
def test_private_elements_are_read_from_implicit_files(name, tmp_path):
    def implicit(datasets):
        for dataset in datasets:
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    datasets = volumes(3, B_VALUES[name])
    implicit(datasets)
    assert read(datasets, tmp_path, 800)[0] == 2


def test_the_first_block_of_a_creator_that_has_the_element_counts():
    dataset = Dataset()
    dataset.add_new((0x0019, 0x0010), "LO", "SIEMENS MR HEADER")
    dataset.add_new((0x0019, 0x0011), "LO", "SIEMENS MR HEADER")
    dataset.add_new((0x0019, 0x110C), "IS", 50)
    assert b_value(dataset) == 50


def test_a_series_without_any_b_value_is_refused_and_never_taken(tmp_path):
    datasets = volumes(1, lambda *_: None)
    message = refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, 0)
    assert "none is known to be of 0 s/mm²" in message


def test_a_series_of_the_one_b_value_is_taken_and_another_is_not(tmp_path):
    datasets = volumes(1, setter("DiffusionBValue", 800.0))
    number, note, decisions = read(datasets, tmp_path, 800)
    assert (number, decisions) == (0, [])
    assert note == "The series is the one volume that is wanted: b-value 800 of 800."
    refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, 799)
    refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, 0)


def test_what_states_no_b_value_is_not_taken_for_0(tmp_path):
    datasets = volumes(2, private(SIEMENS, 0x0C, "IS", None, 800))
    message = refusal(datasets, tmp_path, Reason.VOLUME_NOT_FOUND, 0)
    assert "its b-values are 800; 6 slices state no b-value." in message
    number, note, _ = read(datasets, tmp_path, 800)
    assert number == 1
    assert note.endswith("b-value 800 of 800; 6 slices state no b-value.")


def test_no_directionality_is_a_b_value_of_0(tmp_path):
    change = together(
        setter("DiffusionBValue", None, 800.0),
        setter("DiffusionDirectionality", "NONE", "ISOTROPIC"),
    )
    assert read(volumes(2, change), tmp_path, 0)[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"],
        ["DERIVED", "PRIMARY", "ADC_UNSPECIFIED", "ADC"],
        ["DERIVED", "SECONDARY", "COMBINED", "EADC"],
        ["DERIVED", "PRIMARY", "DIFFUSION", "FA"],
        ["DERIVED", "PRIMARY", "DIFFUSION_ANISO", "NONE"],
    ],
)
def test_a_map_has_no_b_value(words, tmp_path):
    original = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]
    change = together(
        setter("DiffusionBValue", 0.0, 800.0, 800.0), setter("ImageType", original, original, words)
    )
    datasets = volumes(3, change)
    number, note, _ = read(datasets, tmp_path, 800)
    assert number == 1
    assert note.endswith("b-value 800 of 0, 800, without 6 slices of maps.")
    assert (
        read(datasets, tmp_path, image_types=(words[-1] if words[-1] != "NONE" else words[2],))[0]
        == 2
    )


def directional(*vectors):
    """A change that gives volumes directions; None for none."""

    def change(dataset, number):
        if vectors[number] is not None:
            dataset.DiffusionGradientOrientation = list(vectors[number])

    return change


X, Y, Z, NULL = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)
EIGHT_HUNDRED = setter("DiffusionBValue", 0.0, 800.0, 800.0, 800.0, 800.0)
TYPE = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]

TRACES = {
    "directionality": together(
        directional(None, X, Y, Z, None),
        setter("DiffusionDirectionality", "NONE", *["DIRECTIONAL"] * 3, "ISOTROPIC"),
    ),
    "image type": together(
        directional(None, X, Y, Z, None),
        setter("ImageType", *[TYPE] * 4, ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]),
    ),
    "null vector": directional(NULL, X, Y, Z, NULL),
    "Philips' direction": together(
        directional(None, X, Y, Z, None), private(PHILIPS, 0x04, "CS", "I", "P", "M", "S", "I")
    ),
    "Philips' direction, as bytes": together(
        directional(None, X, Y, Z, None), private(PHILIPS, 0x04, "UN", *[b"S "] * 4, b"I ")
    ),
}


@pytest.mark.parametrize("change", TRACES.values(), ids=TRACES)
def test_of_several_directions_the_stated_average_is_taken(change, tmp_path):
    number, note, decisions = read(volumes(5, together(EIGHT_HUNDRED, change)), tmp_path, 800)
    assert number == 4
    assert decisions == [Decision.VOLUME_CHOSEN, Decision.ISOTROPIC_TAKEN]
    assert note.endswith("b-value 800 of 0, 800; the isotropic image, of all directions.")


PRIVATE_VECTORS = {
    "Siemens": private(SIEMENS, 0x0E, "FD", None, [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]),
    "Siemens, as bytes": private(
        SIEMENS, 0x0E, "UN", None, *(struct.pack("<3d", *v) for v in (X, Y, Z))
    ),
    "United Imaging": private(UNITED_IMAGING, 0x37, "FD", None, list(X), list(Y), list(Z)),
    "Philips": together(
        *(
            private((0x2005, "Philips MR Imaging DD 001"), 0xB0 + axis, "FL", *parts)
            for axis, parts in enumerate(zip(NULL, X, Y, Z, strict=True))
        )
    ),
    "GE": together(
        *(
            private((0x0019, "GEMS_ACQU_01"), 0xBB + axis, "DS", *parts)
            for axis, parts in enumerate(zip(NULL, X, Y, Z, strict=True))
        )
    ),
    "public": directional(None, X, Y, Z),
}


@pytest.mark.parametrize("change", PRIVATE_VECTORS.values(), ids=PRIVATE_VECTORS)
def test_directions_alone_are_refused(change, tmp_path):
    datasets = volumes(4, together(EIGHT_HUNDRED, change))
    message = refusal(datasets, tmp_path, Reason.MIXED_ACQUISITIONS, 800)
    assert "b-value 800 has images of 3 directions and none that is stated" in message
    assert read(datasets, tmp_path, 0)[0] == 0
    for dataset in datasets:
        place = int(dataset.InstanceNumber)
        dataset.AcquisitionTime = f"09{(datasets.index(dataset) // 6) * 10:02d}{place:02d}"
    message = refusal(datasets, tmp_path, Reason.MIXED_ACQUISITIONS, 800, time_point=1)
    assert "3 directions of the diffusion gradient, which are no time points" in message


def test_one_of_several_images_without_weighting_is_taken_by_its_time_point(tmp_path):
    change = together(
        setter("DiffusionBValue", 0.0, 800.0, 0.0), setter("AcquisitionNumber", 1, 2, 3)
    )
    datasets = volumes(3, change)
    refusal(datasets, tmp_path, Reason.MIXED_ACQUISITIONS, 0)
    assert read(datasets, tmp_path, 0, time_point=2)[0] == 2


def test_ges_image_without_weighting_whose_b_value_is_that_of_the_others(tmp_path):
    # Old software writes so; the null vector is no sign of an average there.
    change = together(
        private(GE, 0x39, "IS", *[[1000, 8, 0, 0]] * 3),
        private(GE, 0x30, "SS", 14, 16, 16),
        setter("ImageComments", "a", "b", "b"),
        directional(NULL, X, Y),
    )
    datasets = volumes(2, change)
    number, note, _ = read(datasets, tmp_path / "two", 1000)
    assert number == 1
    assert "6 slices state no b-value" in note
    refusal(datasets, tmp_path / "two", Reason.VOLUME_NOT_FOUND, 0)
    for dataset in datasets:
        block = dataset.private_block(*GE)
        del block[0x30]
    refusal(datasets, tmp_path / "three", Reason.MIXED_ACQUISITIONS, 1000)
    assert not is_isotropic(datasets[0])


def test_the_null_vector_of_an_image_without_weighting_says_nothing(tmp_path):
    change = together(setter("DiffusionBValue", 0.0, 0.0), directional(NULL, None))
    refusal(volumes(2, change), tmp_path, Reason.DUPLICATE_SLICES, 0)


def test_a_volume_is_not_shorter_for_a_slice_that_states_no_b_value(tmp_path):
    def change(dataset, number):
        if dataset.InstanceNumber < 6:
            dataset.DiffusionBValue = 800.0

    message = refusal(volumes(1, change), tmp_path, Reason.MISSING_SLICES, 800)
    assert "1 slices state no b-value) has 5 slices, and lacks 1" in message


def test_magnitude_and_phase_of_one_b_value_are_two_types_of_image(tmp_path):
    change = together(
        setter("DiffusionBValue", 800.0, 800.0),
        setter("ComplexImageComponent", "MAGNITUDE", "PHASE"),
    )
    datasets = volumes(2, change)
    message = refusal(datasets, tmp_path, Reason.MIXED_ACQUISITIONS, 800)
    assert "ComplexImageComponent (MAGNITUDE, PHASE); choose one by `volume: {image_ty" in message
    assert read(datasets, tmp_path, 800, image_types=("MAGNITUDE",))[0] == 0


def test_a_direction_is_read_from_an_enhanced_image(tmp_path):
    image = enhanced(volumes(3, lambda *_: None), EnhancedMRImageStorage)
    for number, group in enumerate(image.PerFrameFunctionalGroupsSequence):
        item = Dataset()
        item.DiffusionBValue = (0.0, 800.0, 800.0)[number // 6]
        item.DiffusionDirectionality = ("NONE", "DIRECTIONAL", "ISOTROPIC")[number // 6]
        if number // 6 == 1:
            item.DiffusionGradientDirectionSequence = [Dataset()]
            item.DiffusionGradientDirectionSequence[0].DiffusionGradientOrientation = list(X)
        group.MRDiffusionSequence = [item]
    number, _, decisions = read([image], tmp_path, 800)
    assert (number, decisions) == (2, [Decision.VOLUME_CHOSEN, Decision.ISOTROPIC_TAKEN])


@pytest.mark.parametrize("value", [b"abc", b"", b"\xff" * 8, struct.pack("<d", np.inf), b"1\\x"])
def test_bytes_that_are_no_number_state_nothing(value):
    dataset = Dataset()
    dataset.private_block(*PHILIPS, create=True).add_new(0x03, "UN", value)
    assert b_value(dataset) is None


def test_a_negative_b_value_states_nothing():
    dataset = Dataset()
    dataset.DiffusionBValue = -1.0
    assert b_value(dataset) is None


def test_a_private_text_that_cannot_be_read_costs_its_element_only(tmp_path):
    datasets = volumes(2, setter("DiffusionBValue", 0.0, 800.0))
    datasets[0].private_block(*SIEMENS, create=True).add_new(0x0C, "LO", "eight hundred")
    datasets[0][0x0019, 0x100C].VR = "UN"
    datasets[0][0x0019, 0x100C].value = b"eight hundred "
    assert read(datasets, tmp_path, 0)[0] == 0


def test_the_public_b_value_counts_before_a_private_one(tmp_path):
    dataset = pydicom.Dataset()
    dataset.DiffusionBValue = 3000.0
    dataset.private_block(*GE, create=True).add_new(0x39, "IS", [1000, 1073741832, 0, 0])
    assert b_value(dataset) == 3000


def test_black_slices_of_two_directions_are_not_taken_for_copies(tmp_path):
    change = together(setter("DiffusionBValue", 800.0, 800.0, 800.0), directional(X, Y, NULL))
    datasets = volumes(3, change)
    for dataset in datasets[::6]:
        dataset.PixelData = bytes(len(dataset.PixelData))
    plain = series_of(write(datasets, tmp_path))
    notes: list[str] = []
    role = Series(plain.series_uid, "MR", plain.paths, Wanted(b_value=800))
    volume = read_series_volume(role, notes=notes)
    np.testing.assert_array_equal(volume.array[1:], ct_hu(seed=2)[1:] + 1024)
    assert "left out" not in " ".join(notes)


def test_an_element_that_cannot_be_read_costs_itself_only(tmp_path):
    datasets = volumes(2, private(SIEMENS, 0x0C, "IS", 0, 800))
    paths = write(datasets, tmp_path)
    # Diffusion b-value (0018,9087), a double of three bytes.
    broken = b"\x18\x00\x87\x90FD\x04\x00abcd"
    for path in paths:
        data = path.read_bytes()
        place = data.index(b"\x19\x00\x10\x00LO")
        path.write_bytes(data[:place] + broken + data[place:])
    plain = series_of(paths)
    role = Series(plain.series_uid, "MR", plain.paths, Wanted(b_value=800))
    np.testing.assert_array_equal(read_series_volume(role).array, ct_hu(seed=1) + 1024)


@pytest.mark.parametrize("stated", [-800, 2000000800])
def test_a_number_of_ge_that_no_bias_explains_is_no_b_value_of_another(stated, tmp_path):
    header = Dataset()
    header.private_block(GE[0], GE[1], create=True).add_new(0x39, "IS", [stated, 8, 0, 0])
    assert b_value(header) not in {800, 200}
