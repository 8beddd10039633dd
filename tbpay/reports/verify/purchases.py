"""Orders and what hangs on them: their credit, their refunds, and the uses of discount codes."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from tbpay import schema
from tbpay.models import (
    REFUND_WORDS,
    OrderStatus,
    RedemptionStatus,
    RefundPolicy,
    TransactionType,
)
from tbpay.reports.verify.looking import (
    AN_AMOUNT,
    Condition,
    Difference,
    Scope,
    Subject,
    amount,
    is_amount,
    one_of,
    timed,
    unless,
)

_codes = schema.discount_codes
_lines = schema.transactions
_orders = schema.orders
_redemptions = schema.discount_redemptions
_refunds = schema.order_refunds

_PAID = (OrderStatus.COMPLETED, OrderStatus.REFUNDED)
_LIVE = (RedemptionStatus.RESERVED, RedemptionStatus.REDEEMED)
_STANDS = {
    OrderStatus.PENDING: (RedemptionStatus.RESERVED,),
    OrderStatus.COMPLETED: (RedemptionStatus.REDEEMED, RedemptionStatus.LATE),
    OrderStatus.REFUNDED: (RedemptionStatus.REDEEMED, RedemptionStatus.LATE),
    OrderStatus.FAILED: (RedemptionStatus.RELEASED,),
}
"""How the use of a code stands, by how its order does."""
_ANY = tuple(RedemptionStatus)

_credit_cents = sa.func.coalesce(_orders.c.credit_cents, _orders.c.amount_cents)


def count(scope: Scope) -> dict[str, int]:
    """Count what there is to look at, by check."""
    return {
        "orders": scope.count(_orders),
        "refunds": scope.count(_refunds),
        "redemptions": scope.count(_redemptions),
        "codes": scope.count(_codes),
    }


def differences(scope: Scope) -> Iterator[Difference]:
    """Answer what is wrong with orders, refunds, redemptions and discount codes."""
    for orders in scope.steps(_orders.c.id):
        for order in scope.rows(_wrong_orders(orders)):
            yield from _of_order(order)
        for order in scope.rows(_lacking(orders, _refunds, _orders.c.status == "refunded")):
            this = _subject_of_status(order.account_id, order.id)
            yield this.differs("status", order.status, OrderStatus.COMPLETED)
        has_code = _orders.c.discount_code_id.is_not(None)
        for order in scope.rows(_lacking(orders, _redemptions, has_code)):
            this = Subject("redemptions", order.account_id, f"order {order.id}")
            yield this.differs("status", None, one_of(_STANDS.get(order.status, _ANY)))
    for refunds in scope.steps(_refunds.c.order_id):
        found = scope.rows(_with_orders(refunds))
        for _, of_order in groupby(found, lambda refund: refund.order_id):
            yield from _of_refunds(list(of_order))
    for line in scope.rows(_unrefunded(scope)):
        yield Subject("refunds", line.account_id, f"line {line.id}").differs("refund", None, "one")
    for redemptions in scope.steps(_redemptions.c.id):
        for redemption in scope.rows(_wrong_redemptions(redemptions)):
            yield from _of_redemption(redemption)
    for codes in scope.steps(_codes.c.id):
        for code in scope.rows(_wrong_codes(codes)):
            this = Subject("codes", None, f"code {code.code}")
            yield from this.compared("current_uses", code.current_uses, code.live)
            yield from this.timed(code, "created_at", perhaps=["starts_at", "ends_at"])


# --- orders ---


def _wrong_orders(orders: Condition) -> sa.Select[Any]:
    """Select the orders whose credit is not what it should be."""
    credit = _credits(sa.select(_orders.c.id).where(orders))
    credited_once = sa.func.coalesce(credit.c.lines, 1) == 1
    sound = sa.and_(
        amount(_orders.c.amount_cents).is_not(None),
        amount(_credit_cents).is_not(None),
        sa.case(
            {
                OrderStatus.PENDING: credited_once,
                OrderStatus.FAILED: credit.c.lines.is_(None),
            }
            | dict.fromkeys(
                _PAID,
                sa.and_(credited_once, sa.func.coalesce(credit.c.amount_cents, 0) == _credit_cents),
            ),
            value=_orders.c.status,
        ),
        timed(_orders.c.created_at, perhaps=[_orders.c.completed_at]),
    )
    return (
        sa.select(
            _orders,
            credit.c.lines.label("credit_lines"),
            credit.c.amount_cents.label("credited_cents"),
        )
        .select_from(_orders.outerjoin(credit, credit.c.order_id == _orders.c.id))
        .where(orders, unless(sound))
        .order_by(_orders.c.id)
    )


def _credits(order_ids: sa.Select[Any]) -> sa.Subquery:
    """Select how often orders were credited, and how much the first time."""
    return (
        sa.select(
            _lines.c.order_id,
            sa.func.count().label("lines"),
            sa.func.min(_lines.c.amount_cents).label("amount_cents"),
        )
        .where(
            # Written out: SQLite uses a partial index only where the condition is a literal.
            _lines.c.transaction_type == sa.text("'credit'"),
            _lines.c.order_id.is_not(None),
            _lines.c.order_id.in_(order_ids),
        )
        .group_by(_lines.c.order_id)
        .subquery("credit")
    )


def _of_order(order: Any) -> Iterator[Difference]:
    this = Subject("orders", order.account_id, f"order {order.id}")
    credit_cents = order.amount_cents if order.credit_cents is None else order.credit_cents
    for field in ("amount_cents", "credit_cents"):
        stored = getattr(order, field)
        if not is_amount(stored) and not (field == "credit_cents" and stored is None):
            yield this.differs(field, stored, AN_AMOUNT)
    if order.status not in _STANDS:
        yield this.differs("status", order.status, one_of(_STANDS))
    elif order.status == OrderStatus.FAILED:
        yield from this.compared("credited_cents", order.credited_cents, None)
    else:
        yield from this.compared("credit_lines", order.credit_lines or 1, 1)
        if order.status in _PAID and (order.credited_cents or 0) != credit_cents:
            yield this.differs("credited_cents", order.credited_cents, credit_cents)
    yield from this.timed(order, "created_at", perhaps=["completed_at"])


def _lacking(orders: Condition, table: sa.Table, should: Condition) -> sa.Select[Any]:
    """Select the orders that should have a row in a table, and have none."""
    there = sa.exists().where(table.c.order_id == _orders.c.id)
    return sa.select(_orders).where(orders, should, ~there).order_by(_orders.c.id)


# --- refunds ---


def _with_orders(refunds: Condition) -> sa.Select[Any]:
    """Select refunds, each with its order, the order's credit, and its line."""
    credit = _credits(sa.select(_refunds.c.order_id).where(refunds))
    return (
        sa.select(
            _refunds,
            _orders.c.id.label("found_order_id"),
            _orders.c.account_id,
            _orders.c.status,
            _orders.c.amount_cents.label("paid_cents"),
            credit.c.amount_cents.label("credited_cents"),
            _lines.c.id.label("line_id"),
            *(_lines.c[name].label(f"line_{name}") for name in _OF_LINE),
        )
        .select_from(
            _refunds.outerjoin(_orders, _orders.c.id == _refunds.c.order_id)
            .outerjoin(credit, credit.c.order_id == _refunds.c.order_id)
            .outerjoin(_lines, _lines.c.id == _refunds.c.transaction_id)
        )
        .where(refunds)
        .order_by(_refunds.c.order_id, _refunds.c.id)
    )


