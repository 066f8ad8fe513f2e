"""What lies in a series beside its stack: localizers, reformats, screen saves. They are set apart.

The stack is the largest group of images of one modality and orientation. What is surely no slice of
it is set apart; all else stays with it, so that a stack that is not sure is refused, not halved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from jipflow.images.acquisitions import is_localizer
from jipflow.images.pixels import Plane
from jipflow.reasons import CaseFault, Reason
from jipflow.syntaxes import MODALITIES

SAME_ORIENTATION = 0.05
"""Largest difference between direction cosines, 3 degrees, of images that count as one stack's:
what of it is more than rounding makes the stack fail, and no image is taken out."""
ACROSS = 65.0
"""Angle in degrees between planes from which on they are of no one stack: gantries tilt by up to 30
each way, discs of a spine by less, and a scan along a second angle is part of the examination."""
FEWEST = 4
"""Slices that a stack has at least for anything to be set apart from it."""
FEW = 3
"""Most images that count as a survey where Image Type does not say so."""
SURVEYED = 4
"""How often as many slices as images of a survey a stack has at least."""
BESIDE = 0.25
"""Farthest, in slices, from the place of a slice at which an image may be one."""

LOCALIZER = "localizers by their Image Type"
OTHER_WAY = "images of another orientation"
SURVEY = "images of another orientation and size"
OTHER_MODALITY = "images of another modality"
COLOUR = "colour images"


@dataclass(frozen=True)
class Found:
    """An image plane of a series, or an object that gives none.

    Attributes:
        path: its file.
        instance: its data set.
        plane: the image plane; None of an object that gives none.
        fault: why it gives none, or why its pixels cannot be read.
    """

    path: Path
    instance: Dataset
    plane: Plane | None
    fault: CaseFault | None = None


@dataclass(frozen=True)
class Parted:
    """A series in two parts.

    Attributes:
        planes: what may be the stack, in the order of the files.
        apart: SOPInstanceUIDs of what was set apart, without those that have planes in the stack.
        note: what was set apart and why, empty where nothing was.
    """

    planes: list[Plane]
    apart: frozenset[str]
    note: str


def parted(found: Sequence[Found], name: str) -> Parted:
    """Set apart what is surely no slice of the stack of a series.

    These are images that are stated to be localizers (Image Type, value 3, PS3.3 C.8.2.1.1.1),
    images that lie across the stack, few ones of another orientation and size, those of another
    modality, colour images, and objects that are no images that are measured. They are fewer than
    the slices, and lie at no place where a slice of the stack would lie. A damaged image is set
    apart only where its header says that it is one of these.

    Args:
        found: the planes and objects of the series.
        name: the series, for messages.

    Raises:
        CaseFault: an object or a damaged image may be part of the stack, or what is set apart is of
            another patient or study.
    """
    images = [one for one in found if one.plane is not None]
    objects = [one for one in found if one.plane is None]
    planes = [one.plane for one in images if one.plane is not None]
    stack = _stack(planes)
    why = [_why(plane, stack) for plane in planes]
    reasons = [_why_object(one, stack) for one in objects]
    if not _clear(planes, why, reasons, stack):
        why, reasons = [""] * len(planes), [""] * len(objects)
    for one, reason in zip((*images, *objects), (*why, *reasons), strict=True):
        if one.fault is not None and not reason:
            raise one.fault
    kept = [plane for plane, reason in zip(planes, why, strict=True) if not reason]
    tally = Counter(reason for reason in (*why, *reasons) if reason)
    if not tally:
        return Parted(planes, frozenset(), "")
    _check_identity(kept, found, name)
    here = {str(plane.header.SOPInstanceUID) for plane in kept}
    uids = {str(one.instance.get("SOPInstanceUID") or "") for one in found} - here - {""}
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.items()))
    note = f"Set apart from the {len(kept)} images of the stack: {listed}."
    return Parted(kept, frozenset(uids), note)


def _stack(planes: Sequence[Plane]) -> list[Plane]:
    """Return the largest group of images of one modality and orientation.

    Images that are stated to be localizers count only where there are no others.
    """
    bodies = [plane for plane in planes if not is_localizer(plane.header)] or list(planes)
    groups: list[list[Plane]] = []
    for plane in bodies:
        for group in groups:
            if _modality(plane) == _modality(group[0]) and _along(plane, group[0]):
                group.append(plane)
                break
        else:
            groups.append([plane])
    return max(groups, key=len, default=[])


def _clear(
    planes: Sequence[Plane], why: Sequence[str], reasons: Sequence[str], stack: Sequence[Plane]
) -> bool:
    """Return whether the stack is one beyond doubt, beside what would be set apart."""
    count = len(stack)
    if count < FEWEST or not count > sum(map(bool, why)) or not count > sum(map(bool, reasons)):
        return False
    if all(is_localizer(plane.header) for plane in stack):
        return False
    survey = why.count(SURVEY)
    if survey > FEW or survey * SURVEYED > count:
        return False
    others = [plane for plane, reason in zip(planes, why, strict=True) if reason == OTHER_WAY]
    # Reformats may be more than the slices that they were made of.
    if any(map(_is_derived, stack)) and not all(map(_is_derived, others)):
        return False
    # Three planes of about as many images each are a survey, of which none is a stack.
    several = any(not _along(plane, others[0]) for plane in others)
    return not several or count >= 2 * len(others)


def _why(plane: Plane, stack: Sequence[Plane]) -> str:
    """Say why an image is no slice of the stack; nothing where it may be one."""
    if not stack or any(plane is one for one in stack):
        return ""
    if _modality(plane) != _modality(stack[0]):
        near = _along(plane, stack[0]) and _is_vacant(plane.header, stack)
        return "" if near else OTHER_MODALITY
    alike = _size(plane.header) == _common_size(stack)
    localizer = is_localizer(plane.header)
    if _along(plane, stack[0]):
        vacant = alike and _is_vacant(plane.header, stack)
        return LOCALIZER if localizer and not vacant else ""
    if localizer:
        return LOCALIZER
    if _angle(plane, stack[0]) > ACROSS:
        # Only the orientation of a slice may be wrong.
        return "" if alike and _is_next(plane.header, stack) else OTHER_WAY
    sizes = {_size(one.header) for one in stack}
    return "" if _size(plane.header) in sizes else SURVEY


def _why_object(one: Found, stack: Sequence[Plane]) -> str:
    """Say why an object that gives no plane is no slice of the stack; nothing if it may be one."""
    header = one.instance
    sop_class = UID(str(header.get("SOPClassUID") or ""))
    if not sop_class or not stack:
        return ""
    if sop_class in MODALITIES:
        if is_localizer(header):
            return LOCALIZER
        if int(header.get("SamplesPerPixel") or 1) == 1:
            return ""
    if header.get("ImageOrientationPatient") and header.get("ImagePositionPatient"):
        cosines = np.array(header.ImageOrientationPatient, dtype=float)
        position = np.array(header.ImagePositionPatient, dtype=float)
        known = cosines.shape == (6,) and position.shape == (3,)
        near = known and np.abs(cosines - _cosines(stack[0])).max() <= SAME_ORIENTATION
        if near and _is_vacant(header, stack):
            return ""
    if sop_class in MODALITIES:
        return COLOUR
    return f"objects of the class {sop_class.name if sop_class.is_valid else 'unknown'}"


def _is_derived(plane: Plane) -> bool:
    """Return whether Image Type or Frame Type says that an image was made of others."""
    values = plane.header.get("FrameType") or plane.header.get("ImageType") or ""
    first = values if isinstance(values, str) else values[0]
    return str(first).strip().upper() == "DERIVED"


def _modality(plane: Plane) -> str:
    return MODALITIES[plane.header.SOPClassUID]


def _size(header: Dataset) -> tuple[float, ...]:
    """Return rows, columns and pixel spacing."""
    return (int(header.Rows), int(header.Columns), *map(float, header.PixelSpacing))


def _common_size(stack: Sequence[Plane]) -> tuple[float, ...]:
    return Counter(_size(plane.header) for plane in stack).most_common(1)[0][0]


def _cosines(plane: Plane) -> NDArray[np.float64]:
    return np.array(plane.header.ImageOrientationPatient, dtype=float)


def _along(one: Plane, other: Plane) -> bool:
    """Return whether two planes have one orientation, but for rounding or a fault of it."""
    return bool(np.abs(_cosines(one) - _cosines(other)).max() <= SAME_ORIENTATION)


def _normal(plane: Plane) -> NDArray[np.float64]:
    row, column = _cosines(plane).reshape(2, 3)
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal))


def _angle(one: Plane, other: Plane) -> float:
    """Return the angle in degrees between two planes, of any side."""
    cosine = abs(float(_normal(one) @ _normal(other)))
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def _is_vacant(header: Dataset, stack: Sequence[Plane]) -> bool:
    """Return whether a slice of the stack would lie where an image does and none is there."""
    normal = _normal(stack[0])
    depths = np.unique(
        [np.array(p.header.ImagePositionPatient, dtype=float) @ normal for p in stack]
    )
    steps = np.diff(depths)
    steps = steps[steps > 1e-3]
    if not len(steps):
        return True
    step = float(np.median(steps))
    depth = float(np.array(header.ImagePositionPatient, dtype=float) @ normal)
    if np.abs(depths - depth).min() <= BESIDE * step:
        return False
    index = (depth - depths[0]) / step
    return bool(abs(index - round(index)) <= BESIDE)


def _is_next(header: Dataset, stack: Sequence[Plane]) -> bool:
    """Return whether an image begins where the next slice of the stack, or a missing one, would."""
    if not _is_vacant(header, stack):
        return False
    normal = _normal(stack[0])
    places = np.array([plane.header.ImagePositionPatient for plane in stack], dtype=float)
    away = np.array(header.ImagePositionPatient, dtype=float) - places
    along = np.abs(away @ normal)
    nearest = int(along.argmin())
    sideways = away[nearest] - (away[nearest] @ normal) * normal
    return bool(np.linalg.norm(sideways) <= along[nearest])


def _check_identity(kept: Sequence[Plane], found: Sequence[Found], name: str) -> None:
    """Refuse a series that holds an object of another patient or study.

    Raises:
        CaseFault: it does.
    """
    for identity in ("PatientID", "StudyInstanceUID"):
        values = {str(one.instance.get(identity) or "").strip() for one in found} - {""}
        if len(values) > 1:
            raise CaseFault(
                Reason.MIXED_PATIENTS,
                f"{name}: its {len(found)} images and objects have {len(values)} values of "
                f"{identity}, {len(kept)} of them being the stack; a file of another examination "
                "may lie among them: fix it in the archive.",
            )
