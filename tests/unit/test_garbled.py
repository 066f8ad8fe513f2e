"""Names in a wrong character set are found; what is beside them stays."""

from __future__ import annotations

import io
import struct
import warnings

import pydicom
import pytest
from pydicom.dataset import FileDataset

from jipflow.privacy.deidentify import deidentify
from jipflow.privacy.garbled import decodings, foreign_words, repaired

NAMES = {
    "Müller^Änne": ("utf-8", "latin-1", "cp850"),
    "山鳥^太郎": ("utf-8", "shift_jis", "euc_jp", "gb18030", "iso2022_jp"),
    "Иванов^Пётр": ("utf-8", "cp1251", "koi8-r", "iso8859-5"),
    "김^희철": ("utf-8", "euc_kr"),
    "Łukasiewicz^Żaneta": ("utf-8", "iso8859-2"),
}
STATED = (
    None,
    "ISO_IR 100",
    "ISO_IR 192",
    "ISO_IR 13",
    "ISO_IR 144",
    "GB18030",
    "\\ISO 2022 IR 87",
)


def element(group: int, number: int, vr: str, data: bytes) -> bytes:
    data += (b"\0" if vr == "UI" else b" ") * (len(data) % 2)
    return struct.pack("<HH2sH", group, number, vr.encode(), len(data)) + data


def file_of(stated: str | None, name: bytes, text: bytes) -> FileDataset:
    """A file of whose character set its header may say the wrong, byte by byte."""
    body = element(8, 5, "CS", stated.encode()) if stated else b""
    body += element(8, 0x16, "UI", b"1.2.840.10008.5.1.4.1.1.2") + element(8, 0x18, "UI", b"1.2.3")
    body += element(8, 0x103E, "LO", b"liver " + text) + element(0x10, 0x10, "PN", name)
    body += element(0x10, 0x20, "LO", b"P12345") + element(0x18, 0x1020, "LO", b"VB10 " + text)
    meta = element(2, 0x10, "UI", b"1.2.840.10008.1.2.1")
    meta = element(2, 0, "UL", struct.pack("<I", len(meta))) + meta
    return pydicom.dcmread(io.BytesIO(bytes(128) + b"DICM" + meta + body))


def texts_of(text: str, encoding: str) -> list[bytes]:
    """A text as it is, in capitals, misread once and twice."""
    once = text.encode().decode("latin-1")
    twice = once.encode().decode("latin-1")
    found = []
    for form in (text, text.upper(), once, twice):
        try:
            found.append(form.encode(encoding))
        except UnicodeError:
            continue
    return found


@pytest.mark.parametrize("stated", STATED)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_goes_in_whatever_character_set_it_and_the_text_are(name, stated):
    for encoding in NAMES[name]:
        for other in NAMES[name]:
            for text in texts_of(name.replace("^", " "), other):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    made = deidentify(file_of(stated, name.encode(encoding), text), bytes(32))
                assert made.SoftwareVersions == "VB10", (encoding, other, text)
                assert made.SeriesDescription == "liver", (encoding, other, text)


@pytest.mark.parametrize(
    "text", ["M?llershausen", "M\ufffdllershausen", "Mllershausen", "M_llershausen", "M??ller 3"]
)
def test_letters_that_were_lost_hide_no_name(text):
    name = "Müllershausen^A" if "shausen" in text else "M??ller^A"
    made = deidentify(file_of("ISO_IR 192", name.encode(), text.encode()), bytes(32))
    assert made.SoftwareVersions.replace(" 3", "") == "VB10"


def test_what_could_not_be_read_goes_with_its_word_and_its_neighbours_stay():
    text = b"B31f A\xffB Qr40 \x1b$B;3\x1b(B 0.5\xc2\xb5m"
    made = deidentify(file_of("ISO_IR 192", b"Doe^J", text), bytes(32))
    assert made.SoftwareVersions == "VB10 B31f Qr40 0.5µm"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("MÃ¼ller", "Müller"),
        ("MÃƒÂ¼ller", "Müller"),
        ("GrÃ¶ÃŸe", "Größe"),
        ("0.5 Âµm, Müller", "0.5 µm, Müller"),
        ("Müller", "Müller"),
        ("café", "café"),
        ("plain", "plain"),
    ],
)
def test_utf_8_that_was_read_as_latin_1_is_read_again(text, meant):
    assert repaired(text) == meant


def test_bytes_of_ascii_say_one_thing_and_others_what_they_may():
    assert decodings(b"Doe^Jane") == set()
    assert {"Müller", "山鳥"} <= decodings(b"M\xfcller") | decodings("山鳥".encode("shift_jis"))
    assert foreign_words(["Doe^Jörg M?ller", "山"]) == {"Jörg", "M?ller", "山"}
