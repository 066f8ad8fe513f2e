"""Images of several roles as one case: brought to one grid, in what is taken for one space."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jipflow import datasets
from jipflow.cases import Case, Series
from jipflow.images.read import BROKEN
from jipflow.images.resample import resample
from jipflow.images.volume import Grid, Volume, read_volume, volume_path
from jipflow.place import raise_place_error
from jipflow.reasons import CaseFault, Reason


def read_channel(
    volumes: Path, case_id: str, role: str, target: str, grid: Grid
) -> tuple[Volume, str]:
    """Read the volume of a role and bring it to the grid of another one, linearly.

    Args:
        volumes: folder of ``<case_id>/<role>.nrrd``.
        case_id: pseudonym of the case.
        role: the volume's.
        target: the role whose grid it shall have.
        grid: of that role.

    Returns:
        The volume, and a sentence where it does not cover the whole grid.

    Raises:
        CaseFault: it lies wholly outside the grid.
    """
    volume = read_volume(volume_path(volumes, case_id, role))
    if role == target:
        return volume, ""
    found, covered = resample(volume, grid)
    if covered == 0:
        raise CaseFault(
            Reason.IMAGES_APART,
            f"case {case_id}: the {role} lies wholly outside the {target}; look whether both are "
            "of one examination and share a frame of reference.",
        )
    if covered == 1:
        return found, ""
    return found, (
        f"The {role} covers {covered:.1%} of the {target}; beyond it the model saw its lowest "
        f"value, {found.array.min():g}."
    )


def frames_note(case: Case, roles: Iterable[str]) -> str:
    """Say where images whose coordinates are taken as one space may not share it.

    Images share a space where their Frame of Reference UIDs are equal (PS3.3 C.7.4.1).

    Args:
        case: the case, whose series are there.
        roles: those that a segmentation combines.

    Returns:
        A sentence where the frames of reference differ or one is not known; empty where they are
        one, or where there is no file to look at.
    """
    series = {role: case.roles[role] for role in roles}
    if len(series) < 2 or not all(one.paths for one in series.values()):
        return ""
    frames = {_frame_of_reference(one) for one in series.values()}
    if len(frames) == 1 and "" not in frames:
        return ""
    return (
        f"The series of the roles {', '.join(series)} do not name one frame of reference; their "
        "coordinates were taken as one space, so look whether the images lie on each other."
    )


def _frame_of_reference(series: Series) -> str:
    """Return the UID that the first file of a series names; empty where it cannot be read."""
    try:
        header = datasets.read(series.paths[0], stop=datasets.at_pixels).dataset
        return str(header.get("FrameOfReferenceUID") or "")
    except BROKEN as error:
        raise_place_error(error)
        return ""
