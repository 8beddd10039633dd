"""exact charging: fractions of a cent, and what was sold beside each line that charged an SMS

Revision 0007, after 0006.

A balance gets a second column, the micros that it has on top of its whole cents. Every line that
moves them has a row of its own: what was sold to which country at which rate, what it cost exactly,
and the fraction that was left then. A downgrade drops those rows and with them the fractions: what
is less than a cent is lost to the accounts.
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

SQLITE_GUARDS = (
    """
    CREATE TRIGGER sms_charges_no_change BEFORE UPDATE ON sms_charges
    BEGIN SELECT RAISE(ABORT, 'a charge is never changed'); END
    """,
    """
    CREATE TRIGGER sms_charges_no_delete BEFORE DELETE ON sms_charges
    BEGIN SELECT RAISE(ABORT, 'a charge is never deleted'); END
    """,
    """
    CREATE TRIGGER sms_charges_no_replace BEFORE INSERT ON sms_charges
    WHEN EXISTS (SELECT 1 FROM sms_charges WHERE id = NEW.id)
        OR EXISTS (SELECT 1 FROM sms_charges WHERE transaction_id = NEW.transaction_id)
        OR EXISTS (SELECT 1 FROM sms_charges WHERE gives_back_id = NEW.gives_back_id)
    BEGIN SELECT RAISE(ABORT, 'a charge is never replaced'); END
    """,
    """
    CREATE TRIGGER sms_charges_follow BEFORE INSERT ON sms_charges
    WHEN NOT EXISTS (
        SELECT 1 FROM transactions AS line
        JOIN account_balances AS balance ON balance.account_id = line.account_id
        WHERE line.id = NEW.transaction_id
            AND line.account_id = NEW.account_id
            AND line.account_version = balance.account_version
            AND NEW.subcent_after_micros = balance.subcent_micros
            AND line.transaction_type
                = CASE WHEN NEW.gives_back_id IS NULL THEN 'debit' ELSE 'credit' END
            AND line.amount_cents * 10000 + coalesce((
                SELECT earlier.subcent_after_micros FROM sms_charges AS earlier
                WHERE earlier.account_id = NEW.account_id
                ORDER BY earlier.transaction_id DESC LIMIT 1
            ), 0) * CASE WHEN NEW.gives_back_id IS NULL THEN 1 ELSE -1 END
                = NEW.cost_micros
                + NEW.subcent_after_micros * CASE WHEN NEW.gives_back_id IS NULL THEN 1 ELSE -1 END
    ) OR NEW.gives_back_id IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM sms_charges AS given
        WHERE given.transaction_id = NEW.gives_back_id
            AND given.gives_back_id IS NULL
            AND given.account_id = NEW.account_id
            AND given.cost_micros = NEW.cost_micros
    )
    BEGIN SELECT RAISE(ABORT, 'a charge moves the balance by just what it cost'); END
    """,
)

POSTGRESQL_GUARDS = (
    """
    CREATE TRIGGER sms_charges_no_change BEFORE UPDATE OR DELETE ON sms_charges
    FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()
    """,
    """
    CREATE TRIGGER sms_charges_no_truncate BEFORE TRUNCATE ON sms_charges
    FOR EACH STATEMENT EXECUTE FUNCTION tbpay_refuse()
    """,
    """
    CREATE TRIGGER sms_charges_follow BEFORE INSERT ON sms_charges
    FOR EACH ROW EXECUTE FUNCTION tbpay_charge_follows()
    """,
)

CHARGE_FOLLOWS = """
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM transactions AS line
        JOIN account_balances AS balance ON balance.account_id = line.account_id
        WHERE line.id = NEW.transaction_id
            AND line.account_id = NEW.account_id
            AND line.account_version = balance.account_version
            AND NEW.subcent_after_micros = balance.subcent_micros
            AND line.transaction_type
                = CASE WHEN NEW.gives_back_id IS NULL THEN 'debit' ELSE 'credit' END
            AND line.amount_cents * 10000 + coalesce((
                SELECT earlier.subcent_after_micros FROM sms_charges AS earlier
                WHERE earlier.account_id = NEW.account_id
                ORDER BY earlier.transaction_id DESC LIMIT 1
            ), 0) * CASE WHEN NEW.gives_back_id IS NULL THEN 1 ELSE -1 END
                = NEW.cost_micros
                + NEW.subcent_after_micros * CASE WHEN NEW.gives_back_id IS NULL THEN 1 ELSE -1 END
    ) OR NEW.gives_back_id IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM sms_charges AS given
        WHERE given.transaction_id = NEW.gives_back_id
            AND given.gives_back_id IS NULL
            AND given.account_id = NEW.account_id
            AND given.cost_micros = NEW.cost_micros
    ) THEN
        RAISE EXCEPTION 'a charge moves the balance by just what it cost'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
