"""Whether all that the stages of a shard wrote stands, so that a run plans no job of it.

A plan that holds every job of a cohort of thousands of shards takes far longer than to see that
nothing is to be done. Where a shard is not surely finished, its jobs are planned, and the rules and
Snakemake look at each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from jipflow.provenance import NAME, Parts, written_when


def is_finished(
    shard: Path, stages: Sequence[str], cases: Path, parts: Parts, files: Iterable[Path] = ()
) -> bool:
    """Return whether no job of a shard would write anything but what is there.

    Each record holds, each file that it names is there and as long as it says, no error waits to be
    tried again, and no table is older than what it was made of.

    Args:
        shard: ``shards/<shard>``.
        stages: that the shard goes through, in their order.
        cases: the shard's instances, which its first stages read.
        parts: gives the hash of each part of the present settings that a stage depends on.
        files: others that its stages have written.
    """
    try:
        last = {os.path.abspath(cases): os.stat(cases).st_mtime_ns}
    except FileNotFoundError:
        return False
    for stage in stages:
        record = shard / stage / NAME
        written = written_when(record, stage, parts(stage))
        # A record that names another file was made by a flow with other stages.
        if written is None or not written.inputs <= last.keys():
            return False
        if any(last[path] > written.first for path in written.inputs):
            return False
        last[os.path.abspath(record)] = written.last
    return all(file.is_file() for file in files)
