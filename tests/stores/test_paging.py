import base64
from collections.abc import Callable
from typing import Any

import pytest
from databases import Database
from probes import label, refused

from tbpay.errors import Code, InvalidInputError
from tbpay.models import MAX_ID, Page
from tbpay.stores import (
    account_store,
    audit_store,
    balance_store,
    discount_code_store,
    order_store,
)

List = Callable[..., Page[Any]]

# Every list: how it is read, how it grows by one, and whether the newest stands first.
LISTS: dict[str, tuple[List, Callable[[int], object], bool]] = {
    "accounts": (account_store.find, lambda _: account_store.create(), False),
    "balances": (balance_store.find, lambda _: account_store.create(), False),
    "history": (
        lambda **where: balance_store.history(1, **where),
        lambda _: balance_store.add_credits(1, 5, "a gift"),
        True,
    ),
    "orders": (order_store.find, lambda _: order_store.create(1, "top_up", 500), True),
    "codes": (
        discount_code_store.find,
        lambda number: discount_code_store.create(f"CODE-{number}", "percent", 10),
        True,
    ),
    "redemptions": (
        lambda **where: discount_code_store.redemptions("CODE-0", **where),
        lambda _: discount_code_store.increment_uses("CODE-0"),
        True,
    ),
    "audit": (audit_store.find, lambda _: audit_store.record("order fail", "order 1"), True),
}
lists = pytest.mark.parametrize(("find", "add", "newest_first"), LISTS.values(), ids=LISTS)
readers = pytest.mark.parametrize("find", [find for find, *_ in LISTS.values()], ids=LISTS)


@pytest.fixture
def filled(filled_by: Callable[[Callable[[], None]], Database]) -> Database:
    """Five things in every list."""
    return filled_by(fill)


def fill() -> None:
    account_store.create("ann@example.org")
    for number in range(5):
        for name, (_, add, _) in LISTS.items():
            if name != "balances" and not (name == "accounts" and number == 4):
                add(number)


def keys(page: Page[Any]) -> list[int]:
    return [thing.account_id if thing.id is None else thing.id for thing in page.items]


def walk(find: List, limit: int, between: Callable[[int], object] = lambda _: None) -> list[int]:
    page = find(limit=limit)
    seen = keys(page)
    while page.next is not None:
        assert len(page.items) == limit
        between(len(seen))
        page = find(limit=limit, cursor=page.next)
        seen += keys(page)
        assert len(seen) < 20
    return seen


@pytest.mark.usefixtures("filled")
@lists
def test_a_list_is_paged_through_without_a_gap_or_a_double(
    find: List, add: Any, newest_first: bool
) -> None:
    assert add
    for limit in (1, 2, 5, 6):
        assert walk(find, limit) == ([5, 4, 3, 2, 1] if newest_first else [1, 2, 3, 4, 5])


@pytest.mark.usefixtures("filled")
@lists
def test_what_is_added_meanwhile_moves_no_page(
    find: List, add: Callable[[int], object], newest_first: bool
) -> None:
    def add_later(count: int) -> None:
        add(100 + count)

    seen = walk(find, 2, between=add_later)

    # The newest stand before the first page, or after the last.
    assert seen[:5] == ([5, 4, 3, 2, 1] if newest_first else [1, 2, 3, 4, 5])
    assert len(set(seen)) == len(seen)
    assert newest_first == (len(seen) == 5)


@pytest.mark.usefixtures("filled")
@readers
def test_a_list_without_a_limit_is_all_of_it_and_50_otherwise(find: List) -> None:
    everything = find(limit=None)

    assert (len(everything.items), everything.next) == (5, None)
    assert find() == everything
    assert len(find(limit=None, cursor=find(limit=2).next).items) == 3


@pytest.mark.usefixtures("db")
def test_a_page_is_50_long_unless_it_is_told() -> None:
    for _ in range(51):
        account_store.create()

    assert len(account_store.find().items) == 50
    assert account_store.find().next is not None


@pytest.mark.usefixtures("account")
@readers
def test_an_empty_list_is_one_page(find: List) -> None:
    if find is LISTS["redemptions"][0]:
        discount_code_store.create("CODE-0", "percent", 10)
    if find not in (account_store.find, balance_store.find):
        assert find() == Page([], None)


@pytest.mark.usefixtures("filled")
@readers
def test_a_cursor_is_a_word_without_a_need_for_quotes(find: List) -> None:
    cursor = find(limit=2).next

    assert cursor is not None
    assert cursor.isascii()
    assert cursor.replace("-", "").replace("_", "").isalnum()


@pytest.mark.usefixtures("filled")
@readers
def test_a_cursor_belongs_to_its_list(find: List) -> None:
    for other, *_ in LISTS.values():
        cursor = other(limit=2).next

        if other is find:
            assert len(find(cursor=cursor).items) == 3
        else:
            with pytest.raises(InvalidInputError, match="is not a cursor of this list"):
                find(cursor=cursor)


@pytest.mark.usefixtures("filled")
def test_a_cursor_is_spelt_in_one_way() -> None:
    cursor = order_store.find(limit=2).next
    assert cursor is not None

    # The spare bits of its last letter say nothing, and are not read over.
    letters = [chr(ord(cursor[-1]) + step) for step in (-1, 1)]
    for letter in letters:
        with pytest.raises(InvalidInputError, match="is not a cursor of this list"):
            order_store.find(cursor=cursor[:-1] + letter)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


# A cursor is read before anything is asked of a database.
never_sent = pytest.mark.parametrize("dialect", ["sqlite"])


@never_sent
@pytest.mark.parametrize(
    "cursor",
    [
        *["", " ", "garbage", "=", "====", "é", "\udcff", "\0", "b3JkZXJzOjI=", "b3JkZXJzOjI\n"],
        *["x" * 1_000_000, "../../etc/passwd", "' OR 1=1", "1", "0", "-1"],
        *[7, True, b"b3JkZXJzOjI", ["b3JkZXJzOjI"], 1.5],
    ],
    ids=label,
)
def test_what_is_no_cursor_is_refused(db: Database, account: int, cursor: object) -> None:
    assert account
    for find, *_ in LISTS.values():
        with refused(db, InvalidInputError, Code.INVALID):
            find(cursor=cursor)


@never_sent
@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    "key",
    [
        *["", "0", "-1", "+1", " 1", "1 ", "01", "1.0", "1e3", "1_0", "x", "1:1", "１", "٣", "²"],
        *[str(MAX_ID + 1), "9" * 20, "0" * 19 + "1" + "9" * 30, "9" * 5_000],
    ],
    ids=label,
)
def test_a_cursor_that_somebody_made_up_is_refused(key: str) -> None:
    good = encoded(f"orders:{MAX_ID}")
    assert order_store.find(cursor=good) == Page([], None)

    with pytest.raises(InvalidInputError, match="is not a cursor of this list"):
        order_store.find(cursor=encoded(f"orders:{key}"))
