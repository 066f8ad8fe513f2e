"""What stands behind a release: the values of every cell that leaves, a patient a row.

It never leaves the site. A candidate has it beside its release, not in it; when the release is
packed, it becomes an entry of the site's ledger.
"""

from __future__ import annotations

import io
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from jipflow.analyses.cells import CellKey, Place, Values
from jipflow.analyses.facts import LedgerCell
from jipflow.exchange.message import FileEntry, Sha256, canonical, checked, describe, whole
from jipflow.files import atomic_path, read_frame
from jipflow.release.history import Past
from jipflow.settings.part import Id, Part

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CELLS, VALUES = "cells.json", "values.parquet"
"""Names of the two files: what leaves, and the values behind it."""

Index = Annotated[int, Field(ge=0)]


class KeptCell(Part):
    """A cell that leaves, and the column of its values."""

    analysis: Id
    kind: str
    role: str
    segmentation: str
    segment: str
    feature: str
    group: str = ""
    equations: Index
    heading: dict[str, Any]
    released: dict[str, Any]
    rows: Index
    column: Index
    model: str = Field(default="", exclude_if=operator.not_)
    """Of a piece of a cell of several columns, what tells the cell apart."""
    number: Index = Field(default=0, exclude_if=operator.not_)
    """Of a piece, which column it is."""


class KeptWithheld(KeptCell):
    """A cell that was asked for and does not leave; nothing is released of it."""

    rule: str
    """The rule that withheld it."""


class KeptNoisy(KeptCell):
    """A cell that leaves with noise, and the column of what each patient spends on it."""

    asked: Sha256
    """Hash of what was asked, and of the values that answer."""


class KeptPlace(Part):
    """A place that was measured, and the columns by which its region is known again."""

    role: str
    segmentation: str
    segment: str
    volume: Index | None
    mean: Index | None


class Kept(Part):
    """Content of `CELLS`."""

    cells: list[KeptCell]
    withheld: list[KeptWithheld] = Field(default=[])
    noisy: list[KeptNoisy] = Field(default=[])
    places: list[KeptPlace]
    limits: dict[str, float] = Field(default={})
    """Of disclosure, as the protocol has them."""


@dataclass(frozen=True)
class Behind:
    """The two files as bytes."""

    cells: bytes
    values: bytes

    def described(self) -> dict[str, FileEntry]:
        """Return size and hash of each, by its name."""
        return {CELLS: describe(self.cells), VALUES: describe(self.values)}

    def write(self, folder: Path) -> None:
        """Write both files into a folder, each whole."""
        for name, data in ((CELLS, self.cells), (VALUES, self.values)):
            with atomic_path(folder / name) as partial:
                partial.write_bytes(data)

    @classmethod
    def of(cls, past: Past) -> Behind:
        """Return what stands behind a release."""
        columns = _Columns()
        volumes, means = past.volumes, past.means
        kept = [KeptCell(**_kept(cell, columns)) for cell in past.cells]
        withheld = [KeptWithheld(**_kept(c, columns), rule=rule) for rule, c in past.withheld]
        noisy = [KeptNoisy(**_kept(cell, columns), asked=asked) for asked, cell in past.noisy]
        places = [
            KeptPlace(
                **place._asdict(),
                volume=columns.add(volumes[place]) if place in volumes else None,
                mean=columns.add(means[place]) if place in means else None,
            )
            for place in sorted(volumes.keys() | means.keys())
        ]
        content = Kept(
            cells=kept, withheld=withheld, noisy=noisy, places=places, limits=dict(past.limits)
        )
        return cls(canonical(content.plain()), columns.parquet())

    def past(self) -> Past:
        """Return the release that these files are of.

        Raises:
            ValueError: they are not as `of` makes them.
            ConfigError: likewise.
        """
        import json

        kept = checked(Kept, json.loads(self.cells, parse_int=whole), CELLS)
        import pyarrow as pa

        table = read_frame(pa.BufferReader(self.values))
        patients = table["patient"].to_numpy(dtype=object)
        columns = [
            _column(patients, table[name].to_numpy(dtype=float)) for name in table.columns[1:]
        ]
        return Past(
            [_cell(cell, columns) for cell in kept.cells],
            {_place(p): columns[p.volume] for p in kept.places if p.volume is not None},
            {_place(p): columns[p.mean] for p in kept.places if p.mean is not None},
            [(cell.rule, _cell(cell, columns)) for cell in kept.withheld],
            kept.limits,
            [(cell.asked, _cell(cell, columns)) for cell in kept.noisy],
        )


def read_behind(folder: Path, stem: str = "") -> Behind:
    """Read what `Behind.write` wrote, or what the ledger keeps under the stem of an entry.

    Raises:
        OSError: a file cannot be read.
    """
    cells, values = ((folder / f"{stem}{name}").read_bytes() for name in (CELLS, VALUES))
    return Behind(cells, values)


class _Columns:
    """Variables, each once, on the rows of all their patients."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self._variables: list[Values] = []

    def add(self, values: Values) -> int:
        """Return the column of a variable."""
        identity = "\0".join(values.case_ids).encode() + b"\0\0" + values.numbers.tobytes()
        if identity not in self._known:
            self._known[identity] = len(self._variables)
            self._variables.append(values)
        return self._known[identity]

    def parquet(self) -> bytes:
        """Return the table: ``patient``, and a column of each variable, null where it lacks one."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        patients = sorted(frozenset().union(*(values.cases for values in self._variables)))
        rows = {patient: row for row, patient in enumerate(patients)}
        arrays = [pa.array(patients, pa.string())]
        for values in self._variables:
            column = np.full(len(patients), np.nan)
            column[[rows[case] for case in values.case_ids]] = values.numbers
            arrays.append(pa.array(column, pa.float64(), mask=np.isnan(column)))
        names = ["patient", *(f"v{i}" for i in range(len(self._variables)))]
        sink = io.BytesIO()
        pq.write_table(pa.table(arrays, names), sink)
        return sink.getvalue()


def _kept(cell: LedgerCell, columns: _Columns) -> dict[str, Any]:
    """Return the fields of a cell as they are kept."""
    return {
        **cell.key._asdict(),
        "analysis": cell.analysis,
        "kind": cell.kind,
        "equations": cell.equations,
        "heading": dict(cell.heading),
        "released": dict(cell.released),
        "rows": cell.rows,
        "column": columns.add(cell.values),
        "model": cell.model,
        "number": cell.number,
    }


def _cell(kept: KeptCell, columns: Sequence[Values]) -> LedgerCell:
    """Return a cell that was kept."""
    return LedgerCell(
        analysis=kept.analysis,
        kind=kept.kind,
        key=CellKey(*(getattr(kept, name) for name in CellKey._fields)),
        equations=kept.equations,
        heading=kept.heading,
        released=kept.released,
        values=columns[kept.column],
        rows=kept.rows,
        model=kept.model,
        number=kept.number,
    )


def _column(patients: npt.NDArray[np.object_], numbers: npt.NDArray[np.float64]) -> Values:
    """Return the variable of a column."""
    import numpy as np

    there = np.isfinite(numbers)
    names = patients[there]
    return Values(numbers[there], names, names, frozenset(names))


def _place(kept: KeptPlace) -> Place:
    return Place(kept.role, kept.segmentation, kept.segment)
