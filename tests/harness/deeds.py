"""What workers do: the verbs of the stores, and a seeded choice of what to do next.

Everything that is done bears the name of the call that asked for it, so that it can be found: a
line in its description, an order in its session, a refund in its reason.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from journal import Answer, Asked, Call, Journal, Outcome

from tbpay.database import atomically
from tbpay.errors import OutcomeUnknownError, TbpayError
from tbpay.models import Order, OrderStatus, RefundPolicy, Transaction
from tbpay.stores import account_store, balance_store, discount_code_store, order_store

Operation = Callable[[Call], Answer]

CUSTOMERS = 14
PURSES = 8
PURSE_CENTS = 10_000
CUSTOMER_CENTS = 5_000
SESSION = "cs_"


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


# the choice


def seeded(seed: int, who: object) -> random.Random:
    """Answer a source of chance that is somebody's own, and the same in every run of a seed."""
    return random.Random(f"{seed}/{who}")  # noqa: S311 - nothing is kept secret by it


MIX = {
    "credit": 12,
    "debit": 24,
    "transfer": 18,
    "order": 14,
    "complete": 11,
    "fail": 5,
    "pay_late": 2,
    "refund": 8,
    "use": 2,
    "use_for_order": 1,
    "replay": 10,
}
"""How often what is done, in shares."""


class Chooser:
    """Decide what one worker does next. ``remembered`` are calls that can be made again."""

    def __init__(self, worker: int, seed: int, world: World, mix: dict[str, int]) -> None:
        self._chance = seeded(seed, worker)
        self._names = (f"{worker}-{number}" for number in count(1))
        self._world = world
        self._mix = mix
        self.remembered: list[Call] = []

    def choose(self) -> Call:
        while True:
            [verb] = self._chance.choices(list(self._mix), list(self._mix.values()))
            name = next(self._names)
            if verb == "replay":
                if self.remembered:
                    return self.again(name)
            elif (asked := getattr(self, f"_{verb}")(name)) is not None:
                call = Call(name, _VERB_OF.get(verb, verb), asked)
                if call.deed != name:
                    self.remembered = [*self.remembered[-99:], call]
                return call

    def again(self, name: str) -> Call:
        """Make an earlier call again, now and then with another amount under the same key."""
        earlier = self._chance.choice(self.remembered)
        asked = earlier.asked
        if asked["cents"] is not None and self._once_in(8):
            asked = asked | {"cents": asked["cents"] + 1}
        return Call(name, earlier.verb, asked)

    def _credit(self, name: str) -> Asked:
        return {
            "account": self._chance.choice(self._world.customers),
            "cents": self._chance.randint(1, 900),
            **self._key(name),
        }

    def _debit(self, name: str) -> Asked:
        below = {"below": True} if self._once_in(20) else {}
        return self._credit(name) | below

    def _transfer(self, name: str) -> Asked:
        giver, taker = self._chance.sample(self._world.purses, 2)
        return {
            "giver": giver,
            "taker": taker,
            "cents": self._chance.randint(1, 500),
            "by_the_rule": not self._once_in(12),
            **self._key(name),
        }

    def _order(self, name: str) -> Asked:
        return {
            "account": self._chance.choice(self._world.customers),
            "type": self._chance.choice(["initial_access", "top_up"]),
            "cents": self._chance.randint(100, 3_000),
            "code": self._chance.choice([None, *self._world.codes]),
            **self._key(name),
        }

    def _complete(self, name: str) -> Asked | None:
        found = self._find(None if self._once_in(10) else OrderStatus.PENDING)
        intent = f"pi_{name}" if self._once_in(2) else None
        return None if found is None else {"order": found.id, "intent": intent}

    def _fail(self, _name: str) -> Asked | None:
        found = self._find(None if self._once_in(10) else OrderStatus.PENDING)
        return None if found is None else {"order": found.id}

    def _pay_late(self, name: str) -> Asked | None:
        found = self._find(OrderStatus.FAILED)
        return None if found is None else {"order": found.id, "intent": f"pi_{name}"}

    def _refund(self, name: str) -> Asked | None:
        found = self._find(None if self._once_in(10) else OrderStatus.COMPLETED)
        if found is None:
            return None
        part = not self._once_in(3) and found.amount_cents > 0
        named = {"stripe": f"re_{name}"} if self._once_in(3) else self._key(name)
        return {
            "order": found.id,
            "cents": self._chance.randint(1, found.amount_cents) if part else None,
            "policy": self._chance.choice(list(RefundPolicy)),
            **named,
        }

    def _use(self, _name: str) -> Asked:
        return {"code": self._chance.choice(self._world.codes), "order": None}

    def _use_for_order(self, name: str) -> Asked | None:
        found = self._find(None)
        return None if found is None else self._use(name) | {"order": found.id}

    def _find(self, status: OrderStatus | None) -> Order | None:
        """Choose among the newest orders: there others are at work, too."""
        newest = order_store.find(status=status, limit=12).items
        return self._chance.choice(newest) if newest else None

    def _key(self, name: str) -> dict[str, Any]:
        return {"key": f"the key of {name}"} if self._once_in(2) else {}

    def _once_in(self, times: int) -> bool:
        return self._chance.randrange(times) == 0


_VERB_OF = {"pay_late": "complete", "use_for_order": "use"}
