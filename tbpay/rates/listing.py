"""The price list: every country that has a price at a time."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from tbpay import models
from tbpay.models import CountrySMSCost
from tbpay.rates import TOP_UP_CENTS, RateTable, cost_of


@dataclass(frozen=True)
class ListedPrice(CountrySMSCost):
    """A country's price, what an amount buys for it, and where it is written.

    ``margin_percent`` is rounded down to one decimal. ``effective_from`` is the time of a rate that
    has one; ``source`` and ``digest`` are those of its table.
    """

    margin_percent: Decimal
    amount_cents: int
    segments_for_amount: int
    effective_from: datetime | None
    source: str
    digest: str


def price_list(
    table: RateTable, *, amount_cents: int | None = None, at: datetime | None = None
) -> list[ListedPrice]:
    """Answer what is in force at a time, now when None; the amount is $10 when None."""
    spent_cents = TOP_UP_CENTS if amount_cents is None else models.amount(amount_cents)
    return [
        ListedPrice(
            **vars(cost_of(rate)),
            margin_percent=rate.margin_percent,
            amount_cents=spent_cents,
            segments_for_amount=rate.segments_for(spent_cents),
            effective_from=rate.dated_from,
            source=table.source,
            digest=table.digest,
        )
        for rate in table.countries(at)
    ]
