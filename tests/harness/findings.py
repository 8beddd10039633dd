"""What an audit goes by, the calls and the rows, and what it answers: findings."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import found
from databases import Database
from journal import Call, Outcome

T = TypeVar("T")


class Kind(StrEnum):
    LOST = "lost"
    TWICE = "twice"
    HALF = "half"
    PHANTOM = "phantom"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    kind: Kind
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


class Case:
    """Every call, and everything that stands in the database, so that one leads to the other."""

    def __init__(self, db: Database, calls: list[Call]) -> None:
        self.found = found.read(db)
        self.calls = calls
        self.by_name = {call.name: call for call in calls}
        self.of_order = grouped((call.asked.get("order"), call) for call in calls)
        self.deeds = {call.deed: call for call in calls}
        self.line = {line.id: line for line in self.found.lines}
        self.charge = {charge.transaction_id: charge for charge in self.found.charges}
        self.order = {order.id: order for order in self.found.orders}
        self.lines_of = grouped((line.order_id, line) for line in self.found.lines)
        self.refunds_of = grouped((refund.order_id, refund) for refund in self.found.refunds)
        self.redemptions_of = grouped((use.order_id, use) for use in self.found.redemptions)
        self.code = {code.id: code for code in self.found.codes}


def done(calls: list[Call]) -> list[Call]:
    return [call for call in calls if call.outcome is Outcome.DONE]


def grouped(pairs: Iterable[tuple[Any, T]]) -> defaultdict[Any, list[T]]:
    groups: defaultdict[Any, list[T]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups


def shown_as(call: Call) -> str:
    return f"{call.name}, {call.verb} {call.asked}, {call.outcome}"


def wrong(what: str) -> Finding:
    return Finding(Kind.WRONG, what)
