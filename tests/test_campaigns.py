"""What a campaign costs: files of numbers, laid out in every way, priced by country."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from tbpay.campaigns import (
    MAX_REFUSED,
    Campaign,
    CountryShare,
    Cover,
    RefusedLine,
    UnpricedCountry,
    cover,
    estimate,
)
from tbpay.errors import InvalidInputError, NotFoundError, UnavailableError
from tbpay.segments import Culprit
from tbpay.sms_pricing import quote
from tbpay.stores import balance_store

PHONES = {
    "US": "+12012345678",
    "CA": "+14162345678",
    "GB": "+447400123456",
    "FR": "+33612345678",
    "IT": "+393123456789",
    "CH": "+41781234567",
    "NZ": "+64211234567",
    "ZA": "+27711234567",
}
# Without a price of their own.
GERMAN, JERSEY = "+4915123456789", "+447797712345"
ASSUMED = "+447700900123"
NOBODYS = "+881612345678"

Written = Callable[[str | bytes], str]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a file and answer its path."""

    def write(content: str | bytes) -> str:
        path = tmp_path / "numbers.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_a_campaign_is_priced_country_by_country(written: Written) -> None:
    numbers = [PHONES["GB"], PHONES["US"], ASSUMED, PHONES["GB"], GERMAN, NOBODYS]

    campaign = estimate(written("\n".join(numbers)), segments=2)

    assert campaign == Campaign(
        recipients=4,
        segments=8,
        cost_micros=1_685_000,
        cost_cents=Decimal("168.50"),
        countries=[
            CountryShare("GB", "United Kingdom", 3, 1, 6, 262_000, 1_572_000, Decimal("93.3")),
            CountryShare("US", "United States", 1, 0, 2, 56_500, 113_000, Decimal("6.7")),
        ],
        unpriced=[UnpricedCountry("DE", 1, 0, 2)],
        refused_lines=1,
        refused=[
            RefusedLine(
                6,
                f"'{NOBODYS}' belongs to no country: give a number with a country's calling code",
            )
        ],
    )


