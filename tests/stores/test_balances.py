from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from books import bring_to
from clocks import Clock
from databases import Database
from probes import dump, refused, rows, unbalanced

from tbpay.database import unit_of_work
from tbpay.errors import Code, ConflictError, NotFoundError, RefusedError
from tbpay.models import MAX_BALANCE_CENTS, MAX_ID, AccountBalance, Transaction
from tbpay.stores import account_store, balance_store, order_store


def test_an_account_without_a_row_has_a_balance_of_0(db: Database, account: int) -> None:
    assert balance_store.get_balance(account) == 0
    assert balance_store.find().items == [AccountBalance(None, account, 0, None)]
    assert rows(db, "SELECT * FROM account_balances") == []


def test_a_balance_is_made_once(db: Database, account: int) -> None:
    first = balance_store.get_or_create(account)
    again = balance_store.get_or_create(account)

    assert again == first
    assert (first.account_id, first.balance_cents) == (account, 0)
    assert first.updated_at is not None
    assert rows(db, "SELECT count(*) FROM account_balances") == [(1,)]


def test_an_unknown_account_is_refused(db: Database, account: int) -> None:
    calls: list[Callable[[int], object]] = [
        balance_store.get_or_create,
        balance_store.get_balance,
        balance_store.history,
        lambda it: balance_store.add_credits(it, 1, "a"),
        lambda it: balance_store.add_credits(it, 1, "a", key="key-0001"),
        lambda it: balance_store.deduct(it, 1, "a"),
        lambda it: balance_store.deduct(it, 1, "a", allow_negative=True),
        lambda it: balance_store.find(account_ids=[it]),
        lambda it: order_store.create(it, "top_up", 500),
        lambda it: order_store.find(account_id=it),
    ]
    for unknown in (account + 1, MAX_ID):
        for call in calls:
            with refused(db, NotFoundError, Code.NOT_FOUND, f"no account {unknown}"):
                call(unknown)


def test_a_credit_adds_and_a_debit_and_a_refund_take_away(db: Database, account: int) -> None:
    credit = balance_store.add_credits(account, 1_000, "a gift")
    debit = balance_store.deduct(account, 300, "a message")
    refund = balance_store.record_transaction(account, "refund", 200, "given back")

    assert [
        (line.transaction_type, line.amount_cents, line.balance_after_cents)
        for line in (credit, debit, refund)
    ] == [("credit", 1_000, 1_000), ("debit", 300, 700), ("refund", 200, 500)]
    assert balance_store.get_balance(account) == 500
    assert balance_store.history(account).items == [refund, debit, credit]
    assert unbalanced(db) == []


def test_a_line_says_everything_about_itself(account: int) -> None:
    order = order_store.create(account, "top_up", 500)

    line = balance_store.add_credits(account, 7, "a gift", order_id=order.id)

    assert type(line) is Transaction
    assert (line.account_id, line.order_id, line.description) == (account, order.id, "a gift")
    assert abs((datetime.now(UTC) - line.created_at).total_seconds()) < 10
    assert (line.account_version, line.idempotency_key, line.replayed) == (1, None, False)
    assert balance_store.get_or_create(account).updated_at == line.created_at


def test_all_of_a_balance_may_be_taken_and_not_a_cent_more(db: Database, account: int) -> None:
    balance_store.add_credits(account, 500, "a gift")

    message = f"account {account} has 5.00, which is less than 5.01"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        balance_store.deduct(account, 501, "too much")
    assert balance_store.deduct(account, 500, "all of it").balance_after_cents == 0
    message = f"account {account} has 0.00, which is less than 0.01"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        balance_store.deduct(account, 1, "more")


@pytest.mark.parametrize("kind", ["debit", "refund"])
def test_nothing_goes_below_zero_unless_it_may(db: Database, account: int, kind: str) -> None:
    message = f"account {account} has 0.00, which is less than 0.05"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        balance_store.record_transaction(account, kind, 5, "on credit")

    line = balance_store.record_transaction(account, kind, 5, "on credit", allow_negative=True)

    assert line.balance_after_cents == -5
    assert balance_store.get_balance(account) == -5
    assert balance_store.add_credits(account, 2, "paid back").balance_after_cents == -3
    assert unbalanced(db) == []


