"""Up, down, twice at once, killed in between, as a script, and through the plain command."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import ROOT
from databases import Database
from probes import FORK, dump, rows, run, together
from webapp import (
    ACCOUNTS,
    FEW_ACCOUNTS,
    FOUR,
    POSTGRESQL_ACCOUNTS,
    ROWS,
    empty,
    make,
    make_with_four,
)

from tbpay import database, migrations, schema
from tbpay.database import beginning
from tbpay.errors import (
    Code,
    ConfirmationError,
    InvalidInputError,
    OutcomeUnknownError,
    SchemaError,
    TbpayError,
    UnavailableError,
)
from tbpay.guards import GUARDS
from tbpay.migrations import HEAD, Difference, Revision, Table
from tbpay.reports.verify import verify
from tbpay.stores import account_store, balance_store

HISTORY = [
    Revision("0001", "the web application's accounts"),
    Revision("0002", "orders, balances, transactions, discount codes"),
    Revision("0003", "audit log of the command line"),
    Revision("0004", "guards of the ledger, versions of its lines, idempotency keys"),
    Revision("0005", "redemptions of discount codes, their window and limits"),
    Revision("0006", "refunds of orders"),
    Revision(
        "0007",
        "exact charging: fractions of a cent, and what was sold beside each line that charged"
        " an SMS",
    ),
]
# With how many tables each of them begins.
NEW_TABLES = [1, 4, 1, 0, 1, 1, 1]
NOW = "2026-11-23T08:13:00.000000Z"
MORE_ROWS = """
    WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
    INSERT INTO transactions SELECT 100 + i, 1, NULL, 'debit', 5, 995, printf('%.200c', 'x'),
        '2026-11-23' FROM n
    """


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database.configure(str(tmp_path / "tbpay.db"))
    return tmp_path / "tbpay.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database before there is anything in it."""
    with empty(request.param, tmp_path) as new:
        yield new


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Database]:
    """The same, on PostgreSQL."""
    with empty("postgresql", tmp_path) as new:
        yield new


@pytest.fixture
def step(request: pytest.FixtureRequest) -> int:
    """How many operations further the next one is killed: all of them are in the long form."""
    return 1 if request.config.getoption("--long") else 11


# up and down


def test_an_upgrade_tells_what_it_made(there: Database) -> None:
    done = migrations.upgrade()

    assert (done.database, done.source) == (str(there), "configure()")
    assert (done.revision, done.backup) == (HEAD, None)
    assert done.steps == HISTORY
    assert done.tables == [Table(name, "created", 0) for name in schema.METADATA.tables]


def test_before_the_commit_it_is_said_that_nothing_else_is_left(there: Database) -> None:
    seen: list[list[str]] = []
    nothing = there.dump()

    migrations.upgrade(on_commit=lambda: seen.append(there.dump()))

    assert seen == [nothing]
    assert rows(there, "SELECT version_num FROM tbpay_alembic_version") == [(HEAD,)]


def test_an_upgrade_with_nothing_pending_does_nothing(there: Database) -> None:
    make_with_four(there)
    migrations.upgrade()
    before = dump(there)

    done = migrations.upgrade()

    assert (done.revision, done.steps, done.tables, done.backup) == (HEAD, [], [], None)
    assert dump(there) == before


@pytest.mark.usefixtures("there")
def test_an_upgrade_goes_as_far_as_it_is_told() -> None:
    revisions = list(schema.REVISIONS)

    reached = [
        migrations.upgrade(revision) for revision in (*revisions[:2], "0001", *revisions[2:])
    ]

    assert [done.revision for done in reached] == [*revisions[:2], "0002", *revisions[2:]]
    assert [len(done.steps) for done in reached] == [1, 1, 0, *[1 for _ in revisions[2:]]]
    assert [len(done.tables) for done in reached] == [*NEW_TABLES[:2], 0, *NEW_TABLES[2:]]


@pytest.mark.usefixtures("there")
def test_the_stores_see_where_a_migration_in_the_same_process_has_led() -> None:
    migrations.upgrade()
    ann = account_store.create("ann@example.org")

    migrations.downgrade("0002", confirmed="0002")
    with pytest.raises(SchemaError, match=f"is at revision 0002, this tbpay needs {HEAD}"):
        account_store.find()
    migrations.upgrade()

    assert account_store.find().items == [ann]


@pytest.mark.parametrize("start", schema.REVISIONS)
def test_rows_go_up_and_down_from_every_revision(there: Database, start: str) -> None:
    make(there, *(ACCOUNTS if there.dialect == "sqlite" else POSTGRESQL_ACCOUNTS))
    migrations.upgrade(start)
    _fill(there, start)
    columns = _columns(there)
    kept = _contents(there, columns)

    migrations.upgrade()
    at_head = _contents(there, columns)
    migrations.downgrade(start, confirmed=start)
    back = _contents(there, columns)
    migrations.upgrade()
    again = _contents(there, columns)

    assert len(kept["accounts"]) == 990
    assert kept == at_head == back == again
    assert migrations.check() == []


