"""What a campaign costs: a file of numbers, priced country by country.

The file is read once and never held: a million numbers need no more memory than a thousand. What
is wrong with a line refuses that line alone; what is wrong with the file is an error.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from tbpay import files, models, rates
from tbpay.errors import InvalidInputError, excerpt
from tbpay.files import TextFile
from tbpay.money import MICROS_PER_CENT, exact_cents
from tbpay.rates import Rate, RateTable
from tbpay.segments import Culprit, SegmentCount, count_segments, measure
from tbpay.sms_pricing import locate

MAX_REFUSED = 1_000
"""How many refused lines a campaign names; it counts all of them."""

# Often enough for the eye, and seldom enough to cost nothing.
_LINES_BETWEEN_TELLING = 256


@dataclass(frozen=True)
class CountryShare:
    """What the recipients in a country that has a price cost, all together.

    ``assumed`` counts those of them whose country is told by the calling code alone.
    ``share_percent`` is of the whole campaign's cost, rounded half up to one decimal.
    """

    country_code: str
    country_name: str
    recipients: int
    assumed: int
    segments: int
    rate_micros: int
    cost_micros: int
    share_percent: Decimal


@dataclass(frozen=True)
class UnpricedCountry:
    """The recipients in a country that has no price; no total knows of them."""

    country_code: str
    recipients: int
    assumed: int
    segments: int


@dataclass(frozen=True)
class RefusedLine:
    """A line of the file that is no recipient, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Campaign:
    """What a file of numbers costs: its countries, the dearest first, and their total.

    ``cost_cents`` is exactly what ``cost_micros`` is. ``unpriced`` countries stand apart, those
    with the most recipients first. Of ``refused_lines`` the first thousand are in ``refused``.
    ``encoding``, ``units`` and ``culprits`` are those of a text for all; None and nothing where
    there is none, or where each line has its own.
    """

    recipients: int
    segments: int
    cost_micros: int
    cost_cents: Decimal
    countries: list[CountryShare]
    unpriced: list[UnpricedCountry]
    refused_lines: int
    refused: list[RefusedLine]
    encoding: str | None = None
    units: int | None = None
    culprits: tuple[Culprit, ...] = ()


@dataclass(frozen=True)
class Cover:
    """What an account's balance is, exactly, and what of a cost is missing in it."""

    account_id: int
    balance_cents: int
    subcent_micros: int
    carried: bool
    missing_micros: int


def estimate(
    source: str,
    *,
    segments: int | None = None,
    text: str | None = None,
    at: datetime | None = None,
    on_progress: Callable[[int, int, int | None], None] | None = None,
) -> Campaign:
    """Price a message to every number of a file, by the rates in force ``at`` a time, or now.

    ``source`` is a file's path, or ``-`` for stdin: one number a line; or, where the first line
    that is not blank has a letter, CSV with a header that names a column ``number`` or ``phone``. A
    column ``text`` gives each line a message of its own; else all have as many ``segments``,
    1 … 1,000,000, as are given, or those of the ``text``, or one. Spaces, dashes, dots and
    parentheses in a number are left out, blank lines too.

    ``on_progress`` is told how many lines are done, and how many bytes of how many are read; None
    for a pipe, of which nobody knows how many there are. Raises InvalidInputError for a file that
    is no such list, and for a message that is none, or more than one; UnavailableError for a file
    that cannot be read.
    """
    counted_text = _counted(segments, text)
    segments_each = (segments or 1) if counted_text is None else counted_text.segments
    one_for_all = segments is not None or text is not None
    moment = datetime.now(UTC) if at is None else models.moment(at, "at")
    table = rates.current()
    counts = _Counts()
    due_line = _LINES_BETWEEN_TELLING
    with files.opened(source) as file:
        columns, records = _layout(file, one_for_all=one_for_all)
        for line, fields in records:
            try:
                number, own_text = columns.pick(fields)
                country, assumed = locate(models.bare_phone(number))
                counted = segments_each if own_text is None else measure(own_text)[2]
            except InvalidInputError as error:
                counts.refuse(line, error.message)
            else:
                tally = counts.tallies[country]
                tally.recipients += 1
                tally.assumed += assumed
                tally.segments += counted
            if on_progress is not None and line >= due_line:
                due_line = line + _LINES_BETWEEN_TELLING
                on_progress(line, file.read_bytes, file.size_bytes)
    return _campaign(counts, table, moment, counted_text)


def cover(account_id: int, cost_micros: int) -> Cover:
    """Answer whether an account's balance carries a cost, and what is missing.

    Raises NotFoundError for an unknown account.
    """
    # Imported here, as most campaigns are priced without a database.
    from tbpay.stores import balance_store

    [balance] = balance_store.find(account_ids=[account_id]).items
    balance_micros = balance.balance_cents * MICROS_PER_CENT + balance.subcent_micros
    missing_micros = max(0, cost_micros - balance_micros)
    return Cover(
        account_id=account_id,
        balance_cents=balance.balance_cents,
        subcent_micros=balance.subcent_micros,
        carried=missing_micros == 0,
        missing_micros=missing_micros,
    )


