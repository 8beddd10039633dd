"""Lines: whether each is sound in itself, and follows the one before it in its account."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import sqlalchemy as sa

from tbpay import schema
from tbpay.models import MAX_ID, TransactionType
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

# SQLite hears no signal before it is done with a statement. PostgreSQL looks for the lines of a
# part all over the table, and does that the less often the larger the parts are.
LINES_AT_ONCE = {"sqlite": 50_000, "postgresql": 250_000}

SIGNS = {TransactionType.CREDIT: 1, TransactionType.DEBIT: -1, TransactionType.REFUND: -1}
"""What a line does to the balance, by its kind."""

_balances = schema.account_balances
_lines = schema.transactions
_orders = schema.orders


class Place(NamedTuple):
    """A place after a line, or after the last of an account: in all after so many lines."""

    account_id: int
    version: int | None
    lines_so_far: int


class Part(NamedTuple):
    """The lines after one place, up to the next one; None is where there are no more."""

    after: Place | None
    upto: Place | None


def parts(scope: Scope, total: int) -> Iterator[Part]:
    """Part the lines into bounded numbers, as the balances count them.

    Should they count wrong, a part is larger or smaller; together the parts are all there is.
    """
    for after, upto in pairwise([None, *_places(scope, total), None]):
        yield Part(after, upto)


def _places(scope: Scope, total: int) -> Iterator[Place]:
    at_once = LINES_AT_ONCE[scope.connection.dialect.name]
    lines = _counted(total)
    so_far = sa.cast(sa.func.sum(lines).over(order_by=_balances.c.account_id), sa.BigInteger)
    counted = (
        sa.select(_balances.c.account_id, lines.label("lines"), so_far.label("so_far"))
        .where(scope.owns(_balances), _balances.c.account_id.between(1, MAX_ID))
        .subquery()
    )
    fills_a_part = counted.c.so_far // at_once > (counted.c.so_far - counted.c.lines) // at_once
    for account in scope.rows(sa.select(counted).where(fills_a_part).order_by("account_id")):
        for version in range(at_once, account.lines, at_once):
            lines_so_far = account.so_far - account.lines + version
            yield Place(account.account_id, version, lines_so_far)
        yield Place(account.account_id, None, account.so_far)


def _counted(total: int) -> sa.ColumnElement[Any]:
    """Answer how many lines a balance counts, 0 where there cannot be so many."""
    version = sa.cast(_balances.c.account_version, sa.BigInteger)
    return sa.case((version.between(0, total), version), else_=0)


def wrong(scope: Scope, part: Part) -> sa.Select[Any]:
    """Select the lines of a part that are not sound, each with what it has to follow."""
    line = _with_the_one_before(scope, part)
    kind, amount_cents = line.c.transaction_type, amount(line.c.amount_cents)
    sound = sa.and_(
        line.c.account_version == _addable(line.c.version_before) + 1,
        line.c.balance_after_cents
        == _addable(line.c.cents_before) + sa.case(SIGNS, value=kind) * amount_cents,
        line.c.id > line.c.id_before,
        line.c.is_sound,
    )
    earlier, same = _lines.alias(), _lines.alias()
    last_version = sa.select(sa.func.max(earlier.c.account_version)).where(
        earlier.c.account_id == line.c.account_id,
        earlier.c.account_version < line.c.account_version,
    )
    # Looked up for those alone that are wrong: what goes through a window takes its time there.
    also = {
        "last_version": last_version,
        "order_id": sa.select(same.c.order_id).where(same.c.id == line.c.id),
        "order_account_id": sa.select(_account_of_order(same)).where(same.c.id == line.c.id),
        "created_at": sa.select(same.c.created_at).where(same.c.id == line.c.id),
    }
    found = sa.select(
        line, *(question.scalar_subquery().label(name) for name, question in also.items())
    ).where(unless(sound))
    if part.after is not None and part.after.version is not None:
        found = found.where(line.c.account_version > part.after.version)
    return found.order_by(line.c.account_id, line.c.account_version)


def _with_the_one_before(scope: Scope, part: Part) -> sa.Subquery:
    """Select the lines of a part, each with what the line before it holds, or 0."""
    within = [scope.owns(_lines), *_within(part)]
    columns = [*(_lines.c[name] for name in _COLUMNS), _is_sound_by_itself().label("is_sound")]
    if scope.connection.dialect.name == "sqlite":
        # It copies what is in a window, which takes longer than to look the other line up.
        before = _lines.alias("before")
        comes_before = sa.and_(
            before.c.account_id == _lines.c.account_id,
            before.c.account_version == _lines.c.account_version - 1,
        )
        held = [_or_0(before.c[name], label) for name, label in _HELD_BEFORE.items()]
        source = _lines.outerjoin(before, comes_before)
        return sa.select(*columns, *held).select_from(source).where(*within).subquery("line")
    # OFFSET keeps PostgreSQL from carrying through the window what is settled before it.
    line = sa.select(*columns).where(*within).offset(0).subquery("line_alone")
    held = [
        _or_0(
            sa.func.lag(line.c[name], type_=line.c[name].type).over(
                partition_by=line.c.account_id, order_by=line.c.account_version
            ),
            label,
        )
        for name, label in _HELD_BEFORE.items()
    ]
    return sa.select(line, *held).subquery("line")


_COLUMNS = (
    "id",
    "account_id",
    "account_version",
    "transaction_type",
    "amount_cents",
    "balance_after_cents",
)
_HELD_BEFORE = {
    "id": "id_before",
    "account_version": "version_before",
    "balance_after_cents": "cents_before",
}


def _or_0(column: sa.ColumnElement[Any], label: str) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(column, 0).label(label)


def _is_sound_by_itself() -> Condition:
    """Ask of a line whether its time is one, and whether its account has the order it names."""
    has_balance = sa.exists().where(_balances.c.account_id == _lines.c.account_id)
    return sa.and_(
        sa.or_(_lines.c.order_id.is_(None), _lines.c.account_id == _account_of_order(_lines)),
        timed(_lines.c.created_at),
        # Of a first line it may be the balance that is missing.
        sa.or_(_lines.c.account_version != 1, has_balance),
    )


def _account_of_order(lines: sa.FromClause) -> sa.ColumnElement[Any]:
    of_order = sa.select(_orders.c.account_id).where(_orders.c.id == lines.c.order_id)
    return of_order.scalar_subquery()


def _within(part: Part) -> Iterator[Condition]:
    """Ask for the lines of a part, and the one after which it begins, if it is the same account's.

    Of one account alone it is asked for its versions: PostgreSQL cannot guess how many lines stand
    between two pairs of account and version.
    """
    account, version = _lines.c.account_id, _lines.c.account_version
    yield account.is_not(None)
    yield version.is_not(None)
    after, upto = part
    if after is not None and after.version is not None:
        yield account == after.account_id
        yield version >= after.version
        if upto is not None and upto.version is not None:
            yield version <= upto.version
        return
    if after is not None:
        yield account > after.account_id
    if upto is not None and upto.version is None:
        yield account <= upto.account_id
    elif upto is not None:
        bound = sa.tuple_(upto.account_id, upto.version, types=[account.type, version.type])
        yield sa.tuple_(account, version) <= bound


def _addable(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Answer a column where a sum of it cannot overflow, else NULL."""
    return sa.case((column.between(-(2**62), 2**62), column))