def test_a_downgrade_tells_its_steps_and_leaves_accounts_and_their_column(there: Database) -> None:
    make(there, *FEW_ACCOUNTS)
    migrations.upgrade()
    run(there, "UPDATE accounts SET stripe_customer_id = 'cus_1' WHERE id = 1")

    done = migrations.downgrade("base", confirmed=None)

    assert (done.revision, done.tables) == (None, [])
    assert done.steps == HISTORY[::-1]
    left = rows(there, "SELECT id, stripe_customer_id FROM accounts ORDER BY id")
    assert left == [(1, "cus_1"), (2, None)]
    database.close()
    assert not any("order" in line or "guard" in line for line in there.dump())


@pytest.mark.parametrize("confirmed", [None, "", "0001", "BASE", HEAD])
def test_a_downgrade_that_drops_rows_wants_its_revision_typed(
    there: Database, confirmed: str | None, tmp_path: Path
) -> None:
    make_with_four(there)
    backup = migrations.upgrade().backup
    before = dump(there)

    with pytest.raises(ConfirmationError) as refused:
        migrations.downgrade("base", confirmed=confirmed)

    assert dump(there) == before
    backups = [str(found) for found in tmp_path.glob("*.backup-*")]
    assert backups == ([backup] if there.dialect == "sqlite" else [])
    assert refused.value.message == (
        "this downgrade drops discount_codes (2 rows), orders (3 rows), account_balances (2 rows),"
        " transactions (3 rows), discount_redemptions (2 rows), which must be confirmed"
    )


def test_a_downgrade_that_was_confirmed_drops_the_rows_and_keeps_a_copy(path: Path) -> None:
    make_with_four(path)
    migrations.upgrade()
    before = dump(path)

    done = migrations.downgrade("0001", confirmed="0001")

    assert done.revision == "0001"
    assert done.backup is not None
    assert dump(Path(done.backup)) == before
    assert rows(path, "SELECT count(*) FROM accounts") == [(2,)]


def test_a_downgrade_on_a_server_that_was_confirmed_drops_the_rows(server: Database) -> None:
    make_with_four(server)
    migrations.upgrade()

    done = migrations.downgrade("0001", confirmed="0001")

    assert (done.revision, done.backup) == ("0001", None)
    assert rows(server, "SELECT count(*) FROM accounts") == [(2,)]


def test_a_downgrade_that_drops_charges_leaves_the_whole_cents(there: Database) -> None:
    make(there, *FEW_ACCOUNTS)
    migrations.upgrade()
    balance_store.add_credits(1, 1_000, "a gift")
    balance_store.charge_sms(1, "+12015550123")
    lines = "SELECT id, amount_cents, balance_after_cents FROM transactions ORDER BY id"
    before = rows(there, lines)

    with pytest.raises(ConfirmationError, match=r"drops sms_charges \(1 row\)"):
        migrations.downgrade("0006", confirmed=None)
    migrations.downgrade("0006", confirmed="0006")
    down = rows(there, "SELECT * FROM account_balances")
    migrations.upgrade()

    assert [amount for _, amount, _ in before] == [1_000, 6]
    assert [balance[2] for balance in down] == [994]
    assert rows(there, lines) == before
    assert balance_store.get_or_create(1).subcent_micros == 0
    charge = balance_store.charge_sms(1, "+12015550123").sms_charge
    assert charge is not None
    assert (charge.subcent_after_micros, verify().differences) == (3_500, [])
    assert migrations.check() == []


@pytest.mark.usefixtures("there")
def test_a_downgrade_below_what_is_there_or_up_is_refused() -> None:
    with pytest.raises(SchemaError) as missing:
        migrations.downgrade("base", confirmed="base")
    migrations.upgrade("0001")
    with pytest.raises(InvalidInputError, match="is at revision 0001, below 0003"):
        migrations.downgrade("0003", confirmed="0003")

    assert missing.value.code is Code.SCHEMA_MISSING
    assert migrations.status().revision == "0001"


@pytest.mark.parametrize("revision", ["", "4", "9999", "+1", "-1", "heads", "0001:0003", "00"])
def test_a_revision_that_is_none_is_refused_and_no_file_is_made(path: Path, revision: str) -> None:
    for move in (
        lambda: migrations.upgrade(revision),
        lambda: migrations.downgrade(revision, confirmed=revision),
        lambda: migrations.script(revision),
    ):
        with pytest.raises(TbpayError):
            move()

    assert not path.exists()


def test_a_database_of_a_newer_tbpay_is_left_alone(there: Database, tmp_path: Path) -> None:
    make_with_four(there)
    migrations.upgrade()
    run(there, "UPDATE tbpay_alembic_version SET version_num = '9999'")
    before, beside = dump(there), set(tmp_path.iterdir())

    for move in (
        migrations.upgrade,
        migrations.status,
        migrations.check,
        lambda: migrations.script("head"),
        lambda: migrations.downgrade("base", confirmed="base"),
    ):
        with pytest.raises(SchemaError, match="9999") as refused:
            move()
        assert refused.value.code is Code.SCHEMA_AHEAD

    database.close()
    assert dump(there) == before
    assert set(tmp_path.iterdir()) >= beside


# where it stands


