"""Balances: what accounts can spend and the lines that say why; credits, debits, SMS charges."""

from dataclasses import replace

import sqlalchemy as sa

from tbpay import database, schema, sms_pricing
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
    MAX_COST_MICROS,
    AccountBalance,
    Page,
    SmsCharge,
    Transaction,
    TransactionType,
    amount,
    flag,
    idempotency_key,
    identifier,
    text,
    whole,
    word,
)
from tbpay.money import MICROS_PER_CENT, show_micros
from tbpay.stores import accounts, trail
from tbpay.stores.keys import fingerprint
from tbpay.stores.paging import page, place

_accounts = schema.accounts
_balances = schema.account_balances
_charges = schema.sms_charges
_transactions = schema.transactions


class BalanceStore:
    """Read balances and trails; credit and debit, by hand and for SMS."""

    def get_or_create(self, account_id: int) -> AccountBalance:
        """Answer an account's balance, made at 0 where it has none. Raises NotFoundError."""
        identifier(account_id, "account_id")
        return atomically(lambda: trail.get_or_create(account_id), repeatable=True)

    def get_balance(self, account_id: int) -> int:
        """Answer an account's balance in cents, 0 where it has none. Raises NotFoundError."""
        identifier(account_id, "account_id")
        with snapshot():
            return trail.require(account_id).balance_cents

    def add_credits(
        self,
        account_id: int,
        amount_cents: int,
        description: str,
        *,
        order_id: int | None = None,
        key: str | None = None,
    ) -> Transaction:
        """Add 1 … 99,999,999 cents to a balance and answer the line.

        An order is credited once: for one that has its credit the answer is that line, marked
        ``replayed``; with another amount, or for an order that failed, it is a ConflictError.
        Raises NotFoundError for an unknown account or order, RefusedError beyond the highest
        balance; about ``key`` see ``record_transaction``.
        """
        return self.record_transaction(
            account_id,
            TransactionType.CREDIT,
            amount_cents,
            description,
            order_id=order_id,
            key=key,
        )

    def deduct(
        self,
        account_id: int,
        amount_cents: int,
        description: str,
        *,
        order_id: int | None = None,
        key: str | None = None,
        allow_negative: bool = False,
    ) -> Transaction:
        """Take 1 … 99,999,999 cents off a balance and answer the line.

        All of a balance may be taken, and more of it only with ``allow_negative``. Raises
        RefusedError where it does not suffice, NotFoundError for an unknown account or order;
        about ``key`` see ``record_transaction``.
        """
        return self.record_transaction(
            account_id,
            TransactionType.DEBIT,
            amount_cents,
            description,
            order_id=order_id,
            key=key,
            allow_negative=allow_negative,
        )

    def record_transaction(
        self,
        account_id: int,
        transaction_type: TransactionType | str,
        amount_cents: int,
        description: str,
        *,
        order_id: int | None = None,
        key: str | None = None,
        allow_negative: bool = False,
    ) -> Transaction:
        """Move a balance and write its line: the one place where either happens.

        A credit adds, a debit and a refund take away; see ``add_credits``, and for both of the
        others ``deduct``. With a ``key``, 8–255 printable ASCII characters, the same call again
        answers the first one's line, marked ``replayed``, however often it is made and whoever
        dies meanwhile; for another account, order, amount or kind it is a ConflictError.
        """
        kind = word(TransactionType, transaction_type, "transaction_type")
        identifier(account_id, "account_id")
        amount(amount_cents)
        text(description, "description")
        if order_id is not None:
            identifier(order_id, "order_id")
        if key is not None:
            idempotency_key(key)
        flag(allow_negative, "allow_negative")
        key_hash = None
        if key is not None:
            key_hash = fingerprint(kind, account_id, order_id, amount_cents)
        return trail.write(
            trail.Entry(
                account_id,
                kind,
                amount_cents * MICROS_PER_CENT,
                description,
                order_id,
                key,
                key_hash,
                allow_negative,
            )
        )

    def charge_sms(
        self,
        account_id: int,
        phone: str,
        *,
        segments: int | None = None,
        text: str | None = None,
        fallback: bool = False,
        key: str | None = None,
    ) -> Transaction:
        """Charge exactly what a message to a phone costs by ``quote``, and answer the line.

        The message is one ``text``, or so many ``segments``, 1 unless given. ``amount_cents`` of
        the line is by how much the whole cents of the balance went down; ``sms_charge`` says what
        was sold, to the micro. Raises InvalidInputError as ``quote`` does, NotFoundError for an
        unknown account, and RefusedError where the balance is below the cost, or the country has no
        price (``unpriced``) unless ``fallback`` takes the US rate. The same ``key`` again answers
        the first line, whatever the rates are by then; for another account, country, number of
        segments or masked number it is a ConflictError.
        """
        identifier(account_id, "account_id")
        flag(fallback, "fallback")
        if key is not None:
            idempotency_key(key)
        charged = sms_pricing.quote(phone, segments=segments, text=text)
        sold = trail.Sold(
            sms_pricing.masked(phone),
            charged.country,
            charged.segments,
            charged.rate_micros,
            charged.cost_micros,
            charged.twilio_cost_micros,
        )
        entry = trail.Entry(
            account_id,
            TransactionType.DEBIT,
            charged.cost_micros,
            f"SMS to {sold.phone}",
            key=key,
            key_hash=None if key is None else _charge_hash(account_id, sold),
            sold=sold,
        )
        refusal = _refusal(charged, fallback=fallback)
        if refusal is not None:
            return atomically(lambda: _require_charged(entry, refusal))
        return trail.write(entry)

    def credit_back(self, transaction_id: int) -> Transaction:
        """Give back exactly what an SMS was charged, once, and answer the line that does.

        For a message that was not delivered. The same call again answers the first one's line,
        marked ``replayed``. Raises NotFoundError for an unknown line, ConflictError for a line that
        charged no SMS, RefusedError beyond the highest balance.
        """
        identifier(transaction_id, "transaction_id")
        return atomically(lambda: _credit_back(transaction_id), repeatable=True)

    def history(
        self, account_id: int, *, limit: int | None = 50, cursor: str | None = None
    ) -> Page[Transaction]:
        """List an account's lines, newest first. Raises NotFoundError for an unknown account."""
        identifier(account_id, "account_id")
        here = place("transactions", limit, cursor)
        lines = trail.LINES.where(_transactions.c.account_id == account_id)
        with snapshot():
            accounts.require(account_id)
            return page(trail.transaction_of, lines, _transactions.c.id, here)

    def find(
        self,
        *,
        account_ids: list[int] | None = None,
        below_cents: int | None = None,
        limit: int | None = 50,
        cursor: str | None = None,
    ) -> Page[AccountBalance]:
        """List the balances of every account, or of the given ones, by account.

        An account without a row has 0. ``below_cents`` keeps lower ones, 0 … 99,999,999. Raises
        NotFoundError for an account that does not exist.
        """
        if type(account_ids) not in (list, type(None)):
            raise InvalidInputError(f"account_ids must be a list, not {excerpt(account_ids)}")
        for account_id in account_ids or []:
            identifier(account_id, "account_id")
        if below_cents is not None:
            whole(below_cents, "below_cents", 0, MAX_AMOUNT_CENTS)
        here = place("balances", limit, cursor)
        balance_cents = sa.func.coalesce(_balances.c.balance_cents, 0)
        statement = sa.select(
            _balances.c.id,
            _accounts.c.id.label("account_id"),
            balance_cents.label("balance_cents"),
            _balances.c.updated_at,
            sa.func.coalesce(_balances.c.account_version, 0).label("account_version"),
            sa.func.coalesce(_balances.c.subcent_micros, 0).label("subcent_micros"),
        ).select_from(_accounts.outerjoin(_balances, _balances.c.account_id == _accounts.c.id))
        statement = statement.where(_accounts.c.id.is_not(None))
        if account_ids is not None:
            statement = statement.where(_accounts.c.id.in_(account_ids))
        if below_cents is not None:
            statement = statement.where(balance_cents < below_cents)
        with snapshot():
            for account_id in account_ids or []:
                accounts.require(account_id)
            return page(
                trail.account_balance_of, statement, _accounts.c.id, here, newest_first=False
            )


