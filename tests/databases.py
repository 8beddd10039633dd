"""The databases that tests work on, SQLite's and PostgreSQL's alike, seen from outside tbpay."""

import os
import shutil
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import postgres
import psycopg
import sqlalchemy as sa

from tbpay.schema import METADATA


class Database(ABC):
    """A database of a test's own. ``url`` is what TBPAY_DATABASE_URL says, ``str()`` its name."""

    dialect: str
    url: str

    @abstractmethod
    def copy(self, path: Path) -> "Database":
        """Make another one like it; of a file the copy lies at ``path``."""

    def lend(self, path: Path) -> "Database":
        """The same of one that nobody changes any more: it may have been lent before, unchanged."""
        return self.copy(path)

    @abstractmethod
    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask it, with a question mark in the place of each value."""

    @abstractmethod
    def run(self, *statements: str) -> None:
        """Change it, in one transaction."""

    @abstractmethod
    def dump(self) -> list[str]:
        """Write all of it down: nothing was changed where two dumps are equal."""

    @abstractmethod
    def another(self) -> AbstractContextManager[Any]:
        """Connect as somebody else, who begins and ends by himself and does not wait at all."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[Any]:
        """Write as somebody else, so that whoever wants to write too must wait; keep nothing."""

    @abstractmethod
    def engine(self, **options: Any) -> sa.Engine:
        """Make an engine as an application makes it."""

    @abstractmethod
    def drop(self) -> None:
        """Take it away."""


class SqliteDatabase(Database):
    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def __str__(self) -> str:
        return self.url

    def __fspath__(self) -> str:
        return self.url

    def copy(self, path: Path) -> "SqliteDatabase":
        shutil.copy(self.path, path)
        return SqliteDatabase(path)

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(sql, values).fetchall()

    def run(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    def dump(self) -> list[str]:
        with closing(sqlite3.connect(self.path)) as connection:
            return list(connection.iterdump())

    @contextmanager
    def another(self) -> Iterator[sqlite3.Connection]:
        connect = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        with closing(connect) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        with self.another() as writer:
            writer.execute("BEGIN IMMEDIATE")
            yield writer
            writer.execute("ROLLBACK")

    def engine(self, **options: Any) -> sa.Engine:
        return sa.create_engine(f"sqlite:///{self.path}", **options)

    def drop(self) -> None:
        self.path.unlink()


class PostgresDatabase(Database):
    dialect = "postgresql"

    def __init__(self, url: str) -> None:
        self.url = url
        # Kept open from one question to the next; of each process that asks, one.
        self._connections: dict[int, psycopg.Connection[tuple[Any, ...]]] = {}

    def __str__(self) -> str:
        return sa.make_url(self.url).render_as_string(hide_password=True)

    @classmethod
    def new(cls) -> "PostgresDatabase":
        """Make an empty one."""
        return cls(postgres.new_database())

    def copy(self, path: Path) -> "PostgresDatabase":  # noqa: ARG002 - that is for files
        self._close()
        return PostgresDatabase(postgres.new_database(template=self.url))

    def lend(self, path: Path) -> "PostgresDatabase":  # noqa: ARG002 - that is for files
        self._close()
        return PostgresDatabase(postgres.lend(self.url))

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        if not values:
            return self._connection.execute(sql.encode()).fetchall()
        asked = sql.replace("%", "%%").replace("?", "%s")
        return self._connection.execute(asked.encode(), values).fetchall()

    def run(self, *statements: str) -> None:
        with self._connection.transaction():
            for statement in statements:
                self._connection.execute(statement.encode())

    def dump(self) -> list[str]:
        shape = self.rows(_SHAPE)
        tables = [name for kind, name, *_ in shape if kind == "table"]
        return [" ".join(map(str, line)) for line in shape] + [
            f"{table} {row}"
            for table in tables
            for row in sorted(self.rows(f'SELECT * FROM "{table}"'), key=repr)
        ]

    @contextmanager
    def another(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '1ms'")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        with self.another() as writer, writer.transaction(force_rollback=True):
            writer.execute(f"LOCK TABLE {', '.join(METADATA.tables)} IN EXCLUSIVE MODE".encode())
            yield writer

    def engine(self, **options: Any) -> sa.Engine:
        return sa.create_engine(
            self.url.replace("postgresql:", "postgresql+psycopg:", 1), **options
        )

    def drop(self) -> None:
        self._close()
        postgres.drop(self.url)

    @property
    def _connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        found = self._connections.get(os.getpid())
        if found is None or found.closed:
            found = self._connections[os.getpid()] = psycopg.connect(
                self.url, autocommit=True, prepare_threshold=None
            )
        return found

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        if (kept := self._connections.pop(os.getpid(), None)) is not None:
            kept.close()


# What makes the tables what they are, each thing under its kind and its name.
_SHAPE = """
SELECT 'table', relname::text, relkind::text FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
UNION ALL
SELECT 'view', relname, pg_get_viewdef(oid) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm')
UNION ALL
SELECT 'column', attrelid::regclass || '.' || attname, concat_ws(
        ' ', format_type(atttypid, atttypmod), (SELECT collname FROM pg_collation c
        WHERE c.oid = attcollation), CASE WHEN attnotnull THEN 'NOT NULL' END,
        pg_get_expr(adbin, adrelid))
    FROM pg_attribute a LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attnum > 0 AND NOT attisdropped AND attrelid IN (
        SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r')
UNION ALL
SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'trigger', tgrelid::regclass || '.' || tgname, tgenabled::text || pg_get_triggerdef(oid)
    FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'function', oid::regprocedure::text, pg_get_functiondef(oid) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'
ORDER BY 1, 2
"""


DIALECTS = {"wal": "sqlite", "delete": "sqlite", "postgresql": "postgresql"}
"""What a database is, by the way in which it keeps what is written."""


def furnished(db: Database, kind: str) -> Database:
    """Set the journal mode, which tbpay leaves as it is, and add a table of the application's."""
    if db.dialect == "sqlite":
        db.run(f"PRAGMA journal_mode={kind}")
    db.run("CREATE TABLE messages (text VARCHAR(255) NOT NULL)")
    return db


def database_at(where: Database | os.PathLike[str] | str) -> Database:
    """Answer the database of a test, or the one in a file that a test made by itself."""
    return where if isinstance(where, Database) else SqliteDatabase(Path(where))
