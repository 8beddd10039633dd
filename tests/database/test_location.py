import os
from pathlib import Path

import pytest
from probes import label

from tbpay import database, migrations, settings
from tbpay.database import File, Server, locate
from tbpay.errors import InvalidInputError
from tbpay.stores import account_store


def path_of(given: str | None = None) -> Path:
    found = locate(given)
    assert isinstance(found, File)
    return found.path


def server_of(given: str) -> Server:
    found = locate(given)
    assert isinstance(found, Server)
    return found


def test_what_is_given_wins_over_the_environment_and_that_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = locate()
    monkeypatch.setenv("TBPAY_DATABASE_URL", "/srv/tbpay.db")

    assert isinstance(default, File)
    assert default.path == tmp_path / "data" / "tbpay" / "tbpay.db"
    assert str(default) == f"{default.path} (the default; TBPAY_DATABASE_URL is not set)"
    assert str(locate()) == "/srv/tbpay.db (TBPAY_DATABASE_URL)"
    assert str(locate("/home/ann/tbpay.db")) == "/home/ann/tbpay.db (configure())"
    settings.choose_database("/home/ann/flag.db")
    assert str(locate()) == "/home/ann/flag.db (--database)"


def test_an_empty_variable_names_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPAY_DATABASE_URL", "")

    assert locate().source == "the default; TBPAY_DATABASE_URL is not set"


def test_to_look_for_a_database_makes_nothing(tmp_path: Path) -> None:
    locate()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/srv/tbpay.db", "/srv/tbpay.db"),
        ("sqlite:////srv/tbpay.db", "/srv/tbpay.db"),
        ("sqlite+pysqlite:////srv/tbpay.db", "/srv/tbpay.db"),
        ("/srv/a b%20c#d.db", "/srv/a b%20c#d.db"),
        ("sqlite:////srv/a%20b.db", "/srv/a%20b.db"),
    ],
)
def test_a_database_is_named_by_its_path_or_its_url(given: str, path: str) -> None:
    assert path_of(given) == Path(path)


@pytest.mark.parametrize("given", ["tbpay.db", "./tbpay.db", "sqlite:///tbpay.db"])
def test_a_relative_name_is_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)

    assert path_of(given) == tmp_path / "tbpay.db"


@pytest.mark.parametrize("given", ["~/tbpay.db", "sqlite:///~/tbpay.db"])
def test_a_tilde_is_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert path_of(given) == tmp_path / "tbpay.db"


