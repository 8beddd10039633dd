"""The rates in force: what a segment to a country costs, from when on, and where that is written.

The built-in table is the owner's; the file that TBPAY_RATES_FILE names replaces all of it. A file
that is broken or missing is refused, and nothing else stands in for it.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from tbpay import models, settings
from tbpay.errors import InvalidInputError, UnavailableError
from tbpay.models import CountrySMSCost
from tbpay.money import MICROS_PER_CENT, exact_cents

MARGIN_PERCENT = 80
TOP_UP_CENTS = 1_000
# A rate without a date has always been in force.
ALWAYS = datetime.min.replace(tzinfo=UTC)


# A named tuple, as a frozen dataclass takes three times as long to define, and every quote waits.
class Rate(NamedTuple):
    """What a segment to a country costs from a time on: Twilio's price and the customer's.

    Both are micros, millionths of a dollar, at least 1; the country is ISO 3166-1 alpha-2.
    """

    country_code: str
    country_name: str
    twilio_micros: int
    rate_micros: int
    effective_from: datetime = ALWAYS

    @property
    def dated_from(self) -> datetime | None:
        """Since when it is in force; None for what has always been."""
        return None if self.effective_from == ALWAYS else self.effective_from

    @property
    def margin_percent(self) -> Decimal:
        """What is earned of the price, below 0 where Twilio takes more than all of it.

        Rounded down to one decimal, so that what is just below a floor does not look like it.
        """
        earned_micros = self.rate_micros - self.twilio_micros
        # Read from a text, as Decimal's operators round to the precision that is set.
        return Decimal(f"{earned_micros * 1_000 // self.rate_micros}e-1")

    def segments_for(self, amount_cents: int) -> int:
        """Answer how many whole segments an amount buys."""
        return amount_cents * MICROS_PER_CENT // self.rate_micros


@lru_cache(1_024)
def cost_of(rate: Rate) -> CountrySMSCost:
    """Answer a rate in exact cents, with the segments that $10 buy."""
    return CountrySMSCost(
        country_code=rate.country_code,
        country_name=rate.country_name,
        twilio_cost_per_segment_cents=exact_cents(rate.twilio_micros),
        customer_cost_per_segment_cents=exact_cents(rate.rate_micros),
        segments_per_10_dollars=rate.segments_for(TOP_UP_CENTS),
    )


class RateTable:
    """Rates, each in force until the next one of its country.

    ``source`` is the path of their file as it was given, or ``built-in``; ``by_country`` has them
    in its order, those of one country by their time.
    """

    def __init__(self, source: str, rates: Iterable[Rate], digest: str | None = None) -> None:
        self.source = source
        self._digest = digest
        self.by_country: dict[str, list[Rate]] = {}
        for rate in rates:
            self.by_country.setdefault(rate.country_code, []).append(rate)
        for dated in self.by_country.values():
            dated.sort(key=lambda rate: rate.effective_from)

    @property
    def digest(self) -> str:
        """SHA-256 in hex: of the file's bytes, or of the file that the built-in table would be."""
        if self._digest is None:
            import hashlib

            self._digest = hashlib.sha256(_as_file(self).encode()).hexdigest()
        return self._digest

    def in_force(self, country_code: str, at: datetime | None = None) -> Rate | None:
        """Answer a country's rate at an aware time, now when None; None where it has none then."""
        moment = _moment(at)
        dated = reversed(self.by_country.get(country_code, []))
        return next((rate for rate in dated if rate.effective_from <= moment), None)

    def countries(self, at: datetime | None = None) -> list[Rate]:
        """Answer the rate of every country that has one at a time, in the order of the source."""
        moment = _moment(at)
        found = (self.in_force(country, moment) for country in self.by_country)
        return [rate for rate in found if rate is not None]


def current() -> RateTable:
    """Answer the rates in force: the file's that TBPAY_RATES_FILE names, else the built-in.

    The file is read again when it has changed, so that a long-running application sees it too.
    Raises InvalidInputError, which names the lines, for a broken file; UnavailableError for one
    that cannot be read.
    """
    path = settings.rates_file()
    return built_in if path is None else _of_file(path)


def _of_file(path: str) -> RateTable:
    global _latest
    import shlex

    from tbpay import files
    from tbpay.rates import reading

    try:
        version = path, files.version(path)
        known, table = _latest
        if version != known or version[1] is None:
            table = reading.read(path)
            _latest = version, table
        return table
    except InvalidInputError as error:
        # A name that begins with a dash would be an option there, or stdin.
        name = f"./{path}" if path.startswith("-") else path
        hint = f"tbpay pricing check {shlex.quote(name)}"
        raise InvalidInputError(f"TBPAY_RATES_FILE: {error.message}", hint=hint) from error
    except UnavailableError as error:
        raise UnavailableError(f"TBPAY_RATES_FILE: {error.message}") from error


def derived_micros(twilio_micros: int) -> int:
    """Answer the customer's price that follows from Twilio's and the margin, both in micros."""
    # With a margin of 80 % this is times 5, without a remainder.
    return twilio_micros * 100 // (100 - MARGIN_PERCENT)


def _moment(at: datetime | None) -> datetime:
    return datetime.now(UTC) if at is None else models.moment(at, "at")


def _as_file(table: RateTable) -> str:
    """Write the built-in table, whose names hold no comma, as a rates file."""
    from tbpay.rates.reading import COLUMNS

    rows = [
        f"{rate.country_code},{rate.country_name},{Decimal(f'{rate.twilio_micros}e-6'):f},"
        f"{Decimal(f'{rate.rate_micros}e-6'):f},{models.time_text(rate.effective_from)}"
        for rate in table.countries()
    ]
    return "\n".join([",".join(COLUMNS), *rows, ""])


# Twilio's list price of one segment in micros, as in the owner's table: $0.0113 is 11,300.
_TWILIO_MICROS = {
    "US": ("United States", 11_300),
    "CA": ("Canada", 17_000),
    "GB": ("United Kingdom", 52_400),
    "FR": ("France", 79_800),
    "IT": ("Italy", 92_700),
    "CH": ("Switzerland", 72_500),
    "NZ": ("New Zealand", 105_000),
    "ZA": ("South Africa", 108_900),
}
built_in = RateTable(
    "built-in",
    [
        Rate(code, name, twilio_micros, derived_micros(twilio_micros))
        for code, (name, twilio_micros) in _TWILIO_MICROS.items()
    ],
)
_latest: tuple[object, RateTable] = (None, built_in)
