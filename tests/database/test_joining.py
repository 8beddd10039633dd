"""A unit inside the application's own transaction: tbpay neither commits nor rolls back."""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from probes import another, dump, kept_cents, refused, rows, run, unbalanced
from sqlalchemy.orm import Session

from tbpay import database
from tbpay.database import snapshot, unit_of_work
from tbpay.errors import Code, RefusedError, SchemaError, UnavailableError
from tbpay.stores import account_store, balance_store, order_store


@pytest.fixture(params=["wal", "delete"])
def db(db: Path, request: pytest.FixtureRequest) -> Path:
    """The database in both journal modes, of which tbpay chooses neither."""
    run(db, f"PRAGMA journal_mode={request.param}", "CREATE TABLE messages (text TEXT NOT NULL)")
    return db


@pytest.fixture
def rich(account: int) -> int:
    """An account with 10.00."""
    balance_store.add_credits(account, 1_000, "a gift")
    return account


def plain_engine(path: Path) -> sa.Engine:
    """As an application makes it that leaves transactions to the driver's defaults."""
    return sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.1})


def recipe_engine(path: Path) -> sa.Engine:
    """As an application makes it that follows SQLAlchemy's recipe for real transactions."""
    engine = plain_engine(path)

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


@pytest.fixture(params=[plain_engine, recipe_engine])
def application(db: Path, request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
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
    db: Path, rich: int, application: sa.Engine, first: Callable[[sa.Connection], None]
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
    db: Path, rich: int, application: sa.Engine, first: Callable[[sa.Connection], None]
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
    db: Path, rich: int, application: sa.Engine, first: Callable[[sa.Connection], None]
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
    db: Path, rich: int, application: sa.Engine
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
    db: Path, rich: int, application: sa.Engine
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
    db: Path, rich: int, application: sa.Engine
) -> None:
    with application.connect() as connection:
        with unit_of_work(connection), unit_of_work(connection), unit_of_work():
            balance_store.deduct(rich, 1, "joined")
        connection.commit()
        with pytest.raises(RuntimeError, match="no unit of work is open"):
            database.connection()
        balance_store.deduct(rich, 2, "alone")
        assert kept_cents(db, rich) == 997


def test_a_unit_is_on_one_connection(db: Path, rich: int, application: sa.Engine) -> None:
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
    db: Path, rich: int, at_once: dict[str, Any], first: Callable[[sa.Connection], None]
) -> None:
    engine = sa.create_engine(f"sqlite:///{db}", **at_once)
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


def test_an_application_on_another_database_is_told_which_one(rich: int, tmp_path: Path) -> None:
    for make in (plain_engine, recipe_engine):
        engine = make(tmp_path / "other.db")
        with (
            engine.connect() as connection,
            pytest.raises(SchemaError) as refusal,
            unit_of_work(connection),
        ):
            balance_store.deduct(rich, 1, "a message")
        engine.dispose()
        assert refusal.value.code is Code.SCHEMA_MISSING
        assert refusal.value.message == (
            f"no tbpay tables in {tmp_path}/other.db (the application's connection)"
        )


def test_an_application_that_finds_the_database_locked_can_try_again(
    db: Path, rich: int, application: sa.Engine
) -> None:
    with another(db) as writer, application.connect() as connection:
        writer.execute("BEGIN IMMEDIATE")
        with refused(db, UnavailableError, Code.BUSY), unit_of_work(connection):
            balance_store.deduct(rich, 1, "a message")
        connection.rollback()
        writer.execute("ROLLBACK")

        with unit_of_work(connection):
            balance_store.deduct(rich, 2, "a message")
        connection.commit()

    assert kept_cents(db, rich) == 998


@pytest.mark.parametrize("db", ["wal"], indirect=True)
def test_an_application_that_read_too_early_is_told_so(db: Path, rich: int) -> None:
    engine = recipe_engine(db)
    with engine.connect() as connection:
        reads(connection)
        balance_store.deduct(rich, 1, "meanwhile")
        with (
            pytest.raises(UnavailableError, match="has changed it since") as refusal,
            unit_of_work(connection),
        ):
            balance_store.deduct(rich, 2, "a message")
    engine.dispose()

    assert refusal.value.code is Code.BUSY
    assert kept_cents(db, rich) == 999


def test_what_is_no_connection_is_refused_with_what_to_pass(db: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{db}")

    for given in (engine, Session(engine), "x"):
        with pytest.raises(TypeError, match=r"session\.connection\(\)"), unit_of_work(given):  # type: ignore[arg-type]
            pass
    engine.dispose()
