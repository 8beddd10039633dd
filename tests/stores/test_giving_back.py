"""A charge is given back exactly, once, whatever the price is by then and whoever asks."""

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from books import bring_to
from databases import Database
from probes import dump, refused, rows, together, unbalanced
from races import answer_of, meet
from selling import GERMAN, PHONES, moved_to, sell_at, stands_at

from tbpay.database import unit_of_work
from tbpay.errors import Code, ConflictError, InvalidInputError, NotFoundError, RefusedError
from tbpay.models import MAX_BALANCE_CENTS, MAX_ID
from tbpay.reports.verify import verify
from tbpay.stores import balance_store

US, GB = PHONES["US"], PHONES["GB"]


def test_a_charge_is_given_back_exactly(db: Database, rich: int) -> None:
    first = balance_store.charge_sms(rich, US)
    charge = balance_store.charge_sms(rich, GB, segments=3)
    balance_store.charge_sms(rich, PHONES["IT"])
    before = balance_store.get_or_create(rich)

    given = balance_store.credit_back(charge.id)

    assert charge.sms_charge is not None
    assert given.sms_charge == replace(
        charge.sms_charge,
        id=charge.sms_charge.id + 2,
        transaction_id=given.id,
        subcent_after_micros=(before.subcent_micros + 786_000) % 10_000,
        gives_back_id=charge.id,
    )
    assert (given.transaction_type, given.description, given.replayed) == (
        *("credit", "Credit back of SMS to +44…56"),
        False,
    )
    assert balance_store.history(rich).items[0] == given
    balance_store.credit_back(first.id)
    assert stands_at(rich) == (1_000 - 47, 6_500)
    assert unbalanced(db) == []
    assert verify().differences == []


def test_a_charge_is_given_back_once_and_the_repetition_answers_its_line(
    db: Database, rich: int
) -> None:
    charge = balance_store.charge_sms(rich, US)
    given = balance_store.credit_back(charge.id)
    balance_store.charge_sms(rich, GB)
    before = dump(db)

    again = [balance_store.credit_back(charge.id) for _ in range(2)]

    assert again == [replace(given, replayed=True)] * 2
    assert dump(db) == before


