"""A test's database on the server is lent to another test only as it was."""

from pathlib import Path

import postgres
import pytest
from conftest import Templates
from databases import Database
from probes import wait_until


@pytest.fixture
def template(templates: Templates) -> Database:
    return templates.empty("postgresql")


@pytest.mark.parametrize(
    "deed",
    [
        "INSERT INTO accounts DEFAULT VALUES",
        "BEGIN; INSERT INTO accounts DEFAULT VALUES; ROLLBACK",
        "BEGIN; SELECT nextval('accounts_id_seq'); ROLLBACK",
        "CREATE TABLE theirs (id INTEGER)",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET jit = off', current_database()); END $$",
    ],
)
def test_what_was_changed_is_not_lent_again(template: Database, tmp_path: Path, deed: str) -> None:
    lent = template.lend(tmp_path)
    with lent.another() as somebody:
        somebody.execute(deed)
    lent.drop()

    again = template.lend(tmp_path)

    assert again.url != lent.url
    again.drop()


def test_what_is_about_to_be_changed_is_not_lent_again(template: Database, tmp_path: Path) -> None:
    lent = template.lend(tmp_path)
    with lent.another() as somebody:
        somebody.execute("BEGIN")
        somebody.execute("INSERT INTO accounts DEFAULT VALUES")
        lent.drop()

        again = template.lend(tmp_path)

        assert again.url != lent.url
        again.drop()
        somebody.close()


def test_what_was_only_read_is_lent_again(template: Database, tmp_path: Path) -> None:
    lent = template.lend(tmp_path)
    assert lent.rows("SELECT count(*) FROM accounts") == [(0,)]
    lent.drop()
    wait_until(lambda: postgres._sessions(lent.url) == [])

    again = template.lend(tmp_path)

    # On a server that others use too somebody may have changed something meanwhile.
    assert again.url == lent.url or postgres._GIVEN_URL is not None
    assert again.rows("SELECT count(*) FROM accounts") == [(0,)]
    again.drop()
