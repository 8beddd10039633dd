"""Engines, one for each database and process; and what the driver's errors mean.

Every connection keeps what was committed through a power cut (``synchronous=FULL``), holds the
foreign keys, and waits 30 seconds for another writer. No connection changes the journal mode.
"""

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from tbpay.database.location import Location
from tbpay.errors import Code, SchemaError, TbpayError, UnavailableError
from tbpay.schema import METADATA, REVISIONS, VERSION_TABLE

BUSY_SECONDS = 30
_TURN_SECONDS = 0.25

# How the next unit begins: plain BEGIN for a snapshot, BEGIN IMMEDIATE to change. A context
# variable and not an execution option, which costs as much as a statement.
_reading: ContextVar[bool] = ContextVar("tbpay_reading", default=False)

_engines: dict[Location, sa.Engine] = {}


def engine(location: Location) -> sa.Engine:
    """Answer this process's engine for a database, made at the first call."""
    made = _engines.get(location)
    # Of two threads that come at once one engine is kept; the other has not connected yet.
    return made if made is not None else _engines.setdefault(location, new_engine(location))


def new_engine(location: Location, *, foreign_keys: bool = True, **options: Any) -> sa.Engine:
    """Make an engine whose units are real: the driver begins nothing by itself."""
    made = sa.create_engine(
        location.url, connect_args={"timeout": _TURN_SECONDS}, hide_parameters=True, **options
    )

    @sa.event.listens_for(made, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        try:
            _once_free(
                connection,
                "PRAGMA synchronous=FULL",
                f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}",
            )
        except BaseException:
            # The pool drops a connection that it could not prepare without closing it.
            connection.close()
            raise

    @sa.event.listens_for(made, "begin")
    def _begin(connection: sa.Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if _reading.get():
            # A plain BEGIN locks nothing: what may have to wait is the first look.
            _once_free(driver, "BEGIN", "SELECT 1 FROM sqlite_master")
        else:
            _once_free(driver, "BEGIN IMMEDIATE")

    @sa.event.listens_for(made, "reset")
    def _roll_back(connection: sqlite3.Connection, _record: object, _state: object) -> None:
        # After a COMMIT that found the database busy, SQLAlchemy thinks that nothing is open.
        connection.rollback()

    return made


def _once_free(driver: sqlite3.Connection, *statements: str) -> None:
    """Wait for another writer in short turns: between two of them a signal is heard.

    Afterwards a statement waits in one piece: it is only a COMMIT that still may have to.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    driver.execute(f"PRAGMA busy_timeout={int(_TURN_SECONDS * 1000)}")
    try:
        while True:
            try:
                for statement in statements:
                    driver.execute(statement).fetchone()
                return
            except sqlite3.OperationalError as error:
                driver.rollback()
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > deadline:
                    raise
    finally:
        driver.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")


def insert_if_absent(table: sa.Table) -> sqlite.Insert:
    """Begin an INSERT that does nothing where a unique index says that the row is there."""
    return sqlite.insert(table).on_conflict_do_nothing()


def begin(connection: sa.Connection, *, reading: bool) -> None:
    """Begin on a connection: to read, without a lock, or to change, as the one writer."""
    how = _reading.set(reading)
    try:
        connection.begin()
    finally:
        _reading.reset(how)


def is_begun(connection: sa.Connection) -> bool:
    """Tell whether the driver is in a transaction, whatever SQLAlchemy thinks."""
    if connection.invalidated:
        return False
    return bool(getattr(connection.connection.dbapi_connection, "in_transaction", True))


def require_begun(connection: sa.Connection, location: Location) -> None:
    """Refuse to go on in a unit that SQLite has taken back whole, as it does when a disk fails.

    What came after would be kept without what came before.
    """
    if not is_begun(connection):
        raise _unavailable(
            Code.UNAVAILABLE, f"the unit of work was taken back by {location}: nothing was changed"
        )


def close() -> None:
    """Close every connection that is not in use; the next call opens a new one."""
    for made in _engines.values():
        made.dispose()
    _engines.clear()


# What a forked process got from its parent: kept, since even to forget a connection closes it.
_inherited: list[sa.Engine] = []


def _leave_to_parent() -> None:
    _inherited.extend(_engines.values())
    _engines.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


@contextmanager
def translated(location: Location) -> Iterator[None]:
    """Turn what the driver says about the world outside into tbpay's own refusals."""
    try:
        yield
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        refusal = _refusal(getattr(error, "orig", error), location)
        if refusal is None:
            raise
        raise refusal from error
    except sa.exc.TimeoutError as error:
        raise _unavailable(Code.BUSY, f"no connection came free to {location}") from error


def _refusal(error: BaseException | None, location: Location) -> TbpayError | None:
    extended = getattr(error, "sqlite_errorcode", None)
    match None if extended is None else extended & 0xFF:
        case sqlite3.SQLITE_BUSY if extended == sqlite3.SQLITE_BUSY_SNAPSHOT:
            changed = "another process has changed it since this unit began to read"
            return _unavailable(Code.BUSY, f"{location} is busy: {changed}")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return _unavailable(Code.BUSY, f"{location} is busy: another process keeps it locked")
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return _unavailable(Code.DISK_FULL, f"the disk of {location} is full or failing")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return _unavailable(Code.READ_ONLY, f"{location} is read-only")
        case sqlite3.SQLITE_CANTOPEN if _is_absent(location):
            return missing(location)
        case sqlite3.SQLITE_CANTOPEN:
            return _unavailable(Code.UNREACHABLE, f"{location} cannot be opened")
        case sqlite3.SQLITE_NOTADB:
            return _unavailable(Code.NOT_A_DATABASE, f"{location} is not a SQLite database")
        case sqlite3.SQLITE_CORRUPT:
            return _unavailable(Code.CORRUPT, f"{location} is damaged: restore a backup")
        case sqlite3.SQLITE_ERROR if _is_about_our_tables(str(error)):
            return SchemaError(f"the tables of {location} are not tbpay's: {error}")
    return None


def _is_absent(location: Location) -> bool:
    """Tell a file that is not there from one that may not be looked for."""
    try:
        location.path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def _is_about_our_tables(message: str) -> bool:
    """Tell a table or column of ours that is missing from the application's own mistakes."""
    missing = re.search(r"no such (?:table|column): (\w+)|table (\w+) has no column", message)
    return missing is not None and bool({*missing.groups()} & {VERSION_TABLE, *METADATA.tables})


def _unavailable(code: Code, message: str) -> UnavailableError:
    return UnavailableError(message, code=code)


def missing(location: Location) -> SchemaError:
    """Say that a database holds no tables of ours, or is not there at all."""
    return SchemaError(
        f"no tbpay tables in {location}",
        code=Code.SCHEMA_MISSING,
        hint=location.command("db upgrade"),
    )


def check_revision(connection: sa.Connection, location: Location) -> None:
    """Refuse a schema that is older or newer than the stores know; once a connection."""
    if connection.info.get("tbpay_revision") == REVISIONS[-1]:
        return
    found = revision(connection)
    if found is None:
        raise missing(location)
    if found in REVISIONS[:-1]:
        raise SchemaError(
            f"{location} is at revision {found}, this tbpay needs {REVISIONS[-1]}",
            code=Code.SCHEMA_BEHIND,
            hint=location.command("db upgrade"),
        )
    if found != REVISIONS[-1]:
        raise ahead(found, location)
    connection.info["tbpay_revision"] = found


def ahead(found: str, location: Location) -> SchemaError:
    """Say that a database was migrated by a newer tbpay, or by something else."""
    return SchemaError(
        f"{location} is at revision {found}, which this tbpay does not know: update tbpay",
        code=Code.SCHEMA_AHEAD,
    )


def revision(connection: sa.Connection) -> str | None:
    """Read the revision that a database is at; None where there is none."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    at = sa.select(sa.column("version_num", sa.String)).select_from(sa.table(VERSION_TABLE))
    return connection.execute(at).scalar()
