"""Where the connection dies at the commit: it is done once, or nobody can say, and that is said."""

import shlex
import signal
from typing import Any

import pytest
from command_line import tbpay
from databases import Database
from probes import dump, rows
from proxy import Moment, Proxy
from test_streams import AT_THE_COMMIT, hit

from tbpay.database import beginning
from tbpay.errors import Code

# A file is written by this process itself: there is no connection that could die.
pytestmark = pytest.mark.parametrize("dialect", ["postgresql"])

# Each finds out by its key or by the state of things whether it is done already.
REPEATABLE = {
    "balance credit 1 --amount 5 --reason x": "SELECT count(*) FROM transactions",
    "balance debit 1 --amount 5 --reason x": "SELECT count(*) FROM transactions",
    "order create 1 --type top_up --amount 5": "SELECT count(*) FROM orders",
    "order refund 1 --amount 5 --yes": "SELECT count(*) FROM order_refunds",
    "order fail 2": "SELECT count(*) FROM orders WHERE status = 'failed'",
    "order fail 2 4 --yes": "SELECT (count(*) - 1) / 2 FROM orders WHERE status = 'failed'",
    "discount deactivate LAUNCH10": "SELECT count(*) FROM discount_codes WHERE NOT active",
    "discount update LAUNCH10 --max-uses 7": "SELECT count(*) FROM discount_codes"
    " WHERE max_uses = 7",
}
NOT_REPEATABLE = {
    "account create --email new@example.org": "SELECT count(*) FROM accounts",
    "discount create NEW10 --percent 10": "SELECT count(*) FROM discount_codes",
}

every_moment = pytest.mark.parametrize("moment", ["before", "after"])


def counted(db: Database, sql: str) -> tuple[Any, Any]:
    """How many of what a command makes there are, and how many audit rows."""
    [(made,)], [(audited,)] = rows(db, sql), rows(db, "SELECT count(*) FROM audit_log")
    return made, audited


@every_moment
@pytest.mark.parametrize("words", REPEATABLE)
def test_a_change_whose_connection_dies_in_the_commit_is_made_once_and_said_to_be_made(
    words: str, moment: Moment, shop: Database
) -> None:
    made, audited = counted(shop, REPEATABLE[words])

    with Proxy(shop.url, moment) as proxy:
        answer = tbpay(f"{words} --json --database", proxy.url)

    assert (answer.code, proxy.left) == (0, 0)
    assert answer.json.get("replayed", False) is False
    assert "nothing was changed" not in answer.err
    assert counted(shop, REPEATABLE[words]) == (made + 1, audited + 1)


@every_moment
@pytest.mark.parametrize("words", REPEATABLE)
def test_a_change_that_nobody_can_ask_about_is_made_once_by_the_command_in_the_hint(
    words: str, moment: Moment, shop: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beginning, "BUSY_SECONDS", 0.2)
    before = counted(shop, REPEATABLE[words])
    made, audited = before

    with Proxy(shop.url, moment, for_good=True) as proxy:
        monkeypatch.setenv("TBPAY_DATABASE_URL", proxy.url)
        unknown = tbpay(f"{words} --json")
    monkeypatch.setenv("TBPAY_DATABASE_URL", shop.url)

    assert (unknown.code, unknown.out) == (10, "")
    assert unknown.error["code"] == Code.OUTCOME_UNKNOWN
    assert unknown.error["message"].endswith(
        " was lost while it committed: whether the change was kept is not known"
    )
    is_kept = moment == "after"
    assert counted(shop, REPEATABLE[words]) == (made + is_kept, audited + is_kept)

    repeated = tbpay(unknown.error["hint"].removeprefix("tbpay "))

    assert repeated.code == 0
    assert ("nothing was changed" in repeated.err) == is_kept
    assert counted(shop, REPEATABLE[words]) == (made + 1, audited + 1)


@every_moment
@pytest.mark.parametrize("words", NOT_REPEATABLE)
def test_what_cannot_be_repeated_points_to_the_audit_log(
    words: str, moment: Moment, shop: Database
) -> None:
    made, audited = counted(shop, NOT_REPEATABLE[words])

    with Proxy(shop.url, moment) as proxy:
        unknown = tbpay(f"{words} --json --database", proxy.url)

        assert (unknown.code, unknown.out) == (10, "")
        looks = tbpay(unknown.error["hint"].removeprefix("tbpay ") + " --json")

    is_kept = moment == "after"
    assert counted(shop, NOT_REPEATABLE[words]) == (made + is_kept, audited + is_kept)
    assert looks.items[0]["action"] == (
        " ".join(words.split()[:2]) if is_kept else "order complete"
    )


def test_the_repetition_names_the_key_and_the_database_wherever_it_was_named(
    shop: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beginning, "BUSY_SECONDS", 0.2)
    words = "balance credit 1 --amount 5 --reason 'a \"reason\"; of $5'"
    for given in (
        "--database {url} {words}",
        "{words} --database {url}",
        "{words} --key 'a key of mine' --database={url}",
    ):
        with Proxy(shop.url, "before", for_good=True) as proxy:
            unknown = tbpay(given.format(url=proxy.url, words=words))

        assert unknown.code == 10
        *_, hint = unknown.err.splitlines()
        spelled = shlex.split(hint.removeprefix("hint: "))
        assert spelled[:3] == ["tbpay", "balance", "credit"]
        assert spelled[spelled.index("--key") + 1] == (
            "a key of mine" if "mine" in given else unknown.err.splitlines()[0].split()[-1]
        )
        assert spelled.count("--key") == 1
        assert proxy.url in (each.removeprefix("--database=") for each in spelled)
        assert spelled[spelled.index("--reason") + 1] == 'a "reason"; of $5'


@every_moment
def test_a_signal_does_not_hide_that_nobody_knows_the_outcome(
    moment: Moment, shop: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = "import tbpay.database.beginning; tbpay.database.beginning.BUSY_SECONDS = 0.2\n"
    with Proxy(shop.url, moment, for_good=True) as proxy:
        monkeypatch.setenv("TBPAY_DATABASE_URL", proxy.url)

        done = hit(hurried + AT_THE_COMMIT, signal.SIGINT, "order fail 2")

    assert (done.returncode, done.stdout) == (10, "")
    assert done.stderr.splitlines()[1:] == ["hint: tbpay order fail 2"]


def test_a_dry_run_never_commits(shop: Database) -> None:
    before = dump(shop)

    with Proxy(shop.url, "before", for_good=True) as proxy:
        answer = tbpay("balance debit 1 --amount 5 --reason x --dry-run --database", proxy.url)

    assert (answer.code, proxy.left) == (0, 1)
    assert dump(shop) == before
