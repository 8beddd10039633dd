"""Up, down, twice at once, killed in between, as a script, and through the plain command."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import ROOT
from probes import FORK, dump, rows, run, together
from webapp import ACCOUNTS, FEW_ACCOUNTS, FOUR, ROWS, make, make_with_four

from tbpay import database, migrations
from tbpay.database import engines
from tbpay.errors import (
    Code,
    ConfirmationError,
    InvalidInputError,
    SchemaError,
    TbpayError,
    UnavailableError,
)
from tbpay.migrations import Difference, Revision, Table
from tbpay.stores import account_store

HISTORY = [
    Revision("0001", "the web application's accounts"),
    Revision("0002", "orders, balances, transactions, discount codes"),
    Revision("0003", "audit log of the command line"),
]
NEW_TABLES = ["accounts", "discount_codes", "orders", "account_balances", "transactions"]
MORE_ROWS = """
    WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
    INSERT INTO transactions SELECT 100 + i, 1, NULL, 'debit', 5, 995, printf('%.200c', 'x'),
        '2026-11-23' FROM n
    """


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database.configure(str(tmp_path / "tbpay.db"))
    return tmp_path / "tbpay.db"


# up and down


def test_an_upgrade_tells_what_it_made(path: Path) -> None:
    done = migrations.upgrade()

    assert (done.database, done.source) == (str(path), "configure()")
    assert (done.revision, done.backup) == ("0003", None)
    assert done.steps == HISTORY
    assert done.tables == [Table(name, "created", 0) for name in [*NEW_TABLES, "audit_log"]]


def test_before_the_commit_it_is_said_that_nothing_else_is_left(path: Path) -> None:
    seen: list[list[tuple[object, ...]]] = []

    migrations.upgrade(on_commit=lambda: seen.append(rows(path, "SELECT * FROM sqlite_master")))

    assert seen == [[]]
    assert rows(path, "SELECT version_num FROM tbpay_alembic_version") == [("0003",)]


def test_an_upgrade_with_nothing_pending_does_nothing(path: Path) -> None:
    make_with_four(path)
    migrations.upgrade()
    before = dump(path)

    done = migrations.upgrade()

    assert (done.revision, done.steps, done.tables, done.backup) == ("0003", [], [], None)
    assert dump(path) == before


@pytest.mark.usefixtures("path")
def test_an_upgrade_goes_as_far_as_it_is_told() -> None:
    reached = [migrations.upgrade(revision) for revision in ("0001", "0002", "0001", "0003")]

    assert [done.revision for done in reached] == ["0001", "0002", "0002", "0003"]
    assert [len(done.steps) for done in reached] == [1, 1, 0, 1]
    assert [len(done.tables) for done in reached] == [1, 4, 0, 1]


@pytest.mark.usefixtures("path")
def test_the_stores_see_where_a_migration_in_the_same_process_has_led() -> None:
    migrations.upgrade()
    ann = account_store.create("ann@example.org")

    migrations.downgrade("0002", confirmed="0002")
    with pytest.raises(SchemaError, match="is at revision 0002, this tbpay needs 0003"):
        account_store.find()
    migrations.upgrade()

    assert account_store.find().items == [ann]


@pytest.mark.parametrize("start", ["0001", "0002", "0003"])
def test_rows_go_up_and_down_from_every_revision(path: Path, start: str) -> None:
    make(path, *ACCOUNTS)
    migrations.upgrade(start)
    if start > "0001":
        _fill(path)
    kept = _contents(path)

    migrations.upgrade()
    at_head = _contents(path)
    migrations.downgrade(start, confirmed=start)
    back = _contents(path)
    migrations.upgrade()
    again = _contents(path)

    assert len(kept["accounts"]) == 990
    assert all(at_head[name] == back[name] == again[name] == kept[name] for name in back)
    assert migrations.check() == []


def test_a_downgrade_tells_its_steps_and_leaves_accounts_and_their_column(path: Path) -> None:
    make(path, *FEW_ACCOUNTS)
    migrations.upgrade()
    run(path, "UPDATE accounts SET stripe_customer_id = 'cus_1' WHERE id = 1")

    done = migrations.downgrade("base", confirmed=None)

    assert (done.revision, done.tables) == (None, [])
    assert done.steps == HISTORY[::-1]
    assert rows(path, "SELECT id, stripe_customer_id FROM accounts") == [(1, "cus_1"), (2, None)]
    assert rows(path, "SELECT name FROM sqlite_master WHERE name LIKE '%order%'") == []


@pytest.mark.parametrize("confirmed", [None, "", "0001", "BASE", "0003"])
def test_a_downgrade_that_drops_rows_wants_its_revision_typed(
    path: Path, confirmed: str | None
) -> None:
    make_with_four(path)
    backup = migrations.upgrade().backup
    before = dump(path)

    with pytest.raises(ConfirmationError) as refused:
        migrations.downgrade("base", confirmed=confirmed)

    assert dump(path) == before
    assert [str(found) for found in path.parent.glob("*.backup-*")] == [backup]
    assert refused.value.message == (
        "this downgrade drops discount_codes (2 rows), orders (3 rows), account_balances (2 rows),"
        " transactions (3 rows), which must be confirmed"
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


@pytest.mark.usefixtures("path")
def test_a_downgrade_below_what_is_there_or_up_is_refused() -> None:
    with pytest.raises(SchemaError) as missing:
        migrations.downgrade("base", confirmed="base")
    migrations.upgrade("0001")
    with pytest.raises(InvalidInputError, match="is at revision 0001, below 0003"):
        migrations.downgrade("0003", confirmed="0003")

    assert missing.value.code is Code.SCHEMA_MISSING
    assert migrations.status().revision == "0001"


@pytest.mark.parametrize("revision", ["", "4", "0004", "+1", "-1", "heads", "0001:0003", "00"])
def test_a_revision_that_is_none_is_refused_and_no_file_is_made(path: Path, revision: str) -> None:
    for move in (
        lambda: migrations.upgrade(revision),
        lambda: migrations.downgrade(revision, confirmed=revision),
        lambda: migrations.script(revision),
    ):
        with pytest.raises(TbpayError):
            move()

    assert not path.exists()


def test_a_database_of_a_newer_tbpay_is_left_alone(path: Path) -> None:
    make_with_four(path)
    migrations.upgrade()
    run(path, "UPDATE tbpay_alembic_version SET version_num = '9999'")
    before, beside = dump(path), set(path.parent.iterdir())

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
    assert dump(path) == before
    assert set(path.parent.iterdir()) >= beside


# where it stands


def test_the_status_of_a_file_that_is_not_there_is_the_beginning(path: Path) -> None:
    found = migrations.status()

    assert (found.revision, found.title, found.size_bytes) == (None, None, None)
    assert (found.head, found.pending) == ("0003", HISTORY)
    assert not path.exists()


def test_the_status_tells_revision_title_size_and_what_is_pending(path: Path) -> None:
    migrations.upgrade("0002")
    database.close()

    found = migrations.status()

    assert (found.revision, found.title) == ("0002", HISTORY[1].title)
    assert (found.pending, found.size_bytes) == (HISTORY[2:], path.stat().st_size)


def test_looking_waits_for_nobody(path: Path) -> None:
    migrations.upgrade()

    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")

        assert migrations.status().revision == "0003"
        assert migrations.check() == []
        assert migrations.script("base", down=True)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("revision", [None, "0001", "0002"])
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
            ["CREATE TRIGGER theirs AFTER INSERT ON orders BEGIN SELECT 1; END"],
            [("orders", "trigger theirs is not expected")],
        ),
        (["CREATE TRIGGER t AFTER INSERT ON accounts BEGIN SELECT 1; END"], []),
        (["CREATE INDEX mine ON orders (created_at)", "CREATE TABLE more (id INTEGER)"], []),
    ],
)
def test_a_check_names_what_differs(
    path: Path, changes: list[str], differences: list[tuple[str, str]]
) -> None:
    migrations.upgrade()
    run(path, *changes)

    assert migrations.check() == [Difference(*found) for found in differences]


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

        assert sorted(len(steps) for steps, _ in reports) == [*[0] * (processes - 1), 3]
        assert sorted(len(tables) for _, tables in reports) == [*[0] * (processes - 1), 6]
        assert migrations.check() == []
        assert rows(one, "PRAGMA journal_mode") == [("delete" if adopted else "wal",)]
        assert len(list(path.parent.glob(f"{number}.db.backup-*"))) == adopted
        database.close()


@pytest.mark.parametrize(
    ("scripts", "wal", "least"),
    [
        ([], False, 20),
        ([*ACCOUNTS], False, 19),
        ([*FEW_ACCOUNTS, *FOUR.values(), *ROWS, MORE_ROWS], False, 31),
        ([*FEW_ACCOUNTS, *FOUR.values(), *ROWS, MORE_ROWS], True, 31),
    ],
    ids=["new", "accounts", "four", "four-wal"],
)
def test_an_upgrade_killed_after_any_operation_is_finished_by_the_next(
    path: Path, scripts: list[str], wal: bool, least: int
) -> None:
    start = make(path.with_name("start.db"), *scripts, wal=wal)
    shutil.copy(start, path)
    migrations.upgrade()
    assert migrations.check() == []
    database.close()
    before, after = dump(start), dump(path)

    def killed_after(operations: int) -> bool:
        path.unlink()
        if scripts:
            shutil.copy(start, path)
        if not _killed(migrations.upgrade, operations):
            return False
        assert dump(path) == before
        assert len(migrations.upgrade().steps) == 3
        database.close()
        assert dump(path) == after
        return True

    operations = 1
    while killed_after(operations):
        operations += 1

    # Each CREATE, INSERT, ALTER, DROP and UPDATE, and the moment before the COMMIT.
    assert operations > least


def test_a_downgrade_killed_after_any_operation_changed_nothing(path: Path) -> None:
    make_with_four(path, MORE_ROWS)
    migrations.upgrade()
    database.close()
    before = dump(path)

    operations = 1
    while _killed(lambda: migrations.downgrade("base", confirmed="base"), operations):
        assert dump(path) == before
        operations += 1

    assert operations > 8
    assert migrations.status().revision is None


def test_an_upgrade_that_gets_no_turn_gives_up_and_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_with_four(path)
    before = path.read_bytes()
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.2)

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


# as a script


def test_a_script_for_nothing_makes_everything(path: Path) -> None:
    script = migrations.script("head")

    assert not path.exists()
    make(path, script)
    assert migrations.check() == []


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
def test_a_script_begins_where_the_database_stands(path: Path, revision: str) -> None:
    migrations.upgrade(revision)
    database.close()
    before = dump(path)

    script = migrations.script("head")

    assert dump(path) == before
    make(path, script)
    assert migrations.check() == []


@pytest.mark.parametrize(
    "accounts",
    [
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY)",
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, stripe_customer_id VARCHAR(255))",
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY) STRICT",
    ],
)
def test_a_script_makes_of_accounts_only_what_is_missing(path: Path, accounts: str) -> None:
    make(path, accounts)

    script = migrations.script("head")

    assert "CREATE TABLE accounts" not in script
    make(path, script)
    assert migrations.check() == []


@pytest.mark.parametrize(
    ("scripts", "named"),
    [
        ([*FEW_ACCOUNTS, FOUR["orders"]], "table orders: its rows must be read to move them"),
        (["CREATE TABLE accounts (id TEXT PRIMARY KEY)"], "table accounts: needs a column id"),
    ],
)
def test_a_script_that_would_have_to_look_at_rows_is_refused(
    path: Path, scripts: list[str], named: str
) -> None:
    make(path, *scripts)

    with pytest.raises(SchemaError, match=named):
        migrations.script("head")


@pytest.mark.parametrize("revision", ["0002", "0001", "base"])
def test_a_script_takes_the_tables_back_and_another_makes_them_again(
    path: Path, revision: str
) -> None:
    make(path, *ACCOUNTS)
    migrations.upgrade()

    down = migrations.script(revision, down=True)
    make(path, down)
    reached = migrations.status().revision
    make(path, migrations.script("head"))

    assert reached == (None if revision == "base" else revision)
    assert migrations.check() == []
    assert rows(path, "SELECT count(*) FROM accounts") == [(990,)]


@pytest.mark.usefixtures("path")
def test_a_script_for_where_the_database_is_does_nothing() -> None:
    migrations.upgrade()

    assert migrations.script("head").split() == ["BEGIN;", "COMMIT;"]


# the plain command


def test_the_plain_command_does_the_same(path: Path) -> None:
    make_with_four(path)

    assert _alembic(path, "upgrade", "head").returncode == 0
    checked = _alembic(path, "check")
    current = _alembic(path, "current")
    assert (checked.returncode, current.returncode) == (0, 0)
    assert checked.stdout == "No new upgrade operations detected.\n"
    assert current.stdout == "0003 (head)\n"
    assert rows(path, "SELECT count(*) FROM orders") == [(3,)]
    assert len(list(path.parent.glob("*.backup-*"))) == 1


@pytest.mark.parametrize("typed", [None, "wrong", "0001"])
def test_the_plain_command_drops_no_rows_without_the_revision_typed(
    path: Path, typed: str | None
) -> None:
    make_with_four(path)
    migrations.upgrade()
    database.close()
    before = dump(path)

    done = _alembic(
        path, *([] if typed is None else ["-x", f"confirm={typed}"]), "downgrade", "base"
    )

    assert done.returncode != 0
    assert dump(path) == before
    assert done.stdout == (
        "FAILED: this downgrade drops discount_codes (2 rows), orders (3 rows),"
        " account_balances (2 rows), transactions (3 rows): confirm it with -x confirm=base\n"
    )
    assert "Traceback" not in done.stderr


def test_the_plain_command_goes_back_when_the_revision_was_typed(path: Path) -> None:
    make_with_four(path)
    migrations.upgrade()
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


def test_the_plain_command_says_a_refusal_in_one_line(path: Path) -> None:
    make_with_four(path, "UPDATE orders SET status = 'paid' WHERE id = 12")

    refused = _alembic(path, "upgrade", "head")
    elsewhere = _alembic("postgresql://db.example.com/app", "upgrade", "head")

    assert refused.stdout == (
        "FAILED: table orders, row 12: status 'paid' breaks the rule;"
        f" nothing was changed in {path} (TBPAY_DATABASE_URL)\n"
    )
    assert elsewhere.stdout == (
        "FAILED: this version of tbpay works on SQLite files, not on PostgreSQL\n"
    )
    assert "Traceback" not in refused.stderr + elsewhere.stderr


def _fill(path: Path) -> None:
    now = "2026-11-23T08:13:00.000000Z"
    run(
        path,
        f"INSERT INTO discount_codes VALUES (3, 'FIVE', 'fixed', 500, 3, 1, 1, NULL, '{now}')",
        "INSERT INTO orders VALUES"
        f" (7, 1, 'top_up', 500, NULL, NULL, 3, 'completed', '{now}', '{now}', 1000)",
        f"INSERT INTO account_balances VALUES (4, 1, 1000, '{now}')",
        f"INSERT INTO transactions VALUES (21, 1, 7, 'credit', 1000, 1000, 'Top-up', '{now}')",
    )


def _contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    database.close()
    tables = rows(
        path,
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        " AND name NOT IN ('tbpay_alembic_version', 'audit_log')",
    )
    # Of accounts without the column that an upgrade adds.
    return {
        name: [
            row[:6] if name == "accounts" else row for row in rows(path, f"SELECT * FROM {name}")
        ]
        for (name,) in tables
    }


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
    def _(connection: sqlite3.Connection, _record: object) -> None:
        # Next to no memory, so that what is done stands half on the disk by then.
        connection.execute("PRAGMA cache_size=2")

    @sa.event.listens_for(sa.Engine, "after_cursor_execute")
    def _(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if not statement.lstrip().startswith(("SELECT", "PRAGMA", "BEGIN")):
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
