"""The guards: what the database itself refuses, whoever writes and by whatever statement."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import psycopg
import pytest
from databases import Database
from probes import dump, rows, run, unbalanced
from tampering import tamper

from tbpay.database import unit_of_work
from tbpay.database.guards import differences
from tbpay.errors import Code, UnavailableError
from tbpay.guards import GUARDS
from tbpay.reports.verify import verify
from tbpay.stores import account_store, balance_store, discount_code_store, order_store

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])
on_postgresql = pytest.mark.parametrize("dialect", ["postgresql"])

WHEN = "2026-11-23T08:13:00.000000Z"
KEPT = ("transactions", "orders", "discount_redemptions", "order_refunds", "sms_charges")
FOLLOWS = "a line follows the balance and the line before it"
MOVES = "a balance keeps its account, and moves by a line"
COSTS = "a charge moves the balance by just what it cost"


@pytest.fixture
def books(filled_by: Callable[[Callable[[], None]], Database]) -> Database:
    """Four accounts with a trail each, an order with a redemption and a refund.

    Account 1 has three lines and 6.00: 10.00 of order 1 by a key, 1.00 taken off, 3.00 refunded.
    Account 2 has one line and 5.00, account 3 none. Account 4 has the lines 5 to 8 and 9.9435:
    10.00, a charge of 0.0565, one of 0.262, and that given back. Account 5 has the lines 9 and 10:
    1.00 and a charge of 0.0565.
    """
    return filled_by(everything_that_is_guarded)


def everything_that_is_guarded() -> None:
    account = account_store.create("ann@example.org").id
    discount_code_store.create("SAVE10", "percent", 10)
    order = order_store.create(account, "top_up", 1_000, code="SAVE10").id
    balance_store.add_credits(account, 1_000, "by hand", order_id=order, key="key-0001")
    order_store.complete(order)
    balance_store.deduct(account, 100, "a message")
    order_store.refund(order, amount_cents=270)
    other = account_store.create("bob@example.org").id
    balance_store.add_credits(other, 500, "a gift")
    account_store.create("eve@example.org")
    for texted, cents in ((4, 1_000), (5, 100)):
        account_store.create()
        balance_store.add_credits(texted, cents, "a gift")
        balance_store.charge_sms(texted, "+12015550123")
        if texted == 4:
            balance_store.credit_back(balance_store.charge_sms(4, "+447400123456").id)


@contextmanager
def refused(db: Database, message: str) -> Iterator[None]:
    """Expect that the database refuses it in these words, and that nothing is left of it."""
    before = dump(db)
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError), match=message):
        yield
    assert dump(db) == before


def kept(db: Database, deed: str, table: str, words: str) -> str:
    """How the two databases say that a row is kept: PostgreSQL by one function for all tables."""
    if db.dialect == "sqlite":
        return words
    return f"{deed} on {table} is refused: its rows are kept"


class Line(NamedTuple):
    """The line that would follow account 1's three, and its balance."""

    account_id: int = 1
    account_version: int = 4
    transaction_type: str = "credit"
    amount_cents: int = 50
    balance_after_cents: int = 650
    description: str = "forged"
    created_at: str = WHEN

    def insert(self, how: str = "INSERT", **more: object) -> str:
        values = self._asdict() | more
        listed = ", ".join(repr(value) for value in values.values())
        return f"{how} INTO transactions ({', '.join(values)}) VALUES ({listed})"


class Charge(NamedTuple):
    """What would stand beside line 11, a charge of account 4 that leaves it 9.887."""

    transaction_id: int = 11
    account_id: int = 4
    phone: str = "+1…23"
    country_code: str = "US"
    segments: int = 1
    rate_micros: int = 56_500
    cost_micros: int = 56_500
    twilio_cost_micros: int = 11_300
    subcent_after_micros: int = 7_000
    gives_back_id: int | None = None

    def insert(self, how: str = "INSERT") -> str:
        listed = ", ".join("NULL" if value is None else repr(value) for value in self)
        return f"{how} INTO sms_charges ({', '.join(self._fields)}) VALUES ({listed})"


