"""What the person calls who answers for what leaves a site: keys and approvals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jipflow.cli.command import Audience

AUDIENCE = Audience("To sign and approve what leaves a site")


@AUDIENCE.command("keys new")
def keys_new(key: Annotated[Path, "file of the private key that is made"]) -> None:
    """Make a private key and print its public key."""
    from jipflow.exchange.keys import new_key

    print(new_key(key))


@AUDIENCE.command("keys show")
def keys_show(key: Annotated[Path, "file of a private key"]) -> None:
    """Print the public key of a private key."""
    from jipflow.exchange.keys import load_key, public_text

    print(public_text(load_key(key)))


@AUDIENCE.command("release approve")
def release_approve(
    release: Annotated[Path, "folder of the release, such as release/r01"],
    *,
    name: Annotated[str, "your name, as the hub's roster has it"],
    key: Annotated[Path, "your private key"],
    attempt: Annotated[int, "counts what the site sends in this round"] = 1,
    empty: Annotated[bool, "approve it although no cell leaves"] = False,
) -> None:
    """Approve a release as a person."""
    from jipflow.release.approval import NAME, approve
    from jipflow.release.contents import read_release
    from jipflow.report.release import write_release_page

    approval = approve(release_dir=release, name=name, key_file=key, attempt=attempt, empty=empty)
    write_release_page(release, release.absolute().parents[1] / "bundles")
    manifest, summary = approval.manifest, read_release(release).disclosure.summary
    print(
        f"approved: {release / NAME}, with {summary.released} of {summary.cells} cells, as attempt "
        f"{manifest.attempt} by {manifest.approver.name} on {manifest.issued}"
    )
    for file, entry in manifest.signed().items():
        print(f"SHA-256 of {file}: {entry.sha256}")
    print("pack it with: snakemake bundle ...")
