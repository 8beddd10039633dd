"""A schema that is older or newer than a command knows, or becomes so while it waits."""

import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from databases import Database
from faults import CREDIT, SHOW, End, check_refused, command, start
from probes import another, dump, rows, run, wait_until

from tbpay.cli.exits import Exit
from tbpay.database import unit_of_work
from tbpay.errors import SchemaError
from tbpay.schema import REVISIONS
from tbpay.stores import balance_store, discount_code_store, order_store

HEAD = REVISIONS[-1]


@pytest.fixture
def named(shop: Database) -> str:
    return f"{shop} (TBPAY_DATABASE_URL)"


def test_every_older_schema_is_refused_until_it_is_upgraded(shop: Database, named: str) -> None:
    for revision in (*reversed(REVISIONS[:-1]), "base"):
        assert command(f"db downgrade {revision} --confirm {revision}").code == Exit.DONE
        before = dump(shop)
        message = f"{named} is at revision {revision}, this tbpay needs {HEAD}"
        if revision == "base":
            message = f"no tbpay tables in {named}"
        for words in (SHOW, CREDIT):
            check_refused(command(words), Exit.SCHEMA, message, "tbpay db upgrade")
        assert dump(shop) == before

    assert command("db upgrade").code == Exit.DONE
    assert command(CREDIT).code == Exit.DONE


def test_a_newer_schema_is_refused_and_not_touched(shop: Database, named: str) -> None:
    run(shop, "UPDATE tbpay_alembic_version SET version_num = '9999'")
    before = dump(shop)

    for words in (SHOW, CREDIT, "db upgrade", "db downgrade base --confirm base", "db check"):
        message = f"{named} is at revision 9999, which this tbpay does not know: update tbpay"
        check_refused(command(words), Exit.SCHEMA, message)

    assert dump(shop) == before


def test_a_command_that_waits_for_an_upgrade_writes_nothing_after_it(
    shop: Database, named: str
) -> None:
    before = rows(shop, "SELECT * FROM account_balances")
    with another(shop) as upgrade:
        upgrade.execute("BEGIN IMMEDIATE" if shop.dialect == "sqlite" else "BEGIN")
        for statement in NEXT_REVISION[shop.dialect]:
            upgrade.execute(statement)
        waiting = start(CREDIT)
        wait_until(lambda: waits(waiting, shop))
        upgrade.execute("COMMIT")
        out, err = waiting.communicate(timeout=30)

    message = f"{named} is at revision 9999, which this tbpay does not know: update tbpay"
    check_refused(End(waiting.returncode, out, err), Exit.SCHEMA, message)
    assert rows(shop, "SELECT * FROM account_balances") == before


def test_a_worker_that_keeps_its_connection_writes_nothing_after_an_upgrade(
    shop: Database, named: str
) -> None:
    """Whatever the new tables would have taken from it."""
    balance_store.deduct(1, 1, "before the upgrade")
    with shop.engine(poolclass=sa.pool.NullPool).connect() as own:
        with unit_of_work(own):
            balance_store.deduct(1, 1, "before the upgrade")
        own.commit()
        run(shop, "UPDATE tbpay_alembic_version SET version_num = '9999'")
        before = dump(shop)

        for write in (
            lambda: balance_store.deduct(1, 1, "after it"),
            lambda: order_store.create(1, "top_up", 500),
            lambda: discount_code_store.increment_uses("LAUNCH10"),
        ):
            with pytest.raises(SchemaError, match=f"{re.escape(named)} is at revision 9999"):
                write()
            with pytest.raises(SchemaError, match="is at revision 9999"), unit_of_work(own):
                write()
            own.rollback()

        assert dump(shop) == before
        # Somebody goes back, and it goes on.
        run(shop, f"UPDATE tbpay_alembic_version SET version_num = '{HEAD}'")
        assert balance_store.deduct(1, 1, "after that").account_version == 5


def test_a_worker_whose_tables_are_gone_finds_none(shop: Database, named: str) -> None:
    balance_store.deduct(1, 1, "before")
    run(shop, "DROP TABLE tbpay_alembic_version")

    with pytest.raises(SchemaError, match=f"no tbpay tables in {re.escape(named)}"):
        balance_store.deduct(1, 1, "after")


# On a server the version can be read while the tables cannot: there a command is refused by what
# has become of them.
NEXT_REVISION = {
    "sqlite": ["UPDATE tbpay_alembic_version SET version_num = '9999'"],
    "postgresql": [
        "ALTER TABLE transactions ADD COLUMN newer BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE transactions ALTER newer DROP DEFAULT",
        "UPDATE tbpay_alembic_version SET version_num = '9999'",
    ],
}


def waits(process: subprocess.Popen[str], db: Database) -> bool:
    """Tell whether a process has come to where it needs what somebody else holds."""
    if db.dialect == "postgresql":
        waiting = "application_name = 'tbpay' AND wait_event_type = 'Lock'"
        return rows(db, f"SELECT 1 FROM pg_stat_activity WHERE {waiting}") == [(1,)]
    with suppress(FileNotFoundError):  # what was closed meanwhile
        opened = Path(f"/proc/{process.pid}/fd").iterdir()
        return any(str(each.readlink()) == db.url for each in opened)
    return False
