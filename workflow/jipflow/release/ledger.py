"""The site's ledger: whose values stood behind every cell that ever left, entry chained to entry.

An entry is three files: what left and who approved it, the cells, and the values behind them. It
has the hash of the entry before it, and a seal that only the holder of the site's secret can make.
The results folder keeps the number and the hash of the last entry. An entry that is missing, or not
as it was written, stops every release, until a person says in writing that the ledger shall go on
(`resume`): from the releases that are lost the gate cannot protect any more.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from jipflow.exchange import keys
from jipflow.exchange.message import (
    FileEntry,
    Manifest,
    Sha256,
    canonical,
    checked,
    describe,
)
from jipflow.files import read_json, sha256_file, write_json
from jipflow.privacy.audit.lines import Anchor
from jipflow.privacy.private import alone_in, write_private
from jipflow.privacy.pseudonyms import fingerprint, known_secret
from jipflow.privacy.rights import check_private
from jipflow.reasons import StageError
from jipflow.release.approval import MOST_PERSONS, names_of
from jipflow.release.approval import Signed as Approval
from jipflow.release.behind import CELLS, VALUES, Behind, read_behind
from jipflow.release.draws import Draws
from jipflow.release.history import Past
from jipflow.settings.hub import Approver
from jipflow.settings.part import Maybe, Part
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import Settings

LAST = "ledger.json"
"""Name of the file of a results folder that says which entry of the ledger was the last."""

FIRST = "0" * 64
"""What the first entry has in place of the hash of the one before."""

ENTRY = re.compile(r"([0-9]{6})\.json")

Text = Annotated[str, Field(min_length=10, max_length=2000)]


class LedgerFault(StageError):
    """The ledger is not as the site left it; nothing is released."""


class Packed(Part):
    """A release that was packed."""

    manifest: Manifest
    approvals: Annotated[list[Approval], Field(min_length=1, max_length=MOST_PERSONS)]
    """What persons have stated about it, with their signatures."""
    bundle: Sha256
    """Hash of the bundle."""
    behind: dict[str, FileEntry]
    """The two files of what stands behind it."""


class Resumption(Part):
    """That the ledger goes on although it is not as it was: what a person has signed."""

    person: Approver
    reason: Text
    """What has happened and why the ledger may go on, in the person's words."""
    found: str
    """What was wrong with it."""
    entries: dict[str, Sha256]
    """Hash of each entry as it lies there, by the name of its file."""
    bundles: list[Sha256]
    """Hashes of the bundles that no entry is of."""


class Signed(Part):
    """A resumption with its signature."""

    resumption: Resumption
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    """By the person's key, of the canonical JSON."""


class Entry(Part):
    """One entry of the ledger."""

    format: Literal["jipflow-ledger-1"] = "jipflow-ledger-1"
    number: Annotated[int, Field(ge=1, le=999999)]
    previous: Sha256
    """Hash of the entry before."""
    written: str
    """Time (UTC)."""
    secret: Sha256
    """Fingerprint of the secret behind the pseudonyms."""
    release: Packed | None = None
    resumed: Signed | None = None
    audit: Maybe[Anchor] = None
    """The last line of the site's audit trail before it, where there was one."""


class Sealed(Part):
    """What the file of an entry holds."""

    entry: Entry
    seal: Sha256
    """HMAC-SHA256 (RFC 2104) of the entry's canonical JSON under the site's secret."""


@dataclass(frozen=True)
class Kept:
    """An entry as it was read.

    Attributes:
        entry: what it says.
        sha256: hash of its file.
        past: what left by it; None where it is of no release.
    """

    entry: Entry
    sha256: str
    past: Past | None

    def line(self) -> str:
        """Return the entry in a line, for a person."""
        entry = self.entry
        start = f"{entry.number:06d} {entry.written} "
        if entry.resumed is not None:
            resumption = entry.resumed.resumption
            return f"{start}resumed by {resumption.person.name}: {resumption.reason}"
        assert entry.release is not None
        assert self.past is not None
        manifest = entry.release.manifest
        return (
            f"{start}{manifest.protocol.id} {manifest.protocol.version} to {manifest.recipient}, "
            f"round {manifest.round}, attempt {manifest.attempt}, {len(self.past.left)} cells, "
            f"approved by {names_of(entry.release.approvals)}"
        )


