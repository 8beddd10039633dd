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
    DiscountCode,
    DiscountType,
    OrderStatus,
    Page,
    amount,
    discount_code,
    flag,
    identifier,
    read_time,
    stripe_id,
    time_text,
    whole,
    word,
)
from tbpay.money import percentage
from tbpay.stores import accounts
from tbpay.stores.paging import page, place

_codes = schema.discount_codes
_orders = schema.orders

_is_left = sa.or_(_codes.c.max_uses.is_(None), _codes.c.current_uses < _codes.c.max_uses)
_one_more = {"current_uses": _codes.c.current_uses + 1}
_TAKE = (
    sa.update(_codes)
    .where(_codes.c.code == sa.bindparam("name"), _codes.c.active, _is_left)
    .values(_one_more)
    .returning(_codes)
)
_TAKE_AGAIN = (
    sa.update(_codes).where(_codes.c.id == sa.bindparam("code_id"), _is_left).values(_one_more)
)
_GIVE_BACK = (
    sa.update(_codes)
    .where(_codes.c.id == sa.bindparam("code_id"), _codes.c.current_uses > 0)
    .values(current_uses=_codes.c.current_uses - 1)
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
    ) -> DiscountCode:
        """Create an active code that nobody has used yet.

        ``discount_value`` is 1 … 100 per cent, or 1 … 99,999,999 cents for a fixed one. Raises
        ConflictError where the code exists.
        """
        name = discount_code(code)
        kind = word(DiscountType, discount_type, "discount_type")
        highest = MAX_PERCENT if kind is DiscountType.PERCENT else MAX_AMOUNT_CENTS
        whole(discount_value, "discount_value", 1, highest)
        if max_uses is not None:
            whole(max_uses, "max_uses", 1, MAX_USES)
        if stripe_coupon_id is not None:
            stripe_id(stripe_coupon_id, "stripe_coupon_id")
        values = {
            "code": name,
            "discount_type": kind,
            "discount_value": discount_value,
            "max_uses": max_uses,
            "current_uses": 0,
            "active": True,
            "stripe_coupon_id": stripe_coupon_id,
            "created_at": time_text(datetime.now(UTC)),
        }
        return atomically(lambda: _create(values))

    def get_by_code(self, code: str) -> DiscountCode | None:
        """Answer a code, in upper or lower case and with spaces around it; or None."""
        name = name_of(code)
        with snapshot():
            return None if name is None else _get(name)

    def increment_uses(self, code: str, *, order_id: int | None = None) -> DiscountCode:
        """Count one more use, unless the last one is gone.

        With an order it is that order's use: no effect where the order holds it already, and given
        back should the order fail. Raises NotFoundError for an unknown code or order, RefusedError
        for an inactive or used-up code, ConflictError for an order that failed or has another code.
        """
        name = name_of(code)
        if order_id is not None:
            identifier(order_id, "order_id")
        return atomically(lambda: _increment_uses(name, code, order_id))

    def validate(
        self, code: str, *, amount_cents: int | None = None, account_id: int | None = None
    ) -> DiscountCode:
        """Answer a code that an order could take now; changes nothing.

        Raises NotFoundError (``unknown``) or RefusedError (``inactive``, ``used_up``).
        """
        name = name_of(code)
        if amount_cents is not None:
            amount(amount_cents)
        if account_id is not None:
            identifier(account_id, "account_id")
        with snapshot():
            if account_id is not None:
                accounts.require(account_id)
            found = _require(name, code)
            _refuse_unusable(found)
            return found

    def set_active(self, code: str, active: bool) -> DiscountCode:
        """Let new orders take a code, or no longer; orders that hold a use keep it."""
        name = name_of(code)
        flag(active, "active")
        return atomically(lambda: _set_active(name, code, active))

    def find(self, *, limit: int | None = 50, cursor: str | None = None) -> Page[DiscountCode]:
        """List the codes, newest first."""
        here = place("discount codes", limit, cursor)
        return page(_discount_code, sa.select(_codes), _codes.c.id, here)


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


def take_use(code: str) -> DiscountCode:
    """Count one more use of an active code and answer it: one statement, or a refusal."""
    name = name_of(code)
    row = database.connection().execute(_TAKE, {"name": name}).first()
    if row is not None:
        return _discount_code(row)
    _refuse_unusable(_require(name, code))
    raise AssertionError("a code that can be used was not taken")


def take_use_again(code_id: int) -> bool:
    """Count the use of an order that was paid late, if one is left; tell whether it was."""
    return database.connection().execute(_TAKE_AGAIN, {"code_id": code_id}).rowcount == 1


def give_use_back(code_id: int) -> None:
    """Count one use less."""
    database.connection().execute(_GIVE_BACK, {"code_id": code_id})


def _create(values: dict[str, Any]) -> DiscountCode:
    new = database.insert_if_absent(_codes).returning(_codes)
    row = database.connection().execute(new, values).first()
    if row is None:
        raise ConflictError(f"discount code {values['code']} exists already", code=Code.EXISTS)
    return _discount_code(row)


def _increment_uses(name: str | None, code: str, order_id: int | None) -> DiscountCode:
    if order_id is None:
        return take_use(code)
    connection = database.connection()
    order = connection.execute(
        sa.select(_orders.c.discount_code_id, _orders.c.status)
        .where(_orders.c.id == order_id)
        .with_for_update()
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
    taken = take_use(code)
    holds = sa.update(_orders).where(_orders.c.id == order_id)
    connection.execute(holds.values(discount_code_id=taken.id))
    return taken


def _set_active(name: str | None, code: str, active: bool) -> DiscountCode:
    found = _require(name, code)
    if found.active == active:
        return found
    changed = sa.update(_codes).where(_codes.c.id == found.id).values(active=active)
    row = database.connection().execute(changed.returning(_codes)).one()
    return _discount_code(row)


def _get(name: str) -> DiscountCode | None:
    row = database.connection().execute(sa.select(_codes).where(_codes.c.code == name)).first()
    return None if row is None else _discount_code(row)


def _require(name: str | None, code: str) -> DiscountCode:
    found = None if name is None else _get(name)
    if found is None:
        raise NotFoundError(f"no discount code {excerpt(code)}", code=Code.UNKNOWN)
    return found


def _refuse_unusable(discount: DiscountCode) -> None:
    if not discount.active:
        raise RefusedError(f"discount code {discount.code} is inactive", code=Code.INACTIVE)
    if discount.max_uses is not None and discount.current_uses >= discount.max_uses:
        raise RefusedError(f"discount code {discount.code} is used up", code=Code.USED_UP)


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
    )
