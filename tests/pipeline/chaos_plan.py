"""What happens in a round: drawn by the seed and the round's number alone."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from chaos_ground import STARTS, Ground

KINDS = {
    "kill": 9,
    "disk": 5,
    "source": 3,
    "mount": 3,
    "readonly": 2,
    "damage": 6,
    "clock": 2,
    "two": 3,
}
"""Kinds of faults, and how often each is drawn beside the others."""

TARGETS = ("coordinator", "job", "copy", "server", "group", "all")
"""What is killed: Snakemake, a job's command, its process that works, the one it is a copy of,
Snakemake's process group, and all processes."""

SIGNALS = ("KILL", "KILL", "KILL", "TERM", "INT", "HUP")

DAMAGES = ("empty", "half", "last byte")
"""What a file is left with: nothing, its first half, or all but its last byte."""

FILES = (
    *("shards/*/*/outcomes.parquet", "shards/*/measure/*.parquet", "shards/*/segment/*.parquet"),
    *("features/*.parquet", "outcomes.parquet", "cohort/shards/*.parquet", "cohort/*.parquet"),
    *("cohort/cases.tsv", "cohort/assignment.tsv", "cohort/flow.json", "../catalog/*.parquet"),
    *("seg/*/*.dcm", "sr/*/*.dcm", "overlays/*/*.png", "work/*/volumes/*/*", "work/*/masks/*/*/*"),
    *("**/provenance.json", "verdict.json", "accepted", "settings.json", "release/r01/*"),
    *("rounds/**/*.json", "report/index.html", "../identity.json", "../audit.json", "behind/r01/*"),
    "../.lock",
)
"""Patterns of files below the protocol's results."""


def plan(
    seed: int, number: int, kinds: Sequence[str], grounds: Mapping[str, Ground]
) -> dict[str, Any]:
    """Draw what a round does."""
    draw = random.Random(f"{seed}/{number}")
    (kind,) = draw.choices(kinds, [KINDS[kind] for kind in kinds])
    ground = draw.choice(sorted(grounds))
    starts = STARTS[:-1] if kind != "damage" else STARTS[1:]
    start = draw.choices(starts, [1, 2, 3, 3] if kind != "damage" else [1, 2, 1, 4])[0]
    jobs = grounds[ground].jobs[start]
    drawn = {
        "seed": seed,
        "number": number,
        "kind": kind,
        "ground": ground,
        "start": start,
        "after": draw.randrange(max(1, jobs)),
        "delay": round(draw.uniform(0, 1.5), 2),
        "again": draw.random() < 0.15 or kind == "clock",
    }
    return drawn | _DRAWN[kind](draw, drawn, grounds[ground])


def _kill(draw: random.Random, drawn: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    target, signal = draw.choice(TARGETS), draw.choice(SIGNALS)
    return {"target": target, "signal": signal, "what": f"{signal} to {target}"}


def _disk(draw: random.Random, drawn: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    where = draw.choice(["results"] * 6 + ["clone", "tmp", "site-secrets"])
    room = int(ground.bytes[drawn["start"]] * draw.uniform(0, 1.1))
    room = room if where == "results" else draw.randrange(0, 200_000)
    return {"where": where, "room": room, "what": f"{room // 1024} KiB left in {where}"}


def _source(draw: random.Random, drawn: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    how = draw.choice(["gone", "gone", "gone before", "cut off", "one file gone"])
    return {"how": how, "file": draw.random(), "what": f"source {how}"}


def _mount(draw: random.Random, drawn: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    back = draw.choice(["while it runs", "after it"])
    return {"back": back, "away": round(draw.uniform(0.5, 6), 2), "what": f"back {back}"}


def _readonly(draw: random.Random, drawn: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    when = draw.choice(["before", "while it runs", "while it runs"])
    return {"when": when, "what": when}


def _damage(draw: random.Random, drawn: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    number = draw.choice([1, 1, 1, 2, 5])
    chosen = [
        {"pattern": draw.choice(FILES), "one": draw.random(), "how": draw.choice(DAMAGES)}
        for _ in range(number)
    ]
    first = f"{chosen[0]['how']} {chosen[0]['pattern']}"
    return {"files": chosen, "what": first + (f" +{number - 1}" if number > 1 else "")}


def _clock(draw: random.Random, drawn: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    seconds = draw.choice([-1, 1]) * draw.choice([30, 3600, 86_400, 400 * 86_400])
    when = draw.choice(["from the start", "while it runs"])
    ends = draw.choice(["killed", "ends"])
    what = f"{seconds:+d} s {when}, {ends}"
    return {"seconds": seconds, "when": when, "ends": ends, "what": what}


def _two(draw: random.Random, drawn: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    clone = draw.choice(["clone", "other"])
    killed = draw.choice(["none", "none", "first", "second"])
    return {"clone": clone, "killed": killed, "what": f"from {clone}, {killed} killed"}


_DRAWN = {
    "kill": _kill,
    "disk": _disk,
    "source": _source,
    "mount": _mount,
    "readonly": _readonly,
    "damage": _damage,
    "clock": _clock,
    "two": _two,
}
