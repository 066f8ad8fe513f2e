"""What a reader sends back for a case: DICOM-SEG, RTSTRUCT or NIfTI, checked against the case.

Who finds nothing says so by a file of the name `jipflow.annotate.inbox.NOTHING`, which no program
writes by mistake: an empty label map may be one that was saved too early, and a DICOM-SEG cannot be
empty.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from jipflow import datasets
from jipflow.annotate.inbox import NOTHING
from jipflow.files import sha256_file
from jipflow.images.masks import Region, cropped
from jipflow.images.nifti import TOLERANCE, stated_grid
from jipflow.images.read import BROKEN
from jipflow.images.volume import Volume
from jipflow.objects.annotation import Annotation, Target, fits
from jipflow.place import raise_place_error
from jipflow.reasons import CaseFault, Decision, Reason
from jipflow.segment.engine import Inputs
from jipflow.segment.engines.annotated.settings import AnnotatedSegmentation
from jipflow.segment.engines.imported.engine import (
    READERS,
    import_regions,
    read_object,
    target_of,
)
from jipflow.segment.engines.imported.settings import Imported, ImportedSegment

NIFTI = "NIFTI"
FOUND_NOTHING = "NOTHING"
SUFFIXES = (".nii", ".nii.gz")
MOST_BESIDE = 2**24
"""Bytes of a NIfTI file that are no voxels: its header with extensions."""
OTHER_SUFFIXES = (
    *(".nrrd", ".nhdr", ".mha", ".mhd", ".img", ".hdr", ".gipl", ".gipl.gz", ".mrb", ".mnc"),
    *(".vtk", ".vti", ".vtp", ".stl", ".ply", ".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"),
)
"""Of files in which programs save regions, or people pack them, and which are not read."""
OTHER_MODALITIES = ("SEG", "RTSTRUCT", "SR", "PR", "ANN", "M3D")
"""Of DICOM objects that may say what a reader marked."""


@dataclass(frozen=True)
class Reading:
    """A file that a reader sent back.

    Attributes:
        reader: name of the reader's folder.
        file: path below that folder.
        regions: by the name of the protocol's segment, each in the smallest box that holds it; none
            where the reader found nothing.
        provenance: of the columns of ``readings.parquet`` those that the file itself gives.
        fault: why it cannot be used; None where it can.
        notes: what one should know though it can be used.
        decisions: codes of what was decided on the way.
    """

    reader: str
    file: str
    provenance: Mapping[str, str]
    regions: Mapping[str, Region] = field(default_factory=dict)
    fault: CaseFault | None = None
    notes: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()


class Desk:
    """Reads what comes back for one segmentation of a case.

    Args:
        inputs: of the case; its volumes are there.
        spec: the segmentation.

    Raises:
        CaseFault: the volume of the role cannot be read, which is no reader's fault.
        PlaceError: what was kept of its headers is damaged.
    """

    def __init__(self, inputs: Inputs, spec: AnnotatedSegmentation) -> None:
        self.inputs = inputs
        self.grid = inputs.grid
        self.spec = spec

    @property
    def _where(self) -> str:
        return f"case {self.inputs.case.case_id}"

    @cached_property
    def _target(self) -> Target:
        case = self.inputs.case
        return target_of(case.case_id, case.roles[self.spec.role], self.grid)

    @cached_property
    def _patient_id(self) -> str:
        series = self.inputs.case.roles[self.spec.role]
        header = datasets.read(series.paths[0], stop=datasets.at_pixels).dataset
        return str(header.get("PatientID") or "").strip()

    def readings(self, reader: str, folder: Path, files: Sequence[Path]) -> list[Reading]:
        """Read the files of a reader, of which one can be used.

        That nothing was found counts only where no other file says anything.

        Args:
            reader: name of the reader's folder.
            folder: the reader's.
            files: below it.

        Returns:
            A reading for each file that may hold regions; of files with the same content one.
        """
        by_content = {}
        for file in reversed(files):
            with suppress(FileNotFoundError):  # taken away since it was listed
                by_content[sha256_file(file), _is_nothing(file)] = file
        read = [
            self._reading(reader, folder, file, sha256)
            for (sha256, _), file in sorted(by_content.items(), key=lambda item: item[1])
        ]
        found = [reading for reading in read if reading is not None]
        usable = [reading for reading in found if reading.fault is None]
        rivals = usable
        if any(reading.provenance["kind"] == FOUND_NOTHING for reading in usable):
            rivals = found
        if len(rivals) < 2:
            return found
        listed = ", ".join(reading.file for reading in rivals)
        fault = CaseFault(
            Reason.AMBIGUOUS_CONTOURS,
            f"{self._where}: {reader} has {len(rivals)} files of which one may count: {listed}; "
            "leave that one.",
        )
        return [replace(r, fault=fault, regions={}) if r in usable else r for r in found]

    def _reading(self, reader: str, folder: Path, path: Path, sha256: str) -> Reading | None:
        """Read a file; None where it is of a kind that holds no regions."""
        name = str(path.relative_to(folder))
        status = path.stat()
        received = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
        provenance = {"sha256": sha256, "received": received}
        notes: list[str] = []
        decisions: list[Decision] = []
        try:
            header, kind = _sniff(path)
            if not kind:
                return None
            provenance |= {"kind": kind, **_made_with(header)}
            if kind == FOUND_NOTHING:
                self._check_may_be_empty()
                return Reading(reader, name, provenance)
            if kind == NIFTI:
                regions = list(self._label_map(path))
            else:
                self._check_patient(header)
                spec = _taken_from(kind, self.spec)
                regions = list(import_regions([path], spec, self._target, notes, decisions))
                if regions:
                    self._check_names(read_object(path, kind), regions, notes)
            if not regions:
                raise self._marks_nothing()
        except CaseFault as fault:
            raise_place_error(fault)
            return Reading(reader, name, provenance, fault=fault)
        except BROKEN as error:
            raise_place_error(error)
            why = f"{self._where}: it is not as DICOM asks ({error}); send it again."
            return Reading(reader, name, provenance, fault=CaseFault(Reason.UNREADABLE, why))
        tight = {region.name: cropped(region) for region in regions}
        return Reading(
            reader, name, provenance, tight, notes=tuple(notes), decisions=tuple(decisions)
        )

    def _check_names(self, source: Annotation, regions: Sequence[Region], notes: list[str]) -> None:
        """Refuse an object of which something that the reader marked would be lost.

        A lesion that lies beside the image or is misspelt would else be a finding of none.
        """
        drawn = {region.name for region in regions}
        absent = [s for s in self.spec.segments if s.name not in drawn]
        lost = [s.name for s in absent if source.has(s.returned_as)]
        if lost:
            raise CaseFault(
                Reason.EMPTY_SEGMENT,
                f"{self._where}: {_listed(lost)} is marked and has no voxel that can be used; "
                + " ".join(["draw it on the image, or leave it out.", *notes]),
            )
        patterns = [s.returned_as for s in self.spec.segments]
        strays = [name for name in source.names() if not fits(name, patterns)]
        if strays and absent:
            raise CaseFault(
                Reason.NO_CONTOURS,
                f"{self._where}: {_listed(strays)} is the name of no segment, and there is no "
                f"{_listed([s.name for s in absent])}; call each as the protocol does, or leave "
                "out what is not asked for.",
            )
        if strays:
            notes.append(f"Not asked for, and left out: {_listed(strays)}.")

    def _check_may_be_empty(self) -> None:
        if not self.spec.may_be_empty:
            raise CaseFault(
                Reason.EMPTY_SEGMENTATION,
                f"{self._where}: in this protocol {self.spec.id!r} may not be empty; send what "
                "is to be marked.",
            )

    def _marks_nothing(self) -> CaseFault:
        instead = f"; to say that there is nothing, send {NOTHING} instead"
        return CaseFault(
            Reason.EMPTY_SEGMENTATION,
            f"{self._where}: no segment has a voxel{instead if self.spec.may_be_empty else ''}.",
        )

    def _check_patient(self, header: Dataset) -> None:
        """Refuse another patient's object, which may lie on the same grid on the same day."""
        stated = str(header.get("PatientID") or "").strip()
        if stated and self._patient_id and stated != self._patient_id:
            raise CaseFault(
                Reason.MIXED_PATIENTS,
                f"{self._where}: its Patient ID is not that of the images; put it into the "
                "folder of its own case.",
            )

    def _label_map(self, path: Path) -> Iterator[Region]:
        """Yield the regions of a NIfTI label map, whose values count the protocol's segments."""
        labels = self._on_grid(path)
        segments = self.spec.segments
        if labels.dtype.kind not in "iuf":
            raise CaseFault(
                Reason.INVALID_OUTPUT,
                f"{self._where}: holds colours or complex numbers; save a label map.",
            )
        values = np.unique(labels)
        strange = values[(values != np.round(values)) | (values < 0) | (values > len(segments))]
        if len(strange):
            listed = ", ".join(f"{i} {s.name}" for i, s in enumerate(segments, start=1))
            raise CaseFault(
                Reason.INVALID_OUTPUT,
                f"{self._where}: the label map has the value {strange[0]:g}; its values "
                f"must be 0 outside and {listed}.",
            )
        for value, wanted in enumerate(segments, start=1):
            mask = labels == value
            if mask.any():
                yield Region(wanted.name, wanted.term, mask, "MANUAL", "NIfTI label map")
            elif wanted.required:
                raise CaseFault(
                    Reason.EMPTY_SEGMENT,
                    f"{self._where}: no voxel has the value {value} of {wanted.name!r}.",
                )

    def _on_grid(self, path: Path) -> NDArray[Any]:
        """Return the voxels of a NIfTI image on the grid of the role, shape (z, y, x).

        Axes may come in another order and direction, as long as they are those of the grid.
        """
        try:
            image: Any = nibabel.load(path)
            shape, grid = image.shape, self.grid
            if len(shape) == 3 and sorted(shape) == sorted(grid.shape):
                voxels = np.asanyarray(image.dataobj)
                _check_sum(path, voxels.size * image.dataobj.dtype.itemsize)
            else:
                voxels = None
        except (
            ImageFileError,
            HeaderDataError,
            OSError,
            EOFError,
            ValueError,
            zlib.error,
        ) as error:
            raise CaseFault(
                Reason.UNREADABLE,
                f"{self._where}: cannot be read as NIfTI ({error}); save it again.",
            ) from error
        if voxels is not None:
            try:
                stated = stated_grid(image.header)
            except ValueError as error:
                raise CaseFault(Reason.GRID_MISMATCH, f"{self._where}: {error}.") from None
            turned = Volume(voxels, stated).with_axes_of(grid)
            if turned.grid.matches(grid, TOLERANCE * min(grid.spacing)):
                return turned.array
        raise CaseFault(
            Reason.GRID_MISMATCH,
            f"{self._where}: does not lie on the grid of the image: it has "
            f"{'×'.join(map(str, shape))} voxels, the image {'×'.join(map(str, grid.shape[::-1]))}"
            ", or lies elsewhere; save it on the geometry of the series.",
        )


