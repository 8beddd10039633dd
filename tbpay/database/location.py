"""Which database: never a guess, always nameable, never showing a password."""

import os
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote

import sqlalchemy as sa

from tbpay import settings
from tbpay.errors import InvalidInputError, excerpt

DEFAULT_SOURCE = "the default; TBPAY_DATABASE_URL is not set"


class _Named:
    """What every database has: a name to be shown, and who named it."""

    source: str

    @property
    def name(self) -> str:
        """The name, as messages show it."""
        raise NotImplementedError

    def __str__(self) -> str:
        """Name the database and where its name came from, as every message does."""
        return f"{self.name} ({self.source})"

    def command(self, words: str) -> str:
        """Spell a tbpay command that works on this same database."""
        flag = f" --database {shlex.quote(self.name)}" if self.source == "--database" else ""
        return f"tbpay {words}{flag}"


@dataclass(frozen=True)
class File(_Named):
    """A SQLite file."""

    path: Path
    source: str

    @property
    def name(self) -> str:
        """The path, as messages show it."""
        return str(self.path)

    @property
    def exists(self) -> bool:
        """Tell whether there is a file of that name that can be seen."""
        # Path.exists raises for a name that is too long or in a directory that is closed to us.
        return os.path.exists(self.path)  # noqa: PTH110 - see above

    @property
    def url(self) -> sa.URL:
        """The URL that opens the file and never creates it."""
        name = "file:" + quote(bytes(self.path))
        return sa.URL.create("sqlite", database=name, query={"mode": "rw", "uri": "true"})


@dataclass(frozen=True)
class Server(_Named):
    """A database of a PostgreSQL server, or of the one among several that can be written to."""

    # Its options may be secret, too.
    url: sa.URL = field(repr=False)
    source: str

    def __hash__(self) -> int:
        """Answer at once: a URL writes itself out for that, and it is asked for at every unit."""
        return hash((self.url.host, self.url.database, self.source))

    @property
    def name(self) -> str:
        """The URL as messages show it: without its driver, and with stars for a password.

        What else is secret among its options, a key's password, is left out.
        """
        secrets = [name for name in self.url.query if "password" in name or "secret" in name]
        shown = self.url.set(drivername="postgresql").difference_update_query(secrets)
        return shown.render_as_string(hide_password=True)


Location = File | Server

# A URL without its slashes, or a list of libpq's options: no name that somebody gives a file.
_ALMOST_URL = re.compile(
    r"\Apostgres(ql)?(\+\w+)?:|\bpassword\s*=\s*\S+\s+\w+\s*=|=\s*\S+\s+password\s*="
)


def locate(given: str | None = None, source: str = "configure()") -> Location:
    """Find the database: what was given, else ``--database``, ``TBPAY_DATABASE_URL``, the default.

    ``given`` is a path or a URL. Raises InvalidInputError for what is neither.
    """
    if given is not None:
        return _read(given, source)
    if (flag := settings.chosen_database()) is not None:
        return _read(flag, "--database")
    if (from_environment := settings.from_environment().database_url) is not None:
        return _read(from_environment, "TBPAY_DATABASE_URL")
    return File(default_path(), DEFAULT_SOURCE)


def default_path() -> Path:
    """The SQLite file in the user's own data directory."""
    import platformdirs

    return Path(platformdirs.user_data_dir("tbpay", appauthor=False)) / "tbpay.db"


def _read(given: str, source: str) -> Location:
    if "://" not in given:
        if _ALMOST_URL.search(given):
            # Not shown: it may hold a password.
            raise InvalidInputError(
                "a server's database is named by a URL: write it as"
                " postgresql://user@host:5432/database"
            )
        return File(_absolute(given), source)
    scheme, _, rest = given.partition("://")
    if scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        return Server(_server(rest), source)
    if scheme.startswith("postgresql+"):
        raise InvalidInputError(
            f"tbpay speaks to PostgreSQL through psycopg, not {excerpt(scheme)}: use postgresql://"
        )
    if scheme not in ("sqlite", "sqlite+pysqlite"):
        raise InvalidInputError(
            f"{excerpt(scheme)} is no database that tbpay knows: use sqlite:/// or postgresql://"
        )
    name, _, query = rest.partition("?")
    if query or not name.startswith("/"):
        raise InvalidInputError(
            "a SQLite database is named by its file, as sqlite:///name.db or"
            " sqlite:////home/ann/name.db, without options"
        )
    return File(_absolute(name[1:]), source)


@cache
def _server(rest: str) -> sa.URL:
    """Read what stands behind the scheme. No message shows it: it may hold a password."""
    address, _, query = rest.partition("?")
    authority, slash, name = address.partition("/")
    if "@" in name or authority.count("@") > 1:
        raise InvalidInputError(
            "the PostgreSQL URL holds a bare @ or / in its user or password: write %40 and %2F"
        )
    user, at, hosts = authority.rpartition("@")
    options = query.split("&") if query else []
    if "," in hosts:
        # Several hosts in one place, as libpq's own URLs have them, are one option each here.
        options = [f"host={host}" for host in hosts.split(",")] + options
        hosts = ""
    try:
        if not all("=" in option for option in options):
            raise ValueError
        if "\0" in unquote(rest) or any(0xD800 <= ord(char) < 0xE000 for char in rest):
            raise ValueError
        url = sa.make_url(
            f"postgresql+psycopg://{user}{at}{hosts}{slash}{name}?{'&'.join(options)}"
        )
    except (sa.exc.ArgumentError, ValueError):
        raise InvalidInputError(
            "the PostgreSQL URL cannot be read: write it as postgresql://user@host:5432/database"
        ) from None
    if isinstance(password := url.query.get("password"), str):
        url = url.difference_update_query(["password"]).set(password=password)
    return url


def _absolute(name: str) -> Path:
    if name and "\0" not in name and name != ":memory:":
        # No such user, no working directory any more, or no name that a file can have.
        with suppress(RuntimeError, OSError, UnicodeEncodeError):
            path = Path(name).expanduser().absolute()
            os.fsencode(path)
            return path
    raise InvalidInputError(f"{excerpt(name)} is not the name of a database file")
