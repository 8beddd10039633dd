"""``tbpay discount``."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from tbpay import models
from tbpay.cli.change import ask, can_ask, change
from tbpay.cli.exits import UsageError
from tbpay.cli.options import CodeName, argument, chosen, command, group, option, show
from tbpay.cli.output import note
from tbpay.cli.parsers import AccountRef, parse_account, parse_count, parse_percent, parse_stripe_id
from tbpay.errors import Code, NotFoundError, excerpt
from tbpay.models import DiscountCode, DiscountType
from tbpay.money import parse_cents, show_cents

app = group("Discount codes: named reductions and their uses.")


@command(
    app,
    "create",
    "tbpay discount create LAUNCH10 --percent 10 --max-uses 3",
    "tbpay discount create FIVEOFF --amount 5",
    changes=True,
)
def create(
    code: Annotated[str | None, argument(models.discount_code, "CODE", "Its name.")] = None,
    percent: Annotated[int | None, option("--percent", parse_percent, "N", "Per cent off.")] = None,
    amount: Annotated[int | None, option("--amount", parse_cents, "USD", "Dollars off.")] = None,
    max_uses: Annotated[
        int | None, option("--max-uses", parse_count, "N", "How many orders may take it.")
    ] = None,
    stripe_coupon: Annotated[
        str | None, option("--stripe-coupon", parse_stripe_id, "ID", "Stripe's coupon.")
    ] = None,
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
                code, kind, value, max_uses=max_uses, stripe_coupon_id=stripe_coupon
            ),
            detail=lambda made: {
                "discount_type": made.discount_type,
                "discount_value": made.discount_value,
                "max_uses": made.max_uses,
            },
            undo=lambda made: f"discount deactivate {made.code}",
        ),
        people=_for_people,
    )


@command(app, "list", "tbpay discount list", "tbpay discount list --all -o csv", lists=True)
def list_() -> None:
    """List discount codes, newest first."""
    from tbpay.stores import discount_code_store

    show(
        discount_code_store.find(**chosen().paging),
        columns=("id", "code", "discount", "uses", "active", "created_at"),
        kind=DiscountCode,
        people=_for_people,
    )


@command(app, "show", "tbpay discount show LAUNCH10")
def show_(code: CodeName) -> None:
    """Show one discount code."""
    from tbpay.stores import discount_code_store

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
    from tbpay.stores.discounts import reduction_cents

    number = None if account is None else account.find()
    found = discount_code_store.validate(code, amount_cents=amount, account_id=number)
    priced: dict[str, Any] = {}
    if amount is not None:
        off_cents = reduction_cents(found, amount)
        priced = {
            "amount_cents": amount,
            "reduction_cents": off_cents,
            "charged_cents": amount - off_cents,
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
            before=lambda: discount_code_store.get_by_code(code),
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


def _for_people(code: DiscountCode) -> dict[str, object]:
    percent = code.discount_type is DiscountType.PERCENT
    limit = "no limit" if code.max_uses is None else code.max_uses
    return {
        "id": code.id,
        "code": code.code,
        "discount": f"{code.discount_value} %"
        if percent
        else f"{show_cents(code.discount_value)} USD",
        "uses": f"{code.current_uses} of {limit}",
        "active": code.active,
        "stripe_coupon_id": code.stripe_coupon_id,
        "created_at": code.created_at,
    }