def _check_sum(path: Path, size: int) -> None:
    """Read what lies behind the voxels of a compressed file, up to the sum of its content.

    nibabel reads the voxels and no further, so that damage to them goes unnoticed.

    Args:
        path: of the file, compressed or not.
        size: of the voxels in bytes.

    Raises:
        OSError: the sum is another, or the file goes on behind it.
        EOFError: it breaks off.
        ValueError: more lies behind the voxels than any header's extension.
    """
    if not path.name.lower().endswith(".gz"):
        return
    count = 0
    with gzip.open(path) as stream:
        while chunk := stream.read(2**20):
            count += len(chunk)
            if count > size + MOST_BESIDE:
                raise ValueError(f"it goes on for more than {MOST_BESIDE} bytes beside its voxels")


def _taken_from(kind: str, spec: AnnotatedSegmentation) -> Imported:
    """Return by what an object that comes back is read: as one of the archive would be."""
    return Imported.model_validate(
        {
            "id": spec.id,
            "engine": "imported",
            "role": spec.role,
            "from": kind,
            "may_be_empty": spec.may_be_empty,
            # What a reader marked under other names is refused by `_check_names`.
            "ignore": ".*",
            "segments": [
                ImportedSegment(
                    name=segment.name,
                    term=segment.term,
                    match=segment.returned_as,
                    required=segment.required,
                )
                for segment in spec.segments
            ],
        }
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _is_nothing(path: Path) -> bool:
    return path.name.lower() == NOTHING


def _sniff(path: Path) -> tuple[Dataset, str]:
    """Return the header of a file and its kind, empty where it holds no regions.

    Raises:
        CaseFault: it is DICOM and cannot be read, or may hold regions in a form that is not.
    """
    if _is_nothing(path):
        return Dataset(), FOUND_NOTHING
    if path.name.lower().endswith(SUFFIXES):
        return Dataset(), NIFTI
    if path.name.lower().endswith(OTHER_SUFFIXES):
        raise _of_another_kind(path.suffix.lower())
    with open(path, "rb") as stream:
        if not datasets.begins_as_dicom(stream.read(132)):
            return Dataset(), ""
    try:
        header = datasets.read(path, stop=datasets.at_pixels).dataset
        sop_class = str(header["SOPClassUID"].value)
    except BROKEN as error:
        raise CaseFault(
            Reason.UNREADABLE, f"it cannot be read as DICOM ({error}); send it again."
        ) from error
    kinds = (kind for kind, (_, classes, _) in READERS.items() if sop_class in classes)
    kind = next(kinds, "")
    if not kind and str(header.get("Modality") or "") in OTHER_MODALITIES:
        raise _of_another_kind(UID(sop_class).name)
    return header, kind


def _of_another_kind(what: str) -> CaseFault:
    """Return the fault of a file that may hold regions and is not read."""
    return CaseFault(
        Reason.UNSUPPORTED_OBJECT,
        f"it is of a kind that is not read ({what}); save what is marked as DICOM-SEG, RTSTRUCT or "
        "NIfTI.",
    )


def _made_with(header: Dataset) -> dict[str, str]:
    """Return by whom, when and with what an object was made, as far as it says."""

    def text(*keywords: str) -> str:
        return next((str(header[k].value) for k in keywords if header.get(k)), "")

    date, time = text("ContentDate", "StructureSetDate"), text("ContentTime", "StructureSetTime")
    return {
        "manufacturer": text("Manufacturer"),
        "model": text("ManufacturerModelName"),
        "software": text("SoftwareVersions"),
        "creator": text("ContentCreatorName", "OperatorsName"),
        "made": f"{date} {time}".strip(),
    }
