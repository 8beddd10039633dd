"""orders, balances, transactions, discount codes

Revision 0002, after 0001.

Where the web application made these tables by the same plan, their rows move into the new ones:
every row is held against every rule first, and what breaks one stops the migration before anything
is written. Times, in whatever ISO 8601 they were, are rewritten to the fixed width whose text order
is time order.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.String(50)
CENTS = "BETWEEN 0 AND 99999999"
BALANCE = "BETWEEN -99999999999 AND 99999999999"
SHORT = "BETWEEN 1 AND 255"
ID = "id BETWEEN 1 AND 9223372036854775807"
FIXED_WIDTH = "LIKE '____-__-__T__:__:__.______Z'"

# In this order: what is pointed at stands before what points at it.
COLUMNS: dict[str, Callable[[], list[sa.Column[Any]]]] = {
    "discount_codes": lambda: [
        sa.Column("id", BIG, primary_key=True),
        sa.Column("code", sa.String(50), nullable=False),
        sa.Column("discount_type", sa.String(20), nullable=False),
        sa.Column("discount_value", BIG, nullable=False),
        sa.Column("max_uses", BIG, nullable=True),
        sa.Column("current_uses", BIG, nullable=False, server_default=sa.text("0")),
        sa.Column("active", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("stripe_coupon_id", sa.String(255), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
    ],
    "orders": lambda: [
        sa.Column("id", BIG, primary_key=True),
        sa.Column("account_id", BIG, nullable=False),
        sa.Column("order_type", sa.String(20), nullable=False),
        sa.Column("amount_cents", BIG, nullable=False),
        sa.Column("stripe_session_id", sa.String(255), nullable=True),
        sa.Column("stripe_payment_intent_id", sa.String(255), nullable=True),
        sa.Column("discount_code_id", BIG, nullable=True),
        sa.Column("status", sa.String(20), nullable=False, server_default="pending"),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("completed_at", TIME, nullable=True),
        sa.Column("credit_cents", BIG, nullable=True),
    ],
    "account_balances": lambda: [
        sa.Column("id", BIG, primary_key=True),
        sa.Column("account_id", BIG, nullable=False),
        sa.Column("balance_cents", BIG, nullable=False, server_default=sa.text("0")),
        sa.Column("updated_at", TIME, nullable=False),
    ],
    "transactions": lambda: [
        sa.Column("id", BIG, primary_key=True),
        sa.Column("account_id", BIG, nullable=False),
        sa.Column("order_id", BIG, nullable=True),
        sa.Column("transaction_type", sa.String(20), nullable=False),
        sa.Column("amount_cents", BIG, nullable=False),
        sa.Column("balance_after_cents", BIG, nullable=False),
        sa.Column("description", sa.String(255), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    ],
}

RULES = {
    "discount_codes": {
        "id": ID,
        "discount_type": "discount_type IN ('percent', 'fixed')",
        "discount_value": "discount_value BETWEEN 1 AND 99999999"
        " AND (discount_type <> 'percent' OR discount_value <= 100)",
        "max_uses": "max_uses BETWEEN 1 AND 2147483647",
        "current_uses": "current_uses BETWEEN 0 AND 2147483647"
        " AND (max_uses IS NULL OR current_uses <= max_uses)",
        "stripe_coupon_id": f"length(stripe_coupon_id) {SHORT}",
    },
    "orders": {
        "id": ID,
        "order_type": "order_type IN ('initial_access', 'top_up')",
        "amount_cents": f"amount_cents {CENTS}",
        "stripe_session_id": f"length(stripe_session_id) {SHORT}",
        "stripe_payment_intent_id": f"length(stripe_payment_intent_id) {SHORT}",
        "status": "status IN ('pending', 'completed', 'failed', 'refunded')",
        "credit_cents": f"credit_cents {CENTS}",
    },
    "account_balances": {"id": ID, "balance_cents": f"balance_cents {BALANCE}"},
    "transactions": {
        "id": ID,
        "transaction_type": "transaction_type IN ('credit', 'debit', 'refund')",
        "amount_cents": f"amount_cents {CENTS}",
        "balance_after_cents": f"balance_after_cents {BALANCE}",
        "description": f"length(description) {SHORT}",
    },
}

SQLITE_RULES = {
    "discount_codes": {
        "code": "code GLOB '[A-Z0-9]*' AND code NOT GLOB '*[^A-Z0-9_-]*'"
        " AND length(code) BETWEEN 3 AND 50 AND instr(code, char(0)) = 0",
        "integers": "typeof(discount_value) IN ('integer', 'null')"
        " AND typeof(max_uses) IN ('integer', 'null')"
        " AND typeof(current_uses) IN ('integer', 'null')",
    },
    "orders": {
        "integers": "typeof(account_id) IN ('integer', 'null')"
        " AND typeof(amount_cents) IN ('integer', 'null')"
        " AND typeof(discount_code_id) IN ('integer', 'null')"
        " AND typeof(credit_cents) IN ('integer', 'null')",
    },
    "account_balances": {
        "integers": "typeof(account_id) IN ('integer', 'null')"
        " AND typeof(balance_cents) IN ('integer', 'null')",
    },
    "transactions": {
        "integers": "typeof(account_id) IN ('integer', 'null')"
        " AND typeof(order_id) IN ('integer', 'null')"
        " AND typeof(amount_cents) IN ('integer', 'null')"
        " AND typeof(balance_after_cents) IN ('integer', 'null')",
    },
}

TIMES = {
    "discount_codes": ["created_at"],
    "orders": ["created_at", "completed_at"],
    "account_balances": ["updated_at"],
    "transactions": ["created_at"],
}

FOREIGN_KEYS: dict[str, dict[str, str]] = {
    "discount_codes": {},
    "orders": {"account_id": "accounts", "discount_code_id": "discount_codes"},
    "account_balances": {"account_id": "accounts"},
    "transactions": {"account_id": "accounts", "order_id": "orders"},
}

# By name: the column, whether it is unique, and where.
INDEXES: dict[str, dict[str, tuple[str, bool, str | None]]] = {
    "discount_codes": {"ix_discount_codes_code": ("code", True, None)},
    "orders": {
        "ix_orders_account_id": ("account_id", False, None),
        "ix_orders_stripe_session_id": ("stripe_session_id", True, None),
        "ix_orders_stripe_payment_intent_id": (
            "stripe_payment_intent_id",
            True,
            "stripe_payment_intent_id IS NOT NULL",
        ),
    },
    "account_balances": {"ix_account_balances_account_id": ("account_id", True, None)},
    "transactions": {
        "ix_transactions_account_id": ("account_id", False, None),
        "ix_transactions_order_credit": (
            "order_id",
            True,
            "transaction_type = 'credit' AND order_id IS NOT NULL",
        ),
    },
}


def upgrade() -> None:
    present = tables_present()
    adopted = [table for table in COLUMNS if table in present]
    for table in adopted:
        check_shape(table)
    for table in adopted:
        check_rows(table, present)
    if "stripe_customer_id" not in present["accounts"]:
        op.add_column("accounts", sa.Column("stripe_customer_id", sa.String(255), nullable=True))
    for table in COLUMNS:
        if table in adopted:
            move(table)
        else:
            create(table, table)
            create_indexes(table)


def downgrade() -> None:
    """Drop the four; accounts keeps its column, which the web application may have filled."""
    for table in reversed(COLUMNS):
        for index in INDEXES[table]:
            op.drop_index(index, table_name=table)
        op.drop_table(table)


def tables_present() -> dict[str, list[str]]:
    """The columns of each table that is there already; offline, of those that were looked up."""
    if context.is_offline_mode():
        present = context.config.attributes.get("present", {})
        adopted = [table for table in COLUMNS if table in present]
        if adopted:
            raise CommandError(
                f"table {adopted[0]}: its rows must be read to move them, which a script cannot do"
            )
        return {"accounts": [], **present}
    inspector = sa.inspect(op.get_bind())
    return {
        table: [column["name"] for column in inspector.get_columns(table)]
        for table in inspector.get_table_names()
        if table == "accounts" or table in COLUMNS
    }


def check_shape(table: str) -> None:
    """Adopt the plan's own columns and no others; a trigger or a view would break in silence."""
    found = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
    wanted = {column.name for column in COLUMNS[table]()} - {"credit_cents"}
    if found != wanted:
        words = [f"an extra column {name}" for name in sorted(found - wanted)]
        words += [f"no column {name}" for name in sorted(wanted - found)]
        raise CommandError(f"table {table}: {words[0]}")
    for kind, name, text in op.get_bind().execute(
        sa.text("SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'view')")
    ):
        if re.search(rf"\b{table}\b", text, re.IGNORECASE):
            raise CommandError(f"table {table}: the {kind} {name} works on it")