def moved(account: int, balance: int, version: int, subcent: int | None = None) -> str:
    fraction = "" if subcent is None else f", subcent_micros = {subcent}"
    return (
        f"UPDATE account_balances SET balance_cents = {balance}, account_version = {version}"
        f"{fraction} WHERE account_id = {account}"
    )


# What is kept as it is


def test_a_line_that_follows_is_taken(books: Database) -> None:
    run(books, moved(1, 650, 4), Line().insert())
    run(
        books,
        f"INSERT INTO account_balances (account_id, updated_at) VALUES (3, '{WHEN}')",
        moved(3, 50, 1),
        Line(3, 1, balance_after_cents=50).insert(),
    )

    assert unbalanced(books) == []
    assert balance_store.deduct(1, 650, "all of it").account_version == 5


def test_a_charge_and_a_give_back_that_follow_are_taken(books: Database) -> None:
    run(
        books,
        moved(4, 988, 5, 7_000),
        Line(4, 5, "debit", 6, 988).insert(),
        Charge().insert(),
        moved(4, 994, 6, 3_500),
        Line(4, 6, "credit", 6, 994).insert(),
        Charge(12, subcent_after_micros=3_500, gives_back_id=6).insert(),
    )

    assert unbalanced(books) == []
    assert verify().differences == []
    assert balance_store.credit_back(11).balance_after_cents == 1_000


def test_nothing_of_a_line_is_changed(books: Database) -> None:
    changes = {
        "account_id": "2",
        "order_id": "NULL",
        "transaction_type": "'debit'",
        "amount_cents": "amount_cents",
        "balance_after_cents": "999",
        "description": "'other'",
        "created_at": f"'{WHEN}'",
        "account_version": "account_version + 1",
        "idempotency_key": "NULL",
    }

    for column, value in changes.items():
        with refused(books, kept(books, "UPDATE", "transactions", "a line is never changed")):
            run(books, f"UPDATE transactions SET {column} = {value} WHERE id = 1")


def test_nothing_of_a_charge_is_changed(books: Database) -> None:
    changes = {
        "transaction_id": "10",
        "account_id": "5",
        "phone": "'+1…24'",
        "country_code": "country_code",
        "segments": "2",
        "rate_micros": "1",
        "cost_micros": "1",
        "twilio_cost_micros": "NULL",
        "subcent_after_micros": "0",
        "gives_back_id": "NULL",
    }

    for column, value in changes.items():
        with refused(books, kept(books, "UPDATE", "sms_charges", "a charge is never changed")):
            run(books, f"UPDATE sms_charges SET {column} = {value} WHERE transaction_id = 8")


def test_nothing_of_a_refund_is_changed(books: Database) -> None:
    for column in ("id", "amount_cents", "stripe_refund_id", "idempotency_key", "created_at"):
        with refused(books, kept(books, "UPDATE", "order_refunds", "a refund is never changed")):
            run(books, f"UPDATE order_refunds SET {column} = {column}")


def test_of_a_redemption_only_where_it_stands_is_changed(books: Database) -> None:
    words = kept(books, "UPDATE", "discount_redemptions", "a redemption keeps what it is of")

    for column in ("id", "discount_code_id", "order_id", "account_id", "reduction_cents"):
        with refused(books, words):
            run(books, f"UPDATE discount_redemptions SET {column} = 2")


def test_of_an_order_what_was_paid_and_credited_is_not_changed(books: Database) -> None:
    pending = order_store.create(1, "top_up", 500).id

    changes = ("id = 7", "account_id = 2", "amount_cents = 1", "credit_cents = NULL")
    for change in (*changes, "status = 'pending'", "status = 'failed'"):
        with refused(books, "an order keeps its account, and what was paid and credited"):
            run(books, f"UPDATE orders SET {change} WHERE id = 1")
    run(books, f"UPDATE orders SET amount_cents = 1 WHERE id = {pending}")


def test_a_balance_with_lines_is_not_deleted(books: Database) -> None:
    balance_store.get_or_create(3)

    words = kept(books, "DELETE", "account_balances", "a balance with lines is never deleted")
    with refused(books, words):
        run(books, "DELETE FROM account_balances WHERE account_id = 2")
    run(books, "DELETE FROM account_balances WHERE account_id = 3")


