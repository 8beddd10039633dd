"""What holds whatever many processes do to one database at once, and when one of them is killed."""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest
from books import miscounted, order as order_now, redemptions, uses
from databases import DIALECTS, Database
from probes import FORK, rows, run, together, unbalanced

from tbpay.database import unit_of_work
from tbpay.errors import Code, ConflictError, RefusedError
from tbpay.stores import account_store, balance_store, discount_code_store, order_store


@pytest.fixture
def dialect(kind: str) -> str:
    return DIALECTS[kind]


@pytest.fixture
def db(db: Database, kind: str) -> Database:
    """SQLite in both journal modes, of which tbpay chooses neither; and PostgreSQL."""
    if db.dialect == "sqlite":
        run(db, f"PRAGMA journal_mode={kind}")
    return db


def test_an_order_is_credited_once_whoever_completes_it(db: Database, account: int) -> None:
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
        db, "SELECT order_id, transaction_type, count(*) FROM transactions GROUP BY 1, 2 ORDER BY 1"
    ) == [(order, "credit", 1) for order in orders]
    assert balance_store.get_balance(account) == 500 * len(orders)
    assert unbalanced(db) == []


def test_an_order_completes_or_fails_and_never_both(db: Database, account: int) -> None:
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


def test_the_last_use_is_given_once(db: Database, account: int) -> None:
    discount_code_store.create("FORTY", "percent", 10, max_uses=40)

    def buy(_: int) -> Counter[str]:
        answers: Counter[str] = Counter()
        for _attempt in range(41):
            try:
                order_store.create(account, "top_up", 500, code="FORTY")
            except RefusedError as refusal:
                answers[refusal.code] += 1
            else:
                answers["taken"] += 1
        return answers

    assert sum(together(buy), Counter()) == {"taken": 40, Code.USED_UP: 288}
    assert rows(db, "SELECT count(*) FROM orders WHERE discount_code_id = 1") == [(40,)]
    assert rows(db, "SELECT count(*) FROM orders") == [(40,)]
    assert redemptions("FORTY") == [(order, "reserved") for order, _ in redemptions("FORTY")]
    assert len(redemptions("FORTY")) == uses("FORTY") == 40


def test_an_account_takes_its_share_of_a_code_and_no_more(db: Database, account: int) -> None:
    discount_code_store.create("SHARED", "percent", 10, per_account=5)
    buyers = [account, account_store.create().id]

    def buy(_: int) -> Counter[str]:
        answers: Counter[str] = Counter()
        for attempt in range(8):
            buyer = buyers[attempt % 2]
            try:
                if attempt < 4:
                    order_store.create(buyer, "top_up", 500, code="SHARED")
                else:
                    bare = order_store.create(buyer, "top_up", 500)
                    discount_code_store.increment_uses("SHARED", order_id=bare.id)
            except RefusedError as refusal:
                answers[refusal.code] += 1
        return answers

    assert sum(together(buy), Counter()) == {Code.ACCOUNT_LIMIT: 54}
    taken = "SELECT account_id, count(*) FROM discount_redemptions GROUP BY 1 ORDER BY 1"
    assert rows(db, taken) == [(buyer, 5) for buyer in buyers]
    assert uses("SHARED") == 10
    assert miscounted(db) == []


def test_a_use_that_is_given_back_is_taken_by_another(db: Database, account: int) -> None:
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
    assert rows(db, held) == [(kept,)]
    assert uses("TWO") == kept <= 2
    assert miscounted(db) == []


def test_orders_complete_while_others_take_the_same_code(db: Database, account: int) -> None:
    discount_code_store.create("SAVE10", "percent", 10)

    def buy_and_pay(_: int) -> None:
        orders = [order_store.create(account, "top_up", 500, code="SAVE10").id for _ in range(6)]
        for order in orders:
            order_store.complete(order)
            order_store.create(account, "top_up", 500, code="SAVE10")

    together(buy_and_pay)

    assert Counter(status for _, status in redemptions("SAVE10")) == {
        "redeemed": 48,
        "reserved": 48,
    }
    assert uses("SAVE10") == 96
    assert balance_store.get_balance(account) == 500 * 48
    assert miscounted(db) == []


