"""The uses of discount codes: who took them and when they could, and what became of them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from books import code, lines, miscounted, order as order_now, redemptions, uses
from clocks import Clock
from databases import Database
from probes import dump, refused, unbalanced

from tbpay.errors import Code, ConflictError, InvalidInputError, RefusedError
from tbpay.models import MAX_USES, DiscountCode, OrderStatus, Redemption, RedemptionStatus
from tbpay.stores import account_store, balance_store, discount_code_store, order_store

STARTS = datetime(2026, 11, 23, 8, 13, tzinfo=UTC)
ENDS = STARTS + timedelta(days=7)
INSTANT = timedelta(microseconds=1)


def buy(account: int, name: str, cents: int = 500) -> int:
    return order_store.create(account, "top_up", cents, code=name).id


def test_an_order_reserves_a_use_and_redeems_it_when_it_completes(
    db: Database, account: int
) -> None:
    discount_code_store.create("SAVE10", "percent", 10)

    order = order_store.create(account, "top_up", 500, code="SAVE10")
    [reserved] = discount_code_store.redemptions("SAVE10").items

    assert reserved == Redemption(
        id=1,
        discount_code_id=1,
        order_id=order.id,
        account_id=account,
        reduction_cents=50,
        status=RedemptionStatus.RESERVED,
        created_at=reserved.created_at,
    )
    assert (code("SAVE10").current_uses, code("SAVE10").reserved_uses) == (1, 1)
    order_store.complete(order.id)
    assert redemptions("SAVE10") == [(order.id, "redeemed")]
    assert (code("SAVE10").current_uses, code("SAVE10").reserved_uses) == (1, 0)
    assert miscounted(db) == []


def test_a_failed_order_releases_its_use_and_the_redemption_stays(
    db: Database, account: int
) -> None:
    discount_code_store.create("SAVE10", "percent", 10)

    orders = [buy(account, "SAVE10") for _ in range(3)]
    order_store.fail(orders[1])

    assert redemptions("SAVE10") == [
        (orders[0], "reserved"),
        (orders[1], "released"),
        (orders[2], "reserved"),
    ]
    assert (code("SAVE10").current_uses, code("SAVE10").reserved_uses) == (2, 2)
    assert miscounted(db) == []


def test_a_use_without_an_order_is_nobodys_and_redeemed(db: Database) -> None:
    discount_code_store.create("SAVE10", "percent", 10)

    taken = discount_code_store.increment_uses("SAVE10")
    [redemption] = discount_code_store.redemptions("SAVE10").items

    assert (taken.current_uses, taken.reserved_uses) == (1, 0)
    assert (redemption.order_id, redemption.account_id) == (None, None)
    assert (redemption.reduction_cents, redemption.status) == (0, "redeemed")
    assert miscounted(db) == []


@pytest.mark.parametrize(
    ("standing", "status"),
    [("pending", "reserved"), ("completed", "redeemed"), ("refunded", "redeemed")],
)
def test_a_use_that_an_order_takes_later_stands_where_the_order_does(
    db: Database, account: int, standing: str, status: str
) -> None:
    discount_code_store.create("SAVE10", "percent", 10)
    order = order_store.create(account, "top_up", 500).id
    for target in OrderStatus.COMPLETED, OrderStatus.REFUNDED:
        if standing != "pending" and order_now(order).status != standing:
            order_store.update_status(order, target)

    discount_code_store.increment_uses("SAVE10", order_id=order)

    [redemption] = discount_code_store.redemptions("SAVE10").items
    assert (redemption.order_id, redemption.account_id) == (order, account)
    # What the order costs was settled before.
    assert (redemption.status, redemption.reduction_cents) == (status, 0)
    if standing == "pending":
        order_store.fail(order)
        assert redemptions("SAVE10") == [(order, "released")]
    assert miscounted(db) == []


@pytest.mark.parametrize("closed", ["by nothing", "inactive", "ended", "the account's share"])
def test_a_late_payment_takes_a_use_again_if_one_is_left_whatever_else_would_refuse_it(
    db: Database, account: int, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    clock = Clock(monkeypatch)
    clock.set(STARTS)
    discount_code_store.create(
        "SAVE10", "percent", 10, max_uses=2, starts_at=STARTS, ends_at=ENDS, per_account=1
    )
    order = buy(account, "SAVE10")
    order_store.fail(order)
    if closed == "inactive":
        discount_code_store.set_active("SAVE10", active=False)
    elif closed == "ended":
        clock.set(ENDS)
    elif closed == "the account's share":
        buy(account, "SAVE10")

    done = order_store.complete(order, payment_intent_id="pi_1")

    assert (done.status, done.amount_cents) == ("completed", 450)
    assert redemptions("SAVE10")[0] == (order, "redeemed")
    assert uses("SAVE10") == (2 if closed == "the account's share" else 1)
    assert miscounted(db) == []


def test_a_late_payment_that_finds_no_use_left_completes_and_its_redemption_is_late(
    db: Database, account: int
) -> None:
    discount_code_store.create("ONE", "percent", 10, max_uses=1)
    late = buy(account, "ONE")
    order_store.fail(late)
    other = buy(account, "ONE")

    done = order_store.complete(late, payment_intent_id="pi_1")

    assert (done.status, done.amount_cents, done.credit_cents) == ("completed", 450, 500)
    assert lines(account) == [("credit", 500, late, "Top-up")]
    assert redemptions("ONE") == [(late, "late"), (other, "reserved")]
    assert (code("ONE").current_uses, code("ONE").reserved_uses) == (1, 1)
    # What stands outside the counter stays there.
    order_store.fail(other)
    assert order_store.complete(late, payment_intent_id="pi_1") == done
    assert discount_code_store.increment_uses("ONE", order_id=late).current_uses == 0
    order_store.refund(late)
    assert redemptions("ONE") == [(late, "late"), (other, "released")]
    assert miscounted(db) == []
    assert unbalanced(db) == []


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        (STARTS - INSTANT, Code.NOT_STARTED),
        (STARTS, None),
        (ENDS - INSTANT, None),
        (ENDS, Code.EXPIRED),
    ],
)
def test_a_code_is_taken_from_its_start_up_to_and_not_at_its_end(
    db: Database,
    account: int,
    monkeypatch: pytest.MonkeyPatch,
    moment: datetime,
    reason: Code | None,
) -> None:
    discount_code_store.create("WEEK", "percent", 10, starts_at=STARTS, ends_at=ENDS)
    bare = order_store.create(account, "top_up", 500).id
    calls: list[Callable[[], object]] = [
        lambda: discount_code_store.validate("WEEK"),
        lambda: discount_code_store.increment_uses("WEEK"),
        lambda: discount_code_store.increment_uses("WEEK", order_id=bare),
        lambda: buy(account, "WEEK"),
    ]
    Clock(monkeypatch).stand(moment)

    for call in calls:
        if reason is None:
            call()
        else:
            border = "starts at 2026-11-23" if reason is Code.NOT_STARTED else "ended at 2026-11-30"
            message = f"discount code WEEK {border}T08:13:00.000000Z"
            with refused(db, RefusedError, reason, message):
                call()
    assert uses("WEEK") == (0 if reason else 3)


def test_an_open_window_has_one_border(account: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    discount_code_store.create("FROM", "percent", 10, starts_at=STARTS)
    discount_code_store.create("UNTIL", "percent", 10, ends_at=ENDS)

    clock.stand(datetime(2099, 1, 1, tzinfo=UTC))
    buy(account, "FROM")
    clock.stand(datetime(1970, 1, 1, tzinfo=UTC))
    buy(account, "UNTIL")

    assert (uses("FROM"), uses("UNTIL")) == (1, 1)


def test_the_first_reason_is_the_one_that_is_given(
    db: Database, account: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    clock.stand(STARTS)
    name = discount_code_store.create(
        "ALL-OF-IT",
        "fixed",
        960,
        max_uses=1,
        per_account=1,
        min_amount_cents=1_000,
        starts_at=STARTS,
        ends_at=ENDS,
    ).code
    buy(account, name, 2_000)
    discount_code_store.set_active(name, active=False)
    clock.stand(STARTS - INSTANT)

    def refuses(cents: int, reason: Code, message: str) -> None:
        order = order_store.create(account, "top_up", cents).id
        calls: list[Callable[[], object]] = [
            lambda: discount_code_store.validate(name, amount_cents=cents, account_id=account),
            lambda: buy(account, name, cents),
        ]
        if reason is not Code.BELOW_STRIPE_MINIMUM:
            calls.append(lambda: discount_code_store.increment_uses(name, order_id=order))
        for call in calls:
            with refused(db, RefusedError, reason, message):
                call()

    refuses(999, Code.INACTIVE, "discount code ALL-OF-IT is inactive")
    discount_code_store.set_active(name, active=True)
    message = "discount code ALL-OF-IT starts at 2026-11-23T08:13:00.000000Z"
    refuses(999, Code.NOT_STARTED, message)
    clock.stand(ENDS)
    message = "discount code ALL-OF-IT ended at 2026-11-30T08:13:00.000000Z"
    refuses(999, Code.EXPIRED, message)
    clock.stand(STARTS)
    refuses(999, Code.USED_UP, "discount code ALL-OF-IT is used up")
    discount_code_store.update(name, max_uses=3)
    message = "discount code ALL-OF-IT is for orders of 10.00 or more, not of 9.99"
    refuses(999, Code.BELOW_MINIMUM, message)
    message = f"account {account} has taken discount code ALL-OF-IT 1 time, which is its limit"
    refuses(1_000, Code.ACCOUNT_LIMIT, message)
    discount_code_store.update(name, per_account=2)
    message = "10.00 with discount code ALL-OF-IT is 0.40, and Stripe charges no less than 0.50"
    refuses(1_000, Code.BELOW_STRIPE_MINIMUM, message)
    buy(account, name, 1_010)
    assert uses(name) == 2
    assert miscounted(db) == []


def test_what_is_not_said_is_not_looked_at(account: int) -> None:
    discount_code_store.create("LIMITS", "fixed", 460, per_account=1, min_amount_cents=500)
    buy(account, "LIMITS", 1_000)

    assert discount_code_store.validate("LIMITS").current_uses == 1
    assert discount_code_store.validate("LIMITS", amount_cents=1_000).current_uses == 1
    other = account_store.create().id
    assert discount_code_store.validate("LIMITS", account_id=other).current_uses == 1
    # Nobody's use is of no account and of no amount.
    assert discount_code_store.increment_uses("LIMITS").current_uses == 2


def test_an_account_has_its_share_of_uses_that_live(db: Database, account: int) -> None:
    other = account_store.create("bob@example.org").id
    discount_code_store.create("TWICE", "percent", 10, per_account=2)
    discount_code_store.increment_uses("TWICE")
    for owner in (account, other):
        buy(owner, "TWICE")
        order_store.complete(buy(owner, "TWICE"))

    message = f"account {account} has taken discount code TWICE 2 times, which is its limit"
    with refused(db, RefusedError, Code.ACCOUNT_LIMIT, message):
        buy(account, "TWICE")
    order_store.fail(order_store.get_by_account_id(account)[1].id)
    buy(account, "TWICE")
    with refused(db, RefusedError, Code.ACCOUNT_LIMIT, message):
        discount_code_store.validate("TWICE", account_id=account)
    assert uses("TWICE") == 5
    assert miscounted(db) == []


@pytest.mark.parametrize("left", [1, 2, 25, 48, 49])
def test_what_stripe_would_not_charge_is_refused_and_takes_no_use(
    db: Database, account: int, left: int
) -> None:
    discount_code_store.create("NEARLY", "fixed", 500)
    cents = 500 + left

    message = (
        f"5.{left:02} with discount code NEARLY is 0.{left:02},"
        " and Stripe charges no less than 0.50"
    )
    for call in (
        lambda: buy(account, "NEARLY", cents),
        lambda: discount_code_store.validate("NEARLY", amount_cents=cents),
    ):
        with refused(db, RefusedError, Code.BELOW_STRIPE_MINIMUM, message):
            call()


def test_50_cents_are_charged_and_an_order_of_nothing_is_completed_at_once(
    db: Database, account: int
) -> None:
    discount_code_store.create("GIFT", "fixed", 500)

    charged = order_store.create(account, "top_up", 550, code="GIFT")
    free = order_store.create(account, "top_up", 500, code="GIFT", key="key-0001")

    assert (charged.amount_cents, charged.status) == (50, "pending")
    assert (free.amount_cents, free.status, free.completed_at) == (
        0,
        "completed",
        free.created_at,
    )
    assert lines(account) == [("credit", 500, free.id, "Top-up")]
    assert redemptions("GIFT") == [(charged.id, "reserved"), (free.id, "redeemed")]
    assert order_store.create(account, "top_up", 500, code="GIFT", key="key-0001") == free
    assert balance_store.get_balance(account) == 500
    assert miscounted(db) == []


def test_a_refused_order_of_nothing_leaves_nothing(db: Database, account: int) -> None:
    discount_code_store.create("GIFT", "percent", 100)
    order_store.create(account, "top_up", 500, stripe_session_id="cs_1")

    with refused(db, ConflictError, Code.CONFLICT):
        order_store.create(account, "top_up", 500, code="GIFT", stripe_session_id="cs_1")

    assert uses("GIFT") == 0


def test_a_code_has_the_limits_that_it_was_made_with(db: Database) -> None:
    made = discount_code_store.create(
        "WEEK",
        "percent",
        10,
        starts_at=STARTS,
        ends_at=ENDS.astimezone(),
        per_account=2,
        min_amount_cents=1_000,
    )

    assert made == DiscountCode(
        id=1,
        code="WEEK",
        discount_type=made.discount_type,
        discount_value=10,
        max_uses=None,
        current_uses=0,
        active=True,
        stripe_coupon_id=None,
        created_at=made.created_at,
        starts_at=STARTS,
        ends_at=ENDS,
        per_account=2,
        min_amount_cents=1_000,
        reserved_uses=0,
    )
    assert code("WEEK") == made
    for ends in (STARTS, STARTS - INSTANT):
        with refused(db, InvalidInputError, Code.INVALID):
            discount_code_store.create("EMPTY", "percent", 10, starts_at=STARTS, ends_at=ends)


def test_an_update_changes_what_it_is_given_and_nothing_else(db: Database) -> None:
    made = discount_code_store.create("SAVE10", "percent", 10, stripe_coupon_id="co_1")
    before = dump(db)

    assert discount_code_store.update("SAVE10") == made
    assert dump(db) == before
    changed = discount_code_store.update(
        " save10 ", max_uses=MAX_USES, ends_at=ENDS, per_account=2, min_amount_cents=500
    )

    assert (changed.max_uses, changed.ends_at) == (MAX_USES, ENDS)
    assert (changed.per_account, changed.min_amount_cents) == (2, 500)
    assert (changed.discount_type, changed.discount_value) == ("percent", 10)
    assert (changed.code, changed.stripe_coupon_id, changed.active) == ("SAVE10", "co_1", True)
    assert discount_code_store.update("SAVE10", per_account=1).max_uses == MAX_USES
    assert code("SAVE10").min_amount_cents == 500


def test_no_limit_goes_below_the_uses_that_there_are(db: Database, account: int) -> None:
    discount_code_store.create("SAVE10", "percent", 10)
    discount_code_store.increment_uses("SAVE10")
    orders = [buy(account, "SAVE10") for _ in range(3)]

    message = "discount code SAVE10 has 4 uses: its limit cannot be 3"
    with refused(db, RefusedError, Code.REFUSED, message):
        discount_code_store.update("SAVE10", max_uses=3)
    message = (
        f"account {account} has 3 uses of discount code SAVE10: the limit per account cannot be 2"
    )
    with refused(db, RefusedError, Code.REFUSED, message):
        discount_code_store.update("SAVE10", max_uses=4, per_account=2)
    assert discount_code_store.update("SAVE10", max_uses=4, per_account=3).per_account == 3
    order_store.fail(orders[0])
    assert discount_code_store.update("SAVE10", max_uses=3, per_account=2).max_uses == 3


def test_a_code_ends_after_it_starts_and_may_be_ended_at_once(
    db: Database, account: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    discount_code_store.create("WEEK", "percent", 10, starts_at=STARTS)
    Clock(monkeypatch).stand(ENDS)

    message = (
        "discount code WEEK would end at 2026-11-23T08:13:00.000000Z, which is not after its"
        " start at 2026-11-23T08:13:00.000000Z"
    )
    with refused(db, InvalidInputError, Code.INVALID, message):
        discount_code_store.update("WEEK", ends_at=STARTS, max_uses=7)
    assert discount_code_store.update("WEEK", ends_at=STARTS + INSTANT).max_uses is None
    with refused(db, RefusedError, Code.EXPIRED):
        buy(account, "WEEK")
    discount_code_store.update("WEEK", ends_at=ENDS + INSTANT)
    buy(account, "WEEK")


def test_an_order_keeps_what_a_changed_limit_would_refuse(account: int) -> None:
    discount_code_store.create("SAVE10", "percent", 10)
    order = buy(account, "SAVE10")
    discount_code_store.update("SAVE10", ends_at=STARTS, min_amount_cents=90_000)

    assert order_store.complete(order).status == "completed"
    assert redemptions("SAVE10") == [(order, "redeemed")]
