"""What commands answer, and what they say beside the answer."""

import csv
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from command_line import Answer, tbpay
from conftest import SESSION
from databases import Database
from probes import dump, rows, run, unbalanced

from tbpay.errors import Code
from tbpay.models import (
    Account,
    AccountBalance,
    AuditEntry,
    DiscountCode,
    Order,
    Redemption,
    Refund,
    Transaction,
)
from tbpay.sms_pricing import Quote


@pytest.fixture(autouse=True)
def _in_balance(shop: Database) -> Iterator[None]:
    """Whatever is done here, the lines of an account add up to its balance."""
    yield
    assert unbalanced(shop) == []


def names(kind: type) -> list[str]:
    return [field.name for field in fields(kind) if field.name != "replayed"]


def undone(answer: Answer) -> Answer:
    """Run the command that is said to undo a change."""
    [words] = [
        line.removeprefix("note: to undo: tbpay ")
        for line in answer.err.splitlines()
        if line.startswith("note: to undo: tbpay ")
    ]
    return tbpay(f"{words} --json")


# Every field by its name

MOVED = ["balance_cents", "subcent_micros", "replayed"]


@pytest.mark.parametrize(
    ("words", "kind", "more"),
    [
        ("account list", Account, []),
        ("account show 1", Account, ["balance_cents", "subcent_micros"]),
        ("account create", Account, []),
        ("audit list", AuditEntry, []),
        ("balance show", AccountBalance, []),
        ("balance show 1", AccountBalance, []),
        ("balance history 1", Transaction, []),
        ("balance credit 1 --amount 5 --reason x", Transaction, MOVED),
        ("balance debit 1 --amount 5 --reason x", Transaction, MOVED),
        ("balance charge 1 +447700900123", Transaction, MOVED),
        ("discount list", DiscountCode, []),
        ("discount show LAUNCH10", DiscountCode, []),
        ("discount create NEW --percent 5", DiscountCode, []),
        ("discount show LAUNCH10 --uses", Redemption, []),
        ("discount update LAUNCH10 --max-uses 5", DiscountCode, []),
        ("discount activate RETIRED", DiscountCode, []),
        ("discount deactivate LAUNCH10", DiscountCode, []),
        ("discount validate LAUNCH10", DiscountCode, []),
        (
            "discount validate LAUNCH10 --amount 25",
            DiscountCode,
            ["amount_cents", "reduction_cents", "charged_cents"],
        ),
        ("order list", Order, []),
        ("order show 2", Order, []),
        ("order create 1 --type top_up --amount 5", Order, []),
        ("order complete 2", Order, []),
        ("order fail 2", Order, []),
        ("order fail 2 4 --yes", Order, []),
        ("order refund 1 --amount 5 --yes", Refund, ["replayed"]),
        ("pricing quote +447700900123", Quote, []),
    ],
)
def test_programs_get_every_field_by_its_name(words: str, kind: type, more: list[str]) -> None:
    as_json = tbpay(f"{words} --json --dry-run" if is_change(words) else f"{words} --json")
    as_csv = tbpay(f"{words} -o csv")

    thing = as_json.json["items"][0] if "items" in as_json.json else as_json.json
    assert list(thing) == names(kind) + more
    assert as_csv.out.splitlines()[0].split(",") == names(kind) + more


def is_change(words: str) -> bool:
    return words.split()[1] in {
        "charge",
        "create",
        "credit",
        "debit",
        "activate",
        "deactivate",
        "complete",
        "fail",
        "refund",
        "update",
    }


# Accounts


def test_an_account_is_shown_with_its_balance() -> None:
    assert tbpay("account show ann@example.org --json").json["balance_cents"] == 2000
    assert tbpay("account show 2 --json").json["balance_cents"] == 0
    assert "balance             20.00 USD\n" in tbpay("account show 1").out


def test_an_account_is_found_by_a_part_of_its_email_or_stripe_customer(shop: Database) -> None:
    run(shop, "UPDATE accounts SET stripe_customer_id = 'cus_9' WHERE id = 2")

    assert [it["id"] for it in tbpay("account list --json --search ANN@").items] == [1]
    assert [it["id"] for it in tbpay("account list --json --search cus_9").items] == [2]
    assert [it["id"] for it in tbpay("account list --json --below 20").items] == [2]
    assert [it["id"] for it in tbpay("account list --json --below 20.01").items] == [1, 2]


