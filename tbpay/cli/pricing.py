"""``tbpay pricing``."""

from typing import Annotated, Any

import typer

from tbpay.cli import quoting
from tbpay.cli.bars import bar
from tbpay.cli.exits import Exit
from tbpay.cli.options import chosen, command, group, show
from tbpay.cli.output import Format, note, write
from tbpay.cli.parameters import At, ToSpend, argument, option
from tbpay.cli.parsers import parse_percent
from tbpay.models import Page
from tbpay.money import show_cents

app = group("Prices: what a segment costs in which country.")


@command(
    app,
    "list",
    "tbpay pricing list",
    "tbpay pricing list --amount 25 --json",
    "tbpay pricing list --at 2026-12-31",
)
def list_(
    amount: ToSpend = None,
    at: At = None,
) -> None:
    """List what a segment costs in each country, and how many of them an amount buys."""
    from tbpay import rates
    from tbpay.rates.listing import ListedPrice, price_list

    table = rates.current()
    prices = price_list(table, amount_cents=amount, at=at)
    most = max((price.segments_for_amount for price in prices), default=0)

    def people(price: ListedPrice) -> dict[str, Any]:
        bought = price.segments_for_amount
        return {
            "country_code": price.country_code,
            "country_name": price.country_name,
            "twilio_cents": price.twilio_cost_per_segment_cents,
            "price_cents": price.customer_cost_per_segment_cents,
            "margin_percent": price.margin_percent,
            f"segments_for_{show_cents(price.amount_cents)}_USD": bought,
            "": bar(bought, most),
        }

    show(Page(prices, None), kind=ListedPrice, people=people)
    note(f"rates: {table.source}, sha256 {table.digest}")


@command(
    app,
    "check",
    "tbpay pricing check rates.csv",
    "tbpay pricing check rates.csv --min-margin 75 --json",
)
def check_(
    file: Annotated[str, argument(str, "FILE", "A rates file, - for stdin.")],
    min_margin: Annotated[
        int | None,
        option("--min-margin", parse_percent, "P", "Per cent of a price that must be earned."),
    ] = None,
) -> None:
    """Check a rates file: what is wrong in it, and what it would change; exit 8 if it is wrong."""
    from tbpay.rates.checking import check
    from tbpay.rates.reading import Finding

    checked = check(file, min_margin_percent=min_margin)
    if chosen().format is Format.JSON:
        show(checked)
    elif chosen().format is Format.TABLE:
        several = {"findings": len(checked.findings), "changes": len(checked.changes)}
        show(vars(checked) | several)
        for each in filter(None, (checked.findings, checked.changes)):
            write("\n")
            show(each)
    else:
        show(checked.findings, kind=Finding)
        if checked.changes:
            note(f"{quoting.counted(len(checked.changes), 'change')} left out: see --json")
    if checked.compared_with is None:
        note("the rates in force cannot be read, so that nothing is compared with them")
    if checked.findings:
        raise typer.Exit(Exit.DIFFERENCES)


command(
    app,
    "quote",
    "tbpay pricing quote +447700900123",
    "tbpay pricing quote +14155550123 --segments 3 --amount 25",
    "tbpay pricing quote +447700900123 --text 'Your code is 1234'",
    "tbpay pricing quote --file numbers.csv --account 7",
)(quoting.quote)