def test_the_status_of_a_file_that_is_not_there_is_the_beginning(path: Path) -> None:
    found = migrations.status()

    assert (found.revision, found.title, found.size_bytes) == (None, None, None)
    assert (found.head, found.pending) == (HEAD, HISTORY)
    assert not path.exists()


def test_the_status_tells_revision_title_size_and_what_is_pending(path: Path) -> None:
    migrations.upgrade("0002")
    database.close()

    found = migrations.status()

    assert (found.revision, found.title) == ("0002", HISTORY[1].title)
    assert (found.pending, found.size_bytes) == (HISTORY[2:], path.stat().st_size)


def test_the_size_of_a_database_on_a_server_is_all_of_it(server: Database) -> None:
    before = migrations.status()
    make(server, "CREATE TABLE large AS SELECT repeat('x', 999) FROM generate_series(1, 9999)")

    after = migrations.status()

    assert (before.revision, after.pending) == (None, HISTORY)
    assert before.size_bytes is not None
    assert after.size_bytes is not None
    assert after.size_bytes > before.size_bytes + 9_000_000


def test_looking_waits_for_nobody(there: Database) -> None:
    migrations.upgrade()
    begin = "BEGIN IMMEDIATE" if there.dialect == "sqlite" else "BEGIN"

    with there.another() as writer:
        for statement in (begin, "UPDATE orders SET status = status"):
            writer.execute(statement)

        assert migrations.status().revision == HEAD
        assert migrations.check() == []
        assert migrations.script("base", down=True)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("revision", [None, "0001", "0005"])
def test_a_check_of_tables_that_are_behind_is_refused(revision: str | None) -> None:
    if revision is not None:
        migrations.upgrade(revision)

    with pytest.raises(SchemaError) as refused:
        migrations.check()

    assert refused.value.hint == "tbpay db upgrade"


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        (
            ["DROP TABLE audit_log"],
            [
                ("audit_log", "table audit_log is missing"),
                ("audit_log", "index ix_audit_log_subject is missing"),
            ],
        ),
        (
            ["DROP INDEX ix_orders_stripe_session_id"],
            [("orders", "index ix_orders_stripe_session_id is missing")],
        ),
        (
            ["ALTER TABLE orders ADD COLUMN note TEXT"],
            [("orders", "column note is not expected")],
        ),
        (
            ["ALTER TABLE accounts DROP COLUMN stripe_customer_id"],
            [("accounts", "column stripe_customer_id is missing")],
        ),
        (
            [
                "DROP TABLE audit_log",
                "CREATE TABLE audit_log (id INTEGER NOT NULL PRIMARY KEY, at INTEGER NOT NULL,"
                " actor VARCHAR(255), host VARCHAR(255) NOT NULL, action VARCHAR(50) NOT NULL,"
                " subject VARCHAR(255) NOT NULL, reason VARCHAR(255), detail TEXT DEFAULT 'x')",
                "CREATE INDEX ix_audit_log_subject ON audit_log (subject)",
            ],
            [
                ("audit_log", "type of at: VARCHAR(50) expected, INTEGER found"),
                ("audit_log", "nullable of actor: False expected, True found"),
                ("audit_log", "nullable of detail: False expected, True found"),
                ("audit_log", "default of detail: '{}' expected, 'x' found"),
            ],
        ),
        (
            [
                "DROP INDEX ix_transactions_order_credit",
                "CREATE UNIQUE INDEX ix_transactions_order_credit ON transactions (order_id)"
                " WHERE transaction_type = 'refund'",
            ],
            [("transactions", "index ix_transactions_order_credit is not made as expected")],
        ),
        (
            [
                "PRAGMA writable_schema = ON",
                "UPDATE sqlite_master SET sql = replace(sql, 'BETWEEN 0 AND 99999999', '>= 0')"
                " WHERE name = 'transactions'",
            ],
            [("transactions", "table transactions is not made as expected")],
        ),
        (
            [
                "PRAGMA writable_schema = ON",
                "UPDATE sqlite_master SET sql = replace(sql, 'max_uses BETWEEN 1', 'max_uses > 1')"
                " WHERE name = 'discount_codes'",
            ],
            [("discount_codes", "table discount_codes is not made as expected")],
        ),
        (
            ["CREATE TRIGGER theirs AFTER INSERT ON orders BEGIN SELECT 1; END"],
            [("orders", "trigger theirs is not expected")],
        ),
        (
            [
                "DROP TRIGGER transactions_no_delete",
                "DROP TRIGGER orders_no_delete",
                "CREATE TRIGGER orders_no_delete BEFORE DELETE ON orders WHEN 0"
                " BEGIN SELECT RAISE(ABORT, 'an order is never deleted'); END",
            ],
            [
                ("transactions", "trigger transactions_no_delete is missing"),
                ("orders", "trigger orders_no_delete is not made as expected"),
            ],
        ),
        (
            ["CREATE VIEW paid AS SELECT * FROM [Orders] WHERE status = 'completed'"],
            [("orders", "view paid is not expected")],
        ),
        (
            [
                "CREATE TRIGGER t AFTER INSERT ON accounts BEGIN SELECT 1; END",
                "CREATE VIEW everybody AS SELECT * FROM accounts",
            ],
            [],
        ),
        (["CREATE INDEX mine ON orders (created_at)", "CREATE TABLE more (id INTEGER)"], []),
    ],
)
def test_a_check_names_what_differs(
    path: Path, changes: list[str], differences: list[tuple[str, str]]
) -> None:
    migrations.upgrade()
    run(path, *changes)

    assert migrations.check() == [Difference(*found) for found in differences]


