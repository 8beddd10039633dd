"""Exit codes: each is produced by a real situation, says so in one line, and changes nothing."""

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import held, tbpay, unguarded
from conftest import DIALECTS, run_tbpay
from databases import Database
from probes import rows, run

from tbpay.cli.exits import EXIT_OF, Exit
from tbpay.database import beginning
from tbpay.errors import Code, TbpayError
from tbpay.migrations import HEAD
from tbpay.models import MAX_BALANCE_CENTS

Given = Callable[[Database], AbstractContextManager[object]]
SQLITE, POSTGRESQL = ("sqlite",), ("postgresql",)


@contextmanager
def as_it_is(_: Database) -> Iterator[None]:
    yield


def after(*statements: str) -> Given:
    """Somebody has been at the database before, behind the back of its guards."""

    @contextmanager
    def changed(db: Database) -> Iterator[None]:
        unguarded(db, *statements)
        yield

    return changed


def behind(revision: str) -> Given:
    """The guards stay where they are: where the tables are others, they have none."""

    @contextmanager
    def changed(db: Database) -> Iterator[None]:
        run(db, *revision.split(";"))
        yield

    return changed


def patched(offset: int, data: bytes) -> Given:
    """The file itself was written over."""

    @contextmanager
    def changed(db: Database) -> Iterator[None]:
        with Path(db.url).open("r+b") as file:
            file.seek(offset)
            file.write(data)
        yield

    return changed


def commands_before(*words: str) -> Given:
    """These were done before."""

    @contextmanager
    def changed(_: Database) -> Iterator[None]:
        assert [tbpay(each).code for each in words] == [0] * len(words)
        yield

    return changed


@contextmanager
def locked(db: Database) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, held(db):
        patch.setattr(beginning, "BUSY_SECONDS", 0.001)
        yield


@contextmanager
def gone(db: Database) -> Iterator[None]:
    """Nobody listens there."""
    os.environ["TBPAY_DATABASE_URL"] = NOBODYS
    yield
    os.environ["TBPAY_DATABASE_URL"] = db.url


NOBODYS = "postgresql://ann:s3cret@127.0.0.1:1/shop"


