"""The stores against a plain Python ledger: whatever is asked of them, both answer alike.

What is refused by the one is refused by the other, for the same reason; what stands in the one
stands in the other, after every step; and a unit that is taken back was never there.
"""

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from books import miscounted
from conftest import Templates
from databases import Database
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from probes import rows, unbalanced

from tbpay import database
from tbpay.database import unit_of_work
from tbpay.errors import Code, ConflictError, NotFoundError, RefusedError, TbpayError
from tbpay.models import Order, Transaction
from tbpay.stores import account_store, balance_store, discount_code_store, order_store

LIVE = ("reserved", "redeemed")
CENT = 10_000
RATES = {"US": 56_500, "GB": 262_000}
NUMBERS = {"US": "+12015550123", "GB": "+447400123456", "DE": "+4915123456789"}


@dataclass
class PlainRefund:
    order: int
    amount: int
    claw_back: int
    shortfall: int
    stripe: str | None


@dataclass
class PlainOrder:
    account: int
    amount: int
    credit: int
    code: str | None
    status: str = "pending"
    intent: str | None = None
    credited: int | None = None

    def shown(self) -> tuple[Any, ...]:
        return self.status, self.amount, self.credit, self.intent


@dataclass
class PlainUse:
    code: str
    order: int | None
    account: int | None
    off: int
    status: str


@dataclass
class PlainCode:
    kind: str
    value: int
    limit: int | None
    share: int | None
    least: int | None
    active: bool = True


@dataclass
class PlainCharge:
    account: int
    cost: int
    given: tuple[int, ...] | None = None


