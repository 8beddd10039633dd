"""Refunds: what went back to the customer, and what of the credit is taken back with it."""

from itertools import count, pairwise

import pytest
from books import bring_to, lines, order as order_now, redemptions, uses
from databases import Database
from hypothesis import given, settings, strategies as st
from probes import dump, refused, rows, run, unbalanced

from tbpay.database import unit_of_work
from tbpay.errors import Code, ConflictError, NotFoundError, RefusedError
from tbpay.models import MAX_BALANCE_CENTS, OrderStatus, Refund, RefundPolicy
from tbpay.stores import account_store, balance_store, discount_code_store, order_store

PENDING, COMPLETED, FAILED, REFUNDED = OrderStatus


def a_paid_order(account: int, credit_cents: int = 1_000, reduction_cents: int = 0) -> int:
    """A completed order that was charged less by a code of its own."""
    code = None
    if reduction_cents:
        code = f"CODE-{account}-{credit_cents}-{reduction_cents}"
        if discount_code_store.get_by_code(code) is None:
            discount_code_store.create(code, "fixed", reduction_cents)
    order = order_store.create(account, "top_up", credit_cents, code=code)
    return order_store.complete(order.id).id


def test_a_refund_says_everything_about_itself(db: Database, account: int) -> None:
    order = a_paid_order(account)

    after, refund = order_store.record_refund(
        order, amount_cents=300, stripe_refund_id="re_1", reason="double click", key="key-0001"
    )

    assert refund == Refund(
        id=1,
        order_id=order,
        amount_cents=300,
        claw_back_cents=300,
        shortfall_cents=0,
        policy=RefundPolicy.REFUSE,
        stripe_refund_id="re_1",
        transaction_id=2,
        reason="double click",
        idempotency_key="key-0001",
        created_at=refund.created_at,
    )
    assert order_store.refunds(order) == [refund]
    assert after == order_now(order)
    assert after.status is COMPLETED
    line = balance_store.history(account).items[0]
    assert (line.id, line.transaction_type, line.order_id) == (2, "refund", order)
    assert (line.amount_cents, line.balance_after_cents) == (300, 700)
    assert unbalanced(db) == []


def test_an_order_is_refunded_once_all_that_was_paid_went_back(db: Database, account: int) -> None:
    order = a_paid_order(account)

    parts = [order_store.refund(order, amount_cents=cents) for cents in (1, 600)]
    last, rest = order_store.record_refund(order)

    assert [part.status for part in parts] == [COMPLETED, COMPLETED]
    assert (last.status, rest.amount_cents) == (REFUNDED, 399)
    assert [refund.amount_cents for refund in order_store.refunds(order)] == [1, 600, 399]
    assert balance_store.get_balance(account) == 0
    assert unbalanced(db) == []


def test_667_refunds_of_a_cent_take_back_exactly_the_credit(db: Database, account: int) -> None:
    order = a_paid_order(account, 1_000, 333)
    assert order_now(order).amount_cents == 667

    with unit_of_work():
        taken = [
            order_store.record_refund(order, amount_cents=1)[1].claw_back_cents for _ in range(667)
        ]

    assert sum(taken) == 1_000
    assert set(taken) == {1, 2}
    assert order_now(order).status is REFUNDED
    assert balance_store.get_balance(account) == 0
    assert len(lines(account)) == 668
    with refused(
        db, ConflictError, Code.CONFLICT, f"order {order} is refunded: there is nothing to refund"
    ):
        order_store.refund(order, amount_cents=1)
    assert unbalanced(db) == []


def test_the_claw_backs_of_any_parts_add_up_to_the_credit(db: Database, account: int) -> None:
    numbers = count()

    @settings(max_examples=25, database=None)
    @given(
        paid=st.integers(50, 2_000),
        off=st.integers(0, 3_000),
        cuts=st.sets(st.floats(0, 1, exclude_min=True, exclude_max=True), max_size=6),
    )
    def hold(paid: int, off: int, cuts: set[float]) -> None:
        borders = [0, *sorted({int(cut * paid) for cut in cuts} - {0}), paid]
        code = None
        if off:
            code = discount_code_store.create(f"CODE-{next(numbers)}", "fixed", off).code
        order = order_store.create(account, "top_up", paid + off, code=code)
        order_store.complete(order.id)

        taken = 0
        for before, after in pairwise(borders):
            now, refund = order_store.record_refund(order.id, amount_cents=after - before)
            taken += refund.claw_back_cents
            # Never more than the share of what went back, and less by under a cent.
            assert taken == (paid + off) * after // paid
            assert now.status is (REFUNDED if after == paid else COMPLETED)

        assert taken == order.credit_cents == paid + off
        assert balance_store.get_balance(account) == 0

    hold()
    assert unbalanced(db) == []


