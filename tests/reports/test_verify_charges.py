"""`tbpay ledger verify` knows fractions of a cent: every SMS charge moves just what it cost."""

from collections.abc import Callable
from dataclasses import astuple

import pytest
from databases import Database
from tampering import lawless, tamper

from tbpay.reports.verify import verify
from tbpay.stores import account_store, balance_store

US, GB = "+12015550123", "+447700900123"


@pytest.fixture
def sold(filled_by: Callable[[Callable[[], None]], Database]) -> Database:
    """Ann, account 1, has 9.4025 and six lines; Bob, account 2, 9.738 and two.

    Of Ann's lines 2 charges 5.65 cents, 3 charges 52.40 and 4 another 5.65, 5 gives line 2's back,
    6 takes a whole cent.
    """
    return filled_by(sales)


def sales() -> None:
    for name in ("ann", "bob"):
        account = account_store.create(f"{name}@example.org").id
        if account == 1:
            balance_store.add_credits(account, 1_000, "a gift")
            balance_store.charge_sms(account, US)
            balance_store.charge_sms(account, GB, segments=2)
            balance_store.charge_sms(account, US)
            balance_store.credit_back(2)
            balance_store.deduct(account, 1, "by hand")
        else:
            balance_store.add_credits(account, 1_000, "a gift")
            balance_store.charge_sms(account, GB)


def found() -> list[tuple[object, ...]]:
    return [astuple(it) for it in verify().differences if it.check != "guards"]


def test_fractions_that_add_up_are_sound(sold: Database) -> None:
    checked = {check.check: check.looked_at for check in verify().checks}

    assert found() == []
    assert (checked["charges"], checked["lines"]) == (5, 8)
    assert sold.rows(
        "SELECT balance_cents, subcent_micros FROM account_balances ORDER BY account_id"
    ) == [(940, 9_500), (973, 8_000)]


BALANCE = "account 1"
TAMPERINGS: dict[str, tuple[list[str], list[tuple[object, ...]]]] = {
    "a fraction of a balance": (
        ["UPDATE account_balances SET subcent_micros = 1 WHERE account_id = 1"],
        [("balances", 1, BALANCE, "subcent_micros", 1, 9_500)],
    ),
    "what was sold at another rate": (
        ["UPDATE sms_charges SET rate_micros = 56501, cost_micros = 56501 WHERE id = 3"],
        [("charges", 1, "charge of line 4", "subcent_after_micros", 3_000, 2_999)],
    ),
    "a fraction that was left": (
        ["UPDATE sms_charges SET subcent_after_micros = 9000 WHERE id = 1"],
        [
            ("charges", 1, "charge of line 2", "subcent_after_micros", 9_000, 3_500),
            ("charges", 1, "charge of line 3", "subcent_after_micros", 9_500, 15_000),
        ],
    ),
    "a charge that is gone": (
        ["DELETE FROM sms_charges WHERE id = 3"],
        [("charges", 1, "charge of line 5", "subcent_after_micros", 9_500, 16_000)],
    ),
    "the last charge of an account that is gone": (
        ["DELETE FROM sms_charges WHERE id = 5"],
        [("balances", 2, "account 2", "subcent_micros", 8_000, 0)],
    ),
    "a whole cent of a charge": (
        [
            "UPDATE transactions SET amount_cents = 7, balance_after_cents = 993 WHERE id = 2",
        ],
        [
            ("lines", 1, "line 3", "balance_after_cents", 941, 940),
            ("trails", 1, BALANCE, "balance_cents", 940, 939),
            ("charges", 1, "charge of line 2", "subcent_after_micros", 3_500, 13_500),
        ],
    ),
    "what gives back a line that charged nothing": (
        ["UPDATE sms_charges SET gives_back_id = 1 WHERE id = 4"],
        [
            (
                *("charges", 1, "charge of line 5", "gives_back_id", 1),
                "a charge of the same account",
            ),
        ],
    ),
    "what gives back a dearer charge": (
        ["UPDATE sms_charges SET gives_back_id = 3 WHERE id = 4"],
        [
            ("charges", 1, "charge of line 5", "phone", "+1…23", "+44…23"),
            ("charges", 1, "charge of line 5", "country_code", "US", "GB"),
            ("charges", 1, "charge of line 5", "segments", 1, 2),
            ("charges", 1, "charge of line 5", "rate_micros", 56_500, 262_000),
            ("charges", 1, "charge of line 5", "cost_micros", 56_500, 524_000),
            ("charges", 1, "charge of line 5", "twilio_cost_micros", 11_300, 104_800),
        ],
    ),
    "what was sold to another country": (
        ["UPDATE sms_charges SET country_code = 'CA' WHERE id = 1"],
        [("charges", 1, "charge of line 5", "country_code", "US", "CA")],
    ),
    "what Twilio gets": (
        ["UPDATE sms_charges SET twilio_cost_micros = 104799 WHERE id = 2"],
        [
            (
                *("charges", 1, "charge of line 3", "twilio_cost_micros", 104_799),
                "so much for each segment",
            )
        ],
    ),
    "a charge that is given back twice": (
        [
            "DROP INDEX ix_sms_charges_gives_back_id",
            "UPDATE sms_charges SET gives_back_id = 2 WHERE id = 3",
        ],
        [
            ("charges", 1, "charge of line 4", "transaction_type", "debit", "credit"),
            ("charges", 1, "charge of line 4", "subcent_after_micros", 3_000, 16_000),
            ("charges", 1, "charge of line 5", "gives_back_id", 2, "named once"),
        ],
    ),
    "a charge that became another account's": (
        ["UPDATE sms_charges SET account_id = 2 WHERE id = 4"],
        [
            ("balances", 1, BALANCE, "subcent_micros", 9_500, 3_000),
            ("charges", 2, "charge of line 5", "account_id", 2, 1),
            (
                *("charges", 2, "charge of line 5", "gives_back_id", 2),
                "a charge of the same account",
            ),
            ("charges", 2, "charge of line 5", "subcent_after_micros", 9_500, 6_500),
            ("charges", 2, "charge of line 8", "subcent_after_micros", 8_000, 17_500),
        ],
    ),
}


@pytest.mark.parametrize(("statements", "named"), TAMPERINGS.values(), ids=TAMPERINGS)
def test_what_was_tampered_with_is_named(
    sold: Database, statements: list[str], named: list[tuple[object, ...]]
) -> None:
    tamper(sold, *statements)

    assert found() == named


def test_of_one_account_only_its_own_charges_are_verified(sold: Database) -> None:
    tamper(sold, "UPDATE sms_charges SET subcent_after_micros = 1")

    assert {it.account_id for it in verify(2).differences} == {2}


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("segments", 0, "1 to 1000000"),
        ("twilio_cost_micros", 0, "so much for each segment"),
        ("rate_micros", -1, "1 to 999999990000"),
        ("cost_micros", 2**62, "1 to 999999990000"),
        ("subcent_after_micros", 10_000, "0 to 9999"),
        ("transaction_id", 99, "a line"),
    ],
)
def test_whatever_stands_in_a_charge_is_named(
    sold: Database, column: str, value: int, expected: str
) -> None:
    with lawless(sold) as execute:
        execute(f"UPDATE sms_charges SET {column} = ? WHERE id = 5", value)

    line = value if column == "transaction_id" else 8
    assert ("charges", 2, f"charge of line {line}", column, value, expected) in found()