def test_a_check_on_a_server_names_what_differs(server: Database) -> None:
    migrations.upgrade()
    run(
        server,
        "ALTER TABLE accounts DROP stripe_customer_id, ADD note TEXT CHECK (note <> '')",
        "ALTER TABLE orders DROP CONSTRAINT ck_orders_status",
        "ALTER TABLE orders DROP CONSTRAINT ck_orders_amount_cents,"
        " ADD CONSTRAINT ck_orders_amount_cents CHECK (amount_cents >= 0)",
        "ALTER TABLE orders ADD CHECK (amount_cents <> 13), ADD more TEXT",
        "ALTER TABLE orders ALTER status DROP DEFAULT, ALTER created_at TYPE TEXT",
        "ALTER TABLE orders DROP CONSTRAINT fk_orders_account_id,"
        " ADD CONSTRAINT fk_orders_account_id FOREIGN KEY (account_id) REFERENCES accounts"
        " ON DELETE CASCADE",
        "ALTER TABLE transactions ALTER account_version SET DEFAULT 0",
        "ALTER TABLE account_balances ALTER id DROP DEFAULT",
        "DROP INDEX ix_orders_account_id",
        "DROP INDEX ix_transactions_order_credit",
        "CREATE UNIQUE INDEX ix_transactions_order_credit ON transactions (order_id)"
        " WHERE transaction_type = 'refund'",
        "DROP TABLE audit_log",
        "CREATE INDEX mine ON orders (created_at)",
        "CREATE TABLE more (id INTEGER)",
    )

    assert {(found.table, found.difference) for found in migrations.check()} == {
        ("accounts", "column stripe_customer_id is missing"),
        (
            "account_balances",
            "column id: bigint NOT NULL DEFAULT the next of its own sequence expected,"
            " bigint NOT NULL found",
        ),
        ("audit_log", "table audit_log is missing"),
        ("orders", "constraint ck_orders_status is missing"),
        ("orders", "constraint ck_orders_amount_cents is not made as expected"),
        ("orders", "constraint orders_amount_cents_check is not expected"),
        ("orders", "constraint fk_orders_account_id is not made as expected"),
        # Which PostgreSQL words otherwise for another type.
        ("orders", "constraint ck_orders_created_at is not made as expected"),
        ("orders", "column more is not expected"),
        (
            "orders",
            "column status: character varying(20) NOT NULL DEFAULT 'pending'::character varying"
            " expected, character varying(20) NOT NULL found",
        ),
        (
            "orders",
            'column created_at: character varying(50) COLLATE "C" NOT NULL expected,'
            " text NOT NULL found",
        ),
        ("orders", "index ix_orders_account_id is missing"),
        (
            "transactions",
            "column account_version: bigint NOT NULL expected, bigint NOT NULL DEFAULT 0 found",
        ),
        ("transactions", "index ix_transactions_order_credit is not made as expected"),
    }


def test_a_check_on_a_server_names_what_became_of_the_guards(server: Database) -> None:
    migrations.upgrade()
    run(
        server,
        "ALTER TABLE discount_codes DISABLE TRIGGER ALL",
        "DROP TRIGGER orders_no_delete ON orders",
        "DROP TRIGGER transactions_no_change ON transactions",
        "CREATE TRIGGER transactions_no_change BEFORE UPDATE ON transactions"
        " FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()",
        "ALTER TABLE transactions ENABLE ALWAYS TRIGGER transactions_no_change",
        "ALTER TABLE transactions ENABLE TRIGGER transactions_follow",
        "CREATE OR REPLACE FUNCTION tbpay_balance_follows() RETURNS trigger LANGUAGE plpgsql"
        " SET search_path = public, pg_temp AS 'BEGIN RETURN NULL; END'",
        "ALTER FUNCTION tbpay_line_follows() SET search_path = pg_temp, public",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER theirs AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE TRIGGER t AFTER INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE VIEW paid AS SELECT 1 FROM orders",
        "CREATE VIEW everybody AS SELECT * FROM accounts",
        """CREATE RULE "it's" AS ON DELETE TO order_refunds DO INSTEAD NOTHING""",
    )

    assert {(found.table, found.difference) for found in migrations.check()} == {
        ("discount_codes", "its foreign keys are switched off"),
        ("discount_codes", "trigger discount_codes_add_up is not always on"),
        ("orders", "trigger orders_no_delete is missing"),
        ("orders", "trigger theirs is not expected"),
        ("orders", "view paid is not expected"),
        ("order_refunds", "rule it's is not expected"),
        ("transactions", "trigger transactions_no_change is not made as expected"),
        ("transactions", "trigger transactions_follow is not always on"),
        ("transactions", "function tbpay_line_follows is not made as expected"),
        ("account_balances", "function tbpay_balance_follows is not made as expected"),
    }


