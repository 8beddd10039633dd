"""The part of the audit about orders: where they stand, their money, their refunds, their codes."""

from collections import Counter
from collections.abc import Iterator

import found
from deeds import SESSION
from findings import Case, Finding, Kind, done, shown_as, wrong
from found import Order, Refund
from journal import Call, Outcome


def audit_order(case: Case, order: Order) -> Iterator[Finding]:
    """An order has moved where it was sent, and its money and its use of a code with it."""
    yield from _status(case, order)
    yield from _credit(case, order)
    yield from _refunds(case, order)
    yield from _discount(case, order)


def _status(case: Case, order: Order) -> Iterator[Finding]:
    calls = case.of_order[order.id]
    completes, fails, refunds = (
        [call for call in calls if call.verb == verb and call.may_be_done]
        for verb in ("complete", "fail", "refund")
    )
    shown = f"order {order.id} is {order.status}"
    is_paid = order.status in ("completed", "refunded")
    if is_paid and not completes and order.amount_cents > 0:
        yield Finding(Kind.PHANTOM, f"{shown}, and nobody completed it")
    if is_paid and done(fails) and not any(call.asked["intent"] for call in completes):
        yield wrong(f"{shown} after it had failed, and nobody paid")
    if order.status == "failed" and not fails:
        yield Finding(Kind.PHANTOM, f"{shown}, and nobody failed it")
    if order.status == "refunded" and not refunds:
        yield Finding(Kind.PHANTOM, f"{shown}, and nobody refunded it")
    if not is_paid and done(completes):
        yield Finding(Kind.LOST, f"{shown}, and {shown_as(done(completes)[0])}")
    if order.status == "pending" and done(fails):
        yield Finding(Kind.LOST, f"{shown}, and {shown_as(done(fails)[0])}")
    intents = {call.asked["intent"] for call in done(completes)} - {None}
    possible = {call.asked["intent"] for call in completes} | {None}
    if not intents <= {order.stripe_payment_intent_id} <= possible:
        yield wrong(f"{shown} by {order.stripe_payment_intent_id}, not one of {intents}")
    for call in done(completes + fails):
        expected = "completed" if call.verb == "complete" else "failed"
        if call.answer != {"status": expected}:
            yield wrong(f"{shown_as(call)} answered {call.answer}")


def _credit(case: Case, order: Order) -> Iterator[Finding]:
    lines = [it for it in case.lines_of[order.id] if it.transaction_type == "credit"]
    expected = 1 if order.status in ("completed", "refunded") else 0
    shown = f"order {order.id} is {order.status} with {len(lines)} credits"
    if len(lines) != expected:
        yield Finding(Kind.TWICE if len(lines) > 1 else Kind.HALF, shown)
    for line in lines:
        if (line.account_id, line.amount_cents) != (order.account_id, order.credit_cents):
            yield wrong(f"{shown} of {line.amount_cents}, not of {order.credit_cents}")


def _refunds(case: Case, order: Order) -> Iterator[Finding]:
    refunds, paid_cents = case.refunds_of[order.id], order.amount_cents
    before_cents = 0
    for refund in refunds:
        after_cents = before_cents + refund.amount_cents
        expected = order.credit_cents
        if paid_cents > 0:
            expected = order.credit_cents * after_cents // paid_cents
            expected -= order.credit_cents * before_cents // paid_cents
        if refund.claw_back_cents != expected:
            yield wrong(f"{refund} does not claw back {expected} of {order}")
        yield from _line_of(case, refund, order)
        before_cents = after_cents
    is_whole = bool(refunds) and before_cents == paid_cents
    if before_cents > paid_cents or (refunds and order.status in ("pending", "failed")):
        yield wrong(f"{before_cents} was refunded of {order}")
    elif is_whole != (order.status == "refunded"):
        yield Finding(Kind.HALF, f"{before_cents} was refunded of {order}")
    known = {refund.transaction_id for refund in refunds}
    for line in case.lines_of[order.id]:
        if line.transaction_type == "refund" and line.id not in known:
            yield Finding(Kind.HALF, f"{line} without its refund")
        if line.transaction_type == "debit":
            yield Finding(Kind.PHANTOM, f"nobody asked for {line}")


