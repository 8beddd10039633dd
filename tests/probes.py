"""How tests look at a database from outside the stores, and set many processes on it at once."""

import ctypes
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any, NoReturn, TypeVar

import pytest
from databases import Database, database_at

from tbpay.errors import Code, TbpayError

T = TypeVar("T")

# Forked, not spawned: a process is then there in milliseconds, with the test's own environment.
FORK = multiprocessing.get_context("fork")

# A test's database, or a file that it made by itself.
Where = Database | os.PathLike[str] | str

NOT_RUN = "not run: "


def label(value: object) -> str:
    """A parameter in the name of a test: short and printable, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"{value.bit_length()} bits"
    return ascii(value)[:24]


def not_run(what: str, why: str) -> NoReturn:
    """Leave a test out for want of something; the suite's last line says so."""
    pytest.skip(f"{NOT_RUN}{what}: {why}")


def dump(db: Where) -> list[str]:
    """The whole database, written down: nothing was changed where two dumps are equal."""
    return database_at(db).dump()


def rows(db: Where, sql: str, *values: object) -> list[tuple[Any, ...]]:
    return database_at(db).rows(sql, *values)


def run(db: Where, *statements: str) -> None:
    database_at(db).run(*statements)


def another(db: Where) -> AbstractContextManager[Any]:
    """A connection of somebody else's, who begins and ends by himself and does not wait at all."""
    return database_at(db).another()


def kept_cents(db: Where, account: int) -> int:
    """A balance as it is kept, whatever an open unit says about it."""
    sql = "SELECT balance_cents FROM account_balances WHERE account_id = ?"
    return int(rows(db, sql, account)[0][0])


@contextmanager
def refused(
    db: Where, kind: type[TbpayError], code: Code, message: str | None = None
) -> Iterator[None]:
    """Expect a refusal, in these words, that leaves nothing behind."""
    before = dump(db)
    with pytest.raises(kind) as refusal:
        yield
    assert refusal.value.code is code
    assert message in (None, refusal.value.message)
    assert refusal.value.message.isprintable()
    assert dump(db) == before


def unbalanced(db: Where) -> list[tuple[Any, ...]]:
    """Accounts whose balance is not what their lines add up to, or not what the last one says."""
    return rows(
        db,
        """
        SELECT account_id, balance_cents, added, last FROM (
            SELECT a.id AS account_id, coalesce(b.balance_cents, 0) AS balance_cents,
                (SELECT coalesce(sum(
                    CASE transaction_type WHEN 'credit' THEN amount_cents ELSE -amount_cents END
                ), 0) FROM transactions t WHERE t.account_id = a.id) AS added,
                coalesce((SELECT balance_after_cents FROM transactions t
                    WHERE t.account_id = a.id ORDER BY t.id DESC LIMIT 1), 0) AS last
            FROM accounts a LEFT JOIN account_balances b ON b.account_id = a.id
        ) AS balances WHERE balance_cents <> added OR balance_cents <> last
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


def wait_until(it_is_so: Callable[[], bool], seconds: int = 30) -> None:
    deadline = time.monotonic() + seconds
    while not it_is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
