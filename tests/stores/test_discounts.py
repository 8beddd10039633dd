from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from books import miscounted, order as order_now, redemptions, uses
from databases import Database
from hypothesis import given, strategies as st
from probes import dump, refused, run

from tbpay.errors import Code, ConflictError, NotFoundError, RefusedError
from tbpay.models import MAX_AMOUNT_CENTS, DiscountCode, DiscountType
from tbpay.stores import discount_code_store, order_store
from tbpay.stores.redemptions import reduction_cents

# What no code can be; to ask for it is no error in itself.
NO_CODES = ["ſave10", "straße", "a", "A B", "x" * 51, "", " ", "save10\n", "save10\0", "\udcff"]


@pytest.mark.usefixtures("db")
def test_a_new_code_is_active_and_unused() -> None:
    made = discount_code_store.create(
        " launch10 ", "percent", 10, max_uses=3, stripe_coupon_id="coupon_1"
    )

    assert made == DiscountCode(
        1, "LAUNCH10", DiscountType.PERCENT, 10, 3, 0, made.active, "coupon_1", made.created_at
    )
    assert made.active is True
    assert abs((datetime.now(UTC) - made.created_at).total_seconds()) < 10
    assert discount_code_store.get_by_code("LAUNCH10") == made


def test_a_code_exists_once_however_it_is_typed(db: Database) -> None:
    discount_code_store.create("SAVE10", "percent", 10)

    for typed in ("SAVE10", "save10", "  Save10 "):
        with refused(db, ConflictError, Code.EXISTS, "discount code SAVE10 exists already"):
            discount_code_store.create(typed, "fixed", 500)


@pytest.mark.usefixtures("db")
def test_a_code_is_found_in_any_case_and_with_spaces_around_it() -> None:
    made = discount_code_store.create("SAVE10", "percent", 10)

    for taken, typed in enumerate(["SAVE10", "save10", "SaVe10", " save10", "  save10  "]):
        assert discount_code_store.get_by_code(typed) == replace(made, current_uses=taken)
        assert discount_code_store.validate(typed) == replace(made, current_uses=taken)
        assert discount_code_store.increment_uses(typed).current_uses == taken + 1
        assert discount_code_store.update(typed, max_uses=7).max_uses == 7
        assert discount_code_store.set_active(typed, active=False).active is False
        assert len(discount_code_store.redemptions(typed).items) == taken + 1
        made = discount_code_store.set_active(typed, active=True)


def test_a_code_that_nobody_made_is_unknown(db: Database, account: int) -> None:
    discount_code_store.create("SAVE10", "percent", 10)
    order = order_store.create(account, "top_up", 500)
    calls: list[Callable[[str], object]] = [
        discount_code_store.validate,
        discount_code_store.increment_uses,
        discount_code_store.redemptions,
        lambda it: discount_code_store.increment_uses(it, order_id=order.id),
        lambda it: discount_code_store.set_active(it, active=False),
        lambda it: discount_code_store.update(it, max_uses=7),
        lambda it: order_store.create(account, "top_up", 500, code=it),
    ]
    before = dump(db)

    for typed in ("NOBODY", "SAVE1", *NO_CODES):
        assert discount_code_store.get_by_code(typed) is None
        for call in calls:
            with pytest.raises(NotFoundError, match="no discount code") as refusal:
                call(typed)
            assert refusal.value.code is Code.UNKNOWN
            assert refusal.value.message.isprintable()
    assert dump(db) == before


def test_validate_answers_a_code_that_an_order_could_take(db: Database, account: int) -> None:
    made = discount_code_store.create("SAVE10", "percent", 10, max_uses=1)
    before = dump(db)

    assert discount_code_store.validate("SAVE10") == made
    assert discount_code_store.validate("SAVE10", amount_cents=500, account_id=account) == made
    assert dump(db) == before


def test_validate_refuses_with_one_reason(db: Database, account: int) -> None:
    discount_code_store.create("USED-UP", "percent", 10, max_uses=1)
    discount_code_store.increment_uses("USED-UP")
    discount_code_store.create("IDLE", "percent", 10)
    discount_code_store.set_active("IDLE", active=False)
    discount_code_store.create("GOOD", "percent", 10)

    with refused(db, RefusedError, Code.USED_UP, "discount code USED-UP is used up"):
        discount_code_store.validate("used-up")
    with refused(db, RefusedError, Code.INACTIVE, "discount code IDLE is inactive"):
        discount_code_store.validate("idle")
    with refused(db, NotFoundError, Code.NOT_FOUND, "no account 99"):
        discount_code_store.validate("GOOD", account_id=account + 98)


