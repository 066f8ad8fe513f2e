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


LedgerFolder = Annotated[Path, "the ledger: identity.ledger_folder of the site"]
AllResults = Annotated[Path, "folder for the results of all protocols"]
Secret = Annotated[Path, "the site's secret: identity.secret_file"]


@AUDIENCE.command("ledger show")
def ledger_show(ledger: LedgerFolder, *, results: AllResults, secret: Secret) -> None:
    """Check the site's ledger and print what left, a line an entry."""
    from jipflow.privacy.pseudonyms import known_secret
    from jipflow.release.ledger import Ledger

    known = Ledger(ledger, known_secret(secret), results)
    for kept in known.entries():
        print(kept.line())
    draws = known.draws.check()
    if draws:
        print(f"noise that was drawn: {draws} cells")


@AUDIENCE.command("ledger resume")
def ledger_resume(
    ledger: LedgerFolder,
    *,
    results: AllResults,
    secret: Secret,
    name: Annotated[str, "your name"],
    key: Annotated[Path, "your private key"],
    because: Annotated[str, "what has happened, and why the ledger may go on"],
) -> None:
    """Let a ledger that is lost or damaged go on, in writing.

    From what left before and is lost now, the gate cannot protect any more.
    """
    from jipflow.privacy.pseudonyms import known_secret
    from jipflow.release.ledger import Ledger

    kept = Ledger(ledger, known_secret(secret), results)
    resumption = kept.resume(name=name, key_file=key, reason=because)
    print(f"the ledger {ledger} goes on by the word of {resumption.person.name}")
    print(f"what was wrong: {resumption.found}")


@AUDIENCE.command("release review")
def release_review(
    release: Annotated[Path, "folder of the release, such as release/r01"],
    *,
    open: Annotated[bool, "open the page in a browser"] = False,
) -> None:
    """Write the page that a person reads before approving, and print it in short."""
    import webbrowser

    from jipflow.report.release import PAGE, write_release_page

    found = write_release_page(release, release.absolute().parents[1] / "bundles")
    page = (release / PAGE).absolute()
    print(f"the release {found.progress.state.value}")
    for sentence in found.sentences():
        print(f"- {sentence}")
    print(f"page: {page}")
    if open and not webbrowser.open(page.as_uri()):
        print("no browser was found; open the page yourself")


@AUDIENCE.command("release approve")
def release_approve(
    release: Annotated[Path, "folder of the release, such as release/r01"],
    *,
    name: Annotated[str, "your name, as the hub's roster has it"],
    key: Annotated[Path, "your private key"],
    rounds: Annotated[int, "the last round it holds for; 0 is this one"] = 0,
    until: Annotated[str, "its last day, as 2027-01-31; needed for later rounds"] = "",
    empty: Annotated[bool, "approve it although no cell leaves"] = False,
) -> None:
    """Approve a release as a person.

    Later rounds of the same cells of the same patients may be approved with it.
    """
    from jipflow.release.approval import NAME, approve
    from jipflow.release.contents import read_release
    from jipflow.release.terms import read_terms
    from jipflow.report.release import write_release_page
    from jipflow.report.review import terms_lines

    signed = approve(
        release_dir=release,
        name=name,
        key_file=key,
        rounds=rounds or None,
        until=until or None,
        empty=empty,
    )
    write_release_page(release, release.absolute().parents[1] / "bundles")
    summary = read_release(release).disclosure.summary
    print(f"approved: {release / NAME}, with {summary.released} of {summary.cells} cells")
    for line in terms_lines(signed, read_terms(release).approvers):
        print(line)
