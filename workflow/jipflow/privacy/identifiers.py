"""What identifies a patient, gathered from the headers of all that is known of the patient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from jipflow.datasets import name_of
from jipflow.place import raise_place_error
from jipflow.privacy.garbled import decodings, foreign_words, repaired
from jipflow.privacy.profile import attribute_rules
from jipflow.privacy.text import Identifiers, day_forms, name_words, number_forms, place_words

COUNTED = frozenset(
    (
        *("StudyID", "RequestedProcedureID", "ScheduledProcedureStepID"),
        *("PerformedProcedureStepID", "FillerOrderNumberImagingServiceRequest"),
        *("PlacerOrderNumberImagingServiceRequest", "ServiceEpisodeID", "AdmissionID"),
    )
)
"""Numbers that often count from 1; up to three characters of them identify nobody."""

BIRTH = "PatientBirthDate"
"""A date that is looked for in texts to be taken out: moved it would tell an exact age."""

NUMBERED = ("ID", "Number", "Telephone", "Login")
"""Parts of names of attributes whose values are found whatever stands between their characters."""

_TEXT = frozenset(("LO", "SH", "ST", "UC", "AE"))
_LEAST = 4


def identifiers_of(headers: Iterable[Dataset]) -> Identifiers:
    """Return what identifies the patient by these headers.

    That are all names of persons and dates, wherever they stand, and the values of those attributes
    that Table E.1-1 of PS3.15 removes or replaces and no option keeps: numbers of patients, visits
    and orders, institutions, addresses.

    Args:
        headers: of objects of one patient.
    """
    names: set[str] = set()
    numbers: set[str] = set()
    places: set[str] = set()
    dates: set[str] = set()
    foreign: set[str] = set()
    for header in headers:
        for element, data in _elements(header):
            name = element.keyword
            others = decodings(data)
            for value in (*_texts(element), *sorted(others)):
                if element.VR == "PN" or not _is_number(name):
                    foreign |= foreign_words([value, repaired(value)])
                if element.VR == "PN":
                    names |= name_words(value)
                elif element.VR in ("DA", "DT") and name != BIRTH:
                    dates.add(value.replace(".", "")[:8])
                elif name == BIRTH:
                    numbers |= day_forms(value)
                elif _is_number(name):
                    least = _LEAST if name in COUNTED else 1
                    numbers |= {form for form in number_forms(value) if len(form) >= least}
                else:
                    places |= place_words(value)
    numbers -= {"", "0", "none", "unknown", "anonymous", "anon", "na"}
    return Identifiers(*map(frozenset, (names, numbers, places, dates, foreign)))


def lost_identity(damaged: Iterable[str]) -> str | None:
    """Return what of a file could not be read that says who the patient is; None where all could.

    Args:
        damaged: sentences that begin with an element's tag, as of `jipflow.datasets.read`.
    """
    telling = {
        name_of(tag)
        for tag in attribute_rules()
        if dictionary_has_tag(tag)
        and (dictionary_VR(tag) == "PN" or _is_number(keyword_for_tag(tag)))
    }
    return next((text for text in damaged if text.split()[0] in telling), None)


def _is_number(name: str) -> bool:
    return name in COUNTED or any(part in name for part in NUMBERED)


def _elements(header: Dataset) -> Iterator[tuple[DataElement, bytes]]:
    """Yield the elements of all levels that identify, and their bytes where these are known."""
    rules = attribute_rules()
    for tag in list(header.keys()):
        if tag.is_private or not dictionary_has_tag(tag):
            continue
        raw = header.get_item(tag)
        data = raw.value if isinstance(raw, RawDataElement) else None
        try:
            element = header[tag]
        except Exception as error:  # pydicom raises whatever its parser met
            raise_place_error(error)
            continue
        if element.VR == "SQ":
            for item in element.value or []:
                yield from _elements(item)
        elif element.VR in ("PN", "DA", "DT") or (
            element.VR in _TEXT
            and tag in rules
            and not rules[tag].options
            and keyword_for_tag(tag) != "ContextGroupVersion"
        ):
            yield element, _bytes(element) if data is None else data


def _bytes(element: DataElement) -> bytes:
    """Return the bytes that a name of a person was read from; nothing where they are not known."""
    several = element.value if isinstance(element.value, MultiValue) else [element.value]
    written = [getattr(value, "original_string", b"") for value in several]
    return b"\\".join(value for value in written if isinstance(value, bytes))


def _texts(element: DataElement) -> Iterator[str]:
    value = element.value
    if value in (None, ""):
        return
    several = isinstance(value, MultiValue | list)
    yield from (str(each) for each in (value if several else [value]) if str(each).strip())


def identifiers_of_place(name: str) -> Identifiers:
    """Return what identifies a place by its name.

    Args:
        name: of an institution.
    """
    return Identifiers(places=frozenset(place_words(name)))
