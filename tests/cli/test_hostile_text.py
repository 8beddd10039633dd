"""A text that somebody stored drives no terminal, log or spreadsheet; JSON alone has it exactly."""

import csv
from pathlib import Path

import pytest
from command_line import HARMLESS, HOSTILE, Answer, Terminal, tbpay, unguarded
from databases import Database
from probes import rows, run

from tbpay.migrations import HEAD


def assert_harmless(answer: Answer) -> None:
    """Nothing but visible characters, spaces and the ends of lines."""
    for line in (*answer.out.splitlines(), *answer.err.splitlines()):
        assert line.replace("\t", "").isprintable()
        assert "\u202e" not in line


def test_a_hostile_reason_is_kept_exactly_and_shown_harmlessly(shop: Database) -> None:
    words = "balance credit 1 --amount 5 --reason"

    credited = tbpay(words, HOSTILE)
    as_json = tbpay(f"{words}", HOSTILE, "--json")

    assert credited.code == 0
    assert_harmless(credited)
    assert f"description       {HARMLESS}\n" in credited.out
    assert as_json.json["description"] == HOSTILE
    assert_harmless(as_json)
    assert rows(shop, "SELECT description FROM transactions ORDER BY id DESC LIMIT 1") == [
        (HOSTILE,)
    ]


@pytest.mark.parametrize(
    ("words", "field"), [("balance history 1", "description"), ("audit list", "reason")]
)
@pytest.mark.usefixtures("shop")
def test_a_hostile_reason_reaches_no_list_raw(words: str, field: str) -> None:
    tbpay("balance credit 1 --amount 5 --reason", HOSTILE)

    table, as_csv, as_tsv = (tbpay(f"{words} -o {form}") for form in ("table", "csv", "tsv"))

    assert tbpay(f"{words} --json").items[0][field] == HOSTILE
    for answer in (table, as_csv, as_tsv):
        assert answer.code == 0
        assert_harmless(answer)
        assert HARMLESS in answer.out
    [newest] = list(csv.DictReader(as_csv.out.splitlines()))[:1]
    assert newest[field] == HARMLESS


@pytest.mark.usefixtures("shop")
def test_a_hostile_actor_reaches_no_list_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPAY_ACTOR", HOSTILE)
    tbpay("balance credit 1 --amount 5 --reason x")

    answer = tbpay("audit list --actor", HOSTILE)

    assert_harmless(answer)
    assert answer.out.count(HARMLESS) == 1
    assert tbpay("audit list --json --actor", HOSTILE).items[0]["actor"] == HOSTILE


@pytest.mark.parametrize("form", ["table", "csv", "tsv", "json"])
def test_what_the_web_application_stored_is_shown_harmlessly_too(form: str, shop: Database) -> None:
    hostile = HOSTILE.replace(" ", "") + "\r\n@x.org"
    refund = "order refund 1 --amount 5 --yes --key refund-of-1"
    tbpay(refund)
    unguarded(
        shop,
        f"UPDATE accounts SET email = '{hostile}', stripe_customer_id = '{HOSTILE}' WHERE id = 1",
        f"UPDATE orders SET stripe_session_id = '{HOSTILE}' WHERE id = 2",
        f"UPDATE discount_codes SET stripe_coupon_id = '{HOSTILE}' WHERE id = 1",
        f"UPDATE transactions SET description = '{hostile}'",
        f"UPDATE order_refunds SET reason = '{hostile}', stripe_refund_id = '{HOSTILE}'",
        f"UPDATE audit_log SET action = '{HOSTILE}', host = '{HOSTILE}', detail = '{HOSTILE}'",
    )

    for words in (
        *("account list", "account show 1", "balance history 1", "audit list"),
        *("order list", "order show 2", "discount list", "discount show LAUNCH10"),
        *("discount show LAUNCH10 --uses", refund),
    ):
        answer = tbpay(f"{words} -o {form}")

        assert answer.code == 0
        assert_harmless(answer)


def test_what_was_stored_reaches_no_error_raw(shop: Database) -> None:
    run(
        shop,
        f"UPDATE orders SET stripe_payment_intent_id = '{HOSTILE}' WHERE id = 2",
        f"UPDATE tbpay_alembic_version SET version_num = '{HOSTILE}'",
    )
    ahead = tbpay("order list")
    run(shop, f"UPDATE tbpay_alembic_version SET version_num = '{HEAD}'")
    conflict = tbpay("order complete 2 --payment-intent pi_2")

    assert (ahead.code, conflict.code) == (7, 5)
    for answer in (ahead, conflict):
        assert_harmless(answer)
        assert HARMLESS in answer.err


@pytest.mark.usefixtures("shop")
def test_one_record_stays_one_line() -> None:
    tbpay("balance credit 1 --amount 5 --reason", "a\nb\r\nc\u2028d\x85e\tf\x0bg")

    for form in ("table", "csv", "tsv"):
        answer = tbpay(f"balance history 1 --limit 1 -o {form}")

        assert len(answer.out.splitlines()) == 2
        assert r"a\x0ab\x0d\x0ac\u2028d\x85e\x09f\x0bg" in answer.out


@pytest.mark.parametrize(
    ("reason", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", r"'\x09=1"),
        ("-5.00", "-5.00"),
        ("+447700900123", "+447700900123"),
        ("a,b\"c'd", "a,b\"c'd"),
    ],
)
@pytest.mark.usefixtures("shop")
def test_a_spreadsheet_runs_no_reason(reason: str, cell: str) -> None:
    tbpay("balance credit 1 --amount 5", f"--reason={reason}")

    [row] = csv.DictReader(tbpay("balance history 1 --limit 1 -o csv").out.splitlines())
    header, cells = tbpay("balance history 1 --limit 1 -o tsv").out.splitlines()
    assert row["description"] == cell
    assert cells.split("\t")[header.split("\t").index("description")] == cell


@pytest.mark.parametrize(
    "text", ["' OR 1=1 --", "%", "_", ":p ?1 $1 %(x)s {} ${}", "$(id)", "\\", "[/]", "#", "日本語"]
)
@pytest.mark.usefixtures("shop")
def test_text_that_means_something_elsewhere_is_plain_text_here(text: str) -> None:
    answer = tbpay("balance credit 1 --amount 5 --json --reason", text)

    assert answer.json["description"] == text
    assert text in tbpay("balance history 1").out
    assert tbpay("account list --json --search", text).items == []
    assert tbpay("audit list --json --subject", text).items == []


def test_a_hostile_name_of_a_file_is_shown_harmlessly(tmp_path: Path) -> None:
    path = tmp_path / HOSTILE.replace("/", "")
    shown = str(path).replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")

    for words in ("order list", "db status", "db upgrade"):
        answer = tbpay(f"{words} --database", str(path))

        assert_harmless(answer)
        assert shown in answer.out + answer.err
    assert path.exists()


def test_a_hostile_name_of_a_file_reaches_no_question_raw(stocked: Path, tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2Jb.db"
    path.write_bytes(stocked.read_bytes())

    with Terminal(f"order fail 2 4 --database '{path}'") as terminal:
        terminal.answer(r"a\x1b[2Jb.db (--database)? [y/N] ", "n")
        assert terminal.end() == 9

    assert "\x1b[2J" not in terminal.seen


@pytest.mark.parametrize(
    "text", ["", " ", "\u200b\u200d", "\u3164", "\u2800", "\U000e0061", "x" * 256]
)
@pytest.mark.usefixtures("shop")
def test_a_reason_that_nobody_can_read_is_bad_input(text: str) -> None:
    answer = tbpay("balance credit 1 --amount 5 --json --reason", text)

    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err) < 2_000
