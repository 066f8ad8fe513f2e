"""What of a run's results must be the same after a disturbance, and what is not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

TIMES = {"seconds", "max_rss_mb"}
"""Columns of costs."""

OWN = {
    *("cost.tsv", "run.zip", ".lock", ".jobs", "audit.json"),
    *("headers.parquet", "hashes.parquet"),
}
"""Files of costs, the crate, which has them, locks, the end of the audit trail, in which every try
has a line, and what the next catalog need not read again, with the times at which a copy of the
images was made."""

FILES = {"inputs", "outputs", "sizes"}
"""Of a record: files with their hashes and sizes, which follow the seconds of outcomes."""


def differences(reference: Path, results: Path) -> list[str]:
    """Return what differs from the results of an undisturbed run, a phrase a file."""
    before, now = _names(reference), _names(results)
    found = [f"{name} is missing" for name in sorted(before - now)]
    found += [f"{name} is more" for name in sorted(now - before)]
    common = sorted(before & now)
    return found + [f"{name} differs" for name in common if _differs(reference, results, name)]


def _names(folder: Path) -> set[str]:
    found = set()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("logs", "work")]
        for name in names:
            if name not in OWN and not name.endswith(".log") and not name.startswith(".partial-"):
                found.add(os.path.relpath(os.path.join(place, name), folder))
    return found


def _differs(reference: Path, results: Path, name: str) -> bool:
    before, now = reference / name, results / name
    own = (str(reference).encode(), str(results).encode())
    contents = [path.read_bytes() for path in (before, now)]
    # Pages name the folder in the commands that they give.
    texts = {content.replace(own[0], b"").replace(own[1], b"") for content in contents}
    if len(texts) == 1:
        return False
    if name == "identity.json":
        # Whole without its end of line, and so never written again.
        return len({text.rstrip() for text in texts}) > 1
    if name.endswith("outcomes.parquet"):
        return _outcomes(before) != _outcomes(now)
    if name.endswith((".provenance.json", "/provenance.json", "/accepted")):
        return _record(before) != _record(now)
    # The page has the time at which it was made, and what jobs took.
    return not name.endswith("report/index.html")


def _outcomes(path: Path) -> list[dict[str, Any]]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, ValueError):
        return []
    return [{key: row[key] for key in row.keys() - TIMES} for row in rows]


def _record(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError:
        return {}
    return {key: sorted(value) if key in FILES else value for key, value in content.items()}
