"""``order refund``: what went back to the customer, and what was taken back for it."""

import json
from collections.abc import Iterator

import pytest
from command_line import Terminal, tbpay
from databases import Database
from probes import dump, rows, unbalanced

from tbpay.errors import Code

# Ann, account 1, has 20.00 left of the 25.00 that order 1 credited.


@pytest.fixture(autouse=True)
def _in_balance(shop: Database) -> Iterator[None]:
    """Whatever is done here, the lines of an account add up to its balance."""
    yield
    assert unbalanced(shop) == []


def test_a_refund_in_parts_takes_back_its_share_each_time_and_ends_the_order() -> None:
    tbpay("order create 2 --type top_up --amount 25 --code LAUNCH10")
    tbpay("order complete 5")

    first = tbpay("order refund 5 --amount 10 --yes --json")
    second = tbpay("order refund 5 --yes --json")

    assert first.json | {"created_at": "", "idempotency_key": ""} == {
        "id": 1,
        "order_id": 5,
        "amount_cents": 1000,
        "claw_back_cents": 1111,
        "shortfall_cents": 0,
        "policy": "refuse",
        "stripe_refund_id": None,
        "transaction_id": first.json["transaction_id"],
        "reason": None,
        "idempotency_key": "",
        "created_at": "",
        "replayed": False,
    }
    assert (second.json["amount_cents"], second.json["claw_back_cents"]) == (1250, 1389)
    assert tbpay("balance show 2 --json").json["balance_cents"] == 0
    assert "status                    refunded\n" in tbpay("order show 5").out
    assert "refunded                  22.50 USD\n" in tbpay("order show 5").out
    # The use stays used.
    assert tbpay("discount show LAUNCH10 --json").json["current_uses"] == 2


def test_people_read_what_a_refund_leaves_behind() -> None:
    done = tbpay("order refund 1 --amount 5 --reason complaint --stripe-refund re_1 --yes").out

    for line in (
        "amount            5.00 USD",
        "claw back         5.00 USD",
        "shortfall         0.00 USD",
        "stripe refund id  re_1",
        "reason            complaint",
        "order status      completed",
        "balance           15.00 USD",
    ):
        assert f"{line}\n" in done
    assert "refunded                  5.00 USD\n" in tbpay("order show 1").out


def test_a_refund_of_what_is_spent_says_what_was_paid_spent_and_left(shop: Database) -> None:
    before = dump(shop)

    refused = tbpay("order refund 1 --yes --json")

    assert (refused.code, refused.error["code"]) == (4, Code.INSUFFICIENT_BALANCE)
    assert refused.error["message"] == (
        "order 1 was paid with 25.00: 5.00 of the 25.00 to take back is spent, 20.00 is left"
    )
    assert "--policy available" in refused.error["hint"]
    assert dump(shop) == before


@pytest.mark.parametrize(
    ("policy", "shortfall_cents", "left_cents"), [("available", 500, 0), ("negative", 0, -500)]
)
def test_a_policy_says_what_happens_where_the_credit_is_spent(
    policy: str, shortfall_cents: int, left_cents: int
) -> None:
    done = tbpay(f"order refund 1 --policy {policy} --yes --json")

    assert (done.json["amount_cents"], done.json["claw_back_cents"]) == (2500, 2500)
    assert (done.json["policy"], done.json["shortfall_cents"]) == (policy, shortfall_cents)
    assert tbpay("balance show 1 --json").json["balance_cents"] == left_cents
    # What is missing stays on the refund, and nobody takes it later.
    tbpay("balance credit 1 --amount 10 --reason goodwill")
    assert tbpay("order refund 1 --yes --json").json["replayed"] is True
    assert tbpay("balance show 1 --json").json["balance_cents"] == left_cents + 1000


def test_no_more_than_was_paid_is_refunded() -> None:
    tbpay("order refund 1 --amount 10 --yes")

    refused = tbpay("order refund 1 --amount 15.01 --yes --json")

    assert (refused.code, refused.error["code"]) == (4, Code.REFUSED)
    assert refused.error["message"] == ("order 1 has 15.00 of 25.00 left to refund, not 15.01")