def test_a_refund_is_refused_where_the_balance_has_less_than_it_takes_back(
    db: Database, account: int
) -> None:
    order = a_paid_order(account, 1_000, 200)
    balance_store.deduct(account, 400, "messages")

    message = (
        f"order {order} was paid with 8.00: 4.00 of the 10.00 to take back is spent, 6.00 is left"
    )
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        order_store.refund(order)
    # 4.80 of 8.00 is 6.00 of 10.00.
    assert order_store.record_refund(order, amount_cents=480)[1].claw_back_cents == 600
    message = f"order {order} was paid with 8.00: 0.01 of the 0.01 to take back is spent, 0.00 is"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, f"{message} left"):
        order_store.refund(order, amount_cents=1)


def test_a_debt_is_no_more_spent_than_all_of_it(db: Database, account: int) -> None:
    order = a_paid_order(account)
    balance_store.deduct(account, 1_500, "messages", allow_negative=True)

    message = (
        f"order {order} was paid with 10.00: 10.00 of the 10.00 to take back is spent, -5.00 is"
        " left"
    )
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        order_store.refund(order)


def test_what_is_available_is_taken_and_the_rest_is_a_shortfall_that_nobody_pays(
    db: Database, account: int
) -> None:
    order = a_paid_order(account, 1_000, 200)
    balance_store.deduct(account, 400, "messages")

    after, refund = order_store.record_refund(order, policy="available")

    assert (after.status, refund.amount_cents) == (REFUNDED, 800)
    assert (refund.claw_back_cents, refund.shortfall_cents) == (1_000, 400)
    assert lines(account)[-1] == ("refund", 600, order, f"Refund of order {order}")
    assert balance_store.get_balance(account) == 0
    # What comes later is the customer's own.
    balance_store.add_credits(account, 500, "a gift")
    again = order_store.record_refund(order, policy="available")[1]
    assert (again.id, again.replayed) == (refund.id, True)
    assert order_store.update_status(order, "refunded") == after
    assert balance_store.get_balance(account) == 500
    assert unbalanced(db) == []


@pytest.mark.parametrize("debt_cents", [0, 700])
def test_where_nothing_is_available_no_line_is_written(
    db: Database, account: int, debt_cents: int
) -> None:
    order = a_paid_order(account)
    balance_store.deduct(account, 1_000 + debt_cents, "messages", allow_negative=True)
    before = lines(account)

    after, refund = order_store.record_refund(order, policy="available")

    assert (after.status, refund.transaction_id) == (REFUNDED, None)
    assert (refund.claw_back_cents, refund.shortfall_cents) == (1_000, 1_000)
    assert lines(account) == before
    assert balance_store.get_balance(account) == -debt_cents
    assert unbalanced(db) == []


def test_a_part_of_what_is_available_is_taken_for_each_part(db: Database, account: int) -> None:
    order = a_paid_order(account)
    balance_store.deduct(account, 700, "messages")

    parts = [
        order_store.record_refund(order, amount_cents=200, policy="available")[1] for _ in range(3)
    ]
    balance_store.add_credits(account, 1_000, "a gift")
    after, last = order_store.record_refund(order)

    assert [part.shortfall_cents for part in parts] == [0, 100, 200]
    assert (after.status, last.claw_back_cents, last.shortfall_cents) == (REFUNDED, 400, 0)
    assert balance_store.get_balance(account) == 600
    assert unbalanced(db) == []


def test_a_refund_may_leave_a_debt(db: Database, account: int) -> None:
    order = a_paid_order(account)
    balance_store.deduct(account, 400, "messages")

    after, refund = order_store.record_refund(order, policy="negative")

    assert (after.status, refund.shortfall_cents) == (REFUNDED, 0)
    assert lines(account)[-1] == ("refund", 1_000, order, f"Refund of order {order}")
    assert balance_store.get_balance(account) == -400
    assert unbalanced(db) == []


