"""The one reader of other people's files: lines and CSV, streamed, with their line numbers.

A file is read in pieces and never held; a line, and a CSV record over several, has a bound. What is
not plain UTF-8 text is refused with the number of the line at fault and what to do about it.
"""

import errno
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from tbpay.errors import InvalidInputError, UnavailableError, excerpt

STDIN = "-"
MAX_LINE = 65_536
"""How many characters a line may have, its end included, and a CSV record of several lines."""

# No file system in use counts its times in more than that.
_CLOCK_NS = 1_000_000_000
_PIECE_BYTES = 1 << 17
# A name that is longer is shown in part.
_MAX_NAME = 200
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LONE_CR = re.compile(r"\r(?!\n)")
_SPECIAL = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def opened(
    name: str, *, regular: bool = False, on_bytes: Callable[[bytes], object] | None = None
) -> Iterator["TextFile"]:
    """Open a file of lines to be read once, ``-`` for stdin, and close it at the end.

    Only a ``regular`` file is taken where one is asked for: no pipe, which keeps its reader waiting
    for a writer; and ``-`` is a name like any other there. ``on_bytes`` is given every byte as it
    is read. Raises UnavailableError for what cannot be opened or read, InvalidInputError, which
    names file and line, for what is no text in UTF-8. A mark of the byte order at the beginning is
    left out.
    """
    stdin = name == STDIN and not regular
    shown = excerpt(name, _MAX_NAME) if regular else shown_name(name)
    with _translated(shown):
        stream = _stdin() if stdin else _open(name, regular=regular)
    # Stdin belongs to whoever started us.
    with nullcontext(stream) if stdin else closing(stream):
        yield TextFile(shown, stream, on_bytes)


def shown_name(name: str) -> str:
    """Answer what messages call a file, ``-`` for stdin."""
    return "stdin" if name == STDIN else excerpt(name, _MAX_NAME)


