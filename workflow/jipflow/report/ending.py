"""What a run prints last: what it made, where that lies, and what comes next."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jipflow.exchange.sealing import SUFFIX
from jipflow.exchange.transport import unsent
from jipflow.files import read_json
from jipflow.hub.settings import HubSettings
from jipflow.place import shortage
from jipflow.release.packing import why_not_approved
from jipflow.release.rounds import Standing, read_standing
from jipflow.release.sent import sent_before
from jipflow.report.rounds import next_at_hub, standing_lines
from jipflow.settings.addresses import Way
from jipflow.settings.run import Settings

WHOLE = {"all", "default", "release", "accept", "bundle", "send", "report"}
"""Targets after which the verdict on the cases is of this run."""

SHOWN = 10
"""Most bundles or jobs that are listed."""

LONGEST = 600
"""Most characters of a message."""

LOG_END = 65_536
"""Bytes at the end of a log that its message is looked for in."""

MESSAGE = "\njipflow: "
"""What stands in a log before the message of a job that failed."""


def site_ending(
    settings: Settings,
    results: Path,
    targets: Collection[str],
    typed: Sequence[str],
    joined: Path | None = None,
) -> str:
    """Return what a run at a site prints when it has ended well; empty for a part of a run.

    Args:
        settings: of the run.
        results: the protocol's results folder.
        targets: what was asked for; nothing stands for all.
        typed: what was typed after ``snakemake``.
        joined: folder of the tables of all shards: by default `results`, else that of a subset.
    """
    joined = joined or results
    asked = set(targets) or {"all"}
    if asked == {"train"} and settings.protocol.training:
        return _trained(settings, results.absolute() / "train" / "index.html")
    if not asked <= WHOLE or not (joined / "verdict.json").is_file():
        return ""
    folder, tables = results.absolute(), joined.absolute()
    protocol = settings.protocol.protocol
    lines = [f"jipflow: {settings.site.site.id}, {protocol.id} {protocol.version}"]
    lines += _cases(tables)
    lines += [
        f"  report:    {tables / 'report' / 'index.html'}",
        f"  features:  {tables / 'features' / 'features.parquet'}",
    ]
    if tables != folder:
        lines.append(
            "  next:      the same command without case and shards, which goes on with the others; "
            "no release is built of a subset"
        )
    elif settings.protocol.analyses and (folder / "rounds" / "standing.json").is_file():
        standing = read_standing(folder / "rounds" / "standing.json")
        _, outway = settings.site.exchange.ways(results.parent)
        pack = "send" if outway.address else "bundle"
        again = shlex.join(["snakemake", pack, *_without(typed, asked)])
        lines += standing_lines(standing)
        lines += _candidate(standing, settings, folder, again)
    return "\n".join(lines)


def _trained(settings: Settings, page: Path) -> str:
    """Return what a training prints when it has ended well."""
    training = settings.protocol.training
    if training is None or not page.is_file():
        return ""
    return (
        f"jipflow: {settings.site.site.id}, {settings.protocol_id}: model {training.model!r} is "
        f"trained\n  pinned in: {settings.site.registry.absolute()}\n  report:    {page}"
    )


def _cases(folder: Path) -> Iterator[str]:
    verdict = read_json(folder / "verdict.json")
    if subset := verdict.get("subset"):
        yield f"  subset:    {subset['cases']} of {subset['of']} cases"
    yield (
        f"  cases:     {verdict['cases']}: {verdict['ok']} ok, {verdict['failed']} failed, "
        f"{verdict['waiting']} waiting for a person; {verdict['excluded']} more excluded"
    )
    if verdict["waiting"]:
        yield f"  waiting:   {folder / 'worklist' / 'worklist.tsv'}"


def _candidate(standing: Standing, settings: Settings, folder: Path, again: str) -> Iterator[str]:
    """Yield the lines about what may leave the site, and what comes next."""
    release = folder / "release" / f"r{standing.round:02d}"
    if not (release / "disclosure.json").is_file():
        return
    record = read_json(release / "disclosure.json")
    summary = record["summary"]
    yield (
        f"  candidate: {release / 'disclosure.html'}, "
        f"{summary['released']} of {summary['cells']} cells may leave the site"
    )
    if not summary["released"]:
        yield f"  WARNING: no number may leave the site{_withheld(record)}"
    if standing.ended is not None:
        return
    inway, outway = settings.site.exchange.ways(folder.parent)
    about = settings.protocol_id, settings.site.site.id, standing.round
    for sent in reversed(sent_before(folder / "bundles", *about)):
        if _is_of(sent.manifest, record, standing):
            yield f"  message:   {(outway.folder.absolute() / sent.file).with_suffix(SUFFIX)}"
            yield f"  next:      {_sending(settings, outway, folder.parent, again)}"
            return
    why = why_not_approved(settings, folder, standing.round)
    if why:
        if summary["released"]:
            yield from _approving(release, why)
    elif settings.site.hub.key is None:
        yield "  next:      write the hub's public key into site.yaml as hub.key, to pack it"
    elif standing.roster is None:
        place = "" if inway.address else f" into {inway.folder.absolute()}"
        what = "await" if inway.address else "put"
        yield f"  next:      {what} the hub's message that opens the round{place}, then: {again}"
    else:
        yield f"  next:      {again}"


def _approving(release: Path, why: str) -> Iterator[str]:
    """Yield why a candidate may not leave yet, and how a person approves it."""
    place = shlex.quote(str(release))
    yield f"  approval:  {plain(why)}"
    yield (
        f"  next:      jipflow release review {place}, read both pages, then: "
        f"jipflow release approve {place} --name NAME --key FILE"
    )


def _sending(settings: Settings, outway: Way, results: Path, again: str) -> str:
    """Say how a message that was packed comes to the hub."""
    hub = f"the hub {settings.site.hub.id!r}"
    if outway.address is None:
        return f"bring the message to {hub}"
    if unsent(outway.folder, results / "exchange" / "sent.list", outway.address):
        return again
    return f"nothing until {hub} answers: the message was sent to {outway.address}"


def _is_of(
    manifest: Mapping[str, Any] | None, record: Mapping[str, Any], standing: Standing
) -> bool:
    """Return whether a message is of a candidate and of the thread as it stands."""
    if manifest is None:
        return False
    same = manifest["files"]["aggregates.json"]["sha256"] == record["aggregates_sha256"]
    return bool(same and manifest.get("previous") == standing.previous)


def _withheld(record: Mapping[str, Any]) -> str:
    """Say which rule of the gate kept most cells back."""
    counts = record["summary"]["withheld"]
    if not any(counts.values()):
        return "; the analyses have no cell"
    most = max(counts, key=lambda code: int(counts[code]))
    meaning = str(record["rules"].get(most, "")).rstrip(".")
    return f": rule {most} ({meaning}) withheld {counts[most]} cells"


def hub_ending(settings: HubSettings, results: Path, round_: int) -> str:
    """Return what a run at the hub prints when it has ended well.

    Args:
        settings: of the hub.
        results: the results folder of the protocol.
        round_: that the run was of.
    """
    folder = results.absolute() / "rounds" / f"r{round_:02d}"
    if not (folder / "outlook.json").is_file():
        return ""
    accepted = read_json(folder / "accepted.json")
    rejected = read_json(folder / "rejected.json")
    waits = read_json(folder / "outlook.json")
    sites = [plain(entry["site"]) for entry in accepted]
    lines = [
        f"jipflow: hub {settings.hub.hub.id}, {settings.protocol.protocol.id} "
        f"{settings.protocol.protocol.version}, round {round_}",
        f"  messages:  {len(accepted)} accepted{_in_brackets(sites)}, {len(rejected)} refused",
    ]
    for entry in rejected[:SHOWN]:
        detail = plain(entry["detail"] or entry["meaning"])
        lines.append(f"  refused:   {plain(entry['file'])}: {plain(entry['reason'])}: {detail}")
    if len(rejected) > SHOWN:
        lines.append(f"  refused:   {len(rejected) - SHOWN} more, see {folder / 'rejected.json'}")
    inbox, _ = (way.address or way.folder.absolute() for way in settings.ways())
    if rejected and not accepted:
        lines.append("  WARNING: the result is empty: all messages were refused")
    elif not accepted:
        lines.append(
            f"  waiting:   no message of this round has come into {inbox} yet, the result is empty"
        )
    elif len(accepted) == 1:
        lines.append("  WARNING: the result is of one site alone")
    if waits["missing"] and not waits["ended"]:
        lines.append(f"  missing:   {', '.join(waits['missing'])}")
    lines += [
        f"  report:    {folder / 'report.html'}",
        f"  result:    {folder / 'result.json'}",
        f"  next:      {next_at_hub(settings, waits)}",
    ]
    return "\n".join(lines)


def failure_ending(
    failed: Iterable[tuple[str, str | None]], report: Path | None = None, place: str = ""
) -> str:
    """Return what a run prints that ended with an error: the last message of each job that failed.

    Args:
        failed: rule and log of each job.
        report: the page that says why a run was not accepted.
        place: what is wrong with the results folder itself, logs and all; empty for nothing.
    """
    lines = ["jipflow: the run ended with an error.", *([f"  {place}"] if place else [])]
    jobs = sorted({(rule, log or "") for rule, log in failed})
    for rule, log in jobs[:SHOWN]:
        lines.append(f"  {rule}: {last_message(Path(log)) if log else 'it has no log'}")
        if log:
            lines.append(f"    log: {Path(log).absolute()}")
    if len(jobs) > SHOWN:
        lines.append(f"  {len(jobs) - SHOWN} more jobs failed; Snakemake's log above names them.")
    if report is not None and "accept" in {rule for rule, _ in jobs}:
        lines.append(f"  report: {report.absolute()}")
    return "\n".join([*lines, "Once that is fixed, the same command goes on with what is missing."])


def last_message(path: Path) -> str:
    """Return the message that a job left in its log, in one line.

    Args:
        path: of the log.
    """
    try:
        text = _log_end(path)
    except OSError:
        return shortage(path) or "it left no log; it was killed, or could not start"
    _, found, message = text.rpartition(MESSAGE)
    if not found:
        ends = [line for line in text.splitlines() if line.strip()]
        message = ends[-1] if ends else shortage(path)
    return plain(message or "its log is empty; it was killed, or could not start")


def failed_stages(
    group: Sequence[tuple[str, str | None]], began: float
) -> list[tuple[str, str | None]]:
    """Return the stages that failed of a group, which Snakemake takes for failed as a whole.

    They are those that left a message in this run; where none did, as when it was killed, the one
    that wrote last, and where none began, the first.

    Args:
        group: rule and log of each stage, in their order.
        began: when the run began, in seconds since the epoch.
    """
    written: list[tuple[float, tuple[str, str | None]]] = []
    failed = []
    for rule, log in group:
        try:
            modified = Path(log).stat().st_mtime if log else 0.0
            if log and modified >= began:
                written.append((modified, (rule, log)))
                if MESSAGE in _log_end(Path(log)):
                    failed.append((rule, log))
        except OSError:
            continue
    last = [max(reversed(written), key=lambda each: each[0])[1]] if written else group[:1]
    return list(failed or last)


def _log_end(path: Path) -> str:
    """Return the end of a log, after a line break."""
    with open(path, "rb") as stream:
        stream.seek(max(0, path.stat().st_size - LOG_END))
        return "\n" + stream.read().decode("utf-8", errors="replace")


def plain(text: str) -> str:
    """Return text as one line without control characters, shortened where it is very long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def _in_brackets(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _without(typed: Sequence[str], targets: Collection[str]) -> list[str]:
    """Return what was typed without the targets, to be typed behind another."""
    return [word for word in typed if word not in targets and word != "--"]
