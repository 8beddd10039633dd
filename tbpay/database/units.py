"""The doors to the database: a unit of work to change, a snapshot to read."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from tbpay.database import beginning, engines, refusals
from tbpay.database.location import File, Location, Server, locate
from tbpay.errors import InvalidInputError, OutcomeUnknownError, SchemaError, UnavailableError

T = TypeVar("T")

# Between two tries of a unit: at random, up to a limit that is doubled each time.
_SHORTEST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class _Unit:
    connection: sa.Connection
    location: Location
    reading: bool
    thread: int = field(default_factory=threading.get_ident)


_current: ContextVar[_Unit | None] = ContextVar("tbpay_unit", default=None)
_configured: Location | None = None

# A unit that is open in the parent is the parent's: the child begins with none.
os.register_at_fork(after_in_child=lambda: _current.set(None))


def configure(database_url: str) -> None:
    """Choose the database for this process, instead of what the environment says.

    ``database_url`` is a path or a URL. Raises InvalidInputError for what names no database.
    """
    global _configured
    if type(database_url) is not str:
        raise InvalidInputError("database_url must be text")
    _configured = locate(database_url)


def reset() -> None:
    """Forget what was configured and close what is open: back to what the environment says."""
    global _configured
    _configured = None
    engines.close()


def location() -> Location:
    """Answer which database this process works on."""
    return _configured or locate()


def atomically(work: Callable[[], T], *, repeatable: bool = False) -> T:
    """Do the work in one unit of its own, or as a part of the unit that is open.

    A unit of its own that collides with another, in a deadlock or under a strict isolation level,
    is done again until it is kept or 30 seconds have passed: therefore a function, since a
    ``with`` block cannot be run twice. Inside an open unit nothing is repeated.

    ``repeatable`` says that the work finds out by itself, by its key or by what it has to change,
    whether it is done already. Then it is done again, too, where the connection died while it
    committed: else OutcomeUnknownError is all that can be said.
    """
    if _outer() is not None:
        with unit_of_work():
            return work()
    unknown: OutcomeUnknownError | None = None
    deadline, pause_seconds = _deadline(), _SHORTEST_PAUSE_SECONDS
    while True:
        try:
            with unit_of_work():
                return work()
        except (OutcomeUnknownError, UnavailableError, SchemaError) as refusal:
            if unknown is None and repeatable and isinstance(refusal, OutcomeUnknownError):
                unknown, deadline = refusal, _deadline()
            elif unknown is None and not refusals.is_collision(refusal):
                raise
            if isinstance(refusal, SchemaError) or time.monotonic() > deadline:
                raise unknown or refusal from refusal.__cause__
        time.sleep(random.uniform(0, pause_seconds))  # noqa: S311 - who goes first is no secret
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)


def _deadline() -> float:
    return time.monotonic() + beginning.BUSY_SECONDS


@contextmanager
def unit_of_work(connection: sa.Connection | None = None) -> Iterator[sa.Connection]:
    """Open a unit: everything in the block is kept together, or nothing of it.

    Inside an open unit it is a part of that unit (a savepoint), so that a refusal takes back the
    part alone. With the application's own ``connection`` it joins the transaction there: tbpay
    then neither commits nor rolls back.

    A unit belongs to one thread, and one task, of one process: a process that is forked inside it
    may read, but has to leave by ``os._exit`` or ``exec``, and cannot write.
    """
    if not isinstance(connection, sa.Connection | None):
        raise TypeError(
            "unit_of_work takes a Connection; of a Session that is session.connection()"
        )
    outer = _outer()
    if outer is not None and outer.reading:
        raise RuntimeError("a snapshot only reads: open the unit of work outside it")
    if outer is not None:
        if connection not in (None, outer.connection):
            raise RuntimeError("a unit of work is open on another connection")
        with _part(outer):
            yield outer.connection
    elif connection is not None:
        with _joined(connection):
            yield connection
    else:
        with _opened(reading=False) as own:
            yield own


@contextmanager
def snapshot() -> Iterator[sa.Connection]:
    """Open one consistent view for reading, without a write lock; in a unit, that unit's view."""
    outer = _outer()
    if outer is not None:
        with engines.translated(outer.location):
            yield outer.connection
    else:
        with _opened(reading=True) as own:
            yield own


