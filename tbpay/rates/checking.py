"""Check a rates file before it is put in force: what is wrong in it, and what it would change."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from tbpay import files, rates
from tbpay.errors import TbpayError
from tbpay.money import exact_cents
from tbpay.rates import Rate, RateTable
from tbpay.rates.reading import Fault, Finding, RatesFile, scan


@dataclass(frozen=True)
class PriceChange:
    """A price that becomes another one, or Twilio's under it; None where there is none.

    ``effective_from`` is the row's own time: one that is past means as soon as the file is used.
    ``change_percent`` is of the customer's old price, rounded half away from zero to one decimal.
    """

    country_code: str
    effective_from: datetime | None
    old_cents: Decimal | None
    new_cents: Decimal | None
    change_percent: Decimal | None
    old_twilio_cents: Decimal | None
    new_twilio_cents: Decimal | None


@dataclass(frozen=True)
class RatesCheck:
    """The answer: without findings the file can be used.

    ``rates`` counts its good rows. ``compared_with`` is the source of the rates in force; None, and
    no changes, where those cannot be read.
    """

    file: str
    digest: str
    rates: int
    compared_with: str | None
    findings: list[Finding]
    changes: list[PriceChange]


def check(path: str, *, min_margin_percent: int | None = None) -> RatesCheck:
    """Check a rates file, ``-`` for stdin, and compare it with the rates in force.

    A country of which a row cannot be read is neither missed nor compared.

    - ``bad_line``: a row that cannot be read; ``too_fine``: a price finer than a micro;
    - ``duplicate``: a second price of a country from the same time on;
    - ``gap``: a country that has a price today and none in the file, or none yet; the US always;
    - ``below_cost``: a customer price below Twilio's; ``low_margin``: less than
      ``min_margin_percent`` of it is earned.

    Raises UnavailableError for a file that cannot be read, and for what is no regular file but
    stdin; InvalidInputError for one that is no CSV with the header of a rates file.
    """
    scanned = scan(path, regular=path != files.STDIN)
    try:
        in_force = rates.current()
    except TbpayError:
        # Whoever mends the file in force checks it, and that is what this is for.
        in_force = None
    now = datetime.now(UTC)
    found = [
        *scanned.findings,
        *_margins(scanned, min_margin_percent or 0),
        *([] if in_force is None else _gaps(scanned, in_force, now)),
    ]
    return RatesCheck(
        file=path,
        digest=scanned.table.digest,
        rates=len(scanned.rows),
        compared_with=None if in_force is None else in_force.source,
        findings=sorted(found, key=lambda finding: finding.line or 0),
        changes=[] if in_force is None else list(_changes(scanned, in_force, now)),
    )


def _margins(scanned: RatesFile, floor_percent: int) -> Iterator[Finding]:
    for line, rate in scanned.rows.items():
        earned_micros = rate.rate_micros - rate.twilio_micros
        if earned_micros < 0:
            yield Finding(line, Fault.BELOW_COST, f"{rate.country_code} costs more than it brings")
        elif earned_micros * 100 < rate.rate_micros * floor_percent:
            detail = f"{rate.country_code} earns {rate.margin_percent} % of its price"
            yield Finding(line, Fault.LOW_MARGIN, detail)


def _gaps(scanned: RatesFile, in_force: RateTable, now: datetime) -> Iterator[Finding]:
    lines = {rate: line for line, rate in reversed(scanned.rows.items())}
    for country in (rate.country_code for rate in in_force.countries(now)):
        # That the US have a price is asked of every file.
        if country == "US" or country in scanned.unread:
            continue
        first = next(iter(scanned.table.by_country.get(country, [])), None)
        if first is None:
            yield Finding(None, Fault.GAP, f"{country} has a price today and none in the file")
        elif first.effective_from > now:
            detail = f"{country} has no price before {first.effective_from:%Y-%m-%d}"
            yield Finding(lines[first], Fault.GAP, detail)


def _changes(scanned: RatesFile, in_force: RateTable, now: datetime) -> Iterator[PriceChange]:
    """Follow each country from its price of today through all that the file has for it."""
    new = scanned.table
    for country in dict.fromkeys([*in_force.by_country, *new.by_country]):
        if country in scanned.unread:
            continue
        before = in_force.in_force(country, now)
        later = [rate for rate in new.by_country.get(country, ()) if rate.effective_from > now]
        for after in [new.in_force(country, now), *later]:
            if _prices(before) != _prices(after):
                yield _change(country, before, after)
            before = after


def _prices(rate: Rate | None) -> tuple[int, int] | None:
    return None if rate is None else (rate.rate_micros, rate.twilio_micros)


def _change(country: str, before: Rate | None, after: Rate | None) -> PriceChange:
    return PriceChange(
        country_code=country,
        effective_from=after.dated_from if after else None,
        old_cents=exact_cents(before.rate_micros) if before else None,
        new_cents=exact_cents(after.rate_micros) if after else None,
        change_percent=_percent(before.rate_micros, after.rate_micros)
        if before and after
        else None,
        old_twilio_cents=exact_cents(before.twilio_micros) if before else None,
        new_twilio_cents=exact_cents(after.twilio_micros) if after else None,
    )


def _percent(old_micros: int, new_micros: int) -> Decimal:
    more_micros = new_micros - old_micros
    tenths = (2_000 * abs(more_micros) + old_micros) // (2 * old_micros)
    return Decimal(f"{'-' if more_micros < 0 else ''}{tenths}e-1")
