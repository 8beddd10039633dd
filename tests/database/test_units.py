"""Units of work and snapshots: whole or not at all, one thread, one process, one view."""

import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from databases import DIALECTS, Database, furnished
from probes import another, dump, kept_cents, refused, rows, together, unbalanced

from tbpay import database
from tbpay.database import atomically, beginning, snapshot, unit_of_work
from tbpay.errors import Code, RefusedError, UnavailableError
from tbpay.stores import account_store, audit_store, balance_store, discount_code_store, order_store


@pytest.fixture
def dialect(kind: str) -> str:
    return DIALECTS[kind]


@pytest.fixture
def db(db: Database, kind: str) -> Database:
    return furnished(db, kind)


class UndoneError(Exception):
    pass


def test_a_unit_is_kept_whole(db: Database, rich: int) -> None:
    with unit_of_work():
        balance_store.deduct(rich, 300, "one")
        balance_store.deduct(rich, 200, "two")
        assert kept_cents(db, rich) == 1_000

    assert kept_cents(db, rich) == 500
    assert unbalanced(db) == []


@pytest.mark.parametrize("reason", [UndoneError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_unit_that_is_left_by_an_error_was_never_there(
    db: Database, rich: int, reason: type[BaseException]
) -> None:
    before = dump(db)

    def change_and_fail() -> None:
        balance_store.deduct(rich, 300, "one")
        order_store.complete(order_store.create(rich, "top_up", 500).id)
        discount_code_store.create("SAVE10", "percent", 10)
        account_store.create("bob@example.org")
        raise reason

    with pytest.raises(reason):
        atomically(change_and_fail)

    assert dump(db) == before
    assert balance_store.get_balance(rich) == 1_000


def test_a_refused_call_ends_its_unit_unless_somebody_catches_it(db: Database, rich: int) -> None:
    def overspend() -> None:
        balance_store.deduct(rich, 300, "one")
        balance_store.deduct(rich, 701, "too much")

    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE):
        atomically(overspend)


def test_a_refused_call_leaves_nothing_behind_and_the_unit_goes_on(db: Database, rich: int) -> None:
    discount_code_store.create("ONE", "percent", 10, max_uses=1)
    taken = order_store.create(rich, "top_up", 500, stripe_session_id="cs_1")

    with unit_of_work():
        balance_store.deduct(rich, 300, "one")
        with pytest.raises(RefusedError):
            balance_store.deduct(rich, 701, "too much")
        # Both take the code's use before they are refused.
        order = order_store.create(rich, "top_up", 500)
        with pytest.raises(Exception, match="has the session 'cs_1' already"):
            order_store.create(rich, "top_up", 500, code="ONE", stripe_session_id="cs_1")
        last = order_store.create(rich, "top_up", 500, code="ONE")
        balance_store.deduct(rich, 200, "two")

    assert [line.description for line in balance_store.history(rich).items] == [
        "two",
        "one",
        "a gift",
    ]
    assert [order.id for order in order_store.get_by_account_id(rich)] == [
        last.id,
        order.id,
        taken.id,
    ]
    assert unbalanced(db) == []


def test_a_unit_inside_a_unit_is_taken_back_alone(db: Database, rich: int) -> None:
    def deduct_and_fail() -> None:
        atomically(lambda: balance_store.deduct(rich, 10, "inner"))
        raise UndoneError

    with unit_of_work():
        balance_store.deduct(rich, 1, "outer")
        with pytest.raises(UndoneError):
            atomically(deduct_and_fail)
        with unit_of_work(), unit_of_work():
            balance_store.deduct(rich, 100, "innermost")

    assert kept_cents(db, rich) == 899
    assert unbalanced(db) == []


def test_a_unit_takes_back_the_units_inside_it(db: Database, rich: int) -> None:
    before = dump(db)

    def outer() -> None:
        with unit_of_work():
            balance_store.deduct(rich, 10, "inner")
        raise UndoneError

    with pytest.raises(UndoneError):
        atomically(outer)

    assert dump(db) == before


def test_atomically_answers_what_the_work_answers(rich: int) -> None:
    assert atomically(lambda: balance_store.deduct(rich, 1, "one").balance_after_cents) == 999
    with unit_of_work():
        assert atomically(lambda: 7) == 7


def test_a_unit_gives_its_connection_for_statements_of_ones_own(db: Database, rich: int) -> None:
    with unit_of_work() as connection:
        connection.execute(sa.text("INSERT INTO messages VALUES ('hello')"))
        balance_store.deduct(rich, 1, "a message")
        assert database.connection() is connection
        assert rows(db, "SELECT * FROM messages") == []

    assert rows(db, "SELECT * FROM messages") == [("hello",)]


@pytest.mark.usefixtures("db")
def test_what_the_application_does_wrong_itself_it_hears_in_the_drivers_words() -> None:
    for statement, kind in (
        ("SELECT * FROM mesages", sa.exc.DBAPIError),
        ("INSERT INTO messages VALUES (NULL)", sa.exc.IntegrityError),
    ):
        with pytest.raises(kind), unit_of_work() as connection:
            connection.execute(sa.text(statement))


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_unit_in_which_a_statement_failed_does_not_pass_for_kept(db: Database, rich: int) -> None:
    def catch_and_leave() -> None:
        balance_store.deduct(rich, 1, "one")
        with suppress(sa.exc.DBAPIError):
            database.connection().execute(sa.text("SELECT * FROM mesages"))

    message = f"{db} (TBPAY_DATABASE_URL) can only take it back"
    with refused(
        db,
        UnavailableError,
        Code.UNAVAILABLE,
        f"a statement failed in this unit of work: {message}",
    ):
        atomically(catch_and_leave)


@pytest.mark.usefixtures("db")
def test_outside_a_unit_there_is_no_connection() -> None:
    with pytest.raises(RuntimeError, match="no unit of work is open"):
        database.connection()
    with unit_of_work():
        pass
    with pytest.raises(RuntimeError, match="no unit of work is open"):
        database.connection()


def in_a_thread(work: Callable[[], Any]) -> Any:
    answers: list[Any] = []

    def note_answer() -> None:
        try:
            answers.append(work())
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=note_answer)
    thread.start()
    thread.join(30)
    return answers[0]


