"""``tbpay ledger``."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer

from tbpay.cli.exits import Exit
from tbpay.cli.options import chosen, command, group, option, show
from tbpay.cli.output import Format, write
from tbpay.cli.parsers import AccountRef, parse_account

app = group("The ledger: proof that all of it adds up.")


@command(app, "verify", "tbpay ledger verify", "tbpay ledger verify --account 7 --json")
def verify_(
    account: Annotated[
        AccountRef | None,
        option(
            "--account", parse_account, "A", "Only this account, the codes it used, and the guards."
        ),
    ] = None,
) -> None:
    """Prove all of the ledger by all the rest of it; exit 8 where something differs."""
    from tbpay.reports.verify import Difference, verify

    account_id = None if account is None else account.find()
    with _progress() as tell:
        found = verify(account_id, on_progress=tell)
    if chosen().format is Format.JSON:
        show(found)
    elif chosen().format is Format.TABLE:
        show(found.checks)
        if found.differences:
            write("\n")
            show(found.differences)
    else:
        show(found.differences, kind=Difference)
    if found.differences:
        raise typer.Exit(Exit.DIFFERENCES)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """Keep a line on stderr that tells how far the work is, where somebody sits and waits."""
    if not sys.stderr.isatty():
        yield None
        return
    width = 0

    def tell(done: int, total: int) -> None:
        nonlocal width
        line = f"note: {done:,} of {total:,} lines are verified"
        if done < total:
            width = len(line)
            _rewrite(line)

    try:
        yield tell
    finally:
        if width:
            _rewrite(" " * width)


def _rewrite(line: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"\r{line}\r")
        sys.stderr.flush()