def test_a_code_that_is_inactive_and_used_up_is_inactive(db: Database) -> None:
    discount_code_store.create("OLD", "percent", 10, max_uses=1)
    discount_code_store.increment_uses("OLD")
    discount_code_store.set_active("OLD", active=False)

    with refused(db, RefusedError, Code.INACTIVE, "discount code OLD is inactive"):
        discount_code_store.increment_uses("OLD")


def test_an_inactive_code_is_taken_by_nobody(db: Database, account: int) -> None:
    discount_code_store.create("IDLE", "percent", 10, max_uses=1)
    discount_code_store.set_active("IDLE", active=False)
    order = order_store.create(account, "top_up", 500)

    with refused(db, RefusedError, Code.INACTIVE, "discount code IDLE is inactive"):
        discount_code_store.increment_uses("IDLE")
    with refused(db, RefusedError, Code.INACTIVE, "discount code IDLE is inactive"):
        discount_code_store.increment_uses("IDLE", order_id=order.id)
    with refused(db, RefusedError, Code.INACTIVE, "discount code IDLE is inactive"):
        order_store.create(account, "top_up", 500, code="IDLE")


def test_uses_reach_their_limit_and_never_pass_it(db: Database) -> None:
    discount_code_store.create("THREE", "percent", 10, max_uses=3)

    assert [discount_code_store.increment_uses("THREE").current_uses for _ in range(3)] == [1, 2, 3]
    with refused(db, RefusedError, Code.USED_UP, "discount code THREE is used up"):
        discount_code_store.increment_uses("THREE")


@pytest.mark.usefixtures("db")
def test_a_code_without_a_limit_is_never_used_up() -> None:
    discount_code_store.create("ALWAYS", "percent", 10)

    assert [discount_code_store.increment_uses("ALWAYS").current_uses for _ in range(5)][-1] == 5


def test_an_order_takes_a_use_once(db: Database, account: int) -> None:
    code = discount_code_store.create("SAVE10", "percent", 10, max_uses=1)
    order = order_store.create(account, "top_up", 500)

    first = discount_code_store.increment_uses("SAVE10", order_id=order.id)
    before = dump(db)
    again = discount_code_store.increment_uses("save10", order_id=order.id)

    assert (first.current_uses, again) == (1, first)
    assert dump(db) == before
    held = order_now(order.id)
    assert (held.discount_code_id, held.amount_cents) == (code.id, 500)
    assert redemptions("SAVE10") == [(order.id, "reserved")]


def test_an_order_created_with_a_code_holds_its_use_already(db: Database, account: int) -> None:
    discount_code_store.create("SAVE10", "percent", 10, max_uses=1)
    order = order_store.create(account, "top_up", 500, code="SAVE10")
    before = dump(db)

    assert discount_code_store.increment_uses("SAVE10", order_id=order.id).current_uses == 1
    assert dump(db) == before


def test_an_inactive_code_stays_with_the_order_that_holds_it(account: int) -> None:
    discount_code_store.create("SAVE10", "percent", 10)
    order = order_store.create(account, "top_up", 500, code="SAVE10")
    discount_code_store.set_active("SAVE10", active=False)

    assert discount_code_store.increment_uses("SAVE10", order_id=order.id).current_uses == 1
    assert order_store.complete(order.id).status == "completed"
    assert uses("SAVE10") == 1


def test_an_order_holds_one_code(db: Database, account: int) -> None:
    discount_code_store.create("SAVE10", "percent", 10)
    discount_code_store.create("SAVE20", "percent", 20)
    order = order_store.create(account, "top_up", 500, code="SAVE10")

    message = f"order {order.id} has another discount code than SAVE20"
    with refused(db, ConflictError, Code.CONFLICT, message):
        discount_code_store.increment_uses("SAVE20", order_id=order.id)


def test_a_failed_order_takes_no_use(db: Database, account: int) -> None:
    discount_code_store.create("SAVE10", "percent", 10)
    bare = order_store.fail(order_store.create(account, "top_up", 500).id)
    held = order_store.fail(order_store.create(account, "top_up", 500, code="SAVE10").id)

    for order in (bare, held):
        message = f"order {order.id} has failed: it holds no use of a code"
        with refused(db, ConflictError, Code.CONFLICT, message):
            discount_code_store.increment_uses("SAVE10", order_id=order.id)


