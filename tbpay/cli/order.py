"""``tbpay order``."""

from typing import Annotated, Any

from tbpay import models
from tbpay.cli.change import change, confirm
from tbpay.cli.exits import UsageError
from tbpay.cli.options import (
    AccountName,
    Amount,
    PaymentIntent,
    Since,
    StripeSession,
    Until,
    argument,
    chosen,
    command,
    group,
    option,
    show,
)
from tbpay.cli.parsers import AccountRef, parse_account, parse_id
from tbpay.errors import NotFoundError, excerpt
from tbpay.models import Order, OrderStatus, OrderType

app = group("Orders: what customers buy, from pending to completed.")

COLUMNS = (
    "id",
    "account_id",
    "order_type",
    "status",
    "amount_cents",
    "credit_cents",
    "created_at",
    "completed_at",
)


def parse_type(given: str) -> OrderType:
    """Read what an order buys."""
    return models.word(OrderType, given, "the type")


def parse_status(given: str) -> OrderStatus:
    """Read where an order stands."""
    return models.word(OrderStatus, given, "the status")


OrderId = Annotated[int | None, argument(parse_id, "ID", "The order's id.")]


@command(
    app,
    "create",
    "tbpay order create 7 --type top_up --amount 25",
    "tbpay order create 7 --type initial_access --amount 10 --code LAUNCH10",
    changes=True,
)
def create(
    account: AccountName,
    order_type: Annotated[
        OrderType, option("--type", parse_type, "TYPE", "initial_access or top_up.")
    ],
    amount: Amount,
    code: Annotated[
        str | None, option("--code", models.discount_code, "CODE", "A discount code to take.")
    ] = None,
    stripe_session: StripeSession = None,
) -> None:
    """Create a pending order; --amount is before the discount."""
    from tbpay.stores import order_store

    number = account.find()
    show(
        change(
            "order create",
            lambda order: f"order {order.id}",
            lambda: order_store.create(
                number, order_type, amount, code=code, stripe_session_id=stripe_session
            ),
            detail=lambda order: {
                "account_id": order.account_id,
                "amount_cents": order.amount_cents,
                "credit_cents": order.credit_cents,
                "code": code,
            },
            undo=lambda order: (
                f"order fail {order.id}" if order.status is OrderStatus.PENDING else None
            ),
        )
    )


@command(
    app,
    "list",
    "tbpay order list --status pending --since 7d",
    "tbpay order list --account 7 --all -o csv",
    lists=True,
)
def list_(
    account: Annotated[
        AccountRef | None, option("--account", parse_account, "A", "Only this account's.")
    ] = None,
    status: Annotated[
        OrderStatus | None,
        option("--status", parse_status, "S", "pending, completed, failed or refunded."),
    ] = None,
    order_type: Annotated[
        OrderType | None, option("--type", parse_type, "T", "initial_access or top_up.")
    ] = None,
    payment_intent: PaymentIntent = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """List orders, newest first."""
    from tbpay.stores import order_store

    if since is not None and until is not None and since >= until:
        raise UsageError("--until must be later than --since")
    found = order_store.find(
        account_id=None if account is None else account.find(),
        status=status,
        order_type=order_type,
        payment_intent_id=payment_intent,
        since=since,
        until=until,
        **chosen().paging,
    )
    show(found, columns=COLUMNS, kind=Order)


@command(app, "show", "tbpay order show 12", "tbpay order show --stripe-session cs_test_a1")
def show_(order: OrderId = None, stripe_session: StripeSession = None) -> None:
    """Show one order."""
    show(_find(order, stripe_session))


@command(
    app,
    "complete",
    "tbpay order complete 12",
    "tbpay order complete --stripe-session cs_test_a1 --payment-intent pi_3a",
    changes=True,
)
def complete(
    order: OrderId = None,
    stripe_session: StripeSession = None,
    payment_intent: PaymentIntent = None,
) -> None:
    """Complete an order and credit its account, once, however often it is said."""
    from tbpay.stores import order_store

    number = _find(order, stripe_session).id
    show(
        change(
            "order complete",
            f"order {number}",
            lambda: order_store.complete(number, payment_intent_id=payment_intent),
            before=lambda: order_store.get_by_id(number),
            detail=_detail,
        )
    )


@command(
    app,
    "fail",
    "tbpay order fail 12",
    "tbpay order fail 12 13 14",
    "tbpay order fail --stripe-session cs_a1",
    changes=True,
)
def fail(
    orders: Annotated[
        list[int] | None, argument(parse_id, "ID...", "The orders' ids; several are asked about.")
    ] = None,
    stripe_session: StripeSession = None,
) -> None:
    """Fail pending orders and give their discount codes' uses back."""
    from tbpay.stores import order_store

    numbers = list(dict.fromkeys(orders or []))
    if not numbers or stripe_session is not None:
        numbers = [_find(numbers[0] if numbers else None, stripe_session).id]
    if len(numbers) == 1:
        show(
            change(
                "order fail",
                f"order {numbers[0]}",
                lambda: order_store.fail(numbers[0]),
                before=lambda: order_store.get_by_id(numbers[0]),
                detail=_detail,
            )
        )
        return
    confirm(f"fail {len(numbers)} orders")
    before: list[Order | None] = []

    def look() -> list[Order | None]:
        before[:] = [order_store.get_by_id(number) for number in numbers]
        return list(before)

    show(
        change(
            "order fail",
            f"{len(numbers)} orders",
            lambda: [order_store.fail(number) for number in numbers],
            before=look,
            detail=lambda failed: {
                "order_ids": [new.id for old, new in zip(before, failed, strict=True) if new != old]
            },
        ),
        columns=COLUMNS,
    )


def _find(order_id: int | None, session_id: str | None) -> Order:
    from tbpay.stores import order_store

    match order_id, session_id:
        case int(), None:
            found, name = order_store.get_by_id(order_id), f"order {order_id}"
        case None, str():
            found = order_store.get_by_stripe_session(session_id)
            name = f"order with the session {excerpt(session_id)}"
        case _:
            both = "" if order_id is None else ", not both"
            raise UsageError(f"give ID or --stripe-session{both}")
    if found is None:
        raise NotFoundError(f"no {name}")
    return found


def _detail(order: Order) -> dict[str, Any]:
    return {
        "account_id": order.account_id,
        "credit_cents": order.credit_cents,
        "status": order.status,
        "stripe_payment_intent_id": order.stripe_payment_intent_id,
    }