def test_what_is_more_than_was_paid_is_refused(db: Database, account: int) -> None:
    order = a_paid_order(account, 1_000, 200)

    message = f"order {order} has 8.00 of 8.00 left to refund, not 8.01"
    with refused(db, RefusedError, Code.REFUSED, message):
        order_store.refund(order, amount_cents=801)
    order_store.refund(order, amount_cents=300)
    message = f"order {order} has 5.00 of 8.00 left to refund, not 5.01"
    with refused(db, RefusedError, Code.REFUSED, message):
        order_store.refund(order, amount_cents=501, policy="negative")
    assert order_store.refund(order, amount_cents=500).status is REFUNDED


@pytest.mark.parametrize("policy", RefundPolicy)
def test_an_order_of_nothing_gives_back_its_whole_credit(
    db: Database, account: int, policy: RefundPolicy
) -> None:
    discount_code_store.create("GIFT", "percent", 100)
    order = order_store.create(account, "top_up", 1_000, code="GIFT").id
    balance_store.deduct(account, 400, "messages")

    message = f"order {order} has 0.00 of 0.00 left to refund, not 0.01"
    with refused(db, RefusedError, Code.REFUSED, message):
        order_store.refund(order, amount_cents=1, policy=policy)
    if policy is RefundPolicy.REFUSE:
        message = f"order {order} was paid with 0.00: 4.00 of the 10.00 to take back is spent,"
        with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, f"{message} 6.00 is left"):
            order_store.refund(order)
        balance_store.add_credits(account, 400, "a gift")
    after, refund = order_store.record_refund(order, policy=policy)

    assert (after.status, refund.amount_cents, refund.claw_back_cents) == (REFUNDED, 0, 1_000)
    assert refund.shortfall_cents == (400 if policy is RefundPolicy.AVAILABLE else 0)
    left_cents = -400 if policy is RefundPolicy.NEGATIVE else 0
    assert balance_store.get_balance(account) == left_cents
    assert order_store.record_refund(order, policy=policy)[1].replayed
    assert redemptions("GIFT") == [(order, "redeemed")]
    assert unbalanced(db) == []


def test_a_refund_of_stripes_is_recorded_once(db: Database, account: int) -> None:
    order, other = a_paid_order(account), a_paid_order(account)
    after, first = order_store.record_refund(order, amount_cents=300, stripe_refund_id="re_1")
    before = dump(db)

    again = order_store.record_refund(
        order, amount_cents=300, policy="negative", stripe_refund_id="re_1", reason="by hand"
    )

    assert again[0] == after
    assert (again[1].id, again[1].replayed, again[1].policy) == (first.id, True, "refuse")
    assert dump(db) == before
    for of, cents in ((order, 301), (order, None), (other, 300), (other, None)):
        asked = {300: "3.00", 301: "3.01", None: "10.00"}[cents]
        message = (
            f"the refund 're_1' is recorded as 3.00 of order {order}, not as {asked} of order {of}"
        )
        with refused(db, ConflictError, Code.CONFLICT, message):
            order_store.refund(of, amount_cents=cents, stripe_refund_id="re_1")


def test_all_that_was_left_is_the_same_refund_when_it_is_told_again(
    db: Database, account: int
) -> None:
    order = a_paid_order(account)
    order_store.refund(order, amount_cents=300, stripe_refund_id="re_1")
    _, rest = order_store.record_refund(order, stripe_refund_id="re_2")
    before = dump(db)

    for cents in (None, 700):
        again = order_store.record_refund(order, amount_cents=cents, stripe_refund_id="re_2")[1]
        assert (again.id, again.replayed) == (rest.id, True)
    assert order_store.record_refund(order)[1].id == rest.id
    assert dump(db) == before


def test_what_is_refunded_is_not_refunded_again(db: Database, account: int) -> None:
    order = a_paid_order(account)
    after = order_store.refund(order, stripe_refund_id="re_1")

    message = f"order {order} is refunded: there is nothing to refund"
    with refused(db, ConflictError, Code.CONFLICT, message):
        order_store.refund(order, stripe_refund_id="re_2")
    with refused(db, ConflictError, Code.CONFLICT, message):
        order_store.refund(order, amount_cents=1_000)
    assert order_store.refund(order) == order_store.update_status(order, "refunded") == after
    assert balance_store.get_balance(account) == 0


