import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tbpay.errors import Code, InvalidInputError, RefusedError, excerpt
from tbpay.models import MAX_AMOUNT_CENTS, MAX_SEGMENTS, CountrySMSCost
from tbpay.segments import Culprit, count_segments
from tbpay.sms_pricing import (
    MARGIN_PERCENT,
    SMS_COSTS_BY_COUNTRY,
    InvalidPhoneError,
    Quote,
    calculate_sms_cost_cents,
    get_country_from_phone,
    get_segments_per_topup,
    get_sms_cost,
    quote,
)

# Country, name, Twilio's cents, customer's cents, segments per $10, a number, cost of 3 in cents.
TABLE = [
    ("US", "United States", "1.13", "5.65", 176, "+12015550123", 17),
    ("CA", "Canada", "1.70", "8.50", 117, "+14162345678", 26),
    ("GB", "United Kingdom", "5.24", "26.20", 38, "+447400123456", 79),
    ("FR", "France", "7.98", "39.90", 25, "+33612345678", 120),
    ("IT", "Italy", "9.27", "46.35", 21, "+393123456789", 140),
    ("CH", "Switzerland", "7.25", "36.25", 27, "+41781234567", 109),
    ("NZ", "New Zealand", "10.50", "52.50", 19, "+64211234567", 158),
    ("ZA", "South Africa", "10.89", "54.45", 18, "+27711234567", 164),
]
PHONES = {row[0]: row[5] for row in TABLE}

# The first look at a country reads its metadata, which no example should be blamed for.
unhurried = settings(deadline=None)
countries = st.sampled_from(sorted(SMS_COSTS_BY_COUNTRY))
segment_counts = st.integers(1, MAX_SEGMENTS)
amounts_cents = st.integers(1, MAX_AMOUNT_CENTS)


@pytest.mark.parametrize(("code", "name", "twilio", "customer", "segments", "phone", "cost"), TABLE)
def test_a_country_costs_what_the_owners_table_says(
    code: str, name: str, twilio: str, customer: str, segments: int, phone: str, cost: int
) -> None:
    entry = SMS_COSTS_BY_COUNTRY[code]

    assert entry == CountrySMSCost(code, name, Decimal(twilio), Decimal(customer), segments)
    assert str(entry.twilio_cost_per_segment_cents) == twilio
    assert str(entry.customer_cost_per_segment_cents) == customer
    assert get_segments_per_topup(code) == segments
    assert get_country_from_phone(phone) == code
    assert calculate_sms_cost_cents(code, 3) == cost


def test_there_are_eight_countries_with_a_price() -> None:
    assert list(SMS_COSTS_BY_COUNTRY) == [row[0] for row in TABLE]


@pytest.mark.parametrize("code", ["GB", "gb", "Gb", "gB"])
def test_a_country_is_found_in_any_case(code: str) -> None:
    assert get_sms_cost(code) is SMS_COSTS_BY_COUNTRY["GB"]


# Dotless i and long s have the capitals I and S.
@pytest.mark.parametrize("code", ["DE", "JE", "", " ", "GB ", "GBR", "001", "ZZ", "ıt", "uſ", "\0"])
def test_an_unknown_country_costs_what_the_us_cost(code: str) -> None:
    assert get_sms_cost(code) is SMS_COSTS_BY_COUNTRY["US"]
    assert get_segments_per_topup(code) == 176
    assert calculate_sms_cost_cents(code, 1) == 6


@pytest.mark.parametrize("code", [None, True, 44, 1.5, b"GB", ["GB"]])
def test_a_country_code_that_is_no_text_is_refused(code: Any) -> None:
    for ask in (get_sms_cost, get_segments_per_topup, lambda it: calculate_sms_cost_cents(it, 1)):
        with pytest.raises(InvalidInputError, match="country_code must be text such as 'GB', not"):
            ask(code)


@unhurried
@given(country=countries, segments=segment_counts)
def test_of_what_a_customer_pays_twilio_gets_a_fifth(country: str, segments: int) -> None:
    twilio_cents = SMS_COSTS_BY_COUNTRY[country].twilio_cost_per_segment_cents

    revenue_micros = quote(PHONES[country], segments=segments).cost_micros

    assert MARGIN_PERCENT == 80
    assert revenue_micros * 20 == int(twilio_cents * 10_000) * segments * 100


@unhurried
@given(country=countries, segments=segment_counts)
def test_a_message_costs_its_rate_times_its_segments(country: str, segments: int) -> None:
    answer = quote(PHONES[country], segments=segments)

    assert answer.segments == segments
    assert answer.cost_micros == answer.rate_micros * segments
    assert answer.cost_cents == answer.rate_cents * segments
    assert answer.rate_cents * 10_000 == answer.rate_micros
    assert answer.rate_cents == SMS_COSTS_BY_COUNTRY[country].customer_cost_per_segment_cents