balance_store = BalanceStore()


def _charge_hash(account_id: int, sold: trail.Sold) -> str:
    return fingerprint("charge", account_id, sold.country_code, sold.segments, sold.phone)


def _refusal(charged: sms_pricing.Quote, *, fallback: bool) -> RefusedError | None:
    """Answer why a message is not sold at the rates in force, or None."""
    dearer_micros = max(charged.cost_micros, charged.twilio_cost_micros or 0)
    if dearer_micros > MAX_COST_MICROS:
        return RefusedError(
            f"{charged.segments:,} segments to {charged.country} cost {show_micros(dearer_micros)},"
            f" and a message costs at most {show_micros(MAX_COST_MICROS)}"
        )
    if charged.fallback and not fallback:
        return RefusedError(
            f"no price for {charged.country}: it is charged at the US rate or not at all",
            code=Code.UNPRICED,
        )
    return None


def _require_charged(entry: trail.Entry, refusal: RefusedError) -> Transaction:
    """Answer what the key of a charge has written; a new charge is refused."""
    accounts.require(entry.account_id)
    if entry.key is not None and (line := trail.keyed(entry)) is not None:
        return line
    raise refusal


def _credit_back(transaction_id: int) -> Transaction:
    charge = _charge_of(transaction_id)
    trail.locked(charge.account_id)
    given = trail.LINES.where(_charges.c.gives_back_id == transaction_id)
    row = database.connection().execute(given).first()
    if row is not None:
        return replace(trail.transaction_of(row), replayed=True)
    return trail.write(
        trail.Entry(
            charge.account_id,
            TransactionType.CREDIT,
            charge.cost_micros,
            f"Credit back of SMS to {charge.phone}",
            sold=trail.Sold(
                charge.phone,
                charge.country_code,
                charge.segments,
                charge.rate_micros,
                charge.cost_micros,
                charge.twilio_cost_micros,
                gives_back_id=transaction_id,
            ),
        )
    )


def _charge_of(transaction_id: int) -> SmsCharge:
    """Answer the charge of a line. Raises NotFoundError and ConflictError."""
    of_line = trail.LINES.where(_transactions.c.id == transaction_id)
    row = database.connection().execute(of_line).first()
    if row is None:
        raise NotFoundError(f"no line {transaction_id}")
    charge = trail.transaction_of(row).sms_charge
    if charge is None:
        raise ConflictError(f"line {transaction_id} charged no SMS: there is nothing to give back")
    if charge.gives_back_id is not None:
        raise ConflictError(
            f"line {transaction_id} gives back what line {charge.gives_back_id} charged:"
            " it is no charge itself"
        )
    return charge
