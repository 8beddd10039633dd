import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given, strategies as st
from probes import label

from tbpay import models
from tbpay.errors import Code, InvalidInputError
from tbpay.models import (
    MAX_AMOUNT_CENTS,
    MAX_ID,
    MAX_TEXT,
    TIME_WIDTH,
    DiscountType,
    OrderStatus,
    OrderType,
    RedemptionStatus,
    RefundPolicy,
    TransactionType,
    read_time,
    time_text,
)


class Seven(IntEnum):
    SEVEN = 7


moments = st.datetimes(
    timezones=st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
    min_value=datetime(1, 1, 3),  # noqa: DTZ001 - hypothesis wants a naive bound
    max_value=datetime(9999, 12, 29),  # noqa: DTZ001
)


def refuses(check: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(InvalidInputError) as refusal:
        check(*arguments)
    assert refusal.value.code is Code.INVALID
    # One line that a screen can take, however long the value was.
    assert len(refusal.value.message) < 300
    assert refusal.value.message.isprintable()
    return refusal.value.message


@pytest.mark.parametrize(
    ("entity", "fields"),
    [
        (
            models.Order,
            "id account_id order_type amount_cents stripe_session_id stripe_payment_intent_id"
            " discount_code_id status created_at completed_at credit_cents idempotency_key",
        ),
        (
            models.Refund,
            "id order_id amount_cents claw_back_cents shortfall_cents policy stripe_refund_id"
            " transaction_id reason idempotency_key created_at replayed",
        ),
        (
            models.AccountBalance,
            "id account_id balance_cents updated_at account_version subcent_micros",
        ),
        (
            models.SmsCharge,
            "id transaction_id account_id phone country_code segments rate_micros cost_micros"
            " twilio_cost_micros subcent_after_micros gives_back_id",
        ),
        (
            models.DiscountCode,
            "id code discount_type discount_value max_uses current_uses active stripe_coupon_id"
            " created_at starts_at ends_at per_account min_amount_cents reserved_uses",
        ),
        (
            models.Redemption,
            "id discount_code_id order_id account_id reduction_cents status created_at",
        ),
        (
            models.Transaction,
            "id account_id order_id transaction_type amount_cents balance_after_cents description"
            " created_at account_version idempotency_key sms_charge replayed",
        ),
        (
            models.CountrySMSCost,
            "country_code country_name twilio_cost_per_segment_cents"
            " customer_cost_per_segment_cents segments_per_10_dollars",
        ),
        (models.Account, "id email created_at stripe_customer_id"),
    ],
)
def test_an_entity_has_its_fields_in_their_order(entity: Any, fields: str) -> None:
    assert [field.name for field in dataclasses.fields(entity)] == fields.split()


def test_an_entity_is_frozen() -> None:
    account = models.Account(1)

    with pytest.raises(dataclasses.FrozenInstanceError):
        account.id = 2  # type: ignore[misc]


def test_the_words_are_the_words() -> None:
    assert list(OrderType) == ["initial_access", "top_up"]
    assert list(OrderStatus) == ["pending", "completed", "failed", "refunded"]
    assert list(DiscountType) == ["percent", "fixed"]
    assert list(TransactionType) == ["credit", "debit", "refund"]
    assert list(RedemptionStatus) == ["reserved", "redeemed", "released", "late"]
    assert list(RefundPolicy) == ["refuse", "available", "negative"]


@pytest.mark.parametrize("value", [1, 2, MAX_AMOUNT_CENTS - 1, MAX_AMOUNT_CENTS])
def test_an_amount_by_hand_is_1_to_99_999_999_cents(value: int) -> None:
    assert models.amount(value) == value
    assert MAX_AMOUNT_CENTS == 99_999_999


@pytest.mark.parametrize(
    "value", [0, -1, MAX_AMOUNT_CENTS + 1, 2**63, -(2**64), 10**5_000], ids=label
)
def test_an_amount_outside_its_range_is_refused(value: int) -> None:
    assert "between 1 and 99,999,999" in refuses(models.amount, value)


@pytest.mark.parametrize(
    "value", [True, False, None, 1.0, 1.5, float("nan"), "7", b"7", Decimal(7), Seven.SEVEN, [7]]
)
def test_only_an_int_is_a_whole_number(value: object) -> None:
    assert "must be a whole number" in refuses(models.whole, value, "it", 0, 10)
    refuses(models.identifier, value, "it")


def test_an_id_is_1_to_2_to_the_63_less_1() -> None:
    assert models.identifier(1, "id") == 1
    assert models.identifier(MAX_ID, "id") == 2**63 - 1
    for value in (0, -1, MAX_ID + 1):
        refuses(models.identifier, value, "id")


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "x" * MAX_TEXT,
        "😀" * MAX_TEXT,
        " padded ",
        "line\nbreak\r\n\u2028",
        "\x1b[2J[red]x[/] :smile: =1+1\u202e",
        "Ünïcode e\u0301 \u200d ﷽",
        "' OR 1=1 -- %s {} $1",
    ],
)
def test_a_text_is_answered_as_it_is(value: str) -> None:
    assert models.text(value, "description") == value


