"""Texts without identifiers: names, numbers, places, dates, and words that are none of imaging."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from pydicom.dataset import Dataset

from jipflow.privacy.dates import (
    MOST_DAYS,
    dates_in,
    kept_time,
    moved_date,
    moved_date_time,
    offset_of,
)
from jipflow.privacy.identifiers import identifiers_of, identifiers_of_place
from jipflow.privacy.kinds import PLAIN_NUMBERS
from jipflow.privacy.profile import vocabulary
from jipflow.privacy.pseudonyms import pseudonym_uid
from jipflow.privacy.text import TextCleaner, name_words

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def cleaner() -> TextCleaner:
    header = Dataset()
    header.PatientName = "Müller-Lüdenscheidt^Jürgen Li^^Dr"
    header.PatientID = "00-1234/5"
    header.OtherPatientIDs = ["X7", "王小"]
    header.AccessionNumber = "A77"
    header.StudyID = "2"
    header.InstitutionName = "Klinikum Heidelberg CT Zentrum"
    nested = Dataset()
    nested.RequestingPhysician = "王^小明"
    header.RequestAttributesSequence = [nested]
    known = identifiers_of([header]) | identifiers_of_place("Haus Sonnenschein")
    return TextCleaner(known, 100, vocabulary())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("CT Thorax mueller B31f 5.0", "CT Thorax B31f 5.0"),
        ("MULLER LI_head T2w TSE 3D", "head T2w TSE 3D"),
        ("GTV_Mass_CT", "GTV_Mass_CT"),
        ("JMüllerLesion", ""),
        ("lung (Jürgen)", "lung"),
        ("JURGEN", ""),
        ("Juergen's lesion", "lesion"),
        ("liver 王 axial", "liver axial"),
        ("x7 lung", "lung"),
        ("A77 lung", "lung"),
        ("id 001234/5 mm", "mm"),
        ("0012345", ""),
        ("00 12 34 5 liver", "liver"),
        ("Heidelberg protocol", "protocol"),
        ("CT Zentrum wb", "CT wb"),
        ("Klinikum_Heidelberg_CT_Zentrum", ""),
        ("liver Sonnenschein", "liver"),
        ("phase 2", "phase 2"),
        ("Tel 0622-5551", ""),
        ("Hans Schmidt liver lesion", "liver lesion"),
        ("born 4 May 1931", ""),
        ("Thorax  1.0  I31f  3", "Thorax  1.0  I31f  3"),
        ("t1_mprage_sag_p2_iso", "t1_mprage_sag_p2_iso"),
        ("WB PET AC 3D MAC", "WB PET AC 3D MAC"),
        ("Interquartile range", "Interquartile range"),
        ("MÃ¼ller liver", "liver"),
        ("", ""),
    ],
)
def test_of_a_description_words_of_imaging_stay(cleaner, text, left):
    assert cleaner.description(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("syngo CT 2012B", "syngo CT 2012B"),
        ("CTAWP20150312", "CTAWP20150312"),
        ("MUELLER-PC1", "PC1"),
        ("ct-heidelberg-3", "ct-3"),
        ("dm09_hl2sp1.23", "dm09_hl2sp1.23"),
        ("calibrated 2020-02-29", "calibrated 2019-11-21"),
    ],
)
def test_of_a_machine_s_text_all_but_identifiers_stay(cleaner, text, left):
    assert cleaner.device(text) == left


def cleaner_of(**values: str) -> TextCleaner:
    header = Dataset()
    for name, value in values.items():
        setattr(header, name, value)
    return TextCleaner(identifiers_of([header]), 100, vocabulary())


@pytest.mark.parametrize(
    "name", ["Mu\u0308ller^Bo\u0308", "M\u00c3\u00bcller^B\u00c3\u00b6", "M\u00fcller^B\u00f6"]
)
@pytest.mark.parametrize(
    "text", ["MUELLER 3", "BOE 3", "Mu\u0308ller 3", "m\u00fcller 3", "MULLER 3"]
)
def test_an_umlaut_is_one_letter_or_two_or_a_letter_and_a_mark(name, text):
    assert cleaner_of(PatientName=name).device(text) == "3"


def test_a_name_in_place_of_a_title_is_one():
    assert cleaner_of(PatientName="^^^Zwackel").device("Zwackel 3") == "3"
    assert cleaner_of(PatientName="Zwackel^^^Major").device("Major 3") == "Major 3"


@pytest.mark.parametrize("number", ["4711081^^^KBH&1.2.3&ISO", "0004711081", "KBH 4711081"])
def test_a_number_is_found_without_its_issuer_and_its_zeros(number):
    assert cleaner_of(PatientID=number).device("syngo 4711081") == "syngo"


def test_the_day_of_birth_is_taken_out_and_not_moved():
    known = cleaner_of(PatientBirthDate="19310704")
    for text in ("19310704", "1931-07-04", "04.07.1931", "4.7.1931", "07/04/1931"):
        assert known.description(f"liver {text}") == "liver"
        assert known.device(f"syngo {text}") == "syngo"


def test_a_date_of_the_patient_s_moves_in_a_machine_s_text_too():
    known = cleaner_of(StudyDate="20200229")
    assert known.device("ep2d_20200229 B20200301") == "ep2d_20191121 B20200301"


def test_a_uid_is_taken_out_of_texts_and_a_version_stays():
    text = "of 1.2.840.113619.2.55.3.604688119.971 by 12.345.6, 1.2.840.10008.1.2.1"
    assert cleaner_of().device(text) == "of by 12.345.6, 1.2.840.10008.1.2.1"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("liver 095Y", "liver"),
        ("liver 95 years", "liver"),
        ("liver 101yo", "liver"),
        ("liver 90Y", "liver 90Y"),
        ("liver 88 years", "liver 88 years"),
    ],
)
def test_an_age_above_90_goes_from_a_description(text, left):
    assert cleaner_of().description(text) == left


def test_particles_and_titles_are_no_names():
    assert name_words("van der Berg^Ann MD=ヤマダ^タロウ") >= {"berg", "ann", "ヤマタ"}
    assert not name_words("Mr^Dr^^Prof") & {"mr", "dr", "prof"}
    assert "mr" not in name_words("Anonymous^Patient^^MR")


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("20200229", "20191121"),
        ("2020.02.29", "20191121"),
        ("00010101", None),
        ("20200230", None),
        ("2020", None),
        ("DOE", None),
    ],
)
def test_dates_are_moved_or_refused(text, moved):
    assert moved_date(text, 100) == moved


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("20200229101112.123456+0200", "20191121101112.123456+0200"),
        ("202002291011", "201911211011"),
        ("202002", "201910"),
        ("2020", "2019"),
        ("20200229+0100", "20191121+0100"),
        ("20200229x", None),
        ("20200229 DOE", None),
    ],
)
def test_dates_and_times_keep_their_time_zone_and_precision(text, moved):
    assert moved_date_time(text, 100) == moved


@pytest.mark.parametrize("text", ["10", "1011", "101112", "101112.5", "10:11:12"])
def test_times_stay(text):
    assert kept_time(text) == text


@pytest.mark.parametrize("text", ["25", "1011x", "DOE", "10111", ""])
def test_what_is_no_time_goes(text):
    assert kept_time(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *("5/3/20", "03/05/2020", "3.5.20", "May 3, 2020", "3-MAY-2020", "3. Mai 2020", "Mai 2020"),
        *("29 02 2020", "2020 02 29", "29.02.", "29Feb", "3-mar"),
    ],
)
def test_dates_that_read_in_several_ways_are_taken_out(text):
    assert dates_in(f"on {text} at noon", 100) == [(3, 3 + len(text), "")]


def test_dates_in_texts_keep_their_form():
    text = "2020-02-29 29.02.2020 20200229 20200229101112"
    news = [new for _, _, new in dates_in(text, 100)]
    assert news == ["2019-11-21", "21.11.2019", "20191121", "20191121101112"]
    assert dates_in("20200229", 100, compact=False) == []
    assert dates_in("120200229 3.5 1.2.840.10008.1.2 05.0 11.02 10.04.1 5marker 3 mar", 100) == []


def test_the_move_belongs_to_patient_and_key():
    moves = {offset_of(KEY, f"patient {number}") for number in range(300)}
    assert len(moves) > 250
    assert all(1 <= move <= MOST_DAYS for move in moves)
    assert offset_of(KEY, "a") == offset_of(KEY, "a") != offset_of(bytes(32), "a")
    first = date(2020, 2, 29) - timedelta(days=offset_of(KEY, "a"))
    assert moved_date("20200229", offset_of(KEY, "a")) == f"{first:%Y%m%d}"


def test_uids_are_uuids_of_version_8():
    number = int(pseudonym_uid(KEY, "1.2.3").removeprefix("2.25."))
    assert (number >> 76 & 0xF, number >> 62 & 0x3) == (8, 2)
    assert pseudonym_uid(KEY, "1.2.3") != pseudonym_uid(KEY, "1.2.4")


def test_numbers_that_pass_unparsed_are_nothing_but_numbers():
    for sound in (b"1.5\\-2.25e-3\\ 7 ", b"1", b".5\0", b"1.\\2"):
        assert PLAIN_NUMBERS.fullmatch(sound)
    for other in (b"1.5 DOE", b"1234567890123", b"1.5\\", b"", b"1\\" * 9999 + b"x", b"1" * 9999):
        assert not PLAIN_NUMBERS.fullmatch(other)
