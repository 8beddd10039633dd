"""How a command changes something: ask, do it in one unit, write who did it, say what undoes it."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from tbpay.cli import exits
from tbpay.cli.options import chosen
from tbpay.cli.output import Format, note, safe
from tbpay.errors import Code, ConfirmationError, InvalidInputError, OutcomeUnknownError
from tbpay.models import AuditEntry

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
    key: str | None = None,
    repeatable: bool = True,
    reason: str | None = None,
    detail: Callable[[T], dict[str, Any]] = lambda _: {},
    undo: Callable[[T], str | None] = lambda _: None,
) -> T:
    """Do the work and write its audit row, in one unit; with ``--dry-run`` take both back.

    ``before`` reads what the work is about to change: where it comes out the same, or the work
    answers a replay, nothing was changed and no row is written. ``undo`` words the command that
    takes the change back. Work that finds out by itself whether it is done already, by its ``key``
    or by what it has to change, is ``repeatable``: it is done again where the connection died while
    it committed.
    """
    from tbpay.database import atomically, location
    from tbpay.stores import audit_store

    written: tuple[T, AuditEntry] | None = None

    def unit() -> tuple[T, bool]:
        nonlocal written
        old = before()
        answer = work()
        if written is not None and _is_kept(written[1]):
            # This is the second try, and the first one was kept: what it answered is the answer.
            return written[0], True
        changed = answer != old and not _is_replay(answer)
        if changed:
            named = subject if isinstance(subject, str) else subject(answer)
            entry = audit_store.record(action, named, reason=reason, **detail(answer))
            written = answer, entry
        if chosen().dry_run:
            raise _RolledBackError(answer)
        exits.hold_signals()
        return answer, changed

    try:
        answer, changed = exits.kept(lambda: atomically(unit, repeatable=repeatable))
    except _RolledBackError as dry_run:
        note("dry run: nothing was changed")
        return dry_run.answer  # type: ignore[no-any-return]  # a T it was
    except OutcomeUnknownError as error:
        looks = location().command("audit list --since 1h")
        error.hint = chosen().repetition(key) if repeatable else looks
        raise
    if not changed:
        was = "done" if _is_replay(answer) else "so"
        note(f"nothing was changed: it was {was} already")
    elif (words := undo(answer)) is not None:
        note(f"to undo: {location().command(words)}")
    return answer


def _is_replay(answer: object) -> bool:
    return getattr(answer, "replayed", False)


def _is_kept(entry: AuditEntry) -> bool:
    """Tell whether a unit was kept that wrote this row and whose end nobody saw."""
    from tbpay.stores import audit_store

    return entry in audit_store.find(subject=entry.subject, since=entry.at, limit=None).items


def settled_key(given: str | None) -> str | None:
    """Answer the key that the work is done under: the one that was given, or a new one.

    A new one is said before anything is done, so that what ends without an answer can be repeated.
    A dry run leaves nothing to be repeated, and needs none.
    """
    if given is not None or chosen().dry_run:
        return given
    key = os.urandom(16).hex()
    note(f"should the outcome stay unknown, repeat with --key {key}")
    return key


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
    line = ""
    try:
        sys.stderr.write(safe(question))
        sys.stderr.flush()
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
