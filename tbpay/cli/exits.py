"""From a refusal to an exit code: one table, and one handler through which every command ends."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from types import FrameType

import typer

from tbpay import settings
from tbpay.cli.output import note, safe
from tbpay.errors import (
    Code,
    ConfirmationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    SchemaError,
    TbpayError,
    UnavailableError,
)


class Exit(IntEnum):
    """What a command's exit code means. 8 is an answer and stands on stdout."""

    DONE = 0
    UNFORESEEN = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    SCHEMA = 7
    DIFFERENCES = 8
    UNCONFIRMED = 9
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


EXIT_OF: dict[type[TbpayError], Exit] = {
    InvalidInputError: Exit.USAGE,
    NotFoundError: Exit.NOT_FOUND,
    RefusedError: Exit.REFUSED,
    ConflictError: Exit.CONFLICT,
    UnavailableError: Exit.UNAVAILABLE,
    SchemaError: Exit.SCHEMA,
    ConfirmationError: Exit.UNCONFIRMED,
}

# The parser's own errors have no public name of their own but their children's.
_ParserError: type[Exception] = typer.BadParameter.__mro__[2]


class UsageError(InvalidInputError):
    """A command line that says too little, too much, or two things at once."""

    kind = Code.USAGE


class _TerminatedError(BaseException):
    """SIGTERM, as an exception: so that the open unit of work is rolled back on the way out."""


_committed = False
_held: int | None = None  # 0: hold signals back; above: the one that came meanwhile


def hold_signals() -> None:
    """From here until the commit is known a signal waits: what it finds then is the truth."""
    global _held
    _held = 0


def work_is_kept() -> None:
    """Note that the change is committed: from here on nothing turns success into failure."""
    global _committed
    _committed = True


def release_signals() -> None:
    """Let a signal through that came meanwhile, unless the change is committed."""
    global _held
    came, _held = _held, None
    if came and not _committed:
        _stop(came, None)


def handle(command: Callable[[], None], *, as_json: bool) -> int:
    """Run a command to its end and answer the exit code; say on stderr what went wrong."""
    global _committed
    _committed = False
    try:
        with _signals_raise():
            command()
            sys.stdout.flush()
    except typer.Exit as end:
        return end.exit_code
    except BaseException as error:
        if _committed:
            # Whatever it is that went wrong then, doing it again would do it twice.
            note(f"the change was made, but not all was said: {type(error).__name__}: {error}")
            return Exit.DONE
        refusal, code = _refusal(error)
        if code is not Exit.PIPE_CLOSED:
            _report(refusal, code, as_json=as_json)
        return code
    return Exit.DONE


def _refusal(error: BaseException) -> tuple[TbpayError, Exit]:
    """Answer an exception in our own words, and its exit code."""
    match error:
        case BrokenPipeError():
            return TbpayError("the reader went away", code=Code.OUTPUT), Exit.PIPE_CLOSED
        case KeyboardInterrupt():
            return TbpayError("interrupted", code=Code.INTERRUPTED), Exit.INTERRUPTED
        case _TerminatedError():
            return TbpayError("terminated", code=Code.TERMINATED), Exit.TERMINATED
        case _ParserError():
            return _usage(error), Exit.USAGE
        case TbpayError():
            return error, next(code for kind, code in EXIT_OF.items() if isinstance(error, kind))
        case OSError():
            return UnavailableError(error.strerror or str(error)), Exit.UNAVAILABLE
    first_line = next(iter(str(error).splitlines()), "")
    debug = settings.from_environment().debug
    unforeseen = TbpayError(
        f"unforeseen: {type(error).__name__}: {first_line}",
        hint=None if debug else "TBPAY_DEBUG=1 shows where",
    )
    return unforeseen, Exit.UNFORESEEN


def _usage(error: Exception) -> UsageError:
    """Word a parser's error as ours, and point to the help of the command that it is about."""
    message = getattr(error, "format_message", lambda: str(error))()
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "tbpay"
    if context is not None and type(error).__name__ == "NoArgsIsHelpError":
        _write(context.get_help(), raw=True)
        message = "missing command"
    message = " ".join(message.split()).rstrip(".")
    return UsageError(message[:1].lower() + message[1:], hint=f"{command} --help")


def _report(error: TbpayError, code: Exit, *, as_json: bool) -> None:
    if settings.from_environment().debug:
        import traceback

        _write(traceback.format_exc(), raw=True)
    if as_json:
        import json

        facts = {"code": error.code, "exit": code, "message": error.message, "hint": error.hint}
        _write(json.dumps({"error": facts}))
    else:
        _write(f"error: {safe(error.message)}")
        if error.hint is not None:
            _write(f"hint: {safe(error.hint)}")


def _write(line: str, *, raw: bool = False) -> None:
    """Write a line to stderr; where stderr cannot take it, the exit code still tells."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{line.rstrip()}\n" if raw else f"{line}\n")
        sys.stderr.flush()


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let SIGINT and SIGTERM end a command as exceptions, which roll its unit of work back."""
    try:
        before = {each: signal.signal(each, _stop) for each in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where no signal arrives anyway
        yield
        return
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    global _held
    if _held is not None:
        _held = number
    elif number == signal.SIGTERM:
        raise _TerminatedError
    else:
        raise KeyboardInterrupt


def open_standard_streams() -> None:
    """Fill descriptors that were closed before the start, or a database file would become one.

    What is written to a stdout that nobody opened fails, as it should; stderr swallows.
    """
    for descriptor, name, flags in (
        (0, "stdin", os.O_RDONLY),
        (1, "stdout", os.O_RDONLY),
        (2, "stderr", os.O_WRONLY),
    ):
        if getattr(sys, name) is None and os.open(os.devnull, flags) == descriptor:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        # A terminal of another encoding shows what it can.
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def close_standard_streams() -> None:
    """Flush for the last time, and keep the interpreter from trying again and complaining."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
