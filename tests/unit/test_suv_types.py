"""Units and types of SUV, measures of the body, and Philips' factors."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from jipflow.images.suv.bodies import SuvType, du_bois
from jipflow.images.suv.factors import real_world_units
from jipflow.notes import Notes
from jipflow.reasons import Decision, Reason
from pet_headers import (
    factors,
    fields,
    in_one_slice,
    per_bq,
    private,
    refused,
    tracer,
)

PHILIPS = {"manufacturer": "Philips Medical Systems", "units": "CNTS"}
GROUP = (0x7053, "Philips PET Private Group")

MEASURES = {
    # Of 70 kg and 1.75 m by hand: 70² / 175² = 0.16, a body mass index of 22.857.
    ("LBM", "M"): 1.10 * 70 - 120 * 0.16,
    ("LBM", "F"): 1.07 * 70 - 148 * 0.16,
    ("LBMJAMES128", "M"): 1.10 * 70 - 128 * 0.16,
    ("LBMJAMES128", "F"): 1.07 * 70 - 148 * 0.16,
    ("LBMJANMA", "M"): 9270 * 70 / (6680 + 216 * 70 / 1.75**2),
    ("LBMJANMA", "F"): 9270 * 70 / (8780 + 244 * 70 / 1.75**2),
    ("IBW", "M"): 48.0 + 1.06 * 23,
    ("IBW", "F"): 45.5 + 0.91 * 23,
}
"""Mass in kg that each type of SUV divides activity by, by sex."""
SURFACE_CM2 = 18482.0
"""Of 70 kg and 1.75 m, by Du Bois' table: 1.85 m²."""


@pytest.mark.parametrize(("kind", "sex"), sorted(MEASURES))
def test_suv_by_a_mass(kind, sex):
    expected = per_bq() * MEASURES[kind, sex] / 70
    np.testing.assert_allclose(factors(kind=SuvType(kind), sex=sex), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ["LBM", "LBMJAMES128", "LBMJANMA", "IBW"])
def test_of_another_sex_the_mean_is_taken_and_noted(kind):
    notes = Notes()
    mean = (MEASURES[kind, "M"] + MEASURES[kind, "F"]) / 2
    found = factors(kind=SuvType(kind), sex="O", notes=notes)
    np.testing.assert_allclose(found, per_bq() * mean / 70, rtol=1e-9)
    assert Decision.MEAN_OF_SEXES in notes.decisions
    assert f"so {kind} is the mean" in notes.sentences[0]


def test_suv_by_body_surface():
    assert du_bois(70.0, 1.75) * 1e4 == pytest.approx(SURFACE_CM2, rel=1e-4)
    found = factors(kind=SuvType.BSA)
    np.testing.assert_allclose(found, per_bq() * SURFACE_CM2 / 70_000, rtol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in SuvType if kind is not SuvType.BW])
@pytest.mark.parametrize("sex", ["M", "F"])
def test_a_stored_suv_of_another_type_is_turned_into_suvbw(kind, sex):
    notes = Notes()
    stored = fields(Units=kind.units, SUVType=kind.value)
    found = factors(stored, units="GML", sex=sex, notes=notes)
    mass = SURFACE_CM2 / 1000 if kind is SuvType.BSA else MEASURES[kind.value, sex]
    np.testing.assert_allclose(found, 70 / mass, rtol=1e-4)
    assert notes.decisions == [Decision.SUV_OF_ANOTHER_TYPE]
    assert f"is stored in {kind.written}; SUVbw is that times" in notes.sentences[0]


@pytest.mark.parametrize("kind", list(SuvType))
def test_a_stored_suv_of_the_type_asked_for_is_taken_as_it_is(kind):
    notes = Notes()
    stored = fields(Units=kind.units, SUVType=kind.value, PatientWeight=None, PatientSize=None)
    np.testing.assert_array_equal(factors(stored, units="GML", kind=kind, notes=notes), 1.0)
    assert notes.decisions == [Decision.SUV_AS_STORED]
    assert kind.written in notes.sentences[0]


def test_a_suv_without_its_type_is_by_weight_and_noted():
    notes = Notes()
    found = factors(fields(SUVType=None), units="GML", notes=notes)
    np.testing.assert_array_equal(found, 1.0)
    assert notes.decisions == [Decision.SUV_TYPE_ASSUMED, Decision.SUV_AS_STORED]
    surface = factors(fields(Units="CM2ML", SUVType=None), units="GML", kind=SuvType.BSA)
    np.testing.assert_array_equal(surface, 1.0)


def test_a_lower_case_term_is_read():
    np.testing.assert_array_equal(factors(fields(SUVType="bw"), units="GML"), 1.0)


