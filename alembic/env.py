"""Run migrations: one transaction for all of them, no loss without a word.

A SQLite file is backed up first. On PostgreSQL nobody else works with our tables meanwhile, and of
several upgrades at once each looks where the one before it has led.

The plain `alembic` command and `tbpay db` both come through here. What `tbpay` knows it hands over
in `config.attributes`: `location`; `confirmed`, the revision that the operator typed; `on_step`,
called after each step; `on_commit`, called before nothing is left but the commit. It finds there
where the database stands (`revision`) and what was done: the `backup`, the tables `created` and
`adopted`, the `rows` in them. For a script the migrations find there the `database` to look at.
"""

import random
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging.config import fileConfig
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError

from tbpay import database, schema
from tbpay.database import File, Location, Server, beginning, engines, files, refusals
from tbpay.errors import ConfirmationError, OutcomeUnknownError, SchemaError, TbpayError

config = context.config
is_plain = config.cmd_opts is not None

LOCK_NOT_AVAILABLE = "55P03"


def run() -> None:
    if config.config_file_name is not None:
        fileConfig(config.config_file_name, disable_existing_loggers=False)
    try:
        location = config.attributes.get("location") or database.location()
        with warnings.catch_warnings(), named(location):
            # What is odd about the web application's tables is not the operator's affair.
            warnings.simplefilter("ignore", sa.exc.SAWarning)
            if context.is_offline_mode():
                run_offline(location)
            else:
                run_online(location)
    except TbpayError as refusal:
        if not is_plain:
            raise
        # The plain command shows its own kind of error as a line, any other as a traceback. A name
        # in it may be anybody's.
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in refusal.message)
        raise CommandError(shown) from refusal


@contextmanager
def named(location: Location) -> Iterator[None]:
    """Name the database in whatever a migration, Alembic or the database finds wrong with it."""
    try:
        with engines.translated(location):
            yield
    except CommandError as error:
        raise SchemaError(f"{str(error).rstrip('.')}; nothing was changed in {location}") from error
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        who = "PostgreSQL" if isinstance(location, Server) else "SQLite"
        words = f"{who} refuses: {said(getattr(error, 'orig', error))}"
        raise SchemaError(f"{words}; nothing was changed in {location}") from error


def said(error: Any) -> str:
    """The database's own words in one line: PostgreSQL adds others, with values of rows in them."""
    return getattr(getattr(error, "diag", None), "message_primary", None) or str(error)


def run_offline(location: Location) -> None:
    context.configure(
        dialect_name="sqlite" if isinstance(location, File) else "postgresql",
        # Of the styles of parameters this one leaves a % in a statement as it is.
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        **common(),
    )
    with looking_at(location) as there, context.begin_transaction():
        config.attributes["database"] = there
        context.run_migrations()


@contextmanager
def looking_at(location: Location) -> Iterator[sa.Connection | None]:
    if isinstance(location, File) and files.is_blank(location):
        yield None
        return
    with engines.engine(location).connect() as connection:
        engines.begin(connection, reading=True)
        yield connection


def run_online(location: Location) -> None:
    moves = is_asked_to_move()
    if moves and isinstance(location, File) and files.is_blank(location):
        context.configure(dialect_name="sqlite", **common())
        if steps_from(()):
            files.create(location)
    # SQLite's foreign keys are off: dropping a table would else delete the rows that point at it.
    engine = engines.new_engine(location, foreign_keys=False, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        if moves:
            engines.begin_migration(connection)
        else:
            engines.begin(connection, reading=True)
        context.configure(connection=connection, dont_mutate=not moves, **common())
        heads = context.get_context().get_current_heads()
        refuse_unknown(heads, location)
        config.attributes["revision"] = heads[0] if heads else None
        if not moves:
            context.run_migrations()
        elif steps := steps_from(heads):
            if isinstance(location, Server) and steps[0].is_upgrade:
                refuse_other_encodings(connection, location)
            move(connection, location)


def is_asked_to_move() -> bool:
    """Tell `upgrade` and its like from `current` and `check`, which name no revision."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    except CommandError:
        return True  # a step such as +1, or what is no revision: Alembic will say so
    return True


def steps_from(heads: tuple[str, ...]) -> list[Any]:
    """The steps that the command asks for, from where a database stands."""
    return list(context.get_context().opts["fn"](heads, context.get_context()))


def refuse_unknown(heads: tuple[str, ...], location: Location) -> None:
    known = {step.revision for step in context.script.walk_revisions()}
    for head in heads:
        if head not in known:
            raise refusals.ahead(head, location)


def refuse_other_encodings(connection: sa.Connection, location: Location) -> None:
    """Refuse a server's database that cannot hold every text, or counts bytes for characters."""
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise SchemaError(
            f"the encoding of {location} is {encoding}, and tbpay needs UTF8: nothing was changed"
        )


def move(connection: sa.Connection, location: Location) -> None:
    if isinstance(location, Server):
        lock_out_others(connection, location)
    before = rows_in_own_tables(connection)
    with backed_up(connection, location) as backup:
        context.run_migrations()
        after = rows_in_own_tables(connection)
        refuse_loss({name: rows for name, rows in before.items() if rows and name not in after})
        revision = context.get_context().get_current_revision()
        if (on_commit := config.attributes.get("on_commit")) is not None:
            on_commit()
        commit(connection, location, revision)
    created = [name for name in after if name not in before]
    config.attributes.update(revision=revision, backup=backup, created=created, rows=after)


def lock_out_others(connection: sa.Connection, location: Location) -> None:
    """Lock our tables before the first look at their rows, until all is done.

    Where a unit holds one of them and waits for another, give way and try again: before a second
    has passed, after which PostgreSQL would end one of the two for a deadlock.
    """
    deadline = time.monotonic() + beginning.BUSY_SECONDS
    while not has_locked_others_out(connection):
        if time.monotonic() > deadline:
            raise refusals.locked(location)
        time.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - who goes first is no secret
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(beginning.BUSY_SECONDS * 1000)}")


