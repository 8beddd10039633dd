"""What a PostgreSQL server can do to those who work on it, and what it is told."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from conftest import ROOT, run_tbpay
from databases import DIALECTS, Database, furnished
from postgres import ASKED, NoPostgresError, own_server
from probes import dump, kept_cents, not_run, refused, rows, run, together, unbalanced, wait_until
from proxy import Proxy

from tbpay import database, migrations
from tbpay.database import engines, snapshot, unit_of_work
from tbpay.errors import Code, SchemaError, UnavailableError
from tbpay.stores import account_store, balance_store

CANARY = "c4n4ry"


@pytest.fixture
def kind() -> str:
    return "postgresql"


@pytest.fixture
def dialect(kind: str) -> str:
    return DIALECTS[kind]


@pytest.fixture
def db(db: Database, kind: str) -> Database:
    return furnished(db, kind)


@pytest.fixture
def own() -> Iterator[str]:
    """A server of the test's own, to be stopped and broken."""
    try:
        with own_server() as url:
            yield url
    except NoPostgresError as error:
        not_run("a PostgreSQL of one's own", str(error))


# how a unit begins


def test_a_unit_changes_under_the_databases_own_isolation_and_waits_30_seconds(
    db: Database,
) -> None:
    [(isolation,)] = rows(db, "SHOW default_transaction_isolation")
    with unit_of_work() as connection:
        assert told(connection) == {
            "transaction_isolation": isolation,
            "transaction_read_only": "off",
            "lock_timeout": "30s",
            "statement_timeout": "0",
            "application_name": "tbpay",
            "client_encoding": "UTF8",
        }


def test_a_snapshot_is_one_view_that_cannot_be_written_to_nor_cut_short(db: Database) -> None:
    limit(db, "statement_timeout", "5s")
    with snapshot() as connection:
        assert told(connection) == {
            "transaction_isolation": "repeatable read",
            "transaction_read_only": "on",
            "lock_timeout": "30s",
            "statement_timeout": "0",
            "application_name": "tbpay",
            "client_encoding": "UTF8",
        }
    with unit_of_work() as connection:
        assert told(connection)["statement_timeout"] == "5s"


def test_a_migration_sees_what_the_one_before_it_has_kept(db: Database) -> None:
    limit(db, "statement_timeout", "5s")
    limit(db, "default_transaction_isolation", "serializable")
    with engines.engine(database.location()).connect() as connection:
        engines.begin_migration(connection)
        assert told(connection) == {
            "transaction_isolation": "read committed",
            "transaction_read_only": "off",
            "lock_timeout": "30s",
            "statement_timeout": "0",
            "application_name": "tbpay",
            "client_encoding": "UTF8",
        }


def told(connection: sa.Connection) -> dict[str, str]:
    names = (
        *("transaction_isolation", "transaction_read_only", "lock_timeout", "statement_timeout"),
        *("application_name", "client_encoding"),
    )
    return {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names}


def limit(db: Database, name: str, value: str) -> None:
    """Set something for everybody who connects from now on."""
    run(db, f"ALTER DATABASE {sa.make_url(db.url).database} SET {name} = '{value}'")
    database.close()


@pytest.mark.usefixtures("db", "hurried")
def test_of_two_migrations_the_second_waits_for_the_first() -> None:
    where = database.location()
    engine = engines.engine(where)
    with engine.connect() as first, engine.connect() as second:
        engines.begin_migration(first)
        with pytest.raises(UnavailableError) as refusal, engines.translated(where):
            engines.begin_migration(second)
        first.rollback()
        engines.begin_migration(second)

    assert refusal.value.code is Code.BUSY


