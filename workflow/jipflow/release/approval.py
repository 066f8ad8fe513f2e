"""A person approves a candidate release, and what was approved is packed."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from jipflow.exchange import keys, message
from jipflow.exchange.message import Manifest, checked
from jipflow.files import atomic_path, read_json, write_json
from jipflow.release.contents import Release, ReleaseError, read_release
from jipflow.settings.part import Part
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
    *, release_dir: Path, name: str, key_file: Path, attempt: int = 1, now: datetime | None = None
) -> Approval:
    """Record a person's approval of a candidate release in ``approval.json``.

    The person signs the very manifest that the bundle will carry: the hash of each file, the
    protocol, the sender and the recipient.

    Args:
        release_dir: folder of the candidate.
        name: the approver's name, as the hub's roster has it; it leaves the site.
        key_file: the approver's private key.
        attempt: counts what the site sends in this round; the hub takes the latest.
        now: time of the approval, the clock's by default.

    Returns:
        The approval.

    Raises:
        ReleaseError: there is no candidate, or its two files do not belong together.
        KeyFault: the key is missing or open to others.
        ConfigError: the name or the attempt is none.
    """
    release = read_release(release_dir)
    header = release.disclosure
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
    }
    manifest = checked(Manifest, content, "approval")
    signature = keys.sign(key, message.canonical(manifest.plain()))
    approval = Approval(manifest=manifest, signature=signature)
    write_json(release_dir / NAME, approval.plain())
    return approval


def read_approval(release_dir: Path) -> Approval:
    """Read an approval and check that it holds for the files as they are now.

    Raises:
        ReleaseError: nobody approved, the files were changed since, or the signature is wrong.
    """
    return _read_approved(release_dir)[0]


def _read_approved(release_dir: Path) -> tuple[Approval, Release]:
    """Return a valid approval and the very release that was checked against it."""
    release = read_release(release_dir)
    path = release_dir / NAME
    if not path.is_file():
        raise ReleaseError(
            f"Nobody has approved this release. Read {release_dir / 'disclosure.html'}, then: "
            f"jipflow release approve {release_dir} --name NAME --key FILE"
        )
    try:
        content = read_json(path)
    except ValueError:
        raise ReleaseError(f"{path} is not JSON any more; approve again.") from None
    approval = checked(Approval, content, str(path))
    manifest = approval.manifest
    for name, data in release.files.items():
        if message.describe(data) != manifest.files[name]:
            raise ReleaseError(
                f"{release_dir / name} was changed after {manifest.approver.name} approved "
                "it; look at it again and approve again."
            )
    signed = message.canonical(manifest.plain())
    if not keys.verifies(manifest.approver.key, approval.signature, signed):
        raise ReleaseError(f"{path} was changed after it was signed; approve again.")
    return approval, release


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


def bundle(*, settings: Settings, release_dir: Path, out_dir: Path) -> Path:
    """Write the bundle of an approved release.

    Args:
        settings: of the run; its ``identity.signing_key_file`` is made on first use.
        release_dir: folder of the release.
        out_dir: folder for the bundle.

    Returns:
        The bundle, ``<protocol>-<site>-r<round>-a<attempt>.zip``.

    Raises:
        ReleaseError: it is not approved, was changed since, or belongs to other settings.
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
    path = approved_bundle(settings, release_dir, out_dir)
    with atomic_path(path) as partial:
        partial.write_bytes(message.pack(members))
    return path


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
