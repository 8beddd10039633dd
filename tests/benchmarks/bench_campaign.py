"""How fast a campaign is priced, beside the bare loop over phonenumbers, and in how much memory.

    python tests/benchmarks/bench_campaign.py [--numbers 50000] [--rounds 5]

Both read the same file in the same process, in turns, so that a busy machine slows both: the bare
loop parses each number and asks for its region. The ratio is the median of those of each round: 1
is as fast as the bare loop. The memory is the most that a process of its own has had at once, which
runs the command on that file.

The numbers are of every region in turn, or of the countries with a price alone; with a text of its
own in each line; or all of them of no country, so that every line is refused.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import phonenumbers
from bench_phones import valid_phones

from tbpay.campaigns import estimate
from tbpay.sms_pricing import SMS_COSTS_BY_COUNTRY, get_country_from_phone

WANTED = 0.7
WANTED_MEGABYTES = 200
# So many different ones; more are the same ones again.
PHONES = 20_000
# The kernel counts what the process that started it had, but not here.
COMMAND = """
import atexit, os, pathlib
status, answer = pathlib.Path("/proc/self/status"), os.dup(1)
atexit.register(lambda: os.write(answer, status.read_bytes()))
from tbpay.cli import main
main()
"""


def main() -> None:
    options = argparse.ArgumentParser(description="Measure pricing quote --file.")
    options.add_argument("--numbers", type=int, default=50_000)
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    print(f"{args.numbers:,} numbers, median of {args.rounds} rounds")
    print(f"{'':28} {'bare':>9} {'campaign':>9} {'ratio':>6} {'wanted':>6}")
    world = valid_phones(min(args.numbers, PHONES))
    priced = [phone for phone in world if get_country_from_phone(phone) in SMS_COSTS_BY_COUNTRY]
    nobodys = [f"+881{number:09}" for number in range(PHONES)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "numbers.csv"
        for name, phones, texts in (
            ("every region", world, False),
            ("countries with a price", priced, False),
            ("each with its own text", world, True),
            ("every line refused", nobodys, False),
        ):
            write(file, islice(cycle(phones), args.numbers), texts=texts)
            measure(name, file, args.rounds)


def write(file: Path, phones: Iterable[str], *, texts: bool) -> None:
    with file.open("w", newline="") as opened:
        if texts:
            rows = csv.writer(opened)
            rows.writerow(("number", "text"))
            rows.writerows(
                (phone, f"Dear customer {turn:,}, your code is {turn * 7_919 % 1_000_000:06}")
                for turn, phone in enumerate(phones)
            )
        else:
            opened.writelines(f"{phone}\n" for phone in phones)


def measure(name: str, file: Path, rounds: int) -> None:
    """Let the two take turns, and print what came out."""
    bare, ours = [], []
    for _ in range(rounds):
        bare.append(seconds(bare_loop, file))
        ours.append(seconds(lambda file: estimate(str(file)), file))
    ratio = median(by_hand / mine for mine, by_hand in zip(ours, bare, strict=True))
    print(
        f"{name:28} {median(bare):7.2f} s {median(ours):7.2f} s {ratio:6.2f} {WANTED:>6}"
        f" {megabytes(file):4.0f} MB {WANTED_MEGABYTES:4} MB"
    )


def bare_loop(file: Path) -> None:
    for phone in numbers(file):
        try:
            phonenumbers.region_code_for_number(phonenumbers.parse(phone))
        except phonenumbers.NumberParseException:
            continue


def numbers(file: Path) -> Iterator[str]:
    with file.open(newline="") as opened:
        if next(opened).startswith("number"):
            for row in csv.reader(opened):
                yield row[0]
        else:
            opened.seek(0)
            for line in opened:
                yield line.rstrip("\n")


def seconds(work: Callable[[Path], object], file: Path) -> float:
    began = time.perf_counter()
    work(file)
    return time.perf_counter() - began


def megabytes(file: Path) -> float:
    """Answer how much memory the command needs."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "pricing", "quote", "--file", file, "--json"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stdout, re.MULTILINE)
    return int(kilobytes) / 1024


if __name__ == "__main__":
    main()
