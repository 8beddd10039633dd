"""redemptions of discount codes, their window and limits

Revision 0005, after 0004.

Every use of a code becomes a row: whose it is, what it took off, and what became of it. For the
orders that are there one is written each. A counter that is higher has uses that nobody can name:
they become rows without an order. Where it is lower, the newest orders were paid late, when no use
was left; what cannot be explained so is named and stops the migration.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.String(50).with_variant(sa.String(50, collation="C"), "postgresql")
FIXED_WIDTH = "LIKE '____-__-__T__:__:__.______Z'"

SQLITE_GUARDS = (
    """
    CREATE TRIGGER discount_redemptions_no_change BEFORE UPDATE
    OF id, discount_code_id, order_id, account_id, reduction_cents ON discount_redemptions
    BEGIN SELECT RAISE(ABORT, 'a redemption keeps what it is of'); END
    """,
    """
    CREATE TRIGGER discount_redemptions_no_delete BEFORE DELETE ON discount_redemptions
    BEGIN SELECT RAISE(ABORT, 'a redemption is never deleted'); END
    """,
    """
    CREATE TRIGGER discount_redemptions_no_replace BEFORE INSERT ON discount_redemptions
    WHEN EXISTS (SELECT 1 FROM discount_redemptions WHERE id = NEW.id)
        OR EXISTS (SELECT 1 FROM discount_redemptions WHERE order_id = NEW.order_id)
    BEGIN SELECT RAISE(ABORT, 'a redemption is never replaced'); END
    """,
    """
    CREATE TRIGGER discount_codes_add_up BEFORE UPDATE OF current_uses ON discount_codes
    WHEN NEW.current_uses <> OLD.current_uses
        AND NEW.current_uses <> (
            SELECT count(*) FROM discount_redemptions
            WHERE discount_code_id = NEW.id AND status IN ('reserved', 'redeemed')
        )
    BEGIN
        SELECT RAISE(ABORT, 'the uses of a discount code are what its redemptions add up to');
    END
    """,
)

ADD_UP = """
DECLARE
    code_id bigint := NEW.id;
BEGIN
    IF TG_TABLE_NAME = 'discount_redemptions' THEN
        code_id := NEW.discount_code_id;
        IF TG_OP = 'UPDATE' THEN
            IF (OLD.status IN ('reserved', 'redeemed')) = (NEW.status IN ('reserved', 'redeemed'))
            THEN
                RETURN NULL;
            END IF;
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF OLD.current_uses = NEW.current_uses THEN
            RETURN NULL;
        END IF;
    END IF;
    -- One statement, and so one view: another unit may commit between two.
    IF EXISTS (
        SELECT 1 FROM discount_codes WHERE id = code_id AND current_uses <> (
            SELECT count(*) FROM discount_redemptions
            WHERE discount_code_id = code_id AND status IN ('reserved', 'redeemed')
        )
    ) THEN
        RAISE EXCEPTION 'the uses of a discount code are what its redemptions add up to'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
