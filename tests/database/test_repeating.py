"""What PostgreSQL may ask to be done again, and what is known of a commit that nobody answered."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from databases import DIALECTS, Database, furnished
from probes import kept_cents, refused, rows, run, together, unbalanced
from proxy import Moment, Proxy

from tbpay import database
from tbpay.database import atomically, beginning, snapshot, unit_of_work
from tbpay.errors import Code, OutcomeUnknownError, RefusedError, SchemaError, UnavailableError
from tbpay.stores import balance_store


@pytest.fixture
def kind() -> str:
    return "postgresql"


@pytest.fixture
def dialect(kind: str) -> str:
    return DIALECTS[kind]


@pytest.fixture
def db(db: Database, kind: str) -> Database:
    return furnished(db, kind)


@pytest.fixture
def strict(db: Database) -> Database:
    """A database whose units are to be as if they ran one after the other."""
    [(name,)] = rows(db, "SELECT current_database()")
    run(db, f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    database.close()
    return db


# units that collide


def count_and_add(times: list[int]) -> int:
    """Add a message that says how many there are: two who do it at once cannot both be right."""
    connection = database.connection()
    there = connection.execute(sa.text("SELECT count(*) FROM messages")).scalar_one()
    times.append(there)
    connection.execute(sa.text("INSERT INTO messages VALUES (:there)"), {"there": str(there)})
    return int(there)


@pytest.fixture
def meanwhile(strict: Database) -> Callable[[], None]:
    """Somebody else, who does the same and is first."""

    def add() -> None:
        with strict.another() as other, other.transaction():
            [[there]] = other.execute("SELECT count(*) FROM messages").fetchall()
            other.execute(f"INSERT INTO messages VALUES ('{there}')")

    return add


def test_a_unit_that_collides_is_done_again(
    strict: Database, meanwhile: Callable[[], None]
) -> None:
    times: list[int] = []

    def work() -> int:
        answer = count_and_add(times)
        if len(times) < 3:
            meanwhile()
        return answer

    assert atomically(work) == 2
    assert times == [0, 1, 2]
    assert rows(strict, "SELECT text FROM messages ORDER BY 1") == [("0",), ("1",), ("2",)]


@pytest.mark.usefixtures("strict")
def test_a_unit_that_goes_on_colliding_ends_when_the_time_is_up(
    meanwhile: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beginning, "BUSY_SECONDS", 1)  # more than one time takes
    times: list[int] = []

    def work() -> None:
        count_and_add(times)
        meanwhile()

    with pytest.raises(UnavailableError, match="is busy: others changed") as refusal:
        atomically(work)

    assert refusal.value.code is Code.BUSY
    assert len(times) > 1


@pytest.mark.usefixtures("strict")
def test_a_block_cannot_be_done_again_and_says_so(meanwhile: Callable[[], None]) -> None:
    times: list[int] = []

    def count_and_add_in_a_block() -> None:
        with unit_of_work():
            count_and_add(times)
            meanwhile()

    with pytest.raises(UnavailableError) as refusal:
        count_and_add_in_a_block()

    assert refusal.value.code is Code.BUSY
    assert times == [0]


@pytest.mark.usefixtures("strict")
def test_inside_a_unit_nothing_is_done_again(meanwhile: Callable[[], None]) -> None:
    inner: list[int] = []
    outer: list[int] = []

    def work() -> None:
        outer.append(len(inner))
        atomically(lambda: count_and_add(inner))
        if len(outer) < 2:
            meanwhile()

    atomically(work)

    assert outer == [0, 1]
    assert inner == [0, 1]


@pytest.mark.usefixtures("strict")
def test_an_applications_transaction_is_not_done_again(
    strict: Database, rich: int, meanwhile: Callable[[], None]
) -> None:
    times: list[int] = []
    engine = strict.engine()
    with engine.connect() as connection:
        with unit_of_work(connection):
            balance_store.deduct(rich, 1, "one")
            atomically(lambda: count_and_add(times))
        meanwhile()
        with pytest.raises(sa.exc.OperationalError, match="could not serialize"):
            connection.commit()
    engine.dispose()

    assert times == [0]
    assert kept_cents(strict, rich) == 1_000


def test_a_refusal_is_not_done_again(strict: Database, rich: int) -> None:
    times: list[int] = []

    def work() -> None:
        times.append(1)
        balance_store.deduct(rich, 1_001, "too much")

    with refused(strict, RefusedError, Code.INSUFFICIENT_BALANCE):
        atomically(work)
    assert times == [1]


def test_units_that_collide_lose_nothing(strict: Database, rich: int) -> None:
    def spend(_: int) -> None:
        for _ in range(25):
            balance_store.deduct(rich, 1, "one")

    together(spend)

    assert kept_cents(strict, rich) == 800
    assert unbalanced(strict) == []


def test_of_two_units_that_wait_for_each_other_one_is_done_again(db: Database) -> None:
    [(name,)] = rows(db, "SELECT current_database()")
    run(
        db,
        f"ALTER DATABASE {name} SET deadlock_timeout = '20ms'",
        "INSERT INTO messages VALUES ('a'), ('b')",
        "ALTER TABLE messages ADD times INTEGER NOT NULL DEFAULT 0",
    )
    both_hold_one = threading.Barrier(2)
    runs: list[str] = []

    def work(first: str, second: str) -> None:
        runs.append(first)
        touch(first)
        if runs.count(first) == 1:
            both_hold_one.wait(30)
        touch(second)

    threads = [
        threading.Thread(target=partial(atomically, partial(work, *words)))
        for words in ("ab", "ba")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert rows(db, "SELECT text, times FROM messages ORDER BY 1") == [("a", 2), ("b", 2)]
    assert len(runs) > 2


def touch(text: str) -> None:
    changed = sa.text("UPDATE messages SET times = times + 1 WHERE text = :text")
    database.connection().execute(changed, {"text": text})


# a line that is cut in a commit


@pytest.fixture
def through(db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Proxy]]:
    """Lead tbpay's connections through a line that can be cut."""
    lines: list[Proxy] = []

    def lead(*cuts: Moment, for_good: bool = False) -> Proxy:
        line = Proxy(db.url, *cuts, for_good=for_good)
        lines.append(line.__enter__())
        monkeypatch.setenv("TBPAY_DATABASE_URL", line.url)
        return line

    yield lead
    database.close()
    for line in lines:
        line.__exit__(None, None, None)


