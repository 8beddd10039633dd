"""The arguments and options that several commands declare, each with the parser it has."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar

import typer

from tbpay import models, money
from tbpay.cli.parsers import (
    AccountRef,
    parse_account,
    parse_at,
    parse_bound,
    parse_phone,
    parse_segments,
    parse_since,
    parse_stripe_id,
    parse_text,
    parse_until,
)
from tbpay.errors import InvalidInputError

T = TypeVar("T")


def argument(parse: Callable[[str], Any], metavar: str, text: str) -> Any:
    """Declare a positional argument by its parser."""
    return typer.Argument(parser=typed(parse), metavar=metavar, help=text, show_default=False)


def option(name: str, parse: Callable[[str], Any], metavar: str, text: str) -> Any:
    """Declare an option by its parser."""
    return typer.Option(name, parser=typed(parse), metavar=metavar, help=text, show_default=False)


def typed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Let the parser of the command line say which argument it was that a parser refused."""

    def parse_or_name(given: str) -> T:
        try:
            return parse(given)
        except InvalidInputError as error:
            raise typer.BadParameter(error.message) from error

    return parse_or_name


AccountName = Annotated[
    AccountRef, argument(parse_account, "ACCOUNT", "The account's id, or its email address.")
]
Amount = Annotated[int, option("--amount", money.parse_cents, "USD", "Dollars: 10 or 10.50.")]
At = Annotated[
    datetime | None,
    option("--at", parse_at, "T", "As of this time, now unless given; a date is that day's end."),
]
Below = Annotated[
    int | None, option("--below", parse_bound, "USD", "Only balances lower than this.")
]
CodeName = Annotated[str, argument(models.discount_code, "CODE", "The discount code.")]
Key = Annotated[
    str | None,
    option(
        "--key",
        models.idempotency_key,
        "K",
        f"{models.MIN_KEY} to {models.MAX_KEY} characters by which a repetition is known as one.",
    ),
]
PaymentIntent = Annotated[
    str | None, option("--payment-intent", parse_stripe_id, "ID", "Stripe's payment intent.")
]
PhoneName = Annotated[
    str,
    argument(parse_phone, "NUMBER", "A phone number: + and digits; spaces, - . ( ) do no harm."),
]
Reason = Annotated[str, option("--reason", parse_text, "TEXT", "Why; the line will say so.")]
Segments = Annotated[
    int | None,
    option("--segments", parse_segments, "N", "How many the message has, 1 unless given."),
]
Since = Annotated[
    datetime | None,
    option("--since", parse_since, "T", "From this time on: a date, a time, or 30m, 6h, 7d ago."),
]
StripeSession = Annotated[
    str | None, option("--stripe-session", parse_stripe_id, "ID", "Stripe's Checkout session.")
]
Text = Annotated[str | None, option("--text", str, "T", "The message, whose segments are counted.")]
ToSpend = Annotated[
    int | None,
    option("--amount", money.parse_cents, "USD", "Dollars to spend on segments, 10 unless given."),
]
Until = Annotated[
    datetime | None,
    option("--until", parse_until, "T", "Up to, not at, this time; a date includes its day."),
]