"""

POSTGRESQL_GUARDS = (
    """
    CREATE TRIGGER discount_redemptions_no_change BEFORE UPDATE
    OF id, discount_code_id, order_id, account_id, reduction_cents ON discount_redemptions
    FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()
    """,
    """
    CREATE TRIGGER discount_redemptions_no_delete BEFORE DELETE ON discount_redemptions
    FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()
    """,
    """
    CREATE TRIGGER discount_redemptions_no_truncate BEFORE TRUNCATE ON discount_redemptions
    FOR EACH STATEMENT EXECUTE FUNCTION tbpay_refuse()
    """,
    """
    CREATE CONSTRAINT TRIGGER discount_redemptions_add_up
    AFTER INSERT OR UPDATE ON discount_redemptions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tbpay_uses_add_up()
    """,
    """
    CREATE CONSTRAINT TRIGGER discount_codes_add_up AFTER INSERT OR UPDATE ON discount_codes
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tbpay_uses_add_up()
    """,
)


def upgrade() -> None:
    whole = "BIGINT" if is_postgresql() else "INTEGER"
    add("starts_at", time_type(), f"starts_at {FIXED_WIDTH}")
    add("ends_at", time_type(), f"ends_at {FIXED_WIDTH}")
    add("per_account", whole, between("per_account", 1, 2147483647))
    add("min_amount_cents", whole, between("min_amount_cents", 1, 99999999))
    op.create_table(
        "discount_redemptions",
        sa.Column("id", BIG, primary_key=True),
        sa.Column(
            "discount_code_id",
            BIG,
            sa.ForeignKey("discount_codes.id", name=key("discount_code_id")),
            nullable=False,
        ),
        sa.Column("order_id", BIG, sa.ForeignKey("orders.id", name=key("order_id"))),
        sa.Column("account_id", BIG, sa.ForeignKey("accounts.id", name=key("account_id"))),
        sa.Column("reduction_cents", BIG, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        check("id", "id BETWEEN 1 AND 9223372036854775807"),
        check("reduction_cents", "reduction_cents BETWEEN 0 AND 99999999"),
        check("status", "status IN ('reserved', 'redeemed', 'released', 'late')"),
        check("created_at", f"created_at {FIXED_WIDTH}"),
        *integers("discount_code_id", "order_id", "account_id", "reduction_cents"),
    )
    for name, columns, unique in (
        ("ix_discount_redemptions_code", ["discount_code_id", "status"], False),
        ("ix_discount_redemptions_account_id", ["account_id"], False),
        ("ix_discount_redemptions_order_id", ["order_id"], True),
    ):
        op.create_index(name, "discount_redemptions", columns, unique=unique)
    keep_the_credit()
    redeem()
    explain_the_counters()
    create_guards()


def downgrade() -> None:
    """Drop the redemptions; the counters stay as they are."""
    on_codes = " ON discount_codes" if is_postgresql() else ""
    op.execute(f"DROP TRIGGER discount_codes_add_up{on_codes}")
    op.drop_table("discount_redemptions")
    if is_postgresql():
        op.execute("DROP FUNCTION tbpay_uses_add_up()")
    for column in ("starts_at", "ends_at", "per_account", "min_amount_cents"):
        op.execute(f"ALTER TABLE discount_codes DROP COLUMN {column}")


def is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def time_type() -> str:
    return 'VARCHAR(50) COLLATE "C"' if is_postgresql() else "VARCHAR(50)"


def add(column: str, kind: str, rule: str) -> None:
    name = f"ck_discount_codes_{column}"
    op.execute(
        f"ALTER TABLE discount_codes ADD COLUMN {column} {kind} CONSTRAINT {name} CHECK ({rule})"
    )


def between(column: str, lowest: int, highest: int) -> str:
    rule = f"{column} BETWEEN {lowest} AND {highest}"
    return rule if is_postgresql() else f"{rule} AND typeof({column}) IN ('integer', 'null')"


def key(column: str) -> str:
    return f"fk_discount_redemptions_{column}"


def check(name: str, rule: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(rule, name=op.f(f"ck_discount_redemptions_{name}"))


def integers(*columns: str) -> list[sa.CheckConstraint]:
    """SQLite keeps a fraction or a word in an INTEGER column all the same."""
    kept = " AND ".join(f"typeof({column}) IN ('integer', 'null')" for column in columns)
    return [] if is_postgresql() else [check("integers", kept)]


def keep_the_credit() -> None:
    """Note what an order of old credited, where that was not what it cost."""
    op.execute(
        """
        UPDATE orders SET credit_cents = credit.amount_cents
        FROM transactions AS credit
        WHERE credit.order_id = orders.id AND credit.transaction_type = 'credit'
            AND orders.credit_cents IS NULL AND credit.amount_cents <> orders.amount_cents
        """
    )


def redeem() -> None:
    op.execute(
        """
        INSERT INTO discount_redemptions
            (discount_code_id, order_id, account_id, reduction_cents, status, created_at)
        SELECT discount_code_id, id, account_id,
            CASE WHEN credit_cents > amount_cents THEN credit_cents - amount_cents ELSE 0 END,
            CASE status
                WHEN 'pending' THEN 'reserved' WHEN 'failed' THEN 'released' ELSE 'redeemed'
            END,
            created_at
        FROM orders WHERE discount_code_id IS NOT NULL ORDER BY id
        """
    )


def explain_the_counters() -> None:
    for code_id, code, uses, live in uncounted():
        if uses > live:
            add_anonymous(code_id, uses - live)
        elif late := live - uses:
            found = op.get_bind().execute(
                sa.text(
                    """
                    UPDATE discount_redemptions SET status = 'late' WHERE id IN (
                        SELECT redemptions.id FROM discount_redemptions AS redemptions
                        JOIN orders ON orders.id = order_id
                        WHERE redemptions.discount_code_id = :code_id
                            AND redemptions.status = 'redeemed'
                        ORDER BY orders.status, order_id DESC LIMIT :late
                    )
                    """
                ),
                {"code_id": code_id, "late": late},
            )
            if found.rowcount < late:
                raise CommandError(
                    f"table discount_codes, row {code_id}: current_uses of {code} is {uses},"
                    f" but {uses + late - found.rowcount} pending orders hold a use"
                )


def uncounted() -> list[Any]:
    """The codes whose counter is not the number of their live redemptions."""
    if context.is_offline_mode():
        return uncounted_offline()
    return list(
        op.get_bind().execute(
            sa.text(
                """
                SELECT id, code, current_uses, live FROM (
                    SELECT id, code, current_uses, (
                        SELECT count(*) FROM discount_redemptions
                        WHERE discount_code_id = discount_codes.id
                            AND status IN ('reserved', 'redeemed')
                    ) AS live
                    FROM discount_codes
                ) AS counted
                WHERE current_uses <> live ORDER BY id
                """
            )
        )
    )


def uncounted_offline() -> list[Any]:
    """A script cannot look at what it does; where there are codes, it cannot be written."""
    there = context.config.attributes.get("database")
    if (
        there is not None
        and sa.inspect(there).has_table("discount_codes")
        and there.scalar(sa.text("SELECT count(*) FROM discount_codes"))
    ):
        raise CommandError(
            "table discount_codes: its rows must be read to explain their uses,"
            " which a script cannot do"
        )
    return []


def add_anonymous(code_id: int, number: int) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    op.get_bind().execute(
        sa.text(
            """
            INSERT INTO discount_redemptions
                (discount_code_id, reduction_cents, status, created_at)
            WITH RECURSIVE uses (n) AS (
                SELECT 1 UNION ALL SELECT n + 1 FROM uses WHERE n < :number
            )
            SELECT :code_id, 0, 'redeemed', :now FROM uses
            """
        ),
        {"code_id": code_id, "number": number, "now": now},
    )


def create_guards() -> None:
    if not is_postgresql():
        for text in SQLITE_GUARDS:
            op.execute(text)
        return
    schema = own_schema()
    op.execute(
        "CREATE FUNCTION tbpay_uses_add_up() RETURNS trigger LANGUAGE plpgsql"
        f" SET search_path = {schema}, pg_temp AS $function${ADD_UP}$function$"
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