def test_a_balance_that_was_taken_over_is_not_deleted(books: Database) -> None:
    balance_store.get_or_create(3)
    tamper(
        books,
        "UPDATE account_balances SET balance_cents = 5000, opening_cents = 5000"
        " WHERE account_id = 3",
    )

    words = kept(books, "DELETE", "account_balances", "a balance with lines is never deleted")
    with refused(books, words):
        run(books, "DELETE FROM account_balances WHERE account_id = 3")
    assert balance_store.deduct(3, 1, "a message").balance_after_cents == 4_999


def test_nothing_that_is_kept_is_deleted(books: Database) -> None:
    whats = ("a line", "an order", "a redemption", "a refund", "a charge")
    words = dict(zip(KEPT, whats, strict=True))

    for table, what in words.items():
        with refused(books, kept(books, "DELETE", table, f"{what} is never deleted")):
            run(books, f"DELETE FROM {table} WHERE id = (SELECT max(id) FROM {table})")


@on_postgresql
def test_nothing_that_is_kept_is_truncated(books: Database) -> None:
    for table in KEPT:
        with refused(books, "TRUNCATE on [a-z_]+ is refused: its rows are kept"):
            run(books, f"TRUNCATE {table} CASCADE")
    with refused(books, "TRUNCATE on [a-z_]+ is refused: its rows are kept"):
        run(books, "TRUNCATE accounts CASCADE")


# The same id, the same number, the same key, the same order's credit.
REPLACEMENTS = {
    "id": Line(2, 2, balance_after_cents=550).insert("INSERT OR REPLACE", id=1),
    "version": Line(2, 1, balance_after_cents=550).insert("REPLACE"),
    "key": Line(2, 2, balance_after_cents=550).insert(
        "INSERT OR REPLACE", idempotency_key="key-0001", idempotency_hash="0" * 64
    ),
    "credit": Line(1, 4).insert("INSERT OR REPLACE", order_id=1),
}


