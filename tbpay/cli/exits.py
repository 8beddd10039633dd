"""From a refusal to an exit code: one table, and one handler through which every command ends."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from types import FrameType
from typing import NoReturn

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


def work_is_kept() -> None:
    """Note that the change is committed: from here on nothing turns success into failure."""
    global _committed
    _committed = True


def handle(command: Callable[[], None], *, as_json: bool) -> int:
    """Run a command to its end and answer the exit code; say on stderr what went wrong."""
    global _committed
    _committed = False
    try:
        with _sigterm_raises():
            command()
            sys.stdout.flush()
    except typer.Exit as end:
        return end.exit_code
    except BrokenPipeError:
        return _without_reader(Exit.PIPE_CLOSED)
    except KeyboardInterrupt:
        return _stopped(Exit.INTERRUPTED)
    except _TerminatedError:
        return _stopped(Exit.TERMINATED)
    except _ParserError as error:
        return _report(_usage(error), Exit.USAGE, as_json=as_json)
    except TbpayError as error:
        if error.code is Code.OUTPUT and _committed:
            return _without_reader(Exit.DONE)
        code = next(code for kind, code in EXIT_OF.items() if isinstance(error, kind))
        return _report(error, code, as_json=as_json)
    except OSError as error:
        outside = UnavailableError(f"{error.strerror or error}")
        return _report(outside, Exit.UNAVAILABLE, as_json=as_json)
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), "")
        unforeseen = TbpayError(
            f"unforeseen: {type(error).__name__}: {first_line}",
            hint=None if settings.from_environment().debug else "TBPAY_DEBUG=1 shows where",
        )
        return _report(unforeseen, Exit.UNFORESEEN, as_json=as_json)
    return Exit.DONE


def _without_reader(code: Exit) -> Exit:
    """The answer found no taker: a change that is kept is a success all the same."""
    if not _committed:
        return code
    note("the change was made; stdout could not take the answer")
    return Exit.DONE


def _stopped(code: Exit) -> Exit:
    if _committed:
        note("the change was made")
        return Exit.DONE
    _write("interrupted: nothing was changed")
    return code


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


def _report(error: TbpayError, code: Exit, *, as_json: bool) -> Exit:
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
    return code


def _write(line: str, *, raw: bool = False) -> None:
    """Write a line to stderr; where stderr cannot take it, the exit code still tells."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{line.rstrip()}\n" if raw else f"{line}\n")
        sys.stderr.flush()


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise _TerminatedError

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not in the main thread, where no signal arrives anyway
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