@pytest.mark.parametrize(
    "change",
    [
        fields(Units="CM2ML", SUVType="BW"),
        fields(SUVType="BSA"),
        fields(SUVType="FAT"),
        fields(Units="PROPCPS"),
        fields(Units="PROPCNTS"),
        fields(Units=None),
        fields(Units="CNTS"),
        fields(CorrectedImage=["DECY"]),
        in_one_slice(fields(Units="BQML")),
    ],
)
def test_other_units_are_refused(change):
    assert refused(change, units="GML").reason is Reason.UNSUPPORTED_UNITS


def test_a_stored_suv_may_leave_its_corrections_out():
    np.testing.assert_array_equal(factors(fields(CorrectedImage=None), units="GML"), 1.0)
    for units in ("BQML", "CNTS"):
        fault = refused(fields(CorrectedImage=None), units=units)
        assert fault.reason is Reason.UNSUPPORTED_UNITS
        assert "needs ATTN" in fault.message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (fields(PatientSize=None), Reason.MISSING_SUV_FIELD),
        (fields(PatientSize="0"), Reason.MISSING_SUV_FIELD),
        (fields(PatientSize="175"), Reason.IMPLAUSIBLE_SUV_FIELD),
        (fields(PatientSize="1750"), Reason.IMPLAUSIBLE_SUV_FIELD),
        (fields(PatientSize="0.29", PatientWeight="1"), Reason.IMPLAUSIBLE_SUV_FIELD),
        (fields(PatientSize="2.51"), Reason.IMPLAUSIBLE_SUV_FIELD),
        (fields(PatientSex=None), Reason.MISSING_SUV_FIELD),
        (fields(PatientSex="U"), Reason.MISSING_SUV_FIELD),
        (fields(PatientWeight=None), Reason.MISSING_SUV_FIELD),
        (in_one_slice(fields(PatientSize="1.8")), Reason.CONTRADICTORY_SUV_FIELDS),
        (in_one_slice(fields(PatientSex="F")), Reason.CONTRADICTORY_SUV_FIELDS),
    ],
)
def test_a_body_that_cannot_be_measured_is_refused(change, reason):
    assert refused(change, kind=SuvType.LBM).reason is reason
    assert refused(change, fields(SUVType="LBM"), units="GML").reason is reason


@pytest.mark.parametrize(
    ("size", "looks"),
    [("175", "looks like centimetres"), ("1750", "looks like millimetres"), ("5", "a person")],
)
def test_a_size_in_another_unit_is_refused(size, looks):
    message = refused(fields(PatientSize=size), kind=SuvType.BSA).message
    assert looks in message
    assert ("looks" in message) == ("looks" in looks)


@pytest.mark.parametrize("size", ["0.3", "2.5"])
def test_a_size_at_its_bound_is_taken(size):
    weight = f"{20 * float(size) ** 2:.3f}"
    factors(fields(PatientSize=size, PatientWeight=weight), kind=SuvType.BSA)


def test_a_formula_beyond_its_bodies_is_refused():
    fault = refused(fields(PatientSize="0.5", PatientWeight="5"), kind=SuvType.IBW)
    assert fault.reason is Reason.IMPLAUSIBLE_SUV_FIELD
    assert "formula holds for other bodies" in fault.message


def philips(element, value, vr="DS"):
    return private(*GROUP, element, vr, value)


def test_philips_factor_to_suv():
    notes = Notes()
    np.testing.assert_allclose(factors(philips(0, "0.0005"), notes=notes, **PHILIPS), 0.0005)
    assert notes.decisions == [Decision.PHILIPS_SUV_FACTOR]
    assert "counts times 0.0005, by (7053,xx00)" in notes.sentences[0]


def test_philips_factor_to_activity():
    notes = Notes()
    found = factors(philips(9, "2"), notes=notes, **PHILIPS)
    np.testing.assert_allclose(found, 2 * per_bq())
    assert notes.decisions == [
        Decision.PHILIPS_ACTIVITY_FACTOR,
        Decision.DECAY_TO_SERIES_TIME,
    ]
    np.testing.assert_allclose(factors(philips(0, "0"), philips(9, "2"), **PHILIPS), found)


@pytest.mark.parametrize(
    ("ratio", "good"), [(0.951, True), (0.949, False), (1.051, False), (1.049, True)]
)
def test_philips_factors_agree_within_five_percent(ratio, good):
    both = philips(0, f"{per_bq() * 2:.10g}"), philips(9, f"{2 * ratio:.10g}")
    if good:
        np.testing.assert_allclose(factors(*both, **PHILIPS), 2 * per_bq())
    else:
        assert refused(*both, **PHILIPS).reason is Reason.CONTRADICTORY_SUV_FIELDS


def test_philips_factor_to_suv_is_enough_where_the_dose_is_missing():
    both = philips(0, "0.0005"), philips(9, "7"), tracer(RadionuclideTotalDose=None)
    np.testing.assert_allclose(factors(*both, **PHILIPS), 0.0005)
    absurd = philips(0, "0.0005"), philips(9, "7"), tracer(RadionuclideTotalDose="368")
    assert refused(*absurd, **PHILIPS).reason is Reason.IMPLAUSIBLE_SUV_FIELD


