"""What an erasure did and found, in sentences for the data steward."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from jipflow.erasure.published import Published
from jipflow.privacy.search import Search
from jipflow.reasons import StageError
from jipflow.words import number_of

MOST_SHOWN = 20
"""Files that are named one by one for a person to look at."""


@dataclass
class Erasure:
    """What an erasure did and found.

    Attributes:
        token: drawn at random for the erasure, under which the audit trail knows it.
        patients: how many.
        unknown: how many of them no catalog has: they may be written otherwise there.
        vague: of how many the PatientID is within another patient's, or a short one or a word, so
            that no bytes were searched for it.
        cases: of the patients, that results have had.
        protocols: of whose results files were removed or changed.
        planned: files that name the patients, noted before the first of them was changed.
        removed: files that were removed.
        rewritten: files of many patients, and how many entries were taken out of each.
        published: objects that were sent to a PACS, or may have been.
        deleted: those of them that the PACS lists no more.
        undone: those of them that a PACS was asked to delete in vain, with what is in the way.
        released: a line for each release with the patients behind it, and in how many cells.
        models: files of models that were trained with the patients.
        found: what the search afterwards has found.
        look_at: files with a word that is also one of the PatientIDs which others' files have by
            chance.
    """

    token: str
    patients: int = 0
    unknown: int = 0
    vague: int = 0
    cases: int = 0
    protocols: set[str] = field(default_factory=set)
    planned: set[Path] = field(default_factory=set)
    removed: list[Path] = field(default_factory=list)
    rewritten: dict[Path, int] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    deleted: set[Published] = field(default_factory=set)
    undone: dict[Published, str] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    models: list[Path] = field(default_factory=list)
    found: Search = field(default_factory=Search)
    look_at: list[Path] = field(default_factory=list)

    def changed(self) -> set[Path]:
        """Return the files that were removed or changed, by whichever try of the erasure."""
        return {*self.planned, *self.removed, *self.rewritten}

    def sentences(self) -> list[str]:
        """Say what was done and found, a line each; no line names a patient."""
        lines = [
            f"{number_of(self.patients, 'patient')}, {number_of(self.cases, 'case')}:"
            f" {number_of(len(self.removed), 'file')} removed,"
            f" {sum(self.rewritten.values())} entries taken out of {len(self.rewritten)} others"
        ]
        if self.unknown:
            lines.append(
                f"in no catalog: {self.unknown} of them; see that each PatientID is written as in "
                "the images, with leading zeros"
            )
        if self.vague:
            lines.append(
                f"PatientID that others' files have by chance: {self.vague}; looked for in columns,"
                " names and DICOM headers, as a word in texts, and otherwise by pseudonym and UID"
            )
        lines += self._of_archives()
        lines += [f"left the site: {line}" for line in self.released]
        lines += [f"trained with the patients, and not removed: {path}" for path in self.models]
        found = self.found
        lines.append(
            f"searched: {found.files} files of {found.size} bytes, and {found.unpacked} in them"
        )
        lines += [
            f"not opened: {path} {place}: {why}" for (path, place), why in found.closed.items()
        ]
        lines += [f"left: {hit.path} {hit.place}: {hit.token}".strip() for hit in found.hits]
        lines += [
            f"look at {path}: it has a word that is such a PatientID"
            for path in self.look_at[:MOST_SHOWN]
        ]
        if len(self.look_at) > MOST_SHOWN:
            lines.append(f"look at {len(self.look_at) - MOST_SHOWN} more files that have one")
        if found.hits or self.undone:
            return lines
        but = f", but look at {number_of(len(self.look_at), 'file')}" if self.look_at else ""
        return [*lines, f"nothing that names the patients is left{but}"]

    def _of_archives(self) -> list[str]:
        """Say what became of objects in the PACS."""
        counts = Counter(each.to for each in self.deleted)
        lines = [
            f"deleted in the PACS {to}, which lists none of them: {number_of(count, 'object')}"
            for to, count in sorted(counts.items())
        ]
        lines += [f"still in the PACS {e.to}: {e.sop_uid}: {why}" for e, why in self.undone.items()]
        return lines + [
            f"sent to the PACS {each.to}, have it deleted there: {each.sop_uid}"
            for each in self.published
            if each.acknowledged and each not in self.deleted and each not in self.undone
        ]

    def check(self) -> None:
        """Check that the erasure has ended.

        Raises:
            StageError: something is left, here or in a PACS.
        """
        if self.found.hits:
            raise StageError(
                f"{len(self.found.hits)} places still name the patients: see above. Remove these "
                "files or what names the patients in them, and run the same command again."
            )
        if self.undone:
            raise StageError(
                f"still in a PACS: {number_of(len(self.undone), 'object')} of the patients, see "
                "above. Have its administrator let jipflow delete there, correct deletion of the "
                "source, or have them deleted by hand, and run the same command again."
            )
