from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from books import lines, uses
from databases import Database
from probes import dump, refused, rows, run, unbalanced

from tbpay.errors import Code, ConflictError, NotFoundError
from tbpay.models import Order, OrderStatus, OrderType
from tbpay.stores import account_store, balance_store, discount_code_store, order_store

PENDING, COMPLETED, FAILED, REFUNDED = OrderStatus


def an_order(account: int, status: OrderStatus, code: str | None = None) -> Order:
    """An order of 5.00 that has come to a status by the moves that lead there."""
    order = order_store.create(account, "top_up", 500, code=code)
    if status is FAILED:
        return order_store.fail(order.id)
    if status is not PENDING:
        order = order_store.complete(order.id)
    return order_store.refund(order.id) if status is REFUNDED else order


def test_a_new_order_is_pending_and_moves_no_money(db: Database, account: int) -> None:
    order = order_store.create(
        account, "top_up", 500, stripe_session_id="cs_1", stripe_payment_intent_id="pi_1"
    )

    assert order == Order(
        id=1,
        account_id=account,
        order_type=OrderType.TOP_UP,
        amount_cents=500,
        stripe_session_id="cs_1",
        stripe_payment_intent_id="pi_1",
        discount_code_id=None,
        status=PENDING,
        created_at=order.created_at,
        completed_at=None,
        credit_cents=500,
    )
    assert abs((datetime.now(UTC) - order.created_at).total_seconds()) < 10
    assert order_store.get_by_id(1) == order
    assert order_store.get_by_stripe_session("cs_1") == order
    assert rows(db, "SELECT count(*) FROM transactions") == [(0,)]


@pytest.mark.usefixtures("db")
def test_an_order_that_is_not_there_is_none_and_cannot_be_moved() -> None:
    assert order_store.get_by_id(1) is None
    assert order_store.get_by_stripe_session("cs_1") is None
    assert order_store.get_by_account_id(1) == []
    calls: list[Callable[[], Order]] = [
        lambda: order_store.complete(1),
        lambda: order_store.fail(1),
        lambda: order_store.update_status(1, "pending"),
        lambda: order_store.attach_session(1, "cs_1"),
    ]
    for call in calls:
        with pytest.raises(NotFoundError, match="no order 1"):
            call()


@pytest.mark.parametrize(
    ("kind", "text"), [("initial_access", "Initial purchase"), ("top_up", "Top-up")]
)
def test_completing_an_order_credits_its_account(
    db: Database, account: int, kind: str, text: str
) -> None:
    order = order_store.create(account, kind, 2_000)

    done = order_store.complete(order.id, payment_intent_id="pi_1")

    assert (done.status, done.stripe_payment_intent_id) == (COMPLETED, "pi_1")
    assert done.completed_at is not None
    assert done.completed_at >= done.created_at
    assert lines(account) == [("credit", 2_000, order.id, text)]
    assert balance_store.get_balance(account) == 2_000
    assert unbalanced(db) == []


def test_an_order_with_a_code_is_charged_less_and_credits_all_of_it(account: int) -> None:
    discount_code_store.create("SAVE15", "percent", 15)

    order = order_store.create(account, "top_up", 999, code=" save15 ")
    order_store.complete(order.id)

    assert (order.amount_cents, order.credit_cents) == (849, 999)
    assert lines(account) == [("credit", 999, order.id, "Top-up")]
    assert uses("SAVE15") == 1


def test_an_order_that_a_code_brings_to_0_is_completed_and_credited_at_once(
    db: Database, account: int
) -> None:
    discount_code_store.create("GIFT", "percent", 100, max_uses=1)

    order = order_store.create(account, "initial_access", 2_000, code="GIFT")

    assert (order.status, order.amount_cents, order.credit_cents) == (COMPLETED, 0, 2_000)
    assert order.completed_at == order.created_at
    assert lines(account) == [("credit", 2_000, order.id, "Initial purchase")]
    assert uses("GIFT") == 1
    assert order_store.complete(order.id) == order
    assert len(lines(account)) == 1
    assert unbalanced(db) == []


