"""An account's trail: the one place where a balance moves and its line is written.

A balance is exact to the micro, in two columns: whole cents, rounded down, and the micros above
them. It moves by one guarded statement, in the same unit as its line.
"""

from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from tbpay import database, schema
from tbpay.database import atomically
from tbpay.errors import (
    Code,
    ConflictError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    excerpt,
)
from tbpay.models import (
    MAX_BALANCE_CENTS,
    AccountBalance,
    OrderStatus,
    SmsCharge,
    Transaction,
    TransactionType,
    read_time,
    time_text,
)
from tbpay.money import MICROS_PER_CENT, show_cents, show_micros
from tbpay.stores import accounts
from tbpay.stores.keys import is_taken, require_same

_balances = schema.account_balances
_charges = schema.sms_charges
_orders = schema.orders
_transactions = schema.transactions

# Both steps are rounded down, as the balance itself is: what is taken off borrows a cent and gives
# micros back. No division, by which the two databases would round otherwise.
_raw_micros = _balances.c.subcent_micros + sa.bindparam("step_micros", type_=sa.BigInteger)
_carried = sa.case((_raw_micros >= MICROS_PER_CENT, 1), else_=0)
_after_cents = (
    _balances.c.balance_cents + sa.bindparam("step_cents", type_=sa.BigInteger) + _carried
)
_after_micros = _raw_micros - MICROS_PER_CENT * _carried
_MOVE = (
    sa.update(_balances)
    .where(
        _balances.c.account_id == sa.bindparam("owner"),
        _after_cents >= sa.bindparam("lowest_cents"),
        sa.or_(
            _after_cents < MAX_BALANCE_CENTS,
            sa.and_(_after_cents == MAX_BALANCE_CENTS, _after_micros == 0),
        ),
    )
    .values(
        balance_cents=_after_cents,
        subcent_micros=_after_micros,
        account_version=_balances.c.account_version + 1,
        updated_at=sa.bindparam("now"),
    )
    .returning(_balances.c.balance_cents, _balances.c.subcent_micros, _balances.c.account_version)
)
_LINE = sa.insert(_transactions).returning(_transactions.c.id)
_CHARGE = sa.insert(_charges).returning(_charges.c.id)
_BALANCE = sa.select(_balances).where(_balances.c.account_id == sa.bindparam("owner"))
_LOCKED = _BALANCE.with_for_update()
_ORDER = (
    sa.select(_orders.c.account_id, _orders.c.status)
    .where(_orders.c.id == sa.bindparam("order"))
    .with_for_update()
)

LINES = sa.select(
    _transactions, *(column.label(f"sms_{column.name}") for column in _charges.c)
).select_from(_transactions.outerjoin(_charges, _charges.c.transaction_id == _transactions.c.id))
"""Select lines, each with the charge that stands beside it, for ``transaction_of``."""

_KEYED = LINES.where(_transactions.c.idempotency_key == sa.bindparam("key"))
# Written out: SQLite uses a partial index only where the condition is a literal.
_CREDIT = LINES.where(
    _transactions.c.order_id == sa.bindparam("order"),
    _transactions.c.transaction_type == sa.text("'credit'"),
)


@dataclass(frozen=True)
class Sold:
    """What an SMS charge sold, or what is given back of it: a row without its line."""

    phone: str
    country_code: str
    segments: int
    rate_micros: int
    cost_micros: int
    twilio_cost_micros: int | None
    gives_back_id: int | None = None


@dataclass(frozen=True)
class Entry:
    """What is to be written: a line, and by how much the balance moves with it."""

    account_id: int
    kind: TransactionType
    amount_micros: int
    description: str
    order_id: int | None = None
    key: str | None = None
    key_hash: str | None = None
    allow_negative: bool = False
    sold: Sold | None = None

    @property
    def adds(self) -> bool:
        """Whether the balance goes up."""
        return self.kind is TransactionType.CREDIT

    @property
    def step_micros(self) -> int:
        """By how much the balance moves, with its sign."""
        return self.amount_micros if self.adds else -self.amount_micros

    @property
    def lowest_cents(self) -> int:
        """What the balance must not go below; rounded down as it is, that is exact."""
        return -MAX_BALANCE_CENTS if self.adds or self.allow_negative else 0

    @property
    def is_repeatable(self) -> bool:
        """Whether the same call again finds out that it was made: by its key, or its order."""
        return self.key is not None or (self.adds and self.order_id is not None)


