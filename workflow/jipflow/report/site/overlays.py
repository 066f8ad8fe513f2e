"""The overlays, made small enough for all to stand in the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jipflow.report.site.run import Run

if TYPE_CHECKING:
    import pandas as pd

# What a page can hold and still open at once; everything is in the files beside it.
MAX_PICTURES = 120
OPEN_PICTURES = 12
PICTURE_BUDGET = 2_600_000  # bytes of all pictures, before base64 adds a third
METHOD = 2  # how long WebP searches; 4 takes twice as long for 6 % less, and looks the same


@dataclass(frozen=True)
class Chip:
    """A segment in the legend of a picture; its volume is None where it was not measured."""

    name: str
    colour: str
    volume_ml: float | None
    flagged: bool


@dataclass(frozen=True)
class Card:
    """A picture with its legend; width and height in pixels, `source` a data URL."""

    case: str
    segmentation: str
    role: str
    segments: list[Chip]
    width: int
    height: int
    source: str


@dataclass(frozen=True)
class Overlays:
    """What the section shows.

    Attributes:
        shown: pictures that are seen at once.
        more: pictures that are folded away.
        all: how many pictures there are beside the page.
    """

    shown: list[Card]
    more: list[Card]
    all: int


def section(run: Run) -> Overlays:
    """Embed the overlays, each made small enough for all to fit the page's budget."""
    files = _files(run.results / "overlays", [spec.id for spec in run.segmentations])
    if run.subset:
        files = [file for file in files if file.parent.name in run.case_ids]
    limit = PICTURE_BUDGET // max(1, min(len(files), MAX_PICTURES))
    roles = {spec.id: spec.role for spec in run.segmentations}
    volumes, flagged = _volumes(run.features), _flagged(run.quality)
    cards = []
    for file in files[:MAX_PICTURES]:
        case, segmentation = file.parent.name, file.stem
        data, (width, height) = shrink(file.read_bytes(), limit)
        chips = [
            Chip(
                segment,
                colour,
                volumes.get((case, segmentation, segment)),
                (case, segmentation, segment) in flagged,
            )
            for (owner, segment), colour in run.colours.items()
            if owner == segmentation
        ]
        source = "data:image/webp;base64," + base64.b64encode(data).decode()
        role = roles[segmentation]
        cards.append(Card(case, segmentation, role, chips, width, height, source))
    return Overlays(cards[:OPEN_PICTURES], cards[OPEN_PICTURES:], len(files))


def _files(folder: Path, order: list[str]) -> list[Path]:
    """Return the pictures, complete cases first, so that those of a case stand side by side."""
    by_case = [
        [file for name in order if (file := case / f"{name}.png").is_file()]
        for case in (sorted(folder.iterdir()) if folder.is_dir() else [])
    ]
    return [file for case in sorted(by_case, key=len, reverse=True) for file in case]


def _volumes(features: pd.DataFrame | None) -> dict[tuple[str, str, str], float]:
    if features is None:
        return {}
    columns = features[["case_id", "segmentation", "segment", "volume_ml"]].dropna()
    return {
        (case, segmentation, segment): float(volume)
        for case, segmentation, segment, volume in columns.itertuples(index=False)
    }


def _flagged(quality: pd.DataFrame | None) -> set[tuple[str, str, str]]:
    """Return case, segmentation and segment of those that have a flag."""
    if quality is None:
        return set()
    columns = quality.loc[quality["flags"].map(len) > 0, ["case_id", "segmentation", "segment"]]
    return set(columns.itertuples(index=False, name=None))


def shrink(png: bytes, limit: int) -> tuple[bytes, tuple[int, int]]:
    """Encode a picture as WebP in at most `limit` bytes, as good as that allows.

    Quality is given up first, then size; the smallest of all is taken where none fits.

    Returns:
        The file and its width and height in pixels.
    """
    from PIL import Image

    original = Image.open(io.BytesIO(png)).convert("RGB")
    for scale, quality in ((1.0, 82), (1.0, 68), (0.8, 66), (0.62, 62), (0.5, 50)):
        size = (round(original.width * scale), round(original.height * scale))
        picture = original if scale == 1 else original.resize(size, Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        picture.save(stream, format="WEBP", quality=quality, method=METHOD)
        if stream.tell() <= limit:
            break
    return stream.getvalue(), size
