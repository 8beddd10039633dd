from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from databases import Database
from probes import dump, not_run, refused, rows, run
from webapp import empty, make

from tbpay import database, migrations
from tbpay.errors import Code, ConflictError, NotFoundError, RefusedError
from tbpay.models import Account
from tbpay.stores import account_store, balance_store, order_store

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])
on_postgresql = pytest.mark.parametrize("dialect", ["postgresql"])


@pytest.fixture
def webapp(dialect: str, tmp_path: Path) -> Iterator[Database]:
    """Where a web application is going to make its own accounts."""
    with empty(dialect, tmp_path) as made:
        yield made


@pytest.fixture
def number(dialect: str) -> str:
    """How an application's table has ids that the database gives."""
    return "id INTEGER PRIMARY KEY" if dialect == "sqlite" else "id SERIAL PRIMARY KEY"


def adopt(webapp: Database, *statements: str) -> None:
    """Make the web application's tables, then ours beside them."""
    make(webapp, *statements)
    migrations.upgrade()


@pytest.mark.usefixtures("db")
def test_a_new_account_has_an_email_or_none() -> None:
    ann = account_store.create("ann@example.org")
    bare = account_store.create()

    assert (ann.id, ann.email, ann.stripe_customer_id) == (1, "ann@example.org", None)
    assert (bare.id, bare.email) == (2, None)
    assert ann.created_at is not None
    assert abs((datetime.now(UTC) - ann.created_at).total_seconds()) < 10
    assert account_store.get_by_id(1) == ann
    assert account_store.get_by_email("ann@example.org") == ann


@pytest.mark.usefixtures("account")
def test_an_account_that_is_not_there_is_none() -> None:
    assert account_store.get_by_id(99) is None
    assert account_store.get_by_email("bob@example.org") is None
    assert account_store.get_by_email("ANN@example.org") is None
    assert account_store.get_by_email("%") is None


def test_an_email_belongs_to_one_account(db: Database, account: int) -> None:
    message = "an account has the email 'ann@example.org' already"
    with refused(db, ConflictError, Code.EXISTS, message):
        account_store.create("ann@example.org")
    assert account_store.create("Ann@example.org").id == account + 1


def test_an_account_notes_its_stripe_customer(db: Database, account: int) -> None:
    noted = account_store.set_stripe_customer(account, "cus_1")
    before = dump(db)
    again = account_store.set_stripe_customer(account, "cus_1")

    assert (noted.stripe_customer_id, again) == ("cus_1", noted)
    assert dump(db) == before
    assert account_store.get_by_id(account) == noted
    message = f"account {account} is Stripe's customer 'cus_1' already"
    with refused(db, ConflictError, Code.CONFLICT, message):
        account_store.set_stripe_customer(account, "cus_2")
    with refused(db, NotFoundError, Code.NOT_FOUND, "no account 99"):
        account_store.set_stripe_customer(99, "cus_2")


@pytest.mark.usefixtures("db")
def test_a_search_is_for_a_part_in_upper_or_lower_case_and_nothing_else() -> None:
    emails = ["Ann@example.org", "bob_1@example.org", "b%b@example.org", "bobx1@example.org"]
    for email in emails:
        account_store.create(email)
    account_store.set_stripe_customer(4, "cus_ANN")

    def found(part: str) -> list[int]:
        return [account.id for account in account_store.find(search=part).items]

    assert found("ann") == found("ANN") == found("aNN") == [1, 4]
    assert found("EXAMPLE") == [1, 2, 3, 4]
    assert found("_1@") == [2]
    assert found("%b") == [3]
    assert found("%") == [3]
    assert found("_") == [2, 4]
    assert found("\\") == []
    assert found("/") == []
    assert found("' OR 1=1 --") == []


@pytest.mark.usefixtures("db")
def test_a_search_takes_letters_outside_ascii_as_they_are() -> None:
    for name in ("éva", "ÉVA", "straße", "ıstanbul", "istanbul", "\u212aelvin", "kelvin"):
        account_store.create(f"{name}@example.org")

    def found(part: str) -> list[str]:
        names = [account.email or "" for account in account_store.find(search=part).items]
        return [name.removesuffix("@example.org") for name in names]

    assert found("éva") == found("éVA") == ["éva"]
    assert found("Éva") == ["ÉVA"]
    assert found("ß") == ["straße"]
    assert found("SS") == []
    assert found("ISTAN") == ["istanbul"]
    assert found("ı") == ["ıstanbul"]
    assert found("İ") == []
    assert found("KELVIN") == ["kelvin"]
    assert found("\u212aELVIN") == ["\u212aelvin"]