def test_what_is_given_back_is_what_was_paid_whatever_the_price_is_now(
    rich: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sell_at(monkeypatch, tmp_path, "US,0.0123,0.049999", "GB,0.05,")
    sold = balance_store.charge_sms(rich, US, segments=7)
    fallen_back = balance_store.charge_sms(rich, GERMAN, fallback=True)
    sell_at(monkeypatch, tmp_path, "US,0.02,", "DE,0.03,")

    given = [balance_store.credit_back(line.id).sms_charge for line in (sold, fallen_back)]

    assert [
        (it.rate_micros, it.cost_micros, it.twilio_cost_micros) for it in given if it is not None
    ] == [(49_999, 349_993, 86_100), (49_999, 49_999, None)]
    assert stands_at(rich) == (1_000, 0)
    assert verify().differences == []


def test_only_a_charge_is_given_back(db: Database, rich: int) -> None:
    charge = balance_store.charge_sms(rich, US)
    by_hand = balance_store.deduct(rich, 6, "SMS to +1…23")
    given = balance_store.credit_back(charge.id)

    message = f"line {by_hand.id} charged no SMS: there is nothing to give back"
    with refused(db, ConflictError, Code.CONFLICT, message):
        balance_store.credit_back(by_hand.id)
    message = f"line {given.id} gives back what line {charge.id} charged: it is no charge itself"
    with refused(db, ConflictError, Code.CONFLICT, message):
        balance_store.credit_back(given.id)
    for unknown in (given.id + 1, MAX_ID):
        with refused(db, NotFoundError, Code.NOT_FOUND, f"no line {unknown}"):
            balance_store.credit_back(unknown)
    for no_id in (0, True, "1", None):
        with refused(db, InvalidInputError, Code.INVALID):
            balance_store.credit_back(no_id)  # type: ignore[arg-type]


class UndoneError(Exception):
    pass


def test_what_a_unit_gives_back_goes_with_the_unit(rich: int) -> None:
    charge = balance_store.charge_sms(rich, US)

    with suppress(UndoneError), unit_of_work():
        assert balance_store.credit_back(charge.id).replayed is False
        assert balance_store.credit_back(charge.id).replayed is True
        raise UndoneError

    assert stands_at(rich) == (994, 3_500)
    assert balance_store.credit_back(charge.id).replayed is False
    assert stands_at(rich) == (1_000, 0)
    assert verify().differences == []


# What comes at the same moment


def test_of_two_who_give_back_the_second_answers_the_first_ones_line(
    db: Database, rich: int
) -> None:
    charge = balance_store.charge_sms(rich, US)

    def give_back() -> Any:
        return balance_store.credit_back(charge.id)

    first, second = meet(db, give_back, give_back)

    assert (first.replayed, second) == (False, replace(first, replayed=True))
    assert stands_at(rich) == (1_000, 0)


def test_each_charge_is_given_back_once_by_however_many(db: Database, rich: int) -> None:
    charges = [balance_store.charge_sms(rich, phone).id for phone in PHONES.values()]

    def give_back(process: int) -> list[Any]:
        mine = charges if process % 2 else charges[::-1]
        return sorted(
            (answer_of(partial(balance_store.credit_back, line)) for line in mine),
            key=lambda answer: answer.sms_charge.gives_back_id,
        )

    answers = together(give_back)

    for of_one in zip(*answers, strict=True):
        [first] = [answer for answer in of_one if not answer.replayed]
        assert [replace(answer, replayed=False) for answer in of_one] == [first] * 8
    given = "SELECT gives_back_id FROM sms_charges WHERE gives_back_id > 0 ORDER BY 1"
    assert rows(db, given) == [(line,) for line in charges]
    assert stands_at(rich) == (1_000, 0)
    assert unbalanced(db) == []
    assert verify().differences == []


# At the bounds


def test_at_the_highest_balance_a_charge_is_given_back_and_nothing_passes_it(
    db: Database, account: int
) -> None:
    bring_to(db, account, MAX_BALANCE_CENTS)

    charge = balance_store.charge_sms(account, US)
    balance_store.add_credits(account, 5, "to the brim")

    assert moved_to(charge) == (6, MAX_BALANCE_CENTS - 6, 3_500)
    message = f"account {account} has 999999999.9835: with 0.0565 more it would pass 999999999.99"
    with refused(db, RefusedError, Code.BALANCE_LIMIT, message):
        balance_store.credit_back(charge.id)
    with refused(db, RefusedError, Code.BALANCE_LIMIT):
        balance_store.add_credits(account, 1, "over")
    balance_store.deduct(account, 5, "by hand")
    assert moved_to(balance_store.credit_back(charge.id)) == (6, MAX_BALANCE_CENTS, 0)
    assert unbalanced(db) == []
    assert verify().differences == []


def test_from_the_lowest_balance_a_charge_is_given_back(db: Database, account: int) -> None:
    balance_store.add_credits(account, 6, "a gift")
    charge = balance_store.charge_sms(account, US)
    down = MAX_BALANCE_CENTS // 99_999_999
    with unit_of_work():
        for _ in range(down):
            balance_store.deduct(account, 99_999_999, "down", allow_negative=True)
        rest = MAX_BALANCE_CENTS - down * 99_999_999
        balance_store.deduct(account, rest, "to the bottom", allow_negative=True)
    assert stands_at(account) == (-MAX_BALANCE_CENTS, 3_500)

    with refused(db, RefusedError, Code.BALANCE_LIMIT):
        balance_store.deduct(account, 1, "under", allow_negative=True)
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE):
        balance_store.charge_sms(account, US)
    given = balance_store.credit_back(charge.id)

    assert moved_to(given) == (6, -MAX_BALANCE_CENTS + 6, 0)
    assert unbalanced(db) == []
