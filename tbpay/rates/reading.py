"""A rates file: CSV with a header, and a row for what a country costs from a time on.

An empty customer price follows from Twilio's. A change is a new row with a later time, so that what
was in force before stays known.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tbpay import files, models
from tbpay.errors import InvalidInputError, excerpt
from tbpay.files import TextFile
from tbpay.rates import Rate, RateTable, derived_micros

COLUMNS = (
    "country_code",
    "country_name",
    "twilio_usd_per_segment",
    "customer_usd_per_segment",
    "effective_from",
)
MAX_ROWS = 20_000

_COUNTRY = "[A-Z]{2}"
_PRICE = r"([0-9]{1,4})(?:\.([0-9]+))?"
_MICRO_DIGITS = 6
_TIME = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?([Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)
_SHOWN_FINDINGS = 3
# What is written by mistake for a country's code.
_MEANT = {"UK": "GB"}


class Fault(StrEnum):
    """What can be wrong with a rates file."""

    BAD_LINE = "bad_line"
    DUPLICATE = "duplicate"
    GAP = "gap"
    TOO_FINE = "too_fine"
    LOW_MARGIN = "low_margin"
    BELOW_COST = "below_cost"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; ``line`` is where its row begins, None for what is not there."""

    line: int | None
    fault: Fault
    detail: str


@dataclass(frozen=True)
class RatesFile:
    """What a file says: its good rows by the number of their line, and what is wrong in it.

    ``unread`` are the countries of rows that are not good: nobody knows what those would say.
    """

    name: str
    table: RateTable
    rows: dict[int, Rate]
    findings: list[Finding]
    unread: set[str]


def read(path: str) -> RateTable:
    """Answer a file's rates, or raise InvalidInputError that names the lines at fault."""
    scanned = scan(path, regular=True)
    if scanned.findings:
        shown = "; ".join(
            finding.detail if finding.line is None else f"line {finding.line:,}: {finding.detail}"
            for finding in scanned.findings[:_SHOWN_FINDINGS]
        )
        hidden = len(scanned.findings) - _SHOWN_FINDINGS
        more = f"; and {hidden:,} more" if hidden > 0 else ""
        raise InvalidInputError(f"{scanned.name}, {shown}{more}")
    return scanned.table


def scan(path: str, *, regular: bool) -> RatesFile:
    """Read a file to its end and keep what is wrong beside what is right.

    ``regular`` as for ``files.opened``. Raises UnavailableError for what cannot be read,
    InvalidInputError for what is no CSV.
    """
    import hashlib

    digest = hashlib.sha256()
    rows: dict[int, Rate] = {}
    findings: list[Finding] = []
    unread: set[str] = set()
    with files.opened(path, regular=regular, on_bytes=digest.update) as source:
        for line, row, width in _rows(source):
            try:
                rows[line] = _rate(row, width)
            except InvalidInputError as error:
                fault = Fault.TOO_FINE if isinstance(error, _TooFineError) else Fault.BAD_LINE
                findings.append(Finding(line, fault, error.message))
                meant = row.get("country_code", "").strip().upper()
                unread.add(_MEANT.get(meant, meant))
    findings += _duplicates(rows)
    findings.sort(key=lambda finding: finding.line or 0)
    table = RateTable(path, rows.values(), digest.hexdigest())
    if table.in_force("US") is None and "US" not in unread:
        findings.append(Finding(None, Fault.GAP, "US has no price that is in force today"))
    return RatesFile(source.name, table, rows, findings, unread)


def _rows(source: TextFile) -> Iterator[tuple[int, dict[str, str], int]]:
    """Answer the number of each row's line, the row by its columns, and how many fields it has.

    Empty lines are no rows.
    """
    records = ((line, fields) for line, fields in source.records() if fields)
    line, header = next(records, (1, []))
    if sorted(header) != sorted(COLUMNS):
        raise source.refusal(line, f"the header must be {','.join(COLUMNS)}")
    for count, (line, fields) in enumerate(records, 1):
        if count > MAX_ROWS:
            raise source.refusal(line, f"over {MAX_ROWS:,} rows")
        yield line, dict(zip(header, fields, strict=False)), len(fields)


def _rate(row: dict[str, str], width: int) -> Rate:
    # Imported here, as the digest of the built-in table needs the names of the columns alone.
    import phonenumbers

    if width != len(COLUMNS):
        raise InvalidInputError(f"{len(COLUMNS)} fields are needed, not {width}")
    code, name = row["country_code"], row["country_name"]
    if not re.fullmatch(_COUNTRY, code):
        raise InvalidInputError(f"country_code {excerpt(code)} is not two capitals such as GB")
    if code not in phonenumbers.SUPPORTED_REGIONS:
        meant = f": write {_MEANT[code]}" if code in _MEANT else ""
        raise InvalidInputError(f"country_code '{code}' is no country that a phone can have{meant}")
    models.text(name, "country_name")
    # A formula begins with a sign.
    if not name[0].isalpha() or not all(char == " " or models.is_visible(char) for char in name):
        raise InvalidInputError(f"country_name {excerpt(name)} is not the name of a country")
    twilio_micros = _micros(row, "twilio_usd_per_segment")
    derived = row["customer_usd_per_segment"] == ""
    return Rate(
        country_code=code,
        country_name=name,
        twilio_micros=twilio_micros,
        rate_micros=derived_micros(twilio_micros)
        if derived
        else _micros(row, "customer_usd_per_segment"),
        effective_from=_time(row["effective_from"]),
    )


class _TooFineError(InvalidInputError):
    pass


def _micros(row: dict[str, str], column: str) -> int:
    """Read dollars into micros, exactly or not at all."""
    given = row[column]
    match = re.fullmatch(_PRICE, given)
    if match is None:
        raise InvalidInputError(f"{column} {excerpt(given)} is not dollars such as 0.0113")
    fraction = (match[2] or "").ljust(_MICRO_DIGITS, "0")
    if fraction[_MICRO_DIGITS:].strip("0"):
        raise _TooFineError(f"{column} {given} is finer than a millionth of a dollar")
    amount_micros = int(match[1] + fraction[:_MICRO_DIGITS])
    if amount_micros == 0:
        raise InvalidInputError(f"{column} {given} is no price: it must be above 0")
    return amount_micros


def _time(given: str) -> datetime:
    if not re.fullmatch(_TIME, given):
        raise InvalidInputError(
            f"effective_from {excerpt(given)} is not a time: write 2026-11-23 or 2026-11-23T08:13Z"
        )
    return models.read_time(given.upper())


def _duplicates(rows: dict[int, Rate]) -> Iterator[Finding]:
    first: dict[tuple[str, datetime], int] = {}
    for line, rate in rows.items():
        before = first.setdefault((rate.country_code, rate.effective_from), line)
        if before != line:
            detail = f"{rate.country_code} has a price from the same time on in line {before:,}"
            yield Finding(line, Fault.DUPLICATE, detail)
