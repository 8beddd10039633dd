"""The web application's database is taken over whole, or refused and left as it was."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import Database
from probes import label, rows, run
from tampering import tamper
from webapp import (
    ACCOUNTS,
    FEW_ACCOUNTS,
    FOUR,
    POSTGRESQL_ACCOUNTS,
    ROWS,
    empty,
    four,
    make,
    make_with_four,
)

from tbpay import database, migrations
from tbpay.database.guards import OURS
from tbpay.errors import SchemaError
from tbpay.stores import account_store, balance_store, order_store

EIGHT = "2026-11-23T08:13:00.000000Z"
journal_modes = pytest.mark.parametrize("wal", [False, True], ids=["rollback", "wal"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database.configure(str(tmp_path / "thunderbird.db"))
    return tmp_path / "thunderbird.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """The web application's database, before there is anything in it."""
    with empty(request.param, tmp_path) as new:
        yield new


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Database]:
    """The same, where it is on PostgreSQL."""
    with empty("postgresql", tmp_path) as new:
        yield new


# accounts


@journal_modes
def test_the_web_applications_accounts_and_all_around_them_stay_as_they_were(
    path: Path, wal: bool
) -> None:
    make(path, *ACCOUNTS, wal=wal)
    theirs = _theirs(path)

    migrations.upgrade()
    first = _theirs(path)
    migrations.downgrade("base", confirmed=None)
    after_downgrade = _theirs(path)
    migrations.upgrade()
    second = _theirs(path)

    assert len(theirs["rows"]["accounts"]) == 990
    assert theirs == first == after_downgrade == second
    assert migrations.check() == []


def test_what_the_web_application_relies_on_still_works_after_adoption(path: Path) -> None:
    make(path, *ACCOUNTS)

    migrations.upgrade()
    run(
        path,
        "PRAGMA foreign_keys=ON",
        "INSERT INTO accounts (email) VALUES ('new@example.com')",
        "UPDATE accounts SET plan = 'pro' WHERE id = 1",
        "DELETE FROM accounts WHERE id = 3",
    )

    # AUTOINCREMENT remembers the ten deleted accounts; the trigger and the cascade fire.
    assert rows(path, "SELECT max(id) FROM accounts") == [(1001,)]
    assert rows(path, "SELECT account_id FROM log") == [(1,)]
    assert rows(path, "SELECT count(*) FROM messages WHERE account_id = 3") == [(0,)]
    assert rows(path, "SELECT count(*) FROM pros WHERE id = 1") == [(1,)]


def test_accounts_on_a_server_stay_as_they_were_with_all_around_them(server: Database) -> None:
    make(server, *POSTGRESQL_ACCOUNTS)
    theirs = _theirs_on_a_server(server)

    migrations.upgrade()
    first = _theirs_on_a_server(server)
    migrations.downgrade("base", confirmed=None)
    after_downgrade = _theirs_on_a_server(server)
    migrations.upgrade()
    second = _theirs_on_a_server(server)

    assert sum(line.startswith("accounts (") for line in theirs) == 990
    assert theirs == first == after_downgrade == second
    assert migrations.check() == []

    run(
        server,
        "INSERT INTO accounts (email) VALUES ('new@example.com')",
        "UPDATE accounts SET plan = 'pro' WHERE id = 1",
        "DELETE FROM accounts WHERE id = 3",
    )

    assert rows(server, "SELECT max(id) FROM accounts") == [(1001,)]
    assert rows(server, "SELECT account_id FROM log") == [(1,)]
    assert rows(server, "SELECT count(*) FROM messages WHERE account_id = 3") == [(0,)]
    assert rows(server, "SELECT count(*) FROM pros WHERE id = 1") == [(1,)]


@pytest.mark.parametrize(
    "accounts",
    [
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY) STRICT",
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, a TEXT) WITHOUT ROWID",
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, a TEXT) WITHOUT ROWID, STRICT",
        "CREATE TABLE accounts (id BIGINT NOT NULL CHECK (id > 0) UNIQUE, key TEXT PRIMARY KEY)",
        "CREATE TABLE accounts (id INT); CREATE UNIQUE INDEX a_id ON accounts (id)",
        'CREATE TABLE "accounts" ("id" INTEGER NOT NULL, PRIMARY KEY ("id"))',
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, boss REFERENCES gone (id))",
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, at DATETIME(6), none, geo SHAPE)",
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, stripe_customer_id TEXT UNIQUE)",
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY); CREATE VIEW broken AS SELECT * FROM gone",
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY); CREATE VIRTUAL TABLE s USING fts5 (body)",
    ],
)
def test_an_account_needs_no_more_than_an_integer_id(path: Path, accounts: str) -> None:
    make(path, accounts)

    done = migrations.upgrade()

    assert migrations.Table("accounts", "adopted", 0) in done.tables
    assert migrations.check() == []
    run(path, "INSERT INTO accounts (id, stripe_customer_id) VALUES (5, 'cus_1')")


