"""``tbpay pricing quote``: of a number, of several, of a text, and of a campaign in a file."""

import csv
import fcntl
import json
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from command_line import (
    Terminal,
    ctrl_c_heard,
    descriptors,
    environment,
    is_asleep,
    shell,
    start,
    tbpay,
    wait_until,
)

from tbpay.errors import Code
from tbpay.stores import balance_store

BRITISH, AMERICAN, GERMAN = "+447700900123", "+12012345678", "+4915123456789"
TEXT = "Your code is 1234 €"


@pytest.fixture(autouse=True)
def _ctrl_c_heard() -> Iterator[None]:
    with ctrl_c_heard():
        yield


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three British numbers, an American one, two German ones, and two that are none."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "numbers.txt"
    path.write_text(
        f"+44 7700 900123\n{BRITISH}\n07400 123456\n{AMERICAN}\n{BRITISH}\n"
        f"{GERMAN}\n{GERMAN}\n\n=1+1\n"
    )
    return path


# Numbers


@pytest.mark.parametrize(
    "typed",
    [
        "+44 7700 900123",
        "+44-7700-900123",
        "+44.7700.900123",
        "+44 (7700) 900-123",
        "(+44)7700900123",
        "+44\u20077700\u2009900\u3000123",
        "+44\u20117700\u2014900\uff0d123",
    ],
)
def test_spaces_dashes_dots_and_parentheses_in_a_number_do_no_harm(typed: str) -> None:
    answer = tbpay("pricing quote --json", typed)

    assert (answer.code, answer.json["phone"]) == (0, BRITISH)


def test_several_numbers_are_a_list() -> None:
    words = f"pricing quote {BRITISH} {AMERICAN} {BRITISH} --segments 2"
    one = tbpay(f"pricing quote {AMERICAN} --segments 2 --json")

    plain, as_json, as_csv = (tbpay(f"{words} -o {form}") for form in ("table", "json", "csv"))

    assert list(as_json.json) == ["items", "next"]
    assert [it["phone"] for it in as_json.items] == [BRITISH, AMERICAN, BRITISH]
    assert as_json.items[1] == one.json
    header, *rows = plain.out.splitlines()
    assert " ".join(header.split()) == (
        "phone country assumed fallback segments rate cents cost cents segments for amount"
    )
    assert rows[1].split() == [AMERICAN, "US", "no", "no", "2", "5.65", "11.30", "176"]
    assert [row["cost_micros"] for row in csv.DictReader(as_csv.out.splitlines())] == [
        "524000",
        "113000",
        "524000",
    ]


def test_one_bad_number_among_several_is_an_error_and_no_answer() -> None:
    for bad in ("+4474", "+881612345678"):
        answer = tbpay(f"pricing quote {BRITISH} {bad} --json")

        assert (answer.code, answer.out) == (2, "")
        assert bad in answer.error["message"]


def test_a_country_without_a_price_is_said_once_among_several() -> None:
    words = f"pricing quote {GERMAN} {BRITISH} {GERMAN} +33612345678"

    assert tbpay(words).err == "note: no price for DE: the rate of US stands in\n"
    strict = tbpay(f"{words} --strict --json")
    assert (strict.code, strict.out) == (4, "")
    assert strict.error["code"] == Code.UNPRICED
    assert strict.error["message"] == "no price for DE"


# Texts


def test_a_text_is_quoted_by_its_segments() -> None:
    plain, as_json = (tbpay(f"pricing quote {BRITISH} -o {form} --text", TEXT) for form in FORMS)

    assert (plain.code, plain.err) == (0, "")
    assert plain.out == (
        "phone                +447700900123\n"
        "country              GB\n"
        "assumed              yes\n"
        "fallback             no\n"
        "segments             1\n"
        "rate                 26.20 cents\n"
        "cost                 26.20 cents\n"
        "amount               10.00 USD\n"
        "segments for amount  38\n"
        "encoding             GSM-7\n"
        "units                20\n"
        "twilio cost          5.24 cents\n"
    )
    expected = {"encoding": "GSM-7", "units": 20, "segments": 1, "culprits": []}
    assert expected.items() <= as_json.json.items()
    assert as_json.json["cost_cents"] == "26.20"


FORMS = ("table", "json")


