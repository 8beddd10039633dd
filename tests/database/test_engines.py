"""Which schema a connection finds, how long it waits, and what is said when it cannot be had."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from databases import DIALECTS, Database, furnished
from probes import kept_cents, refused, rows, run, together

from tbpay import database, migrations
from tbpay.database import engines, unit_of_work
from tbpay.errors import Code, SchemaError, UnavailableError
from tbpay.schema import REVISIONS
from tbpay.stores import account_store, balance_store

HEAD = REVISIONS[-1]


@pytest.fixture
def dialect(kind: str) -> str:
    return DIALECTS[kind]


@pytest.fixture
def db(db: Database, kind: str) -> Database:
    return furnished(db, kind)


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


def test_a_connection_keeps_the_foreign_keys(db: Database, rich: int) -> None:
    time = "2026-11-23T08:13:00.000000Z"
    orphan = f"INSERT INTO account_balances (account_id, updated_at) VALUES ({rich + 1}, '{time}')"

    with pytest.raises(sa.exc.IntegrityError), unit_of_work() as connection:
        connection.exec_driver_sql(orphan)

    assert rows(db, "SELECT count(*) FROM account_balances") == [(1,)]


@pytest.mark.usefixtures("db")
def test_the_revision_is_looked_up_once_a_connection(rich: int) -> None:
    assert balance_store.get_balance(rich) == 1_000
    statements: list[str] = []
    sa.event.listen(
        engines.engine(database.location()),
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: statements.append(statement),
    )

    balance_store.deduct(rich, 1, "one")
    assert balance_store.get_balance(rich) == 999

    assert any("account_balances" in statement for statement in statements)
    assert not any("alembic" in statement for statement in statements)


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_an_older_schema_is_refused(db: Database, rich: int, revision: str) -> None:
    run(db, f"UPDATE tbpay_alembic_version SET version_num = '{revision}'")
    database.reset()

    message = f"{db} (TBPAY_DATABASE_URL) is at revision {revision}, this tbpay needs {HEAD}"
    for call in (lambda: balance_store.get_balance(rich), lambda: account_store.create()):
        with refused(db, SchemaError, Code.SCHEMA_BEHIND, message):
            call()


@pytest.mark.parametrize("revision", ["9999", "abc", "3f2a77c1e09b"])
def test_a_newer_schema_is_refused(db: Database, rich: int, revision: str) -> None:
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
    db: Database, rich: int, statement: str
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
    ("statement", "missing"),
    [
        (
            "ALTER TABLE account_balances RENAME TO old",
            {
                "sqlite": "no such table: account_balances",
                "postgresql": 'relation "account_balances" does not exist',
            },
        ),
        (
            "ALTER TABLE account_balances RENAME COLUMN balance_cents TO cents",
            {
                "sqlite": "no such column: account_balances.balance_cents",
                "postgresql": "column account_balances.balance_cents does not exist",
            },
        ),
    ],
)
def test_tables_of_another_shape_are_refused(
    db: Database, rich: int, statement: str, missing: dict[str, str]
) -> None:
    run(db, statement)
    database.reset()

    message = f"the tables of {db} (TBPAY_DATABASE_URL) are not tbpay's: {missing[db.dialect]}"
    with refused(db, SchemaError, Code.SCHEMA_FOREIGN, message):
        balance_store.get_balance(rich)


def test_a_column_that_cannot_be_written_is_named_too(db: Database, rich: int) -> None:
    run(db, "ALTER TABLE transactions RENAME COLUMN description TO text")
    database.reset()

    with refused(db, SchemaError, Code.SCHEMA_FOREIGN):
        balance_store.add_credits(rich, 1, "a gift")


@pytest.mark.usefixtures("blank")
def test_an_upgrade_between_two_calls_is_noticed() -> None:
    with pytest.raises(SchemaError, match="no tbpay tables"):
        account_store.find()

    together(lambda _: migrations.upgrade("0002").revision, processes=1)
    with pytest.raises(SchemaError, match=f"is at revision 0002, this tbpay needs {HEAD}"):
        account_store.find()

    together(lambda _: migrations.upgrade().revision, processes=1)
    assert account_store.find().items == []

    together(lambda _: migrations.downgrade("0002", None).revision, processes=1)
    database.close()
    with pytest.raises(SchemaError, match=f"is at revision 0002, this tbpay needs {HEAD}"):
        account_store.find()


# What a later revision may do to a table under a process that knows nothing of it.
NEWER = f"UPDATE tbpay_alembic_version SET version_num = '9999' WHERE version_num = '{HEAD}'"
UPGRADES: dict[str, dict[str, list[str]]] = {
    "a column that must have a value": {
        "sqlite": [
            "ALTER TABLE transactions ADD COLUMN newer INTEGER NOT NULL DEFAULT 0",
            "CREATE TRIGGER newer BEFORE INSERT ON transactions WHEN NEW.newer = 0"
            " BEGIN SELECT RAISE(ABORT, 'no older writer'); END",
        ],
        "postgresql": [
            "ALTER TABLE transactions ADD COLUMN newer BIGINT NOT NULL DEFAULT 1",
            "ALTER TABLE transactions ALTER newer DROP DEFAULT",
        ],
    },
    "a column of another name": {
        each: ["ALTER TABLE transactions RENAME COLUMN description TO newer"]
        for each in ("sqlite", "postgresql")
    },
    "a table of another name": {
        each: ["ALTER TABLE account_balances RENAME TO newer"] for each in ("sqlite", "postgresql")
    },
    "a column of another type": {
        "postgresql": [
            "ALTER TABLE transactions DROP CONSTRAINT ck_transactions_description",
            "ALTER TABLE transactions ALTER description TYPE integer USING 1",
        ],
    },
}


@pytest.mark.parametrize(
    ("kind", "upgrade"),
    [
        (kind, name)
        for kind, dialect in DIALECTS.items()
        for name, statements in UPGRADES.items()
        if dialect in statements
    ],
)
def test_a_process_of_before_an_upgrade_writes_nothing(
    db: Database, rich: int, upgrade: str
) -> None:
    run(db, "DELETE FROM messages", NEWER, *UPGRADES[upgrade][db.dialect])

    message = (
        f"{db} (TBPAY_DATABASE_URL) is at revision 9999, which this tbpay does not know:"
        " update tbpay"
    )
    for _ in range(2):
        with refused(db, SchemaError, Code.SCHEMA_AHEAD, message):
            balance_store.deduct(rich, 1, "one")
    # From then on it does not do either what the new tables would have let pass.
    with refused(db, SchemaError, Code.SCHEMA_AHEAD, message):
        account_store.create()


@pytest.mark.parametrize(
    ("kind", "upgrade"),
    [
        (kind, name)
        for kind, dialect in DIALECTS.items()
        for name, statements in UPGRADES.items()
        if dialect in statements
    ],
)
def test_an_applications_row_is_its_own_affair_after_an_upgrade_too(
    db: Database, rich: int, upgrade: str
) -> None:
    engine = db.engine()
    with engine.connect() as connection:
        with unit_of_work(connection):
            balance_store.deduct(rich, 1, "one")
        connection.commit()
        run(db, NEWER, *UPGRADES[upgrade][db.dialect])
        connection.execute(sa.text("INSERT INTO messages VALUES ('hello')"))
        with pytest.raises(SchemaError, match="at revision 9999") as refusal:
            deduct_on(connection, rich)
        connection.commit()
    engine.dispose()

    assert refusal.value.code is Code.SCHEMA_AHEAD
    assert rows(db, "SELECT * FROM messages") == [("hello",)]
    assert rows(db, "SELECT count(*) FROM transactions") == [(2,)]


def deduct_on(connection: sa.Connection, account: int) -> None:
    with unit_of_work(connection):
        balance_store.deduct(account, 1, "two")


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_statement_that_was_prepared_before_an_upgrade_fails_as_old(
    db: Database, rich: int
) -> None:
    engine = db.engine(connect_args={"prepare_threshold": 0})
    with engine.connect() as connection:
        with unit_of_work(connection):
            assert balance_store.get_balance(rich) == 1_000
        connection.commit()
        run(db, NEWER, "ALTER TABLE account_balances ALTER updated_at TYPE text")
        with pytest.raises(SchemaError, match="at revision 9999"), unit_of_work(connection):
            balance_store.get_balance(rich)
    engine.dispose()


@pytest.mark.usefixtures("hurried")
def test_an_application_whose_pool_is_used_up_hears_of_an_upgrade_all_the_same(
    db: Database, rich: int
) -> None:
    engine = db.engine(pool_size=1, max_overflow=0)
    with engine.connect() as connection:
        with unit_of_work(connection):
            balance_store.deduct(rich, 1, "one")
        connection.commit()
        run(db, NEWER, *UPGRADES["a column of another name"][db.dialect])
        with pytest.raises(SchemaError, match="at revision 9999"):
            deduct_on(connection, rich)
    engine.dispose()


@pytest.mark.usefixtures("hurried")
def test_a_database_that_another_process_writes_is_busy(db: Database, rich: int) -> None:
    message = f"{db} (TBPAY_DATABASE_URL) is busy: another process keeps it locked"
    with db.writing():
        with refused(db, UnavailableError, Code.BUSY, message):
            balance_store.deduct(rich, 1, "one")
        assert balance_store.get_balance(rich) == 1_000

    assert balance_store.deduct(rich, 2, "two").balance_after_cents == 998


def test_a_writer_waits_for_another(db: Database, rich: int) -> None:
    with db.writing():
        waiting = threading.Thread(target=lambda: balance_store.deduct(rich, 1, "one"))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join(10)

    assert not waiting.is_alive()
    assert kept_cents(db, rich) == 999
