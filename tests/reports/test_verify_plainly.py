"""`tbpay ledger verify` against a plain Python audit: whatever is changed, both name the same."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Templates
from databases import Database
from hypothesis import HealthCheck, given, settings, strategies as st
from probes import rows
from tampering import lawless

from tbpay import database
from tbpay.errors import TbpayError
from tbpay.reports.verify import verify
from tbpay.stores import account_store, balance_store, discount_code_store, order_store

Row = dict[str, Any]
Step = tuple[str, int, int]
Change = tuple[str, str, int, int | str | None]


# Few of everything, so that the steps meet, and small, so that wrong values meet right ones.
numbers, cents = st.integers(1, 6), st.integers(1, 9).map(lambda tens: 60 * tens)
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.sampled_from(["credit", "debit", "order", "order with a code", "complete", "fail"])
        | st.sampled_from(["complete", "refuse", "available", "negative", "all"]),
        numbers,
        cents,
    ),
    min_size=4,
    max_size=14,
)
ids, amounts = st.none() | st.integers(1, 4), st.integers(0, 9).map(lambda tens: 60 * tens)
statuses = st.sampled_from(["pending", "completed", "failed", "refunded", "lost"])
uses = st.sampled_from(["reserved", "redeemed", "released", "late", "lost"])
COLUMNS: dict[tuple[str, str], st.SearchStrategy[int | str | None]] = {
    ("transactions", "account_id"): ids,
    ("transactions", "account_version"): ids,
    ("transactions", "transaction_type"): st.sampled_from(["credit", "debit", "refund", "lost"]),
    ("transactions", "amount_cents"): amounts,
    ("transactions", "balance_after_cents"): amounts,
    ("transactions", "order_id"): ids,
    ("account_balances", "balance_cents"): amounts,
    ("account_balances", "account_version"): ids,
    ("orders", "account_id"): ids,
    ("orders", "amount_cents"): amounts,
    ("orders", "credit_cents"): amounts | st.none(),
    ("orders", "discount_code_id"): ids,
    ("orders", "status"): statuses,
    ("order_refunds", "order_id"): ids,
    ("order_refunds", "amount_cents"): amounts,
    ("order_refunds", "claw_back_cents"): amounts,
    ("order_refunds", "shortfall_cents"): amounts,
    ("order_refunds", "policy"): st.sampled_from(["refuse", "available", "negative", "lost"]),
    ("order_refunds", "transaction_id"): ids,
    ("discount_redemptions", "discount_code_id"): ids,
    ("discount_redemptions", "order_id"): ids,
    ("discount_redemptions", "account_id"): ids,
    ("discount_redemptions", "reduction_cents"): amounts,
    ("discount_redemptions", "status"): uses,
    ("discount_codes", "current_uses"): st.integers(0, 4),
}
changes: st.SearchStrategy[list[Change]] = st.lists(
    st.sampled_from(sorted(COLUMNS)).flatmap(
        lambda place: st.tuples(st.just(place[0]), st.just(place[1]), numbers, COLUMNS[place])
    )
    | st.sampled_from(sorted({table for table, _ in COLUMNS})).flatmap(
        lambda table: st.tuples(st.just(table), st.just("gone"), numbers, st.none())
    ),
    max_size=3,
)


def test_both_name_the_same(
    dialect: str, templates: Templates, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    numbered = count()
    examples = {"sqlite": 40, "postgresql": 10}[dialect]
    if pytestconfig.getoption("--long"):
        examples *= 10

    @settings(
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(steps=steps, changes=changes)
    def audited(steps: list[Step], changes: list[Change]) -> None:
        db = templates.filled(dialect, begin).copy(tmp_path / f"{next(numbered)}.db")
        database.configure(db.url)
        try:
            work(steps)
            with lawless(db) as execute:
                for change in changes:
                    change_it(execute, *change)
            differences = verify().differences
            found = {(each.check, each.subject) for each in differences if each.check != "guards"}
            assert found == set(Audit(db).wrong())
        finally:
            database.reset()
            db.drop()

    audited()


def begin() -> None:
    account_store.create()
    account_store.create()
    discount_code_store.create("TENTH", "percent", 10, max_uses=2)
    discount_code_store.create("WHOLE", "percent", 100)


def work(steps: list[Step]) -> None:
    for what, number, amount in steps:
        account = number % 2 + 1
        with suppress(TbpayError):
            match what:
                case "credit":
                    balance_store.add_credits(account, amount, "a gift")
                case "debit":
                    balance_store.deduct(account, amount // 2, "a message")
                case "order":
                    order_store.create(account, "top_up", amount)
                case "order with a code":
                    code = "WHOLE" if number > 4 else "TENTH"
                    order_store.create(account, "top_up", amount, code=code)
                case "complete":
                    order_store.complete(number, payment_intent_id=f"pi_{number}")
                case "fail":
                    order_store.fail(number)
                case "all":
                    order_store.refund(number, policy="negative")
                case policy:
                    order_store.refund(number, amount_cents=amount // 3, policy=policy)


def change_it(execute: Any, table: str, column: str, number: int, value: object) -> None:
    """Change a row or take it away, unless an index says no."""
    with suppress(sqlite3.IntegrityError, psycopg.IntegrityError):
        if column == "gone":
            execute(f"DELETE FROM {table} WHERE id = ?", number)
        else:
            execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", value, number)


class Audit:
    """All of a ledger in memory, and every rule in a loop of its own."""

    def __init__(self, db: Database) -> None:
        self.lines = read(db, "transactions")
        self.balances = read(db, "account_balances")
        self.orders = read(db, "orders")
        self.refunds = read(db, "order_refunds")
        self.redemptions = read(db, "discount_redemptions")
        self.codes = read(db, "discount_codes")
        self.order = {order["id"]: order for order in self.orders}
        self.line = {line["id"]: line for line in self.lines}
        self.trails: dict[int, list[Row]] = defaultdict(list)
        for line in self.lines:
            if line["account_id"] is not None and line["account_version"] is not None:
                self.trails[line["account_id"]].append(line)
        for trail in self.trails.values():
            trail.sort(key=lambda line: line["account_version"])
        self.credit: dict[int, Row] = {
            line["order_id"]: line
            for line in self.lines
            if line["transaction_type"] == "credit" and line["order_id"] is not None
        }

    def wrong(self) -> Iterator[tuple[str, str]]:
        yield from self.wrong_lines()
        yield from self.wrong_balances()
        yield from self.wrong_orders()
        yield from self.wrong_refunds()
        yield from self.wrong_redemptions()
        live = Counter(
            use["discount_code_id"]
            for use in self.redemptions
            if use["status"] in ("reserved", "redeemed")
        )
        for code in self.codes:
            if code["current_uses"] != live[code["id"]]:
                yield "codes", f"code {code['code']}"

    def wrong_lines(self) -> Iterator[tuple[str, str]]:
        for line in self.lines:
            order = self.order.get(line["order_id"])
            if (
                line["account_id"] is None
                or line["account_version"] is None
                or line["transaction_type"] == "lost"
                or (
                    line["order_id"] is not None
                    and (order is None or order["account_id"] != line["account_id"])
                )
            ):
                yield "lines", f"line {line['id']}"
        for trail in self.trails.values():
            before = {"id": 0, "account_version": 0, "balance_after_cents": 0}
            for line in trail:
                if (
                    line["account_version"] != before["account_version"] + 1
                    or line["id"] < before["id"]
                    or (
                        line["transaction_type"] != "lost"
                        and line["balance_after_cents"]
                        != before["balance_after_cents"] + step(line)
                    )
                ):
                    yield "lines", f"line {line['id']}"
                before = line

    def wrong_balances(self) -> Iterator[tuple[str, str]]:
        held = {balance["account_id"]: balance for balance in self.balances}
        added_up = Counter[int]()
        for line in self.lines:
            added_up[line["account_id"]] += step(line)
        for account in {*held, *added_up} - {None}:
            trail = self.trails.get(account, [])
            last = trail[-1] if trail else {"account_version": 0, "balance_after_cents": 0}
            balance = held.get(account)
            if (
                balance is None
                or balance["balance_cents"] != last["balance_after_cents"]
                or balance["account_version"] != last["account_version"]
            ):
                yield "balances", f"account {account}"
            if balance is not None and balance["balance_cents"] != added_up[account]:
                yield "trails", f"account {account}"

    def wrong_orders(self) -> Iterator[tuple[str, str]]:
        for order in self.orders:
            credit = self.credit.get(order["id"])
            credited = 0 if credit is None else credit["amount_cents"]
            match order["status"]:
                case "completed" | "refunded":
                    is_right = credited == credit_of(order)
                case "failed":
                    is_right = credit is None
                case status:
                    is_right = status == "pending"
            if not is_right:
                yield "orders", f"order {order['id']}"

    def wrong_refunds(self) -> Iterator[tuple[str, str]]:
        of_orders: dict[int, list[Row]] = defaultdict(list)
        for refund in self.refunds:
            of_orders[refund["order_id"]].append(refund)
        for order in self.orders:
            paid, parts = order["amount_cents"], of_orders.get(order["id"], [])
            back = sum(refund["amount_cents"] for refund in parts)
            is_back = bool(parts) and back >= paid
            if parts and order["status"] != ("refunded" if is_back else "completed"):
                yield "refunds", f"order {order['id']}"
            if not parts and order["status"] == "refunded":
                yield "refunds", f"order {order['id']}"
        for refund in self.refunds:
            if refund["order_id"] not in self.order:
                yield "refunds", f"refund {refund['id']}"
            yield from self.wrong_taking(refund)
        for order_id, parts in of_orders.items():
            if order_id in self.order:
                yield from self.wrong_shares(self.order[order_id], parts)
        known = {refund["transaction_id"] for refund in self.refunds}
        for line in self.lines:
            said = f"Refund of order {line['order_id']}"
            is_of_a_refund = line["transaction_type"] == "refund" and line["description"] == said
            if is_of_a_refund and line["id"] not in known:
                yield "refunds", f"line {line['id']}"

    def wrong_taking(self, refund: Row) -> Iterator[tuple[str, str]]:
        short, claw_back = refund["shortfall_cents"], refund["claw_back_cents"]
        if (
            refund["policy"] == "lost"
            or (short > 0 and refund["policy"] != "available")
            or short > claw_back
        ):
            yield "refunds", f"refund {refund['id']}"
        line = self.line.get(refund["transaction_id"])
        order = self.order.get(refund["order_id"], {"account_id": None})
        if short == claw_back:
            if refund["transaction_id"] is not None:
                yield "refunds", f"refund {refund['id']}"
        elif line is None:
            yield "refunds", f"refund {refund['id']}"
        elif (
            line["transaction_type"],
            line["amount_cents"],
            line["account_id"],
            line["order_id"],
        ) != ("refund", claw_back - short, order["account_id"], refund["order_id"]):
            yield "refunds", f"line {line['id']}"

    def wrong_shares(self, order: Row, parts: list[Row]) -> Iterator[tuple[str, str]]:
        paid = order["amount_cents"]
        credit = self.credit.get(order["id"], {"amount_cents": 0})["amount_cents"]
        back = clawed = 0
        for refund in parts:
            back += refund["amount_cents"]
            due = credit if paid == 0 else credit * back // paid
            if back > paid or refund["claw_back_cents"] != due - clawed:
                yield "refunds", f"refund {refund['id']}"
            clawed = due

    def wrong_redemptions(self) -> Iterator[tuple[str, str]]:
        stands = {
            "pending": ("reserved",),
            "completed": ("redeemed", "late"),
            "refunded": ("redeemed", "late"),
            "failed": ("released",),
        }
        codes = {code["id"] for code in self.codes}
        of_orders = {use["order_id"] for use in self.redemptions}
        for order in self.orders:
            if order["discount_code_id"] is not None and order["id"] not in of_orders:
                yield "redemptions", f"order {order['id']}"
        for use in self.redemptions:
            of_order = self.order.get(use["order_id"])
            if use["order_id"] is None:
                is_right = use["status"] == "redeemed"
            elif of_order is None:
                is_right = False
            else:
                off = max(credit_of(of_order) - of_order["amount_cents"], 0)
                is_right = (
                    use["discount_code_id"] == of_order["discount_code_id"]
                    and use["account_id"] == of_order["account_id"]
                    and use["reduction_cents"] == off
                    and (
                        of_order["status"] == "lost" or use["status"] in stands[of_order["status"]]
                    )
                )
            if not is_right or use["discount_code_id"] not in codes:
                yield "redemptions", f"redemption {use['id']}"


def read(db: Database, table: str) -> list[Row]:
    names = ["id", *(column for of, column in COLUMNS if of == table), *ALSO.get(table, [])]
    return [
        dict(zip(names, row, strict=True))
        for row in rows(db, f"SELECT {', '.join(names)} FROM {table} ORDER BY id")
    ]


ALSO = {
    "account_balances": ["account_id"],
    "discount_codes": ["code"],
    "transactions": ["description"],
}


def step(line: Row) -> int:
    signs = {"credit": 1, "debit": -1, "refund": -1}
    return int(signs.get(line["transaction_type"], 0) * line["amount_cents"])


def credit_of(order: Row) -> int:
    cents = order["amount_cents"] if order["credit_cents"] is None else order["credit_cents"]
    return int(cents)
