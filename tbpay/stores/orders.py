"""Orders: one purchase from pending to completed or failed, and the money that moves with it."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from tbpay import database, schema
from tbpay.database import atomically, snapshot
from tbpay.errors import ConflictError, RefusedError, excerpt
from tbpay.models import (
    Order,
    OrderStatus,
    OrderType,
    Page,
    RedemptionStatus,
    Refund,
    RefundPolicy,
    amount,
    idempotency_key,
    identifier,
    moment,
    stripe_id,
    text,
    time_text,
    word,
)
from tbpay.stores import accounts, order_rows, redemptions, refunds, trail
from tbpay.stores.balances import balance_store
from tbpay.stores.keys import TakenError, key_columns, require_same
from tbpay.stores.order_rows import order_of
from tbpay.stores.paging import page, place

_orders = schema.orders
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
        key: str | None = None,
    ) -> Order:
        """Create a pending order of 1 … 99,999,999 cents before the discount.

        With a ``code`` it is priced and takes the use, in the same unit; brought to 0 it is
        completed and credited at once. With a ``key``, 8–255 printable ASCII characters, the same
        call again answers the order that the first one made. Raises NotFoundError for an unknown
        account or code, RefusedError for a code that cannot be used, ConflictError for a session
        or payment intent that another order has, or a key that was used for something else.
        """
        return self.create_or_replay(
            account_id,
            order_type,
            amount_cents,
            code=code,
            stripe_session_id=stripe_session_id,
            stripe_payment_intent_id=stripe_payment_intent_id,
            key=key,
        )[0]

    def create_or_replay(
        self,
        account_id: int,
        order_type: OrderType | str,
        amount_cents: int,
        *,
        code: str | None = None,
        stripe_session_id: str | None = None,
        stripe_payment_intent_id: str | None = None,
        key: str | None = None,
    ) -> tuple[Order, bool]:
        """Do what ``create`` does, and tell whether the key had made the order already."""
        identifier(account_id, "account_id")
        kind = word(OrderType, order_type, "order_type")
        amount(amount_cents)
        name = None if code is None else redemptions.name_of(code)
        if stripe_session_id is not None:
            stripe_id(stripe_session_id, "stripe_session_id")
        if stripe_payment_intent_id is not None:
            stripe_id(stripe_payment_intent_id, "stripe_payment_intent_id")
        if key is not None:
            idempotency_key(key)
        values = {
            "account_id": account_id,
            "order_type": kind,
            "credit_cents": amount_cents,
            "stripe_session_id": stripe_session_id,
            "stripe_payment_intent_id": stripe_payment_intent_id,
            **key_columns(key, "order", account_id, kind, amount_cents, name),
        }
        try:
            return atomically(lambda: _create(values, code), repeatable=key is not None)
        except TakenError:
            # Another unit was quicker: what it made can be seen in a new one.
            return atomically(lambda: _require_made(values)), True
        except (RefusedError, ConflictError):
            # What stands in the way may be the very order that the key made a moment ago.
            if key is None or (made := atomically(lambda: _keyed(values))) is None:
                raise
            return made, True

    def get_by_id(self, order_id: int) -> Order | None:
        """Answer the order with this id, or None."""
        identifier(order_id, "order_id")
        with snapshot():
            return order_rows.get(order_id)

    def get_by_stripe_session(self, session_id: str) -> Order | None:
        """Answer the order that a Checkout session is of, or None."""
        stripe_id(session_id, "session_id")
        with snapshot():
            return order_rows.by("stripe_session_id", session_id)

    def get_by_account_id(self, account_id: int) -> list[Order]:
        """Answer an account's orders, newest first; none for an account that does not exist."""
        identifier(account_id, "account_id")
        own = sa.select(_orders).where(_orders.c.account_id == account_id)
        with snapshot() as connection:
            return [order_of(row) for row in connection.execute(own.order_by(_orders.c.id.desc()))]

    def attach_session(self, order_id: int, session_id: str) -> Order:
        """Note the Checkout session of an order, which exists only after the order.

        Raises NotFoundError, and ConflictError where the order has another session, or the session
        another order.
        """
        identifier(order_id, "order_id")
        stripe_id(session_id, "session_id")
        return atomically(
            lambda: _attach(order_rows.locked(order_id), "stripe_session_id", session_id),
            repeatable=True,
        )

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

    def refund(
        self,
        order_id: int,
        *,
        amount_cents: int | None = None,
        policy: RefundPolicy | str = RefundPolicy.REFUSE,
        stripe_refund_id: str | None = None,
        reason: str | None = None,
        key: str | None = None,
    ) -> Order:
        """Record a refund of a completed order and take back its share of the credit.

        See ``record_refund``, which answers the refund; this answers the order, ``refunded`` once
        all that was paid has gone back.
        """
        return self.record_refund(
            order_id,
            amount_cents=amount_cents,
            policy=policy,
            stripe_refund_id=stripe_refund_id,
            reason=reason,
            key=key,
        )[0]

    def record_refund(
        self,
        order_id: int,
        *,
        amount_cents: int | None = None,
        policy: RefundPolicy | str = RefundPolicy.REFUSE,
        stripe_refund_id: str | None = None,
        reason: str | None = None,
        key: str | None = None,
    ) -> tuple[Order, Refund]:
        """Record that 1 cent … all that is left of what was paid went back; None is all.

        The claw-back of the parts adds up to the order's credit: each takes what its amount brings
        it to, rounded down. Where the balance has less, ``refuse`` refuses, ``available`` takes
        what there is and notes the shortfall, and ``negative`` takes the balance below zero. An
        order that cost nothing gives back its whole credit. A use of a discount code stays used.

        The same key, or the same Stripe refund, order and amount again answers the first refund,
        marked ``replayed``; so does everything again once everything is refunded. Raises
        NotFoundError, RefusedError for more than is left, and ConflictError for an order that is
        not completed, or a key or Stripe refund that was used for something else.
        """
        identifier(order_id, "order_id")
        if amount_cents is not None:
            amount(amount_cents)
        how = word(RefundPolicy, policy, "policy")
        if stripe_refund_id is not None:
            stripe_id(stripe_refund_id, "stripe_refund_id")
        if reason is not None:
            text(reason, "reason")
        if key is not None:
            idempotency_key(key)
        asked = refunds.Asked(order_id, amount_cents, how, stripe_refund_id, reason, key)
        try:
            return atomically(lambda: refunds.record(asked), repeatable=asked.is_repeatable)
        except TakenError:
            # The refund of another order took the key or the Stripe refund at the same moment.
            return atomically(lambda: refunds.record(asked))

    def refunds(self, order_id: int) -> list[Refund]:
        """Answer the refunds of an order, oldest first."""
        identifier(order_id, "order_id")
        with snapshot():
            return refunds.of_order(order_id)

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
        intent_id = stripe_payment_intent_id
        return atomically(lambda: _move(order_id, target, intent_id), repeatable=True)

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
            return page(order_of, sa.select(_orders).where(*wanted), _orders.c.id, here)