@unhurried
@given(country=countries, amount_cents=amounts_cents)
def test_an_amount_buys_its_segments_and_not_one_more(country: str, amount_cents: int) -> None:
    answer = quote(PHONES[country], amount_cents=amount_cents)

    bought_micros = answer.segments_for_amount * answer.rate_micros
    assert bought_micros <= amount_cents * 10_000 < bought_micros + answer.rate_micros
    assert answer.amount_cents == amount_cents


@unhurried
@given(country=countries, segments=segment_counts)
def test_the_cost_for_display_is_the_exact_one_rounded_up(country: str, segments: int) -> None:
    cost_cents = calculate_sms_cost_cents(country, segments)

    assert type(cost_cents) is int
    assert 0 <= cost_cents - quote(PHONES[country], segments=segments).cost_cents < 1


@pytest.mark.parametrize("country", PHONES)
def test_ten_dollars_are_quoted_as_what_a_top_up_promises(country: str) -> None:
    answer = quote(PHONES[country])

    assert (answer.amount_cents, answer.segments) == (1_000, 1)
    assert answer.segments_for_amount == get_segments_per_topup(country)


@pytest.mark.parametrize("country", PHONES)
def test_no_message_costs_more_than_an_amount_by_hand(country: str) -> None:
    assert calculate_sms_cost_cents(country, MAX_SEGMENTS) <= MAX_AMOUNT_CENTS


def test_a_quote_says_everything_about_a_message() -> None:
    answer = quote("+447400123456", segments=3, amount_cents=2_000)

    assert answer == Quote(
        phone="+447400123456",
        country="GB",
        assumed=False,
        fallback=False,
        segments=3,
        rate_micros=262_000,
        cost_micros=786_000,
        rate_cents=Decimal("26.20"),
        cost_cents=Decimal("78.60"),
        amount_cents=2_000,
        segments_for_amount=76,
        encoding=None,
        units=None,
        culprits=(),
        twilio_cost_micros=157_200,
        rate_from=None,
    )
    assert (str(answer.rate_cents), str(answer.cost_cents)) == ("26.20", "78.60")


def test_a_quote_is_exact_whatever_precision_the_application_has_set() -> None:
    with localcontext() as context:
        context.prec = 2
        answer = quote("+27711234567", segments=12_345)

    assert answer.rate_micros == 544_500
    assert answer.cost_micros == 6_721_852_500
    assert answer.cost_cents == Decimal("672185.25")


@pytest.mark.parametrize("segments", [0, -1, MAX_SEGMENTS + 1, True, 1.0, "1", Decimal(1)])
def test_segments_that_are_no_count_are_refused(segments: Any) -> None:
    with pytest.raises(InvalidInputError, match="segments must be"):
        quote("+447400123456", segments=segments)
    with pytest.raises(InvalidInputError, match="segments must be"):
        calculate_sms_cost_cents("GB", segments)


def test_a_message_without_a_text_is_one_segment() -> None:
    assert quote("+447400123456").segments == 1
    assert quote("+447400123456") == quote("+447400123456", segments=1)


def test_the_segments_of_a_text_are_counted_and_said() -> None:
    answer = quote("+447700900123", text="Your code is 1234 €")

    assert (answer.country, answer.assumed) == ("GB", True)
    assert (answer.encoding, answer.units, answer.segments) == ("GSM-7", 20, 1)
    assert (answer.cost_cents, answer.culprits) == (Decimal("26.20"), ())

    answer = quote("+447700900123", text="x" * 80 + "’")

    assert (answer.encoding, answer.units, answer.segments) == ("UCS-2", 81, 2)
    assert answer.cost_cents == Decimal("52.40")
    assert answer.culprits == (Culprit(80, "’", "'"),)


@unhurried
@given(country=countries, text=st.text(st.characters(), min_size=1))
def test_a_text_costs_what_its_segments_cost(country: str, text: str) -> None:
    answer = quote(PHONES[country], text=text)

    counted = count_segments(text)
    plain = quote(PHONES[country], segments=counted.segments)
    assert (answer.units, answer.culprits) == (counted.units, counted.culprits)
    assert replace(answer, encoding=None, units=None, culprits=()) == plain


def test_a_message_is_a_text_or_a_number_of_segments() -> None:
    for text in ("hi", ""):
        with pytest.raises(InvalidInputError, match=r"as a text or as segments, not as both$"):
            quote("+447400123456", text=text, segments=1)


