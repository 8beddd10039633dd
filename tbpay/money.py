"""Cents and micros: read, show, take a percentage. Integers only, no float ever touches an amount.

A cent is a hundredth of a dollar, a micro a millionth: 10,000 micros to the cent.
"""

import re
from decimal import Decimal

from tbpay.errors import InvalidInputError, excerpt
from tbpay.models import AMOUNT_PATTERN, MAX_AMOUNT_CENTS

MICROS_PER_CENT = 10_000


def parse_cents(text: str, *, lowest: int = 1) -> int:
    """Read dollars as an operator types them (``10``, ``10.5``, ``10.50``) into cents.

    Takes ``lowest`` … 99,999,999 cents, in ASCII digits with at most two decimals. Raises
    InvalidInputError for everything else: signs, exponents, separators, spaces, other digits.
    """
    if not re.fullmatch(AMOUNT_PATTERN, text):
        raise InvalidInputError(f"{excerpt(text)} is not an amount in dollars such as 10 or 10.50")
    dollars, _, cents = text.partition(".")
    amount_cents = int(dollars) * 100 + int(cents.ljust(2, "0"))
    if not lowest <= amount_cents <= MAX_AMOUNT_CENTS:
        raise InvalidInputError(f"{excerpt(text)} is too small: an amount starts at 0.01")
    return amount_cents


def show_cents(amount_cents: int) -> str:
    """Show cents as dollars with two decimals: ``1234.50``, ``-0.05``."""
    sign = "-" if amount_cents < 0 else ""
    dollars, cents = divmod(abs(amount_cents), 100)
    return f"{sign}{dollars}.{cents:02}"


def show_micros(amount_micros: int) -> str:
    """Show micros as dollars, exactly: two decimals, or as many as it takes: ``0.0565``."""
    sign = "-" if amount_micros < 0 else ""
    cents, micros = divmod(abs(amount_micros), MICROS_PER_CENT)
    return (
        f"{sign}{show_cents(cents)}{micros:04}".rstrip("0") if micros else sign + show_cents(cents)
    )


def percentage(amount_cents: int, percent: int) -> int:
    """Take a percentage of an amount that is not negative, rounded half up to the cent.

    15 % of 9.99 is 1.50.
    """
    return (amount_cents * percent + 50) // 100


def whole_cents(amount_micros: int) -> int:
    """Round micros up to whole cents: 56,500 micros are 6 cents."""
    return -(-amount_micros // MICROS_PER_CENT)


def exact_cents(amount_micros: int) -> Decimal:
    """Turn micros that are not negative into exact cents: two decimals, or four if it takes them.

    56,500 micros are 5.65 cents. No rounding, whatever precision the application has set.
    """
    cents, micros = divmod(amount_micros, MICROS_PER_CENT)
    return Decimal(f"{cents}.{micros:04}".removesuffix("00"))