def test_an_email_that_is_taken_is_a_conflict(shop: Database) -> None:
    before = dump(shop)

    answer = tbpay("account create --email ann@example.org --json")

    assert (answer.code, answer.error["code"]) == (5, Code.EXISTS)
    assert dump(shop) == before


WANTS_MORE = {
    "sqlite": [
        "CREATE TABLE own (id INTEGER PRIMARY KEY, name TEXT NOT NULL, phone TEXT NOT NULL,"
        " plan TEXT NOT NULL DEFAULT 'free', note TEXT, stripe_customer_id VARCHAR(255))",
        "INSERT INTO own (id, name, phone) SELECT id, 'x', 'y' FROM accounts",
        "DROP TABLE accounts",
        "ALTER TABLE own RENAME TO accounts",
    ],
    "postgresql": [
        "ALTER TABLE accounts DROP email, DROP created_at, ADD plan TEXT NOT NULL DEFAULT 'free',"
        " ADD name TEXT NOT NULL DEFAULT 'x', ADD phone TEXT NOT NULL DEFAULT 'y', ADD note TEXT",
        "ALTER TABLE accounts ALTER name DROP DEFAULT, ALTER phone DROP DEFAULT",
    ],
}


def test_an_account_that_the_applications_table_wants_more_for_is_refused_by_name(
    shop: Database,
) -> None:
    run(shop, *WANTS_MORE[shop.dialect])
    before = dump(shop)

    answer = tbpay("account create --json")
    with_email = tbpay("account create --json --email new@example.org")

    assert (answer.code, answer.error["code"]) == (4, Code.REFUSED)
    assert answer.error["message"] == "the web application's accounts need name, phone"
    assert with_email.error["message"] == "the web application's accounts have no email"
    assert dump(shop) == before
    assert tbpay("account show 1 --json").json["email"] is None
    assert tbpay("account show ann@example.org --json").code == 3


# Balances


def test_a_credit_and_a_debit_answer_with_their_line_and_the_balance() -> None:
    credited = tbpay("balance credit 1 --amount 10.50 --reason goodwill --json").json
    debited = tbpay("balance debit 1 --amount 30.5 --reason 'paid out' --json").json

    assert credited | {"id": 0, "created_at": ""} == {
        "id": 0,
        "account_id": 1,
        "order_id": None,
        "transaction_type": "credit",
        "amount_cents": 1050,
        "balance_after_cents": 3050,
        "description": "goodwill",
        "created_at": "",
        "account_version": 3,
        "idempotency_key": credited["idempotency_key"],
        "sms_charge": None,
        "balance_cents": 3050,
        "subcent_micros": 0,
        "replayed": False,
    }
    assert debited["transaction_type"] == "debit"
    assert (debited["amount_cents"], debited["balance_cents"]) == (3050, 0)


def test_people_read_dollars_and_words() -> None:
    answer = tbpay("balance credit 1 --amount 10.50 --reason goodwill")

    assert "amount            10.50 USD\n" in answer.out
    assert "balance after     30.50 USD\n" in answer.out
    assert "order id          -\n" in answer.out


