"""``tbpay balance``."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from tbpay.cli.change import change, confirm, preview, settled_key
from tbpay.cli.options import (
    AccountName,
    Amount,
    Below,
    Key,
    Reason,
    argument,
    chosen,
    command,
    group,
    show,
)
from tbpay.cli.output import note
from tbpay.cli.parsers import AccountRef, parse_account
from tbpay.models import AccountBalance, Transaction
from tbpay.money import show_cents

app = group("Balances: what accounts can spend, and the lines that say why.")


@command(app, "show", "tbpay balance show", "tbpay balance show 7 ann@example.com", lists=True)
def show_(
    accounts: Annotated[
        list[AccountRef] | None,
        argument(parse_account, "ACCOUNT...", "Ids or email addresses; all unless given."),
    ] = None,
    below: Below = None,
) -> None:
    """Show the balance of accounts, or of every account."""
    from tbpay.database import snapshot
    from tbpay.stores import balance_store

    with snapshot():
        numbers = None if not accounts else [account.find() for account in accounts]
        found = balance_store.find(account_ids=numbers, below_cents=below, **chosen().paging)
    one = numbers is not None and len(numbers) == 1 and below is None
    show(
        found.items[0] if one else found,
        columns=("account_id", "balance_cents", "updated_at"),
        kind=AccountBalance,
    )


@command(app, "credit", 'tbpay balance credit 7 --amount 10.50 --reason "goodwill"', changes=True)
def credit(account: AccountName, amount: Amount, reason: Reason, key: Key = None) -> None:
    """Add to a balance by hand."""
    from tbpay.database import location
    from tbpay.stores import balance_store, order_store

    number = account.find()
    key = settled_key(key)
    moved = _change(
        "credit",
        number,
        lambda: balance_store.add_credits(number, amount, reason, key=key),
        reason,
        key,
    )
    if not moved.replayed:
        pending = order_store.find(account_id=number, status="pending", limit=1)
        for order in pending.items:
            others = " and others are" if pending.next else " is"
            completes = location().command(f"order complete {order.id}")
            note(
                f"order {order.id}{others} pending:"
                f" if this was a payment, {completes} credits it too"
            )
    _show(moved)


@command(
    app,
    "debit",
    'tbpay balance debit 7 --amount 10.50 --reason "paid out"',
    'tbpay balance debit 7 --amount 10.50 --reason "chargeback" --allow-negative',
    changes=True,
)
def debit(
    account: AccountName,
    amount: Amount,
    reason: Reason,
    allow_negative: Annotated[
        bool, typer.Option("--allow-negative", help="Take more than there is; asks first.")
    ] = False,
    key: Key = None,
) -> None:
    """Take off a balance by hand."""
    from tbpay.stores import balance_store

    number = account.find()

    def deduct() -> Transaction:
        return balance_store.deduct(number, amount, reason, key=key, allow_negative=allow_negative)

    if allow_negative and not chosen().yes:
        line = preview(deduct)
        # What nobody was asked about stays forbidden, whatever is taken off meanwhile.
        allow_negative = line.balance_after_cents < 0 and not line.replayed
        if allow_negative:
            confirm(f"take account {number} to {show_cents(line.balance_after_cents)} USD")
    key = settled_key(key)
    _show(_change("debit", number, deduct, reason, key))


@command(
    app, "history", "tbpay balance history 7", "tbpay balance history 7 --all -o csv", lists=True
)
def history(account: AccountName) -> None:
    """List the lines of an account, newest first."""
    from tbpay.stores import balance_store

    show(
        balance_store.history(account.find(), **chosen().paging),
        columns=(
            "id",
            "created_at",
            "transaction_type",
            "amount_cents",
            "balance_after_cents",
            "order_id",
            "description",
        ),
        kind=Transaction,
    )


@dataclass(frozen=True)
class _Moved:
    """A line by hand, and what its account has now: of a replay that is not what the line left."""

    line: Transaction
    balance_cents: int

    @property
    def replayed(self) -> bool:
        return self.line.replayed


def _change(
    verb: str, account_id: int, work: Callable[[], Transaction], reason: str, key: str | None
) -> _Moved:
    from tbpay.stores import balance_store

    opposite = {"credit": "debit", "debit": "credit"}[verb]
    return change(
        f"balance {verb}",
        f"account {account_id}",
        lambda: _Moved(work(), balance_store.get_balance(account_id)),
        key=key,
        reason=reason,
        detail=_detail,
        undo=lambda moved: _opposite(opposite, moved.line),
    )


def _show(moved: _Moved) -> None:
    """Show a line together with the balance that there is."""
    fields = asdict(moved.line)
    replayed = fields.pop("replayed")
    balance = {"balance_cents": moved.balance_cents}
    # Of a new line people read the balance on the line itself.
    show(
        fields | balance | {"replayed": replayed},
        people=lambda _: fields | balance if replayed else fields,
    )


def _detail(moved: _Moved) -> dict[str, Any]:
    return {"transaction_id": moved.line.id, "amount_cents": moved.line.amount_cents}


def _opposite(verb: str, line: Transaction) -> str:
    return (
        f"balance {verb} {line.account_id} --amount {show_cents(line.amount_cents)}"
        f' --reason "takes back line {line.id}"'
    )
