"""``tbpay db``: make the database, bring it up to date, take it back, tell where it stands."""

import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from command_line import shell, tbpay
from conftest import run_tbpay
from databases import Database
from probes import dump, rows, run
from webapp import FEW_ACCOUNTS, FOUR, empty, make, make_with_four

from tbpay import database
from tbpay.errors import Code
from tbpay.migrations import HEAD
from tbpay.schema import METADATA, REVISIONS


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database that is not there yet, named by TBPAY_DATABASE_URL."""
    path = tmp_path / "new.db"
    monkeypatch.setenv("TBPAY_DATABASE_URL", str(path))
    return path


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """An empty database on a server, named by TBPAY_DATABASE_URL."""
    with empty("postgresql", tmp_path) as there:
        database.reset()
        monkeypatch.setenv("TBPAY_DATABASE_URL", there.url)
        yield there


# Upgrade


def test_the_first_upgrade_makes_the_file_and_says_what_it_made(new: Path) -> None:
    answer = tbpay("db upgrade --json")

    assert answer.code == 0
    assert answer.json["database"] == str(new)
    assert answer.json["source"] == "TBPAY_DATABASE_URL"
    assert answer.json["revision"] == HEAD
    assert [step["revision"] for step in answer.json["steps"]] == [*REVISIONS]
    assert {table["table"] for table in answer.json["tables"]} == METADATA.tables.keys()
    assert {(table["how"], table["rows"]) for table in answer.json["tables"]} == {("created", 0)}
    assert answer.json["backup"] is None
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert rows(new, "PRAGMA journal_mode") == [("wal",)]


def test_people_read_where_it_was_and_what_was_done(new: Path) -> None:
    answer = tbpay("db upgrade")

    assert f"database  {new} (TBPAY_DATABASE_URL)\n" in answer.out
    assert "steps     0001 the web application's accounts; 0002 orders, balances," in answer.out
    assert "created   accounts, discount_codes" in answer.out
    assert "backup    -\n" in answer.out
    assert answer.err == "note: to undo: tbpay db downgrade base\n"


def test_an_upgrade_of_a_server_says_nothing_of_a_file_or_a_backup(server: Database) -> None:
    make(server, *FEW_ACCOUNTS)

    answer = tbpay("db upgrade")
    again = tbpay("db upgrade --json")

    assert f"database  {server} (TBPAY_DATABASE_URL)\n" in answer.out
    assert "adopted   accounts (2 rows)\n" in answer.out
    assert answer.err == "note: to undo: tbpay db downgrade base\n"
    assert "backup" not in answer.out
    assert (again.code, again.err, again.json["backup"]) == (0, "", None)
    assert (again.json["steps"], again.json["tables"]) == ([], [])


def test_the_second_upgrade_has_nothing_to_do(new: Path) -> None:
    tbpay("db upgrade")
    before = dump(new)

    answer = tbpay("db upgrade --json")

    assert (answer.code, answer.err) == (0, "")
    assert (answer.json["steps"], answer.json["tables"]) == ([], [])
    assert answer.json["backup"] is None
    assert dump(new) == before


def test_an_upgrade_takes_over_the_applications_accounts_and_says_how_many(new: Path) -> None:
    with closing(sqlite3.connect(new)) as connection, connection:
        connection.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, email TEXT)")
        connection.execute("INSERT INTO accounts (email) VALUES ('ann@example.org')")

    answer = tbpay("db upgrade --json")

    assert {"table": "accounts", "how": "adopted", "rows": 1} in answer.json["tables"]
    assert Path(answer.json["backup"]).is_file()
    assert tbpay("account list --json").items[0]["email"] == "ann@example.org"


@pytest.mark.usefixtures("new")
def test_an_upgrade_can_stop_on_the_way() -> None:
    assert tbpay("db upgrade 0002 --json").json["revision"] == "0002"
    assert tbpay("order list --json").error["code"] == Code.SCHEMA_BEHIND
    assert tbpay("db upgrade --json").json["revision"] == HEAD


def test_a_script_for_a_server_is_in_its_own_language(server: Database) -> None:
    answer = tbpay("db upgrade --sql")

    assert answer.code == 0
    assert f"{server} (TBPAY_DATABASE_URL)" in answer.err
    assert "id BIGSERIAL NOT NULL" in answer.out
    assert tbpay("db status --json").json["revision"] is None
    make(server, answer.out)
    assert tbpay("db check").code == 0


def test_a_script_is_printed_and_nothing_is_run(new: Path) -> None:
    answer = tbpay("db upgrade --sql")

    assert answer.code == 0
    assert f"{new} (TBPAY_DATABASE_URL)" in answer.err
    assert "CREATE TABLE orders" in answer.out
    assert not new.exists()
    with closing(sqlite3.connect(new)) as connection:
        connection.executescript(answer.out)
    assert tbpay("db check").code == 0


def test_a_script_for_the_way_down_is_printed_and_nothing_is_run(shop: Database) -> None:
    before = dump(shop)

    answer = tbpay("db downgrade base --sql")

    assert answer.code == 0
    assert f"{shop} (TBPAY_DATABASE_URL)" in answer.err
    assert "DROP TABLE orders" in answer.out
    assert dump(shop) == before


@pytest.mark.parametrize("revision", ["9999", "3", "heads", "-1", "+1", "", "0003@head", "base"])
def test_a_revision_that_is_none_is_bad_input(revision: str, new: Path) -> None:
    for words in ("db upgrade --json --", "db upgrade --"):
        answer = tbpay(words, revision)
        assert (answer.code, answer.out) == (2, "")
    assert not new.exists()


def test_the_default_is_made_in_the_users_own_directory(tmp_path: Path) -> None:
    made = run_tbpay("db", "upgrade", env={"XDG_DATA_HOME": str(tmp_path / "own")})

    path = tmp_path / "own" / "tbpay" / "tbpay.db"
    assert made.returncode == 0
    assert f"database  {path} (the default; TBPAY_DATABASE_URL is not set)\n" in made.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.usefixtures("new")
def test_two_upgrades_at_once_both_end_well() -> None:
    done = shell("$tbpay db upgrade & $tbpay db upgrade; second=$?; wait $!; echo $second $?")

    assert done.out.splitlines()[-1] == "0 0"
    assert "Traceback" not in done.err
    assert tbpay("db status --json").json["pending"] == []


# Downgrade


def test_a_downgrade_backs_a_file_up_and_keeps_the_accounts(shop: Database) -> None:
    answer = tbpay("db downgrade base --confirm base --json")

    assert answer.code == 0
    assert answer.json["revision"] is None
    assert [step["revision"] for step in answer.json["steps"]] == [*reversed(REVISIONS)]
    people = rows(shop, "SELECT email FROM accounts ORDER BY id")
    assert people == [("ann@example.org",), ("bob@example.org",)]
    if shop.dialect == "sqlite":
        assert rows(Path(answer.json["backup"]), "SELECT count(*) FROM orders") == [(4,)]
    else:
        assert answer.json["backup"] is None
    assert tbpay("order list --json").error["code"] == Code.SCHEMA_MISSING


def test_an_upgrade_is_undone_by_the_command_that_it_names(new: Path) -> None:
    said = tbpay(f"db upgrade --database {new}").err.splitlines()[-1]
    assert said == f"note: to undo: tbpay db downgrade base --database {new}"

    undone = tbpay(said.removeprefix("note: to undo: tbpay ") + " --confirm base --json")

    assert (undone.code, undone.json["revision"]) == (0, None)


# Status and check


def test_the_status_of_what_is_not_there_is_an_answer(new: Path) -> None:
    answer = tbpay("db status --json")

    assert (answer.code, answer.err) == (0, "")
    assert answer.json["revision"] is None
    assert answer.json["head"] == HEAD
    assert [step["revision"] for step in answer.json["pending"]] == [*REVISIONS]
    assert all(step["title"] for step in answer.json["pending"])
    assert answer.json["size_bytes"] is None
    assert not new.exists()


def test_the_status_of_an_old_and_of_a_new_database(new: Path) -> None:
    tbpay("db upgrade 0002")
    old = tbpay("db status --json").json
    old_for_people = tbpay("db status").out
    tbpay("db upgrade")
    up_to_date = tbpay("db status --json").json

    assert old["revision"] == "0002"
    assert [step["revision"] for step in old["pending"]] == [*REVISIONS[2:]]
    assert "revision    0002 orders, balances, transactions, discount codes\n" in old_for_people
    assert "pending     0003 audit log of the command line; 0004 guards of" in old_for_people
    assert (up_to_date["revision"], up_to_date["pending"]) == (HEAD, [])
    assert up_to_date["title"]
    assert up_to_date["size_bytes"] == new.stat().st_size
    assert up_to_date["source"] == "TBPAY_DATABASE_URL"


def test_the_status_of_a_server_is_that_of_its_database(server: Database) -> None:
    before = tbpay("db status --json")
    tbpay("db upgrade")
    after = tbpay("db status")

    assert (before.code, before.err, before.json["revision"]) == (0, "", None)
    assert before.json["database"] == str(server)
    assert f"database    {server} (TBPAY_DATABASE_URL)\n" in after.out
    assert re.search(r"^size bytes  [1-9][0-9]{6,}$", after.out, re.MULTILINE)


def test_a_database_from_the_future_is_refused(shop: Database) -> None:
    run(shop, "UPDATE tbpay_alembic_version SET version_num = '9999'")
    before = dump(shop)

    for words in ("db upgrade", "db downgrade base", "db status", "db check", "db upgrade --sql"):
        answer = tbpay(words)
        assert (answer.code, answer.out) == (7, ""), words
        assert f"{shop} (TBPAY_DATABASE_URL) is at revision 9999" in answer.err
    assert dump(shop) == before


def test_a_check_names_what_differs(shop: Database) -> None:
    same = tbpay("db check")
    assert tbpay("db check --json").json == {"items": [], "next": None}
    assert f"{shop} (TBPAY_DATABASE_URL)" in same.err
    assert same.err.endswith("note: no differences\n")

    run(shop, "DROP INDEX ix_orders_account_id", "ALTER TABLE audit_log ADD COLUMN more TEXT")

    found = tbpay("db check")
    assert found.code == 8
    assert "index ix_orders_account_id is missing" in found.out
    assert "column more is not expected" in found.out
    assert f"{shop} (TBPAY_DATABASE_URL)" in found.err
    assert "no differences" not in found.err
    assert tbpay("db check -o csv").out.startswith("table,difference\n")


def test_no_db_command_writes_an_audit_row(shop: Database) -> None:
    before = rows(shop, "SELECT count(*) FROM audit_log")

    for words in ("db upgrade", "db status", "db check", "db upgrade --sql"):
        assert tbpay(words).code == 0

    assert rows(shop, "SELECT count(*) FROM audit_log") == before


def test_no_command_is_said_to_undo_the_taking_over_of_rows(new: Path) -> None:
    make_with_four(new)

    taken = tbpay("db upgrade")

    assert "to undo" not in taken.err
    assert taken.err.startswith("note: no command undoes this: a downgrade would drop the rows;")
    assert "orders (" in taken.out
    asked = tbpay("db downgrade base")
    assert asked.code == 9
    assert "which drops" in asked.err
    assert "orders (" in asked.err


def test_no_backup_is_named_where_none_was_made(server: Database, new: Path) -> None:
    make_with_four(server)
    no_rows = make_with_four(new, *(f"DELETE FROM {table}" for table in reversed(FOUR)))
    run(no_rows, "DELETE FROM accounts")

    for where in (server.url, str(no_rows)):
        taken = tbpay(f"db upgrade --database {where}")
        assert taken.code == 0
        assert taken.err == "note: no command undoes this: a downgrade would drop the rows\n"