@pytest.mark.parametrize("verb", ["credit", "debit"])
@pytest.mark.parametrize("named", [False, True], ids=["by the environment", "by the flag"])
def test_a_move_by_hand_is_taken_back_by_the_command_that_it_names(
    verb: str, named: bool, shop: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = ""
    if named:
        is_file = shop.dialect == "sqlite"
        name = shop.copy(tmp_path / "the shop's.db").url if is_file else shop.url
        monkeypatch.delenv("TBPAY_DATABASE_URL")
        flag = shlex.join(["--database", name])
    words = f"balance {verb} 1 --amount 7.05 --reason x {flag}"

    moved = tbpay(f"{words} --json")
    back = undone(moved)

    assert moved.json["balance_cents"] != 2000
    assert (back.code, back.json["balance_cents"]) == (0, 2000)
    assert back.json["description"] == f"takes back line {moved.json['id']}"
    assert ("--database" in moved.err) == named


def test_a_balance_goes_below_zero_only_when_told() -> None:
    refused = tbpay("balance debit 2 --amount 0.01 --reason x --json")
    allowed = tbpay("balance debit 2 --amount 0.01 --reason x --json --allow-negative --yes")

    assert (refused.code, refused.error["code"]) == (4, Code.INSUFFICIENT_BALANCE)
    assert (allowed.code, allowed.json["balance_cents"]) == (0, -1)
    assert "-0.01" in tbpay("balance show 2").out


def test_a_credit_by_hand_names_the_pending_order_that_would_credit_it_again(
    shop: Database,
) -> None:
    ann = tbpay("balance credit 1 --amount 25 --reason paid")
    flagged = tbpay(f"balance credit 1 --amount 25 --reason paid --database {shop}")
    tbpay("order fail 2")
    nothing_pending = tbpay("balance credit 1 --amount 25 --reason paid")

    assert "note: order 2 is pending" in ann.err
    assert "tbpay order complete 2 " in ann.err
    assert f"tbpay order complete 2 --database {shop}" in flagged.err
    assert "pending" not in nothing_pending.err
    assert "pending" not in tbpay("balance debit 2 --amount 1 --reason x --dry-run").err


def test_one_balance_is_a_thing_and_several_are_a_list() -> None:
    assert tbpay("balance show 1 --json").json["balance_cents"] == 2000
    assert [it["account_id"] for it in tbpay("balance show 2 1 --json").items] == [1, 2]
    assert [it["account_id"] for it in tbpay("balance show --json").items] == [1, 2]
    assert [it["account_id"] for it in tbpay("balance show --below 0.01 --json").items] == [2]
    # Whether there is one depends on the data, and the shape does not.
    assert tbpay("balance show 1 --below 5 --json").json == {"items": [], "next": None}
    assert [it["account_id"] for it in tbpay("balance show 1 --below 50 --json").items] == [1]
    assert tbpay("balance show 2 --json").json == {
        "id": None,
        "account_id": 2,
        "balance_cents": 0,
        "updated_at": None,
        "account_version": 0,
        "subcent_micros": 0,
    }


def test_a_history_is_newest_first() -> None:
    assert [it["id"] for it in tbpay("balance history 1 --json").items] == [2, 1]
    assert tbpay("balance history 2 --json").json == {"items": [], "next": None}


# Discount codes


def test_a_code_is_shown_to_people_in_words() -> None:
    percent, fixed = tbpay("discount show LAUNCH10").out, tbpay("discount show GONE").out

    assert "discount          10 %\n" in percent
    assert "redeemed          0\nreserved          1\nmax uses          3\n" in percent
    assert "discount          5.00 USD\n" in fixed
    assert "redeemed          1\nreserved          0\nmax uses          1\n" in fixed
    assert tbpay("discount list").out.splitlines() == [
        "code      discount  redeemed  reserved  max uses  active  ends at",
        "GONE      5.00 USD         1         0         1  yes     -",
        "RETIRED   5.00 USD         0         0         -  no      -",
        "LAUNCH10  10 %             0         1         3  yes     -",
    ]


def test_a_code_is_made_and_its_making_undone() -> None:
    made = tbpay("discount create summer --amount 5 --max-uses 3 --stripe-coupon co_1 --json")

    assert made.json["code"] == "SUMMER"
    assert (made.json["discount_type"], made.json["discount_value"]) == ("fixed", 500)
    assert (made.json["max_uses"], made.json["stripe_coupon_id"]) == (3, "co_1")
    assert undone(made).json["active"] is False


def test_a_code_is_switched_off_and_on_by_the_commands_that_they_name() -> None:
    off = tbpay("discount deactivate LAUNCH10 --json")
    refused = tbpay("order create 1 --type top_up --amount 5 --code LAUNCH10 --json")
    on = undone(off)

    assert off.json["active"] is False
    assert (refused.code, refused.error["code"]) == (4, Code.INACTIVE)
    assert on.json["active"] is True
    assert undone(on).json == off.json


def test_a_pending_order_that_holds_a_use_still_completes() -> None:
    tbpay("discount deactivate LAUNCH10")

    assert tbpay("order complete 2 --json").json["credit_cents"] == 2500


def test_a_code_is_priced_without_being_taken(shop: Database) -> None:
    before = dump(shop)

    answer = tbpay("discount validate LAUNCH10 --amount 9.99 --json")

    assert answer.json["reduction_cents"] == 100
    assert answer.json["charged_cents"] == 899
    assert "charged           8.99 USD\n" in tbpay("discount validate LAUNCH10 --amount 9.99").out
    assert tbpay("discount validate LAUNCH10 --account 99").code == 3
    assert dump(shop) == before


# Orders


def test_an_order_costs_its_amount_less_the_discount_and_credits_all_of_it() -> None:
    made = tbpay("order create 1 --type top_up --amount 25 --code launch10 --json")

    assert (made.json["amount_cents"], made.json["credit_cents"]) == (2250, 2500)
    assert made.json["status"] == "pending"
    failed = undone(made)
    assert (failed.json["id"], failed.json["status"]) == (made.json["id"], "failed")
    assert tbpay("discount show LAUNCH10 --json").json["current_uses"] == 1


def test_an_order_that_a_code_brings_to_nothing_is_completed_at_once() -> None:
    tbpay("discount create ALL --percent 100")

    made = tbpay("order create 2 --type initial_access --amount 25 --code ALL --json")

    assert (made.json["amount_cents"], made.json["status"]) == (0, "completed")
    assert "to undo" not in made.err
    assert tbpay("balance show 2 --json").json["balance_cents"] == 2500


def test_an_order_is_found_by_its_session() -> None:
    assert tbpay(f"order show --stripe-session {SESSION} --json").json["id"] == 2
    assert tbpay("order show --stripe-session cs_none").code == 3
    assert tbpay(f"order complete --stripe-session {SESSION} --json").json["status"] == "completed"
    assert tbpay(f"order fail --stripe-session {SESSION}").code == 5


def test_an_order_completes_once_however_often_it_is_said(shop: Database) -> None:
    answers = [tbpay("order complete 2 --payment-intent pi_1 --json") for _ in range(5)]

    assert {answer.code for answer in answers} == {0}
    assert len({answer.out for answer in answers}) == 1
    assert rows(shop, "SELECT count(*) FROM transactions WHERE order_id = 2") == [(1,)]
    assert tbpay("order complete 2 --payment-intent pi_2").code == 5


def test_a_late_payment_completes_an_order_that_has_failed() -> None:
    refused = tbpay("order complete 3 --json")
    late = tbpay("order complete 3 --payment-intent pi_3 --json")

    assert (refused.code, refused.error["hint"][:42]) == (
        5,
        "tbpay order complete 3 --payment-intent pi",
    )
    assert (late.code, late.json["status"]) == (0, "completed")
    assert tbpay("balance show 2 --json").json["balance_cents"] == 1000


def test_a_session_or_payment_intent_of_another_order_is_a_conflict() -> None:
    create = "order create 2 --type top_up --amount 5"

    assert tbpay(f"{create} --stripe-session {SESSION}").code == 5
    tbpay("order complete 2 --payment-intent pi_1")
    assert tbpay("order complete 4 --payment-intent pi_1").code == 5


def test_failing_several_orders_fails_all_or_none(shop: Database) -> None:
    before = dump(shop)

    for words in ("order fail 2 4 1 --yes --json", "order fail 2 99 --yes --json"):
        answer = tbpay(words)
        assert (answer.code, answer.out) == (5 if "1 --" in words else 3, "")
    assert dump(shop) == before

    answer = tbpay("order fail 4 2 3 4 --yes --json")
    assert [(it["id"], it["status"]) for it in answer.items] == [
        (4, "failed"),
        (2, "failed"),
        (3, "failed"),
    ]
    # Order 3 had failed before.
    [entry] = tbpay("audit list --limit 1 --json").items
    assert entry["detail"] == '{"order_ids": [4, 2]}'


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("", [4, 3, 2, 1]),
        ("--status pending", [4, 2]),
        ("--status pending --account 1", [2]),
        ("--type initial_access", [1]),
        ("--type top_up --account bob@example.org", [4, 3]),
        ("--payment-intent pi_none", []),
        ("--since 1d --until 0m", [4, 3, 2, 1]),
    ],
)
def test_orders_are_listed_newest_first_by_what_is_asked_for(flags: str, found: list[int]) -> None:
    assert [it["id"] for it in tbpay(f"order list --json {flags}").items] == found


