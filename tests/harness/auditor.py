"""The audit: a plain Python account of what may stand in a database after what was asked of it.

It knows every call and what is known of its outcome, and nothing of how the stores work. What was
done stands there once; what was refused does not; what is unknown stands there whole or not at all;
and nothing stands there that nobody asked for.
"""

import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import found
from databases import Database
from deeds import SESSION
from found import Line, Order, Refund
from journal import Asked, Call, Outcome

from tbpay.errors import Code as Reason

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


def audit(db: Database, calls: Iterable[Call]) -> list[Finding]:
    """Compare what stands in a database with what was asked of it, from its first row on."""
    return list(_Audit(db, list(calls)).findings())


def verify(db: Database) -> tuple[int, str]:
    """Let tbpay audit itself; answer its exit code and what it says."""
    verified = subprocess.run(
        [sys.executable, "-m", "tbpay", "ledger", "verify"],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"TBPAY_DATABASE_URL": db.url},
    )
    return verified.returncode, verified.stdout + verified.stderr


# What a call asks for, or a row is: equal where the one is what the other asked for.
_Thing = tuple[Any, ...]


class _Audit:
    def __init__(self, db: Database, calls: list[Call]) -> None:
        self.found = found.read(db)
        self.calls = calls
        self.by_name = {call.name: call for call in calls}
        self.of_order = _grouped((call.asked.get("order"), call) for call in calls)
        self.line = {line.id: line for line in self.found.lines}
        self.order = {order.id: order for order in self.found.orders}
        self.lines_of = _grouped((line.order_id, line) for line in self.found.lines)
        self.refunds_of = _grouped((refund.order_id, refund) for refund in self.found.refunds)
        self.redemptions_of = _grouped((use.order_id, use) for use in self.found.redemptions)
        self.code = {code.id: code for code in self.found.codes}

    def findings(self) -> Iterator[Finding]:
        for call in self.calls:
            if "unforeseen" in call.answer:
                yield _wrong(f"{_shown(call)} raised {call.answer['unforeseen']}")
        yield from self._deeds()
        for order in self.found.orders:
            yield from self._status(order)
            yield from self._credit(order)
            yield from self._refunds(order)
            yield from self._discount(order)
        yield from self._uses()
        yield from self._trails()

    # each deed is done once, and as it was asked for

    def _deeds(self) -> Iterator[Finding]:
        things: dict[str, list[tuple[int, _Thing]]] = defaultdict(list)
        for name, row_id, thing in self._named():
            if name in self.by_name:
                things[self.by_name[name].deed].append((row_id, thing))
            else:
                yield Finding(Kind.PHANTOM, f"nobody asked for {thing} of {name}")
        deeds = _grouped((call.deed, call) for call in self.calls if call.verb in _THINGS)
        for deed, calls in deeds.items():
            calls = [call for call in calls if not self._was_refunded_already(call)]
            yield from _deed(calls, things[deed])

    def _named(self) -> Iterator[tuple[str, int, _Thing]]:
        """Walk everything that bears the name of a call."""
        thing: _Thing
        for line in self.found.lines:
            if line.order_id is None:
                thing = line.transaction_type, line.account_id, line.amount_cents
                yield line.description, line.id, thing
        for order in self.found.orders:
            thing = "order", order.account_id, order.order_type, order.credit_cents
            yield order.stripe_session_id.removeprefix(SESSION), order.id, thing
        for refund in self.found.refunds:
            thing = "refund", refund.order_id, refund.amount_cents, refund.policy
            yield refund.reason, refund.id, thing

    def _was_refunded_already(self, call: Call) -> bool:
        """Tell a call for all the rest of what was refunded to the end: that changes nothing."""
        if call.verb != "refund" or not call.answer.get("replayed"):
            return False
        last = [refund.id for refund in self.refunds_of[call.asked["order"]][-1:]]
        return call.asked["cents"] is None and call.answer["ids"] == last

    # an order has moved where it was sent, and its money and its use with it

    def _status(self, order: Order) -> Iterator[Finding]:
        calls = self.of_order[order.id]
        completes, fails, refunds = (
            [call for call in calls if call.verb == verb and call.may_be_done]
            for verb in ("complete", "fail", "refund")
        )
        shown = f"order {order.id} is {order.status}"
        is_paid = order.status in ("completed", "refunded")
        if is_paid and not completes and order.amount_cents > 0:
            yield Finding(Kind.PHANTOM, f"{shown}, and nobody completed it")
        if is_paid and _done(fails) and not any(call.asked["intent"] for call in completes):
            yield _wrong(f"{shown} after it had failed, and nobody paid")
        if order.status == "failed" and not fails:
            yield Finding(Kind.PHANTOM, f"{shown}, and nobody failed it")
        if order.status == "refunded" and not refunds:
            yield Finding(Kind.PHANTOM, f"{shown}, and nobody refunded it")
        if not is_paid and _done(completes):
            yield Finding(Kind.LOST, f"{shown}, and {_shown(_done(completes)[0])}")
        if order.status == "pending" and _done(fails):
            yield Finding(Kind.LOST, f"{shown}, and {_shown(_done(fails)[0])}")
        intents = {call.asked["intent"] for call in _done(completes)} - {None}
        possible = {call.asked["intent"] for call in completes} | {None}
        if not intents <= {order.stripe_payment_intent_id} <= possible:
            yield _wrong(f"{shown} by {order.stripe_payment_intent_id}, not one of {intents}")
        for call in _done(completes + fails):
            expected = "completed" if call.verb == "complete" else "failed"
            if call.answer != {"status": expected}:
                yield _wrong(f"{_shown(call)} answered {call.answer}")

    def _credit(self, order: Order) -> Iterator[Finding]:
        lines = [it for it in self.lines_of[order.id] if it.transaction_type == "credit"]
        expected = 1 if order.status in ("completed", "refunded") else 0
        shown = f"order {order.id} is {order.status} with {len(lines)} credits"
        if len(lines) != expected:
            yield Finding(Kind.TWICE if len(lines) > 1 else Kind.HALF, shown)
        for line in lines:
            if (line.account_id, line.amount_cents) != (order.account_id, order.credit_cents):
                yield _wrong(f"{shown} of {line.amount_cents}, not of {order.credit_cents}")

    def _refunds(self, order: Order) -> Iterator[Finding]:
        refunds, paid_cents = self.refunds_of[order.id], order.amount_cents
        before_cents = 0
        for refund in refunds:
            after_cents = before_cents + refund.amount_cents
            expected = order.credit_cents
            if paid_cents > 0:
                expected = order.credit_cents * after_cents // paid_cents
                expected -= order.credit_cents * before_cents // paid_cents
            if refund.claw_back_cents != expected:
                yield _wrong(f"{refund} does not claw back {expected} of {order}")
            yield from self._line_of(refund, order)
            before_cents = after_cents
        is_whole = bool(refunds) and before_cents == paid_cents
        if before_cents > paid_cents or (refunds and order.status in ("pending", "failed")):
            yield _wrong(f"{before_cents} was refunded of {order}")
        elif is_whole != (order.status == "refunded"):
            yield Finding(Kind.HALF, f"{before_cents} was refunded of {order}")
        known = {refund.transaction_id for refund in refunds}
        for line in self.lines_of[order.id]:
            if line.transaction_type == "refund" and line.id not in known:
                yield Finding(Kind.HALF, f"{line} without its refund")
            if line.transaction_type == "debit":
                yield Finding(Kind.PHANTOM, f"nobody asked for {line}")

    def _line_of(self, refund: Refund, order: Order) -> Iterator[Finding]:
        taken_cents = refund.claw_back_cents - refund.shortfall_cents
        line = self.line.get(refund.transaction_id or 0)
        if line is None:
            if taken_cents > 0:
                yield Finding(Kind.HALF, f"{refund} without its line")
        elif (line.transaction_type, line.order_id, line.account_id, line.amount_cents) != (
            *("refund", order.id, order.account_id),
            taken_cents,
        ):
            yield _wrong(f"{refund} with {line}")
        after_cents = 0 if line is None else line.balance_after_cents
        keeps_its_policy = {
            "refuse": refund.shortfall_cents == 0 and after_cents >= 0,
            "negative": refund.shortfall_cents == 0,
            "available": after_cents == 0 or (refund.shortfall_cents == 0 and after_cents > 0),
        }
        if not keeps_its_policy[refund.policy]:
            yield _wrong(f"{refund} with {line}")

    def _discount(self, order: Order) -> Iterator[Finding]:
        off_cents = order.credit_cents - order.amount_cents
        uses = self.redemptions_of[order.id]
        shown = f"order {order.id}, {order.status}"
        if order.discount_code_id is None:
            if uses or off_cents:
                yield Finding(Kind.HALF, f"{shown}, has {uses} and {off_cents} off without a code")
            return
        code = self.code[order.discount_code_id]
        created = self.by_name.get(order.stripe_session_id.removeprefix(SESSION))
        if created is not None and created.asked["code"] == code.code:
            expected_cents = _off_cents(code, order.credit_cents)
        else:
            # It took the code later, and is charged what it was.
            expected_cents = 0
            if not any(call.asked["code"] == code.code for call in self._uses_for(order)):
                yield Finding(Kind.PHANTOM, f"{shown}, has {code.code}, and nobody asked for it")
        if off_cents != expected_cents:
            yield _wrong(f"{shown}, has {off_cents} off with {code.code}, not {expected_cents}")
        may_be_late = order.status in ("completed", "refunded") and any(
            call.verb == "fail" and call.may_be_done for call in self.of_order[order.id]
        )
        expected = {"pending": "reserved", "failed": "released"}.get(order.status, "redeemed")
        stands = [(use.discount_code_id, use.account_id, use.reduction_cents) for use in uses]
        if stands != [(code.id, order.account_id, off_cents)]:
            yield Finding(Kind.HALF, f"{shown}, has {code.code} and {uses}")
        elif uses[0].status != expected and not (may_be_late and uses[0].status == "late"):
            yield Finding(Kind.HALF, f"{shown}, has a use that is {uses[0].status}")

    def _uses_for(self, order: Order) -> list[Call]:
        calls = self.of_order[order.id]
        return [call for call in calls if call.verb == "use" and call.may_be_done]

    # the uses of a code are counted, and within its limits

    def _uses(self) -> Iterator[Finding]:
        for call in self.calls:
            if call.verb != "use" or call.outcome is not Outcome.DONE:
                continue
            order = self.order.get(call.asked["order"] or 0)
            if order is not None:
                held = self.code.get(order.discount_code_id or 0)
                if held is None or held.code != call.asked["code"]:
                    yield Finding(Kind.LOST, f"{_shown(call)}, and {order} has it not")
        for code in self.found.codes:
            uses = [it for it in self.found.redemptions if it.discount_code_id == code.id]
            live = [use for use in uses if use.is_live]
            shown = f"{code.code} counts {code.current_uses} of {code.max_uses}, has {len(live)}"
            if code.current_uses != len(live):
                yield Finding(Kind.HALF, shown)
            if code.max_uses is not None and len(live) > code.max_uses:
                yield _wrong(shown)
            # A late payment takes a use again that its account had given back.
            own = Counter(use.account_id for use in live if not self._had_failed(use.order_id))
            for account_id, times in own.items():
                if account_id and code.per_account is not None and times > code.per_account:
                    yield _wrong(f"account {account_id} has {code.code} {times} times")
            yield from self._anonymous(code.code, sum(use.order_id is None for use in live))

    def _had_failed(self, order_id: int | None) -> bool:
        calls = [] if order_id is None else self.of_order[order_id]
        return any(call.verb == "fail" and call.may_be_done for call in calls)

    def _anonymous(self, code: str, uses: int) -> Iterator[Finding]:
        asked = [
            call
            for call in self.calls
            if call.verb == "use" and call.asked == {"code": code, "order": None}
        ]
        done, possible = len(_done(asked)), sum(call.may_be_done for call in asked)
        if uses < done:
            yield Finding(Kind.LOST, f"{done} uses of {code} without an order, of which are {uses}")
        if uses > possible:
            yield Finding(Kind.PHANTOM, f"{uses} uses of {code} for nobody, of {possible} asked")

    # a trail leads to its balance

    def _trails(self) -> Iterator[Finding]:
        trails = _grouped((line.account_id, line) for line in self.found.lines)
        for balance in self.found.balances:
            trail = sorted(trails[balance.account_id], key=lambda line: line.account_version)
            shown = f"account {balance.account_id}"
            if [line.account_version for line in trail] != list(range(1, len(trail) + 1)):
                yield _wrong(f"{shown} has a gap in its versions")
            if [line.id for line in trail] != sorted(line.id for line in trail):
                yield _wrong(f"{shown} has versions in another order than ids")
            last = trail[-1] if trail else None
            stands = (balance.balance_cents, balance.account_version)
            if stands != ((last.balance_after_cents, last.account_version) if last else (0, 0)):
                yield Finding(Kind.HALF, f"{balance} after {last}")
            for line, after_cents in _running(trail):
                if line.balance_after_cents != after_cents:
                    yield _wrong(f"{line} does not come to {after_cents}")
                if after_cents < 0 and line.transaction_type == "debit":
                    call = self.by_name.get(line.description)
                    if call is None or not call.asked.get("below"):
                        yield _wrong(f"{line} takes more than there was")