def test_a_check_says_where_it_may_make_nothing_to_compare_with(server: Database) -> None:
    migrations.upgrade()
    database.configure(f"{server.url}?options=-cdefault_transaction_read_only%3Don")

    with pytest.raises(UnavailableError, match=r"temporary ones, which .* does not allow$"):
        migrations.check()


@pytest.mark.parametrize("revision", schema.REVISIONS)
def test_after_every_migration_up_and_down_the_guards_are_those_of_the_revision(
    there: Database, revision: str
) -> None:
    make_with_four(there)
    migrations.upgrade(revision)
    up = _guards(there)

    migrations.upgrade()
    at_head = _guards(there)
    migrations.downgrade(revision, confirmed=revision)
    down = _guards(there)

    assert set(at_head) == set(GUARDS[there.dialect])
    assert up == down
    # What looks at a balance when a unit commits has learned of fractions since.
    learned = {"account_balances_follow"} if there.dialect == "postgresql" else set()
    assert {name for name, text in up.items() if at_head.get(name) != text} <= learned
    assert bool(up) == (revision >= "0004")


# at once, and killed


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("adopted", [False, True], ids=["new", "adopted"])
def test_upgrades_at_one_moment_all_succeed_and_one_does_the_work(
    path: Path, processes: int, adopted: bool
) -> None:
    for number in range(3):
        one = path.with_name(f"{number}.db")
        database.configure(str(one))
        if adopted:
            make_with_four(one)

        reports = together(lambda _: _attempt(migrations.upgrade), processes)

        _assert_one_did_the_work(reports)
        assert migrations.check() == []
        assert rows(one, "PRAGMA journal_mode") == [("delete" if adopted else "wal",)]
        assert len(list(path.parent.glob(f"{number}.db.backup-*"))) == adopted
        database.close()


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
@pytest.mark.parametrize("adopted", [False, True], ids=["new", "adopted"])
def test_upgrades_of_a_server_at_one_moment_all_succeed_and_one_does_the_work(
    server: Database, isolation: str, adopted: bool
) -> None:
    run(server, f"ALTER DATABASE {_name(server)} SET default_transaction_isolation = '{isolation}'")
    if adopted:
        make_with_four(server)

    reports = together(lambda _: _attempt(migrations.upgrade), 4)

    _assert_one_did_the_work(reports)
    assert migrations.check() == []


def test_an_upgrade_may_take_longer_than_a_statement_of_the_application(server: Database) -> None:
    make_with_four(server)
    run(server, f"ALTER DATABASE {_name(server)} SET statement_timeout = '150ms'")

    with server.another() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM orders")
        threading.Timer(0.6, lambda: reader.execute("COMMIT")).start()
        done = migrations.upgrade()

    assert done.revision == HEAD


def test_an_upgrade_gives_way_to_a_unit_that_holds_what_it_waits_for(server: Database) -> None:
    make_with_four(server)
    migrations.upgrade()
    migrations.downgrade("0005", confirmed="0005")
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"

    with server.another() as other:
        other.execute("SET lock_timeout = '10s'")
        other.execute("BEGIN")
        # The last of our tables first, so that the upgrade holds all the others meanwhile.
        other.execute("UPDATE discount_redemptions SET status = status")
        upgrade = FORK.Process(target=migrations.upgrade)
        upgrade.start()
        while upgrade.is_alive() and rows(server, waits) == [(0,)]:
            time.sleep(0.01)
        for table in ("discount_codes", "orders", "account_balances"):
            other.execute(f"SELECT * FROM {table} FOR UPDATE")
        other.execute("COMMIT")
        upgrade.join()

    assert upgrade.exitcode == 0
    assert migrations.status().revision == HEAD


@pytest.mark.parametrize(
    ("scripts", "wal", "head", "least"),
    [
        ([], False, "0002", 12),
        ([*ACCOUNTS, *FOUR.values(), *ROWS, MORE_ROWS], False, HEAD, 60),
        ([*ACCOUNTS, *FOUR.values(), *ROWS, MORE_ROWS], True, HEAD, 60),
    ],
    ids=["new", "four", "four-wal"],
)
def test_an_upgrade_killed_after_any_operation_is_finished_by_the_next(
    path: Path, step: int, scripts: list[str], wal: bool, head: str, least: int
) -> None:
    start = make(path.with_name("start.db"), *scripts, wal=wal)
    shutil.copy(start, path)
    migrations.upgrade(head)
    database.close()
    before, after = dump(start), dump(path)

    path.unlink()
    if scripts:
        shutil.copy(start, path)

    operations = 1
    while _killed(lambda: migrations.upgrade(head), operations):
        # As before, so that the next one finds the same each time.
        assert dump(path) == before
        operations += step

    assert dump(path) == after
    # Each CREATE, INSERT, ALTER, DROP and UPDATE, and the moment before the COMMIT.
    assert operations > least


