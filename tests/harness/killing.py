"""Workers on one database, of whom a parent kills one every little while, beside readers.

A worker that is killed is replaced by another, which first makes again, under their keys, the calls
of which its predecessor had no answer yet.
"""

import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path

import journal
from auditor import audit
from choosing import MIX, Chooser, seeded
from databases import Database
from deeds import OUR_WAYS, Ways, World, first_calls, new_world, perform
from findings import Finding, Kind
from journal import Call, Journal, Outcome
from probes import FORK

from tbpay import database
from tbpay.database import snapshot
from tbpay.errors import Code, UnavailableError
from tbpay.stores import balance_store

WORKERS = 5
READERS = 2
KILL_SECONDS = 0.2
CRASH_SECONDS = 8.0
_PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Killing:
    """What came of a run: every call that was made, and what the audit and the readers found."""

    calls: list[Call]
    reads: int
    bad_reads: list[str]
    kills: int
    crashes: int
    findings: list[Finding]
    lines: int

    def __str__(self) -> str:
        outcomes = Counter(call.outcome for call in self.calls)
        kinds = Counter(finding.kind for finding in self.findings)
        return (
            f"{len(self.calls):,} operations, {self.kills} kills, {self.crashes} server crashes;"
            f" {outcomes[Outcome.DONE]:,} acknowledged, {outcomes[Outcome.NOT_DONE]:,} refused,"
            f" {outcomes[Outcome.UNKNOWN]:,} unknown; {self.lines:,} lines; "
            + ", ".join(f"{kinds[kind]} {kind}" for kind in Kind)
            + f"; {self.reads:,} reads, {len(self.bad_reads)} bad"
        )


def kill(
    db: Database,
    *,
    seconds: float,
    least: int,
    seed: int,
    ways: Ways = OUR_WAYS,
    mix: dict[str, int] = MIX,
    crash: Callable[[], None] | None = None,
) -> Killing:
    """Let workers work on an empty database and kill one after the other; then audit it.

    It takes so long, and longer where a busy machine has not come to the least of calls by then.
    ``crash`` stops the server without a warning and starts it again.
    """
    world = new_world()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gifts = Journal(folder / "gifts")
        for call in first_calls(world):
            perform(gifts, OUR_WAYS.operations[call.verb], call)
        database.close()
        with _crew(folder, world, seed, ways, mix) as crew:
            crashes = _disturb(crew, seconds, least, seeded(seed, "parent"), crash)
        calls = [call for path in sorted(folder.iterdir()) for call in journal.read(path)]
    reads = [call for call in calls if call.verb == "read"]
    calls = [call for call in calls if call.verb != "read"]
    return Killing(
        calls=calls,
        reads=sum(call.outcome is Outcome.DONE for call in reads),
        bad_reads=[text for call in reads for text in call.answer.get("bad", [])],
        kills=crew.kills,
        crashes=crashes,
        findings=audit(db, calls),
        lines=db.rows("SELECT count(*) FROM transactions")[0][0],
    )


class _Crew:
    """Those at work: workers, of whom each can be replaced, and readers."""

    def __init__(
        self, folder: Path, world: World, seed: int, ways: Ways, mix: dict[str, int]
    ) -> None:
        self._folder = folder
        self._world = world
        self._seed = seed
        self._ways = ways
        self._mix = mix
        self._numbers = count(1)
        self._workers: dict[Path, BaseProcess] = {}
        self._readers: list[BaseProcess] = []
        self.kills = 0

    def start(self) -> None:
        for _ in range(WORKERS):
            self._hire(None)
        for _ in range(READERS):
            path = self._folder / f"reader-{next(self._numbers)}"
            self._readers.append(_forked(_read_all, path, self._world, self._seed))

    def calls(self) -> int:
        """Count the calls that workers have made: each is two lines."""
        journals = self._folder.glob("worker-*")
        return sum(path.read_bytes().count(b"\n") for path in journals) // 2

    def at_work(self) -> list[Path]:
        """Answer the journals of the workers who have begun to work."""
        return [path for path in self._workers if path.exists()]

    def kill_one(self, chance: random.Random) -> None:
        at_work = self.at_work()
        # Every other time the one who wrote last, and is in the middle of something.
        last = max(at_work, key=lambda path: path.stat().st_mtime_ns)
        path = chance.choice([last, chance.choice(at_work)])
        worker = self._workers.pop(path)
        assert worker.exitcode is None, f"the worker of {path} left by itself: {worker.exitcode}"
        _end(worker)
        self.kills += 1
        self._hire(path)

    def stop(self) -> None:
        for process in [*self._workers.values(), *self._readers]:
            _end(process)

    def _hire(self, predecessor: Path | None) -> None:
        number = next(self._numbers)
        path = self._folder / f"worker-{number}"
        chooser = Chooser(number, self._seed, self._world, self._mix)
        self._workers[path] = _forked(_work, path, predecessor, chooser, self._ways)


