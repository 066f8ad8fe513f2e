"""The contract with an algorithm in a container: what it finds in /input and leaves in /output.

docs/algorithms.md is the same for those who write algorithms. Nothing that the algorithm left is
trusted: no link is followed, nothing larger than the image is read, nothing unknown is taken over.
"""

from __future__ import annotations

import errno
import gzip
import os
import stat
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jipflow.files import write_json
from jipflow.images.nifti import RAS_TO_LPS, stated_grid
from jipflow.images.volume import Grid, Volume
from jipflow.place import raise_place_error
from jipflow.reasons import CaseFault, Reason

VERSION = 1
"""Of the contract; an algorithm refuses one that it does not know."""
JOB = "job.json"
UNITS = {"CT": "HU", "PT": "SUVbw in g/mL"}
"""Unit of the voxels by modality; others are the stored values after rescaling."""
HEADER_BYTES = 348
"""Length of a NIfTI-1 header (nifti1.h, sizeof_hdr)."""
OFFSET_LIMIT = 2**20
"""Where the voxels of a NIfTI file may begin at most, in bytes."""
TOLERANCE_MM = 0.01
"""How far apart the corners of image and segmentation may lie; NIfTI-1 keeps positions in single
precision, which is a hundredth of that."""
MESSAGE_LENGTH = 200
NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES}
"""What the system says of a file that an algorithm did not write, or closed."""


@dataclass(frozen=True)
class Parcel:
    """A case as an algorithm gets it.

    Attributes:
        name: of its folder, a number, so that the algorithm does not learn which case it is.
        grid: that the segmentation must lie on.
        entry: what ``job.json`` says of it.
    """

    name: str
    grid: Grid
    entry: dict[str, Any]

    @property
    def folder(self) -> str:
        """The case's folder, in the input and in the output."""
        return f"cases/{self.name}"

    def finished(self, output: Path) -> bool:
        """Return whether an algorithm has left a result or an error."""
        return any(os.path.lexists(output / self.entry[k]) for k in ("segmentation", "error"))


def write_case(
    folder: Path, name: str, volumes: Mapping[str, Volume], modalities: Mapping[str, str]
) -> Parcel:
    """Write the images of a case.

    Args:
        folder: gets ``cases/<name>/<role>.nii``.
        name: of the case's folder.
        volumes: by role; the first is the one whose grid the segmentation must lie on.
        modalities: DICOM Modality by role.
    """
    place = f"cases/{name}"
    (folder / place).mkdir(parents=True)
    for role, volume in volumes.items():
        write_nifti(folder / place / f"{role}.nii", volume)
    images = {
        role: {
            "file": f"{place}/{role}.nii",
            "modality": modalities[role],
            "unit": UNITS.get(modalities[role], "stored value"),
        }
        for role in volumes
    }
    entry = {
        "name": name,
        "images": images,
        "segmentation": f"{place}/segmentation.nii.gz",
        "error": f"{place}/error.txt",
    }
    return Parcel(name, next(iter(volumes.values())).grid, entry)


def write_job(
    source: Path,
    target: Path,
    parcels: Sequence[Parcel],
    labels: Mapping[str, int],
    role: str,
    device: str,
    threads: int,
) -> None:
    """Write ``job.json``, make the cases' folders below the output, and let any user read them.

    Args:
        source: what will be ``/input``.
        target: what will be ``/output``.
        parcels: the cases of this start.
        labels: number of each wanted label.
        role: whose grid the segmentation must lie on.
        device: ``cpu`` or ``cuda``.
        threads: cores that may be used.
    """
    write_json(
        source / JOB,
        {
            "contract": VERSION,
            "grid": role,
            "labels": dict(labels),
            "device": device,
            "threads": threads,
            "seed": 0,
            "cases": [parcel.entry for parcel in parcels],
        },
    )
    for parcel in parcels:
        (target / parcel.folder).mkdir(parents=True)
    for folder, _, names in os.walk(source):
        os.chmod(folder, 0o755)
        for name in names:
            os.chmod(Path(folder, name), 0o644)


