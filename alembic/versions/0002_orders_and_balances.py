"""orders, balances, transactions, discount codes

Revision 0002, after 0001.

Where the web application made these tables by the same plan, they become ours with their rows:
every row is held against every rule first, and what breaks one stops the migration before anything
is written. SQLite's rows move into new tables; PostgreSQL's tables are altered where they are.
Times, in whatever ISO 8601 they were, are rewritten to the fixed width whose text order is time
order.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

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
# By their bytes, whatever the database's language: text order is time order.
TIME = sa.String(50).with_variant(sa.String(50, collation="C"), "postgresql")


def rule(column: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} {condition}", name=column)


def of_1_to_255(column: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"length({column}) BETWEEN 1 AND 255", name=column)


def of_fixed_width(column: str) -> sa.CheckConstraint:
    return rule(column, "LIKE '____-__-__T__:__:__.______Z'")


def only(dialect: str, name: str, condition: str) -> sa.CheckConstraint:
    check = sa.CheckConstraint(condition, name=name, info={"dialect": dialect})
    return check.ddl_if(dialect=dialect)


def integers(*columns: str) -> sa.CheckConstraint:
    """SQLite keeps a fraction or a word in an INTEGER column all the same."""
    kept = " AND ".join(f"typeof({column}) IN ('integer', 'null')" for column in columns)
    return only("sqlite", "integers", kept)


def unique_where(name: str, column: str, condition: str) -> sa.Index:
    where = sa.text(condition)
    return sa.Index(name, column, unique=True, sqlite_where=where, postgresql_where=where)


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
        only(
            "sqlite",
            "code",
            "code GLOB '[A-Z0-9]*' AND code NOT GLOB '*[^A-Z0-9_-]*'"
            " AND length(code) BETWEEN 3 AND 50 AND instr(code, char(0)) = 0",
        ),
        only("postgresql", "code", "code ~ '^[A-Z0-9][A-Z0-9_-]{2,49}$'"),
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
        only("sqlite", "active", "active IN (0, 1)"),
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


class Spelling(NamedTuple):
    """How one of the two databases is asked about a column."""

    as_compared: str
    as_shown: str
    is_no_number: str
    is_no_text: str
    is_no_time: str


SPELLINGS = {
    "sqlite": Spelling(
        as_compared="{0} COLLATE BINARY",
        as_shown="CASE WHEN is_text(CAST({0} AS BLOB)) THEN {0} ELSE CAST({0} AS BLOB) END",
        is_no_number="typeof({0}) NOT IN ('integer', 'null')",
        is_no_text="typeof({0}) = 'blob' OR NOT is_text(CAST({0} AS BLOB))",
        is_no_time="{0} IS NOT NULL AND fixed_width({0}) IS NULL",
    ),
    # A column of the right type takes no value of another one.
    "postgresql": Spelling(
        as_compared='CAST({0} AS TEXT) COLLATE "C"',
        as_shown="{0}",
        is_no_number="FALSE",
        is_no_text="FALSE",
        is_no_time="{0} IN (SELECT found FROM tbpay_times WHERE kept IS NULL)",
    ),
}
# The types under which PostgreSQL may keep what the plan calls whole numbers, text and yes or no.
TYPES = {
    sa.Integer: ("smallint", "integer", "bigint"),
    sa.String: ("character varying", "text"),
    sa.Boolean: ("boolean",),
}


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
        teach(adopted)
    for table in adopted:
        check_rows(table, present)
    if "stripe_customer_id" not in present.get("accounts", ()):
        op.add_column("accounts", sa.Column("stripe_customer_id", text_in_accounts()))
    for table in TABLES:
        if table not in adopted:
            create(table)
        elif is_postgresql():
            alter(table)
        else:
            move(table)
    context.config.attributes.setdefault("adopted", []).extend(table.name for table in adopted)


def downgrade() -> None:
    """Drop the four; accounts keeps its column, which the web application may have filled."""
    for table in reversed(TABLES):
        op.drop_table(table.name)


def is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def database() -> sa.Connection | None:
    """The database to look at; a script is written where there may be none."""
    if context.is_offline_mode():
        return context.config.attributes.get("database")
    return op.get_bind()


def ask(question: str) -> list[Any]:
    there = database()
    # Without parameters no character of a question is a place for one.
    literally = {"no_parameters": True}
    return [] if there is None else list(there.exec_driver_sql(question, None, literally))


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
    if not is_postgresql():
        for (text,) in ask("SELECT sql FROM sqlite_master WHERE name = 'accounts'"):
            if "STRICT" in text.rpartition(")")[2].upper():
                return sa.Text()
    return sa.String(255)


def check_shape(table: sa.Table, found: list[str]) -> None:
    """Adopt the plan's own columns and no others; a trigger or a view would break in silence."""
    wanted = old_columns(table)
    words = [f"an extra column {name}" for name in found if name not in wanted]
    words += [f"no column {name}" for name in wanted if name not in found]
    words += unlike_in_postgresql(table) if is_postgresql() else working_on_in_sqlite(table)
    if words:
        raise CommandError(f"table {table}: {words[0]}")


