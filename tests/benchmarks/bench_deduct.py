"""How fast `deduct` is, beside a loop by hand that sends the same statements.

    python tests/benchmarks/bench_deduct.py [--deducts 300] [--rounds 15]

Both work on the same database in the same run, in turns, so that a busy machine slows both: on
SQLite; on PostgreSQL with one process and with four, each on an account of its own; and with four
on one account, which wait for each other. The loop by hand keeps what `deduct` keeps: the guards,
the durability, the limit on waiting for a lock. The ratio is the median of the rounds' ratios: 1 is
as fast as by hand.

TMPDIR says on which disk the SQLite file lies, else /var/tmp: in a /tmp that is memory nothing is
durable, and by hand that costs nothing. TBPAY_TEST_POSTGRES_URL says which server is asked.
"""

import argparse
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from operator import truediv
from pathlib import Path
from statistics import median

import psycopg

from tbpay import database, migrations
from tbpay.models import MAX_AMOUNT_CENTS, MAX_BALANCE_CENTS, time_text
from tbpay.stores import account_store, balance_store

sys.path.insert(0, str(Path(__file__).parent.parent))

import postgres
import probes

# What takes a cent off an account, and what opens the connection for it.
Deduct = Callable[[int], object]
Open = Callable[[], Deduct]

TEXT = "SMS to +44…23"
MOVE = """
UPDATE account_balances
SET balance_cents = balance_cents - ?, account_version = account_version + 1, updated_at = ?
WHERE account_id = ? AND balance_cents - ? >= ? AND balance_cents - ? <= ?
RETURNING balance_cents, account_version
"""
LINE = """
INSERT INTO transactions (account_id, order_id, transaction_type, amount_cents,
    balance_after_cents, description, created_at, account_version, idempotency_key,
    idempotency_hash)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
RETURNING id
"""
PRAGMAS = ("synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON", "trusted_schema=OFF")


def main() -> None:
    options = argparse.ArgumentParser(description="Measure deduct.")
    options.add_argument("--deducts", type=int, default=300)
    options.add_argument("--rounds", type=int, default=15)
    args = options.parse_args()
    print(f"{args.deducts} deducts by each process, median of {args.rounds} rounds")
    print(f"{'':34} {'by hand':>9} {'deduct':>9} {'ratio':>6} {'wanted':>6}")
    disk = os.environ.get("TMPDIR", "/var/tmp")  # noqa: S108 - a folder of our own is made in it
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        file = f"{folder}/tbpay.db"
        accounts = stocked(file, 1)
        measure("SQLite, synchronous=FULL", args, accounts, sqlite_by_hand(file), wanted=0.4)
    server = postgres.new_database()
    try:
        accounts = stocked(server, 4)
        by_hand = postgres_by_hand(server)
        name = f"PostgreSQL, {durability(server)}"
        measure(f"{name}, 1 process", args, accounts[:1], by_hand, wanted=0.5)
        measure("4 processes", args, accounts, by_hand, wanted=0.5)
        measure("4 processes on one account", args, accounts[:1] * 4, by_hand)
    finally:
        database.reset()
        postgres.drop(server)


def stocked(url: str, accounts: int) -> list[int]:
    """Make a database of so many accounts, and answer them; each can spend enough."""
    database.reset()
    database.configure(url)
    migrations.upgrade()
    made = [account_store.create().id for _ in range(accounts)]
    for account in made:
        balance_store.add_credits(account, MAX_AMOUNT_CENTS, "to spend")
    database.close()
    return made


def durability(server: str) -> str:
    with psycopg.connect(server) as connection:
        [fsync] = connection.execute("SHOW fsync").fetchone() or ()
    return f"fsync={fsync}"


def measure(
    name: str,
    args: argparse.Namespace,
    accounts: list[int],
    by_hand: Open,
    wanted: float | None = None,
) -> None:
    """Let the two take turns, with a process for each account, and print what came out."""
    measured: dict[Open, list[float]] = {by_hand: [], by_store: []}
    for _ in range(args.rounds):
        for open_one, rates in measured.items():
            rates.append(throughput(open_one, accounts, args.deducts))
    bare, ours = measured.values()
    ratio = median(map(truediv, ours, bare))
    print(f"{name:34} {median(bare):7.0f}/s {median(ours):7.0f}/s {ratio:6.2f} {wanted or '':>6}")


def throughput(open_one: Open, accounts: list[int], deducts: int) -> float:
    """Answer how many deducts a second all processes make together, from the first to the last."""

    def work(number: int) -> tuple[float, float]:
        deduct, account = open_one(), accounts[number]
        for _ in range(10):  # connections and caches
            deduct(account)
        began = time.monotonic()
        for _ in range(deducts):
            deduct(account)
        return began, time.monotonic()

    spans = probes.together(work, processes=len(accounts))
    seconds = max(ended for _, ended in spans) - min(began for began, _ in spans)
    return len(accounts) * deducts / seconds


def by_store() -> Deduct:
    return lambda account: balance_store.deduct(account, 1, TEXT)


def sqlite_by_hand(file: str) -> Open:
    def open_one() -> Deduct:
        connection = sqlite3.connect(file, timeout=30, isolation_level=None)
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

        def deduct(account: int) -> None:
            connection.execute("BEGIN IMMEDIATE")
            move, line = parameters(account)
            after = connection.execute(MOVE, move).fetchone()
            connection.execute(LINE, line(*after)).fetchone()
            connection.execute("COMMIT")

        return deduct

    return open_one


def postgres_by_hand(server: str) -> Open:
    sql_move, sql_line = (sql.replace("?", "%s").encode() for sql in (MOVE, LINE))

    def open_one() -> Deduct:
        connection = psycopg.connect(server, autocommit=True, prepare_threshold=None)

        def deduct(account: int) -> None:
            connection.execute("BEGIN; SET LOCAL lock_timeout = 30000")
            move, line = parameters(account)
            after = connection.execute(sql_move, move).fetchone()
            assert after is not None
            connection.execute(sql_line, line(*after)).fetchone()
            connection.execute("COMMIT")

        return deduct

    return open_one


def parameters(account: int) -> tuple[tuple[object, ...], Callable[[int, int], tuple[object, ...]]]:
    """Answer the parameters of the move, and how to make those of the line from its answer."""
    now = time_text(datetime.now(UTC))

    def line(after_cents: int, version: int) -> tuple[object, ...]:
        return account, None, "debit", 1, after_cents, TEXT, now, version, None, None

    return (1, now, account, 1, 0, 1, MAX_BALANCE_CENTS), line


if __name__ == "__main__":
    main()
