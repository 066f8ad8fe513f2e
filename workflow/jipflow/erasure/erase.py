"""Removes all that was made of a patient at a site, and searches for what is left.

Files of the patient's cases are removed; tables and lists of many patients are written again
without the patient's rows, and the records beside them are removed, so that the next run makes
them anew. Who is erased is put on the site's list first (`jipflow.privacy.erased`), so that no run
brings the patient back. What names the patient is kept in a private file until nothing is left:
once the catalog has no row of the patient any more, an erasure that was killed could not go on.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jipflow.erasure.account import Erasure
from jipflow.erasure.marks import Marks, find_marks
from jipflow.erasure.published import Published, delete, find_published
from jipflow.erasure.tables import REWRITERS, rewrite
from jipflow.files import json_text, read_json
from jipflow.lock import JOBS, alone
from jipflow.lock import NAME as LOCK
from jipflow.place import raise_place_error
from jipflow.privacy.erased import KEPT, add_erased
from jipflow.privacy.private import write_private
from jipflow.privacy.pseudonyms import check_secret, known_secret, one_form
from jipflow.privacy.search import Hit, search
from jipflow.provenance import NAME as RECORD
from jipflow.reasons import StageError
from jipflow.release.ledger import Ledger
from jipflow.settings.site import Folder, Site
from jipflow.subset import FOLDER as SUBSET

JOURNAL = "erasing.json"
"""What names the patients of an erasure that has not ended, in the folder of the ledger."""

STAY = frozenset(
    {
        "bundles",
        "exchange",
        "rounds",
        "settings.json",
        "identity.json",
        "ledger.json",
        KEPT,
        LOCK,
        JOBS,
    }
)
"""What leaves or keeps a site's word: aggregates and messages, in which nobody stands. They are
searched and never changed."""

MODELS = (".pth", ".pt", ".onnx")

TABLES = frozenset({".parquet", ".tsv", ".csv", ".json", ".jsonl"})
"""Suffixes of what is taken apart by cell or entry."""


def erase(
    *,
    site: Site,
    results: Path,
    patients: Sequence[str],
    also: Sequence[Path] = (),
    note: Callable[[Erasure], object] = lambda made: None,
) -> Erasure:
    """Erase patients from a site's results.

    Args:
        site: its settings.
        results: folder for the results of all protocols.
        patients: PatientIDs.
        also: other folders that data of patients were written into, such as of an OMOP export.
        note: gets what was done before it is forgotten, so that an erasure which could not be
            noted goes on and is.

    Raises:
        StageError: a run or an export has the results, or the site's secret is not the one behind
            them.
        OSError: a file cannot be read or removed; the same command goes on.
    """
    named = {one_form(patient) for patient in patients} - {""}
    if not named:
        raise StageError("There is no PatientID to erase; give one a line.")
    # A link is not followed, neither here nor by the search.
    results = results.resolve()
    if not results.is_dir():
        raise StageError(f"There are no results in {results}; name their folder by --results.")
    places = [path.resolve() for path in (results, *_inbox(site), *also)]
    own = _own(site)
    _check_links(places, own)
    secret_file = Path(site.identity.secret_file)
    check_secret(secret_file, results)
    secret = known_secret(secret_file)
    journal = Path(site.identity.ledger_folder) / JOURNAL
    with alone(results, "jipflow erase"):
        add_erased(site.identity, results, sorted(named))
        made, marks = _begun(journal, named)
        marks.add(find_marks(results, marks.patients, secret))
        made.patients = len(marks.patients)
        made.unknown = len(marks.patients - marks.met)
        made.vague = len(marks.vague())
        # What is known of releases, models and objects is gone with the files that say it.
        made.published = _joined(made.published, find_published(results, marks, site))
        made.models = sorted({*made.models, *_models(results, marks)})
        made.cases = max(made.cases, _cases(results, marks))
        _keep(journal, made, marks)
        for place in places:
            _clean(place, results, marks, made, own, lambda: _keep(journal, made, marks))
        _keep(journal, made, marks)
        _delete_published(site, journal, made, marks)
        made.released = _released(Ledger(journal.parent, secret, results), marks)
        there = [place for place in places if place.exists()]
        made.found = search(there, marks.tokens(), marks.words())
        hits = [hit for hit in made.found.hits if not _is_own(hit.path, own)]
        made.found.hits = [hit for hit in hits if "word" not in hit.token]
        by_hand = [*places[1:], *results.glob("*/inbox")]
        made.look_at = _to_look_at([hit for hit in hits if "word" in hit.token], by_hand)
        note(made)
        if not made.found.hits and not made.undone:
            journal.unlink()
    return made


def _to_look_at(hits: Sequence[Hit], by_hand: Sequence[Path]) -> list[Path]:
    """Return the files of which a person must say whether a word in them is a patient's ID.

    Cells of tables were compared as a whole. Letters or digits alone are looked for where people
    write; in what a run writes they are counts and words of the programs.

    Args:
        hits: of words.
        by_hand: folders into which people write.
    """
    return sorted(
        {
            hit.path
            for hit in hits
            if any(hit.path.is_relative_to(folder) for folder in by_hand)
            or (
                not hit.token.startswith("common")
                and (hit.place == "name" or hit.path.suffix not in TABLES)
            )
        }
    )


def _check_links(places: Sequence[Path], own: set[Path]) -> None:
    """Check that what is linked is among what is erased and searched, or the site's own."""
    for place in places:
        for folder, folders, names in os.walk(place):
            for link in (Path(folder, name) for name in (*folders, *names)):
                if not link.is_symlink():
                    continue
                target = link.resolve()
                among = any(target.is_relative_to(each) for each in places)
                if target.exists() and not among and not _is_own(target, own):
                    raise StageError(
                        f"{link} is a link to {target}, which is neither erased nor searched. "
                        f"Name {'it' if target.is_dir() else 'its folder'} by --also as well; all "
                        "that names the patients there is removed. Images of the archive must not "
                        "lie in it."
                    )