def test_an_order_is_refunded_up_to_what_was_paid_and_never_more(
    db: Database, account: int
) -> None:
    discount_code_store.create("THIRD", "fixed", 333)
    order = order_store.complete(order_store.create(account, "top_up", 1_000, code="THIRD").id)

    def refund(process: int) -> list[bool]:
        def wins(number: int) -> bool:
            try:
                order_store.refund(order.id, amount_cents=50, stripe_refund_id=f"re_{number}")
            except (RefusedError, ConflictError):
                return False
            return True

        return [wins(100 * process + attempt) for attempt in range(5)]

    won = sum(map(sum, together(refund)))

    # 6.67 are thirteen times 0.50, and 0.17 that nobody asked for.
    assert won == 13
    assert order_now(order.id).status == "completed"
    assert [refund.amount_cents for refund in order_store.refunds(order.id)] == [50] * 13
    taken = sum(refund.claw_back_cents for refund in order_store.refunds(order.id))
    assert balance_store.get_balance(account) == 1_000 - taken
    assert unbalanced(db) == []


def test_a_refund_of_stripes_is_recorded_once(db: Database, account: int) -> None:
    orders = [
        order_store.complete(order_store.create(account, "top_up", 500).id).id for _ in range(2)
    ]

    def refund(process: int) -> tuple[int, bool] | None:
        try:
            _, done = order_store.record_refund(orders[process % 2], stripe_refund_id="re_1")
        except ConflictError:
            return None
        return done.order_id, done.replayed

    answers = together(refund)

    [first] = [answer for answer in answers if answer is not None and not answer[1]]
    assert Counter(answers) == {first: 1, (first[0], True): 3, None: 4}
    assert balance_store.get_balance(account) == 500
    assert unbalanced(db) == []


def test_a_balance_that_many_draw_on_is_spent_to_the_cent(db: Database, account: int) -> None:
    balance_store.add_credits(account, 120, "a gift")

    def spend(_: int) -> list[int]:
        left = []
        for _attempt in range(20):
            with suppress(RefusedError):
                left.append(balance_store.deduct(account, 1, "a message").balance_after_cents)
        return left

    left = [cents for answers in together(spend) for cents in answers]

    assert sorted(left) == list(range(120))
    assert balance_store.get_balance(account) == 0
    assert unbalanced(db) == []


def test_a_balance_is_made_once_by_whoever_comes_first(db: Database, account: int) -> None:
    def make(process: int) -> int | None:
        if process % 2:
            return balance_store.get_or_create(account).id
        balance_store.add_credits(account, 1, "a gift")
        return balance_store.get_or_create(account).id

    assert together(make) == [1] * 8
    assert balance_store.get_balance(account) == 4
    assert unbalanced(db) == []


def test_what_is_unique_is_given_to_one(db: Database, account: int) -> None:
    def claim(process: int) -> list[bool]:
        def wins(call: Callable[[], object]) -> bool:
            try:
                call()
            except ConflictError:
                return False
            return True

        return [
            wins(lambda: account_store.create("bob@example.org")),
            wins(lambda: account_store.set_stripe_customer(account, f"cus_{process}")),
            wins(lambda: discount_code_store.create("SAVE10", "percent", 1 + process)),
            wins(lambda: order_store.create(account, "top_up", 500, stripe_session_id="cs_1")),
            wins(
                lambda: order_store.create(account, "top_up", 500, stripe_payment_intent_id="pi_1")
            ),
        ]

    assert [sum(won) for won in zip(*together(claim), strict=True)] == [1, 1, 1, 1, 1]
    assert rows(db, "SELECT count(*) FROM orders") == [(2,)]


def test_a_killed_process_leaves_whole_units(
    db: Database, account: int, pytestconfig: pytest.Config
) -> None:
    purses = [account, *(account_store.create().id for _ in range(3))]
    for purse in purses:
        balance_store.add_credits(purse, 10_000, "a gift")

    def give(_: int) -> None:
        while True:
            giver, taker = random.sample(purses, 2)
            with unit_of_work():
                balance_store.deduct(giver, 7, "given", allow_negative=True)
                balance_store.add_credits(taker, 7, "taken")

    written = len(purses)
    for killing in range(0, 10, 1 if pytestconfig.getoption("--long") else 3):
        giving = [FORK.Process(target=give, args=(number,)) for number in range(3)]
        for process in giving:
            process.start()
        enough = written + 2 + 3 * killing
        while written < enough:
            balances = balance_store.find().items
            assert sum(it.balance_cents for it in balances) == 40_000
            written = sum(it.account_version for it in balances)
        for process in giving:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()

    assert unbalanced(db) == []
    assert sum(it.balance_cents for it in balance_store.find().items) == 40_000
    counts = rows(db, "SELECT description, count(*) FROM transactions GROUP BY 1 ORDER BY 1")
    assert counts == [("a gift", 4), ("given", counts[1][1]), ("taken", counts[1][1])]
    if db.dialect == "sqlite":
        assert rows(db, "PRAGMA integrity_check") == [("ok",)]