def test_the_highest_balance_is_reached_and_not_passed(db: Database, account: int) -> None:
    bring_to(db, account, MAX_BALANCE_CENTS - 5)
    order = order_store.create(account, "top_up", 500)

    line = balance_store.add_credits(account, 5, "to the brim")

    assert line.balance_after_cents == balance_store.get_balance(account) == 99_999_999_999
    message = f"account {account} has 999999999.99: with 0.01 more it would pass 999999999.99"
    with refused(db, RefusedError, Code.BALANCE_LIMIT, message):
        balance_store.add_credits(account, 1, "over")
    message = f"account {account} has 999999999.99: with 5.00 more it would pass 999999999.99"
    with refused(db, RefusedError, Code.BALANCE_LIMIT, message):
        order_store.complete(order.id, payment_intent_id="pi_1")
    assert balance_store.deduct(account, 1, "a message").balance_after_cents == 99_999_999_998
    assert unbalanced(db) == []


def test_the_lowest_balance_is_reached_and_not_passed(db: Database, account: int) -> None:
    bring_to(db, account, -MAX_BALANCE_CENTS + 5)

    line = balance_store.deduct(account, 5, "to the bottom", allow_negative=True)

    assert line.balance_after_cents == balance_store.get_balance(account) == -99_999_999_999
    message = f"account {account} has -999999999.99: with 0.01 less it would pass -999999999.99"
    for kind in ("debit", "refund"):
        with refused(db, RefusedError, Code.BALANCE_LIMIT, message):
            balance_store.record_transaction(account, kind, 1, "under", allow_negative=True)
    assert balance_store.add_credits(account, 1, "a gift").balance_after_cents == -99_999_999_998
    assert unbalanced(db) == []


def test_an_order_is_credited_once_and_the_repetition_answers_its_line(
    db: Database, account: int
) -> None:
    order = order_store.create(account, "top_up", 500)
    first = balance_store.add_credits(account, 500, "by hand", order_id=order.id)
    before = dump(db)

    again = balance_store.add_credits(account, 500, "again", order_id=order.id)

    assert (again.id, again.description, again.replayed) == (first.id, "by hand", True)
    assert dump(db) == before
    assert [line.replayed for line in balance_store.history(account).items] == [False]


def test_an_order_that_has_its_credit_gets_no_other(db: Database, account: int) -> None:
    order = order_store.create(account, "top_up", 500)
    order_store.complete(order.id)

    message = f"order {order.id} has its credit of 5.00 already, not of 5.01"
    with refused(db, ConflictError, Code.CONFLICT, message):
        balance_store.add_credits(account, 501, "more", order_id=order.id)


def test_a_debit_and_a_refund_of_an_order_are_not_its_credit(db: Database, account: int) -> None:
    order = order_store.create(account, "top_up", 500)
    order_store.complete(order.id)

    for kind in ("debit", "refund", "debit"):
        balance_store.record_transaction(account, kind, 100, "of the order", order_id=order.id)

    assert balance_store.get_balance(account) == 200
    assert unbalanced(db) == []


@pytest.mark.parametrize("kind", ["credit", "debit", "refund"])
def test_a_line_is_of_an_order_of_its_own_account(db: Database, account: int, kind: str) -> None:
    other = account_store.create("bob@example.org").id
    order = order_store.create(other, "top_up", 500)
    order_store.complete(order.id)

    message = f"order {order.id} is of account {other}, not of account {account}"
    with refused(db, ConflictError, Code.CONFLICT, message):
        balance_store.record_transaction(account, kind, 500, "a", order_id=order.id)
    with refused(db, NotFoundError, Code.NOT_FOUND, "no order 99"):
        balance_store.record_transaction(account, kind, 500, "a", order_id=99)


