"""What a header says of the bits of a pixel, and the stored values that they hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import get_j2k_parameters

from jipflow.reasons import CaseFault, Reason

ALLOCATED = (1, 8, 16, 32, 64)
"""Bits Allocated of integers that an array can hold (PS3.5 8.1.1: 1 or a multiple of 8)."""
FLOATS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
"""Bits Allocated of pixels that are no integers (PS3.3 C.7.6.24 and C.7.6.25)."""
ABOVE = (
    "of {} images have bits set above Bits Stored that no overlay explains; they are no part of "
    "the values (PS3.5 8.1.1)."
)
SHIFTED = "of {} images keep their values at the top of their bits, as High Bit says."
NO_HIGH_BIT = "of {} images have no High Bit; it was taken as Bits Stored - 1 (PS3.5 8.1.1)."
FRAMES_OF_JPEG = range(0xC0, 0xD0)
NO_FRAMES_OF_JPEG = (0xC4, 0xC8, 0xCC)
FRAME_OF_JPEG_LS = 0xF7
"""Markers of a frame's header (ITU-T T.81 table B.1, T.87 annex C), and those between them that
mark other things: tables, and a reserved one."""


@dataclass(frozen=True)
class Bits:
    """How integers lie in the words of Pixel Data (PS3.5 8.1.1).

    Attributes:
        allocated: bits of a word.
        stored: bits of a value.
        high: place of a value's highest bit, from 0.
        signed: whether values are two's complement.
    """

    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def shift(self) -> int:
        """Bits below the value."""
        return self.high + 1 - self.stored

    def values(self, words: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return what words hold, whatever stands in the bits that are no part of a value."""
        left = self.allocated - 1 - self.high
        return np.right_shift(np.left_shift(words, left), left + self.shift)


def refused(path: Path, why: str) -> CaseFault:
    """Return the fault of pixels whose header contradicts itself, or asks for what is not read."""
    return CaseFault(
        Reason.PIXEL_FORMAT, f"{path}: {why}; export the series again from the scanner or PACS."
    )


def bits_of(path: Path, header: Dataset, tally: Counter[str]) -> Bits:
    """Return how the integers of an instance lie in its words.

    Args:
        path: its file.
        header: the instance.
        tally: counts what a reader of the values should know.

    Raises:
        CaseFault: Bits Allocated, Bits Stored, High Bit and Pixel Representation do not fit
            together.
    """
    allocated, stored, high, representation = (
        _whole(path, header, name)
        for name in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    )
    stated = (
        f"Bits Allocated {allocated}, Bits Stored {stored}, High Bit {high} and Pixel "
        f"Representation {representation}"
    )
    if allocated is None or stored is None or representation is None:
        raise refused(path, f"{stated} do not say how a value is stored")
    if allocated not in ALLOCATED or not 1 <= stored <= allocated:
        raise refused(path, f"{stated} are no way to store a value")
    if representation not in (0, 1) or (allocated == 1 and representation):
        raise refused(path, f"{stated} are no way to store a value")
    if high is None:
        tally[NO_HIGH_BIT] += 1
        high = stored - 1
    if not stored - 1 <= high < allocated:
        raise refused(path, f"{stated} contradict each other")
    return Bits(allocated, stored, high, bool(representation))


def _whole(path: Path, header: Dataset, name: str) -> int | None:
    """Return a whole number of a header; None where it has none."""
    value = header.get(name)
    if value in (None, ""):
        return None
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise refused(path, f"{name} is no number ({value})") from error


def check_floats(path: Path, header: Dataset, name: str) -> None:
    """Refuse pixels of floating-point numbers that are stored in another number of bits.

    Args:
        path: the instance's file.
        header: the instance.
        name: keyword of its pixels.

    Raises:
        CaseFault: Bits Allocated is another.
    """
    allocated = _whole(path, header, "BitsAllocated")
    if allocated != FLOATS[name]:
        raise refused(path, f"{name} with Bits Allocated {allocated} in place of {FLOATS[name]}")


