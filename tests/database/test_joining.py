"""A unit inside the application's own transaction: tbpay neither commits nor rolls back."""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from databases import DIALECTS, Database, furnished
from probes import dump, kept_cents, refused, rows, run, unbalanced
from sqlalchemy.orm import Session

from tbpay import database
from tbpay.database import snapshot, unit_of_work
from tbpay.errors import Code, RefusedError, SchemaError, UnavailableError
from tbpay.stores import account_store, balance_store, order_store


@pytest.fixture
def dialect(kind: str) -> str:
    return DIALECTS[kind]


@pytest.fixture
def db(db: Database, kind: str) -> Database:
    return furnished(db, kind)


def plain_engine(db: Database) -> sa.Engine:
    """As an application makes it that leaves transactions to the driver's defaults."""
    if db.dialect == "sqlite":
        return db.engine(connect_args={"timeout": 0.1})
    return db.engine(connect_args={"options": "-c lock_timeout=100ms"})


def strict_engine(db: Database) -> sa.Engine:
    """As an application makes it that wants real transactions, with one view in each."""
    engine = plain_engine(db)
    if db.dialect != "sqlite":
        return engine.execution_options(isolation_level="REPEATABLE READ")

    # SQLAlchemy's recipe for SQLite.
    @sa.event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


