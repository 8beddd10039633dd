"""What all lists share: pages by key, and the opaque cursor from one page to the next."""

import base64
import binascii
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from tbpay import database
from tbpay.errors import InvalidInputError, excerpt
from tbpay.models import MAX_ID, MAX_LIMIT, Page, whole

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where in which list a page begins, after a key, and how many things it holds at most."""

    name: str
    limit: int | None
    after: int | None


def place(name: str, limit: int | None, cursor: str | None) -> Place:
    """Find the place in a list, before anything is read.

    ``limit`` is 1 … 1,000, or None for everything that is left. ``cursor`` is the ``next`` of the
    page before. Raises InvalidInputError, also for a cursor that this list never gave.
    """
    if limit is not None:
        whole(limit, "limit", 1, MAX_LIMIT)
    return Place(name, limit, None if cursor is None else _read(cursor, name))


def page(
    entity: Callable[[Any], T],
    statement: sa.Select[Any],
    key: sa.ColumnElement[int],
    here: Place,
    *,
    newest_first: bool = True,
) -> Page[T]:
    """Read one page of a statement, by a key that is unique and never changes."""
    limit, after = here.limit, here.after
    if limit is not None:
        statement = statement.limit(limit + 1)
    if after is not None:
        statement = statement.where(key < after if newest_first else key > after)
    statement = statement.add_columns(key.label("page_key"))
    with database.snapshot() as connection:
        found = connection.execute(
            statement.order_by(key.desc() if newest_first else key.asc())
        ).all()
    more = limit is not None and len(found) > limit
    shown = found[:limit]
    following = _write(shown[-1].page_key, here.name) if more else None
    return Page([entity(row) for row in shown], following)


def _write(last: int, name: str) -> str:
    return base64.urlsafe_b64encode(f"{name}:{last}".encode()).decode().rstrip("=")


def _read(cursor: str, name: str) -> int:
    """Read the last key of the page before; the name before it keeps the lists apart."""
    if type(cursor) is str and re.fullmatch("[A-Za-z0-9_-]{1,80}", cursor):
        with suppress(binascii.Error, UnicodeError):
            padded = cursor + "=" * (-len(cursor) % 4)
            last = base64.urlsafe_b64decode(padded).decode("ascii").removeprefix(f"{name}:")
            is_key = re.fullmatch("[1-9][0-9]{0,18}", last) and int(last) <= MAX_ID
            if is_key and cursor == _write(int(last), name):
                return int(last)
    raise InvalidInputError(f"{excerpt(cursor)} is not a cursor of this list")