def connection() -> sa.Connection:
    """Answer the connection of the unit or snapshot that is open."""
    outer = _outer()
    if outer is None:
        raise RuntimeError("no unit of work is open")
    return outer.connection


def _outer() -> _Unit | None:
    outer = _current.get()
    if outer is not None and outer.thread != threading.get_ident():
        raise RuntimeError("a unit of work belongs to the thread that opened it")
    return outer


@contextmanager
def _opened(*, reading: bool) -> Iterator[sa.Connection]:
    where = location()
    engine = engines.engine(where)
    with _explained(engine, where), engine.connect() as own:
        engines.begin(own, reading=reading)
        engines.check_revision(own, where)
        unit = _Unit(own, where, reading)
        with _current_unit(unit):
            yield own
            engines.require_begun(own, where)
        _commit(unit)


def _commit(unit: _Unit) -> None:
    try:
        unit.connection.commit()
    except sa.exc.DBAPIError as error:
        if unit.reading or not refusals.is_silence(error):
            raise
        raise OutcomeUnknownError(
            f"the connection to {unit.location} was lost while it committed:"
            " whether the change was kept is not known"
        ) from error


@contextmanager
def _joined(connection: sa.Connection) -> Iterator[None]:
    where = _location_of(connection.engine)
    with _explained(connection.engine, where):
        _begin_for_real(connection)
        unit = _Unit(connection, where, reading=False)
        with _current_unit(unit), _part(unit):
            engines.look_again(connection)
            engines.check_revision(connection, where)
            yield


def _location_of(engine: sa.Engine) -> Location:
    source = "the application's connection"
    if engine.dialect.name == "sqlite":
        return File(Path(engine.url.database or ":memory:"), source)
    return Server(engine.url, source)


@contextmanager
def _explained(engine: sa.Engine, where: Location) -> Iterator[None]:
    """Where a statement fails, say so in our words; where the tables were migrated, say that.

    What it fails by then the new tables decide: a column that must have a value, a guard, a type.
    """
    try:
        with engines.translated(where):
            yield
    except (sa.exc.DBAPIError, SchemaError):
        engines.require_same_revision(engine, where)
        raise


@contextmanager
def _part(unit: _Unit) -> Iterator[None]:
    """Do a part of a unit: what refuses is taken back alone, and the unit can go on."""
    with engines.translated(unit.location):
        engines.require_begun(unit.connection, unit.location)
        savepoint = unit.connection.begin_nested()
        try:
            yield
            engines.require_begun(unit.connection, unit.location)
            savepoint.commit()
        except BaseException:
            try:
                savepoint.rollback()
            except sa.exc.DBAPIError:
                if engines.is_begun(unit.connection):
                    raise
                # The whole unit was taken back, which SQLAlchemy would not notice by itself.
                unit.connection.invalidate()
            raise


@contextmanager
def _current_unit(unit: _Unit) -> Iterator[None]:
    before = _current.set(unit)
    try:
        yield
    finally:
        _current.reset(before)


def _begin_for_real(connection: sa.Connection) -> None:
    """Begin where the driver has put that off: its RELEASE of a savepoint would else commit."""
    if not connection.in_transaction():
        connection.begin()
    if engines.is_begun(connection):
        return
    driver: Any = connection.connection.dbapi_connection
    is_sqlite = connection.dialect.name == "sqlite"
    # Of Python 3.12's two ways, autocommit=True makes the driver's own commit() do nothing.
    by_itself = is_sqlite and driver.isolation_level is None
    if by_itself or getattr(driver, "autocommit", None) is True:
        raise RuntimeError("the application's connection commits every statement by itself")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_sqlite else "SELECT 1")