@pytest.mark.parametrize(
    "value",
    [
        *["", " ", "\t\n", "\0", "a\0", "\0a", "a\ud800", "\udcffa", "x" * (MAX_TEXT + 1)],
        *["\u200b", "\u200b\u200d\ufeff", "\u00ad", "\u202e\u2066", "\u3164", "\u2800", "\ufe0f"],
        *["\u180b", "\U000e0041", "\u034f", " " * 1_000_000, "x" * 1_000_000, "\x1b", "\x85"],
        *[None, 7, True, b"text", ["text"], 10**5_000],
    ],
    ids=label,
)
def test_what_is_no_text_is_refused(value: object) -> None:
    assert refuses(models.text, value, "description").startswith("description")


@given(value=st.text(st.characters(), min_size=1, max_size=300))
def test_a_text_is_kept_whole_or_refused(value: str) -> None:
    try:
        kept = models.text(value, "description")
    except InvalidInputError:
        return
    assert kept == value
    assert 1 <= len(kept) <= MAX_TEXT
    assert "\0" not in kept
    kept.encode()


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("LAUNCH10", "LAUNCH10"),
        ("launch10", "LAUNCH10"),
        ("  Launch10 ", "LAUNCH10"),
        ("a-b", "A-B"),
        ("1_2", "1_2"),
        ("x" * 50, "X" * 50),
    ],
)
def test_a_code_is_kept_in_upper_case_without_spaces_around_it(typed: str, kept: str) -> None:
    assert models.discount_code(typed) == kept


@pytest.mark.parametrize(
    "typed",
    [
        *["ſave", "straße", "a", "ab", "A B", "x" * 51, "", "   ", "-AB", "_AB", "A.B", "ı10"],
        *["SAVE\n", "\tSAVE", "\u00a0SAVE", "SAVE\0", "SAVE\udcff", "SÀVE", "SAVE\u200b"],
        *["ＳＡＶＥ", "ﬁx", "\u0430bc", "%%%", "' OR 1=1", None, 7, True, b"SAVE"],
    ],
    ids=label,
)
def test_what_no_code_can_be_is_refused(typed: object) -> None:
    assert "discount code" in refuses(models.discount_code, typed)


@pytest.mark.parametrize("value", ["cs_test_a1", "pi_3", "x" * 255, "!~"])
def test_a_stripe_id_is_visible_ascii(value: str) -> None:
    assert models.stripe_id(value, "session_id") == value


@pytest.mark.parametrize(
    "value", ["", " ", "cs 1", "cs\n", "cs\0", "é", "x" * 256, "\x1b[0m", "a\udcff", None, 7, b"cs"]
)
def test_what_is_no_stripe_id_is_refused(value: object) -> None:
    assert refuses(models.stripe_id, value, "session_id").startswith("session_id")


@pytest.mark.parametrize("value", ["12345678", "a b/c~{}", " " * 8, "x" * 255])
def test_a_key_is_8_to_255_printable_ascii_characters(value: str) -> None:
    assert models.idempotency_key(value) == value


@pytest.mark.parametrize(
    "value",
    ["", "1234567", "x" * 256, "é" * 8, "12345678\n", "1234567\0", "a\udcffbcdefgh", None, 7],
)
def test_what_is_no_key_is_refused(value: object) -> None:
    assert "is not a key" in refuses(models.idempotency_key, value)