@pytest.mark.parametrize(
    "accounts",
    [
        "CREATE TABLE accounts (id SMALLINT PRIMARY KEY)",
        "CREATE TABLE accounts (id BIGINT UNIQUE, key TEXT PRIMARY KEY)",
        "CREATE TABLE accounts (id INT); CREATE UNIQUE INDEX a_id ON accounts (id) INCLUDE (id)",
        "CREATE TABLE accounts (id INT PRIMARY KEY, stripe_customer_id TEXT UNIQUE, geo POINT)",
        "CREATE TABLE accounts (id INT PRIMARY KEY) PARTITION BY HASH (id);"
        "CREATE TABLE one PARTITION OF accounts FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        'CREATE TABLE "Accounts" (id TEXT); CREATE TABLE accounts (id INT PRIMARY KEY)',
    ],
)
def test_an_account_on_a_server_needs_no_more_either(server: Database, accounts: str) -> None:
    make(server, accounts)

    done = migrations.upgrade()

    assert migrations.Table("accounts", "adopted", 0) in done.tables
    assert migrations.check() == []


def test_the_tables_are_found_and_made_where_the_applications_connection_looks(
    server: Database,
) -> None:
    make(server, 'CREATE SCHEMA "its own"', 'CREATE TABLE "its own".accounts (id INT PRIMARY KEY)')
    database.configure(f"{server.url}?options=-csearch_path%3D%22its%5C%20own%22%2Cpublic")

    done = migrations.upgrade()

    assert migrations.Table("accounts", "adopted", 0) in done.tables
    assert migrations.check() == []
    schemas = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename IN ('orders', 'accounts')"
    assert rows(server, schemas) == [("its own",)]


@pytest.mark.parametrize(
    "accounts",
    [
        "CREATE TABLE accounts (id TEXT PRIMARY KEY)",
        "CREATE TABLE accounts (id NUMERIC PRIMARY KEY)",
        "CREATE TABLE accounts (id INT, tenant INT, PRIMARY KEY (tenant, id))",
        "CREATE TABLE accounts (id INT); CREATE UNIQUE INDEX a ON accounts (id) WHERE id > 0",
        "CREATE TABLE accounts (id INT); CREATE UNIQUE INDEX a ON accounts ((id + 0))",
        "CREATE TABLE accounts (id INT UNIQUE DEFERRABLE)",
        "CREATE TABLE a (id INT PRIMARY KEY); CREATE VIEW accounts AS SELECT * FROM a",
    ],
)
def test_accounts_on_a_server_that_cannot_be_pointed_at_are_refused(
    server: Database, accounts: str
) -> None:
    make(server, accounts)

    _assert_left_alone(server, "accounts")


@journal_modes
@pytest.mark.parametrize(
    "accounts",
    [
        "CREATE TABLE accounts (email TEXT)",
        "CREATE TABLE accounts (id TEXT PRIMARY KEY)",
        "CREATE TABLE accounts (id INTEGER)",
        "CREATE TABLE accounts (id INTEGER, tenant INTEGER, PRIMARY KEY (tenant, id))",
        "CREATE TABLE accounts (id INTEGER); CREATE INDEX a_id ON accounts (id)",
        "CREATE TABLE accounts (id INTEGER); CREATE UNIQUE INDEX a ON accounts (id) WHERE id > 0",
        "CREATE TABLE accounts (id INTEGER); CREATE UNIQUE INDEX a ON accounts (id + 0)",
        "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE VIEW accounts AS SELECT * FROM a",
        "CREATE TABLE Accounts (id INTEGER PRIMARY KEY)",
    ],
)
def test_accounts_that_cannot_be_pointed_at_are_refused(
    path: Path, accounts: str, wal: bool
) -> None:
    make(path, accounts, wal=wal)

    _assert_refused(path, "accounts")


# the four tables


@pytest.mark.parametrize("wal", [False, True], ids=["", "wal"])
def test_rows_that_the_web_application_wrote_are_ours(there: Database, wal: bool) -> None:
    make_with_four(there, wal=wal)

    done = migrations.upgrade("0003")

    assert done.tables == [
        migrations.Table("accounts", "adopted", 2),
        migrations.Table("discount_codes", "adopted", 2),
        migrations.Table("orders", "adopted", 3),
        migrations.Table("account_balances", "adopted", 2),
        migrations.Table("transactions", "adopted", 3),
        migrations.Table("audit_log", "created", 0),
    ]
    assert rows(there, "SELECT * FROM discount_codes ORDER BY id") == [
        (3, "LAUNCH10", "percent", 10, 3, 1, 1, "co_1", EIGHT),
        (9, "FIVE_OFF", "fixed", 500, None, 0, 0, None, "2026-11-23T08:13:00.500000Z"),
    ]
    assert rows(there, "SELECT * FROM orders ORDER BY id") == [
        (
            7,
            1,
            "initial_access",
            900,
            "cs_1",
            "pi_1",
            3,
            "completed",
            "2026-11-23T08:13:00.123456Z",
            EIGHT,
            None,
        ),
        (12, 1, "top_up", 1000, None, None, None, "pending", EIGHT, None, None),
        (13, 2, "top_up", 0, None, None, 9, "failed", "2026-11-23T00:00:00.000000Z", None, None),
    ]
    assert rows(there, "SELECT * FROM account_balances ORDER BY id") == [
        (4, 1, 995, "2026-11-23T08:13:00.000001Z"),
        (5, 2, -20, EIGHT),
    ]
    assert rows(there, "SELECT * FROM transactions ORDER BY id") == [
        (21, 1, 7, "credit", 1000, 1000, "Initial purchase", EIGHT),
        (22, 1, None, "debit", 5, 995, "SMS “hello”", EIGHT),
        (40, 2, None, "refund", 20, -20, "x", EIGHT),
    ]


