"""How tests change a ledger behind its back: past the guards, past the rules of its tables."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg
from databases import Database, SqliteDatabase

from tbpay.guards import GUARDS
from tbpay.schema import METADATA

_OURS = tuple(name for name in METADATA.tables if name != "accounts")


def tamper(db: Database, *statements: str) -> None:
    """Run statements while the guards are away; afterwards they stand as they stood."""
    away, back = [], []
    for name, guard in GUARDS[db.dialect].items():
        if db.dialect == "sqlite":
            away.append(f"DROP TRIGGER {name}")
            back.append(guard)
        else:
            table = guard.partition(" ON ")[2].split()[0]
            away.append(f"ALTER TABLE {table} DISABLE TRIGGER {name}")
            back.append(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
    if db.dialect == "postgresql":
        # Then it does not heed either which rows refer to which; SQLite does not unless it is told.
        away.append("SET LOCAL session_replication_role = replica")
    db.run(*away, *statements, *back)


@contextmanager
def lawless(db: Database) -> Iterator[Callable[..., object]]:
    """Take guards and rules away for good; answer what runs a statement, with a value or two."""
    if isinstance(db, SqliteDatabase):
        db.run(
            *(f"DROP TRIGGER {name}" for name in GUARDS["sqlite"]),
            "PRAGMA writable_schema=ON",
            "UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '')"
            f" WHERE type = 'table' AND name IN {_OURS}",
        )
        with closing(sqlite3.connect(db.path, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints=ON")
            yield lambda sql, *values: connection.execute(sql, values)
        return
    with psycopg.connect(db.url, autocommit=True) as server:
        for statement in server.execute(_ABOLISH).fetchall():
            server.execute(statement[0])
        yield lambda sql, *values: server.execute(sql.replace("?", "%s").encode(), values)


_ABOLISH = f"""
SELECT format('DROP TRIGGER %I ON %I', tgname, relname)
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE NOT tgisinternal AND relname IN {_OURS}
UNION ALL
SELECT format('ALTER TABLE %I DROP CONSTRAINT %I', relname, conname)
    FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
    WHERE contype IN ('c', 'f') AND relname IN {_OURS}
UNION ALL
SELECT format('ALTER TABLE %I ALTER %I DROP NOT NULL', relname, attname)
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE attnotnull AND attname <> 'id' AND attnum > 0 AND relname IN {_OURS}
"""
