"""Accounts: the customers, in the web application's own table.

Of that table tbpay relies on ``id`` and ``stripe_customer_id``; whether it has ``email`` and
``created_at`` is looked up each time.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import ReflectedColumn

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
    Account,
    Page,
    email_address,
    identifier,
    read_time,
    stripe_id,
    text,
    time_text,
    whole,
)
from tbpay.stores.paging import page, place

_accounts = schema.accounts
_THERE = sa.select(_accounts.c.id).where(_accounts.c.id == sa.bindparam("account_id"))


class AccountStore:
    """Create and find accounts."""

    def create(self, email: str | None = None) -> Account:
        """Create an account, with an email address if there is one.

        Raises InvalidInputError for what is no address, ConflictError for one that is taken, and
        RefusedError where the web application's table needs more than tbpay can give.
        """
        if email is not None:
            email_address(email)
        try:
            return atomically(lambda: _create(email))
        # A rule, a type or a trigger of the application's own.
        except (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.ProgrammingError) as error:
            # Another unit may have taken the address at the same moment.
            if email is not None:
                with snapshot():
                    _refuse_taken(email)
            reason = str(error.orig).partition("\n")[0]
            raise RefusedError(f"the web application's accounts refuse it: {reason}") from error

    def get_by_id(self, id: int) -> Account | None:  # noqa: A002 - the contract's own name
        """Answer the account with this id, or None."""
        identifier(id, "account id")
        with snapshot():
            return _first(_accounts.c.id == id)

    def get_by_email(self, email: str) -> Account | None:
        """Answer the account with exactly this email address, or None.

        Raises ConflictError where several have it: which one is meant, its id says.
        """
        text(email, "email")
        with snapshot():
            if "email" not in _columns():
                return None
            named = _selected().where(_has(email)).order_by(_accounts.c.id)
            found = database.connection().execute(named.limit(2)).all()
            if len(found) > 1:
                ids = " and ".join(str(row.id) for row in found)
                raise ConflictError(f"accounts {ids} have the email {excerpt(email)}: give the id")
            return _account(found[0]) if found else None

    def set_stripe_customer(self, account_id: int, customer_id: str) -> Account:
        """Note which customer of Stripe's an account is.

        Raises NotFoundError, and ConflictError where another one is noted already.
        """
        identifier(account_id, "account_id")
        stripe_id(customer_id, "customer_id")
        return atomically(lambda: _set_stripe_customer(account_id, customer_id), repeatable=True)

    def find(
        self,
        *,
        search: str | None = None,
        below_cents: int | None = None,
        limit: int | None = 50,
        cursor: str | None = None,
    ) -> Page[Account]:
        """List accounts by id.

        ``search`` is a part of the email address or the Stripe customer, a–z and A–Z alike.
        ``below_cents`` keeps accounts whose balance is lower, 0 … 99,999,999.
        """
        if search is not None:
            text(search, "search")
        if below_cents is not None:
            whole(below_cents, "below_cents", 0, MAX_AMOUNT_CENTS)
        here = place("accounts", limit, cursor)
        with snapshot():
            statement = _selected()
            if search is not None:
                statement = statement.where(_matches(search))
            if below_cents is not None:
                statement = statement.where(_balance_cents() < below_cents)
            return page(_account, statement, _accounts.c.id, here, newest_first=False)


account_store = AccountStore()


def require(account_id: int) -> None:
    """Raise NotFoundError unless the account exists."""
    if database.connection().execute(_THERE, {"account_id": account_id}).first() is None:
        raise NotFoundError(f"no account {account_id}")


def _create(email: str | None) -> Account:
    connection = database.connection()
    columns = {column["name"]: column for column in _described()}
    given: dict[str, Any] = _created_now(columns.get("created_at"))
    if email is not None:
        given["email"] = email
    _refuse_ungiven(columns, given)
    if email is not None:
        _refuse_taken(email)
    table = sa.table("accounts", *(sa.column(name, columns[name]["type"]) for name in given))
    new = sa.insert(table).values(given).returning(_accounts.c.id)
    account_id = connection.execute(new).scalar_one()
    if account_id is None:
        raise RefusedError("the web application's accounts need id")
    return _account(connection.execute(_selected().where(_accounts.c.id == account_id)).one())


def _refuse_taken(email: str) -> None:
    if _first(_has(email)) is not None:
        raise ConflictError(f"an account has the email {excerpt(email)} already", code=Code.EXISTS)


def _refuse_ungiven(columns: dict[str, ReflectedColumn], given: dict[str, Any]) -> None:
    """Refuse, by name, what the web application's table needs and is not given, or has not."""
    if missing := given.keys() - columns.keys():
        raise RefusedError(f"the web application's accounts have no {', '.join(missing)}")
    needed = [
        name
        for name, column in columns.items()
        # SQLite lets a primary key be NULL, which no application means.
        if not (column["nullable"] and not column.get("primary_key"))
        and column["default"] is None
        and not column.keys() & {"computed", "identity"}
        and name not in {"id", *given}
    ]
    if needed:
        raise RefusedError(f"the web application's accounts need {', '.join(needed)}")


