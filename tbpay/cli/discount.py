"""``tbpay discount``."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from tbpay import models
from tbpay.cli.change import ask, can_ask, change
from tbpay.cli.exits import UsageError
from tbpay.cli.options import Chosen, chosen, command, group, show
from tbpay.cli.output import note
from tbpay.cli.parameters import CodeName, argument, option
from tbpay.cli.parsers import (
    AccountRef,
    parse_account,
    parse_count,
    parse_percent,
    parse_since,
    parse_stripe_id,
    parse_until,
)
from tbpay.errors import Code, NotFoundError, excerpt
from tbpay.models import DiscountCode, DiscountType, Redemption, time_text
from tbpay.money import parse_cents, show_cents

app = group("Discount codes: named reductions and their uses.")

MaxUses = Annotated[
    int | None, option("--max-uses", parse_count, "N", "How many orders may take it.")
]
Ends = Annotated[
    datetime | None,
    option("--ends", parse_until, "T", "Up to, not at, this time; a date includes its day."),
]
PerAccount = Annotated[
    int | None, option("--per-account", parse_count, "N", "How many orders of one account.")
]
MinAmount = Annotated[
    int | None,
    option("--min-amount", parse_cents, "USD", "What an order must cost at least without it."),
]


@command(
    app,
    "create",
    "tbpay discount create LAUNCH10 --percent 10 --max-uses 3",
    "tbpay discount create FIVEOFF --amount 5 --starts 2026-12-01 --ends 2026-12-24",
    changes=True,
)
def create(
    code: Annotated[str | None, argument(models.discount_code, "CODE", "Its name.")] = None,
    percent: Annotated[int | None, option("--percent", parse_percent, "N", "Per cent off.")] = None,
    amount: Annotated[int | None, option("--amount", parse_cents, "USD", "Dollars off.")] = None,
    max_uses: MaxUses = None,
    stripe_coupon: Annotated[
        str | None, option("--stripe-coupon", parse_stripe_id, "ID", "Stripe's coupon.")
    ] = None,
    starts: Annotated[
        datetime | None, option("--starts", parse_since, "T", "From this time on.")
    ] = None,
    ends: Ends = None,
    per_account: PerAccount = None,
    min_amount: MinAmount = None,
) -> None:
    """Create a discount code; without arguments, on a terminal, it asks."""
    from tbpay.stores import discount_code_store

    if percent is not None and amount is not None:
        raise UsageError("--percent and --amount exclude each other")
    if code is None or (percent is None and amount is None):
        code, percent, amount, max_uses = _ask_for(code, percent, amount, max_uses)
    kind = DiscountType.FIXED if percent is None else DiscountType.PERCENT
    value = amount if percent is None else percent
    assert value is not None  # noqa: S101 - one of the two is given or was asked for
    show(
        change(
            "discount create",
            f"discount {code}",
            lambda: discount_code_store.create(
                code,
                kind,
                value,
                max_uses=max_uses,
                stripe_coupon_id=stripe_coupon,
                starts_at=starts,
                ends_at=ends,
                per_account=per_account,
                min_amount_cents=min_amount,
            ),
            repeatable=False,
            detail=lambda made: {
                "discount_type": made.discount_type,
                "discount_value": made.discount_value,
                "starts_at": _text(made.starts_at),
                **_limits(made),
            },
            undo=lambda made: f"discount deactivate {made.code}",
        ),
        people=_for_people,
    )


@command(
    app,
    "update",
    "tbpay discount update LAUNCH10 --max-uses 500",
    "tbpay discount update LAUNCH10 --ends 2026-12-31 --per-account 1 --min-amount 20",
    changes=True,
)
def update(
    code: CodeName,
    max_uses: MaxUses = None,
    ends: Ends = None,
    per_account: PerAccount = None,
    min_amount: MinAmount = None,
) -> None:
    """Change the limits of a code; what it takes off never changes."""
    from tbpay.stores import discount_code_store

    given = {
        "max_uses": max_uses,
        "ends_at": ends,
        "per_account": per_account,
        "min_amount_cents": min_amount,
    }
    limits: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not limits:
        raise UsageError("give --max-uses, --ends, --per-account or --min-amount")
    old: DiscountCode | None = None

    def look() -> DiscountCode:
        nonlocal old
        old = _locked(code)
        return old

    show(
        change(
            "discount update",
            f"discount {code}",
            lambda: discount_code_store.update(code, **limits),
            before=look,
            detail=_limits,
            undo=lambda _: None if old is None else _back_to(old, limits),
        ),
        people=_for_people,
    )


@command(app, "list", "tbpay discount list", "tbpay discount list --all -o csv", lists=True)
def list_() -> None:
    """List discount codes, newest first."""
    from tbpay.stores import discount_code_store

    show(
        discount_code_store.find(**chosen().paging),
        columns=("code", "discount", "redeemed", "reserved", "max_uses", "active", "ends_at"),
        kind=DiscountCode,
        people=_for_people,
    )


@command(
    app,
    "show",
    "tbpay discount show LAUNCH10",
    "tbpay discount show LAUNCH10 --uses --all",
    lists=True,
)
def show_(
    code: CodeName,
    uses: Annotated[
        bool, typer.Option("--uses", help="List its uses, newest first, those given back too.")
    ] = False,
) -> None:
    """Show one discount code, or its uses."""
    from tbpay.stores import discount_code_store

    if uses:
        show(
            discount_code_store.redemptions(code, **chosen().paging),
            columns=("id", "created_at", "status", "order_id", "account_id", "reduction_cents"),
            kind=Redemption,
        )
        return
    if chosen().paging != Chosen().paging:
        raise UsageError("--limit, --all and --cursor are for --uses")
    found = discount_code_store.get_by_code(code)
    if found is None:
        raise NotFoundError(f"no discount code {excerpt(code)}", code=Code.UNKNOWN)
    show(found, people=_for_people)


@command(
    app,
    "validate",
    "tbpay discount validate LAUNCH10",
    "tbpay discount validate LAUNCH10 --amount 25 --account 7",
)
def validate(
    code: CodeName,
    amount: Annotated[
        int | None, option("--amount", parse_cents, "USD", "What the order costs without it.")
    ] = None,
    account: Annotated[
        AccountRef | None, option("--account", parse_account, "ACCOUNT", "Who would take it.")
    ] = None,
) -> None:
    """Tell whether an order could take a code now, and what it would take off."""
    from tbpay.stores import discount_code_store
    from tbpay.stores.redemptions import charged_cents

    number = None if account is None else account.find()
    found = discount_code_store.validate(code, amount_cents=amount, account_id=number)
    priced: dict[str, Any] = {}
    if amount is not None:
        left_cents = charged_cents(found, amount)
        priced = {
            "amount_cents": amount,
            "reduction_cents": amount - left_cents,
            "charged_cents": left_cents,
        }
    show(asdict(found) | priced, people=lambda _: _for_people(found) | priced)


@command(app, "activate", "tbpay discount activate LAUNCH10", changes=True)
def activate(code: CodeName) -> None:
    """Let new orders take a code."""
    _set_active(code, "activate", "deactivate")


@command(app, "deactivate", "tbpay discount deactivate LAUNCH10", changes=True)
def deactivate(code: CodeName) -> None:
    """Let no new order take a code; pending orders that hold a use still complete."""
    _set_active(code, "deactivate", "activate")


def _set_active(code: str, verb: str, opposite: str) -> None:
    from tbpay.stores import discount_code_store

    show(
        change(
            f"discount {verb}",
            f"discount {code}",
            lambda: discount_code_store.set_active(code, verb == "activate"),
            before=lambda: _locked(code),
            undo=lambda changed: f"discount {opposite} {changed.code}",
        ),
        people=_for_people,
    )


def _ask_for(
    code: str | None, percent: int | None, amount: int | None, max_uses: int | None
) -> tuple[str, int | None, int | None, int | None]:
    """Ask for what is missing, or say it where there is nobody to ask."""
    from tbpay.database import location

    if not can_ask():
        missing = [] if code is not None else ["CODE"]
        missing += [] if percent or amount else ["--percent or --amount"]
        raise UsageError(f"missing {' and '.join(missing)}", hint="tbpay discount create --help")
    note(f"a new discount code in {location()}")
    complete = code is not None
    if code is None:
        code = ask("code", models.discount_code)
    if percent is None and amount is None:
        kind = ask("percent or fixed", lambda given: models.word(DiscountType, given, "the type"))
        if kind is DiscountType.PERCENT:
            percent = ask("per cent off", parse_percent)
        else:
            amount = ask("dollars off", parse_cents)
    if max_uses is None and not complete:
        max_uses = ask("how many uses (empty: no limit)", _or_none(parse_count))
    return code, percent, amount, max_uses


def _or_none(parse: Callable[[str], int]) -> Callable[[str], int | None]:
    return lambda given: parse(given) if given else None


def _locked(code: str) -> DiscountCode:
    """Answer a code as it is, and as it stays until this unit ends: an update of nothing."""
    from tbpay.stores import discount_code_store

    return discount_code_store.update(code)


def _limits(code: DiscountCode) -> dict[str, Any]:
    return {
        "max_uses": code.max_uses,
        "ends_at": _text(code.ends_at),
        "per_account": code.per_account,
        "min_amount_cents": code.min_amount_cents,
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else time_text(moment)


def _back_to(old: DiscountCode, changed: dict[str, Any]) -> str | None:
    """Word the command that sets limits back, unless there was none before: that cannot be said."""
    values = {name: getattr(old, name) for name in changed}
    if None in values.values():
        return None
    flags = [f"{_FLAGS[name][0]} {_FLAGS[name][1](value)}" for name, value in values.items()]
    return f"discount update {old.code} {' '.join(flags)}"


_FLAGS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "max_uses": ("--max-uses", str),
    "ends_at": ("--ends", time_text),
    "per_account": ("--per-account", str),
    "min_amount_cents": ("--min-amount", show_cents),
}


def _for_people(code: DiscountCode) -> dict[str, object]:
    percent = code.discount_type is DiscountType.PERCENT
    return {
        "id": code.id,
        "code": code.code,
        "discount": f"{code.discount_value} %"
        if percent
        else f"{show_cents(code.discount_value)} USD",
        "redeemed": code.current_uses - code.reserved_uses,
        "reserved": code.reserved_uses,
        "max_uses": code.max_uses,
        "per_account": code.per_account,
        "min_amount_cents": code.min_amount_cents,
        "starts_at": code.starts_at,
        "ends_at": code.ends_at,
        "active": code.active,
        "stripe_coupon_id": code.stripe_coupon_id,
        "created_at": code.created_at,
    }
