"""Run migrations: one transaction for all of them, a backup before it, no loss without a word.

The plain `alembic` command and `tbpay db` both come through here. What `tbpay` knows it hands over
in `config.attributes`: `location`, `confirmed` (the revision that the operator typed), `on_begin`
(called with the connection before anything is written), `on_backup`, `on_step`, and for a script
`present` (the tables that are there already).
"""

from logging.config import fileConfig
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError
from tbpay import database, schema
from tbpay.database import engines, files
from tbpay.errors import TbpayError

config = context.config
location = config.attributes.get("location") or database.location()
OWN_TABLES = [table for table in schema.METADATA.tables if table != "accounts"]


def run() -> None:
    if config.config_file_name is not None:
        fileConfig(config.config_file_name, disable_existing_loggers=False)
    try:
        run_offline() if context.is_offline_mode() else run_online()
    except TbpayError as refusal:
        if config.cmd_opts is None:
            raise
        # The plain command shows its own kind of error as a line, any other as a traceback.
        raise CommandError(refusal.message) from refusal


def run_offline() -> None:
    context.configure(dialect_name="sqlite", literal_binds=True, **common(on_step=()))
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    changes = is_asked_to_move()
    if changes and destination() is not None:
        files.create_missing(location)
    # Foreign keys are off: dropping a table would else delete the rows that point at it.
    engine = engines.new_engine(location, foreign_keys=False, poolclass=sa.pool.NullPool)
    with engines.translated(location), engine.connect() as connection:
        how = engines.reading.set(not changes)
        connection.begin()
        engines.reading.reset(how)
        config.attributes.get("on_begin", lambda _: None)(connection)
        context.configure(connection=connection, **common(on_step=watch(connection)))
        moves = changes and destination() != context.get_context().get_current_revision()
        backup = files.back_up(location) if moves and holds_rows(connection) else None
        migrate(connection, backup, keep=changes)


def migrate(connection: sa.Connection, backup: Path | None, *, keep: bool) -> None:
    try:
        context.run_migrations()
        if keep:
            connection.commit()
    except BaseException:
        # Nothing was changed, so there is nothing that the copy could bring back.
        if backup is not None:
            backup.unlink(missing_ok=True)
        raise
    if backup is not None:
        files.forget_old_backups(location)
        config.attributes.get("on_backup", lambda _: None)(backup)


def is_asked_to_move() -> bool:
    """Tell `upgrade`, `downgrade` and `stamp` from `current` and `check`, which name no revision."""
    try:
        destination()
    except KeyError:
        return False
    return True


def destination() -> object:
    """The revision to arrive at, None for base; a relative one (`+1`) stands for itself."""
    try:
        return context.get_revision_argument()
    except CommandError as relative:
        return relative


def common(*, on_step: Any) -> dict[str, Any]:
    return {
        "target_metadata": schema.METADATA,
        "version_table": schema.VERSION_TABLE,
        "include_name": include_name,
        "include_object": include_object,
        "compare_type": True,
        "compare_server_default": True,
        "transactional_ddl": True,
        "on_version_apply": on_step,
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


def holds_rows(connection: sa.Connection) -> bool:
    names = [
        name for name in sa.inspect(connection).get_table_names() if name != schema.VERSION_TABLE
    ]
    return any(count(connection, name, most=1) for name in names)


def count(connection: sa.Connection, name: str, *, most: int | None = None) -> int:
    rows = sa.select(sa.literal(1)).select_from(sa.table(name)).limit(most).subquery()
    return connection.execute(sa.select(sa.func.count()).select_from(rows)).scalar_one()


def watch(connection: sa.Connection) -> list[Any]:
    """Refuse a downgrade that drops a table with rows, unless its revision was typed."""
    present = sa.inspect(connection).get_table_names()
    held = {name: count(connection, name) for name in OWN_TABLES if name in present}
    confirmed, written = answer()

    def refuse_loss(*, step: Any, **_: Any) -> None:
        left = sa.inspect(connection).get_table_names()
        lost = [
            f"{name} ({rows:,} rows)" for name, rows in held.items() if rows and name not in left
        ]
        if step.is_upgrade or not lost or (confirmed is not None and confirmed == written):
            return
        raise CommandError(
            f"this downgrade drops {', '.join(lost)}: confirm it with -x confirm={written or 'REV'}"
        )

    return [refuse_loss, *config.attributes.get("on_step", ())]


def answer() -> tuple[str | None, str | None]:
    """What was typed as the confirmation, and the revision as it was written."""
    if config.cmd_opts is None:
        confirmed = config.attributes.get("confirmed")
        return confirmed, confirmed
    typed = context.get_x_argument(as_dictionary=True).get("confirm")
    return typed, getattr(config.cmd_opts, "revision", None)


run()
