"""Answers: JSON, CSV and TSV for programs, the screen for people, all from the same values.

``safe`` is the one function through which foreign text reaches a screen. JSON alone goes past it:
it carries the exact value, in ASCII.
"""

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
from typing import Any

from tbpay.errors import Code, UnavailableError
from tbpay.models import E164_PATTERN, Page, is_visible, time_text


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
        case Format.TABLE:
            from tbpay.cli import screen

            if several:
                text = screen.table(columns or names, records)
            else:
                text = screen.lines(names, records[0])
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
    return json.dumps(_plain(answer), indent=indent, separators=separators)


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
    text = exact_text(value)
    if text.startswith(_FORMULA_STARTS) and not _PLAIN_NUMBER.fullmatch(text):
        text = f"'{text}"
    return safe(text)


def exact_text(value: object) -> str:
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
