"""What an SMS costs: rates, the country of a phone, and the one place where both meet segments.

Twilio's list price per segment and country, as given in the owner's table, is the only figure from
outside; everything else follows from it and the margin, unless a rates file sets a price of its
own. The margin is on the price, not a markup on the cost: of what a customer pays, 80 % are earned
and 20 % go to Twilio, so customer = twilio / 0.20. To the US a segment costs 1.13 cents and sells
for 5.65; a markup of 80 % would ask for 2.034 and earn 44 % of it.

A rate is finer than a cent, so it is counted in micros, millionths of a dollar: 5.65 cents are
56,500. Integers and Decimals only. Nothing here is rounded, except that a count of segments is
rounded down and ``calculate_sms_cost_cents``, a figure for display, up.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from tbpay import rates
from tbpay.errors import Code, InvalidInputError, RefusedError, excerpt
from tbpay.models import E164, MAX_SEGMENTS, CountrySMSCost, amount, whole
from tbpay.money import exact_cents, whole_cents
from tbpay.rates import MARGIN_PERCENT as MARGIN_PERCENT, TOP_UP_CENTS, Rate, RateTable, cost_of

if TYPE_CHECKING:
    from tbpay.segments import Culprit, SegmentCount


class InvalidPhoneError(InvalidInputError):
    """A phone number that has no country: not in international form, impossible, or nobody's."""


@dataclass(frozen=True)
class Quote:
    """What a message to a phone costs, and how many segments an amount buys there.

    ``country`` is the number's own region, ``assumed`` when only its calling code tells it.
    ``fallback`` says that the country has no price and the US rate stands in. ``rate_*`` is one
    segment, ``cost_*`` the whole message; micros and cents say exactly the same. ``encoding``,
    ``units`` and ``culprits`` tell how the segments of a text were counted. What Twilio takes for
    the message is unknown for a fallback; ``rate_from`` is the date of a rate that has one.
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
    encoding: str | None = None
    units: int | None = None
    culprits: "tuple[Culprit, ...]" = ()
    twilio_cost_micros: int | None = None
    rate_from: datetime | None = None


def quote(
    phone: str,
    *,
    segments: int | None = None,
    text: str | None = None,
    amount_cents: int | None = None,
    at: datetime | None = None,
) -> Quote:
    """Price a message to a phone; a charge debits the answer's ``cost_micros``.

    ``phone`` is strict E.164. The message is a ``text`` of 1 … 1,600 characters, or ``segments``,
    1 … 1,000,000, one when neither is given. ``amount_cents`` is 1 … 99,999,999, $10 when None;
    ``at`` an aware time, now when None. A country without a price is quoted at the US rate, and the
    quote says so. Raises InvalidPhoneError as ``get_country_from_phone`` does, InvalidInputError
    for the others and for a broken rates file, UnavailableError for one that cannot be read, and
    RefusedError for a time before the first rate.
    """
    counted: SegmentCount | None = None
    if text is None:
        segments = whole(1 if segments is None else segments, "segments", 1, MAX_SEGMENTS)
    elif segments is None:
        # Imported here, so that a message without a text does not wait for it.
        from tbpay.segments import count_segments

        counted = count_segments(text)
        segments = counted.segments
    else:
        raise InvalidInputError("a message is given as a text or as segments, not as both")
    spent_cents = TOP_UP_CENTS if amount_cents is None else amount(amount_cents)
    country, assumed = locate(phone)
    table = rates.current()
    own = table.in_force(country, at)
    rate = own or _us_rate(table, at)
    cost_micros = rate.rate_micros * segments
    return Quote(
        phone=phone,
        country=country,
        assumed=assumed,
        fallback=own is None,
        segments=segments,
        rate_micros=rate.rate_micros,
        cost_micros=cost_micros,
        rate_cents=exact_cents(rate.rate_micros),
        cost_cents=exact_cents(cost_micros),
        amount_cents=spent_cents,
        segments_for_amount=rate.segments_for(spent_cents),
        encoding=counted.encoding if counted else None,
        units=counted.units if counted else None,
        culprits=counted.culprits if counted else (),
        twilio_cost_micros=own.twilio_micros * segments if own else None,
        rate_from=rate.dated_from,
    )


def get_sms_cost(country_code: str) -> CountrySMSCost:
    """Answer today's price of a segment to a country, in any case; the US price when it has none.

    ``country_code`` is ISO 3166-1 alpha-2; the prices are exact cents. Raises InvalidInputError for
    what is not text, and as ``quote`` does for a rates file.
    """
    return cost_of(rate_of(country_code))


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
    return whole_cents(rate_of(country_code).rate_micros * segments)


def get_country_from_phone(phone: str) -> str:
    """Answer the country of a phone number: its own region, else its calling code's main country.

    ``phone`` is strict E.164: ``+``, then 7–15 ASCII digits, no spaces. The answer is an ISO 3166-1
    alpha-2 code as phonenumbers reports it: Jersey is JE, not GB. Raises InvalidPhoneError for
    another form, a calling code that is not in use or belongs to no country, and a number of
    digits that its calling code does not have.
    """
    return locate(phone)[0]


def locate(phone: str) -> tuple[str, bool]:
    """Answer a phone number's country, and whether it is assumed from the calling code alone.

    The phone as in ``get_country_from_phone``. Raises InvalidPhoneError.
    """
    if type(phone) is not str or not E164.fullmatch(phone):
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


def masked(phone: str) -> str:
    """Answer what of a phone number may be kept: its calling code and last two digits, +44…23.

    ``phone`` is one that ``locate`` takes.
    """
    import phonenumbers

    codes = (phone[1:digits] for digits in (2, 3, 4))
    calling_code = next(c for c in codes if int(c) in phonenumbers.COUNTRY_CODE_TO_REGION_CODE)
    return f"+{calling_code}…{phone[-2:]}"


def rate_of(country_code: str) -> Rate:
    """Answer the rate in force to a country, in any case; that of the US when it has none.

    Raises as ``get_sms_cost`` does.
    """
    if type(country_code) is not str:
        raise InvalidInputError(
            f"country_code must be text such as 'GB', not {excerpt(country_code)}"
        )
    # Other letters have ASCII capitals too: a dotless i would turn an unknown code into IT.
    code = country_code.upper() if country_code.isascii() else country_code
    table = rates.current()
    return table.in_force(code) or _us_rate(table)


def _us_rate(table: RateTable, at: datetime | None = None) -> Rate:
    """Answer the rate that stands in for a country without one."""
    rate = table.in_force("US", at)
    if rate is None:
        raise RefusedError(
            f"no price is in force at that time in {excerpt(table.source)}", code=Code.UNPRICED
        )
    return rate


SMS_COSTS_BY_COUNTRY: dict[str, CountrySMSCost] = {
    rate.country_code: cost_of(rate) for rate in rates.built_in.countries()
}