def test_the_stores_go_on_where_the_web_application_was(there: Database) -> None:
    make_with_four(there)
    migrations.upgrade()

    order_store.complete(12)
    line = balance_store.deduct(1, 95, "SMS")

    assert (line.account_version, line.balance_after_cents) == (4, 1900)
    assert migrations.check() == []


def test_adopted_tables_are_shaped_as_new_ones(path: Path, migrated: Path) -> None:
    make_with_four(path)

    migrations.upgrade()

    assert _shapes(path) == _shapes(migrated)
    assert rows(path, "PRAGMA foreign_key_check") == []
    assert migrations.check() == []


def test_adopted_tables_on_a_server_are_shaped_as_new_ones(server: Database) -> None:
    migrations.upgrade()
    new = _shapes_on_a_server(server)
    migrations.downgrade("base", confirmed="base")
    make(server, "DROP TABLE accounts")
    make_with_four(server)

    migrations.upgrade()

    adopted = _shapes_on_a_server(server)
    assert new - adopted == set()
    assert {line.split()[1] for line in adopted - new} == {
        # What the application had made unique itself.
        "account_balances.account_balances_account_id_key",
        "account_balances_account_id_key",
        "orders.orders_stripe_payment_intent_id_key",
        "orders_stripe_payment_intent_id_key",
    }
    assert migrations.check() == []


@pytest.mark.parametrize("alone", [*FOUR], ids=lambda name: f"{name} alone")
def test_some_of_the_four_are_adopted_and_the_others_made(there: Database, alone: str) -> None:
    table = four(there.dialect)[alone]
    make(
        there,
        *FEW_ACCOUNTS,
        re.sub("REFERENCES (orders|discount_codes)", "REFERENCES accounts", table),
    )

    done = migrations.upgrade()

    assert {table.table for table in done.tables if table.how == "adopted"} == {"accounts", alone}
    assert migrations.check() == []


def test_tables_that_appeared_after_the_first_migration_are_adopted(there: Database) -> None:
    make(there, *FEW_ACCOUNTS)
    migrations.upgrade("0001")
    database.close()
    make(there, *four(there.dialect).values(), *ROWS)

    done = migrations.upgrade()

    assert migrations.Table("orders", "adopted", 3) in done.tables
    assert not any(table.table == "accounts" for table in done.tables)


def test_many_rows_are_moved_as_few_are(there: Database) -> None:
    numbers = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
    make_with_four(
        there,
        f"""
        INSERT INTO orders {numbers} SELECT 100 + i, 1 + i % 2, 'top_up', i, 'cs_x' || i,
            'pi_x' || i, NULL, 'completed', '2026-11-23 08:13:00.' || (100000 + i), '2026-11-23'
            FROM n;
        INSERT INTO transactions {numbers} SELECT 100 + i, 1 + i % 2, 100 + i, 'credit', i, i,
            'Top-up', '2026-11-23 08:13:00' FROM n;
        """,
    )

    migrations.upgrade("0003")

    assert rows(there, "SELECT count(*), sum(amount_cents) FROM orders") == [(20003, 200011900)]
    moved = "SELECT count(DISTINCT created_at) FROM orders WHERE created_at LIKE '%T08:13:00.1%Z'"
    assert rows(there, moved) == [(20001,)]


def test_tables_of_theirs_that_point_at_ours_still_do(there: Database) -> None:
    make_with_four(
        there,
        """
        CREATE TABLE invoices (
            id INTEGER PRIMARY KEY,
            order_id INTEGER NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
            line_id INTEGER REFERENCES "transactions" (id)
        );
        INSERT INTO invoices VALUES (1, 7, 21), (2, 12, NULL);
        """,
    )
    theirs = [line for line in there.dump() if "invoices" in line]

    migrations.upgrade()

    assert [line for line in there.dump() if "invoices" in line] == theirs
    run(there, *_with_foreign_keys(there), "INSERT INTO invoices VALUES (3, 13, 40)")
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        run(there, *_with_foreign_keys(there), "INSERT INTO invoices VALUES (4, 99, NULL)")


def test_an_index_of_their_own_is_made_again_as_it_was(path: Path) -> None:
    index = "CREATE INDEX recent ON orders (created_at DESC, status) WHERE status <> 'a:b%(c)s'"
    make_with_four(path, index)

    migrations.upgrade()

    assert rows(path, "SELECT sql FROM sqlite_master WHERE name = 'recent'") == [(index,)]
    assert migrations.check() == []


def test_an_index_of_their_own_on_a_server_stays(server: Database) -> None:
    index = 'CREATE INDEX "re 50%% cent" ON orders (lower(created_at), status DESC) WHERE id > 3'
    make_with_four(server, index)
    there = "SELECT indexname FROM pg_indexes WHERE indexname LIKE 're %'"
    assert rows(server, there) == [("re 50%% cent",)]

    migrations.upgrade()

    assert rows(server, there) == [("re 50%% cent",)]
    assert migrations.check() == []


