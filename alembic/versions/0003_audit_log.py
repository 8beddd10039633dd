"""audit log of the command line

Revision 0003, after 0002.

One row for every change that an operator makes, in the same unit of work as the change.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.String(50).with_variant(sa.String(50, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", BIG, primary_key=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("action", sa.String(50), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("reason", sa.String(255), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False, server_default=sa.text("'{}'")),
        check("id", "id BETWEEN 1 AND 9223372036854775807"),
        check("at", "at LIKE '____-__-__T__:__:__.______Z'"),
        check("actor", "length(actor) BETWEEN 1 AND 255"),
        check("host", "length(host) BETWEEN 1 AND 255"),
        check("action", "length(action) BETWEEN 1 AND 50"),
        check("subject", "length(subject) BETWEEN 1 AND 255"),
        check("reason", "length(reason) BETWEEN 1 AND 255"),
    )
    op.create_index("ix_audit_log_subject", "audit_log", ["subject"])


def downgrade() -> None:
    op.drop_table("audit_log")


def check(name: str, rule: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(rule, name=op.f(f"ck_audit_log_{name}"))