def working_on_in_sqlite(table: sa.Table) -> list[str]:
    return [
        f"the {kind} {name} works on it"
        for kind, name, text in ask(
            "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'view')"
        )
        if re.search(rf"\b{table}\b", text, re.IGNORECASE)
    ]


def unlike_in_postgresql(table: sa.Table) -> list[str]:
    """Also say what SQLite has no word for: another kind of table, types that keep other things."""
    kinds = {
        name: next(kinds for kind, kinds in TYPES.items() if isinstance(column.type, kind))
        for name, column in old_columns(table).items()
    }
    words = [
        f"column {name} is {kind}{' and generated' if is_generated else ''}"
        for name, kind, is_generated in ask(
            f"""
            SELECT attname, format_type(atttypid, NULL), attgenerated <> '' FROM pg_attribute
            WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped
            ORDER BY attnum
            """
        )
        if is_generated or kind not in kinds.get(name, (kind,))
    ]
    words += [
        "it is not a table of its own that survives a crash"
        for (is_plain,) in ask(
            f"""
            SELECT relkind = 'r' AND relpersistence = 'p' AND reloftype = 0 AND NOT EXISTS (
                SELECT 1 FROM pg_inherits WHERE pg_class.oid IN (inhrelid, inhparent)
            )
            FROM pg_class WHERE oid = '{table}'::regclass
            """
        )
        if not is_plain
    ]
    words += [
        "its primary key is not id"
        for (key,) in ask(
            f"""
            SELECT pg_get_constraintdef(oid) FROM pg_constraint
            WHERE conrelid = '{table}'::regclass AND contype = 'p'
            """
        )
        if key != "PRIMARY KEY (id)"
    ]
    # A view is a rule by the name of _RETURN.
    words += [
        f"the {kind} {name} works on it"
        for kind, name in ask(
            f"""
            SELECT 'trigger', tgname FROM pg_trigger
            WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal
            UNION ALL
            SELECT 'policy', polname FROM pg_policy WHERE polrelid = '{table}'::regclass
            UNION ALL
            SELECT DISTINCT
                CASE rulename WHEN '_RETURN' THEN 'view' ELSE 'rule' END,
                CASE rulename WHEN '_RETURN' THEN relname ELSE rulename END
            FROM pg_depend
                JOIN pg_rewrite ON pg_rewrite.oid = objid AND classid = 'pg_rewrite'::regclass
                JOIN pg_class ON pg_class.oid = ev_class
            WHERE refclassid = 'pg_class'::regclass AND refobjid = '{table}'::regclass
            """
        )
    ]
    return words


def check_rows(table: sa.Table, present: dict[str, list[str]]) -> None:
    """Name the first row that the new table would refuse, or whose time cannot be read."""
    for column, is_broken, why in rules(table, present):
        value = spelling().as_shown.format(column)
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
            yield name, spelling().is_no_number.format(name), "is not a whole number"
        if isinstance(column.type, sa.String):
            yield name, spelling().is_no_text.format(name), "is not text"
        if name in times(table):
            yield name, spelling().is_no_time.format(name), "is not a time"
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


def spelling() -> Spelling:
    return SPELLINGS[op.get_context().dialect.name]


def checks(table: sa.Table) -> dict[str, str]:
    """The ranges and word sets by their column; types and times are looked at by themselves."""
    found = {
        str(check.name).removeprefix(f"ck_{table}_"): str(check.sqltext)
        for check in checks_here(table)
    }
    return {name: found[name] for name in old_columns(table) if name in found.keys() - times(table)}


def checks_here(table: sa.Table) -> list[sa.CheckConstraint]:
    """The rules that this database is given, in the order of their names."""
    here = op.get_context().dialect.name
    return sorted(
        (
            check
            for check in table.constraints
            if isinstance(check, sa.CheckConstraint) and check.info.get("dialect", here) == here
        ),
        key=lambda check: str(check.name),
    )


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
    columns = ", ".join(
        f"{spelling().as_compared.format(name)} AS {name}"
        if isinstance(column.type, sa.String)
        else name
        for name, column in old_columns(table).items()
    )
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


def alter(table: sa.Table) -> None:
    """Take the old rules and defaults away, change the types, rewrite the times, add our rules.

    An index of the web application's own stays, unless it has the name of one of ours.
    """
    ours = ", ".join(f"'{index.name}'" for index in indexes(table))
    theirs = without_theirs(table, ours)
    run(f"ALTER TABLE {table} {', '.join([*theirs, *retyped(table)])}")
    for (name,) in ask(
        f"""
        SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indrelid = '{table}'::regclass AND relname IN ({ours}) ORDER BY relname
        """
    ):
        op.drop_index(name)
    for name in sorted(times(table)):
        run(f"UPDATE {table} SET {name} = kept FROM tbpay_times WHERE found = {name}")
    run(f"ALTER TABLE {table} {', '.join(with_ours(table))}")
    create_indexes(table)
    count_on(table)


