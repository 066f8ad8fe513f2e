"""How runs stand, in sentences for a person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from jipflow.plots import duration
from jipflow.repair.estimate import Estimate
from jipflow.repair.standing import ProtocolStanding, Standing
from jipflow.words import number_of


def sentences(standing: Standing) -> Iterator[str]:
    """Yield the lines that say to a person how a results folder stands."""
    yield f"results: {standing.results}"
    yield f"lock: {standing.lock.sentence()}"
    if not standing.protocols:
        yield "no run yet: nothing of a protocol is here"
    for each in standing.protocols:
        yield ""
        yield from _of_protocol(each)


def _of_protocol(each: ProtocolStanding) -> Iterator[str]:
    if not each.cases and not each.stages["cohort"].excluded:
        yield f"{each.protocol}: no cohort yet"
    else:
        yield (
            f"{each.protocol}: {number_of(each.cases, 'case')}: {each.ok} ok, "
            f"{each.failed} failed, {each.waiting} waiting for a person, {each.open} to do; "
            f"{each.excluded} more excluded"
        )
        yield f"  shards: {each.shards_done} of {each.shards} done"
        yield f"  work: {estimated(each.estimate)}"
    for word, jobs in (("running", each.running), ("stopped", each.stopped)):
        if jobs:
            yield f"  {word}: {', '.join(f'{stage} of {job}' for stage, job in jobs)}"
    names = ("ok", "failed", "waiting", "excluded", "blocked", "left", "jobs")
    if any(stage.jobs for name, stage in each.stages.items() if name != "cohort"):
        yield f"  {'stage':10}{''.join(f'{name:>10}' for name in names)}"
        for name, stage in each.stages.items():
            counts = asdict(stage)
            yield f"  {name:10}{''.join(f'{counts[key]:>10}' for key in names)}"
    for reason in each.reasons:
        items = f" ({number_of(reason.items, 'item')})" if reason.items > reason.cases else ""
        yield (
            f"  {reason.status} at {reason.stage}: {reason.reason}, "
            f"{number_of(reason.cases, 'case')}{items}"
        )
    if each.subset:
        yield f"  last try: subset, {each.subset['cases']} of {each.subset['of']} cases"
    if each.release:
        packed = f" as {', '.join(each.release['bundles'])}" if each.release["bundles"] else ""
        yield (
            f"  last release: round {each.release['round']}, {each.release['state']}{packed}, made "
            f"{each.release['made']}"
        )
    else:
        yield "  last release: none"


def estimated(found: Estimate) -> str:
    """Say how much is done, and how long the rest will take."""
    done = "" if found.done is None else f"{100 * found.done:.0f} % done"
    if found.seconds is None:
        return "; ".join(filter(None, (done, f"no estimate: {found.why}")))
    return f"{done}, about {duration(found.seconds)} left" if found.seconds else done