@pytest.mark.parametrize(
    ("adopted", "head", "least"), [(False, "0002", 12), (True, HEAD, 60)], ids=["new", "four"]
)
def test_an_upgrade_of_a_server_killed_after_any_operation_is_finished_by_the_next(
    server: Database, step: int, adopted: bool, head: str, least: int
) -> None:
    def begin_again() -> list[str]:
        database.close()
        run(server, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        if adopted:
            make_with_four(server)
        return dump(server)

    before = begin_again()
    migrations.upgrade(head)
    after = dump(server)
    begin_again()

    operations = 1
    while _killed(lambda: migrations.upgrade(head), operations):
        # As before, so that the next one finds the same each time.
        assert dump(server) == before
        operations += step

    assert dump(server) == after
    assert operations > least


def test_a_downgrade_killed_after_an_operation_changed_nothing(there: Database, step: int) -> None:
    make_with_four(there)
    migrations.upgrade()
    database.close()
    before = dump(there)

    operations = 1
    while _killed(lambda: migrations.downgrade("base", confirmed="base"), operations):
        assert dump(there) == before
        operations += step

    assert operations > 20
    assert migrations.status().revision is None


def test_an_upgrade_that_gets_no_turn_gives_up_and_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_with_four(path)
    before = path.read_bytes()
    monkeypatch.setattr(beginning, "BUSY_SECONDS", 0.2)

    # In a file with a rollback journal a reader who stays keeps the commit waiting.
    for hold in ("BEGIN IMMEDIATE", "BEGIN; SELECT * FROM orders"):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            for statement in hold.split(";"):
                other.execute(statement).fetchone()
            with pytest.raises(UnavailableError) as refused:
                migrations.upgrade()
        assert refused.value.code is Code.BUSY

    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "hold",
    ["SELECT * FROM orders", "LOCK TABLE transactions", "SELECT pg_advisory_lock(7473406179)"],
)
def test_an_upgrade_of_a_server_that_gets_no_turn_gives_up_and_changes_nothing(
    server: Database, hold: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_with_four(server)
    before = dump(server)
    monkeypatch.setattr(beginning, "BUSY_SECONDS", 0.3)

    with server.another() as other:
        other.execute("BEGIN")
        other.execute(hold)
        with pytest.raises(UnavailableError) as refused:
            migrations.upgrade()

    assert refused.value.code is Code.BUSY
    assert dump(server) == before


def test_an_upgrade_whose_connection_dies_before_the_commit_kept_nothing(server: Database) -> None:
    before = dump(server)

    with pytest.raises(UnavailableError) as refused:
        migrations.upgrade(on_commit=lambda: _end_all_connections(server))

    assert refused.value.code is Code.UNREACHABLE
    assert dump(server) == before


def test_an_upgrade_whose_connection_dies_after_the_commit_is_read_back(
    server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = sa.Connection.commit

    def commit_and_die(connection: sa.Connection) -> None:
        # The server has done it, and its answer is lost on the way: the driver waits for one.
        connection.exec_driver_sql("COMMIT; BEGIN")
        _end_all_connections(server)
        commit(connection)

    with monkeypatch.context() as here:
        here.setattr(sa.Connection, "commit", commit_and_die)
        done = migrations.upgrade()

    assert done.revision == HEAD
    assert migrations.check() == []


def test_where_nobody_can_tell_whether_a_migration_was_kept_that_is_said(
    server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_and_close_the_door() -> None:
        _end_all_connections(server, but=holder.info.backend_pid)
        holder.execute("SELECT pg_advisory_lock(7473406179)")
        monkeypatch.setattr(beginning, "BUSY_SECONDS", 0.2)

    with server.another() as holder:
        holder.execute("SET lock_timeout = '10s'")
        with pytest.raises(OutcomeUnknownError) as refused:
            migrations.upgrade(on_commit=die_and_close_the_door)

    assert refused.value.hint == "tbpay db status"


# as a script


def test_a_script_for_nothing_makes_everything(there: Database) -> None:
    nothing = there.dump()

    script = migrations.script("head")

    assert there.dump() == nothing
    make(there, script)
    assert migrations.check() == []


@pytest.mark.parametrize("revision", schema.REVISIONS)
def test_a_script_begins_where_the_database_stands(there: Database, revision: str) -> None:
    migrations.upgrade(revision)
    database.close()
    before = dump(there)

    script = migrations.script("head")

    assert dump(there) == before
    make(there, script)
    assert migrations.check() == []


def test_a_script_makes_what_an_upgrade_makes(server: Database) -> None:
    migrations.upgrade()
    upgraded = dump(server)
    migrations.downgrade("base", confirmed="base")

    make(server, migrations.script("head"))

    assert dump(server) == upgraded


@pytest.mark.parametrize(
    "accounts",
    [
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY)",
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, stripe_customer_id VARCHAR(255))",
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY) STRICT",
    ],
)
def test_a_script_makes_of_accounts_only_what_is_missing(there: Database, accounts: str) -> None:
    make(there, accounts if there.dialect == "sqlite" else accounts.removesuffix(" STRICT"))

    script = migrations.script("head")

    assert "CREATE TABLE accounts" not in script
    make(there, script)
    assert migrations.check() == []


@pytest.mark.parametrize(
    ("scripts", "named"),
    [
        (
            [*FEW_ACCOUNTS, FOUR["orders"]],
            "table discount_codes: its rows must be read to move them",
        ),
        (["CREATE TABLE accounts (id TEXT PRIMARY KEY)"], "table accounts: needs a column id"),
    ],
)
def test_a_script_that_would_have_to_look_at_rows_is_refused(
    there: Database, scripts: list[str], named: str
) -> None:
    make(there, "CREATE TABLE discount_codes (id INTEGER PRIMARY KEY)", *scripts)

    with pytest.raises(SchemaError, match=named):
        migrations.script("head")


