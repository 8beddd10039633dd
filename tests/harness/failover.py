"""A failover: a replica succeeds a primary that is killed while clients deduct.

The replica is a synchronous one: what the primary acknowledges stands on both. The clients know
both hosts by one URL, and repeat what they have no answer to under its key.
"""

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import journal
import sqlalchemy as sa
from auditor import audit
from clusters import Server, servers
from databases import Database
from deeds import OPERATIONS, perform
from findings import Finding
from journal import Call, Journal, Outcome
from probes import FORK

from tbpay import database, migrations
from tbpay.stores import account_store

CLIENTS = 4
ENOUGH = 60


@dataclass(frozen=True)
class Failover:
    """What came of it: the deducts before the primary was killed, and those that went on after."""

    before: int
    after: int
    repeated: int
    findings: list[Finding]

    def __str__(self) -> str:
        return (
            f"{self.before:,} deducts acknowledged before the primary was killed,"
            f" {self.after:,} after the replica was promoted, {self.repeated:,} calls repeated;"
            f" {len(self.findings)} missing or wrong"
        )


def fail_over() -> Failover:
    """Kill the primary, promote the replica, and audit it. Raises NoPostgresError."""
    with servers("primary", "replica") as (primary, replica):
        primary.make()
        primary.start()
        name = sa.make_url(primary.new_database().url).database or ""
        hosts = f"{primary.address},{replica.address}"
        database.reset()
        database.configure(f"postgresql://postgres@{hosts}/{name}?target_session_attrs=read-write")
        try:
            migrations.upgrade()
            _join(replica, primary)
            return _fail_over(primary, replica, replica.database(name))
        finally:
            database.reset()


def _join(replica: Server, primary: Server) -> None:
    """Let the primary wait for the replica with everything that it acknowledges."""
    replica.make_replica_of(primary)
    replica.start()
    primary.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.ask("SELECT pg_reload_conf()")
    primary.wait_for("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'")


def _fail_over(primary: Server, replica: Server, its: Database) -> Failover:
    accounts = [account_store.create().id for _ in range(CLIENTS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gifts = Journal(folder / "gifts")
        for account in accounts:
            asked = {"account": account, "cents": 10_000_000}
            perform(gifts, OPERATIONS["credit"], Call(f"gift-{account}", "credit", asked))
        database.close()
        clients = {folder / f"client-{account}": account for account in accounts}
        started = [FORK.Process(target=_deduct, args=client) for client in clients.items()]
        try:
            for process in started:
                process.start()
            _wait_for(clients, ENOUGH)
            primary.kill()
            before = {path: _acknowledged(path) for path in clients}
            replica.ask("SELECT pg_promote()")
            for path in clients:
                _wait_for([path], before[path] + ENOUGH)
        finally:
            for process in started:
                if process.pid is not None:
                    os.kill(process.pid, signal.SIGKILL)
                    process.join()
        after = sum(map(_acknowledged, clients)) - sum(before.values())
        calls = [call for path in folder.iterdir() for call in journal.read(path)]
    repeated = sum(times - 1 for times in Counter(call.deed for call in calls).values())
    return Failover(sum(before.values()), after, repeated, audit(its, calls))


def _deduct(path: Path, account: int) -> None:
    mine, parent = Journal(path), os.getppid()
    for number in count(1):
        key = f"the key {account}-{number}"
        call = Call(key, "debit", {"account": account, "cents": 1, "key": key})
        for attempt in count(1):
            told = perform(mine, OPERATIONS["debit"], replace(call, name=f"{key}, try {attempt}"))
            if os.getppid() != parent:
                return
            if told.outcome is Outcome.DONE:
                break
            time.sleep(0.05)


def _wait_for(paths: Iterable[Path], wanted: int) -> None:
    deadline = time.monotonic() + 120
    while any(_acknowledged(path) < wanted for path in paths):
        assert time.monotonic() < deadline, "nobody goes on"
        time.sleep(0.1)


def _acknowledged(path: Path) -> int:
    return sum(call.outcome is Outcome.DONE for call in journal.read(path))
