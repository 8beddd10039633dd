"""What can befall a SQLite file: a command says so in one line, and nothing is changed."""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from databases import Database
from faults import CREDIT, SHOW, become, check_refused, command
from probes import another, dump, limited, not_run, rows, run, together, unprivileged
from webapp import make_with_four

from tbpay.cli.exits import Exit
from tbpay.stores import balance_store

T = TypeVar("T")

CHECK, UPGRADE = "db check", "db upgrade"
DOWNGRADE = "db downgrade 0003 --confirm 0003"
PAGE = 4_096


@pytest.fixture(params=["wal", "delete"])
def mode(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def dialect() -> str:
    return "sqlite"


@pytest.fixture
def file(shop: Database, mode: str) -> Path:
    """A shop in a file that keeps its journal so; nothing of it stands in a log beside it."""
    run(shop, f"PRAGMA journal_mode={mode}")
    return Path(shop.url)


def named(file: Path) -> str:
    return f"{file} (TBPAY_DATABASE_URL)"


def beside(file: Path) -> list[str]:
    return sorted(path.name for path in file.parent.iterdir() if path.is_file())


# The file is not what it should be


def cut_off(content: bytes) -> bytes:
    return content[: 5 * PAGE]


def with_another_schema(content: bytes) -> bytes:
    return content[:100] + b"\xff" * (PAGE - 100) + content[PAGE:]


@pytest.mark.parametrize("mode", ["wal"])
@pytest.mark.parametrize(
    ("became", "message"),
    [
        (lambda _: b"Dear Ann,\n", "{} is not a SQLite database"),
        (lambda _: bytes(10_000), "{} is not a SQLite database"),
        (lambda content: content[:16], "{} is not a SQLite database"),
        (cut_off, "{} is damaged: restore a backup"),
        (with_another_schema, "{} is damaged: restore a backup"),
    ],
    ids=["a letter", "zeros", "half a header", "cut off", "another schema"],
)
def test_a_file_that_is_broken_is_said_to_be_by_every_command(
    file: Path, became: Callable[[bytes], bytes], message: str
) -> None:
    content = became(file.read_bytes())
    file.write_bytes(content)

    for words in (SHOW, CREDIT, CHECK, UPGRADE, DOWNGRADE):
        check_refused(command(words), Exit.UNAVAILABLE, message.format(named(file)))

    assert file.read_bytes() == content
    assert beside(file) == [file.name]


def test_a_page_that_is_broken_stops_who_needs_it(file: Path) -> None:
    [(page,)] = rows(file, "SELECT rootpage FROM sqlite_master WHERE name = 'account_balances'")
    content = bytearray(file.read_bytes())
    content[(page - 1) * PAGE : page * PAGE] = b"\xff" * PAGE
    file.write_bytes(content)

    for words in (SHOW, CREDIT, DOWNGRADE):
        message = f"{named(file)} is damaged: restore a backup"
        check_refused(command(words), Exit.UNAVAILABLE, message)

    assert command("order list").code == Exit.DONE
    assert file.read_bytes() == content


@pytest.mark.parametrize("mode", ["wal"])
def test_a_directory_is_no_file(file: Path) -> None:
    file.unlink()
    file.mkdir()

    for words in (SHOW, CREDIT, CHECK, UPGRADE, DOWNGRADE):
        check_refused(command(words), Exit.UNAVAILABLE, f"{named(file)} cannot be opened")

    assert list(file.iterdir()) == []


@pytest.mark.parametrize("mode", ["wal"])
@pytest.mark.parametrize("is_there", [True, False], ids=["empty", "missing"])
def test_an_upgrade_alone_makes_a_database(file: Path, is_there: bool) -> None:
    file.unlink()
    if is_there:
        file.touch()

    for words in (SHOW, CREDIT, CHECK):
        message = f"no tbpay tables in {named(file)}"
        check_refused(command(words), Exit.SCHEMA, message, "tbpay db upgrade")

    assert beside(file) == [file.name] * is_there
    assert not is_there or file.stat().st_size == 0
    assert command(UPGRADE).code == command(CHECK).code == Exit.DONE


# The file or its directory may not be written


def test_a_file_that_may_only_be_read_is_read(file: Path) -> None:
    before = dump(file)
    file.chmod(0o444)

    for words in (CREDIT, DOWNGRADE):
        refused = unprivileged(lambda: become(words))  # noqa: B023 - done at once
        check_refused(refused, Exit.UNAVAILABLE, f"{named(file)} is read-only")

    assert unprivileged(lambda: become(SHOW)).code == Exit.DONE
    assert dump(file) == before


def test_a_directory_that_may_only_be_read_keeps_writers_out(file: Path, mode: str) -> None:
    before = dump(file)
    with permissions(file.parent, 0o555):
        refused = unprivileged(lambda: become(CREDIT))
        shown = unprivileged(lambda: become(SHOW))
        downgraded = unprivileged(lambda: become(DOWNGRADE))

    check_refused(refused, Exit.UNAVAILABLE, f"{named(file)} is read-only")
    if mode == "wal":  # in which a reader writes too
        check_refused(shown, Exit.UNAVAILABLE, f"{named(file)} is read-only")
        check_refused(downgraded, Exit.UNAVAILABLE, f"{named(file)} is read-only")
    else:
        assert shown.code == Exit.DONE
        message = f"no backup can be made beside {named(file)}: Permission denied"
        check_refused(downgraded, Exit.UNAVAILABLE, message)
    assert dump(file) == before


@pytest.mark.parametrize("mode", ["wal"])
def test_what_is_closed_to_us_cannot_be_opened(file: Path) -> None:
    before = dump(file)
    for closed in (file, file.parent):
        with permissions(closed, 0o000):
            for words in (SHOW, CREDIT, CHECK):
                refused = unprivileged(lambda: become(words))  # noqa: B023 - done at once
                check_refused(refused, Exit.UNAVAILABLE, f"{named(file)} cannot be opened")
    assert dump(file) == before


@pytest.mark.parametrize("mode", ["delete"])
def test_a_disk_that_may_only_be_read_is_read(file: Path, small_disk: Path) -> None:
    shutil.copy(file, small_disk / file.name)
    before = dump(file)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    here = f"--database {small_disk / file.name}"

    assert command(f"{SHOW} {here}").code == Exit.DONE
    message = f"{small_disk / file.name} (--database) is read-only"
    check_refused(command(f"{CREDIT} {here}"), Exit.UNAVAILABLE, message)
    assert dump(small_disk / file.name) == before


@contextmanager
def permissions(path: Path, mode: int) -> Iterator[None]:
    before = stat.S_IMODE(path.stat().st_mode)
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        not_run("tmpfs", "only root can mount one, and not everywhere")
    yield folder
    subprocess.run(["umount", folder], check=True)


# Somebody else holds it


@pytest.mark.usefixtures("hurried")
def test_a_file_that_somebody_else_writes_to_is_busy(file: Path) -> None:
    before = dump(file)
    with another(file) as writer:
        writer.execute("BEGIN IMMEDIATE")
        for words in (CREDIT, DOWNGRADE):
            message = f"{named(file)} is busy: another process keeps it locked"
            check_refused(command(words), Exit.UNAVAILABLE, message)
        assert command(SHOW).code == Exit.DONE
    assert dump(file) == before


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("mode", ["delete"])
def test_a_file_that_somebody_else_has_for_himself_is_busy_for_readers_too(file: Path) -> None:
    with another(file) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        for words in (SHOW, CREDIT, CHECK, DOWNGRADE):
            message = f"{named(file)} is busy: another process keeps it locked"
            check_refused(command(words), Exit.UNAVAILABLE, message)


# The disk is full


@pytest.mark.parametrize(
    ("words", "step"), [(CREDIT, 2 * PAGE), (DOWNGRADE, 6 * PAGE)], ids=["credit", "downgrade"]
)
def test_a_disk_that_is_full_at_any_write_leaves_the_ledger_as_it_was(
    file: Path, words: str, step: int
) -> None:
    before = dump(file)
    for room in range(0, 2**20, step):
        end = limited(lambda: become(words), room)
        if end.code == Exit.DONE:
            break
        message = f"the disk of {named(file)} is full or failing"
        check_refused(end, Exit.UNAVAILABLE, message)
        assert dump(file) == before
        assert beside(file) == [file.name]

    assert room > 2 * step
    assert end.code == Exit.DONE
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]
    assert command(UPGRADE).code == Exit.DONE
    assert command("ledger verify").code == Exit.DONE


