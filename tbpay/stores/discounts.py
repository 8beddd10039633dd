"""Discount codes: named reductions whose uses are counted, and never pass their limit."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from tbpay import database, schema
from tbpay.database import atomically, snapshot
from tbpay.errors import (
    Code,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    excerpt,
)
from tbpay.models import (
    MAX_AMOUNT_CENTS,
    MAX_PERCENT,
    MAX_USES,
    STRIPE_MINIMUM_CENTS,
    DiscountCode,
    DiscountType,
    OrderStatus,
    Page,
    Redemption,
    RedemptionStatus,
    amount,
    discount_code,
    flag,
    identifier,
    moment,
    read_time,
    stripe_id,
    time_text,
    whole,
    word,
)
from tbpay.money import percentage, show_cents
from tbpay.stores import accounts
from tbpay.stores.paging import page, place

_codes = schema.discount_codes
_orders = schema.orders
_redemptions = schema.discount_redemptions

_LIVE = (RedemptionStatus.RESERVED, RedemptionStatus.REDEEMED)

_reserved = (
    sa.select(sa.func.count())
    .where(
        _redemptions.c.discount_code_id == _codes.c.id,
        _redemptions.c.status == RedemptionStatus.RESERVED,
    )
    .scalar_subquery()
    .label("reserved_uses")
)
_SELECTED = sa.select(_codes, _reserved)
_BY_NAME = _SELECTED.where(_codes.c.code == sa.bindparam("name"))

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
        _redemptions.c.status.in_(_LIVE),
    )
)


class DiscountCodeStore:
    """Create, find, validate and use discount codes."""

    def create(
        self,
        code: str,
        discount_type: DiscountType | str,
        discount_value: int,
        *,
        max_uses: int | None = None,
        stripe_coupon_id: str | None = None,
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
        per_account: int | None = None,
        min_amount_cents: int | None = None,
    ) -> DiscountCode:
        """Create an active code that nobody has used yet.

        ``discount_value`` is 1 … 100 per cent, or 1 … 99,999,999 cents for a fixed one. It can be
        taken from ``starts_at`` up to, not at, ``ends_at``, for orders of at least
        ``min_amount_cents`` before the discount, and ``per_account`` times by one account. Raises
        ConflictError where the code exists.
        """
        name = discount_code(code)
        kind = word(DiscountType, discount_type, "discount_type")
        highest = MAX_PERCENT if kind is DiscountType.PERCENT else MAX_AMOUNT_CENTS
        whole(discount_value, "discount_value", 1, highest)
        limits = _limits(max_uses, ends_at, per_account, min_amount_cents)
        if stripe_coupon_id is not None:
            stripe_id(stripe_coupon_id, "stripe_coupon_id")
        starts = None if starts_at is None else time_text(moment(starts_at, "starts_at"))
        _refuse_empty_window(name, starts, limits.get("ends_at"))
        values = {
            "code": name,
            "discount_type": kind,
            "discount_value": discount_value,
            "current_uses": 0,
            "active": True,
            "stripe_coupon_id": stripe_coupon_id,
            "created_at": time_text(datetime.now(UTC)),
            "starts_at": starts,
            **limits,
        }
        return atomically(lambda: _create(values))

    def update(
        self,
        code: str,
        *,
        max_uses: int | None = None,
        ends_at: datetime | None = None,
        per_account: int | None = None,
        min_amount_cents: int | None = None,
    ) -> DiscountCode:
        """Change the limits of a code that are given; its type and value never change.

        Raises NotFoundError, InvalidInputError for an end that is not after the start, and
        RefusedError for a limit below the uses that there are.
        """
        name = name_of(code)
        limits = _limits(max_uses, ends_at, per_account, min_amount_cents)
        return atomically(lambda: _update(name, code, limits), repeatable=True)

    def get_by_code(self, code: str) -> DiscountCode | None:
        """Answer a code, in upper or lower case and with spaces around it; or None."""
        name = name_of(code)
        with snapshot():
            return None if name is None else _get(name)

    def increment_uses(self, code: str, *, order_id: int | None = None) -> DiscountCode:
        """Count one more use, unless the last one is gone.

        With an order it is that order's use: no effect where the order holds it already, and given
        back should the order fail. Raises NotFoundError for an unknown code or order, RefusedError
        for a code that cannot be taken, ConflictError for an order that failed or has another code.
        """
        name_of(code)
        if order_id is not None:
            identifier(order_id, "order_id")
        return atomically(lambda: _increment_uses(code, order_id), repeatable=order_id is not None)

    def validate(
        self, code: str, *, amount_cents: int | None = None, account_id: int | None = None
    ) -> DiscountCode:
        """Answer a code that an order could take now; changes nothing.

        ``amount_cents`` is what the order costs before the discount. Raises NotFoundError
        (``unknown``) or RefusedError, with the first reason of ``inactive``, ``not_started``,
        ``expired``, ``used_up``, ``below_minimum``, ``account_limit``, ``below_stripe_minimum``.
        """
        name_of(code)
        if amount_cents is not None:
            amount(amount_cents)
        if account_id is not None:
            identifier(account_id, "account_id")
        with snapshot():
            if account_id is not None:
                accounts.require(account_id)
            found = usable(code, amount_cents, account_id)
            if amount_cents is not None:
                charged_cents(found, amount_cents)
            return found

    def set_active(self, code: str, active: bool) -> DiscountCode:
        """Let new orders take a code, or no longer; orders that hold a use keep it."""
        name = name_of(code)
        flag(active, "active")
        return atomically(lambda: _set_active(name, code, active), repeatable=True)

    def find(self, *, limit: int | None = 50, cursor: str | None = None) -> Page[DiscountCode]:
        """List the codes, newest first."""
        here = place("discount codes", limit, cursor)
        return page(_discount_code, _SELECTED, _codes.c.id, here)

    def redemptions(
        self, code: str, *, limit: int | None = 50, cursor: str | None = None
    ) -> Page[Redemption]:
        """List the uses of a code, newest first, those given back too. Raises NotFoundError."""
        name = name_of(code)
        here = place("redemptions", limit, cursor)
        with snapshot():
            found = _require(name, code)
            own = sa.select(_redemptions).where(_redemptions.c.discount_code_id == found.id)
            return page(_redemption, own, _redemptions.c.id, here)


discount_code_store = DiscountCodeStore()


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
    found = _require(name_of(code), code)
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
        _refuse_unusable(_require_locked(discount.code, discount.code), amount_cents)
        take["now"] = time_text(datetime.now(UTC))
    if account_id is not None:
        _refuse_account(_require(discount.code, discount.code), account_id, own=1)


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


def _limits(
    max_uses: int | None,
    ends_at: datetime | None,
    per_account: int | None,
    min_amount_cents: int | None,
) -> dict[str, Any]:
    """Answer the limits that are given, checked and as they are kept."""
    limits: dict[str, Any] = {}
    if max_uses is not None:
        limits["max_uses"] = whole(max_uses, "max_uses", 1, MAX_USES)
    if ends_at is not None:
        limits["ends_at"] = time_text(moment(ends_at, "ends_at"))
    if per_account is not None:
        limits["per_account"] = whole(per_account, "per_account", 1, MAX_USES)
    if min_amount_cents is not None:
        limits["min_amount_cents"] = whole(
            min_amount_cents, "min_amount_cents", 1, MAX_AMOUNT_CENTS
        )
    return limits


def _refuse_empty_window(name: str, starts: str | None, ends: str | None) -> None:
    if starts is not None and ends is not None and ends <= starts:
        raise InvalidInputError(
            f"discount code {name} would end at {ends}, which is not after its start at {starts}"
        )


def _create(values: dict[str, Any]) -> DiscountCode:
    new = database.insert_if_absent(_codes).returning(_codes.c.id)
    if database.connection().execute(new, values).first() is None:
        raise ConflictError(f"discount code {values['code']} exists already", code=Code.EXISTS)
    return _require(values["code"], values["code"])


def _update(name: str | None, code: str, limits: dict[str, Any]) -> DiscountCode:
    found = _require_locked(name, code)
    if not limits:
        return found
    starts = None if found.starts_at is None else time_text(found.starts_at)
    _refuse_empty_window(found.code, starts, limits.get("ends_at"))
    if limits.get("max_uses", MAX_USES) < found.current_uses:
        raise RefusedError(
            f"discount code {found.code} has {found.current_uses:,} uses:"
            f" its limit cannot be {limits['max_uses']:,}"
        )
    if "per_account" in limits:
        _refuse_lower(found, limits["per_account"])
    changed = sa.update(_codes).where(_codes.c.id == found.id).values(limits)
    database.connection().execute(changed)
    return _require(name, code)


def _refuse_lower(discount: DiscountCode, per_account: int) -> None:
    """Refuse a limit per account that an account has passed."""
    uses = sa.func.count()
    most = (
        database.connection()
        .execute(
            sa.select(_redemptions.c.account_id, uses.label("uses"))
            .where(
                _redemptions.c.discount_code_id == discount.id,
                _redemptions.c.account_id.is_not(None),
                _redemptions.c.status.in_(_LIVE),
            )
            .group_by(_redemptions.c.account_id)
            .having(uses > per_account)
            .order_by(uses.desc(), _redemptions.c.account_id)
            .limit(1)
        )
        .first()
    )
    if most is not None:
        raise RefusedError(
            f"account {most.account_id} has {most.uses:,} uses of discount code {discount.code}:"
            f" the limit per account cannot be {per_account:,}"
        )


def _increment_uses(code: str, order_id: int | None) -> DiscountCode:
    name = name_of(code)
    if order_id is None:
        redeem(usable(code), RedemptionStatus.REDEEMED)
        return _require(name, code)
    connection = database.connection()
    order = connection.execute(
        sa.select(_orders).where(_orders.c.id == order_id).with_for_update()
    ).first()
    if order is None:
        raise NotFoundError(f"no order {order_id}")
    found = _require(name, code)
    if order.status == OrderStatus.FAILED:
        raise ConflictError(f"order {order_id} has failed: it holds no use of a code")
    if order.discount_code_id not in (None, found.id):
        raise ConflictError(f"order {order_id} has another discount code than {found.code}")
    if order.discount_code_id == found.id:
        return found
    credit_cents = order.amount_cents if order.credit_cents is None else order.credit_cents
    usable(code, credit_cents, order.account_id)
    holds = sa.update(_orders).where(_orders.c.id == order_id)
    connection.execute(holds.values(discount_code_id=found.id))
    is_pending = order.status == OrderStatus.PENDING
    redeem(
        found,
        RedemptionStatus.RESERVED if is_pending else RedemptionStatus.REDEEMED,
        amount_cents=credit_cents,
        order_id=order_id,
        account_id=order.account_id,
    )
    return _require(name, code)


def _set_active(name: str | None, code: str, active: bool) -> DiscountCode:
    found = _require_locked(name, code)
    if found.active == active:
        return found
    changed = sa.update(_codes).where(_codes.c.id == found.id).values(active=active)
    database.connection().execute(changed)
    return _require(name, code)


def _get(name: str) -> DiscountCode | None:
    row = database.connection().execute(_BY_NAME, {"name": name}).first()
    return None if row is None else _discount_code(row)


def _require(name: str | None, code: str) -> DiscountCode:
    found = None if name is None else _get(name)
    if found is None:
        raise _unknown(code)
    return found


def _unknown(code: str) -> NotFoundError:
    return NotFoundError(f"no discount code {excerpt(code)}", code=Code.UNKNOWN)


def _require_locked(name: str | None, code: str) -> DiscountCode:
    """Answer a code whose uses and limits nobody else changes before this unit ends."""
    database.connection().execute(
        # Not from a redemption that only names the code: its unit may be about to wait for us.
        sa.select(_codes.c.id).where(_codes.c.code == name).with_for_update(key_share=True)
    )
    return _require(name, code)


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


def _discount_code(row: Any) -> DiscountCode:
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


def _redemption(row: Any) -> Redemption:
    return Redemption(
        id=row.id,
        discount_code_id=row.discount_code_id,
        order_id=row.order_id,
        account_id=row.account_id,
        reduction_cents=row.reduction_cents,
        status=RedemptionStatus(row.status),
        created_at=read_time(row.created_at),
    )
