"""What splits the planes of one series into several acquisitions: phases, echoes, b-values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.images.diffusion import b_value
from jipflow.images.pixels import Plane
from jipflow.images.read import GEOMETRY
from jipflow.images.suv.fields import differing_field
from jipflow.reasons import CaseFault, Reason

APART = ("StackID", "TemporalPositionIdentifier", "TemporalPositionIndex", "EchoNumbers")
"""Attributes of which one volume has one value."""

B_VALUE = "DiffusionBValue"

ALIKE = {
    "CT": ("ConvolutionKernel", "KVP"),
    "MR": ("EffectiveEchoTime", "EchoTime"),
}
"""By modality, what else gives the same tissue other values, where slices continue one another."""

SAME = 0.05
"""Largest relative difference of numbers that are alike: scanners round them slice by slice."""

SPLITTING = (
    *APART,
    B_VALUE,
    "AcquisitionNumber",
    "FrameAcquisitionNumber",
    "EffectiveEchoTime",
    "EchoTime",
    "InversionTime",
    "ImageType",
    "FrameType",
    "ComplexImageComponent",
    "FlipAngle",
    "ConvolutionKernel",
    "KVP",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "FrameReferenceTime",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "FrameAcquisitionDateTime",
    "ContentTime",
)
"""Attributes that distinguish phases, echoes and acquisitions, from the plainest to the vaguest."""

KEYS = {
    **dict.fromkeys(
        (
            *("TemporalPositionIdentifier", "TemporalPositionIndex", "AcquisitionNumber"),
            *("FrameAcquisitionNumber", "TriggerTime", "NominalCardiacTriggerDelayTime"),
            *("FrameReferenceTime", "AcquisitionTime", "AcquisitionDateTime"),
            *("FrameAcquisitionDateTime", "ContentTime"),
        ),
        "time_point",
    ),
    "EchoNumbers": "echo",
    "EchoTime": "echo_time",
    "EffectiveEchoTime": "echo_time",
    B_VALUE: "b_value",
    "ImageType": "image_type",
    "FrameType": "image_type",
    "ComplexImageComponent": "image_type",
}
"""By attribute, the key of a role's `volume` that chooses one of its values."""

SPACING_TOLERANCE = 0.01
"""Largest relative deviation of a slice distance, as highdicom's default ``rtol``."""


def attribute_text(header: Dataset, name: str) -> str:
    """Return an attribute's value as text, empty where it is missing.

    Args:
        header: of an image plane.
        name: keyword; the b-value is looked for among the makers' private attributes, too.
    """
    value = b_value(header) if name == B_VALUE else header.get(name)
    return "" if value is None else str(value)


def what_to_do(attribute: str) -> str:
    """Return what a protocol or a site can do about volumes that an attribute tells apart.

    Args:
        attribute: its keyword.
    """
    key = KEYS.get(attribute)
    chosen = f"choose one by `volume: {{{key}: …}}` of the role in the protocol, or " if key else ""
    return f"{chosen}export each as a series of its own."


def image_key(header: Dataset) -> tuple[str, ...]:
    """Return the texts of the attributes that planes of the same image have in common.

    Args:
        header: of an image plane.
    """
    names = (*GEOMETRY, *SPLITTING, "RescaleSlope", "RescaleIntercept", "PhotometricInterpretation")
    return tuple(attribute_text(header, name) for name in names)


def same_image(one: Plane, other: Plane) -> bool:
    """Return whether two planes have the same geometry, values and acquisition.

    Args:
        one: a plane, whose pixels are read if need be.
        other: another one.

    Raises:
        CaseFault: the pixels cannot be read, or are the same and would have another SUV.
    """
    if image_key(one.header) != image_key(other.header):
        return False
    tables = ("ModalityLUTSequence", "RealWorldValueMappingSequence")
    if any(one.header.get(name) != other.header.get(name) for name in tables):
        return False
    if one.digest() != other.digest():
        return False
    if one.header.get("Modality") == "PT" and (field := differing_field(one.header, other.header)):
        raise CaseFault(
            Reason.CONTRADICTORY_SUV_FIELDS,
            f"{one.path} and {other.path} are the same image and differ in {field}, so that one of "
            "them is wrong; take that one out, with the others of its export.",
        )
    return True


