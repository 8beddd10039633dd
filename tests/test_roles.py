"""The roles of the README: one owns the tables, the other works with them and cannot cheat."""

import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import NamedTuple

import psycopg
import pytest
import sqlalchemy as sa
from conftest import ROOT, stock
from databases import PostgresDatabase
from postgres import NoPostgresError
from probes import not_run, unbalanced

from tbpay import database, migrations, stores
from tbpay.guards import GUARDS
from tbpay.reports.verify import verify
from tbpay.stores import (
    account_store,
    audit_store,
    balance_store,
    discount_code_store,
    order_store,
)

README = (ROOT / "README.md").read_text()

# Roles are the whole server's: each process of the tests has its own.
OWNER, WORKER, TRUSTED = (f"tbpay_test_{os.getpid()}_{who}" for who in ("owner", "app", "all"))


class Cast(NamedTuple):
    """A database that was made as the README says, and who may do what in it."""

    made: PostgresDatabase

    def url(self, role: str) -> str:
        own = sa.make_url(self.made.url).set(username=role, password="s3cret")  # noqa: S106
        return own.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def cast() -> Iterator[Cast]:
    try:
        made = PostgresDatabase.new()
    except NoPostgresError as error:
        not_run("postgresql", str(error))
    cast = Cast(made)
    roles, grants = readme_sql()
    made.run(
        *roles,
        f"CREATE ROLE {TRUSTED} LOGIN",
        *(f"ALTER ROLE {role} PASSWORD 's3cret'" for role in (OWNER, WORKER, TRUSTED)),
    )
    database.configure(cast.url(OWNER))
    migrations.upgrade()
    made.run(
        *grants,
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {TRUSTED}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {TRUSTED}",
    )
    database.reset()
    database.configure(cast.url(WORKER))
    stock()
    order_store.refund(1, amount_cents=500)
    balance_store.add_credits(2, 100, "a gift")
    balance_store.charge_sms(2, "+12015550123")
    database.reset()
    made.run("INSERT INTO accounts (id, created_at) VALUES (9, '2026-11-23T08:13:00.000000Z')")
    yield cast
    made.run(*(f"DROP OWNED BY {role}" for role in (OWNER, WORKER, TRUSTED)))
    made.run(*(f"DROP ROLE {role}" for role in (OWNER, WORKER, TRUSTED)))
    made.drop()


def readme_sql() -> list[list[str]]:
    """The README's statements, block by block, for roles that are this process's own."""
    blocks = re.findall(r"^```sql\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [
        block.replace("tbpay_owner", OWNER).replace("tbpay_app", WORKER).strip().split(";\n")
        for block in blocks
    ]


# What the stores do


def test_a_store_can_do_everything_as_the_role_that_only_works(cast: Cast) -> None:
    public = {
        f"{store.__name__}.{name}"
        for store in (getattr(stores, name) for name in stores.__all__ if name.endswith("Store"))
        for name, _ in inspect.getmembers(store, inspect.isfunction)
        if not name.startswith("_")
    }
    assert sorted(CALLS) == sorted(public)
    database.configure(cast.url(WORKER))

    for call in CALLS.values():
        call()

    assert unbalanced(cast.made) == []
    assert verify().differences == []
    assert migrations.check() == []
    assert migrations.status().revision == migrations.HEAD