@pytest.mark.parametrize(
    "given",
    [
        *["", ":memory:", "a\0b", "sqlite://", "sqlite:///", "sqlite:///:memory:"],
        *["sqlite://tbpay.db", "sqlite://ann:secret@host/tbpay.db", "sqlite:////a.db?mode=memory"],
        *["mysql://ann:secret@host/tbpay", "://", "http://example.org/tbpay.db", "x" * 300 + "://"],
        *["~no-such-user/tbpay.db", "/srv/\ud800.db"],
    ],
    ids=label,
)
def test_what_names_no_database_file_is_refused(given: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        locate(given)

    assert "secret" not in refusal.value.message
    assert refusal.value.message.isprintable()
    assert len(refusal.value.message) < 300


def test_a_relative_name_needs_a_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert path_of("/srv/tbpay.db") == Path("/srv/tbpay.db")
    with pytest.raises(InvalidInputError, match="is not the name of a database file"):
        locate("tbpay.db")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("postgres://ann@db.example.com/tbpay", "postgresql://ann@db.example.com/tbpay"),
        ("postgresql://db:5433/tbpay", "postgresql://db:5433/tbpay"),
        ("postgresql+psycopg://ann:s%40cret@db/tbpay", "postgresql://ann:***@db/tbpay"),
        ("postgresql://ann:se:cr#et%2F@db/tbpay", "postgresql://ann:***@db/tbpay"),
        ("postgresql://ann@db/tbpay?password=secret", "postgresql://ann:***@db/tbpay"),
        (
            "postgresql://db/tbpay?sslpassword=secret&sslmode=require",
            "postgresql://db/tbpay?sslmode=require",
        ),
        ("postgresql://ann@[::1]:5433/tbpay", "postgresql://ann@[::1]:5433/tbpay"),
        (
            "postgresql:///tbpay?host=/run/postgresql",
            "postgresql:///tbpay?host=%2Frun%2Fpostgresql",
        ),
        (
            "postgresql://ann:secret@db1:5433,db2/tbpay?target_session_attrs=read-write",
            "postgresql://ann:***@/tbpay?host=db1%3A5433&host=db2&target_session_attrs=read-write",
        ),
    ],
)
def test_a_server_is_named_by_its_url_without_its_password(given: str, name: str) -> None:
    found = server_of(given)

    assert found.name == name
    assert str(found) == f"{name} (configure())"
    assert "cret" not in f"{found}{found!r}"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("postgres://ann:s%40c%2Fret@db/tbpay", "s@c/ret"),
        ("postgres://ann@db/tbpay?password=s%40cret", "s@cret"),
    ],
)
def test_a_password_is_what_was_meant(given: str, meant: str) -> None:
    assert server_of(given).url.password == meant


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://ann:s@cret@db/tbpay",
        "postgresql://ann:s/cret@db/tbpay",
        "postgresql://ann:cret@s@@db/tbpay",
    ],
)
def test_a_password_with_a_bare_sign_in_it_is_refused_with_how_to_write_it(given: str) -> None:
    with pytest.raises(InvalidInputError, match="write %40 and %2F") as refusal:
        locate(given)

    assert "cret" not in refusal.value.message


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://ann:secret@db:port/tbpay",
        "postgresql://ann:12?secret@db/tbpay",
        "postgresql://ann:secret@db/tb%00pay",
        "postgresql://ann:secret@db/tb\ud800pay",
        "postgresql+psycopg2://ann:secret@db/tbpay",
        "postgresql+asyncpg://ann:secret@db/tbpay",
    ],
    ids=label,
)
def test_what_names_no_server_is_refused(given: str) -> None:
    with pytest.raises(InvalidInputError, match="PostgreSQL") as refusal:
        locate(given)

    assert "secret" not in refusal.value.message
    assert refusal.value.message.isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "a b.db",
        "100%25.db",
        "what?mode=memory.db",
        "a#b&c=d.db",
        "é ü 漢字.db",
        "'quoted\".db",
        "back\\slash.db",
        "new\nline.db",
        os.fsdecode(b"caf\xe9.db"),
        "x" * 200 + ".db",
    ],
    ids=label,
)
def test_a_file_may_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TBPAY_DATABASE_URL", str(tmp_path / name))
    migrations.upgrade()

    assert account_store.create().id == 1
    assert (tmp_path / name).stat().st_size > 0
    assert all(path.name.startswith(name) for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    "given",
    [
        "postgresql:/ann:s3cret@db/shop",
        "postgres:ann:s3cret@db/shop",
        "postgresql+psycopg:/ann:s3cret@db/shop",
        "host=db dbname=shop user=ann password=s3cret",
        "password = s3cret host=db",
    ],
)
def test_what_is_almost_a_server_is_no_file_and_is_not_shown(given: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        locate(given)

    assert refusal.value.message == (
        "a server's database is named by a URL: write it as postgresql://user@host:5432/database"
    )


def test_a_command_works_on_the_same_database() -> None:
    assert locate().command("db upgrade") == "tbpay db upgrade"

    settings.choose_database("/srv/a b.db")

    assert locate().command("db upgrade") == "tbpay db upgrade --database '/srv/a b.db'"


def test_an_application_chooses_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TBPAY_DATABASE_URL", "/srv/tbpay.db")

    database.configure(f"sqlite:///{tmp_path}/chosen.db")
    chosen = database.location()
    database.reset()

    assert chosen == File(tmp_path / "chosen.db", "configure()")
    assert database.location().source == "TBPAY_DATABASE_URL"


@pytest.mark.parametrize("given", [None, 7, b"/srv/tbpay.db", Path("/srv/tbpay.db"), ""])
def test_what_is_no_name_configures_nothing(given: object) -> None:
    before = database.location()

    with pytest.raises(InvalidInputError):
        database.configure(given)  # type: ignore[arg-type]
    assert database.location() == before
