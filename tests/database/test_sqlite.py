"""What a SQLite file can do to those who work on it: lie closed, be damaged, fill the disk."""

import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from databases import DIALECTS, SqliteDatabase, furnished
from probes import another, dump, limited, refusal_of, rows, run, together, unbalanced, unprivileged

from tbpay import database
from tbpay.database import atomically, snapshot, unit_of_work
from tbpay.errors import Code, SchemaError, UnavailableError
from tbpay.stores import account_store, balance_store, order_store


@pytest.fixture(params=["wal", "delete"])
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def dialect(kind: str) -> str:
    return DIALECTS[kind]


@pytest.fixture
def db(db: SqliteDatabase, kind: str) -> SqliteDatabase:
    furnished(db, kind)
    return db


@pytest.mark.usefixtures("rich")
def test_a_connection_keeps_its_word_through_a_power_cut(db: SqliteDatabase) -> None:
    mode = rows(db, "PRAGMA journal_mode")
    for door in (unit_of_work, snapshot):
        with door() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in PRAGMAS
            }
        assert pragmas == {**PRAGMAS, "journal_mode": mode[0][0]}
    database.reset()
    assert rows(db, "PRAGMA journal_mode") == mode


PRAGMAS = {
    "synchronous": 2,
    "foreign_keys": 1,
    "recursive_triggers": 1,
    "trusted_schema": 0,
    "busy_timeout": 30_000,
    "journal_mode": None,
}


def test_no_replacing_insert_passes_a_trigger_that_guards_against_deleting(
    db: SqliteDatabase, rich: int
) -> None:
    run(
        db,
        "CREATE TABLE guarded (id INTEGER PRIMARY KEY, word TEXT)",
        "INSERT INTO guarded VALUES (1, 'kept')",
        "CREATE TRIGGER guard BEFORE DELETE ON guarded BEGIN SELECT RAISE(ABORT, 'kept'); END",
    )
    assert rich

    with pytest.raises(sa.exc.IntegrityError, match="kept"), unit_of_work() as connection:
        connection.exec_driver_sql("INSERT OR REPLACE INTO guarded VALUES (1, 'changed')")

    assert rows(db, "SELECT word FROM guarded") == [("kept",)]


def test_a_process_works_on_the_database_that_it_is_given(
    db: SqliteDatabase, migrated: Path, tmp_path: Path, rich: int
) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(migrated.read_bytes())
    database.configure(str(other))

    assert account_store.get_by_id(rich) is None
    database.configure(f"sqlite:///{db}")
    assert balance_store.get_balance(rich) == 1_000
    database.reset()
    assert balance_store.get_balance(rich) == 1_000


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


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("kind", ["delete"])
def test_a_database_that_another_process_has_for_itself_is_busy_for_readers_too(
    db: SqliteDatabase, rich: int
) -> None:
    with another(db) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError) as refusal:
            balance_store.get_balance(rich)
        writer.execute("ROLLBACK")

    assert refusal.value.code is Code.BUSY
    assert balance_store.get_balance(rich) == 1_000


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


@pytest.mark.parametrize("kind", ["delete"])
def test_a_file_that_was_cut_off_is_damaged(db: SqliteDatabase, rich: int) -> None:
    assert rich
    database.close()
    content = db.path.read_bytes()[:-20_000]
    db.path.write_bytes(content)

    refuses_all(db.path, Code.CORRUPT, "{} is damaged: restore a backup")
    assert db.path.read_bytes() == content


@pytest.mark.parametrize("kind", ["delete"])
def test_a_file_with_a_page_of_something_else_is_damaged(db: SqliteDatabase, rich: int) -> None:
    database.close()
    [(page,)] = rows(db, "SELECT rootpage FROM sqlite_master WHERE name = 'account_balances'")
    content = bytearray(db.path.read_bytes())
    content[(page - 1) * 4_096 : page * 4_096] = b"\xff" * 4_096
    db.path.write_bytes(content)

    for call in (
        lambda: balance_store.get_balance(rich),
        lambda: balance_store.deduct(rich, 1, "one"),
    ):
        with pytest.raises(UnavailableError, match="is damaged: restore a backup") as refusal:
            call()
        assert refusal.value.code is Code.CORRUPT
    assert db.path.read_bytes() == content


@pytest.mark.parametrize("kind", ["delete"])
def test_a_file_that_may_only_be_read_is_read(db: SqliteDatabase, rich: int) -> None:
    database.close()
    before = dump(db)
    db.path.chmod(0o444)

    left = unprivileged(lambda: balance_store.get_balance(rich))
    refusals = unprivileged(lambda: [refusal_of(call) for call in CALLS])

    read_only = ("UnavailableError", Code.READ_ONLY)
    assert left == 1_000
    assert refusals == [None, read_only, None, read_only]
    assert dump(db) == before


@pytest.mark.parametrize("kind", ["delete"])
def test_a_directory_that_may_only_be_read_is_read(db: SqliteDatabase, rich: int) -> None:
    assert rich
    database.close()
    before = dump(db)
    db.path.parent.chmod(0o555)

    refusals = unprivileged(lambda: [refusal_of(call) for call in CALLS])
    db.path.parent.chmod(0o755)

    # A writer has to make its journal there.
    assert [refusals[0], refusals[2]] == [None, None]
    assert {refusals[1], refusals[3]} <= {
        ("UnavailableError", Code.READ_ONLY),
        ("UnavailableError", Code.UNREACHABLE),
    }
    assert dump(db) == before


def test_a_file_or_a_directory_that_is_closed_cannot_be_opened(
    db: SqliteDatabase, rich: int
) -> None:
    assert rich
    database.close()
    for closed in (db.path, db.path.parent):
        mode = closed.stat().st_mode
        closed.chmod(0o000)
        refusals = unprivileged(lambda: {refusal_of(call) for call in CALLS})
        closed.chmod(mode)
        assert refusals == {("UnavailableError", Code.UNREACHABLE)}


def test_a_full_disk_at_any_write_changes_nothing(
    db: SqliteDatabase, rich: int, pytestconfig: pytest.Config
) -> None:
    assert rich
    pages = 1 if pytestconfig.getoption("--long") else 4
    database.close()

    def change() -> None:
        with unit_of_work():
            for number in range(40):
                balance_store.deduct(1, 1, "x" * 255)
                order_store.create(1, "top_up", 500, stripe_session_id=f"cs_{number}")

    outcomes = set()
    for file_size in range(0, 2**20, pages * 4_096):
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


@pytest.mark.parametrize("kind", ["delete"])
def test_a_unit_that_the_disk_took_back_does_not_go_on(db: SqliteDatabase, rich: int) -> None:
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


@pytest.mark.parametrize("kind", ["delete"])
def test_a_unit_that_the_disk_took_back_does_not_pass_for_kept(
    db: SqliteDatabase, rich: int
) -> None:
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


@pytest.mark.parametrize("kind", ["delete"])
def test_an_application_whose_row_the_disk_took_back_charges_nothing_for_it(
    db: SqliteDatabase, rich: int
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