def write_nifti(path: Path, volume: Volume) -> None:
    """Write a volume as NIfTI-1, whose axes are those of the array and whose world is RAS in mm."""
    import nibabel

    # From an index (z, y, x) to LPS, to an index (x, y, z) to RAS.
    affine = RAS_TO_LPS @ volume.grid.affine[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(volume.array.transpose(2, 1, 0), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def read_result(
    output: Path, parcel: Parcel, known: Iterable[int], case_id: str
) -> NDArray[np.unsignedinteger[Any]]:
    """Read the label map that an algorithm left for a case.

    Args:
        output: what was ``/output``; the algorithm must have ended.
        parcel: the case.
        known: numbers that the map may hold beside 0.
        case_id: for the messages.

    Returns:
        Labels of shape (z, y, x) on the grid of the parcel.

    Raises:
        CaseFault: ``algorithm_failed`` where the algorithm says so; ``invalid_output`` where there
            is nothing, or not what the contract asks for.
    """
    error = output / parcel.entry["error"]
    if os.path.lexists(error):
        with open(_own_file(output, parcel.entry["error"], case_id), "rb") as stream:
            text = one_line(stream.read(4 * MESSAGE_LENGTH).decode(errors="replace"))
        raise CaseFault(Reason.ALGORITHM_FAILED, f"case {case_id}: the algorithm says: {text}")
    path = _own_file(output, parcel.entry["segmentation"], case_id)
    try:
        with gzip.open(path) as stream:
            return _labels(stream, parcel.grid, set(known))
    except (OSError, EOFError, zlib.error) as problem:
        # An algorithm may close its own files.
        if not isinstance(problem, PermissionError):
            raise_place_error(problem)
        raise _invalid(case_id, f"is damaged or not gzip ({one_line(str(problem))})") from None
    except ValueError as problem:
        raise _invalid(case_id, one_line(str(problem))) from None


def one_line(text: str) -> str:
    """Return the beginning of a foreign text as one line of printable characters."""
    words = "".join(c if c.isprintable() else " " for c in text).split()
    return " ".join(words)[:MESSAGE_LENGTH]


def _invalid(case_id: str, problem: str) -> CaseFault:
    return CaseFault(
        Reason.INVALID_OUTPUT,
        f"case {case_id}: the algorithm's segmentation {problem}; try it by: jipflow algorithm "
        "check.",
    )


def _own_file(output: Path, name: str, case_id: str) -> Path:
    """Return the path of a regular file that lies where its name says, and nowhere else."""
    path = Path(os.path.realpath(output), name)
    try:
        regular = stat.S_ISREG(path.lstat().st_mode)
    except OSError as problem:
        if problem.errno not in NOT_THERE:
            raise
        raise _invalid(case_id, f"is missing: there is no {name}") from None
    if not regular or os.path.realpath(path) != str(path):
        raise _invalid(case_id, f"is refused: {name} is, or lies behind, a link or no file")
    return path


def _labels(stream: gzip.GzipFile, grid: Grid, known: set[int]) -> NDArray[np.unsignedinteger[Any]]:
    """Read a label map from a compressed NIfTI-1 file.

    Raises:
        ValueError: it is not what the contract asks for; the message goes on from a subject.
    """
    from nibabel.nifti1 import Nifti1Header
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        header = Nifti1Header(stream.read(HEADER_BYTES))
        kind = header.get_data_dtype()
        shape = tuple(int(n) for n in header.get_data_shape())
        slope, intercept = header.get_slope_inter()
    except (HeaderDataError, WrapStructError) as error:
        raise ValueError(f"has no valid NIfTI-1 header ({error})") from None
    if not np.issubdtype(kind, np.integer):
        raise ValueError(f"has voxels of type {kind}; write integers")
    if slope not in {None, 1} or intercept not in {None, 0}:
        raise ValueError("has a scale; write the labels as they are")
    if shape != grid.shape[::-1]:
        raise ValueError(f"has the shape {shape}; the image has {grid.shape[::-1]}")
    lps = stated_grid(header).affine[:, [2, 1, 0, 3]]
    if not Grid(grid.shape, lps).matches(grid, TOLERANCE_MM):
        raise ValueError("has another affine than the image; copy the image's")
    offset = int(header["vox_offset"])
    if not HEADER_BYTES <= offset <= OFFSET_LIMIT:
        raise ValueError(f"has its voxels at byte {offset}")
    stream.read(offset - HEADER_BYTES)
    size = int(np.prod(shape)) * kind.itemsize
    content = stream.read(size)
    # Reading to the end also checks the sum of a gzip file.
    if len(content) != size or stream.read(1):
        raise ValueError("has fewer or more voxels than its header says")
    values = np.frombuffer(content, kind).reshape(grid.shape)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > max(known):
        raise ValueError(f"has labels from {low} to {high}; known are {sorted(known)}")
    labels = values.astype(np.min_scalar_type(max(known)))
    present = np.zeros(high + 1, bool)
    present[labels] = True
    unknown = set(np.flatnonzero(present).tolist()) - known - {0}
    if unknown:
        raise ValueError(f"has the label {min(unknown)}; known are {sorted(known)}")
    return labels
