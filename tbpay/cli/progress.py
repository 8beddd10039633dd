"""A bar on stderr that tells how far a long work is, where somebody sits and waits."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tbpay.cli.bars import BAR_WIDTH, bar

# What is done sooner needs no bar.
_SILENT_SECONDS = 1
_BETWEEN_SECONDS = 0.1


@contextmanager
def progress(
    what: str, *, silent_seconds: int = _SILENT_SECONDS
) -> Iterator[Callable[[int, int, int | None], None] | None]:
    """Offer a function that is told how many of ``what`` are done, and how far the work is.

    That is in bytes, or in what is done itself, and of how many, where it is known: the bar is of
    these. On a terminal it draws a bar after the silent seconds, which is gone at the end; off a
    terminal there is none, and nobody is to be told.
    """
    # sys.stderr is None when its descriptor was closed before Python began.
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    began = time.monotonic()
    due, width = began + silent_seconds, 0

    def tell(done: int, at: int, end: int | None) -> None:
        nonlocal due, width
        now = time.monotonic()
        if now < due or at == end:
            return
        due = now + _BETWEEN_SECONDS
        # A line as wide as the screen would begin a new one.
        line = _line(f"{done:,} {what}", at, end, now - began)[: _screen_width() - 1]
        # Before it is there: a Ctrl-C may come while it is written.
        width = max(width, len(line))
        _rewrite(line.ljust(width))

    try:
        yield tell
    finally:
        if width:
            _rewrite(" " * width)


def _line(done: str, at: int, end: int | None, seconds: float) -> str:
    if end is None:
        return done
    # A file may grow while it is read.
    end = max(at, end)
    left = int(seconds * (end - at) / at)
    return (
        f"[{bar(at, end):{BAR_WIDTH}}] {100 * at // end:3} %"
        f"  {done}, {left // 60}:{left % 60:02} left"
    )


def _screen_width() -> int:
    # A terminal that nobody has sized says 0.
    return os.get_terminal_size(sys.stderr.fileno()).columns or 80


def _rewrite(line: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"\r{line}\r")
        sys.stderr.flush()