def test_orders_of_nobody_are_not_found() -> None:
    assert tbpay("order list --account 99").code == 3


# Prices


def test_a_quote_says_what_a_segment_costs_and_how_many_an_amount_buys() -> None:
    answer = tbpay("pricing quote +447700900123")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out == (
        "phone                +447700900123\n"
        "country              GB\n"
        "assumed              yes\n"
        "fallback             no\n"
        "segments             1\n"
        "rate                 26.20 cents\n"
        "cost                 26.20 cents\n"
        "amount               10.00 USD\n"
        "segments for amount  38\n"
        "twilio cost          5.24 cents\n"
    )
    assert tbpay("pricing quote +447700900123 --segments 3 --amount 25 --json").json == {
        "phone": "+447700900123",
        "country": "GB",
        "assumed": True,
        "fallback": False,
        "segments": 3,
        "rate_micros": 262_000,
        "cost_micros": 786_000,
        "rate_cents": "26.20",
        "cost_cents": "78.60",
        "amount_cents": 2500,
        "segments_for_amount": 95,
        "encoding": None,
        "units": None,
        "culprits": [],
        "twilio_cost_micros": 157_200,
        "rate_from": None,
    }


def test_a_country_without_a_price_is_quoted_at_the_us_rate_and_says_so() -> None:
    plain = tbpay("pricing quote +4915123456789")
    as_json = tbpay("pricing quote +4915123456789 --json")
    strict = tbpay("pricing quote +4915123456789 --json --strict")

    assert plain.err == "note: no price for DE: the rate of US stands in\n"
    assert as_json.json["fallback"] is True
    assert as_json.json["rate_cents"] == "5.65"
    assert (strict.code, strict.out) == (4, "")
    assert strict.error["code"] == Code.UNPRICED
    assert tbpay("pricing quote +447700900123 --strict").code == 0


