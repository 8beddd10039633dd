"""Orders: one purchase from pending to completed or failed, and the money that moves with it."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from tbpay import database, schema
from tbpay.database import atomically, snapshot
from tbpay.errors import ConflictError, NotFoundError, excerpt
from tbpay.models import (
    Order,
    OrderStatus,
    OrderType,
    Page,
    amount,
    identifier,
    moment,
    read_time,
    stripe_id,
    time_text,
    word,
)
from tbpay.stores import accounts, discounts
from tbpay.stores.balances import balance_store, credit_of
from tbpay.stores.paging import page, place

_orders = schema.orders
_BY_ID = sa.select(_orders).where(_orders.c.id == sa.bindparam("order"))
_LINE_OF = {OrderType.INITIAL_ACCESS: "Initial purchase", OrderType.TOP_UP: "Top-up"}


class OrderStore:
    """Create orders, find them, and move them on. A move carries its money, whoever calls."""

    def create(
        self,
        account_id: int,
        order_type: OrderType | str,
        amount_cents: int,
        *,
        code: str | None = None,
        stripe_session_id: str | None = None,
        stripe_payment_intent_id: str | None = None,
    ) -> Order:
        """Create a pending order of 1 … 99,999,999 cents before the discount.

        With a ``code`` it is priced and takes the use, in the same unit; brought to 0 it is
        completed and credited at once. Raises NotFoundError for an unknown account or code,
        RefusedError for a code that cannot be used, ConflictError for a session or payment intent
        that another order has.
        """
        identifier(account_id, "account_id")
        kind = word(OrderType, order_type, "order_type")
        amount(amount_cents)
        if code is not None:
            discounts.name_of(code)
        if stripe_session_id is not None:
            stripe_id(stripe_session_id, "stripe_session_id")
        if stripe_payment_intent_id is not None:
            stripe_id(stripe_payment_intent_id, "stripe_payment_intent_id")
        values = {
            "account_id": account_id,
            "order_type": kind,
            "credit_cents": amount_cents,
            "stripe_session_id": stripe_session_id,
            "stripe_payment_intent_id": stripe_payment_intent_id,
        }
        return atomically(lambda: _create(values, code))

    def get_by_id(self, order_id: int) -> Order | None:
        """Answer the order with this id, or None."""
        identifier(order_id, "order_id")
        with snapshot():
            return _first(_BY_ID, order=order_id)

    def get_by_stripe_session(self, session_id: str) -> Order | None:
        """Answer the order that a Checkout session is of, or None."""
        stripe_id(session_id, "session_id")
        with snapshot():
            return _by("stripe_session_id", session_id)

    def get_by_account_id(self, account_id: int) -> list[Order]:
        """Answer an account's orders, newest first; none for an account that does not exist."""
        identifier(account_id, "account_id")
        own = sa.select(_orders).where(_orders.c.account_id == account_id)
        with snapshot() as connection:
            return [_order(row) for row in connection.execute(own.order_by(_orders.c.id.desc()))]

    def attach_session(self, order_id: int, session_id: str) -> Order:
        """Note the Checkout session of an order, which exists only after the order.

        Raises NotFoundError, and ConflictError where the order has another session, or the session
        another order.
        """
        identifier(order_id, "order_id")
        stripe_id(session_id, "session_id")
        return atomically(lambda: _attach(_locked(order_id), "stripe_session_id", session_id))

    def complete(self, order_id: int, *, payment_intent_id: str | None = None) -> Order:
        """Complete an order: credit its account, once, however often this is called.

        A failed order completes only with the payment intent of the late payment; it takes its
        code's use again if one is left, and completes all the same. Raises NotFoundError, and
        ConflictError for an order that was refunded or has another payment intent.
        """
        return self.update_status(
            order_id, OrderStatus.COMPLETED, stripe_payment_intent_id=payment_intent_id
        )

    def fail(self, order_id: int) -> Order:
        """Fail a pending order and give its code's use back.

        Raises NotFoundError, and ConflictError for an order that completed or has its credit.
        """
        return self.update_status(order_id, OrderStatus.FAILED)

    def update_status(
        self,
        order_id: int,
        status: OrderStatus | str,
        *,
        stripe_payment_intent_id: str | None = None,
    ) -> Order:
        """Move an order by the name of its next status, with the same money as the verbs.

        The same status again changes nothing and succeeds, but for a payment intent that was
        missing. Raises NotFoundError, and ConflictError for any move that is not one.
        """
        identifier(order_id, "order_id")
        target = word(OrderStatus, status, "status")
        if stripe_payment_intent_id is not None:
            stripe_id(stripe_payment_intent_id, "payment_intent_id")
        return atomically(lambda: _move(order_id, target, stripe_payment_intent_id))

    def find(
        self,
        *,
        account_id: int | None = None,
        status: OrderStatus | str | None = None,
        order_type: OrderType | str | None = None,
        payment_intent_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = 50,
        cursor: str | None = None,
    ) -> Page[Order]:
        """List orders, newest first, created from ``since`` up to but not at ``until``.

        Raises NotFoundError for an unknown account.
        """
        wanted: list[sa.ColumnElement[bool]] = []
        if account_id is not None:
            wanted.append(_orders.c.account_id == identifier(account_id, "account_id"))
        if status is not None:
            wanted.append(_orders.c.status == word(OrderStatus, status, "status"))
        if order_type is not None:
            wanted.append(_orders.c.order_type == word(OrderType, order_type, "order_type"))
        if payment_intent_id is not None:
            given = stripe_id(payment_intent_id, "payment_intent_id")
            wanted.append(_orders.c.stripe_payment_intent_id == given)
        if since is not None:
            wanted.append(_orders.c.created_at >= time_text(moment(since, "since")))
        if until is not None:
            wanted.append(_orders.c.created_at < time_text(moment(until, "until")))
        here = place("orders", limit, cursor)
        with snapshot():
            if account_id is not None:
                accounts.require(account_id)
            return page(_order, sa.select(_orders).where(*wanted), _orders.c.id, here)


