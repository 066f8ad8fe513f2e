"""Why a cohort has no case: the first of all causes between the sources and the cases."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from jipflow.files import read_json, read_parquet
from jipflow.outcomes import read_outcomes
from jipflow.reasons import Reason

SHOWN = 3
"""Most kinds of skipped files that a sentence names."""


def why_no_case(results: Path) -> str:
    """Return a sentence with counts on why no case came out of the sources, and what to fix.

    Args:
        results: the protocol's results folder; what is not there is left out.
    """
    flow = results / "cohort" / "flow.json"
    steps = read_json(flow)["steps"] if flow.is_file() else []
    found = int(steps[0]["series"]) if steps else 0
    if not found:
        return _no_series(results)
    for before, step in pairwise(steps):
        if step["series"] or not before["series"] or step["step"] == "cases":
            continue
        if step["step"] == "readable":
            return (
                f"none of the {found} series has a file that can be read; see the reasons in the "
                "report, and copy them again from the archive."
            )
        if step["step"] == "consent":
            return (
                f"none of the {before['patients']} patients consents, by the site's list and the "
                "rule cohort.consent of the protocol; see that the list names patients as "
                "PatientID does, with leading zeros, and the scope as the protocol does."
            )
        if step["step"] == "images":
            return (
                f"none of the {found} series is an image: they are contours, segmentations or "
                "reports; add the folder of their images to the sources."
            )
        return (
            f"the filter {step['label']!r} leaves none of {before['series']} series; fix it in the "
            "protocol's cohort.where."
        )
    return _excluded(results / "cohort" / "outcomes.parquet")


def _no_series(results: Path) -> str:
    """Say why there is no series at all."""
    path = results.parent / "catalog" / "summary.json"
    counts: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    queries = results / "pacs" / "queries.json"
    asked = f" The PACS gave no series either; {queries} has what was asked." * queries.is_file()
    files = counts.get("files", 0)
    if not files:
        text = "there is no file below the folders of the sources"
        if asked:
            return f"no series was found.{asked}"
        return f"{text}; fix sources[].path in site.yaml, or mount it."
    kinds = _skipped(results.parent / "catalog" / "skipped.parquet")
    return f"none of the {files} files of the sources is a DICOM file that is read: {kinds}.{asked}"


FIXES = {
    "compressed": "unpack them",
    "DICOMDIR": "copy the folders that it lists as well",
    "unreadable": "let this account read them, or copy them again",
}


def _skipped(path: Path) -> str:
    """Say what the files are that were skipped, the most frequent first."""
    rows = read_parquet(path, ["kind", "reason"]).to_pylist()
    kinds = Counter(_kind(row["kind"], row["reason"]) for row in rows)
    texts = []
    for kind, count in kinds.most_common(SHOWN):
        fix = next((text for word, text in FIXES.items() if word in kind), "")
        texts.append(f"{count} {kind}" + (f", {fix}" if fix else ""))
    return "; ".join(texts) or "all were skipped"


def _kind(kind: str, reason: str) -> str:
    """Return what to call a skipped file."""
    packed = re.match(r"an? (\S+) file; unpack", reason)
    if packed:
        return f"compressed ({packed[1]})"
    if "DICOMDIR" in reason:
        return "DICOMDIR"
    if reason == "an empty file":
        return "empty"
    return {"unreadable": "unreadable", "link": "links"}.get(kind, "of other kinds")


def _excluded(path: Path) -> str:
    """Say for which reasons all cases were excluded."""
    reasons = Counter(o.reason for o in read_outcomes(path) if o.reason) if path.is_file() else {}
    texts = [
        f"{count} for {code} ({Reason(code).meaning})"
        for code, count in Counter(reasons).most_common(SHOWN)
    ]
    return f"every case was excluded: {'; '.join(texts) or 'see the report'}."
