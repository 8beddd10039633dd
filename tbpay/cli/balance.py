"""``tbpay balance``."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from tbpay.cli.change import change, confirm, preview
from tbpay.cli.options import (
    AccountName,
    Amount,
    Below,
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
def credit(account: AccountName, amount: Amount, reason: Reason) -> None:
    """Add to a balance by hand."""
    from tbpay.database import location
    from tbpay.stores import balance_store, order_store

    number = account.find()
    line = change(
        "balance credit",
        f"account {number}",
        lambda: balance_store.add_credits(number, amount, reason),
        reason=reason,
        detail=_detail,
        undo=lambda line: _opposite("debit", line),
    )
    pending = order_store.find(account_id=number, status="pending", limit=1)
    for order in pending.items:
        others = " and others are" if pending.next else " is"
        completes = location().command(f"order complete {order.id}")
        note(f"order {order.id}{others} pending: if this was a payment, {completes} credits it too")
    _show(line)


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
) -> None:
    """Take off a balance by hand."""
    from tbpay.stores import balance_store

    number = account.find()

    def deduct() -> Transaction:
        return balance_store.deduct(number, amount, reason, allow_negative=allow_negative)

    if allow_negative and not chosen().yes:
        after_cents = preview(deduct).balance_after_cents
        # What nobody was asked about stays forbidden, whatever is taken off meanwhile.
        allow_negative = after_cents < 0
        if allow_negative:
            confirm(f"take account {number} to {show_cents(after_cents)} USD")
    line = change(
        "balance debit",
        f"account {number}",
        deduct,
        reason=reason,
        detail=_detail,
        undo=lambda line: _opposite("credit", line),
    )
    _show(line)


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


def _show(line: Transaction) -> None:
    """Show a line together with the balance that it left."""
    fields = asdict(line)
    replayed = fields.pop("replayed")
    # People read that balance on the line itself.
    show(
        fields | {"balance_cents": line.balance_after_cents, "replayed": replayed},
        people=lambda _: fields,
    )


def _detail(line: Transaction) -> dict[str, Any]:
    return {"transaction_id": line.id, "amount_cents": line.amount_cents}


def _opposite(verb: str, line: Transaction) -> str:
    return (
        f"balance {verb} {line.account_id} --amount {show_cents(line.amount_cents)}"
        f' --reason "takes back line {line.id}"'
    )
