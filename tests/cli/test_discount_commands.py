"""Discount codes: their limits, who took them, and what became of each use."""

import json

import pytest
from command_line import Terminal, tbpay
from databases import Database
from probes import dump

from tbpay.errors import Code

pytestmark = pytest.mark.usefixtures("shop")

# LAUNCH10 takes 10 %, three times at most; Ann's pending order 2 holds a use.
TAKE = "order create 2 --type top_up --amount 25 --code"


def test_a_code_is_made_with_a_window_and_limits() -> None:
    made = tbpay(
        "discount create NEW --amount 5 --max-uses 9 --per-account 2 --min-amount 20"
        " --starts 2026-11-01 --ends 2999-12-31 --json"
    ).json

    assert made["starts_at"] == "2026-11-01T00:00:00.000000Z"
    assert made["ends_at"] == "3000-01-01T00:00:00.000000Z"
    assert (made["max_uses"], made["per_account"], made["min_amount_cents"]) == (9, 2, 2000)
    [newest] = tbpay("audit list --limit 1 --json").items
    assert json.loads(newest["detail"]) == {
        "discount_type": "fixed",
        "discount_value": 500,
        "starts_at": made["starts_at"],
        "ends_at": made["ends_at"],
        "max_uses": 9,
        "per_account": 2,
        "min_amount_cents": 2000,
    }
    shown = tbpay("discount show NEW").out
    for line in (
        "per account       2",
        "min amount        20.00 USD",
        "starts at         2026-11-01 00:00:00Z",
        "ends at           3000-01-01 00:00:00Z",
    ):
        assert f"{line}\n" in shown


def test_limits_are_changed_and_set_back_by_the_command_that_is_named() -> None:
    tbpay("discount create NEW --percent 5 --max-uses 9 --min-amount 20 --ends 2999-12-31")
    before = tbpay("discount show NEW --json").json

    changed = tbpay("discount update new --max-uses 12 --min-amount 5.50 --ends 2999-06-30 --json")

    assert (changed.json["max_uses"], changed.json["min_amount_cents"]) == (12, 550)
    assert changed.json["ends_at"] == "2999-07-01T00:00:00.000000Z"
    [undo] = changed.err.splitlines()
    assert undo == (
        "note: to undo: tbpay discount update NEW --max-uses 9"
        " --ends 3000-01-01T00:00:00.000000Z --min-amount 20.00"
    )
    assert tbpay(f"{undo.removeprefix('note: to undo: tbpay ')} --json").json == before


def test_a_limit_that_was_not_there_cannot_be_taken_away_again() -> None:
    changed = tbpay("discount update LAUNCH10 --max-uses 5 --per-account 2 --json")

    assert (changed.json["max_uses"], changed.json["per_account"]) == (5, 2)
    assert changed.err == ""


def test_no_limit_goes_below_the_uses(shop: Database) -> None:
    for number in ("2", "2"):
        tbpay(f"order create {number} --type top_up --amount 25 --code LAUNCH10")
    before = dump(shop)

    for flags, message in {
        "--max-uses 2": "discount code LAUNCH10 has 3 uses: its limit cannot be 2",
        "--per-account 1": "account 2 has 2 uses of discount code LAUNCH10:"
        " the limit per account cannot be 1",
    }.items():
        refused = tbpay(f"discount update LAUNCH10 --json {flags}")

        assert (refused.code, refused.error["code"]) == (4, Code.REFUSED)
        assert refused.error["message"] == message
    assert dump(shop) == before
    assert tbpay("discount update NOPE --max-uses 2").code == 3


def test_the_uses_of_a_code_are_listed_newest_first_with_what_became_of_them() -> None:
    tbpay(f"{TAKE} LAUNCH10")
    tbpay(f"{TAKE} LAUNCH10")
    tbpay("order complete 5")
    tbpay("order fail 6")

    uses = tbpay("discount show LAUNCH10 --uses --json").items

    assert [(it["order_id"], it["account_id"], it["status"]) for it in uses] == [
        (6, 2, "released"),
        (5, 2, "redeemed"),
        (2, 1, "reserved"),
    ]
    assert {it["reduction_cents"] for it in uses} == {250}
    table = tbpay("discount show LAUNCH10 --uses --limit 1")
    assert table.out.splitlines()[0].split() == (
        ["id", "created", "at", "status", "order", "id", "account", "id", "reduction", "USD"]
    )
    assert "note: more: repeat with --cursor " in table.err
    code = tbpay("discount show LAUNCH10 --json").json
    assert (code["current_uses"], code["reserved_uses"]) == (2, 1)
    assert "redeemed          1\nreserved          1\n" in tbpay("discount show LAUNCH10").out
    assert tbpay("discount show RETIRED --uses --json").json == {"items": [], "next": None}
    assert tbpay("discount show NOPE --uses --json").error["code"] == Code.UNKNOWN


def test_a_late_payment_takes_a_use_beyond_the_limit_and_says_so() -> None:
    tbpay("discount create ONE --percent 10 --max-uses 1")
    tbpay(f"{TAKE} ONE")
    tbpay("order fail 5")
    tbpay(f"{TAKE} ONE")

    late = tbpay("order complete 5 --payment-intent pi_5 --json")

    assert (late.code, late.json["status"]) == (0, "completed")
    assert [it["status"] for it in tbpay("discount show ONE --uses --json").items] == [
        "reserved",
        "late",
    ]
    assert tbpay("discount show ONE --json").json["current_uses"] == 1


@pytest.mark.parametrize(
    ("made", "flags", "code"),
    [
        ("--percent 5 --starts 2999-01-01", "", Code.NOT_STARTED),
        ("--percent 5 --ends 2020-01-01", "", Code.EXPIRED),
        ("--percent 5 --min-amount 20", "--amount 19.99", Code.BELOW_MINIMUM),
        ("--percent 99", "--amount 25", Code.BELOW_STRIPE_MINIMUM),
        ("--percent 5 --per-account 1", "--account 2", Code.ACCOUNT_LIMIT),
    ],
)
def test_a_code_that_could_not_be_taken_says_why(made: str, flags: str, code: Code) -> None:
    tbpay(f"discount create NEW {made}")
    tbpay(f"{TAKE} NEW")

    answer = tbpay(f"discount validate NEW {flags} --json")

    assert (answer.code, answer.error["code"]) == (4, code)


def test_a_price_is_what_an_order_would_be_charged() -> None:
    tbpay("discount create MOST --percent 98 --min-amount 20")
    tbpay("discount create ALL --percent 100")

    priced = tbpay("discount validate MOST --amount 25 --account 1 --json").json
    free = tbpay("discount validate ALL --amount 0.49 --json").json

    assert (priced["reduction_cents"], priced["charged_cents"]) == (2450, 50)
    assert (free["reduction_cents"], free["charged_cents"]) == (49, 0)


def test_the_list_of_codes_fits_a_terminal_of_eighty_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLUMNS")
    tbpay("discount create BLACKFRIDAY2 --amount 25 --max-uses 10000 --ends 2026-12-01")

    with Terminal("discount list", columns=80) as terminal:
        assert terminal.end() == 0

    lines = terminal.seen.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line[:1].isupper()] == [
        "BLACKFRIDAY2",
        "GONE",
        "RETIRED",
        "LAUNCH10",
    ]
    assert "2026-12-02 00:00:00Z" in terminal.seen
    assert "10000" in terminal.seen