def test_accounts_are_found_by_what_they_have_left(account: int) -> None:
    others = [account_store.create().id for _ in range(2)]
    balance_store.add_credits(others[0], 500, "a gift")
    balance_store.deduct(others[1], 1, "on credit", allow_negative=True)

    def found(below_cents: int) -> list[int]:
        return [found.id for found in account_store.find(below_cents=below_cents).items]

    assert found(501) == [account, *others]
    assert found(500) == [account, others[1]]
    assert found(1) == [account, others[1]]
    assert found(0) == [others[1]]


def test_accounts_may_be_nothing_but_ids(webapp: Database, number: str) -> None:
    adopt(webapp, f"CREATE TABLE accounts ({number})")
    run(webapp, "INSERT INTO accounts (id) VALUES (7)")

    assert account_store.get_by_id(7) == Account(7)
    assert account_store.get_by_email("ann@example.org") is None
    made = account_store.create()
    assert made == Account(made.id)
    account_store.set_stripe_customer(7, "cus_1")
    assert account_store.find(search="cus").items == [Account(7, None, None, "cus_1")]
    with refused(
        webapp, RefusedError, Code.REFUSED, "the web application's accounts have no email"
    ):
        account_store.create("ann@example.org")


SPACED = "____-__-__ __:__:__"


@pytest.mark.parametrize(
    ("dialect", "declared", "stored"),
    [
        ("sqlite", "DATETIME", f"{SPACED}.______"),
        ("sqlite", "TIMESTAMP NOT NULL", f"{SPACED}.______"),
        ("sqlite", "DATETIME DEFAULT CURRENT_TIMESTAMP", SPACED),
        ("sqlite", "TEXT NOT NULL DEFAULT (datetime('now'))", SPACED),
        ("sqlite", "TEXT NOT NULL", "____-__-__T__:__:__.______Z"),
        ("sqlite", "VARCHAR(50)", "____-__-__T__:__:__.______Z"),
        ("postgresql", "TIMESTAMP NOT NULL", f"{SPACED}%"),
        ("postgresql", "TIMESTAMP WITH TIME ZONE", f"{SPACED}%"),
        ("postgresql", "TIMESTAMP WITH TIME ZONE DEFAULT now()", f"{SPACED}%"),
        ("postgresql", "VARCHAR(50)", "____-__-__T__:__:__.______Z"),
    ],
)
def test_a_new_account_has_its_time_in_the_applications_own_form(
    webapp: Database, number: str, declared: str, stored: str
) -> None:
    adopt(webapp, f"CREATE TABLE accounts ({number}, created_at {declared})")
    if webapp.dialect == "postgresql":
        name = sa.make_url(webapp.url).database
        run(webapp, f"ALTER DATABASE {name} SET timezone = 'Asia/Kolkata'")
        database.close()

    made = account_store.create()

    assert made.created_at is not None
    assert abs((datetime.now(UTC) - made.created_at).total_seconds()) < 10
    assert account_store.find().items == [made]
    like = f"SELECT count(*) FROM accounts WHERE CAST(created_at AS VARCHAR) LIKE '{stored}'"
    assert rows(webapp, like) == [(1,)]


@pytest.mark.parametrize(
    ("dialect", "declared"),
    [
        *[("sqlite", declared) for declared in ("INTEGER", "REAL", "DATE", "NUMERIC(13, 3)")],
        *[("postgresql", declared) for declared in ("INTEGER", "NUMERIC(13, 3)")],
    ],
)
def test_a_time_that_is_none_is_the_applications_own_affair(
    webapp: Database, number: str, declared: str
) -> None:
    adopt(webapp, f"CREATE TABLE accounts ({number}, created_at {declared})")
    run(webapp, "INSERT INTO accounts (id, created_at) VALUES (7, 1763885580)")

    assert account_store.get_by_id(7) == Account(7)
    made = account_store.create()
    assert made == Account(made.id)
    assert rows(webapp, "SELECT created_at FROM accounts WHERE id <> 7") == [(None,)]


@on_sqlite
@pytest.mark.parametrize("value", ["x'00'", "'soon'", "''", "1.5", "NULL"])
def test_what_is_no_time_reads_as_none(webapp: Database, value: str) -> None:
    adopt(
        webapp,
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, email, created_at)",
        f"INSERT INTO accounts VALUES (1, 'ann@example.org', {value})",
    )

    assert account_store.get_by_id(1) == Account(1, "ann@example.org")
    assert account_store.find().items == [Account(1, "ann@example.org")]