def _unrefunded(scope: Scope) -> sa.Select[Any]:
    """Select the lines that say they are of a refund that nobody knows of.

    Others may write a line of this type by hand, with words of their own.
    """
    words = sa.literal(REFUND_WORDS) + sa.cast(_lines.c.order_id, sa.String)
    return sa.select(_lines.c.id, _lines.c.account_id).where(
        scope.owns(_lines),
        _lines.c.transaction_type == TransactionType.REFUND,
        _lines.c.description == words,
        ~sa.exists().where(_refunds.c.transaction_id == _lines.c.id),
    )


_OF_LINE = ("transaction_type", "amount_cents", "account_id", "order_id")


def _of_refunds(refunds: list[Any]) -> Iterator[Difference]:
    """Answer what is wrong with the refunds of one order, oldest first."""
    for refund in refunds:
        yield from _of_refund(refund)
    order = refunds[0]
    paid_cents, credit_cents = order.paid_cents, order.credited_cents or 0
    if not all(
        map(is_amount, (paid_cents, credit_cents, *(each.amount_cents for each in refunds)))
    ):
        # What is no amount is named by itself, and has no share.
        return
    before_cents = 0
    for refund in refunds:
        this, after_cents = _subject(refund), before_cents + refund.amount_cents
        if after_cents > paid_cents:
            left_cents = max(paid_cents - before_cents, 0)
            yield this.differs("amount_cents", refund.amount_cents, f"at most {left_cents}")
        if paid_cents > 0:
            share_cents = credit_cents * after_cents // paid_cents
            share_cents -= credit_cents * before_cents // paid_cents
        else:
            share_cents = credit_cents if refund is order else 0
        yield from this.compared("claw_back_cents", refund.claw_back_cents, share_cents)
        before_cents = after_cents
    status = OrderStatus.COMPLETED if before_cents < paid_cents else OrderStatus.REFUNDED
    yield from _subject_of_status(order.account_id, order.order_id).compared(
        "status", order.status, status
    )


def _of_refund(refund: Any) -> Iterator[Difference]:
    this = _subject(refund)
    if refund.found_order_id is None:
        yield this.differs("order_id", refund.order_id, "an order")
    if not is_amount(refund.amount_cents):
        yield this.differs("amount_cents", refund.amount_cents, AN_AMOUNT)
    if refund.policy not in list(RefundPolicy):
        yield this.differs("policy", refund.policy, one_of(RefundPolicy))
    claw_back_cents, shortfall_cents = refund.claw_back_cents, refund.shortfall_cents
    if not is_amount(shortfall_cents):
        yield this.differs("shortfall_cents", shortfall_cents, AN_AMOUNT)
    elif shortfall_cents > 0 and refund.policy != RefundPolicy.AVAILABLE:
        yield this.differs("shortfall_cents", shortfall_cents, 0)
    elif is_amount(claw_back_cents) and shortfall_cents > claw_back_cents:
        yield this.differs("shortfall_cents", shortfall_cents, f"at most {claw_back_cents}")
    if is_amount(claw_back_cents) and is_amount(shortfall_cents):
        yield from _of_refund_line(refund, claw_back_cents - shortfall_cents)
    yield from this.timed(refund, "created_at")


