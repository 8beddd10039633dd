import csv
import fcntl
import io
import os
import socket
import subprocess
import sys
import termios
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from probes import together, wait_until

from tbpay import files
from tbpay.errors import InvalidInputError, TbpayError, UnavailableError, excerpt
from tbpay.files import MAX_LINE, TextFile

MEGABYTE = 1 << 20
NOBODY = 65_534

Write = Callable[[bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file and answer its name."""
    path = tmp_path / "other people's.csv"

    def write_bytes(content: bytes) -> str:
        path.write_bytes(content)
        return str(path)

    return write_bytes


def lines(name: str) -> list[tuple[int, str]]:
    with files.opened(name) as source:
        return list(source.lines())


def records(name: str) -> list[tuple[int, list[str]]]:
    with files.opened(name) as source:
        return list(source.records())


def text(name: str) -> str:
    with files.opened(name) as source:
        return source.text()


READINGS: list[Callable[[str], Any]] = [lines, records, text]


# What is read


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\n\n\r\nb\n", ["a", "", "", "b"]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b"\xef\xbb\xbf", []),
        ("é€😀\n".encode(), ["é€😀"]),
        # What Python, but nobody else, takes for the end of a line.
        ("a\x0b\x0c\x1c\x85\u2028b\n".encode(), ["a\x0b\x0c\x1c\x85\u2028b"]),
        # Only at the beginning it is a mark of the byte order.
        ("a\ufeffb\n\ufeffc".encode(), ["a\ufeffb", "\ufeffc"]),
    ],
)
def test_lines_are_read_with_their_numbers(
    write: Write, content: bytes, expected: list[str]
) -> None:
    assert lines(write(content)) == list(enumerate(expected, 1))


def test_the_first_line_is_known_before_anything_is_read(write: Write) -> None:
    with files.opened(write(b"\xef\xbb\xbfnumber,text\r\n+447700900123,hi\r\n")) as source:
        assert source.first_line == "number,text"
        assert [line for _, line in source.lines()] == ["number,text", "+447700900123,hi"]
    for blank in (b"", b"\n\r\n  \n"):
        with files.opened(write(blank)) as source:
            assert source.first_line == ""


def test_blank_lines_before_the_first_one_are_lines_all_the_same(write: Write) -> None:
    with files.opened(write(b"\xef\xbb\xbf\n \t\r\nnumber\n1\n")) as source:
        assert source.first_line == "number"
        assert list(source.lines()) == [(1, ""), (2, " \t"), (3, "number"), (4, "1")]
    assert records(write(b"\n\nnumber\n")) == [(1, []), (2, []), (3, ["number"])]
    assert text(write(b"\n\nhello\n")) == "\n\nhello"


def test_the_first_line_may_come_after_blank_ones_from_a_pipe() -> None:
    source, sink = os.pipe()

    def type_slowly() -> None:
        with open(sink, "wb", buffering=0) as typed:  # noqa: PTH123 - it has no path
            for line in (b"\n", b" \n", b"number\n"):
                typed.write(line)
                wait_until(lambda: fcntl.ioctl(sink, termios.FIONREAD, bytes(4)) == bytes(4))

    with ThreadPoolExecutor() as typist, open(source, "rb") as pipe:  # noqa: PTH123
        typing = typist.submit(type_slowly)
        opened = TextFile("stdin", pipe)
        assert opened.first_line == "number"
        assert list(opened.lines()) == [(1, ""), (2, " "), (3, "number")]
        typing.result()


def test_blank_lines_without_end_are_not_held(write: Write) -> None:
    name = write(b"\n" * 30 * MEGABYTE)

    tracemalloc.start()
    with files.opened(name) as source:
        assert source.first_line == ""
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 8 * MEGABYTE


def test_records_are_numbered_by_their_first_line_and_keep_the_line_ends_within_quotes(
    write: Write,
) -> None:
    name = write(b'number,text\r\n1,"two\r\nlines, ""quoted"""\r\n\r\n2,"three\n\n"\n3,"x"\n4,')

    assert records(name) == [
        (1, ["number", "text"]),
        (2, ["1", 'two\r\nlines, "quoted"']),
        (4, []),
        (5, ["2", "three\n\n"]),
        (8, ["3", "x"]),
        (9, ["4", ""]),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ""),
        (b"hello\n", "hello"),
        (b"hello\r\n", "hello"),
        (b"\xef\xbb\xbfhello\r\nworld\n\n", "hello\r\nworld\n"),
        (b"a" * MAX_LINE, "a" * MAX_LINE),
    ],
    ids=["empty", "lf", "crlf", "several", "long"],
)
def test_a_text_is_the_whole_file_without_its_last_line_end(
    write: Write, content: bytes, expected: str
) -> None:
    assert text(write(content)) == expected


