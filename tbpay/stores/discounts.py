"""Discount codes: named reductions, the limits of their uses, and who used them."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from tbpay import database, schema
from tbpay.database import atomically, snapshot
from tbpay.errors import (
    Code,
    ConflictError,
    InvalidInputError,
    RefusedError,
)
from tbpay.models import (
    MAX_AMOUNT_CENTS,
    MAX_PERCENT,
    MAX_USES,
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
from tbpay.stores import accounts, order_rows, redemptions
from tbpay.stores.paging import page, place
from tbpay.stores.redemptions import name_of

_codes = schema.discount_codes
_redemptions = schema.discount_redemptions


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
            return None if name is None else redemptions.get(name)

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
            found = redemptions.usable(code, amount_cents, account_id)
            if amount_cents is not None:
                redemptions.charged_cents(found, amount_cents)
            return found

    def set_active(self, code: str, active: bool) -> DiscountCode:
        """Let new orders take a code, or no longer; orders that hold a use keep it."""
        name = name_of(code)
        flag(active, "active")
        return atomically(lambda: _set_active(name, code, active), repeatable=True)

    def find(self, *, limit: int | None = 50, cursor: str | None = None) -> Page[DiscountCode]:
        """List the codes, newest first."""
        here = place("discount codes", limit, cursor)
        return page(redemptions.discount_code_of, redemptions.SELECTED, _codes.c.id, here)

    def redemptions(
        self, code: str, *, limit: int | None = 50, cursor: str | None = None
    ) -> Page[Redemption]:
        """List the uses of a code, newest first, those given back too. Raises NotFoundError."""
        name = name_of(code)
        here = place("redemptions", limit, cursor)
        with snapshot():
            found = redemptions.require(name, code)
            own = sa.select(_redemptions).where(_redemptions.c.discount_code_id == found.id)
            return page(_redemption, own, _redemptions.c.id, here)


discount_code_store = DiscountCodeStore()


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
    return redemptions.require(values["code"], values["code"])


def _update(name: str | None, code: str, limits: dict[str, Any]) -> DiscountCode:
    found = redemptions.require_locked(name, code)
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
    return redemptions.require(name, code)


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
                _redemptions.c.status.in_(redemptions.LIVE),
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
        redemptions.redeem(redemptions.usable(code), RedemptionStatus.REDEEMED)
        return redemptions.require(name, code)
    order = order_rows.locked(order_id)
    found = redemptions.require(name, code)
    if order.status is OrderStatus.FAILED:
        raise ConflictError(f"order {order_id} has failed: it holds no use of a code")
    if order.discount_code_id not in (None, found.id):
        raise ConflictError(f"order {order_id} has another discount code than {found.code}")
    if order.discount_code_id == found.id:
        return found
    redemptions.usable(code, order.credit_cents, order.account_id)
    order_rows.changed(order_id, discount_code_id=found.id)
    is_pending = order.status is OrderStatus.PENDING
    redemptions.redeem(
        found,
        RedemptionStatus.RESERVED if is_pending else RedemptionStatus.REDEEMED,
        amount_cents=order.credit_cents,
        order_id=order_id,
        account_id=order.account_id,
    )
    return redemptions.require(name, code)


def _set_active(name: str | None, code: str, active: bool) -> DiscountCode:
    found = redemptions.require_locked(name, code)
    if found.active == active:
        return found
    changed = sa.update(_codes).where(_codes.c.id == found.id).values(active=active)
    database.connection().execute(changed)
    return redemptions.require(name, code)


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
