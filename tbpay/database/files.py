"""The SQLite file itself: made once, private; copied whole before a migration touches its rows."""

import os
import shutil
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from tbpay.database.engines import BUSY_SECONDS
from tbpay.database.location import DEFAULT_SOURCE, Location
from tbpay.errors import Code, UnavailableError

KEPT_BACKUPS = 5


def create_missing(location: Location) -> bool:
    """Make the database file where there is none: readable by its owner alone, in WAL mode.

    Tells whether it was made. The default's directory is made too; another one is not, since a
    directory that is missing there is more likely misspelt. Raises UnavailableError.
    """
    if location.path.exists():
        return False
    if location.source == DEFAULT_SOURCE:
        location.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(location.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return False
    except OSError as error:
        raise UnavailableError(
            f"{location} cannot be made: {error.strerror}", code=Code.UNREACHABLE
        ) from error
    _set_wal(location.path)
    return True


def _set_wal(path: Path) -> None:
    """Switch to WAL, which another process that opens the file just now can hold up a moment."""
    deadline = time.monotonic() + BUSY_SECONDS
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def back_up(location: Location) -> Path:
    """Copy the database, as it was last committed, into a file beside it, and answer its name.

    The copy is readable by its owner alone. Raises UnavailableError where the disk has no room.
    """
    path = location.path
    size, free = path.stat().st_size, shutil.disk_usage(path.parent).free
    if free < size:
        raise UnavailableError(
            f"no room for a backup beside {location}: {size:,} bytes are needed, {free:,} are free",
            code=Code.DISK_FULL,
        )
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    backup = path.with_name(f"{path.name}.backup-{stamp}")
    try:
        os.close(os.open(backup, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with (
            closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(backup)) as target,
        ):
            source.backup(target)
    except (OSError, sqlite3.Error) as error:
        backup.unlink(missing_ok=True)
        raise UnavailableError(
            f"no backup could be made beside {location}: {error}", code=Code.DISK_FULL
        ) from error
    return backup


def forget_old_backups(location: Location) -> None:
    """Keep the newest five backups beside a database and delete the older ones."""
    beside = location.path.parent.glob(f"{_literal(location.path.name)}.backup-*Z")
    for old in sorted(beside)[:-KEPT_BACKUPS]:
        old.unlink(missing_ok=True)


def _literal(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
