"""$10 buys exactly the segments that the table promises, whatever else a balance goes through.

The prices are worked out apart from the program, and every balance beside it, in exact fractions.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from typing import Any

import pytest
from databases import Database
from hypothesis import given, settings, strategies as st
from probes import refusal_of, refused, rows, together, unbalanced
from selling import PHONES, PRICES, columns, moved_to, stands_at

from tbpay.database import unit_of_work
from tbpay.errors import Code, RefusedError
from tbpay.models import Transaction
from tbpay.reports.verify import verify
from tbpay.stores import account_store, balance_store, order_store


@pytest.fixture
def is_long(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--long"))


# What an amount buys


def test_an_amount_buys_the_segments_that_it_pays_for_and_not_one_more(
    db: Database, is_long: bool
) -> None:
    few = [1, 10] if db.dialect == "sqlite" else [10]
    amounts = [(dollars, country) for dollars in few for country in PRICES]
    if is_long:
        amounts = [(dollars, country) for dollars in (1, 5, 10, 25, 100) for country in PRICES]
    sold: dict[tuple[int, str], int] = {}

    for dollars, country in amounts:
        account = topped_up(dollars)
        with unit_of_work():
            sold[dollars, country] = buy_out(account, country)
        left = dollars - sold[dollars, country] * PRICES[country]
        assert 0 <= left < PRICES[country]
        assert stands_at(account) == columns(left)

    assert sold == {(dollars, country): dollars // PRICES[country] for dollars, country in amounts}
    assert unbalanced(db) == []
    assert verify().differences == []
    assert_a_fifth_is_twilios(db)


def topped_up(dollars: int) -> int:
    """Open an account that has bought so much."""
    account = account_store.create().id
    order_store.complete(order_store.create(account, "top_up", 100 * dollars).id)
    return account


def buy_out(account: int, country: str) -> int:
    """Charge single segments until one is refused; answer how many were sold."""
    for sold in count():
        refusal = refusal_of(lambda: balance_store.charge_sms(account, PHONES[country]))
        if refusal is not None:
            assert refusal == ("RefusedError", Code.INSUFFICIENT_BALANCE)
            return sold
    raise AssertionError


def assert_a_fifth_is_twilios(db: Database) -> None:
    """What all charges earn, at derived prices and without those given back, is five times that."""
    [(earned_micros, twilio_micros)] = rows(
        db,
        "SELECT sum(sign * cost_micros), sum(sign * twilio_cost_micros) FROM ("
        " SELECT *, CASE WHEN gives_back_id IS NULL THEN 1 ELSE -1 END AS sign FROM sms_charges"
        ") AS signed",
    )
    assert earned_micros * 20 == twilio_micros * 100


def test_ten_dollars_are_176_segments_to_the_us_and_5_60_cents(db: Database) -> None:
    account = topped_up(10)

    with unit_of_work():
        lines = [balance_store.charge_sms(account, PHONES["US"]) for _ in range(176)]

    assert [moved_to(line) for line in lines[:4]] == [
        (6, 994, 3_500),
        (6, 988, 7_000),
        (5, 983, 500),
        (6, 977, 4_000),
    ]
    assert sum(line.amount_cents for line in lines) == 1_000 - 5
    assert stands_at(account) == (5, 6_000)
    message = f"account {account} has 0.056, which is less than 0.0565"
    with refused(db, RefusedError, Code.INSUFFICIENT_BALANCE, message):
        balance_store.charge_sms(account, PHONES["US"])
    assert unbalanced(db) == []


@pytest.mark.usefixtures("db")
def test_what_is_left_of_one_top_up_counts_in_the_next() -> None:
    account = topped_up(10)
    first = buy_out(account, "IT")
    order_store.complete(order_store.create(account, "top_up", 1_000).id)

    assert (first, buy_out(account, "IT")) == (21, 22)
    assert stands_at(account) == columns(20 - 43 * PRICES["IT"])


# Whatever is mixed


@dataclass
class Purse:
    """A balance in exact dollars, and the charges of it: each line with what it cost."""

    account: int
    dollars: Fraction
    sold: list[tuple[int, Fraction]] = field(default_factory=list)
    given: dict[int, Transaction] = field(default_factory=dict)

    def credit(self, cents: int) -> None:
        self._move(
            lambda: balance_store.add_credits(self.account, cents, "a gift"), Fraction(cents, 100)
        )

    def debit(self, cents: int, may_owe: bool) -> None:
        self._move(
            lambda: balance_store.deduct(self.account, cents, "by hand", allow_negative=may_owe),
            Fraction(-cents, 100),
            may_owe=may_owe,
        )

    def charge(self, country: str, segments: int) -> None:
        cost = segments * PRICES[country]
        line = self._move(
            lambda: balance_store.charge_sms(self.account, PHONES[country], segments=segments),
            -cost,
        )
        if line is not None:
            self.sold.append((line.id, cost))

    def give_back(self, number: int) -> None:
        if not self.sold:
            return
        charge_id, cost = self.sold[number % len(self.sold)]
        if charge_id in self.given:
            again = balance_store.credit_back(charge_id)
            assert (again.replayed, again.id) == (True, self.given[charge_id].id)
            return
        line = self._move(lambda: balance_store.credit_back(charge_id), cost)
        assert line is not None
        self.given[charge_id] = line

    def _move(
        self, move: Callable[[], Transaction], by: Fraction, *, may_owe: bool = False
    ) -> Transaction | None:
        before_cents, subcent_micros = columns(self.dollars)
        after = self.dollars + by
        if by < 0 and after < 0 and not may_owe:
            with pytest.raises(RefusedError) as refusal:
                move()
            assert refusal.value.code is Code.INSUFFICIENT_BALANCE
            return None
        line = move()
        if line.sms_charge is not None:
            subcent_micros = line.sms_charge.subcent_after_micros
        assert line.replayed is False
        assert (line.balance_after_cents, subcent_micros) == columns(after)
        assert line.amount_cents == abs(line.balance_after_cents - before_cents)
        self.dollars = after
        return line


cents = st.integers(1, 300)
steps = st.one_of(
    st.tuples(st.just("credit"), cents),
    st.tuples(st.just("debit"), cents, st.booleans()),
    st.tuples(
        st.just("charge"), st.sampled_from(sorted(PRICES)), st.integers(1, 3) | st.integers(1, 40)
    ),
    st.tuples(st.just("give_back"), st.integers(0, 9)),
)
mixes = st.lists(st.tuples(st.integers(0, 1), steps), min_size=1, max_size=40)


def test_whatever_is_mixed_a_balance_is_exact_to_the_micro(db: Database, is_long: bool) -> None:
    examples = {"sqlite": 60, "postgresql": 20}[db.dialect] * 20 if is_long else 20

    @settings(max_examples=examples, deadline=None)
    @given(mix=mixes, in_one_unit=st.booleans())
    def is_exact(mix: list[tuple[int, Any]], in_one_unit: bool) -> None:
        purses = [Purse(topped_up(dollars), Fraction(dollars)) for dollars in (1, 9)]
        if in_one_unit:
            with unit_of_work():
                take_steps(purses, mix)
        else:
            take_steps(purses, mix)
        for purse in purses:
            assert stands_at(purse.account) == columns(purse.dollars)

    is_exact()
    assert unbalanced(db) == []
    assert verify().differences == []
    assert_a_fifth_is_twilios(db)


def take_steps(purses: list[Purse], mix: list[tuple[int, Any]]) -> None:
    for number, (kind, *asked) in mix:
        getattr(purses[number], kind)(*asked)


# Eight processes at once


def test_eight_who_buy_at_once_get_what_one_would_have_got(db: Database) -> None:
    account = topped_up(10)

    sold = together(lambda _: buy_out(account, "US"))

    assert sum(sold) == 176
    assert stands_at(account) == (5, 6_000)
    assert unbalanced(db) == []
    assert verify().differences == []


def test_what_eight_mix_at_once_is_exact_to_the_micro(db: Database, is_long: bool) -> None:
    accounts = [topped_up(2) for _ in range(2)]

    def mix(process: int) -> list[tuple[int, int, Fraction]]:
        """Answer every line that this one wrote: its account, and what it moved in dollars."""
        chance = random.Random(process)  # noqa: S311 - nothing is kept secret by it
        moved = []
        for _ in range(200 if is_long else 20):
            account = chance.choice(accounts)
            with suppress(RefusedError):
                line, dollars = any_move(account, chance)
                if not line.replayed:
                    moved.append((line.id, account, dollars))
        return moved

    moved = [line for lines in together(mix) for line in lines]

    assert len({line_id for line_id, _, _ in moved}) == len(moved)
    assert rows(db, "SELECT count(*) FROM transactions") == [(len(moved) + len(accounts),)]
    for account in accounts:
        by = sum((dollars for _, its, dollars in moved if its == account), Fraction(2))
        assert stands_at(account) == columns(by)
    assert unbalanced(db) == []
    assert verify().differences == []
    assert_a_fifth_is_twilios(db)


def any_move(account: int, chance: random.Random) -> tuple[Transaction, Fraction]:
    """Do one thing or another to a balance; answer the line, and what it should have moved."""
    kind = chance.choice(["credit", "debit", "owe", "charge", "charge", "give back"])
    if kind == "give back":
        lines = balance_store.history(account, limit=None).items
        charges = [it.sms_charge for it in lines if it.transaction_type == "debit"]
        charge = chance.choice([it for it in charges if it is not None] or [None])
        if charge is not None:
            cost = charge.segments * PRICES[charge.country_code]
            return balance_store.credit_back(charge.transaction_id), cost
        kind = "charge"
    if kind == "charge":
        country, segments = chance.choice(list(PRICES)), chance.randint(1, 2)
        line = balance_store.charge_sms(account, PHONES[country], segments=segments)
        assert line.balance_after_cents >= 0
        return line, -segments * PRICES[country]
    cents = chance.randint(1, 30)
    if kind == "credit":
        return balance_store.add_credits(account, cents, "a gift"), Fraction(cents, 100)
    may_owe = kind == "owe"
    line = balance_store.deduct(account, cents, "by hand", allow_negative=may_owe)
    assert may_owe or line.balance_after_cents >= 0
    return line, Fraction(-cents, 100)