@dataclass
class PlainLedger:
    """What the stores should do, without a database. Balances and costs are in micros."""

    balances: dict[int, int] = field(default_factory=dict)
    orders: dict[int, PlainOrder] = field(default_factory=dict)
    codes: dict[str, PlainCode] = field(default_factory=dict)
    uses: list[PlainUse] = field(default_factory=list)
    refunds: list[PlainRefund] = field(default_factory=list)
    charges: list[PlainCharge] = field(default_factory=list)
    keys: dict[tuple[str, str], tuple[Any, Any]] = field(default_factory=dict)
    lines: int = 0

    def open_account(self) -> int:
        self.balances[len(self.balances) + 1] = 0
        return len(self.balances)

    def create_code(self, name: str, *made: Any) -> int:
        if name in self.codes:
            raise ConflictError("", code=Code.EXISTS)
        self.codes[name] = PlainCode(*made)
        return 0

    def set_active(self, name: str, active: bool) -> int:
        self._code(name).active = active
        return self.live(name)

    def update_code(self, name: str, limit: int | None, share: int | None) -> int:
        code = self._code(name)
        if limit is not None and limit < self.live(name):
            raise RefusedError("")
        if share is not None and any(self.live(name, it) > share for it in self.balances):
            raise RefusedError("")
        code.limit, code.share = limit or code.limit, share or code.share
        return self.live(name)

    def take_use(self, name: str, number: int | None) -> int:
        if number is None:
            self._take(name, None, None)
            self.uses.append(PlainUse(name, None, None, 0, "redeemed"))
            return self.live(name)
        order = self._order(number)
        self._code(name)
        if order.status == "failed" or order.code not in (None, name):
            raise ConflictError("")
        if order.code is None:
            self._take(name, order.credit, order.account)
            order.code = name
            status = "reserved" if order.status == "pending" else "redeemed"
            self.uses.append(PlainUse(name, number, order.account, 0, status))
        return self.live(name)

    def record(
        self,
        account: int,
        kind: str,
        amount: int,
        number: int | None,
        may_owe: bool,
        key: str | None,
    ) -> tuple[int, bool]:
        if number is not None and self._order(number).account != account:
            raise ConflictError("")
        if account not in self.balances:
            raise NotFoundError("")
        if (replay := self._replay("line", key, (account, kind, amount, number))) is not None:
            return replay, True
        if number is not None and kind == "credit":
            order = self._order(number)
            if order.credited is not None:
                if order.credited != amount:
                    raise ConflictError("")
                return amount, True
            if order.status == "failed":
                raise ConflictError("")
            order.credited = amount
        step = CENT * amount
        self._move_balance(account, step if kind == "credit" else -step, may_owe=may_owe)
        self._remember("line", key, (account, kind, amount, number), amount)
        return amount, False

    def charge(
        self, account: int, country: str, segments: int, fallback: bool, key: str | None
    ) -> tuple[int, ...]:
        if account not in self.balances:
            raise NotFoundError("")
        asked = ("charge", account, country, segments)
        if (replay := self._replay("line", key, asked)) is not None:
            return *replay, True
        if country not in RATES and not fallback:
            raise RefusedError("", code=Code.UNPRICED)
        cost = segments * RATES.get(country, RATES["US"])
        told = self._move_balance(account, -cost)
        self.charges.append(PlainCharge(account, cost))
        self._remember("line", key, asked, told)
        return *told, False

    def give_back(self, number: int | None) -> tuple[int, ...]:
        if number is None:
            raise ConflictError("")
        if number > len(self.charges):
            raise NotFoundError("")
        charge = self.charges[number - 1]
        if charge.given is not None:
            return *charge.given, True
        charge.given = self._move_balance(charge.account, charge.cost)
        return *charge.given, False

    def _move_balance(
        self, account: int, step: int, *, may_owe: bool = False
    ) -> tuple[int, int, int]:
        """Answer by how much the whole cents moved, and what the balance came to."""
        before = self.balances[account]
        after = before + step
        if step < 0 and after < 0 and not may_owe:
            raise RefusedError("", code=Code.INSUFFICIENT_BALANCE)
        self.balances[account] = after
        self.lines += 1
        return abs(after // CENT - before // CENT), after // CENT, after % CENT

    def create_order(
        self, account: int, amount: int, code: str | None, key: str | None
    ) -> tuple[Any, ...]:
        if account not in self.balances:
            raise NotFoundError("")
        if (made := self._replay("order", key, (account, amount, code))) is not None:
            return self.orders[made].shown()
        off = 0
        if code is not None:
            taken = self._take(code, amount, account)
            percent = (amount * taken.value * 2 + 100) // 200
            off = percent if taken.kind == "percent" else min(taken.value, amount)
            if 0 < amount - off < 50:
                raise RefusedError("", code=Code.BELOW_STRIPE_MINIMUM)
        number = len(self.orders) + 1
        order = self.orders[number] = PlainOrder(account, amount - off, amount, code)
        if code is not None:
            self.uses.append(PlainUse(code, number, account, off, "reserved"))
        if order.amount == 0:
            self._complete(number)
        self._remember("order", key, (account, amount, code), number)
        return order.shown()

    def move(self, number: int, target: str, intent: str | None) -> tuple[Any, ...]:
        order = self._order(number)
        late = (order.status, target) == ("failed", "completed") and intent is not None
        gone = (order.status, target) == ("completed", "refunded")
        moves = order.status == "pending" and target in ("completed", "failed")
        if not (order.status == target or late or gone or moves):
            raise ConflictError("")
        if gone:
            self.refund(number, None, "refuse", None, None)
        if intent is not None and order.intent is None:
            if intent in (other.intent for other in self.orders.values()):
                raise ConflictError("")
        elif intent is not None and order.intent != intent:
            raise ConflictError("")
        if order.status != target and target == "completed":
            if order.credited not in (None, order.credit):
                raise ConflictError("")
            self._complete(number)
        elif order.status != target:
            if order.credited is not None:
                raise ConflictError("")
            order.status = "failed"
            self._note_use(number, "released")
        order.intent = order.intent or intent
        return order.shown()

    def refund(
        self, number: int, amount: int | None, policy: str, stripe: str | None, key: str | None
    ) -> tuple[Any, ...]:
        order = self._order(number)
        own = [refund for refund in self.refunds if refund.order == number]
        if (made := self._replay("refund", key, (number, amount, policy))) is not None:
            return self._told(made, order, replayed=True)
        known = next((it for it in self.refunds if it.stripe == stripe), None)
        if stripe is not None and known is not None:
            earlier = own[: own.index(known)] if known in own else own
            left = order.amount - sum(refund.amount for refund in earlier)
            if (known.order, known.amount) != (number, left if amount is None else amount):
                raise ConflictError("")
            return self._told(known, order, replayed=True)
        if stripe is None and amount is None and order.status == "refunded":
            return self._told(own[-1], order, replayed=True)
        if order.status != "completed":
            raise ConflictError("")
        before = sum(refund.amount for refund in own)
        after = order.amount if amount is None else before + amount
        if after > order.amount:
            raise RefusedError("")
        claw_back = order.credit
        if order.amount:
            claw_back = order.credit * after // order.amount
            claw_back -= order.credit * before // order.amount
        taken, has = claw_back, self.balances[order.account] // CENT
        if policy == "available":
            taken = min(claw_back, max(has, 0))
        elif policy == "refuse" and has < claw_back:
            raise RefusedError("", code=Code.INSUFFICIENT_BALANCE)
        if taken:
            self._move_balance(order.account, -CENT * taken, may_owe=True)
        made = PlainRefund(number, after - before, claw_back, claw_back - taken, stripe)
        self.refunds.append(made)
        if after == order.amount:
            order.status = "refunded"
        self._remember("refund", key, (number, amount, policy), made)
        return self._told(made, order, replayed=False)

    def live(self, name: str, account: int | None = None) -> int:
        return sum(
            use.code == name and use.status in LIVE and account in (None, use.account)
            for use in self.uses
        )

    def _told(self, refund: PlainRefund, order: PlainOrder, *, replayed: bool) -> tuple[Any, ...]:
        return order.status, refund.amount, refund.claw_back, refund.shortfall, replayed

    def _complete(self, number: int) -> None:
        order = self.orders[number]
        late = order.status == "failed"
        order.status = "completed"
        if order.code is not None:
            limit = self.codes[order.code].limit
            is_left = not late or limit is None or self.live(order.code) < limit
            self._note_use(number, "redeemed" if is_left else "late")
        self.record(order.account, "credit", order.credit, number, may_owe=False, key=None)

    def _note_use(self, number: int, status: str) -> None:
        for use in self.uses:
            if use.order == number:
                use.status = status

    def _order(self, number: int) -> PlainOrder:
        if number not in self.orders:
            raise NotFoundError("")
        return self.orders[number]

    def _code(self, name: str) -> PlainCode:
        if name not in self.codes:
            raise NotFoundError("", code=Code.UNKNOWN)
        return self.codes[name]

    def _take(self, name: str, amount: int | None, account: int | None) -> PlainCode:
        code = self._code(name)
        if not code.active:
            raise RefusedError("", code=Code.INACTIVE)
        if code.limit is not None and self.live(name) >= code.limit:
            raise RefusedError("", code=Code.USED_UP)
        if None not in (code.least, amount) and amount < code.least:  # type: ignore[operator]
            raise RefusedError("", code=Code.BELOW_MINIMUM)
        has = 0 if account is None else self.live(name, account)
        if code.share is not None and has >= code.share:
            raise RefusedError("", code=Code.ACCOUNT_LIMIT)
        return code

    def _replay(self, what: str, key: str | None, asked: Any) -> Any:
        if key is None or (what, key) not in self.keys:
            return None
        before, made = self.keys[what, key]
        if before != asked:
            raise ConflictError("", code=Code.KEY_REUSED)
        return made

    def _remember(self, what: str, key: str | None, asked: Any, made: Any) -> None:
        if key is not None:
            self.keys[what, key] = asked, made


@dataclass
class Stores:
    """The same questions, asked of the stores.

    The plain ledger counts from 1; what the database counts by has gaps on PostgreSQL, where a
    number is given away for good, also to what is taken back.
    """

    accounts: list[int] = field(default_factory=list)
    orders: list[int] = field(default_factory=list)
    charges: list[int] = field(default_factory=list)

    def open_account(self) -> int:
        self.accounts.append(account_store.create().id)
        return len(self.accounts)

    def create_code(
        self,
        name: str,
        kind: str,
        value: int,
        limit: int | None,
        share: int | None,
        least: int | None,
    ) -> int:
        return discount_code_store.create(
            name, kind, value, max_uses=limit, per_account=share, min_amount_cents=least
        ).current_uses

    def set_active(self, name: str, active: bool) -> int:
        return discount_code_store.set_active(name, active).current_uses

    def update_code(self, name: str, limit: int | None, share: int | None) -> int:
        return discount_code_store.update(name, max_uses=limit, per_account=share).current_uses

    def take_use(self, name: str, order: int | None) -> int:
        return discount_code_store.increment_uses(name, order_id=self._order(order)).current_uses

    def record(
        self,
        account: int,
        kind: str,
        amount: int,
        order: int | None,
        may_owe: bool,
        key: str | None,
    ) -> tuple[int, bool]:
        line = balance_store.record_transaction(
            self._account(account),
            kind,
            amount,
            "by hand",
            order_id=self._order(order),
            allow_negative=may_owe,
            key=key,
        )
        return line.amount_cents, line.replayed

    def charge(
        self, account: int, country: str, segments: int, fallback: bool, key: str | None
    ) -> tuple[int, ...]:
        line = balance_store.charge_sms(
            self._account(account), NUMBERS[country], segments=segments, fallback=fallback, key=key
        )
        if not line.replayed:
            self.charges.append(line.id)
        return told(line)

    def give_back(self, number: int | None) -> tuple[int, ...]:
        if number is None:
            # The first line of all is the credit of an order.
            line_id = balance_store.history(self.accounts[0], limit=None).items[-1].id
        else:
            line_id = self.charges[number - 1] if number <= len(self.charges) else NOWHERE
        return told(balance_store.credit_back(line_id))

    def create_order(
        self, account: int, amount: int, code: str | None, key: str | None
    ) -> tuple[Any, ...]:
        made = order_store.create(self._account(account), "top_up", amount, code=code, key=key)
        if made.id not in self.orders:
            self.orders.append(made.id)
        return shown(made)

    def move(self, number: int, target: str, intent: str | None) -> tuple[Any, ...]:
        order_id = self._order(number)
        return shown(order_store.update_status(order_id, target, stripe_payment_intent_id=intent))

    def refund(
        self, number: int, amount: int | None, policy: str, stripe: str | None, key: str | None
    ) -> tuple[Any, ...]:
        order, refund = order_store.record_refund(
            self._order(number),
            amount_cents=amount,
            policy=policy,
            stripe_refund_id=stripe,
            key=key,
        )
        parts = refund.amount_cents, refund.claw_back_cents, refund.shortfall_cents
        return order.status, *parts, refund.replayed

    def _account(self, number: int) -> int:
        return self.accounts[number - 1] if number <= len(self.accounts) else NOWHERE

    def _order(self, number: Any) -> Any:
        if number is None:
            return None
        return self.orders[number - 1] if number <= len(self.orders) else NOWHERE


NOWHERE = 1_000_000


def shown(order: Order) -> tuple[Any, ...]:
    return order.status, order.amount_cents, order.credit_cents, order.stripe_payment_intent_id


def told(line: Transaction) -> tuple[int, ...]:
    assert line.sms_charge is not None
    subcent_micros = line.sms_charge.subcent_after_micros
    return line.amount_cents, line.balance_after_cents, subcent_micros, line.replayed


# Few of everything, so that the steps meet; and always one more than there is.
accounts, numbers = st.integers(1, 3), st.integers(1, 6)
cents = st.sampled_from([1, 7, 60, 100])
names = st.sampled_from(["AAA", "BBB", "CCC"])
keys = st.sampled_from([None, None, "key-0001", "key-0002"])
Step = tuple[str, tuple[Any, ...]]
steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("open_account"), st.tuples()),
    st.tuples(
        st.just("create_code"),
        st.tuples(
            names,
            st.sampled_from(["percent", "fixed"]),
            st.sampled_from([10, 33, 60, 100]),
            st.none() | st.integers(1, 3),
            st.none() | st.integers(1, 2),
            st.none() | cents,
        ),
    ),
    st.tuples(st.just("set_active"), st.tuples(names, st.booleans())),
    st.tuples(
        st.just("update_code"),
        st.tuples(names, st.none() | st.integers(1, 3), st.none() | st.integers(1, 3)),
    ),
    st.tuples(st.just("take_use"), st.tuples(names, st.none() | numbers)),
    st.tuples(
        st.just("record"),
        st.tuples(
            accounts,
            st.sampled_from(["credit", "debit", "refund"]),
            cents,
            st.none() | numbers,
            st.booleans(),
            keys,
        ),
    ),
    st.tuples(
        st.just("charge"),
        st.tuples(
            accounts, st.sampled_from(sorted(NUMBERS)), st.integers(1, 3), st.booleans(), keys
        ),
    ),
    st.tuples(st.just("give_back"), st.tuples(st.sampled_from([1, 1, 2, 2, 3, 4, None]))),
    st.tuples(st.just("create_order"), st.tuples(accounts, cents, st.none() | names, keys)),
    st.tuples(
        st.just("move"),
        st.tuples(
            numbers,
            st.sampled_from(["pending", "completed", "completed", "failed", "refunded"]),
            st.sampled_from([None, "pi_1", "pi_2", "pi_3"]),
        ),
    ),
    st.tuples(
        st.just("refund"),
        st.tuples(
            numbers,
            st.none() | cents,
            st.sampled_from(["refuse", "available", "negative"]),
            st.sampled_from([None, None, "re_1", "re_2"]),
            keys,
        ),
    ),
)