"""

BALANCE_FOLLOWS = """
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
            AND OLD.subcent_micros = NEW.subcent_micros
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
    ) OR last.subcent_micros <> coalesce((
        SELECT subcent_after_micros FROM sms_charges
        WHERE account_id = last.account_id ORDER BY transaction_id DESC LIMIT 1
    ), 0) OR EXISTS (
        SELECT 1 FROM transactions
        WHERE account_id = last.account_id AND account_version > last.account_version
    ) THEN
        RAISE EXCEPTION 'a balance is what its last line says'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
"""

BALANCE_FOLLOWED = """
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
"""


def upgrade() -> None:
    rule = "subcent_micros BETWEEN 0 AND 9999"
    kind = "BIGINT"
    if not is_postgresql():
        rule += " AND typeof(subcent_micros) IN ('integer', 'null')"
        kind = "INTEGER"
    op.execute(
        f"ALTER TABLE account_balances ADD COLUMN subcent_micros {kind} DEFAULT 0 NOT NULL"
        f" CONSTRAINT ck_account_balances_subcent_micros CHECK ({rule})"
    )
    op.create_table(
        "sms_charges",
        sa.Column("id", BIG, primary_key=True),
        refers("transaction_id", "transactions.id", nullable=False),
        refers("account_id", "accounts.id", nullable=False),
        sa.Column("phone", sa.String(20), nullable=False),
        sa.Column("country_code", sa.String(2), nullable=False),
        sa.Column("segments", BIG, nullable=False),
        sa.Column("rate_micros", BIG, nullable=False),
        sa.Column("cost_micros", BIG, nullable=False),
        sa.Column("twilio_cost_micros", BIG),
        sa.Column("subcent_after_micros", BIG, nullable=False),
        refers("gives_back_id", "transactions.id", nullable=True),
        check("id", "id BETWEEN 1 AND 9223372036854775807"),
        check("phone", "length(phone) BETWEEN 5 AND 7"),
        check("country_code", "length(country_code) = 2"),
        check("segments", "segments BETWEEN 1 AND 1000000"),
        check("rate_micros", "rate_micros BETWEEN 1 AND 999999990000"),
        check(
            "cost_micros", "cost_micros <= 999999990000 AND cost_micros = rate_micros * segments"
        ),
        check("twilio_cost_micros", "twilio_cost_micros BETWEEN 1 AND 999999990000"),
        check("subcent_after_micros", "subcent_after_micros BETWEEN 0 AND 9999"),
        check("gives_back_id", "gives_back_id < transaction_id"),
        *integers(
            "transaction_id",
            "account_id",
            "segments",
            "rate_micros",
            "cost_micros",
            "twilio_cost_micros",
            "subcent_after_micros",
            "gives_back_id",
        ),
    )
    for name, columns, unique in (
        ("ix_sms_charges_transaction_id", ["transaction_id"], True),
        ("ix_sms_charges_account_id", ["account_id", "transaction_id"], False),
        ("ix_sms_charges_gives_back_id", ["gives_back_id"], True),
    ):
        op.create_index(name, "sms_charges", columns, unique=unique)
    create_guards()


def downgrade() -> None:
    op.drop_table("sms_charges")
    if is_postgresql():
        op.execute("DROP FUNCTION tbpay_charge_follows()")
        make_function("CREATE OR REPLACE", "tbpay_balance_follows", BALANCE_FOLLOWED)
    op.execute("ALTER TABLE account_balances DROP COLUMN subcent_micros")


def is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def refers(column: str, to: str, *, nullable: bool) -> sa.Column[int]:
    key = sa.ForeignKey(to, name=f"fk_sms_charges_{column}")
    return sa.Column(column, BIG, key, nullable=nullable)


def check(name: str, rule: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(rule, name=op.f(f"ck_sms_charges_{name}"))


def integers(*columns: str) -> list[sa.CheckConstraint]:
    """SQLite keeps a fraction or a word in an INTEGER column all the same."""
    kept = " AND ".join(f"typeof({column}) IN ('integer', 'null')" for column in columns)
    return [] if is_postgresql() else [check("integers", kept)]


def create_guards() -> None:
    if not is_postgresql():
        for text in SQLITE_GUARDS:
            op.execute(text)
        return
    make_function("CREATE", "tbpay_charge_follows", CHARGE_FOLLOWS)
    make_function("CREATE OR REPLACE", "tbpay_balance_follows", BALANCE_FOLLOWS)
    for text in POSTGRESQL_GUARDS:
        op.execute(text)
        name = text.split()[2]
        op.execute(f"ALTER TABLE sms_charges ENABLE ALWAYS TRIGGER {name}")


def make_function(how: str, name: str, body: str) -> None:
    op.execute(
        f"{how} FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql"
        f" SET search_path = {own_schema()}, pg_temp AS $function${body}$function$"
    )


def own_schema() -> str:
    """Name the schema that our tables are in; a script is written where there may be none."""
    there = context.config.attributes.get("database")
    if not context.is_offline_mode():
        there = op.get_bind()
    if there is None:
        return "public"
    return str(there.scalar(sa.text("SELECT quote_ident(current_schema())")))
