"""What the person calls who looks after runs: how they stand, what is tried again or removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from jipflow.cli.command import REPEATED, Audience, UsageError

AUDIENCE = Audience("To see and repair a run")

AllResults = Annotated[Path, "folder for the results of all protocols"]
OneProtocol = Annotated[str | None, "id of the only protocol; all by default"]
Apply = Annotated[bool, "remove them; without it nothing is changed"]


@AUDIENCE.command("status")
def status(
    *,
    results: AllResults = Path("results"),
    protocol: OneProtocol = None,
    json: Annotated[bool, "print JSON"] = False,
) -> None:
    """Print how runs stand: cases by stage and reason, jobs, last release.

    It says who has the results, reads files alone, also while a run goes on, and writes nothing.
    """
    from jipflow.files import json_text
    from jipflow.repair.sentences import sentences
    from jipflow.repair.standing import read_standing

    found = read_standing(results, protocol)
    print(json_text(found.plain()).rstrip() if json else "\n".join(sentences(found)))


@AUDIENCE.command("watch")
def watch(
    *,
    results: AllResults = Path("results"),
    protocol: OneProtocol = None,
    every: Annotated[int, "seconds between two looks"] = 10,
    once: Annotated[bool, "look once, as a timer of the system calls it"] = False,
    page: Annotated[Path | None, "file of a page that browsers load again by themselves"] = None,
    metrics: Annotated[
        Path | None, "file for node exporter's textfile collector, which takes those in .prom"
    ] = None,
) -> None:
    """Print how runs stand, again and again, until the run is over.

    What `jipflow status` counts, with the work that is left; before a run it waits for one.
    """
    from jipflow.cli.watching import keep_watch
    from jipflow.repair.metrics import why_no_metrics

    if every < 1:
        raise UsageError("--every takes a number of seconds from 1")
    if metrics is not None and (why := why_no_metrics(metrics)):
        raise UsageError(f"--metrics: {why}")
    keep_watch(results, protocol, 0 if once else every, page, metrics)


@AUDIENCE.command("retry")
def retry(
    *,
    results: AllResults = Path("results"),
    protocol: OneProtocol = None,
    stage: Annotated[Sequence[str], "of this stage alone; may be repeated", REPEATED] = (),
    reason: Annotated[Sequence[str], "of this reason code alone; may be repeated", REPEATED] = (),
    case: Annotated[Sequence[str], "of this case alone; may be repeated", REPEATED] = (),
    excluded: Annotated[bool, "those that the cohort left out, too"] = False,
    fetch: Annotated[
        bool, "fetch images of a PACS again, with --case also where nothing failed"
    ] = False,
    apply: Apply = False,
) -> None:
    """Print what failed and would run again, and let the next run do so by --apply.

    Only outcomes are removed, and with --fetch what came from a PACS. The other cases of a shard
    are computed again to the same bytes.
    """
    from jipflow.reasons import StageError
    from jipflow.repair.retry import Choice, also_in, find_again, remove
    from jipflow.repair.standing import protocols_of
    from jipflow.words import number_of

    choice = Choice(stage, reason, case, excluded, fetch)
    with _alone(results, apply):
        folders = protocols_of(results, protocol)
        if protocol is None and len(folders) > 1:
            names = ", ".join(folder.name for folder in folders)
            raise UsageError(f"{results} has several protocols; name one by --protocol: {names}")
        if not folders:
            raise StageError(f"{results} has no results of a run; name their folder by --results.")
        found = find_again(folders[0], choice)
        for again in found:
            print(again.sentence())
        for sentence in also_in(folders[0], found):
            print(sentence)
        if not found:
            print("nothing that failed is meant: nothing would run")
        elif apply:
            files = list(remove(found))
            print(f"{number_of(len(files), 'file')} removed; the same snakemake command runs these")
        else:
            print("nothing was removed; --apply lets the next run try these again")


@AUDIENCE.command("clean")
def clean(
    *,
    results: AllResults = Path("results"),
    protocol: OneProtocol = None,
    only: Annotated[
        Sequence[str],
        "of this kind alone: shards, work, partial, subset, candidates, or retrieved, which is "
        "never meant unless it is named; may be repeated",
        REPEATED,
    ] = (),
    apply: Apply = False,
) -> None:
    """Print what can be removed, with its size, and remove it by --apply.

    It is what runs make again, or nobody needs any more.

    What has left the site, the ledger, the audit trail, keys and readers' work always stay.
    """
    from jipflow.repair.clean import ASKED, KINDS, find_removable, remove
    from jipflow.settings.names import among

    for kind in only:
        if kind not in KINDS:
            raise UsageError(f"there is no kind {kind!r}{among(kind, list(KINDS))}")
    with _alone(results, apply):
        found = find_removable(results, only or KINDS.keys() - ASKED, protocol)
        for kind, (meaning, _) in KINDS.items():
            of_kind = [each for each in found if each.kind == kind]
            if of_kind:
                print(f"{kind}: {meaning}")
            for each in of_kind:
                if apply:
                    remove(each)
                print(f"  {_readable(each.bytes):>9}  {each.path}")
        total = _readable(sum(each.bytes for each in found))
        if not found:
            print("nothing can be removed")
        elif apply:
            print(f"removed: {total}")
        else:
            print(f"can be removed: {total}; --apply removes it")


@contextmanager
def _alone(results: Path, apply: bool) -> Iterator[None]:
    """Keep runs off the results while they are changed.

    Raises:
        StageError: a run has them.
    """
    from jipflow.lock import hold, release
    from jipflow.reasons import StageError

    if not results.is_dir():
        raise StageError(f"There are no results in {results}; name their folder by --results.")
    if not apply:
        yield
        return
    hold(results)
    try:
        yield
    finally:
        release(results)


def _readable(size: int) -> str:
    """Return a number of bytes for a person, in units of 1000."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
