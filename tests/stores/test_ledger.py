"""The stores against a plain Python ledger: whatever is asked of them, both answer alike.

What is refused by the one is refused by the other, for the same reason; what stands in the one
stands in the other, after every step; and a unit that is taken back was never there.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from probes import rows, unbalanced

from tbpay import database
from tbpay.database import unit_of_work
from tbpay.errors import Code, ConflictError, NotFoundError, RefusedError, TbpayError
from tbpay.models import Order
from tbpay.stores import account_store, balance_store, discount_code_store, order_store


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
class PlainCode:
    kind: str
    value: int
    limit: int | None
    uses: int = 0
    active: bool = True

    @property
    def is_left(self) -> bool:
        return self.limit is None or self.uses < self.limit


@dataclass
class PlainLedger:
    """What the stores should do, without a database."""

    balances: dict[int, int] = field(default_factory=dict)
    orders: dict[int, PlainOrder] = field(default_factory=dict)
    codes: dict[str, PlainCode] = field(default_factory=dict)
    lines: int = 0

    def open_account(self) -> int:
        self.balances[len(self.balances) + 1] = 0
        return len(self.balances)

    def create_code(self, name: str, kind: str, value: int, limit: int | None) -> int:
        if name in self.codes:
            raise ConflictError("", code=Code.EXISTS)
        self.codes[name] = PlainCode(kind, value, limit)
        return 0

    def set_active(self, name: str, active: bool) -> int:
        self._code(name).active = active
        return self._code(name).uses

    def take_use(self, name: str, order: int | None) -> int:
        if order is not None:
            held = self._order(order)
            code = self._code(name)
            if held.status == "failed" or held.code not in (None, name):
                raise ConflictError("")
            if held.code == name:
                return code.uses
        self._take(name)
        if order is not None:
            held.code = name
        return self._code(name).uses

    def record(
        self, account: int, kind: str, amount: int, order: int | None, may_owe: bool
    ) -> tuple[int, int | None, bool]:
        if order is not None:
            of = self._order(order)
            if of.account != account:
                raise ConflictError("")
            if kind == "credit" and of.credited is not None:
                if of.credited != amount:
                    raise ConflictError("")
                return amount, None, True
            if kind == "credit" and of.status == "failed":
                raise ConflictError("")
        if account not in self.balances:
            raise NotFoundError("")
        after = self.balances[account] + (amount if kind == "credit" else -amount)
        if kind != "credit" and after < 0 and not may_owe:
            raise RefusedError("", code=Code.INSUFFICIENT_BALANCE)
        if kind == "credit" and order is not None:
            of.credited = amount
        self.balances[account] = after
        self.lines += 1
        return amount, after, False

    def create_order(self, account: int, amount: int, code: str | None) -> tuple[Any, ...]:
        if account not in self.balances:
            raise NotFoundError("")
        reduction = 0
        if code is not None:
            taken = self._take(code)
            percent = (amount * taken.value * 2 + 100) // 200
            reduction = percent if taken.kind == "percent" else min(taken.value, amount)
        order = PlainOrder(account, amount - reduction, amount, code)
        self.orders[len(self.orders) + 1] = order
        if order.amount == 0:
            self._complete(len(self.orders))
        return order.shown()

    def move(self, number: int, target: str, intent: str | None) -> tuple[Any, ...]:
        order = self._order(number)
        late = (order.status, target) == ("failed", "completed") and intent is not None
        moves = order.status == "pending" and target in ("completed", "failed")
        if not (order.status == target or late or moves):
            raise ConflictError("")
        if intent is not None and order.intent is None:
            if intent in (other.intent for other in self.orders.values()):
                raise ConflictError("")
        elif intent is not None and order.intent != intent:
            raise ConflictError("")
        unchanged = order.status == target
        if not unchanged and target == "completed":
            if order.credited not in (None, order.credit):
                raise ConflictError("")
            if late and order.code is not None and self.codes[order.code].is_left:
                self.codes[order.code].uses += 1
            self._complete(number)
        elif not unchanged:
            if order.credited is not None:
                raise ConflictError("")
            order.status = "failed"
            if order.code is not None:
                self.codes[order.code].uses -= 1
        order.intent = order.intent or intent
        return order.shown()

    def _complete(self, number: int) -> None:
        order = self.orders[number]
        order.status = "completed"
        self.record(order.account, "credit", order.credit, number, may_owe=False)

    def _order(self, number: int) -> PlainOrder:
        if number not in self.orders:
            raise NotFoundError("")
        return self.orders[number]

    def _code(self, name: str) -> PlainCode:
        if name not in self.codes:
            raise NotFoundError("", code=Code.UNKNOWN)
        return self.codes[name]

    def _take(self, name: str) -> PlainCode:
        code = self._code(name)
        if not code.active:
            raise RefusedError("", code=Code.INACTIVE)
        if not code.is_left:
            raise RefusedError("", code=Code.USED_UP)
        code.uses += 1
        return code


class Stores:
    """The same questions, asked of the stores."""

    def open_account(self) -> int:
        return account_store.create().id

    def create_code(self, name: str, kind: str, value: int, limit: int | None) -> int:
        return discount_code_store.create(name, kind, value, max_uses=limit).current_uses

    def set_active(self, name: str, active: bool) -> int:
        return discount_code_store.set_active(name, active).current_uses

    def take_use(self, name: str, order: int | None) -> int:
        return discount_code_store.increment_uses(name, order_id=order).current_uses

    def record(
        self, account: int, kind: str, amount: int, order: int | None, may_owe: bool
    ) -> tuple[int, int | None, bool]:
        line = balance_store.record_transaction(
            account, kind, amount, "by hand", order_id=order, allow_negative=may_owe
        )
        return line.amount_cents, None if line.replayed else line.balance_after_cents, line.replayed

    def create_order(self, account: int, amount: int, code: str | None) -> tuple[Any, ...]:
        return shown(order_store.create(account, "top_up", amount, code=code))

    def move(self, number: int, target: str, intent: str | None) -> tuple[Any, ...]:
        return shown(order_store.update_status(number, target, stripe_payment_intent_id=intent))


def shown(order: Order) -> tuple[Any, ...]:
    return order.status, order.amount_cents, order.credit_cents, order.stripe_payment_intent_id


# Few of everything, so that the steps meet; and always one more than there is.
accounts, numbers, cents = st.integers(1, 4), st.integers(1, 8), st.integers(1, 40)
names = st.sampled_from(["AAA", "BBB", "CCC"])
Step = tuple[str, tuple[Any, ...]]
steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("open_account"), st.tuples()),
    st.tuples(
        st.just("create_code"),
        st.tuples(
            names,
            st.sampled_from(["percent", "fixed"]),
            st.integers(1, 100),
            st.none() | st.integers(1, 3),
        ),
    ),
    st.tuples(st.just("set_active"), st.tuples(names, st.booleans())),
    st.tuples(st.just("take_use"), st.tuples(names, st.none() | numbers)),
    st.tuples(
        st.just("record"),
        st.tuples(
            accounts,
            st.sampled_from(["credit", "debit", "refund"]),
            cents,
            st.none() | numbers,
            st.booleans(),
        ),
    ),
    st.tuples(st.just("create_order"), st.tuples(accounts, cents, st.none() | names)),
    st.tuples(
        st.just("move"),
        st.tuples(
            numbers,
            st.sampled_from(["pending", "completed", "failed", "refunded"]),
            st.sampled_from([None, "pi_1", "pi_2", "pi_3"]),
        ),
    ),
)


class UndoneError(Exception):
    pass


class Ledger(RuleBasedStateMachine):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.plain = PlainLedger()
        for name, arguments in (
            ("open_account", ()),
            ("open_account", ()),
            ("create_code", ("AAA", "percent", 15, 2)),
            ("create_order", (1, 40, "AAA")),
        ):
            self.step((name, arguments))

    @rule(step=steps)
    def one_call(self, step: Step) -> None:
        self.step(step)

    @rule(taken=st.lists(steps, min_size=1, max_size=4), kept=st.booleans())
    def one_unit(self, taken: list[Step], kept: bool) -> None:
        before = deepcopy(self.plain)
        with suppress(UndoneError), unit_of_work():
            for step in taken:
                self.step(step)
            if not kept:
                raise UndoneError
        if not kept:
            self.plain = before

    def step(self, step: Step) -> None:
        name, arguments = step
        plain = deepcopy(self.plain)
        expected = answer(getattr(plain, name), *arguments)
        if not isinstance(expected, Refusal):
            self.plain = plain
        assert answer(getattr(Stores(), name), *arguments) == expected

    @invariant()
    def both_hold_the_same(self) -> None:
        balances = balance_store.find(limit=None).items
        orders = order_store.find(limit=None).items
        codes = discount_code_store.find(limit=None).items

        assert {it.account_id: it.balance_cents for it in balances} == self.plain.balances
        assert {it.id: shown(it) for it in orders} == {
            number: order.shown() for number, order in self.plain.orders.items()
        }
        assert {it.code: it.current_uses for it in codes} == {
            name: code.uses for name, code in self.plain.codes.items()
        }

    @invariant()
    def every_trail_adds_up(self) -> None:
        assert unbalanced(self.path) == []
        assert rows(self.path, "SELECT count(*) FROM transactions") == [(self.plain.lines,)]


@dataclass(frozen=True)
class Refusal:
    kind: type[TbpayError]
    code: Code


def answer(ask: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return ask(*arguments)
    except TbpayError as refusal:
        return Refusal(type(refusal), refusal.code)


def test_the_stores_do_what_a_plain_ledger_does(migrated: Path, tmp_path: Path) -> None:
    numbered = count()

    class Fresh(Ledger):
        def __init__(self) -> None:
            path = tmp_path / f"{next(numbered)}.db"
            shutil.copy(migrated, path)
            database.reset()
            database.configure(str(path))
            super().__init__(path)

    run_state_machine_as_test(
        Fresh,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
