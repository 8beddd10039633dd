"""Balances and their trail: what an account can spend, and the lines that say why.

A balance moves in one place, by one guarded statement, in the same unit as its line.
"""

from dataclasses import dataclass, replace
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
    UnavailableError,
    excerpt,
)
from tbpay.models import (
    MAX_AMOUNT_CENTS,
    MAX_BALANCE_CENTS,
    AccountBalance,
    OrderStatus,
    Page,
    Transaction,
    TransactionType,
    amount,
    flag,
    idempotency_key,
    identifier,
    read_time,
    text,
    time_text,
    whole,
    word,
)
from tbpay.money import show_cents
from tbpay.stores import accounts
from tbpay.stores.keys import fingerprint, is_taken, require_same
from tbpay.stores.paging import page, place

_accounts = schema.accounts
_balances = schema.account_balances
_orders = schema.orders
_transactions = schema.transactions

_after_cents = _balances.c.balance_cents + sa.bindparam("step_cents", type_=sa.BigInteger)
_MOVE = (
    sa.update(_balances)
    .where(
        _balances.c.account_id == sa.bindparam("owner"),
        _after_cents >= sa.bindparam("lowest_cents"),
        _after_cents <= MAX_BALANCE_CENTS,
    )
    .values(
        balance_cents=_after_cents,
        account_version=_balances.c.account_version + 1,
        updated_at=sa.bindparam("now"),
    )
    .returning(_balances.c.balance_cents, _balances.c.account_version)
)
_LINE = sa.insert(_transactions).returning(_transactions.c.id)
_BALANCE = sa.select(_balances).where(_balances.c.account_id == sa.bindparam("owner"))
_LOCKED = _BALANCE.with_for_update()
_KEYED = sa.select(_transactions).where(_transactions.c.idempotency_key == sa.bindparam("key"))
_ORDER = (
    sa.select(_orders.c.account_id, _orders.c.status)
    .where(_orders.c.id == sa.bindparam("order"))
    .with_for_update()
)
# Written out: SQLite uses a partial index only where the condition is a literal.
_CREDIT = sa.select(_transactions).where(
    _transactions.c.order_id == sa.bindparam("order"),
    _transactions.c.transaction_type == sa.text("'credit'"),
)


@dataclass(frozen=True)
class _Entry:
    """What is to be written: a line, and the balance that moves with it."""

    account_id: int
    kind: TransactionType
    amount_cents: int
    description: str
    order_id: int | None
    key: str | None
    allow_negative: bool

    @property
    def adds(self) -> bool:
        return self.kind is TransactionType.CREDIT

    @property
    def step_cents(self) -> int:
        return self.amount_cents if self.adds else -self.amount_cents

    @property
    def lowest_cents(self) -> int:
        return -MAX_BALANCE_CENTS if self.adds or self.allow_negative else 0

    @property
    def is_repeatable(self) -> bool:
        """Whether the same call again finds out that it was made: by its key, or its order."""
        return self.key is not None or (self.adds and self.order_id is not None)

    @property
    def hash(self) -> str | None:
        """What the key is used for: the operation, account, order and amount."""
        if self.key is None:
            return None
        return fingerprint(self.kind, self.account_id, self.order_id, self.amount_cents)


