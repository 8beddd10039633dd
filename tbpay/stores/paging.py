"""What all lists share: pages by key, and the opaque cursor from one page to the next."""

import base64
import binascii
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from tbpay import database
from tbpay.errors import InvalidInputError, excerpt
from tbpay.models import MAX_ID, MAX_LIMIT, Page, whole

T = TypeVar("T")


def page(
    entity: Callable[[Any], T],
    statement: sa.Select[Any],
    key: sa.ColumnElement[int],
    *,
    limit: int | None,
    cursor: str | None,
    newest_first: bool = True,
) -> Page[T]:
    """Read one page of a statement, by a key that is unique and never changes.

    ``limit`` is 1 … 1,000, or None for everything that is left. ``cursor`` is the ``next`` of the
    page before. Raises InvalidInputError for a cursor that this list never gave.
    """
    if limit is not None:
        statement = statement.limit(whole(limit, "limit", 1, MAX_LIMIT) + 1)
    if cursor is not None:
        after = _read(cursor, str(key))
        statement = statement.where(key < after if newest_first else key > after)
    statement = statement.add_columns(key.label("page_key"))
    with database.snapshot() as connection:
        found = connection.execute(
            statement.order_by(key.desc() if newest_first else key.asc())
        ).all()
    more = limit is not None and len(found) > limit
    shown = found[:limit]
    following = _write(shown[-1].page_key, str(key)) if more else None
    return Page([entity(row) for row in shown], following)


def _write(last: int, key: str) -> str:
    return base64.urlsafe_b64encode(f"{key}:{last}".encode()).decode().rstrip("=")


def _read(cursor: str, key: str) -> int:
    """Read the last key of the page before; the name before it keeps the lists apart."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        name, _, last = (
            base64.b64decode(padded, b"-_", validate=True).decode("ascii").rpartition(":")
        )
        if name == key and last.isdecimal() and 1 <= int(last[:20]) <= MAX_ID:
            return int(last)
    except (AttributeError, UnicodeError, binascii.Error):
        pass
    raise InvalidInputError(f"{excerpt(cursor)} is not a cursor of this list")
