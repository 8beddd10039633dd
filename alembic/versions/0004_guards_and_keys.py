"""guards of the ledger, versions of its lines, idempotency keys

Revision 0004, after 0003.

Every line gets its number within its account, 1 … n in the order of the ids, and every balance the
number of its last line. From here on the database itself refuses to change a line, and to take one
that does not follow the line before it; a balance that was taken over keeps what it began with, so
that its first line can follow that. What worked with the tables as they were fails from now on
instead of writing a line without a number.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import context, op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SQLITE_GUARDS = (
    """
    CREATE TRIGGER transactions_no_change BEFORE UPDATE ON transactions
    BEGIN SELECT RAISE(ABORT, 'a line is never changed'); END
    """,
    """
    CREATE TRIGGER transactions_no_delete BEFORE DELETE ON transactions
    BEGIN SELECT RAISE(ABORT, 'a line is never deleted'); END
    """,
    # An INSERT OR REPLACE deletes without asking the trigger above, unless the connection says so.
    """
    CREATE TRIGGER transactions_no_replace BEFORE INSERT ON transactions
    WHEN EXISTS (SELECT 1 FROM transactions WHERE id = NEW.id)
        OR EXISTS (
            SELECT 1 FROM transactions
            WHERE account_id = NEW.account_id AND account_version = NEW.account_version
        )
        OR EXISTS (SELECT 1 FROM transactions WHERE idempotency_key = NEW.idempotency_key)
        OR NEW.transaction_type = 'credit' AND EXISTS (
            SELECT 1 FROM transactions
            WHERE order_id = NEW.order_id AND transaction_type = 'credit' AND order_id IS NOT NULL
        )
    BEGIN SELECT RAISE(ABORT, 'a line is never replaced'); END
    """,
    """
    CREATE TRIGGER transactions_follow BEFORE INSERT ON transactions
    WHEN NEW.account_version < 1
        OR NOT EXISTS (
            SELECT 1 FROM account_balances
            WHERE account_id = NEW.account_id
                AND account_version = NEW.account_version
                AND balance_cents = NEW.balance_after_cents
        )
        OR NEW.account_version = 1 AND NOT EXISTS (
            SELECT 1 FROM account_balances
            WHERE account_id = NEW.account_id
                AND NEW.balance_after_cents = opening_cents
                    + CASE NEW.transaction_type WHEN 'credit' THEN 1 ELSE -1 END * NEW.amount_cents
        )
        OR NEW.account_version > 1 AND NOT EXISTS (
            SELECT 1 FROM transactions AS earlier
            WHERE earlier.account_id = NEW.account_id
                AND earlier.account_version = NEW.account_version - 1
                AND NEW.balance_after_cents = earlier.balance_after_cents
                    + CASE NEW.transaction_type WHEN 'credit' THEN 1 ELSE -1 END * NEW.amount_cents
        )
    BEGIN SELECT RAISE(ABORT, 'a line follows the balance and the line before it'); END
    """,
    """
    CREATE TRIGGER account_balances_begin BEFORE INSERT ON account_balances
    WHEN NEW.balance_cents <> 0 OR NEW.account_version <> 0 OR NEW.opening_cents <> 0
        OR EXISTS (SELECT 1 FROM account_balances WHERE id = NEW.id)
        OR EXISTS (SELECT 1 FROM account_balances WHERE account_id = NEW.account_id)
    BEGIN SELECT RAISE(ABORT, 'a balance begins at 0, and once'); END
    """,
    """
    CREATE TRIGGER account_balances_move BEFORE UPDATE ON account_balances
    WHEN NEW.id IS NOT OLD.id
        OR NEW.account_id IS NOT OLD.account_id
        OR NEW.opening_cents IS NOT OLD.opening_cents
        OR NEW.account_version IS NULL
        OR NEW.account_version NOT IN (OLD.account_version, OLD.account_version + 1)
        OR NEW.account_version = OLD.account_version AND NEW.balance_cents IS NOT OLD.balance_cents
    BEGIN SELECT RAISE(ABORT, 'a balance keeps its account, and moves by a line'); END
    """,
    """
    CREATE TRIGGER account_balances_no_delete BEFORE DELETE ON account_balances
    WHEN OLD.account_version > 0 OR OLD.opening_cents <> 0
    BEGIN SELECT RAISE(ABORT, 'a balance with lines is never deleted'); END
    """,
    """
    CREATE TRIGGER orders_no_delete BEFORE DELETE ON orders
    BEGIN SELECT RAISE(ABORT, 'an order is never deleted'); END
    """,
    """
    CREATE TRIGGER orders_no_replace BEFORE INSERT ON orders
    WHEN EXISTS (SELECT 1 FROM orders WHERE id = NEW.id)
        OR EXISTS (SELECT 1 FROM orders WHERE stripe_session_id = NEW.stripe_session_id)
        OR EXISTS (
            SELECT 1 FROM orders WHERE stripe_payment_intent_id = NEW.stripe_payment_intent_id
        )
        OR EXISTS (SELECT 1 FROM orders WHERE idempotency_key = NEW.idempotency_key)
    BEGIN SELECT RAISE(ABORT, 'an order is never replaced'); END
    """,
)

FUNCTIONS = {
    "tbpay_refuse": """