def _deed(calls: list[Call], things: list[tuple[int, _Thing]]) -> Iterator[Finding]:
    """Judge what stands there for all the calls by which one deed was asked for."""
    stand = [thing for _, thing in things]
    ids = sorted(row_id for row_id, _ in things)
    possible = [call for call in calls if call.may_be_done]
    if not things:
        for call in _done(calls):
            yield Finding(Kind.LOST, f"nothing is there of {_shown(call)}")
        return
    if not possible:
        yield Finding(Kind.PHANTOM, f"{stand} is there, and was refused: {calls}")
        return
    if not any(_fits(call, stand) for call in possible):
        yield Finding(_misfit(possible[0], stand), f"{stand} is there of {_shown(possible[0])}")
        return
    for call in _done(calls):
        if not _fits(call, stand) or call.answer["ids"] != ids:
            yield _wrong(f"{_shown(call)} answered {call.answer}, and {things} is there")
    if sum(not call.answer["replayed"] for call in _done(calls)) > 1:
        yield Finding(Kind.TWICE, f"{stand} was answered as new more than once")
    for call in calls:
        if call.answer.get("code") == Reason.KEY_REUSED and _fits(call, stand):
            yield _wrong(f"{_shown(call)} was told {call.answer}")


def _misfit(call: Call, stand: list[_Thing]) -> Kind:
    asked, there = Counter(_THINGS[call.verb](call.asked)), Counter(stand)
    if there < asked:
        return Kind.HALF
    return Kind.TWICE if there > asked else Kind.WRONG