def test_completing_five_times_credits_once(db: Database, account: int) -> None:
    order = order_store.create(account, "top_up", 500)

    first = order_store.complete(order.id, payment_intent_id="pi_1")
    before = dump(db)
    again = [order_store.complete(order.id, payment_intent_id="pi_1") for _ in range(2)]
    again += [order_store.complete(order.id)]
    again += [order_store.update_status(order.id, "completed", stripe_payment_intent_id="pi_1")]

    assert again == [first] * 4
    assert dump(db) == before
    assert lines(account) == [("credit", 500, order.id, "Top-up")]


# From, to, whether it is a move; the same status again always succeeds.
MOVES = [
    (PENDING, COMPLETED, True),
    (PENDING, FAILED, True),
    (PENDING, REFUNDED, False),
    (COMPLETED, PENDING, False),
    (COMPLETED, FAILED, False),
    (COMPLETED, REFUNDED, True),
    (FAILED, PENDING, False),
    (FAILED, COMPLETED, False),
    (FAILED, REFUNDED, False),
    (REFUNDED, PENDING, False),
    (REFUNDED, COMPLETED, False),
    (REFUNDED, FAILED, False),
]


@pytest.mark.parametrize(("start", "target", "is_move"), MOVES)
def test_an_order_moves_where_it_may_and_nowhere_else(
    db: Database, account: int, start: OrderStatus, target: OrderStatus, *, is_move: bool
) -> None:
    order, paid = an_order(account, start), an_order(account, start)

    if is_move:
        assert order_store.update_status(order.id, target).status is target
    else:
        with refused(db, ConflictError, Code.CONFLICT):
            order_store.update_status(order.id, target)
    # What is no move is none with a payment intent either, but for a late payment.
    if is_move or (start, target) == (FAILED, COMPLETED):
        moved = order_store.update_status(paid.id, target, stripe_payment_intent_id="pi_1")
        assert (moved.status, moved.stripe_payment_intent_id) == (target, "pi_1")
    else:
        message = f"order {paid.id} is {start}: it cannot become {target}"
        with refused(db, ConflictError, Code.CONFLICT, message):
            order_store.update_status(paid.id, target, stripe_payment_intent_id="pi_1")
    assert unbalanced(db) == []


@pytest.mark.parametrize("status", OrderStatus)
def test_the_same_status_again_fills_in_a_missing_payment_intent_and_changes_nothing_else(
    db: Database, account: int, status: OrderStatus
) -> None:
    order = an_order(account, status)
    money, before = lines(account), dump(db)

    assert order_store.update_status(order.id, status) == order
    assert dump(db) == before
    filled = order_store.update_status(order.id, status, stripe_payment_intent_id="pi_1")

    assert filled == replace(order, stripe_payment_intent_id="pi_1")
    assert lines(account) == money


@pytest.mark.parametrize("status", [PENDING, COMPLETED, FAILED])
def test_another_payment_intent_is_a_conflict(
    db: Database, account: int, status: OrderStatus
) -> None:
    order = an_order(account, status)
    order_store.update_status(order.id, status, stripe_payment_intent_id="pi_1")

    message = f"order {order.id} has the payment intent 'pi_1', not 'pi_2'"
    with refused(db, ConflictError, Code.CONFLICT, message):
        order_store.complete(order.id, payment_intent_id="pi_2")
    assert order_store.complete(order.id, payment_intent_id="pi_1").status is COMPLETED


def test_a_payment_intent_pays_one_order(db: Database, account: int) -> None:
    first = order_store.create(account, "top_up", 500, stripe_payment_intent_id="pi_1")
    second = order_store.create(account, "top_up", 500)

    message = f"order {first.id} has the payment intent 'pi_1' already"
    with refused(db, ConflictError, Code.CONFLICT, message):
        order_store.complete(second.id, payment_intent_id="pi_1")
    with refused(db, ConflictError, Code.CONFLICT, message):
        order_store.create(account, "top_up", 500, stripe_payment_intent_id="pi_1")


def test_failing_an_order_gives_its_use_back(db: Database, account: int) -> None:
    discount_code_store.create("ONE", "percent", 10, max_uses=1)
    order = order_store.create(account, "top_up", 500, code="ONE")

    failed = order_store.fail(order.id)
    before = dump(db)
    again = order_store.fail(order.id)

    assert (failed.status, failed.completed_at, again) == (FAILED, None, failed)
    assert dump(db) == before
    assert uses("ONE") == 0
    assert lines(account) == []
    assert order_store.create(account, "top_up", 500, code="ONE").status is PENDING


