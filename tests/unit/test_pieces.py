"""A cell of several columns is looked at column by column, and leaves whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from jipflow.analyses import contract
from jipflow.analyses.cells import CellKey, Measured, Place, Values, only
from jipflow.analyses.contract import Proposed
from jipflow.analyses.facts import Column
from jipflow.analyses.rules import Finding
from jipflow.analyses.summary import Settings as SummarySettings
from jipflow.analyses.summary import Summary
from jipflow.release.behind import Behind
from jipflow.release.candidate import _behind
from jipflow.release.cover import cells_of
from jipflow.release.differences import are_few
from jipflow.release.gate import DIFFERENCE, SATURATION, decide
from jipflow.release.history import EARLIER, History
from jipflow.release.noise import Noisy
from jipflow.release.saturation import Regions
from jipflow.release.since import differences
from jipflow.settings.protocol import Disclosure
from products_analysis import Products, Settings, cell_of

IDN, IDMN = "original_glcm_Idn", "original_glcm_Idmn"


@pytest.fixture(autouse=True)
def products(monkeypatch):
    """The kind, as if its module lay in the folder."""
    found = contract.analysis_classes
    known = lambda base: {**found(base), "products": Products}  # noqa: E731
    monkeypatch.setattr(contract, "analysis_classes", known)


def key(feature):
    return CellKey("CT", "organs", "liver", feature)


def values(numbers, patients=None):
    """Return a value of each patient, or of each of these."""
    patients = range(len(numbers)) if patients is None else patients
    names = np.array([f"p{i:02d}" for i in patients], dtype=object)
    return Values(np.asarray(numbers, dtype=float), names, names, frozenset(names))


def drawn(seed, patients=12):
    return values(np.random.default_rng(seed).normal(60, 10, patients))


def model(outcome, *others, id="products", feature=IDN, names=("volume_ml",)):
    """Return a cell of an outcome and of further columns, by the features' names."""
    analysis = Products(Settings(id=id, kind="products", variables=["CT.*"], others=[]))
    columns = [(key(feature), outcome), *((key(n), v) for n, v in zip(names, others, strict=True))]
    return cell_of(analysis, columns)


def mean(of, feature=IDN):
    analysis = Summary(SummarySettings(id="describe", kind="summary", variables=["CT.*"]))
    return Proposed(analysis, key(feature), of, analysis.compute(of))


def decided(*cells, history=None):
    """Return the decisions of the gate, by the analysis' id."""
    patients = {case: case for cell in cells for case in cell.cases}
    disclosure = Disclosure(min_patients=5)
    return decide(cells, patients, disclosure, Regions(), history or History())


def rules(decisions):
    """Return the rule that withheld each cell, None where it leaves."""
    return {
        d.proposed.analysis.settings.id: next(
            (rule for rule, found in d.findings.items() if found is Finding.WITHHELD), None
        )
        for d in decisions
    }


def after(decisions):
    """Return what the ledger then knows, as it reads it again."""
    return _behind(decisions, Noisy(), {}, {}, {}).past()


def test_a_cell_leaves_whole_with_a_piece_for_each_column():
    outcome, other = drawn(1), drawn(2)
    (decision,) = decided(model(outcome, other))
    assert decision.released.sums == [
        outcome.numbers @ outcome.numbers,
        outcome.numbers @ other.numbers,
    ]
    first, second = decision.proposed.pieces
    assert (first.key, second.key) == (key(IDN), key("volume_ml"))
    assert (first.equations, second.equations) == (3, 3)
    assert first.model == second.model != ""


def test_a_cell_of_one_column_is_its_only_piece():
    cell = mean(drawn(1))
    assert list(cell.pieces) == [cell]
    assert (cell.equations, cell.model) == (2, "")


def test_a_model_that_lacks_one_patient_of_another_stays_whole():
    outcome, other, third = (drawn(seed, 20) for seed in (1, 2, 3))
    fewer = frozenset(sorted(outcome.cases)[:-1])
    complete = [only(each, fewer) for each in (outcome, third)]
    found = decided(model(outcome, other, id="a"), model(*complete, names=[IDMN], id="b"))
    assert rules(found) == {"a": None, "b": DIFFERENCE}


def test_a_column_that_differs_from_a_mean_in_one_patient_takes_the_model_with_it():
    outcome, other = drawn(1, 20), drawn(2, 20)
    changed = values([*other.numbers[:-1], other.numbers[-1] + 30])
    found = decided(mean(other, "volume_ml"), model(outcome, changed))
    assert rules(found) == {"describe": None, "products": DIFFERENCE}
    unlike = decided(mean(other, "volume_ml"), model(outcome, drawn(3, 20)))
    assert rules(unlike) == {"describe": None, "products": None}


def test_covariates_in_turn_are_fewer_equations_than_patients():
    outcome = drawn(1)
    cells = [
        model(outcome, drawn(10 + i), names=[f"original_ngtdm_{i}"], id=f"m{i}") for i in range(5)
    ]
    found = rules(decided(*cells))
    assert list(found.values()) == [None, None, None, SATURATION, SATURATION]


