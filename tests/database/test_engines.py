"""Which database a connection is to, how it is set, and what is said when it is not to be had."""

import resource
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from probes import (
    another,
    dump,
    kept_cents,
    limited,
    refusal_of,
    refused,
    rows,
    run,
    together,
    unbalanced,
    unprivileged,
)

from tbpay import database, migrations
from tbpay.database import atomically, engines, snapshot, unit_of_work
from tbpay.errors import Code, SchemaError, UnavailableError
from tbpay.stores import account_store, balance_store, order_store


@pytest.fixture(params=["wal", "delete"])
def db(db: Path, request: pytest.FixtureRequest) -> Path:
    """The database in both journal modes, of which tbpay chooses neither."""
    run(db, f"PRAGMA journal_mode={request.param}", "CREATE TABLE messages (text TEXT NOT NULL)")
    return db


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds the database locked does not wait for long."""
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.1)


@pytest.fixture
def rich(account: int) -> int:
    """An account with 10.00."""
    balance_store.add_credits(account, 1_000, "a gift")
    return account


@pytest.mark.usefixtures("rich")
def test_a_connection_keeps_its_word_through_a_power_cut_and_the_foreign_keys(db: Path) -> None:
    mode = rows(db, "PRAGMA journal_mode")
    for door in (unit_of_work, snapshot):
        with door() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("synchronous", "foreign_keys", "busy_timeout", "journal_mode")
            }
        assert pragmas == {
            "synchronous": 2,
            "foreign_keys": 1,
            "busy_timeout": 30_000,
            "journal_mode": mode[0][0],
        }
    database.reset()
    assert rows(db, "PRAGMA journal_mode") == mode
    for line in ("INSERT INTO account_balances VALUES (9, 99, 0, '2026-11-23T08:13:00.000000Z')",):
        with pytest.raises(sa.exc.IntegrityError), unit_of_work() as connection:
            connection.exec_driver_sql(line)


def test_a_process_works_on_the_database_that_it_is_given(
    db: Path, migrated: Path, tmp_path: Path, rich: int
) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(migrated.read_bytes())
    database.configure(str(other))

    assert account_store.get_by_id(rich) is None
    database.configure(f"sqlite:///{db}")
    assert balance_store.get_balance(rich) == 1_000
    database.reset()
    assert balance_store.get_balance(rich) == 1_000


@pytest.fixture
def jumpy() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("db", "jumpy")
def test_threads_that_race_for_the_first_engine_get_the_same() -> None:
    location = database.location()
    start = threading.Barrier(8)

    def ask(_: int) -> sa.Engine:
        start.wait()
        return engines.engine(location)

    with ThreadPoolExecutor(8) as threads:
        for _ in range(10):
            database.close()
            [made] = set(threads.map(ask, range(8)))
            assert made is engines.engine(location)


@pytest.mark.usefixtures("db")
def test_the_revision_is_looked_up_once_a_connection(rich: int) -> None:
    statements: list[str] = []
    with snapshot() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.set_trace_callback(statements.append)

    balance_store.deduct(rich, 1, "one")
    assert balance_store.get_balance(rich) == 999

    driver.set_trace_callback(None)
    assert any("account_balances" in statement for statement in statements)
    assert not any("alembic" in statement for statement in statements)


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_an_older_schema_is_refused(db: Path, rich: int, revision: str) -> None:
    run(db, f"UPDATE tbpay_alembic_version SET version_num = '{revision}'")
    database.reset()

    message = f"{db} (TBPAY_DATABASE_URL) is at revision {revision}, this tbpay needs 0003"
    for call in (lambda: balance_store.get_balance(rich), lambda: account_store.create()):
        with refused(db, SchemaError, Code.SCHEMA_BEHIND, message):
            call()


@pytest.mark.parametrize("revision", ["0004", "abc", "3f2a77c1e09b"])
def test_a_newer_schema_is_refused(db: Path, rich: int, revision: str) -> None:
    run(db, f"UPDATE tbpay_alembic_version SET version_num = '{revision}'")
    database.reset()

    named = f"{db} (TBPAY_DATABASE_URL) is at revision {revision}"
    message = f"{named}, which this tbpay does not know: update tbpay"
    with refused(db, SchemaError, Code.SCHEMA_AHEAD, message):
        balance_store.get_balance(rich)


@pytest.mark.parametrize(
    "statement", ["DELETE FROM tbpay_alembic_version", "DROP TABLE tbpay_alembic_version"]
)
def test_a_database_without_a_revision_has_no_tables_of_ours(
    db: Path, rich: int, statement: str
) -> None:
    run(db, statement)
    database.reset()

    with refused(
        db,
        SchemaError,
        Code.SCHEMA_MISSING,
        f"no tbpay tables in {db} (TBPAY_DATABASE_URL)",
    ):
        balance_store.get_balance(rich)


@pytest.mark.parametrize(
    ("statements", "missing"),
    [
        (["ALTER TABLE account_balances RENAME TO old"], "no such table: account_balances"),
        (
            ["ALTER TABLE account_balances RENAME COLUMN balance_cents TO cents"],
            "no such column: account_balances.balance_cents",
        ),
    ],
)
def test_tables_of_another_shape_are_refused(
    db: Path, rich: int, statements: list[str], missing: str
) -> None:
    run(db, *statements)
    database.reset()

    message = f"the tables of {db} (TBPAY_DATABASE_URL) are not tbpay's: {missing}"
    with refused(db, SchemaError, Code.SCHEMA_FOREIGN, message):
        balance_store.get_balance(rich)


def test_a_column_that_cannot_be_written_is_named_too(db: Path, rich: int) -> None:
    run(db, "ALTER TABLE transactions RENAME COLUMN description TO text")
    database.reset()

    with refused(db, SchemaError, Code.SCHEMA_FOREIGN):
        balance_store.add_credits(rich, 1, "a gift")


def test_a_file_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("missing.db", "no/such/directory.db"):
        path = tmp_path / name
        monkeypatch.setenv("TBPAY_DATABASE_URL", str(path))

        with pytest.raises(SchemaError) as refusal:
            account_store.create()

        assert refusal.value.code is Code.SCHEMA_MISSING
        assert refusal.value.message == f"no tbpay tables in {path} (TBPAY_DATABASE_URL)"
        assert refusal.value.hint == "tbpay db upgrade"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tables", [[], ["CREATE TABLE accounts (id INTEGER PRIMARY KEY)"]])
def test_a_file_without_tables_of_ours_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: list[str]
) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    run(path, *tables)
    before = path.read_bytes()
    monkeypatch.setenv("TBPAY_DATABASE_URL", str(path))

    with pytest.raises(SchemaError) as refusal:
        account_store.find()

    assert refusal.value.code is Code.SCHEMA_MISSING
    assert path.read_bytes() == before


def test_an_upgrade_between_two_calls_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TBPAY_DATABASE_URL", str(tmp_path / "new.db"))
    with pytest.raises(SchemaError, match="no tbpay tables"):
        account_store.find()

    together(lambda _: migrations.upgrade("0002").revision, processes=1)
    with pytest.raises(SchemaError, match="is at revision 0002, this tbpay needs 0003"):
        account_store.find()

    together(lambda _: migrations.upgrade().revision, processes=1)
    assert account_store.find().items == []

    together(lambda _: migrations.downgrade("0002", None).revision, processes=1)
    database.close()
    with pytest.raises(SchemaError, match="is at revision 0002, this tbpay needs 0003"):
        account_store.find()


@pytest.mark.usefixtures("hurried")
def test_a_database_that_another_process_writes_is_busy(db: Path, rich: int) -> None:
    named = f"{db} (TBPAY_DATABASE_URL)"
    with another(db) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with refused(
            db, UnavailableError, Code.BUSY, f"{named} is busy: another process keeps it locked"
        ):
            balance_store.deduct(rich, 1, "one")
        writer.execute("ROLLBACK")

    assert balance_store.deduct(rich, 2, "two").balance_after_cents == 998


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("db", ["delete"], indirect=True)
def test_a_database_that_another_process_has_for_itself_is_busy_for_readers_too(
    db: Path, rich: int
) -> None:
    with another(db) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError) as refusal:
            balance_store.get_balance(rich)
        writer.execute("ROLLBACK")

    assert refusal.value.code is Code.BUSY
    assert balance_store.get_balance(rich) == 1_000


def test_a_writer_waits_for_another(db: Path, rich: int) -> None:
    with another(db) as writer:
        writer.execute("BEGIN IMMEDIATE")
        waiting = threading.Thread(target=lambda: balance_store.deduct(rich, 1, "one"))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        writer.execute("ROLLBACK")
        waiting.join(10)

    assert not waiting.is_alive()
    assert kept_cents(db, rich) == 999


CALLS: list[Callable[[], object]] = [
    lambda: balance_store.get_balance(1),
    lambda: balance_store.deduct(1, 1, "one"),
    lambda: account_store.find(),
    lambda: order_store.create(1, "top_up", 500),
]


def refuses_all(path: Path, code: Code, message: str) -> None:
    database.configure(str(path))
    for call in CALLS:
        with pytest.raises(UnavailableError) as refusal:
            call()
        assert refusal.value.code is code
        assert refusal.value.message == message.format(f"{path} (configure())")


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    refuses_all(tmp_path, Code.UNREACHABLE, "{} cannot be opened")


def test_a_name_that_is_too_long_cannot_be_opened(tmp_path: Path) -> None:
    refuses_all(tmp_path / ("x" * 300), Code.UNREACHABLE, "{} cannot be opened")


@pytest.mark.parametrize("content", [b"Dear Ann,\n", b"x" * 10_000, b"\0" * 10_000])
def test_a_file_of_something_else_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(content)

    refuses_all(path, Code.NOT_A_DATABASE, "{} is not a SQLite database")
    assert path.read_bytes() == content


@pytest.mark.parametrize("db", ["delete"], indirect=True)
def test_a_file_that_was_cut_off_is_damaged(db: Path, rich: int) -> None:
    assert rich
    database.close()
    content = db.read_bytes()[:-20_000]
    db.write_bytes(content)

    refuses_all(db, Code.CORRUPT, "{} is damaged: restore a backup")
    assert db.read_bytes() == content


@pytest.mark.parametrize("db", ["delete"], indirect=True)
def test_a_file_with_a_page_of_something_else_is_damaged(db: Path, rich: int) -> None:
    database.close()
    [(page,)] = rows(db, "SELECT rootpage FROM sqlite_master WHERE name = 'account_balances'")
    content = bytearray(db.read_bytes())
    content[(page - 1) * 4_096 : page * 4_096] = b"\xff" * 4_096
    db.write_bytes(content)

    for call in (
        lambda: balance_store.get_balance(rich),
        lambda: balance_store.deduct(rich, 1, "one"),
    ):
        with pytest.raises(UnavailableError, match="is damaged: restore a backup") as refusal:
            call()
        assert refusal.value.code is Code.CORRUPT
    assert db.read_bytes() == content


@pytest.mark.parametrize("db", ["delete"], indirect=True)
def test_a_file_that_may_only_be_read_is_read(db: Path, rich: int) -> None:
    database.close()
    before = dump(db)
    db.chmod(0o444)

    left = unprivileged(lambda: balance_store.get_balance(rich))
    refusals = unprivileged(lambda: [refusal_of(call) for call in CALLS])

    read_only = ("UnavailableError", Code.READ_ONLY)
    assert left == 1_000
    assert refusals == [None, read_only, None, read_only]
    assert dump(db) == before


@pytest.mark.parametrize("db", ["delete"], indirect=True)
def test_a_directory_that_may_only_be_read_is_read(db: Path, rich: int) -> None:
    assert rich
    database.close()
    before = dump(db)
    db.parent.chmod(0o555)

    refusals = unprivileged(lambda: [refusal_of(call) for call in CALLS])
    db.parent.chmod(0o755)

    # A writer has to make its journal there.
    assert [refusals[0], refusals[2]] == [None, None]
    assert {refusals[1], refusals[3]} <= {
        ("UnavailableError", Code.READ_ONLY),
        ("UnavailableError", Code.UNREACHABLE),
    }
    assert dump(db) == before


def test_a_file_or_a_directory_that_is_closed_cannot_be_opened(db: Path, rich: int) -> None:
    assert rich
    database.close()
    for closed in (db, db.parent):
        mode = closed.stat().st_mode
        closed.chmod(0o000)
        refusals = unprivileged(lambda: {refusal_of(call) for call in CALLS})
        closed.chmod(mode)
        assert refusals == {("UnavailableError", Code.UNREACHABLE)}


def test_a_full_disk_at_any_write_changes_nothing(db: Path, rich: int) -> None:
    assert rich
    database.close()

    def change() -> None:
        with unit_of_work():
            for number in range(40):
                balance_store.deduct(1, 1, "x" * 255)
                order_store.create(1, "top_up", 500, stripe_session_id=f"cs_{number}")

    outcomes = set()
    for file_size in range(0, 140_000, 4_096):
        before = dump(db)
        outcome = limited(lambda: refusal_of(change), file_size)
        outcomes.add(outcome)
        if outcome is not None:
            assert dump(db) == before
            assert unbalanced(db) == []
            continue
        break

    assert outcomes == {("UnavailableError", Code.DISK_FULL), None}
    assert rows(db, "PRAGMA integrity_check") == [("ok",)]


def room(size: int) -> None:
    """Let this process write files of so many bytes, and perhaps of more later."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, 2**30))