@contextmanager
def full(_: Database) -> Iterator[None]:
    """No file grows beyond a few bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def replaced_by_a_directory(db: Database) -> Iterator[None]:
    path = Path(db.url)
    path.rename(path.with_suffix(".aside"))
    path.mkdir()
    yield
    path.rmdir()
    path.with_suffix(".aside").rename(path)


@dataclass
class Situation:
    exit: Exit
    code: Code
    words: str
    message: str
    hint: str | None = None
    given: Given = as_it_is
    on: tuple[str, ...] = (*SQLITE, *POSTGRESQL)


CREDIT = "balance credit 1 --amount 5 --reason x --key the-key-of-it"
ORDER = "order create 1 --type top_up --amount 5 --key the-key-of-it --code"
ODD = "UPDATE orders SET status = 'odd'"
SITUATIONS = [
    Situation(
        Exit.UNFORESEEN,
        Code.UNFORESEEN,
        "order show 2",
        "unforeseen: ValueError: 'odd' is not a valid OrderStatus",
        "TBPAY_DEBUG=1 shows where",
        after("PRAGMA ignore_check_constraints=ON", ODD),
        SQLITE,
    ),
    Situation(
        Exit.UNFORESEEN,
        Code.UNFORESEEN,
        "order show 2",
        "unforeseen: ValueError: 'odd' is not a valid OrderStatus",
        "TBPAY_DEBUG=1 shows where",
        after("ALTER TABLE orders DROP CONSTRAINT ck_orders_status", ODD),
        POSTGRESQL,
    ),
    Situation(
        Exit.USAGE,
        Code.USAGE,
        "order list --nonsense",
        "no such option: --nonsense",
        "tbpay order list --help",
    ),
    Situation(Exit.USAGE, Code.INVALID, "order list --cursor x", "'x' is not a cursor of this"),
    Situation(Exit.NOT_FOUND, Code.NOT_FOUND, "order show 99", "no order 99"),
    Situation(Exit.NOT_FOUND, Code.UNKNOWN, "discount show NOPE", "no discount code 'NOPE'"),
    Situation(
        Exit.NOT_FOUND,
        Code.UNKNOWN,
        f"{ORDER} NOPE",
        "no discount code 'NOPE'",
    ),
    Situation(
        Exit.REFUSED,
        Code.REFUSED,
        "account create",
        "the web application's accounts need name",
        None,
        behind(
            "ALTER TABLE accounts RENAME TO old;CREATE TABLE accounts (id INTEGER PRIMARY KEY,"
            " name TEXT NOT NULL, stripe_customer_id TEXT)"
        ),
    ),
    Situation(
        Exit.REFUSED,
        Code.INSUFFICIENT_BALANCE,
        "balance debit 1 --amount 20.01 --reason x --key the-key-of-it",
        "account 1 has 20.00, which is less than 20.01",
    ),
    Situation(
        Exit.REFUSED,
        Code.BALANCE_LIMIT,
        CREDIT,
        "account 1 has 999999999.99: with 5.00 more it would pass 999999999.99",
        None,
        after(f"UPDATE account_balances SET balance_cents = {MAX_BALANCE_CENTS}"),
    ),
    Situation(
        Exit.REFUSED,
        Code.INACTIVE,
        "discount validate RETIRED",
        "discount code RETIRED is inactive",
    ),
    Situation(Exit.REFUSED, Code.USED_UP, f"{ORDER} gone", "discount code GONE is used up"),
    Situation(
        Exit.REFUSED,
        Code.NOT_STARTED,
        f"{ORDER} new",
        "discount code NEW starts at 2999-01-01T00:00:00.000000Z",
        None,
        commands_before("discount create NEW --percent 10 --starts 2999-01-01"),
    ),
    Situation(
        Exit.REFUSED,
        Code.EXPIRED,
        f"{ORDER} old",
        "discount code OLD ended at 2020-01-01T00:00:00.000000Z",
        None,
        commands_before("discount create OLD --percent 10 --ends 2020-01-01T00:00Z"),
    ),
    Situation(
        Exit.REFUSED,
        Code.BELOW_MINIMUM,
        f"{ORDER} big",
        "discount code BIG is for orders of 20.00 or more, not of 5.00",
        None,
        commands_before("discount create BIG --percent 10 --min-amount 20"),
    ),
    Situation(
        Exit.REFUSED,
        Code.BELOW_STRIPE_MINIMUM,
        f"{ORDER} most",
        "5.00 with discount code MOST is 0.25, and Stripe charges no less than 0.50",
        None,
        commands_before("discount create MOST --percent 95"),
    ),
    Situation(
        Exit.REFUSED,
        Code.ACCOUNT_LIMIT,
        f"{ORDER} once",
        "account 1 has taken discount code ONCE 1 time, which is its limit",
        None,
        commands_before(
            "discount create ONCE --percent 10 --per-account 1",
            "order create 1 --type top_up --amount 5 --code ONCE",
        ),
    ),
    Situation(
        Exit.REFUSED, Code.UNPRICED, "pricing quote +4915123456789 --strict", "no price for DE"
    ),
    Situation(
        Exit.CONFLICT,
        Code.CONFLICT,
        "order complete 3",
        "order 3 has failed: only a late payment completes it",
        "tbpay order complete 3 --payment-intent pi_…",
    ),
    Situation(
        Exit.CONFLICT,
        Code.EXISTS,
        "discount create launch10 --percent 5",
        "discount code LAUNCH10 exists already",
    ),
    Situation(
        Exit.CONFLICT,
        Code.KEY_REUSED,
        CREDIT,
        "the key 'the-key-of-it' was used for something else: a debit of 5.00, account 1",
        None,
        commands_before(CREDIT.replace("credit", "debit")),
    ),
    Situation(Exit.UNAVAILABLE, Code.BUSY, CREDIT, "{database} is busy: ", None, locked),
    Situation(
        Exit.UNAVAILABLE,
        Code.DISK_FULL,
        CREDIT,
        "the disk of {database} is full or failing",
        None,
        full,
        SQLITE,
    ),
    # A file whose header says that a newer SQLite alone may write it.
    Situation(
        Exit.UNAVAILABLE,
        Code.READ_ONLY,
        CREDIT,
        "{database} is read-only",
        None,
        patched(18, b"\x03\x01"),
        SQLITE,
    ),
    Situation(
        Exit.UNAVAILABLE,
        Code.READ_ONLY,
        CREDIT,
        "{database} is read-only",
        None,
        after(
            "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on',"
            " current_database()); END$$"
        ),
        POSTGRESQL,
    ),
    Situation(
        Exit.UNAVAILABLE,
        Code.UNREACHABLE,
        "order list",
        "{database} cannot be opened",
        None,
        replaced_by_a_directory,
        SQLITE,
    ),
    Situation(
        Exit.UNAVAILABLE,
        Code.UNREACHABLE,
        "order list",
        "postgresql://ann:***@127.0.0.1:1/shop (TBPAY_DATABASE_URL) cannot be reached: ",
        None,
        gone,
        POSTGRESQL,
    ),
    Situation(
        Exit.UNAVAILABLE,
        Code.CORRUPT,
        "order list --all",
        "{database} is damaged: restore a backup",
        None,
        patched(4096, b"\xff" * 4096 * 9),
        SQLITE,
    ),
    Situation(
        Exit.UNAVAILABLE,
        Code.CORRUPT,
        CREDIT,
        "the trail of account 1 does not lead to its balance: nothing was written",
        "tbpay ledger verify --account 1",
        after("UPDATE account_balances SET balance_cents = 1999 WHERE account_id = 1"),
    ),
    Situation(
        Exit.UNAVAILABLE,
        Code.NOT_A_DATABASE,
        "order list",
        "{database} is not a SQLite database",
        None,
        patched(0, b"not a database"),
        SQLITE,
    ),
    Situation(
        Exit.SCHEMA,
        Code.SCHEMA_MISSING,
        "order list",
        "no tbpay tables in {database}",
        "tbpay db upgrade",
        behind("DROP TABLE tbpay_alembic_version"),
    ),
    Situation(
        Exit.SCHEMA,
        Code.SCHEMA_BEHIND,
        "order list",
        f"{{database}} is at revision 0002, this tbpay needs {HEAD}",
        "tbpay db upgrade",
        behind("UPDATE tbpay_alembic_version SET version_num = '0002'"),
    ),
    Situation(
        Exit.SCHEMA,
        Code.SCHEMA_AHEAD,
        "order list",
        "{database} is at revision 9999, which this tbpay does not know: update tbpay",
        None,
        behind("UPDATE tbpay_alembic_version SET version_num = '9999'"),
    ),
    Situation(
        Exit.SCHEMA,
        Code.SCHEMA_FOREIGN,
        "order list",
        "the tables of {database} are not tbpay's: no such column: orders.status",
        None,
        behind("ALTER TABLE orders RENAME COLUMN status TO state"),
        SQLITE,
    ),
    Situation(
        Exit.SCHEMA,
        Code.SCHEMA_FOREIGN,
        "order list",
        "the tables of {database} are not tbpay's: column orders.status does not exist",
        None,
        behind("ALTER TABLE orders RENAME COLUMN status TO state"),
        POSTGRESQL,
    ),
    Situation(
        Exit.UNCONFIRMED,
        Code.CONFIRMATION_NEEDED,
        "order fail 2 4",
        "fail 2 orders needs a yes: repeat with --yes",
    ),
    Situation(
        Exit.UNCONFIRMED,
        Code.DECLINED,
        "db downgrade base --confirm 0001",
        "not confirmed: nothing was changed",
    ),
]  # fmt: skip - a table
# What is at home in the tests of streams and signals, which need a process of their own, and of
# what nobody can say.
ELSEWHERE = {Code.UNAVAILABLE, Code.OUTPUT, Code.INTERRUPTED, Code.TERMINATED, Code.OUTCOME_UNKNOWN}


@pytest.mark.parametrize(
    ("situation", "dialect"),
    [(it, dialect) for it in SITUATIONS for dialect in it.on if dialect in DIALECTS],
    ids=lambda it: it if isinstance(it, str) else it.code,
)
def test_a_refusal_is_a_line_and_an_exit_code_and_changes_nothing(
    situation: Situation, shop: Database
) -> None:
    message = situation.message.format(database=f"{shop} (TBPAY_DATABASE_URL)")

    with situation.given(shop):
        before = contents(shop)
        plain = tbpay(situation.words)
        as_json = tbpay(f"{situation.words} --json")
        assert contents(shop) == before

    assert (plain.code, plain.out) == (situation.exit, "")
    assert "s3cret" not in plain.err + as_json.err
    first, *others = plain.err.splitlines()
    assert first.startswith(f"error: {message}")
    assert others == ([f"hint: {situation.hint}"] if situation.hint else [])
    assert (as_json.code, as_json.out) == (situation.exit, "")
    assert len(as_json.err.splitlines()) == 1
    assert as_json.error == {
        "code": situation.code,
        "exit": situation.exit,
        "message": first.removeprefix("error: "),
        "hint": situation.hint,
    }


def contents(db: Database) -> bytes | list[str]:
    """Answer a file as it is: many of these are no database any more."""
    if db.dialect == "postgresql":
        return db.dump()
    path = Path(db.url)
    return path.read_bytes() if path.is_file() else b""


def test_every_code_is_produced_by_a_real_situation() -> None:
    assert {it.code for it in SITUATIONS} == set(Code) - ELSEWHERE


def test_every_exit_code_is_produced_by_a_real_situation() -> None:
    stopped = {Exit.INTERRUPTED, Exit.PIPE_CLOSED, Exit.TERMINATED}

    elsewhere = stopped | {Exit.DONE, Exit.DIFFERENCES, Exit.UNKNOWN}
    assert {it.exit for it in SITUATIONS} == set(Exit) - elsewhere


def test_every_kind_of_refusal_has_an_exit_code() -> None:
    assert set(EXIT_OF) == set(TbpayError.__subclasses__())
    produced = {it.exit for it in SITUATIONS if it.code is not Code.UNFORESEEN}
    assert produced | {Exit.UNKNOWN} == set(EXIT_OF.values())


def test_a_check_that_found_differences_has_answered(shop: Database) -> None:
    run(shop, "DROP INDEX ix_orders_account_id")

    answer = tbpay("db check --json")

    assert answer.code == 8
    assert answer.items == [
        {"table": "orders", "difference": "index ix_orders_account_id is missing"}
    ]
    assert tbpay("db check").code == 8


# Names and hints


def test_a_database_is_named_with_where_its_name_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = tmp_path / "data" / "tbpay" / "tbpay.db"
    named = tmp_path / "named.db"

    assert tbpay("balance show").err == (
        f"error: no tbpay tables in {default} (the default; TBPAY_DATABASE_URL is not set)\n"
        "hint: tbpay db upgrade\n"
    )
    monkeypatch.setenv("TBPAY_DATABASE_URL", f"sqlite:///{named}")
    assert tbpay("balance show").err == (
        f"error: no tbpay tables in {named} (TBPAY_DATABASE_URL)\nhint: tbpay db upgrade\n"
    )
    assert tbpay(f"balance show --database '{named} 2'").err == (
        f"error: no tbpay tables in {named} 2 (--database)\n"
        f"hint: tbpay db upgrade --database '{named} 2'\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", None])
def test_an_empty_file_has_none_of_our_tables(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    if content is None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY)")
    else:
        path.write_bytes(content)

    answer = tbpay(f"order list --json --database {path}")

    assert (answer.code, answer.error["code"]) == (7, Code.SCHEMA_MISSING)
    assert answer.error["hint"] == f"tbpay db upgrade --database {path}"


@pytest.mark.parametrize(
    "name", ["/dev/null", "/etc/passwd/x.db", "/no/such/dir/x.db", "~nobody-of-that-name/x.db"]
)
def test_an_odd_path_is_no_traceback(name: str) -> None:
    for words in ("order list", "db status", "db check", "db upgrade"):
        answer = tbpay(f"{words} --json --database '{name}'")

        assert answer.code in (0, 2, 6, 7), words
        assert answer.code == 0 or name.split("/")[1] in answer.error["message"]


def test_a_hint_is_a_command_that_helps(tmp_path: Path) -> None:
    path = tmp_path / "new shop.db"
    refused = tbpay(f"order list --json --database '{path}'")

    helped = tbpay(refused.error["hint"].removeprefix("tbpay "))

    assert helped.code == 0
    assert tbpay(f"order list --database '{path}'").code == 0


# Tracebacks


HIDDEN = "UPDATE orders SET status = '\x1b[2J'"
UNRULED = {
    "sqlite": "PRAGMA ignore_check_constraints=ON",
    "postgresql": "ALTER TABLE orders DROP CONSTRAINT ck_orders_status",
}


@pytest.mark.parametrize("debug", ["", "0"])
def test_without_debugging_there_is_no_traceback(debug: str, shop: Database) -> None:
    unguarded(shop, UNRULED[shop.dialect], HIDDEN)

    done = run_tbpay("order", "show", "2", env={"TBPAY_DEBUG": debug})

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        r"error: unforeseen: ValueError: '\x1b[2J' is not a valid OrderStatus"
        "\nhint: TBPAY_DEBUG=1 shows where\n"
    )


ODDLY_REFUSED = {
    "sqlite": "CREATE TRIGGER odd BEFORE INSERT ON transactions"
    " BEGIN SELECT RAISE(ABORT, 'odd\x1b'); END",
    "postgresql": 'ALTER TABLE transactions ADD CONSTRAINT "odd\x1b" CHECK (false) NOT VALID',
}


def test_debugging_shows_where_and_no_parameter_of_a_statement(
    shop: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shop, ODDLY_REFUSED[shop.dialect])
    monkeypatch.setenv("TBPAY_DEBUG", "1")
    words = "balance credit 1 --amount 777.77 --reason s3cret --key the-key-of-it"

    plain = tbpay(words)
    as_json = tbpay(f"{words} --json")

    for answer in (plain, as_json):
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith("Traceback (most recent call last):\n")
        assert "balances.py" in answer.err
        assert "s3cret" not in answer.err
        assert "77777" not in answer.err
        assert "\x1b" not in answer.err
    last = plain.err.splitlines()[-1]
    assert last.startswith("error: unforeseen: IntegrityError: (")
    assert "odd\\x1b" in last
    assert as_json.error["code"] == Code.UNFORESEEN


def test_debugging_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPAY_DEBUG", "1")
    monkeypatch.setenv("TBPAY_DATABASE_URL", "mysql://ann:s3cret@db/shop")

    answer = tbpay("db upgrade postgresql://ann:s3cret@db/shop")

    assert answer.code == 2
    assert "Traceback" in answer.err
    assert "s3cret" not in answer.err


# Who


@pytest.mark.parametrize("actor", ["\udcff", "   ", "\u200b", "x" * 256])
def test_an_actor_that_is_no_text_is_bad_input(
    actor: str, shop: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TBPAY_ACTOR", actor)

    answer = tbpay(f"{CREDIT} --json")

    assert (answer.code, answer.out) == (2, "")
    assert answer.error["message"].startswith("TBPAY_ACTOR: the actor ")
    assert rows(shop, "SELECT count(*) FROM transactions") == [(2,)]


@pytest.mark.usefixtures("shop")
def test_without_a_setting_the_actor_is_who_is_logged_in() -> None:
    tbpay(CREDIT)

    [newest] = tbpay("audit list --limit 1 --json").items
    assert newest["actor"]
    assert newest["host"] == os.uname().nodename
