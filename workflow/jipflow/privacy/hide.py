"""Pixels overwritten: regions in which text is burned in, and bits that are no part of a value.

What has been overwritten is written uncompressed, in explicit VR little endian, so that no second
loss is added and nothing of the encoded pixels is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from jipflow.images import jpeg
from jipflow.images.pixels import DECODERS, decode
from jipflow.images.read import PIXELS
from jipflow.privacy.pixels import Region, holds_overlay
from jipflow.privacy.streams import clean_streams
from jipflow.reasons import CaseFault, Reason
from jipflow.syntaxes import JPEG

LOSSY = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
    HTJ2K: "ISO_15444_15",
}
"""Lossy Image Compression Method (0028,2114) of the transfer syntaxes that may lose (PS3.3
C.7.6.1.1.5.1)."""

Frame = NDArray[Any]
"""Stored values of a frame: (rows, columns), or (rows, columns, samples)."""


def hide(path: Path, dataset: Dataset, regions: Sequence[Region]) -> None:
    """Set regions of every frame to the lowest value that the instance stores.

    Without a region only what is no part of the pixels' values is taken out, of compressed frames
    without a decoder. Of colours in luminance and chrominance the lowest value is the lowest
    luminance without colour. Burned In Annotation (0028,0301) becomes NO.

    Args:
        path: the instance's file, for messages.
        dataset: the instance with its pixels, which is changed.
        regions: what is overwritten; what reaches beyond the image is cut off at its border.

    Raises:
        CaseFault: the pixels cannot be decoded.
    """

    def overwrite(_: int, frame: Frame, lowest: Frame) -> None:
        for region in regions:
            frame[region.rows, region.columns] = lowest

    encapsulated = UID(dataset.file_meta.TransferSyntaxUID).is_encapsulated
    if not regions and encapsulated and not holds_overlay(dataset) and clean_streams(dataset):
        return
    change_pixels(path, dataset, overwrite)
    if regions:
        dataset.BurnedInAnnotation = "NO"


def change_pixels(
    path: Path, dataset: Dataset, change: Callable[[int, Frame, Frame], None]
) -> None:
    """Change the stored values of each frame in place and write them uncompressed.

    Bits that are no part of a value, in which overlays may lie (PS3.5 8.1.2), are cleared, and what
    follows the last frame is left out. Of pixels that a lossy compression had changed the flags
    say so (PS3.3 C.7.6.1.1.5).

    Args:
        path: the instance's file, for messages.
        dataset: the instance with its pixels, which is changed.
        change: gets a frame's index, its values and the lowest value of the instance.

    Raises:
        CaseFault: the pixels cannot be decoded.
    """
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    name = next((name for name in PIXELS if name in dataset), PIXELS[0])
    encoded = len(dataset.get(name) or b"")
    photometric = str(dataset.get("PhotometricInterpretation") or "")
    if dataset.get("SamplesPerPixel") in (None, 1):
        frames = decode(path, dataset)
    else:
        frames, photometric = _colours(path, dataset, syntax)
    lowest = _lowest(frames, photometric)
    for index, frame in enumerate(frames):
        change(index, frame, lowest)
    dataset.PhotometricInterpretation = photometric
    _write(dataset, name, frames)
    if syntax in LOSSY:
        _state_loss(dataset, LOSSY[syntax], encoded)


def _colours(path: Path, dataset: Dataset, syntax: UID) -> tuple[list[Frame], str]:
    """Return the samples of each frame in colours, and their Photometric Interpretation.

    Raises:
        CaseFault: they cannot be decoded, or have bits that are no part of a value.
    """
    photometric = "RGB"
    try:
        if dataset.BitsStored != dataset.BitsAllocated:
            raise ValueError("its samples do not fill their bits")
        if syntax in JPEG:
            frames = list(_colour_jpeg(dataset))
        else:
            frames = []
            plugin = DECODERS.get(syntax, "")
            for frame, described in get_decoder(syntax).iter_array(
                dataset, raw=True, decoding_plugin=plugin
            ):
                frames.append(frame.copy())
                photometric = str(described["photometric_interpretation"])
    except Exception as error:  # each decoder raises errors of its own
        raise CaseFault(
            Reason.UNDECODABLE_PIXELS,
            f"{path}: its pixels ({syntax.name}) cannot be decoded, and so not changed "
            f"({' '.join(str(error).split())}); leave it out, or copy it again from the archive.",
        ) from error
    return frames, photometric


def _colour_jpeg(dataset: Dataset) -> Iterable[Frame]:
    """Yield the frames of JPEG in colours as RGB.

    Raises:
        ValueError: a stream breaks off, or is of another size than the header says.
    """
    count = int(dataset.get("NumberOfFrames") or 1)
    for source in generate_frames(dataset.PixelData, number_of_frames=count):
        if jpeg.END_OF_IMAGE not in source[-len(jpeg.END_OF_IMAGE) - jpeg.LONGEST_PADDING :]:
            raise ValueError("the JPEG stream breaks off before its end marker")
        frame = imagecodecs.jpeg8_decode(source)
        if frame.shape != (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel):
            raise ValueError(f"the JPEG stream holds {frame.shape} values")
        yield frame.copy()


def _lowest(frames: Sequence[Frame], photometric: str) -> Frame:
    """Return what stands for nothing: the lowest stored value, of colours one without hue."""
    lowest = np.full(frames[0].shape[2:], min(frame.min() for frame in frames), frames[0].dtype)
    if photometric.startswith("YBR"):
        lowest[0] = min(frame[..., 0].min() for frame in frames)
        lowest[1:] = 1 << (frames[0].dtype.itemsize * 8 - 1)
    return lowest


def _write(dataset: Dataset, name: str, frames: Sequence[Frame]) -> None:
    """Put frames into an instance as native pixels, samples of a pixel side by side."""
    first = frames[0]
    words = first.dtype.itemsize
    if dataset.get("SamplesPerPixel", 1) > 1:
        dataset.PlanarConfiguration = 0
    if dataset.BitsAllocated == 1:
        # Eight pixels to a byte, frames without a gap (PS3.5 8.1.1).
        bits = np.concatenate([frame.ravel() for frame in frames]).astype(np.uint8)
        data = np.packbits(bits, bitorder="little").tobytes()
    else:
        dataset.BitsAllocated = words * 8
        if name == "PixelData":
            dataset.HighBit = dataset.BitsStored - 1
        data = b"".join(frame.astype(frame.dtype.newbyteorder("<")).tobytes() for frame in frames)
    vr = {"FloatPixelData": "OF", "DoubleFloatPixelData": "OD"}.get(
        name, "OB" if words == 1 else "OW"
    )
    dataset[name] = DataElement(name, vr, data + b"\0" * (len(data) % 2))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _state_loss(dataset: Dataset, method: str, encoded: int) -> None:
    """State that the values went through a lossy compression, where it is not stated yet."""
    if dataset.get("LossyImageCompression") == "01" and dataset.get("LossyImageCompressionRatio"):
        return
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = f"{len(dataset.PixelData) / max(encoded, 1):.4g}"
    dataset.LossyImageCompressionMethod = method
