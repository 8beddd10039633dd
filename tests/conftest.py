"""What every test stands on: an environment of its own, and real databases in it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbpay import database, migrations

ROOT = Path(__file__).resolve().parent.parent


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