def test_what_forced_ucs2_is_said_with_where_it_stands_and_what_to_write_instead() -> None:
    text = "“Hello” – it’s 20\u00a0°, it’s Ж\u200b`"

    plain, as_json = (tbpay(f"pricing quote {BRITISH} -o {form} --text", text) for form in FORMS)

    assert [line for line in plain.out.splitlines() if line.startswith("culprit")] == [
        "culprit 1            '“' U+201C at 0: write '\"'",
        "culprit 2            '”' U+201D at 6: write '\"'",
        "culprit 3            '–' U+2013 at 8: write '-'",
        "culprit 4            '’' U+2019 at 12, 23: write \"'\"",
        r"culprit 5            '\xa0' U+00A0 at 17: write ' '",
        "culprit 6            '°' U+00B0 at 18: GSM-7 has nothing like it",
        "culprit 7            'Ж' U+0416 at 26: GSM-7 has nothing like it",
        r"culprit 8            '\u200b' U+200B at 27: leave it out",
        "culprit 9            '`' U+0060 at 28: write \"'\"",
    ]
    assert as_json.json["encoding"] == "UCS-2"
    assert as_json.json["culprits"][3:5] == [
        {"position": 12, "character": "’", "replacement": "'"},
        {"position": 17, "character": "\u00a0", "replacement": " "},
    ]
    assert as_json.json["culprits"][6] == {"position": 23, "character": "’", "replacement": "'"}


def test_a_screen_has_room_for_some_culprits_and_json_has_all() -> None:
    text = "".join(map(chr, range(0x430, 0x450))) + "ж" * 9

    plain, as_json = (tbpay(f"pricing quote {BRITISH} -o {form} --text", text) for form in FORMS)

    lines = [line for line in plain.out.splitlines() if "culprit" in line]
    assert len(lines) == 11
    assert lines[6].endswith(
        "'ж' U+0436 at 6, 32, 33, 34, 35 and 5 more: GSM-7 has nothing like it"
    )
    assert lines[10].split() == ["more", "culprits", "22"]
    assert len(as_json.json["culprits"]) == len(text)


@pytest.mark.parametrize("what", [f"{BRITISH} {AMERICAN}", "--file numbers.txt"])
@pytest.mark.usefixtures("numbers")
def test_of_a_text_for_several_numbers_it_is_said_once(what: str) -> None:
    words = f"pricing quote {what}"

    ucs2 = tbpay(words, "--text", "It’s – “here”… it’s Ж")
    for foreign, said in [
        (
            "It’s ж",
            "6 units: '’' U+2019 at 2: write \"'\"; 'ж' U+0436 at 5: GSM-7 has nothing like it",
        ),
        ("’", "1 unit: '’' U+2019 at 0: write \"'\""),
    ]:
        assert tbpay(words, "--text", foreign).err == f"note: the text is UCS-2, {said}\n"

    assert ucs2.code == 0
    assert ucs2.err == (
        "note: the text is UCS-2, 21 units: '’' U+2019 at 2, 17: write \"'\";"
        " '–' U+2013 at 5: write '-'; '“' U+201C at 7: write '\"'; and 3 more\n"
    )
    assert tbpay(words, "--text", TEXT).err == ""
    as_json = tbpay(f"{words} --json", "--text", "It’s")
    assert as_json.err == ""
    found = as_json.json["items"][0] if "items" in as_json.json else as_json.json
    assert {"encoding": "UCS-2", "units": 4}.items() <= found.items()
    assert found["culprits"] == [{"position": 2, "character": "’", "replacement": "'"}]


@pytest.mark.usefixtures("numbers")
def test_a_table_of_countries_for_programs_has_a_note_of_it() -> None:
    answer = tbpay("pricing quote --file numbers.txt -o csv --text", "It’s")

    assert answer.err.endswith("\nnote: the text is UCS-2, 4 units: '’' U+2019 at 2: write \"'\"\n")


@pytest.mark.parametrize(
    "text", ["\x1b[2J[red]x[/]", "caf\udce9", "\ud83d", "a\0b", "\u202e", "\t"]
)
def test_any_text_is_counted_and_drives_no_terminal(text: str) -> None:
    plain, as_json = (tbpay(f"pricing quote {BRITISH} -o {form} --text", text) for form in FORMS)

    assert (plain.code, as_json.code) == (0, 0)
    assert all(line.isprintable() for line in plain.out.splitlines())
    assert as_json.json["encoding"] == "UCS-2"
    assert as_json.json["culprits"][0]["character"] in text