BOTH_CUTS = pytest.mark.parametrize(
    ("cut", "kept"), [("before", []), ("after", [("once",)])], ids=str
)


def say_once() -> str:
    """Add a message unless it is there: what may be done again, and is done once."""
    connection = database.connection()
    said = sa.text("SELECT 1 FROM messages WHERE text = 'once'")
    if connection.execute(said).first() is not None:
        return "said before"
    connection.execute(sa.text("INSERT INTO messages VALUES ('once')"))
    return "said now"


def say_once_in_a_block() -> None:
    with unit_of_work():
        say_once()


def say_once_alone() -> None:
    atomically(say_once)


@pytest.mark.parametrize(
    ("cut", "answer"), [("before", "said now"), ("after", "said before")], ids=str
)
def test_what_may_be_done_again_is_done_once_whatever_became_of_the_commit(
    db: Database, through: Callable[..., Proxy], cut: Moment, answer: str
) -> None:
    line = through(cut)

    assert atomically(say_once, repeatable=True) == answer

    assert line.left == 0
    assert rows(db, "SELECT text FROM messages") == [("once",)]


def test_it_is_done_again_as_often_as_the_line_is_cut(
    db: Database, through: Callable[..., Proxy]
) -> None:
    line = through("before", "before", "after")

    assert atomically(say_once, repeatable=True) == "said before"

    assert line.left == 0
    assert rows(db, "SELECT text FROM messages") == [("once",)]


