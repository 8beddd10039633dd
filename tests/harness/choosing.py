"""What a worker does next: a seeded choice among everything that the stores can be asked for."""

import random
from itertools import count
from typing import Any

from deeds import DESTINATIONS, World
from journal import Asked, Call

from tbpay.models import Order, OrderStatus, RefundPolicy
from tbpay.stores import balance_store, order_store

MIX = {
    "credit": 12,
    "debit": 14,
    "charge": 18,
    "credit_back": 6,
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
        """Make an earlier call again, now and then for something else under the same key."""
        earlier = self._chance.choice(self.remembered)
        asked = earlier.asked
        for measure in ("cents", "segments"):
            if asked.get(measure) is not None and self._once_in(8):
                asked = asked | {measure: asked[measure] + 1}
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

    def _charge(self, name: str) -> Asked:
        return {
            "account": self._chance.choice(self._world.customers),
            "phone": self._chance.choice(list(DESTINATIONS)),
            "segments": self._chance.randint(1, 3),
            "fallback": self._once_in(2),
            "key": f"the key of {name}",
        }

    def _credit_back(self, _name: str) -> Asked | None:
        """Choose among the newest lines: some of their charges are given back already."""
        lines = balance_store.history(self._chance.choice(self._world.customers), limit=12).items
        charges = [it.sms_charge for it in lines if it.sms_charge is not None]
        if not charges:
            return None
        charge = self._chance.choice(charges)
        return {"charge": charge.gives_back_id or charge.transaction_id}

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


def seeded(seed: int, who: object) -> random.Random:
    """Answer a source of chance that is somebody's own, and the same in every run of a seed."""
    return random.Random(f"{seed}/{who}")  # noqa: S311 - nothing is kept secret by it