def test_a_failed_order_completes_only_with_a_late_payment(db: Database, account: int) -> None:
    order = an_order(account, FAILED)

    message = f"order {order.id} has failed: only a late payment completes it"
    with refused(db, ConflictError, Code.CONFLICT, message):
        order_store.complete(order.id)
    done = order_store.complete(order.id, payment_intent_id="pi_1")

    assert (done.status, done.stripe_payment_intent_id) == (COMPLETED, "pi_1")
    assert done.completed_at is not None
    assert lines(account) == [("credit", 500, order.id, "Top-up")]


def test_a_late_payment_takes_the_use_again(account: int) -> None:
    discount_code_store.create("ONE", "percent", 10, max_uses=1)
    order = an_order(account, FAILED, code="ONE")
    discount_code_store.set_active("ONE", active=False)

    done = order_store.complete(order.id, payment_intent_id="pi_1")

    assert (done.status, done.amount_cents) == (COMPLETED, 450)
    assert uses("ONE") == 1


def test_a_late_payment_completes_when_no_use_is_left(db: Database, account: int) -> None:
    discount_code_store.create("ONE", "percent", 10, max_uses=1)
    late = an_order(account, FAILED, code="ONE")
    order_store.create(account, "top_up", 500, code="ONE")

    done = order_store.complete(late.id, payment_intent_id="pi_1")

    assert (done.status, done.amount_cents, done.credit_cents) == (COMPLETED, 450, 500)
    assert uses("ONE") == 1
    assert lines(account) == [("credit", 500, late.id, "Top-up")]
    assert unbalanced(db) == []


def test_a_refused_late_payment_leaves_the_use_where_it_was(db: Database, account: int) -> None:
    discount_code_store.create("SAVE10", "percent", 10)
    other = order_store.create(account, "top_up", 500, stripe_payment_intent_id="pi_1")
    order = an_order(account, FAILED, code="SAVE10")

    with refused(db, ConflictError, Code.CONFLICT):
        order_store.complete(order.id, payment_intent_id="pi_1")

    assert (uses("SAVE10"), other.status) == (0, PENDING)


def test_an_order_that_was_credited_by_hand_completes_without_a_second_credit(
    db: Database, account: int
) -> None:
    order = order_store.create(account, "top_up", 500)
    balance_store.add_credits(account, 500, "by hand", order_id=order.id)

    assert order_store.complete(order.id).status is COMPLETED
    assert lines(account) == [("credit", 500, order.id, "by hand")]
    assert unbalanced(db) == []


def test_an_order_that_was_credited_otherwise_by_hand_does_not_complete(
    db: Database, account: int
) -> None:
    order = order_store.create(account, "top_up", 500)
    balance_store.add_credits(account, 400, "by hand", order_id=order.id)

    message = f"order {order.id} has its credit of 4.00 already, not of 5.00"
    with refused(db, ConflictError, Code.CONFLICT, message):
        order_store.complete(order.id)


def test_an_order_that_has_its_credit_does_not_fail(db: Database, account: int) -> None:
    order = order_store.create(account, "top_up", 500)
    balance_store.add_credits(account, 500, "by hand", order_id=order.id)

    message = f"order {order.id} has its credit: it can only be completed"
    with refused(db, ConflictError, Code.CONFLICT, message):
        order_store.fail(order.id)

    assert order_store.complete(order.id).status is OrderStatus.COMPLETED
    assert balance_store.get_balance(account) == 500


def test_an_order_that_failed_has_nothing_to_credit(db: Database, account: int) -> None:
    order = order_store.create(account, "top_up", 500)
    order_store.fail(order.id)

    message = f"order {order.id} is failed: there is nothing to credit for it"
    with refused(db, ConflictError, Code.CONFLICT, message):
        balance_store.add_credits(account, 500, "by hand", order_id=order.id)