@pytest.mark.parametrize(
    ("dialect", "columns", "missing"),
    [
        *[
            (dialect, columns, missing)
            for dialect, number in (
                ("sqlite", "id INTEGER PRIMARY KEY"),
                ("postgresql", "id SERIAL PRIMARY KEY"),
            )
            for columns, missing in (
                (f"{number}, email TEXT, name TEXT NOT NULL, plan INT NOT NULL", "name, plan"),
                (f"{number}, email TEXT, created_at INTEGER NOT NULL", "created_at"),
                ("uuid TEXT PRIMARY KEY, id INTEGER UNIQUE, email TEXT", "uuid"),
                ("id INTEGER UNIQUE, email TEXT", "id"),
            )
        ],
        ("sqlite", "id INTEGER PRIMARY KEY, email TEXT, created_at DATE NOT NULL", "created_at"),
        ("sqlite", "uuid TEXT NOT NULL PRIMARY KEY, id INT NOT NULL UNIQUE, email TEXT", "uuid"),
        ("sqlite", "id INT PRIMARY KEY, email TEXT", "id"),
        ("sqlite", "id BIGINT PRIMARY KEY, email TEXT", "id"),
    ],
)
def test_what_the_applications_table_needs_besides_is_named(
    webapp: Database, columns: str, missing: str
) -> None:
    adopt(webapp, f"CREATE TABLE accounts ({columns})")

    message = f"the web application's accounts need {missing}"
    with refused(webapp, RefusedError, Code.REFUSED, message):
        account_store.create("ann@example.org")


@on_sqlite
def test_an_email_that_the_applications_table_needs_is_named(webapp: Database) -> None:
    adopt(webapp, "CREATE TABLE accounts (id INTEGER PRIMARY KEY, email TEXT NOT NULL)")

    message = "the web application's accounts need email"
    with refused(webapp, RefusedError, Code.REFUSED, message):
        account_store.create()
    assert account_store.create("ann@example.org").email == "ann@example.org"


@pytest.mark.parametrize(
    ("dialect", "columns"),
    [
        (
            "sqlite",
            "id INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT UNIQUE,"
            " plan TEXT NOT NULL DEFAULT 'free', nick TEXT, twice INT GENERATED ALWAYS AS (2)",
        ),
        (
            "postgresql",
            "id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email TEXT UNIQUE,"
            " plan TEXT NOT NULL DEFAULT 'free', nick TEXT,"
            " twice INT NOT NULL GENERATED ALWAYS AS (2) STORED,"
            " place INT GENERATED BY DEFAULT AS IDENTITY",
        ),
    ],
)
def test_what_the_applications_table_fills_in_itself_is_not_needed(
    webapp: Database, columns: str
) -> None:
    adopt(webapp, f"CREATE TABLE accounts ({columns})")

    assert account_store.create("ann@example.org").id == 1
    assert rows(webapp, "SELECT plan, nick, twice FROM accounts") == [("free", None, 2)]


@pytest.mark.parametrize(
    ("dialect", "columns", "reason"),
    [
        (
            "sqlite",
            "id INTEGER PRIMARY KEY, email CHECK (email > 'x')",
            "CHECK constraint failed: email > 'x'",
        ),
        (
            "sqlite",
            "id BIGINT NOT NULL PRIMARY KEY, email",
            "NOT NULL constraint failed: accounts.id",
        ),
        (
            "postgresql",
            "id SERIAL PRIMARY KEY, email TEXT CONSTRAINT late CHECK (email > 'x')",
            'new row for relation "accounts" violates check constraint "late"',
        ),
        (
            "postgresql",
            "id SERIAL PRIMARY KEY, email VARCHAR(9)",
            "value too long for type character varying(9)",
        ),
    ],
)
def test_what_the_applications_table_refuses_is_refused(
    webapp: Database, columns: str, reason: str
) -> None:
    adopt(webapp, f"CREATE TABLE accounts ({columns})")

    message = f"the web application's accounts refuse it: {reason}"
    with refused(webapp, RefusedError, Code.REFUSED, message):
        account_store.create("ann@example.org")


