"""The tables as they stand at the newest revision: columns, keys, checks and indexes.

Of ``accounts``, which belongs to the web application, only the two columns that tbpay relies on are
declared. A range or word set is read from ``models``; a migration carries its own copy, because
history does not change when the vocabulary does.
"""

from enum import StrEnum

import sqlalchemy as sa

from tbpay.models import (
    CODE_PATTERN,
    MAX_ACTION,
    MAX_AMOUNT_CENTS,
    MAX_BALANCE_CENTS,
    MAX_COST_MICROS,
    MAX_ID,
    MAX_KEY,
    MAX_OPENING_CENTS,
    MAX_PERCENT,
    MAX_SEGMENTS,
    MAX_SUBCENT_MICROS,
    MAX_TEXT,
    MAX_USES,
    MIN_KEY,
    DiscountType,
    OrderStatus,
    OrderType,
    RedemptionStatus,
    RefundPolicy,
    TransactionType,
)

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
"""Every revision that this tbpay knows, oldest first; the stores work at the last one only."""

VERSION_TABLE = "tbpay_alembic_version"

METADATA = sa.MetaData(
    naming_convention={
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# 64 bits on PostgreSQL; on SQLite only INTEGER makes the primary key the row's own number.
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# By their bytes, whatever the database's language: text order is time order.
_TIME = sa.String(50).with_variant(sa.String(50, collation="C"), "postgresql")


def _between(column: str, lowest: int, highest: int) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} BETWEEN {lowest} AND {highest}", name=column)


def _one_of(column: str, words: type[StrEnum]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=column)


def _short(column: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"length({column}) BETWEEN 1 AND {MAX_TEXT}", name=column)


def _fixed_width(column: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} LIKE '____-__-__T__:__:__.______Z'", name=column)


def _key() -> list[sa.schema.SchemaItem]:
    """The columns of an idempotency key and of the hash of what it was used for."""
    return [
        sa.Column("idempotency_key", sa.String(MAX_KEY)),
        sa.Column("idempotency_hash", sa.String(_HASH)),
        sa.CheckConstraint(
            f"length(idempotency_key) BETWEEN {MIN_KEY} AND {MAX_KEY}", name="idempotency_key"
        ),
        sa.CheckConstraint(
            "(idempotency_key IS NULL) = (idempotency_hash IS NULL)"
            f" AND (idempotency_hash IS NULL OR length(idempotency_hash) = {_HASH})",
            name="idempotency_hash",
        ),
    ]


# The hexadecimal digits of SHA-256.
_HASH = 64


def _integers(*columns: str) -> sa.CheckConstraint:
    """Refuse what SQLite would keep in an INTEGER column all the same: fractions and words."""
    kept = " AND ".join(f"typeof({column}) IN ('integer', 'null')" for column in columns)
    return sa.CheckConstraint(kept, name="integers").ddl_if(dialect="sqlite")


def _between_integers(column: str, lowest: int, highest: int) -> list[sa.CheckConstraint]:
    """A range and the type in one rule, for a column that came later."""
    rule = f"{column} BETWEEN {lowest} AND {highest}"
    typed = f"{rule} AND typeof({column}) IN ('integer', 'null')"
    return [
        sa.CheckConstraint(typed, name=column).ddl_if(dialect="sqlite"),
        sa.CheckConstraint(rule, name=column).ddl_if(dialect="postgresql"),
    ]


def _one_where(name: str, column: str, condition: str) -> sa.Index:
    """A partial unique index. To name PostgreSQL's own option here would load its dialect."""
    where = {"where": condition}
    return sa.Index(name, column, unique=True, sqlite_where=sa.text(condition), info=where)


# ``since`` says with which revision a table came, and below which a downgrade drops it.
accounts = sa.Table(
    "accounts",
    METADATA,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("stripe_customer_id", sa.String(255)),
)

discount_codes = sa.Table(
    "discount_codes",
    METADATA,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("code", sa.String(50), nullable=False),
    sa.Column("discount_type", sa.String(20), nullable=False),
    sa.Column("discount_value", _BIG, nullable=False),
    sa.Column("max_uses", _BIG),
    sa.Column("current_uses", _BIG, nullable=False, default=0, server_default=sa.text("0")),
    sa.Column("active", sa.Boolean, nullable=False, default=True, server_default=sa.true()),
    sa.Column("stripe_coupon_id", sa.String(255)),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("starts_at", _TIME),
    sa.Column("ends_at", _TIME),
    sa.Column("per_account", _BIG),
    sa.Column("min_amount_cents", _BIG),
    _between("id", 1, MAX_ID),
    sa.CheckConstraint(
        "code GLOB '[A-Z0-9]*' AND code NOT GLOB '*[^A-Z0-9_-]*'"
        " AND length(code) BETWEEN 3 AND 50 AND instr(code, char(0)) = 0",
        name="code",
    ).ddl_if(dialect="sqlite"),
    sa.CheckConstraint(f"code ~ '^{CODE_PATTERN}$'", name="code").ddl_if(dialect="postgresql"),
    _one_of("discount_type", DiscountType),
    sa.CheckConstraint(
        f"discount_value BETWEEN 1 AND {MAX_AMOUNT_CENTS}"
        f" AND (discount_type <> 'percent' OR discount_value <= {MAX_PERCENT})",
        name="discount_value",
    ),
    _between("max_uses", 1, MAX_USES),
    sa.CheckConstraint(
        f"current_uses BETWEEN 0 AND {MAX_USES} AND (max_uses IS NULL OR current_uses <= max_uses)",
        name="current_uses",
    ),
    sa.CheckConstraint("active IN (0, 1)", name="active").ddl_if(dialect="sqlite"),
    _short("stripe_coupon_id"),
    _fixed_width("created_at"),
    _integers("discount_value", "max_uses", "current_uses"),
    _fixed_width("starts_at"),
    _fixed_width("ends_at"),
    *_between_integers("per_account", 1, MAX_USES),
    *_between_integers("min_amount_cents", 1, MAX_AMOUNT_CENTS),
    sa.Index("ix_discount_codes_code", "code", unique=True),
    info={"since": "0002"},
)

orders = sa.Table(
    "orders",
    METADATA,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("account_id", _BIG, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("order_type", sa.String(20), nullable=False),
    sa.Column("amount_cents", _BIG, nullable=False),
    sa.Column("stripe_session_id", sa.String(255)),
    sa.Column("stripe_payment_intent_id", sa.String(255)),
    sa.Column("discount_code_id", _BIG, sa.ForeignKey("discount_codes.id")),
    sa.Column(
        "status",
        sa.String(20),
        nullable=False,
        default=OrderStatus.PENDING,
        server_default=OrderStatus.PENDING,
    ),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("completed_at", _TIME),
    sa.Column("credit_cents", _BIG),
    *_key(),
    _between("id", 1, MAX_ID),
    _one_of("order_type", OrderType),
    _between("amount_cents", 0, MAX_AMOUNT_CENTS),
    _short("stripe_session_id"),
    _short("stripe_payment_intent_id"),
    _one_of("status", OrderStatus),
    _fixed_width("created_at"),
    _fixed_width("completed_at"),
    _between("credit_cents", 0, MAX_AMOUNT_CENTS),
    _integers("account_id", "amount_cents", "discount_code_id", "credit_cents"),
    sa.Index("ix_orders_account_id", "account_id"),
    sa.Index("ix_orders_stripe_session_id", "stripe_session_id", unique=True),
    _one_where(
        "ix_orders_stripe_payment_intent_id",
        "stripe_payment_intent_id",
        "stripe_payment_intent_id IS NOT NULL",
    ),
    sa.Index("ix_orders_idempotency_key", "idempotency_key", unique=True),
    info={"since": "0002"},
)

account_balances = sa.Table(
    "account_balances",
    METADATA,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("account_id", _BIG, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("balance_cents", _BIG, nullable=False, default=0, server_default=sa.text("0")),
    sa.Column("updated_at", _TIME, nullable=False),
    sa.Column("account_version", _BIG, nullable=False, default=0, server_default=sa.text("0")),
    _between("id", 1, MAX_ID),
    _between("balance_cents", -MAX_BALANCE_CENTS, MAX_BALANCE_CENTS),
    _fixed_width("updated_at"),
    _integers("account_id", "balance_cents"),
    *_between_integers("account_version", 0, MAX_ID),
    # What a balance began with that was taken over: its first line follows that.
    sa.Column("opening_cents", _BIG, nullable=False, default=0, server_default=sa.text("0")),
    *_between_integers("opening_cents", -MAX_OPENING_CENTS, MAX_OPENING_CENTS),
    sa.Column("subcent_micros", _BIG, nullable=False, default=0, server_default=sa.text("0")),
    *_between_integers("subcent_micros", 0, MAX_SUBCENT_MICROS),
    sa.Index("ix_account_balances_account_id", "account_id", unique=True),
    info={"since": "0002"},
)

transactions = sa.Table(
    "transactions",
    METADATA,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("account_id", _BIG, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("order_id", _BIG, sa.ForeignKey("orders.id")),
    sa.Column("transaction_type", sa.String(20), nullable=False),
    sa.Column("amount_cents", _BIG, nullable=False),
    sa.Column("balance_after_cents", _BIG, nullable=False),
    sa.Column("description", sa.String(255), nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    # SQLite demands a default of a column that comes later: this one its guard refuses.
    sa.Column(
        "account_version",
        _BIG,
        nullable=False,
        server_default=sa.text("0"),
        info={"sqlite_default": True},
    ),
    *_key(),
    _between("id", 1, MAX_ID),
    _one_of("transaction_type", TransactionType),
    _between("amount_cents", 0, MAX_AMOUNT_CENTS),
    _between("balance_after_cents", -MAX_BALANCE_CENTS, MAX_BALANCE_CENTS),
    _short("description"),
    _fixed_width("created_at"),
    _integers("account_id", "order_id", "amount_cents", "balance_after_cents"),
    sa.CheckConstraint(
        "account_version >= 0 AND typeof(account_version) = 'integer'", name="account_version"
    ).ddl_if(dialect="sqlite"),
    sa.CheckConstraint("account_version >= 1", name="account_version").ddl_if(dialect="postgresql"),
    sa.Index("ix_transactions_account_id", "account_id"),
    _one_where(
        "ix_transactions_order_credit",
        "order_id",
        "transaction_type = 'credit' AND order_id IS NOT NULL",
    ),
    sa.Index("ix_transactions_account_version", "account_id", "account_version", unique=True),
    sa.Index("ix_transactions_idempotency_key", "idempotency_key", unique=True),
    info={"since": "0002"},
)

audit_log = sa.Table(
    "audit_log",
    METADATA,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("at", _TIME, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("action", sa.String(50), nullable=False),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("reason", sa.String(255)),
    sa.Column("detail", sa.Text, nullable=False, default="{}", server_default=sa.text("'{}'")),
    _between("id", 1, MAX_ID),
    _fixed_width("at"),
    _short("actor"),
    _short("host"),
    sa.CheckConstraint(f"length(action) BETWEEN 1 AND {MAX_ACTION}", name="action"),
    _short("subject"),
    _short("reason"),
    sa.Index("ix_audit_log_subject", "subject"),
    info={"since": "0003"},
)

discount_redemptions = sa.Table(
    "discount_redemptions",
    METADATA,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("discount_code_id", _BIG, sa.ForeignKey("discount_codes.id"), nullable=False),
    sa.Column("order_id", _BIG, sa.ForeignKey("orders.id")),
    sa.Column("account_id", _BIG, sa.ForeignKey("accounts.id")),
    sa.Column("reduction_cents", _BIG, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    _between("id", 1, MAX_ID),
    _between("reduction_cents", 0, MAX_AMOUNT_CENTS),
    _one_of("status", RedemptionStatus),
    _fixed_width("created_at"),
    _integers("discount_code_id", "order_id", "account_id", "reduction_cents"),
    sa.Index("ix_discount_redemptions_code", "discount_code_id", "status"),
    sa.Index("ix_discount_redemptions_account_id", "account_id"),
    sa.Index("ix_discount_redemptions_order_id", "order_id", unique=True),
    info={"since": "0005"},
)

order_refunds = sa.Table(
    "order_refunds",
    METADATA,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("order_id", _BIG, sa.ForeignKey("orders.id"), nullable=False),
    sa.Column("amount_cents", _BIG, nullable=False),
    sa.Column("claw_back_cents", _BIG, nullable=False),
    sa.Column("shortfall_cents", _BIG, nullable=False),
    sa.Column("policy", sa.String(20), nullable=False),
    sa.Column("stripe_refund_id", sa.String(255)),
    sa.Column("transaction_id", _BIG, sa.ForeignKey("transactions.id")),
    sa.Column("reason", sa.String(255)),
    *_key(),
    sa.Column("created_at", _TIME, nullable=False),
    _between("id", 1, MAX_ID),
    _between("amount_cents", 0, MAX_AMOUNT_CENTS),
    _between("claw_back_cents", 0, MAX_AMOUNT_CENTS),
    sa.CheckConstraint("shortfall_cents BETWEEN 0 AND claw_back_cents", name="shortfall_cents"),
    _one_of("policy", RefundPolicy),
    _short("stripe_refund_id"),
    _short("reason"),
    _fixed_width("created_at"),
    _integers("order_id", "amount_cents", "claw_back_cents", "shortfall_cents", "transaction_id"),
    sa.Index("ix_order_refunds_order_id", "order_id"),
    sa.Index("ix_order_refunds_stripe_refund_id", "stripe_refund_id", unique=True),
    sa.Index("ix_order_refunds_transaction_id", "transaction_id", unique=True),
    sa.Index("ix_order_refunds_idempotency_key", "idempotency_key", unique=True),
    info={"since": "0006"},
)

# What was sold, beside the line that charged it; or what was given back, beside that one.
sms_charges = sa.Table(
    "sms_charges",
    METADATA,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("transaction_id", _BIG, sa.ForeignKey("transactions.id"), nullable=False),
    sa.Column("account_id", _BIG, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("phone", sa.String(20), nullable=False),
    sa.Column("country_code", sa.String(2), nullable=False),
    sa.Column("segments", _BIG, nullable=False),
    sa.Column("rate_micros", _BIG, nullable=False),
    sa.Column("cost_micros", _BIG, nullable=False),
    sa.Column("twilio_cost_micros", _BIG),
    sa.Column("subcent_after_micros", _BIG, nullable=False),
    sa.Column("gives_back_id", _BIG, sa.ForeignKey("transactions.id")),
    _between("id", 1, MAX_ID),
    sa.CheckConstraint("length(phone) BETWEEN 5 AND 7", name="phone"),
    sa.CheckConstraint("length(country_code) = 2", name="country_code"),
    _between("segments", 1, MAX_SEGMENTS),
    _between("rate_micros", 1, MAX_COST_MICROS),
    sa.CheckConstraint(
        f"cost_micros <= {MAX_COST_MICROS} AND cost_micros = rate_micros * segments",
        name="cost_micros",
    ),
    _between("twilio_cost_micros", 1, MAX_COST_MICROS),
    _between("subcent_after_micros", 0, MAX_SUBCENT_MICROS),
    sa.CheckConstraint("gives_back_id < transaction_id", name="gives_back_id"),
    _integers(
        "transaction_id",
        "account_id",
        "segments",
        "rate_micros",
        "cost_micros",
        "twilio_cost_micros",
        "subcent_after_micros",
        "gives_back_id",
    ),
    sa.Index("ix_sms_charges_transaction_id", "transaction_id", unique=True),
    sa.Index("ix_sms_charges_account_id", "account_id", "transaction_id"),
    sa.Index("ix_sms_charges_gives_back_id", "gives_back_id", unique=True),
    info={"since": "0007"},
)
