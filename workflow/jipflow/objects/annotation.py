"""What a structure set and a DICOM-SEG have in common: names of regions, and the image they fit."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.cases import Series
from jipflow.images.series import read_planes
from jipflow.images.volume import Grid
from jipflow.notes import Notes
from jipflow.patterns import meets
from jipflow.reasons import Decision

METHODS = ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")

Source = tuple[str, int]
"""SOPInstanceUID of an image and, of a multi-frame one, the number of the frame, else 0."""


@dataclass(frozen=True)
class SourceImages:
    """The images of a series, from the first to the last slice.

    Attributes:
        positions: Image Position (Patient) of each, shape (images, 3), LPS in mm.
        numbers: index of each in `positions` that can be named alone, as a mosaic's cannot.
        distances: what their headers state as Spacing Between Slices, in mm and without a sign.
        tilted: whether the images were moved within their planes to the grid.
    """

    positions: NDArray[np.float64]
    numbers: Mapping[Source, int]
    distances: frozenset[float]
    tilted: bool = False

    def find(self, references: Sequence[Source]) -> list[int]:
        """Return the indices of images that a frame names as its sources."""
        keys = (key for uid, frame in references for key in dict.fromkeys([(uid, frame), (uid, 0)]))
        return [self.numbers[key] for key in keys if key in self.numbers]


@dataclass(frozen=True)
class Target:
    """The image that a segmentation is wanted for.

    Attributes:
        case_id: pseudonym of the case.
        study_uid: StudyInstanceUID, empty where the image has none.
        study_date: StudyDate, empty where the image has none.
        series_uid: SeriesInstanceUID.
        frame_of_reference_uid: FrameOfReferenceUID.
        instances: SOPInstanceUID of each image.
        grid: where the voxels are.
        series: what its images are read from; None where that is not known.
        others: SOPInstanceUID of each image of the series' other volumes.
        apart: SOPInstanceUID of what lies in the series beside its stack, such as localizers.
    """

    case_id: str
    study_uid: str
    study_date: str
    series_uid: str
    frame_of_reference_uid: str
    instances: frozenset[str]
    grid: Grid
    series: Series | None = None
    others: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()

    @cached_property
    def images(self) -> SourceImages | None:
        """The images of the series; None where its files are not known."""
        if self.series is None:
            return None
        planes = read_planes(self.series)
        distances = (plane.header.get("SpacingBetweenSlices") for plane in planes)
        keys = [(str(plane.header.SOPInstanceUID), plane.frame_number) for plane in planes]
        times = Counter(keys)
        return SourceImages(
            np.array([plane.header.ImagePositionPatient for plane in planes], dtype=float),
            # A mosaic is named as a whole, which says of none of its slices that it is meant.
            {key: index for index, key in enumerate(keys) if times[key] == 1},
            frozenset(abs(float(distance)) for distance in distances if distance),
            any(plane.shift is not None for plane in planes),
        )


class Match(IntEnum):
    """By what an object fits an image, best first.

    `IMAGES` are those of an object that names them in another series: a UID that several series
    share, or that outlived the one of its series.
    """

    INSTANCES = 0
    IMAGES = 1
    SERIES = 2
    FRAME_OF_REFERENCE = 3
    GEOMETRY = 4


@dataclass(frozen=True)
class DrawnRegion:
    """One region as its object holds it.

    Attributes:
        mask: voxels of a box on the target's grid.
        method: Segment Algorithm Type (0062,0008).
        producer: name of what made it.
        version: version of the producer, empty where it has none.
        corner: index (z, y, x) of the mask's first voxel on the grid.
        unused: what the object holds of the region, where no voxel comes of it; else empty.
    """

    mask: NDArray[np.bool_]
    method: str
    producer: str
    version: str
    corner: tuple[int, int, int] = (0, 0, 0)
    unused: str = ""


class Annotation(ABC):
    """An object of the archive that holds regions."""

    def __init__(self, dataset: Dataset, path: Path) -> None:
        """Keep the data set and where it came from."""
        self.dataset = dataset
        self.path = path
        self.uid = str(dataset.get("SOPInstanceUID") or path.name)

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of its regions."""

    @abstractmethod
    def images(self, matches: Sequence[str]) -> set[str]:
        """Return the SOPInstanceUIDs of the images that its wanted regions reference.

        Args:
            matches: regular expressions of the wanted names.
        """

    @abstractmethod
    def series(self) -> set[str]:
        """Return the SeriesInstanceUIDs that it references."""

    @abstractmethod
    def frames_of_reference(self, matches: Sequence[str]) -> set[str]:
        """Return the FrameOfReferenceUIDs of its wanted regions."""

    def elsewhere(self, target: Target, matches: Sequence[str]) -> set[str]:
        """Return the frames of reference of its wanted regions where none is that of an image.

        Coordinates of two frames of reference have nothing to do with each other (PS3.3
        C.7.4.1.1.1), whatever else an object names and wherever its regions would lie.

        Args:
            target: the image.
            matches: regular expressions of the wanted names.
        """
        frames = self.frames_of_reference(matches)
        return set() if target.frame_of_reference_uid in frames else frames

    @abstractmethod
    def studies(self) -> set[str]:
        """Return the StudyInstanceUIDs that it belongs to or references."""

    @abstractmethod
    def lies_on(self, target: Target, matches: Sequence[str]) -> bool:
        """Return whether its wanted regions lie on an image's planes and inside its extent."""

    @abstractmethod
    def draw(
        self, wanted: str, pattern: str, target: Target, match: Match, notes: Notes
    ) -> DrawnRegion | None:
        """Unite the regions that a segment of the protocol means.

        Args:
            wanted: name of a segment of the protocol, for notes.
            pattern: regular expression that the whole name of a region meets.
            target: the image.
            match: by what the object fits it.
            notes: gets a sentence for each thing that a reader of the masks should know.

        Returns:
            The region, or None where no name matches.

        Raises:
            CaseFault: a region cannot be placed on the grid.
        """

    def has(self, match: str) -> bool:
        """Return whether the whole name of a region matches a regular expression."""
        return any(fits(name, (match,)) for name in self.names())

    def fit(self, target: Target, matches: Sequence[str]) -> Match | None:
        """Return by what it fits an image best, None where it does not.

        What lies in another frame of reference fits nothing, and what was made on images of the
        series that are no slices, such as a localizer, does not fit its stack. Without a common
        UID, geometry is evidence only within one examination: contours of another one may lie on
        the same planes by chance. An examination is one study, or, where de-identification tore the
        UIDs apart, one date.
        """
        if self.elsewhere(target, matches):
            return None
        series = self.series()
        named = self.images(matches)
        if named & target.apart and not named & target.instances:
            return None
        if named & target.instances:
            here = not series or target.series_uid in series
            return Match.INSTANCES if here else Match.IMAGES
        if target.series_uid in series:
            return Match.SERIES
        if target.frame_of_reference_uid in self.frames_of_reference(matches):
            return Match.FRAME_OF_REFERENCE
        if self.same_examination(target) and self.lies_on(target, matches):
            return Match.GEOMETRY
        return None

    def same_examination(self, target: Target) -> bool:
        """Return whether it shares the study, or the date of the study, with an image."""
        if target.study_uid and target.study_uid in self.studies():
            return True
        return bool(target.study_date) and self.dataset.get("StudyDate") == target.study_date


def fits(name: str, matches: Sequence[str]) -> bool:
    """Return whether the whole name matches one of the regular expressions.

    A letter with a diacritic is one however it is composed (Unicode Standard Annex 15, NFC), and a
    space is one though no line may break there.
    """
    text = _composed(name).strip()
    return any(meets(_composed(match), text) for match in matches)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("\u00a0", " ")


def common_method(stated: set[str], context: str, notes: Notes) -> str:
    """Return the Segment Algorithm Type that united regions share.

    Args:
        stated: what each region states, empty where it states nothing.
        context: the object, for the note.
        notes: gets a sentence where the regions state none or different ones.
    """
    if len(stated) == 1 and stated <= set(METHODS):
        return stated.pop()
    listed = ", ".join(sorted(method or "nothing" for method in stated))
    notes.add(
        Decision.METHOD_ASSUMED,
        f"{context}: how it was made is stated as {listed}; recorded as MANUAL.",
    )
    return "MANUAL"