@on_sqlite
@pytest.mark.parametrize("recursive", ["ON", "OFF"])
@pytest.mark.parametrize("replacement", REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_a_line_is_not_replaced_whatever_the_connection_is_set_to(
    books: Database, replacement: str, recursive: str
) -> None:
    before = dump(books)

    with books.another() as connection:
        connection.execute(f"PRAGMA recursive_triggers={recursive}")
        connection.execute("BEGIN")
        connection.execute(moved(2, 550, 2))
        connection.execute(moved(1, 650, 4))
        # Of two guards that would refuse it either one may speak.
        with pytest.raises(sqlite3.IntegrityError, match=f"a line is never replaced|{FOLLOWS}"):
            connection.execute(replacement)
        for how in ("UPDATE OR REPLACE", "UPDATE OR IGNORE"):
            with pytest.raises(sqlite3.IntegrityError, match="a line is never changed"):
                connection.execute(f"{how} transactions SET id = 2 WHERE id = 1")
        connection.execute("ROLLBACK")

    assert dump(books) == before


def test_a_line_is_not_overwritten_where_it_is_in_the_way(books: Database) -> None:
    with refused(books, kept(books, "UPDATE", "transactions", "a line is never replaced")):
        run(
            books,
            Line(1, 3, "debit", 300, 600).insert()
            + " ON CONFLICT (account_id, account_version) DO UPDATE SET amount_cents = 1",
        )


OTHER_REPLACEMENTS = [
    *(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}" for table in KEPT[1:]),
    "REPLACE INTO orders (account_id, order_type, amount_cents, created_at, idempotency_key,"
    f" idempotency_hash) VALUES (2, 'top_up', 1, '{WHEN}', 'key-0002', '{'0' * 64}')",
    "REPLACE INTO orders (account_id, order_type, amount_cents, created_at, stripe_session_id)"
    f" VALUES (2, 'top_up', 1, '{WHEN}', 'cs_1')",
    "REPLACE INTO orders (account_id, order_type, amount_cents, created_at,"
    f" stripe_payment_intent_id) VALUES (2, 'top_up', 1, '{WHEN}', 'pi_1')",
    "REPLACE INTO discount_redemptions (discount_code_id, order_id, reduction_cents, status,"
    f" created_at) VALUES (1, 1, 0, 'late', '{WHEN}')",
    *(
        "REPLACE INTO order_refunds (order_id, amount_cents, claw_back_cents, shortfall_cents,"
        f" policy, created_at, {column}) VALUES (1, 1, 1, 1, 'available', '{WHEN}', {value})"
        for column, value in (("stripe_refund_id", "'re_1'"), ("transaction_id", "3"))
    ),
    Charge(8, cost_micros=262_000, rate_micros=262_000).insert("REPLACE"),
    Charge(4, gives_back_id=7).insert("REPLACE"),
]


# Without an INSERT, and without the DELETE that PRAGMA recursive_triggers would show to a guard.
EXCHANGES = [
    "UPDATE OR REPLACE orders SET id = 1 WHERE id = 2",
    "UPDATE OR REPLACE orders SET stripe_session_id = 'cs_1' WHERE id = 2",
    "UPDATE OR REPLACE orders SET stripe_payment_intent_id = 'pi_1' WHERE id = 2",
    f"UPDATE OR REPLACE orders SET idempotency_key = 'key-0002', idempotency_hash = '{'0' * 64}'"
    " WHERE id = 2",
    "UPDATE OR REPLACE discount_redemptions SET id = 1 WHERE id = 2",
    "UPDATE OR REPLACE discount_redemptions SET order_id = 1 WHERE id = 2",
    "UPDATE OR REPLACE order_refunds SET id = 1 WHERE id = 2",
    "UPDATE OR REPLACE order_refunds SET transaction_id = 3 WHERE id = 2",
    "UPDATE OR REPLACE account_balances SET id = 1 WHERE id = 2",
    "UPDATE OR REPLACE account_balances SET account_id = 1 WHERE id = 2",
    f"REPLACE INTO account_balances (account_id, updated_at) VALUES (1, '{WHEN}')",
    f"REPLACE INTO account_balances (id, account_id, updated_at) VALUES (1, 3, '{WHEN}')",
]


@on_sqlite
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_nothing_that_is_kept_gives_way_to_another(books: Database, exchange: str) -> None:
    order_store.attach_session(1, "cs_1")
    order_store.complete(1, payment_intent_id="pi_1")
    order_store.create(1, "top_up", 500, code="SAVE10", key="key-0003")
    order_store.complete(2)
    order_store.refund(2, amount_cents=1)
    tamper(
        books,
        f"UPDATE orders SET idempotency_key = 'key-0002', idempotency_hash = '{'0' * 64}'"
        " WHERE id = 1",
    )

    with refused(books, "an order keeps|keeps what it is of|is never changed|a balance "):
        run(books, exchange)


@on_sqlite
def test_a_balance_does_not_move_without_a_line(books: Database) -> None:
    for statement in (
        moved(1, 601, 3),
        moved(1, 600, 2),
        moved(1, 700, 1),
        moved(1, 600, 5),
        "UPDATE account_balances SET opening_cents = 1 WHERE account_id = 1",
        # What may not be NULL gets its default so, past every comparison.
        "UPDATE OR REPLACE account_balances SET opening_cents = NULL WHERE account_id = 1",
        "UPDATE OR REPLACE account_balances SET account_version = NULL, balance_cents = 777",
        "UPDATE OR REPLACE account_balances SET balance_cents = NULL",
    ):
        with refused(books, MOVES):
            run(books, statement)
    for columns, values in (
        ("balance_cents", "5"),
        ("balance_cents, account_version", "50, 1"),
        ("balance_cents, opening_cents", "50, 50"),
    ):
        with refused(books, "a balance begins at 0, and once"):
            run(
                books,
                f"INSERT INTO account_balances (account_id, updated_at, {columns})"
                f" VALUES (3, '{WHEN}', {values})",
            )


def test_a_first_line_brings_what_it_says(books: Database) -> None:
    opened = f"INSERT INTO account_balances (account_id, updated_at) VALUES (3, '{WHEN}')"

    with refused(books, FOLLOWS):
        run(books, opened, moved(3, 50_000, 1), Line(3, 1, "credit", 1, 50_000).insert())


@on_sqlite
@pytest.mark.parametrize("replacement", OTHER_REPLACEMENTS)
def test_nothing_else_that_is_kept_is_replaced_whatever_the_connection_is_set_to(
    books: Database, replacement: str
) -> None:
    tamper(
        books,
        "UPDATE orders SET stripe_session_id = 'cs_1', stripe_payment_intent_id = 'pi_1',"
        f" idempotency_key = 'key-0002', idempotency_hash = '{'0' * 64}'",
        "UPDATE order_refunds SET stripe_refund_id = 're_1'",
    )

    # Of two guards that would refuse it either one may speak.
    with refused(books, f"is never replaced|{COSTS}"):
        run(books, replacement)


# What follows what


@pytest.mark.parametrize(
    ("line", "balance", "version"),
    [
        pytest.param(Line(balance_after_cents=651), 650, 4, id="another balance after"),
        pytest.param(Line(), 600, 4, id="a balance that did not move"),
        pytest.param(Line(), 651, 4, id="a balance that moved otherwise"),
        pytest.param(Line(amount_cents=51), 650, 4, id="another amount"),
        pytest.param(Line(transaction_type="debit"), 650, 4, id="a debit that adds"),
        pytest.param(Line(transaction_type="refund"), 650, 4, id="a refund that adds"),
        pytest.param(Line(balance_after_cents=550), 550, 4, id="a credit that takes away"),
        pytest.param(Line(account_version=5), 650, 5, id="a gap"),
        pytest.param(Line(account_version=5), 650, 4, id="a number ahead of the balance"),
        pytest.param(Line(account_version=4), 650, 3, id="a balance without the number"),
        pytest.param(Line(account_version=0), 650, 0, id="no number"),
        pytest.param(Line(account_version=-1), 650, 4, id="a number below zero"),
        pytest.param(Line(account_version=3), 650, 3, id="a number for the second time"),
        pytest.param(Line(account_version=1), 650, 1, id="the first number again"),
    ],
)
def test_a_line_that_does_not_follow_is_refused(
    books: Database, line: Line, balance: int, version: int
) -> None:
    message = f"{FOLLOWS}|{MOVES}|a line is never replaced|account_version"

    with refused(books, message):
        run(books, moved(1, balance, version), line.insert())


def test_a_line_of_an_account_without_a_balance_is_refused(books: Database) -> None:
    with refused(books, FOLLOWS):
        run(books, Line(3, 1, balance_after_cents=50).insert())


DEBIT = Line(4, 5, "debit", 6, 988)
CREDIT, GIVEN = Line(4, 5, "credit", 6, 1_000), Charge(subcent_after_micros=0)
CREDIT_OF_GB = Line(4, 5, "credit", 26, 1_020)
GIVEN_OF_GB = Charge(rate_micros=262_000, cost_micros=262_000, subcent_after_micros=5_500)


@pytest.mark.parametrize(
    ("line", "subcent", "charge"),
    [
        pytest.param(DEBIT, 7_000, Charge(subcent_after_micros=6_999), id="another fraction"),
        pytest.param(DEBIT, 6_999, Charge(), id="a balance with another fraction"),
        pytest.param(DEBIT, 7_001, Charge(subcent_after_micros=7_001), id="a micro too little"),
        pytest.param(DEBIT, 7_000, Charge(rate_micros=56_499, cost_micros=56_499), id="less"),
        pytest.param(DEBIT, 7_000, Charge(rate_micros=60_000, cost_micros=60_000), id="more"),
        pytest.param(DEBIT, 7_000, Charge(account_id=5), id="of another account's line"),
        pytest.param(DEBIT, 7_000, Charge(99), id="of no line"),
        pytest.param(DEBIT._replace(transaction_type="refund"), 7_000, Charge(), id="by a refund"),
        pytest.param(
            CREDIT,
            0,
            GIVEN._replace(rate_micros=63_500, cost_micros=63_500),
            id="a charge that adds",
        ),
        *(
            pytest.param(
                line, charge.subcent_after_micros, charge._replace(gives_back_id=of), id=what
            )
            for line, charge, of, what in (
                (DEBIT, GIVEN, 6, "a give-back that takes away"),
                (CREDIT, GIVEN, 4, "a give-back of another account's credit"),
                (CREDIT, GIVEN, 5, "a give-back of a credit"),
                (CREDIT, GIVEN, 10, "a give-back of another account's charge"),
                (CREDIT_OF_GB, GIVEN_OF_GB, 6, "a give-back of another amount"),
                (CREDIT_OF_GB, GIVEN_OF_GB, 7, "a give-back for the second time"),
                (CREDIT_OF_GB, GIVEN_OF_GB, 8, "a give-back of a give-back"),
            )
        ),
    ],
)
def test_a_charge_that_does_not_follow_is_refused(
    books: Database, line: Line, subcent: int, charge: Charge
) -> None:
    with refused(books, f"{COSTS}|a charge is never replaced|ix_sms_charges_gives_back_id"):
        run(
            books,
            moved(4, line.balance_after_cents, 5, subcent),
            line.insert(),
            charge.insert(),
        )


def test_a_charge_does_not_come_after_its_line(books: Database) -> None:
    by_hand = balance_store.deduct(4, 6, "by hand").id
    balance_store.deduct(4, 1, "by hand")
    charge = Charge(by_hand, rate_micros=60_000, cost_micros=60_000, subcent_after_micros=3_500)

    with refused(books, COSTS):
        run(books, charge.insert())


def test_an_older_worker_writes_no_line(books: Database) -> None:
    """It moves the balance and knows of no number: as tbpay did before there was one."""
    with refused(books, f"{FOLLOWS}|{MOVES}|account_version"):
        run(
            books,
            "UPDATE account_balances SET balance_cents = 650 WHERE account_id = 1",
            "INSERT INTO transactions (account_id, transaction_type, amount_cents,"
            " balance_after_cents, description, created_at)"
            f" VALUES (1, 'credit', 50, 650, 'old', '{WHEN}')",
        )


def test_an_older_worker_counts_no_use(books: Database) -> None:
    """It knows of no redemptions: as tbpay did before there were any."""
    for uses in ("current_uses + 1", "current_uses - 1"):
        with refused(books, "the uses of a discount code are what its redemptions add up to"):
            run(books, f"UPDATE discount_codes SET current_uses = {uses} WHERE id = 1")


# What PostgreSQL looks at when a unit commits

ALONE = {
    "a balance": (moved(1, 601, 3), "a balance is what its last line says"),
    "a number": (moved(1, 600, 2), "a balance is what its last line says"),
    "a balance and a number": (moved(1, 700, 1), "a balance is what its last line says"),
    "a balance of nobody's": (
        "INSERT INTO account_balances (account_id, balance_cents, updated_at)"
        f" VALUES (3, 5, '{WHEN}')",
        "a balance is what its last line says",
    ),
    "a fraction": (
        "UPDATE account_balances SET subcent_micros = 1 WHERE account_id = 1",
        "a balance is what its last line says",
    ),
    "a fraction after charges": (
        "UPDATE account_balances SET subcent_micros = 0 WHERE account_id = 4",
        "a balance is what its last line says",
    ),
    "a fraction of nobody's": (
        "INSERT INTO account_balances (account_id, balance_cents, subcent_micros, updated_at)"
        f" VALUES (3, 0, 5, '{WHEN}')",
        "a balance is what its last line says",
    ),
    "a fraction and a line without a charge": (
        f"{moved(4, 988, 5, 7_000)}; {DEBIT.insert()}",
        "a balance is what its last line says",
    ),
    "a balance of another's": (
        "UPDATE account_balances SET account_id = 3 WHERE account_id = 1",
        "a balance keeps its account, and what it began with",
    ),
    "another beginning": (
        "UPDATE account_balances SET opening_cents = 1 WHERE account_id = 1",
        "a balance keeps its account, and what it began with",
    ),
    "a beginning of nobody's": (
        "INSERT INTO account_balances (account_id, balance_cents, opening_cents, updated_at)"
        f" VALUES (3, 5, 5, '{WHEN}')",
        "a balance begins at 0",
    ),
    "a counter": ("UPDATE discount_codes SET current_uses = 0", "the uses of a discount code"),
    "a code with uses": (
        "INSERT INTO discount_codes (code, discount_type, discount_value, current_uses, created_at)"
        f" VALUES ('NEW', 'percent', 10, 1, '{WHEN}')",
        "the uses of a discount code",
    ),
    "a redemption": (
        "INSERT INTO discount_redemptions"
        " (discount_code_id, reduction_cents, status, created_at)"
        f" VALUES (1, 0, 'redeemed', '{WHEN}')",
        "the uses of a discount code",
    ),
    "a release": (
        "UPDATE discount_redemptions SET status = 'released'",
        "the uses of a discount code",
    ),
}


@on_postgresql
@pytest.mark.parametrize(("statement", "message"), ALONE.values(), ids=ALONE)
def test_what_moves_alone_is_not_committed(books: Database, statement: str, message: str) -> None:
    with books.another() as connection:
        connection.execute("BEGIN")
        connection.execute(statement.encode())
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match=message):
            connection.execute("COMMIT")

    assert unbalanced(books) == []
    assert rows(books, "SELECT current_uses FROM discount_codes") == [(1,)]


