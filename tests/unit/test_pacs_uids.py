"""A UID of a PACS becomes part of paths and addresses: nothing else may."""

from __future__ import annotations

import pytest

from jipflow.pacs.archive import Rejected, checked_uid


@pytest.mark.parametrize(
    "uid", ["1", "1.2.840", "1.02.3", "9" * 64, "1.2\0", "1.2 "], ids=lambda uid: f"{len(uid)}"
)
def test_digits_and_dots_are_a_uid(uid):
    assert checked_uid(uid, "pacs") == uid.rstrip(" \0")


@pytest.mark.parametrize(
    "uid",
    [
        *("", ".", "..", "...", "9" * 65, "1.2/3", "../1.2", "1.2\n", "1.2\\1.3", "1,2", "1.2 3"),
        *(None, "\u0661.\u0662"),
    ],
    ids=ascii,
)
def test_nothing_else_is(uid):
    with pytest.raises(Rejected) as refused:
        checked_uid(uid, "pacs")
    assert str(refused.value) == "source 'pacs': the PACS gave something that is no UID."
