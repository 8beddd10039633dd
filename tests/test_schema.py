"""schema.py, the vocabulary of models.py and a migrated database say the same."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from probes import label, rows

from tbpay import migrations, models, schema

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
        "active": 1,
        "stripe_coupon_id": "co_1",
        "created_at": EIGHT,
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
    },
    "account_balances": {
        "id": 1,
        "account_id": 1,
        "balance_cents": -99_999_999_999,
        "updated_at": EIGHT,
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
}

BAD: dict[str, list[Any]] = {
    "discount_codes.id": [0, -1],
    "discount_codes.code": ["AB", "launch", "A B", "-AB", "A" * 51, "ABÉ", "ABC\0", None],
    "discount_codes.discount_type": ["gift", "", None],
    "discount_codes.discount_value": [0, 101, 1.5, "ten", None],
    "discount_codes.max_uses": [0, 2**31, 3.5, "three"],
    "discount_codes.current_uses": [-1, 4, 0.5, "none", None],
    "discount_codes.active": [2, -1, "yes", None],
    "discount_codes.stripe_coupon_id": ["", "x" * 256],
    "discount_codes.created_at": ["", "2026-11-23", EIGHT[:-1], EIGHT.replace("T", " "), None],
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
    "account_balances.id": [0],
    "account_balances.account_id": [2, None],
    "account_balances.balance_cents": [100_000_000_000, -100_000_000_000, 0.5, "ten", None],
    "account_balances.updated_at": ["", "now", None],
    "transactions.id": [0],
    "transactions.account_id": [2, None],
    "transactions.order_id": [2, "one"],
    "transactions.transaction_type": ["gift", None],
    "transactions.amount_cents": [-1, 100_000_000, 0.5, "ten", None],
    "transactions.balance_after_cents": [100_000_000_000, -100_000_000_000, 0.5, "ten", None],
    "transactions.description": ["", "x" * 256, None],
    "transactions.created_at": ["", "now", None],
    "audit_log.id": [0],
    "audit_log.at": ["", "now", None],
    "audit_log.actor": ["", "x" * 256, None],
    "audit_log.host": ["", "x" * 256, None],
    "audit_log.action": ["", "x" * 51, None],
    "audit_log.subject": ["", "x" * 256, None],
    "audit_log.reason": ["", "x" * 256],
    "audit_log.detail": [None],
}


@pytest.fixture(scope="module")
def filled(migrated: Path) -> Iterator[sqlite3.Connection]:
    """A migrated database with one good row in each table."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        with closing(sqlite3.connect(migrated)) as source:
            source.backup(connection)
        connection.execute("PRAGMA foreign_keys=ON")
        for table, row in GOOD.items():
            _insert(connection, table, row)
        yield connection


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
        (schema.discount_codes, models.DiscountCode, []),
        (schema.transactions, models.Transaction, ["replayed"]),
        (schema.audit_log, models.AuditEntry, []),
    ],
    ids=str,
)
def test_an_entity_has_the_columns_of_its_table_in_their_order(
    table: sa.Table, entity: type, unstored: list[str]
) -> None:
    names = [field.name for field in fields(entity)]

    assert names == [column.name for column in table.columns] + unstored


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
    filled: sqlite3.Connection, column: str, value: Any
) -> None:
    table, _, name = column.partition(".")
    rule = rf"ck_{table}_({name}|integers)$|NOT NULL constraint failed: {column}$|FOREIGN KEY"

    with pytest.raises(sqlite3.IntegrityError, match=rule):
        filled.execute(f"UPDATE {table} SET {name} = ?", [value])


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
    ],
    ids=str,
)
def test_what_is_unique_is_there_once(
    filled: sqlite3.Connection, table: str, again: dict[str, Any]
) -> None:
    others = {"id": 2, "code": "OTHER", "stripe_session_id": "cs_2", "account_id": 1}
    others |= {"stripe_payment_intent_id": "pi_2", "order_id": None}
    row = {name: others.get(name, value) for name, value in GOOD[table].items()}

    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        _insert(filled, table, row | again)


def test_what_may_be_there_twice_is_taken_twice(filled: sqlite3.Connection) -> None:
    without = {"stripe_session_id": None, "stripe_payment_intent_id": None}
    filled.execute("SAVEPOINT clean")

    for number in (2, 3):
        _insert(filled, "orders", GOOD["orders"] | without | {"id": number})
        _insert(filled, "transactions", GOOD["transactions"] | {"id": number, "order_id": None})
        debit = {"id": 10 + number, "transaction_type": "debit"}
        _insert(filled, "transactions", GOOD["transactions"] | debit)

    filled.execute("ROLLBACK TO clean")


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    places = ", ".join("?" * len(row))
    connection.execute(
        f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values())
    )


def _words(path: Path) -> dict[str, Any]:
    """What is in the schema: of a table its columns in their order and the set of its rules."""
    found = rows(
        path,
        "SELECT name, sql FROM sqlite_master"
        " WHERE sql IS NOT NULL AND tbl_name NOT IN ('accounts', 'tbpay_alembic_version')",
    )
    return {name: _parts(" ".join(text.replace('"', "").split())) for name, text in found}


def _parts(text: str) -> Any:
    head, _, body = text.partition(" (")
    if not head.startswith("CREATE TABLE"):
        return text
    parts = re.split(r", (?=\w+ [A-Z]|PRIMARY|CONSTRAINT)", body)
    columns = [part for part in parts if not part.startswith(("CONSTRAINT", "PRIMARY"))]
    return head, columns, {part.rstrip(")") for part in parts if part not in columns}