def regressed(outcome, covariate, feature):
    """Return a cell of an outcome and a covariate, whose own sums are those of any outcome."""
    name = feature.rpartition("_")[2]
    analysis = Products(Settings(id=name, kind="products", variables=["CT.*"], others=[]))
    columns = [
        Column(key(feature), outcome, 3),
        Column(key("age"), covariate, 1),
        Column(key("age"), covariate, 2, (1,)),
    ]
    return Proposed(analysis, key(feature), outcome, [1.0], columns)


def test_what_the_same_columns_say_in_many_cells_counts_once():
    """Mean and square of a covariate, and its product with each of eight outcomes, of 12."""
    covariate = drawn(1)
    names = [f"original_ngtdm_{i}" for i in range(9)]
    cells = [regressed(drawn(10 + i), covariate, name) for i, name in enumerate(names)]
    own, shared = cells[0].pieces[1:]
    assert own.model == cells[0].pieces[0].model != shared.model
    assert shared.model == cells[1].pieces[2].model
    assert regressed(drawn(10), drawn(2), "x").pieces[2].model != shared.model
    found = decided(*cells)
    assert rules(found) == {str(i): SATURATION if i == 8 else None for i in range(9)}
    history = History([after(found)])
    assert rules(decided(cells[8], history=history)) == {"8": EARLIER}
    assert rules(decided(*cells[:8], history=history)) == {str(i): None for i in range(8)}


def test_equal_values_of_many_cells_are_compared_once(monkeypatch):
    """A covariate of many outcomes is one variable; what withholds it holds for all of them."""
    compared = []

    def counted(*each):
        compared.append(each)
        return are_few(*each)

    monkeypatch.setattr("jipflow.release.differences.are_few", counted)
    cells = [regressed(drawn(10 + i), drawn(1), f"original_ngtdm_{i}") for i in range(8)]
    assert rules(decided(*cells)) == {str(i): None for i in range(8)}
    assert len(compared) == 8 + 1
    changed = values([*drawn(1).numbers[:-1], 99.0])
    cells += [regressed(drawn(10 + i), changed, f"original_ngtdm_{i}") for i in (8, 9)]
    expected = {str(i): None if i < 8 else DIFFERENCE for i in range(10)}
    assert rules(decided(*cells)) == expected


def test_covariates_in_turn_over_releases():
    outcome = drawn(1)
    cells = [
        model(outcome, drawn(10 + i), names=[f"original_ngtdm_{i}"], id=f"m{i}") for i in range(4)
    ]
    pasts = []
    for i, cell in enumerate(cells):
        found = decided(cell, history=History(pasts))
        assert rules(found) == {f"m{i}": None if i < 3 else EARLIER}
        pasts.append(after(found))
    again = decided(cells[0], history=History(pasts))
    assert rules(again) == {"m0": None}


def test_a_later_column_that_differs_in_one_patient_takes_the_model_with_it():
    outcome, other = drawn(1, 20), drawn(2, 20)
    pasts = [after(decided(model(outcome, other)))]
    changed = values([*other.numbers[:-1], other.numbers[-1] + 30])
    found = decided(model(drawn(3, 20), changed, feature=IDMN), history=History(pasts))
    assert rules(found) == {"products": EARLIER}
    fewer = [only(each, frozenset(sorted(outcome.cases)[:-1])) for each in (drawn(3, 20), other)]
    found = decided(model(*fewer, feature=IDMN), history=History(pasts))
    assert rules(found) == {"products": EARLIER}


def test_a_reader_counts_cells_and_not_columns():
    past = after(decided(model(drawn(1), drawn(2)), mean(drawn(4), IDMN)))
    assert len(past.cells) == 3
    assert [cell.key.feature for cell in past.left] == [IDMN, IDN]
    assert len(differences(past, [])) == len(cells_of(past)) == 2


def test_what_stands_behind_a_cell_of_one_column_is_as_before():
    kept = Behind.of(after(decided(mean(drawn(1))))).cells
    assert b'"model"' not in kept
    assert b'"number"' not in kept


def test_the_complete_cases_are_proposed():
    import pandas as pd

    rows = [
        {"case_id": f"p{i:02d}", "patient": f"p{i:02d}", "role": "CT", "segmentation": "organs"}
        | {"segment": "liver", IDN: float(i), "volume_ml": np.nan if i == 3 else 2.0 * i}
        for i in range(12)
    ]
    measured = Measured(pd.DataFrame(rows), [Place("CT", "organs", "liver")])
    settings = Settings(id="x", kind="products", variables=[f"CT.{IDN}"], others=["volume_ml"])
    (cell,) = Products(settings).propose(measured)
    assert len(cell.cases) == 11
    assert {piece.cases for piece in cell.pieces} == {cell.cases}