CALLS: dict[str, Callable[[], object]] = {
    "AccountStore.create": lambda: account_store.create("eve@example.org"),
    "AccountStore.get_by_id": lambda: account_store.get_by_id(3),
    "AccountStore.get_by_email": lambda: account_store.get_by_email("eve@example.org"),
    "AccountStore.set_stripe_customer": lambda: account_store.set_stripe_customer(3, "cus_3"),
    "AccountStore.find": lambda: account_store.find(search="cus_", below_cents=1),
    "DiscountCodeStore.create": lambda: discount_code_store.create("NEW", "percent", 50),
    "DiscountCodeStore.update": lambda: discount_code_store.update("NEW", max_uses=9),
    "DiscountCodeStore.set_active": lambda: discount_code_store.set_active("NEW", active=True),
    "DiscountCodeStore.get_by_code": lambda: discount_code_store.get_by_code("new"),
    "DiscountCodeStore.validate": lambda: discount_code_store.validate("NEW", account_id=3),
    "DiscountCodeStore.increment_uses": lambda: discount_code_store.increment_uses("NEW"),
    "OrderStore.create": lambda: order_store.create(3, "top_up", 2_000, code="NEW", key="order-5!"),
    "OrderStore.attach_session": lambda: order_store.attach_session(5, "cs_5"),
    "OrderStore.get_by_id": lambda: order_store.get_by_id(5),
    "OrderStore.create_or_replay": lambda: order_store.create_or_replay(
        3, "top_up", 2_000, code="NEW", key="order-5!"
    ),
    "OrderStore.get_by_stripe_session": lambda: order_store.get_by_stripe_session("cs_5"),
    "OrderStore.get_by_account_id": lambda: order_store.get_by_account_id(3),
    "OrderStore.complete": lambda: order_store.complete(5, payment_intent_id="pi_5"),
    "OrderStore.fail": lambda: order_store.fail(4),
    "OrderStore.update_status": lambda: order_store.update_status(
        4, "completed", stripe_payment_intent_id="pi_4"
    ),
    "OrderStore.refund": lambda: order_store.refund(5, amount_cents=100, key="refund-1"),
    "OrderStore.record_refund": lambda: order_store.record_refund(5, policy="negative"),
    "OrderStore.refunds": lambda: order_store.refunds(5),
    "OrderStore.find": lambda: order_store.find(account_id=3, status="refunded"),
    "BalanceStore.get_or_create": lambda: balance_store.get_or_create(3),
    "BalanceStore.get_balance": lambda: balance_store.get_balance(3),
    "BalanceStore.add_credits": lambda: balance_store.add_credits(3, 900, "gift", key="credit-1"),
    "BalanceStore.deduct": lambda: balance_store.deduct(3, 100, "sms", key="debit-01"),
    "BalanceStore.record_transaction": lambda: balance_store.record_transaction(
        3, "debit", 100, "sms"
    ),
    "BalanceStore.charge_sms": lambda: balance_store.charge_sms(3, "+12015550123", key="message-1"),
    "BalanceStore.credit_back": lambda: balance_store.credit_back(_charge()),
    "BalanceStore.history": lambda: balance_store.history(3),
    "BalanceStore.find": lambda: balance_store.find(account_ids=[3]),
    "DiscountCodeStore.find": lambda: discount_code_store.find(),
    "DiscountCodeStore.redemptions": lambda: discount_code_store.redemptions("NEW"),
    "AuditStore.record": lambda: audit_store.record("order complete", "order 5", reason="paid"),
    "AuditStore.find": lambda: audit_store.find(subject="order 5"),
}


def _charge() -> int:
    return balance_store.charge_sms(3, "+12015550123", key="message-1").id


# What nobody may do, whose rows these are not


class Attack(NamedTuple):
    """Statements that would falsify the ledger; ``is_of_the_owner``: only who owns it may try."""

    statements: tuple[str, ...]
    is_of_the_owner: bool = False


def forged(amount_cents: int, after_cents: int, version: int) -> str:
    return (
        "INSERT INTO public.transactions (account_id, transaction_type, amount_cents,"
        " balance_after_cents, description, created_at, account_version)"
        f" VALUES (1, 'credit', {amount_cents}, {after_cents}, 'forged',"
        f" '2026-11-23T08:13:00.000000Z', {version})"
    )


def moved(balance_cents: int, version: int) -> str:
    return (
        f"UPDATE public.account_balances SET balance_cents = {balance_cents},"
        f" account_version = {version} WHERE account_id = 1"
    )


