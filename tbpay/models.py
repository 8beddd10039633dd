"""The vocabulary: entities, word sets, and every range and pattern, each stated once.

The command line's parsers, the stores' guards and the tables' constraints read the ranges here.
Entities are frozen: money does not change because somebody set an attribute.
"""

import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Generic, TypeVar

from tbpay.errors import InvalidInputError, excerpt

MAX_ID = 2**63 - 1
MAX_AMOUNT_CENTS = 99_999_999
MAX_BALANCE_CENTS = 99_999_999_999
MAX_OPENING_CENTS = MAX_BALANCE_CENTS + MAX_AMOUNT_CENTS
"""Before its first line a balance that was taken over may have stood beyond the bound."""
MAX_USES = 2**31 - 1
MAX_PERCENT = 100
MAX_TEXT = 255
MAX_ACTION = 50
MAX_SUBCENT_MICROS = 9_999
MAX_SEGMENTS = 1_000_000
MAX_COST_MICROS = MAX_AMOUNT_CENTS * 10_000
"""A message costs no more than the largest amount by hand."""
MAX_LIMIT = 1_000
MIN_KEY = 8
MAX_KEY = 255
STRIPE_MINIMUM_CENTS = 50
"""What Stripe charges at least in US dollars: https://docs.stripe.com/currencies."""

REFUND_WORDS = "Refund of order "
"""What the line of a refund says before the order's id."""

AMOUNT_PATTERN = r"[0-9]{1,6}(\.[0-9]{1,2})?"
CODE_PATTERN = r"[A-Z0-9][A-Z0-9_-]{2,49}"
EMAIL_PATTERN = r"[^\s@]+@[^\s@]+"
STRIPE_ID_PATTERN = rf"[!-~]{{1,{MAX_TEXT}}}"
KEY_PATTERN = rf"[ -~]{{{MIN_KEY},{MAX_KEY}}}"
E164_PATTERN = r"\+[1-9][0-9]{6,14}"
TIME_WIDTH = len("2026-11-23T08:13:00.000000Z")


class OrderType(StrEnum):
    """What an order buys."""

    INITIAL_ACCESS = "initial_access"
    TOP_UP = "top_up"


