"""What operators type, one parser each: ids, counts, times, accounts, the name of a database.

A parser takes text and answers a value that the stores take, or raises InvalidInputError.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from tbpay import models, money
from tbpay.cli.output import Format
from tbpay.errors import InvalidInputError, NotFoundError, excerpt


class AccountRef(NamedTuple):
    """An account as an operator names it: by id, or by email address."""

    name: int | str

    def find(self) -> int:
        """Answer the account's id. Raises NotFoundError for an email that no account has."""
        if isinstance(self.name, int):
            return self.name
        from tbpay.stores import account_store

        found = account_store.get_by_email(self.name)
        if found is None:
            raise NotFoundError(f"no account with the email {excerpt(self.name)}")
        return found.id


def parse_account(given: str) -> AccountRef:
    """Read an account's id, or its email address."""
    return AccountRef(models.email_address(given) if "@" in given else parse_id(given))


def parse_id(given: str) -> int:
    """Read an id: 1 to 2^63 - 1, in plain digits."""
    return models.identifier(_digits(given), "an id")


def parse_limit(given: str) -> int:
    """Read how many a list shows at most."""
    return models.whole(_digits(given), "--limit", 1, models.MAX_LIMIT)


def parse_count(given: str) -> int:
    """Read how often a code can be used."""
    return models.whole(_digits(given), "a count", 1, models.MAX_USES)


def parse_segments(given: str) -> int:
    """Read how many segments a message has."""
    return models.whole(_digits(given), "a number of segments", 1, models.MAX_SEGMENTS)


def parse_country(given: str) -> str:
    """Read a country by its code of two letters, in any case."""
    if not re.fullmatch("[A-Za-z]{2}", given):
        raise InvalidInputError(f"{excerpt(given)} is not a country code of two letters such as GB")
    return given.upper()


def parse_percent(given: str) -> int:
    """Read whole per cent, 1 to 100."""
    return models.whole(_digits(given), "a percentage", 1, models.MAX_PERCENT)


def parse_bound(given: str) -> int:
    """Read dollars that may be 0 into cents."""
    return money.parse_cents(given, lowest=0)


def parse_text(given: str) -> str:
    """Read a text that a person is to read."""
    return models.text(given, "the text")


def parse_stripe_id(given: str) -> str:
    """Read an id that Stripe gave."""
    return models.stripe_id(given, "it")


def parse_format(given: str) -> Format:
    """Read the name of a format."""
    return models.word(Format, given, "the format")


def parse_since(given: str) -> datetime:
    """Read the time at which an interval begins."""
    return _parse_time(given, day=timedelta(0))


def parse_until(given: str) -> datetime:
    """Read the time before which an interval ends; a bare date is the end of that day."""
    return _parse_time(given, day=timedelta(days=1))


def parse_at(given: str) -> datetime:
    """Read the time at which something is looked at; a bare date is the last moment of that day."""
    return _parse_time(given, day=timedelta(days=1, microseconds=-1))


def parse_phone(given: str) -> str:
    """Read a phone number in international form; spaces, dashes, dots, parentheses may stand in it.

    Whose it is, and whether it is anybody's, is found out by whoever needs its country.
    """
    phone = models.bare_phone(given)
    if not re.fullmatch(models.E164_PATTERN, phone):
        raise InvalidInputError(
            f"{excerpt(given)} is not a phone number in international form such as +447700900123"
        )
    return phone


def parse_database(given: str) -> str:
    """Read a database's URL or path; a password has no place where every process can see it."""
    if not 0 < len(given) <= MAX_DATABASE_NAME:
        raise InvalidInputError(f"{excerpt(given)} is not the name of a database")
    if holds_password(given):
        raise InvalidInputError(
            "a password on the command line is seen by others: set TBPAY_DATABASE_URL instead"
        )
    return given


# As long as a path can be on Linux.
MAX_DATABASE_NAME = 4_096


def holds_password(url: str) -> bool:
    """Tell whether a URL has a password: before the host, or among the options at its end."""
    scheme, _, rest = url.partition("://")
    # In the path of a file any sign may stand, but in a password a slash may.
    named = rest.partition("/")[0] if scheme.startswith("sqlite") else rest
    user, _, _ = named.rpartition("@")
    return ":" in user or re.search("[?&](ssl)?password=", rest) is not None


_AGO = {"m": "minutes", "h": "hours", "d": "days"}


def _parse_time(given: str, *, day: timedelta) -> datetime:
    try:
        if ago := re.fullmatch(r"([0-9]{1,6})([mhd])", given):
            return datetime.now(UTC) - timedelta(**{_AGO[ago[2]]: int(ago[1])})
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", given):
            # Nothing is later than the last day's end.
            return min(models.read_time(given), datetime.max.replace(tzinfo=UTC) - day) + day
        # RFC 3339; the seconds may be left out, and a time without a zone is UTC.
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]+([Zz]|[+-][0-9:]+)?", given):
            return models.read_time(given.upper())
    except OverflowError:
        pass
    raise InvalidInputError(
        f"{excerpt(given)} is not a time: write 2026-11-23, 2026-11-23T08:13Z, or 30m, 6h, 7d ago"
    )


def _digits(given: str) -> object:
    """Answer a number in plain digits, and anything else as it is, for the guard to refuse."""
    return int(given) if re.fullmatch(r"0|[1-9][0-9]{0,18}", given) else given