def _fits(call: Call, stand: list[_Thing]) -> bool:
    """Tell whether this is what the call asks for, where None is whatever was left."""
    asked = _THINGS[call.verb](call.asked)
    return len(asked) == len(stand) and all(
        wanted in (None, there)
        for pair in zip(sorted(asked), sorted(stand), strict=True)
        for wanted, there in zip(*pair, strict=True)
    )


_THINGS: dict[str, Callable[[Asked], list[_Thing]]] = {
    "credit": lambda asked: [("credit", asked["account"], asked["cents"])],
    "debit": lambda asked: [("debit", asked["account"], asked["cents"])],
    "transfer": lambda asked: [
        ("debit", asked["giver"], asked["cents"]),
        ("credit", asked["taker"], asked["cents"]),
    ],
    "order": lambda asked: [("order", asked["account"], asked["type"], asked["cents"])],
    "refund": lambda asked: [("refund", asked["order"], asked["cents"], asked["policy"])],
}


def _off_cents(code: found.Code, amount_cents: int) -> int:
    if code.discount_type == "fixed":
        return min(code.discount_value, amount_cents)
    return (amount_cents * code.discount_value + 50) // 100


def _running(trail: list[Line]) -> Iterator[tuple[Line, int]]:
    """Walk a trail with what each line should come to, after the line before it as it stands."""
    before_cents = 0
    for line in trail:
        yield line, before_cents + line.step_cents
        before_cents = line.balance_after_cents


def _done(calls: list[Call]) -> list[Call]:
    return [call for call in calls if call.outcome is Outcome.DONE]


def _grouped(pairs: Iterable[tuple[Any, T]]) -> defaultdict[Any, list[T]]:
    groups: defaultdict[Any, list[T]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups


def _shown(call: Call) -> str:
    return f"{call.name}, {call.verb} {call.asked}, {call.outcome}"


def _wrong(what: str) -> Finding:
    return Finding(Kind.WRONG, what)
