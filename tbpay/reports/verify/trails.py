"""Trails: the lines of each account, where they lead, and what they add up to."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from tbpay import schema
from tbpay.reports.verify import lines
from tbpay.reports.verify.charges import subcent_after
from tbpay.reports.verify.looking import (
    Condition,
    Difference,
    Scope,
    Subject,
    amount,
    timed,
    unless,
)

ACCOUNTS_AT_ONCE = 500

_balances = schema.account_balances
_lines = schema.transactions


def count(scope: Scope) -> dict[str, int]:
    """Count what there is to look at, by check."""
    balances = scope.count(_balances)
    return {"lines": scope.count(_lines), "balances": balances, "trails": balances}


def differences(
    scope: Scope, total: int, on_progress: Callable[[int, int], None]
) -> Iterator[Difference]:
    """Answer what is wrong with lines, balances, and what lines add up to.

    Where every line of an account follows the one before it, and the balance is what the last one
    says, that is what they add up to: only the others are added up.
    """
    suspects: dict[Any, None] = {}
    for part in lines.parts(scope, total):
        for line in scope.rows(lines.wrong(scope, part)):
            suspects[line.account_id] = None
            yield from lines.of_line(line)
        for balance in scope.rows(_wrong_balances(scope, part)):
            suspects[balance.account_id] = None
        on_progress(total if part.upto is None else part.upto.lines_so_far, total)
    for difference in lines.differences_of_place(scope, total):
        suspects[difference.account_id] = None
        yield difference
    accounts = list(suspects)
    for first in range(0, len(accounts), ACCOUNTS_AT_ONCE):
        for account in scope.rows(_added_up(accounts[first : first + ACCOUNTS_AT_ONCE])):
            yield from _of_account(account)
    if scope.account_id is None:
        yield from _balances_of_nobody(scope)


def _wrong_balances(scope: Scope, part: lines.Part) -> sa.Select[Any]:
    """Select the balances of a part that are not what the last line says."""
    within = [scope.owns(_balances)]
    if part.after is not None:
        within.append(_balances.c.account_id > part.after.account_id)
    if part.upto is not None:
        within.append(_balances.c.account_id <= part.upto.account_id)
    return sa.select(_balances.c.account_id).where(*within, unless(_is_last_line()))


def _is_last_line() -> Condition:
    return sa.and_(
        _balances.c.balance_cents == _of_last_line("balance_after_cents", _balances),
        _balances.c.account_version == _of_last_line("account_version", _balances),
        _balances.c.subcent_micros == subcent_after(_balances.c.account_id),
        timed(_balances.c.updated_at),
    )


def _of_last_line(name: str, of: sa.FromClause) -> sa.ColumnElement[Any]:
    """Answer what a column holds in the last line of an account, 0 where it has none."""
    last = (
        sa.select(_lines.c[name])
        .where(_lines.c.account_id == of.c.account_id, _lines.c.account_version.is_not(None))
        .order_by(_lines.c.account_version.desc())
        .limit(1)
    )
    return sa.func.coalesce(last.scalar_subquery(), 0)


def _added_up(accounts: Sequence[Any]) -> sa.Select[Any]:
    """Select the balances of some accounts, where they lead, and what their lines add up to."""
    account = sa.union(
        *(sa.select(table.c.account_id).where(table.c.account_id.in_(accounts)) for table in _KEPT)
    ).subquery("account")
    step_cents = sa.case(lines.SIGNS, value=_lines.c.transaction_type) * amount(
        _lines.c.amount_cents
    )
    added_up = sa.select(sa.func.sum(step_cents)).where(_lines.c.account_id == account.c.account_id)
    return (
        sa.select(
            account.c.account_id,
            _balances.c.id,
            _balances.c.balance_cents,
            _balances.c.account_version,
            _balances.c.subcent_micros,
            _balances.c.updated_at,
            _of_last_line("balance_after_cents", account).label("last_balance_cents"),
            _of_last_line("account_version", account).label("last_version"),
            subcent_after(account.c.account_id).label("last_subcent_micros"),
            sa.func.coalesce(sa.cast(added_up.scalar_subquery(), sa.BigInteger), 0).label(
                "added_up_cents"
            ),
        )
        .select_from(account.outerjoin(_balances, _balances.c.account_id == account.c.account_id))
        .order_by(account.c.account_id)
    )


_KEPT = (_lines, _balances)


def _of_account(account: Any) -> Iterator[Difference]:
    name = f"account {account.account_id}"
    balance = Subject("balances", account.account_id, name)
    if account.id is None:
        yield balance.differs("balance_cents", None, account.last_balance_cents)
        return
    yield from balance.compared("balance_cents", account.balance_cents, account.last_balance_cents)
    yield from balance.compared("account_version", account.account_version, account.last_version)
    yield from balance.compared(
        "subcent_micros", account.subcent_micros, account.last_subcent_micros
    )
    yield from balance.timed(account, "updated_at")
    trail = Subject("trails", account.account_id, name)
    yield from trail.compared("balance_cents", account.balance_cents, account.added_up_cents)


def _balances_of_nobody(scope: Scope) -> Iterator[Difference]:
    alone = sa.select(_balances.c.id).where(_balances.c.account_id.is_(None))
    for balance in scope.rows(alone):
        this = Subject("balances", None, f"balance {balance.id}")
        yield this.differs("account_id", None, "an account")
