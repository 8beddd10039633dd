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
from typing import Any

from databases import Database
from deeds import DESTINATIONS, SESSION
from findings import Case, Finding, Kind, done, grouped, shown_as, wrong
from found import Charge, Line
from journal import Asked, Call
from purchases import audit_codes, audit_order

from tbpay.errors import Code as Reason

_CENT = 10_000

# What a call asks for, or a row is: equal where the one is what the other asked for.
_Thing = tuple[Any, ...]


def audit(db: Database, calls: Iterable[Call]) -> list[Finding]:
    """Compare what stands in a database with what was asked of it, from its first row on."""
    return list(_findings(Case(db, list(calls))))


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


def _findings(case: Case) -> Iterator[Finding]:
    for call in case.calls:
        if "unforeseen" in call.answer:
            yield wrong(f"{shown_as(call)} raised {call.answer['unforeseen']}")
    yield from _deeds(case)
    for order in case.found.orders:
        yield from audit_order(case, order)
    yield from audit_codes(case)
    yield from _trails(case)


def _deeds(case: Case) -> Iterator[Finding]:
    things: dict[str, list[tuple[int, _Thing]]] = defaultdict(list)
    for name, row_id, thing in _named(case):
        call = case.by_name.get(name) or case.deeds.get(name)
        if call is not None:
            things[call.deed].append((row_id, thing))
        else:
            yield Finding(Kind.PHANTOM, f"nobody asked for {thing} of {name}")
    deeds = grouped((call.deed, call) for call in case.calls if call.verb in _THINGS)
    for deed, calls in deeds.items():
        calls = [call for call in calls if not _was_refunded_already(case, call)]
        yield from _deed(calls, things[deed])


def _named(case: Case) -> Iterator[tuple[str, int, _Thing]]:
    """Walk everything that bears the name of a call, or of its deed."""
    thing: _Thing
    for charge in case.found.charges:
        line_id = charge.transaction_id
        if charge.gives_back_id is not None:
            yield f"charge {charge.gives_back_id}, given back", line_id, ("credit_back",)
            continue
        what = charge.phone, charge.country_code, charge.segments, charge.cost_micros
        line = case.line[line_id]
        yield line.idempotency_key or line.description, line_id, ("charge", line.account_id, *what)
    for line in case.found.lines:
        if line.order_id is None and line.id not in case.charge:
            thing = line.transaction_type, line.account_id, line.amount_cents
            yield line.description, line.id, thing
    for order in case.found.orders:
        thing = "order", order.account_id, order.order_type, order.credit_cents
        yield order.stripe_session_id.removeprefix(SESSION), order.id, thing
    for refund in case.found.refunds:
        thing = "refund", refund.order_id, refund.amount_cents, refund.policy
        yield refund.reason, refund.id, thing


def _was_refunded_already(case: Case, call: Call) -> bool:
    """Tell a call for all the rest of what was refunded to the end: that changes nothing."""
    if call.verb != "refund" or not call.answer.get("replayed"):
        return False
    last = [refund.id for refund in case.refunds_of[call.asked["order"]][-1:]]
    return call.asked["cents"] is None and call.answer["ids"] == last


def _deed(calls: list[Call], things: list[tuple[int, _Thing]]) -> Iterator[Finding]:
    """Judge what stands there for all the calls by which one deed was asked for."""
    stand = [thing for _, thing in things]
    ids = sorted(row_id for row_id, _ in things)
    possible = [call for call in calls if call.may_be_done]
    if not things:
        for call in done(calls):
            yield Finding(Kind.LOST, f"nothing is there of {shown_as(call)}")
        return
    if not possible:
        yield Finding(Kind.PHANTOM, f"{stand} is there, and was refused: {calls}")
        return
    if not any(_fits(call, stand) for call in possible):
        yield Finding(_misfit(possible[0], stand), f"{stand} is there of {shown_as(possible[0])}")
        return
    for call in done(calls):
        if not _fits(call, stand) or call.answer["ids"] != ids:
            yield wrong(f"{shown_as(call)} answered {call.answer}, and {things} is there")
    if sum(not call.answer["replayed"] for call in done(calls)) > 1:
        yield Finding(Kind.TWICE, f"{stand} was answered as new more than once")
    for call in calls:
        if call.answer.get("code") == Reason.KEY_REUSED and _fits(call, stand):
            yield wrong(f"{shown_as(call)} was told {call.answer}")


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
    "charge": lambda asked: [_sold(asked)],
    "credit_back": lambda _: [("credit_back",)],
    "transfer": lambda asked: [
        ("debit", asked["giver"], asked["cents"]),
        ("credit", asked["taker"], asked["cents"]),
    ],
    "order": lambda asked: [("order", asked["account"], asked["type"], asked["cents"])],
    "refund": lambda asked: [("refund", asked["order"], asked["cents"], asked["policy"])],
}


