"""Run migrations: one transaction for all of them, a backup before it, no loss without a word.

The plain `alembic` command and `tbpay db` both come through here. What `tbpay` knows it hands over
in `config.attributes`: `location`; `confirmed`, the revision that the operator typed; `on_step`,
called after each step; `on_commit`, called before nothing is left but the commit. It finds there
where the database stands (`revision`) and what was done: the `backup`, the tables `created` and
`adopted`, the `rows` in them. For a script the migrations find there the `database` to look at.
"""

import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging.config import fileConfig
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError

from tbpay import database, schema
from tbpay.database import Location, engines, files
from tbpay.errors import ConfirmationError, SchemaError, TbpayError

config = context.config
is_plain = config.cmd_opts is not None


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
        # The plain command shows its own kind of error as a line, any other as a traceback.
        raise CommandError(refusal.message) from refusal


@contextmanager
def named(location: Location) -> Iterator[None]:
    """Name the database in whatever a migration, Alembic or SQLite finds wrong with it."""
    try:
        with engines.translated(location):
            yield
    except CommandError as error:
        raise SchemaError(f"{str(error).rstrip('.')}; nothing was changed in {location}") from error
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        found = getattr(error, "orig", error)
        raise SchemaError(f"SQLite refuses: {found}; nothing was changed in {location}") from error


def run_offline(location: Location) -> None:
    context.configure(dialect_name="sqlite", literal_binds=True, **common())
    with looking_at(location) as there, context.begin_transaction():
        config.attributes["database"] = there
        context.run_migrations()


@contextmanager
def looking_at(location: Location) -> Iterator[sa.Connection | None]:
    if files.is_blank(location):
        yield None
        return
    with engines.engine(location).connect() as connection:
        engines.begin(connection, reading=True)
        yield connection


def run_online(location: Location) -> None:
    moves = is_asked_to_move()
    if moves and files.is_blank(location):
        context.configure(dialect_name="sqlite", **common())
        if steps_from(()):
            files.create(location)
    # Foreign keys are off: dropping a table would else delete the rows that point at it.
    engine = engines.new_engine(location, foreign_keys=False, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        engines.begin(connection, reading=not moves)
        context.configure(connection=connection, dont_mutate=not moves, **common())
        heads = context.get_context().get_current_heads()
        refuse_unknown(heads, location)
        config.attributes["revision"] = heads[0] if heads else None
        if not moves:
            context.run_migrations()
        elif steps_from(heads):
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
            raise engines.ahead(head, location)


def move(connection: sa.Connection, location: Location) -> None:
    before = rows_in_own_tables(connection)
    backup = files.back_up(location) if holds_rows(connection) else None
    is_done = False
    try:
        context.run_migrations()
        after = rows_in_own_tables(connection)
        refuse_loss({name: rows for name, rows in before.items() if rows and name not in after})
        revision = context.get_context().get_current_revision()
        if (on_commit := config.attributes.get("on_commit")) is not None:
            on_commit()
        connection.commit()
        is_done = True
    finally:
        # Where nothing was changed there is nothing that the copy could bring back.
        if backup is not None and not is_done:
            backup.unlink(missing_ok=True)
    if backup is not None:
        files.forget_old_backups(location)
    created = [name for name in after if name not in before]
    config.attributes.update(revision=revision, backup=backup, created=created, rows=after)


def common() -> dict[str, Any]:
    return {
        "target_metadata": schema.METADATA,
        "version_table": schema.VERSION_TABLE,
        "include_name": include_name,
        "include_object": include_object,
        "compare_type": True,
        "compare_server_default": True,
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
    return not (kind == "index" and reflected and found is None)


def tables(connection: sa.Connection) -> list[str]:
    """The tables that can be read without whatever extension a virtual one was made by."""
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
