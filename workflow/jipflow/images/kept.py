"""What later stages need of the headers of a series, which `prepare` keeps beside its volume.

To read the headers of a series takes as long as to decode its pixels, so that it is done once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from jipflow.cases import Case
from jipflow.datasets import LETTERS
from jipflow.files import read_json
from jipflow.images.pixels import Plane, Tile
from jipflow.images.volume import VOLUME, damaged, volume_path

KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "ContentDate",
    "StudyTime",
    "ContentTime",
    "SliceThickness",
    "SpacingBetweenSlices",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Rows",
    "Columns",
    "PixelSpacing",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
"""The elements that are kept: what contours and masks are compared with, and what a derived object
takes over from each plane."""

TAGS = {keyword: Tag(tag_for_keyword(keyword) or 0) for keyword in KEYWORDS}
REPRESENTATIONS = {tag: dictionary_VR(tag) for tag in TAGS.values()}
FRAMES = "PerFrameFunctionalGroupsSequence"
"""Of a kept instance it is there, and empty, where its planes are frames."""

CHARACTERS = "SpecificCharacterSet"
"""pydicom asks for it where an element is decoded; no text is kept that is not."""
ASKED_FOR = {*KEYWORDS, *TAGS.values(), CHARACTERS, Tag(CHARACTERS), FRAMES, Tag(FRAMES)}


class Header(Dataset):
    """A header that knows which elements it was kept with, so that no other one seems absent."""

    def get(self, key: Any, default: Any = None) -> Any:
        """Return an element or its value, as a data set does.

        Raises:
            LookupError: it is none of those that are kept.
        """
        _check(key)
        return super().get(key, default)

    def __contains__(self, key: Any) -> bool:
        _check(key)
        return super().__contains__(key)

    def __getattr__(self, name: str) -> Any:
        if tag_for_keyword(name) is not None:
            _check(name)
        return super().__getattr__(name)


def _check(key: Any) -> None:
    if key not in ASKED_FOR:
        raise LookupError(f"{key} is not kept of a header: name it in jipflow.images.kept")


@dataclass
class Headers:
    """The image planes of a series, without their pixels.

    Attributes:
        planes: of the volume, in the order of its slices.
        notes: a sentence for each repaired defect.
        apart: SOPInstanceUIDs of what lies in the series beside its stack.
        there: those of all its files.
    """

    planes: list[Plane] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    apart: set[str] = field(default_factory=set)
    there: set[str] = field(default_factory=set)


def headers_path(volumes: Path, case_id: str, role: str) -> Path:
    """Return where the headers of a case's role stand.

    Args:
        volumes: folder of ``<case_id>/<role>.nrrd``.
    """
    return volume_path(volumes, case_id, role).with_suffix(".json")


def with_headers(cases: Sequence[Case], volumes: Path) -> list[Case]:
    """Return cases that know where the headers of their series were kept.

    Args:
        cases: whose series are prepared; those that are not have no headers to read.
        volumes: folder of ``<case_id>/<role>.nrrd``.
    """
    return [
        replace(
            case,
            roles={
                role: replace(series, headers=headers_path(volumes, case.case_id, role))
                for role, series in case.roles.items()
            },
        )
        for case in cases
    ]


def headers_text(headers: Headers, paths: Sequence[Path]) -> str:
    """Return what `read_headers` reads.

    Args:
        headers: of a series.
        paths: its files, by whose places in this order they are named.
    """
    numbers = {path: number for number, path in enumerate(paths)}
    content = {
        "notes": headers.notes,
        "apart": sorted(headers.apart),
        "there": sorted(headers.there),
        "planes": [
            {
                "file": numbers[plane.path],
                "frame": plane.frame,
                "is_frame": plane.frame_number > 0,
                "tile": plane.tile and [plane.tile.number, plane.tile.count],
                "shift": plane.shift and list(plane.shift),
                "header": {
                    keyword: _kept(plane.header, tag)
                    for keyword, tag in TAGS.items()
                    if tag in plane.header
                },
            }
            for plane in headers.planes
        ],
    }
    return json.dumps(content)


def read_headers(path: Path, paths: Sequence[Path]) -> Headers:
    """Read the headers of a series that `prepare` kept.

    Args:
        path: of the file.
        paths: files of the series.

    Raises:
        PlaceError: it is damaged, or not there where its volume is.
        OSError: neither is there, or the disk does not give it.
    """
    try:
        return _headers(read_json(path), paths)
    except FileNotFoundError:
        if path.with_suffix(VOLUME).is_file():
            raise damaged(path, "it is not beside its volume") from None
        raise
    except (ValueError, TypeError, LookupError) as error:
        raise damaged(path, str(error)) from None


def _headers(content: dict[str, Any], paths: Sequence[Path]) -> Headers:
    planes = []
    for kept in content["planes"]:
        header = Header()
        for keyword, value in kept["header"].items():
            header[TAGS[keyword]] = _element(TAGS[keyword], value)
        if kept["is_frame"]:
            header.add_new(FRAMES, "SQ", DicomSequence())
        tile = kept["tile"] and Tile(*kept["tile"])
        shift = kept["shift"] and tuple(kept["shift"])
        file = paths[kept["file"]]
        planes.append(Plane(file, header, kept["frame"], header, None, tile, shift=shift))
    apart, there = set(content["apart"]), set(content["there"])
    return Headers(planes, content["notes"], apart, there)


def _kept(header: Dataset, tag: BaseTag) -> dict[str, Any]:
    """Return an element as JSON has it.

    One that is not decoded yet may be none that can be, and is kept as the bytes that it is, a
    letter each; so is the text of decimals, which derived objects quote. A sequence, which none of
    them is, has no value.
    """
    element = header.get_item(tag)
    assert element is not None
    vr = element.VR or REPRESENTATIONS[tag]
    if vr == "SQ":
        return {"vr": REPRESENTATIONS[tag], "raw": "", "little": True}
    if isinstance(element, RawDataElement) and vr in LETTERS:
        # They are those of a character set that is not kept.
        element = header[tag]
    if isinstance(element, RawDataElement):
        raw = (element.value or b"").decode("latin-1")
        return {"vr": vr, "raw": raw, "little": element.is_little_endian}
    if isinstance(element.value, bytes):
        return {"vr": vr, "raw": element.value.decode("latin-1"), "little": True}
    several = isinstance(element.value, MultiValue)
    values = [
        value if value is None or type(value) is int else str(value)
        for value in (element.value if several else [element.value])
    ]
    if vr == "DS":
        text = "\\".join("" if value is None else str(value) for value in values)
        return {"vr": vr, "raw": text, "little": True}
    return {"vr": vr, "value": values if several else values[0]}


def _element(tag: BaseTag, kept: dict[str, Any]) -> DataElement | RawDataElement:
    if "raw" in kept:
        raw = kept["raw"].encode("latin-1")
        return RawDataElement(tag, kept["vr"], len(raw), raw, 0, False, kept["little"])
    value = kept["value"]
    if isinstance(value, list):
        value = MultiValue(str, value)
    elif kept["vr"] == "UI":
        value = UID(value or "")
    return DataElement(tag, kept["vr"], value, already_converted=True)
