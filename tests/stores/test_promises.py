"""What holds whatever many processes do to one database at once, and when one of them is killed."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from probes import FORK, rows, run, together, unbalanced

from tbpay.database import snapshot, unit_of_work
from tbpay.errors import Code, ConflictError, RefusedError
from tbpay.stores import account_store, balance_store, discount_code_store, order_store


@pytest.fixture(params=["wal", "delete"])
def db(db: Path, request: pytest.FixtureRequest) -> Path:
    """The database in both journal modes, of which tbpay chooses neither."""
    run(db, f"PRAGMA journal_mode={request.param}")
    return db


def test_an_order_is_credited_once_whoever_completes_it(db: Path, account: int) -> None:
    orders = [order_store.create(account, "top_up", 500).id for _ in range(5)]

    def complete(process: int) -> list[str]:
        answers: list[str] = []
        for order in orders:
            if process % 2:
                done = order_store.complete(order, payment_intent_id=f"pi_{order}")
            else:
                done = order_store.update_status(order, "completed")
            answers.append(done.status)
        return answers

    assert together(complete) == [["completed"] * len(orders)] * 8
    assert rows(
        db, "SELECT order_id, transaction_type, count(*) FROM transactions GROUP BY 1, 2"
    ) == [(order, "credit", 1) for order in orders]
    assert balance_store.get_balance(account) == 500 * len(orders)
    assert unbalanced(db) == []


def test_an_order_completes_or_fails_and_never_both(db: Path, account: int) -> None:
    discount_code_store.create("SAVE10", "percent", 10)
    orders = [order_store.create(account, "top_up", 500, code="SAVE10").id for _ in range(10)]

    def decide(process: int) -> list[bool]:
        return [
            succeeds(order_store.complete if process % 2 else order_store.fail, order)
            for order in orders
        ]

    answers = together(decide, processes=4)

    # Whoever was second was told so: of an order either both completed or both failed.
    assert answers[0] == answers[2] == [not done for done in answers[1]]
    assert answers[1] == answers[3]
    completed = answers[1].count(True)
    assert rows(db, "SELECT count(*) FROM orders WHERE status = 'completed'") == [(completed,)]
    assert rows(db, "SELECT count(*) FROM transactions") == [(completed,)]
    assert rows(db, "SELECT current_uses FROM discount_codes") == [(completed,)]


def succeeds(move: Callable[[int], object], order: int) -> bool:
    try:
        move(order)
    except ConflictError:
        return False
    return True


def test_the_last_use_is_given_once(db: Path, account: int) -> None:
    discount_code_store.create("HUNDRED", "percent", 10, max_uses=100)

    def buy(_: int) -> Counter[str]:
        answers: Counter[str] = Counter()
        for _attempt in range(101):
            try:
                order_store.create(account, "top_up", 500, code="HUNDRED")
            except RefusedError as refusal:
                answers[refusal.code] += 1
            else:
                answers["taken"] += 1
        return answers

    assert sum(together(buy), Counter()) == {"taken": 100, Code.USED_UP: 708}
    assert rows(db, "SELECT count(*) FROM orders WHERE discount_code_id = 1") == [(100,)]
    assert rows(db, "SELECT count(*) FROM orders") == [(100,)]
    assert rows(db, "SELECT current_uses FROM discount_codes") == [(100,)]


def test_a_use_that_is_given_back_is_taken_by_another(db: Path, account: int) -> None:
    discount_code_store.create("TWO", "percent", 10, max_uses=2)

    def come_and_go(_: int) -> int:
        kept = 0
        for attempt in range(12):
            try:
                order = order_store.create(account, "top_up", 500, code="TWO")
            except RefusedError:
                continue
            if attempt < 10:
                order_store.fail(order.id)
            else:
                kept += 1
        return kept

    kept = sum(together(come_and_go))

    held = "SELECT count(*) FROM orders WHERE status = 'pending' AND discount_code_id = 1"
    assert rows(db, held) == rows(db, "SELECT current_uses FROM discount_codes") == [(kept,)]
    assert kept <= 2


def test_a_balance_that_many_draw_on_is_spent_to_the_cent(db: Path, account: int) -> None:
    balance_store.add_credits(account, 300, "a gift")

    def spend(_: int) -> list[int]:
        left = []
        for _attempt in range(50):
            with suppress(RefusedError):
                left.append(balance_store.deduct(account, 1, "a message").balance_after_cents)
        return left

    left = [cents for answers in together(spend) for cents in answers]

    assert sorted(left) == list(range(300))
    assert balance_store.get_balance(account) == 0
    assert unbalanced(db) == []


def test_a_balance_is_made_once_by_whoever_comes_first(db: Path, account: int) -> None:
    def make(process: int) -> int | None:
        if process % 2:
            return balance_store.get_or_create(account).id
        balance_store.add_credits(account, 1, "a gift")
        return balance_store.get_or_create(account).id

    assert together(make) == [1] * 8
    assert balance_store.get_balance(account) == 4
    assert unbalanced(db) == []


def test_what_is_unique_is_given_to_one(db: Path, account: int) -> None:
    def claim(process: int) -> list[bool]:
        def wins(call: Callable[[], object]) -> bool:
            try:
                call()
            except ConflictError:
                return False
            return True

        return [
            wins(lambda: account_store.create("bob@example.org")),
            wins(lambda: discount_code_store.create("SAVE10", "percent", 1 + process)),
            wins(lambda: order_store.create(account, "top_up", 500, stripe_session_id="cs_1")),
            wins(
                lambda: order_store.create(account, "top_up", 500, stripe_payment_intent_id="pi_1")
            ),
        ]

    assert [sum(won) for won in zip(*together(claim), strict=True)] == [1, 1, 1, 1]
    assert rows(db, "SELECT count(*) FROM orders") == [(2,)]


def test_a_killed_process_leaves_whole_units(db: Path, account: int) -> None:
    purses = [account, *(account_store.create().id for _ in range(3))]
    for purse in purses:
        balance_store.add_credits(purse, 10_000, "a gift")

    def give(_: int) -> None:
        while True:
            giver, taker = random.sample(purses, 2)
            with unit_of_work():
                balance_store.deduct(giver, 7, "given", allow_negative=True)
                balance_store.add_credits(taker, 7, "taken")

    read = 0
    for killing in range(12):
        giving = [FORK.Process(target=give, args=(number,)) for number in range(3)]
        for process in giving:
            process.start()
        enough = time.monotonic() + 0.05 + 0.01 * killing
        while time.monotonic() < enough:
            with snapshot():
                assert sum(it.balance_cents for it in balance_store.find().items) == 40_000
            read += 1
        for process in giving:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()

    assert read > 12
    assert unbalanced(db) == []
    assert sum(it.balance_cents for it in balance_store.find().items) == 40_000
    counts = rows(db, "SELECT description, count(*) FROM transactions GROUP BY 1 ORDER BY 1")
    given, taken = counts[1][1], counts[2][1]
    assert given == taken > 0
    assert rows(db, "PRAGMA integrity_check") == [("ok",)]
