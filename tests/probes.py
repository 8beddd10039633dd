"""How tests look at a database from outside the stores, and set many processes on it at once."""

import ctypes
import multiprocessing
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tbpay.errors import Code, TbpayError

T = TypeVar("T")

# Forked, not spawned: a process is then there in milliseconds, with the test's own environment.
FORK = multiprocessing.get_context("fork")


def label(value: object) -> str:
    """A parameter in the name of a test: short and printable, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"{value.bit_length()} bits"
    return ascii(value)[:24]


def dump(path: Path) -> list[str]:
    """The whole database as SQL: nothing was changed where two dumps are equal."""
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def rows(path: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql, values).fetchall()


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def another(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else's, who begins and ends by himself and does not wait at all."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        yield connection


def kept_cents(path: Path, account: int) -> int:
    """A balance as it is kept, whatever an open unit says about it."""
    sql = "SELECT balance_cents FROM account_balances WHERE account_id = ?"
    return int(rows(path, sql, account)[0][0])


@contextmanager
def refused(
    path: Path, kind: type[TbpayError], code: Code, message: str | None = None
) -> Iterator[None]:
    """Expect a refusal, in these words, that leaves nothing behind."""
    before = dump(path)
    with pytest.raises(kind) as refusal:
        yield
    assert refusal.value.code is code
    assert message in (None, refusal.value.message)
    assert refusal.value.message.isprintable()
    assert dump(path) == before


def unbalanced(path: Path) -> list[tuple[Any, ...]]:
    """Accounts whose balance is not what their lines add up to, or not what the last one says."""
    return rows(
        path,
        """
        SELECT account_id, balance_cents, added, last FROM (
            SELECT a.id AS account_id, coalesce(b.balance_cents, 0) AS balance_cents,
                (SELECT coalesce(sum(
                    CASE transaction_type WHEN 'credit' THEN amount_cents ELSE -amount_cents END
                ), 0) FROM transactions t WHERE t.account_id = a.id) AS added,
                coalesce((SELECT balance_after_cents FROM transactions t
                    WHERE t.account_id = a.id ORDER BY t.id DESC LIMIT 1), 0) AS last
            FROM accounts a LEFT JOIN account_balances b ON b.account_id = a.id
        ) WHERE balance_cents <> added OR balance_cents <> last
        """,
    )


def together(work: Callable[[int], T], processes: int = 8) -> list[T]:
    """Run the work in so many processes, which start it at one moment; answer what each answers.

    Raises ChildProcessError with the exit code of one that died before it had an answer.
    """
    start = FORK.Barrier(processes)
    started = []
    for number in range(processes):
        mine, its = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_work, args=(work, number, start, its))
        process.start()
        its.close()
        started.append((process, mine))
    answers: list[T] = []
    for process, mine in started:
        with mine:
            try:
                answers.append(mine.recv())
            except EOFError:
                process.join()
                raise ChildProcessError(process.exitcode) from None
        process.join()
    return answers


def refusal_of(call: Callable[[], object]) -> tuple[str, str] | None:
    """What kind and code a call is refused with, in a form that passes between processes."""
    try:
        call()
    except TbpayError as refusal:
        return type(refusal).__name__, refusal.code
    return None


def unprivileged(work: Callable[[], T]) -> T:
    """Do the work in a process that may open what its mode allows and no more, for root too."""

    def give_up_and_work(_: int) -> T:
        version_3, this_process = 0x20080522, 0
        nothing = (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(version_3, this_process), nothing)
        return work()

    return together(give_up_and_work, processes=1)[0]


def limited(work: Callable[[], T], file_size: int) -> T:
    """Do the work in a process that may write no file larger than this: as on a full disk."""

    def limit_and_work(_: int) -> T:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        return work()

    return together(limit_and_work, processes=1)[0]


def _work(work: Callable[[int], T], number: int, start: Barrier, answer: Connection) -> None:
    start.wait(30)
    answer.send(work(number))