def test_money_moves_from_one_account_to_another_in_one_unit(db: Database, account: int) -> None:
    other = account_store.create("bob@example.org").id
    balance_store.add_credits(account, 500, "a gift")

    with unit_of_work():
        balance_store.deduct(account, 200, "to bob")
        balance_store.add_credits(other, 200, "from ann")

    assert balance_store.get_balance(account) == 300
    assert balance_store.get_balance(other) == 200
    assert unbalanced(db) == []


def test_balances_are_listed_by_account_and_below_an_amount(account: int) -> None:
    others = [account_store.create().id for _ in range(3)]
    balance_store.add_credits(others[0], 500, "a gift")
    balance_store.deduct(others[1], 1, "on credit", allow_negative=True)

    def listed(**wanted: object) -> list[tuple[int, int]]:
        found = balance_store.find(**wanted)  # type: ignore[arg-type]
        return [(balance.account_id, balance.balance_cents) for balance in found.items]

    assert listed() == [(account, 0), (others[0], 500), (others[1], -1), (others[2], 0)]
    assert listed(below_cents=500) == [(account, 0), (others[1], -1), (others[2], 0)]
    assert listed(below_cents=0) == [(others[1], -1)]
    assert listed(account_ids=[others[2], others[0], others[2]]) == [
        (others[0], 500),
        (others[2], 0),
    ]
    assert listed(account_ids=[]) == []


def test_the_lines_of_an_account_are_numbered_without_a_gap(db: Database, account: int) -> None:
    other = account_store.create("bob@example.org").id
    for number in range(1, 4):
        balance_store.add_credits(account, number, "a gift")
        balance_store.add_credits(other, number, "a gift")
        with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE):
            balance_store.deduct(account, 1_000, "too much")

    for owner in (account, other):
        numbered = [line.account_version for line in balance_store.history(owner).items]
        assert numbered == [3, 2, 1]
        assert balance_store.get_or_create(owner).account_version == 3


def test_a_trail_is_ordered_by_its_lines_and_not_by_the_clock(
    db: Database, account: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, today = Clock(monkeypatch), datetime.now(UTC)
    moments = [
        today,
        today - timedelta(days=1),
        datetime(1970, 1, 1, tzinfo=UTC),
        today + timedelta(days=3_653),
        today,
    ]

    for number, moment in enumerate(moments, 1):
        clock.set(moment)
        balance_store.add_credits(account, 10 * number, f"line {number}")
        balance_store.deduct(account, number, f"line {number}")
        order_store.complete(order_store.create(account, "top_up", 500).id)

    trail = balance_store.history(account, limit=None).items
    assert [line.account_version for line in trail] == list(range(15, 0, -1))
    assert trail[0].balance_after_cents == balance_store.get_balance(account) == 135 + 2_500
    assert {line.created_at.year for line in trail} >= {1970, today.year + 10}
    assert [order.id for order in order_store.get_by_account_id(account)] == [5, 4, 3, 2, 1]
    assert unbalanced(db) == []


@pytest.mark.parametrize("cents", [2**31 - 1, 2**31, 2**32 + 1])
def test_a_balance_of_more_than_32_bits_is_charged_to_the_cent(
    db: Database, account: int, cents: int
) -> None:
    bring_to(db, account, cents)

    credit = balance_store.add_credits(account, 1, "a gift")
    debits = [balance_store.deduct(account, cents_off, "a message") for cents_off in (2, 99_999)]

    assert credit.balance_after_cents == cents + 1
    assert [line.balance_after_cents for line in debits] == [cents - 1, cents - 100_000]
    assert balance_store.find(account_ids=[account]).items[0].balance_cents == cents - 100_000
    assert unbalanced(db) == []


@pytest.mark.parametrize("cents", [-1, -(2**31) - 1])
def test_a_debt_keeps_its_arithmetic(db: Database, account: int, cents: int) -> None:
    bring_to(db, account, cents)

    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE):
        balance_store.deduct(account, 1, "a message")
    debit = balance_store.deduct(account, 1, "on credit", allow_negative=True)
    credit = balance_store.add_credits(account, 100, "paid back")

    assert (debit.balance_after_cents, credit.balance_after_cents) == (cents - 1, cents + 99)
    assert balance_store.get_balance(account) == cents + 99
    assert unbalanced(db) == []
