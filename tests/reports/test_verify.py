"""`tbpay ledger verify`: what is sound is found sound, and what was tampered with is named."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path

import pytest
from databases import Database
from probes import rows
from tampering import lawless, tamper
from webapp import empty, make_with_four

from tbpay import migrations
from tbpay.errors import NotFoundError
from tbpay.guards import GUARDS
from tbpay.reports.verify import CHECKS, Check, Verification, lines, looking, verify
from tbpay.stores import account_store, balance_store, discount_code_store, order_store


@pytest.fixture
def books(filled_by: Callable[[Callable[[], None]], Database]) -> Database:
    return filled_by(everything_happens)


def everything_happens() -> None:
    """A ledger in which everything has happened that can.

    Ann, account 1, has six lines and 16.17; Bob, account 2, has six and owes 3.00; Eve, account 3,
    has nothing.
    """
    names = ("ann", "bob", "eve")
    ann, bob, eve = (account_store.create(f"{name}@example.org").id for name in names)
    discount_code_store.create("SAVE10", "percent", 10, max_uses=3)
    discount_code_store.create("GIFT", "percent", 100)
    # Order 1, of 9.00 for 10.00, is refunded in two parts: lines 1, 3 and 4.
    order_store.create(ann, "initial_access", 1_000, code="SAVE10")
    order_store.complete(1)
    balance_store.deduct(ann, 100, "a message", key="key-0001")
    order_store.refund(1, amount_cents=100)
    order_store.refund(1, amount_cents=200, stripe_refund_id="re_1")
    # Order 2 cost nothing; part of its credit is spent when it is refunded.
    order_store.create(bob, "top_up", 500, code="GIFT")
    balance_store.deduct(bob, 100, "a message")
    order_store.refund(2, policy="available")
    # Order 3 is spent and refunded all the same.
    order_store.create(bob, "top_up", 300)
    order_store.complete(3)
    balance_store.deduct(bob, 300, "a message")
    order_store.refund(3, policy="negative")
    # Order 4 failed and was paid late, when the last use of its code was gone; 5 has failed.
    order_store.create(ann, "top_up", 1_000, code="SAVE10")
    order_store.fail(4)
    discount_code_store.increment_uses("SAVE10")
    discount_code_store.increment_uses("SAVE10")
    order_store.complete(4, payment_intent_id="pi_late")
    order_store.create(bob, "top_up", 1_000)
    order_store.fail(5)
    # Order 6 is pending and has its credit already; 7 holds a use.
    order_store.create(ann, "top_up", 50)
    balance_store.add_credits(ann, 50, "early", order_id=6)
    discount_code_store.create("ONCE", "fixed", 100, max_uses=1)
    order_store.create(bob, "top_up", 1_000, code="ONCE")
    balance_store.get_or_create(eve)


def found(verification: Verification) -> list[tuple[object, ...]]:
    return [astuple(difference) for difference in verification.differences]


def wrong(verification: Verification) -> dict[str, int]:
    return {check.check: check.wrong for check in verification.checks if check.wrong}


# What is sound


def test_a_ledger_in_which_everything_has_happened_is_sound(books: Database) -> None:
    assert verify() == Verification(
        [
            Check("lines", 12, 0),
            Check("balances", 3, 0),
            Check("trails", 3, 0),
            Check("charges", 0, 0),
            Check("orders", 7, 0),
            Check("refunds", 4, 0),
            Check("redemptions", 6, 0),
            Check("codes", 3, 0),
            Check("guards", len(GUARDS[books.dialect]), 0),
        ],
        [],
    )


@pytest.mark.usefixtures("db")
def test_a_ledger_in_which_nothing_has_happened_is_sound() -> None:
    checked = verify()

    assert found(checked) == []
    assert [check.looked_at for check in checked.checks[:-1]] == [0] * 8


def test_a_ledger_that_was_taken_over_is_sound(dialect: str, tmp_path: Path) -> None:
    with empty(dialect, tmp_path) as taken_over:
        make_with_four(taken_over)
        migrations.upgrade()

        assert found(verify()) == []


def test_a_balance_that_was_taken_over_without_lines_is_a_difference(
    dialect: str, tmp_path: Path
) -> None:
    with empty(dialect, tmp_path) as taken_over:
        make_with_four(taken_over, "DELETE FROM transactions WHERE account_id = 2")
        migrations.upgrade()

        assert found(verify()) == [
            ("balances", 2, "account 2", "balance_cents", -20, 0),
            ("trails", 2, "account 2", "balance_cents", -20, 0),
        ]


# What was tampered with

TAMPERINGS: dict[str, tuple[list[str], list[tuple[object, ...]]]] = {
    "an amount": (
        ["UPDATE transactions SET amount_cents = 50 WHERE id = 2"],
        [
            ("lines", 1, "line 2", "balance_after_cents", 900, 950),
            ("trails", 1, "account 1", "balance_cents", 1617, 1667),
        ],
    ),
    "a balance": (
        ["UPDATE account_balances SET balance_cents = 9999 WHERE account_id = 1"],
        [
            ("balances", 1, "account 1", "balance_cents", 9999, 1617),
            ("trails", 1, "account 1", "balance_cents", 9999, 1617),
        ],
    ),
    "a balance after a line": (
        ["UPDATE transactions SET balance_after_cents = 950 WHERE id = 2"],
        [
            ("lines", 1, "line 2", "balance_after_cents", 950, 900),
            ("lines", 1, "line 3", "balance_after_cents", 789, 839),
        ],
    ),
    "a balance, and the one after its last line": (
        [
            "UPDATE account_balances SET balance_cents = 2617 WHERE account_id = 1",
            "UPDATE transactions SET balance_after_cents = 2617 WHERE id = 12",
        ],
        [
            ("lines", 1, "line 12", "balance_after_cents", 2617, 1617),
            ("trails", 1, "account 1", "balance_cents", 2617, 1617),
        ],
    ),
    "a last line that is gone": (
        ["DELETE FROM transactions WHERE id = 12"],
        [
            ("balances", 1, "account 1", "balance_cents", 1617, 1567),
            ("balances", 1, "account 1", "account_version", 6, 5),
            ("trails", 1, "account 1", "balance_cents", 1617, 1567),
        ],
    ),
    "a line in the middle that is gone": (
        ["DELETE FROM transactions WHERE id = 2"],
        [
            ("lines", 1, "line 3", "account_version", 3, 2),
            ("trails", 1, "account 1", "balance_cents", 1617, 1717),
        ],
    ),
    "a first line that is gone": (
        ["DELETE FROM transactions WHERE id = 1"],
        [
            ("lines", 1, "line 2", "account_version", 2, 1),
            ("trails", 1, "account 1", "balance_cents", 1617, 617),
            ("orders", 1, "order 1", "credited_cents", None, 1000),
            ("refunds", 1, "refund 1", "claw_back_cents", 111, 0),
            ("refunds", 1, "refund 2", "claw_back_cents", 222, 0),
        ],
    ),
    "two lines that were swapped": (
        [
            "UPDATE transactions SET account_version = 99 WHERE id = 3",
            "UPDATE transactions SET account_version = 3 WHERE id = 4",
            "UPDATE transactions SET account_version = 4 WHERE id = 3",
        ],
        [
            ("lines", 1, "line 4", "balance_after_cents", 567, 678),
            ("lines", 1, "line 3", "id", 3, "above 4"),
            ("lines", 1, "line 3", "balance_after_cents", 789, 456),
            ("lines", 1, "line 11", "balance_after_cents", 1567, 1789),
        ],
    ),
    "two lines whose ids were swapped": (
        [
            "UPDATE transactions SET id = 99 WHERE id = 11",
            "UPDATE transactions SET id = 11 WHERE id = 12",
            "UPDATE transactions SET id = 12 WHERE id = 99",
        ],
        [("lines", 1, "line 11", "id", 11, "above 12")],
    ),
    "a whole account's trail": (
        ["DELETE FROM transactions WHERE account_id = 2"],
        [
            ("balances", 2, "account 2", "balance_cents", -300, 0),
            ("balances", 2, "account 2", "account_version", 6, 0),
            ("trails", 2, "account 2", "balance_cents", -300, 0),
            ("orders", 2, "order 2", "credited_cents", None, 500),
            ("orders", 2, "order 3", "credited_cents", None, 300),
            ("refunds", 2, "refund 3", "transaction_id", 7, "a line"),
            ("refunds", 2, "refund 3", "claw_back_cents", 500, 0),
            ("refunds", 2, "refund 4", "transaction_id", 10, "a line"),
            ("refunds", 2, "refund 4", "claw_back_cents", 300, 0),
        ],
    ),
    "a whole account's trail, and its balance": (
        [
            "DELETE FROM transactions WHERE account_id = 2",
            "DELETE FROM account_balances WHERE account_id = 2",
            "DELETE FROM order_refunds WHERE order_id IN (2, 3)",
            "UPDATE orders SET status = 'completed' WHERE id IN (2, 3)",
        ],
        [
            ("orders", 2, "order 2", "credited_cents", None, 500),
            ("orders", 2, "order 3", "credited_cents", None, 300),
        ],
    ),
    "a balance that is gone": (
        ["DELETE FROM account_balances WHERE account_id = 1"],
        [("balances", 1, "account 1", "balance_cents", None, 1617)],
    ),
    "a line of another account's order": (
        ["UPDATE transactions SET order_id = 3 WHERE id = 2"],
        [("lines", 1, "line 2", "order_id", 3, "an order of the same account")],
    ),
    "a credit of another order": (
        ["UPDATE transactions SET order_id = 5 WHERE id = 8"],
        [
            ("orders", 2, "order 3", "credited_cents", None, 300),
            ("orders", 2, "order 5", "credited_cents", 300, None),
            ("refunds", 2, "refund 4", "claw_back_cents", 300, 0),
        ],
    ),
    "what an order credits": (
        ["UPDATE orders SET credit_cents = 2000 WHERE id = 4"],
        [
            ("orders", 1, "order 4", "credited_cents", 1000, 2000),
            ("redemptions", 1, "redemption 3", "reduction_cents", 100, 1100),
        ],
    ),
    "an order that is said to have failed": (
        ["UPDATE orders SET status = 'failed' WHERE id = 4"],
        [
            ("orders", 1, "order 4", "credited_cents", 1000, None),
            ("redemptions", 1, "redemption 3", "status", "late", "released"),
        ],
    ),
    "an order that is said to be refunded": (
        ["UPDATE orders SET status = 'refunded' WHERE id IN (1, 4)"],
        [
            ("refunds", 1, "order 4", "status", "refunded", "completed"),
            ("refunds", 1, "order 1", "status", "refunded", "completed"),
        ],
    ),
    "an order that is said not to be refunded": (
        ["UPDATE orders SET status = 'completed' WHERE id IN (2, 3)"],
        [
            ("refunds", 2, "order 2", "status", "completed", "refunded"),
            ("refunds", 2, "order 3", "status", "completed", "refunded"),
        ],
    ),
    "a refund that is gone": (
        ["DELETE FROM order_refunds WHERE id = 4"],
        [
            ("refunds", 2, "order 3", "status", "refunded", "completed"),
            ("refunds", 2, "line 10", "refund", None, "one"),
        ],
    ),
    "a refund of a part that is gone": (
        ["DELETE FROM order_refunds WHERE id = 1"],
        [("refunds", 1, "line 3", "refund", None, "one")],
    ),
    "a claw-back": (
        ["UPDATE order_refunds SET claw_back_cents = 110 WHERE id = 1"],
        [
            ("refunds", 1, "line 3", "amount_cents", 111, 110),
            ("refunds", 1, "refund 1", "claw_back_cents", 110, 111),
        ],
    ),
    "a shortfall": (
        ["UPDATE order_refunds SET shortfall_cents = 0 WHERE id = 3"],
        [("refunds", 2, "line 7", "amount_cents", 400, 500)],
    ),
    "a shortfall of a refund that takes all": (
        ["UPDATE order_refunds SET shortfall_cents = 11 WHERE id = 1"],
        [
            ("refunds", 1, "refund 1", "shortfall_cents", 11, 0),
            ("refunds", 1, "line 3", "amount_cents", 111, 100),
        ],
    ),
    "a refund of more than was paid": (
        ["UPDATE order_refunds SET amount_cents = 900 WHERE id = 2"],
        [
            ("refunds", 1, "refund 2", "amount_cents", 900, "at most 800"),
            ("refunds", 1, "refund 2", "claw_back_cents", 222, 1000),
            ("refunds", 1, "order 1", "status", "completed", "refunded"),
        ],
    ),
    "the line of a refund": (
        ["UPDATE order_refunds SET transaction_id = 2 WHERE id = 1"],
        [
            ("refunds", 1, "line 2", "order_id", None, 1),
            ("refunds", 1, "line 2", "transaction_type", "debit", "refund"),
            ("refunds", 1, "line 2", "amount_cents", 100, 111),
            ("refunds", 1, "line 3", "refund", None, "one"),
        ],
    ),
    "a line of a refund that took nothing": (
        ["UPDATE order_refunds SET claw_back_cents = 0, shortfall_cents = 0 WHERE id = 1"],
        [
            ("refunds", 1, "refund 1", "transaction_id", 3, None),
            ("refunds", 1, "refund 1", "claw_back_cents", 0, 111),
        ],
    ),
    "a second refund of an order that cost nothing": (
        [
            "INSERT INTO order_refunds (id, order_id, amount_cents, claw_back_cents,"
            " shortfall_cents, policy, created_at)"
            " VALUES (9, 2, 0, 500, 500, 'available', '2026-11-23T08:13:00.000000Z')"
        ],
        [("refunds", 2, "refund 9", "claw_back_cents", 500, 0)],
    ),
    "a counter": (
        ["UPDATE discount_codes SET current_uses = 2 WHERE id = 1"],
        [("codes", None, "code SAVE10", "current_uses", 2, 3)],
    ),
    "a redemption": (
        ["UPDATE discount_redemptions SET status = 'released' WHERE id = 1"],
        [
            ("redemptions", 1, "redemption 1", "status", "released", "redeemed or late"),
            ("codes", None, "code SAVE10", "current_uses", 3, 2),
        ],
    ),
    "a code that is gone": (
        ["DELETE FROM discount_codes WHERE id = 3"],
        [("redemptions", 2, "redemption 6", "discount_code_id", 3, "a code")],
    ),
    "a redemption that is gone, and counted no more": (
        [
            "DELETE FROM discount_redemptions WHERE id = 6",
            "UPDATE discount_codes SET current_uses = 0 WHERE id = 3",
        ],
        [("redemptions", 2, "order 7", "status", None, "reserved")],
    ),
    "a redemption of nobody's, given back": (
        [
            "UPDATE discount_redemptions SET status = 'released' WHERE id = 4",
            "UPDATE discount_codes SET current_uses = 2 WHERE id = 1",
        ],
        [("redemptions", None, "redemption 4", "status", "released", "redeemed")],
    ),
    "whose a redemption is, and of what": (
        [
            "UPDATE discount_redemptions SET account_id = 3, reduction_cents = 1,"
            " discount_code_id = 1 WHERE id = 2",
            "UPDATE discount_codes SET current_uses = 0 WHERE id = 2",
            "UPDATE discount_codes SET max_uses = 4, current_uses = 4 WHERE id = 1",
        ],
        [
            ("redemptions", 2, "redemption 2", "discount_code_id", 1, 2),
            ("redemptions", 2, "redemption 2", "account_id", 3, 2),
            ("redemptions", 2, "redemption 2", "reduction_cents", 1, 500),
        ],
    ),
    "the code of an order": (
        ["UPDATE orders SET discount_code_id = NULL WHERE id = 7"],
        [("redemptions", 2, "redemption 6", "discount_code_id", 3, None)],
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_what_was_tampered_with_is_named(what: str, books: Database) -> None:
    statements, differences = TAMPERINGS[what]
    tamper(books, *statements)

    assert found(verify()) == differences


def test_the_table_of_checks_counts_what_is_wrong_and_not_how_wrong_it_is(books: Database) -> None:
    tamper(
        books,
        "UPDATE transactions SET balance_after_cents = 1, amount_cents = 1 WHERE id = 2",
        "DELETE FROM discount_redemptions WHERE id = 6",
        "UPDATE account_balances SET account_version = 7, balance_cents = 8 WHERE account_id = 3",
    )

    assert wrong(verify()) == {
        "lines": 2,
        "balances": 1,
        "trails": 2,
        "redemptions": 1,
        "codes": 1,
    }


# Guards, and what else stands on the tables

MISSING = ("definition", "missing", "as tbpay makes it")
CHANGED = ("definition", "not made as expected", "as tbpay makes it")
FOREIGN = ("definition", "there", None)
GUARDINGS: dict[str, tuple[str, list[str], list[tuple[object, ...]]]] = {
    "a guard that is missing": (
        "sqlite",
        ["DROP TRIGGER transactions_follow"],
        [("guards", None, "trigger transactions_follow on transactions", *MISSING)],
    ),
    "a guard that guards nothing": (
        "sqlite",
        [
            "DROP TRIGGER orders_no_delete",
            "CREATE TRIGGER orders_no_delete BEFORE DELETE ON orders BEGIN SELECT 1; END",
        ],
        [("guards", None, "trigger orders_no_delete on orders", *CHANGED)],
    ),
    "a trigger of somebody else's": (
        "sqlite",
        ["CREATE TRIGGER theirs AFTER INSERT ON orders BEGIN SELECT 1; END"],
        [("guards", None, "trigger theirs on orders", *FOREIGN)],
    ),
    "a view of somebody else's": (
        "sqlite",
        ["CREATE VIEW theirs AS SELECT balance_cents FROM account_balances"],
        [("guards", None, "view theirs on account_balances", *FOREIGN)],
    ),
    "triggers and views on the application's own": (
        "sqlite",
        [
            "CREATE VIEW theirs AS SELECT id FROM accounts",
            "CREATE TRIGGER theirs_too AFTER INSERT ON accounts BEGIN SELECT 1; END",
        ],
        [],
    ),
    "a guard that is missing on a server": (
        "postgresql",
        ["DROP TRIGGER transactions_follow ON transactions"],
        [("guards", None, "trigger transactions_follow on transactions", *MISSING)],
    ),
    "a guard that is off": (
        "postgresql",
        ["ALTER TABLE orders DISABLE TRIGGER orders_no_delete"],
        [
            (
                *("guards", None, "trigger orders_no_delete on orders"),
                *("definition", "not always on", "as tbpay makes it"),
            )
        ],
    ),
    "a guard's function that guards nothing": (
        "postgresql",
        [
            "CREATE OR REPLACE FUNCTION tbpay_line_follows() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN NEW; END'"
        ],
        [("guards", None, "function tbpay_line_follows on transactions", *CHANGED)],
    ),
    "a trigger, a view and a rule of somebody else's": (
        "postgresql",
        [
            "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER theirs AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION theirs()",
            "CREATE VIEW theirs AS SELECT balance_cents FROM account_balances",
            "CREATE RULE theirs AS ON DELETE TO discount_codes DO INSTEAD NOTHING",
        ],
        [
            ("guards", None, "trigger theirs on orders", *FOREIGN),
            ("guards", None, "view theirs on account_balances", *FOREIGN),
            ("guards", None, "rule theirs on discount_codes", *FOREIGN),
        ],
    ),
}


@pytest.mark.parametrize(
    ("dialect", "what"), [(dialect, what) for what, (dialect, _, _) in GUARDINGS.items()]
)
def test_what_is_wrong_with_the_guards_is_named(what: str, books: Database) -> None:
    _, statements, differences = GUARDINGS[what]
    books.run(*statements)

    checked = verify()

    assert found(checked) == differences
    assert wrong(checked).get("guards", 0) == len(differences)


# Whatever stands there

NUMBERS = [None, -1, 2**63 - 1, -(2**63)]
WORDS = [None, "words", "", "\x1b[2J"]
ONLY_IN_SQLITE = ["words", b"\xff\x00", 1.5, 1e300]
COLUMNS: dict[str, tuple[int, list[str], list[str]]] = {
    "transactions": (
        1,
        ["account_id", "account_version", "amount_cents", "balance_after_cents", "order_id"],
        ["transaction_type", "created_at"],
    ),
    "account_balances": (
        1,
        ["account_id", "balance_cents", "account_version"],
        ["updated_at"],
    ),
    "orders": (
        1,
        ["account_id", "amount_cents", "credit_cents", "discount_code_id"],
        ["status", "created_at"],
    ),
    "order_refunds": (
        3,
        ["order_id", "amount_cents", "claw_back_cents", "shortfall_cents", "transaction_id"],
        ["policy", "created_at"],
    ),
    "discount_redemptions": (
        1,
        ["discount_code_id", "order_id", "account_id", "reduction_cents"],
        ["status", "created_at"],
    ),
    "discount_codes": (1, ["current_uses"], ["created_at"]),
}


@pytest.mark.parametrize("table", COLUMNS)
def test_whatever_stands_in_a_column_is_named(
    table: str, books: Database, pytestconfig: pytest.Config
) -> None:
    row, numbers, words = COLUMNS[table]
    of_sqlite = ONLY_IN_SQLITE if books.dialect == "sqlite" else []
    # In the short form one column has the first, the fourth and so on, the next one the second.
    step = 1 if pytestconfig.getoption("--long") else 3
    with lawless(books) as execute:
        for number, (column, values) in enumerate(
            [
                *((column, [*NUMBERS, *of_sqlite]) for column in numbers),
                *((column, [*WORDS, *of_sqlite]) for column in words),
            ]
        ):
            [(before,)] = rows(books, f"SELECT {column} FROM {table} WHERE id = {row}")
            for value in values[number % step :: step]:
                execute(f"UPDATE {table} SET {column} = ? WHERE id = {row}", value)

                checked = verify()

                differences = [each for each in found(checked) if each[0] != "guards"]
                assert differences, (column, value)
                assert all(
                    value is None or type(value) in (int, str)
                    for difference in differences
                    for value in difference
                )
            execute(f"UPDATE {table} SET {column} = ? WHERE id = {row}", before)
    assert [each for each in found(verify()) if each[0] != "guards"] == []


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_text_that_is_none_is_shown_by_its_bytes(books: Database) -> None:
    with lawless(books) as execute:
        execute("UPDATE orders SET status = CAST(X'70FF' AS TEXT) WHERE id = 6")

    words = "pending or completed or refunded or failed"
    assert ("orders", 1, "order 6", "status", r"p\xff", words) in found(verify())


def test_a_line_that_is_there_twice_is_named(books: Database) -> None:
    with lawless(books) as execute:
        execute("DROP INDEX ix_transactions_account_version")
        execute(
            "INSERT INTO transactions (id, account_id, account_version, transaction_type,"
            " amount_cents, balance_after_cents, description, created_at) SELECT 13, account_id,"
            " account_version, transaction_type, amount_cents, balance_after_cents, description,"
            " created_at FROM transactions WHERE id = 12"
        )

    assert [each for each in found(verify()) if each[0] != "guards"] == [
        ("lines", 1, "line 13", "account_version", 6, "another number"),
        ("trails", 1, "account 1", "balance_cents", 1617, 1667),
    ]


def test_an_order_that_was_credited_twice_is_named(books: Database) -> None:
    with lawless(books) as execute:
        execute("DROP INDEX ix_transactions_order_credit")
        execute("UPDATE transactions SET order_id = 4, amount_cents = 1000 WHERE id = 12")

    assert ("orders", 1, "order 4", "credit_lines", 2, 1) in found(verify())


def test_a_shortfall_above_what_is_taken_back_is_named(books: Database) -> None:
    with lawless(books) as execute:
        execute("UPDATE order_refunds SET shortfall_cents = 600 WHERE id = 3")

    named = ("refunds", 2, "refund 3", "shortfall_cents", 600, "at most 500")
    assert named in found(verify())


def test_what_is_nobodys_is_named_once(books: Database) -> None:
    with lawless(books) as execute:
        execute("UPDATE transactions SET account_version = NULL WHERE id = 12")
        execute("UPDATE transactions SET account_id = NULL WHERE id = 10")
        execute("UPDATE account_balances SET account_id = NULL WHERE id = 3")

    assert [each for each in found(verify()) if each[0] not in ("guards", "refunds")] == [
        ("lines", None, "line 10", "account_id", None, "a number"),
        ("lines", 1, "line 12", "account_version", None, "a number"),
        ("balances", 1, "account 1", "balance_cents", 1617, 1567),
        ("balances", 1, "account 1", "account_version", 6, 5),
        ("balances", 2, "account 2", "balance_cents", -300, 0),
        ("balances", 2, "account 2", "account_version", 6, 5),
        ("balances", None, "balance 3", "account_id", None, "an account"),
        ("trails", 2, "account 2", "balance_cents", -300, 0),
    ]


# One account


def test_of_one_account_only_what_is_its_own_is_verified(books: Database) -> None:
    tamper(
        books,
        "UPDATE transactions SET amount_cents = 99 WHERE id IN (2, 6)",
        "UPDATE account_balances SET balance_cents = 1 WHERE account_id IN (1, 2)",
        "UPDATE orders SET credit_cents = 77 WHERE id IN (3, 4)",
        "UPDATE order_refunds SET claw_back_cents = 300, shortfall_cents = 0 WHERE id IN (2, 3)",
        "UPDATE discount_redemptions SET reduction_cents = 7, account_id = 2 WHERE id IN (2, 3)",
        "UPDATE discount_codes SET current_uses = 0",
    )

    everything, of_ann, of_eve = found(verify()), found(verify(1)), found(verify(3))

    codes: dict[int, set[str]] = {1: {"code SAVE10"}, 3: set()}
    for account, own in ((1, of_ann), (3, of_eve)):
        assert own == [
            each for each in everything if each[1] == account or each[2] in codes[account]
        ]
    assert {each[0] for each in of_ann} == {*CHECKS} - {"charges", "guards"}
    assert [check.looked_at for check in verify(1).checks[:-1]] == [6, 1, 1, 0, 3, 2, 2, 1]


@pytest.mark.usefixtures("books")
def test_an_account_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFoundError, match=r"^no account 4$"):
        verify(4)


# A part at a time


@pytest.mark.parametrize("at_once", [1, 2, 5, 7, 13])
def test_the_answer_is_the_same_however_small_the_parts_are(
    at_once: int, books: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    balance_store.add_credits(3, 100, "a gift")
    with lawless(books) as execute:
        execute("UPDATE transactions SET amount_cents = 99 WHERE id IN (2, 6, 12)")
        execute("UPDATE account_balances SET balance_cents = 5")
        execute("UPDATE orders SET credit_cents = 77")
        execute("UPDATE order_refunds SET policy = 'lost', order_id = nullif(order_id, 2)")
        execute("UPDATE discount_redemptions SET reduction_cents = 7")
        execute("UPDATE discount_codes SET current_uses = 7")
    at_one_go = verify()
    assert wrong(at_one_go) == {
        "lines": 3,
        "balances": 3,
        "trails": 3,
        "orders": 4,
        "refunds": 6,
        "redemptions": 4,
        "codes": 3,
        "guards": len(GUARDS[books.dialect]),
    }

    monkeypatch.setitem(lines.LINES_AT_ONCE, books.dialect, at_once)
    monkeypatch.setattr(looking, "ROWS_AT_ONCE", at_once)

    in_parts = verify(on_progress=lambda done, total: told.append((done, total)))

    assert in_parts.checks == at_one_go.checks
    assert Counter(in_parts.differences) == Counter(at_one_go.differences)
    assert told == sorted(told)
    assert told[-1] == (13, 13)
    assert all(later - done < 2 * at_once for (done, _), (later, _) in pairwise([(0, 13), *told]))


def test_what_others_write_meanwhile_is_not_seen(books: Database) -> None:
    def write(_done: int, _total: int) -> None:
        with ThreadPoolExecutor() as another:
            another.submit(balance_store.deduct, 1, 100, "meanwhile").result()

    assert found(verify(on_progress=write)) == []
    assert rows(books, "SELECT count(*) FROM transactions") == [(13,)]