def version(name: str) -> tuple[int, ...] | None:
    """Answer what becomes another one when a file is written or replaced.

    None for a file of the last second, which can be written once more before its clock goes on.
    Raises UnavailableError for what is not there, InvalidInputError for no name of a file.
    """
    with _translated(excerpt(name, _MAX_NAME)):
        found = _path(name).stat()
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _CLOCK_NS:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class TextFile:
    """An open file, to be read once: by ``lines``, by ``records`` or by ``text``.

    ``first_line``, the first that is not blank, without its end, is known before that, unless more
    than 65,536 characters of blank lines stand before it. ``read_bytes`` of ``size_bytes`` have
    been read so far; a pipe has no size, and says None. ``name`` is what messages call the file.
    """

    def __init__(
        self, name: str, stream: BinaryIO, on_bytes: Callable[[bytes], object] | None = None
    ) -> None:
        self.name = name
        self.read_bytes = 0
        self.size_bytes = _size_bytes(stream)
        self._stream = stream
        self._on_bytes = on_bytes
        self._next_line = 1
        pieces = self._pieces()
        first = ""
        for piece in pieces:
            first += piece
            if not piece.isspace() or len(first) > MAX_LINE:
                break
        self.first_line = next(filter(str.strip, _lines(first)), "")
        self._unread = chain([first], pieces)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Answer each line, without its end, after its number; empty lines too."""
        # In C from one end to the other: a million lines take a tenth of a second.
        return enumerate(chain.from_iterable(map(_lines, self._unread)), 1)

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Answer the fields of each CSV record after the number of its first line.

        An empty line is a record without fields; within quotes line ends stay as they are. Raises
        InvalidInputError for a quotation mark that is not closed, or closed before the field ends.
        """
        import csv

        begun, length, ended = 1, 0, False

        def bounded(lines: Iterable[str]) -> Iterator[str]:
            nonlocal length, ended
            for line in lines:
                length += len(line)
                if length > MAX_LINE:
                    raise self.refusal(
                        begun,
                        f"a record over {MAX_LINE:,} characters: "
                        "perhaps a quotation mark is not closed",
                    )
                yield line
            ended = True

        lines = chain.from_iterable(map(_lines_with_ends, self._unread))
        reader = csv.reader(bounded(lines), strict=True)
        try:
            for fields in reader:
                yield begun, fields
                begun, length = reader.line_num + 1, 0
        except csv.Error:
            what = "is not closed" if ended else 'closes before its field ends: write "" for one'
            raise self.refusal(begun, f"a quotation mark {what}") from None

    def text(self) -> str:
        """Answer all of it, at most 65,536 characters, without the end of its last line."""
        text = ""
        for piece in self._unread:
            text += piece
            if len(text) > MAX_LINE:
                raise InvalidInputError(f"{self.name} has over {MAX_LINE:,} characters")
        return text.removesuffix("\n").removesuffix("\r")

    def refusal(self, line: int, what: str) -> InvalidInputError:
        """Make the error that says what is wrong in a line."""
        return InvalidInputError(f"{self.name}, line {line:,}: {what}")

    def _pieces(self) -> Iterator[str]:
        """Read the file in pieces of whole lines, checked and decoded."""
        rest = b""
        while block := self._read():
            cut = block.rfind(b"\n") + 1
            if cut:
                yield self._decoded(rest + block[:cut])
                rest = b""
            rest += block[cut:]
            # A character has four bytes at most.
            if len(rest) > 4 * MAX_LINE:
                raise self._too_long(self._next_line)
        if rest:
            yield self._decoded(rest)

    def _read(self) -> bytes:
        with _translated(self.name):
            # No more than is there: what is typed on a terminal ends with one sign of its end.
            block: bytes = self._stream.read1(_PIECE_BYTES)  # type: ignore[attr-defined]  # a buffer
        self.read_bytes += len(block)
        if self._on_bytes is not None:
            self._on_bytes(block)
        return block

    def _decoded(self, piece: bytes) -> str:
        """Decode lines, or raise the error that names the line at fault."""
        begun = self._next_line
        if begun == 1:
            if piece.startswith(_UTF16_MARKS):
                raise self.refusal(1, "UTF-16: save the file as UTF-8")
            piece = piece.removeprefix(_UTF8_MARK)
        if (nul := piece.find(b"\0")) >= 0:
            what = "a NUL byte: if the file is UTF-16, save it as UTF-8"
            raise self.refusal(begun + piece.count(b"\n", 0, nul), what)
        try:
            text = piece.decode()
        except UnicodeDecodeError as error:
            what = f"byte 0x{piece[error.start]:02x} is not UTF-8: save the file as UTF-8"
            raise self.refusal(begun + piece.count(b"\n", 0, error.start), what) from None
        if "\r" in text and (lone := _LONE_CR.search(text)):
            what = "a carriage return alone: save the file with lines that end in LF or CR LF"
            raise self.refusal(begun + text.count("\n", 0, lone.start()), what)
        line_start = 0
        while line_start + MAX_LINE < len(text):
            # Every line up to there ends within the bound.
            end = text.rfind("\n", line_start, line_start + MAX_LINE)
            if end < 0:
                raise self._too_long(begun + text.count("\n", 0, line_start))
            line_start = end + 1
        self._next_line += text.count("\n")
        return text

    def _too_long(self, line: int) -> InvalidInputError:
        return self.refusal(line, f"over {MAX_LINE:,} characters")


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise UnavailableError("stdin is closed")
    return sys.stdin.buffer


def _open(name: str, *, regular: bool) -> BinaryIO:
    path = _path(name)
    # Asked before it is opened, which would wait for the writer of a pipe.
    if regular and (what := _SPECIAL.get(stat.S_IFMT(path.stat().st_mode))):
        raise OSError(errno.EINVAL, f"Is {what}, not a file")
    return path.open("rb")


def _path(name: str) -> Path:
    if not name:
        # A path of nothing would be the directory where we are.
        raise ValueError
    return Path(name)


@contextmanager
def _translated(shown: str) -> Iterator[None]:
    """Say in our own words what the system says of a file."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"cannot read {shown}: {error.strerror}") from error
    except ValueError:
        # A NUL, or a character that no name can have.
        raise InvalidInputError(f"{shown} is not the name of a file") from None


def _size_bytes(stream: BinaryIO) -> int | None:
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _lines(piece: str) -> list[str]:
    # Not by splitlines, which knows ten more ends of a line.
    lines = piece.replace("\r\n", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


def _lines_with_ends(piece: str) -> Iterator[str]:
    return StringIO(piece, newline="\n")
