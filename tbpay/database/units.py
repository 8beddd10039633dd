"""The doors to the database: a unit of work to change, a snapshot to read."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from tbpay.database import engines
from tbpay.database.location import Location, locate
from tbpay.errors import InvalidInputError

T = TypeVar("T")


@dataclass(frozen=True)
class _Unit:
    connection: sa.Connection
    reading: bool
    thread: int = field(default_factory=threading.get_ident)


_current: ContextVar[_Unit | None] = ContextVar("tbpay_unit", default=None)
_configured: Location | None = None

# A unit that is open in the parent is the parent's: the child begins with none.
os.register_at_fork(after_in_child=lambda: _current.set(None))


def configure(database_url: str, *, source: str = "configure()") -> None:
    """Choose the database for this process, instead of what the environment says.

    ``database_url`` is a path or a URL; ``source`` is how messages say where it came from. Raises
    InvalidInputError for what names no database.
    """
    global _configured
    if type(database_url) is not str:
        raise InvalidInputError("database_url must be text")
    _configured = locate(database_url, source)


def reset() -> None:
    """Forget what was configured and close what is open: back to what the environment says."""
    global _configured
    _configured = None
    engines.close()


def location() -> Location:
    """Answer which database this process works on."""
    return _configured or locate()


def atomically(work: Callable[[], T]) -> T:
    """Do the work in one unit of its own, or as a part of the unit that is open.

    Where the database can ask for a unit to be repeated, this is what repeats it: therefore a
    function, since a ``with`` block cannot be run twice.
    """
    with unit_of_work():
        return work()


@contextmanager
def unit_of_work(connection: sa.Connection | None = None) -> Iterator[sa.Connection]:
    """Open a unit: everything in the block is kept together, or nothing of it.

    Inside an open unit it is a part of that unit (a savepoint), so that a refusal takes back the
    part alone. With the application's own ``connection`` it joins the transaction there: tbpay
    then neither commits nor rolls back. A unit belongs to one thread.
    """
    outer = _outer()
    if connection is not None:
        if outer is not None and outer.connection is not connection:
            raise RuntimeError("a unit of work is open on another connection")
        with _joined(connection):
            yield connection
    elif outer is None:
        with _opened(reading=False) as own:
            yield own
    elif outer.reading:
        raise RuntimeError("a snapshot only reads: open the unit of work outside it")
    else:
        with outer.connection.begin_nested():
            yield outer.connection


@contextmanager
def snapshot() -> Iterator[sa.Connection]:
    """Open one consistent view for reading, without a write lock; in a unit, that unit's view."""
    outer = _outer()
    if outer is not None:
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
    with engines.translated(where), engines.engine(where).connect() as own:
        how = engines.reading.set(reading)
        try:
            own.begin()
        finally:
            engines.reading.reset(how)
        engines.check_revision(own, where)
        unit = _current.set(_Unit(own, reading))
        try:
            yield own
            own.commit()
        finally:
            _current.reset(unit)


@contextmanager
def _joined(connection: sa.Connection) -> Iterator[None]:
    file = connection.engine.url.database or ":memory:"
    where = Location(Path(file), "the application's connection")
    with engines.translated(where):
        _begin_for_real(connection)
        engines.check_revision(connection, where)
        unit = _current.set(_Unit(connection, reading=False))
        try:
            with connection.begin_nested():
                yield
        finally:
            _current.reset(unit)


def _begin_for_real(connection: sa.Connection) -> None:
    """Begin where the driver has put that off: its RELEASE of a savepoint would else commit."""
    if not connection.in_transaction():
        connection.begin()
    driver = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite" and not getattr(driver, "in_transaction", True):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
