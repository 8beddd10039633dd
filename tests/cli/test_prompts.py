"""Questions: asked of somebody at a terminal, where all but a yes is a no; and of nobody else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import sqlalchemy as sa
from command_line import Terminal, ctrl_c_heard, environment, tbpay, unguarded
from databases import Database
from probes import dump, rows

from tbpay.errors import Code
from tbpay.migrations import HEAD

pytestmark = pytest.mark.one_database

FAIL = "order fail 2 4"
NEGATIVE = "balance debit 1 --amount 20.01 --reason x --allow-negative"
REFUND = "order refund 1 --policy negative"
DOWNGRADE = "db downgrade 0002"
DROPS = "audit_log (2 rows), discount_redemptions (2 rows),"
ASKING = {
    FAIL: "fail 2 orders needs a yes: repeat with --yes",
    NEGATIVE: "take account 1 to -0.01 USD needs a yes: repeat with --yes",
    REFUND: "refund 25.00 USD of order 1, take 25.00 USD off account 1 and leave it below zero,"
    " at -5.00 USD needs a yes: repeat with --yes",
    DOWNGRADE: f"downgrade to 0002, which drops {DROPS} in {{}} (TBPAY_DATABASE_URL)"
    " must be confirmed: repeat with --confirm 0002",
}


@pytest.fixture(autouse=True)
def _ctrl_c_heard() -> Iterator[None]:
    with ctrl_c_heard():
        yield


# Where nobody sits


@pytest.mark.parametrize("words", ASKING)
@pytest.mark.parametrize("typed", ["", "y\n", "yes\n" * 100])
def test_without_a_terminal_a_question_names_the_flag_that_answers_it(
    words: str, typed: str, shop: Database
) -> None:
    before = dump(shop)

    plain, as_json = tbpay(words, typed=typed), tbpay(f"{words} --json", typed=typed)

    assert (plain.code, plain.out) == (9, "")
    assert plain.err == f"error: {ASKING[words].format(shop)}\n"
    assert (as_json.code, as_json.error["code"]) == (9, Code.CONFIRMATION_NEEDED)
    assert dump(shop) == before


@pytest.mark.parametrize("stdin", ["a silent pipe", "closed", "/dev/null"])
def test_no_question_ever_waits_for_a_pipe(stdin: str, shop: Database) -> None:
    before = dump(shop)
    silent, writing = os.pipe()
    redirect = {"a silent pipe": "", "closed": "<&-", "/dev/null": "< /dev/null"}[stdin]
    script = "; ".join(f"$tbpay {words} {redirect}; echo = $? >&2" for words in ASKING)

    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        stdin=silent,
        timeout=30,
        env=environment() | {"tbpay": f"{sys.executable} -m tbpay"},
    )

    os.close(silent)
    os.close(writing)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        line for message in ASKING.values() for line in (f"error: {message.format(shop)}", "= 9")
    ]
    assert dump(shop) == before


def test_a_terminal_on_stdin_alone_is_nobody(shop: Database) -> None:
    before = dump(shop)
    ours, theirs = os.openpty()

    with os.fdopen(ours, "wb") as typing, os.fdopen(theirs, "rb") as keyboard:
        typing.write(b"y\n")
        typing.flush()
        done = process(FAIL, stdin=keyboard)

    assert (done.returncode, done.stdout) == (9, b"")
    assert dump(shop) == before


def process(words: str, stdin: IO[bytes]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "tbpay", *words.split()],
        check=False,
        capture_output=True,
        stdin=stdin,
        timeout=30,
        env=environment(),
    )


def test_the_flag_is_the_answer(shop: Database) -> None:
    assert tbpay(f"{FAIL} --yes").code == 0
    assert tbpay(f"{NEGATIVE} --yes").code == 0
    assert tbpay(f"{DOWNGRADE} --confirm 0002").code == 0

    assert rows(shop, "SELECT status FROM orders WHERE id IN (2, 4)") == [("failed",)] * 2
    assert rows(shop, "SELECT balance_cents FROM account_balances WHERE account_id = 1") == [(-1,)]
    assert rows(shop, "SELECT version_num FROM tbpay_alembic_version") == [("0002",)]


def test_a_dry_run_asks_nobody(shop: Database) -> None:
    before = dump(shop)

    assert tbpay(f"{FAIL} --dry-run").code == 0
    assert tbpay(f"{NEGATIVE} --dry-run --json").json["balance_cents"] == -1
    assert dump(shop) == before


def test_the_wrong_name_confirms_nothing(shop: Database) -> None:
    before = dump(shop)

    for name in ("0001", "", "base", "0002 ", "yes", "000２"):
        answer = tbpay(f"{DOWNGRADE} --json --confirm", name)

        assert (answer.code, answer.error["code"]) == (9, Code.DECLINED)
    assert dump(shop) == before


@pytest.mark.usefixtures("shop")
def test_what_can_be_refused_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"

    assert tbpay("db downgrade 0009").code == 2
    assert tbpay(f"db downgrade base --database {missing}").code == 7
    assert tbpay("order refund 1 --amount 25.01").code == 4
    assert tbpay("order refund 2").code == 5
    tbpay(f"{DOWNGRADE} --confirm 0002")
    assert tbpay("db downgrade 0003").code == 2
    assert not missing.exists()


@pytest.mark.usefixtures("shop")
def test_what_stays_above_zero_is_not_asked_about() -> None:
    exactly_all = "balance debit 1 --amount 20 --reason x --allow-negative --json"

    answer = tbpay(exactly_all)

    assert (answer.code, answer.json["balance_cents"]) == (0, 0)


@pytest.mark.every_database
def test_what_nobody_was_asked_about_stays_forbidden_whatever_happens_meanwhile(
    shop: Database,
) -> None:
    @sa.event.listens_for(sa.pool.Pool, "checkin", once=True)
    def somebody_else_debits(*_: object) -> None:
        unguarded(shop, "UPDATE account_balances SET balance_cents = 1500 WHERE account_id = 1")

    answer = tbpay("balance debit 1 --amount 20 --reason x --allow-negative --json")

    assert (answer.code, answer.error["code"]) == (4, Code.INSUFFICIENT_BALANCE)
    assert rows(shop, "SELECT balance_cents FROM account_balances") == [(1500,)]


@pytest.mark.every_database
def test_a_refund_that_becomes_another_one_meanwhile_is_not_made(shop: Database) -> None:
    with Terminal(f"order refund 1 --policy negative --database '{shop.url}'") as terminal:
        terminal.wait("[y/N] ")
        tbpay("order refund 1 --amount 5 --yes")
        before = dump(shop)
        terminal.answer("", "y")
        assert terminal.end() == 5

    assert "error: order 1 or its account has moved on since you were asked\n" in terminal.seen
    assert dump(shop) == before


@pytest.mark.every_database
def test_a_refund_is_made_though_the_balance_has_changed_within_what_was_agreed(
    shop: Database,
) -> None:
    with Terminal("order refund 1 --amount 5") as terminal:
        terminal.wait("take 5.00 USD off account 1 and leave it 15.00 USD")
        tbpay("balance debit 1 --amount 15 --reason sms")
        terminal.answer("[y/N] ", "y")
        assert terminal.end() == 0

    assert rows(shop, "SELECT balance_cents FROM account_balances") == [(0,)]


@pytest.mark.usefixtures("shop")
def test_one_order_is_failed_without_a_question() -> None:
    assert tbpay("order fail 2").code == 0
    assert tbpay("order fail 4 4").code == 0


# At a terminal


def test_a_yes_at_a_terminal_does_it(shop: Database) -> None:
    with Terminal(FAIL) as terminal:
        terminal.answer(f"fail 2 orders in {shop} (TBPAY_DATABASE_URL)? [y/N] ", "y")
        assert terminal.end() == 0

    assert rows(shop, "SELECT status FROM orders WHERE id IN (2, 4)") == [("failed",)] * 2


@pytest.mark.parametrize("typed", ["n", ""])
def test_anything_else_at_a_terminal_is_a_no(typed: str, shop: Database) -> None:
    before = dump(shop)

    with Terminal(NEGATIVE) as terminal:
        terminal.answer(
            f"take account 1 to -0.01 USD in {shop} (TBPAY_DATABASE_URL)? [y/N] ", typed
        )
        assert terminal.end() == 9

    assert terminal.seen.endswith("\nerror: not confirmed: nothing was changed\n")
    assert dump(shop) == before


@pytest.mark.parametrize(
    ("key", "code", "error"),
    [("d", 9, "no answer: nothing was changed"), ("c", 130, "interrupted")],
    ids=["Ctrl-D", "Ctrl-C"],
)
def test_leaving_a_question_at_a_terminal_changes_nothing(
    key: str, code: int, error: str, shop: Database
) -> None:
    before = dump(shop)

    with Terminal(FAIL) as terminal:
        terminal.press("[y/N] ", key)
        assert terminal.end() == code

    assert terminal.seen.endswith(f"\nerror: {error}\n")
    assert dump(shop) == before


@pytest.mark.parametrize(("typed", "code"), [("0002", 0), ("y", 9)])
def test_a_downgrade_wants_its_name_typed(typed: str, code: int, shop: Database) -> None:
    with Terminal(DOWNGRADE) as terminal:
        terminal.answer(
            f"downgrade to 0002, which drops {DROPS} in {shop} (TBPAY_DATABASE_URL)."
            " Type 0002 to go on: ",
            typed,
        )
        assert terminal.end() == code

    revision = HEAD if code else "0002"
    assert rows(shop, "SELECT version_num FROM tbpay_alembic_version") == [(revision,)]


def test_json_never_asks_at_a_terminal(shop: Database) -> None:
    before = dump(shop)

    with Terminal(f"{FAIL} --json") as terminal:
        assert terminal.end() == 9
    with Terminal("--json discount create") as terminal:
        assert terminal.end() == 2

    assert "missing CODE and --percent or --amount" in terminal.seen
    assert dump(shop) == before


# Making a discount code by answering


def test_a_discount_code_is_made_by_answering_questions(shop: Database) -> None:
    with Terminal("discount create") as terminal:
        terminal.answer("code: ", "straße")
        terminal.answer("code: ", "summer5")
        terminal.answer("percent or fixed: ", "both")
        terminal.answer("percent or fixed: ", "fixed")
        terminal.answer("dollars off: ", "-5")
        terminal.answer("dollars off: ", "5.50")
        terminal.answer("how many uses (empty: no limit): ", "0")
        terminal.answer("how many uses (empty: no limit): ", "")
        assert terminal.end() == 0

    assert f"note: a new discount code in {shop} (TBPAY_DATABASE_URL)\n" in terminal.seen
    assert terminal.seen.count("note: ") == 6
    assert "to undo: tbpay discount deactivate SUMMER5\n" in terminal.seen
    assert rows(
        shop,
        "SELECT discount_type, discount_value, max_uses FROM discount_codes WHERE code = 'SUMMER5'",
    ) == [("fixed", 550, None)]


def test_only_what_is_missing_is_asked_for(shop: Database) -> None:
    with Terminal("discount create SUMMER5") as terminal:
        terminal.answer("percent or fixed: ", "percent")
        terminal.answer("per cent off: ", "5")
        assert terminal.end() == 0

    assert rows(shop, "SELECT discount_value FROM discount_codes WHERE code = 'SUMMER5'") == [(5,)]


def test_leaving_the_questions_makes_no_code(shop: Database) -> None:
    before = dump(shop)

    with Terminal("discount create") as terminal:
        terminal.answer("code: ", "SUMMER5")
        terminal.press("percent or fixed: ", "d")
        assert terminal.end() == 9

    assert dump(shop) == before
