"""Whether the pixels of an instance may show text that identifies its patient, and where.

No program finds text in pixels for sure. What decides is the kind of image: images of CT, MR and
PET that scanners reconstruct show none; those that a screen, a workstation or a device with a
display makes often do. These stay, unless the site's table says where the text of a maker's model
is. In doubt they stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian

from jipflow.images.read import PIXELS
from jipflow.privacy.streams import holds_comments
from jipflow.reasons import Reason
from jipflow.settings.export import Export, PixelRegions
from jipflow.syntaxes import (
    HIGH_THROUGHPUT_JPEG_2000,
    JPEG,
    JPEG_2000,
    JPEG_LS,
    MODALITIES,
    SEGMENTATIONS,
)

STREAMS = (*JPEG, *JPEG_LS, *JPEG_2000, *HIGH_THROUGHPUT_JPEG_2000)
"""Transfer syntaxes whose frames have segments beside the picture."""
DOCUMENTS = ("EncapsulatedDocument",)

WITHOUT_TEXT = (*MODALITIES, *SEGMENTATIONS)
"""SOP classes whose pixels a scanner reconstructs or a program computes voxel by voxel."""
MODALITIES_WITHOUT_TEXT = ("CT", "MR", "PT", "SEG", "OT", "")
"""Modality of such images; maps and segmentations may say OT. Any other contradicts the class."""

CAPTURED = (
    "ConversionType",
    "DateOfSecondaryCapture",
    "SecondaryCaptureDeviceManufacturer",
    "SecondaryCaptureDeviceManufacturerModelName",
    "SecondaryCaptureDeviceID",
)
"""Attributes of images that were digitised or taken from a screen (PS3.3 C.8.6.1)."""

TYPES = re.compile(
    r"SCREEN ?(SAVE|SHOT|CAPTURE)|SECONDARY CAPTURE|\bSAVE\b|\bDOSE\b|\bPROT(OCOL)?\b|\bREPORT\b"
    r"|\bRESULT\b|\bGRAPH|\bTEXT\b|POSDISP|\bLOCALI[SZ]ER\b|\bVRT?\b|VOLREN|RENDER|\b3D\b|\bSSD\b"
    r"|\bFUSED\b|\bFUSION\b|\bCOLLAGE\b"
)
"""Values of Image Type (0008,0008) of pages, screens, annotated scout views and renderings, as
makers write them; the recipes of CTP (RSNA) and deid name the same."""

DESCRIPTIONS = re.compile(
    r"DOSE ?(REPORT|INFO|RECORD|SUMMARY|SHEET)|(PATIENT|EXAM|EXAMINATION|SCAN) PROTOCOL"
    r"|SCREEN ?(SAVE|SHOT|CAP)|SECONDARY CAPTURE|SNAPSHOT|\bREPORT\b|POSDISP|\bSCOUT|TOPOGRAM"
    r"|LOCALI[SZ]ER|SURVIEW|\bVRT\b|RENDER"
)
"""Series Descriptions of the same."""


@dataclass(frozen=True)
class Refusal:
    """Why an instance stays.

    Attributes:
        reason: the stable code.
        message: a sentence that goes on from the name of the file: what is wrong, what to do.
    """

    reason: Reason
    message: str


@dataclass(frozen=True)
class Region:
    """A rectangle of pixels of every frame: rows and columns from the first to before the last."""

    rows: slice
    columns: slice


@dataclass(frozen=True)
class Hide:
    """What is to be overwritten before an instance leaves."""

    regions: tuple[Region, ...]


def decide_pixels(dataset: Dataset, settings: Export) -> Refusal | Hide | None:
    """Decide whether the pixels of an instance may leave.

    Args:
        dataset: the instance, its pixels may have been left out if their size stands there.
        settings: of the site.

    Returns:
        Why it stays; what is to be overwritten; or None where there is nothing to do.
    """
    if any(name in dataset for name in DOCUMENTS):
        return _refusal("is a document in its whole, which nothing here reads")
    doubt = _doubt(dataset)
    entries = [entry for entry in settings.pixel_regions if _is_of(entry, dataset)]
    regions = tuple(
        Region(slice(r.top, r.top + r.height), slice(r.left, r.left + r.width))
        for entry in entries
        for r in entry.hide
    )
    covered = bool(regions) or (bool(entries) and not _states_text(dataset))
    if doubt and not covered:
        return _refusal(doubt)
    return Hide(regions) if regions or holds_more(dataset) else None


def holds_more(dataset: Dataset) -> bool:
    """Return whether pixel data hold more than values: overlays, comments, what follows them.

    Args:
        dataset: the instance; one without pixels holds nothing.
    """
    words = dataset.get("PixelData")
    if holds_overlay(dataset) or not words:
        return holds_overlay(dataset)
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if syntax.is_encapsulated:
        return syntax in STREAMS and holds_comments(dataset)
    pixels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1)
    samples = pixels * int(dataset.get("SamplesPerPixel") or 1)
    if len(words) > -(-samples * int(dataset.BitsAllocated) // 8 // 2) * 2 + 1:
        return True
    if dataset.BitsAllocated not in (8, 16, 32) or dataset.get("HighBit") is None:
        return False
    order = ">" if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
    kind = "i" if dataset.PixelRepresentation else "u"
    values = np.frombuffer(
        words[: len(words) // 4 * 4], f"{order}{kind}{dataset.BitsAllocated // 8}"
    )
    left = int(dataset.BitsAllocated) - 1 - int(dataset.HighBit)
    below = (1 << max(0, int(dataset.HighBit) + 1 - int(dataset.BitsStored))) - 1
    above = np.right_shift(np.left_shift(values, left), left) != values
    return bool(above.any() or (values & below).any())


def holds_overlay(dataset: Dataset) -> bool:
    """Return whether an overlay lies in spare bits of the pixels.

    By Overlay Bit Position (60xx,0102), retired from PS3.3 C.9.2, but still in archives.
    """
    places = [dataset.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2)]
    return any(place is not None and bool(place.value) for place in places)


def _refusal(why: str) -> Refusal:
    return Refusal(
        Reason.BURNED_IN_TEXT,
        f"{why}; leave it out, or look such images up and add where they show text to "
        "export.pixel_regions of the site.",
    )


def _doubt(dataset: Dataset) -> str | None:
    """Return why the pixels of an instance may show text; None where nothing says so."""
    if _states_text(dataset):
        return "states that text is burned into its pixels (Burned In Annotation)"
    if not any(name in dataset for name in (*PIXELS, "Rows")):
        return None
    return next(_signs(dataset), None)


def _signs(dataset: Dataset) -> Iterator[str]:
    """Yield what speaks for text in pixels, the plainest first."""
    meta = getattr(dataset, "file_meta", Dataset())
    sop_class = UID(str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or ""))
    modality = _text(dataset, "Modality")
    if sop_class not in WITHOUT_TEXT:
        yield f"is of a kind that often shows text ({sop_class.name or 'no SOP Class UID'})"
    if modality not in MODALITIES_WITHOUT_TEXT:
        yield f"is of a modality whose images often show text ({modality[:16]})"
    found = [name for name in CAPTURED if dataset.get(name) not in (None, "")]
    if found:
        yield f"was digitised or taken from a screen, for it has {found[0]}"
    if sop_class not in SEGMENTATIONS and dataset.get("SamplesPerPixel") not in (None, "", 1):
        yield "is in colours, as screens and renderings are"
    for kind in _kinds(dataset):
        if TYPES.search(kind):
            yield "is a page, a screen, a scout view or a rendering by its Image Type"
    if DESCRIPTIONS.search(_plain(_text(dataset, "SeriesDescription"))):
        yield "is a page, a screen or a scout view by its Series Description"


def _kinds(dataset: Dataset) -> Iterator[str]:
    """Yield the values of Image Type and of the frames' types, in one spelling."""
    yield from map(_plain, _values(dataset.get("ImageType")))
    if "PerFrameFunctionalGroupsSequence" in dataset:
        kinds = {
            str(value)
            for element in dataset.iterall()
            if element.keyword == "FrameType"
            for value in _values(element.value)
        }
        yield from map(_plain, sorted(kinds))


