"""Answers on the screen: table, lines, JSON, CSV and TSV, all from the same values.

``safe`` is the one function through which foreign text reaches a screen. JSON alone goes past it:
it carries the exact value, in ASCII.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from io import StringIO
from typing import Any, NamedTuple

from tbpay.errors import Code, UnavailableError
from tbpay.models import E164_PATTERN, Page, is_visible, time_text
from tbpay.money import show_cents


class Format(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"


def show(
    answer: object,
    format: Format,  # noqa: A002 - the word of the flag and of TBPAY_FORMAT
    *,
    columns: Sequence[str] = (),
    kind: type | None = None,
    none: str = "none found",
) -> None:
    """Write an answer to stdout: one thing, or a page or list of things.

    A thing is a dataclass instance or a mapping by field name. ``columns`` is the short list of
    fields that a table of several things has, every field unless given; ``kind`` is their
    dataclass, which names the fields where there are no things.
    """
    page = Page(answer, None) if isinstance(answer, list | tuple) else answer
    several = isinstance(page, Page)
    things = page.items if isinstance(page, Page) else [page]
    records = [_record(thing, listed=several) for thing in things]
    names = list(dict.fromkeys(name for record in records for name in record))
    if not records and kind is not None:
        names = [field.name for field in fields(kind) if field.name != _NEVER_LISTED]

    match format:
        case Format.JSON:
            text = json_text(page, indent=2) + "\n"
        case Format.CSV:
            text = _csv(_rows(names, records))
        case Format.TSV:
            text = _tsv(_rows(names, records))
        case Format.TABLE if several:
            text = _table(columns or names, records)
        case Format.TABLE:
            text = _lines(names, records[0])
    # In one piece, once all of it is there: stdout stays empty where there is no answer.
    write(text)

    if isinstance(page, Page) and page.next is not None and format is not Format.JSON:
        note(f"more: repeat with --cursor {page.next}, or --all")
    elif not records and format is Format.TABLE:
        note(none)


def write(text: str) -> None:
    """Write text to stdout, all of it, or raise UnavailableError; a closed pipe's error stays."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UnavailableError(
            f"stdout cannot take the answer: {error.strerror}", code=Code.OUTPUT
        ) from error


def note(text: str) -> None:
    """Write a note to stderr; where stderr cannot take it, the work goes on without."""
    # AttributeError: sys.stderr is None when its descriptor was closed before Python began.
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"note: {safe(text)}\n")
        sys.stderr.flush()


def safe(text: str) -> str:
    r"""Answer a text in which nothing can drive a terminal, hide, or break the line.

    Every character that is neither visible nor the plain space becomes ``\xNN``, ``\uNNNN`` or
    ``\UNNNNNNNN``.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_on_screen, text))


@lru_cache(4096)
def _on_screen(char: str) -> str:
    if char == " " or is_visible(char):
        return char
    # Python writes the same, but for \n, \r and \t.
    return f"\\x{ord(char):02x}" if char < " " else ascii(char)[1:-1]


def json_text(answer: object, *, indent: int | None = None) -> str:
    """Write an answer as one JSON document of visible ASCII, in which every value is exact."""
    import json

    separators = (",", ":" if indent is None else ": ")
    text = json.dumps(_plain(answer), indent=indent, separators=separators)
    # The one control character that JSON lets stand in a string as it is.
    return text.replace("\x7f", r"\u007f")


# Whether a call was a replay is said of that call, not of a line among others.
_NEVER_LISTED = "replayed"


def _record(thing: Any, *, listed: bool = False) -> dict[str, object]:
    """Answer the values of a thing by field name, as a list shows them or as it stands alone."""
    if isinstance(thing, Mapping):
        record = {str(name): value for name, value in thing.items()}
    else:
        record = {field.name: getattr(thing, field.name) for field in fields(thing)}
    if listed:
        record.pop(_NEVER_LISTED, None)
    return record


def _rows(names: Sequence[str], records: Sequence[Mapping[str, object]]) -> Iterator[list[str]]:
    yield [_cell(name) for name in names]
    for record in records:
        yield [_cell(record.get(name)) for name in names]


def _csv(rows: Iterable[list[str]]) -> str:
    import csv

    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _tsv(rows: Iterable[list[str]]) -> str:
    # Where a cell opens with a quotation mark, a spreadsheet reads on to the next one, over tabs
    # and lines, and takes for a formula what the mark hid.
    shielded = ([f"'{cell}" if cell[:1] == '"' else cell for cell in row] for row in rows)
    return "".join("\t".join(row) + "\n" for row in shielded)


# What makes a spreadsheet take a cell for a formula, the full-width forms too.
_FORMULA_STARTS = tuple("=+-@\t\r＝＋－＠")
_PLAIN_NUMBER = re.compile(rf"-?[0-9]+(\.[0-9]+)?|{E164_PATTERN}")


def _cell(value: object) -> str:
    """Write a value for CSV and TSV, so that a spreadsheet shows it and does not run it."""
    text = _text(value)
    if text.startswith(_FORMULA_STARTS) and not _PLAIN_NUMBER.fullmatch(text):
        text = f"'{text}"
    return safe(text)


def _text(value: object) -> str:
    """Write a value as one exact text; what holds others is compact JSON."""
    plain = _plain(value)
    if plain is None or isinstance(plain, str):
        return plain or ""
    if isinstance(plain, int):
        return str(plain).lower()
    return json_text(plain)


def _plain(value: object, *, listed: bool = False) -> object:
    """Answer a value in JSON's own types: times and decimals are texts, things are objects."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return str(value)
        case datetime():
            return time_text(value)
        case Decimal():
            return f"{value:f}"
        case Sequence():
            return [_plain(each, listed=True) for each in value]
        case _ if isinstance(value, Mapping) or is_dataclass(value):
            record = _record(value, listed=listed)
            return {name: _plain(each) for name, each in record.items()}
    return str(value)


