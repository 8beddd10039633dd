"""What an SMS costs: rates, the country of a phone, and the one place where both meet segments.

Twilio's list price per segment and country, as given in the owner's table, is the only figure from
outside; everything else follows from it and the margin. The margin is on the price, not a markup
on the cost: of what a customer pays, 80 % are earned and 20 % go to Twilio, so customer =
twilio / 0.20. To the US a segment costs 1.13 cents and sells for 5.65; a markup of 80 % would ask
for 2.034 and earn 44 % of it.

A rate is finer than a cent, so it is counted in micros, millionths of a dollar: 5.65 cents are
56,500. Integers and Decimals only. Nothing here is rounded, except that a count of segments is
rounded down and ``calculate_sms_cost_cents``, a figure for display, up.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from tbpay.errors import InvalidInputError, excerpt
from tbpay.models import E164_PATTERN, CountrySMSCost, amount, whole
from tbpay.money import MICROS_PER_CENT, whole_cents

MARGIN_PERCENT = 80
TOP_UP_CENTS = 1_000
# A million segments to the dearest country still cost less than the largest amount by hand.
MAX_SEGMENTS = 1_000_000

# Twilio's list price of one segment in micros: $0.0113 is 11,300.
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

# Compiled here, as the patterns of many countries push this one out of re's own cache.
_E164 = re.compile(E164_PATTERN)


class InvalidPhoneError(InvalidInputError):
    """A phone number that has no country: not in international form, impossible, or nobody's."""


@dataclass(frozen=True)
class Quote:
    """What a message to a phone costs, and how many segments an amount buys there.

    ``country`` is the number's own region, ``assumed`` when only its calling code tells it.
    ``fallback`` says that the country has no price and the US rate stands in. ``rate_*`` is one
    segment, ``cost_*`` the whole message; micros and cents say exactly the same.
    """

    phone: str
    country: str
    assumed: bool
    fallback: bool
    segments: int
    rate_micros: int
    cost_micros: int
    rate_cents: Decimal
    cost_cents: Decimal
    amount_cents: int
    segments_for_amount: int


def quote(phone: str, *, segments: int = 1, amount_cents: int | None = None) -> Quote:
    """Price a message to a phone; a charge debits the answer's ``cost_micros``.

    ``phone`` is strict E.164, ``segments`` 1 … 1,000,000, ``amount_cents`` 1 … 99,999,999 and $10
    when None. A country without a price is quoted at the US rate, and the quote says so. Raises
    InvalidPhoneError as ``get_country_from_phone`` does, InvalidInputError for the two numbers.
    """
    whole(segments, "segments", 1, MAX_SEGMENTS)
    spent_cents = TOP_UP_CENTS if amount_cents is None else amount(amount_cents)
    country, assumed = _locate(phone)
    rate_cents = get_sms_cost(country).customer_cost_per_segment_cents
    rate_micros = _micros(rate_cents)
    cost_micros = rate_micros * segments
    return Quote(
        phone=phone,
        country=country,
        assumed=assumed,
        fallback=country not in SMS_COSTS_BY_COUNTRY,
        segments=segments,
        rate_micros=rate_micros,
        cost_micros=cost_micros,
        rate_cents=rate_cents,
        cost_cents=_cents(cost_micros),
        amount_cents=spent_cents,
        segments_for_amount=segments_for(rate_cents, spent_cents),
    )


def segments_for(rate_cents: Decimal, amount_cents: int) -> int:
    """Answer how many whole segments an amount buys at a rate in exact cents."""
    return amount_cents * MICROS_PER_CENT // _micros(rate_cents)


def get_sms_cost(country_code: str) -> CountrySMSCost:
    """Answer the price of a segment to a country, in any case; the US price when it has none.

    ``country_code`` is ISO 3166-1 alpha-2; the prices are exact cents, Twilio's from its list as
    given in the owner's table. Raises InvalidInputError for what is not text.
    """
    if type(country_code) is not str:
        raise InvalidInputError(
            f"country_code must be text such as 'GB', not {excerpt(country_code)}"
        )
    # Other letters have ASCII capitals too: a dotless i would turn an unknown code into IT.
    code = country_code.upper() if country_code.isascii() else country_code
    return SMS_COSTS_BY_COUNTRY.get(code, SMS_COSTS_BY_COUNTRY["US"])


def get_segments_per_topup(country_code: str) -> int:
    """Answer how many whole segments a top-up of $10 buys; the country as in ``get_sms_cost``."""
    return get_sms_cost(country_code).segments_per_10_dollars