@pytest.mark.parametrize("db", ["delete"], indirect=True)
def test_a_unit_that_the_disk_took_back_does_not_go_on(db: Path, rich: int) -> None:
    database.close()
    before = dump(db)

    def catch_and_go_on(_: int) -> list[tuple[str, str] | None]:
        seen = []
        room(0)
        with suppress(UnavailableError), unit_of_work():
            seen.append(refusal_of(lambda: balance_store.deduct(rich, 1, "one")))
            room(2**30)
            seen.append(refusal_of(lambda: balance_store.deduct(rich, 2, "two")))
        seen.append(refusal_of(lambda: balance_store.get_balance(rich)))
        return seen

    assert together(catch_and_go_on, processes=1) == [
        [("UnavailableError", Code.DISK_FULL), ("UnavailableError", Code.UNAVAILABLE), None]
    ]
    assert dump(db) == before


@pytest.mark.parametrize("db", ["delete"], indirect=True)
def test_a_unit_that_the_disk_took_back_does_not_pass_for_kept(db: Path, rich: int) -> None:
    database.close()
    before = dump(db)

    def catch_and_leave(_: int) -> tuple[str, str] | None:
        def work() -> None:
            with suppress(UnavailableError):
                balance_store.deduct(rich, 1, "one")

        room(0)
        return refusal_of(lambda: atomically(work))

    assert together(catch_and_leave, processes=1) == [("UnavailableError", Code.UNAVAILABLE)]
    assert dump(db) == before


@pytest.mark.parametrize("db", ["delete"], indirect=True)
def test_an_application_whose_row_the_disk_took_back_charges_nothing_for_it(
    db: Path, rich: int
) -> None:
    database.close()
    before = dump(db)
    engine = sa.create_engine(f"sqlite:///{db}")

    def charge_twice(_: int) -> list[tuple[str, str] | None]:
        seen = []
        with engine.connect() as connection:
            with suppress(UnavailableError), unit_of_work(connection):
                room(0)
                seen.append(refusal_of(lambda: balance_store.deduct(rich, 1, "one")))
                room(2**30)
            with suppress(sa.exc.PendingRollbackError), unit_of_work(connection):
                seen.append(refusal_of(lambda: balance_store.deduct(rich, 2, "two")))
            with suppress(sa.exc.PendingRollbackError):
                connection.commit()
            connection.rollback()
        return seen

    assert together(charge_twice, processes=1) == [[("UnavailableError", Code.DISK_FULL)]]
    assert dump(db) == before
