"""Clinical variables: in how many cases each has a value, and why it has none in others."""

from __future__ import annotations

from dataclasses import dataclass

from jipflow.reasons import Gap
from jipflow.report.site.run import Run, optional_frame


@dataclass(frozen=True)
class Variable:
    """A clinical variable.

    Attributes:
        name: its name.
        unit: of its numbers, as people read it; empty where they have none.
        cases: that have a value.
        missing: that have none.
        gaps: reason, its meaning, and cases, the most frequent first.
    """

    name: str
    unit: str
    cases: int
    missing: int
    gaps: list[tuple[str, str, int]]


def section(run: Run) -> list[Variable]:
    """Count by variable and reason; nothing where the protocol has no clinical variables."""
    folder = run.results / "clinical"
    values, missing = (
        optional_frame(folder / f"{name}.parquet") for name in ("clinical", "missing")
    )
    if not run.settings.protocol.clinical or values is None or missing is None:
        return []
    if run.subset:
        values, missing = (t[t["case_id"].isin(run.case_ids)] for t in (values, missing))
    meanings = {gap.value: gap.meaning for gap in Gap}
    found = []
    for variable in run.settings.protocol.clinical:
        counts = missing.loc[missing["variable"] == variable.name, "reason"].value_counts()
        order = sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0])))
        gaps = [(str(code), meanings.get(str(code), ""), int(n)) for code, n in order]
        there = int(values[variable.name].notna().sum())
        missed = len(values) - there
        found.append(Variable(variable.name, variable.read_unit, there, missed, gaps))
    return found
