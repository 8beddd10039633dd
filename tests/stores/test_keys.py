"""A key makes a call happen once: whoever asks again, however often, gets the first answer."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from books import lines, order as order_now, redemptions, uses
from databases import Database
from probes import dump, refused, rows, together, unbalanced
from races import Refusal, answer_of, meet
from selling import sell_at, stands_at

from tbpay.database import atomically, unit_of_work
from tbpay.errors import Code, ConflictError, RefusedError, UnavailableError
from tbpay.stores import account_store, balance_store, discount_code_store, order_store

KEY, OTHER = "key-0001", "key-0002"


class UndoneError(Exception):
    pass


@pytest.fixture
def other(account: int) -> int:
    """A second account, with something to spend as the first."""
    made = account_store.create("bob@example.org").id
    for owner in (account, made):
        balance_store.add_credits(owner, 1_000, "a gift")
    return made


@pytest.mark.parametrize("kind", ["credit", "debit", "refund"])
def test_the_same_call_with_its_key_again_answers_the_first_line(
    db: Database, account: int, other: int, kind: str
) -> None:
    assert other
    order = order_store.create(account, "top_up", 300).id
    first = balance_store.record_transaction(account, kind, 300, "once", order_id=order, key=KEY)
    balance_store.deduct(account, 200, "meanwhile")
    before = dump(db)

    for description, may_owe in (("once", False), ("in other words", True)):
        again = balance_store.record_transaction(
            account, kind, 300, description, order_id=order, key=KEY, allow_negative=may_owe
        )
        assert again == replace(first, replayed=True)

    assert (first.idempotency_key, first.replayed) == (KEY, False)
    assert dump(db) == before
    assert balance_store.history(account).items[1] == first


def test_a_key_that_was_used_for_something_else_is_a_conflict(
    db: Database, account: int, other: int
) -> None:
    order = order_store.create(account, "top_up", 300).id
    balance_store.add_credits(account, 300, "once", key=KEY)
    balance_store.deduct(account, 300, "once", order_id=order, key=OTHER)

    for owner, kind, cents, of in (
        (account, "credit", 301, None),
        (account, "debit", 300, None),
        (account, "refund", 300, None),
        (account, "credit", 300, order),
        (other, "credit", 300, None),
    ):
        message = "the key 'key-0001' was used for something else: a credit of 3.00, account 1"
        with refused(db, ConflictError, Code.KEY_REUSED, message):
            balance_store.record_transaction(owner, kind, cents, "once", order_id=of, key=KEY)
    message = "the key 'key-0002' was used for something else: a debit of 3.00, account 1"
    with refused(db, ConflictError, Code.KEY_REUSED, message):
        balance_store.deduct(account, 300, "once", key=OTHER)


def test_a_refused_call_leaves_its_key_free(db: Database, account: int, other: int) -> None:
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE):
        balance_store.deduct(account, 1_001, "too much", key=KEY)
    order = order_store.create(other, "top_up", 300).id
    with refused(db, ConflictError, Code.CONFLICT):
        balance_store.add_credits(account, 300, "of another", order_id=order, key=KEY)
    order_store.fail(order)

    assert balance_store.add_credits(other, 7, "a gift", key=KEY).replayed is False


def test_a_replay_is_answered_even_where_the_call_would_be_refused_now(
    db: Database, account: int, other: int
) -> None:
    assert other
    order = order_store.create(account, "top_up", 300).id
    first = balance_store.deduct(account, 1_000, "all of it", key=KEY)
    credit = balance_store.add_credits(account, 300, "by hand", order_id=order, key=OTHER)
    order_store.complete(order)
    order_store.refund(order)
    before = dump(db)

    again = balance_store.deduct(account, 1_000, "all of it", key=KEY)
    credited = balance_store.add_credits(account, 300, "by hand", order_id=order, key=OTHER)

    assert again == replace(first, replayed=True)
    assert credited == replace(credit, replayed=True)
    assert dump(db) == before


def test_a_credit_that_an_order_has_already_takes_no_key(account: int) -> None:
    order = order_store.create(account, "top_up", 300).id
    order_store.complete(order)

    repeated = balance_store.add_credits(account, 300, "again", order_id=order, key=KEY)

    assert (repeated.replayed, repeated.idempotency_key) == (True, None)
    assert balance_store.add_credits(account, 7, "a gift", key=KEY).replayed is False


def test_lines_orders_and_refunds_have_keys_of_their_own(db: Database, account: int) -> None:
    credit = balance_store.add_credits(account, 500, "a gift", key=KEY)
    order = order_store.complete(order_store.create(account, "top_up", 500, key=KEY).id)
    _, refund = order_store.record_refund(order.id, key=KEY)

    assert credit.idempotency_key == order.idempotency_key == refund.idempotency_key == KEY
    assert (credit.replayed, refund.replayed) == (False, False)
    tables = ("transactions", "orders", "order_refunds")
    for table in tables:
        sql = f"SELECT count(*), min(length(idempotency_hash)) FROM {table}"
        assert rows(db, f"{sql} WHERE idempotency_key = '{KEY}'") == [(1, 64)]


def test_a_charge_with_its_key_again_answers_the_first_whatever_it_would_cost_now(
    db: Database, rich: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = balance_store.charge_sms(rich, "+447400123456", segments=2, key=KEY)
    balance_store.deduct(rich, first.balance_after_cents, "all of it")
    before = dump(db)

    def again(**asked: Any) -> Any:
        return balance_store.charge_sms(rich, "+447400123456", key=KEY, **asked)

    answers = [again(segments=2), again(text="x" * 161), again(segments=2, fallback=True)]
    answers.append(balance_store.charge_sms(rich, "+447400123556", segments=2, key=KEY))
    for rates in (["US,1,", "GB,1,"], ["US,1,"], ["US,1,", "GB,9000,"]):
        sell_at(monkeypatch, tmp_path, *rates)
        answers.append(again(segments=2))

    assert answers == [replace(first, replayed=True)] * 7
    assert dump(db) == before


def test_a_key_that_charged_something_else_is_a_conflict(
    db: Database, account: int, other: int
) -> None:
    us, gb = "+12015550123", "+447400123456"
    balance_store.charge_sms(account, us, segments=2, key=KEY)
    balance_store.deduct(account, 12, "SMS to +1…23", key=OTHER)

    for owner, phone, segments in (
        (other, us, 2),
        (account, us, 1),
        (account, "+12015550124", 2),
        # Masked they are the same, and the country is another.
        (account, "+14162345623", 2),
        (account, gb, 2),
    ):
        message = "the key 'key-0001' was used for something else: a debit of 0.113, account 1"
        with refused(db, ConflictError, Code.KEY_REUSED, message):
            balance_store.charge_sms(owner, phone, segments=segments, key=KEY)
    with refused(db, ConflictError, Code.KEY_REUSED, message):
        balance_store.deduct(account, 12, "SMS to +1…23", key=KEY)
    message = "the key 'key-0002' was used for something else: a debit of 0.12, account 1"
    with refused(db, ConflictError, Code.KEY_REUSED, message):
        balance_store.charge_sms(account, us, segments=2, key=OTHER)


def test_a_refused_charge_leaves_its_key_free(db: Database, account: int, other: int) -> None:
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE):
        balance_store.charge_sms(account, "+12015550123", segments=177, key=KEY)
    with refused(db, RefusedError, Code.UNPRICED):
        balance_store.charge_sms(account, "+4915123456789", key=KEY)

    assert balance_store.charge_sms(other, "+447400123456", key=KEY).replayed is False


def test_an_order_with_its_key_again_is_the_order_as_it_stands(db: Database, account: int) -> None:
    discount_code_store.create("ONE", "percent", 10, max_uses=1, per_account=1)
    first = order_store.create(account, "top_up", 500, code="ONE", key=KEY)
    order_store.complete(first.id, payment_intent_id="pi_1")
    discount_code_store.set_active("ONE", active=False)
    before = dump(db)

    again = order_store.create(account, "top_up", 500, code=" one ", key=KEY)
    with_session = order_store.create(
        account, "top_up", 500, code="ONE", stripe_session_id="cs_1", key=KEY
    )

    assert again == with_session == order_now(first.id)
    assert again.status == "completed"
    assert dump(db) == before
    assert uses("ONE") == 1


def test_a_key_that_made_another_order_is_a_conflict(
    db: Database, account: int, other: int
) -> None:
    discount_code_store.create("SAVE10", "percent", 10)
    first = order_store.create(account, "top_up", 500, key=KEY)

    for owner, kind, cents, code in (
        (account, "top_up", 501, None),
        (account, "initial_access", 500, None),
        (account, "top_up", 500, "SAVE10"),
        (other, "top_up", 500, None),
    ):
        message = f"the key 'key-0001' was used for something else: order {first.id}"
        with refused(db, ConflictError, Code.KEY_REUSED, message):
            order_store.create(owner, kind, cents, code=code, key=KEY)
    assert uses("SAVE10") == 0


def test_a_refused_order_leaves_its_key_free(db: Database, account: int) -> None:
    discount_code_store.create("GONE", "percent", 10, max_uses=1)
    discount_code_store.increment_uses("GONE")
    order_store.create(account, "top_up", 500, stripe_session_id="cs_1")

    with refused(db, RefusedError, Code.USED_UP):
        order_store.create(account, "top_up", 500, code="GONE", key=KEY)
    with refused(db, ConflictError, Code.CONFLICT):
        order_store.create(account, "top_up", 500, stripe_session_id="cs_1", key=KEY)

    made, replayed = order_store.create_or_replay(account, "initial_access", 700, key=KEY)
    assert replayed is False
    assert order_store.create_or_replay(account, "initial_access", 700, key=KEY) == (made, True)


def test_a_refund_with_its_key_again_answers_the_first(db: Database, account: int) -> None:
    order = order_store.complete(order_store.create(account, "top_up", 500).id).id
    refunded, first = order_store.record_refund(
        order, amount_cents=200, stripe_refund_id="re_1", key=KEY
    )
    before = dump(db)

    again = order_store.record_refund(order, amount_cents=200, reason="other words", key=KEY)
    with_both = order_store.record_refund(order, amount_cents=200, stripe_refund_id="re_1", key=KEY)

    assert again == with_both == (refunded, replace(first, replayed=True))
    with refused(db, ConflictError, Code.KEY_REUSED):
        order_store.refund(order, amount_cents=200, stripe_refund_id="re_2", key=KEY)
    assert dump(db) == before
    order_store.refund(order)
    assert order_store.record_refund(order, amount_cents=200, key=KEY)[1] == again[1]


def test_a_key_that_made_another_refund_is_a_conflict(db: Database, account: int) -> None:
    orders = [
        order_store.complete(order_store.create(account, "top_up", 500).id).id for _ in range(2)
    ]
    order_store.refund(orders[0], amount_cents=200, key=KEY)

    for order, cents, policy in (
        (orders[0], 201, "refuse"),
        (orders[0], None, "refuse"),
        (orders[0], 200, "negative"),
        (orders[1], 200, "refuse"),
    ):
        message = (
            f"the key 'key-0001' was used for something else: a refund of 2.00, order {orders[0]}"
        )
        with refused(db, ConflictError, Code.KEY_REUSED, message):
            order_store.refund(order, amount_cents=cents, policy=policy, key=KEY)


def test_a_refused_refund_leaves_its_key_free(db: Database, account: int) -> None:
    order = order_store.complete(order_store.create(account, "top_up", 500).id).id

    with refused(db, RefusedError, Code.REFUSED):
        order_store.refund(order, amount_cents=501, key=KEY)

    assert order_store.record_refund(order, key=KEY)[1].replayed is False


def test_in_a_unit_a_key_works_as_it_does_outside(db: Database, account: int, other: int) -> None:
    with suppress(UndoneError), unit_of_work():
        balance_store.add_credits(account, 5, "taken back", key=KEY)
        raise UndoneError

    with unit_of_work():
        first = balance_store.add_credits(account, 5, "once", key=KEY)
        again = balance_store.add_credits(account, 5, "once", key=KEY)
        with pytest.raises(ConflictError) as refusal:
            balance_store.add_credits(other, 5, "once", key=KEY)
        balance_store.add_credits(other, 7, "after that")

    assert first.replayed is False
    assert again == replace(first, replayed=True)
    assert refusal.value.code is Code.KEY_REUSED
    assert balance_store.get_balance(account) == 1_005
    assert balance_store.get_balance(other) == 1_007
    assert unbalanced(db) == []


# What comes at the same moment.


def test_of_two_calls_with_one_key_the_second_waits_and_answers_the_first_ones_line(
    db: Database, account: int
) -> None:
    """Not even the balance is there yet."""

    def credit() -> Any:
        return balance_store.add_credits(account, 5, "once", key=KEY)

    first, second = meet(db, credit, credit)

    assert first.replayed is False
    assert second == replace(first, replayed=True)
    assert lines(account) == [("credit", 5, None, "once")]
    assert unbalanced(db) == []


def in_a_unit(call: Callable[[], Any], besides: Callable[[], Any]) -> Any:
    """Do the call in a unit that goes on whatever comes of it."""

    def both() -> Any:
        answer = answer_of(call)
        besides()
        return answer

    return atomically(both)


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a unit"])
def test_a_key_that_another_account_uses_at_the_same_moment_is_a_conflict(
    db: Database, account: int, other: int, *, inside: bool
) -> None:
    def credit(owner: int) -> Any:
        return balance_store.add_credits(owner, 5, "once", key=KEY)

    def second() -> Any:
        if not inside:
            return credit(other)
        return in_a_unit(
            lambda: credit(other), lambda: balance_store.add_credits(other, 7, "after that")
        )

    first, refusal = meet(db, lambda: credit(account), second)

    assert first.replayed is False
    assert refusal == Refusal(
        "ConflictError",
        Code.KEY_REUSED,
        f"the key 'key-0001' was used for something else: a credit of 0.05, account {account}",
    )
    assert balance_store.get_balance(account) == 1_005
    assert balance_store.get_balance(other) == (1_007 if inside else 1_000)
    assert unbalanced(db) == []


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a unit"])
@pytest.mark.parametrize("code", [None, "ONE"])
def test_two_calls_with_one_key_make_one_order(
    db: Database, account: int, code: str | None, *, inside: bool
) -> None:
    discount_code_store.create("ONE", "percent", 10, max_uses=1)

    def buy() -> Any:
        return order_store.create(account, "top_up", 500, code=code, key=KEY)

    def second() -> Any:
        return in_a_unit(buy, lambda: order_store.create(account, "top_up", 900))

    first, again = meet(db, buy, second if inside else buy)

    assert again == first
    made = [order.amount_cents for order in order_store.get_by_account_id(account)]
    assert made == ([900] if inside else []) + [first.amount_cents]
    assert redemptions("ONE") == ([(first.id, "reserved")] if code else [])


def test_an_order_for_the_last_share_of_an_account_is_made_once_by_its_key(
    db: Database, account: int
) -> None:
    discount_code_store.create("ONCE-EACH", "percent", 10, per_account=1)

    def buy() -> Any:
        return order_store.create(account, "top_up", 500, code="ONCE-EACH", key=KEY)

    first, again = meet(db, buy, buy)

    assert again == first
    assert uses("ONCE-EACH") == 1


def test_a_key_that_makes_two_orders_at_the_same_moment_makes_one(
    db: Database, account: int, other: int
) -> None:
    discount_code_store.create("TWO", "percent", 10, max_uses=2)

    first, refusal = meet(
        db,
        lambda: order_store.create(account, "top_up", 500, code="TWO", key=KEY),
        lambda: order_store.create(other, "top_up", 500, key=KEY),
    )

    message = f"the key 'key-0001' was used for something else: order {first.id}"
    assert refusal == Refusal("ConflictError", Code.KEY_REUSED, message)
    assert order_store.get_by_account_id(other) == []


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a unit"])
@pytest.mark.parametrize("by", ["key", "stripe_refund_id"])
def test_two_refunds_with_one_name_are_one(
    db: Database, account: int, by: str, *, inside: bool
) -> None:
    mine, others = (
        order_store.complete(order_store.create(account, "top_up", 500).id).id for _ in range(2)
    )
    name: dict[str, Any] = {by: "name-0001"}

    def refund(order: int) -> Any:
        return order_store.record_refund(order, amount_cents=100, **name)[1]

    def second() -> Any:
        if not inside:
            return refund(others)
        return in_a_unit(
            lambda: refund(others), lambda: balance_store.add_credits(account, 7, "after that")
        )

    first, again = meet(db, lambda: refund(mine), lambda: refund(mine))
    assert (first.replayed, again) == (False, replace(first, replayed=True))
    name = {by: "name-0002"}
    first, refusal = meet(db, lambda: refund(mine), second)

    assert first.replayed is False
    assert refusal.kind == "ConflictError"
    assert refusal.code is (Code.KEY_REUSED if by == "key" else Code.CONFLICT)
    assert order_store.refunds(others) == []
    assert balance_store.get_balance(account) == 800 + (7 if inside else 0)
    assert unbalanced(db) == []


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_a_view_in_which_a_key_is_not_used_yet_cannot_use_it_either(
    db: Database, account: int, other: int
) -> None:
    engine = db.engine(isolation_level="REPEATABLE READ")
    with engine.connect() as application, application.begin():
        with unit_of_work(application):
            balance_store.get_balance(account)
        together(lambda _: balance_store.add_credits(account, 5, "once", key=KEY), processes=1)

        for owner in (account, other):
            with pytest.raises(UnavailableError) as refusal, unit_of_work(application):
                balance_store.add_credits(owner, 5, "once", key=KEY)
            assert refusal.value.code is Code.BUSY
    engine.dispose()

    assert balance_store.get_balance(account) == 1_005
    assert balance_store.get_balance(other) == 1_000


def test_a_message_is_charged_once_by_its_key_however_many_send_it(
    db: Database, account: int, other: int
) -> None:
    assert other
    texts = ["x" * 160, "x" * 161]

    def send(process: int) -> list[Any]:
        phone = f"+44740012{process}456"
        return [
            balance_store.charge_sms(account, phone, text=text, key=f"message {len(text)}")
            for text in texts
        ]

    for of_one in zip(*together(send), strict=True):
        [first] = [line for line in of_one if not line.replayed]
        assert [replace(line, replayed=False) for line in of_one] == [first] * 8
    assert stands_at(account) == (1_000 - 79, 4_000)
    assert unbalanced(db) == []


def test_a_key_is_used_once_by_however_many(db: Database, account: int, other: int) -> None:
    """Of twenty keys every fifth comes with another amount, and every fifth for another account."""

    def credit(number: int, *, odd: bool) -> Any:
        cents = 3 if odd and number % 5 == 1 else 2
        owner = other if odd and number % 5 == 2 else account
        return balance_store.add_credits(owner, cents, "once", key=f"key-{number:04}")

    def ask(process: int) -> list[Any]:
        return [answer_of(partial(credit, number, odd=process % 2 == 1)) for number in range(20)]

    answers = together(ask)

    executed = "SELECT id, idempotency_key FROM transactions WHERE idempotency_key IS NOT NULL"
    made = {key: line for line, key in rows(db, executed)}
    assert len(made) == 20
    for number, given in enumerate(zip(*answers, strict=True)):
        line = made[f"key-{number:04}"]
        wrong = [answer for answer in given if isinstance(answer, Refusal)]
        right = [answer for answer in given if answer not in wrong and answer.id == line]
        assert len(right) + len(wrong) == 8
        assert len(right) == (4 if number % 5 in (1, 2) else 8)
        assert {answer.code for answer in wrong} <= {Code.KEY_REUSED}
    assert unbalanced(db) == []
