"""``tbpay db``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tbpay.cli import exits
from tbpay.cli.change import confirm_by_name
from tbpay.cli.exits import Exit, UsageError
from tbpay.cli.options import chosen, command, group, show
from tbpay.cli.output import Format, note, write
from tbpay.cli.parameters import argument

if TYPE_CHECKING:
    from tbpay.migrations import Migration, Status

app = group("The database: its schema and where it stands.")

Sql = Annotated[bool, typer.Option("--sql", help="Print what would run, and run nothing.")]


@command(app, "upgrade", "tbpay db upgrade", "tbpay db upgrade --database /srv/web/app.db --sql")
def upgrade(
    revision: Annotated[str, argument(str, "REV", "The revision to go to.")] = "head",
    sql: Sql = False,
) -> None:
    """Bring the tables up to date. A SQLite file is made, or backed up if it holds rows."""
    from tbpay import migrations
    from tbpay.database import location

    if sql:
        _print_script(revision)
        return
    before = migrations.status().revision or "base"
    done = exits.kept(lambda: migrations.upgrade(revision, on_commit=exits.hold_signals))
    if any(table.how == "adopted" and table.table != "accounts" for table in done.tables):
        kept = f"; they are in {done.backup}" if done.backup else ""
        note(f"no command undoes this: a downgrade would drop the rows{kept}")
    elif done.steps:
        note(f"to undo: {location().command(f'db downgrade {before}')}")
    show(done, people=_for_people)


@command(app, "downgrade", "tbpay db downgrade 0002", "tbpay db downgrade base --confirm base")
def downgrade(
    revision: Annotated[str, argument(str, "REV", "The revision to go back to, or base.")],
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="REV", help="REV again, instead of asking.")
    ] = None,
    sql: Sql = False,
) -> None:
    """Take the tables back to an earlier revision. A SQLite file is backed up; accounts stays."""
    from tbpay import migrations

    if sql:
        _print_script(revision, down=True)
        return
    dropped = [
        _counted(table, rows)
        for table, rows in migrations.require_way_down(revision).items()
        if rows
    ]
    drops = f", which drops {', '.join(dropped)}," if dropped else ""
    confirm_by_name(f"downgrade to {revision}{drops}", revision, confirm)
    done = exits.kept(
        lambda: migrations.downgrade(revision, confirmed=revision, on_commit=exits.hold_signals)
    )
    show(done, people=_for_people)


@command(app, "status", "tbpay db status", "tbpay db status --json")
def status() -> None:
    """Tell where the database stands: its revision, what is pending, its size."""
    from tbpay import migrations

    show(migrations.status(), people=_status_for_people)


@command(app, "check", "tbpay db check")
def check() -> None:
    """Compare the database with the schema that tbpay expects; exit 8 where they differ."""
    from tbpay import migrations
    from tbpay.database import location

    found = migrations.check()
    note(f"{location()} is compared with revision {migrations.HEAD}")
    show(found, kind=migrations.Difference, none="no differences")
    if found:
        raise typer.Exit(Exit.DIFFERENCES)


def _print_script(revision: str, *, down: bool = False) -> None:
    from tbpay import migrations
    from tbpay.database import location

    if chosen().format is not Format.TABLE:
        raise UsageError("a script is text: --sql has no other format")
    script = migrations.script(revision, down=down)
    note(f"this is for {location()}")
    write(script)


def _for_people(done: "Migration") -> dict[str, Any]:
    from tbpay.database import File, location

    adopted = [_counted(each.table, each.rows) for each in done.tables if each.how == "adopted"]
    created = [each.table for each in done.tables if each.how == "created"]
    return {
        "database": f"{done.database} ({done.source})",
        "revision": done.revision or "base",
        "steps": "; ".join(f"{step.revision} {step.title}" for step in done.steps) or "none",
        **({"adopted": ", ".join(adopted)} if adopted else {}),
        **({"created": ", ".join(created)} if created else {}),
        # The backups of a server are its own affair.
        **({"backup": done.backup} if isinstance(location(), File) else {}),
    }


def _counted(table: str, rows: int) -> str:
    return f"{table} ({rows} row{'' if rows == 1 else 's'})"


def _status_for_people(found: "Status") -> dict[str, Any]:
    return {
        "database": f"{found.database} ({found.source})",
        "revision": f"{found.revision} {found.title}" if found.revision else "none",
        "head": found.head,
        "pending": "; ".join(f"{step.revision} {step.title}" for step in found.pending) or "none",
        "size_bytes": found.size_bytes,
    }