def test_a_disk_without_room_refuses_and_goes_on_when_there_is_room(
    file: Path, mode: str, small_disk: Path
) -> None:
    there = small_disk / file.name
    before = dump(file)
    shutil.copy(file, there)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    here = f"--database {there}"
    message = f"the disk of {there} (--database) is full or failing"

    check_refused(command(f"{CREDIT} {here}"), Exit.UNAVAILABLE, message)
    shown = command(f"{SHOW} {here}")
    if mode == "wal":  # in which a reader writes too
        check_refused(shown, Exit.UNAVAILABLE, message)
    else:
        assert shown.code == Exit.DONE

    filler.unlink()
    assert dump(there) == before
    assert command(f"{CREDIT} {here}").code == Exit.DONE


# Somebody else works on it too


# With a shop all is loaded that a user who cannot read this Python's folder has to have.
@pytest.mark.usefixtures("shop")
def test_a_file_that_was_taken_over_stays_whose_it_is_and_usable_by_both(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        not_run("another user", "only root can become one")
    # Anybody may look into it, other than into the folder of a test.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = make_with_four(folder / "app.db", wal=mode == "wal")
        os.chown(folder, APPLICATION, BOTH)
        os.chown(file, APPLICATION, BOTH)
        folder.chmod(0o2770)
        file.chmod(0o660)
        monkeypatch.setenv("TBPAY_DATABASE_URL", str(file))

        assert together(lambda _: as_user(OPERATOR, lambda: become(UPGRADE)), 1)[0].code == 0
        spent = together(lambda number: as_user((APPLICATION, OPERATOR)[number], spend), 2)
        with another(file) as root:
            # Who connects first makes the files beside it, and root may make any.
            root.execute("SELECT count(*) FROM accounts").fetchall()
            spent += together(lambda _: as_user(APPLICATION, spend), 1)

            of_the_application = {file, *folder.glob("app.db-*")}
            assert {owned(path) for path in of_the_application} == {(APPLICATION, BOTH, 0o660)}
        assert spent == [20] * 3
        assert owned(*folder.glob("app.db.backup-*")) == (OPERATOR, BOTH, 0o600)


# Nobody on this machine, but users all the same.
APPLICATION, OPERATOR, BOTH = 54_321, 54_322, 54_320


def as_user(user: int, work: Callable[[], T]) -> T:
    """Do the work as somebody who has nothing but a group; there is no way back."""
    os.setgroups([])
    os.setgid(BOTH)
    os.setuid(user)
    os.umask(0o077)
    return work()


def spend() -> int:
    lines = [balance_store.deduct(1, 1, "one") for _ in range(20)]
    return len(lines)


def owned(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)
