"""A person approves a candidate release, and what was approved is packed."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from jipflow import __version__
from jipflow.exchange import keys, message
from jipflow.exchange.message import PAGE, Manifest, checked
from jipflow.files import atomic_path, read_json, write_json
from jipflow.release.behind import Behind, read_behind
from jipflow.release.contents import Release, ReleaseError, read_built, read_page, read_release
from jipflow.release.ledger import Ledger
from jipflow.settings.part import Part
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import Settings

NAME = "approval.json"
"""The file beside those that it approves."""


class Approval(Part):
    """A person's consent that exactly these files leave the site; stays beside them."""

    manifest: Manifest
    """The manifest that the bundle will carry."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    """The approver's signature of the canonical manifest."""


def approve(
    *,
    release_dir: Path,
    name: str,
    key_file: Path,
    attempt: int = 1,
    empty: bool = False,
    now: datetime | None = None,
) -> Approval:
    """Record a person's approval of a candidate release in ``approval.json``.

    The person signs the very manifest that the bundle will carry: the hash of each file and of the
    page that shows them, the protocol, the sender and the recipient. An approval that is there is
    left as it is where it says the same, and is never replaced by one of the same attempt.

    Args:
        release_dir: folder of the candidate.
        name: the approver's name, as the hub's roster has it; it leaves the site.
        key_file: the approver's private key.
        attempt: counts what the site sends in this round; the hub takes the latest.
        empty: approve it although no cell leaves.
        now: time of the approval, the clock's by default.

    Returns:
        The approval that holds.

    Raises:
        ReleaseError: there is no candidate, its files or its page do not belong together, no cell
            leaves, or something else was approved as this attempt.
        KeyFault: the key is missing or open to others.
        ConfigError: the name or the attempt is none.
    """
    release = read_release(release_dir)
    page = read_page(release_dir, release)
    header = release.disclosure
    if not header.summary.released and not empty:
        raise ReleaseError(
            f"No cell would leave; {release_dir / PAGE} says why. To tell the hub so, approve it "
            "with --empty."
        )
    key = keys.load_key(key_file)
    issued = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    content = {
        "format": message.FORMAT,
        "protocol": header.protocol.plain(),
        "version": header.version,
        "round": header.round,
        "attempt": attempt,
        "sender": header.site,
        "recipient": header.recipient,
        "approver": {"name": name, "key": keys.public_text(key)},
        "issued": issued,
        "files": {file: message.describe(data).plain() for file, data in release.files.items()},
        "page": page.plain(),
    }
    manifest = checked(Manifest, content, "approval")
    earlier = _earlier(release_dir)
    if earlier is not None:
        if earlier.manifest == manifest.model_copy(update={"issued": earlier.manifest.issued}):
            return earlier
        _check_later(manifest, earlier.manifest)
    approval = Approval(
        manifest=manifest, signature=keys.sign(key, message.canonical(manifest.plain()))
    )
    write_json(release_dir / NAME, approval.plain())
    return approval


def _earlier(release_dir: Path) -> Approval | None:
    """Return the approval that is there, whatever it is of; None where none was signed."""
    try:
        approval = checked(Approval, read_json(release_dir / NAME), NAME)
    except (FileNotFoundError, ValueError, ConfigError):
        return None
    return approval if _is_signed(approval) else None


def next_attempt(release_dir: Path) -> int:
    """Return the first attempt that nobody has approved in a release's folder."""
    earlier = _earlier(release_dir)
    return earlier.manifest.attempt + 1 if earlier else 1


def _check_later(manifest: Manifest, earlier: Manifest) -> None:
    """Refuse to replace an approval by one of the same attempt or one before.

    The hub may have its bundle already, and takes no other of that attempt. It counts the attempts
    of each text of the protocol by itself.
    """
    same = all(
        getattr(manifest, key) == getattr(earlier, key)
        for key in ("protocol", "round", "sender", "recipient")
    )
    if same and manifest.attempt <= earlier.attempt:
        raise ReleaseError(
            f"{earlier.approver.name} approved attempt {earlier.attempt} on {earlier.issued}, of "
            f"other files or as another person; approve this one with --attempt "
            f"{earlier.attempt + 1}."
        )


def read_approval(release_dir: Path) -> Approval:
    """Read an approval and check that it holds for the files and the page as they are now.

    Raises:
        ReleaseError: nobody approved, something was changed since, or the signature is wrong.
    """
    return _read_approved(release_dir)[0]


def _read_approved(release_dir: Path) -> tuple[Approval, Release]:
    """Return a valid approval and the very release that was checked against it."""
    release = read_release(release_dir)
    path = release_dir / NAME
    if not path.is_file():
        raise ReleaseError(
            f"Nobody has approved this release. Read {release_dir / PAGE}, then: "
            f"jipflow release approve {release_dir} --name NAME --key FILE"
        )
    try:
        content = read_json(path)
    except ValueError:
        raise ReleaseError(f"{path} is not JSON any more; approve again.") from None
    try:
        approval = checked(Approval, content, str(path))
    except ConfigError as error:
        first = str(error).removeprefix(f"{path}: ").partition("\n")[0]
        raise ReleaseError(
            f"{path} has another form than jipflow {__version__} writes ({first}); approve again: "
            f"remove it, read {release_dir / PAGE}, then: jipflow release approve {release_dir} "
            "--name NAME --key FILE"
        ) from None
    manifest = approval.manifest
    page = release_dir / PAGE
    shown = page.read_bytes() if page.is_file() else b""
    found = {name: message.describe(data) for name, data in (*release.files.items(), (PAGE, shown))}
    for name, entry in manifest.signed().items():
        if entry != found[name]:
            raise ReleaseError(
                f"{release_dir / name} was changed after {manifest.approver.name} approved "
                "it; look at it again and approve again."
            )
    if not _is_signed(approval):
        raise ReleaseError(f"{path} was changed after it was signed; approve again.")
    return approval, release