def from_words(
    path: Path, header: Dataset, words: NDArray[np.generic], bits: Bits, tally: Counter[str]
) -> NDArray[np.generic]:
    """Return the stored values of native or run-length encoded pixels.

    Args:
        path: the instance's file.
        header: the instance.
        words: as they lie in the file, each of the bits allocated.
        bits: how values lie in them.
        tally: counts what a reader of the values should know.

    Raises:
        CaseFault: High Bit says that values lie above bits that are set, too, so that it may be
            wrong, or an overlay may lie there.
    """
    if bits.allocated == 1:
        return words
    if bits.shift:
        if (words & np.asarray((1 << bits.shift) - 1, words.dtype)).any():
            raise refused(
                path,
                f"High Bit is {bits.high} and Bits Stored {bits.stored}, but the "
                f"{bits.shift} bits below are not empty, so either may be wrong",
            )
        tally[SHIFTED] += 1
    values = bits.values(words)
    above = bits.high < bits.allocated - 1 and _filled_above(words, values, bits)
    if above and not _overlays_above(header):
        if not bits.signed and _repeats_signs(words, bits):
            raise refused(
                path,
                f"the bits above Bits Stored {bits.stored} repeat the highest one below, as of "
                "numbers below 0, but Pixel Representation is 0",
            )
        tally[ABOVE] += 1
    return values


def from_codestream(
    path: Path, header: Dataset, decoded: NDArray[np.generic], bits: Bits, frame: bytes
) -> NDArray[np.generic]:
    """Return the stored values of a frame that a codestream holds.

    A codestream states the bits of its values, and JPEG 2000 their sign, too. Where it has as many
    as are stored, its values are plain; where it has more, they are words as native ones are, and
    nothing may stand above a value.

    Args:
        path: the instance's file.
        header: the instance.
        decoded: what the decoder made of the frame.
        bits: what the header says.
        frame: the encoded frame.

    Raises:
        CaseFault: the values need more bits than are stored; or their sign or their place depends
            on which of the two is right.
    """
    precision, sign = _stated(frame)
    if sign and not bits.signed and _below_zero(decoded, precision):
        raise refused(path, "its codestream has numbers below 0, but Pixel Representation is 0")
    if precision < bits.stored:
        if bits.shift or (bits.signed and not sign):
            raise refused(
                path,
                f"Bits Stored is {bits.stored}, High Bit {bits.high} and the pixels are "
                f"{'' if bits.signed else 'un'}signed, but the codestream has {precision} bits",
            )
        return decoded
    high = bits.stored - 1 if precision == bits.stored else bits.high
    placed = replace(bits, allocated=decoded.dtype.itemsize * 8, high=high)
    if high >= placed.allocated:
        raise refused(path, f"High Bit is {high}, but the codestream has {precision} bits")
    values = from_words(path, header, decoded, placed, Counter())
    if high < placed.allocated - 1 and _filled_above(decoded, values, placed):
        raise refused(
            path,
            f"values from {decoded.min()} to {decoded.max()} do not fit into Bits Stored "
            f"{bits.stored} and Pixel Representation {int(bits.signed)}",
        )
    return values


def _filled_above(words: NDArray[np.generic], values: NDArray[np.generic], bits: Bits) -> bool:
    """Return whether anything but repeated signs stands above the values of words."""
    above = np.right_shift(words, np.asarray(bits.high + 1, words.dtype))
    repeats = (above == -1) & (np.sign(values) == -1)
    return bool(((above != 0) & ~repeats).any())


def _repeats_signs(words: NDArray[np.generic], bits: Bits) -> bool:
    """Return whether all bits above each value are as its own highest one, and some are set."""
    above = np.right_shift(words, np.asarray(bits.high, words.dtype))
    ones = (1 << (bits.allocated - bits.high)) - 1
    return bool(((above == 0) | (above == ones)).all())


def _below_zero(decoded: NDArray[np.generic], precision: int) -> bool:
    """Return whether values of a signed codestream are below 0, whatever type they came in."""
    highest = np.right_shift(decoded, np.asarray(precision - 1, decoded.dtype))
    return bool((highest & np.asarray(1, decoded.dtype)).any())


def _overlays_above(header: Dataset) -> bool:
    """Return whether overlays lie within the pixels' words (PS3.3 C.9.2, retired there)."""
    return any(
        int(header[group << 16 | 0x0102].value or 0) > 0
        for group in range(0x6000, 0x6020, 2)
        if (group << 16 | 0x0102) in header
    )


def _stated(frame: bytes) -> tuple[int, bool]:
    """Return the bits of a value that a codestream states, and whether it states a sign.

    Args:
        frame: JPEG (ITU-T T.81 B.2.2), JPEG-LS (T.87 C.2.2) or JPEG 2000 (T.800 A.5.1).
    """
    if not frame.startswith(b"\xff\xd8"):
        stated = get_j2k_parameters(frame)
        return int(stated.get("precision", 0)), bool(stated.get("is_signed", False))
    place = 2
    while place + 5 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == FRAME_OF_JPEG_LS or (
            marker in FRAMES_OF_JPEG and marker not in NO_FRAMES_OF_JPEG
        ):
            return frame[place + 4], False
        place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return 0, False