@on_postgresql
def test_a_session_that_replicates_is_guarded_all_the_same(books: Database) -> None:
    replicating = "SET LOCAL session_replication_role = replica"

    for statement, message in (
        ("UPDATE transactions SET amount_cents = 1", "its rows are kept"),
        ("DELETE FROM orders", "its rows are kept"),
        ("TRUNCATE order_refunds", "its rows are kept"),
        ("DELETE FROM sms_charges", "its rows are kept"),
        (Line().insert(), FOLLOWS),
        (Charge(8).insert(), COSTS),
        *ALONE.values(),
    ):
        with refused(books, message):
            run(books, replicating, statement)


# Whether they are there


def test_a_migrated_database_has_the_guards_by_name_and_text(books: Database) -> None:
    sql = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    if books.dialect == "postgresql":
        sql = "SELECT tgname, pg_get_triggerdef(oid, true) FROM pg_trigger WHERE NOT tgisinternal"
    texts = {name: sorted(text.split()) for name, text in rows(books, sql)}

    # PostgreSQL says the events of a trigger in an order of its own.
    assert texts == {name: sorted(text.split()) for name, text in GUARDS[books.dialect].items()}
    with unit_of_work() as connection:
        assert differences(connection) == []


def test_a_guard_that_is_gone_is_missed(books: Database) -> None:
    for guard, text in GUARDS[books.dialect].items():
        words = text.split()
        table = words[words.index("ON") + 1]
        on = "" if books.dialect == "sqlite" else f" ON {table}"
        with suppress(UndoneError), unit_of_work() as connection:
            connection.exec_driver_sql(f"DROP TRIGGER {guard}{on}")

            assert differences(connection) == [(table, f"trigger {guard} is missing")]
            raise UndoneError


