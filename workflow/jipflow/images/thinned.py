"""Slices that are missing though those that are there lie evenly: every second one, say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from jipflow.images.pixels import Plane
from jipflow.reasons import CaseFault, Reason

NUMBERS = ("InstanceNumber", "ImageIndex", "InStackPositionNumber")
"""Attributes that count the slices of a stack (PS3.3 C.7.6.1, C.8.9.4, C.7.6.16.2.2)."""
TOTALS = ("NumberOfSlices", "ImagesInAcquisition")
"""Attributes that say how many slices there are (PS3.3 C.8.9.1, C.7.6.1)."""
DISTANCES = ("SpacingBetweenSlices", "SliceThickness")
"""Attributes that a distance of slices is compared with."""
TOLERANCE = 0.02
"""Largest relative deviation of a slice distance from a multiple of what a header states."""
MOST_STEPS = 20
"""Largest multiple that is looked for; thin slices of the lung lie ten of theirs apart."""


def check_thinned(planes: Sequence[Plane], spacing: float, name: str, notes: list[str]) -> None:
    """Refuse an even stack of which it is sure that slices are missing between the others.

    Numbers that rise by k from slice to slice are sure together with a distance of k times what
    the headers state, or with a stated number of slices that is k times the one that is there;
    so are the last two together. One of them alone is no proof: slices may be acquired with gaps,
    and echoes that were one series have numbers in steps.

    Args:
        planes: sorted along their normal, evenly spaced.
        spacing: their distance in mm.
        name: the series, for messages.
        notes: gets a sentence where slices may be missing.

    Raises:
        CaseFault: slices are missing.
    """
    headers = [plane.header for plane in planes]
    steps, numbered = _steps(headers)
    apart = _multiples(headers[0], spacing)
    stated = {total: key for key in TOTALS if (total := _number(headers[0], key)) > len(planes)}
    sure = [
        k
        for k in sorted({*([steps] if steps > 1 else []), *apart})
        if (steps == k) + (k in apart) + any(_thins(total, len(planes), k) for total in stated) > 1
        and not (steps == 1 and numbered)
    ]
    found = [
        *([f"their {numbered} rises in steps of {steps}"] if steps > 1 else []),
        *(f"their distance is {k} times {key} ({spacing:g} mm)" for k, key in apart.items()),
        *(f"{key} is {total}" for total, key in stated.items()),
    ]
    if sure:
        raise CaseFault(
            Reason.MISSING_SLICES,
            f"{name}: has {len(planes)} slices of about {sure[0] * len(planes)}: "
            f"{', '.join(found)}; retrieve the series again.",
        )
    if steps > 1 or stated or (apart and not numbered):
        notes.append(f"Slices may be missing: {len(planes)} are there; {', '.join(found)}.")


def _thins(total: int, there: int, k: int) -> bool:
    """Whether every k-th of so many slices are as many as are there."""
    return there in {total // k, -(-total // k)}


def _steps(headers: Sequence[Dataset]) -> tuple[int, str]:
    """Return by how much an attribute that counts slices rises, and which it is.

    Of several the smallest; 0 and nothing where none counts evenly.
    """
    found = {}
    for key in NUMBERS:
        values = [_number(header, key) for header in headers]
        rises = set(np.abs(np.diff(values)).tolist())
        monotone = len(set(np.sign(np.diff(values)).tolist())) == 1
        if all(values) and monotone and len(rises) == 1:
            found[key] = rises.pop()
    key = min(found, key=lambda name: found[name], default="")
    return found.get(key, 0), key


def _multiples(header: Dataset, spacing: float) -> dict[int, str]:
    """Return which multiple, from 2 on, the distance is of those that the header states."""
    found: dict[int, str] = {}
    for key in DISTANCES:
        stated = _length(header, key)
        k = round(spacing / stated) if stated > 0 else 0
        if 2 <= k <= MOST_STEPS and abs(spacing / (k * stated) - 1) <= TOLERANCE:
            found.setdefault(k, key)
    return found


def _number(header: Dataset, key: str) -> int:
    """Return a whole number of a header; 0 where it has none."""
    value = _length(header, key)
    return int(value) if value == int(value) else 0


def _length(header: Dataset, key: str) -> float:
    """Return a positive number of a header; 0 where it has none."""
    try:
        value = float(header.get(key) or 0)
    except (TypeError, ValueError):
        return 0.0
    return value if 0 < value < np.inf else 0.0
