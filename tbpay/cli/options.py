"""What all commands share: their flags, how they show an answer, and the command class.

A flag stands before the group or after the verb; after the verb it wins. Shared flags are appended
to every command here, and reach it through ``chosen()``, so that a command declares its own alone.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from tbpay import models, money, settings
from tbpay.cli import output
from tbpay.cli.exits import UsageError
from tbpay.cli.output import Format
from tbpay.cli.parameters import typed
from tbpay.cli.parsers import parse_database, parse_format, parse_limit
from tbpay.errors import InvalidInputError

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., Any])


class Chosen(NamedTuple):
    """What the shared flags of the running command say."""

    format: Format = Format.TABLE
    dry_run: bool = False
    yes: bool = False
    limit: int | None = 50
    cursor: str | None = None
    verb: str = "tbpay"
    words: Sequence[str] = ()

    @property
    def paging(self) -> dict[str, Any]:
        """The page that a list is asked for."""
        return {"limit": self.limit, "cursor": self.cursor}

    def repetition(self, key: str | None = None, *more: str) -> str:
        """Spell the running command once more, under a key where there is one, with more flags."""
        import shlex

        flag = [] if key is None or any(key in word for word in self.words) else ["--key", key]
        return shlex.join([*self.verb.split(), *flag, *more, *self.words])


_chosen = Chosen()


def chosen() -> Chosen:
    """Answer what the shared flags say."""
    return _chosen


def show(
    answer: object,
    *,
    columns: Sequence[str] = (),
    kind: type | None = None,
    people: Callable[[Any], Mapping[str, object]] | None = None,
    none: str = "none found",
) -> None:
    """Write the command's answer in the format that was asked for.

    ``people`` words a thing for those who read it in a table or in lines; programs get its fields.
    ``none`` is what an empty list says to people.
    """
    if people is not None and _chosen.format is Format.TABLE:
        if isinstance(answer, models.Page):
            answer = models.Page([people(thing) for thing in answer.items], answer.next)
        else:
            answer = people(answer)
    output.show(answer, _chosen.format, columns=columns, kind=kind, none=none)


def in_one_amount(fields: dict[str, Any]) -> dict[str, object]:
    """Put what a balance has in whole cents and in micros into one amount, for people."""
    shown: dict[str, object] = {}
    for name, value in fields.items():
        if name == "balance_cents":
            shown["balance_micros"] = value * money.MICROS_PER_CENT + fields["subcent_micros"]
        elif name != "subcent_micros":
            shown[name] = value
    return shown


# --- the command class ---


def command(
    app: typer.Typer, verb: str, *examples: str, changes: bool = False, lists: bool = False
) -> Callable[[C], C]:
    """Register a function as a command, with the flags that its kind has and its examples."""
    cls = _Change if changes else _List if lists else Command

    def register(function: C) -> C:
        line = (function.__doc__ or "").partition("\n")[0]
        return app.command(verb, cls=cls, epilog="\n".join(examples), short_help=line)(function)

    return register


def group(help: str) -> typer.Typer:  # noqa: A002 - Typer's own word
    """Make a group of commands; without a verb it prints its help."""
    return typer.Typer(
        cls=Group,
        help=help,
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings=HELP,
        add_completion=False,
    )


HELP = {"help_option_names": ["-h", "--help"]}


class Group(TyperGroup):
    """A group of commands, whose help shows an example of each unless it has its own."""

    examples: Sequence[str] = ()

    def format_epilog(self, _ctx: Any, formatter: Any) -> None:
        """Write the examples as they are, a line each."""
        firsts = [str(command.epilog).partition("\n")[0] for command in self.commands.values()]
        _write_examples(self.examples or firsts, formatter)


_TYPED = "tbpay.typed"


class Command(TyperCommand):
    """A command with the flags that stand everywhere."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.context_settings = HELP
        self.params.extend(self.shared())

    def shared(self) -> list[TyperOption]:
        """Answer the flags of this kind of command."""
        return everywhere()

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse what follows the verb, and keep it as it was typed."""
        ctx.meta[_TYPED] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Settle the shared flags, then run the command with its own."""
        global _chosen
        given = pop_flags(ctx.params, self.shared())
        before = ctx.find_root().obj
        settings.choose_database(given["database"] or before.get("database"))
        words = ctx.meta[_TYPED]
        if before.get("database") and not given["database"]:
            words = ["--database", before["database"], *words]
        _chosen = Chosen(
            format=choose_format(given, before),
            dry_run=given.get("dry_run", False),
            yes=given.get("yes", False),
            limit=None if given.get("all") else given.get("limit") or 50,
            cursor=given.get("cursor"),
            verb=ctx.command_path,
            words=words,
        )
        if given.get("all") and given.get("limit"):
            raise UsageError("--all and --limit exclude each other")
        try:
            return super().invoke(ctx)
        except UsageError as error:
            error.hint = error.hint or f"{ctx.command_path} --help"
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Name the arguments in the usage line as everywhere else, without Typer's braces."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_epilog(self, _ctx: Any, formatter: Any) -> None:
        """Write the examples as they are, a line each."""
        _write_examples(str(self.epilog).splitlines(), formatter)


