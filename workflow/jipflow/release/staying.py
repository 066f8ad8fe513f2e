"""What a round makes of a site's own values, such as harmonised features: it stays at the site.

It lies below the results and never below a release.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jipflow.analyses.cells import CellKey, Values
from jipflow.files import atomic_path, write_parquet
from jipflow.release.gate import Decision
from jipflow.tables import FEATURE_KEYS

if TYPE_CHECKING:
    import pandas as pd

STAYING = "harmonised"
"""Folder of it in the results of a protocol, with a folder a round."""


def write_staying(decisions: Iterable[Decision], folder: Path) -> None:
    """Write what the cells' values have become: a table an analysis, as ``features.parquet`` is.

    Whatever the folder held is replaced; without any such value there is no folder.

    Args:
        decisions: on all cells of a round.
        folder: for ``<analysis>.parquet``.
    """
    found: dict[str, list[tuple[CellKey, Values]]] = defaultdict(list)
    for decision in decisions:
        if decision.stays is not None:
            proposed = decision.proposed
            found[proposed.analysis.settings.id].append((proposed.key, decision.stays))
    if not found:
        if folder.exists():
            shutil.rmtree(folder)
        return
    with atomic_path(folder) as partial:
        partial.mkdir()
        for name, cells in sorted(found.items()):
            write_parquet(partial / f"{name}.parquet", _table(cells))


def _table(cells: Sequence[tuple[CellKey, Values]]) -> pd.DataFrame:
    """Return a row a case and segment, and a column a feature; null where it was not made."""
    import pandas as pd

    rows = pd.concat(
        [
            pd.DataFrame(
                {
                    "case_id": values.case_ids,
                    "patient": values.patients,
                    **key.place._asdict(),
                    "feature": key.feature,
                    "value": values.numbers,
                }
            )
            for key, values in cells
        ]
    )
    keys = list(FEATURE_KEYS)
    table = rows.pivot(index=keys, columns="feature", values="value").sort_index()
    return table.reset_index().rename_axis(columns=None)
