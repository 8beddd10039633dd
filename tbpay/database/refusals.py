"""What a driver's error means: the world outside, in tbpay's own refusals."""

import re
import sqlite3

import sqlalchemy as sa

from tbpay.database.location import File, Location, Server
from tbpay.errors import Code, SchemaError, TbpayError, UnavailableError
from tbpay.schema import METADATA, REVISIONS, VERSION_TABLE

_COLLISIONS = {"40001", "40P01"}


def refusal(error: BaseException, location: Location) -> TbpayError | None:
    """Answer what a driver's error means; None where it means nothing to us."""
    original = getattr(error, "orig", None) or error
    if (extended := getattr(original, "sqlite_errorcode", None)) is not None:
        return _of_sqlite(extended, original, location)
    if isinstance(error, sa.exc.DBAPIError) and not isinstance(location, File):
        return _of_postgresql(error, location)
    return None


def _of_sqlite(extended: int, error: BaseException, location: Location) -> TbpayError | None:
    match extended & 0xFF:
        case sqlite3.SQLITE_BUSY if extended == sqlite3.SQLITE_BUSY_SNAPSHOT:
            changed = "another process has changed it since this unit began to read"
            return _unavailable(Code.BUSY, f"{location} is busy: {changed}")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return locked(location)
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return _unavailable(Code.DISK_FULL, f"the disk of {location} is full or failing")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return _unavailable(Code.READ_ONLY, f"{location} is read-only")
        case sqlite3.SQLITE_CANTOPEN if _is_absent(location):
            return missing(location)
        case sqlite3.SQLITE_CANTOPEN:
            return _unavailable(Code.UNREACHABLE, f"{location} cannot be opened")
        case sqlite3.SQLITE_NOTADB:
            return _unavailable(Code.NOT_A_DATABASE, f"{location} is not a SQLite database")
        case sqlite3.SQLITE_CORRUPT:
            return _damaged(location)
        case sqlite3.SQLITE_ERROR if _lacks_something_of_ours(str(error)):
            return _foreign(location, str(error))
    return None


def _of_postgresql(error: sa.exc.DBAPIError, location: Server) -> TbpayError | None:
    state, words = sqlstate(error), _first_line(error)
    # The driver has no word from the server, or the server's last.
    if error.connection_invalidated or (state is None and _is_of_the_connection(error)):
        return _unavailable(Code.UNREACHABLE, f"{location} cannot be reached: {words}")
    match state:
        case "55P03":
            return locked(location)
        case "40001" | "40P01":
            return _unavailable(
                Code.BUSY, f"{location} is busy: others changed the same things at the same time"
            )
        case "25P02":
            return undone(location)
        case "57014":
            return _unavailable(Code.BUSY, f"{location} is busy: {words}")
        case "53300":
            return _unavailable(Code.BUSY, f"{location} takes no more connections: {words}")
        case "53100" | "58030":
            return _unavailable(Code.DISK_FULL, f"the disk of {location} is full or failing")
        case "25006":
            return _unavailable(Code.READ_ONLY, f"{location} is read-only")
        case "42501":
            return _unavailable(Code.UNAVAILABLE, f"{location} does not allow it: {words}")
        case "53200":
            return _unavailable(Code.UNAVAILABLE, f"{location} cannot do it now: {words}")
        case "XX001" | "XX002":
            return _damaged(location)
        case "42P01" | "42703" if _is_about_our_tables(words):
            return _foreign(location, words)
    return None


def sqlstate(error: BaseException) -> str | None:
    """Read the five letters by which PostgreSQL names an error, whichever driver brings them."""
    original = getattr(error, "orig", None)
    known = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return known or _fields(original).get("C")


def _fields(original: BaseException | None) -> dict[str, str]:
    """Answer what PostgreSQL sent, by its own letters, where a driver hands that on (pg8000)."""
    sent = original.args[0] if original is not None and original.args else None
    return sent if isinstance(sent, dict) else {}