def test_a_text_has_a_bound(write: Write) -> None:
    name = write(b"a line\n" * 10_000)

    with pytest.raises(InvalidInputError, match=r"has over 65,536 characters$"):
        text(name)


visible_lines = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n")))
one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@one_file
@given(written=visible_lines, end=st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_as_lines_is_read_as_lines(
    write: Write, written: list[str], end: str
) -> None:
    # The sign that may stand before a file is dropped there.
    name = write(b"\xef\xbb\xbf" + "".join(line + end for line in written).encode())

    assert lines(name) == list(enumerate(written, 1))


fields = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"))


@one_file
@given(st.lists(st.lists(fields, min_size=2)))
def test_what_is_written_as_csv_is_read_as_csv(write: Write, written: list[list[str]]) -> None:
    content = io.StringIO()
    csv.writer(content).writerows(written)
    name = write(b"\xef\xbb\xbf" + content.getvalue().encode())

    assert [record for _, record in records(name)] == written


@pytest.mark.parametrize("read", [lines, records])
def test_a_file_of_many_pieces_is_read_like_any_other(
    write: Write, read: Callable[[str], list[tuple[int, Any]]]
) -> None:
    # Of several bytes, so that a character lies astride every border between two pieces.
    written = [f"{number:06},€😀" for number in range(150_000)]
    name = write("\r\n".join(written).encode())

    found = read(name)

    assert os.path.getsize(name) > 2 * MEGABYTE  # noqa: PTH202
    assert [number for number, _ in found] == list(range(1, 150_001))
    assert [",".join(it) if isinstance(it, list) else it for _, it in found] == written


@pytest.mark.parametrize("reading", [TextFile.lines, TextFile.records])
def test_a_file_is_never_held(write: Write, reading: Callable[[TextFile], Any]) -> None:
    name = write((b"+447700900123," + b"some text " * 100 + b"\n") * 30_000)

    tracemalloc.start()
    with files.opened(name) as source:
        count = sum(1 for _ in reading(source))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 30_000
    assert Path(name).stat().st_size > 30 * 1_000_000
    assert peak_bytes < 8 * MEGABYTE


def test_a_line_without_end_is_not_held_either(write: Write) -> None:
    name = write(b"a\n" + b"x" * 30 * MEGABYTE)

    tracemalloc.start()
    with pytest.raises(InvalidInputError, match=", line 2: over 65,536 characters"):
        lines(name)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 8 * MEGABYTE


def test_how_far_a_file_is_read_is_told_as_it_is_read(write: Write) -> None:
    size_bytes = 24 * 100_000
    seen = []
    with files.opened(write(b"+447700900123,some text\n" * 100_000)) as source:
        assert source.size_bytes == size_bytes
        for _ in source.lines():
            seen.append(source.read_bytes)

    assert seen == sorted(seen)
    assert len(set(seen)) > 1
    assert (max(seen), source.read_bytes) == (size_bytes, size_bytes)


def test_every_byte_can_be_heard_of(write: Write) -> None:
    content = b"\xef\xbb\xbf" + b"a\r\nb\r\n" * 200_000
    heard = io.BytesIO()

    with files.opened(write(content), on_bytes=heard.write) as source:
        list(source.lines())

    assert heard.getvalue() == content


# Stdin

ECHO = (
    "from tbpay import files\n"
    "with files.opened('-') as source: print(source.name, source.size_bytes, *source.lines())"
)


def echo(program: str = ECHO, **streams: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, **streams
    )


def test_a_dash_is_stdin() -> None:
    assert echo(input="a\nb").stdout == "stdin None (1, 'a') (2, 'b')\n"


def test_stdin_can_be_a_file_with_a_size(write: Write) -> None:
    with Path(write(b"a\nb\n")).open() as stdin:
        assert echo(stdin=stdin).stdout == "stdin 4 (1, 'a') (2, 'b')\n"


def test_lines_are_taken_from_a_pipe_as_they_come() -> None:
    program = (
        "from tbpay import files\n"
        "with files.opened('-') as source:\n"
        "    for line in source.lines(): print(line, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for number in (1, 2, 3):
            # A line may come in pieces.
            for piece in ("one ", "line", "\n"):
                reader.stdin.write(piece)
                reader.stdin.flush()
                time.sleep(0.01)
            assert reader.stdout.readline() == f"({number}, 'one line')\n"
        reader.stdin.close()
        assert reader.wait(30) == 0


def test_a_stdin_that_is_closed_cannot_be_read() -> None:
    closing = f"import sys; sys.stdin = None\n{ECHO}"

    assert echo(closing).stderr.endswith("UnavailableError: stdin is closed\n")


# What is refused


@pytest.mark.parametrize("read", READINGS)
@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ("a\nb\n".encode("utf-16"), 1, "UTF-16: save the file as UTF-8"),
        (b"\xfe\xff\0a\0\n", 1, "UTF-16: save the file as UTF-8"),
        ("ab\n".encode("utf-16-le"), 1, "a NUL byte: if the file is UTF-16, save it as UTF-8"),
        ("ab\n".encode("utf-16-be"), 1, "a NUL byte: if the file is UTF-16, save it as UTF-8"),
        ("a\n".encode("utf-32"), 1, "UTF-16: save the file as UTF-8"),
        (b"a\nb\nc\0d\n", 3, "a NUL byte: if the file is UTF-16, save it as UTF-8"),
        (b"a\ncaf\xe9\n", 2, "byte 0xe9 is not UTF-8: save the file as UTF-8"),
        (b"a\n\n\xed\xa0\x80\n", 3, "byte 0xed is not UTF-8: save the file as UTF-8"),
        (b"a\nb\xe2\x82", 2, "byte 0xe2 is not UTF-8: save the file as UTF-8"),
        (
            b"a\rb\rc\r",
            1,
            "a carriage return alone: save the file with lines that end in LF or CR LF",
        ),
        (
            b"a\r\nb\r\nc\rd\r\n",
            3,
            "a carriage return alone: save the file with lines that end in LF or CR LF",
        ),
        (b"a\n" + b"b" * MEGABYTE + b"\n", 2, "over 65,536 characters"),
        (b"a\nb\n" + b"b" * MAX_LINE + b"\nc\n", 3, "over 65,536 characters"),
        (b"a\n" + b"b" * (MAX_LINE + 1), 2, "over 65,536 characters"),
        (b"a\nb\n" + "€".encode() * MEGABYTE, 3, "over 65,536 characters"),
    ],
    ids=lambda it: None if isinstance(it, bytes) else str(it)[:20],
)
def test_what_is_no_plain_text_is_refused_with_its_line(
    write: Write, read: Callable[[str], Any], content: bytes, line: int, what: str
) -> None:
    name = write(content)

    with pytest.raises(InvalidInputError) as refusal:
        read(name)

    assert refusal.value.message == f"{excerpt(name, 200)}, line {line}: {what}"