@pytest.mark.parametrize(
    ("dialect", "statements"),
    [
        (
            "sqlite",
            [
                "CREATE TRIGGER closed BEFORE INSERT ON accounts"
                " BEGIN SELECT RAISE(ABORT, 'sign-up is closed'); END",
            ],
        ),
        (
            "postgresql",
            [
                "CREATE FUNCTION close() RETURNS trigger LANGUAGE plpgsql AS"
                " $$BEGIN RAISE EXCEPTION 'sign-up is closed'; END$$",
                "CREATE TRIGGER closed BEFORE INSERT ON accounts"
                " FOR EACH ROW EXECUTE FUNCTION close()",
            ],
        ),
    ],
)
def test_what_a_trigger_of_the_application_refuses_is_refused(
    webapp: Database, number: str, statements: list[str]
) -> None:
    adopt(webapp, f"CREATE TABLE accounts ({number}, email TEXT)", *statements)

    message = "the web application's accounts refuse it: sign-up is closed"
    with refused(webapp, RefusedError, Code.REFUSED, message):
        account_store.create("ann@example.org")


@pytest.mark.parametrize(
    ("dialect", "statements"),
    [
        ("sqlite", ["CREATE TABLE accounts (id INTEGER PRIMARY KEY, email TEXT COLLATE NOCASE)"]),
        (
            "postgresql",
            [
                "CREATE EXTENSION citext",
                "CREATE TABLE accounts (id SERIAL PRIMARY KEY, email CITEXT)",
            ],
        ),
    ],
)
def test_an_email_is_the_same_where_the_applications_table_says_so(
    webapp: Database, statements: list[str]
) -> None:
    if webapp.dialect == "postgresql":
        there = "SELECT 1 FROM pg_available_extensions WHERE name = 'citext'"
        if not rows(webapp, there):
            not_run("citext", "the server does not have it")
    adopt(webapp, *statements)
    ann = account_store.create("ann@example.org")

    assert account_store.get_by_email("ANN@example.org") == ann
    assert account_store.find(search="NN@E").items == [ann]
    with refused(webapp, ConflictError, Code.EXISTS):
        account_store.create("ANN@example.org")


@on_sqlite
def test_an_email_that_several_accounts_have_names_none_of_them(webapp: Database) -> None:
    adopt(
        webapp,
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, email TEXT)",
        # By this index SQLite comes upon the newest first.
        "CREATE INDEX by_email ON accounts (email, id DESC)",
        "INSERT INTO accounts VALUES (7, 'ann@example.org'), (3, 'ann@example.org'),"
        " (9, 'ann@example.org'), (1, 'bob@example.org')",
    )

    message = "accounts 3 and 7 have the email 'ann@example.org': give the id"
    with refused(webapp, ConflictError, Code.CONFLICT, message):
        account_store.get_by_email("ann@example.org")
    with refused(webapp, ConflictError, Code.EXISTS):
        account_store.create("ann@example.org")
    assert account_store.get_by_email("bob@example.org") == Account(1, "bob@example.org")
    assert account_store.get_by_id(7) == Account(7, "ann@example.org")


def test_an_application_may_index_its_accounts_as_it_likes(webapp: Database, number: str) -> None:
    adopt(webapp, f"CREATE TABLE accounts ({number}, email TEXT)")
    run(webapp, "CREATE UNIQUE INDEX by_email ON accounts (lower(email)) WHERE id > 0")

    assert account_store.create("ann@example.org").id == 1
    with refused(webapp, RefusedError, Code.REFUSED):
        account_store.create("ANN@example.org")


@on_sqlite
def test_an_account_without_an_id_is_none_of_ours(webapp: Database) -> None:
    adopt(
        webapp,
        "CREATE TABLE accounts (uuid TEXT PRIMARY KEY, id INTEGER UNIQUE, email TEXT)",
        "INSERT INTO accounts VALUES ('a', NULL, 'ann@example.org'), ('b', 2, 'bob@example.org')",
    )

    assert account_store.find().items == [Account(2, "bob@example.org")]
    assert account_store.get_by_email("ann@example.org") is None
    assert [balance.account_id for balance in balance_store.find().items] == [2]


@on_sqlite
def test_an_adopted_account_buys_like_any_other(webapp: Database) -> None:
    adopt(
        webapp,
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
        "INSERT INTO accounts VALUES (41, 'Ann')",
    )

    order_store.complete(order_store.create(41, "top_up", 500).id)

    assert balance_store.get_balance(41) == 500
    assert rows(webapp, "SELECT * FROM accounts") == [(41, "Ann", None)]


def test_a_column_that_appears_later_is_seen(webapp: Database, number: str) -> None:
    adopt(webapp, f"CREATE TABLE accounts ({number})")
    assert account_store.create() == Account(1)

    run(webapp, "ALTER TABLE accounts ADD COLUMN email TEXT")

    assert account_store.create("ann@example.org").email == "ann@example.org"