def of_line(line: Any) -> Iterator[Difference]:
    """Answer what is wrong with a line."""
    this = Subject("lines", line.account_id, f"line {line.id}")
    if line.transaction_type not in SIGNS:
        yield this.differs("transaction_type", line.transaction_type, one_of(SIGNS))
    if not is_amount(line.amount_cents):
        yield this.differs("amount_cents", line.amount_cents, AN_AMOUNT)
    if line.order_id is not None and line.order_account_id != line.account_id:
        yield this.differs("order_id", line.order_id, "an order of the same account")
    yield from this.timed(line, "created_at")
    yield from _of_place(this, line)


def _of_place(this: Subject, line: Any) -> Iterator[Difference]:
    last_version = line.last_version or 0
    if type(last_version) is int and line.account_version != last_version + 1:
        yield this.differs("account_version", line.account_version, last_version + 1)
    elif line.version_before == last_version:
        if line.id <= line.id_before:
            yield this.differs("id", line.id, f"above {line.id_before}")
        sign, cents_before = SIGNS.get(line.transaction_type), line.cents_before
        if sign is not None and is_amount(line.amount_cents) and type(cents_before) is int:
            after_cents = cents_before + sign * line.amount_cents
            yield from this.compared("balance_after_cents", line.balance_after_cents, after_cents)


def differences_of_place(scope: Scope, total: int) -> Iterator[Difference]:
    """Answer what is wrong with lines that have no place of their own among the others."""
    if scope.account_id is None:
        nowhere = sa.or_(_lines.c.account_id.is_(None), _lines.c.account_version.is_(None))
        for line in scope.rows(sa.select(_lines).where(nowhere).order_by(_lines.c.id)):
            this = Subject("lines", line.account_id, f"line {line.id}")
            for field in ("account_id", "account_version"):
                if getattr(line, field) is None:
                    yield this.differs(field, None, "a number")
    # Where each account has the lines 1 … n, and there are as many lines as the balances count,
    # none is there twice.
    counted = sa.select(sa.func.sum(_counted(total))).where(scope.owns(_balances))
    if (scope.connection.execute(counted).scalar() or 0) == total:
        return
    doubled = (
        sa.select(
            _lines.c.account_id, _lines.c.account_version, sa.func.max(_lines.c.id).label("id")
        )
        .where(scope.owns(_lines))
        .group_by(_lines.c.account_id, _lines.c.account_version)
        .having(sa.func.count() > 1)
    )
    for line in scope.rows(doubled):
        this = Subject("lines", line.account_id, f"line {line.id}")
        yield this.differs("account_version", line.account_version, "another number")
