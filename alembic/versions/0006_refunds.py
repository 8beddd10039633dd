"""refunds of orders

Revision 0006, after 0005.

Every refund becomes a row: what went back to the customer, its share of the order's credit, and
what of that was spent already. What was taken back before is told from the lines that took it.
From here on an order keeps what was paid for it and what it credited, by which refunds are counted.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.String(50).with_variant(sa.String(50, collation="C"), "postgresql")

SQLITE_GUARDS = (
    """
    CREATE TRIGGER orders_no_change BEFORE UPDATE ON orders
    WHEN NEW.id IS NOT OLD.id
        OR NEW.account_id IS NOT OLD.account_id
        OR OLD.status IN ('completed', 'refunded') AND (
            NEW.status NOT IN ('completed', 'refunded')
            OR NEW.amount_cents IS NOT OLD.amount_cents
            OR NEW.credit_cents IS NOT OLD.credit_cents
        )
        OR EXISTS (
            SELECT 1 FROM orders
            WHERE id <> OLD.id AND stripe_session_id = NEW.stripe_session_id
        )
        OR EXISTS (
            SELECT 1 FROM orders
            WHERE id <> OLD.id AND stripe_payment_intent_id = NEW.stripe_payment_intent_id
        )
        OR EXISTS (
            SELECT 1 FROM orders WHERE id <> OLD.id AND idempotency_key = NEW.idempotency_key
        )
    BEGIN SELECT RAISE(ABORT, 'an order keeps its account, and what was paid and credited'); END
    """,
    """
    CREATE TRIGGER order_refunds_no_change BEFORE UPDATE ON order_refunds
    BEGIN SELECT RAISE(ABORT, 'a refund is never changed'); END
    """,
    """
    CREATE TRIGGER order_refunds_no_delete BEFORE DELETE ON order_refunds
    BEGIN SELECT RAISE(ABORT, 'a refund is never deleted'); END
    """,
    """
    CREATE TRIGGER order_refunds_no_replace BEFORE INSERT ON order_refunds
    WHEN EXISTS (SELECT 1 FROM order_refunds WHERE id = NEW.id)
        OR EXISTS (SELECT 1 FROM order_refunds WHERE stripe_refund_id = NEW.stripe_refund_id)
        OR EXISTS (SELECT 1 FROM order_refunds WHERE transaction_id = NEW.transaction_id)
        OR EXISTS (SELECT 1 FROM order_refunds WHERE idempotency_key = NEW.idempotency_key)
    BEGIN SELECT RAISE(ABORT, 'a refund is never replaced'); END
    """,
)

ORDER_KEEPS = """
BEGIN
    IF NEW.id <> OLD.id
        OR NEW.account_id <> OLD.account_id
        OR OLD.status IN ('completed', 'refunded') AND (
            NEW.status NOT IN ('completed', 'refunded')
            OR NEW.amount_cents <> OLD.amount_cents
            OR NEW.credit_cents IS DISTINCT FROM OLD.credit_cents
        )
    THEN
        RAISE EXCEPTION 'an order keeps its account, and what was paid and credited'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
