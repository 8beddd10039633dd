"""How a verification looks at a database in which anything may stand."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tbpay import schema
from tbpay.errors import InvalidInputError, NotFoundError
from tbpay.models import MAX_AMOUNT_CENTS, read_time, time_text

Condition = sa.ColumnElement[bool]

ROWS_AT_ONCE = 20_000

A_TIME = "a time such as 2026-11-23T08:13:00.000000Z"
AN_AMOUNT = f"0 to {MAX_AMOUNT_CENTS}"


@dataclass(frozen=True)
class Difference:
    """What is stored, and what it should be by all the rest of the ledger.

    ``subject`` is what is wrong there: ``line 17``, ``order 4``, ``code LAUNCH10``; ``field`` is a
    column of it, or what was counted. None is nothing; words are expected where no one value is.
    """

    check: str
    account_id: int | str | None
    subject: str
    field: str
    stored: int | str | None
    expected: int | str | None


@dataclass(frozen=True)
class Subject:
    """Something that a check looks at, and that may be wrong."""

    check: str
    account_id: object
    name: str

    def differs(self, field: str, stored: object, expected: object) -> Difference:
        """Answer the difference in one of its fields."""
        return Difference(
            self.check,
            _legible(self.account_id),
            self.name,
            field,
            _legible(stored),
            _legible(expected),
        )

    def compared(self, field: str, stored: object, expected: object) -> Iterator[Difference]:
        """Answer the difference in a field, if there is one."""
        if stored != expected:
            yield self.differs(field, stored, expected)

    def timed(self, row: Any, *fields: str, perhaps: Iterable[str] = ()) -> Iterator[Difference]:
        """Answer the differences in fields that should be times; or nothing, in some perhaps."""
        for field in (*fields, *perhaps):
            stored = getattr(row, field)
            if not _is_time(stored) and not (stored is None and field in perhaps):
                yield self.differs(field, stored, A_TIME)


def is_amount(value: object) -> bool:
    """Tell whether a value is an amount in cents."""
    return type(value) is int and 0 <= value <= MAX_AMOUNT_CENTS


def one_of(words: Iterable[str]) -> str:
    """Name the words of which one is expected."""
    return " or ".join(words)


def _is_time(stored: object) -> bool:
    try:
        return isinstance(stored, str) and time_text(read_time(stored)) == stored
    except InvalidInputError:
        return False


def _legible(value: object) -> int | str | None:
    if value is None or isinstance(value, int):
        return value
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


# The same in SQL. What is no amount becomes NULL there, with which no sum can overflow.


def amount(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Answer a column where it holds an amount, else NULL."""
    return within(column, 0, MAX_AMOUNT_CENTS)


def within(column: sa.ColumnElement[Any], lowest: int, highest: int) -> sa.ColumnElement[Any]:
    """Answer a column where it holds a whole number within bounds, else NULL.

    SQLite keeps fractions, too.
    """
    whole = column == sa.cast(column, sa.BigInteger)
    return sa.case((sa.and_(column.between(lowest, highest), whole), column))


def timed(
    *columns: sa.ColumnElement[Any], perhaps: Iterable[sa.ColumnElement[Any]] = ()
) -> Condition:
    """Ask whether columns hold times as they are kept; or nothing, in some perhaps."""
    return sa.and_(
        *(column.like(_TIME) for column in columns),
        *(sa.or_(column.is_(None), column.like(_TIME)) for column in perhaps),
    )


_TIME = "____-__-__T__:__:__.______Z"


def unless(sound: Condition) -> Condition:
    """Ask for the rows that are not sound: those of which the database cannot tell, too."""
    return sound.is_not(sa.true())


@dataclass(frozen=True)
class Scope:
    """What is verified: a view of the whole ledger, or of what in it is one account's."""

    connection: sa.Connection
    account_id: int | None

    def require(self) -> None:
        """Raise NotFoundError for an account that is not there."""
        if self.account_id is None:
            return
        accounts = schema.accounts
        there = sa.select(accounts.c.id).where(accounts.c.id == self.account_id)
        if self.connection.execute(there).first() is None:
            raise NotFoundError(f"no account {self.account_id}")

    def owns(self, table: sa.Table) -> Condition:
        """Ask for the rows of a table that are in scope."""
        if self.account_id is None:
            return sa.true()
        orders, redemptions = schema.orders, schema.discount_redemptions
        own_orders = sa.select(orders.c.id).where(orders.c.account_id == self.account_id)
        if table is schema.order_refunds:
            return table.c.order_id.in_(own_orders)
        if table is redemptions:
            return sa.or_(table.c.account_id == self.account_id, table.c.order_id.in_(own_orders))
        if table is schema.discount_codes:
            used = sa.select(redemptions.c.discount_code_id).where(self.owns(redemptions))
            return table.c.id.in_(used)
        return table.c.account_id == self.account_id

    def count(self, table: sa.Table) -> int:
        """Count the rows of a table that are in scope."""
        counted = sa.select(sa.func.count()).select_from(table).where(self.owns(table))
        return int(self.connection.execute(counted).scalar_one())

    def steps(self, key: sa.Column[Any]) -> Iterator[Condition]:
        """Walk a table by a key, so many rows at a time, and ask for the rows of each step.

        Rows of the same key stay together. The last step takes whatever is left.
        """
        own = self.owns(key.table)
        beyond: Condition = sa.true()
        rest = beyond
        while type(last := self._last_of_step(key, beyond)) is int:
            yield sa.and_(own, beyond, key <= last)
            beyond = key > last
            rest = sa.or_(beyond, key.is_(None))
        yield sa.and_(own, rest)

    def _last_of_step(self, key: sa.Column[Any], beyond: Condition) -> Any:
        ahead = sa.select(key).where(self.owns(key.table), beyond).order_by(key)
        return self.connection.execute(ahead.offset(ROWS_AT_ONCE - 1).limit(1)).scalar()

    def rows(self, statement: sa.Select[Any]) -> Iterator[Any]:
        """Ask for rows."""
        yield from self.connection.execute(statement)


@contextmanager
def answering_anything(connection: sa.Connection) -> Iterator[None]:
    """Let a database answer whatever it keeps, and without going to lengths over a question."""
    if connection.dialect.name != "sqlite":
        # To compile a statement first takes PostgreSQL longer than each of ours runs.
        connection.exec_driver_sql("SET LOCAL jit = off")
        yield
        return
    driver: Any = connection.connection.driver_connection
    before = driver.text_factory
    # Where it keeps as text what is none, SQLite's driver would fail.
    driver.text_factory = lambda kept: kept.decode(errors="backslashreplace")
    try:
        yield
    finally:
        driver.text_factory = before
