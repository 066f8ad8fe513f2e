"""Clinical variables: what a protocol asks of them, where a site has them, and how it maps them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from jipflow.settings.names import among
from jipflow.settings.part import LocalPath, Maybe, Part, Positive, Range, Text, Unique
from jipflow.settings.resources import ConfigError, read_mapping
from jipflow.settings.schema import load

ROLE = "clinical"
"""What stands in the place of a role before the name of a clinical variable; no role has the name.
"""

VARIABLE = r"[a-z][a-z0-9_]{0,39}"
VariableName = Annotated[str, Field(pattern=rf"^{VARIABLE}$")]
Value = Annotated[str, Field(min_length=1, max_length=64)]

DATES = (datetime(1999, 12, 30, tzinfo=UTC), datetime(2004, 2, 29, tzinfo=UTC))
"""Of which no part is what strptime takes where nothing is given."""

TAKEN = frozenset({"case_id", "patient", "voxels", "volume_ml", "measured_voxels", "measured_box"})
"""Columns of tables that hold other things."""


class Window(Part):
    """Days around the study date in which a record counts."""

    before: Annotated[int, Field(ge=0, le=36_525)]
    """Most days before the study date."""
    after: Annotated[int, Field(ge=0, le=36_525)]
    """Most days after the study date."""


class ClinicalVariable(Part):
    """What is known of a patient beside the images."""

    name: VariableName
    """Name of the variable; analyses name it clinical.<name>."""
    type: Literal["number", "category", "event", "days"]
    """A number; one of some values; an event, which is 1 where it has happened and 0 where not; or
    the days from the study date to the record's."""
    unit: Maybe[Text] = None
    """Unit of a number, as UCUM writes it."""
    range: Maybe[Range] = None
    """Least and greatest number, or days, that are believed."""
    values: Maybe[Annotated[list[Value], Field(min_length=2, max_length=100), Unique]] = None
    """What a category may be, in an order that is the same at all sites."""
    window: Maybe[Window] = None
    """Days around the study date in which a record counts; without it whenever it is of."""
    choose: Maybe[Literal["nearest", "first", "last"]] = None
    """Which of several records counts: the one nearest to the study date, the first or the last;
    without it records that differ are no value."""

    @property
    def read_unit(self) -> str:
        """Unit of its numbers as people read it; empty where they have none."""
        return "days" if self.type == "days" else self.unit or ""

    @property
    def number_like(self) -> bool:
        """Whether its values are numbers, and no categories."""
        return self.type != "category"

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest number that it can have; of a category the position of its value."""
        if self.values is not None:
            return 0, len(self.values) - 1
        if self.type == "event":
            return 0, 1
        return (self.range[0], self.range[1]) if self.range else (-math.inf, math.inf)

    @property
    def needs_date(self) -> bool:
        """Whether a record without a date says nothing."""
        return self.type == "days" or self.window is not None or self.choose is not None

    def problems(self) -> Iterator[str]:
        """Yield what types cannot say is wrong with the settings, one sentence each."""
        if self.name in TAKEN:
            yield f"the name {self.name!r} is of something else in tables; name it otherwise."
        if (self.type == "category") != (self.values is not None):
            yield (
                "a category needs `values`."
                if self.values is None
                else f"only a category has `values`, and this is of the type {self.type}; remove "
                "them, or make it a category."
            )
        if self.unit is not None and self.type != "number":
            yield f"only a number has a `unit`, and this is of the type {self.type}; remove it."
        if self.range is not None and self.type not in ("number", "days"):
            yield f"only numbers and days have a `range`, and this is of the type {self.type}."


def variables_problems(variables: list[ClinicalVariable]) -> Iterator[str]:
    """Yield what is wrong with the clinical variables of a protocol, one sentence each."""
    names = [variable.name for variable in variables]
    for variable in variables:
        if names.count(variable.name) > 1:
            yield f"clinical: the name {variable.name!r} is used twice; rename one."
        for problem in variable.problems():
            yield f"clinical: {variable.name}: {problem}"


class ClinicalSource(Part):
    """Where the clinical data of the site are."""

    kind: str
    """A table in a file, or a database with the OMOP Common Data Model."""
    map: LocalPath
    """YAML file of the site that says where each variable of the protocol is."""
    patients: Maybe[LocalPath] = None
    """CSV file with the columns PatientID and identifier, which says what the clinical data call a
    patient of the images; without it they say PatientID."""


class ClinicalFile(ClinicalSource):
    """Clinical data in a CSV file."""

    kind: Literal["csv"]
    file: LocalPath
    """The CSV file."""


def _database(value: str) -> str:
    if "://" not in value:
        return value
    if not value.startswith(("postgresql://", "postgresql+psycopg://")):
        raise PydanticCustomError(
            "database", "only postgresql:// is an address of a database; else name a DuckDB file"
        )
    if re.match(r"[^/]*//[^/]*:[^/]*@", value) or re.search(r"[?&]password=", value):
        raise PydanticCustomError(
            "secret", "name the variable of the password by password_env, and take it out of here"
        )
    return value


class Omop(ClinicalSource):
    """Clinical data in a database with the OMOP Common Data Model."""

    kind: Literal["omop"]
    database: Annotated[Text, AfterValidator(_database)]
    """Path of a DuckDB file, or postgresql://user@host:port/name. Give an account that can do
    nothing but read."""
    password_env: Maybe[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = None
    """Environment variable that holds the password."""
    seconds: Positive = 300
    """A SELECT that takes longer is ended."""
    rows: Annotated[int, Field(ge=1)] = 5_000_000
    """A SELECT that gives more rows is refused."""

    @property
    def is_file(self) -> bool:
        """Whether the database is a DuckDB file."""
        return "://" not in self.database


AnyClinical = Annotated[ClinicalFile | Omop, Field(discriminator="kind")]


class Mapped(Part):
    """Where a variable is, and how what stands there becomes what the protocol asks for."""

    codes: Maybe[dict[Text, Value]] = None
    """The protocol's value by what stands at the site; what is not listed stays as it is."""
    unit: Maybe[Text] = None
    """The unit of all numbers, where no column says it."""
    units: Maybe[dict[Text, Positive]] = None
    """What a number of another unit is multiplied by to be in the protocol's; 1 for another name of
    the same one."""


