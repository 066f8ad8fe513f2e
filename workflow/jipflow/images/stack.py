"""Image planes as the slices of one volume: sorted, each once, on an even grid."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from highdicom.spatial import create_affine_matrix_from_attributes
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from jipflow.images.acquisitions import (
    SPACING_TOLERANCE,
    check_one_acquisition,
    image_key,
    interleaving_attribute,
    same_image,
    splitting_attribute,
    what_to_do,
)
from jipflow.images.pixels import Plane
from jipflow.images.thinned import check_thinned
from jipflow.images.tilt import STEEPEST, right_grid, tilt
from jipflow.images.volume import Grid
from jipflow.reasons import CaseFault, Reason

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference between direction cosines of one orientation: 0.05 mm over 512 mm."""
POSITION_TOLERANCE = 0.01
"""Largest distance in mm at which two slices count as at one position."""
SHEAR_TOLERANCE = 1.25e-3
"""Largest sideways shift a millimetre of travel: direction cosines of three decimals turn the
normal by up to 1.22e-3."""
ROUNDING_TOLERANCE = 0.06
"""Largest distance in mm from an even grid: 0.05 where positions have one decimal, and its fit."""
ROUNDING_SHARE = 0.1
"""Largest share of the slice distance that is taken for rounding."""
NARROWINGS = 60
"""Steps by which the distance of slices is found that fits them best, to 1e-10 of rounding."""
SIDEWAYS_TOLERANCE = 0.09
"""Largest distance in mm of a slice from the line of the stack: rounding to one decimal moves a
point by up to 0.087."""
UNIT_TOLERANCE = 1e-4
"""Deviation of direction cosines from unit length from which on it is noted."""


def sorted_stack(planes: list[Plane], name: str, notes: list[str]) -> list[Plane]:
    """Sort planes along their normal, each once, and refuse what is no regular stack.

    Slices that shift sideways by a constant step, as a tilted gantry leaves them, get headers of a
    right grid and their place on it (`jipflow.images.tilt`).

    Args:
        planes: of one series, in any order.
        name: the series, for messages.
        notes: gets a sentence if planes that repeat others are left out, or some may be missing.

    Returns:
        The planes, from the first to the last along the cross product of row and column direction
        (PS3.3 C.7.6.2.1.1).

    Raises:
        CaseFault: they are not slices of one regular volume.
    """
    if len(planes) < 2:
        raise _too_few(name)
    check_one_examination([plane.header for plane in planes], name)
    _check_one_plane_geometry(planes, name)
    normal = _normal(planes[0].header.ImageOrientationPatient)
    depth = _positions(planes) @ normal
    # The UID decides between slices at one position, so that files may be moved and renamed.
    uids = [str(plane.instance.SOPInstanceUID) for plane in planes]
    order = sorted(range(len(planes)), key=lambda i: (depth[i], uids[i], planes[i].frame))
    planes = _distinct([planes[i] for i in order], depth[order], name, notes)
    check_one_acquisition(planes, name)
    _check_spacing(planes, name, notes)
    ends = _positions([planes[0], planes[-1]]) @ normal
    check_thinned(planes, float(np.ptp(ends)) / (len(planes) - 1), name, notes)
    return _upright(planes)


def _upright(planes: list[Plane]) -> list[Plane]:
    """Return checked planes on a right grid, moved within themselves where they are sheared."""
    headers = [plane.header for plane in planes]
    directions = _directions(headers)
    drift, _ = _line(_positions(planes))
    drift -= (drift @ directions[2]) * directions[2]
    if float(np.linalg.norm(drift)) <= SIDEWAYS_TOLERANCE:
        return planes
    placed, shifts = right_grid(headers, directions)
    return [
        replace(plane, header=header, shift=shift)
        for plane, header, shift in zip(planes, placed, shifts, strict=True)
    ]


