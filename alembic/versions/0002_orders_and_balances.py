"""orders, balances, transactions, discount codes

Revision 0002, after 0001.

Where the web application made these tables by the same plan, their rows move into the new ones:
every row is held against every rule first, and what breaks one stops the migration before anything
is written. Times, in whatever ISO 8601 they were, are rewritten to the fixed width whose text order
is time order.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

METADATA = sa.MetaData(
    naming_convention={
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.String(50)


def rule(column: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} {condition}", name=column)


def of_1_to_255(column: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"length({column}) BETWEEN 1 AND 255", name=column)


def of_fixed_width(column: str) -> sa.CheckConstraint:
    return rule(column, "LIKE '____-__-__T__:__:__.______Z'")


def integers(*columns: str) -> sa.CheckConstraint:
    """SQLite keeps a fraction or a word in an INTEGER column all the same."""
    kept = " AND ".join(f"typeof({column}) IN ('integer', 'null')" for column in columns)
    return sa.CheckConstraint(kept, name="integers").ddl_if(dialect="sqlite")


def unique_where(name: str, column: str, condition: str) -> sa.Index:
    return sa.Index(name, column, unique=True, sqlite_where=sa.text(condition))


sa.Table("accounts", METADATA, sa.Column("id", BIG, primary_key=True))

# In this order: what is pointed at stands before what points at it.
TABLES = [
    sa.Table(
        "discount_codes",
        METADATA,
        sa.Column("id", BIG, primary_key=True),
        sa.Column("code", sa.String(50), nullable=False),
        sa.Column("discount_type", sa.String(20), nullable=False),
        sa.Column("discount_value", BIG, nullable=False),
        sa.Column("max_uses", BIG),
        sa.Column("current_uses", BIG, nullable=False, server_default=sa.text("0")),
        sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("stripe_coupon_id", sa.String(255)),
        sa.Column("created_at", TIME, nullable=False),
        rule("id", "BETWEEN 1 AND 9223372036854775807"),
        sa.CheckConstraint(
            "code GLOB '[A-Z0-9]*' AND code NOT GLOB '*[^A-Z0-9_-]*'"
            " AND length(code) BETWEEN 3 AND 50 AND instr(code, char(0)) = 0",
            name="code",
        ).ddl_if(dialect="sqlite"),
        rule("discount_type", "IN ('percent', 'fixed')"),
        rule(
            "discount_value",
            "BETWEEN 1 AND 99999999 AND (discount_type <> 'percent' OR discount_value <= 100)",
        ),
        rule("max_uses", "BETWEEN 1 AND 2147483647"),
        rule(
            "current_uses",
            "BETWEEN 0 AND 2147483647 AND (max_uses IS NULL OR current_uses <= max_uses)",
        ),
        rule("active", "IN (0, 1)").ddl_if(dialect="sqlite"),
        of_1_to_255("stripe_coupon_id"),
        of_fixed_width("created_at"),
        integers("discount_value", "max_uses", "current_uses"),
        sa.Index("ix_discount_codes_code", "code", unique=True),
    ),
    sa.Table(
        "orders",
        METADATA,
        sa.Column("id", BIG, primary_key=True),
        sa.Column("account_id", BIG, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("order_type", sa.String(20), nullable=False),
        sa.Column("amount_cents", BIG, nullable=False),
        sa.Column("stripe_session_id", sa.String(255)),
        sa.Column("stripe_payment_intent_id", sa.String(255)),
        sa.Column("discount_code_id", BIG, sa.ForeignKey("discount_codes.id")),
        sa.Column("status", sa.String(20), nullable=False, server_default="pending"),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("completed_at", TIME),
        sa.Column("credit_cents", BIG),
        rule("id", "BETWEEN 1 AND 9223372036854775807"),
        rule("order_type", "IN ('initial_access', 'top_up')"),
        rule("amount_cents", "BETWEEN 0 AND 99999999"),
        of_1_to_255("stripe_session_id"),
        of_1_to_255("stripe_payment_intent_id"),
        rule("status", "IN ('pending', 'completed', 'failed', 'refunded')"),
        of_fixed_width("created_at"),
        of_fixed_width("completed_at"),
        rule("credit_cents", "BETWEEN 0 AND 99999999"),
        integers("account_id", "amount_cents", "discount_code_id", "credit_cents"),
        sa.Index("ix_orders_account_id", "account_id"),
        sa.Index("ix_orders_stripe_session_id", "stripe_session_id", unique=True),
        unique_where(
            "ix_orders_stripe_payment_intent_id",
            "stripe_payment_intent_id",
            "stripe_payment_intent_id IS NOT NULL",
        ),
    ),
    sa.Table(
        "account_balances",
        METADATA,
        sa.Column("id", BIG, primary_key=True),
        sa.Column("account_id", BIG, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("balance_cents", BIG, nullable=False, server_default=sa.text("0")),
        sa.Column("updated_at", TIME, nullable=False),
        rule("id", "BETWEEN 1 AND 9223372036854775807"),
        rule("balance_cents", "BETWEEN -99999999999 AND 99999999999"),
        of_fixed_width("updated_at"),
        integers("account_id", "balance_cents"),
        sa.Index("ix_account_balances_account_id", "account_id", unique=True),
    ),
    sa.Table(
        "transactions",
        METADATA,
        sa.Column("id", BIG, primary_key=True),
        sa.Column("account_id", BIG, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("order_id", BIG, sa.ForeignKey("orders.id")),
        sa.Column("transaction_type", sa.String(20), nullable=False),
        sa.Column("amount_cents", BIG, nullable=False),
        sa.Column("balance_after_cents", BIG, nullable=False),
        sa.Column("description", sa.String(255), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        rule("id", "BETWEEN 1 AND 9223372036854775807"),
        rule("transaction_type", "IN ('credit', 'debit', 'refund')"),
        rule("amount_cents", "BETWEEN 0 AND 99999999"),
        rule("balance_after_cents", "BETWEEN -99999999999 AND 99999999999"),
        of_1_to_255("description"),
        of_fixed_width("created_at"),
        integers("account_id", "order_id", "amount_cents", "balance_after_cents"),
        sa.Index("ix_transactions_account_id", "account_id"),
        unique_where(
            "ix_transactions_order_credit",
            "order_id",
            "transaction_type = 'credit' AND order_id IS NOT NULL",
        ),
    ),
]


def upgrade() -> None:
    present = columns_present()
    adopted = [table for table in TABLES if table.name in present]
    if adopted and context.is_offline_mode():
        raise CommandError(
            f"table {adopted[0]}: its rows must be read to move them, which a script cannot do"
        )
    for table in adopted:
        check_shape(table, present[table.name])
    if adopted:
        teach()
    for table in adopted:
        check_rows(table, present)
    if "stripe_customer_id" not in present.get("accounts", ()):
        op.add_column("accounts", sa.Column("stripe_customer_id", text_in_accounts()))
    for table in TABLES:
        if table in adopted:
            move(table)
        else:
            create(table)
    context.config.attributes.setdefault("adopted", []).extend(table.name for table in adopted)


def downgrade() -> None:
    """Drop the four; accounts keeps its column, which the web application may have filled."""
    for table in reversed(TABLES):
        op.drop_table(table.name)


def database() -> sa.Connection | None:
    """The database to look at; a script is written where there may be none."""
    if context.is_offline_mode():
        return context.config.attributes.get("database")
    return op.get_bind()


def ask(question: str) -> list[Any]:
    there = database()
    return [] if there is None else list(there.exec_driver_sql(question))


def columns_present() -> dict[str, list[str]]:
    """The columns of each table that is there already."""
    if (there := database()) is None:
        return {}
    inspector = sa.inspect(there)
    return {
        name: [column["name"] for column in inspector.get_columns(name)]
        for name in inspector.get_table_names()
        if name in METADATA.tables
    }


def text_in_accounts() -> sa.String:
    """VARCHAR, unless the web application made its table STRICT, which knows no such word."""
    for (text,) in ask("SELECT sql FROM sqlite_master WHERE name = 'accounts'"):
        if "STRICT" in text.rpartition(")")[2].upper():
            return sa.Text()
    return sa.String(255)


def check_shape(table: sa.Table, found: list[str]) -> None:
    """Adopt the plan's own columns and no others; a trigger or a view would break in silence."""
    wanted = old_columns(table)
    words = [f"an extra column {name}" for name in found if name not in wanted]
    words += [f"no column {name}" for name in wanted if name not in found]
    if words:
        raise CommandError(f"table {table}: {words[0]}")
    for kind, name, text in ask(
        "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'view')"
    ):
        if re.search(rf"\b{table}\b", text, re.IGNORECASE):
            raise CommandError(f"table {table}: the {kind} {name} works on it")


