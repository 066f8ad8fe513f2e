"""The pixels of image planes: decoded, turned into the modality's values, stacked."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut, iter_pixels
from pydicom.uid import RLELossless

from jipflow.images import jpeg
from jipflow.images.bits import (
    FLOATS,
    bits_of,
    check_floats,
    from_codestream,
    from_words,
    refused,
)
from jipflow.images.lut import looked_up
from jipflow.images.parametric import check_mapping, mapped
from jipflow.images.read import PIXELS, read_instance, readable
from jipflow.images.suv.factors import real_world_units
from jipflow.images.tilt import Shift, shifted
from jipflow.reasons import CaseFault, Reason
from jipflow.syntaxes import HIGH_THROUGHPUT_JPEG_2000, JPEG, JPEG_2000, JPEG_LS, MAP, MODALITIES

DESCRIBING = ("SamplesPerPixel", "PhotometricInterpretation")
"""What pixels cannot be read without, beside their size and bits (PS3.3 C.7.6.3)."""

DECODERS = {
    **dict.fromkeys(JPEG, jpeg.PLUGIN),
    **dict.fromkeys(JPEG_LS, "pyjpegls"),
    **dict.fromkeys((*JPEG_2000, *HIGH_THROUGHPUT_JPEG_2000), "pylibjpeg"),
}
"""pydicom's plug-in for syntaxes of which it has several: the one that refuses a broken stream."""


MOST_HU = 2**15
"""CT numbers end below: extended scales of scanners reach 30,710 HU."""
LARGEST_SHARE = 0.01
"""Of a CT's values above `MOST_HU`: no implant fills it, and air and lung fill more of any CT."""
HOUNSFIELD = ("", "HU", "US")
"""Rescale Types (0028,1054) of CT numbers: HU, or unspecified."""


