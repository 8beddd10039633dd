"""``tbpay account``."""

from dataclasses import asdict
from typing import Annotated

from tbpay.cli.change import change
from tbpay.cli.options import chosen, command, group, in_one_amount, show
from tbpay.cli.parameters import AccountName, Below, option
from tbpay.cli.parsers import parse_text
from tbpay.errors import NotFoundError
from tbpay.models import Account, email_address

app = group("Accounts: the customers.")


@command(
    app,
    "create",
    "tbpay account create",
    "tbpay account create --email ann@example.com",
    changes=True,
)
def create(
    email: Annotated[
        str | None, option("--email", email_address, "E", "The customer's email address.")
    ] = None,
) -> None:
    """Create an account, where the web application's table lets tbpay do so."""
    from tbpay.stores import account_store

    show(
        change(
            "account create",
            lambda account: f"account {account.id}",
            lambda: account_store.create(email),
            repeatable=False,
        )
    )


@command(
    app,
    "list",
    "tbpay account list --search example.com",
    "tbpay account list --below 5",
    lists=True,
)
def list_(
    search: Annotated[
        str | None,
        option("--search", parse_text, "TEXT", "A part of the email or the Stripe customer."),
    ] = None,
    below: Below = None,
) -> None:
    """List accounts."""
    from tbpay.stores import account_store

    found = account_store.find(search=search, below_cents=below, **chosen().paging)
    show(found, columns=("id", "email", "created_at", "stripe_customer_id"), kind=Account)


@command(app, "show", "tbpay account show 7", "tbpay account show ann@example.com --json")
def show_(account: AccountName) -> None:
    """Show one account and its balance."""
    from tbpay.database import snapshot
    from tbpay.stores import account_store, balance_store

    with snapshot():
        account_id = account.find()
        found = account_store.get_by_id(account_id)
        if found is None:
            raise NotFoundError(f"no account {account_id}")
        [balance] = balance_store.find(account_ids=[account_id]).items
    has = {"balance_cents": balance.balance_cents, "subcent_micros": balance.subcent_micros}
    show(asdict(found) | has, people=in_one_amount)
