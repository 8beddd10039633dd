import csv
import io
import json
import os
import pickle
import re
import subprocess
import sys
import termios
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, strategies as st
from rich.cells import cell_len

from tbpay.cli.output import Format, note, safe, show
from tbpay.errors import Code, UnavailableError
from tbpay.models import (
    CountrySMSCost,
    Order,
    OrderStatus,
    OrderType,
    Page,
    Transaction,
    TransactionType,
    is_visible,
)

ROOT = Path(__file__).parents[2]
WHEN = datetime(2026, 11, 23, 8, 13, tzinfo=UTC)
SESSION = "cs_test_" + "a1B2c3D4" * 7 + "Zz"
HOSTILE = "\x1b[2J[red]x[/] :smile: =1+1\u202e"
HARMLESS = r"\x1b[2J[red]x[/] :smile: =1+1\u202e"

CREDIT = Transaction(7, 3, None, TransactionType.CREDIT, 900, 1_234_50, "coffee", WHEN, 7)
ORDER = Order(
    id=12,
    account_id=3,
    order_type=OrderType.TOP_UP,
    amount_cents=850,
    stripe_session_id=SESSION,
    stripe_payment_intent_id=None,
    discount_code_id=None,
    status=OrderStatus.PENDING,
    created_at=WHEN,
    completed_at=None,
    credit_cents=1000,
)
BRITAIN = CountrySMSCost("GB", "United Kingdom", Decimal("5.24"), Decimal("26.20"), 38)


@dataclass(frozen=True)
class Note:
    description: str


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)


# One thing


def test_one_thing_is_a_line_for_each_field() -> None:
    assert shown(CREDIT) == (
        "id                7\n"
        "account id        3\n"
        "order id          -\n"
        "transaction type  credit\n"
        "amount            9.00 USD\n"
        "balance after     1234.50 USD\n"
        "description       coffee\n"
        "created at        2026-11-23 08:13:00Z\n"
        "account version   7\n"
        "idempotency key   -\n"
        "sms charge        -\n"
        "replayed          no\n"
    )


def test_one_thing_is_one_object_in_json() -> None:
    assert json.loads(shown(CREDIT, Format.JSON)) == {
        "id": 7,
        "account_id": 3,
        "order_id": None,
        "transaction_type": "credit",
        "amount_cents": 900,
        "balance_after_cents": 123450,
        "description": "coffee",
        "created_at": "2026-11-23T08:13:00.000000Z",
        "account_version": 7,
        "idempotency_key": None,
        "sms_charge": None,
        "replayed": False,
    }


def test_one_thing_is_a_header_and_a_row_in_csv_and_tsv() -> None:
    header = ["id", "account_id", "order_id", "transaction_type", "amount_cents"]
    header += ["balance_after_cents", "description", "created_at", "account_version"]
    header += ["idempotency_key", "sms_charge", "replayed"]
    row = ["7", "3", "", "credit", "900", "123450", "coffee"]
    row += ["2026-11-23T08:13:00.000000Z", "7", "", "", "false"]

    assert shown(CREDIT, Format.CSV) == ",".join(header) + "\n" + ",".join(row) + "\n"
    assert shown(CREDIT, Format.TSV) == "\t".join(header) + "\n" + "\t".join(row) + "\n"