def check_rows(table: sa.Table, present: dict[str, list[str]]) -> None:
    """Name the first row that the new table would refuse, or whose time cannot be read."""
    for column, is_broken, why in rules(table, present):
        as_bytes = f"CAST({column} AS BLOB)"
        value = f"CASE WHEN is_text({as_bytes}) THEN {column} ELSE {as_bytes} END"
        for row, found in ask(
            f"SELECT id, {value} FROM {plainly(table)} WHERE {is_broken} ORDER BY id LIMIT 1"
        ):
            raise CommandError(f"table {table}, row {shown(row)}: {column} {shown(found)} {why}")


def rules(table: sa.Table, present: dict[str, list[str]]) -> Iterator[tuple[str, str, str]]:
    """Each rule: the column, the condition under which a row breaks it, and the words for that."""
    for column in old_columns(table).values():
        name = column.name
        if not column.nullable:
            yield name, f"{name} IS NULL", "is not allowed"
        if isinstance(column.type, sa.Integer):
            yield name, f"typeof({name}) NOT IN ('integer', 'null')", "is not a whole number"
        if isinstance(column.type, sa.String):
            is_text = f"is_text(CAST({name} AS BLOB))"
            yield name, f"typeof({name}) = 'blob' OR NOT {is_text}", "is not text"
        if name in times(table):
            yield name, f"{name} IS NOT NULL AND fixed_width({name}) IS NULL", "is not a time"
        for key in column.foreign_keys:
            parent = key.column.table.name
            there = f"SELECT 1 FROM {parent} WHERE {parent}.id = {table}.{name}"
            is_lost = f"NOT EXISTS ({there})" if parent in present else "TRUE"
            yield name, f"{name} IS NOT NULL AND {is_lost}", f"is not in {parent}"
    for name, condition in checks(table).items():
        # A CHECK that comes out as NULL holds, and so does its NOT.
        yield name, f"NOT ({condition})", "breaks the rule"
    for name, where in [("id", "TRUE"), *unique(table)]:
        among = f"SELECT {name} FROM {plainly(table)} WHERE {where} GROUP BY 1 HAVING count(*) > 1"
        yield name, f"{name} IN ({among}) AND {where}", "is there twice"