def test_an_order_that_cost_nothing_gives_its_whole_credit_back() -> None:
    tbpay("discount create ALL --percent 100")
    tbpay("order create 2 --type top_up --amount 25 --code ALL")

    done = tbpay("order refund 5 --yes --json")

    assert (done.json["amount_cents"], done.json["claw_back_cents"]) == (0, 2500)
    assert tbpay("order show 5 --json").json["status"] == "refunded"
    assert tbpay("balance show 2 --json").json["balance_cents"] == 0


def test_a_refund_of_stripes_is_recorded_once(shop: Database) -> None:
    words = "order refund 1 --amount 5 --stripe-refund re_1 --json"
    first = tbpay(f"{words} --yes")
    before = dump(shop)

    # Nobody is asked about what is done already.
    second = tbpay(words)
    other = tbpay(f"{words} --yes".replace("--amount 5", "--amount 6"))

    assert (second.code, second.json) == (0, first.json | {"replayed": True})
    assert second.err.endswith("note: nothing was changed: it was done already\n")
    assert (other.code, other.error["code"]) == (5, Code.CONFLICT)
    assert dump(shop) == before


@pytest.mark.parametrize(("order", "status"), [(2, "pending"), (3, "failed")])
def test_only_what_was_paid_can_be_refunded(order: int, status: str) -> None:
    refused = tbpay(f"order refund {order} --yes --json")

    assert refused.code == 5
    assert refused.error["message"] == f"order {order} is {status}: there is nothing to refund"
    assert tbpay("order refund 99 --yes").code == 3


def test_the_audit_log_keeps_what_was_refunded_and_why(shop: Database) -> None:
    done = tbpay("order refund 1 --policy available --reason complaint --yes --json").json

    [newest] = tbpay("audit list --limit 1 --json").items
    assert (newest["action"], newest["subject"]) == ("order refund", "order 1")
    assert newest["reason"] == "complaint"
    assert json.loads(newest["detail"]) == {
        "refund_id": done["id"],
        "amount_cents": 2500,
        "claw_back_cents": 2500,
        "shortfall_cents": 500,
        "policy": "available",
        "stripe_refund_id": None,
        "transaction_id": done["transaction_id"],
    }
    assert rows(shop, "SELECT reason FROM order_refunds") == [("complaint",)]


def test_a_dry_run_is_the_preview_and_asks_nobody(shop: Database) -> None:
    before = dump(shop)

    dry = tbpay("order refund 1 --policy negative --dry-run")

    assert dry.code == 0
    assert "claw back         25.00 USD\n" in dry.out
    assert "balance           -5.00 USD\n" in dry.out
    assert "order status      refunded\n" in dry.out
    assert dry.err == "note: dry run: nothing was changed\n"
    assert dump(shop) == before


@pytest.mark.parametrize(
    ("flags", "question"),
    [
        (
            "--amount 5",
            "refund 5.00 USD of order 1, take 5.00 USD off account 1 and leave it 15.00 USD",
        ),
        (
            "--policy available",
            "refund 25.00 USD of order 1, take 20.00 of 25.00 USD off account 1"
            " and leave it 0.00 USD",
        ),
        (
            "--policy negative",
            "refund 25.00 USD of order 1, take 25.00 USD off account 1"
            " and leave it below zero, at -5.00 USD",
        ),
    ],
)
def test_a_refund_asks_before_it_is_made_and_says_what_would_happen(
    flags: str, question: str, shop: Database
) -> None:
    before = dump(shop)

    nobody = tbpay(f"order refund 1 {flags}")
    with Terminal(f"order refund 1 {flags}") as terminal:
        terminal.answer(f"{question} in {shop} (TBPAY_DATABASE_URL)? [y/N] ", "n")
        declined = terminal.end()

    assert (nobody.code, nobody.out) == (9, "")
    assert nobody.err == f"error: {question} needs a yes: repeat with --yes\n"
    assert declined == 9
    assert dump(shop) == before


def test_a_yes_at_a_terminal_makes_the_refund(shop: Database) -> None:
    with Terminal("order refund 1 --amount 5") as terminal:
        terminal.answer("[y/N] ", "y")
        assert terminal.end() == 0

    assert "note: should the outcome stay unknown, repeat with --key " in terminal.seen
    assert rows(shop, "SELECT amount_cents FROM order_refunds") == [(500,)]