class MappedColumn(Mapped):
    """A variable in columns of a CSV file."""

    value: Maybe[Text] = None
    """Column of the value; days need none."""
    date: Maybe[Text] = None
    """Column of the date."""
    unit_column: Maybe[Text] = None
    """Column of the unit."""
    only: Maybe[Annotated[dict[Text, str], Field(min_length=1)]] = None
    """Only rows that have these texts in these columns, for a table with a row a record."""


class MappedSelect(Mapped):
    """A variable of a database."""

    select: Text
    """One SELECT with the columns patient, value and, where they are there, date and unit."""


def _whole_date(value: str) -> str:
    """Refuse what strptime would fill in: without a day it takes the first of the month."""
    try:
        whole = all(
            datetime.strptime(day.strftime(value), value).date() == day.date() for day in DATES
        )
    except ValueError:
        whole = False
    if not whole:
        raise PydanticCustomError(
            "dates", "give year, month and day, as Python's strptime has them, such as %d.%m.%Y"
        )
    return value


class CsvMap(Part):
    """How a CSV file is read."""

    patient: Text
    """Column of the patient's identifier."""
    separator: Maybe[Literal[",", ";", "\t", "|"]] = None
    """What stands between columns; without it what the first line has most of."""
    decimal: Literal[".", ","] = "."
    """What stands before the decimals."""
    dates: Annotated[Text, AfterValidator(_whole_date)] = "%Y-%m-%d"
    """How dates are written, as Python's strptime reads them."""
    encoding: Literal["utf-8", "cp1252", "latin-1"] = "utf-8"
    """How the file is encoded."""
    variables: dict[VariableName, MappedColumn]
    """Where each variable is."""


class OmopMap(Part):
    """Where the variables are in a database."""

    variables: dict[VariableName, MappedSelect]
    """Where each variable is."""


def read_map(source: ClinicalSource) -> CsvMap | OmopMap:
    """Read the site's map.

    Raises:
        ConfigError: it is not there, or not a map for the kind of source.
    """
    path = Path(source.map)
    if not path.is_file():
        raise ConfigError(f"clinical.map: {path} does not exist; fix its path or mount it.")
    content = read_mapping(path)
    if isinstance(source, ClinicalFile):
        return load(CsvMap, content, str(path))
    return load(OmopMap, content, str(path))


def check_map(source: ClinicalSource, variables: list[ClinicalVariable]) -> None:
    """Check that the site's map has every variable of a protocol, and each as it must be.

    Raises:
        ConfigError: it has not.
    """
    mapped = read_map(source).variables
    for variable in variables:
        if variable.name not in mapped:
            rest = among(variable.name, mapped)
            raise ConfigError(
                f"{source.map}: the protocol asks for clinical.{variable.name}, which has no entry "
                f"below variables{rest}"
            )
        for problem in _mapping_problems(variable, mapped[variable.name]):
            raise ConfigError(f"{source.map}: variables.{variable.name}: {problem}")


def _mapping_problems(variable: ClinicalVariable, mapped: Mapped) -> Iterator[str]:
    for text, value in (mapped.codes or {}).items():
        if variable.values is not None and value not in variable.values:
            yield f"codes: {text!r} becomes {value!r}{among(value, variable.values)}"
        if variable.type == "event" and value not in ("0", "1"):
            yield f"codes: {text!r} becomes {value!r}, but an event is '0' or '1'."
    if not isinstance(mapped, MappedColumn):
        return
    if mapped.value is None and variable.type != "days":
        yield "value: name the column of the value."
    if mapped.date is None and variable.needs_date:
        yield "date: name the column of the date, which the protocol's variable needs."
    if variable.unit is not None and mapped.unit is None and mapped.unit_column is None:
        yield (
            f"unit: say the unit of the numbers, or name its column by unit_column; the protocol "
            f"asks for {variable.unit}."
        )
