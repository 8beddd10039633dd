"""How the tests run the command line: in this process, as a process of its own, at a terminal."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self

import pexpect
import typer
from conftest import ROOT
from databases import Database
from probes import another, rows, run
from typer.testing import CliRunner

from tbpay import cli
from tbpay.cli import app
from tbpay.guards import GUARDS

# What a stored text may hold, and how it may be shown.
HOSTILE = "\x1b[2J[red]x[/] :smile: =1+1\u202e"
HARMLESS = r"\x1b[2J[red]x[/] :smile: =1+1\u202e"


@dataclass(frozen=True)
class Answer:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def items(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.json["items"]
        return items

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.err.splitlines()[-1])["error"]
        return error


def tbpay(words: str, *more: str, typed: str = "") -> Answer:
    """Run a command line in this process: words as a shell would split them, and more as it is."""
    with CliRunner().isolation(typed) as (out, err, _):
        try:
            _root().main([*shlex.split(words), *more])
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        return Answer(code, *(said.getvalue().decode() for said in (out, err)))


@cache
def _root() -> Any:
    """Put the commands together once: that takes longer than most of them take to run."""
    return typer.main.get_command(app)


def start(words: str, *, stdout: IO[bytes] | int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """Start a command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tbpay", *shlex.split(words)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment(),
    )


def shell(script: str, **more: str) -> Answer:
    """Run a shell script in which ``$tbpay`` is our command."""
    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        stdin=subprocess.DEVNULL,
        timeout=60,
        env=environment() | {"tbpay": f"{sys.executable} -m tbpay"} | more,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def unguarded(db: Database, *statements: str) -> None:
    """Change a database behind the back of its guards, and put them up again."""
    down, up = [], []
    for name, text in GUARDS[db.dialect].items():
        on = f" ON {text.split(' ON ')[1].split()[0]}"
        if db.dialect == "postgresql":
            down.append(f"DROP TRIGGER {name}{on}")
            up += [text, f"ALTER TABLE{on.removeprefix(' ON')} ENABLE ALWAYS TRIGGER {name}"]
        else:
            down.append(f"DROP TRIGGER {name}")
            up.append(text)
    run(db, *down, *statements, *up)


@contextmanager
def held(db: Database, *, from_readers: bool = False) -> Iterator[None]:
    """Let somebody else keep the database locked, so that nobody can write, or not even read."""
    with another(db) as other:
        if db.dialect == "sqlite":
            other.execute("BEGIN EXCLUSIVE" if from_readers else "BEGIN IMMEDIATE")
        else:
            other.execute("BEGIN")
            mode = "ACCESS EXCLUSIVE" if from_readers else "EXCLUSIVE"
            other.execute(f"LOCK TABLE account_balances IN {mode} MODE")
        yield


def wait_until(it_is_so: Callable[[], bool]) -> None:
    """Ask again and again, for as long as a slow machine may take."""
    deadline = time.monotonic() + 30
    while not it_is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_asleep(pid: int) -> bool:
    """Tell whether a process waits for something rather than works."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "S"


def descriptors(pid: int) -> dict[str, str]:
    """Tell what files a process has open, by the numbers of its descriptors."""
    opened = {}
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            opened[each.name] = str(each.readlink())
    return opened


def wait_until_it_waits(pid: int, db: Database, *, others: int = 0) -> None:
    """Wait until a process waits for what somebody else keeps locked, as so many others do."""
    if db.dialect == "postgresql":
        stuck = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
        stuck += " AND wait_event_type = 'Lock'"
        wait_until(lambda: len(rows(db, stuck)) > others)
    else:
        wait_until(lambda: db.url in descriptors(pid).values() and is_asleep(pid))


@contextmanager
def ctrl_c_heard() -> Iterator[None]:
    """Let the processes that are started here hear a Ctrl-C, also where the tests do not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


class Terminal:
    """A terminal at which somebody runs a command and answers what it asks."""

    def __init__(self, words: str, *, columns: int = 200) -> None:
        # Forked, and so there at once, with what this process has loaded and set.
        self._child = pexpect.spawn(
            sys.executable,
            preexec_fn=lambda: _become(words),
            dimensions=(24, columns),
            encoding="utf-8",
            timeout=30,
        )
        self.seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.close(force=True)

    def answer(self, question: str, answer: str) -> None:
        """Wait for a question, then type a line."""
        self.wait(question)
        self._child.sendline(answer)

    def press(self, question: str, key: str) -> None:
        """Wait for a question, then press a key together with Ctrl."""
        self.wait(question)
        # At once: the command goes on meanwhile, and may come to its end.
        self._child.delaybeforesend = None
        self._child.sendcontrol(key)

    def end(self) -> int:
        """Wait for the end, and answer the exit code."""
        self.wait(pexpect.EOF)
        self._child.close()
        code: int = self._child.exitstatus
        return code

    def wait(self, what: Any) -> None:
        """Wait until it says something, or until its end."""
        self._child.expect_exact(what) if isinstance(what, str) else self._child.expect(what)
        after = what if isinstance(what, str) else ""
        self.seen += (self._child.before + after).replace("\r\n", "\n")


def _become(words: str) -> NoReturn:
    """Be the command line, in a process that was forked for nothing else."""
    # Who forked it waits for the end of one of these, and none of the others is its own.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    sys.argv = ["tbpay", *shlex.split(words)]
    try:
        cli.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    finally:
        os._exit(1)
