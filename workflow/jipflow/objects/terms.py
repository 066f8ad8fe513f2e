"""Coded terms of segments."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

from highdicom.color import CIELabColor
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from jipflow.settings.resources import resource
from jipflow.settings.terms import TermSettings

ANATOMY = CodedConcept.from_code(codes.CID7150.AnatomicalStructure)
LATERALITIES = {
    "left": CodedConcept.from_code(codes.CID244.Left),
    "right": CodedConcept.from_code(codes.CID244.Right),
}


@dataclass(frozen=True)
class Term:
    """What a segment is, in codes.

    Attributes:
        category: Segmented Property Category (DICOM CID 7150).
        type: Segmented Property Type (SNOMED CT).
        colour: recommended display colour.
        region: the anatomy that a finding lies in; None where `type` is the anatomy, or unknown.
        laterality: the side (DICOM CID 244) of `region` or else of `type`; None where the code says
            it, or where there is none.
    """

    category: CodedConcept
    type: CodedConcept
    colour: CIELabColor
    region: CodedConcept | None = None
    laterality: CodedConcept | None = None

    @property
    def site(self) -> CodedConcept | None:
        """Where the segment is: its region, or its type if that is an anatomical structure."""
        return self.region or (self.type if self.category == ANATOMY else None)


def read_terms() -> dict[str, Term]:
    """Read the shipped terms."""
    content = resource("terms.yaml")
    return coded({key: TermSettings.model_validate(entry) for key, entry in content.items()})


def coded(terms: Mapping[str, TermSettings]) -> dict[str, Term]:
    """Return the terms of settings as DICOM's codes."""
    return {
        key: Term(
            CodedConcept(*term.category),
            CodedConcept(*term.type),
            CIELabColor.from_rgb(*term.colour),
            CodedConcept(*term.region) if term.region else None,
            LATERALITIES[term.laterality] if term.laterality else None,
        )
        for key, term in terms.items()
    }


def apply_modifiers(description: Dataset, term: Term) -> None:
    """Add a term's region and laterality to an item of the Segment Sequence (PS3.3 C.8.20.4).

    Both modifiers stand inside the code that they modify, which highdicom's constructor of the item
    does not offer.

    Args:
        description: the item, with its Segmented Property Type Code Sequence; changed in place.
        term: what the segment is.
    """
    modifiers = [] if term.laterality is None else [term.laterality]
    if term.region is not None:
        region = deepcopy(term.region)
        if modifiers:
            region.AnatomicRegionModifierSequence = modifiers
        description.AnatomicRegionSequence = [region]
    elif modifiers:
        # The item is the term's own code, which other segments share.
        code = deepcopy(description.SegmentedPropertyTypeCodeSequence[0])
        code.SegmentedPropertyTypeModifierCodeSequence = modifiers
        description.SegmentedPropertyTypeCodeSequence = [code]