def _begun(journal: Path, named: set[str]) -> tuple[Erasure, Marks]:
    """Return an erasure, with what is known of one that has not ended."""
    try:
        kept = read_json(journal)
        made, marks = Erasure(kept["token"]), Marks.of(kept["marks"])
        made.published = [Published(**each) for each in kept["published"]]
        made.deleted = {Published(**each) for each in kept["deleted"]}
        made.models = [Path(path) for path in kept["models"]]
        made.cases = kept["cases"]
        made.protocols = set(kept["protocols"])
        made.planned = {Path(path) for path in kept["planned"]}
        made.removed = [Path(path) for path in kept["removed"]]
        made.rewritten = {Path(path): entries for path, entries in kept["rewritten"].items()}
    except FileNotFoundError:
        return Erasure(secrets.token_hex(32)), Marks(named)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StageError(
            f"{journal} is damaged, or of another version: it has what an erasure that has not "
            "ended knows of its patients. Restore it from the backup; without one move it away, "
            "name the patients of that erasure as well, and see by eye to what was sent to a PACS "
            "and to models."
        ) from None
    marks.patients |= named
    return made, marks


def _keep(journal: Path, made: Erasure, marks: Marks) -> None:
    content = {
        "token": made.token,
        "marks": marks.plain(),
        "published": [each.plain() for each in made.published],
        "deleted": [each.plain() for each in sorted(made.deleted)],
        "cases": made.cases,
        "models": [str(path) for path in made.models],
        "protocols": sorted(made.protocols),
        "planned": sorted(map(str, made.planned)),
        "removed": [str(path) for path in made.removed],
        "rewritten": {str(path): entries for path, entries in made.rewritten.items()},
    }
    write_private(journal, json_text(content).encode())


def _inbox(site: Site) -> list[Path]:
    return [Path(site.annotation.inbox)] if site.annotation.inbox else []


def _clean(
    place: Path,
    results: Path,
    marks: Marks,
    made: Erasure,
    own: set[Path],
    keep: Callable[[], object],
) -> None:
    """Remove or rewrite all files below a folder that name the patients."""
    if not place.exists():
        return
    ours = place == results
    hits = {hit.path for hit in search([place], marks.tokens()).hits}
    files = [path for path in _files(place, own) if not (ours and _stays(path, results))]
    named = {path for path in files if _is_named(path.relative_to(place), marks)}
    made.planned |= named | hits.intersection(files)
    if ours:
        named |= _crates(results, made.planned).intersection(files)
        made.planned |= named
    keep()
    for path in files:
        if not os.path.lexists(path):
            continue  # it was the record of a file that was changed
        inside = path.relative_to(place)
        records = _records(inside, results) if ours else []
        if path in named or (
            not _rewritten(path, records, marks, made)
            and (path in hits or _is_image_of(path, marks))
        ):
            _remove(path, records, made)
    if ours:
        inside_results = [p.relative_to(results) for p in made.changed() if place in p.parents]
        made.protocols |= {
            path.parts[0]
            for path in inside_results
            if len(path.parts) > 1 and path.parts[0] != "catalog"
        }
    emptied = {parent for path in made.changed() for parent in path.parents}
    for folder, _, _ in os.walk(place, topdown=False):
        path = Path(folder)
        if path == place or _is_own(path, own) or any(path.iterdir()):
            continue
        if path in emptied or marks.in_text(path.name):
            path.rmdir()


def _crates(results: Path, planned: Iterable[Path]) -> set[Path]:
    """Return the crates of runs and trainings with a table that had the patients, for its hash.

    The next run makes others.
    """
    protocols = {p.relative_to(results).parts[0] for p in planned if p.is_relative_to(results)}
    folders = [results / name for name in protocols]
    return {
        place / "crate" / name
        for folder in folders
        for place in (folder, folder / SUBSET)
        for name in ("run.zip", "train.zip")
    }


def _stays(path: Path, results: Path) -> bool:
    return not STAY.isdisjoint(path.relative_to(results).parts[:2])


def _is_named(inside: Path, marks: Marks) -> bool:
    """Whether the path of a file names a patient, or a job that was killed left it half written."""
    return inside.name.startswith(".partial-") or marks.in_text(str(inside))