def _of_refund_line(refund: Any, taken_cents: int) -> Iterator[Difference]:
    if taken_cents == 0:
        yield from _subject(refund).compared("transaction_id", refund.transaction_id, None)
    elif refund.line_id is None:
        yield _subject(refund).differs("transaction_id", refund.transaction_id, "a line")
    else:
        line = Subject("refunds", refund.account_id, f"line {refund.line_id}")
        yield from line.compared("account_id", refund.line_account_id, refund.account_id)
        yield from line.compared("order_id", refund.line_order_id, refund.order_id)
        kind = TransactionType.REFUND
        yield from line.compared("transaction_type", refund.line_transaction_type, kind)
        yield from line.compared("amount_cents", refund.line_amount_cents, taken_cents)


def _subject(refund: Any) -> Subject:
    return Subject("refunds", refund.account_id, f"refund {refund.id}")


def _subject_of_status(account_id: object, order_id: object) -> Subject:
    return Subject("refunds", account_id, f"order {order_id}")


# --- discount codes and their uses ---


def _wrong_redemptions(redemptions: Condition) -> sa.Select[Any]:
    """Select the uses of codes that are not what their orders say."""
    status = _redemptions.c.status
    credit_cents, charged_cents = amount(_credit_cents), amount(_orders.c.amount_cents)
    off_cents = sa.case((credit_cents > charged_cents, credit_cents - charged_cents), else_=0)
    as_its_order = sa.and_(
        _redemptions.c.discount_code_id == _orders.c.discount_code_id,
        _redemptions.c.account_id == _orders.c.account_id,
        _redemptions.c.reduction_cents == off_cents,
        sa.case(
            {order: status.in_(uses) for order, uses in _STANDS.items()}, value=_orders.c.status
        ),
    )
    has_code = sa.exists().where(_codes.c.id == _redemptions.c.discount_code_id)
    # The use of nobody's order is never given back.
    alone = sa.and_(_redemptions.c.order_id.is_(None), status == RedemptionStatus.REDEEMED)
    return (
        sa.select(
            _redemptions,
            _orders.c.account_id.label("order_account_id"),
            _orders.c.discount_code_id.label("order_code_id"),
            _orders.c.amount_cents,
            _orders.c.credit_cents,
            _orders.c.status.label("order_status"),
            _orders.c.id.label("found_order_id"),
            has_code.label("has_code"),
        )
        .select_from(_redemptions.outerjoin(_orders, _orders.c.id == _redemptions.c.order_id))
        .where(
            redemptions,
            unless(
                sa.and_(sa.or_(alone, as_its_order), has_code, timed(_redemptions.c.created_at))
            ),
        )
        .order_by(_redemptions.c.id)
    )


def _of_redemption(redemption: Any) -> Iterator[Difference]:
    account_id = redemption.order_account_id or redemption.account_id
    this = Subject("redemptions", account_id, f"redemption {redemption.id}")
    yield from this.timed(redemption, "created_at")
    if not redemption.has_code:
        yield this.differs("discount_code_id", redemption.discount_code_id, "a code")
    if redemption.order_id is None:
        yield from this.compared("status", redemption.status, RedemptionStatus.REDEEMED)
        return
    if redemption.found_order_id is None:
        yield this.differs("order_id", redemption.order_id, "an order")
        return
    yield from this.compared(
        "discount_code_id", redemption.discount_code_id, redemption.order_code_id
    )
    yield from this.compared("account_id", redemption.account_id, redemption.order_account_id)
    charged_cents, credit_cents = redemption.amount_cents, redemption.credit_cents
    if credit_cents is None:
        credit_cents = charged_cents
    if is_amount(charged_cents) and is_amount(credit_cents):
        off_cents = max(credit_cents - charged_cents, 0)
        yield from this.compared("reduction_cents", redemption.reduction_cents, off_cents)
    uses = _STANDS.get(redemption.order_status, ())
    if uses and redemption.status not in uses:
        yield this.differs("status", redemption.status, one_of(uses))


def _wrong_codes(codes: Condition) -> sa.Select[Any]:
    """Select the codes whose counter is not the number of uses that are reserved or redeemed."""
    live = (
        sa.select(sa.func.count())
        .where(_redemptions.c.discount_code_id == _codes.c.id, _redemptions.c.status.in_(_LIVE))
        .scalar_subquery()
    )
    sound = sa.and_(
        _codes.c.current_uses == live,
        timed(_codes.c.created_at, perhaps=[_codes.c.starts_at, _codes.c.ends_at]),
    )
    return sa.select(_codes, live.label("live")).where(codes, unless(sound)).order_by(_codes.c.id)