class BalanceStore:
    """Read balances and trails; credit and debit."""

    def get_or_create(self, account_id: int) -> AccountBalance:
        """Answer an account's balance, made at 0 where it has none. Raises NotFoundError."""
        identifier(account_id, "account_id")
        return atomically(lambda: _get_or_create(account_id), repeatable=True)

    def get_balance(self, account_id: int) -> int:
        """Answer an account's balance in cents, 0 where it has none. Raises NotFoundError."""
        identifier(account_id, "account_id")
        with snapshot():
            return _require_balance(account_id).balance_cents

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
        entry = _Entry(account_id, kind, amount_cents, description, order_id, key, allow_negative)
        try:
            return atomically(lambda: _record(entry), repeatable=entry.is_repeatable)
        except sa.exc.IntegrityError as error:
            if is_taken(error, "ix_transactions_idempotency_key"):
                # Another account's line took the key at the same moment.
                return atomically(lambda: _require_keyed(entry))
            if _is_of_the_trail(error):
                raise _broken_trail(account_id) from error
            raise

    def history(
        self, account_id: int, *, limit: int | None = 50, cursor: str | None = None
    ) -> Page[Transaction]:
        """List an account's lines, newest first. Raises NotFoundError for an unknown account."""
        identifier(account_id, "account_id")
        here = place("transactions", limit, cursor)
        lines = sa.select(_transactions).where(_transactions.c.account_id == account_id)
        with snapshot():
            accounts.require(account_id)
            return page(_transaction, lines, _transactions.c.id, here)

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
        ).select_from(_accounts.outerjoin(_balances, _balances.c.account_id == _accounts.c.id))
        statement = statement.where(_accounts.c.id.is_not(None))
        if account_ids is not None:
            statement = statement.where(_accounts.c.id.in_(account_ids))
        if below_cents is not None:
            statement = statement.where(balance_cents < below_cents)
        with snapshot():
            for account_id in account_ids or []:
                accounts.require(account_id)
            return page(_account_balance, statement, _accounts.c.id, here, newest_first=False)


balance_store = BalanceStore()


def _record(entry: _Entry) -> Transaction:
    connection = database.connection()
    if entry.order_id is not None:
        order = _own_order(entry.order_id, entry.account_id)
    if entry.key is not None:
        locked(entry.account_id)
        if (line := _keyed(entry)) is not None:
            return line
    if entry.order_id is not None and entry.adds:
        if (credit := credit_of(entry.order_id)) is not None:
            return _repeated(credit, entry.amount_cents)
        _refuse_dead_order(entry.order_id, order.status)
    now = datetime.now(UTC)
    now_text = time_text(now)
    after = _move(entry, now_text)
    line_id = connection.execute(
        _LINE,
        {
            "account_id": entry.account_id,
            "order_id": entry.order_id,
            "transaction_type": entry.kind,
            "amount_cents": entry.amount_cents,
            "balance_after_cents": after.balance_cents,
            "description": entry.description,
            "created_at": now_text,
            "account_version": after.account_version,
            "idempotency_key": entry.key,
            "idempotency_hash": entry.hash,
        },
    ).scalar_one()
    return Transaction(
        line_id,
        entry.account_id,
        entry.order_id,
        entry.kind,
        entry.amount_cents,
        after.balance_cents,
        entry.description,
        now,
        after.account_version,
        entry.key,
    )


def _move(entry: _Entry, now: str) -> Any:
    """Move the balance by one guarded statement, and answer what it came to and its version."""
    move = {
        "owner": entry.account_id,
        "step_cents": entry.step_cents,
        "lowest_cents": entry.lowest_cents,
        "now": now,
    }
    connection = database.connection()
    after = connection.execute(_MOVE, move).first()
    if after is None:
        before = locked(entry.account_id)
        after = connection.execute(_MOVE, move).first()
        if after is None:
            raise _refusal(before, entry.step_cents, entry.lowest_cents)
    return after


def _keyed(entry: _Entry) -> Transaction | None:
    """Answer the line that the entry's key has made already, or None."""
    row = database.connection().execute(_KEYED, {"key": entry.key}).first()
    if row is None:
        return None
    amount_text = show_cents(row.amount_cents)
    require_same(
        row, entry.hash, f"a {row.transaction_type} of {amount_text}, account {row.account_id}"
    )
    return replace(_transaction(row), replayed=True)


def _require_keyed(entry: _Entry) -> Transaction:
    line = _keyed(entry)
    if line is None:
        # The view of a unit of the application's may be older than the line.
        raise UnavailableError(
            f"another unit has just used the key {excerpt(entry.key)}", code=Code.BUSY
        )
    return line


