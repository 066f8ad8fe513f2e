"""From a pseudonym, or a code in a message, back to the patient, for the site's own staff.

There is no table of pseudonyms and patients: the secret makes it again from the catalog.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jipflow.files import parquet_batches, read_parquet
from jipflow.privacy.pseudonyms import pseudonym
from jipflow.privacy.redaction import code_of
from jipflow.settings.site import Folder, Site

SERIES = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "StudyDate")


@dataclass(frozen=True, order=True)
class Traced:
    """What a pseudonym or a code stands for.

    Attributes:
        kind: ``patient``, ``case``, ``series``, ``file`` or ``UID``.
        patient: the PatientID; empty where it is not known.
        study: StudyInstanceUID, likewise.
        series: SeriesInstanceUID, likewise.
        what: in words: modality and day of a series, a path, a UID.
    """

    kind: str
    patient: str
    study: str
    series: str
    what: str


@dataclass(frozen=True)
class Places:
    """Where what messages name may lie.

    Attributes:
        results: folder for the results of all protocols.
        inboxes: of readers, each with a folder a segmentation.
        archives: folders of images.
    """

    results: Path
    inboxes: Sequence[Path] = ()
    archives: Sequence[Path] = ()

    @classmethod
    def of(cls, site: Site, results: Path) -> Places:
        """Return the places of a site: ``annotation.inbox`` has a folder a protocol."""
        own = Path(site.annotation.inbox) if site.annotation.inbox else None
        folders = [*results.glob("*/inbox"), *(own.glob("*") if own else ())]
        archives = [Path(s.path) for s in site.sources if isinstance(s, Folder)]
        return cls(results, sorted(folders), archives)


def trace(codes: Iterable[str], places: Places, secret: bytes) -> dict[str, list[Traced]]:
    """Find what pseudonyms and codes of messages stand for.

    Args:
        codes: pseudonyms of patients, cases or series, and the codes of ``‹file …›`` and
            ``‹UID …›``.
        places: that are searched: first the catalogs and what readers sent; for a code that is of
            nothing there every file of the archives and the results, such as one that is no DICOM.
        secret: of the site.

    Returns:
        For each code the series of the patient or case, or the file or UID; empty where no place
        has anything of the kind.
    """
    found: dict[str, set[Traced]] = {code: set() for code in codes}

    def take(known: Iterable[tuple[str, Traced]]) -> None:
        for code, traced in known:
            if code in found:
                found[code].add(traced)

    for folder in (places.results / "catalog", *sorted(places.results.glob("*/pacs"))):
        if (folder / "series.parquet").is_file():
            take(_in_catalog(folder, secret))
    take(_of_readers(places.inboxes, secret))
    if not all(found.values()):
        take(_of_files((*places.archives, *places.inboxes, places.results), secret))
    return {code: sorted(traced) for code, traced in found.items()}


def _of_readers(inboxes: Iterable[Path], secret: bytes) -> Iterator[tuple[str, Traced]]:
    """Iterate over the codes of the files that readers put into inboxes.

    Messages name them below their reader's folder: ``<segmentation>/<case>/<reader>/``.
    """
    for inbox in inboxes:
        for path in sorted(inbox.rglob("*")):
            below = Path(*path.relative_to(inbox).parts[3:])
            for text in {path.name, str(below)} if path.is_file() else ():
                yield code_of(secret, "file", text), Traced("file", "", "", "", str(path))


def _of_files(folders: Iterable[Path], secret: bytes) -> Iterator[tuple[str, Traced]]:
    """Iterate over the codes of all files and folders below folders, by path and by name."""
    for top in folders:
        for folder, _, names in os.walk(top):
            for path in (Path(folder), *(Path(folder, name) for name in names)):
                for text in {str(path), str(path.absolute()), path.name}:
                    yield code_of(secret, "file", text), Traced("file", "", "", "", str(path))


def _in_catalog(folder: Path, secret: bytes) -> Iterator[tuple[str, Traced]]:
    """Iterate over every pseudonym and code that a catalog's rows have."""
    of_series: dict[str, tuple[str, str, str]] = {}
    for row in read_parquet(folder / "series.parquet", list(SERIES)).to_pylist():
        patient, study, series, modality, day = (row[name] or "" for name in SERIES)
        of_series[series] = known = (patient, study, series)
        what = f"{modality} of {day}"
        yield pseudonym(secret, "patient", patient), Traced("patient", *known, what)
        # A case is of a study, or of all that a patient has.
        yield pseudonym(secret, "case", patient), Traced("case", *known, what)
        yield pseudonym(secret, "case", patient, study), Traced("case", *known, what)
        yield pseudonym(secret, "series", series), Traced("series", *known, what)
        for uid in (study, series):
            yield code_of(secret, "UID", uid), Traced("UID", *known, uid)
    names = ("SeriesInstanceUID", "SOPInstanceUID", "path")
    folders: set[str] = set()
    for batch in parquet_batches(folder / "instances.parquet", names):
        for row in batch.to_pylist():
            known = of_series.get(row["SeriesInstanceUID"], ("", "", row["SeriesInstanceUID"]))
            yield code_of(secret, "UID", row["SOPInstanceUID"]), Traced("UID", *known, row["path"])
            path = Path(row["path"])
            for text in (row["path"], path.name):
                yield code_of(secret, "file", text), Traced("file", *known, row["path"])
            for above in map(str, path.parents):
                if above not in folders:
                    folders.add(above)
                    yield code_of(secret, "file", above), Traced("file", "", "", "", above)