@given(
    numbers=st.lists(st.sampled_from([*PHONES.values(), GERMAN, JERSEY, ASSUMED, NOBODYS, "no"])),
    segments=st.integers(1, 1_000_000),
)
def test_a_campaign_costs_what_its_messages_cost_one_by_one(
    numbers: list[str], segments: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("campaign") / "numbers"
    path.write_text("\n".join(numbers))
    phones = [number for number in numbers if number not in (NOBODYS, "no")]
    quoted = [quote(phone, segments=segments) for phone in phones]

    # Words would be taken for a header.
    path.write_text("\n".join([PHONES["US"], *numbers]))
    campaign = estimate(str(path), segments=segments)

    priced = [quote(PHONES["US"], segments=segments), *(q for q in quoted if not q.fallback)]
    assert campaign.cost_micros == sum(one.cost_micros for one in priced)
    assert campaign.cost_cents * 10_000 == campaign.cost_micros
    assert campaign.recipients == len(priced)
    assert campaign.segments == len(priced) * segments
    assert {share.country_code: share.recipients for share in campaign.countries} == Counter(
        one.country for one in priced
    )
    assert sum(share.cost_micros for share in campaign.countries) == campaign.cost_micros
    assert {it.country_code: it.recipients for it in campaign.unpriced} == Counter(
        one.country for one in quoted if one.fallback
    )
    assert campaign.refused_lines == len(numbers) - len(phones)


def test_the_dearest_country_comes_first_and_the_shares_are_of_the_cost(written: Written) -> None:
    numbers = [PHONES["US"]] * 6 + [PHONES["ZA"]] + [PHONES["CA"]] * 2

    shares = estimate(written("\n".join(numbers))).countries

    assert [(share.country_code, str(share.share_percent)) for share in shares] == [
        ("ZA", "51.7"),
        ("US", "32.2"),
        ("CA", "16.1"),
    ]


@pytest.mark.parametrize(
    "typed",
    [
        "+44 7400 123456",
        " +447400123456 ",
        "+44-7400-123456",
        "+44.7400.123456",
        "+44 (7400) 123-456",
        "(+44) 7400 123456",
        "+44\u00a07400\u00a0123456",
        "+44\u202f7400\u2011123\u2013456",
        "\t+447400123456\t",
    ],
)
def test_what_people_put_in_a_number_to_read_it_is_left_out(written: Written, typed: str) -> None:
    for content in (typed, f"number\n{typed}\n", f'phone,name\n"{typed}","Ann, of London"\n'):
        campaign = estimate(written(content))

        assert [share.country_code for share in campaign.countries] == ["GB"]
        assert (campaign.recipients, campaign.refused) == (1, [])


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("07400 123456", "'07400 123456' is not a phone number in international form"),
        ("0044 7700 900123", "'0044 7700 900123' is not a phone number in international form"),
        ("+44-74", "'+44-74' is not a phone number in international form"),
        ("00447400123456", "'00447400123456' is not a phone number in international form"),
        ("+44 (0)7400 123456", "'+4407400123456' is not in international form: perhaps +4474001"),
        ("+44 7400 12345x", "'+44 7400 12345x' is not a phone number in international form"),
        ("+447400123456,Ann", "'+447400123456,Ann' is not a phone number in international form"),
        ("=+447400123456", "'=+447400123456' is not a phone number in international form"),
        ("@SUM(1+1)", "'@SUM(1+1)' is not a phone number in international form"),
        ("+４４７４００１２３４５６", "'+４４７４００１２３４５６' is not a phone number"),
        ("\x1b[2J", r"'\x1b[2J' is not a phone number in international form"),
        ("\u202e+447400123456", r"'\u202e+447400123456' is not a phone number"),
        ("+99912345678", "'+99912345678' begins with no calling code in use"),
        ("+4474", "'+4474' is not a phone number in international form"),
        ("+" + "4" * 60_000, f"'+{'4' * 79}'… (60,001 characters) is not a phone number"),
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_line_whose_number_is_wrong_is_refused_and_the_others_count(
    written: Written, typed: str, reason: str
) -> None:
    first, last = PHONES["US"], PHONES["GB"]

    campaign = estimate(written(f"{first}\n{typed}\n{last}\n"))

    [refused] = campaign.refused
    assert refused.line == 2
    assert refused.reason.startswith(reason)
    assert (campaign.recipients, campaign.refused_lines) == (2, 1)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("number", "{}"),
        ("phone", "{}"),
        ("Number", "{}"),
        (" PHONE ,name", '{},"Ann"'),
        ("name,number", "Ann,{}"),
        ("name,number", '"Ann, of\nLondon",{}'),
        ("number,name", "{},Ann,,,"),
        ("number,name,,", "{},Ann,,"),
        ('"number","name"', '"{}","Ann"'),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_header_says_where_the_number_stands(
    written: Written, header: str, row: str, end: str, mark: bytes
) -> None:
    rows = [header, *(row.format(PHONES[code]) for code in ("GB", "US", "GB"))]

    campaign = estimate(written(mark + (end.join(rows) + end).encode()))

    assert {it.country_code: it.recipients for it in campaign.countries} == {"GB": 2, "US": 1}
    assert campaign.refused == []


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("name", "the header 'name' has no column number or phone"),
        ("numbers", "the header 'numbers' has no column number or phone"),
        ("number;text", "the header 'number;text' has no column number or phone"),
        ("number,phone", "the header 'number,phone' has number or phone twice"),
        ("number,Number", "the header 'number,Number' has number or phone twice"),
        ("number,text,TEXT", "the header 'number,text,TEXT' has text twice"),
        ("+447400123456 Ann", "the header '+447400123456 Ann' has no column number or phone"),
        ("\x1b[2J", r"the header '\x1b[2J' has no column number or phone"),
    ],
)
def test_a_header_that_names_no_number_is_an_error(
    written: Written, header: str, what: str
) -> None:
    path = written(f"{header}\n{PHONES['GB']}\n")

    with pytest.raises(InvalidInputError) as refusal:
        estimate(path)
    assert refusal.value.message == f"'{path}', line 1: {what}"