def _is_of_the_trail(error: sa.exc.IntegrityError) -> bool:
    """Tell that a guard refused the line, or that another line has its number already."""
    guards = ("a line follows", "a line is never replaced", "a balance is what its last line")
    return is_taken(error, "ix_transactions_account_version") or any(
        words in str(error.orig) for words in guards
    )


def _broken_trail(account_id: int) -> UnavailableError:
    return UnavailableError(
        f"the trail of account {account_id} does not lead to its balance: nothing was written",
        code=Code.CORRUPT,
        hint=database.location().command(f"ledger verify --account {account_id}"),
    )


def locked(account_id: int) -> AccountBalance:
    """Answer an account's balance, made at 0 where it has none, and keep others from moving it."""
    _get_or_create(account_id)
    return _account_balance(database.connection().execute(_LOCKED, {"owner": account_id}).one())


def _own_order(order_id: int, account_id: int) -> Any:
    """Lock the order, which comes before the balance, and refuse another account's."""
    order = database.connection().execute(_ORDER, {"order": order_id}).first()
    if order is None:
        raise NotFoundError(f"no order {order_id}")
    if order.account_id != account_id:
        raise ConflictError(
            f"order {order_id} is of account {order.account_id}, not of account {account_id}"
        )
    return order


def _refuse_dead_order(order_id: int, status: str) -> None:
    if status not in (OrderStatus.PENDING, OrderStatus.COMPLETED):
        raise ConflictError(f"order {order_id} is {status}: there is nothing to credit for it")


def credit_of(order_id: int) -> Transaction | None:
    """Answer the line by which an order was credited, or None."""
    row = database.connection().execute(_CREDIT, {"order": order_id}).first()
    return None if row is None else _transaction(row)


def _repeated(line: Transaction, amount_cents: int) -> Transaction:
    if line.amount_cents != amount_cents:
        raise ConflictError(
            f"order {line.order_id} has its credit of {show_cents(line.amount_cents)} already,"
            f" not of {show_cents(amount_cents)}"
        )
    return replace(line, replayed=True)


def _refusal(before: AccountBalance, step_cents: int, lowest_cents: int) -> RefusedError:
    has = f"account {before.account_id} has {show_cents(before.balance_cents)}"
    step = show_cents(abs(step_cents))
    if lowest_cents == 0:
        return RefusedError(f"{has}, which is less than {step}", code=Code.INSUFFICIENT_BALANCE)
    way, limit_cents = ("more", MAX_BALANCE_CENTS) if step_cents > 0 else ("less", lowest_cents)
    return RefusedError(
        f"{has}: with {step} {way} it would pass {show_cents(limit_cents)}",
        code=Code.BALANCE_LIMIT,
    )


def _require_balance(account_id: int) -> AccountBalance:
    row = database.connection().execute(_BALANCE, {"owner": account_id}).first()
    if row is not None:
        return _account_balance(row)
    accounts.require(account_id)
    return AccountBalance(None, account_id, 0, None)


def _get_or_create(account_id: int) -> AccountBalance:
    found = _require_balance(account_id)
    if found.id is None:
        # A conflict means that another unit has just made it: then that one is read.
        new = {
            "account_id": account_id,
            "balance_cents": 0,
            "updated_at": time_text(datetime.now(UTC)),
        }
        database.connection().execute(database.insert_if_absent(_balances), new)
        found = _require_balance(account_id)
    return found


def _account_balance(row: Any) -> AccountBalance:
    updated_at = None if row.updated_at is None else read_time(row.updated_at)
    return AccountBalance(
        row.id, row.account_id, row.balance_cents, updated_at, row.account_version
    )


def _transaction(row: Any) -> Transaction:
    return Transaction(
        id=row.id,
        account_id=row.account_id,
        order_id=row.order_id,
        transaction_type=TransactionType(row.transaction_type),
        amount_cents=row.amount_cents,
        balance_after_cents=row.balance_after_cents,
        description=row.description,
        created_at=read_time(row.created_at),
        account_version=row.account_version,
        idempotency_key=row.idempotency_key,
    )