def test_a_mapping_is_a_thing_too() -> None:
    answer = {"revision": "0002", "pending": ["0003", "0004"], "size_bytes": 4096}

    assert shown(answer) == ('revision    0002\npending     ["0003","0004"]\nsize bytes  4096\n')
    assert json.loads(shown(answer, Format.JSON)) == answer
    assert shown(answer, Format.CSV) == (
        'revision,pending,size_bytes\n0002,"[""0003"",""0004""]",4096\n'
    )


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("amount_cents", -5, "amount  -0.05 USD"),
        ("rate_cents", Decimal("26.20"), "rate  26.20 cents"),
        ("rate_micros", 262_000, "rate  0.262 USD"),
        ("subcent_micros", 0, "subcent  0.00 USD"),
        ("change_micros", -3_500, "change  -0.0035 USD"),
        ("credit_cents", None, "credit  -"),
        ("active", True, "active  yes"),
        ("status", OrderStatus.PENDING, "status  pending"),
        ("at", WHEN + timedelta(microseconds=999_999), "at  2026-11-23 08:13:00Z"),
        ("at", WHEN.astimezone(timezone(timedelta(hours=5))), "at  2026-11-23 08:13:00Z"),
        ("segments_per_10_dollars", 38, "segments per 10 dollars  38"),
        ("price", Decimal("1E+3"), "price  1000"),
    ],
)
def test_people_read_dollars_times_to_the_second_and_words(
    name: str, value: object, line: str
) -> None:
    assert shown({name: value}) == line + "\n"


def test_programs_read_exact_values() -> None:
    answer = {
        "amount_cents": -5,
        "rate_cents": Decimal("26.20"),
        "tiny": Decimal("1E-9"),
        "at": WHEN.astimezone(timezone(timedelta(hours=5))),
        "active": True,
        "status": OrderStatus.PENDING,
        "inner": {"order": BRITAIN, "lines": (CREDIT,)},
    }

    exact = json.loads(shown(answer, Format.JSON))

    assert exact["amount_cents"] == -5
    assert exact["rate_cents"] == "26.20"
    assert exact["tiny"] == "0.000000001"
    assert exact["at"] == "2026-11-23T08:13:00.000000Z"
    assert exact["active"] is True
    assert exact["status"] == "pending"
    assert exact["inner"]["order"]["customer_cost_per_segment_cents"] == "26.20"
    assert exact["inner"]["lines"][0]["amount_cents"] == 900


# Several things


def test_several_things_are_a_table_of_the_columns_asked_for() -> None:
    debit = Transaction(8, 3, 12, TransactionType.DEBIT, 5, 123_445, "SMS", WHEN, 8)
    columns = ("id", "transaction_type", "amount_cents", "description", "created_at")

    assert shown([debit, CREDIT], columns=columns) == (
        "id  transaction type  amount USD  description  created at\n"
        "8   debit                   0.05  SMS          2026-11-23 08:13:00Z\n"
        "7   credit                  9.00  coffee       2026-11-23 08:13:00Z\n"
    )


def test_a_table_without_columns_has_every_field() -> None:
    header, row = shown([BRITAIN]).splitlines()

    assert header == (
        "country code  country name    twilio cost per segment cents"
        "  customer cost per segment cents  segments per 10 dollars"
    )
    assert row.split() == ["GB", "United", "Kingdom", "5.24", "26.20", "38"]


def test_an_amount_that_is_missing_everywhere_has_no_unit() -> None:
    assert shown([{"credit_cents": None}]) == "credit\n-\n"


@pytest.mark.parametrize("answer", [[CREDIT], (CREDIT,), Page([CREDIT], None)])
def test_several_things_are_items_and_next_in_json(answer: object) -> None:
    document = json.loads(shown(answer, Format.JSON))

    assert list(document) == ["items", "next"]
    assert [item["id"] for item in document["items"]] == [7]
    assert document["next"] is None


def test_csv_and_tsv_of_several_things_have_every_field() -> None:
    columns = ("id", "status")
    names = [field.name for field in fields(Order)]

    csv_text = shown([ORDER, ORDER], Format.CSV, columns=columns)
    tsv_text = shown([ORDER, ORDER], Format.TSV, columns=columns)

    assert [row[:2] for row in csv.reader(csv_text.splitlines())] == [
        names[:2],
        ["12", "3"],
        ["12", "3"],
    ]
    assert [line.split("\t") for line in tsv_text.splitlines()] == list(
        csv.reader(csv_text.splitlines())
    )
    assert csv_text.splitlines()[0].split(",") == names