def test_a_record_that_does_not_fit_its_header_is_refused(written: Written) -> None:
    gb = PHONES["GB"]
    rows = ["number,text,name", f"{gb},Hello, world,Ann", f"{gb},Hello", gb, f"{gb},Hello,"]

    campaign = estimate(written("\n".join(rows)))

    in_quotes = "one that holds a comma stands in quotes"
    needs_a_comma = "an empty one needs its comma too"
    assert campaign.refused == [
        RefusedLine(2, f"4 fields under a header of 3: {in_quotes}"),
        RefusedLine(3, f"2 fields under a header of 3: {needs_a_comma}"),
        RefusedLine(4, f"1 field under a header of 3: {needs_a_comma}"),
    ]
    assert campaign.recipients == 1


@pytest.mark.parametrize("blank", ["\n", "\r\n", "\n  \n\t\n", "\ufeff\n"])
def test_a_header_may_stand_below_blank_lines(written: Written, blank: str) -> None:
    lines = blank.count("\n")

    campaign = estimate(written(f"{blank}number\n{PHONES['GB']}\nx\n"))

    assert (campaign.recipients, [it.line for it in campaign.refused]) == (1, [lines + 3])
    for header, what in [("name", "'name' has no column"), ("phone,phone", ".* has number or")]:
        with pytest.raises(InvalidInputError, match=f", line {lines + 1}: the header {what}"):
            estimate(written(f"{blank}{header}\n"))


# Messages


def test_a_message_for_all_is_one_segment_unless_it_is_said_otherwise(written: Written) -> None:
    path = written(f"{PHONES['GB']}\n{PHONES['US']}\n")

    assert estimate(path).segments == 2
    assert estimate(path, segments=3).segments == 6
    assert estimate(path, text="x" * 160).segments == 2
    assert estimate(path, text="x" * 161).segments == 4
    assert estimate(path, text="’" * 71).segments == 4


def test_a_campaign_tells_what_forced_ucs_2_on_the_text_for_all(written: Written) -> None:
    path = written(f"{PHONES['GB']}\n{PHONES['US']}\n")

    def counted(**message: Any) -> tuple[str | None, int | None, tuple[Culprit, ...]]:
        campaign = estimate(path, **message)
        return campaign.encoding, campaign.units, campaign.culprits

    assert counted(text="It’s €5") == ("UCS-2", 7, (Culprit(2, "’", "'"),))
    assert counted(text="It's €5") == ("GSM-7", 8, ())
    assert counted(segments=2) == counted() == (None, None, ())
    written(f"number,text\n{PHONES['GB']},It’s\n")
    assert counted() == (None, None, ())


def test_with_a_column_text_each_line_has_a_message_of_its_own(written: Written) -> None:
    rows = [
        "number,text",
        f"{PHONES['GB']},{'x' * 161}",
        f'{PHONES["GB"]},"Hello, ""Ann""\r\nhow are you?"',
        f"{PHONES['US']},{'’' * 71}",
        f"{PHONES['US']},",
        f"{PHONES['US']},{'x' * 1601}",
        f"{GERMAN},{'x' * 400}",
        f"07400,{'x' * 400}",
    ]

    campaign = estimate(written("\r\n".join(rows)))

    segments = {it.country_code: (it.recipients, it.segments) for it in campaign.countries}
    assert segments == {"GB": (2, 3), "US": (1, 2)}
    assert campaign.unpriced == [UnpricedCountry("DE", 1, 0, 3)]
    assert [(it.line, it.reason[:42]) for it in campaign.refused] == [
        (6, "a text needs at least one character"),
        (7, "a text has at most 1,600 characters, and t"),
        (9, "'07400' is not a phone number in internati"),
    ]


