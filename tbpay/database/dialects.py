"""What SQLite and PostgreSQL have to be told in different words."""

import string
from functools import cache

import sqlalchemy as sa

from tbpay.database.units import connection

_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def insert_if_absent(table: sa.Table) -> sa.Insert:
    """Begin an INSERT that does nothing where a unique index says that the row is there."""
    return _insert_if_absent(table, connection().dialect.name)


@cache
def _insert_if_absent(table: sa.Table, dialect: str) -> sa.Insert:
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table).on_conflict_do_nothing()


def contains(column: sa.ColumnElement[str], part: str) -> sa.ColumnElement[bool]:
    """Search a column for a part of its text, every character for itself.

    Of letters ASCII's alone are the same in both cases: there the two databases agree.
    """
    lowered = sa.literal(part.translate(_ASCII_LOWER), sa.String)
    if connection().dialect.name == "postgresql":
        plain = sa.collate(sa.cast(column, sa.Text), "C")
        return sa.func.strpos(sa.func.lower(plain), lowered) > 0
    return sa.func.instr(sa.func.lower(column), lowered) > 0