"""

POSTGRESQL_GUARDS = (
    """
    CREATE TRIGGER orders_no_change BEFORE UPDATE ON orders
    FOR EACH ROW EXECUTE FUNCTION tbpay_order_keeps()
    """,
    """
    CREATE TRIGGER order_refunds_no_change BEFORE UPDATE OR DELETE ON order_refunds
    FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()
    """,
    """
    CREATE TRIGGER order_refunds_no_truncate BEFORE TRUNCATE ON order_refunds
    FOR EACH STATEMENT EXECUTE FUNCTION tbpay_refuse()
    """,
)


def upgrade() -> None:
    op.create_table(
        "order_refunds",
        sa.Column("id", BIG, primary_key=True),
        sa.Column(
            "order_id", BIG, sa.ForeignKey("orders.id", name=key("order_id")), nullable=False
        ),
        sa.Column("amount_cents", BIG, nullable=False),
        sa.Column("claw_back_cents", BIG, nullable=False),
        sa.Column("shortfall_cents", BIG, nullable=False),
        sa.Column("policy", sa.String(20), nullable=False),
        sa.Column("stripe_refund_id", sa.String(255)),
        sa.Column(
            "transaction_id", BIG, sa.ForeignKey("transactions.id", name=key("transaction_id"))
        ),
        sa.Column("reason", sa.String(255)),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("idempotency_hash", sa.String(64)),
        sa.Column("created_at", TIME, nullable=False),
        check("id", "id BETWEEN 1 AND 9223372036854775807"),
        check("amount_cents", "amount_cents BETWEEN 0 AND 99999999"),
        check("claw_back_cents", "claw_back_cents BETWEEN 0 AND 99999999"),
        check("shortfall_cents", "shortfall_cents BETWEEN 0 AND claw_back_cents"),
        check("policy", "policy IN ('refuse', 'available', 'negative')"),
        check("stripe_refund_id", "length(stripe_refund_id) BETWEEN 1 AND 255"),
        check("reason", "length(reason) BETWEEN 1 AND 255"),
        check("idempotency_key", "length(idempotency_key) BETWEEN 8 AND 255"),
        check(
            "idempotency_hash",
            "(idempotency_key IS NULL) = (idempotency_hash IS NULL)"
            " AND (idempotency_hash IS NULL OR length(idempotency_hash) = 64)",
        ),
        check("created_at", "created_at LIKE '____-__-__T__:__:__.______Z'"),
        *integers(
            "order_id", "amount_cents", "claw_back_cents", "shortfall_cents", "transaction_id"
        ),
    )
    op.create_index("ix_order_refunds_order_id", "order_refunds", ["order_id"])
    for column in ("stripe_refund_id", "transaction_id", "idempotency_key"):
        op.create_index(f"ix_order_refunds_{column}", "order_refunds", [column], unique=True)
    refund_what_is_refunded()
    create_guards()


def downgrade() -> None:
    op.drop_table("order_refunds")
    on_orders = " ON orders" if is_postgresql() else ""
    op.execute(f"DROP TRIGGER orders_no_change{on_orders}")
    if is_postgresql():
        op.execute("DROP FUNCTION tbpay_order_keeps()")


def is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def key(column: str) -> str:
    return f"fk_order_refunds_{column}"


def check(name: str, rule: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(rule, name=op.f(f"ck_order_refunds_{name}"))


def integers(*columns: str) -> list[sa.CheckConstraint]:
    """SQLite keeps a fraction or a word in an INTEGER column all the same."""
    kept = " AND ".join(f"typeof({column}) IN ('integer', 'null')" for column in columns)
    return [] if is_postgresql() else [check("integers", kept)]


def refund_what_is_refunded() -> None:
    """Write a refund for each line that took back a part of an order's credit.

    Of an order that is refunded the rest follows as one more: no line took it, so that it is the
    shortfall.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    new = sa.text(
        """
        INSERT INTO order_refunds (
            order_id, amount_cents, claw_back_cents, shortfall_cents, policy, transaction_id,
            created_at
        ) VALUES (:order_id, :amount, :claw_back, :shortfall, 'available', :line, :now)
        """
    )
    for order in orders_with_refunds():
        for amount, claw_back, shortfall, line in refunds_of(order):
            op.get_bind().execute(
                new,
                {
                    "order_id": order.id,
                    "amount": amount,
                    "claw_back": claw_back,
                    "shortfall": shortfall,
                    "line": line,
                    "now": now,
                },
            )


def orders_with_refunds() -> list[Any]:
    question = sa.text(
        """
        SELECT id, status, amount_cents AS paid, coalesce((
            SELECT amount_cents FROM transactions
            WHERE order_id = orders.id AND transaction_type = 'credit'
        ), 0) AS credit
        FROM orders
        WHERE status = 'refunded' OR status = 'completed' AND id IN (
            SELECT order_id FROM transactions WHERE transaction_type = 'refund'
        )
        ORDER BY id
        """
    )
    if not context.is_offline_mode():
        return list(op.get_bind().execute(question))
    there = context.config.attributes.get("database")
    if (
        there is not None
        and sa.inspect(there).has_table("orders")
        and there.execute(question).first() is not None
    ):
        raise CommandError(
            "table orders: its rows must be read to tell their refunds, which a script cannot do"
        )
    return []


def refunds_of(order: Any) -> Iterator[tuple[int, int, int, int | None]]:
    """Answer amount, claw-back, shortfall and line of each: the least that explains the line."""
    lines = op.get_bind().execute(
        sa.text(
            """
            SELECT id, amount_cents FROM transactions
            WHERE order_id = :order_id AND transaction_type = 'refund' ORDER BY id
            """
        ),
        {"order_id": order.id},
    )
    refunded = clawed = taken = 0
    for line, amount in list(lines):
        taken += amount
        after = refunded
        if order.credit > 0:
            after = min(order.paid, -(-taken * order.paid // order.credit))
        claw_back = max(share(order, after) - clawed, amount)
        yield after - refunded, claw_back, claw_back - amount, line
        refunded, clawed = after, clawed + claw_back
    is_whole = order.status == "refunded"
    rest = max(order.credit - clawed, 0)
    if is_whole and (refunded < order.paid or rest > 0 or taken == 0):
        yield order.paid - refunded, rest, rest, None


def share(order: Any, refunded: int) -> int:
    return int(order.credit * refunded // order.paid if order.paid > 0 else order.credit)


def create_guards() -> None:
    if not is_postgresql():
        for text in SQLITE_GUARDS:
            op.execute(text)
        return
    op.execute(
        "CREATE FUNCTION tbpay_order_keeps() RETURNS trigger LANGUAGE plpgsql"
        f" SET search_path = {own_schema()}, pg_temp AS $function${ORDER_KEEPS}$function$"
    )
    for text in POSTGRESQL_GUARDS:
        op.execute(text)
        words = text.split()
        name, table = words[words.index("TRIGGER") + 1], words[words.index("ON") + 1]
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


def own_schema() -> str:
    """Name the schema that our tables are in; a script is written where there may be none."""
    there = context.config.attributes.get("database")
    if not context.is_offline_mode():
        there = op.get_bind()
    if there is None:
        return "public"
    return str(there.scalar(sa.text("SELECT quote_ident(current_schema())")))
