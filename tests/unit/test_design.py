"""The rows of a model: who is in it, and what sums over its columns tell of few."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from jipflow.analyses import design as of_designs
from jipflow.analyses.cells import CLINICAL, CellKey, Measured, Place, Places
from jipflow.analyses.design import broken, column_names, design, pair_dominates
from jipflow.settings.covariates import Covariate
from jipflow.settings.protocol import Disclosure

GTV = Place("PT", "gtv", "tumour")
VOLUME = CellKey(*GTV, "volume_ml")
DISCLOSURE = Disclosure(min_patients=5)
AGE = Covariate(variable="clinical.age", center=60, scale=10)
STAGE = Covariate(variable="clinical.stage", values=["I", "II", "III"], reference="I")
ROWS = 60


def table(**changed):
    """Return volumes, ages and stages of patients of a case each."""
    random = np.random.default_rng(5)
    numbers = {
        "volume_ml": random.lognormal(3, 0.5, ROWS),
        "age": random.normal(62, 9, ROWS),
        "stage": np.arange(ROWS) % 3.0,
        **changed,
    }
    cases = pd.DataFrame({"case_id": [f"c{i:03d}" for i in range(ROWS)]})
    cases["patient"] = changed.pop("patient", [f"p{i:03d}" for i in range(ROWS)])
    keys = list(Place._fields)
    measured = cases.assign(**dict(zip(keys, GTV, strict=True)), volume_ml=numbers["volume_ml"])
    rows = [cases.assign(**dict(zip(keys, CLINICAL, strict=True)), age=numbers["age"])]
    rows[0]["stage"] = numbers["stage"]
    both = pd.concat([measured, *rows], ignore_index=True)
    return Measured(both, Places.of([GTV], ["age", "stage"]))


def rows_of(*covariates, **changed):
    return design(table(**changed), VOLUME, covariates or (AGE, STAGE))


def numbers(name, **at):
    """Return what `table` has of a variable, with other values of some patients."""
    found = table().values(CellKey(*(GTV if name == "volume_ml" else CLINICAL), name)).numbers
    for case, value in at.items():
        found[int(case[1:])] = value
    return found


def rule(rows, parameters=4):
    return broken(rows, DISCLOSURE, parameters, len(rows.patients))


def test_a_row_is_a_case_that_has_every_variable():
    rows = rows_of(age=numbers("age", c7=np.nan), volume_ml=numbers("volume_ml", c9=np.nan))
    assert list(rows.case_ids) == [f"c{i:03d}" for i in range(ROWS) if i not in (7, 9)]
    assert rows.names == column_names("volume_ml", [AGE, STAGE])
    assert rows.names == ("volume_ml", "age", "stage=II", "stage=III")
    assert rows.of == (-1, 0, 1, 1)
    assert rows.raw[:3, 2:].tolist() == [[0, 0], [1, 0], [0, 1]]
    assert np.array_equal(rows.standardised[:, 1], (rows.raw[:, 1] - 60) / 10)
    assert np.array_equal(rows.standardised[:, 2:], rows.raw[:, 2:])
    (_, _, second, _) = rows.columns(7)
    assert (second.key, second.equations) == (CellKey(*CLINICAL, "stage=II"), 7)
    assert second.values.numbers.sum() == 19


def test_the_order_of_the_table_does_not_show():
    measured = table()
    shuffled = measured._table.sample(frac=1, random_state=3).reset_index(drop=True)
    other = design(Measured(shuffled, measured.places), VOLUME, [AGE, STAGE])
    assert np.array_equal(other.raw, rows_of().raw)


def test_nobody_has_every_variable():
    rows = rows_of(age=np.full(ROWS, np.nan))
    assert rows.raw.shape == (0, 4)


def test_usual_rows_may_leave():
    assert rule(rows_of()) is None


def test_a_patient_with_two_cases_is_no_row_of_two():
    patients = [f"p{i // 2:03d}" for i in range(ROWS)]
    assert rule(rows_of(patient=patients)) == of_designs.ONE_ROW


def test_a_value_that_few_have_is_withheld():
    stage = np.where(np.arange(ROWS) < 3, 2.0, np.arange(ROWS) % 2)
    assert rule(rows_of(stage=stage)) == of_designs.ZERO_VARIANCE


def test_a_reference_that_few_have_is_withheld():
    stage = np.where(np.arange(ROWS) < 3, 0.0, 1 + np.arange(ROWS) % 2)
    assert rule(rows_of(stage=stage)) == of_designs.FEW_IN_CLASS


def test_a_column_that_tells_of_one_patient_of_a_class_is_withheld():
    age = np.where(np.arange(ROWS) % 3 == 1, 60.0, numbers("age"))
    age[1] = 71.5
    assert rule(rows_of(age=age)) == of_designs.FEW_IN_CLASS


def test_two_columns_that_differ_in_one_patient_are_withheld():
    """Each by itself is as any other, and their difference is the patient's."""
    age = numbers("volume_ml")
    age[4] += 7
    assert rule(rows_of(age=age)) == of_designs.FEW_IN_COMBINATION


def test_a_product_that_one_patient_makes_is_withheld():
    volume, age = numbers("volume_ml"), numbers("age")
    half = np.arange(ROWS) % 2 == 0
    volume[half] = np.median(volume) + 1e-6 * np.arange(half.sum())
    age[~half] = np.median(age) + 1e-6 * np.arange((~half).sum())
    volume[1], age[1] = volume[1] + 30, np.median(age) + 30
    rows = rows_of(AGE, volume_ml=volume, age=age)
    assert rule(rows) == of_designs.FEW_IN_COMBINATION


def test_too_many_parameters_are_withheld():
    assert rule(rows_of(), parameters=19) is None
    assert rule(rows_of(), parameters=20) == of_designs.TOO_MANY_PARAMETERS


def test_a_number_beyond_the_range_is_withheld():
    assert rule(rows_of(age=numbers("age", c3=1e101))) == of_designs.NUMBER_RANGE


@pytest.mark.parametrize("seed", range(20))
def test_the_share_of_two_rows_is_the_greatest_of_any_combination(seed):
    random = np.random.default_rng(seed)
    matrix = random.standard_t(2, (12, 3))
    left, _, _ = np.linalg.svd(matrix, full_matrices=False)
    shares = [
        np.linalg.svd(left[list(pair)], compute_uv=False)[0] ** 2
        for pair in itertools.combinations(range(12), 2)
    ]
    greatest = max(shares)
    # That of a combination is no more, and is reached.
    tried = matrix @ random.normal(size=(3, 4000))
    squares = np.sort(np.square(tried), axis=0)
    assert (squares[-2:].sum(axis=0) / squares.sum(axis=0)).max() <= greatest + 1e-12
    assert pair_dominates(matrix, greatest - 1e-9)
    assert not pair_dominates(matrix, greatest + 1e-9)


def test_columns_without_a_value_dominate_nothing():
    assert not pair_dominates(np.zeros((9, 2)), 0.9)
    assert pair_dominates(np.column_stack([np.eye(9)[0], np.zeros(9)]), 0.9)


def test_every_column_of_a_group_is_of_that_group():
    rows = design(table(), VOLUME._replace(group="women"), [AGE, STAGE])
    assert {key.group for key in rows.keys} == {"women"}
