"""What people read: one thing as lines, several as a table; dollars instead of cents."""

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from io import StringIO
from typing import NamedTuple

from tbpay.cli.output import exact_text, safe
from tbpay.models import time_text
from tbpay.money import show_cents, show_micros


def lines(names: Sequence[str], record: Mapping[str, object]) -> str:
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
            label, text, unit = stem, show_micros(amount_micros), "USD"
        case "cents" | "micros", Decimal():
            label, text, unit = stem, f"{value:f}", suffix
        case _, datetime() as moment:
            text = f"{time_text(moment)[:19].replace('T', ' ')}Z"
        case _:
            text = safe(exact_text(value))
    return safe(label.replace("_", " ")), text, unit


# Text that may go on in the next line. Ids, amounts, times and codes stay in one piece: whoever
# copies one from the screen gets all of it.
_FOLDING = frozenset({"description", "reason", "detail", "email", "actor"})
_FOLDED_WIDTH = 12
_GAP = 2


class _Column(NamedTuple):
    texts: list[str]  # the header first
    folds: bool
    right: bool
    width: int
    least_width: int  # each word of the header in a line of its own, cells folded if they may be


def table(names: Sequence[str], records: Sequence[Mapping[str, object]]) -> str:
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
    return "\n".join(lines(names, record) for record in records)


def _column(name: str, values: Sequence[object]) -> _Column:
    from rich.cells import cell_len

    known = [value for value in values if value is not None]
    label, _, unit = _for_people(name, next(iter(known), None))
    header = f"{label} {unit}".rstrip()
    texts = [_for_people(name, value)[1] for value in values]
    if name.endswith("_micros"):
        texts = _as_finely(texts)
    texts.insert(0, header)
    width = max(map(cell_len, texts))
    if name in _FOLDING:
        least_width = min(width, _FOLDED_WIDTH)
    else:
        least_width = max(map(cell_len, [*header.split(), *texts[1:]]))
    # An id is a name and not a quantity: it begins where the line begins.
    right = name.rpartition("_")[2] != "id" and {type(value) for value in known} <= {int, Decimal}
    return _Column(texts, name in _FOLDING, right and bool(known), width, least_width)


def _as_finely(texts: Sequence[str]) -> list[str]:
    """Give all amounts of a column as many decimals as the finest of them."""
    most = max(len(text.partition(".")[2]) for text in texts)
    return [
        text + "0" * (most - len(text.partition(".")[2])) if "." in text else text for text in texts
    ]


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

    drawing = Table(box=None, padding=(0, _GAP, 0, 0), header_style="")
    widths = _widths(columns, spare)
    for column, width in zip(columns, widths, strict=True):
        drawing.add_column(
            Text(column.texts[0], style="bold", no_wrap=False),
            justify="right" if column.right else "left",
            no_wrap=not column.folds,
            overflow="fold",
            width=width,
        )
    for row in zip(*(column.texts[1:] for column in columns), strict=True):
        drawing.add_row(*row)
    drawn = StringIO()
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    # Size and colours are given, so that Rich asks no COLUMNS and no FORCE_COLOR.
    console = Console(
        file=drawn,
        width=sum(widths) + _GAP * len(widths),
        height=drawing.row_count,
        color_system=None if plain else "standard",
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(drawing)
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
