"""What goes into the stores is of exactly its type and within its range, or is refused unwritten.

Everything here is refused before a statement is sent: the two databases would answer differently.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from databases import Database
from probes import dump, label, rows

from tbpay import database
from tbpay.errors import InvalidInputError
from tbpay.models import MAX_AMOUNT_CENTS, MAX_ID, MAX_LIMIT, MAX_USES
from tbpay.stores import (
    account_store,
    audit_store,
    balance_store,
    discount_code_store,
    order_store,
)


class Seven(IntEnum):
    SEVEN = 7


class Int(int):
    pass


Call = Callable[[Any], object]

# Every argument that is an int, by the range it has.
IDS: dict[str, Call] = {
    "accounts.get_by_id": lambda it: account_store.get_by_id(it),
    "accounts.set_stripe_customer": lambda it: account_store.set_stripe_customer(it, "cus_1"),
    "balances.get_or_create": lambda it: balance_store.get_or_create(it),
    "balances.get_balance": lambda it: balance_store.get_balance(it),
    "balances.add_credits": lambda it: balance_store.add_credits(it, 5, "a"),
    "balances.add_credits order": lambda it: balance_store.add_credits(1, 5, "a", order_id=it),
    "balances.deduct": lambda it: balance_store.deduct(it, 5, "a"),
    "balances.deduct order": lambda it: balance_store.deduct(1, 5, "a", order_id=it),
    "balances.record_transaction": lambda it: balance_store.record_transaction(
        it, "refund", 5, "a"
    ),
    "balances.record_transaction order": lambda it: balance_store.record_transaction(
        1, "refund", 5, "a", order_id=it
    ),
    "balances.history": lambda it: balance_store.history(it),
    "balances.find": lambda it: balance_store.find(account_ids=[1, it]),
    "discounts.increment_uses order": lambda it: discount_code_store.increment_uses(
        "SAVE10", order_id=it
    ),
    "discounts.validate account": lambda it: discount_code_store.validate("SAVE10", account_id=it),
    "orders.create": lambda it: order_store.create(it, "top_up", 500),
    "orders.get_by_id": lambda it: order_store.get_by_id(it),
    "orders.get_by_account_id": lambda it: order_store.get_by_account_id(it),
    "orders.attach_session": lambda it: order_store.attach_session(it, "cs_1"),
    "orders.complete": lambda it: order_store.complete(it),
    "orders.fail": lambda it: order_store.fail(it),
    "orders.refund": lambda it: order_store.refund(it),
    "orders.record_refund": lambda it: order_store.record_refund(it),
    "orders.refunds": lambda it: order_store.refunds(it),
    "orders.update_status": lambda it: order_store.update_status(it, "failed"),
    "orders.find account": lambda it: order_store.find(account_id=it),
}
AMOUNTS: dict[str, Call] = {
    "balances.add_credits": lambda it: balance_store.add_credits(1, it, "a"),
    "balances.deduct": lambda it: balance_store.deduct(1, it, "a", allow_negative=True),
    "balances.record_transaction": lambda it: balance_store.record_transaction(
        1, "refund", it, "a", allow_negative=True
    ),
    "discounts.create fixed": lambda it: discount_code_store.create("NEW", "fixed", it),
    "discounts.create min_amount": lambda it: discount_code_store.create(
        "NEW", "fixed", 5, min_amount_cents=it
    ),
    "discounts.update min_amount": lambda it: discount_code_store.update(
        "SAVE10", min_amount_cents=it
    ),
    "discounts.validate": lambda it: discount_code_store.validate("GIFT", amount_cents=it),
    "orders.create": lambda it: order_store.create(1, "top_up", it),
    "orders.refund amount": lambda it: order_store.refund(2, amount_cents=it),
}
PERCENTS: dict[str, Call] = {
    "discounts.create percent": lambda it: discount_code_store.create("NEW", "percent", it),
}
USES: dict[str, Call] = {
    "discounts.create max_uses": lambda it: discount_code_store.create(
        "NEW", "fixed", 5, max_uses=it
    ),
    "discounts.create per_account": lambda it: discount_code_store.create(
        "NEW", "fixed", 5, per_account=it
    ),
    "discounts.update max_uses": lambda it: discount_code_store.update("SAVE10", max_uses=it),
    "discounts.update per_account": lambda it: discount_code_store.update("SAVE10", per_account=it),
}
LIMITS: dict[str, Call] = {
    "accounts.find limit": lambda it: account_store.find(limit=it),
    "balances.find limit": lambda it: balance_store.find(limit=it),
    "balances.history limit": lambda it: balance_store.history(1, limit=it),
    "discounts.find limit": lambda it: discount_code_store.find(limit=it),
    "discounts.redemptions limit": lambda it: discount_code_store.redemptions("SAVE10", limit=it),
    "orders.find limit": lambda it: order_store.find(limit=it),
    "audit.find limit": lambda it: audit_store.find(limit=it),
}
BELOW: dict[str, Call] = {
    "accounts.find below": lambda it: account_store.find(below_cents=it),
    "balances.find below": lambda it: balance_store.find(below_cents=it),
}
RANGES: list[tuple[dict[str, Call], int, int]] = [
    (IDS, 1, MAX_ID),
    (AMOUNTS, 1, MAX_AMOUNT_CENTS),
    (PERCENTS, 1, 100),
    (USES, 1, MAX_USES),
    (LIMITS, 1, MAX_LIMIT),
    (BELOW, 0, MAX_AMOUNT_CENTS),
]
# For these None says that there is no number.
OPTIONAL = (
    *(" order", " account", " limit", " below", " amount", " max_uses", " per_account"),
    *(" min_amount", "discounts.validate"),
)

TEXTS: dict[str, Call] = {
    "accounts.get_by_email": lambda it: account_store.get_by_email(it),
    "accounts.find search": lambda it: account_store.find(search=it),
    "balances.add_credits": lambda it: balance_store.add_credits(1, 5, it),
    "balances.deduct": lambda it: balance_store.deduct(1, 5, it, allow_negative=True),
    "balances.record_transaction": lambda it: balance_store.record_transaction(1, "credit", 5, it),
    "orders.refund reason": lambda it: order_store.refund(2, amount_cents=1, reason=it),
    "audit.record subject": lambda it: audit_store.record("order fail", it),
    "audit.record reason": lambda it: audit_store.record("order fail", "order 1", reason=it),
    "audit.find actor": lambda it: audit_store.find(actor=it),
    "audit.find subject": lambda it: audit_store.find(subject=it),
}
STRIPE_IDS: dict[str, Call] = {
    "accounts.set_stripe_customer": lambda it: account_store.set_stripe_customer(1, it),
    "discounts.create coupon": lambda it: discount_code_store.create(
        "NEW", "fixed", 5, stripe_coupon_id=it
    ),
    "orders.create session": lambda it: order_store.create(1, "top_up", 500, stripe_session_id=it),
    "orders.create intent": lambda it: order_store.create(
        1, "top_up", 500, stripe_payment_intent_id=it
    ),
    "orders.get_by_stripe_session": lambda it: order_store.get_by_stripe_session(it),
    "orders.attach_session": lambda it: order_store.attach_session(1, it),
    "orders.complete intent": lambda it: order_store.complete(1, payment_intent_id=it),
    "orders.update_status intent": lambda it: order_store.update_status(
        1, "failed", stripe_payment_intent_id=it
    ),
    "orders.refund stripe refund": lambda it: order_store.refund(
        2, amount_cents=1, stripe_refund_id=it
    ),
    "orders.find intent": lambda it: order_store.find(payment_intent_id=it),
}
KEYS: dict[str, Call] = {
    "balances.add_credits": lambda it: balance_store.add_credits(1, 5, "a", key=it),
    "balances.deduct": lambda it: balance_store.deduct(1, 5, "a", key=it),
    "balances.record_transaction": lambda it: balance_store.record_transaction(
        1, "refund", 5, "a", key=it
    ),
    "orders.create": lambda it: order_store.create(1, "top_up", 500, key=it),
    "orders.refund": lambda it: order_store.refund(2, amount_cents=1, key=it),
    "orders.record_refund": lambda it: order_store.record_refund(2, amount_cents=1, key=it),
}
CODES: dict[str, Call] = {
    "discounts.create": lambda it: discount_code_store.create(it, "fixed", 5),
    "discounts.get_by_code": lambda it: discount_code_store.get_by_code(it),
    "discounts.increment_uses": lambda it: discount_code_store.increment_uses(it),
    "discounts.validate": lambda it: discount_code_store.validate(it),
    "discounts.set_active": lambda it: discount_code_store.set_active(it, active=False),
    "discounts.update": lambda it: discount_code_store.update(it, max_uses=1),
    "discounts.redemptions": lambda it: discount_code_store.redemptions(it),
    "orders.create code": lambda it: order_store.create(1, "top_up", 500, code=it),
}
WORDS: dict[str, Call] = {
    "balances.record_transaction": lambda it: balance_store.record_transaction(1, it, 5, "a"),
    "discounts.create": lambda it: discount_code_store.create("NEW", it, 5),
    "orders.create": lambda it: order_store.create(1, it, 500),
    "orders.update_status": lambda it: order_store.update_status(1, it),
    "orders.refund": lambda it: order_store.refund(2, policy=it),
    "orders.find status": lambda it: order_store.find(status=it),
    "orders.find type": lambda it: order_store.find(order_type=it),
}
FLAGS: dict[str, Call] = {
    "balances.deduct": lambda it: balance_store.deduct(1, 5, "a", allow_negative=it),
    "balances.record_transaction": lambda it: balance_store.record_transaction(
        1, "debit", 5, "a", allow_negative=it
    ),
    "discounts.set_active": lambda it: discount_code_store.set_active("SAVE10", it),
}
TIMES: dict[str, Call] = {
    "discounts.create starts": lambda it: discount_code_store.create(
        "NEW", "fixed", 5, starts_at=it
    ),
    "discounts.create ends": lambda it: discount_code_store.create("NEW", "fixed", 5, ends_at=it),
    "discounts.update ends": lambda it: discount_code_store.update("SAVE10", ends_at=it),
    "orders.find since": lambda it: order_store.find(since=it),
    "orders.find until": lambda it: order_store.find(until=it),
    "audit.find since": lambda it: audit_store.find(since=it),
}


# What is refused before a statement is sent, one database refuses as the other does.
never_sent = pytest.mark.parametrize("dialect", ["sqlite"])


def cases(calls: dict[str, Call]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", calls.values(), ids=calls)


def within(ranges: list[tuple[dict[str, Call], int, int]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("call", "lowest", "highest"),
        [
            pytest.param(call, lowest, highest, id=name)
            for calls, lowest, highest in ranges
            for name, call in calls.items()
        ],
    )


@pytest.fixture
def filled(filled_by: Callable[[Callable[[], None]], Database]) -> Database:
    """An account with orders, codes and a balance, so that only the argument is wrong."""
    return filled_by(fill)


def fill() -> None:
    account_store.create("ann@example.org")
    discount_code_store.create("SAVE10", "percent", 10)
    discount_code_store.create("GIFT", "percent", 100)
    order_store.create(1, "top_up", 500)
    order_store.complete(order_store.create(1, "top_up", MAX_AMOUNT_CENTS).id)
    balance_store.add_credits(1, 50, "a gift")


def refuses(db: Database, call: Call, *values: object) -> None:
    before = dump(db)
    for value in values:
        with pytest.raises(InvalidInputError) as refusal:
            call(value)
        assert refusal.value.message.isprintable()
        assert len(refusal.value.message) < 300
    assert dump(db) == before


@never_sent
@pytest.mark.parametrize(
    ("name", "call"),
    [pytest.param(name, call, id=name) for calls, *_ in RANGES for name, call in calls.items()],
)
def test_a_number_is_an_int_and_nothing_like_it(filled: Database, name: str, call: Call) -> None:
    refuses(
        filled,
        call,
        *[True, False, 1.0, 1.5, float("nan"), float("inf"), "7", "", b"7", [7], (7,)],
        *[Decimal(7), Seven.SEVEN, Int(7), datetime.now(UTC)],
        *[] if name.endswith(OPTIONAL) else [None],
    )


@never_sent
@within(RANGES)
def test_a_number_is_within_its_range(
    filled: Database, call: Call, lowest: int, highest: int
) -> None:
    refuses(filled, call, lowest - 1, highest + 1, -1, 2**63, 2**64, -(2**63), 10**5_000)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("dialect", "edge"),
    [("sqlite", "lowest"), ("sqlite", "highest"), ("postgresql", "highest")],
)
@within(RANGES[1:])
def test_both_ends_of_a_range_belong_to_it(
    call: Call, lowest: int, highest: int, edge: str
) -> None:
    assert call(lowest if edge == "lowest" else highest) is not None


@pytest.mark.usefixtures("db")
def test_the_highest_id_is_looked_for() -> None:
    assert account_store.get_by_id(MAX_ID) is None
    assert order_store.get_by_id(MAX_ID) is None


@never_sent
@cases(TEXTS)
def test_a_text_is_a_str_with_something_visible(filled: Database, call: Call) -> None:
    refuses(
        filled,
        call,
        *["", " ", "\t\n", "\0", "a\0b", "a\ud800", "\udcff", "\u200b\u200d\ufeff", "\u3164"],
        *["x" * 256, " " * 1_000_000, "x" * 1_000_000, 7, True, b"text", ["text"], Decimal(7)],
    )


@pytest.mark.usefixtures("filled")
@cases(TEXTS)
def test_a_text_may_have_255_characters(call: Call) -> None:
    call("x" * 255)
    call("😀" * 255)


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[2J[red]x[/] :smile: =1+1\u202e",
        "\x1b]0;title\x07 \x9b31m \x85 \r\n \x7f \b",
        "' OR 1=1; -- \" ; %s %(a)s :a ?1 $1 {} ${x} $(id)",
        "NFC é and NFD e\u0301, ＳＡＶＥ, \u0430bc, \U000e0041x, \ufeffa\u200bb",
        "x\\",
        " padded ",
        "line\u2028line\u2029line",
    ],
    ids=label,
)
def test_a_hostile_text_is_stored_exactly(filled: Database, hostile: str) -> None:
    line = balance_store.add_credits(1, 5, hostile)
    audit_store.record("balance credit", "account 1", reason=hostile, note=hostile)

    assert line.description == hostile
    assert balance_store.history(1).items[0].description == hostile
    assert audit_store.find().items[0].reason == hostile
    assert rows(filled, "SELECT description FROM transactions WHERE id = ?", line.id) == [
        (hostile,)
    ]


@never_sent
@cases(STRIPE_IDS)
def test_an_id_of_stripes_is_visible_ascii(filled: Database, call: Call) -> None:
    refuses(
        filled,
        call,
        *["", " ", "cs 1", "cs_1\n", "cs\0", "é", "x" * 256, "\x1b[0m", "a\udcff", "cs\u200b"],
        *[7, True, b"cs_1", ["cs_1"]],
    )


@pytest.mark.usefixtures("filled")
@cases(STRIPE_IDS)
def test_an_id_of_stripes_may_have_255_characters(call: Call) -> None:
    call("x" * 255)


@never_sent
@cases(KEYS)
def test_a_key_is_8_to_255_printable_ascii_characters(filled: Database, call: Call) -> None:
    refuses(
        filled,
        call,
        *["", " ", "x" * 7, "x" * 256, "schlüssel", "key\t0001", "key-0001\n", "key-000\0"],
        *["key-000\x7f", "key-000\x1b", "key\u200b0001", "key\udcff0001", "ｋｅｙ－０００１"],
        *[7, 12_345_678, True, b"key-0001", ["key-0001"]],
    )


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("key", ["x" * 8, "x" * 255, "".join(map(chr, range(32, 127))), " " * 8])
def test_a_key_may_be_any_of_them(key: str) -> None:
    assert balance_store.add_credits(1, 5, "a", key=key).idempotency_key == key
    assert order_store.create(1, "top_up", 500, key=key).idempotency_key == key
    refund = order_store.record_refund(2, amount_cents=1, key=key)[1]
    assert refund.idempotency_key == key
    assert balance_store.add_credits(1, 5, "a", key=key).replayed
    assert order_store.create_or_replay(1, "top_up", 500, key=key)[1]
    assert order_store.record_refund(2, amount_cents=1, key=key)[1].replayed


@never_sent
@cases(CODES)
def test_a_code_is_a_str(filled: Database, call: Call) -> None:
    refuses(filled, call, *[7, True, b"SAVE10", ["SAVE10"], Decimal(7)])


@never_sent
def test_only_what_a_code_can_be_becomes_one(filled: Database) -> None:
    refuses(
        filled,
        CODES["discounts.create"],
        *["ſave", "straße", "a", "A B", "x" * 51, "", " ", "SAVE\n", "SAVE\0", "SAVE\udcff"],
        *["-AB", "ＳＡＶＥ", "' OR 1=1", None],
    )


@never_sent
@cases(WORDS)
def test_a_word_is_one_of_its_set(filled: Database, call: Call) -> None:
    refuses(
        filled,
        call,
        *["", " ", "nothing", "PENDING", "top_up ", "credit\0", 1, True, b"credit", ["credit"]],
    )


@never_sent
@cases(FLAGS)
def test_a_flag_is_true_or_false(filled: Database, call: Call) -> None:
    refuses(filled, call, 0, 1, None, "", "yes", "False", 1.0, [])


@never_sent
@cases(TIMES)
def test_a_time_has_a_zone(filled: Database, call: Call) -> None:
    refuses(
        filled,
        call,
        datetime(2026, 11, 23),  # noqa: DTZ001 - the point
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime(2026, 11, 23, tzinfo=UTC).date(),
        *["2026-11-23", 1_700_000_000, True],
    )


@pytest.mark.parametrize(
    "call",
    [
        IDS["balances.find"],
        IDS["orders.create"],
        AMOUNTS["orders.create"],
        BELOW["accounts.find below"],
        TEXTS["accounts.find search"],
        CODES["orders.create code"],
        KEYS["orders.create"],
        KEYS["orders.refund"],
        LIMITS["accounts.find limit"],
        LIMITS["balances.history limit"],
    ],
)
def test_an_argument_is_refused_without_asking_the_database(tmp_path: Path, call: Call) -> None:
    database.configure(str(tmp_path / "missing.db"))

    with pytest.raises(InvalidInputError):
        call(1.5)
