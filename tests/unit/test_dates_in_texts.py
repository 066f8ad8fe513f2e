"""No date stays in a text, and dotted numbers that are none, such as versions, do."""

from __future__ import annotations

import itertools
import re
from datetime import date

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from jipflow.privacy.deidentify import deidentify
from jipflow.privacy.identifiers import identifiers_of
from jipflow.privacy.profile import vocabulary
from jipflow.privacy.text import TextCleaner

DAYS = st.dates(date(1900, 1, 1), date(2099, 12, 31))
MARKS = st.sampled_from(".-/")
AROUND = st.sampled_from(["", " ", "_", " v", "(", "syngo ", "1.", "7.1.", " 3 "])
BEHIND = st.sampled_from(["", " ", "_", ")", " 2", ".", ".1", ".14.30", " syngo"])


def cleaner(*dates: date, birth: date | None = None) -> TextCleaner:
    headers = []
    for day in dates:
        header = Dataset()
        header.StudyDate = f"{day:%Y%m%d}"
        headers.append(header)
    if birth:
        headers[0].PatientBirthDate = f"{birth:%Y%m%d}"
    return TextCleaner(identifiers_of(headers), 1000, vocabulary())


def cleaned(known: TextCleaner, text: str) -> dict[str, str]:
    return {
        "device": known.device(text),
        "version": known.version(text),
        "description": known.description(text),
    }


def written(day: date, mark: str) -> dict[str, str]:
    """A day with a whole year, as people and programs write it."""
    year, month, number = f"{day:%Y}", f"{day:%m}", f"{day:%d}"
    short = month.lstrip("0"), number.lstrip("0")
    forms = {"year first": mark.join((year, month, number))}
    forms["year first, short"] = mark.join((year, *short))
    for m, d in ((month, number), short):
        forms[f"day first {m}"] = mark.join((d, m, year))
        forms[f"month first {m}"] = mark.join((m, d, year))
    return forms


@given(DAYS, MARKS, AROUND, BEHIND)
@example(date(2020, 2, 29), ".", "7.1.", ".14.30")
@example(date(2020, 2, 29), ".", " v", ".1")
def test_a_date_with_its_year_never_stays(day, mark, before, behind):
    for form in written(day, mark).values():
        for how, left in cleaned(cleaner(), f"CT{before}{form}{behind}").items():
            assert form not in left, (how, left)


@given(DAYS, MARKS, AROUND, BEHIND)
def test_a_date_of_three_times_two_digits_stays_in_no_text_but_of_versions(
    day, mark, before, behind
):
    forms = [
        f"{day:%d} {day:%m} {day:%y}",
        f"{day:%m} {day:%d} {day:%y}",
        f"{day:%y} {day:%m} {day:%d}",
    ]
    for form in forms:
        form = form.replace(" ", mark)
        left = cleaned(cleaner(), f"CT{before}{form}{behind}")
        assert form not in left["device"]
        assert form not in left["description"]
        if "0" in form[::3]:
            assert form not in left["version"]


@given(DAYS, DAYS, MARKS, AROUND, BEHIND, st.booleans())
def test_a_day_of_the_patient_stays_nowhere(day, birth, mark, before, behind, born):
    known = cleaner(day, birth=birth)
    wanted = birth if born else day
    month, number, year = str(wanted.month), str(wanted.day), f"{wanted:%y}"
    for order in ((number, month, year), (month, number, year)):
        form = mark.join(order)
        for how, left in cleaned(known, f"CT{before}{form}{behind}").items():
            assert form not in left, (how, left)


def may_be_date(numbers: list[int]) -> bool:
    """Whether three neighbours may be a date that is written with two digits each."""
    texts = [str(number) for number in numbers]
    for three in itertools.pairwise(itertools.pairwise(texts)):
        parts = [three[0][0], *three[1]]
        if all(len(part) == 2 for part in parts):
            return True
    return False


@given(st.lists(st.integers(0, 999), min_size=4, max_size=5), st.sampled_from(["", "v", "VB "]))
@example([2, 1, 10, 4], "")
@example([3, 0, 25, 1], "v")
def test_a_version_of_four_numbers_stays(numbers, before):
    assume(not may_be_date(numbers))
    text = before + ".".join(map(str, numbers))
    assert cleaner().device(text) == text
    assert cleaner().version(text) == text
    if not before.strip():
        assert cleaner().description(text) == text


@given(st.integers(0, 9), st.integers(0, 99), st.integers(0, 99))
def test_three_numbers_of_which_none_can_be_a_month_or_a_day_stay(first, second, third):
    text = f"{first}.{second}.{third:02}"
    readings = [(second, first), (first, second)]
    assume(not any(1 <= month <= 12 and 1 <= day <= 31 for month, day in readings))
    assert cleaner().device(text) == text


@given(st.lists(st.integers(0, 99), min_size=3, max_size=3))
@example([2, 1, 10])
def test_in_elements_of_versions_three_numbers_stay_unless_they_are_written_as_dates(numbers):
    text = ".".join(map(str, numbers))
    assume(not re.search(r"\b0\d", text))
    assume(not (all(len(p) == 2 for p in text.split(".")) and "0" in text[::3]))
    ds = Dataset()
    ds.PatientID, ds.SOPClassUID = "p", "1.2.840.10008.5.1.4.1.1.2"
    ds.SoftwareVersions = ["syngo", text]
    ds.ManufacturerModelVersion = text
    made = deidentify(ds, bytes(32))
    assert list(made.SoftwareVersions) == ["syngo", text]
    assert made.ManufacturerModelVersion == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("nnU-Net 2.1.10.4", "nnU-Net 2.1.10.4"),
        ("v2.1.10", "v2.1.10"),
        ("Version 2.1.10", "Version 2.1.10"),
        ("12.0.1", "12.0.1"),
        ("2.1.10", ""),
        ("10.11.12.13", "13"),
        ("29.02.20.14.30 CT", "14.30 CT"),
        ("1.29.02.20", "1"),
    ],
)
def test_of_texts_of_machines_versions_stay_and_what_may_be_a_date_goes(text, left):
    assert cleaner().device(text) == left
