"""How runs stand as metrics for the textfile collector of Prometheus' node exporter."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from jipflow.repair.standing import ProtocolStanding, Standing

STATES = ("run", "elsewhere", "jobs", "killed", "free")
"""Who may have the results, as `jipflow.lock.Holder` names it."""

CASES = ("ok", "failed", "waiting", "open", "excluded")

STAGE_CASES = ("ok", "failed", "waiting", "excluded", "blocked", "left")

Sample = tuple[Mapping[str, str], float]

PUBLIC = 0o644
"""Mode of the file: the node exporter has an account of its own, and counts name nobody."""


LEFT = 60
"""Seconds after which nobody writes a half-written file any more."""


def why_no_metrics(path: Path) -> str:
    """Return why a file cannot have metrics; empty if it can.

    The collector reads files by their ending, and the rest of the name is a label of each sample.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.prom", path.name):
        return ""
    return f"{path.name!r} is no name of metrics: take letters, digits, '_', '.', '-', and .prom"


def write_metrics(standing: Standing, path: Path) -> None:
    """Write the metrics, so that whoever reads the file finds all of them or those of before.

    The collector reads every file of its folder that ends with ``.prom``, hidden ones as well, so
    that a half-written one ends otherwise. Those that a killed process left are removed.

    Args:
        standing: of a results folder.
        path: of the file, in the collector's folder, with a name that `why_no_metrics` passes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    now = time.time()
    for old in path.parent.glob(f".{path.name}.partial-*"):
        with suppress(FileNotFoundError):
            if now - old.stat().st_mtime > LEFT:
                old.unlink()
    partial = path.with_name(f".{path.name}.partial-{os.urandom(8).hex()}")
    try:
        with open(partial, "x", encoding="utf-8") as stream:
            stream.write(metrics_text(standing, path.stem, now))
            stream.flush()
            os.fchmod(stream.fileno(), PUBLIC)
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def metrics_text(standing: Standing, results: str, now: float) -> str:
    """Return the metrics in Prometheus' text format: counts by protocol and stage alone.

    Args:
        standing: of a results folder.
        results: label of each sample, by which the series of several folders of a host differ.
        now: the time, in seconds of Unix.
    """
    each = standing.protocols
    families: list[tuple[str, str, list[Sample]]] = [
        ("cases", "Cases of the cohort by what became of them.", _of(each, CASES)),
        (
            "stage_cases",
            "Cases at a stage by what became of them; left are those to come.",
            [
                ({"protocol": one.protocol, "stage": name, "state": state}, asdict(stage)[state])
                for one in each
                for name, stage in one.stages.items()
                for state in STAGE_CASES
            ],
        ),
        ("shards", "Shards of the cohort.", [(_named(one), one.shards) for one in each]),
        (
            "shards_done",
            "Shards that are through every stage.",
            [(_named(one), one.shards_done) for one in each],
        ),
        (
            "jobs",
            "Jobs of shards that go on, or have begun and stopped.",
            [
                ({**_named(one), "state": state}, len(jobs))
                for one in each
                for state, jobs in (("running", one.running), ("stopped", one.stopped))
            ],
        ),
        (
            "work_done_ratio",
            "Share of the work that is done; absent where it is not known.",
            [(_named(o), o.estimate.done) for o in each if o.estimate.done is not None],
        ),
        (
            "left_seconds",
            "Estimate of the time that the run still takes; absent where there is none.",
            [(_named(o), o.estimate.seconds) for o in each if o.estimate.seconds is not None],
        ),
        (
            "results_state",
            "Who has the results: 1 for what is so.",
            [({"state": state}, float(state == standing.lock.state)) for state in STATES],
        ),
        ("looked_timestamp_seconds", "When this was counted.", [({}, now)]),
    ]
    return "".join(line for family in families for line in _lines(results, *family))


def _named(one: ProtocolStanding) -> dict[str, str]:
    return {"protocol": one.protocol}


def _of(protocols: list[ProtocolStanding], states: tuple[str, ...]) -> list[Sample]:
    return [
        ({**_named(one), "state": state}, getattr(one, state))
        for one in protocols
        for state in states
    ]


def _lines(results: str, name: str, meaning: str, samples: list[Sample]) -> Iterator[str]:
    """Yield the lines of a metric; none where it has no value."""
    if not samples:
        return
    yield f"# HELP jipflow_{name} {meaning}\n# TYPE jipflow_{name} gauge\n"
    for labels, value in samples:
        named = {"results": results, **labels}
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in named.items())
        yield f"jipflow_{name}{{{inner}}} {value:.15g}\n"


def _escaped(text: str) -> str:
    """Return the value of a label as the format has it."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
