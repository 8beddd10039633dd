"""How a unit of work begins, and how long it waits for the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum, auto

from tbpay.schema import VERSION_TABLE

BUSY_SECONDS = 30

REVISION = "tbpay_revision"
"""Under this name a connection knows the revision that its schema was found at."""

READ_REVISION = f"SELECT version_num FROM {VERSION_TABLE}"  # noqa: S608 - our own word


class Beginning(Enum):
    """What a unit is for: it decides what is locked, and which view the database gives."""

    TO_CHANGE = auto()
    TO_READ = auto()
    TO_MIGRATE = auto()


# A context variable and not an execution option, which costs as much as a statement.
_asked: ContextVar[Beginning] = ContextVar("tbpay_beginning", default=Beginning.TO_CHANGE)


@contextmanager
def asking(beginning: Beginning) -> Iterator[None]:
    """Let the units that begin in this block begin so."""
    before = _asked.set(beginning)
    try:
        yield
    finally:
        _asked.reset(before)


def asked() -> Beginning:
    """Answer how the unit that begins now is to begin."""
    return _asked.get()
