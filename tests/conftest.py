"""What every test stands on: an environment of its own, and real databases in it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import typer

from tbpay import database, migrations, settings
from tbpay.cli.root import app
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
# As long as Stripe's are.
SESSION = "cs_test_" + "a1B2c3D4" * 7 + "Zz"


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


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database at the newest revision, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "tbpay.db"
    database.configure(str(path))
    migrations.upgrade()
    database.reset()
    return path


@pytest.fixture
def db(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty database at the newest revision, named by TBPAY_DATABASE_URL."""
    path = tmp_path / "tbpay.db"
    shutil.copy(migrated, path)
    monkeypatch.setenv("TBPAY_DATABASE_URL", str(path))
    return path


@pytest.fixture(scope="session")
def stocked(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database in which every command finds something to do, to be copied."""
    path = tmp_path_factory.mktemp("stocked") / "tbpay.db"
    shutil.copy(migrated, path)
    database.configure(str(path))
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
    database.reset()
    return path


@pytest.fixture
def shop(stocked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with accounts, codes and orders in every state, named by TBPAY_DATABASE_URL.

    Ann, account 1, has 20.00: order 1 and a debit. Her order 2 is pending, holds a use of LAUNCH10
    and has the session ``SESSION``. Bob, account 2, has nothing: order 3 failed, 4 is pending.
    """
    path = tmp_path / "tbpay.db"
    shutil.copy(stocked, path)
    monkeypatch.setenv("TBPAY_DATABASE_URL", str(path))
    return path


@pytest.fixture
def account(db: Path) -> int:  # noqa: ARG001 - the account is made in it
    """An account in ``db``, without a balance yet."""
    return account_store.create("ann@example.org").id


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