@pytest.mark.parametrize("form", Format)
def test_lists_leave_out_whether_a_line_was_replayed(form: Format) -> None:
    assert "replayed" in shown(CREDIT, form)
    assert "replayed" not in shown([CREDIT], form)
    assert "replayed" not in shown([], form, kind=Transaction)
    assert "replayed" not in shown({"lines": [CREDIT]}, form)


def test_mappings_with_different_fields_share_one_header() -> None:
    assert shown([{"a": 1}, {"b": 2}], Format.CSV) == "a,b\n1,\n,2\n"


def test_a_further_page_is_announced_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show(Page([CREDIT], "Wzdd"), Format.TABLE, columns=("id",))

    assert capsys.readouterr() == ("id\n7\n", "note: more: repeat with --cursor Wzdd, or --all\n")


@pytest.mark.parametrize("form", [Format.CSV, Format.TSV])
def test_a_cut_file_is_announced_too(form: Format, capsys: pytest.CaptureFixture[str]) -> None:
    show(Page([CREDIT], "Wzdd"), form)

    assert capsys.readouterr().err == "note: more: repeat with --cursor Wzdd, or --all\n"


def test_json_carries_the_cursor_itself(capsys: pytest.CaptureFixture[str]) -> None:
    show(Page([CREDIT], "Wzdd"), Format.JSON)

    out, err = capsys.readouterr()
    assert json.loads(out)["next"] == "Wzdd"
    assert err == ""


def test_an_empty_list_is_said_on_stderr_and_keeps_its_header(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show([], Format.TABLE, columns=("id",), kind=Note)
    assert capsys.readouterr() == ("", "note: none found\n")

    show(Page([], None), Format.CSV, kind=Note)
    assert capsys.readouterr() == ("description\n", "")

    show([], Format.TSV, kind=BRITAIN.__class__)
    assert capsys.readouterr().out.split("\t")[:2] == ["country_code", "country_name"]

    show([], Format.JSON, kind=Note)
    assert json.loads(capsys.readouterr().out) == {"items": [], "next": None}


# Foreign text


@pytest.mark.parametrize("form", [Format.TABLE, Format.CSV, Format.TSV])
def test_a_hostile_text_reaches_no_screen(form: Format) -> None:
    for answer in (Note(HOSTILE), [Note(HOSTILE)]):
        text = shown(answer, form)

        assert HARMLESS in text
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_a_hostile_text_comes_back_exactly_from_json() -> None:
    text = shown([Note(HOSTILE)], Format.JSON)

    assert text.isascii()
    assert json.loads(text)["items"] == [{"description": HOSTILE}]
    assert shown(Note("a\x7fb"), Format.JSON) == '{\n  "description": "a\\u007fb"\n}\n'


def test_a_hostile_name_of_a_field_reaches_no_screen() -> None:
    for form in (Format.TABLE, Format.CSV, Format.TSV):
        assert HARMLESS in shown({HOSTILE: 1}, form)
        assert HARMLESS in shown([{HOSTILE: 1}], form)


@given(st.text(max_size=60))
def test_no_text_brings_anything_invisible_to_a_screen(text: str) -> None:
    for form in (Format.TABLE, Format.CSV, Format.TSV):
        for answer in (Note(text), [Note(text)], [{text: text}], {"inner": [text]}):
            for char in shown(answer, form):
                assert is_visible(char) or char in (" ", "\n", "\t")


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_a_record_is_one_line_whatever_it_holds(texts: list[str]) -> None:
    things = [{"id": number, "text": text} for number, text in enumerate(texts)]

    table = shown(things).split("\n")
    tsv = shown(things, Format.TSV).split("\n")
    comma = shown(things, Format.CSV)

    assert len(table) == len(tsv) == comma.count("\n") + 1 == len(things) + 2
    assert [line.count("\t") for line in tsv[:-1]] == [1] * (len(things) + 1)
    rows = list(csv.reader(io.StringIO(comma), strict=True))
    assert [row[0] for row in rows] == ["id", *(str(number) for number in range(len(things)))]
    assert [row[1].removeprefix("'") for row in rows[1:]] == [
        safe(text).removeprefix("'") for text in texts
    ]
    assert not any(line.endswith(" ") for line in table)


@given(st.text())
def test_every_text_comes_back_exactly_from_json(text: str) -> None:
    document = shown([{text: text}], Format.JSON)

    assert document.isascii()
    assert json.loads(document)["items"] == [{text: text}]


@given(st.text())
def test_safe_changes_nothing_that_is_visible(text: str) -> None:
    result = safe(text)

    assert all(char == " " or is_visible(char) for char in result)
    assert safe(result) == result
    if all(char == " " or is_visible(char) for char in text):
        assert result == text


@pytest.mark.parametrize(
    ("text", "on_screen"),
    [
        ("naïve café, 日本語 €", "naïve café, 日本語 €"),
        ("C:\\temp", "C:\\temp"),
        ("a\nb\r\n", r"a\x0ab\x0d\x0a"),
        ("\x9b31m\x7f\x00", r"\x9b31m\x7f\x00"),
        ("\u200b\ufeff\u2028\u3000\u00a0", r"\u200b\ufeff\u2028\u3000\xa0"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("\u3164\ufe0f", r"\u3164\ufe0f"),
    ],
)
def test_what_is_invisible_is_written_by_its_number(text: str, on_screen: str) -> None:
    assert safe(text) == on_screen


def test_every_character_there_is_can_be_shown() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))

    categories = {unicodedata.category(char) for char in safe(everything)}

    assert categories.isdisjoint({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})


