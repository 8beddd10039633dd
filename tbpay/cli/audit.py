"""``tbpay audit``."""

from typing import Annotated

from tbpay.cli.options import chosen, command, group, show
from tbpay.cli.parameters import Since, option
from tbpay.cli.parsers import parse_text
from tbpay.models import AuditEntry

app = group("The audit log: who changed what, and why.")


@command(
    app,
    "list",
    "tbpay audit list --since 7d",
    'tbpay audit list --subject "order 12" --actor ann',
    lists=True,
)
def list_(
    actor: Annotated[
        str | None, option("--actor", parse_text, "A", "Only what this one did.")
    ] = None,
    subject: Annotated[
        str | None, option("--subject", parse_text, "S", 'Only this one, such as "order 12".')
    ] = None,
    since: Since = None,
) -> None:
    """List the changes made through this command line, newest first."""
    from tbpay.stores import audit_store

    found = audit_store.find(actor=actor, subject=subject, since=since, **chosen().paging)
    show(
        found,
        columns=("id", "at", "actor", "action", "subject", "reason"),
        kind=AuditEntry,
    )
