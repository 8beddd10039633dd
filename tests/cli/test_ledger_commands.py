"""``tbpay ledger``: what proves the ledger, and what it says where it does not hold."""

import csv
import io
import signal

import pytest
from command_line import (
    HARMLESS,
    HOSTILE,
    Terminal,
    ctrl_c_heard,
    held,
    start,
    tbpay,
    wait_until_it_waits,
)
from databases import Database
from probes import dump, run
from tampering import lawless, tamper

from tbpay.errors import Code
from tbpay.guards import GUARDS

FIELDS = ["check", "account_id", "subject", "field", "stored", "expected"]


@pytest.fixture
def wrong(shop: Database) -> Database:
    """A shop in which Ann's debit, line 2, is said to be of 4.00 and not of 5.00."""
    tamper(shop, "UPDATE transactions SET amount_cents = 400 WHERE id = 2")
    return shop


def test_people_read_what_was_looked_at(shop: Database) -> None:
    before = dump(shop)

    answer = tbpay("ledger verify")

    assert (answer.code, answer.err) == (0, "")
    assert [line.split() for line in answer.out.splitlines()] == [
        ["check", "looked", "at", "wrong"],
        ["lines", "2", "0"],
        ["balances", "1", "0"],
        ["trails", "1", "0"],
        ["charges", "0", "0"],
        ["orders", "4", "0"],
        ["refunds", "0", "0"],
        ["redemptions", "2", "0"],
        ["codes", "3", "0"],
        ["guards", str(len(GUARDS[shop.dialect])), "0"],
    ]
    assert dump(shop) == before


@pytest.mark.usefixtures("wrong")
def test_people_read_below_it_what_is_wrong() -> None:
    answer = tbpay("ledger verify")

    assert (answer.code, answer.err) == (8, "")
    checks, differences = answer.out.split("\n\n")
    assert "lines                2      1\n" in checks
    assert [line.split() for line in differences.splitlines()] == [
        ["check", "account", "id", "subject", "field", "stored", "expected"],
        ["lines", "1", "line", "2", "balance_after_cents", "2000", "2100"],
        ["trails", "1", "account", "1", "balance_cents", "2000", "2100"],
    ]


@pytest.mark.usefixtures("wrong")
def test_programs_read_both_in_one_document() -> None:
    answer = tbpay("ledger verify --json")

    assert (answer.code, answer.err) == (8, "")
    assert list(answer.json) == ["checks", "differences"]
    assert answer.json["checks"][:2] == [
        {"check": "lines", "looked_at": 2, "wrong": 1},
        {"check": "balances", "looked_at": 1, "wrong": 0},
    ]
    assert answer.json["differences"][0] == {
        "check": "lines",
        "account_id": 1,
        "subject": "line 2",
        "field": "balance_after_cents",
        "stored": 2000,
        "expected": 2100,
    }


@pytest.mark.usefixtures("wrong")
def test_tables_for_programs_are_of_the_differences() -> None:
    answer = tbpay("ledger verify -o csv")

    assert answer.code == 8
    assert list(csv.reader(io.StringIO(answer.out))) == [
        FIELDS,
        ["lines", "1", "line 2", "balance_after_cents", "2000", "2100"],
        ["trails", "1", "account 1", "balance_cents", "2000", "2100"],
    ]


@pytest.mark.usefixtures("shop")
def test_a_sound_ledger_is_two_lists_for_programs_one_of_them_empty() -> None:
    answer = tbpay("ledger verify --json")

    assert answer.code == 0
    assert answer.json["differences"] == []
    assert {check["wrong"] for check in answer.json["checks"]} == {0}
    assert tbpay("ledger verify -o tsv").out == "\t".join(FIELDS) + "\n"


@pytest.mark.usefixtures("wrong")
@pytest.mark.parametrize("account", ["2", "bob@example.org"])
def test_of_one_account_only_its_own_is_wrong(account: str) -> None:
    assert tbpay(f"ledger verify --account {account}").code == 0


