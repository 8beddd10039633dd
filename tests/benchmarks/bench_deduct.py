"""How fast `deduct` and `charge_sms` are, beside a loop by hand that sends the same statements.

    python tests/benchmarks/bench_deduct.py [--moves 300] [--rounds 15]

Both work on the same database in the same run, in turns, so that a busy machine slows both: on
SQLite; on PostgreSQL with one process and with four, each on an account of its own; and with four
on one account, which wait for each other. The loop by hand keeps what the stores keep: the guards,
the durability, the limit on waiting for a lock, the look at the revision; but it knows beforehand
what a message costs. The ratio is the median of the rounds' ratios: 1 is as fast as by hand.

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
from typing import NamedTuple

import psycopg

from tbpay import database, migrations
from tbpay.database.beginning import READ_REVISION
from tbpay.models import MAX_AMOUNT_CENTS, MAX_BALANCE_CENTS, time_text
from tbpay.stores import account_store, balance_store

sys.path.insert(0, str(Path(__file__).parent.parent))

import postgres
import probes

# What takes something off an account, and what opens the connection for it.
Move = Callable[[int], object]
Open = Callable[[], Move]

TEXT = "SMS to +1…23"
RAW = "subcent_micros + ?"
CARRIED = f"CASE WHEN {RAW} >= 10000 THEN 1 ELSE 0 END"
AFTER = f"balance_cents + ? + {CARRIED}"
MOVE = f"""
UPDATE account_balances
SET balance_cents = {AFTER}, subcent_micros = {RAW} - 10000 * {CARRIED},
    account_version = account_version + 1, updated_at = ?
WHERE account_id = ? AND {AFTER} >= ? AND {AFTER} <= ?
RETURNING balance_cents, subcent_micros, account_version
"""
LINE = """
INSERT INTO transactions (account_id, order_id, transaction_type, amount_cents,
    balance_after_cents, description, created_at, account_version, idempotency_key,
    idempotency_hash)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
RETURNING id
"""
SOLD = """
INSERT INTO sms_charges (transaction_id, account_id, phone, country_code, segments, rate_micros,
    cost_micros, twilio_cost_micros, subcent_after_micros, gives_back_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
RETURNING id
"""
PRAGMAS = ("synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON", "trusted_schema=OFF")


class Work(NamedTuple):
    """A way to take something off: what it is called, by the store, and by how many micros."""

    name: str
    by_store: Move
    micros: int

    @property
    def is_charge(self) -> bool:
        return self.micros % 10_000 > 0


WORKS = (
    Work("deduct", lambda account: balance_store.deduct(account, 1, TEXT), 10_000),
    Work("charge_sms", lambda account: balance_store.charge_sms(account, "+12015550123"), 56_500),
)


def main() -> None:
    options = argparse.ArgumentParser(description="Measure deduct and charge_sms.")
    options.add_argument("--moves", type=int, default=300)
    options.add_argument("--rounds", type=int, default=15)
    args = options.parse_args()
    print(f"{args.moves} by each process, median of {args.rounds} rounds")
    for work in WORKS:
        print(f"{work.name:34} {'by hand':>9} {'store':>9} {'ratio':>6} {'wanted':>6}")
        measure_everywhere(work, args)


def measure_everywhere(work: Work, args: argparse.Namespace) -> None:
    disk = os.environ.get("TMPDIR", "/var/tmp")  # noqa: S108 - a folder of our own is made in it
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        file = f"{folder}/tbpay.db"
        accounts = stocked(file, 1)
        by_hand = sqlite_by_hand(file, work)
        measure("SQLite, synchronous=FULL", args, accounts, by_hand, work, wanted=0.4)
    server = postgres.new_database()
    try:
        accounts = stocked(server, 4)
        by_hand = postgres_by_hand(server, work)
        name = f"PostgreSQL, {durability(server)}"
        measure(f"{name}, 1 process", args, accounts[:1], by_hand, work, wanted=0.5)
        measure("4 processes", args, accounts, by_hand, work, wanted=0.5)
        measure("4 processes on one account", args, accounts[:1] * 4, by_hand, work)
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
    work: Work,
    wanted: float | None = None,
) -> None:
    """Let the two take turns, with a process for each account, and print what came out."""
    measured: dict[Open, list[float]] = {by_hand: [], lambda: work.by_store: []}
    for _ in range(args.rounds):
        for open_one, rates in measured.items():
            rates.append(throughput(open_one, accounts, args.moves))
    bare, ours = measured.values()
    ratio = median(map(truediv, ours, bare))
    print(f"{name:34} {median(bare):7.0f}/s {median(ours):7.0f}/s {ratio:6.2f} {wanted or '':>6}")


def throughput(open_one: Open, accounts: list[int], moves: int) -> float:
    """Answer how many moves a second all processes make together, from the first to the last."""

    def work(number: int) -> tuple[float, float]:
        move, account = open_one(), accounts[number]
        for _ in range(10):  # connections and caches
            move(account)
        began = time.monotonic()
        for _ in range(moves):
            move(account)
        return began, time.monotonic()

    spans = probes.together(work, processes=len(accounts))
    seconds = max(ended for _, ended in spans) - min(began for began, _ in spans)
    return len(accounts) * moves / seconds


def sqlite_by_hand(file: str, work: Work) -> Open:
    def open_one() -> Move:
        connection = sqlite3.connect(file, timeout=30, isolation_level=None)
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

        def move(account: int) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(READ_REVISION).fetchone()
            now = time_text(datetime.now(UTC))
            after = connection.execute(MOVE, moved(work, account, now)).fetchone()
            [line] = connection.execute(LINE, written(work, account, now, *after)).fetchone()
            if work.is_charge:
                connection.execute(SOLD, sold(work, account, line, after[1])).fetchone()
            connection.execute("COMMIT")

        return move

    return open_one


def postgres_by_hand(server: str, work: Work) -> Open:
    sql_move, sql_line, sql_sold = (sql.replace("?", "%s").encode() for sql in (MOVE, LINE, SOLD))

    def open_one() -> Move:
        connection = psycopg.connect(server, autocommit=True, prepare_threshold=None)

        def move(account: int) -> None:
            connection.execute(f"BEGIN; SET LOCAL lock_timeout = 30000; {READ_REVISION}".encode())
            now = time_text(datetime.now(UTC))
            after = connection.execute(sql_move, moved(work, account, now)).fetchone()
            assert after is not None
            line = connection.execute(sql_line, written(work, account, now, *after)).fetchone()
            assert line is not None
            if work.is_charge:
                connection.execute(sql_sold, sold(work, account, line[0], after[1])).fetchone()
            connection.execute("COMMIT")

        return move

    return open_one


def moved(work: Work, account: int, now: str) -> tuple[object, ...]:
    """Answer the parameters of the move, as often as its text names them."""
    cents, micros = divmod(-work.micros, 10_000)
    after = cents, micros
    return (*after, micros, micros, now, account, *after, 0, *after, MAX_BALANCE_CENTS)


def written(
    work: Work, account: int, now: str, after_cents: int, after_micros: int, version: int
) -> tuple[object, ...]:
    """Answer the parameters of the line."""
    cents, micros = divmod(-work.micros, 10_000)
    amount = -(cents + (after_micros < micros))
    return account, None, "debit", amount, after_cents, TEXT, now, version, None, None


def sold(work: Work, account: int, line: int, after_micros: int) -> tuple[object, ...]:
    """Answer the parameters of what stands beside the line."""
    cost = work.micros
    return line, account, "+1…23", "US", 1, cost, cost, cost // 5, after_micros, None


if __name__ == "__main__":
    main()