def calculate_sms_cost_cents(country_code: str, segments: int) -> int:
    """Answer what a whole message costs in cents, rounded up, for display only: never debit it.

    Three US segments cost 16.95 cents and show as 17. Rounded messages would sell fewer segments
    than $10 promises; a charge debits ``quote(…).cost_micros``. ``segments`` is 1 … 1,000,000, the
    country as in ``get_sms_cost``. Raises InvalidInputError.
    """
    whole(segments, "segments", 1, MAX_SEGMENTS)
    rate_micros = _micros(get_sms_cost(country_code).customer_cost_per_segment_cents)
    return whole_cents(rate_micros * segments)


def get_country_from_phone(phone: str) -> str:
    """Answer the country of a phone number: its own region, else its calling code's main country.

    ``phone`` is strict E.164: ``+``, then 7–15 ASCII digits, no spaces. The answer is an ISO 3166-1
    alpha-2 code as phonenumbers reports it: Jersey is JE, not GB. Raises InvalidPhoneError for
    another form, a calling code that is not in use or belongs to no country, and a number of
    digits that its calling code does not have.
    """
    return _locate(phone)[0]


def _locate(phone: str) -> tuple[str, bool]:
    """Answer a phone number's country, and whether it is assumed from the calling code alone."""
    if type(phone) is not str or not _E164.fullmatch(phone):
        raise InvalidPhoneError(
            f"{excerpt(phone)} is not a phone number in international form such as +447700900123"
        )
    # Imported here, so that commands without a phone do not wait for it.
    import phonenumbers

    try:
        number = phonenumbers.parse(phone)
    except phonenumbers.NumberParseException:
        raise InvalidPhoneError(
            f"{excerpt(phone)} begins with no calling code in use: check its first digits"
        ) from None
    # For a calling code of a single country the region is not looked for: any length would do.
    # And a plain is_possible_number takes a local number, which cannot be reached from abroad.
    possible = phonenumbers.is_possible_number_with_reason(number)
    if possible != phonenumbers.ValidationResult.IS_POSSIBLE:
        raise InvalidPhoneError(
            f"{excerpt(phone)} has too few or too many digits for its calling code: "
            "check them, area code included"
        )
    # The field is optional to its type alone, a parsed number has it; 0 would lead to ZZ.
    calling_code = number.country_code or 0
    # The parser drops a trunk prefix, but Italian numbers keep their leading zeros.
    own_form = f"+{calling_code}{phonenumbers.national_significant_number(number)}"
    if own_form != phone:
        raise InvalidPhoneError(
            f"{excerpt(phone)} is not in international form: perhaps {own_form} is meant"
        )
    region = phonenumbers.region_code_for_number(number)
    country = region or phonenumbers.region_code_for_country_code(calling_code)
    if country in ("001", "ZZ"):
        raise InvalidPhoneError(
            f"{excerpt(phone)} belongs to no country: give a number with a country's calling code"
        )
    return country, region is None


def _micros(cents: Decimal) -> int:
    """Turn exact cents into micros: 5.65 are 56,500."""
    # Decimal's own operators would round to the precision that the application has set.
    numerator, denominator = cents.as_integer_ratio()
    return numerator * MICROS_PER_CENT // denominator


def _cents(amount_micros: int) -> Decimal:
    """Turn micros into exact cents of two decimals, or four where it takes them."""
    cents, micros = divmod(amount_micros, MICROS_PER_CENT)
    return Decimal(f"{cents}.{micros:04}".removesuffix("00"))


def _country_cost(code: str, name: str, twilio_micros: int) -> CountrySMSCost:
    """Derive a country's prices from Twilio's."""
    # With a margin of 80 % this is times 5, without a remainder.
    rate_micros = twilio_micros * 100 // (100 - MARGIN_PERCENT)
    return CountrySMSCost(
        country_code=code,
        country_name=name,
        twilio_cost_per_segment_cents=_cents(twilio_micros),
        customer_cost_per_segment_cents=_cents(rate_micros),
        segments_per_10_dollars=TOP_UP_CENTS * MICROS_PER_CENT // rate_micros,
    )


SMS_COSTS_BY_COUNTRY: dict[str, CountrySMSCost] = {
    code: _country_cost(code, name, twilio_micros)
    for code, (name, twilio_micros) in _TWILIO_MICROS.items()
}
