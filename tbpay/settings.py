"""The settings that the environment gives, read in one place: every ``TBPAY_*`` variable."""

import os
import pwd
from typing import NamedTuple


# A named tuple, as everything small on the way to a command's start: a frozen dataclass takes
# three times as long to define.
class Settings(NamedTuple):
    """What the environment says; None where it says nothing. An empty variable says nothing."""

    database_url: str | None
    format: str | None
    actor: str | None
    debug: bool


def from_environment() -> Settings:
    """Read ``TBPAY_DATABASE_URL``, ``TBPAY_FORMAT``, ``TBPAY_ACTOR`` and ``TBPAY_DEBUG``."""
    return Settings(
        database_url=os.environ.get("TBPAY_DATABASE_URL") or None,
        format=os.environ.get("TBPAY_FORMAT") or None,
        actor=os.environ.get("TBPAY_ACTOR") or None,
        debug=os.environ.get("TBPAY_DEBUG", "") not in ("", "0"),
    )


def rates_file() -> str | None:
    """Answer ``TBPAY_RATES_FILE`` alone, as every price asks for it; None where it says nothing."""
    return os.environ.get("TBPAY_RATES_FILE") or None


_flag: str | None = None


def choose_database(given: str | None) -> None:
    """Let what ``--database`` says go before the environment; None takes it back."""
    global _flag
    _flag = given


def chosen_database() -> str | None:
    """Answer what ``--database`` says, None where it was not given."""
    return _flag


def actor() -> str:
    """Answer who works here: ``TBPAY_ACTOR``, else the login name, else ``uid:N``."""
    named = from_environment().actor
    if named is not None:
        return named
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid:{os.getuid()}"
