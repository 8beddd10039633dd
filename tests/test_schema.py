"""schema.py, the vocabulary of models.py and a migrated database say the same."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from conftest import DIALECTS, Templates
from probes import label, rows

from tbpay import migrations, models, schema
from tbpay.guards import GUARDS

EIGHT = "2026-11-23T08:13:00.000000Z"

GOOD: dict[str, dict[str, Any]] = {
    "accounts": {"id": 1},
    "discount_codes": {
        "id": 1,
        "code": "LAUNCH10",
        "discount_type": "percent",
        "discount_value": 10,
        "max_uses": 3,
        "current_uses": 3,
        "active": True,
        "stripe_coupon_id": "co_1",
        "created_at": EIGHT,
        "starts_at": EIGHT,
        "ends_at": EIGHT,
        "per_account": 1,
        "min_amount_cents": 1,
    },
    "orders": {
        "id": 1,
        "account_id": 1,
        "order_type": "top_up",
        "amount_cents": 0,
        "stripe_session_id": "cs_1",
        "stripe_payment_intent_id": "pi_1",
        "discount_code_id": 1,
        "status": "completed",
        "created_at": EIGHT,
        "completed_at": EIGHT,
        "credit_cents": 99_999_999,
        "idempotency_key": "key of order 1",
        "idempotency_hash": "0" * 64,
    },
    "account_balances": {
        "id": 1,
        "account_id": 1,
        "balance_cents": -99_999_999_999,
        "updated_at": EIGHT,
        "account_version": 1,
    },
    "transactions": {
        "id": 1,
        "account_id": 1,
        "order_id": 1,
        "transaction_type": "credit",
        "amount_cents": 0,
        "balance_after_cents": 99_999_999_999,
        "description": "x",
        "created_at": EIGHT,
        "account_version": 1,
        "idempotency_key": "key of line 1",
        "idempotency_hash": "0" * 64,
    },
    "audit_log": {
        "id": 1,
        "at": EIGHT,
        "actor": "ann",
        "host": "here",
        "action": "order complete",
        "subject": "order 1",
        "reason": None,
        "detail": "{}",
    },
    "discount_redemptions": {
        "id": 1,
        "discount_code_id": 1,
        "order_id": 1,
        "account_id": 1,
        "reduction_cents": 99_999_999,
        "status": "redeemed",
        "created_at": EIGHT,
    },
    "order_refunds": {
        "id": 1,
        "order_id": 1,
        "amount_cents": 0,
        "claw_back_cents": 99_999_999,
        "shortfall_cents": 99_999_999,
        "policy": "available",
        "stripe_refund_id": "re_1",
        "transaction_id": 1,
        "reason": "x",
        "idempotency_key": "key of refund 1",
        "idempotency_hash": "0" * 64,
        "created_at": EIGHT,
    },
    "sms_charges": {
        "id": 1,
        "transaction_id": 1,
        "account_id": 1,
        "phone": "+1…23",
        "country_code": "US",
        "segments": 2,
        "rate_micros": 56_500,
        "cost_micros": 113_000,
        "twilio_cost_micros": 22_600,
        "subcent_after_micros": 9_999,
        "gives_back_id": None,
    },
}

_KEYS = ["", "1234567", "x" * 256, None]
_HASHES = ["", "0" * 63, "0" * 65, None]
_TIMES = ["", "now", "2026-11-23"]

BAD: dict[str, list[Any]] = {
    "discount_codes.id": [0, -1],
    "discount_codes.code": ["AB", "launch", "A B", "-AB", "A" * 51, "ABÉ", "ABC\0", None],
    "discount_codes.discount_type": ["gift", "", None],
    "discount_codes.discount_value": [0, 101, 1.5, "ten", None],
    "discount_codes.max_uses": [0, 2**31, 3.5, "three"],
    "discount_codes.current_uses": [-1, 4, 0.5, "none", None],
    "discount_codes.active": [2, -1, "perhaps", None],
    "discount_codes.stripe_coupon_id": ["", "x" * 256],
    "discount_codes.created_at": ["", "2026-11-23", EIGHT[:-1], EIGHT.replace("T", " "), None],
    "discount_codes.starts_at": _TIMES,
    "discount_codes.ends_at": _TIMES,
    "discount_codes.per_account": [0, 2**31, 1.5, "one"],
    "discount_codes.min_amount_cents": [0, 100_000_000, 0.5, "ten"],
    "orders.id": [0, -1],
    "orders.account_id": [2, "ann", 1.5, None],
    "orders.order_type": ["gift", "TOP_UP", None],
    "orders.amount_cents": [-1, 100_000_000, 0.5, "ten", None],
    "orders.stripe_session_id": ["", "x" * 256],
    "orders.stripe_payment_intent_id": ["", "x" * 256],
    "orders.discount_code_id": [2, "LAUNCH10"],
    "orders.status": ["paid", "", None],
    "orders.created_at": ["", "yesterday", EIGHT + "Z", None],
    "orders.completed_at": ["", "yesterday"],
    "orders.credit_cents": [-1, 100_000_000, 0.5, "ten"],
    "orders.idempotency_key": _KEYS,
    "orders.idempotency_hash": _HASHES,
    "account_balances.id": [0],
    "account_balances.account_id": [2, None],
    "account_balances.balance_cents": [100_000_000_000, -100_000_000_000, 0.5, "ten", None],
    "account_balances.updated_at": ["", "now", None],
    "account_balances.account_version": [-1, 1.5, "one", None],
    "account_balances.opening_cents": [100_099_999_999, -100_099_999_999, 0.5, "ten", None],
    "transactions.id": [0],
    "transactions.account_id": [2, None],
    "transactions.order_id": [2, "one"],
    "transactions.transaction_type": ["gift", None],
    "transactions.amount_cents": [-1, 100_000_000, 0.5, "ten", None],
    "transactions.balance_after_cents": [100_000_000_000, -100_000_000_000, 0.5, "ten", None],
    "transactions.description": ["", "x" * 256, None],
    "transactions.created_at": ["", "now", None],
    "transactions.account_version": [-1, 1.5, "one", None],
    "transactions.idempotency_key": _KEYS,
    "transactions.idempotency_hash": _HASHES,
    "audit_log.id": [0],
    "audit_log.at": ["", "now", None],
    "audit_log.actor": ["", "x" * 256, None],
    "audit_log.host": ["", "x" * 256, None],
    "audit_log.action": ["", "x" * 51, None],
    "audit_log.subject": ["", "x" * 256, None],
    "audit_log.reason": ["", "x" * 256],
    "audit_log.detail": [None],
    "discount_redemptions.id": [0],
    "discount_redemptions.discount_code_id": [2, "LAUNCH10", None],
    "discount_redemptions.order_id": [2, "one"],
    "discount_redemptions.account_id": [2, "ann"],
    "discount_redemptions.reduction_cents": [-1, 100_000_000, 0.5, "ten", None],
    "discount_redemptions.status": ["used", "", None],
    "discount_redemptions.created_at": [*_TIMES, None],
    "order_refunds.id": [0],
    "order_refunds.order_id": [2, "one", None],
    "order_refunds.amount_cents": [-1, 100_000_000, 0.5, "ten", None],
    "order_refunds.claw_back_cents": [-1, 100_000_000, 0.5, "ten", None],
    "order_refunds.shortfall_cents": [-1, 100_000_000, 0.5, "ten", None],
    "order_refunds.policy": ["never", "", None],
    "order_refunds.stripe_refund_id": ["", "x" * 256],
    "order_refunds.transaction_id": [2, "one"],
    "order_refunds.reason": ["", "x" * 256],
    "order_refunds.idempotency_key": _KEYS,
    "order_refunds.idempotency_hash": _HASHES,
    "order_refunds.created_at": [*_TIMES, None],
    "account_balances.subcent_micros": [-1, 10_000, 0.5, "ten", None],
    "sms_charges.id": [0],
    "sms_charges.transaction_id": [2, "one", None],
    "sms_charges.account_id": [2, "ann", None],
    "sms_charges.phone": ["", "+123", "+1…5550123", None],
    "sms_charges.country_code": ["", "U", "USA", None],
    "sms_charges.segments": [0, 1_000_001, 1, 0.5, "two", None],
    "sms_charges.rate_micros": [0, -1, 56_501, 0.5, "ten", None],
    "sms_charges.cost_micros": [0, 113_001, 10**12, 0.5, "ten", None],
    "sms_charges.twilio_cost_micros": [0, 10**12, 0.5, "ten"],
    "sms_charges.subcent_after_micros": [-1, 10_000, 0.5, "ten", None],
    "sms_charges.gives_back_id": [1, 2, "one"],
}


# Rules of one column that speak of another.
RULED_BY = {
    "claw_back_cents": ["shortfall_cents"],
    "idempotency_key": ["idempotency_hash"],
    "max_uses": ["current_uses"],
    "rate_micros": ["cost_micros"],
    "segments": ["cost_micros"],
    "transaction_id": ["gives_back_id"],
}
# What a column refuses by its type alone, in the words of either database.
NOT_OF_THE_TYPE = (
    "NOT NULL constraint failed|violates not-null constraint|FOREIGN KEY|violates foreign key"
    "|invalid input syntax|is of type boolean|value too long|out of range|cannot contain NUL"
)


@pytest.fixture(scope="module", params=DIALECTS)
def filled(
    request: pytest.FixtureRequest, templates: Templates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sa.Connection]:
    """A migrated database without its guards, which speak first, and a good row in each table."""
    path = tmp_path_factory.mktemp("filled") / "filled.db"
    made = templates.empty(request.param).copy(path)
    engine = made.engine(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if made.dialect == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        for guard, text in GUARDS[made.dialect].items():
            on = f" ON {text.split(' ON ')[1].split()[0]}" if made.dialect == "postgresql" else ""
            connection.exec_driver_sql(f"DROP TRIGGER {guard}{on}")
        for table, row in GOOD.items():
            _insert(connection, table, row)
        yield connection
    engine.dispose()
    made.drop()


def test_a_new_database_and_a_migrated_one_are_the_same(migrated: Path, tmp_path: Path) -> None:
    new = sa.create_engine(f"sqlite:///{tmp_path / 'new.db'}")
    tables = [table for name, table in schema.METADATA.tables.items() if name != "accounts"]

    schema.METADATA.create_all(new, tables=tables)
    new.dispose()

    assert _words(tmp_path / "new.db") == _words(migrated)


def test_every_revision_is_known_and_none_is_made_up() -> None:
    scripts = ScriptDirectory.from_config(migrations._config())

    found = [script.revision for script in scripts.walk_revisions()]

    assert tuple(reversed(found)) == schema.REVISIONS


@pytest.mark.parametrize(
    ("table", "entity", "unstored"),
    [
        (schema.orders, models.Order, []),
        (schema.account_balances, models.AccountBalance, []),
        (schema.discount_codes, models.DiscountCode, ["reserved_uses"]),
        (schema.discount_redemptions, models.Redemption, []),
        (schema.transactions, models.Transaction, ["sms_charge", "replayed"]),
        (schema.order_refunds, models.Refund, ["replayed"]),
        (schema.audit_log, models.AuditEntry, []),
        (schema.sms_charges, models.SmsCharge, []),
    ],
    ids=str,
)
def test_an_entity_has_the_columns_of_its_table_in_their_order(
    table: sa.Table, entity: type, unstored: list[str]
) -> None:
    names = [field.name for field in fields(entity)]
    columns = [column.name for column in table.columns]

    # What a key was used for is nobody's affair but the stores', and what a balance began with
    # nobody's but the guards'.
    inner = ("idempotency_hash", "opening_cents")
    assert names == [name for name in columns if name not in inner] + unstored


def test_of_accounts_only_what_tbpay_relies_on_is_declared() -> None:
    names = {column.name for column in schema.accounts.columns}

    assert names == {"id", "stripe_customer_id"}
    assert names < {field.name for field in fields(models.Account)}


@pytest.mark.parametrize(
    ("column", "value"),
    [(column, value) for column, values in BAD.items() for value in values],
    ids=label,
)
def test_the_database_itself_refuses_what_no_store_would_write(
    filled: sa.Connection, column: str, value: Any
) -> None:
    table, _, name = column.partition(".")
    if isinstance(value, float) and filled.dialect.name == "postgresql":
        return  # a BIGINT keeps no fraction: it is rounded before anybody is asked
    rules = "|".join([name, *RULED_BY.get(name, []), "integers"])

    with pytest.raises(sa.exc.StatementError, match=rf"ck_{table}_({rules})\b|{NOT_OF_THE_TYPE}"):
        filled.execute(sa.text(f"UPDATE {table} SET {name} = :value"), {"value": value})


def test_every_check_is_tried() -> None:
    checked = {
        f"{table.name}.{str(check.name).removeprefix(f'ck_{table.name}_')}"
        for table in schema.METADATA.tables.values()
        for check in table.constraints
        if isinstance(check, sa.CheckConstraint)
    }

    assert {name for name in checked if not name.endswith(".integers")} <= BAD.keys()


@pytest.mark.parametrize(
    ("table", "again"),
    [
        ("discount_codes", {"code": "LAUNCH10"}),
        ("orders", {"stripe_session_id": "cs_1"}),
        ("orders", {"stripe_payment_intent_id": "pi_1"}),
        ("account_balances", {"account_id": 1}),
        ("transactions", {"order_id": 1, "transaction_type": "credit"}),
        ("transactions", {"account_version": 1}),
        ("transactions", {"idempotency_key": "key of line 1"}),
        ("orders", {"idempotency_key": "key of order 1"}),
        ("discount_redemptions", {"order_id": 1}),
        ("order_refunds", {"stripe_refund_id": "re_1"}),
        ("order_refunds", {"transaction_id": 1}),
        ("order_refunds", {"idempotency_key": "key of refund 1"}),
    ],
    ids=str,
)
def test_what_is_unique_is_there_once(
    filled: sa.Connection, table: str, again: dict[str, Any]
) -> None:
    others = {"id": 2, "code": "OTHER", "stripe_session_id": "cs_2", "account_id": 1}
    others |= {"stripe_payment_intent_id": "pi_2", "order_id": None, "account_version": 2}
    others |= {"idempotency_key": "another key", "stripe_refund_id": "re_2"}
    if table == "order_refunds":
        others |= {"order_id": 1, "transaction_id": None}
    row = {name: others.get(name, value) for name, value in GOOD[table].items()}

    with pytest.raises(sa.exc.IntegrityError, match=r"(?i)unique"):
        _insert(filled, table, row | again)


def test_what_may_be_there_twice_is_taken_twice(filled: sa.Connection) -> None:
    no_key = {"idempotency_key": None, "idempotency_hash": None}
    no_ids = {"stripe_session_id": None, "stripe_payment_intent_id": None, **no_key}
    many = {
        "orders": no_ids,
        "transactions": {"order_id": None, **no_key},
        "discount_redemptions": {"order_id": None},
        "order_refunds": {"stripe_refund_id": None, "transaction_id": None, **no_key},
    }

    for number in (2, 3):
        for table, without in many.items():
            versioned = {"account_version": number} if table == "transactions" else {}
            _insert(filled, table, GOOD[table] | without | versioned | {"id": number})
    debits = GOOD["transactions"] | no_key | {"transaction_type": "debit"}
    for number in (4, 5):
        _insert(filled, "transactions", debits | {"id": number, "account_version": number})

    for table in reversed(many):
        filled.exec_driver_sql(f"DELETE FROM {table} WHERE id > 1")


def _insert(connection: sa.Connection, table: str, row: dict[str, Any]) -> None:
    places = ", ".join(f":{name}" for name in row)
    connection.execute(sa.text(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})"), row)


def _words(path: Path) -> set[str]:
    """What is in the schema, but for the guards, which schema.py does not speak of."""
    found = rows(
        path,
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND type <> 'trigger'"
        " AND tbl_name NOT IN ('accounts', 'tbpay_alembic_version')",
    )
    return {part for (text,) in found for part in _parts(" ".join(text.replace('"', "").split()))}


def _parts(text: str) -> set[str]:
    """A table's columns in their order, and each of its rules, wherever it stands."""
    head, _, body = text.partition(" (")
    if not head.startswith("CREATE TABLE"):
        return {text}
    parts = re.split(r",? (?=CONSTRAINT)|, (?=\w+ [A-Z]|PRIMARY)", body)
    rules = {part for part in parts if part.startswith(("CONSTRAINT", "PRIMARY"))}
    columns = [part.rstrip(") ") for part in parts if part not in rules]
    return {f"{head}: {', '.join(columns)}"} | {f"{head}: {rule.rstrip(') ')}" for rule in rules}
