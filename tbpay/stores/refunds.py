"""Refunds: money that went back for an order, and the share of its credit that went with it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from tbpay import database, schema
from tbpay.errors import Code, ConflictError, RefusedError, excerpt
from tbpay.models import (
    MAX_ID,
    REFUND_WORDS,
    Order,
    OrderStatus,
    Refund,
    RefundPolicy,
    TransactionType,
    read_time,
    time_text,
)
from tbpay.money import show_cents
from tbpay.stores import order_rows, trail
from tbpay.stores.balances import balance_store
from tbpay.stores.keys import TakenError, key_columns, require_same

_refunds = schema.order_refunds


@dataclass(frozen=True)
class Asked:
    """What a refund is to be."""

    order_id: int
    amount_cents: int | None = None
    policy: RefundPolicy = RefundPolicy.REFUSE
    stripe_refund_id: str | None = None
    reason: str | None = None
    key: str | None = None

    @property
    def is_repeatable(self) -> bool:
        """Whether the same call again finds out that it was made: by a name, or nothing is left."""
        return self.amount_cents is None or (self.key or self.stripe_refund_id) is not None

    @property
    def key_columns(self) -> dict[str, str | None]:
        """The two columns that record its key, if it has one."""
        return key_columns(self.key, "refund", self.order_id, self.amount_cents, self.policy)


def record(asked: Asked) -> tuple[Order, Refund]:
    """Write a refund down within the unit that is open, and take back its share of the credit.

    Raises as ``OrderStore.record_refund`` does, and TakenError where another unit has just used
    the key or the Stripe refund.
    """
    order = order_rows.locked(asked.order_id)
    if (replayed := _refunded(asked, order)) is not None:
        return order, replace(replayed, replayed=True)
    if order.status is not OrderStatus.COMPLETED:
        raise ConflictError(f"order {order.id} is {order.status}: there is nothing to refund")
    paid_cents = order.amount_cents
    before_cents = _refunded_cents(order)
    left_cents = paid_cents - before_cents
    amount_cents = left_cents if asked.amount_cents is None else asked.amount_cents
    if amount_cents > left_cents:
        raise RefusedError(
            f"order {order.id} has {show_cents(left_cents)} of {show_cents(paid_cents)} left to"
            f" refund, not {show_cents(amount_cents)}"
        )
    after_cents = before_cents + amount_cents
    claw_back_cents = _clawed(order, after_cents) - _clawed(order, before_cents)
    if paid_cents == 0:
        claw_back_cents = _credited_cents(order)
    taken_cents = _takable(order, asked.policy, claw_back_cents)
    line = None
    if taken_cents > 0:
        line = balance_store.record_transaction(
            order.account_id,
            TransactionType.REFUND,
            taken_cents,
            f"{REFUND_WORDS}{order.id}",
            order_id=order.id,
            allow_negative=asked.policy is RefundPolicy.NEGATIVE,
        )
    row = {
        "order_id": order.id,
        "amount_cents": amount_cents,
        "claw_back_cents": claw_back_cents,
        "shortfall_cents": claw_back_cents - taken_cents,
        "policy": asked.policy,
        "stripe_refund_id": asked.stripe_refund_id,
        "transaction_id": None if line is None else line.id,
        "reason": asked.reason,
        "created_at": time_text(datetime.now(UTC)),
        **asked.key_columns,
    }
    new = database.insert_if_absent(_refunds).returning(_refunds)
    written = database.connection().execute(new, row).first()
    if written is None:
        raise TakenError
    if after_cents == paid_cents:
        order = order_rows.changed(order.id, status=OrderStatus.REFUNDED)
    return order, _refund_of(written)


def of_order(order_id: int) -> list[Refund]:
    """Answer the refunds of an order, oldest first."""
    own = sa.select(_refunds).where(_refunds.c.order_id == order_id)
    found = database.connection().execute(own.order_by(_refunds.c.id))
    return [_refund_of(row) for row in found]


def _refunded(asked: Asked, order: Order) -> Refund | None:
    """Answer the refund that was asked for before, or refuse what was used for another."""
    connection = database.connection()
    if asked.key is not None:
        keyed = sa.select(_refunds).where(_refunds.c.idempotency_key == asked.key)
        row = connection.execute(keyed).first()
        if row is not None:
            used_for = f"a refund of {show_cents(row.amount_cents)}, order {row.order_id}"
            require_same(row, asked.key_columns["idempotency_hash"], used_for)
            if asked.stripe_refund_id not in (None, row.stripe_refund_id):
                raise ConflictError(
                    f"the key {excerpt(asked.key)} was used for {used_for}, with another refund of"
                    f" Stripe's than {excerpt(asked.stripe_refund_id)}",
                    code=Code.KEY_REUSED,
                )
            return _refund_of(row)
    if asked.stripe_refund_id is not None:
        known = sa.select(_refunds).where(_refunds.c.stripe_refund_id == asked.stripe_refund_id)
        row = connection.execute(known).first()
        if row is not None:
            _require_same_refund(asked, order, row)
            return _refund_of(row)
    elif asked.amount_cents is None and order.status is OrderStatus.REFUNDED:
        last = sa.select(_refunds).where(_refunds.c.order_id == order.id)
        row = connection.execute(last.order_by(_refunds.c.id.desc()).limit(1)).first()
        return None if row is None else _refund_of(row)
    return None


def _require_same_refund(asked: Asked, order: Order, row: Any) -> None:
    """Raise ConflictError unless Stripe's refund was of this order and amount; None is the rest."""
    amount_cents = asked.amount_cents
    if amount_cents is None:
        amount_cents = order.amount_cents - _refunded_cents(order, before_id=row.id)
    if (row.order_id, row.amount_cents) != (order.id, amount_cents):
        raise ConflictError(
            f"the refund {excerpt(row.stripe_refund_id)} is recorded as"
            f" {show_cents(row.amount_cents)} of order {row.order_id}, not as"
            f" {show_cents(amount_cents)} of order {order.id}"
        )


