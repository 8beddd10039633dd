"""From a refusal to an exit code: one table, and one handler through which every command ends."""

import io
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from types import FrameType
from typing import TypeVar

import typer

from tbpay import settings
from tbpay.cli.output import json_text, note, safe
from tbpay.errors import (
    Code,
    ConfirmationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    SchemaError,
    TbpayError,
    UnavailableError,
)

T = TypeVar("T")


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
    UNKNOWN = 10
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
    OutcomeUnknownError: Exit.UNKNOWN,
}

# The parser's own errors have no public name of their own but their children's.
_ParserError: type[Exception] = typer.BadParameter.__mro__[2]


class UsageError(InvalidInputError):
    """A command line that says too little, too much, or two things at once."""

    kind = Code.USAGE


class _TerminatedError(BaseException):
    """SIGTERM, as an exception: so that the open unit of work is rolled back on the way out."""


LONGEST_MESSAGE = 1_000

_committed = False
_held: int | None = None  # 0: hold signals back; above: the one that came meanwhile


def catch_signals() -> None:
    """Let SIGINT and SIGTERM end a command as exceptions, which roll its unit of work back."""
    hold_signals()
    for each in (signal.SIGINT, signal.SIGTERM):
        # A job that its shell started in the background is not to hear a Ctrl-C.
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, _stop)


def hold_signals() -> None:
    """From here until the commit is known a signal waits: what it finds then is the truth."""
    global _held
    _held = _held or 0


def kept(work: Callable[[], T]) -> T:
    """Do work that commits, and that calls ``hold_signals`` just before it does.

    Once it has committed nothing turns success into failure.
    """
    global _committed
    try:
        answer = work()
        _committed = True
    except OutcomeUnknownError:
        # A signal that came meanwhile would say that nothing was changed, and nobody knows that.
        raise
    except BaseException:
        _release_signals()
        raise
    _release_signals()
    return answer


def _release_signals() -> None:
    """Let a signal through that came meanwhile, unless the change is committed."""
    global _held
    came, _held = _held, None
    if came and not _committed:
        _stop(came, None)


def handle(command: Callable[[], None], *, as_json: bool) -> int:
    """Run a command to its end and answer the exit code; say on stderr what went wrong.

    Before and after it signals are held back: what the exit code says stays true.
    """
    global _committed
    _committed = False
    try:
        _release_signals()
        command()
        sys.stdout.flush()
    except typer.Exit as end:
        return end.exit_code
    except BaseException as error:
        hold_signals()
        refusal, code = _refusal(error)
        if _committed:
            # Whatever it is that went wrong then, doing it again would do it twice.
            note(f"it is done, but not all of it could be said: {refusal.message}")
            return Exit.DONE
        if code is not Exit.PIPE_CLOSED:
            _report(refusal, code, as_json=as_json)
        return code
    finally:
        hold_signals()
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
        _write(context.get_help())
        message = "missing command"
    message = " ".join(message.split()).rstrip(".")
    if len(message) > LONGEST_MESSAGE:
        # The parser quotes what it was given, whole.
        message = f"{message[:LONGEST_MESSAGE]}…"
    return UsageError(message[:1].lower() + message[1:], hint=f"{command} --help")


def _report(error: TbpayError, code: Exit, *, as_json: bool) -> None:
    if settings.from_environment().debug:
        import traceback

        shown = _without_values(traceback.format_exc(), sys.exception())
        _write("\n".join(map(safe, shown.splitlines())))
    if as_json:
        facts = {"code": error.code, "exit": code, "message": error.message, "hint": error.hint}
        _write(json_text({"error": facts}))
    else:
        _write(f"error: {safe(error.message)}")
        if error.hint is not None:
            _write(f"hint: {safe(error.hint)}")


def _without_values(shown: str, error: BaseException | None) -> str:
    """Take out of a traceback what PostgreSQL quotes of a row that it refuses: all of it."""
    seen: list[BaseException] = []
    ahead = [error]
    while ahead:
        each = ahead.pop()
        # Errors may be each other's cause.
        if each is not None and each not in seen:
            quoted = getattr(getattr(each, "diag", None), "message_detail", None)
            shown = shown.replace(quoted, "…") if quoted else shown
            seen.append(each)
            ahead += [each.__cause__, each.__context__]
    return shown


# Where a URL with a password was typed in the place of something else, the parser quotes it.
_PASSWORD = re.compile(r"(://[^\s/:@]*):[^\s@]*@")


def _write(line: str) -> None:
    """Write a line to stderr; where stderr cannot take it, the exit code still tells."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(_PASSWORD.sub(r"\1:***@", f"{line}\n"))
        sys.stderr.flush()


def _stop(number: int, _frame: FrameType | None) -> None:
    global _held
    first, _held = _held is None, number
    # One is enough: another that comes while the first is dealt with waits for ever.
    if first and number == signal.SIGTERM:
        raise _TerminatedError
    if first:
        raise KeyboardInterrupt


def open_standard_streams() -> None:
    """Fill descriptors that were closed before the start, or a database file would become one.

    What is read from a stdin that nobody opened fails, and what is written to such a stdout, as it
    should; stderr swallows.
    """
    for descriptor, name, flags in (
        (0, "stdin", os.O_RDONLY),
        (1, "stdout", os.O_RDONLY),
        (2, "stderr", os.O_WRONLY),
    ):
        is_filled = getattr(sys, name) is None and os.open(os.devnull, flags) == descriptor
        if is_filled and name != "stdin":
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))
    if sys.stdout is not None and isinstance(sys.stdout.buffer, io.RawIOBase):
        # With PYTHONUNBUFFERED it would drop what a pipe or a disk does not take, without a word.
        sys.stdout = os.fdopen(1, "w", encoding=sys.stdout.encoding, closefd=False)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # A terminal of another encoding shows what it can, and what is typed there is no error.
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # or not


def close_standard_streams() -> None:
    """Keep the interpreter from flushing once more, and from complaining that it cannot.

    Every answer was flushed when it was written: what a stream has not taken then, it never will.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
