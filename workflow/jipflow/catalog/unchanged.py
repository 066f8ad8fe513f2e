"""Whether the files of a shard still are those that the catalog read."""

from __future__ import annotations

from pathlib import Path

from jipflow.catalog.headers import UNREADABLE, read_header, read_surely, skip
from jipflow.catalog.pool import ReadingPool
from jipflow.files import read_parquet
from jipflow.reasons import StageError

CHUNK = 256
"""Files that a process reads before it answers."""

UIDS = ("SOPInstanceUID", "SeriesInstanceUID")


def check_unchanged(shard: Path, threads: int) -> None:
    """Refuse a shard whose files have become other objects since the catalog was made.

    Its cases got their pseudonyms from the catalog; a file that was replaced by one of another
    patient would be measured under the pseudonym of this one. The same object in a new copy is
    none, and what cannot be read is left to the stages, which say so.

    Args:
        shard: ``cohort/shards/<shard>.parquet``.
        threads: processes that read headers.

    Raises:
        StageError: a file holds another instance or series.
    """
    table = read_parquet(shard, ["path", "sop_uid", "series_uid", "modified_ns"])
    # Those of a PACS have no time, and are compared with its list when they come.
    known = {
        row["path"]: (row["sop_uid"], row["series_uid"])
        for row in table.to_pylist()
        if row["modified_ns"] and Path(row["path"]).is_file()
    }
    changed = [
        path for path, uids in _read(sorted(known), threads) if uids not in ((), known[path])
    ]
    if changed:
        raise StageError(
            f"{len(changed)} of {len(known)} files of {shard.stem} hold other images than when the "
            f"catalog was made, first: {min(changed)}; run the same command again with --forcerun "
            "catalog."
        )


def _read(paths: list[str], threads: int) -> list[tuple[str, tuple[str, ...]]]:
    """Return each path with the UIDs that its file has now; none where it cannot be read."""
    lots = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    found: list[tuple[str, tuple[str, ...]]] = []
    with ReadingPool(read_header, read_surely, _lost, min(threads, len(lots) or 1)) as pool:
        for lot, future in [(lot, pool.submit(lot)) for lot in lots]:
            for path, row in zip(lot, pool.rows(lot, future), strict=True):
                found.append((path, tuple(row[name] for name in UIDS if not row.get("kind"))))
    return found


def _lost(path: str) -> dict[str, str]:
    return skip(UNREADABLE, "the process that read it crashed")