class Ledger:
    """The ledger of a site.

    Args:
        folder: of the entries; it need not be there.
        secret: of the site.
        results: folder for the results of all protocols, which says what the last entry was and
            has the bundles.

    Attributes:
        draws: noise that was drawn.
    """

    def __init__(self, folder: Path, secret: bytes, results: Path) -> None:
        self.folder = Path(folder)
        self.results = Path(results)
        self.draws = Draws(self.folder, secret)
        self._secret = secret

    def entries(self) -> list[Kept]:
        """Read every entry, from the first on.

        Raises:
            LedgerFault: one is missing, was changed, or is of another secret; or the results speak
                of an entry, or have a bundle, that the ledger does not know.
            StageError: others may read it.
            OSError: a file cannot be read.
        """
        check_private(self.folder, "the ledger")
        found = self._read()
        self._check_last()
        self._check_bundles(found)
        return found

    def packed(self) -> list[Packed]:
        """Return the releases that were packed, in their order."""
        return [kept.entry.release for kept in self.entries() if kept.entry.release]

    def append(
        self,
        manifest: Manifest,
        approvals: Sequence[Approval],
        bundle: bytes,
        behind: Behind,
        audit: Anchor | None = None,
    ) -> None:
        """Add a release, before its bundle is written; one that is there already is left as it is.

        Args:
            manifest: of the bundle.
            approvals: what persons have stated about it.
            bundle: its bytes.
            behind: what stands behind it.
            audit: the last line of the site's audit trail.

        Raises:
            LedgerFault: as by `entries`.
        """
        packed = Packed(
            manifest=manifest,
            approvals=list(approvals),
            bundle=describe(bundle).sha256,
            behind=behind.described(),
        )
        with self._alone():
            if packed not in self.packed():
                self._write(behind, release=packed, audit=audit)

    def resume(self, *, name: str, key_file: Path, reason: str) -> Resumption:
        """Let a ledger go on that is not as it was.

        Args:
            name: of the person who decides.
            key_file: the person's private key.
            reason: what has happened and why it may go on.

        Raises:
            StageError: nothing is wrong with it.
            ConfigError: name or reason is none.
        """
        with self._alone():
            try:
                self.entries()
            except LedgerFault as fault:
                found = str(fault)
            else:
                raise StageError(f"Nothing is wrong with the ledger {self.folder}.")
            key = keys.load_key(key_file)
            content = {
                "person": {"name": name, "key": keys.public_text(key)},
                "reason": reason,
                "found": found,
                "entries": {path.name: sha256_file(path) for path in self._files()},
                "bundles": sorted(self._unknown_bundles(self._read(strict=False))),
            }
            resumption = checked(Resumption, content, "resumption")
            signature = keys.sign(key, canonical(resumption.plain()))
            self._write(None, resumed=Signed(resumption=resumption, signature=signature))
        return resumption

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.json") if ENTRY.fullmatch(path.name))

    def _read(self, *, strict: bool = True) -> list[Kept]:
        """Read the entries; those that a resumption lets go are left out.

        Args:
            strict: refuse what is not as it was written; else leave it out.
        """
        files = self._files()
        accepted: dict[str, str] = {}
        start = 0
        for position, path in enumerate(files):
            resumed = self._resumption(path)
            if resumed is not None:
                accepted, start = resumed.entries, position
        found: list[Kept] = []
        previous = FIRST
        for position, path in enumerate(files):
            digest = sha256_file(path)
            forgiven = position < start and accepted.get(path.name) == digest
            try:
                kept = self._entry(path, digest)
                if not forgiven:
                    self._check_place(kept.entry, path, position, start, previous)
                found.append(kept)
            except LedgerFault:
                if strict and not forgiven:
                    raise
            previous = digest
        return found

    def _resumption(self, path: Path) -> Resumption | None:
        """Return what lets the ledger go on, where an entry is such a one, and is as it was."""
        try:
            entry = self._sealed(path)
        except LedgerFault:
            return None
        signed = entry.resumed
        if signed is None:
            return None
        message = canonical(signed.resumption.plain())
        if not keys.verifies(signed.resumption.person.key, signed.signature, message):
            return None
        return signed.resumption

    def _sealed(self, path: Path) -> Entry:
        """Read an entry and check its seal."""
        try:
            sealed = checked(Sealed, read_json(path), str(path))
        except (ValueError, ConfigError):
            raise self._fault(f"{path} is not as it was written") from None
        if not hmac.compare_digest(sealed.seal, self._seal(sealed.entry)):
            ours = sealed.entry.secret == fingerprint(self._secret)
            what = "was changed" if ours else "was written with another secret than the site's"
            raise self._fault(f"{path} {what}")
        return sealed.entry

    def _entry(self, path: Path, digest: str) -> Kept:
        """Read an entry with the files that belong to it."""
        entry = self._sealed(path)
        if entry.release is None:
            return Kept(entry, digest, None)
        try:
            behind = read_behind(self.folder, f"{path.stem}.")
        except FileNotFoundError as error:
            raise self._fault(f"{error.filename} is missing") from None
        if behind.described() != entry.release.behind:
            raise self._fault(f"what stands behind {path} was changed")
        return Kept(entry, digest, behind.past())

    def _check_place(
        self, entry: Entry, path: Path, position: int, start: int, previous: str
    ) -> None:
        """Check that an entry follows the one before it."""
        named = int(path.stem)
        resuming = position == start and entry.resumed is not None
        in_order = resuming or position == 0 or int(self._files()[position - 1].stem) == named - 1
        first = position > 0 or named == 1 or resuming
        if entry.number != named or not in_order or not first:
            raise self._fault(f"the entry before {path} is missing")
        if entry.previous != previous and not resuming:
            raise self._fault(f"{path} does not follow the entry before it")

    def _check_last(self) -> None:
        """Check that the last entry that the results speak of is there."""
        last = self._last()
        if last is None:
            return
        path = self.folder / f"{last[0]:06d}.json"
        if not path.is_file():
            raise self._fault(f"{path} is missing, which {self.results / LAST} speaks of")
        if sha256_file(path) != last[1]:
            raise self._fault(f"{path} is another one than {self.results / LAST} speaks of")

    def _last(self) -> tuple[int, str] | None:
        """Return number and hash of the last entry, as the results keep them."""
        try:
            content = read_json(self.results / LAST)
            return int(content["number"]), str(content["sha256"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise self._fault(f"{self.results / LAST} is damaged") from None

    def _check_bundles(self, entries: Sequence[Kept]) -> None:
        """Check that every bundle of the site's results has an entry."""
        unknown = self._unknown_bundles(entries)
        if unknown:
            path = min(unknown.values())
            raise self._fault(f"it has no entry of {path}, which was packed")

    def _unknown_bundles(self, entries: Sequence[Kept]) -> dict[str, Path]:
        """Return the bundles that no entry is of, by their hash."""
        known: set[str] = set()
        for kept in entries:
            if kept.entry.release:
                known.add(kept.entry.release.bundle)
            if kept.entry.resumed:
                known.update(kept.entry.resumed.resumption.bundles)
        packed = {sha256_file(path): path for path in self.results.glob("*/bundles/*.zip")}
        return {digest: path for digest, path in packed.items() if digest not in known}

    def _write(
        self,
        behind: Behind | None,
        *,
        release: Packed | None = None,
        resumed: Signed | None = None,
        audit: Anchor | None = None,
    ) -> None:
        """Write an entry: its files first, then itself, then what the results keep of it."""
        files = self._files()
        last = self._last_number()
        number = max([last, *(int(path.stem) for path in files)], default=0) + 1
        path = self.folder / f"{number:06d}.json"
        entry = Entry(
            number=number,
            previous=sha256_file(files[-1]) if files else FIRST,
            written=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            secret=fingerprint(self._secret),
            release=release,
            resumed=resumed,
        )
        if audit is not None:
            entry = entry.model_copy(update={"audit": audit})
        if behind is not None:
            for name, data in ((CELLS, behind.cells), (VALUES, behind.values)):
                write_private(path.with_suffix(f".{name}"), data)
        content = canonical(Sealed(entry=entry, seal=self._seal(entry)).plain())
        write_private(path, content)
        write_json(self.results / LAST, {"number": number, "sha256": describe(content).sha256})

    def _last_number(self) -> int:
        try:
            last = self._last()
        except LedgerFault:
            return 0
        return last[0] if last else 0

    def _seal(self, entry: Entry) -> str:
        return hmac.new(self._secret, canonical(entry.plain()), hashlib.sha256).hexdigest()

    def _alone(self) -> AbstractContextManager[None]:
        """Keep other writers off the ledger while the block runs."""
        return alone_in(self.folder)

    def _fault(self, what: str) -> LedgerFault:
        return LedgerFault(
            f"The ledger {self.folder} is not whole: {what}. Nothing is released, for what left "
            "before is not known. Restore the folder from its backup; if there is none, a person "
            "decides in writing with: jipflow ledger resume"
        )


def site_ledger(settings: Settings, results: Path) -> Ledger:
    """Return the ledger of a site.

    Args:
        settings: of a run, which has used the site's secret before.
        results: folder for the results of all protocols.

    Raises:
        StageError: the site's secret is missing or open to others.
    """
    identity = settings.site.identity
    return Ledger(Path(identity.ledger_folder), known_secret(Path(identity.secret_file)), results)