order_store = OrderStore()


def _create(values: dict[str, Any], code: str | None) -> Order:
    accounts.require(values["account_id"])
    for column in ("stripe_session_id", "stripe_payment_intent_id"):
        _refuse_taken(column, values[column])
    amount_cents, code_id = values["credit_cents"], None
    if code is not None:
        discount = discounts.take_use(code)
        amount_cents -= discounts.reduction_cents(discount, amount_cents)
        code_id = discount.id
    now = time_text(datetime.now(UTC))
    free = amount_cents == 0
    row = values | {
        "amount_cents": amount_cents,
        "discount_code_id": code_id,
        "status": OrderStatus.COMPLETED if free else OrderStatus.PENDING,
        "created_at": now,
        "completed_at": now if free else None,
    }
    new = sa.insert(_orders).returning(_orders)
    order = _order(database.connection().execute(new, row).one())
    if free:
        _credit(order)
    return order


def _move(order_id: int, target: OrderStatus, intent_id: str | None) -> Order:
    order = _locked(order_id)
    if order.status is not target:
        match order.status, target:
            case OrderStatus.PENDING, OrderStatus.COMPLETED:
                pass
            case OrderStatus.FAILED, OrderStatus.COMPLETED:
                _require_late_payment(order, intent_id)
                if order.discount_code_id is not None:
                    discounts.take_use_again(order.discount_code_id)
            case OrderStatus.PENDING, OrderStatus.FAILED:
                if credit_of(order_id) is not None:
                    raise ConflictError(
                        f"order {order_id} has its credit: it can only be completed",
                        hint=database.location().command(f"order complete {order_id}"),
                    )
                if order.discount_code_id is not None:
                    discounts.give_use_back(order.discount_code_id)
            case _:
                raise ConflictError(
                    f"order {order_id} is {order.status}: it cannot become {target}"
                )
    if intent_id is not None:
        order = _attach(order, "stripe_payment_intent_id", intent_id)
    if order.status is target:
        return order
    completes = target is OrderStatus.COMPLETED
    done_at = {"completed_at": time_text(datetime.now(UTC))} if completes else {}
    moved = _changed(order_id, status=target, **done_at)
    if completes:
        _credit(moved)
    return moved


def _require_late_payment(order: Order, intent_id: str | None) -> None:
    if intent_id is None:
        raise ConflictError(
            f"order {order.id} has failed: only a late payment completes it",
            hint=database.location().command(f"order complete {order.id} --payment-intent pi_…"),
        )


def _credit(order: Order) -> None:
    # An adopted order may be of nothing; then there is no line to write.
    if order.credit_cents > 0:
        balance_store.add_credits(
            order.account_id, order.credit_cents, _LINE_OF[order.order_type], order_id=order.id
        )


def _attach(order: Order, column: str, given: str) -> Order:
    """Fill in an id of Stripe's that was missing; the same again changes nothing."""
    held = getattr(order, column)
    if held == given:
        return order
    if held is not None:
        what = _WHAT[column]
        raise ConflictError(
            f"order {order.id} has the {what} {excerpt(held)}, not {excerpt(given)}"
        )
    _refuse_taken(column, given)
    return _changed(order.id, **{column: given})


_WHAT = {"stripe_session_id": "session", "stripe_payment_intent_id": "payment intent"}


def _refuse_taken(column: str, given: str | None) -> None:
    other = None if given is None else _by(column, given)
    if other is not None:
        raise ConflictError(f"order {other.id} has the {_WHAT[column]} {excerpt(given)} already")


def _changed(order_id: int, **values: Any) -> Order:
    changed = sa.update(_orders).where(_orders.c.id == order_id).values(values)
    return _order(database.connection().execute(changed.returning(_orders)).one())


def _locked(order_id: int) -> Order:
    order = _first(_BY_ID.with_for_update(), order=order_id)
    if order is None:
        raise NotFoundError(f"no order {order_id}")
    return order


def _by(column: str, given: str) -> Order | None:
    return _first(sa.select(_orders).where(_orders.c[column] == given))


def _first(statement: sa.Select[Any], **parameters: Any) -> Order | None:
    row = database.connection().execute(statement, parameters).first()
    return None if row is None else _order(row)


def _order(row: Any) -> Order:
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
    )
