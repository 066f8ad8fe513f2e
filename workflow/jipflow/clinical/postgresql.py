"""A PostgreSQL database, read in one transaction that cannot write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jipflow.reasons import PlaceError, StageError
from jipflow.settings.clinical import Omop
from jipflow.settings.extras import install_command
from jipflow.settings.resources import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from jipflow.clinical.records import Rows

CONNECT_SECONDS = 30
IDLE_SECONDS = 600
"""How long the server keeps a transaction of ours that asks nothing."""
BATCH = 10_000

MIGHTY = (
    "SELECT rolsuper OR pg_has_role(rolname, 'pg_read_server_files', 'MEMBER')"
    " OR pg_has_role(rolname, 'pg_write_server_files', 'MEMBER')"
    " OR pg_has_role(rolname, 'pg_execute_server_program', 'MEMBER')"
    " FROM pg_roles WHERE rolname = current_user"
)
"""Whether a SELECT of the account can reach the server's files or start its programs."""

PLACE_CLASSES = ("08", "53", "55", "57", "58", "40")
"""Classes of SQLSTATE that are of the place: connection, resources, state, operator, system, and a
conflict with other transactions (PostgreSQL, appendix A)."""
TOO_SLOW = "57014"
DATA = "22"
"""Class of SQLSTATE of a value; its message repeats the value."""


@contextmanager
def opened(source: Omop) -> Iterator[Rows]:
    """Yield what runs a SELECT in a transaction that sees one state of the database.

    A SELECT is put into another one and sent with a parameter, so the server's parser refuses all
    else: a second statement, a statement that changes data, COPY. What is left are functions, and
    those that reach files or programs need rights that an account may not have here.

    Args:
        source: the database; ``password_env`` names the variable of the password.

    Raises:
        ConfigError: the libraries or the password are not there.
        PlaceError: the database does not answer.
        StageError: the account has rights over the server's files or programs.
    """
    try:
        import psycopg  # noqa: F401
        from sqlalchemy import create_engine
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import DBAPIError
        from sqlalchemy.pool import NullPool
    except ImportError as error:
        raise ConfigError(
            f"clinical.database: PostgreSQL needs {error.name}, not installed here; say: "
            f"{install_command('omop')}"
        ) from None
    url = make_url(source.database).set(drivername="postgresql+psycopg")
    if source.password_env is not None:
        url = url.set(password=_password(source.password_env))
    milliseconds = round(source.seconds * 1000)
    options = (
        "-c default_transaction_read_only=on"
        f" -c statement_timeout={milliseconds}"
        f" -c idle_in_transaction_session_timeout={IDLE_SECONDS * 1000}"
    )
    engine = create_engine(
        url,
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"connect_timeout": CONNECT_SECONDS, "options": options},
        execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
    )
    try:
        connection = engine.connect()
    except DBAPIError as error:
        raise PlaceError(
            f"clinical.database: {url.render_as_string(hide_password=True)} does not answer: "
            f"{_first_line(error.orig)}"
        ) from None
    with connection:
        _read_any_date(connection)
        if connection.exec_driver_sql(MIGHTY).scalar():
            raise StageError(
                "clinical.database: the account may read files or start programs of the database's "
                "server; name one that can do nothing but read the tables (GRANT SELECT)."
            )

        def rows(select: str, context: str) -> tuple[list[str], Iterator[Sequence[Any]]]:
            try:
                _execute(connection, select, source.rows + 1, "EXPLAIN ")
            except DBAPIError as error:
                raise _explained(error.orig, context, source.seconds, planned=False) from None
            try:
                result = _execute(connection, select, source.rows + 1)
                # The transaction's cursor holds nothing back: what is bounded is read at once.
                return list(result.keys()), iter(result.fetchall())
            except DBAPIError as error:
                raise _explained(error.orig, context, source.seconds, planned=True) from None

        yield rows


def _read_any_date(connection: Connection) -> None:
    """Read dates that Python has none for, as infinity, as their text: they are of one patient."""
    from psycopg import DataError
    from psycopg.types import datetime as types

    adapters: Any = getattr(connection.connection.driver_connection, "adapters", None)
    for name in ("date", "timestamp", "timestamptz"):
        known: Any = getattr(types, f"{name.capitalize()}Loader")

        def load(self: Any, data: Any, known: Any = known) -> Any:
            try:
                return known.load(self, data)
            except DataError:
                return bytes(data).decode()

        adapters.register_loader(name, type(known.__name__, (known,), {"load": load}))


def _password(variable: str) -> str:
    password = os.environ.get(variable)
    if not password:
        raise ConfigError(
            f"clinical.password_env: the environment variable {variable} is not set; set it to the "
            "password where the run is started."
        )
    return password


def _execute(connection: Connection, select: str, most: int, how: str = "") -> Any:
    text = select.strip().removesuffix(";").replace("%", "%%")
    query = f"{how}SELECT * FROM (\n{text}\n) AS records LIMIT %(most)s"
    return connection.exec_driver_sql(query, {"most": most})


def _explained(
    error: BaseException | None, context: str, seconds: float, *, planned: bool
) -> StageError:
    """Return an error without the values of patients that the server's message repeats.

    Args:
        error: of the driver.
        context: the SELECT, for the message.
        seconds: that it may take.
        planned: whether the server has planned it, so that what fails is a value, which errors of
            any class may repeat.
    """
    state = str(getattr(error, "sqlstate", None) or "")
    if state == TOO_SLOW:
        return PlaceError(
            f"{context} took more than {seconds:g} s and was ended; narrow it, or raise `seconds` "
            "in the site's clinical."
        )
    if not state or state.startswith(PLACE_CLASSES):
        return PlaceError(f"{context} was not answered: {_first_line(error)}")
    if planned or state.startswith(DATA):
        return StageError(
            f"{context} fails at a value, which cannot be converted (SQLSTATE {state})."
        )
    return StageError(f"{context} is refused: {_first_line(error)}")


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().splitlines()[0] if error else "no reason is given"