def splitting_attribute(groups: Iterable[list[Plane]]) -> tuple[str, str]:
    """Name the attribute that splits planes, grouped by position, into stacks of their own.

    It has another value for each plane of a position, and either few values in all, as echoes and
    phases have, or values that follow each other from stack to stack, as times have.

    Args:
        groups: the planes at each position.

    Returns:
        Its keyword, and the same with its values; two empty texts if there is none.
    """
    groups = list(groups)
    for name in SPLITTING:
        rows = [[attribute_text(plane.header, name) for plane in group] for group in groups]
        distinct = _sorted({value for row in rows for value in row} - {""})
        if len(distinct) < 2:
            continue
        count = sum(len(row) for row in rows)
        apart = all(len(set(row)) == len(row) for row in rows)
        if apart and (2 * len(distinct) <= count or _in_turn(rows)):
            shown = ", ".join(distinct[:4]) + (", …" if len(distinct) > 4 else "")
            return name, f"{name} ({shown})"
    return "", ""


def _sorted(values: Iterable[str]) -> list[str]:
    """Return texts in order: as numbers where all are numbers."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return sorted(values)


def _in_turn(rows: list[list[str]]) -> bool:
    """Return whether a position's n-th value comes after the (n-1)-th of all other positions."""
    several = [row for row in rows if len(row) > 1]
    try:
        ranked = [sorted(map(float, row)) for row in several]
    except ValueError:
        return False
    if len(ranked) < 2:
        return False
    ranks = range(max(map(len, ranked)))
    turns = [[row[rank] for row in ranked if rank < len(row)] for rank in ranks]
    return all(max(one) < min(two) for one, two in pairwise(turns))


def is_localizer(header: Dataset) -> bool:
    """Return whether Image Type or Frame Type says so, in its third value or one after it."""
    values = header.get("FrameType") or header.get("ImageType") or ()
    listed = [values] if isinstance(values, str) else list(values)
    return "LOCALIZER" in (str(value).strip().upper() for value in listed[2:])


def check_one_acquisition(planes: Sequence[Plane], name: str) -> None:
    """Refuse planes of several stacks, times or echoes, even where they interleave evenly.

    Args:
        planes: of one series.
        name: the series, for messages.

    Raises:
        CaseFault: an attribute of which a volume has one value has several.
    """
    alike = ALIKE.get(str(planes[0].header.get("Modality", "")), ())
    for attribute in (*APART, B_VALUE, *alike):
        values = {attribute_text(plane.header, attribute) for plane in planes} - {""}
        if len(values) > 1 and not (attribute in alike and _are_alike(values)):
            raise CaseFault(
                Reason.MIXED_ACQUISITIONS,
                f"{name}: its slices differ in {attribute} ({', '.join(_sorted(values))}); "
                f"{what_to_do(attribute)}",
            )
    surveys = sum(is_localizer(plane.header) for plane in planes)
    if 0 < surveys < len(planes):
        raise CaseFault(
            Reason.MIXED_ACQUISITIONS,
            f"{name}: {surveys} of {len(planes)} slices are localizers by their Image Type and lie "
            "where slices would; export the localizer as a series of its own, or retrieve the "
            "slices that are missing.",
        )


def _are_alike(values: Iterable[str]) -> bool:
    """Return whether texts are numbers that differ by `SAME` at most."""
    try:
        numbers = sorted(map(float, values))
    except ValueError:
        return False
    return bool(numbers[-1] - numbers[0] <= SAME * abs(numbers[-1]))


def interleaving_attribute(planes: Sequence[Plane], depth: NDArray[np.float64]) -> tuple[str, str]:
    """Name the attribute whose values form even stacks of slices that reach into one another.

    Args:
        planes: sorted along their normal.
        depth: position of each in mm along the normal.

    Returns:
        Its keyword, and the same with its values; two empty texts if there is none.
    """
    for name in SPLITTING:
        stacks: dict[str, list[float]] = defaultdict(list)
        for plane, position in zip(planes, depth.tolist(), strict=True):
            stacks[attribute_text(plane.header, name)].append(position)
        if len(stacks) < 2 or min(map(len, stacks.values())) < 3:
            continue
        gaps = [np.diff(stack) for stack in stacks.values()]
        even = all(np.abs(gap / gap.mean() - 1).max() <= SPACING_TOLERANCE for gap in gaps)
        ends = sorted((stack[0], stack[-1]) for stack in stacks.values())
        if even and all(two[0] < one[1] for one, two in pairwise(ends)):
            return name, f"{name} ({', '.join(_sorted(stacks))})"
    return "", ""