TIMES = {
    "0001-01-01T00:00:00": "0001-01-01T00:00:00.000000Z",
    "9999-12-31T23:59:59.999999": "9999-12-31T23:59:59.999999Z",
    "2026-11-23T08:13:00.123456789Z": "2026-11-23T08:13:00.123456Z",
    "2026-11-23T08:13:00,5+05:30": "2026-11-23T02:43:00.500000Z",
    "2026-11-23 08": "2026-11-23T08:00:00.000000Z",
    "2026-03-29T02:30:00+0100": "2026-03-29T01:30:00.000000Z",
    EIGHT: EIGHT,
}


def test_a_time_in_any_iso_form_is_rewritten_to_fixed_width_utc(there: Database) -> None:
    make_with_four(there)
    for number, found in enumerate(TIMES):
        run(
            there,
            "INSERT INTO transactions"
            f" VALUES ({100 + number}, 1, NULL, 'debit', 1, 1, 'x', '{found}')",
        )

    migrations.upgrade("0002")

    kept = rows(there, "SELECT created_at FROM transactions WHERE id >= 100 ORDER BY id")
    assert [time for (time,) in kept] == list(TIMES.values())


def test_right_values_under_other_types_are_taken(path: Path, migrated: Path) -> None:
    four = {name: re.sub(r"VARCHAR\(\d+\)|BIGINT", "", text) for name, text in FOUR.items()}
    make(path, *FEW_ACCOUNTS, *four.values(), *ROWS)

    migrations.upgrade()

    assert rows(path, "SELECT sum(amount_cents), max(stripe_session_id) FROM orders") == [
        (1900, "cs_1")
    ]
    assert _shapes(path) == _shapes(migrated)


def test_right_values_under_other_types_on_a_server_are_taken(server: Database) -> None:
    tables = four("postgresql")
    others = {
        name: re.sub(r"VARCHAR\(\d+\)", "TEXT", text).replace(" BIGINT", " SMALLINT")
        for name, text in tables.items()
    }
    make(server, *FEW_ACCOUNTS, *others.values(), *ROWS)

    migrations.upgrade()

    assert rows(server, "SELECT sum(amount_cents), max(stripe_session_id) FROM orders") == [
        (1900, "cs_1")
    ]
    assert migrations.check() == []


@pytest.mark.parametrize(
    "how",
    [
        "",  # as SERIAL makes it
        "ALTER TABLE orders ALTER id DROP DEFAULT; DROP SEQUENCE orders_id_seq",
        "ALTER TABLE orders ALTER id DROP DEFAULT",  # the sequence stays, and is in the way
        "ALTER TABLE orders ALTER id DROP DEFAULT; DROP SEQUENCE orders_id_seq;"
        "ALTER TABLE orders ALTER id ADD GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE orders ALTER id DROP DEFAULT; DROP SEQUENCE orders_id_seq;"
        'ALTER TABLE orders ALTER id ADD GENERATED BY DEFAULT AS IDENTITY (SEQUENCE NAME "50%'
        """ o'n""'" MAXVALUE 20 CYCLE)""",
        "CREATE SEQUENCE shared; ALTER TABLE orders ALTER id SET DEFAULT nextval('shared');"
        "ALTER TABLE transactions ALTER id SET DEFAULT nextval('shared')",
    ],
    ids=["serial", "none", "unused", "always", "by default", "shared"],
)
def test_ids_go_on_above_the_highest_that_was_given(server: Database, how: str) -> None:
    make_with_four(server, how)

    migrations.upgrade()
    new = [order_store.create(1, "top_up", 1000).id for _ in range(9)]

    assert new == list(range(14, 23))
    assert migrations.check() == []


def test_an_id_that_was_given_and_deleted_is_not_given_again(server: Database) -> None:
    make_with_four(server, "SELECT setval('orders_id_seq', 500)")

    migrations.upgrade()

    assert order_store.create(1, "top_up", 1000).id == 501


def test_rules_and_names_of_theirs_give_way_to_ours(server: Database) -> None:
    make_with_four(
        server,
        """
        DROP INDEX ix_orders_stripe_session_id;
        ALTER TABLE orders ADD CONSTRAINT ix_orders_stripe_session_id UNIQUE (stripe_session_id);
        ALTER TABLE orders ADD CONSTRAINT ck_orders_status CHECK (status <> 'refunded');
        ALTER TABLE orders ADD CONSTRAINT "50% o""'r" CHECK (amount_cents < 9999);
        ALTER TABLE orders ALTER amount_cents SET DEFAULT 7, ALTER completed_at SET DEFAULT 'x',
            ALTER stripe_session_id TYPE VARCHAR(9), ALTER created_at TYPE VARCHAR(30);
        ALTER TABLE orders DROP CONSTRAINT orders_account_id_fkey;
        ALTER TABLE orders ADD CONSTRAINT fk_orders_account_id FOREIGN KEY (account_id)
            REFERENCES accounts ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;
        ALTER TABLE orders DROP CONSTRAINT orders_pkey CASCADE;
        ALTER TABLE orders ALTER id DROP NOT NULL;
        """,
    )

    migrations.upgrade()

    assert migrations.check() == []
    tamper(server, "UPDATE orders SET amount_cents = 10000, completed_at = NULL WHERE id = 7")


