"""PostgreSQL, through psycopg: every unit tells the server itself how it begins.

Nothing is set for a session, and no statement is prepared: so pgbouncer may hand the server's
connections round between transactions. ``db upgrade`` alone wants a session of its own.
"""

from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from tbpay.database import beginning
from tbpay.database.beginning import Beginning
from tbpay.database.location import Server
from tbpay.errors import InvalidInputError

# Upgrades of one database wait for each other behind this number, which means nothing else.
_UPGRADE_LOCK = 7_473_406_179

_ACTIVE = 1  # libpq's PQTRANS_ACTIVE

# A server that goes away without a word, as a machine does that loses its power, is given up
# within a minute or so. What the URL says instead goes before.
_PATIENCE = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}


def new_engine(server: Server, **options: Any) -> sa.Engine:
    """Make an engine whose units begin as they are asked to, each in one round trip.

    Raises InvalidInputError where the driver is not installed.
    """
    try:
        import psycopg  # noqa: F401 - looked for here, so that its absence can be told in a line
    except ImportError as error:
        raise InvalidInputError(
            f"{server} is on PostgreSQL, for which psycopg is needed",
            hint="pip install 'tbpay[postgres]'",
        ) from error
    made = sa.create_engine(
        _addressed(server.url),
        connect_args={
            # SQLAlchemy would begin a transaction by the driver, without a word of how.
            "autocommit": True,
            "prepare_threshold": None,
            "fallback_application_name": "tbpay",
            "client_encoding": "utf8",
        },
        use_native_hstore=False,
        hide_parameters=True,
        **options,
    )

    # Not by events: where an engine has any, every statement of every unit looks for them.
    made.dialect.do_begin = _begin  # type: ignore[assignment,method-assign]  # its purpose
    made.dialect.do_terminate = _terminate  # type: ignore[assignment,method-assign]  # its purpose
    return made


def _begin(connection: Any) -> None:
    """Begin, and see in the same round trip whether somebody has migrated since the last unit."""
    from psycopg.errors import UndefinedTable

    driver, statements = connection.driver_connection, _statements()
    looks = beginning.asked() is Beginning.TO_CHANGE
    if not (looks and connection.info.pop(beginning.REVISION, None)):
        driver.execute(statements)
        return
    try:
        cursor = driver.execute(f"{statements}; {beginning.READ_REVISION}")
    except UndefinedTable:
        driver.rollback()
        driver.execute(statements)
        return
    while cursor.nextset():
        pass
    if (row := cursor.fetchone()) is not None:
        connection.info[beginning.REVISION] = row[0]


def _terminate(connection: Any) -> None:
    """Close a connection that is not to be used again.

    Where a signal came in the middle of a statement, the server should not go on waiting for a
    lock in our name.
    """
    with suppress(Exception):
        if connection.info.transaction_status == _ACTIVE:
            connection.cancel_safe(timeout=2)
    connection.close()


def _statements() -> str:
    lock_timeout = f"SET LOCAL lock_timeout = {int(beginning.BUSY_SECONDS * 1000)}"
    match beginning.asked():
        case Beginning.TO_READ:
            return (
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
                f" SET LOCAL statement_timeout = 0; {lock_timeout}"
            )
        case Beginning.TO_MIGRATE:
            # Under a stricter level the lock's own statement would fix the view, and with it the
            # revision as it was before the wait.
            return (
                "BEGIN ISOLATION LEVEL READ COMMITTED;"
                f" SET LOCAL statement_timeout = 0; {lock_timeout};"
                f" SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})"
            )
        case Beginning.TO_CHANGE:
            return f"BEGIN; {lock_timeout}"


def _addressed(url: sa.URL) -> sa.URL:
    """Complete a URL: of several hosts it is the one that can be written to that is meant."""
    hosts = url.query.get("host", "")
    if isinstance(hosts, tuple) or "," in hosts:
        url = url.set(query={"target_session_attrs": "read-write", **url.query})
    return url.set(query={**_PATIENCE, **url.query})
