"""The web application's database is taken over whole, or refused and left as it was."""

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from probes import label, rows, run
from webapp import ACCOUNTS, FEW_ACCOUNTS, FOUR, ROWS, make, make_with_four

from tbpay import database, migrations
from tbpay.errors import SchemaError
from tbpay.stores import account_store

EIGHT = "2026-11-23T08:13:00.000000Z"
OURS = {"discount_codes", "orders", "account_balances", "transactions", "audit_log"}
journal_modes = pytest.mark.parametrize("wal", [False, True], ids=["rollback", "wal"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database.configure(str(tmp_path / "thunderbird.db"))
    return tmp_path / "thunderbird.db"


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


@journal_modes
def test_rows_that_the_web_application_wrote_are_ours(path: Path, wal: bool) -> None:
    make_with_four(path, wal=wal)

    done = migrations.upgrade()

    assert done.tables == [
        migrations.Table("accounts", "adopted", 2),
        migrations.Table("discount_codes", "adopted", 2),
        migrations.Table("orders", "adopted", 3),
        migrations.Table("account_balances", "adopted", 2),
        migrations.Table("transactions", "adopted", 3),
        migrations.Table("audit_log", "created", 0),
    ]
    assert rows(path, "SELECT * FROM discount_codes") == [
        (3, "LAUNCH10", "percent", 10, 3, 1, 1, "co_1", EIGHT),
        (9, "FIVE_OFF", "fixed", 500, None, 0, 0, None, "2026-11-23T08:13:00.500000Z"),
    ]
    assert rows(path, "SELECT * FROM orders") == [
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
    assert rows(path, "SELECT * FROM account_balances") == [
        (4, 1, 995, "2026-11-23T08:13:00.000001Z"),
        (5, 2, -20, EIGHT),
    ]
    assert rows(path, "SELECT * FROM transactions") == [
        (21, 1, 7, "credit", 1000, 1000, "Initial purchase", EIGHT),
        (22, 1, None, "debit", 5, 995, "SMS “hello”", EIGHT),
        (40, 2, None, "refund", 20, -20, "x", EIGHT),
    ]
    assert rows(path, "PRAGMA foreign_key_check") == []


def test_adopted_tables_are_shaped_as_new_ones(path: Path, migrated: Path) -> None:
    make_with_four(path)

    migrations.upgrade()

    assert _shapes(path) == _shapes(migrated)
    assert migrations.check() == []


@pytest.mark.parametrize("there", [*FOUR], ids=lambda name: f"{name} alone")
def test_some_of_the_four_are_adopted_and_the_others_made(
    path: Path, migrated: Path, there: str
) -> None:
    make(path, *FEW_ACCOUNTS, FOUR[there])

    done = migrations.upgrade()

    assert {table.table for table in done.tables if table.how == "adopted"} == {"accounts", there}
    assert _shapes(path) == _shapes(migrated)


def test_tables_that_appeared_after_the_first_migration_are_adopted(path: Path) -> None:
    make(path, *FEW_ACCOUNTS)
    migrations.upgrade("0001")
    database.close()
    make(path, *FOUR.values(), *ROWS)

    done = migrations.upgrade()

    assert migrations.Table("orders", "adopted", 3) in done.tables
    assert not any(table.table == "accounts" for table in done.tables)


def test_many_rows_are_moved_as_few_are(path: Path) -> None:
    numbers = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
    make_with_four(
        path,
        f"""
        {numbers} INSERT INTO orders SELECT 100 + i, 1 + i % 2, 'top_up', i, 'cs_x' || i,
            'pi_x' || i, 3, 'completed', '2026-11-23 08:13:00', '2026-11-23T08:13:01' FROM n;
        {numbers} INSERT INTO transactions SELECT 100 + i, 1 + i % 2, 100 + i, 'credit', i, i,
            'Top-up', '2026-11-23 08:13:00' FROM n;
        """,
    )

    migrations.upgrade()

    assert rows(path, "SELECT count(*), sum(amount_cents) FROM orders") == [(20003, 200011900)]
    assert rows(path, "PRAGMA foreign_key_check") == []
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_tables_of_theirs_that_point_at_ours_still_do(path: Path) -> None:
    make_with_four(
        path,
        """
        CREATE TABLE invoices (
            id INTEGER PRIMARY KEY,
            order_id INTEGER NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
            line_id INTEGER REFERENCES "transactions" (id)
        );
        INSERT INTO invoices VALUES (1, 7, 21), (2, 12, NULL);
        """,
    )
    theirs = rows(path, "SELECT sql FROM sqlite_master WHERE name = 'invoices'")

    migrations.upgrade()

    assert rows(path, "SELECT sql FROM sqlite_master WHERE name = 'invoices'") == theirs
    assert rows(path, "SELECT * FROM invoices") == [(1, 7, 21), (2, 12, None)]
    assert rows(path, "PRAGMA foreign_key_check") == []
    run(path, "PRAGMA foreign_keys=ON", "INSERT INTO invoices VALUES (3, 13, 40)")


def test_an_index_of_their_own_is_made_again_as_it_was(path: Path) -> None:
    index = "CREATE INDEX recent ON orders (created_at DESC, status) WHERE status <> 'a:b%(c)s'"
    make_with_four(path, index)

    migrations.upgrade()

    assert rows(path, "SELECT sql FROM sqlite_master WHERE name = 'recent'") == [(index,)]
    assert migrations.check() == []


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ("0001-01-01T00:00:00", "0001-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59.999999", "9999-12-31T23:59:59.999999Z"),
        ("2026-11-23T08:13:00.123456789Z", "2026-11-23T08:13:00.123456Z"),
        ("2026-11-23T08:13:00,5+05:30", "2026-11-23T02:43:00.500000Z"),
        ("2026-11-23 08", "2026-11-23T08:00:00.000000Z"),
        ("2026-03-29T02:30:00+0100", "2026-03-29T01:30:00.000000Z"),
    ],
)
def test_a_time_in_any_iso_form_is_rewritten_to_fixed_width_utc(
    path: Path, found: str, kept: str
) -> None:
    make_with_four(path, f"UPDATE orders SET created_at = '{found}' WHERE id = 12")

    migrations.upgrade()

    assert rows(path, "SELECT created_at FROM orders WHERE id = 12") == [(kept,)]


def test_right_values_under_other_types_are_taken(path: Path, migrated: Path) -> None:
    four = {name: re.sub(r"VARCHAR\(\d+\)|BIGINT", "", text) for name, text in FOUR.items()}
    make(path, *FEW_ACCOUNTS, *four.values(), *ROWS)

    migrations.upgrade()

    assert rows(path, "SELECT sum(amount_cents), max(stripe_session_id) FROM orders") == [
        (1900, "cs_1")
    ]
    assert _shapes(path) == _shapes(migrated)


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
        if table not in OURS | {"tbpay_alembic_version"}
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