@pytest.mark.parametrize("value", ["ann@example.org", "a@b", "Ünï@exämple.org", "a" * 253 + "@b"])
def test_an_email_address_is_checked_for_its_shape_alone(value: str) -> None:
    assert models.email_address(value) == value


@pytest.mark.parametrize(
    "value",
    [
        *["", "ann", "@b", "a@", "a@@b", "a b@c", "a@b ", "a@b\n", "a@b\0", "a@b\u200b"],
        *["a@\udcff", "\x1b[0m@b", "a" * 254 + "@b", None, 7, b"a@b"],
    ],
    ids=label,
)
def test_what_is_no_email_address_is_refused(value: object) -> None:
    refuses(models.email_address, value)


@pytest.mark.parametrize("value", ["fixed", DiscountType.FIXED])
def test_a_word_is_answered_as_a_member_of_its_set(value: str) -> None:
    assert models.word(DiscountType, value, "discount_type") is DiscountType.FIXED


@pytest.mark.parametrize(
    "value", ["FIXED", "fixed ", "", "flat", OrderStatus.PENDING, None, 1, b"fixed", ["fixed"]]
)
def test_another_word_is_refused_with_the_words_that_there_are(value: object) -> None:
    message = refuses(models.word, DiscountType, value, "discount_type")

    assert message.startswith("discount_type must be one of percent, fixed, not ")


def test_a_flag_is_true_or_false_and_nothing_like_it() -> None:
    values: list[object] = [0, 1, None, "True", "", []]

    assert [models.flag(value, "active") for value in (True, False)] == [True, False]
    for value in values:
        refuses(models.flag, value, "active")


def test_a_time_is_stored_in_utc_at_fixed_width() -> None:
    eight = datetime(2026, 11, 23, 9, 13, tzinfo=timezone(timedelta(hours=1)))

    assert time_text(eight) == "2026-11-23T08:13:00.000000Z"
    assert read_time(time_text(eight)) == eight
    assert time_text(datetime(987, 6, 5, tzinfo=UTC)) == "0987-06-05T00:00:00.000000Z"


@given(one=moments, other=moments)
def test_the_order_of_stored_times_is_the_order_of_the_times(
    one: datetime, other: datetime
) -> None:
    texts = time_text(one), time_text(other)

    assert (texts[0] < texts[1], texts[0] == texts[1]) == (one < other, one == other)
    assert {len(text) for text in texts} == {TIME_WIDTH}
    assert read_time(texts[0]) == one
    assert read_time(texts[0]).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23", datetime(2026, 11, 23, tzinfo=UTC)),
        ("2026-11-23 08:13:00", datetime(2026, 11, 23, 8, 13, tzinfo=UTC)),
        ("2026-11-23T08:13Z", datetime(2026, 11, 23, 8, 13, tzinfo=UTC)),
        ("2026-11-23T09:13:00+01:00", datetime(2026, 11, 23, 8, 13, tzinfo=UTC)),
        ("20261123T081300.5", datetime(2026, 11, 23, 8, 13, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_any_iso_8601_time_is_read_and_a_naive_one_is_utc(text: str, moment: datetime) -> None:
    assert read_time(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        *["", "now", "tomorrow", "2026-02-30", "2026-11-23T24:01", "10000-01-01", "infinity"],
        *["0001-01-01T00:00+01:00", "9999-12-31T23:59-01:00", "1\0", "\udcff", "x" * 10_000],
    ],
    ids=label,
)
def test_what_is_no_time_is_refused(text: str) -> None:
    refuses(read_time, text)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 11, 23),  # noqa: DTZ001 - the point
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        datetime(2026, 11, 23, tzinfo=UTC).date(),
        *["2026-11-23T08:13:00Z", 1_700_000_000, None, True],
    ],
    ids=label,
)
def test_a_moment_is_an_aware_time_that_utc_can_say(value: object) -> None:
    assert refuses(models.moment, value, "since").startswith("since must be a time")


def test_a_moment_is_answered_in_utc() -> None:
    nine = datetime(2026, 11, 23, 9, tzinfo=timezone(timedelta(hours=1)))

    answer = models.moment(nine, "since")

    assert (answer, answer.tzinfo) == (nine, UTC)
