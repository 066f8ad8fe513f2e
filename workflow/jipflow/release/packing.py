"""What a person has approved is packed into a message to the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jipflow.exchange import keys, message
from jipflow.exchange.message import PAGE, FileEntry, Manifest, ProtocolVersion
from jipflow.exchange.sealing import SUFFIX, seal
from jipflow.files import atomic_path, canonical_digest, read_json, sha256_file, write_json
from jipflow.privacy.audit.trail import site_trail
from jipflow.reasons import StageError
from jipflow.release.audited import record_ledger
from jipflow.release.behind import Behind, read_behind
from jipflow.release.contents import Release, ReleaseError, read_built, read_release
from jipflow.release.cover import approvals_for, check_not_revoked
from jipflow.release.ledger import Kept, Ledger, Packed, site_ledger
from jipflow.release.revocation import revoked_in
from jipflow.release.rounds import Standing
from jipflow.release.terms import Terms, read_terms
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import Settings


@dataclass(frozen=True)
class Folders:
    """Where a release of a round lies.

    Attributes:
        release: the candidate.
        behind: what stands behind it.
        bundles: what was packed.
        outbox: what is sent.
    """

    release: Path
    behind: Path
    bundles: Path
    outbox: Path

    @classmethod
    def of(cls, settings: Settings, results: Path, round_: int) -> Folders:
        """Return the folders of a round.

        Args:
            settings: of the run.
            results: of the protocol.
            round_: the round.
        """
        _, outbox = settings.site.exchange.folders(results.parent)
        name = f"r{round_:02d}"
        return cls(
            results / "release" / name, results / "behind" / name, results / "bundles", outbox
        )


def packed_state(settings: Settings, results: Path) -> str:
    """Return the hash of what decides on what is packed, beside settings and release.

    Args:
        settings: of the run.
        results: of the protocol.
    """
    _, outbox = settings.site.exchange.folders(results.parent)
    stem = f"{settings.protocol_id}-{settings.site.site.id}-r"
    files = [*results.glob("release/r*/approval.json"), results / "rounds" / "standing.json"]
    return canonical_digest(
        [
            {str(p.relative_to(results)): sha256_file(p) for p in sorted(files) if p.is_file()},
            sorted((p.name, p.stat().st_size) for p in outbox.glob(f"{stem}*{SUFFIX}")),
            sorted(path.name for path in (results / "bundles").glob(f"{stem}*.zip")),
            sorted(revoked_in(Path(settings.site.identity.audit_file))),
        ]
    )


def packed_in(packed: Sequence[Packed], protocol: ProtocolVersion) -> dict[int, list[Packed]]:
    """Return what was packed for a text of a protocol, by round, each in its order."""
    found: dict[int, list[Packed]] = {}
    for entry in packed:
        if entry.manifest.protocol == protocol:
            found.setdefault(entry.manifest.round, []).append(entry)
    return found


def bundle(
    *,
    settings: Settings,
    standing: Standing,
    ledger: Ledger,
    folders: Folders,
    now: datetime | None = None,
) -> Path:
    """Pack an approved release, after its entries in ledger and audit trail, and seal it.

    The same release is packed once for each roster and each message of the hub: called
    again, this seals the same message again if it is no longer in the outbox, or was sealed to
    another key than the hub has now.

    Args:
        settings: of the run; its ``identity.signing_key_file`` is made on first use.
        standing: of the site in its thread with the hub.
        ledger: of the site.
        folders: of the release.
        now: the time, the clock's by default.

    Returns:
        The message before it was sealed, ``<protocol>-<site>-r<round>-a<attempt>.zip``.

    Raises:
        ReleaseError: it is not approved, was changed since, belongs to other settings or another
            round, was built before another release that has been packed since, or the hub has not
            opened a round, has ended it, or does not have this site on its roster.
        LedgerFault: what left before is not known.
        TrailFault: the site's audit trail is not as it was written.
    """
    release = read_release(folders.release)
    _check_settings(release, settings, folders.release)
    hub_key, key = _check_standing(release, standing, settings)
    behind = _read_behind(folders)
    entries = ledger.entries()
    trail = site_trail(settings, ledger.results)
    record_ledger(trail, entries)
    signed = approvals_for(
        release_dir=folders.release,
        terms=Terms.of(settings),
        candidate=behind.past(),
        entries=entries,
        revoked=revoked_in(trail.path),
        now=now,
    )
    files = {str(name): data for name, data in release.files.items()}
    files["approvals.json"] = message.canonical([each.plain() for each in signed])
    _check_sizes(files, folders.release)
    packed = [kept.entry.release for kept in entries if kept.entry.release]
    manifest = _manifest(release, files, standing, settings, packed, folders, now)
    raw = message.pack(manifest, key, {name: files[name] for name in message.FILES["release"]})
    _check_ledger(entries, manifest, folders.release)
    ledger.append(manifest, signed, raw, behind, trail.last())
    record_ledger(trail, ledger.entries())
    # A person may have taken it back meanwhile, and the ledger answered that it has left.
    check_not_revoked(folders.release, signed, revoked_in(trail.path))
    name = message.bundle_name(
        manifest.protocol.id, manifest.sender, manifest.round, manifest.attempt
    )
    path = folders.bundles / name
    with atomic_path(path) as partial:
        partial.write_bytes(raw)
    _seal(raw, hub_key, (folders.outbox / name).with_suffix(SUFFIX), folders.bundles)
    return path


def _seal(raw: bytes, hub_key: str, path: Path, bundles: Path) -> None:
    """Seal a message into the outbox, unless it lies there as it was sealed to this very key."""
    note = bundles / f"{path.stem}.sealed.json"
    try:
        known = read_json(note)
    except (FileNotFoundError, ValueError):
        known = None
    if path.is_file() and known == {"key": hub_key, "sha256": sha256_file(path)}:
        return
    with atomic_path(path) as partial:
        partial.write_bytes(seal(raw, hub_key))
        # Whoever carries it may have another account, and reads nothing of what is sealed.
        partial.chmod(0o644)
    write_json(note, {"key": hub_key, "sha256": sha256_file(path)})


def why_not_approved(settings: Settings, results: Path, round_: int) -> str:
    """Return why a release may not be packed for want of a person's approval; empty if it may.

    Args:
        settings: of the run.
        results: of the protocol.
        round_: of the release.
    """
    folders = Folders.of(settings, results, round_)
    try:
        approvals_for(
            release_dir=folders.release,
            terms=Terms.of(settings),
            candidate=_read_behind(folders).past(),
            entries=site_ledger(settings, results.parent).entries(),
            revoked=revoked_in(Path(settings.site.identity.audit_file)),
        )
    except (StageError, ConfigError) as error:
        return str(error)
    return ""


def _manifest(
    release: Release,
    files: dict[str, bytes],
    standing: Standing,
    settings: Settings,
    packed: Sequence[Packed],
    folders: Folders,
    now: datetime | None,
) -> Manifest:
    """Return the manifest of a release: that of its ledger entry, or that of a new attempt."""
    assert standing.roster is not None
    header = release.disclosure
    earlier = packed_in(packed, header.protocol).get(header.round, [])
    described = {name: message.describe(files[name]) for name in message.FILES["release"]}
    attempts = [entry.manifest.attempt for entry in earlier]
    # A ledger that a person let go on may have lost entries of what the hub has.
    attempts += _attempts(folders, header.protocol.id, header.site, header.round)
    attempt = max(attempts, default=0) + 1
    manifest = Manifest(
        format=message.FORMAT,
        kind="release",
        protocol=header.protocol,
        version=settings.version,
        round=header.round,
        attempt=min(attempt, message.MOST_ATTEMPTS),
        sender=header.site,
        recipient=header.recipient,
        previous=standing.previous,
        roster=standing.roster.sha256,
        issued=message.now_text(now),
        files=described,
    )
    own = {"attempt", "issued"}
    if earlier and earlier[-1].manifest.model_dump(exclude=own) == manifest.model_dump(exclude=own):
        return earlier[-1].manifest
    if attempt > message.MOST_ATTEMPTS:
        raise ReleaseError(
            f"Attempt {attempt - 1} of round {header.round} is the last that there may be, and one "
            f"lies in {folders.bundles} or {folders.outbox}. If this site has not packed it, move "
            "that file away and run the workflow; else the hub ends these rounds."
        )
    return manifest


def _attempts(folders: Folders, protocol: str, site: str, round_: int) -> list[int]:
    """Return the attempts of a round of which a file lies in the folders."""
    name = re.compile(
        rf"{re.escape(f'{protocol}-{site}-r{round_:02d}')}-a([0-9]{{1,3}})\.(zip|age)"
    )
    paths = [*folders.bundles.glob("*.zip"), *folders.outbox.glob(f"*{SUFFIX}")]
    return [int(found[1]) for found in map(name.fullmatch, (p.name for p in paths)) if found]


def _check_standing(
    release: Release, standing: Standing, settings: Settings
) -> tuple[str, keys.Ed25519PrivateKey]:
    """Check that the hub awaits this release; return its key and the site's own."""
    hub_key = settings.site.hub.key
    if hub_key is None:
        raise ReleaseError(
            "site.yaml names no key of the hub, so nothing can be sealed to it; ask for what "
            "`jipflow keys show` prints there, and write it as hub.key."
        )
    if standing.roster is None:
        raise ReleaseError(
            f"No message of the hub {standing.hub!r} has come that opens a round; put it into the "
            "inbox (exchange.inbox in site.yaml) and run the workflow."
        )
    if standing.ended is not None:
        raise ReleaseError(f"The hub has ended the rounds of this protocol: {standing.ended}")
    if release.disclosure.round != standing.round:
        raise ReleaseError(
            f"The release is of round {release.disclosure.round}, and round {standing.round} is "
            "open; run the workflow."
        )
    key = keys.load_or_create_key(Path(settings.site.identity.signing_key_file))
    own = standing.roster.keys().get(settings.site.site.id)
    if own is None:
        raise ReleaseError(
            f"This site is not on roster {standing.roster.number} of the hub, which gives as the "
            f"reason: {standing.roster.because or 'none'}"
        )
    if own != keys.public_text(key):
        raise ReleaseError(
            f"The hub's roster {standing.roster.number} has another key for this site than "
            f"{settings.site.identity.signing_key_file} is: it has {own}, the file "
            f"{keys.public_text(key)}. Tell the hub, or restore the file."
        )
    return hub_key, key