def test_what_others_were_granted_stays_granted(server: Database) -> None:
    granted = "SELECT grantee, privilege_type FROM information_schema.role_table_grants"
    granted += " WHERE table_name = 'orders' AND grantee = 'PUBLIC'"
    make_with_four(server, "GRANT SELECT, INSERT ON orders TO PUBLIC")

    migrations.upgrade()

    assert sorted(rows(server, granted)) == [("PUBLIC", "INSERT"), ("PUBLIC", "SELECT")]


@pytest.mark.parametrize(
    ("table", "row", "change"),
    [
        ("orders", 7, "status = 'paid'"),
        ("orders", 7, "status = 'Completed'"),
        ("orders", 7, "status = x'636f6d706c65746564'"),
        ("orders", 7, "order_type = ''"),
        ("orders", 7, "amount_cents = -1"),
        ("orders", 7, "amount_cents = 100000000"),
        ("orders", 7, "amount_cents = 9.5"),
        ("orders", 7, "amount_cents = 'nine'"),
        ("orders", 7, "amount_cents = 9e99"),
        ("orders", 7, "account_id = 99"),
        ("orders", 7, "account_id = 'ann'"),
        ("orders", 7, "discount_code_id = 99"),
        ("orders", 7, "stripe_session_id = ''"),
        ("orders", 7, f"stripe_session_id = '{'s' * 256}'"),
        ("orders", 7, "created_at = 'yesterday'"),
        ("orders", 7, "created_at = 1795421580"),
        ("orders", 7, "created_at = 1795421580000"),
        ("orders", 7, "created_at = 1795421580.25"),
        ("orders", 7, "created_at = '2026-02-30T08:13:00Z'"),
        ("orders", 7, "created_at = '0001-01-01T00:00:00+02:00'"),
        ("orders", 7, "completed_at = ''"),
        ("orders", 7, "completed_at = '1710011212000'"),
        ("orders", 7, "id = 0"),
        ("discount_codes", 3, "code = 'launch10'"),
        ("discount_codes", 3, "code = 'AB'"),
        ("discount_codes", 3, "code = '-ABC'"),
        ("discount_codes", 3, "code = 'ABC' || char(0)"),
        ("discount_codes", 3, "discount_type = 'gift'"),
        ("discount_codes", 3, "discount_value = 150"),
        ("discount_codes", 3, "discount_value = 0"),
        ("discount_codes", 3, "max_uses = 0"),
        ("discount_codes", 3, "current_uses = 4"),
        ("discount_codes", 3, "current_uses = -1"),
        ("discount_codes", 3, "active = 'yes'"),
        ("discount_codes", 3, "active = 2"),
        ("discount_codes", 3, f"stripe_coupon_id = '{'c' * 256}'"),
        ("account_balances", 4, "balance_cents = 100000000000"),
        ("account_balances", 4, "balance_cents = 0.5"),
        ("account_balances", 4, "account_id = 99"),
        ("account_balances", 4, "updated_at = 'T08:13'"),
        ("transactions", 21, "transaction_type = 'gift'"),
        ("transactions", 21, "amount_cents = -1"),
        ("transactions", 21, "balance_after_cents = -100000000000"),
        ("transactions", 21, f"description = '{'d' * 300}'"),
        ("transactions", 21, "description = ''"),
        ("transactions", 21, "description = 'a' || char(0) || 'b'"),
        ("transactions", 21, "order_id = 99"),
        ("transactions", 21, "id = -21"),
    ],
    ids=label,
)
def test_a_row_that_breaks_a_rule_is_named_and_nothing_is_changed(
    path: Path, table: str, row: int, change: str
) -> None:
    make_with_four(path, f"UPDATE {table} SET {change} WHERE id = {row}")
    named = change.removeprefix("id = ") if change.startswith("id = ") else row

    _assert_refused(path, f"table {table}, row {named}: {change.split()[0]} ")


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("orders", "account_id"),
        ("orders", "order_type"),
        ("orders", "amount_cents"),
        ("orders", "status"),
        ("orders", "created_at"),
        ("discount_codes", "code"),
        ("discount_codes", "discount_type"),
        ("discount_codes", "discount_value"),
        ("discount_codes", "current_uses"),
        ("discount_codes", "active"),
        ("discount_codes", "created_at"),
        ("account_balances", "account_id"),
        ("account_balances", "balance_cents"),
        ("account_balances", "updated_at"),
        ("transactions", "account_id"),
        ("transactions", "transaction_type"),
        ("transactions", "amount_cents"),
        ("transactions", "balance_after_cents"),
        ("transactions", "description"),
        ("transactions", "created_at"),
    ],
)
def test_a_value_that_is_missing_is_named(path: Path, table: str, column: str) -> None:
    four = {name: text.replace(" NOT NULL", "") for name, text in FOUR.items()}
    make(path, *FEW_ACCOUNTS, *four.values(), *ROWS, f"UPDATE {table} SET {column} = NULL")

    first = rows(path, f"SELECT min(id) FROM {table}")[0][0]

    _assert_refused(path, f"table {table}, row {first}: {column} NULL is not allowed")


