"""``tbpay ledger``."""

from typing import Annotated

import typer

from tbpay.cli.exits import Exit
from tbpay.cli.options import chosen, command, group, show
from tbpay.cli.output import Format, write
from tbpay.cli.parameters import option
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
    from tbpay.cli.progress import progress
    from tbpay.reports.verify import Difference, verify

    account_id = None if account is None else account.find()
    # The database answers for so many lines at once that its first answer is worth a bar.
    with progress("lines verified", silent_seconds=0) as tell:
        found = verify(
            account_id, on_progress=tell and (lambda done, total: tell(done, done, total))
        )
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
