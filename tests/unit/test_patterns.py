"""Regular expressions of protocols: of names as any software writes them, in bounded time."""

from __future__ import annotations

import time

import pytest

from jipflow.objects.annotation import fits
from jipflow.patterns import LONGEST, PatternError, check_pattern, meets


@pytest.mark.parametrize(
    ("pattern", "text", "met"),
    [
        ("GTV.*", "GTV_1", True),
        ("GTV.*", "xGTV", False),
        ("GTV", "GTV_1", False),
        ("(?i)liver.*", "LIVER left", True),
        ("a|b.*", "a1", False),
        ("L.sion", "L\u00e4sion", True),
        ("kidney_(left|right)", "kidney_left", True),
        ("a) OR (b", "a", False),
        ("", "", True),
    ],
)
def test_the_whole_text_meets_an_expression(pattern: str, text: str, met: bool) -> None:
    if pattern.count("(") and ") OR" in pattern:
        with pytest.raises(PatternError):
            meets(pattern, text)
        return
    assert meets(pattern, text) is met


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "[z-a]", "(?=a)b", r"(a)\1", "a" * 10_001, "*"])
def test_what_is_no_expression_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        check_pattern(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a|aa)+$b", "(.*)*x", "(a*)*(a*)*b"])
def test_no_expression_takes_longer_than_its_text_allows(pattern: str) -> None:
    check_pattern(pattern)
    start = time.monotonic()
    assert not fits("a" * 64, [pattern])
    assert time.monotonic() - start < 1


def test_the_longest_pattern_and_the_message_of_a_bad_one():
    check_pattern("a" * LONGEST)
    with pytest.raises(PatternError) as refused:
        check_pattern("a\n(b")
    assert "\n" not in str(refused.value)
