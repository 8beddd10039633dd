"""Ways to do things wrongly, each with a pause where it is weak: the audit has to find them out.

A guard of the database that would refuse such a thing by itself is taken away first, so that it is
the audit that is put to the test.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sa
from contention import redeem
from databases import Database
from deeds import DESTINATIONS, OPERATIONS, SESSION, Operation, Ways, perform, transfer_steps
from findings import Finding, Kind
from journal import Answer, Call, Journal
from killing import kill

from tbpay.database import unit_of_work
from tbpay.errors import Code, RefusedError
from tbpay.models import RedemptionStatus, time_text
from tbpay.money import MICROS_PER_CENT
from tbpay.schema import (
    account_balances,
    discount_codes,
    discount_redemptions,
    orders,
    sms_charges,
    transactions,
)
from tbpay.stores import balance_store, discount_code_store, order_store, redemptions

PAUSE_SECONDS = 0.02


def order_by_read_then_write(call: Call) -> Answer:
    """Look whether a use is left, and take it afterwards."""
    asked = call.asked
    code = discount_code_store.validate(asked["code"], amount_cents=asked["cents"])
    time.sleep(PAUSE_SECONDS)
    off_cents = redemptions.reduction_cents(code, asked["cents"])
    with unit_of_work() as connection:
        made = order_store.create(
            asked["account"], asked["type"], asked["cents"], stripe_session_id=SESSION + call.name
        )
        connection.execute(
            sa.update(orders)
            .where(orders.c.id == made.id)
            .values(amount_cents=asked["cents"] - off_cents, discount_code_id=code.id)
        )
        connection.execute(
            sa.update(discount_codes)
            .where(discount_codes.c.id == code.id)
            .values(current_uses=code.current_uses + 1)
        )
        connection.execute(
            sa.insert(discount_redemptions).values(
                discount_code_id=code.id,
                order_id=made.id,
                account_id=asked["account"],
                reduction_cents=off_cents,
                status=RedemptionStatus.RESERVED,
                created_at=time_text(datetime.now(UTC)),
            )
        )
    return {"ids": [made.id], "replayed": False}


def debit_without_a_lock(call: Call) -> Answer:
    """Look how much there is, and write afterwards what should be left of it."""
    account, cents = call.asked["account"], call.asked["cents"]
    before_micros = _looked_up(account, cents * MICROS_PER_CENT)
    with unit_of_work() as connection:
        after_micros = before_micros - cents * MICROS_PER_CENT
        line_id = _written(connection, account, before_micros, after_micros, call.name)
    return {"ids": [line_id], "replayed": False}


def charge_without_a_lock(call: Call) -> Answer:
    """Look how much there is, to the micro, and write afterwards what should be left of it."""
    account, segments = call.asked["account"], call.asked["segments"]
    masked, country, rate_micros = DESTINATIONS[call.asked["phone"]]
    cost_micros = segments * rate_micros
    before_micros = _looked_up(account, cost_micros)
    with unit_of_work() as connection:
        after_micros = before_micros - cost_micros
        line_id = _written(
            connection, account, before_micros, after_micros, f"SMS to {masked}", call.asked["key"]
        )
        connection.execute(
            sa.insert(sms_charges).values(
                transaction_id=line_id,
                account_id=account,
                phone=masked,
                country_code=country,
                segments=segments,
                rate_micros=rate_micros,
                cost_micros=cost_micros,
                subcent_after_micros=after_micros % MICROS_PER_CENT,
            )
        )
    return {"ids": [line_id], "replayed": False}


def _looked_up(account: int, wanted_micros: int) -> int:
    """Answer a balance, and take one's time before it is used."""
    [balance] = balance_store.find(account_ids=[account]).items
    has_micros = balance.balance_cents * MICROS_PER_CENT + balance.subcent_micros
    if has_micros < wanted_micros:
        raise RefusedError("not enough", code=Code.INSUFFICIENT_BALANCE)
    time.sleep(PAUSE_SECONDS)
    return has_micros