@contextmanager
def _crew(
    folder: Path, world: World, seed: int, ways: Ways, mix: dict[str, int]
) -> Iterator[_Crew]:
    crew = _Crew(folder, world, seed, ways, mix)
    try:
        crew.start()
        yield crew
    finally:
        crew.stop()


def _disturb(
    crew: _Crew,
    seconds: float,
    least: int,
    chance: random.Random,
    crash: Callable[[], None] | None,
) -> int:
    crashes, began = 0, _once_at_work(crew)
    while time.monotonic() - began < seconds or crew.calls() < least:
        assert time.monotonic() - began < seconds + _PATIENCE_SECONDS, "nobody does anything"
        time.sleep(KILL_SECONDS)
        if crew.at_work():
            crew.kill_one(chance)
        if crash is not None and time.monotonic() - began > CRASH_SECONDS * (crashes + 1):
            crash()
            crashes += 1
    return crashes


def _once_at_work(crew: _Crew) -> float:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while len(crew.at_work()) < WORKERS:
        assert time.monotonic() < deadline, "nobody begins to work"
        time.sleep(0.01)
    return time.monotonic()


def _forked(work: Callable[..., None], *arguments: object) -> BaseProcess:
    process: BaseProcess = FORK.Process(target=work, args=arguments)
    process.start()
    return process


def _end(process: BaseProcess) -> None:
    assert process.pid is not None
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    process.close()


def _work(path: Path, predecessor: Path | None, chooser: Chooser, ways: Ways) -> None:
    mine, parent = Journal(path), os.getppid()
    if predecessor is not None:
        keyed = [call for call in journal.read(predecessor) if call.deed != call.name]
        chooser.remembered = keyed[-20:]
        for call in keyed:
            if call.outcome is Outcome.UNKNOWN:
                again = replace(call, name=f"{call.name}, again in {path.name}")
                ways.perform(mine, ways.operations[call.verb], again)
    while os.getppid() == parent:
        with suppress(UnavailableError):
            call = chooser.choose()
            told = ways.perform(mine, ways.operations[call.verb], call)
            if told.answer.get("code") == Code.UNREACHABLE:
                time.sleep(0.05)


def _read_all(path: Path, world: World, seed: int) -> None:
    mine, parent, chance = Journal(path), os.getppid(), seeded(seed, path.name)
    for number in count(1):
        if os.getppid() != parent:
            return
        call = Call(f"{path.name}-{number}", "read", {})
        mine.intend(call)
        try:
            bad = bad_reads(world, chance.choice(world.customers + world.purses))
        except UnavailableError:
            time.sleep(0.05)
            continue
        mine.note(replace(call, outcome=Outcome.DONE, answer={"bad": bad}))
        time.sleep(0.01)


def bad_reads(world: World, account: int) -> list[str]:
    """Read all purses, and the last line of an account, in one view; answer what is wrong there."""
    with snapshot():
        purses = {
            it.account_id: it.balance_cents
            for it in balance_store.find(account_ids=world.purses, limit=None).items
        }
        [balance] = balance_store.find(account_ids=[account]).items
        [last] = balance_store.history(account, limit=1).items
    bad = []
    if list(purses) != world.purses:
        bad.append(f"the purses {list(purses)}, not {world.purses}")
    if sum(purses.values()) != world.total_cents:
        bad.append(f"a total of {sum(purses.values())}, not {world.total_cents}")
    if min(purses.values()) < 0:
        bad.append(f"less than nothing: {purses}")
    stands = (balance.balance_cents, balance.account_version)
    charge = last.sms_charge
    is_left = charge is None or charge.subcent_after_micros == balance.subcent_micros
    if stands != (last.balance_after_cents, last.account_version) or not is_left:
        bad.append(f"{balance} after {last}")
    return bad