def test_only_a_completed_order_is_refunded(db: Database, account: int) -> None:
    pending = order_store.create(account, "top_up", 500).id
    failed = order_store.fail(order_store.create(account, "top_up", 500).id).id

    for order, standing in ((pending, "pending"), (failed, "failed")):
        message = f"order {order} is {standing}: there is nothing to refund"
        with refused(db, ConflictError, Code.CONFLICT, message):
            order_store.refund(order)
        with refused(db, ConflictError, Code.CONFLICT, message):
            order_store.refund(order, amount_cents=1, policy="negative", stripe_refund_id="re_1")
    with refused(db, NotFoundError, Code.NOT_FOUND, "no order 99"):
        order_store.refund(99)
    assert order_store.refunds(99) == []


def test_the_move_by_its_name_carries_the_same_money(db: Database, account: int) -> None:
    order, spent = a_paid_order(account), a_paid_order(account)
    order_store.refund(order, amount_cents=300)

    after = order_store.update_status(order, "refunded", stripe_payment_intent_id="pi_1")

    assert (after.status, after.stripe_payment_intent_id) == (REFUNDED, "pi_1")
    assert [refund.amount_cents for refund in order_store.refunds(order)] == [300, 700]
    balance_store.deduct(account, 1, "a message")
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE):
        order_store.update_status(spent, "refunded")
    assert balance_store.get_balance(account) == 999
    assert unbalanced(db) == []


def test_a_refund_gives_no_use_of_a_code_back(account: int) -> None:
    discount_code_store.create("ONE", "percent", 10, max_uses=1)
    order = order_store.create(account, "top_up", 1_000, code="ONE").id
    order_store.complete(order)

    order_store.refund(order)

    assert uses("ONE") == 1
    assert redemptions("ONE") == [(order, "redeemed")]
    with pytest.raises(RefusedError) as refusal:
        order_store.create(account, "top_up", 1_000, code="ONE")
    assert refusal.value.code is Code.USED_UP


def test_a_part_that_takes_nothing_back_writes_no_line(db: Database, account: int) -> None:
    """Where an adopted order credited less than it cost, or nothing at all."""
    when = "'2026-11-23T08:13:00.000000Z'"
    run(
        db,
        "INSERT INTO orders (id, account_id, order_type, amount_cents, credit_cents, created_at)"
        f" VALUES (7, {account}, 'top_up', 3, 1, {when}), (8, {account}, 'top_up', 5, 0, {when})",
    )
    for order in (7, 8):
        order_store.complete(order)

    parts = [order_store.record_refund(7, amount_cents=1)[1] for _ in range(3)]
    whole = order_store.record_refund(8)[1]

    assert [part.claw_back_cents for part in parts] == [0, 0, 1]
    assert [part.transaction_id for part in parts] == [None, None, 2]
    assert (whole.amount_cents, whole.claw_back_cents, whole.transaction_id) == (5, 0, None)
    assert [order_now(order).status for order in (7, 8)] == [REFUNDED, REFUNDED]
    assert len(lines(account)) == 2
    assert unbalanced(db) == []


def test_a_refund_keeps_to_its_own_order(db: Database, account: int) -> None:
    other = account_store.create("bob@example.org").id
    mine, second, others = a_paid_order(account), a_paid_order(account), a_paid_order(other)

    order_store.refund(mine)

    assert [order_now(order).status for order in (mine, second, others)] == [
        REFUNDED,
        COMPLETED,
        COMPLETED,
    ]
    assert balance_store.get_balance(account) == balance_store.get_balance(other) == 1_000
    assert order_store.refunds(second) == []
    refunds = "SELECT order_id, transaction_id FROM order_refunds"
    assert rows(db, refunds) == [(mine, balance_store.history(account).items[0].id)]


def test_a_refund_that_would_pass_the_lowest_balance_leaves_nothing(
    db: Database, account: int
) -> None:
    bring_to(db, account, -MAX_BALANCE_CENTS + 1)
    order = a_paid_order(account)
    balance_store.deduct(account, 1_000, "messages", allow_negative=True)

    with refused(db, RefusedError, Code.BALANCE_LIMIT):
        order_store.refund(order, policy="negative")
    assert order_store.refund(order, amount_cents=1, policy="negative").status is COMPLETED