def _refunded_cents(order: Order, before_id: int = MAX_ID) -> int:
    """Answer how much of an order went back, by all of its refunds or by those before one."""
    own = sa.select(sa.func.coalesce(sa.func.sum(_refunds.c.amount_cents), 0)).where(
        _refunds.c.order_id == order.id, _refunds.c.id < before_id
    )
    return int(database.connection().execute(own).scalar_one())


def _clawed(order: Order, refunded_cents: int) -> int:
    """Answer the share of the credit that goes back with so much of what was paid."""
    if order.amount_cents == 0:
        return 0
    return _credited_cents(order) * refunded_cents // order.amount_cents


def _credited_cents(order: Order) -> int:
    credit = trail.credit_of(order.id)
    return 0 if credit is None else credit.amount_cents


def _takable(order: Order, policy: RefundPolicy, claw_back_cents: int) -> int:
    """Answer how much of a claw-back the policy takes off the balance, which stays locked."""
    if policy is RefundPolicy.NEGATIVE or claw_back_cents == 0:
        return claw_back_cents
    left_cents = trail.locked(order.account_id).balance_cents
    if policy is RefundPolicy.AVAILABLE:
        return min(claw_back_cents, max(left_cents, 0))
    if left_cents < claw_back_cents:
        spent_cents = claw_back_cents - max(left_cents, 0)
        raise RefusedError(
            f"order {order.id} was paid with {show_cents(order.amount_cents)}:"
            f" {show_cents(spent_cents)} of the {show_cents(claw_back_cents)} to take back is"
            f" spent, {show_cents(left_cents)} is left",
            code=Code.INSUFFICIENT_BALANCE,
            hint=database.location().command(
                f"order refund {order.id} --policy available, or negative"
            ),
        )
    return claw_back_cents


def _refund_of(row: Any) -> Refund:
    return Refund(
        id=row.id,
        order_id=row.order_id,
        amount_cents=row.amount_cents,
        claw_back_cents=row.claw_back_cents,
        shortfall_cents=row.shortfall_cents,
        policy=RefundPolicy(row.policy),
        stripe_refund_id=row.stripe_refund_id,
        transaction_id=row.transaction_id,
        reason=row.reason,
        idempotency_key=row.idempotency_key,
        created_at=read_time(row.created_at),
    )