def _line_of(case: Case, refund: Refund, order: Order) -> Iterator[Finding]:
    taken_cents = refund.claw_back_cents - refund.shortfall_cents
    line = case.line.get(refund.transaction_id or 0)
    if line is None:
        if taken_cents > 0:
            yield Finding(Kind.HALF, f"{refund} without its line")
    elif (line.transaction_type, line.order_id, line.account_id, line.amount_cents) != (
        *("refund", order.id, order.account_id),
        taken_cents,
    ):
        yield wrong(f"{refund} with {line}")
    after_cents = 0 if line is None else line.balance_after_cents
    keeps_its_policy = {
        "refuse": refund.shortfall_cents == 0 and after_cents >= 0,
        "negative": refund.shortfall_cents == 0,
        "available": after_cents == 0 or (refund.shortfall_cents == 0 and after_cents > 0),
    }
    if not keeps_its_policy[refund.policy]:
        yield wrong(f"{refund} with {line}")


def _discount(case: Case, order: Order) -> Iterator[Finding]:
    off_cents = order.credit_cents - order.amount_cents
    uses = case.redemptions_of[order.id]
    shown = f"order {order.id}, {order.status}"
    if order.discount_code_id is None:
        if uses or off_cents:
            yield Finding(Kind.HALF, f"{shown}, has {uses} and {off_cents} off without a code")
        return
    code = case.code[order.discount_code_id]
    created = case.by_name.get(order.stripe_session_id.removeprefix(SESSION))
    if created is not None and created.asked["code"] == code.code:
        expected_cents = _off_cents(code, order.credit_cents)
    else:
        # It took the code later, and is charged what it was.
        expected_cents = 0
        if not any(call.asked["code"] == code.code for call in _uses_for(case, order)):
            yield Finding(Kind.PHANTOM, f"{shown}, has {code.code}, and nobody asked for it")
    if off_cents != expected_cents:
        yield wrong(f"{shown}, has {off_cents} off with {code.code}, not {expected_cents}")
    may_be_late = order.status in ("completed", "refunded") and any(
        call.verb == "fail" and call.may_be_done for call in case.of_order[order.id]
    )
    expected = {"pending": "reserved", "failed": "released"}.get(order.status, "redeemed")
    stands = [(use.discount_code_id, use.account_id, use.reduction_cents) for use in uses]
    if stands != [(code.id, order.account_id, off_cents)]:
        yield Finding(Kind.HALF, f"{shown}, has {code.code} and {uses}")
    elif uses[0].status != expected and not (may_be_late and uses[0].status == "late"):
        yield Finding(Kind.HALF, f"{shown}, has a use that is {uses[0].status}")


def _uses_for(case: Case, order: Order) -> list[Call]:
    calls = case.of_order[order.id]
    return [call for call in calls if call.verb == "use" and call.may_be_done]


def audit_codes(case: Case) -> Iterator[Finding]:
    """The uses of a code are counted, and within its limits."""
    for call in case.calls:
        if call.verb != "use" or call.outcome is not Outcome.DONE:
            continue
        order = case.order.get(call.asked["order"] or 0)
        if order is not None:
            held = case.code.get(order.discount_code_id or 0)
            if held is None or held.code != call.asked["code"]:
                yield Finding(Kind.LOST, f"{shown_as(call)}, and {order} has it not")
    for code in case.found.codes:
        uses = [it for it in case.found.redemptions if it.discount_code_id == code.id]
        live = [use for use in uses if use.is_live]
        shown = f"{code.code} counts {code.current_uses} of {code.max_uses}, has {len(live)}"
        if code.current_uses != len(live):
            yield Finding(Kind.HALF, shown)
        if code.max_uses is not None and len(live) > code.max_uses:
            yield wrong(shown)
        # A late payment takes a use again, whatever its account has taken meanwhile.
        own = Counter(use.account_id for use in live if not _had_failed(case, use.order_id))
        for account_id, times in own.items():
            if account_id and code.per_account is not None and times > code.per_account:
                yield wrong(f"account {account_id} has {code.code} {times} times")
        yield from _anonymous(case, code.code, sum(use.order_id is None for use in live))


def _had_failed(case: Case, order_id: int | None) -> bool:
    calls = [] if order_id is None else case.of_order[order_id]
    return any(call.verb == "fail" and call.may_be_done for call in calls)


def _anonymous(case: Case, code: str, uses: int) -> Iterator[Finding]:
    asked = [
        call
        for call in case.calls
        if call.verb == "use" and call.asked == {"code": code, "order": None}
    ]
    least, most = len(done(asked)), sum(call.may_be_done for call in asked)
    if uses < least:
        yield Finding(Kind.LOST, f"{uses} uses of {code} are of no order, not {least}")
    if uses > most:
        yield Finding(Kind.PHANTOM, f"{uses} uses of {code} are of no order, not {most}")


def _off_cents(code: found.Code, amount_cents: int) -> int:
    if code.discount_type == "fixed":
        return min(code.discount_value, amount_cents)
    return (amount_cents * code.discount_value + 50) // 100
