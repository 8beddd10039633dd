"""the web application's accounts

Revision 0001, after nothing.

`accounts` belongs to the web application. Where it is there, it is left as it is: only its id must
be something that our tables can point at. Where it is not, it is created. No downgrade drops it.
"""

from typing import Any

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    if has_accounts():
        if not context.is_offline_mode():
            check_id()
        return
    op.create_table(
        "accounts",
        sa.Column("id", BIG, primary_key=True),
        sa.Column("email", sa.String(255), nullable=True, unique=True),
        sa.Column("created_at", sa.String(50), nullable=True),
    )


def downgrade() -> None:
    """Leave accounts as it is: it holds the web application's customers."""


def has_accounts() -> bool:
    if context.is_offline_mode():
        return "accounts" in context.config.attributes.get("present", {})
    return sa.inspect(op.get_bind()).has_table("accounts")


def check_id() -> None:
    inspector = sa.inspect(op.get_bind())
    columns = {column["name"]: column["type"] for column in inspector.get_columns("accounts")}
    unique: list[list[Any]] = [inspector.get_pk_constraint("accounts")["constrained_columns"]]
    unique += [
        list(found["column_names"]) for found in inspector.get_unique_constraints("accounts")
    ]
    unique += [
        list(found["column_names"])
        for found in inspector.get_indexes("accounts")
        if found["unique"] and not any("where" in name for name in found.get("dialect_options", {}))
    ]
    if not isinstance(columns.get("id"), sa.Integer) or ["id"] not in unique:
        raise CommandError(
            "table accounts: needs a column id that is an integer and primary or unique"
        )
