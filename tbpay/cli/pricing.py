"""``tbpay pricing``."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from tbpay.cli.options import argument, command, group, option, show
from tbpay.cli.output import note
from tbpay.cli.parsers import parse_segments
from tbpay.errors import Code, RefusedError
from tbpay.money import parse_cents

app = group("Prices: what a segment costs in which country.")

Amount = Annotated[
    int | None,
    option("--amount", parse_cents, "USD", "Dollars to spend on segments, 10 unless given."),
]


@command(app, "list", "tbpay pricing list", "tbpay pricing list --amount 25 --json")
def list_(amount: Amount = None) -> None:
    """List the price of a segment to each country."""
    from tbpay.sms_pricing import SMS_COSTS_BY_COUNTRY, segments_for

    costs = list(SMS_COSTS_BY_COUNTRY.values())
    if amount is None:
        show(costs)
        return
    bought = (segments_for(cost.customer_cost_per_segment_cents, amount) for cost in costs)
    show(
        [
            asdict(cost) | {"amount_cents": amount, "segments_for_amount": segments}
            for cost, segments in zip(costs, bought, strict=True)
        ]
    )


@command(
    app,
    "quote",
    "tbpay pricing quote +447700900123",
    "tbpay pricing quote +14155550123 --segments 3 --amount 25",
)
def quote(
    number: Annotated[str, argument(str, "NUMBER", "A phone number: + and digits.")],
    segments: Annotated[
        int | None,
        option("--segments", parse_segments, "N", "How many the message has, 1 unless given."),
    ] = None,
    amount: Amount = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a country without a price of its own.")
    ] = False,
) -> None:
    """Quote what a message to a number costs, and how many segments an amount buys."""
    from tbpay import sms_pricing

    quoted = sms_pricing.quote(number, segments=segments or 1, amount_cents=amount)
    if quoted.fallback and strict:
        raise RefusedError(f"no price for {quoted.country}", code=Code.UNPRICED)
    if quoted.fallback:
        note(f"no price for {quoted.country}: the rate of US stands in")
    show(quoted, people=_for_people)


def _for_people(quoted: Any) -> dict[str, object]:
    """Leave out the micros, which say the same as the cents to programs that count in integers."""
    return {name: value for name, value in asdict(quoted).items() if not name.endswith("_micros")}
