"""What is known by a name, or by what it leaves, is done once whatever becomes of its commit."""

from collections.abc import Callable, Iterator

import pytest
from books import lines, miscounted, order as order_now, redemptions
from databases import Database
from probes import unbalanced
from proxy import Moment, Proxy

from tbpay import database
from tbpay.errors import OutcomeUnknownError
from tbpay.stores import account_store, balance_store, discount_code_store, order_store


@pytest.fixture
def dialect() -> str:
    """A file has no line that could be cut."""
    return "postgresql"


@pytest.fixture
def through(db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Moment], Proxy]]:
    """Lead the stores through a line that is cut at their next COMMIT."""
    cut_lines: list[Proxy] = []

    def lead(cut: Moment) -> Proxy:
        cut_lines.append(Proxy(db.url, cut).__enter__())
        monkeypatch.setenv("TBPAY_DATABASE_URL", cut_lines[-1].url)
        return cut_lines[-1]

    yield lead
    database.close()
    for line in cut_lines:
        line.__exit__(None, None, None)


@pytest.fixture
def paid(account: int) -> int:
    """A completed order of 9.00 for a credit of 10.00."""
    discount_code_store.create("SAVE10", "percent", 10)
    return order_store.complete(order_store.create(account, "top_up", 1_000, code="SAVE10").id).id


Call = Callable[[int], object]

# The order of 0.05 that is there beforehand.
BARE = 2

# Each with how many lines it adds to the trail, and of which amount.
NAMED: dict[str, tuple[Call, list[int]]] = {
    "credit by key": (lambda _: balance_store.add_credits(1, 5, "a gift", key="key-0001"), [5]),
    "debit by key": (lambda _: balance_store.deduct(1, 5, "a message", key="key-0001"), [5]),
    "charge by key": (
        lambda _: balance_store.charge_sms(1, "+12015550123", key="key-0001"),
        [6],
    ),
    "credit by order": (
        lambda _: balance_store.add_credits(1, 5, "by hand", order_id=BARE),
        [5],
    ),
    "order by key": (lambda _: order_store.create(1, "top_up", 500, key="key-0001"), []),
    "refund by key": (
        lambda paid: order_store.refund(paid, amount_cents=450, key="key-0001"),
        [500],
    ),
    "refund by Stripe's name": (
        lambda paid: order_store.refund(paid, amount_cents=450, stripe_refund_id="re_1"),
        [500],
    ),
    "refund of the rest": (order_store.refund, [1_000]),
    "complete": (lambda _: order_store.complete(BARE), [5]),
    "fail": (lambda _: order_store.fail(BARE), []),
    "move to refunded": (lambda paid: order_store.update_status(paid, "refunded"), [1_000]),
    "session": (lambda _: order_store.attach_session(BARE, "cs_1"), []),
    "customer": (lambda _: account_store.set_stripe_customer(1, "cus_1"), []),
    "use of an order": (
        lambda _: discount_code_store.increment_uses("SAVE10", order_id=BARE),
        [],
    ),
    "switch": (lambda _: discount_code_store.set_active("SAVE10", active=False), []),
    "limits": (lambda _: discount_code_store.update("SAVE10", max_uses=7), []),
}


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize(("call", "moved"), NAMED.values(), ids=NAMED)
def test_it_is_done_once_whatever_became_of_its_commit(
    db: Database,
    account: int,
    paid: int,
    through: Callable[[Moment], Proxy],
    call: Call,
    moved: list[int],
    cut: Moment,
) -> None:
    assert order_store.create(account, "top_up", 5).id == BARE
    line = through(cut)

    call(paid)

    assert line.left == 0
    assert [cents for _, cents, _, _ in lines(account)] == [1_000, *moved]
    assert len(order_store.get_by_account_id(account)) in (2, 3)
    assert redemptions("SAVE10")[0] == (paid, "redeemed")
    assert miscounted(db) == []
    assert unbalanced(db) == []


@pytest.mark.parametrize(("cut", "is_kept"), [("before", False), ("after", True)])
def test_what_has_no_name_is_not_done_again(
    account: int, paid: int, through: Callable[[Moment], Proxy], cut: Moment, *, is_kept: bool
) -> None:
    through(cut)

    with pytest.raises(OutcomeUnknownError):
        order_store.refund(paid, amount_cents=450)

    assert order_now(paid).status == "completed"
    assert len(order_store.refunds(paid)) == (1 if is_kept else 0)
    assert len(lines(account)) == (2 if is_kept else 1)
