"""What every test stands on: an environment of its own, and real databases in it."""

import os
import subprocess
import sys
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import postgres
import pytest
import typer
from databases import Database, PostgresDatabase, SqliteDatabase
from postgres import NoPostgresError
from probes import NOT_RUN, not_run

from tbpay import database, migrations, settings
from tbpay.cli.root import app
from tbpay.database import beginning
from tbpay.stores import (
    account_store,
    audit_store,
    balance_store,
    discount_code_store,
    order_store,
)

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("tbpay", deadline=None)
hypothesis.settings.load_profile("tbpay")

ROOT = Path(__file__).resolve().parent.parent
# Hundreds of processes and migrations load the same modules, and so do the tests themselves: each
# is compiled once, also where the machine says that nothing is to be kept of that.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# As long as Stripe's are.
SESSION = "cs_test_" + "a1B2c3D4" * 7 + "Zz"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the harness and kills in full")


def pytest_configure(config: pytest.Config) -> None:
    if (memory := postgres.in_memory()) is not None and "TMPDIR" not in os.environ:
        # A file that is kept waits for its disk, and every test keeps some.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)
    for line in (
        "one_database: in the short form on SQLite alone, as it is decided before or after a"
        " database has its say",
        "every_database: on each all the same, in a module of which the rest is on one",
    ):
        config.addinivalue_line("markers", line)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    test = metafunc.definition
    if (
        "dialect" in metafunc.fixturenames
        and test.get_closest_marker("one_database")
        and not test.get_closest_marker("every_database")
        and not any("dialect" in mark.args[0] for mark in test.iter_markers("parametrize"))
        and not metafunc.config.getoption("--long")
    ):
        test.add_marker(pytest.mark.parametrize("dialect", ["sqlite"]))


def pytest_unconfigure() -> None:
    postgres.close()


# Every test that asks for a database runs on each of these; what is about PostgreSQL asks for it.
DIALECTS = ["sqlite", "postgresql"]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take away what the machine says, so that no test reads or writes a real database."""
    for name in [name for name in os.environ if name.startswith("TBPAY_")]:
        monkeypatch.delenv(name)
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    yield
    database.reset()
    settings.choose_database(None)


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    """Which database a test runs on: on each, unless its module or its own parameter says which."""
    chosen: str = request.param
    return chosen


@pytest.fixture(params=["wal", "delete", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """How it keeps what is written: for tests of the doors, whose ``dialect`` follows from it."""
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> "Templates":
    return Templates(tmp_path_factory.mktemp("templates"))


class Templates:
    """Databases to be copied, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cache  # noqa: B019 - it lives as long as the session
    def empty(self, dialect: str) -> Database:
        """At the newest revision, without a row."""
        new = new_database(dialect, self._folder / "empty.db")
        database.configure(new.url)
        migrations.upgrade()
        database.reset()
        return new

    @cache  # noqa: B019 - it lives as long as the session
    def filled(self, dialect: str, fill: Callable[[], None]) -> Database:
        """With what a function does in an empty one."""
        new = self.empty(dialect).copy(self._folder / f"{fill.__module__}-{fill.__name__}.db")
        database.configure(new.url)
        fill()
        database.reset()
        return new

    def asked_for(self, dialect: str, fixtures: Collection[str]) -> Database:
        """With the account that a test asks for, so that it is made once and not for each."""
        if "rich" in fixtures:
            return self.filled(dialect, a_rich_account)
        if "account" in fixtures:
            return self.filled(dialect, an_account)
        return self.empty(dialect)


def new_database(dialect: str, path: Path) -> Database:
    """Answer a database that nothing was done to; of a file not even the file is made."""
    if dialect == "sqlite":
        return SqliteDatabase(path)
    try:
        return PostgresDatabase.new()
    except NoPostgresError as error:
        not_run("postgresql", str(error))


@pytest.fixture
def db(
    request: pytest.FixtureRequest,
    dialect: str,
    templates: Templates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Database]:
    """An empty database at the newest revision, named by TBPAY_DATABASE_URL.

    What else a test asks for, ``account`` or ``rich``, is in it from the start.
    """
    template = templates.asked_for(dialect, request.fixturenames)
    yield from _chosen(template.lend(tmp_path / "tbpay.db"), monkeypatch)


@pytest.fixture
def sqlite_db(
    templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SqliteDatabase]:
    """The same, as a file, for tests that are about files."""
    made = templates.empty("sqlite").copy(tmp_path / "tbpay.db")
    assert isinstance(made, SqliteDatabase)
    yield from _chosen(made, monkeypatch)


