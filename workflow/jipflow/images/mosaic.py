"""Siemens mosaics: one image that holds the slices of a volume as tiles, row by row.

How many tiles there are, and in which direction they follow each other, stands in private elements
alone. What they mean follows nibabel's documentation (nibabel.org, "Siemens mosaic format" and
"Siemens format DICOM with CSA header"), its MosaicWrapper, SPM (spm_dicom_convert) and dcm2niix
(set_nii_header_x in console/nii_dicom.cpp), which agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.uid import LegacyConvertedEnhancedMRImageStorage, MRImageStorage
from pydicom.valuerep import DSfloat

from jipflow.images.csa import DamagedCsa, csa_items
from jipflow.images.pixels import Tile
from jipflow.images.private import private_value
from jipflow.images.read import PIXELS
from jipflow.images.stack import square_directions
from jipflow.reasons import CaseFault, Reason

MOSAIC = "MOSAIC"
"""The value of Image Type by which Siemens marks a mosaic."""
CLASSES = (MRImageStorage, LegacyConvertedEnhancedMRImageStorage)
"""What a mosaic may be; of an enhanced image proper each frame is a slice."""
COUNT = (0x0019, 0x0A, "SIEMENS MR HEADER")
"""Group, element and creator of NumberOfImagesInMosaic."""

MOST_TILES = 1024
"""Tiles that a mosaic may have; real ones have some tens."""
PARALLEL_TOLERANCE = 1e-4
"""Largest deviation of the cosine between SliceNormalVector and the image plane's normal from 1 or
-1, which is an angle of 0.8 degrees: it says no more than on which side the next tile lies."""
DISTANCE_TOLERANCE = 0.01
"""Largest relative difference of two statements of one distance of slices."""
OF_MOSAIC = {*PIXELS, "Rows", "Columns", "ImagePositionPatient", "ImagesInAcquisition"}
"""What a tile's header has not from its mosaic; the last one counts mosaics and not slices."""
FIX = (
    "de-identification removes these private elements: export the series again with them, or as "
    "single slices or an enhanced image"
)


def split(path: Path, header: Dataset) -> list[tuple[Tile, Dataset]]:
    """Return the tiles of a mosaic, each with a header that is laid out as a single slice's.

    Image Position (Patient) of a mosaic is that of a plane as large as the mosaic around the centre
    of its first tile, so that the first pixel of the tile lies half of what the mosaic is larger by
    farther on. The next tiles follow along SliceNormalVector, which may be the opposite of the
    cross product of row and column direction.

    Args:
        path: its file, for messages.
        header: of an image plane, whose geometry is there and sane.

    Returns:
        The tiles and their headers, in the order of the mosaic; nothing where the image is none. An
        enhanced image is none, even where its Image Type still says so (Siemens XA30; dcm2niix
        issue 553), nor is an image that is no larger than its Acquisition Matrix.

    Raises:
        CaseFault: it is a mosaic, and its tiles or their places are not known for sure.
    """
    if header.get("SOPClassUID") not in CLASSES or _is_one_slice(header):
        return []
    stated = MOSAIC in (header.get("ImageType") or ())
    count = _whole(private_value(header, *COUNT))
    if not stated and (count or 0) < 2:
        return []
    if header.SOPClassUID == LegacyConvertedEnhancedMRImageStorage:
        raise CaseFault(
            Reason.UNSUPPORTED_OBJECT,
            f"{path}: its frames are Siemens mosaics that were converted; export the mosaics "
            "themselves.",
        )
    if not stated:
        raise _contradiction(path, f"NumberOfImagesInMosaic is {count}, but Image Type names none")
    csa = _csa(path, header)
    count = _count(path, count, csa)
    if count == 1:
        return []
    normal, distance = _normal(path, header, csa), _distance(path, header, csa)
    missing = {
        "NumberOfImagesInMosaic (0019,xx0A)": count,
        "SliceNormalVector in the CSA header (0029,xx10)": normal,
        "Spacing Between Slices (0018,0088)": distance,
    }
    absent = [name for name, value in missing.items() if value is None]
    if absent or count is None or normal is None or distance is None:
        raise CaseFault(
            Reason.MISSING_GEOMETRY,
            f"{path}: is a Siemens mosaic, and {', '.join(absent)} is missing, so that its slices "
            f"have no place; {FIX}.",
        )
    return _tiles(path, header, count, normal * distance)


