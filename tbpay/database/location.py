"""Which database: never a guess, always nameable, never showing a password."""

import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from tbpay import settings
from tbpay.errors import InvalidInputError, excerpt

DEFAULT_SOURCE = "the default; TBPAY_DATABASE_URL is not set"


@dataclass(frozen=True)
class Location:
    """A SQLite file, and who named it."""

    path: Path
    source: str

    def __str__(self) -> str:
        """Name the database and where its name came from, as every message does."""
        return f"{self.path} ({self.source})"

    @property
    def exists(self) -> bool:
        """Tell whether there is a file of that name that can be seen."""
        # Path.exists raises for a name that is too long or in a directory that is closed to us.
        return os.path.exists(self.path)  # noqa: PTH110

    @property
    def url(self) -> sa.URL:
        """The URL that opens the file and never creates it."""
        name = "file:" + quote(bytes(self.path))
        return sa.URL.create("sqlite", database=name, query={"mode": "rw", "uri": "true"})

    def command(self, words: str) -> str:
        """Spell a tbpay command that works on this same database."""
        flag = f" --database {shlex.quote(str(self.path))}" if self.source == "--database" else ""
        return f"tbpay {words}{flag}"


def locate(given: str | None = None, source: str = "configure()") -> Location:
    """Find the database: what was given, else ``--database``, ``TBPAY_DATABASE_URL``, the default.

    ``given`` is a path or a URL. Raises InvalidInputError for what is neither.
    """
    if given is not None:
        return Location(_file(given), source)
    if (flag := settings.chosen_database()) is not None:
        return Location(_file(flag), "--database")
    if (from_environment := settings.from_environment().database_url) is not None:
        return Location(_file(from_environment), "TBPAY_DATABASE_URL")
    return Location(default_path(), DEFAULT_SOURCE)


def default_path() -> Path:
    """The SQLite file in the user's own data directory."""
    import platformdirs

    return Path(platformdirs.user_data_dir("tbpay", appauthor=False)) / "tbpay.db"


def _file(given: str) -> Path:
    if "://" not in given:
        return _absolute(given)
    scheme, _, rest = given.partition("://")
    if scheme in ("postgres", "postgresql") or scheme.startswith("postgresql+"):
        raise InvalidInputError("this version of tbpay works on SQLite files, not on PostgreSQL")
    if scheme not in ("sqlite", "sqlite+pysqlite"):
        raise InvalidInputError(
            f"{excerpt(scheme)} is no database that tbpay knows: use sqlite:///"
        )
    name, _, query = rest.partition("?")
    if query or not name.startswith("/"):
        raise InvalidInputError(
            "a SQLite database is named by its file, as sqlite:///name.db or"
            " sqlite:////home/ann/name.db, without options"
        )
    return _absolute(name[1:])


def _absolute(name: str) -> Path:
    if name and "\0" not in name and name != ":memory:":
        # No such user, no working directory any more, or no name that a file can have.
        with suppress(RuntimeError, OSError, UnicodeEncodeError):
            path = Path(name).expanduser().absolute()
            os.fsencode(path)
            return path
    raise InvalidInputError(f"{excerpt(name)} is not the name of a database file")
