from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from probes import dump, refused, rows, run, unbalanced

from tbpay.database import unit_of_work
from tbpay.errors import Code, ConflictError, NotFoundError, RefusedError
from tbpay.models import MAX_BALANCE_CENTS, MAX_ID, AccountBalance, Transaction
from tbpay.stores import account_store, balance_store, order_store


def set_balance(path: Path, account_id: int, cents: int) -> None:
    """Bring a balance to where amounts by hand would take a thousand lines to bring it."""
    balance_store.get_or_create(account_id)
    run(path, f"UPDATE account_balances SET balance_cents = {cents} WHERE account_id={account_id}")


def test_an_account_without_a_row_has_a_balance_of_0(db: Path, account: int) -> None:
    assert balance_store.get_balance(account) == 0
    assert balance_store.find().items == [AccountBalance(None, account, 0, None)]
    assert rows(db, "SELECT * FROM account_balances") == []


def test_a_balance_is_made_once(db: Path, account: int) -> None:
    first = balance_store.get_or_create(account)
    again = balance_store.get_or_create(account)

    assert again == first
    assert (first.account_id, first.balance_cents) == (account, 0)
    assert first.updated_at is not None
    assert rows(db, "SELECT count(*) FROM account_balances") == [(1,)]


@pytest.mark.parametrize(
    "ask",
    [
        balance_store.get_or_create,
        balance_store.get_balance,
        balance_store.history,
        lambda it: balance_store.add_credits(it, 1, "a"),
        lambda it: balance_store.deduct(it, 1, "a"),
        lambda it: balance_store.deduct(it, 1, "a", allow_negative=True),
        lambda it: balance_store.find(account_ids=[it]),
        lambda it: order_store.create(it, "top_up", 500),
        lambda it: order_store.find(account_id=it),
    ],
)
@pytest.mark.parametrize("unknown", [2, MAX_ID])
def test_an_unknown_account_is_refused(
    db: Path, account: int, ask: Callable[[int], object], unknown: int
) -> None:
    assert account == 1
    with refused(db, NotFoundError, Code.NOT_FOUND, f"no account {unknown}"):
        ask(unknown)


def test_a_credit_adds_and_a_debit_and_a_refund_take_away(db: Path, account: int) -> None:
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
    assert line.replayed is False
    assert balance_store.get_or_create(account).updated_at == line.created_at


def test_all_of_a_balance_may_be_taken_and_not_a_cent_more(db: Path, account: int) -> None:
    balance_store.add_credits(account, 500, "a gift")

    message = f"account {account} has 5.00, which is less than 5.01"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        balance_store.deduct(account, 501, "too much")
    assert balance_store.deduct(account, 500, "all of it").balance_after_cents == 0
    message = f"account {account} has 0.00, which is less than 0.01"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        balance_store.deduct(account, 1, "more")


@pytest.mark.parametrize("kind", ["debit", "refund"])
def test_nothing_goes_below_zero_unless_it_may(db: Path, account: int, kind: str) -> None:
    message = f"account {account} has 0.00, which is less than 0.05"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        balance_store.record_transaction(account, kind, 5, "on credit")

    line = balance_store.record_transaction(account, kind, 5, "on credit", allow_negative=True)

    assert line.balance_after_cents == -5
    assert balance_store.get_balance(account) == -5
    assert balance_store.add_credits(account, 2, "paid back").balance_after_cents == -3
    assert unbalanced(db) == []


def test_the_highest_balance_is_reached_and_not_passed(db: Path, account: int) -> None:
    set_balance(db, account, MAX_BALANCE_CENTS - 5)

    line = balance_store.add_credits(account, 5, "to the brim")

    assert line.balance_after_cents == balance_store.get_balance(account) == 99_999_999_999
    message = f"account {account} has 999999999.99: with 0.01 more it would pass 999999999.99"
    with refused(db, RefusedError, Code.BALANCE_LIMIT, message):
        balance_store.add_credits(account, 1, "over")


@pytest.mark.parametrize("kind", ["debit", "refund"])
def test_the_lowest_balance_is_reached_and_not_passed(db: Path, account: int, kind: str) -> None:
    set_balance(db, account, -MAX_BALANCE_CENTS + 5)

    line = balance_store.record_transaction(account, kind, 5, "to the bottom", allow_negative=True)

    assert line.balance_after_cents == balance_store.get_balance(account) == -99_999_999_999
    message = f"account {account} has -999999999.99: with 0.01 less it would pass -999999999.99"
    with refused(db, RefusedError, Code.BALANCE_LIMIT, message):
        balance_store.record_transaction(account, kind, 1, "under", allow_negative=True)


def test_an_order_that_would_pass_the_highest_balance_stays_pending(db: Path, account: int) -> None:
    set_balance(db, account, MAX_BALANCE_CENTS)
    order = order_store.create(account, "top_up", 500)

    message = f"account {account} has 999999999.99: with 5.00 more it would pass 999999999.99"
    with refused(db, RefusedError, Code.BALANCE_LIMIT, message):
        order_store.complete(order.id, payment_intent_id="pi_1")


def test_an_order_is_credited_once_and_the_repetition_answers_its_line(
    db: Path, account: int
) -> None:
    order = order_store.create(account, "top_up", 500)
    first = balance_store.add_credits(account, 500, "by hand", order_id=order.id)
    before = dump(db)

    again = balance_store.add_credits(account, 500, "again", order_id=order.id)

    assert (again.id, again.description, again.replayed) == (first.id, "by hand", True)
    assert dump(db) == before
    assert [line.replayed for line in balance_store.history(account).items] == [False]


def test_an_order_that_has_its_credit_gets_no_other(db: Path, account: int) -> None:
    order = order_store.create(account, "top_up", 500)
    order_store.complete(order.id)

    message = f"order {order.id} has its credit of 5.00 already, not of 5.01"
    with refused(db, ConflictError, Code.CONFLICT, message):
        balance_store.add_credits(account, 501, "more", order_id=order.id)


def test_a_debit_and_a_refund_of_an_order_are_not_its_credit(db: Path, account: int) -> None:
    order = order_store.create(account, "top_up", 500)
    order_store.complete(order.id)

    for kind in ("debit", "refund", "debit"):
        balance_store.record_transaction(account, kind, 100, "of the order", order_id=order.id)

    assert balance_store.get_balance(account) == 200
    assert unbalanced(db) == []


@pytest.mark.parametrize("kind", ["credit", "debit", "refund"])
def test_a_line_is_of_an_order_of_its_own_account(db: Path, account: int, kind: str) -> None:
    other = account_store.create("bob@example.org").id
    order = order_store.create(other, "top_up", 500)
    order_store.complete(order.id)

    message = f"order {order.id} is of account {other}, not of account {account}"
    with refused(db, ConflictError, Code.CONFLICT, message):
        balance_store.record_transaction(account, kind, 500, "a", order_id=order.id)
    with refused(db, NotFoundError, Code.NOT_FOUND, "no order 99"):
        balance_store.record_transaction(account, kind, 500, "a", order_id=99)


def test_money_moves_from_one_account_to_another_in_one_unit(db: Path, account: int) -> None:
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


def test_a_trail_is_ordered_by_its_lines_and_not_by_the_clock(db: Path, account: int) -> None:
    for number in range(1, 4):
        balance_store.add_credits(account, number, f"line {number}")
    run(db, "UPDATE transactions SET created_at = '1970-01-01T00:00:00.000000Z' WHERE id = 3")

    assert [line.id for line in balance_store.history(account).items] == [3, 2, 1]
