"""An SMS is charged exactly what it costs, and what was sold stands beside the line."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database
from probes import dump, refused, rows, run, unbalanced
from selling import GERMAN, JERSEY, PHONES, moved_to, sell_at, stands_at

from tbpay.database import unit_of_work
from tbpay.errors import (
    Code,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from tbpay.models import MAX_ID, SmsCharge, Transaction
from tbpay.reports.verify import verify
from tbpay.stores import account_store, balance_store, order_store

GB, US = PHONES["GB"], PHONES["US"]


# What a charge is


def test_a_charge_says_what_was_sold(db: Database, rich: int) -> None:
    line = balance_store.charge_sms(rich, GB, segments=3)

    assert line.sms_charge is not None
    assert line == Transaction(
        id=line.id,
        account_id=rich,
        order_id=None,
        transaction_type=line.transaction_type,
        amount_cents=79,
        balance_after_cents=921,
        description="SMS to +44…56",
        created_at=line.created_at,
        account_version=2,
        sms_charge=SmsCharge(
            id=line.sms_charge.id,
            transaction_id=line.id,
            account_id=rich,
            phone="+44…56",
            country_code="GB",
            segments=3,
            rate_micros=262_000,
            cost_micros=786_000,
            twilio_cost_micros=157_200,
            subcent_after_micros=4_000,
            gives_back_id=None,
        ),
    )
    assert line.transaction_type == "debit"
    assert balance_store.history(rich).items[0] == line
    assert stands_at(rich) == (921, 4_000)
    assert GB[4:-2] not in "".join(dump(db))


def test_a_message_is_one_segment_unless_it_is_said(rich: int) -> None:
    line = balance_store.charge_sms(rich, US)

    assert moved_to(line) == (6, 994, 3_500)
    assert line.sms_charge is not None
    assert line.sms_charge.segments == 1


def test_a_text_is_charged_by_its_segments(rich: int) -> None:
    for text, segments in (
        ("x" * 160, 1),
        ("x" * 161, 2),
        ("é" * 160, 1),
        ("ç" * 71, 2),
        ("]" * 153, 3),
    ):
        of_text = balance_store.charge_sms(rich, US, text=text).sms_charge
        of_count = balance_store.charge_sms(rich, US, segments=segments).sms_charge
        assert of_text is not None
        assert of_count is not None
        assert (of_text.segments, of_text.cost_micros) == (segments, of_count.cost_micros)


def test_a_charge_below_a_cent_moves_the_whole_cents_only_now_and_then(
    db: Database, rich: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sell_at(monkeypatch, tmp_path, "US,0.0008,")

    lines = [balance_store.charge_sms(rich, US) for _ in range(6)]

    assert [moved_to(line) for line in lines] == [
        (1, 999, 6_000),
        (0, 999, 2_000),
        (1, 998, 8_000),
        (0, 998, 4_000),
        (0, 998, 0),
        (1, 997, 6_000),
    ]
    assert unbalanced(db) == []
    assert verify().differences == []


def test_all_of_a_balance_may_be_charged_and_not_a_micro_more(
    db: Database, account: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sell_at(monkeypatch, tmp_path, "US,0.000001,0.000001")
    balance_store.add_credits(account, 1, "a cent")

    message = f"account {account} has 0.01, which is less than 0.010001"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        balance_store.charge_sms(account, US, segments=10_001)
    assert moved_to(balance_store.charge_sms(account, US, segments=9_999)) == (1, 0, 1)
    message = f"account {account} has 0.000001, which is less than 0.000002"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        balance_store.charge_sms(account, US, segments=2)
    assert moved_to(balance_store.charge_sms(account, US)) == (0, 0, 0)
    message = f"account {account} has 0.00, which is less than 0.000001"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        balance_store.charge_sms(account, US)


def test_who_owes_a_micro_is_charged_nothing(
    db: Database, account: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sell_at(monkeypatch, tmp_path, "US,0.000001,0.000001")
    balance_store.add_credits(account, 1, "a cent")
    balance_store.charge_sms(account, US)
    balance_store.deduct(account, 1, "by hand", allow_negative=True)
    assert stands_at(account) == (-1, 9_999)

    message = f"account {account} has -0.000001, which is less than 0.000001"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        balance_store.charge_sms(account, US)


def test_what_is_done_by_hand_moves_whole_cents_and_leaves_the_fraction(
    db: Database, rich: int
) -> None:
    balance_store.charge_sms(rich, US)

    assert balance_store.add_credits(rich, 7, "a gift").balance_after_cents == 1_001
    assert stands_at(rich) == (1_001, 3_500)
    message = f"account {rich} has 10.0135, which is less than 10.02"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        balance_store.deduct(rich, 1_002, "too much")
    assert balance_store.deduct(rich, 1_001, "all the cents").balance_after_cents == 0
    assert stands_at(rich) == (0, 3_500)
    assert balance_store.get_balance(rich) == 0
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE):
        balance_store.deduct(rich, 1, "a cent")
    balance_store.deduct(rich, 5, "on credit", allow_negative=True)
    assert stands_at(rich) == (-5, 3_500)
    assert unbalanced(db) == []
    assert verify().differences == []


def test_lists_say_the_fraction_and_go_by_the_whole_cents(rich: int) -> None:
    other = account_store.create().id
    balance_store.charge_sms(rich, US)

    def listed(below_cents: int | None = None) -> list[tuple[int, int, int]]:
        found = balance_store.find(below_cents=below_cents).items
        return [(it.account_id, it.balance_cents, it.subcent_micros) for it in found]

    assert listed() == [(rich, 994, 3_500), (other, 0, 0)]
    assert listed(below_cents=994) == [(other, 0, 0)]
    assert listed(below_cents=995) == listed()


@pytest.mark.parametrize(
    ("policy", "taken", "left"), [("available", 994, (0, 3_500)), ("negative", 1_000, (-6, 3_500))]
)
def test_a_refund_claws_whole_cents_back(
    db: Database, account: int, policy: str, taken: int, left: tuple[int, int]
) -> None:
    order = order_store.complete(order_store.create(account, "top_up", 1_000).id).id
    balance_store.charge_sms(account, US)

    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE):
        order_store.refund(order)
    _, refund = order_store.record_refund(order, policy=policy)

    assert refund.shortfall_cents == 1_000 - taken
    assert stands_at(account) == left
    assert unbalanced(db) == []
    assert verify().differences == []


def test_a_charge_and_the_applications_own_row_stand_or_fall_together(
    db: Database, rich: int
) -> None:
    run(db, "CREATE TABLE messages (text VARCHAR(255) NOT NULL)")
    engine = db.engine()

    for is_sent in (False, True):
        with engine.connect() as application, application.begin() as transaction:
            application.execute(sa.text("INSERT INTO messages VALUES ('hello')"))
            with unit_of_work(application):
                balance_store.charge_sms(rich, US, text="hello")
            if not is_sent:
                transaction.rollback()
    engine.dispose()

    assert rows(db, "SELECT * FROM messages") == [("hello",)]
    assert len(balance_store.history(rich).items) == 2
    assert stands_at(rich) == (994, 3_500)


# What is refused


NO_MESSAGES: list[tuple[Any, dict[str, Any]]] = [
    *((phone, {}) for phone in ("", "+44 7400 123456", "+999123456", "447400123456", None, 7)),
    *((GB, {"segments": it}) for it in (0, -1, 1_000_001, True, 1.0, "1")),
    *((GB, {"text": it}) for it in ("", "x" * 1_601, b"x", 1)),
    *((GB, {"fallback": it}) for it in (1, None, "yes")),
    *((GB, {"key": it}) for it in ("", "1234567", "x" * 256, 7)),
    (GB, {"text": "hello", "segments": 1}),
]


def test_a_charge_of_what_is_no_message_is_refused(db: Database, rich: int) -> None:
    before = dump(db)

    for phone, asked in NO_MESSAGES:
        with pytest.raises(InvalidInputError):
            balance_store.charge_sms(rich, phone, **asked)

    assert dump(db) == before


def test_an_unknown_account_is_charged_nothing(db: Database, account: int) -> None:
    for unknown in (account + 1, MAX_ID):
        for phone in (GB, GERMAN):
            for key in (None, "key-0001"):
                with refused(db, NotFoundError, Code.NOT_FOUND, f"no account {unknown}"):
                    balance_store.charge_sms(unknown, phone, key=key)


@pytest.mark.parametrize(("phone", "country"), [(GERMAN, "DE"), (JERSEY, "JE")])
def test_a_country_without_a_price_is_charged_only_at_the_fallback(
    db: Database, rich: int, phone: str, country: str
) -> None:
    message = f"no price for {country}: it is charged at the US rate or not at all"
    for key in (None, "key-0001"):
        with refused(db, RefusedError, Code.UNPRICED, message):
            balance_store.charge_sms(rich, phone, key=key)

    sold = balance_store.charge_sms(rich, phone, segments=2, fallback=True).sms_charge

    assert sold is not None
    assert (sold.country_code, sold.rate_micros, sold.cost_micros) == (country, 56_500, 113_000)
    assert sold.twilio_cost_micros is None
    assert verify().differences == []


def test_a_country_with_a_price_is_charged_at_it_whatever_the_fallback(rich: int) -> None:
    sold = balance_store.charge_sms(rich, GB, fallback=True).sms_charge

    assert sold is not None
    assert (sold.cost_micros, sold.twilio_cost_micros) == (262_000, 52_400)


def test_a_message_costs_at_most_the_largest_amount(
    db: Database, account: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sell_at(monkeypatch, tmp_path, "US,1,9900.99", "GB,9900.99,0.01")
    balance_store.add_credits(account, 99_999_999, "to spend")
    balance_store.add_credits(account, 99_999_999, "to spend")

    for phone, country in ((US, "US"), (GB, "GB")):
        message = (
            f"102 segments to {country} cost 1009900.98, and a message costs at most 999999.99"
        )
        with refused(db, RefusedError, Code.REFUSED, message):
            balance_store.charge_sms(account, phone, segments=102)
        balance_store.charge_sms(account, phone, segments=101)

    assert stands_at(account) == (99_999_999 - 101, 0)
    assert verify().differences == []


def test_broken_rates_charge_nothing(
    db: Database, rich: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sell_at(monkeypatch, tmp_path, "US,0.01,", "GB,free,")

    with refused(db, InvalidInputError, Code.INVALID):
        balance_store.charge_sms(rich, US)
    (tmp_path / "rates.csv").unlink()
    with pytest.raises(UnavailableError):
        balance_store.charge_sms(rich, US)

    assert stands_at(rich) == (1_000, 0)