class UndoneError(Exception):
    pass


class Ledger(RuleBasedStateMachine):
    def __init__(self, db: Database) -> None:
        super().__init__()
        self.db = db
        self.plain, self.stores = PlainLedger(), Stores()
        for name, arguments in (
            ("open_account", ()),
            ("open_account", ()),
            ("create_code", ("AAA", "percent", 33, 2, 1, None)),
            ("create_order", (1, 100, "AAA", "key-0001")),
            ("create_order", (1, 100, None, None)),
            ("move", (2, "completed", None)),
            ("charge", (1, "US", 1, False, None)),
            ("charge", (1, "GB", 2, False, "key-0002")),
        ):
            self.step((name, arguments))

    @rule(step=steps)
    def one_call(self, step: Step) -> None:
        self.step(step)

    @rule(taken=st.lists(steps, min_size=1, max_size=4), kept=st.booleans())
    def one_unit(self, taken: list[Step], kept: bool) -> None:
        before = deepcopy((self.plain, self.stores))
        with suppress(UndoneError), unit_of_work():
            for step in taken:
                self.step(step)
            if not kept:
                raise UndoneError
        if not kept:
            self.plain, self.stores = before

    def step(self, step: Step) -> None:
        name, arguments = step
        plain = deepcopy(self.plain)
        expected = answer(getattr(plain, name), *arguments)
        if not isinstance(expected, Refusal):
            self.plain = plain
        assert answer(getattr(self.stores, name), *arguments) == expected

    @invariant()
    def both_hold_the_same(self) -> None:
        balances = balance_store.find(limit=None).items
        codes = discount_code_store.find(limit=None).items

        assert [it.account_id for it in balances] == self.stores.accounts
        assert [CENT * it.balance_cents + it.subcent_micros for it in balances] == list(
            self.plain.balances.values()
        )
        costs = "SELECT cost_micros FROM sms_charges WHERE gives_back_id IS NULL ORDER BY id"
        assert rows(self.db, costs) == [(charge.cost,) for charge in self.plain.charges]
        orders = [shown(order) for order in reversed(order_store.find(limit=None).items)]
        assert orders == [order.shown() for order in self.plain.orders.values()]
        assert {it.code: (it.current_uses, it.reserved_uses) for it in codes} == {
            name: (self.plain.live(name), self._reserved(name)) for name in self.plain.codes
        }
        uses = "SELECT account_id, reduction_cents, status FROM discount_redemptions ORDER BY id"
        # What was taken back has used up its ids on a server, of accounts too.
        plain = [
            (use.account and self.stores.accounts[use.account - 1], use.off, use.status)
            for use in self.plain.uses
        ]
        assert rows(self.db, uses) == plain
        refunds = "SELECT amount_cents, claw_back_cents, shortfall_cents FROM order_refunds"
        assert rows(self.db, f"{refunds} ORDER BY id") == [
            (it.amount, it.claw_back, it.shortfall) for it in self.plain.refunds
        ]

    def _reserved(self, name: str) -> int:
        return sum((use.code, use.status) == (name, "reserved") for use in self.plain.uses)

    @invariant()
    def everything_adds_up(self) -> None:
        assert unbalanced(self.db) == []
        assert miscounted(self.db) == []
        assert rows(self.db, "SELECT count(*) FROM transactions") == [(self.plain.lines,)]


@dataclass(frozen=True)
class Refusal:
    kind: type[TbpayError]
    code: Code


def answer(ask: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return ask(*arguments)
    except TbpayError as refusal:
        return Refusal(type(refusal), refusal.code)


def test_the_stores_do_what_a_plain_ledger_does(
    dialect: str, templates: Templates, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    numbered = count()
    examples = {"sqlite": 12, "postgresql": 4}[dialect]
    if pytestconfig.getoption("--long"):
        examples *= 10

    class Fresh(Ledger):
        def __init__(self) -> None:
            made = templates.empty(dialect).copy(tmp_path / f"{next(numbered)}.db")
            database.configure(made.url)
            super().__init__(made)

        def teardown(self) -> None:
            database.reset()
            self.db.drop()

    run_state_machine_as_test(
        Fresh,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
