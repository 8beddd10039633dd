"""How a command changes something: ask, do it in one unit, write who did it, say what undoes it."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from tbpay.cli import exits
from tbpay.cli.options import chosen
from tbpay.cli.output import Format, note, safe
from tbpay.errors import Code, ConfirmationError, InvalidInputError

T = TypeVar("T")


class _RolledBackError(Exception):
    """Carries a dry run's answer out of the unit of work, which it ends."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer


def change(
    action: str,
    subject: str | Callable[[T], str],
    work: Callable[[], T],
    *,
    before: Callable[[], object] = lambda: None,
    reason: str | None = None,
    detail: Callable[[T], dict[str, Any]] = lambda _: {},
    undo: Callable[[T], str | None] = lambda _: None,
) -> T:
    """Do the work and write its audit row, in one unit; with ``--dry-run`` take both back.

    ``before`` reads what the work is about to change: where it comes out the same, nothing was
    changed and no row is written. ``undo`` words the command that takes the change back.
    """
    from tbpay.database import atomically, location
    from tbpay.stores import audit_store

    def unit() -> tuple[T, bool]:
        old = before()
        answer = work()
        changed = answer != old and not getattr(answer, "replayed", False)
        if changed:
            named = subject if isinstance(subject, str) else subject(answer)
            audit_store.record(action, named, reason=reason, **detail(answer))
        if chosen().dry_run:
            raise _RolledBackError(answer)
        exits.hold_signals()
        return answer, changed

    try:
        answer, changed = exits.kept(lambda: atomically(unit))
    except _RolledBackError as dry_run:
        note("dry run: nothing was changed")
        return dry_run.answer  # type: ignore[no-any-return]  # a T it was
    if not changed:
        note("nothing was changed: it was so already")
    elif (words := undo(answer)) is not None:
        note(f"to undo: {location().command(words)}")
    return answer


def preview(work: Callable[[], T]) -> T:
    """Answer what the work would answer, and change nothing."""
    from tbpay.database import atomically

    def unit() -> T:
        raise _RolledBackError(work())

    try:
        return atomically(unit)
    except _RolledBackError as rolled_back:
        return rolled_back.answer  # type: ignore[no-any-return]  # a T it was


def confirm(what: str) -> None:
    """Ask for a yes, unless ``--yes`` or ``--dry-run`` was given; anything else changes nothing.

    Raises ConfirmationError for a no, and where there is nobody to ask.
    """
    if chosen().yes or chosen().dry_run:
        return
    if not can_ask():
        raise ConfirmationError(f"{what} needs a yes: repeat with --yes")
    if _ask(f"{what} in {_database()}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ConfirmationError("not confirmed: nothing was changed", code=Code.DECLINED)


def confirm_by_name(what: str, name: str, typed: str | None) -> None:
    """Ask for a name to be typed, unless ``--confirm`` brought it."""
    if typed is None:
        if not can_ask():
            raise ConfirmationError(
                f"{what} in {_database()} must be confirmed: repeat with --confirm {name}"
            )
        typed = _ask(f"{what} in {_database()}. Type {name} to go on: ").strip()
    if typed != name:
        raise ConfirmationError("not confirmed: nothing was changed", code=Code.DECLINED)


def ask(question: str, parse: Callable[[str], T]) -> T:
    """Ask until the answer can be read; the end of the input is a no."""
    while True:
        try:
            return parse(_ask(f"{question}: ").strip())
        except InvalidInputError as error:
            note(error.message)


def can_ask() -> bool:
    """Tell whether somebody sits there: a terminal to read from, one to ask on, no JSON wanted."""
    streams = (sys.stdin, sys.stderr)
    return chosen().format is not Format.JSON and all(
        stream is not None and stream.isatty() for stream in streams
    )


def _ask(question: str) -> str:
    sys.stderr.write(safe(question))
    sys.stderr.flush()
    line = ""
    try:
        line = sys.stdin.readline()
    finally:
        if not line:  # the cursor still stands behind the question
            sys.stderr.write("\n")
    if not line:
        raise ConfirmationError("no answer: nothing was changed", code=Code.DECLINED)
    return line


def _database() -> str:
    from tbpay.database import location

    return str(location())
