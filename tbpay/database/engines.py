"""Engines, one for each database and process: SQLite's and PostgreSQL's through the same doors."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import sqlalchemy as sa

from tbpay.database import beginning, refusals, sqlite
from tbpay.database.beginning import Beginning, asking
from tbpay.database.location import File, Location
from tbpay.errors import Code, UnavailableError
from tbpay.schema import REVISIONS, VERSION_TABLE

_engines: dict[Location, sa.Engine] = {}


def engine(location: Location) -> sa.Engine:
    """Answer this process's engine for a database, made at the first call."""
    made = _engines.get(location)
    # Of two threads that come at once one engine is kept; the other has not connected yet.
    return made if made is not None else _engines.setdefault(location, new_engine(location))


def new_engine(location: Location, *, foreign_keys: bool = True, **options: Any) -> sa.Engine:
    """Make an engine. Without foreign keys only SQLite can do, and only to rebuild a table."""
    if isinstance(location, File):
        return sqlite.new_engine(location, foreign_keys=foreign_keys, **options)
    # Its driver takes as long to load as everything else together.
    from tbpay.database import postgres

    return postgres.new_engine(location, **options)


def begin(connection: sa.Connection, *, reading: bool) -> None:
    """Begin on a connection: to read, in one view and without a lock, or to change."""
    _begin(connection, Beginning.TO_READ if reading else Beginning.TO_CHANGE)


def begin_migration(connection: sa.Connection) -> None:
    """Begin on a connection to migrate: no other migration runs until this one has ended.

    What was read before this call may not be true any more.
    """
    _begin(connection, Beginning.TO_MIGRATE)


def _begin(connection: sa.Connection, beginning: Beginning) -> None:
    with asking(beginning):
        try:
            connection.begin()
        except sa.exc.DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # The server had closed it while it lay in the pool. Nothing is done yet, so that the
            # next one may do it; that one is new.
            connection.begin()


def is_begun(connection: sa.Connection) -> bool:
    """Tell whether the driver is in a transaction, whatever SQLAlchemy thinks."""
    if connection.invalidated:
        return False
    status = _transaction_status(connection)
    if status is not None:
        return status != _IDLE
    # Of the other drivers one that keeps every statement at once is never in a transaction.
    at_once = getattr(connection.connection.dbapi_connection, "autocommit", None) is True
    return bool(getattr(connection.connection.driver_connection, "in_transaction", not at_once))


_IDLE, _FAILED = 0, 3  # libpq's PQTRANS_IDLE and PQTRANS_INERROR


def _transaction_status(connection: sa.Connection) -> int | None:
    """Ask psycopg, of either generation, where its transaction stands; others cannot tell."""
    info = getattr(connection.connection.driver_connection, "info", None)
    status = getattr(info, "transaction_status", None)
    return None if status is None else int(status)


def require_begun(connection: sa.Connection, location: Location) -> None:
    """Refuse to go on in a unit that the database has taken back whole, or is going to.

    SQLite does when a disk fails, and would keep what came after without what came before.
    PostgreSQL does when a statement has failed, and would answer a COMMIT as if nothing were.
    """
    if not is_begun(connection):
        raise UnavailableError(
            f"the unit of work was taken back by {location}: nothing was changed",
            code=Code.UNAVAILABLE,
        )
    if _transaction_status(connection) == _FAILED:
        raise refusals.undone(location)


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
        refusal = refusals.refusal(error, location)
        if refusal is None:
            raise
        raise refusal from error
    except sa.exc.TimeoutError as error:
        raise UnavailableError(f"no connection came free to {location}", code=Code.BUSY) from error


def check_revision(connection: sa.Connection, location: Location) -> None:
    """Refuse a schema that is older or newer than the stores know.

    Once a connection; a unit that changes something has looked again when it began.
    """
    if connection.info.get(beginning.REVISION) == REVISIONS[-1]:
        return
    found = revision(connection)
    if (refusal := refusals.of_revision(found, location)) is not None:
        raise refusal
    connection.info[beginning.REVISION] = found


def look_again(connection: sa.Connection) -> None:
    """Let a connection that is not ours forget its revision, where it is not that any more."""
    if connection.info.get(beginning.REVISION) is not None:
        found = connection.exec_driver_sql(beginning.READ_REVISION).scalar()
        connection.info[beginning.REVISION] = found


def revision(connection: sa.Connection) -> str | None:
    """Read the revision that a database is at; None where there is none."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    at = sa.select(sa.column("version_num", sa.String)).select_from(sa.table(VERSION_TABLE))
    return connection.execute(at).scalar()


def require_same_revision(engine: sa.Engine, location: Location) -> None:
    """Refuse a schema that was changed under us, after its connections were checked.

    It looks through a connection of its own, beside the pool, which may be at its limit or have
    no other than the one in use. Where that cannot be had nothing is refused.
    """
    beside = engine.pool.recreate()
    found = REVISIONS[-1]
    with suppress(Exception), closing(beside.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute(beginning.READ_REVISION)
        [found] = cursor.fetchone() or [found]
    beside.dispose()
    if (refusal := refusals.of_revision(found, location)) is not None:
        if engine is _engines.get(location):
            # Its other connections were checked too: the next ones will be looked at again.
            engine.dispose()
        raise refusal
