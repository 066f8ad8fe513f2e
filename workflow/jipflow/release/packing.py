"""What persons approved is signed by the site's machine and packed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jipflow.exchange import keys, message
from jipflow.exchange.message import PAGE, Manifest, checked
from jipflow.files import atomic_path
from jipflow.release.approval import NAME, Signed, read_approved, signed_list
from jipflow.release.behind import Behind, read_behind
from jipflow.release.contents import Header, Release, ReleaseError, read_built
from jipflow.release.ledger import Ledger
from jipflow.release.sent import Sent, next_attempt, sent_before
from jipflow.release.terms import analyses_sha256
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import Settings


def approved_bundle(settings: Settings, release_dir: Path, out_dir: Path) -> Path:
    """Return where the bundle of a release belongs.

    Its name holds the attempt: the one in which these very statements were packed before, or the
    next.

    Args:
        settings: of the run.
        release_dir: folder of the release.
        out_dir: folder for the bundle.
    """
    try:
        data = _approvals((release_dir / NAME).read_bytes())
    except (OSError, ValueError, ConfigError):
        data = b""
    site = settings.site.site.id
    attempt = _attempt(data, sent_before(out_dir, settings.protocol_id, site, message.ROUND))
    return out_dir / message.bundle_name(settings.protocol_id, site, message.ROUND, attempt)


def _approvals(data: bytes) -> bytes:
    """Return the member of a bundle that says what an ``approval.json`` does."""
    signed = signed_list(json.loads(data), NAME)
    return message.canonical([each.plain() for each in signed])


def _attempt(approvals: bytes, sent: Sequence[Sent]) -> int:
    """Return the attempt in which statements were packed, or the next."""
    described = message.describe(approvals).plain()
    for bundle in sent:
        if bundle.manifest and bundle.manifest["files"]["approvals.json"] == described:
            return bundle.attempt
    return next_attempt(sent)


def bundle(
    *,
    settings: Settings,
    release_dir: Path,
    behind_dir: Path,
    ledger: Ledger,
    out_dir: Path,
    attempt: int | None = None,
) -> Path:
    """Write the bundle of an approved release, after its entry in the site's ledger.

    Args:
        settings: of the run; its ``identity.signing_key_file`` is made on first use.
        release_dir: folder of the release.
        behind_dir: folder of what stands behind it.
        ledger: of the site.
        out_dir: folder for the bundle.
        attempt: counts what the site sends in this round; by default as by `approved_bundle`.

    Returns:
        The bundle, ``<protocol>-<site>-r<round>-a<attempt>.zip``.

    Raises:
        ReleaseError: it is not approved, was changed since, belongs to other settings, or was built
            before another release that has been packed since.
        LedgerFault: what left before is not known.
    """
    release, signed = read_approved(release_dir, settings.site.disclosure.approvers)
    _check_settings(release.disclosure, signed, settings, release_dir)
    header = release.disclosure
    approvals = message.canonical([each.plain() for each in signed])
    files: dict[str, bytes] = {"approvals.json": approvals}
    files |= {str(name): data for name, data in release.files.items()}
    if attempt is None:
        sent = sent_before(out_dir, header.protocol.id, header.site, header.round)
        attempt = _attempt(approvals, sent)
    content = {
        "format": message.FORMAT,
        "protocol": header.protocol.plain(),
        "version": header.version,
        "round": header.round,
        "attempt": attempt,
        "sender": header.site,
        "recipient": header.recipient,
        "issued": max(each.statement.issued for each in signed),
        "files": {file: message.describe(data).plain() for file, data in files.items()},
    }
    manifest = checked(Manifest, content, "manifest")
    members = _members(manifest, files, settings)
    for name, data in release.files.items():
        if len(data) > message.LIMITS[name]:
            raise ReleaseError(
                f"{release_dir / name} has {len(data)} bytes, a bundle takes at most "
                f"{message.LIMITS[name]}; ask for fewer features in the protocol's analyses."
            )
    raw = message.pack(members)
    behind = _read_behind(release_dir, behind_dir)
    _check_ledger(ledger, release, release_dir)
    ledger.append(manifest, signed, raw, behind)
    path = out_dir / message.bundle_name(header.protocol.id, header.site, header.round, attempt)
    with atomic_path(path) as partial:
        partial.write_bytes(raw)
    return path


def _members(manifest: Manifest, files: dict[str, bytes], settings: Settings) -> dict[str, bytes]:
    """Return every member of a bundle, the manifest signed by the site's machine."""
    key = keys.load_or_create_key(Path(settings.site.identity.signing_key_file))
    signed = message.canonical(manifest.plain())
    signatures = message.Signatures(site=keys.sign(key, signed))
    return {
        "manifest.json": signed,
        "signatures.json": message.canonical(signatures.plain()),
        **files,
    }


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


def _check_ledger(ledger: Ledger, release: Release, release_dir: Path) -> None:
    """Refuse a release that was built before others that have been packed since.

    The same numbers may be packed again, as another attempt: they tell nothing new.
    """
    seen = set(read_built(release_dir).entries)
    ours = {name: message.describe(data) for name, data in release.files.items()}
    for kept in ledger.entries():
        since = kept.entry.release if kept.sha256 not in seen else None
        if since is not None and any(since.manifest.files[name] != ours[name] for name in ours):
            raise ReleaseError(
                f"A release of {since.manifest.protocol.id}, attempt {since.manifest.attempt}, was "
                f"packed after {release_dir} was built, and the two were not compared; build it "
                f"again: remove {release_dir / PAGE} and run the workflow."
            )


def _check_settings(
    header: Header, signed: Sequence[Signed], settings: Settings, release_dir: Path
) -> None:
    """Check that a release was built and approved for the settings that the run has now."""
    expected = {
        "sender": (header.site, settings.site.site.id),
        "recipient": (header.recipient, settings.site.hub.id),
        "version": (header.version, settings.version),
        "protocol": (header.protocol.sha256, settings.protocol_sha256),
    }
    now = analyses_sha256(settings.protocol)
    for each in signed:
        statement = each.statement
        expected |= {
            "approved sender": (statement.site, settings.site.site.id),
            "approved recipient": (statement.hub, settings.site.hub.id),
            "approved version": (statement.version, settings.version),
            "approved protocol": (statement.protocol.sha256, settings.protocol_sha256),
        }
        for name, sha256 in now.items():
            approved = statement.analyses.get(name)
            expected[f"text of analysis {name}"] = (approved.sha256 if approved else "none", sha256)
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise ReleaseError(
                f"{release_dir} was built for another {what} ({found}) than the settings "
                f"name now ({wanted}); build and approve it again."
            )
