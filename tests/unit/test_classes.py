"""Sums over classes of patients do not give those over a few, whatever columns are called."""

from __future__ import annotations

import numpy as np
import pytest

from federation_world import MEAN
from jipflow.analyses.cells import CellKey, Values
from jipflow.analyses.contract import Proposed
from jipflow.analyses.design import Design
from jipflow.analyses.linear import Linear
from jipflow.analyses.linear import Settings as LinearSettings
from jipflow.analyses.rules import Finding
from jipflow.analyses.summary import Settings as SummarySettings
from jipflow.analyses.summary import Summary
from jipflow.release.candidate import _behind
from jipflow.release.gate import DIFFERENCE, decide
from jipflow.release.history import EARLIER, History
from jipflow.release.noise import Noisy
from jipflow.release.saturation import Regions
from jipflow.settings.protocol import Disclosure
from models_world import entry

ROWS = 80
IDS = np.array([f"p{i:03d}" for i in range(ROWS)], dtype=object)
OUTCOME = np.random.default_rng(1).normal(50, 5, ROWS)
HALF = (np.arange(ROWS) % 2).astype(float)
STAGES = np.arange(ROWS) % 3
THIRDS = STAGES == 0
KEY = CellKey("CT", "organs", "liver", MEAN)


def but(indicator, *rows):
    """Return an indicator in which some patients are in the other class."""
    found = indicator.astype(float)
    found[list(rows)] = 1 - found[list(rows)]
    return found


def model(id, *columns, category=False):
    """Return a regression of one outcome on indicators, which may be those of one category."""
    named = [f"{id}{i}" for i in range(len(columns))]
    covariates = [{"variable": f"clinical.{name}"} for name in named]
    analysis = Linear(LinearSettings.model_validate(entry("linear", id, covariates=covariates)))
    keys = (KEY, *(CellKey("clinical", "clinical", "patient", name) for name in named))
    size = len(keys)
    raw = np.column_stack([OUTCOME, *columns])
    of = (-1, *([0] * len(columns) if category else range(len(columns))))
    rows = Design(IDS, IDS, keys, of, raw, np.zeros(size), np.ones(size))
    columns_ = rows.columns(1 + size)
    return Proposed(analysis, KEY, columns_[0].values, rows, columns_)


def group(name, inside):
    """Return the mean of a group."""
    by = {"of": "clinical.sex", "groups": {name: "F"}}
    settings = SummarySettings.model_validate(entry("summary", "by-group", by=by))
    ids = IDS[inside == 1]
    values = Values(OUTCOME[inside == 1], ids, ids, frozenset(ids))
    analysis = Summary(settings)
    return Proposed(analysis, KEY._replace(group=name), values, analysis.compute(values))


def found(*cells, pasts=()):
    """Return the rule that withholds each cell, None where it leaves, and the decisions."""
    limits = Disclosure(min_patients=10)
    decisions = decide(cells, {i: i for i in IDS}, limits, Regions(), History(pasts))
    rules = {
        d.proposed.analysis.settings.id: next(
            (rule for rule, what in d.findings.items() if what is Finding.WITHHELD), None
        )
        for d in decisions
    }
    return rules, decisions


def past(decisions):
    return _behind(decisions, Noisy(), {}, {}, {}).past()


FEW = {
    "the same but for three": [model("a", HALF), model("b", but(HALF, 1, 4, 7))],
    "the same the other way round": [model("a", HALF), model("b", 1 - but(HALF, 1, 4, 7))],
    "two that are a third but for one": [
        model("a", STAGES == 1, STAGES == 2, category=True),
        model("b", but(STAGES > 0, 0)),
    ],
    "two that are a third but for two, who cancel out in its number": [
        model("a", STAGES == 1, STAGES == 2, category=True),
        model("b", but(STAGES > 0, 0, 1)),
    ],
    "a group but for one": [group("a", HALF), model("b", but(HALF, 12))],
}


@pytest.mark.parametrize("case", FEW)
def test_models_of_classes_that_differ_in_few_do_not_both_leave(case):
    rules, _ = found(*FEW[case])
    assert list(rules.values()).count(DIFFERENCE) == 1


@pytest.mark.parametrize("case", FEW)
def test_nor_do_they_by_releases(case):
    for cells in (FEW[case], FEW[case][::-1]):
        pasts, left = [], []
        for cell in cells:
            rules, decisions = found(cell, pasts=pasts)
            left += rules.values()
            pasts.append(past(decisions))
        assert left == [None, EARLIER]


def test_the_sum_of_the_three_would_follow():
    _, decisions = found(model("a", HALF))
    _, others = found(model("b", but(HALF, 0, 2, 4)))
    cells = [each[0].released for each in (decisions, others)]
    sums = [c.products[1][0] + c.n * c.means[0] * c.means[1] for c in cells]
    assert sums[1] - sums[0] == pytest.approx(OUTCOME[[0, 2, 4]].sum(), rel=1e-9)


def test_classes_that_differ_in_many_leave():
    rules, _ = found(model("a", HALF), model("b", THIRDS), model("c", HALF, THIRDS))
    assert set(rules.values()) == {None}
    rules, _ = found(group("a", HALF), model("b", THIRDS), model("c", HALF))
    assert set(rules.values()) == {None}


def test_what_left_leaves_again():
    cells = [model("a", HALF), model("b", THIRDS)]
    _, decisions = found(*cells)
    assert set(found(*cells, pasts=[past(decisions)])[0].values()) == {None}