@pytest.mark.parametrize("fault", [b"\xff", b"\0", b"\r", b"x" * MAX_LINE])
def test_the_line_at_fault_is_found_far_into_a_file(write: Write, fault: bytes) -> None:
    name = write(b"+447700900123\n" * 200_000 + fault + b"+447700900123\n" * 200_000)

    with pytest.raises(InvalidInputError, match=r", line 200,001: "):
        lines(name)


def test_a_line_may_be_as_long_as_the_bound(write: Write) -> None:
    longest = "ж" * (MAX_LINE - 1)

    assert lines(write(f"a\n{longest}\nb\n".encode())) == [(1, "a"), (2, longest), (3, "b")]
    assert records(write(f"a\n{longest}\nb\n".encode()))[1] == (2, [longest])


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        (b'a,b\n1,"never closed\n2,b\n3,b\n', 2, "a quotation mark is not closed"),
        (b'a,b\n1,"', 2, "a quotation mark is not closed"),
        (
            b'a,b\n1,b\n"2"b,c\n',
            3,
            'a quotation mark closes before its field ends: write "" for one',
        ),
        (
            b'a,b\n1,b\n1,"\n' + b"many lines\n" * 10_000,
            3,
            "a record over 65,536 characters: perhaps a quotation mark is not closed",
        ),
    ],
    ids=["to-the-end", "at-the-end", "within", "for-many-lines"],
)
def test_csv_that_is_none_is_refused_with_the_line_in_which_the_record_begins(
    write: Write, content: bytes, line: int, what: str
) -> None:
    name = write(content)

    with pytest.raises(InvalidInputError) as refusal:
        records(name)

    assert refusal.value.message == f"{excerpt(name, 200)}, line {line}: {what}"


