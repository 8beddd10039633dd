"""SQLite: one writer at a time, who begins for real.

Every connection keeps what was committed through a power cut (``synchronous=FULL``), holds the
foreign keys, lets no OR REPLACE past a trigger, trusts no function that a schema brought along,
and waits 30 seconds for another writer. No connection changes the journal mode.
"""

import sqlite3
import time
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from tbpay.database import beginning
from tbpay.database.beginning import Beginning
from tbpay.database.location import File

_TURN_SECONDS = 0.25


def new_engine(file: File, *, foreign_keys: bool, **options: Any) -> sa.Engine:
    """Make an engine whose units are real: the driver begins nothing by itself."""
    made = sa.create_engine(
        file.url, connect_args={"timeout": _TURN_SECONDS}, hide_parameters=True, **options
    )

    @sa.event.listens_for(made, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        try:
            _once_free(
                connection,
                "PRAGMA synchronous=FULL",
                f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}",
                "PRAGMA recursive_triggers=ON",
                "PRAGMA trusted_schema=OFF",
            )
        except BaseException:
            # The pool drops a connection that it could not prepare without closing it.
            connection.close()
            raise

    @sa.event.listens_for(made, "reset")
    def _roll_back(connection: sqlite3.Connection, _record: object, _state: object) -> None:
        # After a COMMIT that found the database busy, SQLAlchemy thinks that nothing is open.
        connection.rollback()

    # Not by an event: where an engine has any, every statement of every unit looks for them.
    made.dialect.do_begin = _begin  # type: ignore[assignment,method-assign]  # its purpose
    return made


def _begin(connection: Any) -> None:
    if beginning.asked() is Beginning.TO_READ:
        # A plain BEGIN locks nothing: what may have to wait is the first look.
        _once_free(connection.driver_connection, "BEGIN", "SELECT 1 FROM sqlite_master")
        return
    _once_free(connection.driver_connection, "BEGIN IMMEDIATE")
    if connection.info.pop(beginning.REVISION, None) is not None:
        # Somebody may have migrated since the connection was looked at.
        with suppress(sqlite3.Error, TypeError):
            [found] = connection.driver_connection.execute(beginning.READ_REVISION).fetchone()
            connection.info[beginning.REVISION] = found


def _once_free(driver: sqlite3.Connection, *statements: str) -> None:
    """Wait for another writer in short turns: between two of them a signal is heard.

    Afterwards a statement waits in one piece: it is only a COMMIT that still may have to.
    """
    deadline = time.monotonic() + beginning.BUSY_SECONDS
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
        driver.execute(f"PRAGMA busy_timeout={int(beginning.BUSY_SECONDS * 1000)}")