def test_nothing_is_left_of_a_unit_on_a_connection_that_lies_in_the_pool(
    db: Database, rich: int
) -> None:
    balance_store.get_balance(rich)
    seen: list[int] = []

    def look_and_fail() -> None:
        with unit_of_work() as connection:
            seen.append(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            look_and_fail()

    assert seen[0] == seen[1]
    sessions = f"SELECT state, backend_xid FROM pg_stat_activity WHERE pid = {seen[0]}"
    assert rows(db, sessions) == [("idle", None)]


def test_a_unit_takes_one_round_trip_to_begin_and_one_to_end(db: Database) -> None:
    with Proxy(db.url) as line:
        database.configure(line.url)
        with unit_of_work():
            pass
        line.asked.clear()

        with unit_of_work():
            pass

        database.reset()
        assert [said[5:] for said in line.asked[:2]] == [
            b"BEGIN; SET LOCAL lock_timeout = 30000;"
            b" SELECT version_num FROM tbpay_alembic_version\0",
            b"COMMIT\0",
        ]


# who cannot be reached


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def with_password(url: str, **changed: Any) -> str:
    address = sa.make_url(url).set(password=CANARY, **changed)
    return address.render_as_string(hide_password=False)


def cannot_be_reached(url: str, reason: str) -> None:
    """Expect every door to be shut, in one line that names the database and no password."""
    database.configure(url)
    named = str(database.location())
    assert CANARY not in named
    for call in (lambda: balance_store.get_balance(1), lambda: account_store.create()):
        with pytest.raises(UnavailableError) as refusal:
            call()
        assert refusal.value.code is Code.UNREACHABLE
        assert refusal.value.message == f"{named} cannot be reached: {reason}"
        assert refusal.value.message.isprintable()


def test_where_there_is_no_server_none_can_be_reached() -> None:
    port = closed_port()
    cannot_be_reached(f"postgresql://ann:{CANARY}@127.0.0.1:{port}/tbpay", "Connection refused")


def test_a_host_that_is_not_there_is_named() -> None:
    database.configure(f"postgresql://ann:{CANARY}@db.invalid/tbpay")
    with pytest.raises(UnavailableError, match=r"ann:\*\*\*@db\.invalid/tbpay .*'db\.invalid'"):
        account_store.create()


def test_a_database_that_is_not_there_is_named(db: Database) -> None:
    cannot_be_reached(with_password(db.url, database="gone"), 'database "gone" does not exist')


def test_a_role_that_is_not_there_is_named(db: Database) -> None:
    cannot_be_reached(with_password(db.url, username="nemo"), 'role "nemo" does not exist')


def test_a_wrong_password_is_refused_and_not_shown(own: str) -> None:
    with psycopg.connect(own, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {ASKED} LOGIN PASSWORD 'another'")

    cannot_be_reached(
        with_password(own, username=ASKED), f'password authentication failed for user "{ASKED}"'
    )


def test_an_option_that_nobody_knows_is_named(db: Database) -> None:
    cannot_be_reached(f"{with_password(db.url)}?colour=red", 'invalid connection option "colour"')


def test_a_command_shows_no_password_anywhere(db: Database) -> None:
    for url in (
        with_password(db.url, port=closed_port()),
        with_password(db.url, database="gone"),
        f"{with_password(db.url)}?sslpassword={CANARY}&sslmode=require",
    ):
        said = run_tbpay("account", "list", "--json", env={"TBPAY_DATABASE_URL": url})
        assert said.returncode == 6
        assert said.stdout == ""
        assert '"code":"unreachable"' in said.stderr
        assert CANARY not in said.stderr
        assert said.stderr.count("\n") == 1


def test_a_server_with_no_room_for_another_connection_says_so(db: Database) -> None:
    name = sa.make_url(db.url).database
    run(db, f"CREATE ROLE {name} LOGIN", f"ALTER DATABASE {name} CONNECTION LIMIT 0")
    try:
        cannot_be_reached(
            with_password(db.url, username=name), f'too many connections for database "{name}"'
        )
    finally:
        run(db, f"DROP ROLE {name}")


def test_a_server_that_stops_is_not_to_be_had_until_it_is_back(own: str, db: Database) -> None:
    database.configure(own)
    migrations.upgrade()
    account = account_store.create().id
    pid_file = Path(setting(own, "data_directory"), "postmaster.pid")

    def stop_it_half_way() -> None:
        with unit_of_work():
            balance_store.add_credits(account, 1, "a gift")
            os.kill(int(pid_file.read_text().splitlines()[0]), signal.SIGINT)
            wait_until(lambda: not pid_file.exists())
            balance_store.add_credits(account, 2, "a gift")

    with pytest.raises(UnavailableError) as refusal:
        stop_it_half_way()

    assert refusal.value.code is Code.UNREACHABLE
    assert refusal.value.message == (
        f"{database.location()} cannot be reached:"
        " terminating connection due to administrator command"
    )
    cannot_be_reached(own, "Connection refused")
    database.configure(db.url)
    assert account_store.create().id == 1


def setting(url: str, name: str) -> str:
    with psycopg.connect(url) as connection:
        [[value]] = connection.execute(f"SHOW {name}".encode()).fetchall()
    return str(value)


# one of several hosts


def test_of_several_hosts_the_one_that_is_there_is_used(db: Database) -> None:
    url = sa.make_url(db.url)
    database.configure(
        f"postgresql://{url.username}@127.0.0.1:{closed_port()},{url.host}:{url.port}"
        f"/{url.database}"
    )

    assert account_store.create().id == 1
    assert account_store.find().items[0].id == 1


def test_of_several_hosts_the_one_is_meant_that_can_be_written_to(db: Database) -> None:
    limit(db, "default_transaction_read_only", "on")
    url = sa.make_url(db.url)
    hosts = f"postgresql://{url.username}@{url.host}:{url.port},{url.host}:{url.port}"

    cannot_be_reached(f"{hosts}/{url.database}", "session is read-only")
    database.configure(f"{hosts}/{url.database}?target_session_attrs=any")
    assert account_store.find().items == []


# what the server refuses


def test_a_database_that_may_only_be_read_is_read(db: Database, rich: int) -> None:
    limit(db, "default_transaction_read_only", "on")

    assert balance_store.get_balance(rich) == 1_000
    with refused(db, UnavailableError, Code.READ_ONLY, f"{db} (TBPAY_DATABASE_URL) is read-only"):
        balance_store.deduct(rich, 1, "one")


def test_a_role_that_may_only_read_is_told_what_it_may_not(db: Database, rich: int) -> None:
    url = sa.make_url(db.url)
    role = url.database
    run(
        db,
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
    )
    database.configure(url.set(username=role).render_as_string())
    try:
        assert balance_store.get_balance(rich) == 1_000
        denied = f"{database.location()} does not allow it: permission denied for table accounts"
        with refused(db, UnavailableError, Code.UNAVAILABLE, denied):
            account_store.create()
    finally:
        database.reset()
        run(db, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_statement_that_takes_longer_than_the_database_allows_finds_it_busy(
    db: Database, rich: int
) -> None:
    limit(db, "statement_timeout", "100ms")
    message = f"{db} (TBPAY_DATABASE_URL) is busy: canceling statement due to statement timeout"
    with db.writing(), refused(db, UnavailableError, Code.BUSY, message):
        balance_store.deduct(rich, 1, "one")


@pytest.mark.parametrize(
    ("state", "code", "message"),
    [
        ("53100", Code.DISK_FULL, "the disk of {} is full or failing"),
        ("58030", Code.DISK_FULL, "the disk of {} is full or failing"),
        ("53200", Code.UNAVAILABLE, "{} cannot do it now: as if"),
        ("53300", Code.BUSY, "{} takes no more connections: as if"),
        ("XX001", Code.CORRUPT, "{} is damaged: restore a backup"),
        ("XX002", Code.CORRUPT, "{} is damaged: restore a backup"),
    ],
)
def test_what_a_server_says_rarely_is_understood_too(
    db: Database, state: str, code: Code, message: str
) -> None:
    saying = f"DO $$ BEGIN RAISE EXCEPTION 'as if' USING ERRCODE = '{state}'; END $$"
    with (
        refused(db, UnavailableError, code, message.format(f"{db} (TBPAY_DATABASE_URL)")),
        unit_of_work() as connection,
    ):
        connection.exec_driver_sql(saying)


def test_a_table_with_a_page_of_something_else_is_damaged(own: str) -> None:
    database.configure(own)
    migrations.upgrade()
    account = account_store.create().id
    balance_store.add_credits(account, 1_000, "a gift")
    database.close()
    with psycopg.connect(own, autocommit=True) as owner:
        found = owner.execute("SELECT pg_relation_filepath('account_balances')").fetchall()
        owner.execute("CHECKPOINT")
    # A copy comes from the disk, and nothing of it is in the server's memory yet.
    [[table]] = found
    file = Path(setting(own, "data_directory"), table)
    file.write_bytes(b"\xff" * file.stat().st_size)
    maintenance = sa.make_url(own).set(database="template1").render_as_string()
    with psycopg.connect(maintenance, autocommit=True) as owner:
        owner.execute("CREATE DATABASE damaged TEMPLATE postgres STRATEGY file_copy")
    database.configure(sa.make_url(own).set(database="damaged").render_as_string())

    for call in (
        lambda: balance_store.get_balance(account),
        lambda: balance_store.deduct(account, 1, "one"),
    ):
        with pytest.raises(UnavailableError, match="is damaged: restore a backup") as refusal:
            call()
        assert refusal.value.code is Code.CORRUPT


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_text_is_refused(db: Database, encoding: str) -> None:
    name = f"{sa.make_url(db.url).database}_{encoding.lower()}"
    url = sa.make_url(db.url).set(database=name).render_as_string()
    with psycopg.connect(db.url, autocommit=True) as server:
        server.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'"
            " LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'".encode()
        )
        database.configure(url)

        with pytest.raises(SchemaError) as refusal:
            migrations.upgrade()

        database.reset()
        server.execute(f"DROP DATABASE {name}".encode())
    assert refusal.value.message == (
        f"the encoding of {url} (configure()) is {encoding}, and tbpay needs UTF8:"
        " nothing was changed"
    )


# who is interrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_stopped_while_it_waits_lets_go_of_the_server(
    db: Database, rich: int, number: int, code: int
) -> None:
    before = dump(db)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tbpay'"
    credit = ["balance", "credit", str(rich), "--amount", "1", "--reason", "x"]
    with db.writing():
        command = subprocess.Popen(
            [sys.executable, "-m", "tbpay", *credit],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            preexec_fn=hear_ctrl_c,
        )
        wait_until(lambda: rows(db, f"{waiting} AND wait_event_type = 'Lock'") == [(1,)])
        command.send_signal(number)
        _, said = command.communicate(timeout=10)
        database.close()
        wait_until(lambda: rows(db, waiting) == [(0,)], seconds=10)

    assert command.returncode == code
    assert b"Traceback" not in said
    assert dump(db) == before


def hear_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# behind pgbouncer


@pytest.fixture
def pooled(db: Database) -> Iterator[str]:
    """The database behind pgbouncer, which hands out three sessions, a transaction at a time."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        not_run("pgbouncer", "it is not installed")
    url, port = sa.make_url(db.url), closed_port()
    password = f" password={url.password}" if url.password else ""
    settings = f"""
[databases]
{url.database} = host={url.host} port={url.port or 5432} user={url.username}{password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
ignore_startup_parameters = options
pool_mode = transaction
default_pool_size = 3
"""
    # It refuses to run as root, and whom it runs as has to find its settings.
    as_whom = ["-u", "nobody"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="tbpay-pgbouncer-") as folder:
        file = Path(folder, "pgbouncer.ini")
        file.write_text(settings)
        Path(folder).chmod(0o755)
        bouncer = subprocess.Popen([program, "-q", *as_whom, str(file)], stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: answers(port))
            yield url.set(port=port).render_as_string(hide_password=False)
        finally:
            database.close()
            bouncer.terminate()
            bouncer.wait(10)


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_behind_pgbouncer_everything_works_but_migrations(
    db: Database, rich: int, pooled: str
) -> None:
    database.reset()
    database.configure(pooled)

    def spend(_: int) -> None:
        for _ in range(20):
            balance_store.deduct(rich, 1, "one")
            with snapshot() as connection:
                told(connection)
                balance_store.get_balance(rich)

    together(spend)

    assert kept_cents(db, rich) == 840
    assert unbalanced(db) == []
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tbpay'"
    assert rows(db, sessions)[0][0] <= 3


def test_behind_pgbouncer_nothing_is_left_on_a_session_for_the_next(rich: int, pooled: str) -> None:
    database.reset()
    database.configure(pooled)
    balance_store.deduct(rich, 1, "one")
    with snapshot():
        balance_store.get_balance(rich)

    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as next_one:
        for name, value in (("lock_timeout", "0"), ("transaction_isolation", "read committed")):
            assert next_one.execute(f"SHOW {name}".encode()).fetchone() == (value,)


# the driver


PROGRAM = """
import sys
from tbpay.stores import account_store
{before}
try:
    print(account_store.create().id)
except Exception as error:
    print(type(error).__name__, error, error.hint, sep="|")
print(sorted({{"psycopg", "sqlalchemy.dialects.postgresql"}} & {{*sys.modules}}))
"""


def in_a_new_process(url: str, before: str = "") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TBPAY_DATABASE_URL": url},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


def test_a_sqlite_file_loads_nothing_of_postgresql(sqlite_db: Database) -> None:
    assert in_a_new_process(sqlite_db.url) == ["1", "[]"]


def test_a_server_loads_its_driver(db: Database) -> None:
    assert in_a_new_process(db.url) == ["1", "['psycopg', 'sqlalchemy.dialects.postgresql']"]


def test_without_the_driver_it_is_said_how_to_get_it(db: Database) -> None:
    said, loaded = in_a_new_process(with_password(db.url), "sys.modules['psycopg'] = None")

    kind, message, hint = said.split("|")
    assert kind == "InvalidInputError"
    assert message.endswith("(TBPAY_DATABASE_URL) is on PostgreSQL, for which psycopg is needed")
    assert hint == "pip install 'tbpay[postgres]'"
    assert CANARY not in message
    assert loaded == "['psycopg']"
