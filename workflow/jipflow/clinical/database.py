"""Clinical data in a database with the OMOP Common Data Model, read and never written."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb

from jipflow.clinical.records import Record, Records, Rows
from jipflow.expressions import lock
from jipflow.reasons import PlaceError, StageError
from jipflow.settings.clinical import ClinicalVariable, Omop, OmopMap

COLUMNS = frozenset({"patient", "date", "value", "unit"})
BATCH = 10_000
MEMORY = "2GB"
"""What DuckDB may hold."""


def read_selects(
    source: Omop,
    mapped: OmopMap,
    variables: Sequence[ClinicalVariable],
    wanted: Callable[[str], bool],
) -> dict[str, Records]:
    """Read the records of variables from a database, all from one state of it.

    Args:
        source: the database.
        mapped: the site's map, with a SELECT a variable.
        variables: of the protocol.
        wanted: says of an identifier whether its patient is of the cohort.

    Returns:
        By variable, the records of each patient that is wanted.

    Raises:
        StageError: a SELECT is none, lacks a column or gives too many rows; names the variable.
        PlaceError: the database does not answer, or not in time.
        OSError: its file cannot be read.
    """
    found = {}
    with _duckdb(source) if source.is_file else _postgresql(source) as rows:
        for variable in variables:
            context = f"{source.map}: variables.{variable.name}.select"
            names, given = rows(mapped.variables[variable.name].select, context)
            places = _places(names, variable, context)
            found[variable.name] = _records(given, places, wanted, source.rows, context)
    return found


def _places(names: list[str], variable: ClinicalVariable, context: str) -> dict[str, int]:
    """Return the position of each column that is read."""
    lower = [name.lower() for name in names]
    needed = {"patient"} | ({"value"} if variable.type != "days" else set())
    needed |= {"date"} if variable.needs_date else set()
    if missing := sorted(needed.difference(lower)):
        raise StageError(
            f"{context} gives no column {missing[0]}, but {', '.join(names)}; name it by AS."
        )
    if others := sorted({name for name in lower if name not in COLUMNS or lower.count(name) > 1}):
        raise StageError(
            f"{context} gives the column {others[0]}; each of patient, value, date and unit may be "
            "there once, and no other."
        )
    return {name: lower.index(name) for name in lower}


def _records(
    rows: Iterator[Sequence[Any]],
    places: dict[str, int],
    wanted: Callable[[str], bool],
    most: int,
    context: str,
) -> Records:
    found: dict[str, list[Record]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        if number > most:
            raise StageError(
                f"{context} gives more than {most:,} rows; narrow it, or raise `rows` in the "
                "site's clinical."
            )
        cells = {name: row[position] for name, position in places.items()}
        patient = _text(cells["patient"])
        if patient and wanted(patient):
            unit = _text(cells.get("unit"))
            found[patient].append(Record(_text(cells.get("value")), _date(cells.get("date")), unit))
    return dict(found)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value).strip()


def _date(value: Any) -> date | None:
    if isinstance(value, datetime):
        value = value.date()
    if isinstance(value, date):
        # DuckDB gives infinity as the last date that Python has.
        return value if value < date.max else None
    try:
        return datetime.strptime(_text(value), "%Y-%m-%d").date()
    except ValueError:
        return None


@contextmanager
def _duckdb(source: Omop) -> Iterator[Rows]:
    """Open a DuckDB file, which can reach nothing outside and is not written."""
    path = Path(source.database)
    # Its own words for a file that is not there are long; the system's are a sentence of ours.
    with open(path, "rb"):
        pass
    config: dict[str, Any] = {"memory_limit": MEMORY, "autoinstall_known_extensions": "false"}
    try:
        connection = duckdb.connect(str(path), read_only=True, config=config)
    except duckdb.IOException as error:
        raise PlaceError(f"clinical.database: {path} cannot be opened: {_line(error)}") from None
    except duckdb.Error as error:
        raise StageError(f"clinical.database: {path} cannot be read: {_line(error)}") from None
    with connection:
        lock(connection, [])

        def rows(select: str, context: str) -> tuple[list[str], Iterator[Sequence[Any]]]:
            query = _wrapped(select, source.rows + 1)
            with _own_words(context), _interrupted(connection, source.seconds, context):
                _check_one_select(query, context)
                result = connection.execute(query)
            columns = [(column[0], str(column[1])) for column in result.description or []]
            _check_no_instant(columns, context)
            names = [name for name, _ in columns]
            return names, _duckdb_rows(connection, source.seconds, context)

        yield rows


def _wrapped(select: str, most: int) -> str:
    return f"SELECT * FROM (\n{select.strip().removesuffix(';')}\n) AS records LIMIT {most}"


def _check_one_select(query: str, context: str) -> None:
    statements = duckdb.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise StageError(f"{context} is not exactly one SELECT; keep one.")


def _check_no_instant(columns: Sequence[tuple[str, str]], context: str) -> None:
    """Refuse what is an instant: its day depends on a zone, and a file of DuckDB has none."""
    for name, kind in columns:
        if kind == "TIMESTAMP WITH TIME ZONE":
            raise StageError(
                f"{context} gives the column {name} as {kind}, whose day depends on the zone; name "
                f"the hospital's: CAST({name} AT TIME ZONE 'Europe/Berlin' AS DATE) AS {name}."
            )


def _duckdb_rows(
    connection: duckdb.DuckDBPyConnection, seconds: float, context: str
) -> Iterator[Sequence[Any]]:
    while True:
        with _own_words(context), _interrupted(connection, seconds, context):
            batch = connection.fetchmany(BATCH)
        if not batch:
            return
        yield from batch


@contextmanager
def _interrupted(
    connection: duckdb.DuckDBPyConnection, seconds: float, context: str
) -> Iterator[None]:
    """End what the block computes when it takes too long."""
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except duckdb.InterruptException:
        raise _too_slow(context, seconds) from None
    finally:
        timer.cancel()


def _too_slow(context: str, seconds: float) -> PlaceError:
    return PlaceError(
        f"{context} took more than {seconds:g} s and was ended; narrow it, or raise `seconds` in "
        "the site's clinical."
    )


@contextmanager
def _own_words(context: str) -> Iterator[None]:
    """Say what is wrong with a SELECT without the values that DuckDB repeats of a patient."""
    try:
        yield
    except duckdb.InterruptException:
        raise
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise PlaceError(f"{context} cannot be computed here: {_line(error)}") from None
    except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException):
        raise StageError(
            f"{context} fails at a value, which cannot be converted; use TRY_CAST."
        ) from None
    except duckdb.Error as error:
        raise StageError(f"{context} is refused: {_line(error)}") from None


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


@contextmanager
def _postgresql(source: Omop) -> Iterator[Rows]:
    """Open a transaction that can only read; see `jipflow.clinical.postgresql`."""
    from jipflow.clinical.postgresql import opened

    with opened(source) as rows:
        yield rows
