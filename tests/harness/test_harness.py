"""The promises under fire: what holds whatever many processes do, and whoever of them is killed.

In the short form a few seconds of each; with ``--long`` for as long, and as often, as the figures
ask for. What an audit finds it would have found in a broken program, too: that is tried as well.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest
from auditor import audit, verify
from broken import BROKEN, Broken
from choosing import MIX, Chooser
from clusters import server
from contention import redeem, use_keys
from databases import Database
from deeds import CUSTOMERS, OPERATIONS, first_calls, new_world, outcome_of
from failover import fail_over
from findings import Kind
from journal import Call, Outcome
from killing import kill
from postgres import NoPostgresError
from probes import not_run

from tbpay import database, migrations
from tbpay.errors import Code


@dataclass(frozen=True)
class Form:
    seconds: float
    attempts: int
    max_uses: int
    keys: int
    seeds: list[int]


SHORT = Form(seconds=1.5, attempts=60, max_uses=20, keys=60, seeds=[1])
LONG = Form(seconds=60, attempts=300, max_uses=100, keys=500, seeds=[1, 2, 3])


def form_of(config: pytest.Config) -> Form:
    return LONG if config.getoption("--long") else SHORT


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", form_of(metafunc.config).seeds)


@pytest.fixture
def form(pytestconfig: pytest.Config) -> Form:
    return form_of(pytestconfig)


@pytest.fixture
def report(
    request: pytest.FixtureRequest, form: Form, capsys: pytest.CaptureFixture[str]
) -> Callable[[object], None]:
    """Print the figures of a run: in the long form always, in the short one if it fails."""

    def tell(figures: object) -> None:
        line = f"{request.node.name}: {figures}"
        if form is LONG:
            with capsys.disabled():
                print(f"\n{line}")
        else:
            print(line)

    return tell


@pytest.fixture
def ground(dialect: str, form: Form, request: pytest.FixtureRequest) -> Iterator["Ground"]:
    """A database to kill workers on; in the long form the server of it can be crashed."""
    if dialect == "sqlite" or form is SHORT:
        yield Ground(request.getfixturevalue("db"), None)
        return
    try:
        with server() as own:
            db = own.new_database()
            database.configure(db.url)
            migrations.upgrade()
            yield Ground(db, own.crash)
    except NoPostgresError as error:
        not_run("server crashes", str(error))


@dataclass(frozen=True)
class Ground:
    db: Database
    crash: Callable[[], None] | None


def test_what_is_acknowledged_is_kept_and_whole_whoever_is_killed(
    ground: Ground, form: Form, seed: int, report: Callable[[object], None]
) -> None:
    killing = kill(ground.db, seconds=form.seconds, least=150, seed=seed, crash=ground.crash)
    report(killing)

    assert killing.kills > 0
    assert killing.reads > 0
    assert killing.findings == []
    assert killing.bad_reads == []
    code, said = verify(ground.db)
    assert code == 0, said


def test_the_uses_of_a_code_are_given_out_to_the_last_and_no_further(
    db: Database, form: Form, seed: int, report: Callable[[object], None]
) -> None:
    redeeming = redeem(db, seed, attempts=form.attempts, max_uses=form.max_uses)
    report(redeeming)

    assert redeeming.live == redeeming.counted == redeeming.acknowledged == form.max_uses
    assert redeeming.findings == []
    assert set(redeeming.refusals) == {Code.USED_UP, Code.ACCOUNT_LIMIT}


def test_a_key_is_executed_once_and_every_answer_about_it_is_right(
    db: Database, form: Form, seed: int, report: Callable[[object], None]
) -> None:
    keying = use_keys(db, seed, keys=form.keys)
    report(keying)

    assert keying.executions == form.keys
    assert keying.findings == []
    assert set(keying.refusals) == {Code.KEY_REUSED}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_broken_way_is_found_out(
    broken: Broken, db: Database, seed: int, report: Callable[[object], None]
) -> None:
    findings = broken.findings(db, seed)
    report(f"{len(findings)} findings, {findings[:1]}")

    assert broken.symptom in {finding.kind for finding in findings}


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_what_is_changed_behind_everybodys_back_is_found(
    db: Database, tmp_path: Path, seed: int
) -> None:
    calls = work_alone(seed, 300)
    db.run(*(f"DROP TRIGGER {name}" for [name] in db.rows(TRIGGERS)))

    assert {call.verb for call in calls if call.outcome is Outcome.DONE} == set(OPERATIONS)
    assert audit(db, calls) == []
    for kind, tampering in TAMPERINGS:
        changed = db.copy(tmp_path / "changed.db")
        changed.run(*tampering)
        assert kind in {finding.kind for finding in audit(changed, calls)}, tampering


def work_alone(seed: int, calls: int) -> list[Call]:
    """Do what one worker would, without anybody in its way."""
    world = new_world()
    made = [outcome_of(OPERATIONS[gift.verb], gift) for gift in first_calls(world)]
    chooser = Chooser(1, seed, world, MIX)
    pending = {"account": 1, "type": "top_up", "cents": 900, "code": None}
    chosen = (chooser.choose() for _ in range(calls))
    for call in chain(chosen, [Call("last", "order", pending)]):
        made.append(outcome_of(OPERATIONS[call.verb], call))
    database.close()
    return made


TRIGGERS = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
LAST_LINE = (
    f"id = (SELECT max(id) FROM transactions WHERE order_id IS NULL AND account_id <= {CUSTOMERS}"
    " AND id NOT IN (SELECT transaction_id FROM sms_charges))"
)
LAST_CHARGE = "id = (SELECT max(id) FROM sms_charges WHERE gives_back_id IS NULL)"
LAST_GIVEN = "id = (SELECT max(id) FROM sms_charges WHERE gives_back_id > 0)"
LAST_CREDIT = "id = (SELECT max(id) FROM transactions WHERE order_id > 0 AND amount_cents > 0)"
LAST_PENDING = "id = (SELECT max(id) FROM orders WHERE status = 'pending')"
LAST_REFUND = "id = (SELECT max(id) FROM order_refunds WHERE transaction_id > 0)"
LAST_USE = "id = (SELECT max(id) FROM discount_redemptions WHERE status = 'redeemed')"
ANOTHER_USE = """
    INSERT INTO discount_redemptions (discount_code_id, reduction_cents, status, created_at)
    VALUES (1, 0, 'redeemed', '2026-11-23T08:13:00.000000Z')