def _is_image_of(path: Path, marks: Marks) -> bool:
    """Return whether a file is DICOM of one whose PatientID is looked for in no bytes."""
    import pydicom

    vague = marks.vague()
    if not vague or path.is_symlink():
        return False
    try:
        header = pydicom.dcmread(path, specific_tags=["PatientID"], stop_before_pixels=True)
    except Exception as error:  # pydicom raises whatever its parser met
        raise_place_error(error)
        return False
    return one_form(str(header.get("PatientID") or "")) in vague


def _rewritten(path: Path, records: Sequence[Path], marks: Marks, made: Erasure) -> bool:
    """Take the patients out of a table or list; return whether it had any of them."""
    if path.suffix not in REWRITERS or path.is_symlink():
        return False
    try:
        gone = rewrite(path, marks, lambda: _remove_records(records))
    except ValueError:
        return False
    if gone:
        made.rewritten[path] = made.rewritten.get(path, 0) + gone
    return bool(gone)


def _own(site: Site) -> set[Path]:
    """Return files and folders that are the site's own and stay, wherever they lie."""
    named = [site.identity.ledger_folder]
    named += [source.path for source in site.sources if isinstance(source, Folder)]
    named += [site.consent.file] if site.consent else []
    if site.clinical:
        for key in ("map", "patients", "file", "database"):
            path = getattr(site.clinical, key, None)
            named += [path] if path and "://" not in path else []
    return {Path(path).resolve() for path in named}


def _is_own(path: Path, own: set[Path]) -> bool:
    return not own.isdisjoint((path, *path.parents))


def _files(place: Path, own: set[Path]) -> list[Path]:
    """Return the files and links below a folder, without the site's own."""
    found = []
    for folder, folders, names in os.walk(place):
        folders[:] = [name for name in folders if Path(folder, name) not in own]
        links = [name for name in folders if Path(folder, name).is_symlink()]
        found += [Path(folder, name) for name in (*names, *links)]
    return sorted(path for path in found if path not in own)


def _records(inside: Path, results: Path) -> list[Path]:
    """Return the records of the jobs that wrote a file: without them, the jobs run again.

    Args:
        inside: the file, relative to the results.
        results: folder for the results of all protocols.
    """
    protocol, *parts = inside.parts
    folder = results / protocol
    if parts[:1] and parts[0] in ("release", "behind", "harmonised"):
        return [folder / "release" / f"{parts[1]}.{RECORD}"]
    if parts[:1] == ["crate"]:
        return sorted((folder / "crate").glob(f"*{RECORD}"))
    if "train" in parts[:2]:
        return sorted((folder / "train").glob(f"*.{RECORD}"))
    return [(results / inside).with_name(RECORD)]


def _remove(path: Path, records: Sequence[Path], made: Erasure) -> None:
    _remove_records(records)
    path.unlink(missing_ok=True)
    made.removed.append(path)


def _remove_records(records: Sequence[Path]) -> None:
    for record in records:
        record.unlink(missing_ok=True)


def _cases(results: Path, marks: Marks) -> int:
    """Return how many cases of the patients the results of all protocols have had."""
    found = set()
    for path in results.glob("*/cohort/assignment.tsv"):
        for line in path.read_text(encoding="utf-8").splitlines():
            found.add((path, line.partition("\t")[0]))
    return sum(case in marks.pseudonyms for _, case in found)


def _joined(known: Iterable[Published], found: Iterable[Published]) -> list[Published]:
    """Return what was sent, each object once: as the first try of the erasure knew it."""
    each = {(one.to, one.sop_uid): one for one in (*found, *known)}
    return sorted(each.values())


def _delete_published(site: Site, journal: Path, made: Erasure, marks: Marks) -> None:
    """Delete in the PACS what was sent there; each one is noted, so that a kill loses none."""

    def done(published: Published, why: str) -> None:
        if why:
            made.undone[published] = why
            return
        made.deleted.add(published)
        _keep(journal, made, marks)

    left = [each for each in made.published if each not in made.deleted]
    delete(site, left, marks.patients, journal.parent, done)


def _models(results: Path, marks: Marks) -> list[Path]:
    """Return the files of models that were trained with cases of the patients."""
    tokens = {name: text for name, text in marks.tokens().items() if name.startswith("pseudonym")}
    found = []
    for protocol in sorted(path for path in results.glob("*") if path.is_dir()):
        folders = [f for f in (protocol / "train", protocol / "work" / "train") if f.is_dir()]
        if folders and search(folders, tokens).hits:
            files = [path for folder in folders for path in folder.rglob("*")]
            found += sorted(path for path in files if path.suffix in MODELS)
    return found


def _released(ledger: Ledger, marks: Marks) -> list[str]:
    """Return a line for each release that the patients stand behind."""
    found = []
    for kept in ledger.entries():
        cells = kept.past.left if kept.past else []
        behind = sum(not marks.pseudonyms.isdisjoint(cell.values.cases) for cell in cells)
        if behind:
            found.append(f"{kept.line()}; of these cells {behind} have the patients behind them")
    return found
