"""How fast get_country_from_phone is, beside the bare loop over phonenumbers that it guards.

    python tests/benchmarks/bench_phones.py [--numbers 100000] [--rounds 5]

Both loops see the same numbers in the same run, in turns, so that a busy machine slows both. The
last line is the ratio of their median speeds: 1 is as fast as the bare loop, 0.7 the least wanted.
"""

import argparse
import time
from collections.abc import Callable
from itertools import islice, zip_longest
from statistics import median

import phonenumbers

from tbpay.sms_pricing import get_country_from_phone

WANTED = 0.7


def main() -> None:
    options = argparse.ArgumentParser(description="Measure get_country_from_phone.")
    options.add_argument("--numbers", type=int, default=100_000)
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    phones = valid_phones(args.numbers)
    # The first look at a region reads its metadata: both loops are measured after that.
    regions = {get_country_from_phone(phone) for phone in phones}
    bare, guarded = [], []
    for _ in range(args.rounds):
        bare.append(seconds(bare_region, phones))
        guarded.append(seconds(get_country_from_phone, phones))
    print(f"{len(phones):,} numbers, {len(regions)} regions, median of {args.rounds} rounds")
    print(f"bare parse and region   {median(bare):.3f} s")
    print(f"get_country_from_phone  {median(guarded):.3f} s")
    print(f"ratio {median(bare) / median(guarded):.2f}, wanted {WANTED}")


def valid_phones(wanted: int) -> list[str]:
    """Make so many valid numbers, always the same ones, of every region of the world in turn."""
    examples = map(phonenumbers.example_number, sorted(phonenumbers.SUPPORTED_REGIONS))
    # Region by region first: in turn, their patterns would push each other out of re's cache.
    columns = [neighbours(e164(example), wanted) for example in examples if example is not None]
    rows = zip_longest(*columns)
    return [phone for row in rows for phone in row if phone is not None][:wanted]


def neighbours(phone: str, wanted: int) -> list[str]:
    """Answer a region's share, and some more for those that have few numbers near the example."""
    # A step without a common factor with 10,000 visits all of the last four digits.
    candidates = (f"{phone[:-4]}{turn * 7_919 % 10_000:04}" for turn in range(10_000))
    return list(islice(filter(is_valid, candidates), wanted // 200 + 1))


def e164(number: phonenumbers.PhoneNumber) -> str:
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def is_valid(phone: str) -> bool:
    number = phonenumbers.parse(phone)
    return e164(number) == phone and phonenumbers.is_valid_number(number)


def bare_region(phone: str) -> str | None:
    return phonenumbers.region_code_for_number(phonenumbers.parse(phone))


def seconds(loop_body: Callable[[str], object], phones: list[str]) -> float:
    start = time.perf_counter()
    for phone in phones:
        loop_body(phone)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