order_store = OrderStore()


def _create(values: dict[str, Any], code: str | None) -> tuple[Order, bool]:
    account_id, amount_cents = values["account_id"], values["credit_cents"]
    accounts.require(account_id)
    if (made := _made(values)) is not None:
        return made, True
    discount = None
    if code is not None:
        discount = redemptions.usable(code, amount_cents, account_id)
        amount_cents = redemptions.charged_cents(discount, amount_cents)
    now = time_text(datetime.now(UTC))
    free = amount_cents == 0
    row = values | {
        "amount_cents": amount_cents,
        "discount_code_id": None if discount is None else discount.id,
        "status": OrderStatus.COMPLETED if free else OrderStatus.PENDING,
        "created_at": now,
        "completed_at": now if free else None,
    }
    new = database.insert_if_absent(_orders).returning(_orders)
    inserted = database.connection().execute(new, row).first()
    if inserted is None:
        raise TakenError
    order = order_of(inserted)
    if discount is not None:
        redemptions.redeem(
            discount,
            RedemptionStatus.REDEEMED if free else RedemptionStatus.RESERVED,
            amount_cents=order.credit_cents,
            reduction_cents=order.credit_cents - order.amount_cents,
            order_id=order.id,
            account_id=account_id,
        )
    if free:
        _credit(order)
    return order, False