class OrderStatus(StrEnum):
    """Where an order stands."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    REFUNDED = "refunded"


class DiscountType(StrEnum):
    """How a discount code reduces an amount."""

    PERCENT = "percent"
    FIXED = "fixed"


class TransactionType(StrEnum):
    """What a line does to a balance: a credit adds, a debit and a refund take away."""

    CREDIT = "credit"
    DEBIT = "debit"
    REFUND = "refund"


class RedemptionStatus(StrEnum):
    """What became of a use: held by a pending order, spent, given back, or taken beyond the limit.

    ``late`` is the use of an order that was paid after it had failed, when none was left: it
    stands outside the code's counter.
    """

    RESERVED = "reserved"
    REDEEMED = "redeemed"
    RELEASED = "released"
    LATE = "late"


class RefundPolicy(StrEnum):
    """What a refund does where less is left of the credit than it claws back.

    ``refuse`` it, take what is ``available``, or let the balance go ``negative``.
    """

    REFUSE = "refuse"
    AVAILABLE = "available"
    NEGATIVE = "negative"


@dataclass(frozen=True)
class Account:
    """A customer. What the accounts table has no column for reads as None."""

    id: int
    email: str | None = None
    created_at: datetime | None = None
    stripe_customer_id: str | None = None


@dataclass(frozen=True)
class Order:
    """One purchase: ``amount_cents`` is charged, ``credit_cents`` is what completing it credits."""

    id: int
    account_id: int
    order_type: OrderType
    amount_cents: int
    stripe_session_id: str | None
    stripe_payment_intent_id: str | None
    discount_code_id: int | None
    status: OrderStatus
    created_at: datetime
    completed_at: datetime | None
    credit_cents: int
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Refund:
    """One refund of an order: ``amount_cents`` went back to the customer.

    ``claw_back_cents`` is its share of the order's credit; ``shortfall_cents`` of that was spent
    already and is taken from nobody. The line that took the rest is None where that is nothing.
    """

    id: int
    order_id: int
    amount_cents: int
    claw_back_cents: int
    shortfall_cents: int
    policy: RefundPolicy
    stripe_refund_id: str | None
    transaction_id: int | None
    reason: str | None
    idempotency_key: str | None
    created_at: datetime
    replayed: bool = False


@dataclass(frozen=True)
class AccountBalance:
    """What an account can still spend: cents and, on top of them, 0 … 9,999 micros.

    ``balance_cents`` is rounded down, and below zero when the account owes: -1 cent and 9,000
    micros are -0.1 cents. ``account_version`` is that of its last line, 0 before the first. An
    account without a row has 0; its ``id`` and ``updated_at`` are None.
    """

    id: int | None
    account_id: int
    balance_cents: int
    updated_at: datetime | None
    account_version: int = 0
    subcent_micros: int = 0


@dataclass(frozen=True)
class DiscountCode:
    """A named reduction: ``discount_value`` is per cent or cents.

    ``current_uses`` counts the orders that redeemed it and the ``reserved_uses`` of those that are
    still pending. It can be taken from ``starts_at`` up to, not at, ``ends_at``, for orders of at
    least ``min_amount_cents``, ``max_uses`` times in all and ``per_account`` times by one account;
    None is no limit.
    """

    id: int
    code: str
    discount_type: DiscountType
    discount_value: int
    max_uses: int | None
    current_uses: int
    active: bool
    stripe_coupon_id: str | None
    created_at: datetime
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    per_account: int | None = None
    min_amount_cents: int | None = None
    reserved_uses: int = 0


@dataclass(frozen=True)
class Redemption:
    """One use of a discount code and what it took off; its order or account may be unknown."""

    id: int
    discount_code_id: int
    order_id: int | None
    account_id: int | None
    reduction_cents: int
    status: RedemptionStatus
    created_at: datetime


@dataclass(frozen=True)
class SmsCharge:
    """The exact side of a line that charged an SMS, or gave a charge back.

    ``rate_micros`` is what one segment was sold at, ``cost_micros`` what all of them cost; of those
    Twilio gets ``twilio_cost_micros``, None where the country had no price. ``phone`` is masked:
    its calling code and last two digits. ``subcent_after_micros`` is the fraction of a cent that
    the balance had then. ``gives_back_id`` is the line whose charge this gives back, else None.
    """

    id: int
    transaction_id: int
    account_id: int
    phone: str
    country_code: str
    segments: int
    rate_micros: int
    cost_micros: int
    twilio_cost_micros: int | None
    subcent_after_micros: int
    gives_back_id: int | None


@dataclass(frozen=True)
class Transaction:
    """One line of an account's trail. ``amount_cents`` is a magnitude, never negative.

    ``account_version`` counts the account's lines, 1 … n without a gap: their order is its order.
    Of an SMS ``amount_cents`` is by how much the whole cents of the balance changed; what it cost
    exactly stands in ``sms_charge``, which other lines have not.
    """

    id: int
    account_id: int
    order_id: int | None
    transaction_type: TransactionType
    amount_cents: int
    balance_after_cents: int
    description: str
    created_at: datetime
    account_version: int
    idempotency_key: str | None = None
    sms_charge: SmsCharge | None = None
    replayed: bool = False


@dataclass(frozen=True)
class AuditEntry:
    """Who changed what through the command line, when and why; ``detail`` is JSON."""

    id: int
    at: datetime
    actor: str
    host: str
    action: str
    subject: str
    reason: str | None
    detail: str


@dataclass(frozen=True)
class CountrySMSCost:
    """The price of one segment to a country: Twilio's and the customer's, exact, in cents."""

    country_code: str
    country_name: str
    twilio_cost_per_segment_cents: Decimal
    customer_cost_per_segment_cents: Decimal
    segments_per_10_dollars: int


T = TypeVar("T")
W = TypeVar("W", bound=StrEnum)


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list; ``next`` is the cursor of the page after it, None on the last."""

    items: Sequence[T]
    next: str | None


def whole(value: object, name: str, lowest: int, highest: int) -> int:
    """Answer a value that is an int between two bounds, both included.

    The type is exact: ``True``, ``1.5`` and ``"7"`` are no numbers here. Raises InvalidInputError.
    """
    if type(value) is not int:
        raise InvalidInputError(f"{name} must be a whole number, not {excerpt(value)}")
    if not lowest <= value <= highest:
        raise InvalidInputError(
            f"{name} must be between {lowest:,} and {highest:,}, not {excerpt(value)}"
        )
    return value


def identifier(value: object, name: str) -> int:
    """Answer an id, 1 … 2^63 − 1, or raise InvalidInputError."""
    return whole(value, name, 1, MAX_ID)


def amount(value: object) -> int:
    """Answer an amount by hand, 1 … 99,999,999 cents, or raise InvalidInputError."""
    return whole(value, "amount_cents", 1, MAX_AMOUNT_CENTS)


def text(value: object, name: str, most: int = MAX_TEXT) -> str:
    """Answer a text with something visible, no NUL, no lone surrogate and not too many characters.

    Raises InvalidInputError.
    """
    if type(value) is not str:
        raise InvalidInputError(f"{name} must be text, not {excerpt(value)}")
    if not any(map(is_visible, value[: most + 1])):
        raise InvalidInputError(f"{name} needs something visible, not {excerpt(value)}")
    if len(value) > most:
        raise InvalidInputError(f"{name} takes {most} characters, not {len(value):,}")
    if any(char == "\0" or unicodedata.category(char) == "Cs" for char in value):
        raise InvalidInputError(f"{name} holds a character that is not text: {excerpt(value)}")
    return value


