"""``balance charge`` and what it leaves: a balance to the micro."""

import json

import pytest
from command_line import tbpay
from databases import Database
from probes import dump, rows

from tbpay.errors import Code

# Ann, account 1, has 20.00; Bob, account 2, has nothing.
US, GB = "+12015550123", "+447700900123"


def test_a_charge_answers_with_its_line_what_it_sold_and_the_balance(shop: Database) -> None:
    done = tbpay(f"balance charge 1 {GB} --text 'Your code is 1234' --key message-1 --json")

    answer = done.json
    charge = answer.pop("sms_charge")
    assert answer.pop("created_at").endswith("Z")
    assert answer == {
        "id": 3,
        "account_id": 1,
        "order_id": None,
        "transaction_type": "debit",
        "amount_cents": 27,
        "balance_after_cents": 1973,
        "description": "SMS to +44…23",
        "account_version": 3,
        "idempotency_key": "message-1",
        "balance_cents": 1973,
        "subcent_micros": 8000,
        "replayed": False,
    }
    assert charge == {
        "id": 1,
        "transaction_id": 3,
        "account_id": 1,
        "phone": "+44…23",
        "country_code": "GB",
        "segments": 1,
        "rate_micros": 262_000,
        "cost_micros": 262_000,
        "twilio_cost_micros": 52_400,
        "subcent_after_micros": 8_000,
        "gives_back_id": None,
    }
    [(*audited, detail)] = rows(
        shop, "SELECT action, subject, reason, detail FROM audit_log WHERE id = 3"
    )
    assert audited == ["balance charge", "account 1", None]
    assert json.loads(detail) == {
        "amount_cents": 27,
        "cost_micros": 262_000,
        "transaction_id": 3,
    }


@pytest.mark.usefixtures("shop")
def test_people_read_what_a_charge_cost_and_left_to_the_micro() -> None:
    done = tbpay(f"balance charge ann@example.org '+1 (201) 555-0123' --segments 3 --key {'k' * 8}")

    for line in (
        "amount            0.17 USD",
        "balance after     19.83 USD",
        "description       SMS to +1…23",
        "country code      US",
        "segments          3",
        "rate              0.0565 USD",
        "cost              0.1695 USD",
        "twilio cost       0.0339 USD",
        "balance           19.8305 USD",
    ):
        assert f"{line}\n" in done.out
    assert "undo" not in done.err


@pytest.mark.usefixtures("shop")
def test_the_same_key_is_one_charge() -> None:
    once = tbpay(f"balance charge 1 {US} --key message-1 --json")
    again = tbpay(f"balance charge 1 {US} --segments 1 --key message-1 --json")
    other = tbpay(f"balance charge 1 {US} --segments 2 --key message-1 --json")

    assert again.json == once.json | {"replayed": True}
    assert "nothing was changed" in again.err
    assert (other.code, other.error["code"]) == (5, Code.KEY_REUSED)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (f"1 {GB} --text a --segments 1", 2, "--text and --segments exclude each other"),
        (f"1 {GB} --text ''", 2, "text"),
        (f"1 {GB} --segments 0", 2, "a number of segments"),
        ("1 07700900123", 2, "is not a phone number in international form"),
        ("1 +999123456789", 2, "no calling code in use"),
        (f"99 {GB}", 3, "no account 99"),
        (f"2 {GB}", 4, "account 2 has 0.00, which is less than 0.262"),
        ("1 +4915112345678", 4, "no price for DE"),
    ],
)
def test_what_cannot_be_charged_changes_nothing(
    words: str, code: int, said: str, shop: Database
) -> None:
    before = dump(shop)

    refused = tbpay(f"balance charge {words}")

    assert (refused.code, refused.out) == (code, "")
    assert said in refused.err
    assert "--key" not in refused.err or code != 2
    assert dump(shop) == before


def test_the_hint_of_a_country_without_a_price_charges_the_same_message(shop: Database) -> None:
    refused = tbpay("balance charge 1 +4915112345678 --segments 3 --key the-key-of-it")

    hint = refused.err.partition("hint: tbpay ")[2].strip()
    done = tbpay(f"{hint} --json")
    assert done.code == 0
    assert (done.json["idempotency_key"], done.json["sms_charge"]["segments"]) == (
        "the-key-of-it",
        3,
    )
    assert len(rows(shop, "SELECT 1 FROM sms_charges")) == 1


@pytest.mark.usefixtures("shop")
def test_a_country_without_a_price_is_charged_where_that_is_wanted() -> None:
    done = tbpay("balance charge 1 +4915112345678 --fallback --json")

    assert (done.json["sms_charge"]["cost_micros"], done.json["amount_cents"]) == (56_500, 6)
    assert done.json["sms_charge"]["twilio_cost_micros"] is None


def test_a_dry_run_charges_nothing(shop: Database) -> None:
    before = dump(shop)

    done = tbpay(f"balance charge 1 {US} --dry-run --json")

    assert (done.json["balance_cents"], done.json["subcent_micros"]) == (1994, 3500)
    assert dump(shop) == before


@pytest.mark.usefixtures("shop")
def test_a_balance_is_shown_to_the_micro() -> None:
    tbpay(f"balance charge 1 {US}")

    assert "balance             19.9435 USD\n" in tbpay("account show 1").out
    assert tbpay("account show 1 --json").json["subcent_micros"] == 3500

    assert "balance          19.9435 USD\n" in tbpay("balance show 1").out
    assert tbpay("balance show").out.splitlines()[:3] == [
        "account id  balance USD  updated at",
        f"1               19.9435  {tbpay('balance show').out.splitlines()[1].split('  ')[-1]}",
        "2                0.0000  -",
    ]
    one = tbpay("balance show 1 --json").json
    assert (one["balance_cents"], one["subcent_micros"]) == (1994, 3500)


@pytest.mark.usefixtures("shop")
def test_a_balance_says_how_many_segments_it_still_buys() -> None:
    tbpay(f"balance charge 1 {US}")

    shown = tbpay("balance show 1 --country gb --json").json
    listed = tbpay("balance show --country US --json").items

    assert list(shown)[-4:] == ["country_code", "fallback", "rate_micros", "segments_left"]
    assert list(shown.values())[-4:] == ["GB", False, 262_000, 76]
    assert [each["segments_left"] for each in listed] == [352, 0]
    assert "segments left    76\n" in tbpay("balance show 1 --country GB").out
    assert "no price for DE: the rate of US stands in" in tbpay("balance show 1 --country DE").err
    assert tbpay("balance show 1 --country DE --json").json["fallback"] is True
    assert tbpay("balance show --country GBR").code == 2
    nobody = tbpay("balance show --below 0 --country US -o csv").out
    assert nobody.endswith(",country_code,fallback,rate_micros,segments_left\n")


@pytest.mark.usefixtures("shop")
def test_a_balance_below_zero_keeps_its_fraction_and_buys_nothing() -> None:
    tbpay(f"balance charge 1 {US}")
    tbpay("balance debit 1 --amount 19.95 --reason late --allow-negative --yes")

    assert "balance          -0.0065 USD\n" in tbpay("balance show 1").out
    assert tbpay("balance show 1 --country US --json").json["segments_left"] == 0
