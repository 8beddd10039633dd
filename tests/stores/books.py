"""What stands in the books, as tests read it; and how they come to a balance that takes long."""

from probes import Where, rows, run

from tbpay.models import MAX_AMOUNT_CENTS, MAX_BALANCE_CENTS, DiscountCode, Order
from tbpay.stores import balance_store, discount_code_store, order_store

WHEN = "2026-11-23T08:13:00.000000Z"


def lines(account: int) -> list[tuple[str, int, int | None, str]]:
    """The trail of an account, oldest first."""
    history = balance_store.history(account, limit=None).items
    return [
        (line.transaction_type, line.amount_cents, line.order_id, line.description)
        for line in reversed(history)
    ]


def order(order_id: int) -> Order:
    found = order_store.get_by_id(order_id)
    assert found is not None
    return found


def code(name: str) -> DiscountCode:
    found = discount_code_store.get_by_code(name)
    assert found is not None
    return found


def uses(name: str) -> int:
    return code(name).current_uses


def redemptions(name: str) -> list[tuple[int | None, str]]:
    """Each use of a code: whose order's it is and where it stands, oldest first."""
    found = discount_code_store.redemptions(name, limit=None).items
    return [(redemption.order_id, redemption.status) for redemption in reversed(found)]


def miscounted(db: Where) -> list[tuple[object, ...]]:
    """Codes whose counter is not the number of the uses that are reserved or redeemed."""
    return rows(
        db,
        """
        SELECT code, current_uses, live FROM (
            SELECT code, current_uses, (
                SELECT count(*) FROM discount_redemptions
                WHERE discount_code_id = discount_codes.id AND status IN ('reserved', 'redeemed')
            ) AS live FROM discount_codes
        ) AS counted WHERE current_uses <> live
        """,
    )


def bring_to(db: Where, account: int, cents: int) -> None:
    """Bring a new account to a balance by as many lines as it takes, all in one transaction."""
    step, kind = (MAX_AMOUNT_CENTS, "credit") if cents > 0 else (-MAX_AMOUNT_CENTS, "debit")
    assert abs(cents) <= MAX_BALANCE_CENTS
    statements, balance, version = [], 0, 0
    while balance != cents:
        left = cents - balance
        moved = step if abs(left) >= abs(step) else left
        balance, version = balance + moved, version + 1
        statements += [
            f"UPDATE account_balances SET balance_cents = {balance}, account_version = {version}"
            f" WHERE account_id = {account}",
            "INSERT INTO transactions (account_id, account_version, transaction_type, amount_cents,"
            f" balance_after_cents, description, created_at) VALUES ({account}, {version},"
            f" '{kind}', {abs(moved)}, {balance}, 'brought', '{WHEN}')",
        ]
    balance_store.get_or_create(account)
    run(db, *statements)
