"""The database file: made private, never by accident; copied before a migration touches it."""

import os
import resource
import shutil
import signal
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from probes import another, dump, limited, refusal_of, rows, unprivileged
from webapp import FEW_ACCOUNTS, make, make_with_four

from tbpay import database, migrations
from tbpay.errors import Code, UnavailableError
from tbpay.migrations import HEAD


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database.configure(str(tmp_path / "tbpay.db"))
    return tmp_path / "tbpay.db"


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


# making it


@pytest.mark.usefixtures("open_umask")
def test_a_new_file_is_private_and_in_wal_mode(path: Path) -> None:
    migrations.upgrade()

    with database.snapshot():
        beside = {found.name: _mode(found) for found in path.parent.iterdir()}

    assert beside == {"tbpay.db": 0o600, "tbpay.db-wal": 0o600, "tbpay.db-shm": 0o600}
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.usefixtures("open_umask")
def test_the_default_directory_is_made_and_private() -> None:
    migrations.upgrade()

    folder = Path(os.environ["XDG_DATA_HOME"]) / "tbpay"
    assert _mode(folder) == 0o700
    assert _mode(folder / "tbpay.db") == 0o600


def test_a_directory_that_somebody_named_is_not_made(tmp_path: Path) -> None:
    database.configure(str(tmp_path / "misspelt" / "tbpay.db"))

    with pytest.raises(UnavailableError, match=f"no directory {tmp_path}/misspelt") as refused:
        migrations.upgrade()

    assert refused.value.code is Code.UNREACHABLE
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    database.configure(str(tmp_path))

    with pytest.raises(UnavailableError) as refused:
        migrations.upgrade()

    assert refused.value.code is Code.UNREACHABLE
    assert str(tmp_path) in refused.value.message


def test_an_empty_file_becomes_a_database_and_keeps_its_mode(path: Path) -> None:
    path.touch(0o640)

    done = migrations.upgrade()

    assert (done.revision, done.backup) == (HEAD, None)
    assert migrations.check() == []
    assert _mode(path) == 0o640


@pytest.mark.parametrize(
    "text", [b"Dear all,\n", b"x" * 100_000, b"SQLite format 3\0", b"\0" * 512]
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, text: bytes) -> None:
    path.write_bytes(text)

    with pytest.raises(UnavailableError) as refused:
        migrations.upgrade()

    assert refused.value.code in (Code.NOT_A_DATABASE, Code.CORRUPT)
    assert path.read_bytes() == text
    assert list(path.parent.iterdir()) == [path]


def test_a_link_leads_to_the_database_and_a_broken_one_nowhere(path: Path) -> None:
    target = make(path.with_name("real.db"), *FEW_ACCOUNTS)
    path.symlink_to(target)
    migrations.upgrade()
    database.configure(str(path.with_name("broken.db")))
    path.with_name("broken.db").symlink_to(path.with_name("gone.db"))

    with pytest.raises(UnavailableError, match="a link to a file that is not there"):
        migrations.upgrade()

    assert path.is_symlink()
    assert rows(target, "SELECT version_num FROM tbpay_alembic_version") == [(HEAD,)]
    assert not path.with_name("gone.db").exists()


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    database.configure(str(tmp_path / ("x" * 300)))

    with pytest.raises(UnavailableError, match="too long"):
        migrations.upgrade()

    assert migrations.status().size_bytes is None


@pytest.mark.parametrize(
    "name",
    ["100%.db", "50%20off.db", "what?.db", "a#b.db", "my file.db", "žluťoučký 🐎.db", "'\";.db"],
)
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = make_with_four(tmp_path / name)
    database.configure(str(path))

    done = migrations.upgrade()

    assert done.database == str(path)
    assert Path(str(done.backup)).name.startswith(f"{name}.backup-")
    assert dump(Path(str(done.backup))) == dump(make_with_four(tmp_path / "same.db"))
    assert migrations.check() == []
    assert migrations.script("base", down=True)


@pytest.mark.parametrize("name", ["100%.db", "50%20off.db", "a#b.db", "my file.db", "žluťoučký.db"])
def test_a_url_may_name_it_too(tmp_path: Path, name: str) -> None:
    database.configure(f"sqlite:///{tmp_path}/{name}")

    migrations.upgrade()

    assert (tmp_path / name).exists()


@pytest.mark.parametrize("wal", [False, True], ids=["rollback", "wal"])
def test_a_file_that_may_only_be_read_is_refused(path: Path, wal: bool) -> None:
    make_with_four(path, wal=wal)
    path.chmod(0o444)
    before = path.read_bytes()

    refusal = unprivileged(lambda: refusal_of(migrations.upgrade))

    assert refusal == ("UnavailableError", Code.READ_ONLY)
    assert path.read_bytes() == before


def test_a_directory_that_is_closed_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "inner").mkdir(parents=True)
    database.configure(str(make_with_four(closed / "inner" / "tbpay.db")))
    closed.chmod(0o000)

    refusal = unprivileged(lambda: refusal_of(migrations.upgrade))
    size_bytes = unprivileged(lambda: migrations.status().size_bytes)
    closed.chmod(0o700)

    assert refusal == ("UnavailableError", Code.UNREACHABLE)
    assert size_bytes is None


# the copy before a migration


@pytest.mark.parametrize("wal", [False, True], ids=["rollback", "wal"])
@pytest.mark.usefixtures("open_umask")
def test_a_file_with_rows_is_copied_first_whole_and_private(path: Path, wal: bool) -> None:
    make_with_four(path, wal=wal)
    before = dump(path)

    done = migrations.upgrade()

    backup = Path(str(done.backup))
    assert list(path.parent.glob("tbpay.db.backup-*")) == [backup]
    assert _mode(backup) == 0o600
    assert dump(backup) == before
    assert rows(backup, "PRAGMA integrity_check") == [("ok",)]


