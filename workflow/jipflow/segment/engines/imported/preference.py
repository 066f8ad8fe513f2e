"""Which of several objects that fit an image equally the protocol prefers."""

from __future__ import annotations

from collections.abc import Sequence

from jipflow.notes import Notes
from jipflow.objects.annotation import Annotation
from jipflow.reasons import Decision

WISHES = {"approved": Decision.APPROVED_PREFERRED, "latest": Decision.LATEST_PREFERRED}
DATES = (("StructureSetDate", "StructureSetTime"), ("ContentDate", "ContentTime"))
"""When the content of a structure set (PS3.3 C.8.8.5) and a segmentation (C.8.20) was made."""


def preferred(
    objects: Sequence[Annotation],
    wishes: Sequence[str],
    notes: Notes,
) -> list[Annotation]:
    """Return the objects that come first by a protocol's `prefer`.

    Each wish leaves those that meet it best, in the protocol's order; one that none meets, or of
    which it is not known for all, leaves all.

    Args:
        objects: those that fit an image equally.
        wishes: ``approved`` (Approval Status, PS3.3 C.8.8.16) and ``latest``.
        notes: gets a sentence for each wish that decided.

    Returns:
        One, or those that no wish distinguishes.
    """
    left = list(objects)
    for wish in wishes:
        before = len(left)
        left = _approved(left) if wish == "approved" else _latest(left)
        if len(left) < before:
            uids = ", ".join(candidate.uid for candidate in left)
            notes.add(
                WISHES[wish], f"Of {before} objects that fit equally {uids} is preferred as {wish}."
            )
    return left


def note_status(source: Annotation, notes: Notes) -> None:
    """Note that an object was rejected by those who reviewed it.

    Args:
        source: the object.
        notes: gets a sentence where it was.
    """
    if _status(source) == "REJECTED":
        notes.add(
            Decision.OBJECT_REJECTED,
            f"{source.uid} was rejected in its review (Approval Status REJECTED).",
        )


def made(candidate: Annotation) -> str:
    """Return date and time of an object, so that later ones come later in order; empty if unknown.

    Args:
        candidate: an object.
    """
    for date, time in DATES:
        day = _digits(candidate.dataset.get(date))
        if len(day) == 8:
            clock, _, fraction = str(candidate.dataset.get(time) or "").strip().partition(".")
            return f"{day}{_digits(clock):0<6.6}{_digits(fraction):0<6.6}"
    return ""


def _approved(objects: list[Annotation]) -> list[Annotation]:
    return [candidate for candidate in objects if _status(candidate) == "APPROVED"] or objects


def _latest(objects: list[Annotation]) -> list[Annotation]:
    times = [made(candidate) for candidate in objects]
    if not all(times):
        return objects
    return [candidate for candidate, time in zip(objects, times, strict=True) if time == max(times)]


def _status(candidate: Annotation) -> str:
    return str(candidate.dataset.get("ApprovalStatus") or "").strip().upper()


def _digits(value: object) -> str:
    return "".join(sign for sign in str(value or "") if sign.isdecimal())