def _check_sizes(files: dict[str, bytes], release_dir: Path) -> None:
    for name, data in files.items():
        if len(data) > message.LIMITS[name]:
            raise ReleaseError(
                f"{release_dir / name} has {len(data)} bytes, a message takes at most "
                f"{message.LIMITS[name]}; ask for fewer features in the protocol's analyses."
            )


def _read_behind(folders: Folders) -> Behind:
    """Read what stands behind a release, as it was built."""
    again = f"build the release again: remove {folders.release / PAGE} and run the workflow."
    try:
        behind = read_behind(folders.behind)
    except FileNotFoundError as error:
        raise ReleaseError(f"{error.filename} is missing; {again}") from None
    if behind.described() != read_built(folders.release).behind:
        raise ReleaseError(f"{folders.behind} is not what stands behind {folders.release}; {again}")
    return behind


def _numbers(manifest: Manifest) -> dict[str, FileEntry]:
    return {name: manifest.files[name] for name in message.CONTENT}


def _check_ledger(entries: Sequence[Kept], manifest: Manifest, release_dir: Path) -> None:
    """Refuse a release that was built before others that have been packed since.

    The same numbers may be packed again, as another attempt: they tell nothing new.
    """
    seen = set(read_built(release_dir).entries)
    for kept in entries:
        since = kept.entry.release if kept.sha256 not in seen else None
        if since is not None and _numbers(since.manifest) != _numbers(manifest):
            raise ReleaseError(
                f"A release of {since.manifest.protocol.id}, attempt {since.manifest.attempt}, was "
                f"packed after {release_dir} was built, and the two were not compared; build it "
                f"again: remove {release_dir / PAGE} and run the workflow."
            )


def _check_settings(release: Release, settings: Settings, release_dir: Path) -> None:
    """Check that a release was built for the settings that the run has now."""
    header = release.disclosure
    expected = {
        "site": (header.site, settings.site.site.id),
        "hub": (header.recipient, settings.site.hub.id),
        "version": (header.version, settings.version),
        "protocol": (header.protocol.sha256, settings.protocol_sha256),
        "text of the analyses": (read_terms(release_dir).analyses, Terms.of(settings).analyses),
    }
    for what, (found, now) in expected.items():
        if found != now:
            raise ReleaseError(
                f"{release_dir} was built for another {what} ({found}) than the settings "
                f"name now ({now}); build and approve it again."
            )