@dataclass(slots=True)
class _Tally:
    recipients: int = 0
    assumed: int = 0
    segments: int = 0


class _Counts:
    """What was counted in a file so far: the recipients by country, and the refused lines."""

    def __init__(self) -> None:
        self.tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
        self.refused_lines = 0
        self.refused: list[RefusedLine] = []

    def refuse(self, line: int, reason: str) -> None:
        self.refused_lines += 1
        if self.refused_lines <= MAX_REFUSED:
            self.refused.append(RefusedLine(line, reason))


class _Columns(NamedTuple):
    """Where in a record the number stands, and the text where each line has its own."""

    width: int
    number_at: int
    text_at: int | None

    def pick(self, fields: list[str]) -> tuple[str, str | None]:
        found = len(fields)
        if found < self.width:
            raise InvalidInputError(
                f"{found} {'field' if found == 1 else 'fields'} under a header of {self.width}:"
                " an empty one needs its comma too"
            )
        if found > self.width and any(fields[self.width :]):
            raise InvalidInputError(
                f"{found} fields under a header of {self.width}:"
                " one that holds a comma stands in quotes"
            )
        return fields[self.number_at], None if self.text_at is None else fields[self.text_at]


def _counted(segments: int | None, text: str | None) -> SegmentCount | None:
    """Check the message for all, and count the segments of a text."""
    if segments is not None:
        models.whole(segments, "segments", 1, models.MAX_SEGMENTS)
        if text is not None:
            raise InvalidInputError("segments and text exclude each other")
    return None if text is None else count_segments(text)


def _layout(
    file: TextFile, *, one_for_all: bool
) -> tuple[_Columns, Iterable[tuple[int, list[str]]]]:
    """Find out how a file is laid out, and answer its records after the header, but blank ones."""
    if not any(map(str.isalpha, file.first_line)):
        numbers_alone = ((at, [number]) for at, number in file.lines() if number.strip())
        return _Columns(1, 0, None), numbers_alone
    records = ((at, fields) for at, fields in file.records() if "".join(fields).strip())
    at, header = next(records)
    names = [name.strip().lower() for name in header]
    numbers = [place for place, name in enumerate(names) if name in ("number", "phone")]
    texts = [place for place, name in enumerate(names) if name == "text"]
    for name, places in (("number or phone", numbers), ("text", texts)):
        if len(places) > 1:
            raise file.refusal(at, f"the header {excerpt(','.join(header))} has {name} twice")
    if not numbers:
        raise file.refusal(
            at, f"the header {excerpt(','.join(header))} has no column number or phone"
        )
    if texts and one_for_all:
        raise file.refusal(
            at, "with a column text each line has its own message: give none for all of them"
        )
    return _Columns(len(names), numbers[0], texts[0] if texts else None), records


def _campaign(
    counts: _Counts, table: RateTable, moment: datetime, counted_text: SegmentCount | None
) -> Campaign:
    """Put prices to what was counted."""
    priced: list[tuple[Rate, _Tally]] = []
    unpriced: list[UnpricedCountry] = []
    for code, tally in counts.tallies.items():
        rate = table.in_force(code, moment)
        if rate is None:
            unpriced.append(UnpricedCountry(code, tally.recipients, tally.assumed, tally.segments))
        else:
            priced.append((rate, tally))
    total_micros = sum(rate.rate_micros * tally.segments for rate, tally in priced)
    countries = [
        CountryShare(
            country_code=rate.country_code,
            country_name=rate.country_name,
            recipients=tally.recipients,
            assumed=tally.assumed,
            segments=tally.segments,
            rate_micros=rate.rate_micros,
            cost_micros=rate.rate_micros * tally.segments,
            share_percent=_percent(rate.rate_micros * tally.segments, total_micros),
        )
        for rate, tally in priced
    ]
    return Campaign(
        recipients=sum(share.recipients for share in countries),
        segments=sum(share.segments for share in countries),
        cost_micros=total_micros,
        cost_cents=exact_cents(total_micros),
        countries=sorted(countries, key=lambda share: (-share.cost_micros, share.country_code)),
        unpriced=sorted(unpriced, key=lambda it: (-it.recipients, it.country_code)),
        refused_lines=counts.refused_lines,
        refused=counts.refused,
        encoding=counted_text.encoding if counted_text else None,
        units=counted_text.units if counted_text else None,
        culprits=counted_text.culprits if counted_text else (),
    )


def _percent(part: int, whole: int) -> Decimal:
    """Answer a part of a whole in per cent, rounded half up to one decimal."""
    per_mille = (part * 2_000 + whole) // (whole * 2)
    return Decimal(f"{per_mille // 10}.{per_mille % 10}")