@BOTH_CUTS
@pytest.mark.parametrize("door", [say_once_alone, say_once_in_a_block])
def test_of_what_may_not_be_done_again_the_outcome_is_not_known(
    db: Database,
    through: Callable[..., Proxy],
    cut: Moment,
    kept: list[Any],
    door: Callable[[], object],
) -> None:
    line = through(cut)

    with pytest.raises(OutcomeUnknownError) as unknown:
        door()

    assert unknown.value.code is Code.OUTCOME_UNKNOWN
    assert unknown.value.message == (
        f"the connection to {database.location()} was lost while it committed:"
        " whether the change was kept is not known"
    )
    assert line.left == 0
    assert rows(db, "SELECT text FROM messages") == kept
    # The next unit has a new connection.
    atomically(say_once)


@pytest.mark.usefixtures("hurried")
@BOTH_CUTS
def test_where_the_server_does_not_come_back_the_outcome_is_not_known(
    db: Database, through: Callable[..., Proxy], cut: Moment, kept: list[Any]
) -> None:
    through(cut, for_good=True)

    with pytest.raises(OutcomeUnknownError):
        atomically(say_once, repeatable=True)

    assert rows(db, "SELECT text FROM messages") == kept


def test_where_the_tables_were_changed_meanwhile_the_outcome_is_not_known(
    db: Database, through: Callable[..., Proxy]
) -> None:
    line = through("after")
    times: list[int] = []

    def work() -> None:
        times.append(1)
        say_once()
        run(db, "UPDATE tbpay_alembic_version SET version_num = '9999'")

    with pytest.raises(OutcomeUnknownError):
        atomically(work, repeatable=True)

    assert times == [1]
    # What is so now will be so at the next look.
    assert sum(b"BEGIN" in said for said in line.asked) == 2
    with pytest.raises(SchemaError):
        atomically(say_once)


def test_what_is_refused_when_it_is_done_again_was_not_done(
    db: Database, rich: int, through: Callable[..., Proxy]
) -> None:
    through("before")
    times: list[int] = []

    def work() -> None:
        times.append(1)
        if rows(db, "SELECT * FROM messages"):
            raise RefusedError("somebody was quicker")
        balance_store.deduct(rich, 1_000, "all of it")
        run(db, "INSERT INTO messages VALUES ('quicker')")

    with pytest.raises(RefusedError, match="somebody was quicker"):
        atomically(work, repeatable=True)

    assert len(times) == 2
    assert kept_cents(db, rich) == 1_000


@pytest.mark.usefixtures("db")
def test_what_only_reads_has_no_outcome_that_could_be_unknown(
    through: Callable[..., Proxy],
) -> None:
    line = through("after")

    with pytest.raises(UnavailableError) as refusal, snapshot():
        pass

    assert refusal.value.code is Code.UNREACHABLE
    assert line.left == 0


def test_a_line_that_is_cut_before_the_commit_changes_nothing(db: Database, rich: int) -> None:
    def work() -> None:
        balance_store.deduct(rich, 1, "one")
        me = database.connection().execute(sa.text("SELECT pg_backend_pid()")).scalar()
        run(db, f"SELECT pg_terminate_backend({me})")
        balance_store.deduct(rich, 1, "two")

    with refused(db, UnavailableError, Code.UNREACHABLE):
        atomically(work, repeatable=True)

    assert balance_store.deduct(rich, 3, "three").balance_after_cents == 997


def test_a_line_that_was_cut_while_nobody_used_it_is_not_noticed(db: Database, rich: int) -> None:
    for _ in range(2):
        balance_store.deduct(rich, 1, "one")
        run(
            db,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'tbpay' AND datname = current_database()",
        )
        assert balance_store.get_balance(rich) >= 998

    assert kept_cents(db, rich) == 998
