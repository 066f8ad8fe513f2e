"""From a pseudonym, or a code in a message, back to the patient, for the site's own staff.

There is no table of pseudonyms and patients: the secret makes it again from the catalog.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jipflow.privacy.pseudonyms import pseudonym
from jipflow.privacy.redaction import code_of

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


def trace(codes: Iterable[str], results: Path, secret: bytes) -> dict[str, list[Traced]]:
    """Find what pseudonyms and codes of messages stand for.

    Args:
        codes: pseudonyms of patients, cases or series, and the codes of ``‹file …›`` and
            ``‹UID …›``.
        results: folder for the results of all protocols, whose catalogs are searched.
        secret: of the site.

    Returns:
        For each code the series of the patient or case, or the file or UID; empty where neither
        the catalogs nor readers' files have anything of the kind.
    """
    found: dict[str, set[Traced]] = {code: set() for code in codes}
    for folder in (results / "catalog", *sorted(results.glob("*/pacs"))):
        if (folder / "series.parquet").is_file():
            for code, traced in _in_catalog(folder, secret):
                if code in found:
                    found[code].add(traced)
    for code, traced in _of_readers(results, secret):
        if code in found:
            found[code].add(traced)
    return {code: sorted(traced) for code, traced in found.items()}


def _of_readers(results: Path, secret: bytes) -> Iterator[tuple[str, Traced]]:
    """Iterate over the codes of the files that readers put into ``<protocol>/inbox``.

    Messages name them below their reader's folder: ``<segmentation>/<case>/<reader>/``.
    """
    for inbox in sorted(results.glob("*/inbox")):
        for path in sorted(inbox.rglob("*")):
            below = Path(*path.relative_to(inbox).parts[3:])
            for text in {path.name, str(below)} if path.is_file() else ():
                yield code_of(secret, "file", text), Traced("file", "", "", "", str(path))


def _in_catalog(folder: Path, secret: bytes) -> Iterator[tuple[str, Traced]]:
    """Iterate over every pseudonym and code that a catalog's rows have."""
    import pyarrow.parquet as pq

    of_series: dict[str, tuple[str, str, str]] = {}
    for row in pq.read_table(folder / "series.parquet", columns=list(SERIES)).to_pylist():
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
    for batch in pq.ParquetFile(folder / "instances.parquet").iter_batches(columns=list(names)):
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
