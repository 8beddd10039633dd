"""``pricing list`` and ``pricing check``, and what hostile rates files do to them: an error."""

import csv
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Terminal, shell, tbpay

from tbpay.errors import Code
from tbpay.sms_pricing import SMS_COSTS_BY_COUNTRY

HEADER = "country_code,country_name,twilio_usd_per_segment,customer_usd_per_segment,effective_from"
US = "US,United States,0.0113,,2020-01-01"
GB = "GB,United Kingdom,0.0524,,2020-01-01"
RISE = "GB,United Kingdom,0.0524,0.30,9999-01-01"
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


def digest(name: str) -> str:
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()


# The list


def test_people_read_costs_prices_margins_and_bars() -> None:
    answer = tbpay("pricing list")

    assert answer.code == 0
    assert answer.out.splitlines()[:4] == [
        "country code  country name    twilio cents  price cents  margin percent"
        "  segments for 10.00 USD",
        "US            United States           1.13         5.65            80.0"
        "                     176  ####################",
        "CA            Canada                  1.70         8.50            80.0"
        "                     117  #############",
        "GB            United Kingdom          5.24        26.20            80.0"
        "                      38  ####",
    ]
    assert re.fullmatch("note: rates: built-in, sha256 [0-9a-f]{64}\n", answer.err)


def test_programs_get_no_bars_but_where_the_prices_are_from() -> None:
    items = tbpay("pricing list --json").items
    britain = next(it for it in items if it["country_code"] == "GB")

    assert [it["country_code"] for it in items] == list(SMS_COSTS_BY_COUNTRY)
    assert britain == {
        "country_code": "GB",
        "country_name": "United Kingdom",
        "twilio_cost_per_segment_cents": "5.24",
        "customer_cost_per_segment_cents": "26.20",
        "segments_per_10_dollars": 38,
        "margin_percent": "80.0",
        "amount_cents": 1_000,
        "segments_for_amount": 38,
        "effective_from": None,
        "source": "built-in",
        "digest": britain["digest"],
    }
    assert "#" not in tbpay("pricing list -o csv").out


def test_an_amount_buys_its_segments() -> None:
    items = tbpay("pricing list --amount 25 --json").items

    assert {(it["amount_cents"], it["segments_per_10_dollars"]) for it in items} >= {(2_500, 38)}
    assert [it["segments_for_amount"] for it in items][:3] == [442, 294, 95]
    assert "segments for 25.00 USD" in tbpay("pricing list --amount 25").out


def test_on_a_terminal_of_eighty_columns_every_price_is_seen() -> None:
    with Terminal("pricing list", columns=80) as terminal:
        assert terminal.end() == 0

    rows = [line for line in terminal.seen.splitlines() if "#" in line]
    assert len(rows) == len(SMS_COSTS_BY_COUNTRY)
    assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 80 for line in rows)


def test_the_list_names_its_file_and_the_digest_of_it(put_in_force: Write) -> None:
    name = put_in_force(US, GB, RISE)

    answer = tbpay("pricing list --json")

    assert answer.err == f"note: rates: {name}, sha256 {digest(name)}\n"
    assert {(it["source"], it["digest"]) for it in answer.items} == {(name, digest(name))}
    assert [it["effective_from"] for it in answer.items] == ["2020-01-01T00:00:00.000000Z"] * 2


def test_the_list_can_be_asked_for_at_a_time(put_in_force: Write) -> None:
    put_in_force(US, GB.replace("2020-01-01", "2026-11-23"), "GB,Britain,0.05,0.40,2026-11-24")

    def prices(at: str) -> dict[str, str]:
        items = tbpay(f"pricing list --json --at {at}").items
        return {it["country_code"]: it["customer_cost_per_segment_cents"] for it in items}

    assert prices("2026-11-22") == {"US": "5.65"}
    # A date is the end of its day, and the day after it has not begun.
    assert prices("2026-11-23") == {"US": "5.65", "GB": "26.20"}
    assert prices("2026-11-23T23:59Z") == {"US": "5.65", "GB": "26.20"}
    assert prices("2026-11-24T00:00Z") == {"US": "5.65", "GB": "40.00"}
    assert prices("2026-11-24") == {"US": "5.65", "GB": "40.00"}


def test_before_all_prices_the_list_is_empty(put_in_force: Write) -> None:
    put_in_force(US)

    assert tbpay("pricing list --at 2019-12-31 --json").json == {"items": [], "next": None}
    assert tbpay("pricing list --at 2019-12-31").err.startswith("note: none found\n")
    header = tbpay("pricing list -o csv").out.splitlines()[0]
    assert tbpay("pricing list --at 2019-12-31 -o csv").out == f"{header}\n"