def _values(value: object) -> Sequence[object]:
    if value in (None, ""):
        return ()
    return [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]


def _states_text(dataset: Dataset) -> bool:
    """Return whether Burned In Annotation (0028,0301) is anything but NO or absent."""
    return _text(dataset, "BurnedInAnnotation") not in ("", "NO")


def _is_of(entry: PixelRegions, dataset: Dataset) -> bool:
    """Return whether an instance is of the kind that an entry of the table is about."""
    asked = {
        "Manufacturer": entry.manufacturer,
        "ManufacturerModelName": entry.model,
        "Modality": entry.modality,
    }
    alike = all(
        _text(dataset, name) == " ".join(wanted.split()).upper()
        for name, wanted in asked.items()
        if wanted is not None
    )
    size = (dataset.get("Rows"), dataset.get("Columns")) == (entry.rows, entry.columns)
    kinds = list(_kinds(dataset))
    return alike and size and (entry.image_type is None or _plain(entry.image_type) in kinds)


def _text(dataset: Dataset, name: str) -> str:
    """Return an attribute in upper case, spaces as one."""
    return " ".join(str(dataset.get(name) or "").split()).upper()


def _plain(value: object) -> str:
    """Return a text in upper case whose words have spaces between them."""
    return " ".join(re.split(r"[\s_./-]+", str(value).upper())).strip()