def test_philips_block_is_found_by_its_creator():
    other = private(0x7053, "SOMETHING ELSE", 0, "DS", "7")
    np.testing.assert_allclose(factors(other, philips(0, "0.0005"), **PHILIPS), 0.0005)
    assert refused(other, **PHILIPS).reason is Reason.UNSUPPORTED_UNITS


def test_philips_factor_that_was_left_as_bytes_is_read():
    np.testing.assert_allclose(factors(philips(0, b"0.0005\0", "UN"), **PHILIPS), 0.0005)


@pytest.mark.parametrize("maker", ["SIEMENS", "GE MEDICAL SYSTEMS", ""])
def test_philips_factors_of_another_maker_are_refused(maker):
    fault = refused(philips(0, "0.0005"), units="CNTS", manufacturer=maker)
    assert fault.reason is Reason.UNSUPPORTED_UNITS


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([], Reason.UNSUPPORTED_UNITS),
        ([philips(0, "0"), philips(9, "0")], Reason.UNSUPPORTED_UNITS),
        ([philips(0, "-1")], Reason.MISSING_SUV_FIELD),
        ([philips(9, "-1")], Reason.MISSING_SUV_FIELD),
        ([philips(0, "none", "LO")], Reason.MISSING_SUV_FIELD),
        ([philips(0, "1"), in_one_slice(philips(0, "0"))], Reason.CONTRADICTORY_SUV_FIELDS),
        ([philips(9, "1"), in_one_slice(philips(9, "2"))], Reason.CONTRADICTORY_SUV_FIELDS),
        (
            [philips(0, "0.0005"), fields(CorrectedImage=["ATTN"], DecayCorrection="NONE")],
            Reason.UNSUPPORTED_UNITS,
        ),
    ],
)
def test_philips_factors_that_do_not_do_are_refused(changes, reason):
    assert refused(*changes, **PHILIPS).reason is reason


def test_philips_suv_is_turned_into_another_type():
    notes = Notes()
    found = factors(philips(0, "0.0005"), kind=SuvType.LBM, notes=notes, **PHILIPS)
    np.testing.assert_allclose(found, 0.0005 * MEASURES["LBM", "M"] / 70)
    assert notes.sentences[-1].startswith("SUVlbm is counts times")


def mapped(*codes, scheme="UCUM", slope=True):
    header = Dataset()
    header.RealWorldValueMappingSequence = []
    for code in codes:
        mapping, unit = Dataset(), Dataset()
        if slope:
            mapping.RealWorldValueSlope = 1.0
        unit.CodeValue, unit.CodingSchemeDesignator = code, scheme
        mapping.MeasurementUnitsCodeSequence = [unit]
        header.RealWorldValueMappingSequence.append(mapping)
    return header


@pytest.mark.parametrize(
    ("code", "units"),
    [
        ("Bq/ml", "BQML"),
        ("Bq/mL", "BQML"),
        ("g/ml{SUVbw}", "GML"),
        ("{SUVbw}g/ml", "GML"),
        ("g/ml{SUVlbm}", "GML"),
        ("g/ml{SUVlbm(James128)}", "GML"),
        ("g/ml{SUVlbm(Janma)}", "GML"),
        ("g/ml{SUVibw}", "GML"),
        ("cm2/ml{SUVbsa}", "CM2ML"),
        ("g/ml{SUVbsa}", ""),
        ("cm2/ml{SUVbw}", ""),
        ("g/ml{SUVfat}", ""),
        ("kBq/ml", ""),
        ("g/ml", ""),
        ("", ""),
    ],
)
def test_units_of_real_world_values(code, units):
    assert real_world_units(mapped(code)) == units


def test_real_world_values_that_are_not_sure_have_no_units():
    assert real_world_units(mapped("Bq/ml", "Bq/ml")) == ""
    assert real_world_units(mapped("Bq/ml", slope=False)) == ""
    assert real_world_units(mapped("Bq/ml", scheme="DCM")) == ""
    assert real_world_units(Dataset()) == ""


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("g/ml{SUVlbm}", "LBM"),
        ("g/ml{SUVlbm(James128)}", "LBMJAMES128"),
        ("g/ml{SUVlbm(Janma)}", "LBMJANMA"),
        ("g/ml{SUVibw}", "IBW"),
    ],
)
def test_the_units_code_names_the_type_of_suv(code, kind):
    def change(datasets):
        for dataset in datasets:
            del dataset.Units
            dataset.RealWorldValueMappingSequence = mapped(code).RealWorldValueMappingSequence

    found = factors(change, fields(SUVType=None), units="GML")
    np.testing.assert_allclose(found, 70 / MEASURES[kind, "M"])
    # SUV Type itself says it better.
    np.testing.assert_array_equal(factors(change, fields(SUVType="BW"), units="GML"), 1.0)