def test_prices_need_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPAY_DATABASE_URL", "/no/such/directory/tbpay.db")

    assert tbpay("pricing list").code == 0
    assert tbpay("pricing quote +14155550123").code == 0


# The audit log


def test_the_audit_log_is_asked_by_actor_subject_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for actor in ("ann", "bob"):
        monkeypatch.setenv("TBPAY_ACTOR", actor)
        tbpay("balance credit 1 --amount 5 --reason goodwill")

    def found(flags: str) -> list[dict[str, Any]]:
        return tbpay(f"audit list --json {flags}").items

    assert [it["actor"] for it in found("--subject 'account 1'")] == ["bob", "ann"]
    assert len(found("--actor ann")) == 1
    assert found("--actor an") == []
    assert len(found("--since 1h")) == 4
    [newest] = found("--actor bob")
    assert newest["action"] == "balance credit"
    assert newest["reason"] == "goodwill"
    assert newest["detail"] == '{"amount_cents": 500, "transaction_id": 4}'


def test_reading_writes_no_audit_row() -> None:
    before = tbpay("audit list --json").json

    for words in ("order list", "balance show", "account show 1", "discount validate LAUNCH10"):
        assert tbpay(words).code == 0

    assert tbpay("audit list --json").json == before


def test_every_format_says_the_same() -> None:
    items = tbpay("order list --json").items

    for form, mark in (("csv", ","), ("tsv", "\t")):
        records = list(
            csv.DictReader(tbpay(f"order list -o {form}").out.splitlines(), delimiter=mark)
        )
        assert records == [
            {name: "" if value is None else str(value) for name, value in item.items()}
            for item in items
        ]
