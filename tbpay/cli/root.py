"""The root of the command line: its groups, each imported when it is used."""

import gc
import os
import sys
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from typing import Annotated, Any, NoReturn

# Typer asks this at its import. Help is plain text, which is quick and can be searched.
os.environ["TYPER_USE_RICH"] = "0"

import typer
from typer.core import TyperGroup

from tbpay import __version__, settings
from tbpay.cli import exits, options

GROUPS = (
    ("account", "Accounts: the customers.", "tbpay.cli.account"),
    ("order", "Orders: what customers buy, from pending to completed.", "tbpay.cli.order"),
    (
        "balance",
        "Balances: what accounts can spend, and the lines that say why.",
        "tbpay.cli.balance",
    ),
    ("discount", "Discount codes: named reductions and their uses.", "tbpay.cli.discount"),
    ("pricing", "Prices: what a segment costs in which country.", "tbpay.cli.pricing"),
    ("ledger", "The ledger: proof that all of it adds up.", "tbpay.cli.ledger"),
    ("audit", "The audit log: who changed what, and why.", "tbpay.cli.audit"),
    ("db", "The database: its schema and where it stands.", "tbpay.cli.db"),
)


class _Stub(TyperGroup):
    """A group by its name and its line of help; everything else is in its module."""

    def __init__(self, name: str, help: str, module: str) -> None:  # noqa: A002 - Typer's own word
        super().__init__(name=name, help=help, short_help=help)
        self._module = module

    @cached_property
    def _group(self) -> TyperGroup:
        group = typer.main.get_group(import_module(self._module).app)
        group.name = self.name
        return group

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        return self._group.make_context(*args, **kwargs)

    def list_commands(self, ctx: Any) -> list[str]:
        return self._group.list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self._group.get_command(ctx, cmd_name)


class _Root(options.Group):
    examples = (
        "tbpay db upgrade",
        "tbpay order list --status pending",
        "tbpay pricing quote +447700900123 --json",
        "tbpay order create --help",
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.commands.update({row[0]: _Stub(*row) for row in GROUPS})
        self.params.extend(options.everywhere())

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        """Run a command line to its exit code: every exception ends in the one handler."""
        arguments = list(sys.argv[1:] if args is None else args)
        code = exits.handle(lambda: self._run(arguments), as_json=options.wants_json(arguments))
        settings.choose_database(None)
        if "tbpay.database" in sys.modules:
            sys.modules["tbpay.database"].close()
        sys.exit(code)

    def _run(self, arguments: list[str]) -> None:
        with self.make_context("tbpay", arguments) as context:
            self.invoke(context)

    def invoke(self, ctx: Any) -> Any:
        ctx.obj = options.pop_flags(ctx.params, options.everywhere())
        return super().invoke(ctx)


app = typer.Typer(
    cls=_Root,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=options.HELP,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tbpay {__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, version: Version = False) -> None:  # noqa: ARG001 - eager
    """Orders, balances, discount codes and prices of a prepaid-SMS business."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run() -> None:
    """Run the command line of this process."""
    exits.open_standard_streams()
    exits.catch_signals()
    try:
        typer.main.get_command(app).main()
    except SystemExit:
        exits.close_standard_streams()
        # The interpreter looks for garbage once more before it ends, in all that was imported: an
        # eighth of the wait, for memory that is given back anyway.
        gc.freeze()
        raise