def test_what_stands_in_the_log_alone_is_in_the_copy_too(path: Path) -> None:
    make(path, *FEW_ACCOUNTS, wal=True)
    with closing(sqlite3.connect(path)) as web_application:
        web_application.execute("INSERT INTO accounts (id) VALUES (3)")
        web_application.commit()
        shutil.copy(path, path.with_name("without-log.db"))

        backup = migrations.upgrade().backup

    assert rows(path.with_name("without-log.db"), "SELECT max(id) FROM accounts") == [(2,)]
    assert rows(Path(str(backup)), "SELECT max(id) FROM accounts") == [(3,)]


def test_a_copy_is_made_before_a_way_down_too(path: Path) -> None:
    make(path, *FEW_ACCOUNTS)
    first = migrations.upgrade().backup

    second = migrations.downgrade("0002", confirmed=None).backup

    assert None not in (first, second)
    assert first != second
    assert rows(Path(str(second)), "SELECT version_num FROM tbpay_alembic_version") == [(HEAD,)]


def test_a_file_without_rows_is_not_copied(path: Path) -> None:
    make(path, FEW_ACCOUNTS[0])

    assert migrations.upgrade().backup is None
    assert migrations.downgrade("base", confirmed=None).backup is None


def test_the_newest_five_copies_are_kept_and_nothing_else_is_touched(path: Path) -> None:
    make(path, *FEW_ACCOUNTS)
    foreign = [
        path.with_name(name)
        for name in (
            "tbpay.db.backup-before-release-Z",
            "tbpay.db.backup-20200101T000000.000000Z.backup-20200101T000000.000000Z",
            "other.db.backup-20200101T000000.000000Z",
            "tbpayxdb.backup-20200101T000000.000000Z",
        )
    ]
    for name in foreign:
        name.touch()

    made = []
    for _ in range(4):
        made.append(migrations.upgrade().backup)
        made.append(migrations.downgrade("base", confirmed=None).backup)

    left = {str(found) for found in path.parent.glob("*.backup-*")}
    assert left == {*map(str, made[-5:]), *map(str, foreign)}


def test_a_link_at_the_copys_name_is_not_followed(path: Path) -> None:
    make(path, *FEW_ACCOUNTS)
    victim = path.with_name("victim")
    victim.write_text("precious")
    path.with_name("tbpay.db.backup-unfinished").symlink_to(victim)

    done = migrations.upgrade()

    assert victim.read_text() == "precious"
    assert not Path(str(done.backup)).is_symlink()
    assert not path.with_name("tbpay.db.backup-unfinished").is_symlink()


def test_without_room_for_a_copy_nothing_is_begun(path: Path) -> None:
    make(path, *FEW_ACCOUNTS)
    # A file with a hole in it takes no room, and a copy of it might.
    os.truncate(path, shutil.disk_usage(path.parent).free + 2**30)
    head = _head(path)

    with pytest.raises(UnavailableError, match="no room for a backup beside") as refused:
        migrations.upgrade()

    assert refused.value.code is Code.DISK_FULL
    assert _head(path) == head
    assert list(path.parent.iterdir()) == [path]


def test_the_log_needs_room_too(path: Path) -> None:
    make(path, *FEW_ACCOUNTS, wal=True)
    log = path.with_name("tbpay.db-wal")
    with another(path) as web_application:
        web_application.execute("INSERT INTO accounts (id) VALUES (3)")
        # A log keeps its size when what stood in it has gone into the file.
        os.truncate(log, shutil.disk_usage(path.parent).free + 2**30)
        before = dump(path)

        with pytest.raises(UnavailableError, match="no room for a backup beside") as refused:
            migrations.upgrade()

        assert refused.value.code is Code.DISK_FULL
        assert dump(path) == before
        assert not list(path.parent.glob("*.backup-*"))


def test_a_copy_that_fails_half_way_leaves_nothing(path: Path) -> None:
    make_with_four(path)
    before = path.read_bytes()

    refusal = limited(lambda: refusal_of(migrations.upgrade), len(before) // 2)

    assert refusal == ("UnavailableError", Code.DISK_FULL)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_copy_that_was_killed_half_way_does_not_pass_for_one(path: Path) -> None:
    make_with_four(path)

    with pytest.raises(ChildProcessError, match=f"^-{signal.SIGXFSZ:d}$"):
        limited(_mortally, path.stat().st_size // 2)
    left = {found.name for found in path.parent.iterdir()}
    done = migrations.upgrade()

    assert {"tbpay.db", "tbpay.db.backup-unfinished"} <= left
    assert not any(name.endswith("Z") for name in left)
    assert {found.name for found in path.parent.glob("*.backup-*")} == {Path(str(done.backup)).name}


def test_a_migration_that_fills_the_disk_changes_nothing(path: Path) -> None:
    make_with_four(path)
    before = dump(path)

    # Room for the copy, not for what the migration writes.
    refusal = limited(lambda: refusal_of(migrations.upgrade), path.stat().st_size + 8_192)

    assert refusal == ("UnavailableError", Code.DISK_FULL)
    assert dump(path) == before
    assert list(path.parent.iterdir()) == [path]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(65_536)


def _mortally() -> None:
    """Upgrade in a process that a full disk kills, without a core."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    migrations.upgrade()