@pytest.mark.parametrize("message", [{"segments": 2}, {"text": "Hello"}])
def test_a_message_for_all_beside_a_column_text_is_refused(
    written: Written, message: dict[str, Any]
) -> None:
    path = written(f"number,text\n{PHONES['GB']},Hello\n")

    with pytest.raises(InvalidInputError, match="line 1: with a column text each line has its own"):
        estimate(path, **message)


@pytest.mark.parametrize(
    "message",
    [
        {"segments": 0},
        {"segments": 1_000_001},
        {"segments": True},
        {"segments": "1"},
        {"text": ""},
        {"text": "x" * 1_601},
        {"text": b"x"},
        {"text": "x", "segments": 1},
        {"at": datetime(2026, 11, 23)},  # noqa: DTZ001 - a time without a zone
        {"at": "2026-11-23"},
    ],
    ids=lambda it: ascii(it)[:30],
)
def test_a_message_that_is_none_is_refused_before_the_file_is_looked_at(
    message: dict[str, Any],
) -> None:
    with pytest.raises(InvalidInputError):
        estimate("/no/such/file", **message)


# Files


@pytest.mark.parametrize(
    "content", ["", "\n", "\n\n\r\n  \n", "number\n", "number,text\n,\n , \n", b"\xef\xbb\xbf"]
)
def test_an_empty_file_is_an_empty_campaign(written: Written, content: str | bytes) -> None:
    assert estimate(written(content)) == Campaign(0, 0, 0, Decimal(0), [], [], 0, [])


def test_empty_lines_are_left_out_and_counted_as_lines(written: Written) -> None:
    campaign = estimate(written(f"\n{PHONES['GB']}\n\n  \nx\n"))

    assert campaign.recipients == 1
    assert [it.line for it in campaign.refused] == [5]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (f"{PHONES['GB']}\n".encode("utf-16"), "line 1: UTF-16: save the file as UTF-8"),
        (f"{PHONES['GB']}\n".encode("utf-16-le"), "line 1: a NUL byte: if the file is UTF-16"),
        (b"+447400123456\n+4474\x0000\n", "line 2: a NUL byte"),
        (b"+447400123456\ncaf\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
        (b"+447400123456\r+447400123457\r", "line 1: a carriage return alone"),
        (b"+447400123456\n" + b"4" * 1_000_000, "line 2: over 65,536 characters"),
        (b'number\n"+447400123456\n+447400123457\n', "line 2: a quotation mark is not closed"),
        (b'number\n"+447400"123456\n', "line 2: a quotation mark closes before its field ends"),
        (b'number,text\n"+447400123456\n' + b"x\n" * 40_000, "line 2: a record over 65,536"),
    ],
    ids=lambda it: ascii(it)[:30],
)
def test_a_file_that_is_no_text_is_an_error_with_its_line(
    written: Written, content: bytes, what: str
) -> None:
    path = written(content)

    with pytest.raises(InvalidInputError) as refusal:
        estimate(path)
    assert refusal.value.message.startswith(f"'{path}', {what}")


def test_a_file_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.csv"):
        with pytest.raises(UnavailableError, match="cannot read"):
            estimate(str(path))


def test_of_refused_lines_the_first_thousand_are_named_and_all_are_counted(
    written: Written,
) -> None:
    campaign = estimate(written("07400\n" * (MAX_REFUSED + 5)))

    assert campaign.refused_lines == MAX_REFUSED + 5
    assert [it.line for it in campaign.refused] == list(range(1, MAX_REFUSED + 1))


