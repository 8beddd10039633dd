"""What the two databases are told in different words has to mean the same."""

import pytest
import sqlalchemy as sa
from databases import DIALECTS, Database, furnished
from probes import rows, run

from tbpay.database import contains, insert_if_absent, unit_of_work


@pytest.fixture(params=["wal", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def dialect(kind: str) -> str:
    return DIALECTS[kind]


@pytest.fixture
def db(db: Database, kind: str) -> Database:
    return furnished(db, kind)


MESSAGES = sa.Table("messages", sa.MetaData(), sa.Column("text", sa.String(255), unique=True))

TEXTS = ["Ann", "ANNA", "100 %", "a_b", "axb", "ČÁP", "Straße", "", "back\\slash"]


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("ann", ["Ann", "ANNA"]),
        ("NNA", ["ANNA"]),
        ("%", ["100 %"]),
        ("_", ["a_b"]),
        ("\\", ["back\\slash"]),
        ("\\%", []),
        ("čáp", []),
        ("Čáp", []),
        ("ČÁP", ["ČÁP"]),
        ("ČÁp", ["ČÁP"]),
        ("SS", []),
        ("RASSE", []),
        ("STRAß", ["Straße"]),
        ("STRAẞ", []),
        ("", TEXTS),
        ("nobody", []),
    ],
)
def test_a_part_is_found_in_either_case_of_ascii_and_every_sign_is_itself(
    db: Database, part: str, found: list[str]
) -> None:
    listed = ", ".join(f"('{text}')" for text in TEXTS)
    run(db, f"INSERT INTO messages VALUES {listed}")

    with unit_of_work() as connection:
        asked = sa.select(MESSAGES.c.text).where(contains(MESSAGES.c.text, part))
        assert sorted(connection.execute(asked).scalars()) == sorted(found)


def test_a_row_that_is_there_is_not_inserted_again(db: Database) -> None:
    run(db, "CREATE UNIQUE INDEX once ON messages (text)")

    with unit_of_work() as connection:
        new = insert_if_absent(MESSAGES).returning(MESSAGES.c.text)
        first, second = (connection.execute(new, {"text": "hello"}).all() for _ in range(2))

    assert (first, second) == ([("hello",)], [])
    assert rows(db, "SELECT * FROM messages") == [("hello",)]
