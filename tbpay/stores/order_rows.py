"""One order as it stands in its table: found, locked for a change, changed."""

from typing import Any

import sqlalchemy as sa

from tbpay import database, schema
from tbpay.errors import NotFoundError
from tbpay.models import Order, OrderStatus, OrderType, read_time

_orders = schema.orders
_BY_ID = sa.select(_orders).where(_orders.c.id == sa.bindparam("order"))
_LOCKED = _BY_ID.with_for_update()


def get(order_id: int) -> Order | None:
    """Answer the order with this id, or None."""
    return first(_BY_ID, order=order_id)


def locked(order_id: int) -> Order:
    """Answer an order that nobody else changes before this unit ends. Raises NotFoundError."""
    order = first(_LOCKED, order=order_id)
    if order is None:
        raise NotFoundError(f"no order {order_id}")
    return order


def by(column: str, given: str) -> Order | None:
    """Answer the order that has this in a column that is unique, or None."""
    return first(sa.select(_orders).where(_orders.c[column] == given))


def changed(order_id: int, **values: Any) -> Order:
    """Change an order that is locked, and answer it."""
    change = sa.update(_orders).where(_orders.c.id == order_id).values(values)
    return order_of(database.connection().execute(change.returning(_orders)).one())


def first(statement: sa.Select[Any], **parameters: Any) -> Order | None:
    """Answer the first order of a selection, or None."""
    row = database.connection().execute(statement, parameters).first()
    return None if row is None else order_of(row)


def order_of(row: Any) -> Order:
    """Read an order from its row."""
    return Order(
        id=row.id,
        account_id=row.account_id,
        order_type=OrderType(row.order_type),
        amount_cents=row.amount_cents,
        stripe_session_id=row.stripe_session_id,
        stripe_payment_intent_id=row.stripe_payment_intent_id,
        discount_code_id=row.discount_code_id,
        status=OrderStatus(row.status),
        created_at=read_time(row.created_at),
        completed_at=None if row.completed_at is None else read_time(row.completed_at),
        credit_cents=row.amount_cents if row.credit_cents is None else row.credit_cents,
        idempotency_key=row.idempotency_key,
    )
