"""How long `ledger verify` takes, beside one window query by hand, and how much memory.

    python tests/benchmarks/bench_verify.py [--lines 200000] [--rounds 5] [--each 50]

Both look at the same ledger in the same process, in turns, so that a busy machine slows both. By
hand every line is checked against the one before it, as `ledger verify` does; that goes on to
balances, orders and guards. The ratio is the median of those of each round: 1 is as fast as by
hand. The memory is the most that a process of its own has had at once, which runs the command.

An account has so many lines each, mixed as they come in, but for one that has a fifth of them all.
TMPDIR says on which disk the SQLite file lies, TBPAY_TEST_POSTGRES_URL which server is asked.
"""

import argparse
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from tbpay import database, migrations
from tbpay.reports.verify import verify

sys.path.insert(0, str(Path(__file__).parent.parent))

import postgres

Tables = dict[str, tuple[str, Iterable[tuple[Any, ...]]]]

NOW = "2026-11-23T08:13:00.000000Z"
WANTED = {"SQLite": 1.5, "PostgreSQL": 2}
WANTED_MEGABYTES = 150
BY_HAND = """
SELECT * FROM (
    SELECT id, account_id, account_version, transaction_type, amount_cents, balance_after_cents,
        lag(account_version, 1, 0) OVER trail AS version_before,
        lag(balance_after_cents, 1, 0) OVER trail AS cents_before
    FROM transactions
    WINDOW trail AS (PARTITION BY account_id ORDER BY account_version)
) AS lines
WHERE account_version <> version_before + 1
    OR amount_cents NOT BETWEEN 0 AND 99999999
    OR balance_after_cents <> cents_before
        + CASE transaction_type WHEN 'credit' THEN amount_cents ELSE -amount_cents END
"""
# The kernel counts what the process that started it had, but not here.
COMMAND = """
import atexit, os, pathlib
status, answer = pathlib.Path("/proc/self/status"), os.dup(1)
atexit.register(lambda: os.write(answer, status.read_bytes()))
from tbpay.cli import main
main()
"""


def main() -> None:
    options = argparse.ArgumentParser(description="Measure ledger verify.")
    options.add_argument("--lines", type=int, default=200_000)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--each", type=int, default=50, help="lines of an account")
    args = options.parse_args()
    accounts = max(args.lines // args.each, 1)
    print(f"{args.lines:,} lines of {accounts:,} accounts, median of {args.rounds} rounds")
    print(" " * 15 + "by hand    verify  ratio wanted  memory wanted")
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/tbpay.db"
        made(file)
        fill_sqlite(file, ledger(args.lines, accounts))
        with closing(sqlite3.connect(file)) as connection:
            measure("SQLite", file, connection, args.rounds)
    server = postgres.new_database()
    try:
        made(server)
        fill_postgres(server, ledger(args.lines, accounts))
        with closing(psycopg.connect(server, autocommit=True)) as connection:
            measure("PostgreSQL", server, connection, args.rounds)
    finally:
        database.reset()
        postgres.drop(server)


def made(url: str) -> None:
    database.reset()
    database.configure(url)
    migrations.upgrade()
    database.close()


def ledger(lines: int, accounts: int) -> Tables:
    """Make up a ledger: orders that credit, and messages that are paid for with it."""
    made_up = random.Random(1)  # noqa: S311 - nothing here is a secret
    balances, versions = [0] * (accounts + 1), [0] * (accounts + 1)
    orders: list[tuple[Any, ...]] = []
    trail: list[tuple[Any, ...]] = []
    for number in range(1, lines + 1):
        account = 1 if made_up.random() < 0.2 else made_up.randint(1, accounts)
        versions[account] += 1
        line: tuple[Any, ...]
        if balances[account] < 100:
            orders.append((len(orders) + 1, account, "top_up", 1_000, "completed", NOW, NOW, 1_000))
            balances[account] += 1_000
            line = (len(orders), "credit", 1_000, balances[account], "Top-up")
        else:
            cost_cents = made_up.randint(5, 60)
            balances[account] -= cost_cents
            line = (None, "debit", cost_cents, balances[account], "SMS to +44…23")
        trail.append((number, account, *line, NOW, versions[account]))
    return {
        "accounts": ("id, created_at", ((each, NOW) for each in range(1, accounts + 1))),
        "orders": (
            "id, account_id, order_type, amount_cents, status, created_at, completed_at,"
            " credit_cents",
            orders,
        ),
        "transactions": (
            "id, account_id, order_id, transaction_type, amount_cents, balance_after_cents,"
            " description, created_at, account_version",
            trail,
        ),
        "account_balances": (
            "account_id, balance_cents, updated_at, account_version",
            ((each, balances[each], NOW, versions[each]) for each in range(1, accounts + 1)),
        ),
    }


def fill_sqlite(file: str, tables: Tables) -> None:
    """Put the rows in, without the guards, which come back word for word."""
    with closing(sqlite3.connect(file)) as connection, connection:
        guards = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        kept = guards.fetchall()
        for name, _ in kept:
            connection.execute(f"DROP TRIGGER {name}")
        for table, (columns, rows) in tables.items():
            places = ", ".join("?" for _ in columns.split(","))
            connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)
        for _, sql in kept:
            connection.execute(sql)


def fill_postgres(server: str, tables: Tables) -> None:
    """Put the rows in, with the guards switched off meanwhile."""
    with psycopg.connect(server) as connection:
        guards = connection.execute(
            "SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal"
        ).fetchall()
        for name, table in guards:
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER {name}")
        for table, (columns, rows) in tables.items():
            with connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        for name, table in guards:
            connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE")


def measure(name: str, url: str, connection: Any, rounds: int) -> None:
    """Let the two take turns, and print what came out."""
    bare, ours = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        assert connection.execute(BY_HAND).fetchall() == []
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        assert verify().differences == []
        ours.append(time.perf_counter() - began)
    ratio = median(mine / by_hand for mine, by_hand in zip(ours, bare, strict=True))
    print(
        f"{name:12} {median(bare):7.2f} s {median(ours):7.2f} s {ratio:6.2f} {WANTED[name]:>6}"
        f" {megabytes(url):4.0f} MB {WANTED_MEGABYTES:4} MB"
    )


def megabytes(url: str) -> float:
    """Answer how much memory the command needs."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "ledger", "verify", "--json"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"TBPAY_DATABASE_URL": url},
    )
    [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stdout, re.MULTILINE)
    return int(kilobytes) / 1024


if __name__ == "__main__":
    main()