@pytest.mark.parametrize("text", ["[red]x[/red]", "[/]", "[link=x]y", ":smile:", "[TODO]", "a\\["])
def test_markup_and_emoji_codes_stay_as_they_are(text: str) -> None:
    assert shown([Note(text)]) == f"description\n{text}\n"
    assert text in on_terminal([{"description": text}], width=80)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1+1", "'+1+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1+1", r"'\x09=1+1"),
        ("\r=1+1", r"'\x0d=1+1"),
        ("＝1+1", "'＝1+1"),
        ("＋1", "'＋1"),
        ("－1", "'－1"),
        ("＠x", "'＠x"),
        ("-", "'-"),
        ("-5", "-5"),
        ("-0.05", "-0.05"),
        ("-5\n", r"'-5\x0a"),
        ("-٥", "'-٥"),
        ("+447700900123", "+447700900123"),
        ("+447700900123=1", "'+447700900123=1"),
        ("+0123456789", "'+0123456789"),
        ("a=1", "a=1"),
        ("'=1", "'=1"),
    ],
)
def test_a_spreadsheet_runs_no_cell(text: str, cell: str) -> None:
    assert shown([Note(text)], Format.CSV) == f"description\n{cell}\n"
    assert shown([Note(text)], Format.TSV) == f"description\n{cell}\n"


def test_a_quotation_mark_opens_no_cell_of_a_tsv_file() -> None:
    assert shown([Note('"=1+1"')], Format.TSV) == 'description\n\'"=1+1"\n'
    assert shown([Note('"=1+1"')], Format.CSV) == 'description\n"""=1+1"""\n'


def test_numbers_below_zero_stay_numbers() -> None:
    owing = {"balance_cents": -5, "rate": Decimal("-0.05")}

    assert shown(owing, Format.CSV) == "balance_cents,rate\n-5,-0.05\n"


# Off a terminal


def test_off_a_terminal_nothing_is_wrapped_or_cropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    long = "word " * 5_000 + "end"

    lines = shown([Note(long), Note("日本")]).splitlines()

    assert lines == ["description", long, "日本"]


def test_wide_text_keeps_the_columns_in_line() -> None:
    things = [
        {"description": "日本語のメモ", "amount_cents": 5},
        {"description": "ab", "amount_cents": 100_00},
        {"description": "e\u0301", "amount_cents": 1},
    ]

    lines = shown(things).splitlines()

    assert len({cell_len(line) for line in lines}) == 1
    assert lines[1] == "日本語のメモ        0.05"


