"""Pipes, full disks, closed descriptors and signals: the work decides the exit code."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from command_line import (
    Terminal,
    ctrl_c_heard,
    descriptors,
    environment,
    held,
    is_asleep,
    shell,
    start,
    tbpay,
    wait_until,
    wait_until_it_waits,
)
from conftest import DIALECTS, SESSION, run_tbpay
from databases import Database
from probes import dump, rows, run

pytestmark = pytest.mark.one_database

CREDIT = "balance credit 1 --amount 5 --reason x --key the-key-of-it"


@pytest.fixture(autouse=True)
def _ctrl_c_heard() -> Iterator[None]:
    with ctrl_c_heard():
        yield


@pytest.fixture
def busy_shop(shop: Database) -> Database:
    """A shop with more orders than a pipe holds."""
    run(
        shop,
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2000)"
        " INSERT INTO orders (account_id, order_type, amount_cents, stripe_session_id, status,"
        f" created_at) SELECT 1, 'top_up', 500, 'cs_' || n || '_{'x' * 100}', 'pending',"
        " '2026-11-23T08:13:00.000000Z' FROM numbers",
    )
    return shop


# Readers that go away


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.usefixtures("busy_shop")
def test_a_reader_that_has_read_enough_ends_a_list_without_a_word(unbuffered: str) -> None:
    done = shell(
        "$tbpay order list --all -o csv | head -1; echo ${PIPESTATUS[0]}",
        PYTHONUNBUFFERED=unbuffered,
    )

    header, code = done.out.splitlines()
    assert header.startswith("id,account_id,")
    assert (code, done.err) == ("141", "")


@pytest.mark.usefixtures("shop")
def test_a_reader_that_takes_it_all_leaves_no_trace_either() -> None:
    done = shell("$tbpay order list | head -1; echo ${PIPESTATUS[0]}")

    assert done.out.splitlines()[1] == "0"
    assert done.err == ""


def test_a_change_whose_reader_went_away_is_made(shop: Database) -> None:
    done = shell(f"$tbpay {CREDIT} | true; echo ${{PIPESTATUS[0]}}")

    assert done.out == "0\n"
    assert rows(shop, "SELECT count(*) FROM transactions") == [(3,)]


# Streams that are full or closed


@pytest.mark.parametrize("to", ["> /dev/full", ">&-"])
@pytest.mark.usefixtures("shop")
def test_a_read_that_stdout_cannot_take_is_unavailable(to: str) -> None:
    done = shell(
        f"$tbpay order list {to}; echo $? >&2; $tbpay order show 2 --json {to}; echo $? >&2;"
        f" $tbpay order --help {to}; echo $? >&2; $tbpay --version {to}; echo $? >&2"
    )

    *lines, last = done.err.splitlines()
    assert (lines[1], lines[3], lines[5], last) == ("6", "6", "6", "6")
    assert lines[0].startswith("error: stdout cannot take the answer: ")
    assert '"code":"output","exit":6' in lines[2]
    assert "Traceback" not in done.err


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.usefixtures("busy_shop")
def test_an_answer_that_a_disk_takes_half_of_is_unavailable(
    unbuffered: str, tmp_path: Path
) -> None:
    half = tmp_path / "half.csv"

    done = shell(
        f"ulimit -f 100; $tbpay order list --all -o csv > {half}", PYTHONUNBUFFERED=unbuffered
    )

    assert (done.code, half.stat().st_size) == (6, 100 * 1024)
    assert done.err == "error: stdout cannot take the answer: File too large\n"


@pytest.mark.parametrize("to", ["> /dev/full", ">&-"])
def test_a_change_that_stdout_cannot_tell_of_is_made(to: str, shop: Database) -> None:
    done = shell(f"$tbpay {CREDIT} {to}")

    assert done.code == 0
    undo, note = done.err.splitlines()[:1], done.err.splitlines()[-1]
    assert undo[0].startswith("note: to undo: tbpay balance debit 1 --amount 5.00 ")
    assert note.startswith("note: it is done, but not all of it could be said: stdout cannot take ")
    assert rows(shop, "SELECT count(*) FROM transactions") == [(3,)]


@pytest.mark.parametrize("to", ["2> /dev/full", "2>&-"])
def test_without_stderr_a_command_works_all_the_same(to: str, shop: Database) -> None:
    done = shell(
        f"$tbpay {CREDIT} --json {to}; echo $?; $tbpay order show 99 {to}; echo $?;"
        f" $tbpay order list --nonsense {to}; echo $?; $tbpay order fail 2 4 {to}; echo $?"
    )

    *document, changed, missing, usage, unconfirmed = done.out.splitlines()
    assert '"balance_cents": 2500,' in "\n".join(document)
    assert (changed, missing, usage, unconfirmed) == ("0", "3", "2", "9")
    assert done.err == ""
    assert rows(shop, "SELECT count(*) FROM transactions") == [(3,)]


@pytest.mark.every_database
def test_no_database_takes_the_place_of_a_closed_stream(shop: Database) -> None:
    before = dump(shop)
    with held(shop):
        waiting = subprocess.Popen(
            ["bash", "-c", f"exec {sys.executable} -m tbpay {CREDIT} <&- >&- 2>&-"],
            env=environment(),
        )
        wait_until_it_waits(waiting.pid, shop)
        opened = descriptors(waiting.pid)
        waiting.send_signal(signal.SIGTERM)
        code = waiting.wait()

    assert code == 143
    assert {opened[number] for number in ("0", "1", "2")} == {"/dev/null"}
    assert dump(shop) == before


def test_all_streams_closed_at_once_are_no_obstacle(shop: Database) -> None:
    assert shell(f"$tbpay {CREDIT} <&- >&- 2>&-").code == 0
    assert shell("$tbpay order list <&- >&- 2>&-").code == 6
    assert rows(shop, "SELECT count(*) FROM transactions") == [(3,)]


# Signals


# Less than the 30 seconds after which it would give up by itself, and many times what it takes.
@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
@pytest.mark.parametrize(
    ("dialect", "mode", "words"),
    [
        given
        for given in (
            ("sqlite", "wal", CREDIT),
            ("sqlite", "delete", CREDIT),
            ("sqlite", "delete", "balance show 1"),
            ("sqlite", "delete", "balance show"),
            ("postgresql", "", CREDIT),
            ("postgresql", "", "balance show"),
        )
        if given[0] in DIALECTS
    ],
)
def test_a_signal_is_heard_while_another_process_keeps_the_database_locked(
    mode: str, words: str, number: signal.Signals, code: int, word: str, shop: Database
) -> None:
    if mode:
        run(shop, f"PRAGMA journal_mode={mode}")
    before = dump(shop)
    with held(shop, from_readers="show" in words), start(f"{words} --json") as waiting:
        wait_until_it_waits(waiting.pid, shop)
        waiting.send_signal(number)
        # A second one, out of impatience, is no traceback.
        waiting.send_signal(number)
        # The lock is still there: who does not hear it now, hears it after 30 seconds.
        out, err = waiting.communicate()

    assert (waiting.returncode, out) == (code, b"")
    assert err.decode() == (
        f'{{"error":{{"code":"{word}","exit":{code},"message":"{word}","hint":null}}}}\n'
    )
    assert dump(shop) == before


# Programs that send themselves a signal at an exact moment of a command.
AT_THE_COMMIT = """
import sqlalchemy
sqlalchemy.event.listen(sqlalchemy.Engine, "commit", lambda _: hit(), once=True)
"""
AT_THE_END = """
import atexit
atexit.register(hit)
"""
AT_THE_START = """
class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            hit()
sys.meta_path.insert(0, Finder())
"""


def hit(moment: str, number: signal.Signals, words: str) -> subprocess.CompletedProcess[str]:
    program = f"import os, sys\nhit = lambda: os.kill(os.getpid(), {number:d})\n{moment}"
    program += f"sys.argv[1:] = {words.split()!r}\nfrom tbpay.cli import main\nmain()\n"
    return subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
    )


def test_a_ctrl_c_before_anything_is_begun_is_no_traceback() -> None:
    done = hit(AT_THE_START, signal.SIGINT, CREDIT)

    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.every_database
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [AT_THE_COMMIT, AT_THE_END], ids=["the commit", "the end"])
def test_a_signal_at_the_commit_or_later_comes_too_late(
    moment: str, number: signal.Signals, shop: Database
) -> None:
    done = hit(moment, number, f"{CREDIT} --json")

    assert done.returncode == 0
    assert '"balance_cents": 2500,' in done.stdout
    assert done.stderr.startswith("note: to undo: ")
    assert rows(shop, "SELECT count(*) FROM transactions") == [(3,)]


@pytest.mark.every_database
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_change_that_nobody_reads_leaves_it_made(
    number: signal.Signals, shop: Database
) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    filled = 0
    while True:
        try:
            filled += os.write(writing, b" " * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)

    with os.fdopen(writing, "wb") as stdout:
        stuck = start(CREDIT, stdout=stdout)
    wait_until(lambda: len(rows(shop, "SELECT id FROM transactions")) == 3)
    wait_until(lambda: is_asleep(stuck.pid))
    stuck.send_signal(number)
    _, err = stuck.communicate()
    os.close(reading)

    assert stuck.returncode == 0
    assert (
        err.decode()
        .splitlines()[-1]
        .startswith("note: it is done, but not all of it could be said: ")
    )
    assert rows(shop, "SELECT count(*) FROM transactions") == [(3,)]


@pytest.mark.usefixtures("busy_shop")
def test_a_signal_to_a_read_that_nobody_reads_ends_it() -> None:
    stuck = start("order list --all")
    assert stuck.stdout is not None
    # It is there once it has written something, and is stuck then: the rest fits in no pipe.
    os.read(stuck.stdout.fileno(), 1)
    wait_until(lambda: is_asleep(stuck.pid))

    stuck.send_signal(signal.SIGTERM)

    # It ends although nobody reads on.
    assert stuck.wait() == 143
    assert stuck.communicate()[1] == b"error: terminated\n"


@pytest.mark.every_database
@pytest.mark.parametrize("words", ["db upgrade", "db downgrade base --confirm base"])
def test_a_signal_at_the_commit_of_a_migration_comes_too_late(words: str, shop: Database) -> None:
    tbpay("db downgrade 0002 --confirm 0002")

    done = hit(AT_THE_COMMIT, signal.SIGTERM, f"{words} --json")

    assert done.returncode == 0
    assert json.loads(done.stdout)["steps"]
    engine = shop.engine()
    assert sa.inspect(engine).has_table("audit_log") == (words == "db upgrade")
    engine.dispose()


@pytest.mark.every_database
def test_a_job_in_the_background_does_not_hear_a_ctrl_c(shop: Database) -> None:
    with held(shop):
        waiting = subprocess.Popen(
            ["bash", "-c", f"trap '' INT; exec {sys.executable} -m tbpay {CREDIT}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        wait_until_it_waits(waiting.pid, shop)
        waiting.send_signal(signal.SIGINT)

    waiting.communicate()
    assert waiting.returncode == 0


# Colours, encodings, widths


@pytest.mark.parametrize(
    "variables",
    [
        {"FORCE_COLOR": "1", "NO_COLOR": ""},
        {"FORCE_COLOR": "1", "TERM": "dumb"},
        {"GITHUB_ACTIONS": "true", "NO_COLOR": ""},
        {"PY_COLORS": "1", "CLICOLOR_FORCE": "1", "NO_COLOR": ""},
    ],
    ids=str,
)
@pytest.mark.usefixtures("shop")
def test_off_a_terminal_nothing_is_coloured_whatever_the_environment_forces(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("order list", "order list --help", "--help", "order", "order nope", "order show 2")
    plain = [tbpay(each) for each in words]

    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert [tbpay(each) for each in words] == plain
    assert not any("\x1b" in answer.out + answer.err for answer in plain)


@pytest.mark.usefixtures("shop")
def test_help_in_a_process_is_the_same_plain_text() -> None:
    forced = shell("$tbpay order list --help; $tbpay order", FORCE_COLOR="1", NO_COLOR="")

    assert forced.out.startswith("Usage: tbpay order list [OPTIONS]\n")
    assert forced.err.startswith("Usage: tbpay order [OPTIONS] COMMAND [ARGS]...\n")
    assert all(line.isprintable() for line in (forced.out + forced.err).splitlines())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.usefixtures("shop")
def test_a_stdout_of_another_encoding_shows_what_it_can(encoding: str) -> None:
    tbpay("balance credit 1 --amount 5 --reason", "10 € für 日本")

    done = shell(
        "for form in table csv; do $tbpay balance history 1 --limit 1 -o $form; done;"
        " $tbpay order 日本",
        PYTHONIOENCODING=encoding,
    )

    assert done.out.count(r"10 \u20ac f") == 2
    assert done.out.count(r"r \u65e5\u672c") == 2
    assert done.err.splitlines()[-2] == r"error: no such command '\u65e5\u672c'"
    assert "Traceback" not in done.err


@pytest.mark.usefixtures("shop")
def test_an_argument_that_is_not_utf8_is_bad_input() -> None:
    done = shell("$tbpay account show $'caf\\xe9'; echo $?; $tbpay order $'\\xff'; echo $?")

    assert done.out == "2\n2\n"
    assert r"'caf\udce9'" in done.err
    assert "Traceback" not in done.err


@pytest.mark.usefixtures("shop")
def test_an_argument_as_long_as_the_system_takes_is_refused_at_once() -> None:
    done = run_tbpay("balance", "credit", "1", "--amount", "5", "--reason", "x" * 130_000)

    assert (done.returncode, done.stdout) == (2, "")
    assert "takes 255 characters, not 130,000" in done.stderr
    assert len(done.stderr) < 500


@pytest.mark.usefixtures("shop")
def test_a_session_is_never_cut() -> None:
    assert len(SESSION) == 66

    for form in ("table", "csv", "tsv", "json"):
        assert SESSION in tbpay(f"order show 2 -o {form}").out
    for form in ("csv", "tsv", "json"):
        assert SESSION in tbpay(f"order list -o {form}").out


@pytest.mark.usefixtures("shop")
def test_a_session_is_never_cut_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")

    with Terminal("order show 2", columns=80) as terminal:
        assert terminal.end() == 0

    assert f"stripe session id         {SESSION}\n" in terminal.seen


@pytest.mark.usefixtures("shop")
def test_a_list_fits_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")

    with Terminal("order list", columns=120) as terminal:
        assert terminal.end() == 0

    assert max(map(len, terminal.seen.splitlines())) <= 120
    assert "initial_access" in terminal.seen
    assert "\x1b" not in terminal.seen