class UndoneError(Exception):
    pass


# What the stores say where somebody came past them


def test_a_trail_that_does_not_lead_to_its_balance_is_not_written_on(books: Database) -> None:
    tamper(books, moved(1, 700, 3))

    assert_not_written_on(
        books,
        1,
        lambda: balance_store.add_credits(1, 5, "a gift"),
        lambda: balance_store.deduct(1, 5, "a message", key="key-0002"),
        lambda: balance_store.charge_sms(1, "+12015550123"),
        lambda: order_store.refund(1),
    )

    assert balance_store.add_credits(2, 5, "a gift").balance_after_cents == 505


def test_charges_that_do_not_lead_to_the_fraction_are_not_added_to(books: Database) -> None:
    tamper(books, moved(4, 994, 4, 3_499))

    assert_not_written_on(
        books,
        4,
        lambda: balance_store.charge_sms(4, "+12015550123"),
        lambda: balance_store.charge_sms(4, "+12015550123", key="key-0002"),
        lambda: balance_store.credit_back(6),
    )


def assert_not_written_on(books: Database, account: int, *writes: Callable[[], object]) -> None:
    before = dump(books)
    for write in writes:
        with pytest.raises(UnavailableError) as refusal:
            write()
        assert refusal.value.code is Code.CORRUPT
        assert refusal.value.message == (
            f"the trail of account {account} does not lead to its balance: nothing was written"
        )
        assert refusal.value.hint is not None
        assert refusal.value.hint.endswith(f"ledger verify --account {account}")
    assert dump(books) == before