def _made(values: dict[str, Any]) -> Order | None:
    """Answer the order that the key has made already, and refuse ids that another order has."""
    if values["idempotency_key"] is not None and (made := _keyed(values)) is not None:
        return made
    for column in ("stripe_session_id", "stripe_payment_intent_id"):
        _refuse_taken(column, values[column])
    return None


def _keyed(values: dict[str, Any]) -> Order | None:
    keyed = sa.select(_orders).where(_orders.c.idempotency_key == values["idempotency_key"])
    row = database.connection().execute(keyed).first()
    if row is None:
        return None
    require_same(row, values["idempotency_hash"], f"order {row.id}")
    return order_of(row)


def _require_made(values: dict[str, Any]) -> Order:
    made = _made(values)
    assert made is not None  # noqa: S101 - an order is never deleted
    return made


def _move(order_id: int, target: OrderStatus, intent_id: str | None) -> Order:
    order = order_rows.locked(order_id)
    if order.status is not target:
        match order.status, target:
            case OrderStatus.PENDING, OrderStatus.COMPLETED:
                if order.discount_code_id is not None:
                    redemptions.keep_use(order_id)
            case OrderStatus.FAILED, OrderStatus.COMPLETED:
                _require_late_payment(order, intent_id)
                if order.discount_code_id is not None:
                    redemptions.take_use_again(order_id, order.discount_code_id)
            case OrderStatus.PENDING, OrderStatus.FAILED:
                if trail.credit_of(order_id) is not None:
                    raise ConflictError(
                        f"order {order_id} has its credit: it can only be completed",
                        hint=database.location().command(f"order complete {order_id}"),
                    )
                if order.discount_code_id is not None:
                    redemptions.release_use(order_id, order.discount_code_id)
            case OrderStatus.COMPLETED, OrderStatus.REFUNDED:
                order, _ = refunds.record(refunds.Asked(order_id))
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
    moved = order_rows.changed(order_id, status=target, **done_at)
    if completes:
        _credit(moved)
    return moved


def _require_late_payment(order: Order, intent_id: str | None) -> None:
    if intent_id is None:
        raise ConflictError(
            f"order {order.id} has failed: only a late payment completes it",
            hint=database.location().command(f"order complete {order.id} --payment-intent pi_…"),
        )


def _attach(order: Order, column: str, given: str) -> Order:
    """Fill in an id of Stripe's that was missing; the same again changes nothing."""
    held = getattr(order, column)
    if held == given:
        return order
    what = _WHAT[column]
    if held is not None:
        raise ConflictError(
            f"order {order.id} has the {what} {excerpt(held)}, not {excerpt(given)}"
        )
    _refuse_taken(column, given)
    try:
        # A part of its own: another unit may take the id between the look and the change.
        with database.unit_of_work():
            return order_rows.changed(order.id, **{column: given})
    except sa.exc.IntegrityError as error:
        _refuse_taken(column, given)
        raise ConflictError(f"another order has the {what} {excerpt(given)} already") from error


_WHAT = {"stripe_session_id": "session", "stripe_payment_intent_id": "payment intent"}


def _refuse_taken(column: str, given: str | None) -> None:
    other = None if given is None else order_rows.by(column, given)
    if other is not None:
        raise ConflictError(f"order {other.id} has the {_WHAT[column]} {excerpt(given)} already")


def _credit(order: Order) -> None:
    # An adopted order may be of nothing; then there is no line to write.
    if order.credit_cents > 0:
        balance_store.add_credits(
            order.account_id, order.credit_cents, _LINE_OF[order.order_type], order_id=order.id
        )