@pytest.mark.usefixtures("wrong")
@pytest.mark.parametrize("account", ["1", "ann@example.org"])
def test_an_account_is_named_by_its_id_or_its_email(account: str) -> None:
    answer = tbpay(f"ledger verify --account {account} --json")

    assert answer.code == 8
    assert len(answer.json["differences"]) == 2


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("account", ["3", "eve@example.org"])
def test_an_account_that_is_not_there_is_not_found(account: str) -> None:
    answer = tbpay(f"ledger verify --account {account} --json")

    assert (answer.code, answer.out) == (3, "")
    assert answer.error["code"] == Code.NOT_FOUND


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("account", ["0", "-1", "ann", "''", "1.5"])
def test_what_names_no_account_is_bad_input(account: str) -> None:
    assert tbpay(f"ledger verify --account={account}").code == 2


def test_a_guard_that_is_missing_is_a_difference(shop: Database) -> None:
    on = "" if shop.dialect == "sqlite" else " ON transactions"
    run(shop, f"DROP TRIGGER transactions_no_change{on}")

    answer = tbpay("ledger verify")

    assert answer.code == 8
    said = "trigger transactions_no_change on transactions  definition  missing  as tbpay makes it"
    assert f"guards  -           {said}\n" in answer.out


def test_what_stands_there_cannot_drive_the_terminal(shop: Database) -> None:
    with lawless(shop) as execute:
        execute("UPDATE orders SET status = ?", HOSTILE[:20])

    answer = tbpay("ledger verify")

    assert answer.code == 8
    assert "\x1b" not in answer.out
    assert HARMLESS[:20] in answer.out


# At a terminal


@pytest.fixture
def long_shop(shop: Database) -> Database:
    """A shop in which Bob has had 300,000 cents given to him, one at a time."""
    tamper(
        shop,
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT 300000)"
        " INSERT INTO transactions (account_id, account_version, transaction_type, amount_cents,"
        " balance_after_cents, description, created_at)"
        " SELECT 2, n, 'credit', 1, n, 'a cent', '2026-11-23T08:13:00.000000Z' FROM numbers",
        "INSERT INTO account_balances (account_id, balance_cents, account_version, updated_at)"
        " VALUES (2, 300000, 300000, '2026-11-23T08:13:00.000000Z')",
    )
    return shop


# PostgreSQL is asked for more at once.
on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])
TOLD = " 16 %  50,002 lines verified, 0:"


@on_sqlite
@pytest.mark.usefixtures("long_shop")
def test_somebody_who_waits_is_told_how_far_it_is() -> None:
    with Terminal("ledger verify") as terminal:
        assert terminal.end() == 0

    bars = terminal.seen.split("\r")
    assert TOLD in bars[1]
    assert bars[-2].isspace()
    assert len(bars[-2]) >= len(bars[1])
    assert bars[-1].startswith("check")
    assert tbpay("ledger verify").err == ""


@on_sqlite
@pytest.mark.usefixtures("long_shop")
def test_ctrl_c_ends_it_at_once() -> None:
    with ctrl_c_heard(), Terminal("ledger verify") as terminal:
        terminal.press(TOLD, "c")
        assert terminal.end() == 130

    assert terminal.seen.endswith("\rerror: interrupted\n")
    assert "check" not in terminal.seen


def test_ctrl_c_ends_it_while_another_process_keeps_the_database_locked(shop: Database) -> None:
    if shop.dialect == "sqlite":
        run(shop, "PRAGMA journal_mode=DELETE")  # in which a writer keeps readers away
    with ctrl_c_heard(), held(shop, from_readers=True), start("ledger verify") as process:
        wait_until_it_waits(process.pid, shop)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()

    assert (process.returncode, out, err) == (130, b"", b"error: interrupted\n")


@pytest.mark.usefixtures("shop")
def test_who_does_not_have_to_wait_is_told_nothing() -> None:
    with Terminal("ledger verify") as terminal:
        assert terminal.end() == 0
    assert terminal.seen.startswith("check")
