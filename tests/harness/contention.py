"""Eight processes that want the same at once: the uses of a code, or what a key stands for."""

from collections import Counter
from dataclasses import dataclass

from auditor import audit
from choosing import seeded
from databases import Database
from deeds import OPERATIONS, Operation, outcome_of
from findings import Finding, Kind
from journal import Call, Outcome
from probes import together

from tbpay import database
from tbpay.errors import Code
from tbpay.stores import account_store, discount_code_store

PROCESSES = 8
PER_ACCOUNT = 9


@dataclass(frozen=True)
class Redeeming:
    """What came of it: attempts, and the uses that are live, counted and acknowledged."""

    calls: list[Call]
    released: int
    live: int
    counted: int
    acknowledged: int
    refusals: Counter[str]
    findings: list[Finding]

    def __str__(self) -> str:
        refusals = ", ".join(f"{times:,} {code}" for code, times in sorted(self.refusals.items()))
        return (
            f"{len(self.calls) - self.released:,} attempts, {self.released} given back,"
            f" {refusals}; live {self.live} = counter {self.counted}"
            f" = acknowledged {self.acknowledged}; {len(self.findings)} wrong"
        )


def redeem(
    db: Database,
    seed: int,
    *,
    attempts: int,
    max_uses: int,
    order: Operation = OPERATIONS["order"],
) -> Redeeming:
    """Let every process try to buy with one code so often, and fail three orders of ten again."""
    # Together they may have all the uses, and not many more.
    accounts = [account_store.create().id for _ in range(max_uses // PER_ACCOUNT + 1)]
    discount_code_store.create("SHARED", "percent", 10, max_uses=max_uses, per_account=PER_ACCOUNT)
    database.close()

    def buy(process: int) -> list[Call]:
        chance = seeded(seed, process)
        calls = []
        for attempt in range(attempts):
            # Every other attempt is of one account, which has soon had its share.
            turn = 0 if attempt % 2 else attempt // 2
            asked = {
                "account": accounts[turn % len(accounts)],
                "type": "top_up",
                "cents": 1_000,
                "code": "SHARED",
            }
            calls.append(outcome_of(order, Call(f"{process}-{attempt}", "order", asked)))
            # What is given back at the very end nobody would take any more.
            is_early = attempt < attempts * 3 // 4
            if calls[-1].outcome is Outcome.DONE and is_early and chance.random() < 0.3:
                [order_id] = calls[-1].answer["ids"]
                failing = Call(f"{process}-{attempt}, failed", "fail", {"order": order_id})
                calls.append(outcome_of(OPERATIONS["fail"], failing))
        return calls

    calls = [call for answers in together(buy, PROCESSES) for call in answers]
    done = Counter(call.verb for call in calls if call.outcome is Outcome.DONE)
    live = "SELECT count(*) FROM discount_redemptions WHERE status IN ('reserved', 'redeemed')"
    redeeming = Redeeming(
        calls=calls,
        released=done["fail"],
        live=db.rows(live)[0][0],
        counted=db.rows("SELECT current_uses FROM discount_codes")[0][0],
        acknowledged=done["order"] - done["fail"],
        refusals=_refusals(calls),
        findings=audit(db, calls),
    )
    if {redeeming.live, redeeming.counted, redeeming.acknowledged} != {max_uses}:
        redeeming.findings.append(Finding(Kind.WRONG, f"not all of {max_uses}: {redeeming}"))
    return redeeming


@dataclass(frozen=True)
class Keying:
    """What came of it: calls, and how often something was done."""

    calls: list[Call]
    executions: int
    refusals: Counter[str]
    findings: list[Finding]

    def __str__(self) -> str:
        return (
            f"{len(self.calls):,} calls: {self.executions} executions,"
            f" {self.refusals[Code.KEY_REUSED]:,} conflicts,"
            f" {len(self.findings)} wrong answers"
        )


def use_keys(db: Database, seed: int, *, keys: int) -> Keying:
    """Let every process use the same keys in the same order, not always for the same thing."""
    accounts = [account_store.create().id for _ in range(12)]
    gifts = [
        Call(f"gift-{account}", "credit", {"account": account, "cents": 10_000_000})
        for account in accounts
    ]
    gifts = [outcome_of(OPERATIONS["credit"], gift) for gift in gifts]
    database.close()

    def use(process: int) -> list[Call]:
        chance = seeded(seed, process)
        calls = []
        for number in range(keys):
            kind = chance.random()
            asked = {
                # One in ten of another account, one in ten of another amount.
                "account": accounts[(number + (kind < 0.1)) % len(accounts)],
                "cents": 1_000 + number + (0.1 <= kind < 0.2),
                "key": f"the key {number}",
            }
            verb = ["credit", "debit", "order", "charge"][number % 4]
            if verb == "order":
                asked |= {"type": "top_up", "code": None}
            if verb == "charge":
                asked |= {"phone": "+12015550123", "segments": asked["cents"]}
            calls.append(outcome_of(OPERATIONS[verb], Call(f"{process}-{number}", verb, asked)))
        return calls

    calls = [call for answers in together(use, PROCESSES) for call in answers]
    with_key = "SELECT count(*) FROM {} WHERE idempotency_key IS NOT NULL"
    tables = ("transactions", "orders")
    keying = Keying(
        calls=calls,
        executions=sum(db.rows(with_key.format(table))[0][0] for table in tables),
        refusals=_refusals(calls),
        findings=audit(db, gifts + calls),
    )
    if keying.executions != keys or set(keying.refusals) != {Code.KEY_REUSED}:
        keying.findings.append(Finding(Kind.WRONG, f"not {keys} times: {keying}"))
    return keying


def _refusals(calls: list[Call]) -> Counter[str]:
    return Counter(call.answer["code"] for call in calls if call.outcome is Outcome.NOT_DONE)
