"""``tbpay balance``."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from tbpay.cli.change import change, confirm, preview, settled_key
from tbpay.cli.exits import UsageError
from tbpay.cli.options import chosen, command, group, in_one_amount, show
from tbpay.cli.output import note
from tbpay.cli.parameters import (
    AccountName,
    Amount,
    Below,
    Key,
    PhoneName,
    Reason,
    Segments,
    Text,
    argument,
    option,
)
from tbpay.cli.parsers import AccountRef, parse_account, parse_country
from tbpay.errors import Code, RefusedError
from tbpay.models import AccountBalance, Page, Transaction
from tbpay.money import MICROS_PER_CENT, show_cents

app = group("Balances: what accounts can spend, and the lines that say why.")


@command(app, "show", "tbpay balance show", "tbpay balance show 7 ann@example.com", lists=True)
def show_(
    accounts: Annotated[
        list[AccountRef] | None,
        argument(parse_account, "ACCOUNT...", "Ids or email addresses; all unless given."),
    ] = None,
    below: Below = None,
    country: Annotated[
        str | None,
        option(
            "--country", parse_country, "CC", "Say how many segments to there it still buys: GB."
        ),
    ] = None,
) -> None:
    """Show the balance of accounts, or of every account, to the micro."""
    from tbpay.database import snapshot
    from tbpay.stores import balance_store

    with snapshot():
        account_ids = None if not accounts else [account.find() for account in accounts]
        found = balance_store.find(account_ids=account_ids, below_cents=below, **chosen().paging)
    one = account_ids is not None and len(account_ids) == 1 and below is None
    shown = found if country is None else _with_segments(found, country)
    show(
        shown.items[0] if one else shown,
        columns=(
            "account_id",
            "balance_micros",
            *(("segments_left",) if country is not None else ()),
            "updated_at",
        ),
        kind=AccountBalance if country is None else _Purse,
        people=lambda balance: in_one_amount(asdict(balance)),
    )


@dataclass(frozen=True)
class _Purse(AccountBalance):
    """A balance, and how many segments to a country it still buys; ``fallback`` at the US rate."""

    country_code: str = ""
    fallback: bool = False
    rate_micros: int = 0
    segments_left: int = 0


def _with_segments(found: Page[AccountBalance], country: str) -> Page[AccountBalance]:
    from tbpay.sms_pricing import rate_of

    rate = rate_of(country)
    fallback = rate.country_code != country
    if fallback:
        note(f"no price for {country}: the rate of {rate.country_code} stands in")

    def purse(balance: AccountBalance) -> AccountBalance:
        has_micros = balance.balance_cents * MICROS_PER_CENT + balance.subcent_micros
        left = max(has_micros, 0) // rate.rate_micros
        return _Purse(
            **asdict(balance),
            country_code=country,
            fallback=fallback,
            rate_micros=rate.rate_micros,
            segments_left=left,
        )

    return Page([purse(balance) for balance in found.items], found.next)


@command(app, "credit", 'tbpay balance credit 7 --amount 10.50 --reason "goodwill"', changes=True)
def credit(account: AccountName, amount: Amount, reason: Reason, key: Key = None) -> None:
    """Add to a balance by hand."""
    from tbpay.database import location
    from tbpay.stores import balance_store, order_store

    account_id = account.find()
    key = settled_key(key)
    moved = _change(
        "credit",
        account_id,
        lambda: balance_store.add_credits(account_id, amount, reason, key=key),
        reason,
        key,
    )
    if not moved.replayed:
        pending = order_store.find(account_id=account_id, status="pending", limit=1)
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

    account_id = account.find()

    def deduct() -> Transaction:
        return balance_store.deduct(
            account_id, amount, reason, key=key, allow_negative=allow_negative
        )

    if allow_negative and not chosen().yes:
        line = preview(deduct)
        # What nobody was asked about stays forbidden, whatever is taken off meanwhile.
        allow_negative = line.balance_after_cents < 0 and not line.replayed
        if allow_negative:
            confirm(f"take account {account_id} to {show_cents(line.balance_after_cents)} USD")
    key = settled_key(key)
    _show(_change("debit", account_id, deduct, reason, key))


@command(
    app,
    "charge",
    'tbpay balance charge 7 +447700900123 --text "Your code is 1234"',
    "tbpay balance charge ann@example.com +14155550123 --segments 3 --json",
    changes=True,
)
def charge(
    account: AccountName,
    number: PhoneName,
    text: Text = None,
    segments: Segments = None,
    fallback: Annotated[
        bool,
        typer.Option("--fallback", help="Charge a country without a price at the US rate."),
    ] = False,
    key: Key = None,
) -> None:
    """Charge exactly what a message to a number costs."""
    from tbpay.sms_pricing import quote
    from tbpay.stores import balance_store

    if text is not None and segments is not None:
        raise UsageError("--text and --segments exclude each other")
    account_id = account.find()
    # What is no message is refused before a key is made for it.
    quote(number, segments=segments, text=text)
    key = settled_key(key)

    def charge_sms() -> Transaction:
        try:
            return balance_store.charge_sms(
                account_id, number, segments=segments, text=text, fallback=fallback, key=key
            )
        except RefusedError as refusal:
            if refusal.code is Code.UNPRICED:
                refusal.hint = chosen().repetition(key, "--fallback")
            raise

    _show(_change("charge", account_id, charge_sms, None, key))


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
    """A line, and what its account has now: of a replay that is not what the line left."""

    line: Transaction
    balance: AccountBalance

    @property
    def replayed(self) -> bool:
        return self.line.replayed


_OPPOSITES = {"credit": "debit", "debit": "credit"}


def _change(
    verb: str,
    account_id: int,
    work: Callable[[], Transaction],
    reason: str | None,
    key: str | None,
) -> _Moved:
    from tbpay.stores import balance_store

    return change(
        f"balance {verb}",
        f"account {account_id}",
        lambda: _Moved(work(), balance_store.get_or_create(account_id)),
        key=key,
        reason=reason,
        detail=_detail,
        undo=lambda moved: _opposite(verb, moved.line),
    )


def _show(moved: _Moved) -> None:
    """Show a line together with the balance that there is."""
    line = asdict(moved.line)
    replayed = line.pop("replayed")
    balance = {
        "balance_cents": moved.balance.balance_cents,
        "subcent_micros": moved.balance.subcent_micros,
    }
    show(
        line | balance | {"replayed": replayed},
        people=lambda _: _of_line(line) | _of_balance(moved),
    )


def _of_line(line: dict[str, Any]) -> dict[str, object]:
    """Word a line for people: what was sold stands among the rest."""
    sold = line.pop("sms_charge")
    if sold is None:
        return line
    told = ("country_code", "segments", "rate_micros", "cost_micros", "twilio_cost_micros")
    return line | {name: sold[name] for name in told}


def _of_balance(moved: _Moved) -> dict[str, object]:
    """Word the balance where the line does not say it: its fraction, or of a replay all of it."""
    exact = in_one_amount(asdict(moved.balance))
    has_fraction = moved.balance.subcent_micros > 0
    return {"balance_micros": exact["balance_micros"]} if moved.replayed or has_fraction else {}


def _detail(moved: _Moved) -> dict[str, Any]:
    detail = {"transaction_id": moved.line.id, "amount_cents": moved.line.amount_cents}
    if (sold := moved.line.sms_charge) is not None:
        detail["cost_micros"] = sold.cost_micros
    return detail


def _opposite(verb: str, line: Transaction) -> str | None:
    """Word the command that takes a line back, where there is one."""
    if verb not in _OPPOSITES:
        return None
    return (
        f"balance {_OPPOSITES[verb]} {line.account_id} --amount {show_cents(line.amount_cents)}"
        f' --reason "takes back line {line.id}"'
    )
