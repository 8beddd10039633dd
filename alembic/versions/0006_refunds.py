"""refunds of orders

Revision 0006, after 0005.

Every refund becomes a row: what went back to the customer, its share of the order's credit, and
what of that was spent already. An order that is refunded by now gets one for all of it.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.String(50).with_variant(sa.String(50, collation="C"), "postgresql")

SQLITE_GUARDS = (
    """
    CREATE TRIGGER order_refunds_no_delete BEFORE DELETE ON order_refunds
    BEGIN SELECT RAISE(ABORT, 'a refund is never deleted'); END
    """,
)

POSTGRESQL_GUARDS = (
    """
    CREATE TRIGGER order_refunds_no_delete BEFORE DELETE ON order_refunds
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
    for text in POSTGRESQL_GUARDS if is_postgresql() else SQLITE_GUARDS:
        op.execute(text)
        if is_postgresql():
            name = text.split()[2]
            op.execute(f"ALTER TABLE order_refunds ENABLE ALWAYS TRIGGER {name}")


def downgrade() -> None:
    op.drop_table("order_refunds")


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
    """Write one refund of each refunded order, whole: what no line took is its shortfall."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    op.execute(
        f"""
        INSERT INTO order_refunds (
            order_id, amount_cents, claw_back_cents, shortfall_cents, policy, transaction_id,
            created_at
        )
        SELECT id, amount_cents,
            CASE WHEN credited > taken THEN credited ELSE taken END,
            CASE WHEN credited > taken THEN credited - taken ELSE 0 END,
            'available', line, '{now}'
        FROM (
            SELECT orders.id, orders.amount_cents,
                coalesce(max(
                    CASE transaction_type WHEN 'credit' THEN lines.amount_cents END
                ), 0) AS credited,
                coalesce(sum(
                    CASE transaction_type WHEN 'refund' THEN lines.amount_cents END
                ), 0) AS taken,
                max(CASE transaction_type WHEN 'refund' THEN lines.id END) AS line
            FROM orders LEFT JOIN transactions AS lines ON lines.order_id = orders.id
            WHERE orders.status = 'refunded'
            GROUP BY orders.id, orders.amount_cents
        ) AS refunded
        ORDER BY id
        """
    )