# Ann, account 1, has three lines and 15.00: a credit of 25.00, a debit and a refund of 5.00 each.
ATTACKS = {
    "an amount": Attack(("UPDATE public.transactions SET amount_cents = 1 WHERE id = 2",)),
    "a balance after": Attack(
        ("UPDATE public.transactions SET balance_after_cents = 9999 WHERE id = 2",)
    ),
    "a deleted line": Attack(("DELETE FROM public.transactions WHERE id = 2",)),
    "the last line and its balance": Attack(
        (
            "UPDATE public.order_refunds SET transaction_id = NULL",
            "DELETE FROM public.transactions WHERE id = 3",
            moved(2000, 2),
        )
    ),
    "truncated lines": Attack(("TRUNCATE public.transactions CASCADE",)),
    "two lines swapped": Attack(
        (
            "UPDATE public.transactions SET account_version = 9 WHERE id = 1",
            "UPDATE public.transactions SET account_version = 1 WHERE id = 2",
            "UPDATE public.transactions SET account_version = 2 WHERE id = 1",
        )
    ),
    "a whole trail": Attack(
        (
            "UPDATE public.order_refunds SET transaction_id = NULL",
            "DELETE FROM public.transactions WHERE account_id = 1",
            moved(0, 0),
        )
    ),
    "a balance alone": Attack((moved(99_999, 3),)),
    "a version alone": Attack((moved(1500, 2),)),
    "a counter alone": Attack(("UPDATE public.discount_codes SET current_uses = 0 WHERE id = 1",)),
    "a redemption alone": Attack(
        ("UPDATE public.discount_redemptions SET status = 'released' WHERE order_id = 2",)
    ),
    "a deleted redemption": Attack(("DELETE FROM public.discount_redemptions WHERE order_id = 2",)),
    "a deleted order": Attack(("DELETE FROM public.orders WHERE id = 3",)),
    "a deleted refund": Attack(("DELETE FROM public.order_refunds",)),
    "a forged balance": Attack((forged(100, 99_999, 4),)),
    "a forged line without its balance": Attack((forged(100, 1600, 4),)),
    "a gap": Attack((moved(1600, 5), forged(100, 1600, 5))),
    "a forged amount": Attack((moved(99_999, 4), forged(1, 99_999, 4))),
    "a balance under another id": Attack(
        (moved(99_999, 3), "UPDATE public.account_balances SET id = id + 1000 WHERE id = 1")
    ),
    "a fraction under another id": Attack(
        (
            "UPDATE public.account_balances SET subcent_micros = 1 WHERE account_id = 2",
            "UPDATE public.account_balances SET id = id + 1000 WHERE account_id = 2",
        )
    ),
    "a balance of another's": Attack(
        ("UPDATE public.account_balances SET account_id = 9 WHERE account_id = 1",)
    ),
    "a first line that brings more than it says": Attack(
        (
            "INSERT INTO public.account_balances (account_id, balance_cents, updated_at,"
            " account_version) VALUES (9, 50000, '2026-11-23T08:13:00.000000Z', 1)",
            forged(1, 50_000, 1).replace("VALUES (1,", "VALUES (9,"),
        )
    ),
    "a first line from where nothing was": Attack(
        (
            "INSERT INTO public.account_balances (account_id, balance_cents, updated_at,"
            " account_version, opening_cents)"
            " VALUES (9, 50000, '2026-11-23T08:13:00.000000Z', 1, 49999)",
            forged(1, 50_000, 1).replace("VALUES (1,", "VALUES (9,"),
        )
    ),
    "another amount of what was paid": Attack(
        ("UPDATE public.orders SET amount_cents = 900000 WHERE id = 1",)
    ),
    "another refund of Stripe's": Attack(
        ("UPDATE public.order_refunds SET stripe_refund_id = 're_other' WHERE id = 1",)
    ),
    "a redemption of another order": Attack(
        ("UPDATE public.discount_redemptions SET order_id = 3 WHERE order_id = 2",)
    ),
    "a fraction alone": Attack(
        ("UPDATE public.account_balances SET subcent_micros = 9999 WHERE account_id = 2",)
    ),
    "a cheaper charge": Attack(
        ("UPDATE public.sms_charges SET rate_micros = 1, cost_micros = 1 WHERE id = 1",)
    ),
    "a deleted charge": Attack(("DELETE FROM public.sms_charges",)),
    "a charge of a line that charged nothing": Attack(
        (
            "INSERT INTO public.sms_charges (transaction_id, account_id, phone, country_code,"
            " segments, rate_micros, cost_micros, subcent_after_micros)"
            " VALUES (2, 1, '+1…23', 'US', 1, 5000000, 5000000, 0)",
        )
    ),
    "a guard switched off": Attack(
        ("ALTER TABLE public.transactions DISABLE TRIGGER ALL",), is_of_the_owner=True
    ),
    "a guard dropped": Attack(
        ("DROP TRIGGER transactions_follow ON public.transactions",), is_of_the_owner=True
    ),
    "a guard rewritten": Attack(
        (
            "CREATE OR REPLACE FUNCTION public.tbpay_line_follows() RETURNS trigger"
            " LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        ),
        is_of_the_owner=True,
    ),
    "a session that replicates": Attack(
        ("SET session_replication_role = replica",), is_of_the_owner=True
    ),
}
BY_ROWS = [name for name, attack in ATTACKS.items() if not attack.is_of_the_owner]

# Tables of the same names, in which what is forged is true, and which stand first in the path.
DECEPTION = (
    "CREATE TEMPORARY TABLE account_balances (LIKE public.account_balances)",
    "CREATE TEMPORARY TABLE transactions (LIKE public.transactions)",
    "CREATE TEMPORARY TABLE discount_codes (LIKE public.discount_codes)",
    "CREATE TEMPORARY TABLE discount_redemptions (LIKE public.discount_redemptions)",
    "INSERT INTO pg_temp.account_balances (id, account_id, balance_cents, updated_at,"
    " account_version, opening_cents, subcent_micros)"
    " SELECT number, 1, cents, '', version, 0, 0 FROM (VALUES (1, 99999, 4),"
    " (2, 1600, 4), (3, 1600, 5), (4, 99999, 3), (5, 1500, 2)) AS forged (number, cents, version)",
    "INSERT INTO pg_temp.transactions (id, account_id, transaction_type, amount_cents,"
    " balance_after_cents, description, created_at, account_version)"
    " SELECT number, 1, 'credit', 1, cents, '', '', version FROM (VALUES (1, 99899, 3),"
    " (2, 1500, 3), (3, 1500, 4), (4, 99998, 3), (5, 99999, 3)) AS forged (number, cents, version)",
    "SET search_path = pg_temp, public",
)


def attempt(url: str, name: str) -> None:
    # Its own context would leave it open where the commit is refused.
    with closing(psycopg.connect(url)) as connection:
        for statement in (*DECEPTION, *ATTACKS[name].statements):
            connection.execute(statement.encode())
        connection.commit()


INSUFFICIENT_PRIVILEGE, INTEGRITY_CONSTRAINT_VIOLATION = "42501", "23000"


@pytest.mark.parametrize("name", ATTACKS)
def test_who_works_as_documented_cannot_falsify_the_ledger(name: str, cast: Cast) -> None:
    before = cast.made.dump()

    with pytest.raises(psycopg.Error) as refusal:
        attempt(cast.url(WORKER), name)

    assert refusal.value.sqlstate in (INSUFFICIENT_PRIVILEGE, INTEGRITY_CONSTRAINT_VIOLATION)
    assert cast.made.dump() == before


@pytest.mark.parametrize("name", ATTACKS)
def test_the_guards_refuse_even_whom_somebody_has_granted_everything(name: str, cast: Cast) -> None:
    before = cast.made.dump()

    with pytest.raises(psycopg.Error) as refusal:
        attempt(cast.url(TRUSTED), name)

    is_of_the_owner = ATTACKS[name].is_of_the_owner
    assert refusal.value.sqlstate == (
        INSUFFICIENT_PRIVILEGE if is_of_the_owner else INTEGRITY_CONSTRAINT_VIOLATION
    )
    assert cast.made.dump() == before


@pytest.fixture
def unguarded(cast: Cast) -> Iterator[Cast]:
    """Without guards, until the test is over."""
    guards = GUARDS["postgresql"]
    tables = {name: text.split(" ON ")[1].split()[0] for name, text in guards.items()}
    cast.made.run(*(f"ALTER TABLE {tables[name]} DISABLE TRIGGER {name}" for name in guards))
    yield cast
    cast.made.run(*(f"ALTER TABLE {tables[name]} ENABLE ALWAYS TRIGGER {name}" for name in guards))


@pytest.mark.parametrize("name", BY_ROWS)
def test_without_the_guards_all_of_that_would_be_done(name: str, unguarded: Cast) -> None:
    with psycopg.connect(unguarded.url(TRUSTED)) as connection:
        for statement in ATTACKS[name].statements:
            connection.execute(statement.encode())
        connection.rollback()


def test_a_guard_that_looked_where_it_is_told_to_look_would_be_deceived(cast: Cast) -> None:
    follows = "ALTER FUNCTION tbpay_line_follows()"
    before = cast.made.dump()
    [(path,)] = cast.made.rows(
        "SELECT proconfig[1] FROM pg_proc WHERE proname = 'tbpay_line_follows'"
    )
    assert path == "search_path=public, pg_temp"

    cast.made.run(f"{follows} RESET search_path")
    with psycopg.connect(cast.url(TRUSTED)) as connection:
        for statement in (*DECEPTION, forged(100, 99_999, 4)):
            connection.execute(statement.encode())
        connection.rollback()
    cast.made.run(f"{follows} SET search_path = public, pg_temp")

    assert cast.made.dump() == before