@pytest.mark.usefixtures("hurried")
def test_a_thread_has_units_of_its_own(db: Database, rich: int) -> None:
    with unit_of_work():
        balance_store.deduct(rich, 1, "one")

        assert in_a_thread(lambda: balance_store.get_balance(rich)) == 1_000
        refusal = in_a_thread(lambda: balance_store.deduct(rich, 2, "two"))
        assert isinstance(refusal, UnavailableError)
        assert refusal.code is Code.BUSY

    assert in_a_thread(lambda: balance_store.deduct(rich, 3, "three").amount_cents) == 3
    assert kept_cents(db, rich) == 996


def test_a_unit_belongs_to_the_thread_that_opened_it(db: Database, rich: int) -> None:
    before = dump(db)
    for door in (unit_of_work, snapshot):
        with door():
            deduct = partial(copy_context().run, balance_store.deduct, rich, 1, "one")
            answer = in_a_thread(deduct)
        assert type(answer) is RuntimeError
        assert str(answer) == "a unit of work belongs to the thread that opened it"
    assert dump(db) == before


def test_threads_lose_nothing(db: Database, rich: int) -> None:
    threads = [
        threading.Thread(target=lambda: [balance_store.deduct(rich, 1, "one") for _ in range(20)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert kept_cents(db, rich) == 840
    assert unbalanced(db) == []


def test_a_snapshot_sees_one_moment(kind: str, rich: int) -> None:
    with snapshot():
        first = balance_store.get_balance(rich)
        # A reader of a rollback journal holds a writer up; of a log it does not.
        [written] = together(lambda _: tries_to_deduct(rich), processes=1)
        assert balance_store.get_balance(rich) == first == 1_000
        assert balance_store.find().items[0].balance_cents == 1_000
        assert len(balance_store.history(rich).items) == 1

    assert written == (kind != "delete")
    assert balance_store.get_balance(rich) == (999 if written else 1_000)


def tries_to_deduct(account: int) -> bool:
    beginning.BUSY_SECONDS = 0.1  # type: ignore[assignment]
    try:
        balance_store.deduct(account, 1, "one")
    except UnavailableError:
        return False
    return True


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("kind", ["delete"])
def test_a_reader_who_held_a_writer_up_leaves_nothing_half_done(db: Database, rich: int) -> None:
    with another(db) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM orders").fetchall()
        with refused(db, UnavailableError, Code.BUSY):
            balance_store.deduct(rich, 1, "one")
        reader.execute("COMMIT")

        assert balance_store.deduct(rich, 2, "two").balance_after_cents == 998
        reader.execute("BEGIN EXCLUSIVE")
    assert unbalanced(db) == []


def test_a_snapshot_takes_no_lock_that_a_writer_needs(db: Database, rich: int) -> None:
    with snapshot():
        assert balance_store.get_balance(rich) == 1_000
        with db.writing() as writer:
            writer.execute("INSERT INTO messages VALUES ('hello')")


def test_a_snapshot_reads_while_another_process_writes(db: Database, rich: int) -> None:
    with db.writing() as writer:
        writer.execute("INSERT INTO messages VALUES ('hello')")

        assert balance_store.get_balance(rich) == 1_000
        with snapshot():
            assert balance_store.get_balance(rich) == 1_000


def test_a_snapshot_only_reads(db: Database, rich: int) -> None:
    before = dump(db)
    with snapshot() as connection:
        for change in (
            lambda: balance_store.deduct(rich, 1, "one"),
            lambda: account_store.create(),
            lambda: audit_store.record("order fail", "order 1"),
            lambda: atomically(lambda: None),
            lambda: unit_of_work(connection).__enter__(),
        ):
            with pytest.raises(RuntimeError, match="a snapshot only reads"):
                change()
        assert balance_store.get_balance(rich) == 1_000
    assert dump(db) == before


def test_a_snapshot_in_a_unit_sees_what_the_unit_has_done(rich: int) -> None:
    with unit_of_work() as unit:
        balance_store.deduct(rich, 1, "one")
        with snapshot() as view:
            assert view is unit
            assert balance_store.get_balance(rich) == 999
        balance_store.deduct(rich, 1, "two")

    with snapshot() as outer, snapshot() as inner:
        assert inner is outer
        assert balance_store.get_balance(rich) == 998


def test_a_process_that_is_forked_between_units_has_an_engine_of_its_own(
    db: Database, rich: int
) -> None:
    def spend(_: int) -> int:
        return balance_store.deduct(rich, 1, "a child").balance_after_cents

    left = together(spend, processes=3)

    assert sorted(left) == [997, 998, 999]
    assert balance_store.deduct(rich, 1, "the parent").balance_after_cents == 996
    assert unbalanced(db) == []


def test_a_process_that_is_forked_leaves_the_parents_connections_to_the_parent(
    db: Database, rich: int
) -> None:
    def driver() -> object:
        with snapshot() as connection:
            return connection.connection.dbapi_connection

    parents = driver()

    assert together(lambda _: driver() is parents, processes=1) == [False]
    assert driver() is parents
    assert kept_cents(db, rich) == 1_000


@pytest.mark.parametrize("door", [unit_of_work, snapshot])
def test_a_process_that_is_forked_inside_a_unit_has_none_and_leaves_it_alone(
    db: Database, rich: int, door: Callable[[], Any]
) -> None:
    def look(_: int) -> tuple[str, int]:
        with pytest.raises(RuntimeError) as refusal:
            database.connection()
        return str(refusal.value), balance_store.get_balance(rich)

    with door():
        if door is unit_of_work:
            balance_store.deduct(rich, 1, "before")
        assert together(look, processes=1) == [("no unit of work is open", 1_000)]
        if door is unit_of_work:
            balance_store.deduct(rich, 2, "after")
        seen = balance_store.get_balance(rich)

    assert balance_store.get_balance(rich) == seen == (997 if door is unit_of_work else 1_000)
    assert unbalanced(db) == []
    if db.dialect == "sqlite":
        assert rows(db, "PRAGMA integrity_check") == [("ok",)]