@pytest.fixture(params=[plain_engine, strict_engine])
def application(db: Database, request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    engine = request.param(db)
    yield engine
    engine.dispose()


MESSAGE = sa.text("INSERT INTO messages VALUES ('hello')")


def nothing(_: sa.Connection) -> None:
    """Hand the connection over as it comes."""


def reads(connection: sa.Connection) -> None:
    connection.execute(sa.text("SELECT * FROM messages")).all()


def writes(connection: sa.Connection) -> None:
    connection.execute(MESSAGE)


def begins(connection: sa.Connection) -> None:
    connection.begin()


@pytest.fixture(params=[nothing, reads, writes, begins])
def first(request: pytest.FixtureRequest) -> Callable[[sa.Connection], None]:
    """What the application does on its connection before tbpay joins."""
    done: Callable[[sa.Connection], None] = request.param
    return done


def test_a_charge_and_the_applications_row_are_kept_together(
    db: Database, rich: int, application: sa.Engine, first: Callable[[sa.Connection], None]
) -> None:
    with application.connect() as connection:
        first(connection)
        with unit_of_work(connection) as joined:
            assert joined is connection
            balance_store.deduct(rich, 300, "a message")
        connection.execute(MESSAGE)
        with unit_of_work(connection):
            balance_store.deduct(rich, 1, "another")
        assert kept_cents(db, rich) == 1_000
        assert rows(db, "SELECT * FROM messages") == []
        connection.commit()

    assert kept_cents(db, rich) == 699
    assert len(rows(db, "SELECT * FROM messages")) == (2 if first is writes else 1)
    assert unbalanced(db) == []


def test_a_charge_and_the_applications_row_fall_together(
    db: Database, rich: int, application: sa.Engine, first: Callable[[sa.Connection], None]
) -> None:
    before = dump(db)
    with application.connect() as connection:
        first(connection)
        with unit_of_work(connection):
            connection.execute(MESSAGE)
            balance_store.deduct(rich, 300, "a message")
            order_store.complete(order_store.create(rich, "top_up", 500).id)
        connection.rollback()
        assert dump(db) == before

    assert dump(db) == before
    assert balance_store.get_balance(rich) == 1_000


def test_a_refusal_that_is_caught_leaves_the_applications_row(
    db: Database, rich: int, application: sa.Engine, first: Callable[[sa.Connection], None]
) -> None:
    def charge_twice(connection: sa.Connection) -> None:
        with unit_of_work(connection):
            balance_store.deduct(rich, 300, "a message")
            balance_store.deduct(rich, 701, "too much")

    with application.connect() as connection:
        first(connection)
        connection.execute(MESSAGE)
        with pytest.raises(RefusedError):
            charge_twice(connection)
        with unit_of_work(connection):
            with pytest.raises(RefusedError):
                balance_store.deduct(rich, 1_001, "too much")
            balance_store.deduct(rich, 1, "a message")
        connection.commit()

    assert kept_cents(db, rich) == 999
    assert set(rows(db, "SELECT * FROM messages")) == {("hello",)}
    assert unbalanced(db) == []


def test_a_refusal_that_nobody_catches_takes_the_applications_row_with_it(
    db: Database, rich: int, application: sa.Engine
) -> None:
    with (
        refused(db, RefusedError, Code.INSUFFICIENT_BALANCE),
        application.begin() as connection,
        unit_of_work(connection),
    ):
        connection.execute(MESSAGE)
        balance_store.deduct(rich, 1, "a message")
        balance_store.deduct(rich, 1_000, "too much")


def test_the_stores_see_what_the_application_has_not_kept_yet(
    rich: int, application: sa.Engine
) -> None:
    with application.begin() as connection:
        connection.execute(sa.text("INSERT INTO accounts (email) VALUES ('bob@example.org')"))
        with unit_of_work(connection):
            bob = account_store.get_by_email("bob@example.org")
            assert bob is not None
            balance_store.add_credits(bob.id, 5, "welcome")
            with snapshot() as view:
                assert view is connection

    assert bob.id != rich
    assert balance_store.get_balance(bob.id) == 5


def test_a_session_of_the_application_can_be_joined(
    db: Database, rich: int, application: sa.Engine
) -> None:
    with Session(application) as session:
        session.execute(MESSAGE)
        with unit_of_work(session.connection()):
            balance_store.deduct(rich, 1, "a message")
        assert kept_cents(db, rich) == 1_000
        session.commit()
        with unit_of_work(session.connection()):
            balance_store.deduct(rich, 2, "never sent")
        session.rollback()

    assert kept_cents(db, rich) == 999


def test_after_a_joined_unit_the_stores_work_by_themselves_again(
    db: Database, rich: int, application: sa.Engine
) -> None:
    with application.connect() as connection:
        with unit_of_work(connection), unit_of_work(connection), unit_of_work():
            balance_store.deduct(rich, 1, "joined")
        connection.commit()
        with pytest.raises(RuntimeError, match="no unit of work is open"):
            database.connection()
        balance_store.deduct(rich, 2, "alone")
        assert kept_cents(db, rich) == 997


def test_a_unit_is_on_one_connection(db: Database, rich: int, application: sa.Engine) -> None:
    before = dump(db)
    with application.connect() as connection, application.connect() as other:
        with unit_of_work(), pytest.raises(RuntimeError, match="open on another connection"):
            unit_of_work(connection).__enter__()
        with (
            unit_of_work(connection),
            pytest.raises(RuntimeError, match="open on another connection"),
        ):
            unit_of_work(other).__enter__()
        assert not other.in_transaction()
    assert dump(db) == before
    assert rich


AT_ONCE: list[dict[str, Any]] = [{"isolation_level": "AUTOCOMMIT"}]
if sys.version_info >= (3, 12):
    AT_ONCE.append({"connect_args": {"autocommit": True}})


@pytest.mark.parametrize("at_once", AT_ONCE, ids=str)
def test_a_connection_that_keeps_every_statement_at_once_cannot_be_joined(
    db: Database, rich: int, at_once: dict[str, Any], first: Callable[[sa.Connection], None]
) -> None:
    engine = db.engine(**at_once)
    with engine.connect() as connection:
        first(connection)
        before = dump(db)
        with (
            pytest.raises(RuntimeError, match="commits every statement by itself"),
            unit_of_work(connection),
        ):
            balance_store.deduct(rich, 1, "a message")
        connection.commit()
        connection.execute(MESSAGE)
        connection.commit()
    engine.dispose()

    # What the application wrote, before and after, is kept; nothing was charged.
    assert len(rows(db, "SELECT * FROM messages")) == (2 if first is writes else 1)
    run(db, "DELETE FROM messages")
    assert dump(db) == [line for line in before if "hello" not in line]


def test_an_application_on_another_database_is_told_which_one(rich: int, blank: Database) -> None:
    for make in (plain_engine, strict_engine):
        engine = make(blank)
        with (
            engine.connect() as connection,
            pytest.raises(SchemaError) as refusal,
            unit_of_work(connection),
        ):
            balance_store.deduct(rich, 1, "a message")
        engine.dispose()
        assert refusal.value.code is Code.SCHEMA_MISSING
        assert refusal.value.message == f"no tbpay tables in {blank} (the application's connection)"


def test_an_application_that_finds_the_database_locked_can_try_again(
    db: Database, rich: int, application: sa.Engine
) -> None:
    with application.connect() as connection:
        with (
            db.writing(),
            refused(db, UnavailableError, Code.BUSY),
            unit_of_work(connection),
        ):
            balance_store.deduct(rich, 1, "a message")
        connection.rollback()

        with unit_of_work(connection):
            balance_store.deduct(rich, 2, "a message")
        connection.commit()

    assert kept_cents(db, rich) == 998


@pytest.mark.parametrize("kind", ["wal", "postgresql"])
def test_an_application_that_read_too_early_is_told_so(db: Database, rich: int) -> None:
    engine = strict_engine(db)
    with engine.connect() as connection:
        reads(connection)
        balance_store.deduct(rich, 1, "meanwhile")
        with pytest.raises(UnavailableError, match="is busy: ") as refusal:
            deduct_on(connection, rich)
    engine.dispose()

    assert refusal.value.code is Code.BUSY
    assert kept_cents(db, rich) == 999


def deduct_on(connection: sa.Connection, account: int) -> None:
    with unit_of_work(connection):
        balance_store.deduct(account, 2, "a message")


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_transaction_in_which_a_statement_has_failed_cannot_be_joined(
    db: Database, rich: int, application: sa.Engine
) -> None:
    with application.connect() as connection:
        with pytest.raises(sa.exc.ProgrammingError):
            connection.execute(sa.text("SELECT * FROM mesages"))
        with (
            refused(
                db,
                UnavailableError,
                Code.UNAVAILABLE,
                "a statement failed in this unit of work:"
                f" {db} (the application's connection) can only take it back",
            ),
            unit_of_work(connection),
        ):
            balance_store.deduct(rich, 1, "a message")
        connection.rollback()
        deduct_on(connection, rich)
        connection.commit()

    assert kept_cents(db, rich) == 998


@pytest.mark.parametrize("kind", ["postgresql"])
def test_what_the_application_does_wrong_in_a_unit_is_taken_back_with_the_unit_alone(
    db: Database, rich: int, application: sa.Engine
) -> None:
    with application.connect() as connection:
        connection.execute(MESSAGE)
        with pytest.raises(UnavailableError, match="a statement failed"):
            deduct_and_mistype(connection, rich)
        deduct_on(connection, rich)
        connection.commit()

    assert kept_cents(db, rich) == 998
    assert rows(db, "SELECT * FROM messages") == [("hello",)]


def deduct_and_mistype(connection: sa.Connection, account: int) -> None:
    with unit_of_work(connection):
        balance_store.deduct(account, 1, "a message")
        with suppress(sa.exc.ProgrammingError):
            connection.execute(sa.text("SELECT * FROM mesages"))


@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.usefixtures("db")
def test_nothing_is_set_on_the_applications_connection(rich: int, application: sa.Engine) -> None:
    with application.connect() as connection:
        before = settings_of(connection)
        with unit_of_work(connection):
            balance_store.deduct(rich, 1, "a message")
            assert settings_of(connection) == before
        connection.commit()
        assert settings_of(connection) == before


def settings_of(connection: sa.Connection) -> list[tuple[str, str]]:
    asked = sa.text("SELECT name, setting FROM pg_settings WHERE source = 'session'")
    return [(name, setting) for name, setting in connection.execute(asked)]


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_connection_that_the_server_has_closed_is_not_to_be_had(
    db: Database, rich: int, application: sa.Engine
) -> None:
    before = dump(db)
    with application.connect() as connection:
        me = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar()
        run(db, f"SELECT pg_terminate_backend({me})")
        with pytest.raises(UnavailableError) as refusal:
            deduct_on(connection, rich)
        connection.rollback()

        assert refusal.value.code is Code.UNREACHABLE
        assert dump(db) == before
        deduct_on(connection, rich)
        connection.commit()
    assert kept_cents(db, rich) == 998


def test_what_is_no_connection_is_refused_with_what_to_pass(db: Database) -> None:
    engine = db.engine()

    for given in (engine, Session(engine), "x"):
        with pytest.raises(TypeError, match=r"session\.connection\(\)"), unit_of_work(given):  # type: ignore[arg-type]
            pass
    engine.dispose()
