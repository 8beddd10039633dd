"""Two calls that meet: the second one comes while the unit of the first is still open."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from databases import Database
from probes import FORK, rows

from tbpay.database import unit_of_work
from tbpay.errors import Code, TbpayError, UnavailableError


@dataclass(frozen=True)
class Refusal:
    """What a call was refused with, in a form that passes between processes."""

    kind: str
    code: Code
    message: str


def answer_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except UnavailableError:
        # Nothing is wrong with the call: whoever opened the unit does all of it again.
        raise
    except TbpayError as refusal:
        return Refusal(type(refusal).__name__, refusal.code, refusal.message)


def meet(db: Database, first: Callable[[], Any], second: Callable[[], Any]) -> list[Any]:
    """Do the first, and let it be kept only when the second waits for it; answer both answers."""
    holding, held = FORK.Pipe()
    waiting, waits = FORK.Pipe()
    holder = FORK.Process(target=_hold, args=(first, held))
    waiter = FORK.Process(target=_answer, args=(second, waits))
    holder.start()
    answers = [holding.recv()]
    waiter.start()
    _until_it_waits(db, waiting)
    holding.send(None)
    answers.append(waiting.recv())
    for process in (holder, waiter):
        process.join()
        assert process.exitcode == 0
    return answers


def _hold(call: Callable[[], Any], held: Connection) -> None:
    with unit_of_work():
        held.send(answer_of(call))
        held.recv()


def _answer(call: Callable[[], Any], answered: Connection) -> None:
    answered.send(answer_of(call))


def _until_it_waits(db: Database, waiting: Connection) -> None:
    """Look until PostgreSQL says so; on SQLite a moment is all that can be given."""
    enough = time.monotonic() + (0.3 if db.dialect == "sqlite" else 10)
    locked = "SELECT count(*) FROM pg_stat_activity"
    locked += " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while time.monotonic() < enough and not waiting.poll(0.02):
        if db.dialect == "postgresql" and rows(db, locked) != [(0,)]:
            return