def test_progress_is_told_in_lines_and_in_bytes_of_how_many(written: Written) -> None:
    told: list[tuple[int, int, int | None]] = []
    # Of several bytes, which are no characters of their own.
    line = f"{PHONES['US']},{'é€😀' * 16}\n"
    size_bytes = len(f"number,name\n{line * 15_200}".encode())

    estimate(
        written(f"number,name\n{line * 15_200}"),
        on_progress=lambda *progress: told.append(progress),
    )

    assert [lines for lines, _, _ in told] == list(range(256, 15_201, 256))
    assert {size for _, _, size in told} == {size_bytes}
    reads_bytes = [read_bytes for _, read_bytes, _ in told]
    assert reads_bytes == sorted(reads_bytes)
    assert reads_bytes[-1] == size_bytes
    # Never far ahead of the lines.
    assert max(read - lines * len(line.encode()) for lines, read, _ in told) < size_bytes // 10


# Rates


@pytest.fixture
def dated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of another table: Britain gets dearer in June, Germany has a price from then on."""
    path = tmp_path / "rates.csv"
    path.write_text(
        "country_code,country_name,twilio_usd_per_segment,customer_usd_per_segment,effective_from\n"
        "US,United States,0.01,,2020-01-01\n"
        "GB,Great Britain,0.05,0.20,2020-01-01\n"
        "GB,Great Britain,0.05,0.30,2026-06-01\n"
        "DE,Germany,0.10,,2026-06-01\n"
    )
    monkeypatch.setenv("TBPAY_RATES_FILE", str(path))


@pytest.mark.usefixtures("dated")
@pytest.mark.parametrize(
    ("at", "rates_micros"),
    [
        (datetime(2026, 5, 31, 23, 59, 59, 999_999, UTC), {"GB": 200_000}),
        (datetime(2026, 6, 1, tzinfo=UTC), {"DE": 500_000, "GB": 300_000}),
        (None, {"DE": 500_000, "GB": 300_000}),
    ],
)
def test_a_campaign_is_priced_by_the_rates_in_force(
    written: Written, at: datetime | None, rates_micros: dict[str, int]
) -> None:
    campaign = estimate(written(f"{PHONES['GB']}\n{GERMAN}\n"), at=at)

    assert {it.country_code: it.rate_micros for it in campaign.countries} == rates_micros
    assert [it.country_code for it in campaign.unpriced] == sorted({"DE"} - {*rates_micros})


# Whether a balance carries it


@pytest.mark.parametrize(
    ("cost_micros", "missing_micros"),
    [
        (1, 0),
        (9_999_999, 0),
        (10_000_000, 0),
        (10_000_001, 1),
        (12_345_678, 2_345_678),
    ],
)
def test_a_balance_carries_a_cost_to_the_micro(
    rich: int, cost_micros: int, missing_micros: int
) -> None:
    assert cover(rich, cost_micros) == Cover(
        account_id=rich,
        balance_cents=1_000,
        subcent_micros=0,
        carried=missing_micros == 0,
        missing_micros=missing_micros,
    )


def test_the_fraction_of_a_cent_counts_too(rich: int) -> None:
    balance_store.charge_sms(rich, PHONES["US"])

    assert covers(rich, 9_943_500) == (994, 3_500, 0)
    assert covers(rich, 9_943_501) == (994, 3_500, 1)


def test_an_account_without_a_balance_lacks_all_of_it(account: int) -> None:
    assert covers(account, 56_500) == (0, 0, 56_500)


def test_an_account_that_owes_lacks_that_too(account: int) -> None:
    balance_store.deduct(account, 5, "owed", allow_negative=True)

    assert covers(account, 56_500) == (-5, 0, 106_500)


@pytest.mark.usefixtures("db")
def test_nobodys_balance_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        cover(99, 1)


def covers(account: int, cost_micros: int) -> tuple[int, int, int]:
    """The balance in cents and its fraction of one, and what is missing."""
    answer = cover(account, cost_micros)
    assert answer.carried == (answer.missing_micros == 0)
    return answer.balance_cents, answer.subcent_micros, answer.missing_micros