def _created_now(column: ReflectedColumn | None) -> dict[str, Any]:
    """Say when, unless the table does so itself: a time column in its own form, text in ours.

    What the application keeps in a column of another type is not ours to guess.
    """
    now = datetime.now(UTC)
    if column is None or column["default"] is not None:
        return {}
    if isinstance(column["type"], sa.DateTime):
        return {"created_at": now if column["type"].timezone else now.replace(tzinfo=None)}
    return {"created_at": time_text(now)} if isinstance(column["type"], sa.String) else {}


def _set_stripe_customer(account_id: int, customer_id: str) -> Account:
    held = _accounts.c.stripe_customer_id
    same = sa.or_(held.is_(None), held == customer_id)
    changed = sa.update(_accounts).where(_accounts.c.id == account_id, same)
    changed = changed.values(stripe_customer_id=customer_id)
    noted = database.connection().execute(changed).rowcount == 1
    account = _first(_accounts.c.id == account_id)
    if account is None:
        raise NotFoundError(f"no account {account_id}")
    if not noted:
        held_text = excerpt(account.stripe_customer_id)
        raise ConflictError(f"account {account_id} is Stripe's customer {held_text} already")
    return account


def _described() -> list[ReflectedColumn]:
    return sa.inspect(database.connection()).get_columns("accounts")


def _columns() -> set[str]:
    return {column["name"] for column in _described()}


def _selected() -> sa.Select[Any]:
    """Select what an account is made of, from the columns that there are."""
    columns = _columns()
    optional: list[sa.ColumnElement[Any]] = [
        sa.cast(sa.column(name), _AS_IT_IS).label(name)
        for name in ("email", "created_at")
        if name in columns
    ]
    # Where id is unique and not primary, the application may have rows without one.
    return sa.select(_accounts, *optional).where(_accounts.c.id.is_not(None))


# What the application keeps there may be in any form: on SQLite it need not even be text.
_AS_IT_IS = sa.LargeBinary().with_variant(sa.Text(), "postgresql")


def _first(condition: sa.ColumnElement[bool]) -> Account | None:
    found = _selected().where(condition).limit(1)
    row = database.connection().execute(found).first()
    return None if row is None else _account(row)


def _has(email: str) -> sa.ColumnElement[bool]:
    """Compare by the rules of the application's column, whose type is not ours to say."""
    return sa.column("email") == sa.literal(email, sa.types.NullType())


def _matches(part: str) -> sa.ColumnElement[bool]:
    names = ["stripe_customer_id", *({"email"} & _columns())]
    return sa.or_(*(database.contains(sa.column(name, sa.String), part) for name in names))


def _balance_cents() -> sa.ColumnElement[int]:
    balances = schema.account_balances
    own = sa.select(balances.c.balance_cents).where(balances.c.account_id == _accounts.c.id)
    return sa.func.coalesce(own.scalar_subquery(), 0)


def _account(row: Any) -> Account:
    email = getattr(row, "email", None)
    return Account(
        id=row.id,
        email=email.decode(errors="replace") if isinstance(email, bytes) else email,
        created_at=_time(getattr(row, "created_at", None)),
        stripe_customer_id=row.stripe_customer_id,
    )


def _time(stored: bytes | str | None) -> datetime | None:
    """Read the application's time where it is one; what it means by a number is its own affair."""
    if stored is None or stored.isdigit():
        return None
    try:
        return read_time(stored.decode() if isinstance(stored, bytes) else stored)
    except (InvalidInputError, UnicodeDecodeError):
        return None