def _lines(names: Sequence[str], record: Mapping[str, object]) -> str:
    """Write one thing for people, as ``field  value`` lines."""
    parts = [_for_people(name, record.get(name)) for name in names]
    width = max((len(label) for label, _, _ in parts), default=0)
    return "".join(f"{label:{width}}  {text} {unit}".rstrip() + "\n" for label, text, unit in parts)


def _for_people(name: str, value: object) -> tuple[str, str, str]:
    """Answer what people read for a field: its label, the value, and the value's unit or nothing.

    Cents and micros are read as dollars; a price finer than a cent stays in cents.
    """
    label, unit = name, ""
    stem, _, suffix = name.rpartition("_")
    match suffix, value:
        case "cents" | "micros", None:
            label, text = stem, "-"
        case _, None:
            text = "-"
        case _, bool():
            text = "yes" if value else "no"
        case "cents", int(amount_cents):
            label, text, unit = stem, show_cents(amount_cents), "USD"
        case "micros", int(amount_micros):
            label, text, unit = stem, f"{Decimal(amount_micros).scaleb(-6):f}", "USD"
        case "cents" | "micros", Decimal():
            label, text, unit = stem, f"{value:f}", suffix
        case _, datetime() as moment:
            text = f"{time_text(moment)[:19].replace('T', ' ')}Z"
        case _:
            text = safe(_text(value))
    return safe(label.replace("_", " ")), text, unit


# Text that may go on in the next line. Ids, amounts, times and codes stay in one piece: whoever
# copies one from the screen gets all of it.
_FOLDING = frozenset({"description", "reason", "detail", "email", "actor", "host"})
_FOLDED_WIDTH = 12
_GAP = 2


class _Column(NamedTuple):
    texts: list[str]  # the header first
    folds: bool
    right: bool
    width: int
    least_width: int  # each word of the header in a line of its own, cells folded if they may be


def _table(names: Sequence[str], records: Sequence[Mapping[str, object]]) -> str:
    """Write several things for people: a table, or blocks of lines where the screen is too narrow.

    Off a terminal nothing is coloured, wrapped or cropped, and each thing is one line.
    """
    if not records:
        return ""
    columns = [_column(name, [record.get(name) for record in records]) for name in names]
    screen = _screen_width()
    if screen is None:
        return _unfitted(columns)
    spare = screen - sum(column.least_width + _GAP for column in columns) + _GAP
    if spare >= 0:
        return _fitted(columns, spare)
    return "\n".join(_lines(names, record) for record in records)


def _column(name: str, values: Sequence[object]) -> _Column:
    from rich.cells import cell_len

    known = [value for value in values if value is not None]
    label, _, unit = _for_people(name, next(iter(known), None))
    header = f"{label} {unit}".rstrip()
    texts = [header, *(_for_people(name, value)[1] for value in values)]
    width = max(map(cell_len, texts))
    if name in _FOLDING:
        least_width = min(width, _FOLDED_WIDTH)
    else:
        least_width = max(map(cell_len, [*header.split(), *texts[1:]]))
    # An id is a name and not a quantity: it begins where the line begins.
    right = name.rpartition("_")[2] != "id" and {type(value) for value in known} <= {int, Decimal}
    return _Column(texts, name in _FOLDING, right and bool(known), width, least_width)


def _unfitted(columns: Sequence[_Column]) -> str:
    # Not by Rich, which takes 50 ms to load and half a millisecond for each line.
    from rich.cells import cell_len

    padded = []
    for column in columns:
        pairs = [(text, " " * (column.width - cell_len(text))) for text in column.texts]
        padded.append([blank + text if column.right else text + blank for text, blank in pairs])
    return "".join((" " * _GAP).join(row).rstrip() + "\n" for row in zip(*padded, strict=True))


def _fitted(columns: Sequence[_Column], spare: int) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="")
    widths = _widths(columns, spare)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(
            Text(column.texts[0], style="bold", no_wrap=False),
            justify="right" if column.right else "left",
            no_wrap=not column.folds,
            overflow="fold",
            width=width,
        )
    for row in zip(*(column.texts[1:] for column in columns), strict=True):
        table.add_row(*row)
    drawn = StringIO()
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    # Size and colours are given, so that Rich asks no COLUMNS and no FORCE_COLOR.
    console = Console(
        file=drawn,
        width=sum(widths) + _GAP * len(widths),
        height=table.row_count,
        color_system=None if plain else "standard",
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(table)
    return "".join(line.rstrip() + "\n" for line in drawn.getvalue().splitlines())


def _widths(columns: Sequence[_Column], spare: int) -> list[int]:
    """Give each column its least width, and what is to spare to text first, to headers then."""
    widths = [column.least_width for column in columns]
    for folds in (True, False):
        wants = sorted(
            (column.width - column.least_width, place)
            for place, column in enumerate(columns)
            if column.folds is folds
        )
        for served, (want, place) in enumerate(wants):
            share = min(want, spare // (len(wants) - served))
            widths[place] += share
            spare -= share
    return widths


def _screen_width() -> int | None:
    """Answer how many cells the terminal behind stdout is wide, None off a terminal."""
    if not sys.stdout.isatty():
        return None
    # A terminal that nobody has sized says 0.
    return os.get_terminal_size(sys.stdout.fileno()).columns or 80
