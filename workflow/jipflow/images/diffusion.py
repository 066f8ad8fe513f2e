"""How strongly and in which direction an MR image is weighted by diffusion.

The b-value is the public one (PS3.3 C.8.13.5.9), else the maker's: Siemens' and United Imaging's
private elements and Siemens' CSA header, GE's and Philips' private elements, as in the makers'
conformance statements and in https://www.na-mic.org/wiki/NAMIC_Wiki:DTI:DICOM_for_DWI_and_DTI.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pydicom.dataset import Dataset

from jipflow.images.csa import csa_values
from jipflow.images.private import numbers, numbers_of, private_value

SIEMENS = (0x0019, "SIEMENS MR HEADER")
GE, GE_ACQUISITION = (0x0043, "GEMS_PARM_01"), (0x0019, "GEMS_ACQU_01")
PHILIPS = (0x2001, "Philips Imaging DD 001")
PHILIPS_MR = (0x2005, "Philips MR Imaging DD 001")
UNITED_IMAGING = (0x0065, "Image Private Header")

GE_BIAS = 1e9
"""What GE adds to the b-values of some images (https://github.com/rordenlab/dcm2niix/issues/602)."""
GE_T2 = 14
"""GE's number for the direction of an image without diffusion weighting, whose b-value older
software states as that of the others (https://github.com/rordenlab/dcm2niix/issues/777)."""

MAPS = ("ADC", "EADC", "EXP", "EXPADC", "FA", "COLFA", "TENSOR", "DIFFUSION_ANISO")
"""Words of Image Type that say that values were calculated from images of several b-values."""
TRACES = ("TRACEW", "TRACE", "ISOTROPIC")
"""Words of Image Type that say that directions of the gradient were averaged."""


def image_words(header: Dataset) -> list[str]:
    """Return the words of Image Type, Frame Type and Complex Image Component, in capitals."""
    words: list[str] = []
    for name in ("ImageType", "FrameType", "ComplexImageComponent"):
        value = header.get(name)
        listed = [value] if isinstance(value, str) else value or []
        words += [str(word).strip().upper() for word in listed]
    return list(dict.fromkeys(word for word in words if word))


def is_map(header: Dataset) -> bool:
    """Return whether an image is no diffusion-weighted one but a map calculated from several."""
    return any(word in MAPS or word.startswith(("ADC_", "EADC_")) for word in image_words(header))


def b_value(header: Dataset) -> int | None:
    """Return the b-value of an image plane in whole s/mm²; None where it states none.

    A map calculated from images of several b-values has none, whatever its header says. An image
    whose Diffusion Directionality is NONE has 0 (PS3.3 C.8.13.5.9). Where GE's direction says that
    an image has no diffusion weighting and its b-value that it has, it states none.

    Args:
        header: of an image plane.
    """
    if is_map(header):
        return None
    stated = next(_stated(header), None)
    if stated is None and _directionality(header) == "NONE":
        return 0
    if stated is None or stated < 0:
        return None
    if stated and numbers(private_value(header, GE[0], 0x30, GE[1]))[:1] == [GE_T2]:
        return None
    return round(stated)


def _stated(header: Dataset) -> Iterator[float]:
    """Yield the b-values that a header states, the public one first."""
    for holder in (header, *(header.get("MRDiffusionSequence") or [])):
        yield from numbers_of(holder, "DiffusionBValue")[:1]
    for value in numbers(private_value(header, GE[0], 0x39, GE[1]))[:1]:
        yield value - GE_BIAS if value >= GE_BIAS else value
    for (group, creator), element in ((SIEMENS, 0x0C), (UNITED_IMAGING, 0x09)):
        yield from numbers(private_value(header, group, element, creator))[:1]
    found = numbers(private_value(header, PHILIPS[0], 0x03, PHILIPS[1]))
    if len(found) == 2:
        # A double that was read as floats, which pydicom's dictionary takes it for.
        found = [struct.unpack("<d", struct.pack("<2f", *found))[0]]
    yield from found[:1]
    yield from numbers(csa_values(header, "B_value"))[:1]


def is_isotropic(header: Dataset) -> bool:
    """Return whether a header states that an image is the average of several directions.

    A weighted image whose direction is the null vector is one of Philips and of the standard's
    public elements; GE writes that to images without weighting, too, and so it states nothing.

    Args:
        header: of an image plane.
    """
    if _directionality(header) == "ISOTROPIC" or set(image_words(header)) & set(TRACES):
        return True
    kind = private_value(header, PHILIPS[0], 0x04, PHILIPS[1])
    kind = kind.decode("latin-1") if isinstance(kind, bytes) else str(kind or "")
    if kind.strip("\0 ").upper() in {"I", "ISOTROPIC"}:
        return True
    if private_value(header, GE[0], 0x39, GE[1]) is not None:
        return False
    vector = direction(header)
    return len(vector) == 3 and not any(vector) and bool(b_value(header))


def _directionality(header: Dataset) -> str:
    for holder in (header, *(header.get("MRDiffusionSequence") or [])):
        if value := str(holder.get("DiffusionDirectionality") or ""):
            return value.upper()
    return ""


def direction(header: Dataset) -> tuple[float, ...]:
    """Return the direction of the diffusion gradient, of whatever axes; empty where none is stated.

    Args:
        header: of an image plane.
    """
    for holder in (header, *(header.get("MRDiffusionSequence") or [])):
        for item in (holder, *(holder.get("DiffusionGradientDirectionSequence") or [])):
            if found := numbers_of(item, "DiffusionGradientOrientation"):
                return _rounded(found)
    if found := numbers(private_value(header, SIEMENS[0], 0x0E, SIEMENS[1])):
        return _rounded(found)
    if found := numbers(private_value(header, UNITED_IMAGING[0], 0x37, UNITED_IMAGING[1])):
        return _rounded(found)
    for (group, creator), elements in (
        (GE_ACQUISITION, (0xBB, 0xBC, 0xBD)),
        (PHILIPS_MR, (0xB0, 0xB1, 0xB2)),
    ):
        parts = [numbers(private_value(header, group, element, creator)) for element in elements]
        if all(parts):
            return _rounded([part[0] for part in parts])
    return _rounded(numbers(list(csa_values(header, "DiffusionGradientDirection"))))


def _rounded(vector: list[float]) -> tuple[float, ...]:
    """Return a direction to three decimals; adding 0 turns -0 into 0."""
    return tuple(round(part, 3) + 0.0 for part in vector)
