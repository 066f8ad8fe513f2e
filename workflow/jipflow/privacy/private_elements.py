"""The private elements that are known to be safe, found by their creator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from jipflow.place import raise_place_error
from jipflow.privacy.profile import safe_private

Clean = Callable[[DataElement], DataElement | None]


def safe_elements(
    source: Dataset, private: Sequence[BaseTag], clean: Clean
) -> Iterator[DataElement]:
    """Yield the safe private elements of a data set or item, with their creators (PS3.15 E.3.10).

    Args:
        source: the data set.
        private: the tags of its private elements.
        clean: gives what of an element's value stays.
    """
    creators: dict[tuple[int, int], str] = {}
    for tag in private:
        if 0x10 <= tag.elem <= 0xFF:
            creators[tag.group, tag.elem] = _name(source, tag)
    reserved: set[tuple[int, int]] = set()
    for tag in private:
        block = tag.elem >> 8
        creator = creators.get((tag.group, block), "")
        safe = safe_private().get((creator.casefold(), tag.group, tag.elem & 0xFF))
        if block < 0x10 or safe is None:
            continue
        element = _read(source, tag, safe.vr)
        try:
            kept = None if element is None else clean(element)
        except Exception as error:  # a value may be of any kind
            raise_place_error(error)
            kept = None
        if kept is None:
            continue
        if (tag.group, block) not in reserved:
            reserved.add((tag.group, block))
            yield DataElement(Tag(tag.group, block), "LO", creator)
        yield kept


def _name(source: Dataset, tag: BaseTag) -> str:
    """Return the name of a private creator, as it is in the table where the table has it."""
    try:
        value = source[tag].value
    except Exception as error:  # pydicom raises whatever its parser met
        raise_place_error(error)
        return ""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return text.strip("\0 ")


def _read(source: Dataset, tag: BaseTag, vr: str) -> DataElement | None:
    """Return an element by the value representation of the table; None where it is of another."""
    try:
        element = source[tag]
        if vr == element.VR:
            return element
        if not isinstance(element.value, bytes):
            return DataElement(tag, vr, element.value)
        little = bool(getattr(source, "is_little_endian", True))
        raw = RawDataElement(tag, vr, len(element.value), element.value, 0, False, little)
        return convert_raw_data_element(raw)
    except Exception as error:  # pydicom raises whatever its parser met
        raise_place_error(error)
        return None