def _written(
    connection: sa.Connection,
    account: int,
    before_micros: int,
    after_micros: int,
    description: str,
    key: str | None = None,
) -> int:
    """Write a balance as it should be, whatever it is by now, and the line of it."""
    left_cents, left_micros = divmod(after_micros, MICROS_PER_CENT)
    version = connection.execute(
        sa.update(account_balances)
        .where(account_balances.c.account_id == account)
        .values(
            balance_cents=left_cents,
            subcent_micros=left_micros,
            account_version=account_balances.c.account_version + 1,
        )
        .returning(account_balances.c.account_version)
    ).scalar_one()
    line = sa.insert(transactions).values(
        account_id=account,
        transaction_type="debit",
        amount_cents=before_micros // MICROS_PER_CENT - left_cents,
        balance_after_cents=left_cents,
        description=description,
        created_at=time_text(datetime.now(UTC)),
        account_version=version,
        idempotency_key=key,
        idempotency_hash=None if key is None else "0" * 64,
    )
    line_id: int = connection.execute(line.returning(transactions.c.id)).scalar_one()
    return line_id


def transfer_in_two_commits(call: Call) -> Answer:
    """Give, and take in a unit of its own."""
    first, second = transfer_steps(call)
    ids = [first().id]
    time.sleep(PAUSE_SECONDS)
    ids.append(second().id)
    return {"ids": sorted(ids), "replayed": False}


def acknowledge_before_commit(journal: Journal, operation: Operation, call: Call) -> Call:
    """Say that it is done as soon as it is written, while it can still be taken back."""
    with unit_of_work():
        told = perform(journal, operation, call)
        time.sleep(PAUSE_SECONDS)
    return told


def credit_without_its_key(call: Call) -> Answer:
    """Do what was asked, however often it is asked."""
    return OPERATIONS["credit"](replace(call, asked=call.asked | {"key": None}))


@dataclass(frozen=True)
class Broken:
    """A wrong way, what shows it, and the guards that would not let it pass."""

    name: str
    symptom: Kind
    run: Callable[[Database, int, Ways], list[Finding]]
    ways: Ways
    guards: tuple[tuple[str, str], ...] = ()

    def findings(self, db: Database, seed: int, ways: Ways | None = None) -> list[Finding]:
        """Do it in this way, or in another one, and answer what the audit finds."""
        for guard, table in self.guards:
            if db.dialect == "sqlite":
                db.run(f"DROP TRIGGER IF EXISTS {guard}")
            else:
                db.run(f"DROP TRIGGER IF EXISTS {guard} ON {table}")
        return self.run(db, seed, self.ways if ways is None else ways)


def _killed(**mix: int) -> Callable[[Database, int, Ways], list[Finding]]:
    def run(db: Database, seed: int, ways: Ways) -> list[Finding]:
        killing = kill(db, seconds=0.5, least=60, seed=seed, ways=ways, mix=mix)
        return killing.findings + [Finding(Kind.WRONG, text) for text in killing.bad_reads]

    return run


def _redeemed(db: Database, seed: int, ways: Ways) -> list[Finding]:
    return redeem(db, seed, attempts=6, max_uses=9, order=ways.operations["order"]).findings


def _ways(**operations: Operation) -> Ways:
    return Ways(OPERATIONS | operations)


BROKEN = [
    Broken(
        "a code is looked at, then taken",
        Kind.WRONG,
        _redeemed,
        _ways(order=order_by_read_then_write),
        guards=(
            ("discount_codes_add_up", "discount_codes"),
            ("discount_redemptions_add_up", "discount_redemptions"),
        ),
    ),
    Broken(
        "a balance is looked at, then written",
        Kind.WRONG,
        _killed(debit=1),
        _ways(debit=debit_without_a_lock),
        guards=(("transactions_follow", "transactions"),),
    ),
    Broken(
        "a fraction is looked at, then written",
        Kind.WRONG,
        _killed(charge=1),
        _ways(charge=charge_without_a_lock),
        guards=(("transactions_follow", "transactions"), ("sms_charges_follow", "sms_charges")),
    ),
    Broken(
        "a transfer is two commits",
        Kind.HALF,
        _killed(transfer=1),
        _ways(transfer=transfer_in_two_commits),
    ),
    Broken(
        "what is not committed is acknowledged",
        Kind.LOST,
        _killed(credit=1),
        Ways(OPERATIONS, acknowledge_before_commit),
    ),
    Broken(
        "a key is not looked at",
        Kind.TWICE,
        _killed(credit=1, replay=2),
        _ways(credit=credit_without_its_key),
    ),
]