def _sold(asked: Asked) -> _Thing:
    to, segments = DESTINATIONS[asked["phone"]], asked["segments"]
    cost_micros = segments * to.rate_micros
    return "charge", asked["account"], to.masked, to.country, segments, cost_micros


def _trails(case: Case) -> Iterator[Finding]:
    trails = grouped((line.account_id, line) for line in case.found.lines)
    for account_id in trails.keys() - {balance.account_id for balance in case.found.balances}:
        yield Finding(Kind.HALF, f"account {account_id} has lines, and no balance")
    for balance in case.found.balances:
        trail = sorted(trails[balance.account_id], key=lambda line: line.account_version)
        shown = f"account {balance.account_id}"
        if [line.account_version for line in trail] != list(range(1, len(trail) + 1)):
            yield wrong(f"{shown} has a gap in its versions")
        if [line.id for line in trail] != sorted(line.id for line in trail):
            yield wrong(f"{shown} has versions in another order than ids")
        last = trail[-1] if trail else None
        stands = (balance.balance_cents, balance.account_version)
        if stands != ((last.balance_after_cents, last.account_version) if last else (0, 0)):
            yield Finding(Kind.HALF, f"{balance} after {last}")
        stands_micros = 0
        for line in trail:
            # After the line before it, as that stands.
            yield from _line(case, line, stands_micros)
            stands_micros = line.balance_after_cents * _CENT + _fraction(case, line, stands_micros)
        if balance.subcent_micros != stands_micros % _CENT:
            yield Finding(Kind.HALF, f"{balance} after {stands_micros} micros")


def _line(case: Case, line: Line, before_micros: int) -> Iterator[Finding]:
    charge = case.charge.get(line.id)
    step_micros = line.step_cents * _CENT if charge is None else charge.step_micros
    after_micros = before_micros + step_micros
    stands = line.balance_after_cents, _fraction(case, line, before_micros)
    if stands != divmod(after_micros, _CENT):
        yield wrong(f"{line}, {charge} does not come to {after_micros} micros")
    if line.step_cents != after_micros // _CENT - before_micros // _CENT:
        yield wrong(f"{line}, {charge} does not lead from {before_micros} to {after_micros} micros")
    if after_micros < 0 and line.transaction_type == "debit":
        call = case.by_name.get(line.description)
        if call is None or not call.asked.get("below"):
            yield wrong(f"{line} takes more than there was")
    if charge is not None:
        yield from _charge(case, line, charge)


def _fraction(case: Case, line: Line, before_micros: int) -> int:
    """Answer the micros that stand after a line: what moves whole cents leaves them."""
    charge = case.charge.get(line.id)
    return before_micros % _CENT if charge is None else charge.subcent_after_micros


def _charge(case: Case, line: Line, charge: Charge) -> Iterator[Finding]:
    given = charge if charge.gives_back_id is None else case.charge.get(charge.gives_back_id)
    told = "SMS to" if given is charge else "Credit back of SMS to"
    if line.description != f"{told} {charge.phone}" or line.account_id != charge.account_id:
        yield wrong(f"{line} is not the one of {charge}")
    if charge.rate_micros * charge.segments != charge.cost_micros:
        yield wrong(f"{charge} does not cost its segments")
    if given is None or _what(given) != _what(charge):
        yield wrong(f"{charge} gives back {given}")


def _what(charge: Charge) -> _Thing:
    return charge.account_id, charge.phone, charge.country_code, charge.segments, charge.cost_micros