def _tiles(
    path: Path, header: Dataset, count: int, step: NDArray[np.float64]
) -> list[tuple[Tile, Dataset]]:
    """Return the tiles of a mosaic; `step` goes from one to the next, in LPS mm."""
    side = Tile(0, count).side
    size = np.array([int(header.Rows), int(header.Columns)])
    if count > MOST_TILES or (size % side).any():
        raise _contradiction(
            path,
            f"{size[0]} rows and {size[1]} columns cannot be {side} × {side} tiles, as "
            f"NumberOfImagesInMosaic, {count}, needs",
        )
    rows, columns = size // side
    across = np.array(_directions(header)[:2]) * np.array(header.PixelSpacing, float)[::-1, None]
    # The way along a row has the columns' number, and the other way round.
    first = np.array(header.ImagePositionPatient, float) + (size - size // side)[::-1] / 2 @ across
    common = Dataset()
    for tag in header.keys():  # noqa: SIM118 iteration would decode the elements
        if keyword_for_tag(tag) not in OF_MOSAIC:
            common[tag] = header.get_item(tag)
    found = []
    for number in range(count):
        single = Dataset()
        single.update(common)
        if hasattr(header, "file_meta"):
            single.file_meta = header.file_meta
        single.Rows, single.Columns = int(rows), int(columns)
        position = first + number * step
        single.ImagePositionPatient = [DSfloat(float(x), auto_format=True) for x in position]
        found.append((Tile(number, count), single))
    return found


def _directions(header: Dataset) -> tuple[NDArray[np.float64], ...]:
    """Return unit vectors along the rows and the columns, and their cross product."""
    rows, columns = square_directions(np.array([header.ImageOrientationPatient], float))
    return rows[0], columns[0], np.cross(rows[0], columns[0])


def _is_one_slice(header: Dataset) -> bool:
    """Return whether an image has no more pixels than one slice of it has lines and samples.

    Acquisition Matrix (0018,1310) is that of a slice. Scanners and converters that take mosaics
    apart leave Image Type, and some the number of tiles, as they were.
    """
    try:
        most = max(map(int, header.get("AcquisitionMatrix") or [0]))
    except (TypeError, ValueError):
        return False
    return 0 < max(int(header.Rows), int(header.Columns)) <= most


def _count(path: Path, stated: int | None, csa: Mapping[str, Sequence[Any]]) -> int | None:
    """Return the number of tiles, None where nothing states it.

    Raises:
        CaseFault: two elements state different ones.
    """
    other = _whole(csa.get("NumberOfImagesInMosaic"))
    if stated and other and stated != other:
        raise _contradiction(
            path,
            f"NumberOfImagesInMosaic is {stated} in (0019,xx0A) and {other} in the CSA header",
        )
    return stated or other


def _normal(
    path: Path, header: Dataset, csa: Mapping[str, Sequence[Any]]
) -> NDArray[np.float64] | None:
    """Return the unit vector from one tile to the next, None where nothing states its sign.

    Raises:
        CaseFault: what is stated is not at a right angle to the image plane.
    """
    stated = np.array(_numbers(csa.get("SliceNormalVector")))
    if stated.shape != (3,):
        return None
    normal = _directions(header)[2]
    length = float(np.linalg.norm(stated))
    cosine = float(stated @ normal) / length if 0 < length < math.inf else 0.0
    if abs(abs(cosine) - 1) > PARALLEL_TOLERANCE:
        raise _contradiction(
            path, f"SliceNormalVector {stated.tolist()} is not at a right angle to the image"
        )
    return normal * math.copysign(1.0, cosine)


def _distance(path: Path, header: Dataset, csa: Mapping[str, Sequence[Any]]) -> float | None:
    """Return the distance of slices in mm, None where nothing states it.

    Raises:
        CaseFault: two elements state different ones, or it is no length.
    """
    stated = _numbers(header.get("SpacingBetweenSlices"))
    if any(not 0 < number < math.inf for number in stated):
        raise _contradiction(path, f"its Spacing Between Slices, {stated[0]:g} mm, is no length")
    others = [n for n in _numbers(csa.get("SpacingBetweenSlices")) if 0 < n < math.inf]
    numbers = [*stated, *others]
    if numbers and max(numbers) > (1 + DISTANCE_TOLERANCE) * min(numbers):
        raise _contradiction(
            path,
            f"Spacing Between Slices is {numbers[0]:g} mm, and {numbers[-1]:g} mm in the CSA "
            "header",
        )
    return numbers[0] if numbers else None


def _csa(path: Path, header: Dataset) -> Mapping[str, Sequence[Any]]:
    """Return the values of the CSA image header by their names; none where there is no header.

    Raises:
        CaseFault: it cannot be parsed.
    """
    try:
        return csa_items(header)
    except DamagedCsa as error:
        raise CaseFault(
            Reason.MISSING_GEOMETRY,
            f"{path}: is a Siemens mosaic whose CSA header (0029,xx10) cannot be read ({error}), "
            "so that its slices have no place; export the series again from the scanner or PACS.",
        ) from error


def _numbers(value: Any) -> list[float]:
    """Return the numbers of an element that may be empty, single or no number at all."""
    if value is None or isinstance(value, bytes):
        return []
    values = [value] if isinstance(value, (str, int, float)) else list(value)
    try:
        return [float(x) for x in values if str(x).strip()]
    except ValueError:
        return []


def _whole(value: Any) -> int | None:
    """Return a whole number above 0; None where it is none."""
    numbers: Sequence[float] = _numbers(value)
    if len(numbers) != 1 or not 0 < numbers[0] < math.inf or numbers[0] % 1:
        return None
    return int(numbers[0])


def _contradiction(path: Path, what: str) -> CaseFault:
    return CaseFault(
        Reason.GEOMETRY_REFUSED,
        f"{path}: is a Siemens mosaic, and {what}, so that the places of its slices are not sure; "
        "export the series again from the scanner or PACS, or as single slices.",
    )
