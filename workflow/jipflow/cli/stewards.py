"""What the person calls who answers for what leaves a site: keys, approvals, ledger and trail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jipflow.cli.audited import note_export
from jipflow.cli.command import REPEATED, Audience, UsageError
from jipflow.cli.rights import alone_with, rights_of

if TYPE_CHECKING:
    from jipflow.hub.settings import HubSettings
    from jipflow.privacy.audit.lines import Line
    from jipflow.release.ledger import Ledger
    from jipflow.release.revocation import Revoked
    from jipflow.report.audit import Examined

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
    with rights_of(results):
        resumption = kept.resume(name=name, key_file=key, reason=because)
    print(f"the ledger {ledger} goes on by the word of {resumption.person.name}")
    print(f"what was wrong: {resumption.found}")


TrailFile = Annotated[Path, "the audit trail: identity.audit_file of the site or hub"]
SiteKeys = Annotated[
    Sequence[str],
    "each public key that it has had, as `jipflow keys show` prints it, the present one last",
    REPEATED,
]
KeptBy = Annotated[
    Path | None, "folder for the results of all protocols, which knows the last line"
]
AlsoLedger = Annotated[Path | None, "the ledger, whose entries know lines; takes --secret as well"]
AlsoSecret = Annotated[Path | None, "the site's secret, without which the ledger cannot be read"]
OfHub = Annotated[Path | None, "hub.yaml, of a hub's trail: its results and messages are compared"]


@AUDIENCE.command("audit verify")
def audit_verify(
    trail: TrailFile,
    *,
    key: SiteKeys,
    results: KeptBy = None,
    ledger: AlsoLedger = None,
    secret: AlsoSecret = None,
    hub: OfHub = None,
) -> None:
    """Check the audit trail of a site or hub, and name the first line that is wrong."""
    found = _examined(trail, key, results, ledger, secret, hub)
    print("\n".join(found.sentences()))
    if found.fault is not None:
        raise found.fault


@AUDIENCE.command("audit page")
def audit_page(
    trail: TrailFile,
    out: Annotated[Path, "the page that is written"],
    *,
    key: SiteKeys,
    results: KeptBy = None,
    ledger: AlsoLedger = None,
    secret: AlsoSecret = None,
    hub: OfHub = None,
) -> None:
    """Check the audit trail of a site or hub, and write it as a page.

    One that is not whole is written, too, with what is wrong.
    """
    from jipflow.report.audit import write_audit_page

    found = _examined(trail, key, results, ledger, secret, hub)
    with rights_of(out.parent):
        write_audit_page(found, out)
    print(f"page: {out.absolute()}")
    if found.fault is not None:
        raise found.fault


@AUDIENCE.command("audit resume")
def audit_resume(
    trail: TrailFile,
    *,
    results: KeptBy = None,
    site_key: Annotated[Path | None, "the site's key: identity.signing_key_file"] = None,
    name: Annotated[str, "your name"],
    key: Annotated[Path, "your private key"],
    because: Annotated[str, "what has happened, and why the trail may go on"],
    ledger: AlsoLedger = None,
    secret: AlsoSecret = None,
    hub: OfHub = None,
) -> None:
    """Let an audit trail that is lost or damaged go on, in writing.

    What was found stays in the file; nothing before this line is proved any more.
    """
    from jipflow.exchange.keys import load_key
    from jipflow.hub.audited import check_hub
    from jipflow.privacy.audit.trail import Trail
    from jipflow.release.audited import ledger_anchors

    known, settings = _kept_ledger(ledger, results, secret), _hub_alone(hub, results, ledger)
    if settings is not None:
        results = Path(settings.hub.results)
        site_key = site_key or Path(settings.hub.identity.signing_key_file)
    if results is None or site_key is None:
        raise UsageError("name --results and --site-key, or --hub of a hub's trail")
    load_key(site_key)

    def check(lines: Sequence[Line]) -> None:
        if settings is not None:
            check_hub(trail, lines, settings)

    with rights_of(results):
        decision = Trail(trail, site_key, results).resume(
            name=name,
            key_file=key,
            reason=because,
            anchors=ledger_anchors(known.entries()) if known else {},
            check=check,
        )
    print(f"the audit trail {trail} goes on by the word of {decision.person}")
    print(f"what was wrong: {decision.found}")


def _examined(
    trail: Path,
    key: Sequence[str],
    results: Path | None,
    ledger: Path | None,
    secret: Path | None,
    hub: Path | None,
) -> Examined:
    """Return a trail that is checked with what is named."""
    from jipflow.report.audit import examine

    known, settings = _kept_ledger(ledger, results, secret), _hub_alone(hub, results, ledger)
    return examine(trail, key, known, results, settings)


def _hub_alone(hub: Path | None, results: Path | None, ledger: Path | None) -> HubSettings | None:
    """Return the settings of a hub, where they are named, and nothing of a site is."""
    from jipflow.hub.settings import load_hub_settings
    from jipflow.settings.resources import read_mapping

    if hub is None:
        return None
    if results is not None or ledger is not None:
        raise UsageError("--hub names the hub's results; --results and --ledger are a site's")
    return load_hub_settings(read_mapping(hub), str(hub))


def _kept_ledger(ledger: Path | None, results: Path | None, secret: Path | None) -> Ledger | None:
    """Return the ledger that a trail is compared with, where one is named."""
    from jipflow.privacy.pseudonyms import known_secret
    from jipflow.release.ledger import Ledger

    if ledger is None and secret is None:
        return None
    if ledger is None or secret is None or results is None:
        raise UsageError("--ledger, --secret and --results go together")
    return Ledger(ledger, known_secret(secret), results)


@AUDIENCE.command("erase")
def erase(
    patients: Annotated[Path, "file with a PatientID a line; - reads them from standard input"],
    *,
    configfile: Annotated[Path, "site.yaml"],
    results: Annotated[Path | None, "folder for the results of all protocols"] = None,
    also: Annotated[Sequence[Path], "other folders with data of patients, such as exports"] = (),
) -> None:
    """Erase what was made of patients, keep them away, and search for what is left.

    Images in the sources stay. PatientIDs are no arguments, which other users of a machine see.
    """
    import sys

    from jipflow.cli.audited import note_erasure
    from jipflow.cli.rights import masked
    from jipflow.erasure.erase import erase as carry_out
    from jipflow.settings.run import load_site

    site, folder = load_site(configfile, results)
    text = sys.stdin.read() if str(patients) == "-" else patients.read_text(encoding="utf-8-sig")
    with masked(site.permissions.mask):
        made = carry_out(
            site=site,
            results=folder,
            patients=text.splitlines(),
            also=also,
            note=lambda done: note_erasure(site, folder, done),
        )
    print("\n".join(made.sentences()))
    made.check()


@AUDIENCE.command("release review")
def release_review(
    release: Annotated[Path, "folder of the release, such as release/r01"],
    *,
    open: Annotated[bool, "open the page in a browser"] = False,
) -> None:
    """Write the page that a person reads before approving, and print it in short."""
    import webbrowser

    from jipflow.report.release import PAGE, write_release_page

    results = release.absolute().parents[1]
    with rights_of(results):
        found = write_release_page(release, results / "bundles", revoked=_revoked(results))
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

    results = release.absolute().parents[1]
    with rights_of(results):
        signed = approve(
            release_dir=release,
            name=name,
            key_file=key,
            rounds=rounds or None,
            until=until or None,
            empty=empty,
        )
        write_release_page(release, results / "bundles", revoked=_revoked(results))
    summary = read_release(release).disclosure.summary
    print(f"approved: {release / NAME}, with {summary.released} of {summary.cells} cells")
    for line in terms_lines(signed, read_terms(release).approvers):
        print(line)


@AUDIENCE.command("release revoke")
def release_revoke(
    release: Annotated[Path, "folder of the release that you have read, such as release/r01"],
    *,
    name: Annotated[str, "your name, as in the approval"],
    key: Annotated[Path, "your private key"],
    because: Annotated[str, "why, in your words"],
) -> None:
    """Take back your approval of a release, and of later rounds that it is for.

    Nothing leaves by it any more. What has left by it is listed.
    """
    from jipflow.privacy.audit.trail import site_trail
    from jipflow.release.ledger import site_ledger
    from jipflow.release.revocation import revoke
    from jipflow.report.release import write_release_page
    from jipflow.settings.run import read_settings

    results = release.absolute().parents[1]
    settings = read_settings(results / "settings.json")
    ledger = site_ledger(settings, results.parent)
    with rights_of(results):
        made = revoke(
            release_dir=release,
            trail=site_trail(settings, results.parent),
            entries=ledger.entries(),
            name=name,
            key_file=key,
            reason=because,
        )
        write_release_page(release, results / "bundles", revoked=_revoked(results))
    for each in made.statements:
        print(
            f"revoked: the approval of rounds {each.round} to {each.last_round} of "
            f"{each.protocol.id}, which {each.person.name} gave on {each.issued[:10]}"
        )
    for kept in made.left:
        print(f"has left by it: {kept.line()}")
    if made.left:
        print("the hub keeps what it has; another attempt can replace it in the open round alone")
    else:
        print("nothing has left by it")


def _revoked(results: Path) -> Revoked:
    """Return what persons have revoked at the site of a protocol's results."""
    from jipflow.release.revocation import revoked_in
    from jipflow.settings.run import read_settings

    settings = results / "settings.json"
    if not settings.is_file():
        return {}
    return revoked_in(Path(read_settings(settings).site.identity.audit_file))


@AUDIENCE.command("export")
def export(
    *,
    results: Annotated[Path, "results folder of the protocol"],
    out: Annotated[Path, "folder for the DICOM files; new, or of an export before"],
    threads: Annotated[int, "processes"] = 1,
) -> None:
    """Write a protocol's cohort as de-identified DICOM."""
    from jipflow.export.folder import REPORT
    from jipflow.export.stage import OUTCOMES
    from jipflow.export.stage import export as export_cohort

    with alone_with(results, "jipflow export"):
        made = export_cohort(results=results, out=out, threads=threads)
        counts = {"files": made.files, "items": made.files, "patients": made.patients}
        note_export(results, "dicom", [out / REPORT], **counts)
    print(f"{out}: {made.files} files of {made.patients} patients, {made.written} items of cases")
    for reason, items in made.refused.items():
        print(f"not exported, {reason}: {items} items")
    print(f"what was done: {out / REPORT}; each item: {results / OUTCOMES}")
