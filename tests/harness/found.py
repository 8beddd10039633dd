"""What stands in the database, read from outside the stores, as plain values."""

import time
from dataclasses import dataclass, fields
from typing import TypeVar

from databases import Database

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    id: int
    account_id: int
    order_id: int | None
    transaction_type: str
    amount_cents: int
    balance_after_cents: int
    description: str
    account_version: int
    idempotency_key: str | None

    @property
    def step_cents(self) -> int:
        return self.amount_cents if self.transaction_type == "credit" else -self.amount_cents


@dataclass(frozen=True)
class Charge:
    transaction_id: int
    account_id: int
    phone: str
    country_code: str
    segments: int
    rate_micros: int
    cost_micros: int
    subcent_after_micros: int
    gives_back_id: int | None

    @property
    def step_micros(self) -> int:
        return -self.cost_micros if self.gives_back_id is None else self.cost_micros


@dataclass(frozen=True)
class Balance:
    account_id: int
    balance_cents: int
    subcent_micros: int
    account_version: int


@dataclass(frozen=True)
class Order:
    id: int
    account_id: int
    order_type: str
    amount_cents: int
    credit_cents: int
    stripe_session_id: str
    stripe_payment_intent_id: str | None
    discount_code_id: int | None
    status: str
    idempotency_key: str | None


@dataclass(frozen=True)
class Refund:
    id: int
    order_id: int
    amount_cents: int
    claw_back_cents: int
    shortfall_cents: int
    policy: str
    transaction_id: int | None
    reason: str


@dataclass(frozen=True)
class Code:
    id: int
    code: str
    discount_type: str
    discount_value: int
    max_uses: int | None
    current_uses: int
    per_account: int | None


@dataclass(frozen=True)
class Redemption:
    id: int
    discount_code_id: int
    order_id: int | None
    account_id: int | None
    reduction_cents: int
    status: str

    @property
    def is_live(self) -> bool:
        return self.status in ("reserved", "redeemed")


@dataclass(frozen=True)
class Found:
    """All of it, oldest first."""

    lines: list[Line]
    charges: list[Charge]
    balances: list[Balance]
    orders: list[Order]
    refunds: list[Refund]
    codes: list[Code]
    redemptions: list[Redemption]


def read(db: Database) -> Found:
    """Read everything, once nobody is at work any more."""
    _wait_for_the_last(db)
    return Found(
        _all(db, Line, "transactions"),
        _all(db, Charge, "sms_charges"),
        _all(db, Balance, "account_balances"),
        _all(db, Order, "orders"),
        _all(db, Refund, "order_refunds"),
        _all(db, Code, "discount_codes"),
        _all(db, Redemption, "discount_redemptions"),
    )


def _all(db: Database, kind: type[T], table: str) -> list[T]:
    columns = ", ".join(field.name for field in fields(kind))  # type: ignore[arg-type]
    return [kind(*row) for row in db.rows(f"SELECT {columns} FROM {table} ORDER BY id")]


def _wait_for_the_last(db: Database) -> None:
    """PostgreSQL may still be committing for a client that is dead."""
    if db.dialect == "sqlite":
        return
    at_work = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    deadline = time.monotonic() + 30
    while db.rows(f"{at_work} AND pid <> pg_backend_pid()") != [(0,)]:
        assert time.monotonic() < deadline, "somebody is still at work"
        time.sleep(0.02)
