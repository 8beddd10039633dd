"""Redemptions: the one place where a use of a discount code is taken, kept and given back.

A code's counter and the redemptions behind it move in the same unit, by guarded statements.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from tbpay import database, schema
from tbpay.errors import Code, InvalidInputError, NotFoundError, RefusedError, excerpt
from tbpay.models import (
    STRIPE_MINIMUM_CENTS,
    DiscountCode,
    DiscountType,
    RedemptionStatus,
    discount_code,
    read_time,
    time_text,
)
from tbpay.money import percentage, show_cents

_codes = schema.discount_codes
_redemptions = schema.discount_redemptions

LIVE = (RedemptionStatus.RESERVED, RedemptionStatus.REDEEMED)
"""Where a redemption stands that counts as a use."""

_reserved = (
    sa.select(sa.func.count())
    .where(
        _redemptions.c.discount_code_id == _codes.c.id,
        _redemptions.c.status == RedemptionStatus.RESERVED,
    )
    .scalar_subquery()
    .label("reserved_uses")
)
SELECTED = sa.select(_codes, _reserved)
"""Select codes, each with how many of its uses pending orders hold, for ``discount_code_of``."""

_BY_NAME = SELECTED.where(_codes.c.code == sa.bindparam("name"))

_is_left = sa.or_(_codes.c.max_uses.is_(None), _codes.c.current_uses < _codes.c.max_uses)
_one_more = {"current_uses": _codes.c.current_uses + 1}
_one_less = {"current_uses": _codes.c.current_uses - 1}
_now = sa.bindparam("now", type_=sa.String)
_amount_cents = sa.bindparam("amount_cents", type_=sa.BigInteger)
_TAKE = (
    sa.update(_codes)
    .where(
        _codes.c.code == sa.bindparam("name"),
        _codes.c.active,
        _is_left,
        sa.or_(_codes.c.starts_at.is_(None), _codes.c.starts_at <= _now),
        sa.or_(_codes.c.ends_at.is_(None), _codes.c.ends_at > _now),
        sa.or_(
            _codes.c.min_amount_cents.is_(None),
            _amount_cents.is_(None),
            _codes.c.min_amount_cents <= _amount_cents,
        ),
    )
    .values(_one_more)
)
_TAKE_AGAIN = (
    sa.update(_codes).where(_codes.c.id == sa.bindparam("code_id"), _is_left).values(_one_more)
)
_GIVE_BACK = sa.update(_codes).where(_codes.c.id == sa.bindparam("code_id")).values(_one_less)
_HELD = (
    sa.select(sa.func.count())
    .select_from(_redemptions)
    .where(
        _redemptions.c.discount_code_id == sa.bindparam("code_id"),
        _redemptions.c.account_id == sa.bindparam("account_id"),
        _redemptions.c.status.in_(LIVE),
    )
)


def name_of(code: str) -> str | None:
    """Answer how a code would be kept; None for text that no code can be, whoever typed it."""
    try:
        return discount_code(code)
    except InvalidInputError:
        if type(code) is str:
            return None
        raise


def reduction_cents(discount: DiscountCode, amount_cents: int) -> int:
    """Answer what a code takes off an amount: never more than the amount itself."""
    if discount.discount_type is DiscountType.PERCENT:
        return percentage(amount_cents, discount.discount_value)
    return min(discount.discount_value, amount_cents)


def charged_cents(discount: DiscountCode, amount_cents: int) -> int:
    """Answer what an amount costs with a code, or refuse what Stripe would not charge."""
    left_cents = amount_cents - reduction_cents(discount, amount_cents)
    if 0 < left_cents < STRIPE_MINIMUM_CENTS:
        raise RefusedError(
            f"{show_cents(amount_cents)} with discount code {discount.code} is"
            f" {show_cents(left_cents)}, and Stripe charges no less than"
            f" {show_cents(STRIPE_MINIMUM_CENTS)}",
            code=Code.BELOW_STRIPE_MINIMUM,
        )
    return left_cents


def usable(
    code: str, amount_cents: int | None = None, account_id: int | None = None
) -> DiscountCode:
    """Answer a code that could be redeemed now, or refuse it; changes nothing and locks nothing."""
    found = require(name_of(code), code)
    _refuse_unusable(found, amount_cents)
    if account_id is not None:
        _refuse_account(found, account_id)
    return found


def redeem(
    discount: DiscountCode,
    status: RedemptionStatus,
    *,
    amount_cents: int | None = None,
    reduction_cents: int = 0,
    order_id: int | None = None,
    account_id: int | None = None,
) -> None:
    """Write a use down, what it took off and whose it is, and count it; or refuse both.

    From here to the end of the unit nobody else takes or gives back a use of this code.
    """
    now = time_text(datetime.now(UTC))
    row = {
        "discount_code_id": discount.id,
        "order_id": order_id,
        "account_id": account_id,
        "reduction_cents": reduction_cents,
        "status": status,
        "created_at": now,
    }
    connection = database.connection()
    # The redemption first: a guard holds the counter against those that there are.
    connection.execute(sa.insert(_redemptions), row)
    take = {"name": discount.code, "now": now, "amount_cents": amount_cents}
    while connection.execute(_TAKE, take).rowcount == 0:
        # The reason is looked for under the code's lock; a use may have been given back meanwhile.
        _refuse_unusable(require_locked(discount.code, discount.code), amount_cents)
        take["now"] = time_text(datetime.now(UTC))
    if account_id is not None:
        _refuse_account(require(discount.code, discount.code), account_id, own=1)


def keep_use(order_id: int) -> None:
    """Let the use that an order has reserved be redeemed."""
    _set_status(order_id, RedemptionStatus.REDEEMED)


def release_use(order_id: int, code_id: int) -> None:
    """Give the use of an order back."""
    if _set_status(order_id, RedemptionStatus.RELEASED):
        database.connection().execute(_GIVE_BACK, {"code_id": code_id})


def take_use_again(order_id: int, code_id: int) -> None:
    """Take a use again for an order that was paid late: ``late``, where none is left."""
    if _set_status(order_id, RedemptionStatus.REDEEMED):
        taken = database.connection().execute(_TAKE_AGAIN, {"code_id": code_id}).rowcount
        if not taken:
            _set_status(order_id, RedemptionStatus.LATE)


def _set_status(order_id: int, status: RedemptionStatus) -> bool:
    """Note where the use of an order stands, and tell whether one was written down at all."""
    of_order = sa.update(_redemptions).where(_redemptions.c.order_id == order_id)
    return database.connection().execute(of_order.values(status=status)).rowcount == 1


def get(name: str) -> DiscountCode | None:
    """Answer the code of this name, or None."""
    row = database.connection().execute(_BY_NAME, {"name": name}).first()
    return None if row is None else discount_code_of(row)


def require(name: str | None, code: str) -> DiscountCode:
    """Answer the code of this name. Raises NotFoundError about the code as it was given."""
    found = None if name is None else get(name)
    if found is None:
        raise NotFoundError(f"no discount code {excerpt(code)}", code=Code.UNKNOWN)
    return found


def require_locked(name: str | None, code: str) -> DiscountCode:
    """Answer a code whose uses and limits nobody else changes before this unit ends."""
    database.connection().execute(
        # Not from a redemption that only names the code: its unit may be about to wait for us.
        sa.select(_codes.c.id).where(_codes.c.code == name).with_for_update(key_share=True)
    )
    return require(name, code)


def _refuse_unusable(discount: DiscountCode, amount_cents: int | None) -> None:
    """Refuse a code that cannot be taken now, with the first reason there is."""
    code, now = discount.code, datetime.now(UTC)
    if not discount.active:
        raise RefusedError(f"discount code {code} is inactive", code=Code.INACTIVE)
    if discount.starts_at is not None and now < discount.starts_at:
        starts = time_text(discount.starts_at)
        raise RefusedError(f"discount code {code} starts at {starts}", code=Code.NOT_STARTED)
    if discount.ends_at is not None and now >= discount.ends_at:
        ended = time_text(discount.ends_at)
        raise RefusedError(f"discount code {code} ended at {ended}", code=Code.EXPIRED)
    if discount.max_uses is not None and discount.current_uses >= discount.max_uses:
        raise RefusedError(f"discount code {code} is used up", code=Code.USED_UP)
    least_cents = discount.min_amount_cents
    if least_cents is not None and amount_cents is not None and amount_cents < least_cents:
        raise RefusedError(
            f"discount code {code} is for orders of {show_cents(least_cents)} or more,"
            f" not of {show_cents(amount_cents)}",
            code=Code.BELOW_MINIMUM,
        )


def _refuse_account(discount: DiscountCode, account_id: int, own: int = 0) -> None:
    """Refuse an account that has had its share of a code before ``own`` uses of this unit."""
    if discount.per_account is None:
        return
    who = {"code_id": discount.id, "account_id": account_id}
    held = database.connection().execute(_HELD, who).scalar_one() - own
    if held >= discount.per_account:
        raise RefusedError(
            f"account {account_id} has taken discount code {discount.code}"
            f" {held:,} time{'s' if held > 1 else ''}, which is its limit",
            code=Code.ACCOUNT_LIMIT,
        )


def discount_code_of(row: Any) -> DiscountCode:
    """Read a code from a row of ``SELECTED``."""
    return DiscountCode(
        id=row.id,
        code=row.code,
        discount_type=DiscountType(row.discount_type),
        discount_value=row.discount_value,
        max_uses=row.max_uses,
        current_uses=row.current_uses,
        active=row.active,
        stripe_coupon_id=row.stripe_coupon_id,
        created_at=read_time(row.created_at),
        starts_at=None if row.starts_at is None else read_time(row.starts_at),
        ends_at=None if row.ends_at is None else read_time(row.ends_at),
        per_account=row.per_account,
        min_amount_cents=row.min_amount_cents,
        reserved_uses=row.reserved_uses,
    )
