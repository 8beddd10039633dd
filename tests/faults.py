"""How tests run a command as a process of its own, to which the world outside is not kind."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass

from conftest import ROOT
from probes import together

from tbpay import cli
from tbpay.cli.exits import Exit

SHOW = "balance show 1"
CREDIT = "balance credit 1 --amount 5 --reason x --key the-key-of-it"


@dataclass(frozen=True)
class End:
    """How a process ended and what it said."""

    code: object
    out: str
    err: str


def command(words: str) -> End:
    """Run a command line in a process of its own.

    It is forked and so is there at once, with what this one has loaded and set.
    """
    return together(lambda _: become(words), processes=1)[0]


def start(words: str) -> subprocess.Popen[str]:
    """Start a command line as a program, from the beginning."""
    return subprocess.Popen(
        [sys.executable, "-m", "tbpay", *shlex.split(words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def become(words: str) -> End:
    """Be the command line: for a process that was made for nothing else."""
    heard = [_pipe_in_place_of(number) for number in (1, 2)]
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    sys.argv = ["tbpay", *shlex.split(words)]
    code: object = "none"
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    os.closerange(1, 3)
    return End(code, *(os.fdopen(each).read() for each in heard))


def _pipe_in_place_of(number: int) -> int:
    """Let a standard stream lead into a pipe, which no disk limits, and answer its other end."""
    reading, writing = os.pipe()
    os.dup2(writing, number)
    os.close(writing)
    return reading


def check_refused(end: End, code: Exit, message: str, hint: str | None = None) -> None:
    """Expect one line, a hint where there is one, and nothing else anywhere."""
    told = f"error: {message}\n" + (f"hint: {hint}\n" if hint else "")
    assert end == End(code, "", told)