def _write_examples(examples: Sequence[str], formatter: Any) -> None:
    with formatter.section("Examples"):
        for example in examples:
            formatter.write(f"  {example}\n")


def pop_flags(params: dict[str, Any], flags: list[TyperOption]) -> dict[str, Any]:
    """Take the shared flags out of what a command's own function is given."""
    return {str(flag.name): params.pop(str(flag.name)) for flag in flags}


class _Change(Command):
    def shared(self) -> list[TyperOption]:
        return [
            _flag("--dry-run", "Check everything, answer the same, change nothing."),
            _flag("--yes", "Do not ask."),
            *everywhere(),
        ]


class _List(Command):
    def shared(self) -> list[TyperOption]:
        highest = f"1 to {models.MAX_LIMIT:,}"
        return [
            _value("--limit", "N", f"How many at most, {highest} (50 unless given).", parse_limit),
            _flag("--all", "All of them."),
            _value("--cursor", "C", "Go on where the page before ended: its `next`.", str),
            *everywhere(),
        ]


def everywhere() -> list[TyperOption]:
    """Make the flags that stand before every group and after every verb."""
    return [
        _value("--database", "URL-or-PATH", "The database to work on.", parse_database),
        _value("--format", "FORMAT", "table, json, csv or tsv.", parse_format, "-o"),
        _flag("--json", "The same as --format json."),
    ]


def _flag(name: str, text: str) -> TyperOption:
    return TyperOption(param_decls=[name], is_flag=True, default=False, help=text)


def _value(
    name: str, metavar: str, text: str, parse: Callable[[str], Any], *more: str
) -> TyperOption:
    return TyperOption(param_decls=[*more, name], type=typed(parse), metavar=metavar, help=text)


# --- which format ---


def choose_format(given: dict[str, Any], before: dict[str, Any]) -> Format:
    """Settle the format: the flag after the verb, the one before the group, the environment."""
    for flags in (given, before):
        if flags.get("json"):
            if flags.get("format") not in (None, Format.JSON):
                raise UsageError(f"--json and --format {flags['format']} exclude each other")
            return Format.JSON
        if flags.get("format"):
            return flags["format"]  # type: ignore[no-any-return]  # parsed
    named = settings.from_environment().format
    if named is None:
        return Format.TABLE
    try:
        return parse_format(named)
    except InvalidInputError as error:
        raise InvalidInputError(f"TBPAY_FORMAT: {error.message}") from error


def wants_json(arguments: Sequence[str]) -> bool:
    """Tell from the bare arguments whether an error is to be JSON: the parser may not get far."""
    words = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    named = settings.from_environment().format
    for word, following in pairwise([*words, ""]):
        given = ""
        if word == "--json":
            given = Format.JSON
        elif word in ("-o", "--format"):
            given = following
        elif word.startswith("--format="):
            given = word.removeprefix("--format=")
        elif word.startswith("-o"):
            given = word.removeprefix("-o")
        if given in list(Format):
            named = given
    return named == Format.JSON
