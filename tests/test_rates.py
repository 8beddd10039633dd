import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from probes import wait_until

from tbpay import files, rates, sms_pricing
from tbpay.errors import InvalidInputError, UnavailableError, excerpt
from tbpay.rates import MARGIN_PERCENT, Rate, checking, derived_micros
from tbpay.rates.checking import PriceChange, RatesCheck, check
from tbpay.rates.listing import price_list
from tbpay.rates.reading import COLUMNS, MAX_ROWS, Fault, Finding, read

HEADER = "country_code,country_name,twilio_usd_per_segment,customer_usd_per_segment,effective_from"
US = "US,United States,0.0113,,2020-01-01"
GB = "GB,United Kingdom,0.0524,,2020-01-01"
# What the built-in table has beside them, so that nothing is missing.
OTHERS = [
    "CA,Canada,0.0170,,2020-01-01",
    "FR,France,0.0798,,2020-01-01",
    "IT,Italy,0.0927,,2020-01-01",
    "CH,Switzerland,0.0725,,2020-01-01",
    "NZ,New Zealand,0.1050,,2020-01-01",
    "ZA,South Africa,0.1089,,2020-01-01",
]

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a rates file of rows below the header, or of other bytes; answer its name."""
    path = tmp_path / "rates.csv"

    def write_rows(*rows: str, content: bytes | None = None) -> str:
        path.write_bytes("\n".join([HEADER, *rows, ""]).encode() if content is None else content)
        return str(path)

    return write_rows


@pytest.fixture
def put_in_force(write: Write, monkeypatch: pytest.MonkeyPatch) -> Write:
    """The same, and name it by TBPAY_RATES_FILE."""

    def write_and_name(*rows: str, content: bytes | None = None) -> str:
        name = write(*rows, content=content)
        monkeypatch.setenv("TBPAY_RATES_FILE", name)
        return name

    return write_and_name


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# The table


def test_the_built_in_table_has_always_been_in_force() -> None:
    table = rates.current()

    assert table is rates.built_in
    assert table.source == "built-in"
    assert [rate.country_code for rate in table.countries()] == [
        *["US", "CA", "GB", "FR", "IT", "CH", "NZ", "ZA"]
    ]
    for at in (None, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        assert table.countries(at) == table.countries()
        assert table.in_force("DE", at) is None
    assert {rate.dated_from for rate in table.countries()} == {None}


def test_the_built_in_table_has_the_digest_of_the_file_that_it_would_be(write: Write) -> None:
    rows = [
        f"{rate.country_code},{rate.country_name},{rate.twilio_micros / 1_000_000:.6f},"
        f"{rate.rate_micros / 1_000_000:.6f},0001-01-01T00:00:00.000000Z"
        for rate in rates.built_in.countries()
    ]
    name = write(*rows)

    assert rates.built_in.digest == hashlib.sha256(Path(name).read_bytes()).hexdigest()
    assert read(name).digest == rates.built_in.digest
    assert read(name).countries() == rates.built_in.countries()


def test_an_empty_setting_is_the_built_in_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPAY_RATES_FILE", "")

    assert rates.current() is rates.built_in


def test_a_rate_is_in_force_from_its_time_on_until_the_next_one(write: Write) -> None:
    table = read(
        write(
            US,
            "GB,United Kingdom,0.0524,0.30,2026-12-01",
            "GB,United Kingdom,0.0524,0.20,2020-01-01",
            "GB,United Kingdom,0.0524,0.25,2026-11-01T12:00:00+02:00",
        )
    )

    def price(at: datetime) -> int | None:
        rate = table.in_force("GB", at)
        return rate and rate.rate_micros

    instant = timedelta(microseconds=1)
    assert price(day("2020-01-01") - instant) is None
    assert price(day("2020-01-01")) == 200_000
    assert price(day("2026-11-01T10:00") - instant) == 200_000
    assert price(day("2026-11-01T10:00")) == 250_000
    assert price(day("2026-12-01") - instant) == 250_000
    assert price(day("2026-12-01")) == 300_000
    assert [rate.country_code for rate in table.countries(day("2019-12-31"))] == []
    assert [rate.country_code for rate in table.countries(day("2020-01-01"))] == ["US", "GB"]


def test_a_time_without_a_zone_is_refused() -> None:
    for ask in (rates.built_in.countries, lambda at: rates.built_in.in_force("GB", at)):
        with pytest.raises(InvalidInputError, match="at must be a time with a zone, not "):
            ask(datetime(2026, 11, 23))  # noqa: DTZ001


@given(twilio_micros=st.integers(1, 10**10), rate_micros=st.integers(1, 10**10))
def test_a_margin_never_looks_better_than_it_is(twilio_micros: int, rate_micros: int) -> None:
    with localcontext() as context:
        context.prec = 2
        margin = Rate("GB", "United Kingdom", twilio_micros, rate_micros).margin_percent

    exact_tenths = (rate_micros - twilio_micros) * 1_000
    assert margin.as_tuple().exponent == -1
    assert int(margin.scaleb(1)) * rate_micros <= exact_tenths
    assert exact_tenths < (int(margin.scaleb(1)) + 1) * rate_micros


# A file


@pytest.mark.parametrize(
    ("dollars", "micros"),
    [
        ("0.0113", 11_300),
        ("0.000001", 1),
        ("0.0000010", 1),
        ("0.011300000000", 11_300),
        ("1", 1_000_000),
        ("1.5", 1_500_000),
        ("007.25", 7_250_000),
        ("9999.999999", 9_999_999_999),
    ],
)
def test_a_price_is_read_exactly(write: Write, dollars: str, micros: int) -> None:
    name = write(f"US,United States,{dollars},{dollars},2020-01-01")

    assert read(name).in_force("US") == Rate(
        "US", "United States", micros, micros, day("2020-01-01")
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(twilio_micros=st.integers(1, 10**10 - 1))
def test_an_empty_customer_price_is_twilios_with_the_margin(
    write: Write, twilio_micros: int
) -> None:
    dollars = f"{twilio_micros // 10**6}.{twilio_micros % 10**6:06}"

    rate = read(write(f"US,United States,{dollars},,2020-01-01")).in_force("US")

    assert rate is not None
    assert rate.twilio_micros == twilio_micros
    assert rate.rate_micros == derived_micros(twilio_micros)
    assert rate.rate_micros * (100 - MARGIN_PERCENT) == twilio_micros * 100


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-11-23", "2026-11-23"),
        ("0001-01-01", "0001-01-01"),
        ("9999-12-31", "9999-12-31"),
        ("2024-02-29", "2024-02-29"),
        ("2026-11-23T08:13Z", "2026-11-23T08:13"),
        ("2026-11-23T08:13:05z", "2026-11-23T08:13:05"),
        ("2026-11-23t08:13:05.25Z", "2026-11-23T08:13:05.250"),
        ("2026-11-23 08:13:05+05:30", "2026-11-23T02:43:05"),
        ("2026-11-23T08:13", "2026-11-23T08:13"),
    ],
)
def test_a_rate_begins_at_a_day_or_a_time(write: Write, written: str, moment: str) -> None:
    table = read(write(US, f"GB,United Kingdom,0.0524,,{written}"))

    assert [rate.effective_from for rate in table.by_country["GB"]] == [day(moment)]


def test_a_file_says_where_it_is_and_what_was_in_it(write: Write) -> None:
    name = write(US, GB)

    assert read(name).source == name
    assert read(name).digest == hashlib.sha256(Path(name).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + "\n".join([HEADER, US, GB]),
        "\r\n".join([HEADER, US, GB, ""]),
        "\n".join(["", HEADER, "", US, "", GB, "", ""]),
        "\n".join(f'"{line}"'.replace(",", '","') for line in (HEADER, US, GB)),
        "\n".join(",".join(reversed(line.split(","))) for line in (HEADER, US, GB)),
    ],
    ids=["bom", "crlf", "empty-lines", "quoted", "in-another-order"],
)
def test_a_file_is_csv_as_programs_write_it(write: Write, content: str) -> None:
    table = read(write(content=content.encode()))

    assert table.countries() == [
        Rate("US", "United States", 11_300, 56_500, day("2020-01-01")),
        Rate("GB", "United Kingdom", 52_400, 262_000, day("2020-01-01")),
    ]


# What is wrong in a file

ROW = {
    "country_code": "GB",
    "country_name": "United Kingdom",
    "twilio_usd_per_segment": "0.0524",
    "customer_usd_per_segment": "0.2620",
    "effective_from": "2020-01-01",
}
PRICES = ["twilio_usd_per_segment", "customer_usd_per_segment"]
NO_PRICES = ["-0.05", "+0.05", "0,05", ".05", "5.", "1e-2", "٠.٠٥", "0.05 ", "$0.05", "=1+1", "x"]
NO_PRICES += ["nan", "inf", "1_0", "10000", "[red]", "\x1b[2J", "0" * 60_000]
NO_TIMES = ["", "tomorrow", "2026-13-01", "2026-02-30", "20261123", "2026-W48-1", "23.11.2026"]
NO_TIMES += ["2026-11-23T25:00Z", "2026-11-23T08:13:60Z", "2026-11-23T08", "0000-01-01", "-1-01-01"]
NO_TIMES += ["0001-01-01T00:00+01:00", "9999-12-31T23:59-01:00", "2026-11-23Z", "=TODAY()"]
NO_CODES = ["", "gb", "GBR", "G", "G1", "GB ", "ＧＢ", "U\u017f", "=1", "US\u200b"]
NO_NAMES = ["", " ", "\t", "\u200b", "=1+1", "+x", "-x", "@x", "a\x1b[2J", "a\u202eb", "x" * 256]
NO_NAMES += [" Germany", "'=1+1", "1", "a\nb"]


def finding(write: Write, **changed: str) -> Finding:
    """Check a file whose third line is changed, and answer the one thing that is wrong in it."""
    quoted = [f'"{value}"' for value in (ROW | changed).values()]
    name = write(US, ",".join(quoted), *OTHERS, "GB,United Kingdom,0.0524,,2021-01-01")

    checked = check(name)
    [found] = checked.findings
    with pytest.raises(InvalidInputError) as refusal:
        read(name)

    assert refusal.value.message == f"{excerpt(name, 200)}, line 3: {found.detail}"
    assert found.line == 3
    assert found.detail.isprintable()
    assert len(found.detail) < 250
    return found


@pytest.mark.parametrize("price", NO_PRICES, ids=lambda it: ascii(it)[:20])
@pytest.mark.parametrize("column", PRICES)
def test_a_price_that_is_none_is_a_bad_line(write: Write, column: str, price: str) -> None:
    detail = f"{column} {excerpt(price)} is not dollars such as 0.0113"

    assert finding(write, **{column: price}) == Finding(3, Fault.BAD_LINE, detail)


@pytest.mark.parametrize("column", PRICES)
@pytest.mark.parametrize("price", ["0", "0.0", "0.000000", "0000.000000000000"])
def test_a_price_of_nothing_is_a_bad_line(write: Write, column: str, price: str) -> None:
    detail = f"{column} {price} is no price: it must be above 0"

    assert finding(write, **{column: price}) == Finding(3, Fault.BAD_LINE, detail)


def test_only_the_customers_price_may_be_empty(write: Write) -> None:
    detail = "twilio_usd_per_segment '' is not dollars such as 0.0113"

    assert finding(write, twilio_usd_per_segment="") == Finding(3, Fault.BAD_LINE, detail)


@pytest.mark.parametrize("column", PRICES)
@pytest.mark.parametrize("price", ["0.0524001", "0.000000000001", "0.0524000000000001"])
def test_a_price_finer_than_a_micro_is_not_rounded(write: Write, column: str, price: str) -> None:
    detail = f"{column} {price} is finer than a millionth of a dollar"

    assert finding(write, **{column: price}) == Finding(3, Fault.TOO_FINE, detail)


@pytest.mark.parametrize("time", NO_TIMES)
def test_a_time_that_is_none_is_a_bad_line(write: Write, time: str) -> None:
    found = finding(write, effective_from=time)

    assert found.fault is Fault.BAD_LINE
    assert "is not a time" in found.detail


@pytest.mark.parametrize("code", NO_CODES, ids=ascii)
def test_a_country_code_that_is_none_is_a_bad_line(write: Write, code: str) -> None:
    detail = f"country_code {excerpt(code)} is not two capitals such as GB"

    assert finding(write, country_code=code) == Finding(3, Fault.BAD_LINE, detail)


@pytest.mark.parametrize("code", ["UK", "XX", "ZZ", "EU", "QQ"])
def test_a_country_that_no_phone_can_have_is_a_bad_line(write: Write, code: str) -> None:
    meant = ": write GB" if code == "UK" else ""
    detail = f"country_code '{code}' is no country that a phone can have{meant}"

    assert finding(write, country_code=code) == Finding(3, Fault.BAD_LINE, detail)


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda it: ascii(it)[:20])
def test_a_country_name_that_is_none_is_a_bad_line(write: Write, name: str) -> None:
    found = finding(write, country_name=name)

    assert found.fault is Fault.BAD_LINE
    assert found.detail.startswith("country_name ")


@pytest.mark.parametrize(
    ("row", "count"), [("GB", 1), ("GB,United Kingdom,0.0524,", 4), (f"{GB},", 6), (" ", 1)]
)
def test_a_row_of_other_fields_is_a_bad_line(write: Write, row: str, count: int) -> None:
    [found] = check(write(US, row, GB, *OTHERS)).findings

    assert found == Finding(3, Fault.BAD_LINE, f"5 fields are needed, not {count}")


def test_a_second_price_from_the_same_time_on_is_a_duplicate(write: Write) -> None:
    name = write(US, GB, "GB,Great Britain,0.0524,0.30,2020-01-01T01:00+01:00", *OTHERS)

    [found] = check(name).findings

    assert found == Finding(4, Fault.DUPLICATE, "GB has a price from the same time on in line 3")
    with pytest.raises(InvalidInputError, match=r", line 4: GB has a price from the same time on"):
        read(name)


def test_a_file_needs_a_price_of_the_us_that_is_in_force(write: Write) -> None:
    missing = Finding(None, Fault.GAP, "US has no price that is in force today")

    for us in ("", "US,United States,0.0113,,9999-01-01"):
        name = write(us, GB, *OTHERS)

        assert check(name).findings == [missing]
        with pytest.raises(InvalidInputError, match=r"US has no price that is in force today$"):
            read(name)


@pytest.mark.parametrize(
    "header",
    [
        "",
        US,
        HEADER.upper(),
        HEADER.replace(",", ";"),
        HEADER.replace(",", "\t"),
        HEADER.replace("effective_from", "since"),
        f"{HEADER},note",
        f"{HEADER},",
        f"{HEADER},effective_from",
        HEADER.removesuffix(",effective_from"),
        HEADER.replace(",", ", "),
    ],
)
def test_a_file_with_another_header_is_refused(write: Write, header: str) -> None:
    name = write(content=f"{header}\n{US}\n".encode() if header else b"")

    for ask in (read, check):
        with pytest.raises(InvalidInputError) as refusal:
            ask(name)
        assert refusal.value.message == f"{excerpt(name, 200)}, line 1: the header must be {HEADER}"
    assert ",".join(COLUMNS) == HEADER


def test_a_file_without_end_is_refused(write: Write) -> None:
    name = write(*[GB] * (MAX_ROWS + 1))

    with pytest.raises(InvalidInputError, match=r", line 20,002: over 20,000 rows$"):
        check(name)


def test_a_refusal_names_the_first_lines_at_fault_and_how_many_more_there_are(
    write: Write,
) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        read(write(US, "x", GB, "y,z", GB, "w", "v"))

    assert refusal.value.message.partition(", ")[2] == (
        "line 3: 5 fields are needed, not 1; line 5: 5 fields are needed, not 2;"
        " line 6: GB has a price from the same time on in line 4; and 2 more"
    )


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (f"{HEADER}\n{US}\n".encode("utf-16"), "line 1: UTF-16: save the file as UTF-8"),
        (f"{HEADER}\n{US}\n".encode("utf-16-le"), "line 1: a NUL byte"),
        (f"{HEADER}\n{US}\n\0\n".encode(), "line 3: a NUL byte"),
        (f"{HEADER}\n{US}\n".encode() + b"\xff", "line 3: byte 0xff is not UTF-8"),
        (f"{HEADER}\n{US}\n{'x' * 1_000_000}\n".encode(), "line 3: over 65,536 characters"),
        (f'{HEADER}\n{US}\n"GB,\n'.encode(), "line 3: a quotation mark is not closed"),
        (f"{HEADER}\r{US}\r".encode(), "line 1: a carriage return alone"),
        (f"{HEADER}\n=cmd|' /C calc'!A0,x,1,1,2020-01-01\n".encode(), "line 2: country_code"),
    ],
    ids=["utf16", "utf16-le", "nul", "bytes", "long", "unclosed", "cr", "formula"],
)
def test_a_hostile_file_is_refused_with_its_line(
    put_in_force: Write, content: bytes, what: str
) -> None:
    name = put_in_force(content=content)

    with pytest.raises(InvalidInputError) as refusal:
        rates.current()

    assert refusal.value.message.startswith(f"TBPAY_RATES_FILE: {excerpt(name, 200)}, {what}")
    assert refusal.value.hint == f"tbpay pricing check {name}"


# In force


def test_a_file_replaces_the_built_in_table(put_in_force: Write) -> None:
    name = put_in_force(US, "DE,Germany,0.1000,0.40,2020-01-01")

    assert rates.current().source == name
    assert [rate.country_code for rate in rates.current().countries()] == ["US", "DE"]
    assert rates.current().in_force("GB") is None


def test_a_long_running_application_sees_every_change_of_the_file(put_in_force: Write) -> None:
    # At once, in the same tick of the clock, and of the same length.
    for cents in range(10, 30):
        put_in_force(f"US,United States,0.0113,0.{cents},2020-01-01")

        assert sms_pricing.quote("+12015550123").rate_micros == cents * 10_000


def test_a_file_that_stays_the_same_is_read_once(put_in_force: Write) -> None:
    name = put_in_force(US)
    wait_until(lambda: files.version(name) is not None)

    assert rates.current() is rates.current()

    put_in_force(US)
    assert rates.current() is not rates.current()


ASKING: list[Callable[[], object]] = [
    rates.current,
    lambda: sms_pricing.quote("+447700900123"),
    lambda: sms_pricing.quote("+12015550123", text="hi", at=day("2026-01-01")),
    lambda: sms_pricing.get_sms_cost("US"),
    lambda: sms_pricing.get_segments_per_topup("US"),
    lambda: sms_pricing.calculate_sms_cost_cents("US", 1),
]


def test_nothing_stands_in_for_a_file_that_breaks_while_an_application_runs(
    put_in_force: Write,
) -> None:
    name = put_in_force(US)
    assert [ask() for ask in ASKING]

    put_in_force(US, "GB,United Kingdom,free,,2020-01-01")
    for ask in ASKING * 2:
        with pytest.raises(InvalidInputError, match=r"^TBPAY_RATES_FILE: .*, line 3: "):
            ask()

    Path(name).unlink()
    for ask in ASKING * 2:
        with pytest.raises(UnavailableError, match=r"^TBPAY_RATES_FILE: cannot read .*: No such"):
            ask()

    put_in_force(US)
    assert [ask() for ask in ASKING]


def test_a_directory_is_no_rates_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPAY_RATES_FILE", str(tmp_path))

    with pytest.raises(UnavailableError) as refusal:
        rates.current()

    message = f"TBPAY_RATES_FILE: cannot read {excerpt(str(tmp_path), 200)}: Is a directory"
    assert refusal.value.message == message


def test_a_pipe_is_no_rates_file_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(tmp_path / "pipe")
    os.mkfifo(name)
    monkeypatch.setenv("TBPAY_RATES_FILE", name)

    message = f"cannot read {excerpt(name, 200)}: Is a pipe, not a file"
    for ask in ASKING:
        with pytest.raises(UnavailableError) as refusal:
            ask()
        assert refusal.value.message == f"TBPAY_RATES_FILE: {message}"
    with pytest.raises(UnavailableError) as refusal:
        check(name)
    assert refusal.value.message == message


def test_the_name_of_a_rates_file_may_be_a_dash(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(write(US)).rename(tmp_path / "-")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPAY_RATES_FILE", "-")

    assert rates.current().source == "-"
    assert [rate.country_code for rate in rates.current().countries()] == ["US"]

    Path("-").write_text("nothing of it\n")
    with pytest.raises(InvalidInputError, match=r"^TBPAY_RATES_FILE: '-', line 1: ") as refusal:
        rates.current()
    assert refusal.value.hint == "tbpay pricing check ./-"


def test_the_price_list_says_what_an_amount_buys_and_where_it_is_written(
    put_in_force: Write,
) -> None:
    name = put_in_force(US, "GB,United Kingdom,0.0524,0.30,2026-01-01", OTHERS[0])
    table = rates.current()

    gb = price_list(table, amount_cents=2_500)[1]

    assert (gb.country_code, gb.customer_cost_per_segment_cents) == ("GB", Decimal("30.00"))
    assert (gb.segments_per_10_dollars, gb.amount_cents, gb.segments_for_amount) == (33, 2_500, 83)
    assert gb.margin_percent == Decimal("82.5")
    assert (gb.effective_from, gb.source, gb.digest) == (day("2026-01-01"), name, table.digest)
    assert [it.country_code for it in price_list(table, at=day("2025-12-31"))] == ["US", "CA"]
    assert price_list(table, at=day("2019-12-31")) == []


# Checking


def test_a_file_that_says_what_is_in_force_has_nothing_to_tell(write: Write) -> None:
    name = write(US, GB, *OTHERS)

    assert check(name, min_margin_percent=80) == RatesCheck(
        file=name,
        digest=read(name).digest,
        rates=8,
        compared_with="built-in",
        findings=[],
        changes=[],
    )


@pytest.mark.parametrize(
    ("price", "floor", "expected"),
    [
        ("0.2620", 80, None),
        ("0.261999", 80, (Fault.LOW_MARGIN, "GB earns 79.9 % of its price")),
        ("0.2620", 81, (Fault.LOW_MARGIN, "GB earns 80.0 % of its price")),
        ("0.0525", 1, (Fault.LOW_MARGIN, "GB earns 0.1 % of its price")),
        ("0.0524", 1, (Fault.LOW_MARGIN, "GB earns 0.0 % of its price")),
        ("0.0524", None, None),
        ("0.052399", None, (Fault.BELOW_COST, "GB costs more than it brings")),
        ("0.052399", 50, (Fault.BELOW_COST, "GB costs more than it brings")),
    ],
)
def test_a_margin_under_the_floor_is_found(
    write: Write, price: str, floor: int | None, expected: tuple[Fault, str] | None
) -> None:
    row = f"GB,United Kingdom,0.0524,{price},2020-01-01"
    # The others earn whatever is asked for.
    rest = [line.replace(",,", ",9,") for line in OTHERS]
    name = write(US.replace(",,", ",9,"), row, *rest)

    found = check(name, min_margin_percent=floor).findings

    assert found == ([Finding(3, *expected)] if expected else [])


def test_a_country_that_loses_its_price_is_a_gap(write: Write) -> None:
    name = write(US, *OTHERS, "GB,United Kingdom,0.0524,,9999-01-02", "GB,Britain,1,1,9999-01-03")

    assert check(name).findings == [Finding(9, Fault.GAP, "GB has no price before 9999-01-02")]
    assert check(write(US, *OTHERS)).findings == [
        Finding(None, Fault.GAP, "GB has a price today and none in the file")
    ]


def test_a_new_country_may_begin_later(write: Write) -> None:
    checked = check(write(US, GB, *OTHERS, "DE,Germany,0.08,,9999-01-01"))

    assert checked.findings == []
    assert checked.changes == [price_change("DE", "9999-01-01", "", "40.00", "", "", "8.00")]


@pytest.mark.parametrize(
    "row",
    [
        "GB,United Kingdom,0.0524,=1+1,2020-01-01",
        "GB,United Kingdom,0.05240001,,2020-01-01",
        "GB,United Kingdom,0.0524,,soon",
        "GB,United Kingdom,0.0524",
        "GB",
        "gb,United Kingdom,0.0524,,2020-01-01",
        "UK,United Kingdom,0.0524,,2020-01-01",
    ],
)
def test_a_row_that_cannot_be_read_is_one_finding(write: Write, row: str) -> None:
    for rows in ([US, row], [US, row, "GB,United Kingdom,0.06,,9999-01-01"]):
        checked = check(write(*rows, *OTHERS))

        assert [found.line for found in checked.findings] == [3]
        assert checked.changes == []


def test_a_row_of_the_us_that_cannot_be_read_is_one_finding(write: Write) -> None:
    name = write("US,United States,x,,2020-01-01", GB, *OTHERS)

    assert [(it.line, it.fault) for it in check(name).findings] == [(2, Fault.BAD_LINE)]
    with pytest.raises(InvalidInputError, match=r"line 2: .* is not dollars such as 0\.0113$"):
        read(name)


def test_a_check_names_everything_in_the_order_of_the_lines(write: Write) -> None:
    name = write(
        US,
        "GB,United Kingdom,0.0524,0.05,2020-01-01",
        "GB,United Kingdom,0.0524,0.20,2020-01-01",
        "FR,France,0.0798,=1+1,2020-01-01",
        "IT,Italy,0.09270001,,2020-01-01",
        "CH,Switzerland,0.0725,,9999-01-01",
        *OTHERS[4:],
        OTHERS[0],
    )

    checked = check(name, min_margin_percent=75)

    assert [(found.line, found.fault) for found in checked.findings] == [
        (3, Fault.BELOW_COST),
        (4, Fault.DUPLICATE),
        (4, Fault.LOW_MARGIN),
        (5, Fault.BAD_LINE),
        (6, Fault.TOO_FINE),
        (7, Fault.GAP),
    ]
    assert {found.fault for found in checked.findings} == set(Fault)
    assert checked.rates == 7


def test_a_check_follows_every_price_from_today_on(write: Write) -> None:
    name = write(
        "US,United States,0.0113,0.0600,2020-01-01",
        "US,United States,0.0113,0.05,9999-01-01",
        "GB,United Kingdom,0.0524,9.99,2019-01-01",
        GB,
        "GB,United Kingdom,0.0600,,9999-02-01",
        "GB,United Kingdom,0.0600,,9999-03-01",
        "DE,Germany,0.0800,,2020-01-01",
        *OTHERS[:-1],
        "ZA,South Africa,0.1089,,9999-01-01",
    )

    assert check(name).changes == [
        price_change("US", "2020-01-01", "5.65", "6.00", "6.2", "1.13", "1.13"),
        price_change("US", "9999-01-01", "6.00", "5.00", "-16.7", "1.13", "1.13"),
        price_change("GB", "9999-02-01", "26.20", "30.00", "14.5", "5.24", "6.00"),
        price_change("ZA", "", "54.45", "", "", "10.89", ""),
        price_change("ZA", "9999-01-01", "", "54.45", "", "", "10.89"),
        price_change("DE", "2020-01-01", "", "40.00", "", "", "8.00"),
    ]


def test_a_price_of_twilios_that_changes_under_ours_is_a_change(write: Write) -> None:
    name = write("US,United States,0.0200,0.0565,2020-01-01", GB, *OTHERS)

    assert check(name).changes == [
        price_change("US", "2020-01-01", "5.65", "5.65", "0.0", "1.13", "2.00")
    ]


def price_change(country: str, effective_from: str, *values: str) -> PriceChange:
    """Write a change down: an empty value is None."""
    return PriceChange(
        country,
        day(effective_from) if effective_from else None,
        *(Decimal(value) if value else None for value in values),
    )


def test_a_check_compares_with_the_file_that_is_in_force(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = tmp_path / "used.csv"
    used.write_bytes(Path(write(US, "DE,Germany,0.0800,,2020-01-01")).read_bytes())
    monkeypatch.setenv("TBPAY_RATES_FILE", str(used))

    checked = check(write(US, "DE,Germany,0.0800,0.30,2020-01-01"))

    assert (checked.compared_with, checked.findings) == (str(used), [])
    assert checked.changes == [
        price_change("DE", "2020-01-01", "40.00", "30.00", "-25.0", "8.00", "8.00")
    ]


def test_a_file_in_force_that_is_broken_can_be_checked_itself(put_in_force: Write) -> None:
    name = put_in_force(US, "GB,United Kingdom,free,,2020-01-01")

    checked = check(name)

    assert (checked.compared_with, checked.changes) == (None, [])
    assert [found.line for found in checked.findings] == [3]
    assert (checked.file, checked.rates) == (name, 1)


@given(old_micros=st.integers(1, 10**10), new_micros=st.integers(1, 10**10))
def test_a_change_is_said_in_per_cent_rounded_to_one_decimal(
    old_micros: int, new_micros: int
) -> None:
    percent = checking._percent(old_micros, new_micros)

    exact = Fraction(new_micros - old_micros, old_micros) * 100
    assert percent.as_tuple().exponent == -1
    assert abs(Fraction(percent) - exact) <= Fraction(1, 20)


def test_the_example_of_a_rates_file_is_the_built_in_table_with_dates() -> None:
    checked = check(str(Path(__file__).with_name("rates.csv")), min_margin_percent=80)

    assert (checked.rates, checked.findings, checked.changes) == (8, [], [])