@pytest.fixture
def blank(dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database with nothing in it, named by TBPAY_DATABASE_URL; of a file not even the file."""
    yield from _chosen(new_database(dialect, tmp_path / "new.db"), monkeypatch)


@pytest.fixture
def filled_by(
    dialect: str, templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[], None]], Database]]:
    """Answer a database as a function leaves an empty one, named by TBPAY_DATABASE_URL.

    The function runs once for all tests: each has a copy of what it made.
    """
    with ExitStack() as stack:

        def choose(fill: Callable[[], None]) -> Database:
            lent = templates.filled(dialect, fill).lend(tmp_path / "tbpay.db")
            return stack.enter_context(contextmanager(_chosen)(lent, monkeypatch))

        yield choose


@pytest.fixture
def shop(filled_by: Callable[[Callable[[], None]], Database]) -> Database:
    """A database with accounts, codes and orders in every state, named by TBPAY_DATABASE_URL.

    Ann, account 1, has 20.00: order 1 and a debit. Her order 2 is pending, holds a use of LAUNCH10
    and has the session ``SESSION``. Bob, account 2, has nothing: order 3 failed, 4 is pending.
    """
    return filled_by(stock)


D = TypeVar("D", bound=Database)


def _chosen(made: D, monkeypatch: pytest.MonkeyPatch) -> Iterator[D]:
    monkeypatch.setenv("TBPAY_DATABASE_URL", made.url)
    yield made
    database.close()
    if made.dialect != "sqlite":  # a file goes with its folder
        made.drop()


@pytest.fixture(scope="session")
def migrated(templates: Templates) -> Path:
    """One SQLite file at the newest revision, to be copied or compared with."""
    return Path(templates.empty("sqlite").url)


@pytest.fixture(scope="session")
def stocked(templates: Templates) -> Path:
    """One SQLite file in which every command finds something to do, to be copied."""
    return Path(templates.filled("sqlite", stock).url)


@pytest.fixture
def account(db: Database) -> int:  # noqa: ARG001 - it is in it
    """An account in ``db``, without a balance yet."""
    return 1


@pytest.fixture
def rich(account: int) -> int:
    """An account in ``db`` with 10.00."""
    return account


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds the database locked does not wait for long."""
    monkeypatch.setattr(beginning, "BUSY_SECONDS", 0.1)


def an_account() -> None:
    account_store.create("ann@example.org")


def a_rich_account() -> None:
    an_account()
    balance_store.add_credits(1, 1_000, "a gift")


def stock() -> None:
    ann = account_store.create("ann@example.org").id
    bob = account_store.create("bob@example.org").id
    discount_code_store.create("LAUNCH10", "percent", 10, max_uses=3)
    discount_code_store.create("RETIRED", "fixed", 500)
    discount_code_store.set_active("RETIRED", active=False)
    discount_code_store.create("GONE", "fixed", 500, max_uses=1)
    discount_code_store.increment_uses("GONE")
    order_store.create(ann, "initial_access", 2500)
    order_store.complete(1)
    balance_store.deduct(ann, 500, "sent twice")
    order_store.create(ann, "top_up", 2500, code="LAUNCH10", stripe_session_id=SESSION)
    order_store.create(bob, "top_up", 1000)
    order_store.fail(3)
    order_store.create(bob, "top_up", 1000)
    audit_store.record("order create", "order 1")
    audit_store.record("order complete", "order 1")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Say in the last line of all what was left out for want of something."""
    result = yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = terminal.stats.get("skipped", []) if terminal is not None else []
    reasons = [str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped]
    missing = {
        reason.removeprefix(NOT_RUN).partition(":")[0]
        for reason in reasons
        if reason.startswith(NOT_RUN)
    }
    if missing and terminal is not None:
        terminal.write_line(f"{NOT_RUN}{', '.join(sorted(missing))}")
    return result


def commands() -> Iterator[tuple[str, Any]]:
    """Walk the tree of commands: every verb by its full name."""
    root: Any = typer.main.get_command(app)
    for group, stub in root.commands.items():
        for verb in stub.list_commands(None):
            yield f"{group} {verb}", stub.get_command(None, verb)


def run_tbpay(
    *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run tbpay as a process of its own, without a terminal and without standard input."""
    return subprocess.run(
        [sys.executable, "-m", "tbpay", *arguments],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
    )