@pytest.mark.parametrize("term", ["dumb", "xterm-256color"])
def test_a_pipe_gets_no_colour_even_by_force(term: str) -> None:
    done = in_a_process([ORDER], FORCE_COLOR="1", TERM=term, COLUMNS="20")

    header, row = done.stdout.splitlines()
    assert "\x1b" not in done.stdout
    assert header.startswith("id  account id  order type  amount USD  stripe session id")
    assert SESSION in row


@pytest.mark.parametrize("form", Format)
def test_one_thing_loads_no_rich(form: Format) -> None:
    assert "rich" not in modules_after(ORDER, form)


@pytest.mark.parametrize("form", [Format.JSON, Format.CSV, Format.TSV])
def test_machine_formats_load_no_rich(form: Format) -> None:
    assert "rich" not in modules_after([ORDER], form)


def test_a_table_off_a_terminal_draws_without_rich() -> None:
    assert "rich.console" not in modules_after([ORDER], Format.TABLE)


# On a terminal


@pytest.mark.parametrize("width", [40, 80, 200])
def test_an_id_is_never_cut(width: int) -> None:
    columns = ("id", "status", "stripe_session_id", "created_at")

    out = on_terminal([ORDER, ORDER], columns, width=width)

    assert out.count(SESSION) == 2


@pytest.mark.parametrize("width", [34, 80, 200])
def test_a_table_fits_its_terminal_and_loses_no_character(width: int) -> None:
    long = "日本語の説明" * 20 + "x" * 100

    columns = ("id", "balance_after_cents", "description")
    answer = [replace(CREDIT, description=long)]

    lines = on_terminal(answer, columns, width=width, NO_COLOR="1").splitlines()

    assert max(map(cell_len, lines)) <= width
    folded = "".join("".join(lines).split())
    assert "1234.50" in folded
    assert sum(folded.count(char) for char in "日本語の説明") == 120
    assert folded.count("x") == 100


@pytest.mark.parametrize("columns", [("id", "amount_cents", "stripe_session_id", "created_at"), ()])
@pytest.mark.parametrize("width", [10, 40, 80, 117, 120, 160, 240, 280])
def test_no_width_cuts_an_id_an_amount_or_a_time(columns: Sequence[str], width: int) -> None:
    widest = replace(ORDER, id=2**63 - 1, amount_cents=99_999_999)

    text = on_terminal([ORDER, widest], columns, width=width, NO_COLOR="1")

    assert {"9223372036854775807", "999999.99", SESSION, "2026-11-23 08:13:00Z"} <= set(
        re.split(r"  +|\n| USD\n", text)
    )
    assert max(map(len, text.splitlines())) <= width or "\n\n" in text


def test_a_tight_table_folds_its_headers_before_it_gives_up() -> None:
    columns = ("country_code", "country_name", "segments_per_10_dollars")

    assert on_terminal([BRITAIN], columns, width=40, NO_COLOR="1") == (
        "country                     segments per\n"
        "code        country name      10 dollars\n"
        "GB          United Kingdom            38\n"
    )


def test_a_narrow_terminal_gets_a_block_of_lines_for_each_thing() -> None:
    columns = ("id", "amount_cents", "description")

    assert on_terminal([CREDIT, replace(CREDIT, id=6)], columns, width=20) == (
        "id           7\n"
        "amount       9.00 USD\n"
        "description  coffee\n"
        "\n"
        "id           6\n"
        "amount       9.00 USD\n"
        "description  coffee\n"
    )


def test_a_terminal_gets_a_bold_header_and_nothing_else() -> None:
    header, row = on_terminal([CREDIT], ("id",), width=80).splitlines()

    assert header.startswith("\x1b[1mid\x1b[0m")
    assert row == "7"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_asks_for_no_colour_gets_none(environment: Mapping[str, str]) -> None:
    out = on_terminal([CREDIT], ("id",), width=80, **{"FORCE_COLOR": "1", **environment})

    assert out == "id\n7\n"


