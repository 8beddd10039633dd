"""The web application's database as tests find it: made with plain SQL, with nothing of ours in it.

`ACCOUNTS` is a table with everything that an adoption could lose; `FOUR` are the four tables as the
application made them by the same plan, and `ROWS` a few rows for them.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import psycopg
import sqlalchemy as sa
from databases import Database, PostgresDatabase, SqliteDatabase
from postgres import NoPostgresError
from probes import not_run

from tbpay import database

W = TypeVar("W", Path, Database)

ACCOUNTS = (
    """
    CREATE TABLE accounts (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        email VARCHAR(255) NOT NULL UNIQUE,
        phone TEXT,
        plan TEXT DEFAULT 'basic' CHECK (plan IN ('basic', 'pro')),
        created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        domain TEXT GENERATED ALWAYS AS (substr(email, instr(email, '@') + 1)) VIRTUAL,
        UNIQUE (phone, plan)
    )
    """,
    "CREATE INDEX ix_pro ON accounts (phone) WHERE plan = 'pro'",
    "CREATE UNIQUE INDEX ix_lower ON accounts (lower(email))",
    "CREATE TABLE log (at TEXT, account_id INTEGER)",
    """
    CREATE TRIGGER accounts_log AFTER UPDATE OF plan ON accounts
    BEGIN INSERT INTO log VALUES (datetime('now'), new.id); END
    """,
    "CREATE VIEW pros AS SELECT id, email FROM accounts WHERE plan = 'pro'",
    """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY,
        account_id INTEGER REFERENCES accounts (id) ON DELETE CASCADE,
        body TEXT
    )
    """,
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
    "INSERT INTO alembic_version VALUES ('webapp9f3a')",
    """
    WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
    INSERT INTO accounts (email, phone, plan, created_at)
    SELECT 'a' || i || '@example.com', '+1' || i, iif(i % 10, 'basic', 'pro'), '2026-01-01' FROM n
    """,
    "INSERT INTO messages (account_id, body) SELECT id, 'hello ' || id FROM accounts",
    "DELETE FROM accounts WHERE id > 990",
)

POSTGRESQL_ACCOUNTS = (
    """
    CREATE TABLE accounts (
        id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        email VARCHAR(255) NOT NULL UNIQUE,
        phone TEXT,
        plan TEXT DEFAULT 'basic' CHECK (plan IN ('basic', 'pro')),
        created_at TIMESTAMPTZ DEFAULT now(),
        domain TEXT GENERATED ALWAYS AS (split_part(email, '@', 2)) STORED,
        UNIQUE (phone, plan)
    )
    """,
    "CREATE INDEX ix_pro ON accounts (phone) WHERE plan = 'pro'",
    "CREATE UNIQUE INDEX ix_lower ON accounts (lower(email))",
    "CREATE TABLE log (at TIMESTAMPTZ, account_id INTEGER)",
    """
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO log VALUES (now(), NEW.id); RETURN NEW; END'
    """,
    """
    CREATE TRIGGER accounts_log AFTER UPDATE OF plan ON accounts
    FOR EACH ROW EXECUTE FUNCTION note()
    """,
    "CREATE VIEW pros AS SELECT * FROM accounts WHERE plan = 'pro'",
    """
    CREATE TABLE messages (
        id SERIAL PRIMARY KEY,
        account_id INTEGER REFERENCES accounts (id) ON DELETE CASCADE,
        body TEXT
    )
    """,
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
    "INSERT INTO alembic_version VALUES ('webapp9f3a')",
    """
    INSERT INTO accounts (email, phone, plan, created_at)
    SELECT 'a' || i || '@example.com', '+1' || i,
        CASE i % 10 WHEN 0 THEN 'pro' ELSE 'basic' END, '2026-01-01Z'
    FROM generate_series(1, 1000) AS i
    """,
    "INSERT INTO messages (account_id, body) SELECT id, 'hello ' || id FROM accounts",
    "DELETE FROM accounts WHERE id > 990",
)

FEW_ACCOUNTS = (
    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, email VARCHAR(255))",
    "INSERT INTO accounts VALUES (1, 'ann@example.com'), (2, 'bob@example.com')",
)

FOUR = {
    "discount_codes": """
        CREATE TABLE discount_codes (
            id INTEGER NOT NULL,
            code VARCHAR(50) NOT NULL,
            discount_type VARCHAR(20) NOT NULL,
            discount_value INTEGER NOT NULL,
            max_uses INTEGER,
            current_uses INTEGER NOT NULL,
            active BOOLEAN NOT NULL,
            stripe_coupon_id VARCHAR(255),
            created_at VARCHAR(50) NOT NULL,
            PRIMARY KEY (id)
        );
        CREATE UNIQUE INDEX ix_discount_codes_code ON discount_codes (code);
        """,
    "orders": """
        CREATE TABLE orders (
            id INTEGER NOT NULL,
            account_id BIGINT NOT NULL,
            order_type VARCHAR(20) NOT NULL,
            amount_cents INTEGER NOT NULL,
            stripe_session_id VARCHAR(255),
            stripe_payment_intent_id VARCHAR(255),
            discount_code_id INTEGER,
            status VARCHAR(20) NOT NULL,
            created_at VARCHAR(50) NOT NULL,
            completed_at VARCHAR(50),
            PRIMARY KEY (id),
            UNIQUE (stripe_payment_intent_id),
            FOREIGN KEY(account_id) REFERENCES accounts (id),
            FOREIGN KEY(discount_code_id) REFERENCES discount_codes (id)
        );
        CREATE INDEX ix_orders_account_id ON orders (account_id);
        CREATE INDEX ix_orders_stripe_session_id ON orders (stripe_session_id);
        """,
    "account_balances": """
        CREATE TABLE account_balances (
            id INTEGER NOT NULL,
            account_id BIGINT NOT NULL,
            balance_cents INTEGER NOT NULL,
            updated_at VARCHAR(50) NOT NULL,
            PRIMARY KEY (id),
            UNIQUE (account_id),
            FOREIGN KEY(account_id) REFERENCES accounts (id)
        );
        CREATE INDEX ix_account_balances_account_id ON account_balances (account_id);
        """,
    "transactions": """
        CREATE TABLE transactions (
            id INTEGER NOT NULL,
            account_id BIGINT NOT NULL,
            order_id INTEGER,
            transaction_type VARCHAR(20) NOT NULL,
            amount_cents INTEGER NOT NULL,
            balance_after_cents INTEGER NOT NULL,
            description VARCHAR(255) NOT NULL,
            created_at VARCHAR(50) NOT NULL,
            PRIMARY KEY (id),
            FOREIGN KEY(account_id) REFERENCES accounts (id),
            FOREIGN KEY(order_id) REFERENCES orders (id)
        );
        CREATE INDEX ix_transactions_account_id ON transactions (account_id);
        """,
}

ROWS = (
    """
    INSERT INTO discount_codes VALUES
        (3, 'LAUNCH10', 'percent', 10, 3, 1, TRUE, 'co_1', '2026-11-23T08:13:00'),
        (9, 'FIVE_OFF', 'fixed', 500, NULL, 0, FALSE, NULL, '2026-11-23 08:13:00.5')
    """,
    """
    INSERT INTO orders VALUES
        (7, 1, 'initial_access', 900, 'cs_1', 'pi_1', 3, 'completed',
            '2026-11-23T08:13:00.123456', '2026-11-23T10:13:00+02:00'),
        (12, 1, 'top_up', 1000, NULL, NULL, NULL, 'pending', '2026-11-23T08:13:00Z', NULL),
        (13, 2, 'top_up', 0, NULL, NULL, 9, 'failed', '2026-11-23', NULL)
    """,
    """
    INSERT INTO account_balances VALUES
        (4, 1, 995, '2026-11-23T08:13:00.000001+00:00'), (5, 2, -20, '20261123T081300Z')
    """,
    """
    INSERT INTO transactions VALUES
        (21, 1, 7, 'credit', 1000, 1000, 'Initial purchase', '2026-11-23T08:13'),
        (22, 1, NULL, 'debit', 5, 995, 'SMS “hello”', '2026-11-22T23:13:00-09:00'),
        (40, 2, NULL, 'refund', 20, -20, 'x', '2026-W48-1T08:13:00Z')
    """,
)


@contextmanager
def empty(dialect: str, folder: Path) -> Iterator[Database]:
    """A database without a table, for tbpay to work on; of SQLite there is not even the file."""
    new = SqliteDatabase(folder / "tbpay.db") if dialect == "sqlite" else _emptied()
    database.configure(new.url)
    yield new
    database.close()


def _emptied() -> Database:
    try:
        one = _one_on_a_server()
    except NoPostgresError as error:
        not_run("postgresql", str(error))
    name = sa.make_url(one.url).database
    one.run(f"ALTER DATABASE {name} RESET ALL")
    one.run('DROP SCHEMA IF EXISTS public, "its own" CASCADE', "CREATE SCHEMA public")
    return one


@cache
def _one_on_a_server() -> Database:
    """A database for one test after the other: to empty it is faster than to make a new one."""
    return PostgresDatabase.new()


def four(dialect: str) -> dict[str, str]:
    """The four tables, with the ids that the application's tools make on each database."""
    if dialect == "sqlite":
        return FOUR
    return {name: text.replace("id INTEGER NOT", "id SERIAL NOT", 1) for name, text in FOUR.items()}


def make(where: W, *scripts: str, wal: bool = False) -> W:
    """Make a database out of SQL, closed and whole: nothing of it stands in a log beside it."""
    if isinstance(where, PostgresDatabase):
        with psycopg.connect(where.url, autocommit=True) as server:
            for script in scripts:
                server.execute(script.encode())
        return where
    with closing(sqlite3.connect(str(where))) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        if wal:
            connection.execute("PRAGMA journal_mode=WAL")
        for script in scripts:
            connection.executescript(script)
        connection.commit()
    return where


def make_with_four(where: W, *scripts: str, wal: bool = False) -> W:
    """Make a database that holds accounts and the four tables, with rows in all of them."""
    dialect = where.dialect if isinstance(where, Database) else "sqlite"
    return make(where, *FEW_ACCOUNTS, *four(dialect).values(), *ROWS, *scripts, wal=wal)