@pytest.mark.parametrize(
    ("table", "constraint", "change"),
    [
        ("orders", "", "stripe_session_id = 'cs_1'"),
        ("orders", "UNIQUE (stripe_payment_intent_id),", "stripe_payment_intent_id = 'pi_1'"),
        ("account_balances", "UNIQUE (account_id),", "account_id = 1"),
        ("discount_codes", "CREATE UNIQUE INDEX", "code = 'LAUNCH10'"),
        ("transactions", "", "order_id = 7, transaction_type = 'credit'"),
    ],
)
def test_what_must_be_there_once_and_is_there_twice_is_named(
    path: Path, table: str, constraint: str, change: str
) -> None:
    loose = FOUR | {
        table: FOUR[table].replace(constraint, "CREATE INDEX" if "IND" in constraint else "")
    }
    make(path, *FEW_ACCOUNTS, *loose.values(), *ROWS, f"UPDATE {table} SET {change}")

    _assert_refused(path, f"table {table}, row ", "is there twice")


BROKEN_ON_A_SERVER = [
    ("orders", 7, "status = 'Completed'", "breaks the rule"),
    ("orders", 7, "order_type = ''", "breaks the rule"),
    ("orders", 7, "amount_cents = -1", "breaks the rule"),
    ("orders", 7, "account_id = 99", "is not in accounts"),
    ("orders", 7, "discount_code_id = 99", "is not in discount_codes"),
    ("orders", 7, "stripe_session_id = ''", "breaks the rule"),
    ("orders", 7, "stripe_session_id = repeat('s', 256)", "breaks the rule"),
    ("orders", 7, "created_at = 'yesterday'", "is not a time"),
    ("orders", 7, "created_at = '2026-02-30T08:13:00.000000Z'", "is not a time"),
    ("orders", 7, "created_at = repeat(md5(random()::text), 999)", "is not a time"),
    ("orders", 7, "completed_at = '1710011212000'", "is not a time"),
    ("orders", 7, "completed_at = ''", "is not a time"),
    ("orders", 7, "id = 0", "breaks the rule"),
    ("orders", 7, "status = NULL", "is not allowed"),
    ("orders", 7, "created_at = NULL", "is not allowed"),
    ("orders", 12, "stripe_session_id = 'cs_1'", "is there twice"),
    ("orders", 12, "id = 7", "is there twice"),
    ("discount_codes", 3, "code = 'launch10'", "breaks the rule"),
    ("discount_codes", 3, "code = 'AB'", "breaks the rule"),
    ("discount_codes", 3, "code = 'ABÉ'", "breaks the rule"),
    ("discount_codes", 3, "code = 'ABC' || chr(10)", "breaks the rule"),
    ("discount_codes", 9, "code = 'LAUNCH10'", "is there twice"),
    ("discount_codes", 3, "discount_value = 150", "breaks the rule"),
    ("discount_codes", 3, "current_uses = 4", "breaks the rule"),
    ("discount_codes", 3, "active = NULL", "is not allowed"),
    ("account_balances", 4, "balance_cents = 100000000000", "breaks the rule"),
    ("account_balances", 5, "account_id = 1", "is there twice"),
    ("transactions", 21, "description = repeat('d', 300)", "breaks the rule"),
    ("transactions", 21, "order_id = 99", "is not in orders"),
    ("transactions", 22, "order_id = 7, transaction_type = 'credit'", "is there twice"),
]


def test_a_row_on_a_server_that_breaks_a_rule_is_named_and_nothing_is_changed(
    server: Database,
) -> None:
    # Without rules of their own, which would not let the rows be broken.
    bare = "CREATE TABLE bare AS TABLE {0}; DROP TABLE {0} CASCADE; ALTER TABLE bare RENAME TO {0}"
    wide = """
        ALTER TABLE account_balances ALTER balance_cents TYPE BIGINT;
        ALTER TABLE orders ALTER stripe_session_id TYPE TEXT, ALTER created_at TYPE TEXT;
        ALTER TABLE transactions ALTER description TYPE TEXT
        """
    make_with_four(server, *map(bare.format, FOUR), wide)

    for table, row, change, why in BROKEN_ON_A_SERVER:
        make(server, f"UPDATE {table} SET {change} WHERE id = {row}")
        named = "" if change.startswith("id = ") or why == "is there twice" else f", row {row}"
        _assert_left_alone(server, f"table {table}{named}", f"{change.split()[0]} ", why)
        make(server, f"TRUNCATE {', '.join(FOUR)}", *ROWS)


def test_rows_are_compared_as_the_new_table_will_whatever_the_old_ones_collation(
    path: Path,
) -> None:
    lax = FOUR["orders"].replace("status VARCHAR(20)", "status VARCHAR(20) COLLATE NOCASE")
    make(path, *FEW_ACCOUNTS, *(FOUR | {"orders": lax}).values(), *ROWS)
    run(path, "UPDATE orders SET status = 'PENDING' WHERE id = 12")

    _assert_refused(path, "table orders, row 12: status 'PENDING' breaks the rule")