def square_directions(
    orientations: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bring direction cosines to unit length and to a right angle, as exact ones are already.

    What each vector has of the other is taken out of both by half, so that neither is turned more.

    Args:
        orientations: Image Orientation (Patient), shape (n, 6).

    Returns:
        The directions of the rows and of the columns, each of shape (n, 3).
    """
    one, two = _unit(orientations[:, :3]), _unit(orientations[:, 3:])
    common = (one * two).sum(axis=1, keepdims=True)
    return _unit(one - two * common / 2), _unit(two - one * common / 2)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    """Return the unit vector at a right angle to an image plane."""
    rows, columns = square_directions(np.array([orientation], dtype=float))
    return np.cross(rows[0], columns[0])


def _too_few(name: str) -> CaseFault:
    return CaseFault(
        Reason.TOO_FEW_SLICES,
        f"{name}: has one slice; retrieve the rest of the series or exclude it.",
    )


def _positions(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """Return Image Position (Patient) of each plane, shape (n, 3) in LPS mm."""
    return np.array([plane.header.ImagePositionPatient for plane in planes], dtype=float)


def check_one_examination(headers: Sequence[Dataset], name: str) -> None:
    """Refuse slices of several kinds of image, patients, studies or frames of reference.

    Args:
        headers: of the slices.
        name: the series, for messages.

    Raises:
        CaseFault: they are of several.
    """
    kinds = {header.SOPClassUID for header in headers}
    if len(kinds) > 1:
        raise CaseFault(
            Reason.UNSUPPORTED_OBJECT,
            f"{name}: mixes {', '.join(sorted(UID(kind).name for kind in kinds))}; export each as "
            "a series of its own.",
        )
    for identity in ("PatientID", "StudyInstanceUID"):
        count = len({str(header.get(identity) or "").strip() for header in headers})
        if count > 1:
            raise CaseFault(
                Reason.MIXED_PATIENTS,
                f"{name}: its slices have {count} values of {identity}; a file of another "
                "examination may lie among them: fix it in the archive.",
            )
    frames = {header.FrameOfReferenceUID for header in headers}
    if len(frames) > 1:
        raise CaseFault(
            Reason.MIXED_FRAME_OF_REFERENCE,
            f"{name}: has {len(frames)} frames of reference, so its slices have no common space; "
            "export each examination as a series of its own.",
        )


def _check_one_plane_geometry(planes: Sequence[Plane], name: str) -> None:
    """Refuse slices of several orientations, sizes or pixel spacings."""
    headers = [plane.header for plane in planes]
    cosines = np.array([h.ImageOrientationPatient for h in headers], dtype=float)
    off = np.abs(cosines - np.median(cosines, axis=0)).max(axis=1) > ORIENTATION_TOLERANCE
    if off.any():
        count = len(np.unique(cosines.round(3), axis=0))
        stray = planes[int(np.argmax(off))]
        raise CaseFault(
            Reason.MIXED_ORIENTATION,
            f"{name}: its slices lie in {count} orientations, {stray.path} not as most do; a "
            "localizer or reformat may be mixed in, and is set apart only where it is surely no "
            "slice, and they are fewer: export it as a series of its own.",
        )
    matrices = {(h.Rows, h.Columns, *map(float, h.PixelSpacing)) for h in headers}
    if len(matrices) > 1:
        raise CaseFault(
            Reason.MIXED_MATRIX,
            f"{name}: has slices of {len(matrices)} sizes or pixel spacings; export each "
            "reconstruction as a series of its own.",
        )


def _distinct(
    planes: list[Plane], depth: NDArray[np.float64], name: str, notes: list[str]
) -> list[Plane]:
    """Leave out planes that repeat another one, and refuse others at one position.

    Args:
        planes: sorted by depth.
        depth: position in mm along the normal.
        name: the series, for messages.
        notes: gets a sentence if planes are left out.
    """
    groups = np.cumsum(np.diff(depth, prepend=depth[0]) >= POSITION_TOLERANCE).tolist()
    members = Counter(groups)
    # Of a plane that has its position alone nothing is compared.
    keys = [
        (group, image_key(plane.header) if members[group] > 1 else ())
        for group, plane in zip(groups, planes, strict=True)
    ]
    times = Counter(keys)
    kept: dict[int, list[Plane]] = defaultdict(list)
    # Each is compared with those that look the same, as of a hundred points of time none does.
    alike: dict[object, list[Plane]] = defaultdict(list)
    for key, plane in zip(keys, planes, strict=True):
        others = alike[key, plane.digest() if times[key] > 1 else b""]
        if not any(same_image(plane, other) for other in others):
            others.append(plane)
            kept[key[0]].append(plane)
    distinct = [plane for group in kept.values() for plane in group]
    if len(distinct) > len(kept):
        raise _several_at_one_position(list(kept.values()), name)
    left_out = len(planes) - len(distinct)
    if left_out:
        notes.append(f"Repeated slices, of the same place and pixels, left out: {left_out}.")
    return distinct


def _several_at_one_position(groups: Sequence[list[Plane]], name: str) -> CaseFault:
    """Return the fault of planes, grouped by position, of which several differ at one position."""
    count = sum(map(len, groups))
    attribute, shown = splitting_attribute(groups)
    if attribute:
        return CaseFault(
            Reason.MIXED_ACQUISITIONS,
            f"{name}: holds {count} slices at {len(groups)} positions, distinguished by {shown}; "
            f"{what_to_do(attribute)}",
        )
    twice = next(group for group in groups if len(group) > 1)
    return CaseFault(
        Reason.DUPLICATE_SLICES,
        f"{name}: {count - len(groups)} of {count} slices lie where another one lies but differ "
        f"from it, such as {twice[0].path} and {twice[1].path}; take out the wrong ones.",
    )


def _check_spacing(planes: Sequence[Plane], name: str, notes: list[str]) -> None:
    """Refuse sorted planes that are not evenly spaced along their normal.

    `notes` gets a sentence where their directions are corrected.
    """
    if len(planes) < 2:
        raise _too_few(name)
    headers = [plane.header for plane in planes]
    positions = _positions(planes)
    directions = _directions(headers)
    depth = positions @ directions[2]
    sideways = positions - np.outer(depth, directions[2])
    drift, jitter = _shear(sideways, depth)
    shift = float(np.linalg.norm(drift))
    if jitter > SIDEWAYS_TOLERANCE:
        raise CaseFault(
            Reason.GANTRY_TILT,
            f"{name}: slices lie up to {jitter:.2f} mm beside a straight line, which is no tilt of "
            "a gantry; export the series again or exclude it.",
        )
    if shift > SIDEWAYS_TOLERANCE:
        _check_tilt(positions, shift, directions[2], name)
    if not _is_even(depth):
        raise _uneven(planes, depth, name)
    notes += _direction_notes(_common_orientation(headers), directions)


def _check_tilt(
    positions: NDArray[np.float64], shift: float, normal: NDArray[np.float64], name: str
) -> None:
    """Refuse slices that shift sideways as no gantry's do: two of them, or too steeply."""
    angle = tilt(positions, normal)
    if len(positions) < 3 or angle > STEEPEST:
        raise CaseFault(
            Reason.GANTRY_TILT,
            f"{name}: {len(positions)} slices shift sideways by {shift:.2f} mm, {angle:.1f} degrees"
            f" off their normal; a tilt is corrected of three slices or more and up to "
            f"{STEEPEST:g} degrees: export the series again or exclude it.",
        )


def _shear(
    sideways: NDArray[np.float64], depth: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return the way sideways from the first to the last slice along the line that fits them best,
    and the largest distance of a slice from that line, wherever along it the slices lie."""
    along = depth - depth.mean()
    slope, start = np.polyfit(along, sideways, 1)
    away = sideways - start - np.outer(along, slope)
    return slope * float(np.ptp(depth)), float(np.linalg.norm(away, axis=1).max())


def _line(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return from the first to the last of evenly spaced points the way along the line that fits
    them best, and the largest distance of a point from that line."""
    index = np.arange(len(points))
    step, start = np.polyfit(index, points, 1)
    away = points - start - np.outer(index, step)
    return step * (len(points) - 1), float(np.linalg.norm(away, axis=1).max())


def _direction_notes(
    stated: NDArray[np.float64], directions: Sequence[NDArray[np.float64]]
) -> list[str]:
    """Say by how much directions that are used differ from those that headers state."""
    lengths = [float(np.linalg.norm(part)) for part in (stated[:3], stated[3:])]
    off = max((abs(length - 1), length) for length in lengths)
    turned = float(np.abs(np.concatenate(directions[:2]) - stated).max())
    if off[0] > UNIT_TOLERANCE:
        return [f"Direction cosines of length {off[1]:.4f} were brought to unit length."]
    if turned > UNIT_TOLERANCE:
        return [f"Direction cosines were corrected by up to {turned:.4f} to fit the slices' line."]
    return []


def _is_even(depth: NDArray[np.float64]) -> bool:
    """Return whether rising depths in mm are evenly spaced, but for rounding.

    Each counts, and not the steps alone: steps that differ by little add up.
    """
    last = len(depth) - 1
    rounding = min(ROUNDING_TOLERANCE, ROUNDING_SHARE * (depth[-1] - depth[0]) / last)
    index = np.arange(len(depth))
    # The distance of the grid that fits best: convex, so that a third can be left out each time.
    low, high = ((depth[-1] - depth[0] + 2 * end * rounding) / last for end in (-1, 1))
    for _ in range(NARROWINGS):
        one, two = low + (high - low) / 3, high - (high - low) / 3
        if np.ptp(depth - one * index) < np.ptp(depth - two * index):
            high = two
        else:
            low = one
    return bool(np.ptp(depth - (low + high) / 2 * index) <= 2 * rounding)


def _uneven(planes: Sequence[Plane], depth: NDArray[np.float64], name: str) -> CaseFault:
    """Return the fault of planes that are not evenly spaced: stacks within another, or gaps."""
    attribute, shown = interleaving_attribute(planes, depth)
    if attribute:
        return CaseFault(
            Reason.MIXED_ACQUISITIONS,
            f"{name}: holds several stacks of slices between one another, distinguished by "
            f"{shown}; {what_to_do(attribute)}",
        )
    gaps = np.diff(depth)
    steps = gaps / float(np.median(gaps))
    whole = np.rint(steps)
    missing = int(whole.sum()) - len(gaps)
    if missing > 0 and np.abs(steps - whole).max() <= SPACING_TOLERANCE * whole.max():
        after = depth[int(np.argmax(steps))]
        return CaseFault(
            Reason.MISSING_SLICES,
            f"{name}: {missing} of {len(depth) + missing} slices are missing, the first after "
            f"{after:.2f} mm; retrieve the series again.",
        )
    return CaseFault(
        Reason.IRREGULAR_SPACING,
        f"{name}: slice distances run from {gaps.min():.3f} to {gaps.max():.3f} mm; retrieve the "
        "series again, or resample it before import.",
    )


def grid_of(headers: Sequence[Dataset], name: str) -> Grid:
    """Return the grid of sorted, evenly spaced slices.

    Args:
        headers: of the slices, at least two.
        name: the series, for messages.

    Raises:
        CaseFault: highdicom finds that they make no volume.
    """
    first = headers[0]
    rows, columns, normal = _directions(headers)
    ends = np.array([headers[0].ImagePositionPatient, headers[-1].ImagePositionPatient], float)
    depth = ends @ normal
    try:
        affine = create_affine_matrix_from_attributes(
            image_position=first.ImagePositionPatient,
            image_orientation=[float(value) for value in (*rows, *columns)],
            pixel_spacing=first.PixelSpacing,
            spacing_between_slices=(depth[1] - depth[0]) / (len(headers) - 1),
            index_convention="DR",
            slices_first=True,
            handedness="LEFT_HANDED",
        )
    except (ValueError, TypeError) as error:
        raise CaseFault(
            Reason.GEOMETRY_REFUSED, f"{name}: makes no volume: {error}; export it again."
        ) from error
    # Adding 0 turns -0 into 0.
    return Grid((len(headers), int(first.Rows), int(first.Columns)), affine + 0.0)


def _directions(headers: Sequence[Dataset]) -> tuple[NDArray[np.float64], ...]:
    """Return unit vectors at right angles along rows, columns and slices of sorted planes.

    Row and column are those of the most headers, brought to unit length. Where rounding has turned
    them so far that the slices leave the line along their normal, by less than tilts a stack, the
    line of the positions counts, and the plane is turned to stand on it.
    """
    rows, columns = (v[0] for v in square_directions(_common_orientation(headers)[None]))
    normal = np.cross(rows, columns)
    positions = np.array([h.ImagePositionPatient for h in headers], dtype=float)
    line, _ = _line(positions)
    travel = line @ normal
    shift = float(np.linalg.norm(line - travel * normal))
    if not SIDEWAYS_TOLERANCE < shift <= SHEAR_TOLERANCE * travel:
        return rows, columns, normal
    normal = _unit(line)
    on_it = [v - (v @ normal) * normal for v in (rows, columns)]
    rows, columns = (v[0] for v in square_directions(np.concatenate(on_it)[None]))
    return rows, columns, normal


def _common_orientation(headers: Sequence[Dataset]) -> NDArray[np.float64]:
    """Return the direction cosines that occur most often; of several, the first in order."""
    cosines = np.array([h.ImageOrientationPatient for h in headers], dtype=float)
    distinct, counts = np.unique(cosines, axis=0, return_counts=True)
    return distinct[int(np.argmax(counts))]
