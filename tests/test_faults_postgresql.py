"""What can befall a server: a command says so in one line, and shows no password anywhere."""

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from databases import Database, PostgresDatabase
from faults import CREDIT, SHOW, End, check_refused, command, start
from postgres import ASKED, NoPostgresError, own_server
from probes import dump, not_run, rows, run, wait_until

from tbpay import database, migrations
from tbpay.cli.exits import Exit
from tbpay.stores import account_store

CANARY = "c4n4ry"


@pytest.fixture
def dialect() -> str:
    return "postgresql"


@pytest.fixture
def url(shop: Database, monkeypatch: pytest.MonkeyPatch) -> sa.URL:
    """The shop's URL, in which somebody has put a password."""
    return ask(shop.url, monkeypatch)


@pytest.fixture(scope="module")
def own() -> Iterator[str]:
    """A server of our own, on which one may be asked for a password, and which may be hurt."""
    try:
        with own_server() as found:
            yield found
    except NoPostgresError as error:
        not_run("a PostgreSQL of one's own", str(error))


def ask(url: str | sa.URL, monkeypatch: pytest.MonkeyPatch) -> sa.URL:
    """Let commands work there, with a password that may be seen nowhere."""
    asked = sa.make_url(url).set(password=CANARY)
    monkeypatch.setenv("TBPAY_DATABASE_URL", asked.render_as_string(hide_password=False))
    return asked


def named(url: sa.URL) -> str:
    return f"{url.render_as_string()} (TBPAY_DATABASE_URL)"


# It cannot be reached


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ("port", "Connection refused"),
        ("database", 'database "gone" does not exist'),
        ("username", 'role "gone" does not exist'),
    ],
)
def test_who_is_not_there_cannot_be_reached(
    url: sa.URL, changed: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: dict[str, Any] = {"port": closed_port(), "database": "gone", "username": "gone"}
    url = ask(url.set(**{changed: there[changed]}), monkeypatch)

    for words in (SHOW, CREDIT, "db upgrade", "db status"):
        message = f"{named(url)} cannot be reached: {reason}"
        check_refused(command(words), Exit.UNAVAILABLE, message)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def test_a_host_that_is_not_there_is_named(url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> None:
    url = ask(url.set(host="db.invalid"), monkeypatch)

    end = command(CREDIT)

    # What follows are the words of whoever looks names up on this machine.
    said = End(end.code, end.out, re.sub(r": \[.*", "", end.err))
    reason = "failed to resolve host 'db.invalid'"
    check_refused(said, Exit.UNAVAILABLE, f"{named(url)} cannot be reached: {reason}")


def test_a_wrong_password_is_refused_and_not_shown(
    own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(own, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {ASKED} LOGIN PASSWORD 'another'")
    url = ask(sa.make_url(own).set(username=ASKED), monkeypatch)

    reason = f'password authentication failed for user "{ASKED}"'
    for words in (SHOW, CREDIT, "db upgrade"):
        message = f"{named(url)} cannot be reached: {reason}"
        check_refused(command(words), Exit.UNAVAILABLE, message)


def test_a_role_that_has_all_its_connections_gets_no_other(
    shop: Database, url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = str(url.database)
    run(shop, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
    url = ask(url.set(username=role), monkeypatch)

    refused = command(CREDIT)
    run(shop, f"DROP ROLE {role}")

    reason = f'too many connections for role "{role}"'
    check_refused(refused, Exit.UNAVAILABLE, f"{named(url)} cannot be reached: {reason}")


# It does not do what it is asked to


def test_a_database_that_may_only_be_read_is_read(shop: Database, url: sa.URL) -> None:
    before = dump(shop)
    limit(shop, "default_transaction_read_only", "on")

    for words in (CREDIT, "db downgrade 0003 --confirm 0003"):
        check_refused(command(words), Exit.UNAVAILABLE, f"{named(url)} is read-only")

    assert command(SHOW).code == Exit.DONE
    assert dump(shop) == before


@pytest.mark.usefixtures("hurried")
def test_what_somebody_else_has_locked_is_busy(shop: Database, url: sa.URL) -> None:
    before = dump(shop)
    with shop.writing():
        for words in (CREDIT, "db downgrade 0003 --confirm 0003"):
            message = f"{named(url)} is busy: another process keeps it locked"
            check_refused(command(words), Exit.UNAVAILABLE, message)
        assert command(SHOW).code == Exit.DONE
    assert dump(shop) == before


def test_a_statement_that_may_not_take_so_long_finds_it_busy(shop: Database, url: sa.URL) -> None:
    before = dump(shop)
    limit(shop, "statement_timeout", "100ms")

    with shop.writing():
        reason = "canceling statement due to statement timeout"
        check_refused(command(CREDIT), Exit.UNAVAILABLE, f"{named(url)} is busy: {reason}")
    assert dump(shop) == before


def test_a_role_that_may_only_read_is_told_what_it_may_not(
    shop: Database, url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dump(shop)
    role = str(url.database)
    run(shop, f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    url = ask(url.set(username=role), monkeypatch)

    refused, shown = command(CREDIT), command(SHOW)
    run(shop, f"DROP OWNED BY {role}", f"DROP ROLE {role}")

    reason = "permission denied for table account_balances"
    check_refused(refused, Exit.UNAVAILABLE, f"{named(url)} does not allow it: {reason}")
    assert shown.code == Exit.DONE
    assert dump(shop) == before


def limit(db: Database, name: str, value: str) -> None:
    """Set something for everybody who connects from now on."""
    run(db, f"ALTER DATABASE {sa.make_url(db.url).database} SET {name} = '{value}'")


# It dies


def test_a_server_that_is_killed_half_way_has_kept_nothing(
    own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = PostgresDatabase(own)
    database.configure(own)
    migrations.upgrade()
    account_store.create()
    database.reset()
    url = ask(own, monkeypatch)
    before = dump(server)
    with suppress(psycopg.OperationalError), server.writing() as writer:
        waiting = start(CREDIT)
        wait_until(lambda: bool(waits(server)))
        assert CANARY not in process_list()
        # A server of which one process was killed ends all the others, and begins anew.
        os.kill(waits(server)[0][0], signal.SIGKILL)
        out, err = waiting.communicate(timeout=30)
        writer.execute("SELECT pg_sleep(30)")
    server._close()

    reason = "server closed the connection unexpectedly"
    refused = End(waiting.returncode, out, err)
    check_refused(refused, Exit.UNAVAILABLE, f"{named(url)} cannot be reached: {reason}")
    wait_until(lambda: command(SHOW).code == Exit.DONE)
    assert dump(server) == before
    server._close()
    assert command(CREDIT).code == Exit.DONE


def waits(server: Database) -> list[tuple[Any, ...]]:
    """Answer the command's process on the server, once it waits there for somebody else."""
    waiting = "application_name = 'tbpay' AND wait_event_type = 'Lock'"
    return rows(server, f"SELECT pid FROM pg_stat_activity WHERE {waiting}")


def process_list() -> str:
    """What everybody on this machine can see of every process."""
    shown = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            shown.append((process / "cmdline").read_text(errors="replace").replace("\0", " "))
    assert any(CREDIT in line for line in shown)
    return "\n".join(shown)


# Its driver is missing


@pytest.mark.parametrize("words", [SHOW, CREDIT, "db upgrade"])
def test_without_the_driver_it_is_said_how_to_get_it(
    url: sa.URL, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    message = f"{named(url)} is on PostgreSQL, for which psycopg is needed"
    check_refused(command(words), Exit.USAGE, message, "pip install 'tbpay[postgres]'")
