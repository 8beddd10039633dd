"""``tbpay order``."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from tbpay import models
from tbpay.cli.change import change, confirm, preview, settled_key
from tbpay.cli.exits import UsageError
from tbpay.cli.options import chosen, command, group, show
from tbpay.cli.parameters import (
    AccountName,
    Amount,
    Key,
    PaymentIntent,
    Since,
    StripeSession,
    Until,
    argument,
    option,
)
from tbpay.cli.parsers import AccountRef, parse_account, parse_id, parse_stripe_id, parse_text
from tbpay.errors import ConflictError, NotFoundError, excerpt
from tbpay.models import Order, OrderStatus, OrderType, Refund, RefundPolicy
from tbpay.money import parse_cents, show_cents

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


def parse_policy(given: str) -> RefundPolicy:
    """Read what a refund does where the credit is spent."""
    return models.word(RefundPolicy, given, "the policy")


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
    key: Key = None,
) -> None:
    """Create a pending order; --amount is before the discount."""
    from tbpay.stores import order_store

    account_id = account.find()
    key = settled_key(key)
    created = change(
        "order create",
        lambda created: f"order {created.order.id}",
        lambda: _Created(
            *order_store.create_or_replay(
                account_id, order_type, amount, code=code, stripe_session_id=stripe_session, key=key
            )
        ),
        key=key,
        detail=lambda created: {
            "account_id": created.order.account_id,
            "amount_cents": created.order.amount_cents,
            "credit_cents": created.order.credit_cents,
            "code": code,
        },
        undo=lambda created: (
            f"order fail {created.order.id}"
            if created.order.status is OrderStatus.PENDING
            else None
        ),
    )
    show(created.order)


@dataclass(frozen=True)
class _Created:
    """An order, and whether the key had made it already."""

    order: Order
    replayed: bool


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
    from tbpay.database import snapshot
    from tbpay.stores import order_store

    with snapshot():
        found = _find(order, stripe_session)
        refunded_cents = sum(refund.amount_cents for refund in order_store.refunds(found.id))
    show(found, people=lambda _: asdict(found) | {"refunded_cents": refunded_cents})


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
    from tbpay.stores.order_rows import locked

    number = _find(order, stripe_session).id
    show(
        change(
            "order complete",
            f"order {number}",
            lambda: order_store.complete(number, payment_intent_id=payment_intent),
            before=lambda: locked(number),
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
    from tbpay.stores.order_rows import locked

    numbers = list(dict.fromkeys(orders or []))
    if not numbers or stripe_session is not None:
        numbers = [_find(numbers[0] if numbers else None, stripe_session).id]
    if len(numbers) == 1:
        show(
            change(
                "order fail",
                f"order {numbers[0]}",
                lambda: order_store.fail(numbers[0]),
                before=lambda: locked(numbers[0]),
                detail=_detail,
            )
        )
        return
    confirm(f"fail {len(numbers)} orders")
    before: dict[int, Order] = {}

    def look() -> list[Order]:
        # In one order for everybody: who waits for another keeps nothing that the other waits for.
        before.update((number, locked(number)) for number in sorted(numbers))
        return [before[number] for number in numbers]

    show(
        change(
            "order fail",
            f"{len(numbers)} orders",
            lambda: [order_store.fail(number) for number in numbers],
            before=look,
            detail=lambda failed: {
                "order_ids": [order.id for order in failed if order != before[order.id]]
            },
        ),
        columns=COLUMNS,
    )


@command(
    app,
    "refund",
    "tbpay order refund 12 --dry-run",
    "tbpay order refund 12 --amount 5 --policy available --stripe-refund re_3a",
    changes=True,
)
def refund(
    order: Annotated[int, argument(parse_id, "ID", "The order's id.")],
    amount: Annotated[
        int | None,
        option(
            "--amount", parse_cents, "USD", "How much went back; all that is left unless given."
        ),
    ] = None,
    policy: Annotated[
        RefundPolicy,
        option(
            "--policy",
            parse_policy,
            "P",
            "Where less is left than it takes back: refuse (unless given), available or negative.",
        ),
    ] = RefundPolicy.REFUSE,
    stripe_refund: Annotated[
        str | None, option("--stripe-refund", parse_stripe_id, "ID", "Stripe's refund.")
    ] = None,
    key: Key = None,
    reason: Annotated[str | None, option("--reason", parse_text, "TEXT", "Why.")] = None,
) -> None:
    """Record a refund, and take back its share of the order's credit; asks first."""
    from tbpay.stores import balance_store, order_store

    def record() -> _Refunded:
        now, done = order_store.record_refund(
            order,
            amount_cents=amount,
            policy=policy,
            stripe_refund_id=stripe_refund,
            reason=reason,
            key=key,
        )
        return _Refunded(now, done, balance_store.get_balance(now.account_id))

    agreed: _Refunded | None = None

    def record_as_agreed() -> _Refunded:
        refunded = record()
        if agreed is not None and not refunded.replayed and refunded.terms != agreed.terms:
            raise ConflictError(f"order {order} or its account has moved on since you were asked")
        return refunded

    if not chosen().yes and not chosen().dry_run:
        tried = preview(record)
        if not tried.replayed:
            agreed = tried
            confirm(tried.question)
    key = settled_key(key)
    refunded = change(
        "order refund",
        f"order {order}",
        record_as_agreed,
        key=key,
        reason=reason,
        detail=lambda refunded: refunded.detail,
    )
    show(refunded.refund, people=lambda _: refunded.for_people)


@dataclass(frozen=True)
class _Refunded:
    """A refund, and what it made of the order and of the account's balance."""

    order: Order
    refund: Refund
    balance_cents: int

    @property
    def replayed(self) -> bool:
        return self.refund.replayed

    @property
    def taken_cents(self) -> int:
        return self.refund.claw_back_cents - self.refund.shortfall_cents

    @property
    def terms(self) -> tuple[int, int, int, bool]:
        """What was agreed to by a yes, and stays forbidden otherwise."""
        done = self.refund
        return done.amount_cents, done.claw_back_cents, done.shortfall_cents, self.balance_cents < 0

    @property
    def question(self) -> str:
        share = f"{show_cents(self.taken_cents)} USD"
        if self.refund.shortfall_cents > 0:
            share = (
                f"{show_cents(self.taken_cents)} of {show_cents(self.refund.claw_back_cents)} USD"
            )
        at = "below zero, at " if self.balance_cents < 0 else ""
        return (
            f"refund {show_cents(self.refund.amount_cents)} USD of order {self.order.id},"
            f" take {share} off account {self.order.account_id}"
            f" and leave it {at}{show_cents(self.balance_cents)} USD"
        )

    @property
    def detail(self) -> dict[str, Any]:
        """What the audit log keeps of it."""
        return {
            "refund_id": self.refund.id,
            "amount_cents": self.refund.amount_cents,
            "claw_back_cents": self.refund.claw_back_cents,
            "shortfall_cents": self.refund.shortfall_cents,
            "policy": self.refund.policy,
            "stripe_refund_id": self.refund.stripe_refund_id,
            "transaction_id": self.refund.transaction_id,
        }

    @property
    def for_people(self) -> dict[str, object]:
        """The refund, and what is left behind it."""
        fields = asdict(self.refund)
        del fields["replayed"]
        return fields | {"order_status": self.order.status, "balance_cents": self.balance_cents}


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