@pytest.mark.parametrize("text", ["", "x" * 1_601, 7, b"hi"])
def test_a_text_that_is_none_is_refused(text: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^a text "):
        quote("+447400123456", text=text)


@unhurried
@given(country=countries, segments=segment_counts)
def test_twilios_part_of_a_cost_is_said_with_it(country: str, segments: int) -> None:
    answer = quote(PHONES[country], segments=segments)

    assert answer.twilio_cost_micros is not None
    assert answer.twilio_cost_micros * 5 == answer.cost_micros


@pytest.mark.parametrize("amount_cents", [0, -1, MAX_AMOUNT_CENTS + 1, True, 10.0, "10", b"10"])
def test_an_amount_that_is_none_is_refused(amount_cents: Any) -> None:
    with pytest.raises(InvalidInputError, match="amount_cents must be"):
        quote("+447400123456", amount_cents=amount_cents)


@pytest.mark.parametrize(
    ("phone", "country"),
    [
        ("+12012345678", "US"),
        ("+14162345678", "CA"),
        ("+18765550123", "JM"),
        ("+17872345678", "PR"),
        ("+13402345678", "VI"),
        ("+16712345678", "GU"),
        ("+18002345678", "US"),
        ("+18882345678", "US"),
        ("+19002345678", "US"),
        ("+15002345678", "US"),
        ("+16002102345", "CA"),
        ("+16222102345", "CA"),
        ("+447797712345", "JE"),
        ("+447781123456", "GG"),
        ("+447624012345", "IM"),
        ("+390669812345", "VA"),
        ("+39066982", "VA"),
        ("+390612345678", "IT"),
        ("+77012345678", "KZ"),
        ("+79123456789", "RU"),
        ("+590690123456", "GP"),
        ("+262692123456", "RE"),
        ("+262269012345", "YT"),
        ("+212528812345", "MA"),
        ("+4779123456", "SJ"),
        ("+358181234567", "AX"),
        ("+61891621234", "CC"),
    ],
)
def test_a_number_belongs_to_its_own_region(phone: str, country: str) -> None:
    answer = quote(phone)

    assert get_country_from_phone(phone) == country
    assert (answer.phone, answer.country, answer.assumed) == (phone, country, False)


@pytest.mark.parametrize(
    ("phone", "country"),
    [("+447700900123", "GB"), ("+17102345678", "US"), ("+19992345678", "US")],
)
def test_a_number_without_a_region_is_assumed_to_be_of_its_codes_main_country(
    phone: str, country: str
) -> None:
    answer = quote(phone)

    assert get_country_from_phone(phone) == country
    assert (answer.country, answer.assumed, answer.fallback) == (country, True, False)
    assert answer.rate_cents == get_sms_cost(country).customer_cost_per_segment_cents


@pytest.mark.parametrize(
    "phone", ["+447797712345", "+390669812345", "+17872345678", "+4915123456789"]
)
def test_the_us_rate_stands_in_for_a_country_without_a_price(phone: str) -> None:
    answer = quote(phone)

    assert answer.country not in SMS_COSTS_BY_COUNTRY
    assert (answer.fallback, answer.rate_micros) == (True, 56_500)
    # What Twilio takes there is not known.
    assert answer.twilio_cost_micros is None


NO_FORM = "is not a phone number in international form such as +447700900123"
NO_CODE = "begins with no calling code in use: check its first digits"
NO_LENGTH = "has too few or too many digits for its calling code: check them, area code included"
NO_COUNTRY = "belongs to no country: give a number with a country's calling code"


@pytest.mark.parametrize(
    "phone",
    [
        "",
        " ",
        "+",
        "+0123",
        "+0447400123456",
        "+44",
        "+123456",
        "+1234567890123456",
        "447400123456",
        "07400123456",
        "00447400123456",
        "+44 7700",
        "+44 7400 123456",
        "+44-7400-123456",
        " +447400123456",
        "+447400123456 ",
        "+447400123456\n",
        "+447400123456\0",
        "\ufeff+447400123456",
        "++447400123456",
        "+44740012345a",
        "+44TOBEPAID",
        "+447400123456x12",
        "+447400123456[/]",
        "+447400123456;ext=1",
        "tel:+447400123456",
        "abc+447400123456",
        '{"phone": "+447400123456"}',
        "+447400123456 +447400123457",
        "+４４７４００１２３４５６",
        "＋447400123456",
        "+٤٤٧٤٠٠١٢٣٤٥٦",
        "+44740012345²",
        "📞+447400123456",
        "+44740012345\udcff",
        "+" + "4" * 1_000_000,
    ],
    ids=lambda phone: ascii(phone[:30]),
)
def test_what_is_not_strictly_e164_is_refused(phone: str) -> None:
    refuses(phone, NO_FORM)


@pytest.mark.parametrize("phone", ["+9991234567", "+2101234567", "+3790669812345"])
def test_a_calling_code_that_nobody_has_is_refused(phone: str) -> None:
    refuses(phone, NO_CODE)


@pytest.mark.parametrize(
    "phone",
    [
        "+3361234567",
        "+336123456789",
        "+4178123456",
        "+4178123456789",
        "+6421123456789",
        "+2771123456789",
        "+44740012345678",
        # Seven digits are a local number within the US.
        "+12345678",
        "+1201234567",
        "+120155501234",
    ],
)
def test_a_number_of_digits_that_the_calling_code_does_not_have_is_refused(phone: str) -> None:
    refuses(phone, NO_LENGTH)


@pytest.mark.parametrize(
    "phone",
    [
        "+881612345678",
        "+870301234567",
        "+883510012345",
        "+979123456789",
        "+80012345678",
        "+80812345678",
        "+882123456789",
        "+88812345678901",
        "+878101234567890",
    ],
)
def test_a_number_of_no_country_is_refused_and_not_priced_as_american(phone: str) -> None:
    refuses(phone, NO_COUNTRY)


@pytest.mark.parametrize(
    ("phone", "meant"), [("+4407400123456", "+447400123456"), ("+330612345678", "+33612345678")]
)
def test_a_number_with_a_trunk_prefix_is_refused_with_the_form_it_should_have(
    phone: str, meant: str
) -> None:
    refuses(phone, f"is not in international form: perhaps {meant} is meant")
    assert get_country_from_phone(meant)


@pytest.mark.parametrize("phone", [None, True, 447400123456, 1.5, b"+447400123456", ["+44"]])
def test_a_phone_that_is_no_text_is_refused(phone: Any) -> None:
    refuses(phone, NO_FORM)


@unhurried
@given(phone=st.from_regex(r"\+[1-9][0-9]{6,14}", fullmatch=True) | st.text())
def test_every_phone_gets_a_country_or_a_refusal(phone: str) -> None:
    try:
        country = get_country_from_phone(phone)
    except InvalidPhoneError:
        return
    assert len(country) == 2
    assert country.isascii()
    assert country.isupper()
    assert country != "ZZ"


def refuses(phone: Any, reason: str) -> None:
    for ask in (get_country_from_phone, quote):
        with pytest.raises(InvalidPhoneError) as refusal:
            ask(phone)
        assert refusal.value.message == f"{excerpt(phone)} {reason}"
        assert refusal.value.code is Code.INVALID
        assert isinstance(refusal.value, ValueError)


RATES = """\
country_code,country_name,twilio_usd_per_segment,customer_usd_per_segment,effective_from
US,United States,0.0113,,2020-01-01
DE,Germany,0.1000,,2020-01-01
DE,Germany,0.1100,0.60,2026-01-01
"""


@pytest.fixture
def dated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A rates file in force; answer its name."""
    path = tmp_path / "rates.csv"
    path.write_text(RATES)
    monkeypatch.setenv("TBPAY_RATES_FILE", str(path))
    return str(path)


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.usefixtures("dated")
def test_everything_is_answered_from_the_rates_in_force() -> None:
    assert get_sms_cost("de").customer_cost_per_segment_cents == Decimal("60.00")
    assert get_segments_per_topup("DE") == 16
    assert calculate_sms_cost_cents("DE", 3) == 180
    assert quote("+4915123456789").cost_micros == 600_000
    # What is not in the file has no price, though the built-in table has one.
    assert get_sms_cost("GB").country_code == "US"
    assert quote("+447400123456").fallback


@pytest.mark.usefixtures("dated")
def test_a_quote_can_be_asked_for_at_a_time() -> None:
    before = quote("+4915123456789", segments=2, at=day("2025-12-31"))
    after = quote("+4915123456789", segments=2, at=day("2026-01-01"))

    assert (before.cost_micros, before.twilio_cost_micros) == (1_000_000, 200_000)
    assert (after.cost_micros, after.twilio_cost_micros) == (1_200_000, 220_000)
    assert (before.rate_from, after.rate_from) == (day("2020-01-01"), day("2026-01-01"))
    assert quote("+447400123456", at=day("2025-12-31")).rate_from == day("2020-01-01")


def test_at_a_time_before_all_prices_nothing_is_quoted(dated: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        quote("+4915123456789", at=day("2019-12-31"))

    assert refusal.value.message == f"no price is in force at that time in {excerpt(dated)}"
    assert refusal.value.code is Code.UNPRICED


@pytest.mark.parametrize("at", [datetime(2026, 1, 1), "2026-01-01", 0, True])  # noqa: DTZ001
def test_a_time_that_is_none_is_refused(at: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^at must be a time with a zone, not "):
        quote("+447400123456", at=at)


def test_importing_prices_loads_neither_phonenumbers_nor_a_database() -> None:
    program = (
        "import sys; from tbpay.sms_pricing import get_sms_cost, quote; get_sms_cost('GB');"
        "print(sorted({'phonenumbers', 'sqlalchemy', 'alembic', 'rich', 'typer'} & {*sys.modules}))"
    )

    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (answer.returncode, answer.stdout.strip(), answer.stderr) == (0, "[]", "")