def test_a_csv_field_has_our_bound_whatever_the_application_allows(write: Write) -> None:
    before = csv.field_size_limit(sys.maxsize)
    try:
        with pytest.raises(InvalidInputError, match=", line 1: a record over 65,536 characters"):
            records(write(b'"' + b"many lines\n" * 200_000))
    finally:
        csv.field_size_limit(before)


@one_file
@given(st.binary() | st.lists(st.sampled_from([b'"', b",", b"\r", b"\n", b"\0", b"a", b"\xc3"])))
def test_every_file_is_read_or_refused(write: Write, content: bytes | list[bytes]) -> None:
    name = write(content if isinstance(content, bytes) else b"".join(content))

    refusals = []
    for read in READINGS:
        try:
            read(name)
        except InvalidInputError as refusal:
            refusals.append(refusal.message)

    assert all(message.startswith(f"{excerpt(name, 200)}, line ") for message in refusals)


def refused(name: str) -> TbpayError:
    for ask in (files.version, *READINGS):
        with pytest.raises(TbpayError) as refusal:
            ask(name)
    return refusal.value


def test_a_file_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    error = refused(f"{tmp_path}/none.csv")

    assert isinstance(error, UnavailableError)
    assert error.message == f"cannot read '{tmp_path}/none.csv': No such file or directory"


def test_a_directory_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"^cannot read '.*': Is a directory$"):
        lines(str(tmp_path))


@pytest.fixture
def no_files(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What has a name like a file and is none, by the name."""
    os.mkfifo(tmp_path / "pipe")
    # The path of a socket is short.
    with socket.socket(socket.AF_UNIX) as listening, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        listening.bind("socket")
        yield {
            str(tmp_path / "pipe"): "a pipe",
            str(tmp_path / "socket"): "a socket",
            os.devnull: "a device",
        }


def test_where_a_regular_file_is_needed_nobody_waits_for_a_pipe(no_files: dict[str, str]) -> None:
    for name, what in no_files.items():
        with pytest.raises(UnavailableError) as refusal, files.opened(name, regular=True):
            pass

        assert refusal.value.message == f"cannot read {excerpt(name, 200)}: Is {what}, not a file"


def test_where_a_regular_file_is_needed_a_dash_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableError, match=r"^cannot read '-': No such file"):
        files.opened("-", regular=True).__enter__()

    Path("-").write_text("a\n")
    with files.opened("-", regular=True) as source:
        assert (source.name, list(source.lines())) == ("'-'", [(1, "a")])


def test_a_file_without_permission_cannot_be_read(write: Write) -> None:
    name = write(b"a\n")
    Path(name).chmod(0)

    def read(_: int) -> str:
        if os.getuid() == 0:
            os.setuid(NOBODY)
        try:
            return str(lines(name))
        except UnavailableError as refusal:
            return refusal.message

    assert together(read, processes=1) == [f"cannot read {excerpt(name, 200)}: Permission denied"]


@pytest.mark.parametrize("name", ["", "a\0b", "\ud83d"])
def test_a_name_that_no_file_can_have_is_bad_input(name: str) -> None:
    error = refused(name)

    assert isinstance(error, InvalidInputError)
    assert error.message == f"{name!r} is not the name of a file"


def test_a_name_is_shown_so_that_it_can_do_no_harm() -> None:
    assert refused("\x1b[2J" * 1_000).message.startswith(r"cannot read '\x1b[2J\x1b[2J")
    assert len(refused("/x" * 5_000).message) < 300
    assert refused("caf\udce9").message.startswith(r"cannot read 'caf\udce9'")


# What tells that it was changed


def test_a_file_that_nobody_touches_keeps_its_version() -> None:
    found = files.version(sys.executable)

    assert found is not None
    assert found == files.version(sys.executable)


def test_a_file_of_just_now_has_no_version_yet(write: Write, tmp_path: Path) -> None:
    name, beside = write(b"a\n"), tmp_path / "beside"
    beside.write_bytes(b"b\n")
    # It may be written once more within the same tick of the clock.
    assert files.version(name) is None

    wait_until(lambda: files.version(name) is not None and files.version(str(beside)) is not None)
    assert files.version(name) != files.version(str(beside))

    write(b"c\n")
    assert files.version(name) is None
    beside.replace(name)
    assert files.version(name) is None
