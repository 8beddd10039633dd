"""How long commands take from start to end, as ratios to `python -c pass` in the same run.

    python tests/benchmarks/bench_startup.py [--rounds 21]

The commands take turns, so that a busy machine slows all of them alike; the medians are compared.
Run it where tbpay is installed: what is measured is the `tbpay` script itself.
"""

import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

TBPAY = str(Path(sysconfig.get_path("scripts")) / "tbpay")
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "tbpay --version": [TBPAY, "--version"],
    "tbpay pricing quote": [TBPAY, "pricing", "quote", "+447700900123"],
    "tbpay pricing quote --text": [
        *(TBPAY, "pricing", "quote", "+447700900123", "--text", "Your code is 1234 €"),
    ],
    "tbpay --help": [TBPAY, "--help"],
    "tbpay balance show": [TBPAY, "balance", "show"],
    "tbpay balance show --json": [TBPAY, "balance", "show", "--json"],
    "tbpay db status": [TBPAY, "db", "status"],
}
LIMITS = {
    "tbpay --version": 7,
    "tbpay pricing quote": 9,
    "tbpay pricing quote --text": 9,
    "tbpay --help": 12,
    "tbpay balance show": 34,
    "tbpay balance show --json": 28,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TBPAY_DATABASE_URL": f"{folder}/bench.db", "NO_COLOR": "1"}
        prepare(environment)
        taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for _ in range(rounds):
            for name, command in COMMANDS.items():
                taken[name].append(seconds(command, environment))
    bare = statistics.median(taken["python -c pass"])
    print(f"{'command':28} {'ms':>7} {'ratio':>7} {'limit':>6}   median of {rounds}")
    for name, measured in taken.items():
        median = statistics.median(measured)
        limit = LIMITS.get(name, "")
        print(f"{name:28} {median * 1000:7.1f} {median / bare:7.1f} {limit:>6}")


def prepare(environment: dict[str, str]) -> None:
    """Make a database with a few accounts; the bytecode is compiled on the way."""
    for command in (["db", "upgrade"], *(["account", "create"] for _ in range(5))):
        subprocess.run([TBPAY, *command], check=True, capture_output=True, env=environment)


def seconds(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