def write(entry: Entry) -> Transaction:
    """Move the balance and write the line, in a unit; or answer what the entry's key has written.

    Raises as ``BalanceStore.record_transaction`` does.
    """
    try:
        return atomically(lambda: record(entry), repeatable=entry.is_repeatable)
    except sa.exc.IntegrityError as error:
        if is_taken(error, "ix_transactions_idempotency_key"):
            # Another account's line took the key at the same moment.
            return atomically(lambda: _require_keyed(entry))
        if _is_of_the_trail(error):
            raise _broken_trail(entry.account_id) from error
        raise


def record(entry: Entry) -> Transaction:
    """Do the same within the unit that is open."""
    if entry.order_id is not None:
        order = _own_order(entry.order_id, entry.account_id)
    if entry.key is not None:
        locked(entry.account_id)
        if (line := keyed(entry)) is not None:
            return line
    if entry.order_id is not None and entry.adds:
        if (credit := credit_of(entry.order_id)) is not None:
            return _repeated(credit, entry.amount_micros // MICROS_PER_CENT)
        _refuse_dead_order(entry.order_id, order.status)
    now = datetime.now(UTC)
    now_text = time_text(now)
    step_cents, step_micros = divmod(entry.step_micros, MICROS_PER_CENT)
    after = _move(entry, step_cents, step_micros, now_text)
    # A cent was carried exactly where fewer micros are left than were added.
    amount_cents = abs(step_cents + (after.subcent_micros < step_micros))
    line_id = (
        database.connection()
        .execute(
            _LINE,
            {
                "account_id": entry.account_id,
                "order_id": entry.order_id,
                "transaction_type": entry.kind,
                "amount_cents": amount_cents,
                "balance_after_cents": after.balance_cents,
                "description": entry.description,
                "created_at": now_text,
                "account_version": after.account_version,
                "idempotency_key": entry.key,
                "idempotency_hash": entry.key_hash,
            },
        )
        .scalar_one()
    )
    return Transaction(
        line_id,
        entry.account_id,
        entry.order_id,
        entry.kind,
        amount_cents,
        after.balance_cents,
        entry.description,
        now,
        after.account_version,
        entry.key,
        _charge(entry, line_id, after.subcent_micros),
    )


def _move(entry: Entry, step_cents: int, step_micros: int, now: str) -> Any:
    """Move the balance by one guarded statement, and answer what it came to and its version."""
    move = {
        "owner": entry.account_id,
        "step_cents": step_cents,
        "step_micros": step_micros,
        "lowest_cents": entry.lowest_cents,
        "now": now,
    }
    connection = database.connection()
    after = connection.execute(_MOVE, move).first()
    if after is None:
        before = locked(entry.account_id)
        after = connection.execute(_MOVE, move).first()
        if after is None:
            raise _refusal(before, entry)
    return after


def _charge(entry: Entry, line_id: int, subcent_micros: int) -> SmsCharge | None:
    """Write down what was sold, beside the line."""
    sold = entry.sold
    if sold is None:
        return None
    row = {
        "transaction_id": line_id,
        "account_id": entry.account_id,
        "phone": sold.phone,
        "country_code": sold.country_code,
        "segments": sold.segments,
        "rate_micros": sold.rate_micros,
        "cost_micros": sold.cost_micros,
        "twilio_cost_micros": sold.twilio_cost_micros,
        "subcent_after_micros": subcent_micros,
        "gives_back_id": sold.gives_back_id,
    }
    charge_id = database.connection().execute(_CHARGE, row).scalar_one()
    return SmsCharge(charge_id, **row)  # type: ignore[arg-type]  # the row of its columns


def keyed(entry: Entry) -> Transaction | None:
    """Answer the line that the entry's key has made already, or None."""
    row = database.connection().execute(_KEYED, {"key": entry.key}).first()
    if row is None:
        return None
    amount_micros = (
        row.amount_cents * MICROS_PER_CENT if row.sms_id is None else row.sms_cost_micros
    )
    amount_text = show_micros(amount_micros)
    require_same(
        row, entry.key_hash, f"a {row.transaction_type} of {amount_text}, account {row.account_id}"
    )
    return replace(transaction_of(row), replayed=True)


def _require_keyed(entry: Entry) -> Transaction:
    line = keyed(entry)
    if line is None:
        # The view of a unit of the application's may be older than the line.
        raise UnavailableError(
            f"another unit has just used the key {excerpt(entry.key)}", code=Code.BUSY
        )
    return line


def _is_of_the_trail(error: sa.exc.IntegrityError) -> bool:
    """Tell that a guard refused the line, or that another line has its number already."""
    return is_taken(error, "ix_transactions_account_version") or any(
        words in str(error.orig) for words in _GUARDS_WORDS
    )


_GUARDS_WORDS = (
    "a line follows",
    "a line is never replaced",
    "a charge moves the balance",
    "a balance is what its last line",
    "a balance keeps its account",
    "a balance begins at 0",
)


def _broken_trail(account_id: int) -> UnavailableError:
    return UnavailableError(
        f"the trail of account {account_id} does not lead to its balance: nothing was written",
        code=Code.CORRUPT,
        hint=database.location().command(f"ledger verify --account {account_id}"),
    )


def locked(account_id: int) -> AccountBalance:
    """Answer an account's balance, made at 0 where it has none, and keep others from moving it."""
    get_or_create(account_id)
    return account_balance_of(database.connection().execute(_LOCKED, {"owner": account_id}).one())


def get_or_create(account_id: int) -> AccountBalance:
    """Answer an account's balance, made at 0 where it has none. Raises NotFoundError."""
    found = require(account_id)
    if found.id is None:
        # A conflict means that another unit has just made it: then that one is read.
        new = {
            "account_id": account_id,
            "balance_cents": 0,
            "updated_at": time_text(datetime.now(UTC)),
        }
        database.connection().execute(database.insert_if_absent(_balances), new)
        found = require(account_id)
    return found


def require(account_id: int) -> AccountBalance:
    """Answer an account's balance, 0 where it has none. Raises NotFoundError."""
    row = database.connection().execute(_BALANCE, {"owner": account_id}).first()
    if row is not None:
        return account_balance_of(row)
    accounts.require(account_id)
    return AccountBalance(None, account_id, 0, None)


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
    return None if row is None else transaction_of(row)


def _repeated(line: Transaction, amount_cents: int) -> Transaction:
    if line.amount_cents != amount_cents:
        raise ConflictError(
            f"order {line.order_id} has its credit of {show_cents(line.amount_cents)} already,"
            f" not of {show_cents(amount_cents)}"
        )
    return replace(line, replayed=True)


def _refusal(before: AccountBalance, entry: Entry) -> RefusedError:
    has_micros = before.balance_cents * MICROS_PER_CENT + before.subcent_micros
    has = f"account {before.account_id} has {show_micros(has_micros)}"
    step = show_micros(entry.amount_micros)
    if entry.lowest_cents == 0:
        return RefusedError(f"{has}, which is less than {step}", code=Code.INSUFFICIENT_BALANCE)
    way, limit_cents = "less", entry.lowest_cents
    if entry.adds:
        way, limit_cents = "more", MAX_BALANCE_CENTS
    return RefusedError(
        f"{has}: with {step} {way} it would pass {show_cents(limit_cents)}",
        code=Code.BALANCE_LIMIT,
    )


def account_balance_of(row: Any) -> AccountBalance:
    """Read a balance, or an account without one, from its row."""
    updated_at = None if row.updated_at is None else read_time(row.updated_at)
    return AccountBalance(
        row.id,
        row.account_id,
        row.balance_cents,
        updated_at,
        row.account_version,
        row.subcent_micros,
    )


def transaction_of(row: Any) -> Transaction:
    """Read a line from a row of ``LINES``."""
    charge = None
    if row.sms_id is not None:
        charge = SmsCharge(*(getattr(row, f"sms_{field.name}") for field in fields(SmsCharge)))
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
        sms_charge=charge,
    )