BEGIN
    RAISE EXCEPTION '% on % is refused: its rows are kept', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END
""",
    "tbpay_line_follows": """
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM account_balances
        WHERE account_id = NEW.account_id
            AND account_version = NEW.account_version
            AND balance_cents = NEW.balance_after_cents
    ) OR NEW.account_version = 1 AND NOT EXISTS (
        SELECT 1 FROM account_balances
        WHERE account_id = NEW.account_id
            AND NEW.balance_after_cents = opening_cents
                + CASE NEW.transaction_type WHEN 'credit' THEN 1 ELSE -1 END * NEW.amount_cents
    ) OR NEW.account_version > 1 AND NOT EXISTS (
        SELECT 1 FROM transactions AS earlier
        WHERE earlier.account_id = NEW.account_id
            AND earlier.account_version = NEW.account_version - 1
            AND NEW.balance_after_cents = earlier.balance_after_cents
                + CASE NEW.transaction_type WHEN 'credit' THEN 1 ELSE -1 END * NEW.amount_cents
    ) THEN
        RAISE EXCEPTION 'a line follows the balance and the line before it'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
""",
    "tbpay_balance_follows": """
DECLARE
    last account_balances;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF OLD.id <> NEW.id
            OR OLD.account_id <> NEW.account_id
            OR OLD.opening_cents <> NEW.opening_cents
        THEN
            RAISE EXCEPTION 'a balance keeps its account, and what it began with'
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF OLD.balance_cents = NEW.balance_cents
            AND OLD.account_version = NEW.account_version
        THEN
            RETURN NULL;
        END IF;
    ELSIF NEW.opening_cents <> 0 THEN
        RAISE EXCEPTION 'a balance begins at 0' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    SELECT * INTO last FROM account_balances WHERE account_id = NEW.account_id;
    IF FOUND AND NOT (
        last.account_version = 0 AND last.balance_cents = last.opening_cents
        OR EXISTS (
            SELECT 1 FROM transactions
            WHERE account_id = last.account_id
                AND account_version = last.account_version
                AND balance_after_cents = last.balance_cents
        )
    ) OR EXISTS (
        SELECT 1 FROM transactions
        WHERE account_id = last.account_id AND account_version > last.account_version
    ) THEN
        RAISE EXCEPTION 'a balance is what its last line says'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