@pytest.mark.parametrize("text", ["", "x" * 1_601])
def test_a_text_that_is_none_or_too_long_is_bad_input(text: str, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text(text)

    for flags in (("--text", text), ("--text-file", str(file))):
        answer = tbpay(f"pricing quote {BRITISH} --json", *flags)

        assert (answer.code, answer.out) == (2, "")
        assert answer.error["message"].startswith("a text ")


@pytest.mark.parametrize(
    ("content", "units"),
    [
        ("x" * 160, 160),
        ("x" * 160 + "\n", 160),
        ("x" * 160 + "\r\n", 160),
        ("x\r\ny\n\n", 5),
        ("\ufeffx\n", 1),
        (TEXT, 20),
    ],
)
def test_a_text_may_stand_in_a_file_whose_last_line_ends(
    content: str, units: int, tmp_path: Path
) -> None:
    file = tmp_path / "text"
    file.write_bytes(content.encode())

    from_file = tbpay(f"pricing quote {BRITISH} --json --text-file {file}").json
    from_stdin = shell(f"$tbpay pricing quote {BRITISH} --json --text-file - < {file}").json

    assert from_file == from_stdin
    assert (from_file["encoding"], from_file["units"]) == ("GSM-7", units)


def test_a_text_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    words = f"pricing quote {BRITISH} --json --text-file"

    for name, code in (("latin", 2), ("a\0b", 2), ("", 6), ("missing", 6)):
        answer = tbpay(words, f"{tmp_path}/{name}")

        assert (answer.code, answer.out) == (code, "")
        assert answer.err.count("\n") == 1


# What excludes what


@pytest.mark.parametrize(
    "flags",
    [
        "",
        f"{BRITISH} --file numbers.txt",
        f"{BRITISH} --text x --segments 1",
        f"{BRITISH} --text x --text-file numbers.txt",
        f"{BRITISH} --segments 1 --text-file numbers.txt",
        f"{BRITISH} {AMERICAN} --account 1",
        "--file - --text-file -",
        "--file numbers.txt --text x --segments 1",
        "--file numbers.txt --amount 10",
    ],
)
@pytest.mark.usefixtures("numbers")
def test_what_cannot_be_said_together_is_usage(flags: str) -> None:
    answer = tbpay(f"pricing quote {flags} --json")

    assert (answer.code, answer.out) == (2, "")
    assert answer.error["code"] == Code.USAGE
    assert answer.error["hint"] == "tbpay pricing quote --help"


# Campaigns


@pytest.mark.usefixtures("numbers")
def test_people_read_a_campaign_as_a_table_of_countries_and_its_totals() -> None:
    answer = tbpay("pricing quote --file numbers.txt --segments 2")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out == (
        "country code  country name    recipients  segments  cost USD  share percent\n"
        "GB            United Kingdom           3         6     1.572           93.3"
        "  ###################\n"
        "US            United States            1         2     0.113            6.7  #\n"
        "\n"
        "recipients     4\n"
        "segments       8\n"
        "cost           1.685 USD\n"
        "refused lines  2\n"
        "\n"
        "without a price, and not in the total:\n"
        "country code  recipients  segments\n"
        "DE                     2         4\n"
        "\n"
        "refused:\n"
        "line  reason\n"
        "   3  '07400 123456' is not a phone number in international form such as +447700900123\n"
        "   9  '=1+1' is not a phone number in international form such as +447700900123\n"
    )


@pytest.mark.usefixtures("numbers")
def test_programs_read_all_of_a_campaign_in_one_document() -> None:
    answer = tbpay("pricing quote --file numbers.txt --json")

    assert (answer.code, answer.err) == (0, "")
    assert answer.json == {
        "recipients": 4,
        "segments": 4,
        "cost_micros": 842_500,
        "cost_cents": "84.25",
        "countries": [
            {
                "country_code": "GB",
                "country_name": "United Kingdom",
                "recipients": 3,
                "assumed": 3,
                "segments": 3,
                "rate_micros": 262_000,
                "cost_micros": 786_000,
                "share_percent": "93.3",
            },
            {
                "country_code": "US",
                "country_name": "United States",
                "recipients": 1,
                "assumed": 0,
                "segments": 1,
                "rate_micros": 56_500,
                "cost_micros": 56_500,
                "share_percent": "6.7",
            },
        ],
        "unpriced": [{"country_code": "DE", "recipients": 2, "assumed": 0, "segments": 2}],
        "refused_lines": 2,
        "refused": [
            {
                "line": 3,
                "reason": "'07400 123456' is not a phone number in international form"
                " such as +447700900123",
            },
            {
                "line": 9,
                "reason": "'=1+1' is not a phone number in international form"
                " such as +447700900123",
            },
        ],
        "encoding": None,
        "units": None,
        "culprits": [],
    }


@pytest.mark.parametrize(("form", "mark"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.usefixtures("numbers")
def test_tables_for_programs_are_of_the_countries_and_notes_say_the_rest(
    form: str, mark: str
) -> None:
    answer = tbpay(f"pricing quote --file numbers.txt -o {form}")

    rows = list(csv.DictReader(answer.out.splitlines(), delimiter=mark))
    assert [(row["country_code"], row["cost_micros"]) for row in rows] == [
        ("GB", "786000"),
        ("US", "56500"),
    ]
    assert "bar" not in rows[0]
    assert answer.err == (
        "note: no price for DE: 2 recipients left out\n"
        "note: 2 lines refused, the first is line 3: '07400 123456' is not a phone number"
        " in international form such as +447700900123\n"
    )


@pytest.mark.usefixtures("numbers")
def test_a_strict_campaign_refuses_countries_without_a_price() -> None:
    answer = tbpay("pricing quote --file numbers.txt --strict --json")

    assert (answer.code, answer.out) == (4, "")
    assert answer.error["code"] == Code.UNPRICED
    assert answer.error["message"] == "no price for DE"


def test_an_empty_file_is_an_empty_answer(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    words = f"pricing quote --file {tmp_path}/empty"

    plain, as_json, as_csv = (tbpay(f"{words} -o {form}") for form in ("table", "json", "csv"))

    assert {plain.code, as_json.code, as_csv.code} == {0}
    assert plain.out == (
        "recipients     0\nsegments       0\ncost           0.00 USD\nrefused lines  0\n"
    )
    assert (as_json.json["countries"], as_json.json["cost_micros"]) == ([], 0)
    assert as_csv.out.startswith("country_code,country_name,recipients,")
    assert {plain.err, as_json.err, as_csv.err} == {f"note: no recipients in '{tmp_path}/empty'\n"}


@pytest.mark.parametrize("content", ["number\n", "\n \n", "07400\n", "number,text\n07400,\n"])
def test_a_file_without_recipients_is_said_to_have_none(numbers: Path, content: str) -> None:
    numbers.write_text(content)

    answer = tbpay("pricing quote --file numbers.txt")

    assert (answer.code, answer.err) == (0, "note: no recipients in 'numbers.txt'\n")


def test_recipients_without_a_price_are_recipients(numbers: Path) -> None:
    numbers.write_text(f"{GERMAN}\n")

    assert tbpay("pricing quote --file numbers.txt").err == ""


def test_a_stdin_of_nothing_has_no_recipients() -> None:
    answer = shell("$tbpay pricing quote --file - < /dev/null")

    assert (answer.code, answer.err) == (0, "note: no recipients in stdin\n")


def test_a_stdin_that_nobody_opened_cannot_be_read() -> None:
    answer = shell("$tbpay pricing quote --file - <&-")

    assert (answer.code, answer.out, answer.err) == (6, "", "error: stdin is closed\n")


@pytest.mark.usefixtures("shop")
def test_an_account_is_looked_for_before_a_long_file_is_read() -> None:
    answer = tbpay("pricing quote --file there/is/none.txt --account 99")

    assert (answer.code, answer.err) == (3, "error: no account 99\n")


def test_a_campaign_may_come_from_stdin(numbers: Path) -> None:
    from_stdin = shell(f"cat {numbers} | $tbpay pricing quote --file - --json")

    assert from_stdin == tbpay(f"pricing quote --file {numbers} --json")


def test_lines_may_have_texts_of_their_own(numbers: Path) -> None:
    numbers.write_text(f'number,text\n{BRITISH},"{"x" * 161}"\n{AMERICAN},"Hello, ""Ann"""\n')

    found = tbpay("pricing quote --file numbers.txt --json").json["countries"]

    assert {it["country_code"]: it["segments"] for it in found} == {"GB": 2, "US": 1}
    for flags in ("--segments 2", "--text x"):
        answer = tbpay(f"pricing quote --file numbers.txt {flags} --json")
        assert (answer.code, answer.out) == (2, "")
        assert "line 1: with a column text each line has its own" in answer.error["message"]


def test_many_refused_lines_are_counted_and_some_are_shown(numbers: Path) -> None:
    numbers.write_text("07400\n" * 1_234)

    plain, as_json = (tbpay(f"pricing quote --file numbers.txt -o {form}") for form in FORMS)

    assert plain.out.count(" is not a phone number") == 20
    assert "refused lines  1234\n" in plain.out
    none = "note: no recipients in 'numbers.txt'\n"
    more = "note: 1,214 more lines refused: see --json, which names the first 1,000\n"
    assert plain.err == more + none
    assert (as_json.json["refused_lines"], len(as_json.json["refused"])) == (1_234, 1_000)
    assert as_json.err == f"note: of 1,234 refused lines the first 1,000 are named\n{none}"


def test_one_more_is_said_as_one(numbers: Path) -> None:
    numbers.write_text(f"{GERMAN}\n" + "07400\n" * 21)

    assert (
        tbpay("pricing quote --file numbers.txt").err == "note: 1 more line refused: see --json\n"
    )

    numbers.write_text(f"{GERMAN}\n07400\n")
    assert tbpay("pricing quote --file numbers.txt -o csv").err.startswith(
        "note: no price for DE: 1 recipient left out\n"
        "note: 1 line refused, the first is line 2: '07400' is not a phone number"
    )


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (f"{BRITISH}\n".encode("utf-16"), 2),
        (b"+447400123456\n+4474\x0000\n", 2),
        (b"+447400123456\n" + b"4" * 1_000_000, 2),
        (b'number\n"+447400123456\n', 2),
        (b"+447400123456\r+447400123457\r", 2),
        (b"caf\xe9", 2),
        (b"name\nAnn\n", 2),
    ],
    ids=lambda it: ascii(it)[:30],
)
def test_a_hostile_file_is_one_clear_line(numbers: Path, content: bytes, code: int) -> None:
    numbers.write_bytes(content)

    answer = tbpay("pricing quote --file numbers.txt")

    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith("error: 'numbers.txt', line ")
    assert answer.err.count("\n") == 1


def test_a_file_that_is_not_there_or_is_none_is_unavailable(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        answer = tbpay(f"pricing quote --file {path} --json")

        assert (answer.code, answer.out) == (6, "")
        assert str(path) in answer.error["message"]


# Whether a balance carries it


@pytest.mark.usefixtures("shop", "numbers")
@pytest.mark.parametrize("account", ["1", "ann@example.org"])
def test_a_campaign_says_whether_a_balance_carries_it_and_what_is_missing(account: str) -> None:
    balance_store.charge_sms(1, AMERICAN)
    words = f"pricing quote --file numbers.txt --account {account}"

    carried, lacking = (tbpay(f"{words} --segments {count} --json").json for count in (23, 24))
    plain, as_csv = (tbpay(f"{words} --segments 24 -o {form}") for form in ("table", "csv"))
    enough = tbpay(f"{words} --segments 23 -o csv")

    balance: dict[str, Any] = {"account_id": 1, "balance_cents": 1994, "subcent_micros": 3_500}
    assert (balance | {"carried": True, "missing_micros": 0}).items() <= carried.items()
    missing_micros = 24 * 842_500 - 19_943_500
    assert missing_micros == 276_500
    assert (
        balance | {"carried": False, "missing_micros": missing_micros}
    ).items() <= lacking.items()
    assert (
        "account id     1\n"
        "balance        19.9435 USD\n"
        "carried        no\n"
        "missing        0.2765 USD\n"
    ) in plain.out
    assert "note: the balance of account 1 lacks 0.2765 USD\n" in as_csv.err
    assert "the balance" not in enough.err
    assert {plain.code, as_csv.code} == {0}


@pytest.mark.usefixtures("shop")
def test_a_message_to_one_number_says_so_too() -> None:
    words = f"pricing quote {BRITISH} --segments 100 --account 1"

    plain, as_json = (tbpay(f"{words} -o {form}") for form in FORMS)

    assert plain.out.splitlines()[-4:] == [
        "account id           1",
        "balance              20.00 USD",
        "carried              no",
        "missing              6.20 USD",
    ]
    assert as_json.json["missing_micros"] == 6_200_000


@pytest.mark.usefixtures("shop", "numbers")
def test_the_balance_of_nobody_is_not_found() -> None:
    for what in (BRITISH, "--file numbers.txt"):
        assert tbpay(f"pricing quote {what} --account 99").code == 3


# Rates


@pytest.fixture
def dated(numbers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of another table: Britain gets dearer on the first of June."""
    path = numbers.with_name("rates.csv")
    path.write_text(
        "country_code,country_name,twilio_usd_per_segment,customer_usd_per_segment,effective_from\n"
        "US,United States,0.01,,2020-01-01\n"
        "GB,Great Britain,0.05,0.20,2020-01-01\n"
        "GB,Great Britain,0.05,0.30,2026-06-01\n"
    )
    monkeypatch.setenv("TBPAY_RATES_FILE", str(path))


@pytest.mark.usefixtures("dated")
@pytest.mark.parametrize(
    ("at", "rate_micros"),
    [
        ("2026-05-31", 200_000),
        ("2026-06-01", 300_000),
        ("2026-05-31T23:59:59Z", 200_000),
        ("2026-06-01T00:00Z", 300_000),
        ("2026-06-01T01:00+02:00", 200_000),
    ],
)
def test_a_quote_is_of_the_rates_in_force_at_a_time_and_a_date_is_its_days_end(
    at: str, rate_micros: int
) -> None:
    one = tbpay(f"pricing quote {BRITISH} --json --at {at}").json
    campaign = tbpay(f"pricing quote --file numbers.txt --json --at {at}").json

    assert one["rate_micros"] == rate_micros
    assert campaign["countries"][0]["rate_micros"] == rate_micros


@pytest.mark.usefixtures("dated")
def test_broken_rates_refuse_a_campaign(tmp_path: Path) -> None:
    (tmp_path / "rates.csv").write_text("nothing of it\n")

    answer = tbpay("pricing quote --file numbers.txt --json")

    assert (answer.code, answer.out) == (2, "")
    assert "rates.csv" in answer.error["message"]


# Pipes, signals, terminals


SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@SIGNALS
def test_a_signal_ends_a_campaign_at_once(number: signal.Signals, code: int, numbers: Path) -> None:
    # Work for many seconds: it ends before that.
    numbers.write_text(f"{BRITISH}\n" * 1_000_000)
    with start(f"pricing quote --file {numbers} --json") as working:
        wait_until(lambda: str(numbers) in descriptors(working.pid).values())
        working.send_signal(number)
        # A second one, out of impatience, is no traceback.
        working.send_signal(number)
        out, err = working.communicate()

    assert (working.returncode, out) == (code, b"")
    assert json.loads(err)["error"]["exit"] == code


@SIGNALS
def test_a_signal_is_heard_while_a_campaign_waits_for_its_next_line(
    number: signal.Signals, code: int
) -> None:
    words = [sys.executable, "-m", "tbpay", "pricing", "quote", "--file", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=environment()) as one:
        assert one.stdin is not None
        one.stdin.write(f"{BRITISH}\n".encode())
        one.stdin.flush()
        wait_until(lambda: unread(one.stdin) == 0 and is_asleep(one.pid))
        one.send_signal(number)
        code_seen = one.wait()
        assert one.stderr is not None
        err = one.stderr.read()

    assert code_seen == code
    assert err.count(b"\n") == 1


def unread(pipe: IO[bytes] | None) -> int:
    """How many bytes nobody has read yet."""
    assert pipe is not None
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]  # type: ignore[no-any-return]


def test_a_reader_that_goes_away_ends_a_campaign_without_a_word(numbers: Path) -> None:
    done = shell(f"$tbpay pricing quote --file {numbers} | true; echo ${{PIPESTATUS[0]}}")

    assert done.out in ("141\n", "0\n")
    assert done.err == ""


@pytest.mark.usefixtures("numbers")
def test_an_answer_that_stdout_cannot_take_is_unavailable() -> None:
    assert shell("$tbpay pricing quote --file numbers.txt > /dev/full").code == 6


def test_a_terminal_shows_a_bar_while_a_campaign_is_read(numbers: Path) -> None:
    numbers.write_text(f"{BRITISH}\n" * 200_000)

    with Terminal("pricing quote --file numbers.txt", columns=100) as terminal:
        terminal.press(" numbers, 0:", "c")
        assert terminal.end() == 130

    assert "[#" in terminal.seen
    assert terminal.seen.endswith("\rerror: interrupted\n")


def test_off_a_terminal_there_is_no_bar(numbers: Path) -> None:
    numbers.write_text(f"{BRITISH}\n" * 12_000)

    done = shell(f"$tbpay pricing quote --file {numbers}")

    assert (done.code, done.err) == (0, "")


@pytest.mark.usefixtures("numbers")
def test_a_campaign_fits_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")

    with Terminal("pricing quote --file numbers.txt", columns=100) as terminal:
        assert terminal.end() == 0

    assert max(map(len, terminal.seen.splitlines())) <= 100
    assert "###################\n" in terminal.seen
