"""Numbers beyond 2⁵³, which canonical JSON writes without an exponent, stay floats on their way."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jipflow.analyses.cells import CellKey
from jipflow.analyses.facts import LedgerCell
from jipflow.exchange.envelope import strict_json
from jipflow.exchange.message import canonical, whole
from jipflow.release.behind import Behind
from jipflow.release.history import Past
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