@pytest.mark.parametrize("revision", ["base", *schema.REVISIONS[:-1]])
def test_a_script_takes_the_tables_back_and_another_makes_them_again(
    there: Database, revision: str
) -> None:
    make(there, *FEW_ACCOUNTS)
    migrations.upgrade()

    down = migrations.script(revision, down=True)
    database.close()
    make(there, down)
    reached = migrations.status().revision
    up = migrations.script("head")
    database.close()
    make(there, up)

    assert reached == (None if revision == "base" else revision)
    assert migrations.check() == []
    assert rows(there, "SELECT count(*) FROM accounts") == [(2,)]


@pytest.mark.usefixtures("there")
def test_a_script_for_where_the_database_is_does_nothing() -> None:
    migrations.upgrade()

    assert migrations.script("head").split() == ["BEGIN;", "COMMIT;"]


# the plain command


def test_the_plain_command_does_the_same(there: Database, tmp_path: Path) -> None:
    make_with_four(there)

    assert _alembic(there.url, "upgrade", "head").returncode == 0
    checked = _alembic(there.url, "check")
    current = _alembic(there.url, "current")
    assert (checked.returncode, current.returncode) == (0, 0)
    assert checked.stdout == "No new upgrade operations detected.\n"
    assert current.stdout == f"{HEAD} (head)\n"
    assert rows(there, "SELECT count(*) FROM orders") == [(3,)]
    assert len(list(tmp_path.glob("*.backup-*"))) == (there.dialect == "sqlite")


@pytest.mark.parametrize(
    ("there", "typed"),
    [("sqlite", None), ("sqlite", "wrong"), ("sqlite", "0001"), ("postgresql", None)],
    indirect=["there"],
)
def test_the_plain_command_drops_no_rows_without_the_revision_typed(
    there: Database, typed: str | None
) -> None:
    make_with_four(there)
    migrations.upgrade("0003")
    database.close()
    before = dump(there)

    done = _alembic(
        there.url, *([] if typed is None else ["-x", f"confirm={typed}"]), "downgrade", "base"
    )

    assert done.returncode != 0
    assert dump(there) == before
    assert done.stdout == (
        "FAILED: this downgrade drops discount_codes (2 rows), orders (3 rows),"
        " account_balances (2 rows), transactions (3 rows): confirm it with -x confirm=base\n"
    )
    assert "Traceback" not in done.stderr


def test_the_plain_command_goes_back_when_the_revision_was_typed(path: Path) -> None:
    make_with_four(path)
    migrations.upgrade("0003")
    database.close()

    one_step = _alembic(path, "downgrade", "-1")
    refused = _alembic(path, "downgrade", "-1")
    all_the_way = _alembic(path, "-x", "confirm=base", "downgrade", "base")

    assert (one_step.returncode, all_the_way.returncode) == (0, 0)
    assert refused.stdout.endswith("confirm it with -x confirm=-1\n")
    assert rows(path, "SELECT * FROM tbpay_alembic_version") == []
    assert rows(path, "SELECT count(*) FROM accounts") == [(2,)]


@pytest.mark.parametrize(
    "arguments",
    [["current"], ["check"], ["upgrade", "nonsense"], ["downgrade", "-1"], ["downgrade", "base"]],
    ids=" ".join,
)
def test_the_plain_command_makes_no_file_without_need(path: Path, arguments: list[str]) -> None:
    done = _alembic(path, *arguments)

    assert done.returncode != 0
    assert done.stdout.startswith("FAILED: ")
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert list(path.parent.iterdir()) == []


def test_the_plain_command_says_a_refusal_in_one_line(there: Database) -> None:
    make_with_four(there, "UPDATE orders SET status = 'paid' WHERE id = 12")

    refused = _alembic(there.url, "upgrade", "head")

    assert refused.stdout == (
        "FAILED: table orders, row 12: status 'paid' breaks the rule;"
        f" nothing was changed in {there} (TBPAY_DATABASE_URL)\n"
    )
    assert "Traceback" not in refused.stderr


def test_no_name_of_theirs_drives_the_terminal_through_the_plain_command(server: Database) -> None:
    make_with_four(server, 'CREATE VIEW "\x1b[2J\npaid" AS SELECT * FROM orders')

    refused = _alembic(server.url, "upgrade", "head")

    assert refused.stdout.startswith("FAILED: table orders: the view \\x1b[2J\\npaid works on it;")
    assert refused.stdout.count("\n") == 1


def test_what_a_server_refuses_is_said_in_its_own_words_without_values_of_rows(
    server: Database,
) -> None:
    make_with_four(
        server,
        # Two days as they are written, and one as they will be.
        "UPDATE orders SET created_at = '2026-W01-3T00' WHERE id = 7",
        "UPDATE orders SET created_at = '2025-12-31T00' WHERE id = 13",
        "CREATE UNIQUE INDEX mine ON orders (left(created_at, 10))",
    )

    with pytest.raises(SchemaError) as refused:
        migrations.upgrade()

    assert refused.value.message == (
        'PostgreSQL refuses: duplicate key value violates unique constraint "mine";'
        f" nothing was changed in {server} (configure())"
    )


