"""Exit codes: each is produced by a real situation, says so in one line, and changes nothing."""

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import tbpay
from conftest import run_tbpay
from probes import rows, run

from tbpay.cli.exits import EXIT_OF, Exit
from tbpay.database import engines
from tbpay.errors import Code, TbpayError
from tbpay.models import MAX_BALANCE_CENTS

Given = Callable[[Path], AbstractContextManager[object]]


@contextmanager
def as_it_is(_: Path) -> Iterator[None]:
    yield


def after(*statements: str) -> Given:
    """Somebody has been at the database before."""

    @contextmanager
    def changed(path: Path) -> Iterator[None]:
        run(path, *statements)
        yield

    return changed


def patched(offset: int, data: bytes) -> Given:
    """The file itself was written over."""

    @contextmanager
    def changed(path: Path) -> Iterator[None]:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)
        yield

    return changed


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        before, engines.BUSY_SECONDS = engines.BUSY_SECONDS, 0
        try:
            yield
        finally:
            engines.BUSY_SECONDS = before


@contextmanager
def full(_: Path) -> Iterator[None]:
    """No file grows beyond a few bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def replaced_by_a_directory(path: Path) -> Iterator[None]:
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


CREDIT = "balance credit 1 --amount 5 --reason x"
SITUATIONS = [
    Situation(
        Exit.UNFORESEEN,
        Code.UNFORESEEN,
        "order show 2",
        "unforeseen: ValueError: 'odd' is not a valid OrderStatus",
        "TBPAY_DEBUG=1 shows where",
        after("PRAGMA ignore_check_constraints=ON", "UPDATE orders SET status = 'odd'"),
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
        "order create 1 --type top_up --amount 5 --code NOPE",
        "no discount code 'NOPE'",
    ),
    Situation(
        Exit.REFUSED,
        Code.REFUSED,
        "account create",
        "the web application's accounts need name",
        None,
        after(
            "ALTER TABLE accounts RENAME TO old",
            "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT NOT NULL,"
            " stripe_customer_id TEXT)",
        ),
    ),
    Situation(
        Exit.REFUSED,
        Code.INSUFFICIENT_BALANCE,
        "balance debit 1 --amount 20.01 --reason x",
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
    Situation(
        Exit.REFUSED,
        Code.USED_UP,
        "order create 1 --type top_up --amount 5 --code gone",
        "discount code GONE is used up",
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
    Situation(Exit.UNAVAILABLE, Code.BUSY, CREDIT, "{database} is busy: ", None, locked),
    Situation(
        Exit.UNAVAILABLE,
        Code.DISK_FULL,
        CREDIT,
        "the disk of {database} is full or failing",
        None,
        full,
    ),
    # A file whose header says that a newer SQLite alone may write it.
    Situation(
        Exit.UNAVAILABLE,
        Code.READ_ONLY,
        CREDIT,
        "{database} is read-only",
        None,
        patched(18, b"\x03\x01"),
    ),
    Situation(
        Exit.UNAVAILABLE,
        Code.UNREACHABLE,
        "order list",
        "{database} cannot be opened",
        None,
        replaced_by_a_directory,
    ),
    Situation(
        Exit.UNAVAILABLE,
        Code.CORRUPT,
        "order list --all",
        "{database} is damaged: restore a backup",
        None,
        patched(4096, b"\xff" * 4096 * 9),
    ),
    Situation(
        Exit.UNAVAILABLE,
        Code.NOT_A_DATABASE,
        "order list",
        "{database} is not a SQLite database",
        None,
        patched(0, b"not a database"),
    ),
    Situation(
        Exit.SCHEMA,
        Code.SCHEMA_MISSING,
        "order list",
        "no tbpay tables in {database}",
        "tbpay db upgrade",
        after("DROP TABLE tbpay_alembic_version"),
    ),
    Situation(
        Exit.SCHEMA,
        Code.SCHEMA_BEHIND,
        "order list",
        "{database} is at revision 0002, this tbpay needs 0003",
        "tbpay db upgrade",
        after("UPDATE tbpay_alembic_version SET version_num = '0002'"),
    ),
    Situation(
        Exit.SCHEMA,
        Code.SCHEMA_AHEAD,
        "order list",
        "{database} is at revision 9999, which this tbpay does not know: update tbpay",
        None,
        after("UPDATE tbpay_alembic_version SET version_num = '9999'"),
    ),
    Situation(
        Exit.SCHEMA,
        Code.SCHEMA_FOREIGN,
        "order list",
        "the tables of {database} are not tbpay's: no such column: orders.status",
        None,
        after("ALTER TABLE orders RENAME COLUMN status TO state"),
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
# What is at home in the tests of streams and signals, which need a process of their own.
ELSEWHERE = {Code.UNAVAILABLE, Code.OUTPUT, Code.INTERRUPTED, Code.TERMINATED}


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda it: it.code)
def test_a_refusal_is_a_line_and_an_exit_code_and_changes_nothing(
    situation: Situation, shop: Path
) -> None:
    message = situation.message.format(database=f"{shop} (TBPAY_DATABASE_URL)")

    with situation.given(shop):
        before = contents(shop)
        plain = tbpay(situation.words)
        as_json = tbpay(f"{situation.words} --json")
        assert contents(shop) == before

    assert (plain.code, plain.out) == (situation.exit, "")
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


def contents(path: Path) -> bytes:
    """Answer the file as it is: many of these are no database any more."""
    return path.read_bytes() if path.is_file() else b""


def test_every_code_is_produced_by_a_real_situation() -> None:
    assert {it.code for it in SITUATIONS} == set(Code) - ELSEWHERE


def test_every_exit_code_is_produced_by_a_real_situation() -> None:
    stopped = {Exit.INTERRUPTED, Exit.PIPE_CLOSED, Exit.TERMINATED}

    assert {it.exit for it in SITUATIONS} == set(Exit) - stopped - {Exit.DONE, Exit.DIFFERENCES}


def test_every_kind_of_refusal_has_an_exit_code() -> None:
    assert set(EXIT_OF) == set(TbpayError.__subclasses__())
    assert {it.exit for it in SITUATIONS if it.code is not Code.UNFORESEEN} == set(EXIT_OF.values())


def test_a_check_that_found_differences_has_answered(shop: Path) -> None:
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


@pytest.mark.parametrize("debug", ["", "0"])
def test_without_debugging_there_is_no_traceback(debug: str, shop: Path) -> None:
    run(shop, "PRAGMA ignore_check_constraints=ON", "UPDATE orders SET status = char(27) || '[2J'")

    done = run_tbpay("order", "show", "2", env={"TBPAY_DEBUG": debug})

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        r"error: unforeseen: ValueError: '\x1b[2J' is not a valid OrderStatus"
        "\nhint: TBPAY_DEBUG=1 shows where\n"
    )


def test_debugging_shows_where_and_no_parameter_of_a_statement(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(
        shop,
        "CREATE TRIGGER odd BEFORE INSERT ON transactions"
        " BEGIN SELECT RAISE(ABORT, 'odd\x1b'); END",
    )
    monkeypatch.setenv("TBPAY_DEBUG", "1")

    plain = tbpay("balance credit 1 --amount 777.77 --reason s3cret")
    as_json = tbpay("balance credit 1 --amount 777.77 --reason s3cret --json")

    for answer in (plain, as_json):
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith("Traceback (most recent call last):\n")
        assert "balances.py" in answer.err
        assert "s3cret" not in answer.err
        assert "77777" not in answer.err
        assert "\x1b" not in answer.err
    assert plain.err.endswith(
        "\nerror: unforeseen: IntegrityError: (sqlite3.IntegrityError) odd\\x1b\n"
    )
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
    actor: str, shop: Path, monkeypatch: pytest.MonkeyPatch
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
