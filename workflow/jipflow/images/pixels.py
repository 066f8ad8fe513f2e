"""The pixels of image planes: decoded, turned into the modality's values, stacked."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
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
from jipflow.images.read import PIXELS, read_instance, readable
from jipflow.images.suv.factors import real_world_units
from jipflow.images.tilt import Shift, shifted
from jipflow.reasons import CaseFault, Reason
from jipflow.syntaxes import HIGH_THROUGHPUT_JPEG_2000, JPEG, JPEG_2000, JPEG_LS, MODALITIES

DESCRIBING = ("SamplesPerPixel", "PhotometricInterpretation")
"""What pixels cannot be read without, beside their size and bits (PS3.3 C.7.6.3)."""

DECODERS = {
    **dict.fromkeys(JPEG, jpeg.PLUGIN),
    **dict.fromkeys(JPEG_LS, "pyjpegls"),
    **dict.fromkeys((*JPEG_2000, *HIGH_THROUGHPUT_JPEG_2000), "pylibjpeg"),
}
"""pydicom's plug-in for syntaxes of which it has several: the one that refuses a broken stream."""


@dataclass(frozen=True)
class Plane:
    """One image plane of a series: a single-frame instance, or a frame of a multi-frame one.

    Attributes:
        path: the file of the instance.
        instance: its data set.
        frame: index of the frame, from 0.
        header: the attributes of the plane, laid out as in a single-frame instance.
        stored: stored values, shape (rows, columns); None where only headers are read.
        shift: where the first pixel lies on the plane that `header` describes, in rows and columns;
            None where it is the plane's first one, as without a tilt.
    """

    path: Path
    instance: Dataset
    frame: int
    header: Dataset
    stored: NDArray[np.generic] | None
    shift: Shift | None = None

    def pixels(self) -> NDArray[np.generic]:
        """Return the stored values, from the file if need be."""
        if self.stored is not None:
            return self.stored
        with readable(self.path):
            return decode(self.path, read_instance(self.path, pixels=True), [self.frame])[0]


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
        modality: ``CT``, ``MR`` or ``PT``.

    Raises:
        CaseFault: Rescale Slope or Intercept are needed and not there, or the slope is 0.
    """
    header = plane.header
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
    """Return the values after the Modality LUT, or the real world values of enhanced PET."""
    header, stored = plane.header, plane.pixels()
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
    for k, factor in enumerate(factors):
        plane = planes.pop()
        values = _rescaled(plane) * factor
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
    return array
