"""the web application's accounts

Revision 0001, after nothing.

`accounts` belongs to the web application. Where it is there, it is left as it is: only its id must
be something that our tables can point at. Where it is not, it is created. No downgrade drops it.
"""

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# What an index of some rows only is known by.
PARTIAL = {"sqlite_where", "postgresql_where"}


def upgrade() -> None:
    inspector = look()
    if inspector is not None and "accounts" in inspector.get_table_names():
        check_id(inspector)
        context.config.attributes.setdefault("adopted", []).append("accounts")
    else:
        op.create_table(
            "accounts",
            sa.Column("id", BIG, primary_key=True),
            sa.Column("email", sa.String(255), nullable=True, unique=True),
            sa.Column("created_at", sa.String(50), nullable=True),
        )


def downgrade() -> None:
    """Leave accounts as it is: it holds the web application's customers."""


def look() -> sa.Inspector | None:
    """What sees the database; a script is written where there may be none."""
    if context.is_offline_mode():
        there = context.config.attributes.get("database")
        return None if there is None else sa.inspect(there)
    return sa.inspect(op.get_bind())


def check_id(inspector: sa.Inspector) -> None:
    types = {column["name"]: column["type"] for column in inspector.get_columns("accounts")}
    unique = [inspector.get_pk_constraint("accounts")["constrained_columns"]]
    unique += [
        [str(name) for name in index["column_names"]]
        # What UNIQUE makes by itself is an automatic index of SQLite.
        for index in inspector.get_indexes("accounts", include_auto_indexes=True)
        if index["unique"] and not index.get("dialect_options", {}).keys() & PARTIAL
    ]
    if not isinstance(types.get("id"), sa.Integer) or ["id"] not in unique:
        raise CommandError(
            "table accounts: needs a column id that is an integer and primary or unique"
        )
