"""The elements of a data set one by one: what stays of each, by table, name and representation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from functools import cached_property
from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID_dictionary

from jipflow.place import raise_place_error
from jipflow.privacy import kinds
from jipflow.privacy.ages import CONCEPTS, cap_measured_age, capped_age
from jipflow.privacy.codes import clean_meaning, coded, meanings
from jipflow.privacy.dates import ZONE, dates_in, kept_time, moved_date, moved_date_time
from jipflow.privacy.numbers import NumberSearch, plain_numbers
from jipflow.privacy.private_elements import safe_elements
from jipflow.privacy.profile import Rule, attribute_rules, content_rules
from jipflow.privacy.pseudonyms import pseudonym_uid
from jipflow.privacy.text import TextCleaner

REMOVED = "REMOVED"
"""What stands in place of a value that may not be empty."""

OPEN = ("ContentSequence", "VerifyingObserverSequence")
"""Sequences that PS3.15 has replaced by a dummy, which their cleaned items are."""
DUMMY_CODE = ("PersonIdentificationCodeSequence",)
"""Sequences of codes of persons, which others demand."""
MACHINE = {("DCM", "111001"), ("DCM", "111002"), ("DCM", "111003")}
"""Content items that are the name, the parameters and the version of an algorithm (PS3.16)."""
LONGEST_DEFINED = 32
"""Characters of the longest UID that the standard defines, and some more."""
LONG_WORD = re.compile(
    r"(?<![^\W\d_])(?!SUV(?:bw|lbm|ibw|bsa)\b|Janma\)|(?:CT|MR|PE?T|US|XR|NM))[^\W\d_]{5}"
)
"""Letters side by side from which on a code without a digit may be a name, unless it is a unit of
CID 85 (PS3.16) or begins as a modality does."""
SHORTEST = 3
"""Letters of the shortest identifier that is looked for in a CS; those of words such as CT or AX
are too common there, where no person types."""


class Done(StrEnum):
    """What was done with an element."""

    REMOVED = "removed"
    EMPTIED = "emptied"
    REPLACED = "replaced"
    CLEANED = "cleaned"
    MOVED = "moved"
    UID = "uid"


Tally = Counter[tuple[str, Done]]
"""How often what was done with elements of a name; that of private ones is ``private``."""


class Elements:
    """Cleans the elements of the objects of one patient.

    Args:
        key: the site's secret.
        days: by which dates go back.
        text: cleans texts.
        done: counts what was done.
    """

    def __init__(self, key: bytes, days: int, text: TextCleaner, done: Tally) -> None:
        self.key, self.days, self.text, self.done = key, days, text, done
        self.numbers = NumberSearch(text.identifiers)
        self.object: Dataset | None = None

    def walk(self, source: Dataset, *, device: bool = False) -> Dataset:
        """Return the elements of a data set or an item that stay.

        Args:
            source: is not changed.
            device: whether its texts are of a device.
        """
        if self.object is None:
            self.object = source
        made = Dataset()
        private = []
        for tag in sorted(source.keys()):
            if tag.is_private:
                private.append(tag)
                continue
            plain = plain_numbers(source.get_item(tag))
            if plain is not None and not self.numbers.in_text(plain.value or b""):
                made[tag] = plain
                continue
            try:
                kept = self._element(source, source[tag], device)
            except Exception as error:  # pydicom raises whatever its parser met
                raise_place_error(error)
                kept = self._gone(keyword_for_tag(tag))
            if kept is not None:
                made[tag] = kept
        for element in safe_elements(source, private, self._private):
            made[element.tag] = element
        self.done["private", Done.REMOVED] += sum(tag not in made for tag in private)
        return made

    def _noted(self, name: str, what: Done) -> None:
        self.done[name or "unknown", what] += 1

    def _gone(self, name: str) -> DataElement | None:
        """Count an element that does not stay; give None in place of it."""
        self._noted(name, Done.REMOVED)
        return None

    def _element(self, source: Dataset, element: DataElement, device: bool) -> DataElement | None:
        tag, name = element.tag, element.keyword
        graphics = tag.group >> 8 in (0x50, 0x60)
        if name == "SpecificCharacterSet" or tag.elem == 0:
            return None
        if tag.group < 8 or graphics or not dictionary_has_tag(tag):
            return self._gone("" if not dictionary_has_tag(tag) else name)
        vr = _representation(element)
        rule = attribute_rules().get(int(tag))
        if vr is None or (rule is not None and rule.option("graphics")):
            return self._gone(name)
        if vr == "SQ":
            return self._sequence(element, rule, device)
        if name in kinds.PIXELS:
            # Those of an item are a picture that nobody has decided on.
            return element if source is self.object else self._gone(name)
        if vr in kinds.NUMBERS or (name in kinds.BINARY and rule is None):
            kept = rule is None or rule.options or rule.basic not in ("X", "Z", "D")
            return element if kept and not self.numbers.in_element(element) else self._gone(name)
        if name in kinds.CODES or name == "CodeMeaning":
            return self._code(source, element, vr)
        clean = self._by_representation.get(vr)
        if clean is None:
            return self._gone(name)
        return clean(element, vr, rule, device)

    @cached_property
    def _by_representation(
        self,
    ) -> dict[str, Callable[[DataElement, str, Rule | None, bool], DataElement | None]]:
        return {
            **dict.fromkeys(kinds.TEXT, self._text),
            **dict.fromkeys(("DA", "DT", "TM"), self._time),
            **dict.fromkeys(("DS", "IS"), self._number),
            "AE": self._place,
            "UR": self._place,
            "PN": self._person,
            "UI": self._uid,
            "CS": self._code_string,
            "AS": self._age,
        }

    def _by_profile(self, element: DataElement, vr: str, action: str) -> DataElement | None:
        """Return what the basic profile leaves of an element: X nothing, Z no value, D a dummy."""
        name = element.keyword
        if action == "X":
            return self._gone(name)
        if not _values(element):
            return DataElement(element.tag, vr, None)
        if action == "D":
            self._noted(name, Done.REPLACED)
            return DataElement(element.tag, vr, "0" if vr in ("DS", "IS") else REMOVED)
        self._noted(name, Done.EMPTIED)
        return DataElement(element.tag, vr, None)

    def _cleaned(
        self,
        element: DataElement,
        vr: str,
        rule: Rule | None,
        clean: Callable[[str], str | None],
        what: Done = Done.CLEANED,
    ) -> DataElement | None:
        """Return an element with its values cleaned one by one.

        Where nothing is left of any, the profile decides; where an attribute is in no table, it may
        be one that needs a value, and gets a dummy.
        """
        before = _values(element)
        after = [clean(value) for value in before]
        if [value.strip(" \0") for value in before] == after:
            return DataElement(element.tag, vr, after if len(after) != 1 else after[0])
        if not any(after):
            return self._by_profile(element, vr, rule.basic if rule else _dummy_or_empty(vr))
        self._noted(element.keyword, what)
        values = [value or "" for value in after]
        return DataElement(element.tag, vr, values if len(values) > 1 else values[0])

    def _text(
        self, element: DataElement, vr: str, rule: Rule | None, device: bool
    ) -> DataElement | None:
        name = element.keyword
        if name == "TimezoneOffsetFromUTC":
            return self._cleaned(element, vr, rule, lambda v: v if ZONE.fullmatch(v) else None)
        if rule is not None:
            machine = rule.option("device") == "K"
            person = bool(rule.option("characteristics") or rule.option("descriptors"))
            if not machine and not person:
                return self._by_profile(element, vr, rule.basic)
        else:
            machine, person = name in kinds.DEVICE, name in kinds.DESCRIPTIONS
            if not machine and not person:
                return self._gone(name)
        if vr in kinds.NARRATIVES and name not in kinds.PROSE:
            return self._by_profile(element, vr, rule.basic if rule else "X")
        clean = self.text.device if machine or device else self.text.description
        if machine and name in kinds.VERSIONS:
            clean = self.text.version
        return self._cleaned(element, vr, rule, clean)

    def _time(
        self, element: DataElement, vr: str, rule: Rule | None, device: bool
    ) -> DataElement | None:
        if rule is not None and not (rule.option("dates") or rule.option("device")):
            return self._by_profile(element, vr, rule.basic)
        if vr == "TM":
            return self._cleaned(element, vr, None, kept_time)
        move = moved_date if vr == "DA" else moved_date_time
        return self._cleaned(element, vr, None, lambda v: move(v, self.days), Done.MOVED)

    def _number(
        self, element: DataElement, vr: str, rule: Rule | None, device: bool
    ) -> DataElement | None:
        if rule is not None and not rule.options:
            return self._by_profile(element, vr, rule.basic)
        pattern = kinds.WHOLE if vr == "IS" else kinds.DECIMAL

        def number(value: str) -> str | None:
            text = value.strip(" \0")
            sound = pattern.fullmatch(text) and not self.numbers.in_text(text.encode())
            return text if sound else None

        before = _values(element)
        if all(number(value) == value.strip(" \0") for value in before):
            return element if vr == element.VR else DataElement(element.tag, vr, before)
        return self._cleaned(element, vr, rule, number)

    def _place(
        self, element: DataElement, vr: str, rule: Rule | None, device: bool
    ) -> DataElement | None:
        return self._by_profile(element, vr, rule.basic if rule else "X")

    def _person(
        self, element: DataElement, vr: str, rule: Rule | None, device: bool
    ) -> DataElement | None:
        return self._by_profile(element, vr, rule.basic if rule else "X")

    def _uid(
        self, element: DataElement, vr: str, rule: Rule | None, device: bool
    ) -> DataElement | None:
        kept = rule is not None and rule.option("device") == "K"
        if rule is not None and not kept and rule.basic in ("X", "Z"):
            return self._by_profile(element, vr, rule.basic)

        def other(value: str) -> str:
            uid = value.strip(" \0")
            known = (rule is None and _is_of_the_standard(uid)) or (kept and _is_uid(uid))
            if not uid or uid in UID_dictionary or (known and not self.numbers.in_uid(uid)):
                return uid
            return pseudonym_uid(self.key, uid)

        return self._cleaned(element, vr, rule, other, Done.UID)

    def _code_string(
        self, element: DataElement, vr: str, rule: Rule | None, device: bool
    ) -> DataElement | None:
        if rule is not None and not rule.options:
            return self._by_profile(element, vr, rule.basic)
        if element.keyword in ("ContentLabel", "GraphicLayer"):
            # They may not be empty (PS3.3 tables 10-12 and C.10-7).
            return self._cleaned(element, vr, rule, lambda v: self._region(v) or REMOVED)
        typed = element.keyword == "BodyPartExamined"
        return self._cleaned(element, vr, rule, self._region if typed else self._term)

    def _region(self, value: str) -> str | None:
        """Return the words of imaging of a CS that persons type, such as a body part."""
        text = self._term(value)
        return None if text is None else self.text.description(text)

    def _term(self, value: str) -> str | None:
        """Return a value of CS that a machine may have written; None where it names someone."""
        text = value.strip(" \0")
        if text in kinds.TERMS:
            return text
        sound = kinds.CODE_STRING.fullmatch(text) and not _holds_date(text)
        return text if sound and self.text.names_no_one(text, least=SHORTEST) else None

    def _age(
        self, element: DataElement, vr: str, rule: Rule | None, device: bool
    ) -> DataElement | None:
        return self._cleaned(element, vr, rule, capped_age)

    def _code(self, source: Dataset, element: DataElement, vr: str) -> DataElement | None:
        """Return an attribute of a code; where it says more than a code does, a dummy."""
        if element.keyword == "CodeMeaning":
            return self._cleaned(
                element, vr, None, lambda value: clean_meaning(source, value, self.text)
            )

        def value_of(value: str) -> str | None:
            text = value.strip(" \0")
            if element.keyword == "CodingSchemeDesignator" and text not in kinds.CODING_SCHEMES:
                return kinds.LOCAL_SCHEME
            clean = self.text.version if element.keyword in kinds.VERSIONS else self.text.device
            plain = not any(map(str.isspace, text)) and clean(text) == text
            return text if plain and self._is_code(source, text) else None

        return self._cleaned(element, vr, None, value_of)

    def _is_code(self, source: Dataset, value: str) -> bool:
        """Return whether a value is a code by its digits or its scheme, or has words of imaging."""
        scheme = str(source.get("CodingSchemeDesignator") or "")
        known = (scheme, value) in meanings() or value in kinds.CODING_SCHEMES
        names = LONG_WORD.search(value) and not any(map(str.isdigit, value))
        return known or not names or self.text.description(value) == value

    def _sequence(
        self, element: DataElement, rule: Rule | None, device: bool
    ) -> DataElement | None:
        name = element.keyword
        opened = rule is None or rule.options or "U" in rule.profile or name in OPEN
        items: list[Dataset] = []
        if opened:
            machine = device or (rule is not None and rule.option("device") == "K")
            is_content = name == "ContentSequence" or (rule and rule.option("content"))
            for item in element.value or []:
                kept = self._content(item) if is_content else self.walk(item, device=machine)
                if kept is not None:
                    items.append(kept)
        elif rule is not None and "X" in rule.profile.split("/"):
            # Where a sequence may be empty, it may as a rule be left out.
            return self._gone(name)
        elif name in DUMMY_CODE:
            items = [coded(REMOVED, "99JIPFLOW", REMOVED)]
            self._noted(name, Done.REPLACED)
        elif rule is not None and rule.basic == "Z":
            self._noted(name, Done.EMPTIED)
        else:
            return self._gone(name)
        return DataElement(element.tag, "SQ", Sequence(items))

    def _content(self, item: Dataset) -> Dataset | None:
        """Return a content item (PS3.3 C.17.3) cleaned by its concept; None where it goes."""
        name = (item.get("ConceptNameCodeSequence") or [Dataset()])[0]
        concept = (str(name.get("CodingSchemeDesignator")), str(name.get("CodeValue")))
        rule = content_rules().get(concept)
        if rule is None or rule.options:
            kept = rule is not None and rule.option("device") == "K"
            made = self.walk(item, device=kept or concept in MACHINE)
            if concept in CONCEPTS and cap_measured_age(made):
                self._noted("NumericValue", Done.REPLACED)
            return made
        if rule.basic == "X":
            self._noted("ContentSequence", Done.REMOVED)
            return None
        made = self.walk(item)
        if "TextValue" in made:
            made.TextValue = REMOVED
            self._noted("ContentSequence", Done.REPLACED)
        return made

    def _private(self, element: DataElement) -> DataElement | None:
        """Return what stays of a private element that the list of safe ones has."""
        vr = element.VR
        if vr in kinds.NUMBERS:
            return None if self.numbers.in_element(element) else element
        clean = {"CS": self._term, "DT": lambda v: moved_date_time(v, self.days)}.get(vr)
        if vr in ("DS", "IS"):
            return self._number(element, vr, None, False) if _is_numeric(element) else None
        if clean is None:
            clean = self.text.device
        values = [clean(value) for value in _values(element)]
        if not values or not all(values):
            return None
        return DataElement(element.tag, vr, values if len(values) > 1 else values[0])


def _holds_date(text: str) -> bool:
    """Return whether a CS holds a date; what is shorter than 8 characters may be none."""
    return any(end - begin >= 8 for begin, end, _ in dates_in(text, 0))


def _representation(element: DataElement) -> str | None:
    """Return the value representation by which an element is read; None where its own is another.

    A text may be stated as another kind of text, and a number as another kind of number.
    """
    stated = str(element.VR)
    known = dictionary_VR(element.tag)
    if stated in known.split(" or ") or stated == known:
        return stated
    texts = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "PN", "TM", "UI", *kinds.TEXT}
    if stated in texts and known in texts:
        return known
    numbers = stated in kinds.NUMBERS and any(vr in kinds.NUMBERS for vr in known.split(" or "))
    return stated if numbers else None


def _values(element: DataElement) -> list[str]:
    """Return the values of an element of text; none where it is empty."""
    value: Any = element.value
    if value is None or value == "" or value == b"":
        return []
    several = isinstance(value, MultiValue | list | tuple)
    return [_plain(each) for each in (value if several else [value])]


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    # A DS or IS that keeps what was written gives that.
    return str(getattr(value, "original_string", None) or value)


def _is_numeric(element: DataElement) -> bool:
    values = _values(element)
    return bool(values) and all(kinds.DECIMAL.fullmatch(value.strip(" \0")) for value in values)


def _is_uid(text: str) -> bool:
    return len(text) <= 64 and all(part.isdigit() for part in text.split("."))


def _is_of_the_standard(uid: str) -> bool:
    """Return whether a UID is below the root of DICOM's own, as of a SOP class newer than pydicom.

    No instance has such a UID (PS3.5 9).
    """
    return _is_uid(uid) and uid.startswith("1.2.840.10008.") and len(uid) <= LONGEST_DEFINED


def _dummy_or_empty(vr: str) -> str:
    return "D" if vr in kinds.TEXT else "Z"
