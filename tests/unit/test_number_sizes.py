"""Numbers beyond 2⁵³ stay floats on their way; those too small to be squared do not leave."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from jipflow.analyses.cells import CellKey
from jipflow.analyses.contract import kinds
from jipflow.analyses.facts import LedgerCell
from jipflow.analyses.rules import Withheld
from jipflow.analyses.scatter import in_range, scatter
from jipflow.exchange.envelope import strict_json
from jipflow.exchange.message import canonical, whole
from jipflow.release.behind import Behind
from jipflow.release.history import Past
from jipflow.settings.protocol import Disclosure
from models_world import values

FLOATS = [2.0**53, 1e17, 727238115767299200.0, -1e20, 9.99e20, 1e21, 2.5e300, 0.5]


def test_what_is_read_is_written_again():
    """A hub states variances of energies, in a file that it reads again and sends to sites."""
    written = canonical(FLOATS)
    for read in (strict_json(written), json.loads(written, parse_int=whole)):
        assert read == FLOATS
        assert {type(each) for each in read} == {float}
        assert canonical(read) == written
        assert np.array(read).dtype == np.float64


@pytest.mark.parametrize("text", ["9223372036854775808", "100000000000000000001", "1" + 40 * "0"])
def test_whole_numbers_that_no_float_is_written_as(text):
    with pytest.raises(ValueError, match="beyond 64 bits"):
        strict_json(text.encode())


@pytest.mark.parametrize("number", [0, -7, 2**53 - 1, 2**53 + 1, 2**62 + 1])
def test_whole_numbers_stay_whole(number):
    assert whole(str(number)) == number
    assert type(whole(str(number))) is int
    assert strict_json(str(number).encode()) == number


def test_a_ledger_gives_back_floats():
    """A point that left is evaluated again, of means beyond 64 bits."""
    key = CellKey("CT", "organs", "liver", "original_firstorder_Energy")
    released = {"beta": [0.5], "centers": [1e20]}
    cell = LedgerCell("odds", "logistic", key, 2, {}, released, values(range(9)), 9, "m" * 64)
    (found,) = Behind.of(Past([cell])).past().cells
    assert found.released == released
    assert type(found.released["centers"][0]) is float


FIVE = Disclosure(min_patients=5)


def of_kind(kind, **more):
    content = {"id": "a", "kind": kind, "variables": ["CT.volume_ml"], **more}
    module = sys.modules[kinds()[kind].__module__]
    return kinds()[kind](module.Settings.model_validate(content))


@pytest.mark.parametrize(("unit", "rule"), [(1e-120, None), (1e-157, "number_range")])
@pytest.mark.parametrize("kind", ["summary", "anova", "levene", "brown_forsythe"])
def test_units_so_small_that_squares_lose_their_digits(kind, unit, rule):
    """Their scatter would be wrong in the third digit, or 0, and the hub refuse the site."""
    numbers = unit * np.random.default_rng(0).normal(5, 1, 40)
    analysis = of_kind(kind)
    found = analysis.check(analysis.compute(values(numbers)), 40, FIVE)
    assert (found.rule.code if isinstance(found, Withheld) else None) == rule


def test_columns_so_small_that_squares_lose_their_digits():
    columns = np.random.default_rng(0).normal(5, 1, (40, 2))
    assert in_range(scatter(columns))
    assert in_range(scatter(columns * [1.0, 1e-120]))
    assert in_range(scatter(columns * [1.0, 0.0]))
    for unit in (1e-157, 1e-170):
        assert not in_range(scatter(columns * [1.0, unit]))