"""
ONE_MORE = "UPDATE discount_codes SET current_uses = current_uses + 1 WHERE id = 1"
TAMPERINGS = [
    (Kind.LOST, [f"DELETE FROM transactions WHERE {LAST_LINE}"]),
    (Kind.LOST, [f"DELETE FROM order_refunds WHERE {LAST_REFUND}"]),
    (Kind.LOST, [f"DELETE FROM sms_charges WHERE {LAST_GIVEN}"]),
    (Kind.PHANTOM, [f"UPDATE transactions SET description = 'x' WHERE {LAST_LINE}"]),
    (Kind.PHANTOM, [f"UPDATE orders SET status = 'failed' WHERE {LAST_PENDING}"]),
    (Kind.PHANTOM, [ANOTHER_USE, ONE_MORE]),
    (Kind.HALF, [f"UPDATE orders SET status = 'completed' WHERE {LAST_PENDING}"]),
    (Kind.HALF, [f"DELETE FROM transactions WHERE {LAST_CREDIT}"]),
    (Kind.HALF, [f"UPDATE discount_redemptions SET status = 'released' WHERE {LAST_USE}"]),
    (Kind.PHANTOM, [f"DELETE FROM sms_charges WHERE {LAST_CHARGE}"]),
    (Kind.PHANTOM, [f"UPDATE sms_charges SET gives_back_id = 1 WHERE {LAST_GIVEN}"]),
    (
        Kind.HALF,
        ["UPDATE account_balances SET subcent_micros = 9999 - subcent_micros WHERE id = 1"],
    ),
    (Kind.HALF, [ONE_MORE]),
    (Kind.HALF, ["UPDATE account_balances SET balance_cents = balance_cents + 1 WHERE id = 1"]),
    (Kind.WRONG, [f"UPDATE transactions SET amount_cents = amount_cents + 1 WHERE {LAST_LINE}"]),
    (Kind.WRONG, [f"UPDATE order_refunds SET claw_back_cents = 99999 WHERE {LAST_REFUND}"]),
    (Kind.WRONG, [f"UPDATE sms_charges SET subcent_after_micros = 1 WHERE {LAST_CHARGE}"]),
    (Kind.WRONG, [f"UPDATE sms_charges SET country_code = 'CA' WHERE {LAST_CHARGE}"]),
    (
        Kind.WRONG,
        [f"UPDATE sms_charges SET rate_micros = 1, cost_micros = segments WHERE {LAST_CHARGE}"],
    ),
    (
        Kind.WRONG,
        [f"UPDATE sms_charges SET segments = 9, cost_micros = 9 * rate_micros WHERE {LAST_GIVEN}"],
    ),
]


def test_a_replica_has_what_its_primary_acknowledged(
    form: Form, report: Callable[[object], None]
) -> None:
    if form is SHORT:
        not_run("failover", "it belongs to the long form")
    try:
        failover = fail_over()
    except NoPostgresError as error:
        not_run("failover", str(error))
    report(failover)

    assert failover.findings == []