def _is_signed(approval: Approval) -> bool:
    """Return whether an approval is signed by the key that it names."""
    manifest = approval.manifest
    return keys.verifies(
        manifest.approver.key, approval.signature, message.canonical(manifest.plain())
    )


def approved_bundle(settings: Settings, release_dir: Path, out_dir: Path) -> Path:
    """Return where the bundle of a release belongs; its name holds the attempt approved last.

    Args:
        settings: of the run.
        release_dir: folder of the release; without an approval its attempt is the first.
        out_dir: folder for the bundle.
    """
    attempt = 1
    with suppress(OSError, ValueError, KeyError, TypeError):
        attempt = int(read_json(release_dir / NAME)["manifest"]["attempt"])
    site = settings.site.site.id
    return out_dir / message.bundle_name(settings.protocol_id, site, message.ROUND, attempt)


def bundle(
    *, settings: Settings, release_dir: Path, behind_dir: Path, ledger: Ledger, out_dir: Path
) -> Path:
    """Write the bundle of an approved release, after its entry in the site's ledger.

    Args:
        settings: of the run; its ``identity.signing_key_file`` is made on first use.
        release_dir: folder of the release.
        behind_dir: folder of what stands behind it.
        ledger: of the site.
        out_dir: folder for the bundle.

    Returns:
        The bundle, ``<protocol>-<site>-r<round>-a<attempt>.zip``.

    Raises:
        ReleaseError: it is not approved, was changed since, belongs to other settings, or was built
            before another release that has been packed since.
        LedgerFault: what left before is not known.
    """
    approval, release = _read_approved(release_dir)
    _check_settings(approval.manifest, settings, release_dir)
    key = keys.load_or_create_key(Path(settings.site.identity.signing_key_file))
    signed = message.canonical(approval.manifest.plain())
    signatures = message.Signatures(site=keys.sign(key, signed), approver=approval.signature)
    members = {"manifest.json": signed, "signatures.json": message.canonical(signatures.plain())}
    members |= {str(name): data for name, data in release.files.items()}
    for name, data in release.files.items():
        if len(data) > message.LIMITS[name]:
            raise ReleaseError(
                f"{release_dir / name} has {len(data)} bytes, a bundle takes at most "
                f"{message.LIMITS[name]}; ask for fewer features in the protocol's analyses."
            )
    raw = message.pack(members)
    behind = _read_behind(release_dir, behind_dir)
    _check_ledger(ledger, approval.manifest, release_dir)
    ledger.append(approval.manifest, raw, behind)
    path = approved_bundle(settings, release_dir, out_dir)
    with atomic_path(path) as partial:
        partial.write_bytes(raw)
    return path


def _read_behind(release_dir: Path, behind_dir: Path) -> Behind:
    """Read what stands behind a release, as it was built."""
    again = f"build the release again: remove {release_dir / PAGE} and run the workflow."
    try:
        behind = read_behind(behind_dir)
    except FileNotFoundError as error:
        raise ReleaseError(f"{error.filename} is missing; {again}") from None
    if behind.described() != read_built(release_dir).behind:
        raise ReleaseError(f"{behind_dir} is not what stands behind {release_dir}; {again}")
    return behind


def _check_ledger(ledger: Ledger, manifest: Manifest, release_dir: Path) -> None:
    """Refuse a release that was built before others that have been packed since.

    The same numbers may be packed again, as another attempt: they tell nothing new.
    """
    seen = set(read_built(release_dir).entries)
    for kept in ledger.entries():
        since = kept.entry.release if kept.sha256 not in seen else None
        if since is not None and since.manifest.files != manifest.files:
            raise ReleaseError(
                f"A release of {since.manifest.protocol.id}, attempt {since.manifest.attempt}, was "
                f"packed after {release_dir} was built, and the two were not compared; build it "
                f"again: remove {release_dir / PAGE} and run the workflow."
            )


def _check_settings(manifest: Manifest, settings: Settings, release_dir: Path) -> None:
    """Check that a release was built for the settings that the run has now."""
    expected = {
        "sender": (manifest.sender, settings.site.site.id),
        "recipient": (manifest.recipient, settings.site.hub.id),
        "version": (manifest.version, settings.version),
        "protocol": (manifest.protocol.sha256, settings.protocol_sha256),
    }
    for what, (found, now) in expected.items():
        if found != now:
            raise ReleaseError(
                f"{release_dir} was built for another {what} ({found}) than the settings "
                f"name now ({now}); build and approve it again."
            )