def checks(table: sa.Table) -> dict[str, str]:
    """The ranges and word sets by their column; types and times are looked at by themselves."""
    found = {
        str(check.name).removeprefix(f"ck_{table}_"): str(check.sqltext)
        for check in table.constraints
        if isinstance(check, sa.CheckConstraint)
    }
    return {name: found[name] for name in old_columns(table) if name in found.keys() - times(table)}


def unique(table: sa.Table) -> Iterator[tuple[str, str]]:
    for index in indexes(table):
        if index.unique:
            where = index.dialect_options["sqlite"]["where"]
            yield index.columns[0].name, "TRUE" if where is None else str(where)


def indexes(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def times(table: sa.Table) -> set[str]:
    return {column.name for column in table.columns if column.name.endswith("_at")}


def old_columns(table: sa.Table) -> dict[str, sa.Column[Any]]:
    """The columns that the plan of old has: what completing an order credits is a later thought."""
    return {column.name: column for column in table.columns if column.name != "credit_cents"}


def plainly(table: sa.Table) -> str:
    """The old rows as the new table will compare them, whatever collation their columns have."""
    columns = ", ".join(f"{name} COLLATE BINARY AS {name}" for name in old_columns(table))
    return f"(SELECT {columns} FROM {table}) AS {table}"


def shown(value: object) -> str:
    """A value as it is written in Python, on one line and not too long."""
    return "NULL" if value is None else f"{value!r:.80}"


def create(table: sa.Table) -> None:
    op.execute(sa.schema.CreateTable(table))
    create_indexes(table)


def create_indexes(table: sa.Table) -> None:
    for index in indexes(table):
        op.execute(sa.schema.CreateIndex(index))


def move(table: sa.Table) -> None:
    """Create under a new name, copy, drop the old, rename, then index.

    Not the old away first: that would turn the references of other tables with it. An index of
    the web application's own is made again as it was.
    """
    kept = ask(
        "SELECT name, sql FROM sqlite_master"
        f" WHERE type = 'index' AND tbl_name = '{table}' AND sql IS NOT NULL ORDER BY rowid"
    )
    new = f"{table}_moving"
    create_new = str(sa.schema.CreateTable(table).compile(op.get_bind()))
    columns = ", ".join(old_columns(table))
    values = ", ".join(
        f"fixed_width({name})" if name in times(table) else name for name in old_columns(table)
    )
    run(create_new.replace(f"CREATE TABLE {table}", f"CREATE TABLE {new}", 1))
    run(f"INSERT INTO {new} ({columns}) SELECT {values} FROM {table} ORDER BY id")
    op.drop_table(table.name)
    op.rename_table(new, table.name)
    create_indexes(table)
    for name, text in kept:
        if name not in [index.name for index in indexes(table)]:
            run(text)


def run(statement: str) -> None:
    op.get_bind().exec_driver_sql(statement)


def teach() -> None:
    """Give SQLite what reads a time, NULL for one that cannot be read, and what tells a text."""
    driver: Any = op.get_bind().connection.driver_connection
    driver.create_function("fixed_width", 1, fixed_width, deterministic=True)
    driver.create_function("is_text", 1, is_text, deterministic=True)


def is_text(stored: bytes | None) -> bool | None:
    """Tell whether bytes are UTF-8 without NUL; NULL stays NULL. SQLite itself takes anything."""
    if stored is None:
        return None
    try:
        return "\0" not in stored.decode()
    except UnicodeDecodeError:
        return False


def fixed_width(stored: object) -> str | None:
    """Rewrite any ISO 8601 text; one without a zone is UTC."""
    # Digits alone are somebody's count of seconds, and some of them would pass for a date.
    if not isinstance(stored, str) or stored.isdecimal():
        return None
    try:
        moment = datetime.fromisoformat(stored)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
