"""Stage `clinical`: the clinical variables of the cohort's cases, and why one is not there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pyarrow as pa

from jipflow.catalog.consented import study_date
from jipflow.catalog.query import open_catalogs
from jipflow.clinical.records import Record, Records
from jipflow.clinical.table import read_link, read_table
from jipflow.clinical.values import NoValue, value_of
from jipflow.files import read_tsv, scratch_folder, write_parquet
from jipflow.reasons import Gap
from jipflow.settings.clinical import (
    ClinicalFile,
    ClinicalVariable,
    CsvMap,
    Omop,
    OmopMap,
    read_map,
)
from jipflow.settings.run import Settings
from jipflow.tables import CLINICAL_KEYS, MISSING_COLUMNS


@dataclass
class Case:
    """A case of the cohort, with what its patient is called outside.

    Attributes:
        patient: pseudonym.
        patient_id: PatientID (0010,0020).
        dates: of its series' studies; more than one only where a case is all that a patient has.
    """

    patient: str
    patient_id: str = ""
    dates: set[date | None] = field(default_factory=set)

    @property
    def study(self) -> date | None:
        """The study date; None where it has none that can be read, or several."""
        return next(iter(self.dates)) if len(self.dates) == 1 else None


def input_files(settings: Settings) -> list[Path]:
    """Return the files of the site that the stage reads, beside what earlier stages wrote."""
    source = settings.site.clinical
    if source is None:
        return []
    files = [source.map, source.patients]
    if isinstance(source, ClinicalFile):
        files.append(source.file)
    elif isinstance(source, Omop) and source.is_file:
        files.append(source.database)
    return [Path(path) for path in files if path is not None]


def run(
    *, settings: Settings, cases: Path, catalog_dirs: Sequence[Path], out_dir: Path
) -> dict[str, int]:
    """Write the clinical variables of each case.

    Writes into `out_dir`: ``clinical.parquet`` (a row a case: `CLINICAL_KEYS`, then a column a
    variable of the protocol, null where it has no value) and ``missing.parquet``
    (`MISSING_COLUMNS`: why). No date is in either.

    Args:
        settings: of the run; the site has clinical data.
        cases: ``cases.tsv``.
        catalog_dirs: as of the stage ``cohort``.
        out_dir: folder of the stage.

    Returns:
        How many cases there are, and how many have no value of each variable.

    Raises:
        StageError: the source is not as the site's map says, or a database does not answer.
        OSError: a file cannot be read.
    """
    source = settings.site.clinical
    assert source is not None
    variables = settings.protocol.clinical_variables
    mapped = read_map(source)
    of_case = _cases(cases, catalog_dirs, out_dir)
    link = read_link(Path(source.patients)) if source.patients else None
    called = {
        case.patient_id: [case.patient_id] if link is None else link.get(case.patient_id, [])
        for case in of_case.values()
    }
    wanted = {identifier for names in called.values() for identifier in names}
    records = _read(source, mapped, variables, wanted)
    values: dict[str, list[float | str | None]] = {v.name: [] for v in variables}
    missing = []
    decimal = mapped.decimal if isinstance(mapped, CsvMap) else "."
    for case_id, case in of_case.items():
        for variable in variables:
            name = variable.name
            found: list[Record] = []
            for identifier in called[case.patient_id]:
                found += records[name].get(identifier, ())
            try:
                if not called[case.patient_id]:
                    raise NoValue(
                        Gap.NOT_LINKED, "the table of patients has no identifier for the patient."
                    )
                entry = mapped.variables[name]
                values[name].append(value_of(variable, entry, found, case.study, decimal))
            except NoValue as gap:
                values[name].append(None)
                missing.append((case_id, name, gap.reason.value, gap.message))
    write_parquet(out_dir / "clinical.parquet", _table(of_case, variables, values))
    write_parquet(out_dir / "missing.parquet", _missing(missing))
    counts = Counter(name for _, name, *_ in missing)
    return {"cases": len(of_case), **{v.name: counts[v.name] for v in variables}}


def _cases(cases: Path, catalog_dirs: Sequence[Path], out_dir: Path) -> dict[str, Case]:
    """Return the cases of the cohort by case_id, sorted, with PatientID and study dates."""
    series: dict[str, list[str]] = defaultdict(list)
    found: dict[str, Case] = {}
    for row in read_tsv(cases):
        found.setdefault(row["case_id"], Case(row["patient"]))
        series[row["series_uid"]].append(row["case_id"])
    with scratch_folder(out_dir) as spill, open_catalogs(catalog_dirs, spill) as connection:
        connection.register("chosen", pa.table({"uid": pa.array(list(series), pa.string())}))
        rows = connection.execute(
            "SELECT trim(SeriesInstanceUID), PatientID, StudyDate FROM catalog"
            " WHERE trim(SeriesInstanceUID) IN (SELECT uid FROM chosen)"
        ).fetchall()
    for uid, patient_id, study in rows:
        for case_id in series[uid]:
            found[case_id].patient_id = patient_id.strip()
            found[case_id].dates.add(study_date(study or ""))
    return dict(sorted(found.items()))


def _read(
    source: ClinicalFile | Omop,
    mapped: CsvMap | OmopMap,
    variables: Sequence[ClinicalVariable],
    wanted: set[str],
) -> dict[str, Records]:
    names = [variable.name for variable in variables]
    if isinstance(source, ClinicalFile):
        assert isinstance(mapped, CsvMap)
        return read_table(Path(source.file), mapped, names, wanted.__contains__)
    from jipflow.clinical.database import read_selects

    assert isinstance(mapped, OmopMap)
    return read_selects(source, mapped, variables, wanted.__contains__)


def _table(
    cases: dict[str, Case],
    variables: Sequence[ClinicalVariable],
    values: dict[str, list[float | str | None]],
) -> pa.Table:
    keys = [list(cases), [case.patient for case in cases.values()]]
    columns = [pa.array(column, pa.string()) for column in keys]
    for variable in variables:
        kind = pa.float64() if variable.number_like else pa.string()
        columns.append(pa.array(values[variable.name], kind))
    return pa.table(columns, names=[*CLINICAL_KEYS, *values])


def _missing(rows: list[tuple[str, str, str, str]]) -> pa.Table:
    columns = zip(*sorted(rows), strict=True) if rows else [()] * len(MISSING_COLUMNS)
    return pa.table([pa.array(c, pa.string()) for c in columns], names=list(MISSING_COLUMNS))