def _fill(there: Database, revision: str) -> None:
    """Put a row into every table of a revision, as the stores of its time did."""
    order = f"(7, 1, 'top_up', 500, NULL, NULL, 3, 'completed', '{NOW}', '{NOW}', 1000"
    code = f"(3, 'FIVE', 'fixed', 500, 3, 1, TRUE, NULL, '{NOW}'"
    balance, moved = f"(4, 1, 1000, '{NOW}'", []
    line = f"(21, 1, 7, 'credit', 1000, 1000, 'Top-up', '{NOW}'"
    if revision >= "0004":
        order, line = order + ", NULL, NULL", line + ", 1, NULL, NULL"
        # A balance begins at 0, and moves before its line.
        balance = f"(4, 1, 0, '{NOW}', 0, 0"
        moved = ["UPDATE account_balances SET balance_cents = 1000, account_version = 1"]
    if revision >= "0005":
        code += ", NULL, NULL, NULL, NULL"
    if revision >= "0007":
        balance += ", 0"
    statements: list[str] = []
    rows_of = {
        "discount_codes": ("0002", f"{code})"),
        "orders": ("0002", f"{order})"),
        "account_balances": ("0002", f"{balance})"),
        "transactions": ("0002", f"{line})"),
        "audit_log": ("0003", f"(1, '{NOW}', 'ann', 'here', 'order create', '1', NULL, '{{}}')"),
        "discount_redemptions": ("0005", f"(5, 3, 7, 1, 500, 'redeemed', '{NOW}')"),
        "order_refunds": (
            "0006",
            f"(6, 7, 1, 2, 2, 'available', 're_1', NULL, NULL, NULL, NULL, '{NOW}')",
        ),
    }
    for table, (since, values) in rows_of.items():
        if since <= revision:
            insert = f"INSERT INTO {table} VALUES {values}"
            statements += [*moved, insert] if table == "transactions" else [insert]
    run(there, *statements)


def _columns(there: Database) -> dict[str, str]:
    """The columns of each table, but for the one that an upgrade adds to accounts."""
    engine = there.engine(poolclass=sa.pool.NullPool)
    inspector = sa.inspect(engine)
    columns = {
        table: ", ".join(
            column["name"]
            for column in inspector.get_columns(table)
            if column["name"] != "stripe_customer_id"
        )
        for table in inspector.get_table_names()
        if table != schema.VERSION_TABLE
    }
    engine.dispose()
    return columns


def _contents(there: Database, columns: dict[str, str]) -> dict[str, list[tuple[Any, ...]]]:
    database.close()
    return {
        table: rows(there, f"SELECT {names} FROM {table} ORDER BY 1")
        for table, names in columns.items()
    }


def _guards(there: Database) -> dict[str, str]:
    """Every trigger that is there, by name and text."""
    database.close()
    if there.dialect == "sqlite":
        found = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    else:
        found = """
            SELECT tgname, tgenabled::text || pg_get_triggerdef(pg_trigger.oid) || prosrc
            FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid WHERE NOT tgisinternal
            """
    return dict(rows(there, found))


def _end_all_connections(server: Database, but: int = 0) -> None:
    run(
        server,
        "SELECT pg_terminate_backend(pid, 9999) FROM pg_stat_activity"
        f" WHERE datname = current_database() AND pid NOT IN (pg_backend_pid(), {but})",
    )


def _name(server: Database) -> str:
    return str(sa.make_url(server.url).database)


def _assert_one_did_the_work(reports: list[tuple[list[Revision], list[Table]]]) -> None:
    idle = [0] * (len(reports) - 1)
    assert sorted(len(steps) for steps, _ in reports) == [*idle, len(HISTORY)]
    assert sorted(len(tables) for _, tables in reports) == [*idle, sum(NEW_TABLES)]


def _attempt(move: Callable[[], migrations.Migration]) -> tuple[list[Revision], list[Table]]:
    done = move()
    database.close()
    return done.steps, done.tables


def _killed(move: Callable[[], object], operations: int) -> bool:
    """Move in a process that is killed after so many operations; tell whether it came to that."""
    process = FORK.Process(target=_move_and_die, args=(move, operations))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _move_and_die(move: Callable[[], object], operations: int) -> None:
    left = operations

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @sa.event.listens_for(sa.Engine, "connect")
    def _(connection: Any, _record: object) -> None:
        # Next to no memory, so that what is done stands half on the disk by then.
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA cache_size=2")

    @sa.event.listens_for(sa.Engine, "after_cursor_execute")
    def _(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if not statement.lstrip().startswith(("SELECT", "PRAGMA", "BEGIN", "WITH")):
            count()

    @sa.event.listens_for(sa.Engine, "commit")
    def _(_connection: object) -> None:
        count()

    move()


def _alembic(database_url: object, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        cwd=ROOT,
        env=os.environ | {"TBPAY_DATABASE_URL": str(database_url)},
    )