def test_an_empty_no_color_forbids_nothing() -> None:
    assert "\x1b[1m" in on_terminal([CREDIT], ("id",), width=80, NO_COLOR="")


def test_a_terminal_without_a_size_is_eighty_wide() -> None:
    out = on_terminal([BRITAIN], width=0, NO_COLOR="1")

    # A table, and no wider: its header in three lines, then one for Britain.
    first, _, third, britain = out.splitlines()
    assert first.strip() == "customer cost"
    assert third.split() == [
        "country",
        "code",
        "country",
        "name",
        "segment",
        "cents",
        "cents",
        "dollars",
    ]
    assert britain.split() == ["GB", "United", "Kingdom", "5.24", "26.20", "38"]
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("width", [13, 40, 80, 120])
def test_a_hostile_text_reaches_no_terminal(width: int) -> None:
    out = on_terminal([{"description": HOSTILE}], width=width, NO_COLOR="1")

    assert "".join(out.split()) == "description" + HARMLESS.replace(" ", "")


# Streams


def test_a_note_goes_to_stderr_and_holds_nothing_hostile(
    capsys: pytest.CaptureFixture[str],
) -> None:
    note(f"key {HOSTILE}\nnext")

    assert capsys.readouterr() == ("", f"note: key {HARMLESS}\\x0anext\n")


@pytest.fixture
def full() -> Iterator[IO[str]]:
    """A stream that takes nothing, and says so when it is flushed."""
    # What it has not taken it refuses once more when it is closed.
    with suppress(OSError), Path("/dev/full").open("w") as stream:
        yield stream


def test_a_note_never_fails(full: IO[str], monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (full, closed, None):
        monkeypatch.setattr(sys, "stderr", stream)

        note("nobody hears this")


@pytest.mark.parametrize("form", Format)
def test_a_full_stdout_is_noticed_before_show_returns(
    form: Format, full: IO[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", full)

    with pytest.raises(UnavailableError, match="No space left") as refusal:
        show(CREDIT, form)

    assert refusal.value.code is Code.OUTPUT


# How it is run


def shown(
    answer: object,
    form: Format = Format.TABLE,
    columns: Sequence[str] = (),
    kind: type | None = None,
) -> str:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()):
        show(answer, form, columns=columns, kind=kind)
    return out.getvalue()


CHILD = """
import pickle, sys
from tbpay.cli.output import show
answer, form, columns = pickle.loads(bytes.fromhex(sys.argv[1]))
show(answer, form, columns=columns)
"""
NAME_MODULES = 'print(*sys.modules, sep="\\n", file=sys.stderr)'


def in_a_process(
    answer: object,
    form: Format = Format.TABLE,
    columns: Sequence[str] = (),
    *,
    stdout: IO[str] | int = subprocess.PIPE,
    then: str = "",
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD + then, pickle.dumps((answer, form, columns)).hex()],
        cwd=ROOT,
        env={"TERM": "xterm-256color", "PYTHONUTF8": "1", **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )


def modules_after(answer: object, form: Format) -> list[str]:
    return in_a_process(answer, form, then=NAME_MODULES).stderr.splitlines()


def on_terminal(
    answer: object, columns: Sequence[str] = (), *, width: int, **environment: str
) -> str:
    """Answer what show() sends to a pseudo-terminal."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, width))
    with ThreadPoolExecutor() as pool, os.fdopen(ours, "rb", buffering=0) as reader:
        sent = pool.submit(read_to_the_end, reader)
        with os.fdopen(theirs, "w") as screen:
            done = in_a_process(answer, Format.TABLE, columns, stdout=screen, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        return sent.result().replace("\r\n", "\n")


def read_to_the_end(reader: io.FileIO) -> str:
    read = b""
    # Linux says EIO where the other side of a pseudo-terminal is closed.
    with suppress(OSError):
        while piece := reader.read(65536):
            read += piece
    return read.decode()