def check_rows(table: str, present: dict[str, list[str]]) -> None:
    """Name the first row that the new table would refuse, or whose time cannot be read."""
    for name, broken in broken_when(table, present):
        # The plan of old has no credit_cents; a rule that is NULL holds, as in a CHECK.
        old = f"(SELECT *, NULL AS credit_cents FROM {table}) AS {table}"
        found = op.get_bind().execute(sa.text(f"SELECT id FROM {old} WHERE {broken}")).first()
        if found is not None:
            raise CommandError(f"table {table}, row {found[0]!r}: breaks the rule for {name}")
    for row in rows(table):
        for column in TIMES[table]:
            try:
                fixed_width(row[column])
            except ValueError:
                raise CommandError(
                    f"table {table}, row {row['id']}: {column} {row[column]!r} is not a time"
                ) from None


def broken_when(table: str, present: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Each rule's name, and the condition under which a row breaks it."""
    yield "id", "typeof(id) <> 'integer'"
    for column in COLUMNS[table]():
        if not column.nullable:
            yield column.name, f"{column.name} IS NULL"
    for name, rule in (RULES[table] | SQLITE_RULES[table]).items():
        yield name, f"NOT ({rule})"
    for column, parent in FOREIGN_KEYS[table].items():
        there = f"SELECT 1 FROM {parent} WHERE {parent}.id = {table}.{column}"
        missing = f"NOT EXISTS ({there})" if parent in present else "1"
        yield column, f"{column} IS NOT NULL AND {missing}"
    for column, unique, where in [("id", True, None), *INDEXES[table].values()]:
        if unique:
            among = f"SELECT {column} FROM {table}" + (f" WHERE {where}" if where else "")
            twice = f"{column} IN ({among} GROUP BY {column} HAVING count(*) > 1)"
            yield column, f"{twice} AND {where}" if where else twice


def create(table: str, name: str) -> None:
    sqlite = op.get_context().dialect.name == "sqlite"
    rules = RULES[table] | (SQLITE_RULES[table] if sqlite else {})
    rules |= {column: f"{column} {FIXED_WIDTH}" for column in TIMES[table]}
    op.create_table(
        name,
        *COLUMNS[table](),
        *(
            sa.CheckConstraint(rule, name=op.f(f"ck_{table}_{rule_name}"))
            for rule_name, rule in rules.items()
        ),
        *(
            sa.ForeignKeyConstraint([column], [f"{parent}.id"], name=op.f(f"fk_{table}_{column}"))
            for column, parent in FOREIGN_KEYS[table].items()
        ),
    )


def create_indexes(table: str) -> None:
    for name, (column, unique, where) in INDEXES[table].items():
        only = sa.text(where) if where else None
        op.create_index(
            name, table, [column], unique=unique, sqlite_where=only, postgresql_where=only
        )


def move(table: str) -> None:
    """Create under a new name, copy, drop the old, rename, then index.

    Not the old away first: that would turn the references of other tables with it. An index of
    the web application's own is made again as it was.
    """
    bind = op.get_bind()
    kept = bind.execute(
        sa.text(
            "SELECT name, sql FROM sqlite_master WHERE tbl_name = :table AND sql IS NOT NULL"
            " AND type = 'index'"
        ),
        {"table": table},
    ).all()
    create(table, f"{table}_new")
    columns = [column.name for column in COLUMNS[table]() if column.name != "credit_cents"]
    insert = sa.text(
        f"INSERT INTO {table}_new ({', '.join(columns)})"
        f" VALUES ({', '.join(f':{column}' for column in columns)})"
    )
    batch = []
    for row in rows(table):
        batch.append(row | {column: fixed_width(row[column]) for column in TIMES[table]})
        if len(batch) == 1_000:
            bind.execute(insert, batch)
            batch.clear()
    if batch:
        bind.execute(insert, batch)
    op.drop_table(table)
    op.rename_table(f"{table}_new", table)
    create_indexes(table)
    for name, text in kept:
        if name not in INDEXES[table]:
            op.execute(sa.text(text.replace(":", "\\:")))


def rows(table: str) -> Iterator[dict[str, Any]]:
    """Every row as it is stored, without a type of the library's in between."""
    found = op.get_bind().execute(sa.text(f"SELECT * FROM {table} ORDER BY id"))
    return (dict(row) for row in found.mappings())


def fixed_width(stored: object) -> str | None:
    """Rewrite any ISO 8601 text; one without a zone is UTC. Raises ValueError."""
    if stored is None:
        return None
    if not isinstance(stored, str):
        raise ValueError(stored)
    moment = datetime.fromisoformat(stored)
    try:
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError as error:
        raise ValueError(stored) from error
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