def test_orders_without_their_accounts_or_codes_are_refused(path: Path) -> None:
    make(path, FOUR["orders"], ROWS[1])

    _assert_refused(path, "table orders, row 7: account_id 1 is not in accounts")


@journal_modes
@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ("ALTER TABLE orders ADD COLUMN note TEXT", "table orders: an extra column note"),
        ("ALTER TABLE orders ADD COLUMN credit_cents INTEGER", "an extra column credit_cents"),
        ("ALTER TABLE orders DROP COLUMN completed_at", "table orders: no column completed_at"),
        ("ALTER TABLE orders RENAME COLUMN status TO Status", "an extra column Status"),
        (
            "ALTER TABLE orders ADD COLUMN double INTEGER AS (2 * amount_cents)",
            "table orders: an extra column double",
        ),
        (
            "CREATE TRIGGER watch AFTER UPDATE ON orders BEGIN SELECT 1; END",
            "table orders: the trigger watch works on it",
        ),
        (
            "CREATE TRIGGER afar AFTER DELETE ON accounts"
            " BEGIN DELETE FROM [Transactions] WHERE account_id = old.id; END",
            "table transactions: the trigger afar works on it",
        ),
        (
            "CREATE VIEW paid AS SELECT * FROM orders WHERE status = 'completed'",
            "table orders: the view paid works on it",
        ),
        ("CREATE VIEW broken AS SELECT * FROM gone", "broken"),
        ("CREATE TABLE audit_log (id INTEGER)", "audit_log"),
        ("CREATE VIEW audit_log AS SELECT 1", "audit_log"),
        ("CREATE TABLE orders_moving (id INTEGER)", "orders_moving"),
        ("CREATE INDEX ix_transactions_order_credit ON accounts (email)", "ix_transactions_order"),
        ("ALTER TABLE accounts ADD COLUMN Stripe_Customer_Id TEXT", "stripe_customer_id"),
    ],
    ids=label,
)
def test_a_table_of_another_shape_is_named_and_nothing_is_changed(
    path: Path, shape: str, named: str, wal: bool
) -> None:
    make_with_four(path, shape, wal=wal)

    _assert_refused(path, named)


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ("ALTER TABLE orders ADD note TEXT", "table orders: an extra column note"),
        ("ALTER TABLE orders DROP completed_at", "table orders: no column completed_at"),
        ('ALTER TABLE orders RENAME status TO "Status"', "an extra column Status"),
        (
            "ALTER TABLE discount_codes ALTER active TYPE INTEGER USING 1",
            "table discount_codes: column active is integer",
        ),
        (
            "ALTER TABLE orders ALTER amount_cents TYPE NUMERIC(12, 2)",
            "table orders: column amount_cents is numeric",
        ),
        (
            "ALTER TABLE orders ALTER created_at TYPE TIMESTAMPTZ USING now()",
            "table orders: column created_at is timestamp with time zone",
        ),
        (
            "ALTER TABLE account_balances DROP updated_at, ADD updated_at VARCHAR(50)"
            " GENERATED ALWAYS AS ('2026') STORED",
            "table account_balances: column updated_at is character varying and generated",
        ),
        ("ALTER TABLE transactions SET UNLOGGED", "transactions: it is not a table of its own"),
        ("CREATE TABLE old () INHERITS (orders)", "table orders: it is not a table of its own"),
        (
            "ALTER TABLE account_balances DROP CONSTRAINT account_balances_pkey,"
            " ADD PRIMARY KEY (account_id)",
            "table account_balances: its primary key is not id",
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            """CREATE TRIGGER "wa'tch" AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION f()""",
            "table orders: the trigger wa'tch works on it",
        ),
        ("CREATE VIEW paid AS SELECT id FROM orders", "table orders: the view paid works on it"),
        (
            "CREATE MATERIALIZED VIEW paid AS SELECT count(*) FROM transactions",
            "table transactions: the view paid works on it",
        ),
        (
            "CREATE RULE quiet AS ON DELETE TO orders DO INSTEAD NOTHING",
            "table orders: the rule quiet works on it",
        ),
        (
            "CREATE RULE afar AS ON DELETE TO accounts DO ALSO DELETE FROM orders",
            "table orders: the rule afar works on it",
        ),
        ("CREATE POLICY own ON orders USING (TRUE)", "table orders: the policy own works on it"),
        ("CREATE TABLE audit_log (id INTEGER)", "audit_log"),
        ("CREATE VIEW audit_log AS SELECT 1", "audit_log"),
        ("CREATE INDEX ix_transactions_order_credit ON accounts (email)", "ix_transactions_order"),
    ],
    ids=label,
)
def test_a_table_of_another_shape_on_a_server_is_named_and_nothing_is_changed(
    server: Database, shape: str, named: str
) -> None:
    make_with_four(server, shape)

    _assert_left_alone(server, named)


@pytest.mark.parametrize("kind", ["TABLE Orders (id INTEGER)", "VIEW orders AS SELECT 1"])
def test_something_else_by_the_name_of_our_table_is_refused(path: Path, kind: str) -> None:
    make(path, *FEW_ACCOUNTS, f"CREATE {kind}")

    _assert_refused(path, "rders")


