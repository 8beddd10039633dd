"""What tbpay refuses, and why: a few kinds of error, each with the facts in its message.

A message is lower case, without a full stop, and names the caller's own value. A ``hint`` is the
command that helps, where there is one. Which exit code a kind has is the command line's affair.
"""

from enum import StrEnum
from typing import ClassVar


class Code(StrEnum):
    """The reasons that a program can tell apart; ``error.code`` of the command line's JSON."""

    UNFORESEEN = "unforeseen"
    # bad input
    USAGE = "usage"
    INVALID = "invalid"
    # not found
    NOT_FOUND = "not_found"
    UNKNOWN = "unknown"
    # refused by a rule
    REFUSED = "refused"
    INSUFFICIENT_BALANCE = "insufficient_balance"
    BALANCE_LIMIT = "balance_limit"
    INACTIVE = "inactive"
    USED_UP = "used_up"
    NOT_STARTED = "not_started"
    EXPIRED = "expired"
    BELOW_MINIMUM = "below_minimum"
    BELOW_STRIPE_MINIMUM = "below_stripe_minimum"
    ACCOUNT_LIMIT = "account_limit"
    UNPRICED = "unpriced"
    # conflicts
    CONFLICT = "conflict"
    EXISTS = "exists"
    KEY_REUSED = "key_reused"
    # something outside
    UNAVAILABLE = "unavailable"
    BUSY = "busy"
    DISK_FULL = "disk_full"
    READ_ONLY = "read_only"
    UNREACHABLE = "unreachable"
    CORRUPT = "corrupt"
    NOT_A_DATABASE = "not_a_database"
    OUTPUT = "output"
    # schema
    SCHEMA_MISSING = "schema_missing"
    SCHEMA_BEHIND = "schema_behind"
    SCHEMA_AHEAD = "schema_ahead"
    SCHEMA_FOREIGN = "schema_foreign"
    # confirmation
    CONFIRMATION_NEEDED = "confirmation_needed"
    DECLINED = "declined"
    # nobody can say
    OUTCOME_UNKNOWN = "outcome_unknown"
    # stopped
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"


class TbpayError(Exception):
    """What all of tbpay's refusals have in common: a message, a code, perhaps a hint."""

    kind: ClassVar[Code] = Code.UNFORESEEN

    def __init__(self, message: str, *, code: Code | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.kind
        self.hint = hint


class InvalidInputError(TbpayError, ValueError):
    """A value that can never be right: of the wrong type, shape or range."""

    kind = Code.INVALID


class NotFoundError(TbpayError, LookupError):
    """Nothing bears this name."""

    kind = Code.NOT_FOUND


class RefusedError(TbpayError):
    """A rule of the business says no."""

    kind = Code.REFUSED


class ConflictError(TbpayError):
    """It exists already, or it has moved on meanwhile."""

    kind = Code.CONFLICT


class UnavailableError(TbpayError):
    """Something outside is not to be had, or cannot take the answer; nothing was changed."""

    kind = Code.UNAVAILABLE


class SchemaError(TbpayError):
    """The database's tables are missing, older, newer, or not tbpay's."""

    kind = Code.SCHEMA_FOREIGN


class ConfirmationError(TbpayError):
    """A yes is needed and was not given."""

    kind = Code.CONFIRMATION_NEEDED


class OutcomeUnknownError(TbpayError):
    """The connection died while it committed: whether that was kept, the database alone knows."""

    kind = Code.OUTCOME_UNKNOWN


def excerpt(value: object, most: int = 80) -> str:
    """Show a caller's value in a message: as it is written in Python, at most ``most`` characters.

    The shortened text says how long the value was.
    """
    if isinstance(value, str) and len(value) > most:
        return f"{value[:most]!r}… ({len(value):,} characters)"
    text = (
        repr(value) if not isinstance(value, int) or value.bit_length() < 256 else "a huge number"
    )
    return text if len(text) <= most else f"{text[:most]}…"
