"""Each term has its right codes, and each class of TotalSegmentator its term."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr import _concepts_dict
from pydicom.sr.codedict import codes

from jipflow.models.tasks import read_tasks
from jipflow.objects.terms import apply_modifiers, read_terms
from jipflow.settings.resources import RESOURCES

TERMS = read_terms()
TASKS = read_tasks()
CODED = sorted(
    {(name, key) for task in TASKS.values() for name, key in task.terms.items() if key is not None}
)

RIBS = [
    *("48535007", "78247007", "25888004", "25523003", "15339008", "59558009"),
    *("24915002", "5953002", "22565002", "77644006", "58830002", "43993008"),
]
BEYOND_DICOM = {
    "65985001": "S1 vertebra",
    "74281007": "Myocardium",
    "110765007": "Portal vein and splenic vein",
    "206007": "Gluteus maximus muscle",
    "78333006": "Gluteus medius muscle",
    "75297007": "Gluteus minimus muscle",
    "244849004": "Deep muscle of back",
    "68455001": "Iliopsoas muscle",
    **dict(
        zip(
            RIBS,
            (
                f"{ordinal} rib"
                for ordinal in (
                    *("First", "Second", "Third", "Fourth", "Fifth", "Sixth"),
                    *("Seventh", "Eighth", "Ninth", "Tenth", "Eleventh", "Twelfth"),
                )
            ),
            strict=True,
        )
    ),
}
"""Codes of SNOMED CT that no context group of DICOM has, read in SNOMED CT itself."""

# The multiplication of the dihedral group D5 and the permutation of Verhoeff's check digit.
D5 = [
    [(a + b) % 5 if b < 5 else 5 + (a + b) % 5 for b in range(10)]
    if a < 5
    else [5 + (a - b) % 5 if b < 5 else (a - b) % 5 for b in range(10)]
    for a in range(10)
]
PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def verhoeff_holds(number: str) -> bool:
    """Whether the last digit is the check digit of SNOMED CT identifiers."""
    check, permutation = 0, list(range(10))
    for digit in reversed(number):
        check = D5[check][permutation[int(digit)]]
        permutation = [PERMUTATION[p] for p in permutation]
    return check == 0


def dicom_meanings(value):
    """The meanings of a SNOMED CT code in the context groups and annexes of PS3.16."""
    return {entry[value][0] for entry in _concepts_dict.concepts["SCT"].values() if value in entry}


def coded(term):
    return [c for c in (term.category, term.type, term.region, term.laterality) if c is not None]


@pytest.mark.parametrize(
    ("number", "holds"),
    [("2363", True), ("2364", False), ("74400008", True), ("74400080", False), ("10200004", True)],
)
def test_the_check_digit_can_fail(number, holds):
    assert verhoeff_holds(number) is holds


def test_each_class_of_a_task_has_a_term_of_its_own():
    assert len(TASKS) == 51
    for task in TASKS.values():
        keys = [key for key in task.terms.values() if key is not None]
        assert len(set(keys)) == len(keys), task.name
    assert {key for _, key in CODED} <= set(TERMS)
    assert None not in TASKS["total"].terms.values()


def test_no_key_is_written_twice():
    sections = [(RESOURCES / "terms.yaml").read_text(encoding="utf-8")]
    sections += re.split(r"^\w+:$", (RESOURCES / "totalsegmentator.yaml").read_text(), flags=re.M)
    assert len(sections) == 5
    for text in sections:
        keys = Counter(re.findall(r"^ {0,2}([\w-]+):", text, re.MULTILINE))
        for name in ("category", "type", "region", "laterality", "colour"):
            del keys[name]
        assert [key for key, count in keys.items() if count > 1] == []


def test_no_two_terms_have_the_same_codes():
    seen = Counter(
        tuple(c.value if c else None for c in (t.type, t.region, t.laterality))
        for t in TERMS.values()
    )
    assert [codes for codes, count in seen.items() if count > 1] == []


@pytest.mark.parametrize("key", TERMS)
def test_codes_are_those_of_the_standard(key):
    """A code with a slip of the pen fails its check digit, or has another meaning in PS3.16."""
    term = TERMS[key]
    for code in coded(term):
        assert code.scheme_designator == "SCT"
        assert verhoeff_holds(code.value)
        assert len(code.meaning) <= 64
        known = dicom_meanings(code.value) or {BEYOND_DICOM.get(code.value)}
        assert code.meaning in known
    categories = codes.CID7150
    assert term.category in {
        categories.AnatomicalStructure,
        categories.MorphologicallyAbnormalStructure,
        categories.PhysicalObject,
    }


def test_codes_beyond_dicom_are_used_and_beyond_dicom():
    assert BEYOND_DICOM.keys() <= {term.type.value for term in TERMS.values()}
    assert not any(dicom_meanings(value) for value in BEYOND_DICOM)


@pytest.mark.parametrize(("name", "key"), CODED)
def test_sides_are_stated_once(name, key):
    """Either by the laterality or by the code, and the same side as the class name's."""
    term = TERMS[key]
    side = next((s for s in ("left", "right") if re.search(rf"(^|_){s}(_|$)", name)), None)
    by_modifier = term.laterality.meaning.lower() if term.laterality else None
    in_code = re.search(r"\b(left|right)\b", term.type.meaning.lower())
    by_code = in_code.group() if in_code else None
    assert {by_modifier, by_code} == {side, None}


