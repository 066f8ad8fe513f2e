"""Whether a series shows a head, whose face a rendering of the volume would make recognisable."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from jipflow.privacy.pixels import Refusal
from jipflow.reasons import Reason
from jipflow.settings.export import Heads

LONGEST_TRUNK_MM = 800.0
"""A longer scan may reach from the trunk to the face: in adults the chin is some 900 mm above the
middle of the thighs, and a scan of chest, abdomen and pelvis takes 600 to 750 mm."""

HEAD = re.compile(
    r"(?<!FEMORAL )(?<!HUMERAL )(?<!RADIAL )(?<!PANCREATIC )HEAD(?! OF )"
    r"|(?<!FEMORAL )(?<!BLADDER )NECK|SKULL|BRAIN|CEREBR|CRANI|\bNEURO(RAD|\b)"
    r"|\bFAC(E|IAL)\b|MAXILL|ORBIT|\bEYES?\b|SINUS|\bJAWS?\b|MANDIB|\bDENTAL|TEETH|\bTMJ?\b"
    r"|\bEARS?\b|\bIA[CM]S?\b|PETROUS|TEMPORAL BONE|PITUITARY|SELLA|\bC ?SPINE"
    r"|CERVICAL (SPINE|VERT|NODE|LYMPH)|PAROTID|NASO|PHARYN|LARYN|THYROID|TONGUE|SALIVARY"
    r"|KOPF|SCH(AE|Ä)DEL|HIRN|GESICHT|\bHALS|\bNNH\b|\bHWS\b|T(E|Ê)TE\b|CR(A|Â)NE|CABEZA|\bTESTA\b"
)
"""Names of regions that show a face or a part of it: the terms of Body Part Examined (PS3.16
annex L), and what sites write into descriptions. Other heads and necks are not among them."""

ELSEWHERE = re.compile(
    r"^(CHEST|THORAX|LUNGS?|HEART|CARDIAC|CORONARY|MEDIASTINUM|BREASTS?|MAMMA|RIBS?|STERNUM"
    r"|CLAVICLE|SCAPULA|SHOULDER|ABDOMEN|ABD|LIVER|KIDNEYS?|SPLEEN|PANCREAS|GALLBLADDER|STOMACH"
    r"|COLON|BOWEL|INTESTINE|ADRENAL|AORTA|RETROPERITONEUM|PELVIS|BLADDER|PROSTATE|UTERUS|OVARY"
    r"|CERVIX|RECTUM|ANUS|VULVA|SCROTUM|TESTIS|HIPS?|SACRUM|COCCYX|[TLS] ?SPINE|TL ?SPINE"
    r"|LS ?SPINE|THORACIC SPINE|LUMBAR SPINE|CHESTABD(OMEN)?|CHESTABDPELV(IS)?|ABDOMENPELVIS"
    r"|ABDPELV(IS)?|TRUNK|EXTREMITY|(UP|LOW)ER? ?(EXTREMITY|LIMB|ARM|LEG)|LEGS?|ARMS?|THIGHS?"
    r"|FEMUR|KNEES?|CALF|TIBIA|ANKLES?|FOOT|FEET|TOES?|HUMERUS|ELBOWS?|FOREARMS?|WRISTS?|HANDS?"
    r"|FINGERS?|THUMB)$"
)
"""Terms of Body Part Examined of which none shows a face."""

DESCRIBED = (
    "SeriesDescription",
    "StudyDescription",
    "ProtocolName",
    "RequestedProcedureDescription",
)


@dataclass(frozen=True)
class Deface:
    """The face is to be cut away before a series leaves."""


def decide_head(
    headers: Sequence[Dataset], heads: Heads, *, unstated: bool = True, skull: bool = False
) -> Refusal | Deface | None:
    """Decide whether a series may leave as to the face that it may show.

    Args:
        headers: of its image planes, laid out as single-frame ones.
        heads: what is done with heads, the stricter of protocol and site.
        unstated: whether images that do not say what they show may be of a head.
        skull: whether the pixels show one, as `jipflow.privacy.deface.shows_skull` finds.

    Returns:
        Why it stays; that its face is to be cut away; or None where it shows no head.
    """
    planes = [header for header in headers if header.get("ImagePositionPatient")]
    if not planes:
        return None
    sure = "its pixels show a skull" if skull else _head(planes)
    doubt = sure or _doubt(planes)
    if doubt is None or (not unstated and not sure):
        return None
    if heads == "deface":
        return Deface()
    remedy = "leave it out, or have faces cut away by export.heads: deface of protocol and site"
    if not sure:
        remedy += (
            "; if none of your series without a region is of a head, state so by "
            "export.unstated_heads: false"
        )
    return Refusal(Reason.RECOGNISABLE_FACE, f"shows a head, or may, for {doubt}; {remedy}.")


def _head(planes: Sequence[Dataset]) -> str | None:
    """Return what says that planes show a head; None where nothing does."""
    for plane in planes:
        if str(plane.get("RecognizableVisualFeatures") or "NO").upper() != "NO":
            return "Recognizable Visual Features says so"
        for name, value in (
            *(("Body Part Examined", part) for part in _parts(plane)),
            *((name, _plain(plane.get(name))) for name in DESCRIBED),
        ):
            if HEAD.search(value):
                return f"{name} names one"
    return None


def _doubt(planes: Sequence[Dataset]) -> str | None:
    """Return why planes may show a head; None where they state another region."""
    parts = {part for plane in planes for part in _parts(plane)}
    if not parts:
        return "it does not say which region it is of (Body Part Examined)"
    if not all(ELSEWHERE.match(part) for part in parts):
        return "the region that it states may hold one (Body Part Examined)"
    heights = [float(plane.ImagePositionPatient[2]) for plane in planes]
    if max(heights) - min(heights) > LONGEST_TRUNK_MM:
        return f"it is longer than {LONGEST_TRUNK_MM:g} mm"
    return None


def _parts(plane: Dataset) -> list[str]:
    """Return the regions that a plane states."""
    coded = [
        item.get("CodeMeaning")
        for name in ("AnatomicRegionSequence", "PrimaryAnatomicStructureSequence")
        for item in plane.get(name) or []
    ]
    return [_plain(value) for value in (plane.get("BodyPartExamined"), *coded) if value]


def _plain(value: object) -> str:
    """Return a text in upper case whose words have spaces between them."""
    return " ".join(re.split(r"[\s_./,^-]+", str(value or "").upper())).strip()
