"""The page that says what has become of a release: built, approved, packed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from jipflow.exchange.message import canonical, describe
from jipflow.reasons import StageError
from jipflow.release.approval import NAME, Signed, read_approvals
from jipflow.release.contents import read_release
from jipflow.release.sent import Sent, sent_before
from jipflow.release.terms import read_terms
from jipflow.report.pages import write_page
from jipflow.settings.resources import ConfigError

PAGE = "index.html"


class State(StrEnum):
    """What has become of a release."""

    BUILT = "waits for approval"
    OUTDATED = "has an approval that does not hold"
    APPROVED = "is approved, not packed"
    PACKED = "is packed"


@dataclass(frozen=True)
class Progress:
    """What has become of a release.

    Attributes:
        state: in a word.
        signed: what persons have stated; empty where nobody did, or it does not hold.
        problem: why the approval does not hold, or empty.
        bundle: the bundle of what was approved; None where it is not packed.
    """

    state: State
    signed: tuple[Signed, ...] = ()
    problem: str = ""
    bundle: Sent | None = None


def write_release_page(folder: Path, bundles: Path) -> None:
    """Write ``index.html``: whether a release is approved and packed, and what comes next.

    Args:
        folder: of the release.
        bundles: folder of what was packed.

    Raises:
        ReleaseError: there is no candidate.
    """
    release = read_release(folder)
    header = release.aggregates
    sent = sent_before(bundles, header.protocol.id, header.site, header.round)
    write_page(
        folder / PAGE,
        "release.html.j2",
        aggregates=header,
        summary=release.disclosure.summary,
        progress=progress(folder, sent),
        states=State,
        sent=sent,
    )


def progress(folder: Path, sent: list[Sent]) -> Progress:
    """Find out what has become of a release.

    Args:
        folder: of the release.
        sent: what was packed, by attempt.
    """
    if not (folder / NAME).is_file():
        return Progress(State.BUILT)
    try:
        signed = read_approvals(folder, read_terms(folder).approvers)
    except (StageError, ConfigError) as error:
        # The page is the same wherever the release lies.
        return Progress(State.OUTDATED, problem=str(error).replace(f"{folder}/", ""))
    packed = describe(canonical([each.plain() for each in signed])).plain()
    for bundle in sent:
        if bundle.manifest and bundle.manifest["files"]["approvals.json"] == packed:
            return Progress(State.PACKED, tuple(signed), bundle=bundle)
    return Progress(State.APPROVED, tuple(signed))
