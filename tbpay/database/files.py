"""The SQLite file itself: made once, private; copied whole before a migration touches its rows."""

import errno
import os
import re
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from tbpay.database import beginning
from tbpay.database.engines import translated
from tbpay.database.location import DEFAULT_SOURCE, File
from tbpay.errors import Code, UnavailableError

KEPT_BACKUPS = 5

# Fixed width, so that the order of the names is the order of the times.
_STAMP = "%Y%m%dT%H%M%S.%fZ"
_STAMP_PATTERN = r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z"


def is_blank(location: File) -> bool:
    """Tell whether there is no database yet: no file, or one without a single byte."""
    return not location.exists or location.path.stat().st_size == 0


def create(location: File) -> None:
    """Make the database file: readable by its owner alone, in WAL mode.

    The default's directory is made too; another one is not, since a directory that is missing
    there is more likely misspelt. A file that is there without a byte in it keeps its owner and
    mode, and has no journal mode yet. Raises UnavailableError.
    """
    try:
        if location.source == DEFAULT_SOURCE:
            location.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            _make_private(location.path)
        if not location.exists:
            raise UnavailableError(
                f"{location} is a link to a file that is not there", code=Code.UNREACHABLE
            )
        with translated(location):
            _set_wal(location.path)
    except OSError as error:
        raise _impossible(f"{location} cannot be made", location.path, error) from error


def back_up(location: File) -> Path:
    """Copy the database, as it was last committed, into a file beside it, and answer its name.

    To be called by the one writer alone. The copy is readable by its owner alone and gets its
    name when it is complete. Raises UnavailableError, for want of room too.
    """
    path = location.path
    backup = path.with_name(f"{path.name}.backup-{datetime.now(UTC).strftime(_STAMP)}")
    unfinished = path.with_name(f"{path.name}.backup-unfinished")
    try:
        _make_room(location)
        _forget(unfinished)  # an earlier one was killed
        _make_private(unfinished)
        with translated(location):
            _copy(path, unfinished)
        unfinished.rename(backup)
    except OSError as error:
        what = f"no backup can be made beside {location}"
        raise _impossible(what, unfinished, error) from error
    finally:
        with suppress(OSError):
            _forget(unfinished)
    return backup


def forget_old_backups(location: File) -> None:
    """Keep the newest five backups beside a database and delete the older ones."""
    ours = re.compile(re.escape(location.path.name) + r"\.backup-" + _STAMP_PATTERN)
    # The migration is done: a copy too many is no reason to say that it failed.
    with suppress(OSError):
        beside = [path for path in location.path.parent.iterdir() if ours.fullmatch(path.name)]
        for old in sorted(beside)[:-KEPT_BACKUPS]:
            old.unlink()


def _make_private(path: Path) -> None:
    """Make an empty file of our own: O_EXCL follows no link that somebody left at the name."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _set_wal(path: Path) -> None:
    """Switch to WAL, which another process that opens the file just now can hold up a moment."""
    deadline = time.monotonic() + beginning.BUSY_SECONDS
    name = f"{path.as_uri()}?mode=rw"
    with closing(sqlite3.connect(name, uri=True, timeout=beginning.BUSY_SECONDS)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def _make_room(location: File) -> None:
    """Refuse while nothing is begun, rather than fill the disk that the database writes to."""
    log = location.path.with_name(f"{location.path.name}-wal")
    needed = sum(path.stat().st_size for path in (location.path, log) if path.exists())
    free = shutil.disk_usage(location.path.parent).free
    if free < needed:
        raise UnavailableError(
            f"no room for a backup beside {location}:"
            f" {needed:,} bytes are needed, {free:,} are free",
            code=Code.DISK_FULL,
        )


def _copy(path: Path, copy: Path) -> None:
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


def _forget(unfinished: Path) -> None:
    for path in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
        path.unlink(missing_ok=True)


def _impossible(what: str, path: Path, error: OSError) -> UnavailableError:
    if error.errno == errno.ENOENT:
        why = f"there is no directory {path.parent}"
        return UnavailableError(f"{what}: {why}", code=Code.UNREACHABLE)
    code = Code.UNREACHABLE
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        code = Code.DISK_FULL
    elif error.errno == errno.EROFS:
        code = Code.READ_ONLY
    return UnavailableError(f"{what}: {error.strerror}", code=code)
