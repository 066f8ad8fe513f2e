"""Files of many patients, written again without some of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jipflow.erasure.marks import Marks
from jipflow.files import (
    atomic_path,
    json_text,
    parquet_batches,
    parquet_schema,
    parquet_writer,
)

if TYPE_CHECKING:
    import pyarrow as pa


Before = Callable[[], None]
"""Called before a file is changed: the record that speaks of it must be gone by then."""


def rewrite(path: Path, marks: Marks, before: Before) -> int:
    """Take out of a file the rows, lines or entries that name patients; whole or not at all.

    Args:
        path: a file of a suffix of `REWRITERS`.
        marks: what names the patients.
        before: called once before the file is changed.

    Returns:
        How many were taken out; with none the file is left as it is.

    Raises:
        ValueError: it is no such file as its name says.
        OSError: it cannot be read or written.
    """
    return REWRITERS[path.suffix](path, marks, before)


def _parquet(path: Path, marks: Marks, before: Before) -> int:
    import pyarrow as pa

    gone = 0
    schema = parquet_schema(path)
    with atomic_path(path) as partial:
        texts = [field.name for field in schema if _is_text(field.type)]
        with parquet_writer(partial, schema) as writer:
            for batch in parquet_batches(path):
                named = [False] * len(batch)
                for name in texts:
                    known: dict[str | None, bool] = {None: False}
                    for row, text in enumerate(batch[name].to_pylist()):
                        if text not in known:
                            known[text] = marks.in_cell(name, text)
                        named[row] = named[row] or known[text]
                gone += sum(named)
                if not all(named):
                    writer.write_batch(batch.filter(pa.array([not each for each in named])))
        if not gone:
            raise _Unchanged
        before()
    return gone


def _is_text(kind: pa.DataType) -> bool:
    """Whether cells of a type are texts."""
    import pyarrow as pa

    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


def _delimited(path: Path, marks: Marks, before: Before) -> int:
    between = "\t" if path.suffix == ".tsv" else ","
    text = path.read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=between))
    header = rows[0] if rows else []
    kept = [
        row
        for number, row in enumerate(rows)
        if not number or not any(marks.in_cell(*pair) for pair in zip(header, row, strict=False))
    ]
    if len(kept) < len(rows):
        before()
        with atomic_path(path) as partial, open(partial, "w", encoding="utf-8", newline="") as out:
            csv.writer(out, delimiter=between, lineterminator="\n").writerows(kept)
    return len(rows) - len(kept)


def _lines(path: Path, marks: Marks, before: Before) -> int:
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not marks.in_text(line.decode("utf-8", "replace"))]
    if len(kept) < len(lines):
        before()
        with atomic_path(path) as partial:
            partial.write_bytes(b"".join(kept))
    return len(lines) - len(kept)


def _json(path: Path, marks: Marks, before: Before) -> int:
    content = json.loads(path.read_bytes())
    kept, gone = _without(content, marks)
    if gone:
        before()
        with atomic_path(path) as partial:
            partial.write_text(json_text(kept), encoding="utf-8")
    return gone


def _without(content: Any, marks: Marks) -> tuple[Any, int]:
    """Return JSON without what names patients, and how many entries these were."""
    if isinstance(content, dict):
        kept = {k: v for k, v in content.items() if not marks.in_text(k) and not _is_of(v, marks)}
        below = {key: _without(value, marks) for key, value in kept.items()}
        gone = len(content) - len(kept) + sum(number for _, number in below.values())
        return {key: value for key, (value, _) in below.items()}, gone
    if isinstance(content, list):
        entries = [each for each in content if not _is_of(each, marks)]
        found = [_without(each, marks) for each in entries]
        gone = len(content) - len(entries) + sum(number for _, number in found)
        return [each for each, _ in found], gone
    return content, 0


def _is_of(value: Any, marks: Marks) -> bool:
    """Return whether a value of JSON is of a patient: a text, or a record with such a text."""
    if isinstance(value, str):
        return marks.in_text(value)
    if isinstance(value, dict):
        texts = [(key, each) for key, each in value.items() if isinstance(each, str)]
        return any(marks.in_cell(key, each) for key, each in texts)
    return False


class _Unchanged(Exception):
    """No row was taken out."""


def _parquet_or_nothing(path: Path, marks: Marks, before: Before) -> int:
    try:
        return _parquet(path, marks, before)
    except _Unchanged:
        return 0


REWRITERS: dict[str, Callable[[Path, Marks, Before], int]] = {
    ".parquet": _parquet_or_nothing,
    ".tsv": _delimited,
    ".csv": _delimited,
    ".jsonl": _lines,
    ".log": _lines,
    ".txt": _lines,
    ".json": _json,
}
"""By suffix of a file, what takes patients out of it."""
