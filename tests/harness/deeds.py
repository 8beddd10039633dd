"""What workers do: the verbs of the stores, and the accounts and codes on which they do it.

Everything that is done bears the name of the call that asked for it, so that it can be found: a
line in its description, an order in its session, a refund in its reason. A charge bears its key,
and what gives it back names the charge.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from journal import Answer, Call, Journal, Outcome

from tbpay.database import atomically
from tbpay.errors import OutcomeUnknownError, TbpayError
from tbpay.models import Transaction
from tbpay.stores import account_store, balance_store, discount_code_store, order_store

Operation = Callable[[Call], Answer]

CUSTOMERS = 14
PURSES = 8
PURSE_CENTS = 10_000
CUSTOMER_CENTS = 5_000
SESSION = "cs_"


class Destination(NamedTuple):
    """Where a message goes: how it is kept, and what a segment costs; the last has no price."""

    masked: str
    country: str
    rate_micros: int


DESTINATIONS = {
    "+12015550123": Destination("+1…23", "US", 56_500),
    "+447400123456": Destination("+44…56", "GB", 262_000),
    "+393123456789": Destination("+39…89", "IT", 463_500),
    "+4915123456789": Destination("+49…89", "DE", 56_500),
}


@dataclass(frozen=True)
class World:
    """What there is to work on. Purses only give to each other, so that their total never moves."""

    customers: list[int]
    purses: list[int]
    codes: list[str]

    @property
    def total_cents(self) -> int:
        return len(self.purses) * PURSE_CENTS


def new_world() -> World:
    """Make the accounts and the codes; nobody has any money yet."""
    discount_code_store.create("TENTH", "percent", 10)
    discount_code_store.create("FEW", "fixed", 300, max_uses=25)
    discount_code_store.create("OWN", "percent", 33, per_account=4)
    discount_code_store.create("GRATIS", "percent", 100, max_uses=60)
    customers = [account_store.create().id for _ in range(CUSTOMERS)]
    purses = [account_store.create().id for _ in range(PURSES)]
    return World(customers, purses, ["TENTH", "FEW", "OWN", "GRATIS"])


def first_calls(world: World) -> list[Call]:
    """Answer the calls that give everybody something to begin with."""
    given = [(account, CUSTOMER_CENTS) for account in world.customers]
    given += [(account, PURSE_CENTS) for account in world.purses]
    return [
        Call(f"gift-{account}", "credit", {"account": account, "cents": cents})
        for account, cents in given
    ]


# the verbs


def credit(call: Call) -> Answer:
    asked = call.asked
    line = balance_store.add_credits(
        asked["account"], asked["cents"], call.name, key=asked.get("key")
    )
    return _of_lines(line)


def debit(call: Call) -> Answer:
    asked = call.asked
    line = balance_store.deduct(
        asked["account"],
        asked["cents"],
        call.name,
        key=asked.get("key"),
        allow_negative=asked.get("below", False),
    )
    return _of_lines(line)


def charge(call: Call) -> Answer:
    asked = call.asked
    line = balance_store.charge_sms(
        asked["account"],
        asked["phone"],
        segments=asked["segments"],
        fallback=asked.get("fallback", False),
        key=asked["key"],
    )
    return _of_lines(line)


def credit_back(call: Call) -> Answer:
    return _of_lines(balance_store.credit_back(call.asked["charge"]))


def transfer(call: Call) -> Answer:
    """Give from one account to another: two lines in one unit."""
    steps = transfer_steps(call)
    lines = atomically(lambda: [step() for step in steps], repeatable="key" in call.asked)
    return _of_lines(*lines)


def transfer_steps(call: Call) -> list[Callable[[], Transaction]]:
    asked = call.asked
    giver, taker, cents, key = asked["giver"], asked["taker"], asked["cents"], asked.get("key")
    keys = (None, None) if key is None else (f"{key}, out", f"{key}, in")
    steps = [
        lambda: balance_store.deduct(giver, cents, call.name, key=keys[0]),
        lambda: balance_store.add_credits(taker, cents, call.name, key=keys[1]),
    ]
    # Ids ascending is the rule; who breaks it runs into deadlocks, out of which it is helped.
    if asked["by_the_rule"] and taker < giver:
        steps.reverse()
    return steps


def order(call: Call) -> Answer:
    asked = call.asked
    made = order_store.create(
        asked["account"],
        asked["type"],
        asked["cents"],
        code=asked["code"],
        stripe_session_id=SESSION + call.name,
        key=asked.get("key"),
    )
    replayed = made.stripe_session_id != SESSION + call.name
    return {"ids": [made.id], "replayed": replayed}


def complete(call: Call) -> Answer:
    asked = call.asked
    done = order_store.complete(asked["order"], payment_intent_id=asked["intent"])
    return {"status": done.status}


def fail(call: Call) -> Answer:
    return {"status": order_store.fail(call.asked["order"]).status}


def refund(call: Call) -> Answer:
    asked = call.asked
    _, made = order_store.record_refund(
        asked["order"],
        amount_cents=asked["cents"],
        policy=asked["policy"],
        stripe_refund_id=asked.get("stripe"),
        reason=call.name,
        key=asked.get("key"),
    )
    return {"ids": [made.id], "replayed": made.replayed}


def use(call: Call) -> Answer:
    """Take a use of a code, for an order or for nobody."""
    discount_code_store.increment_uses(call.asked["code"], order_id=call.asked["order"])
    return {}


def _of_lines(*lines: Transaction) -> Answer:
    [replayed] = {line.replayed for line in lines}
    return {"ids": sorted(line.id for line in lines), "replayed": replayed}


OPERATIONS: dict[str, Operation] = {
    "credit": credit,
    "debit": debit,
    "charge": charge,
    "credit_back": credit_back,
    "transfer": transfer,
    "order": order,
    "complete": complete,
    "fail": fail,
    "refund": refund,
    "use": use,
}


def perform(journal: Journal, operation: Operation, call: Call) -> Call:
    """Do what a call asks for, with a word in the journal before and after; answer what came."""
    journal.intend(call)
    told = outcome_of(operation, call)
    journal.note(told)
    return told


def outcome_of(operation: Operation, call: Call) -> Call:
    try:
        return replace(call, outcome=Outcome.DONE, answer=operation(call))
    except OutcomeUnknownError:
        return call
    except TbpayError as refusal:
        answer = {"code": refusal.code, "message": refusal.message}
        return replace(call, outcome=Outcome.NOT_DONE, answer=answer)
    except Exception as error:
        return replace(call, answer={"unforeseen": f"{type(error).__name__}: {error}"})


@dataclass(frozen=True)
class Ways:
    """How things are done: as the stores do them, or wrongly, to see whether it is found out."""

    operations: dict[str, Operation]
    perform: Callable[[Journal, Operation, Call], Call] = perform


OUR_WAYS = Ways(OPERATIONS)
