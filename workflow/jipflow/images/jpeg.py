"""JPEG by libjpeg-turbo, as a plug-in of pydicom's decoders.

GDCM, which pydicom has for these syntaxes, ends the process at some damaged streams and does not
decode 12-bit JPEG Extended; libjpeg-turbo reports errors and decodes both.
"""

from __future__ import annotations

import imagecodecs
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import UID

from jipflow.syntaxes import JPEG

PLUGIN = "libjpeg-turbo"

DECODER_DEPENDENCIES = dict.fromkeys(JPEG, ("imagecodecs",))
END_OF_IMAGE = b"\xff\xd9"
LONGEST_PADDING = 16


def is_available(uid: UID) -> bool:
    """Tell pydicom whether the plug-in decodes a transfer syntax."""
    return uid in JPEG


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """Decode a monochrome frame for pydicom.

    Args:
        src: the JPEG stream.
        runner: pydicom's decoding options; gets the bits allocated in what is returned.

    Raises:
        ValueError: the stream breaks off, which libjpeg-turbo itself would fill up with grey, or
            its size is not that of the header.
    """
    if END_OF_IMAGE not in src[-len(END_OF_IMAGE) - LONGEST_PADDING :]:
        raise ValueError("the JPEG stream breaks off before its end marker")
    frame = imagecodecs.jpeg8_decode(src)
    if frame.shape != (runner.rows, runner.columns):
        raise ValueError(
            f"the JPEG stream holds {frame.shape} values and not {(runner.rows, runner.columns)}"
        )
    runner.set_option("bits_allocated", frame.itemsize * 8)
    return frame.tobytes()


for _syntax in JPEG:
    get_decoder(_syntax).add_plugin(PLUGIN, (__name__, "decode_frame"))