def has_locked_others_out(connection: sa.Connection) -> bool:
    """Try it once. What belongs to somebody else is left to the migration that has to alter it."""
    names = ", ".join(f"('{name}')" for name in schema.METADATA.tables)
    own = connection.exec_driver_sql(
        f"SELECT CAST(CAST(oid AS regclass) AS TEXT) FROM (VALUES {names}) AS ours (name)"
        " JOIN pg_class ON oid = to_regclass(name)"
        " WHERE relkind IN ('r', 'p') AND pg_has_role(relowner, 'USAGE')"
    )
    try:
        with connection.begin_nested():
            connection.exec_driver_sql("SET LOCAL lock_timeout = '200ms'")
            for name in own.scalars():
                # Of accounts a foreign key needs no more; everybody may read on.
                mode = "SHARE ROW EXCLUSIVE" if name == "accounts" else "ACCESS EXCLUSIVE"
                connection.exec_driver_sql(f"LOCK TABLE {name} IN {mode} MODE")
    except sa.exc.DBAPIError as error:
        if refusals.sqlstate(error) != LOCK_NOT_AVAILABLE:
            raise
        return False
    return True


@contextmanager
def backed_up(connection: sa.Connection, location: Location) -> Iterator[Path | None]:
    """Copy a SQLite file that holds rows beside it before they are touched.

    Where nothing was changed there is nothing that the copy could bring back: it is deleted.
    """
    if not isinstance(location, File) or not holds_rows(connection):
        yield None
        return
    backup = files.back_up(location)
    try:
        yield backup
    except BaseException:
        backup.unlink(missing_ok=True)
        raise
    files.forget_old_backups(location)


def commit(connection: sa.Connection, location: Location, revision: str | None) -> None:
    """Commit; where the connection is lost over it, look whether the server did."""
    try:
        connection.commit()
    except sa.exc.DBAPIError as error:
        if isinstance(location, File) or not refusals.is_silence(error):
            raise
        if kept_revision(location) != revision:
            raise


def kept_revision(location: Location) -> str | None:
    """Read back where a database stands, when no migration is in its middle any more."""
    engine = engines.new_engine(location, poolclass=sa.pool.NullPool)
    try:
        with engine.connect() as connection:
            engines.begin_migration(connection)
            return engines.revision(connection)
    except (sa.exc.DBAPIError, TbpayError) as error:
        raise OutcomeUnknownError(
            f"the connection to {location} was lost while it committed: whether the migration was"
            " kept is not known",
            hint=location.command("db status"),
        ) from error


def common() -> dict[str, Any]:
    return {
        "target_metadata": schema.METADATA,
        "version_table": schema.VERSION_TABLE,
        "include_name": include_name,
        "include_object": include_object,
        "compare_type": True,
        "compare_server_default": differs_in_default,
        "transactional_ddl": True,
        "on_version_apply": config.attributes.get("on_step", ()),
    }


def include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """Look at our own tables only: the database belongs to the web application too."""
    return kind != "table" or name in schema.METADATA.tables


def include_object(thing: Any, name: str | None, kind: str, reflected: bool, found: Any) -> bool:
    """Of accounts want our columns alone; of our tables allow indexes that others added."""
    table = name if kind == "table" else thing.table.name
    if table == "accounts":
        return kind == "table" or (kind == "column" and not reflected and found is None)
    return not (kind in ("index", "unique_constraint") and reflected and found is None)


def differs_in_default(
    about: Any, _found: Any, column: sa.Column[Any], default: str | None, *_: Any
) -> bool | None:
    """Want no default where SQLite alone demands one; leave the others to Alembic."""
    if about.dialect.name != "sqlite" and column.info.get("sqlite_default"):
        return default is not None
    return None


def tables(connection: sa.Connection) -> list[str]:
    """The tables that can be read without whatever extension a virtual one was made by."""
    if connection.dialect.name != "sqlite":
        return sa.inspect(connection).get_table_names()
    found = connection.exec_driver_sql(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
        " AND sql NOT LIKE 'CREATE VIRTUAL%'"
    )
    return list(found.scalars())


def holds_rows(connection: sa.Connection) -> bool:
    return any(
        connection.execute(sa.select(sa.literal(1)).select_from(sa.table(name)).limit(1)).first()
        for name in tables(connection)
        if name != schema.VERSION_TABLE
    )


def rows_in_own_tables(connection: sa.Connection) -> dict[str, int]:
    there = tables(connection)
    return {
        name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        for name, table in schema.METADATA.tables.items()
        if name in there
    }


def refuse_loss(lost: dict[str, int]) -> None:
    """Refuse to drop tables with rows, unless the revision was typed as it was asked for."""
    asked = context.get_context().opts["destination_rev"]
    if is_plain:
        typed = context.get_x_argument(as_dictionary=True).get("confirm")
        how = f": confirm it with -x confirm={asked}"
    else:
        typed, how = config.attributes.get("confirmed"), ", which must be confirmed"
    if lost and typed != asked:
        words = [f"{name} ({rows:,} row{'s' if rows > 1 else ''})" for name, rows in lost.items()]
        raise ConfirmationError(f"this downgrade drops {', '.join(words)}{how}")


run()