@dataclass(frozen=True)
class Tile:
    """A place of a mosaic, whose tiles lie row by row in a square that is as small as it can be.

    Attributes:
        number: of the tile, from 0.
        count: of tiles that are slices; the places behind them are blank.
    """

    number: int
    count: int

    @property
    def side(self) -> int:
        """Tiles in a row or a column."""
        return math.isqrt(self.count - 1) + 1

    def cut(self, frame: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return its part of the mosaic's pixels, as a view."""
        rows, columns = (length // self.side for length in frame.shape)
        down, right = divmod(self.number, self.side)
        return frame[down * rows : (down + 1) * rows, right * columns : (right + 1) * columns]


@dataclass(frozen=True)
class Plane:
    """One image plane of a series: a single-frame instance, or a part of an instance of several.

    Attributes:
        path: the file of the instance.
        instance: its data set.
        frame: index of the frame, or of the tile of a mosaic, from 0.
        header: the attributes of the plane, laid out as in a single-frame instance.
        stored: stored values, shape (rows, columns); None where only headers are read.
        tile: the part of a mosaic that the plane is; None where the instance is no mosaic.
        digests: hashes of stored values by frame, which the planes of an instance share.
        shift: where the first pixel lies on the plane that `header` describes, in rows and columns;
            None where it is the plane's first one, as without a tilt.
    """

    path: Path
    instance: Dataset
    frame: int
    header: Dataset
    stored: NDArray[np.generic] | None
    tile: Tile | None = None
    digests: dict[int, bytes] = field(default_factory=dict, repr=False, compare=False)
    shift: Shift | None = None

    def digest(self) -> bytes:
        """Return a hash of the stored values, from the file if need be.

        Of a file those of all its planes are hashed, which are decoded together.

        Raises:
            CaseFault: they cannot be read.
        """
        if self.frame in self.digests:
            return self.digests[self.frame]
        if self.stored is not None:
            self.digests[self.frame] = _digest(self.stored)
        else:
            with readable(self.path):
                dataset = read_instance(self.path, pixels=True)
                values = plane_values(self.path, dataset, self.tile)
            self.digests.update(enumerate(map(_digest, values)))
        return self.digests[self.frame]

    @property
    def frame_number(self) -> int:
        """Number by which objects name the frame (PS3.3 C.7.6.16), from 1.

        It is 0 for a single-frame instance, which is named alone. So is a mosaic: its tiles are no
        frames.
        """
        return self.frame + 1 if "PerFrameFunctionalGroupsSequence" in self.instance else 0


def _digest(stored: NDArray[np.generic]) -> bytes:
    """Return a hash of stored values, the same for equal ones of any type."""
    # Adding 0 turns -0 into 0.
    return hashlib.sha256((np.ascontiguousarray(stored, np.float64) + 0.0).data).digest()


def plane_values(
    path: Path,
    dataset: Dataset,
    tile: Tile | None = None,
    frames: list[int] | None = None,
    tally: Counter[str] | None = None,
) -> list[NDArray[np.generic]]:
    """Return the stored values of image planes of an instance.

    Args:
        path: the instance's file, for messages.
        dataset: the instance, which loses its pixels.
        tile: of a mosaic any tile, whose frames are the tiles.
        frames: indices of the planes' frames; None for all.
        tally: counts what a reader of the values should know.

    Returns:
        An array of shape (rows, columns) for each plane.

    Raises:
        CaseFault: as `decode`; or there are more tiles or fewer frames than described.
    """
    if tile:
        whole = decode(path, dataset, tally=tally)[0]
        _check_rest(path, whole, tile)
        wanted = range(tile.count) if frames is None else frames
        return [Tile(number, tile.count).cut(whole) for number in wanted]
    groups = len(dataset.get("PerFrameFunctionalGroupsSequence") or [None])
    described = groups if frames is None else len(frames)
    found = decode(path, dataset, frames, tally)
    if len(found) != described:
        raise CaseFault(
            Reason.TRUNCATED_PIXELS,
            f"{path}: has {len(found)} frames of pixels where its header describes {described}; "
            "copy it again from the archive.",
        )
    return found


def _check_rest(path: Path, whole: NDArray[np.generic], tile: Tile) -> None:
    """Refuse a mosaic whose last places, which hold no slices, are not blank.

    Raises:
        CaseFault: there are more tiles than stated.
    """
    rest = [Tile(number, tile.count).cut(whole) for number in range(tile.count, tile.side**2)]
    if any((part != rest[0][0, 0]).any() for part in rest):
        raise CaseFault(
            Reason.GEOMETRY_REFUSED,
            f"{path}: is a Siemens mosaic, and NumberOfImagesInMosaic is {tile.count}, but a tile "
            "behind these is not blank; export the series again from the scanner or PACS.",
        )


def decode(
    path: Path,
    dataset: Dataset,
    indices: list[int] | None = None,
    tally: Counter[str] | None = None,
) -> list[NDArray[np.generic]]:
    """Return the stored values of all or some frames and let go of the encoded ones.

    Args:
        path: the instance's file, for messages.
        dataset: the instance, which loses its pixels.
        indices: of the frames, from 0; None for all.
        tally: counts what a reader of the values should know.

    Returns:
        An array of shape (rows, columns) for each frame.

    Raises:
        CaseFault: there are no pixels, or too few, or they cannot be decoded, or what the header
            says of them contradicts itself.
    """
    name = _pixels_of(path, dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    tally = Counter() if tally is None else tally
    bits = None
    if name in FLOATS:
        check_floats(path, dataset, name)
    else:
        bits = bits_of(path, dataset, tally)
    _check_length(path, dataset, name)
    try:
        decoded = iter_pixels(
            dataset,
            raw=True,
            indices=indices,
            decoding_plugin=DECODERS.get(syntax, ""),
            correct_unused_bits=False,
        )
        # A copy, so that the values do not keep the encoded buffer alive.
        stored = [frame.copy() for frame in decoded]
    except Exception as error:  # each decoder raises errors of its own
        raise CaseFault(
            Reason.UNDECODABLE_PIXELS,
            f"{path}: its pixels ({syntax.name}) cannot be decoded "
            f"({' '.join(str(error).split())}); copy it again from the archive.",
        ) from error
    if bits and (syntax == RLELossless or not syntax.is_encapsulated):
        stored = [from_words(path, dataset, frame, bits, tally) for frame in stored]
    elif bits:
        frames = _encoded(dataset, indices, len(stored))
        stored = [
            from_codestream(path, dataset, frame, bits, encoded)
            for frame, encoded in zip(stored, frames, strict=True)
        ]
    del dataset[name]
    return stored


def _pixels_of(path: Path, dataset: Dataset) -> str:
    """Return the keyword of an instance's pixels."""
    present = [name for name in PIXELS if dataset.get(name)]
    if not present:
        raise CaseFault(
            Reason.NO_PIXEL_DATA,
            f"{path}: has no pixel data; retrieve the series again.",
        )
    if len(present) > 1:
        raise refused(path, f"has {' and '.join(present)}, of which one is allowed")
    absent = [name for name in DESCRIBING if dataset.get(name) in (None, "")]
    if absent:
        raise refused(path, f"{' and '.join(absent)} is missing, so its pixels are not described")
    return present[0]


def _check_length(path: Path, dataset: Dataset, name: str) -> None:
    """Refuse pixels that are not as long as due, or not of the kind that their syntax has.

    Native ones may be padded, but not by a frame: then they are of another size.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated != dataset[name].is_undefined_length:
        stated = "encapsulated" if dataset[name].is_undefined_length else "not encapsulated"
        raise refused(path, f"its pixels are {stated}, though its transfer syntax is {syntax.name}")
    if syntax.is_encapsulated:
        return
    frames = int(dataset.get("NumberOfFrames") or 1)
    allocated = int(dataset.BitsAllocated)
    expected = -(-int(dataset.Rows) * int(dataset.Columns) * frames * allocated // 8)
    there = len(dataset[name].value)
    if there < expected:
        raise CaseFault(
            Reason.TRUNCATED_PIXELS,
            f"{path}: has {there} bytes of pixels where {expected} are due; copy it again from "
            "the archive.",
        )
    if there >= expected + max(expected // frames, 2):
        raise refused(
            path,
            f"has {there} bytes of pixels where {expected} are due, so Rows, Columns, Bits "
            "Allocated or Number of Frames is wrong",
        )


def _encoded(dataset: Dataset, indices: list[int] | None, count: int) -> list[bytes]:
    """Return the codestreams of the frames that were decoded."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    encoded = list(generate_frames(dataset.PixelData, number_of_frames=frames))
    return [encoded[index] for index in indices or range(count)]


def check_rescale(plane: Plane, modality: str) -> None:
    """Refuse a plane whose stored values cannot be turned into the modality's values.

    Args:
        plane: one of the series.
        modality: ``CT``, ``MR``, ``PT`` or `MAP`.

    Raises:
        CaseFault: Rescale Slope or Intercept are needed and not there, or the slope is 0; a map
            has no mapping.
    """
    header = plane.header
    if modality == MAP:
        check_mapping(plane.path, header)
        return
    given = [header.get(name) not in (None, "") for name in ("RescaleSlope", "RescaleIntercept")]
    if header.get("ModalityLUTSequence"):
        if any(given):
            raise refused(
                plane.path, "has a Modality LUT and a rescale, which exclude each other (C.11.1)"
            )
        return
    if modality == "PT" and not header.get("Units") and real_world_units(header):
        return
    if all(given) and _usable(header.RescaleSlope) and math.isfinite(header.RescaleIntercept):
        return
    if modality == "MR" and not any(given):
        return
    raise CaseFault(
        Reason.MISSING_RESCALE,
        f"{plane.path}: Rescale Slope or Intercept is missing, empty or 0, or no finite "
        "number, so the values have no unit; export the series again from the scanner or PACS.",
    )


def _usable(slope: float) -> bool:
    return math.isfinite(slope) and slope != 0


def _rescaled(plane: Plane) -> NDArray[np.float64]:
    """Return the values after the Modality LUT, or the real world values of PET or a map."""
    header, stored = plane.header, plane.stored
    assert stored is not None
    if MODALITIES[header.SOPClassUID] == MAP:
        return mapped(plane.path, header, stored)
    if header.get("ModalityLUTSequence"):
        return looked_up(plane.path, header, stored)
    if MODALITIES[header.SOPClassUID] == "PT" and not header.get("Units"):
        mapping = header.RealWorldValueMappingSequence[0]
        return (
            stored.astype(np.float64) * mapping.RealWorldValueSlope
            + mapping.RealWorldValueIntercept
        )
    if header.get("RescaleSlope") in (None, ""):
        return stored.astype(np.float64)
    return np.asarray(apply_modality_lut(stored, header), np.float64)


def stacked(
    planes: list[Plane], factors: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.generic]:
    """Convert and stack planes, given from the last to the first, which the list loses.

    Args:
        planes: their stored values are let go one by one, so that no second volume is held.
        factors: what the rescaled values of each slice are multiplied by, from the first.
        shape: (z, y, x) of the volume.

    Returns:
        The values: int16 where all are whole numbers that fit, else float32.
    """
    array: NDArray[np.generic] = np.empty(shape, np.int16)
    largest = np.iinfo(np.int16).max
    beyond = 0
    for k, factor in enumerate(factors):
        plane = planes.pop()
        values = _rescaled(plane) * factor
        beyond += _beyond_scale(plane, values)
        # `not <=` holds for values that are no numbers, too.
        if not np.abs(values).max() <= np.finfo(np.float32).max:
            raise refused(plane.path, "holds values that are no finite numbers")
        if plane.shift is not None:
            values = shifted(values, plane.shift, shape[1:])
        if array.dtype == np.int16:
            whole = np.array_equal(np.rint(values), values)
            if not whole or np.abs(values).max() > largest:
                floats = np.empty(shape, np.float32)
                floats[:k] = array[:k]
                array = floats
        array[k] = values
    if beyond > LARGEST_SHARE * array.size:
        raise refused(
            plane.path,
            f"{beyond / array.size:.0%} of the values of the series are above {MOST_HU} HU, as "
            "where Pixel Representation is wrong and what is below 0 was taken as positive",
        )
    return array


def _beyond_scale(plane: Plane, values: NDArray[np.float64]) -> int:
    """Return how many values of a CT no scanner measures; padding is none of them."""
    header = plane.header
    if MODALITIES[header.SOPClassUID] != "CT" or header.get("RescaleType", "HU") not in HOUNSFIELD:
        return 0
    above = values > MOST_HU
    padding = header.get("PixelPaddingValue")
    if padding is not None and plane.stored is not None and above.any():
        above &= plane.stored != padding
    return int(np.count_nonzero(above))
