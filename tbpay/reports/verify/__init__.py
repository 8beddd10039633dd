"""Verify the ledger: whether everything in it is what everything else in it says.

Each check asks the database for what is wrong, a bounded part at a time, and all of them look at
one snapshot. What stands there may be anything, also what the tables would refuse: it is named.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tbpay.database import guards, snapshot
from tbpay.guards import GUARDS
from tbpay.reports.verify import charges, purchases, trails
from tbpay.reports.verify.looking import Difference, Scope, Subject, answering_anything

__all__ = ["Check", "Difference", "Verification", "verify"]

CHECKS = (
    "lines",
    "balances",
    "trails",
    "charges",
    "orders",
    "refunds",
    "redemptions",
    "codes",
    "guards",
)


@dataclass(frozen=True)
class Check:
    """How many things were looked at, and how many of them were wrong."""

    check: str
    looked_at: int
    wrong: int


@dataclass(frozen=True)
class Verification:
    """The answer: every check, and every difference; without differences the ledger is sound."""

    checks: list[Check]
    differences: list[Difference]


def verify(
    account_id: int | None = None, *, on_progress: Callable[[int, int], None] | None = None
) -> Verification:
    """Verify the ledger, or what of it is of one account: its codes and the guards as well.

    - ``lines``: an account's lines count 1 … n, and the balance after each is the one before, from
      0, plus or minus its amount: a balance that was taken over with more than its lines say is
      named; an order that a line names is of the same account;
    - ``balances``: a balance is what the last line says, and the micros above its cents what the
      last charge of an SMS left; it counts as many lines;
    - ``trails``: a balance is what all of the lines add up to;
    - ``charges``: each moved the balance by just what it cost, which is its segments at its rate,
      to the micro; what gives one back repeats it, once. A charge of whole cents that is gone with
      its line's text alone to tell of it is not found: the money is what the line says;
    - ``orders``: completed, an order has its one credit; failed, it has none;
    - ``refunds``: no more goes back than was paid, each part takes back its share of the credit,
      by a line of just that; an order is ``refunded`` exactly when all of it is; no line says
      that it is of a refund that nobody knows of;
    - ``redemptions``: an order with a code has its one use, of a code that is there, standing as
      the order does;
    - ``codes``: the uses of a code are those that are reserved or redeemed;
    - ``guards``: the database's own, word for word, and nobody else's.

    ``on_progress`` is told how many lines of how many are done. Raises NotFoundError for an
    unknown account.
    """
    with snapshot() as connection, answering_anything(connection):
        scope = Scope(connection, account_id)
        scope.require()
        looked_at = trails.count(scope) | charges.count(scope) | purchases.count(scope)
        looked_at["guards"] = len(GUARDS[connection.dialect.name])
        found = [
            *trails.differences(scope, looked_at["lines"], on_progress or _in_silence),
            *charges.differences(scope),
            *purchases.differences(scope),
            *_unguarded(scope),
        ]
    wrong = Counter(check for check, _, _ in {(d.check, d.account_id, d.subject) for d in found})
    return Verification(
        [Check(check, looked_at[check], wrong[check]) for check in CHECKS],
        sorted(found, key=lambda difference: CHECKS.index(difference.check)),
    )


def _in_silence(_done: int, _total: int) -> None:
    pass


def _unguarded(scope: Scope) -> Iterator[Difference]:
    for table, said in guards.differences(scope.connection):
        # It is said in a sentence: "trigger transactions_follow is missing".
        [(what, how)] = re.findall("^(?:its )?(.*) (?:is|are) (.*)$", said, re.DOTALL)
        this = Subject("guards", None, f"{what} on {table}")
        if how == "not expected":
            yield this.differs("definition", "there", None)
        else:
            yield this.differs("definition", how, "as tbpay makes it")
