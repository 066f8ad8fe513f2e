"""A release packed at a site to which its hub has opened the round."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from jipflow.exchange import keys
from jipflow.exchange.roster import first_roster
from jipflow.release.contents import protocol_text, read_release
from jipflow.release.ledger import Ledger
from jipflow.release.packing import Folders, bundle
from jipflow.release.rounds import Standing
from jipflow.settings.hub import Approver, Member
from jipflow.settings.run import Settings

HUB = keys.public_text(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
LAST = "1" * 64
"""Hash of the hub's last message."""


def packed(
    settings: Settings,
    *,
    release: Path,
    behind: Path,
    ledger: Ledger,
    bundles: Path,
    now: datetime | None = None,
) -> Path:
    """Pack a release of the round that it is of, and return the message as it was signed."""
    hub = settings.site.hub.model_copy(update={"key": HUB})
    known = settings.model_copy(
        update={"site": settings.site.model_copy(update={"hub": hub})},
    )
    own = keys.public_text(keys.load_or_create_key(Path(settings.site.identity.signing_key_file)))
    member = Member(
        site=settings.site.site.id, key=own, approvers=[Approver(name="Ada Roe", key=HUB)]
    )
    standing = Standing(
        hub=hub.id,
        protocol=protocol_text(settings),
        round=read_release(release).disclosure.round,
        previous=LAST,
        roster=first_roster(hub.id, [member], "2026-11-01T12:00:00Z"),
    )
    folders = Folders(release, behind, bundles, bundles.parent / "outbox")
    return bundle(settings=known, standing=standing, ledger=ledger, folders=folders, now=now)