def test_a_refusal_far_into_a_big_file_leaves_every_byte(path: Path) -> None:
    # Far more than SQLite keeps in memory: what was moved already has gone to the disk.
    numbers = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 40000)"
    make_with_four(
        path,
        f"""
        {numbers} INSERT INTO transactions SELECT 100 + i, 1, NULL, 'debit', 1, 1,
            printf('%.200c', 'x'), '2026-11-23' FROM n;
        CREATE VIEW broken AS SELECT * FROM gone;
        """,
    )

    _assert_refused(path, "broken")


# the file


@journal_modes
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_an_existing_file_keeps_owner_mode_and_journal_mode(
    path: Path, wal: bool, mode: int
) -> None:
    make_with_four(path, wal=wal)
    path.chmod(mode)
    if os.getuid() == 0:
        os.chown(path, 12345, 54321)
    before = path.stat()

    migrations.upgrade()

    after = path.stat()
    assert stat.S_IMODE(after.st_mode) == mode
    assert (after.st_uid, after.st_gid, after.st_ino) == (
        before.st_uid,
        before.st_gid,
        before.st_ino,
    )
    assert rows(path, "PRAGMA journal_mode") == [("wal" if wal else "delete",)]


@pytest.mark.parametrize(
    ("table", "column", "row"),
    [("transactions", "description", 21), ("orders", "stripe_session_id", 12)],
)
@pytest.mark.parametrize("stored", ["ff41", "eda080"], ids=["no UTF-8", "a lone surrogate"])
def test_bytes_that_are_no_text_are_named(
    path: Path, table: str, column: str, row: int, stored: str
) -> None:
    change = f"UPDATE {table} SET {column} = CAST(x'{stored}' AS TEXT) WHERE id = {row}"
    make_with_four(path, change)
    assert rows(path, f"SELECT count(*) FROM {table} WHERE id = {row}") == [(1,)]

    _assert_refused(path, f"table {table}, row {row}: {column} b'", "is not text")


def test_an_accounts_row_of_any_bytes_can_be_read(path: Path) -> None:
    make(path, *FEW_ACCOUNTS, "UPDATE accounts SET email = CAST(x'ff41' AS TEXT) WHERE id = 1")

    migrations.upgrade()

    assert next(iter(account_store.find().items)).email == "\ufffdA"


def _assert_refused(path: Path, *named: str) -> None:
    before, beside = _digest(path), set(path.parent.iterdir())

    with pytest.raises(SchemaError) as refused:
        migrations.upgrade()

    database.close()
    assert _digest(path) == before
    assert set(path.parent.iterdir()) == beside
    assert all(words in refused.value.message for words in named), refused.value.message
    assert str(path) in refused.value.message


def _assert_left_alone(server: Database, *named: str) -> None:
    before = server.dump()

    with pytest.raises(SchemaError) as refused:
        migrations.upgrade()

    assert server.dump() == before
    assert all(words in refused.value.message for words in named), (named, refused.value.message)
    assert str(server) in refused.value.message
    assert "\n" not in refused.value.message


def _with_foreign_keys(there: Database) -> list[str]:
    return ["PRAGMA foreign_keys=ON"] if there.dialect == "sqlite" else []


def _theirs_on_a_server(server: Database) -> list[str]:
    """Every row and definition, but for what tbpay added."""
    database.close()
    return [
        re.sub(r"^(accounts \(.*), None\)", r"\1)", line)
        for line in server.dump()
        if not re.search(rf"tbpay|stripe_customer_id|{'|'.join(OURS)}", line)
    ]


def _shapes_on_a_server(server: Database) -> set[str]:
    """All that our tables are made of, without their rows."""
    database.close()
    kinds = ("column", "constraint", "index", "trigger", "function")
    return {
        line for line in server.dump() if line.startswith(kinds) and re.search("|".join(OURS), line)
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _theirs(path: Path) -> dict[str, Any]:
    """Every row, and the text of everything in the schema, but for what tbpay added."""
    database.close()
    added = ", stripe_customer_id VARCHAR(255)"
    schema = [
        (kind, name, text and text.replace(added, ""))
        for kind, name, table, text in rows(
            path, "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid"
        )
        if table not in {*OURS, "tbpay_alembic_version"}
    ]
    return {
        "schema": schema,
        "rows": {
            name: [row[:6] for row in rows(path, f"SELECT * FROM {name}")]
            for kind, name, _ in schema
            if kind == "table"
        },
    }


def _shapes(path: Path) -> dict[str, list[Any]]:
    """Our tables as SQLite describes them, their own text included."""
    database.close()
    return {
        table: [
            rows(path, f"PRAGMA table_xinfo({table})"),
            rows(path, f"PRAGMA foreign_key_list({table})"),
            sorted(row[1:] for row in rows(path, f"PRAGMA index_list({table})")),
            sorted(
                " ".join(text.replace('"', "").split())
                for (text,) in rows(
                    path,
                    "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL",
                    table,
                )
            ),
        ]
        for table in sorted(OURS)
    }
