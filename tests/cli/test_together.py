"""Two operators who say the same at the same time: it is done once, and one of them has done it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from command_line import start, wait_until_it_waits
from databases import Database
from probes import another, rows

# What somebody else has in hand while both of them begin.
SAID_TWICE = {
    "order complete 2": "orders WHERE id = 2",
    "order fail 2": "orders WHERE id = 2",
    "order fail 4 2 --yes": "orders WHERE id = 2",
    "order refund 1 --yes --policy available": "orders WHERE id = 1",
    "discount deactivate LAUNCH10": "discount_codes WHERE code = 'LAUNCH10'",
    "discount update LAUNCH10 --max-uses 7": "discount_codes WHERE code = 'LAUNCH10'",
    "order create 1 --type top_up --amount 5 --key the-key-of-it": "accounts WHERE id = 1",
    "balance debit 1 --amount 5 --reason x --key the-key-of-it": "account_balances"
    " WHERE account_id = 1",
}


@contextmanager
def in_hand(db: Database, what: str) -> Iterator[None]:
    with another(db) as other:
        if db.dialect == "sqlite":
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
        else:
            other.execute("BEGIN")
            other.execute(f"SELECT 1 FROM {what} FOR UPDATE")
            yield


@pytest.mark.parametrize("words", SAID_TWICE)
def test_what_two_say_at_the_same_time_is_done_by_one_of_them(words: str, shop: Database) -> None:
    count = "SELECT count(*) FROM audit_log"
    [(before,)] = rows(shop, count)

    with in_hand(shop, SAID_TWICE[words]):
        both = [start(f"{words} --json") for _ in range(2)]
        for number, each in enumerate(both):
            wait_until_it_waits(each.pid, shop, others=number)
    said = [each.communicate()[1].decode() for each in both]

    assert [each.returncode for each in both] == [0, 0]
    assert sorted("nothing was changed" in each for each in said) == [False, True]
    assert rows(shop, count) == [(before + 1,)]