def test_a_refused_order_takes_no_use_and_leaves_nothing(db: Database, account: int) -> None:
    discount_code_store.create("ONE", "percent", 10, max_uses=1)
    first = order_store.create(account, "top_up", 500, stripe_session_id="cs_1")

    with refused(db, NotFoundError, Code.NOT_FOUND, "no account 99"):
        order_store.create(99, "top_up", 500, code="ONE")
    message = f"order {first.id} has the session 'cs_1' already"
    with refused(db, ConflictError, Code.CONFLICT, message):
        order_store.create(account, "top_up", 500, code="ONE", stripe_session_id="cs_1")


def test_a_session_is_attached_to_the_order_that_it_was_made_for(
    db: Database, account: int
) -> None:
    order = order_store.create(account, "top_up", 500)

    attached = order_store.attach_session(order.id, "cs_1")
    before = dump(db)
    again = order_store.attach_session(order.id, "cs_1")

    assert (attached.stripe_session_id, again) == ("cs_1", attached)
    assert dump(db) == before
    assert order_store.get_by_stripe_session("cs_1") == attached


def test_an_order_has_one_session_and_a_session_one_order(db: Database, account: int) -> None:
    first = order_store.create(account, "top_up", 500, stripe_session_id="cs_1")
    second = order_store.create(account, "top_up", 500)

    message = f"order {first.id} has the session 'cs_1', not 'cs_2'"
    with refused(db, ConflictError, Code.CONFLICT, message):
        order_store.attach_session(first.id, "cs_2")
    message = f"order {first.id} has the session 'cs_1' already"
    with refused(db, ConflictError, Code.CONFLICT, message):
        order_store.attach_session(second.id, "cs_1")


def test_the_case_of_a_session_is_a_part_of_it(account: int) -> None:
    order_store.create(account, "top_up", 500, stripe_session_id="cs_a")

    assert order_store.get_by_stripe_session("cs_A") is None
    assert order_store.create(account, "top_up", 500, stripe_session_id="cs_A").id == 2


def test_the_orders_of_an_account_are_answered_newest_first(account: int) -> None:
    other = account_store.create("bob@example.org").id
    own = [order_store.create(account, "top_up", 500) for _ in range(3)]
    others = order_store.create(other, "top_up", 500)

    assert order_store.get_by_account_id(account) == own[::-1]
    assert order_store.get_by_account_id(other) == [others]
    assert order_store.get_by_account_id(99) == []


def test_all_orders_of_an_account_are_answered(db: Database, account: int) -> None:
    order_store.create(account, "top_up", 500)
    columns = "account_id, order_type, amount_cents, status, created_at"
    for _ in range(11):
        run(db, f"INSERT INTO orders ({columns}) SELECT {columns} FROM orders")

    assert len(order_store.get_by_account_id(account)) == 2_048


def test_orders_are_found_by_what_they_are(account: int) -> None:
    other = account_store.create("bob@example.org").id
    first = order_store.create(account, "initial_access", 2_000)
    second = order_store.complete(
        order_store.create(account, "top_up", 500).id, payment_intent_id="pi_2"
    )
    third = order_store.create(other, "top_up", 500)

    def found(**wanted: object) -> list[Order]:
        return list(order_store.find(**wanted).items)  # type: ignore[arg-type]

    assert found() == [third, second, first]
    assert found(account_id=account) == [second, first]
    assert found(status="completed") == [second]
    assert found(status=PENDING, account_id=account) == [first]
    assert found(order_type="top_up") == [third, second]
    assert found(payment_intent_id="pi_2") == [second]
    assert found(payment_intent_id="pi_3") == []
    assert found(since=second.created_at) == [third, second]
    assert found(until=second.created_at) == [first]
    assert found(since=second.created_at, until=third.created_at) == [second]
    assert found(since=third.created_at + timedelta(days=1)) == []


def test_an_adopted_order_without_a_credit_credits_its_amount(db: Database, account: int) -> None:
    run(
        db,
        "INSERT INTO orders (id, account_id, order_type, amount_cents, created_at)"
        f" VALUES (7, {account}, 'top_up', 1000, '2026-11-23T08:13:00.000000Z'),"
        f" (8, {account}, 'top_up', 0, '2026-11-23T08:13:00.000000Z')",
    )

    assert order_store.complete(7).credit_cents == 1_000
    assert order_store.complete(8).status is COMPLETED
    assert lines(account) == [("credit", 1_000, 7, "Top-up")]
