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
from functools import cache
from io import StringIO
from typing import Any, NamedTuple

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
) -> None:
    """Write an answer to stdout: one thing, or a page or list of things.

    A thing is a dataclass instance or a mapping by field name. ``columns`` is the short list of
    fields that a table of several things has, every field unless given; ``kind`` is their
    dataclass, which names the fields where there are no things. Errors of stdout come out of here.
    """
    page = Page(answer, None) if isinstance(answer, list | tuple) else answer
    several = page.items if isinstance(page, Page) else None
    records = [_record(page)] if several is None else [_one_of_several(each) for each in several]
    names = list(dict.fromkeys(name for record in records for name in record))
    if not records and kind is not None:
        names = [field.name for field in fields(kind) if field.name != _SAID_ALONE]

    match format:
        case Format.JSON:
            text = _json(page, indent=2) + "\n"
        case Format.CSV:
            text = _csv(_rows(names, records))
        case Format.TSV:
            text = _tsv(_rows(names, records))
        case Format.TABLE if several is None:
            text = _lines(names, records[0])
        case Format.TABLE:
            text = _table(columns or names, records)
    # In one piece, once all of it is there: stdout stays empty where the answer cannot be written.
    sys.stdout.write(text)
    sys.stdout.flush()

    if isinstance(page, Page) and page.next is not None and format is not Format.JSON:
        note(f"more: repeat with --cursor {page.next}, or --all")
    elif not records and format is Format.TABLE:
        note("none found")


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


@cache
def _on_screen(char: str) -> str:
    if char == " " or is_visible(char):
        return char
    code = ord(char)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"


def _record(thing: Any) -> dict[str, object]:
    """Answer the values of a thing by field name."""
    if isinstance(thing, Mapping):
        return {str(name): value for name, value in thing.items()}
    return {field.name: getattr(thing, field.name) for field in fields(thing)}


# Whether a call was a replay is said of that call, not of a line among others.
_SAID_ALONE = "replayed"


def _one_of_several(thing: object) -> dict[str, object]:
    record = _record(thing)
    record.pop(_SAID_ALONE, None)
    return record


def _json(answer: object, *, indent: int | None = None) -> str:
    import json

    separators = (",", ":" if indent is None else ": ")
    return json.dumps(_plain(answer), indent=indent, separators=separators)


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
    return _json(plain)


def _plain(value: object) -> object:
    """Answer a value in JSON's own types: times and decimals are texts, things are objects."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(_one_of_several(each) if _is_thing(each) else each) for each in value]
    if _is_thing(value):
        return {name: _plain(each) for name, each in _record(value).items()}
    return str(value)


def _is_thing(value: object) -> bool:
    return isinstance(value, Mapping) or is_dataclass(value)


def _lines(names: Sequence[str], record: Mapping[str, object]) -> str:
    """Write one thing for people, as ``field  value`` lines."""
    pairs = []
    for name in names:
        value = record.get(name)
        label, unit = _label_and_unit(name, value)
        text = _human(name, value)
        pairs.append((label, text if value is None else f"{text} {unit}"))
    width = max((len(label) for label, _ in pairs), default=0)
    return "".join(f"{label:{width}}  {text}".rstrip() + "\n" for label, text in pairs)


def _label_and_unit(name: str, value: object) -> tuple[str, str]:
    """Answer what people read for the name of a field, and the unit of its value or nothing."""
    stem, _, suffix = name.rpartition("_")
    unit = ""
    if stem and suffix in {"cents", "micros"}:
        if value is None or isinstance(value, int):
            unit = "USD"
        elif isinstance(value, Decimal):
            unit = suffix
    return safe((stem if unit else name).replace("_", " ")), unit


def _human(name: str, value: object) -> str:
    """Write a value for people, without its unit."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_cents"):
        return show_cents(value)
    if isinstance(value, int) and name.endswith("_micros"):
        return f"{Decimal(value).scaleb(-6):f}"
    if isinstance(value, datetime):
        return f"{time_text(value)[:19].replace('T', ' ')}Z"
    return safe(_text(value))


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
    if sum(column.least_width + _GAP for column in columns) - _GAP <= screen:
        return _fitted(columns, screen)
    return "\n".join(_lines(names, record) for record in records)


def _column(name: str, values: Sequence[object]) -> _Column:
    from rich.cells import cell_len

    known = [value for value in values if value is not None]
    header = " ".join(filter(None, _label_and_unit(name, next(iter(known), None))))
    texts = [header, *(_human(name, value) for value in values)]
    width = max(map(cell_len, texts))
    folds = name in _FOLDING
    unfolded = max(map(cell_len, [*header.split(), *texts[1:]]))
    # An id is a name and not a quantity: it begins where the line begins.
    right = name.rpartition("_")[2] != "id" and all(type(each) in (int, Decimal) for each in known)
    return _Column(texts, folds, right, width, min(width, _FOLDED_WIDTH) if folds else unfolded)


def _unfitted(columns: Sequence[_Column]) -> str:
    # Not by Rich, which takes 50 ms to load and half a millisecond for each line.
    from rich.cells import cell_len

    padded = []
    for column in columns:
        pairs = [(text, " " * (column.width - cell_len(text))) for text in column.texts]
        padded.append([blank + text if column.right else text + blank for text, blank in pairs])
    return "".join((" " * _GAP).join(row).rstrip() + "\n" for row in zip(*padded, strict=True))


def _fitted(columns: Sequence[_Column], screen: int) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    tight = sum(column.width + _GAP for column in columns) - _GAP > screen
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for column in columns:
        table.add_column(
            Text(column.texts[0], no_wrap=False),
            justify="right" if column.right else "left",
            no_wrap=not column.folds,
            overflow="fold",
            width=column.least_width if tight and not column.folds else None,
        )
    for row in zip(*(column.texts[1:] for column in columns), strict=True):
        table.add_row(*row)
    drawn = StringIO()
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    # Size and colours are given, so that Rich asks no COLUMNS and no FORCE_COLOR.
    console = Console(
        file=drawn,
        width=screen,
        height=table.row_count,
        color_system=None if plain else "standard",
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(table)
    return "".join(line.rstrip() + "\n" for line in drawn.getvalue().splitlines())


def _screen_width() -> int | None:
    """Answer how many cells the terminal behind stdout is wide, None off a terminal."""
    if not sys.stdout.isatty():
        return None
    # A terminal that nobody has sized says 0.
    return os.get_terminal_size(sys.stdout.fileno()).columns or 80