def word(words: type[W], value: object, name: str) -> W:
    """Answer a value as a member of its word set, or raise InvalidInputError."""
    if isinstance(value, str) and value in list(words):
        return words(value)
    raise InvalidInputError(f"{name} must be one of {', '.join(words)}, not {excerpt(value)}")


def flag(value: object, name: str) -> bool:
    """Answer True or False, or raise InvalidInputError for what is only like it."""
    if type(value) is not bool:
        raise InvalidInputError(f"{name} must be True or False, not {excerpt(value)}")
    return value


def moment(value: object, name: str) -> datetime:
    """Answer an aware time in UTC, or raise InvalidInputError."""
    if isinstance(value, datetime) and value.utcoffset() is not None:
        # At the edges of the calendar a time of another zone has no name in UTC.
        with suppress(OverflowError):
            return value.astimezone(UTC)
    raise InvalidInputError(f"{name} must be a time with a zone, not {excerpt(value)}")


def is_visible(char: str) -> bool:
    """Tell whether a character leaves ink: a letter, mark, number, punctuation or symbol."""
    return unicodedata.category(char)[0] in "LMNPS" and char not in _INKLESS


# Letters, marks and symbols by their category, but drawn as nothing at all.
_INKLESS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | frozenset(
    map(chr, [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
)


def discount_code(value: object) -> str:
    """Answer a discount code as it is kept: upper case, without surrounding spaces.

    Raises InvalidInputError unless it is three to fifty of ``A-Z 0-9 _ -``, the first a letter or
    digit. ASCII is tested before upper-casing, which would turn ``ſ`` into ``S``.
    """
    if type(value) is not str:
        raise InvalidInputError(f"a discount code must be text, not {excerpt(value)}")
    code = value.strip(" ")
    if not code.isascii() or not re.fullmatch(CODE_PATTERN, code.upper()):
        raise InvalidInputError(
            f"{excerpt(value)} is not a discount code: "
            "3 to 50 letters A-Z, digits, - or _, the first a letter or digit"
        )
    return code.upper()


# What only helps people to read a number: every kind of space, dash and hyphen, and . ( ).
_READING_AIDS = dict.fromkeys(
    [
        *map(ord, "\t .()-\xa0\u1680\u202f\u205f\u2043\u2212\u3000\ufe58\ufe63\uff0d"),
        *range(0x2000, 0x200B),
        *range(0x2010, 0x2016),
    ]
)
# Compiled here, as the patterns of many countries push this one out of re's own cache.
E164 = re.compile(E164_PATTERN)


def bare_phone(given: str) -> str:
    """Answer a phone number without the spaces, dashes, dots and parentheses that people put in.

    What is no number after that is answered as it was given, so that a refusal names it so.
    """
    if given[1:].isdigit():
        return given
    bare = given.translate(_READING_AIDS)
    return bare if E164.fullmatch(bare) else given


def stripe_id(value: object, name: str) -> str:
    """Answer an id that Stripe gave: 1–255 visible ASCII characters; or raise InvalidInputError."""
    if type(value) is not str or not re.fullmatch(STRIPE_ID_PATTERN, value):
        raise InvalidInputError(f"{name} must be an id as Stripe gives it, not {excerpt(value)}")
    return value


def idempotency_key(value: object) -> str:
    """Answer an idempotency key: 8–255 printable ASCII characters; or raise InvalidInputError."""
    if type(value) is not str or not re.fullmatch(KEY_PATTERN, value):
        raise InvalidInputError(
            f"{excerpt(value)} is not a key: {MIN_KEY} to {MAX_KEY} printable ASCII characters"
        )
    return value


def email_address(value: object) -> str:
    """Answer an email address, checked for its shape alone; or raise InvalidInputError."""
    address = text(value, "email")
    if not re.fullmatch(EMAIL_PATTERN, address) or not all(map(is_visible, address)):
        raise InvalidInputError(f"{excerpt(value)} is not an email address")
    return address


def time_text(moment: datetime) -> str:
    """Write an aware time as it is stored: UTC, fixed width, so that text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(TIME_WIDTH, "0")


def read_time(value: str) -> datetime:
    """Read any ISO 8601 text as an aware UTC time; a naive one is UTC.

    Raises InvalidInputError for what is no time, and for one outside the years 1–9999.
    """
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInputError(
            f"{excerpt(value)} is not a time such as 2026-11-23T08:13Z"
        ) from None