def without_theirs(table: sa.Table, ours: str) -> Iterator[str]:
    """Drop what ours takes the place of: rules, references, defaults; what has a name of ours."""
    for (name,) in ask(
        f"""
        SELECT quote_ident(conname) FROM pg_constraint WHERE conrelid = '{table}'::regclass
            AND (contype IN ('c', 'f') OR contype = 'u' AND conname IN ({ours}))
        ORDER BY conname
        """
    ):
        yield f"DROP CONSTRAINT {name}"
    for name, is_identity in ask(
        f"""
        SELECT attname, attidentity <> '' FROM pg_attribute
        WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped
            AND (atthasdef OR attidentity <> '')
        ORDER BY attnum
        """
    ):
        if not is_identity:
            yield f"ALTER {name} DROP DEFAULT"
        elif name == "id":
            yield "ALTER id SET GENERATED BY DEFAULT"
        else:
            yield f"ALTER {name} DROP IDENTITY"


def retyped(table: sa.Table) -> Iterator[str]:
    for name, column in old_columns(table).items():
        yield f"ALTER {name} TYPE {typed(column.type)}"
        if not column.primary_key:
            yield f"ALTER {name} {'DROP' if column.nullable else 'SET'} NOT NULL"
    for name in table.columns.keys() - old_columns(table).keys():
        yield f"ADD {name} {typed(table.columns[name].type)}"


def typed(kind: Any) -> str:
    return str(kind.compile(dialect=op.get_context().dialect))


def with_ours(table: sa.Table) -> Iterator[str]:
    if not ask(
        f"SELECT 1 FROM pg_constraint WHERE conrelid = '{table}'::regclass AND contype = 'p'"
    ):
        yield "ADD PRIMARY KEY (id)"
    dialect = op.get_context().dialect
    new: Any = sa.schema.CreateTable(table).compile(dialect=dialect)
    for name, column in table.columns.items():
        if column.server_default is not None:
            yield f"ALTER {name} SET DEFAULT {new.get_column_default_string(column)}"
    for constraint in [*checks_here(table), *foreign_keys(table)]:
        add = sa.schema.AddConstraint(constraint, isolate_from_table=False)
        yield str(add.compile(dialect=dialect)).removeprefix(f"ALTER TABLE {table} ")


def foreign_keys(table: sa.Table) -> list[sa.ForeignKeyConstraint]:
    return sorted(table.foreign_key_constraints, key=lambda key: str(key.name))


def count_on(table: sa.Table) -> None:
    """Let the next id be above every one that was given, by a sequence of 64 bits of its own.

    An identity stays one: its sequence is open to all who may insert.
    """
    [(sequence, is_identity)] = ask(
        f"""
        SELECT CAST(CAST(pg_get_serial_sequence('{table}', 'id') AS regclass) AS TEXT),
            attidentity <> ''
        FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attname = 'id'
        """
    )
    if sequence is None:
        sequence = next(
            name
            for name in (f"{table}_id_seq", f"tbpay_{table}_id_seq")
            if ask(f"SELECT to_regclass('{name}') IS NULL")[0][0]
        )
        run(f"CREATE SEQUENCE {sequence} OWNED BY {table}.id")
    run(f"ALTER SEQUENCE {sequence} AS BIGINT NO MAXVALUE NO CYCLE")
    quoted = "'" + sequence.replace("'", "''") + "'"
    if not is_identity:
        run(f"ALTER TABLE {table} ALTER id SET DEFAULT nextval({quoted})")
    [(last_id,)] = ask(
        f"SELECT greatest((SELECT max(id) FROM {table}), last_value - (NOT is_called)::integer)"
        f" FROM {sequence}"
    )
    if last_id > 0:
        run(f"SELECT setval({quoted}, {last_id})")


def run(statement: str) -> None:
    op.get_bind().exec_driver_sql(statement, None, {"no_parameters": True})


def teach(adopted: list[sa.Table]) -> None:
    """Give the database what reads a time: NULL, or no answer, for one that cannot be read."""
    if is_postgresql():
        tabulate_times(adopted)
    else:
        driver: Any = op.get_bind().connection.driver_connection
        driver.create_function("fixed_width", 1, fixed_width, deterministic=True)
        driver.create_function("is_text", 1, is_text, deterministic=True)


def tabulate_times(adopted: list[sa.Table]) -> None:
    """Note every time that is not of fixed width yet, and what it will be; NULL: not a time."""
    run('CREATE TEMPORARY TABLE tbpay_times (found TEXT COLLATE "C", kept TEXT) ON COMMIT DROP')
    noted = sa.table("tbpay_times", sa.column("found"), sa.column("kept"))
    texts = " UNION ".join(
        f'SELECT CAST({name} AS TEXT) COLLATE "C" FROM {table} WHERE {name} IS NOT NULL'
        for table in adopted
        for name in sorted(times(table))
    )
    in_turns = {"no_parameters": True, "yield_per": 10_000}
    for some in op.get_bind().exec_driver_sql(texts, None, in_turns).scalars().partitions():
        changed = [
            {"found": found, "kept": kept}
            for found in some
            if (kept := fixed_width(found)) != found
        ]
        if changed:
            op.get_bind().execute(sa.insert(noted), changed)


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