""",
}

POSTGRESQL_GUARDS = (
    """
    CREATE TRIGGER transactions_no_change BEFORE UPDATE OR DELETE ON transactions
    FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()
    """,
    """
    CREATE TRIGGER transactions_no_truncate BEFORE TRUNCATE ON transactions
    FOR EACH STATEMENT EXECUTE FUNCTION tbpay_refuse()
    """,
    """
    CREATE TRIGGER transactions_follow BEFORE INSERT ON transactions
    FOR EACH ROW EXECUTE FUNCTION tbpay_line_follows()
    """,
    """
    CREATE CONSTRAINT TRIGGER account_balances_follow AFTER INSERT OR UPDATE ON account_balances
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tbpay_balance_follows()
    """,
    """
    CREATE TRIGGER account_balances_no_delete BEFORE DELETE ON account_balances
    FOR EACH ROW WHEN (old.account_version > 0 OR old.opening_cents <> 0)
    EXECUTE FUNCTION tbpay_refuse()
    """,
    """
    CREATE TRIGGER account_balances_no_truncate BEFORE TRUNCATE ON account_balances
    FOR EACH STATEMENT EXECUTE FUNCTION tbpay_refuse()
    """,
    """
    CREATE TRIGGER orders_no_delete BEFORE DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()
    """,
    """
    CREATE TRIGGER orders_no_truncate BEFORE TRUNCATE ON orders
    FOR EACH STATEMENT EXECUTE FUNCTION tbpay_refuse()
    """,
)


def upgrade() -> None:
    add_columns()
    number_the_lines()
    if is_postgresql():
        op.execute("ALTER TABLE transactions ALTER account_version SET NOT NULL")
    op.create_index(
        "ix_transactions_account_version",
        "transactions",
        ["account_id", "account_version"],
        unique=True,
    )
    for table in ("transactions", "orders"):
        op.create_index(f"ix_{table}_idempotency_key", table, ["idempotency_key"], unique=True)
    create_guards()


def downgrade() -> None:
    """Take the guards away, and then what they guarded; the keys are lost."""
    if is_postgresql():
        for text in POSTGRESQL_GUARDS:
            name, table = name_and_table(text)
            op.execute(f"DROP TRIGGER {name} ON {table}")
        for name in FUNCTIONS:
            op.execute(f"DROP FUNCTION {name}()")
    else:
        for text in SQLITE_GUARDS:
            op.execute(f"DROP TRIGGER {name_and_table(text)[0]}")
    op.drop_index("ix_transactions_account_version", "transactions")
    for table in ("transactions", "orders"):
        op.drop_index(f"ix_{table}_idempotency_key", table)
        # The hash first: its rule speaks of the key.
        op.execute(f"ALTER TABLE {table} DROP COLUMN idempotency_hash")
        op.execute(f"ALTER TABLE {table} DROP COLUMN idempotency_key")
    op.execute("ALTER TABLE transactions DROP COLUMN account_version")
    for column in ("account_version", "opening_cents"):
        op.execute(f"ALTER TABLE account_balances DROP COLUMN {column}")


def is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def add_columns() -> None:
    if is_postgresql():
        add("transactions", "account_version BIGINT", "account_version >= 1")
        counter = "account_version BIGINT DEFAULT 0 NOT NULL"
    else:
        # SQLite demands a default of a column that comes later: this one the guard refuses.
        add(
            "transactions",
            "account_version INTEGER DEFAULT 0 NOT NULL",
            "account_version >= 0 AND typeof(account_version) = 'integer'",
        )
        counter = "account_version INTEGER DEFAULT 0 NOT NULL"
    is_counter = "account_version BETWEEN 0 AND 9223372036854775807"
    if not is_postgresql():
        is_counter += " AND typeof(account_version) IN ('integer', 'null')"
    add("account_balances", counter, is_counter)
    is_balance = "opening_cents BETWEEN -100099999998 AND 100099999998"
    if not is_postgresql():
        is_balance += " AND typeof(opening_cents) IN ('integer', 'null')"
    kind = "BIGINT" if is_postgresql() else "INTEGER"
    add("account_balances", f"opening_cents {kind} DEFAULT 0 NOT NULL", is_balance)
    for table in ("transactions", "orders"):
        add(table, "idempotency_key VARCHAR(255)", "length(idempotency_key) BETWEEN 8 AND 255")
        add(
            table,
            "idempotency_hash VARCHAR(64)",
            "(idempotency_key IS NULL) = (idempotency_hash IS NULL)"
            " AND (idempotency_hash IS NULL OR length(idempotency_hash) = 64)",
        )


def add(table: str, column: str, rule: str) -> None:
    name = f"ck_{table}_{column.split()[0]}"
    op.execute(f"ALTER TABLE {table} ADD COLUMN {column} CONSTRAINT {name} CHECK ({rule})")


def number_the_lines() -> None:
    op.execute(
        """
        UPDATE transactions SET account_version = numbered.version
        FROM (
            SELECT id, row_number() OVER (PARTITION BY account_id ORDER BY id) AS version
            FROM transactions
        ) AS numbered
        WHERE numbered.id = transactions.id
        """
    )
    # An account that was taken over may have lines and no balance: it is what the last one says.
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    op.execute(
        f"""
        INSERT INTO account_balances (account_id, balance_cents, updated_at)
        SELECT account_id, balance_after_cents, '{now}' FROM transactions
        WHERE account_id NOT IN (SELECT account_id FROM account_balances)
            AND id IN (SELECT max(id) FROM transactions GROUP BY account_id)
        """
    )
    op.execute(
        """
        UPDATE account_balances SET account_version = (
            SELECT count(*) FROM transactions
            WHERE transactions.account_id = account_balances.account_id
        )
        """
    )
    # What was taken over may not begin at 0: its next line follows all the same.
    op.execute(
        """
        UPDATE account_balances SET opening_cents = coalesce((
            SELECT balance_after_cents
                - CASE transaction_type WHEN 'credit' THEN 1 ELSE -1 END * amount_cents
            FROM transactions
            WHERE transactions.account_id = account_balances.account_id AND account_version = 1
        ), balance_cents)
        """
    )


def create_guards() -> None:
    if not is_postgresql():
        for text in SQLITE_GUARDS:
            op.execute(text)
        return
    for name, body in FUNCTIONS.items():
        create_function(name, body)
    for text in POSTGRESQL_GUARDS:
        op.execute(text)
        name, table = name_and_table(text)
        # In a session that replicates, too: whoever may call himself a replica could else write.
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


def create_function(name: str, body: str) -> None:
    """Make a trigger function that finds our tables and no others, whoever calls it.

    A temporary table of the same name stands last in its path, instead of first.
    """
    schema = own_schema()
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql"
        f" SET search_path = {schema}, pg_temp AS $function${body}$function$"
    )


def own_schema() -> str:
    """Name the schema that our tables are in; a script is written where there may be none."""
    there = context.config.attributes.get("database")
    if not context.is_offline_mode():
        there = op.get_bind()
    if there is None:
        return "public"
    return str(there.scalar(sa.text("SELECT quote_ident(current_schema())")))


def name_and_table(text: str) -> tuple[str, str]:
    words = text.split()
    return words[words.index("TRIGGER") + 1], words[words.index("ON") + 1]
