"""Where the header of a NIfTI file puts its voxels."""

from __future__ import annotations

from typing import Any

import numpy as np

from jipflow.images.volume import Grid

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""NIfTI's world runs to the right, the front and the head, DICOM's to the left, the back and the
head."""


MM = {"meter": 1000.0, "micron": 0.001}
"""Millimetres in the units of space that a header may state (nifti1.h, "xyzt_units") beside them;
ITK scales by them, too."""

TOLERANCE = 0.05
"""Farthest, in voxels, that a corner may lie from where it should: a header has single precision,
and may hold a rotation as a quaternion."""


def stated_grid(header: Any) -> Grid:
    """Return the grid of a NIfTI image, its axes as they are stored: the first is x as a rule.

    A header may state the geometry twice, as sform and as qform (nifti1.h, "3D image orientation
    and location in space"), and programs differ in which they take: nibabel the sform, ITK the
    qform where both are of the scanner. Its units of space are millimetres unless it says others.

    Args:
        header: nibabel's of the file.

    Returns:
        Its affine goes from an index of the array as nibabel gives it to LPS millimetres.

    Raises:
        ValueError: both are there and differ, none is, or the one that is there is no geometry;
            the message goes on from a subject.
    """
    shape = tuple(int(size) for size in header.get_data_shape())
    if len(shape) != 3:
        raise ValueError(f"has {len(shape)} dimensions and not 3")
    forms = [header.get_sform(coded=True), header.get_qform(coded=True)]
    try:
        scale = MM.get(header.get_xyzt_units()[0], 1.0)
    except KeyError:
        raise ValueError("has a unit of space that NIfTI does not know") from None
    to_lps = np.diag([scale, scale, scale, 1.0]) @ RAS_TO_LPS
    stated = [to_lps @ affine for affine, code in forms if code]
    if not stated:
        raise ValueError("states neither sform nor qform, so that it may lie anywhere; set one")
    affine = stated[0]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < np.finfo(float).tiny:
        raise ValueError("has an affine that is no geometry")
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    for other in stated[1:]:
        if not Grid(grid.shape, other).matches(grid, TOLERANCE * min(grid.spacing)):
            raise ValueError(
                "has an sform and a qform that put it in different places, so that programs differ "
                "in where it lies; save it with one of them, or both alike"
            )
    return grid