def is_collision(refusal: TbpayError) -> bool:
    """Tell a unit that would be kept if it were done again: a deadlock, or what came in between."""
    return refusal.__cause__ is not None and sqlstate(refusal.__cause__) in _COLLISIONS


def is_silence(error: sa.exc.DBAPIError) -> bool:
    """Tell the end of a connection from an answer; a SQLite file always has one."""
    if hasattr(error.orig, "sqlite_errorcode"):
        return False
    return error.connection_invalidated or sqlstate(error) in (None, "40003")


def _is_of_the_connection(error: sa.exc.DBAPIError) -> bool:
    """Tell an error of the line from one of a statement that never left this process."""
    return error.statement is None or isinstance(
        error, sa.exc.OperationalError | sa.exc.InterfaceError
    )


def _first_line(error: sa.exc.DBAPIError) -> str:
    """Answer what the driver or the server says, in one line; neither repeats a password."""
    said = _fields(error.orig).get("M") or str(error.orig)
    line = next(iter(said.splitlines()), "")
    # What comes before it is the driver's account of how it tried.
    tried = r"^(connection failed: |consuming input failed: )?(connection to server .*? failed: )?"
    line = re.sub(tried, "", line)
    return " ".join(re.sub(r"^[A-Z]+:\s+", "", line).split())


def _is_absent(location: Location) -> bool:
    """Tell a file that is not there from one that may not be looked for."""
    if isinstance(location, Server):
        return False
    try:
        location.path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def _lacks_something_of_ours(message: str) -> bool:
    """Tell a table or column of ours that is missing from the application's own mistakes."""
    missing = re.search(r"no such (?:table|column): (\w+)|table (\w+) has no column", message)
    return missing is not None and _is_about_our_tables(" ".join(filter(None, missing.groups())))


def _is_about_our_tables(words: str) -> bool:
    return bool({*re.findall(r"\w+", words)} & {VERSION_TABLE, *METADATA.tables})


def locked(location: Location) -> UnavailableError:
    """Say that somebody else has kept a lock for longer than we wait."""
    return _unavailable(Code.BUSY, f"{location} is busy: another process keeps it locked")


def undone(location: Location) -> UnavailableError:
    """Say that a statement failed and was passed over, after which PostgreSQL keeps nothing."""
    return _unavailable(
        Code.UNAVAILABLE,
        f"a statement failed in this unit of work: {location} can only take it back",
    )


def _damaged(location: Location) -> UnavailableError:
    return _unavailable(Code.CORRUPT, f"{location} is damaged: restore a backup")


def _unavailable(code: Code, message: str) -> UnavailableError:
    return UnavailableError(message, code=code)


def _foreign(location: Location, words: str) -> SchemaError:
    return SchemaError(f"the tables of {location} are not tbpay's: {words}")


def of_revision(found: str | None, location: Location) -> SchemaError | None:
    """Answer what is wrong with a database at a revision; None for the newest, which is right."""
    if found is None:
        return missing(location)
    if found in REVISIONS[:-1]:
        return SchemaError(
            f"{location} is at revision {found}, this tbpay needs {REVISIONS[-1]}",
            code=Code.SCHEMA_BEHIND,
            hint=location.command("db upgrade"),
        )
    return None if found == REVISIONS[-1] else ahead(found, location)


def missing(location: Location) -> SchemaError:
    """Say that a database holds no tables of ours, or is not there at all."""
    return SchemaError(
        f"no tbpay tables in {location}",
        code=Code.SCHEMA_MISSING,
        hint=location.command("db upgrade"),
    )


def ahead(found: str, location: Location) -> SchemaError:
    """Say that a database was migrated by a newer tbpay, or by something else."""
    return SchemaError(
        f"{location} is at revision {found}, which this tbpay does not know: update tbpay",
        code=Code.SCHEMA_AHEAD,
    )