def test_an_order_whose_use_was_never_written_down_neither_gives_nor_takes_one(
    db: Database, account: int
) -> None:
    discount_code_store.create("SAVE10", "percent", 10)
    discount_code_store.increment_uses("SAVE10")
    order = order_store.create(account, "top_up", 500)
    run(db, "UPDATE orders SET discount_code_id = 1")

    failed = order_store.fail(order.id)
    assert (failed.status, failed.discount_code_id, uses("SAVE10")) == ("failed", 1, 1)
    paid = order_store.complete(order.id, payment_intent_id="pi_1")

    assert (paid.status, uses("SAVE10")) == ("completed", 1)
    assert miscounted(db) == []


def test_an_order_that_is_not_there_takes_no_use(db: Database) -> None:
    discount_code_store.create("SAVE10", "percent", 10)

    with refused(db, NotFoundError, Code.NOT_FOUND, "no order 7"):
        discount_code_store.increment_uses("SAVE10", order_id=7)


def test_a_used_up_code_is_not_taken_by_another_order(db: Database, account: int) -> None:
    discount_code_store.create("ONE", "percent", 10, max_uses=1)
    order_store.create(account, "top_up", 500, code="ONE")
    other = order_store.create(account, "top_up", 500)

    with refused(db, RefusedError, Code.USED_UP, "discount code ONE is used up"):
        discount_code_store.increment_uses("ONE", order_id=other.id)
    with refused(db, RefusedError, Code.USED_UP, "discount code ONE is used up"):
        order_store.create(account, "top_up", 500, code="ONE")


def test_a_code_is_switched_off_and_on(db: Database) -> None:
    made = discount_code_store.create("SAVE10", "percent", 10)

    off = discount_code_store.set_active("SAVE10", active=False)
    before = dump(db)
    again = discount_code_store.set_active("SAVE10", active=False)
    unchanged = dump(db)
    on = discount_code_store.set_active("SAVE10", active=True)

    assert (off.active, again, unchanged) == (False, off, before)
    assert on == made


def test_an_order_costs_its_amount_less_the_reduction(account: int) -> None:
    for number, (kind, value, amount_cents, charged_cents) in enumerate(
        [
            ("percent", 15, 999, 849),
            ("percent", 1, 51, 50),
            ("percent", 10, 505, 454),
            ("percent", 10, 504, 454),
            ("percent", 50, 1, 0),
            ("percent", 100, 12_345, 0),
            ("percent", 99, MAX_AMOUNT_CENTS, 1_000_000),
            ("fixed", 1, 999, 998),
            ("fixed", 949, 999, 50),
            ("fixed", 999, 999, 0),
            ("fixed", 1_000, 999, 0),
            ("fixed", MAX_AMOUNT_CENTS, 1, 0),
        ]
    ):
        code = discount_code_store.create(f"CODE-{number}", kind, value).code

        order = order_store.create(account, "top_up", amount_cents, code=code)

        assert (order.amount_cents, order.credit_cents) == (charged_cents, amount_cents)
        [redemption] = discount_code_store.redemptions(code).items
        assert redemption.reduction_cents == amount_cents - charged_cents
        assert (redemption.order_id, redemption.account_id) == (order.id, account)


def test_15_per_cent_of_9_99_are_1_50() -> None:
    assert reduction_cents(a_code(DiscountType.PERCENT, 15), 999) == 150


@given(
    kind=st.sampled_from(DiscountType),
    value=st.integers(1, 100),
    amount_cents=st.integers(1, MAX_AMOUNT_CENTS),
)
def test_a_reduction_is_never_more_than_the_amount(
    kind: DiscountType, value: int, amount_cents: int
) -> None:
    assert 0 <= reduction_cents(a_code(kind, value), amount_cents) <= amount_cents


def a_code(kind: DiscountType, value: int) -> DiscountCode:
    return DiscountCode(
        id=1,
        code="CODE",
        discount_type=kind,
        discount_value=value,
        max_uses=None,
        current_uses=0,
        active=True,
        stripe_coupon_id=None,
        created_at=datetime.now(UTC),
    )