def test_a_name_in_a_rates_file_drives_neither_a_terminal_nor_a_spreadsheet(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = tmp_path / "=1+1\x1b[2J[red].csv"
    Path(write(US)).rename(hostile)
    monkeypatch.setenv("TBPAY_RATES_FILE", str(hostile))

    listed = tbpay("pricing list")

    assert "\x1b" not in listed.err
    assert r"=1+1\x1b[2J[red].csv" in listed.err
    assert "\x1b" not in tbpay("pricing list -o csv").out
    assert tbpay("pricing list --json").items[0]["source"] == str(hostile)


# The check


def test_a_good_file_is_told_with_what_it_changes(write: Write) -> None:
    name = write(US, GB, RISE, *OTHERS)

    answer = tbpay("pricing check", name)

    assert (answer.code, answer.err) == (0, "")
    assert answer.out == (
        f"file           {name}\n"
        f"digest         {digest(name)}\n"
        "rates          9\n"
        "compared with  built-in\n"
        "findings       0\n"
        "changes        1\n"
        "\n"
        "country code  effective from        old cents  new cents  change percent"
        "  old twilio cents  new twilio cents\n"
        "GB            9999-01-01 00:00:00Z      26.20      30.00            14.5"
        "              5.24              5.24\n"
    )


def test_what_is_wrong_in_a_file_ends_with_8_and_stands_on_stdout(write: Write) -> None:
    rise = "FR,France,0.0798,0.50,2020-01-01"
    name = write(US, "GB,United Kingdom,0.0524,=1+1,2020-01-01", rise, *OTHERS[2:])

    answer = tbpay("pricing check", name)
    as_json = tbpay("pricing check --json", name)

    assert (answer.code, answer.err) == (8, "")
    assert (
        "line  fault     detail\n"
        "   -  gap       CA has a price today and none in the file\n"
        "   3  bad_line  customer_usd_per_segment '=1+1' is not dollars such as 0.0113\n"
    ) in answer.out
    assert (as_json.code, as_json.err) == (8, "")
    assert as_json.json == {
        "file": name,
        "digest": digest(name),
        "rates": 6,
        "compared_with": "built-in",
        "findings": [
            {
                "line": None,
                "fault": "gap",
                "detail": "CA has a price today and none in the file",
            },
            {
                "line": 3,
                "fault": "bad_line",
                "detail": "customer_usd_per_segment '=1+1' is not dollars such as 0.0113",
            },
        ],
        "changes": [
            {
                "country_code": "CA",
                "effective_from": None,
                "old_cents": "8.50",
                "new_cents": None,
                "change_percent": None,
                "old_twilio_cents": "1.70",
                "new_twilio_cents": None,
            },
            {
                "country_code": "FR",
                "effective_from": "2020-01-01T00:00:00.000000Z",
                "old_cents": "39.90",
                "new_cents": "50.00",
                "change_percent": "25.3",
                "old_twilio_cents": "7.98",
                "new_twilio_cents": "7.98",
            },
        ],
    }


def test_a_spreadsheet_gets_the_findings_alone_with_a_header_even_when_empty(write: Write) -> None:
    good = tbpay("pricing check -o csv", write(US, GB, *OTHERS))
    bad = tbpay("pricing check -o csv", write(US, GB, "=1+1", *OTHERS))

    assert (good.code, good.out, good.err) == (0, "line,fault,detail\n", "")
    assert (bad.code, list(csv.reader(bad.out.splitlines()))) == (
        8,
        [["line", "fault", "detail"], ["4", "bad_line", "5 fields are needed, not 1"]],
    )


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_a_spreadsheet_is_told_of_the_changes_that_it_does_not_get(write: Write, form: str) -> None:
    one = tbpay(f"pricing check -o {form}", write(US, GB, RISE, *OTHERS))
    several = tbpay(f"pricing check -o {form}", write(US, GB, RISE, *OTHERS[2:]))

    assert (one.code, one.err) == (0, "note: 1 change left out: see --json\n")
    assert (several.code, several.err) == (8, "note: 3 changes left out: see --json\n")


def test_a_margin_has_a_floor_where_one_is_given(write: Write) -> None:
    name = write(US, "GB,United Kingdom,0.0524,0.20,2020-01-01", *OTHERS)

    assert tbpay("pricing check", name).code == 0
    assert tbpay("pricing check --min-margin 73", name).code == 0
    low = tbpay("pricing check --json --min-margin 74", name)
    assert low.code == 8
    assert low.json["findings"] == [
        {"line": 3, "fault": "low_margin", "detail": "GB earns 73.8 % of its price"}
    ]


@pytest.mark.parametrize("percent", ["0", "101", "-1", "7.5", "80%", "x", "", "٨٠"])
def test_a_floor_that_is_no_percentage_is_bad_input(write: Write, percent: str) -> None:
    answer = tbpay("pricing check --json --min-margin", percent, write(US))

    assert (answer.code, answer.out) == (2, "")


def test_a_file_can_be_checked_from_stdin(write: Write) -> None:
    name = write(US, GB, *OTHERS)

    answer = shell('$tbpay pricing check - --json < "$name"', name=name)

    assert answer.code == 0
    assert (answer.json["file"], answer.json["digest"]) == ("-", digest(name))


def test_the_broken_file_in_force_can_be_checked(put_in_force: Write) -> None:
    name = put_in_force(US, "GB")

    answer = tbpay("pricing check", name)

    assert answer.code == 8
    assert answer.err == (
        "note: the rates in force cannot be read, so that nothing is compared with them\n"
    )


# A file that cannot be used

HOSTILE = {
    "utf-16": (f"{HEADER}\n{US}\n".encode("utf-16"), 1),
    "utf-16 without a mark": (f"{HEADER}\n{US}\n".encode("utf-16-be"), 1),
    "nul": (f"{HEADER}\n{US}\n{GB}\0\n".encode(), 3),
    "no utf-8": (f"{HEADER}\n{US}\n".encode() + b"GB,\xff,0.05,,2020-01-01\n", 3),
    "a line of a megabyte": (f"{HEADER}\n{US}\n".encode() + b"x" * 1_000_000, 3),
    "a quote that is not closed": (f'{HEADER}\n{US}\n"GB,\n{GB}\n'.encode(), 3),
    "a quote over many lines": (f'{HEADER}\n{US}\n"GB,\n'.encode() + b"x\n" * 1_000_000, 3),
    "cr line ends": (f"{HEADER}\r{US}\r".encode(), 1),
    "empty": (b"", 1),
    "another header": (b"country;price\nUS;1\n", 1),
}
ASKING = [
    "pricing list",
    "pricing list --at 2026-01-01",
    "pricing quote +447700900123",
    "pricing quote +12015550123 --text hi",
]


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_one_clear_error_with_its_line(put_in_force: Write, what: str) -> None:
    content, line = HOSTILE[what]
    name = put_in_force(content=content)

    check = tbpay("pricing check", name)
    assert (check.code, check.out) == (2, "")
    assert check.err.startswith(f"error: '{name}', line {line}: ")
    assert len(check.err.splitlines()) == 1
    for words in ASKING:
        answer = tbpay(words)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.splitlines() == [
            check.err.rstrip().replace("error: ", "error: TBPAY_RATES_FILE: "),
            f"hint: tbpay pricing check {name}",
        ]
        assert tbpay(f"{words} --json").error["code"] == Code.INVALID


@pytest.mark.parametrize(
    "row",
    [
        "GB,United Kingdom,0.0524,=1+1,2020-01-01",
        "GB,=HYPERLINK(1),0.0524,,2020-01-01",
        "GB,United Kingdom,0.05240001,,2020-01-01",
        "GB,United Kingdom,0.0524,,soon",
        US,
    ],
)
def test_nothing_is_quoted_from_a_broken_file(put_in_force: Write, row: str) -> None:
    put_in_force(US, row)

    for words in ASKING:
        answer = tbpay(words)
        assert (answer.code, answer.out) == (2, "")
        assert re.match(r"error: TBPAY_RATES_FILE: '.*rates\.csv', line 3: ", answer.err)


def test_a_file_that_cannot_be_read_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, why in [
        (f"{tmp_path}/none.csv", "No such file or directory"),
        (str(tmp_path), "Is a directory"),
    ]:
        monkeypatch.setenv("TBPAY_RATES_FILE", name)
        answer = tbpay("pricing check", name)
        assert (answer.code, answer.out) == (6, "")
        assert answer.err == f"error: cannot read '{name}': {why}\n"
        for words in ASKING:
            answer = tbpay(words)
            assert (answer.code, answer.out) == (6, "")
            assert answer.err == f"error: TBPAY_RATES_FILE: cannot read '{name}': {why}\n"


def test_a_pipe_is_unavailable_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(tmp_path / "pipe")
    os.mkfifo(name)
    monkeypatch.setenv("TBPAY_RATES_FILE", name)
    wrong = f"cannot read '{name}': Is a pipe, not a file\n"

    for words, message in [
        (f"pricing check {name}", f"error: {wrong}"),
        *((words, f"error: TBPAY_RATES_FILE: {wrong}") for words in ASKING),
    ]:
        answer = tbpay(words)
        assert (answer.code, answer.out, answer.err) == (6, "", message)


def test_of_rates_a_dash_is_no_stdin(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write(US, GB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPAY_RATES_FILE", "-")
    asking = '$tbpay pricing quote +447700900123 --json < "$name"'

    assert shell(asking, name=name).code == 6
    Path(name).rename("-")
    assert shell(asking, name="/dev/null").json["rate_cents"] == "26.20"


@pytest.mark.parametrize("name", ["a\0b", "", "\ud83d"])
def test_a_name_that_no_file_has_is_bad_input(name: str) -> None:
    answer = tbpay("pricing check --json", name)

    assert (answer.code, answer.out) == (2, "")
    assert answer.error["message"] == f"{name!r} is not the name of a file"
