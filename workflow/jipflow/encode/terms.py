"""Coded terms of segments."""

from __future__ import annotations

from dataclasses import dataclass

from highdicom.color import CIELabColor
from highdicom.sr import CodedConcept

from jipflow.config import RESOURCES, read_yaml


@dataclass(frozen=True)
class Term:
    """What a segment is, in codes.

    Attributes:
        category: Segmented Property Category (DICOM CID 7150).
        type: Segmented Property Type (SNOMED CT).
        colour: recommended display colour.
    """

    category: CodedConcept
    type: CodedConcept
    colour: CIELabColor


def read_terms() -> dict[str, Term]:
    """Read ``resources/terms.yaml``."""
    terms = {}
    for key, entry in read_yaml(RESOURCES / "terms.yaml").items():
        terms[key] = Term(
            CodedConcept(*entry["category"]),
            CodedConcept(*entry["type"]),
            CIELabColor.from_rgb(*entry["colour"]),
        )
    return terms