@pytest.mark.parametrize(("name", "key"), CODED)
def test_codes_say_what_the_class_name_says(name, key):
    """Every word of the class name is in the meaning, but for synonyms named here."""
    synonyms = {
        "urinary": "bladder",
        "bowel": "intestine",
        "clavicula": "clavicle",
        "autochthon": "deep muscle of back",
        "iliac": "common iliac",
        "vena": "iliac vein" if name.startswith("iliac") else "vena",
        "brachiocephalic": "innominate",
        "trunk": "celiac axis" if name.startswith("celiac") else "artery",
        "gland": "thyroid" if "thyroid" in name else "gland",
        "atrial": "left auricular",
        "vertebrae": "vertebra",
        "cartilages": "cartilage",
        "arteries": "artery",
        "veins": "vein",
        "vessels": "vessel",
        "nodules": "nodule",
        "lesions": "lesion",
        "tumor": "neoplasm",
        "trunc": "trunk",
        "extremities": "extremity",
        "scalene": "scalenous",
        "brainstem": "brain stem",
        "bronchia": "bronchus",
        "insular": "insula",
        "cortex": "insula",
        "intracerebral": "brain",
        "ventricular": "ventricle",
        "tarsal": "tarsus",
        "metacarpal": "metacarp",
        "thoracic": "chest",
        "upper": "lung" if "lobe" in name else "maxilla",
        "lower": "lung" if "lobe" in name else "mandib",
        "jawbone": "mandible" if name.startswith("lower") else "maxilla",
    }
    synonyms |= {
        "ventricle_frontal_horn": {"frontal": "anterior"},
        "ventricle_occipital_horn": {"occipital": "posterior"},
        "ventricle_temporal_horn": {"temporal": "inferior"},
        "lung_arteries": {"lung": "pulmonary"},
        "lung_veins": {"lung": "pulmonary"},
        # PS3.16 leaves the incisor out of this one's meaning.
        "lower_left_lateral_incisor_fdi32": {"incisor": "lateral tooth"},
    }.get(re.sub(r"_(left|right)$", "", name), {})
    romans = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii")
    if name.startswith("liver_segment"):
        synonyms |= {"liver": "hepatic"}
        synonyms |= {str(n): f"segment {roman} " for n, roman in enumerate(romans, start=1)}
    ordinals = {code: str(number) for number, code in enumerate(RIBS, start=1)}
    term = TERMS[key]
    meanings = " ".join(c.meaning.lower() for c in coded(term))
    meanings += f" {ordinals.get(term.type.value, '')}"
    words = re.sub(r"^(heart|body|eye(?=_lens)|lung(?=_trachea))_|_fdi\d\d$", "", name).split("_")
    for word in words:
        assert synonyms.get(word, word.lower()) in meanings


def test_colours_can_be_distinguished():
    """At least 10 in CIE76, several times what the eye just sees."""
    lab = {
        k: np.array([t.colour.l_star, t.colour.a_star, t.colour.b_star]) for k, t in TERMS.items()
    }
    near = [(a, b) for a, b in combinations(lab, 2) if np.linalg.norm(lab[a] - lab[b]) < 10]
    assert near == []


def item(term):
    description = Dataset()
    description.SegmentedPropertyTypeCodeSequence = [term.type]
    apply_modifiers(description, term)
    return description


def test_a_side_modifies_the_type():
    left = item(TERMS["kidney-left"]).SegmentedPropertyTypeCodeSequence[0]
    assert left.SegmentedPropertyTypeModifierCodeSequence[0] == codes.CID244.Left
    assert "SegmentedPropertyTypeModifierCodeSequence" not in TERMS["kidney-left"].type
    whole = item(TERMS["kidney"]).SegmentedPropertyTypeCodeSequence[0]
    assert "SegmentedPropertyTypeModifierCodeSequence" not in whole


def test_a_side_modifies_the_region_of_a_finding():
    description = item(TERMS["kidney-cyst-right"])
    (region,) = description.AnatomicRegionSequence
    assert region.CodeValue == codes.SCT.Kidney.value
    assert region.AnatomicRegionModifierSequence[0] == codes.CID244.Right
    assert "AnatomicRegionModifierSequence" not in TERMS["kidney-cyst-right"].region
    assert TERMS["kidney-cyst-right"].site == codes.SCT.Kidney
    assert TERMS["liver"].site == codes.SCT.Liver
    assert TERMS["lesion"].site is None
